/**
 * The turnstile build of `#memory` (`--conditions=faultline-turnstile`): every operation is a scheduling
 * point. It announces itself to the CPU's turnstile, is made when its turn comes, and notes which words it
 * changes, so that they can be restored. Operations are counted on the CPU that makes them.
 *
 * One task moves at a time, and whoever hands the turn on orders memory for the next: the operations
 * themselves are plain. A CPU without a turnstile makes them as the parallel build does.
 *
 * Deviation  Sleeps end when the controller says so, spin loops that give up do so after one turn, and time
 *            is what the controller says.
 *
 * The functions of the last part are made of the others; the virtual engine's build step rewrites them as it
 * does kernel code. PRIMITIVES in scripts/virtual.mjs lists the first part's.
 *
 * @module
 */
import type { AddressField, Field, Ptr, Va } from './layout.js';
import * as parallel from './memory.js';
import type { MemoryPort } from './port.js';
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
} from './turnstile.js';

/** Which build of the door this program runs with. */
export const BUILD: 'parallel' | 'checked' | 'turnstile' = 'turnstile';

/** Words of a cell. */
const CELL = 2;

// --- one word ---

export function read<S extends string, V extends number>(
  cpu: MemoryPort,
  p: Ptr<S>,
  field: Field<NoInfer<S>, V>,
): V {
  cpu.operations++;
  if (cpu.turnstile !== null) cpu.turnstile.pass(cpu, OP_READ, p + field, 1);
  return parallel.read(cpu, p, field);
}

export function write<S extends string, V extends number>(
  cpu: MemoryPort,
  p: Ptr<S>,
  field: Field<NoInfer<S>, V>,
  value: NoInfer<V>,
): void {
  cpu.operations++;
  if (cpu.turnstile !== null) beforeStore(cpu, OP_WRITE, p + field, 1);
  parallel.write(cpu, p, field, value);
}

export function readAddress<S extends string>(
  cpu: MemoryPort,
  p: Ptr<S>,
  field: AddressField<NoInfer<S>>,
): Va {
  cpu.operations++;
  if (cpu.turnstile !== null) cpu.turnstile.pass(cpu, OP_READ, p + field, CELL);
  return parallel.readAddress(cpu, p, field);
}

export function writeAddress<S extends string>(
  cpu: MemoryPort,
  p: Ptr<S>,
  field: AddressField<NoInfer<S>>,
  value: Va,
): void {
  cpu.operations++;
  if (cpu.turnstile !== null) beforeStore(cpu, OP_WRITE, p + field, CELL);
  parallel.writeAddress(cpu, p, field, value);
}

export function readOwn<S extends string, V extends number>(
  cpu: MemoryPort,
  p: Ptr<S>,
  field: Field<NoInfer<S>, V>,
): V {
  cpu.operations++;
  return parallel.readOwn(cpu, p, field);
}

export function writeOwn<S extends string, V extends number>(
  cpu: MemoryPort,
  p: Ptr<S>,
  field: Field<NoInfer<S>, V>,
  value: NoInfer<V>,
): void {
  cpu.operations++;
  if (cpu.turnstile !== null) cpu.turnstile.log(p + field, 1);
  parallel.writeOwn(cpu, p, field, value);
}

export function watchLock<S extends string>(
  cpu: MemoryPort,
  p: Ptr<S>,
  field: Field<NoInfer<S>>,
): void {
  cpu.operations++;
  if (cpu.turnstile === null) parallel.watchLock(cpu, p, field);
}

export function watchUnlock<S extends string>(
  cpu: MemoryPort,
  p: Ptr<S>,
  field: Field<NoInfer<S>>,
): void {
  cpu.operations++;
  if (cpu.turnstile === null) parallel.watchUnlock(cpu, p, field);
}

export function readOnce<S extends string, V extends number>(
  cpu: MemoryPort,
  p: Ptr<S>,
  field: Field<NoInfer<S>, V>,
): V {
  cpu.operations++;
  if (cpu.turnstile === null) return parallel.readOnce(cpu, p, field);
  cpu.turnstile.pass(cpu, OP_READ_ONCE, p + field, 1);
  return cpu.words[p + field] as V;
}

export function writeOnce<S extends string, V extends number>(
  cpu: MemoryPort,
  p: Ptr<S>,
  field: Field<NoInfer<S>, V>,
  value: NoInfer<V>,
): void {
  cpu.operations++;
  if (cpu.turnstile === null) {
    parallel.writeOnce(cpu, p, field, value);
  } else {
    beforeStore(cpu, OP_WRITE_ONCE, p + field, 1);
    cpu.words[p + field] = value;
  }
}

export function loadAcquire<S extends string, V extends number>(
  cpu: MemoryPort,
  p: Ptr<S>,
  field: Field<NoInfer<S>, V>,
): V {
  cpu.operations++;
  if (cpu.turnstile === null) return parallel.loadAcquire(cpu, p, field);
  cpu.turnstile.pass(cpu, OP_ACQUIRE, p + field, 1);
  return cpu.words[p + field] as V;
}

export function storeRelease<S extends string, V extends number>(
  cpu: MemoryPort,
  p: Ptr<S>,
  field: Field<NoInfer<S>, V>,
  value: NoInfer<V>,
): void {
  cpu.operations++;
  if (cpu.turnstile === null) {
    parallel.storeRelease(cpu, p, field, value);
  } else {
    beforeStore(cpu, OP_RELEASE, p + field, 1);
    cpu.words[p + field] = value;
  }
}

export function writeRelease<S extends string, V extends number>(
  cpu: MemoryPort,
  p: Ptr<S>,
  field: Field<NoInfer<S>, V>,
  value: NoInfer<V>,
): void {
  cpu.operations++;
  if (cpu.turnstile === null) {
    parallel.writeRelease(cpu, p, field, value);
  } else {
    beforeStore(cpu, OP_RELEASE, p + field, 1);
    cpu.words[p + field] = value;
  }
}

export function fetchAdd<S extends string>(
  cpu: MemoryPort,
  p: Ptr<S>,
  field: Field<NoInfer<S>>,
  value: number,
): number {
  cpu.operations++;
  if (cpu.turnstile === null) return parallel.fetchAdd(cpu, p, field, value);
  const before = beforeUpdate(cpu, p + field);
  cpu.words[p + field] = before + value;
  return before;
}

export function fetchOr<S extends string>(
  cpu: MemoryPort,
  p: Ptr<S>,
  field: Field<NoInfer<S>>,
  bits: number,
): number {
  cpu.operations++;
  if (cpu.turnstile === null) return parallel.fetchOr(cpu, p, field, bits);
  const before = beforeUpdate(cpu, p + field);
  cpu.words[p + field] = before | bits;
  return before;
}

export function fetchAnd<S extends string>(
  cpu: MemoryPort,
  p: Ptr<S>,
  field: Field<NoInfer<S>>,
  bits: number,
): number {
  cpu.operations++;
  if (cpu.turnstile === null) return parallel.fetchAnd(cpu, p, field, bits);
  const before = beforeUpdate(cpu, p + field);
  cpu.words[p + field] = before & bits;
  return before;
}

export function exchange<S extends string, V extends number>(
  cpu: MemoryPort,
  p: Ptr<S>,
  field: Field<NoInfer<S>, V>,
  value: NoInfer<V>,
): V {
  cpu.operations++;
  if (cpu.turnstile === null) return parallel.exchange(cpu, p, field, value);
  const before = beforeUpdate(cpu, p + field);
  cpu.words[p + field] = value;
  return before as V;
}

export function cmpxchg<S extends string, V extends number>(
  cpu: MemoryPort,
  p: Ptr<S>,
  field: Field<NoInfer<S>, V>,
  expected: NoInfer<V>,
  replacement: NoInfer<V>,
): V {
  cpu.operations++;
  if (cpu.turnstile === null) return parallel.cmpxchg(cpu, p, field, expected, replacement);
  const before = beforeUpdate(cpu, p + field);
  if (before === expected) cpu.words[p + field] = replacement;
  return before as V;
}

// --- sleeping, waking, spinning ---

/** The look at the word that a sleep begins with: true if it has the value, and the task now sleeps. */
export function parkCheck<S extends string>(
  cpu: MemoryPort,
  p: Ptr<S>,
  field: Field<NoInfer<S>>,
  expected: number,
  timeoutMs: number,
): boolean {
  const { turnstile } = cpu;
  if (turnstile === null) return false;
  turnstile.pass(cpu, OP_PARK, p + field, 1);
  if (cpu.words[p + field] !== expected) return false;
  turnstile.sleepFor(cpu, timeoutMs);
  return true;
}

/** The end of the sleep: true if somebody woke the task. */
export function parkResume<S extends string>(
  cpu: MemoryPort,
  p: Ptr<S>,
  field: Field<NoInfer<S>>,
): boolean {
  const { turnstile } = cpu;
  if (turnstile === null) return false;
  turnstile.pass(cpu, OP_RESUME, p + field, 1);
  return turnstile.wasWoken(cpu);
}

export function unpark<S extends string>(
  cpu: MemoryPort,
  p: Ptr<S>,
  field: Field<NoInfer<S>>,
  count: number,
): number {
  cpu.operations++;
  const { turnstile } = cpu;
  if (turnstile === null) return parallel.unpark(cpu, p, field, count);
  turnstile.pass(cpu, OP_UNPARK, p + field, 1);
  return turnstile.wake(p + field, count);
}

export function relax(cpu: MemoryPort): void {
  cpu.operations++;
  if (cpu.turnstile === null) parallel.relax(cpu);
  else cpu.turnstile.pass(cpu, OP_SPIN, 0, 0);
}

export function awaitFree<S extends string>(
  cpu: MemoryPort,
  p: Ptr<S>,
  field: Field<NoInfer<S>>,
): void {
  const { turnstile } = cpu;
  if (turnstile?.modelsLocks === true) turnstile.pass(cpu, OP_LOCK, p + field, 1);
}

/** Spin loops that give up do so after one turn. */
export function spinLimit(_count: number): number {
  return 1;
}

export function clockMs(cpu: MemoryPort): number {
  cpu.operations++;
  return cpu.turnstile === null ? parallel.clockMs(cpu) : cpu.turnstile.clockMs(cpu);
}

export function parkAsync<S extends string>(
  cpu: MemoryPort,
  p: Ptr<S>,
  field: Field<NoInfer<S>>,
  expected: number,
  timeoutMs: number,
): Promise<boolean> {
  cpu.operations++;
  return parallel.parkAsync(cpu, p, field, expected, timeoutMs);
}

// --- many words ---

export function writeOnceCells(cpu: MemoryPort, to: number, from: number, count: number): void {
  cpu.operations++;
  if (cpu.turnstile !== null) beforeStore(cpu, OP_WRITE_ONCE, to, count * CELL);
  parallel.writeOnceCells(cpu, to, from, count);
}

export function clearCells(cpu: MemoryPort, to: number, count: number): void {
  cpu.operations++;
  if (cpu.turnstile !== null) beforeStore(cpu, OP_WRITE_ONCE, to, count * CELL);
  parallel.clearCells(cpu, to, count);
}

/** Not one step in the parallel build; here it is, and what others do comes before or after. */
export function changeCells(
  cpu: MemoryPort,
  at: number,
  count: number,
  test: number,
  match: number,
  settled: number,
  clear: number,
  set: number,
): void {
  cpu.operations++;
  if (cpu.turnstile !== null) beforeStore(cpu, OP_RMW, at, count * CELL);
  parallel.changeCells(cpu, at, count, test, match, settled, clear, set);
}

export function takeCells(cpu: MemoryPort, to: number, from: number, count: number): void {
  cpu.operations++;
  if (cpu.turnstile !== null) {
    beforeStore(cpu, OP_RMW, from, count * CELL);
    cpu.turnstile.log(to, count * CELL);
  }
  parallel.takeCells(cpu, to, from, count);
}

export function readOnceCells(cpu: MemoryPort, to: number, from: number, count: number): void {
  cpu.operations++;
  if (cpu.turnstile !== null) {
    cpu.turnstile.pass(cpu, OP_READ_ONCE, from, count * CELL);
    cpu.turnstile.log(to, count * CELL);
  }
  parallel.readOnceCells(cpu, to, from, count);
}

export function readOnceCellsWhile(
  cpu: MemoryPort,
  to: number,
  from: number,
  count: number,
  test: number,
  match: number,
  keep: number,
): number {
  cpu.operations++;
  if (cpu.turnstile !== null) {
    cpu.turnstile.pass(cpu, OP_READ_ONCE, from, count * CELL);
    cpu.turnstile.log(to, count * CELL);
  }
  return parallel.readOnceCellsWhile(cpu, to, from, count, test, match, keep);
}

export function fillWords(cpu: MemoryPort, to: number, value: number, count: number): void {
  cpu.operations++;
  if (cpu.turnstile !== null) beforeStore(cpu, OP_WRITE, to, count);
  parallel.fillWords(cpu, to, value, count);
}

/** The first half of copyWords: what is there now. */
export function loadRun(cpu: MemoryPort, from: number, count: number): Int32Array {
  if (cpu.turnstile !== null) cpu.turnstile.pass(cpu, OP_READ, from, count);
  return cpu.words.slice(from, from + count);
}

/** The second half. */
export function storeRun(cpu: MemoryPort, to: number, words: Int32Array, count: number): void {
  if (cpu.turnstile !== null) beforeStore(cpu, OP_WRITE, to, count);
  cpu.words.set(words, to);
}

// --- what only this build is told ---

/** A struct is given back: whoever touches it from here on uses freed memory. */
export function noteFree(cpu: MemoryPort, at: number, count: number): void {
  if (cpu.turnstile !== null) cpu.turnstile.pass(cpu, OP_FREE, at, count);
}

/** A struct is handed out. */
export function noteAlloc(cpu: MemoryPort, at: number, count: number): void {
  if (cpu.turnstile !== null) cpu.turnstile.pass(cpu, OP_ALLOC, at, count);
}

/** Only the checked build minds what lies between structs. */
export function noteSlab(_cpu: MemoryPort, _at: number, _count: number): void {
  // nothing to be told
}

/** A slab's words are a frame's again, which its allocator may fill. */
export function noteFrame(cpu: MemoryPort, at: number, count: number): void {
  if (cpu.turnstile !== null) cpu.turnstile.pass(cpu, OP_ALLOC, at, count);
}

/** A load that races with marked stores. */
export function assertExclusiveWriter<S extends string>(
  cpu: MemoryPort,
  p: Ptr<S>,
  field: Field<NoInfer<S>>,
): void {
  if (cpu.turnstile !== null) cpu.turnstile.pass(cpu, OP_READ, p + field, 1);
}

/** A store, as far as races are concerned. */
export function assertExclusiveAccess<S extends string>(
  cpu: MemoryPort,
  p: Ptr<S>,
  field: Field<NoInfer<S>>,
): void {
  if (cpu.turnstile !== null) cpu.turnstile.pass(cpu, OP_WRITE, p + field, 1);
}

function beforeStore(cpu: MemoryPort, kind: number, at: number, count: number): void {
  const { turnstile } = cpu;
  if (turnstile === null) return;
  turnstile.pass(cpu, kind, at, count);
  turnstile.log(at, count);
}

/** Its turn, a note of the word, and what the word is. */
function beforeUpdate(cpu: MemoryPort, at: number): number {
  beforeStore(cpu, OP_RMW, at, 1);
  return cpu.words[at]!;
}

// --- made of the above ---

export function park<S extends string>(
  cpu: MemoryPort,
  p: Ptr<S>,
  field: Field<NoInfer<S>>,
  expected: number,
  timeoutMs: number,
): boolean {
  cpu.operations++;
  if (cpu.turnstile === null) return parallel.park(cpu, p, field, expected, timeoutMs);
  if (!parkCheck(cpu, p, field, expected, timeoutMs)) return false;
  return parkResume(cpu, p, field);
}

export function countInside<S extends string, T extends string>(
  cpu: MemoryPort,
  gate: Ptr<S>,
  gateField: Field<NoInfer<S>>,
  p: Ptr<T>,
  field: Field<NoInfer<T>>,
  base: number,
  delta: number,
): number {
  cpu.operations++;
  if (cpu.turnstile === null)
    return parallel.countInside(cpu, gate, gateField, p, field, base, delta);
  const inside = parallel.read(cpu, gate, gateField) + 1;
  storeRelease(cpu, gate, gateField, inside);
  const where = readOnce(cpu, p, field);
  if ((where & 3) === 0) {
    const own = (base + (where >>> 2)) as Ptr<'own'>;
    const counter = 0 as Field<'own'>;
    writeRelease(cpu, own, counter, parallel.read(cpu, own, counter) + delta);
    writeRelease(cpu, gate, gateField, inside + 1);
  }
  return where;
}

export function copyWords(cpu: MemoryPort, to: number, from: number, count: number): void {
  cpu.operations++;
  if (cpu.turnstile === null) parallel.copyWords(cpu, to, from, count);
  else storeRun(cpu, to, loadRun(cpu, from, count), count);
}

/** Low bits of an entry of a page table that are flags. */
const LINK_FLAGS = 1023;

export function readOnceLinks(
  cpu: MemoryPort,
  table: number,
  first: number,
  second: number,
  third: number,
): number {
  cpu.operations++;
  if (cpu.turnstile === null) return parallel.readOnceLinks(cpu, table, first, second, third);
  let next = followLink(cpu, table, first);
  if (next !== 0) next = followLink(cpu, next, second);
  if (next !== 0) next = followLink(cpu, next, third);
  return next;
}

function followLink(cpu: MemoryPort, table: number, index: number): number {
  const entry = readOnce(cpu, table as Ptr<'table'>, (index * CELL) as Field<'table'>);
  return entry & ~LINK_FLAGS;
}
