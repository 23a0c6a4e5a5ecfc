/**
 * Largest machine, and everybody in it.
 *
 * @module
 */
import { BUILD } from '#memory';

/** CPUs of one machine, the boot CPU not counted; device-fault threads and engines are CPUs too. */
export const CPUS_MAX = 255;
/** One machine's memory has fewer words: its end must have an address of 32 bits. 4 GiB. */
export const MEMORY_WORDS_MAX = 2 ** 30;

/**
 * Words at the end of a machine's memory for the graph of lock orders (debug/lockdep). The operating system
 * commits what is written, which is nothing in the parallel build. A machine that is explored is copied
 * whole: there it is small.
 */
export const LOCKDEP_WORDS = BUILD === 'turnstile' ? 2 ** 14 : 2 ** 19;

/**
 * End of the physical addresses: frames have numbers of 20 bits, as page table entries hold them. What is
 * not the machine's memory is for devices. Unit: bytes.
 */
export const PHYSICAL_END = 2 ** 32;

/** How many to unpark, when all are meant. */
export const EVERYBODY = 0x7fffffff;
