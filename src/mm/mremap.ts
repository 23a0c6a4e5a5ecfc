/**
 * mremap: makes a mapping larger or smaller, or moves it, contents and all.
 *
 * Kernel     mm/mremap.c
 * Protocol   A move makes the new VMA, moves the entries table by table, and unmaps the old range. The
 *            notifiers hear UNMAP of the old range twice, for the move and for the unmapping (once with
 *            MREMAP_DONTUNMAP), and nothing of the new one, unless something had to be unmapped there.
 * Invariant  I1  An entry is in one place at a time: taken and put under both tables' locks, and the TLBs
 *                are flushed before these are given back.
 *            I2  A call that fails has not moved anything.
 *            I3  Who goes over the VMAs of a file finds each entry, in the old place or in the new one: entries move
 *                under the file's vmasLock.
 * Ordering   The mmap lock is held for writing.
 * Deviation  Tables are not moved whole; each entry is.
 *
 * @module
 */
import { read, readAddress, write } from '#memory';

import { EFAULT, EINVAL, ENOMEM } from '../base/errno.js';
import { isPageAligned, PAGE_SIZE, pageAlignUp, TASK_SIZE } from '../base/units.js';
import { SINGLE_DEPTH_NESTING } from '../debug/lock-how.js';
import type { Cpu } from '../machine/cpu.js';
import { stackPop, stackPush } from '../machine/stack.js';
import { member, NULL, type Va } from '../memory/layout.js';
import {
  mmuNotifierInvalidateRangeEnd,
  mmuNotifierInvalidateRangeStart,
} from '../notifier/mmu-notifier.js';
import { MMU_NOTIFY_UNMAP, mmuNotifierRangeInit } from '../notifier/mmu-notifier-range.js';
import { MmuNotifierRange } from '../notifier/types.js';
import { downWrite, upWrite } from '../sync/rwsem.js';
import { spinLock, spinLockNested, spinUnlock } from '../sync/spinlock.js';
import { setTableState, splitHugePmd, TABLE_GONE, TABLE_HUGE, tableState } from './huge.js';
import { getUnmappedArea } from './mmap.js';
import { mmapWriteLock, mmapWriteUnlock } from './mmap-lock.js';
import { flushTlbMm } from './mmu-gather.js';
import { doMunmap } from './munmap.js';
import { nextPopulated, PMD_SIZE, pmdAddrEnd, pteAlloc, pteLockptr, pteOf } from './page-table.js';
import { mmPopulateIgnoringErrors } from './populate.js';
import {
  NO_PTE,
  Pte,
  PTE_SOFT_DIRTY,
  pteGet,
  pteGetAndClear,
  pteHasFrame,
  ptePfn,
  setPte,
  setSpecialPte,
} from './pte.js';
import { rmapLock, rmapUnlock } from './rmap-mms.js';
import { rmapMoved } from './rmap-place.js';
import {
  File,
  MmStruct,
  VM_DONTEXPAND,
  VM_LOCKED,
  VM_LOCKONFAULT,
  VM_MAYSHARE,
  VM_PFNMAP,
  VM_SHARED,
  VmAreaStruct,
} from './types.js';
import { MAP_FIXED, MREMAP_DONTUNMAP, MREMAP_FIXED, MREMAP_MAYMOVE } from './uapi.js';
import {
  accountLocked,
  accountVm,
  findVma,
  findVmaIntersection,
  mapCount,
  MAX_MAP_COUNT,
  pagesIn,
  vmaAlloc,
  vmaEnd,
  vmaFree,
  type VmaKind,
  vmaKind,
  vmaLink,
  vmaLookup,
  vmaMergeNew,
  vmaStart,
} from './vma.js';
import { vmaTreeLast } from './vma-tree.js';

const KNOWN_FLAGS = MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP;

/** The system call: the new address, or -errno. No lock held. Sleeps. @kernel sys_mremap */
export function mremap(
  cpu: Cpu,
  mm: MmStruct,
  addr: Va,
  oldLength: number,
  newLength: number,
  flags: number,
  newAddr: Va,
): Va {
  const oldLen = pageAlignUp(oldLength);
  const newLen = pageAlignUp(newLength);
  if (!areFlagsValid(flags, oldLength, newLength) || !isPageAligned(addr) || newLen === 0)
    return -EINVAL;
  mmapWriteLock(cpu, mm);
  const vma = vmaLookup(cpu, mm, addr);
  let result: Va;
  if (vma === NULL) result = -EFAULT;
  else if ((flags & (MREMAP_FIXED | MREMAP_DONTUNMAP)) !== 0) {
    result = mremapTo(cpu, vma, addr, oldLen, newLen, flags, newAddr);
  } else if (oldLen >= newLen) {
    const error = oldLen === newLen ? 0 : doMunmap(cpu, mm, addr + newLen, oldLen - newLen, false);
    result = error === 0 ? addr : error;
  } else {
    result = grow(cpu, vma, addr, oldLen, newLen, flags);
  }
  const mustPopulate = result >= 0 && newLen > oldLen && isLockedAt(cpu, mm, result);
  mmapWriteUnlock(cpu, mm);
  if (mustPopulate) mmPopulateIgnoringErrors(cpu, mm, result + oldLen, result + newLen);
  return result;
}

function areFlagsValid(flags: number, oldLength: number, newLength: number): boolean {
  if ((flags & ~KNOWN_FLAGS) !== 0) return false;
  if ((flags & (MREMAP_FIXED | MREMAP_MAYMOVE)) === MREMAP_FIXED) return false;
  if ((flags & MREMAP_DONTUNMAP) === 0) return true;
  return (flags & MREMAP_MAYMOVE) !== 0 && oldLength === newLength;
}

function isLockedAt(cpu: Cpu, mm: MmStruct, addr: Va): boolean {
  const vma = vmaLookup(cpu, mm, addr);
  if (vma === NULL) return false;
  return (read(cpu, vma, VmAreaStruct.flags) & (VM_LOCKED | VM_LOCKONFAULT)) === VM_LOCKED;
}

/** Whether [addr, addr + oldLen) may become newLen long: 0 or -errno. @kernel vma_to_resize */
function checkResize(
  cpu: Cpu,
  vma: VmAreaStruct,
  addr: Va,
  oldLen: number,
  newLen: number,
  flags: number,
): number {
  const vmFlags = read(cpu, vma, VmAreaStruct.flags);
  if (oldLen === 0 && (vmFlags & (VM_SHARED | VM_MAYSHARE)) === 0) return -EINVAL;
  const isFixedSize = (vmFlags & (VM_DONTEXPAND | VM_PFNMAP)) !== 0;
  if ((flags & MREMAP_DONTUNMAP) !== 0 && isFixedSize) return -EINVAL;
  if (oldLen > vmaEnd(cpu, vma) - addr) return -EFAULT;
  return newLen !== oldLen && isFixedSize ? -EFAULT : 0;
}

/** Grows in place, or moves if that is allowed. */
function grow(
  cpu: Cpu,
  vma: VmAreaStruct,
  addr: Va,
  oldLen: number,
  newLen: number,
  flags: number,
): Va {
  const mm = read(cpu, vma, VmAreaStruct.mm);
  const error = checkResize(cpu, vma, addr, oldLen, newLen, flags);
  if (error !== 0) return error;
  const end = vmaEnd(cpu, vma);
  const newEnd = addr + newLen;
  const isAtEnd = addr + oldLen === end;
  if (isAtEnd && newEnd <= TASK_SIZE && findVmaIntersection(cpu, mm, end, newEnd) === NULL) {
    const kind = vmaKind(cpu, vma);
    const pgoff = kind.pgoff + pagesIn(vmaStart(cpu, vma), end);
    vmaMergeNew(cpu, vma, read(cpu, vma, VmAreaStruct.next), end, newEnd, { ...kind, pgoff });
    accountGrowth(cpu, mm, kind.flags, pagesIn(end, newEnd));
    return addr;
  }
  if ((flags & MREMAP_MAYMOVE) === 0) return -ENOMEM;
  const target = getUnmappedArea(cpu, mm, 0, newLen, 0);
  return target < 0 ? target : moveVma(cpu, vma, addr, oldLen, newLen, target, flags);
}

function accountGrowth(cpu: Cpu, mm: MmStruct, vmFlags: number, pages: number): void {
  accountVm(cpu, mm, pages);
  if ((vmFlags & VM_LOCKED) === 0) return;
  accountLocked(cpu, mm, pages);
}

/** MREMAP_FIXED, MREMAP_DONTUNMAP. @kernel mremap_to */
function mremapTo(
  cpu: Cpu,
  first: VmAreaStruct,
  addr: Va,
  oldLength: number,
  newLen: number,
  flags: number,
  newAddr: Va,
): Va {
  const mm = read(cpu, first, VmAreaStruct.mm);
  if (!isPageAligned(newAddr)) return -EINVAL;
  if (newLen > TASK_SIZE || newAddr > TASK_SIZE - newLen) return -EINVAL;
  if (addr + oldLength > newAddr && newAddr + newLen > addr) return -EINVAL;
  if (mapCount(cpu, mm) + 2 >= MAX_MAP_COUNT - 3) return -ENOMEM;
  const isFixed = (flags & MREMAP_FIXED) !== 0;
  if (isFixed) {
    const error = doMunmap(cpu, mm, newAddr, newLen, false);
    if (error !== 0) return error;
  }
  let oldLen = oldLength;
  if (oldLen > newLen) {
    const error = doMunmap(cpu, mm, addr + newLen, oldLen - newLen, false);
    if (error !== 0) return error;
    oldLen = newLen;
  }
  const vma = vmaLookup(cpu, mm, addr);
  if (vma === NULL) return -EFAULT;
  const error = checkResize(cpu, vma, addr, oldLen, newLen, flags);
  if (error !== 0) return error;
  const target = getUnmappedArea(cpu, mm, newAddr, newLen, isFixed ? MAP_FIXED : 0);
  return target < 0 ? target : moveVma(cpu, vma, addr, oldLen, newLen, target, flags);
}

/** Moves [addr, addr + oldLen) to the free range [target, target + newLen). @kernel move_vma */
function moveVma(
  cpu: Cpu,
  vma: VmAreaStruct,
  addr: Va,
  oldLen: number,
  newLen: number,
  target: Va,
  flags: number,
): Va {
  const mm = read(cpu, vma, VmAreaStruct.mm);
  if (mapCount(cpu, mm) >= MAX_MAP_COUNT - 3) return -ENOMEM;
  const kind = vmaKind(cpu, vma);
  const isUntouched = kind.file === NULL && kind.anonVma === 0;
  const pgoff = isUntouched ? target / PAGE_SIZE : kind.pgoff + pagesIn(vmaStart(cpu, vma), addr);
  const moved = copyVma(cpu, mm, vma, target, target + newLen, { ...kind, pgoff });
  if (moved === NULL) return -ENOMEM;
  accountGrowth(cpu, mm, kind.flags, newLen / PAGE_SIZE);
  const source = vmaLookup(cpu, mm, addr); // the old VMA may have become part of the new one
  if (!movePageTables(cpu, source, moved, addr, target, oldLen)) {
    doMunmap(cpu, mm, target, newLen, false);
    return -ENOMEM;
  }
  if ((flags & MREMAP_DONTUNMAP) !== 0) {
    leaveBehind(cpu, mm, addr, oldLen);
    return target;
  }
  if (oldLen !== 0) doMunmap(cpu, mm, addr, oldLen, false); // if it cannot be split off, it stays, empty
  return target;
}

/** The old range stays mapped, but empty: it is not locked, and has no anonymous memory any more. */
function leaveBehind(cpu: Cpu, mm: MmStruct, addr: Va, oldLen: number): void {
  const vma = vmaLookup(cpu, mm, addr);
  if (vma === NULL) return;
  const vmFlags = read(cpu, vma, VmAreaStruct.flags);
  if ((vmFlags & VM_LOCKED) !== 0) {
    const pages = pagesIn(vmaStart(cpu, vma), vmaEnd(cpu, vma));
    accountLocked(cpu, mm, -pages);
    write(cpu, vma, VmAreaStruct.flags, vmFlags & ~(VM_LOCKED | VM_LOCKONFAULT));
  }
  if (vmaStart(cpu, vma) === addr && vmaEnd(cpu, vma) === addr + oldLen) {
    write(cpu, vma, VmAreaStruct.anonVma, 0);
    write(cpu, vma, VmAreaStruct.anonInherited, 0);
  }
}

/** A VMA like another at [start, end), merged if possible; NULL if memory is out. @kernel copy_vma */
function copyVma(
  cpu: Cpu,
  mm: MmStruct,
  from: VmAreaStruct,
  start: Va,
  end: Va,
  kind: VmaKind,
): VmAreaStruct {
  const next = findVma(cpu, mm, start);
  const prev =
    next === NULL
      ? vmaTreeLast(cpu, member(mm, MmStruct.vmas))
      : read(cpu, next, VmAreaStruct.prev);
  const merged = vmaMergeNew(cpu, prev, next, start, end, kind);
  if (merged !== NULL) return merged;
  const vma = vmaAlloc(cpu, mm, start, end, kind);
  if (vma === NULL) return NULL;
  const inherited = read(cpu, from, VmAreaStruct.anonInherited);
  write(cpu, vma, VmAreaStruct.anonInherited, inherited);
  if (vmaLink(cpu, mm, vma) === 0) return vma;
  vmaFree(cpu, vma);
  return NULL;
}

/** Moves all entries; false if memory for tables is out, and then none has moved (I2). @kernel move_page_tables */
function movePageTables(
  cpu: Cpu,
  from: VmAreaStruct,
  to: VmAreaStruct,
  addr: Va,
  target: Va,
  length: number,
): boolean {
  if (length === 0) return true;
  const mm = read(cpu, from, VmAreaStruct.mm);
  if (!allocTargetTables(cpu, mm, addr, target, length)) return false;
  const slack = canRealign(cpu, from, to, addr, target, length) ? addr % PMD_SIZE : 0;
  const range = stackPush(cpu, MmuNotifierRange);
  mmuNotifierRangeInit(cpu, range, MMU_NOTIFY_UNMAP, mm, addr - slack, addr + length);
  mmuNotifierInvalidateRangeStart(cpu, range);
  const pgd = read(cpu, mm, MmStruct.pgd);
  const file = read(cpu, from, VmAreaStruct.file);
  for (let va = nextPopulated(cpu, pgd, addr, addr + length); va < addr + length;) {
    const end = runEnd(va, addr, target, length);
    const isHuge = tableState(cpu, pteOf(cpu, pgd, va)) === TABLE_HUGE;
    if (isHuge && end - va !== PMD_SIZE) splitHugePmd(cpu, mm, va);
    if (file !== NULL) downWrite(cpu, member(file, File.vmasLock)); // @kernel take_rmap_locks
    rmapLock(cpu, mm);
    moveRun(cpu, mm, va, va - addr + target, (end - va) / PAGE_SIZE);
    rmapUnlock(cpu, mm);
    if (file !== NULL) upWrite(cpu, member(file, File.vmasLock));
    va = nextPopulated(cpu, pgd, end, addr + length);
  }
  mmuNotifierInvalidateRangeEnd(cpu, range);
  stackPop(cpu, range);
  return true;
}

/** Where source or target, whichever is first, comes to the end of its table. */
function runEnd(va: Va, addr: Va, target: Va, length: number): Va {
  const sourceEnd = pmdAddrEnd(va, addr + length);
  const targetEnd = pmdAddrEnd(va - addr + target, target + length);
  return Math.min(sourceEnd, targetEnd - target + addr);
}

/** Makes every table that entries will move to. */
function allocTargetTables(cpu: Cpu, mm: MmStruct, addr: Va, target: Va, length: number): boolean {
  const pgd = read(cpu, mm, MmStruct.pgd);
  const lock = member(mm, MmStruct.pageTableLock);
  for (let va = nextPopulated(cpu, pgd, addr, addr + length); va < addr + length;) {
    if (pteAlloc(cpu, pgd, lock, va - addr + target) === NO_PTE) return false;
    va = nextPopulated(cpu, pgd, runEnd(va, addr, target, length), addr + length);
  }
  return true;
}

/**
 * True if Linux would begin at the 2 MiB boundary below, to move whole tables: both addresses are equally
 * far from theirs, begin their VMAs, and nothing else is mapped in between. @kernel try_realign_addr
 */
function canRealign(
  cpu: Cpu,
  from: VmAreaStruct,
  to: VmAreaStruct,
  addr: Va,
  target: Va,
  length: number,
): boolean {
  const slack = addr % PMD_SIZE;
  if (slack === 0 || slack !== target % PMD_SIZE || length < PMD_SIZE - slack) return false;
  const mm = read(cpu, from, VmAreaStruct.mm);
  return (
    readAddress(cpu, from, VmAreaStruct.start) === addr &&
    readAddress(cpu, to, VmAreaStruct.start) === target &&
    findVmaIntersection(cpu, mm, addr - slack, addr) === NULL &&
    findVmaIntersection(cpu, mm, target - slack, target) === NULL
  );
}

/** Moves a run of entries from one table to another, or within one. @kernel move_ptes */
function moveRun(cpu: Cpu, mm: MmStruct, va: Va, target: Va, count: number): void {
  const pgd = read(cpu, mm, MmStruct.pgd);
  const from = pteOf(cpu, pgd, va);
  const to = pteOf(cpu, pgd, target);
  const fromLock = pteLockptr(cpu, from);
  const toLock = pteLockptr(cpu, to);
  spinLock(cpu, fromLock);
  if (toLock !== fromLock) spinLockNested(cpu, toLock, SINGLE_DEPTH_NESTING);
  for (let i = 0; i < count; i++) {
    const source = (from + i * Pte.words) as Pte;
    if (pteGet(cpu, source) === 0) continue;
    const entry = pteGetAndClear(cpu, source);
    const moved = (to + i * Pte.words) as Pte;
    if (pteHasFrame(entry)) {
      setPte(cpu, moved, entry | PTE_SOFT_DIRTY);
      rmapMoved(cpu, ptePfn(entry), target + i * PAGE_SIZE);
    } else setSpecialPte(cpu, moved, entry | PTE_SOFT_DIRTY);
  }
  flushTlbMm(cpu, mm);
  if (tableState(cpu, from) === TABLE_HUGE) {
    setTableState(cpu, from, TABLE_GONE);
    setTableState(cpu, to, TABLE_HUGE);
  }
  if (toLock !== fromLock) spinUnlock(cpu, toLock);
  spinUnlock(cpu, fromLock);
}
