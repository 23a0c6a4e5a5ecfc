/**
 * The turnstile build of `#memory` (`--conditions=faultline-turnstile`): it counts every operation on
 * the CPU that performs it, as the checked build does.
 *
 * @module
 */
export * from './memory.counting.js';

/** Which build of the door this program runs with. */
export const BUILD: 'parallel' | 'checked' | 'turnstile' = 'turnstile';
