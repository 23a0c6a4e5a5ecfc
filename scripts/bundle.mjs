// Bundles the kernel layers, the worker and the public API into one file for each build.
//
// V8 folds a constant, or inlines a call of a known function, only where the binding is a constant of the
// module it is used in: an import, an export and a function declaration (which may be assigned to) are read
// anew at every use. So everything is in one module, functions become constants, and what is exported is a
// second name. Struct offsets and the accessors of #memory are then part of the code, and the kernel paths
// take half the time.
//
// Each bundle resolves #memory, #debug and #mutants as package.json says for its condition, so that it is what
// `node --conditions=…` would have loaded module by module.
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

import MagicString from 'magic-string';
import { rollup } from '@rollup/wasm-node';

const root = new URL('../', import.meta.url);
const { imports } = JSON.parse(readFileSync(new URL('package.json', root), 'utf8'));

/** File name of a bundle: its condition, or none. */
const BUNDLES = {
  default: 'kernel.js',
  'faultline-checked': 'kernel.checked.js',
  'faultline-turnstile': 'kernel.turnstile.js',
};

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

/** Bundles `input` as a build has it. */
export async function bundle(input, condition, file, plugins = []) {
  const built = await rollup({
    input,
    external: (id) => !id.startsWith('.') && !id.startsWith('/') && !(id in imports),
    plugins: [resolveImports(condition), ...plugins, constantBindings()],
    treeshake: { moduleSideEffects: true },
    onwarn: (warning) => {
      throw new Error(`bundling ${file}: ${warning.message}`);
    },
  });
  await built.write({
    file,
    format: 'es',
    sourcemap: true,
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

/** Writes the bundles of the compiled kernel layers into dist. */
export async function bundleKernels() {
  for (const [condition, file] of Object.entries(BUNDLES)) {
    const input = fileURLToPath(new URL('dist/src/kernel.js', root));
    await bundle(input, condition, fileURLToPath(new URL(`dist/${file}`, root)));
  }
  const file = fileURLToPath(new URL('dist/kernel.virtual.js', root));
  const input = fileURLToPath(new URL('dist/src/virtual.js', root));
  await bundle(input, 'faultline-turnstile', file, [await virtualTasks()]);
}
