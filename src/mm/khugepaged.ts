/**
 * Makes a huge page of small ones, because a program asks for it (MADV_COLLAPSE).
 *
 * Kernel     mm/khugepaged.c (madvise_collapse, collapse_huge_page)
 * Protocol   Look at the block, with the mmap lock for reading: can it be one? Bring what is in the swap area back.
 *            Then take the lock for writing, so that nobody faults, and look again whether the VMA is still there.
 *            The notifiers hear CLEAR of the block while its entries are taken away; when nobody uses the pages any
 *            more, their contents go to a new folio, which is mapped in their place.
 * Invariant  I1  A page that somebody else refers to stays where it is, and so do the others.
 * Ordering   As everywhere: notifiers, then entries, then a flush, then the copy.
 * Deviation  No thread does it by itself. All in one block or nothing: -EAGAIN if a page is in use.
 *
 * @module
 */
import { copyWords, read } from '#memory';

import { EAGAIN, EINVAL, ENOMEM } from '../base/errno.js';
import { PAGE_SIZE, PAGE_WORDS } from '../base/units.js';
import type { Cpu } from '../machine/cpu.js';
import { frameOf, type Pfn, PG_ANON, ZERO_PFN } from '../machine/page-alloc.js';
import { stackPop, stackPush } from '../machine/stack.js';
import { NULL, type Va } from '../memory/layout.js';
import {
  mmuNotifierInvalidateRangeEnd,
  mmuNotifierInvalidateRangeStart,
} from '../notifier/mmu-notifier.js';
import { MMU_NOTIFY_CLEAR, mmuNotifierRangeInit } from '../notifier/mmu-notifier-range.js';
import { MmuNotifierRange } from '../notifier/types.js';
import { spinLock, spinUnlock } from '../sync/spinlock.js';
import { lockFamily, unlockFamily } from './anon-vma.js';
import { handleMmFault, VM_FAULT_ERROR } from './fault.js';
import {
  allocHugeFolio,
  blockOf,
  canHaveHugePage,
  putHugeFolio,
  setHuge,
  setHugeRmap,
  TABLE_HUGE,
  tableState,
} from './huge.js';
import { addRss } from './mm-struct.js';
import { mmapReadLock, mmapReadUnlock, mmapWriteLock, mmapWriteUnlock } from './mmap-lock.js';
import { flushTlbMm } from './mmu-gather.js';
import { pageHasFlag, pageMapcount, pageRefcount, pageRemoveRmap, putPage } from './page.js';
import { PMD_SIZE, pteLockptr, pteOf, PTRS_PER_TABLE } from './page-table.js';
import {
  NO_PTE,
  Pte,
  PTE_ACCESSED,
  PTE_DIRTY,
  PTE_PRESENT,
  PTE_SOFT_DIRTY,
  PTE_WRITE,
  pteGet,
  pteGetAndClear,
  pteHasFrame,
  ptePfn,
  setPte,
} from './pte.js';
import { MmStruct, VM_WRITE, VmAreaStruct } from './types.js';
import { vmaLookup } from './vma.js';
import { vmaPteFlags } from './vma-pte.js';

/**
 * Makes each block inside [start, end) a huge page: 0, or the last error. The mmap lock is held for reading, and given
 * back for a while. Sleeps. @kernel madvise_collapse
 */
export function collapseBlocks(cpu: Cpu, mm: MmStruct, start: Va, end: Va): number {
  let result = 0;
  for (let block = blockOf(start + PMD_SIZE - 1); block + PMD_SIZE <= end; block += PMD_SIZE) {
    const error = collapseBlock(cpu, mm, block);
    if (error !== 0) result = error;
  }
  return result;
}

/** @kernel hpage_collapse_scan_pmd */
function collapseBlock(cpu: Cpu, mm: MmStruct, block: Va): number {
  const vma = vmaLookup(cpu, mm, block);
  if (vma === NULL || !canHaveHugePage(cpu, vma, block)) return -EINVAL;
  const pte = pteOf(cpu, read(cpu, mm, MmStruct.pgd), block);
  if (pte === NO_PTE) return -EINVAL;
  if (tableState(cpu, pte) === TABLE_HUGE) return 0;
  if (!swapBlockIn(cpu, vma, block, pte)) return -ENOMEM;
  const folio = allocHugeFolio(cpu);
  if (folio === 0) return -ENOMEM;
  mmapReadUnlock(cpu, mm);
  mmapWriteLock(cpu, mm);
  const error = collapseLocked(cpu, mm, block, folio);
  mmapWriteUnlock(cpu, mm);
  mmapReadLock(cpu, mm);
  if (error !== 0) putHugeFolio(cpu, folio);
  return error;
}

/** Brings back what is in the swap area, or with a device; false if that fails. @kernel __collapse_huge_page_swapin */
function swapBlockIn(cpu: Cpu, vma: VmAreaStruct, block: Va, first: Pte): boolean {
  for (let i = 0; i < PTRS_PER_TABLE; i++) {
    const pte = (first + i * Pte.words) as Pte;
    const entry = pteGet(cpu, pte);
    if (entry === 0 || pteHasFrame(entry)) continue;
    if ((handleMmFault(cpu, vma, block + i * PAGE_SIZE, 0) & VM_FAULT_ERROR) !== 0) return false;
  }
  return true;
}

/** The mmap lock is held for writing. @kernel collapse_huge_page */
function collapseLocked(cpu: Cpu, mm: MmStruct, block: Va, folio: Pfn): number {
  const vma = vmaLookup(cpu, mm, block);
  if (vma === NULL || !canHaveHugePage(cpu, vma, block)) return -EINVAL;
  const pte = pteOf(cpu, read(cpu, mm, MmStruct.pgd), block);
  if (pte === NO_PTE) return -EINVAL;
  if (tableState(cpu, pte) === TABLE_HUGE) return -EAGAIN; // somebody else was faster
  const anonVma = read(cpu, vma, VmAreaStruct.anonVma);
  lockFamily(cpu, anonVma);
  const found = checkBlock(cpu, pte);
  const error = found !== 0 ? found : exchangeBlock(cpu, vma, block, pte, folio);
  unlockFamily(cpu, anonVma);
  return error;
}

/** The block has pages that can be exchanged for a folio. The lock of the family is held. */
function exchangeBlock(cpu: Cpu, vma: VmAreaStruct, block: Va, pte: Pte, folio: Pfn): number {
  const mm = read(cpu, vma, VmAreaStruct.mm);
  const range = stackPush(cpu, MmuNotifierRange);
  mmuNotifierRangeInit(cpu, range, MMU_NOTIFY_CLEAR, mm, block, block + PMD_SIZE);
  mmuNotifierInvalidateRangeStart(cpu, range);
  setHugeRmap(cpu, folio, vma, block);
  const before = replaceBlock(cpu, mm, pte, folio, hugeFlags(read(cpu, vma, VmAreaStruct.flags)));
  mmuNotifierInvalidateRangeEnd(cpu, range);
  stackPop(cpu, range);
  if (before < 0) return -EAGAIN;
  addRss(cpu, mm, PTRS_PER_TABLE - before);
  return 0;
}

function hugeFlags(vmFlags: number): number {
  const writable = (vmFlags & VM_WRITE) !== 0 ? PTE_WRITE : 0;
  return vmaPteFlags(vmFlags) | writable | PTE_ACCESSED | PTE_DIRTY | PTE_SOFT_DIRTY;
}

/** 0; -EINVAL if the block has nothing that may be written, or what is not memory; -EAGAIN if a page is in use. */
function checkBlock(cpu: Cpu, first: Pte): number {
  let isWritable = false;
  for (let i = 0; i < PTRS_PER_TABLE; i++) {
    const entry = pteGet(cpu, (first + i * Pte.words) as Pte);
    if (entry === 0) continue;
    if ((entry & PTE_PRESENT) === 0) return -EINVAL;
    if ((entry & PTE_WRITE) !== 0) isWritable = true;
    const pfn = ptePfn(entry);
    if (pfn === ZERO_PFN) continue;
    if (!pageHasFlag(cpu, pfn, PG_ANON)) return -EINVAL;
    if (isInUse(cpu, pfn)) return -EAGAIN;
  }
  return isWritable ? 0 : -EINVAL;
}

/** True if somebody refers to the page otherwise than by entries (I1). */
function isInUse(cpu: Cpu, pfn: Pfn): boolean {
  return pageRefcount(cpu, pfn) !== pageMapcount(cpu, pfn);
}

/** Puts the folio in the place of the small pages, whose contents it gets: how many there were; -1 if one is in use. */
function replaceBlock(cpu: Cpu, mm: MmStruct, first: Pte, folio: Pfn, flags: number): number {
  const ptl = pteLockptr(cpu, first);
  const entries: number[] = [];
  spinLock(cpu, ptl);
  let isFree = true;
  for (let i = 0; i < PTRS_PER_TABLE; i++) {
    const entry = pteGetAndClear(cpu, (first + i * Pte.words) as Pte);
    entries.push(entry);
    const pfn = ptePfn(entry);
    if (entry !== 0 && pfn !== ZERO_PFN && isInUse(cpu, pfn)) isFree = false;
  }
  flushTlbMm(cpu, mm);
  let pages = -1;
  if (isFree) {
    pages = copyBlock(cpu, entries, folio);
    setHuge(cpu, first, folio, flags);
  } else {
    for (let i = 0; i < PTRS_PER_TABLE; i++) {
      const entry = entries[i] ?? 0;
      if (entry !== 0) setPte(cpu, (first + i * Pte.words) as Pte, entry);
    }
  }
  spinUnlock(cpu, ptl);
  return pages;
}

function copyBlock(cpu: Cpu, entries: readonly number[], folio: Pfn): number {
  let pages = 0;
  for (let i = 0; i < PTRS_PER_TABLE; i++) {
    const pfn = ptePfn(entries[i] ?? 0);
    if (pfn === 0 || pfn === ZERO_PFN) continue;
    copyWords(cpu, frameOf(cpu, folio + i), frameOf(cpu, pfn), PAGE_WORDS);
    pageRemoveRmap(cpu, pfn);
    putPage(cpu, pfn);
    pages++;
  }
  return pages;
}
