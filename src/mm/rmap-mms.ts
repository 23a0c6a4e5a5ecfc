/**
 * The address spaces that anonymous pages are looked for in, and what keeps their page tables meanwhile.
 *
 * Kernel     mm/rmap.c, include/linux/rmap.h (anon_vma_lock_write), mm/mmap.c (mmlist)
 * Protocol   An address space is on the list from when it is made until nothing is mapped in it any more. Who walks
 *            has its rmapLock for reading; for writing has it who frees or moves page tables, or exchanges what a whole
 *            one maps.
 * Ordering   rmapLock: mm/rmap.ts. mmsLock is a leaf, and protects the list.
 *
 * @module
 */
import type { Cpu } from '../machine/cpu.js';
import { lockClass } from '../machine/lock-class.js';
import { reclaims } from '../machine/page-alloc.js';
import { containerOf, member } from '../memory/layout.js';
import { initListHead, listAddTail, listDelInit, listNext } from '../memory/list.js';
import { mmgrab } from '../notifier/mm-count.js';
import { downWrite, initRwsem, upWrite } from '../sync/rwsem.js';
import { spinLock, spinUnlock } from '../sync/spinlock.js';
import { reclaimOf } from './lru.js';
import { MmStruct, Reclaim } from './types.js';

const RMAP_LOCK = lockClass('anon_vma->rwsem');
const ALL_LOCK = lockClass('mm_all_locks');

/** A new address space can be found. */
export function rmapAddMm(cpu: Cpu, mm: MmStruct): void {
  initRwsem(cpu, member(mm, MmStruct.rmapLock), RMAP_LOCK);
  initRwsem(cpu, member(mm, MmStruct.allLock), ALL_LOCK);
  initListHead(cpu, member(mm, MmStruct.mmlist));
  if (!reclaims(cpu)) return;
  const reclaim = reclaimOf(cpu);
  spinLock(cpu, member(reclaim, Reclaim.mmsLock));
  listAddTail(cpu, member(mm, MmStruct.mmlist), member(reclaim, Reclaim.mms));
  spinUnlock(cpu, member(reclaim, Reclaim.mmsLock));
}

/** An address space that has nothing mapped any more cannot be found. */
export function rmapRemoveMm(cpu: Cpu, mm: MmStruct): void {
  if (!reclaims(cpu)) return;
  const reclaim = reclaimOf(cpu);
  spinLock(cpu, member(reclaim, Reclaim.mmsLock));
  listDelInit(cpu, member(mm, MmStruct.mmlist));
  spinUnlock(cpu, member(reclaim, Reclaim.mmsLock));
}

/** Keeps out who comes by a reverse map (I1); nothing on a machine that does not reclaim. Sleeps. @kernel anon_vma_lock_write */
export function rmapLock(cpu: Cpu, mm: MmStruct): void {
  if (reclaims(cpu)) downWrite(cpu, member(mm, MmStruct.rmapLock));
}

/** @kernel anon_vma_unlock_write */
export function rmapUnlock(cpu: Cpu, mm: MmStruct): void {
  if (reclaims(cpu)) upWrite(cpu, member(mm, MmStruct.rmapLock));
}

/** All address spaces, each pinned by its count. For a walk by a reverse map. */
export function pinMms(cpu: Cpu): MmStruct[] {
  const reclaim = reclaimOf(cpu);
  const head = member(reclaim, Reclaim.mms);
  const mms: MmStruct[] = [];
  spinLock(cpu, member(reclaim, Reclaim.mmsLock));
  for (let item = listNext(cpu, head); item !== head; item = listNext(cpu, item)) {
    const mm: MmStruct = containerOf(item, MmStruct.mmlist);
    mmgrab(cpu, mm); // on the list, so its users have not gone
    mms.push(mm);
  }
  spinUnlock(cpu, member(reclaim, Reclaim.mmsLock));
  return mms;
}
