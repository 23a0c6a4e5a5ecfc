/**
 * LT-17: intervals come and go while the tree is frozen; and who removes one may free it at once.
 *
 * One task invalidates, with a second invalidation nested in the first, and looks at what must not change
 * meanwhile. The other inserts and removes: what it asks for while the tree is frozen is put off to the last
 * end, and a removal that is put off waits for it.
 *
 * @module
 */
import { fetchAdd, read, readOnce, write, writeOnce } from '#memory';

import { bug } from '../../base/bug.js';
import type { Cpu } from '../../machine/cpu.js';
import { defineOps } from '../../machine/ops-table.js';
import { allocatedObjects, kfree, kzalloc } from '../../machine/slab.js';
import { stackPop, stackPush } from '../../machine/stack.js';
import { cacheline, member, NULL, type Ptr, struct, word } from '../../memory/layout.js';
import { listEmpty } from '../../memory/list.js';
import { mmAlloc } from '../../mm/mm-struct.js';
import { MmStruct } from '../../mm/types.js';
import { IntervalTreeRoot } from '../../notifier/interval-tree.js';
import {
  mmuIntervalNotifierInsert,
  mmuIntervalNotifierRemove,
  mmuIntervalSetSeq,
  mnItreeInvalidate,
  mnItreeInvEnd,
} from '../../notifier/mmu-interval-notifier.js';
import { MMU_NOTIFY_CLEAR, mmuNotifierRangeInit } from '../../notifier/mmu-notifier-range.js';
import {
  MmuIntervalNotifier,
  MmuNotifierRange,
  MmuNotifierSubscriptions,
} from '../../notifier/types.js';
import { defineProgram, type ExploreProgram, type Outcome, reach, task } from '../program.js';

const PAGE = 0x10000;
const PAGE_BYTES = 4096;

const World = struct('deferred_world', {
  mm: word,
  first: word, // the interval X: in the tree at the start; 0 when it was freed
  second: word, // the interval Y
  third: word, // the interval Y2
  line1: cacheline,
  removed: word, // the removal of X has returned
  line2: cacheline,
  callbacks: word, // times X was told; atomic
});
type World = Ptr<'deferred_world'>;

export const deferredDriver = defineOps({
  opsName: 'deferred program',
  invalidate(cpu: Cpu, interval: MmuIntervalNotifier, _range: MmuNotifierRange, seq: number) {
    if ((seq & 1) === 0) bug('INV-17: a callback is given an even sequence');
    const world = read(cpu, interval, MmuIntervalNotifier.privateData) as World;
    if (interval === read(cpu, world, World.first)) {
      if (readOnce(cpu, world, World.removed) !== 0) {
        bug('INV-22: the callback of an interval that was removed');
      }
      fetchAdd(cpu, world, World.callbacks, 1);
    }
    mmuIntervalSetSeq(cpu, interval, seq);
    return true;
  },
});

function setup(cpu: Cpu): number {
  const world = kzalloc(cpu, World);
  write(cpu, world, World.mm, mmAlloc(cpu));
  for (const field of [World.first, World.second, World.third]) {
    const interval = kzalloc(cpu, MmuIntervalNotifier);
    write(cpu, interval, MmuIntervalNotifier.privateData, world);
    write(cpu, world, field, interval);
  }
  insert(cpu, world, read(cpu, world, World.first) as MmuIntervalNotifier);
  return world;
}

function insert(cpu: Cpu, world: World, interval: MmuIntervalNotifier): void {
  const mm = read(cpu, world, World.mm) as MmStruct;
  const error = mmuIntervalNotifierInsert(cpu, interval, mm, PAGE, PAGE_BYTES, deferredDriver);
  if (error !== 0) bug(`the interval cannot be inserted: ${error}`);
}

function subscriptionsOf(cpu: Cpu, world: World): MmuNotifierSubscriptions {
  return read(cpu, read(cpu, world, World.mm) as MmStruct, MmStruct.subscriptions);
}

// --- the invalidating side ---

/** Opens an invalidation of the page; true if it hit an interval, and so has frozen the tree. */
function start(cpu: Cpu, world: World, range: MmuNotifierRange): boolean {
  const mm = read(cpu, world, World.mm) as MmStruct;
  mmuNotifierRangeInit(cpu, range, MMU_NOTIFY_CLEAR, mm, PAGE, PAGE + PAGE_BYTES);
  mnItreeInvalidate(cpu, subscriptionsOf(cpu, world), range);
  return (read(cpu, range, MmuNotifierRange.seq) & 1) !== 0;
}

/** The tree is frozen until our end: S is odd, and the tree has the root it had. */
function checkFrozen(cpu: Cpu, world: World, root: number): void {
  const subscriptions = subscriptionsOf(cpu, world);
  const seq = readOnce(cpu, subscriptions, MmuNotifierSubscriptions.invalidateSeq);
  if ((seq & 1) === 0) bug('INV-18: the tree thaws inside an invalidation');
  if (rootOf(cpu, world) !== root) bug('INV-18: the tree has changed inside an invalidation');
}

function rootOf(cpu: Cpu, world: World): number {
  const itree = member(subscriptionsOf(cpu, world), MmuNotifierSubscriptions.itree);
  return readOnce(cpu, itree, IntervalTreeRoot.root);
}

function invalidate(cpu: Cpu, at: number): void {
  const world = at as World;
  const range = stackPush(cpu, MmuNotifierRange);
  const isFrozen = start(cpu, world, range);
  const root = rootOf(cpu, world);
  reach(cpu, cpu.id === 0 ? 'first has started' : 'second has started');
  if (isFrozen) checkFrozen(cpu, world, root);
  reach(cpu, cpu.id === 0 ? 'first ends' : 'second ends');
  mnItreeInvEnd(cpu, subscriptionsOf(cpu, world));
  stackPop(cpu, range);
}

function invalidateNested(cpu: Cpu, at: number): void {
  const world = at as World;
  const range = stackPush(cpu, MmuNotifierRange);
  const isFrozen = start(cpu, world, range);
  const root = rootOf(cpu, world);
  reach(cpu, 'outer has started');
  invalidate(cpu, at);
  if (isFrozen) checkFrozen(cpu, world, root);
  reach(cpu, 'last end comes');
  mnItreeInvEnd(cpu, subscriptionsOf(cpu, world));
  stackPop(cpu, range);
}

// --- the side that registers ---

/** Y comes and goes. */
function insertAndRemove(cpu: Cpu, at: number): void {
  const world = at as World;
  const interval = read(cpu, world, World.second) as MmuIntervalNotifier;
  reach(cpu, 'register begins');
  insert(cpu, world, interval);
  mmuIntervalNotifierRemove(cpu, interval);
  refuseLeft(cpu, interval);
}

function insertThird(cpu: Cpu, at: number): void {
  const world = at as World;
  reach(cpu, 'insert comes');
  insert(cpu, world, read(cpu, world, World.third) as MmuIntervalNotifier);
}

/** X goes, and nobody may know it any more. */
function removeFirst(cpu: Cpu, at: number): void {
  const world = at as World;
  const interval = read(cpu, world, World.first) as MmuIntervalNotifier;
  reach(cpu, 'removal comes');
  mmuIntervalNotifierRemove(cpu, interval);
  writeOnce(cpu, world, World.removed, 1);
  refuseLeft(cpu, interval);
}

/** X goes, and is freed at once: whoever still touches it uses freed memory. */
function removeAndFree(cpu: Cpu, at: number): void {
  const world = at as World;
  const interval = read(cpu, world, World.first) as MmuIntervalNotifier;
  reach(cpu, 'removal comes');
  mmuIntervalNotifierRemove(cpu, interval);
  writeOnce(cpu, world, World.removed, 1);
  kfree(cpu, MmuIntervalNotifier, interval);
  reach(cpu, 'interval is freed');
}

/** Who removes may free: by then the interval is in no tree and in no list. */
function refuseLeft(cpu: Cpu, interval: MmuIntervalNotifier): void {
  const isInTree = readOnce(cpu, interval, MmuIntervalNotifier.inTree) !== 0;
  const item = member(interval, MmuIntervalNotifier.deferredItem);
  if (isInTree || !listEmpty(cpu, item))
    bug('INV-22: an interval is still known after its removal');
}

// --- what must be true at the end ---

function check(cpu: Cpu, at: number): string | undefined {
  const subscriptions = subscriptionsOf(cpu, at as World);
  const seq = read(cpu, subscriptions, MmuNotifierSubscriptions.invalidateSeq);
  if ((seq & 1) !== 0) return 'INV-21: the sequence S is odd at rest';
  if (read(cpu, subscriptions, MmuNotifierSubscriptions.activeInvalidateRanges) !== 0) {
    return 'INV-21: an invalidation is counted at rest';
  }
  if (!listEmpty(cpu, member(subscriptions, MmuNotifierSubscriptions.deferred))) {
    return 'INV-21: something is deferred at rest';
  }
  return undefined;
}

function checkTree(cpu: Cpu, at: number): string | undefined {
  const world = at as World;
  const isIn = (field: typeof World.first): boolean => {
    const interval = read(cpu, world, field) as MmuIntervalNotifier;
    return read(cpu, interval, MmuIntervalNotifier.inTree) !== 0;
  };
  if (isIn(World.first)) return 'LT-17: the interval that was removed is in the tree';
  if (isIn(World.second)) return 'LT-17: the interval that came and went is in the tree';
  if (!isIn(World.third)) return 'LT-17: the interval that was inserted is not in the tree';
  return check(cpu, at);
}

function checkFreed(cpu: Cpu, at: number): string | undefined {
  if (rootOf(cpu, at as World) !== NULL) return 'the tree is not empty';
  const left = allocatedObjects(cpu, MmuIntervalNotifier);
  return left === 2 ? check(cpu, at) : `${left} intervals are allocated, and should be 2`;
}

const observe = (cpu: Cpu, at: number): string =>
  `told ${read(cpu, at as World, World.callbacks)} times`;

const toldTimes = (...counts: readonly number[]): readonly Outcome[] =>
  counts.map((count) => ({
    name: `told ${count} times`,
    grade: 'ACCEPTABLE',
    description: count === 0 ? 'the removal came first' : 'the removal came later, or waited',
  }));

/** Between two starts of which one is inside the other nobody leaves. */
const TOLD_ONCE: Outcome = {
  name: 'told 1 times',
  grade: 'FORBIDDEN',
  description: 'INV-18: the tree changed between a start and the one nested in it',
};

const common = { ops: { deferredDriver }, ramBytes: 64 * 4096, setup, observe } as const;

export const DEFERRED_PROGRAMS: readonly ExploreProgram[] = [
  defineProgram({
    name: 'lt-17',
    title: 'intervals come and go during nested invalidations',
    tasks: [
      task('invalidate', invalidateNested),
      {
        name: 'register',
        operations: [
          { name: 'insert and remove Y', run: insertAndRemove },
          { name: 'insert Y2', run: insertThird },
          { name: 'remove X', run: removeFirst },
        ],
      },
    ],
    ...common,
    check: checkTree,
    outcomes: [...toldTimes(0, 2), TOLD_ONCE],
    window: {
      order: ['outer has started', 'register begins', 'removal comes', 'last end comes'],
    },
  }),
  defineProgram({
    name: 'lt-17-overlap',
    title: 'intervals come and go while two invalidations overlap',
    tasks: [
      task('invalidate', invalidate),
      task('invalidate too', invalidate),
      {
        name: 'register',
        operations: [
          { name: 'insert Y2', run: insertThird },
          { name: 'remove X', run: removeFirst },
        ],
      },
    ],
    ...common,
    check,
    outcomes: toldTimes(0, 1, 2),
    window: {
      order: [
        'first has started',
        'second has started',
        'insert comes',
        'removal comes',
        'first ends',
      ],
    },
  }),
  defineProgram({
    name: 'remove-free',
    title: 'who removes an interval frees it, against the last end of an invalidation',
    tasks: [task('invalidate', invalidate), task('remove', removeAndFree)],
    ...common,
    check: checkFreed,
    outcomes: toldTimes(0, 1),
    window: { order: ['first has started', 'removal comes', 'first ends'] },
  }),
];
