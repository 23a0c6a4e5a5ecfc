/**
 * Who has used which page, and who has written which: both are forgotten, to be seen anew.
 *
 * Kernel     fs/proc/task_mmu.c (clear_refs_write)
 * Protocol   Referenced: the accessed bits are cleared, and nobody is told; the hardware sets them again.
 *            Soft-dirty: no VMA counts as new any more; the notifiers hear SOFT_DIRTY of the whole address space
 *            while every entry loses the right to write, so that the next write is a fault, which sets the bit.
 * Ordering   The mmap lock: for reading, to forget references, for writing, to forget writes. Tables' locks protect
 *            entries.
 *
 * @module
 */
import { read, write } from '#memory';

import { PAGE_SIZE } from '../base/units.js';
import type { Cpu } from '../machine/cpu.js';
import { stackPop, stackPush } from '../machine/stack.js';
import { member, NULL } from '../memory/layout.js';
import {
  mmuNotifierInvalidateRangeEnd,
  mmuNotifierInvalidateRangeStart,
} from '../notifier/mmu-notifier.js';
import {
  MMU_NOTIFY_SOFT_DIRTY,
  mmuNotifierRangeInit,
  VA_MAX,
} from '../notifier/mmu-notifier-range.js';
import { MmuNotifierRange } from '../notifier/types.js';
import { spinLock, spinUnlock } from '../sync/spinlock.js';
import { mmapReadLock, mmapReadUnlock, mmapWriteLock, mmapWriteUnlock } from './mmap-lock.js';
import { flushTlbMm } from './mmu-gather.js';
import { nextPopulated, pmdAddrEnd, pteLockptr, pteOf } from './page-table.js';
import {
  Pte,
  PTE_ACCESSED,
  PTE_SOFT_DIRTY,
  PTE_WRITE,
  pteGet,
  pteHasFrame,
  pteUpdateFlags,
} from './pte.js';
import { MmStruct, VM_PFNMAP, VM_SOFTDIRTY, VmAreaStruct } from './types.js';
import { vmaEnd, vmaStart } from './vma.js';
import { vmaTreeFirst } from './vma-tree.js';

/** Forgets which pages have been used. No lock held. Sleeps. @kernel clear_refs_write, CLEAR_REFS_ALL */
export function clearReferenced(cpu: Cpu, mm: MmStruct): void {
  mmapReadLock(cpu, mm);
  clearAll(cpu, mm, PTE_ACCESSED);
  flushTlbMm(cpu, mm);
  mmapReadUnlock(cpu, mm);
}

/** Forgets which pages have been written. No lock held. Sleeps. @kernel clear_refs_write, CLEAR_REFS_SOFT_DIRTY */
export function clearSoftDirty(cpu: Cpu, mm: MmStruct): void {
  mmapWriteLock(cpu, mm);
  let vma = vmaTreeFirst(cpu, member(mm, MmStruct.vmas));
  for (; vma !== NULL; vma = read(cpu, vma, VmAreaStruct.next)) {
    write(cpu, vma, VmAreaStruct.flags, read(cpu, vma, VmAreaStruct.flags) & ~VM_SOFTDIRTY);
  }
  const range = stackPush(cpu, MmuNotifierRange);
  mmuNotifierRangeInit(cpu, range, MMU_NOTIFY_SOFT_DIRTY, mm, 0, VA_MAX);
  mmuNotifierInvalidateRangeStart(cpu, range);
  clearAll(cpu, mm, PTE_SOFT_DIRTY | PTE_WRITE);
  mmuNotifierInvalidateRangeEnd(cpu, range);
  stackPop(cpu, range);
  flushTlbMm(cpu, mm);
  mmapWriteUnlock(cpu, mm);
}

/** Clears flags of all entries. @kernel walk_page_range, clear_refs_pte_range */
function clearAll(cpu: Cpu, mm: MmStruct, flags: number): void {
  const pgd = read(cpu, mm, MmStruct.pgd);
  let vma = vmaTreeFirst(cpu, member(mm, MmStruct.vmas));
  for (; vma !== NULL; vma = read(cpu, vma, VmAreaStruct.next)) {
    if ((read(cpu, vma, VmAreaStruct.flags) & VM_PFNMAP) !== 0) continue;
    const end = vmaEnd(cpu, vma);
    for (let va = nextPopulated(cpu, pgd, vmaStart(cpu, vma), end); va < end;) {
      const next = pmdAddrEnd(va, end);
      clearTable(cpu, pteOf(cpu, pgd, va), (next - va) / PAGE_SIZE, flags);
      va = nextPopulated(cpu, pgd, next, end);
    }
  }
}

function clearTable(cpu: Cpu, first: Pte, count: number, flags: number): void {
  const ptl = pteLockptr(cpu, first);
  spinLock(cpu, ptl);
  for (let i = 0; i < count; i++) {
    const pte = (first + i * Pte.words) as Pte;
    const entry = pteGet(cpu, pte);
    const clears = pteHasFrame(entry) ? flags : flags & PTE_SOFT_DIRTY; // a special entry has no other
    if ((entry & clears) !== 0) pteUpdateFlags(cpu, pte, clears, 0);
  }
  spinUnlock(cpu, ptl);
}
