/**
 * The door to shared memory, imported as `#memory`: the only accesses the rest of faultline makes.
 *
 * This is the parallel build, at full speed. `memory.checked.ts` and `memory.turnstile.ts` export the
 * same names; `node --conditions=…` chooses one for a whole program, workers included, so that no hot
 * path carries a test for it.
 *
 * The name of an operation records what the protocol needs of it:
 *
 *   read, write            plain: a held lock or sole ownership protects the word
 *   readOnce, writeOnce    marked: the word races by design, and no order is wanted
 *   loadAcquire            … and what the storing side did before its storeRelease is seen
 *   storeRelease
 *   writeRelease           … a cheaper one that later loads may overtake
 *   fetchAdd … cmpxchg     atomic read-modify-write, fully ordered
 *   park, unpark           sleep while a word has a value; wake sleepers
 *   relax                  spin hint
 *   clockMs                the time
 *
 * Ordering   JavaScript's and WebAssembly's atomics are sequentially consistent, so readOnce and
 *            loadAcquire are one instruction here. writeOnce is a plain 32-bit WebAssembly store: it
 *            is never torn, moved or dropped, and orders nothing.
 * Cost       read, write 0.5 ns, and writeRelease on x64; readOnce, loadAcquire, writeOnce 2 ns; storeRelease and the
 *            read-modify-writes 7 to 9 ns (Xeon, Node 20).
 *
 * @module
 */
import type { AddressField, Field, Ptr, Va } from './layout.js';
import type { MemoryPort } from './port.js';

/** Which build of the door this program runs with. */
export const BUILD: 'parallel' | 'checked' | 'turnstile' = 'parallel';

/** Plain load. */
export function read<S extends string, V extends number>(
  cpu: MemoryPort,
  p: Ptr<S>,
  field: Field<NoInfer<S>, V>,
): V {
  return cpu.words[p + field] as V;
}

/** Plain store. */
export function write<S extends string, V extends number>(
  cpu: MemoryPort,
  p: Ptr<S>,
  field: Field<NoInfer<S>, V>,
  value: NoInfer<V>,
): void {
  cpu.words[p + field] = value;
}

/** Plain load of a 48-bit address. */
export function readAddress<S extends string>(
  cpu: MemoryPort,
  p: Ptr<S>,
  field: AddressField<NoInfer<S>>,
): Va {
  return cpu.addresses[(p + field) >> 1]!;
}

/** Plain store of a 48-bit address. */
export function writeAddress<S extends string>(
  cpu: MemoryPort,
  p: Ptr<S>,
  field: AddressField<NoInfer<S>>,
  value: Va,
): void {
  cpu.addresses[(p + field) >> 1] = value;
}

/**
 * Plain load of a word that only this CPU stores to, or that is not stored to any more, as the class of a
 * lock. Others look at a CPU's own words when it is blocked or dead, or do not mind what they see. No
 * scheduling point of the turnstile build.
 */
export function readOwn<S extends string, V extends number>(
  cpu: MemoryPort,
  p: Ptr<S>,
  field: Field<NoInfer<S>, V>,
): V {
  return cpu.words[p + field] as V;
}

/** Plain store of such a word. */
export function writeOwn<S extends string, V extends number>(
  cpu: MemoryPort,
  p: Ptr<S>,
  field: Field<NoInfer<S>, V>,
  value: NoInfer<V>,
): void {
  cpu.words[p + field] = value;
}

/** Marked load. @kernel READ_ONCE */
export function readOnce<S extends string, V extends number>(
  cpu: MemoryPort,
  p: Ptr<S>,
  field: Field<NoInfer<S>, V>,
): V {
  return cpu.load(p + field) as V;
}

/** Marked store. @kernel WRITE_ONCE */
export function writeOnce<S extends string, V extends number>(
  cpu: MemoryPort,
  p: Ptr<S>,
  field: Field<NoInfer<S>, V>,
  value: NoInfer<V>,
): void {
  cpu.storeRelaxed(p + field, value);
}

/** Load that sees everything before the storeRelease it reads from. @kernel smp_load_acquire */
export function loadAcquire<S extends string, V extends number>(
  cpu: MemoryPort,
  p: Ptr<S>,
  field: Field<NoInfer<S>, V>,
): V {
  return cpu.load(p + field) as V;
}

/** Store after which everything before it is seen by a loadAcquire. @kernel smp_store_release */
export function storeRelease<S extends string, V extends number>(
  cpu: MemoryPort,
  p: Ptr<S>,
  field: Field<NoInfer<S>, V>,
  value: NoInfer<V>,
): void {
  cpu.store(p + field, value);
}

/**
 * A section of a few steps, for little more than the price of one. The gate, which only this CPU stores to, counts on
 * by 1, by a storeRelease; the word at `p` is read, by a readOnce. If that has neither of its two low bits, the rest
 * of it says how many words from `base` on there is a word of this CPU's: to that `delta` is added, and the gate counts
 * on once more, by a writeRelease. Else the section is left open. Returns what was read.
 */
export function countInside<S extends string, T extends string>(
  cpu: MemoryPort,
  gate: Ptr<S>,
  gateField: Field<NoInfer<S>>,
  p: Ptr<T>,
  field: Field<NoInfer<T>>,
  base: number,
  delta: number,
): number {
  return cpu.countInside(gate + gateField, p + field, base, delta);
}

/**
 * As storeRelease, but later loads may come before it: the end of a section that says nothing about what
 * follows. An x64 processor does not move a store before what precedes it, so a plain one will do there.
 */
export const writeRelease: <S extends string, V extends number>(
  cpu: MemoryPort,
  p: Ptr<S>,
  field: Field<NoInfer<S>, V>,
  value: NoInfer<V>,
) => void = process.arch === 'x64' ? write : storeRelease;

/** Adds; returns what was there. @kernel atomic_fetch_add */
export function fetchAdd<S extends string>(
  cpu: MemoryPort,
  p: Ptr<S>,
  field: Field<NoInfer<S>>,
  value: number,
): number {
  return cpu.add(p + field, value);
}

/** Sets bits; returns what was there. @kernel atomic_fetch_or */
export function fetchOr<S extends string>(
  cpu: MemoryPort,
  p: Ptr<S>,
  field: Field<NoInfer<S>>,
  bits: number,
): number {
  return cpu.or(p + field, bits);
}

/** Keeps bits; returns what was there. @kernel atomic_fetch_and */
export function fetchAnd<S extends string>(
  cpu: MemoryPort,
  p: Ptr<S>,
  field: Field<NoInfer<S>>,
  bits: number,
): number {
  return cpu.and(p + field, bits);
}

/** Replaces; returns what was there. @kernel xchg */
export function exchange<S extends string, V extends number>(
  cpu: MemoryPort,
  p: Ptr<S>,
  field: Field<NoInfer<S>, V>,
  value: NoInfer<V>,
): V {
  return cpu.swap(p + field, value) as V;
}

/** Replaces iff `expected` is there; returns what was there. @kernel cmpxchg */
export function cmpxchg<S extends string, V extends number>(
  cpu: MemoryPort,
  p: Ptr<S>,
  field: Field<NoInfer<S>, V>,
  expected: NoInfer<V>,
  replacement: NoInfer<V>,
): V {
  return cpu.compareSwap(p + field, expected, replacement) as V;
}

/**
 * A park is cut into slices, so that the caller looks at what may have happened meanwhile (a machine that was
 * halted): no wake-up depends on it.
 */
const PARK_SLICE_MS = 100;

/**
 * Sleeps while the word equals `expected`; at most `timeoutMs`, which may be Infinity. True if it was woken,
 * false if the word differed at once or time ran out. May return for no reason, and does within 100 ms:
 * test the condition again. Sleeps.
 */
export function park<S extends string>(
  cpu: MemoryPort,
  p: Ptr<S>,
  field: Field<NoInfer<S>>,
  expected: number,
  timeoutMs: number,
): boolean {
  return Atomics.wait(cpu.words, p + field, expected, Math.min(timeoutMs, PARK_SLICE_MS)) === 'ok';
}

/** Wakes at most `count` that are parked on the word; returns how many. */
export function unpark<S extends string>(
  cpu: MemoryPort,
  p: Ptr<S>,
  field: Field<NoInfer<S>>,
  count: number,
): number {
  return Atomics.notify(cpu.words, p + field, count);
}

/**
 * Milliseconds on a monotonic clock that all workers of the process share, to nanoseconds. Reading it
 * costs 40 ns and 16 bytes.
 */
export function clockMs(_cpu: MemoryPort): number {
  return performance.now();
}

/** As park, for a thread that must not block: a promise of the same answer. */
export async function parkAsync<S extends string>(
  cpu: MemoryPort,
  p: Ptr<S>,
  field: Field<NoInfer<S>>,
  expected: number,
  timeoutMs: number,
): Promise<boolean> {
  const { value } = Atomics.waitAsync(cpu.words, p + field, expected, timeoutMs);
  return (await value) === 'ok';
}

/**
 * How many turns a spin loop makes that gives up: `count`. The turnstile build makes one, so that exploring
 * sees both the loop and what comes after it.
 */
export function spinLimit(count: number): number {
  return count;
}

/**
 * The caller is about to take the lock whose word is 0 when it is free. Nothing here; where locks are modelled
 * the turnstile build lets the task wait for its turn until that is so, and the lock is then taken at the
 * first try.
 */
export function awaitFree<S extends string>(
  _cpu: MemoryPort,
  _p: Ptr<S>,
  _field: Field<NoInfer<S>>,
): void {
  // the lock itself waits
}

/** How long a waiter for a watcher's lock sleeps before it looks by itself. */
const WATCH_LOOK_MS = 1;

/**
 * Takes a lock of those who watch the machine; its word is 0 when it is free. Inside, only readOwn and writeOwn
 * are used, and nothing waits. No scheduling point of the turnstile build: where one task moves at a time it
 * does nothing.
 */
export function watchLock<S extends string>(
  cpu: MemoryPort,
  p: Ptr<S>,
  field: Field<NoInfer<S>>,
): void {
  while (cpu.compareSwap(p + field, 0, 1) !== 0) {
    Atomics.wait(cpu.words, p + field, 1, WATCH_LOOK_MS);
  }
}

/** Gives it back. */
export function watchUnlock<S extends string>(
  cpu: MemoryPort,
  p: Ptr<S>,
  field: Field<NoInfer<S>>,
): void {
  cpu.store(p + field, 0);
  Atomics.notify(cpu.words, p + field, 1);
}

const pause: (() => void) | undefined = (Atomics as { pause?: () => void }).pause;

/** Tells the processor that this is a spin loop. @kernel cpu_relax */
export const relax: (cpu: MemoryPort) => void = pause
  ? () => {
      pause();
    }
  : (cpu) => {
      cpu.load(0); // Node < 24 has no pause: a call that reads memory keeps the loop honest
    };

/**
 * Three marked loads in a row, as a page walk makes them: through tables of cells, each entry the word
 * index of the next table (its low 10 bits are flags). The table at the end, or 0 where an entry is 0.
 */
export function readOnceLinks(
  cpu: MemoryPort,
  table: number,
  first: number,
  second: number,
  third: number,
): number {
  return cpu.followLinks(table, first, second, third);
}

/**
 * Copies `count` cells (64 bits each, at even indices; at least one) out of memory that others write,
 * to memory that only the caller uses. Each cell is read whole. Orders nothing.
 */
export function readOnceCells(cpu: MemoryPort, to: number, from: number, count: number): void {
  cpu.copyCells(to, from, count);
}

/**
 * As readOnceCells, of cells whose first word has, of the bits of `test`, those of `match`: up to the first
 * that is different. Of the first words only the bits of `keep` are copied. Returns how many cells it were.
 */
export function readOnceCellsWhile(
  cpu: MemoryPort,
  to: number,
  from: number,
  count: number,
  test: number,
  match: number,
  keep: number,
): number {
  return cpu.copyRunWhile(to, from, count, test, match, keep);
}

/**
 * Clears and sets bits in the first word of each of `count` cells in which it has, of the bits of `test`,
 * those of `match`. Whoever else writes these words does so only as long as a bit of `settled` is missing:
 * a word that has them all is stored, any other is exchanged atomically. Orders nothing.
 */
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
  cpu.changeRun(at, count, test, match, settled, clear, set);
}

/** Copies `count` cells the caller owns into memory that others read; each is written whole. */
export function writeOnceCells(cpu: MemoryPort, to: number, from: number, count: number): void {
  cpu.copyCells(to, from, count);
}

/** Exchanges each of `count` cells with 0 and stores what was there at `to`. Fully ordered, per cell. */
export function takeCells(cpu: MemoryPort, to: number, from: number, count: number): void {
  cpu.takeCells(to, from, count);
}

/** Sets `count` cells that others read to 0; each is written whole. Orders nothing. */
export function clearCells(cpu: MemoryPort, to: number, count: number): void {
  cpu.clearRun(to, count);
}

/** Plain: sets `count` words to the byte `value`, four times over. */
export function fillWords(cpu: MemoryPort, to: number, value: number, count: number): void {
  cpu.fill(to, value, count);
}

/** Plain: copies `count` words; the two places may overlap. */
export function copyWords(cpu: MemoryPort, to: number, from: number, count: number): void {
  cpu.copy(to, from, count);
}

/** The other builds are told that a struct is given back to its allocator. */
export function noteFree(_cpu: MemoryPort, _at: number, _count: number): void {
  // nobody looks at full speed
}

/** … that one is handed out, */
export function noteAlloc(_cpu: MemoryPort, _at: number, _count: number): void {
  // nobody looks at full speed
}

/** … that words become a slab's, and are no struct yet, */
export function noteSlab(_cpu: MemoryPort, _at: number, _count: number): void {
  // nobody looks at full speed
}

/** … and that a slab's words are a frame's again. */
export function noteFrame(_cpu: MemoryPort, _at: number, _count: number): void {
  // nobody looks at full speed
}

/**
 * Nobody else stores to the word for as long as the caller's protection lasts: a store by another CPU, marked or
 * not, that is not ordered with this is a race. @kernel ASSERT_EXCLUSIVE_WRITER
 */
export function assertExclusiveWriter<S extends string>(
  _cpu: MemoryPort,
  _p: Ptr<S>,
  _field: Field<NoInfer<S>>,
): void {
  // nobody looks at full speed
}

/** … and nobody loads from it either. @kernel ASSERT_EXCLUSIVE_ACCESS */
export function assertExclusiveAccess<S extends string>(
  _cpu: MemoryPort,
  _p: Ptr<S>,
  _field: Field<NoInfer<S>>,
): void {
  // nobody looks at full speed
}
