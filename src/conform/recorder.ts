/**
 * The driver of a case: it keeps no device, logs every callback, and does in it what the case has armed.
 *
 * Protocol   A callback of an interval does what is armed, then logs, then stores the sequence; start and end of
 *            the list log first. What is armed is done once, by the first callback that fits; a refusal stays.
 *
 * @module
 */
import {
  cmpxchg,
  exchange,
  fetchAdd,
  read,
  readAddress,
  readOnce,
  write,
  writeAddress,
} from '#memory';

import { EAGAIN, ESRCH } from '../base/errno.js';
import { PAGE_SIZE } from '../base/units.js';
import type { Cpu } from '../machine/cpu.js';
import { defineKernelOps } from '../machine/ops-table.js';
import { kfree, kzalloc } from '../machine/slab.js';
import { containerOf, element, member, NULL, type Va } from '../memory/layout.js';
import type { MmStruct } from '../mm/types.js';
import {
  mmuIntervalNotifierInsert,
  type MmuIntervalNotifierOps,
  mmuIntervalNotifierRemove,
  mmuIntervalSetSeq,
} from '../notifier/mmu-interval-notifier.js';
import type { MmuNotifierOps } from '../notifier/mmu-notifier-list.js';
import { mmuNotifierRangeBlockable, VA_MAX } from '../notifier/mmu-notifier-range.js';
import { MmuIntervalNotifier, type MmuNotifier, MmuNotifierRange } from '../notifier/types.js';
import { complete, waitForCompletion } from '../sync/completion.js';
import {
  ConformEvent,
  ConformHook,
  ConformInterval,
  ConformListener,
  ConformWorld,
  EVENT_KINDS,
  type EventKind,
  HOOK_ACTIONS,
  type HOOK_KINDS,
  hookOf,
  nextEvent,
} from './world.js';

const PAUSE = HOOK_ACTIONS.indexOf('pause');
const INSERT = HOOK_ACTIONS.indexOf('insert');
const INSERT_REMOVE = HOOK_ACTIONS.indexOf('insert_remove');
const FAIL = HOOK_ACTIONS.indexOf('fail');
const FAIL_NONBLOCK = HOOK_ACTIONS.indexOf('fail_nonblock');

/** The id of an interval that belongs to one operation: its callbacks are not logged. */
const UNNAMED = -1;

export const recorder: MmuIntervalNotifierOps = defineKernelOps({
  opsName: 'conform interval',
  invalidate(
    cpu: Cpu,
    interval: MmuIntervalNotifier,
    range: MmuNotifierRange,
    curSeq: number,
  ): boolean {
    const own: ConformInterval = containerOf(interval, ConformInterval.interval);
    const world = read(cpu, own, ConformInterval.world);
    const id = read(cpu, own, ConformInterval.id);
    const refuses =
      !mmuNotifierRangeBlockable(cpu, range) && isArmed(cpu, world, 'interval', FAIL_NONBLOCK, id);
    if (!refuses && id !== UNNAMED) runHook(cpu, world, 'interval', range, id);
    if (id !== UNNAMED) {
      const event = logRange(cpu, world, 'interval', range);
      if (event !== NULL) {
        write(cpu, event, ConformEvent.id, id);
        write(cpu, event, ConformEvent.seq, curSeq);
        const before = readOnce(cpu, interval, MmuIntervalNotifier.invalidateSeq);
        write(cpu, event, ConformEvent.prevSeq, before);
        if (refuses) write(cpu, event, ConformEvent.answer, -EAGAIN);
      }
    }
    if (!refuses) mmuIntervalSetSeq(cpu, interval, curSeq);
    return !refuses;
  },
});

export const listRecorder: MmuNotifierOps = defineKernelOps({
  opsName: 'conform list',
  release(cpu: Cpu, notifier: MmuNotifier, mm: MmStruct): void {
    const world = worldOf(cpu, notifier);
    const event = nextEvent(cpu, world);
    if (event === NULL) return;
    write(cpu, event, ConformEvent.kind, EVENT_KINDS.indexOf('release'));
    write(cpu, event, ConformEvent.mm, mm);
    runHook(cpu, world, 'release', NULL, UNNAMED);
  },
  invalidateRangeStart(cpu: Cpu, notifier: MmuNotifier, range: MmuNotifierRange): number {
    const world = worldOf(cpu, notifier);
    logRange(cpu, world, 'start', range);
    if (mmuNotifierRangeBlockable(cpu, range)) runHook(cpu, world, 'start', range, UNNAMED);
    return 0;
  },
  invalidateRangeEnd(cpu: Cpu, notifier: MmuNotifier, range: MmuNotifierRange): void {
    const world = worldOf(cpu, notifier);
    logRange(cpu, world, 'end', range);
    if (mmuNotifierRangeBlockable(cpu, range)) runHook(cpu, world, 'end', range, UNNAMED);
  },
  clearFlushYoung: young('clear_flush_young'),
  clearYoung: young('clear_young'),
  testYoung(cpu: Cpu, notifier: MmuNotifier, mm: MmStruct, va: Va): boolean {
    logSpan(cpu, worldOf(cpu, notifier), 'test_young', mm, va, va + 1);
    return false;
  },
});

/** A device without accesses of its own is never young. */
function young(kind: EventKind) {
  return (cpu: Cpu, notifier: MmuNotifier, mm: MmStruct, start: Va, end: Va): boolean => {
    logSpan(cpu, worldOf(cpu, notifier), kind, mm, start, end);
    return false;
  };
}

export const tlbRecorder: MmuNotifierOps = defineKernelOps({
  opsName: 'conform secondary TLB',
  archInvalidateSecondaryTlbs(
    cpu: Cpu,
    notifier: MmuNotifier,
    mm: MmStruct,
    start: Va,
    end: Va,
  ): void {
    logSpan(cpu, worldOf(cpu, notifier), 'tlb', mm, start, end);
  },
});

function worldOf(cpu: Cpu, notifier: MmuNotifier): ConformWorld {
  const listener: ConformListener = containerOf(notifier, ConformListener.notifier);
  return read(cpu, listener, ConformListener.world);
}

function logRange(
  cpu: Cpu,
  world: ConformWorld,
  kind: EventKind,
  range: MmuNotifierRange,
): ConformEvent {
  const mm = read(cpu, range, MmuNotifierRange.mm);
  const start = readAddress(cpu, range, MmuNotifierRange.start);
  const end = readAddress(cpu, range, MmuNotifierRange.end);
  const event = logSpan(cpu, world, kind, mm, start, end);
  if (event === NULL) return NULL;
  write(cpu, event, ConformEvent.event, read(cpu, range, MmuNotifierRange.event));
  write(cpu, event, ConformEvent.blockable, mmuNotifierRangeBlockable(cpu, range) ? 1 : 0);
  write(cpu, event, ConformEvent.owner, read(cpu, range, MmuNotifierRange.owner));
  return event;
}

/** Logs a callback about [start, end) of an address space; NULL if the log is full. Never sleeps. */
export function logSpan(
  cpu: Cpu,
  world: ConformWorld,
  kind: EventKind,
  mm: MmStruct,
  start: Va,
  end: Va,
): ConformEvent {
  const event = nextEvent(cpu, world);
  if (event === NULL) return NULL;
  write(cpu, event, ConformEvent.kind, EVENT_KINDS.indexOf(kind));
  write(cpu, event, ConformEvent.mm, mm);
  writeAddress(cpu, event, ConformEvent.start, start);
  writeAddress(cpu, event, ConformEvent.end, Math.min(end, VA_MAX));
  return event;
}

/** Logs a callback of a device about a page. Never sleeps. */
export function logDevice(
  cpu: Cpu,
  world: ConformWorld,
  kind: 'migrate_to_ram' | 'page_free',
  mm: MmStruct,
  va: Va,
  device: number,
  isWrite: boolean,
): void {
  const event = logSpan(cpu, world, kind, mm, va, va + PAGE_SIZE);
  if (event === NULL) return;
  write(cpu, event, ConformEvent.id, device);
  write(cpu, event, ConformEvent.event, isWrite ? 1 : 0);
}

// --- what is armed ---

type HookKind = (typeof HOOK_KINDS)[number];

/** True if callbacks of the kind are to do that, for this interval. */
function isArmed(
  cpu: Cpu,
  world: ConformWorld,
  kind: HookKind,
  action: number,
  id: number,
): boolean {
  const hook = hookOf(world, kind);
  if (readOnce(cpu, hook, ConformHook.action) !== action) return false;
  const only = read(cpu, hook, ConformHook.id);
  return only < 0 || only === id;
}

/** Does what is armed for faults on device memory. May sleep. */
export function runDeviceHook(cpu: Cpu, world: ConformWorld): void {
  runHook(cpu, world, 'migrate_to_ram', NULL, UNNAMED);
}

/** True if faults on device memory are to fail. */
export function armsFailure(cpu: Cpu, world: ConformWorld): boolean {
  return isArmed(cpu, world, 'migrate_to_ram', FAIL, UNNAMED);
}

/** Does what is armed for callbacks of the kind, if this one fits. May sleep. */
function runHook(
  cpu: Cpu,
  world: ConformWorld,
  kind: HookKind,
  range: MmuNotifierRange,
  id: number,
): void {
  const hook = hookOf(world, kind);
  const action = readOnce(cpu, hook, ConformHook.action);
  if (action !== PAUSE && action !== INSERT && action !== INSERT_REMOVE) return;
  const event = read(cpu, hook, ConformHook.event);
  if (event >= 0 && (range === NULL || read(cpu, range, MmuNotifierRange.event) !== event)) return;
  const only = read(cpu, hook, ConformHook.id);
  if (only >= 0 && only !== id) return;
  if (cmpxchg(cpu, hook, ConformHook.action, action, 0) !== action) return; // once
  if (action === PAUSE) pause(cpu, world);
  else if (range !== NULL) insertFromCallback(cpu, world, hook, range, action === INSERT_REMOVE);
}

/** Holds the callback up until somebody lets it go on. Sleeps. */
function pause(cpu: Cpu, world: ConformWorld): void {
  fetchAdd(cpu, world, ConformWorld.pausedCount, 1);
  complete(cpu, member(world, ConformWorld.paused));
  waitForCompletion(cpu, member(world, ConformWorld.goOn));
}

/** Lets all callbacks go on that are held up. */
export function resumePaused(cpu: Cpu, world: ConformWorld): void {
  const count = exchange(cpu, world, ConformWorld.pausedCount, 0);
  for (let i = 0; i < count; i++) complete(cpu, member(world, ConformWorld.goOn));
}

/** Waits until a callback is held up. Sleeps. */
export function awaitPaused(cpu: Cpu, world: ConformWorld): void {
  waitForCompletion(cpu, member(world, ConformWorld.paused));
}

function insertFromCallback(
  cpu: Cpu,
  world: ConformWorld,
  hook: ConformHook,
  range: MmuNotifierRange,
  removes: boolean,
): void {
  const mm = read(cpu, range, MmuNotifierRange.mm);
  const id = read(cpu, hook, ConformHook.newId);
  const start = readAddress(cpu, hook, ConformHook.newStart);
  const end = readAddress(cpu, hook, ConformHook.newEnd);
  const error = insertInterval(cpu, world, mm, id, start, end - start);
  if (error === 0 && removes) removeInterval(cpu, world, id);
  const event = logSpan(cpu, world, 'hook', mm, start, end);
  if (event !== NULL) write(cpu, event, ConformEvent.answer, error);
}

// --- intervals ---

/** Registers interval `id`: 0 or -errno. No mmap lock held, but by a callback that is to show what that does. Sleeps. */
export function insertInterval(
  cpu: Cpu,
  world: ConformWorld,
  mm: MmStruct,
  id: number,
  start: Va,
  length: number,
): number {
  const own = newInterval(cpu, world, mm, id, start, length);
  if (own < 0) return own;
  if (id >= 0) write(cpu, world, element(ConformWorld.intervals, id), own);
  return 0;
}

/** An interval that is registered, or -errno. */
function newInterval(
  cpu: Cpu,
  world: ConformWorld,
  mm: MmStruct,
  id: number,
  start: Va,
  length: number,
): ConformInterval {
  const own = kzalloc(cpu, ConformInterval);
  write(cpu, own, ConformInterval.world, world);
  write(cpu, own, ConformInterval.id, id);
  const interval = member(own, ConformInterval.interval);
  const error = mmuIntervalNotifierInsert(cpu, interval, mm, start, length, recorder);
  if (error === 0) return own;
  kfree(cpu, ConformInterval, own);
  return error as ConformInterval;
}

/** Takes it away again: 0, or -ESRCH if there is none. Sleeps. */
export function removeInterval(cpu: Cpu, world: ConformWorld, id: number): number {
  const own = exchange(cpu, world, element(ConformWorld.intervals, id), 0) as ConformInterval;
  if (own === 0) return -ESRCH;
  mmuIntervalNotifierRemove(cpu, member(own, ConformInterval.interval));
  kfree(cpu, ConformInterval, own);
  return 0;
}

/** An interval for one operation, which nobody hears of; NULL if there can be none. Sleeps. */
export function insertUnnamed(
  cpu: Cpu,
  world: ConformWorld,
  mm: MmStruct,
  start: Va,
  length: number,
): ConformInterval {
  const own = newInterval(cpu, world, mm, UNNAMED, start, length);
  return own < 0 ? NULL : own;
}

/** Ends it. Sleeps. */
export function removeUnnamed(cpu: Cpu, own: ConformInterval): void {
  mmuIntervalNotifierRemove(cpu, member(own, ConformInterval.interval));
  kfree(cpu, ConformInterval, own);
}
