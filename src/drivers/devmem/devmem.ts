/**
 * A device with memory of its own, private or coherent, and the part of its driver that moves pages there and back.
 *
 * Kernel     lib/test_hmm.c, without the device's own page table
 * Protocol   to the device    migrateVmaSetup by the caller; devmemFillDestinations gives each page found one of the
 *                             device's, with its contents; migrateVmaPages and migrateVmaFinalize by the caller
 *            back             a fault of a CPU calls migrateToRam, which migrates that one page; or the caller migrates a
 *                             range, with ramFillDestinations in between
 *            away             devmemEvict moves everything back that can be, whoever has mapped it
 *            Free pages are a stack: what was freed last is handed out next.
 * Invariant  I1  A page is on the stack, or handed out: pageFree puts it back when nobody refers to it (INV-28).
 * Ordering   The device's lock is a spinlock, taken with page table locks held (pageFree).
 *
 * Who wants to see what happens gives an observer: that is a driver's policy, or what records it.
 *
 * @module
 */
import { fillWords, read, readAddress, readOnce, write, writeAddress } from '#memory';

import { PAGE_SIZE } from '../../base/units.js';
import type { Cpu } from '../../machine/cpu.js';
import { lockClass } from '../../machine/lock-class.js';
import { defineKernelOps, opsAt, opsIndex, type OpsTable } from '../../machine/ops-table.js';
import { allocPage, pageOf, type Pfn, pfnOf } from '../../machine/page-alloc.js';
import { cpuRelax } from '../../machine/sched.js';
import { allocWords, freeWords, kfree, kzalloc } from '../../machine/slab.js';
import { stackPop, stackPush } from '../../machine/stack.js';
import { MACHINE, Machine, type Page } from '../../machine/types.js';
import { containerOf, member, NULL, type Va } from '../../memory/layout.js';
import { memremapPages, memunmapPages } from '../../memremap/memremap.js';
import {
  type DevPagemapOps,
  type MEMORY_DEVICE_COHERENT,
  type MEMORY_DEVICE_PRIVATE,
  PGMAP_INTERNAL,
  setRange,
} from '../../memremap/pagemap.js';
import { DevPagemap } from '../../memremap/types.js';
import { pagePgmap, zoneDevicePageInit } from '../../memremap/zone-device.js';
import { VM_FAULT_OOM, VM_FAULT_SIGBUS } from '../../mm/fault.js';
import { copyPage } from '../../mm/migrate-copy.js';
import {
  migrateDeviceFinalize,
  migrateDevicePages,
  migrateDeviceRange,
  migrateVmaFinalize,
  migrateVmaPages,
  migrateVmaSetup,
} from '../../mm/migrate-device.js';
import {
  getMigratePfn,
  MIGRATE_PFN_MIGRATE,
  MIGRATE_VMA_SELECT_DEVICE_PRIVATE,
  migratePfn,
  migratePfnToPfn,
  setMigratePfn,
} from '../../mm/migrate-pfn.js';
import {
  MigratePfn as Entry,
  type MigratePfn,
  MigrateVma,
  type MmStruct,
  VmAreaStruct,
  VmFault,
} from '../../mm/types.js';
import { lockPage, unlockPage } from '../../sync/page-lock.js';
import { initSpinlock, spinLock, spinUnlock } from '../../sync/spinlock.js';
import { Devmem, DevmemPage } from './types.js';

/** Who is told what happens to the device's pages. */
export interface DevmemObserver extends OpsTable {
  /** A CPU has faulted on a page of the device's: 0, or bits of VM_FAULT_ERROR if it is not to be migrated. May sleep. */
  readonly migrateToRam?: (cpu: Cpu, devmem: Devmem, fault: VmFault) => number;
  /** Nobody refers to a page any more that was handed out for `va`. Never sleeps. */
  readonly pageFree?: (cpu: Cpu, devmem: Devmem, mm: MmStruct, va: Va) => void;
}

const DEVICE_LOCK = lockClass('devmem->lock');

/** What a device is made of. */
export interface DevmemConfig {
  readonly type: typeof MEMORY_DEVICE_PRIVATE | typeof MEMORY_DEVICE_COHERENT;
  /** Whose memory it is, in the eyes of migrations and hmm_range_fault; not 0. */
  readonly owner: number;
  /** Its place in the memory that the machine has set aside (MachineConfig.deviceBytes). Unit: pages, whole sections. */
  readonly offset: number;
  readonly pages: number;
  readonly observer?: DevmemObserver;
  readonly data?: number;
}

/** A device with its struct pages; NULL if memory is out, or the range is none. After bootDevices and bootMemremap. Sleeps. */
export function devmemAdd(cpu: Cpu, config: DevmemConfig): Devmem {
  const devmem = kzalloc(cpu, Devmem);
  const pages = devmem === NULL ? 0 : allocWords(cpu, config.pages * DevmemPage.words);
  if (devmem !== NULL && pages === 0) kfree(cpu, Devmem, devmem);
  if (pages === 0) return NULL;
  const first = read(cpu, MACHINE, Machine.deviceFirst) + config.offset;
  write(cpu, devmem, Devmem.first, first);
  write(cpu, devmem, Devmem.count, config.pages);
  write(cpu, devmem, Devmem.pages, pages);
  write(cpu, devmem, Devmem.data, config.data ?? 0);
  if (config.observer) write(cpu, devmem, Devmem.observer, opsIndex(cpu, config.observer));
  initSpinlock(cpu, member(devmem, Devmem.lock), DEVICE_LOCK);
  for (let i = 0; i < config.pages; i++) {
    write(cpu, slotOf(cpu, devmem, i), DevmemPage.next, i + 1 < config.pages ? i + 2 : 0);
  }
  write(cpu, devmem, Devmem.free, 1);
  const pgmap = member(devmem, Devmem.pgmap);
  write(cpu, pgmap, DevPagemap.form, PGMAP_INTERNAL);
  write(cpu, pgmap, DevPagemap.type, config.type);
  write(cpu, pgmap, DevPagemap.owner, config.owner);
  write(cpu, pgmap, DevPagemap.ops, opsIndex(cpu, devmemOps));
  write(cpu, pgmap, DevPagemap.nrRange, 1);
  setRange(cpu, pgmap, 0, first * PAGE_SIZE, (first + config.pages) * PAGE_SIZE - 1);
  if (memremapPages(cpu, pgmap) === 0) return devmem;
  freeDevmem(cpu, devmem);
  return NULL;
}

/** Takes the device away, once nobody has its pages. No lock held. Sleeps. */
export function devmemRemove(cpu: Cpu, devmem: Devmem): void {
  memunmapPages(cpu, member(devmem, Devmem.pgmap));
  freeDevmem(cpu, devmem);
}

function freeDevmem(cpu: Cpu, devmem: Devmem): void {
  const words = read(cpu, devmem, Devmem.count) * DevmemPage.words;
  freeWords(cpu, read(cpu, devmem, Devmem.pages), words);
  kfree(cpu, Devmem, devmem);
}

function slotOf(cpu: Cpu, devmem: Devmem, index: number): DevmemPage {
  return (read(cpu, devmem, Devmem.pages) + index * DevmemPage.words) as DevmemPage;
}

/** Pages that are handed out. */
export function devmemInUse(cpu: Cpu, devmem: Devmem): number {
  return readOnce(cpu, devmem, Devmem.inUse);
}

/** The device that a page is of. */
export function devmemOf(cpu: Cpu, pfn: Pfn): Devmem {
  return containerOf(pagePgmap(cpu, pageOf(cpu, pfn)), Devmem.pgmap);
}

/** The owner of its pages. */
export function devmemOwner(cpu: Cpu, devmem: Devmem): number {
  return read(cpu, member(devmem, Devmem.pgmap), DevPagemap.owner);
}

// --- pages ---

/** A page of the device's, locked and with one reference, for the address; 0 if none is free. */
export function devmemAllocPage(cpu: Cpu, devmem: Devmem, mm: MmStruct, va: Va): Pfn {
  const lock = member(devmem, Devmem.lock);
  spinLock(cpu, lock);
  const top = read(cpu, devmem, Devmem.free);
  if (top !== 0) {
    write(cpu, devmem, Devmem.free, read(cpu, slotOf(cpu, devmem, top - 1), DevmemPage.next));
    write(cpu, devmem, Devmem.inUse, read(cpu, devmem, Devmem.inUse) + 1);
  }
  spinUnlock(cpu, lock);
  if (top === 0) return 0;
  const slot = slotOf(cpu, devmem, top - 1);
  write(cpu, slot, DevmemPage.mm, mm);
  writeAddress(cpu, slot, DevmemPage.va, va);
  const pfn = read(cpu, devmem, Devmem.first) + top - 1;
  zoneDevicePageInit(cpu, pageOf(cpu, pfn));
  return pfn;
}

function observerOf(cpu: Cpu, devmem: Devmem): DevmemObserver | undefined {
  const index = read(cpu, devmem, Devmem.observer);
  return index === 0 ? undefined : (opsAt(cpu, index) as DevmemObserver);
}

const devmemOps: DevPagemapOps = defineKernelOps({
  opsName: 'devmem',
  pageFree(cpu: Cpu, page: Page) {
    const devmem: Devmem = containerOf(pagePgmap(cpu, page), Devmem.pgmap);
    const index = pfnOf(cpu, page) - read(cpu, devmem, Devmem.first);
    const slot = slotOf(cpu, devmem, index);
    const mm = read(cpu, slot, DevmemPage.mm);
    observerOf(cpu, devmem)?.pageFree?.(cpu, devmem, mm, readAddress(cpu, slot, DevmemPage.va));
    const lock = member(devmem, Devmem.lock);
    spinLock(cpu, lock);
    write(cpu, slot, DevmemPage.next, read(cpu, devmem, Devmem.free));
    write(cpu, devmem, Devmem.free, index + 1); // I1
    write(cpu, devmem, Devmem.inUse, read(cpu, devmem, Devmem.inUse) - 1);
    spinUnlock(cpu, lock);
  },
  migrateToRam(cpu: Cpu, fault: VmFault): number {
    const page = read(cpu, fault, VmFault.page);
    const devmem: Devmem = containerOf(pagePgmap(cpu, page), Devmem.pgmap);
    const refused = observerOf(cpu, devmem)?.migrateToRam?.(cpu, devmem, fault) ?? 0;
    return refused === 0 ? migrateOneToRam(cpu, devmem, fault) : refused;
  },
});

/** Brings the page back that a CPU has faulted on; 0 also if it could not be: then the CPU faults again. */
function migrateOneToRam(cpu: Cpu, devmem: Devmem, fault: VmFault): number {
  const va = readAddress(cpu, fault, VmFault.address);
  const migrate = stackPush(cpu, MigrateVma);
  const src = stackPush(cpu, Entry);
  const dst = stackPush(cpu, Entry);
  const vma = read(cpu, fault, VmFault.vma);
  setMigrate(cpu, migrate, vma, va, va + PAGE_SIZE, src, dst);
  write(cpu, migrate, MigrateVma.pgmapOwner, devmemOwner(cpu, devmem));
  write(cpu, migrate, MigrateVma.flags, MIGRATE_VMA_SELECT_DEVICE_PRIVATE);
  write(cpu, migrate, MigrateVma.faultPage, pfnOf(cpu, read(cpu, fault, VmFault.page)));
  let result = migrateVmaSetup(cpu, migrate) === 0 ? 0 : VM_FAULT_SIGBUS;
  let isMoved = false;
  if (result === 0 && read(cpu, migrate, MigrateVma.cpages) !== 0) {
    if (ramFillDestinations(cpu, devmem, src, dst, 1) === 0) result = VM_FAULT_OOM;
    migrateVmaPages(cpu, migrate);
    isMoved = (getMigratePfn(cpu, src, 0) & MIGRATE_PFN_MIGRATE) !== 0;
    migrateVmaFinalize(cpu, migrate);
  }
  if (!isMoved) awaitOther(cpu, read(cpu, fault, VmFault.page));
  stackPop(cpu, migrate);
  return result;
}

/**
 * Somebody else has the page locked, or refers to it. A lock is waited for; what a reference is for, and how long it
 * will be there, nobody knows: then the fault is tried again at once.
 */
function awaitOther(cpu: Cpu, page: Page): void {
  lockPage(cpu, page);
  unlockPage(cpu, page);
  cpuRelax(cpu, 0);
}

/** Fills in what is to be migrated: a range of a VMA. The rest of the struct is zeroed memory of the caller's. */
export function setMigrate(
  cpu: Cpu,
  migrate: MigrateVma,
  vma: VmAreaStruct,
  start: Va,
  end: Va,
  src: MigratePfn,
  dst: MigratePfn,
): void {
  write(cpu, migrate, MigrateVma.vma, vma);
  writeAddress(cpu, migrate, MigrateVma.start, start);
  writeAddress(cpu, migrate, MigrateVma.end, end);
  write(cpu, migrate, MigrateVma.src, src);
  write(cpu, migrate, MigrateVma.dst, dst);
}

// --- between setup and pages ---

/** True if page `index` of a migration is to stay where it is, although it could go. */
export type Skips = (index: number) => boolean;

const NONE: Skips = () => false;

/** Gives every page that can be migrated one of the device's, with its contents. Sleeps. */
export function devmemFillDestinations(
  cpu: Cpu,
  devmem: Devmem,
  migrate: MigrateVma,
  skips: Skips = NONE,
): void {
  const src = read(cpu, migrate, MigrateVma.src);
  const mm = read(cpu, read(cpu, migrate, MigrateVma.vma), VmAreaStruct.mm);
  const start = readAddress(cpu, migrate, MigrateVma.start);
  const npages = read(cpu, migrate, MigrateVma.npages);
  for (let i = 0; i < npages; i++) {
    const entry = getMigratePfn(cpu, src, i);
    if ((entry & MIGRATE_PFN_MIGRATE) === 0 || skips(i)) continue;
    const pfn = devmemAllocPage(cpu, devmem, mm, start + i * PAGE_SIZE);
    if (pfn === 0) continue;
    copyPage(cpu, pfn, migratePfnToPfn(entry));
    setMigratePfn(cpu, read(cpu, migrate, MigrateVma.dst), i, migratePfn(pfn));
  }
}

/** Gives every page of the device's that can be migrated one of the machine's, with its contents: how many. Sleeps. */
export function ramFillDestinations(
  cpu: Cpu,
  devmem: Devmem,
  src: MigratePfn,
  dst: MigratePfn,
  npages: number,
  skips: Skips = NONE,
): number {
  const first = read(cpu, devmem, Devmem.first);
  const end = first + read(cpu, devmem, Devmem.count);
  let given = 0;
  for (let i = 0; i < npages; i++) {
    const entry = getMigratePfn(cpu, src, i);
    const from = migratePfnToPfn(entry);
    if ((entry & MIGRATE_PFN_MIGRATE) === 0 || from < first || from >= end || skips(i)) continue;
    const pfn = allocPage(cpu);
    if (pfn === 0) continue;
    lockPage(cpu, pageOf(cpu, pfn)); // nobody else knows it
    copyPage(cpu, pfn, from);
    setMigratePfn(cpu, dst, i, migratePfn(pfn));
    given++;
  }
  return given;
}

// --- eviction ---

/** What an eviction has come to. */
export interface Evicted {
  /** Pages that could be unmapped, and those that are in the machine's memory now. */
  readonly cpages: number;
  readonly migrated: number;
}

/** Pages that are evicted at once. */
const EVICT_CHUNK = 256;

/**
 * Moves the device's pages to the machine's memory, whoever has mapped them, as far as nobody has locked or refers to
 * them: the caller tries again. No lock held. Sleeps.
 */
export function devmemEvict(cpu: Cpu, devmem: Devmem): Evicted {
  const words = EVICT_CHUNK * Entry.words;
  const src = allocWords(cpu, 2 * words) as MigratePfn;
  if (src === NULL) return { cpages: 0, migrated: 0 };
  const dst = (src + words) as MigratePfn;
  const count = read(cpu, devmem, Devmem.count);
  let cpages = 0;
  let migrated = 0;
  for (let at = 0; at < count; at += EVICT_CHUNK) {
    const npages = Math.min(EVICT_CHUNK, count - at);
    fillWords(cpu, dst, 0, words);
    cpages += migrateDeviceRange(cpu, src, read(cpu, devmem, Devmem.first) + at, npages);
    ramFillDestinations(cpu, devmem, src, dst, npages);
    migrateDevicePages(cpu, src, dst, npages);
    for (let i = 0; i < npages; i++) {
      if ((getMigratePfn(cpu, src, i) & MIGRATE_PFN_MIGRATE) !== 0) migrated++;
    }
    migrateDeviceFinalize(cpu, src, dst, npages);
  }
  freeWords(cpu, src, 2 * words);
  return { cpages, migrated };
}
