/**
 * Kernel threads: functions that some CPU runs until they return, or are asked to.
 *
 * Kernel     kernel/kthread.c
 * Protocol   new -> runnable -> running -> exited
 *              kthreadCreate   makes it; wakeUpKthread (or kthreadRun, which is both) makes it runnable
 *              runKthreads     a CPU's program: runs one thread after the other
 *              kthreadStop     sets shouldStop, wakes the thread, waits until its function has returned
 *            The function looks at kthreadShouldStop at least whenever it is woken.
 * Invariant  I1  A thread that is stopped before it has begun never begins, and has -EINTR as its result.
 *            I2  kthreadStop wakes a thread that was about to sleep: shouldStop is set before, and the
 *                thread says that it sleeps before it looks.
 * Ordering   Everything but shouldStop is under the list's lock; shouldStop by the thread's sleep.
 * Deviation  There are as many threads as CPUs in runKthreads: one that nobody runs yet is not lost, but who
 *            waits for it is reported to wait for a thread that nobody runs. Every thread is stopped once by
 *            whoever made it, also if it has returned by itself: that gives its memory back.
 *
 * @module
 */
import { lockAcquired, lockRelease } from '#debug';
import { read, readOnce, storeRelease, write } from '#memory';
import { BUSTED_KTHREAD, isMutant } from '#mutants';

import { bug } from '../base/bug.js';
import { EINTR } from '../base/errno.js';
import type { Cpu } from '../machine/cpu.js';
import { type LockClass, lockClass } from '../machine/lock-class.js';
import { opsAt, opsIndex, type OpsTable } from '../machine/ops-table.js';
import {
  beginWait,
  endWait,
  mightSleep,
  schedule,
  TASK_UNINTERRUPTIBLE,
  wakeUpProcess,
} from '../machine/sched.js';
import { kfree, kzalloc } from '../machine/slab.js';
import { WAIT_KTHREAD, WAIT_NEXT_KTHREAD, WAIT_NEXT_WORK } from '../machine/wait-kind.js';
import { containerOf, member, NULL } from '../memory/layout.js';
import {
  initListHead,
  listAddTail,
  listDelInit,
  listEmpty,
  ListHead,
  listNext,
} from '../memory/list.js';
import { initSpinlock, spinLock, spinUnlock } from '../sync/spinlock.js';
import {
  finishWait,
  initWait,
  initWaitQueue,
  prepareToWait,
  prepareToWaitExclusive,
  waitqueueActive,
  wakeUp,
  wakeUpAll,
} from '../sync/wait-queue.js';
import { deferredOf } from './state.js';
import { Deferred, Kthread, KthreadList } from './types.js';

/** What a thread does. */
export interface KthreadOps extends OpsTable {
  /** `data` is what kthreadCreate was given; what it returns is for kthreadStop. */
  readonly run: (cpu: Cpu, kthread: Kthread, data: number) => number;
}

const KTHREAD_NEW = 0;
const KTHREAD_RUNNABLE = 1;
const KTHREAD_RUNNING = 2;
const KTHREAD_EXITED = 3;
const LIST_LOCK = lockClass('kthread_list->lock');
const LIST_WAIT = lockClass('kthread_list->wait');

// --- threads ---

/** A thread that nobody has woken yet; NULL if memory is out. @kernel kthread_create */
export function kthreadCreate(cpu: Cpu, ops: KthreadOps, data: number, name: LockClass): Kthread {
  const kthread = kzalloc(cpu, Kthread);
  if (kthread === NULL) return kthread;
  write(cpu, kthread, Kthread.lockClass, name);
  write(cpu, kthread, Kthread.ops, opsIndex(cpu, ops));
  write(cpu, kthread, Kthread.data, data);
  initListHead(cpu, member(kthread, Kthread.entry));
  return kthread;
}

/** A thread that some CPU will run; NULL if memory is out. @kernel kthread_run */
export function kthreadRun(cpu: Cpu, ops: KthreadOps, data: number, name: LockClass): Kthread {
  const kthread = kthreadCreate(cpu, ops, data, name);
  if (kthread !== NULL) wakeUpKthread(cpu, kthread);
  return kthread;
}

/** Has the thread begin, or ends its sleep. @kernel wake_up_process */
export function wakeUpKthread(cpu: Cpu, kthread: Kthread): void {
  const list = member(deferredOf(cpu), Deferred.kthreads);
  const lock = member(list, KthreadList.lock);
  spinLock(cpu, lock);
  const state = read(cpu, kthread, Kthread.state);
  if (state === KTHREAD_NEW) {
    write(cpu, kthread, Kthread.state, KTHREAD_RUNNABLE);
    listAddTail(cpu, member(kthread, Kthread.entry), member(list, KthreadList.runnable));
  } else if (state === KTHREAD_RUNNING) {
    wakeUpProcess(cpu, read(cpu, kthread, Kthread.task));
  }
  spinUnlock(cpu, lock);
  const idle = member(list, KthreadList.idle);
  if (state === KTHREAD_NEW && waitqueueActive(cpu, idle)) wakeUp(cpu, idle);
}

/** The thread's question whether it is to return. @kernel kthread_should_stop */
export function kthreadShouldStop(cpu: Cpu, kthread: Kthread): boolean {
  return readOnce(cpu, kthread, Kthread.shouldStop) !== 0; // pairs with kthreadStop
}

/**
 * Sleeps until the thread is woken: for one that has said so (setCurrentState), has then looked for something to do,
 * and for shouldStop, and found neither. Sleeps. @kernel schedule
 */
export function kthreadSchedule(cpu: Cpu, kthread: Kthread): void {
  beginWait(cpu, WAIT_NEXT_WORK, kthread);
  schedule(cpu);
  endWait(cpu);
}

/**
 * Asks the thread to return, waits until it has, and gives its memory back: what it returned, or -EINTR if it never
 * began (I1). Each thread is stopped once, also if it has returned by itself. Sleeps. @kernel kthread_stop
 */
export function kthreadStop(cpu: Cpu, kthread: Kthread): number {
  mightSleep(cpu);
  const list = member(deferredOf(cpu), Deferred.kthreads);
  if (!isMutant(cpu, BUSTED_KTHREAD)) storeRelease(cpu, kthread, Kthread.shouldStop, 1); // pairs with kthreadShouldStop
  endOrWake(cpu, list, kthread);
  if (isMutant(cpu, BUSTED_KTHREAD)) storeRelease(cpu, kthread, Kthread.shouldStop, 1);
  const wait = initWait(cpu, WAIT_KTHREAD, kthread);
  const exited = member(list, KthreadList.exited);
  for (;;) {
    prepareToWait(cpu, exited, wait, TASK_UNINTERRUPTIBLE);
    if (hasExited(cpu, list, kthread)) break;
    schedule(cpu);
  }
  finishWait(cpu, exited, wait);
  const result = read(cpu, kthread, Kthread.result);
  kfree(cpu, Kthread, kthread);
  return result;
}

/** A thread that has not begun will not; one that has is woken. */
function endOrWake(cpu: Cpu, list: KthreadList, kthread: Kthread): void {
  const lock = member(list, KthreadList.lock);
  spinLock(cpu, lock);
  const state = read(cpu, kthread, Kthread.state);
  if (state === KTHREAD_RUNNING) {
    wakeUpProcess(cpu, read(cpu, kthread, Kthread.task));
  } else if (state !== KTHREAD_EXITED) {
    listDelInit(cpu, member(kthread, Kthread.entry));
    write(cpu, kthread, Kthread.result, -EINTR);
    write(cpu, kthread, Kthread.state, KTHREAD_EXITED);
  }
  spinUnlock(cpu, lock);
}

function hasExited(cpu: Cpu, list: KthreadList, kthread: Kthread): boolean {
  const lock = member(list, KthreadList.lock);
  spinLock(cpu, lock);
  const state = read(cpu, kthread, Kthread.state);
  spinUnlock(cpu, lock);
  return state === KTHREAD_EXITED;
}

// --- who runs them ---

/** Runs threads until stopKthreads; how many it were. Sleeps. */
export function runKthreads(cpu: Cpu): number {
  mightSleep(cpu);
  const list = member(deferredOf(cpu), Deferred.kthreads);
  for (let done = 0; ; done++) {
    const kthread = nextKthread(cpu, list);
    if (kthread === NULL) return done;
    runKthread(cpu, list, kthread);
  }
}

/** Has whoever is in runKthreads, or comes there, return when no thread is to be run. */
export function stopKthreads(cpu: Cpu): void {
  const list = member(deferredOf(cpu), Deferred.kthreads);
  const lock = member(list, KthreadList.lock);
  spinLock(cpu, lock);
  write(cpu, list, KthreadList.stopping, 1);
  spinUnlock(cpu, lock);
  wakeUpAll(cpu, member(list, KthreadList.idle));
}

/** Makes the list. Runs once, at boot. */
export function bootKthreads(cpu: Cpu, list: KthreadList): void {
  initSpinlock(cpu, member(list, KthreadList.lock), LIST_LOCK);
  initListHead(cpu, member(list, KthreadList.runnable));
  initWaitQueue(cpu, member(list, KthreadList.idle), LIST_WAIT);
  initWaitQueue(cpu, member(list, KthreadList.exited), LIST_WAIT);
}

function runKthread(cpu: Cpu, list: KthreadList, kthread: Kthread): void {
  const ops = opsAt(cpu, read(cpu, kthread, Kthread.ops)) as KthreadOps;
  lockAcquired(cpu, kthread);
  const result = ops.run(cpu, kthread, read(cpu, kthread, Kthread.data));
  lockRelease(cpu, kthread);
  if ((cpu.heldDepth | cpu.preemptCount | cpu.rcuDepth) !== 0) {
    bug(`kthread ${ops.opsName} leaked a lock or a section that may not sleep`);
  }
  const lock = member(list, KthreadList.lock);
  spinLock(cpu, lock);
  write(cpu, kthread, Kthread.result, result);
  write(cpu, kthread, Kthread.state, KTHREAD_EXITED); // from here on it may be freed
  spinUnlock(cpu, lock);
  wakeUpAll(cpu, member(list, KthreadList.exited));
}

/** The next thread, which is this CPU's now; NULL when there is none and none shall be waited for. */
function nextKthread(cpu: Cpu, list: KthreadList): Kthread {
  const idle = member(list, KthreadList.idle);
  const wait = initWait(cpu, WAIT_NEXT_KTHREAD, list);
  let kthread: Kthread;
  for (;;) {
    prepareToWaitExclusive(cpu, idle, wait, TASK_UNINTERRUPTIBLE);
    const stopping = isStopping(cpu, list); // what was woken before that, the next line finds
    kthread = takeKthread(cpu, list);
    if (kthread !== NULL || stopping) break;
    schedule(cpu);
  }
  finishWait(cpu, idle, wait);
  // the wake-up for another thread may have met this CPU, which was about to look
  if (hasRunnable(cpu, list) && waitqueueActive(cpu, idle)) wakeUp(cpu, idle);
  return kthread;
}

function takeKthread(cpu: Cpu, list: KthreadList): Kthread {
  const runnable = member(list, KthreadList.runnable);
  let kthread = NULL as Kthread;
  const lock = member(list, KthreadList.lock);
  spinLock(cpu, lock);
  if (!listEmpty(cpu, runnable)) {
    kthread = containerOf(listNext(cpu, runnable), Kthread.entry);
    listDelInit(cpu, member(kthread, Kthread.entry));
    write(cpu, kthread, Kthread.state, KTHREAD_RUNNING);
    write(cpu, kthread, Kthread.task, cpu.area);
  }
  spinUnlock(cpu, lock);
  return kthread;
}

function hasRunnable(cpu: Cpu, list: KthreadList): boolean {
  const runnable = member(list, KthreadList.runnable);
  return readOnce(cpu, runnable, ListHead.next) !== runnable;
}

function isStopping(cpu: Cpu, list: KthreadList): boolean {
  const lock = member(list, KthreadList.lock);
  spinLock(cpu, lock);
  const stopping = read(cpu, list, KthreadList.stopping) !== 0;
  spinUnlock(cpu, lock);
  return stopping;
}
