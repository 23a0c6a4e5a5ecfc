/**
 * The table of the lock selftests, in the layout in which a Linux prints it at boot.
 *
 * Cells say `  ok  ` where lockdep reported what it must, and nothing where it must not; `FAILED` else. Rows about
 * what there is not (rtmutexes, wound/wait mutexes, per-CPU locks) are left out, and so is the column of rtmutexes.
 *
 * @module
 */
import { orderCase, type SelftestCell } from './cases.js';

const COLUMNS = ['spin', 'wlock', 'rlock', 'mutex', 'wsem', 'rsem'] as const;
const PERMUTATIONS_2 = ['12', '21'];
const PERMUTATIONS_3 = ['123', '132', '213', '231', '312', '321'];
const IRQS = ['hard', 'soft'];
const RULE = `  ${'-'.repeat(74)}`;
const NAME_WIDTH = 33;

/** A row: its name, and for each place in it a column of cases; null where the kernel leaves one free. */
interface Row {
  readonly name: string;
  readonly places: readonly (string | null)[];
  /** How wide the free places before the first case are, where they are not cells. */
  readonly indent?: number;
}

const ALL: Row['places'] = COLUMNS;
const SPINNING = ['spin', 'wlock', 'rlock'];
const RWLOCKS = [null, 'wlock', 'rlock'];
const SINGLE = [''];

const row = (name: string, places: Row['places'], indent?: number): Row => ({
  name,
  places,
  ...(indent !== undefined && { indent }),
});

/** Two places that are left free have no line between them. */
const PAIR = 13;
const readers = (name: string): Row => row(name, ['rlock', 'rsem'], PAIR);
const rlock = (name: string): Row => row(name, ['rlock'], PAIR);

/** The rows, and the lines between them. */
function rows(): readonly (Row | string)[] {
  const orders = (name: string, digits: readonly string[]): string[] =>
    digits.map((order) => `${name}/${order}`);
  const irqs = (name: string, digits: readonly string[], places: Row['places']): Row[] =>
    digits.flatMap((order) => IRQS.map((irq) => row(`${irq}${name}/${order}`, places)));
  return [
    ...PLAIN_ROWS.map((name) => row(name, ALL)),
    RULE,
    ...READER_ROWS.map(readers),
    rlock('chain cached mixed R-L/L-W ABBA'),
    ...READER_CHAINS.flatMap((name) => orders(`rlock ${name}`, PERMUTATIONS_3)).map(rlock),
    RULE,
    ...irqs('-irqs-on + irq-safe-A', PERMUTATIONS_2, SPINNING),
    ...orders('sirq-safe-A => hirqs-on', PERMUTATIONS_2).map((name) => row(name, SPINNING)),
    ...irqs('-safe-A + irqs-on', PERMUTATIONS_2, SPINNING),
    ...irqs('-safe-A + unsafe-B #1', PERMUTATIONS_3, SPINNING),
    ...irqs('-safe-A + unsafe-B #2', PERMUTATIONS_3, SPINNING),
    ...irqs('-irq lock-inversion', PERMUTATIONS_3, SPINNING),
    ...irqs('-irq read-recursion', PERMUTATIONS_3, RWLOCKS),
    ...irqs('-irq read-recursion #2', PERMUTATIONS_3, RWLOCKS),
    ...irqs('-irq read-recursion #3', PERMUTATIONS_3, RWLOCKS),
    RULE,
    '  | queued read lock tests |',
    '  ---------------------------',
    ...QUEUED_ROWS.map((name) => row(name, SINGLE)),
    '  --------------------',
    '  | fs_reclaim tests |',
    '  --------------------',
    ...RECLAIM_ROWS.map((name) => row(name, SINGLE)),
    RULE,
    row('hardirq_unsafe_softirq_safe', SINGLE),
  ];
}

const PLAIN_ROWS = [
  'A-A deadlock',
  'A-B-B-A deadlock',
  'A-B-B-C-C-A deadlock',
  'A-B-C-A-B-C deadlock',
  'A-B-B-C-C-D-D-A deadlock',
  'A-B-C-D-B-D-D-A deadlock',
  'A-B-C-D-B-C-D-A deadlock',
  'double unlock',
  'initialize held',
];
const READER_ROWS = [
  'recursive read-lock',
  'recursive read-lock #2',
  'mixed read-write-lock',
  'mixed write-read-lock',
  'mixed read-lock/lock-write ABBA',
  'mixed read-lock/lock-read ABBA',
  'mixed write-lock/lock-write ABBA',
];
const READER_CHAINS = ['W1R2/W2R3/W3R1', 'W1W2/R2R3/W3R1', 'W1W2/R2R3/R3W1', 'W1R2/R2R3/W3W1'];
const QUEUED_ROWS = [
  'hardirq read-lock/lock-read',
  'hardirq lock-read/read-lock',
  'hardirq inversion',
];
const RECLAIM_ROWS = ['correct nesting', 'wrong nesting', 'protected nesting'];

/** The cells there are, in the order of the table. */
export function selftestCells(): SelftestCell[] {
  return rows().flatMap((line) => {
    if (typeof line === 'string') return [];
    return line.places.flatMap((column): SelftestCell[] =>
      column !== null && orderCase(line.name, column) !== undefined ? [[line.name, column]] : [],
    );
  });
}

/** The table, and how many of its cases have gone as they must. */
export interface SelftestTable {
  readonly text: string;
  readonly passed: number;
  readonly cases: number;
}

/** Draws the table. `seen` has what was seen of each cell, in their order. */
export function selftestTable(seen: readonly (readonly string[])[]): SelftestTable {
  const head = `${' '.repeat(NAME_WIDTH)}| spin |wlock |rlock |mutex | wsem | rsem |`;
  const results = seen.values();
  let passed = 0;
  let cases = 0;
  const cell = (name: string, column: string | null): string => {
    const known = column === null ? undefined : orderCase(name, column);
    if (known === undefined) return '      |';
    const reports = results.next().value ?? [];
    const isRight = reports.length > 0 === known.reported;
    cases++;
    if (isRight) passed++;
    return isRight ? '  ok  |' : 'FAILED|';
  };
  const lines = rows().map((line) => {
    if (typeof line === 'string') return line;
    const free = line.indent === undefined ? '' : `${' '.repeat(line.indent)}|`;
    const cells = line.places.map((column) => cell(line.name, column));
    const shown =
      line.indent === undefined ? cells : cells.map((text, i) => (i === 0 ? text : free + text));
    return `${line.name.padStart(NAME_WIDTH)}:${free}${shown.join('')}`.trimEnd();
  });
  const verdict =
    passed === cases
      ? `Good, all ${cases} testcases passed! |`
      : `BUG: ${cases - passed} unexpected failures (out of ${cases}) - debugging disabled! |`;
  const ruler = '-'.repeat(76);
  const text = [
    ruler,
    '| Locking API testsuite:',
    ruler,
    head,
    RULE,
    ...lines,
    '-'.repeat(55),
    verdict,
  ];
  return { text: text.join('\n'), passed, cases };
}
