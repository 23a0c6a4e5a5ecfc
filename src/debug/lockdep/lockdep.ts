/**
 * lockdep: learns in which orders locks are taken, and reports those that can deadlock, whether they do or not.
 *
 * Kernel     kernel/locking/lockdep.c
 * Protocol   Locks are told apart by class. Each acquisition looks up the hash of (locks held, this one, context)
 *            among the chains that are known; what is known has been looked at. What is not is entered, and
 *            looked at under the graph's lock: validate.ts. All CPUs share one graph: a -> b on one and b -> a on
 *            another is found when the second comes.
 *              Two classes are no locks: `fs_reclaim`, which whoever may wait for reclaim takes for a moment, and
 *            reclaim itself holds; and `mmu_notifier_invalidate_range_start`, which is held around the callbacks
 *            of an invalidation, and taken for a moment by all who may have to wait for one. So what a driver
 *            does in a callback meets what somebody else does in an allocation, without anybody reclaiming.
 * Invariant  I1  INV-38: a cycle of CPUs that wait for each other's locks is a cycle in the graph.
 * Cost       A known chain: a few multiplications and two plain loads.
 * Deviation  Completions, wait queues, TLB shootdowns and fences are not modelled, as in Linux; the wait-for graph
 *            (debug/wait-graph.ts) sees those. Reports go on after the first.
 *
 * @module
 */
import { readOwn, writeOwn } from '#memory';

import type { Cpu, LockWatch } from '../../machine/cpu.js';
import { currentGfpContext, GFP_DIRECT_RECLAIM, GFP_FS, PF_MEMALLOC } from '../../machine/gfp.js';
import { lockClass } from '../../machine/lock-class.js';
import { NULL } from '../../memory/layout.js';
import { LOCK_EXCLUSIVE, LOCK_NESTED, LOCK_SYNC } from '../lock-how.js';
import {
  addChain,
  addEdge,
  classIndex,
  EDGE_EN,
  hasChain,
  LockGraph,
  lockGraph,
  unlockGraph,
} from './graph.js';
import { reportPlain } from './report.js';
import {
  findHeld,
  hardirqsEnabled,
  type LockdepTask,
  newTask,
  noteContext,
  prepare,
  preparedKey1,
  preparedKey2,
  push,
  removeEntry,
  resetTask,
  setKnown,
  softirqsEnabled,
  toRead,
} from './task.js';
import { markHeld } from './usage.js';
import { SOFTIRQ } from './usage-name.js';
import { checkFreed, validate } from './validate.js';

/** Whoever may wait for reclaim. @kernel __fs_reclaim_map */
const FS_RECLAIM = lockClass('fs_reclaim');
/** Whoever may wait for an invalidation. @kernel __mmu_notifier_invalidate_range_start_map */
export const NOTIFIER_MAP = lockClass('mmu_notifier_invalidate_range_start');

const WATCH: LockWatch = { onAlloc, onFree };

/** The CPU's part, made when it is first asked for. */
export function taskOf(cpu: Cpu): LockdepTask {
  return (cpu.lockWatch as LockdepTask | null) ?? makeTask(cpu);
}

function makeTask(cpu: Cpu): LockdepTask {
  const task = newTask(cpu, WATCH);
  cpu.lockWatch = task;
  const { graph } = task;
  if (graph === NULL) return task;
  lockGraph(cpu, graph);
  if (readOwn(cpu, graph, LockGraph.primed) === 0) prime(cpu, graph);
  unlockGraph(cpu, graph);
  return task;
}

/** Reclaim may invalidate, even if nobody has been seen to: the first report is then the one that says most. */
function prime(cpu: Cpu, graph: LockGraph): void {
  writeOwn(cpu, graph, LockGraph.primed, 1);
  const reclaim = classIndex(cpu, graph, FS_RECLAIM, 0);
  addEdge(cpu, graph, reclaim, classIndex(cpu, graph, NOTIFIER_MAP, 0), EDGE_EN, 0);
}

/** Back to a CPU that holds nothing, for who runs the same start many times. */
export function lockdepReset(cpu: Cpu): void {
  if (cpu.lockWatch !== null) resetTask(cpu.lockWatch as LockdepTask);
}

// --- taking and giving ---

/** The CPU is about to wait for the lock, if need be: looks at the order, and prepares the entry. */
export function lockdepAcquire(
  cpu: Cpu,
  task: LockdepTask,
  instance: number,
  name: number,
  how: number,
  nest: number,
): void {
  const { graph } = task;
  if (prepare(task, instance, name, how, nest) || graph === NULL) return;
  const key1 = preparedKey1(task);
  const key2 = preparedKey2(task);
  if (!hasChain(cpu, graph, key1, key2)) {
    lockGraph(cpu, graph);
    if (addChain(cpu, graph, key1, key2)) validate(cpu, task, lockdepAcquire);
    unlockGraph(cpu, graph);
  }
  setKnown(task);
}

/** The lock is held; not noted here unless lockdepAcquire came before: then nobody waits for it as for a lock. */
export function lockdepAcquired(cpu: Cpu, task: LockdepTask, instance: number): void {
  if (!push(task, instance))
    reportNow(cpu, task, 'too many locks are held to look at all', lockdepAcquired);
}

/** The lock is given back; false if the CPU does not hold it. */
export function lockdepRelease(task: LockdepTask, instance: number): boolean {
  const entry = findHeld(task, instance);
  if (entry < 0) return false;
  removeEntry(task, entry);
  return true;
}

/** The lock is held for reading from now on. */
export function lockdepDowngrade(task: LockdepTask, instance: number): void {
  const entry = findHeld(task, instance);
  if (entry >= 0) toRead(task, entry);
}

function reportNow(
  cpu: Cpu,
  task: LockdepTask,
  first: string,
  above: (...args: never) => unknown,
): void {
  if (task.graph === NULL) return;
  lockGraph(cpu, task.graph);
  reportPlain(cpu, task, first, above);
  unlockGraph(cpu, task.graph);
}

// --- classes without locks ---

/** As a lock of the class, which nobody ever waits for. `how`: lock-how.ts. */
export function mapAcquire(cpu: Cpu, name: number, how: number): void {
  const task = taskOf(cpu);
  lockdepAcquire(cpu, task, name, name, how, 0);
  lockdepAcquired(cpu, task, name);
}

export function mapRelease(cpu: Cpu, name: number): void {
  const task = taskOf(cpu);
  if (!lockdepRelease(task, name)) {
    reportNow(cpu, task, `bad unlock balance: a map is given back that is not held`, mapRelease);
  }
}

/** Taken and given back at once. */
export function mapTouch(cpu: Cpu, name: number, how = LOCK_EXCLUSIVE): void {
  lockdepAcquire(cpu, taskOf(cpu), name, name, how, 0);
}

/** A wait for all who hold the map. @kernel lock_sync */
export function mapSync(cpu: Cpu, name: number): void {
  mapTouch(cpu, name, LOCK_EXCLUSIVE | LOCK_SYNC);
}

// --- allocation and reclaim ---

/** The CPU reclaims, on behalf of an allocation with these flags. @kernel fs_reclaim_acquire */
export function fsReclaimAcquire(cpu: Cpu, gfp: number): void {
  const flags = currentGfpContext(cpu, gfp);
  if (!mayReclaim(cpu, flags)) return;
  if ((flags & GFP_FS) !== 0) mapAcquire(cpu, FS_RECLAIM, LOCK_EXCLUSIVE);
  mapTouch(cpu, NOTIFIER_MAP);
}

/** It has; `gfp` as before. @kernel fs_reclaim_release */
export function fsReclaimRelease(cpu: Cpu, gfp: number): void {
  const flags = currentGfpContext(cpu, gfp);
  if (mayReclaim(cpu, flags) && (flags & GFP_FS) !== 0) mapRelease(cpu, FS_RECLAIM);
}

function mayReclaim(cpu: Cpu, flags: number): boolean {
  return (flags & GFP_DIRECT_RECLAIM) !== 0 && (cpu.memallocFlags & PF_MEMALLOC) === 0;
}

function onAlloc(cpu: Cpu, gfp: number): void {
  fsReclaimAcquire(cpu, gfp);
  fsReclaimRelease(cpu, gfp);
}

function onFree(cpu: Cpu, at: number, words: number): void {
  const task = taskOf(cpu);
  if (task.depth === 0 || task.graph === NULL) return;
  lockGraph(cpu, task.graph);
  checkFreed(cpu, task, at, words, onFree);
  unlockGraph(cpu, task.graph);
}

/** A lock is made; nobody may hold what was there. */
export function lockdepInit(cpu: Cpu, instance: number): void {
  onFree(cpu, instance, 1);
}

/** A dependency without a lock: what is prepared is looked at, and not taken. @kernel might_lock */
export function lockdepMight(cpu: Cpu, instance: number, name: number, how: number): void {
  lockdepAcquire(cpu, taskOf(cpu), instance, name, how, 0);
}

/** As lockdepAcquire under a lock that is held around all of the class. */
export function lockdepAcquireNested(
  cpu: Cpu,
  instance: number,
  name: number,
  how: number,
  nest: number,
): void {
  lockdepAcquire(cpu, taskOf(cpu), instance, name, how | LOCK_NESTED, nest);
}

// --- interrupts ---

/** A hard interrupt begins on this CPU; `threaded` if its handler may be a thread in a real-time kernel. */
export function hardirqEnter(cpu: Cpu, threaded: boolean): void {
  const task = taskOf(cpu);
  task.hardirqs++;
  task.threaded = threaded;
  noteContext(task);
}

export function hardirqExit(cpu: Cpu): void {
  const task = taskOf(cpu);
  task.hardirqs--;
  noteContext(task);
}

export function softirqEnter(cpu: Cpu): void {
  const task = taskOf(cpu);
  task.softirqs++;
  noteContext(task);
}

export function softirqExit(cpu: Cpu): void {
  const task = taskOf(cpu);
  task.softirqs--;
  noteContext(task);
}

export function localIrqDisable(cpu: Cpu): void {
  const task = taskOf(cpu);
  task.hardirqsOff++;
  noteContext(task);
}

export function localIrqEnable(cpu: Cpu): void {
  const task = taskOf(cpu);
  task.hardirqsOff--;
  noteContext(task);
  if (!hardirqsEnabled(task) || task.depth === 0 || task.graph === NULL) return;
  lockGraph(cpu, task.graph);
  task.trace = 0;
  markHeld(cpu, task, 0, localIrqEnable);
  if (softirqsEnabled(task)) markHeld(cpu, task, SOFTIRQ, localIrqEnable);
  unlockGraph(cpu, task.graph);
}

export function localBhDisable(cpu: Cpu): void {
  const task = taskOf(cpu);
  task.softirqsOff++;
  noteContext(task);
}

export function localBhEnable(cpu: Cpu): void {
  const task = taskOf(cpu);
  task.softirqsOff--;
  noteContext(task);
  if (!softirqsEnabled(task) || !hardirqsEnabled(task)) return;
  if (task.depth === 0 || task.graph === NULL) return;
  lockGraph(cpu, task.graph);
  task.trace = 0;
  markHeld(cpu, task, SOFTIRQ, localBhEnable);
  unlockGraph(cpu, task.graph);
}
