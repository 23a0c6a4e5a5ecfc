/**
 * Memory of PCI functions for other devices: struct pages behind base address registers, and a pool of them.
 *
 * Kernel     drivers/pci/p2pdma.c of 4.20 to 6.12
 * Protocol   Everything is managed for the function. In the order in which it is done; undone in the other:
 *              with the first resource   pool; release
 *              each resource             page map; unmap user mappings; pages into the pool, with the page map's
 *                                        count as their owner
 *            alloc:   in an RCU read section: find the pool, take pages, take a reference of their owner; if that is
 *                     dying the pages go back, and there is no memory
 *            free:    pages into the pool, then the reference
 *            unbind:  for each resource, the last first: user mappings go, the page map's count is killed, all
 *                     references are waited for, struct pages go. Then nobody finds the pool any more, and it goes.
 *
 *            In the older forms (DevPagemap.form, the same for all resources of a function) the count is the
 *            driver's. PGMAP_KILL and those before it have one for all resources, which the release waits for when
 *            struct pages are gone (LT-7). PGMAP_KILL_CLEANUP has one for each: with one for all, the first page map
 *            to go would wait for references that only the second puts (LT-9).
 *
 *            Linux 6.12 forgets that the pool outlives the page maps: between the end of one, which frees its struct
 *            with the count in it, and the end of the pool, who asks for memory gets pages whose owner is gone.
 *            A function that is mended withdraws the pages in between, and waits for a grace period.
 * Invariant  I1  Who has memory keeps its struct pages (INV-30).
 *            I2  A pool that goes has all its pages, and nobody looks into it.
 * Ordering   PciDev.p2pdma is published with release, and unpublished before a grace period.
 * Deviation  Sizes are whole sections. Set-up ends its count where it fails, which 4.20 forgot, and takes the pages
 *            out of the lookup again when they do not go into the pool, which 4.20 forgot too. No distances
 *            between functions, no peer-to-peer mapping for DMA.
 *
 * @module
 */
import { read, readOnce, storeRelease, write } from '#memory';
import { BUSTED_P2PDMA_ALLOC, BUSTED_P2PDMA_RELEASE, isMutant, M_14 } from '#mutants';

import { EINVAL, ENOMEM } from '../../base/errno.js';
import { PAGE_SIZE } from '../../base/units.js';
import { drainDrainedRef, initDrainedRef, killDrainedRefOnce } from '../../deferred/drained-ref.js';
import {
  PERCPU_REF_INIT_ATOMIC,
  percpuRefExit,
  percpuRefGet,
  percpuRefPut,
  percpuRefTrygetLive,
} from '../../deferred/percpu-refcount.js';
import { rcuReadLock, rcuReadUnlock, synchronizeRcu } from '../../deferred/rcu.js';
import type { PercpuRef } from '../../deferred/types.js';
import { DrainedRef } from '../../deferred/types.js';
import {
  type DevmActionOps,
  devmAddAction,
  devmAddActionOrReset,
  devmKfree,
  devmKzalloc,
  devmRemoveAction,
} from '../../device/devres.js';
import { pciResourceLen, pciResourceStart } from '../../device/pci.js';
import { type Device, PCI_BARS, PciDev } from '../../device/types.js';
import type { Cpu } from '../../machine/cpu.js';
import { failSite, shouldFail } from '../../machine/fail.js';
import { defineKernelOps, opsIndex } from '../../machine/ops-table.js';
import type { Pfn } from '../../machine/page-alloc.js';
import type { Page } from '../../machine/types.js';
import { member, NULL } from '../../memory/layout.js';
import { devmMemremapPages, devmMemunmapPages } from '../../memremap/devm-memremap.js';
import { pageToPfn } from '../../memremap/hotplug.js';
import {
  callerKills,
  type DevPagemapOps,
  MEMORY_DEVICE_PCI_P2PDMA,
  PGMAP_INTERNAL,
  PGMAP_KILL_CLEANUP,
  pgmapRef,
  setRange,
} from '../../memremap/pagemap.js';
import { DevPagemap } from '../../memremap/types.js';
import { pagePgmap } from '../../memremap/zone-device.js';
import { PAGEMAP_USERS, pagemapRefOf } from '../pagemap-ref.js';
import {
  type GenPool,
  genPoolAddOwner,
  genPoolAlloc,
  genPoolCreate,
  genPoolDestroy,
  genPoolFree,
  genPoolOwner,
  genPoolWithdraw,
} from './genpool.js';
import { openP2pmem, unmapP2pmem } from './mappings.js';
import { P2pdma, P2pdmaPagemap } from './types.js';

const SYSFS_CREATE_GROUP = failSite('sysfs_create_group');

const pageOps: DevPagemapOps = defineKernelOps({
  opsName: 'p2pdma_pgmap_ops',
  /** A page that was in an address space goes back to the pool, with the reference that it had. */
  pageFree(cpu: Cpu, page: Page) {
    const pdev = read(cpu, pagePgmap(cpu, page), DevPagemap.data) as PciDev;
    pciFreeP2pmem(cpu, pdev, pageToPfn(cpu, page), PAGE_SIZE);
  },
});

const oldOps: DevPagemapOps = defineKernelOps({
  opsName: 'p2pdma with a count of its own',
  kill(cpu: Cpu, pgmap: DevPagemap) {
    killDrainedRefOnce(cpu, pagemapRefOf(cpu, pgmap));
  },
  cleanup(cpu: Cpu, pgmap: DevPagemap) {
    drainDrainedRef(cpu, pagemapRefOf(cpu, pgmap));
  },
});

const killAction: DevmActionOps = defineKernelOps({
  opsName: 'pci_p2pdma_percpu_kill',
  action(cpu: Cpu, shared: number) {
    killDrainedRefOnce(cpu, shared as DrainedRef);
  },
});

const unmapAction: DevmActionOps = defineKernelOps({
  opsName: 'pci_p2pdma_unmap_mappings',
  action(cpu: Cpu, pdev: number) {
    unmapP2pmem(cpu, pdev as PciDev);
  },
});

const withdrawAction: DevmActionOps = defineKernelOps({
  opsName: 'p2pdma withdraws pages from its pool',
  action(cpu: Cpu, data: number) {
    const pgmap = data as DevPagemap;
    const p2pdma = p2pdmaOf(cpu, read(cpu, pgmap, DevPagemap.data) as PciDev);
    genPoolWithdraw(cpu, read(cpu, p2pdma, P2pdma.pool), pgmapRef(cpu, pgmap));
    synchronizeRcu(cpu); // I2
  },
});

const releaseAction: DevmActionOps = defineKernelOps({
  opsName: 'pci_p2pdma_release',
  action(cpu: Cpu, data: number) {
    const pdev = data as PciDev;
    const p2pdma = p2pdmaOf(cpu, pdev);
    if (p2pdma === NULL) return;
    if (isShared(cpu, p2pdma) && read(cpu, p2pdma, P2pdma.form) !== PGMAP_KILL_CLEANUP) {
      drainDrainedRef(cpu, member(p2pdma, P2pdma.shared));
    }
    storeRelease(cpu, pdev, PciDev.p2pdma, 0);
    if (!isMutant(cpu, BUSTED_P2PDMA_RELEASE)) synchronizeRcu(cpu); // I2
    genPoolDestroy(cpu, read(cpu, p2pdma, P2pdma.pool));
  },
});

/** What a function has, if it has any such memory. In an RCU read section, or with the device's lock held. */
function p2pdmaOf(cpu: Cpu, pdev: PciDev): P2pdma {
  return readOnce(cpu, pdev, PciDev.p2pdma) as P2pdma;
}

/** True if all of its page maps have one count. */
function isShared(cpu: Cpu, p2pdma: P2pdma): boolean {
  const form = read(cpu, p2pdma, P2pdma.form);
  if (form === PGMAP_INTERNAL) return false;
  return isMutant(cpu, M_14) || form !== PGMAP_KILL_CLEANUP;
}

/** True if the function is without the mistakes of 6.12. */
function isMended(cpu: Cpu, p2pdma: P2pdma): boolean {
  return read(cpu, p2pdma, P2pdma.mended) !== 0;
}

// --- set-up ---

/**
 * Makes memory behind a base address register usable by other devices: `size` bytes from `offset` on, or all from
 * there with size 0. Unit: bytes. `form` (PGMAP_*) and `mends` (without what 6.12 does wrong) are the same for
 * every resource of a function. 0; -EINVAL if there is no such memory; -ENOMEM; or what memremapPages returns. The
 * driver has requested the region. Under the device's lock. Sleeps. @kernel pci_p2pdma_add_resource
 */
export function pciP2pdmaAddResource(
  cpu: Cpu,
  pdev: PciDev,
  bar: number,
  size: number,
  offset: number,
  form = PGMAP_INTERNAL,
  mends = false,
): number {
  const length = bar >= 0 && bar < PCI_BARS ? pciResourceLen(cpu, pdev, bar) : 0;
  if (length === 0 || offset >= length) return -EINVAL;
  const bytes = size === 0 ? length - offset : size;
  if (bytes + offset > length) return -EINVAL;
  if (p2pdmaOf(cpu, pdev) === NULL) {
    const error = setUp(cpu, pdev, form, mends);
    if (error !== 0) return error;
  }
  return addPagemap(cpu, pdev, pciResourceStart(cpu, pdev, bar) + offset, bytes);
}

/** @kernel pci_p2pdma_setup */
function setUp(cpu: Cpu, pdev: PciDev, form: number, mends: boolean): number {
  const dev = member(pdev, PciDev.dev);
  const p2pdma = devmKzalloc(cpu, dev, P2pdma);
  if (p2pdma === NULL) return -ENOMEM;
  write(cpu, p2pdma, P2pdma.form, form);
  write(cpu, p2pdma, P2pdma.mended, mends ? 1 : 0);
  const pool = genPoolCreate(cpu);
  let error = pool === NULL ? -ENOMEM : 0;
  if (error === 0) {
    write(cpu, p2pdma, P2pdma.pool, pool);
    error = publish(cpu, pdev, p2pdma);
    if (error !== 0) genPoolDestroy(cpu, pool);
  }
  if (error !== 0) devmKfree(cpu, dev, p2pdma);
  return error;
}

function publish(cpu: Cpu, pdev: PciDev, p2pdma: P2pdma): number {
  const shared = member(p2pdma, P2pdma.shared);
  const hasShared = isShared(cpu, p2pdma);
  let error = hasShared ? initDrainedRef(cpu, shared, PAGEMAP_USERS, PERCPU_REF_INIT_ATOMIC) : 0;
  if (error !== 0) return error;
  error = devmAddActionOrReset(cpu, member(pdev, PciDev.dev), releaseAction, pdev);
  if (error === 0 && shouldFail(cpu, SYSFS_CREATE_GROUP)) error = -ENOMEM;
  if (error !== 0) {
    if (hasShared) percpuRefExit(cpu, member(shared, DrainedRef.ref));
    return error;
  }
  openP2pmem(cpu, pdev);
  storeRelease(cpu, pdev, PciDev.p2pdma, p2pdma); // pairs with p2pdmaOf
  return 0;
}

// --- one resource ---

function addPagemap(cpu: Cpu, pdev: PciDev, start: number, bytes: number): number {
  const dev = member(pdev, PciDev.dev);
  const p2pdma = p2pdmaOf(cpu, pdev);
  const resource = devmKzalloc(cpu, dev, P2pdmaPagemap);
  if (resource === NULL) return -ENOMEM;
  const pgmap = member(resource, P2pdmaPagemap.pgmap);
  describe(cpu, pdev, pgmap, start, bytes);
  const withdraws = isMended(cpu, p2pdma) && !isShared(cpu, p2pdma);
  let error = withdraws ? devmAddAction(cpu, dev, withdrawAction, pgmap) : 0;
  if (error === 0) {
    error = mapAndOffer(cpu, pdev, resource, start, bytes);
    if (error !== 0 && withdraws) devmRemoveAction(cpu, dev, withdrawAction, pgmap);
  }
  if (error !== 0) devmKfree(cpu, dev, resource);
  return error === 0 ? addKill(cpu, dev, p2pdma) : error;
}

function mapAndOffer(
  cpu: Cpu,
  pdev: PciDev,
  resource: P2pdmaPagemap,
  start: number,
  bytes: number,
): number {
  const dev = member(pdev, PciDev.dev);
  const pgmap = member(resource, P2pdmaPagemap.pgmap);
  let error = initCount(cpu, p2pdmaOf(cpu, pdev), resource);
  if (error === 0) error = devmMemremapPages(cpu, dev, pgmap);
  if (error !== 0) return error;
  error = offerPages(cpu, pdev, pgmap, start / PAGE_SIZE, bytes / PAGE_SIZE);
  if (error !== 0) devmMemunmapPages(cpu, dev, pgmap);
  return error;
}

/** Who counts its users, in the older forms. */
function initCount(cpu: Cpu, p2pdma: P2pdma, resource: P2pdmaPagemap): number {
  const form = read(cpu, p2pdma, P2pdma.form);
  const pgmap = member(resource, P2pdmaPagemap.pgmap);
  write(cpu, pgmap, DevPagemap.form, form);
  write(cpu, pgmap, DevPagemap.ops, opsIndex(cpu, form === PGMAP_INTERNAL ? pageOps : oldOps));
  if (form === PGMAP_INTERNAL) return 0;
  const own = member(resource, P2pdmaPagemap.own);
  const count = isShared(cpu, p2pdma) ? member(p2pdma, P2pdma.shared) : own;
  write(cpu, pgmap, DevPagemap.ref, member(count, DrainedRef.ref));
  return count === own ? initDrainedRef(cpu, own, PAGEMAP_USERS) : 0;
}

function describe(cpu: Cpu, pdev: PciDev, pgmap: DevPagemap, start: number, bytes: number): void {
  write(cpu, pgmap, DevPagemap.type, MEMORY_DEVICE_PCI_P2PDMA);
  write(cpu, pgmap, DevPagemap.data, pdev);
  setRange(cpu, pgmap, 0, start, start + bytes - 1);
  write(cpu, pgmap, DevPagemap.nrRange, 1);
}

/** User mappings go before the pages do; then the pages can be had. */
function offerPages(cpu: Cpu, pdev: PciDev, pgmap: DevPagemap, first: Pfn, pages: number): number {
  const error = devmAddActionOrReset(cpu, member(pdev, PciDev.dev), unmapAction, pdev);
  if (error !== 0) return error;
  const pool = read(cpu, p2pdmaOf(cpu, pdev), P2pdma.pool);
  return genPoolAddOwner(cpu, pool, first, pages, pgmapRef(cpu, pgmap));
}

/** The form in which the driver kills: once for each resource, and looks whether it has. */
function addKill(cpu: Cpu, dev: Device, p2pdma: P2pdma): number {
  if (!callerKills(read(cpu, p2pdma, P2pdma.form))) return 0;
  return devmAddActionOrReset(cpu, dev, killAction, member(p2pdma, P2pdma.shared));
}

// --- memory ---

/**
 * Takes memory of a function: the first frame, or 0 if there is none. Its struct pages stay until it is given back.
 * Unit: bytes, in whole pages. @kernel pci_alloc_p2pmem
 */
export function pciAllocP2pmem(cpu: Cpu, pdev: PciDev, size: number): Pfn {
  const pages = Math.ceil(size / PAGE_SIZE);
  rcuReadLock(cpu);
  const p2pdma = p2pdmaOf(cpu, pdev);
  const pfn = p2pdma === NULL ? 0 : takePages(cpu, read(cpu, p2pdma, P2pdma.pool), pages);
  rcuReadUnlock(cpu);
  return pfn;
}

function takePages(cpu: Cpu, pool: GenPool, pages: number): Pfn {
  const pfn = genPoolAlloc(cpu, pool, pages);
  if (pfn === 0) return 0;
  const owner = genPoolOwner(cpu, pool, pfn) as PercpuRef;
  if (isMutant(cpu, BUSTED_P2PDMA_ALLOC)) {
    percpuRefGet(cpu, owner);
    return pfn;
  }
  if (percpuRefTrygetLive(cpu, owner)) return pfn; // I1
  genPoolFree(cpu, pool, pfn, pages);
  return 0;
}

/** Gives memory back, or some of its pages with a reference for these. @kernel pci_free_p2pmem */
export function pciFreeP2pmem(cpu: Cpu, pdev: PciDev, pfn: Pfn, size: number): void {
  percpuRefPut(cpu, returnPages(cpu, pdev, pfn, Math.ceil(size / PAGE_SIZE)));
}

/** Puts pages into the pool; returns the count of their page map, to which the caller has a reference. */
export function returnPages(cpu: Cpu, pdev: PciDev, pfn: Pfn, pages: number): PercpuRef {
  const pool = read(cpu, p2pdmaOf(cpu, pdev), P2pdma.pool);
  return genPoolFree(cpu, pool, pfn, pages) as PercpuRef;
}

/** True if that of which the caller has memory is without the mistakes of 6.12. */
export function p2pdmaIsMended(cpu: Cpu, pdev: PciDev): boolean {
  return isMended(cpu, p2pdmaOf(cpu, pdev));
}

/** The count of the page map of memory that the caller has. */
export function p2pmemOwner(cpu: Cpu, pdev: PciDev, pfn: Pfn): PercpuRef {
  return genPoolOwner(cpu, read(cpu, p2pdmaOf(cpu, pdev), P2pdma.pool), pfn) as PercpuRef;
}
