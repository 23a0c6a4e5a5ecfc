/**
 * The device's page table: the same four levels as the CPU's, with an HmmPfn for an entry.
 *
 * Protocol   The driver maps what hmm_range_fault reported and clears what is invalidated, both under the
 *            context's lock. Engines read entries without a lock, each one whole; a clear is followed by
 *            the TLB fence, after which no engine uses what was cleared.
 * Invariant  I1  A last-level table stays until the context is freed.
 * Ordering   The fence orders clears against accesses; mapping needs no order, because an engine that
 *            misses a new entry only faults again.
 *
 * @module
 */
import { clearCells, read, readAddress, readOnce, writeOnceCells } from '#memory';

import { PAGE_SIZE, USER_VA_END } from '../../base/units.js';
import { HmmPfn, HmmRange } from '../../hmm/types.js';
import type { Cpu } from '../../machine/cpu.js';
import { tlbShootdown } from '../../machine/tlb.js';
import { WAIT_DEVICE_FENCE } from '../../machine/wait-kind.js';
import { member } from '../../memory/layout.js';
import {
  freeTable,
  nextPopulated,
  pageHigh,
  pageLowIn,
  PMD_TABLE_PAGES,
  pmdAddrEnd,
  PTE_TABLE_PAGES,
  pteAlloc,
  pteOf,
  pteOffset,
  PTRS_PER_TABLE,
  PUD_TABLE_PAGES,
  TABLE_MASK,
  TableEntry,
} from '../../mm/page-table.js';
import { NO_PTE, type Pte } from '../../mm/pte.js';
import { MmuNotifierRange } from '../../notifier/types.js';
import { SvmContext } from './types.js';

/** Maps the pages of the range as `pfns` has them; false if memory for tables is out. Context locked. */
export function deviceMapRange(cpu: Cpu, context: SvmContext, range: HmmRange): boolean {
  const pgd = read(cpu, context, SvmContext.pgd);
  const start = readAddress(cpu, range, HmmRange.start);
  const pages = ((readAddress(cpu, range, HmmRange.end) - start) / PAGE_SIZE) | 0;
  const pfns = read(cpu, range, HmmRange.pfns);
  for (let i = 0; i < pages;) {
    const at = start + i * PAGE_SIZE;
    const high = pageHigh(at);
    const low = pageLowIn(at, high);
    const inTable = PTRS_PER_TABLE - (low & (PTRS_PER_TABLE - 1));
    const count = i + inTable < pages ? inTable : pages - i;
    let first = pteOffset(cpu, pgd, high, low);
    if (first === NO_PTE) {
      first = pteAlloc(cpu, pgd, member(context, SvmContext.tableLock), at);
      if (first === NO_PTE) return false;
    }
    writeOnceCells(cpu, first, pfns + i * HmmPfn.words, count);
    i += count;
  }
  return true;
}

/** Clears the pages of the range. Context locked; the fence is the caller's. */
export function deviceClearRange(cpu: Cpu, context: SvmContext, range: MmuNotifierRange): void {
  const pgd = read(cpu, context, SvmContext.pgd);
  const start = readAddress(cpu, range, MmuNotifierRange.start);
  const end = readAddress(cpu, range, MmuNotifierRange.end);
  const high = pageHigh(start);
  const low = pageLowIn(start, high);
  const pages = (end - start) / PAGE_SIZE;
  if (pages > PTRS_PER_TABLE - (low & (PTRS_PER_TABLE - 1))) {
    clearWideRange(cpu, context, range);
    return;
  }
  const first = pteOffset(cpu, pgd, high, low);
  if (first !== NO_PTE) clearCells(cpu, first, pages | 0);
}

/** As above, for a range that no single table maps. */
function clearWideRange(cpu: Cpu, context: SvmContext, range: MmuNotifierRange): void {
  const pgd = read(cpu, context, SvmContext.pgd);
  const end = Math.min(readAddress(cpu, range, MmuNotifierRange.end), USER_VA_END);
  let va = nextPopulated(cpu, pgd, readAddress(cpu, range, MmuNotifierRange.start), end);
  while (va < end) {
    const next = pmdAddrEnd(va, end);
    clearCells(cpu, pteOf(cpu, pgd, va), (next - va) / PAGE_SIZE);
    va = nextPopulated(cpu, pgd, next, end);
  }
}

/**
 * Waits until no engine uses a translation of the context that it read before this call. Whoever has
 * cleared entries calls it before the memory may go. Spins.
 */
export function deviceFence(cpu: Cpu, context: SvmContext): void {
  tlbShootdown(cpu, member(context, SvmContext.tlb), WAIT_DEVICE_FENCE);
}

/** The device's entry for a page, or NO_PTE. */
export function deviceEntry(cpu: Cpu, context: SvmContext, high: number, low: number): Pte {
  return pteOffset(cpu, read(cpu, context, SvmContext.pgd), high, low);
}

/** Frees the whole table. Nobody uses the context any more. */
export function deviceFreeTables(cpu: Cpu, context: SvmContext): void {
  freeTablesBelow(cpu, read(cpu, context, SvmContext.pgd), PUD_TABLE_PAGES);
}

/** Frees a table whose entries map `entryPages` each, and those below it. */
function freeTablesBelow(cpu: Cpu, table: number, entryPages: number): void {
  for (let i = 0; i < PTRS_PER_TABLE; i++) {
    const entry = (table + i * TableEntry.words) as TableEntry;
    const below = readOnce(cpu, entry, TableEntry.table) & TABLE_MASK;
    if (below === 0) continue;
    if (entryPages === PUD_TABLE_PAGES) freeTablesBelow(cpu, below, PMD_TABLE_PAGES);
    else if (entryPages === PMD_TABLE_PAGES) freeTablesBelow(cpu, below, PTE_TABLE_PAGES);
    else freeTable(cpu, below);
  }
  freeTable(cpu, table);
}
