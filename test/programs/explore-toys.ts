/**
 * Programs for tests of what follows a failure: each has a mistake that only some schedules show.
 *
 * The module is loaded twice, as it is and rewritten (test/programs/explain-case.ts), so what it needs of the
 * kernel it takes from `faultline` by its name.
 *
 * @module
 */
import {
  type Cpu,
  initSpinlock,
  kzalloc,
  layout,
  lockClass,
  memory,
  mmAlloc,
  MMU_NOTIFY_CLEAR,
  MmuIntervalNotifier,
  mmuIntervalNotifierInsert,
  mmuIntervalReadRetry,
  mmuIntervalSetSeq,
  mmuNotifierInvalidateRangeEnd,
  mmuNotifierInvalidateRangeStart,
  MmuNotifierRange,
  mmuNotifierRangeInit,
  Spinlock,
  spinLock,
  spinUnlock,
} from 'faultline';

import type { exploration } from '../../src/faultline.js';

const { member, struct, word } = layout;
const { fetchAdd, read, readOnce, write, writeOnce } = memory;

type ExploreProgram = exploration.ExploreProgram;

const task = (name: string, run: (cpu: Cpu, world: number) => void) => ({
  name,
  operations: [{ name, run }],
});

// --- two tasks add to a counter, and one addition is lost ---

const Tally = struct('tally_world', { counter: word, other: word });
type Tally = layout.Ptr<'tally_world'>;

function add(cpu: Cpu, world: number): void {
  const seen = readOnce(cpu, world as Tally, Tally.counter);
  writeOnce(cpu, world as Tally, Tally.counter, seen + 1);
}

export const lostUpdate: ExploreProgram = {
  name: 'lost-update',
  title: 'two tasks add one to a counter',
  tasks: [task('add', add), task('add', add)],
  ramBytes: 64 * 4096,
  setup: (cpu) => kzalloc(cpu, Tally),
  check: (cpu, world) => {
    const sum = read(cpu, world as Tally, Tally.counter);
    return sum === 2 ? undefined : `two were added and the counter is ${sum}`;
  },
};

// --- the same among operations that have nothing to do with it ---

function touchOther(cpu: Cpu, world: number): void {
  fetchAdd(cpu, world as Tally, Tally.other, 1);
}

const addTwice = [
  { name: 'touch', run: touchOther },
  { name: 'add', run: add },
  { name: 'touch again', run: touchOther },
];

export const busyUpdate: ExploreProgram = {
  ...lostUpdate,
  name: 'busy-update',
  title: 'two tasks add one to a counter, among other things',
  tasks: [
    { name: 'first', operations: addTwice },
    { name: 'second', operations: addTwice },
    { name: 'bystander', operations: [{ name: 'touch', run: touchOther }] },
  ],
  check: (cpu, world) => {
    const sum = read(cpu, world as Tally, Tally.counter);
    return sum === 1 ? 'an addition is lost' : undefined;
  },
};

// --- a word that two tasks move on in turns: all the way only if they take turns ---

const TURNS = 3;

function moveEven(cpu: Cpu, world: number): void {
  for (let i = 0; i < TURNS; i++) {
    const at = readOnce(cpu, world as Tally, Tally.counter);
    if (at === 2 * i) writeOnce(cpu, world as Tally, Tally.counter, at + 1);
  }
}

function moveOdd(cpu: Cpu, world: number): void {
  for (let i = 0; i < TURNS; i++) {
    const at = readOnce(cpu, world as Tally, Tally.counter);
    if (at === 2 * i + 1) writeOnce(cpu, world as Tally, Tally.counter, at + 1);
  }
}

export const relay: ExploreProgram = {
  ...lostUpdate,
  name: 'relay',
  title: 'two tasks move a word on in turns',
  tasks: [task('even', moveEven), task('odd', moveOdd)],
  check: (cpu, world) =>
    read(cpu, world as Tally, Tally.counter) === 2 * TURNS ? 'it went all the way' : undefined,
};

// --- two locks, taken in either order ---

const Pair = struct('pair_world', { one: Spinlock, other: Spinlock });
type Pair = layout.Ptr<'pair_world'>;
const ONE = lockClass('one->lock');
const OTHER = lockClass('other->lock');

function takeBoth(cpu: Cpu, first: Spinlock, second: Spinlock): void {
  spinLock(cpu, first);
  spinLock(cpu, second);
  spinUnlock(cpu, second);
  spinUnlock(cpu, first);
}

function forward(cpu: Cpu, world: number): void {
  takeBoth(cpu, member(world as Pair, Pair.one), member(world as Pair, Pair.other));
}

function backward(cpu: Cpu, world: number): void {
  takeBoth(cpu, member(world as Pair, Pair.other), member(world as Pair, Pair.one));
}

export const crossedLocks: ExploreProgram = {
  name: 'crossed-locks',
  title: 'two tasks take two locks in different orders',
  tasks: [task('forward', forward), task('backward', backward)],
  validatesLocks: false,
  ramBytes: 64 * 4096,
  setup: (cpu) => {
    const world = kzalloc(cpu, Pair);
    initSpinlock(cpu, member(world, Pair.one), ONE);
    initSpinlock(cpu, member(world, Pair.other), OTHER);
    return world;
  },
};

// --- LT-5 with a begin that does not wait ---

const OLD = 100;
const NEW = 200;
const PAGE = 0x10000;
const PAGE_BYTES = 4096;
const DRIVER_LOCK = lockClass('driver->lock');

const Retry = struct('hasty_world', {
  interval: MmuIntervalNotifier,
  range: MmuNotifierRange,
  lock: Spinlock,
  mm: word,
  cpuPte: word,
  devicePte: word,
});
type Retry = layout.Ptr<'hasty_world'>;

const hastyDriver = {
  opsName: 'hasty driver',
  invalidate(cpu: Cpu, interval: MmuIntervalNotifier, _range: MmuNotifierRange, seq: number) {
    const world = (interval - Retry.interval) as Retry;
    spinLock(cpu, member(world, Retry.lock));
    mmuIntervalSetSeq(cpu, interval, seq);
    write(cpu, world, Retry.devicePte, 0);
    spinUnlock(cpu, member(world, Retry.lock));
    return true;
  },
};

function hastySetup(cpu: Cpu): number {
  const mm = mmAlloc(cpu);
  const world = kzalloc(cpu, Retry);
  write(cpu, world, Retry.mm, mm);
  write(cpu, world, Retry.cpuPte, OLD);
  initSpinlock(cpu, member(world, Retry.lock), DRIVER_LOCK);
  const interval = member(world, Retry.interval);
  mmuIntervalNotifierInsert(cpu, interval, mm, PAGE, PAGE_BYTES, hastyDriver);
  const range = member(world, Retry.range);
  mmuNotifierRangeInit(cpu, range, MMU_NOTIFY_CLEAR, mm, PAGE, PAGE + PAGE_BYTES);
  return world;
}

function invalidate(cpu: Cpu, at: number): void {
  const world = at as Retry;
  const range = member(world, Retry.range);
  mmuNotifierInvalidateRangeStart(cpu, range);
  writeOnce(cpu, world, Retry.cpuPte, NEW);
  mmuNotifierInvalidateRangeEnd(cpu, range);
}

/** The mistake: whoever begins while s == S must wait. */
function readBeginWithoutWaiting(cpu: Cpu, interval: MmuIntervalNotifier): number {
  return readOnce(cpu, interval, MmuIntervalNotifier.invalidateSeq);
}

function fault(cpu: Cpu, at: number): void {
  const world = at as Retry;
  const interval = member(world, Retry.interval);
  const lock = member(world, Retry.lock);
  for (;;) {
    const seq = readBeginWithoutWaiting(cpu, interval);
    const frame = readOnce(cpu, world, Retry.cpuPte);
    spinLock(cpu, lock);
    if (!mmuIntervalReadRetry(cpu, interval, seq)) {
      write(cpu, world, Retry.devicePte, frame);
      spinUnlock(cpu, lock);
      return;
    }
    spinUnlock(cpu, lock);
  }
}

export const hastyFault: ExploreProgram = {
  name: 'hasty-fault',
  title: 'a fault begins while an invalidation is under way, and does not wait',
  tasks: [task('invalidate', invalidate), task('fault', fault)],
  ops: { hastyDriver },
  ramBytes: 64 * 4096,
  setup: hastySetup,
  check: (cpu, at) =>
    read(cpu, at as Retry, Retry.devicePte) === OLD
      ? 'INV-20: the device keeps a page that the CPUs have replaced'
      : undefined,
};
