/**
 * Page faults: a page that the hardware, or a device's driver, wants and that is not mapped as needed.
 *
 * Kernel     mm/memory.c (handle_mm_fault)
 * Protocol   entry             VMA               read access              write access
 *            none              anonymous         zero page                new zeroed frame
 *            none              private file      the file's frame, r/o    copy of it
 *            none              shared            the file's frame, with the VMA's rights
 *            protnone          accessible        present again (a hint has been followed)
 *            present, r/o      private           -                        reuse if alone, else copy
 *            present, r/o      shared            -                        writable again
 *            migration, device private or exclusive    mm/device-fault.ts
 *            swap              private           its page again, writable if nobody else has it, …
 *                                                                         … else as present, r/o
 *
 *            Each case prepares its frame without the page table lock, takes the lock, looks whether the
 *            entry is still what it was, and changes it; if it is not, somebody else was faster and the
 *            access is simply tried again.
 *            Only a copy takes a mapping away, so only it tells the notifiers: CLEAR of one page, opened
 *            before the lock is taken. Making a page present tells nobody: devices learn by faulting.
 * Invariant  I1  Nothing is mapped writable in a private VMA but frames of its own.
 *            I2  When a copy replaces a page, no CPU and no device still writes the old one.
 * Ordering   The mmap lock is held for reading at least, which keeps the VMA; the table's lock protects
 *            the entry. Between them, a page that comes back from the swap area is locked: several address spaces may
 *            map it for the first time, each under the lock of a table of its own.
 *
 * @module
 */
import { copyWords, read, readAddress, readOnce, readOnceCells } from '#memory';
import {
  BUSTED_FILE_FAULT,
  BUSTED_SWAPIN,
  BUSTED_SWAPIN_CACHE,
  BUSTED_SWAPIN_LOCK,
  isMutant,
  M_SECONDARY_LATE,
  M_UNSTABLE_UNSEEN,
} from '#mutants';

import { PAGE_SIZE, PAGE_WORDS } from '../base/units.js';
import type { Cpu } from '../machine/cpu.js';
import {
  allocPage,
  allocZeroedPage,
  frameOf,
  pageOf,
  type Pfn,
  PG_ANON,
  PG_ANON_EXCLUSIVE,
  ZERO_PFN,
} from '../machine/page-alloc.js';
import { stackPop, stackPush } from '../machine/stack.js';
import { member, NULL, type Va } from '../memory/layout.js';
import {
  mmuNotifierInvalidateRangeEnd,
  mmuNotifierInvalidateRangeStart,
} from '../notifier/mmu-notifier.js';
import { mmuNotifierArchInvalidateSecondaryTlbs } from '../notifier/mmu-notifier-list.js';
import { MMU_NOTIFY_CLEAR, mmuNotifierRangeInit } from '../notifier/mmu-notifier-range.js';
import { MmuNotifierRange } from '../notifier/types.js';
import { lockPage, trylockPage, unlockPage } from '../sync/page-lock.js';
import { downRead, upRead } from '../sync/rwsem.js';
import { spinLock, spinUnlock } from '../sync/spinlock.js';
import { moveAnonRmap, pageAnonVma, setAnonRmap } from './anon-vma.js';
import { doPfnSwapPage } from './device-fault.js';
import { fileFindPage, fileGetPage, filePages } from './file.js';
import {
  mapHugePage,
  reuseHugePage,
  splitHugePmd,
  TABLE_GONE,
  TABLE_HUGE,
  tableState,
  wantsHugePage,
} from './huge.js';
import { countSwappedIn, lruAdd, lruAddVma } from './lru.js';
import { addRss } from './mm-struct.js';
import { flushTlbPage } from './mmu-gather.js';
import {
  getPage,
  pageAddRmap,
  pageHasFlag,
  pageRefcount,
  pageRemoveRmap,
  pageSetFlags,
  putPage,
} from './page.js';
import { pteAlloc, pteLockptr, pteOf } from './page-table.js';
import {
  makePte,
  NO_PTE,
  Pte,
  PTE_ACCESSED,
  PTE_DIRTY,
  PTE_PRESENT,
  PTE_PROTNONE,
  PTE_SOFT_DIRTY,
  PTE_SWP_EXCLUSIVE,
  PTE_WRITE,
  pteGet,
  pteGetAndClear,
  pteIsPfnSwap,
  pteIsSwap,
  ptePfn,
  pteSlot,
  pteUpdateFlags,
  setPte,
} from './pte.js';
import {
  freeSwapCache,
  isInSwapCache,
  pageFreeSwap,
  readSlot,
  swapCacheFill,
  swapCacheGet,
  swapFree,
} from './swap.js';
import {
  File,
  MMF_UNSTABLE,
  MmStruct,
  VM_ACCESS_FLAGS,
  VM_MAYSHARE,
  VM_SHARED,
  VM_SOFTDIRTY,
  VM_WRITE,
  VmAreaStruct,
} from './types.js';
import { anonVmaPrepare } from './vma.js';
import { vmaPteFlags } from './vma-pte.js';

/** What handleMmFault was asked: a write. @kernel FAULT_FLAG_WRITE */
export const FAULT_FLAG_WRITE = 1;
/** … on behalf of another task, or of a device. @kernel FAULT_FLAG_REMOTE */
export const FAULT_FLAG_REMOTE = 2;

/** … a page of one's own, but not to write it. @kernel FAULT_FLAG_UNSHARE */
export const FAULT_FLAG_UNSHARE = 4;

/** Results of handleMmFault, as bits; 0 is success. */
export const VM_FAULT_OOM = 0x1;
export const VM_FAULT_SIGBUS = 0x2;
export const VM_FAULT_SIGSEGV = 0x40;
export const VM_FAULT_ERROR = VM_FAULT_OOM | VM_FAULT_SIGBUS | VM_FAULT_SIGSEGV;

/**
 * Makes the page at `va` accessible as the VMA allows: 0, or bits of VM_FAULT_ERROR. It may have to be
 * called again for one access. Precondition: mmap lock held, va in the VMA and page-aligned, the access
 * allowed by the VMA. Sleeps. @kernel handle_mm_fault
 */
export function handleMmFault(cpu: Cpu, vma: VmAreaStruct, va: Va, faultFlags: number): number {
  const mm = read(cpu, vma, VmAreaStruct.mm);
  const lock = member(mm, MmStruct.pageTableLock);
  const pgd = read(cpu, mm, MmStruct.pgd);
  const isWrite = (faultFlags & FAULT_FLAG_WRITE) !== 0;
  let pte = pteOf(cpu, pgd, va);
  if (hasNoTable(cpu, pte)) {
    const wantsHuge = wantsHugePage(cpu, vma, va);
    pte = pteAlloc(cpu, pgd, lock, va);
    if (pte === NO_PTE) return VM_FAULT_OOM;
    if (wantsHuge && doHugePage(cpu, vma, va, pte, isWrite)) return 0;
  }
  const entry = pteGet(cpu, pte);
  const wantsOwn = isWrite || (faultFlags & FAULT_FLAG_UNSHARE) !== 0;
  if (entry === 0) return doMissingPage(cpu, vma, va, pte, isWrite);
  if ((entry & PTE_PROTNONE) !== 0) return doNumaPage(cpu, vma, pte, entry);
  if (pteIsSwap(entry)) return doSwapPage(cpu, vma, va, pte, entry, isWrite);
  if (pteIsPfnSwap(entry)) return doPfnSwapPage(cpu, vma, va, pte, entry, faultFlags);
  if ((entry & PTE_PRESENT) === 0) return VM_FAULT_SIGBUS;
  if (wantsOwn && (entry & PTE_WRITE) === 0) return doWpPage(cpu, vma, va, pte, entry, isWrite);
  return 0;
}

/** True if nothing is mapped by the table of this entry, and a huge page could be. @kernel pmd_none */
function hasNoTable(cpu: Cpu, pte: Pte): boolean {
  return pte === NO_PTE || tableState(cpu, pte) === TABLE_GONE;
}

/** True if the page has been made as part of a huge one. */
function doHugePage(cpu: Cpu, vma: VmAreaStruct, va: Va, pte: Pte, isWrite: boolean): boolean {
  const vmFlags = read(cpu, vma, VmAreaStruct.flags);
  if (!anonVmaPrepare(cpu, vma)) return false;
  const flags = newPteFlags(isWrite ? vmFlags : vmFlags & ~VM_WRITE, isWrite);
  return mapHugePage(cpu, vma, va, pte, !isWrite, flags);
}

function doMissingPage(cpu: Cpu, vma: VmAreaStruct, va: Va, pte: Pte, isWrite: boolean): number {
  if (read(cpu, vma, VmAreaStruct.file) === NULL) {
    return isWrite ? doAnonymousPage(cpu, vma, va, pte) : doZeroPage(cpu, vma, pte);
  }
  return doFilePage(cpu, vma, va, pte, isWrite);
}

/** Flags of an entry that is made for an access, with all rights the VMA gives. */
function newPteFlags(vmFlags: number, isWrite: boolean): number {
  const writable = (vmFlags & VM_WRITE) !== 0 ? PTE_WRITE : 0;
  return (
    vmaPteFlags(vmFlags) | PTE_ACCESSED | writable | (isWrite ? PTE_DIRTY | PTE_SOFT_DIRTY : 0)
  );
}

/**
 * Maps a frame the caller has a reference to, which the entry takes over, unless somebody was faster: 0, or
 * VM_FAULT_SIGBUS if what was there may have been reaped.
 */
function mapFrame(cpu: Cpu, vma: VmAreaStruct, pte: Pte, pfn: Pfn, flags: number): number {
  const ptl = pteLockptr(cpu, pte);
  spinLock(cpu, ptl);
  const isFree = pteGet(cpu, pte) === 0;
  const fault = isFree ? checkStableAddressSpace(cpu, vma) : 0;
  const isMapped = isFree && fault === 0;
  if (isMapped) {
    if (pfn !== ZERO_PFN) addPage(cpu, vma, pfn);
    setPte(cpu, pte, makePte(pfn, flags));
  }
  spinUnlock(cpu, ptl);
  if (!isMapped) putPage(cpu, pfn);
  else if (pfn !== ZERO_PFN) addRss(cpu, read(cpu, vma, VmAreaStruct.mm), 1);
  return fault;
}

/** The VMA is about to map the page. The table's lock must be held. */
function addPage(cpu: Cpu, vma: VmAreaStruct, pfn: Pfn): void {
  pageAddRmap(cpu, pfn);
  lruAddVma(cpu, vma, pfn);
}

/**
 * A private page that is missing may have been taken by the OOM reaper: a fresh one would lose what was in it. The
 * page table lock must be held, under which the reaper takes pages. @kernel check_stable_address_space
 */
function checkStableAddressSpace(cpu: Cpu, vma: VmAreaStruct): number {
  if (isMutant(cpu, M_UNSTABLE_UNSEEN)) return 0;
  if ((read(cpu, vma, VmAreaStruct.flags) & VM_SHARED) !== 0) return 0;
  const flags = readOnce(cpu, read(cpu, vma, VmAreaStruct.mm), MmStruct.flags);
  return (flags & MMF_UNSTABLE) === 0 ? 0 : VM_FAULT_SIGBUS;
}

/** @kernel do_anonymous_page, for a write */
function doAnonymousPage(cpu: Cpu, vma: VmAreaStruct, va: Va, pte: Pte): number {
  if (!anonVmaPrepare(cpu, vma)) return VM_FAULT_OOM;
  const pfn = allocZeroedPage(cpu);
  if (pfn === 0) return VM_FAULT_OOM;
  setAnonRmap(cpu, pfn, vma, va);
  pageSetFlags(cpu, pfn, PG_ANON | PG_ANON_EXCLUSIVE);
  return mapFrame(cpu, vma, pte, pfn, newPteFlags(read(cpu, vma, VmAreaStruct.flags), true));
}

/** @kernel do_anonymous_page, for a read */
function doZeroPage(cpu: Cpu, vma: VmAreaStruct, pte: Pte): number {
  const flags = vmaPteFlags(read(cpu, vma, VmAreaStruct.flags)) | PTE_ACCESSED;
  return mapFrame(cpu, vma, pte, ZERO_PFN, flags);
}

/**
 * Maps the file's own frame, or for a write to a private mapping a copy of it. Meanwhile the file keeps its pages.
 * @kernel do_fault
 */
function doFilePage(cpu: Cpu, vma: VmAreaStruct, va: Va, pte: Pte, isWrite: boolean): number {
  const file = read(cpu, vma, VmAreaStruct.file);
  if (isMutant(cpu, BUSTED_FILE_FAULT)) return mapFilePage(cpu, vma, va, pte, isWrite);
  downRead(cpu, member(file, File.invalidateLock));
  const fault = mapFilePage(cpu, vma, va, pte, isWrite);
  upRead(cpu, member(file, File.invalidateLock));
  return fault;
}

function mapFilePage(cpu: Cpu, vma: VmAreaStruct, va: Va, pte: Pte, isWrite: boolean): number {
  const file = read(cpu, vma, VmAreaStruct.file);
  const index = fileIndex(cpu, vma, va);
  if (index >= filePages(cpu, file)) return VM_FAULT_SIGBUS;
  const pfn = fileGetPage(cpu, file, index);
  if (pfn === 0) return VM_FAULT_OOM;
  const vmFlags = read(cpu, vma, VmAreaStruct.flags);
  if ((vmFlags & VM_SHARED) !== 0) {
    mapFrame(cpu, vma, pte, pfn, newPteFlags(vmFlags, isWrite));
    if (!isWrite) doFaultAround(cpu, vma, va, pte);
    return 0;
  }
  if (!isWrite) {
    const fault = mapFrame(cpu, vma, pte, pfn, newPteFlags(vmFlags & ~VM_WRITE, false)); // I1
    if (fault === 0) doFaultAround(cpu, vma, va, pte);
    return fault;
  }
  const own = anonVmaPrepare(cpu, vma) ? copyOf(cpu, pfn) : 0;
  putPage(cpu, pfn);
  if (own === 0) return VM_FAULT_OOM;
  setAnonRmap(cpu, own, vma, va);
  return mapFrame(cpu, vma, pte, own, newPteFlags(vmFlags, true));
}

/** Pages that a read of a file looks at around the one it needs. @kernel fault_around_bytes */
const FAULT_AROUND_PAGES = 16;

/**
 * Maps what the file has in memory of the pages around one that was read: as far as they lie in the same
 * VMA and table. @kernel do_fault_around, filemap_map_pages
 */
function doFaultAround(cpu: Cpu, vma: VmAreaStruct, va: Va, pte: Pte): void {
  const file = read(cpu, vma, VmAreaStruct.file);
  const vmFlags = read(cpu, vma, VmAreaStruct.flags);
  const isShared = (vmFlags & VM_SHARED) !== 0;
  const flags = newPteFlags(isShared ? vmFlags : vmFlags & ~VM_WRITE, false);
  const block = FAULT_AROUND_PAGES * PAGE_SIZE; // a table maps whole blocks
  const first = Math.floor(va / block) * block;
  const start = Math.max(first, readAddress(cpu, vma, VmAreaStruct.start));
  const end = Math.min(first + block, readAddress(cpu, vma, VmAreaStruct.end));
  const pages = filePages(cpu, file);
  for (let at = start; at < end; at += PAGE_SIZE) {
    const index = fileIndex(cpu, vma, at);
    const neighbour = (pte + ((at - va) / PAGE_SIZE) * Pte.words) as Pte;
    if (index >= pages || pteGet(cpu, neighbour) !== 0) continue;
    const pfn = fileFindPage(cpu, file, index);
    if (pfn !== 0) mapFrame(cpu, vma, neighbour, pfn, flags & ~PTE_ACCESSED);
  }
}

/** The page of the file that is mapped at `va`. @kernel linear_page_index */
export function fileIndex(cpu: Cpu, vma: VmAreaStruct, va: Va): number {
  const start = readAddress(cpu, vma, VmAreaStruct.start);
  return readAddress(cpu, vma, VmAreaStruct.pgoff) + (va - start) / PAGE_SIZE;
}

/** An anonymous frame with the contents of another; 0 if memory is out. */
function copyOf(cpu: Cpu, pfn: Pfn): Pfn {
  if (pfn === ZERO_PFN) {
    const zeroed = allocZeroedPage(cpu);
    if (zeroed !== 0) pageSetFlags(cpu, zeroed, PG_ANON | PG_ANON_EXCLUSIVE);
    return zeroed;
  }
  const own = allocPage(cpu);
  if (own === 0) return 0;
  copyFrame(cpu, own, pfn);
  pageSetFlags(cpu, own, PG_ANON | PG_ANON_EXCLUSIVE);
  return own;
}

/** Nobody writes an anonymous frame that is to be copied; those who share a file's frame may, at the same time. */
function copyFrame(cpu: Cpu, to: Pfn, from: Pfn): void {
  const target = frameOf(cpu, to);
  const source = frameOf(cpu, from);
  if (pageHasFlag(cpu, from, PG_ANON)) copyWords(cpu, target, source, PAGE_WORDS);
  else readOnceCells(cpu, target, source, PAGE_WORDS / Pte.words);
}

/**
 * A page that is in the swap area: maps its frame, from the swap cache or a new one, and gives the slot up. It is
 * writable if it was this address space's own, or nobody else has it now. @kernel do_swap_page
 */
function doSwapPage(
  cpu: Cpu,
  vma: VmAreaStruct,
  va: Va,
  pte: Pte,
  entry: number,
  isWrite: boolean,
): number {
  const slot = pteSlot(entry);
  const cached = swapCacheGet(cpu, slot);
  const pfn = cached === 0 ? swapIn(cpu, slot) : cached;
  if (pfn === NO_MEMORY) return VM_FAULT_OOM;
  const isLocked = pfn !== 0 && !isMutant(cpu, BUSTED_SWAPIN_LOCK);
  if (isLocked) lockPage(cpu, pageOf(cpu, pfn));
  const ptl = pteLockptr(cpu, pte);
  spinLock(cpu, ptl); // also without a frame: who gave the slot up has this lock until the entry says so
  const isSame =
    pfn !== 0 && (isMutant(cpu, BUSTED_SWAPIN) || namesPage(cpu, pteGet(cpu, pte), entry, pfn));
  const isOver = isSame && mapSwapPage(cpu, vma, va, pte, pfn, isWrite, cached === 0);
  spinUnlock(cpu, ptl);
  if (isLocked) unlockPage(cpu, pageOf(cpu, pfn));
  if (!isSame) {
    if (pfn !== 0) dropSwapPage(cpu, pfn);
    return 0; // somebody was faster
  }
  addRss(cpu, read(cpu, vma, VmAreaStruct.mm), 1);
  return isOver ? 0 : doWpPage(cpu, vma, va, pte, pteGet(cpu, pte), true);
}

/** True if the entry is as it was, and its slot's page is still this one (swap.ts, I3). */
function namesPage(cpu: Cpu, now: number, entry: number, pfn: Pfn): boolean {
  if (now !== entry) return false;
  return isMutant(cpu, BUSTED_SWAPIN_CACHE) || isInSwapCache(cpu, pteSlot(entry), pfn);
}

/** Maps the page in the place of the entry, which names its slot; false if it has to be copied. The table's lock is held. */
function mapSwapPage(
  cpu: Cpu,
  vma: VmAreaStruct,
  va: Va,
  pte: Pte,
  pfn: Pfn,
  isWrite: boolean,
  isFresh: boolean,
): boolean {
  const entry = pteGet(cpu, pte);
  const vmFlags = read(cpu, vma, VmAreaStruct.flags);
  swapFree(cpu, pteSlot(entry));
  if (isFresh || (isWrite && pageRefcount(cpu, pfn) === 2)) pageFreeSwap(cpu, pfn); // the cache's, and ours
  const isOwn = (entry & PTE_SWP_EXCLUSIVE) !== 0 || pageRefcount(cpu, pfn) === 1;
  if (pageAnonVma(cpu, pfn) === NULL) setAnonRmap(cpu, pfn, vma, va, isOwn); // else what it says holds
  if (isOwn) pageSetFlags(cpu, pfn, PG_ANON_EXCLUSIVE);
  const isWritable = isOwn && (vmFlags & VM_WRITE) !== 0;
  addPage(cpu, vma, pfn);
  const flags = newPteFlags(isWritable ? vmFlags : vmFlags & ~VM_WRITE, isWrite && isWritable);
  setPte(cpu, pte, makePte(pfn, flags | (entry & PTE_SOFT_DIRTY)));
  return !isWrite || isWritable;
}

/** There is no frame for the page. */
const NO_MEMORY = -1;

/** A frame with what the slot holds, in the cache, with a reference; 0 if the slot holds nothing any more; NO_MEMORY. */
function swapIn(cpu: Cpu, slot: number): Pfn {
  const fresh = allocPage(cpu);
  if (fresh === 0) return NO_MEMORY;
  pageSetFlags(cpu, fresh, PG_ANON);
  if (isMutant(cpu, BUSTED_SWAPIN_CACHE)) {
    readSlot(cpu, slot, fresh);
    return fresh;
  }
  const pfn = swapCacheFill(cpu, slot, fresh);
  if (pfn === fresh) countSwappedIn(cpu);
  else putPage(cpu, fresh);
  return pfn;
}

/** The frame is not wanted: if it is mapped nowhere, reclaim finds it. */
function dropSwapPage(cpu: Cpu, pfn: Pfn): void {
  freeSwapCache(cpu, pfn);
  lruAdd(cpu, pfn);
  putPage(cpu, pfn);
}

/** A frame that is mapped but hidden from the hardware: shows it again. @kernel do_numa_page */
function doNumaPage(cpu: Cpu, vma: VmAreaStruct, pte: Pte, entry: number): number {
  if ((read(cpu, vma, VmAreaStruct.flags) & VM_ACCESS_FLAGS) === 0) return VM_FAULT_SIGSEGV;
  const ptl = pteLockptr(cpu, pte);
  spinLock(cpu, ptl);
  if (pteGet(cpu, pte) === entry) {
    pteUpdateFlags(cpu, pte, PTE_PROTNONE, PTE_PRESENT | PTE_ACCESSED);
  }
  spinUnlock(cpu, ptl);
  return 0;
}

/**
 * True if an entry of a VMA with these flags may let the hardware write without a fault: the memory is
 * shared, or the frame is this VMA's alone (I1), and nobody looks for who writes. @kernel can_change_pte_writable
 */
export function mayMapWritable(cpu: Cpu, vmFlags: number, entry: number): boolean {
  if ((vmFlags & VM_WRITE) === 0) return false;
  if (((vmFlags & VM_SOFTDIRTY) | (entry & PTE_SOFT_DIRTY)) === 0) return false; // who writes it is to be seen
  if ((vmFlags & VM_SHARED) !== 0) return true;
  const pfn = ptePfn(entry);
  return pfn !== ZERO_PFN && pageHasFlag(cpu, pfn, PG_ANON_EXCLUSIVE);
}

/**
 * A page that is mapped read-only is wanted for writing, or (without `isWrite`) for its own: makes the entry writable
 * if the frame is ours alone, and tells nobody, because nothing is taken away; else replaces the frame by a copy.
 * @kernel do_wp_page
 */
function doWpPage(
  cpu: Cpu,
  vma: VmAreaStruct,
  va: Va,
  pte: Pte,
  entry: number,
  isWrite: boolean,
): number {
  const pfn = ptePfn(entry);
  const vmFlags = read(cpu, vma, VmAreaStruct.flags);
  if (tableState(cpu, pte) === TABLE_HUGE) {
    if (reuseHugePage(cpu, pte, isWrite ? newPteFlags(vmFlags, true) : 0)) return 0;
    splitHugePmd(cpu, read(cpu, vma, VmAreaStruct.mm), va);
  }
  const isShared = (vmFlags & (VM_SHARED | VM_MAYSHARE)) !== 0;
  const ptl = pteLockptr(cpu, pte);
  spinLock(cpu, ptl);
  const isSame = isReadOnlyMapping(pteGet(cpu, pte), pfn);
  const reuse = isSame && (isShared || canReuse(cpu, vma, pfn));
  if (reuse && isWrite) pteUpdateFlags(cpu, pte, 0, newPteFlags(vmFlags, true));
  const mustCopy = isSame && !reuse;
  if (mustCopy && pfn !== ZERO_PFN) getPage(cpu, pfn); // it must stay while it is copied
  spinUnlock(cpu, ptl);
  return mustCopy ? copyOnWrite(cpu, vma, va, pte, pfn, isWrite) : 0;
}

/** True if the entry still maps that frame without the right to write. */
function isReadOnlyMapping(entry: number, pfn: Pfn): boolean {
  return ptePfn(entry) === pfn && (entry & (PTE_PRESENT | PTE_WRITE)) === PTE_PRESENT;
}

/** True if the frame is anonymous and nobody else can have it. @kernel wp_can_reuse_anon_folio */
function canReuse(cpu: Cpu, vma: VmAreaStruct, pfn: Pfn): boolean {
  if (pfn === ZERO_PFN || !pageHasFlag(cpu, pfn, PG_ANON)) return false;
  if (pageHasFlag(cpu, pfn, PG_ANON_EXCLUSIVE)) return true;
  const page = pageOf(cpu, pfn);
  if (!trylockPage(cpu, page)) return false;
  pageFreeSwap(cpu, pfn);
  const isAlone = pageRefcount(cpu, pfn) === 1;
  if (isAlone) {
    moveAnonRmap(cpu, pfn, vma);
    pageSetFlags(cpu, pfn, PG_ANON_EXCLUSIVE);
  }
  unlockPage(cpu, page);
  return isAlone;
}

/**
 * Replaces the frame, to which we hold a reference, by a copy: notifiers first, then clear and flush,
 * then the new entry (I2). @kernel wp_page_copy
 */
function copyOnWrite(
  cpu: Cpu,
  vma: VmAreaStruct,
  va: Va,
  pte: Pte,
  old: Pfn,
  isWrite: boolean,
): number {
  const mm = read(cpu, vma, VmAreaStruct.mm);
  const own = anonVmaPrepare(cpu, vma) ? copyOf(cpu, old) : 0;
  if (own === 0) {
    putPage(cpu, old);
    return VM_FAULT_OOM;
  }
  setAnonRmap(cpu, own, vma, va);
  const range = stackPush(cpu, MmuNotifierRange);
  mmuNotifierRangeInit(cpu, range, MMU_NOTIFY_CLEAR, mm, va, va + PAGE_SIZE);
  mmuNotifierInvalidateRangeStart(cpu, range);
  const replaced = replaceFrame(cpu, vma, va, pte, old, own, isWrite);
  mmuNotifierInvalidateRangeEnd(cpu, range);
  stackPop(cpu, range);
  if (!replaced) putPage(cpu, own);
  else if (old === ZERO_PFN) addRss(cpu, mm, 1);
  else {
    freeSwapCache(cpu, old);
    putPage(cpu, old); // the entry's reference
  }
  putPage(cpu, old); // ours
  return 0;
}

/**
 * Exchanges the entry's frame for `own`, unless the entry has changed. Devices that walk the page table drop what
 * they have of the page while there is no entry: else they could use the new frame of a page that was copied
 * later, and still the old one of this (LT-24).
 */
function replaceFrame(
  cpu: Cpu,
  vma: VmAreaStruct,
  va: Va,
  pte: Pte,
  old: Pfn,
  own: Pfn,
  isWrite: boolean,
): boolean {
  const mm = read(cpu, vma, VmAreaStruct.mm);
  const ptl = pteLockptr(cpu, pte);
  spinLock(cpu, ptl);
  const isSame = isReadOnlyMapping(pteGet(cpu, pte), old);
  if (isSame) {
    pteGetAndClear(cpu, pte);
    flushTlbPage(cpu, mm, va);
    if (old !== ZERO_PFN) pageRemoveRmap(cpu, old);
    addPage(cpu, vma, own);
    const vmFlags = read(cpu, vma, VmAreaStruct.flags);
    setPte(cpu, pte, makePte(own, newPteFlags(isWrite ? vmFlags : vmFlags & ~VM_WRITE, isWrite)));
  }
  spinUnlock(cpu, ptl);
  if (isMutant(cpu, M_SECONDARY_LATE)) {
    mmuNotifierArchInvalidateSecondaryTlbs(cpu, mm, va, va + PAGE_SIZE);
  }
  return isSame;
}
