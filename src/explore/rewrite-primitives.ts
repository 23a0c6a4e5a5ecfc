/**
 * The operations of #memory that rewritten code asks for its turn before.
 *
 * @module
 */
import { parse } from 'acorn';

import {
  OP_ACQUIRE,
  OP_ALLOC,
  OP_FREE,
  OP_LOCK,
  OP_PARK,
  OP_READ,
  OP_READ_ONCE,
  OP_RELEASE,
  OP_RESUME,
  OP_RMW,
  OP_SPIN,
  OP_UNPARK,
  OP_WRITE,
  OP_WRITE_ONCE,
} from '../memory/turnstile.js';

/** What an operation announces: its kind, and from which arguments its words follow. */
interface Announcement {
  readonly kind: number;
  /** Arguments whose sum is the first word; none: 0. */
  readonly at: readonly number[];
  /** A number of words, or the argument that says how many `unit`s they are. */
  readonly count: number | { readonly argument: number; readonly unit: number };
}

const field = (kind: number, count = 1): Announcement[] => [{ kind, at: [1, 2], count }];
const run = (kind: number, at: number, argument: number, unit: number): Announcement => ({
  kind,
  at: [at],
  count: { argument, unit },
});

/** The operations of memory/memory.turnstile.ts that announce themselves. */
const PRIMITIVES: Readonly<Record<string, readonly Announcement[]>> = {
  read: field(OP_READ),
  write: field(OP_WRITE),
  readAddress: field(OP_READ, 2),
  writeAddress: field(OP_WRITE, 2),
  readOnce: field(OP_READ_ONCE),
  writeOnce: field(OP_WRITE_ONCE),
  loadAcquire: field(OP_ACQUIRE),
  storeRelease: field(OP_RELEASE),
  writeRelease: field(OP_RELEASE),
  fetchAdd: field(OP_RMW),
  fetchOr: field(OP_RMW),
  fetchAnd: field(OP_RMW),
  exchange: field(OP_RMW),
  cmpxchg: field(OP_RMW),
  parkCheck: field(OP_PARK),
  parkResume: field(OP_RESUME),
  unpark: field(OP_UNPARK),
  awaitFree: field(OP_LOCK),
  relax: [{ kind: OP_SPIN, at: [], count: 0 }],
  writeOnceCells: [run(OP_WRITE_ONCE, 1, 3, 2)],
  clearCells: [run(OP_WRITE_ONCE, 1, 2, 2)],
  changeCells: [run(OP_RMW, 1, 2, 2)],
  takeCells: [run(OP_RMW, 2, 3, 2)],
  readOnceCells: [run(OP_READ_ONCE, 2, 3, 2)],
  readOnceCellsWhile: [run(OP_READ_ONCE, 2, 3, 2)],
  fillWords: [run(OP_WRITE, 1, 3, 1)],
  loadRun: [run(OP_READ, 1, 2, 1)],
  storeRun: [run(OP_WRITE, 1, 3, 1)],
  noteFree: [run(OP_FREE, 1, 2, 1)],
  noteAlloc: [run(OP_ALLOC, 1, 2, 1)],
  noteFrame: [run(OP_ALLOC, 1, 2, 1)],
  assertExclusiveWriter: field(OP_READ),
  assertExclusiveAccess: field(OP_WRITE),
};

/** Local names of the operations, from the namespace object that a bundler makes of #memory. */
export function primitivesOfBundle(code: string): Map<string, string> {
  const names = new Map<string, string>();
  const program = parse(code, { ecmaVersion: 'latest', sourceType: 'module' });
  for (const node of program.body) {
    if (node.type !== 'VariableDeclaration') continue;
    for (const { init } of node.declarations) {
      if (init?.type !== 'CallExpression') continue;
      const [object] = init.arguments;
      if (object?.type !== 'ObjectExpression') continue;
      const entries = object.properties.flatMap((property) =>
        property.type === 'Property' &&
        property.key.type === 'Identifier' &&
        property.value.type === 'Identifier'
          ? [[property.key.name, property.value.name] as const]
          : [],
      );
      if (!entries.some(([key]) => key === 'parkCheck')) continue;
      for (const [key, local] of entries) if (key in PRIMITIVES) names.set(local, key);
    }
  }
  if (names.size === 0) throw new Error('the bundle has no namespace of #memory');
  return names;
}

/** A generator function that asks for its turn and makes the operation: for callers that do not know it is one. */
export function wrapperOf(name: string, local: string): string {
  const parameters = Array.from({ length: 8 }, (_, i) => (i === 0 ? 'cpu' : `a${i}`));
  const asks = turnsOf(name, parameters).join(', ');
  return `function* (${parameters.join(', ')}) { ${asks}; return ${local}(${parameters.join(', ')}); }`;
}

/** The expressions that ask for them; each is true, and has yielded, if it is another task's turn. */
export function turnsOf(name: string, args: readonly string[]): string[] {
  return PRIMITIVES[name]!.map(({ kind, at, count }) => {
    const where = at.length === 0 ? '0' : at.map((i) => `(${args[i]!})`).join(' + ');
    const many =
      typeof count === 'number' ? String(count) : `(${args[count.argument]!}) * ${count.unit}`;
    return `$turn(${args[0]!}, ${kind}, ${where}, ${many}) && (yield)`;
  });
}
