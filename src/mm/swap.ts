/**
 * The swap area: where anonymous pages, and pages of files, are kept while they are in no frame.
 *
 * Kernel     mm/swapfile.c, mm/swap_state.c
 * Protocol   A slot holds one page. Its count says how many page table entries, or places in a file, name it. A slot
 *            may have a frame with the same contents in the swap cache: that of a page which somebody still refers
 *            to, or which was brought back while other entries still name the slot. A slot is free again when its
 *            count is 0 and it has no frame.
 *              page out      addToSwap: the frame is in the cache; each entry becomes the slot's; when none maps the
 *                            frame, writeOutSwap, and the frame stays in the cache if somebody still refers to it;
 *                            leaveSwap
 *              bring back    the cached frame, or swapCacheFill: always by way of the cache; with the table's lock, look
 *                            whether the entry is still the slot's, and the frame still the slot's too (I3); the entry
 *                            maps it; swapFree
 *              fork          swapDuplicate
 *              unmap         freeSwapAndCache
 * Invariant  I1  The frame of a slot has PG_SWAPCACHE and the slot in Page.private, and one reference of the cache.
 *            I2  A slot of which the last entry goes gives up its frame, if that is mapped nowhere; and a frame that
 *                is mapped nowhere any more gives up its slot, if no entry names it. Each first does its own part
 *                and then looks at the other's, so one of two finds both done.
 *            I3  Whoever maps a frame for an entry that names a slot has seen, under the table's lock, that the frame is
 *                the slot's in the cache. That the entry looks as before is not enough: meanwhile the page may have
 *                come back, been written, and gone to the same slot again.
 * Ordering   One lock for all slots; page table locks and a file's pagesLock may be held around it. Contents of a slot
 *            are written before its entry is set and read while an entry names it.
 * Deviation  The area is memory beside the frames, so nothing waits for a disk. No readahead, no clusters.
 *
 * @module
 */
import { copyWords, fetchAdd, fillWords, read, readOnce, write, writeOnce } from '#memory';
import { BUSTED_PAGEOUT, isMutant } from '#mutants';

import { bug } from '../base/bug.js';
import { PAGE_WORDS } from '../base/units.js';
import type { Cpu } from '../machine/cpu.js';
import type { Frame } from '../machine/frame.js';
import { lockClass } from '../machine/lock-class.js';
import { frameOf, pageOf, type Pfn, PG_SWAPCACHE } from '../machine/page-alloc.js';
import { MACHINE, Machine, Page, SWAP_HEAD_WORDS, SWAP_SLOT_WORDS } from '../machine/types.js';
import { type Field, member, type Ptr, struct, word } from '../memory/layout.js';
import { initSpinlock, Spinlock, spinLock, spinUnlock } from '../sync/spinlock.js';
import {
  getPage,
  pageClearFlags,
  pageHasFlag,
  pageMapcount,
  pageRefcount,
  pageSetFlags,
  putPage,
} from './page.js';

/** The area. Its slots and what they hold follow. @kernel struct swap_info_struct */
const SwapInfo = struct('swap_info', {
  lock: Spinlock, // all of the below
  used: word, // slots in use
  next: word, // where the search for a free slot begins
});
type SwapInfo = Ptr<'swap_info'>;

/** One slot. */
const SwapSlot = struct('swap_slot', {
  count: word, // entries that name it
  frame: word, // its frame in the swap cache; 0 = none; SLOT_EMPTY
});
type SwapSlot = Ptr<'swap_slot'>;

/** The slot is somebody's, who has not written it yet. @kernel SWAP_HAS_CACHE */
const SLOT_EMPTY = -1;

// the machine lays the area out without knowing what is in it
const FITS = SwapInfo.words <= SWAP_HEAD_WORDS && SwapSlot.words === SWAP_SLOT_WORDS;
if (!FITS) bug('what is kept of swap slots does not fit into the area');

const SWAP_LOCK = lockClass('swap_info->lock');

/** Makes the area ready, if the machine has one. Runs once, on the boot CPU. */
export function bootSwap(cpu: Cpu): void {
  if (slotCount(cpu) > 0) initSpinlock(cpu, member(infoOf(cpu), SwapInfo.lock), SWAP_LOCK);
}

function slotCount(cpu: Cpu): number {
  return read(cpu, MACHINE, Machine.swapSlots);
}

function infoOf(cpu: Cpu): SwapInfo {
  return read(cpu, MACHINE, Machine.swapArea) as SwapInfo;
}

/** Slots have numbers from 1. */
function slotOf(cpu: Cpu, slot: number): SwapSlot {
  if (slot < 1 || slot > slotCount(cpu)) bug(`there is no swap slot ${slot}`);
  return (infoOf(cpu) + SWAP_HEAD_WORDS + (slot - 1) * SWAP_SLOT_WORDS) as SwapSlot;
}

function contentsOf(cpu: Cpu, slot: number): number {
  const data = infoOf(cpu) + SWAP_HEAD_WORDS + slotCount(cpu) * SWAP_SLOT_WORDS;
  return data + (slot - 1) * PAGE_WORDS;
}

/** Slots that are in use. */
export function swapUsed(cpu: Cpu): number {
  return slotCount(cpu) === 0 ? 0 : readOnce(cpu, infoOf(cpu), SwapInfo.used);
}

/** True if some slot is free. A hint. */
export function hasSwapRoom(cpu: Cpu): boolean {
  return swapUsed(cpu) < slotCount(cpu);
}

/**
 * A slot that the caller counts as an entry of, or 0 if all are in use, or there is no area. It is empty until
 * fillSlot; or, with a frame, that is in the slot's cache at once. @kernel folio_alloc_swap
 */
export function getSwapSlot(cpu: Cpu, pfn: Pfn = 0): number {
  const slots = slotCount(cpu);
  if (slots === 0) return 0;
  const info = infoOf(cpu);
  spinLock(cpu, member(info, SwapInfo.lock));
  const found = findFree(cpu, info, slots);
  if (found !== 0) {
    write(cpu, slotOf(cpu, found), SwapSlot.count, 1);
    write(cpu, slotOf(cpu, found), SwapSlot.frame, SLOT_EMPTY); // who comes with an old entry sees nothing
    if (pfn !== 0) putIntoCache(cpu, slotOf(cpu, found), found, pfn);
    write(cpu, info, SwapInfo.next, found % slots);
    writeOnce(cpu, info, SwapInfo.used, read(cpu, info, SwapInfo.used) + 1); // swapUsed
  }
  spinUnlock(cpu, member(info, SwapInfo.lock));
  return found;
}

/** The first free slot from where the last search ended. The lock must be held. */
function findFree(cpu: Cpu, info: SwapInfo, slots: number): number {
  if (read(cpu, info, SwapInfo.used) === slots) return 0;
  const first = read(cpu, info, SwapInfo.next);
  for (let i = 0; i < slots; i++) {
    const slot = ((first + i) % slots) + 1;
    const at = slotOf(cpu, slot);
    if (read(cpu, at, SwapSlot.count) === 0 && read(cpu, at, SwapSlot.frame) === 0) return slot;
  }
  return 0;
}

/** Another entry names the slot. @kernel swap_duplicate */
export function swapDuplicate(cpu: Cpu, slot: number): void {
  const lock = member(infoOf(cpu), SwapInfo.lock);
  spinLock(cpu, lock);
  const at = slotOf(cpu, slot);
  write(cpu, at, SwapSlot.count, read(cpu, at, SwapSlot.count) + 1);
  spinUnlock(cpu, lock);
}

/** An entry names the slot no more; its frame stays in the swap cache. @kernel swap_free */
export function swapFree(cpu: Cpu, slot: number): void {
  dropEntry(cpu, slot, false);
}

/** As above; a frame of the last one's that is mapped nowhere goes too (I2). @kernel free_swap_and_cache */
export function freeSwapAndCache(cpu: Cpu, slot: number): void {
  dropEntry(cpu, slot, true);
}

function dropEntry(cpu: Cpu, slot: number, dropsFrame: boolean): void {
  const info = infoOf(cpu);
  const lock = member(info, SwapInfo.lock);
  spinLock(cpu, lock);
  const at = slotOf(cpu, slot);
  const count = read(cpu, at, SwapSlot.count) - 1;
  if (count < 0) bug(`swap slot ${slot} is named by nobody and was freed`);
  write(cpu, at, SwapSlot.count, count);
  if (read(cpu, at, SwapSlot.frame) === SLOT_EMPTY) write(cpu, at, SwapSlot.frame, 0);
  const pfn = read(cpu, at, SwapSlot.frame);
  const mayDrop = pfn !== 0 && dropsFrame && readOnce(cpu, pageOf(cpu, pfn), Page.mapcount) === 0;
  if (count === 0 && mayDrop) removeFrame(cpu, at, pfn);
  if (count === 0 && (pfn === 0 || mayDrop)) releaseSlot(cpu, info);
  spinUnlock(cpu, lock);
  if (count === 0 && mayDrop) putPage(cpu, pfn);
}

/** The lock must be held. The cache's reference is the caller's to put afterwards. */
function removeFrame(cpu: Cpu, at: SwapSlot, pfn: Pfn): void {
  write(cpu, at, SwapSlot.frame, 0);
  pageClearFlags(cpu, pfn, PG_SWAPCACHE);
  writeOnce(cpu, pageOf(cpu, pfn), Page.private, 0);
}

function releaseSlot(cpu: Cpu, info: SwapInfo): void {
  writeOnce(cpu, info, SwapInfo.used, read(cpu, info, SwapInfo.used) - 1);
}

/** How many entries name the slot. @kernel __swap_count */
export function swapCount(cpu: Cpu, slot: number): number {
  return readOnce(cpu, slotOf(cpu, slot), SwapSlot.count);
}

// --- the swap cache ---

function putIntoCache(cpu: Cpu, at: SwapSlot, slot: number, pfn: Pfn): void {
  getPage(cpu, pfn); // the cache's
  writeOnce(cpu, pageOf(cpu, pfn), Page.private, slot);
  pageSetFlags(cpu, pfn, PG_SWAPCACHE);
  write(cpu, at, SwapSlot.frame, pfn);
}

/**
 * Reads the slot into the frame, which nobody else knows, and into the cache with it; if the slot has a frame by now,
 * that is the answer, with a reference. 0 if no entry names the slot any more. @kernel swap_cache_alloc_folio
 */
export function swapCacheFill(cpu: Cpu, slot: number, fresh: Pfn): Pfn {
  const lock = member(infoOf(cpu), SwapInfo.lock);
  spinLock(cpu, lock);
  const at = slotOf(cpu, slot);
  let pfn = read(cpu, at, SwapSlot.frame);
  if (pfn > 0) getPage(cpu, pfn);
  else if (pfn < 0) pfn = 0;
  else if (read(cpu, at, SwapSlot.count) > 0) {
    pfn = fresh;
    readSlot(cpu, slot, pfn);
    putIntoCache(cpu, at, slot, pfn);
  }
  spinUnlock(cpu, lock);
  return pfn;
}

/** True if the frame is the slot's in the cache. Stays so while an entry names the slot and the caller has a reference. */
export function isInSwapCache(cpu: Cpu, slot: number, pfn: Pfn): boolean {
  const isCached = pageHasFlag(cpu, pfn, PG_SWAPCACHE);
  return isCached && readOnce(cpu, pageOf(cpu, pfn), Page.private) === slot;
}

/**
 * A slot for the page, in whose cache it is from here on; the caller counts as an entry of it. 0 if there is none. The
 * caller has isolated the page. @kernel add_to_swap
 */
export function addToSwap(cpu: Cpu, pfn: Pfn): number {
  const cached = holdCached(cpu, pfn);
  if (cached !== 0) return cached;
  return getSwapSlot(cpu, pfn);
}

/** The slot of a page that is in the cache, which counts the caller from now on; else 0. */
function holdCached(cpu: Cpu, pfn: Pfn): number {
  if (!pageHasFlag(cpu, pfn, PG_SWAPCACHE)) return 0;
  const lock = member(infoOf(cpu), SwapInfo.lock);
  let slot = 0;
  spinLock(cpu, lock);
  if (pageHasFlag(cpu, pfn, PG_SWAPCACHE)) {
    slot = readOnce(cpu, pageOf(cpu, pfn), Page.private);
    const at = slotOf(cpu, slot);
    write(cpu, at, SwapSlot.count, read(cpu, at, SwapSlot.count) + 1);
  }
  spinUnlock(cpu, lock);
  return slot;
}

/**
 * The contents of a page that no entry maps go to its slot, and the page leaves the cache: unless somebody has a
 * reference to it beside the cache and the caller. True if it has left. @kernel pageout, __remove_mapping
 */
export function writeOutSwap(cpu: Cpu, slot: number, pfn: Pfn): boolean {
  const lock = member(infoOf(cpu), SwapInfo.lock);
  spinLock(cpu, lock);
  const at = slotOf(cpu, slot);
  const isAlone = pageRefcount(cpu, pfn) === 2 && pageMapcount(cpu, pfn) === 0;
  const leaves = isAlone && read(cpu, at, SwapSlot.frame) === pfn;
  if (leaves) {
    if (!isMutant(cpu, BUSTED_PAGEOUT)) writeSlot(cpu, slot, pfn);
    removeFrame(cpu, at, pfn);
  }
  spinUnlock(cpu, lock);
  if (leaves) putPage(cpu, pfn);
  return leaves;
}

/** Ends what addToSwap began: the caller counts no more, and a page that no entry needs there leaves the cache. */
export function leaveSwap(cpu: Cpu, slot: number, pfn: Pfn): void {
  swapFree(cpu, slot);
  pageFreeSwap(cpu, pfn);
}

/** The slot's frame, with a reference for the caller, or 0. @kernel swap_cache_get_folio */
export function swapCacheGet(cpu: Cpu, slot: number): Pfn {
  const lock = member(infoOf(cpu), SwapInfo.lock);
  spinLock(cpu, lock);
  const pfn = Math.max(0, read(cpu, slotOf(cpu, slot), SwapSlot.frame));
  if (pfn !== 0) fetchAdd(cpu, pageOf(cpu, pfn), Page.refcount, 1);
  spinUnlock(cpu, lock);
  return pfn;
}

/**
 * Takes a frame out of the swap cache that no entry needs there any more; true if it is in none now. The caller has a
 * reference. @kernel folio_free_swap
 */
export function pageFreeSwap(cpu: Cpu, pfn: Pfn): boolean {
  if (!pageHasFlag(cpu, pfn, PG_SWAPCACHE)) return true;
  const info = infoOf(cpu);
  const lock = member(info, SwapInfo.lock);
  spinLock(cpu, lock);
  const isIn = pageHasFlag(cpu, pfn, PG_SWAPCACHE); // another may have been faster
  const at = isIn ? slotOf(cpu, readOnce(cpu, pageOf(cpu, pfn), Page.private)) : (0 as SwapSlot);
  const frees = isIn && read(cpu, at, SwapSlot.count) === 0;
  if (frees) {
    removeFrame(cpu, at, pfn);
    releaseSlot(cpu, info);
  }
  spinUnlock(cpu, lock);
  if (frees) putPage(cpu, pfn);
  return !isIn || frees;
}

/** A frame has been unmapped: gives its slot up, if it is mapped nowhere (I2). @kernel free_swap_cache */
export function freeSwapCache(cpu: Cpu, pfn: Pfn): void {
  if (!pageHasFlag(cpu, pfn, PG_SWAPCACHE)) return;
  if (readOnce(cpu, pageOf(cpu, pfn), Page.mapcount) === 0) pageFreeSwap(cpu, pfn);
}

// --- contents ---

/** A word of the page that the slot holds: for checks, while nobody else runs. */
export function peekSwap(cpu: Cpu, slot: number, field: Field<'frame'>): number {
  const pfn = read(cpu, slotOf(cpu, slot), SwapSlot.frame);
  const from = pfn === 0 ? (contentsOf(cpu, slot) as Frame) : frameOf(cpu, pfn);
  return read(cpu, from, field);
}

/** Keeps a frame's contents in the slot. Nobody may write the frame. */
export function writeSlot(cpu: Cpu, slot: number, pfn: Pfn): void {
  copyWords(cpu, contentsOf(cpu, slot), frameOf(cpu, pfn), PAGE_WORDS);
}

/** Keeps a frame's contents in a slot that is empty so far. Nobody may write the frame. */
export function fillSlot(cpu: Cpu, slot: number, pfn: Pfn): void {
  writeSlot(cpu, slot, pfn);
  const lock = member(infoOf(cpu), SwapInfo.lock);
  spinLock(cpu, lock);
  write(cpu, slotOf(cpu, slot), SwapSlot.frame, 0);
  spinUnlock(cpu, lock);
}

/** Brings them back into another frame, which nobody else knows. */
export function readSlot(cpu: Cpu, slot: number, pfn: Pfn): void {
  fillWords(cpu, frameOf(cpu, pfn), 0, PAGE_WORDS);
  copyWords(cpu, frameOf(cpu, pfn), contentsOf(cpu, slot), PAGE_WORDS);
}
