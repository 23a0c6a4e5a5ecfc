/**
 * Pages of a program that the kernel holds on to, or looks into: pins for devices, references, and access to the
 * memory of another process.
 *
 * Kernel     mm/gup.c, mm/memory.c (__access_remote_vm)
 * Protocol   For each page: fault it in until its entry allows what is wanted, then take the reference under the page
 *            table lock. A pin counts as PIN_BIAS references, so that it can be told from others: fork gives the
 *            child a copy of a pinned page at once, and nobody pages it out.
 *              pin for writing       the entry must be writable
 *              pin for reading       the page must be this address space's own: one that is shared with a child,
 *                                    the zero page, a file's in a private mapping are replaced by a copy first
 *              reference             present is enough
 *              access by force       may write private memory that the program may not: into a page of its own,
 *                                    which stays read-only
 * Invariant  I1  A pinned anonymous page is exclusive, and stays mapped: what the device sees is what the program
 *                sees.
 *            I2  A page that is accessed by force is not shared with a child meanwhile, who would see a write, or be
 *                left with it alone: the mmap lock is held to the end.
 * Ordering   The mmap lock for reading. A stack does not grow.
 *
 * @module
 */
import { fetchAdd, fetchOr, read, readOnce, writeOnce } from '#memory';
import { BUSTED_REMOTE_WRITE, isMutant } from '#mutants';

import { EFAULT, EIO, ENOMEM } from '../base/errno.js';
import { PAGE_SIZE, pageAlignDown, WORD_BYTES } from '../base/units.js';
import type { Cpu } from '../machine/cpu.js';
import { frameWord } from '../machine/frame.js';
import {
  frameOf,
  pageOf,
  type Pfn,
  PG_ANON,
  PG_ANON_EXCLUSIVE,
  PG_DEVICE_COHERENT,
  ZERO_PFN,
} from '../machine/page-alloc.js';
import { Page } from '../machine/types.js';
import { NULL, type Va } from '../memory/layout.js';
import { spinLock, spinUnlock } from '../sync/spinlock.js';
import {
  FAULT_FLAG_REMOTE,
  FAULT_FLAG_UNSHARE,
  FAULT_FLAG_WRITE,
  handleMmFault,
  VM_FAULT_ERROR,
  VM_FAULT_OOM,
} from './fault.js';
import { splitHugePmd, TABLE_HUGE, tableState } from './huge.js';
import { migrateDeviceCoherentPage } from './migrate-device.js';
import { mmapReadLock, mmapReadUnlock } from './mmap-lock.js';
import { getPage, pageHasFlag, PIN_BIAS, putPage, putPages } from './page.js';
import { pteLockptr, pteOf } from './page-table.js';
import { NO_PTE, PTE_PRESENT, PTE_WRITE, pteGet, pteHasFrame, ptePfn } from './pte.js';
import {
  MMF_HAS_PINNED,
  MmStruct,
  VM_ACCESS_FLAGS,
  VM_IO,
  VM_MAYREAD,
  VM_MAYWRITE,
  VM_PFNMAP,
  VM_READ,
  VM_SHARED,
  VM_WRITE,
  VmAreaStruct,
} from './types.js';
import { vmaFlags, vmaLookup } from './vma.js';

/** For writing. */
export const FOLL_WRITE = 1;
/** A pin for long, and not just a reference. @kernel FOLL_PIN | FOLL_LONGTERM */
export const FOLL_PIN = 2;
/** Also what the program itself may not do. */
export const FOLL_FORCE = 4;
/** A huge page is made small first. @kernel FOLL_SPLIT_PMD */
export const FOLL_SPLIT = 8;

/**
 * Takes a page for the caller: its frame, or 0 and `cpu.gupError` says why (-EFAULT, -ENOMEM). Give it back with
 * putUserPage. No lock held. Sleeps. @kernel pin_user_pages, get_user_pages
 */
export function getUserPage(cpu: Cpu, mm: MmStruct, va: Va, flags: number): Pfn {
  mmapReadLock(cpu, mm);
  const pfn = getUserPageLocked(cpu, mm, va, flags);
  mmapReadUnlock(cpu, mm);
  return pfn;
}

/** Gives back what getUserPage with these flags took. @kernel unpin_user_page, put_page */
export function putUserPage(cpu: Cpu, pfn: Pfn, flags: number): void {
  if ((flags & FOLL_PIN) !== 0) putPages(cpu, pfn, PIN_BIAS);
  else putPage(cpu, pfn);
}

/** As getUserPage; the mmap lock must be held for reading. @kernel __get_user_pages */
export function getUserPageLocked(cpu: Cpu, mm: MmStruct, va: Va, flags: number): Pfn {
  cpu.gupError = 0;
  const vma = vmaLookup(cpu, mm, va);
  if (vma === NULL || !mayFollow(vmaFlags(cpu, vma), flags)) {
    cpu.gupError = -EFAULT;
    return 0;
  }
  if ((flags & FOLL_PIN) !== 0) fetchOr(cpu, mm, MmStruct.flags, MMF_HAS_PINNED);
  for (;;) {
    const pfn = followPage(cpu, vma, va, flags);
    if (pfn === MUST_SPLIT) {
      splitHugePmd(cpu, mm, va);
      continue;
    }
    if (pfn > 0 && !mustMoveOut(cpu, pfn, flags)) return pfn;
    if (pfn > 0) {
      cpu.gupError = moveOut(cpu, pfn);
      if (cpu.gupError !== 0) return 0;
      continue;
    }
    const unshares = pfn === MUST_UNSHARE ? FAULT_FLAG_UNSHARE : 0;
    const writes = (flags & FOLL_WRITE) !== 0 ? FAULT_FLAG_WRITE : 0;
    const fault = handleMmFault(cpu, vma, va, FAULT_FLAG_REMOTE | writes | unshares);
    if ((fault & VM_FAULT_ERROR) === 0) continue;
    cpu.gupError = (fault & VM_FAULT_OOM) !== 0 ? -ENOMEM : -EFAULT;
    return 0;
  }
}

/** @kernel check_vma_flags */
function mayFollow(vmFlags: number, flags: number): boolean {
  if ((vmFlags & (VM_IO | VM_PFNMAP)) !== 0) return false;
  const forces = (flags & FOLL_FORCE) !== 0;
  if ((flags & FOLL_WRITE) === 0) {
    return (vmFlags & VM_READ) !== 0 || (forces && (vmFlags & VM_MAYREAD) !== 0);
  }
  return (vmFlags & VM_WRITE) !== 0 || (forces && isCowMapping(vmFlags));
}

/** True if memory is private and may be written: what is written is a copy. @kernel is_cow_mapping */
function isCowMapping(vmFlags: number): boolean {
  return (vmFlags & (VM_SHARED | VM_MAYWRITE)) === VM_MAYWRITE;
}

/** The entry does not allow it yet. */
const MUST_FAULT = 0;
/** The page is not the address space's own. */
const MUST_UNSHARE = -1;

/** The page is part of a huge one. */
const MUST_SPLIT = -2;

/** True for memory of a device that cannot be kept for long: the device may want to move it. @kernel folio_is_longterm_pinnable */
function mustMoveOut(cpu: Cpu, pfn: Pfn, flags: number): boolean {
  return (flags & FOLL_PIN) !== 0 && pageHasFlag(cpu, pfn, PG_DEVICE_COHERENT);
}

/** Moves it to the machine's memory; our pin is given back. @kernel migrate_longterm_unpinnable_folios */
function moveOut(cpu: Cpu, pfn: Pfn): number {
  getPage(cpu, pfn);
  putPages(cpu, pfn, PIN_BIAS);
  return migrateDeviceCoherentPage(cpu, pfn);
}

/** The page's frame, with a reference or a pin; MUST_FAULT; MUST_UNSHARE. @kernel follow_page_pte */
function followPage(cpu: Cpu, vma: VmAreaStruct, va: Va, flags: number): Pfn {
  const mm = read(cpu, vma, VmAreaStruct.mm);
  const pte = pteOf(cpu, read(cpu, mm, MmStruct.pgd), va);
  if (pte === NO_PTE) return MUST_FAULT;
  const isHuge = tableState(cpu, pte) === TABLE_HUGE;
  if ((flags & FOLL_SPLIT) !== 0 && isHuge) return MUST_SPLIT;
  const ptl = pteLockptr(cpu, pte);
  spinLock(cpu, ptl);
  const entry = pteGet(cpu, pte);
  let result: number = MUST_FAULT;
  if (mayUse(cpu, vma, entry, flags)) {
    const pfn = ptePfn(entry);
    result = mustUnshare(cpu, vma, entry, flags) ? MUST_UNSHARE : pfn;
    if (result === pfn) {
      const count = (flags & FOLL_PIN) !== 0 ? PIN_BIAS : 1;
      if (pfn !== ZERO_PFN) fetchAdd(cpu, pageOf(cpu, pfn), Page.refcount, count);
    }
  }
  spinUnlock(cpu, ptl);
  return result;
}

/** @kernel pte_protnone, can_follow_write_pte */
function mayUse(cpu: Cpu, vma: VmAreaStruct, entry: number, flags: number): boolean {
  const vmFlags = vmaFlags(cpu, vma);
  const isHidden = (entry & PTE_PRESENT) === 0;
  if (!pteHasFrame(entry) || (isHidden && (vmFlags & VM_ACCESS_FLAGS) !== 0)) return false;
  if ((flags & FOLL_WRITE) === 0 || (entry & PTE_WRITE) !== 0) return true;
  if ((flags & FOLL_FORCE) === 0 || !isCowMapping(vmFlags) || (vmFlags & VM_WRITE) !== 0)
    return false;
  const pfn = ptePfn(entry);
  return pfn !== ZERO_PFN && pageHasFlag(cpu, pfn, PG_ANON_EXCLUSIVE);
}

/** @kernel gup_must_unshare */
function mustUnshare(cpu: Cpu, vma: VmAreaStruct, entry: number, flags: number): boolean {
  const isReadPin = (flags & (FOLL_WRITE | FOLL_PIN)) === FOLL_PIN;
  if (!isReadPin || (entry & PTE_WRITE) !== 0) return false;
  const pfn = ptePfn(entry);
  if (pfn === ZERO_PFN || !pageHasFlag(cpu, pfn, PG_ANON)) return isCowMapping(vmaFlags(cpu, vma));
  return !pageHasFlag(cpu, pfn, PG_ANON_EXCLUSIVE); // I1
}

/**
 * Reads the first words of a page of another process, or writes them, by force: 0, or -EIO if there is no such
 * memory. What was read is in `words`. No lock held. Sleeps. @kernel access_remote_vm
 */
export function accessRemotePage(
  cpu: Cpu,
  mm: MmStruct,
  va: Va,
  words: number[],
  isWrite: boolean,
): number {
  const flags = FOLL_FORCE | (isWrite ? FOLL_WRITE : 0);
  mmapReadLock(cpu, mm);
  const pfn = getUserPageLocked(cpu, mm, pageAlignDown(va), flags);
  if (isMutant(cpu, BUSTED_REMOTE_WRITE)) mmapReadUnlock(cpu, mm);
  if (pfn !== 0) {
    accessFrame(cpu, pfn, (va % PAGE_SIZE) / WORD_BYTES, words, isWrite);
    putUserPage(cpu, pfn, flags);
  }
  if (!isMutant(cpu, BUSTED_REMOTE_WRITE)) mmapReadUnlock(cpu, mm); // I2
  return pfn === 0 ? -EIO : 0;
}

function accessFrame(cpu: Cpu, pfn: Pfn, first: number, words: number[], isWrite: boolean): void {
  const frame = frameOf(cpu, pfn);
  for (let i = 0; i < words.length; i++) {
    if (isWrite) writeOnce(cpu, frame, frameWord(first + i), words[i] ?? 0);
    else words[i] = readOnce(cpu, frame, frameWord(first + i));
  }
}
