import assert from 'node:assert/strict';
import { describe, test } from 'node:test';

import { read, write } from '#memory';
import fc from 'fast-check';

import { PAGE_SIZE, PAGE_WORDS } from '../../src/base/units.js';
import type { Cpu } from '../../src/machine/cpu.js';
import {
  allocPage,
  allocPages,
  allocZeroedPage,
  frameOf,
  freeFrameCount,
  freePage,
  freePages,
  pageOf,
  type Pfn,
  pfnOf,
  pfnOfWord,
  POISON,
  ZERO_PFN,
} from '../../src/machine/page-alloc.js';
import { FreeArea, MACHINE, Machine, MAX_ORDER, Page, Zone } from '../../src/machine/types.js';
import { element, member } from '../../src/memory/layout.js';
import { allocateAndFree, consume, FrameArena, produce, takeAll } from '../programs/page-alloc.js';
import { programUrl, runProgram } from '../support/crew.js';
import { assertBug, bootCpu, bootCpus, place } from '../support/machine.js';

const ZONE = member(MACHINE, Machine.zone);
const RESERVED_FRAMES = 2;
const POISON_WORD = (POISON * 0x01010101) | 0;

/** How many free blocks of each order the zone has. */
function freeBlocks(cpu: Cpu): number[] {
  return Array.from({ length: MAX_ORDER + 1 }, (_, order) =>
    read(cpu, ZONE, element(Zone.areas, order * FreeArea.words + FreeArea.count)),
  );
}

/** Moves the per-CPU stocks into the zone: no block is that large, and it fails only after that. */
function drain(cpu: Cpu): void {
  assert.equal(allocPages(cpu, MAX_ORDER + 1), 0);
}

/** True if some aligned run of 2^order frames is wholly free. */
function modelHasBlock(owned: ReadonlySet<Pfn>, frames: number, order: number): boolean {
  const size = 1 << order;
  for (let start = 0; start + size <= frames; start += size) {
    if (start < RESERVED_FRAMES && start + size > 0) continue;
    let free = true;
    for (let pfn = start; free && pfn < start + size; pfn++) free = !owned.has(pfn);
    if (free) return true;
  }
  return false;
}

function isFilledWith(cpu: Cpu, pfn: Pfn, value: number): boolean {
  const start = frameOf(cpu, pfn);
  return cpu.words.subarray(start, start + PAGE_WORDS).every((word) => word === value);
}

describe('on one thread, against a naive model', () => {
  const step = fc.record({
    cpu: fc.nat(2),
    order: fc.oneof({ weight: 3, arbitrary: fc.constant(0) }, fc.nat(5)),
    frees: fc.boolean(),
    which: fc.nat(1000),
  });

  test('blocks are aligned and apart, and an allocation fails only if no such block is free', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 3, max: 90 }),
        fc.array(step, { maxLength: 120 }),
        (frames, steps) => {
          const cpus = bootCpus(3, frames * PAGE_SIZE);
          const owned = new Set<Pfn>();
          const blocks: { pfn: Pfn; order: number }[] = [];
          for (const { cpu: id, order, frees, which } of steps) {
            const cpu = cpus[id]!;
            const index = which % Math.max(1, blocks.length);
            const block = blocks[index];
            if (frees && block) {
              blocks.splice(index, 1);
              if (block.order === 0) freePage(cpu, block.pfn);
              else freePages(cpu, block.pfn, block.order);
              for (let i = 0; i < 1 << block.order; i++) owned.delete(block.pfn + i);
            } else {
              const pfn = order === 0 ? allocPage(cpu) : allocPages(cpu, order);
              if (pfn === 0) {
                assert.ok(!modelHasBlock(owned, frames, order), `order ${order} is free`);
                continue;
              }
              assert.ok(pfn >= RESERVED_FRAMES && pfn + (1 << order) <= frames);
              assert.equal(pfn % (1 << order), 0);
              for (let i = 0; i < 1 << order; i++) {
                assert.ok(!owned.has(pfn + i), `frame ${pfn + i} was somebody's`);
                owned.add(pfn + i);
                assert.equal(read(cpu, pageOf(cpu, pfn + i), Page.refcount), 1);
              }
              blocks.push({ pfn, order });
            }
            assert.equal(freeFrameCount(cpu), frames - RESERVED_FRAMES - owned.size);
          }
        },
      ),
      { numRuns: 60 },
    );
  });

  test('when all is freed, buddies have merged back to what they were at boot', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 3, max: 1500 }),
        fc.array(fc.nat(4), { maxLength: 60 }),
        fc.infiniteStream(fc.nat(1000)),
        (frames, orders, random) => {
          const cpus = bootCpus(2, frames * PAGE_SIZE);
          const before = freeBlocks(cpus[0]!);
          const blocks = orders
            .map((order, i) => ({ pfn: allocPages(cpus[i % 2]!, order), order }))
            .filter(({ pfn }) => pfn !== 0);
          while (blocks.length > 0) {
            const [block] = blocks.splice(random.next().value % blocks.length, 1);
            if (block!.order === 0) freePage(cpus[block!.pfn % 2]!, block!.pfn);
            else freePages(cpus[0]!, block!.pfn, block!.order);
          }
          drain(cpus[0]!);
          assert.deepEqual(freeBlocks(cpus[0]!), before);
        },
      ),
      { numRuns: 30 },
    );
  });
});

test('all memory but the reserved frames can be allocated, and then 0 is the honest answer', () => {
  const [first, second] = bootCpus(2, 100 * PAGE_SIZE);
  const pfns = new Set<Pfn>();
  freePage(second!, allocPage(second!)); // the other CPU has a stock of its own now
  for (;;) {
    const pfn = allocPage(first!);
    if (pfn === 0) break;
    pfns.add(pfn);
  }
  assert.equal(pfns.size, 98);
  assert.equal(allocPages(first!, 0), 0);
  freePage(second!, [...pfns][7]!);
  assert.equal(allocPage(first!), [...pfns][7]!, 'what another CPU freed is found');
});

test('a zeroed page is zeroed, and a freed one is poisoned', () => {
  const cpu = bootCpu(64 * PAGE_SIZE);
  const pfn = allocZeroedPage(cpu);
  assert.ok(isFilledWith(cpu, pfn, 0));
  write(cpu, frameOf(cpu, pfn) as never, 5 as never, 77);
  freePage(cpu, pfn);
  assert.ok(isFilledWith(cpu, pfn, POISON_WORD));
  assert.equal(allocZeroedPage(cpu), pfn, 'the last freed is the first taken');
  assert.ok(isFilledWith(cpu, pfn, 0));
});

test('a freed frame is of another generation, and forgets who had it', () => {
  const cpu = bootCpu(64 * PAGE_SIZE);
  const pfn = allocPages(cpu, 2);
  const pages = [0, 1, 2, 3].map((i) => pageOf(cpu, pfn + i));
  const before = pages.map((page) => read(cpu, page, Page.generation));
  for (const page of pages) {
    for (const field of [Page.mapcount, Page.mapping, Page.refcount]) write(cpu, page, field, 9);
  }
  freePages(cpu, pfn, 2);
  pages.forEach((page, i) => {
    assert.equal(read(cpu, page, Page.generation), before[i]! + 1);
    assert.ok(isFilledWith(cpu, pfn + i, POISON_WORD));
    assert.equal(read(cpu, page, Page.refcount), 0);
    assert.equal(read(cpu, page, Page.mapcount), 0);
    assert.equal(read(cpu, page, Page.mapping), 0);
  });
  assert.equal(allocPages(cpu, 2), pfn);
  assert.equal(read(cpu, pages[0]!, Page.generation), before[0]! + 1, 'allocating changes nothing');
});

describe('a double free is found out', () => {
  test('of a frame in a stock', () => {
    const cpu = bootCpu(64 * PAGE_SIZE);
    const pfn = allocPage(cpu);
    freePage(cpu, pfn);
    assertBug(() => {
      freePage(cpu, pfn);
    }, /is free and was freed \(I1\)/);
  });

  test('of each frame of a free block, wherever it lies in there', () => {
    for (const which of [0, 1, 2, 3]) {
      const cpu = bootCpu(64 * PAGE_SIZE);
      const pfn = allocPages(cpu, 2);
      freePages(cpu, pfn, 2);
      assertBug(() => {
        freePage(cpu, pfn + which);
      }, /is free and was freed/);
    }
  });

  test('of a block one frame of which was freed before', () => {
    const cpu = bootCpu(64 * PAGE_SIZE);
    const pfn = allocPages(cpu, 2);
    freePage(cpu, pfn + 2);
    assertBug(() => {
      freePages(cpu, pfn, 2);
    }, /is free and was freed/);
  });

  test('of a frame that nobody ever had', () => {
    const cpu = bootCpu(64 * PAGE_SIZE);
    assertBug(() => {
      freePage(cpu, 40);
    }, /is free and was freed/);
  });
});

test('a block is not joined with what lies behind memory, whatever that looks like', () => {
  const cpu = bootCpu(384 * PAGE_SIZE);
  const pfn = allocPages(cpu, 7);
  assert.equal(pfn, 256, 'its buddy would be frame 384');
  const before = freeBlocks(cpu);
  cpu.words[pageOf(cpu, 384) + Page.flags] = 1;
  cpu.words[pageOf(cpu, 384) + Page.private] = 7;
  freePages(cpu, pfn, 7);
  assert.equal(freeBlocks(cpu)[7], before[7]! + 1);
});

test('reserved frames, and blocks that start nowhere, cannot be freed', () => {
  const cpu = bootCpu(64 * PAGE_SIZE);
  for (const pfn of [0, ZERO_PFN]) {
    assertBug(() => {
      freePage(cpu, pfn);
    }, /is reserved/);
  }
  const pfn = allocPages(cpu, 2);
  assertBug(() => {
    freePages(cpu, pfn + 1, 1);
  }, /starts no block of order 1/);
});

test('frames, their Pages and their words are found from each other', () => {
  const cpu = bootCpu(64 * PAGE_SIZE);
  for (const pfn of [0, 1, 17, 63]) {
    assert.equal(pfnOf(cpu, pageOf(cpu, pfn)), pfn);
    assert.equal(pfnOfWord(cpu, frameOf(cpu, pfn)), pfn);
    assert.equal(pfnOfWord(cpu, frameOf(cpu, pfn) + PAGE_WORDS - 1), pfn);
    assert.equal(frameOf(cpu, pfn) % PAGE_WORDS, 0);
  }
});

describe('on several workers at once', () => {
  const module = programUrl('page-alloc');
  const CPUS = 4;

  test('nobody else writes to a frame while it is held, and all are back in the end', async () => {
    let before: number[] = [];
    const { machine, results } = await runProgram({
      cpus: CPUS,
      ramBytes: 160 * PAGE_SIZE,
      module,
      entry: allocateAndFree.name,
      setup: (cpu) => {
        before = freeBlocks(cpu);
        return place(cpu, FrameArena);
      },
    });
    assert.deepEqual(
      results.map((result) => result.value),
      [0, 0, 0, 0],
    );
    drain(machine.cpu);
    assert.deepEqual(freeBlocks(machine.cpu), before);
  });

  test('while a frame is free, in whatever stock, no allocation fails', async () => {
    const frames = 12; // fewer than the stocks of two CPUs may keep
    const { machine, results } = await runProgram({
      cpus: CPUS,
      ramBytes: (RESERVED_FRAMES + 320) * PAGE_SIZE,
      module,
      entry: [produce.name, produce.name, consume.name, consume.name],
      setup: (cpu) => {
        for (let held = frames; held < 320; held++) allocPage(cpu);
        const arena = place(cpu, FrameArena);
        write(cpu, arena, FrameArena.permits, frames);
        write(cpu, arena, FrameArena.producers, 2);
        return arena;
      },
    });
    assert.deepEqual(
      results.map((result) => result.value),
      [0, 0, 0, 0],
    );
    assert.equal(freeFrameCount(machine.cpu), frames);
  });

  test('no two CPUs are ever given the same frame, and together they get all', async () => {
    const { results } = await runProgram({
      cpus: CPUS,
      ramBytes: 1000 * PAGE_SIZE,
      module,
      entry: takeAll.name,
      setup: (cpu) => place(cpu, FrameArena),
    });
    const taken = results.flatMap((result) => result.value as number[]);
    assert.equal(taken.length, 998);
    assert.equal(new Set(taken).size, 998);
  });
});
