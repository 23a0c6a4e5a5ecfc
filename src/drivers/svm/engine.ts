/**
 * Engines: what computes on the device, through the device's page table.
 *
 * Protocol   An access goes as on a CPU (mm/access.ts): the engine's TLB, else the device's page table, else
 *            a fault. A fault is put into the ring; the engine sleeps until it is answered and tries
 *            again. If the ring is full the fault is lost, and the engine sleeps until the next replay.
 * Invariant  I1  No engine touches a frame of another generation than the one that was mapped (INV-20). An
 *                access that does is counted; nothing is hidden.
 * Ordering   Inside an access no lock; the TLB fence waits for it to end.
 *
 * @module
 */
import {
  clockMs,
  exchange,
  fetchAdd,
  read,
  readOnce,
  readOnceCells,
  storeRelease,
  write,
} from '#memory';

import { bug } from '../../base/bug.js';
import { PAGE_SIZE, pageAlignDown, WORD_BYTES } from '../../base/units.js';
import { HMM_PFN_SHIFT, HMM_PFN_VALID, HMM_PFN_WRITE, HmmPfn } from '../../hmm/types.js';
import type { Cpu } from '../../machine/cpu.js';
import { frameWord } from '../../machine/frame.js';
import { lockClass } from '../../machine/lock-class.js';
import { frameOf, pageOf } from '../../machine/page-alloc.js';
import {
  beginWait,
  endWait,
  schedule,
  setCurrentRunning,
  setCurrentState,
  TASK_UNINTERRUPTIBLE,
} from '../../machine/sched.js';
import {
  tlbAttach,
  tlbEnter,
  TlbEntry,
  tlbExit,
  tlbFill,
  tlbHit,
  tlbSlot,
} from '../../machine/tlb.js';
import { Page } from '../../machine/types.js';
import { WAIT_REPLAY } from '../../machine/wait-kind.js';
import { member, type Va } from '../../memory/layout.js';
import { setPageDirty } from '../../mm/page.js';
import { pageHigh, pageLow } from '../../mm/page-table.js';
import { NO_PTE } from '../../mm/pte.js';
import { finishWait, initWait, prepareToWait } from '../../sync/wait-queue.js';
import { getContext, putContext } from './device.js';
import { raiseFault } from './fault-buffer.js';
import { deviceEntry } from './page-table.js';
import { countUp } from './stats.js';
import {
  ENGINE_FAULTED,
  ENGINE_REPLAY,
  ENGINE_RUNS,
  FaultBuffer,
  SvmContext,
  SvmDevice,
  SvmEngine,
  SvmStats,
} from './types.js';

const ENGINE = lockClass('an engine');

export const ENGINE_LOAD = 0;
export const ENGINE_STORE = 1;
/** Adds to the word, atomically against CPUs and other engines. */
export const ENGINE_ADD = 2;

/** Makes this worker an engine of contexts it will be given. */
export function initEngine(cpu: Cpu, engine: SvmEngine): void {
  write(cpu, engine, SvmEngine.state, ENGINE_RUNS);
  write(cpu, engine, SvmEngine.lockClass, ENGINE);
  write(cpu, engine, SvmEngine.task, cpu.area);
}

/** This engine will use the context's translations. */
export function attachEngine(cpu: Cpu, context: SvmContext): void {
  tlbAttach(cpu, member(context, SvmContext.tlb));
}

/**
 * One access at `va`, 4-byte aligned: 0 (a load leaves its value in `cpu.loaded`), or -errno if the
 * driver could not serve the fault. The caller holds a reference to the context. Sleeps.
 */
export function engineAccess(
  cpu: Cpu,
  context: SvmContext,
  engine: SvmEngine,
  va: Va,
  kind: number,
  value: number,
): number {
  let startedMs = 0;
  for (let tries = 0; !tryEngineAccess(cpu, context, va, kind, value); tries++) {
    const error = engineFault(cpu, context, engine, pageAlignDown(va), kind !== ENGINE_LOAD);
    if (error !== 0) return error;
    if (tries === TRIES_MIN) startedMs = clockMs(cpu);
    if (tries > TRIES_MIN && clockMs(cpu) - startedMs > PATIENCE_MS) {
      bug(`a device faults at ${va} again and again: its driver answers 0, and maps nothing`);
    }
  }
  return 0;
}

/** An invalidation may undo what was mapped before it was used, but not so often and for so long. */
const TRIES_MIN = 100;
const PATIENCE_MS = 5000;

/** One try; false if it must fault. Does not sleep. */
export function tryEngineAccess(
  cpu: Cpu,
  context: SvmContext,
  va: Va,
  kind: number,
  value: number,
): boolean {
  const tlb = member(context, SvmContext.tlb);
  const high = pageHigh(va);
  const low = pageLow(va);
  const needed = kind === ENGINE_LOAD ? HMM_PFN_VALID : HMM_PFN_VALID | HMM_PFN_WRITE;
  const generation = tlbEnter(cpu, tlb);
  const slot = tlbSlot(cpu, low);
  let usable =
    tlbHit(cpu, slot, tlb, generation, high, low) &&
    (read(cpu, slot, TlbEntry.pte) & needed) === needed;
  if (!usable && walk(cpu, context, high, low, needed, slot)) {
    tlbFill(cpu, slot, tlb, generation, high, low);
    usable = true;
  }
  if (usable) touch(cpu, slot, (va % PAGE_SIZE) / WORD_BYTES, kind, value);
  tlbExit(cpu);
  return usable;
}

function touch(cpu: Cpu, slot: TlbEntry, offset: number, kind: number, value: number): void {
  const pfn = read(cpu, slot, TlbEntry.pte) >>> HMM_PFN_SHIFT;
  const frame = frameOf(cpu, pfn);
  const field = frameWord(offset);
  if (kind === ENGINE_LOAD) cpu.loaded = readOnce(cpu, frame, field);
  else if (kind === ENGINE_STORE)
    exchange(cpu, frame, field, value); // done before the look below
  else cpu.loaded = fetchAdd(cpu, frame, field, value);
  if (kind !== ENGINE_LOAD) setPageDirty(cpu, pfn);
  const generation = readOnce(cpu, pageOf(cpu, pfn), Page.generation);
  if (generation !== read(cpu, slot, TlbEntry.frameGeneration)) countUp(cpu, SvmStats.stale); // I1
}

/** The device's page walk. */
function walk(
  cpu: Cpu,
  context: SvmContext,
  high: number,
  low: number,
  needed: number,
  slot: TlbEntry,
): boolean {
  const at = deviceEntry(cpu, context, high, low);
  if (at === NO_PTE) return false;
  const copy = cpu.scratch as HmmPfn;
  readOnceCells(cpu, copy, at, 1);
  const entry = read(cpu, copy, HmmPfn.entry);
  if ((entry & needed) !== needed) return false;
  write(cpu, slot, TlbEntry.pte, entry);
  write(cpu, slot, TlbEntry.frameGeneration, read(cpu, copy, HmmPfn.generation));
  return true;
}

/** Reports a fault and sleeps until the access may be tried again: 0, or -errno. */
function engineFault(
  cpu: Cpu,
  context: SvmContext,
  engine: SvmEngine,
  va: Va,
  isWrite: boolean,
): number {
  const device = read(cpu, context, SvmContext.device);
  const buffer = member(device, SvmDevice.faultBuffer);
  const replays = readOnce(cpu, buffer, FaultBuffer.replays);
  storeRelease(cpu, engine, SvmEngine.state, ENGINE_FAULTED);
  getContext(cpu, context); // the ring's
  if (raiseFault(cpu, buffer, context, va, isWrite, engine)) return waitForAnswer(cpu, engine);
  putContext(cpu, context);
  waitForReplay(cpu, buffer, replays);
  return 0;
}

function waitForAnswer(cpu: Cpu, engine: SvmEngine): number {
  beginWait(cpu, WAIT_REPLAY, engine);
  let state: number;
  for (;;) {
    setCurrentState(cpu, TASK_UNINTERRUPTIBLE);
    state = readOnce(cpu, engine, SvmEngine.state); // pairs with answer
    if (state !== ENGINE_FAULTED) break;
    schedule(cpu);
  }
  setCurrentRunning(cpu);
  endWait(cpu);
  return state === ENGINE_REPLAY ? 0 : state;
}

/** Sleeps until a batch has been serviced after `replays` were counted. */
function waitForReplay(cpu: Cpu, buffer: FaultBuffer, replays: number): void {
  const queue = member(buffer, FaultBuffer.replayed);
  const wait = initWait(cpu, WAIT_REPLAY, buffer);
  for (;;) {
    prepareToWait(cpu, queue, wait, TASK_UNINTERRUPTIBLE);
    if (readOnce(cpu, buffer, FaultBuffer.replays) !== replays) break; // pairs with announceReplay
    schedule(cpu);
  }
  finishWait(cpu, queue, wait);
}
