// Bundles the kernel layers, the worker and the public API into one file for each build.
//
// V8 folds a constant, or a call of a known function, only within one module: across modules every use
// of an imported name is a load from a cell. In one file the struct offsets and the accessors of #memory
// become constants and inlined code, which makes the kernel paths about twice as fast.
//
// Each bundle resolves #memory and #debug as package.json says for its condition, so that it is what
// `node --conditions=…` would have loaded module by module.
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

import { rollup } from 'rollup';

const root = new URL('../', import.meta.url);
const { imports } = JSON.parse(readFileSync(new URL('package.json', root), 'utf8'));

/** File name of a bundle: its condition, or none. */
const BUNDLES = { default: 'kernel.js', 'faultline-checked': 'kernel.checked.js', 'faultline-turnstile': 'kernel.turnstile.js' };

function resolveImports(condition) {
  return {
    name: 'package-imports',
    resolveId(specifier) {
      const target = imports[specifier];
      if (target === undefined) return null;
      return fileURLToPath(new URL(target[condition] ?? target.default, root));
    },
  };
}

for (const [condition, file] of Object.entries(BUNDLES)) {
  const bundle = await rollup({
    input: fileURLToPath(new URL('dist/src/kernel.js', root)),
    external: (id) => !id.startsWith('.') && !id.startsWith('/') && !(id in imports),
    plugins: [resolveImports(condition)],
    treeshake: { moduleSideEffects: true },
    onwarn: (warning) => {
      throw new Error(`bundling ${file}: ${warning.message}`);
    },
  });
  await bundle.write({
    file: fileURLToPath(new URL(`dist/${file}`, root)),
    format: 'es',
    sourcemap: true,
  });
  await bundle.close();
}
