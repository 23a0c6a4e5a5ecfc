/**
 * fork: a copy of an address space, whose pages are copied when one of both writes them.
 *
 * Kernel     kernel/fork.c (dup_mmap), mm/memory.c (copy_page_range)
 * Protocol   Parent and child are locked for writing. Each VMA is copied, but those of MADV_DONTFORK;
 *            then its entries, where a fault could not make them again: those of memory that has
 *            anonymous pages. Private ones become read-only on both sides; the notifiers of the parent
 *            hear PROTECTION_PAGE for the whole VMA meanwhile. The parent's TLBs are flushed at the end.
 *            Notifiers are not inherited.
 * Invariant  I1  A frame that both can reach through a private VMA is writable through neither.
 *            I2  If memory runs out the child is taken apart again, and the parent is as before, but for
 *                pages it will have to make writable by a fault.
 * Ordering   write_protect_seq is odd while entries are write-protected.
 * Deviation  The end of the heap is copied under the lock; Linux copies the struct before.
 *
 * @module
 */
import { fetchOr, read, readAddress, readOnce, readOnceCells, writeAddress } from '#memory';

import { PAGE_SIZE, PAGE_WORDS } from '../base/units.js';
import { SINGLE_DEPTH_NESTING } from '../debug/lock-how.js';
import type { Cpu } from '../machine/cpu.js';
import {
  allocPage,
  frameOf,
  pageOf,
  type Pfn,
  PG_ANON,
  PG_ANON_EXCLUSIVE,
  ZERO_PFN,
} from '../machine/page-alloc.js';
import { condResched } from '../machine/sched.js';
import { stackPop, stackPush } from '../machine/stack.js';
import { member, NULL, type Va } from '../memory/layout.js';
import {
  mmuNotifierInvalidateRangeEnd,
  mmuNotifierInvalidateRangeStart,
} from '../notifier/mmu-notifier.js';
import {
  MMU_NOTIFY_PROTECTION_PAGE,
  mmuNotifierRangeInit,
} from '../notifier/mmu-notifier-range.js';
import { MmuNotifierRange } from '../notifier/types.js';
import { trylockPage, unlockPage } from '../sync/page-lock.js';
import { writeSeqcountBegin, writeSeqcountEnd } from '../sync/seqcount.js';
import { spinLock, spinLockNested, spinUnlock } from '../sync/spinlock.js';
import { forkAnonVma, setAnonRmap, unlinkAnonVma } from './anon-vma.js';
import { restoreExclusivePte } from './device-fault.js';
import { mmput } from './exit.js';
import { setTableState, TABLE_HUGE, tableState } from './huge.js';
import { addRss, mmAlloc } from './mm-struct.js';
import { mmapWriteLock, mmapWriteLockNested, mmapWriteUnlock } from './mmap-lock.js';
import { flushTlbMm } from './mmu-gather.js';
import {
  getPage,
  pageAddRmap,
  pageClearFlags,
  pageHasFlag,
  pageMapcount,
  pageMaybePinned,
  pageSetFlags,
  putPage,
} from './page.js';
import { nextPopulated, pmdAddrEnd, pteAlloc, pteLockptr, pteOf } from './page-table.js';
import {
  makePte,
  NO_PTE,
  Pte,
  PTE_ACCESSED,
  PTE_DIRTY,
  PTE_FLAGS,
  PTE_SOFT_DIRTY,
  PTE_SWP_EXCLUSIVE,
  PTE_WRITE,
  pteGet,
  pteHasFrame,
  pteIsDeviceExclusive,
  pteIsDevicePrivate,
  pteIsMigration,
  pteIsSwap,
  ptePfn,
  pteSlot,
  pteUpdateFlags,
  setPte,
  setSpecialPte,
} from './pte.js';
import { swapDuplicate } from './swap.js';
import {
  MMF_UNSTABLE,
  MmStruct,
  VM_DONTCOPY,
  VM_LOCKED,
  VM_LOCKONFAULT,
  VM_MAYWRITE,
  VM_MIXEDMAP,
  VM_PFNMAP,
  VM_SHARED,
  VM_WIPEONFORK,
  VmAreaStruct,
} from './types.js';
import {
  accountVm,
  pagesIn,
  vmaAlloc,
  vmaEnd,
  vmaFree,
  vmaKind,
  vmaLink,
  vmaStart,
} from './vma.js';
import { vmaTreeFirst } from './vma-tree.js';

/** A copy of the address space, with one user; NULL if memory is out. No lock held. Sleeps. @kernel dup_mm */
export function dupMm(cpu: Cpu, parent: MmStruct): MmStruct {
  const child = mmAlloc(cpu);
  if (child === NULL) return NULL;
  mmapWriteLock(cpu, parent);
  for (const field of [MmStruct.mmapBase, MmStruct.startBrk, MmStruct.brk]) {
    writeAddress(cpu, child, field, readAddress(cpu, parent, field)); // of the VMAs that are copied
  }
  mmapWriteLockNested(cpu, child, SINGLE_DEPTH_NESTING); // nobody else knows it
  let copied = true;
  let vma = vmaTreeFirst(cpu, member(parent, MmStruct.vmas));
  while (vma !== NULL && copied) {
    copied = dupVma(cpu, child, vma);
    vma = read(cpu, vma, VmAreaStruct.next);
  }
  mmapWriteUnlock(cpu, child);
  flushTlbMm(cpu, parent);
  mmapWriteUnlock(cpu, parent);
  if (copied) return child;
  fetchOr(cpu, child, MmStruct.flags, MMF_UNSTABLE);
  mmput(cpu, child); // I2
  return NULL;
}

/** Copies one VMA into the child; false if memory is out. */
function dupVma(cpu: Cpu, child: MmStruct, vma: VmAreaStruct): boolean {
  const kind = vmaKind(cpu, vma);
  if ((kind.flags & VM_DONTCOPY) !== 0) return true;
  const flags = kind.flags & ~(VM_LOCKED | VM_LOCKONFAULT);
  const wipes = (kind.flags & VM_WIPEONFORK) !== 0;
  const inherits = kind.anonVma !== NULL && !wipes;
  const start = vmaStart(cpu, vma);
  const end = vmaEnd(cpu, vma);
  const copy = vmaAlloc(cpu, child, start, end, { ...kind, flags, anonVma: NULL });
  if (copy === NULL) return false;
  const isForked = !inherits || forkAnonVma(cpu, copy, vma);
  if (!isForked || vmaLink(cpu, child, copy) !== 0) {
    unlinkAnonVma(cpu, copy);
    vmaFree(cpu, copy);
    return false;
  }
  accountVm(cpu, child, pagesIn(start, end));
  return wipes || copyPageRange(cpu, copy, vma);
}

/** Copies the entries of a VMA that a fault could not make again; false if memory is out. @kernel copy_page_range */
function copyPageRange(cpu: Cpu, copy: VmAreaStruct, vma: VmAreaStruct): boolean {
  const flags = read(cpu, vma, VmAreaStruct.flags);
  const hasAnon = readOnce(cpu, vma, VmAreaStruct.anonVma) !== NULL;
  if (!hasAnon && (flags & (VM_PFNMAP | VM_MIXEDMAP)) === 0) return true;
  const isCow = (flags & (VM_SHARED | VM_MAYWRITE)) === VM_MAYWRITE;
  if (!isCow) return copyTables(cpu, copy, vma, false);
  const parent = read(cpu, vma, VmAreaStruct.mm);
  const seqcount = member(parent, MmStruct.writeProtectSeq);
  const range = stackPush(cpu, MmuNotifierRange);
  const start = vmaStart(cpu, vma);
  mmuNotifierRangeInit(cpu, range, MMU_NOTIFY_PROTECTION_PAGE, parent, start, vmaEnd(cpu, vma));
  mmuNotifierInvalidateRangeStart(cpu, range);
  writeSeqcountBegin(cpu, seqcount);
  const copied = copyTables(cpu, copy, vma, true);
  writeSeqcountEnd(cpu, seqcount);
  mmuNotifierInvalidateRangeEnd(cpu, range);
  stackPop(cpu, range);
  return copied;
}

function copyTables(cpu: Cpu, copy: VmAreaStruct, vma: VmAreaStruct, isCow: boolean): boolean {
  const child = read(cpu, copy, VmAreaStruct.mm);
  const parent = read(cpu, vma, VmAreaStruct.mm);
  const from = read(cpu, parent, MmStruct.pgd);
  const to = read(cpu, child, MmStruct.pgd);
  const lock = member(child, MmStruct.pageTableLock);
  const end = vmaEnd(cpu, vma);
  for (let va: Va = nextPopulated(cpu, from, vmaStart(cpu, vma), end); va < end;) {
    const next = pmdAddrEnd(va, end);
    condResched(cpu);
    const target = pteAlloc(cpu, to, lock, va);
    if (target === NO_PTE) return false;
    if (!copyTable(cpu, vma, copy, va, target, (next - va) / PAGE_SIZE, isCow)) return false;
    va = nextPopulated(cpu, from, next, end);
  }
  return true;
}

/**
 * Copies the entries of one table; false if memory is out. For a pinned page the child gets a copy at once, whose
 * frame is made without locks: then the rest of the table comes in another turn. @kernel copy_pte_range
 */
function copyTable(
  cpu: Cpu,
  vma: VmAreaStruct,
  copy: VmAreaStruct,
  va: Va,
  target: Pte,
  count: number,
  isCow: boolean,
): boolean {
  const from = pteOf(cpu, read(cpu, read(cpu, vma, VmAreaStruct.mm), MmStruct.pgd), va);
  let spare = 0;
  for (let i = 0; i < count;) {
    const source = (from + i * Pte.words) as Pte;
    const to = (target + i * Pte.words) as Pte;
    const copied = copyRun(cpu, vma, copy, source, to, count - i, isCow, spare);
    if (spare !== 0 && pageMapcount(cpu, spare) > 0) spare = 0; // the child has it
    if (copied < 0) break;
    i += copied;
    if (i === count) {
      if (spare !== 0) putPage(cpu, spare); // the page is not pinned any more
      if (tableState(cpu, from) === TABLE_HUGE) setTableState(cpu, target, TABLE_HUGE); // nobody else knows the child's
      return true;
    }
    if (spare === 0) spare = allocPage(cpu);
    if (spare === 0) return false;
    setAnonRmap(cpu, spare, copy, va + i * PAGE_SIZE);
  }
  if (spare !== 0) putPage(cpu, spare);
  return false;
}

/**
 * Copies entries up to one whose page is pinned and has to be copied, but for the first, for which there may be a
 * spare frame; returns how many, or -1 if somebody has locked a page that a device has alone.
 */
function copyRun(
  cpu: Cpu,
  vma: VmAreaStruct,
  copy: VmAreaStruct,
  from: Pte,
  to: Pte,
  count: number,
  isCow: boolean,
  spare: Pfn,
): number {
  const fromLock = pteLockptr(cpu, from);
  const toLock = pteLockptr(cpu, to);
  let frames = 0;
  let i = 0;
  spinLock(cpu, toLock);
  spinLockNested(cpu, fromLock, SINGLE_DEPTH_NESTING);
  for (; i < count; i++) {
    const source = (from + i * Pte.words) as Pte;
    const target = (to + i * Pte.words) as Pte;
    if (pteIsDeviceExclusive(pteGet(cpu, source)) && !restoreExclusive(cpu, vma, source)) break;
    const entry = pteGet(cpu, source);
    if (!pteHasFrame(entry)) {
      frames += copySpecial(cpu, source, entry, target, isCow);
      continue;
    }
    const pfn = ptePfn(entry);
    const mustCopy = isCow && mustCopyNow(cpu, pfn);
    if (mustCopy && (i > 0 || spare === 0)) break;
    if (pfn !== ZERO_PFN) frames++;
    if (mustCopy) copyPinned(cpu, entry, target, spare);
    else copyEntry(cpu, source, entry, target, isCow);
  }
  const isBusy = i < count && pteIsDeviceExclusive(pteGet(cpu, (from + i * Pte.words) as Pte));
  spinUnlock(cpu, fromLock);
  spinUnlock(cpu, toLock);
  addRss(cpu, read(cpu, copy, VmAreaStruct.mm), frames);
  return isBusy ? -1 : i;
}

/** Takes a page back that a device has alone, and knows it from this range; false if it is locked. @kernel try_restore_exclusive_pte */
function restoreExclusive(cpu: Cpu, vma: VmAreaStruct, source: Pte): boolean {
  const entry = pteGet(cpu, source);
  const page = pageOf(cpu, ptePfn(entry));
  if (!trylockPage(cpu, page)) return false;
  restoreExclusivePte(cpu, vma, source, entry);
  unlockPage(cpu, page);
  return true;
}

/** Copies an entry that maps nothing, if there is one: for how many frames. @kernel copy_nonpresent_pte */
function copySpecial(cpu: Cpu, source: Pte, entry: number, target: Pte, isCow: boolean): number {
  if (pteIsSwap(entry)) copySwapEntry(cpu, source, entry, target);
  if (pteIsMigration(entry)) {
    const shared = isCow ? entry & ~(PTE_WRITE | PTE_SWP_EXCLUSIVE) : entry;
    if (shared !== entry) setSpecialPte(cpu, source, shared);
    setSpecialPte(cpu, target, shared);
    return 1;
  }
  if (!pteIsDevicePrivate(entry)) return 0;
  const pfn = ptePfn(entry);
  getPage(cpu, pfn);
  pageAddRmap(cpu, pfn);
  pageClearFlags(cpu, pfn, PG_ANON_EXCLUSIVE);
  // whether it was written is not known any more, as in Linux
  const isTaken = isCow && (entry & PTE_WRITE) !== 0;
  const shared = isTaken ? entry & ~(PTE_WRITE | PTE_SOFT_DIRTY) : entry;
  if (isTaken) setSpecialPte(cpu, source, shared);
  setSpecialPte(cpu, target, shared);
  return 1;
}

/** Both entries name the slot, and neither has its page alone. @kernel copy_nonpresent_pte */
function copySwapEntry(cpu: Cpu, source: Pte, entry: number, target: Pte): void {
  swapDuplicate(cpu, pteSlot(entry));
  const shared = entry & ~PTE_SWP_EXCLUSIVE;
  if (shared !== entry) setSpecialPte(cpu, source, shared);
  setSpecialPte(cpu, target, shared);
}

/** True if a device that has pinned the page would lose the parent's to a copy. @kernel folio_try_dup_anon_rmap_pte */
function mustCopyNow(cpu: Cpu, pfn: Pfn): boolean {
  return pfn !== ZERO_PFN && pageMaybePinned(cpu, pfn) && pageHasFlag(cpu, pfn, PG_ANON_EXCLUSIVE);
}

/**
 * The child's entry maps a copy of the parent's page, which the parent's other CPUs may write meanwhile: the copy has
 * each word as it was at some moment. Both tables' locks are held. @kernel copy_present_page
 */
function copyPinned(cpu: Cpu, entry: number, target: Pte, own: Pfn): void {
  readOnceCells(cpu, frameOf(cpu, own), frameOf(cpu, ptePfn(entry)), PAGE_WORDS / Pte.words);
  pageSetFlags(cpu, own, PG_ANON | PG_ANON_EXCLUSIVE);
  pageAddRmap(cpu, own);
  setPte(cpu, target, makePte(own, (entry & PTE_FLAGS) | PTE_DIRTY));
}

/** Both entries map the parent's page. Both tables' locks are held. @kernel copy_present_ptes */
function copyEntry(cpu: Cpu, source: Pte, entry: number, target: Pte, isCow: boolean): void {
  const pfn = ptePfn(entry);
  if (pfn !== ZERO_PFN) {
    getPage(cpu, pfn);
    pageAddRmap(cpu, pfn);
    pageClearFlags(cpu, pfn, PG_ANON_EXCLUSIVE);
  }
  if (isCow && (entry & PTE_WRITE) !== 0) pteUpdateFlags(cpu, source, PTE_WRITE, 0); // I1
  const dropped = isCow ? PTE_WRITE | PTE_ACCESSED : PTE_DIRTY | PTE_ACCESSED;
  setPte(cpu, target, entry & ~dropped);
}
