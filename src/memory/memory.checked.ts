/**
 * The checked build of `#memory` (`--conditions=faultline-checked`): for finding bugs, not for speed.
 * It counts every operation on the CPU that performs it.
 *
 * @module
 */
export * from './memory.counting.js';

/** Which build of the door this program runs with. */
export const BUILD: 'parallel' | 'checked' | 'turnstile' = 'checked';
