/**
 * The SVM device on one thread: its accesses, its faults, and what invalidations do to them.
 *
 * @module
 */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';

import { readOnce } from '#memory';

import { EFAULT, EPERM } from '../../src/base/errno.js';
import { PAGE_SIZE } from '../../src/base/units.js';
import {
  closeContext,
  createSvmDevice,
  findContext,
  openContext,
  pickContext,
  putContext,
} from '../../src/drivers/svm/device.js';
import { svmDriver } from '../../src/drivers/svm/driver.js';
import { ENGINE_ADD, ENGINE_LOAD, ENGINE_STORE } from '../../src/drivers/svm/engine.js';
import { SvmContext } from '../../src/drivers/svm/types.js';
import { allocPage, freePage } from '../../src/machine/page-alloc.js';
import { allocatedObjects } from '../../src/machine/slab.js';
import { NULL } from '../../src/memory/layout.js';
import { mmput } from '../../src/mm/exit.js';
import { dupMm } from '../../src/mm/fork.js';
import { madvise } from '../../src/mm/madvise.js';
import { mmAlloc, useMm } from '../../src/mm/mm-struct.js';
import { mprotect } from '../../src/mm/mprotect.js';
import { mremap } from '../../src/mm/mremap.js';
import { munmap } from '../../src/mm/munmap.js';
import { MmStruct } from '../../src/mm/types.js';
import {
  MADV_DONTNEED,
  MREMAP_FIXED,
  MREMAP_MAYMOVE,
  PROT_NONE,
  PROT_READ,
  PROT_WRITE,
} from '../../src/mm/uapi.js';
import { framesAccountedFor } from '../../src/workloads/leak.js';
import { diesOfInvalidation, neverInvalidates } from '../programs/broken-drivers.js';
import { cpuEntry, mapPages, pageVa } from '../support/address-space.js';
import { SvmWorld } from '../support/svm-world.js';

/** A world with one device and some memory. */
function simple(pages = 8): {
  world: SvmWorld;
  device: ReturnType<SvmWorld['newDevice']>;
  context: SvmContext;
} {
  const world = new SvmWorld();
  mapPages(world.cpu, world.mm, 0, pages);
  const device = world.newDevice();
  return { world, device, context: world.open(device) };
}

describe('an engine', () => {
  test('loads, stores and adds where the program does', () => {
    const { world, context } = simple();
    world.store(1, 40);
    assert.equal(world.access(context, 1), 0);
    assert.equal(world.loaded, 40);
    assert.equal(world.access(context, 1, ENGINE_ADD, 2), 0);
    assert.equal(world.loaded, 40, 'what was there');
    assert.equal(world.load(1), 42);
    assert.equal(world.access(context, 2, ENGINE_STORE, 7), 0);
    assert.equal(world.load(2), 7);
    world.store(2, 8);
    assert.equal(world.access(context, 2), 0);
    assert.equal(world.loaded, 8);
    assert.equal(world.totals.staleAccesses, 0);
  });

  test('faults once for a window: what is present there is mapped along with it', () => {
    const { world, context } = simple();
    for (const page of [0, 1, 3, 4]) world.store(page, page);
    assert.equal(world.reaches(context, 1), false);
    assert.equal(world.access(context, 1), 0);
    const reached = [0, 1, 2, 3, 4].map((page) => world.reaches(context, page));
    assert.deepEqual(reached, [true, true, false, true, false]);
    assert.equal(world.totals.faults, 1);
  });

  test('that read untouched memory faults again to write to it', () => {
    const { world, context } = simple();
    assert.equal(world.access(context, 0), 0);
    assert.equal(world.loaded, 0);
    assert.equal(world.reaches(context, 0, ENGINE_STORE, 1), false, 'the zero page');
    assert.equal(world.access(context, 0, ENGINE_STORE, 5), 0);
    assert.equal(world.load(0), 5);
    assert.equal(world.load(1), 0, 'and nobody else sees it');
  });

  test('gets no more than the program may: -EFAULT without memory, -EPERM to write', () => {
    const { world, context } = simple(4);
    const { cpu, mm } = world;
    mprotect(cpu, mm, pageVa(1), PAGE_SIZE, PROT_NONE);
    mprotect(cpu, mm, pageVa(2), PAGE_SIZE, PROT_READ);
    assert.equal(world.access(context, 1), -EFAULT);
    assert.equal(world.access(context, 100), -EFAULT);
    assert.equal(world.access(context, 2, ENGINE_STORE), -EPERM);
    assert.equal(world.access(context, 2, ENGINE_ADD), -EPERM);
    assert.equal(world.access(context, 2, ENGINE_LOAD), 0);
    assert.equal(world.access(context, 3, ENGINE_STORE), 0);
    assert.equal(world.totals.refused, 4);
  });

  test('keeps translations until they are shot down, and no longer', () => {
    const { world, context } = simple();
    world.store(0, 1);
    assert.equal(world.access(context, 0), 0);
    for (let i = 0; i < 3; i++) assert.ok(world.reaches(context, 0));
    madvise(world.cpu, world.mm, pageVa(5), PAGE_SIZE, MADV_DONTNEED);
    assert.ok(world.reaches(context, 0), 'another page’s invalidation costs it a walk at most');
    madvise(world.cpu, world.mm, pageVa(0), PAGE_SIZE, MADV_DONTNEED);
    assert.equal(world.reaches(context, 0), false);
  });
});

describe('what a program does to its memory', () => {
  const { world, context } = simple(40);
  const { cpu, mm } = world;
  const page = 8;
  const changes: Record<string, () => unknown> = {
    munmap: () => munmap(cpu, mm, pageVa(page), PAGE_SIZE),
    MADV_DONTNEED: () => madvise(cpu, mm, pageVa(page), PAGE_SIZE, MADV_DONTNEED),
    'mprotect to none': () => mprotect(cpu, mm, pageVa(page), PAGE_SIZE, PROT_NONE),
    'mmap over it': () => {
      mapPages(cpu, mm, page, 1);
    },
    mremap: () =>
      mremap(
        cpu,
        mm,
        pageVa(page),
        PAGE_SIZE,
        PAGE_SIZE,
        MREMAP_MAYMOVE | MREMAP_FIXED,
        pageVa(60),
      ),
  };
  for (const [name, change] of Object.entries(changes)) {
    test(`${name}: the device must fault again`, () => {
      mapPages(cpu, mm, page, 1);
      world.store(page, 3);
      assert.equal(world.access(context, page, ENGINE_STORE, 4), 0);
      change();
      for (const kind of [ENGINE_LOAD, ENGINE_STORE]) {
        assert.equal(world.reaches(context, page, kind), false);
      }
      assert.equal(world.totals.staleAccesses, 0);
    });
  }

  test('mprotect to read-only: it may still read, and writes no more', () => {
    mapPages(cpu, mm, page, 1);
    assert.equal(world.access(context, page, ENGINE_STORE, 9), 0);
    mprotect(cpu, mm, pageVa(page), PAGE_SIZE, PROT_READ);
    assert.equal(world.reaches(context, page, ENGINE_STORE), false);
    assert.equal(world.access(context, page, ENGINE_STORE), -EPERM);
    assert.equal(world.access(context, page), 0);
    assert.equal(world.loaded, 9);
    mprotect(cpu, mm, pageVa(page), PAGE_SIZE, PROT_READ | PROT_WRITE);
    assert.equal(world.access(context, page, ENGINE_ADD, 1), 0);
    assert.equal(world.load(page), 10);
  });

  test('fork: what the device writes then, the child does not see', () => {
    mapPages(cpu, mm, page, 1);
    assert.equal(world.access(context, page, ENGINE_STORE, 1), 0);
    const child = dupMm(cpu, mm);
    useMm(cpu, child);
    assert.equal(world.reaches(context, page, ENGINE_STORE, 2), false);
    assert.equal(world.access(context, page, ENGINE_STORE, 2), 0);
    assert.equal(world.load(page, child), 1);
    assert.equal(world.load(page), 2);
    mmput(cpu, child);
  });

  test('a copy on write by the program: the device sees what was written to the copy', () => {
    mapPages(cpu, mm, page, 1);
    world.store(page, 1);
    const child = dupMm(cpu, mm);
    assert.equal(world.access(context, page), 0);
    world.store(page, 2);
    assert.equal(world.reaches(context, page), false);
    assert.equal(world.access(context, page), 0);
    assert.equal(world.loaded, 2);
    mmput(cpu, child);
  });
});

describe('a service thread', () => {
  test('serves the faults of one window together, and answers each engine', () => {
    const { world, device, context } = simple();
    const engines = [0, 1, 2].map(() => world.newEngine());
    engines.forEach((engine, i) => {
      world.raise(context, 4 + i, i === 1, engine);
    });
    assert.equal(world.serve(device), 3);
    for (const engine of engines) assert.equal(world.answerOf(engine), 0);
    assert.ok(world.reaches(context, 5, ENGINE_STORE));
    const { faults, batches, refused, retries } = world.totals;
    assert.deepEqual(
      { faults, batches, refused, retries },
      { faults: 3, batches: 1, refused: 0, retries: 0 },
    );
    assert.equal(world.serve(device), 0);
    assert.equal(world.totals.batches, 1, 'nothing is no batch');
  });

  test('fails nobody because of a neighbour’s bad address', () => {
    const { world, device, context } = simple(3);
    mprotect(world.cpu, world.mm, pageVa(2), PAGE_SIZE, PROT_READ);
    const wanted = [
      [0, true, 0],
      [3, false, -EFAULT],
      [1, false, 0],
      [2, true, -EPERM],
      [2, false, 0],
    ] as const;
    const engines = wanted.map(([page, isWrite]) => {
      const engine = world.newEngine();
      world.raise(context, page, isWrite, engine);
      return engine;
    });
    assert.equal(world.serve(device), wanted.length);
    assert.deepEqual(
      engines.map((engine) => world.answerOf(engine)),
      wanted.map(([, , answer]) => answer),
    );
    assert.ok(world.reaches(context, 0, ENGINE_STORE));
    assert.equal(world.totals.faults, 3);
    assert.equal(world.totals.refused, 2);
  });

  test('tells windows apart, and address spaces', () => {
    const { world, device, context } = simple();
    const other = mmAlloc(world.cpu);
    mapPages(world.cpu, other, 0, 8);
    const second = world.open(device, other);
    const engines = [context, second, context, second].map((one, i) => {
      const engine = world.newEngine();
      world.raise(one, i < 2 ? 0 : 5, true, engine);
      return engine;
    });
    assert.equal(world.serve(device), 4);
    for (const engine of engines) assert.equal(world.answerOf(engine), 0);
    assert.equal(world.access(context, 0, ENGINE_STORE, 1), 0);
    assert.equal(world.access(second, 0, ENGINE_STORE, 2), 0);
    assert.equal(world.load(0), 1);
    assert.equal(world.load(0, other), 2);
    madvise(world.cpu, other, pageVa(0), PAGE_SIZE, MADV_DONTNEED);
    assert.ok(world.reaches(context, 0));
    assert.equal(world.reaches(second, 0), false);
  });

  test('takes a batch at a time', () => {
    const { world, device, context } = simple(64);
    for (let page = 0; page < 40; page++) world.raise(context, page, false, world.newEngine());
    assert.equal(world.serve(device), 32);
    assert.equal(world.serve(device), 8);
    assert.equal(world.totals.faults, 40);
  });
});

describe('several devices of one address space', () => {
  test('each have their own page table, and are all invalidated', () => {
    const { world, context } = simple();
    const contexts = [context, world.open(world.newDevice()), world.open(world.newDevice())];
    for (const [i, one] of contexts.entries()) {
      assert.equal(world.reaches(one, 0), false, 'the others’ mappings are not its own');
      assert.equal(world.access(one, 0, ENGINE_ADD, 10 ** i), 0);
    }
    assert.equal(world.load(0), 111);
    madvise(world.cpu, world.mm, pageVa(0), PAGE_SIZE, MADV_DONTNEED);
    for (const one of contexts) assert.equal(world.reaches(one, 0), false);
    assert.equal(world.totals.invalidations, 3);
    assert.deepEqual(world.totals.invalidationsByEvent['CLEAR'], 3);
    assert.equal(world.totals.pagesInvalidated, 3);
  });

  test('go one by one', () => {
    const { world, context } = simple();
    const second = world.open(world.newDevice());
    for (const one of [context, second]) assert.equal(world.access(one, 0, ENGINE_STORE, 1), 0);
    world.close(context);
    assert.ok(world.reaches(second, 0));
    munmap(world.cpu, world.mm, pageVa(0), PAGE_SIZE);
    assert.equal(world.totals.invalidations, 1);
  });
});

describe('a context', () => {
  test('that is closed maps nothing any more, and lives as long as somebody has it', () => {
    const { world, device, context } = simple();
    const { cpu, mm } = world;
    world.store(0, 1);
    assert.equal(world.access(context, 0), 0);
    assert.equal(findContext(cpu, device, mm), context); // a reference
    assert.equal(pickContext(cpu, device, 5), context); // another one
    world.raise(context, 0, true);
    world.close(context);
    assert.equal(findContext(cpu, device, mm), NULL);
    assert.equal(pickContext(cpu, device, 0), NULL);
    assert.equal(world.reaches(context, 0), false);
    assert.equal(world.serve(device), 1);
    assert.equal(world.answerOf(), -EFAULT, 'its fault came too late');
    assert.equal(world.access(context, 0), -EFAULT);
    assert.equal(world.reaches(context, 0), false);
    assert.equal(allocatedObjects(cpu, SvmContext), 1);
    putContext(cpu, context);
    assert.equal(allocatedObjects(cpu, SvmContext), 1);
    putContext(cpu, context);
    assert.equal(allocatedObjects(cpu, SvmContext), 0);
  });

  test('whose fault is in the ring stays until it is answered', () => {
    const { world, device, context } = simple();
    world.raise(context, 0, false);
    world.close(context);
    assert.equal(allocatedObjects(world.cpu, SvmContext), 1);
    assert.equal(world.serve(device), 1);
    assert.equal(allocatedObjects(world.cpu, SvmContext), 0);
  });

  test('outlives its address space’s memory, not the other way round', () => {
    const { world, device, context } = simple();
    const { cpu, mm } = world;
    assert.equal(world.access(context, 0, ENGINE_STORE, 1), 0);
    mmput(cpu, mm);
    assert.equal(world.reaches(context, 0), false);
    assert.equal(cpuEntry(cpu, mm, pageVa(0)).entry, 0);
    world.raise(context, 0, true);
    assert.equal(world.serve(device), 1);
    assert.equal(world.answerOf(), -EFAULT);
    assert.deepEqual(world.totals.invalidationsByEvent['RELEASE'], 1);
    assert.deepEqual(world.totals.invalidationsByEvent['UNMAP'], 1);
    assert.equal(readOnce(cpu, mm, MmStruct.count), 2, 'the interval’s and the context’s own');
    world.close(context);
    assert.equal(allocatedObjects(cpu, MmStruct), 0);
  });

  test('is not opened on a dead address space, nor without memory for it', () => {
    const { world, device } = simple();
    const { cpu, mm } = world;
    const before = framesAccountedFor(cpu);
    const frames: number[] = [];
    for (let pfn = allocPage(cpu); pfn !== 0; pfn = allocPage(cpu)) frames.push(pfn);
    assert.equal(openContext(cpu, device, mm), NULL);
    assert.equal(createSvmDevice(cpu, 1, svmDriver, 1), NULL);
    for (const pfn of frames) freePage(cpu, pfn);
    assert.equal(framesAccountedFor(cpu), before);
    mmput(cpu, mm);
    assert.equal(openContext(cpu, device, mm), NULL);
    assert.equal(allocatedObjects(cpu, SvmContext), 1, 'the one there was');
  });

  test('gives all memory back', () => {
    const { world, context } = simple(2000);
    const second = world.newDevice();
    const before = framesAccountedFor(world.cpu);
    const other = world.open(second);
    for (let page = 0; page < 2000; page += 100) world.access(other, page);
    closeContext(world.cpu, other);
    mmput(world.cpu, world.mm);
    world.close(context);
    assert.ok(framesAccountedFor(world.cpu) >= before);
    assert.equal(allocatedObjects(world.cpu, SvmContext), 0);
  });
});

describe('a broken driver', () => {
  test('that ignores invalidations is found out by the first access afterwards', () => {
    const { world } = simple();
    const context = world.open(world.newDevice(neverInvalidates));
    world.store(0, 1);
    assert.equal(world.access(context, 0), 0);
    assert.equal(world.totals.staleAccesses, 0);
    madvise(world.cpu, world.mm, pageVa(0), PAGE_SIZE, MADV_DONTNEED);
    assert.equal(world.totals.staleAccesses, 0);
    assert.ok(world.reaches(context, 0), 'it is not kept from it');
    assert.equal(world.totals.staleAccesses, 1);
    world.store(1, 2);
    assert.ok(world.reaches(context, 0), 'also if somebody else has the frame by now');
    assert.equal(world.totals.staleAccesses, 2);
  });

  test('that throws in invalidate stops who invalidates', () => {
    const { world } = simple();
    world.open(world.newDevice(diesOfInvalidation));
    assert.throws(() => munmap(world.cpu, world.mm, pageVa(0), PAGE_SIZE), /no such register/);
  });
});
