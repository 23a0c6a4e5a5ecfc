/**
 * Hints: hides pages from the hardware for a moment, to see who uses them.
 *
 * Kernel     mm/mprotect.c (change_prot_numa), mm/memory.c (do_numa_page, numa_rebuild_large_mapping)
 * Protocol   changeProtNuma tells the notifiers PROTECTION_VMA, hides the entries of a range (present ->
 *            protnone, frame and all), and flushes. The next access, by a CPU or a device's driver, shows
 *            its page again; numaRebuildMapping shows a whole range at once, as Linux does around a fault
 *            in a large folio. Frames stay mapped throughout.
 * Invariant  I1  The right to write that an entry had is kept in it while it is hidden.
 * Ordering   The mmap lock is held for reading: hints run beside faults. Entries change under their
 *            table's lock. The hardware sets ACCESSED and DIRTY without it, in a present entry that lacks
 *            them: such an entry is exchanged, while one that has both, or is hidden, is stored.
 * Cost       For a run of n entries in one table: a load and a store for each.
 *
 * Everything here takes its addresses from the range, not as arguments: it is a hot path, and V8 puts a
 * 48-bit address that is passed to a function on its heap.
 *
 * @module
 */
import { changeCells, read, readAddress } from '#memory';

import { PAGE_SIZE } from '../base/units.js';
import type { Cpu } from '../machine/cpu.js';
import {
  mmuNotifierInvalidateRangeEnd,
  mmuNotifierInvalidateRangeStart,
} from '../notifier/mmu-notifier.js';
import { MmuNotifierRange } from '../notifier/types.js';
import { spinLock, spinUnlock } from '../sync/spinlock.js';
import { flushTlbMm } from './mmu-gather.js';
import { pageHigh, pageLow, pteLockptr, pteOffset, PTRS_PER_TABLE } from './page-table.js';
import { NO_PTE, type Pte, PTE_ACCESSED, PTE_DIRTY, PTE_PRESENT, PTE_PROTNONE } from './pte.js';
import { MmStruct } from './types.js';

/** What the hardware sets: it writes no entry that has it all. */
const SETTLED = PTE_ACCESSED | PTE_DIRTY;

/**
 * Hides the pages of the range. Precondition: mmap lock held for reading; the range is that of one
 * private VMA, inside one entry of the top page table, with event PROTECTION_VMA. Sleeps.
 * @kernel change_prot_numa
 */
export function changeProtNuma(cpu: Cpu, mm: MmStruct, range: MmuNotifierRange): void {
  mmuNotifierInvalidateRangeStart(cpu, range);
  changeRuns(cpu, mm, range, true);
  mmuNotifierInvalidateRangeEnd(cpu, range);
  flushTlbMm(cpu, mm);
}

/** Shows the hidden pages of the range again. Precondition as above. @kernel numa_rebuild_large_mapping */
export function numaRebuildMapping(cpu: Cpu, mm: MmStruct, range: MmuNotifierRange): void {
  changeRuns(cpu, mm, range, false);
}

/** Hides or shows the entries of the range, table by table. */
function changeRuns(cpu: Cpu, mm: MmStruct, range: MmuNotifierRange, hide: boolean): void {
  const start = readAddress(cpu, range, MmuNotifierRange.start);
  const pgd = read(cpu, mm, MmStruct.pgd);
  const high = pageHigh(start);
  const firstLow = pageLow(start);
  const endLow =
    firstLow + (((readAddress(cpu, range, MmuNotifierRange.end) - start) / PAGE_SIZE) | 0);
  for (let low = firstLow; low < endLow;) {
    const tableEnd = (low | (PTRS_PER_TABLE - 1)) + 1;
    const runEnd = tableEnd < endLow ? tableEnd : endLow;
    const first = pteOffset(cpu, pgd, high, low);
    if (first !== NO_PTE) changeRun(cpu, first, runEnd - low, hide);
    low = runEnd;
  }
}

function changeRun(cpu: Cpu, first: Pte, count: number, hide: boolean): void {
  const ptl = pteLockptr(cpu, first);
  spinLock(cpu, ptl);
  if (hide) {
    changeCells(cpu, first, count, PTE_PRESENT, PTE_PRESENT, SETTLED, PTE_PRESENT, PTE_PROTNONE); // I1
  } else {
    const shown = PTE_PRESENT | PTE_ACCESSED;
    changeCells(cpu, first, count, PTE_PROTNONE, PTE_PROTNONE, 0, PTE_PROTNONE, shown);
  }
  spinUnlock(cpu, ptl);
}
