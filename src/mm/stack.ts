/**
 * Stacks: mappings that grow downwards when the program touches what lies below them.
 *
 * Kernel     mm/memory.c (lock_mm_and_find_vma), mm/mmap.c (expand_downwards)
 * Protocol   A fault below a VMA that may grow takes the mmap lock for writing and moves the VMA's start down to the
 *            page, if that leaves a gap to what is mapped below. Nothing is taken away, so nobody is told. Devices,
 *            and whoever looks at another's memory, do not make a stack grow.
 * Ordering   The lock is given back in between: what was found is looked up again.
 * Deviation  No limit on the size of a stack.
 *
 * @module
 */
import { read } from '#memory';

import { EFAULT, ENOMEM } from '../base/errno.js';
import { PAGE_SIZE } from '../base/units.js';
import type { Cpu } from '../machine/cpu.js';
import { NULL, type Va } from '../memory/layout.js';
import { mmapWriteLock, mmapWriteUnlock } from './mmap-lock.js';
import { type MmStruct, VM_ACCESS_FLAGS, VM_GROWSDOWN, VM_LOCKED, VmAreaStruct } from './types.js';
import {
  accountLocked,
  accountVm,
  anonVmaPrepare,
  findVma,
  growVma,
  pagesIn,
  vmaEnd,
  vmaFlags,
  vmaStart,
} from './vma.js';

/** Between a stack and what is mapped below it. Unit: bytes. @kernel stack_guard_gap */
const STACK_GUARD_GAP = 256 * PAGE_SIZE;

/** True if the VMA above an address that is in none may grow down to it. The mmap lock must be held. */
export function mayGrowTo(cpu: Cpu, vma: VmAreaStruct, va: Va): boolean {
  return vma !== NULL && va < vmaStart(cpu, vma) && (vmaFlags(cpu, vma) & VM_GROWSDOWN) !== 0;
}

/**
 * Makes the stack above `va`, a page, reach down to it: 0, -EFAULT if there is none any more, -ENOMEM if something
 * is too near below. No lock held. Sleeps. @kernel expand_stack
 */
export function expandStack(cpu: Cpu, mm: MmStruct, va: Va): number {
  mmapWriteLock(cpu, mm);
  const error = expandDownwards(cpu, mm, va);
  mmapWriteUnlock(cpu, mm);
  return error;
}

/** @kernel expand_downwards */
function expandDownwards(cpu: Cpu, mm: MmStruct, va: Va): number {
  const vma = findVma(cpu, mm, va);
  if (vma !== NULL && vmaStart(cpu, vma) <= va) return 0; // somebody else was faster
  if (!mayGrowTo(cpu, vma, va)) return -EFAULT;
  const below = read(cpu, vma, VmAreaStruct.prev);
  if (below !== NULL) {
    const flags = vmaFlags(cpu, below);
    const needsGap = (flags & VM_GROWSDOWN) === 0 && (flags & VM_ACCESS_FLAGS) !== 0;
    if (needsGap && va - vmaEnd(cpu, below) < STACK_GUARD_GAP) return -ENOMEM;
  }
  if (!anonVmaPrepare(cpu, vma)) return -ENOMEM;
  const start = vmaStart(cpu, vma);
  const pages = pagesIn(va, start);
  growVma(cpu, vma, va, vmaEnd(cpu, vma));
  accountVm(cpu, mm, pages);
  if ((vmaFlags(cpu, vma) & VM_LOCKED) !== 0) accountLocked(cpu, mm, pages);
  return 0;
}
