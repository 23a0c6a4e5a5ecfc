/**
 * From a page to the entries that map it: all of them become migration entries, and are replaced again.
 *
 * Kernel     mm/rmap.c (rmap_walk, try_to_migrate_one), mm/migrate.c (remove_migration_pte)
 * Protocol   Walk the VMAs that may map the page: those of the family that an anonymous one names (mm/anon-vma.ts), or
 *            those of its file. Away: the notifiers of each hear CLEAR of the page while its entry there becomes a
 *            migration entry, until nothing maps the page any more. Back: each migration entry becomes one of the page
 *            that took the other's place, or of the same page; nobody is told, for nothing is taken away.
 * Invariant  I1  While a migration entry stands for a page, the page is locked, by who walks (INV-23).
 *            I2  An entry keeps what it said of its page: rights, soft-dirty, young, dirty, and that the page was this
 *                address space's own.
 * Ordering   The lock of the family, or of the file's list, for reading; then the table's lock for each entry.
 *
 * @module
 */
import { read } from '#memory';

import { PAGE_SIZE } from '../base/units.js';
import type { Cpu } from '../machine/cpu.js';
import {
  type Pfn,
  PG_ANON,
  PG_ANON_EXCLUSIVE,
  PG_DEVICE_PRIVATE,
  PG_LAZYFREE,
} from '../machine/page-alloc.js';
import { stackPop, stackPush } from '../machine/stack.js';
import { member, NULL, type Va } from '../memory/layout.js';
import {
  mmuNotifierInvalidateRangeEnd,
  mmuNotifierInvalidateRangeStart,
} from '../notifier/mmu-notifier.js';
import { MMU_NOTIFY_CLEAR, mmuNotifierRangeInit } from '../notifier/mmu-notifier-range.js';
import { keepSubscribersOut, letSubscribersIn } from '../notifier/subscriptions.js';
import { MmuNotifierRange } from '../notifier/types.js';
import { downRead, upRead } from '../sync/rwsem.js';
import { spinLock, spinUnlock } from '../sync/spinlock.js';
import { lockFamilyShared, unlockFamilyShared, vmaAddress, vmasOfFamily } from './anon-vma.js';
import { fileOfPage, vmasOfFile } from './file.js';
import { lruAddVma } from './lru.js';
import { flushTlbPage } from './mmu-gather.js';
import {
  getPage,
  isZoneDevicePage,
  pageAddRmap,
  pageClearFlags,
  pageHasFlag,
  pageIndex,
  pageMapcount,
  pageMaybePinned,
  pageRemoveRmap,
  pageSetFlags,
  putPage,
} from './page.js';
import { pteLockptr, pteOf } from './page-table.js';
import {
  makePte,
  NO_PTE,
  type Pte,
  PTE_ACCESSED,
  PTE_DIRTY,
  PTE_KIND_DEVICE_PRIVATE,
  PTE_KIND_MIGRATION,
  PTE_PFN_SHIFT,
  PTE_SOFT_DIRTY,
  PTE_SWP_EXCLUSIVE,
  PTE_WRITE,
  pteGet,
  pteGetAndClear,
  pteHasFrame,
  pteIsDeviceExclusive,
  pteIsDevicePrivate,
  pteIsMigration,
  ptePfn,
  setPte,
  setSpecialPte,
} from './pte.js';
import { type AnonVma, File, MmStruct, VmAreaStruct } from './types.js';
import { vmPageProt } from './vma-pte.js';

/** What is done where a page may be mapped: false ends the walk. `arg` is the caller's. Sleeps. */
export type RmapOne = (cpu: Cpu, pfn: Pfn, vma: VmAreaStruct, va: Va, arg: number) => boolean;

/**
 * Calls `one` for each place at which the page can be mapped; with `untilUnmapped` no longer than until it is not. An
 * anonymous page is looked for in the family of `anonVma`, which the caller keeps, as it does the file of another. Sleeps.
 * @kernel rmap_walk
 */
export function rmapWalk(
  cpu: Cpu,
  pfn: Pfn,
  anonVma: AnonVma,
  one: RmapOne,
  arg: number,
  untilUnmapped: boolean,
): void {
  if (anonVma !== NULL) {
    lockFamilyShared(cpu, anonVma);
    walkVmas(cpu, pfn, vmasOfFamily(cpu, anonVma, pageIndex(cpu, pfn)), one, arg, untilUnmapped);
    unlockFamilyShared(cpu, anonVma);
    return;
  }
  if (pageHasFlag(cpu, pfn, PG_ANON)) return;
  const file = fileOfPage(cpu, pfn);
  if (file === NULL) return;
  downRead(cpu, member(file, File.vmasLock));
  walkVmas(cpu, pfn, vmasOfFile(cpu, file), one, arg, untilUnmapped);
  upRead(cpu, member(file, File.vmasLock));
}

function walkVmas(
  cpu: Cpu,
  pfn: Pfn,
  vmas: readonly VmAreaStruct[],
  one: RmapOne,
  arg: number,
  untilUnmapped: boolean,
): void {
  const index = pageIndex(cpu, pfn);
  for (const vma of vmas) {
    const va = vmaAddress(cpu, vma, index);
    if (va < 0) continue;
    if (!one(cpu, pfn, vma, va, arg)) return;
    if (untilUnmapped && pageMapcount(cpu, pfn) === 0) return;
  }
}

/** The entry of the VMA's address space for the page there, or NO_PTE. @kernel page_vma_mapped_walk */
export function rmapPte(cpu: Cpu, vma: VmAreaStruct, va: Va): Pte {
  return pteOf(cpu, read(cpu, read(cpu, vma, VmAreaStruct.mm), MmStruct.pgd), va);
}

/** True if the entry counts as a mapping of the page. @kernel check_pte */
export function isMappingOf(entry: number, pfn: Pfn): boolean {
  if (ptePfn(entry) !== pfn) return false;
  return pteHasFrame(entry) || pteIsDevicePrivate(entry) || pteIsDeviceExclusive(entry);
}

// --- away ---

/**
 * Has migration entries stand for a page wherever it is mapped. Some of its mappings may remain. The page is locked, and
 * the caller has a reference. Sleeps. @kernel try_to_migrate
 */
export function tryToMigrate(cpu: Cpu, pfn: Pfn, anonVma: AnonVma): void {
  rmapWalk(cpu, pfn, anonVma, tryToMigrateOne, 0, true);
}

function tryToMigrateOne(cpu: Cpu, pfn: Pfn, vma: VmAreaStruct, va: Va): boolean {
  const mm = read(cpu, vma, VmAreaStruct.mm);
  const range = stackPush(cpu, MmuNotifierRange);
  mmuNotifierRangeInit(cpu, range, MMU_NOTIFY_CLEAR, mm, va, va + PAGE_SIZE);
  keepSubscribersOut(cpu, mm);
  mmuNotifierInvalidateRangeStart(cpu, range);
  let goesOn = true;
  const pte = rmapPte(cpu, vma, va);
  if (pte !== NO_PTE) {
    const ptl = pteLockptr(cpu, pte);
    spinLock(cpu, ptl);
    if (isMappingOf(pteGet(cpu, pte), pfn)) {
      const entry = pteGetAndClear(cpu, pte);
      flushTlbPage(cpu, mm, va);
      goesOn = putMigrationPte(cpu, pte, entry, pfn);
    }
    spinUnlock(cpu, ptl);
  }
  mmuNotifierInvalidateRangeEnd(cpu, range);
  letSubscribersIn(cpu, mm);
  stackPop(cpu, range);
  return goesOn;
}

/**
 * Puts a migration entry in the place of one that was cleared, and gives its mapping and reference back: false if the
 * page may be pinned, and then the entry is there again. The table's lock must be held, the page locked, TLBs flushed if
 * the page was exclusive. The caller has another reference. @kernel make_writable_migration_entry and others
 */
export function putMigrationPte(cpu: Cpu, pte: Pte, entry: number, pfn: Pfn): boolean {
  const isExclusive = pageHasFlag(cpu, pfn, PG_ANON_EXCLUSIVE);
  if (isExclusive && !tryShareAnonRmap(cpu, pfn)) {
    setPte(cpu, pte, entry);
    return false;
  }
  if ((entry & PTE_DIRTY) !== 0) pageClearFlags(cpu, pfn, PG_LAZYFREE); // it is needed after all
  const aged = pteHasFrame(entry) ? entry & (PTE_ACCESSED | PTE_DIRTY) : 0;
  const right = entry & PTE_WRITE || (isExclusive ? PTE_SWP_EXCLUSIVE : 0);
  const kept = (entry & PTE_SOFT_DIRTY) | aged | right;
  setSpecialPte(cpu, pte, (pfn << PTE_PFN_SHIFT) | PTE_KIND_MIGRATION | kept);
  pageRemoveRmap(cpu, pfn);
  putPage(cpu, pfn);
  return true;
}

/** The page is nobody's own any more, unless it may be pinned. @kernel folio_try_share_anon_rmap_pte */
function tryShareAnonRmap(cpu: Cpu, pfn: Pfn): boolean {
  const canBePinned = !pageHasFlag(cpu, pfn, PG_DEVICE_PRIVATE);
  if (canBePinned && pageMaybePinned(cpu, pfn)) return false;
  pageClearFlags(cpu, pfn, PG_ANON_EXCLUSIVE);
  return true;
}

// --- back ---

/**
 * Has `to` mapped wherever a migration entry stands for `from`; both may be the same page. Both are locked. Sleeps.
 * @kernel remove_migration_ptes
 */
export function removeMigrationPtes(cpu: Cpu, from: Pfn, to: Pfn, anonVma: AnonVma): void {
  rmapWalk(cpu, from, anonVma, removeMigrationOne, to, false);
}

function removeMigrationOne(cpu: Cpu, from: Pfn, vma: VmAreaStruct, va: Va, to: number): boolean {
  const pte = rmapPte(cpu, vma, va);
  if (pte === NO_PTE) return true;
  const ptl = pteLockptr(cpu, pte);
  spinLock(cpu, ptl);
  const entry = pteGet(cpu, pte);
  if (pteIsMigration(entry) && ptePfn(entry) === from) mapInstead(cpu, vma, pte, entry, to);
  spinUnlock(cpu, ptl);
  return true;
}

/** The table's lock must be held. @kernel remove_migration_pte */
function mapInstead(cpu: Cpu, vma: VmAreaStruct, pte: Pte, entry: number, to: Pfn): void {
  const prot = vmPageProt(read(cpu, vma, VmAreaStruct.flags)) | (entry & PTE_WRITE);
  getPage(cpu, to);
  pageAddRmap(cpu, to);
  const wasOwn = (entry & (PTE_WRITE | PTE_SWP_EXCLUSIVE)) !== 0;
  if (wasOwn && pageHasFlag(cpu, to, PG_ANON)) pageSetFlags(cpu, to, PG_ANON_EXCLUSIVE);
  if (!isZoneDevicePage(cpu, to)) lruAddVma(cpu, vma, to);
  if (pageHasFlag(cpu, to, PG_DEVICE_PRIVATE)) {
    setSpecialPte(cpu, pte, makeDevicePrivatePte(to, prot & PTE_WRITE, entry));
  } else {
    setPte(cpu, pte, makePte(to, prot | (entry & (PTE_SOFT_DIRTY | PTE_ACCESSED | PTE_DIRTY))));
  }
}

/** An entry of device-private memory, writable if `write` is PTE_WRITE. @kernel make_writable_device_private_entry */
export function makeDevicePrivatePte(pfn: Pfn, write: number, before: number): number {
  return (pfn << PTE_PFN_SHIFT) | PTE_KIND_DEVICE_PRIVATE | write | (before & PTE_SOFT_DIRTY);
}
