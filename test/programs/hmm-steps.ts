/**
 * What puppets can do with address spaces, notifiers and devices, one step at a time. A range says on
 * which pages, and of which address space.
 *
 * @module
 */
import { fetchAdd, read, readAddress, write, writeOnce } from '#memory';

import { closeContext, openContext, putContext } from '../../src/drivers/svm/device.js';
import {
  attachEngine,
  engineAccess,
  initEngine,
  tryEngineAccess,
} from '../../src/drivers/svm/engine.js';
import { waitForFaults } from '../../src/drivers/svm/fault-buffer.js';
import {
  createFaultService,
  destroyFaultService,
  serveBatch,
  serveFaults,
} from '../../src/drivers/svm/fault-service.js';
import { type SvmDevice, SvmEngine } from '../../src/drivers/svm/types.js';
import { hmmRangeFault } from '../../src/hmm/range-fault.js';
import type { Cpu } from '../../src/machine/cpu.js';
import { defineOps } from '../../src/machine/ops-table.js';
import {
  address,
  cacheline,
  containerOf,
  member,
  pointer,
  type Ptr,
  struct,
  word,
} from '../../src/memory/layout.js';
import { loadWord, storeWord } from '../../src/mm/access.js';
import { mmput } from '../../src/mm/exit.js';
import { dupMm } from '../../src/mm/fork.js';
import { madvise } from '../../src/mm/madvise.js';
import { useMm } from '../../src/mm/mm-struct.js';
import * as mmapLock from '../../src/mm/mmap-lock.js';
import { tlbFinishMmu, tlbGatherMmu } from '../../src/mm/mmu-gather.js';
import { mprotect } from '../../src/mm/mprotect.js';
import { munmap } from '../../src/mm/munmap.js';
import { MmStruct } from '../../src/mm/types.js';
import { MADV_DONTNEED } from '../../src/mm/uapi.js';
import { unmapPageRange } from '../../src/mm/zap.js';
import {
  mmuIntervalCheckRetry,
  mmuIntervalNotifierInsert,
  mmuIntervalNotifierRemove,
  mmuIntervalReadBegin,
  mmuIntervalReadRetry,
  mmuIntervalSetSeq,
} from '../../src/notifier/mmu-interval-notifier.js';
import {
  mmuNotifierInvalidateRangeEnd,
  mmuNotifierInvalidateRangeStart,
  mmuNotifierInvalidateRangeStartNonblock,
} from '../../src/notifier/mmu-notifier.js';
import { mmuNotifierRangeBlockable } from '../../src/notifier/mmu-notifier-range.js';
import { MmuIntervalNotifier, MmuNotifierRange } from '../../src/notifier/types.js';
import { Mutex, mutexLock, mutexTrylock, mutexUnlock } from '../../src/sync/mutex.js';

/** The smallest driver there can be: an interval, a lock, and one word for a device's page table. */
export const TinyDriver = struct('tiny_driver', {
  interval: MmuIntervalNotifier,
  line1: cacheline,
  lock: Mutex, // `mapped`, and the interval's sequence
  mapped: word, // the device uses the range's pages
  calls: word, // callbacks that got the lock
  start: address, // of the interval; unit: bytes
  length: address,
});
export type TinyDriver = Ptr<'tiny_driver'>;

export const tinyDriver = defineOps({
  opsName: 'tiny',
  invalidate(
    cpu: Cpu,
    interval: MmuIntervalNotifier,
    range: MmuNotifierRange,
    curSeq: number,
  ): boolean {
    const driver: TinyDriver = containerOf(interval, TinyDriver.interval);
    const lock = member(driver, TinyDriver.lock);
    if (mmuNotifierRangeBlockable(cpu, range)) mutexLock(cpu, lock);
    else if (!mutexTrylock(cpu, lock)) return false;
    mmuIntervalSetSeq(cpu, interval, curSeq);
    writeOnce(cpu, driver, TinyDriver.mapped, 0);
    fetchAdd(cpu, driver, TinyDriver.calls, 1);
    mutexUnlock(cpu, lock);
    return true;
  },
});

/** Registers the driver's interval. */
export function insertTiny(cpu: Cpu, driver: TinyDriver, mm: MmStruct): number {
  const start = readAddress(cpu, driver, TinyDriver.start);
  const length = readAddress(cpu, driver, TinyDriver.length);
  const interval = member(driver, TinyDriver.interval);
  return mmuIntervalNotifierInsert(cpu, interval, mm, start, length, tinyDriver);
}

interface Target {
  readonly mm: MmStruct;
  readonly start: number;
  readonly length: number;
}

function targetOf(cpu: Cpu, range: MmuNotifierRange): Target {
  const start = readAddress(cpu, range, MmuNotifierRange.start);
  const length = readAddress(cpu, range, MmuNotifierRange.end) - start;
  return { mm: read(cpu, range, MmuNotifierRange.mm), start, length };
}

/** Takes the range's pages away from the CPUs and frees them: what comes between start and end. */
function clearPages(cpu: Cpu, range: MmuNotifierRange): void {
  const { mm, start, length } = targetOf(cpu, range);
  const gather = tlbGatherMmu(cpu, mm);
  unmapPageRange(cpu, gather, read(cpu, mm, MmStruct.pgd), start, start + length);
  tlbFinishMmu(cpu, gather);
}

function unmapRange(cpu: Cpu, range: MmuNotifierRange): number {
  const { mm, start, length } = targetOf(cpu, range);
  return munmap(cpu, mm, start, length);
}

function dropRange(cpu: Cpu, range: MmuNotifierRange): number {
  const { mm, start, length } = targetOf(cpu, range);
  return madvise(cpu, mm, start, length, MADV_DONTNEED);
}

function protectRange(cpu: Cpu, range: MmuNotifierRange, prot: number): number {
  const { mm, start, length } = targetOf(cpu, range);
  return mprotect(cpu, mm, start, length, prot);
}

function storeFirst(cpu: Cpu, range: MmuNotifierRange, value: number): number {
  const { mm, start } = targetOf(cpu, range);
  useMm(cpu, mm);
  return storeWord(cpu, mm, start, value);
}

/** The first word of the range, or -errno. */
function loadFirst(cpu: Cpu, range: MmuNotifierRange): number {
  const { mm, start } = targetOf(cpu, range);
  useMm(cpu, mm);
  const error = loadWord(cpu, mm, start);
  return error === 0 ? cpu.loaded : error;
}

/** One access of an engine. */
export const EngineAccess = struct('engine_access', {
  engine: SvmEngine,
  context: pointer<'svm_context'>(),
  va: address,
  kind: word, // ENGINE_*
  value: word,
  loaded: word, // what a load or an addition found
});
export type EngineAccess = Ptr<'engine_access'>;

/** Becomes the engine and accesses; faults, if it must: 0 or -errno. */
function engineRun(cpu: Cpu, access: EngineAccess): number {
  const engine = member(access, EngineAccess.engine);
  const context = read(cpu, access, EngineAccess.context);
  const kind = read(cpu, access, EngineAccess.kind);
  const va = readAddress(cpu, access, EngineAccess.va);
  initEngine(cpu, engine);
  attachEngine(cpu, context);
  const error = engineAccess(cpu, context, engine, va, kind, read(cpu, access, EngineAccess.value));
  write(cpu, access, EngineAccess.loaded, cpu.loaded);
  return error;
}

/** As above without a fault: false if there would have to be one. */
function engineTry(cpu: Cpu, access: EngineAccess): boolean {
  const context = read(cpu, access, EngineAccess.context);
  const kind = read(cpu, access, EngineAccess.kind);
  const va = readAddress(cpu, access, EngineAccess.va);
  attachEngine(cpu, context);
  return tryEngineAccess(cpu, context, va, kind, read(cpu, access, EngineAccess.value));
}

/** Serves faults until the device is stopping; returns how many. */
function serve(cpu: Cpu, device: SvmDevice): number {
  const service = createFaultService(cpu, device);
  if (service === undefined) return -1;
  const served = serveFaults(cpu, service);
  destroyFaultService(cpu, service);
  return served;
}

/** Waits for faults and serves one batch; returns how many there were in it. */
function serveOnce(cpu: Cpu, device: SvmDevice): number {
  const service = createFaultService(cpu, device);
  if (service === undefined) return -1;
  const served = waitForFaults(cpu, device) ? serveBatch(cpu, service) : 0;
  destroyFaultService(cpu, service);
  return served;
}

export const STEPS = {
  insertTiny,
  mmuIntervalNotifierRemove,
  mmuIntervalReadBegin,
  mmuIntervalReadRetry,
  mmuIntervalCheckRetry,
  mmuNotifierInvalidateRangeStart,
  mmuNotifierInvalidateRangeStartNonblock,
  mmuNotifierInvalidateRangeEnd,
  hmmRangeFault,
  ...mmapLock,
  clearPages,
  unmapRange,
  dropRange,
  protectRange,
  storeFirst,
  loadFirst,
  dupMm,
  mmput,
  openContext,
  closeContext,
  putContext,
  engineRun,
  engineTry,
  serve,
  serveOnce,
} as const;
