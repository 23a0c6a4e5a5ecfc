/**
 * Pages that a device has alone for a while, so that its atomic operations are atomic to CPUs too.
 *
 * Kernel     mm/rmap.c (make_device_exclusive_range)
 * Protocol   Every page is faulted in for writing and referred to; then each is locked, if it can be at once, and the
 *            notifiers hear EXCLUSIVE of it, with the owner, while its entry becomes an exclusive one. The driver, which
 *            gets the pages locked, programs its device and unlocks them; from then on a CPU that wants the page takes
 *            it back (mm/device-fault.ts).
 * Invariant  I1  No CPU uses the page between the end of this and the moment in which the owner is told that one wants
 *                it (INV-29).
 * Ordering   The mmap lock for reading.
 * Deviation  A page that is part of a large folio is never made exclusive; in Linux the first of such a folio is, and
 *            takes all others along.
 *
 * @module
 */
import { read, readAddress, write, writeAddress } from '#memory';

import { PAGE_SIZE } from '../base/units.js';
import type { Cpu } from '../machine/cpu.js';
import { pageOf, type Pfn, PG_ANON, PG_LARGE } from '../machine/page-alloc.js';
import { stackPop, stackPush } from '../machine/stack.js';
import { address, pointer, type Ptr, struct, type Va, word } from '../memory/layout.js';
import {
  mmuNotifierInvalidateRangeEnd,
  mmuNotifierInvalidateRangeStart,
} from '../notifier/mmu-notifier.js';
import { MMU_NOTIFY_EXCLUSIVE, mmuNotifierRangeInitOwner } from '../notifier/mmu-notifier-range.js';
import { keepSubscribersOut, letSubscribersIn } from '../notifier/subscriptions.js';
import { MmuNotifierRange } from '../notifier/types.js';
import { trylockPage, unlockPage } from '../sync/page-lock.js';
import { spinLock, spinUnlock } from '../sync/spinlock.js';
import { pageAnonVma } from './anon-vma.js';
import { FOLL_SPLIT, FOLL_WRITE, getUserPageLocked } from './gup.js';
import { flushTlbPage } from './mmu-gather.js';
import { pageHasFlag, pageMapcount, pageRemoveRmap, putPage } from './page.js';
import { pteLockptr } from './page-table.js';
import {
  NO_PTE,
  PTE_KIND_DEVICE_EXCLUSIVE,
  PTE_PFN_SHIFT,
  PTE_SOFT_DIRTY,
  PTE_WRITE,
  pteGet,
  pteGetAndClear,
  pteHasFrame,
  ptePfn,
  setSpecialPte,
} from './pte.js';
import { rmapPte, rmapWalk } from './rmap.js';
import { type MigratePfn, MigratePfn as PageSlot, type MmStruct, VmAreaStruct } from './types.js';

/** Where a page is to be mapped, and for whom it is. @kernel struct make_exclusive_args */
const Target = struct('exclusive_target', {
  va: address,
  mm: pointer<'mm_struct'>(),
  owner: word,
  isValid: word, // it was mapped there, and could be written
});
type Target = Ptr<'exclusive_target'>;

/**
 * Gives [start, end) to a device alone: how many pages were looked at, or -errno if there are none. `pages` gets the
 * frame of each, locked and with a reference, or 0 if the device has not got it: the caller unlocks and puts them. The
 * mmap lock must be held for reading. Sleeps. @kernel make_device_exclusive_range
 */
export function makeDeviceExclusiveRange(
  cpu: Cpu,
  mm: MmStruct,
  start: Va,
  end: Va,
  pages: MigratePfn,
  owner: number,
): number {
  const count = (end - start) / PAGE_SIZE;
  let found = 0;
  for (; found < count; found++) {
    const pfn = getUserPageLocked(cpu, mm, start + found * PAGE_SIZE, FOLL_WRITE | FOLL_SPLIT);
    if (pfn === 0) break;
    write(cpu, slot(pages, found), PageSlot.entry, pfn);
  }
  if (found === 0) return cpu.gupError;
  for (let i = 0; i < found; i++) {
    const pfn = read(cpu, slot(pages, i), PageSlot.entry);
    if (makeExclusive(cpu, mm, start + i * PAGE_SIZE, pfn, owner)) continue;
    putPage(cpu, pfn);
    write(cpu, slot(pages, i), PageSlot.entry, 0);
  }
  return found;
}

function slot(pages: MigratePfn, index: number): MigratePfn {
  return (pages + index * PageSlot.words) as MigratePfn;
}

/** True if the page is locked, and mapped nowhere any more. */
function makeExclusive(cpu: Cpu, mm: MmStruct, va: Va, pfn: Pfn, owner: number): boolean {
  if (pageHasFlag(cpu, pfn, PG_LARGE) || !trylockPage(cpu, pageOf(cpu, pfn))) return false;
  if (pageHasFlag(cpu, pfn, PG_ANON)) {
    const target = stackPush(cpu, Target);
    write(cpu, target, Target.mm, mm);
    writeAddress(cpu, target, Target.va, va);
    write(cpu, target, Target.owner, owner);
    rmapWalk(cpu, pfn, pageAnonVma(cpu, pfn), makeExclusiveOne, target, true);
    const isValid = read(cpu, target, Target.isValid) !== 0;
    stackPop(cpu, target);
    if (isValid && pageMapcount(cpu, pfn) === 0) return true;
  }
  unlockPage(cpu, pageOf(cpu, pfn));
  return false;
}

/** @kernel page_make_device_exclusive_one */
function makeExclusiveOne(cpu: Cpu, pfn: Pfn, vma: VmAreaStruct, va: Va, target: number): boolean {
  const mm = read(cpu, vma, VmAreaStruct.mm);
  const range = stackPush(cpu, MmuNotifierRange);
  const owner = read(cpu, target as Target, Target.owner);
  mmuNotifierRangeInitOwner(cpu, range, MMU_NOTIFY_EXCLUSIVE, mm, va, va + PAGE_SIZE, owner);
  keepSubscribersOut(cpu, mm);
  mmuNotifierInvalidateRangeStart(cpu, range);
  const goesOn = replaceEntry(cpu, pfn, vma, va, target as Target);
  mmuNotifierInvalidateRangeEnd(cpu, range);
  letSubscribersIn(cpu, mm);
  stackPop(cpu, range);
  return goesOn;
}

/** Puts an exclusive entry in the place of the page's; it keeps the reference. False if that is no present one. */
function replaceEntry(cpu: Cpu, pfn: Pfn, vma: VmAreaStruct, va: Va, target: Target): boolean {
  const pte = rmapPte(cpu, vma, va);
  if (pte === NO_PTE) return true;
  const mm = read(cpu, vma, VmAreaStruct.mm);
  const ptl = pteLockptr(cpu, pte);
  spinLock(cpu, ptl);
  const seen = pteGet(cpu, pte);
  const isMapped = pteHasFrame(seen) && ptePfn(seen) === pfn;
  if (isMapped) {
    const entry = pteGetAndClear(cpu, pte);
    flushTlbPage(cpu, mm, va); // I1
    const isWritable = (entry & PTE_WRITE) !== 0;
    const isTarget =
      read(cpu, target, Target.mm) === mm && readAddress(cpu, target, Target.va) === va;
    if (isTarget && isWritable) write(cpu, target, Target.isValid, 1);
    const kept = entry & (PTE_SOFT_DIRTY | PTE_WRITE);
    setSpecialPte(cpu, pte, (pfn << PTE_PFN_SHIFT) | PTE_KIND_DEVICE_EXCLUSIVE | kept);
    pageRemoveRmap(cpu, pfn);
  }
  spinUnlock(cpu, ptl);
  return true;
}
