/**
 * How the shadow of a machine's memory lies in memory (shadow.ts): notes of lines and of their words.
 *
 * @module
 */

/** Kinds of use that have an epoch of their own. */
export const KINDS = 4;

/** Words of a line. */
export const LINE = 16;
export const LINE_SHIFT = 4;

// words of a line's notes
/** Odd while the line is locked. */
export const L_LOCK = 0;
/**
 * Words with an epoch: a bit each; and a bit each for those with one of a plain use, PLAIN_SHIFT further up. Who sets
 * one has no lock: a bit may be lost, and its epochs outlive a fill.
 */
export const L_USED = 1;
/** How many words are nobody's. */
export const L_FREED = 2;
/** Kinds of use that were made of the whole line: a bit each. */
export const L_WHOLE = 3;
/** Where the release of the whole line is kept; 0: none. */
export const L_RELEASE = 4;
/** Words with a release that has not ended: a bit each. */
export const L_RELEASED = 5;
export const HEAD_WORDS = 16;

// words of an entry
/** Where the word's release is kept; 0: none yet; negative: there, but ended. */
export const E_RELEASE = 0;
/** Not 0: the word is nobody's. SLACK, or the stack by which it was given back. */
export const E_FREED = 1;
/** Of an object's first word: the stack by which it was handed out; 0: it is not. */
export const E_SITE = 2;
export const ENTRY_WORDS = 4;
export const LINE_WORDS = HEAD_WORDS + LINE * ENTRY_WORDS;
export const PLAIN_SHIFT = 16;
export const ALL_OF_LINE = (1 << LINE) - 1;

/** Where the notes of a word's line begin. */
export function lineOf(word: number): number {
  return (word >> LINE_SHIFT) * LINE_WORDS;
}

/** The first word behind the line, or the end of the run, if that comes before. */
export function lineEnd(word: number, end: number): number {
  return Math.min(end, (word | (LINE - 1)) + 1);
}

/** The bits of L_USED of words of one line. */
export function maskOf(from: number, next: number): number {
  const count = next - from;
  return ((1 << count) - 1) << (from & (LINE - 1));
}

/** The bit of a word among those of its line. */
export function bitOf(word: number): number {
  return 1 << (word & (LINE - 1));
}

/** Where the notes of a word begin. */
export function entryOf(word: number): number {
  return (word >> LINE_SHIFT) * LINE_WORDS + HEAD_WORDS + (word & (LINE - 1)) * ENTRY_WORDS;
}
