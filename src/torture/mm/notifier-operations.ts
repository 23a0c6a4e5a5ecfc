/**
 * Notifiers of address spaces come and go while these change and end.
 *
 * Protocol   own        registered, and unregistered by whoever takes it out of the world's table; then it is
 *                       retired and freed. Some have a start and an end, some a start alone: these refuse now and
 *                       then what may not block (so the list has the form in which that harms nobody: LT-16).
 *            shared     got, and put; the last put frees it, a grace period later
 *            interval   over some pages; inserted, read, removed
 * Invariant  I1  No method runs for a notifier that is retired (INV-12, INV-22).
 *            I2  A notifier is told no more ends than starts, and as many while nobody can be inside (INV-14).
 *            I3  Who is not told to retry has missed no invalidation (INV-19): between begin and retry the
 *                interval's own callback has not run. And no read begins while an invalidation that has been
 *                through that callback is under way (LT-5): the mm's sequence only goes up.
 *
 * @module
 */
import { reachPoint } from '#debug';
import { fetchAdd, read, readOnce, write, writeOnce } from '#memory';

import { bug } from '../../base/bug.js';
import { EAGAIN } from '../../base/errno.js';
import type { Cpu } from '../../machine/cpu.js';
import { lockClass } from '../../machine/lock-class.js';
import { defineKernelOps } from '../../machine/ops-table.js';
import { kfree, kzalloc } from '../../machine/slab.js';
import {
  type ArrayField,
  containerOf,
  element,
  member as memberOf,
  NULL,
  type Ptr,
  struct,
  word,
} from '../../memory/layout.js';
import { mmapReadLock, mmapReadUnlock } from '../../mm/mmap-lock.js';
import type { MmStruct } from '../../mm/types.js';
import {
  mmuIntervalNotifierInsert,
  type MmuIntervalNotifierOps,
  mmuIntervalNotifierRemove,
  mmuIntervalReadBegin,
  mmuIntervalReadRetry,
  mmuIntervalSetSeq,
} from '../../notifier/mmu-interval-notifier.js';
import {
  mmuNotifierClearFlushYoung,
  mmuNotifierClearYoung,
  type MmuNotifierOps,
  mmuNotifierTestYoung,
} from '../../notifier/mmu-notifier-list.js';
import { mmuNotifierRangeBlockable } from '../../notifier/mmu-notifier-range.js';
import {
  mmuNotifierGet,
  mmuNotifierPut,
  mmuNotifierRegister,
  mmuNotifierSynchronize,
  mmuNotifierUnregister,
} from '../../notifier/mmu-notifier-register.js';
import {
  MmuIntervalNotifier,
  MmuNotifier,
  type MmuNotifierRange,
  MmuNotifierSubscriptions,
} from '../../notifier/types.js';
import { initMutex, Mutex, mutexLock, mutexTrylock, mutexUnlock } from '../../sync/mutex.js';
import { spinLock, spinUnlock } from '../../sync/spinlock.js';
import { bytesOf } from './content.js';
import { type Operation, someOf, type Stage } from './stage.js';
import { ALL_PAGES, NOTIFIERS_MAX, pageVa, World } from './world.js';

const ALIVE = 0xa11e;
/** One start in so many that may not block is refused. */
const REFUSE_ONE_IN = 4;

export const Listener = struct('torture_listener', {
  notifier: MmuNotifier,
  alive: word, // ALIVE until it is retired; marked
  starts: word, // atomic, as all below
  ends: word,
  releases: word,
});
export type Listener = Ptr<'torture_listener'>;

const Watcher = struct('torture_watcher', {
  interval: MmuIntervalNotifier,
  lock: Mutex, // the driver's: the interval's sequence
  alive: word, // as above
  calls: word, // under lock
});
type Watcher = Ptr<'torture_watcher'>;

const WATCHER_LOCK = lockClass('torture_watcher->lock');

// --- what they are told ---

/** Whose method runs: alive when it begins, and a while later (I1). */
function listenerOf(cpu: Cpu, notifier: MmuNotifier): Listener {
  const listener: Listener = containerOf(notifier, Listener.notifier);
  checkAlive(cpu, listener);
  reachPoint(cpu, 'a notifier is told');
  checkAlive(cpu, listener);
  return listener;
}

function checkAlive(cpu: Cpu, listener: Listener): void {
  if (readOnce(cpu, listener, Listener.alive) === ALIVE) return;
  bug('INV-12: a method of a notifier runs that has been unregistered');
}

function countStart(cpu: Cpu, notifier: MmuNotifier): number {
  fetchAdd(cpu, listenerOf(cpu, notifier), Listener.starts, 1);
  return 0;
}

function countEnd(cpu: Cpu, notifier: MmuNotifier): void {
  fetchAdd(cpu, listenerOf(cpu, notifier), Listener.ends, 1);
}

function countRelease(cpu: Cpu, notifier: MmuNotifier): void {
  fetchAdd(cpu, listenerOf(cpu, notifier), Listener.releases, 1);
}

function isYoung(cpu: Cpu, notifier: MmuNotifier): boolean {
  return (readOnce(cpu, listenerOf(cpu, notifier), Listener.starts) & 1) !== 0;
}

const pairedOps: MmuNotifierOps = defineKernelOps({
  opsName: 'torture: told starts and ends',
  release: countRelease,
  invalidateRangeStart: countStart,
  invalidateRangeEnd: countEnd,
  clearFlushYoung: isYoung,
  clearYoung: isYoung,
  testYoung: isYoung,
});

const refusingOps: MmuNotifierOps = defineKernelOps({
  opsName: 'torture: refuses',
  release: countRelease,
  invalidateRangeStart(cpu: Cpu, notifier: MmuNotifier, range: MmuNotifierRange) {
    const before = fetchAdd(cpu, listenerOf(cpu, notifier), Listener.starts, 1);
    if (mmuNotifierRangeBlockable(cpu, range)) return 0;
    return before % REFUSE_ONE_IN === 0 ? -EAGAIN : 0;
  },
});

const walkingOps: MmuNotifierOps = defineKernelOps({
  opsName: 'torture: walks the page table',
  release: countRelease,
  archInvalidateSecondaryTlbs: countEnd,
});

const sharedOps: MmuNotifierOps = defineKernelOps({
  opsName: 'torture: shared by get',
  release: countRelease,
  invalidateRangeStart: countStart,
  invalidateRangeEnd: countEnd,
  allocNotifier(cpu: Cpu) {
    const listener = makeListener(cpu);
    return listener === NULL ? NULL : memberOf(listener, Listener.notifier);
  },
  freeNotifier(cpu: Cpu, notifier: MmuNotifier) {
    retire(cpu, listenerOf(cpu, notifier)); // I3 of mmu-notifier-register.ts: once
  },
});

const OWN_OPS = [pairedOps, refusingOps, walkingOps] as const;

function makeListener(cpu: Cpu): Listener {
  const listener = kzalloc(cpu, Listener);
  if (listener !== NULL) writeOnce(cpu, listener, Listener.alive, ALIVE);
  return listener;
}

function retire(cpu: Cpu, listener: Listener): void {
  writeOnce(cpu, listener, Listener.alive, 0);
  kfree(cpu, Listener, listener);
}

// --- tables of those that are there ---

type Table = ArrayField<'torture_mm_world'>;

/** Puts something into a table; false if it is full. */
function keep(cpu: Cpu, world: World, table: Table, what: number): boolean {
  const lock = memberOf(world, World.lock);
  let slot = 0;
  spinLock(cpu, lock);
  while (slot < NOTIFIERS_MAX && read(cpu, world, element(table, slot)) !== 0) slot++;
  if (slot < NOTIFIERS_MAX) write(cpu, world, element(table, slot), what);
  spinUnlock(cpu, lock);
  return slot < NOTIFIERS_MAX;
}

/** Takes what is in a slot, for oneself; 0 if there is nothing. */
function take(cpu: Cpu, world: World, table: Table, slot: number): number {
  const lock = memberOf(world, World.lock);
  spinLock(cpu, lock);
  const what = read(cpu, world, element(table, slot));
  write(cpu, world, element(table, slot), 0);
  spinUnlock(cpu, lock);
  return what;
}

// --- notifiers of one's own ---

function register(cpu: Cpu, { world, member, at }: Stage): boolean {
  const listener = makeListener(cpu);
  if (listener === NULL) return false;
  const ops = OWN_OPS[member.random(OWN_OPS.length)] ?? pairedOps;
  if (mmuNotifierRegister(cpu, memberOf(listener, Listener.notifier), at.mm, ops) !== 0) {
    retire(cpu, listener);
    return false;
  }
  if (!keep(cpu, world, World.notifiers, listener)) unregisterListener(cpu, listener);
  return true;
}

function unregister(cpu: Cpu, { world, member }: Stage): boolean {
  const listener = take(cpu, world, World.notifiers, member.random(NOTIFIERS_MAX)) as Listener;
  if (listener === NULL) return false;
  unregisterListener(cpu, listener);
  return true;
}

function unregisterListener(cpu: Cpu, listener: Listener): void {
  const notifier = memberOf(listener, Listener.notifier);
  mmuNotifierUnregister(cpu, notifier, read(cpu, notifier, MmuNotifier.mm));
  if (readOnce(cpu, listener, Listener.releases) === 0) {
    bug('INV-15: a notifier is unregistered, and was never released');
  }
  retire(cpu, listener);
}

/**
 * What is wrong with how often those of an address space were told starts and ends; undefined if nothing is. The
 * mmap lock must be held for writing: nobody can be between a start and its end.
 */
export function checkBalance(cpu: Cpu, world: World, mm: MmStruct): string | undefined {
  const lock = memberOf(world, World.lock);
  let found: string | undefined;
  spinLock(cpu, lock);
  for (let slot = 0; slot < NOTIFIERS_MAX; slot++) {
    const listener = read(cpu, world, element(World.notifiers, slot)) as Listener;
    if (listener === NULL) continue;
    const notifier = memberOf(listener, Listener.notifier);
    if (read(cpu, notifier, MmuNotifier.mm) !== mm) continue;
    const starts = readOnce(cpu, listener, Listener.starts);
    const ends = readOnce(cpu, listener, Listener.ends);
    if (starts > 0 && ends > 0 && starts !== ends) found = `INV-14: ${starts} starts, ${ends} ends`;
  }
  spinUnlock(cpu, lock);
  return found;
}

// --- one for an address space ---

function get(cpu: Cpu, { world, at }: Stage): boolean {
  const notifier = mmuNotifierGet(cpu, sharedOps, at.mm);
  if (notifier < 0) return false;
  if (!keep(cpu, world, World.shares, notifier)) mmuNotifierPut(cpu, notifier);
  return true;
}

function put(cpu: Cpu, { world, member }: Stage): boolean {
  const notifier = take(cpu, world, World.shares, member.random(NOTIFIERS_MAX)) as MmuNotifier;
  if (notifier === NULL) return false;
  mmuNotifierPut(cpu, notifier);
  return true;
}

function synchronize(cpu: Cpu): boolean {
  mmuNotifierSynchronize(cpu);
  return true;
}

/** Asks devices whether they have used some pages. */
function age(cpu: Cpu, { at, member }: Stage): boolean {
  const { first, pages } = someOf(member, ALL_PAGES, 8);
  const start = pageVa(first);
  mmapReadLock(cpu, at.mm);
  const way = member.random(3);
  if (way === 0) mmuNotifierClearFlushYoung(cpu, at.mm, start, start + bytesOf(pages));
  else if (way === 1) mmuNotifierClearYoung(cpu, at.mm, start, start + bytesOf(pages));
  else mmuNotifierTestYoung(cpu, at.mm, start);
  mmapReadUnlock(cpu, at.mm);
  return true;
}

// --- intervals ---

const watcherOps: MmuIntervalNotifierOps = defineKernelOps({
  opsName: 'torture: watcher',
  invalidate(cpu: Cpu, interval: MmuIntervalNotifier, range: MmuNotifierRange, seq: number) {
    const watcher: Watcher = containerOf(interval, Watcher.interval);
    if (readOnce(cpu, watcher, Watcher.alive) !== ALIVE) {
      bug('INV-22: the callback of an interval runs that has been removed');
    }
    const lock = memberOf(watcher, Watcher.lock);
    if (mmuNotifierRangeBlockable(cpu, range)) mutexLock(cpu, lock);
    else if (!mutexTrylock(cpu, lock)) return false;
    mmuIntervalSetSeq(cpu, interval, seq);
    write(cpu, watcher, Watcher.calls, read(cpu, watcher, Watcher.calls) + 1);
    mutexUnlock(cpu, lock);
    return true;
  },
});

function insert(cpu: Cpu, { world, member, at }: Stage): boolean {
  const watcher = kzalloc(cpu, Watcher);
  if (watcher === NULL) return false;
  initMutex(cpu, memberOf(watcher, Watcher.lock), WATCHER_LOCK);
  writeOnce(cpu, watcher, Watcher.alive, ALIVE);
  const { first, pages } = someOf(member, ALL_PAGES, 30);
  const interval = memberOf(watcher, Watcher.interval);
  const start = pageVa(first);
  const error = mmuIntervalNotifierInsert(cpu, interval, at.mm, start, bytesOf(pages), watcherOps);
  if (error !== 0) {
    kfree(cpu, Watcher, watcher);
    return false;
  }
  if (!keep(cpu, world, World.intervals, watcher)) removeWatcher(cpu, watcher);
  return true;
}

function remove(cpu: Cpu, { world, member }: Stage): boolean {
  const watcher = take(cpu, world, World.intervals, member.random(NOTIFIERS_MAX)) as Watcher;
  if (watcher === NULL) return false;
  removeWatcher(cpu, watcher);
  return true;
}

function removeWatcher(cpu: Cpu, watcher: Watcher): void {
  mmuIntervalNotifierRemove(cpu, memberOf(watcher, Watcher.interval));
  writeOnce(cpu, watcher, Watcher.alive, 0);
  kfree(cpu, Watcher, watcher);
}

/** Begins a read, waits a while, and asks whether it must be made again (I3). */
function readThrough(cpu: Cpu, { world, member }: Stage): boolean {
  const watcher = take(cpu, world, World.intervals, member.random(NOTIFIERS_MAX)) as Watcher;
  if (watcher === NULL) return false;
  const interval = memberOf(watcher, Watcher.interval);
  const lock = memberOf(watcher, Watcher.lock);
  const seq = mmuIntervalReadBegin(cpu, interval);
  const subscriptions = read(cpu, interval, MmuIntervalNotifier.subscriptions);
  if (readOnce(cpu, subscriptions, MmuNotifierSubscriptions.invalidateSeq) === seq) {
    member.fail('a read begins in an invalidation that has hit its interval', 'LT-5');
  }
  mutexLock(cpu, lock);
  const calls = read(cpu, watcher, Watcher.calls);
  const isFresh = !mmuIntervalReadRetry(cpu, interval, seq);
  mutexUnlock(cpu, lock);
  member.noise(cpu);
  mutexLock(cpu, lock);
  const mayGoOn = !mmuIntervalReadRetry(cpu, interval, seq);
  const missed = read(cpu, watcher, Watcher.calls) - calls;
  mutexUnlock(cpu, lock);
  if (isFresh && mayGoOn && missed !== 0) {
    member.fail(`${missed} invalidations of an interval were missed by a read`, 'INV-19');
  }
  if (!keep(cpu, world, World.intervals, watcher)) removeWatcher(cpu, watcher);
  return true;
}

export const NOTIFIER_OPERATIONS: readonly Operation[] = [
  { name: 'notifier_register', run: register },
  { name: 'notifier_unregister', run: unregister },
  { name: 'notifier_get', run: get },
  { name: 'notifier_put', run: put },
  { name: 'notifier_synchronize', run: synchronize },
  { name: 'notifier_young', run: age },
  { name: 'interval_insert', run: insert },
  { name: 'interval_remove', run: remove },
  { name: 'interval_read', run: readThrough },
];

/** Ends all that are left. Nobody may be running: what is put last is freed by whoever runs work items next. */
export function endNotifiers(cpu: Cpu, world: World): void {
  for (let slot = 0; slot < NOTIFIERS_MAX; slot++) {
    const listener = take(cpu, world, World.notifiers, slot) as Listener;
    if (listener !== NULL) unregisterListener(cpu, listener);
    const watcher = take(cpu, world, World.intervals, slot) as Watcher;
    if (watcher !== NULL) removeWatcher(cpu, watcher);
  }
  for (let slot = 0; slot < NOTIFIERS_MAX; slot++) {
    const shared = take(cpu, world, World.shares, slot) as MmuNotifier;
    if (shared !== NULL) mmuNotifierPut(cpu, shared);
  }
}
