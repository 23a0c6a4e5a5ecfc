/**
 * Largest machine, and everybody in it.
 *
 * @module
 */

/** CPUs of one machine, the boot CPU not counted; device-fault threads and engines are CPUs too. */
export const CPUS_MAX = 255;
/** One machine's memory has fewer words: its end must have an address of 32 bits. 4 GiB. */
export const MEMORY_WORDS_MAX = 2 ** 30;

/** How many to unpark, when all are meant. */
export const EVERYBODY = 0x7fffffff;
