/**
 * Largest machine, and how long and how many of its CPUs park.
 *
 * @module
 */

/** CPUs of one machine, the boot CPU not counted; device-fault threads and engines are CPUs too. */
export const CPUS_MAX = 255;
/** One machine's memory has fewer words: its end must have an address of 32 bits. 4 GiB. */
export const MEMORY_WORDS_MAX = 2 ** 30;

/**
 * A park is cut into slices, after each of which the machine's halted word is read: no wake-up depends on
 * it, and nothing outlives the machine for longer. Unit: milliseconds.
 */
export const HALT_SLICE_MS = 100;
/** How many to unpark, when all are meant. */
export const EVERYBODY = 0x7fffffff;
