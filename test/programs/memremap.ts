/**
 * Programs that map and unmap memory of devices, beside a CPU that serves RCU's callbacks.
 *
 * @module
 */
import { fetchAdd, loadAcquire, read, readOnce, storeRelease, write, writeOnce } from '#memory';

import { errnoName } from '../../src/base/errno.js';
import { PAGE_SIZE } from '../../src/base/units.js';
import { bootDeferred } from '../../src/deferred/boot.js';
import { runKworker, stopKworkers } from '../../src/deferred/kworker.js';
import {
  percpuRefExit,
  percpuRefInit,
  percpuRefIsDying,
  percpuRefIsZero,
  percpuRefKill,
} from '../../src/deferred/percpu-refcount.js';
import { PercpuRef } from '../../src/deferred/types.js';
import { bootDevices } from '../../src/device/boot.js';
import { deviceInitialize } from '../../src/device/device.js';
import { devresEmpty, devresReleaseAll } from '../../src/device/devres.js';
import { SECTION_BYTES } from '../../src/device/region.js';
import { Device } from '../../src/device/types.js';
import type { Cpu } from '../../src/machine/cpu.js';
import { allocationSite, failEnd, failNth, failSite } from '../../src/machine/fail.js';
import { PHYSICAL_END } from '../../src/machine/limits.js';
import { defineOps, opsIndex } from '../../src/machine/ops-table.js';
import { cpuRelax } from '../../src/machine/sched.js';
import { allocatedObjects, kfree, kzalloc } from '../../src/machine/slab.js';
import { MACHINE, Machine, Page } from '../../src/machine/types.js';
import { warningCount, warningTexts } from '../../src/machine/warn.js';
import { cacheline, containerOf, member, type Ptr, struct, word } from '../../src/memory/layout.js';
import { bootMemremap, memremapCore } from '../../src/memremap/core.js';
import { devmMemremapPages, devmMemunmapPages } from '../../src/memremap/devm-memremap.js';
import { hmmDevmemAdd } from '../../src/memremap/hmm-devmem.js';
import { pageToPfn, pfnToPage } from '../../src/memremap/hotplug.js';
import { memremapPages, memunmapPages } from '../../src/memremap/memremap.js';
import * as pagemap from '../../src/memremap/pagemap.js';
import { DevPagemap, MemremapCore, PageSection, PfnLeaf } from '../../src/memremap/types.js';
import {
  getDevicePage,
  putDevicePage,
  waitForIdleDaxPage,
  zoneDevicePageInit,
} from '../../src/memremap/zone-device.js';
import { unlockPage } from '../../src/sync/page-lock.js';
import { walkFailures } from '../../src/workloads/failure-walk.js';

export const MemremapArena = struct('memremap_arena', {
  dev: Device,
  line1: cacheline,
  ready: word, // CPUs that have come; atomic
  rounds: word, // maps that have been unmapped; written by the driver
  done: word, // the driver has
  line2: cacheline,
  used: word, // pages that users had; atomic
  refused: word, // lookups that found nothing; atomic
});
export type MemremapArena = Ptr<'memremap_arena'>;

const CallerRef = struct('test_caller_ref', { ref: PercpuRef, releases: word });

/** What the callbacks below were told; only CPU 0 calls them in these scenarios. */
const told: string[] = [];

export const testOwner = defineOps({
  opsName: 'test page owner',
  pageFree(cpu: Cpu, page: Page) {
    told.push(`free ${pageToPfn(cpu, page) % 16}`);
  },
  migrateToRam: () => 0,
});

export const testPlainOwner = defineOps({ opsName: 'test plain owner', pageFree: () => undefined });

export const testCallerRef = defineOps({
  opsName: 'test caller ref',
  release(cpu: Cpu, ref: PercpuRef) {
    fetchAdd(cpu, containerOf(ref, CallerRef.ref), CallerRef.releases, 1);
  },
});

function waitForRelease(cpu: Cpu, ref: PercpuRef): void {
  const callerRef = containerOf(ref, CallerRef.ref);
  for (let i = 0; readOnce(cpu, callerRef, CallerRef.releases) === 0; i++) cpuRelax(cpu, i);
}

export const testKillCleanup = defineOps({
  opsName: 'test kill and cleanup',
  kill(cpu: Cpu, pgmap: DevPagemap) {
    told.push('kill');
    percpuRefKill(cpu, pagemap.pgmapRef(cpu, pgmap));
  },
  cleanup(cpu: Cpu, pgmap: DevPagemap) {
    told.push('cleanup');
    waitForRelease(cpu, pagemap.pgmapRef(cpu, pgmap));
  },
});

export const testDevice = defineOps({ opsName: 'test device', release: () => undefined });

/** On the boot CPU. */
export function memremapArena(cpu: Cpu): MemremapArena {
  bootDeferred(cpu);
  bootDevices(cpu);
  bootMemremap(cpu);
  const arena = kzalloc(cpu, MemremapArena);
  deviceInitialize(cpu, member(arena, MemremapArena.dev), testDevice, 1);
  return arena;
}

/** Serves RCU until the others stop it. */
export function serve(cpu: Cpu): number {
  return runKworker(cpu);
}

// --- scenarios, on CPU 0 ---

const START = PHYSICAL_END - 8 * SECTION_BYTES;

interface Wanted {
  readonly form?: number;
  readonly type?: number;
  readonly ops?: { readonly opsName: string };
  readonly owner?: number;
  /** In sections from START. */
  readonly ranges?: readonly (readonly [from: number, to: number])[];
  readonly altmapFree?: number;
}

function newPagemap(cpu: Cpu, wanted: Wanted = {}): DevPagemap {
  const pgmap = kzalloc(cpu, DevPagemap);
  const { form = pagemap.PGMAP_INTERNAL, ranges = [[0, 1]] } = wanted;
  write(cpu, pgmap, DevPagemap.form, form);
  write(cpu, pgmap, DevPagemap.type, wanted.type ?? pagemap.MEMORY_DEVICE_GENERIC);
  write(cpu, pgmap, DevPagemap.ops, wanted.ops === undefined ? 0 : opsIndex(cpu, wanted.ops));
  write(cpu, pgmap, DevPagemap.owner, wanted.owner ?? 0);
  write(cpu, pgmap, DevPagemap.altmapFree, wanted.altmapFree ?? 0);
  write(cpu, pgmap, DevPagemap.nrRange, ranges.length);
  for (const [i, [from, to]] of ranges.slice(0, 4).entries()) {
    const start = START + from * SECTION_BYTES;
    pagemap.setRange(cpu, pgmap, i, start, START + to * SECTION_BYTES - 1);
  }
  return pgmap;
}

function withRef(cpu: Cpu, pgmap: DevPagemap): DevPagemap {
  const callerRef = kzalloc(cpu, CallerRef);
  percpuRefInit(cpu, member(callerRef, CallerRef.ref), testCallerRef);
  write(cpu, pgmap, DevPagemap.ref, member(callerRef, CallerRef.ref));
  return pgmap;
}

const pfnAt = (section: number, page = 0): number =>
  (START + section * SECTION_BYTES) / PAGE_SIZE + page;

/** What can be found of a frame: `mapped`, `pages` or both, or nothing. */
function found(cpu: Cpu, pfn: number): string {
  const pgmap = pagemap.getDevPagemap(cpu, pfn, 0 as DevPagemap);
  pagemap.putDevPagemap(cpu, pgmap);
  const parts = [pgmap === 0 ? '' : 'mapped', pfnToPage(cpu, pfn) === 0 ? '' : 'pages'];
  return parts.filter(Boolean).join(' and ');
}

const refsOf = (cpu: Cpu, pfn: number): number => readOnce(cpu, pfnToPage(cpu, pfn), Page.refcount);

/** Structs that a map makes, and that must be gone after it. */
function left(cpu: Cpu): number {
  const managed = readOnce(cpu, memremapCore(cpu), MemremapCore.managed);
  return allocatedObjects(cpu, PageSection) + allocatedObjects(cpu, PfnLeaf) + managed;
}

type Scenario = (cpu: Cpu, arena: MemremapArena) => unknown[];

const scenarios: Record<string, Scenario> = {
  generic(cpu) {
    const pgmap = newPagemap(cpu, { ranges: [[0, 2]] });
    const result = [memremapPages(cpu, pgmap), found(cpu, pfnAt(1, 15)), refsOf(cpu, pfnAt(1, 15))];
    const page = pfnToPage(cpu, pfnAt(0, 5));
    result.push(pageToPfn(cpu, page) - pfnAt(0), found(cpu, pfnAt(2)));
    getDevicePage(cpu, page);
    putDevicePage(cpu, page);
    result.push(refsOf(cpu, pfnAt(0, 5)));
    memunmapPages(cpu, pgmap);
    result.push(found(cpu, pfnAt(0)), left(cpu), memremapPages(cpu, pgmap), found(cpu, pfnAt(0)));
    memunmapPages(cpu, pgmap);
    return [...result, left(cpu)];
  },

  cached(cpu) {
    const first = newPagemap(cpu);
    const second = newPagemap(cpu, { ranges: [[1, 2]] });
    memremapPages(cpu, first);
    memremapPages(cpu, second);
    const none = 0 as DevPagemap;
    const cached = pagemap.getDevPagemap(cpu, pfnAt(0), none);
    const again = pagemap.getDevPagemap(cpu, pfnAt(0, 9), cached);
    const other = pagemap.getDevPagemap(cpu, pfnAt(1), again);
    const nothing = pagemap.getDevPagemap(cpu, pfnAt(2), other);
    // every reference was given back, or this would never return
    memunmapPages(cpu, first);
    memunmapPages(cpu, second);
    return [cached === first, again === first, other === second, nothing === 0];
  },

  handedOut(cpu) {
    const wanted = { type: pagemap.MEMORY_DEVICE_PRIVATE, ops: testOwner, owner: 1 };
    const pgmap = newPagemap(cpu, wanted);
    told.length = 0;
    const result: unknown[] = [memremapPages(cpu, pgmap), refsOf(cpu, pfnAt(0, 7)), left(cpu)];
    const page = pfnToPage(cpu, pfnAt(0, 7));
    zoneDevicePageInit(cpu, page);
    unlockPage(cpu, page);
    getDevicePage(cpu, page);
    putDevicePage(cpu, page);
    result.push([...told], refsOf(cpu, pfnAt(0, 7)));
    putDevicePage(cpu, page);
    result.push([...told], refsOf(cpu, pfnAt(0, 7)));
    memunmapPages(cpu, pgmap);
    return [...result, left(cpu)];
  },

  refused(cpu) {
    const { MEMORY_DEVICE_PRIVATE: type, MEMORY_DEVICE_COHERENT } = pagemap;
    const before = warningCount(cpu);
    const wanted: Wanted[] = [
      { ranges: [] },
      {
        ranges: [
          [0, 1],
          [1, 2],
          [2, 3],
          [3, 4],
          [4, 5],
        ],
      },
      {
        ranges: [
          [0, 1],
          [1, 2],
        ],
        altmapFree: 4,
      },
      { type: 0 },
      { type: 6 },
      { type, ops: testPlainOwner, owner: 1 },
      { type, ops: testOwner },
      { type, owner: 1 },
      { type: MEMORY_DEVICE_COHERENT, owner: 1 },
      { ranges: [[0, 0.5]] },
      { ranges: [[0.5, 1]] },
      { ranges: [[7, 9]] },
      { form: pagemap.PGMAP_CALLER_KILLS },
      { form: pagemap.PGMAP_KILL, ops: testOwner },
    ];
    const results = wanted.map((one) => errnoName(memremapPages(cpu, newPagemap(cpu, one))));
    const withCount = [
      { form: pagemap.PGMAP_KILL, ops: testOwner },
      { form: pagemap.PGMAP_KILL_CLEANUP, ops: testOwner },
      {
        form: pagemap.PGMAP_KILL,
        ops: testKillCleanup,
        ranges: [
          [0, 1],
          [1, 2],
        ] as const,
      },
    ].map((one) => errnoName(memremapPages(cpu, withRef(cpu, newPagemap(cpu, one)))));
    return [new Set([...results, ...withCount]), warningCount(cpu) - before, left(cpu)];
  },

  ram(cpu) {
    const atRam = (from: number, to: number): number => {
      const pgmap = newPagemap(cpu);
      pagemap.setRange(cpu, pgmap, 0, from, to - 1);
      return memremapPages(cpu, pgmap);
    };
    const ramBytes = read(cpu, MACHINE, Machine.frameCount) * PAGE_SIZE;
    const inside = atRam(0, SECTION_BYTES);
    const across = atRam(ramBytes - SECTION_BYTES, ramBytes + SECTION_BYTES);
    return [errnoName(inside), errnoName(across), left(cpu)];
  },

  conflict(cpu) {
    const before = warningCount(cpu);
    const first = newPagemap(cpu, { ranges: [[1, 3]] });
    memremapPages(cpu, first);
    const results = [
      [0, 2],
      [2, 4],
      [1, 3],
    ].map(([from, to]) =>
      errnoName(memremapPages(cpu, newPagemap(cpu, { ranges: [[from!, to!]] }))),
    );
    const two = newPagemap(cpu, {
      ranges: [
        [4, 5],
        [2, 3],
      ],
    });
    results.push(errnoName(memremapPages(cpu, two)), String(read(cpu, two, DevPagemap.nrRange)));
    results.push(found(cpu, pfnAt(4)), found(cpu, pfnAt(1)));
    // around it, with neither end inside: the struct pages are there
    results.push(errnoName(memremapPages(cpu, newPagemap(cpu, { ranges: [[0, 4]] }))));
    results.push(found(cpu, pfnAt(1)));
    memunmapPages(cpu, first);
    return [...results, warningCount(cpu) - before, left(cpu)];
  },

  altmap(cpu) {
    const pgmap = newPagemap(cpu, { ranges: [[0, 4]], altmapFree: 2 });
    write(cpu, pgmap, DevPagemap.altmapReserve, 3);
    const result: unknown[] = [memremapPages(cpu, pgmap)];
    result.push(read(cpu, pgmap, DevPagemap.altmapAlloc));
    result.push(pagemap.firstUsedPfn(cpu, pgmap, 0) - pfnAt(0));
    result.push(refsOf(cpu, pfnAt(0, 4)), refsOf(cpu, pfnAt(0, 5)));
    memunmapPages(cpu, pgmap);
    result.push(read(cpu, pgmap, DevPagemap.altmapAlloc), left(cpu));
    const large = newPagemap(cpu, { ranges: [[0, 8]], altmapFree: 1 });
    result.push(errnoName(memremapPages(cpu, large)), left(cpu));
    return result;
  },

  /** Every point of a map that is managed fails in turn. */
  walk(cpu, arena) {
    const dev = member(arena, MemremapArena.dev);
    const pgmap = newPagemap(cpu, {
      ranges: [
        [0, 2],
        [3, 4],
      ],
    });
    const once = (): number => devmMemremapPages(cpu, dev, pgmap);
    once();
    devmMemunmapPages(cpu, dev, pgmap);
    const failures = walkFailures(cpu, {
      attempt: once,
      undo: () => {
        devmMemunmapPages(cpu, dev, pgmap);
      },
    });
    const rows = failures.map(({ site, result, left: lost }) =>
      `${site}: ${result} ${lost}`.trim(),
    );
    return [...rows, devresEmpty(cpu, dev), left(cpu)];
  },

  /** What a map that fails does with the caller's count, in the older forms. */
  abandoned(cpu) {
    const result: unknown[] = [];
    const { PGMAP_CALLER_KILLS, PGMAP_KILL, PGMAP_KILL_CLEANUP } = pagemap;
    const first = newPagemap(cpu);
    for (const form of [PGMAP_CALLER_KILLS, PGMAP_KILL, PGMAP_KILL_CLEANUP]) {
      for (const isConflict of [true, false]) {
        if (isConflict) memremapPages(cpu, first);
        else failNth(cpu, 1, failSite('track_pfn_remap'));
        told.length = 0;
        const pgmap = withRef(cpu, newPagemap(cpu, { form, ops: testKillCleanup }));
        const error = errnoName(memremapPages(cpu, pgmap));
        const isDead = percpuRefIsDying(cpu, pagemap.pgmapRef(cpu, pgmap));
        result.push([form, error, told.join(' '), isDead ? 'dead' : 'live']);
        failEnd(cpu);
        if (isConflict) memunmapPages(cpu, first);
      }
    }
    return [...result, left(cpu)];
  },

  live(cpu) {
    const form = pagemap.PGMAP_CALLER_KILLS;
    const pgmap = withRef(cpu, newPagemap(cpu, { form, ranges: [[5, 6]] }));
    memremapPages(cpu, pgmap);
    memunmapPages(cpu, pgmap);
    const ref = pagemap.pgmapRef(cpu, pgmap);
    percpuRefKill(cpu, ref);
    waitForRelease(cpu, ref);
    const isZero = percpuRefIsZero(cpu, ref);
    percpuRefExit(cpu, ref);
    return [warningTexts(cpu).at(-1)?.replace(/\d+/g, 'N'), isZero, found(cpu, pfnAt(5))];
  },

  dax(cpu) {
    const pgmap = newPagemap(cpu, { type: pagemap.MEMORY_DEVICE_FS_DAX, ranges: [[6, 7]] });
    memremapPages(cpu, pgmap);
    const page = pfnToPage(cpu, pfnAt(6));
    getDevicePage(cpu, page);
    putDevicePage(cpu, page);
    waitForIdleDaxPage(cpu, page);
    const result = [refsOf(cpu, pfnAt(6)), readOnce(cpu, memremapCore(cpu), MemremapCore.managed)];
    memunmapPages(cpu, pgmap);
    return [...result, readOnce(cpu, memremapCore(cpu), MemremapCore.managed)];
  },

  devmem(cpu, arena) {
    const dev = member(arena, MemremapArena.dev);
    const before = warningCount(cpu);
    const once = (): number => Math.min(0, hmmDevmemAdd(cpu, dev, testOwner, SECTION_BYTES));
    const undo = (): void => {
      devresReleaseAll(cpu, dev);
    };
    const first = [once(), once()];
    undo();
    const failures = walkFailures(cpu, {
      attempt: () => {
        const error = once();
        if (error !== 0) undo(); // as the driver core does after a failed probe
        return error;
      },
      undo,
    });
    const rows = failures.map(({ site, result, left: lost }) =>
      `${site}: ${result} ${lost}`.trim(),
    );
    const warned = warningTexts(cpu)
      .slice(before)
      .map((text) => text.replace(/\d+/g, 'N'));
    return [...first, ...rows, ...warned, errnoName(hmmDevmemAdd(cpu, dev, testOwner, 2 ** 33))];
  },

  unchecked(cpu, arena) {
    const dev = member(arena, MemremapArena.dev);
    const pgmap = newPagemap(cpu, { ranges: [[7, 8]] });
    failNth(cpu, 1, allocationSite('devm_action'));
    const error = errnoName(devmMemremapPages(cpu, dev, pgmap));
    failEnd(cpu);
    const again = devmMemremapPages(cpu, dev, pgmap);
    devresReleaseAll(cpu, dev);
    return [error, again, found(cpu, pfnAt(7))];
  },

  /** A page map that is dying is no conflict; what is there of it is overwritten, or not. Leaves it there. */
  dying(cpu) {
    const twice = (form: number, section: number): unknown[] => {
      const wanted = { form, ops: testKillCleanup, ranges: [[section, section + 1]] } as const;
      const first = withRef(cpu, newPagemap(cpu, wanted));
      memremapPages(cpu, first);
      percpuRefKill(cpu, pagemap.pgmapRef(cpu, first));
      const error = memremapPages(cpu, withRef(cpu, newPagemap(cpu, wanted)));
      const stored = pagemap.lookupDevPagemap(cpu, pfnAt(section));
      return [errnoName(error), stored === first ? 'kept' : stored === 0 ? 'erased' : 'replaced'];
    };
    return [...twice(pagemap.PGMAP_CALLER_KILLS, 2), ...twice(pagemap.PGMAP_KILL_CLEANUP, 3)];
  },
};

/** Runs every scenario; what each saw. */
export function runScenarios(cpu: Cpu, arena: MemremapArena): Record<string, unknown[]> {
  const results: Record<string, unknown[]> = {};
  for (const [name, scenario] of Object.entries(scenarios)) results[name] = scenario(cpu, arena);
  stopKworkers(cpu);
  return results;
}

// --- maps that come and go under their users ---

const ROUNDS = 60;
const ROUNDS_MAX = 20_000;

function gate(cpu: Cpu, arena: MemremapArena): void {
  fetchAdd(cpu, arena, MemremapArena.ready, 1);
  const cpus = read(cpu, MACHINE, Machine.cpus) - 1; // one serves
  for (let i = 0; readOnce(cpu, arena, MemremapArena.ready) < cpus; i++) cpuRelax(cpu, i);
}

/** Maps and unmaps until users have met both; returns 0, or the error of a map. */
export function mapAndUnmap(cpu: Cpu, arena: MemremapArena): number {
  gate(cpu, arena);
  const hasMet = (): boolean =>
    readOnce(cpu, arena, MemremapArena.used) > 0 && readOnce(cpu, arena, MemremapArena.refused) > 0;
  let error = 0;
  for (let i = 0; error === 0 && (i < ROUNDS || (i < ROUNDS_MAX && !hasMet())); i++) {
    const pgmap = newPagemap(cpu, { ranges: [[0, 2]] });
    error = memremapPages(cpu, pgmap);
    if (error !== 0) break;
    storeRelease(cpu, pgmap, DevPagemap.data, 1); // its pages may be used
    const used = readOnce(cpu, arena, MemremapArena.used);
    for (
      let spins = 0;
      spins < 2000 && readOnce(cpu, arena, MemremapArena.used) === used;
      spins++
    ) {
      cpuRelax(cpu, spins);
    }
    memunmapPages(cpu, pgmap);
    kfree(cpu, DevPagemap, pgmap);
  }
  writeOnce(cpu, arena, MemremapArena.done, 1);
  const users = read(cpu, MACHINE, Machine.cpus) - 2;
  for (let i = 0; readOnce(cpu, arena, MemremapArena.rounds) < users; i++) cpuRelax(cpu, i);
  stopKworkers(cpu);
  return error;
}

/** Uses pages wherever it finds them; a struct page that was removed ends the machine. */
export function usePages(cpu: Cpu, arena: MemremapArena): number {
  gate(cpu, arena);
  let used = 0;
  for (let i = cpu.id; readOnce(cpu, arena, MemremapArena.done) === 0; i++) {
    const pfn = pfnAt(i & 1, i & 15);
    const pgmap = pagemap.getDevPagemap(cpu, pfn, 0 as DevPagemap);
    if (pgmap === 0) {
      fetchAdd(cpu, arena, MemremapArena.refused, 1);
      cpuRelax(cpu, i);
      continue;
    }
    if (loadAcquire(cpu, pgmap, DevPagemap.data) === 0) {
      pagemap.putDevPagemap(cpu, pgmap);
      continue;
    }
    const page = pfnToPage(cpu, pfn);
    getDevicePage(cpu, page);
    for (let spins = 0; spins < 20; spins++) cpuRelax(cpu, spins);
    if (pageToPfn(cpu, page) !== pfn) return -1;
    putDevicePage(cpu, page);
    pagemap.putDevPagemap(cpu, pgmap);
    fetchAdd(cpu, arena, MemremapArena.used, 1);
    used++;
  }
  fetchAdd(cpu, arena, MemremapArena.rounds, 1);
  return used;
}
