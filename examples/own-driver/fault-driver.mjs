// @ts-check
/**
 * The other half of a driver: `fault`, with every step of the collision-retry protocol. It is what the
 * device's own driver does; change a step, and see what comes of it:
 *
 *   faultline bench svm --driver examples/own-driver/fault-driver.mjs
 *
 * Two locks take part. The mmap lock keeps the mappings of the CPUs still while they are read; the context's
 * lock orders this function and `invalidate`. They are never held at once: `invalidate` is called under the
 * mmap lock, so taking them in the other order here could deadlock.
 */
import {
  defineSvmDriver,
  deviceMapRange,
  errno,
  hmm,
  hmmRangeFault,
  layout,
  memory,
  mmapLock,
  mmuIntervalReadBegin,
  mmuIntervalReadRetry,
  mutexLock,
  mutexUnlock,
  PAGE_SIZE,
  SvmContext,
  SvmRequest,
} from 'faultline';

/** @typedef {import('faultline').Cpu} Cpu */
/** @typedef {layout.Ptr<'svm_requests'>} Requests what is wanted: a word for each page */

/** How long a fault is tried again. Unit: milliseconds. */
const TIMEOUT_MS = 1000;

/**
 * Makes the pages of a request present, and maps them into the device. Called without locks, with a
 * reference to the address space; may sleep.
 *
 * @param {Cpu} cpu
 * @param {SvmContext} context the address space on the device
 * @param {SvmRequest} request which range, and what is wanted of it
 * @returns {number} 0, or -EFAULT (nothing is mapped there), -EPERM (not writable), -ENOMEM, or -EBUSY if
 *   invalidations came across it for TIMEOUT_MS
 */
function fault(cpu, context, request) {
  const interval = layout.member(context, SvmContext.interval);
  const range = layout.member(request, SvmRequest.range);
  const deadline = memory.clockMs(cpu) + TIMEOUT_MS;
  do {
    // 1. Before anything is looked at: which invalidations have been. Sleeps while one goes on.
    const seq = mmuIntervalReadBegin(cpu, interval);
    memory.write(cpu, range, hmm.HmmRange.notifierSeq, seq);
    // 2. Say what is wanted; a round before may have left its answers there.
    askForPages(cpu, request);
    // 3. Look at the pages, and fault in what is missing. Both sleep.
    const mm = memory.read(cpu, context, SvmContext.mm);
    mmapLock.mmapReadLock(cpu, mm);
    const result = hmmRangeFault(cpu, range);
    mmapLock.mmapReadUnlock(cpu, mm);
    if (result === -errno.EBUSY) continue; // an invalidation came meanwhile
    if (result !== 0) return result;
    // 4. Under the lock that `invalidate` takes: map, unless an invalidation has begun since step 1.
    const error = mapUnlessStale(cpu, context, range, seq);
    if (error !== -errno.EBUSY) return error;
  } while (memory.clockMs(cpu) < deadline);
  return -errno.EBUSY;
}

/**
 * Takes the context's lock, and sleeps for it; under it nothing may wait for the mmap lock.
 *
 * @param {Cpu} cpu
 * @param {SvmContext} context
 * @param {hmm.HmmRange} range with what `hmmRangeFault` found
 * @param {number} seq of step 1
 * @returns {number} 0, -EBUSY if what was found may be stale, -EFAULT if the context is closed, -ENOMEM
 */
function mapUnlessStale(cpu, context, range, seq) {
  const interval = layout.member(context, SvmContext.interval);
  const lock = layout.member(context, SvmContext.lock);
  let result = 0;
  mutexLock(cpu, lock);
  if (mmuIntervalReadRetry(cpu, interval, seq)) result = -errno.EBUSY;
  else if (memory.read(cpu, context, SvmContext.dead) !== 0) result = -errno.EFAULT;
  else if (!deviceMapRange(cpu, context, range)) result = -errno.ENOMEM;
  mutexUnlock(cpu, lock);
  return result;
}

/**
 * Writes what is wanted of each page to where `hmmRangeFault` looks for it.
 *
 * @param {Cpu} cpu
 * @param {SvmRequest} request
 */
function askForPages(cpu, request) {
  const wanted = memory.read(cpu, request, SvmRequest.requests);
  if (wanted === layout.NULL) return; // the range's flags say it for all pages
  const range = layout.member(request, SvmRequest.range);
  const pfns = memory.read(cpu, range, hmm.HmmRange.pfns);
  const start = memory.readAddress(cpu, range, hmm.HmmRange.start);
  const end = memory.readAddress(cpu, range, hmm.HmmRange.end);
  for (let page = 0; page < (end - start) / PAGE_SIZE; page++) {
    const requests = /** @type {Requests} */ (wanted);
    const flags = memory.read(cpu, requests, /** @type {layout.Field<'svm_requests'>} */ (page));
    const pfn = /** @type {hmm.HmmPfn} */ (pfns + page * hmm.HmmPfn.words);
    memory.write(cpu, pfn, hmm.HmmPfn.entry, flags);
  }
}

export const driver = defineSvmDriver({ opsName: 'fault driver', fault });
