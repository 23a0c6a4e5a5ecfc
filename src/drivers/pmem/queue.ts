/**
 * A block device's queue, as far as its users are counted: who submits enters, who takes it down freezes.
 *
 * Kernel     block/blk-core.c, block/blk-mq.c (blk_queue_enter, blk_freeze_queue_start, blk_cleanup_queue)
 * Invariant  I1  Nobody is in the queue once it is drained.
 *                Its count is per CPU by then, and so comes to 0 only after a grace period: who had seen it
 *                live before the kill is counted.
 *            I2  Its count is killed by the first who freezes it, and by nobody else.
 * Ordering   The reference count's; `freezeDepth` is atomic.
 * Deviation  A frozen queue does not thaw: who comes too late is refused.
 *
 * @module
 */
import { fetchAdd, write } from '#memory';

import { ENODEV } from '../../base/errno.js';
import { drainDrainedRef, initDrainedRef, killDrainedRef } from '../../deferred/drained-ref.js';
import {
  PERCPU_REF_INIT_ATOMIC,
  percpuRefPut,
  percpuRefSwitchToPercpu,
  percpuRefTrygetLive,
} from '../../deferred/percpu-refcount.js';
import { DrainedRef, type PercpuRef } from '../../deferred/types.js';
import type { Cpu } from '../../machine/cpu.js';
import { lockClass } from '../../machine/lock-class.js';
import { member, type Ptr, struct, word } from '../../memory/layout.js';

/** @kernel struct request_queue */
export const RequestQueue = struct('request_queue', {
  usage: DrainedRef, // who is in it. @kernel q_usage_counter, mq_freeze_wq
  freezeDepth: word, // who froze it; atomic
});
export type RequestQueue = Ptr<'request_queue'>;

const USAGE = lockClass('q_usage_counter');

/** Makes it live: 0 or -ENOMEM. @kernel blk_alloc_queue */
export function initQueue(cpu: Cpu, queue: RequestQueue): number {
  write(cpu, queue, RequestQueue.freezeDepth, 0);
  const usage = member(queue, RequestQueue.usage);
  return initDrainedRef(cpu, usage, USAGE, PERCPU_REF_INIT_ATOMIC);
}

/** Who counts its users. */
export function queueRef(queue: RequestQueue): PercpuRef {
  return member(member(queue, RequestQueue.usage), DrainedRef.ref);
}

/** Its users are counted on each CPU from now on. @kernel blk_register_queue */
export function registerQueue(cpu: Cpu, queue: RequestQueue): void {
  percpuRefSwitchToPercpu(cpu, queueRef(queue));
}

/** 0, or -ENODEV if it is frozen. Who entered leaves by blkQueueExit. @kernel blk_queue_enter */
export function blkQueueEnter(cpu: Cpu, queue: RequestQueue): number {
  return percpuRefTrygetLive(cpu, queueRef(queue)) ? 0 : -ENODEV;
}

/** @kernel blk_queue_exit */
export function blkQueueExit(cpu: Cpu, queue: RequestQueue): void {
  percpuRefPut(cpu, queueRef(queue));
}

/** Nobody enters any more. @kernel blk_freeze_queue_start */
export function blkFreezeQueueStart(cpu: Cpu, queue: RequestQueue): void {
  if (fetchAdd(cpu, queue, RequestQueue.freezeDepth, 1) !== 0) return; // I2
  killDrainedRef(cpu, member(queue, RequestQueue.usage));
}

/** Freezes it, waits until nobody is in it, and ends its count. Sleeps. @kernel blk_cleanup_queue */
export function blkCleanupQueue(cpu: Cpu, queue: RequestQueue): void {
  blkFreezeQueueStart(cpu, queue);
  drainDrainedRef(cpu, member(queue, RequestQueue.usage)); // I1
}
