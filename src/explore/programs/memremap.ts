/**
 * Page maps that go while their pages are used: who kills, who waits, and what comes before what.
 *
 * @module
 */
import { read, write } from '#memory';
import { isMutant, M_14 } from '#mutants';

import { bug } from '../../base/bug.js';
import { errnoName } from '../../base/errno.js';
import { PAGE_SIZE } from '../../base/units.js';
import { awaitDrainedRef, initDrainedRef, killDrainedRefOnce } from '../../deferred/drained-ref.js';
import { runKworker, stopKworkers } from '../../deferred/kworker.js';
import { PERCPU_REF_INIT_ATOMIC, percpuRefExit } from '../../deferred/percpu-refcount.js';
import { DrainedRef } from '../../deferred/types.js';
import { bootDevices } from '../../device/boot.js';
import { deviceInitialize } from '../../device/device.js';
import { devresReleaseAll } from '../../device/devres.js';
import { SECTION_BYTES } from '../../device/region.js';
import { Device } from '../../device/types.js';
import type { Cpu } from '../../machine/cpu.js';
import { allocationSite, failEnd, failNth } from '../../machine/fail.js';
import { PHYSICAL_END } from '../../machine/limits.js';
import { lockClass } from '../../machine/lock-class.js';
import { defineOps, opsIndex } from '../../machine/ops-table.js';
import { kfree, kzalloc } from '../../machine/slab.js';
import type { Page } from '../../machine/types.js';
import { warningCount, warningTexts } from '../../machine/warn.js';
import {
  cacheline,
  type Field,
  member,
  NULL,
  type Ptr,
  struct,
  word,
} from '../../memory/layout.js';
import { bootMemremap } from '../../memremap/core.js';
import { devmMemremapPages } from '../../memremap/devm-memremap.js';
import { hmmDevmemAdd, hmmDevmemPfn } from '../../memremap/hmm-devmem.js';
import { pageToPfn, pfnToPage } from '../../memremap/hotplug.js';
import { memremapPages, memunmapPages } from '../../memremap/memremap.js';
import {
  getDevPagemap,
  MEMORY_DEVICE_GENERIC,
  PGMAP_CALLER_KILLS,
  PGMAP_INTERNAL,
  PGMAP_KILL,
  PGMAP_KILL_CLEANUP,
  PGMAP_KILL_LAST,
  putDevPagemap,
  setRange,
} from '../../memremap/pagemap.js';
import { DevPagemap } from '../../memremap/types.js';
import { getDevicePage, putDevicePage, zoneDevicePageInit } from '../../memremap/zone-device.js';
import { unlockPage } from '../../sync/page-lock.js';
import { defineProgram, type ExploreProgram, type Outcome, reach, task } from '../program.js';

const World = struct('memremap_world', {
  first: word, // dev_pagemap
  second: word, // dev_pagemap, mapped after the first
  dev: Device,
  line1: cacheline,
  used: word, // the user has had a page; written by its task
  line2: cacheline,
  result: word, // of a map in a task; written by that
});
type World = Ptr<'memremap_world'>;

const USERS = lockClass('explored driver ref');

const refOf = (cpu: Cpu, pgmap: DevPagemap): DrainedRef =>
  read(cpu, pgmap, DevPagemap.data) as DrainedRef;

/** Kills once, also if several page maps share the count: so p2pdma did. */
function kill(cpu: Cpu, pgmap: DevPagemap): void {
  killDrainedRefOnce(cpu, refOf(cpu, pgmap));
}

function drain(cpu: Cpu, pgmap: DevPagemap): void {
  reach(cpu, 'users are waited for');
  awaitDrainedRef(cpu, refOf(cpu, pgmap));
}

export const killAndCleanup = defineOps({
  opsName: 'explored kill and cleanup',
  kill,
  cleanup: drain,
});

export const killOnly = defineOps({ opsName: 'explored kill', kill });

export const killAndWait = defineOps({
  opsName: 'explored kill that waits',
  kill(cpu: Cpu, pgmap: DevPagemap) {
    kill(cpu, pgmap);
    drain(cpu, pgmap);
  },
});

export const pageOwner = defineOps({
  opsName: 'explored page owner',
  pageFree: () => undefined,
  migrateToRam: () => 0,
});

export const pageDevice = defineOps({ opsName: 'explored page device', release: () => undefined });

// --- worlds ---

const sectionStart = (index: number): number => PHYSICAL_END - (index + 1) * SECTION_BYTES;

function newPagemap(cpu: Cpu, form: number, ops: number, section: number): DevPagemap {
  const pgmap = kzalloc(cpu, DevPagemap);
  write(cpu, pgmap, DevPagemap.form, form);
  write(cpu, pgmap, DevPagemap.type, MEMORY_DEVICE_GENERIC);
  write(cpu, pgmap, DevPagemap.ops, ops);
  write(cpu, pgmap, DevPagemap.nrRange, 1);
  setRange(cpu, pgmap, 0, sectionStart(section), sectionStart(section) + SECTION_BYTES - 1);
  return pgmap;
}

function setRef(cpu: Cpu, pgmap: DevPagemap, driverRef: DrainedRef): void {
  write(cpu, pgmap, DevPagemap.ref, member(driverRef, DrainedRef.ref));
  write(cpu, pgmap, DevPagemap.data, driverRef);
}

function newRef(cpu: Cpu, flags = 0): DrainedRef {
  const driverRef = kzalloc(cpu, DrainedRef);
  if (initDrainedRef(cpu, driverRef, USERS, flags) !== 0) bug('no memory');
  return driverRef;
}

function boot(cpu: Cpu): World {
  bootDevices(cpu);
  bootMemremap(cpu);
  const world = kzalloc(cpu, World);
  deviceInitialize(cpu, member(world, World.dev), pageDevice, 1);
  return world;
}

function map(cpu: Cpu, world: World, field: Field<'memremap_world'>, pgmap: DevPagemap): void {
  const error = memremapPages(cpu, pgmap);
  if (error !== 0) bug(`cannot be mapped: ${errnoName(error)}`);
  write(cpu, world, field, pgmap);
}

function setupInternal(cpu: Cpu): number {
  const world = boot(cpu);
  map(cpu, world, World.first, newPagemap(cpu, PGMAP_INTERNAL, 0, 0));
  return world;
}

const setupOld =
  (form: number, ops: { readonly opsName: string }) =>
  (cpu: Cpu): number => {
    const world = boot(cpu);
    const pgmap = newPagemap(cpu, form, opsIndex(cpu, ops), 0);
    setRef(cpu, pgmap, newRef(cpu));
    map(cpu, world, World.first, pgmap);
    return world;
  };

/** Two page maps of one device, each with a count of its own (LT-9). */
function setupTwo(cpu: Cpu): number {
  const world = boot(cpu);
  const ops = opsIndex(cpu, killAndCleanup);
  const first = newPagemap(cpu, PGMAP_KILL_CLEANUP, ops, 0);
  const second = newPagemap(cpu, PGMAP_KILL_CLEANUP, ops, 1);
  const ref = newRef(cpu);
  setRef(cpu, first, ref);
  setRef(cpu, second, isMutant(cpu, M_14) ? ref : newRef(cpu));
  map(cpu, world, World.first, first);
  map(cpu, world, World.second, second);
  return world;
}

/** With a count that need not be switched to atomic mode: that would wait for readers already. */
function setupAtomic(cpu: Cpu): number {
  const world = boot(cpu);
  const pgmap = newPagemap(cpu, PGMAP_KILL_CLEANUP, opsIndex(cpu, killAndCleanup), 0);
  setRef(cpu, pgmap, newRef(cpu, PERCPU_REF_INIT_ATOMIC));
  map(cpu, world, World.first, pgmap);
  return world;
}

// --- what tasks do ---

const pagemapOf = (cpu: Cpu, at: number): DevPagemap =>
  read(cpu, at as World, World.first) as DevPagemap;

const USED_PFN = sectionStart(0) / PAGE_SIZE + 3;

/** Lookups of who looks up repeatedly. */
const LOOKUPS = 6;

/** Looks a page up, and at it: with a reference to its page map, as who had allocated it. */
function touchPage(cpu: Cpu, at: number): void {
  const pgmap = getDevPagemap(cpu, USED_PFN, NULL);
  if (pgmap === NULL) return;
  const page = pfnToPage(cpu, USED_PFN);
  reach(cpu, 'page is in use');
  if (pageToPfn(cpu, page) !== USED_PFN) bug('INV-30: a page in use is another one');
  putDevPagemap(cpu, pgmap);
  write(cpu, at as World, World.used, 1);
}

/** … time and again, as the moment in which a lookup can go wrong is short. */
function touchRepeatedly(cpu: Cpu, at: number): void {
  for (let i = 0; i < LOOKUPS; i++) touchPage(cpu, at);
}

/** As touchPage, and takes a reference to it too: one that older forms would give to a page they have put. */
function usePage(cpu: Cpu, at: number): void {
  const pgmap = getDevPagemap(cpu, USED_PFN, NULL);
  if (pgmap === NULL) return;
  const page = pfnToPage(cpu, USED_PFN);
  reach(cpu, 'page is in use');
  getDevicePage(cpu, page);
  putDevicePage(cpu, page);
  putDevPagemap(cpu, pgmap);
  write(cpu, at as World, World.used, 1);
}

/** Unmaps; then there is nothing left to do. */
function unmap(cpu: Cpu, at: number): void {
  reach(cpu, 'unbind begins');
  memunmapPages(cpu, pagemapOf(cpu, at));
  stopKworkers(cpu);
}

/** As drivers did when nothing else waited: after the page map is gone. */
function unmapThenWait(cpu: Cpu, at: number): void {
  const pgmap = pagemapOf(cpu, at);
  reach(cpu, 'unbind begins');
  if (read(cpu, pgmap, DevPagemap.form) === PGMAP_CALLER_KILLS) kill(cpu, pgmap);
  memunmapPages(cpu, pgmap);
  reach(cpu, 'struct pages are gone');
  drain(cpu, pgmap);
  stopKworkers(cpu);
  percpuRefExit(cpu, member(refOf(cpu, pgmap), DrainedRef.ref));
}

/** The last to be mapped goes first. */
function unmapTwo(cpu: Cpu, at: number): void {
  reach(cpu, 'unbind begins');
  memunmapPages(cpu, read(cpu, at as World, World.second) as DevPagemap);
  memunmapPages(cpu, pagemapOf(cpu, at));
  stopKworkers(cpu);
}

/** … and gives the page map's memory to others. */
function unmapAndFree(cpu: Cpu, at: number): void {
  const pgmap = pagemapOf(cpu, at);
  memunmapPages(cpu, pgmap);
  kfree(cpu, DevPagemap, pgmap);
}

const serve = task('kworker', (cpu: Cpu) => {
  runKworker(cpu);
});

// --- LT-10: a map whose release cannot be written down, and the next one ---

const setupBind =
  (form: number) =>
  (cpu: Cpu): number => {
    const world = boot(cpu);
    write(cpu, world, World.first, newPagemap(cpu, form, 0, 0));
    write(cpu, world, World.second, newPagemap(cpu, form, 0, 0));
    return world;
  };

/** Binds, as a driver of that age did; with a count that it kills before it lets go. */
function bind(cpu: Cpu, world: World, pgmap: DevPagemap): number {
  if (read(cpu, pgmap, DevPagemap.form) !== PGMAP_INTERNAL) setRef(cpu, pgmap, newRef(cpu));
  return devmMemremapPages(cpu, member(world, World.dev), pgmap);
}

function unbind(cpu: Cpu, world: World, pgmap: DevPagemap): void {
  if (read(cpu, pgmap, DevPagemap.form) !== PGMAP_INTERNAL) kill(cpu, pgmap);
  devresReleaseAll(cpu, member(world, World.dev));
}

function bindTwice(cpu: Cpu, at: number): void {
  const world = at as World;
  const first = pagemapOf(cpu, at);
  const second = read(cpu, world, World.second) as DevPagemap;
  failNth(cpu, 1, allocationSite('devm_action'));
  const error = bind(cpu, world, first);
  failEnd(cpu);
  if (error === 0) unbind(cpu, world, first);
  reach(cpu, 'first binding is over');
  reach(cpu, 'range is bound again');
  const result = bind(cpu, world, second);
  write(cpu, world, World.result, result);
  if (result === 0) unbind(cpu, world, second);
  stopKworkers(cpu);
}

function checkBind(cpu: Cpu, at: number): string | undefined {
  const result = read(cpu, at as World, World.result);
  if (result !== 0) return `INV-32: the range cannot be bound again: ${errnoName(result)}`;
  return undefined;
}

// --- hmm_devmem_add ---

function setupDevmem(cpu: Cpu): number {
  const world = boot(cpu);
  const devmem = hmmDevmemAdd(cpu, member(world, World.dev), pageOwner, SECTION_BYTES);
  if (devmem < 0) bug(`no device memory: ${errnoName(devmem)}`);
  const page = pfnToPage(cpu, hmmDevmemPfn(cpu, devmem));
  zoneDevicePageInit(cpu, page); // the user has it
  unlockPage(cpu, page);
  write(cpu, world, World.first, page);
  return world;
}

function putDevmemPage(cpu: Cpu, at: number): void {
  putDevicePage(cpu, read(cpu, at as World, World.first) as Page);
  write(cpu, at as World, World.used, 1);
}

function unbindDevmem(cpu: Cpu, at: number): void {
  devresReleaseAll(cpu, member(at as World, World.dev));
  stopKworkers(cpu);
}

// --- what must be true at the end ---

function check(cpu: Cpu, at: number): string | undefined {
  if (warningCount(cpu) !== 0) return `warned: ${warningTexts(cpu)[0] ?? ''}`;
  const pfn = sectionStart(0) / PAGE_SIZE;
  if (pfnToPage(cpu, pfn) !== NULL) return 'INV-32: there are struct pages left';
  return getDevPagemap(cpu, pfn, NULL) === NULL ? undefined : `INV-32: ${at} can be looked up`;
}

const observe = (cpu: Cpu, at: number): string =>
  read(cpu, at as World, World.used) === 0 ? 'gone' : 'used';

const outcomes: readonly Outcome[] = [
  { name: 'used', grade: 'ACCEPTABLE', description: 'and whoever unmaps has waited for that' },
  { name: 'gone', grade: 'ACCEPTABLE', description: 'the page map was dying, or not there' },
];

const common = {
  ops: { killAndCleanup, killOnly, killAndWait, pageOwner, pageDevice },
  ramBytes: 64 * 4096,
  world: World,
} as const;

const broken = (
  name: string,
  title: string,
  setup: (cpu: Cpu) => number,
  run: (cpu: Cpu, at: number) => void,
): ExploreProgram =>
  defineProgram({
    ...common,
    name,
    title,
    isBroken: true,
    tasks: [task('user', touchPage), task('unbind', run), serve],
    setup,
    check,
  });

export const MEMREMAP_PROGRAMS: readonly ExploreProgram[] = [
  defineProgram({
    ...common,
    name: 'lt-7',
    title: 'a page of a device is used while its page map goes, which waits by itself',
    tasks: [task('user', usePage), task('unbind', unmap), serve],
    setup: setupInternal,
    check,
    observe,
    outcomes,
  }),
  defineProgram({
    ...common,
    name: 'lt-7-cleanup',
    title: 'a page of a device is used while its page map goes, which waits in cleanup',
    tasks: [task('user', touchPage), task('unbind', unmap), serve],
    setup: setupOld(PGMAP_KILL_CLEANUP, killAndCleanup),
    check,
    observe,
    outcomes,
  }),
  broken(
    'lt-7-kill',
    'the page map is killed, and waited for when its struct pages are gone',
    setupOld(PGMAP_KILL, killOnly),
    unmapThenWait,
  ),
  broken(
    'lt-7-caller-kills',
    'the driver kills the count, and waits for it when the struct pages are gone',
    setupOld(PGMAP_CALLER_KILLS, killOnly),
    unmapThenWait,
  ),
  broken(
    'lt-8',
    'kill waits for references that are put after it',
    setupOld(PGMAP_KILL, killAndWait),
    unmapThenWait,
  ),
  defineProgram({
    ...common,
    name: 'lt-8-kill-last',
    title: 'kill waits, and comes after the references are put (2018, not merged)',
    tasks: [task('user', touchPage), task('unbind', unmap), serve],
    setup: setupOld(PGMAP_KILL_LAST, killAndWait),
    check,
    observe,
    outcomes,
  }),
  defineProgram({
    ...common,
    name: 'lt-9',
    title: 'two page maps of a device go, one after the other',
    tasks: [task('user', touchPage), task('unbind', unmapTwo), serve],
    setup: setupTwo,
    check,
    observe,
    outcomes,
  }),
  defineProgram({
    ...common,
    name: 'pgmap-lookup',
    title: 'a page map is looked up while it goes and is freed',
    tasks: [task('user', touchRepeatedly), task('unbind', unmapAndFree)],
    setup: setupAtomic,
    check,
    observe,
    outcomes,
  }),
  defineProgram({
    ...common,
    name: 'lt-10',
    title: 'a map whose release cannot be written down, and the next map of the same range',
    tasks: [task('driver', bindTwice), serve],
    setup: setupBind(PGMAP_INTERNAL),
    check: (cpu, at) => checkBind(cpu, at) ?? check(cpu, at),
  }),
  defineProgram({
    ...common,
    name: 'lt-10-radix',
    title: 'the same as lt-10, when entries were not overwritten and the driver killed the count',
    tasks: [task('driver', bindTwice), serve],
    setup: setupBind(PGMAP_CALLER_KILLS),
    check: (cpu, at) => checkBind(cpu, at),
  }),
  defineProgram({
    ...common,
    name: 'hmm-devmem',
    title: 'a page of hmm_devmem_add is given back while its driver lets go of the device',
    tasks: [task('user', putDevmemPage), task('unbind', unbindDevmem), serve],
    setup: setupDevmem,
    check,
  }),
];
