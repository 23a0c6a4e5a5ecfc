/**
 * What a broken rule is called, whichever engine saw it and wherever things lay.
 *
 * A message tells of one run: the step at which a task came by, the word at which a struct lies. Two iterations
 * that break the same rule differ in these, and a table has one row for both.
 *
 * @module
 */

/** What all deadlocks are called. */
export const DEADLOCK = 'deadlock';
/** … and an iteration of real workers that does not end otherwise; it is none of those that are counted. */
export const NO_END = 'does not end';

/** How the checked build says that a CPU waits for itself, where the others would wait for ever. */
const WAITS_FOR_ITSELF = /^(?:recursive locking of|waits for the end of its own read section) /;

/** The message without CPUs, steps and addresses. */
export function withoutPlaces(message: string): string {
  if (message.startsWith("outcome '")) return message; // the program's own words
  return message
    .replace(/^cpu \d+: /, '')
    .replace(/ \(lock \d+\)$/, '')
    .replace(/(?:,| at) step \d+/g, '')
    .replace(/\bword \d+/g, 'a word')
    .replace(/@\d+|(?<=\[)\d+(?=\])/g, '')
    .replace(/(?<=\bframe) \d+/g, '')
    .replace(/ \d{4,}\b/g, '');
}

/** True if it says that a CPU has begun to wait for itself: a deadlock, seen before it is one. */
export function isDeadlock(message: string): boolean {
  return WAITS_FOR_ITSELF.test(withoutPlaces(message));
}
