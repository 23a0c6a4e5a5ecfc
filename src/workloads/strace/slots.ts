/**
 * Which simulated CPU each task runs on.
 *
 * A task has one from its first line to its last; the next task to begin takes the lowest that is free.
 * So there are as many as there were ever tasks alive at once.
 *
 * @module
 */

/** When a task is alive. Unit: lines, both inclusive. */
export interface Lifetime {
  readonly firstLine: number;
  readonly lastLine: number;
}

/** The slot of each task; tasks come in the order of their first lines. */
export function assignSlots(lifetimes: readonly Lifetime[]): number[] {
  const busyUntil: number[] = [];
  return lifetimes.map(({ firstLine, lastLine }) => {
    const free = busyUntil.findIndex((line) => line < firstLine);
    const slot = free < 0 ? busyUntil.length : free;
    busyUntil[slot] = lastLine;
    return slot;
  });
}
