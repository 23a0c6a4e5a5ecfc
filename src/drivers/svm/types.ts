/**
 * Layouts of the simulated SVM device (shared virtual memory: it uses a program's own addresses).
 *
 * @module
 */
import { HmmRange } from '../../hmm/types.js';
import { TlbContext } from '../../machine/tlb.js';
import { Spinlock } from '../../machine/types.js';
import { address, cacheline, pointer, type Ptr, struct, word, words } from '../../memory/layout.js';
import { ListHead } from '../../memory/list.js';
import { MmuIntervalNotifier } from '../../notifier/types.js';
import { Mutex } from '../../sync/mutex.js';
import { Refcount } from '../../sync/refcount.js';
import { WaitQueue } from '../../sync/wait-queue.js';

/** Faults the hardware can hold before it drops them. */
export const FAULT_BUFFER_ENTRIES = 64;

/** Pages that a driver deals with at once. */
export const CHUNK_PAGES = 64;

/** One fault as the hardware reports it. */
export const FaultEntry = struct('svm_fault_entry', {
  va: address, // of the page
  context: pointer<'svm_context'>(), // with a reference
  isWrite: word,
  engine: pointer<'svm_engine'>(), // who waits for the replay
});
export type FaultEntry = Ptr<'svm_fault_entry'>;

/** The ring that the hardware fills and the driver empties. */
export const FaultBuffer = struct('svm_fault_buffer', {
  lock: Spinlock,
  put: word, // entries ever put; under lock
  got: word, // entries ever taken out; under lock
  dropped: word, // faults that found the ring full; under lock
  line1: cacheline, // FaultEntry holds an address: entries must begin at an even index
  entries: words(FAULT_BUFFER_ENTRIES * FaultEntry.words),
  line2: cacheline,
  arrived: WaitQueue, // service threads wait for entries
  line3: cacheline,
  replays: word, // batches serviced; atomic
  replayed: WaitQueue, // engines whose fault was dropped wait for the next replay
  line4: cacheline,
});
export type FaultBuffer = Ptr<'svm_fault_buffer'>;

/** A device. */
export const SvmDevice = struct('svm_device', {
  id: word,
  driver: word, // ops index of the SvmDriver
  windowPages: word, // pages a serviced fault looks at, aligned
  contextsLock: Spinlock,
  contexts: ListHead, // open contexts; under contextsLock
  contextCount: word, // under contextsLock
  stopping: word, // service threads are to return when the ring is empty
  devmem: pointer<'devmem'>(), // memory of its own; NULL = it has none
  data: word, // the own of who has made the device
  line1: cacheline,
  faultBuffer: FaultBuffer,
});
export type SvmDevice = Ptr<'svm_device'>;

/** One address space as one device sees it. */
export const SvmContext = struct('svm_context', {
  interval: MmuIntervalNotifier, // over all of the address space
  line1: cacheline,
  lock: Mutex, // the driver's lock: the device's page table, and `dead`
  pgd: word, // the device's page table; entries are HmmPfn
  tableLock: Spinlock, // making its upper tables
  dead: word, // closed: nothing may be mapped any more; under lock
  line2: cacheline,
  tlb: TlbContext, // translations its engines hold
  refs: Refcount,
  mm: pointer<'mm_struct'>(), // with a reference to the struct
  device: pointer<'svm_device'>(),
  link: ListHead, // on SvmDevice.contexts
  mirror: pointer<'hmm_mirror'>(), // in the place of the interval; NULL with the driver that has one
});
export type SvmContext = Ptr<'svm_context'>;

/** What a driver is asked to map: a range, and what is wanted of each page of it. */
export const SvmRequest = struct('svm_request', {
  range: HmmRange,
  requests: word, // a word of HMM_PFN_REQ_* for each page; 0 = the range's defaultFlags say it all
});
export type SvmRequest = Ptr<'svm_request'>;

/** SvmEngine.state: it computes. */
export const ENGINE_RUNS = 0;
/** SvmEngine.state: it waits for its fault. */
export const ENGINE_FAULTED = 1;
/** SvmEngine.state: the fault was served; access again. */
export const ENGINE_REPLAY = 2;

/** What an engine and the driver tell each other. */
export const SvmEngine = struct('svm_engine', {
  state: word, // ENGINE_*, or -errno if the fault could not be served
  lockClass: word, // its name for reports, as a lock has it
  task: pointer<'cpu_area'>(), // the worker that is the engine
});
export type SvmEngine = Ptr<'svm_engine'>;

/** Invalidation events told apart in the statistics. */
export const EVENTS = 8;

/** One CPU's share of what the driver counts; only that CPU writes it. */
export const SvmStats = struct('svm_stats', {
  invalidations: words(EVENTS), // callbacks, by MMU_NOTIFY_*
  pages: address, // pages of the device's address space in the ranges of those callbacks
  faults: word, // faults serviced
  retries: word, // rounds of the collision-retry loop beyond the first
  refused: word, // faults that could not be served: -EFAULT, -EPERM
  batches: word,
  stale: word, // accesses that found a frame of another generation (INV-20); must stay 0
  line1: cacheline,
});
export type SvmStats = Ptr<'svm_stats'>;
