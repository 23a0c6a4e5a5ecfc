/**
 * Memory of a test that stands for persistent memory: what takes the place of the kernel's functions for it.
 *
 * Kernel     tools/testing/nvdimm/test/iomap.c
 * Protocol   An address is looked up: memory of the test has no struct pages, all else goes to the function
 *            that was replaced. A page map of the test's memory still has its count, which is begun, killed and
 *            waited for as the real one's: what a driver relies on happens, or the test would test nothing.
 *
 *                                  begun by     undone by an action that
 *              PGMAP_CALLER_KILLS  the driver   is not there: the driver kills
 *              PGMAP_KILL          the driver   calls ops.kill
 *              PGMAP_KILL_CLEANUP  the driver   calls ops.kill and ops.cleanup
 *              PGMAP_INTERNAL      the wrapper  kills, waits, ends
 * Invariant  I1  A page map's count is dead, and in the newer forms nobody has a reference, when its driver is gone
 *                (INV-33), with test memory as with real.
 * Ordering   The reference count's.
 * Deviation  Linux replaces the functions when it links; here a device of the test has other ops. The memory
 *            has no contents.
 *
 * @module
 */
import { read, readAddress } from '#memory';

import { ENOMEM } from '../../base/errno.js';
import { PAGE_SIZE } from '../../base/units.js';
import { drainDrainedRef, killDrainedRef } from '../../deferred/drained-ref.js';
import { type DevmActionOps, devmAddActionOrReset } from '../../device/devres.js';
import { freeRegion, SECTION_BYTES } from '../../device/region.js';
import {
  allocateResource,
  initResource,
  iomemResource,
  IORESOURCE_MEM,
  REGION_DISJOINT,
  regionIntersects,
} from '../../device/resource.js';
import { type Device, Resource } from '../../device/types.js';
import type { Cpu } from '../../machine/cpu.js';
import { defineKernelOps } from '../../machine/ops-table.js';
import { kfree, kzalloc } from '../../machine/slab.js';
import { MACHINE, Machine, type Page } from '../../machine/types.js';
import { member, NULL } from '../../memory/layout.js';
import { devmMemremapPages } from '../../memremap/devm-memremap.js';
import { pfnToPage } from '../../memremap/hotplug.js';
import { initOwnRef } from '../../memremap/memremap.js';
import {
  callerKills,
  PGMAP_INTERNAL,
  PGMAP_KILL_CLEANUP,
  pgmapOps,
  rangeStart,
} from '../../memremap/pagemap.js';
import { DevPagemap } from '../../memremap/types.js';
import type { PmemMapOps } from '../pmem/pmem.js';

/** Resource.desc of memory of the test. */
const IORES_DESC_NFIT_TEST = 0x7e57;

/** Addresses for memory of the test; NULL if memory or addresses are out. Unit: bytes. @kernel test_alloc */
export function nfitTestAlloc(cpu: Cpu, size: number): Resource {
  const resource = kzalloc(cpu, Resource);
  if (resource === NULL) return NULL;
  initResource(cpu, resource, 0, 0, IORESOURCE_MEM, IORES_DESC_NFIT_TEST);
  const first = read(cpu, MACHINE, Machine.frameCount) * PAGE_SIZE;
  const root = iomemResource(cpu);
  if (allocateResource(cpu, root, resource, size, first, SECTION_BYTES) === 0) return resource;
  kfree(cpu, Resource, resource);
  return NULL;
}

/** Gives them back; nobody uses them any more. */
export function nfitTestFree(cpu: Cpu, resource: Resource): void {
  freeRegion(cpu, resource);
}

/** The first address. Unit: bytes. */
export function nfitTestStart(cpu: Cpu, resource: Resource): number {
  return readAddress(cpu, resource, Resource.start);
}

/** True for an address in memory of the test. @kernel get_nfit_res */
function isTestMemory(cpu: Cpu, physical: number): boolean {
  return regionIntersects(cpu, physical, 1, 0, IORES_DESC_NFIT_TEST) !== REGION_DISJOINT;
}

const killAction: DevmActionOps = defineKernelOps({
  opsName: 'nfit_test_kill',
  action(cpu: Cpu, data: number) {
    const pgmap = data as DevPagemap;
    const form = read(cpu, pgmap, DevPagemap.form);
    if (form === PGMAP_INTERNAL) {
      killDrainedRef(cpu, member(pgmap, DevPagemap.own));
      drainDrainedRef(cpu, member(pgmap, DevPagemap.own));
      return;
    }
    const ops = pgmapOps(cpu, pgmap);
    if (ops?.kill !== undefined) ops.kill(cpu, pgmap);
    if (form === PGMAP_KILL_CLEANUP && ops?.cleanup !== undefined) ops.cleanup(cpu, pgmap);
  },
});

/** As devmMemremapPages, which it calls for all other memory. @kernel __wrap_devm_memremap_pages */
function nfitTestMemremapPages(cpu: Cpu, dev: Device, pgmap: DevPagemap): number {
  const start = rangeStart(cpu, pgmap, 0) * PAGE_SIZE;
  if (!isTestMemory(cpu, start)) return devmMemremapPages(cpu, dev, pgmap);
  const form = read(cpu, pgmap, DevPagemap.form);
  if (callerKills(form)) return 0;
  if (form === PGMAP_INTERNAL && initOwnRef(cpu, pgmap) !== 0) return -ENOMEM;
  return devmAddActionOrReset(cpu, dev, killAction, pgmap);
}

/** What a pmem device over memory of the test has in the place of the kernel's functions. */
export const nfitTestMap: PmemMapOps = defineKernelOps({
  opsName: 'nfit_test',
  memremap: nfitTestMemremapPages,
  /** @kernel __wrap_phys_to_pfn_t */
  physToPage: (cpu: Cpu, physical: number): Page =>
    isTestMemory(cpu, physical) ? NULL : pfnToPage(cpu, Math.floor(physical / PAGE_SIZE)),
});
