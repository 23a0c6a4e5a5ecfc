/**
 * The turnstile build of `#memory` (`--conditions=faultline-turnstile`): every operation is a place where
 * one CPU may stop and another go on. It counts every operation on the CPU that performs it.
 *
 * @module
 */
export * from './memory.counting.js';

/** Which build of the door this program runs with. */
export const BUILD: 'parallel' | 'checked' | 'turnstile' = 'turnstile';
