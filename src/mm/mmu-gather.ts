/**
 * Gathers frames that have been unmapped, until the TLBs have been flushed and they can be freed.
 *
 * Kernel     mm/mmu_gather.c
 * Protocol   gather; clear entries and add their frames; finish: shoot down the TLBs, then put the
 *            frames. A full batch is flushed and put in between, without the page table lock.
 * Invariant  I1  No frame is put before every CPU has stopped using translations to it.
 *            I2  When a gather has been finished, no CPU uses a translation of what it was to clear, even
 *                if it found the entry cleared: whoever did may not have flushed yet. So a gather that is
 *                finished while another one is open flushes, whether it has changed anything or not.
 * Deviation  One batch for each CPU, of GATHER_MAX frames; the kernel chains batches. A CPU has one
 *            gather open at a time.
 *
 * @module
 */
import { fetchAdd, read, readOnce, write } from '#memory';
import { isMutant, M_SECONDARY_LATE } from '#mutants';

import { bug } from '../base/bug.js';
import { PAGE_SIZE } from '../base/units.js';
import type { Cpu } from '../machine/cpu.js';
import type { Pfn } from '../machine/page-alloc.js';
import { thisCpuPtr } from '../machine/percpu.js';
import { tlbShootdown } from '../machine/tlb.js';
import { MACHINE, Machine } from '../machine/types.js';
import { WAIT_SHOOTDOWN } from '../machine/wait-kind.js';
import {
  element,
  member,
  NULL,
  pointer,
  type Ptr,
  struct,
  type Va,
  word,
  words,
} from '../memory/layout.js';
import { mmuNotifierArchInvalidateSecondaryTlbs } from '../notifier/mmu-notifier-list.js';
import { VA_MAX } from '../notifier/mmu-notifier-range.js';
import { putPage } from './page.js';
import { freeTable } from './page-table.js';
import { freeSwapCache } from './swap.js';
import { MmStruct } from './types.js';

const GATHER_MAX = 496;
const TABLES_MAX = 128;

export const MmuGather = struct('mmu_gather', {
  mm: pointer<'mm_struct'>(), // NULL = not in use
  changed: word, // entries changed since the last flush
  rss: word, // frames unmapped and not yet taken off MmStruct.rss
  count: word,
  frames: words(GATHER_MAX),
  tableCount: word,
  tables: words(TABLES_MAX),
});
export type MmuGather = Ptr<'mmu_gather'>;

/** Opens this CPU's gather. @kernel tlb_gather_mmu */
export function tlbGatherMmu(cpu: Cpu, mm: MmStruct): MmuGather {
  const gather = thisCpuPtr<'mmu_gather'>(cpu, read(cpu, MACHINE, Machine.gathers));
  if (read(cpu, gather, MmuGather.mm) !== NULL) bug(`cpu ${cpu.id}: a gather is open already`);
  write(cpu, gather, MmuGather.mm, mm);
  write(cpu, gather, MmuGather.changed, 0);
  write(cpu, gather, MmuGather.rss, 0);
  write(cpu, gather, MmuGather.count, 0);
  write(cpu, gather, MmuGather.tableCount, 0);
  fetchAdd(cpu, mm, MmStruct.tlbFlushPending, 1); // pairs with tlbFinishMmu
  return gather;
}

/** Entries have changed, so there is something to flush. */
export function tlbMarkChanged(cpu: Cpu, gather: MmuGather): void {
  write(cpu, gather, MmuGather.changed, 1);
}

/** Adds a frame whose entry has been cleared; true if the batch is full now. @kernel __tlb_remove_page */
export function tlbRemovePage(cpu: Cpu, gather: MmuGather, pfn: Pfn): boolean {
  const count = read(cpu, gather, MmuGather.count);
  write(cpu, gather, element(MmuGather.frames, count), pfn);
  write(cpu, gather, MmuGather.count, count + 1);
  write(cpu, gather, MmuGather.changed, 1);
  write(cpu, gather, MmuGather.rss, read(cpu, gather, MmuGather.rss) + 1);
  return count + 1 === GATHER_MAX;
}

/** As tlbRemovePage, for a page that has been put already, and that no CPU could use. */
export function tlbForgetPage(cpu: Cpu, gather: MmuGather): void {
  write(cpu, gather, MmuGather.rss, read(cpu, gather, MmuGather.rss) + 1);
}

/** Adds a page table that has been unlinked. No spinlock held: the batch may be flushed. @kernel tlb_remove_table */
export function tlbRemoveTable(cpu: Cpu, gather: MmuGather, table: number): void {
  const count = read(cpu, gather, MmuGather.tableCount);
  write(cpu, gather, element(MmuGather.tables, count), table);
  write(cpu, gather, MmuGather.tableCount, count + 1);
  write(cpu, gather, MmuGather.changed, 1);
  if (count + 1 === TABLES_MAX) tlbFlushMmu(cpu, gather);
}

/** Flushes the TLBs and frees what was gathered. No spinlock held. @kernel tlb_flush_mmu */
export function tlbFlushMmu(cpu: Cpu, gather: MmuGather): void {
  const mm = read(cpu, gather, MmuGather.mm);
  if (read(cpu, gather, MmuGather.changed) !== 0) flushTlbMm(cpu, mm); // I1
  const count = read(cpu, gather, MmuGather.count);
  for (let i = 0; i < count; i++) {
    const pfn = read(cpu, gather, element(MmuGather.frames, i));
    freeSwapCache(cpu, pfn);
    putPage(cpu, pfn);
  }
  const tables = read(cpu, gather, MmuGather.tableCount);
  for (let i = 0; i < tables; i++) freeTable(cpu, read(cpu, gather, element(MmuGather.tables, i)));
  const rss = read(cpu, gather, MmuGather.rss);
  if (rss !== 0) fetchAdd(cpu, mm, MmStruct.rss, -rss);
  write(cpu, gather, MmuGather.rss, 0);
  write(cpu, gather, MmuGather.changed, 0);
  write(cpu, gather, MmuGather.count, 0);
  write(cpu, gather, MmuGather.tableCount, 0);
}

/** Closes the gather. @kernel tlb_finish_mmu */
export function tlbFinishMmu(cpu: Cpu, gather: MmuGather): void {
  const mm = read(cpu, gather, MmuGather.mm);
  const open = readOnce(cpu, mm, MmStruct.tlbFlushPending); // pairs with tlbGatherMmu
  if (open > 1) tlbMarkChanged(cpu, gather); // I2. @kernel mm_tlb_flush_nested
  tlbFlushMmu(cpu, gather);
  fetchAdd(cpu, mm, MmStruct.tlbFlushPending, -1);
  write(cpu, gather, MmuGather.mm, NULL);
}

/** Ends the use of all translations of the mm, and of what devices have of them. @kernel flush_tlb_mm */
export function flushTlbMm(cpu: Cpu, mm: MmStruct): void {
  tlbShootdown(cpu, member(mm, MmStruct.tlb), WAIT_SHOOTDOWN);
  mmuNotifierArchInvalidateSecondaryTlbs(cpu, mm, 0, VA_MAX);
}

/** … of those of one page. The page table lock may be held. @kernel flush_tlb_page */
export function flushTlbPage(cpu: Cpu, mm: MmStruct, va: Va): void {
  tlbShootdown(cpu, member(mm, MmStruct.tlb), WAIT_SHOOTDOWN);
  if (isMutant(cpu, M_SECONDARY_LATE)) return;
  mmuNotifierArchInvalidateSecondaryTlbs(cpu, mm, va, va + PAGE_SIZE);
}
