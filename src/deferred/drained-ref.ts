/**
 * A count of references whose end is waited for: what drivers and page maps count their users with.
 *
 * Kernel     no type of its own; a percpu_ref with a completion that its release completes, as in drivers/dax,
 *            drivers/pci/p2pdma.c, mm/memremap.c, mm/hmm.c of 4.18
 * Protocol   init; users get and put `ref`; kill: nobody begins to use it; await: until nobody does; percpuRefExit
 * Invariant  I1  It is killed once (INV-33), and ended when it has come to 0.
 * Ordering   The reference count's, and the completion's.
 *
 * @module
 */
import { read } from '#memory';

import { explainWait, lockName } from '../debug/wait-graph.js';
import type { Cpu } from '../machine/cpu.js';
import type { LockClass } from '../machine/lock-class.js';
import { defineKernelOps } from '../machine/ops-table.js';
import { WAIT_REFERENCES } from '../machine/wait-kind.js';
import { containerOf, member, NULL } from '../memory/layout.js';
import {
  completeAll,
  Completion,
  initCompletion,
  waitForCompletionOf,
} from '../sync/completion.js';
import { WaitQueue } from '../sync/wait-queue.js';
import {
  percpuRefExit,
  percpuRefInit,
  percpuRefIsDying,
  percpuRefIsSwitching,
  percpuRefKill,
  type PercpuRefOps,
  percpuRefTotal,
} from './percpu-refcount.js';
import { DrainedRef, PercpuRef } from './types.js';

const refOps: PercpuRefOps = defineKernelOps({
  opsName: 'drained_ref',
  release(cpu: Cpu, ref: PercpuRef) {
    const counted: DrainedRef = containerOf(ref, DrainedRef.ref);
    completeAll(cpu, member(counted, DrainedRef.done));
  },
});

/** Makes it live; reports call it by the name; `flags` as for percpuRefInit. 0 or -ENOMEM. */
export function initDrainedRef(cpu: Cpu, counted: DrainedRef, name: LockClass, flags = 0): number {
  initCompletion(cpu, member(counted, DrainedRef.done), name);
  return percpuRefInit(cpu, member(counted, DrainedRef.ref), refOps, flags);
}

/** Nobody gets a reference any more. Sleeps only while another switch is under way. */
export function killDrainedRef(cpu: Cpu, counted: DrainedRef): void {
  percpuRefKill(cpu, member(counted, DrainedRef.ref));
}

/** Kills it unless somebody has: two users may share it. */
export function killDrainedRefOnce(cpu: Cpu, counted: DrainedRef): void {
  if (isDrainedRefLive(cpu, counted)) killDrainedRef(cpu, counted);
}

/** False once it has been killed. */
export function isDrainedRefLive(cpu: Cpu, counted: DrainedRef): boolean {
  return !percpuRefIsDying(cpu, member(counted, DrainedRef.ref));
}

/** Waits until nobody has a reference. It has been killed, or this is for ever. Sleeps. */
export function awaitDrainedRef(cpu: Cpu, counted: DrainedRef): void {
  waitForCompletionOf(cpu, member(counted, DrainedRef.done), WAIT_REFERENCES, counted);
}

/** … and ends it. Sleeps. */
export function drainDrainedRef(cpu: Cpu, counted: DrainedRef): void {
  awaitDrainedRef(cpu, counted);
  percpuRefExit(cpu, member(counted, DrainedRef.ref));
}

explainWait(WAIT_REFERENCES, (cpu, object) => {
  const counted = object as DrainedRef;
  const queue = member(member(counted, DrainedRef.done), Completion.wait);
  const name = lockName(cpu, member(queue, WaitQueue.lock));
  const ref = member(counted, DrainedRef.ref);
  if (read(cpu, ref, PercpuRef.data) === NULL) return ` to ${name}, which is no more`;
  const switching = percpuRefIsSwitching(cpu, ref)
    ? ', one of them of the switch to atomic mode'
    : '';
  const live = isDrainedRefLive(cpu, counted) ? ', and nobody has killed it' : '';
  return ` to ${name}: ${percpuRefTotal(cpu, ref)} left${switching}${live}`;
});
