/**
 * `#mutants` of the checked and the turnstile build: a machine may have one planted mistake.
 *
 * Protocol   `bootMachine({ mutant })` writes its number into the machine's memory before any CPU exists;
 *            each CPU copies it when it is made. So all CPUs of a machine agree, in any thread.
 *
 * @module
 */
export * from './mutant-numbers.js';

/** True if this build can plant mistakes. */
export const MUTANTS = true as boolean;

/** True if the machine has that mistake. */
export function isMutant(cpu: { readonly mutant: number }, mutant: number): boolean {
  return cpu.mutant === mutant;
}
