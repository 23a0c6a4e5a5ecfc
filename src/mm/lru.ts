/**
 * LRU lists: the pages that could be paged out, by when they were last known to be used.
 *
 * Kernel     mm/swap.c, mm/vmscan.c (isolate_lru_folios), include/linux/mm_inline.h
 * Protocol   Four lists: anonymous memory and pages of files, each active and inactive. A page comes to the head of
 *            an inactive one when it is first mapped (a file's when it is made), and leaves its list when its frame
 *            is freed. Who wants to page it out isolates it: takes it off its list, with PG_ISOLATED and a reference;
 *            in the end it is put back, or the reference is the last.
 * Invariant  I1  A page is on a list exactly if it has PG_LRU, and then its frame is not free: whoever puts the last
 *                reference takes it off first.
 *            I2  Who sets PG_ISOLATED has isolated the page, and nobody else has.
 *            I3  While a page of a file is on a list, Page.mapping is NULL or a file whose struct exists: who frees a file
 *                clears it, under the lock. So who isolates a page can pin its file.
 * Ordering   Reclaim.lock protects lists and links; no other is taken inside.
 * Deviation  No batches for each CPU. A huge page is on no list until it is split. All of it only on machines that
 *            reclaim (MachineConfig.minFreeFrames); on others nothing here does anything.
 *
 * @module
 */
import { cmpxchg, fetchAdd, fetchAnd, fetchOr, read, readOnce, write, writeOnce } from '#memory';

import { bug } from '../base/bug.js';
import type { Cpu } from '../machine/cpu.js';
import {
  pageOf,
  type Pfn,
  PG_ACTIVE,
  PG_ANON,
  PG_ISOLATED,
  PG_LRU,
  PG_MLOCKED,
  reclaims,
} from '../machine/page-alloc.js';
import { MACHINE, Machine, Page } from '../machine/types.js';
import { type Field, member, NULL, type Ptr } from '../memory/layout.js';
import { spinLock, spinUnlock } from '../sync/spinlock.js';
import { File, LruList, Reclaim, ReclaimStats, VM_LOCKED, VmAreaStruct } from './types.js';

/** Lists; PG_ACTIVE adds one. */
export const LRU_ANON = 0;
export const LRU_FILE = 2;
export const LRU_ACTIVE = 1;

/** What this machine has for reclaim; it must have it. */
export function reclaimOf(cpu: Cpu): Reclaim {
  const reclaim = read(cpu, MACHINE, Machine.reclaim) as Reclaim;
  if (reclaim === 0) bug('this machine does not reclaim: boot it with minFreeFrames');
  return reclaim;
}

function listAt(reclaim: Reclaim, index: number): LruList {
  return (reclaim + Reclaim.lists + index * LruList.words) as LruList;
}

/** Pages on a list. A hint, unless nobody is running. */
export function lruCount(cpu: Cpu, index: number): number {
  return readOnce(cpu, listAt(reclaimOf(cpu), index), LruList.count);
}

/** The page can be paged out from here on, unless it is on a list already. Any lock held. @kernel folio_add_lru */
export function lruAdd(cpu: Cpu, pfn: Pfn): void {
  if (!reclaims(cpu)) return;
  const reclaim = reclaimOf(cpu);
  const page = pageOf(cpu, pfn);
  spinLock(cpu, member(reclaim, Reclaim.lock));
  if ((fetchOr(cpu, page, Page.flags, PG_LRU) & PG_LRU) === 0) link(cpu, reclaim, pfn);
  spinUnlock(cpu, member(reclaim, Reclaim.lock));
}

/** The page's frame is about to be freed, or somebody has isolated it. Any lock held. @kernel lruvec_del_folio */
export function lruDel(cpu: Cpu, pfn: Pfn): void {
  const page = pageOf(cpu, pfn);
  if ((readOnce(cpu, page, Page.flags) & PG_LRU) === 0) return; // on machines that do not reclaim: none has it
  const reclaim = reclaimOf(cpu);
  spinLock(cpu, member(reclaim, Reclaim.lock));
  if ((readOnce(cpu, page, Page.flags) & PG_LRU) !== 0) unlink(cpu, reclaim, pfn);
  spinUnlock(cpu, member(reclaim, Reclaim.lock));
}

/** The VMA maps the page, which is no page of zeroes, and no device's: it can be paged out. @kernel folio_add_lru_vma */
export function lruAddVma(cpu: Cpu, vma: VmAreaStruct, pfn: Pfn): void {
  if (!reclaims(cpu)) return;
  const page = pageOf(cpu, pfn);
  if ((read(cpu, vma, VmAreaStruct.flags) & VM_LOCKED) !== 0) {
    fetchOr(cpu, page, Page.flags, PG_MLOCKED);
  }
  if ((readOnce(cpu, page, Page.flags) & PG_ANON) !== 0) lruAdd(cpu, pfn); // a file's is on a list already
}

/** Isolates the page, to which the caller has a reference; false if somebody else has. @kernel folio_isolate_lru */
export function isolateLru(cpu: Cpu, pfn: Pfn): boolean {
  const before = fetchOr(cpu, pageOf(cpu, pfn), Page.flags, PG_ISOLATED);
  if ((before & PG_ISOLATED) !== 0) return false; // I2
  lruDel(cpu, pfn);
  return true;
}

/**
 * Isolates the page with a reference for the caller, who has the lock of a table that maps it; false if somebody else
 * has it.
 */
export function isolateMapped(cpu: Cpu, pfn: Pfn): boolean {
  if (!isolateLru(cpu, pfn)) return false;
  fetchAdd(cpu, pageOf(cpu, pfn), Page.refcount, 1);
  return true;
}

/**
 * Isolates the page at the end of a list, with a reference to it, and one to its file if it has one; 0 if the list is
 * empty, -1 if that page cannot be had: then it is at the head now. @kernel isolate_lru_folios
 */
export function isolateOldest(cpu: Cpu, index: number): Pfn {
  const reclaim = reclaimOf(cpu);
  spinLock(cpu, member(reclaim, Reclaim.lock));
  const pfn = read(cpu, listAt(reclaim, index), LruList.tail);
  let result = pfn;
  if (pfn !== 0) {
    if (tryIsolate(cpu, pfn)) {
      unlink(cpu, reclaim, pfn);
    } else {
      leaveList(cpu, reclaim, pfn); // with PG_LRU all the time: who is about to free it waits for us (I1)
      link(cpu, reclaim, pfn);
      result = -1;
    }
  }
  spinUnlock(cpu, member(reclaim, Reclaim.lock));
  return result;
}

/** The lock must be held, and the page be on its list; its frame may be about to be freed. */
function tryIsolate(cpu: Cpu, pfn: Pfn): boolean {
  const page = pageOf(cpu, pfn);
  if ((fetchOr(cpu, page, Page.flags, PG_ISOLATED) & PG_ISOLATED) !== 0) return false; // I2
  if (!increaseUnlessZero(cpu, page, Page.refcount)) {
    fetchAnd(cpu, page, Page.flags, ~PG_ISOLATED);
    return false; // who put the last reference waits for the lock
  }
  if ((readOnce(cpu, page, Page.flags) & PG_ANON) !== 0) return true;
  const file = read(cpu, page, Page.mapping) as File;
  if (file === NULL) return true;
  const isPinned = increaseUnlessZero(cpu, file, File.refs); // I3
  if (!isPinned) writeOnce(cpu, page, Page.mapping, 0); // as who frees the file is about to
  writeOnce(cpu, page, Page.private, isPinned ? file : 0);
  return true;
}

/** The file that isolateOldest has taken a reference to, with the page, which may have left it since; NULL. */
export function isolatedFile(cpu: Cpu, pfn: Pfn): File {
  const page = pageOf(cpu, pfn);
  if ((readOnce(cpu, page, Page.flags) & PG_ANON) !== 0) return NULL;
  const file = readOnce(cpu, page, Page.private) as File;
  if (file !== NULL) writeOnce(cpu, page, Page.private, 0);
  return file;
}

function increaseUnlessZero<S extends string>(cpu: Cpu, p: Ptr<S>, field: Field<S>): boolean {
  let seen: number = readOnce(cpu, p, field);
  while (seen > 0) {
    const before: number = cmpxchg(cpu, p, field, seen, seen + 1);
    if (before === seen) return true;
    seen = before;
  }
  return false;
}

/** Ends an isolation: the page is on an inactive list again, or an active one. The reference stays. @kernel folio_putback_lru */
export function putbackLru(cpu: Cpu, pfn: Pfn, isActive: boolean): void {
  const page = pageOf(cpu, pfn);
  if (!reclaims(cpu)) {
    fetchAnd(cpu, page, Page.flags, ~PG_ISOLATED);
    return;
  }
  const reclaim = reclaimOf(cpu);
  spinLock(cpu, member(reclaim, Reclaim.lock));
  if ((readOnce(cpu, page, Page.flags) & PG_LRU) !== 0) unlink(cpu, reclaim, pfn); // who faulted it in put it there
  fetchAnd(cpu, page, Page.flags, ~(PG_ACTIVE | PG_ISOLATED));
  fetchOr(cpu, page, Page.flags, isActive ? PG_LRU | PG_ACTIVE : PG_LRU);
  link(cpu, reclaim, pfn);
  spinUnlock(cpu, member(reclaim, Reclaim.lock));
}

/** The file of the page is about to be freed, or the page is taken out of it (I3). */
export function lruForgetFile(cpu: Cpu, pfn: Pfn): void {
  const page = pageOf(cpu, pfn);
  if (!reclaims(cpu)) {
    writeOnce(cpu, page, Page.mapping, 0);
    return;
  }
  const reclaim = reclaimOf(cpu);
  spinLock(cpu, member(reclaim, Reclaim.lock));
  writeOnce(cpu, page, Page.mapping, 0);
  spinUnlock(cpu, member(reclaim, Reclaim.lock));
}

// --- what happened ---

/** Counts events of reclaim. */
export function countReclaim(cpu: Cpu, field: Field<'reclaim_stats'>, count = 1): void {
  if (count !== 0) fetchAdd(cpu, member(reclaimOf(cpu), Reclaim.stats), field, count);
}

/** A page has been written to its slot. Nothing on machines that do not reclaim. */
export function countSwappedOut(cpu: Cpu): void {
  if (reclaims(cpu)) countReclaim(cpu, ReclaimStats.swappedOut);
}

/** A page has been read from its slot. Nothing on machines that do not reclaim. */
export function countSwappedIn(cpu: Cpu): void {
  if (reclaims(cpu)) countReclaim(cpu, ReclaimStats.swappedIn);
}

/** How often it has happened since the machine was made. */
export function reclaimCount(cpu: Cpu, field: Field<'reclaim_stats'>): number {
  return readOnce(cpu, member(reclaimOf(cpu), Reclaim.stats), field);
}

// --- the lists; the lock must be held ---

function listOf(cpu: Cpu, reclaim: Reclaim, page: Page): LruList {
  const flags = readOnce(cpu, page, Page.flags);
  const kind = (flags & PG_ANON) !== 0 ? LRU_ANON : LRU_FILE;
  return listAt(reclaim, kind + ((flags & PG_ACTIVE) !== 0 ? LRU_ACTIVE : 0));
}

/** Puts the page, which has PG_LRU now, at the head of its list. */
function link(cpu: Cpu, reclaim: Reclaim, pfn: Pfn): void {
  const page = pageOf(cpu, pfn);
  const list = listOf(cpu, reclaim, page);
  const head = read(cpu, list, LruList.head);
  write(cpu, page, Page.prev, 0);
  write(cpu, page, Page.next, head);
  if (head === 0) write(cpu, list, LruList.tail, pfn);
  else write(cpu, pageOf(cpu, head), Page.prev, pfn);
  write(cpu, list, LruList.head, pfn);
  writeOnce(cpu, list, LruList.count, read(cpu, list, LruList.count) + 1);
}

/** Takes the page, which has PG_LRU until now, off its list. */
function unlink(cpu: Cpu, reclaim: Reclaim, pfn: Pfn): void {
  leaveList(cpu, reclaim, pfn);
  fetchAnd(cpu, pageOf(cpu, pfn), Page.flags, ~PG_LRU);
}

/** Takes the page off its list; it keeps PG_LRU. */
function leaveList(cpu: Cpu, reclaim: Reclaim, pfn: Pfn): void {
  const page = pageOf(cpu, pfn);
  const list = listOf(cpu, reclaim, page);
  const next = read(cpu, page, Page.next);
  const prev = read(cpu, page, Page.prev);
  if (next === 0) write(cpu, list, LruList.tail, prev);
  else write(cpu, pageOf(cpu, next), Page.prev, prev);
  if (prev === 0) write(cpu, list, LruList.head, next);
  else write(cpu, pageOf(cpu, prev), Page.next, next);
  writeOnce(cpu, list, LruList.count, read(cpu, list, LruList.count) - 1);
}
