/**
 * Pages that go to the swap area because the program does not need them for now (MADV_PAGEOUT).
 *
 * Kernel     mm/madvise.c (madvise_cold_or_pageout_pte_range), mm/vmscan.c (shrink_folio_list)
 * Protocol   Each page that is mapped here alone and not pinned is isolated. It gets a slot, in whose cache it is; the
 *            notifiers hear CLEAR of it while its entry becomes the slot's. If nobody else refers to the frame then, its
 *            contents go to the slot and it is free; else the frame stays, in the swap cache. A page of a file loses
 *            its entry, and then its place in the file's cache to a slot. A page that the program has freed and not
 *            written since is dropped.
 *            Reclaim (mm/vmscan.ts) does the same with pages that it finds on the LRU lists.
 * Invariant  I1  Contents are copied when no CPU and no device writes the page: notifiers have been told, and the TLBs
 *                are flushed, before.
 * Ordering   The mmap lock for reading. Contents are copied after the entry has changed; who faults the page in before
 *            finds its frame in the cache.
 * Deviation  Pages go one after the other, where Linux collects them first.
 *
 * @module
 */
import { read } from '#memory';

import { PAGE_SIZE } from '../base/units.js';
import type { Cpu } from '../machine/cpu.js';
import {
  pageOf,
  type Pfn,
  PG_ANON,
  PG_ANON_EXCLUSIVE,
  PG_ISOLATED,
  PG_LAZYFREE,
  ZERO_PFN,
} from '../machine/page-alloc.js';
import { stackPop, stackPush } from '../machine/stack.js';
import { NULL, type Va } from '../memory/layout.js';
import {
  mmuNotifierInvalidateRangeEnd,
  mmuNotifierInvalidateRangeStart,
} from '../notifier/mmu-notifier.js';
import { MMU_NOTIFY_CLEAR, mmuNotifierRangeInit } from '../notifier/mmu-notifier-range.js';
import { MmuNotifierRange } from '../notifier/types.js';
import { trylockPage, unlockPage } from '../sync/page-lock.js';
import { spinLock, spinUnlock } from '../sync/spinlock.js';
import { fileOfPage, filePageout } from './file.js';
import {
  isWholeOrSmall,
  setTableState,
  splitFolio,
  TABLE_HUGE,
  TABLE_SMALL,
  tableState,
} from './huge.js';
import { countSwappedOut, isolateMapped, putbackLru } from './lru.js';
import { addRss } from './mm-struct.js';
import { flushTlbMm } from './mmu-gather.js';
import {
  isZoneDevicePage,
  pageClearFlags,
  pageHasFlag,
  pageMapcount,
  pageMaybePinned,
  pageRefcount,
  pageRemoveRmap,
  putPage,
} from './page.js';
import {
  nextPopulated,
  PMD_SIZE,
  pmdAddrEnd,
  pteLockptr,
  pteOf,
  PTRS_PER_TABLE,
} from './page-table.js';
import {
  makeSwapPte,
  Pte,
  PTE_ACCESSED,
  PTE_PRESENT,
  PTE_SPECIAL,
  pteGet,
  pteGetAndClear,
  ptePfn,
  pteUpdateFlags,
  setSpecialPte,
} from './pte.js';
import { unmapNotified } from './rmap-reclaim.js';
import {
  addToSwap,
  fillSlot,
  freeSwapAndCache,
  getSwapSlot,
  leaveSwap,
  writeOutSwap,
} from './swap.js';
import { MmStruct, VmAreaStruct } from './types.js';

/** Pages out what can be of [start, end) inside the VMA. The mmap lock must be held for reading. Sleeps. @kernel madvise_pageout */
export function pageoutRange(cpu: Cpu, vma: VmAreaStruct, start: Va, end: Va): void {
  const pgd = read(cpu, read(cpu, vma, VmAreaStruct.mm), MmStruct.pgd);
  for (let va = nextPopulated(cpu, pgd, start, end); va < end;) {
    const next = pmdAddrEnd(va, end);
    const first = pteOf(cpu, pgd, va);
    if (tableState(cpu, first) === TABLE_HUGE) {
      if (next - va === PMD_SIZE) pageoutHuge(cpu, vma, va, first);
      else splitFolio(cpu, vma, va);
    }
    if (tableState(cpu, first) === TABLE_HUGE) {
      va = nextPopulated(cpu, pgd, next, end); // somebody else refers to it
      continue;
    }
    for (let i = 0; i < (next - va) / PAGE_SIZE; i++) {
      const pte = (first + i * Pte.words) as Pte;
      const pfn = isolate(cpu, pte);
      if (pfn !== 0) pageoutPage(cpu, vma, va + i * PAGE_SIZE, pte, pfn);
    }
    va = nextPopulated(cpu, pgd, next, end);
  }
}

/** The program has not used [start, end) for long. The mmap lock must be held for reading. Sleeps. @kernel madvise_cold */
export function coldRange(cpu: Cpu, vma: VmAreaStruct, start: Va, end: Va): void {
  const mm = read(cpu, vma, VmAreaStruct.mm);
  const pgd = read(cpu, mm, MmStruct.pgd);
  for (let va = nextPopulated(cpu, pgd, start, end); va < end;) {
    const next = pmdAddrEnd(va, end);
    const first = pteOf(cpu, pgd, va);
    if (isWholeOrSmall(cpu, first, va, next) || splitFolio(cpu, vma, va)) {
      makeOld(cpu, first, (next - va) / PAGE_SIZE);
    }
    va = nextPopulated(cpu, pgd, next, end);
  }
  flushTlbMm(cpu, mm);
}

function makeOld(cpu: Cpu, first: Pte, count: number): void {
  const ptl = pteLockptr(cpu, first);
  spinLock(cpu, ptl);
  for (let i = 0; i < count; i++) {
    const pte = (first + i * Pte.words) as Pte;
    const entry = pteGet(cpu, pte);
    const isOurs = (entry & PTE_PRESENT) !== 0 && !isZoneDevicePage(cpu, ptePfn(entry));
    if (isOurs) pteUpdateFlags(cpu, pte, PTE_ACCESSED, 0);
  }
  spinUnlock(cpu, ptl);
}

/** Pages a whole huge page out: the notifiers hear of it once. @kernel try_to_unmap, TTU_SPLIT_HUGE_PMD */
function pageoutHuge(cpu: Cpu, vma: VmAreaStruct, va: Va, first: Pte): void {
  const slots = slotsForHuge(cpu, first);
  if (slots.length === 0) return;
  const mm = read(cpu, vma, VmAreaStruct.mm);
  const range = stackPush(cpu, MmuNotifierRange);
  mmuNotifierRangeInit(cpu, range, MMU_NOTIFY_CLEAR, mm, va, va + PMD_SIZE);
  mmuNotifierInvalidateRangeStart(cpu, range);
  const unmapped = unmapHuge(cpu, mm, first, slots);
  mmuNotifierInvalidateRangeEnd(cpu, range);
  stackPop(cpu, range);
  if (unmapped === 0) for (const slot of slots) freeSwapAndCache(cpu, slot);
  addRss(cpu, mm, -unmapped);
}

/** A slot for each page of a huge page that is mapped here alone; none if there is not one for each. */
function slotsForHuge(cpu: Cpu, first: Pte): number[] {
  const slots: number[] = [];
  for (let i = 0; i < PTRS_PER_TABLE; i++) {
    const pfn = isolate(cpu, (first + i * Pte.words) as Pte);
    const slot = pfn === 0 ? 0 : getSwapSlot(cpu);
    if (pfn !== 0) {
      pageClearFlags(cpu, pfn, PG_ISOLATED); // a huge page is on no list
      putPage(cpu, pfn);
    }
    if (slot !== 0) slots.push(slot);
    else break;
  }
  if (slots.length === PTRS_PER_TABLE) return slots;
  for (const slot of slots) freeSwapAndCache(cpu, slot);
  return [];
}

/** Replaces all entries by those of the slots, if the page is still whole and nobody else's: how many. */
function unmapHuge(cpu: Cpu, mm: MmStruct, first: Pte, slots: readonly number[]): number {
  const ptl = pteLockptr(cpu, first);
  spinLock(cpu, ptl);
  let canGo = tableState(cpu, first) === TABLE_HUGE;
  for (let i = 0; i < PTRS_PER_TABLE && canGo; i++) {
    const entry = pteGet(cpu, (first + i * Pte.words) as Pte);
    const pfn = ptePfn(entry);
    canGo = (entry & PTE_PRESENT) !== 0 && pfn !== ZERO_PFN && pageRefcount(cpu, pfn) === 1;
  }
  if (canGo) {
    const entries: number[] = [];
    for (let i = 0; i < PTRS_PER_TABLE; i++) {
      entries.push(pteGetAndClear(cpu, (first + i * Pte.words) as Pte));
    }
    flushTlbMm(cpu, mm); // I1
    for (let i = 0; i < PTRS_PER_TABLE; i++) {
      const entry = entries[i] ?? 0;
      unmapOwn(cpu, (first + i * Pte.words) as Pte, entry, ptePfn(entry), slots[i] ?? 0);
    }
    setTableState(cpu, first, TABLE_SMALL);
  }
  spinUnlock(cpu, ptl);
  return canGo ? PTRS_PER_TABLE : 0;
}

/** A page that only this entry refers to goes to the slot. The table's lock must be held. */
function unmapOwn(cpu: Cpu, pte: Pte, entry: number, pfn: Pfn, slot: number): void {
  const isExclusive = pageHasFlag(cpu, pfn, PG_ANON_EXCLUSIVE);
  fillSlot(cpu, slot, pfn);
  setSpecialPte(cpu, pte, makeSwapPte(slot, entry, isExclusive));
  pageRemoveRmap(cpu, pfn);
  putPage(cpu, pfn);
}

/** The frame of the entry, with a reference, if it is mapped here alone, can go, and is not going; else 0. @kernel folio_isolate_lru */
function isolate(cpu: Cpu, pte: Pte): Pfn {
  if ((pteGet(cpu, pte) & PTE_PRESENT) === 0) return 0;
  const ptl = pteLockptr(cpu, pte);
  spinLock(cpu, ptl);
  const entry = pteGet(cpu, pte);
  const pfn = ptePfn(entry);
  const isPage =
    (entry & (PTE_PRESENT | PTE_SPECIAL)) === PTE_PRESENT &&
    pfn !== ZERO_PFN &&
    !isZoneDevicePage(cpu, pfn);
  const mayGo = isPage && pageMapcount(cpu, pfn) === 1 && !pageMaybePinned(cpu, pfn);
  const canGo = mayGo && isolateMapped(cpu, pfn);
  spinUnlock(cpu, ptl);
  return canGo ? pfn : 0;
}

/** Unmaps the page, which is isolated, and lets its frame go. @kernel shrink_folio_list */
function pageoutPage(cpu: Cpu, vma: VmAreaStruct, va: Va, pte: Pte, pfn: Pfn): void {
  const isLocked = trylockPage(cpu, pageOf(cpu, pfn));
  const slot = isLocked ? slotForPage(cpu, pfn) : NO_SLOT;
  if (slot !== NO_SLOT) {
    const mm = read(cpu, vma, VmAreaStruct.mm);
    unmapNotified(cpu, mm, va, pte, pfn, pageHasFlag(cpu, pfn, PG_ANON) ? slot : 0);
    finishPageout(cpu, pfn, slot);
  }
  if (isLocked) unlockPage(cpu, pageOf(cpu, pfn));
  putbackLru(cpu, pfn, false);
  putPage(cpu, pfn); // ours
}

/** There is no slot for the page. */
export const NO_SLOT = -1;

/** The slot that an isolated page can go to; 0 if it needs none; NO_SLOT. For finishPageout. */
export function slotForPage(cpu: Cpu, pfn: Pfn): number {
  if (!pageHasFlag(cpu, pfn, PG_ANON)) return getSwapSlot(cpu) || NO_SLOT;
  if (pageHasFlag(cpu, pfn, PG_LAZYFREE)) return 0;
  return addToSwap(cpu, pfn) || NO_SLOT;
}

/**
 * The isolated page has been taken from who mapped it: if nobody does any more, or otherwise refers to it, its contents
 * go to the slot, and the caller's reference is the last. Something keeps its file, if it has one.
 */
export function finishPageout(cpu: Cpu, pfn: Pfn, slot: number): void {
  if (slot === 0) return;
  let isWritten = false;
  if (pageHasFlag(cpu, pfn, PG_ANON)) {
    isWritten = writeOutSwap(cpu, slot, pfn);
    leaveSwap(cpu, slot, pfn);
  } else {
    const file = fileOfPage(cpu, pfn);
    isWritten = file !== NULL && filePageout(cpu, file, pfn, slot);
    if (!isWritten) freeSwapAndCache(cpu, slot);
  }
  if (isWritten) countSwappedOut(cpu);
}
