/**
 * Layouts of what is done later: callbacks after grace periods, work items, kernel threads.
 *
 * @module
 */
import { Spinlock } from '../machine/types.js';
import { cacheline, pointer, type Ptr, struct, word } from '../memory/layout.js';
import { ListHead } from '../memory/list.js';
import { Completion } from '../sync/completion.js';
import { Mutex } from '../sync/mutex.js';
import { WaitQueue } from '../sync/wait-queue.js';

/** Something to be done once by a CPU that serves the work queues. */
export const WorkStruct = struct('work_struct', {
  pending: word, // 1 from being queued until it is taken to be run; under kworker_pool.lock
  lockClass: word, // its name; who runs it has it in the stack of held locks. Written once
  entry: ListHead, // in the pool's list or its queue's; under kworker_pool.lock
  ops: word, // ops table of its function; written once
  queue: pointer<'workqueue_struct'>(), // that it is, or was last, queued on; under kworker_pool.lock
  serial: word, // of this queueing: no other one's; under kworker_pool.lock
  canceling: word, // CPUs that cancel it: it cannot be queued; under kworker_pool.lock
});
export type WorkStruct = Ptr<'work_struct'>;

/** Work items that are limited in number, waited for and ended together. All under kworker_pool.lock. */
export const WorkqueueStruct = struct('workqueue_struct', {
  drainers: word, // who waits for it to be empty: until then only its own items may queue on it. @kernel nr_drainers
  lockClass: word, // its name. Written once
  maxActive: word, // items that may be in the pool, or run, at a time. Written once
  active: word, // that are
  inactive: ListHead, // that may not yet
});
export type WorkqueueStruct = Ptr<'workqueue_struct'>;

/** A CPU that serves the pool; on its own kernel stack. Under kworker_pool.lock. */
export const Kworker = struct('kworker', {
  entry: ListHead, // among the pool's
  task: pointer<'cpu_area'>(), // whose it is. Written once
  work: pointer<'work_struct'>(), // that it runs; maybe freed. 0 = none
  ops: word, // of that
  queue: pointer<'workqueue_struct'>(),
  serial: word,
});
export type Kworker = Ptr<'kworker'>;

/** Every item that may run now, and who may run it. */
export const KworkerPool = struct('kworker_pool', {
  lock: Spinlock,
  items: ListHead, // first come first
  kworkers: ListHead,
  serial: word, // of the last queueing
  stopping: word, // kworkers return when there is nothing left to do
  idle: WaitQueue, // kworkers with nothing to do
  done: WaitQueue, // who waits for an item, a queue, or the end of the kworkers
});
export type KworkerPool = Ptr<'kworker_pool'>;

/** In what is to be freed, or otherwise dealt with, after a grace period. @kernel struct rcu_head */
export const RcuHead = struct('rcu_head', {
  next: pointer<'rcu_head'>(), // queued after this one
  ops: word, // ops table of the callback
});
export type RcuHead = Ptr<'rcu_head'>;

/** Callbacks in the order they came. */
export const RcuQueue = struct('rcu_queue', {
  lock: Spinlock,
  head: pointer<'rcu_head'>(), // the first; under lock
  tail: pointer<'rcu_head'>(), // the last, if there is one; under lock
  queued: word, // callbacks that ever came; under lock
  invoked: word, // … and have returned; under lock
  work: WorkStruct, // waits for a grace period and calls them
});
export type RcuQueue = Ptr<'rcu_queue'>;

/** What readers of one bank hold, and who waits for them names. */
export const SrcuBank = struct('srcu_bank', {
  unused: word,
  lockClass: word, // the domain's name. Written once
});
export type SrcuBank = Ptr<'srcu_bank'>;

/** One CPU's counts of the readers of an SRCU domain; each written by that CPU alone. */
export const SrcuCounters = struct('srcu_counters', {
  locks0: word,
  locks1: word,
  unlocks0: word,
  unlocks1: word,
});
export type SrcuCounters = Ptr<'srcu_counters'>;

/** A domain of readers that may sleep, and of grace periods that wait for them. */
export const SrcuStruct = struct('srcu_struct', {
  index: word, // its low bit is the bank of new readers; written under mutex, read by readers without
  counters: word, // per-CPU offset of each CPU's SrcuCounters. Written once
  bank0: SrcuBank,
  bank1: SrcuBank,
  line1: cacheline,
  mutex: Mutex, // one grace period at a time
  callbacks: RcuQueue,
});
export type SrcuStruct = Ptr<'srcu_struct'>;

/** Who sleeps until a reader leaves. One for all domains: a reader that has left may not touch its own any more. */
export const SrcuSleepers = struct('srcu_sleepers', {
  waiting: word, // grace periods that do; atomic
  wait: WaitQueue,
});
export type SrcuSleepers = Ptr<'srcu_sleepers'>;

/** A count of references that is one word per CPU until somebody wants to know whether it is 0. */
export const PercpuRef = struct('percpu_ref', {
  counters: word, // flags in the two low bits; above: per-CPU offset of the counts, at the end the last count
  data: pointer<'percpu_ref_data'>(), // 0 after exit
});
export type PercpuRef = Ptr<'percpu_ref'>;

/** What is needed of it when the counts are not per CPU. */
export const PercpuRefData = struct('percpu_ref_data', {
  count: word, // of all CPUs, with a bias in per-CPU mode; atomic
  release: word, // ops table: what to do at 0. Written once
  confirm: word, // ops table: what to do when the switch under way is done; 0 = none is under way
  forceAtomic: word, // stays in atomic mode when it comes to life again; under percpuRefLock
  allowReinit: word, // it may come to life again; under percpuRefLock
  ref: pointer<'percpu_ref'>(), // written once
  rcu: RcuHead,
});
export type PercpuRefData = Ptr<'percpu_ref_data'>;

/** A count whose end somebody waits for; drained-ref.ts. */
export const DrainedRef = struct('drained_ref', {
  ref: PercpuRef,
  done: Completion, // nobody has a reference any more; its name is the count's
});
export type DrainedRef = Ptr<'drained_ref'>;

/** A kernel thread: a function for some CPU to run. */
export const Kthread = struct('kthread', {
  state: word, // KTHREAD_*; under kthread_list.lock
  lockClass: word, // its name; who runs it has it in the stack of held locks. Written once
  entry: ListHead, // among those that nobody runs yet; under kthread_list.lock
  ops: word, // ops table of its function. Written once
  data: word, // argument of that. Written once
  task: pointer<'cpu_area'>(), // who runs it; under kthread_list.lock
  shouldStop: word, // kthread_stop has been called
  result: word, // what the function returned; written before the state says so
});
export type Kthread = Ptr<'kthread'>;

/** Threads to run, and who may run them. */
export const KthreadList = struct('kthread_list', {
  lock: Spinlock,
  runnable: ListHead, // woken and not yet run, first come first
  stopping: word, // who runs threads returns when there is none left
  idle: WaitQueue, // CPUs with no thread to run
  exited: WaitQueue, // who waits for the end of a thread
});
export type KthreadList = Ptr<'kthread_list'>;

/** What a machine has of all this. */
export const Deferred = struct('deferred', {
  pool: KworkerPool,
  line1: cacheline,
  systemWq: WorkqueueStruct,
  rcu: RcuQueue,
  line2: cacheline,
  percpuRefLock: Spinlock, // every switch and end of a percpu_ref. @kernel percpu_ref_switch_lock
  percpuRefWait: WaitQueue, // who waits for the end of a switch. @kernel percpu_ref_switch_waitq
  line3: cacheline,
  kthreads: KthreadList,
  line4: cacheline,
});
export type Deferred = Ptr<'deferred'>;
