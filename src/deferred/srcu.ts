/**
 * SRCU: RCU of a domain of its own, whose readers may sleep.
 *
 * Kernel     kernel/rcu/srcutree.c in its small mode; include/linux/srcu.h
 * Protocol   Two banks, each with a count of locks and one of unlocks on every CPU. The low bit of `index`
 *            is the bank that new readers use.
 *              reader:  i = index & 1; locks[i] += 1; full barrier; …; full barrier; unlocks[i] += 1
 *              grace period, one at a time:
 *                SCAN1  wait until the bank that is not in use is empty
 *                flip   index += 1
 *                SCAN2  wait until the bank that was in use is empty
 *            A bank is empty if the sum of its unlocks, taken first, is the sum of its locks: then at some
 *            moment in between nobody was in it. The other way round a reader that comes and goes between
 *            the sums would hide one that stays. SCAN1 is for readers who read `index` before the
 *            last flip and counted themselves after it.
 *
 *            callSrcu puts the callback at the end of the domain's queue; a kworker takes all there are,
 *            waits for a grace period, and calls them. synchronizeSrcu waits for the callbacks that were
 *            queued before it, if there are any: they share one queue with it.
 * Invariant  I1  A read section that began before synchronizeSrcu did has ended when it returns (INV-10).
 *            I2  A callback is called after a grace period that began after it was queued; callbacks of one
 *                domain are called in the order of their queueing.
 *            I3  A reader that has counted its unlock touches nothing of the domain: that may be freed.
 * Ordering   Every count is stored fully ordered, and so is the flip: who sums either sees a reader, or that
 *            reader sees what was stored before. Readers load what is published with readOnce. Who leaves
 *            stores its unlock before it looks for grace periods that sleep; these say so before they sum.
 * Deviation  Without callbacks synchronizeSrcu does its grace period by itself, and needs no kworker. Nobody
 *            polls: the last reader wakes. A section ends on the CPU where it began.
 * Cost       A section: two ordered stores, and two loads of shared words.
 *
 * @module
 */
import { lockAcquire, lockAcquired, lockRelease, lockSync, reachPoint } from '#debug';
import { fetchAdd, read, readOnce, readOwn, storeRelease, write } from '#memory';
import { BUSTED_SRCU, isMutant } from '#mutants';

import { bug } from '../base/bug.js';
import { ENOMEM } from '../base/errno.js';
import { LOCK_READ_RECURSIVE } from '../debug/lock-how.js';
import type { Cpu } from '../machine/cpu.js';
import { type LockClass, lockClass } from '../machine/lock-class.js';
import { defineKernelOps } from '../machine/ops-table.js';
import {
  allocPercpu,
  allocPercpuPiece,
  cpusOf,
  freePercpuPiece,
  perCpuPtr,
  thisCpuPtr,
} from '../machine/percpu.js';
import { mightSleep, schedule, TASK_UNINTERRUPTIBLE } from '../machine/sched.js';
import { MACHINE, Machine } from '../machine/types.js';
import { WAIT_SRCU } from '../machine/wait-kind.js';
import { warn } from '../machine/warn.js';
import { containerOf, type Field, member, NULL } from '../memory/layout.js';
import { initMutex, mutexLock, mutexUnlock } from '../sync/mutex.js';
import {
  finishWait,
  initWait,
  initWaitQueue,
  prepareToWait,
  wakeUpAll,
} from '../sync/wait-queue.js';
import {
  addBarrier,
  addCallback,
  callbacksAreDone,
  initRcuQueue,
  invokeCallbacks,
  type RcuOps,
  takeCallbacks,
  waitForCallbacks,
} from './rcu.js';
import {
  type RcuHead,
  RcuQueue,
  SrcuBank,
  SrcuCounters,
  SrcuSleepers,
  SrcuStruct,
  type WorkStruct,
} from './types.js';
import { flushWork, type WorkOps } from './workqueue.js';

/** The bank that a reader is in: what srcuReadLock returns and srcuReadUnlock takes. */
export type SrcuIndex = number;

const SRCU_MUTEX = lockClass('srcu_struct->mutex');
const SRCU_WAIT = lockClass('srcu_struct->wait');

/** Before the first domain, on the boot CPU; needs no frames. */
export function bootSrcu(cpu: Cpu): void {
  if (readOwn(cpu, MACHINE, Machine.srcu) !== 0) return;
  const sleepers = (cpu.percpu + allocPercpu(cpu, SrcuSleepers.words)) as SrcuSleepers;
  initWaitQueue(cpu, member(sleepers, SrcuSleepers.wait), SRCU_WAIT);
  write(cpu, MACHINE, Machine.srcu, sleepers);
}

/** Who sleeps until a reader leaves. */
export function sleepersOf(cpu: Cpu): SrcuSleepers {
  const sleepers = readOwn(cpu, MACHINE, Machine.srcu) as SrcuSleepers;
  if (sleepers === NULL)
    bug('there can be no SRCU on this machine: call bootDeferred or bootMm first');
  return sleepers;
}

/** Makes a domain without readers; 0 or -ENOMEM. @kernel init_srcu_struct */
export function initSrcuStruct(cpu: Cpu, domain: SrcuStruct, name: LockClass): number {
  const counters = allocPercpuPiece(cpu, SrcuCounters.words);
  if (counters === 0) return -ENOMEM;
  write(cpu, domain, SrcuStruct.counters, counters);
  write(cpu, domain, SrcuStruct.index, 0);
  write(cpu, bankOf(domain, 0), SrcuBank.lockClass, name);
  write(cpu, bankOf(domain, 1), SrcuBank.lockClass, name);
  initMutex(cpu, member(domain, SrcuStruct.mutex), SRCU_MUTEX);
  initRcuQueue(cpu, member(domain, SrcuStruct.callbacks), name, srcuWork);
  return 0;
}

/**
 * Waits for the callbacks that are queued, and gives the domain's memory back. With a reader inside, or a callback
 * that was queued after that, it is left as it is, and warned of. Sleeps. @kernel cleanup_srcu_struct
 */
export function cleanupSrcuStruct(cpu: Cpu, domain: SrcuStruct): void {
  const callbacks = member(domain, SrcuStruct.callbacks);
  flushWork(cpu, member(callbacks, RcuQueue.work));
  if (!isEmpty(cpu, domain, 0) || !isEmpty(cpu, domain, 1)) {
    warn(cpu, `srcu_struct ${domain}: cleaned up with readers inside`);
  } else if (!callbacksAreDone(cpu, callbacks)) {
    warn(cpu, `srcu_struct ${domain}: cleaned up with callbacks queued`);
  } else {
    freePercpuPiece(cpu, read(cpu, domain, SrcuStruct.counters), SrcuCounters.words);
    write(cpu, domain, SrcuStruct.counters, 0);
  }
}

// --- readers ---

/** Opens a read section; what it returns closes it. They nest, and may sleep. @kernel srcu_read_lock */
export function srcuReadLock(cpu: Cpu, domain: SrcuStruct): SrcuIndex {
  const bank = readOnce(cpu, domain, SrcuStruct.index) & 1;
  reachPoint(cpu, 'a reader has read the index');
  count(cpu, domain, bank === 0 ? SrcuCounters.locks0 : SrcuCounters.locks1); // pairs with isEmpty
  const held = bankOf(domain, bank);
  lockAcquire(cpu, held, readOwn(cpu, held, SrcuBank.lockClass), LOCK_READ_RECURSIVE);
  lockAcquired(cpu, held);
  return bank;
}

/** Closes it, on the same CPU. @kernel srcu_read_unlock */
export function srcuReadUnlock(cpu: Cpu, domain: SrcuStruct, bank: SrcuIndex): void {
  lockRelease(cpu, bankOf(domain, bank));
  count(cpu, domain, bank === 0 ? SrcuCounters.unlocks0 : SrcuCounters.unlocks1); // pairs with isEmpty
  const sleepers = sleepersOf(cpu); // I3
  if (readOnce(cpu, sleepers, SrcuSleepers.waiting) !== 0) {
    wakeUpAll(cpu, member(sleepers, SrcuSleepers.wait));
  }
}

/** One more in this CPU's own count; fully ordered. */
function count(cpu: Cpu, domain: SrcuStruct, field: Field<'srcu_counters'>): void {
  const own = thisCpuPtr<'srcu_counters'>(cpu, readOwn(cpu, domain, SrcuStruct.counters));
  storeRelease(cpu, own, field, (readOwn(cpu, own, field) + 1) | 0);
}

// --- grace periods ---

/**
 * Waits until every read section of the domain that there is now has ended (I1), and the callbacks that were queued
 * before have been called. Inside such a section that is for ever (LT-25). Sleeps. @kernel synchronize_srcu
 */
export function synchronizeSrcu(cpu: Cpu, domain: SrcuStruct): void {
  mightSleep(cpu);
  willWaitFor(cpu, bankOf(domain, 0));
  willWaitFor(cpu, bankOf(domain, 1));
  const callbacks = member(domain, SrcuStruct.callbacks);
  if (callbacksAreDone(cpu, callbacks)) gracePeriod(cpu, domain);
  else addBarrier(cpu, callbacks);
}

function willWaitFor(cpu: Cpu, bank: SrcuBank): void {
  lockSync(cpu, bank, readOwn(cpu, bank, SrcuBank.lockClass));
}

function gracePeriod(cpu: Cpu, domain: SrcuStruct): void {
  const mutex = member(domain, SrcuStruct.mutex);
  mutexLock(cpu, mutex);
  const index = read(cpu, domain, SrcuStruct.index);
  waitUntilEmpty(cpu, domain, (index & 1) ^ 1);
  storeRelease(cpu, domain, SrcuStruct.index, (index + 1) | 0); // pairs with srcuReadLock
  waitUntilEmpty(cpu, domain, index & 1);
  mutexUnlock(cpu, mutex);
}

/** Sleeps until there was a moment in which nobody was in the bank. */
function waitUntilEmpty(cpu: Cpu, domain: SrcuStruct, bank: number): void {
  if (isEmpty(cpu, domain, bank)) return;
  const sleepers = sleepersOf(cpu);
  const queue = member(sleepers, SrcuSleepers.wait);
  fetchAdd(cpu, sleepers, SrcuSleepers.waiting, 1); // pairs with srcuReadUnlock
  const wait = initWait(cpu, WAIT_SRCU, bankOf(domain, bank));
  const early = isMutant(cpu, BUSTED_SRCU) ? locksOf(cpu, domain, bank) : 0;
  for (;;) {
    prepareToWait(cpu, queue, wait, TASK_UNINTERRUPTIBLE);
    if (isMutant(cpu, BUSTED_SRCU)) {
      if (unlocksOf(cpu, domain, bank) === early) break;
    } else if (isEmpty(cpu, domain, bank)) break;
    schedule(cpu);
  }
  finishWait(cpu, queue, wait);
  fetchAdd(cpu, sleepers, SrcuSleepers.waiting, -1);
}

function isEmpty(cpu: Cpu, domain: SrcuStruct, bank: number): boolean {
  const unlocks = unlocksOf(cpu, domain, bank); // first: see above
  return unlocks === locksOf(cpu, domain, bank);
}

function unlocksOf(cpu: Cpu, domain: SrcuStruct, bank: number): number {
  return sum(cpu, domain, bank === 0 ? SrcuCounters.unlocks0 : SrcuCounters.unlocks1);
}

function locksOf(cpu: Cpu, domain: SrcuStruct, bank: number): number {
  return sum(cpu, domain, bank === 0 ? SrcuCounters.locks0 : SrcuCounters.locks1);
}

function sum(cpu: Cpu, domain: SrcuStruct, field: Field<'srcu_counters'>): number {
  const counters = readOwn(cpu, domain, SrcuStruct.counters);
  let total = 0;
  for (let id = cpusOf(cpu) - 1; id >= 0; id--) {
    const theirs = perCpuPtr<'srcu_counters'>(cpu, counters, id);
    total = (total + readOnce(cpu, theirs, field)) | 0; // pairs with count
  }
  return total;
}

function bankOf(domain: SrcuStruct, bank: number): SrcuBank {
  return member(domain, bank === 0 ? SrcuStruct.bank0 : SrcuStruct.bank1);
}

// --- callbacks ---

/**
 * Has a kworker call the callback after a grace period of the domain. May be called anywhere, also in a read
 * section; `head` must not be queued. @kernel call_srcu
 */
export function callSrcu(cpu: Cpu, domain: SrcuStruct, head: RcuHead, ops: RcuOps): void {
  addCallback(cpu, member(domain, SrcuStruct.callbacks), head, ops);
}

/** Waits until every callback of the domain that was queued before has returned. Sleeps. @kernel srcu_barrier */
export function srcuBarrier(cpu: Cpu, domain: SrcuStruct): void {
  waitForCallbacks(cpu, member(domain, SrcuStruct.callbacks));
}

const srcuWork: WorkOps = defineKernelOps({
  opsName: 'srcu callbacks',
  work(cpu: Cpu, work: WorkStruct) {
    const queue: RcuQueue = containerOf(work, RcuQueue.work);
    const domain: SrcuStruct = containerOf(queue, SrcuStruct.callbacks);
    const batch = takeCallbacks(cpu, queue);
    gracePeriod(cpu, domain);
    invokeCallbacks(cpu, queue, batch);
  },
});
