/**
 * The steps that a driver, or another process, performs on an address space: notifiers, intervals,
 * hmm_range_fault, hooks.
 *
 * @module
 */
import { read, readOnce, write, writeAddress } from '#memory';

import { EBUSY, EINVAL, ENOENT, ESRCH } from '../base/errno.js';
import { PAGE_SIZE } from '../base/units.js';
import { hmmRangeFault } from '../hmm/range-fault.js';
import { HMM_PFN_REQ_FAULT, HMM_PFN_REQ_WRITE, HmmPfn, HmmRange } from '../hmm/types.js';
import type { Cpu } from '../machine/cpu.js';
import { allocWords, freeWords, kfree, kzalloc } from '../machine/slab.js';
import { element, member, NULL } from '../memory/layout.js';
import { FOLL_PIN, FOLL_WRITE } from '../mm/gup.js';
import { mmapReadLock, mmapReadUnlock } from '../mm/mmap-lock.js';
import type { MmStruct } from '../mm/types.js';
import {
  mmuIntervalCheckRetry,
  mmuIntervalReadBegin,
  mmuIntervalReadRetry,
} from '../notifier/mmu-interval-notifier.js';
import { MMU_NOTIFY_NAMES } from '../notifier/mmu-notifier-range.js';
import { mmuNotifierRegister, mmuNotifierUnregister } from '../notifier/mmu-notifier-register.js';
import { MmuIntervalNotifier } from '../notifier/types.js';
import { DEVICE_STEPS } from './device-steps.js';
import { ownerOf } from './devices.js';
import { keepPage, putKept } from './kept-pages.js';
import {
  awaitPaused,
  insertInterval,
  insertUnnamed,
  listRecorder,
  removeInterval,
  removeUnnamed,
  resumePaused,
  tlbRecorder,
} from './recorder.js';
import { type PageState, statesOf } from './snapshot.js';
import { type Answer, lengthOf, numberOf, startOf, type StepInput, textOf } from './step.js';
import { eachPage, remoteStep } from './system-calls.js';
import {
  ConformHook,
  ConformInterval,
  ConformListener,
  ConformWorld,
  HOOK_ACTIONS,
  HOOK_KINDS,
  hookOf,
  IDS_MAX,
  isAlive,
  mmOf,
  vaOf,
} from './world.js';

/** Performs a step about a process. Sleeps. */
export type DriverStep = (cpu: Cpu, world: ConformWorld, proc: number, step: StepInput) => Answer;

/** The steps, by their names. */
export const DRIVER_STEPS: Readonly<Record<string, DriverStep>> = {
  attach,
  detach,
  interval_insert: insertStep,
  interval_remove: (cpu, world, _proc, step) => ({
    result: removeInterval(cpu, world, numberOf(step, 'id')) === 0 ? 0 : -ENOENT,
  }),
  interval_seq: (cpu, world, _proc, step) =>
    withInterval(cpu, world, step, (interval) => ({
      result: 0,
      seq: readOnce(cpu, interval, MmuIntervalNotifier.invalidateSeq),
    })),
  read_begin: (cpu, world, _proc, step) =>
    withInterval(cpu, world, step, (interval) => {
      const seq = mmuIntervalReadBegin(cpu, interval);
      write(cpu, world, element(ConformWorld.saved, numberOf(step, 'save')), seq);
      return { result: 0, seq };
    }),
  read_retry: (cpu, world, _proc, step) =>
    withInterval(cpu, world, step, (interval) => {
      const seq = read(cpu, world, element(ConformWorld.saved, numberOf(step, 'save')));
      const checkRetry = mmuIntervalCheckRetry(cpu, interval, seq);
      return { result: 0, retry: mmuIntervalReadRetry(cpu, interval, seq), checkRetry };
    }),
  hmm_range_fault: rangeFaultStep,
  gup_pin(cpu, world, proc, step) {
    const flags = FOLL_PIN | (textOf(step, 'flags') === 'read' ? 0 : FOLL_WRITE);
    const mm = mmOf(cpu, world, proc);
    return eachPage(step, (page) => keepPage(cpu, world, mm, page, flags));
  },
  gup_unpin(cpu, world) {
    putKept(cpu, world, FOLL_PIN);
    return { result: 0 };
  },
  remote_mem: (cpu, world, proc, step) => remoteStep(cpu, world, mmOf(cpu, world, proc), step),
  ...DEVICE_STEPS,
  hook: hookStep,
  wait_paused(cpu, world) {
    awaitPaused(cpu, world);
    return { result: 0 };
  },
  resume(cpu, world) {
    resumePaused(cpu, world);
    return { result: 0 };
  },
  wait_gone: () => ({ result: 0 }), // who performs it has waited for everybody
};

// --- notifiers ---

/** Registers what the step asks for with a process that has nothing yet. */
function attach(cpu: Cpu, world: ConformWorld, proc: number, step: StepInput): Answer {
  if (!isAlive(cpu, world, proc)) return { result: -ESRCH };
  const mm = mmOf(cpu, world, proc);
  const wants = [
    [ConformWorld.listeners, numberOf(step, 'list') !== 0, listRecorder],
    [ConformWorld.tlbListeners, true, tlbRecorder], // a recording does not say whether it was wanted
  ] as const;
  for (const [slots, isWanted, ops] of wants) {
    if (!isWanted || read(cpu, world, element(slots, proc)) !== 0) continue;
    const listener = kzalloc(cpu, ConformListener);
    write(cpu, listener, ConformListener.world, world);
    const notifier = member(listener, ConformListener.notifier);
    const error = mmuNotifierRegister(cpu, notifier, mm, ops);
    if (error !== 0) {
      kfree(cpu, ConformListener, listener);
      return { result: error };
    }
    write(cpu, world, element(slots, proc), listener);
  }
  return { result: 0 };
}

/** Ends all that is registered for a process. */
function detach(cpu: Cpu, world: ConformWorld, proc: number): Answer {
  const mm = mmOf(cpu, world, proc);
  for (let id = 0; id < IDS_MAX; id++) {
    const own = read(cpu, world, element(ConformWorld.intervals, id)) as ConformInterval;
    if (own === 0) continue;
    const interval = member(own, ConformInterval.interval);
    if (read(cpu, interval, MmuIntervalNotifier.mm) === mm) removeInterval(cpu, world, id);
  }
  for (const slots of [ConformWorld.listeners, ConformWorld.tlbListeners]) {
    const listener = read(cpu, world, element(slots, proc)) as ConformListener;
    if (listener === 0) continue;
    write(cpu, world, element(slots, proc), 0);
    mmuNotifierUnregister(cpu, member(listener, ConformListener.notifier), mm);
    kfree(cpu, ConformListener, listener);
  }
  return { result: 0 };
}

/** Ends all that is registered for a process, as the end of a case wants it. Sleeps. */
export function detachProcess(cpu: Cpu, world: ConformWorld, proc: number): void {
  if (mmOf(cpu, world, proc) !== NULL) detach(cpu, world, proc);
}

// --- intervals ---

const WHOLE_SPACE = 2 ** 48;

function insertStep(cpu: Cpu, world: ConformWorld, proc: number, step: StepInput): Answer {
  if (!isAlive(cpu, world, proc)) return { result: -ESRCH };
  const id = numberOf(step, 'id');
  const span = textOf(step, 'range');
  const start = span === 'all' ? 0 : startOf(step);
  const length = { all: WHOLE_SPACE, overflow: 2 ** 64 }[span] ?? lengthOf(step);
  const result = insertInterval(cpu, world, mmOf(cpu, world, proc), id, start, length);
  if (result !== 0) return { result };
  return withInterval(cpu, world, step, (interval) => ({
    result,
    seq: readOnce(cpu, interval, MmuIntervalNotifier.invalidateSeq),
  }));
}

function withInterval(
  cpu: Cpu,
  world: ConformWorld,
  step: StepInput,
  use: (interval: MmuIntervalNotifier) => Answer,
): Answer {
  const own = read(cpu, world, element(ConformWorld.intervals, numberOf(step, 'id')));
  if (own === 0) return { result: -ENOENT };
  return use(member(own as ConformInterval, ConformInterval.interval));
}

// --- hmm_range_fault ---

const REQUESTS: Readonly<Record<string, number>> = {
  snapshot: 0,
  read: HMM_PFN_REQ_FAULT,
  write: HMM_PFN_REQ_FAULT | HMM_PFN_REQ_WRITE,
  writeonly: HMM_PFN_REQ_WRITE,
};
const PER_PAGE: Readonly<Record<string, number>> = {
  r: HMM_PFN_REQ_FAULT,
  w: HMM_PFN_REQ_FAULT | HMM_PFN_REQ_WRITE,
};
const MASKS: Readonly<Record<string, number>> = { none: 0, read: HMM_PFN_REQ_FAULT };
const BOTH = HMM_PFN_REQ_FAULT | HMM_PFN_REQ_WRITE;

function rangeFaultStep(cpu: Cpu, world: ConformWorld, proc: number, step: StepInput): Answer {
  if (!isAlive(cpu, world, proc)) return { result: -ESRCH };
  const mm = mmOf(cpu, world, proc);
  const [at, pages] = [numberOf(step, 'at'), numberOf(step, 'n')];
  const named = numberOf(step, 'id', -1);
  const own =
    named < 0
      ? insertUnnamed(cpu, world, mm, vaOf(at), pages * PAGE_SIZE)
      : (read(cpu, world, element(ConformWorld.intervals, named)) as ConformInterval);
  if (own === 0) return { result: named < 0 ? -EINVAL : -ENOENT };
  const range = kzalloc(cpu, HmmRange);
  const pfns = allocWords(cpu, pages * HmmPfn.words);
  writeAddress(cpu, range, HmmRange.start, vaOf(at));
  writeAddress(cpu, range, HmmRange.end, vaOf(at + pages));
  write(cpu, range, HmmRange.notifier, member(own, ConformInterval.interval));
  write(cpu, range, HmmRange.pfns, pfns);
  write(cpu, range, HmmRange.defaultFlags, REQUESTS[textOf(step, 'req')] ?? 0);
  write(cpu, range, HmmRange.pfnFlagsMask, MASKS[textOf(step, 'mask')] ?? BOTH);
  write(cpu, range, HmmRange.devPrivateOwner, ownerOf(step));
  const answer = faultUntilDone(cpu, world, mm, range, step);
  if (named < 0) removeUnnamed(cpu, own);
  freeWords(cpu, pfns, pages * HmmPfn.words);
  kfree(cpu, HmmRange, range);
  return answer;
}

/** The loop that every driver makes around hmm_range_fault; with a saved sequence, one turn of it. */
function faultUntilDone(
  cpu: Cpu,
  world: ConformWorld,
  mm: MmStruct,
  range: HmmRange,
  step: StepInput,
): Answer {
  const [at, count] = [numberOf(step, 'at'), numberOf(step, 'n')];
  const interval = read(cpu, range, HmmRange.notifier);
  const pfns = read(cpu, range, HmmRange.pfns);
  const useSeq = numberOf(step, 'useSeq', -1);
  for (let tries = 1; ; tries++) {
    requestPages(cpu, pfns, count, textOf(step, 'per'));
    const seq =
      useSeq < 0
        ? mmuIntervalReadBegin(cpu, interval)
        : read(cpu, world, element(ConformWorld.saved, useSeq));
    write(cpu, range, HmmRange.notifierSeq, seq);
    mmapReadLock(cpu, mm);
    const result = hmmRangeFault(cpu, range);
    const pages: PageState[] = result === 0 ? statesOf(cpu, world, mm, pfns, at, count) : [];
    mmapReadUnlock(cpu, mm);
    const retry = mmuIntervalReadRetry(cpu, interval, seq);
    if (useSeq < 0 && (result === -EBUSY || (result === 0 && retry))) continue;
    return {
      result,
      tries,
      ...(useSeq >= 0 && { retry }),
      ...(result === 0 && { pages }),
    };
  }
}

function requestPages(cpu: Cpu, pfns: number, count: number, letters: string): void {
  for (let i = 0; i < count; i++) {
    const wanted = PER_PAGE[letters[i] ?? ''] ?? 0;
    write(cpu, (pfns + i * HmmPfn.words) as HmmPfn, HmmPfn.entry, wanted);
  }
}

// --- hooks ---

function hookStep(cpu: Cpu, world: ConformWorld, _proc: number, step: StepInput): Answer {
  const action = HOOK_ACTIONS.indexOf(textOf(step, 'action'));
  if (action <= 0) {
    for (const kind of HOOK_KINDS) write(cpu, hookOf(world, kind), ConformHook.action, 0);
    return { result: 0 };
  }
  const kind = HOOK_KINDS.find((one) => one === textOf(step, 'kind'));
  if (kind === undefined) return { result: -EINVAL };
  const hook = hookOf(world, kind);
  const event = MMU_NOTIFY_NAMES.findIndex((name) => name === textOf(step, 'event'));
  write(cpu, hook, ConformHook.event, event);
  write(cpu, hook, ConformHook.id, numberOf(step, 'id', -1));
  write(cpu, hook, ConformHook.newId, numberOf(step, 'newid', -1));
  writeAddress(cpu, hook, ConformHook.newStart, startOf(step));
  writeAddress(cpu, hook, ConformHook.newEnd, startOf(step) + lengthOf(step));
  write(cpu, hook, ConformHook.action, action);
  return { result: 0 };
}
