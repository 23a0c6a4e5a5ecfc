import assert from 'node:assert/strict';
import { test } from 'node:test';

import { read, write } from '#memory';
import fc from 'fast-check';

import { PAGE_SIZE, PAGE_WORDS } from '../../src/base/units.js';
import {
  allocPage,
  frameOf,
  freeFrameCount,
  freePage,
  pageOf,
  pfnOfWord,
  PG_SLAB,
} from '../../src/machine/page-alloc.js';
import {
  allocatedObjects,
  allocWords,
  freeWords,
  kfree,
  kzalloc,
  slabFrames,
} from '../../src/machine/slab.js';
import { MAGAZINE_OBJECTS, Page, SLAB_CACHES_MAX } from '../../src/machine/types.js';
import { CACHELINE_WORDS, element, type Ptr, struct, words } from '../../src/memory/layout.js';
import { freeObjects, Large, makeObjects, SlabArena, Small } from '../programs/slab.js';
import { programUrl, runProgram } from '../support/crew.js';
import { assertBug, bootCpu, bootCpus, place } from '../support/machine.js';

const LAYOUTS = [Small, Large] as const;
type AnyObject = Ptr<'small_object'> & Ptr<'large_object'>;

test('objects are zeroed, aligned, apart, and counted, on whichever CPU they come and go', () => {
  const step = fc.record({
    cpu: fc.nat(1),
    kind: fc.nat(1),
    frees: fc.boolean(),
    which: fc.nat(1000),
  });
  fc.assert(
    fc.property(fc.array(step, { maxLength: 250 }), (steps) => {
      const cpus = bootCpus(2, 40 * PAGE_SIZE);
      const held: { at: AnyObject; kind: number }[] = [];
      const owners = new Map<number, number>(); // word -> object, as the model has it
      for (const { cpu: id, kind, frees, which } of steps) {
        const cpu = cpus[id]!;
        const index = which % Math.max(1, held.length);
        const object = held[index];
        if (frees && object) {
          held.splice(index, 1);
          const { at, kind: its } = object;
          for (let i = 0; i < LAYOUTS[its]!.words; i++) owners.delete(at + i);
          if (its === 0) kfree(cpu, Small, at);
          else kfree(cpu, Large, at);
          continue;
        }
        const at = (kind === 0 ? kzalloc(cpu, Small) : kzalloc(cpu, Large)) as AnyObject;
        if (at === 0) {
          assert.equal(allocPage(cpu), 0, 'no frame is free either');
          continue;
        }
        assert.equal(at % CACHELINE_WORDS, 0);
        const size = LAYOUTS[kind]!.words;
        for (let i = 0; i < size; i++) {
          assert.ok(!owners.has(at + i), 'the words are nobody else’s');
          owners.set(at + i, at);
          assert.equal(cpu.words[at + i], 0);
          cpu.words[at + i] = -1;
        }
        assert.ok((read(cpu, pageOf(cpu, pfnOfWord(cpu, at)), Page.flags) & PG_SLAB) !== 0);
        held.push({ at, kind });
      }
      const [cpu] = cpus;
      assert.equal(allocatedObjects(cpu!, Small), held.filter(({ kind }) => kind === 0).length);
      assert.equal(allocatedObjects(cpu!, Large), held.filter(({ kind }) => kind === 1).length);
    }),
    { numRuns: 60 },
  );
});

test('NULL means that memory is out, and as much as before is there once it is given back', () => {
  const cpu = bootCpu(20 * PAGE_SIZE);
  const takeAll = (): Ptr<'large_object'>[] => {
    const objects: Ptr<'large_object'>[] = [];
    for (let at = kzalloc(cpu, Large); at !== 0; at = kzalloc(cpu, Large)) objects.push(at);
    return objects;
  };
  const first = takeAll();
  const perFrame = Math.floor(PAGE_WORDS / Large.words);
  assert.equal(first.length, 17 * perFrame, 'all frames but the reserved ones and the cache’s own');
  assert.equal(allocPage(cpu), 0);
  for (const object of first) kfree(cpu, Large, object);
  assert.equal(takeAll().length, first.length);
});

test('a slab without objects gives its frame back', () => {
  const cpu = bootCpu(64 * PAGE_SIZE);
  kfree(cpu, Small, kzalloc(cpu, Small)); // the cache itself stays
  const before = freeFrameCount(cpu);
  const objects = Array.from({ length: 1000 }, () => kzalloc(cpu, Small));
  assert.ok(objects.every((object) => object !== 0));
  assert.ok(slabFrames(cpu) >= 1000 / (PAGE_WORDS / Small.words));
  for (const object of objects) kfree(cpu, Small, object);
  assert.equal(allocatedObjects(cpu, Small), 0);
  const kept = Math.ceil(MAGAZINE_OBJECTS / (PAGE_WORDS / Small.words)) + 1;
  assert.ok(freeFrameCount(cpu) >= before - kept, 'but for those with objects in the magazine');
});

test('a cache is found by the name of its struct', () => {
  const [first, second] = bootCpus(2, 64 * PAGE_SIZE);
  const twin = struct('small_object', { data: words(16) });
  const object = kzalloc(first!, Small);
  const frames = slabFrames(first!);
  kfree(second!, twin, object);
  assert.equal(slabFrames(second!), frames);
  assert.equal(allocatedObjects(second!, twin), 0);
});

test('a struct that shares the name but not the size is refused', () => {
  const cpu = bootCpus(2, 64 * PAGE_SIZE);
  kzalloc(cpu[0]!, Small);
  const other = struct('small_object', { data: words(17) });
  assertBug(() => kzalloc(cpu[1]!, other), /small_object has objects of another size/);
});

test('more kinds of structs than there is room for are a bug, and not -ENOMEM', () => {
  const cpu = bootCpu(400 * PAGE_SIZE);
  for (let i = 0; i < SLAB_CACHES_MAX; i++) {
    assert.notEqual(kzalloc(cpu, struct(`kind_${i}`, { data: words(4) })), 0);
  }
  assertBug(() => kzalloc(cpu, struct('one_more', { data: words(4) })), /no slab cache is left/);
});

test('a struct of more than half a frame is refused', () => {
  const cpu = bootCpu(64 * PAGE_SIZE);
  const half = struct('half_frame', { data: words(PAGE_WORDS / 2) });
  assert.notEqual(kzalloc(cpu, half), 0);
  const more = struct('more', { data: words(PAGE_WORDS / 2 + 1) });
  assertBug(() => kzalloc(cpu, more), /more is too large/);
});

test('an object that was freed already, or is of no slab or another’s, is found out', () => {
  const overfill = (object: (cpu: ReturnType<typeof bootCpu>) => Ptr<'small_object'>): void => {
    const cpu = bootCpu(64 * PAGE_SIZE);
    const good = Array.from({ length: MAGAZINE_OBJECTS }, () => kzalloc(cpu, Small));
    kfree(cpu, Small, object(cpu));
    for (const one of good) kfree(cpu, Small, one); // the magazine overflows into the slabs
  };
  assertBug(() => {
    overfill((cpu) => frameOf(cpu, allocPage(cpu)) as unknown as Ptr<'small_object'>);
  }, /is of no slab/);
  assertBug(() => {
    overfill((cpu) => kzalloc(cpu, Large) as unknown as Ptr<'small_object'>);
  }, /is of another cache/);
  const cpu = bootCpu(64 * PAGE_SIZE);
  const twice = kzalloc(cpu, Small);
  kfree(cpu, Small, twice);
  assertBug(() => {
    kfree(cpu, Small, twice);
  }, /small_object \d+ was freed twice/);
});

test('freeing NULL does nothing', () => {
  const cpu = bootCpu(64 * PAGE_SIZE);
  kfree(cpu, Small, 0 as Ptr<'small_object'>);
  kzalloc(cpu, Small);
  assert.equal(allocatedObjects(cpu, Small), 1);
});

test('an array of words is zeroed, of the size asked for, and given back whole', () => {
  const cpu = bootCpu(64 * PAGE_SIZE);
  const before = freeFrameCount(cpu);
  for (const size of [1, PAGE_WORDS, PAGE_WORDS + 1, 5 * PAGE_WORDS]) {
    const start = allocWords(cpu, size);
    assert.equal(start % PAGE_WORDS, 0);
    assert.ok(cpu.words.subarray(start, start + size).every((word) => word === 0));
    cpu.words.fill(-1, start, start + size);
    const frames = 2 ** Math.ceil(Math.log2(Math.ceil(size / PAGE_WORDS)));
    assert.equal(freeFrameCount(cpu), before - frames);
    freeWords(cpu, start, size);
    assert.equal(freeFrameCount(cpu), before);
  }
  assert.equal(allocWords(cpu, 65 * PAGE_WORDS), 0, 'more than there is');
});

test('objects that are made on one worker and freed on another stay whole, and none is lost', async () => {
  const { machine, results } = await runProgram({
    cpus: 4,
    ramBytes: 100 * PAGE_SIZE,
    module: programUrl('slab'),
    entry: [makeObjects.name, makeObjects.name, freeObjects.name, freeObjects.name],
    setup: (cpu) => {
      const arena = place(cpu, SlabArena);
      write(cpu, arena, SlabArena.makers, 2);
      return arena;
    },
  });
  assert.deepEqual(
    results.map((result) => result.value),
    [0, 0, 0, 0],
  );
  const { cpu } = machine;
  assert.ok(allocatedObjects(cpu, Small) <= 16, 'those that were left in the slots');
  const inMagazines = 4 * MAGAZINE_OBJECTS;
  assert.ok(slabFrames(cpu) <= 16 + inMagazines, 'a frame for each object at worst');
});

test('objects of a struct start zeroed also when their frame was used before', () => {
  const cpu = bootCpu(8 * PAGE_SIZE);
  const pfn = allocPage(cpu);
  write(cpu, frameOf(cpu, pfn) as unknown as Ptr<'slab_arena'>, element(SlabArena.slots, 3), 5);
  freePage(cpu, pfn);
  for (let at = kzalloc(cpu, Small); at !== 0; at = kzalloc(cpu, Small)) {
    const start: number = at;
    assert.ok(cpu.words.subarray(start, start + Small.words).every((word) => word === 0));
  }
});
