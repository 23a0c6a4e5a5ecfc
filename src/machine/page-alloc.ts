/**
 * Frames of physical memory: a buddy allocator behind per-CPU stocks of single frames.
 *
 * Kernel     mm/page_alloc.c
 * Protocol   A free block of 2^order frames is on the list of its order and its first Page carries
 *            PG_BUDDY and the order. Allocation splits the smallest block that fits; freeing joins a
 *            block with its buddy (pfn xor 2^order) as long as that is free and whole. Single frames go
 *            through the CPU's Pageset, which trades batches with the zone.
 * Invariant  I1  A frame is in exactly one of: a zone list, a Pageset, somebody's hands.
 *            I2  Page.generation advances whenever the frame leaves somebody's hands, and the frame is
 *                filled with POISON: an access through a mapping that outlived the frame is seen.
 *            I3  An allocation fails only if at some moment of it no such block was free anywhere: before
 *                it fails, all Pagesets are drained, with all locks held, so that no frame that is on
 *                its way from one list to another is missed.
 * Ordering   Zone.lock protects the lists; Pageset.lock, inside which Zone.lock nests, one stock. Who
 *            takes several Pageset.locks takes them by CPU number.
 *            I4  On a machine that reclaims, a Pageset is filled from the zone only above the low reserve
 *                (watermarkMin); who finds it touched wakes kswapd, reclaims, and tries again. What is said of
 *                failure (I3) stays: the last try has the reserve too.
 * Deviation  One zone. Atomic allocations and ordinary ones share one reserve. Reclaim itself is mm/vmscan.ts, and
 *            called through a table. Frame 0 is never handed out, so that 0
 *            means "no frame"; frame 1 is the zero page.
 * Cost       alloc of one frame: two read-modify-writes; free: three, and a fill of 4 KiB.
 *
 * @module
 */
import {
  BUILD,
  exchange,
  fetchAdd,
  fillWords,
  noteAlloc,
  noteFree,
  read,
  readOnce,
  readOwn,
  write,
  writeOnce,
} from '#memory';

import { bug } from '../base/bug.js';
import { PAGE_WORDS } from '../base/units.js';
import { member, type Ptr } from '../memory/layout.js';
import { archSpinLock, archSpinUnlock, initSpinlock } from './arch-spinlock.js';
import type { Cpu } from './cpu.js';
import { failSite, isArmed, shouldFail } from './fail.js';
import type { Frame } from './frame.js';
import { GFP_DIRECT_RECLAIM, GFP_KERNEL, mightAlloc, PF_MEMALLOC } from './gfp.js';
import { lockClass } from './lock-class.js';
import { opsAt, type OpsTable } from './ops-table.js';
import { perCpuPtr, thisCpuPtr } from './percpu.js';
import { FreeArea, MACHINE, Machine, MAX_ORDER, Page, Pageset, Zone } from './types.js';

/** The shadow is told whose frames are: who uses one that is free is found, and who has made what is left. */
const KNOWS_FRAMES = BUILD === 'checked';

/** A frame number. 0 is no frame. */
export type Pfn = number;

/** The frame of zeroes that untouched memory reads as; never written, never freed. */
export const ZERO_PFN = 1;
const FIRST_FREE_PFN = 2;

/** Every byte of a free frame. @kernel POISON_FREE */
export const POISON = 0x6b;

/** Page.flags: the frame is the first of a free block. */
const PG_BUDDY = 1;
/** Page.flags: the frame holds slab objects. */
export const PG_SLAB = 2;
/** Page.flags: the frame is a page table. */
export const PG_TABLE = 4;
/** Page.flags: the frame holds anonymous memory. */
export const PG_ANON = 8;
/** Page.flags: anonymous, and mapped by one page table entry that may write without copying. */
export const PG_ANON_EXCLUSIVE = 16;

/** Page.flags: somebody is about to page it out. @kernel folio_test_lru, negated */
export const PG_ISOLATED = 256;
/** Page.flags: memory of a device that no CPU can address. @kernel is_device_private_page */
export const PG_DEVICE_PRIVATE = 512;
/** Page.flags: memory of a device that CPUs can address. @kernel is_device_coherent_page */
export const PG_DEVICE_COHERENT = 1024;
/** Page.flags: the frame belongs to a folio of several; mm/huge.ts. @kernel folio_test_large */
export const PG_LARGE = 128;
/** Page.flags: on an LRU list; mm/lru.ts. @kernel PG_lru */
export const PG_LRU = 1 << 16;
/** … on that of pages in use. @kernel PG_active */
export const PG_ACTIVE = 1 << 17;
/** Page.flags: found used once since it came to the inactive list. @kernel PG_referenced */
export const PG_REFERENCED = 1 << 18;
/** Page.flags: memory that the program has locked. @kernel PG_mlocked */
export const PG_MLOCKED = 1 << 19;
/** Page.flags: the frame of a swap slot; mm/swap.ts. */
export const PG_SWAPCACHE = 32;
/** Page.flags: anonymous, and the program does not need the contents any more (MADV_FREE). */
export const PG_LAZYFREE = 64;

/** What the allocator needs of reclaim. */
export interface ReclaimOps extends OpsTable {
  /** Has kswapd look, if it sleeps. Never sleeps. */
  readonly wakeKswapd: (cpu: Cpu) => void;
  /** Frees a batch of frames, if it can: how many. Sleeps. @kernel try_to_free_pages */
  readonly directReclaim: (cpu: Cpu, gfp: number) => number;
  /** How many frames it could free at most. A hint. @kernel zone_reclaimable_pages */
  readonly reclaimable: (cpu: Cpu) => number;
}

/** Rounds of direct reclaim in a row that free nothing before an allocation fails. @kernel MAX_RECLAIM_RETRIES */
const RECLAIM_RETRIES_MAX = 16;
/** Blocks larger than that are not worth a second round. @kernel PAGE_ALLOC_COSTLY_ORDER */
const COSTLY_ORDER = 3;
const PAGESET_BATCH_MAX = 32;
const ALLOC_PAGE = failSite('alloc_page');
const ALLOC_PAGES = failSite('alloc_pages');
const ZONE_LOCK = lockClass('zone->lock');
const PAGESET_LOCK = lockClass('pcp->lock');
const ZONE = member(MACHINE, Machine.zone);

/** The Page of a frame. @kernel pfn_to_page */
export function pageOf(cpu: Cpu, pfn: Pfn): Page {
  return (cpu.pages + pfn * Page.words) as Page;
}

/** The frame of a Page. @kernel page_to_pfn */
export function pfnOf(cpu: Cpu, page: Page): Pfn {
  return (page - cpu.pages) / Page.words;
}

/** The contents of a frame. */
export function frameOf(cpu: Cpu, pfn: Pfn): Frame {
  return (cpu.frames + pfn * PAGE_WORDS) as Frame;
}

/** The frame that a word of memory lies in. */
export function pfnOfWord(cpu: Cpu, index: number): Pfn {
  return ((index - cpu.frames) / PAGE_WORDS) | 0;
}

/** Puts all frames but the reserved ones on the free lists. Runs once, at boot. */
export function bootPageAlloc(cpu: Cpu, cpus: number): void {
  const frameCount = read(cpu, MACHINE, Machine.frameCount);
  const share = Math.floor(frameCount / (8 * cpus));
  write(cpu, MACHINE, Machine.pagesetBatch, Math.max(1, Math.min(PAGESET_BATCH_MAX, share)));
  initSpinlock(cpu, member(ZONE, Zone.lock), ZONE_LOCK);
  const pagesets = read(cpu, MACHINE, Machine.pagesets);
  for (let id = 0; id < cpus; id++) {
    initSpinlock(cpu, member(pagesetOf(cpu, pagesets, id), Pageset.lock), PAGESET_LOCK);
  }
  write(cpu, pageOf(cpu, ZERO_PFN), Page.refcount, 1);
  let pfn = FIRST_FREE_PFN;
  while (pfn < frameCount) {
    let order = 0;
    while (order < MAX_ORDER && pfn % (2 << order) === 0 && pfn + (2 << order) <= frameCount) {
      order++;
    }
    pushBlock(cpu, pfn, order);
    pfn += 1 << order;
  }
}

/** A frame for the caller alone, with refcount 1 and undefined contents; 0 if none is free. May sleep by `gfp`. */
export function allocPage(cpu: Cpu, gfp = GFP_KERNEL): Pfn {
  mightAlloc(cpu, gfp);
  if (isArmed(cpu) && shouldFail(cpu, ALLOC_PAGE)) return 0;
  const pfn = takeFromPageset(cpu);
  if (pfn === 0) return reclaims(cpu) ? takeReclaiming(cpu, 0, gfp) : takeFrames(cpu, 0);
  claim(cpu, pfn);
  return pfn;
}

/** As allocPage, filled with zeroes. */
export function allocZeroedPage(cpu: Cpu): Pfn {
  const pfn = allocPage(cpu);
  if (pfn !== 0) fillWords(cpu, frameOf(cpu, pfn), 0, PAGE_WORDS);
  return pfn;
}

/** 2^order frames in a row, aligned; 0 if there is no such block anywhere. May sleep by `gfp`. @kernel alloc_pages */
export function allocPages(cpu: Cpu, order: number, gfp = GFP_KERNEL): Pfn {
  mightAlloc(cpu, gfp);
  if (shouldFail(cpu, ALLOC_PAGES)) return 0;
  return reclaims(cpu) ? takeReclaiming(cpu, order, gfp) : takeFrames(cpu, order);
}

/** True if this machine reclaims memory. No scheduling point. */
export function reclaims(cpu: Cpu): boolean {
  return readOwn(cpu, MACHINE, Machine.reclaim) !== 0;
}

/** As takeFrames, but reclaims rather than fail (I4). @kernel __alloc_pages_slowpath */
function takeReclaiming(cpu: Cpu, order: number, gfp: number): Pfn {
  const ops = opsAt(cpu, read(cpu, MACHINE, Machine.reclaimOps)) as ReclaimOps;
  const mayReclaim = (gfp & GFP_DIRECT_RECLAIM) !== 0 && (cpu.memallocFlags & PF_MEMALLOC) === 0;
  const rounds = !mayReclaim ? 0 : order > COSTLY_ORDER ? 1 : RECLAIM_RETRIES_MAX;
  const reserve = read(cpu, MACHINE, Machine.watermarkMin);
  if (isZoneLow(cpu)) ops.wakeKswapd(cpu);
  for (let inVain = 0; inVain < rounds;) {
    const pfn = takeFrames(cpu, order, reserve);
    if (pfn !== 0) return pfn;
    inVain = ops.directReclaim(cpu, gfp) > 0 ? 0 : inVain + 1;
    if (order > COSTLY_ORDER || (inVain > 0 && !wouldDo(cpu, ops, order, reserve))) break;
  }
  return takeFrames(cpu, order);
}

/** True if there were enough frames if all was reclaimed that can be. @kernel should_reclaim_retry */
function wouldDo(cpu: Cpu, ops: ReclaimOps, order: number, reserve: number): boolean {
  const available = readOnce(cpu, ZONE, Zone.freeFrames) + ops.reclaimable(cpu);
  return available >= reserve + (1 << order);
}

/** True if kswapd should look. A hint: the count may be any moment's. @kernel zone_watermark_ok */
export function isZoneLow(cpu: Cpu): boolean {
  return readOnce(cpu, ZONE, Zone.freeFrames) < readOwn(cpu, MACHINE, Machine.watermarkLow);
}

/** True if kswapd need not do more. */
export function isZoneBalanced(cpu: Cpu): boolean {
  return readOnce(cpu, ZONE, Zone.freeFrames) >= readOwn(cpu, MACHINE, Machine.watermarkHigh);
}

/** So many frames in a row, from wherever they are, that leave the zone `reserve`; 0 if there are none. */
function takeFrames(cpu: Cpu, order: number, reserve = 0): Pfn {
  let pfn = takeBlock(cpu, order, reserve);
  if (pfn === 0) pfn = drainAndTakeBlock(cpu, order, reserve);
  if (pfn === 0) return 0;
  for (let i = 0; i < 1 << order; i++) claim(cpu, pfn + i);
  return pfn;
}

/** Gives a frame back. The caller is its only user. @kernel __free_page */
export function freePage(cpu: Cpu, pfn: Pfn): void {
  retire(cpu, pfn);
  const set = thisPageset(cpu);
  const lock = member(set, Pageset.lock);
  archSpinLock(cpu, lock);
  pushToPageset(cpu, set, pfn);
  const batch = read(cpu, MACHINE, Machine.pagesetBatch);
  if (read(cpu, set, Pageset.count) > 2 * batch) drainPageset(cpu, set, batch);
  archSpinUnlock(cpu, lock);
}

/** Gives 2^order frames back. @kernel __free_pages */
export function freePages(cpu: Cpu, pfn: Pfn, order: number): void {
  if ((pfn & ((1 << order) - 1)) !== 0) bug(`frame ${pfn} starts no block of order ${order}`);
  for (let i = 0; i < 1 << order; i++) retire(cpu, pfn + i);
  const lock = member(ZONE, Zone.lock);
  archSpinLock(cpu, lock);
  mergeBlock(cpu, pfn, order);
  archSpinUnlock(cpu, lock);
}

/** Frames nobody holds. Exact only while nobody allocates or frees. */
export function freeFrameCount(cpu: Cpu): number {
  let count = read(cpu, ZONE, Zone.freeFrames);
  const pagesets = read(cpu, MACHINE, Machine.pagesets);
  const cpus = read(cpu, MACHINE, Machine.cpus) + 1;
  for (let id = 0; id < cpus; id++) {
    count += read(cpu, pagesetOf(cpu, pagesets, id), Pageset.count);
  }
  return count;
}

/** Begins a frame's life in somebody's hands. */
function claim(cpu: Cpu, pfn: Pfn): void {
  const page = pageOf(cpu, pfn);
  if (KNOWS_FRAMES) noteAlloc(cpu, frameOf(cpu, pfn), PAGE_WORDS);
  write(cpu, page, Page.held, 1);
  writeOnce(cpu, page, Page.refcount, 1); // reclaim may still look at the frame's life before: tryIsolate
}

/** Ends a frame's life (I2). Of two who free it at once, one is found out. */
function retire(cpu: Cpu, pfn: Pfn): void {
  const page = pageOf(cpu, pfn);
  if (pfn < FIRST_FREE_PFN) bug(`frame ${pfn} is reserved and was freed`);
  if (exchange(cpu, page, Page.held, 0) === 0) bug(`frame ${pfn} is free and was freed (I1)`);
  fetchAdd(cpu, page, Page.generation, 1); // a full barrier: no poison is seen in an old generation
  fillWords(cpu, frameOf(cpu, pfn), POISON, PAGE_WORDS);
  if (KNOWS_FRAMES) noteFree(cpu, frameOf(cpu, pfn), PAGE_WORDS);
  writeOnce(cpu, page, Page.flags, 0);
  writeOnce(cpu, page, Page.refcount, 0);
  writeOnce(cpu, page, Page.mapcount, 0); // who checks address spaces may look at it, too
  write(cpu, page, Page.mapping, 0);
  write(cpu, page, Page.private, 0);
}

// --- per-CPU stocks ---

function pagesetOf(cpu: Cpu, pagesets: number, id: number): Pageset {
  return perCpuPtr<'pageset'>(cpu, pagesets, id);
}

function thisPageset(cpu: Cpu): Pageset {
  return thisCpuPtr<'pageset'>(cpu, read(cpu, MACHINE, Machine.pagesets));
}

function takeFromPageset(cpu: Cpu): Pfn {
  const set = thisPageset(cpu);
  const lock = member(set, Pageset.lock);
  archSpinLock(cpu, lock);
  const isEmpty = read(cpu, set, Pageset.count) === 0;
  if (isEmpty) refillPageset(cpu, set);
  const pfn = popFromPageset(cpu, set);
  archSpinUnlock(cpu, lock);
  if (isEmpty && pfn !== 0 && reclaims(cpu) && isZoneLow(cpu)) {
    (opsAt(cpu, read(cpu, MACHINE, Machine.reclaimOps)) as ReclaimOps).wakeKswapd(cpu);
  }
  return pfn;
}

/** Pageset.lock must be held. */
function pushToPageset(cpu: Cpu, set: Pageset, pfn: Pfn): void {
  write(cpu, pageOf(cpu, pfn), Page.next, read(cpu, set, Pageset.head));
  write(cpu, set, Pageset.head, pfn);
  write(cpu, set, Pageset.count, read(cpu, set, Pageset.count) + 1);
}

/** Pageset.lock must be held. Returns 0 if the set is empty. */
function popFromPageset(cpu: Cpu, set: Pageset): Pfn {
  const pfn = read(cpu, set, Pageset.head);
  if (pfn === 0) return 0;
  write(cpu, set, Pageset.head, read(cpu, pageOf(cpu, pfn), Page.next));
  write(cpu, set, Pageset.count, read(cpu, set, Pageset.count) - 1);
  return pfn;
}

/** Pageset.lock must be held; takes Zone.lock. */
function refillPageset(cpu: Cpu, set: Pageset): void {
  const batch = read(cpu, MACHINE, Machine.pagesetBatch);
  const lock = member(ZONE, Zone.lock);
  const reserve =
    (cpu.memallocFlags & PF_MEMALLOC) === 0 ? readOwn(cpu, MACHINE, Machine.watermarkMin) : 0;
  archSpinLock(cpu, lock);
  for (let i = 0; i < batch; i++) {
    const pfn = splitBlock(cpu, 0, reserve);
    if (pfn === 0) break;
    pushToPageset(cpu, set, pfn);
  }
  archSpinUnlock(cpu, lock);
}

/** Pageset.lock must be held; takes Zone.lock. */
function drainPageset(cpu: Cpu, set: Pageset, count: number): void {
  const lock = member(ZONE, Zone.lock);
  archSpinLock(cpu, lock);
  moveToZone(cpu, set, count);
  archSpinUnlock(cpu, lock);
}

/** Pageset.lock and Zone.lock must be held. */
function moveToZone(cpu: Cpu, set: Pageset, count: number): void {
  for (let i = 0; i < count; i++) {
    const pfn = popFromPageset(cpu, set);
    if (pfn === 0) break;
    mergeBlock(cpu, pfn, 0);
  }
}

/** Brings all free frames together and takes a block of them; 0 if there is none even so (I3). */
function drainAndTakeBlock(cpu: Cpu, order: number, reserve: number): Pfn {
  const pagesets = read(cpu, MACHINE, Machine.pagesets);
  const cpus = read(cpu, MACHINE, Machine.cpus) + 1;
  const zoneLock = member(ZONE, Zone.lock);
  for (let id = 0; id < cpus; id++) {
    archSpinLock(cpu, member(pagesetOf(cpu, pagesets, id), Pageset.lock));
  }
  archSpinLock(cpu, zoneLock);
  for (let id = 0; id < cpus; id++) {
    const set = pagesetOf(cpu, pagesets, id);
    moveToZone(cpu, set, read(cpu, set, Pageset.count));
  }
  const pfn = splitBlock(cpu, order, reserve);
  archSpinUnlock(cpu, zoneLock);
  for (let id = 0; id < cpus; id++) {
    archSpinUnlock(cpu, member(pagesetOf(cpu, pagesets, id), Pageset.lock));
  }
  return pfn;
}

// --- the zone's lists; all of these need Zone.lock ---

function takeBlock(cpu: Cpu, order: number, reserve: number): Pfn {
  const lock = member(ZONE, Zone.lock);
  archSpinLock(cpu, lock);
  const pfn = splitBlock(cpu, order, reserve);
  archSpinUnlock(cpu, lock);
  return pfn;
}

function freeArea(order: number): Ptr<'free_area'> {
  return (ZONE + Zone.areas + order * FreeArea.words) as Ptr<'free_area'>;
}

/**
 * Takes a block of the order, splitting a larger one if there is none; 0 if there is neither, or fewer than `reserve`
 * frames would be left.
 */
function splitBlock(cpu: Cpu, order: number, reserve: number): Pfn {
  if (reserve > 0 && read(cpu, ZONE, Zone.freeFrames) - (1 << order) < reserve) return 0;
  for (let from = order; from <= MAX_ORDER; from++) {
    const pfn = read(cpu, freeArea(from), FreeArea.head);
    if (pfn === 0) continue;
    removeBlock(cpu, pfn, from);
    for (let half = from - 1; half >= order; half--) pushBlock(cpu, pfn + (1 << half), half);
    return pfn;
  }
  return 0;
}

/** Frees a block, joined with its buddies as far as they are free. */
function mergeBlock(cpu: Cpu, freed: Pfn, freedOrder: number): void {
  const frameCount = read(cpu, MACHINE, Machine.frameCount);
  let pfn = freed;
  let order = freedOrder;
  while (order < MAX_ORDER) {
    const buddy = pfn ^ (1 << order);
    if (buddy + (1 << order) > frameCount || !isFreeBlock(cpu, buddy, order)) break;
    removeBlock(cpu, buddy, order);
    pfn = Math.min(pfn, buddy);
    order++;
  }
  pushBlock(cpu, pfn, order);
}

/** Looks at a frame that may be anybody's: only what is under the lock, and so PG_BUDDY, means anything. */
function isFreeBlock(cpu: Cpu, pfn: Pfn, order: number): boolean {
  const page = pageOf(cpu, pfn);
  return (
    (readOnce(cpu, page, Page.flags) & PG_BUDDY) !== 0 && read(cpu, page, Page.private) === order
  );
}

function pushBlock(cpu: Cpu, pfn: Pfn, order: number): void {
  const area = freeArea(order);
  const page = pageOf(cpu, pfn);
  const head = read(cpu, area, FreeArea.head);
  writeOnce(cpu, page, Page.flags, PG_BUDDY);
  write(cpu, page, Page.private, order);
  write(cpu, page, Page.prev, 0);
  write(cpu, page, Page.next, head);
  if (head !== 0) write(cpu, pageOf(cpu, head), Page.prev, pfn);
  write(cpu, area, FreeArea.head, pfn);
  write(cpu, area, FreeArea.count, read(cpu, area, FreeArea.count) + 1);
  writeOnce(cpu, ZONE, Zone.freeFrames, read(cpu, ZONE, Zone.freeFrames) + (1 << order)); // isZoneLow
}

function removeBlock(cpu: Cpu, pfn: Pfn, order: number): void {
  const area = freeArea(order);
  const page = pageOf(cpu, pfn);
  const next = read(cpu, page, Page.next);
  const prev = read(cpu, page, Page.prev);
  if (prev === 0) write(cpu, area, FreeArea.head, next);
  else write(cpu, pageOf(cpu, prev), Page.next, next);
  if (next !== 0) write(cpu, pageOf(cpu, next), Page.prev, prev);
  writeOnce(cpu, page, Page.flags, 0);
  write(cpu, page, Page.private, 0);
  write(cpu, area, FreeArea.count, read(cpu, area, FreeArea.count) - 1);
  writeOnce(cpu, ZONE, Zone.freeFrames, read(cpu, ZONE, Zone.freeFrames) - (1 << order));
}
