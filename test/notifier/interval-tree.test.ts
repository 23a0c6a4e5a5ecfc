/**
 * The interval tree against a sorted array.
 *
 * @module
 */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { getHeapSpaceStatistics } from 'node:v8';

import { read, readAddress, write, writeAddress } from '#memory';
import fc from 'fast-check';

import { KernelBug } from '../../src/base/bug.js';
import { bootMachine } from '../../src/machine/boot.js';
import type { Cpu } from '../../src/machine/cpu.js';
import { freeFrameCount } from '../../src/machine/page-alloc.js';
import { allocatedObjects, kfree, kzalloc } from '../../src/machine/slab.js';
import {
  initIntervalTree,
  initIntervalTreeNode,
  IntervalRange,
  intervalRange,
  intervalTreeCheck,
  intervalTreeInsert,
  intervalTreeIterFirst,
  intervalTreeIterNext,
  IntervalTreeNode,
  intervalTreeNodeLinked,
  intervalTreeRemove,
  IntervalTreeRoot,
} from '../../src/notifier/interval-tree.js';

const MIB = 1 << 20;

interface Entry {
  readonly node: IntervalTreeNode;
  readonly start: number;
  readonly last: number;
}

/** A tree and the array that it must agree with: by start, and then by the time of insertion. */
interface World {
  readonly cpu: Cpu;
  readonly root: IntervalTreeRoot;
  readonly range: IntervalRange;
  readonly entries: Entry[];
}

function newWorld(cpu: Cpu): World {
  const root = kzalloc(cpu, IntervalTreeRoot);
  initIntervalTree(cpu, root);
  return { cpu, root, range: kzalloc(cpu, IntervalRange), entries: [] };
}

function newNode(cpu: Cpu, start: number, last: number): IntervalTreeNode {
  const node = kzalloc(cpu, IntervalTreeNode);
  assert.notEqual(node, 0, 'the test ran out of memory');
  writeAddress(cpu, node, IntervalTreeNode.start, start);
  writeAddress(cpu, node, IntervalTreeNode.last, last);
  return node;
}

function insert(world: World, start: number, last: number): IntervalTreeNode {
  const { cpu, root, entries } = world;
  const node = newNode(cpu, start, last);
  intervalTreeInsert(cpu, root, node);
  let low = 0;
  let high = entries.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (entries[middle]!.start > start) high = middle;
    else low = middle + 1;
  }
  entries.splice(low, 0, { node, start, last });
  return node;
}

function remove(world: World, index: number): void {
  const { cpu, root, entries } = world;
  const [entry] = entries.splice(index, 1);
  intervalTreeRemove(cpu, root, entry!.node);
  assert.equal(intervalTreeNodeLinked(cpu, entry!.node), false);
  kfree(cpu, IntervalTreeNode, entry!.node);
}

/** What an iteration over [start, last] yields. */
function hits({ cpu, root, range }: World, start: number, last: number): IntervalTreeNode[] {
  writeAddress(cpu, range, IntervalRange.start, start);
  writeAddress(cpu, range, IntervalRange.last, last);
  const found: IntervalTreeNode[] = [];
  let node = intervalTreeIterFirst(cpu, root, range);
  for (; node !== 0; node = intervalTreeIterNext(cpu, node, range)) found.push(node);
  return found;
}

/** An iteration yields what the array has there, in the same order. */
function assertHits(world: World, start: number, last: number): void {
  const expected = world.entries.filter((entry) => entry.start <= last && entry.last >= start);
  const found = hits(world, start, last);
  assert.deepEqual(
    found,
    expected.map(({ node }) => node),
    `[${start}, ${last}]`,
  );
}

/** The same numbers for the same seed (mulberry32). */
function random(seed: number): (below: number) => number {
  let state = seed | 0;
  return (below) => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return Math.floor((((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32) * below);
  };
}

/** Levels from the root to the deepest node. */
function depth(cpu: Cpu, node: IntervalTreeNode): number {
  if (node === 0) return 0;
  const left = depth(cpu, read(cpu, node, IntervalTreeNode.left));
  return 1 + Math.max(left, depth(cpu, read(cpu, node, IntervalTreeNode.right)));
}

const ARENA = 200;
const operation = fc.record({
  removes: fc.boolean(),
  at: fc.nat(ARENA),
  length: fc.oneof({ weight: 3, arbitrary: fc.nat(6) }, { weight: 1, arbitrary: fc.nat(ARENA) }),
});

describe('interval tree', () => {
  test('agrees with a sorted array after every operation of any sequence', () => {
    const { cpu } = bootMachine({ cpus: 1, ramBytes: MIB });
    fc.assert(
      fc.property(fc.array(operation, { maxLength: 200, size: 'max' }), (operations) => {
        const world = newWorld(cpu);
        for (const { removes, at, length } of operations) {
          const count = world.entries.length;
          if (removes && count > 0) remove(world, at % count);
          else insert(world, at, at + length);
          intervalTreeCheck(cpu, world.root);
          assertHits(world, at, at + length);
          assertHits(world, at + length + 1, at + length + 1);
          assertHits(world, 0, ARENA * 2);
        }
        while (world.entries.length > 0) remove(world, 0);
        assert.equal(allocatedObjects(cpu, IntervalTreeNode), 0);
        kfree(cpu, IntervalTreeRoot, world.root);
        kfree(cpu, IntervalRange, world.range);
      }),
      { numRuns: 150 },
    );
  });

  test('agrees with a sorted array while it grows to thousands and shrinks to nothing', () => {
    const { cpu } = bootMachine({ cpus: 1, ramBytes: 4 * MIB });
    fc.assert(
      fc.property(fc.integer(), fc.constantFrom(1, 8, 3000), (seed, longest) => {
        const world = newWorld(cpu);
        const next = random(seed);
        for (const goal of [3000, 500, 2500, 0]) {
          const growing = goal > world.entries.length;
          while (world.entries.length !== goal) {
            const start = 2 ** 40 + next(20_000);
            if ((next(5) === 0) !== growing) insert(world, start, start + next(longest));
            else if (world.entries.length > 0) remove(world, next(world.entries.length));
            if (next(4) === 0) intervalTreeCheck(cpu, world.root);
            if (next(32) === 0) assertHits(world, start, start + next(40));
          }
          intervalTreeCheck(cpu, world.root);
          assertHits(world, 0, 2 ** 47);
        }
        assert.equal(read(cpu, world.root, IntervalTreeRoot.root), 0);
      }),
      { numRuns: 6 },
    );
  });

  test('stays balanced when it is filled and emptied in order', () => {
    const { cpu } = bootMachine({ cpus: 1, ramBytes: 2 * MIB });
    const world = newWorld(cpu);
    for (let n = 0; n < 4095; n++) insert(world, 10 * n, 10 * n + 4);
    assert.ok(depth(cpu, read(cpu, world.root, IntervalTreeRoot.root)) <= 24);
    for (let n = 0; n < 1000; n++) remove(world, 0);
    for (let n = 0; n < 1000; n++) remove(world, world.entries.length - 1);
    intervalTreeCheck(cpu, world.root);
    assertHits(world, 0, 50_000);
    for (let n = 0; n < 1000; n++) insert(world, 9990 - 10 * n, 9994 - 10 * n);
    intervalTreeCheck(cpu, world.root);
    assertHits(world, 0, 50_000);
    assert.ok(depth(cpu, read(cpu, world.root, IntervalTreeRoot.root)) <= 24);
  });

  test('nodes with the same start come in the order of their insertion', () => {
    const { cpu } = bootMachine({ cpus: 1, ramBytes: MIB });
    const world = newWorld(cpu);
    const next = random(11);
    for (let n = 0; n < 300; n++) {
      const start = 5 + next(3);
      insert(world, start, start + next(20));
      if (n % 3 === 2) remove(world, next(world.entries.length));
      assertHits(world, 0, 100);
    }
    const first = world.entries[0]!;
    intervalTreeRemove(cpu, world.root, first.node);
    intervalTreeInsert(cpu, world.root, first.node);
    world.entries.shift();
    const behind = world.entries.findIndex(({ start }) => start > first.start);
    world.entries.splice(behind, 0, first);
    assertHits(world, 0, 100);
  });

  test('both ends of an interval belong to it', () => {
    const { cpu } = bootMachine({ cpus: 1, ramBytes: MIB });
    const world = newWorld(cpu);
    const node = insert(world, 2 ** 47 - 10, 2 ** 47 - 1);
    assert.deepEqual(hits(world, 0, 2 ** 47 - 11), []);
    assert.deepEqual(hits(world, 0, 2 ** 47 - 10), [node]);
    assert.deepEqual(hits(world, 2 ** 47 - 1, 2 ** 48), [node]);
    assert.deepEqual(hits(world, 2 ** 47, 2 ** 48), []);
    assert.equal(intervalTreeIterFirst(cpu, world.root, intervalRange(node)), node);
  });

  test('changing and searching a tree allocates nothing', () => {
    const { cpu } = bootMachine({ cpus: 1, ramBytes: MIB });
    const world = newWorld(cpu);
    const nodes = Array.from({ length: 1000 }, (_, n) => newNode(cpu, 8 * n, 8 * n + 3));
    while (kzalloc(cpu, IntervalTreeNode) !== 0); // memory is out
    assert.equal(freeFrameCount(cpu), 0);
    for (const node of nodes) intervalTreeInsert(cpu, world.root, node);
    for (let n = 0; n < nodes.length; n++) {
      assert.deepEqual(hits(world, 8 * n + 3, 8 * n + 7), [nodes[n]]);
      assert.deepEqual(hits(world, 8 * n + 4, 8 * n + 7), []);
    }
    for (const node of nodes) intervalTreeRemove(cpu, world.root, node);
    intervalTreeCheck(cpu, world.root);
  });

  test('a search allocates nothing on the JavaScript heap', () => {
    const { cpu } = bootMachine({ cpus: 1, ramBytes: MIB });
    const world = newWorld(cpu);
    for (let n = 0; n < 5000; n++) insert(world, 2 ** 40 + 8 * n, 2 ** 40 + 8 * n + 3);
    const { root, range, entries } = world;
    const ranges = entries.map(({ node }) => intervalRange(node));
    writeAddress(cpu, range, IntervalRange.start, 2 ** 40);
    writeAddress(cpu, range, IntervalRange.last, 2 ** 41);
    const search = (): number => {
      let found = 0;
      for (let n = 0; n < 5000; n++) {
        if (intervalTreeIterFirst(cpu, root, ranges[n]!) === entries[n]!.node) found++;
      }
      let node = intervalTreeIterFirst(cpu, root, range);
      for (; node !== 0; node = intervalTreeIterNext(cpu, node, range)) found++;
      return found;
    };
    const young = (): number =>
      getHeapSpaceStatistics().find((space) => space.space_name === 'new_space')!.space_used_size;
    let least = Infinity; // the first rounds run before V8 has compiled the search
    for (let round = 0; round < 200 && least > 20_000; round++) {
      const before = young();
      assert.equal(search(), 10_000);
      const grown = young() - before;
      if (grown >= 0) least = Math.min(least, grown);
    }
    assert.ok(least <= 20_000, `10,000 steps allocate ${least} bytes`);
  });
});

describe('interval tree and misuse', () => {
  test('an interval that is empty, in a tree already, or in none is a bug', () => {
    const { cpu } = bootMachine({ cpus: 1, ramBytes: MIB });
    const world = newWorld(cpu);
    const { root } = world;
    const node = insert(world, 10, 20);
    assert.throws(() => {
      intervalTreeInsert(cpu, root, node);
    }, /is in a tree/);
    assert.throws(() => {
      intervalTreeInsert(cpu, root, newNode(cpu, 5, 4));
    }, /ends before it starts/);
    intervalTreeRemove(cpu, root, node);
    assert.throws(() => {
      intervalTreeRemove(cpu, root, node);
    }, /is in no tree/);
    write(cpu, node, IntervalTreeNode.color, 77);
    initIntervalTreeNode(cpu, node);
    intervalTreeInsert(cpu, root, node);
    intervalTreeCheck(cpu, root);
  });

  /** Breaks one rule of a tree of 100 intervals; `top` is its root, `leaf` a red one without children. */
  type Corruption = (
    cpu: Cpu,
    root: IntervalTreeRoot,
    top: IntervalTreeNode,
    leaf: IntervalTreeNode,
  ) => void;
  const { color, last, leftLast, left, parent, start, subtreeLast } = IntervalTreeNode;
  const corruptions: [string, RegExp, Corruption][] = [
    [
      'order',
      /order/,
      (cpu, _root, top) => {
        writeAddress(cpu, top, start, 0);
      },
    ],
    [
      'largest last of a subtree',
      /subtreeLast/,
      (cpu, _root, top) => {
        writeAddress(cpu, top, subtreeLast, readAddress(cpu, top, subtreeLast) + 1);
      },
    ],
    [
      'largest last of a left subtree',
      /leftLast/,
      (cpu, _root, top) => {
        writeAddress(cpu, top, leftLast, readAddress(cpu, top, leftLast) - 1);
      },
    ],
    [
      'last of an interval',
      /subtreeLast/,
      (cpu, _root, _top, leaf) => {
        writeAddress(cpu, leaf, last, 2 ** 41);
      },
    ],
    [
      'color of a leaf',
      /black height/,
      (cpu, _root, _top, leaf) => {
        write(cpu, leaf, color, 2);
      },
    ],
    [
      'color of the root',
      /the root is red/,
      (cpu, _root, top) => {
        write(cpu, top, color, 1);
      },
    ],
    [
      'color of a red node’s parent',
      /red child|the root is red/,
      (cpu, _root, _top, leaf) => {
        write(cpu, read(cpu, leaf, parent), color, 1);
      },
    ],
    [
      'mark of being in a tree',
      /color 0/,
      (cpu, _root, _top, leaf) => {
        write(cpu, leaf, color, 0);
      },
    ],
    [
      'link to a parent',
      /parent/,
      (cpu, _root, top, leaf) => {
        write(cpu, leaf, parent, top);
      },
    ],
    [
      'first interval',
      /leftmost/,
      (cpu, root, top) => {
        write(cpu, root, IntervalTreeRoot.leftmost, top);
      },
    ],
  ];
  for (const [what, message, corrupt] of corruptions) {
    test(`the checker names a tree whose ${what} is wrong`, () => {
      const { cpu } = bootMachine({ cpus: 1, ramBytes: MIB });
      const world = newWorld(cpu);
      const next = random(9);
      for (let n = 0; n < 100; n++) {
        const at = 1000 + next(500);
        insert(world, at, at + next(50));
      }
      intervalTreeCheck(cpu, world.root);
      const top = read(cpu, world.root, IntervalTreeRoot.root);
      const leaf = world.entries.find(
        ({ node }) => read(cpu, node, color) === 1 && read(cpu, node, left) === 0,
      );
      corrupt(cpu, world.root, top, leaf!.node);
      assert.throws(
        () => {
          intervalTreeCheck(cpu, world.root);
        },
        (error) => error instanceof KernelBug && message.test(error.message),
      );
    });
  }
});
