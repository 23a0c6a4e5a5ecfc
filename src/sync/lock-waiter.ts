/**
 * A CPU's place in the queue of a sleeping lock, shared by mutex and rwsem.
 *
 * A CPU waits for one sleeping lock at a time, so its waiter is a fixed part of its area (the kernel
 * has it on the stack). The queue is a list of waiters, first come first, under the lock's wait_lock.
 *
 * @module
 */
import { read, write, writeAddress } from '#memory';

import type { Cpu } from '../machine/cpu.js';
import { CpuArea } from '../machine/types.js';
import { address, containerOf, member, pointer, type Ptr, struct, word } from '../memory/layout.js';
import { listAddTail, listDelInit, ListHead, listNext } from '../memory/list.js';

export const LockWaiter = struct('lock_waiter', {
  list: ListHead,
  deadline: address, // after this time the waiter may ask for a hand-off; a time. Unit: ms
  task: pointer<'cpu_area'>(), // who waits; cleared by the granter of a read lock
  wantsRead: word,
  handoffSet: word, // rwsem: this waiter has reserved the lock
});
export type LockWaiter = Ptr<'lock_waiter'>;

/** This CPU's waiter, queued last. The lock's wait_lock must be held. */
export function addWaiter(
  cpu: Cpu,
  queue: ListHead,
  wantsRead: boolean,
  deadlineMs: number,
): LockWaiter {
  const waiter = (cpu.area + CpuArea.waiter) as LockWaiter;
  write(cpu, waiter, LockWaiter.task, cpu.area);
  write(cpu, waiter, LockWaiter.wantsRead, wantsRead ? 1 : 0);
  write(cpu, waiter, LockWaiter.handoffSet, 0);
  writeAddress(cpu, waiter, LockWaiter.deadline, deadlineMs);
  listAddTail(cpu, member(waiter, LockWaiter.list), queue);
  return waiter;
}

/** Takes the waiter off its queue. The lock's wait_lock must be held. */
export function removeWaiter(cpu: Cpu, waiter: LockWaiter): void {
  listDelInit(cpu, member(waiter, LockWaiter.list));
}

/** The waiter that came first; the queue must not be empty. The lock's wait_lock must be held. */
export function firstWaiter(cpu: Cpu, queue: ListHead): LockWaiter {
  return containerOf(listNext(cpu, queue), LockWaiter.list);
}

/** Who waits. */
export function waiterTask(cpu: Cpu, waiter: LockWaiter): CpuArea {
  return read(cpu, waiter, LockWaiter.task);
}
