/**
 * Wait queue: CPUs that sleep until a condition holds, whatever it is.
 *
 * Kernel     kernel/sched/wait.c
 * Protocol   sleeper                                waker
 *              entry = initWait                       make the condition true
 *              prepareToWait: enqueue, set state      wakeUp…: take entries off, wake their CPUs
 *              test the condition; true: leave
 *              schedule; prepareToWait again
 *              finishWait
 * Invariant  I1  No wake-up is lost: the sleeper is in the queue, in its sleeping state, before it tests
 *                the condition; the waker changes the condition before it looks at the queue. Both
 *                happen under the queue's lock: whoever is taken off is in its sleeping state, so that
 *                it does not sleep on outside of the queue if it found the condition false again.
 *            I2  A waker takes off whom it wakes, so that a second one wakes somebody else. Who is awake
 *                already is on its way to look, or to leave: no wake-up is spent on it.
 * Ordering   Queue and state are published by full barriers. A waker that looks without the lock
 *            (waitqueueActive) must have made a full barrier after it changed the condition.
 * Deviation  Entries are slots of the CPU's area, used like a stack; the kernel has them on its own.
 *
 * @module
 */
import { read, readOnce, write } from '#memory';
import { BUSTED_WAIT_QUEUE, isMutant } from '#mutants';

import { bug } from '../base/bug.js';
import { archSpinLock, archSpinUnlock, initSpinlock } from '../machine/arch-spinlock.js';
import type { Cpu } from '../machine/cpu.js';
import type { LockClass } from '../machine/lock-class.js';
import {
  beginWait,
  endWait,
  setCurrentRunning,
  setCurrentState,
  wakeUpProcess,
} from '../machine/sched.js';
import { CpuArea, Spinlock, WAIT_ENTRIES_MAX, WAIT_ENTRY_WORDS } from '../machine/types.js';
import { containerOf, member, pointer, type Ptr, struct, word } from '../memory/layout.js';
import {
  initListHead,
  listAdd,
  listAddTail,
  listDelInit,
  listEmpty,
  ListHead,
  listNext,
} from '../memory/list.js';

/** CPUs that sleep until a condition holds. */
export const WaitQueue = struct('wait_queue_head', {
  lock: Spinlock,
  head: ListHead, // entries; exclusive ones last; under lock
});
export type WaitQueue = Ptr<'wait_queue_head'>;

/** One CPU's place in a queue; it is in the CPU's area. */
export const WaitEntry = struct('wait_queue_entry', {
  entry: ListHead,
  task: pointer<'cpu_area'>(),
  exclusive: word, // wakeUp wakes one of these, and all others
});
export type WaitEntry = Ptr<'wait_queue_entry'>;

/** Makes it empty. Once, before another CPU knows it. @kernel init_waitqueue_head */
export function initWaitQueue(cpu: Cpu, queue: WaitQueue, name: LockClass): void {
  initSpinlock(cpu, member(queue, WaitQueue.lock), name);
  initListHead(cpu, member(queue, WaitQueue.head));
}

/**
 * A place in a queue for this CPU, and the record of what it waits for. Give it back with finishWait,
 * innermost first. @kernel DEFINE_WAIT
 */
export function initWait(cpu: Cpu, waitKind: number, object: number): WaitEntry {
  if (cpu.waitDepth === WAIT_ENTRIES_MAX) bug(`cpu ${cpu.id} waits in too many queues`);
  const slot = cpu.waitDepth * WAIT_ENTRY_WORDS;
  cpu.waitDepth++;
  const wait = (cpu.area + CpuArea.waitEntries + slot) as WaitEntry;
  write(cpu, wait, WaitEntry.task, cpu.area);
  initListHead(cpu, member(wait, WaitEntry.entry));
  beginWait(cpu, waitKind, object);
  return wait;
}

/** Enqueues the CPU, if it is not, and publishes its state (I1). @kernel prepare_to_wait */
export function prepareToWait(cpu: Cpu, queue: WaitQueue, wait: WaitEntry, state: number): void {
  archSpinLock(cpu, member(queue, WaitQueue.lock));
  enqueueLocked(cpu, queue, wait, false, state);
  archSpinUnlock(cpu, member(queue, WaitQueue.lock));
}

/** As prepareToWait, for a sleeper of which one at a time is to be woken. @kernel prepare_to_wait_exclusive */
export function prepareToWaitExclusive(
  cpu: Cpu,
  queue: WaitQueue,
  wait: WaitEntry,
  state: number,
): void {
  archSpinLock(cpu, member(queue, WaitQueue.lock));
  enqueueLocked(cpu, queue, wait, true, state);
  archSpinUnlock(cpu, member(queue, WaitQueue.lock));
}

/** Leaves the queue; the entry is gone. @kernel finish_wait */
export function finishWait(cpu: Cpu, queue: WaitQueue, wait: WaitEntry): void {
  archSpinLock(cpu, member(queue, WaitQueue.lock));
  finishWaitLocked(cpu, wait);
  archSpinUnlock(cpu, member(queue, WaitQueue.lock));
}

/** True if somebody may be waiting; the caller has made a full barrier (I1). @kernel waitqueue_active */
export function waitqueueActive(cpu: Cpu, queue: WaitQueue): boolean {
  const head = member(queue, WaitQueue.head);
  return readOnce(cpu, head, ListHead.next) !== head;
}

/** Wakes every sleeper that is not exclusive and the first that is. @kernel wake_up */
export function wakeUp(cpu: Cpu, queue: WaitQueue): void {
  archSpinLock(cpu, member(queue, WaitQueue.lock));
  wakeUpLocked(cpu, queue, 1);
  archSpinUnlock(cpu, member(queue, WaitQueue.lock));
}

/** Wakes every sleeper. @kernel wake_up_all */
export function wakeUpAll(cpu: Cpu, queue: WaitQueue): void {
  archSpinLock(cpu, member(queue, WaitQueue.lock));
  wakeUpLocked(cpu, queue, Infinity);
  archSpinUnlock(cpu, member(queue, WaitQueue.lock));
}

/** As prepareToWait. The queue's lock must be held. */
export function enqueueLocked(
  cpu: Cpu,
  queue: WaitQueue,
  wait: WaitEntry,
  exclusive: boolean,
  state: number,
): void {
  const entry = member(wait, WaitEntry.entry);
  const head = member(queue, WaitQueue.head);
  write(cpu, wait, WaitEntry.exclusive, exclusive ? 1 : 0);
  if (listEmpty(cpu, entry)) {
    if (exclusive) listAddTail(cpu, entry, head);
    else listAdd(cpu, entry, head);
  }
  setCurrentState(cpu, state);
}

/** As finishWait. The queue's lock must be held. */
export function finishWaitLocked(cpu: Cpu, wait: WaitEntry): void {
  setCurrentRunning(cpu);
  listDelInit(cpu, member(wait, WaitEntry.entry));
  cpu.waitDepth--;
  endWait(cpu);
}

/** Wakes the first to have come, if there is one. The queue's lock must be held. @kernel swake_up_locked */
export function wakeUpFirstLocked(cpu: Cpu, queue: WaitQueue): void {
  const head = member(queue, WaitQueue.head);
  const first = listNext(cpu, head);
  if (first === head) return;
  const wait: WaitEntry = containerOf(first, WaitEntry.entry);
  const task = read(cpu, wait, WaitEntry.task);
  listDelInit(cpu, first);
  wakeUpProcess(cpu, task);
}

/** Wakes all sleepers up to the `exclusiveMax`-th exclusive one. The queue's lock must be held. */
export function wakeUpLocked(cpu: Cpu, queue: WaitQueue, exclusiveMax: number): void {
  const head = member(queue, WaitQueue.head);
  let exclusiveLeft = exclusiveMax;
  for (let node = listNext(cpu, head); node !== head && exclusiveLeft > 0;) {
    const wait: WaitEntry = containerOf(node, WaitEntry.entry);
    node = listNext(cpu, node);
    if (!wakeUpProcess(cpu, read(cpu, wait, WaitEntry.task))) continue;
    if (isMutant(cpu, BUSTED_WAIT_QUEUE)) unlinkOnly(cpu, member(wait, WaitEntry.entry));
    else listDelInit(cpu, member(wait, WaitEntry.entry)); // I2; it waits for the queue's lock to leave
    if (read(cpu, wait, WaitEntry.exclusive) !== 0) exclusiveLeft--;
  }
}

/** The mistake: the entry still looks queued, and will be unlinked once more from where it is not. */
function unlinkOnly(cpu: Cpu, entry: ListHead): void {
  const next = read(cpu, entry, ListHead.next);
  const prev = read(cpu, entry, ListHead.prev);
  write(cpu, next, ListHead.prev, prev);
  write(cpu, prev, ListHead.next, next);
}
