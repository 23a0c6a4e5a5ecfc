/**
 * Huge pages: 2 MiB of anonymous memory in one folio, mapped and taken away as one.
 *
 * Kernel     mm/huge_memory.c, mm/khugepaged.c
 * Protocol   Each table of the last level has a state, in Page.private of its frame:
 *
 *              small    its entries are each for itself
 *              huge     its 512 entries map one folio, or 512 times the zero page, and stand for the one entry above
 *                       that Linux has in their place
 *              gone     it was huge, and all of it was taken away: as if there were no table
 *
 *            Where advice says so, a fault in a block that has no table, or one that is gone, maps a huge page. What
 *            concerns a part of it makes it small first (split): the notifiers hear CLEAR of the whole block, the
 *            entries stay. To split the folio too (for what is to be done with a part of it) is to do that, and
 *            then once more CLEAR of the block; pages of zeroes become the zero page.
 * Invariant  I1  The state changes under the table's lock. A huge table's entries have the same rights.
 *            I2  A table that is gone has no entries, or is about to be small again.
 * Ordering   The mmap lock is held, for reading at least, by whoever maps or splits.
 * Deviation  A huge page has 512 entries and not one: the hardware walks four levels. Its frames have references and
 *            mapcounts of their own, so a folio can lose its pages one by one.
 *
 * @module
 */
import { fillWords, read, readAddress, readOnce, writeOnce } from '#memory';

import { PAGE_SIZE, PAGE_WORDS } from '../base/units.js';
import type { Cpu } from '../machine/cpu.js';
import { frameWord } from '../machine/frame.js';
import {
  allocPages,
  frameOf,
  pageOf,
  type Pfn,
  pfnOfWord,
  PG_ANON,
  PG_ANON_EXCLUSIVE,
  PG_LARGE,
  reclaims,
  ZERO_PFN,
} from '../machine/page-alloc.js';
import { stackPop, stackPush } from '../machine/stack.js';
import { Page } from '../machine/types.js';
import { NULL, type Va } from '../memory/layout.js';
import {
  mmuNotifierInvalidateRangeEnd,
  mmuNotifierInvalidateRangeStart,
} from '../notifier/mmu-notifier.js';
import { MMU_NOTIFY_CLEAR, mmuNotifierRangeInit } from '../notifier/mmu-notifier-range.js';
import { MmuNotifierRange } from '../notifier/types.js';
import { spinLock, spinUnlock } from '../sync/spinlock.js';
import { setAnonRmap } from './anon-vma.js';
import { lruAdd } from './lru.js';
import { addRss } from './mm-struct.js';
import { flushTlbMm } from './mmu-gather.js';
import {
  pageAddRmap,
  pageClearFlags,
  pageHasFlag,
  pageMapcount,
  pageRefcount,
  pageRemoveRmap,
  pageSetFlags,
  putPage,
} from './page.js';
import { PMD_SIZE, pteLockptr, pteOf, PTRS_PER_TABLE } from './page-table.js';
import {
  makePte,
  NO_PTE,
  Pte,
  PTE_ACCESSED,
  PTE_PRESENT,
  pteGet,
  pteGetAndClear,
  pteHasFrame,
  ptePfn,
  pteUpdateFlags,
  setPte,
} from './pte.js';
import {
  MMF_UNSTABLE,
  MmStruct,
  VM_HUGEPAGE,
  VM_LOCKED,
  VM_NOHUGEPAGE,
  VM_SHARED,
  VM_SPECIAL,
  VmAreaStruct,
} from './types.js';

/** States of a table. */
export const TABLE_SMALL = 0;
export const TABLE_HUGE = 1;
export const TABLE_GONE = 2;

/** The state of the table that the entry is in. @kernel pmd_trans_huge, pmd_none */
export function tableState(cpu: Cpu, pte: Pte): number {
  return readOnce(cpu, pageOf(cpu, pfnOfWord(cpu, pte)), Page.private);
}

/** The table's lock must be held (I1). */
export function setTableState(cpu: Cpu, pte: Pte, state: number): void {
  writeOnce(cpu, pageOf(cpu, pfnOfWord(cpu, pte)), Page.private, state);
}

/** The block of 2 MiB that an address is in. */
export function blockOf(va: Va): Va {
  return Math.floor(va / PMD_SIZE) * PMD_SIZE;
}

/** True if advice wants a huge page at `va`, and the VMA has room for it. @kernel thp_vma_allowable_order */
export function wantsHugePage(cpu: Cpu, vma: VmAreaStruct, va: Va): boolean {
  const flags = read(cpu, vma, VmAreaStruct.flags);
  const isAdvised = (flags & (VM_HUGEPAGE | VM_NOHUGEPAGE)) === VM_HUGEPAGE;
  return isAdvised && canHaveHugePage(cpu, vma, va);
}

/** True if the VMA is of a kind that has huge pages, and has room for the one at `va`. */
export function canHaveHugePage(cpu: Cpu, vma: VmAreaStruct, va: Va): boolean {
  const flags = read(cpu, vma, VmAreaStruct.flags);
  if (read(cpu, vma, VmAreaStruct.file) !== NULL) return false;
  if ((flags & (VM_SHARED | VM_SPECIAL)) !== 0) return false;
  const block = blockOf(va);
  const end = readAddress(cpu, vma, VmAreaStruct.end);
  return block >= readAddress(cpu, vma, VmAreaStruct.start) && block + PMD_SIZE <= end;
}

/** The first entry of the table that the entry is in. */
export function firstOfTable(pte: Pte): Pte {
  const bytes = PTRS_PER_TABLE * Pte.words;
  return (pte - (pte % bytes)) as Pte;
}

/** True if the table has no entry; its lock must be held. */
export function isTableEmpty(cpu: Cpu, first: Pte): boolean {
  for (let i = 0; i < PTRS_PER_TABLE; i++) {
    if (pteGet(cpu, (first + i * Pte.words) as Pte) !== 0) return false;
  }
  return true;
}

/** True if [va, end) is the whole block of a huge table, or the table is not huge. */
export function isWholeOrSmall(cpu: Cpu, pte: Pte, va: Va, end: Va): boolean {
  return tableState(cpu, pte) !== TABLE_HUGE || end - va === PMD_SIZE;
}

/**
 * Makes the block of `va` small, if it is huge; the notifiers hear CLEAR of it in any case. The mmap lock must be held,
 * or the address space be one that only the caller knows. Sleeps. @kernel __split_huge_pmd
 */
export function splitHugePmd(cpu: Cpu, mm: MmStruct, va: Va): void {
  const block = blockOf(va);
  const range = stackPush(cpu, MmuNotifierRange);
  mmuNotifierRangeInit(cpu, range, MMU_NOTIFY_CLEAR, mm, block, block + PMD_SIZE);
  mmuNotifierInvalidateRangeStart(cpu, range);
  const pte = pteOf(cpu, read(cpu, mm, MmStruct.pgd), block);
  if (pte !== NO_PTE && makeSmall(cpu, pte)) addToLru(cpu, pte);
  mmuNotifierInvalidateRangeEnd(cpu, range);
  stackPop(cpu, range);
}

/** True if the table was huge. */
function makeSmall(cpu: Cpu, pte: Pte): boolean {
  const ptl = pteLockptr(cpu, pte);
  spinLock(cpu, ptl);
  const isHuge = tableState(cpu, pte) === TABLE_HUGE;
  if (isHuge) setTableState(cpu, pte, TABLE_SMALL);
  spinUnlock(cpu, ptl);
  return isHuge;
}

/** The pages that the table maps, which is small now, can be paged out one by one. */
function addToLru(cpu: Cpu, first: Pte): void {
  if (!reclaims(cpu)) return;
  const ptl = pteLockptr(cpu, first);
  spinLock(cpu, ptl);
  for (let i = 0; i < PTRS_PER_TABLE; i++) {
    const entry = pteGet(cpu, (first + i * Pte.words) as Pte);
    const pfn = pteHasFrame(entry) ? ptePfn(entry) : ZERO_PFN;
    if (pfn === ZERO_PFN || !pageHasFlag(cpu, pfn, PG_ANON)) continue;
    lruAdd(cpu, pfn);
  }
  spinUnlock(cpu, ptl);
}

// --- faults ---

/** log2 of the frames of a folio. */
const HUGE_ORDER = 9;

/** The first frame of a folio that the caller has alone; 0 if there is none. Its contents are zeroes. */
export function allocHugeFolio(cpu: Cpu): Pfn {
  const folio = allocPages(cpu, HUGE_ORDER);
  if (folio === 0) return 0;
  fillWords(cpu, frameOf(cpu, folio), 0, PTRS_PER_TABLE * PAGE_WORDS);
  for (let i = 0; i < PTRS_PER_TABLE; i++) {
    pageSetFlags(cpu, folio + i, PG_ANON | PG_ANON_EXCLUSIVE | PG_LARGE);
  }
  return folio;
}

/** Gives back a folio that was never mapped. */
export function putHugeFolio(cpu: Cpu, folio: Pfn): void {
  for (let i = 0; i < PTRS_PER_TABLE; i++) putPage(cpu, folio + i);
}

/**
 * Maps a huge page into a table without entries, with these flags: a new one, or the zero page. False if it cannot be:
 * then the fault is one of a small page. Precondition as of handleMmFault. Sleeps. @kernel do_huge_pmd_anonymous_page
 */
export function mapHugePage(
  cpu: Cpu,
  vma: VmAreaStruct,
  va: Va,
  pte: Pte,
  isZero: boolean,
  flags: number,
): boolean {
  const mm = read(cpu, vma, VmAreaStruct.mm);
  const folio = isZero ? ZERO_PFN : allocHugeFolio(cpu);
  if (folio === 0) return false;
  if (!isZero) setHugeRmap(cpu, folio, vma, blockOf(va));
  const first = firstOfTable(pte);
  const ptl = pteLockptr(cpu, first);
  spinLock(cpu, ptl);
  const isStable = (readOnce(cpu, mm, MmStruct.flags) & MMF_UNSTABLE) === 0;
  const isFree = isStable && isTableEmpty(cpu, first);
  if (isFree) setHuge(cpu, first, folio, flags);
  spinUnlock(cpu, ptl);
  if (isFree && !isZero) addRss(cpu, mm, PTRS_PER_TABLE);
  if (!isFree && !isZero) putHugeFolio(cpu, folio);
  return isFree;
}

/** Says where the pages of a new folio belong that is to be mapped at `block`. */
export function setHugeRmap(cpu: Cpu, folio: Pfn, vma: VmAreaStruct, block: Va): void {
  for (let i = 0; i < PTRS_PER_TABLE; i++) setAnonRmap(cpu, folio + i, vma, block + i * PAGE_SIZE);
}

/** All entries of an empty table map the folio. Its lock must be held (I1). @kernel set_pmd_at */
export function setHuge(cpu: Cpu, first: Pte, folio: Pfn, flags: number): void {
  for (let i = 0; i < PTRS_PER_TABLE; i++) {
    const pfn = folio === ZERO_PFN ? ZERO_PFN : folio + i;
    if (pfn !== ZERO_PFN) pageAddRmap(cpu, pfn);
    setPte(cpu, (first + i * Pte.words) as Pte, makePte(pfn, flags));
  }
  setTableState(cpu, first, TABLE_HUGE);
}

/**
 * A page of a huge page is wanted for writing, or for its own: if the folio is this address space's alone, its entries
 * get these flags; else false, and the caller splits. @kernel do_huge_pmd_wp_page
 */
export function reuseHugePage(cpu: Cpu, pte: Pte, flags: number): boolean {
  const first = firstOfTable(pte);
  const ptl = pteLockptr(cpu, first);
  spinLock(cpu, ptl);
  const reuse = tableState(cpu, first) === TABLE_HUGE && isFolioOwn(cpu, first);
  if (reuse) {
    for (let i = 0; i < PTRS_PER_TABLE; i++) {
      const entry = (first + i * Pte.words) as Pte;
      pageSetFlags(cpu, ptePfn(pteGet(cpu, entry)), PG_ANON_EXCLUSIVE);
      pteUpdateFlags(cpu, entry, 0, flags);
    }
  }
  spinUnlock(cpu, ptl);
  return reuse;
}

function isFolioOwn(cpu: Cpu, first: Pte): boolean {
  for (let i = 0; i < PTRS_PER_TABLE; i++) {
    const pfn = ptePfn(pteGet(cpu, (first + i * Pte.words) as Pte));
    if (pfn === ZERO_PFN || !pageHasFlag(cpu, pfn, PG_ANON)) return false;
    if (!pageHasFlag(cpu, pfn, PG_ANON_EXCLUSIVE) && pageRefcount(cpu, pfn) !== 1) return false;
  }
  return true;
}

// --- parts of it ---

/**
 * Makes single pages of the folio that the block of `va` maps, if it is huge, and nobody else refers to it: then false
 * means that it stays whole. Precondition as of splitHugePmd. @kernel split_folio
 */
export function splitFolio(cpu: Cpu, vma: VmAreaStruct, va: Va): boolean {
  const mm = read(cpu, vma, VmAreaStruct.mm);
  const block = blockOf(va);
  const pte = pteOf(cpu, read(cpu, mm, MmStruct.pgd), block);
  if (pte === NO_PTE || tableState(cpu, pte) !== TABLE_HUGE) return true;
  if (!canSplit(cpu, pte)) return false;
  splitHugePmd(cpu, mm, block);
  const range = stackPush(cpu, MmuNotifierRange);
  mmuNotifierRangeInit(cpu, range, MMU_NOTIFY_CLEAR, mm, block, block + PMD_SIZE);
  mmuNotifierInvalidateRangeStart(cpu, range);
  const keepsZeroes = (read(cpu, vma, VmAreaStruct.flags) & VM_LOCKED) !== 0;
  const dropped = makeSinglePages(cpu, mm, pte, keepsZeroes);
  mmuNotifierInvalidateRangeEnd(cpu, range);
  stackPop(cpu, range);
  if (dropped !== 0) addRss(cpu, mm, -dropped);
  return true;
}

/** @kernel can_split_folio */
function canSplit(cpu: Cpu, first: Pte): boolean {
  const ptl = pteLockptr(cpu, first);
  spinLock(cpu, ptl);
  let isOwn = true;
  for (let i = 0; i < PTRS_PER_TABLE && isOwn; i++) {
    const pfn = ptePfn(pteGet(cpu, (first + i * Pte.words) as Pte));
    isOwn = pfn === ZERO_PFN || (pageRefcount(cpu, pfn) === 1 && pageMapcount(cpu, pfn) === 1);
  }
  spinUnlock(cpu, ptl);
  return isOwn;
}

/** The pages belong to no folio any more; those of zeroes are dropped: how many. @kernel remap_page */
function makeSinglePages(cpu: Cpu, mm: MmStruct, first: Pte, keepsZeroes: boolean): number {
  const ptl = pteLockptr(cpu, first);
  let dropped = 0;
  spinLock(cpu, ptl);
  for (let i = 0; i < PTRS_PER_TABLE; i++) {
    const pte = (first + i * Pte.words) as Pte;
    const entry = pteGet(cpu, pte);
    const pfn = ptePfn(entry);
    if ((entry & PTE_PRESENT) === 0 || pfn === ZERO_PFN) continue;
    pageClearFlags(cpu, pfn, PG_LARGE);
    if (!keepsZeroes && isZeroFilled(cpu, pfn) && dropZeroes(cpu, mm, pte, pfn)) dropped++;
  }
  spinUnlock(cpu, ptl);
  return dropped;
}

/** Maps the zero page in the place of a page of zeroes, unless it is written at this moment. The table's lock is held. */
function dropZeroes(cpu: Cpu, mm: MmStruct, pte: Pte, pfn: Pfn): boolean {
  const entry = pteGetAndClear(cpu, pte);
  flushTlbMm(cpu, mm); // nobody writes it from here on
  const drops = isZeroFilled(cpu, pfn) && pageRefcount(cpu, pfn) === 1;
  setPte(cpu, pte, drops ? makePte(ZERO_PFN, PTE_PRESENT | (entry & PTE_ACCESSED)) : entry);
  if (!drops) return false;
  pageRemoveRmap(cpu, pfn);
  putPage(cpu, pfn);
  return true;
}

/** @kernel pages_identical, with the zero page */
function isZeroFilled(cpu: Cpu, pfn: Pfn): boolean {
  const frame = frameOf(cpu, pfn);
  for (let i = 0; i < PAGE_WORDS; i++) {
    if (readOnce(cpu, frame, frameWord(i)) !== 0) return false;
  }
  return true;
}
