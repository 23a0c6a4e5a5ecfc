/**
 * Largest machine.
 *
 * @module
 */

/** CPUs of one machine, the boot CPU not counted; device-fault threads and engines are CPUs too. */
export const CPUS_MAX = 255;
/** Words of one machine's memory: 4 GiB. */
export const MEMORY_WORDS_MAX = 2 ** 30;
