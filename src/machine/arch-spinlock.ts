/**
 * Spinlock of the lowest layer: three values in a word, spinning first and halting after.
 *
 * Kernel     arch_spin_lock; the halting is that of a paravirtualised kernel (CONFIG_PARAVIRT_SPINLOCKS)
 * Protocol   0 free, 1 held, 2 held and somebody may be parked on the word.
 *              lock:    0 -> 1, else spin for SPINS_MAX, then x -> 2 until x was 0, parking in between
 *              unlock:  x -> 0; x was 2: wake one
 * Invariant  I1  The value is not 0 from lock to unlock.
 *            I2  While somebody is parked the value is 2, or an unlock that will wake one has started:
 *                whoever gets the lock after parking leaves it at 2.
 * Ordering   Each transition is an atomic exchange: full barriers on both sides of the section.
 * Deviation  The kernel's queued lock is fair and spins for ever, which on a host with more workers than
 *            cores burns the time slice that the holder needs; so a waiter halts as a virtual CPU would.
 *            Nothing promises who gets the lock next.
 * Cost       Two read-modify-writes.
 *
 * This layer's locks are not tracked by lockdep; sync/spinlock.ts is the one to use above it.
 *
 * @module
 */
import {
  awaitFree,
  cmpxchg,
  exchange,
  park,
  readOnce,
  spinLimit,
  unpark,
  write,
  writeOnce,
} from '#memory';
import { BUSTED_SPINLOCK, BUSTED_SPINLOCK_WAKE, isMutant } from '#mutants';

import { bug } from '../base/bug.js';
import type { Cpu } from './cpu.js';
import type { LockClass } from './lock-class.js';
import { beginWait, checkHalted, cpuRelax, endWait } from './sched.js';
import { Spinlock } from './types.js';
import { WAIT_SPINLOCK } from './wait-kind.js';

/** Spins before a waiter halts; about 2 µs. */
const SPINS_MAX = spinLimit(400);

/** Makes a free lock of the class. */
export function initSpinlock(cpu: Cpu, lock: Spinlock, name: LockClass): void {
  write(cpu, lock, Spinlock.lockClass, name);
  write(cpu, lock, Spinlock.value, 0);
}

/** Takes the lock; spins, then halts. No sleeping until archSpinUnlock. */
export function archSpinLock(cpu: Cpu, lock: Spinlock): void {
  cpu.preemptCount++;
  awaitFree(cpu, lock, Spinlock.value);
  if (isMutant(cpu, BUSTED_SPINLOCK)) lockInTwoSteps(cpu, lock);
  else if (cmpxchg(cpu, lock, Spinlock.value, 0, 1) !== 0) archSpinLockSlow(cpu, lock); // pairs with archSpinUnlock
}

/** The mistake: somebody may take the lock between the look and the store. */
function lockInTwoSteps(cpu: Cpu, lock: Spinlock): void {
  if (readOnce(cpu, lock, Spinlock.value) === 0) writeOnce(cpu, lock, Spinlock.value, 1);
  else archSpinLockSlow(cpu, lock);
}

/** Takes the lock if it is free. */
export function archSpinTrylock(cpu: Cpu, lock: Spinlock): boolean {
  if (cmpxchg(cpu, lock, Spinlock.value, 0, 1) !== 0) return false;
  cpu.preemptCount++;
  return true;
}

/** Gives the lock back. */
export function archSpinUnlock(cpu: Cpu, lock: Spinlock): void {
  const before = exchange(cpu, lock, Spinlock.value, 0); // pairs with archSpinLock
  if (before !== 1) archSpinUnlockSlow(cpu, lock, before);
  cpu.preemptCount--;
}

function archSpinLockSlow(cpu: Cpu, lock: Spinlock): void {
  for (let spins = 0; spins < SPINS_MAX; spins++) {
    cpuRelax(cpu, spins);
    if (
      readOnce(cpu, lock, Spinlock.value) === 0 &&
      cmpxchg(cpu, lock, Spinlock.value, 0, 1) === 0
    ) {
      return;
    }
  }
  beginWait(cpu, WAIT_SPINLOCK, lock);
  let left = 2; // I2
  while (exchange(cpu, lock, Spinlock.value, left) !== 0) {
    park(cpu, lock, Spinlock.value, 2, Infinity);
    checkHalted(cpu);
    if (isMutant(cpu, BUSTED_SPINLOCK_WAKE)) left = 1;
  }
  endWait(cpu);
}

function archSpinUnlockSlow(cpu: Cpu, lock: Spinlock, before: number): void {
  if (before === 0) bug(`spinlock ${lock}: unlock of a free lock (I1)`);
  unpark(cpu, lock, Spinlock.value, 1);
}
