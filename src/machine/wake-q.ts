/**
 * Wake queue: CPUs to wake once a lock has been dropped.
 *
 * Kernel     include/linux/sched/wake_q.h
 * Protocol   Collect with wakeQAdd while the lock is held, drop the lock, then wakeUpQ: so that whom we
 *            wake does not run into the lock at once. The queue is a chain through CpuArea.wakeNext;
 *            its head is a local variable of the waker.
 * Invariant  I1  A CPU is in one chain at most. Who finds it in another's chain may rely on that one's
 *                wake-up: it has not happened yet.
 * Ordering   wakeQAdd is a full barrier, so a condition that was made true before it is seen by the CPU
 *            that the other waker wakes.
 *
 * @module
 */
import { cmpxchg, readOnce, writeOnce } from '#memory';

import type { Cpu } from './cpu.js';
import { wakeUpProcess } from './sched.js';
import { CpuArea } from './types.js';

/** The first CPU to wake; EMPTY_WAKE_Q if there is none. */
export type WakeQ = CpuArea;

/** A queue without anybody in it. It also ends every chain. */
export const EMPTY_WAKE_Q = -1 as unknown as WakeQ;

/** The queue with `task` in it. @kernel wake_q_add */
export function wakeQAdd(cpu: Cpu, queue: WakeQ, task: CpuArea): WakeQ {
  const before = cmpxchg(cpu, task, CpuArea.wakeNext, 0, queue);
  return before === 0 ? task : queue; // I1
}

/** Wakes everybody in the queue. @kernel wake_up_q */
export function wakeUpQ(cpu: Cpu, queue: WakeQ): void {
  let task = queue;
  while (task !== EMPTY_WAKE_Q) {
    const next = readOnce(cpu, task, CpuArea.wakeNext) as CpuArea;
    writeOnce(cpu, task, CpuArea.wakeNext, 0); // before the wake-up: it may be queued again at once
    wakeUpProcess(cpu, task);
    task = next;
  }
}
