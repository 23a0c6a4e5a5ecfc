/**
 * What a driver has for a page map of an older form, whose users it counts itself (deferred/drained-ref.ts).
 *
 * Kernel     drivers/dax/pmem.c of 4.18 to 5.2, drivers/pci/p2pdma.c of 4.20 to 5.18
 *
 * @module
 */
import { drainDrainedRef, killDrainedRef } from '../deferred/drained-ref.js';
import { DrainedRef } from '../deferred/types.js';
import type { Cpu } from '../machine/cpu.js';
import { lockClass } from '../machine/lock-class.js';
import { defineKernelOps } from '../machine/ops-table.js';
import { containerOf } from '../memory/layout.js';
import { type DevPagemapOps, pgmapRef } from '../memremap/pagemap.js';
import type { DevPagemap } from '../memremap/types.js';

/** What reports call such a count. */
export const PAGEMAP_USERS = lockClass("driver's dev_pagemap");

/** The driver's count of a page map of an older form. */
export function pagemapRefOf(cpu: Cpu, pgmap: DevPagemap): DrainedRef {
  return containerOf(pgmapRef(cpu, pgmap), DrainedRef.ref);
}

/** What a driver's page map needs for PGMAP_KILL and PGMAP_KILL_CLEANUP, if the count is a DrainedRef. */
export const pagemapRefOps: DevPagemapOps = defineKernelOps({
  opsName: 'page map with a count of its driver',
  kill(cpu: Cpu, pgmap: DevPagemap) {
    killDrainedRef(cpu, pagemapRefOf(cpu, pgmap));
  },
  cleanup(cpu: Cpu, pgmap: DevPagemap) {
    drainDrainedRef(cpu, pagemapRefOf(cpu, pgmap));
  },
});
