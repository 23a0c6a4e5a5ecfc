/**
 * The end of an address space.
 *
 * Kernel     kernel/fork.c (mmput, mmput_async), mm/mmap.c (exit_mmap)
 * Protocol   The last user's mmput, in this order:
 *              the exit chain (mm/exit-chain.ts), which Linux has not
 *              the notifiers: RELEASE to intervals, `release` to the others; no lock
 *              mmap lock for reading: UNMAP of everything, clear all entries
 *              MMF_OOM_SKIP: there is nothing left for the OOM reaper
 *              mmap lock for writing: free page tables, flush and free frames, close VMAs, free their tree
 *              the struct's own reference
 *            The intervals are still registered when everything is unmapped, and are told twice; their drivers
 *            remove them later, and keep the struct until then. The notifiers of the list are gone by then.
 *            The OOM reaper may clear entries at the same time, with the lock for reading; not from the moment
 *            that the lock is taken for writing.
 * Invariant  I1  No entry is present afterwards (INV-11).
 *            I2  Page tables are freed while nobody else looks at them: the reaper, which has the lock for
 *                reading when it does, has left, and finds MMF_OOM_SKIP when it comes again (INV-37).
 *
 * @module
 */
import { fetchAdd, fetchOr, read } from '#memory';
import { isMutant, M_EXIT_SHARED } from '#mutants';

import { bug } from '../base/bug.js';
import type { WorkStruct } from '../deferred/types.js';
import { initWork, queueSystemWork, type WorkOps } from '../deferred/workqueue.js';
import type { Cpu } from '../machine/cpu.js';
import { lockClass } from '../machine/lock-class.js';
import { defineKernelOps } from '../machine/ops-table.js';
import { mightSleep } from '../machine/sched.js';
import { stackPop, stackPush } from '../machine/stack.js';
import { containerOf, member, NULL } from '../memory/layout.js';
import { mmdrop } from '../notifier/mm-count.js';
import {
  mmuNotifierInvalidateRangeEnd,
  mmuNotifierInvalidateRangeStart,
  mmuNotifierRelease,
} from '../notifier/mmu-notifier.js';
import { MMU_NOTIFY_UNMAP, mmuNotifierRangeInit, VA_MAX } from '../notifier/mmu-notifier-range.js';
import { MmuNotifierRange } from '../notifier/types.js';
import { callExitChain } from './exit-chain.js';
import { unlinkFileVma } from './file.js';
import { mmapReadLock, mmapReadUnlock, mmapWriteLock, mmapWriteUnlock } from './mmap-lock.js';
import { type MmuGather, tlbFinishMmu, tlbGatherMmu } from './mmu-gather.js';
import { rmapLock, rmapRemoveMm, rmapUnlock } from './rmap-mms.js';
import { MMF_OOM_SKIP, MmStruct, VmAreaStruct } from './types.js';
import { vmaEnd, vmaFree, vmaStart } from './vma.js';
import { vmaTreeDestroy, vmaTreeFirst, vmaTreeLast } from './vma-tree.js';
import { freePgtables, unmapPageRange } from './zap.js';

const ASYNC_PUT = lockClass('mmput_async');

/** One user less; the last takes the address space down. Sleeps. @kernel mmput */
export function mmput(cpu: Cpu, mm: MmStruct): void {
  mightSleep(cpu);
  if (isLastUser(cpu, mm)) mmputLast(cpu, mm);
}

/** As above, but the last has a kworker take it down. Never sleeps. @kernel mmput_async */
export function mmputAsync(cpu: Cpu, mm: MmStruct): void {
  if (!isLastUser(cpu, mm)) return;
  const work = member(mm, MmStruct.asyncPut);
  initWork(cpu, work, asyncPut, ASYNC_PUT);
  queueSystemWork(cpu, work);
}

const asyncPut: WorkOps = defineKernelOps({
  opsName: 'mmput async',
  work(cpu: Cpu, work: WorkStruct) {
    mmputLast(cpu, containerOf(work, MmStruct.asyncPut));
  },
});

function isLastUser(cpu: Cpu, mm: MmStruct): boolean {
  const before = fetchAdd(cpu, mm, MmStruct.users, -1);
  if (before <= 0) bug(`mm ${mm}: mm_users underflow`);
  return before === 1;
}

/** @kernel __mmput */
function mmputLast(cpu: Cpu, mm: MmStruct): void {
  callExitChain(cpu, mm);
  exitMmap(cpu, mm);
  mmdrop(cpu, mm);
}

/** Nobody uses the address space any more. Sleeps. @kernel exit_mmap */
function exitMmap(cpu: Cpu, mm: MmStruct): void {
  mmuNotifierRelease(cpu, mm);
  mmapReadLock(cpu, mm);
  const first = vmaTreeFirst(cpu, member(mm, MmStruct.vmas));
  if (first === NULL) {
    mmapReadUnlock(cpu, mm);
    mmapWriteLock(cpu, mm); // a reaper may still be inside
  } else {
    unmapAndFree(cpu, mm, first);
  }
  rmapRemoveMm(cpu, mm);
  vmaTreeDestroy(cpu, member(mm, MmStruct.vmas));
  mmapWriteUnlock(cpu, mm);
}

/** Leaves no mapping and no VMA. The mmap lock must be held for reading, and is held for writing afterwards. */
function unmapAndFree(cpu: Cpu, mm: MmStruct, first: VmAreaStruct): void {
  const gather = tlbGatherMmu(cpu, mm);
  unmapAll(cpu, gather, mm, first);
  if (!isMutant(cpu, M_EXIT_SHARED)) mmapReadUnlock(cpu, mm);
  fetchOr(cpu, mm, MmStruct.flags, MMF_OOM_SKIP);
  if (!isMutant(cpu, M_EXIT_SHARED)) mmapWriteLock(cpu, mm); // I2
  unlinkFileVmas(cpu, first);
  const start = vmaStart(cpu, first);
  const end = vmaEnd(cpu, vmaTreeLast(cpu, member(mm, MmStruct.vmas)));
  rmapLock(cpu, mm);
  freePgtables(cpu, gather, read(cpu, mm, MmStruct.pgd), start, end, 0, VA_MAX);
  rmapUnlock(cpu, mm);
  tlbFinishMmu(cpu, gather);
  if (isMutant(cpu, M_EXIT_SHARED)) {
    mmapReadUnlock(cpu, mm);
    mmapWriteLock(cpu, mm);
  }
  freeVmas(cpu, first);
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

/** Who shortens a file looks at page tables of no VMA that is not on its list. @kernel unlink_file_vma */
function unlinkFileVmas(cpu: Cpu, first: VmAreaStruct): void {
  for (let vma = first; vma !== NULL; vma = read(cpu, vma, VmAreaStruct.next)) {
    unlinkFileVma(cpu, vma);
  }
}

/** Closes the files of a chain of VMAs, and frees them. @kernel remove_vma */
function freeVmas(cpu: Cpu, first: VmAreaStruct): void {
  for (let vma = first; vma !== NULL;) {
    const next = read(cpu, vma, VmAreaStruct.next);
    vmaFree(cpu, vma);
    vma = next;
  }
}
