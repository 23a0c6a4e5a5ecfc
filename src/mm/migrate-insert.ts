/**
 * Maps a page that a migration has made where there was none.
 *
 * Kernel     mm/migrate_device.c (migrate_vma_insert_page)
 * Protocol   The entry must still be none, or the zero page: who touches memory while it is migrated is faster than the
 *            migration, and keeps what it has got.
 *
 * @module
 */
import { read, readAddress, readOnce } from '#memory';

import { PAGE_SIZE } from '../base/units.js';
import type { Cpu } from '../machine/cpu.js';
import {
  type Pfn,
  PG_ANON,
  PG_ANON_EXCLUSIVE,
  PG_DEVICE_COHERENT,
  PG_DEVICE_PRIVATE,
  ZERO_PFN,
} from '../machine/page-alloc.js';
import { member, NULL, type Va } from '../memory/layout.js';
import { spinLock, spinUnlock } from '../sync/spinlock.js';
import { setAnonRmap } from './anon-vma.js';
import { TABLE_HUGE, tableState } from './huge.js';
import { lruAddVma } from './lru.js';
import { addRss } from './mm-struct.js';
import { flushTlbPage } from './mmu-gather.js';
import { getPage, isZoneDevicePage, pageAddRmap, pageHasFlag, pageSetFlags } from './page.js';
import { pteAlloc, pteLockptr } from './page-table.js';
import {
  makePte,
  NO_PTE,
  type Pte,
  PTE_DIRTY,
  PTE_SOFT_DIRTY,
  PTE_WRITE,
  pteGet,
  pteGetAndClear,
  pteHasFrame,
  ptePfn,
  setPte,
  setSpecialPte,
} from './pte.js';
import { makeDevicePrivatePte } from './rmap.js';
import { MigrateVma, MMF_UNSTABLE, MmStruct, VM_WRITE, VmAreaStruct } from './types.js';
import { anonVmaPrepare } from './vma.js';
import { vmPageProt } from './vma-pte.js';

/** Maps page `index` of the migration, which is locked; false if it cannot be. Sleeps. */
export function insertMigratedPage(
  cpu: Cpu,
  migrate: MigrateVma,
  index: number,
  pfn: Pfn,
): boolean {
  const vma = read(cpu, migrate, MigrateVma.vma);
  if (read(cpu, vma, VmAreaStruct.file) !== NULL) return false;
  const mm = read(cpu, vma, VmAreaStruct.mm);
  const va = readAddress(cpu, migrate, MigrateVma.start) + index * PAGE_SIZE;
  const lock = member(mm, MmStruct.pageTableLock);
  const pte = pteAlloc(cpu, read(cpu, mm, MmStruct.pgd), lock, va);
  if (pte === NO_PTE || tableState(cpu, pte) === TABLE_HUGE) return false;
  if (!anonVmaPrepare(cpu, vma)) return false;
  const isDevices = pageHasFlag(cpu, pfn, PG_DEVICE_PRIVATE | PG_DEVICE_COHERENT);
  if (isZoneDevicePage(cpu, pfn) && !isDevices) return false;
  const ptl = pteLockptr(cpu, pte);
  spinLock(cpu, ptl);
  const before = pteGet(cpu, pte);
  const isFree = before === 0 || (pteHasFrame(before) && ptePfn(before) === ZERO_PFN);
  const isStable = (readOnce(cpu, mm, MmStruct.flags) & MMF_UNSTABLE) === 0;
  const isMapped = isFree && isStable;
  if (isMapped) mapNew(cpu, vma, va, pte, pfn);
  spinUnlock(cpu, ptl);
  if (isMapped) addRss(cpu, mm, 1);
  return isMapped;
}

/** The table's lock must be held. */
function mapNew(cpu: Cpu, vma: VmAreaStruct, va: Va, pte: Pte, pfn: Pfn): void {
  const vmFlags = read(cpu, vma, VmAreaStruct.flags);
  const write = (vmFlags & VM_WRITE) !== 0 ? PTE_WRITE : 0;
  setAnonRmap(cpu, pfn, vma, va);
  pageSetFlags(cpu, pfn, PG_ANON | PG_ANON_EXCLUSIVE);
  pageAddRmap(cpu, pfn);
  getPage(cpu, pfn);
  if (pteGet(cpu, pte) !== 0) {
    pteGetAndClear(cpu, pte);
    flushTlbPage(cpu, read(cpu, vma, VmAreaStruct.mm), va);
  }
  if (pageHasFlag(cpu, pfn, PG_DEVICE_PRIVATE)) {
    setSpecialPte(cpu, pte, makeDevicePrivatePte(pfn, write, 0));
  } else {
    const dirty = write === 0 ? 0 : write | PTE_DIRTY | PTE_SOFT_DIRTY;
    if (!isZoneDevicePage(cpu, pfn)) lruAddVma(cpu, vma, pfn);
    setPte(cpu, pte, makePte(pfn, vmPageProt(vmFlags) | dirty));
  }
}
