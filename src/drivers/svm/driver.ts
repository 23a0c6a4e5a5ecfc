/**
 * The driver of the SVM device: invalidation and fault, by the collision-retry protocol.
 *
 * Kernel     lib/test_hmm.c (dmirror_interval_invalidate, dmirror_range_fault)
 * Protocol   invalidate:  lock; setSeq; clear the device's entries; wait until no engine uses them; unlock
 *            fault:       seq = readBegin; mmap lock; hmm_range_fault; unlock; -EBUSY: again
 *                         lock; readRetry: unlock, again; map; unlock
 *            A device with memory of its own (device-memory.ts) is told what it does itself, too: its own migrations end
 *            its mappings as all others do, and its own exclusive access concerns nobody but the CPUs.
 * Invariant  I1  Between return of invalidate and the end of the invalidation no device entry in the range
 *                exists, and none can be made (INV-20).
 *            I2  Nothing is mapped into a dead context.
 * Ordering   The context's lock orders the interval's sequence and the device's page table.
 *
 * A driver of one's own is a table of the same shape: `defineSvmDriver` takes what should differ.
 *
 * @module
 */
import { reachPoint } from '#debug';
import { clockMs, read, readAddress, write, writeAddress } from '#memory';

import { FaultlineError } from '../../base/bug.js';
import { EBUSY, EFAULT, ENOMEM } from '../../base/errno.js';
import { PAGE_SIZE, USER_VA_END } from '../../base/units.js';
import { hmmRangeFault } from '../../hmm/range-fault.js';
import { HmmPfn, HmmRange } from '../../hmm/types.js';
import type { Cpu } from '../../machine/cpu.js';
import { defineOps } from '../../machine/ops-table.js';
import { tlbShootdown } from '../../machine/tlb.js';
import { WAIT_DEVICE_FENCE } from '../../machine/wait-kind.js';
import { containerOf, element, type Field, member, NULL, type Ptr } from '../../memory/layout.js';
import { mmapReadLock, mmapReadUnlock } from '../../mm/mmap-lock.js';
import type { MmStruct } from '../../mm/types.js';
import {
  type MmuIntervalNotifierOps,
  mmuIntervalReadBegin,
  mmuIntervalReadRetry,
  mmuIntervalSetSeq,
} from '../../notifier/mmu-interval-notifier.js';
import {
  MMU_NOTIFY_EXCLUSIVE,
  mmuNotifierRangeBlockable,
} from '../../notifier/mmu-notifier-range.js';
import { type MmuIntervalNotifier, MmuNotifierRange } from '../../notifier/types.js';
import { RANGE_TIMEOUT_MS } from '../../protocols/protocol.js';
import { mutexLock, mutexTrylock, mutexUnlock } from '../../sync/mutex.js';
import { devmemOwner } from '../devmem/devmem.js';
import { deviceClearRange, deviceMapRange } from './page-table.js';
import { svmStats } from './stats.js';
import { SvmContext, SvmDevice, SvmRequest, SvmStats } from './types.js';

type RequestArray = Ptr<'svm_requests'>;

/** What a driver of the SVM device does. */
export interface SvmDriver extends MmuIntervalNotifierOps {
  /**
   * Maps what is requested into the device: 0, -EFAULT, -EPERM, -ENOMEM, or -EBUSY if invalidations kept
   * it from it for RANGE_TIMEOUT_MS. The caller holds mm_users. Sleeps.
   */
  readonly fault: (cpu: Cpu, context: SvmContext, request: SvmRequest) => number;
  /**
   * Ties a context that is being opened to its address space: 0 or -errno. By default its interval is inserted.
   * No lock held. Sleeps.
   */
  readonly attach?: (cpu: Cpu, context: SvmContext, mm: MmStruct) => number;
  /** Unties it: no callback runs afterwards. Goes with `attach`. No lock held. Sleeps. */
  readonly detach?: (cpu: Cpu, context: SvmContext) => void;
}

/** Ends the device's use of a range. @kernel dmirror_interval_invalidate */
export function svmInvalidate(
  cpu: Cpu,
  interval: MmuIntervalNotifier,
  range: MmuNotifierRange,
  curSeq: number,
): boolean {
  const context: SvmContext = containerOf(interval, SvmContext.interval);
  const isExclusive = read(cpu, range, MmuNotifierRange.event) === MMU_NOTIFY_EXCLUSIVE;
  if (isExclusive && read(cpu, range, MmuNotifierRange.owner) === ownerOf(cpu, context))
    return true;
  const lock = member(context, SvmContext.lock);
  if (mmuNotifierRangeBlockable(cpu, range)) mutexLock(cpu, lock);
  else if (!mutexTrylock(cpu, lock)) return false;
  mmuIntervalSetSeq(cpu, interval, curSeq); // pairs with mmuIntervalReadRetry in svmFault
  deviceClearRange(cpu, context, range);
  tlbShootdown(cpu, member(context, SvmContext.tlb), WAIT_DEVICE_FENCE);
  svmCountInvalidation(cpu, range);
  mutexUnlock(cpu, lock);
  return true;
}

/** Counts an invalidation in this CPU's statistics; a driver of one's own calls it to be in the reports. */
export function svmCountInvalidation(cpu: Cpu, range: MmuNotifierRange): void {
  const stats = svmStats(cpu);
  const counter = element(SvmStats.invalidations, read(cpu, range, MmuNotifierRange.event));
  write(cpu, stats, counter, read(cpu, stats, counter) + 1);
  const bytes =
    readAddress(cpu, range, MmuNotifierRange.end) - readAddress(cpu, range, MmuNotifierRange.start);
  if (bytes > USER_VA_END) return; // RELEASE and exit name all addresses, not pages
  const pages = readAddress(cpu, stats, SvmStats.pages) + bytes / PAGE_SIZE;
  writeAddress(cpu, stats, SvmStats.pages, pages);
}

/** Whose device-private pages the context's device can use; 0 if it has no memory of its own. */
export function ownerOf(cpu: Cpu, context: SvmContext): number {
  const devmem = read(cpu, read(cpu, context, SvmContext.device), SvmDevice.devmem);
  return devmem === NULL ? 0 : devmemOwner(cpu, devmem);
}

/** Maps what the CPU has, or what it can be made to have. @kernel dmirror_range_fault */
export function svmFault(cpu: Cpu, context: SvmContext, request: SvmRequest): number {
  return faultAndMap(cpu, context, request, mapIntoDevice);
}

/** Does what a fault does, and has `map` map what was found: as `SvmDriver.fault`. */
export function faultAndMap(
  cpu: Cpu,
  context: SvmContext,
  request: SvmRequest,
  map: (cpu: Cpu, context: SvmContext, range: HmmRange) => number,
): number {
  const range = member(request, SvmRequest.range);
  const interval = member(context, SvmContext.interval);
  const mm = read(cpu, context, SvmContext.mm);
  const lock = member(context, SvmContext.lock);
  write(cpu, range, HmmRange.devPrivateOwner, ownerOf(cpu, context));
  let deadline = 0;
  for (;;) {
    const seq = mmuIntervalReadBegin(cpu, interval);
    write(cpu, range, HmmRange.notifierSeq, seq);
    if (read(cpu, request, SvmRequest.requests) !== 0) askForPages(cpu, request);
    mmapReadLock(cpu, mm);
    const result = hmmRangeFault(cpu, range);
    mmapReadUnlock(cpu, mm);
    reachPoint(cpu, 'a fault has read the page table');
    if (result === 0) {
      mutexLock(cpu, lock);
      if (!mmuIntervalReadRetry(cpu, interval, seq)) {
        const error = map(cpu, context, range);
        mutexUnlock(cpu, lock);
        return error;
      }
      mutexUnlock(cpu, lock);
    } else if (result !== -EBUSY) {
      return result;
    }
    const stats = svmStats(cpu);
    write(cpu, stats, SvmStats.retries, read(cpu, stats, SvmStats.retries) + 1);
    deadline = tryAgainUntil(cpu, deadline);
    if (deadline === 0) return -EBUSY;
  }
}

/** Until when a fault that was in vain is tried again, which 0 does not know yet; 0 if its time is over. */
export function tryAgainUntil(cpu: Cpu, deadline: number): number {
  const now = clockMs(cpu);
  if (deadline === 0) return now + RANGE_TIMEOUT_MS;
  return now > deadline ? 0 : deadline;
}

/** Says in `pfns` what is wanted of each page; a round before may have left its answers there. */
export function askForPages(cpu: Cpu, request: SvmRequest): void {
  const range = member(request, SvmRequest.range);
  const requests = read(cpu, request, SvmRequest.requests) as RequestArray;
  const pfns = read(cpu, range, HmmRange.pfns);
  const bytes = readAddress(cpu, range, HmmRange.end) - readAddress(cpu, range, HmmRange.start);
  for (let i = 0; i < bytes / PAGE_SIZE; i++) {
    const wanted = read(cpu, requests, i as Field<'svm_requests'>);
    write(cpu, (pfns + i * HmmPfn.words) as HmmPfn, HmmPfn.entry, wanted);
  }
}

/** The context's lock must be held, and the range not stale. */
export function mapIntoDevice(cpu: Cpu, context: SvmContext, range: HmmRange): number {
  if (read(cpu, context, SvmContext.dead) !== 0) return -EFAULT; // I2
  return deviceMapRange(cpu, context, range) ? 0 : -ENOMEM;
}

/** The driver as it should be. */
export const svmDriver: SvmDriver = defineOps({
  opsName: 'svm',
  invalidate: svmInvalidate,
  fault: svmFault,
});

/**
 * A driver of one's own: like `svmDriver`, but for what is given. Export it as `driver`.
 * @throws FaultlineError for a member that there is not, or of another type
 */
export function defineSvmDriver(
  changes: Pick<SvmDriver, 'opsName'> & Partial<Pick<SvmDriver, 'invalidate' | 'fault'>>,
): Readonly<SvmDriver> {
  for (const [name, value] of Object.entries(changes)) checkMember(name, value);
  if (typeof changes.opsName !== 'string') throw badDriver('it needs a name, as opsName');
  return defineOps({ ...svmDriver, ...changes });
}

function checkMember(name: string, value: unknown): void {
  if (!(name in svmDriver)) {
    throw badDriver(`there is no member ${name}; there are ${Object.keys(svmDriver).join(', ')}`);
  }
  const expected = name === 'opsName' ? 'string' : 'function';
  if (typeof value !== expected) throw badDriver(`${name} is a ${typeof value}, not a ${expected}`);
}

function badDriver(reason: string): FaultlineError {
  return new FaultlineError('FAULTLINE_BAD_DRIVER', `defineSvmDriver: ${reason}`);
}
