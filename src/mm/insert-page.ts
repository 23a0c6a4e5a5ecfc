/**
 * Pages that a driver puts into a mapping itself.
 *
 * Kernel     mm/memory.c (vm_insert_page)
 * Invariant  I1  A mapping with such a page is VM_MIXEDMAP before the page is in it, so that a fork copies it.
 * Ordering   The mmap lock for writing.
 *
 * @module
 */
import { read, write } from '#memory';

import { EBUSY, EINVAL, ENOMEM } from '../base/errno.js';
import type { Cpu } from '../machine/cpu.js';
import { type Pfn, PG_ANON } from '../machine/page-alloc.js';
import { member, type Va } from '../memory/layout.js';
import { spinLock, spinUnlock } from '../sync/spinlock.js';
import { addRss } from './mm-struct.js';
import { getPage, pageAddRmap, pageHasFlag } from './page.js';
import { pteAlloc, pteLockptr } from './page-table.js';
import { makePte, NO_PTE, pteGet, setPte } from './pte.js';
import { MmStruct, VM_MIXEDMAP, VmAreaStruct } from './types.js';
import { vmaEnd, vmaStart } from './vma.js';
import { vmPageProt } from './vma-pte.js';

/**
 * Maps a page of the driver's at `va`, which takes a reference: 0, -EBUSY if something is mapped there, -EINVAL if that
 * is outside of the VMA, or the page is anonymous, -ENOMEM. The mmap lock must be held for writing. Sleeps.
 * @kernel vm_insert_page
 */
export function vmInsertPage(cpu: Cpu, vma: VmAreaStruct, va: Va, pfn: Pfn): number {
  if (va < vmaStart(cpu, vma) || va >= vmaEnd(cpu, vma)) return -EINVAL;
  if (pageHasFlag(cpu, pfn, PG_ANON)) return -EINVAL;
  const flags = read(cpu, vma, VmAreaStruct.flags) | VM_MIXEDMAP;
  write(cpu, vma, VmAreaStruct.flags, flags); // I1
  const mm = read(cpu, vma, VmAreaStruct.mm);
  const pgd = read(cpu, mm, MmStruct.pgd);
  const pte = pteAlloc(cpu, pgd, member(mm, MmStruct.pageTableLock), va);
  if (pte === NO_PTE) return -ENOMEM;
  const ptl = pteLockptr(cpu, pte);
  spinLock(cpu, ptl);
  const isFree = pteGet(cpu, pte) === 0;
  if (isFree) {
    getPage(cpu, pfn);
    pageAddRmap(cpu, pfn);
    setPte(cpu, pte, makePte(pfn, vmPageProt(flags)));
  }
  spinUnlock(cpu, ptl);
  if (!isFree) return -EBUSY;
  addRss(cpu, mm, 1);
  return 0;
}
