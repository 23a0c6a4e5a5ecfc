/**
 * hmm_range_fault: what is mapped in a range, as a device's driver needs it; faulting in what it asks for.
 *
 * Kernel     mm/hmm.c
 * Protocol   The driver has begun a collision-retry section and holds the mmap lock. For each page:
 *
 *              requested  the page is               result
 *              nothing    as it is                  its frame, or 0; ERROR where there is no memory
 *              fault      valid                     its frame
 *              fault      not present               faulted in; then the walk starts over from it
 *              write      not writable              faulted in for writing; likewise
 *              either     in no VMA, not readable   -EFAULT
 *              write      in a VMA without VM_WRITE -EPERM
 *
 *            Each time the walk starts over, the interval's sequence is looked at: -EBUSY if it moved, and
 *            the driver begins again. What is returned may still be stale: only readRetry under the
 *            driver's lock tells (INV-19).
 * Ordering   Entries are read without the page table lock, each one whole, as they are at that moment.
 * Cost       A copy of the entries of each table, and one pass over the copy.
 *
 * Addresses stay in the range and in local variables: V8 puts a 48-bit address that is passed to a
 * function on its heap, and this is a hot path.
 *
 * @module
 */
import { read, readAddress, readOnceCells, write, writeAddress } from '#memory';

import { bug } from '../base/bug.js';
import { EBUSY, EFAULT, EPERM } from '../base/errno.js';
import { PAGE_SIZE } from '../base/units.js';
import { type Cpu } from '../machine/cpu.js';
import { addressCell, member, NULL } from '../memory/layout.js';
import { FAULT_FLAG_REMOTE, FAULT_FLAG_WRITE, handleMmFault, VM_FAULT_ERROR } from '../mm/fault.js';
import { pageHigh, pageLow, pteOffset, PTRS_PER_TABLE } from '../mm/page-table.js';
import {
  NO_PTE,
  Pte,
  PTE_PFN_SHIFT,
  PTE_PRESENT,
  PTE_PROTNONE,
  PTE_SPECIAL,
  PTE_WRITE,
} from '../mm/pte.js';
import { MmStruct, VM_IO, VM_PFNMAP, VM_READ, VM_WRITE, VmAreaStruct } from '../mm/types.js';
import { vmaTreeFindAt } from '../mm/vma-tree.js';
import { mmuIntervalCheckRetry } from '../notifier/mmu-interval-notifier.js';
import { MmuIntervalNotifier } from '../notifier/types.js';
import { rwsemIsLocked } from '../sync/rwsem.js';
import {
  HMM_PFN_ERROR,
  HMM_PFN_REQ_FAULT,
  HMM_PFN_REQ_WRITE,
  HMM_PFN_VALID,
  HMM_PFN_WRITE,
  HmmPfn,
  HmmRange,
} from './types.js';

// an entry's lowest bits and a page's are the same: the pass over a table copies them
const FLAGS_AGREE = PTE_PRESENT === HMM_PFN_VALID && PTE_WRITE === HMM_PFN_WRITE;
if (!FLAGS_AGREE) bug('page table entries and HMM pages have different flags');
const REQUEST_BITS = HMM_PFN_REQ_FAULT | HMM_PFN_REQ_WRITE;
const KEPT = (-1 << PTE_PFN_SHIFT) | PTE_PRESENT | PTE_WRITE;

/** The walk faulted something in: start over from there. */
const AGAIN = 1;

/**
 * Fills `pfns` for the pages of the range: 0, or -EBUSY (begin again), -EFAULT, -EPERM. Precondition: the
 * mmap lock held for reading, mm_users held, no spinlock. Sleeps. @kernel hmm_range_fault
 */
export function hmmRangeFault(cpu: Cpu, range: HmmRange): number {
  const interval = read(cpu, range, HmmRange.notifier);
  const seq = read(cpu, range, HmmRange.notifierSeq);
  const mm = read(cpu, interval, MmuIntervalNotifier.mm);
  if (!rwsemIsLocked(cpu, member(mm, MmStruct.mmapLock))) bug('hmm_range_fault without mmap_lock');
  write(cpu, range, HmmRange.done, 0);
  for (;;) {
    if (mmuIntervalCheckRetry(cpu, interval, seq)) return -EBUSY;
    const result = walkRange(cpu, range, mm);
    if (result !== AGAIN) return result;
  }
}

/** Goes over the VMAs and holes of what is not done yet. @kernel walk_page_range */
function walkRange(cpu: Cpu, range: HmmRange, mm: MmStruct): number {
  const start = readAddress(cpu, range, HmmRange.start);
  const pages = ((readAddress(cpu, range, HmmRange.end) - start) / PAGE_SIZE) | 0;
  const vmas = member(mm, MmStruct.vmas);
  const cursor = addressCell(range, HmmRange.cursor);
  let index = read(cpu, range, HmmRange.done);
  while (index < pages) {
    const at = start + index * PAGE_SIZE;
    writeAddress(cpu, range, HmmRange.cursor, at);
    const vma = vmaTreeFindAt(cpu, vmas, cursor);
    let stop = pages;
    let isHole = vma === NULL;
    if (vma !== NULL) {
      const vmaFrom = readAddress(cpu, vma, VmAreaStruct.start);
      isHole = vmaFrom > at;
      const border = isHole ? vmaFrom : readAddress(cpu, vma, VmAreaStruct.end);
      const before = (border - start) / PAGE_SIZE;
      if (before < stop) stop = before | 0;
    }
    const result = isHole
      ? fillErrors(cpu, range, index, stop)
      : walkVma(cpu, range, mm, vma, index, stop);
    if (result !== 0) return result;
    index = stop;
  }
  return 0;
}

/** Pages `index` to `stop` lie in the VMA. */
function walkVma(
  cpu: Cpu,
  range: HmmRange,
  mm: MmStruct,
  vma: VmAreaStruct,
  index: number,
  stop: number,
): number {
  const vmFlags = read(cpu, vma, VmAreaStruct.flags);
  if ((vmFlags & (VM_IO | VM_PFNMAP)) !== 0 || (vmFlags & VM_READ) === 0) {
    return fillErrors(cpu, range, index, stop);
  }
  const pgd = read(cpu, mm, MmStruct.pgd);
  const start = readAddress(cpu, range, HmmRange.start);
  for (let i = index; i < stop;) {
    const at = start + i * PAGE_SIZE;
    const low = pageLow(at);
    const inTable = PTRS_PER_TABLE - (low & (PTRS_PER_TABLE - 1));
    const end = i + inTable < stop ? i + inTable : stop;
    const first = pteOffset(cpu, pgd, pageHigh(at), low);
    const result =
      first === NO_PTE
        ? walkHole(cpu, range, vma, i, end)
        : walkTable(cpu, range, vma, first, i, end);
    if (result !== 0) return result;
    i = end;
  }
  return 0;
}

/** Pages `index` to `end` have their entries in one table, from `first` on. @kernel hmm_vma_walk_pmd */
function walkTable(
  cpu: Cpu,
  range: HmmRange,
  vma: VmAreaStruct,
  first: Pte,
  index: number,
  end: number,
): number {
  const copies = cpu.scratch as Pte;
  const pages = (read(cpu, range, HmmRange.pfns) + index * HmmPfn.words) as HmmPfn;
  const mask = read(cpu, range, HmmRange.pfnFlagsMask);
  const wanted = read(cpu, range, HmmRange.defaultFlags);
  const count = end - index;
  readOnceCells(cpu, copies, first, count);
  for (let i = 0; ; i++) {
    i = takeOrdinary(cpu, copies, pages, i, count, mask, wanted);
    if (i === count) return 0;
    const entry = read(cpu, (copies + i * Pte.words) as Pte, Pte.entry);
    const own = read(cpu, (pages + i * HmmPfn.words) as HmmPfn, HmmPfn.entry) & mask;
    const result = handleOddPte(cpu, range, vma, index + i, end, entry, own | wanted);
    if (result !== 0) return result;
  }
}

/**
 * Copies entries to pages from `from` on, up to the first that must be faulted or is no plain mapping;
 * returns where that is, or `count`. Calls nothing, so that the loop keeps what it needs in registers.
 */
function takeOrdinary(
  cpu: Cpu,
  copies: Pte,
  pages: HmmPfn,
  from: number,
  count: number,
  mask: number,
  wanted: number,
): number {
  for (let i = from; i < count; i++) {
    const copy = (copies + i * Pte.words) as Pte;
    const page = (pages + i * HmmPfn.words) as HmmPfn;
    const entry = read(cpu, copy, Pte.entry);
    const request = mask === 0 ? wanted : (read(cpu, page, HmmPfn.entry) & mask) | wanted;
    if ((request & HMM_PFN_REQ_FAULT) !== 0 && (request & ~entry & REQUEST_BITS) !== 0) return i;
    if (!isOrdinary(entry)) return i;
    write(cpu, page, HmmPfn.entry, entry & KEPT);
    write(cpu, page, HmmPfn.generation, read(cpu, copy, Pte.generation));
  }
  return count;
}

/** True if the entry is a frame that the hardware may use, or nothing at all. */
function isOrdinary(entry: number): boolean {
  return entry === 0 || (entry & (PTE_PRESENT | PTE_SPECIAL)) === PTE_PRESENT;
}

/**
 * An entry that must be faulted, or that is no plain mapping. 0 if it has been dealt with.
 * @kernel hmm_vma_handle_pte
 */
function handleOddPte(
  cpu: Cpu,
  range: HmmRange,
  vma: VmAreaStruct,
  index: number,
  end: number,
  entry: number,
  request: number,
): number {
  const isUsable = (entry & PTE_PRESENT) !== 0;
  const wantsFault = (request & HMM_PFN_REQ_FAULT) !== 0;
  const needsWrite = wantsFault && (request & ~entry & HMM_PFN_REQ_WRITE) !== 0;
  const needsFault = wantsFault && (!isUsable || needsWrite);
  if (isUsable && (entry & PTE_SPECIAL) !== 0) {
    if (needsFault) return -EFAULT;
    setPage(cpu, range, index, HMM_PFN_ERROR);
    return 0;
  }
  const isHidden = (entry & PTE_PROTNONE) !== 0;
  if (needsFault && (isUsable || entry === 0 || isHidden)) {
    return faultPages(cpu, range, vma, index, end, needsWrite);
  }
  if (needsFault) return -EFAULT;
  setPage(cpu, range, index, isHidden ? entry & (-1 << PTE_PFN_SHIFT) : 0);
  return 0;
}

/** There is no table for pages `index` to `end`. @kernel hmm_vma_walk_hole */
function walkHole(
  cpu: Cpu,
  range: HmmRange,
  vma: VmAreaStruct,
  index: number,
  end: number,
): number {
  const request = requestsOf(cpu, range, index, end);
  if ((request & HMM_PFN_REQ_FAULT) !== 0) {
    return faultPages(cpu, range, vma, index, end, (request & HMM_PFN_REQ_WRITE) !== 0);
  }
  for (let i = index; i < end; i++) setPage(cpu, range, i, 0);
  return 0;
}

/** There is no memory a device could use: -EFAULT if any page of it is wanted. */
function fillErrors(cpu: Cpu, range: HmmRange, index: number, end: number): number {
  if ((requestsOf(cpu, range, index, end) & HMM_PFN_REQ_FAULT) !== 0) return -EFAULT;
  for (let i = index; i < end; i++) setPage(cpu, range, i, HMM_PFN_ERROR);
  return 0;
}

/** What is wanted of pages that are not there, all taken together. @kernel hmm_range_need_fault */
function requestsOf(cpu: Cpu, range: HmmRange, index: number, end: number): number {
  const pfns = read(cpu, range, HmmRange.pfns);
  const mask = read(cpu, range, HmmRange.pfnFlagsMask);
  const wanted = read(cpu, range, HmmRange.defaultFlags);
  let all = 0;
  for (let i = index; i < end; i++) {
    const own =
      mask === 0 ? 0 : read(cpu, (pfns + i * HmmPfn.words) as HmmPfn, HmmPfn.entry) & mask;
    const request = own | wanted;
    if ((request & HMM_PFN_REQ_FAULT) !== 0) all |= request; // write alone asks for nothing
    if (mask === 0) break;
  }
  return all;
}

/**
 * Faults in pages `index` to `end`: AGAIN, -EPERM if they are wanted for writing and may not be written,
 * -EFAULT if that fails. @kernel hmm_vma_fault
 */
function faultPages(
  cpu: Cpu,
  range: HmmRange,
  vma: VmAreaStruct,
  index: number,
  end: number,
  isWrite: boolean,
): number {
  write(cpu, range, HmmRange.done, index);
  if (isWrite && (read(cpu, vma, VmAreaStruct.flags) & VM_WRITE) === 0) return -EPERM;
  const flags = FAULT_FLAG_REMOTE | (isWrite ? FAULT_FLAG_WRITE : 0);
  const start = readAddress(cpu, range, HmmRange.start);
  for (let i = index; i < end; i++) {
    const fault = handleMmFault(cpu, vma, start + i * PAGE_SIZE, flags);
    if ((fault & VM_FAULT_ERROR) !== 0) return -EFAULT;
  }
  return AGAIN;
}

function setPage(cpu: Cpu, range: HmmRange, index: number, entry: number): void {
  const page = (read(cpu, range, HmmRange.pfns) + index * HmmPfn.words) as HmmPfn;
  write(cpu, page, HmmPfn.entry, entry);
}
