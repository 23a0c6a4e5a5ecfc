/**
 * RCU: readers that cost next to nothing, and grace periods that wait until those there were have left.
 *
 * Kernel     kernel/rcu/, include/linux/rcupdate.h
 * Protocol   reader                                  updater
 *              rcuReadLock: word += 1 (odd)            unpublish: storeRelease to the pointer
 *              p = readOnce(pointer); use p            synchronizeRcu: for each CPU whose word is odd,
 *              rcuReadUnlock: word += 1 (even)           wait until it moves
 *                                                      free
 *            callRcu puts the callback at the end of the machine's queue. A kworker takes all there are,
 *            waits for a grace period and calls them, one after the other: so callbacks are called in the
 *            order of their queueing, each after a grace period that began later than that.
 * Invariant  I1  A read section that began before synchronizeRcu did has ended when it returns (INV-10).
 *            I2  rcuReader is odd exactly while the CPU's outermost section lasts.
 * Ordering   Both sides store one word and then load the other's, each fully ordered: either the reader
 *            sees what was published, or the updater sees the reader. Readers must load what is
 *            published with readOnce: a plain load may come before the store of a section's begin. The
 *            end of a section is a release, which the updater's load sees.
 * Deviation  No CPU has to report anything: a CPU outside of a section, asleep, or busy with something
 *            else holds up no grace period, and whoever wants one looks at all CPUs by itself. Nothing
 *            preempts a reader but the host. Callbacks are called by kworkers, with sleeping forbidden;
 *            in Linux by a softirq or a thread for it.
 * Cost       A section: one ordered store and one release. A grace period: a load for each CPU.
 *
 * @module
 */
import { read, readOnce, readOwn, storeRelease, storeThenLoad, write, writeRelease } from '#memory';
import { BUSTED_RCU, isMutant } from '#mutants';

import { bug } from '../base/bug.js';
import { awaitMove } from '../machine/await-move.js';
import { type Cpu, cpuArea } from '../machine/cpu.js';
import { type LockClass, lockClass } from '../machine/lock-class.js';
import { defineKernelOps, opsAt, opsIndex, type OpsTable } from '../machine/ops-table.js';
import { cpusOf } from '../machine/percpu.js';
import { mightSleep, preemptDisable, preemptEnable } from '../machine/sched.js';
import { stackPop, stackPush } from '../machine/stack.js';
import { CpuArea } from '../machine/types.js';
import { WAIT_RCU, WAIT_WORK } from '../machine/wait-kind.js';
import { containerOf, type Field, member, NULL, type Ptr, struct } from '../memory/layout.js';
import { complete, Completion, initCompletion, waitForCompletionOf } from '../sync/completion.js';
import { initSpinlock, spinLock, spinUnlock } from '../sync/spinlock.js';
import { deferredOf } from './state.js';
import { Deferred, RcuHead, RcuQueue, type WorkStruct } from './types.js';
import { initWork, queueSystemWork, type WorkOps } from './workqueue.js';

/** What is done with an object after a grace period. */
export interface RcuOps extends OpsTable {
  /** `head` is in the object. May not sleep; may free the object. */
  readonly callback: (cpu: Cpu, head: RcuHead) => void;
}

const QUEUE_LOCK = lockClass('rcu queue->lock');
const RCU_WORK = lockClass('rcu callbacks');
const BARRIER = lockClass('rcu barrier');

// --- readers ---

/** Opens a read section; they nest. No sleeping until the outermost has ended. @kernel rcu_read_lock */
export function rcuReadLock(cpu: Cpu): void {
  if (cpu.rcuDepth++ === 0) {
    const outside = readOwn(cpu, cpu.area, CpuArea.rcuReader);
    storeRelease(cpu, cpu.area, CpuArea.rcuReader, (outside + 1) | 0); // pairs with synchronizeRcu
  }
}

/**
 * As rcuReadLock, and then a readOnce of a word that is published: both cost little more than one.
 */
export function rcuReadLockLoad<S extends string, V extends number>(
  cpu: Cpu,
  p: Ptr<S>,
  field: Field<NoInfer<S>, V>,
): V {
  if (cpu.rcuDepth++ !== 0) return readOnce(cpu, p, field);
  const outside = readOwn(cpu, cpu.area, CpuArea.rcuReader);
  return storeThenLoad(cpu, cpu.area, CpuArea.rcuReader, (outside + 1) | 0, p, field);
}

/** Closes it. @kernel rcu_read_unlock */
export function rcuReadUnlock(cpu: Cpu): void {
  if (--cpu.rcuDepth === 0) {
    const inside = readOwn(cpu, cpu.area, CpuArea.rcuReader);
    writeRelease(cpu, cpu.area, CpuArea.rcuReader, (inside + 1) | 0); // pairs with synchronizeRcu
  }
}

/** The caller relies on being in a read section. */
export function assertRcuReader(cpu: Cpu): void {
  if (cpu.rcuDepth === 0) bug(`cpu ${cpu.id}: not in an RCU read section`);
}

// --- grace periods ---

/**
 * Waits until every read section that there is now has ended (I1). The caller has unpublished, with a
 * storeRelease or an update, what it will free. May sleep. @kernel synchronize_rcu
 */
export function synchronizeRcu(cpu: Cpu): void {
  mightSleep(cpu);
  for (let id = cpusOf(cpu) - 1; id >= 0; id--) {
    const area = cpuArea(id);
    const seen = readOnce(cpu, area, CpuArea.rcuReader); // pairs with rcuReadLock, rcuReadUnlock
    if (isMutant(cpu, BUSTED_RCU) || (seen & 1) === 0) continue;
    awaitMove(cpu, area, CpuArea.rcuReader, seen, WAIT_RCU, area);
  }
}

// --- callbacks ---

/**
 * Has a kworker call the callback after a grace period. May be called anywhere, also in a read section; `head`
 * must not be queued. @kernel call_rcu
 */
export function callRcu(cpu: Cpu, head: RcuHead, ops: RcuOps): void {
  const queue = member(deferredOf(cpu), Deferred.rcu);
  addCallback(cpu, queue, head, ops);
}

/** Waits until every callback that was queued before has returned. Sleeps. @kernel rcu_barrier */
export function rcuBarrier(cpu: Cpu): void {
  waitForCallbacks(cpu, member(deferredOf(cpu), Deferred.rcu));
}

/** Makes the machine's queue empty. Runs once, at boot. */
export function bootRcu(cpu: Cpu, queue: RcuQueue): void {
  initRcuQueue(cpu, queue, RCU_WORK, rcuWork);
}

const rcuWork: WorkOps = defineKernelOps({
  opsName: 'rcu callbacks',
  work(cpu: Cpu, work: WorkStruct) {
    const queue: RcuQueue = containerOf(work, RcuQueue.work);
    const batch = takeCallbacks(cpu, queue); // first: what is queued from here on waits for the next one
    synchronizeRcu(cpu);
    invokeCallbacks(cpu, queue, batch);
  },
});

// --- queues of callbacks, for SRCU too ---

/** Makes it empty; `ops` is what its work does. */
export function initRcuQueue(cpu: Cpu, queue: RcuQueue, name: LockClass, ops: WorkOps): void {
  initSpinlock(cpu, member(queue, RcuQueue.lock), QUEUE_LOCK);
  initWork(cpu, member(queue, RcuQueue.work), ops, name);
}

/** Puts the callback last, and sees that somebody will call it. */
export function addCallback(cpu: Cpu, queue: RcuQueue, head: RcuHead, ops: RcuOps): void {
  write(cpu, head, RcuHead.next, NULL as RcuHead);
  write(cpu, head, RcuHead.ops, opsIndex(cpu, ops));
  const lock = member(queue, RcuQueue.lock);
  spinLock(cpu, lock);
  const tail = read(cpu, queue, RcuQueue.tail);
  if (read(cpu, queue, RcuQueue.head) === NULL) write(cpu, queue, RcuQueue.head, head);
  else write(cpu, tail, RcuHead.next, head);
  write(cpu, queue, RcuQueue.tail, head);
  write(cpu, queue, RcuQueue.queued, (read(cpu, queue, RcuQueue.queued) + 1) | 0);
  spinUnlock(cpu, lock);
  queueSystemWork(cpu, member(queue, RcuQueue.work));
}

/** The first of the callbacks that are queued, now nobody else's; NULL if there are none. */
export function takeCallbacks(cpu: Cpu, queue: RcuQueue): RcuHead {
  const lock = member(queue, RcuQueue.lock);
  spinLock(cpu, lock);
  const first = read(cpu, queue, RcuQueue.head);
  write(cpu, queue, RcuQueue.head, NULL as RcuHead);
  spinUnlock(cpu, lock);
  return first;
}

/** Calls callbacks that were taken, after their grace period. */
export function invokeCallbacks(cpu: Cpu, queue: RcuQueue, first: RcuHead): void {
  let invoked = 0;
  for (let head = first; head !== NULL; invoked++) {
    const next = read(cpu, head, RcuHead.next); // the callback frees it
    const ops = opsAt(cpu, read(cpu, head, RcuHead.ops)) as RcuOps;
    preemptDisable(cpu);
    ops.callback(cpu, head);
    preemptEnable(cpu);
    head = next;
  }
  const lock = member(queue, RcuQueue.lock);
  spinLock(cpu, lock);
  write(cpu, queue, RcuQueue.invoked, (read(cpu, queue, RcuQueue.invoked) + invoked) | 0);
  spinUnlock(cpu, lock);
}

/** True if no callback is queued or being called. */
export function callbacksAreDone(cpu: Cpu, queue: RcuQueue): boolean {
  const lock = member(queue, RcuQueue.lock);
  spinLock(cpu, lock);
  const isDone = read(cpu, queue, RcuQueue.queued) === read(cpu, queue, RcuQueue.invoked);
  spinUnlock(cpu, lock);
  return isDone;
}

/** A callback that tells who waits for it. */
const Barrier = struct('rcu_barrier', { head: RcuHead, done: Completion });
type Barrier = Ptr<'rcu_barrier'>;

const barrierOps: RcuOps = defineKernelOps({
  opsName: 'rcu barrier',
  callback(cpu: Cpu, head: RcuHead) {
    const barrier: Barrier = containerOf(head, Barrier.head);
    complete(cpu, member(barrier, Barrier.done));
  },
});

/** Waits until every callback that was queued before has returned. Sleeps. */
export function waitForCallbacks(cpu: Cpu, queue: RcuQueue): void {
  mightSleep(cpu);
  if (!callbacksAreDone(cpu, queue)) addBarrier(cpu, queue);
}

/** Queues a callback and waits for it: also for a grace period that begins from here on. Sleeps. */
export function addBarrier(cpu: Cpu, queue: RcuQueue): void {
  const barrier = stackPush(cpu, Barrier);
  const done = member(barrier, Barrier.done);
  initCompletion(cpu, done, BARRIER);
  addCallback(cpu, queue, member(barrier, Barrier.head), barrierOps);
  waitForCompletionOf(cpu, done, WAIT_WORK, member(queue, RcuQueue.work));
  stackPop(cpu, barrier);
}
