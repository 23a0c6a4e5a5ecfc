/**
 * Device memory as HMM had it: one call finds physical addresses, makes struct pages and sees to their end.
 *
 * Kernel     mm/hmm.c of 4.18 (hmm_devmem_add); gone since 5.3
 * Protocol   Everything is managed for the device; in the order in which it is undone:
 *              kill the count, wait until nobody has a page
 *              take the struct pages away
 *              give the physical addresses back
 *              end the count
 *              free the struct
 * Invariant  I1  The count is dead, and nobody has a page, before struct pages go (INV-30). If the release cannot
 *                be written down they go at once: the count is live then, but nobody has been given a page.
 * Deviation  The search for addresses and their request are two steps, as they were: somebody may come in
 *            between, and then it is -ENOMEM although there are addresses.
 *
 * @module
 */
import { read, readAddress, write } from '#memory';
import { isMutant, M_3 } from '#mutants';

import { EBUSY, EEXIST, ENOMEM, ERANGE } from '../base/errno.js';
import { PAGE_SIZE } from '../base/units.js';
import { awaitDrainedRef, initDrainedRef, killDrainedRef } from '../deferred/drained-ref.js';
import { percpuRefExit } from '../deferred/percpu-refcount.js';
import { DrainedRef } from '../deferred/types.js';
import { devmRequestMemRegion } from '../device/devm-region.js';
import { type DevmActionOps, devmAddActionOrReset, devmKzalloc } from '../device/devres.js';
import { SECTION_BYTES } from '../device/region.js';
import {
  iomemResource,
  IORES_DESC_DEVICE_PRIVATE_MEMORY,
  IORES_DESC_NONE,
  REGION_DISJOINT,
  regionIntersects,
} from '../device/resource.js';
import { type Device, Resource } from '../device/types.js';
import type { Cpu } from '../machine/cpu.js';
import { lockClass } from '../machine/lock-class.js';
import { defineKernelOps, opsIndex } from '../machine/ops-table.js';
import { member, NULL, pointer, type Ptr, struct } from '../memory/layout.js';
import { memremapPages, memunmapPages } from './memremap.js';
import {
  type DevPagemapOps,
  MEMORY_DEVICE_PRIVATE,
  PGMAP_HMM_DEVMEM,
  setRange,
} from './pagemap.js';
import { DevPagemap } from './types.js';

/** Memory of a device that no CPU can address. @kernel struct hmm_devmem */
export const HmmDevmem = struct('hmm_devmem', {
  pagemap: DevPagemap,
  users: DrainedRef, // pages that are handed out
  resource: pointer<'resource'>(), // its physical addresses
});
export type HmmDevmem = Ptr<'hmm_devmem'>;

const USERS = lockClass('hmm_devmem');

const usersOf = (devmem: number): DrainedRef => member(devmem as HmmDevmem, HmmDevmem.users);

const exitAction: DevmActionOps = defineKernelOps({
  opsName: 'hmm_devmem_ref_exit',
  action(cpu: Cpu, devmem: number) {
    percpuRefExit(cpu, member(usersOf(devmem), DrainedRef.ref));
  },
});

const releaseAction: DevmActionOps = defineKernelOps({
  opsName: 'hmm_devmem_release',
  action(cpu: Cpu, devmem: number) {
    memunmapPages(cpu, member(devmem as HmmDevmem, HmmDevmem.pagemap));
  },
});

const killAction: DevmActionOps = defineKernelOps({
  opsName: 'hmm_devmem_ref_kill',
  action(cpu: Cpu, devmem: number) {
    killDrainedRef(cpu, usersOf(devmem));
    awaitDrainedRef(cpu, usersOf(devmem));
  },
});

/**
 * Device memory of `size` bytes, until the device is let go of. Negative if there is none: -ENOMEM, -ERANGE
 * without addresses, -EBUSY if something else has their struct pages. Sleeps. @kernel hmm_devmem_add
 */
export function hmmDevmemAdd(cpu: Cpu, dev: Device, ops: DevPagemapOps, size: number): HmmDevmem {
  const devmem = devmKzalloc(cpu, dev, HmmDevmem);
  if (devmem === NULL) return -ENOMEM as HmmDevmem;
  let error = initDrainedRef(cpu, usersOf(devmem), USERS);
  if (error === 0) error = devmAddActionOrReset(cpu, dev, exitAction, devmem);
  if (error === 0) error = findAddresses(cpu, dev, devmem, size);
  if (error === 0) error = createPages(cpu, devmem, ops);
  if (error === 0) error = devmAddActionOrReset(cpu, dev, releaseAction, devmem);
  if (error === 0 && !isMutant(cpu, M_3)) {
    error = devmAddActionOrReset(cpu, dev, killAction, devmem);
  }
  return error === 0 ? devmem : (error as HmmDevmem);
}

/** From the top of physical space down, in steps of the size. */
function findAddresses(cpu: Cpu, dev: Device, devmem: HmmDevmem, size: number): number {
  const step = Math.ceil(size / SECTION_BYTES) * SECTION_BYTES;
  let start = readAddress(cpu, iomemResource(cpu), Resource.end) + 1 - step;
  for (; start >= 0; start -= step) {
    if (regionIntersects(cpu, start, step, 0, IORES_DESC_NONE) !== REGION_DISJOINT) continue;
    const resource = devmRequestMemRegion(cpu, dev, start, step);
    if (resource === NULL) return -ENOMEM;
    write(cpu, resource, Resource.desc, IORES_DESC_DEVICE_PRIVATE_MEMORY);
    write(cpu, devmem, HmmDevmem.resource, resource);
    return 0;
  }
  return -ERANGE;
}

/** @kernel hmm_devmem_pages_create */
function createPages(cpu: Cpu, devmem: HmmDevmem, ops: DevPagemapOps): number {
  const pgmap = member(devmem, HmmDevmem.pagemap);
  const resource = read(cpu, devmem, HmmDevmem.resource);
  write(cpu, pgmap, DevPagemap.form, PGMAP_HMM_DEVMEM);
  write(cpu, pgmap, DevPagemap.type, MEMORY_DEVICE_PRIVATE);
  write(cpu, pgmap, DevPagemap.ops, opsIndex(cpu, ops));
  write(cpu, pgmap, DevPagemap.owner, devmem);
  write(cpu, pgmap, DevPagemap.ref, member(usersOf(devmem), DrainedRef.ref));
  const start = readAddress(cpu, resource, Resource.start);
  setRange(cpu, pgmap, 0, start, readAddress(cpu, resource, Resource.end));
  write(cpu, pgmap, DevPagemap.nrRange, 1);
  const error = memremapPages(cpu, pgmap);
  return error === -EEXIST ? -EBUSY : error;
}

/** The first frame of the memory. */
export function hmmDevmemPfn(cpu: Cpu, devmem: HmmDevmem): number {
  const resource = read(cpu, devmem, HmmDevmem.resource);
  return readAddress(cpu, resource, Resource.start) / PAGE_SIZE;
}
