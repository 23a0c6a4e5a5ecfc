/**
 * Takes mappings away: entries first, then (after the TLB flush) frames and empty page tables.
 *
 * Kernel     mm/memory.c (unmap_vmas, zap_page_range_single, free_pgtables)
 * Protocol   range start; for each table: lock it, clear entries, gather their frames, unlock; range
 *            end; finish the gather. The device has let go of the pages when start returns, the CPUs
 *            when the gather is finished: only then are frames freed.
 * Invariant  I1  A frame whose entry was cleared is in the gather, or was the zero page.
 * Ordering   Page table locks protect entries; the mmap lock keeps the tables.
 *
 * @module
 */
import { read, readOnce, storeRelease } from '#memory';

import { PAGE_SIZE } from '../base/units.js';
import type { Cpu } from '../machine/cpu.js';
import { PG_ANON, ZERO_PFN } from '../machine/page-alloc.js';
import { condResched } from '../machine/sched.js';
import { stackPop, stackPush } from '../machine/stack.js';
import type { Va } from '../memory/layout.js';
import {
  mmuNotifierInvalidateRangeEnd,
  mmuNotifierInvalidateRangeStart,
} from '../notifier/mmu-notifier.js';
import { MMU_NOTIFY_CLEAR, mmuNotifierRangeInit } from '../notifier/mmu-notifier-range.js';
import { MmuNotifierRange } from '../notifier/types.js';
import { spinLock, spinUnlock } from '../sync/spinlock.js';
import { setTableState, splitHugePmd, TABLE_GONE, TABLE_HUGE, tableState } from './huge.js';
import {
  MmuGather,
  tlbFinishMmu,
  tlbFlushMmu,
  tlbForgetPage,
  tlbGatherMmu,
  tlbMarkChanged,
  tlbRemovePage,
  tlbRemoveTable,
} from './mmu-gather.js';
import { pageHasFlag, pageRemoveRmap, putPage } from './page.js';
import {
  nextPopulated,
  PMD_SIZE,
  PMD_TABLE_PAGES,
  pmdAddrEnd,
  PTE_TABLE_PAGES,
  pteLockptr,
  pteOf,
  PTRS_PER_TABLE,
  PUD_TABLE_PAGES,
  TABLE_MASK,
  TableEntry,
} from './page-table.js';
import {
  Pte,
  pteGet,
  pteGetAndClear,
  pteHasFrame,
  pteIsDevicePrivate,
  pteIsMigration,
  pteIsPfnSwap,
  pteIsSwap,
  ptePfn,
  pteSlot,
} from './pte.js';
import { freeSwapAndCache } from './swap.js';
import { MmStruct, VmAreaStruct } from './types.js';

/**
 * Clears all entries of [start, end), without `evenCows` those of anonymous pages excepted. The mmap lock must be
 * held. No notifier. @kernel unmap_page_range
 */
export function unmapPageRange(
  cpu: Cpu,
  gather: MmuGather,
  pgd: number,
  start: Va,
  end: Va,
  evenCows = true,
): void {
  let va = nextPopulated(cpu, pgd, start, end);
  while (va < end) {
    condResched(cpu);
    const next = pmdAddrEnd(va, end);
    const first = pteOf(cpu, pgd, va);
    if (tableState(cpu, first) === TABLE_HUGE) leaveHuge(cpu, gather, first, va, next);
    zapPteTable(cpu, gather, first, (next - va) / PAGE_SIZE, evenCows);
    va = nextPopulated(cpu, pgd, next, end);
  }
}

/** A huge page is about to go, or a part of it. @kernel zap_pmd_range, zap_huge_pmd */
function leaveHuge(cpu: Cpu, gather: MmuGather, first: Pte, va: Va, end: Va): void {
  if (end - va !== PMD_SIZE) {
    splitHugePmd(cpu, read(cpu, gather, MmuGather.mm), va);
    return;
  }
  const ptl = pteLockptr(cpu, first);
  spinLock(cpu, ptl);
  if (tableState(cpu, first) === TABLE_HUGE) setTableState(cpu, first, TABLE_GONE);
  spinUnlock(cpu, ptl);
}

/** Clears `count` entries of one table, flushing in between when the batch is full. @kernel zap_pte_range */
function zapPteTable(
  cpu: Cpu,
  gather: MmuGather,
  first: Pte,
  count: number,
  evenCows: boolean,
): void {
  const ptl = pteLockptr(cpu, first);
  for (let i = 0; i < count;) {
    let isFull = false;
    spinLock(cpu, ptl);
    for (; i < count && !isFull; i++) {
      const pte = (first + i * Pte.words) as Pte;
      const entry = pteGet(cpu, pte);
      if (entry === 0 || (!evenCows && isPrivateCopy(cpu, entry))) continue;
      isFull = zapPte(cpu, gather, pte);
    }
    spinUnlock(cpu, ptl);
    if (isFull) tlbFlushMmu(cpu, gather);
  }
}

/** True if the entry is of anonymous memory: in the mapping of a file, of a page of it that was written privately. */
function isPrivateCopy(cpu: Cpu, entry: number): boolean {
  return !(pteHasFrame(entry) || pteIsPfnSwap(entry)) || pageHasFlag(cpu, ptePfn(entry), PG_ANON);
}

/** Clears one entry and gathers its frame (I1); true if the batch is full. The table's lock must be held. */
function zapPte(cpu: Cpu, gather: MmuGather, pte: Pte): boolean {
  const entry = pteGetAndClear(cpu, pte);
  if (pteIsSwap(entry)) {
    freeSwapAndCache(cpu, pteSlot(entry));
    return false;
  }
  if (pteIsPfnSwap(entry)) {
    zapPfnSwap(cpu, gather, entry);
    return false;
  }
  const pfn = ptePfn(entry);
  if (!pteHasFrame(entry) || pfn === ZERO_PFN) {
    tlbMarkChanged(cpu, gather);
    return false;
  }
  pageRemoveRmap(cpu, pfn);
  return tlbRemovePage(cpu, gather, pfn);
}

/**
 * The entry of a page that CPUs cannot use goes: no CPU has a translation of it, so its reference is put at once. A
 * migration entry has none. @kernel zap_nonpresent_ptes
 */
function zapPfnSwap(cpu: Cpu, gather: MmuGather, entry: number): void {
  tlbForgetPage(cpu, gather);
  if (pteIsMigration(entry)) return;
  if (pteIsDevicePrivate(entry)) pageRemoveRmap(cpu, ptePfn(entry));
  putPage(cpu, ptePfn(entry));
}

/**
 * Drops the pages of [start, end) inside one VMA, telling the notifiers CLEAR; without `evenCows` not the private
 * copies of pages of its file. The mmap lock must be held, for reading at least, or the vmasLock of the VMA's file.
 * Sleeps. @kernel zap_page_range_single
 */
export function zapPageRangeSingle(
  cpu: Cpu,
  vma: VmAreaStruct,
  start: Va,
  end: Va,
  evenCows = true,
): void {
  const mm = read(cpu, vma, VmAreaStruct.mm);
  const range = stackPush(cpu, MmuNotifierRange);
  mmuNotifierRangeInit(cpu, range, MMU_NOTIFY_CLEAR, mm, start, end);
  const gather = tlbGatherMmu(cpu, mm);
  mmuNotifierInvalidateRangeStart(cpu, range);
  unmapPageRange(cpu, gather, read(cpu, mm, MmStruct.pgd), start, end, evenCows);
  mmuNotifierInvalidateRangeEnd(cpu, range);
  tlbFinishMmu(cpu, gather);
  stackPop(cpu, range);
}

/**
 * Unlinks the tables that mapped [start, end) and nothing else: `floor` is the end of the VMA before,
 * `ceiling` the start of the one after. All entries are cleared. @kernel free_pgtables
 */
export function freePgtables(
  cpu: Cpu,
  gather: MmuGather,
  pgd: number,
  start: Va,
  end: Va,
  floor: Va,
  ceiling: Va,
): void {
  const span = {
    start: Math.floor(start / PAGE_SIZE),
    end: Math.ceil(end / PAGE_SIZE),
    floor: Math.ceil(floor / PAGE_SIZE),
    ceiling: Math.floor(ceiling / PAGE_SIZE),
  };
  freeTablesBelow(cpu, gather, pgd, 0, PUD_TABLE_PAGES, span);
}

/** Page numbers. */
interface Span {
  readonly start: number;
  readonly end: number;
  readonly floor: number;
  readonly ceiling: number;
}

/** Unlinks what may go below `table`, whose entries map `entryPages` each and which begins at `firstPage`. */
function freeTablesBelow(
  cpu: Cpu,
  gather: MmuGather,
  table: number,
  firstPage: number,
  entryPages: number,
  span: Span,
): void {
  const first = Math.max(0, Math.floor((span.start - firstPage) / entryPages));
  const last = Math.min(PTRS_PER_TABLE, Math.ceil((span.end - firstPage) / entryPages));
  for (let i = first; i < last; i++) {
    const entry = (table + i * TableEntry.words) as TableEntry;
    const below = readOnce(cpu, entry, TableEntry.table) & TABLE_MASK;
    if (below === 0) continue;
    const belowFirst = firstPage + i * entryPages;
    if (entryPages === PUD_TABLE_PAGES) {
      freeTablesBelow(cpu, gather, below, belowFirst, PMD_TABLE_PAGES, span);
    } else if (entryPages === PMD_TABLE_PAGES) {
      freeTablesBelow(cpu, gather, below, belowFirst, PTE_TABLE_PAGES, span);
    }
    if (belowFirst < span.floor || belowFirst + entryPages > span.ceiling) continue;
    storeRelease(cpu, entry, TableEntry.table, 0);
    tlbRemoveTable(cpu, gather, below);
  }
}
