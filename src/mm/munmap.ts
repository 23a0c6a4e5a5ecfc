/**
 * munmap: takes a range of addresses away.
 *
 * Kernel     mm/mmap.c (do_vmi_munmap)
 * Protocol   write lock; split the VMAs at the borders; take all VMAs of the range out of the tree;
 *            downgrade to a read lock; tell the notifiers UNMAP, once for the whole range; clear the
 *            entries; flush; free frames, page tables, VMAs; unlock.
 *            From the downgrade on, faults in the range find no VMA while the page is still mapped.
 * Invariant  I1  Either all of the range is unmapped, or (-ENOMEM, because a split failed) none of it is.
 *
 * @module
 */
import { read, readAddress, write } from '#memory';

import { EINVAL, ENOMEM } from '../base/errno.js';
import { isPageAligned, pageAlignUp, TASK_SIZE, USER_VA_END } from '../base/units.js';
import type { Cpu } from '../machine/cpu.js';
import { stackPop, stackPush } from '../machine/stack.js';
import { NULL, type Va } from '../memory/layout.js';
import {
  mmuNotifierInvalidateRangeEnd,
  mmuNotifierInvalidateRangeStart,
} from '../notifier/mmu-notifier.js';
import { MMU_NOTIFY_UNMAP, mmuNotifierRangeInit } from '../notifier/mmu-notifier-range.js';
import { MmuNotifierRange } from '../notifier/types.js';
import { mmapReadUnlock, mmapWriteDowngrade, mmapWriteLock, mmapWriteUnlock } from './mmap-lock.js';
import { tlbFinishMmu, tlbGatherMmu } from './mmu-gather.js';
import { rmapLock, rmapUnlock } from './rmap-mms.js';
import { MmStruct, VM_LOCKED, VmAreaStruct } from './types.js';
import {
  accountLocked,
  accountVm,
  findVmaIntersection,
  mapCount,
  MAX_MAP_COUNT,
  pagesIn,
  splitVmaUncounted,
  vmaEnd,
  vmaFree,
  vmaStart,
  vmaUnlink,
} from './vma.js';
import { freePgtables, unmapPageRange } from './zap.js';

/** The system call: 0, -EINVAL or -ENOMEM. No lock held. Sleeps. @kernel sys_munmap */
export function munmap(cpu: Cpu, mm: MmStruct, start: Va, length: number): number {
  mmapWriteLock(cpu, mm);
  return doMunmap(cpu, mm, start, length, true);
}

/**
 * Unmaps [start, start + length). The mmap lock is held for writing; with `unlock` it is given back here,
 * after a downgrade if there was anything to unmap; without, it is still held at the end.
 * @kernel do_vmi_munmap
 */
export function doMunmap(
  cpu: Cpu,
  mm: MmStruct,
  start: Va,
  length: number,
  unlock: boolean,
): number {
  const end = start + pageAlignUp(length);
  const isBad = !isPageAligned(start) || length <= 0 || start > TASK_SIZE || end > TASK_SIZE;
  const error = isBad ? -EINVAL : splitAt(cpu, mm, start, end);
  const first = error === 0 ? findVmaIntersection(cpu, mm, start, end) : NULL;
  if (first === NULL) {
    if (unlock) mmapWriteUnlock(cpu, mm);
    return error;
  }
  const floor = endOf(cpu, read(cpu, first, VmAreaStruct.prev));
  const detached = detachVmas(cpu, mm, first, end);
  const ceiling = startOf(cpu, detached.next);
  if (unlock) mmapWriteDowngrade(cpu, mm);
  unmapRegion(cpu, mm, detached.first, start, end, floor, ceiling);
  freeChain(cpu, detached.first);
  if (unlock) mmapReadUnlock(cpu, mm);
  return 0;
}

/** Makes `start` and `end` borders of VMAs: cutting off an end is allowed even with too many. */
function splitAt(cpu: Cpu, mm: MmStruct, start: Va, end: Va): number {
  const first = findVmaIntersection(cpu, mm, start, end);
  if (first === NULL) return 0;
  if (vmaStart(cpu, first) < start) {
    const makesHole = end < vmaEnd(cpu, first);
    if (makesHole && mapCount(cpu, mm) >= MAX_MAP_COUNT) return -ENOMEM;
    const error = splitVmaUncounted(cpu, first, start);
    if (error !== 0) return error;
  }
  const last = findVmaIntersection(cpu, mm, end - 1, end);
  if (last !== NULL && vmaEnd(cpu, last) > end) return splitVmaUncounted(cpu, last, end);
  return 0;
}

/** Takes the VMAs from `first` up to `end` out of the tree, and chains them through `next`. */
function detachVmas(
  cpu: Cpu,
  mm: MmStruct,
  first: VmAreaStruct,
  end: Va,
): { first: VmAreaStruct; next: VmAreaStruct } {
  let vma = first;
  let tail: VmAreaStruct = NULL;
  while (vma !== NULL && vmaStart(cpu, vma) < end) {
    const next = read(cpu, vma, VmAreaStruct.next);
    const pages = pagesIn(vmaStart(cpu, vma), vmaEnd(cpu, vma));
    accountVm(cpu, mm, -pages);
    if ((read(cpu, vma, VmAreaStruct.flags) & VM_LOCKED) !== 0) {
      accountLocked(cpu, mm, -pages);
    }
    vmaUnlink(cpu, mm, vma);
    write(cpu, vma, VmAreaStruct.next, NULL);
    if (tail !== NULL) write(cpu, tail, VmAreaStruct.next, vma);
    tail = vma;
    vma = next;
  }
  return { first, next: vma };
}

/** Clears and frees what a chain of detached VMAs mapped. @kernel unmap_region */
function unmapRegion(
  cpu: Cpu,
  mm: MmStruct,
  first: VmAreaStruct,
  start: Va,
  end: Va,
  floor: Va,
  ceiling: Va,
): void {
  const pgd = read(cpu, mm, MmStruct.pgd);
  const gather = tlbGatherMmu(cpu, mm);
  const range = stackPush(cpu, MmuNotifierRange);
  mmuNotifierRangeInit(cpu, range, MMU_NOTIFY_UNMAP, mm, start, end);
  mmuNotifierInvalidateRangeStart(cpu, range);
  for (let vma = first; vma !== NULL; vma = read(cpu, vma, VmAreaStruct.next)) {
    unmapPageRange(cpu, gather, pgd, vmaStart(cpu, vma), vmaEnd(cpu, vma));
  }
  mmuNotifierInvalidateRangeEnd(cpu, range);
  stackPop(cpu, range);
  rmapLock(cpu, mm);
  freePgtables(cpu, gather, pgd, start, end, floor, ceiling);
  rmapUnlock(cpu, mm);
  tlbFinishMmu(cpu, gather);
}

function freeChain(cpu: Cpu, first: VmAreaStruct): void {
  let vma = first;
  while (vma !== NULL) {
    const next = read(cpu, vma, VmAreaStruct.next);
    vmaFree(cpu, vma);
    vma = next;
  }
}

/** End of the VMA below, or the start of the address space. */
function endOf(cpu: Cpu, vma: VmAreaStruct): Va {
  return vma === NULL ? 0 : readAddress(cpu, vma, VmAreaStruct.end);
}

/** Start of the VMA above, or the end of the address space. */
function startOf(cpu: Cpu, vma: VmAreaStruct): Va {
  return vma === NULL ? USER_VA_END : readAddress(cpu, vma, VmAreaStruct.start);
}
