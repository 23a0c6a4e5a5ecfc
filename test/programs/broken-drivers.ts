/**
 * Drivers of the SVM device that break one rule each, and one that keeps them all, with a gate inside of
 * their fault: between what hmm_range_fault says and the driver's lock.
 *
 * The device's id is the address of the gate; 0 is no gate, but a pause.
 *
 * @module
 */
import { fetchAdd, park, read, readOnce, unpark, write, writeOnce } from '#memory';

import { EBUSY } from '../../src/base/errno.js';
import { type SvmDriver, svmFault, svmInvalidate } from '../../src/drivers/svm/driver.js';
import { deviceMapRange } from '../../src/drivers/svm/page-table.js';
import { SvmContext, SvmDevice, SvmRequest } from '../../src/drivers/svm/types.js';
import { hmmRangeFault } from '../../src/hmm/range-fault.js';
import { HMM_PFN_REQ_FAULT, HMM_PFN_REQ_WRITE, HmmPfn, HmmRange } from '../../src/hmm/types.js';
import type { Cpu } from '../../src/machine/cpu.js';
import { defineOps } from '../../src/machine/ops-table.js';
import { beginWait, checkHalted, endWait } from '../../src/machine/sched.js';
import { WAIT_TURN } from '../../src/machine/wait-kind.js';
import { type Field, member, type Ptr, struct, word } from '../../src/memory/layout.js';
import { mmapReadLock, mmapReadUnlock } from '../../src/mm/mmap-lock.js';
import {
  mmuIntervalReadBegin,
  mmuIntervalReadRetry,
} from '../../src/notifier/mmu-interval-notifier.js';
import type { MmuIntervalNotifier, MmuNotifierRange } from '../../src/notifier/types.js';
import { mutexLock, mutexUnlock } from '../../src/sync/mutex.js';

export const Gate = struct('gate', {
  closed: word, // who comes to it waits until it is 0
  passed: word, // who has come through
});
export type Gate = Ptr<'gate'>;

const SLICE_MS = 100;
const LINGER_MS = 0.2;
const EVERYBODY = 0x7fffffff;

export function openGate(cpu: Cpu, gate: Gate): void {
  writeOnce(cpu, gate, Gate.closed, 0);
  unpark(cpu, gate, Gate.closed, EVERYBODY);
}

function passGate(cpu: Cpu, context: SvmContext): void {
  const gate = read(cpu, read(cpu, context, SvmContext.device), SvmDevice.id) as Gate;
  if (gate === 0) {
    park(cpu, context, SvmContext.dead, 0, LINGER_MS); // without a gate, time for something to happen
    return;
  }
  beginWait(cpu, WAIT_TURN, gate);
  while (readOnce(cpu, gate, Gate.closed) !== 0) {
    park(cpu, gate, Gate.closed, 1, SLICE_MS);
    checkHalted(cpu);
  }
  endWait(cpu);
  fetchAdd(cpu, gate, Gate.passed, 1);
}

/** Says in the request what is wanted of each page. */
function askForPages(cpu: Cpu, request: SvmRequest): void {
  const range = member(request, SvmRequest.range);
  const requests = read(cpu, request, SvmRequest.requests) as Ptr<'requests'>;
  if (requests === 0) return;
  const pfns = read(cpu, range, HmmRange.pfns);
  const pages = (requests - pfns) / HmmPfn.words;
  for (let i = 0; i < pages; i++) {
    const wanted = read(cpu, requests, i as Field<'requests'>);
    write(cpu, (pfns + i * HmmPfn.words) as HmmPfn, HmmPfn.entry, wanted);
  }
}

/** begin, mmap lock, hmm_range_fault: its result. */
function lookUp(cpu: Cpu, context: SvmContext, request: SvmRequest): number {
  const range = member(request, SvmRequest.range);
  const mm = read(cpu, context, SvmContext.mm);
  const interval = member(context, SvmContext.interval);
  write(cpu, range, HmmRange.notifierSeq, mmuIntervalReadBegin(cpu, interval));
  askForPages(cpu, request);
  mmapReadLock(cpu, mm);
  const result = hmmRangeFault(cpu, range);
  mmapReadUnlock(cpu, mm);
  return result;
}

/** A fault in which `publish` maps what was looked up, or says that it must be looked up again. */
function faultWith(
  publish: (cpu: Cpu, context: SvmContext, range: HmmRange) => boolean,
): SvmDriver['fault'] {
  return (cpu, context, request) => {
    for (;;) {
      const result = lookUp(cpu, context, request);
      if (result === -EBUSY) continue;
      if (result !== 0) return result;
      passGate(cpu, context);
      if (publish(cpu, context, member(request, SvmRequest.range))) return 0;
    }
  };
}

function isStale(cpu: Cpu, context: SvmContext, range: HmmRange): boolean {
  const seq = read(cpu, range, HmmRange.notifierSeq);
  return mmuIntervalReadRetry(cpu, member(context, SvmContext.interval), seq);
}

/** As it should be: retry and map under the lock. */
export const gated = defineOps<SvmDriver>({
  opsName: 'gated',
  invalidate: svmInvalidate,
  fault: faultWith((cpu, context, range) => {
    mutexLock(cpu, member(context, SvmContext.lock));
    const fresh = !isStale(cpu, context, range);
    if (fresh) deviceMapRange(cpu, context, range);
    mutexUnlock(cpu, member(context, SvmContext.lock));
    return fresh;
  }),
});

/** Maps whatever it found, however old it is. */
export const neverRetries = defineOps<SvmDriver>({
  opsName: 'never retries',
  invalidate: svmInvalidate,
  fault: faultWith((cpu, context, range) => {
    mutexLock(cpu, member(context, SvmContext.lock));
    deviceMapRange(cpu, context, range);
    mutexUnlock(cpu, member(context, SvmContext.lock));
    return true;
  }),
});

/** Asks whether it is stale, and only then takes the lock and maps (M-9). */
export const asksTooEarly = defineOps<SvmDriver>({
  opsName: 'asks too early',
  invalidate: svmInvalidate,
  fault(cpu: Cpu, context: SvmContext, request: SvmRequest): number {
    const range = member(request, SvmRequest.range);
    for (;;) {
      const result = lookUp(cpu, context, request);
      if (result === -EBUSY || (result === 0 && isStale(cpu, context, range))) continue;
      if (result !== 0) return result;
      passGate(cpu, context);
      mutexLock(cpu, member(context, SvmContext.lock));
      deviceMapRange(cpu, context, range);
      mutexUnlock(cpu, member(context, SvmContext.lock));
      return 0;
    }
  },
});

/** Maps first, and looks whether it might under the lock afterwards. */
export const mapsTooEarly = defineOps<SvmDriver>({
  opsName: 'maps too early',
  invalidate: svmInvalidate,
  fault: faultWith((cpu, context, range) => {
    deviceMapRange(cpu, context, range);
    mutexLock(cpu, member(context, SvmContext.lock));
    const fresh = !isStale(cpu, context, range);
    mutexUnlock(cpu, member(context, SvmContext.lock));
    return fresh;
  }),
});

/** Hears of invalidations and does nothing about them. */
export const neverInvalidates = defineOps<SvmDriver>({
  opsName: 'never invalidates',
  invalidate: () => true,
  fault: svmFault,
});

/** Does not survive the first invalidation. */
export const diesOfInvalidation = defineOps<SvmDriver>({
  opsName: 'dies of invalidation',
  invalidate(
    _cpu: Cpu,
    _interval: MmuIntervalNotifier,
    _range: MmuNotifierRange,
    _curSeq: number,
  ): boolean {
    throw new TypeError('no such register');
  },
  fault: svmFault,
});

/** What a fault that wants to write asks for. */
export const WRITE_REQUEST = HMM_PFN_REQ_FAULT | HMM_PFN_REQ_WRITE;
