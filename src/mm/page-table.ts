/**
 * Page tables: four levels of 512 entries over 48-bit addresses.
 *
 * Kernel     mm/memory.c (__pte_alloc, free_pgtables), include/linux/pgtable.h
 * Protocol   A virtual page number has 36 bits; the top 9 select an entry of the top table, the other 27
 *            the entries of the three below. As 36 bits do not fit an integer of V8's, it is handled as
 *            `high` (9 bits) and `low` (27 bits): a run of pages never crosses from one `high` to the
 *            next inside one function.
 *            A table is a frame. An entry of the upper three levels is the word index of the table below
 *            (frames are aligned, so the low 10 bits are free for flags), or 0.
 * Invariant  I1  A table is reachable from its mm as long as a VMA covers part of what it maps, or its
 *                mmap lock is held.
 *            I2  Entries of the last level change under that table's lock (pteLock); upper entries are
 *                set under the mm's pageTableLock and cleared only when no VMA covers the table and no
 *                CPU can be walking it any more (the caller flushes the TLB before it frees).
 * Ordering   A new table is linked by a release that the walkers' reads see complete.
 * Deviation  One lock for all upper levels.
 *
 * @module
 */
import { fillWords, readOnce, readOnceLinks, storeRelease, writeOnce } from '#memory';

import { PAGE_SIZE, PAGE_WORDS } from '../base/units.js';
import type { Cpu } from '../machine/cpu.js';
import { GFP_KERNEL } from '../machine/gfp.js';
import { lockClass } from '../machine/lock-class.js';
import {
  allocPage,
  frameOf,
  freePage,
  pageOf,
  pfnOfWord,
  PG_TABLE,
} from '../machine/page-alloc.js';
import { Page } from '../machine/types.js';
import { member, type Ptr, struct, type Va, word } from '../memory/layout.js';
import { initSpinlock, type Spinlock, spinLock, spinUnlock } from '../sync/spinlock.js';
import { NO_PTE, Pte } from './pte.js';

/** An entry of an upper level: the word index of the table below, or 0. */
export const TableEntry = struct('table_entry', { table: word, unused: word });
export type TableEntry = Ptr<'table_entry'>;

/** Entries of a table. */
export const PTRS_PER_TABLE = 512;
/** The table of an upper-level entry, without its flags. */
export const TABLE_MASK = ~(PAGE_WORDS - 1);

/** Pages that one table of each level maps. */
export const PTE_TABLE_PAGES = 512;
export const PMD_TABLE_PAGES = 512 * 512;
export const PUD_TABLE_PAGES = 512 * 512 * 512;
/** Bytes that one table of the last level, of the second last, … maps. */
export const PMD_SIZE = PTE_TABLE_PAGES * PAGE_SIZE;
export const PUD_SIZE = PMD_TABLE_PAGES * PAGE_SIZE;
export const PGDIR_SIZE = PUD_TABLE_PAGES * PAGE_SIZE;

const PTE_LOCK = lockClass('ptlock');

/** The entry of the top table for the address. */
export function pageHigh(va: Va): number {
  return (va / PGDIR_SIZE) | 0;
}

/** The rest of the virtual page number. */
export function pageLow(va: Va): number {
  const page = va / PAGE_SIZE;
  return (page - ((page / PUD_TABLE_PAGES) | 0) * PUD_TABLE_PAGES) | 0;
}

/** As pageLow, for an address whose pageHigh is known. */
export function pageLowIn(va: Va, high: number): number {
  return ((va - high * PGDIR_SIZE) / PAGE_SIZE) | 0;
}

/** The end of what the last-level table of `va` maps, or `end` if that comes first. @kernel pmd_addr_end */
export function pmdAddrEnd(va: Va, end: Va): Va {
  return Math.min((Math.floor(va / PMD_SIZE) + 1) * PMD_SIZE, end);
}

/** A page table without entries; its first word, or 0 if memory is out. May sleep by `gfp`. */
export function allocTable(cpu: Cpu, gfp = GFP_KERNEL): number {
  const pfn = allocPage(cpu, gfp);
  if (pfn === 0) return 0;
  const page = pageOf(cpu, pfn);
  writeOnce(cpu, page, Page.flags, PG_TABLE); // the allocator looks at its neighbours'
  initSpinlock(cpu, member(page, Page.ptl), PTE_LOCK);
  const table = frameOf(cpu, pfn);
  fillWords(cpu, table, 0, PAGE_WORDS);
  return table;
}

/** Gives a table back; nobody may be walking it. */
export function freeTable(cpu: Cpu, table: number): void {
  freePage(cpu, pfnOfWord(cpu, table));
}

/** The lock of the table that the entry is in. @kernel pte_lockptr */
export function pteLockptr(cpu: Cpu, pte: Pte): Spinlock {
  return member(pageOf(cpu, pfnOfWord(cpu, pte)), Page.ptl);
}

function tableAt(cpu: Cpu, table: number, index: number): number {
  const entry = (table + index * TableEntry.words) as TableEntry;
  return readOnce(cpu, entry, TableEntry.table) & TABLE_MASK; // pairs with linkTable
}

/** The last-level entry of a page, or NO_PTE if a table is missing on the way. @kernel pte_offset_map */
export function pteOffset(cpu: Cpu, pgd: number, high: number, low: number): Pte {
  const table = readOnceLinks(cpu, pgd, high, low >>> 18, (low >>> 9) & 511); // pairs with linkTable
  return table === 0 ? NO_PTE : ((table + (low & 511) * Pte.words) as Pte);
}

/** As pteOffset for an address. */
export function pteOf(cpu: Cpu, pgd: number, va: Va): Pte {
  return pteOffset(cpu, pgd, pageHigh(va), pageLow(va));
}

/** As pteOf, making the tables that are missing; NO_PTE if memory is out. May sleep by `gfp`. @kernel pte_alloc */
export function pteAlloc(cpu: Cpu, pgd: number, lock: Spinlock, va: Va, gfp = GFP_KERNEL): Pte {
  const low = pageLow(va);
  const pud = tableOrNew(cpu, pgd, pageHigh(va), lock, gfp);
  if (pud === 0) return NO_PTE;
  const pmd = tableOrNew(cpu, pud, low >>> 18, lock, gfp);
  if (pmd === 0) return NO_PTE;
  const table = tableOrNew(cpu, pmd, (low >>> 9) & 511, lock, gfp);
  if (table === 0) return NO_PTE;
  return (table + (low & 511) * Pte.words) as Pte;
}

function tableOrNew(cpu: Cpu, table: number, index: number, lock: Spinlock, gfp: number): number {
  const below = tableAt(cpu, table, index);
  return below === 0 ? linkTable(cpu, table, index, lock, gfp) : below;
}

/** Links a new table, unless somebody else has done so meanwhile. */
function linkTable(cpu: Cpu, table: number, index: number, lock: Spinlock, gfp: number): number {
  const entry = (table + index * TableEntry.words) as TableEntry;
  const fresh = allocTable(cpu, gfp);
  if (fresh === 0) return 0;
  spinLock(cpu, lock);
  const below = tableAt(cpu, table, index);
  if (below === 0) storeRelease(cpu, entry, TableEntry.table, fresh); // pairs with tableAt
  spinUnlock(cpu, lock);
  if (below === 0) return fresh;
  freeTable(cpu, fresh);
  return below;
}

/** True if the second-last-level table for the address exists. @kernel mm_find_pmd */
export function hasPmdTable(cpu: Cpu, pgd: number, va: Va): boolean {
  const pud = tableAt(cpu, pgd, pageHigh(va));
  return pud !== 0 && tableAt(cpu, pud, pageLow(va) >>> 18) !== 0;
}

/** True if the third-last-level table for the address exists. */
export function hasPudTable(cpu: Cpu, pgd: number, va: Va): boolean {
  return tableAt(cpu, pgd, pageHigh(va)) !== 0;
}

/**
 * The first address from `va` on whose last-level table exists, or `end`. Skips what is missing at the
 * highest level it is missing at, so that a large empty range costs little.
 */
export function nextPopulated(cpu: Cpu, pgd: number, va: Va, end: Va): Va {
  let at = va;
  while (at < end) {
    const pud = tableAt(cpu, pgd, pageHigh(at));
    if (pud === 0) {
      at = (Math.floor(at / PGDIR_SIZE) + 1) * PGDIR_SIZE;
      continue;
    }
    const low = pageLow(at);
    const pmd = tableAt(cpu, pud, low >>> 18);
    if (pmd === 0) {
      at = (Math.floor(at / PUD_SIZE) + 1) * PUD_SIZE;
      continue;
    }
    if (tableAt(cpu, pmd, (low >>> 9) & 511) !== 0) return at;
    at = (Math.floor(at / PMD_SIZE) + 1) * PMD_SIZE;
  }
  return end;
}
