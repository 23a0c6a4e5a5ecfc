/**
 * What the locks tell the debugging layer, in the checked and the turnstile build.
 *
 * A CPU that waits for a lock it already holds is reported at once, and not as the hang it becomes. Orders that
 * could become one are reported by lockdep (lockdep/lockdep.ts), and the CPU goes on.
 *
 * @module
 */
import { readOwn } from '#memory';

import { bug } from '../base/bug.js';
import type { Cpu } from '../machine/cpu.js';
import { lockClassName } from '../machine/lock-class.js';
import { LOCK_CLASS_WORD, type Spinlock } from '../machine/types.js';
import { heldIndex, popHeld, pushHeld } from './held-locks.js';
import { LOCK_KIND, LOCK_READ_RECURSIVE, LOCK_SYNC, LOCK_TRY } from './lock-how.js';
import {
  hardirqEnter as enterHardirq,
  lockdepAcquire,
  lockdepAcquired,
  lockdepAcquireNested,
  lockdepDowngrade,
  lockdepInit,
  lockdepMight,
  lockdepRelease,
  mapAcquire,
  mapRelease,
  mapTouch,
  NOTIFIER_MAP,
  taskOf,
} from './lockdep/lockdep.js';
import { findHeld, heldHow, isShared } from './lockdep/task.js';
import { lockName } from './wait-graph.js';

export {
  fsReclaimAcquire,
  fsReclaimRelease,
  localBhDisable,
  localBhEnable,
  localIrqDisable,
  localIrqEnable,
  lockdepReset as forgetHeld,
  hardirqExit,
  mapSync as lockMapSync,
  softirqEnter,
  softirqExit,
} from './lockdep/lockdep.js';
export { watchMemory } from './memory-report.js';

const LOCK_CLASS_FIELD = LOCK_CLASS_WORD as typeof Spinlock.lockClass;

/** The class that a lock carries; no scheduling point. */
function classOf(cpu: Cpu, lock: number): number {
  return readOwn(cpu, lock as Spinlock, LOCK_CLASS_FIELD);
}

export function lockInit(cpu: Cpu, lock: number): void {
  if (cpu.lockWatch !== null) lockdepInit(cpu, lock);
}

/** This CPU is about to wait for the lock, if need be. @throws KernelBug if it waits for itself */
export function lockAcquire(cpu: Cpu, lock: number, lockClass: number, how = 0): void {
  const task = taskOf(cpu);
  lockdepAcquire(cpu, task, lock, lockClass, how, 0);
  if (heldIndex(cpu, lock) >= 0) recursiveLocking(cpu, lock, lockClass, how);
}

/** A second reader may go on; everybody else would wait for itself. */
function recursiveLocking(cpu: Cpu, lock: number, lockClass: number, how: number): void {
  const task = taskOf(cpu);
  const entry = findHeld(task, lock);
  if ((how & LOCK_KIND) !== 0 && entry >= 0 && isShared(heldHow(task, entry))) return;
  bug(`cpu ${cpu.id}: recursive locking of ${lockClassName(lockClass)} (lock ${lock})`);
}

export function lockAcquireNest(
  cpu: Cpu,
  lock: number,
  lockClass: number,
  how: number,
  nest: number,
): void {
  lockdepAcquireNested(cpu, lock, lockClass, how, nest);
  if (heldIndex(cpu, lock) >= 0) recursiveLocking(cpu, lock, lockClass, how);
}

export function lockAcquired(cpu: Cpu, lock: number): void {
  pushHeld(cpu, lock);
  lockdepAcquired(cpu, taskOf(cpu), lock);
}

export function lockTryAcquired(cpu: Cpu, lock: number, how = 0): void {
  lockdepAcquire(cpu, taskOf(cpu), lock, classOf(cpu, lock), how | LOCK_TRY, 0);
  lockAcquired(cpu, lock);
}

export function lockRelease(cpu: Cpu, lock: number): void {
  popHeld(cpu, lock);
  lockdepRelease(taskOf(cpu), lock);
}

export function lockDowngrade(cpu: Cpu, lock: number): void {
  lockdepDowngrade(taskOf(cpu), lock);
}

/** This CPU is about to wait until whoever has the lock has given it back. @throws KernelBug if that is itself */
export function lockSync(cpu: Cpu, lock: number, lockClass: number): void {
  if (heldIndex(cpu, lock) >= 0) {
    bug(`cpu ${cpu.id}: waits for the end of its own read section of ${lockClassName(lockClass)}`);
  }
  lockdepAcquire(cpu, taskOf(cpu), lock, lockClass, LOCK_SYNC, 0);
}

/** The caller relies on this CPU holding the lock. @throws KernelBug if it does not */
export function assertHeld(cpu: Cpu, lock: number): void {
  if (heldIndex(cpu, lock) < 0) {
    bug(`cpu ${cpu.id}: ${lockName(cpu, lock)} (lock ${lock}) should be held, and is not`);
  }
}

/** The caller relies on this CPU not holding the lock. @throws KernelBug if it does */
export function assertNotHeld(cpu: Cpu, lock: number): void {
  if (heldIndex(cpu, lock) >= 0) {
    bug(`cpu ${cpu.id}: ${lockName(cpu, lock)} (lock ${lock}) is held, and should not be`);
  }
}

export function mightLock(cpu: Cpu, lock: number, how = 0): void {
  lockdepMight(cpu, lock, classOf(cpu, lock), how);
}

export function lockMapAcquire(cpu: Cpu, lockClass: number): void {
  mapAcquire(cpu, lockClass, 0);
}

export function lockMapAcquireRead(cpu: Cpu, lockClass: number): void {
  mapAcquire(cpu, lockClass, LOCK_READ_RECURSIVE);
}

export function lockMapRelease(cpu: Cpu, lockClass: number): void {
  mapRelease(cpu, lockClass);
}

export function notifierMapAcquire(cpu: Cpu): void {
  mapAcquire(cpu, NOTIFIER_MAP, 0);
}

export function notifierMapRelease(cpu: Cpu): void {
  mapRelease(cpu, NOTIFIER_MAP);
}

export function notifierMapTouch(cpu: Cpu): void {
  mapTouch(cpu, NOTIFIER_MAP);
}

export function hardirqEnter(cpu: Cpu, threaded = true): void {
  enterHardirq(cpu, threaded);
}

/** This CPU has come to a named point of the kernel, which a litmus test may want it to meet others at. */
export function reachPoint(cpu: Cpu, name: string): void {
  if (cpu.points !== null) cpu.points.reach(name);
}
