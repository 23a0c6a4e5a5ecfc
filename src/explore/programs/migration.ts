/**
 * Pages that are migrated between the machine's memory and a device's, while others use them.
 *
 * The device's memory is coherent: a CPU that wants a page waits until it is where it goes, and uses it there. Who faults
 * on private memory tries again as long as somebody else refers to the page (LT-19), which has no end in a schedule that
 * lets nobody else run.
 *
 * @module
 */
import { read, write } from '#memory';

import { bug } from '../../base/bug.js';
import { PAGE_SIZE } from '../../base/units.js';
import { bootDevices } from '../../device/boot.js';
import { devmemAdd, devmemFillDestinations, setMigrate } from '../../drivers/devmem/devmem.js';
import type { Devmem } from '../../drivers/devmem/types.js';
import type { Cpu } from '../../machine/cpu.js';
import { stackPop, stackPush } from '../../machine/stack.js';
import { NULL, struct, words } from '../../memory/layout.js';
import { bootMemremap } from '../../memremap/core.js';
import { MEMORY_DEVICE_COHERENT } from '../../memremap/pagemap.js';
import { SECTION_PAGES } from '../../memremap/types.js';
import { clearReferenced } from '../../mm/clear-refs.js';
import { migrateVmaFinalize, migrateVmaPages, migrateVmaSetup } from '../../mm/migrate-device.js';
import { MIGRATE_VMA_SELECT_SYSTEM } from '../../mm/migrate-pfn.js';
import { mmapReadLock, mmapReadUnlock } from '../../mm/mmap-lock.js';
import { isZoneDevicePage } from '../../mm/page.js';
import { pteOf } from '../../mm/page-table.js';
import { NO_PTE, pteGet, pteIsSwap, ptePfn } from '../../mm/pte.js';
import { type MigratePfn, MigrateVma, MmStruct } from '../../mm/types.js';
import { vmaLookup } from '../../mm/vma.js';
import { proactiveReclaim } from '../../mm/vmscan.js';
import { accept, type ExploreProgram, type ProgramTask, task } from '../program.js';
import {
  FILLED,
  fillPage,
  forkSpace,
  loadPage,
  makeSpace,
  pageVa,
  Space,
  spaceMm,
  spaceProgram,
  storePage,
} from './space.js';

const OWNER = 1;
const FIRST = 11;
const SECOND = 12;

/** The words of a migration of one or two pages: where from, where to. */
const Words = struct('explored_migration', { src: words(2), dst: words(2) });

// --- how they start ---

function setupDevice(cpu: Cpu): number {
  bootDevices(cpu);
  bootMemremap(cpu);
  const type = MEMORY_DEVICE_COHERENT;
  const devmem = devmemAdd(cpu, { type, owner: OWNER, offset: 0, pages: SECTION_PAGES });
  if (devmem === NULL) bug('setup has no device');
  const space = makeSpace(cpu);
  write(cpu, space, Space.devmem, devmem);
  fillPage(cpu, space, 0);
  return space;
}

/** … and the page has not been used since it was filled. */
function setupOld(cpu: Cpu): number {
  const space = setupDevice(cpu);
  clearReferenced(cpu, spaceMm(cpu, space as Space));
  return space;
}

/** Two pages that parent and child map. */
function setupTwo(cpu: Cpu): number {
  const space = makeSpace(cpu);
  fillPage(cpu, space, 0);
  fillPage(cpu, space, 1);
  forkSpace(cpu, space);
  return space;
}

// --- tasks ---

/** Begins to migrate pages of the machine's memory. The mmap lock must be held. */
function begin(cpu: Cpu, mm: MmStruct, first: number, end: number): MigrateVma {
  const migrate = stackPush(cpu, MigrateVma);
  const entries = stackPush(cpu, Words);
  const vma = vmaLookup(cpu, mm, pageVa(first));
  const src = (entries + Words.src) as MigratePfn;
  const dst = (entries + Words.dst) as MigratePfn;
  setMigrate(cpu, migrate, vma, pageVa(first), pageVa(end), src, dst);
  write(cpu, migrate, MigrateVma.pgmapOwner, OWNER);
  write(cpu, migrate, MigrateVma.flags, MIGRATE_VMA_SELECT_SYSTEM);
  const error = migrateVmaSetup(cpu, migrate);
  if (error !== 0) bug(`migrate_vma_setup answered ${error}`);
  return migrate;
}

function migrateToDevice(cpu: Cpu, at: number): void {
  const space = at as Space;
  const mm = spaceMm(cpu, space);
  mmapReadLock(cpu, mm);
  const migrate = begin(cpu, mm, 0, 1);
  devmemFillDestinations(cpu, read(cpu, space, Space.devmem) as Devmem, migrate);
  migrateVmaPages(cpu, migrate);
  migrateVmaFinalize(cpu, migrate);
  stackPop(cpu, migrate);
  mmapReadUnlock(cpu, mm);
}

/** Both pages of the parent's in one migration, which comes to nothing. */
function migrateBoth(cpu: Cpu, at: number): void {
  const mm = spaceMm(cpu, at as Space);
  mmapReadLock(cpu, mm);
  const migrate = begin(cpu, mm, 0, 2);
  migrateVmaPages(cpu, migrate);
  migrateVmaFinalize(cpu, migrate);
  stackPop(cpu, migrate);
  mmapReadUnlock(cpu, mm);
}

/** The child's second page, and then its first, each in a migration of its own. */
function migrateBackwards(cpu: Cpu, at: number): void {
  const mm = read(cpu, at as Space, Space.child) as MmStruct;
  mmapReadLock(cpu, mm);
  const second = begin(cpu, mm, 1, 2);
  const first = begin(cpu, mm, 0, 1);
  for (const migrate of [first, second]) {
    migrateVmaPages(cpu, migrate);
    migrateVmaFinalize(cpu, migrate);
  }
  stackPop(cpu, second);
  mmapReadUnlock(cpu, mm);
}

/** What was stored last is found, wherever the page has been meanwhile. */
function storeTwice(cpu: Cpu, at: number): void {
  const mm = spaceMm(cpu, at as Space);
  for (const value of [FIRST, SECOND]) {
    if (storePage(cpu, mm, 0, value) !== 0) bug('a store has failed');
  }
  const found = loadPage(cpu, mm, 0);
  if (found !== SECOND) bug(`INV-24: the page reads ${found}, and ${SECOND} was stored`);
}

function load(cpu: Cpu, at: number): void {
  const found = loadPage(cpu, spaceMm(cpu, at as Space), 0);
  if (found !== FILLED) bug(`INV-24: the page reads ${found}, and held ${FILLED}`);
}

function migrateAndLoad(cpu: Cpu, at: number): void {
  migrateToDevice(cpu, at);
  load(cpu, at);
}

function reclaim(cpu: Cpu): void {
  proactiveReclaim(cpu, 1);
}

function forkAndLoad(cpu: Cpu, at: number): void {
  const found = loadPage(cpu, forkSpace(cpu, at as Space), 0);
  if (found !== FILLED) bug(`INV-24: the child reads ${found}, and the page held ${FILLED}`);
}

// --- what they may end with ---

function observePlace(cpu: Cpu, at: number): string {
  const pte = pteOf(cpu, read(cpu, spaceMm(cpu, at as Space), MmStruct.pgd), pageVa(0));
  const entry = pte === NO_PTE ? 0 : pteGet(cpu, pte);
  if (pteIsSwap(entry)) return 'paged out';
  return isZoneDevicePage(cpu, ptePfn(entry)) ? 'with the device' : 'in memory';
}

/** Who uses a page refers to it only while it is mapped: so it always goes. */
const PLACES = [accept('with the device', 'the page went, before it was used or after')];

function migration(name: string, title: string, tasks: readonly ProgramTask[]): ExploreProgram {
  return spaceProgram(name, title, setupDevice, tasks, {
    deviceBytes: SECTION_PAGES * PAGE_SIZE,
    observe: observePlace,
    outcomes: PLACES,
  });
}

export const MIGRATION_PROGRAMS: readonly ExploreProgram[] = [
  migration('migrate-load', 'a page goes to a device while a CPU reads it', [
    task('migrate', migrateToDevice),
    task('load', load),
  ]),
  migration('migrate-store', 'a page goes to a device while a CPU stores into it', [
    task('migrate', migrateToDevice),
    task('store', storeTwice),
  ]),
  migration('migrate-fork', 'a page goes to a device while its process forks', [
    task('migrate', migrateToDevice),
    task('fork', forkAndLoad),
  ]),
  spaceProgram(
    'migrate-reclaim',
    'a page goes to a device while it is reclaimed',
    setupOld,
    [task('migrate', migrateAndLoad), task('reclaim', reclaim)],
    {
      deviceBytes: SECTION_PAGES * PAGE_SIZE,
      swapBytes: PAGE_SIZE,
      minFreeFrames: 4,
      observe: observePlace,
      outcomes: [
        ...PLACES,
        accept('in memory', 'reclaim had it, and it came back'),
        accept('paged out', 'it came back, and went again'),
      ],
    },
  ),
  spaceProgram(
    'migrate-migrate',
    'parent and child migrate the same pages in different orders',
    setupTwo,
    [task('forwards', migrateBoth), task('backwards', migrateBackwards)],
  ),
];
