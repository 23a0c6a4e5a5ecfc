/**
 * The arguments of a step: numbers, words, addresses; and what it answers.
 *
 * @module
 */
import { PAGE_SIZE } from '../base/units.js';
import type { Va } from '../memory/layout.js';
import * as uapi from '../mm/uapi.js';
import { vaOf } from './world.js';

/** A step without what was recorded of its outcome. */
export interface StepInput {
  readonly op: string;
  readonly [argument: string]: unknown;
}

/** What a step answers, by the names of the format. */
export type Answer = Readonly<Record<string, unknown>> & { readonly result: number };

/** A number of the step, or the default. */
export function numberOf(step: StepInput, name: string, fallback = 0): number {
  const value = step[name];
  return typeof value === 'number' ? value : fallback;
}

/** A text of the step, or the default. */
export function textOf(step: StepInput, name: string, fallback = ''): string {
  const value = step[name];
  return typeof value === 'string' ? value : fallback;
}

/** The words of a list in one text: `private,anon`. */
export function wordsOf(step: StepInput, name: string): string[] {
  return textOf(step, name)
    .split(',')
    .filter((one) => one !== '');
}

/** Where the step's range begins. Unit: bytes. */
export function startOf(step: StepInput): Va {
  return vaOf(numberOf(step, 'at')) + numberOf(step, 'boff');
}

/** How long it is. Unit: bytes. */
export function lengthOf(step: StepInput): number {
  return numberOf(step, 'n') * PAGE_SIZE + numberOf(step, 'blen');
}

/** Bits of PROT_* for letters. */
export function protOf(step: StepInput): number {
  const letters = textOf(step, 'prot');
  if (letters === 'none') return uapi.PROT_NONE;
  return (
    (letters.includes('r') ? uapi.PROT_READ : 0) |
    (letters.includes('w') ? uapi.PROT_WRITE : 0) |
    (letters.includes('x') ? uapi.PROT_EXEC : 0)
  );
}

const MAP_WORDS: Readonly<Record<string, number>> = {
  private: uapi.MAP_PRIVATE,
  shared: uapi.MAP_SHARED,
  anon: uapi.MAP_ANONYMOUS,
  populate: uapi.MAP_POPULATE,
  locked: uapi.MAP_LOCKED,
  growsdown: uapi.MAP_GROWSDOWN,
  hugetlb: uapi.MAP_HUGETLB,
};

/** Flags of mmap. */
export function mapFlagsOf(step: StepInput): number {
  const words = wordsOf(step, 'flags');
  const place = words.includes('replace') ? uapi.MAP_FIXED : uapi.MAP_FIXED_NOREPLACE;
  return words.reduce((flags, one) => flags | (MAP_WORDS[one] ?? 0), place);
}

/** Flags of mremap. */
export function mremapFlagsOf(step: StepInput): number {
  const words = wordsOf(step, 'flags');
  return (
    (words.includes('maymove') ? uapi.MREMAP_MAYMOVE : 0) |
    (words.includes('fixed') ? uapi.MREMAP_FIXED | uapi.MREMAP_MAYMOVE : 0) |
    (words.includes('dontunmap') ? uapi.MREMAP_DONTUNMAP | uapi.MREMAP_MAYMOVE : 0)
  );
}

/** MADV_* by its name; undefined for one that is not known here. */
export function adviceOf(step: StepInput): number | undefined {
  return (uapi as Readonly<Record<string, unknown>>)[`MADV_${textOf(step, 'advice')}`] as
    number | undefined;
}
