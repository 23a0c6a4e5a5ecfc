/**
 * Read/write semaphore: many readers or one writer, sleeping, first come first.
 *
 * Kernel     kernel/locking/rwsem.c
 * Protocol   `count` is the lock:
 *
 *              31        30 ................ 8   7 .. 3   2        1        0
 *              too many  readers                 -        HANDOFF  WAITERS  writer
 *
 *              WAITERS  the queue is not empty
 *              HANDOFF  the head of the queue has waited too long: nobody may overtake it
 *
 *            reader:  count += READER; none of writer, WAITERS, HANDOFF, too-many: has the lock.
 *                     Else steal it if only readers hold it and no hand-off is due, or queue; queued
 *                     readers are granted: their READER is counted before they are woken.
 *            writer:  0 -> writer. Else spin while the owner runs, or queue; a queued writer is only
 *                     woken, and must win the lock itself.
 *            wake:    the head is a writer: wake it alone. A reader: count it, and if no writer has the
 *                     lock, grant all readers in the queue (256 at most), over queued writers' heads.
 *            `owner` is a hint for spinners: the writer's area, or the last reader's with READER_OWNED;
 *            NONSPINNABLE stops spinning on readers.
 * Invariant  I1  Never a writer and a reader, never two writers (INV-1).
 *            I2  Once a waiter has set HANDOFF, no other task takes the lock for writing before it, and
 *                no reader steals (INV-2).
 *            I3  Each waiter gets the lock, if holders release it: within 4 ms plus one section for each
 *                earlier waiter (INV-3).
 *            I4  Idle means count 0 and an empty queue (INV-4).
 * Ordering   Taking the lock acquires, giving it releases; both are read-modify-writes of `count`.
 *            A grant is a release of the waiter's `task` that its sleeper acquires.
 * Deviation  32 bits: 23 of readers. Time is real time, not jiffies. Spinners give up after a number of
 *            looks and not at a reschedule. There are no real-time tasks. As in Linux, readers are not
 *            recursive: a second down_read by the same task deadlocks if a writer queued in between.
 * Cost       Uncontended read lock and unlock: two read-modify-writes, one marked load and store.
 *
 * @module
 */
import {
  lockAcquire,
  lockAcquired,
  lockDowngrade,
  lockInit,
  lockRelease,
  lockTryAcquired,
  reachPoint,
} from '#debug';
import {
  clockMs,
  cmpxchg,
  fetchAdd,
  fetchAnd,
  fetchOr,
  loadAcquire,
  read,
  readAddress,
  readOnce,
  readOwn,
  spinLimit,
  storeRelease,
  write,
  writeOnce,
} from '#memory';
import {
  BUSTED_RWSEM_DOWNGRADE,
  BUSTED_RWSEM_HANDOFF,
  BUSTED_RWSEM_READ,
  BUSTED_RWSEM_WRITE,
  isMutant,
  M_20,
} from '#mutants';

import { bug } from '../base/bug.js';
import { EINTR } from '../base/errno.js';
import { LOCK_READ, lockSubclass, SLEEPING } from '../debug/lock-how.js';
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
  wakeUpProcess,
} from '../machine/sched.js';
import { type CpuArea, Spinlock } from '../machine/types.js';
import { WAIT_RWSEM_READ, WAIT_RWSEM_WRITE } from '../machine/wait-kind.js';
import { EMPTY_WAKE_Q, type WakeQ, wakeQAdd, wakeUpQ } from '../machine/wake-q.js';
import { containerOf, member, type Ptr, struct, word } from '../memory/layout.js';
import { initListHead, listEmpty, ListHead, listIsSingular, listNext } from '../memory/list.js';
import { addWaiter, firstWaiter, LockWaiter, removeWaiter, waiterTask } from './lock-waiter.js';
import { OptimisticSpinQueue, osqLock, osqUnlock } from './optimistic-spin-queue.js';

/** A lock with many readers or one writer, for code that may sleep. */
export const Rwsem = struct('rw_semaphore', {
  count: word, // the lock: drawn above
  lockClass: word,
  owner: word, // hint: area | READER_OWNED | NONSPINNABLE
  osq: OptimisticSpinQueue,
  waitLock: Spinlock,
  waitList: ListHead, // waiters, first come first; under waitLock
});
export type Rwsem = Ptr<'rw_semaphore'>;

const WRITER = 1;
const WAITERS = 2;
const HANDOFF = 4;
const READER_SHIFT = 8;
const READER = 1 << READER_SHIFT;
const TOO_MANY = 1 << 31;
const READERS = ~(READER - 1) & ~TOO_MANY;
const HELD = WRITER | READERS;
/** What keeps a reader out of the fast path. */
const READER_FAILS = WRITER | WAITERS | HANDOFF | TOO_MANY;

const READER_OWNED = 1;
const NONSPINNABLE = 2;
const OWNER_FLAGS = READER_OWNED | NONSPINNABLE;

/** How long a waiter is patient before it asks for a hand-off. @kernel RWSEM_WAIT_TIMEOUT */
const WAIT_TIMEOUT_MS = 4;
/** Readers granted by one wake-up at most. @kernel MAX_READERS_WAKEUP */
const READERS_WOKEN_MAX = 256;
/** Looks at a writing owner before a spinner gives up; about 10 µs. */
const WRITER_SPINS_MAX = spinLimit(2000);
/** Spinning on readers ends after 10 µs and 0.5 µs for each, 25 µs at most. @kernel rwsem_rspin_threshold */
const READER_SPIN_BASE_MS = 0.01;
const READER_SPIN_EACH_MS = 0.0005;
const READER_SPIN_READERS_MAX = 30;
const CLOCK_EVERY_SPINS = spinLimit(16);

/** How readers take it. */
const READING = SLEEPING | LOCK_READ;
const RWSEM_WAIT_LOCK = lockClass('rwsem->wait_lock');

/** Makes a free semaphore of the class. @kernel init_rwsem */
export function initRwsem(cpu: Cpu, sem: Rwsem, name: LockClass): void {
  lockInit(cpu, sem);
  write(cpu, sem, Rwsem.count, 0);
  write(cpu, sem, Rwsem.owner, 0);
  write(cpu, sem, Rwsem.lockClass, name);
  write(cpu, member(sem, Rwsem.osq), OptimisticSpinQueue.tail, 0);
  initSpinlock(cpu, member(sem, Rwsem.waitLock), RWSEM_WAIT_LOCK);
  initListHead(cpu, member(sem, Rwsem.waitList));
}

// --- readers ---

/** Takes the semaphore for reading. Sleeps. Not recursive. @kernel down_read */
export function downRead(cpu: Cpu, sem: Rwsem): void {
  mightSleep(cpu);
  lockAcquire(cpu, sem, readOwn(cpu, sem, Rwsem.lockClass), READING);
  takeRead(cpu, sem);
}

/** As downRead, of a lock whose class has an order of its own. Sleeps. @kernel down_read_nested */
export function downReadNested(cpu: Cpu, sem: Rwsem, subclass: number): void {
  mightSleep(cpu);
  lockAcquire(cpu, sem, readOwn(cpu, sem, Rwsem.lockClass), READING | lockSubclass(subclass));
  takeRead(cpu, sem);
}

function takeRead(cpu: Cpu, sem: Rwsem): void {
  const count = fetchAdd(cpu, sem, Rwsem.count, READER) + READER; // pairs with upWrite
  if ((count & READER_FAILS) !== 0) downReadSlow(cpu, sem, count, TASK_UNINTERRUPTIBLE);
  else setReaderOwned(cpu, sem, cpu.area);
  lockAcquired(cpu, sem);
}

/** As downRead, or -EINTR if a fatal signal came first. Sleeps. @kernel down_read_killable */
export function downReadKillable(cpu: Cpu, sem: Rwsem): number {
  mightSleep(cpu);
  lockAcquire(cpu, sem, readOwn(cpu, sem, Rwsem.lockClass), READING);
  const count = fetchAdd(cpu, sem, Rwsem.count, READER) + READER;
  if ((count & READER_FAILS) === 0) {
    setReaderOwned(cpu, sem, cpu.area);
  } else {
    const error = downReadSlow(cpu, sem, count, TASK_KILLABLE);
    if (error !== 0) return error;
  }
  lockAcquired(cpu, sem);
  return 0;
}

/**
 * Takes the semaphore for reading if that is possible at once. It is not when somebody waits, even
 * though only readers hold it (LT-22). @kernel down_read_trylock
 */
export function downReadTrylock(cpu: Cpu, sem: Rwsem): boolean {
  let seen = readOnce(cpu, sem, Rwsem.count);
  while ((seen & READER_FAILS) === 0) {
    const before = cmpxchg(cpu, sem, Rwsem.count, seen, seen + READER);
    if (before === seen) {
      setReaderOwned(cpu, sem, cpu.area);
      lockTryAcquired(cpu, sem, READING);
      return true;
    }
    seen = before;
  }
  return false;
}

/** Gives a read lock back. @kernel up_read */
export function upRead(cpu: Cpu, sem: Rwsem): void {
  lockRelease(cpu, sem);
  const before = fetchAdd(cpu, sem, Rwsem.count, -READER); // pairs with downWrite
  const count = before - READER;
  if ((before & READERS) === 0) bug(`rwsem ${sem}: up_read without a reader (I1)`);
  if ((count & (HELD | WAITERS)) === WAITERS) upReadSlow(cpu, sem);
}

function upReadSlow(cpu: Cpu, sem: Rwsem): void {
  clearNonspinnable(cpu, sem);
  wakeWaiters(cpu, sem);
}

// --- writers ---

/** Takes the semaphore for writing. Sleeps. @kernel down_write */
export function downWrite(cpu: Cpu, sem: Rwsem): void {
  mightSleep(cpu);
  lockAcquire(cpu, sem, readOwn(cpu, sem, Rwsem.lockClass), SLEEPING);
  takeWrite(cpu, sem);
}

/** As downWrite, of a lock whose class has an order of its own. Sleeps. @kernel down_write_nested */
export function downWriteNested(cpu: Cpu, sem: Rwsem, subclass: number): void {
  mightSleep(cpu);
  lockAcquire(cpu, sem, readOwn(cpu, sem, Rwsem.lockClass), SLEEPING | lockSubclass(subclass));
  takeWrite(cpu, sem);
}

function takeWrite(cpu: Cpu, sem: Rwsem): void {
  if (cmpxchg(cpu, sem, Rwsem.count, 0, WRITER) !== 0) {
    downWriteSlow(cpu, sem, TASK_UNINTERRUPTIBLE); // pairs with upRead and upWrite
  }
  writeOnce(cpu, sem, Rwsem.owner, cpu.area);
  lockAcquired(cpu, sem);
}

/** As downWrite, or -EINTR if a fatal signal came first. Sleeps. @kernel down_write_killable */
export function downWriteKillable(cpu: Cpu, sem: Rwsem): number {
  mightSleep(cpu);
  lockAcquire(cpu, sem, readOwn(cpu, sem, Rwsem.lockClass), SLEEPING);
  if (cmpxchg(cpu, sem, Rwsem.count, 0, WRITER) !== 0) {
    const error = downWriteSlow(cpu, sem, TASK_KILLABLE);
    if (error !== 0) return error;
  }
  writeOnce(cpu, sem, Rwsem.owner, cpu.area);
  lockAcquired(cpu, sem);
  return 0;
}

/** Takes the semaphore for writing if nobody holds it or waits. @kernel down_write_trylock */
export function downWriteTrylock(cpu: Cpu, sem: Rwsem): boolean {
  if (cmpxchg(cpu, sem, Rwsem.count, 0, WRITER) !== 0) return false;
  writeOnce(cpu, sem, Rwsem.owner, cpu.area);
  lockTryAcquired(cpu, sem, SLEEPING);
  return true;
}

/** Gives a write lock back. @kernel up_write */
export function upWrite(cpu: Cpu, sem: Rwsem): void {
  lockRelease(cpu, sem);
  writeOnce(cpu, sem, Rwsem.owner, 0); // first: an owner is never named who has let go
  const before = fetchAdd(cpu, sem, Rwsem.count, -WRITER); // pairs with downRead and downWrite
  if ((before & WRITER) === 0) bug(`rwsem ${sem}: up_write without a writer (I1)`);
  if ((before & WAITERS) !== 0) wakeWaiters(cpu, sem);
}

/** Turns a write lock into a read lock; no other writer comes in between. @kernel downgrade_write */
export function downgradeWrite(cpu: Cpu, sem: Rwsem): void {
  const before = isMutant(cpu, BUSTED_RWSEM_DOWNGRADE)
    ? downgradeInTwoSteps(cpu, sem)
    : fetchAdd(cpu, sem, Rwsem.count, READER - WRITER);
  if ((before & WRITER) === 0) bug(`rwsem ${sem}: downgrade without a writer (I1)`);
  setReaderOwned(cpu, sem, cpu.area);
  lockDowngrade(cpu, sem);
  if ((before & WAITERS) !== 0) wakeReaders(cpu, sem);
}

/** The mistake: another writer may come between the two. */
function downgradeInTwoSteps(cpu: Cpu, sem: Rwsem): number {
  const before = fetchAdd(cpu, sem, Rwsem.count, -WRITER);
  reachPoint(cpu, 'a writer is half downgraded');
  fetchAdd(cpu, sem, Rwsem.count, READER);
  return before;
}

/** True while somebody holds the semaphore, for reading or for writing. @kernel rwsem_is_locked */
export function rwsemIsLocked(cpu: Cpu, sem: Rwsem): boolean {
  return (readOnce(cpu, sem, Rwsem.count) & HELD) !== 0;
}

/** True while somebody waits. @kernel rwsem_is_contended */
export function rwsemIsContended(cpu: Cpu, sem: Rwsem): boolean {
  return (readOnce(cpu, sem, Rwsem.count) & WAITERS) !== 0;
}

/** True once a waiter has asked to be the next (I2). */
export function rwsemIsReserved(cpu: Cpu, sem: Rwsem): boolean {
  return (readOnce(cpu, sem, Rwsem.count) & HANDOFF) !== 0;
}

// --- the owner hint ---

/** Names a reader as owner; NONSPINNABLE stays as it is. @kernel rwsem_set_reader_owned */
function setReaderOwned(cpu: Cpu, sem: Rwsem, task: CpuArea): void {
  const seen = readOnce(cpu, sem, Rwsem.owner);
  const next = task | READER_OWNED | (seen & NONSPINNABLE);
  if (next !== seen) writeOnce(cpu, sem, Rwsem.owner, next);
}

function clearNonspinnable(cpu: Cpu, sem: Rwsem): void {
  if ((readOnce(cpu, sem, Rwsem.owner) & NONSPINNABLE) !== 0) {
    fetchAnd(cpu, sem, Rwsem.owner, ~NONSPINNABLE);
  }
}

/** No more spinning on the readers that own the lock now. @kernel rwsem_set_nonspinnable */
function setNonspinnable(cpu: Cpu, sem: Rwsem): void {
  const seen = readOnce(cpu, sem, Rwsem.owner);
  if ((seen & OWNER_FLAGS) === READER_OWNED) {
    cmpxchg(cpu, sem, Rwsem.owner, seen, seen | NONSPINNABLE);
  }
}

// --- slow path of readers ---

function downReadSlow(cpu: Cpu, sem: Rwsem, count: number, state: number): number {
  const readers = (count & READERS) >>> READER_SHIFT;
  const owner = readOnce(cpu, sem, Rwsem.owner);
  const readersAhead = (owner & READER_OWNED) !== 0 && readers > 1 && (count & WRITER) === 0;
  if (!readersAhead && (count & (WRITER | HANDOFF)) === 0) {
    setReaderOwned(cpu, sem, cpu.area);
    if (readers === 1 && (count & WAITERS) !== 0) wakeReaders(cpu, sem);
    return 0;
  }
  return queueReader(cpu, sem, state);
}

/** Queues, and sleeps until the lock is granted: 0; or until a fatal signal: -EINTR. */
function queueReader(cpu: Cpu, sem: Rwsem, state: number): number {
  const waitLock = member(sem, Rwsem.waitLock);
  const queue = member(sem, Rwsem.waitList);
  const deadline = clockMs(cpu) + WAIT_TIMEOUT_MS;
  archSpinLock(cpu, waitLock);
  let adjustment = -READER;
  if (listEmpty(cpu, queue)) {
    // our READER is counted: without a writer and without a queue the lock is ours already
    if ((readOnce(cpu, sem, Rwsem.count) & WRITER) === 0) {
      archSpinUnlock(cpu, waitLock);
      setReaderOwned(cpu, sem, cpu.area);
      return 0;
    }
    adjustment += WAITERS;
  }
  const waiter = addWaiter(cpu, queue, true, deadline);
  const count = fetchAdd(cpu, sem, Rwsem.count, adjustment) + adjustment;
  const wakeQ = wakeIfFree(cpu, sem, count, EMPTY_WAKE_Q);
  archSpinUnlock(cpu, waitLock);
  wakeUpQ(cpu, wakeQ);

  beginWait(cpu, WAIT_RWSEM_READ, sem);
  let error = 0;
  for (;;) {
    if (!isMutant(cpu, BUSTED_RWSEM_READ)) setCurrentState(cpu, state);
    if (loadAcquire(cpu, waiter, LockWaiter.task) === 0) break; // pairs with grantReaders
    reachPoint(cpu, 'a reader is queued');
    if (isMutant(cpu, BUSTED_RWSEM_READ)) setCurrentState(cpu, state);
    if (signalPendingState(cpu, state)) {
      error = abandon(cpu, sem, waiter);
      break;
    }
    schedule(cpu);
  }
  setCurrentRunning(cpu);
  endWait(cpu);
  return error;
}

/** A signalled reader leaves the queue: -EINTR, or 0 if it has been granted the lock meanwhile. */
function abandon(cpu: Cpu, sem: Rwsem, waiter: LockWaiter): number {
  archSpinLock(cpu, member(sem, Rwsem.waitLock));
  if (loadAcquire(cpu, waiter, LockWaiter.task) === 0) {
    archSpinUnlock(cpu, member(sem, Rwsem.waitLock));
    return 0;
  }
  leaveQueue(cpu, sem, waiter);
  return -EINTR;
}

/** Takes the waiter out and wakes who comes next. Drops waitLock. @kernel rwsem_del_wake_waiter */
function leaveQueue(cpu: Cpu, sem: Rwsem, waiter: LockWaiter): void {
  const queue = member(sem, Rwsem.waitList);
  const wasFirst = firstWaiter(cpu, queue) === waiter;
  let wakeQ = EMPTY_WAKE_Q;
  unlinkWaiter(cpu, sem, waiter);
  if (!listEmpty(cpu, queue) && wasFirst) wakeQ = markWakeAny(cpu, sem, wakeQ);
  archSpinUnlock(cpu, member(sem, Rwsem.waitLock));
  wakeUpQ(cpu, wakeQ);
}

/** waitLock must be held. An empty queue has no WAITERS and no HANDOFF. @kernel rwsem_del_waiter */
function unlinkWaiter(cpu: Cpu, sem: Rwsem, waiter: LockWaiter): void {
  removeWaiter(cpu, waiter);
  if (listEmpty(cpu, member(sem, Rwsem.waitList))) {
    fetchAnd(cpu, sem, Rwsem.count, ~(WAITERS | HANDOFF));
  }
}

// --- slow path of writers ---

function downWriteSlow(cpu: Cpu, sem: Rwsem, state: number): number {
  preemptDisable(cpu);
  const taken = canSpinOnOwner(cpu, sem) && optimisticSpin(cpu, sem);
  preemptEnable(cpu);
  return taken ? 0 : queueWriter(cpu, sem, state);
}

/** Queues, and sleeps until it wins the lock: 0; or until a fatal signal: -EINTR. */
function queueWriter(cpu: Cpu, sem: Rwsem, state: number): number {
  const waitLock = member(sem, Rwsem.waitLock);
  const queue = member(sem, Rwsem.waitList);
  const deadline = clockMs(cpu) + WAIT_TIMEOUT_MS;
  archSpinLock(cpu, waitLock);
  const waiter = addWaiter(cpu, queue, false, deadline);
  if (firstWaiter(cpu, queue) === waiter) {
    fetchOr(cpu, sem, Rwsem.count, WAITERS);
  } else {
    const wakeQ = wakeIfFree(cpu, sem, readOnce(cpu, sem, Rwsem.count), EMPTY_WAKE_Q);
    if (wakeQ !== EMPTY_WAKE_Q) {
      archSpinUnlock(cpu, waitLock);
      wakeUpQ(cpu, wakeQ);
      archSpinLock(cpu, waitLock);
    }
  }
  beginWait(cpu, WAIT_RWSEM_WRITE, sem);
  reachPoint(cpu, 'a writer is queued');
  for (let spins = 0; ;) {
    setCurrentState(cpu, state);
    if (tryWriteLock(cpu, sem, waiter)) break;
    if (signalPendingState(cpu, state)) {
      setCurrentRunning(cpu);
      endWait(cpu);
      leaveQueue(cpu, sem, waiter);
      return -EINTR;
    }
    archSpinUnlock(cpu, waitLock);
    if (spins < WRITER_SPINS_MAX && ownerLetGo(cpu, sem, waiter)) cpuRelax(cpu, spins++);
    else schedule(cpu); // whoever drops the lock sees WAITERS, and wakes us
    archSpinLock(cpu, waitLock);
  }
  setCurrentRunning(cpu);
  endWait(cpu);
  archSpinUnlock(cpu, waitLock);
  return 0;
}

/** A waiter that reserved the lock spins on its owner: true if nobody owns it now. */
function ownerLetGo(cpu: Cpu, sem: Rwsem, waiter: LockWaiter): boolean {
  if (readOnce(cpu, waiter, LockWaiter.handoffSet) === 0) return false;
  preemptDisable(cpu);
  const state = spinOnOwner(cpu, sem);
  preemptEnable(cpu);
  return state === OWNER_NONE;
}

/** waitLock must be held. Takes the lock, or reserves it if the time has come. @kernel rwsem_try_write_lock */
function tryWriteLock(cpu: Cpu, sem: Rwsem, waiter: LockWaiter): boolean {
  const queue = member(sem, Rwsem.waitList);
  const first = firstWaiter(cpu, queue);
  let seen = readOnce(cpu, sem, Rwsem.count);
  let next: number;
  for (;;) {
    const reserved = (seen & HANDOFF) !== 0;
    if (reserved && waiter !== first && read(cpu, first, LockWaiter.handoffSet) !== 0) return false; // I2
    if ((seen & HELD) !== 0) {
      if (reserved || clockMs(cpu) < readAddress(cpu, waiter, LockWaiter.deadline)) return false;
      next = seen | HANDOFF;
    } else {
      next = (seen | WRITER) & ~HANDOFF;
      if (isMutant(cpu, BUSTED_RWSEM_WRITE) || listIsSingular(cpu, queue)) next &= ~WAITERS;
    }
    const before = cmpxchg(cpu, sem, Rwsem.count, seen, next);
    if (before === seen) break;
    seen = before;
  }
  if ((next & HANDOFF) !== 0) {
    writeOnce(cpu, first, LockWaiter.handoffSet, 1); // it looks without waitLock
    return false;
  }
  removeWaiter(cpu, waiter);
  return true;
}

// --- optimistic spinning of writers ---

const OWNER_NONE = 0;
const OWNER_WRITER = 1;
const OWNER_READER = 2;
const OWNER_NONSPINNABLE = 3;

function ownerState(owner: number): number {
  if ((owner & NONSPINNABLE) !== 0) return OWNER_NONSPINNABLE;
  if ((owner & READER_OWNED) !== 0) return OWNER_READER;
  return owner === 0 ? OWNER_NONE : OWNER_WRITER;
}

/** @kernel rwsem_can_spin_on_owner */
function canSpinOnOwner(cpu: Cpu, sem: Rwsem): boolean {
  const owner = readOnce(cpu, sem, Rwsem.owner);
  if ((owner & NONSPINNABLE) !== 0) return false;
  if (owner === 0 || (owner & READER_OWNED) !== 0) return true;
  return ownerOnCpu(cpu, owner as CpuArea);
}

/** Spins while one writer owns the lock and runs; says who owns it then. @kernel rwsem_spin_on_owner */
function spinOnOwner(cpu: Cpu, sem: Rwsem): number {
  const first = readOnce(cpu, sem, Rwsem.owner);
  if (ownerState(first) !== OWNER_WRITER) return ownerState(first);
  for (let spins = 0; spins < WRITER_SPINS_MAX; spins++) {
    const owner = readOnce(cpu, sem, Rwsem.owner);
    if (owner !== first) return ownerState(owner);
    if (!ownerOnCpu(cpu, first as CpuArea)) return OWNER_NONSPINNABLE;
    cpuRelax(cpu, spins);
  }
  return OWNER_NONSPINNABLE;
}

/** True if it took the lock. @kernel rwsem_optimistic_spin */
function optimisticSpin(cpu: Cpu, sem: Rwsem): boolean {
  const osq = member(sem, Rwsem.osq);
  if (!osqLock(cpu, osq)) return false;
  let taken = false;
  let readerDeadline = 0;
  for (let spins = 0; ; spins++) {
    const state = spinOnOwner(cpu, sem);
    if (state === OWNER_NONSPINNABLE) break;
    taken = tryWriteLockUnqueued(cpu, sem);
    if (taken) break;
    if (state === OWNER_READER) {
      if (readerDeadline === 0) readerDeadline = clockMs(cpu) + readerSpinMs(cpu, sem);
      if ((spins + 1) % CLOCK_EVERY_SPINS === 0 && clockMs(cpu) > readerDeadline) {
        setNonspinnable(cpu, sem);
        break;
      }
    } else if (spins >= WRITER_SPINS_MAX) {
      break;
    }
    cpuRelax(cpu, spins);
  }
  osqUnlock(cpu, osq);
  return taken;
}

/** How long spinning on the readers of now may pay. */
function readerSpinMs(cpu: Cpu, sem: Rwsem): number {
  const readers = (readOnce(cpu, sem, Rwsem.count) & READERS) >>> READER_SHIFT;
  return READER_SPIN_BASE_MS + READER_SPIN_EACH_MS * Math.min(readers, READER_SPIN_READERS_MAX);
}

/** Takes a free lock over the heads of waiters, unless one has reserved it (I2). */
function tryWriteLockUnqueued(cpu: Cpu, sem: Rwsem): boolean {
  let seen = readOnce(cpu, sem, Rwsem.count);
  const taken = isMutant(cpu, BUSTED_RWSEM_HANDOFF) ? HELD : HELD | HANDOFF;
  while ((seen & taken) === 0) {
    const before = cmpxchg(cpu, sem, Rwsem.count, seen, seen | WRITER);
    if (before === seen) {
      if ((seen & HANDOFF) !== 0) bug(`rwsem ${sem}: INV-2: a spinner overtakes a waiter (I2)`);
      return true;
    }
    seen = before;
  }
  return false;
}

// --- waking; everything called markWake… needs waitLock and a queue that is not empty ---

/** The lock was given back and somebody waits. @kernel rwsem_wake */
function wakeWaiters(cpu: Cpu, sem: Rwsem): void {
  let wakeQ = EMPTY_WAKE_Q;
  archSpinLock(cpu, member(sem, Rwsem.waitLock));
  if (!listEmpty(cpu, member(sem, Rwsem.waitList))) wakeQ = markWakeAny(cpu, sem, wakeQ);
  archSpinUnlock(cpu, member(sem, Rwsem.waitLock));
  wakeUpQ(cpu, wakeQ);
}

/** We hold the lock for reading: lets the queued readers in, if one is at the head. */
function wakeReaders(cpu: Cpu, sem: Rwsem): void {
  const queue = member(sem, Rwsem.waitList);
  let wakeQ = EMPTY_WAKE_Q;
  archSpinLock(cpu, member(sem, Rwsem.waitLock));
  if (!listEmpty(cpu, queue) && headWantsRead(cpu, queue)) wakeQ = grantReaders(cpu, sem, wakeQ, 0);
  archSpinUnlock(cpu, member(sem, Rwsem.waitLock));
  wakeUpQ(cpu, wakeQ);
}

/** Wakes whom the lock as `count` has it lets in. @kernel rwsem_cond_wake_waiter */
function wakeIfFree(cpu: Cpu, sem: Rwsem, count: number, wakeQ: WakeQ): WakeQ {
  if ((count & WRITER) !== 0) return wakeQ;
  if ((count & READERS) === 0) {
    clearNonspinnable(cpu, sem);
    return markWakeAny(cpu, sem, wakeQ);
  }
  return headWantsRead(cpu, member(sem, Rwsem.waitList)) ? markWakeReaders(cpu, sem, wakeQ) : wakeQ;
}

function headWantsRead(cpu: Cpu, queue: ListHead): boolean {
  return read(cpu, firstWaiter(cpu, queue), LockWaiter.wantsRead) !== 0;
}

/** Wakes the writer at the head of the queue, or grants its readers. @kernel rwsem_mark_wake */
function markWakeAny(cpu: Cpu, sem: Rwsem, wakeQ: WakeQ): WakeQ {
  const queue = member(sem, Rwsem.waitList);
  if (headWantsRead(cpu, queue)) return markWakeReaders(cpu, sem, wakeQ);
  return wakeQAdd(cpu, wakeQ, waiterTask(cpu, firstWaiter(cpu, queue)));
}

/** Counts the reader at the head of the queue first, and grants only if no writer came before it. */
function markWakeReaders(cpu: Cpu, sem: Rwsem, wakeQ: WakeQ): WakeQ {
  const first = firstWaiter(cpu, member(sem, Rwsem.waitList));
  const counted = isMutant(cpu, M_20) ? 0 : READER;
  const before = fetchAdd(cpu, sem, Rwsem.count, counted);
  if ((before & WRITER) === 0) {
    setReaderOwned(cpu, sem, waiterTask(cpu, first));
    return grantReaders(cpu, sem, wakeQ, counted);
  }
  let adjustment = -counted;
  if (clockMs(cpu) > readAddress(cpu, first, LockWaiter.deadline)) {
    if ((before & HANDOFF) === 0) adjustment += HANDOFF;
    writeOnce(cpu, first, LockWaiter.handoffSet, 1);
  }
  fetchAdd(cpu, sem, Rwsem.count, adjustment);
  return wakeQ;
}

/**
 * Grants the lock to the readers in the queue: counts them, then lets each go. `counted` is what `count`
 * has been raised by for them already. The lock must be held for reading, if only through `counted`.
 */
function grantReaders(cpu: Cpu, sem: Rwsem, queueSoFar: WakeQ, counted: number): WakeQ {
  const queue = member(sem, Rwsem.waitList);
  let granted = 0;
  let last = queue; // granted waiters stay linked to each other, in front of `last`
  for (let node = listNext(cpu, queue); node !== queue && granted < READERS_WOKEN_MAX;) {
    const waiter = containerOf(node, LockWaiter.list) as LockWaiter;
    const next = listNext(cpu, node);
    if (read(cpu, waiter, LockWaiter.wantsRead) !== 0) {
      removeWaiter(cpu, waiter);
      write(cpu, node, ListHead.prev, last); // chain of the granted, through `prev`
      last = node;
      granted++;
    }
    node = next;
  }
  let adjustment = granted * READER - counted;
  const before = readOnce(cpu, sem, Rwsem.count);
  if (listEmpty(cpu, queue)) adjustment -= WAITERS;
  if ((before & HANDOFF) !== 0 && granted > 0) adjustment -= HANDOFF;
  if (!isMutant(cpu, M_20) && adjustment !== 0) fetchAdd(cpu, sem, Rwsem.count, adjustment);

  let wakeQ = queueSoFar;
  while (last !== queue) {
    const waiter = containerOf(last, LockWaiter.list) as LockWaiter;
    const task = waiterTask(cpu, waiter);
    last = read(cpu, last, ListHead.prev); // before the grant: the waiter may be reused after it
    storeRelease(cpu, waiter, LockWaiter.task, 0 as CpuArea); // pairs with queueReader
    if (isMutant(cpu, M_20)) wakeUpProcess(cpu, task);
    else wakeQ = wakeQAdd(cpu, wakeQ, task);
  }
  if (isMutant(cpu, M_20)) fetchAdd(cpu, sem, Rwsem.count, adjustment);
  return wakeQ;
}
