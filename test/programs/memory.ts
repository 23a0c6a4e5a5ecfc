/**
 * Programs that show which build they run in, and what cells promise.
 *
 * @module
 */
import {
  BUILD,
  changeCells,
  cmpxchg,
  fetchAdd,
  readOnce,
  readOnceCells,
  readOnceCellsWhile,
  takeCells,
  writeOnce,
  writeOnceCells,
} from '#memory';

import type { Cpu } from '../../src/machine/cpu.js';
import { allocPercpu } from '../../src/machine/percpu.js';
import {
  cacheline,
  element,
  member,
  type Ptr,
  struct,
  word,
  words,
} from '../../src/memory/layout.js';
import { initSpinlock, Spinlock, spinLock, spinUnlock } from '../../src/sync/spinlock.js';

export const CELLS = 64;

export const CellArena = struct('cell_arena', {
  readers: word, // that have not done
  dirtied: word, // bits that the hardware has set; atomic
  locked: Spinlock,
  line1: cacheline,
  cells: words(2 * CELLS), // both words of a cell are equal
});
export type CellArena = Ptr<'cell_arena'>;

/** The build's name, as this worker sees it, after some accesses through the door. */
export function buildName(cpu: Cpu, arena: CellArena): string {
  for (let i = 0; i < 10; i++) fetchAdd(cpu, arena, CellArena.readers, 1);
  return BUILD;
}

/** Takes a lock twice; the debugging layer of two builds objects. */
export function lockTwice(cpu: Cpu, arena: CellArena): void {
  const lock = member(arena, CellArena.locked);
  initSpinlock(cpu, lock, 1 as never);
  spinLock(cpu, lock);
  spinLock(cpu, lock);
  spinUnlock(cpu, lock);
}

/** Looks at all cells that a reader takes. */
const ROUNDS = 20_000;
/** … and the control, at most: it stops at the first torn cell. */
const CONTROL_ROUNDS = 5_000_000;

/** Room of this CPU's own for a copy of the cells. */
function roomOf(cpu: Cpu): number {
  return cpu.percpu + allocPercpu(cpu, 2 * CELLS);
}

/** Writes every cell again and again, each time with both words equal, until the readers have done. */
export function cellWriter(cpu: Cpu, arena: CellArena): number {
  const room = roomOf(cpu);
  let round = 0;
  while (readOnce(cpu, arena, CellArena.readers) !== 0) {
    cpu.words.fill(++round, room, room + 2 * CELLS);
    writeOnceCells(cpu, arena + CellArena.cells, room, CELLS);
  }
  return round;
}

function tornPairs(cpu: Cpu, room: number): number {
  let torn = 0;
  for (let i = 0; i < CELLS; i++) {
    if (cpu.words[room + 2 * i] !== cpu.words[room + 2 * i + 1]) torn++;
  }
  return torn;
}

/** Cells read torn while the writer runs. */
export function cellReader(cpu: Cpu, arena: CellArena): number {
  const room = roomOf(cpu);
  let torn = 0;
  for (let round = 0; round < ROUNDS; round++) {
    readOnceCells(cpu, room, arena + CellArena.cells, CELLS);
    torn += tornPairs(cpu, room);
  }
  fetchAdd(cpu, arena, CellArena.readers, -1);
  return torn;
}

/** As cellReader, by a copy that looks at each cell. */
export function cellSelector(cpu: Cpu, arena: CellArena): number {
  const room = roomOf(cpu);
  let torn = 0;
  for (let round = 0; round < ROUNDS; round++) {
    readOnceCellsWhile(cpu, room, arena + CellArena.cells, CELLS, 0, 0, -1);
    torn += tornPairs(cpu, room);
  }
  fetchAdd(cpu, arena, CellArena.readers, -1);
  return torn;
}

/** As cellReader, taking the cells out. */
export function cellTaker(cpu: Cpu, arena: CellArena): number {
  const room = roomOf(cpu);
  let torn = 0;
  for (let round = 0; round < ROUNDS; round++) {
    takeCells(cpu, room, arena + CellArena.cells, CELLS);
    torn += tornPairs(cpu, room);
  }
  fetchAdd(cpu, arena, CellArena.readers, -1);
  return torn;
}

/** The control: reads word by word, and so must see what the others must not. */
export function wordReader(cpu: Cpu, arena: CellArena): number {
  const room = roomOf(cpu);
  let torn = 0;
  for (let round = 0; round < CONTROL_ROUNDS && torn === 0; round++) {
    for (let i = 0; i < 2 * CELLS; i++) {
      cpu.words[room + i] = readOnce(cpu, arena, element(CellArena.cells, i));
    }
    torn += tornPairs(cpu, room);
  }
  fetchAdd(cpu, arena, CellArena.readers, -1);
  return torn;
}

/** What the software flips in each entry, and what the hardware sets. */
const HIDDEN = 1;
const DIRTY = 2;
/** The flipper goes on until the hardware has set that many bits; a control, until one was lost. */
const DIRTIED_MIN = 1000;
const FLIPS_MAX = 5_000_000;

/**
 * Hides and shows entries as numa-hint.ts does, and counts those it finds dirty. An entry that has all of
 * `settled` is left to it alone. Returns how many it found until `enough` says so.
 */
function flipEntries(
  cpu: Cpu,
  arena: CellArena,
  settled: number,
  enough: (found: number) => boolean,
): number {
  const cells = arena + CellArena.cells;
  let found = 0;
  for (let round = 0; round < FLIPS_MAX && !enough(found); round++) {
    changeCells(cpu, cells, CELLS, HIDDEN, 0, settled, 0, HIDDEN);
    for (let i = 0; i < CELLS; i++) {
      const entry = element(CellArena.cells, 2 * i);
      if ((readOnce(cpu, arena, entry) & DIRTY) === 0) continue;
      found++;
      writeOnce(cpu, arena, entry, HIDDEN); // hidden: nobody else writes it
    }
    changeCells(cpu, cells, CELLS, HIDDEN, HIDDEN, 0, HIDDEN, 0);
  }
  writeOnce(cpu, arena, CellArena.readers, 0);
  return found;
}

export function honestFlipper(cpu: Cpu, arena: CellArena): number {
  return flipEntries(
    cpu,
    arena,
    DIRTY,
    () => readOnce(cpu, arena, CellArena.dirtied) >= DIRTIED_MIN,
  );
}

/** The control: stores every entry, whatever the hardware may be doing to it. */
export function carelessFlipper(cpu: Cpu, arena: CellArena): number {
  // what was set and not found yet is at most one bit in each cell
  const isLost = (found: number): boolean =>
    readOnce(cpu, arena, CellArena.dirtied) - found > CELLS;
  return flipEntries(cpu, arena, 0, isLost);
}

/** The hardware: sets DIRTY in entries that are neither hidden nor dirty. Returns how many are not left. */
export function entryDirtier(cpu: Cpu, arena: CellArena): number {
  for (let i = 0; readOnce(cpu, arena, CellArena.readers) !== 0; i++) {
    const entry = element(CellArena.cells, 2 * (i % CELLS));
    if (cmpxchg(cpu, arena, entry, 0, DIRTY) === 0) fetchAdd(cpu, arena, CellArena.dirtied, 1);
  }
  let left = 0;
  for (let i = 0; i < CELLS; i++) {
    if ((readOnce(cpu, arena, element(CellArena.cells, 2 * i)) & DIRTY) !== 0) left++;
  }
  return readOnce(cpu, arena, CellArena.dirtied) - left;
}
