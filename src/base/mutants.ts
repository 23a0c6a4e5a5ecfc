/**
 * `#mutants` of the parallel build: there are none.
 *
 * The other builds can plant one mistake at a time in a machine (mutants.switchable.ts); kernel code asks
 * `isMutant` where the mistake would be made. Here that is a constant, and bundling leaves nothing of it.
 * It must be the left side of a condition that it is part of: `isMutant(cpu, M_4) || …`.
 *
 * @module
 */
export * from './mutant-numbers.js';

/** True if this build can plant mistakes. */
export const MUTANTS = false as boolean;

/** True if the machine has that mistake. */
export function isMutant(_cpu: { readonly mutant: number }, _mutant: number): boolean {
  return false;
}
