/**
 * mlock, mlockall and msync: memory that must stay, and memory that must be written.
 *
 * Kernel     mm/mlock.c, mm/msync.c
 * Protocol   mlock sets VM_LOCKED in the VMAs of the range, splitting and merging them, and then faults
 *            the pages in. The notifiers hear of neither.
 *            Where memory is reclaimed, pages of locked memory are marked (PG_MLOCKED): those there are when it is locked,
 *            and others when they are mapped. Reclaim lets them be.
 * Deviation  There is no limit on locked memory. A page that several VMAs map is locked if one of them was, until one
 *            is unlocked, or nobody maps it.
 *
 * @module
 */
import { read, write } from '#memory';

import { EAGAIN, EBUSY, EFAULT, EINVAL, ENOMEM } from '../base/errno.js';
import { isPageAligned, PAGE_SIZE, pageAlignDown, pageAlignUp, TASK_SIZE } from '../base/units.js';
import type { Cpu } from '../machine/cpu.js';
import { PG_MLOCKED, reclaims, ZERO_PFN } from '../machine/page-alloc.js';
import { member, NULL, type Va } from '../memory/layout.js';
import { spinLock, spinUnlock } from '../sync/spinlock.js';
import { mmapReadLock, mmapReadUnlock, mmapWriteLock, mmapWriteUnlock } from './mmap-lock.js';
import { pageClearFlags, pageSetFlags } from './page.js';
import { nextPopulated, pmdAddrEnd, pteLockptr, pteOf } from './page-table.js';
import { mmPopulate, mmPopulateIgnoringErrors } from './populate.js';
import { Pte, pteGet, pteHasFrame, ptePfn } from './pte.js';
import { MmStruct, VM_LOCKED, VM_LOCKONFAULT, VM_SPECIAL, VmAreaStruct } from './types.js';
import {
  MCL_CURRENT,
  MCL_FUTURE,
  MCL_ONFAULT,
  MLOCK_ONFAULT,
  MS_ASYNC,
  MS_INVALIDATE,
  MS_SYNC,
} from './uapi.js';
import { accountLocked, findVma, pagesIn, vmaEnd, vmaModify, vmaStart } from './vma.js';
import { vmaTreeFirst, vmaTreeLast } from './vma-tree.js';

const LOCKED_MASK = VM_LOCKED | VM_LOCKONFAULT;

/** The system calls mlock and mlock2: 0, -EINVAL, -ENOMEM, -EAGAIN. No lock held. Sleeps. @kernel do_mlock */
export function mlock(cpu: Cpu, mm: MmStruct, start: Va, length: number, flags: number): number {
  if ((flags & ~MLOCK_ONFAULT) !== 0) return -EINVAL;
  const from = pageAlignDown(start);
  const to = pageAlignUp(start + length);
  const lockFlags = VM_LOCKED | ((flags & MLOCK_ONFAULT) !== 0 ? VM_LOCKONFAULT : 0);
  const error = applyLock(cpu, mm, from, to, lockFlags);
  if (error !== 0) return error;
  if ((flags & MLOCK_ONFAULT) !== 0) return 0;
  return posixError(mmPopulate(cpu, mm, from, to));
}

/** What mlock says of an error of populating. @kernel __mlock_posix_error_return */
function posixError(error: number): number {
  if (error === -EFAULT) return -ENOMEM;
  return error === -ENOMEM ? -EAGAIN : error;
}

/** The system call. No lock held. Sleeps. @kernel sys_munlock */
export function munlock(cpu: Cpu, mm: MmStruct, start: Va, length: number): number {
  return applyLock(cpu, mm, pageAlignDown(start), pageAlignUp(start + length), 0);
}

/** The system call. No lock held. Sleeps. @kernel sys_mlockall */
export function mlockall(cpu: Cpu, mm: MmStruct, flags: number): number {
  const isBad = (flags & ~(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT)) !== 0;
  if (flags === 0 || isBad || flags === MCL_ONFAULT) return -EINVAL;
  const lockFlags = VM_LOCKED | ((flags & MCL_ONFAULT) !== 0 ? VM_LOCKONFAULT : 0);
  applyLockAll(
    cpu,
    mm,
    (flags & MCL_FUTURE) !== 0 ? lockFlags : 0,
    (flags & MCL_CURRENT) !== 0,
    lockFlags,
  );
  if ((flags & (MCL_CURRENT | MCL_ONFAULT)) === MCL_CURRENT)
    mmPopulateIgnoringErrors(cpu, mm, 0, TASK_SIZE);
  return 0;
}

/** The system call. No lock held. Sleeps. @kernel sys_munlockall */
export function munlockall(cpu: Cpu, mm: MmStruct): number {
  applyLockAll(cpu, mm, 0, true, 0);
  return 0;
}

/** The system call; there is nothing to write to. No lock held. Sleeps. @kernel sys_msync */
export function msync(cpu: Cpu, mm: MmStruct, start: Va, length: number, flags: number): number {
  if ((flags & ~(MS_ASYNC | MS_INVALIDATE | MS_SYNC)) !== 0 || !isPageAligned(start))
    return -EINVAL;
  if ((flags & MS_ASYNC) !== 0 && (flags & MS_SYNC) !== 0) return -EINVAL;
  const end = start + pageAlignUp(length);
  let unmapped = 0;
  mmapReadLock(cpu, mm);
  for (let va = start; va < end;) {
    const vma = findVma(cpu, mm, va);
    if (vma === NULL) {
      unmapped = -ENOMEM;
      break;
    }
    if (vmaStart(cpu, vma) > va) unmapped = -ENOMEM;
    if (vmaStart(cpu, vma) >= end) break;
    const isLocked = (read(cpu, vma, VmAreaStruct.flags) & VM_LOCKED) !== 0;
    if ((flags & MS_INVALIDATE) !== 0 && isLocked) {
      unmapped = -EBUSY;
      break;
    }
    va = vmaEnd(cpu, vma);
  }
  mmapReadUnlock(cpu, mm);
  return unmapped;
}

/** @kernel apply_vma_lock_flags */
function applyLock(cpu: Cpu, mm: MmStruct, start: Va, end: Va, lockFlags: number): number {
  if (end < start || end > 2 ** 64) return -EINVAL;
  if (end === start) return 0;
  mmapWriteLock(cpu, mm);
  let error = 0;
  for (let va = start; va < end && error === 0;) {
    const vma = findVma(cpu, mm, va);
    if (vma === NULL || vmaStart(cpu, vma) > va) {
      error = -ENOMEM;
    } else {
      const to = Math.min(vmaEnd(cpu, vma), end);
      error = lockVma(cpu, mm, vma, va, to, lockFlags);
      va = to;
    }
  }
  mmapWriteUnlock(cpu, mm);
  return error;
}

/** @kernel mlock_fixup */
function lockVma(
  cpu: Cpu,
  mm: MmStruct,
  vma: VmAreaStruct,
  start: Va,
  end: Va,
  lockFlags: number,
): number {
  const oldFlags = read(cpu, vma, VmAreaStruct.flags);
  const newFlags = (oldFlags & ~LOCKED_MASK) | lockFlags;
  if (newFlags === oldFlags || (oldFlags & VM_SPECIAL) !== 0) return 0;
  const changed = vmaModify(cpu, vma, start, end, newFlags);
  if (changed === NULL) return -ENOMEM;
  write(cpu, changed, VmAreaStruct.flags, newFlags);
  const gained = (newFlags & VM_LOCKED) - (oldFlags & VM_LOCKED);
  if (gained !== 0 && reclaims(cpu)) markPages(cpu, mm, start, end, gained > 0);
  const pages = Math.sign(gained) * pagesIn(start, end);
  accountLocked(cpu, mm, pages);
  return 0;
}

/** @kernel mlock_vma_pages_range */
function markPages(cpu: Cpu, mm: MmStruct, start: Va, end: Va, isLocked: boolean): void {
  const pgd = read(cpu, mm, MmStruct.pgd);
  for (let va = nextPopulated(cpu, pgd, start, end); va < end;) {
    const next = pmdAddrEnd(va, end);
    markTable(cpu, pteOf(cpu, pgd, va), (next - va) / PAGE_SIZE, isLocked);
    va = nextPopulated(cpu, pgd, next, end);
  }
}

function markTable(cpu: Cpu, first: Pte, count: number, isLocked: boolean): void {
  const ptl = pteLockptr(cpu, first);
  spinLock(cpu, ptl);
  for (let i = 0; i < count; i++) {
    const entry = pteGet(cpu, (first + i * Pte.words) as Pte);
    const pfn = pteHasFrame(entry) ? ptePfn(entry) : ZERO_PFN;
    if (pfn === ZERO_PFN) continue;
    if (isLocked) pageSetFlags(cpu, pfn, PG_MLOCKED);
    else pageClearFlags(cpu, pfn, PG_MLOCKED);
  }
  spinUnlock(cpu, ptl);
}

/** @kernel apply_mlockall_flags */
function applyLockAll(
  cpu: Cpu,
  mm: MmStruct,
  future: number,
  current: boolean,
  lockFlags: number,
): void {
  mmapWriteLock(cpu, mm);
  const defFlags = read(cpu, mm, MmStruct.defFlags);
  write(cpu, mm, MmStruct.defFlags, (defFlags & ~LOCKED_MASK) | future);
  const tree = member(mm, MmStruct.vmas);
  const first = vmaTreeFirst(cpu, tree);
  if (current && first !== NULL) {
    const end = vmaEnd(cpu, vmaTreeLast(cpu, tree));
    for (let va = vmaStart(cpu, first); va < end;) {
      const vma = findVma(cpu, mm, va);
      if (vma === NULL) break;
      const to = vmaEnd(cpu, vma);
      lockVma(cpu, mm, vma, vmaStart(cpu, vma), to, lockFlags);
      va = to;
    }
  }
  mmapWriteUnlock(cpu, mm);
}
