/**
 * How a lock is taken, in one word: what the locks tell the debugging layer.
 *
 * Kernel     include/linux/lockdep.h (lock_acquire), include/linux/lockdep_types.h (LD_WAIT_*)
 *
 *              15   14      13    12         11 .. 9  8 .. 6  5 .. 3    2    1 .. 0
 *              map  nested  sync  unchecked  outer    inner   subclass  try  kind
 *
 * @module
 */

/** Kind: nobody else has it. */
export const LOCK_EXCLUSIVE = 0;
/** Kind: beside other readers; a waiting writer keeps a second read of the same task out. */
export const LOCK_READ = 1;
/** Kind: beside other readers, whoever waits. */
export const LOCK_READ_RECURSIVE = 2;
export const LOCK_KIND = 3;

/** It was free: nobody waited. */
export const LOCK_TRY = 4;

/** Of two locks of one class that are held at once, the inner. @kernel SINGLE_DEPTH_NESTING */
export const SINGLE_DEPTH_NESTING = 1;
export const SUBCLASSES_MAX = 8;
const SUBCLASS_SHIFT = 3;

/** The lock is one of several of its class; whoever holds them all takes them in this order. */
export function lockSubclass(subclass: number): number {
  return (subclass & (SUBCLASSES_MAX - 1)) << SUBCLASS_SHIFT;
}

export function subclassOf(how: number): number {
  return (how >> SUBCLASS_SHIFT) & (SUBCLASSES_MAX - 1);
}

/** What waiting for the lock does to the CPU: nothing at all, … */
export const WAIT_FREE = 1;
/** … it spins, with everything off; */
export const WAIT_SPIN = 2;
/** … it spins, but in a real-time kernel would sleep; */
export const WAIT_CONFIG = 3;
/** … it sleeps. */
export const WAIT_SLEEP = 4;
/** No lock allows more. */
export const WAIT_MAX = 5;
const INNER_SHIFT = 6;
const OUTER_SHIFT = 9;
const WAIT_MASK = 7;

/** Inside the lock one may wait as `inner` says; to take it one must be allowed to wait as `outer` says. */
export function lockWaits(inner: number, outer = inner): number {
  return (inner << INNER_SHIFT) | (outer << OUTER_SHIFT);
}

export function innerWaitOf(how: number): number {
  return (how >> INNER_SHIFT) & WAIT_MASK;
}

export function outerWaitOf(how: number): number {
  return (how >> OUTER_SHIFT) & WAIT_MASK;
}

/** A spinlock, and a sleeping lock. */
export const SPINNING = lockWaits(WAIT_CONFIG);
export const SLEEPING = lockWaits(WAIT_SLEEP);

/** It is noted as held, and no order is learned from it. */
export const LOCK_UNCHECKED = 1 << 12;
/** Taken and given back at once: a wait for those who hold it. @kernel lock_sync */
export const LOCK_SYNC = 1 << 13;
/** Whoever takes several of the class holds another lock around all of them. @kernel mutex_lock_nest_lock */
export const LOCK_NESTED = 1 << 14;
/** No lock, but something that is waited for like one; what carries it may be freed while it is held. */
export const LOCK_MAP = 1 << 15;
