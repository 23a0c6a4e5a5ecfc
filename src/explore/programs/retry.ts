/**
 * The collision-retry protocol between a device fault and an invalidation: LT-3, LT-4, LT-5 and LT-6.
 *
 * One page. The CPU's page table is a word, the device's is another; the driver's lock protects the device's.
 * The invalidating task changes the frame of the page from OLD to NEW, as a COW or a migration does, and the
 * faulting task maps what it finds into the device. At the end the device must not have OLD.
 *
 * The programs start at different points of the fault:
 *
 *   lt-5  before it has begun: it may begin inside the invalidation, and must wait
 *   lt-3  it has begun: a callback that comes before its retry must be seen
 *   lt-4  it has OLD in its hands: the callback comes while it maps, and waits for the lock
 *   lt-6  the same, against an invalidation that may be over before the retry
 *
 * Two of them come without a step of the driver's, to show what it is for: lt-3-no-retry asks nothing before it
 * maps, lt-4-no-lock calls back without the driver's lock.
 *
 * @module
 */
import { fetchAdd, read, readOnce, write, writeOnce } from '#memory';
import { isMutant, M_8, M_9 } from '#mutants';

import { bug } from '../../base/bug.js';
import type { Cpu } from '../../machine/cpu.js';
import { lockClass } from '../../machine/lock-class.js';
import { defineOps } from '../../machine/ops-table.js';
import { kzalloc } from '../../machine/slab.js';
import { stackPop, stackPush } from '../../machine/stack.js';
import { cacheline, containerOf, member, type Ptr, struct, word } from '../../memory/layout.js';
import { mmAlloc } from '../../mm/mm-struct.js';
import { MmStruct } from '../../mm/types.js';
import {
  mmuIntervalNotifierInsert,
  type MmuIntervalNotifierOps,
  mmuIntervalReadBegin,
  mmuIntervalReadRetry,
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
import { initSpinlock, Spinlock, spinLock, spinUnlock } from '../../sync/spinlock.js';
import {
  defineProgram,
  type ExploreProgram,
  type Outcome,
  reach,
  task,
  type Window,
} from '../program.js';

/** The page's frame before and after the invalidation; 0 is none. */
const OLD = 100;
const NEW = 200;
const PAGE = 0x10000;
const PAGE_BYTES = 4096;

const World = struct('retry_world', {
  interval: MmuIntervalNotifier,
  line1: cacheline,
  lock: Spinlock, // the driver's: devicePte, and the interval's sequence
  mm: word,
  cpuPte: word, // frame the CPU's page table has
  devicePte: word, // frame the device's page table has; 0 = none; under lock, and the device reads it
  retries: word, // times the faulting task was told to start again
  slept: word, // the callback found the page mapped
  seq: word, // what a fault that has begun already was given; written by setup
  callbacks: word, // callbacks that are done; under lock
  mapping: word, // the fault maps OLD just now; written under lock
  ended: word, // the invalidation is over
  spanned: word, // … and was before the fault's first retry; written by the faulting task
});
type World = Ptr<'retry_world'>;

const DRIVER_LOCK = lockClass('driver->lock');

export const retryDriver = defineOps({
  opsName: 'retry program',
  invalidate(cpu: Cpu, interval: MmuIntervalNotifier, _range: MmuNotifierRange, seq: number) {
    const world: World = containerOf(interval, World.interval);
    reach(cpu, 'callback begins');
    spinLock(cpu, member(world, World.lock));
    if (!isMutant(cpu, M_8)) mmuIntervalSetSeq(cpu, interval, seq);
    stopDevice(cpu, world);
    spinUnlock(cpu, member(world, World.lock));
    reach(cpu, 'callback is done');
    if (isMutant(cpu, M_8)) mmuIntervalSetSeq(cpu, interval, seq);
    return true;
  },
});

/** The callback of a driver without a lock of its own: what a fault does meanwhile is not waited for. */
export const retryDriverUnlocked = defineOps({
  opsName: 'retry program, unlocked',
  invalidate(cpu: Cpu, interval: MmuIntervalNotifier, _range: MmuNotifierRange, seq: number) {
    reach(cpu, 'callback begins');
    mmuIntervalSetSeq(cpu, interval, seq);
    stopDevice(cpu, containerOf(interval, World.interval));
    return true;
  },
});

/** The callback's work: the device's entry goes. */
function stopDevice(cpu: Cpu, world: World): void {
  if (readOnce(cpu, world, World.devicePte) !== 0) write(cpu, world, World.slept, 1);
  writeOnce(cpu, world, World.devicePte, 0);
  write(cpu, world, World.callbacks, read(cpu, world, World.callbacks) + 1);
}

const setup = (cpu: Cpu): number => setupFor(cpu, retryDriver);
const setupUnlocked = (cpu: Cpu): number => setupFor(cpu, retryDriverUnlocked);

function setupFor(cpu: Cpu, driver: MmuIntervalNotifierOps): number {
  const mm = mmAlloc(cpu);
  const world = kzalloc(cpu, World);
  write(cpu, world, World.mm, mm);
  write(cpu, world, World.cpuPte, OLD);
  initSpinlock(cpu, member(world, World.lock), DRIVER_LOCK);
  const interval = member(world, World.interval);
  const error = mmuIntervalNotifierInsert(cpu, interval, mm, PAGE, PAGE_BYTES, driver);
  if (error !== 0) bug(`the interval cannot be inserted: ${error}`);
  write(cpu, world, World.seq, mmuIntervalReadBegin(cpu, interval));
  return world;
}

// --- the invalidating task ---

function invalidate(cpu: Cpu, at: number): void {
  const world = at as World;
  const mm = read(cpu, world, World.mm) as MmStruct;
  const subscriptions = read(cpu, mm, MmStruct.subscriptions);
  const range = stackPush(cpu, MmuNotifierRange);
  mmuNotifierRangeInit(cpu, range, MMU_NOTIFY_CLEAR, mm, PAGE, PAGE + PAGE_BYTES);
  mnItreeInvalidate(cpu, subscriptions, range);
  reach(cpu, 'page changes');
  writeOnce(cpu, world, World.cpuPte, NEW);
  mnItreeInvEnd(cpu, subscriptions);
  stackPop(cpu, range);
}

/** As above, and looks whether the fault is held up where it must be (LT-4). */
function invalidateWatching(cpu: Cpu, at: number): void {
  const world = at as World;
  const mm = read(cpu, world, World.mm) as MmStruct;
  const subscriptions = read(cpu, mm, MmStruct.subscriptions);
  const range = stackPush(cpu, MmuNotifierRange);
  mmuNotifierRangeInit(cpu, range, MMU_NOTIFY_CLEAR, mm, PAGE, PAGE + PAGE_BYTES);
  mnItreeInvalidate(cpu, subscriptions, range);
  reach(cpu, 'page changes');
  if (readOnce(cpu, world, World.mapping) !== 0) {
    bug('LT-4: the page table is about to change while a fault maps the old page');
  }
  writeOnce(cpu, world, World.cpuPte, NEW);
  mnItreeInvEnd(cpu, subscriptions);
  stackPop(cpu, range);
}

/** As invalidate, and says that it is over (LT-6). */
function invalidateAndSay(cpu: Cpu, at: number): void {
  invalidate(cpu, at);
  writeOnce(cpu, at as World, World.ended, 1);
  reach(cpu, 'invalidation is over');
}

// --- the faulting task ---

/** Maps the frame if nothing came in between; false if the fault must start over. */
function install(cpu: Cpu, world: World, seq: number, frame: number): boolean {
  if (isMutant(cpu, M_9)) return installUnasked(cpu, world, seq, frame);
  const lock = member(world, World.lock);
  reach(cpu, 'fault locks');
  spinLock(cpu, lock);
  const isStale = mmuIntervalReadRetry(cpu, member(world, World.interval), seq);
  if (!isStale) writeOnce(cpu, world, World.devicePte, frame);
  spinUnlock(cpu, lock);
  reach(cpu, 'fault is done');
  if (isStale) fetchAdd(cpu, world, World.retries, 1);
  return !isStale;
}

/** M-9: what it is told before it has the lock may be wrong when it has. */
function installUnasked(cpu: Cpu, world: World, seq: number, frame: number): boolean {
  if (mmuIntervalReadRetry(cpu, member(world, World.interval), seq)) {
    fetchAdd(cpu, world, World.retries, 1);
    return false;
  }
  reach(cpu, 'fault has asked');
  installUnchecked(cpu, world, frame);
  return true;
}

/** Maps whatever it has read. */
function installUnchecked(cpu: Cpu, world: World, frame: number): void {
  reach(cpu, 'fault locks');
  spinLock(cpu, member(world, World.lock));
  writeOnce(cpu, world, World.devicePte, frame);
  spinUnlock(cpu, member(world, World.lock));
}

function fault(cpu: Cpu, at: number): void {
  const world = at as World;
  for (;;) {
    reach(cpu, 'fault begins');
    const seq = mmuIntervalReadBegin(cpu, member(world, World.interval));
    const frame = readOnce(cpu, world, World.cpuPte);
    reach(cpu, 'fault has read');
    if (install(cpu, world, seq, frame)) return;
  }
}

/** A fault that has begun before anything happened: any callback must make it start over (INV-19). */
function faultBegun(cpu: Cpu, at: number): void {
  const world = at as World;
  const lock = member(world, World.lock);
  const seq = read(cpu, world, World.seq);
  const frame = readOnce(cpu, world, World.cpuPte);
  reach(cpu, 'fault has read');
  spinLock(cpu, lock);
  const mustRetry = read(cpu, world, World.callbacks) !== 0;
  spinUnlock(cpu, lock);
  const isInstalled = install(cpu, world, seq, frame);
  if (mustRetry && isInstalled) bug('INV-19: a fault has missed a callback');
  if (!isInstalled) fault(cpu, at);
}

/** A fault that has begun, and maps what it has read without a question. */
function faultUnchecked(cpu: Cpu, at: number): void {
  const world = at as World;
  const frame = readOnce(cpu, world, World.cpuPte);
  reach(cpu, 'fault has read');
  installUnchecked(cpu, world, frame);
}

/** A fault that has read the old page already, and maps it while it says so. */
function faultMapping(cpu: Cpu, at: number): void {
  const world = at as World;
  const interval = member(world, World.interval);
  const lock = member(world, World.lock);
  spinLock(cpu, lock);
  const isStale = mmuIntervalReadRetry(cpu, interval, read(cpu, world, World.seq));
  if (!isStale) {
    writeOnce(cpu, world, World.mapping, 1);
    reach(cpu, 'fault maps');
    writeOnce(cpu, world, World.devicePte, OLD);
    reach(cpu, 'fault has mapped');
    writeOnce(cpu, world, World.mapping, 0);
  }
  spinUnlock(cpu, lock);
  if (!isStale) return;
  fetchAdd(cpu, world, World.retries, 1);
  fault(cpu, at);
}

/** A fault that has read the old page already, and looks whether all is over before it maps. */
function faultSpanning(cpu: Cpu, at: number): void {
  const world = at as World;
  reach(cpu, 'fault has read');
  if (readOnce(cpu, world, World.ended) !== 0) write(cpu, world, World.spanned, 1);
  if (!install(cpu, world, read(cpu, world, World.seq), OLD)) fault(cpu, at);
}

// --- what must be true ---

function check(cpu: Cpu, at: number): string | undefined {
  const world = at as World;
  const mm = read(cpu, world, World.mm) as MmStruct;
  const subscriptions = read(cpu, mm, MmStruct.subscriptions);
  if ((read(cpu, subscriptions, MmuNotifierSubscriptions.invalidateSeq) & 1) !== 0) {
    return 'INV-21: the sequence S is odd at rest';
  }
  if (read(cpu, world, World.devicePte) === OLD) {
    return 'INV-20: the device keeps a page that the CPUs have replaced';
  }
  return undefined;
}

function observe(cpu: Cpu, at: number): string {
  const world = at as World;
  if (read(cpu, world, World.spanned) !== 0) return 'spanned, retried';
  if (read(cpu, world, World.retries) !== 0) return 'retried';
  return read(cpu, world, World.slept) !== 0 ? 'mapped, then unmapped' : 'new page';
}

const NEW_PAGE: Outcome = {
  name: 'new page',
  grade: 'ACCEPTABLE',
  description: 'the fault came after, or waited',
};
const RETRIED: Outcome = {
  name: 'retried',
  grade: 'ACCEPTABLE',
  description: 'LT-3: the callback came first',
};
const UNMAPPED: Outcome = {
  name: 'mapped, then unmapped',
  grade: 'ACCEPTABLE',
  description: 'LT-4: the fault came first; the callback waited for its lock',
};

const common = {
  ops: { retryDriver, retryDriverUnlocked },
  ramBytes: 64 * 4096,
  setup,
  check,
  observe,
} as const;

/** A callback between what a fault has read and its lock. */
const CALLBACK_INSIDE: Window = {
  order: ['fault has read', 'callback begins', 'callback is done', 'fault locks'],
};
/** A callback while a fault maps. */
const CALLBACK_WHILE_MAPPING: Window = {
  order: ['fault maps', 'callback begins'],
  chance: ['page changes', 'fault has mapped'],
};

export const RETRY_PROGRAMS: readonly ExploreProgram[] = [
  defineProgram({
    name: 'lt-3',
    title: 'a callback comes between the begin and the retry of a fault',
    tasks: [task('invalidate', invalidate), task('fault', faultBegun)],
    ...common,
    outcomes: [RETRIED, UNMAPPED],
    window: CALLBACK_INSIDE,
  }),
  defineProgram({
    name: 'lt-3-no-retry',
    title: 'the same, and the fault asks nothing',
    isBroken: true,
    tasks: [task('invalidate', invalidate), task('fault', faultUnchecked)],
    ...common,
    outcomes: [NEW_PAGE, UNMAPPED],
    window: CALLBACK_INSIDE,
  }),
  defineProgram({
    name: 'lt-4',
    title: 'a callback comes while a fault maps',
    tasks: [task('invalidate', invalidateWatching), task('fault', faultMapping)],
    ...common,
    outcomes: [RETRIED, UNMAPPED],
    window: CALLBACK_WHILE_MAPPING,
  }),
  defineProgram({
    name: 'lt-4-no-lock',
    title: 'the same, and the callback takes no lock',
    isBroken: true,
    tasks: [task('invalidate', invalidateWatching), task('fault', faultMapping)],
    ...common,
    setup: setupUnlocked,
    outcomes: [RETRIED, UNMAPPED, NEW_PAGE],
    window: CALLBACK_WHILE_MAPPING,
  }),
  defineProgram({
    name: 'lt-5',
    title: 'a fault begins while an invalidation is under way',
    tasks: [task('invalidate', invalidate), task('fault', fault)],
    ...common,
    outcomes: [NEW_PAGE, RETRIED, UNMAPPED],
    window: {
      order: ['callback is done', 'fault begins'],
      chance: ['fault has read', 'page changes'],
    },
  }),
  defineProgram({
    name: 'lt-6',
    title: 'a whole invalidation passes inside a fault, which compares sequences',
    tasks: [task('invalidate', invalidateAndSay), task('fault', faultSpanning)],
    ...common,
    outcomes: [
      RETRIED,
      UNMAPPED,
      {
        name: 'spanned, retried',
        grade: 'INTERESTING',
        description: 'it was over before the fault looked, and left its sequence',
      },
    ],
    window: {
      order: ['fault has read', 'callback begins', 'invalidation is over', 'fault has read'],
    },
  }),
];
