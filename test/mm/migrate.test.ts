/**
 * Pages that move between the machine's memory and a device's, and pages that a device has alone.
 *
 * @module
 */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';

import { read, readOnce, write } from '#memory';

import { EINVAL } from '../../src/base/errno.js';
import { PAGE_SIZE } from '../../src/base/units.js';
import { bootDeferred } from '../../src/deferred/boot.js';
import { bootDevices } from '../../src/device/boot.js';
import {
  devmemAdd,
  devmemAllocPage,
  devmemEvict,
  devmemFillDestinations,
  devmemInUse,
  ramFillDestinations,
  setMigrate,
} from '../../src/drivers/devmem/devmem.js';
import type { Devmem } from '../../src/drivers/devmem/types.js';
import { bootMachine } from '../../src/machine/boot.js';
import { pageOf } from '../../src/machine/page-alloc.js';
import { allocWords, freeWords, kfree, kzalloc } from '../../src/machine/slab.js';
import { Page } from '../../src/machine/types.js';
import { bootMemremap } from '../../src/memremap/core.js';
import { MEMORY_DEVICE_COHERENT, MEMORY_DEVICE_PRIVATE } from '../../src/memremap/pagemap.js';
import { zoneDevicePageInit } from '../../src/memremap/zone-device.js';
import { bootMm } from '../../src/mm/boot.js';
import { makeDeviceExclusiveRange } from '../../src/mm/device-exclusive.js';
import { FOLL_PIN, FOLL_WRITE, getUserPage, putUserPage } from '../../src/mm/gup.js';
import {
  migrateVmaFinalize,
  migrateVmaPages,
  migrateVmaSetup,
} from '../../src/mm/migrate-device.js';
import {
  getMigratePfn,
  MIGRATE_PFN_MIGRATE,
  MIGRATE_VMA_SELECT_DEVICE_COHERENT,
  MIGRATE_VMA_SELECT_DEVICE_PRIVATE,
  MIGRATE_VMA_SELECT_SYSTEM,
} from '../../src/mm/migrate-pfn.js';
import { mmapReadLock, mmapReadUnlock } from '../../src/mm/mmap-lock.js';
import { putPage } from '../../src/mm/page.js';
import { setPte } from '../../src/mm/pte.js';
import { type MigratePfn, MigrateVma } from '../../src/mm/types.js';
import { pageIsLocked, unlockPage } from '../../src/sync/page-lock.js';
import { at, newSpace, type Space } from '../support/space.js';

const OWNER = 1;
const PAGES = 64;

interface World {
  readonly space: Space;
  readonly device: Devmem;
}

/** Runs a test on an address space and a device, which must leave nothing behind. */
function withDevice(
  body: (world: World) => void,
  type: typeof MEMORY_DEVICE_PRIVATE | typeof MEMORY_DEVICE_COHERENT = MEMORY_DEVICE_PRIVATE,
): () => void {
  return () => {
    const { cpu } = bootMachine({ cpus: 1, ramBytes: 8 << 20, deviceBytes: PAGES * PAGE_SIZE });
    bootMm(cpu);
    bootDeferred(cpu);
    bootDevices(cpu);
    bootMemremap(cpu);
    const device = devmemAdd(cpu, { type, owner: OWNER, offset: 0, pages: PAGES });
    const space = newSpace(cpu);
    body({ space, device });
    space.end();
    assert.equal(devmemInUse(cpu, device), 0, 'pages of the device that nobody has given back');
  };
}

interface Moved {
  readonly result: number;
  readonly cpages: number;
  readonly migrated: number;
}

/** A migration of pages [page, page + count), to the device or back; `between` runs before the pages step. */
function migrate(
  { space, device }: World,
  page: number,
  count: number,
  flags: number,
  between: (src: MigratePfn) => void = () => undefined,
  fills = true,
): Moved {
  const { cpu, mm } = space;
  const migration = kzalloc(cpu, MigrateVma);
  const words = allocWords(cpu, 2 * count);
  const [src, dst] = [words as MigratePfn, (words + count) as MigratePfn];
  const [start, end] = [at(page), at(page + count)];
  setMigrate(cpu, migration, space.vmaOf(page), start, end, src, dst);
  write(cpu, migration, MigrateVma.pgmapOwner, OWNER);
  write(cpu, migration, MigrateVma.flags, flags);
  mmapReadLock(cpu, mm);
  const result = migrateVmaSetup(cpu, migration);
  const cpages = read(cpu, migration, MigrateVma.cpages);
  let migrated = 0;
  if (result === 0) {
    between(src);
    const toDevice = (flags & MIGRATE_VMA_SELECT_SYSTEM) !== 0;
    if (fills && toDevice) devmemFillDestinations(cpu, device, migration);
    else if (fills) ramFillDestinations(cpu, device, src, dst, count);
    migrateVmaPages(cpu, migration);
    for (let i = 0; i < count; i++) {
      if ((getMigratePfn(cpu, src, i) & MIGRATE_PFN_MIGRATE) !== 0) migrated++;
    }
    migrateVmaFinalize(cpu, migration);
  }
  mmapReadUnlock(cpu, mm);
  freeWords(cpu, words, 2 * count);
  kfree(cpu, MigrateVma, migration);
  return { result, cpages, migrated };
}

const toDevice = (world: World, page: number, count: number): Moved =>
  migrate(world, page, count, MIGRATE_VMA_SELECT_SYSTEM);

const back = (world: World, page: number, count: number): Moved =>
  migrate(world, page, count, MIGRATE_VMA_SELECT_DEVICE_PRIVATE);

describe('a migration', () => {
  test(
    'takes pages to the device and back, contents and rights and all',
    withDevice((world) => {
      const { space, device } = world;
      space.map(0, 2);
      space.store(0, 5);
      space.store(1, 6, 9);
      assert.deepEqual(toDevice(world, 0, 2), { result: 0, cpages: 2, migrated: 2 });
      assert.deepEqual(space.entries(0, 2), ['device rw', 'device rw']);
      assert.equal(devmemInUse(space.cpu, device), 2);
      space.check();
      assert.deepEqual(back(world, 0, 2), { result: 0, cpages: 2, migrated: 2 });
      assert.deepEqual(space.entries(0, 2), ['anon rw', 'anon rw']);
      assert.deepEqual([space.load(0), space.load(1, 9)], [5, 6]);
    }),
  );

  test(
    'makes pages with the device where there were none, or only the zero page',
    withDevice((world) => {
      const { space } = world;
      space.map(0, 2);
      space.load(1);
      assert.deepEqual(toDevice(world, 0, 2), { result: 0, cpages: 2, migrated: 2 });
      assert.deepEqual(space.entries(0, 2), ['device rw', 'device rw']);
      assert.deepEqual([space.load(0), space.load(1)], [0, 0]);
    }),
  );

  test(
    'locks its pages, and has an entry that says so in their place',
    withDevice((world) => {
      const { space } = world;
      space.map(0, 1);
      space.store(0, 5);
      const { pfn } = space.entry(0);
      migrate(world, 0, 1, MIGRATE_VMA_SELECT_SYSTEM, () => {
        assert.deepEqual(space.entry(0), { kind: 'migration', rights: 'rw', pfn });
        assert.equal(pageIsLocked(space.cpu, pageOf(space.cpu, pfn)), true);
        assert.equal(readOnce(space.cpu, pageOf(space.cpu, pfn), Page.mapcount), 0);
      });
    }),
  );

  test(
    'that comes to nothing puts everything back',
    withDevice((world) => {
      const { space } = world;
      space.map(0, 2);
      space.store(0, 5);
      const before = space.entry(0);
      const none = migrate(world, 0, 2, MIGRATE_VMA_SELECT_SYSTEM, undefined, false);
      assert.deepEqual(none, { result: 0, cpages: 2, migrated: 0 });
      assert.deepEqual([space.entry(0), space.entry(1).kind], [before, 'none']);
      assert.equal(pageIsLocked(space.cpu, pageOf(space.cpu, before.pfn)), false);
    }),
  );

  test(
    'leaves what somebody holds on to, and what is somebody else’s',
    withDevice((world) => {
      const { space } = world;
      space.map(0, 3);
      for (const page of [0, 1, 2]) space.store(page, page);
      const pinned = getUserPage(space.cpu, space.mm, at(0), FOLL_PIN | FOLL_WRITE);
      const referred = getUserPage(space.cpu, space.mm, at(1), 0);
      assert.deepEqual(toDevice(world, 0, 3), { result: 0, cpages: 1, migrated: 1 });
      assert.deepEqual(space.entries(0, 3), ['anon rw', 'anon rw', 'device rw']);
      putUserPage(space.cpu, pinned, FOLL_PIN);
      putUserPage(space.cpu, referred, 0);
      assert.deepEqual([space.load(0), space.load(1), space.load(2)], [0, 1, 2]);
    }),
  );

  test(
    'goes by every address space that maps the page, and so does the fault that ends it',
    withDevice((world) => {
      const { space } = world;
      space.map(0, 1);
      space.store(0, 5);
      const child = space.fork();
      toDevice(world, 0, 1);
      assert.deepEqual([space.entry(0).kind, child.entry(0).kind], ['device', 'device']);
      assert.deepEqual([space.entry(0).rights, child.entry(0).rights], ['r', 'r']);
      assert.equal(child.load(0), 5);
      assert.equal(space.entry(0).pfn, child.entry(0).pfn);
      space.store(0, 6);
      assert.deepEqual([space.load(0), child.load(0)], [6, 5]);
    }),
  );

  test(
    'refuses what is no range of one VMA',
    withDevice((world) => {
      world.space.map(0, 2);
      world.space.map(4, 1);
      assert.equal(toDevice(world, 0, 3).result, -EINVAL);
    }),
  );
});

describe('a page of private memory', () => {
  test(
    'is copied when parent or child writes it, and is read-only until then',
    withDevice((world) => {
      const { space } = world;
      space.map(0, 1);
      space.store(0, 5);
      toDevice(world, 0, 1);
      const child = space.fork();
      assert.deepEqual([space.entries(0, 1), child.entries(0, 1)], [['device r'], ['device r']]);
      child.store(0, 6);
      assert.deepEqual([space.load(0), child.load(0)], [5, 6]);
    }),
  );

  test(
    'loses the right to be written with the VMA, moves with it, and goes with it',
    withDevice((world) => {
      const { space, device } = world;
      space.map(0, 2);
      space.store(0, 5);
      space.store(1, 6);
      toDevice(world, 0, 2);
      space.protect(0, 1, 'r');
      assert.deepEqual(space.entries(0, 2), ['device r', 'device rw']);
      space.move(0, 1, 4);
      assert.equal(space.load(4), 5);
      space.unmap(1, 1);
      assert.equal(devmemInUse(space.cpu, device), 0);
    }),
  );

  test(
    'is never mapped for CPUs, and is handed out only when it is free',
    withDevice(({ space: { cpu, mm }, device }) => {
      const pfn = devmemAllocPage(cpu, device, mm, at(0));
      assert.throws(() => {
        zoneDevicePageInit(cpu, pageOf(cpu, pfn));
      }, /INV-28/);
      assert.throws(() => {
        setPte(cpu, cpu.scratch as never, (pfn << 12) | 1);
      }, /INV-26/);
      unlockPage(cpu, pageOf(cpu, pfn));
      putPage(cpu, pfn);
    }),
  );

  test(
    'is evicted, whoever has mapped it',
    withDevice((world) => {
      const { space, device } = world;
      space.map(0, 3);
      for (const page of [0, 1, 2]) space.store(page, page + 7);
      toDevice(world, 0, 3);
      const child = space.fork();
      assert.deepEqual(devmemEvict(space.cpu, device), { cpages: 3, migrated: 3 });
      assert.deepEqual(space.entries(0, 3), ['anon r', 'anon r', 'anon r']);
      assert.deepEqual([child.load(0), space.load(1), child.load(2)], [7, 8, 9]);
    }),
  );
});

describe('a page of coherent memory', () => {
  test(
    'is used by CPUs where it is, and leaves when it is pinned for long',
    withDevice((world) => {
      const { space, device } = world;
      space.map(0, 2);
      space.store(0, 5);
      toDevice(world, 0, 2);
      assert.deepEqual(space.entries(0, 2), ['anon rw', 'anon rw']);
      assert.equal(space.entry(0).pfn >= space.cpu.deviceFirst, true);
      space.store(0, 6);
      const pinned = getUserPage(space.cpu, space.mm, at(0), FOLL_PIN | FOLL_WRITE);
      assert.equal(pinned < space.cpu.deviceFirst, true);
      assert.equal(devmemInUse(space.cpu, device), 1);
      putUserPage(space.cpu, pinned, FOLL_PIN);
      const moved = migrate(world, 0, 2, MIGRATE_VMA_SELECT_DEVICE_COHERENT);
      assert.deepEqual(moved, { result: 0, cpages: 1, migrated: 1 });
      assert.equal(space.load(0), 6);
    }, MEMORY_DEVICE_COHERENT),
  );
});

/** Gives pages to a device alone; the pages it has got, as bits. */
function makeExclusive({ space: { cpu, mm } }: World, page: number, count: number): number {
  const pages = allocWords(cpu, count) as MigratePfn;
  mmapReadLock(cpu, mm);
  const found = makeDeviceExclusiveRange(cpu, mm, at(page), at(page + count), pages, OWNER);
  mmapReadUnlock(cpu, mm);
  let mask = 0;
  for (let i = 0; i < found; i++) {
    const pfn = getMigratePfn(cpu, pages, i);
    if (pfn === 0) continue;
    mask |= 1 << i;
    unlockPage(cpu, pageOf(cpu, pfn));
    putPage(cpu, pfn);
  }
  freeWords(cpu, pages, count);
  return mask;
}

describe('a page that a device has alone', () => {
  test(
    'is faulted in for that, and is taken back by the next access',
    withDevice((world) => {
      const { space } = world;
      space.map(0, 2);
      space.store(0, 5);
      const { pfn } = space.entry(0);
      assert.equal(makeExclusive(world, 0, 2), 3);
      assert.deepEqual(space.entries(0, 2), ['exclusive rw', 'exclusive rw']);
      assert.equal(space.load(0), 5);
      assert.deepEqual(space.entry(0), { kind: 'anon', rights: 'rw', pfn });
      space.load(1);
    }),
  );

  test(
    'is nobody’s alone after a fork',
    withDevice((world) => {
      const { space } = world;
      space.map(0, 1);
      space.store(0, 5);
      makeExclusive(world, 0, 1);
      const child = space.fork();
      assert.deepEqual([space.entries(0, 1), child.entries(0, 1)], [['anon r'], ['anon r']]);
      child.store(0, 6);
      assert.deepEqual([space.load(0), child.load(0)], [5, 6]);
    }),
  );

  test(
    'is no page of a file’s, and goes nowhere while it is so',
    withDevice((world) => {
      const { space } = world;
      space.map(0, 1, { file: space.file(1), shared: true });
      assert.equal(makeExclusive(world, 0, 1), 0);
      space.map(1, 1);
      makeExclusive(world, 1, 1);
      assert.deepEqual(toDevice(world, 1, 1), { result: 0, cpages: 0, migrated: 0 });
      space.unmap(1, 1);
    }),
  );
});
