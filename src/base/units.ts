/**
 * Sizes of the emulated machine and conversions between its units.
 *
 * Addresses are bytes, kept as doubles because 48 bits do not fit an integer of V8's; everything that
 * counts pages, frames, words or table entries is a small integer.
 *
 * @module
 */

export const WORD_BYTES = 4;
export const PAGE_SIZE = 4096;
/** Words in a page or a frame. */
export const PAGE_WORDS = PAGE_SIZE / WORD_BYTES;

/** End of the half of the addresses that is the user's: 47 bits, as on x86-64. */
export const USER_VA_END = 2 ** 47;
/** First address that no program maps: the last page below that end stays free. */
export const TASK_SIZE = USER_VA_END - PAGE_SIZE;

/** Rounds an address down to its page. */
export function pageAlignDown(va: number): number {
  return Math.floor(va / PAGE_SIZE) * PAGE_SIZE;
}

/** Rounds an address or a length up to whole pages. */
export function pageAlignUp(va: number): number {
  return Math.ceil(va / PAGE_SIZE) * PAGE_SIZE;
}

/** True if the address is the start of a page. */
export function isPageAligned(va: number): boolean {
  return va % PAGE_SIZE === 0;
}
