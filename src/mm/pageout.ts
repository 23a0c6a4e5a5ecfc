/**
 * Pages that go to the swap area because the program does not need them for now (MADV_PAGEOUT).
 *
 * Kernel     mm/madvise.c (madvise_cold_or_pageout_pte_range), mm/vmscan.c (shrink_folio_list), mm/rmap.c
 *            (try_to_unmap_one)
 * Protocol   For each page that is mapped here alone and not pinned: the notifiers hear CLEAR of it while its entry
 *            becomes that of a swap slot. If nobody else refers to the frame, its contents go to the slot and it is
 *            free; else the frame stays, in the swap cache. A page of a file loses its entry, and then its place in
 *            the file's cache to a slot. A page that the program has freed and not written since is dropped.
 * Invariant  I1  Contents are copied when no CPU and no device writes the page: notifiers have been told, and the TLBs
 *                are flushed, before.
 * Ordering   The mmap lock for reading. The entry changes under its table's lock, under which the contents are copied,
 *            so who faults the page in finds them.
 * Deviation  Pages go one after the other, where Linux collects them first. What several address spaces map stays: so
 *            does what reclaim would have to find by reverse maps.
 *
 * @module
 */
import { read } from '#memory';
import { BUSTED_PAGEOUT, isMutant } from '#mutants';

import { PAGE_SIZE } from '../base/units.js';
import type { Cpu } from '../machine/cpu.js';
import {
  type Pfn,
  PG_ANON,
  PG_ANON_EXCLUSIVE,
  PG_ISOLATED,
  PG_LAZYFREE,
  ZERO_PFN,
} from '../machine/page-alloc.js';
import { stackPop, stackPush } from '../machine/stack.js';
import type { Va } from '../memory/layout.js';
import {
  mmuNotifierInvalidateRangeEnd,
  mmuNotifierInvalidateRangeStart,
} from '../notifier/mmu-notifier.js';
import { MMU_NOTIFY_CLEAR, mmuNotifierRangeInit } from '../notifier/mmu-notifier-range.js';
import { MmuNotifierRange } from '../notifier/types.js';
import { spinLock, spinUnlock } from '../sync/spinlock.js';
import { filePageout } from './file.js';
import {
  isWholeOrSmall,
  setTableState,
  splitFolio,
  TABLE_HUGE,
  TABLE_SMALL,
  tableState,
} from './huge.js';
import { addRss } from './mm-struct.js';
import { flushTlbMm, flushTlbPage } from './mmu-gather.js';
import {
  getPage,
  isZoneDevicePage,
  pageClearFlags,
  pageHasFlag,
  pageMapcount,
  pageMaybePinned,
  pageRefcount,
  pageRemoveRmap,
  pageSetFlags,
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
  PTE_DIRTY,
  PTE_PRESENT,
  PTE_SPECIAL,
  pteGet,
  pteGetAndClear,
  ptePfn,
  pteUpdateFlags,
  setPte,
  setSpecialPte,
} from './pte.js';
import { freeSwapAndCache, getSwapSlot, swapCacheAdd, writeSlot } from './swap.js';
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
    if (pfn !== 0) putIsolated(cpu, pfn);
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
      unmapInto(cpu, (first + i * Pte.words) as Pte, entry, ptePfn(entry), slots[i] ?? 0);
      putPage(cpu, ptePfn(entry));
    }
    setTableState(cpu, first, TABLE_SMALL);
  }
  spinUnlock(cpu, ptl);
  return canGo ? PTRS_PER_TABLE : 0;
}

/** The frame of the entry, with a reference, if it is mapped here alone, can go, and is not going; else 0. @kernel folio_isolate_lru */
function isolate(cpu: Cpu, pte: Pte): Pfn {
  if ((pteGet(cpu, pte) & PTE_PRESENT) === 0) return 0;
  const ptl = pteLockptr(cpu, pte);
  spinLock(cpu, ptl);
  const entry = pteGet(cpu, pte);
  const pfn = ptePfn(entry);
  const isPage = (entry & (PTE_PRESENT | PTE_SPECIAL)) === PTE_PRESENT && pfn !== ZERO_PFN;
  const canGo =
    isPage &&
    !isZoneDevicePage(cpu, pfn) &&
    pageMapcount(cpu, pfn) === 1 &&
    !pageMaybePinned(cpu, pfn) &&
    !pageHasFlag(cpu, pfn, PG_ISOLATED);
  if (canGo) {
    getPage(cpu, pfn);
    pageSetFlags(cpu, pfn, PG_ISOLATED);
  }
  spinUnlock(cpu, ptl);
  return canGo ? pfn : 0;
}

/** Gives back what isolate took. @kernel folio_putback_lru */
function putIsolated(cpu: Cpu, pfn: Pfn): void {
  pageClearFlags(cpu, pfn, PG_ISOLATED);
  putPage(cpu, pfn);
}

/** Unmaps the page and lets its frame go. We have a reference to it, which is put. @kernel shrink_folio_list */
function pageoutPage(cpu: Cpu, vma: VmAreaStruct, va: Va, pte: Pte, pfn: Pfn): void {
  const isAnon = pageHasFlag(cpu, pfn, PG_ANON);
  const isFreed = isAnon && pageHasFlag(cpu, pfn, PG_LAZYFREE);
  const slot = isFreed ? 0 : getSwapSlot(cpu);
  if (slot === 0 && !isFreed) {
    putIsolated(cpu, pfn); // there is no room
    return;
  }
  const mm = read(cpu, vma, VmAreaStruct.mm);
  const range = stackPush(cpu, MmuNotifierRange);
  mmuNotifierRangeInit(cpu, range, MMU_NOTIFY_CLEAR, mm, va, va + PAGE_SIZE);
  mmuNotifierInvalidateRangeStart(cpu, range);
  const isUnmapped = tryToUnmap(cpu, mm, va, pte, pfn, isAnon ? slot : 0);
  mmuNotifierInvalidateRangeEnd(cpu, range);
  stackPop(cpu, range);
  if (isUnmapped) addRss(cpu, mm, -1);
  const isKept = isUnmapped && (isAnon || filePageout(cpu, pfn, slot));
  if (slot !== 0 && !isKept) freeSwapAndCache(cpu, slot);
  if (isUnmapped) putPage(cpu, pfn); // the entry's
  putIsolated(cpu, pfn); // ours
}

/** Replaces the entry by that of the slot, or by none; false if it has to stay. @kernel try_to_unmap_one */
function tryToUnmap(cpu: Cpu, mm: MmStruct, va: Va, pte: Pte, pfn: Pfn, slot: number): boolean {
  const ptl = pteLockptr(cpu, pte);
  spinLock(cpu, ptl);
  const seen = pteGet(cpu, pte);
  const isSame = (seen & PTE_PRESENT) !== 0 && ptePfn(seen) === pfn;
  let isUnmapped = isSame && !pageMaybePinned(cpu, pfn);
  if (isMutant(cpu, BUSTED_PAGEOUT) && isUnmapped && slot !== 0) writeSlot(cpu, slot, pfn);
  if (isUnmapped) {
    const entry = pteGetAndClear(cpu, pte);
    flushTlbPage(cpu, mm, va); // I1
    isUnmapped = slot !== 0 || !pageHasFlag(cpu, pfn, PG_LAZYFREE) || (entry & PTE_DIRTY) === 0;
    if (isUnmapped) unmapInto(cpu, pte, entry, pfn, slot);
    else restore(cpu, pte, entry, pfn);
  }
  spinUnlock(cpu, ptl);
  return isUnmapped;
}

/** The program has written what it had freed: it needs it after all. */
function restore(cpu: Cpu, pte: Pte, entry: number, pfn: Pfn): void {
  pageClearFlags(cpu, pfn, PG_LAZYFREE);
  setPte(cpu, pte, entry);
}

/** The contents go to the slot, if there is one. The table's lock must be held. */
function unmapInto(cpu: Cpu, pte: Pte, entry: number, pfn: Pfn, slot: number): void {
  if (slot !== 0) {
    const isExclusive = pageHasFlag(cpu, pfn, PG_ANON_EXCLUSIVE);
    // the entry's reference, and our own if the page goes by itself
    const isAlone = pageRefcount(cpu, pfn) <= 2;
    if (!isAlone) swapCacheAdd(cpu, slot, pfn);
    if (!isMutant(cpu, BUSTED_PAGEOUT) && isAlone) writeSlot(cpu, slot, pfn);
    pageClearFlags(cpu, pfn, PG_ANON_EXCLUSIVE);
    setSpecialPte(cpu, pte, makeSwapPte(slot, entry, isExclusive));
  }
  pageRemoveRmap(cpu, pfn);
}
