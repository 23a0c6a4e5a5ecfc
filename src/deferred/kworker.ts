/**
 * Serving the work queues: what a CPU does that runs other CPUs' work items.
 *
 * Kernel     kernel/workqueue.c (worker_thread)
 * Protocol   runKworker takes items and calls them until stopKworkers has been called and nothing is left
 *            that it could take. With nothing to do it sleeps in the pool's queue; who queues an item
 *            wakes one kworker.
 * Invariant  I1  No item is left behind: a kworker says that it sleeps before it looks for work, and who
 *                has finished an item, which may have been queued again meanwhile, looks once more.
 *            I2  No item waits while a kworker sleeps: who takes one in runKworker wakes another if there is
 *                more, for the wake-up that was meant for that may have met a kworker that was about to look.
 * Deviation  A kworker is a CPU: its program calls runKworker. The host decides how many there are; with
 *            too few, items that wait for one another wait for ever, as in a Linux that cannot make any
 *            more threads.
 *
 * @module
 */
import { read, write } from '#memory';

import type { Cpu } from '../machine/cpu.js';
import { mightSleep, schedule, TASK_UNINTERRUPTIBLE } from '../machine/sched.js';
import { stackPop, stackPush } from '../machine/stack.js';
import { WAIT_NEXT_WORK, WAIT_WORKQUEUE } from '../machine/wait-kind.js';
import { member, NULL } from '../memory/layout.js';
import { listAddTail, listDelInit, listEmpty } from '../memory/list.js';
import { spinLock, spinUnlock } from '../sync/spinlock.js';
import {
  finishWait,
  initWait,
  prepareToWait,
  prepareToWaitExclusive,
  wakeUpAll,
} from '../sync/wait-queue.js';
import { deferredOf } from './state.js';
import { Deferred, Kworker, KworkerPool, type WorkStruct } from './types.js';
import { callWork, systemWq, takeWork, wakeForMore, wakeWaiters } from './workqueue.js';

/** Runs work items until stopKworkers; how many it were. Sleeps. */
export function runKworker(cpu: Cpu): number {
  mightSleep(cpu);
  const pool = member(deferredOf(cpu), Deferred.pool);
  const kworker = enter(cpu, pool);
  let done = 0;
  for (;;) {
    const work = nextWork(cpu, pool, kworker);
    if (work === NULL) break;
    wakeForMore(cpu, pool);
    callWork(cpu, pool, kworker, work);
    done++;
  }
  leave(cpu, pool, kworker);
  return done;
}

/** Runs the items that are queued, and those that are queued meanwhile; how many it were. Does not wait for more. */
export function runPendingWork(cpu: Cpu): number {
  mightSleep(cpu);
  const pool = member(deferredOf(cpu), Deferred.pool);
  const kworker = enter(cpu, pool);
  let done = 0;
  for (;;) {
    const work = tryWork(cpu, pool, kworker);
    if (work === NULL) break;
    callWork(cpu, pool, kworker, work);
    done++;
  }
  leave(cpu, pool, kworker);
  return done;
}

/**
 * Has every kworker return, now or later, when it finds nothing to do, and waits until none is left. Work that is
 * queued afterwards is done by nobody but runPendingWork. Sleeps.
 */
export function stopKworkers(cpu: Cpu): void {
  mightSleep(cpu);
  const pool = member(deferredOf(cpu), Deferred.pool);
  const lock = member(pool, KworkerPool.lock);
  spinLock(cpu, lock);
  write(cpu, pool, KworkerPool.stopping, 1);
  spinUnlock(cpu, lock);
  wakeUpAll(cpu, member(pool, KworkerPool.idle));
  const done = member(pool, KworkerPool.done);
  const wait = initWait(cpu, WAIT_WORKQUEUE, systemWq(cpu));
  for (;;) {
    prepareToWait(cpu, done, wait, TASK_UNINTERRUPTIBLE);
    if (!isServed(cpu, pool)) break;
    schedule(cpu);
  }
  finishWait(cpu, done, wait);
}

function isServed(cpu: Cpu, pool: KworkerPool): boolean {
  const lock = member(pool, KworkerPool.lock);
  spinLock(cpu, lock);
  const hasKworkers = !listEmpty(cpu, member(pool, KworkerPool.kworkers));
  spinUnlock(cpu, lock);
  return hasKworkers;
}

function enter(cpu: Cpu, pool: KworkerPool): Kworker {
  const kworker = stackPush(cpu, Kworker);
  write(cpu, kworker, Kworker.task, cpu.area);
  const lock = member(pool, KworkerPool.lock);
  spinLock(cpu, lock);
  listAddTail(cpu, member(kworker, Kworker.entry), member(pool, KworkerPool.kworkers));
  spinUnlock(cpu, lock);
  return kworker;
}

function leave(cpu: Cpu, pool: KworkerPool, kworker: Kworker): void {
  const lock = member(pool, KworkerPool.lock);
  spinLock(cpu, lock);
  listDelInit(cpu, member(kworker, Kworker.entry));
  spinUnlock(cpu, lock);
  wakeWaiters(cpu, pool); // stopKworkers
  stackPop(cpu, kworker);
}

/** The next item to run; NULL when there is none and none shall be waited for. */
function nextWork(cpu: Cpu, pool: KworkerPool, kworker: Kworker): WorkStruct {
  const first = tryWork(cpu, pool, kworker);
  if (first !== NULL) return first;
  const idle = member(pool, KworkerPool.idle);
  const wait = initWait(cpu, WAIT_NEXT_WORK, pool);
  let work: WorkStruct;
  for (;;) {
    prepareToWaitExclusive(cpu, idle, wait, TASK_UNINTERRUPTIBLE);
    const stopping = isStopping(cpu, pool); // what was queued before that, the next line finds
    work = tryWork(cpu, pool, kworker);
    if (work !== NULL || stopping) break;
    schedule(cpu);
  }
  finishWait(cpu, idle, wait);
  return work;
}

function tryWork(cpu: Cpu, pool: KworkerPool, kworker: Kworker): WorkStruct {
  const lock = member(pool, KworkerPool.lock);
  spinLock(cpu, lock);
  const work = takeWork(cpu, pool, kworker);
  spinUnlock(cpu, lock);
  return work;
}

function isStopping(cpu: Cpu, pool: KworkerPool): boolean {
  const lock = member(pool, KworkerPool.lock);
  spinLock(cpu, lock);
  const stopping = read(cpu, pool, KworkerPool.stopping) !== 0;
  spinUnlock(cpu, lock);
  return stopping;
}
