/**
 * The table that the locking selftests of a real Linux 6.12 printed, case by case: what is reported there is
 * reported here, and nothing else is.
 *
 * @module
 */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { before, describe, test } from 'node:test';

import { orderCase } from '../../src/torture/selftest/cases.js';
import { runCells } from '../../src/torture/selftest/run.js';
import { selftestCells, selftestTable } from '../../src/torture/selftest/table.js';

const TABLE = new URL('../../../test/data/linux/locking-selftest-6.12.txt', import.meta.url);
const COLUMNS = ['spin', 'wlock', 'rlock', 'mutex', 'wsem', 'rsem', 'rtmutex'];
const CELL = 7;

/** Rows about what there is not. */
const SKIPPED: readonly [rows: RegExp, reason: string][] = [
  [
    /^(ww |finishing ww|locking mismatches|EDEADLK|spinlock nest)/,
    'there are no wound/wait mutexes',
  ],
  [/^(context|try|block|spinlock)$/, 'there are no wound/wait mutexes'],
  [/^local_lock/, 'there are no per-CPU locks'],
];

interface Cell {
  readonly row: string;
  readonly column: string;
}

/** Each cell of the table that says `ok`. */
function cellsOf(text: string): Cell[] {
  return text.split('\n').flatMap((line) => {
    const [, row = '', cells = ''] =
      /^ *([^:|]+?(?::[^:|]*)?): *?((?: {2}ok {2}\|| {6,13}\|)+)$/.exec(line) ?? [];
    return Array.from({ length: Math.ceil(cells.length / CELL) }, (_, i) => i)
      .filter((i) => cells.slice(i * CELL, (i + 1) * CELL).includes('ok'))
      .map((i) => ({ row, column: COLUMNS[i] ?? `column ${i}` }));
  });
}

const cells = cellsOf(readFileSync(TABLE, 'utf8'));
const runnable = cells.filter(({ row, column }) => orderCase(row, column) !== undefined);

function reasonToSkip({ row, column }: Cell): string | undefined {
  if (column === 'rtmutex') return 'there are no rtmutexes';
  if (row === 'initialize held')
    return 'there are no rwlocks, and a class alone is not initialised';
  return SKIPPED.find(([rows]) => rows.test(row))?.[1];
}

describe('the locking selftests of Linux', () => {
  let seen: string[][] = [];
  before(async () => {
    seen = await runCells(runnable.map(({ row, column }) => [row, column]));
  });

  test('are all here, or known to be about something that is not', () => {
    assert.equal(cells.length, 358);
    const unknown = cells.filter(
      (cell) => !runnable.includes(cell) && reasonToSkip(cell) === undefined,
    );
    assert.deepEqual(unknown, []);
    assert.ok(runnable.length >= 300, `${runnable.length} can be run`);
  });

  test('are printed as Linux prints them', async () => {
    const cells = selftestCells();
    const { text, passed, cases } = selftestTable(await runCells(cells));
    assert.deepEqual([passed, cases], [cells.length, runnable.length]);
    const printed = new Map(text.split('\n').map((line) => [line.split(':')[0]!.trim(), line]));
    const rows = new Set(cells.map(([row]) => row));
    for (const line of readFileSync(TABLE, 'utf8').split('\n')) {
      const name = line.split(':')[0]!.trim();
      if (!rows.has(name)) continue;
      rows.delete(name);
      assert.ok(name === 'initialize held' || line.startsWith(printed.get(name)!), line);
    }
    assert.deepEqual([...rows], []);
  });

  for (const [i, { row, column }] of runnable.entries()) {
    const { reported } = orderCase(row, column)!;
    test(`${row}, ${column}: ${reported ? 'is reported' : 'is not'}`, () => {
      assert.equal(seen[i]!.length > 0, reported, seen[i]!.join('; '));
    });
  }
});
