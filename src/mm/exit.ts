/**
 * The end of an address space.
 *
 * Kernel     kernel/fork.c (mmput), mm/mmap.c (exit_mmap)
 * Protocol   The last user's mmput: tell the notifiers RELEASE, without a lock; then under the mmap lock
 *            for reading UNMAP of everything, clear all entries; then, under the lock for writing, free
 *            page tables, frames and VMAs. The intervals are still registered and are called twice; their
 *            drivers remove them later, and keep the struct until then.
 * Invariant  I1  No entry is present afterwards (INV-11).
 *
 * @module
 */
import { fetchAdd, fetchOr, read } from '#memory';

import { bug } from '../base/bug.js';
import type { Cpu } from '../machine/cpu.js';
import { mightSleep } from '../machine/sched.js';
import { stackPop, stackPush } from '../machine/stack.js';
import { member, NULL } from '../memory/layout.js';
import { mmdrop } from '../notifier/mm-count.js';
import {
  mmuNotifierInvalidateRangeEnd,
  mmuNotifierInvalidateRangeStart,
  mmuNotifierRelease,
} from '../notifier/mmu-notifier.js';
import { MMU_NOTIFY_UNMAP, mmuNotifierRangeInit, VA_MAX } from '../notifier/mmu-notifier-range.js';
import { MmuNotifierRange } from '../notifier/types.js';
import { unlinkFileVma } from './file.js';
import { mmapReadLock, mmapReadUnlock, mmapWriteLock, mmapWriteUnlock } from './mmap-lock.js';
import { type MmuGather, tlbFinishMmu, tlbGatherMmu } from './mmu-gather.js';
import { MMF_OOM_SKIP, MmStruct, VmAreaStruct } from './types.js';
import { vmaEnd, vmaFree, vmaStart } from './vma.js';
import { vmaTreeDestroy, vmaTreeFirst, vmaTreeLast } from './vma-tree.js';
import { freePgtables, unmapPageRange } from './zap.js';

/** One user less; the last takes the address space down. Sleeps. @kernel mmput */
export function mmput(cpu: Cpu, mm: MmStruct): void {
  mightSleep(cpu);
  const before = fetchAdd(cpu, mm, MmStruct.users, -1);
  if (before <= 0) bug(`mm ${mm}: mm_users underflow`);
  if (before !== 1) return;
  exitMmap(cpu, mm);
  mmdrop(cpu, mm);
}

/** Nobody uses the address space any more. Sleeps. @kernel exit_mmap */
function exitMmap(cpu: Cpu, mm: MmStruct): void {
  mmuNotifierRelease(cpu, mm);
  mmapReadLock(cpu, mm);
  const first = vmaTreeFirst(cpu, member(mm, MmStruct.vmas));
  const gather = tlbGatherMmu(cpu, mm);
  if (first !== NULL) unmapAll(cpu, gather, mm, first);
  mmapReadUnlock(cpu, mm);
  fetchOr(cpu, mm, MmStruct.flags, MMF_OOM_SKIP);
  mmapWriteLock(cpu, mm);
  if (first !== NULL) {
    const start = vmaStart(cpu, first);
    const end = vmaEnd(cpu, vmaTreeLast(cpu, member(mm, MmStruct.vmas)));
    freePgtables(cpu, gather, read(cpu, mm, MmStruct.pgd), start, end, 0, VA_MAX);
  }
  tlbFinishMmu(cpu, gather);
  freeVmas(cpu, mm, first);
  mmapWriteUnlock(cpu, mm);
}

/** @kernel unmap_vmas */
function unmapAll(cpu: Cpu, gather: MmuGather, mm: MmStruct, first: VmAreaStruct): void {
  const range = stackPush(cpu, MmuNotifierRange);
  mmuNotifierRangeInit(cpu, range, MMU_NOTIFY_UNMAP, mm, 0, VA_MAX);
  mmuNotifierInvalidateRangeStart(cpu, range);
  const pgd = read(cpu, mm, MmStruct.pgd);
  for (let vma = first; vma !== NULL; vma = read(cpu, vma, VmAreaStruct.next)) {
    unmapPageRange(cpu, gather, pgd, vmaStart(cpu, vma), vmaEnd(cpu, vma));
  }
  mmuNotifierInvalidateRangeEnd(cpu, range);
  stackPop(cpu, range);
}

function freeVmas(cpu: Cpu, mm: MmStruct, first: VmAreaStruct): void {
  vmaTreeDestroy(cpu, member(mm, MmStruct.vmas));
  for (let vma = first; vma !== NULL;) {
    const next = read(cpu, vma, VmAreaStruct.next);
    unlinkFileVma(cpu, vma);
    vmaFree(cpu, vma);
    vma = next;
  }
}
