/**
 * How workers meet outside of the machine's memory: a gate that all pass together, and a row of stages that
 * are passed in order.
 *
 * Protocol   gate: a word that counts how often it was opened, and one that counts who has come. Who comes
 *            last does what is to be done while nobody runs, and opens the gate for all. Coming in again is
 *            safe at once: the others wait for the next number.
 *            stages: a word that says how many stages of the row have been passed. Who comes to stage n may
 *            wait, for a while, until it is n, and makes it n + 1. Who has waited in vain breaks the row, so
 *            that nobody else waits.
 * Invariant  I1  No wake-up is lost: who sleeps does so on the word that is about to change, and who changes
 *                it wakes all that sleep there.
 * Ordering   All accesses are sequentially consistent: what was done before the gate is seen behind it, and
 *            what was done before a stage was passed is seen by who passes the next.
 *
 * @module
 */

/** Words of a gate or a row: a cache line. */
export const RENDEZVOUS_WORDS = 16;
/** Of a gate: how often it was opened. Of a row: stages passed; below 0 if broken. */
const COUNT = 0;
/** Of a gate: who has come. Of a row: who may sleep. */
const WAITING = 1;

/** Looks between two at the clock. */
const CLOCK_EVERY = 64;

/** How often the gate was opened. */
export function gateNumber(words: Int32Array, gate: number): number {
  return Atomics.load(words, gate + COUNT);
}

/** Comes to the gate; true if `parties` have come, and the caller is to open it. */
export function comeToGate(words: Int32Array, gate: number, parties: number): boolean {
  return Atomics.add(words, gate + WAITING, 1) === parties - 1;
}

/** Lets all pass; for who came last. */
export function openGate(words: Int32Array, gate: number): void {
  Atomics.store(words, gate + WAITING, 0);
  Atomics.add(words, gate + COUNT, 1);
  Atomics.notify(words, gate + COUNT);
}

/**
 * Waits until the gate has been opened since `number` was read, for `timeoutMs` at most, and looks `spins` times
 * before it sleeps. True if it was opened.
 */
export function awaitGate(
  words: Int32Array,
  gate: number,
  number: number,
  spins: number,
  timeoutMs: number,
): boolean {
  for (let spin = 0; spin < spins; spin++) {
    if (Atomics.load(words, gate + COUNT) !== number) return true;
  }
  Atomics.wait(words, gate + COUNT, number, timeoutMs); // I1
  return Atomics.load(words, gate + COUNT) !== number;
}

/** Begins the row anew; while nobody runs. */
export function resetStages(words: Int32Array, row: number): void {
  Atomics.store(words, row + COUNT, 0);
  Atomics.store(words, row + WAITING, 0);
}

/** How many stages were passed, in order. */
export function stagesPassed(words: Int32Array, row: number): number {
  const count = Atomics.load(words, row + COUNT);
  return count < 0 ? -count - 1 : count;
}

/** Passes stage `n` if it is the next; true if so. */
export function passStage(words: Int32Array, row: number, n: number): boolean {
  if (Atomics.compareExchange(words, row + COUNT, n, n + 1) !== n) return false;
  if (Atomics.load(words, row + WAITING) !== 0) Atomics.notify(words, row + COUNT); // I1
  return true;
}

/**
 * Waits until stage `n` is the next, for `timeoutMs` at most, and looks `spins` times before it sleeps. False,
 * if it is not and will not be: it was passed before, the row is broken, or has been by this.
 */
export function awaitStage(
  words: Int32Array,
  row: number,
  n: number,
  spins: number,
  timeoutMs: number,
): boolean {
  let count = Atomics.load(words, row + COUNT);
  if (count === n) return true;
  const deadline = performance.now() + timeoutMs;
  for (let spin = 1; spin <= spins && count >= 0 && count < n; spin++) {
    if (spin % CLOCK_EVERY === 0 && performance.now() > deadline) break;
    count = Atomics.load(words, row + COUNT);
  }
  if (count >= 0 && count < n) count = sleepForStage(words, row, n, deadline);
  return count === n;
}

function sleepForStage(words: Int32Array, row: number, n: number, deadline: number): number {
  Atomics.add(words, row + WAITING, 1); // I1: before the look that the sleep begins with
  let count = Atomics.load(words, row + COUNT);
  while (count >= 0 && count < n) {
    const left = deadline - performance.now();
    if (left > 0) Atomics.wait(words, row + COUNT, count, left);
    else breakStages(words, row, count);
    count = Atomics.load(words, row + COUNT);
  }
  Atomics.sub(words, row + WAITING, 1);
  return count;
}

/** Nobody shall wait for a stage any more; what was passed still counts. */
function breakStages(words: Int32Array, row: number, count: number): void {
  if (Atomics.compareExchange(words, row + COUNT, count, -count - 1) === count) {
    Atomics.notify(words, row + COUNT);
  }
}
