// Removes the compiled tree, so that no file of a deleted source is ever run.
import { rmSync } from 'node:fs';

rmSync(new URL('../dist', import.meta.url), { recursive: true, force: true });
