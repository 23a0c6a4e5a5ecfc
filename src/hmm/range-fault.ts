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
 * Cost       One pass over the entries of each table, at the speed of a copy while they are as wanted.
 *
 * Addresses stay in the range and in local variables: V8 puts a 48-bit address that is passed to a
 * function on its heap, and this is a hot path.
 *
 * @module
 */
import { assertHeld } from '#debug';
import { read, readAddress, readOnceCells, readOnceCellsWhile, write, writeAddress } from '#memory';

import { bug } from '../base/bug.js';
import { EBUSY, EFAULT, EPERM } from '../base/errno.js';
import { PAGE_SIZE } from '../base/units.js';
import type { Cpu } from '../machine/cpu.js';
import { pageOf, type Pfn } from '../machine/page-alloc.js';
import { addressCell, member, NULL } from '../memory/layout.js';
import { DevPagemap } from '../memremap/types.js';
import { pagePgmap } from '../memremap/zone-device.js';
import { migrationEntryWait } from '../mm/device-fault.js';
import { FAULT_FLAG_REMOTE, FAULT_FLAG_WRITE, handleMmFault, VM_FAULT_ERROR } from '../mm/fault.js';
import { TABLE_HUGE, tableState } from '../mm/huge.js';
import { pageHigh, pageLowIn, pteOffset, PTRS_PER_TABLE } from '../mm/page-table.js';
import {
  NO_PTE,
  Pte,
  PTE_PFN_SHIFT,
  PTE_PRESENT,
  PTE_PROTNONE,
  PTE_SPECIAL,
  PTE_WRITE,
  pteIsDevicePrivate,
  pteIsMigration,
  pteIsPfnSwap,
  pteIsSwap,
  ptePfn,
} from '../mm/pte.js';
import { MmStruct, VM_IO, VM_PFNMAP, VM_READ, VM_WRITE, VmAreaStruct } from '../mm/types.js';
import { vmaTreeFindAt } from '../mm/vma-tree.js';
import { mmuIntervalCheckRetry } from '../notifier/mmu-interval-notifier.js';
import { MmuIntervalNotifier } from '../notifier/types.js';
import {
  HMM_PFN_ERROR,
  HMM_PFN_ORDER_SHIFT,
  HMM_PFN_REQ_FAULT,
  HMM_PFN_REQ_WRITE,
  HMM_PFN_VALID,
  HMM_PFN_WRITE,
  HmmPfn,
  HmmRange,
} from './types.js';

// an entry's lowest bits, a page's and those of a request are the same: entries are copied
const FLAGS_AGREE =
  PTE_PRESENT === HMM_PFN_VALID &&
  PTE_WRITE === HMM_PFN_WRITE &&
  HMM_PFN_REQ_FAULT === HMM_PFN_VALID &&
  HMM_PFN_REQ_WRITE === HMM_PFN_WRITE;
if (!FLAGS_AGREE) bug('page table entries and HMM pages have different flags');
const REQUEST_BITS = HMM_PFN_REQ_FAULT | HMM_PFN_REQ_WRITE;
const FRAME = -1 << PTE_PFN_SHIFT;
const KEPT = FRAME | PTE_PRESENT | PTE_WRITE;

/** How large the mapping is that a page is part of, if that is a huge page. */
const HUGE_ORDER = 9 << HMM_PFN_ORDER_SHIFT;

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
  assertHeld(cpu, member(mm, MmStruct.mmapLock));
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
  const end = readAddress(cpu, range, HmmRange.end);
  const pages = ((end - start) / PAGE_SIZE) | 0;
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
      if (border < end) stop = ((border - start) / PAGE_SIZE) | 0;
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
    const high = pageHigh(at);
    const low = pageLowIn(at, high);
    const inTable = PTRS_PER_TABLE - (low & (PTRS_PER_TABLE - 1));
    const end = i + inTable < stop ? i + inTable : stop;
    const first = pteOffset(cpu, pgd, high, low);
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
  if (tableState(cpu, first) === TABLE_HUGE) return walkHuge(cpu, range, vma, first, index, end);
  const mask = read(cpu, range, HmmRange.pfnFlagsMask);
  const wanted = read(cpu, range, HmmRange.defaultFlags);
  const pages = (read(cpu, range, HmmRange.pfns) + index * HmmPfn.words) as HmmPfn;
  const needed = PTE_PRESENT | ((wanted & HMM_PFN_REQ_FAULT) === 0 ? 0 : wanted & REQUEST_BITS);
  const test = needed | PTE_SPECIAL;
  const count = end - index;
  for (let i = 0; i < count; i++) {
    let request = wanted;
    if (mask === 0) {
      const pte = first + i * Pte.words;
      i += readOnceCellsWhile(cpu, pages + i * HmmPfn.words, pte, count - i, test, needed, KEPT);
      if (i === count) break;
    } else {
      request |= read(cpu, (pages + i * HmmPfn.words) as HmmPfn, HmmPfn.entry) & mask;
    }
    const pte = (first + i * Pte.words) as Pte;
    const result = handlePte(cpu, range, vma, pte, index + i, end, request);
    if (result !== 0) return result;
  }
  return 0;
}

/**
 * As walkTable, for a table that maps a huge page: all its pages have the same rights, so what any of them needs, all
 * are faulted in for. @kernel hmm_vma_handle_pmd
 */
function walkHuge(
  cpu: Cpu,
  range: HmmRange,
  vma: VmAreaStruct,
  first: Pte,
  index: number,
  end: number,
): number {
  const copy = cpu.scratch as Pte;
  readOnceCells(cpu, copy, first, end - index);
  const given = read(cpu, copy, Pte.entry) & (PTE_PRESENT | PTE_WRITE);
  const request = requestsOf(cpu, range, index, end);
  const isUsable = (given & PTE_PRESENT) !== 0;
  const needsWrite = (request & HMM_PFN_REQ_WRITE) !== 0 && (given & PTE_WRITE) === 0;
  if ((request & HMM_PFN_REQ_FAULT) !== 0 && (!isUsable || needsWrite)) {
    return faultPages(cpu, range, vma, index, end, needsWrite);
  }
  for (let i = index; i < end; i++) {
    const at = (copy + (i - index) * Pte.words) as Pte;
    const entry = read(cpu, at, Pte.entry);
    const shown = isUsable ? (entry & KEPT) | HUGE_ORDER : 0;
    setPage(cpu, range, i, shown, read(cpu, at, Pte.generation));
  }
  return 0;
}

/**
 * One entry as it is now: 0 if the page has been filled in. @kernel hmm_vma_handle_pte
 */
function handlePte(
  cpu: Cpu,
  range: HmmRange,
  vma: VmAreaStruct,
  pte: Pte,
  index: number,
  end: number,
  request: number,
): number {
  const copy = cpu.scratch as Pte;
  readOnceCells(cpu, copy, pte, 1);
  const entry = read(cpu, copy, Pte.entry);
  if (pteIsPfnSwap(entry)) return handlePfnSwap(cpu, range, vma, pte, index, end, request);
  const isUsable = (entry & PTE_PRESENT) !== 0;
  const isSpecial = isUsable && (entry & PTE_SPECIAL) !== 0;
  const isHidden = (entry & PTE_PROTNONE) !== 0;
  const wantsFault = (request & HMM_PFN_REQ_FAULT) !== 0;
  const given = isUsable ? entry : 0; // a hidden entry keeps its right to write, but gives none now
  const needsWrite = wantsFault && (request & ~given & HMM_PFN_REQ_WRITE) !== 0;
  if (wantsFault && (!isUsable || needsWrite)) {
    const canFault = isUsable || entry === 0 || isHidden || pteIsSwap(entry);
    return canFault ? faultPages(cpu, range, vma, index, end, needsWrite) : -EFAULT;
  }
  if (isSpecial && wantsFault) return -EFAULT; // there is no frame to give, even if the CPUs may use it
  const generation = read(cpu, copy, Pte.generation);
  if (isSpecial) setPage(cpu, range, index, HMM_PFN_ERROR, 0);
  else if (isUsable) setPage(cpu, range, index, entry & KEPT, generation);
  else setPage(cpu, range, index, isHidden ? entry & FRAME : 0, generation);
  return 0;
}

/**
 * An entry that stands for a page with a frame: the device's own memory is reported as it is, even if it may not be
 * written and is wanted for that; what is on its way is waited for; the rest is faulted in. `cpu.scratch` has the entry.
 */
function handlePfnSwap(
  cpu: Cpu,
  range: HmmRange,
  vma: VmAreaStruct,
  pte: Pte,
  index: number,
  end: number,
  request: number,
): number {
  const copy = cpu.scratch as Pte;
  const entry = read(cpu, copy, Pte.entry);
  if (pteIsDevicePrivate(entry) && isOwn(cpu, range, ptePfn(entry))) {
    const shown = (entry & (FRAME | PTE_WRITE)) | HMM_PFN_VALID;
    setPage(cpu, range, index, shown, read(cpu, copy, Pte.generation));
    return 0;
  }
  if ((request & HMM_PFN_REQ_FAULT) === 0) {
    setPage(cpu, range, index, 0, 0);
    return 0;
  }
  if (!pteIsMigration(entry)) {
    return faultPages(cpu, range, vma, index, end, (request & HMM_PFN_REQ_WRITE) !== 0);
  }
  write(cpu, range, HmmRange.done, index);
  migrationEntryWait(cpu, pte);
  return AGAIN;
}

/** True for memory of the device that asks. */
function isOwn(cpu: Cpu, range: HmmRange, pfn: Pfn): boolean {
  const owner = read(cpu, range, HmmRange.devPrivateOwner);
  return read(cpu, pagePgmap(cpu, pageOf(cpu, pfn)), DevPagemap.owner) === owner;
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
  for (let i = index; i < end; i++) setPage(cpu, range, i, 0, 0);
  return 0;
}

/** There is no memory a device could use: -EFAULT if any page of it is wanted. */
function fillErrors(cpu: Cpu, range: HmmRange, index: number, end: number): number {
  if ((requestsOf(cpu, range, index, end) & HMM_PFN_REQ_FAULT) !== 0) return -EFAULT;
  for (let i = index; i < end; i++) setPage(cpu, range, i, HMM_PFN_ERROR, 0);
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

function setPage(
  cpu: Cpu,
  range: HmmRange,
  index: number,
  entry: number,
  generation: number,
): void {
  const page = (read(cpu, range, HmmRange.pfns) + index * HmmPfn.words) as HmmPfn;
  write(cpu, page, HmmPfn.entry, entry);
  write(cpu, page, HmmPfn.generation, generation);
}
