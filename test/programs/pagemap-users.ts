/**
 * Programs over drivers of device memory, beside a CPU that serves RCU's callbacks.
 *
 * @module
 */
import { fetchAdd, read, readOnce, write, writeOnce } from '#memory';

import { errnoName } from '../../src/base/errno.js';
import { PAGE_SIZE } from '../../src/base/units.js';
import { bootDeferred } from '../../src/deferred/boot.js';
import { runKworker, stopKworkers } from '../../src/deferred/kworker.js';
import { bootDevices } from '../../src/device/boot.js';
import { deviceInitialize } from '../../src/device/device.js';
import { devresEmpty, devresReleaseAll } from '../../src/device/devres.js';
import { pciAddBar } from '../../src/device/pci.js';
import { requestMemRegion, SECTION_BYTES } from '../../src/device/region.js';
import { PciDev } from '../../src/device/types.js';
import {
  daxDriver,
  daxFault,
  daxMapped,
  daxPin,
  DevDax,
  initDevDax,
} from '../../src/drivers/dax/dax.js';
import {
  nfitTestAlloc,
  nfitTestMap,
  nfitTestStart,
} from '../../src/drivers/nfit-test/nfit-test.js';
import { p2pmemMunmap } from '../../src/drivers/p2pdma/mappings.js';
import { p2pmemMmap } from '../../src/drivers/p2pdma/mmap.js';
import {
  pciAllocP2pmem,
  pciFreeP2pmem,
  pciP2pdmaAddResource,
} from '../../src/drivers/p2pdma/p2pdma.js';
import { initPmem, PmemDevice, pmemDriver, pmemSubmit } from '../../src/drivers/pmem/pmem.js';
import type { Cpu } from '../../src/machine/cpu.js';
import { PHYSICAL_END } from '../../src/machine/limits.js';
import { defineOps } from '../../src/machine/ops-table.js';
import { cpuRelax } from '../../src/machine/sched.js';
import { kzalloc } from '../../src/machine/slab.js';
import { cacheline, member, type Ptr, struct, word } from '../../src/memory/layout.js';
import { bootMemremap } from '../../src/memremap/core.js';
import { pageToPfn, pfnToPage } from '../../src/memremap/hotplug.js';
import { PGMAP_INTERNAL, PGMAP_KILL_CLEANUP, putDevPagemap } from '../../src/memremap/pagemap.js';
import {
  BindArena,
  type BindFailures,
  bindFailures,
  bootBindFailures,
} from '../../src/workloads/bind-failures.js';

export const UsersArena = struct('pagemap_users_arena', {
  pdev: PciDev,
  dax: DevDax,
  pmem: PmemDevice,
  line1: cacheline,
  done: word, // the driver has; atomic
  line2: cacheline,
  used: word, // memory that users had; atomic
  refused: word, // … that they did not get; atomic
  held: word, // pages that users have at the moment; atomic
  met: word, // unbinds that began while somebody had a page; written by the driver
});
export type UsersArena = Ptr<'pagemap_users_arena'>;

export const testUser = defineOps({ opsName: 'test user of pages', release: () => undefined });

const START = PHYSICAL_END - SECTION_BYTES;

/** On the boot CPU. */
export function usersArena(cpu: Cpu): UsersArena {
  bootDeferred(cpu);
  bootDevices(cpu);
  bootMemremap(cpu);
  const arena = kzalloc(cpu, UsersArena);
  const devices = [
    member(member(arena, UsersArena.pdev), PciDev.dev),
    member(member(arena, UsersArena.dax), DevDax.dev),
    member(member(arena, UsersArena.pmem), PmemDevice.dev),
  ];
  for (const dev of devices) deviceInitialize(cpu, dev, testUser, 1);
  for (const bar of [0, 2]) pciAddBar(cpu, member(arena, UsersArena.pdev), bar, SECTION_BYTES);
  return arena;
}

/** Serves RCU until the others stop it. */
export function serve(cpu: Cpu): number {
  return runKworker(cpu);
}

// --- the table of failures ---

export const bindArena = bootBindFailures;
export { BindArena };

export function walkBinds(cpu: Cpu, arena: BindArena): BindFailures[] {
  const rows = bindFailures(cpu, arena);
  stopKworkers(cpu);
  return rows;
}

// --- scenarios on one CPU ---

const scenarios: Record<string, (cpu: Cpu, arena: UsersArena) => unknown[]> = {
  pool(cpu, arena) {
    const pdev = member(arena, UsersArena.pdev);
    const add = (bar: number, size: number, offset: number): string =>
      errnoName(pciP2pdmaAddResource(cpu, pdev, bar, size, offset, PGMAP_INTERNAL, true));
    const result: unknown[] = [
      add(1, 0, 0),
      add(0, 2 * SECTION_BYTES, 0),
      add(0, 0, SECTION_BYTES),
      pciAllocP2pmem(cpu, pdev, PAGE_SIZE),
    ];
    result.push(add(0, 0, 0), add(2, 0, 0));
    const all = [16, 15, 1].map((pages) => pciAllocP2pmem(cpu, pdev, pages * PAGE_SIZE));
    result.push(new Set(all).size, all.includes(0), pciAllocP2pmem(cpu, pdev, PAGE_SIZE));
    result.push(all.every((pfn) => pageToPfn(cpu, pfnToPage(cpu, pfn)) === pfn));
    for (const [i, pages] of [16, 15, 1].entries()) {
      pciFreeP2pmem(cpu, pdev, all[i]!, pages * PAGE_SIZE);
    }
    devresReleaseAll(cpu, member(pdev, PciDev.dev));
    result.push(pciAllocP2pmem(cpu, pdev, PAGE_SIZE), pfnToPage(cpu, all[0]!));
    return result;
  },

  mapping(cpu, arena) {
    const pdev = member(arena, UsersArena.pdev);
    pciP2pdmaAddResource(cpu, pdev, 0, 0, 0);
    const result: unknown[] = [
      errnoName(p2pmemMmap(cpu, pdev, 0)),
      errnoName(p2pmemMmap(cpu, pdev, 17)),
    ];
    const first = p2pmemMmap(cpu, pdev, 10);
    result.push(first > 0, errnoName(p2pmemMmap(cpu, pdev, 7)));
    p2pmemMunmap(cpu, pdev, first);
    const second = p2pmemMmap(cpu, pdev, 16); // all are back
    result.push(second > 0);
    devresReleaseAll(cpu, member(pdev, PciDev.dev)); // takes the pages from the mapping, and does not wait for it
    result.push(errnoName(p2pmemMmap(cpu, pdev, 1)));
    p2pmemMunmap(cpu, pdev, second);
    return result;
  },

  dax(cpu, arena) {
    const dax = member(arena, UsersArena.dax);
    const dev = member(dax, DevDax.dev);
    const result: unknown[] = [
      errnoName(initDevDax(cpu, dax, START, 65 * PAGE_SIZE)),
      initDevDax(cpu, dax, START, SECTION_BYTES),
      errnoName(daxFault(cpu, dax, 1)),
      daxDriver.probe(cpu, dev),
      daxPin(cpu, dax, 1), // nobody has mapped it
      daxFault(cpu, dax, 1),
      daxFault(cpu, dax, 1),
      daxMapped(cpu, dax, 1),
    ];
    const pgmap = daxPin(cpu, dax, 1);
    result.push(pgmap > 0);
    putDevPagemap(cpu, pgmap);
    devresReleaseAll(cpu, dev);
    result.push(daxMapped(cpu, dax, 1), errnoName(daxFault(cpu, dax, 1)));
    const region = requestMemRegion(cpu, START, PAGE_SIZE);
    result.push(region > 0, errnoName(daxDriver.probe(cpu, dev)), devresEmpty(cpu, dev));
    return result;
  },

  pmem(cpu, arena) {
    const pmem = member(arena, UsersArena.pmem);
    const dev = member(pmem, PmemDevice.dev);
    const result: unknown[] = [];
    for (const form of [PGMAP_KILL_CLEANUP, PGMAP_INTERNAL]) {
      initPmem(cpu, pmem, START - SECTION_BYTES, SECTION_BYTES, form);
      result.push(pmemDriver.probe(cpu, dev), pmemSubmit(cpu, pmem, 15));
      devresReleaseAll(cpu, dev);
      result.push(errnoName(pmemSubmit(cpu, pmem, 15)));
    }
    return result;
  },

  nfitTest(cpu, arena) {
    const pmem = member(arena, UsersArena.pmem);
    const dev = member(pmem, PmemDevice.dev);
    const start = nfitTestStart(cpu, nfitTestAlloc(cpu, SECTION_BYTES));
    const result: unknown[] = [];
    for (const form of [PGMAP_KILL_CLEANUP, PGMAP_INTERNAL]) {
      for (const at of [start, START - SECTION_BYTES]) {
        initPmem(cpu, pmem, at, SECTION_BYTES, form, nfitTestMap);
        result.push(pmemDriver.probe(cpu, dev), pmemSubmit(cpu, pmem, 1));
        result.push(pfnToPage(cpu, at / PAGE_SIZE) !== 0);
        devresReleaseAll(cpu, dev);
        result.push(errnoName(pmemSubmit(cpu, pmem, 1)));
      }
    }
    return result;
  },
};

/** What each scenario saw. */
export function runScenarios(cpu: Cpu, arena: UsersArena): Record<string, unknown[]> {
  const seen: Record<string, unknown[]> = {};
  for (const [name, scenario] of Object.entries(scenarios)) seen[name] = scenario(cpu, arena);
  stopKworkers(cpu);
  return seen;
}

// --- a driver that comes and goes, beside users ---

const ROUNDS = 20;
const ROUNDS_MAX = 5000;

/** Binds and unbinds. Returns the first error. */
export function bindAndUnbind(cpu: Cpu, arena: UsersArena): number {
  const pdev = member(arena, UsersArena.pdev);
  const hasMet = (): boolean =>
    read(cpu, arena, UsersArena.met) > 0 && readOnce(cpu, arena, UsersArena.refused) > 0;
  let error = 0;
  for (let i = 0; error === 0 && (i < ROUNDS || (i < ROUNDS_MAX && !hasMet())); i++) {
    for (const bar of [0, 2]) {
      if (error === 0) error = pciP2pdmaAddResource(cpu, pdev, bar, 0, 0, PGMAP_INTERNAL, true);
    }
    const used = readOnce(cpu, arena, UsersArena.used);
    for (let n = 0; error === 0 && readOnce(cpu, arena, UsersArena.used) === used; n++)
      cpuRelax(cpu, n);
    if (readOnce(cpu, arena, UsersArena.held) > 0) {
      write(cpu, arena, UsersArena.met, read(cpu, arena, UsersArena.met) + 1);
    }
    devresReleaseAll(cpu, member(pdev, PciDev.dev));
  }
  writeOnce(cpu, arena, UsersArena.done, 1);
  stopKworkers(cpu);
  return error;
}

/** Takes memory, looks at its struct pages, gives it back. Returns how often it was other memory. */
export function usePeerMemory(cpu: Cpu, arena: UsersArena): number {
  const pdev = member(arena, UsersArena.pdev);
  let wrong = 0;
  while (readOnce(cpu, arena, UsersArena.done) === 0) {
    const pfn = pciAllocP2pmem(cpu, pdev, 2 * PAGE_SIZE);
    if (pfn === 0) {
      fetchAdd(cpu, arena, UsersArena.refused, 1);
      cpuRelax(cpu, 0);
      continue;
    }
    fetchAdd(cpu, arena, UsersArena.held, 1);
    for (let i = 0; i < 50; i++) {
      if (pageToPfn(cpu, pfnToPage(cpu, pfn + (i & 1))) !== pfn + (i & 1)) wrong++;
    }
    fetchAdd(cpu, arena, UsersArena.held, -1);
    fetchAdd(cpu, arena, UsersArena.used, 1);
    pciFreeP2pmem(cpu, pdev, pfn, 2 * PAGE_SIZE);
  }
  return wrong;
}
