/**
 * A driver's own count of the users of a page map, for the older forms: counted, killed, waited for, ended.
 *
 * Kernel     drivers/dax/pmem.c of 4.18 to 5.2, drivers/pci/p2pdma.c of 4.20 to 5.18
 * Invariant  I1  It is killed once (INV-33), and ended when it has come to 0.
 * Ordering   The reference count's, and the completion's.
 *
 * @module
 */
import {
  percpuRefExit,
  percpuRefInit,
  percpuRefIsDying,
  percpuRefKill,
  type PercpuRefOps,
} from '../deferred/percpu-refcount.js';
import type { PercpuRef } from '../deferred/types.js';
import type { Cpu } from '../machine/cpu.js';
import { lockClass } from '../machine/lock-class.js';
import { defineKernelOps } from '../machine/ops-table.js';
import { WAIT_PAGEMAP } from '../machine/wait-kind.js';
import { containerOf, member } from '../memory/layout.js';
import { type DevPagemapOps, pgmapRef } from '../memremap/pagemap.js';
import type { DevPagemap } from '../memremap/types.js';
import { completeAll, initCompletion, waitForCompletionOf } from '../sync/completion.js';
import { PagemapRef } from './types.js';

const DONE = lockClass('pagemap_ref->done');

const refOps: PercpuRefOps = defineKernelOps({
  opsName: 'pagemap_ref',
  release(cpu: Cpu, ref: PercpuRef) {
    const counted: PagemapRef = containerOf(ref, PagemapRef.ref);
    completeAll(cpu, member(counted, PagemapRef.done));
  },
});

/** Makes it live; `flags` as for percpuRefInit. 0 or -ENOMEM. */
export function initPagemapRef(cpu: Cpu, counted: PagemapRef, flags = 0): number {
  initCompletion(cpu, member(counted, PagemapRef.done), DONE);
  return percpuRefInit(cpu, member(counted, PagemapRef.ref), refOps, flags);
}

/** Nobody gets a reference any more. */
export function killPagemapRef(cpu: Cpu, counted: PagemapRef): void {
  percpuRefKill(cpu, member(counted, PagemapRef.ref));
}

/** Kills it unless somebody has: two page maps may share it. */
export function killPagemapRefOnce(cpu: Cpu, counted: PagemapRef): void {
  if (isPagemapRefLive(cpu, counted)) killPagemapRef(cpu, counted);
}

/** False once it has been killed. */
export function isPagemapRefLive(cpu: Cpu, counted: PagemapRef): boolean {
  return !percpuRefIsDying(cpu, member(counted, PagemapRef.ref));
}

/** Waits until nobody has a reference, and ends it. It has been killed, or this is for ever. Sleeps. */
export function drainPagemapRef(cpu: Cpu, counted: PagemapRef): void {
  waitForCompletionOf(cpu, member(counted, PagemapRef.done), WAIT_PAGEMAP, counted);
  percpuRefExit(cpu, member(counted, PagemapRef.ref));
}

/** The driver's count of a page map of an older form. */
export function pagemapRefOf(cpu: Cpu, pgmap: DevPagemap): PagemapRef {
  return containerOf(pgmapRef(cpu, pgmap), PagemapRef.ref);
}

/** What a driver's page map needs for PGMAP_KILL and PGMAP_KILL_CLEANUP, if the count is a PagemapRef. */
export const pagemapRefOps: DevPagemapOps = defineKernelOps({
  opsName: 'pagemap_ref of a driver',
  kill(cpu: Cpu, pgmap: DevPagemap) {
    killPagemapRef(cpu, pagemapRefOf(cpu, pgmap));
  },
  cleanup(cpu: Cpu, pgmap: DevPagemap) {
    drainPagemapRef(cpu, pagemapRefOf(cpu, pgmap));
  },
});
