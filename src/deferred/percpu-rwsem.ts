/**
 * Per-CPU read/write semaphore: readers that write to no shared line, as long as there is no writer.
 *
 * Kernel     kernel/locking/percpu-rwsem.c, kernel/rcu/sync.c
 * Protocol   Readers count themselves on the CPU they are on. `state` says whether they may leave it at that.
 *
 *              reader, in an RCU section                  writer, one at a time (`writers`)
 *                OPEN: own count += 1, and is in             state := CLOSING; synchronizeRcu
 *                CLOSING: own count += 1; barrier;             from now on every reader looks at `block`
 *                  block is 0: is in                         block := 1; barrier
 *                  else own count -= 1, wake the writer,     sleep until the sum of all counts is 0
 *                    sleep until block is 0, try again       …
 *              leaving: own count -= 1, and with             block := 0, wake all readers
 *                CLOSING wake the writer                     state := OPEN
 *
 *            The grace period is what makes the quick way sound: a reader that saw OPEN has counted itself, and
 *            left or not, before the writer sums.
 * Invariant  I1  Never a writer and a reader, never two writers (INV-1).
 *            I2  The count of one CPU may be negative: a semaphore taken on one CPU may be given back on another.
 *                Only the sum means anything.
 *            I3  Once `block` is 1 no CPU's count rises but for a moment, and falls again on that CPU: so a sum of
 *                0, taken one by one, is one.
 * Ordering   Named as in Linux. R_W: a reader's count and then `block`, a writer's `block` and then the counts,
 *            each fully ordered: either sees the other. W_R: who finds `block` 0, or OPEN by an acquire, sees what
 *            the writer wrote, who stored them by a release.
 * Deviation  Writers wait for each other in a mutex and not in the queue of readers, and each makes a grace
 *            period of its own. The quick way is open again at once: its load of `state` is an acquire.
 * Cost       A reader in the quick way: an RCU section, and a release to its own line.
 *
 * @module
 */
import {
  lockAcquire,
  lockAcquired,
  lockInit,
  lockRelease,
  lockTryAcquired,
  reachPoint,
} from '#debug';
import { exchange, fetchAdd, loadAcquire, readOnce, readOwn, storeRelease, write } from '#memory';
import { BUSTED_PERCPU_RWSEM, BUSTED_PERCPU_RWSEM_READ, isMutant } from '#mutants';

import { bug } from '../base/bug.js';
import { ENOMEM } from '../base/errno.js';
import { LOCK_READ, SLEEPING } from '../debug/lock-how.js';
import type { Cpu } from '../machine/cpu.js';
import { type LockClass, lockClass } from '../machine/lock-class.js';
import {
  allocPercpuPiece,
  cpusOf,
  freePercpuPiece,
  perCpuPtr,
  thisCpuPtr,
} from '../machine/percpu.js';
import { mightSleep, schedule, TASK_UNINTERRUPTIBLE } from '../machine/sched.js';
import { WAIT_PERCPU_RWSEM_READ, WAIT_PERCPU_RWSEM_WRITE } from '../machine/wait-kind.js';
import { cacheline, member, type Ptr, struct, word } from '../memory/layout.js';
import { initMutex, Mutex, mutexLock, mutexUnlock } from '../sync/mutex.js';
import {
  finishWait,
  initWait,
  initWaitQueue,
  prepareToWait,
  WaitQueue,
  waitqueueActive,
  wakeUpAll,
} from '../sync/wait-queue.js';
import { rcuReadLock, rcuReadUnlock, synchronizeRcu } from './rcu.js';

/** A lock with many readers, who are cheap, or one writer, who is not. For code that may sleep. */
export const PercpuRwsem = struct('percpu_rw_semaphore', {
  counts: word, // per-CPU offset of each CPU's ReadCount
  lockClass: word,
  state: word, // OPEN or CLOSING; written by the writer
  block: word, // 1: no reader comes in; written by the writer
  line1: cacheline,
  writers: Mutex, // held by the writer, and while one becomes it
  waiters: WaitQueue, // readers that wait for block
  writer: WaitQueue, // the writer that waits for readers
});
export type PercpuRwsem = Ptr<'percpu_rw_semaphore'>;

/** Readers that took the semaphore on one CPU, less those that gave it back there (I2). */
const ReadCount = struct('percpu_read_count', { value: word });

/** Readers need not look further. */
const OPEN = 0;
/** There is a writer, or one is coming. */
const CLOSING = 1;

const READING = SLEEPING | LOCK_READ;
const WRITERS = lockClass('percpu_rwsem->writers');
const WAITERS = lockClass('percpu_rwsem->waiters');
const WRITER = lockClass('percpu_rwsem->writer');

/** Makes a free semaphore of the class; 0 or -ENOMEM. @kernel percpu_init_rwsem */
export function percpuInitRwsem(cpu: Cpu, sem: PercpuRwsem, name: LockClass): number {
  const counts = allocPercpuPiece(cpu, ReadCount.words);
  if (counts === 0) return -ENOMEM;
  lockInit(cpu, sem);
  write(cpu, sem, PercpuRwsem.counts, counts);
  write(cpu, sem, PercpuRwsem.lockClass, name);
  write(cpu, sem, PercpuRwsem.state, OPEN);
  write(cpu, sem, PercpuRwsem.block, 0);
  initMutex(cpu, member(sem, PercpuRwsem.writers), WRITERS);
  initWaitQueue(cpu, member(sem, PercpuRwsem.waiters), WAITERS);
  initWaitQueue(cpu, member(sem, PercpuRwsem.writer), WRITER);
  return 0;
}

/** Gives its counts back; nobody may hold it or wait for it. @kernel percpu_free_rwsem */
export function percpuFreeRwsem(cpu: Cpu, sem: PercpuRwsem): void {
  const readers = readersOf(cpu, sem);
  if (readers !== 0) bug(`percpu_rwsem ${sem}: freed with ${readers} readers (I1)`);
  freePercpuPiece(cpu, readOwn(cpu, sem, PercpuRwsem.counts), ReadCount.words);
  write(cpu, sem, PercpuRwsem.counts, 0);
}

// --- readers ---

/** Takes the semaphore for reading. Sleeps. @kernel percpu_down_read */
export function percpuDownRead(cpu: Cpu, sem: PercpuRwsem): void {
  mightSleep(cpu);
  lockAcquire(cpu, sem, readOwn(cpu, sem, PercpuRwsem.lockClass), READING);
  if (!countQuickly(cpu, sem)) while (!countSlowly(cpu, sem)) waitForWriter(cpu, sem);
  lockAcquired(cpu, sem);
}

/** Takes the semaphore for reading if there is no writer; true if it did. @kernel percpu_down_read_trylock */
export function percpuDownReadTrylock(cpu: Cpu, sem: PercpuRwsem): boolean {
  if (!countQuickly(cpu, sem) && !countSlowly(cpu, sem)) return false;
  lockTryAcquired(cpu, sem, READING);
  return true;
}

/** Gives a read lock back. @kernel percpu_up_read */
export function percpuUpRead(cpu: Cpu, sem: PercpuRwsem): void {
  lockRelease(cpu, sem);
  rcuReadLock(cpu);
  const isOpen = readOnce(cpu, sem, PercpuRwsem.state) === OPEN;
  addToOwn(cpu, sem, -1); // pairs with readersOf: the section comes before
  rcuReadUnlock(cpu);
  if (!isOpen) wakeWriter(cpu, sem);
}

/** Counts a reader on this CPU, if that is enough. */
function countQuickly(cpu: Cpu, sem: PercpuRwsem): boolean {
  rcuReadLock(cpu);
  const isOpen = loadAcquire(cpu, sem, PercpuRwsem.state) === OPEN; // W_R
  if (isOpen) {
    reachPoint(cpu, 'a reader has seen it open');
    addToOwn(cpu, sem, 1);
  }
  rcuReadUnlock(cpu);
  return isOpen;
}

function addToOwn(cpu: Cpu, sem: PercpuRwsem, delta: number): void {
  const own = thisCpuPtr<'percpu_read_count'>(cpu, readOwn(cpu, sem, PercpuRwsem.counts));
  storeRelease(cpu, own, ReadCount.value, readOwn(cpu, own, ReadCount.value) + delta);
}

/** Counts a reader, unless a writer is in or waits for readers to leave. @kernel __percpu_down_read_trylock */
function countSlowly(cpu: Cpu, sem: PercpuRwsem): boolean {
  if (isMutant(cpu, BUSTED_PERCPU_RWSEM_READ)) return countLate(cpu, sem);
  const own = thisCpuPtr<'percpu_read_count'>(cpu, readOwn(cpu, sem, PercpuRwsem.counts));
  fetchAdd(cpu, own, ReadCount.value, 1); // R_W
  if (loadAcquire(cpu, sem, PercpuRwsem.block) === 0) return true; // W_R
  fetchAdd(cpu, own, ReadCount.value, -1);
  wakeWriter(cpu, sem);
  return false;
}

/** The mistake: the writer may have summed between the look and the count. */
function countLate(cpu: Cpu, sem: PercpuRwsem): boolean {
  if (loadAcquire(cpu, sem, PercpuRwsem.block) !== 0) return false;
  reachPoint(cpu, 'a reader has seen no block');
  addToOwn(cpu, sem, 1);
  return true;
}

/** Sleeps while there is a writer. @kernel percpu_rwsem_wait */
function waitForWriter(cpu: Cpu, sem: PercpuRwsem): void {
  const queue = member(sem, PercpuRwsem.waiters);
  const wait = initWait(cpu, WAIT_PERCPU_RWSEM_READ, sem);
  for (;;) {
    prepareToWait(cpu, queue, wait, TASK_UNINTERRUPTIBLE);
    if (readOnce(cpu, sem, PercpuRwsem.block) === 0) break; // pairs with percpuUpWrite
    schedule(cpu);
  }
  finishWait(cpu, queue, wait);
}

function wakeWriter(cpu: Cpu, sem: PercpuRwsem): void {
  const queue = member(sem, PercpuRwsem.writer);
  if (waitqueueActive(cpu, queue)) wakeUpAll(cpu, queue);
}

// --- writers ---

/** Takes the semaphore for writing. Sleeps, for a grace period at least. @kernel percpu_down_write */
export function percpuDownWrite(cpu: Cpu, sem: PercpuRwsem): void {
  mightSleep(cpu);
  lockAcquire(cpu, sem, readOwn(cpu, sem, PercpuRwsem.lockClass), SLEEPING);
  mutexLock(cpu, member(sem, PercpuRwsem.writers));
  storeRelease(cpu, sem, PercpuRwsem.state, CLOSING);
  if (!isMutant(cpu, BUSTED_PERCPU_RWSEM)) synchronizeRcu(cpu);
  exchange(cpu, sem, PercpuRwsem.block, 1); // R_W
  waitForReaders(cpu, sem);
  lockAcquired(cpu, sem);
}

/** Gives it back. @kernel percpu_up_write */
export function percpuUpWrite(cpu: Cpu, sem: PercpuRwsem): void {
  lockRelease(cpu, sem);
  storeRelease(cpu, sem, PercpuRwsem.block, 0); // W_R
  wakeUpAll(cpu, member(sem, PercpuRwsem.waiters));
  storeRelease(cpu, sem, PercpuRwsem.state, OPEN); // W_R
  mutexUnlock(cpu, member(sem, PercpuRwsem.writers));
}

/** Sleeps until no reader is in. @kernel readers_active_check */
function waitForReaders(cpu: Cpu, sem: PercpuRwsem): void {
  if (readersOf(cpu, sem) === 0) return;
  const queue = member(sem, PercpuRwsem.writer);
  const wait = initWait(cpu, WAIT_PERCPU_RWSEM_WRITE, sem);
  for (;;) {
    prepareToWait(cpu, queue, wait, TASK_UNINTERRUPTIBLE);
    if (readersOf(cpu, sem) === 0) break;
    schedule(cpu);
  }
  finishWait(cpu, queue, wait);
}

/** The sum of all CPUs' counts (I3). */
function readersOf(cpu: Cpu, sem: PercpuRwsem): number {
  const counts = readOwn(cpu, sem, PercpuRwsem.counts);
  let sum = 0;
  for (let id = cpusOf(cpu) - 1; id >= 0; id--) {
    const count = perCpuPtr<'percpu_read_count'>(cpu, counts, id);
    sum += loadAcquire(cpu, count, ReadCount.value); // pairs with addToOwn
  }
  return sum;
}
