/**
 * Tables that are filled before workers get them, and that nobody writes afterwards.
 *
 * They are shared so that handing them over copies nothing. No access to them races: a worker receives
 * them in a message, which comes after all that was written before it was sent.
 *
 * @module
 */

/** A table of doubles in shared memory, all 0. */
export function sharedDoubles(length: number): Float64Array<SharedArrayBuffer> {
  return new Float64Array(new SharedArrayBuffer(length * Float64Array.BYTES_PER_ELEMENT));
}

/** A table of 32-bit integers in shared memory, all 0. */
export function sharedIntegers(length: number): Int32Array<SharedArrayBuffer> {
  return new Int32Array(new SharedArrayBuffer(length * Int32Array.BYTES_PER_ELEMENT));
}
