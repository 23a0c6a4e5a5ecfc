/**
 * mmap and brk: give a range of addresses a meaning.
 *
 * Kernel     mm/mmap.c (do_mmap, mmap_region, do_brk_flags, sys_brk)
 * Protocol   Nothing is made present: a mapping is a VMA, and what was there before is unmapped first.
 *            The notifiers hear of that unmapping only.
 * Invariant  I1  A call that fails leaves the address space as it was, except that MAP_FIXED may have
 *                unmapped what was there.
 * Deviation  No overcommit accounting, no resource limits, no gap kept below stacks, no hugetlb.
 *
 * @module
 */
import { read, readAddress, write, writeAddress } from '#memory';

import { EEXIST, EINVAL, ENOMEM, EOPNOTSUPP, EOVERFLOW } from '../base/errno.js';
import { isPageAligned, PAGE_SIZE, pageAlignDown, pageAlignUp, TASK_SIZE } from '../base/units.js';
import type { Cpu } from '../machine/cpu.js';
import { member, NULL, type Va } from '../memory/layout.js';
import { createFile, fput } from './file.js';
import { mmapWriteLock, mmapWriteUnlock } from './mmap-lock.js';
import { doMunmap } from './munmap.js';
import { mmPopulateIgnoringErrors } from './populate.js';
import {
  type File,
  MmStruct,
  VM_ACCOUNT,
  VM_EXEC,
  VM_GROWSDOWN,
  VM_LOCKED,
  VM_LOCKONFAULT,
  VM_MAYEXEC,
  VM_MAYREAD,
  VM_MAYSHARE,
  VM_MAYWRITE,
  VM_NORESERVE,
  VM_READ,
  VM_SHARED,
  VM_SOFTDIRTY,
  VM_WRITE,
  VmAreaStruct,
} from './types.js';
import {
  MAP_FIXED,
  MAP_FIXED_NOREPLACE,
  MAP_GROWSDOWN,
  MAP_KNOWN_FLAGS,
  MAP_LOCKED,
  MAP_NONBLOCK,
  MAP_NORESERVE,
  MAP_POPULATE,
  MAP_PRIVATE,
  MAP_SHARED,
  MAP_SHARED_VALIDATE,
  MAP_TYPE,
  PROT_EXEC,
  PROT_READ,
  PROT_WRITE,
} from './uapi.js';
import {
  accountLocked,
  accountVm,
  findVma,
  findVmaIntersection,
  mapCount,
  MAX_MAP_COUNT,
  pagesIn,
  vmaAlloc,
  vmaFree,
  type VmaKind,
  vmaLink,
  vmaMergeNew,
  vmaStart,
} from './vma.js';
import { vmaTreeLast } from './vma-tree.js';
import { vmaTreeFindGapBottomUp, vmaTreeFindGapTopDown } from './vma-tree-gap.js';

/** Lowest address that is not asked for by MAP_FIXED. @kernel mmap_min_addr */
export const MMAP_MIN_ADDR = 65536;
/** No file reaches up to here. @kernel MAX_LFS_FILESIZE */
const FILE_BYTES_MAX = 2 ** 63;
/** Where a search upwards begins when there is no room below. @kernel TASK_UNMAPPED_BASE */
const UNMAPPED_BASE = pageAlignUp(TASK_SIZE / 3);

/** VMA flags for protection bits. @kernel calc_vm_prot_bits */
export function vmProtFlags(prot: number): number {
  return (
    ((prot & PROT_READ) !== 0 ? VM_READ : 0) |
    ((prot & PROT_WRITE) !== 0 ? VM_WRITE : 0) |
    ((prot & PROT_EXEC) !== 0 ? VM_EXEC : 0)
  );
}

/**
 * The system call: the address of the mapping, or -errno. `file` is NULL for anonymous memory; offset in
 * bytes. No lock held. Sleeps. @kernel sys_mmap
 */
export function mmap(
  cpu: Cpu,
  mm: MmStruct,
  addr: Va,
  length: number,
  prot: number,
  flags: number,
  file: File,
  offset: number,
): Va {
  mmapWriteLock(cpu, mm);
  const result = doMmap(cpu, mm, addr, length, prot, flags, file, offset);
  const mustPopulate = result >= 0 && wantsPopulate(cpu, mm, flags);
  mmapWriteUnlock(cpu, mm);
  if (mustPopulate) mmPopulateIgnoringErrors(cpu, mm, result, result + pageAlignUp(length));
  return result;
}

/** The mmap lock must be held: mlockall changes what is wanted. */
function wantsPopulate(cpu: Cpu, mm: MmStruct, flags: number): boolean {
  if ((flags & (MAP_POPULATE | MAP_NONBLOCK)) === MAP_POPULATE) return true;
  if ((flags & MAP_LOCKED) !== 0) return true;
  return (read(cpu, mm, MmStruct.defFlags) & (VM_LOCKED | VM_LOCKONFAULT)) === VM_LOCKED;
}

/** @kernel do_mmap; mmap lock held for writing */
function doMmap(
  cpu: Cpu,
  mm: MmStruct,
  addr: Va,
  length: number,
  prot: number,
  flags: number,
  file: File,
  offset: number,
): Va {
  if (length === 0 || !isPageAligned(offset)) return -EINVAL;
  const size = pageAlignUp(length);
  if (length < 0 || size > TASK_SIZE) return -ENOMEM; // to Linux, a negative length is a huge one
  if (mapCount(cpu, mm) > MAX_MAP_COUNT) return -ENOMEM;
  const start = getUnmappedArea(cpu, mm, addr, size, flags);
  if (start < 0) return start;
  if ((flags & MAP_FIXED_NOREPLACE) !== 0) {
    if (findVmaIntersection(cpu, mm, start, start + size) !== NULL) return -EEXIST;
  }
  const typeError = file === NULL ? checkAnonymous(flags) : checkFile(flags, offset, size);
  if (typeError !== 0) return typeError;
  const vmFlags = mapFlags(cpu, mm, prot, flags);
  return mmapRegion(cpu, mm, start, start + size, vmFlags, file, offset);
}

/** Whether anonymous memory can be mapped like this: 0 or -errno. */
function checkAnonymous(flags: number): number {
  const type = flags & MAP_TYPE;
  if (type === MAP_PRIVATE) return 0;
  return type === MAP_SHARED && (flags & MAP_GROWSDOWN) === 0 ? 0 : -EINVAL;
}

/** Whether `size` bytes of a file can be mapped like this: 0 or -errno. */
function checkFile(flags: number, offset: number, size: number): number {
  if (offset < 0 || offset + size >= FILE_BYTES_MAX) return -EOVERFLOW;
  const type = flags & MAP_TYPE;
  if (type === MAP_SHARED_VALIDATE && (flags & ~MAP_KNOWN_FLAGS) !== 0) return -EOPNOTSUPP;
  const isKnown = type === MAP_PRIVATE || type === MAP_SHARED || type === MAP_SHARED_VALIDATE;
  return isKnown && (flags & MAP_GROWSDOWN) === 0 ? 0 : -EINVAL;
}

function mapFlags(cpu: Cpu, mm: MmStruct, prot: number, flags: number): number {
  let vmFlags = vmProtFlags(prot) | VM_MAYREAD | VM_MAYWRITE | VM_MAYEXEC | VM_SOFTDIRTY;
  vmFlags |= read(cpu, mm, MmStruct.defFlags);
  if ((flags & MAP_TYPE) !== MAP_PRIVATE) vmFlags |= VM_SHARED | VM_MAYSHARE;
  if ((flags & MAP_LOCKED) !== 0) vmFlags |= VM_LOCKED;
  if ((flags & MAP_GROWSDOWN) !== 0) vmFlags |= VM_GROWSDOWN;
  if ((flags & MAP_NORESERVE) !== 0) vmFlags |= VM_NORESERVE;
  else if ((vmFlags & (VM_WRITE | VM_SHARED)) === VM_WRITE) vmFlags |= VM_ACCOUNT;
  return vmFlags;
}

/**
 * Where `size` bytes go: at `addr` if they must or can, else at the highest free place below the mmap
 * base, else above. @kernel get_unmapped_area
 */
export function getUnmappedArea(cpu: Cpu, mm: MmStruct, addr: Va, size: number, flags: number): Va {
  if (size > TASK_SIZE) return -ENOMEM;
  if ((flags & (MAP_FIXED | MAP_FIXED_NOREPLACE)) !== 0) {
    if (addr < 0 || addr > TASK_SIZE - size) return -ENOMEM;
    return isPageAligned(addr) ? addr : -EINVAL;
  }
  const tree = member(mm, MmStruct.vmas);
  const hint = roundHint(addr);
  if (hint > 0 && hint <= TASK_SIZE - size) {
    if (findVmaIntersection(cpu, mm, hint, hint + size) === NULL) return hint;
  }
  const base = readAddress(cpu, mm, MmStruct.mmapBase);
  const below = vmaTreeFindGapTopDown(cpu, tree, size, MMAP_MIN_ADDR, base);
  if (below >= 0) return below;
  const above = vmaTreeFindGapBottomUp(cpu, tree, size, UNMAPPED_BASE, TASK_SIZE);
  return above >= 0 ? above : -ENOMEM;
}

/** @kernel round_hint_to_min */
function roundHint(addr: Va): Va {
  const hint = pageAlignDown(addr);
  return hint > 0 && hint < MMAP_MIN_ADDR ? MMAP_MIN_ADDR : hint;
}

/** Maps [start, end), unmapping what is there. @kernel mmap_region; mmap lock held for writing */
function mmapRegion(
  cpu: Cpu,
  mm: MmStruct,
  start: Va,
  end: Va,
  vmFlags: number,
  file: File,
  offset: number,
): Va {
  if (findVmaIntersection(cpu, mm, start, end) !== NULL) {
    const error = doMunmap(cpu, mm, start, end - start, false);
    if (error !== 0) return error;
  }
  const isShared = (vmFlags & VM_SHARED) !== 0;
  let backing = file;
  if (file === NULL && isShared) {
    backing = createFile(cpu, end - start, 0); // shared anonymous memory is a file without a name
    if (backing === NULL) return -ENOMEM;
  }
  const pgoff = backing === NULL ? start / PAGE_SIZE : offset / PAGE_SIZE;
  const kind = { flags: vmFlags, file: backing, pgoff, anonVma: NULL };
  const error = addVma(cpu, mm, start, end, kind);
  if (backing !== file) fput(cpu, backing); // the VMA has its own reference
  return error === 0 ? start : error;
}

/** A VMA for the free range [start, end), new or merged: 0 or -ENOMEM. mmap lock held for writing. */
export function addVma(cpu: Cpu, mm: MmStruct, start: Va, end: Va, kind: VmaKind): number {
  const next = findVma(cpu, mm, start);
  const prev =
    next === NULL
      ? vmaTreeLast(cpu, member(mm, MmStruct.vmas))
      : read(cpu, next, VmAreaStruct.prev);
  const merged = vmaMergeNew(cpu, prev, next, start, end, kind);
  if (merged !== NULL) {
    write(cpu, merged, VmAreaStruct.flags, read(cpu, merged, VmAreaStruct.flags) | VM_SOFTDIRTY);
  } else {
    const vma = vmaAlloc(cpu, mm, start, end, kind);
    if (vma === NULL) return -ENOMEM;
    const error = vmaLink(cpu, mm, vma);
    if (error !== 0) {
      vmaFree(cpu, vma);
      return error;
    }
  }
  const pages = pagesIn(start, end);
  accountVm(cpu, mm, pages);
  if ((kind.flags & VM_LOCKED) !== 0) {
    accountLocked(cpu, mm, pages);
  }
  return 0;
}

/**
 * The system call: moves the end of the heap to `brk` and returns where it is now, which is where it was
 * if that cannot be. No lock held. Sleeps. @kernel sys_brk
 */
export function brk(cpu: Cpu, mm: MmStruct, wanted: Va): Va {
  mmapWriteLock(cpu, mm);
  const old = readAddress(cpu, mm, MmStruct.brk);
  const start = readAddress(cpu, mm, MmStruct.startBrk);
  if (wanted < start || wanted >= TASK_SIZE) {
    mmapWriteUnlock(cpu, mm);
    return old;
  }
  const oldEnd = pageAlignUp(old);
  const newEnd = pageAlignUp(wanted);
  if (newEnd < oldEnd) {
    writeAddress(cpu, mm, MmStruct.brk, wanted);
    const error = doMunmap(cpu, mm, newEnd, oldEnd - newEnd, false);
    if (error !== 0) writeAddress(cpu, mm, MmStruct.brk, old);
    mmapWriteUnlock(cpu, mm);
    return error === 0 ? wanted : old;
  }
  const grown = newEnd === oldEnd || growBrk(cpu, mm, oldEnd, newEnd) === 0;
  if (grown) writeAddress(cpu, mm, MmStruct.brk, wanted);
  const isLocked = (read(cpu, mm, MmStruct.defFlags) & VM_LOCKED) !== 0;
  mmapWriteUnlock(cpu, mm);
  if (grown && isLocked && newEnd > oldEnd) mmPopulateIgnoringErrors(cpu, mm, oldEnd, newEnd);
  return grown ? wanted : old;
}

/** Maps [start, end) for the heap, if nothing is in the way. @kernel do_brk_flags */
function growBrk(cpu: Cpu, mm: MmStruct, start: Va, end: Va): number {
  const above = findVma(cpu, mm, start);
  if (above !== NULL && vmaStart(cpu, above) < end + PAGE_SIZE) return -ENOMEM;
  if (mapCount(cpu, mm) > MAX_MAP_COUNT) return -ENOMEM;
  const flags =
    VM_READ |
    VM_WRITE |
    VM_ACCOUNT |
    VM_SOFTDIRTY |
    VM_MAYREAD |
    VM_MAYWRITE |
    VM_MAYEXEC |
    read(cpu, mm, MmStruct.defFlags);
  return addVma(cpu, mm, start, end, {
    flags,
    file: NULL,
    pgoff: start / PAGE_SIZE,
    anonVma: NULL,
  });
}
