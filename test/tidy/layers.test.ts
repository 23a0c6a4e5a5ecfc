/**
 * The layer table of ARCHITECTURE.md against the imports of the source.
 *
 * @module
 */
import assert from 'node:assert/strict';
import { readdirSync, readFileSync, statSync } from 'node:fs';
import { dirname, join, relative, resolve } from 'node:path';
import { describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';

const ROOT = fileURLToPath(new URL('../../../', import.meta.url));
const SRC = join(ROOT, 'src');

/** Layers in the order of the table, leftmost first. */
function layersOfArchitecture(): string[] {
  const text = readFileSync(join(ROOT, 'ARCHITECTURE.md'), 'utf8');
  return [...text.matchAll(/^\| `(\w+)` *\|/gm)].map(([, name]) => name ?? '');
}

function sourceFiles(folder: string): string[] {
  return readdirSync(folder).flatMap((name) => {
    const path = join(folder, name);
    if (statSync(path).isDirectory()) return sourceFiles(path);
    return name.endsWith('.ts') ? [path] : [];
  });
}

interface Edge {
  readonly from: string;
  readonly to: string;
}

/** Files of src and the files of src they import. `#memory`, `#debug` and `#mutants` are imports of those layers. */
function edgesOf(file: string): Edge[] {
  const text = readFileSync(file, 'utf8');
  const specifiers = [...text.matchAll(/(?:from|import)\s*\(?\s*'([^']+)'/g)].map(
    ([, name]) => name ?? '',
  );
  return specifiers.flatMap((name) => {
    if (name === '#memory') return [{ from: file, to: join(SRC, 'memory/memory.ts') }];
    if (name === '#debug') return [{ from: file, to: join(SRC, 'debug/hooks.ts') }];
    if (name === '#mutants') return [{ from: file, to: join(SRC, 'base/mutants.ts') }];
    if (!name.startsWith('.')) return [];
    return [{ from: file, to: resolve(dirname(file), name.replace(/\.js$/, '.ts')) }];
  });
}

const layerOf = (file: string): string => relative(SRC, file).split('/')[0] ?? '';

/** An edge is allowed to the same layer, to one on the left, and to a file of layouts. */
function isAllowed({ from, to }: Edge, order: readonly string[]): boolean {
  if (to.endsWith('/types.ts')) return true;
  return order.indexOf(layerOf(to)) <= order.indexOf(layerOf(from));
}

const describeEdge = ({ from, to }: Edge): string =>
  `${relative(SRC, from)} -> ${relative(SRC, to)}`;

describe('the layers of ARCHITECTURE.md', () => {
  const order = layersOfArchitecture();
  const files = sourceFiles(SRC);
  const inLayers = files.filter((file) => dirname(file) !== SRC); // the entries of the package see all
  const edges = inLayers.flatMap(edgesOf);

  test('name every folder of src, and no other', () => {
    const folders = readdirSync(SRC).filter((name) => statSync(join(SRC, name)).isDirectory());
    assert.deepEqual([...order].sort(), folders.sort());
  });

  test('are what the imports go by', () => {
    assert.ok(edges.length > 100, 'the test found the imports');
    assert.deepEqual(edges.filter((edge) => !isAllowed(edge, order)).map(describeEdge), []);
  });

  test('would be seen to be violated', () => {
    const planted = { from: join(SRC, 'sync/mutex.ts'), to: join(SRC, 'mm/fault.ts') };
    assert.equal(isAllowed(planted, order), false);
  });

  // what runs before the library is loaded takes exit codes, which are numbers, from where they are
  test('let the command line reach the library by its name only, so that there is one copy of it', () => {
    const ofCli = edges.filter(({ from }) => layerOf(from) === 'cli').map(({ to }) => to);
    const wrong = ofCli.filter(
      (to) => !['cli', 'report'].includes(layerOf(to)) && !/base\/(?:reason|bug)\.ts$/.test(to),
    );
    assert.deepEqual(wrong, []);
    for (const file of files.filter((file) => layerOf(file) === 'cli')) {
      const text = readFileSync(file, 'utf8');
      const [, names = ''] = /import \{([^}]*)\} from '\.\.\/base\/bug\.js'/.exec(text) ?? [];
      assert.match(names, /^(?:\s*EXIT_[A-Z]+,?)*\s*$/, `${file}: nothing but exit codes`);
    }
    const library = files.find((file) => file.endsWith('cli/program.ts'))!;
    assert.match(readFileSync(library, 'utf8'), /from 'faultline'/);
  });

  test('let files of layouts import layouts only', () => {
    const wrong = edges.filter(({ from, to }) => {
      if (!from.endsWith('/types.ts')) return false;
      return !/(\/types|\/layout|\/h?list|\/tlb|\/seqcount|\/rwsem|\/mutex|\/refcount|\/wait-queue|\/completion|\/interval-tree)\.ts$/.test(
        to,
      );
    });
    assert.deepEqual(wrong.map(describeEdge), []);
  });
});
