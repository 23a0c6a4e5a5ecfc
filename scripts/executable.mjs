// Makes the command executable, as npm does only when it links it: npx runs it where it is.
import { chmodSync, readFileSync } from 'node:fs';

const root = new URL('../', import.meta.url);
const { bin } = JSON.parse(readFileSync(new URL('package.json', root), 'utf8'));

for (const file of Object.values(bin)) chmodSync(new URL(file, root), 0o755);
