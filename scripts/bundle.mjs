// Bundles the kernel layers, and the rest of the public API, for each build.
//
// V8 folds a constant, or inlines a call of a known function, only where the binding is a constant of the
// module it is used in: an import, an export and a function declaration (which may be assigned to) are read
// anew at every use. So the kernel layers are in one module, functions become constants, and what is exported is
// a second name. Struct offsets and the accessors of #memory are then part of the code, and the kernel paths
// take half the time. What only explorations and litmus tests need is in files beside it, which workers of crews
// do not load; the turnstile build, which is for explorations, is one file.
//
// Each bundle resolves #memory, #debug and #mutants as package.json says for its condition, so that it is what
// `node --conditions=…` would have loaded module by module.
import { readFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { fileURLToPath } from 'node:url';

import MagicString from 'magic-string';
import { Piscina } from 'piscina';
import { rollup } from '@rollup/wasm-node';

const root = new URL('../', import.meta.url);
const { imports } = JSON.parse(readFileSync(new URL('package.json', root), 'utf8'));

/**
 * Layers whose modules are in one file with what they are called by, whether a crew's worker needs them or not. The
 * graph of lock orders is not: in the parallel build only the selftests of it have it.
 */
const KERNEL_LAYERS =
  /dist\/src\/(?:base|memory|machine|debug(?!\/lockdep)|sync|deferred|notifier|mm|hmm|device|memremap|process|protocols|drivers)\//;
const EXPLORE_LAYERS = /dist\/src\/(?:explore|litmus)\//;

/** Says to which file a module goes with all it imports; none: where it is needed. */
function chunks() {
  let ofKernel;
  let ofTorture;
  return (id, { getModuleInfo }) => {
    ofKernel ??= withImports(compiled('kernel'), getModuleInfo);
    if (KERNEL_LAYERS.test(id) || ofKernel.has(id)) return 'kernel';
    if (EXPLORE_LAYERS.test(id)) return 'explore';
    ofTorture ??= withImports(compiled('torture/member'), getModuleInfo);
    return ofTorture.has(id) ? 'torture' : undefined;
  };
}

/** The module, and those that it imports at once, over however many others. */
function withImports(module, getModuleInfo) {
  const reached = new Set([module]);
  for (const at of reached) {
    for (const imported of getModuleInfo(at)?.importedIds ?? []) reached.add(imported);
  }
  return reached;
}

/** The compiled file of that name. */
const compiled = (name) => fileURLToPath(new URL(`dist/src/${name}.js`, root));

/** Resolves `#memory`, `#debug` and `#mutants`. */
export function resolveImports(condition) {
  return {
    name: 'package-imports',
    resolveId(specifier) {
      const target = imports[specifier];
      if (target === undefined) return null;
      return fileURLToPath(new URL(target[condition] ?? target.default, root));
    },
  };
}

/** Makes every function and class of the module a constant, and exports second names only. */
export function constantBindings() {
  return {
    name: 'constant-bindings',
    renderChunk(code) {
      const { body } = this.parse(code);
      const text = new MagicString(code);
      const firstStatement = body.find((node) => node.type !== 'ImportDeclaration');
      for (const node of body) {
        if (node.type === 'FunctionDeclaration') makeFunctionConstant(text, code, node);
        if (node.type === 'ClassDeclaration') makeClassConstant(text, node);
        if (node.type === 'ExportNamedDeclaration') exportSecondNames(text, node);
        // a function may be used above its declaration: all come first, as they did by hoisting
        if (node.type === 'FunctionDeclaration' && node !== firstStatement) {
          text.move(node.start, node.end, firstStatement.start);
        }
      }
      return { code: text.toString(), map: text.generateMap({ hires: 'boundary' }) };
    },
  };
}

function makeFunctionConstant(text, code, node) {
  const keyword = code.slice(node.start, node.id.start); // function, async function, function*
  text.overwrite(node.start, node.id.end, `const ${node.id.name} = ${keyword.trimEnd()} `);
  text.appendLeft(node.end, ';\n');
}

function makeClassConstant(text, node) {
  text.appendRight(node.start, `const ${node.id.name} = `);
  text.appendLeft(node.end, ';');
}

function exportSecondNames(text, node) {
  if (node.source !== null || node.specifiers.length === 0) return;
  const names = node.specifiers.map(({ local, exported }) => [local.name, exported.name]);
  const constants = names.map(([local, name]) => `const ${name}$exported = ${local};`);
  const list = names.map(([, name]) => `${name}$exported as ${name}`);
  text.overwrite(node.start, node.end, `${constants.join('\n')}\nexport { ${list.join(', ')} };`);
}

/** Bundles `input`, a file or several by their names, as a build has it; into one file if there is one. */
export async function bundle(input, condition, output, plugins = []) {
  const built = await rollup({
    input,
    external: (id) => !id.startsWith('.') && !id.startsWith('/') && !(id in imports),
    plugins: [resolveImports(condition), ...plugins, constantBindings()],
    treeshake: { moduleSideEffects: true },
    preserveEntrySignatures: 'allow-extension',
    onwarn: (warning) => {
      throw new Error(`bundling for ${condition}: ${warning.message}`);
    },
  });
  await built.write({
    ...output,
    format: 'es',
    sourcemap: true,
    minifyInternalExports: false,
    generatedCode: { constBindings: true },
  });
  await built.close();
}

/** Rewrites the whole module for the virtual engine; every line stays where it is. */
async function virtualTasks() {
  const { rewrite } = await import('../dist/src/explore/rewrite.js');
  const { primitivesOfBundle } = await import('../dist/src/explore/rewrite-primitives.js');
  return {
    name: 'virtual-tasks',
    renderChunk(code) {
      const { code: rewritten } = rewrite(code, { primitives: primitivesOfBundle(code) });
      const lines = code.split('\n').length;
      if (rewritten.split('\n').length !== lines) throw new Error('rewriting has moved lines');
      return { code: rewritten, map: sameLines(lines) };
    },
  };
}

/** A source map from each line to itself. */
function sameLines(lines) {
  return {
    version: 3,
    sources: ['chunk'],
    names: [],
    mappings: `AAAA${';AACA'.repeat(lines - 1)}`,
  };
}

function oneFile(name) {
  return { file: fileURLToPath(new URL(`dist/${name}`, root)), inlineDynamicImports: true };
}

/** The kernel layers in a file of their own. */
function twoEntries(suffix) {
  return {
    dir: fileURLToPath(new URL('dist', root)),
    entryFileNames: `[name]${suffix}.js`,
    chunkFileNames: `[name]${suffix}.js`,
    manualChunks: chunks(),
  };
}

const ENTRIES = { kernel: compiled('kernel'), faultline: compiled('faultline') };
const TURNSTILE = 'faultline-turnstile';

/** What makes the files of each build, and those for the virtual engine. */
const BUNDLES = {
  parallel: () => bundle(ENTRIES, 'default', twoEntries('')),
  checked: () => bundle(ENTRIES, 'faultline-checked', twoEntries('.checked')),
  turnstile: () => bundle(ENTRIES.faultline, TURNSTILE, oneFile('faultline.turnstile.js')),
  virtual: async () => {
    const plugins = [await virtualTasks()];
    await bundle(compiled('virtual'), TURNSTILE, oneFile('faultline.virtual.js'), plugins);
  },
};

/** Writes one of them; what a worker of the pool runs. */
export default function writeBundle(name) {
  return BUNDLES[name]();
}

/** Writes the bundles of the compiled kernel layers into dist, on all cores. */
export async function bundleKernels() {
  const pool = new Piscina({ filename: import.meta.url, maxThreads: availableParallelism() });
  await Promise.all(Object.keys(BUNDLES).map((name) => pool.run(name)));
  await pool.destroy();
}
