/**
 * Struct pages for the memory of a device: from memremapPages to memunmapPages.
 *
 * Kernel     mm/memremap.c; kernel/memremap.c of 4.18 to 5.1
 * Protocol   map:    who counts users begins to; for each range: nobody else has a live page map there, and it
 *                    is no memory of the machine; it can be looked up; struct pages; a reference of the
 *                    page map for each page that idles at 1
 *            unmap:  kill, put those references, wait until nobody uses a page, then for each range take the
 *                    struct pages away, and what looks them up
 *
 *            As in Linux, a page map can be looked up before its struct pages are there: who looks one up has
 *            been told of the frame by its owner.
 *
 *            Who kills and who waits has changed; DevPagemap.form says which it is.
 *
 *                                  kill                wait                       a map that fails
 *              PGMAP_CALLER_KILLS  the caller has      nobody here: too late      leaves the count live
 *              PGMAP_KILL          ops.kill            nobody here: too late      kills it, but for conflicts
 *              PGMAP_KILL_LAST     ops.kill, after     in ops.kill                kills it, but for conflicts
 *                                  the puts
 *              PGMAP_KILL_CLEANUP  ops.kill            ops.cleanup, after puts    kills it, waits
 *              PGMAP_INTERNAL      percpuRefKill       its completion, after puts unmaps what it had
 *              PGMAP_HMM_DEVMEM    as the first, for hmm_devmem_add; there are no puts
 *              PGMAP_UNCHECKED     as the first; see devm-memremap.ts
 *
 *            The first two take the struct pages away under users that are still there (LT-7), unless their
 *            callers have waited. Waiting before the puts waits for ever (LT-8): so PGMAP_KILL_LAST, which was
 *            proposed and did not come, puts them first.
 * Invariant  I1  No struct page is touched after the removal of its range has begun (INV-30).
 *            I2  After a map that failed, and after unmap, nothing of it can be looked up (INV-32, INV-34). Whether
 *                the count is live after a map that failed, the table says. A map that fails after it has stored
 *                erases what it has overwritten as well, as Linux does since it has the xarray.
 *            I3  Each count is killed once (INV-33).
 * Ordering   The reference count's; hotplugLock around each range.
 * Deviation  Ranges are whole sections; there are no caching attributes, only the point where tracking them can
 *            fail; no linear map. The older forms have one range.
 *
 * @module
 */
import { reachPoint } from '#debug';
import { fetchAdd, read, readOwn, write, writeOnce, writeOwn } from '#memory';
import { BUSTED_PGMAP_LOOKUP, isMutant, M_12, M_13 } from '#mutants';

import { EINVAL, ENOMEM, ENXIO } from '../base/errno.js';
import { PAGE_SIZE } from '../base/units.js';
import { explainWait } from '../debug/wait-graph.js';
import { awaitDrainedRef, initDrainedRef } from '../deferred/drained-ref.js';
import {
  percpuRefExit,
  percpuRefGetMany,
  percpuRefKill,
  percpuRefPut,
  percpuRefPutMany,
  percpuRefTrygetLive,
} from '../deferred/percpu-refcount.js';
import { synchronizeRcu } from '../deferred/rcu.js';
import { DrainedRef, type PercpuRef } from '../deferred/types.js';
import {
  IORES_DESC_NONE,
  IORESOURCE_SYSTEM_RAM,
  REGION_DISJOINT,
  regionIntersects,
} from '../device/resource.js';
import type { Cpu } from '../machine/cpu.js';
import { failSite, shouldFail } from '../machine/fail.js';
import { PHYSICAL_END } from '../machine/limits.js';
import { lockClass } from '../machine/lock-class.js';
import { type Pfn, PG_DEVICE_COHERENT, PG_DEVICE_PRIVATE } from '../machine/page-alloc.js';
import { MACHINE, Machine, Page } from '../machine/types.js';
import { WAIT_REFERENCES } from '../machine/wait-kind.js';
import { warn } from '../machine/warn.js';
import { member, NULL } from '../memory/layout.js';
import { memremapCore, pgmapTable } from './core.js';
import { addPages, memHotplugBegin, memHotplugDone, pfnToPage, removePages } from './hotplug.js';
import {
  callerKills,
  firstUsedPfn,
  getDevPagemap,
  isHandedOut,
  MEMORY_DEVICE_COHERENT,
  MEMORY_DEVICE_FS_DAX,
  MEMORY_DEVICE_PCI_P2PDMA,
  MEMORY_DEVICE_PRIVATE,
  PGMAP_INTERNAL,
  PGMAP_KILL,
  PGMAP_KILL_CLEANUP,
  PGMAP_KILL_LAST,
  pgmapOps,
  pgmapRef,
  putDevPagemap,
  rangeEnd,
  rangeSections,
  rangeStart,
} from './pagemap.js';
import {
  freePfnLeaves,
  pfnTableErase,
  pfnTableInsert,
  pfnTableStore,
  pfnTableValues,
} from './pfn-table.js';
import { DevicePage, DevPagemap, MemremapCore, PGMAP_RANGES_MAX, SECTION_PAGES } from './types.js';
import { putDevicePage } from './zone-device.js';

const USERS = lockClass('dev_pagemap');
const TRACK_PFN = failSite('track_pfn_remap');
/** Struct pages that one page of an altmap has room for. */
const PAGES_PER_ALTMAP_PAGE = PAGE_SIZE / (4 * Page.words);

// --- map ---

/**
 * Makes struct pages for the ranges of a page map, which the caller has filled in: type, ops, owner, nrRange,
 * ranges, form, altmap, and ref in the older forms. 0; -EINVAL if one of these cannot be; -ENOMEM, also if
 * somebody else has a live page map there; -ENXIO if the machine's memory is there; -EEXIST if struct pages
 * are, or (older forms) another entry. No lock held. Sleeps. @kernel memremap_pages
 */
export function memremapPages(cpu: Cpu, pgmap: DevPagemap): number {
  const isInternal = read(cpu, pgmap, DevPagemap.form) === PGMAP_INTERNAL;
  const nrRange = read(cpu, pgmap, DevPagemap.nrRange);
  let error = checkPagemap(cpu, pgmap, nrRange);
  if (error === 0 && isInternal) error = initOwnRef(cpu, pgmap);
  if (error !== 0) return error;
  if (isManaged(cpu, pgmap)) fetchAdd(cpu, memremapCore(cpu), MemremapCore.managed, 1);
  write(cpu, pgmap, DevPagemap.nrRange, 0);
  let isConflict = false;
  for (let i = 0; i < nrRange && error === 0; i++) {
    isConflict = hasConflict(cpu, pgmap, i);
    error = isConflict ? -ENOMEM : mapRange(cpu, pgmap, i);
    if (error === 0) write(cpu, pgmap, DevPagemap.nrRange, i + 1);
  }
  if (error === 0) return 0;
  if (isInternal) memunmapPages(cpu, pgmap);
  else abandonOld(cpu, pgmap, isConflict);
  write(cpu, pgmap, DevPagemap.nrRange, nrRange);
  return error;
}

/** What must be so before anything is done. */
function checkPagemap(cpu: Cpu, pgmap: DevPagemap, nrRange: number): number {
  const isAltmap = read(cpu, pgmap, DevPagemap.altmapFree) !== 0;
  if (nrRange < 1 || nrRange > PGMAP_RANGES_MAX || (nrRange > 1 && isAltmap)) return -EINVAL;
  // the older forms have one range
  if (nrRange > 1 && read(cpu, pgmap, DevPagemap.form) !== PGMAP_INTERNAL) return -EINVAL;
  return checkType(cpu, pgmap) && checkForm(cpu, pgmap) ? 0 : -EINVAL;
}

function checkType(cpu: Cpu, pgmap: DevPagemap): boolean {
  const type = read(cpu, pgmap, DevPagemap.type);
  const ops = pgmapOps(cpu, pgmap);
  const hasOwner = read(cpu, pgmap, DevPagemap.owner) !== 0;
  let missing = '';
  if (type < MEMORY_DEVICE_PRIVATE || type > MEMORY_DEVICE_PCI_P2PDMA) {
    missing = `invalid type ${type}`;
  } else if (type === MEMORY_DEVICE_PRIVATE || type === MEMORY_DEVICE_COHERENT) {
    const isPrivate = type === MEMORY_DEVICE_PRIVATE;
    if (isPrivate && ops?.migrateToRam === undefined) missing = 'missing migrate_to_ram method';
    else if (ops?.pageFree === undefined) missing = 'missing page_free method';
    else if (!hasOwner) missing = 'missing owner';
  }
  if (missing !== '') warn(cpu, `page map ${pgmap}: ${missing}`);
  return missing === '';
}

/** The callbacks that the form asks for. */
function checkForm(cpu: Cpu, pgmap: DevPagemap): boolean {
  const form = read(cpu, pgmap, DevPagemap.form);
  const ops = pgmapOps(cpu, pgmap);
  if (form === PGMAP_INTERNAL) return true;
  if (read(cpu, pgmap, DevPagemap.ref) === NULL) return false;
  if (callerKills(form)) return true;
  if (form === PGMAP_KILL || form === PGMAP_KILL_LAST) return ops?.kill !== undefined;
  const isComplete = ops?.kill !== undefined && ops.cleanup !== undefined;
  if (!isComplete) warn(cpu, `page map ${pgmap}: missing reference count teardown definition`);
  return isComplete;
}

/** Memory whose owner, or whoever waits, is told when a page is free. */
function isManaged(cpu: Cpu, pgmap: DevPagemap): boolean {
  const type = read(cpu, pgmap, DevPagemap.type);
  return type <= MEMORY_DEVICE_FS_DAX;
}

/** Begins the count of a page map that has its own: 0 or -ENOMEM. */
export function initOwnRef(cpu: Cpu, pgmap: DevPagemap): number {
  const own = member(pgmap, DevPagemap.own);
  write(cpu, pgmap, DevPagemap.ref, member(own, DrainedRef.ref));
  return initDrainedRef(cpu, own, USERS);
}

/** True if somebody else's page map is there, and alive. */
function hasConflict(cpu: Cpu, pgmap: DevPagemap, index: number): boolean {
  return (
    isTaken(cpu, pgmap, rangeStart(cpu, pgmap, index)) ||
    isTaken(cpu, pgmap, rangeEnd(cpu, pgmap, index) - 1)
  );
}

function isTaken(cpu: Cpu, pgmap: DevPagemap, pfn: Pfn): boolean {
  const other = getDevPagemap(cpu, pfn, NULL);
  if (other === NULL) return false;
  warn(cpu, `page map ${pgmap}: conflicting mapping with ${other}`);
  putDevPagemap(cpu, other);
  return true;
}

/** @kernel pagemap_range */
function mapRange(cpu: Cpu, pgmap: DevPagemap, index: number): number {
  const first = rangeStart(cpu, pgmap, index);
  const bytes = (rangeEnd(cpu, pgmap, index) - first) * PAGE_SIZE;
  const { flags, desc } = SYSTEM_RAM;
  if (regionIntersects(cpu, first * PAGE_SIZE, bytes, flags, desc) !== REGION_DISJOINT)
    return -ENXIO;
  let error = isHotpluggable(cpu, pgmap, index) ? 0 : -EINVAL;
  if (error === 0) error = storeEntries(cpu, pgmap, index);
  if (error !== 0) return error;
  error = shouldFail(cpu, TRACK_PFN) ? -ENOMEM : addRange(cpu, pgmap, index);
  if (error !== 0) eraseEntries(cpu, pgmap, index); // I2
  if (error !== 0) return error;
  initPages(cpu, pgmap, index);
  if (!isHandedOut(cpu, pgmap)) {
    const refs = usedPages(cpu, pgmap, index);
    percpuRefGetMany(cpu, pgmapRef(cpu, pgmap), refs);
    writeOwn(cpu, pgmap, DevPagemap.pageRefs, readOwn(cpu, pgmap, DevPagemap.pageRefs) + refs);
  }
  return 0;
}

const SYSTEM_RAM = { flags: IORESOURCE_SYSTEM_RAM, desc: IORES_DESC_NONE } as const;

/** Whole sections, inside of what physical addresses there are. @kernel mhp_range_allowed */
function isHotpluggable(cpu: Cpu, pgmap: DevPagemap, index: number): boolean {
  const first = rangeStart(cpu, pgmap, index);
  const end = rangeEnd(cpu, pgmap, index);
  if (first % SECTION_PAGES !== 0 || end % SECTION_PAGES !== 0) return false;
  return first < end && end * PAGE_SIZE <= PHYSICAL_END;
}

/** Before 4.20 that was a radix tree, which does not overwrite. */
function storeEntries(cpu: Cpu, pgmap: DevPagemap, index: number): number {
  const first = rangeStart(cpu, pgmap, index);
  const count = rangeSections(cpu, pgmap, index);
  const isRadix = callerKills(read(cpu, pgmap, DevPagemap.form));
  if (isRadix) return pfnTableInsert(cpu, pgmapTable(cpu), first, count, pgmap);
  return pfnTableStore(cpu, pgmapTable(cpu), first, count, pgmap);
}

/** Nobody finds the page map any more. Sleeps. @kernel pgmap_array_delete */
function eraseEntries(cpu: Cpu, pgmap: DevPagemap, index: number): void {
  const first = rangeStart(cpu, pgmap, index);
  const empty = pfnTableErase(cpu, pgmapTable(cpu), first, rangeSections(cpu, pgmap, index));
  if (!isMutant(cpu, BUSTED_PGMAP_LOOKUP)) synchronizeRcu(cpu);
  freePfnLeaves(cpu, empty);
}

function addRange(cpu: Cpu, pgmap: DevPagemap, index: number): number {
  memHotplugBegin(cpu);
  const needed = altmapPages(cpu, pgmap, index);
  let error = allocAltmap(cpu, pgmap, needed);
  if (error === 0) {
    error = addPages(cpu, rangeStart(cpu, pgmap, index), rangeSections(cpu, pgmap, index));
    if (error !== 0) freeAltmap(cpu, pgmap, needed);
  }
  memHotplugDone(cpu);
  return error;
}

/** What a page says of the memory that it is. */
const PAGE_FLAGS: ReadonlyMap<number, number> = new Map([
  [MEMORY_DEVICE_PRIVATE, PG_DEVICE_PRIVATE],
  [MEMORY_DEVICE_COHERENT, PG_DEVICE_COHERENT],
]);

/** @kernel memmap_init_zone_device */
function initPages(cpu: Cpu, pgmap: DevPagemap, index: number): void {
  const refs = isHandedOut(cpu, pgmap) ? 0 : 1;
  const flags = PAGE_FLAGS.get(read(cpu, pgmap, DevPagemap.type)) ?? 0;
  const end = rangeEnd(cpu, pgmap, index);
  for (let pfn = firstUsedPfn(cpu, pgmap, index); pfn < end; pfn++) {
    const page = pfnToPage(cpu, pfn);
    write(cpu, page, DevicePage.pgmap, pgmap);
    write(cpu, page, Page.refcount, refs);
    writeOnce(cpu, page, Page.flags, flags);
  }
}

/** An older form failed: what it did was undone, but the count is the caller's. */
function abandonOld(cpu: Cpu, pgmap: DevPagemap, isConflict: boolean): void {
  const form = read(cpu, pgmap, DevPagemap.form);
  const isKept = callerKills(form) || (form !== PGMAP_KILL_CLEANUP && isConflict);
  if (!isKept) killRef(cpu, pgmap, form);
  if (form === PGMAP_KILL_CLEANUP) awaitUsers(cpu, pgmap, form);
  putManaged(cpu, pgmap);
}

// --- unmap ---

/**
 * Takes the struct pages away, when (in the newer forms) nobody uses them any more. The caller has seen to it
 * that nobody begins to. No lock held that users of the pages may want. Sleeps. @kernel memunmap_pages
 */
export function memunmapPages(cpu: Cpu, pgmap: DevPagemap): void {
  const form = read(cpu, pgmap, DevPagemap.form);
  if (form === PGMAP_KILL_LAST) putPageRefs(cpu, pgmap);
  killRef(cpu, pgmap, form);
  if (isMutant(cpu, M_12)) awaitUsers(cpu, pgmap, form); // LT-8
  if (form !== PGMAP_KILL_LAST) putPageRefs(cpu, pgmap);
  if (callerKills(form)) warnIfLive(cpu, pgmap);
  if (isMutant(cpu, M_13)) removeRanges(cpu, pgmap); // LT-7
  if (!isMutant(cpu, M_12)) awaitUsers(cpu, pgmap, form);
  if (!isMutant(cpu, M_13)) removeRanges(cpu, pgmap);
  if (form === PGMAP_INTERNAL) percpuRefExit(cpu, pgmapRef(cpu, pgmap));
  const left = read(cpu, pgmap, DevPagemap.altmapAlloc);
  if (left !== 0) warn(cpu, `page map ${pgmap}: failed to free ${left} reserved pages`);
  putManaged(cpu, pgmap);
}

function killRef(cpu: Cpu, pgmap: DevPagemap, form: number): void {
  if (form === PGMAP_INTERNAL) percpuRefKill(cpu, pgmapRef(cpu, pgmap));
  if (form === PGMAP_INTERNAL || callerKills(form)) return;
  const ops = pgmapOps(cpu, pgmap);
  if (ops?.kill !== undefined) ops.kill(cpu, pgmap);
}

/** Sleeps until nobody uses a page, if that is the form's business. */
function awaitUsers(cpu: Cpu, pgmap: DevPagemap, form: number): void {
  if (form === PGMAP_INTERNAL) {
    reachPoint(cpu, 'users are waited for');
    awaitDrainedRef(cpu, member(pgmap, DevPagemap.own));
  }
  if (form !== PGMAP_KILL_CLEANUP) return;
  const ops = pgmapOps(cpu, pgmap);
  if (ops?.cleanup !== undefined) ops.cleanup(cpu, pgmap);
}

/** Gives back the references that came with the pages. */
function putPageRefs(cpu: Cpu, pgmap: DevPagemap): void {
  if (isHandedOut(cpu, pgmap)) return;
  const isOld = read(cpu, pgmap, DevPagemap.form) !== PGMAP_INTERNAL;
  const ranges = read(cpu, pgmap, DevPagemap.nrRange);
  for (let i = 0; i < ranges; i++) {
    if (isOld) putEachPage(cpu, pgmap, i);
    else percpuRefPutMany(cpu, pgmapRef(cpu, pgmap), usedPages(cpu, pgmap, i));
  }
  writeOwn(cpu, pgmap, DevPagemap.pageRefs, 0);
}

/** A page that is in use gives its reference back when it no longer is. */
function putEachPage(cpu: Cpu, pgmap: DevPagemap, index: number): void {
  const end = rangeEnd(cpu, pgmap, index);
  for (let pfn = firstUsedPfn(cpu, pgmap, index); pfn < end; pfn++) {
    putDevicePage(cpu, pfnToPage(cpu, pfn));
  }
}

/** The caller should have killed it by now. */
function warnIfLive(cpu: Cpu, pgmap: DevPagemap): void {
  if (!percpuRefTrygetLive(cpu, pgmapRef(cpu, pgmap))) return;
  warn(cpu, `page map ${pgmap}: page mapping is still live!`);
  percpuRefPut(cpu, pgmapRef(cpu, pgmap));
}

function removeRanges(cpu: Cpu, pgmap: DevPagemap): void {
  const ranges = read(cpu, pgmap, DevPagemap.nrRange);
  for (let i = 0; i < ranges; i++) {
    memHotplugBegin(cpu);
    removePages(cpu, rangeStart(cpu, pgmap, i), rangeSections(cpu, pgmap, i));
    freeAltmap(cpu, pgmap, altmapPages(cpu, pgmap, i));
    memHotplugDone(cpu);
    eraseEntries(cpu, pgmap, i);
  }
}

function putManaged(cpu: Cpu, pgmap: DevPagemap): void {
  if (isManaged(cpu, pgmap)) fetchAdd(cpu, memremapCore(cpu), MemremapCore.managed, -1);
}

// --- pages ---

/** Pages of a range that can be used. @kernel pfn_len */
function usedPages(cpu: Cpu, pgmap: DevPagemap, index: number): Pfn {
  return rangeEnd(cpu, pgmap, index) - firstUsedPfn(cpu, pgmap, index);
}

/** Pages of the altmap that the struct pages of a range take; 0 without one. */
function altmapPages(cpu: Cpu, pgmap: DevPagemap, index: number): number {
  if (read(cpu, pgmap, DevPagemap.altmapFree) === 0) return 0;
  const pages = rangeEnd(cpu, pgmap, index) - rangeStart(cpu, pgmap, index);
  return Math.ceil(pages / PAGES_PER_ALTMAP_PAGE);
}

/** Takes pages of the device's own memory for struct pages. hotplugLock is held. @kernel altmap_alloc_block_buf */
function allocAltmap(cpu: Cpu, pgmap: DevPagemap, pages: number): number {
  const taken = read(cpu, pgmap, DevPagemap.altmapAlloc) + pages;
  if (taken > read(cpu, pgmap, DevPagemap.altmapFree)) return -ENOMEM;
  write(cpu, pgmap, DevPagemap.altmapAlloc, taken);
  return 0;
}

/** @kernel vmem_altmap_free */
function freeAltmap(cpu: Cpu, pgmap: DevPagemap, pages: number): void {
  write(cpu, pgmap, DevPagemap.altmapAlloc, read(cpu, pgmap, DevPagemap.altmapAlloc) - pages);
}

/** Of those that are left, the ones that nobody has but page maps which are still there. */
explainWait(WAIT_REFERENCES, (cpu, counted) => {
  const ref = member(counted as DrainedRef, DrainedRef.ref);
  const refs = pageRefsOf(cpu, ref);
  return refs === 0 ? '' : `, of which ${refs} came with pages and are put when these are unmapped`;
});

function pageRefsOf(cpu: Cpu, ref: PercpuRef): number {
  if (read(cpu, MACHINE, Machine.memremapCore) === 0) return 0;
  const pgmaps = new Set(pfnTableValues(cpu, pgmapTable(cpu))) as Set<DevPagemap>;
  const counted = [...pgmaps].filter((pgmap) => pgmapRef(cpu, pgmap) === ref);
  return counted.reduce((sum, pgmap) => sum + readOwn(cpu, pgmap, DevPagemap.pageRefs), 0);
}
