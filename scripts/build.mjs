// Compiles and bundles everything into dist, afresh, so that no file of a deleted source is ever run.
//
// With --if-changed only if what dist was built from has changed since. npm runs that when it installs the
// package and when npx first runs the command in a clone, which has just been built: nobody waits for the
// same build twice, and dist is not taken from under a command that runs.
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  chmodSync,
  existsSync,
  readFileSync,
  readdirSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';

const root = new URL('../', import.meta.url);
const dist = new URL('dist/', root);
const stamp = new URL('built-from', dist);

/** The folders and files that the build reads; the lock file stands for what is installed. */
const INPUTS = [
  'src',
  'test',
  'bench',
  'scripts',
  'package.json',
  'package-lock.json',
  'tsconfig.json',
];

/** Names from the root, in one order. */
function filesOf(name) {
  const at = new URL(name, root);
  if (statSync(at).isFile()) return [name];
  const entries = readdirSync(at, { recursive: true }).map((entry) => `${name}/${entry}`);
  return entries.filter((entry) => statSync(new URL(entry, root)).isFile()).sort();
}

function digestOfInputs() {
  const hash = createHash('sha256').update(process.version);
  for (const file of INPUTS.flatMap(filesOf)) {
    hash.update(`\0${file}\0`).update(readFileSync(new URL(file, root)));
  }
  return hash.digest('hex');
}

function compile() {
  const compiler = createRequire(import.meta.url).resolve('typescript/bin/tsc');
  const project = fileURLToPath(new URL('tsconfig.json', root));
  const { status } = spawnSync(process.execPath, [compiler, '-p', project], { stdio: 'inherit' });
  if (status !== 0) process.exit(status ?? 1);
}

/** npm does that only to a command that it links, and npx runs it where it is. */
function makeExecutable() {
  const { bin } = JSON.parse(readFileSync(new URL('package.json', root), 'utf8'));
  for (const file of Object.values(bin)) chmodSync(new URL(file, root), 0o755);
}

const digest = digestOfInputs();
const isBuilt = existsSync(stamp) && readFileSync(stamp, 'utf8') === digest;
if (!isBuilt || !process.argv.includes('--if-changed')) {
  rmSync(dist, { recursive: true, force: true });
  compile();
  const { bundleKernels } = await import('./bundle.mjs');
  await bundleKernels();
  makeExecutable();
  writeFileSync(stamp, digest);
}
