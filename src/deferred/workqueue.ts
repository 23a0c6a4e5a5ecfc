/**
 * Work queues: functions that some other CPU calls, in a context that may sleep.
 *
 * Kernel     kernel/workqueue.c
 * Protocol   An item is free, queued, run, or run and queued again.
 *              queueWork       pending := 1, last in the pool's list; false if it was pending
 *              a kworker       takes the first item that nobody runs: pending := 0, and calls its function
 *              flushWork       waits for the queueing it finds, queued or run, and no later one
 *              cancelWorkSync  takes it off the list, waits until nobody runs it, and lets nobody queue it
 *                              meanwhile
 *            A queue bounds how many of its items are in the pool or run; the others wait in its own list.
 * Invariant  I1  An item is in at most one list, once.
 *            I2  No two CPUs run one item at a time.
 *            I3  After a queueWork that answered true, or false because the item was pending, the function
 *                begins once more, unless the item is cancelled, and sees what was written before: pending
 *                goes before the function is called.
 * Ordering   Everything is under the pool's lock.
 * Deviation  One pool for all CPUs. There is no thread of the machine's own: a CPU serves the pool while it
 *            is in runKworker, any number may; if none does, items stay queued, and a report says of who
 *            waits for one that nobody runs it. A queueing is known by its serial number, where Linux puts
 *            a barrier into the list. Several may cancel an item at a time; it may be freed when all of them
 *            have returned.
 *
 * @module
 */
import { lockAcquire, lockAcquired, lockRelease } from '#debug';
import { read, readOnce, readOwn, write } from '#memory';
import { BUSTED_WORK, isMutant } from '#mutants';

import { bug } from '../base/bug.js';
import { LOCK_MAP } from '../debug/lock-how.js';
import type { Cpu } from '../machine/cpu.js';
import { type LockClass, lockClass } from '../machine/lock-class.js';
import { opsAt, opsIndex, type OpsTable } from '../machine/ops-table.js';
import { mightSleep, schedule, TASK_UNINTERRUPTIBLE } from '../machine/sched.js';
import { kfree, kzalloc } from '../machine/slab.js';
import { WAIT_WORK, WAIT_WORKQUEUE } from '../machine/wait-kind.js';
import { warn } from '../machine/warn.js';
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
  waitqueueActive,
  wakeUp,
  wakeUpAll,
} from '../sync/wait-queue.js';
import { deferredOf } from './state.js';
import { Deferred, Kworker, KworkerPool, WorkqueueStruct, WorkStruct } from './types.js';

/** What an item does. */
export interface WorkOps extends OpsTable {
  /** May sleep; may free the item, and may queue it again. */
  readonly work: (cpu: Cpu, work: WorkStruct) => void;
}

const POOL_LOCK = lockClass('kworker_pool->lock');
const POOL_WAIT = lockClass('kworker_pool->wait');
const SYSTEM_WQ = lockClass('events');
/** @kernel WQ_DFL_ACTIVE */
const ACTIVE_MAX = 1024;

// --- items ---

/** Makes an item that is not queued. @kernel INIT_WORK */
export function initWork(cpu: Cpu, work: WorkStruct, ops: WorkOps, name: LockClass): void {
  write(cpu, work, WorkStruct.pending, 0);
  write(cpu, work, WorkStruct.lockClass, name);
  initListHead(cpu, member(work, WorkStruct.entry));
  write(cpu, work, WorkStruct.ops, opsIndex(cpu, ops));
  write(cpu, work, WorkStruct.canceling, 0);
}

/**
 * Queues the item; false if it is queued and has not begun, if it is being cancelled, or, with a warning, if the
 * queue is being drained and the caller is none of its items. Never sleeps. @kernel queue_work
 */
export function queueWork(cpu: Cpu, queue: WorkqueueStruct, work: WorkStruct): boolean {
  const pool = member(deferredOf(cpu), Deferred.pool);
  const lock = member(pool, KworkerPool.lock);
  spinLock(cpu, lock);
  const isQueued = mayQueue(cpu, pool, queue, work);
  if (isQueued) enqueue(cpu, pool, queue, work);
  spinUnlock(cpu, lock);
  const idle = member(pool, KworkerPool.idle);
  if (isQueued && waitqueueActive(cpu, idle)) wakeUp(cpu, idle); // the unlock was the full barrier
  return isQueued;
}

/** Queues the item on the machine's own queue. @kernel schedule_work */
export function queueSystemWork(cpu: Cpu, work: WorkStruct): boolean {
  return queueWork(cpu, systemWq(cpu), work);
}

/** The queue that every machine has. @kernel system_wq */
export function systemWq(cpu: Cpu): WorkqueueStruct {
  return member(deferredOf(cpu), Deferred.systemWq);
}

/** True if the item is queued and has not begun. @kernel work_pending */
export function workPending(cpu: Cpu, work: WorkStruct): boolean {
  const lock = member(member(deferredOf(cpu), Deferred.pool), KworkerPool.lock);
  spinLock(cpu, lock);
  const isPending = read(cpu, work, WorkStruct.pending) !== 0;
  spinUnlock(cpu, lock);
  return isPending;
}

/**
 * Waits until the item has done what it was queued for when this was called; false if there was nothing to wait
 * for. From within the item, or under a lock that it takes, that is a deadlock. Sleeps. @kernel flush_work
 */
export function flushWork(cpu: Cpu, work: WorkStruct): boolean {
  mightSleep(cpu);
  willWaitFor(cpu, work, readOwn(cpu, work, WorkStruct.lockClass));
  const pool = member(deferredOf(cpu), Deferred.pool);
  const lock = member(pool, KworkerPool.lock);
  spinLock(cpu, lock);
  const isPending = read(cpu, work, WorkStruct.pending) !== 0;
  const runner = runnerOf(cpu, pool, work);
  const serial = isPending ? read(cpu, work, WorkStruct.serial) : serialOf(cpu, runner);
  const isQueued = isPending || runner === NULL; // else it may have been queued elsewhere since, and cancelled
  const queue = isQueued ? read(cpu, work, WorkStruct.queue) : read(cpu, runner, Kworker.queue);
  spinUnlock(cpu, lock);
  if (serial === 0) return false;
  waitUntilDone(cpu, pool, WAIT_WORK, work, queue, serial, serial);
  return true;
}

/**
 * Takes the item off its queue and waits until nobody runs it; true if it was queued. Afterwards it may be freed,
 * if nobody else is cancelling it. Not from within the item. Sleeps. @kernel cancel_work_sync
 */
export function cancelWorkSync(cpu: Cpu, work: WorkStruct): boolean {
  mightSleep(cpu);
  willWaitFor(cpu, work, readOwn(cpu, work, WorkStruct.lockClass));
  const pool = member(deferredOf(cpu), Deferred.pool);
  const lock = member(pool, KworkerPool.lock);
  spinLock(cpu, lock);
  const wasPending = read(cpu, work, WorkStruct.pending) !== 0;
  if (wasPending) dequeue(cpu, pool, work);
  write(cpu, work, WorkStruct.canceling, read(cpu, work, WorkStruct.canceling) + 1);
  const runner = runnerOf(cpu, pool, work);
  const serial = serialOf(cpu, runner);
  const queue = runner === NULL ? (NULL as WorkqueueStruct) : read(cpu, runner, Kworker.queue);
  spinUnlock(cpu, lock);
  if (wasPending) {
    wakeWaiters(cpu, pool); // who flushes it waits no longer
    wakeForMore(cpu, pool); // its queue may have another in its place
  }
  if (serial !== 0) waitUntilDone(cpu, pool, WAIT_WORK, work, queue, serial, serial);
  spinLock(cpu, lock);
  write(cpu, work, WorkStruct.canceling, read(cpu, work, WorkStruct.canceling) - 1);
  spinUnlock(cpu, lock);
  return wasPending;
}

// --- queues ---

/**
 * A queue of which at most `maxActive` items run at a time (1: in the order they come); NULL if memory is out.
 * @kernel alloc_workqueue
 */
export function allocWorkqueue(cpu: Cpu, name: LockClass, maxActive = ACTIVE_MAX): WorkqueueStruct {
  const queue = kzalloc(cpu, WorkqueueStruct);
  if (queue !== NULL) initWorkqueue(cpu, queue, name, maxActive);
  return queue;
}

function initWorkqueue(cpu: Cpu, queue: WorkqueueStruct, name: LockClass, maxActive: number): void {
  write(cpu, queue, WorkqueueStruct.drainers, 0);
  write(cpu, queue, WorkqueueStruct.lockClass, name);
  write(cpu, queue, WorkqueueStruct.maxActive, maxActive);
  write(cpu, queue, WorkqueueStruct.active, 0);
  initListHead(cpu, member(queue, WorkqueueStruct.inactive));
}

/** Waits until all items that are queued or run now are done. Not from within one. Sleeps. @kernel flush_workqueue */
export function flushWorkqueue(cpu: Cpu, queue: WorkqueueStruct): void {
  mightSleep(cpu);
  willWaitFor(cpu, queue, readOwn(cpu, queue, WorkqueueStruct.lockClass));
  const pool = member(deferredOf(cpu), Deferred.pool);
  const lock = member(pool, KworkerPool.lock);
  spinLock(cpu, lock);
  const last = read(cpu, pool, KworkerPool.serial);
  spinUnlock(cpu, lock);
  waitUntilDone(cpu, pool, WAIT_WORKQUEUE, queue, queue, 0, last);
}

/** Waits until the queue is empty; meanwhile only its own items may queue on it. Sleeps. @kernel drain_workqueue */
export function drainWorkqueue(cpu: Cpu, queue: WorkqueueStruct): void {
  mightSleep(cpu);
  willWaitFor(cpu, queue, readOwn(cpu, queue, WorkqueueStruct.lockClass));
  const pool = member(deferredOf(cpu), Deferred.pool);
  addDrainer(cpu, pool, queue, 1);
  waitUntilDone(cpu, pool, WAIT_WORKQUEUE, queue, queue, 0, SERIAL_MAX);
  addDrainer(cpu, pool, queue, -1);
}

/** Drains the queue and frees it; nobody may use it any more. Sleeps. @kernel destroy_workqueue */
export function destroyWorkqueue(cpu: Cpu, queue: WorkqueueStruct): void {
  drainWorkqueue(cpu, queue);
  kfree(cpu, WorkqueueStruct, queue);
}

function addDrainer(cpu: Cpu, pool: KworkerPool, queue: WorkqueueStruct, delta: number): void {
  const lock = member(pool, KworkerPool.lock);
  spinLock(cpu, lock);
  const drainers = read(cpu, queue, WorkqueueStruct.drainers) + delta;
  write(cpu, queue, WorkqueueStruct.drainers, drainers);
  spinUnlock(cpu, lock);
}

// --- under the pool's lock ---

/** Larger than any serial. */
const SERIAL_MAX = 0x7fffffff;

function mayQueue(cpu: Cpu, pool: KworkerPool, queue: WorkqueueStruct, work: WorkStruct): boolean {
  if (read(cpu, work, WorkStruct.pending) !== 0) return false;
  if (read(cpu, work, WorkStruct.canceling) !== 0) return false;
  if (read(cpu, queue, WorkqueueStruct.drainers) === 0) return true;
  if (isRunOn(cpu, pool, queue)) return true;
  warn(cpu, 'work is queued on a queue that is being drained');
  return false;
}

/** True if this CPU runs an item of the queue. */
function isRunOn(cpu: Cpu, pool: KworkerPool, queue: WorkqueueStruct): boolean {
  const kworkers = member(pool, KworkerPool.kworkers);
  for (let node = listNext(cpu, kworkers); node !== kworkers; node = listNext(cpu, node)) {
    const kworker: Kworker = containerOf(node, Kworker.entry);
    if (readOwn(cpu, kworker, Kworker.task) !== cpu.area) continue;
    if (read(cpu, kworker, Kworker.queue) === queue) return true;
  }
  return false;
}

function enqueue(cpu: Cpu, pool: KworkerPool, queue: WorkqueueStruct, work: WorkStruct): void {
  const serial = read(cpu, pool, KworkerPool.serial) + 1;
  if (serial === SERIAL_MAX) bug('serial numbers of work items are used up');
  write(cpu, pool, KworkerPool.serial, serial);
  write(cpu, work, WorkStruct.pending, 1);
  write(cpu, work, WorkStruct.serial, serial);
  write(cpu, work, WorkStruct.queue, queue);
  const active = read(cpu, queue, WorkqueueStruct.active);
  const isActive = active < readOwn(cpu, queue, WorkqueueStruct.maxActive);
  if (isActive) write(cpu, queue, WorkqueueStruct.active, active + 1);
  const list = isActive ? member(pool, KworkerPool.items) : inactiveOf(queue);
  listAddTail(cpu, member(work, WorkStruct.entry), list);
}

const inactiveOf = (queue: WorkqueueStruct): ListHead => member(queue, WorkqueueStruct.inactive);

/** Takes a pending item off its list, wherever it is. */
function dequeue(cpu: Cpu, pool: KworkerPool, work: WorkStruct): void {
  const queue = read(cpu, work, WorkStruct.queue);
  const wasActive = isIn(cpu, member(pool, KworkerPool.items), work);
  listDelInit(cpu, member(work, WorkStruct.entry));
  write(cpu, work, WorkStruct.pending, 0);
  if (wasActive) endActive(cpu, pool, queue);
}

function isIn(cpu: Cpu, list: ListHead, work: WorkStruct): boolean {
  const entry = member(work, WorkStruct.entry);
  for (let node = listNext(cpu, list); node !== list; node = listNext(cpu, node)) {
    if (node === entry) return true;
  }
  return false;
}

/** One of the queue's items has left the pool: the next may come. */
function endActive(cpu: Cpu, pool: KworkerPool, queue: WorkqueueStruct): void {
  const inactive = inactiveOf(queue);
  if (listEmpty(cpu, inactive)) {
    const active = read(cpu, queue, WorkqueueStruct.active) - 1;
    write(cpu, queue, WorkqueueStruct.active, active);
    return;
  }
  const next = listNext(cpu, inactive);
  listDelInit(cpu, next);
  listAddTail(cpu, next, member(pool, KworkerPool.items));
}

/** Who runs the item, or NULL. */
function runnerOf(cpu: Cpu, pool: KworkerPool, work: WorkStruct): Kworker {
  const kworkers = member(pool, KworkerPool.kworkers);
  const ops = readOwn(cpu, work, WorkStruct.ops);
  for (let node = listNext(cpu, kworkers); node !== kworkers; node = listNext(cpu, node)) {
    const kworker: Kworker = containerOf(node, Kworker.entry);
    // one that has been freed and made again, for another function, is not the one that is run
    if (read(cpu, kworker, Kworker.work) !== work) continue;
    if (read(cpu, kworker, Kworker.ops) === ops) return kworker;
  }
  return NULL;
}

/** Of what the kworker runs; 0 = nothing, or there is no such kworker. */
function serialOf(cpu: Cpu, kworker: Kworker): number {
  return kworker === NULL ? 0 : read(cpu, kworker, Kworker.serial);
}

// --- waiting ---

/** For the debugging layer waiting for an item is like taking a lock that its runner holds. */
function willWaitFor(cpu: Cpu, object: number, name: number): void {
  lockAcquire(cpu, object, name);
  lockAcquired(cpu, object);
  lockRelease(cpu, object);
}

/** Sleeps until no queueing with a number from `first` to `last` is left on the queue. */
function waitUntilDone(
  cpu: Cpu,
  pool: KworkerPool,
  waitKind: number,
  object: number,
  queue: WorkqueueStruct,
  first: number,
  last: number,
): void {
  const done = member(pool, KworkerPool.done);
  const wait = initWait(cpu, waitKind, object);
  for (;;) {
    prepareToWait(cpu, done, wait, TASK_UNINTERRUPTIBLE);
    if (!isUnderWay(cpu, pool, queue, first, last)) break;
    schedule(cpu);
  }
  finishWait(cpu, done, wait);
}

function isUnderWay(
  cpu: Cpu,
  pool: KworkerPool,
  queue: WorkqueueStruct,
  first: number,
  last: number,
): boolean {
  const lock = member(pool, KworkerPool.lock);
  spinLock(cpu, lock);
  const isLeft =
    isListed(cpu, member(pool, KworkerPool.items), queue, first, last) ||
    isListed(cpu, inactiveOf(queue), queue, first, last) ||
    isRun(cpu, pool, queue, first, last);
  spinUnlock(cpu, lock);
  return isLeft;
}

function isListed(
  cpu: Cpu,
  list: ListHead,
  queue: WorkqueueStruct,
  first: number,
  last: number,
): boolean {
  for (let node = listNext(cpu, list); node !== list; node = listNext(cpu, node)) {
    const work: WorkStruct = containerOf(node, WorkStruct.entry);
    const serial = read(cpu, work, WorkStruct.serial);
    if (serial < first || serial > last) continue;
    if (read(cpu, work, WorkStruct.queue) === queue) return true;
  }
  return false;
}

function isRun(
  cpu: Cpu,
  pool: KworkerPool,
  queue: WorkqueueStruct,
  first: number,
  last: number,
): boolean {
  const kworkers = member(pool, KworkerPool.kworkers);
  for (let node = listNext(cpu, kworkers); node !== kworkers; node = listNext(cpu, node)) {
    const kworker: Kworker = containerOf(node, Kworker.entry);
    const serial = read(cpu, kworker, Kworker.serial);
    if (serial < first || serial > last || serial === 0) continue;
    if (read(cpu, kworker, Kworker.queue) === queue) return true;
  }
  return false;
}

// --- for who serves the pool: deferred/kworker.ts ---

/** Makes the pool and the machine's queue. Runs once, at boot. */
export function bootWorkqueues(cpu: Cpu, deferred: Deferred): void {
  const pool = member(deferred, Deferred.pool);
  initSpinlock(cpu, member(pool, KworkerPool.lock), POOL_LOCK);
  initListHead(cpu, member(pool, KworkerPool.items));
  initListHead(cpu, member(pool, KworkerPool.kworkers));
  initWaitQueue(cpu, member(pool, KworkerPool.idle), POOL_WAIT);
  initWaitQueue(cpu, member(pool, KworkerPool.done), POOL_WAIT);
  initWorkqueue(cpu, member(deferred, Deferred.systemWq), SYSTEM_WQ, ACTIVE_MAX);
}

/**
 * Takes the first item that nobody runs; NULL if there is none. The pool's lock must be held (I2).
 */
export function takeWork(cpu: Cpu, pool: KworkerPool, kworker: Kworker): WorkStruct {
  const items = member(pool, KworkerPool.items);
  for (let node = listNext(cpu, items); node !== items; node = listNext(cpu, node)) {
    const work: WorkStruct = containerOf(node, WorkStruct.entry);
    if (runnerOf(cpu, pool, work) !== NULL) continue;
    listDelInit(cpu, node);
    if (!isMutant(cpu, BUSTED_WORK)) write(cpu, work, WorkStruct.pending, 0); // I3
    write(cpu, kworker, Kworker.work, work);
    write(cpu, kworker, Kworker.ops, read(cpu, work, WorkStruct.ops));
    write(cpu, kworker, Kworker.queue, read(cpu, work, WorkStruct.queue));
    write(cpu, kworker, Kworker.serial, read(cpu, work, WorkStruct.serial));
    return work;
  }
  return NULL;
}

/** Calls the function of the item that was taken, which may free it. */
export function callWork(cpu: Cpu, pool: KworkerPool, kworker: Kworker, work: WorkStruct): void {
  const queue = read(cpu, kworker, Kworker.queue);
  const ops = opsAt(cpu, read(cpu, kworker, Kworker.ops)) as WorkOps;
  const heldBefore = cpu.heldDepth;
  lockAcquire(cpu, queue, readOwn(cpu, queue, WorkqueueStruct.lockClass));
  lockAcquired(cpu, queue);
  lockAcquire(cpu, work, readOwn(cpu, work, WorkStruct.lockClass), LOCK_MAP);
  lockAcquired(cpu, work);
  ops.work(cpu, work);
  lockRelease(cpu, work);
  lockRelease(cpu, queue);
  if (cpu.heldDepth !== heldBefore || (cpu.preemptCount | cpu.rcuDepth) !== 0) {
    bug(`work ${ops.opsName} leaked a lock or a section that may not sleep`);
  }
  finishWork(cpu, pool, kworker, work);
}

function finishWork(cpu: Cpu, pool: KworkerPool, kworker: Kworker, work: WorkStruct): void {
  const lock = member(pool, KworkerPool.lock);
  spinLock(cpu, lock);
  if (isMutant(cpu, BUSTED_WORK)) write(cpu, work, WorkStruct.pending, 0);
  endActive(cpu, pool, read(cpu, kworker, Kworker.queue));
  write(cpu, kworker, Kworker.work, NULL as WorkStruct);
  write(cpu, kworker, Kworker.queue, NULL as WorkqueueStruct);
  write(cpu, kworker, Kworker.serial, 0);
  spinUnlock(cpu, lock);
  wakeWaiters(cpu, pool);
}

/** The caller has given the pool's lock back, which was the full barrier. */
export function wakeWaiters(cpu: Cpu, pool: KworkerPool): void {
  const done = member(pool, KworkerPool.done);
  if (waitqueueActive(cpu, done)) wakeUpAll(cpu, done);
}

/** Wakes a kworker if there is something to run. The pool's lock was given back before, a full barrier. */
export function wakeForMore(cpu: Cpu, pool: KworkerPool): void {
  const items = member(pool, KworkerPool.items);
  const idle = member(pool, KworkerPool.idle);
  if (readOnce(cpu, items, ListHead.next) === items) return;
  if (waitqueueActive(cpu, idle)) wakeUp(cpu, idle);
}
