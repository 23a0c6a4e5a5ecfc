/**
 * Migration between the machine's memory and that of devices, by their drivers.
 *
 * Kernel     mm/migrate_device.c
 * Protocol   setup      collect what can be migrated (migrate-collect.ts), while the notifiers hear MIGRATE of the
 *                       range; then unmap it wherever else it is mapped, and give up what somebody still refers to
 *            (driver)   gives each page a new one, locked, and copies it; or none
 *            pages      the new page takes the old one's place in what it belongs to, if nobody refers to the old one;
 *                       a new page for one that was not there is mapped, while the notifiers hear MIGRATE from there on
 *            (driver)   looks at what has MIGRATE left: that has been migrated. Both pages are still locked
 *            finalize   the new page, or else the old one, is mapped again everywhere; both are unlocked and put
 *
 *            Without a VMA (migrateDeviceRange) the pages are those of a device, whoever has mapped them.
 * Invariant  I1  From setup to finalize an old page is locked, and nothing maps it but migration entries (INV-23).
 *            I2  Each new page is unlocked and put once, by finalize (INV-25), whatever became of it.
 *            I3  References to an old page are counted: one is the migration's, one the fault's that wants it migrated.
 *                Who has another could look into the page where it no longer is.
 * Ordering   The mmap lock is held for reading from setup to finalize. Page locks are taken inside of it.
 * Deviation  Pages of files go nowhere, as far as devices are concerned in Linux too; to the machine's memory they could.
 *            The new page is unlocked before the old one and not after it: who has waited for the old one runs at once
 *            here, and is to find the new one free.
 *
 * @module
 */
import { read, readAddress, readOnce, write } from '#memory';

import { EBUSY, EINVAL } from '../base/errno.js';
import { PAGE_SIZE, pageAlignDown } from '../base/units.js';
import type { Cpu } from '../machine/cpu.js';
import {
  allocPage,
  pageOf,
  type Pfn,
  PG_ANON,
  PG_DEVICE_COHERENT,
  PG_DEVICE_PRIVATE,
  PG_LAZYFREE,
  PG_SWAPCACHE,
} from '../machine/page-alloc.js';
import { stackPop, stackPush } from '../machine/stack.js';
import { Page } from '../machine/types.js';
import { NULL, struct, word } from '../memory/layout.js';
import {
  mmuNotifierInvalidateRangeEnd,
  mmuNotifierInvalidateRangeStart,
} from '../notifier/mmu-notifier.js';
import { MMU_NOTIFY_MIGRATE, mmuNotifierRangeInitOwner } from '../notifier/mmu-notifier-range.js';
import { MmuNotifierRange } from '../notifier/types.js';
import { lockPage, trylockPage, unlockPage } from '../sync/page-lock.js';
import { pageAnonVma, pinAnonVma, putAnonVma } from './anon-vma.js';
import { isolateLru, putbackLru } from './lru.js';
import { collectRange } from './migrate-collect.js';
import { copyPage } from './migrate-copy.js';
import { insertMigratedPage } from './migrate-insert.js';
import {
  getMigratePfn,
  MIGRATE_PFN_MIGRATE,
  migratePfn,
  migratePfnToPfn,
  setMigratePfn,
} from './migrate-pfn.js';
import {
  isZoneDevicePage,
  pageHasFlag,
  pageIndex,
  pageMapcount,
  pageRefcount,
  pageSetFlags,
  putPage,
  setPageMapping,
  tryGetPage,
} from './page.js';
import { removeMigrationPtes, tryToMigrate } from './rmap.js';
import { pageFreeSwap } from './swap.js';
import {
  type AnonVma,
  type MigratePfn,
  MigrateVma,
  VM_HUGETLB,
  VM_SPECIAL,
  VmAreaStruct,
} from './types.js';

/** A page, and where it goes. */
const MigratePair = struct('migrate_pair', { src: word, dst: word });

// --- setup ---

/**
 * Finds, locks and unmaps what is to be migrated of a range, for which the caller has filled in `migrate`: 0, or -EINVAL
 * if there can be no migration. What was found is in `src` and `cpages`. The mmap lock must be held, until
 * migrateVmaFinalize. Sleeps. @kernel migrate_vma_setup
 */
export function migrateVmaSetup(cpu: Cpu, migrate: MigrateVma): number {
  const vma = read(cpu, migrate, MigrateVma.vma);
  if (vma === NULL || !isRangeValid(cpu, migrate, vma)) return -EINVAL;
  if ((read(cpu, vma, VmAreaStruct.flags) & (VM_HUGETLB | VM_SPECIAL)) !== 0) return -EINVAL;
  if (read(cpu, migrate, MigrateVma.src) === 0 || read(cpu, migrate, MigrateVma.dst) === 0) {
    return -EINVAL;
  }
  const fault = read(cpu, migrate, MigrateVma.faultPage);
  if (fault !== 0 && !pageHasFlag(cpu, fault, PG_DEVICE_PRIVATE)) return -EINVAL;
  write(cpu, migrate, MigrateVma.cpages, 0);
  write(cpu, migrate, MigrateVma.npages, 0);
  collect(cpu, migrate, vma);
  if (read(cpu, migrate, MigrateVma.cpages) === 0) return 0;
  const src = read(cpu, migrate, MigrateVma.src);
  const cpages = unmapPages(cpu, src, read(cpu, migrate, MigrateVma.npages), fault, true);
  write(cpu, migrate, MigrateVma.cpages, cpages);
  return 0;
}

function isRangeValid(cpu: Cpu, migrate: MigrateVma, vma: VmAreaStruct): boolean {
  const start = readAddress(cpu, migrate, MigrateVma.start);
  const end = readAddress(cpu, migrate, MigrateVma.end);
  if (start !== pageAlignDown(start) || end !== pageAlignDown(end) || start >= end) return false;
  return (
    start >= readAddress(cpu, vma, VmAreaStruct.start) &&
    end <= readAddress(cpu, vma, VmAreaStruct.end)
  );
}

/** @kernel migrate_vma_collect */
function collect(cpu: Cpu, migrate: MigrateVma, vma: VmAreaStruct): void {
  const start = readAddress(cpu, migrate, MigrateVma.start);
  const range = stackPush(cpu, MmuNotifierRange);
  mmuNotifierRangeInitOwner(
    cpu,
    range,
    MMU_NOTIFY_MIGRATE,
    read(cpu, vma, VmAreaStruct.mm),
    start,
    readAddress(cpu, migrate, MigrateVma.end),
    read(cpu, migrate, MigrateVma.pgmapOwner),
  );
  mmuNotifierInvalidateRangeStart(cpu, range);
  collectRange(cpu, migrate);
  mmuNotifierInvalidateRangeEnd(cpu, range);
  stackPop(cpu, range);
}

/**
 * Unmaps pages that the caller has locked and has a reference to, wherever they are mapped, and gives up those that
 * somebody else refers to: how many entries are left. Without `hasVma`, none of the caller's keeps their AnonVmas: then
 * each page does, in Page.private, until it is unlocked. Sleeps. @kernel migrate_device_unmap
 */
function unmapPages(
  cpu: Cpu,
  src: MigratePfn,
  npages: number,
  faultPage: Pfn,
  hasVma: boolean,
): number {
  let unmapped = 0;
  let mustRestore = false;
  for (let i = 0; i < npages; i++) {
    const entry = getMigratePfn(cpu, src, i);
    const pfn = migratePfnToPfn(entry);
    const goes =
      pfn === 0 ? (entry & MIGRATE_PFN_MIGRATE) !== 0 : unmapPage(cpu, pfn, faultPage, hasVma);
    if (goes) unmapped++;
    else if (pfn !== 0) {
      setMigratePfn(cpu, src, i, entry & ~MIGRATE_PFN_MIGRATE);
      mustRestore = true;
    }
  }
  if (mustRestore) restorePages(cpu, src, npages, hasVma);
  return unmapped;
}

function unmapPage(cpu: Cpu, pfn: Pfn, faultPage: Pfn, hasVma: boolean): boolean {
  const isDevice = isZoneDevicePage(cpu, pfn);
  if (!isDevice && !isolateLru(cpu, pfn)) return false;
  if (!hasVma) write(cpu, pageOf(cpu, pfn), Page.private, pinAnonVma(cpu, pfn));
  if (pageMapcount(cpu, pfn) > 0) tryToMigrate(cpu, pfn, anonVmaFor(cpu, pfn, hasVma));
  if (pageMapcount(cpu, pfn) === 0 && hasNoOtherUser(cpu, pfn, faultPage)) return true;
  if (!isDevice) putbackLru(cpu, pfn, false);
  return false;
}

/** The AnonVma in whose family the page is looked for. */
function anonVmaFor(cpu: Cpu, pfn: Pfn, hasVma: boolean): AnonVma {
  if (hasVma) return pageAnonVma(cpu, pfn);
  return read(cpu, pageOf(cpu, pfn), Page.private) as AnonVma;
}

/** True if no more references are left than there may be (I3). @kernel migrate_vma_check_page */
function hasNoOtherUser(cpu: Cpu, pfn: Pfn, faultPage: Pfn): boolean {
  let own = pfn === faultPage ? 2 : 1;
  if (isZoneDevicePage(cpu, pfn)) own++; // such pages had one more once; it is looked at again when it is moved
  if (hasPlace(cpu, pfn)) own++;
  return pageRefcount(cpu, pfn) - own <= pageMapcount(cpu, pfn);
}

/** True if the page is in a file, or in the swap cache, and that has a reference. @kernel folio_mapping */
function hasPlace(cpu: Cpu, pfn: Pfn): boolean {
  if (pageHasFlag(cpu, pfn, PG_SWAPCACHE)) return true;
  return !pageHasFlag(cpu, pfn, PG_ANON) && readOnce(cpu, pageOf(cpu, pfn), Page.mapping) !== 0;
}

function restorePages(cpu: Cpu, src: MigratePfn, npages: number, hasVma: boolean): void {
  for (let i = 0; i < npages; i++) {
    const entry = getMigratePfn(cpu, src, i);
    const pfn = migratePfnToPfn(entry);
    if (pfn === 0 || (entry & MIGRATE_PFN_MIGRATE) !== 0) continue;
    removeMigrationPtes(cpu, pfn, pfn, anonVmaFor(cpu, pfn, hasVma));
    setMigratePfn(cpu, src, i, 0);
    if (!hasVma) unpin(cpu, pfn);
    unlockPage(cpu, pageOf(cpu, pfn));
    putPage(cpu, pfn);
  }
}

/** Gives back what keeps the AnonVma of a page that no VMA of the caller's maps. */
function unpin(cpu: Cpu, pfn: Pfn): void {
  const page = pageOf(cpu, pfn);
  putAnonVma(cpu, read(cpu, page, Page.private) as AnonVma);
  write(cpu, page, Page.private, 0);
}

// --- pages ---

/**
 * Moves what the driver has given a new page in `dst`, locked and filled. What could not be moved has lost MIGRATE.
 * Sleeps. @kernel migrate_vma_pages
 */
export function migrateVmaPages(cpu: Cpu, migrate: MigrateVma): void {
  const src = read(cpu, migrate, MigrateVma.src);
  const dst = read(cpu, migrate, MigrateVma.dst);
  movePages(cpu, src, dst, read(cpu, migrate, MigrateVma.npages), migrate);
}

/** As above, for migrateDeviceRange. Sleeps. @kernel migrate_device_pages */
export function migrateDevicePages(
  cpu: Cpu,
  src: MigratePfn,
  dst: MigratePfn,
  npages: number,
): void {
  movePages(cpu, src, dst, npages, NULL);
}

/** @kernel __migrate_device_pages */
function movePages(
  cpu: Cpu,
  src: MigratePfn,
  dst: MigratePfn,
  npages: number,
  migrate: MigrateVma,
): void {
  const range = stackPush(cpu, MmuNotifierRange);
  let isNotified = false;
  for (let i = 0; i < npages; i++) {
    const entry = getMigratePfn(cpu, src, i);
    const from = migratePfnToPfn(entry);
    const to = migratePfnToPfn(getMigratePfn(cpu, dst, i));
    if ((entry & MIGRATE_PFN_MIGRATE) === 0) continue;
    let isMoved = to !== 0;
    if (isMoved && from === 0) {
      if (!isNotified) notifyFrom(cpu, migrate, range, i);
      isNotified = true;
      isMoved = insertMigratedPage(cpu, migrate, i, to);
    } else if (isMoved) {
      const faultPage = migrate === NULL ? 0 : read(cpu, migrate, MigrateVma.faultPage);
      isMoved = moveMapping(cpu, from, to, from === faultPage ? 2 : 1);
    }
    if (!isMoved) setMigratePfn(cpu, src, i, entry & ~MIGRATE_PFN_MIGRATE);
  }
  if (isNotified) mmuNotifierInvalidateRangeEnd(cpu, range);
  stackPop(cpu, range);
}

/** Pages that were not there are about to be mapped, from that one on. */
function notifyFrom(cpu: Cpu, migrate: MigrateVma, range: MmuNotifierRange, index: number): void {
  const vma = read(cpu, migrate, MigrateVma.vma);
  const start = readAddress(cpu, migrate, MigrateVma.start) + index * PAGE_SIZE;
  const end = readAddress(cpu, migrate, MigrateVma.end);
  const mm = read(cpu, vma, VmAreaStruct.mm);
  const owner = read(cpu, migrate, MigrateVma.pgmapOwner);
  mmuNotifierRangeInitOwner(cpu, range, MMU_NOTIFY_MIGRATE, mm, start, end, owner);
  mmuNotifierInvalidateRangeStart(cpu, range);
}

/**
 * The new page belongs where the old one did; false if it cannot be there, or somebody refers to the old one besides
 * `expected` (I3). @kernel folio_migrate_mapping, folio_migrate_flags
 */
function moveMapping(cpu: Cpu, from: Pfn, to: Pfn, expected: number): boolean {
  if (!pageHasFlag(cpu, from, PG_ANON)) return false;
  const toDevice = pageHasFlag(cpu, to, PG_DEVICE_PRIVATE | PG_DEVICE_COHERENT);
  if (isZoneDevicePage(cpu, to) && !toDevice) return false;
  if (hasPlace(cpu, from) && !pageFreeSwap(cpu, from)) return false;
  if (pageRefcount(cpu, from) !== expected) return false;
  setPageMapping(cpu, to, pageAnonVma(cpu, from), pageIndex(cpu, from));
  const isFreed = pageHasFlag(cpu, from, PG_LAZYFREE);
  pageSetFlags(cpu, to, PG_ANON | (isFreed ? PG_LAZYFREE : 0));
  return true;
}

// --- finalize ---

/** Maps every page again, where it is now, and gives all pages back. Sleeps. @kernel migrate_vma_finalize */
export function migrateVmaFinalize(cpu: Cpu, migrate: MigrateVma): void {
  const src = read(cpu, migrate, MigrateVma.src);
  const dst = read(cpu, migrate, MigrateVma.dst);
  finalizePages(cpu, src, dst, read(cpu, migrate, MigrateVma.npages), true);
}

/** As above, for migrateDeviceRange. Sleeps. @kernel migrate_device_finalize */
export function migrateDeviceFinalize(
  cpu: Cpu,
  src: MigratePfn,
  dst: MigratePfn,
  npages: number,
): void {
  finalizePages(cpu, src, dst, npages, false);
}

/** @kernel __migrate_device_finalize */
function finalizePages(
  cpu: Cpu,
  src: MigratePfn,
  dst: MigratePfn,
  npages: number,
  hasVma: boolean,
): void {
  for (let i = 0; i < npages; i++) {
    const entry = getMigratePfn(cpu, src, i);
    const from = migratePfnToPfn(entry);
    const to = migratePfnToPfn(getMigratePfn(cpu, dst, i));
    const isMoved = to !== 0 && (entry & MIGRATE_PFN_MIGRATE) !== 0;
    if (from !== 0) {
      removeMigrationPtes(cpu, from, isMoved ? to : from, anonVmaFor(cpu, from, hasVma));
      if (!hasVma) unpin(cpu, from);
      if (!isZoneDevicePage(cpu, from)) putbackLru(cpu, from, false);
    }
    if (to !== 0) unlockAndPut(cpu, to); // I2
    if (from !== 0) unlockAndPut(cpu, from);
  }
}

function unlockAndPut(cpu: Cpu, pfn: Pfn): void {
  unlockPage(cpu, pageOf(cpu, pfn));
  putPage(cpu, pfn);
}

// --- without a VMA ---

/**
 * Finds, locks and unmaps `npages` pages of a device from a frame on, as far as they are in use and nobody else has locked
 * or refers to them: the others have 0 in `src`, and the caller tries again. How many there are. migrateDevicePages and
 * migrateDeviceFinalize follow. No lock held. Sleeps. @kernel migrate_device_range
 */
export function migrateDeviceRange(cpu: Cpu, src: MigratePfn, first: Pfn, npages: number): number {
  for (let i = 0; i < npages; i++) setMigratePfn(cpu, src, i, takeDevicePage(cpu, first + i));
  return unmapPages(cpu, src, npages, 0, false);
}

function takeDevicePage(cpu: Cpu, pfn: Pfn): number {
  if (!tryGetPage(cpu, pfn)) return 0;
  if (trylockPage(cpu, pageOf(cpu, pfn))) return migratePfn(pfn) | MIGRATE_PFN_MIGRATE;
  putPage(cpu, pfn);
  return 0;
}

/**
 * Moves a coherent page of a device to the machine's memory, because somebody wants to keep it for long. The caller's
 * reference is put: 0, -EBUSY. The mmap lock may be held. Sleeps. @kernel migrate_device_coherent_folio
 */
export function migrateDeviceCoherentPage(cpu: Cpu, pfn: Pfn): number {
  lockPage(cpu, pageOf(cpu, pfn));
  const pair = stackPush(cpu, MigratePair);
  const [src, dst] = [pair as number as MigratePfn, (pair + 1) as MigratePfn];
  setMigratePfn(cpu, src, 0, migratePfn(pfn) | MIGRATE_PFN_MIGRATE);
  let isMoved = unmapPages(cpu, src, 1, 0, false) === 1;
  if (isMoved) {
    const own = allocPage(cpu);
    if (own !== 0) {
      lockPage(cpu, pageOf(cpu, own));
      setMigratePfn(cpu, dst, 0, migratePfn(own));
    }
    migrateDevicePages(cpu, src, dst, 1);
    isMoved = (getMigratePfn(cpu, src, 0) & MIGRATE_PFN_MIGRATE) !== 0;
    if (isMoved) copyPage(cpu, own, pfn);
    migrateDeviceFinalize(cpu, src, dst, 1);
  }
  stackPop(cpu, pair);
  return isMoved ? 0 : -EBUSY;
}
