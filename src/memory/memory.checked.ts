/**
 * The checked build of `#memory` (`--conditions=faultline-checked`): for finding bugs, not for speed.
 *
 * Every operation is counted on the CPU that makes it, and noted in the machine's shadow, if it has one: races,
 * uses of memory that is nobody's, and objects given back twice are found where they happen (shadow.ts). What
 * readOwn and writeOwn touch is nobody else's business.
 *
 * The functions of the last part are made of the others.
 *
 * @module
 */
import type { AddressField, Field, Ptr, Va } from './layout.js';
import * as parallel from './memory.js';
import type { MemoryPort } from './port.js';
import {
  RUN_ACQUIRES,
  RUN_UNORDERED,
  RUN_UPDATES,
  USE_READ,
  USE_READ_ONCE,
  USE_WRITE,
  USE_WRITE_ONCE,
} from './shadow.js';

export { awaitFree, spinLimit } from './memory.js';

/** Which build of the door this program runs with. */
export const BUILD: 'parallel' | 'checked' | 'turnstile' = 'checked';

// --- one word ---

export function read<S extends string, V extends number>(
  cpu: MemoryPort,
  p: Ptr<S>,
  field: Field<NoInfer<S>, V>,
): V {
  cpu.operations++;
  if (cpu.shadow !== null) cpu.shadow.plain(p + field, USE_READ);
  return parallel.read(cpu, p, field);
}

export function write<S extends string, V extends number>(
  cpu: MemoryPort,
  p: Ptr<S>,
  field: Field<NoInfer<S>, V>,
  value: NoInfer<V>,
): void {
  cpu.operations++;
  if (cpu.shadow !== null) cpu.shadow.plain(p + field, USE_WRITE);
  parallel.write(cpu, p, field, value);
}

/** Both halves of an address are used together: the first stands for it. */
export function readAddress<S extends string>(
  cpu: MemoryPort,
  p: Ptr<S>,
  field: AddressField<NoInfer<S>>,
): Va {
  cpu.operations++;
  if (cpu.shadow !== null) cpu.shadow.plain(p + field, USE_READ);
  return parallel.readAddress(cpu, p, field);
}

export function writeAddress<S extends string>(
  cpu: MemoryPort,
  p: Ptr<S>,
  field: AddressField<NoInfer<S>>,
  value: Va,
): void {
  cpu.operations++;
  if (cpu.shadow !== null) cpu.shadow.plain(p + field, USE_WRITE);
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
  parallel.writeOwn(cpu, p, field, value);
}

export function readOnce<S extends string, V extends number>(
  cpu: MemoryPort,
  p: Ptr<S>,
  field: Field<NoInfer<S>, V>,
): V {
  cpu.operations++;
  const { shadow } = cpu;
  if (shadow === null) return parallel.readOnce(cpu, p, field);
  const word = p + field;
  for (;;) {
    const version = shadow.beginLoad(word);
    const value = parallel.readOnce(cpu, p, field);
    if (shadow.endLoad(word, version)) return value;
  }
}

export function writeOnce<S extends string, V extends number>(
  cpu: MemoryPort,
  p: Ptr<S>,
  field: Field<NoInfer<S>, V>,
  value: NoInfer<V>,
): void {
  cpu.operations++;
  const { shadow } = cpu;
  const word = p + field;
  if (shadow !== null) {
    shadow.begin(word, USE_WRITE_ONCE);
    shadow.endRelease(word);
  }
  parallel.writeOnce(cpu, p, field, value);
  if (shadow !== null) shadow.end(word);
}

export const loadAcquire: typeof readOnce = readOnce;

export function storeRelease<S extends string, V extends number>(
  cpu: MemoryPort,
  p: Ptr<S>,
  field: Field<NoInfer<S>, V>,
  value: NoInfer<V>,
): void {
  cpu.operations++;
  const { shadow } = cpu;
  const word = p + field;
  if (shadow !== null) {
    shadow.begin(word, USE_WRITE_ONCE);
    shadow.release(word);
  }
  parallel.storeRelease(cpu, p, field, value);
  if (shadow !== null) shadow.end(word);
}

export const writeRelease: typeof storeRelease = storeRelease;

export function fetchAdd<S extends string>(
  cpu: MemoryPort,
  p: Ptr<S>,
  field: Field<NoInfer<S>>,
  value: number,
): number {
  const isNoted = beginUpdate(cpu, p + field);
  const before = parallel.fetchAdd(cpu, p, field, value);
  if (isNoted) cpu.shadow!.end(p + field);
  return before;
}

export function fetchOr<S extends string>(
  cpu: MemoryPort,
  p: Ptr<S>,
  field: Field<NoInfer<S>>,
  bits: number,
): number {
  const isNoted = beginUpdate(cpu, p + field);
  const before = parallel.fetchOr(cpu, p, field, bits);
  if (isNoted) cpu.shadow!.end(p + field);
  return before;
}

export function fetchAnd<S extends string>(
  cpu: MemoryPort,
  p: Ptr<S>,
  field: Field<NoInfer<S>>,
  bits: number,
): number {
  const isNoted = beginUpdate(cpu, p + field);
  const before = parallel.fetchAnd(cpu, p, field, bits);
  if (isNoted) cpu.shadow!.end(p + field);
  return before;
}

export function exchange<S extends string, V extends number>(
  cpu: MemoryPort,
  p: Ptr<S>,
  field: Field<NoInfer<S>, V>,
  value: NoInfer<V>,
): V {
  const isNoted = beginUpdate(cpu, p + field);
  const before = parallel.exchange(cpu, p, field, value);
  if (isNoted) cpu.shadow!.end(p + field);
  return before;
}

/** One that does not replace is a load. */
export function cmpxchg<S extends string, V extends number>(
  cpu: MemoryPort,
  p: Ptr<S>,
  field: Field<NoInfer<S>, V>,
  expected: NoInfer<V>,
  replacement: NoInfer<V>,
): V {
  cpu.operations++;
  const { shadow } = cpu;
  if (shadow === null) return parallel.cmpxchg(cpu, p, field, expected, replacement);
  const word = p + field;
  shadow.begin(word, USE_WRITE_ONCE);
  const before = parallel.cmpxchg(cpu, p, field, expected, replacement);
  shadow.acquire(word);
  if (before === expected) shadow.release(word);
  shadow.end(word);
  return before;
}

/** Has seen what was released at the word, and releases; true if the use is noted, and wants its `end`. */
function beginUpdate(cpu: MemoryPort, word: number): boolean {
  cpu.operations++;
  const { shadow } = cpu;
  if (shadow === null) return false;
  shadow.begin(word, USE_WRITE_ONCE);
  shadow.acquire(word);
  shadow.release(word);
  return true;
}

// --- sleeping and waiting ---

/** Waking orders nothing: whoever wakes has stored before, and whoever was woken looks again. */
export function park<S extends string>(
  cpu: MemoryPort,
  p: Ptr<S>,
  field: Field<NoInfer<S>>,
  expected: number,
  timeoutMs: number,
): boolean {
  cpu.operations++;
  return parallel.park(cpu, p, field, expected, timeoutMs);
}

export function unpark<S extends string>(
  cpu: MemoryPort,
  p: Ptr<S>,
  field: Field<NoInfer<S>>,
  count: number,
): number {
  cpu.operations++;
  return parallel.unpark(cpu, p, field, count);
}

export function clockMs(cpu: MemoryPort): number {
  cpu.operations++;
  return parallel.clockMs(cpu);
}

export function relax(cpu: MemoryPort): void {
  cpu.operations++;
  parallel.relax(cpu);
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

/** What watchers lock is theirs: it is neither noted nor ordered. */
export function watchLock<S extends string>(
  cpu: MemoryPort,
  p: Ptr<S>,
  field: Field<NoInfer<S>>,
): void {
  cpu.operations++;
  parallel.watchLock(cpu, p, field);
}

export function watchUnlock<S extends string>(
  cpu: MemoryPort,
  p: Ptr<S>,
  field: Field<NoInfer<S>>,
): void {
  cpu.operations++;
  parallel.watchUnlock(cpu, p, field);
}

// --- many words ---

/** What is stored to is the caller's own. */
export function readOnceCells(cpu: MemoryPort, to: number, from: number, count: number): void {
  cpu.operations++;
  parallel.readOnceCells(cpu, to, from, count);
  if (cpu.shadow !== null) cpu.shadow.cells(from, count, USE_READ_ONCE, RUN_ACQUIRES);
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
  const done = parallel.readOnceCellsWhile(cpu, to, from, count, test, match, keep);
  const looked = Math.min(count, done + 1);
  if (cpu.shadow !== null) cpu.shadow.cells(from, looked, USE_READ_ONCE, RUN_ACQUIRES);
  return done;
}

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
  if (cpu.shadow !== null) cpu.shadow.cells(at, count, USE_WRITE_ONCE, RUN_UNORDERED);
  parallel.changeCells(cpu, at, count, test, match, settled, clear, set);
}

export function takeCells(cpu: MemoryPort, to: number, from: number, count: number): void {
  cpu.operations++;
  if (cpu.shadow !== null) cpu.shadow.cells(from, count, USE_WRITE_ONCE, RUN_UPDATES);
  parallel.takeCells(cpu, to, from, count);
}

export function writeOnceCells(cpu: MemoryPort, to: number, from: number, count: number): void {
  cpu.operations++;
  if (cpu.shadow !== null) cpu.shadow.cells(to, count, USE_WRITE_ONCE, RUN_UNORDERED);
  parallel.writeOnceCells(cpu, to, from, count);
}

export function clearCells(cpu: MemoryPort, to: number, count: number): void {
  cpu.operations++;
  if (cpu.shadow !== null) cpu.shadow.cells(to, count, USE_WRITE_ONCE, RUN_UNORDERED);
  parallel.clearCells(cpu, to, count);
}

export function fillWords(cpu: MemoryPort, to: number, value: number, count: number): void {
  cpu.operations++;
  if (cpu.shadow !== null) cpu.shadow.run(to, count, USE_WRITE);
  parallel.fillWords(cpu, to, value, count);
}

export function copyWords(cpu: MemoryPort, to: number, from: number, count: number): void {
  cpu.operations++;
  if (cpu.shadow !== null) {
    cpu.shadow.run(from, count, USE_READ);
    cpu.shadow.run(to, count, USE_WRITE);
  }
  parallel.copyWords(cpu, to, from, count);
}

// --- what is said to whoever looks for mistakes ---

export function noteFree(cpu: MemoryPort, at: number, count: number): void {
  if (cpu.shadow !== null) cpu.shadow.free(at, count);
}

export function noteAlloc(cpu: MemoryPort, at: number, count: number): void {
  if (cpu.shadow !== null) cpu.shadow.alloc(at, count);
}

export function noteSlab(cpu: MemoryPort, at: number, count: number): void {
  if (cpu.shadow !== null) cpu.shadow.takeSlab(at, count);
}

export function noteFrame(cpu: MemoryPort, at: number, count: number): void {
  if (cpu.shadow !== null) cpu.shadow.giveFrame(at, count);
}

export function assertExclusiveWriter<S extends string>(
  cpu: MemoryPort,
  p: Ptr<S>,
  field: Field<NoInfer<S>>,
): void {
  if (cpu.shadow !== null) cpu.shadow.plain(p + field, USE_READ);
}

export function assertExclusiveAccess<S extends string>(
  cpu: MemoryPort,
  p: Ptr<S>,
  field: Field<NoInfer<S>>,
): void {
  if (cpu.shadow !== null) cpu.shadow.plain(p + field, USE_WRITE);
}

// --- made of the above ---

export function countInside<S extends string, T extends string>(
  cpu: MemoryPort,
  gate: Ptr<S>,
  gateField: Field<NoInfer<S>>,
  p: Ptr<T>,
  field: Field<NoInfer<T>>,
  base: number,
  delta: number,
): number {
  if (cpu.shadow === null) {
    cpu.operations++;
    return parallel.countInside(cpu, gate, gateField, p, field, base, delta);
  }
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

/** Words of a cell. */
const CELL = 2;
/** Low bits of an entry of a page table that are flags. */
const LINK_FLAGS = 1023;

export function readOnceLinks(
  cpu: MemoryPort,
  table: number,
  first: number,
  second: number,
  third: number,
): number {
  if (cpu.shadow === null) {
    cpu.operations++;
    return parallel.readOnceLinks(cpu, table, first, second, third);
  }
  let next = followLink(cpu, table, first);
  if (next !== 0) next = followLink(cpu, next, second);
  if (next !== 0) next = followLink(cpu, next, third);
  return next;
}

function followLink(cpu: MemoryPort, table: number, index: number): number {
  const entry = readOnce(cpu, table as Ptr<'table'>, (index * CELL) as Field<'table'>);
  return entry & ~LINK_FLAGS;
}
