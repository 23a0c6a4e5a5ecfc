/**
 * Completion: "it is done", said once or for ever, and waited for.
 *
 * Kernel     kernel/sched/completion.c
 * Protocol   `done` counts what has been said and not yet been waited for.
 *              complete:     done += 1, wake the first waiter
 *              completeAll:  done := ALL for ever, wake all
 *              wait:         sleep while done is 0; then done -= 1, unless it is ALL
 * Invariant  I1  Each complete() lets one wait return; waiters are woken in the order they came.
 *            I2  Whom complete() woke may free the completion: `done` changes under the queue's lock,
 *                and complete() touches nothing after it gave that back.
 * Ordering   The queue's lock: what was written before complete() is seen after the wait.
 * Deviation  Real time instead of jiffies. As in Linux, lockdep does not model completions; the
 *            watchdog's wait-for graph does.
 *
 * @module
 */
import { clockMs, read, write } from '#memory';
import { BUSTED_COMPLETION, BUSTED_COMPLETION_UNLOCKED, isMutant } from '#mutants';

import { ERESTARTSYS } from '../base/errno.js';
import { archSpinLock, archSpinUnlock } from '../machine/arch-spinlock.js';
import type { Cpu } from '../machine/cpu.js';
import type { LockClass } from '../machine/lock-class.js';
import {
  mightSleep,
  scheduleTimeout,
  signalPendingState,
  TASK_KILLABLE,
  TASK_UNINTERRUPTIBLE,
} from '../machine/sched.js';
import { WAIT_COMPLETION } from '../machine/wait-kind.js';
import { member, type Ptr, struct, word } from '../memory/layout.js';
import {
  enqueueLocked,
  finishWaitLocked,
  initWait,
  initWaitQueue,
  WaitQueue,
  wakeUpFirstLocked,
  wakeUpLocked,
} from './wait-queue.js';

/** Something others wait for until it is done. One word of state and a wait queue. */
export const Completion = struct('completion', {
  done: word, // said and not waited for; ALL = for ever; under wait.lock
  wait: WaitQueue,
});
export type Completion = Ptr<'completion'>;

const ALL = 0x7fffffff;

/** Makes it not done. Once, before another CPU knows it. @kernel init_completion */
export function initCompletion(cpu: Cpu, completion: Completion, name: LockClass): void {
  write(cpu, completion, Completion.done, 0);
  initWaitQueue(cpu, member(completion, Completion.wait), name);
}

/** Undoes completeAll. Nobody may be waiting. @kernel reinit_completion */
export function reinitCompletion(cpu: Cpu, completion: Completion): void {
  write(cpu, completion, Completion.done, 0);
}

/** Lets one waiter go on. @kernel complete */
export function complete(cpu: Cpu, completion: Completion): void {
  const queue = member(completion, Completion.wait);
  if (isMutant(cpu, BUSTED_COMPLETION_UNLOCKED)) sayDone(cpu, completion);
  archSpinLock(cpu, member(queue, WaitQueue.lock));
  if (!isMutant(cpu, BUSTED_COMPLETION_UNLOCKED)) sayDone(cpu, completion);
  wakeUpFirstLocked(cpu, queue);
  archSpinUnlock(cpu, member(queue, WaitQueue.lock));
}

/** The queue's lock must be held. */
function sayDone(cpu: Cpu, completion: Completion): void {
  const done = read(cpu, completion, Completion.done);
  if (done !== ALL) write(cpu, completion, Completion.done, done + 1);
}

/** Lets every waiter go on, now and later. @kernel complete_all */
export function completeAll(cpu: Cpu, completion: Completion): void {
  const queue = member(completion, Completion.wait);
  archSpinLock(cpu, member(queue, WaitQueue.lock));
  write(cpu, completion, Completion.done, ALL);
  wakeUpLocked(cpu, queue, Infinity);
  archSpinUnlock(cpu, member(queue, WaitQueue.lock));
}

/** Sleeps until it is done. Sleeps. @kernel wait_for_completion */
export function waitForCompletion(cpu: Cpu, completion: Completion): void {
  waitFor(cpu, completion, TASK_UNINTERRUPTIBLE, Infinity);
}

/** As waitForCompletion; a report says that the CPU waits for `object`, which is of the wait kind. Sleeps. */
export function waitForCompletionOf(
  cpu: Cpu,
  completion: Completion,
  waitKind: number,
  object: number,
): void {
  waitFor(cpu, completion, TASK_UNINTERRUPTIBLE, Infinity, waitKind, object);
}

/** As waitForCompletion, or -ERESTARTSYS if a fatal signal came first. @kernel wait_for_completion_killable */
export function waitForCompletionKillable(cpu: Cpu, completion: Completion): number {
  const result = waitFor(cpu, completion, TASK_KILLABLE, Infinity);
  return result === INTERRUPTED ? -ERESTARTSYS : 0;
}

/** As waitForCompletion, for `timeoutMs` at most; false if that passed. @kernel wait_for_completion_timeout */
export function waitForCompletionTimeout(
  cpu: Cpu,
  completion: Completion,
  timeoutMs: number,
): boolean {
  return waitFor(cpu, completion, TASK_UNINTERRUPTIBLE, clockMs(cpu) + timeoutMs) === COMPLETED;
}

/** Takes one `done` if there is one, without waiting. @kernel try_wait_for_completion */
export function tryWaitForCompletion(cpu: Cpu, completion: Completion): boolean {
  const lock = member(member(completion, Completion.wait), WaitQueue.lock);
  archSpinLock(cpu, lock);
  const taken = takeDone(cpu, completion);
  archSpinUnlock(cpu, lock);
  return taken;
}

const COMPLETED = 0;
const INTERRUPTED = 1;
const TIMED_OUT = 2;

function waitFor(
  cpu: Cpu,
  completion: Completion,
  state: number,
  deadlineMs: number,
  waitKind = WAIT_COMPLETION,
  object: number = completion,
): number {
  mightSleep(cpu);
  const queue = member(completion, Completion.wait);
  const lock = member(queue, WaitQueue.lock);
  archSpinLock(cpu, lock);
  let result = takeDone(cpu, completion) ? COMPLETED : TIMED_OUT;
  if (result !== COMPLETED) {
    const wait = initWait(cpu, waitKind, object);
    for (;;) {
      if (signalPendingState(cpu, state)) {
        result = INTERRUPTED;
        break;
      }
      const left = deadlineMs - clockMs(cpu);
      if (left <= 0) break;
      enqueueLocked(cpu, queue, wait, true, state);
      archSpinUnlock(cpu, lock);
      scheduleTimeout(cpu, left);
      archSpinLock(cpu, lock);
      if (isMutant(cpu, BUSTED_COMPLETION) || takeDone(cpu, completion)) {
        result = COMPLETED;
        break;
      }
    }
    finishWaitLocked(cpu, wait);
  }
  archSpinUnlock(cpu, lock);
  return result;
}

/** The queue's lock must be held. */
function takeDone(cpu: Cpu, completion: Completion): boolean {
  const done = read(cpu, completion, Completion.done);
  if (done === 0) return false;
  if (done !== ALL) write(cpu, completion, Completion.done, done - 1);
  return true;
}
