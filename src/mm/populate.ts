/**
 * Faults pages in before anybody asks for them: MAP_POPULATE, mlock, MADV_POPULATE.
 *
 * Kernel     mm/gup.c (populate_vma_page_range, __mm_populate, faultin_page_range)
 *
 * @module
 */
import { read } from '#memory';

import { EFAULT, ENOMEM } from '../base/errno.js';
import { PAGE_SIZE } from '../base/units.js';
import type { Cpu } from '../machine/cpu.js';
import { condResched } from '../machine/sched.js';
import { NULL, type Va } from '../memory/layout.js';
import { FAULT_FLAG_WRITE, handleMmFault, VM_FAULT_ERROR, VM_FAULT_OOM } from './fault.js';
import { mmapReadLock, mmapReadUnlock } from './mmap-lock.js';
import { pteOf } from './page-table.js';
import { NO_PTE, PTE_PRESENT, PTE_WRITE, pteGet } from './pte.js';
import {
  MmStruct,
  VM_ACCESS_FLAGS,
  VM_LOCKONFAULT,
  VM_SHARED,
  VM_WRITE,
  VmAreaStruct,
} from './types.js';
import { findVmaIntersection, vmaEnd, vmaStart } from './vma.js';

/**
 * Makes the page present, and writable if `isWrite`: 0 or -errno. Precondition: mmap lock held for
 * reading, va in the VMA, the access allowed. Sleeps. @kernel faultin_page
 */
export function faultinPage(cpu: Cpu, vma: VmAreaStruct, va: Va, isWrite: boolean): number {
  const mm = read(cpu, vma, VmAreaStruct.mm);
  const needed = PTE_PRESENT | (isWrite ? PTE_WRITE : 0);
  for (;;) {
    const pte = pteOf(cpu, read(cpu, mm, MmStruct.pgd), va);
    if (pte !== NO_PTE && (pteGet(cpu, pte) & needed) === needed) return 0;
    const fault = handleMmFault(cpu, vma, va, isWrite ? FAULT_FLAG_WRITE : 0);
    if ((fault & VM_FAULT_OOM) !== 0) return -ENOMEM;
    if ((fault & VM_FAULT_ERROR) !== 0) return -EFAULT;
  }
}

/**
 * Faults in what is mapped of [start, end): private writable memory as if written. 0, or the error at
 * which it has stopped: -EFAULT, -ENOMEM. No lock held. Sleeps. @kernel __mm_populate
 */
export function mmPopulate(cpu: Cpu, mm: MmStruct, start: Va, end: Va): number {
  return populateRange(cpu, mm, start, end, false);
}

/** As above, but where it fails it goes on with the next VMA. @kernel mm_populate */
export function mmPopulateIgnoringErrors(cpu: Cpu, mm: MmStruct, start: Va, end: Va): void {
  populateRange(cpu, mm, start, end, true);
}

function populateRange(cpu: Cpu, mm: MmStruct, start: Va, end: Va, ignoresErrors: boolean): number {
  mmapReadLock(cpu, mm);
  let error = 0;
  let vma = findVmaIntersection(cpu, mm, start, end);
  while (vma !== NULL && vmaStart(cpu, vma) < end && (error === 0 || ignoresErrors)) {
    const from = Math.max(start, vmaStart(cpu, vma));
    error = populateLocked(cpu, vma, from, Math.min(end, vmaEnd(cpu, vma)));
    vma = read(cpu, vma, VmAreaStruct.next);
  }
  mmapReadUnlock(cpu, mm);
  return error;
}

/**
 * As mmPopulate for a part of one VMA; the mmap lock is held. Memory that is to be locked when it is
 * touched is left alone. @kernel populate_vma_page_range
 */
export function populateLocked(cpu: Cpu, vma: VmAreaStruct, start: Va, end: Va): number {
  const flags = read(cpu, vma, VmAreaStruct.flags);
  if ((flags & VM_LOCKONFAULT) !== 0) return 0;
  if ((flags & VM_ACCESS_FLAGS) === 0) return -EFAULT;
  const isWrite = (flags & (VM_WRITE | VM_SHARED)) === VM_WRITE;
  for (let va = start; va < end; va += PAGE_SIZE) {
    const error = faultinPage(cpu, vma, va, isWrite);
    if (error !== 0) return error;
    condResched(cpu);
  }
  return 0;
}
