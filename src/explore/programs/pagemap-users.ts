/**
 * Drivers whose memory has struct pages, and that let go of their devices while it is used.
 *
 * @module
 */
import { read, write } from '#memory';

import { bug } from '../../base/bug.js';
import { errnoName } from '../../base/errno.js';
import { PAGE_SIZE } from '../../base/units.js';
import { runKworker, stopKworkers } from '../../deferred/kworker.js';
import { bootDevices } from '../../device/boot.js';
import { deviceInitialize } from '../../device/device.js';
import { devresReleaseAll } from '../../device/devres.js';
import { pciAddBar, pciResourceStart } from '../../device/pci.js';
import { SECTION_BYTES } from '../../device/region.js';
import { type Device, PciDev } from '../../device/types.js';
import {
  daxDriver,
  daxFault,
  daxMapped,
  daxPfn,
  daxPin,
  DevDax,
  initDevDax,
} from '../../drivers/dax/dax.js';
import { nfitTestAlloc, nfitTestMap, nfitTestStart } from '../../drivers/nfit-test/nfit-test.js';
import { p2pmemMunmap } from '../../drivers/p2pdma/mappings.js';
import { p2pmemMmap } from '../../drivers/p2pdma/mmap.js';
import {
  pciAllocP2pmem,
  pciFreeP2pmem,
  pciP2pdmaAddResource,
} from '../../drivers/p2pdma/p2pdma.js';
import { initPmem, PmemDevice, pmemDriver, pmemMap, pmemSubmit } from '../../drivers/pmem/pmem.js';
import type { Cpu } from '../../machine/cpu.js';
import { failEnd, failNth, failSite } from '../../machine/fail.js';
import { PHYSICAL_END } from '../../machine/limits.js';
import { defineOps } from '../../machine/ops-table.js';
import { kzalloc } from '../../machine/slab.js';
import { warningCount, warningTexts } from '../../machine/warn.js';
import { cacheline, member, NULL, type Ptr, struct, word } from '../../memory/layout.js';
import { bootMemremap } from '../../memremap/core.js';
import { pageToPfn, pfnToPage } from '../../memremap/hotplug.js';
import {
  PGMAP_CALLER_KILLS,
  PGMAP_INTERNAL,
  PGMAP_KILL,
  PGMAP_KILL_CLEANUP,
  putDevPagemap,
} from '../../memremap/pagemap.js';
import {
  defineProgram,
  type ExploreProgram,
  type Outcome,
  type ProgramTask,
  task,
} from '../program.js';

const World = struct('pagemap_users_world', {
  pdev: PciDev,
  dax: DevDax,
  pmem: PmemDevice,
  line1: cacheline,
  used: word, // how often the user had memory; written by its task
});
type World = Ptr<'pagemap_users_world'>;

/** Of dax and pmem. */
const START = PHYSICAL_END - SECTION_BYTES;

export const userDevice = defineOps({
  opsName: 'explored user of pages',
  release: () => undefined,
});

function boot(cpu: Cpu): World {
  bootDevices(cpu);
  bootMemremap(cpu);
  const world = kzalloc(cpu, World);
  for (const dev of devicesOf(world)) deviceInitialize(cpu, dev, userDevice, 1);
  return world;
}

const devicesOf = (world: World): readonly Device[] => [
  member(member(world, World.pdev), PciDev.dev),
  member(member(world, World.dax), DevDax.dev),
  member(member(world, World.pmem), PmemDevice.dev),
];

function mustBe0(error: number): void {
  if (error !== 0) bug(`cannot be set up: ${errnoName(error)}`);
}

/** One that a user has taken is there, and is that one. */
function touch(cpu: Cpu, pfn: number): void {
  if (pageToPfn(cpu, pfnToPage(cpu, pfn)) !== pfn) bug('INV-30: a page in use is another one');
}

function noteUse(cpu: Cpu, at: number): void {
  write(cpu, at as World, World.used, read(cpu, at as World, World.used) + 1);
}

const serve = task('kworker', (cpu: Cpu) => {
  runKworker(cpu);
});

// --- p2pdma ---

const pdevOf = (at: number): PciDev => member(at as World, World.pdev);

/** A function with the memory of so many base address registers. */
const setupP2p =
  (form: number, bars: number, mends = true) =>
  (cpu: Cpu): number => {
    const world = boot(cpu);
    const pdev = pdevOf(world);
    for (let bar = 0; bar < bars; bar++) {
      mustBe0(pciAddBar(cpu, pdev, bar, SECTION_BYTES));
      mustBe0(pciP2pdmaAddResource(cpu, pdev, bar, 0, 0, form, mends));
    }
    return world;
  };

function usePeerMemory(cpu: Cpu, at: number): void {
  const pdev = pdevOf(at);
  const pfn = pciAllocP2pmem(cpu, pdev, PAGE_SIZE);
  if (pfn === 0) return;
  touch(cpu, pfn);
  pciFreeP2pmem(cpu, pdev, pfn, PAGE_SIZE);
  noteUse(cpu, at);
}

const userTwice: ProgramTask = {
  name: 'user',
  operations: [
    { name: 'use memory', run: usePeerMemory },
    { name: 'use memory again', run: usePeerMemory },
  ],
};

const mapPeerMemory = (cpu: Cpu, at: number): void => {
  const pdev = pdevOf(at);
  const mapping = p2pmemMmap(cpu, pdev, 1);
  if (mapping < 0) return;
  noteUse(cpu, at);
  p2pmemMunmap(cpu, pdev, mapping);
};

/** … and the page cannot be inserted. */
function failToMap(cpu: Cpu, at: number): void {
  failNth(cpu, 1, failSite('vm_insert_page'));
  const mapping = p2pmemMmap(cpu, pdevOf(at), 2);
  failEnd(cpu);
  if (mapping > 0) bug('a page was inserted that could not be');
}

function unbindP2p(cpu: Cpu, at: number): void {
  devresReleaseAll(cpu, member(pdevOf(at), PciDev.dev));
  stopKworkers(cpu);
}

const isGone = (cpu: Cpu, pfn: number): boolean => pfnToPage(cpu, pfn) === NULL;

function checkP2p(cpu: Cpu, at: number): string | undefined {
  const pfn = pciResourceStart(cpu, pdevOf(at), 0) / PAGE_SIZE;
  return (
    checkWarnings(cpu) ?? (isGone(cpu, pfn) ? undefined : 'INV-32: there are struct pages left')
  );
}

function checkWarnings(cpu: Cpu): string | undefined {
  return warningCount(cpu) === 0 ? undefined : `warned: ${warningTexts(cpu)[0] ?? ''}`;
}

/** A probe fails at its page map; whoever lets go of the device then undoes what it had done. */
function failToProbe(cpu: Cpu, at: number): void {
  const pdev = pdevOf(at);
  failNth(cpu, 1, failSite('track_pfn_remap'));
  const error = pciP2pdmaAddResource(cpu, pdev, 0, 0, 0, PGMAP_CALLER_KILLS);
  failEnd(cpu);
  if (error === 0) bug('a page map was made that could not be');
  unbindP2p(cpu, at);
}

function setupBar(cpu: Cpu): number {
  const world = boot(cpu);
  mustBe0(pciAddBar(cpu, pdevOf(world), 0, SECTION_BYTES));
  return world;
}

// --- device-dax ---

const daxOf = (at: number): DevDax => member(at as World, World.dax);

function setupDax(cpu: Cpu): number {
  const world = boot(cpu);
  const dax = daxOf(world);
  mustBe0(initDevDax(cpu, dax, START, SECTION_BYTES));
  mustBe0(daxDriver.probe(cpu, member(dax, DevDax.dev)));
  return world;
}

function mapAndPin(cpu: Cpu, at: number): void {
  const dax = daxOf(at);
  if (daxFault(cpu, dax, 3) !== 0) return;
  const pgmap = daxPin(cpu, dax, 3);
  if (pgmap === NULL) return;
  touch(cpu, daxPfn(cpu, dax, 3));
  putDevPagemap(cpu, pgmap);
  noteUse(cpu, at);
}

function unbindDax(cpu: Cpu, at: number): void {
  devresReleaseAll(cpu, member(daxOf(at), DevDax.dev));
  stopKworkers(cpu);
}

function checkDax(cpu: Cpu, at: number): string | undefined {
  if (daxMapped(cpu, daxOf(at), 3) !== 0) return 'INV-35: a page was mapped after the kill';
  return isGone(cpu, START / PAGE_SIZE)
    ? checkWarnings(cpu)
    : 'INV-32: there are struct pages left';
}

// --- pmem ---

const pmemOf = (at: number): PmemDevice => member(at as World, World.pmem);

const setupPmem =
  (form: number) =>
  (cpu: Cpu): number => {
    const world = boot(cpu);
    mustBe0(initPmem(cpu, pmemOf(world), START, SECTION_BYTES, form, pmemMap));
    mustBe0(pmemDriver.probe(cpu, member(pmemOf(world), PmemDevice.dev)));
    return world;
  };

/** Over memory of the test. */
function setupNfitTest(cpu: Cpu): number {
  const world = boot(cpu);
  const start = nfitTestStart(cpu, nfitTestAlloc(cpu, SECTION_BYTES));
  mustBe0(initPmem(cpu, pmemOf(world), start, SECTION_BYTES, PGMAP_INTERNAL, nfitTestMap));
  mustBe0(pmemDriver.probe(cpu, member(pmemOf(world), PmemDevice.dev)));
  return world;
}

function submit(cpu: Cpu, at: number): void {
  if (pmemSubmit(cpu, pmemOf(at), 5) === 0) noteUse(cpu, at);
}

function unbindPmem(cpu: Cpu, at: number): void {
  devresReleaseAll(cpu, member(pmemOf(at), PmemDevice.dev));
  stopKworkers(cpu);
}

function checkPmem(cpu: Cpu): string | undefined {
  return isGone(cpu, START / PAGE_SIZE)
    ? checkWarnings(cpu)
    : 'INV-32: there are struct pages left';
}

// --- programs ---

const observe = (cpu: Cpu, at: number): string =>
  read(cpu, at as World, World.used) === 0 ? 'gone' : 'used';

const outcomes: readonly Outcome[] = [
  { name: 'used', grade: 'ACCEPTABLE', description: 'and the driver has waited for that' },
  { name: 'gone', grade: 'ACCEPTABLE', description: 'the memory was on its way out' },
];

const common = {
  ops: { userDevice },
  ramBytes: 64 * 4096,
  world: World,
} as const;

export const PAGEMAP_USER_PROGRAMS: readonly ExploreProgram[] = [
  defineProgram({
    ...common,
    name: 'p2pdma',
    title: 'memory of a function is taken and given back while its driver lets go of it',
    tasks: [task('user', usePeerMemory), task('unbind', unbindP2p), serve],
    setup: setupP2p(PGMAP_INTERNAL, 1),
    check: checkP2p,
    observe,
    outcomes,
  }),
  defineProgram({
    ...common,
    name: 'p2pdma-6.12',
    title:
      'the same as Linux has it: who asks for memory may be given some whose page map was freed',
    isBroken: true,
    tasks: [userTwice, task('unbind', unbindP2p), serve],
    setup: setupP2p(PGMAP_INTERNAL, 1, false),
    check: checkP2p,
  }),
  defineProgram({
    ...common,
    name: 'p2pdma-bars',
    title: 'the same with two page maps, each with a count of the driver',
    tasks: [task('user', usePeerMemory), task('unbind', unbindP2p), serve],
    setup: setupP2p(PGMAP_KILL_CLEANUP, 2),
    check: checkP2p,
    observe,
    outcomes,
  }),
  defineProgram({
    ...common,
    name: 'p2pdma-mmap',
    title: 'memory of a function is mapped and unmapped while its driver lets go of it',
    tasks: [task('user', mapPeerMemory), task('unbind', unbindP2p), serve],
    setup: setupP2p(PGMAP_INTERNAL, 1),
    check: checkP2p,
    observe,
    outcomes,
  }),
  defineProgram({
    ...common,
    name: 'p2pdma-kill',
    title: 'the driver waits for users of its memory when the struct pages are gone',
    isBroken: true,
    tasks: [task('user', usePeerMemory), task('unbind', unbindP2p), serve],
    setup: setupP2p(PGMAP_KILL, 1),
    check: checkP2p,
  }),
  defineProgram({
    ...common,
    name: 'p2pdma-unkilled',
    title: 'a probe fails, and nobody kills the count that its undoing waits for',
    isBroken: true,
    tasks: [task('driver', failToProbe), serve],
    setup: setupBar,
    check: checkP2p,
  }),
  defineProgram({
    ...common,
    name: 'p2pdma-insert',
    title: 'a page cannot be inserted, and the reference that came with the memory stays',
    isBroken: true,
    tasks: [task('user', failToMap), task('unbind', unbindP2p), serve],
    setup: setupP2p(PGMAP_INTERNAL, 1, false),
    check: checkP2p,
  }),
  defineProgram({
    ...common,
    name: 'p2pdma-insert-mended',
    title: 'the same as p2pdma-insert, and the reference is put',
    tasks: [task('user', failToMap), task('unbind', unbindP2p), serve],
    setup: setupP2p(PGMAP_INTERNAL, 1),
    check: checkP2p,
  }),
  defineProgram({
    ...common,
    name: 'dax',
    title: 'a page of a dax device is mapped and pinned while its driver lets go of it',
    tasks: [task('user', mapAndPin), task('unbind', unbindDax), serve],
    setup: setupDax,
    check: checkDax,
    observe,
    outcomes,
  }),
  defineProgram({
    ...common,
    name: 'pmem',
    title:
      'a request to a pmem device whose driver lets go of it; its queue counts the users of its pages',
    tasks: [task('request', submit), task('unbind', unbindPmem), serve],
    setup: setupPmem(PGMAP_KILL_CLEANUP),
    check: checkPmem,
    observe,
    outcomes,
  }),
  defineProgram({
    ...common,
    name: 'pmem-internal',
    title: 'the same as pmem; the disk goes first, and the page map counts by itself',
    tasks: [task('request', submit), task('unbind', unbindPmem), serve],
    setup: setupPmem(PGMAP_INTERNAL),
    check: checkPmem,
    observe,
    outcomes,
  }),
  defineProgram({
    ...common,
    name: 'pmem-kill',
    title: 'the queue is drained when the struct pages are gone',
    isBroken: true,
    tasks: [task('request', submit), task('unbind', unbindPmem), serve],
    setup: setupPmem(PGMAP_KILL),
    check: checkPmem,
  }),
  defineProgram({
    ...common,
    name: 'nfit-test',
    title: 'the same as pmem-internal, over memory of a test',
    tasks: [task('request', submit), task('unbind', unbindPmem), serve],
    setup: setupNfitTest,
    check: checkWarnings,
    observe,
    outcomes,
  }),
];
