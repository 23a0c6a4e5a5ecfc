/**
 * Programs for deferred/: readers and grace periods, reference counts, work items, threads; and some that wait for
 * what does not come.
 *
 * @module
 */
import { fetchAdd, read, readOnce, storeRelease, write } from '#memory';

import { bootDeferred } from '../../src/deferred/boot.js';
import {
  kthreadRun,
  kthreadSchedule,
  kthreadShouldStop,
  kthreadStop,
  runKthreads,
  stopKthreads,
} from '../../src/deferred/kthread.js';
import { runKworker, stopKworkers } from '../../src/deferred/kworker.js';
import {
  PERCPU_REF_ALLOW_REINIT,
  percpuRefInit,
  percpuRefKillAndConfirm,
  percpuRefPut,
  percpuRefReinit,
  percpuRefTrygetLive,
} from '../../src/deferred/percpu-refcount.js';
import {
  callRcu,
  rcuBarrier,
  rcuReadLock,
  rcuReadUnlock,
  synchronizeRcu,
} from '../../src/deferred/rcu.js';
import {
  callSrcu,
  initSrcuStruct,
  sleepersOf,
  srcuBarrier,
  srcuReadLock,
  srcuReadUnlock,
  synchronizeSrcu,
} from '../../src/deferred/srcu.js';
import {
  type Kthread,
  PercpuRef,
  RcuHead,
  SrcuSleepers,
  SrcuStruct,
  WorkqueueStruct,
  WorkStruct,
} from '../../src/deferred/types.js';
import {
  allocWorkqueue,
  drainWorkqueue,
  flushWork,
  initWork,
  queueSystemWork,
  queueWork,
} from '../../src/deferred/workqueue.js';
import { type Cpu, cpuArea } from '../../src/machine/cpu.js';
import { lockClass } from '../../src/machine/lock-class.js';
import { defineOps } from '../../src/machine/ops-table.js';
import {
  cpuRelax,
  setCurrentRunning,
  setCurrentState,
  TASK_INTERRUPTIBLE,
} from '../../src/machine/sched.js';
import { CpuArea, MACHINE, Machine } from '../../src/machine/types.js';
import {
  cacheline,
  containerOf,
  element,
  type Field,
  member,
  pointer,
  type Ptr,
  struct,
  word,
  words,
} from '../../src/memory/layout.js';
import {
  complete,
  Completion,
  initCompletion,
  reinitCompletion,
  waitForCompletion,
} from '../../src/sync/completion.js';
import { initMutex, Mutex, mutexLock, mutexUnlock } from '../../src/sync/mutex.js';

const NAME = lockClass('deferred_arena->lock');
export const DOMAIN = lockClass('test->srcu');
export const ITEM = lockClass('test->work');
export const THREAD = lockClass('test->kthread');

const SLOTS = 8;

/** One version of something that readers look at: both words the same, and not 0, while it is published. */
const Slot = struct('deferred_slot', {
  left: word,
  right: word,
  rcu: RcuHead,
  index: word,
  line1: cacheline,
});
type Slot = Ptr<'deferred_slot'>;

export const DeferredArena = struct('deferred_arena', {
  started: word, // CPUs at the gate; atomic
  running: word, // updaters, or users, that have not done; atomic
  line1: cacheline,
  current: word, // the slot that is published
  line2: cacheline,
  slots: words(SLOTS * Slot.words),
  taken: words(SLOTS), // slots in use; under mutex
  waited: word, // grace periods that began with a reader inside; atomic
  called: word, // callbacks; atomic
  mutex: Mutex,
  line3: cacheline,
  domain: SrcuStruct,
  line4: cacheline,
  ref: PercpuRef,
  line5: cacheline,
  users: word, // references in use, or SRCU readers inside; atomic
  line6: cacheline,
  life: word, // of the reference count: odd while it lives
  confirmed: word, // confirm has been called in this life
  releases: word, // atomic
  refused: word, // tryget_live in a life that was ending; atomic
  wrong: word, // things that must not be; atomic
  released: Completion,
  confirmation: Completion,
  line7: cacheline,
  work: WorkStruct,
  line8: cacheline,
  posted: word, // atomic
  line9: cacheline,
  done: word,
  runs: word, // of the item or of threads; references that were got. Atomic
  isRunning: word, // atomic
  merged: word, // queueings of an item that was queued; atomic
  line10: cacheline,
  queue: pointer<'workqueue_struct'>(), // that is drained. Written once
  stranger: WorkStruct, // an item that somebody would queue there meanwhile
  tried: word, // … and has tried to
});
export type DeferredArena = Ptr<'deferred_arena'>;

export function initDeferredArena(cpu: Cpu, arena: DeferredArena): DeferredArena {
  bootDeferred(cpu);
  initMutex(cpu, member(arena, DeferredArena.mutex), NAME);
  initSrcuStruct(cpu, member(arena, DeferredArena.domain), DOMAIN);
  initCompletion(cpu, member(arena, DeferredArena.released), NAME);
  initCompletion(cpu, member(arena, DeferredArena.confirmation), NAME);
  for (let i = 0; i < SLOTS; i++) write(cpu, slotAt(arena, i), Slot.index, i);
  const first = takeSlot(cpu, arena);
  fill(cpu, first, 1);
  storeRelease(cpu, arena, DeferredArena.current, first);
  return arena;
}

/** How many have to finish before whoever serves is stopped. */
export function setRunning(cpu: Cpu, arena: DeferredArena, running: number): void {
  write(cpu, arena, DeferredArena.running, running);
}

/** Starts all CPUs as nearly at once as can be. */
function gate(cpu: Cpu, arena: DeferredArena): void {
  fetchAdd(cpu, arena, DeferredArena.started, 1);
  const cpus = read(cpu, MACHINE, Machine.cpus);
  for (let i = 0; readOnce(cpu, arena, DeferredArena.started) < cpus; i++) cpuRelax(cpu, i);
}

const count = (cpu: Cpu, arena: DeferredArena, field: Field<'deferred_arena'>): number =>
  fetchAdd(cpu, arena, field, 1) + 1;

// --- readers and updaters ---

const slotAt = (arena: DeferredArena, i: number): Slot =>
  (arena + DeferredArena.slots + i * Slot.words) as Slot;

/** A slot that nobody uses; 0 if there is none. */
function takeSlot(cpu: Cpu, arena: DeferredArena): Slot {
  const mutex = member(arena, DeferredArena.mutex);
  mutexLock(cpu, mutex);
  let found = 0 as Slot;
  for (let i = 0; i < SLOTS && found === 0; i++) {
    if (readOnce(cpu, arena, element(DeferredArena.taken, i)) !== 0) continue;
    storeRelease(cpu, arena, element(DeferredArena.taken, i), 1);
    found = slotAt(arena, i);
  }
  mutexUnlock(cpu, mutex);
  return found;
}

function fill(cpu: Cpu, slot: Slot, value: number): void {
  write(cpu, slot, Slot.left, value);
  write(cpu, slot, Slot.right, value);
}

/** After this the slot is somebody else's. */
function giveBack(cpu: Cpu, arena: DeferredArena, slot: Slot): void {
  fill(cpu, slot, 0);
  storeRelease(cpu, arena, element(DeferredArena.taken, read(cpu, slot, Slot.index)), 0);
}

/** Looks at a version for a while; 1 if it changed meanwhile. */
function look(cpu: Cpu, slot: Slot, turns: number): number {
  const value = read(cpu, slot, Slot.left);
  for (let i = 0; i < turns; i++) cpuRelax(cpu, i);
  return value !== 0 && value === read(cpu, slot, Slot.right) ? 0 : 1;
}

/** How often a version changed under a reader. */
export function rcuReader(cpu: Cpu, arena: DeferredArena): number {
  let wrong = 0;
  gate(cpu, arena);
  for (let i = 0; readOnce(cpu, arena, DeferredArena.running) > 0; i++) {
    rcuReadLock(cpu);
    const slot = readOnce(cpu, arena, DeferredArena.current) as Slot;
    rcuReadLock(cpu);
    wrong += look(cpu, slot, i & 63);
    rcuReadUnlock(cpu);
    rcuReadUnlock(cpu);
  }
  return wrong;
}

/** As rcuReader, with sections in which it may sleep. */
export function srcuReader(cpu: Cpu, arena: DeferredArena): number {
  const domain = member(arena, DeferredArena.domain);
  let wrong = 0;
  gate(cpu, arena);
  for (let i = 0; readOnce(cpu, arena, DeferredArena.running) > 0; i++) {
    const bank = srcuReadLock(cpu, domain);
    const slot = readOnce(cpu, arena, DeferredArena.current) as Slot;
    fetchAdd(cpu, arena, DeferredArena.users, 1);
    if ((i & 15) === 0) takeAndGive(cpu, arena);
    wrong += look(cpu, slot, i & 63);
    fetchAdd(cpu, arena, DeferredArena.users, -1);
    srcuReadUnlock(cpu, domain, bank);
  }
  return wrong;
}

/** Whoever has the mutex never waits for readers. */
function takeAndGive(cpu: Cpu, arena: DeferredArena): void {
  mutexLock(cpu, member(arena, DeferredArena.mutex));
  mutexUnlock(cpu, member(arena, DeferredArena.mutex));
}

/** Enough updates, and a grace period began with a reader inside, or the test shows nothing. */
const UPDATES = 400;
const UPDATES_MAX = 400_000;

function goesOn(cpu: Cpu, arena: DeferredArena, updates: number): boolean {
  if (updates < UPDATES) return true;
  return updates < UPDATES_MAX && readOnce(cpu, arena, DeferredArena.waited) < UPDATES / 10;
}

/** Publishes a version; the one before, or 0 if there was no slot. */
function replace(cpu: Cpu, arena: DeferredArena, value: number): Slot {
  const next = takeSlot(cpu, arena);
  if (next === 0) return next;
  fill(cpu, next, value);
  const mutex = member(arena, DeferredArena.mutex);
  mutexLock(cpu, mutex);
  const old = readOnce(cpu, arena, DeferredArena.current) as Slot;
  storeRelease(cpu, arena, DeferredArena.current, next);
  mutexUnlock(cpu, mutex);
  return old;
}

function isReaderInside(cpu: Cpu): boolean {
  const cpus = read(cpu, MACHINE, Machine.cpus);
  for (let id = 0; id < cpus; id++) {
    if ((readOnce(cpu, cpuArea(id), CpuArea.rcuReader) & 1) !== 0) return true;
  }
  return false;
}

function finishUpdates(cpu: Cpu, arena: DeferredArena): void {
  rcuBarrier(cpu);
  srcuBarrier(cpu, member(arena, DeferredArena.domain));
  if (fetchAdd(cpu, arena, DeferredArena.running, -1) === 1) stopKworkers(cpu);
}

/** Waits for each grace period itself. */
export function rcuUpdater(cpu: Cpu, arena: DeferredArena): number {
  let updates = 0;
  gate(cpu, arena);
  for (; goesOn(cpu, arena, updates); updates++) {
    const old = replace(cpu, arena, updates + 1);
    if (old === 0) continue;
    if (isReaderInside(cpu)) count(cpu, arena, DeferredArena.waited);
    synchronizeRcu(cpu);
    giveBack(cpu, arena, old);
  }
  finishUpdates(cpu, arena);
  return updates;
}

/** Has kworkers give the versions back; how many it were. */
export function rcuCaller(cpu: Cpu, arena: DeferredArena): number {
  let calls = 0;
  gate(cpu, arena);
  for (let updates = 0; goesOn(cpu, arena, updates); updates++) {
    const old = replace(cpu, arena, updates + 1);
    if (old === 0) {
      rcuBarrier(cpu); // all slots wait for their callbacks
      continue;
    }
    callRcu(cpu, member(old, Slot.rcu), slotOps);
    calls++;
  }
  finishUpdates(cpu, arena);
  return calls;
}

export function srcuUpdater(cpu: Cpu, arena: DeferredArena): number {
  const domain = member(arena, DeferredArena.domain);
  let updates = 0;
  gate(cpu, arena);
  for (; goesOn(cpu, arena, updates); updates++) {
    const old = replace(cpu, arena, updates + 1);
    if (old === 0) continue;
    if (readOnce(cpu, arena, DeferredArena.users) !== 0) count(cpu, arena, DeferredArena.waited);
    synchronizeSrcu(cpu, domain);
    giveBack(cpu, arena, old);
  }
  finishUpdates(cpu, arena);
  return updates;
}

export function srcuCaller(cpu: Cpu, arena: DeferredArena): number {
  const domain = member(arena, DeferredArena.domain);
  let calls = 0;
  gate(cpu, arena);
  for (let updates = 0; goesOn(cpu, arena, updates); updates++) {
    const old = replace(cpu, arena, updates + 1);
    if (old === 0) {
      srcuBarrier(cpu, domain);
      continue;
    }
    if (readOnce(cpu, arena, DeferredArena.users) !== 0) count(cpu, arena, DeferredArena.waited);
    callSrcu(cpu, domain, member(old, Slot.rcu), slotOps);
    calls++;
  }
  finishUpdates(cpu, arena);
  return calls;
}

/** Where slots are, by their arena: all of them in one. */
export const slotOps = defineOps({
  opsName: 'test slots',
  callback(cpu: Cpu, head: RcuHead) {
    const slot: Slot = containerOf(head, Slot.rcu);
    const first = slot - read(cpu, slot, Slot.index) * Slot.words;
    const arena = (first - DeferredArena.slots) as DeferredArena;
    count(cpu, arena, DeferredArena.called);
    giveBack(cpu, arena, slot);
  },
});

// --- serving ---

export function kworker(cpu: Cpu, arena: DeferredArena): number {
  gate(cpu, arena);
  return runKworker(cpu);
}

export function kthreadRunner(cpu: Cpu, arena: DeferredArena): number {
  gate(cpu, arena);
  return runKthreads(cpu);
}

// --- reference counts ---

export const LIVES = 60;

export const refOps = defineOps({
  opsName: 'test percpu_ref',
  release(cpu: Cpu, ref: PercpuRef) {
    const arena: DeferredArena = containerOf(ref, DeferredArena.ref);
    if (readOnce(cpu, arena, DeferredArena.users) !== 0) count(cpu, arena, DeferredArena.wrong);
    if ((readOnce(cpu, arena, DeferredArena.life) & 1) !== 0)
      count(cpu, arena, DeferredArena.wrong);
    count(cpu, arena, DeferredArena.releases);
    complete(cpu, member(arena, DeferredArena.released));
  },
  confirm(cpu: Cpu, ref: PercpuRef) {
    const arena: DeferredArena = containerOf(ref, DeferredArena.ref);
    storeRelease(cpu, arena, DeferredArena.confirmed, readOnce(cpu, arena, DeferredArena.life));
    complete(cpu, member(arena, DeferredArena.confirmation));
  },
});

/** Makes the reference count; it lives. */
export function initRef(cpu: Cpu, arena: DeferredArena): void {
  percpuRefInit(cpu, member(arena, DeferredArena.ref), refOps, PERCPU_REF_ALLOW_REINIT);
  write(cpu, arena, DeferredArena.life, 1);
}

/** Takes references while there is a life, and gives them back; how often it got one. */
export function refUser(cpu: Cpu, arena: DeferredArena): number {
  const ref = member(arena, DeferredArena.ref);
  let got = 0;
  gate(cpu, arena);
  while (readOnce(cpu, arena, DeferredArena.life) <= 2 * LIVES) {
    const confirmed = readOnce(cpu, arena, DeferredArena.confirmed);
    const isLive = percpuRefTrygetLive(cpu, ref);
    if (!isLive) {
      count(cpu, arena, DeferredArena.refused);
      continue;
    }
    fetchAdd(cpu, arena, DeferredArena.users, 1);
    // confirm says in which life, which ends; only a later life gives references
    if (confirmed !== 0 && readOnce(cpu, arena, DeferredArena.life) === confirmed) {
      count(cpu, arena, DeferredArena.wrong);
    }
    got++;
    count(cpu, arena, DeferredArena.runs);
    fetchAdd(cpu, arena, DeferredArena.users, -1);
    percpuRefPut(cpu, ref);
  }
  return got;
}

/** Ends life after life; each is seen by a user before. */
export function refKiller(cpu: Cpu, arena: DeferredArena): number {
  const ref = member(arena, DeferredArena.ref);
  gate(cpu, arena);
  for (let life = 1; life < 2 * LIVES; life += 2) {
    const before = readOnce(cpu, arena, DeferredArena.runs);
    for (let i = 0; readOnce(cpu, arena, DeferredArena.runs) === before; i++) cpuRelax(cpu, i);
    storeRelease(cpu, arena, DeferredArena.life, life + 1);
    percpuRefKillAndConfirm(cpu, ref, refOps);
    waitForCompletion(cpu, member(arena, DeferredArena.confirmation));
    waitForCompletion(cpu, member(arena, DeferredArena.released));
    reinitCompletion(cpu, member(arena, DeferredArena.released));
    reinitCompletion(cpu, member(arena, DeferredArena.confirmation));
    if (life + 2 >= 2 * LIVES) break;
    storeRelease(cpu, arena, DeferredArena.life, life + 2);
    percpuRefReinit(cpu, ref);
  }
  storeRelease(cpu, arena, DeferredArena.life, 2 * LIVES + 1);
  stopKworkers(cpu);
  return readOnce(cpu, arena, DeferredArena.releases);
}

// --- work items ---

export const POSTS = 3000;

export const postedWork = defineOps({
  opsName: 'test posted work',
  work(cpu: Cpu, work: WorkStruct) {
    const arena: DeferredArena = containerOf(work, DeferredArena.work);
    if (fetchAdd(cpu, arena, DeferredArena.isRunning, 1) !== 0)
      count(cpu, arena, DeferredArena.wrong);
    storeRelease(cpu, arena, DeferredArena.done, readOnce(cpu, arena, DeferredArena.posted));
    count(cpu, arena, DeferredArena.runs);
    fetchAdd(cpu, arena, DeferredArena.isRunning, -1);
  },
});

export const lockedWork = defineOps({
  opsName: 'test locked work',
  work(cpu: Cpu, work: WorkStruct) {
    takeAndGive(cpu, containerOf(work, DeferredArena.work));
  },
});

export const selfFlushing = defineOps({
  opsName: 'test self flushing',
  work(cpu: Cpu, work: WorkStruct) {
    flushWork(cpu, work);
  },
});

/** Queues the item again and again; each time it must run once more. How often it was queued already. */
export function poster(cpu: Cpu, arena: DeferredArena): number {
  const work = member(arena, DeferredArena.work);
  let wrong = 0;
  gate(cpu, arena);
  for (let i = 0; i < POSTS; i++) {
    const posted = count(cpu, arena, DeferredArena.posted);
    if (!queueSystemWork(cpu, work)) count(cpu, arena, DeferredArena.merged);
    if (i % 50 !== 0) continue;
    flushWork(cpu, work);
    if (readOnce(cpu, arena, DeferredArena.done) < posted) wrong++;
  }
  if (fetchAdd(cpu, arena, DeferredArena.running, -1) === 1) stopKworkers(cpu);
  return wrong;
}

/** Puts an item in the arena. */
export function initItem(cpu: Cpu, arena: DeferredArena, ops: typeof postedWork): void {
  initWork(cpu, member(arena, DeferredArena.work), ops, ITEM);
}

/** Queues itself once, while its queue is being drained, which goes on until a stranger has tried to queue there. */
export const drainedWork = defineOps({
  opsName: 'test drained work',
  work(cpu: Cpu, work: WorkStruct) {
    const arena: DeferredArena = containerOf(work, DeferredArena.work);
    if (count(cpu, arena, DeferredArena.runs) === 1) {
      awaitDrain(cpu, arena);
      const isQueued = queueWork(cpu, read(cpu, arena, DeferredArena.queue), work);
      if (!isQueued) count(cpu, arena, DeferredArena.wrong);
    }
    for (let i = 0; readOnce(cpu, arena, DeferredArena.tried) === 0; i++) cpuRelax(cpu, i);
  },
});

function awaitDrain(cpu: Cpu, arena: DeferredArena): void {
  const queue = read(cpu, arena, DeferredArena.queue);
  for (let i = 0; readOnce(cpu, queue, WorkqueueStruct.drainers) === 0; i++) cpuRelax(cpu, i);
}

/** A queue to be drained, and who belongs there and who does not. */
export function initDrain(cpu: Cpu, arena: DeferredArena): void {
  write(cpu, arena, DeferredArena.queue, allocWorkqueue(cpu, ITEM));
  initItem(cpu, arena, drainedWork);
  initWork(cpu, member(arena, DeferredArena.stranger), postedWork, ITEM);
}

/** Queues the item and drains its queue; how often it has run then. */
export function drain(cpu: Cpu, arena: DeferredArena): number {
  const queue = read(cpu, arena, DeferredArena.queue);
  queueWork(cpu, queue, member(arena, DeferredArena.work));
  drainWorkqueue(cpu, queue);
  const runs = readOnce(cpu, arena, DeferredArena.runs);
  stopKworkers(cpu);
  return runs;
}

/** Tries to queue an item during the drain; 1 if it could. */
export function intrude(cpu: Cpu, arena: DeferredArena): number {
  awaitDrain(cpu, arena);
  const stranger = member(arena, DeferredArena.stranger);
  const isQueued = queueWork(cpu, read(cpu, arena, DeferredArena.queue), stranger);
  storeRelease(cpu, arena, DeferredArena.tried, 1);
  return isQueued ? 1 : 0;
}

// --- threads ---

export const THREADS = 200;

export const sleepyThread = defineOps({
  opsName: 'test sleepy thread',
  run(cpu: Cpu, kthread: Kthread, at: number) {
    count(cpu, at as DeferredArena, DeferredArena.runs);
    for (;;) {
      setCurrentState(cpu, TASK_INTERRUPTIBLE);
      if (kthreadShouldStop(cpu, kthread)) break;
      kthreadSchedule(cpu, kthread);
    }
    setCurrentRunning(cpu);
    return 5;
  },
});

/** Starts threads and stops them, some before they can have begun; how many said that they ran. */
export function threadOwner(cpu: Cpu, arena: DeferredArena): number {
  let ran = 0;
  gate(cpu, arena);
  for (let i = 0; i < THREADS; i++) {
    const kthread = kthreadRun(cpu, sleepyThread, arena, THREAD);
    for (let spin = 0; spin < (i & 7) * 500; spin++) cpuRelax(cpu, spin);
    if (kthreadStop(cpu, kthread) === 5) ran++;
  }
  if (fetchAdd(cpu, arena, DeferredArena.running, -1) === 1) stopKthreads(cpu);
  return ran;
}

// --- what does not end ---

/** LT-25. */
export function synchronizeInside(cpu: Cpu, arena: DeferredArena): void {
  const domain = member(arena, DeferredArena.domain);
  const bank = srcuReadLock(cpu, domain);
  synchronizeSrcu(cpu, domain);
  srcuReadUnlock(cpu, domain, bank);
}

/** Reads, and wants what srcuWaiter has. */
export function srcuHolder(cpu: Cpu, arena: DeferredArena): void {
  const domain = member(arena, DeferredArena.domain);
  const bank = srcuReadLock(cpu, domain);
  gate(cpu, arena);
  for (let i = 0; readOnce(cpu, sleepersOf(cpu), SrcuSleepers.waiting) === 0; i++) cpuRelax(cpu, i);
  takeAndGive(cpu, arena);
  srcuReadUnlock(cpu, domain, bank);
}

export function srcuWaiter(cpu: Cpu, arena: DeferredArena): void {
  mutexLock(cpu, member(arena, DeferredArena.mutex));
  gate(cpu, arena);
  synchronizeSrcu(cpu, member(arena, DeferredArena.domain));
}

/** Nobody runs the item that it waits for. */
export function flushAlone(cpu: Cpu, arena: DeferredArena): void {
  queueSystemWork(cpu, member(arena, DeferredArena.work));
  flushWork(cpu, member(arena, DeferredArena.work));
}

export function rcuBarrierAlone(cpu: Cpu, arena: DeferredArena): void {
  callRcu(cpu, member(slotAt(arena, 1), Slot.rcu), slotOps);
  rcuBarrier(cpu);
}

export function stopAlone(cpu: Cpu, arena: DeferredArena): void {
  const kthread = kthreadRun(cpu, neverEnding, arena, THREAD);
  gate(cpu, arena);
  while (readOnce(cpu, arena, DeferredArena.runs) === 0) cpuRelax(cpu, 0);
  kthreadStop(cpu, kthread);
}

/** It does not look whether it is to stop. */
export const neverEnding = defineOps({
  opsName: 'test never ending thread',
  run(cpu: Cpu, kthread: Kthread, at: number) {
    count(cpu, at as DeferredArena, DeferredArena.runs);
    for (;;) {
      setCurrentState(cpu, TASK_INTERRUPTIBLE);
      kthreadSchedule(cpu, kthread);
    }
  },
});

/** Flushes the item under the mutex that it takes. */
export function flushLocked(cpu: Cpu, arena: DeferredArena): void {
  mutexLock(cpu, member(arena, DeferredArena.mutex));
  flushAlone(cpu, arena);
}

export function post(cpu: Cpu, arena: DeferredArena): void {
  queueSystemWork(cpu, member(arena, DeferredArena.work));
}

/** Serves without a gate. */
export function serve(cpu: Cpu): void {
  runKworker(cpu);
}

/** A reader that never leaves, for rcuWaiter. */
export function rcuStayer(cpu: Cpu, arena: DeferredArena): void {
  rcuReadLock(cpu);
  gate(cpu, arena);
  for (let i = 0; ; i++) cpuRelax(cpu, i);
}

export function rcuWaiter(cpu: Cpu, arena: DeferredArena): void {
  gate(cpu, arena);
  synchronizeRcu(cpu);
}
