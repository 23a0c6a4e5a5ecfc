/**
 * Words as sets of small numbers.
 *
 * @module
 */

/** The smallest number of the set; the word must not be 0. */
export function lowestBit(mask: number): number {
  return 31 - Math.clz32(mask & -mask);
}

/** True if the set has one number, or none. */
export function hasOneBit(mask: number): boolean {
  return (mask & (mask - 1)) === 0;
}

/** How many there are. */
export function bitCount(mask: number): number {
  let count = 0;
  for (let rest = mask; rest !== 0; rest &= rest - 1) count++;
  return count;
}
