/**
 * Faults on entries that stand for a page with a frame: on its way elsewhere, in memory of a device that CPUs cannot
 * address, or with a device alone.
 *
 * Kernel     mm/memory.c (do_swap_page, remove_device_exclusive_entry, restore_exclusive_pte), mm/migrate.c
 *            (migration_entry_wait)
 * Protocol   migration          waits until the page is unlocked, with no reference to it: that would keep it
 *            device private     takes a reference and has the device's driver migrate the page
 *            device exclusive   locks the page, tells the notifiers EXCLUSIVE without an owner, maps it again
 *
 *            Then the access is tried again, whatever has come of it.
 * Invariant  I1  A page that was a device's alone is mapped again after the device has been told (INV-29).
 * Ordering   The mmap lock is held for reading, and kept while somebody sleeps here, as Linux keeps it.
 * Deviation  As 6.12 does: two who fault on one page of a device at a time have two references to it, each of which keeps
 *            the other's from moving it. They try until one is alone (LT-19).
 *
 * @module
 */
import { read, write, writeAddress } from '#memory';

import { bug } from '../base/bug.js';
import { PAGE_SIZE } from '../base/units.js';
import type { Cpu } from '../machine/cpu.js';
import { pageOf, type Pfn } from '../machine/page-alloc.js';
import { stackPop, stackPush } from '../machine/stack.js';
import type { Va } from '../memory/layout.js';
import { pgmapOps } from '../memremap/pagemap.js';
import { pagePgmap } from '../memremap/zone-device.js';
import {
  mmuNotifierInvalidateRangeEnd,
  mmuNotifierInvalidateRangeStart,
} from '../notifier/mmu-notifier.js';
import { MMU_NOTIFY_EXCLUSIVE, mmuNotifierRangeInit } from '../notifier/mmu-notifier-range.js';
import { MmuNotifierRange } from '../notifier/types.js';
import { awaitUnlockWithoutReference, lockPage, unlockPage } from '../sync/page-lock.js';
import { spinLock, spinUnlock } from '../sync/spinlock.js';
import { getPage, pageAddRmap, putPage, tryGetPage } from './page.js';
import { pteLockptr } from './page-table.js';
import {
  makePte,
  type Pte,
  PTE_DIRTY,
  PTE_SOFT_DIRTY,
  PTE_WRITE,
  pteGet,
  pteIsDeviceExclusive,
  pteIsDevicePrivate,
  pteIsMigration,
  ptePfn,
  setPte,
} from './pte.js';
import { VM_WRITE, VmAreaStruct, VmFault } from './types.js';
import { vmPageProt } from './vma-pte.js';

/** A fault on such an entry: 0, or bits of VM_FAULT_ERROR; preconditions as of handleMmFault. Sleeps. */
export function doPfnSwapPage(
  cpu: Cpu,
  vma: VmAreaStruct,
  va: Va,
  pte: Pte,
  entry: number,
  faultFlags: number,
): number {
  if (pteIsMigration(entry)) return migrationEntryWait(cpu, pte);
  if (pteIsDeviceExclusive(entry)) return removeDeviceExclusiveEntry(cpu, vma, va, pte, entry);
  return migrateToRam(cpu, vma, va, pte, entry, faultFlags);
}

/** Waits until the page that the entry stands for is where it is to be. No spinlock held. Sleeps. @kernel migration_entry_wait */
export function migrationEntryWait(cpu: Cpu, pte: Pte): number {
  const ptl = pteLockptr(cpu, pte);
  spinLock(cpu, ptl);
  const entry = pteGet(cpu, pte);
  if (pteIsMigration(entry)) awaitUnlockWithoutReference(cpu, pageOf(cpu, ptePfn(entry)), ptl);
  else spinUnlock(cpu, ptl);
  return 0;
}

/** Has the driver bring the page back. */
function migrateToRam(
  cpu: Cpu,
  vma: VmAreaStruct,
  va: Va,
  pte: Pte,
  entry: number,
  faultFlags: number,
): number {
  const pfn = ptePfn(entry);
  const ptl = pteLockptr(cpu, pte);
  spinLock(cpu, ptl);
  const isSame = pteGet(cpu, pte) === entry && pteIsDevicePrivate(entry);
  if (isSame) getPage(cpu, pfn);
  spinUnlock(cpu, ptl);
  if (!isSame) return 0;
  const page = pageOf(cpu, pfn);
  const ops = pgmapOps(cpu, pagePgmap(cpu, page));
  if (ops?.migrateToRam === undefined) bug('a private page has no driver that migrates it');
  const fault = stackPush(cpu, VmFault);
  writeAddress(cpu, fault, VmFault.address, va);
  write(cpu, fault, VmFault.vma, vma);
  write(cpu, fault, VmFault.page, page);
  write(cpu, fault, VmFault.flags, faultFlags);
  const result = ops.migrateToRam(cpu, fault);
  stackPop(cpu, fault);
  putPage(cpu, pfn);
  return result;
}

/** A CPU wants what a device has alone: takes it back. @kernel remove_device_exclusive_entry */
function removeDeviceExclusiveEntry(
  cpu: Cpu,
  vma: VmAreaStruct,
  va: Va,
  pte: Pte,
  entry: number,
): number {
  const pfn = ptePfn(entry);
  if (!tryGetPage(cpu, pfn)) return 0;
  lockPage(cpu, pageOf(cpu, pfn));
  const range = stackPush(cpu, MmuNotifierRange);
  const mm = read(cpu, vma, VmAreaStruct.mm);
  mmuNotifierRangeInit(cpu, range, MMU_NOTIFY_EXCLUSIVE, mm, va, va + PAGE_SIZE);
  mmuNotifierInvalidateRangeStart(cpu, range); // I1
  const ptl = pteLockptr(cpu, pte);
  spinLock(cpu, ptl);
  if (pteGet(cpu, pte) === entry) restoreExclusivePte(cpu, vma, pte, entry);
  spinUnlock(cpu, ptl);
  unlockPage(cpu, pageOf(cpu, pfn));
  putPage(cpu, pfn);
  mmuNotifierInvalidateRangeEnd(cpu, range);
  stackPop(cpu, range);
  return 0;
}

/**
 * Maps the page of an exclusive entry, whose reference the mapping takes over. The page is locked, the table's lock is
 * held. @kernel restore_exclusive_pte
 */
export function restoreExclusivePte(cpu: Cpu, vma: VmAreaStruct, pte: Pte, entry: number): void {
  const pfn: Pfn = ptePfn(entry);
  const vmFlags = read(cpu, vma, VmAreaStruct.flags);
  const isWritable = (entry & PTE_WRITE) !== 0;
  const right = isWritable && (vmFlags & VM_WRITE) !== 0 ? PTE_WRITE : 0;
  const dirty = isWritable ? PTE_DIRTY | PTE_SOFT_DIRTY : 0;
  pageAddRmap(cpu, pfn);
  setPte(cpu, pte, makePte(pfn, vmPageProt(vmFlags) | (entry & PTE_SOFT_DIRTY) | right | dirty));
}
