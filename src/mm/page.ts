/**
 * References to frames, and how often each is mapped.
 *
 * Kernel     include/linux/mm.h (get_page, put_page), mm/rmap.c
 * Protocol   refcount: everyone who may use the frame, each page table entry included; the last put
 *            frees it. mapcount: page table entries alone.
 * Invariant  I1  mapcount <= refcount, except inside the functions here.
 * Ordering   Counts are atomic; a frame is freed only after the TLB flush that follows its unmapping.
 *
 * @module
 */
import { cmpxchg, fetchAdd, fetchAnd, fetchOr, read, readOnce, write, writeOnce } from '#memory';

import { bug } from '../base/bug.js';
import type { Cpu } from '../machine/cpu.js';
import { freePage, pageOf, type Pfn, PG_LAZYFREE, ZERO_PFN } from '../machine/page-alloc.js';
import { Page } from '../machine/types.js';
import { freeZoneDevicePage } from '../memremap/zone-device.js';
import { lruDel } from './lru.js';

/** @kernel get_page */
export function getPage(cpu: Cpu, pfn: Pfn): void {
  const before = fetchAdd(cpu, pageOf(cpu, pfn), Page.refcount, 1);
  if (before <= 0) bug(`frame ${pfn}: reference taken to a free frame`);
}

/** Takes a reference to a page that may be free; false if it is. @kernel folio_try_get */
export function tryGetPage(cpu: Cpu, pfn: Pfn): boolean {
  const page = pageOf(cpu, pfn);
  for (;;) {
    const count = readOnce(cpu, page, Page.refcount);
    if (count <= 0) return false;
    if (cmpxchg(cpu, page, Page.refcount, count, count + 1) === count) return true;
  }
}

/** Gives a reference back; the last frees the frame. The zero page is never freed. @kernel put_page */
export function putPage(cpu: Cpu, pfn: Pfn): void {
  if (pfn === ZERO_PFN) return;
  const before = fetchAdd(cpu, pageOf(cpu, pfn), Page.refcount, -1);
  if (before <= 0) bug(`frame ${pfn}: refcount underflow`);
  if (before === 1) releasePage(cpu, pfn);
}

/** Nobody refers to the page any more. @kernel __folio_put */
function releasePage(cpu: Cpu, pfn: Pfn): void {
  if (isZoneDevicePage(cpu, pfn)) {
    freeZoneDevicePage(cpu, pageOf(cpu, pfn));
    return;
  }
  lruDel(cpu, pfn);
  freePage(cpu, pfn);
}

/** True for memory of a device. @kernel is_zone_device_page */
export function isZoneDevicePage(cpu: Cpu, pfn: Pfn): boolean {
  return pfn >= cpu.deviceFirst;
}

/** As so many putPage. @kernel gup_put_folio */
export function putPages(cpu: Cpu, pfn: Pfn, count: number): void {
  if (pfn === ZERO_PFN) return;
  const before = fetchAdd(cpu, pageOf(cpu, pfn), Page.refcount, -count);
  if (before < count) bug(`frame ${pfn}: refcount underflow`);
  if (before === count) releasePage(cpu, pfn);
}

/** References that a pin counts as. @kernel GUP_PIN_COUNTING_BIAS */
export const PIN_BIAS = 1024;

/** True if a device may have pinned the page; many references look the same. @kernel folio_maybe_dma_pinned */
export function pageMaybePinned(cpu: Cpu, pfn: Pfn): boolean {
  return pageRefcount(cpu, pfn) >= PIN_BIAS;
}

/** @kernel page_ref_count */
export function pageRefcount(cpu: Cpu, pfn: Pfn): number {
  return readOnce(cpu, pageOf(cpu, pfn), Page.refcount);
}

/** @kernel page_mapcount */
export function pageMapcount(cpu: Cpu, pfn: Pfn): number {
  return readOnce(cpu, pageOf(cpu, pfn), Page.mapcount);
}

/** Says what the page belongs to: a File, or an AnonVma (PG_ANON), and its place in there. */
export function setPageMapping(cpu: Cpu, pfn: Pfn, mapping: number, index: number): void {
  const page = pageOf(cpu, pfn);
  writeOnce(cpu, page, Page.mapping, mapping);
  write(cpu, page, Page.index, index | 0);
  write(cpu, page, Page.indexHigh, Math.floor(index / 2 ** 32));
}

/** The page's place in what it belongs to. Unit: pages. @kernel folio_pgoff */
export function pageIndex(cpu: Cpu, pfn: Pfn): number {
  const page = pageOf(cpu, pfn);
  return (read(cpu, page, Page.index) >>> 0) + read(cpu, page, Page.indexHigh) * 2 ** 32;
}

/** A page table entry maps the frame. @kernel folio_add_anon_rmap_pte, folio_add_file_rmap_pte */
export function pageAddRmap(cpu: Cpu, pfn: Pfn): void {
  fetchAdd(cpu, pageOf(cpu, pfn), Page.mapcount, 1);
}

/** A page table entry maps the frame no more. @kernel folio_remove_rmap_pte */
export function pageRemoveRmap(cpu: Cpu, pfn: Pfn): void {
  const before = fetchAdd(cpu, pageOf(cpu, pfn), Page.mapcount, -1);
  if (before <= 0) bug(`frame ${pfn}: mapcount underflow`);
}

/** True if the page has one of the flags. */
export function pageHasFlag(cpu: Cpu, pfn: Pfn, flag: number): boolean {
  return (readOnce(cpu, pageOf(cpu, pfn), Page.flags) & flag) !== 0;
}

/** Sets flags. */
export function pageSetFlags(cpu: Cpu, pfn: Pfn, flags: number): void {
  fetchOr(cpu, pageOf(cpu, pfn), Page.flags, flags);
}

/** Clears flags. */
export function pageClearFlags(cpu: Cpu, pfn: Pfn, flags: number): void {
  fetchAnd(cpu, pageOf(cpu, pfn), Page.flags, ~flags);
}

/**
 * A device has written the page, of which no entry says so: a page that the program had freed is needed after all. For
 * who keeps the page where it is. @kernel set_page_dirty
 */
export function setPageDirty(cpu: Cpu, pfn: Pfn): void {
  if (pageHasFlag(cpu, pfn, PG_LAZYFREE)) pageClearFlags(cpu, pfn, PG_LAZYFREE);
}
