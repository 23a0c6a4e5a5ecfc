/**
 * Contexts that a lock class is marked with, and which of them exclude each other.
 *
 * Kernel     kernel/locking/lockdep_internals.h (enum lock_usage_bit)
 *
 *            hard   soft
 *             0      4     taken in the interrupt
 *             1      5     … for reading
 *             2      6     taken where the interrupt may come
 *             3      7     … for reading
 *
 * @module
 */

/** First usage of soft interrupts. */
export const SOFTIRQ = 4;
export const USED_IN = 0;
export const ENABLED = 2;
export const READ = 1;

const NAMES = [
  'IN-HARDIRQ-W',
  'IN-HARDIRQ-R',
  'HARDIRQ-ON-W',
  'HARDIRQ-ON-R',
  'IN-SOFTIRQ-W',
  'IN-SOFTIRQ-R',
  'SOFTIRQ-ON-W',
  'SOFTIRQ-ON-R',
];

/** As the kernel prints it. */
export function usageName(usage: number): string {
  return NAMES[usage] ?? `usage ${usage}`;
}

/** Sets of usages: taken in an interrupt, and where one may come. */
export const USED_IN_ANY = 0x33;
export const ENABLED_ANY = 0xcc;
const WRITES = 0x55;
const READS = 0xaa;

/** The usage that excludes this one, of a writer. */
export function excludedBy(usage: number): number {
  return (usage & ~READ) ^ ENABLED;
}

/** All usages that one of these excludes, on another lock. */
export function exclusiveUsages(usages: number): number {
  const other = ((usages & USED_IN_ANY) << 2) | ((usages & ENABLED_ANY) >> 2);
  return other | ((other & READS) >> 1) | ((other & WRITES) << 1);
}
