/**
 * What becomes of drivers of device memory when something they need fails: each in each of its historical forms.
 *
 * Protocol   A subject is bound and unbound. Each point of its bind fails in turn (failure-walk.ts), and is undone as
 *            the driver's core would; then what is left is counted, and the subject is bound again, with nothing
 *            failing: that must succeed, and in the forms that are not broken nothing may be left (INV-34).
 *            Where undoing would wait for ever, as nobody has killed a count, that is noted, and it is
 *            killed by hand; what a broken form has left is taken away, so that the next point starts clean.
 *
 *            Another CPU runs the kworker: who waits for a per-CPU count needs it.
 *
 * @module
 */
import { fillWords, read, write } from '#memory';

import { bug } from '../base/bug.js';
import { EBUSY, errnoName } from '../base/errno.js';
import { bootDeferred } from '../deferred/boot.js';
import {
  drainDrainedRef,
  initDrainedRef,
  isDrainedRefLive,
  killDrainedRef,
} from '../deferred/drained-ref.js';
import { percpuRefPutMany, percpuRefTotal } from '../deferred/percpu-refcount.js';
import type { PercpuRef } from '../deferred/types.js';
import { DrainedRef } from '../deferred/types.js';
import { bootDevices } from '../device/boot.js';
import { deviceInitialize } from '../device/device.js';
import type { DeviceType } from '../device/device-ref.js';
import { devresReleaseAll } from '../device/devres.js';
import { pciAddBar, pcimRequestRegion } from '../device/pci.js';
import { SECTION_BYTES } from '../device/region.js';
import { Device, PciDev } from '../device/types.js';
import { daxDriver, DevDax, initDevDax } from '../drivers/dax/dax.js';
import {
  nfitTestAlloc,
  nfitTestFree,
  nfitTestMap,
  nfitTestStart,
} from '../drivers/nfit-test/nfit-test.js';
import { p2pmemMunmap } from '../drivers/p2pdma/mappings.js';
import { p2pmemMmap } from '../drivers/p2pdma/mmap.js';
import {
  p2pmemOwner,
  pciAllocP2pmem,
  pciFreeP2pmem,
  pciP2pdmaAddResource,
} from '../drivers/p2pdma/p2pdma.js';
import { P2pdma, type P2pmemMapping } from '../drivers/p2pdma/types.js';
import { PAGEMAP_USERS, pagemapRefOps } from '../drivers/pagemap-ref.js';
import {
  initPmem,
  PmemDevice,
  pmemDriver,
  pmemMap,
  type PmemMapOps,
} from '../drivers/pmem/pmem.js';
import type { Cpu } from '../machine/cpu.js';
import { PHYSICAL_END } from '../machine/limits.js';
import { defineKernelOps, opsIndex } from '../machine/ops-table.js';
import { kzalloc } from '../machine/slab.js';
import { member, NULL, type Ptr, struct } from '../memory/layout.js';
import { bootMemremap } from '../memremap/core.js';
import { devmMemremapPages } from '../memremap/devm-memremap.js';
import { hmmDevmemAdd } from '../memremap/hmm-devmem.js';
import { pfnToPage } from '../memremap/hotplug.js';
import { memunmapPages } from '../memremap/memremap.js';
import {
  callerKills,
  type DevPagemapOps,
  MEMORY_DEVICE_GENERIC,
  PGMAP_CALLER_KILLS,
  PGMAP_INTERNAL,
  PGMAP_KILL,
  PGMAP_KILL_CLEANUP,
  PGMAP_UNCHECKED,
  rangeStart,
  setRange,
} from '../memremap/pagemap.js';
import { DevPagemap, SECTION_PAGES } from '../memremap/types.js';
import { type InjectedFailure, walkFailures } from './failure-walk.js';

/** A row: one subject in one form. */
export interface BindFailures {
  /** `p2pdma, two BARs`. */
  readonly what: string;
  /** Of which release of Linux: `5.2 to 5.18`. */
  readonly form: string;
  readonly failures: readonly InjectedFailure[];
  /** After so many of them the subject could be bound again. */
  readonly rebound: number;
  /** What each of them has left, and where undoing would have waited for ever; the first of a kind. */
  readonly left: readonly string[];
}

/** What is bound; all calls on the walking CPU, with nobody else at it. */
interface Subject {
  readonly what: string;
  readonly form: string;
  /** 0, or an error: then `note` has been told of what would not have been undone. */
  readonly bind: (cpu: Cpu, note: Note) => number;
  readonly unbind: (cpu: Cpu, note: Note) => void;
  /**
   * Takes away what is left without being allocated. Returns what binding again gave while it was still there; 0 if
   * nothing was left.
   */
  readonly mend?: (cpu: Cpu, note: Note) => number;
}
type Note = (what: string) => void;

/** What the subjects consist of. */
export const BindArena = struct('bind_arena', {
  dev: Device,
  pdev: PciDev,
  dax: DevDax,
  pmem: PmemDevice,
  pgmap: DevPagemap,
  other: DevPagemap, // bound in the place of the first, where that is still there
  count: DrainedRef,
  otherCount: DrainedRef,
});
export type BindArena = Ptr<'bind_arena'>;

const BARS = 2;
const MMAP_PAGES = 3;
const START = PHYSICAL_END - SECTION_BYTES;
const LIVE = 'a live count: undoing waits for ever';

const FORMS: readonly (readonly [form: number, name: string])[] = [
  [PGMAP_CALLER_KILLS, '4.18, checked'],
  [PGMAP_KILL, '5.0, 5.1'],
  [PGMAP_KILL_CLEANUP, '5.2 to 5.18'],
  [PGMAP_INTERNAL, '5.19 and later'],
];

const arenaDevice: DeviceType = defineKernelOps({
  opsName: 'device of a bind that fails',
  release: () => undefined,
});

const arenaPages: DevPagemapOps = defineKernelOps({
  opsName: 'pages of a bind that fails',
  pageFree: () => undefined,
  migrateToRam: () => 0,
});

/** Makes the subjects, on the boot CPU of a machine with memory. */
export function bootBindFailures(cpu: Cpu): BindArena {
  bootDeferred(cpu);
  bootDevices(cpu);
  bootMemremap(cpu);
  const arena = kzalloc(cpu, BindArena);
  const devices = [
    member(arena, BindArena.dev),
    member(member(arena, BindArena.pdev), PciDev.dev),
    member(member(arena, BindArena.dax), DevDax.dev),
    member(member(arena, BindArena.pmem), PmemDevice.dev),
  ];
  for (const [id, dev] of devices.entries()) deviceInitialize(cpu, dev, arenaDevice, id);
  const pdev = member(arena, BindArena.pdev);
  for (let bar = 0; bar < BARS; bar++) must(pciAddBar(cpu, pdev, bar, SECTION_BYTES));
  must(initDevDax(cpu, member(arena, BindArena.dax), START, SECTION_BYTES));
  return arena;
}

function must(error: number): void {
  if (error !== 0) bug(`cannot be made: ${errnoName(error)}`);
}

/** All subjects, one after the other. Another CPU runs the kworker. Sleeps. */
export function bindFailures(cpu: Cpu, arena: BindArena): BindFailures[] {
  const memory = nfitTestAlloc(cpu, SECTION_BYTES);
  const test = nfitTestStart(cpu, memory);
  const subjects = [
    memremapSubject(arena, PGMAP_UNCHECKED, '4.18'),
    ...FORMS.map(([form, name]) => memremapSubject(arena, form, name)),
    ...FORMS.map(([form, name]) => p2pdmaSubject(arena, form, name, false)),
    p2pdmaSubject(arena, PGMAP_INTERNAL, 'mended', true),
    ...FORMS.map(([form, name]) => daxSubject(arena, form, name)),
    ...FORMS.map(([form, name]) => pmemSubject(arena, form, name, 'pmem', START, pmemMap)),
    ...FORMS.map(([form, name]) => pmemSubject(arena, form, name, 'nfit_test', test, nfitTestMap)),
    hmmSubject(arena),
    mmapSubject(arena, '6.12', false),
    mmapSubject(arena, 'mended', true),
  ];
  const rows = subjects.map((subject) => walkSubject(cpu, subject));
  nfitTestFree(cpu, memory);
  return rows;
}

function walkSubject(cpu: Cpu, subject: Subject): BindFailures {
  const { what, form, mend } = subject;
  let noted: string[] = [];
  const note = (text: string): void => void noted.push(text);
  const warm = subject.bind(cpu, note); // then all that it needs of slabs is there
  if (warm !== 0) bug(`${what}, ${form}: cannot be bound: ${errnoName(warm)}`);
  subject.unbind(cpu, note);
  noted = [];
  const left = new Map<string, string>();
  let rebound = 0;
  const failures = walkFailures(cpu, {
    attempt: () => subject.bind(cpu, note),
    undo: () => {
      subject.unbind(cpu, note);
    },
    settle: (_cpu, failure) => {
      const unmended = mend?.(cpu, note) ?? 0;
      const mended = subject.bind(cpu, note);
      if (mended === 0) subject.unbind(cpu, note);
      const again = unmended === 0 ? mended : unmended;
      if (again === 0) rebound++;
      else note(`cannot be bound again: ${errnoName(again)}`);
      const all = [failure.left, ...noted].filter(Boolean).join('; ');
      if (all !== '' && !left.has(all)) left.set(all, `${failure.site}: ${all}`);
      noted = [];
    },
  });
  return { what, form, failures, rebound, left: [...left.values()] };
}

// --- devm_memremap_pages, called by a driver that does nothing else ---

function memremapSubject(arena: BindArena, form: number, name: string): Subject {
  const dev = member(arena, BindArena.dev);
  const first = member(arena, BindArena.pgmap);
  const firstCount = member(arena, BindArena.count);
  const unbind = (cpu: Cpu, note: Note, pgmap: DevPagemap, count: DrainedRef): void => {
    if (callerKills(form)) killDrainedRef(cpu, count);
    devresReleaseAll(cpu, dev);
    if (pfnToPage(cpu, rangeStart(cpu, pgmap, 0)) === NULL) drainOld(cpu, form, count);
    else note('struct pages that nobody removes');
  };
  return {
    what: 'devm_memremap_pages',
    form: name,
    bind: (cpu, note) => bindPagemap(cpu, dev, form, first, firstCount, note),
    unbind: (cpu, note) => {
      unbind(cpu, note, first, firstCount);
    },
    /** A driver of that age unbinds, and binds; what it had is there. */
    mend: (cpu, note) => {
      if (pfnToPage(cpu, rangeStart(cpu, first, 0)) === NULL) return 0;
      const other = member(arena, BindArena.other);
      const otherCount = member(arena, BindArena.otherCount);
      const again = bindPagemap(cpu, dev, form, other, otherCount, note);
      if (again === 0) unbind(cpu, note, other, otherCount);
      memunmapPages(cpu, first);
      drainOld(cpu, form, firstCount);
      return again;
    },
  };
}

function bindPagemap(
  cpu: Cpu,
  dev: Device,
  form: number,
  pgmap: DevPagemap,
  count: DrainedRef,
  note: Note,
): number {
  fillWords(cpu, pgmap, 0, DevPagemap.words);
  write(cpu, pgmap, DevPagemap.form, form);
  write(cpu, pgmap, DevPagemap.type, MEMORY_DEVICE_GENERIC);
  setRange(cpu, pgmap, 0, START, START + SECTION_BYTES - 1);
  write(cpu, pgmap, DevPagemap.nrRange, 1);
  if (form === PGMAP_INTERNAL) return devmMemremapPages(cpu, dev, pgmap);
  let error = initDrainedRef(cpu, count, PAGEMAP_USERS);
  if (error !== 0) return error;
  write(cpu, pgmap, DevPagemap.ref, member(count, DrainedRef.ref));
  write(cpu, pgmap, DevPagemap.ops, opsIndex(cpu, pagemapRefOps));
  error = devmMemremapPages(cpu, dev, pgmap);
  if (error === 0) return 0;
  const isLive = isDrainedRefLive(cpu, count);
  if (isLive && !callerKills(form)) note(LIVE);
  if (isLive) killDrainedRef(cpu, count);
  drainOld(cpu, form, count);
  return error;
}

/** Where the page map does not. */
function drainOld(cpu: Cpu, form: number, count: DrainedRef): void {
  if (form !== PGMAP_INTERNAL && form !== PGMAP_KILL_CLEANUP) drainDrainedRef(cpu, count);
}

// --- drivers ---

function p2pdmaSubject(arena: BindArena, form: number, name: string, mends: boolean): Subject {
  const pdev = member(arena, BindArena.pdev);
  return {
    what: 'p2pdma, two BARs',
    form: name,
    bind: (cpu, note) => bindP2pdma(cpu, pdev, form, mends, note),
    unbind: (cpu) => {
      devresReleaseAll(cpu, member(pdev, PciDev.dev));
    },
  };
}

function bindP2pdma(cpu: Cpu, pdev: PciDev, form: number, mends: boolean, note: Note): number {
  let error = 0;
  let added = 0;
  for (let bar = 0; bar < BARS && error === 0; bar++) {
    if (pcimRequestRegion(cpu, pdev, bar) !== 0) error = -EBUSY;
    else error = pciP2pdmaAddResource(cpu, pdev, bar, 0, 0, form, mends);
    if (error === 0) added++;
  }
  if (error === 0) return 0;
  const p2pdma = read(cpu, pdev, PciDev.p2pdma) as P2pdma;
  const isShared = form !== PGMAP_INTERNAL && form !== PGMAP_KILL_CLEANUP;
  if (p2pdma !== NULL && isShared && added === 0) {
    const shared = member(p2pdma, P2pdma.shared);
    if (isDrainedRefLive(cpu, shared)) {
      note(LIVE);
      killDrainedRef(cpu, shared);
    }
  }
  devresReleaseAll(cpu, member(pdev, PciDev.dev));
  return error;
}

function daxSubject(arena: BindArena, form: number, name: string): Subject {
  const dax = member(arena, BindArena.dax);
  const dev = member(dax, DevDax.dev);
  return {
    what: 'device-dax',
    form: name,
    bind: (cpu) => {
      write(cpu, dax, DevDax.form, form);
      return undoing(cpu, dev, daxDriver.probe(cpu, dev));
    },
    unbind: (cpu) => {
      devresReleaseAll(cpu, dev);
    },
  };
}

function pmemSubject(
  arena: BindArena,
  form: number,
  name: string,
  what: string,
  start: number,
  map: PmemMapOps,
): Subject {
  const pmem = member(arena, BindArena.pmem);
  const dev = member(pmem, PmemDevice.dev);
  return {
    what,
    form: name,
    bind: (cpu) => {
      must(initPmem(cpu, pmem, start, SECTION_BYTES, form, map));
      return undoing(cpu, dev, pmemDriver.probe(cpu, dev));
    },
    unbind: (cpu) => {
      devresReleaseAll(cpu, dev);
    },
  };
}

/** As the driver core does when a probe has failed. */
function undoing(cpu: Cpu, dev: Device, error: number): number {
  if (error !== 0) devresReleaseAll(cpu, dev);
  return error;
}

function hmmSubject(arena: BindArena): Subject {
  const dev = member(arena, BindArena.dev);
  return {
    what: 'hmm_devmem_add',
    form: '4.18',
    bind: (cpu) => {
      const devmem = hmmDevmemAdd(cpu, dev, arenaPages, SECTION_BYTES);
      return undoing(cpu, dev, devmem < 0 ? devmem : 0);
    },
    unbind: (cpu) => {
      devresReleaseAll(cpu, dev);
    },
  };
}

// --- a mapping of a function's memory; the function is bound as long as that is walked ---

function mmapSubject(arena: BindArena, name: string, mends: boolean): Subject {
  const pdev = member(arena, BindArena.pdev);
  let mapping: P2pmemMapping = NULL;
  let owner: PercpuRef = NULL;
  return {
    what: 'p2pdma, mmap',
    form: name,
    bind: (cpu) => {
      if (owner === NULL) owner = bindCounted(cpu, pdev, mends);
      mapping = p2pmemMmap(cpu, pdev, MMAP_PAGES);
      return mapping < 0 ? mapping : 0;
    },
    unbind: (cpu) => {
      p2pmemMunmap(cpu, pdev, mapping);
    },
    mend: (cpu, note) => {
      const users = usersOf(cpu, owner);
      if (users === 0) return 0;
      note(`${users} reference to the page map: who unbinds waits for ever`);
      percpuRefPutMany(cpu, owner, users);
      return 0;
    },
  };
}

/** The count of its page map. */
function bindCounted(cpu: Cpu, pdev: PciDev, mends: boolean): PercpuRef {
  devresReleaseAll(cpu, member(pdev, PciDev.dev)); // by the walk before
  must(pciP2pdmaAddResource(cpu, pdev, 0, 0, 0, PGMAP_INTERNAL, mends));
  const pfn = pciAllocP2pmem(cpu, pdev, 1);
  const owner = p2pmemOwner(cpu, pdev, pfn);
  pciFreeP2pmem(cpu, pdev, pfn, 1);
  return owner;
}

/** References of users: beside the first, and those that came with the pages. */
function usersOf(cpu: Cpu, owner: PercpuRef): number {
  return percpuRefTotal(cpu, owner) - 1 - SECTION_PAGES;
}
