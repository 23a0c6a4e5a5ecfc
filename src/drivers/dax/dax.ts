/**
 * Device-dax: memory of a device that processes map as it is.
 *
 * Kernel     drivers/dax/device.c, drivers/dax/bus.c; drivers/dax/pmem.c for the older forms
 * Protocol   probe:  request the range; struct pages; a character device; alive. Undone in the other order:
 *            unbind: not alive; wait for the faults under way, which are SRCU readers; user mappings go. The
 *                    character device goes. The page map waits for those who have pages pinned.
 *            fault:  in an SRCU section: alive, or -ENXIO; then the page is mapped
 *            pin:    a page that is mapped is pinned by a reference to its page map
 *
 *            In the older forms (DevDax.form) the count is the driver's, and an action ends it when it has come to 0:
 *            after struct pages are gone (LT-7), except for PGMAP_KILL_CLEANUP. Until 5.2 a map that conflicts
 *            leaves the count live, and with PGMAP_KILL that action waits for ever.
 * Invariant  I1  No page is mapped once the kill has returned (INV-35).
 *            I2  Struct pages are there as long as one is pinned (INV-30).
 * Ordering   SRCU for `alive`; DevDax.lock for mappings.
 * Deviation  An SRCU domain for each device. A mapping is a count for each page, as the memory of devices has no words
 *            that a CPU could load. One range.
 *
 * @module
 */
import { read, readAddress, readOnce, write, writeAddress, writeOnce } from '#memory';
import { BUSTED_DAX_KILL, isMutant } from '#mutants';

import { bug } from '../../base/bug.js';
import { EBUSY, EINVAL, ENOMEM, ENXIO } from '../../base/errno.js';
import { PAGE_SIZE } from '../../base/units.js';
import { drainDrainedRef, initDrainedRef, killDrainedRef } from '../../deferred/drained-ref.js';
import { percpuRefExit } from '../../deferred/percpu-refcount.js';
import {
  initSrcuStruct,
  srcuReadLock,
  srcuReadUnlock,
  synchronizeSrcu,
} from '../../deferred/srcu.js';
import { DrainedRef, SrcuStruct } from '../../deferred/types.js';
import type { DriverOps } from '../../device/bus.js';
import { devmRequestMemRegion } from '../../device/devm-region.js';
import {
  type DevmActionOps,
  devmAddAction,
  devmAddActionOrReset,
  devmKzalloc,
  devmRemoveAction,
} from '../../device/devres.js';
import { Device } from '../../device/types.js';
import type { Cpu } from '../../machine/cpu.js';
import { failSite, shouldFail } from '../../machine/fail.js';
import { lockClass } from '../../machine/lock-class.js';
import { defineKernelOps, opsIndex } from '../../machine/ops-table.js';
import { Spinlock } from '../../machine/types.js';
import {
  address,
  containerOf,
  element,
  member,
  NULL,
  type Ptr,
  struct,
  word,
  words,
} from '../../memory/layout.js';
import { devmMemremapPages } from '../../memremap/devm-memremap.js';
import {
  callerKills,
  getDevPagemap,
  MEMORY_DEVICE_GENERIC,
  PGMAP_INTERNAL,
  PGMAP_KILL_CLEANUP,
  setRange,
} from '../../memremap/pagemap.js';
import { DevPagemap } from '../../memremap/types.js';
import { initSpinlock, spinLock, spinUnlock } from '../../sync/spinlock.js';
import { PAGEMAP_USERS, pagemapRefOps } from '../pagemap-ref.js';

/** Pages of one device at most. */
export const DAX_PAGES_MAX = 64;

/** Made by whoever has the memory; it outlives its driver. @kernel struct dev_dax */
export const DevDax = struct('dev_dax', {
  dev: Device,
  start: address, // unit: bytes
  size: address, // unit: bytes
  form: word, // PGMAP_*
  count: DrainedRef, // of its page map, in the older forms
  srcu: SrcuStruct, // faults. @kernel dax_srcu
  alive: word, // faults may map
  cdev: word, // the character device is there; under the device's lock
  lock: Spinlock, // mappings. @kernel i_mmap_rwsem
  mapped: words(DAX_PAGES_MAX), // how often each page is mapped; under lock
});
export type DevDax = Ptr<'dev_dax'>;

const DAX_SRCU = lockClass('dax_srcu');
const MAPPINGS = lockClass('dax i_mmap');
const CDEV_ADD = failSite('cdev_device_add');

/** What it is, once, when `dev` has been initialised: 0, -EINVAL, -ENOMEM. Units: bytes. */
export function initDevDax(
  cpu: Cpu,
  dax: DevDax,
  start: number,
  size: number,
  form = PGMAP_INTERNAL,
): number {
  if (size <= 0 || size > DAX_PAGES_MAX * PAGE_SIZE) return -EINVAL;
  writeAddress(cpu, dax, DevDax.start, start);
  writeAddress(cpu, dax, DevDax.size, size);
  write(cpu, dax, DevDax.form, form);
  initSpinlock(cpu, member(dax, DevDax.lock), MAPPINGS);
  return initSrcuStruct(cpu, member(dax, DevDax.srcu), DAX_SRCU);
}

/** The driver. */
export const daxDriver: DriverOps = defineKernelOps({
  opsName: 'device_dax',
  /** @kernel dev_dax_probe */
  probe(cpu: Cpu, dev: Device) {
    const dax: DevDax = containerOf(dev, DevDax.dev);
    const start = readAddress(cpu, dax, DevDax.start);
    const size = readAddress(cpu, dax, DevDax.size);
    if (devmRequestMemRegion(cpu, dev, start, size) === NULL) return -EBUSY;
    let error = mapPages(cpu, dax, start, size);
    if (error === 0 && shouldFail(cpu, CDEV_ADD)) error = -ENOMEM;
    if (error !== 0) return error;
    write(cpu, dax, DevDax.cdev, 1);
    error = devmAddActionOrReset(cpu, dev, cdevDelAction, dax);
    if (error !== 0) return error;
    writeOnce(cpu, dax, DevDax.alive, 1);
    return devmAddActionOrReset(cpu, dev, killAction, dax);
  },
});

const cdevDelAction: DevmActionOps = defineKernelOps({
  opsName: 'dev_dax_cdev_del',
  action(cpu: Cpu, dax: number) {
    write(cpu, dax as DevDax, DevDax.cdev, 0);
  },
});

const killAction: DevmActionOps = defineKernelOps({
  opsName: 'dev_dax_kill',
  action(cpu: Cpu, data: number) {
    const dax = data as DevDax;
    writeOnce(cpu, dax, DevDax.alive, 0);
    if (!isMutant(cpu, BUSTED_DAX_KILL)) synchronizeSrcu(cpu, member(dax, DevDax.srcu)); // I1
    spinLock(cpu, member(dax, DevDax.lock));
    for (let i = 0; i < daxPages(cpu, dax); i++) write(cpu, dax, element(DevDax.mapped, i), 0);
    spinUnlock(cpu, member(dax, DevDax.lock));
  },
});

function daxPages(cpu: Cpu, dax: DevDax): number {
  return readAddress(cpu, dax, DevDax.size) / PAGE_SIZE;
}

// --- struct pages ---

function mapPages(cpu: Cpu, dax: DevDax, start: number, size: number): number {
  const dev = member(dax, DevDax.dev);
  const form = read(cpu, dax, DevDax.form);
  const pgmap = devmKzalloc(cpu, dev, DevPagemap);
  if (pgmap === NULL) return -ENOMEM;
  write(cpu, pgmap, DevPagemap.form, form);
  write(cpu, pgmap, DevPagemap.type, MEMORY_DEVICE_GENERIC);
  setRange(cpu, pgmap, 0, start, start + size - 1);
  write(cpu, pgmap, DevPagemap.nrRange, 1);
  return form === PGMAP_INTERNAL
    ? devmMemremapPages(cpu, dev, pgmap)
    : mapOld(cpu, dax, dev, pgmap, form);
}

/** With a count of the driver's own. @kernel dax_pmem_probe */
function mapOld(cpu: Cpu, dax: DevDax, dev: Device, pgmap: DevPagemap, form: number): number {
  const count = member(dax, DevDax.count);
  let error = initDrainedRef(cpu, count, PAGEMAP_USERS);
  if (error !== 0) return error;
  if (form !== PGMAP_KILL_CLEANUP) error = devmAddAction(cpu, dev, exitAction, count);
  if (error !== 0) {
    percpuRefExit(cpu, member(count, DrainedRef.ref));
    return error;
  }
  write(cpu, pgmap, DevPagemap.ref, member(count, DrainedRef.ref));
  write(cpu, pgmap, DevPagemap.ops, opsIndex(cpu, pagemapRefOps));
  error = devmMemremapPages(cpu, dev, pgmap);
  if (!callerKills(form)) return error;
  if (error === 0) return devmAddActionOrReset(cpu, dev, killRefAction, count);
  devmRemoveAction(cpu, dev, exitAction, count);
  percpuRefExit(cpu, member(count, DrainedRef.ref));
  return error;
}

const exitAction: DevmActionOps = defineKernelOps({
  opsName: 'dax_pmem_percpu_exit',
  action(cpu: Cpu, count: number) {
    drainDrainedRef(cpu, count as DrainedRef);
  },
});

const killRefAction: DevmActionOps = defineKernelOps({
  opsName: 'dax_pmem_percpu_kill',
  action(cpu: Cpu, count: number) {
    killDrainedRef(cpu, count as DrainedRef);
  },
});

// --- users ---

/** A process touches a page of its mapping: 0, or -ENXIO if the device is gone. Sleeps. @kernel dev_dax_huge_fault */
export function daxFault(cpu: Cpu, dax: DevDax, index: number): number {
  if (index >= daxPages(cpu, dax)) bug(`dax device ${dax} has no page ${index}`);
  const srcu = member(dax, DevDax.srcu);
  const section = srcuReadLock(cpu, srcu);
  const isAlive = readOnce(cpu, dax, DevDax.alive) !== 0; // pairs with the kill, by SRCU
  if (isAlive) addMapping(cpu, dax, index);
  srcuReadUnlock(cpu, srcu, section);
  return isAlive ? 0 : -ENXIO;
}

function addMapping(cpu: Cpu, dax: DevDax, index: number): void {
  const at = element(DevDax.mapped, index);
  spinLock(cpu, member(dax, DevDax.lock));
  write(cpu, dax, at, read(cpu, dax, at) + 1);
  spinUnlock(cpu, member(dax, DevDax.lock));
}

/** How often a page is mapped. */
export function daxMapped(cpu: Cpu, dax: DevDax, index: number): number {
  spinLock(cpu, member(dax, DevDax.lock));
  const mapped = read(cpu, dax, element(DevDax.mapped, index));
  spinUnlock(cpu, member(dax, DevDax.lock));
  return mapped;
}

/**
 * Keeps the struct page of a page that is mapped, until putDevPagemap: its page map, or NULL if it is not mapped or
 * going. No lock held. @kernel get_user_pages_fast
 */
export function daxPin(cpu: Cpu, dax: DevDax, index: number): DevPagemap {
  spinLock(cpu, member(dax, DevDax.lock));
  const isMapped = read(cpu, dax, element(DevDax.mapped, index)) !== 0;
  const pgmap = isMapped ? getDevPagemap(cpu, daxPfn(cpu, dax, index), NULL) : NULL;
  spinUnlock(cpu, member(dax, DevDax.lock));
  return pgmap;
}

/** The frame of a page. */
export function daxPfn(cpu: Cpu, dax: DevDax, index: number): number {
  return readAddress(cpu, dax, DevDax.start) / PAGE_SIZE + index;
}
