/**
 * What this layer needs of a machine before its first callback.
 *
 * @module
 */
import { write } from '#memory';

import type { Cpu } from '../machine/cpu.js';
import { lockClass } from '../machine/lock-class.js';
import { allocPercpu } from '../machine/percpu.js';
import { MACHINE, Machine } from '../machine/types.js';
import { member } from '../memory/layout.js';
import { initSpinlock } from '../sync/spinlock.js';
import { initWaitQueue } from '../sync/wait-queue.js';
import { bootKthreads } from './kthread.js';
import { bootRcu } from './rcu.js';
import { bootSrcu } from './srcu.js';
import { Deferred } from './types.js';
import { bootWorkqueues } from './workqueue.js';

const SWITCH_LOCK = lockClass('percpu_ref_switch_lock');

/** Makes the machine's queues of work, callbacks and threads. Runs once, on the boot CPU; needs no frames. */
export function bootDeferred(cpu: Cpu): void {
  const deferred = (cpu.percpu + allocPercpu(cpu, Deferred.words)) as Deferred;
  bootWorkqueues(cpu, deferred);
  bootRcu(cpu, member(deferred, Deferred.rcu));
  initSpinlock(cpu, member(deferred, Deferred.percpuRefLock), SWITCH_LOCK);
  initWaitQueue(cpu, member(deferred, Deferred.percpuRefWait), SWITCH_LOCK);
  bootSrcu(cpu);
  bootKthreads(cpu, member(deferred, Deferred.kthreads));
  write(cpu, MACHINE, Machine.deferred, deferred);
}
