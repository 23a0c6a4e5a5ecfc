/**
 * The first part of a migration: what can be migrated in a range of a VMA is locked, and unmapped there.
 *
 * Kernel     mm/migrate_device.c (migrate_vma_collect_pmd, migrate_vma_collect_hole)
 * Protocol   For each entry, with the lock of its table:
 *
 *              entry                            selected by         src says
 *              none, of anonymous memory        always              MIGRATE, and no frame
 *              the zero page                    SELECT_SYSTEM       MIGRATE, and no frame
 *              a page of the machine's          SELECT_SYSTEM       frame, MIGRATE, WRITE if it may be written
 *              the owner's, coherent            …_COHERENT          likewise
 *              the owner's, private             …_PRIVATE           likewise
 *              anything else                                        0
 *
 *            A page is taken if it can be locked at once. Its entry becomes a migration entry, so that whoever wants
 *            it waits until its lock is given back; the entry's mapping and reference are given back, and the
 *            migration has one reference of its own. A huge page is split before.
 * Invariant  I1  Locks of pages are tried, never waited for: two who migrate the same pages in different orders would
 *                wait for each other.
 *            I2  When the notifiers are told that the range is over, no CPU uses an old translation of a page that was
 *                taken: what is copied then is all that was ever written to it (INV-24).
 * Ordering   The mmap lock for reading. Notifiers hear MIGRATE of the whole range before, so devices have let go.
 *
 * @module
 */
import { read, readAddress, write } from '#memory';
import { isMutant, M_18, M_19 } from '#mutants';

import { PAGE_SIZE } from '../base/units.js';
import type { Cpu } from '../machine/cpu.js';
import {
  pageOf,
  type Pfn,
  PG_ANON_EXCLUSIVE,
  PG_DEVICE_COHERENT,
  PG_LARGE,
  ZERO_PFN,
} from '../machine/page-alloc.js';
import { Page } from '../machine/types.js';
import { NULL, type Va } from '../memory/layout.js';
import { DevPagemap } from '../memremap/types.js';
import { pagePgmap } from '../memremap/zone-device.js';
import {
  awaitUnlockWithoutReference,
  pageIsLocked,
  trylockPage,
  unlockPage,
} from '../sync/page-lock.js';
import { spinLock, spinUnlock } from '../sync/spinlock.js';
import { splitFolio, splitHugePmd, TABLE_HUGE, tableState } from './huge.js';
import {
  MIGRATE_PFN_MIGRATE,
  MIGRATE_PFN_WRITE,
  MIGRATE_VMA_SELECT_DEVICE_COHERENT,
  MIGRATE_VMA_SELECT_DEVICE_PRIVATE,
  MIGRATE_VMA_SELECT_SYSTEM,
  migratePfn,
  setMigratePfn,
} from './migrate-pfn.js';
import { flushTlbMm, flushTlbPage } from './mmu-gather.js';
import { getPage, isZoneDevicePage, pageHasFlag, putPage } from './page.js';
import { pmdAddrEnd, pteLockptr, pteOf } from './page-table.js';
import {
  NO_PTE,
  Pte,
  PTE_PRESENT,
  PTE_SPECIAL,
  PTE_WRITE,
  pteGet,
  pteGetAndClear,
  pteHasFrame,
  pteIsDevicePrivate,
  ptePfn,
} from './pte.js';
import { putMigrationPte } from './rmap.js';
import { MigrateVma, MmStruct, VmAreaStruct } from './types.js';

/** Fills `src` for the whole range. The mmap lock must be held; the notifiers have been told. Sleeps. */
export function collectRange(cpu: Cpu, migrate: MigrateVma): void {
  const vma = read(cpu, migrate, MigrateVma.vma);
  const pgd = read(cpu, read(cpu, vma, VmAreaStruct.mm), MmStruct.pgd);
  const end = readAddress(cpu, migrate, MigrateVma.end);
  for (let va = readAddress(cpu, migrate, MigrateVma.start); va < end;) {
    const next = pmdAddrEnd(va, end);
    const first = pteOf(cpu, pgd, va);
    const count = (next - va) / PAGE_SIZE;
    if (first === NO_PTE) note(cpu, migrate, count, missing(cpu, vma));
    else if (!makeSmall(cpu, vma, va, first)) note(cpu, migrate, count, 0);
    else collectTable(cpu, migrate, va, first, count);
    va = next;
  }
}

/** What is said of a page that is not there: anonymous memory can be made by the migration. */
function missing(cpu: Cpu, vma: VmAreaStruct): number {
  return read(cpu, vma, VmAreaStruct.file) === NULL ? MIGRATE_PFN_MIGRATE : 0;
}

/** The next `count` words of src. */
function note(cpu: Cpu, migrate: MigrateVma, count: number, entry: number): void {
  const src = read(cpu, migrate, MigrateVma.src);
  const dst = read(cpu, migrate, MigrateVma.dst);
  const npages = read(cpu, migrate, MigrateVma.npages);
  for (let i = npages; i < npages + count; i++) {
    setMigratePfn(cpu, src, i, entry);
    setMigratePfn(cpu, dst, i, 0);
  }
  write(cpu, migrate, MigrateVma.npages, npages + count);
  if ((entry & MIGRATE_PFN_MIGRATE) === 0) return;
  write(cpu, migrate, MigrateVma.cpages, read(cpu, migrate, MigrateVma.cpages) + count);
}

/** Pages that are part of a huge one become small ones; false if somebody else refers to it. */
function makeSmall(cpu: Cpu, vma: VmAreaStruct, va: Va, first: Pte): boolean {
  if (tableState(cpu, first) !== TABLE_HUGE) return true;
  const isZero = ptePfn(pteGet(cpu, first)) === ZERO_PFN;
  if (!isZero) return splitFolio(cpu, vma, va);
  splitHugePmd(cpu, read(cpu, vma, VmAreaStruct.mm), va);
  return true;
}

/** Entries of one table. @kernel migrate_vma_collect_pmd */
function collectTable(cpu: Cpu, migrate: MigrateVma, va: Va, first: Pte, count: number): void {
  const vma = read(cpu, migrate, MigrateVma.vma);
  const mm = read(cpu, vma, VmAreaStruct.mm);
  const ptl = pteLockptr(cpu, first);
  let mustFlush = false;
  spinLock(cpu, ptl);
  for (let i = 0; i < count; i++) {
    const pte = (first + i * Pte.words) as Pte;
    let found = selectEntry(cpu, migrate, pteGet(cpu, pte));
    if (isMutant(cpu, M_19) && found === LOOK) {
      waitForPage(cpu, pte);
      found = selectEntry(cpu, migrate, pteGet(cpu, pte));
    }
    if (found === LOOK) {
      const entry = pteGet(cpu, pte);
      found = takePage(cpu, mm, va + i * PAGE_SIZE, pte);
      if (found !== 0 && pteHasFrame(entry)) mustFlush = true;
    }
    note(cpu, migrate, 1, found);
  }
  if (!isMutant(cpu, M_18) && mustFlush) flushTlbMm(cpu, mm); // I2
  spinUnlock(cpu, ptl);
}

/** There is a page, and it is one of those that are to be migrated. */
const LOOK = -1;

/** What is to be said of an entry, or LOOK. */
function selectEntry(cpu: Cpu, migrate: MigrateVma, entry: number): number {
  const flags = read(cpu, migrate, MigrateVma.flags);
  if (entry === 0) return missing(cpu, read(cpu, migrate, MigrateVma.vma));
  if (!pteHasFrame(entry)) {
    if (!pteIsDevicePrivate(entry)) return 0;
    const isSelected = (flags & MIGRATE_VMA_SELECT_DEVICE_PRIVATE) !== 0;
    return isSelected && isOwners(cpu, migrate, ptePfn(entry)) ? LOOK : 0;
  }
  if ((entry & (PTE_PRESENT | PTE_SPECIAL)) === (PTE_PRESENT | PTE_SPECIAL)) return 0;
  const pfn = ptePfn(entry);
  const wantsSystem = (flags & MIGRATE_VMA_SELECT_SYSTEM) !== 0;
  if (pfn === ZERO_PFN) return wantsSystem ? MIGRATE_PFN_MIGRATE : 0;
  if (!isZoneDevicePage(cpu, pfn)) return wantsSystem && isMovable(cpu, pfn) ? LOOK : 0;
  const isSelected = (flags & MIGRATE_VMA_SELECT_DEVICE_COHERENT) !== 0;
  const isCoherent = pageHasFlag(cpu, pfn, PG_DEVICE_COHERENT);
  return isCoherent && isSelected && isOwners(cpu, migrate, pfn) ? LOOK : 0;
}

/** True unless the page is part of a large folio, or has been truncated. */
function isMovable(cpu: Cpu, pfn: Pfn): boolean {
  return !pageHasFlag(cpu, pfn, PG_LARGE) && read(cpu, pageOf(cpu, pfn), Page.mapping) !== 0;
}

/** True if the device's page is of those who migrate. */
function isOwners(cpu: Cpu, migrate: MigrateVma, pfn: Pfn): boolean {
  const owner = read(cpu, pagePgmap(cpu, pageOf(cpu, pfn)), DevPagemap.owner);
  return owner === read(cpu, migrate, MigrateVma.pgmapOwner);
}

/** Locks the page and puts a migration entry in its place: what is to be said of it. The table's lock is held. */
function takePage(cpu: Cpu, mm: MmStruct, va: Va, pte: Pte): number {
  const pfn = ptePfn(pteGet(cpu, pte));
  getPage(cpu, pfn);
  if (!trylockPage(cpu, pageOf(cpu, pfn))) {
    putPage(cpu, pfn); // I1
    return 0;
  }
  const entry = pteGetAndClear(cpu, pte);
  const isExclusive = pageHasFlag(cpu, pfn, PG_ANON_EXCLUSIVE);
  if (!isMutant(cpu, M_18) && isExclusive && pteHasFrame(entry)) flushTlbPage(cpu, mm, va);
  if (!putMigrationPte(cpu, pte, entry, pfn)) {
    unlockPage(cpu, pageOf(cpu, pfn));
    putPage(cpu, pfn);
    return 0;
  }
  const right = (entry & PTE_WRITE) !== 0 ? MIGRATE_PFN_WRITE : 0;
  return migratePfn(pfn) | MIGRATE_PFN_MIGRATE | right;
}

/** The mistake: waits until the page is not locked. The table's lock is held, and given back meanwhile. */
function waitForPage(cpu: Cpu, pte: Pte): void {
  const page = pageOf(cpu, ptePfn(pteGet(cpu, pte)));
  if (!pageIsLocked(cpu, page)) return;
  const ptl = pteLockptr(cpu, pte);
  awaitUnlockWithoutReference(cpu, page, ptl);
  spinLock(cpu, ptl);
}
