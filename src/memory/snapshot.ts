/**
 * A copy of a machine's memory, and the way back to it: for running the same start many times.
 *
 * @module
 */
import type { MemoryPort } from './port.js';

/** Runs shorter than this are copied word by word. */
const SHORT_RUN = 16;

/** The words of the memory, for who watches them; they are changed through #memory only. */
export function memoryWords(port: MemoryPort): Int32Array {
  return port.words;
}

/** The memory as it is now. */
export function takeSnapshot(port: MemoryPort): Int32Array {
  return port.words.slice();
}

/** Copies back the runs of words that a log names: its entries from `from` to `end` are `at, count`. */
export function restoreRuns(
  memory: Int32Array,
  snapshot: Int32Array,
  log: Int32Array,
  from: number,
  end: number,
): void {
  for (let entry = from; entry < end; entry += 2) {
    const at = log[entry]!;
    const count = log[entry + 1]!;
    if (count < SHORT_RUN) for (let i = at; i < at + count; i++) memory[i] = snapshot[i]!;
    else memory.set(snapshot.subarray(at, at + count), at);
  }
}
