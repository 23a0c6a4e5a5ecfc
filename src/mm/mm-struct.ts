/**
 * Address spaces: making one, and the references that keep its memory.
 *
 * Kernel     kernel/fork.c (mm_init), include/linux/sched/mm.h
 * Protocol   `users` counts who uses the memory: tasks, and whoever did mmget. `count` (notifier/
 *            mm-count.ts) counts who uses the struct; all users together hold one. Both start at 1.
 * Invariant  I1  Once users is 0 it stays 0: mmgetNotZero fails from then on.
 *
 * @module
 */
import { cmpxchg, fetchAdd, readOnce, write, writeAddress } from '#memory';

import { bug } from '../base/bug.js';
import { PAGE_SIZE } from '../base/units.js';
import type { Cpu } from '../machine/cpu.js';
import { lockClass } from '../machine/lock-class.js';
import { kfree, kzalloc } from '../machine/slab.js';
import { initTlbContext, tlbAttach } from '../machine/tlb.js';
import { MACHINE, Machine } from '../machine/types.js';
import { member, NULL } from '../memory/layout.js';
import { initRwsem } from '../sync/rwsem.js';
import { initSeqcount } from '../sync/seqcount.js';
import { initSpinlock } from '../sync/spinlock.js';
import { allocTable } from './page-table.js';
import { MmStruct } from './types.js';
import { initVmaTree } from './vma-tree.js';

const MMAP_LOCK = lockClass('mmap_lock');
const ALL_LOCK = lockClass('mm_all_locks');
const PAGE_TABLE_LOCK = lockClass('page_table_lock');

/** Where the top-down search for room starts, if nothing else is said: below a stack of 8 MiB. */
export const DEFAULT_MMAP_BASE = 0x7fff_f780_0000;
/** Where the heap starts, if nothing else is said. */
export const DEFAULT_BRK = 0x5555_5555_0000;

/** An empty address space with one user; NULL if memory is out. @kernel mm_alloc */
export function mmAlloc(cpu: Cpu): MmStruct {
  const mm = kzalloc(cpu, MmStruct);
  if (mm === NULL) return NULL;
  const pgd = allocTable(cpu);
  if (pgd === 0) {
    kfree(cpu, MmStruct, mm);
    return NULL;
  }
  write(cpu, mm, MmStruct.pgd, pgd);
  write(cpu, mm, MmStruct.users, 1);
  write(cpu, mm, MmStruct.count, 1);
  write(cpu, mm, MmStruct.id, fetchAdd(cpu, MACHINE, Machine.mms, 1) + 1);
  initRwsem(cpu, member(mm, MmStruct.mmapLock), MMAP_LOCK);
  initSpinlock(cpu, member(mm, MmStruct.pageTableLock), PAGE_TABLE_LOCK);
  initSeqcount(cpu, member(mm, MmStruct.writeProtectSeq));
  initTlbContext(cpu, member(mm, MmStruct.tlb));
  initVmaTree(cpu, member(mm, MmStruct.vmas));
  initRwsem(cpu, member(mm, MmStruct.allLock), ALL_LOCK);
  writeAddress(cpu, mm, MmStruct.mmapBase, DEFAULT_MMAP_BASE);
  setBrk(cpu, mm, DEFAULT_BRK);
  return mm;
}

/** Says where the heap starts, and that it is empty. @kernel mm->start_brk */
export function setBrk(cpu: Cpu, mm: MmStruct, start: number): void {
  if (start % PAGE_SIZE !== 0) bug(`the heap of mm ${mm} starts inside a page`);
  writeAddress(cpu, mm, MmStruct.startBrk, start);
  writeAddress(cpu, mm, MmStruct.brk, start);
}

/** Another user; the caller is one. @kernel mmget */
export function mmget(cpu: Cpu, mm: MmStruct): void {
  fetchAdd(cpu, mm, MmStruct.users, 1);
}

/** Becomes a user, if there still is one. @kernel mmget_not_zero */
export function mmgetNotZero(cpu: Cpu, mm: MmStruct): boolean {
  let seen = readOnce(cpu, mm, MmStruct.users);
  while (seen > 0) {
    const before = cmpxchg(cpu, mm, MmStruct.users, seen, seen + 1);
    if (before === seen) return true;
    seen = before;
  }
  return false;
}

/** This CPU will use the address space. @kernel switch_mm */
export function useMm(cpu: Cpu, mm: MmStruct): void {
  tlbAttach(cpu, member(mm, MmStruct.tlb));
}

/** Counts mapped frames. @kernel add_mm_counter */
export function addRss(cpu: Cpu, mm: MmStruct, frames: number): void {
  fetchAdd(cpu, mm, MmStruct.rss, frames);
}

/** Frames mapped now. @kernel get_mm_rss */
export function mmRss(cpu: Cpu, mm: MmStruct): number {
  return readOnce(cpu, mm, MmStruct.rss);
}
