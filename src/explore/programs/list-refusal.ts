/**
 * Notifiers that refuse an invalidation which may not block: LT-13, LT-14 and LT-16.
 *
 * A reaper opens an invalidation that may not block. The driver that refuses would have to wait for its mutex,
 * which another task has for a while. What happens to those that have agreed already?
 *
 *   lt-13   another notifier of the list, which counts what is open
 *   lt-16   an interval, whose core counts what is open: in Linux to this day nobody counts it back
 *   lt-14   who has the mutex waits for memory that the reaper is to free: the driver may not wait for the mutex
 *
 * @module
 */
import { fetchAdd, read, write } from '#memory';
import { isMutant, M_17 } from '#mutants';

import { bug } from '../../base/bug.js';
import { EAGAIN } from '../../base/errno.js';
import type { Cpu } from '../../machine/cpu.js';
import { lockClass } from '../../machine/lock-class.js';
import { defineOps } from '../../machine/ops-table.js';
import { kzalloc } from '../../machine/slab.js';
import { stackPop, stackPush } from '../../machine/stack.js';
import { cacheline, containerOf, member, type Ptr, struct, word } from '../../memory/layout.js';
import { mmAlloc } from '../../mm/mm-struct.js';
import type { MmStruct } from '../../mm/types.js';
import {
  LIST_END_BOTH,
  LIST_REFUSE_SHARED,
  LIST_UNPAIRED,
  type ListForm,
  setListForm,
} from '../../notifier/boot.js';
import {
  mmuIntervalNotifierInsert,
  type MmuIntervalNotifierOps,
  mmuIntervalReadBegin,
  mmuIntervalSetSeq,
} from '../../notifier/mmu-interval-notifier.js';
import {
  mmuNotifierInvalidateRangeEnd,
  mmuNotifierInvalidateRangeStartNonblock,
} from '../../notifier/mmu-notifier.js';
import type { MmuNotifierOps } from '../../notifier/mmu-notifier-list.js';
import {
  MMU_NOTIFY_UNMAP,
  mmuNotifierRangeBlockable,
  mmuNotifierRangeInit,
} from '../../notifier/mmu-notifier-range.js';
import { mmuNotifierRegister } from '../../notifier/mmu-notifier-register.js';
import { mmSubscriptions } from '../../notifier/subscriptions.js';
import {
  MmuIntervalNotifier,
  MmuNotifier,
  MmuNotifierRange,
  MmuNotifierSubscriptions,
} from '../../notifier/types.js';
import { complete, Completion, initCompletion, waitForCompletion } from '../../sync/completion.js';
import { initMutex, Mutex, mutexLock, mutexTrylock, mutexUnlock } from '../../sync/mutex.js';
import { defineProgram, type ExploreProgram, type Outcome, reach, task } from '../program.js';

const PAGE = 0x10000;
const PAGE_BYTES = 4096;

const World = struct('refusal_world', {
  counting: MmuNotifier, // has a start, which always agrees, and an end
  line1: cacheline,
  refusing: MmuNotifier, // has a start only, which needs the mutex
  line2: cacheline,
  interval: MmuIntervalNotifier,
  line3: cacheline,
  mutex: Mutex, // the refusing driver's
  line4: cacheline,
  reaped: Completion, // there is memory again
  line5: cacheline,
  open: word, // starts of `counting` without their end; atomic
  mm: word,
  answer: word, // of the start that may not block; written by the reaper
});
type World = Ptr<'refusal_world'>;

const MUTEX = lockClass('refusing driver');
const REAPED = lockClass('reaped');

export const countingNotifier: MmuNotifierOps = defineOps({
  opsName: 'refusal counting',
  invalidateRangeStart(cpu: Cpu, notifier: MmuNotifier) {
    const world: World = containerOf(notifier, World.counting);
    fetchAdd(cpu, world, World.open, 1);
    return 0;
  },
  invalidateRangeEnd(cpu: Cpu, notifier: MmuNotifier) {
    const world: World = containerOf(notifier, World.counting);
    if (fetchAdd(cpu, world, World.open, -1) === 0) bug('INV-14: an end without a start');
  },
});

export const refusingNotifier: MmuNotifierOps = defineOps({
  opsName: 'refusal refusing',
  invalidateRangeStart(cpu: Cpu, notifier: MmuNotifier, range: MmuNotifierRange) {
    return takeMutex(cpu, containerOf(notifier, World.refusing), range) ? 0 : -EAGAIN;
  },
});

export const refusingInterval = defineOps({
  opsName: 'refusal interval',
  invalidate(cpu: Cpu, interval: MmuIntervalNotifier, range: MmuNotifierRange, seq: number) {
    const world: World = containerOf(interval, World.interval);
    if (!takeMutex(cpu, world, range)) return false;
    mmuIntervalSetSeq(cpu, interval, seq);
    return true;
  },
});

export const agreeingInterval = defineOps({
  opsName: 'refusal agreeing interval',
  invalidate(cpu: Cpu, interval: MmuIntervalNotifier, _range: MmuNotifierRange, seq: number) {
    mmuIntervalSetSeq(cpu, interval, seq);
    return true;
  },
});

/** Waits for the mutex if it may; M-17: whether it may or not. */
function takeMutex(cpu: Cpu, world: World, range: MmuNotifierRange): boolean {
  const mutex = member(world, World.mutex);
  reach(cpu, 'driver is asked');
  if (isMutant(cpu, M_17) || mmuNotifierRangeBlockable(cpu, range)) mutexLock(cpu, mutex);
  else if (!mutexTrylock(cpu, mutex)) return false;
  mutexUnlock(cpu, mutex);
  return true;
}

// --- how the programs start ---

function makeWorld(cpu: Cpu): World {
  const world = kzalloc(cpu, World);
  initMutex(cpu, member(world, World.mutex), MUTEX);
  initCompletion(cpu, member(world, World.reaped), REAPED);
  write(cpu, world, World.mm, mmAlloc(cpu));
  return world;
}

function register(cpu: Cpu, world: World, notifier: MmuNotifier, ops: MmuNotifierOps): void {
  const error = mmuNotifierRegister(cpu, notifier, mmOf(cpu, world), ops);
  if (error !== 0) bug(`the notifier cannot be registered: ${error}`);
}

function insert(cpu: Cpu, world: World, ops: MmuIntervalNotifierOps): void {
  const interval = member(world, World.interval);
  const mm = mmOf(cpu, world);
  const error = mmuIntervalNotifierInsert(cpu, interval, mm, PAGE, PAGE_BYTES, ops);
  if (error !== 0) bug(`the interval cannot be inserted: ${error}`);
}

const mmOf = (cpu: Cpu, world: World): MmStruct => read(cpu, world, World.mm) as MmStruct;

/** The one that counts is asked first: the last to be registered. */
function setupPair(form?: ListForm) {
  return (cpu: Cpu): number => {
    const world = makeWorld(cpu);
    if (form !== undefined) setListForm(cpu, form);
    register(cpu, world, member(world, World.refusing), refusingNotifier);
    register(cpu, world, member(world, World.counting), countingNotifier);
    return world;
  };
}

function setupMixed(form?: ListForm) {
  return (cpu: Cpu): number => {
    const world = makeWorld(cpu);
    if (form !== undefined) setListForm(cpu, form);
    register(cpu, world, member(world, World.refusing), refusingNotifier);
    insert(cpu, world, agreeingInterval);
    return world;
  };
}

function setupRefusing(cpu: Cpu): number {
  const world = makeWorld(cpu);
  register(cpu, world, member(world, World.refusing), refusingNotifier);
  return world;
}

function setupInterval(cpu: Cpu): number {
  const world = makeWorld(cpu);
  insert(cpu, world, refusingInterval);
  return world;
}

// --- tasks ---

/** What the OOM reaper does with a VMA; it goes on without those that refuse. */
function reap(cpu: Cpu, at: number): void {
  const world = at as World;
  const range = stackPush(cpu, MmuNotifierRange);
  mmuNotifierRangeInit(cpu, range, MMU_NOTIFY_UNMAP, mmOf(cpu, world), PAGE, PAGE + PAGE_BYTES);
  const answer = mmuNotifierInvalidateRangeStartNonblock(cpu, range);
  write(cpu, world, World.answer, answer);
  reach(cpu, 'reaper is answered');
  if (answer === 0) mmuNotifierInvalidateRangeEnd(cpu, range);
  else if (answer !== -EAGAIN) bug(`range_start answered ${answer}`);
  stackPop(cpu, range);
  complete(cpu, member(world, World.reaped));
}

function holdMutex(cpu: Cpu, at: number): void {
  const mutex = member(at as World, World.mutex);
  mutexLock(cpu, mutex);
  reach(cpu, 'mutex is held');
  mutexUnlock(cpu, mutex);
}

/** Has the mutex when it runs out of memory, and waits for the reaper: a direct reclaim that finds nothing. */
function allocateLocked(cpu: Cpu, at: number): void {
  const world = at as World;
  const mutex = member(world, World.mutex);
  mutexLock(cpu, mutex);
  reach(cpu, 'mutex is held');
  waitForCompletion(cpu, member(world, World.reaped));
  mutexUnlock(cpu, mutex);
}

/** Begins a read, which waits for the end of what it collides with. */
function fault(cpu: Cpu, at: number): void {
  reach(cpu, 'fault begins');
  mmuIntervalReadBegin(cpu, member(at as World, World.interval));
}

// --- what must be true at the end ---

function checkOpen(cpu: Cpu, at: number): string | undefined {
  const open = read(cpu, at as World, World.open);
  return open === 0 ? undefined : 'INV-14: a notifier was told a start, and no end';
}

function checkActive(cpu: Cpu, at: number): string | undefined {
  const subscriptions = mmSubscriptions(cpu, mmOf(cpu, at as World));
  const active = read(cpu, subscriptions, MmuNotifierSubscriptions.activeInvalidateRanges);
  return active === 0 ? undefined : 'INV-21: an invalidation is counted at rest';
}

const observe = (cpu: Cpu, at: number): string =>
  read(cpu, at as World, World.answer) === 0 ? 'agreed' : 'refused';

const AGREED: Outcome = {
  name: 'agreed',
  grade: 'ACCEPTABLE',
  description: 'the mutex was free',
};
const REFUSED: Outcome = {
  name: 'refused',
  grade: 'ACCEPTABLE',
  description: 'and nothing is left open',
};

const HOLDER = task('mutex', holdMutex);
const REAPER = task('reaper', reap);

const common = {
  ops: { agreeingInterval, countingNotifier, refusingInterval, refusingNotifier },
  ramBytes: 64 * 4096,
  observe,
} as const;

const lt13 = (name: string, title: string, form?: ListForm): ExploreProgram =>
  defineProgram({
    name,
    title,
    tasks: [REAPER, HOLDER],
    ...common,
    setup: setupPair(form),
    check: checkOpen,
    isBroken: form === LIST_UNPAIRED,
    outcomes: form === LIST_REFUSE_SHARED ? [REFUSED] : [AGREED, REFUSED],
  });

const lt16 = (name: string, title: string, form?: ListForm): ExploreProgram =>
  defineProgram({
    name,
    title,
    tasks: [
      REAPER,
      {
        name: 'driver',
        operations: [
          { name: 'mutex', run: holdMutex },
          { name: 'fault', run: fault },
        ],
      },
    ],
    ...common,
    setup: setupMixed(form),
    check: checkActive,
    isBroken: form === undefined,
    outcomes: [AGREED, REFUSED],
  });

export const REFUSAL_PROGRAMS: readonly ExploreProgram[] = [
  lt13('lt-13', 'one notifier refuses: the core calls the ends of all'),
  lt13('lt-13-unpaired', 'one notifier refuses, and the others wait for an end', LIST_UNPAIRED),
  lt13('lt-13-refused', 'a list of two is not asked if nobody may block', LIST_REFUSE_SHARED),
  lt16('lt-16', "a notifier refuses after the intervals' core has counted the invalidation"),
  lt16('lt-16-mended', 'as lt-16, and the count is given back', LIST_END_BOTH),
  defineProgram({
    name: 'lt-14',
    title: 'a notifier is asked to invalidate while the holder of its mutex waits for memory',
    tasks: [task('allocator', allocateLocked), REAPER],
    ...common,
    setup: setupRefusing,
    outcomes: [AGREED, REFUSED],
  }),
  defineProgram({
    name: 'lt-14-interval',
    title: 'as lt-14, with an interval: the core does not watch over its callback',
    tasks: [task('allocator', allocateLocked), REAPER],
    ...common,
    setup: setupInterval,
    check: checkActive,
    outcomes: [AGREED, REFUSED],
  }),
];
