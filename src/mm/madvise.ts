/**
 * madvise: what a program expects to do with its memory.
 *
 * Kernel     mm/madvise.c
 * Protocol   The range is gone through VMA by VMA; a hole does not stop it, but makes it return -ENOMEM
 *            at the end. DONTNEED drops contents; FREE marks them as not needed; POPULATE faults in;
 *            advice that is kept in the VMA's flags splits and merges VMAs; the rest is validated, and
 *            accepted or refused as Linux does, without an effect that a program could see.
 * Ordering   Advice that changes VMAs takes the mmap lock for writing, the rest for reading.
 * Deviation  COLD makes pages old where they are, and does not move them on the LRU lists: reclaim finds that they are
 *            not used when it comes to them.
 *
 * @module
 */
import { read, write } from '#memory';
import { BUSTED_FREE_SHARED, isMutant } from '#mutants';

import { EACCES, EAGAIN, EFAULT, EINVAL, ENOMEM } from '../base/errno.js';
import { isPageAligned, PAGE_SIZE, pageAlignUp } from '../base/units.js';
import type { Cpu } from '../machine/cpu.js';
import { pageOf, type Pfn, PG_ANON, PG_LAZYFREE, ZERO_PFN } from '../machine/page-alloc.js';
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
import { fileIndex } from './fault.js';
import { fput, getFile } from './file.js';
import { isWholeOrSmall, splitFolio } from './huge.js';
import { collapseBlocks } from './khugepaged.js';
import { mmapReadLock, mmapReadUnlock, mmapWriteLock, mmapWriteUnlock } from './mmap-lock.js';
import { flushTlbMm } from './mmu-gather.js';
import { isZoneDevicePage, pageHasFlag, pageMapcount, pageSetFlags } from './page.js';
import { nextPopulated, PMD_SIZE, pmdAddrEnd, pteLockptr, pteOf } from './page-table.js';
import { coldRange, pageoutRange } from './pageout.js';
import { faultinPage } from './populate.js';
import {
  Pte,
  PTE_ACCESSED,
  PTE_DIRTY,
  PTE_PRESENT,
  pteGet,
  pteGetAndClear,
  pteIsSwap,
  ptePfn,
  pteSlot,
  pteUpdateFlags,
} from './pte.js';
import { freeSwapAndCache, pageFreeSwap } from './swap.js';
import { fallocate } from './truncate.js';
import {
  MmStruct,
  VM_DONTCOPY,
  VM_DONTDUMP,
  VM_DONTEXPAND,
  VM_HUGEPAGE,
  VM_HUGETLB,
  VM_IO,
  VM_LOCKED,
  VM_MAYSHARE,
  VM_MAYWRITE,
  VM_MERGEABLE,
  VM_MIXEDMAP,
  VM_NOHUGEPAGE,
  VM_PFNMAP,
  VM_RAND_READ,
  VM_READ,
  VM_SEQ_READ,
  VM_SHARED,
  VM_SPECIAL,
  VM_WIPEONFORK,
  VM_WRITE,
  VmAreaStruct,
} from './types.js';
import {
  FALLOC_FL_PUNCH_HOLE,
  MADV_COLD,
  MADV_COLLAPSE,
  MADV_DODUMP,
  MADV_DOFORK,
  MADV_DONTDUMP,
  MADV_DONTFORK,
  MADV_DONTNEED,
  MADV_DONTNEED_LOCKED,
  MADV_FREE,
  MADV_HUGEPAGE,
  MADV_KEEPONFORK,
  MADV_MERGEABLE,
  MADV_NOHUGEPAGE,
  MADV_NORMAL,
  MADV_PAGEOUT,
  MADV_POPULATE_READ,
  MADV_POPULATE_WRITE,
  MADV_RANDOM,
  MADV_REMOVE,
  MADV_SEQUENTIAL,
  MADV_UNMERGEABLE,
  MADV_WILLNEED,
  MADV_WIPEONFORK,
} from './uapi.js';
import { findVma, vmaEnd, vmaModify, vmaStart } from './vma.js';
import { zapPageRangeSingle } from './zap.js';

/** Advice that needs the mmap lock for reading only. @kernel madvise_need_mmap_write */
const READ_LOCK_ADVICE: ReadonlySet<number> = new Set([
  MADV_REMOVE,
  MADV_WILLNEED,
  MADV_DONTNEED,
  MADV_DONTNEED_LOCKED,
  MADV_COLD,
  MADV_PAGEOUT,
  MADV_FREE,
  MADV_POPULATE_READ,
  MADV_POPULATE_WRITE,
  MADV_COLLAPSE,
]);
/** Advice that becomes flags of the VMA. */
const FLAG_ADVICE: ReadonlySet<number> = new Set([
  MADV_NORMAL,
  MADV_RANDOM,
  MADV_SEQUENTIAL,
  MADV_DONTFORK,
  MADV_DOFORK,
  MADV_MERGEABLE,
  MADV_UNMERGEABLE,
  MADV_HUGEPAGE,
  MADV_NOHUGEPAGE,
  MADV_DONTDUMP,
  MADV_DODUMP,
  MADV_WIPEONFORK,
  MADV_KEEPONFORK,
]);
/** Memory that cannot be merged with equal memory; advice about it is ignored. @kernel vma_ksm_compatible */
const VM_NOT_MERGEABLE =
  VM_SHARED | VM_MAYSHARE | VM_PFNMAP | VM_IO | VM_DONTEXPAND | VM_HUGETLB | VM_MIXEDMAP;

/**
 * The system call: 0 or -errno; -ENOMEM also if part of the range is not mapped, after the rest has been
 * done. No lock held. Sleeps. @kernel sys_madvise
 */
export function madvise(cpu: Cpu, mm: MmStruct, start: Va, length: number, advice: number): number {
  if (!READ_LOCK_ADVICE.has(advice) && !FLAG_ADVICE.has(advice)) return -EINVAL;
  const end = start + pageAlignUp(length);
  if (!isPageAligned(start) || end > 2 ** 64) return -EINVAL;
  if (end === start) return 0;
  const forReading = READ_LOCK_ADVICE.has(advice);
  if (forReading) mmapReadLock(cpu, mm);
  else mmapWriteLock(cpu, mm);
  const isPopulate = advice === MADV_POPULATE_READ || advice === MADV_POPULATE_WRITE;
  const error = isPopulate
    ? populateRange(cpu, mm, start, end, advice === MADV_POPULATE_WRITE)
    : adviseVmas(cpu, mm, start, end, advice);
  if (forReading) mmapReadUnlock(cpu, mm);
  else mmapWriteUnlock(cpu, mm);
  return error;
}

/** @kernel madvise_walk_vmas */
function adviseVmas(cpu: Cpu, mm: MmStruct, start: Va, end: Va, advice: number): number {
  let unmapped = 0;
  let at = start;
  while (at < end) {
    const vma = findVma(cpu, mm, at);
    if (vma === NULL) return -ENOMEM;
    if (vmaStart(cpu, vma) > at) {
      unmapped = -ENOMEM;
      at = vmaStart(cpu, vma);
      if (at >= end) break;
    }
    const to = Math.min(vmaEnd(cpu, vma), end);
    const error = adviseVma(cpu, vma, at, to, advice);
    if (error !== 0) return error;
    at = to;
  }
  return unmapped;
}

/** @kernel madvise_vma_behavior */
function adviseVma(cpu: Cpu, vma: VmAreaStruct, start: Va, end: Va, advice: number): number {
  const flags = read(cpu, vma, VmAreaStruct.flags);
  if (FLAG_ADVICE.has(advice)) {
    const newFlags = advisedFlags(cpu, vma, flags, advice);
    return newFlags === REFUSED ? -EINVAL : setVmaFlags(cpu, vma, start, end, newFlags);
  }
  switch (advice) {
    case MADV_DONTNEED:
    case MADV_DONTNEED_LOCKED: {
      const forbidden = VM_PFNMAP | (advice === MADV_DONTNEED ? VM_LOCKED : 0);
      if ((flags & forbidden) !== 0) return -EINVAL;
      zapPageRangeSingle(cpu, vma, start, end);
      return 0;
    }
    case MADV_FREE:
      return freeRange(cpu, vma, start, end, flags);
    case MADV_REMOVE:
      return removeRange(cpu, vma, start, end, flags);
    case MADV_COLD:
    case MADV_PAGEOUT:
      if ((flags & (VM_LOCKED | VM_PFNMAP | VM_HUGETLB)) !== 0) return -EINVAL;
      if (advice === MADV_PAGEOUT) pageoutRange(cpu, vma, start, end);
      else coldRange(cpu, vma, start, end);
      return 0;
    case MADV_COLLAPSE:
      return collapseRange(cpu, vma, start, end, flags);
    default:
      return 0; // WILLNEED: there is nothing to read ahead from
  }
}

const REFUSED = -1;

/** The flags of a VMA that takes the advice; REFUSED if it cannot. */
function advisedFlags(cpu: Cpu, vma: VmAreaStruct, flags: number, advice: number): number {
  const isPrivateAnonymous =
    read(cpu, vma, VmAreaStruct.file) === NULL && (flags & VM_SHARED) === 0;
  switch (advice) {
    case MADV_NORMAL:
      return flags & ~(VM_RAND_READ | VM_SEQ_READ);
    case MADV_SEQUENTIAL:
      return (flags & ~VM_RAND_READ) | VM_SEQ_READ;
    case MADV_RANDOM:
      return (flags & ~VM_SEQ_READ) | VM_RAND_READ;
    case MADV_DONTFORK:
      return flags | VM_DONTCOPY;
    case MADV_DOFORK:
      return (flags & VM_IO) !== 0 ? REFUSED : flags & ~VM_DONTCOPY;
    case MADV_WIPEONFORK:
      return isPrivateAnonymous ? flags | VM_WIPEONFORK : REFUSED;
    case MADV_KEEPONFORK:
      return flags & ~VM_WIPEONFORK;
    case MADV_DONTDUMP:
      return flags | VM_DONTDUMP;
    case MADV_DODUMP:
      return (flags & VM_SPECIAL) !== 0 ? REFUSED : flags & ~VM_DONTDUMP;
    case MADV_MERGEABLE:
      return (flags & VM_NOT_MERGEABLE) !== 0 ? flags : flags | VM_MERGEABLE;
    case MADV_UNMERGEABLE:
      return flags & ~VM_MERGEABLE;
    case MADV_HUGEPAGE:
      return (flags & ~VM_NOHUGEPAGE) | VM_HUGEPAGE;
    default:
      return (flags & ~VM_HUGEPAGE) | VM_NOHUGEPAGE;
  }
}

/** Splits or merges, and sets the flags: 0, or -EAGAIN if memory is out. @kernel madvise_update_vma */
function setVmaFlags(cpu: Cpu, vma: VmAreaStruct, start: Va, end: Va, newFlags: number): number {
  if (newFlags === read(cpu, vma, VmAreaStruct.flags)) return 0;
  const changed = vmaModify(cpu, vma, start, end, newFlags);
  if (changed === NULL) return -EAGAIN;
  write(cpu, changed, VmAreaStruct.flags, newFlags);
  return 0;
}

/** Marks anonymous pages as not needed, old and clean. @kernel madvise_free_single_vma */
function freeRange(cpu: Cpu, vma: VmAreaStruct, start: Va, end: Va, flags: number): number {
  const isAnonymous = read(cpu, vma, VmAreaStruct.file) === NULL;
  if (!isAnonymous || (flags & (VM_LOCKED | VM_PFNMAP)) !== 0) return -EINVAL;
  const mm = read(cpu, vma, VmAreaStruct.mm);
  const pgd = read(cpu, mm, MmStruct.pgd);
  const range = stackPush(cpu, MmuNotifierRange);
  mmuNotifierRangeInit(cpu, range, MMU_NOTIFY_CLEAR, mm, start, end);
  mmuNotifierInvalidateRangeStart(cpu, range);
  let va = nextPopulated(cpu, pgd, start, end);
  while (va < end) {
    const next = pmdAddrEnd(va, end);
    if (!isWholeOrSmall(cpu, pteOf(cpu, pgd, va), va, next)) splitFolio(cpu, vma, va);
    freePteTable(cpu, pteOf(cpu, pgd, va), (next - va) / PAGE_SIZE);
    va = nextPopulated(cpu, pgd, next, end);
  }
  mmuNotifierInvalidateRangeEnd(cpu, range);
  stackPop(cpu, range);
  flushTlbMm(cpu, mm);
  return 0;
}

/** @kernel madvise_free_pte_range */
function freePteTable(cpu: Cpu, first: Pte, count: number): void {
  const ptl = pteLockptr(cpu, first);
  spinLock(cpu, ptl);
  for (let i = 0; i < count; i++) {
    const pte = (first + i * Pte.words) as Pte;
    const entry = pteGet(cpu, pte);
    if (pteIsSwap(entry)) {
      pteGetAndClear(cpu, pte);
      freeSwapAndCache(cpu, pteSlot(entry));
    }
    const pfn = ptePfn(entry);
    if ((entry & PTE_PRESENT) === 0 || pfn === ZERO_PFN) continue;
    if (!pageHasFlag(cpu, pfn, PG_ANON) || isZoneDevicePage(cpu, pfn)) continue;
    if (!isNobodyElses(cpu, pfn)) continue;
    pteUpdateFlags(cpu, pte, PTE_ACCESSED | PTE_DIRTY, 0);
    pageSetFlags(cpu, pfn, PG_LAZYFREE);
  }
  spinUnlock(cpu, ptl);
}

/**
 * True if no other entry maps the page, or names its slot: who needs it might have no entry that says it was written.
 * The lock of a table that maps it is held.
 */
function isNobodyElses(cpu: Cpu, pfn: Pfn): boolean {
  if (isMutant(cpu, BUSTED_FREE_SHARED)) return true;
  const page = pageOf(cpu, pfn);
  if (pageMapcount(cpu, pfn) !== 1 || !trylockPage(cpu, page)) return false;
  const isAlone = pageFreeSwap(cpu, pfn) && pageMapcount(cpu, pfn) === 1;
  unlockPage(cpu, page);
  return isAlone;
}

/** Punches a hole into the file that is mapped; without the mmap lock, meanwhile. Sleeps. @kernel madvise_remove */
function removeRange(cpu: Cpu, vma: VmAreaStruct, start: Va, end: Va, flags: number): number {
  const file = read(cpu, vma, VmAreaStruct.file);
  if ((flags & VM_LOCKED) !== 0 || file === NULL) return -EINVAL;
  const isSharedWritable = (flags & (VM_SHARED | VM_MAYWRITE)) === (VM_SHARED | VM_MAYWRITE);
  if (!isSharedWritable) return -EACCES;
  const offset = fileIndex(cpu, vma, start) * PAGE_SIZE;
  const mm = read(cpu, vma, VmAreaStruct.mm);
  getFile(cpu, file);
  mmapReadUnlock(cpu, mm); // the VMA may go
  const error = fallocate(cpu, file, FALLOC_FL_PUNCH_HOLE, offset, end - start);
  fput(cpu, file);
  mmapReadLock(cpu, mm);
  return error;
}

/** @kernel madvise_collapse */
function collapseRange(cpu: Cpu, vma: VmAreaStruct, start: Va, end: Va, flags: number): number {
  const firstBlock = Math.ceil(vmaStart(cpu, vma) / PMD_SIZE) * PMD_SIZE;
  const isTooSmall = firstBlock + PMD_SIZE > vmaEnd(cpu, vma);
  if ((flags & (VM_NOHUGEPAGE | VM_SPECIAL)) !== 0 || isTooSmall) return -EINVAL;
  return collapseBlocks(cpu, read(cpu, vma, VmAreaStruct.mm), start, end);
}

/** @kernel madvise_populate; mmap lock held for reading */
function populateRange(cpu: Cpu, mm: MmStruct, start: Va, end: Va, isWrite: boolean): number {
  const needed = isWrite ? VM_WRITE : VM_READ;
  for (let va = start; va < end;) {
    const vma = findVma(cpu, mm, va);
    if (vma === NULL || vmaStart(cpu, vma) > va) return -ENOMEM;
    const flags = read(cpu, vma, VmAreaStruct.flags);
    if ((flags & (VM_IO | VM_PFNMAP)) !== 0 || (flags & needed) === 0) return -EINVAL;
    for (const to = Math.min(vmaEnd(cpu, vma), end); va < to; va += PAGE_SIZE) {
      const error = faultinPage(cpu, vma, va, isWrite);
      if (error !== 0) return error === -ENOMEM ? -ENOMEM : -EFAULT;
    }
  }
  return 0;
}
