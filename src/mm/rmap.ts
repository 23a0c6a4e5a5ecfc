/**
 * Reverse maps: from a page to the entries that map it, for who wants to know whether it is used, or take it away.
 *
 * Kernel     mm/rmap.c (folio_referenced, try_to_unmap, rmap_walk)
 * Protocol   A page of a file is looked for in the VMAs on its file's list. An anonymous page notes at which address
 *            it was mapped last, and is looked for there in every address space: a child of fork has it at the same.
 *            Where an entry maps it:
 *              referenced    forget that it was used; the notifiers are asked and forget too (clear_flush_young)
 *              unmap         notifiers CLEAR, take the entry away, flush; it names the page's slot from then on, or
 *                            nothing if the page is a file's, or was freed by the program and not written since
 *            No mmap lock is needed, so a page is taken also from who holds one and waits for memory.
 * Invariant  I1  Page tables that are looked at stay: who frees or moves them, or exchanges what a whole table maps,
 *                holds the address space's rmapLock for writing, or has taken the VMA off its file's list.
 *            I2  What was noted of an address may be wrong, and is believed only if the entry there maps the page.
 * Ordering   mmapLock > invalidateLock > vmasLock > rmapLock > notifiers > page table locks. Nobody who holds one of
 *            the locks that a walk takes may allocate memory that makes it reclaim: lockdep knows.
 * Deviation  Linux keeps a tree of VMAs for each family of anonymous memory and shares its lock; here each address
 *            space has one. Linux opens the invalidation for each VMA that could map the page, and then looks; here
 *            only where it is mapped. Where mremap has moved a page that several address spaces have, only one is
 *            found, and the page stays.
 *
 * @module
 */
import { read, readAddress } from '#memory';
import { BUSTED_PAGEOUT, BUSTED_RECLAIM_NOTIFY, isMutant } from '#mutants';

import { PAGE_SIZE } from '../base/units.js';
import type { Cpu } from '../machine/cpu.js';
import {
  pageOf,
  type Pfn,
  PG_ANON,
  PG_ANON_EXCLUSIVE,
  PG_LAZYFREE,
} from '../machine/page-alloc.js';
import { stackPop, stackPush } from '../machine/stack.js';
import { Page } from '../machine/types.js';
import { containerOf, member, NULL, type Va } from '../memory/layout.js';
import { listNext } from '../memory/list.js';
import { mmdrop } from '../notifier/mm-count.js';
import {
  mmuNotifierInvalidateRangeEnd,
  mmuNotifierInvalidateRangeStart,
} from '../notifier/mmu-notifier.js';
import { mmuNotifierClearFlushYoung } from '../notifier/mmu-notifier-list.js';
import { MMU_NOTIFY_CLEAR, mmuNotifierRangeInit } from '../notifier/mmu-notifier-range.js';
import { keepSubscribersOut, letSubscribersIn } from '../notifier/subscriptions.js';
import { MmuNotifierRange } from '../notifier/types.js';
import { downRead, upRead } from '../sync/rwsem.js';
import { spinLock, spinUnlock } from '../sync/spinlock.js';
import { fileOfPage } from './file.js';
import { TABLE_HUGE, tableState } from './huge.js';
import { addRss } from './mm-struct.js';
import { flushTlbPage } from './mmu-gather.js';
import {
  pageClearFlags,
  pageHasFlag,
  pageMapcount,
  pageMaybePinned,
  pageRemoveRmap,
  putPage,
} from './page.js';
import { pteLockptr, pteOf } from './page-table.js';
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
import { pinMms } from './rmap-mms.js';
import { placeOf } from './rmap-place.js';
import { swapDuplicate, writeOutSwap, writeSlot } from './swap.js';
import { File, MmStruct, VmAreaStruct } from './types.js';
import { vmaEnd, vmaStart } from './vma.js';

// --- walks ---

/** What a walk does where the page is mapped. */
const REFERENCED = -1;

/**
 * How many entries, or devices behind them, have used the page since the last call. The caller has isolated it. Sleeps.
 * @kernel folio_referenced
 */
export function pageReferenced(cpu: Cpu, pfn: Pfn): number {
  return rmapWalk(cpu, pfn, REFERENCED);
}

/**
 * Takes the page away from all who map it, as far as they are found. `slot` is that of an anonymous page, else 0. The
 * caller has isolated it, and keeps its file. Sleeps. @kernel try_to_unmap
 */
export function tryToUnmap(cpu: Cpu, pfn: Pfn, slot: number): void {
  rmapWalk(cpu, pfn, slot);
}

/** @kernel rmap_walk */
function rmapWalk(cpu: Cpu, pfn: Pfn, what: number): number {
  return pageHasFlag(cpu, pfn, PG_ANON)
    ? walkAnon(cpu, pfn, what)
    : walkFile(cpu, fileOfPage(cpu, pfn), pfn, what);
}

function walkAnon(cpu: Cpu, pfn: Pfn, what: number): number {
  const va = placeOf(cpu, pfn);
  let hits = 0;
  for (const mm of pinMms(cpu)) {
    downRead(cpu, member(mm, MmStruct.rmapLock)); // I1
    hits += visit(cpu, mm, va, pfn, what);
    upRead(cpu, member(mm, MmStruct.rmapLock));
    mmdrop(cpu, mm);
  }
  return hits;
}

function walkFile(cpu: Cpu, file: File, pfn: Pfn, what: number): number {
  if (file === NULL) return 0;
  const index = read(cpu, pageOf(cpu, pfn), Page.index);
  const head = member(file, File.vmas);
  let hits = 0;
  downRead(cpu, member(file, File.vmasLock)); // I1
  for (let item = listNext(cpu, head); item !== head; item = listNext(cpu, item)) {
    const vma: VmAreaStruct = containerOf(item, VmAreaStruct.shared);
    const first = readAddress(cpu, vma, VmAreaStruct.pgoff);
    const va = vmaStart(cpu, vma) + (index - first) * PAGE_SIZE;
    if (index < first || va >= vmaEnd(cpu, vma)) continue;
    hits += visit(cpu, read(cpu, vma, VmAreaStruct.mm), va, pfn, what);
  }
  upRead(cpu, member(file, File.vmasLock));
  return hits;
}

/** Does what is to be done where the page may be mapped (I2). */
function visit(cpu: Cpu, mm: MmStruct, va: Va, pfn: Pfn, what: number): number {
  if (pageMapcount(cpu, pfn) === 0) return 0;
  const pte = pteOf(cpu, read(cpu, mm, MmStruct.pgd), va);
  if (pte === NO_PTE || !maps(pteGet(cpu, pte), pfn)) return 0;
  if (what === REFERENCED) return clearYoung(cpu, mm, va, pte, pfn);
  return unmapNotified(cpu, mm, va, pte, pfn, what) ? 1 : 0;
}

function maps(entry: number, pfn: Pfn): boolean {
  return pteHasFrame(entry) && ptePfn(entry) === pfn;
}

/** @kernel folio_referenced_one */
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

/**
 * Takes one entry away, telling the notifiers; false if it has to stay. The page tables stay (I1), or the mmap lock is
 * held; the caller has isolated the page. Sleeps. @kernel try_to_unmap_one
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
    isUnmapped = slot !== 0 || !pageHasFlag(cpu, pfn, PG_LAZYFREE) || (entry & PTE_DIRTY) === 0;
    if (isUnmapped) leaveEntry(cpu, mm, pte, entry, pfn, slot);
    else restoreEntry(cpu, pte, entry, pfn);
  }
  spinUnlock(cpu, ptl);
  if (isUnmapped) putPage(cpu, pfn); // the entry's
  return isUnmapped;
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
