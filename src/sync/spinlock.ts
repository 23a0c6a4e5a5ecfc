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
import {
  localIrqDisable,
  localIrqEnable,
  lockAcquire,
  lockAcquired,
  lockInit,
  lockRelease,
  lockTryAcquired,
} from '#debug';
import { readOwn } from '#memory';

import { lockSubclass, SPINNING } from '../debug/lock-how.js';
import {
  archSpinLock,
  archSpinTrylock,
  archSpinUnlock,
  initSpinlock as initArchSpinlock,
} from '../machine/arch-spinlock.js';
import type { Cpu } from '../machine/cpu.js';
import type { LockClass } from '../machine/lock-class.js';
import { Spinlock } from '../machine/types.js';

export { Spinlock } from '../machine/types.js';

/** Makes a free lock of the class. @kernel spin_lock_init */
export function initSpinlock(cpu: Cpu, lock: Spinlock, name: LockClass): void {
  lockInit(cpu, lock);
  initArchSpinlock(cpu, lock, name);
}

/** Takes the lock; no sleeping until spinUnlock. @kernel spin_lock */
export function spinLock(cpu: Cpu, lock: Spinlock): void {
  lockAcquire(cpu, lock, readOwn(cpu, lock, Spinlock.lockClass), SPINNING);
  archSpinLock(cpu, lock);
  lockAcquired(cpu, lock);
}

/** As spinLock, of a lock whose class has an order of its own. @kernel spin_lock_nested */
export function spinLockNested(cpu: Cpu, lock: Spinlock, subclass: number): void {
  const how = SPINNING | lockSubclass(subclass);
  lockAcquire(cpu, lock, readOwn(cpu, lock, Spinlock.lockClass), how);
  archSpinLock(cpu, lock);
  lockAcquired(cpu, lock);
}

/** As spinLock, of a lock that a device's top half takes too: it would keep the interrupt out. @kernel spin_lock_irq */
export function spinLockIrq(cpu: Cpu, lock: Spinlock): void {
  localIrqDisable(cpu);
  spinLock(cpu, lock);
}

/** Ends what spinLockIrq began. @kernel spin_unlock_irq */
export function spinUnlockIrq(cpu: Cpu, lock: Spinlock): void {
  spinUnlock(cpu, lock);
  localIrqEnable(cpu);
}

/** Takes the lock if it is free; true if it did. @kernel spin_trylock */
export function spinTrylock(cpu: Cpu, lock: Spinlock): boolean {
  if (!archSpinTrylock(cpu, lock)) return false;
  lockTryAcquired(cpu, lock, SPINNING);
  return true;
}

/** Gives the lock back. @kernel spin_unlock */
export function spinUnlock(cpu: Cpu, lock: Spinlock): void {
  lockRelease(cpu, lock);
  archSpinUnlock(cpu, lock);
}
