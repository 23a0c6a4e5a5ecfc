/**
 * The bottom half: service threads that take faults out of the ring and map what engines wait for.
 *
 * Protocol   Take a batch. Faults in the same window of the same address space are served together, and
 *            with them whatever else of the window is mapped already; if that fails, each by itself, so
 *            that one bad address does not fail its neighbours. Tell each engine what became of its
 *            fault, then announce a replay.
 * Invariant  I1  Every entry that is taken out is answered, and its reference given back.
 * Ordering   An engine's state is written before it is woken.
 *
 * @module
 */
import { read, readAddress, storeRelease, write, writeAddress } from '#memory';

import { bug } from '../../base/bug.js';
import { EFAULT, MAX_ERRNO } from '../../base/errno.js';
import { PAGE_SIZE } from '../../base/units.js';
import { noteBegun, noteEnded } from '../../debug/begun.js';
import { HMM_PFN_REQ_FAULT, HMM_PFN_REQ_WRITE, HmmPfn, HmmRange } from '../../hmm/types.js';
import type { Cpu } from '../../machine/cpu.js';
import { noteProgress, wakeUpProcess } from '../../machine/sched.js';
import { allocWords, freeWords } from '../../machine/slab.js';
import { type Field, member, NULL, type Ptr, type Va } from '../../memory/layout.js';
import { mmput } from '../../mm/exit.js';
import { mmgetNotZero } from '../../mm/mm-struct.js';
import { driverOf, putContext } from './device.js';
import type { SvmDriver } from './driver.js';
import { announceReplay, takeFaults, waitForFaults } from './fault-buffer.js';
import { countUp } from './stats.js';
import {
  ENGINE_REPLAY,
  FaultEntry,
  SvmContext,
  SvmDevice,
  SvmEngine,
  SvmRequest,
  SvmStats,
} from './types.js';

/** Faults one thread takes at once. */
const BATCH_MAX = 32;

/** One service thread's own memory. */
export interface FaultService {
  readonly device: SvmDevice;
  readonly request: SvmRequest;
  readonly windowPages: number;
  /** First word of the batch. */
  readonly batch: number;
  readonly words: number;
}

/** Memory for a service thread of the device; undefined if there is none. */
export function createFaultService(cpu: Cpu, device: SvmDevice): FaultService | undefined {
  const windowPages = read(cpu, device, SvmDevice.windowPages);
  const pfnWords = windowPages * HmmPfn.words;
  const batchWords = BATCH_MAX * FaultEntry.words;
  const words = SvmRequest.words + pfnWords + windowPages + batchWords + 1;
  const start = allocWords(cpu, words);
  if (start === 0) return undefined;
  const request = start as SvmRequest;
  const range = member(request, SvmRequest.range);
  const pfns = start + SvmRequest.words;
  const requests = pfns + pfnWords;
  write(cpu, range, HmmRange.pfns, pfns);
  write(cpu, range, HmmRange.defaultFlags, 0);
  write(cpu, range, HmmRange.pfnFlagsMask, HMM_PFN_REQ_FAULT | HMM_PFN_REQ_WRITE);
  write(cpu, request, SvmRequest.requests, requests);
  const batch = requests + windowPages + (windowPages & 1); // entries hold addresses: an even index
  return { device, request, windowPages, batch, words };
}

/** Gives it back. */
export function destroyFaultService(cpu: Cpu, service: FaultService): void {
  freeWords(cpu, service.request, service.words);
}

/** Serves faults until the device is stopping and the ring is empty; returns how many. Sleeps. */
export function serveFaults(cpu: Cpu, service: FaultService): number {
  let served = 0;
  while (waitForFaults(cpu, service.device)) {
    served += serveBatch(cpu, service);
    noteProgress(cpu, served);
  }
  return served;
}

/** Serves what is in the ring now, at most BATCH_MAX faults; returns how many. Sleeps. */
export function serveBatch(cpu: Cpu, service: FaultService): number {
  const buffer = member(service.device, SvmDevice.faultBuffer);
  const count = takeFaults(cpu, buffer, service.batch, BATCH_MAX);
  if (count === 0) return 0;
  for (let i = 0; i < count; i++) noteBegun(cpu, engineOf(cpu, entryAt(service, i)));
  for (let i = 0; i < count; i++) {
    if (read(cpu, entryAt(service, i), FaultEntry.context) !== NULL)
      serveWindow(cpu, service, i, count);
  }
  countUp(cpu, SvmStats.batches);
  announceReplay(cpu, buffer);
  return count;
}

function entryAt(service: FaultService, index: number): FaultEntry {
  return (service.batch + index * FaultEntry.words) as FaultEntry;
}

/** Serves entry `first` and those after it that fall into the same window. */
function serveWindow(cpu: Cpu, service: FaultService, first: number, count: number): void {
  const leader = entryAt(service, first);
  const window = windowOf(cpu, service, leader);
  const context = read(cpu, leader, FaultEntry.context);
  clearRequests(cpu, service);
  let members = 0;
  for (let i = first; i < count; i++) {
    if (!isInWindow(cpu, service, entryAt(service, i), context, window)) continue;
    addRequest(cpu, service, entryAt(service, i), window);
    members++;
  }
  const error = serveRequest(cpu, service, context, window);
  for (let i = first; i < count; i++) {
    const entry = entryAt(service, i);
    if (!isInWindow(cpu, service, entry, context, window)) continue;
    const own = error !== 0 && members > 1 ? serveAlone(cpu, service, entry, window) : error;
    answer(cpu, entry, own);
  }
}

function engineOf(cpu: Cpu, entry: FaultEntry): SvmEngine {
  return read(cpu, entry, FaultEntry.engine);
}

function windowOf(cpu: Cpu, service: FaultService, entry: FaultEntry): Va {
  const bytes = service.windowPages * PAGE_SIZE;
  return Math.floor(readAddress(cpu, entry, FaultEntry.va) / bytes) * bytes;
}

function isInWindow(
  cpu: Cpu,
  service: FaultService,
  entry: FaultEntry,
  context: SvmContext,
  window: Va,
): boolean {
  return (
    read(cpu, entry, FaultEntry.context) === context && windowOf(cpu, service, entry) === window
  );
}

type RequestArray = Ptr<'svm_requests'>;

function clearRequests(cpu: Cpu, service: FaultService): void {
  const requests = read(cpu, service.request, SvmRequest.requests) as RequestArray;
  for (let i = 0; i < service.windowPages; i++) {
    write(cpu, requests, i as Field<'svm_requests'>, 0);
  }
}

function addRequest(cpu: Cpu, service: FaultService, entry: FaultEntry, window: Va): void {
  const requests = read(cpu, service.request, SvmRequest.requests) as RequestArray;
  const page = (readAddress(cpu, entry, FaultEntry.va) - window) / PAGE_SIZE;
  const field = page as Field<'svm_requests'>;
  const wanted =
    read(cpu, entry, FaultEntry.isWrite) !== 0
      ? HMM_PFN_REQ_FAULT | HMM_PFN_REQ_WRITE
      : HMM_PFN_REQ_FAULT;
  write(cpu, requests, field, read(cpu, requests, field) | wanted);
}

function serveAlone(cpu: Cpu, service: FaultService, entry: FaultEntry, window: Va): number {
  clearRequests(cpu, service);
  addRequest(cpu, service, entry, window);
  return serveRequest(cpu, service, read(cpu, entry, FaultEntry.context), window);
}

/** Runs the driver's fault for what has been requested in the window. */
function serveRequest(cpu: Cpu, service: FaultService, context: SvmContext, window: Va): number {
  const range = member(service.request, SvmRequest.range);
  const mm = read(cpu, context, SvmContext.mm);
  if (!mmgetNotZero(cpu, mm)) return -EFAULT;
  writeAddress(cpu, range, HmmRange.start, window);
  writeAddress(cpu, range, HmmRange.end, window + service.windowPages * PAGE_SIZE);
  write(cpu, range, HmmRange.notifier, member(context, SvmContext.interval));
  const driver = driverOf(cpu, service.device);
  const answer = driver.fault(cpu, context, service.request);
  mmput(cpu, mm);
  if (!Number.isInteger(answer) || answer > 0 || answer < -MAX_ERRNO) badAnswer(driver, answer);
  return answer;
}

function badAnswer(driver: SvmDriver, answer: unknown): never {
  const what = typeof answer === 'number' ? String(answer) : typeof answer;
  bug(`driver ${driver.opsName}: fault answered ${what}, not 0 or a negative error number`);
}

/** Tells the engine, and gives the entry's reference back (I1). */
function answer(cpu: Cpu, entry: FaultEntry, error: number): void {
  const engine = engineOf(cpu, entry);
  const context = read(cpu, entry, FaultEntry.context);
  countUp(cpu, error === 0 ? SvmStats.faults : SvmStats.refused);
  const task = read(cpu, engine, SvmEngine.task); // before the answer: the engine may be gone after it
  noteEnded(cpu, engine);
  storeRelease(cpu, engine, SvmEngine.state, error === 0 ? ENGINE_REPLAY : error);
  wakeUpProcess(cpu, task); // pairs with waitForAnswer
  write(cpu, entry, FaultEntry.context, NULL);
  putContext(cpu, context);
}
