/**
 * Page maps: which memory has one, who counts its users, and how they are found.
 *
 * Kernel     mm/memremap.c (get_dev_pagemap), include/linux/memremap.h
 * Protocol   A lookup finds the page map of a frame without a lock and takes a reference unless it is dying;
 *            the RCU read section keeps the struct there in between.
 * Invariant  I1  Who has a reference may use the struct pages of the map (INV-30).
 * Ordering   The table's, and the reference count's.
 *
 * @module
 */
import { read, readAddress, writeAddress } from '#memory';

import { PAGE_SIZE } from '../base/units.js';
import { percpuRefPut, percpuRefTrygetLive } from '../deferred/percpu-refcount.js';
import { rcuReadLock, rcuReadUnlock } from '../deferred/rcu.js';
import type { PercpuRef } from '../deferred/types.js';
import type { Cpu } from '../machine/cpu.js';
import { opsAt, type OpsTable } from '../machine/ops-table.js';
import type { Pfn } from '../machine/page-alloc.js';
import type { Page } from '../machine/types.js';
import { addressElement, NULL } from '../memory/layout.js';
import type { VmFault } from '../mm/types.js';
import { pgmapTable } from './core.js';
import { pfnTableLoad } from './pfn-table.js';
import { DevPagemap, SECTION_PAGES } from './types.js';

/** Memory of the device's own that no CPU can address. */
export const MEMORY_DEVICE_PRIVATE = 1;
/** … that CPUs can address, and the device migrates to. */
export const MEMORY_DEVICE_COHERENT = 2;
/** … a file system maps without a page cache. */
export const MEMORY_DEVICE_FS_DAX = 3;
/** … of no special kind. */
export const MEMORY_DEVICE_GENERIC = 4;
/** … behind a PCI base address register, for other devices to use. */
export const MEMORY_DEVICE_PCI_P2PDMA = 5;

/** DevPagemap.form: the caller kills its reference count in an action of its own (4.18). */
export const PGMAP_CALLER_KILLS = 1;
/** … the caller's count is killed through ops.kill (5.0). */
export const PGMAP_KILL = 2;
/** … and waited for in ops.cleanup (5.2). */
export const PGMAP_KILL_CLEANUP = 3;
/** … the map has a count of its own, and waits for it (5.19 and later). */
export const PGMAP_INTERNAL = 4;
/** … hmm_devmem_add's own: as the first, but pages are handed out (4.18). */
export const PGMAP_HMM_DEVMEM = 5;
/** … as the first, and nobody looks whether its release could be written down (4.18 and before). */
export const PGMAP_UNCHECKED = 6;

/** … as PGMAP_KILL, but references are put before the kill, which may wait; it was proposed (2018). */
export const PGMAP_KILL_LAST = 7;

/** What the owner of a page map does. @kernel struct dev_pagemap_ops */
export interface DevPagemapOps extends OpsTable {
  /** Nobody uses the page any more. By whoever put it last: assume that it may not sleep. */
  readonly pageFree?: (cpu: Cpu, page: Page) => void;
  /**
   * A CPU has touched a page of private memory, which is to be migrated to the machine's: 0, or bits of VM_FAULT_ERROR.
   * It is called again as long as that has not come about. Required of those. The mmap lock is held for reading. Sleeps.
   */
  readonly migrateToRam?: (cpu: Cpu, fault: VmFault) => number;
  /** PGMAP_KILL, PGMAP_KILL_CLEANUP: kills the caller's count, does not wait. PGMAP_KILL_LAST: kills and waits. */
  readonly kill?: (cpu: Cpu, pgmap: DevPagemap) => void;
  /** PGMAP_KILL_CLEANUP: waits until the caller's count is 0. Sleeps. */
  readonly cleanup?: (cpu: Cpu, pgmap: DevPagemap) => void;
}

/** Its callbacks, if it has any. */
export function pgmapOps(cpu: Cpu, pgmap: DevPagemap): DevPagemapOps | undefined {
  const index = read(cpu, pgmap, DevPagemap.ops);
  return index === 0 ? undefined : (opsAt(cpu, index) as DevPagemapOps);
}

/** What counts its users. */
export function pgmapRef(cpu: Cpu, pgmap: DevPagemap): PercpuRef {
  return read(cpu, pgmap, DevPagemap.ref);
}

/** True if the caller's reference count is used, and killed by the caller too. */
export function callerKills(form: number): boolean {
  return form === PGMAP_CALLER_KILLS || form === PGMAP_HMM_DEVMEM || form === PGMAP_UNCHECKED;
}

/** True for memory whose pages are handed out one by one, and idle with no reference. */
export function isHandedOut(cpu: Cpu, pgmap: DevPagemap): boolean {
  const form = read(cpu, pgmap, DevPagemap.form);
  if (form === PGMAP_HMM_DEVMEM) return true;
  if (form !== PGMAP_INTERNAL) return false;
  const type = read(cpu, pgmap, DevPagemap.type);
  return type === MEMORY_DEVICE_PRIVATE || type === MEMORY_DEVICE_COHERENT;
}

/** Sets a range of a page map that is not mapped yet. Unit: bytes, `end` inclusive. */
export function setRange(
  cpu: Cpu,
  pgmap: DevPagemap,
  index: number,
  start: number,
  end: number,
): void {
  writeAddress(cpu, pgmap, addressElement(DevPagemap.ranges, 2 * index), start);
  writeAddress(cpu, pgmap, addressElement(DevPagemap.ranges, 2 * index + 1), end);
}

/** The first frame of a range. */
export function rangeStart(cpu: Cpu, pgmap: DevPagemap, index: number): Pfn {
  return readAddress(cpu, pgmap, addressElement(DevPagemap.ranges, 2 * index)) / PAGE_SIZE;
}

/** The frame after the last of a range. */
export function rangeEnd(cpu: Cpu, pgmap: DevPagemap, index: number): Pfn {
  return (
    (readAddress(cpu, pgmap, addressElement(DevPagemap.ranges, 2 * index + 1)) + 1) / PAGE_SIZE
  );
}

/** Sections of a range. */
export function rangeSections(cpu: Cpu, pgmap: DevPagemap, index: number): number {
  return (rangeEnd(cpu, pgmap, index) - rangeStart(cpu, pgmap, index)) / SECTION_PAGES;
}

/** The first frame of a range that is not taken up by struct pages. @kernel pfn_first */
export function firstUsedPfn(cpu: Cpu, pgmap: DevPagemap, index: number): Pfn {
  const start = rangeStart(cpu, pgmap, index);
  if (index !== 0) return start;
  const reserve = read(cpu, pgmap, DevPagemap.altmapReserve);
  return start + reserve + read(cpu, pgmap, DevPagemap.altmapFree);
}

function covers(cpu: Cpu, pgmap: DevPagemap, pfn: Pfn): boolean {
  const ranges = read(cpu, pgmap, DevPagemap.nrRange);
  for (let i = 0; i < ranges; i++) {
    if (pfn >= rangeStart(cpu, pgmap, i) && pfn < rangeEnd(cpu, pgmap, i)) return true;
  }
  return false;
}

/**
 * The page map of a frame, with a reference; NULL if there is none, or it is dying. `cached` is one that the
 * caller has a reference to, or NULL: if that has the frame it is returned, without another reference; if
 * not, its reference is given back. @kernel get_dev_pagemap
 */
export function getDevPagemap(cpu: Cpu, pfn: Pfn, cached: DevPagemap): DevPagemap {
  if (cached !== NULL) {
    if (covers(cpu, cached, pfn)) return cached;
    putDevPagemap(cpu, cached);
  }
  rcuReadLock(cpu);
  const found = lookupDevPagemap(cpu, pfn);
  const isLive = found !== NULL && percpuRefTrygetLive(cpu, pgmapRef(cpu, found));
  rcuReadUnlock(cpu);
  return isLive ? found : NULL;
}

/** What is stored for a frame, dying or not: NULL if nothing is. In an RCU read section, or with nobody else. */
export function lookupDevPagemap(cpu: Cpu, pfn: Pfn): DevPagemap {
  return pfnTableLoad(cpu, pgmapTable(cpu), pfn) as DevPagemap;
}

/** Gives a reference back. NULL is allowed. @kernel put_dev_pagemap */
export function putDevPagemap(cpu: Cpu, pgmap: DevPagemap): void {
  if (pgmap !== NULL) percpuRefPut(cpu, pgmapRef(cpu, pgmap));
}
