/**
 * Spinlock: mutual exclusion for sections that never sleep.
 *
 * Kernel     include/linux/spinlock.h
 * Protocol   machine/arch-spinlock.ts takes and gives the lock; this file tells the debugging layer.
 * Invariant  I1  At most one CPU is between spinLock and spinUnlock.
 *            I2  Nothing sleeps in between: preempt_count is raised, and every sleeping function looks.
 * Ordering   Full barriers on both sides.
 *
 * @module
 */
import { lockAcquire, lockAcquired, lockRelease } from '#debug';
import { readOwn } from '#memory';

import { archSpinLock, archSpinTrylock, archSpinUnlock } from '../machine/arch-spinlock.js';
import type { Cpu } from '../machine/cpu.js';
import { Spinlock } from '../machine/types.js';

export { initSpinlock } from '../machine/arch-spinlock.js';
export { Spinlock } from '../machine/types.js';

/** Takes the lock; no sleeping until spinUnlock. @kernel spin_lock */
export function spinLock(cpu: Cpu, lock: Spinlock): void {
  lockAcquire(cpu, lock, readOwn(cpu, lock, Spinlock.lockClass));
  archSpinLock(cpu, lock);
  lockAcquired(cpu, lock);
}

/** Takes the lock if it is free; true if it did. @kernel spin_trylock */
export function spinTrylock(cpu: Cpu, lock: Spinlock): boolean {
  if (!archSpinTrylock(cpu, lock)) return false;
  lockAcquired(cpu, lock);
  return true;
}

/** Gives the lock back. @kernel spin_unlock */
export function spinUnlock(cpu: Cpu, lock: Spinlock): void {
  lockRelease(cpu, lock);
  archSpinUnlock(cpu, lock);
}
