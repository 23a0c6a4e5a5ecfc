/**
 * Mutex: sleeping mutual exclusion with optimistic spinning and hand-off.
 *
 * Kernel     kernel/locking/mutex.c
 * Protocol   `owner` holds the owner's area and three flags in its low bits.
 *              WAITERS  the queue is not empty: unlock must wake its head
 *              HANDOFF  the head has been woken in vain once: unlock must give the lock to it
 *              PICKUP   the lock is given to the task named, which has not taken it yet
 *            lock:    0 -> me; else spin while the owner runs; else queue, sleep, try again
 *            unlock:  me -> 0; with flags: clear me, wake the head, or with HANDOFF name it
 * Invariant  I1  At most one CPU is between mutexLock and mutexUnlock.
 *            I2  With PICKUP set only the CPU that is named takes the lock.
 *            I3  A waiter at the head of the queue gets the lock after at most one critical section
 *                of somebody who came later (it sets HANDOFF when it was woken in vain).
 * Ordering   Taking the lock is a full barrier, and so is giving it: a compare-and-exchange of `owner`.
 * Deviation  The kernel spins until its CPU must reschedule; a spinner here gives up after SPINS_MAX,
 *            because the worker that owns the lock may have lost its core without our knowing.
 * Cost       Uncontended lock and unlock: two read-modify-writes.
 *
 * @module
 */
import {
  lockAcquire,
  lockAcquired,
  lockAcquireNest,
  lockInit,
  lockRelease,
  lockTryAcquired,
  reachPoint,
} from '#debug';
import { cmpxchg, fetchAnd, fetchOr, readOnce, readOwn, spinLimit, write } from '#memory';
import { BUSTED_MUTEX, BUSTED_MUTEX_HANDOFF, isMutant } from '#mutants';

import { bug } from '../base/bug.js';
import { EINTR } from '../base/errno.js';
import { lockSubclass, SLEEPING } from '../debug/lock-how.js';
import { archSpinLock, archSpinUnlock, initSpinlock } from '../machine/arch-spinlock.js';
import type { Cpu } from '../machine/cpu.js';
import { type LockClass, lockClass } from '../machine/lock-class.js';
import {
  beginWait,
  cpuRelax,
  endWait,
  mightSleep,
  ownerOnCpu,
  preemptDisable,
  preemptEnable,
  schedule,
  setCurrentRunning,
  setCurrentState,
  signalPendingState,
  TASK_KILLABLE,
  TASK_UNINTERRUPTIBLE,
} from '../machine/sched.js';
import { type CpuArea, Spinlock } from '../machine/types.js';
import { WAIT_MUTEX } from '../machine/wait-kind.js';
import { EMPTY_WAKE_Q, wakeQAdd, wakeUpQ } from '../machine/wake-q.js';
import { member, type Ptr, struct, word } from '../memory/layout.js';
import { initListHead, listEmpty, ListHead } from '../memory/list.js';
import {
  addWaiter,
  firstWaiter,
  type LockWaiter,
  removeWaiter,
  waiterTask,
} from './lock-waiter.js';
import { OptimisticSpinQueue, osqLock, osqUnlock } from './optimistic-spin-queue.js';

/** A lock with one owner, for code that may sleep. */
export const Mutex = struct('mutex', {
  owner: word, // area of the owner | WAITERS | HANDOFF | PICKUP; 0 = free
  lockClass: word,
  waitLock: Spinlock,
  waitList: ListHead, // waiters, first come first; under waitLock
  osq: OptimisticSpinQueue,
});
export type Mutex = Ptr<'mutex'>;

const WAITERS = 1;
const HANDOFF = 2;
const PICKUP = 4;
const FLAGS = WAITERS | HANDOFF | PICKUP;

/** Looks at a running owner before a spinner gives up; about 10 µs. */
const SPINS_MAX = spinLimit(2000);
const MUTEX_WAIT_LOCK = lockClass('mutex->wait_lock');

/** Makes a free mutex of the class. @kernel mutex_init */
export function initMutex(cpu: Cpu, lock: Mutex, name: LockClass): void {
  lockInit(cpu, lock);
  write(cpu, lock, Mutex.owner, 0);
  write(cpu, lock, Mutex.lockClass, name);
  initSpinlock(cpu, member(lock, Mutex.waitLock), MUTEX_WAIT_LOCK);
  initListHead(cpu, member(lock, Mutex.waitList));
  write(cpu, member(lock, Mutex.osq), OptimisticSpinQueue.tail, 0);
}

/** Takes the mutex. Sleeps. @kernel mutex_lock */
export function mutexLock(cpu: Cpu, lock: Mutex): void {
  mightSleep(cpu);
  lockAcquire(cpu, lock, readOwn(cpu, lock, Mutex.lockClass), SLEEPING);
  takeMutex(cpu, lock);
}

/** As mutexLock, of a lock whose class has an order of its own: `subclass`, outermost 0. Sleeps. @kernel mutex_lock_nested */
export function mutexLockNested(cpu: Cpu, lock: Mutex, subclass: number): void {
  mightSleep(cpu);
  lockAcquire(cpu, lock, readOwn(cpu, lock, Mutex.lockClass), SLEEPING | lockSubclass(subclass));
  takeMutex(cpu, lock);
}

/** As mutexLock, under a lock that whoever takes several of the class holds. Sleeps. @kernel mutex_lock_nest_lock */
export function mutexLockNestLock(cpu: Cpu, lock: Mutex, nest: number): void {
  mightSleep(cpu);
  lockAcquireNest(cpu, lock, readOwn(cpu, lock, Mutex.lockClass), SLEEPING, nest);
  takeMutex(cpu, lock);
}

function takeMutex(cpu: Cpu, lock: Mutex): void {
  if (cmpxchg(cpu, lock, Mutex.owner, 0, cpu.area) !== 0) {
    mutexLockSlow(cpu, lock, TASK_UNINTERRUPTIBLE); // pairs with mutexUnlock
  }
  lockAcquired(cpu, lock);
}

/** Takes the mutex, or returns -EINTR if a fatal signal came first. Sleeps. @kernel mutex_lock_killable */
export function mutexLockKillable(cpu: Cpu, lock: Mutex): number {
  mightSleep(cpu);
  lockAcquire(cpu, lock, readOwn(cpu, lock, Mutex.lockClass), SLEEPING);
  if (cmpxchg(cpu, lock, Mutex.owner, 0, cpu.area) !== 0) {
    const error = mutexLockSlow(cpu, lock, TASK_KILLABLE);
    if (error !== 0) return error;
  }
  lockAcquired(cpu, lock);
  return 0;
}

/** Takes the mutex if it is free; true if it did. @kernel mutex_trylock */
export function mutexTrylock(cpu: Cpu, lock: Mutex): boolean {
  if (!tryTake(cpu, lock, false)) return false;
  lockTryAcquired(cpu, lock, SLEEPING);
  return true;
}

/** Gives the mutex back; only its owner may. @kernel mutex_unlock */
export function mutexUnlock(cpu: Cpu, lock: Mutex): void {
  lockRelease(cpu, lock);
  if (cmpxchg(cpu, lock, Mutex.owner, cpu.area, 0) !== cpu.area) {
    mutexUnlockSlow(cpu, lock); // pairs with mutexLock
  }
}

/** True while somebody holds the mutex. @kernel mutex_is_locked */
export function mutexIsLocked(cpu: Cpu, lock: Mutex): boolean {
  return mutexOwner(cpu, lock) !== 0;
}

/** Who holds the mutex now: an area, or NULL. */
export function mutexOwner(cpu: Cpu, lock: Mutex): CpuArea {
  return (readOnce(cpu, lock, Mutex.owner) & ~FLAGS) as CpuArea;
}

/**
 * Takes the mutex if it is free or given to us; with `handoff` reserves it otherwise.
 * @kernel __mutex_trylock_common
 */
function tryTake(cpu: Cpu, lock: Mutex, handoff: boolean): boolean {
  const me = cpu.area;
  let seen = readOnce(cpu, lock, Mutex.owner);
  for (;;) {
    const task = seen & ~FLAGS;
    let flags = seen & FLAGS;
    let next: number = task;
    if (task === 0) {
      next = me;
      flags &= ~HANDOFF;
    } else if ((flags & PICKUP) !== 0 && task === me) {
      flags &= ~PICKUP; // I2
    } else if (handoff && (flags & (PICKUP | HANDOFF)) === 0) {
      flags |= HANDOFF; // I3
    } else {
      return false;
    }
    const before = cmpxchg(cpu, lock, Mutex.owner, seen, next | flags);
    if (before === seen) return (flags & HANDOFF) === 0; // not if it was only reserved
    seen = before;
  }
}

/** Spins as long as that may help; true if it took the mutex. @kernel mutex_optimistic_spin */
function optimisticSpin(cpu: Cpu, lock: Mutex, isWaiter: boolean): boolean {
  const osq = member(lock, Mutex.osq);
  if (!isWaiter) {
    const owner = mutexOwner(cpu, lock);
    if (owner !== 0 && !ownerOnCpu(cpu, owner)) return false;
    if (!osqLock(cpu, osq)) return false;
  }
  let taken = false;
  for (let spins = 0; spins < SPINS_MAX; spins++) {
    taken = tryTake(cpu, lock, false);
    if (taken) break;
    const owner = mutexOwner(cpu, lock);
    if (owner !== 0 && !ownerOnCpu(cpu, owner)) break;
    cpuRelax(cpu, spins);
  }
  if (!isWaiter) osqUnlock(cpu, osq);
  return taken;
}

function mutexLockSlow(cpu: Cpu, lock: Mutex, state: number): number {
  preemptDisable(cpu);
  const taken = tryTake(cpu, lock, false) || optimisticSpin(cpu, lock, false);
  preemptEnable(cpu);
  if (taken) return 0;

  const waitLock = member(lock, Mutex.waitLock);
  const queue = member(lock, Mutex.waitList);
  archSpinLock(cpu, waitLock);
  if (tryTake(cpu, lock, false)) {
    archSpinUnlock(cpu, waitLock);
    return 0;
  }
  const waiter = addWaiter(cpu, queue, false, 0);
  if (firstWaiter(cpu, queue) === waiter) fetchOr(cpu, lock, Mutex.owner, WAITERS);
  beginWait(cpu, WAIT_MUTEX, lock);
  const error = waitForTurn(cpu, lock, waiter, state);
  endWait(cpu);
  setCurrentRunning(cpu);
  removeWaiter(cpu, waiter);
  if (listEmpty(cpu, queue)) fetchAnd(cpu, lock, Mutex.owner, ~FLAGS);
  archSpinUnlock(cpu, waitLock);
  return error;
}

/**
 * Sleeps and tries in turn. waitLock is held on entry and on return. Returns 0 with the mutex taken, or
 * -EINTR without.
 *
 * The state is published before each try, and stays so while the head of the queue spins: an unlock
 * that comes after the try sets it back, and schedule returns at once.
 */
function waitForTurn(cpu: Cpu, lock: Mutex, waiter: LockWaiter, state: number): number {
  const waitLock = member(lock, Mutex.waitLock);
  const queue = member(lock, Mutex.waitList);
  let wasWoken = false;
  for (;;) {
    if (!isMutant(cpu, BUSTED_MUTEX)) setCurrentState(cpu, state);
    const mayReserve = wasWoken && firstWaiter(cpu, queue) === waiter;
    if (tryTake(cpu, lock, mayReserve)) return 0;
    if (signalPendingState(cpu, state)) return -EINTR;
    archSpinUnlock(cpu, waitLock);
    reachPoint(cpu, 'a waiter is about to sleep');
    if (isMutant(cpu, BUSTED_MUTEX)) setCurrentState(cpu, state);
    const taken = mayReserve && optimisticSpin(cpu, lock, true);
    if (!taken) schedule(cpu);
    archSpinLock(cpu, waitLock);
    if (taken) return 0;
    wasWoken = true;
  }
}

function mutexUnlockSlow(cpu: Cpu, lock: Mutex): void {
  let seen = readOnce(cpu, lock, Mutex.owner);
  for (;;) {
    if ((seen & ~FLAGS) !== cpu.area)
      bug(`mutex ${lock}: unlock by cpu ${cpu.id}, not its owner (I1)`);
    if (!isMutant(cpu, BUSTED_MUTEX_HANDOFF) && (seen & HANDOFF) !== 0) break;
    const before = cmpxchg(cpu, lock, Mutex.owner, seen, seen & FLAGS);
    if (before === seen) {
      if ((seen & WAITERS) !== 0) break;
      return;
    }
    seen = before;
  }
  wakeHead(cpu, lock, (seen & HANDOFF) !== 0);
}

/** Wakes the head of the queue, and with `handoff` makes it the owner first. */
function wakeHead(cpu: Cpu, lock: Mutex, handoff: boolean): void {
  const waitLock = member(lock, Mutex.waitLock);
  const queue = member(lock, Mutex.waitList);
  let wakeQ = EMPTY_WAKE_Q;
  let next = 0 as CpuArea;
  archSpinLock(cpu, waitLock);
  if (!listEmpty(cpu, queue)) {
    next = waiterTask(cpu, firstWaiter(cpu, queue));
    wakeQ = wakeQAdd(cpu, wakeQ, next);
  }
  if (handoff) giveTo(cpu, lock, next);
  archSpinUnlock(cpu, waitLock);
  wakeUpQ(cpu, wakeQ);
}

/** Names `task` (or nobody) as the owner that must pick the lock up (I2). @kernel __mutex_handoff */
function giveTo(cpu: Cpu, lock: Mutex, task: CpuArea): void {
  let seen = readOnce(cpu, lock, Mutex.owner);
  for (;;) {
    const next = (seen & WAITERS) | task | (task === 0 ? 0 : PICKUP);
    const before = cmpxchg(cpu, lock, Mutex.owner, seen, next);
    if (before === seen) return;
    seen = before;
  }
}
