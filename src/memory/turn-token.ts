/**
 * One token that workers hand to each other: whoever has it runs, everybody else waits.
 *
 * Protocol   Each worker has a slot of its own. giveTurn sets the slot of whoever is next; awaitTurn waits
 *            until its own is set, and clears it. A waiter looks at its slot for a while, which is the fast
 *            way while there is a core for each worker, and then sleeps until it is woken.
 * Invariant  I1  One slot is set, or one worker runs.
 *            I2  No wake-up is lost: the waiter says that it sleeps before the futex looks at the slot again,
 *                and the giver sets the slot before it looks whether somebody sleeps.
 * Ordering   Setting a slot is a release, finding it set an acquire; both are sequentially consistent. What
 *            one worker did with the token, the next one sees, whatever kind of access it was.
 *
 * @module
 */

/** Words of a slot: a cache line, so that a waiter's look disturbs nobody. */
export const SLOT_WORDS = 16;
/** In a slot: 1 if it is this worker's turn. */
const TURN = 0;
/** … 1 if it sleeps, and must be woken. */
const ASLEEP = 1;

/** Hands the token to the worker with the slot at `slot`. */
export function giveTurn(words: Int32Array, slot: number): void {
  Atomics.store(words, slot + TURN, 1); // pairs with awaitTurn
  if (Atomics.load(words, slot + ASLEEP) !== 0) Atomics.notify(words, slot + TURN, 1); // I2
}

/** Waits for the token; looks `spins` times before it sleeps. True if it slept. */
export function awaitTurn(words: Int32Array, slot: number, spins: number): boolean {
  for (let spin = 0; spin < spins; spin++) {
    if (Atomics.load(words, slot + TURN) === 0) continue;
    words[slot + TURN] = 0; // nobody sets it before this worker has given the token away
    return false;
  }
  Atomics.store(words, slot + ASLEEP, 1); // I2
  while (Atomics.load(words, slot + TURN) === 0) Atomics.wait(words, slot + TURN, 0);
  words[slot + ASLEEP] = 0;
  words[slot + TURN] = 0;
  return true;
}

/** Says that one more has come. */
export function arrive(words: Int32Array, at: number): void {
  Atomics.add(words, at, 1);
  Atomics.notify(words, at);
}

/** Sleeps until `count` have come. */
export function awaitArrivals(words: Int32Array, at: number, count: number): void {
  for (;;) {
    const arrived = Atomics.load(words, at);
    if (arrived >= count) return;
    Atomics.wait(words, at, arrived);
  }
}

/** The thread does nothing for so long. Unit: milliseconds. */
export function pause(ms: number): void {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms);
}

/** A word as it is now, for who watches from outside. */
export function glance(words: Int32Array, at: number): number {
  return Atomics.load(words, at);
}

/** Claims what only one may have: true for the first who asks. */
export function claimWord(words: Int32Array, at: number): boolean {
  return Atomics.compareExchange(words, at, 0, 1) === 0;
}

/** Leaves a text of at most `max` characters at `at`, for whoever has the token next: its length comes first. */
export function leaveText(words: Int32Array, at: number, max: number, text: string): void {
  const length = Math.min(text.length, max);
  words[at] = length;
  for (let i = 0; i < length; i++) words[at + 1 + i] = text.charCodeAt(i);
}

/** The text that was left. */
export function textLeftAt(words: Int32Array, at: number): string {
  let text = '';
  for (let i = 0; i < words[at]!; i++) text += String.fromCharCode(words[at + 1 + i]!);
  return text;
}

/** Sets a word that others glance at. */
export function leaveWord(words: Int32Array, at: number, value: number): void {
  Atomics.store(words, at, value);
}
