/**
 * Persistent memory as a block device; its requests use its struct pages.
 *
 * Kernel     drivers/nvdimm/pmem.c
 * Protocol   probe:  request the range; the queue; struct pages; the disk. Undone in the other order, but that since
 *                    5.2 nobody is in the queue any more when the struct pages go.
 *            submit: enter the queue, use the pages, leave
 *
 *            From 4.18 to 5.18 the queue's usage counter is the page map's reference; who kills and who waits:
 *                                  kill                                  wait
 *              PGMAP_CALLER_KILLS  an action: freeze                     an action, after the pages are gone (LT-7)
 *              PGMAP_KILL          ops.kill: freeze                      … the same
 *              PGMAP_KILL_CLEANUP  ops.kill: freeze                      ops.cleanup: drain
 *              PGMAP_INTERNAL      the page map's own; the disk has been taken down, with its queue, before
 * Invariant  I1  A request that is in the queue has its pages (INV-30).
 * Ordering   The queue's.
 * Deviation  There is no data, and a request is one page: to use it is to look at its struct page. The queue is
 *            part of the device, as who has it open would keep it. No badblocks, no namespaces.
 *
 * @module
 */
import { read, readAddress, write, writeAddress } from '#memory';
import { BUSTED_PMEM_EXIT, isMutant } from '#mutants';

import { bug } from '../../base/bug.js';
import { EBUSY, EINVAL, ENODEV, ENOMEM } from '../../base/errno.js';
import { PAGE_SIZE } from '../../base/units.js';
import { DrainedRef } from '../../deferred/types.js';
import type { DriverOps } from '../../device/bus.js';
import { devmRequestMemRegion } from '../../device/devm-region.js';
import { type DevmActionOps, devmAddActionOrReset, devmKzalloc } from '../../device/devres.js';
import { Device } from '../../device/types.js';
import type { Cpu } from '../../machine/cpu.js';
import { failSite, shouldFail } from '../../machine/fail.js';
import { defineKernelOps, opsAt, opsIndex, type OpsTable } from '../../machine/ops-table.js';
import type { Page } from '../../machine/types.js';
import { address, containerOf, member, NULL, type Ptr, struct, word } from '../../memory/layout.js';
import { devmMemremapPages } from '../../memremap/devm-memremap.js';
import { pageToPfn, pfnToPage } from '../../memremap/hotplug.js';
import {
  callerKills,
  type DevPagemapOps,
  MEMORY_DEVICE_FS_DAX,
  PGMAP_INTERNAL,
  PGMAP_KILL_CLEANUP,
  pgmapRef,
  setRange,
} from '../../memremap/pagemap.js';
import { DevPagemap } from '../../memremap/types.js';
import {
  blkCleanupQueue,
  blkFreezeQueueStart,
  blkQueueEnter,
  blkQueueExit,
  initQueue,
  queueRef,
  registerQueue,
  RequestQueue,
} from './queue.js';

/** What makes struct pages and finds them: the kernel's, or what a test has put in its place. */
export interface PmemMapOps extends OpsTable {
  /** @kernel devm_memremap_pages */
  readonly memremap: (cpu: Cpu, dev: Device, pgmap: DevPagemap) => number;
  /** The struct page of an address; NULL if it has none. Unit: bytes. @kernel phys_to_pfn_t, pfn_t_to_page */
  readonly physToPage: (cpu: Cpu, physical: number) => Page;
}

/** Made by whoever has the memory; it outlives its driver. @kernel struct pmem_device */
export const PmemDevice = struct('pmem_device', {
  dev: Device,
  start: address, // unit: bytes
  size: address, // unit: bytes
  form: word, // PGMAP_*
  map: word, // ops table: PmemMapOps
  queue: RequestQueue,
  disk: word, // requests come; under the device's lock
});
export type PmemDevice = Ptr<'pmem_device'>;

const ALLOC_DISK = failSite('alloc_disk');
const ADD_DISK = failSite('device_add_disk');

/** The kernel's own. */
export const pmemMap: PmemMapOps = defineKernelOps({
  opsName: 'pmem',
  memremap: devmMemremapPages,
  physToPage: (cpu: Cpu, physical: number) => pfnToPage(cpu, Math.floor(physical / PAGE_SIZE)),
});

/** What it is, once, when `dev` has been initialised: 0 or -EINVAL. Units: bytes. */
export function initPmem(
  cpu: Cpu,
  pmem: PmemDevice,
  start: number,
  size: number,
  form = PGMAP_INTERNAL,
  map = pmemMap,
): number {
  if (size <= 0 || size % PAGE_SIZE !== 0) return -EINVAL;
  writeAddress(cpu, pmem, PmemDevice.start, start);
  writeAddress(cpu, pmem, PmemDevice.size, size);
  write(cpu, pmem, PmemDevice.form, form);
  write(cpu, pmem, PmemDevice.map, opsIndex(cpu, map));
  return 0;
}

/** The driver. */
export const pmemDriver: DriverOps = defineKernelOps({
  opsName: 'nd_pmem',
  /** @kernel pmem_attach_disk */
  probe(cpu: Cpu, dev: Device) {
    const pmem: PmemDevice = containerOf(dev, PmemDevice.dev);
    const start = readAddress(cpu, pmem, PmemDevice.start);
    const size = readAddress(cpu, pmem, PmemDevice.size);
    const pgmap = devmKzalloc(cpu, dev, DevPagemap);
    if (pgmap === NULL) return -ENOMEM;
    if (devmRequestMemRegion(cpu, dev, start, size) === NULL) return -EBUSY;
    const form = read(cpu, pmem, PmemDevice.form);
    const isInternal = form === PGMAP_INTERNAL;
    write(cpu, pgmap, DevPagemap.form, form);
    write(cpu, pgmap, DevPagemap.type, MEMORY_DEVICE_FS_DAX);
    setRange(cpu, pgmap, 0, start, start + size - 1);
    write(cpu, pgmap, DevPagemap.nrRange, 1);
    return isInternal ? attach(cpu, pmem, pgmap) : attachOld(cpu, pmem, pgmap, form);
  },
});

function memremap(cpu: Cpu, pmem: PmemDevice, pgmap: DevPagemap): number {
  const map = opsAt(cpu, read(cpu, pmem, PmemDevice.map)) as PmemMapOps;
  return map.memremap(cpu, member(pmem, PmemDevice.dev), pgmap);
}

/** The page map counts its users itself; the disk goes first, and its queue with it. */
function attach(cpu: Cpu, pmem: PmemDevice, pgmap: DevPagemap): number {
  const queue = member(pmem, PmemDevice.queue);
  let error = shouldFail(cpu, ALLOC_DISK) ? -ENOMEM : initQueue(cpu, queue);
  if (error !== 0) return error;
  error = memremap(cpu, pmem, pgmap);
  if (error === 0 && shouldFail(cpu, ADD_DISK)) error = -ENOMEM;
  if (error !== 0) {
    blkCleanupQueue(cpu, queue); // @kernel put_disk
    return error;
  }
  addDisk(cpu, pmem);
  return devmAddActionOrReset(cpu, member(pmem, PmemDevice.dev), releaseDiskAction, pmem);
}

/** The queue counts them. */
function attachOld(cpu: Cpu, pmem: PmemDevice, pgmap: DevPagemap, form: number): number {
  const dev = member(pmem, PmemDevice.dev);
  const queue = member(pmem, PmemDevice.queue);
  let error = initQueue(cpu, queue);
  if (error === 0 && form !== PGMAP_KILL_CLEANUP) {
    error = devmAddActionOrReset(cpu, dev, releaseQueueAction, queue);
  }
  if (error !== 0) return error;
  write(cpu, pgmap, DevPagemap.ref, queueRef(queue));
  write(cpu, pgmap, DevPagemap.ops, opsIndex(cpu, queueOps));
  error = memremap(cpu, pmem, pgmap);
  if (error === 0 && callerKills(form)) {
    error = devmAddActionOrReset(cpu, dev, freezeAction, queue);
  }
  if (error === 0 && shouldFail(cpu, ALLOC_DISK)) error = -ENOMEM;
  if (error === 0 && shouldFail(cpu, ADD_DISK)) error = -ENOMEM;
  if (error !== 0) return error;
  addDisk(cpu, pmem);
  return devmAddActionOrReset(cpu, dev, delDiskAction, pmem);
}

/** Requests may come: from now on the queue is used by all CPUs at once. @kernel device_add_disk */
function addDisk(cpu: Cpu, pmem: PmemDevice): void {
  write(cpu, pmem, PmemDevice.disk, 1);
  registerQueue(cpu, member(pmem, PmemDevice.queue));
}

const queueOps: DevPagemapOps = defineKernelOps({
  opsName: 'fsdax_pagemap_ops',
  kill(cpu: Cpu, pgmap: DevPagemap) {
    blkFreezeQueueStart(cpu, queueOf(cpu, pgmap));
  },
  cleanup(cpu: Cpu, pgmap: DevPagemap) {
    blkCleanupQueue(cpu, queueOf(cpu, pgmap));
  },
});

function queueOf(cpu: Cpu, pgmap: DevPagemap): RequestQueue {
  const usage: DrainedRef = containerOf(pgmapRef(cpu, pgmap), DrainedRef.ref);
  return containerOf(usage, RequestQueue.usage);
}

const releaseQueueAction: DevmActionOps = defineKernelOps({
  opsName: 'pmem_release_queue',
  action(cpu: Cpu, queue: number) {
    blkCleanupQueue(cpu, queue as RequestQueue);
  },
});

const freezeAction: DevmActionOps = defineKernelOps({
  opsName: 'pmem_freeze_queue',
  action(cpu: Cpu, queue: number) {
    blkFreezeQueueStart(cpu, queue as RequestQueue);
  },
});

const delDiskAction: DevmActionOps = defineKernelOps({
  opsName: 'pmem_release_disk',
  action(cpu: Cpu, pmem: number) {
    write(cpu, pmem as PmemDevice, PmemDevice.disk, 0);
  },
});

const releaseDiskAction: DevmActionOps = defineKernelOps({
  opsName: 'pmem_release_disk and its queue',
  action(cpu: Cpu, data: number) {
    const pmem = data as PmemDevice;
    write(cpu, pmem, PmemDevice.disk, 0);
    blkCleanupQueue(cpu, member(pmem, PmemDevice.queue));
  },
});

/**
 * A request for a page of an open disk: 0, or -ENODEV if its queue is frozen. The caller has the device.
 * @kernel pmem_submit_bio
 */
export function pmemSubmit(cpu: Cpu, pmem: PmemDevice, index: number): number {
  const queue = member(pmem, PmemDevice.queue);
  if (blkQueueEnter(cpu, queue) !== 0) return -ENODEV;
  const isEarly = isMutant(cpu, BUSTED_PMEM_EXIT);
  if (isEarly) blkQueueExit(cpu, queue);
  const map = opsAt(cpu, read(cpu, pmem, PmemDevice.map)) as PmemMapOps;
  const physical = readAddress(cpu, pmem, PmemDevice.start) + index * PAGE_SIZE;
  const page = map.physToPage(cpu, physical);
  if (page !== NULL && pageToPfn(cpu, page) * PAGE_SIZE !== physical) {
    bug('INV-30: the page of a request is another one');
  }
  if (!isEarly) blkQueueExit(cpu, queue);
  return 0;
}
