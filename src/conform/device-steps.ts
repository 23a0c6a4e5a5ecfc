/**
 * The steps of a driver with device memory: migration to a device and back, eviction, exclusive pages.
 *
 * @module
 */
import { read, write } from '#memory';

import { EINVAL, ENOMEM, ESRCH } from '../base/errno.js';
import { PAGE_SIZE } from '../base/units.js';
import {
  devmemEvict,
  devmemFillDestinations,
  devmemInUse,
  ramFillDestinations,
  setMigrate,
  type Skips,
} from '../drivers/devmem/devmem.js';
import type { Devmem } from '../drivers/devmem/types.js';
import type { Cpu } from '../machine/cpu.js';
import { pageOf } from '../machine/page-alloc.js';
import { allocWords, freeWords, kfree, kzalloc } from '../machine/slab.js';
import { element, NULL } from '../memory/layout.js';
import { MEMORY_DEVICE_COHERENT } from '../memremap/pagemap.js';
import { makeDeviceExclusiveRange } from '../mm/device-exclusive.js';
import { migrateVmaFinalize, migrateVmaPages, migrateVmaSetup } from '../mm/migrate-device.js';
import {
  getMigratePfn,
  MIGRATE_PFN_MIGRATE,
  MIGRATE_PFN_VALID,
  MIGRATE_PFN_WRITE,
  MIGRATE_VMA_SELECT_DEVICE_COHERENT,
  MIGRATE_VMA_SELECT_DEVICE_PRIVATE,
  MIGRATE_VMA_SELECT_SYSTEM,
} from '../mm/migrate-pfn.js';
import { mmapReadLock, mmapReadUnlock } from '../mm/mmap-lock.js';
import { putPage } from '../mm/page.js';
import { MigratePfn as Entry, type MigratePfn, MigrateVma } from '../mm/types.js';
import { vmaLookup } from '../mm/vma.js';
import { unlockPage } from '../sync/page-lock.js';
import { DEVICE_TYPES, deviceNumber, ownerOf } from './devices.js';
import { type Answer, numberOf, startOf, type StepInput, textOf } from './step.js';
import { ConformWorld, DEVICES, isAlive, mmOf } from './world.js';

function deviceOf(cpu: Cpu, world: ConformWorld, step: StepInput): Devmem {
  const device = numberOf(step, 'dev');
  if (device < 0 || device >= DEVICES) return NULL;
  return read(cpu, world, element(ConformWorld.devices, device)) as Devmem;
}

// --- migration ---

const SELECTIONS: Readonly<Record<string, number>> = {
  system: MIGRATE_VMA_SELECT_SYSTEM,
  device_private: MIGRATE_VMA_SELECT_DEVICE_PRIVATE,
  device_coherent: MIGRATE_VMA_SELECT_DEVICE_COHERENT,
};

/** Gives pages of a migration their destinations. */
type Fill = (cpu: Cpu, devmem: Devmem, migrate: MigrateVma, skips: Skips) => void;

const toSystem: Fill = (cpu, devmem, migrate, skips) => {
  const [src, dst] = [read(cpu, migrate, MigrateVma.src), read(cpu, migrate, MigrateVma.dst)];
  ramFillDestinations(cpu, devmem, src, dst, read(cpu, migrate, MigrateVma.npages), skips);
};

/** Performs a step about a process. Sleeps. */
type Step = (cpu: Cpu, world: ConformWorld, proc: number, step: StepInput) => Answer;

/** The steps, by their names. */
export const DEVICE_STEPS: Readonly<Record<string, Step>> = {
  migrate_to_device: (cpu, world, proc, step) =>
    migrateStep(cpu, world, proc, step, 'system', devmemFillDestinations),
  migrate_to_system(cpu, world, proc, step) {
    const devmem = deviceOf(cpu, world, step);
    const isCoherent = DEVICE_TYPES[deviceNumber(cpu, devmem)] === MEMORY_DEVICE_COHERENT;
    const select = isCoherent ? 'device_coherent' : 'device_private';
    return migrateStep(cpu, world, proc, step, select, toSystem);
  },
  device_evict(cpu, world, _proc, step) {
    return { result: 0, ...devmemEvict(cpu, deviceOf(cpu, world, step)) };
  },
  device_stat: (cpu, world, _proc, step) => ({
    result: 0,
    inUse: devmemInUse(cpu, deviceOf(cpu, world, step)),
  }),
  make_exclusive: exclusiveStep,
};

function migrateStep(
  cpu: Cpu,
  world: ConformWorld,
  proc: number,
  step: StepInput,
  select: string,
  fill: Fill,
): Answer {
  if (!isAlive(cpu, world, proc)) return { result: -ESRCH };
  const mm = mmOf(cpu, world, proc);
  const count = numberOf(step, 'n');
  if (count <= 0) return { result: -EINVAL };
  const migrate = kzalloc(cpu, MigrateVma);
  const words = allocWords(cpu, 2 * count * Entry.words);
  if (migrate === NULL || words === 0) return { result: -ENOMEM };
  const devmem = deviceOf(cpu, world, step);
  write(cpu, migrate, MigrateVma.flags, SELECTIONS[textOf(step, 'select', select)] ?? 0);
  write(cpu, migrate, MigrateVma.pgmapOwner, ownerOf(step, `dev${numberOf(step, 'dev')}`));
  mmapReadLock(cpu, mm);
  const [start, end] = [startOf(step), startOf(step) + count * PAGE_SIZE];
  const [src, dst] = [words as MigratePfn, (words + count * Entry.words) as MigratePfn];
  setMigrate(cpu, migrate, vmaLookup(cpu, mm, start), start, end, src, dst);
  const result = migrateVmaSetup(cpu, migrate);
  const answer = result === 0 ? migratePages(cpu, devmem, migrate, step, fill) : { result };
  mmapReadUnlock(cpu, mm);
  freeWords(cpu, words, 2 * count * Entry.words);
  kfree(cpu, MigrateVma, migrate);
  return answer;
}

/** What follows the setup. */
function migratePages(
  cpu: Cpu,
  devmem: Devmem,
  migrate: MigrateVma,
  step: StepInput,
  fill: Fill,
): Answer {
  const cpages = read(cpu, migrate, MigrateVma.cpages);
  const srcAfterSetup = flagRuns(cpu, migrate);
  const skip = BigInt(textOf(step, 'skip', '0'));
  const aborts = numberOf(step, 'abort') !== 0 || step['abort'] === true;
  fill(cpu, devmem, migrate, (index) => aborts || ((skip >> BigInt(index)) & 1n) !== 0n);
  migrateVmaPages(cpu, migrate);
  const srcAfterPages = flagRuns(cpu, migrate);
  const migrated = countMigrated(cpu, migrate);
  migrateVmaFinalize(cpu, migrate);
  return { result: 0, cpages, migrated, srcAfterSetup, srcAfterPages };
}

function countMigrated(cpu: Cpu, migrate: MigrateVma): number {
  const src = read(cpu, migrate, MigrateVma.src);
  const dst = read(cpu, migrate, MigrateVma.dst);
  let migrated = 0;
  for (let i = 0; i < read(cpu, migrate, MigrateVma.npages); i++) {
    const isMigrated = (getMigratePfn(cpu, src, i) & MIGRATE_PFN_MIGRATE) !== 0;
    if (isMigrated && getMigratePfn(cpu, dst, i) !== 0) migrated++;
  }
  return migrated;
}

/** Runs of equal flags of src. */
function flagRuns(cpu: Cpu, migrate: MigrateVma): [number, string][] {
  const src = read(cpu, migrate, MigrateVma.src);
  const runs: [number, string][] = [];
  for (let i = 0; i < read(cpu, migrate, MigrateVma.npages); i++) {
    const letters = flagLetters(getMigratePfn(cpu, src, i));
    const last = runs.at(-1);
    if (last?.[1] === letters) last[0]++;
    else runs.push([1, letters]);
  }
  return runs;
}

function flagLetters(entry: number): string {
  const letters =
    ((entry & MIGRATE_PFN_VALID) !== 0 ? 'V' : '') +
    ((entry & MIGRATE_PFN_MIGRATE) !== 0 ? 'M' : '') +
    ((entry & MIGRATE_PFN_WRITE) !== 0 ? 'W' : '');
  return letters === '' ? '-' : letters;
}

// --- exclusive pages ---

function exclusiveStep(cpu: Cpu, world: ConformWorld, proc: number, step: StepInput): Answer {
  if (!isAlive(cpu, world, proc)) return { result: -ESRCH };
  const mm = mmOf(cpu, world, proc);
  const count = numberOf(step, 'n');
  const pages = allocWords(cpu, Math.max(1, count) * Entry.words) as MigratePfn;
  if (pages === NULL) return { result: -ENOMEM };
  const start = startOf(step);
  mmapReadLock(cpu, mm);
  const result = makeDeviceExclusiveRange(
    cpu,
    mm,
    start,
    start + count * PAGE_SIZE,
    pages,
    ownerOf(step),
  );
  mmapReadUnlock(cpu, mm);
  let mask = 0;
  for (let i = 0; i < result; i++) {
    const pfn = getMigratePfn(cpu, pages, i);
    if (pfn === 0) continue;
    mask += 2 ** i;
    unlockPage(cpu, pageOf(cpu, pfn));
    putPage(cpu, pfn);
  }
  freeWords(cpu, pages, Math.max(1, count) * Entry.words);
  return { result, mask };
}
