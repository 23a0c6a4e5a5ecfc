/**
 * What reclaim wants of those who map a page: whether they have used it, and that they do without it.
 *
 * Kernel     mm/rmap.c (folio_referenced, try_to_unmap)
 * Protocol   A walk over the VMAs that may map the page (mm/rmap.ts). Where an entry maps it:
 *              referenced    forget that it was used; the notifiers are asked and forget too (clear_flush_young)
 *              unmap         notifiers CLEAR, take the entry away, flush; it names the page's slot from then on, or
 *                            nothing if the page is a file's, or was freed by the program and not written since
 *            No mmap lock is needed, so a page is taken also from who holds one and waits for memory.
 * Invariant  I1  Page tables that are looked at stay: who frees or moves them, or exchanges what a whole table maps,
 *                has the lock of the VMA's family for writing, or has taken the VMA off the lists.
 * Ordering   As in mm/rmap.ts, then notifiers, then page table locks. Nobody who holds one of the locks that a walk
 *            takes may allocate memory that makes it reclaim: lockdep knows.
 * Deviation  Linux opens the invalidation for each VMA that could map the page, and then looks; here only where it is
 *            mapped. A page that a device has alone stays.
 *
 * @module
 */
import { read, write } from '#memory';
import { BUSTED_PAGEOUT, BUSTED_RECLAIM_NOTIFY, isMutant } from '#mutants';

import { PAGE_SIZE } from '../base/units.js';
import type { Cpu } from '../machine/cpu.js';
import { type Pfn, PG_ANON, PG_ANON_EXCLUSIVE, PG_LAZYFREE } from '../machine/page-alloc.js';
import { stackPop, stackPush } from '../machine/stack.js';
import { NULL, type Ptr, struct, type Va, word } from '../memory/layout.js';
import {
  mmuNotifierInvalidateRangeEnd,
  mmuNotifierInvalidateRangeStart,
} from '../notifier/mmu-notifier.js';
import { mmuNotifierClearFlushYoung } from '../notifier/mmu-notifier-list.js';
import { MMU_NOTIFY_CLEAR, mmuNotifierRangeInit } from '../notifier/mmu-notifier-range.js';
import { keepSubscribersOut, letSubscribersIn } from '../notifier/subscriptions.js';
import { MmuNotifierRange } from '../notifier/types.js';
import { spinLock, spinUnlock } from '../sync/spinlock.js';
import { pinAnonVma, putAnonVma } from './anon-vma.js';
import { TABLE_HUGE, tableState } from './huge.js';
import { addRss } from './mm-struct.js';
import { flushTlbPage } from './mmu-gather.js';
import { pageClearFlags, pageHasFlag, pageMaybePinned, pageRemoveRmap, putPage } from './page.js';
import { pteLockptr } from './page-table.js';
import {
  makeSwapPte,
  NO_PTE,
  type Pte,
  PTE_ACCESSED,
  PTE_DIRTY,
  pteGet,
  pteGetAndClear,
  pteHasFrame,
  ptePfn,
  pteUpdateFlags,
  setPte,
  setSpecialPte,
} from './pte.js';
import { type RmapOne, rmapPte, rmapWalk } from './rmap.js';
import { swapDuplicate, writeOutSwap, writeSlot } from './swap.js';
import { type MmStruct, VmAreaStruct } from './types.js';

/** What a walk has found. @kernel struct folio_referenced_arg */
const Uses = struct('page_uses', { count: word });
type Uses = Ptr<'page_uses'>;

/**
 * How many entries, or devices behind them, have used the page since the last call. The caller has isolated it, and keeps
 * its file. Sleeps. @kernel folio_referenced
 */
export function pageReferenced(cpu: Cpu, pfn: Pfn): number {
  const uses = stackPush(cpu, Uses);
  walkMapped(cpu, pfn, referencedOne, uses);
  const count = read(cpu, uses, Uses.count);
  stackPop(cpu, uses);
  return count;
}

/**
 * Takes the page away from all who map it. `slot` is that of an anonymous page, else 0. The caller has isolated and
 * locked it, and keeps its file. Sleeps. @kernel try_to_unmap
 */
export function tryToUnmap(cpu: Cpu, pfn: Pfn, slot: number): void {
  walkMapped(cpu, pfn, tryToUnmapOne, slot);
}

/** A walk of somebody who has no VMA that maps the page. */
function walkMapped(cpu: Cpu, pfn: Pfn, one: RmapOne, arg: number): void {
  const anonVma = pageHasFlag(cpu, pfn, PG_ANON) ? pinAnonVma(cpu, pfn) : NULL;
  rmapWalk(cpu, pfn, anonVma, one, arg, true);
  if (anonVma !== NULL) putAnonVma(cpu, anonVma);
}

function maps(entry: number, pfn: Pfn): boolean {
  return pteHasFrame(entry) && ptePfn(entry) === pfn;
}

/** @kernel folio_referenced_one */
function referencedOne(cpu: Cpu, pfn: Pfn, vma: VmAreaStruct, va: Va, uses: number): boolean {
  const pte = rmapPte(cpu, vma, va);
  if (pte === NO_PTE || !maps(pteGet(cpu, pte), pfn)) return true;
  const hits = clearYoung(cpu, read(cpu, vma, VmAreaStruct.mm), va, pte, pfn);
  write(cpu, uses as Uses, Uses.count, read(cpu, uses as Uses, Uses.count) + hits);
  return true;
}

function clearYoung(cpu: Cpu, mm: MmStruct, va: Va, pte: Pte, pfn: Pfn): number {
  const ptl = pteLockptr(cpu, pte);
  let hits = 0;
  spinLock(cpu, ptl);
  const entry = pteGet(cpu, pte);
  if (maps(entry, pfn)) {
    if ((entry & PTE_ACCESSED) !== 0) hits++;
    pteUpdateFlags(cpu, pte, PTE_ACCESSED, 0);
    if (mmuNotifierClearFlushYoung(cpu, mm, va, va + PAGE_SIZE)) hits++;
  }
  spinUnlock(cpu, ptl);
  return hits;
}

/** @kernel try_to_unmap_one */
function tryToUnmapOne(cpu: Cpu, pfn: Pfn, vma: VmAreaStruct, va: Va, slot: number): boolean {
  const pte = rmapPte(cpu, vma, va);
  if (pte === NO_PTE || !maps(pteGet(cpu, pte), pfn)) return true;
  unmapNotified(cpu, read(cpu, vma, VmAreaStruct.mm), va, pte, pfn, slot);
  return true;
}

/**
 * Takes one entry away, telling the notifiers; false if it has to stay. The page tables stay (I1), or the mmap lock is
 * held; the caller has isolated and locked the page. Sleeps.
 */
export function unmapNotified(
  cpu: Cpu,
  mm: MmStruct,
  va: Va,
  pte: Pte,
  pfn: Pfn,
  slot: number,
): boolean {
  if (isMutant(cpu, BUSTED_PAGEOUT) && slot !== 0) writeSlot(cpu, slot, pfn);
  const range = stackPush(cpu, MmuNotifierRange);
  mmuNotifierRangeInit(cpu, range, MMU_NOTIFY_CLEAR, mm, va, va + PAGE_SIZE);
  if (isMutant(cpu, BUSTED_RECLAIM_NOTIFY)) {
    const isGone = unmapEntry(cpu, mm, va, pte, pfn, slot);
    if (slot !== 0) writeOutSwap(cpu, slot, pfn);
    mmuNotifierInvalidateRangeStart(cpu, range);
    mmuNotifierInvalidateRangeEnd(cpu, range);
    stackPop(cpu, range);
    return isGone;
  }
  keepSubscribersOut(cpu, mm);
  mmuNotifierInvalidateRangeStart(cpu, range);
  const isUnmapped = unmapEntry(cpu, mm, va, pte, pfn, slot);
  mmuNotifierInvalidateRangeEnd(cpu, range);
  letSubscribersIn(cpu, mm);
  stackPop(cpu, range);
  return isUnmapped;
}

function unmapEntry(cpu: Cpu, mm: MmStruct, va: Va, pte: Pte, pfn: Pfn, slot: number): boolean {
  const ptl = pteLockptr(cpu, pte);
  spinLock(cpu, ptl);
  const isSame = maps(pteGet(cpu, pte), pfn) && tableState(cpu, pte) !== TABLE_HUGE;
  let isUnmapped = isSame && !pageMaybePinned(cpu, pfn);
  if (isUnmapped) {
    const entry = pteGetAndClear(cpu, pte);
    flushTlbPage(cpu, mm, va);
    isUnmapped = slot !== 0 || !isNeeded(cpu, entry, pfn);
    if (isUnmapped) leaveEntry(cpu, mm, pte, entry, pfn, slot);
    else restoreEntry(cpu, pte, entry, pfn);
  }
  spinUnlock(cpu, ptl);
  if (isUnmapped) putPage(cpu, pfn); // the entry's
  return isUnmapped;
}

/** True if a page that the program had freed was written since, as this entry says, another, or a device. */
function isNeeded(cpu: Cpu, entry: number, pfn: Pfn): boolean {
  if (!pageHasFlag(cpu, pfn, PG_ANON)) return false; // its file has it
  return (entry & PTE_DIRTY) !== 0 || !pageHasFlag(cpu, pfn, PG_LAZYFREE);
}

/** The entry, which is empty, names the slot from now on, if there is one. The table's lock must be held. */
function leaveEntry(cpu: Cpu, mm: MmStruct, pte: Pte, entry: number, pfn: Pfn, slot: number): void {
  if (slot !== 0) {
    const isExclusive = pageHasFlag(cpu, pfn, PG_ANON_EXCLUSIVE);
    pageClearFlags(cpu, pfn, PG_ANON_EXCLUSIVE);
    swapDuplicate(cpu, slot);
    setSpecialPte(cpu, pte, makeSwapPte(slot, entry, isExclusive));
  }
  pageRemoveRmap(cpu, pfn);
  addRss(cpu, mm, -1);
}

/** The program has written what it had freed: it needs it after all. */
function restoreEntry(cpu: Cpu, pte: Pte, entry: number, pfn: Pfn): void {
  pageClearFlags(cpu, pfn, PG_LAZYFREE);
  setPte(cpu, pte, entry);
}
