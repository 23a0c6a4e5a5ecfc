/**
 * Where an anonymous page is mapped: noted when it is, so that reclaim finds it again (mm/rmap.ts).
 *
 * @module
 */
import { read, readOnce, writeOnce } from '#memory';

import { PAGE_SIZE } from '../base/units.js';
import type { Cpu } from '../machine/cpu.js';
import { pageOf, type Pfn, PG_ANON, PG_MLOCKED, reclaims } from '../machine/page-alloc.js';
import { Page } from '../machine/types.js';
import type { Va } from '../memory/layout.js';
import { lruAdd } from './lru.js';
import { pageHasFlag, pageSetFlags } from './page.js';
import { VM_LOCKED, VmAreaStruct } from './types.js';

/** Parts of a page number that fit into a word each. */
const LOW_PAGES = 2 ** 27;

/** The VMA maps the page, which is no page of zeroes, at `va`: it can be found, and paged out. @kernel folio_add_lru_vma */
export function rmapAdd(cpu: Cpu, vma: VmAreaStruct, pfn: Pfn, va: Va): void {
  if (!reclaims(cpu)) return;
  if ((read(cpu, vma, VmAreaStruct.flags) & VM_LOCKED) !== 0) pageSetFlags(cpu, pfn, PG_MLOCKED);
  if (!pageHasFlag(cpu, pfn, PG_ANON)) return; // it is on a list already
  rmapMoved(cpu, pfn, va);
  lruAdd(cpu, pfn);
}

/** An anonymous page is mapped at another address now. The table's lock may be held. */
export function rmapMoved(cpu: Cpu, pfn: Pfn, va: Va): void {
  if (!reclaims(cpu) || !pageHasFlag(cpu, pfn, PG_ANON)) return;
  const page = pageOf(cpu, pfn);
  const number = va / PAGE_SIZE;
  writeOnce(cpu, page, Page.index, number % LOW_PAGES);
  writeOnce(cpu, page, Page.inuse, Math.floor(number / LOW_PAGES));
}

/** Where an anonymous page was mapped last, or half of it. */
export function placeOf(cpu: Cpu, pfn: Pfn): Va {
  const page = pageOf(cpu, pfn);
  const high = readOnce(cpu, page, Page.inuse);
  return (high * LOW_PAGES + readOnce(cpu, page, Page.index)) * PAGE_SIZE;
}
