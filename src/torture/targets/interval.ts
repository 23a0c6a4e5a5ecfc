/**
 * Target `interval`: device faults and invalidations of the same pages by the collision-retry protocol, while other
 * intervals come and go.
 *
 * Protocol   fault                              invalidation                       comes and goes
 *              seq = read_begin                   start: callbacks of all in range   insert an interval
 *              frame = CPU's page                   under the driver's lock: set_seq,  remove it; free it
 *              driver's lock                        the device's pages go
 *              retry? start over                  the CPU's pages change
 *              device's page := frame             end
 * Invariant  I1  From the return of start to end no page in the range is the device's (INV-20): so at any time the
 *                device has what the CPU has, or nothing.
 *            I2  Once an interval has been removed, its callback does not run (INV-22).
 *            I3  At rest nothing is counted and nothing is deferred (INV-21).
 *
 * @module
 */
import { fetchAdd, read, readOnce, write, writeOnce } from '#memory';
import { isMutant, M_8, M_9 } from '#mutants';

import { bug } from '../../base/bug.js';
import { PAGE_SIZE } from '../../base/units.js';
import type { Cpu } from '../../machine/cpu.js';
import { lockClass } from '../../machine/lock-class.js';
import { defineKernelOps } from '../../machine/ops-table.js';
import { kfree, kzalloc } from '../../machine/slab.js';
import { stackPop, stackPush } from '../../machine/stack.js';
import {
  cacheline,
  containerOf,
  element,
  member as at,
  NULL,
  pointer,
  type Ptr,
  struct,
  word,
  words,
} from '../../memory/layout.js';
import { mmput } from '../../mm/exit.js';
import { mmAlloc } from '../../mm/mm-struct.js';
import { MmStruct } from '../../mm/types.js';
import {
  mmuIntervalNotifierInsert,
  mmuIntervalNotifierRemove,
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
import { initSpinlock, Spinlock, spinLock, spinTrylock, spinUnlock } from '../../sync/spinlock.js';
import type { TortureMember, TortureTarget } from '../target.js';

const PAGES = 8;
const BASE = 0x10000;

const World = struct('torture_interval_world', {
  interval: MmuIntervalNotifier,
  line1: cacheline,
  lock: Spinlock, // the driver's: devicePages, and the interval's sequence
  mm: pointer<'mm_struct'>(),
  line2: cacheline,
  cpuPages: words(PAGES), // frame of each page; changed within invalidations; marked
  line3: cacheline,
  devicePages: words(PAGES), // frame that the device has, 0 = none; written under lock; marked
  line4: cacheline,
  frames: word, // given out so far; atomic
});
type World = Ptr<'torture_interval_world'>;

/** An interval that comes and goes. */
const Guest = struct('torture_guest', {
  interval: MmuIntervalNotifier,
  alive: word, // HERE until it has been removed; marked
});
type Guest = Ptr<'torture_guest'>;
const HERE = 0x6e57;

const FAULT = 0;
const RETRY = 1;
const INVALIDATE = 2;
const REFUSED = 3;
const GUEST = 4;

/** One invalidation in so many may not block. */
const ATOMIC_ONE_IN = 8;
const DRIVER_LOCK = lockClass('torture_driver->lock');

export const tortureInterval = defineKernelOps({
  opsName: 'torture: interval',
  invalidate(cpu: Cpu, interval: MmuIntervalNotifier, range: MmuNotifierRange, seq: number) {
    const world: World = containerOf(interval, World.interval);
    const lock = at(world, World.lock);
    const mayBlock = (read(cpu, range, MmuNotifierRange.flags) & 1) !== 0;
    if (mayBlock) spinLock(cpu, lock);
    else if (!spinTrylock(cpu, lock)) return false;
    if (!isMutant(cpu, M_8)) mmuIntervalSetSeq(cpu, interval, seq);
    const { first, last } = pagesOf(cpu, range);
    for (let page = first; page <= last; page++) {
      writeOnce(cpu, world, element(World.devicePages, page), 0);
    }
    spinUnlock(cpu, lock);
    if (isMutant(cpu, M_8)) {
      if (cpu.points !== null) cpu.points.reach('the lock is back, the sequence is not set');
      mmuIntervalSetSeq(cpu, interval, seq);
    }
    return true;
  },
});

export const tortureGuest = defineKernelOps({
  opsName: 'torture: guest',
  invalidate(cpu: Cpu, interval: MmuIntervalNotifier, _range: MmuNotifierRange, seq: number) {
    const guest: Guest = containerOf(interval, Guest.interval);
    if (readOnce(cpu, guest, Guest.alive) !== HERE) bug('INV-22: a callback after its removal');
    mmuIntervalSetSeq(cpu, interval, seq);
    if (cpu.points !== null) cpu.points.reach('a guest is called');
    if (readOnce(cpu, guest, Guest.alive) !== HERE) bug('INV-22: removed during its callback');
    return true;
  },
});

interface Pages {
  readonly first: number;
  readonly last: number;
}

function pagesOf(cpu: Cpu, range: MmuNotifierRange): Pages {
  const packed = read(cpu, range, MmuNotifierRange.owner);
  return { first: packed & 0xff, last: packed >>> 8 };
}

export const intervalTarget: TortureTarget = {
  name: 'interval',
  title: 'interval notifiers: device faults, invalidations, intervals that come and go',
  operations: ['fault', 'retry', 'invalidate', 'refused', 'insert and remove'],
  busted: ['M-2', 'M-4', 'M-5', 'M-6', 'M-7', 'M-8', 'M-9'],
  roles: ({ cpus }) => {
    const faults = Math.max(1, Math.floor((cpus - 1) / 2));
    return [
      ...new Array<string>(faults).fill('fault'),
      ...new Array<string>(Math.max(2, cpus - 1 - faults)).fill('invalidator'),
      'guest',
    ];
  },
  setup(cpu) {
    const world = kzalloc(cpu, World);
    const mm = mmAlloc(cpu);
    write(cpu, world, World.mm, mm);
    initSpinlock(cpu, at(world, World.lock), DRIVER_LOCK);
    for (let page = 0; page < PAGES; page++) {
      writeOnce(cpu, world, element(World.cpuPages, page), newFrame(cpu, world));
    }
    insert(cpu, world, at(world, World.interval), tortureInterval);
    return world;
  },
  enter: () => undefined,
  step(cpu, state, member) {
    const world = state as World;
    if (member.role === 'fault') fault(cpu, world, member);
    else if (member.role === 'invalidator') invalidate(cpu, world, member);
    else beGuest(cpu, world, member);
  },
  leave: () => undefined,
  teardown(cpu, state) {
    const world = state as World;
    const mm = read(cpu, world, World.mm);
    checkAtRest(cpu, read(cpu, mm, MmStruct.subscriptions));
    mmuIntervalNotifierRemove(cpu, at(world, World.interval));
    mmput(cpu, mm);
    kfree(cpu, World, world);
  },
};

function newFrame(cpu: Cpu, world: World): number {
  return fetchAdd(cpu, world, World.frames, 1) + 1;
}

function insert(
  cpu: Cpu,
  world: World,
  interval: MmuIntervalNotifier,
  ops: typeof tortureInterval,
): void {
  const mm = read(cpu, world, World.mm);
  const error = mmuIntervalNotifierInsert(cpu, interval, mm, BASE, PAGES * PAGE_SIZE, ops);
  if (error !== 0) bug(`an interval cannot be inserted: ${error}`);
}

function checkAtRest(cpu: Cpu, subscriptions: MmuNotifierSubscriptions): void {
  const active = read(cpu, subscriptions, MmuNotifierSubscriptions.activeInvalidateRanges);
  if (active !== 0) bug(`INV-21: ${active} invalidations are counted at rest`);
  const seq = read(cpu, subscriptions, MmuNotifierSubscriptions.invalidateSeq);
  if ((seq & 1) !== 0) bug('INV-21: the sequence is odd at rest');
}

// --- a device fault ---

function fault(cpu: Cpu, world: World, member: TortureMember): void {
  const start = member.now();
  const page = member.random(PAGES);
  const interval = at(world, World.interval);
  const lock = at(world, World.lock);
  const seq = mmuIntervalReadBegin(cpu, interval);
  const frame = readOnce(cpu, world, element(World.cpuPages, page));
  member.noise(cpu);
  const isLate = isMutant(cpu, M_9) && mmuIntervalReadRetry(cpu, interval, seq);
  if (isMutant(cpu, M_9)) member.noise(cpu);
  spinLock(cpu, lock);
  const mustRetry = isMutant(cpu, M_9) ? isLate : mmuIntervalReadRetry(cpu, interval, seq);
  member.noise(cpu);
  if (!mustRetry) map(cpu, world, page, frame, member);
  spinUnlock(cpu, lock);
  member.waited(member.now() - start);
  member.count(mustRetry ? RETRY : FAULT);
}

/** The driver's lock is held. A page that changes, or has changed, since it was read must not be mapped. */
function map(cpu: Cpu, world: World, page: number, frame: number, member: TortureMember): void {
  const now = readOnce(cpu, world, element(World.cpuPages, page));
  if (now !== frame) {
    member.fail(`interval: a fault maps frame ${frame} of a page that has ${now}`, 'INV-19');
  }
  writeOnce(cpu, world, element(World.devicePages, page), frame);
}

// --- an invalidation ---

function invalidate(cpu: Cpu, world: World, member: TortureMember): void {
  const start = member.now();
  const mm = read(cpu, world, World.mm);
  const subscriptions = read(cpu, mm, MmStruct.subscriptions);
  const first = member.random(PAGES);
  const last = first + member.random(PAGES - first);
  const range = stackPush(cpu, MmuNotifierRange);
  const end = BASE + (last + 1) * PAGE_SIZE;
  mmuNotifierRangeInit(cpu, range, MMU_NOTIFY_CLEAR, mm, BASE + first * PAGE_SIZE, end);
  write(cpu, range, MmuNotifierRange.owner, first | (last << 8));
  if (member.phase() === 0 && member.random(ATOMIC_ONE_IN) === 0) {
    write(cpu, range, MmuNotifierRange.flags, 0);
  }
  if (mnItreeInvalidate(cpu, subscriptions, range) !== 0) {
    stackPop(cpu, range);
    member.count(REFUSED);
    return;
  }
  checkUnmapped(cpu, world, first, last, member);
  for (let page = first; page <= last; page++) {
    writeOnce(cpu, world, element(World.cpuPages, page), newFrame(cpu, world));
  }
  member.noise(cpu);
  checkUnmapped(cpu, world, first, last, member);
  mnItreeInvEnd(cpu, subscriptions);
  stackPop(cpu, range);
  member.held(member.now() - start);
  member.count(INVALIDATE);
}

function checkUnmapped(
  cpu: Cpu,
  world: World,
  first: number,
  last: number,
  member: TortureMember,
): void {
  for (let page = first; page <= last; page++) {
    const frame = readOnce(cpu, world, element(World.devicePages, page));
    if (frame === 0) continue;
    member.fail(`interval: the device has a page that is being invalidated`, 'INV-20');
  }
}

// --- an interval that comes and goes ---

function beGuest(cpu: Cpu, world: World, member: TortureMember): void {
  const guest = kzalloc(cpu, Guest);
  if (guest === NULL) return;
  writeOnce(cpu, guest, Guest.alive, HERE);
  insert(cpu, world, at(guest, Guest.interval), tortureGuest);
  member.noise(cpu);
  const start = member.now();
  mmuIntervalNotifierRemove(cpu, at(guest, Guest.interval));
  member.waited(member.now() - start);
  writeOnce(cpu, guest, Guest.alive, 0);
  kfree(cpu, Guest, guest);
  member.count(GUEST);
}
