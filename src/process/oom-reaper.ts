/**
 * Running out of memory: a victim is chosen and killed, and a kernel thread takes its memory without waiting
 * until it has died.
 *
 * Kernel     mm/oom_kill.c
 * Protocol   who kills                              the reaper
 *              pin the victim's mm by mm_count        after the delay, up to ten times:
 *              SIGKILL                                  trylock the mmap lock for reading
 *              queue the victim, once per mm            MMF_OOM_SKIP: exit was faster
 *                                                       MMF_UNSTABLE
 *            the victim                                 each private VMA: UNMAP that may not block;
 *              exit, when it gets that far:               -EAGAIN: leave it out, and try again later
 *              MMF_OOM_SKIP, then the lock              clear its entries, end, free the frames
 *              for writing                            MMF_OOM_SKIP in any case
 *
 *            From MMF_UNSTABLE on no missing private page is made anew: the victim, which may still run, would
 *            find zeroes where its data was. It gets SIGBUS, a device -EFAULT.
 * Invariant  I1  The reaper waits for nothing but its own delays and spinlocks (INV-36): not for the mmap lock,
 *                whose holder may be waiting for memory, not for a driver's, and not for an address space to end.
 *            I2  It looks at page tables only with the mmap lock, and never after exit has it for writing (INV-37).
 *            I3  Each victim's mm is queued once.
 *            I4  Between two attempts it sleeps the whole time, whoever is killed meanwhile: who kills wakes the
 *                queue that the reaper is in while it waits for victims, and not the reaper.
 * Ordering   The reaper runs beside exit's own unmapping: page table locks decide who clears an entry.
 * Deviation  Here all of a reaping may not sleep (nonBlockStart); Linux watches over the methods of lists only.
 *            Who the victim is, the caller says. The victims' delays are in the queue, not a timer each.
 *
 * @module
 */
import {
  clockMs,
  cmpxchg,
  fetchOr,
  read,
  readAddress,
  readOnce,
  write,
  writeAddress,
} from '#memory';
import { isMutant, M_REAP_WAITS, M_UNSTABLE_LATE } from '#mutants';

import { bug } from '../base/bug.js';
import { EAGAIN } from '../base/errno.js';
import {
  kthreadCreate,
  type KthreadOps,
  kthreadShouldStop,
  kthreadStop,
  wakeUpKthread,
} from '../deferred/kthread.js';
import type { Kthread } from '../deferred/types.js';
import type { Cpu } from '../machine/cpu.js';
import { lockClass } from '../machine/lock-class.js';
import { defineKernelOps } from '../machine/ops-table.js';
import { allocPercpu } from '../machine/percpu.js';
import {
  beginWait,
  endWait,
  mightSleep,
  nonBlockEnd,
  nonBlockStart,
  schedule,
  scheduleTimeout,
  sendSigkill,
  setCurrentState,
  TASK_UNINTERRUPTIBLE,
} from '../machine/sched.js';
import { stackPop, stackPush } from '../machine/stack.js';
import { MACHINE, Machine } from '../machine/types.js';
import { WAIT_OOM, WAIT_REAPER } from '../machine/wait-kind.js';
import { containerOf, member, NULL } from '../memory/layout.js';
import { initListHead, listAddTail, listDelInit, listEmpty, listNext } from '../memory/list.js';
import { mmapReadLock, mmapReadTrylock, mmapReadUnlock } from '../mm/mmap-lock.js';
import { tlbFinishMmu, tlbGatherMmu } from '../mm/mmu-gather.js';
import {
  MMF_OOM_REAP_QUEUED,
  MMF_OOM_SKIP,
  MMF_UNSTABLE,
  MmStruct,
  VM_HUGETLB,
  VM_PFNMAP,
  VM_SHARED,
  VmAreaStruct,
} from '../mm/types.js';
import { vmaEnd, vmaStart } from '../mm/vma.js';
import { vmaTreeFirst } from '../mm/vma-tree.js';
import { unmapPageRange } from '../mm/zap.js';
import { mmgrab } from '../notifier/mm-count.js';
import {
  mmuNotifierInvalidateRangeEnd,
  mmuNotifierInvalidateRangeStartNonblock,
} from '../notifier/mmu-notifier.js';
import { MMU_NOTIFY_UNMAP, mmuNotifierRangeInit } from '../notifier/mmu-notifier-range.js';
import { MmuNotifierRange } from '../notifier/types.js';
import { initSpinlock, spinLock, spinUnlock } from '../sync/spinlock.js';
import {
  finishWait,
  initWait,
  initWaitQueue,
  prepareToWait,
  wakeUp,
  wakeUpAll,
} from '../sync/wait-queue.js';
import { getTask, putTask } from './task.js';
import { OomReaper, Task } from './types.js';

const OOM_LOCK = lockClass('oom_reaper_lock');
const OOM_WAIT = lockClass('oom_reaper_wait');
const OOM_KTHREAD = lockClass('oom_reaper');
/** @kernel OOM_REAPER_DELAY. Unit: milliseconds */
const DELAY_MS = 2000;
/** Between two attempts. Unit: milliseconds */
const RETRY_MS = 100;
/** @kernel MAX_OOM_REAP_RETRIES */
const ATTEMPTS_MAX = 10;

// --- victims ---

/**
 * Kills the task for its memory: pins its mm, signals it, and has the reaper take what it has in a while. False if
 * the task has given its address space up already. The caller has a reference to the task. Never sleeps.
 * @kernel oom_kill_process
 */
export function oomKill(cpu: Cpu, task: Task): boolean {
  const mm = markOomVictim(cpu, task);
  if (mm === NULL) return false;
  const area = read(cpu, task, Task.cpu);
  if (area !== NULL) sendSigkill(cpu, area);
  queueOomReaper(cpu, task, mm);
  return true;
}

/** The task's mm, pinned for as long as the task is; NULL if it has none. @kernel mark_oom_victim */
function markOomVictim(cpu: Cpu, task: Task): MmStruct {
  const lock = member(task, Task.lock);
  spinLock(cpu, lock);
  const mm = read(cpu, task, Task.mm); // the task uses it until the lock is given back
  if (mm !== NULL && cmpxchg(cpu, task, Task.oomMm, NULL, mm) === NULL) mmgrab(cpu, mm);
  spinUnlock(cpu, lock);
  return mm;
}

/** @kernel queue_oom_reaper */
function queueOomReaper(cpu: Cpu, task: Task, mm: MmStruct): void {
  if ((fetchOr(cpu, mm, MmStruct.flags, MMF_OOM_REAP_QUEUED) & MMF_OOM_REAP_QUEUED) !== 0) return; // I3
  const reaper = reaperOf(cpu);
  const lock = member(reaper, OomReaper.lock);
  getTask(cpu, task); // put when it is done with
  const reapAt = clockMs(cpu) + read(cpu, reaper, OomReaper.delayMs);
  spinLock(cpu, lock);
  writeAddress(cpu, task, Task.reapAt, Math.ceil(reapAt));
  listAddTail(cpu, member(task, Task.victim), member(reaper, OomReaper.victims));
  spinUnlock(cpu, lock);
  wakeUp(cpu, member(reaper, OomReaper.wait)); // I4
}

// --- one address space ---

/**
 * Takes what it can of an address space, which the caller pins by mm_count; false if something is left that may
 * be had later. Waits for nobody (I1). @kernel oom_reap_task_mm
 */
export function oomReapTaskMm(cpu: Cpu, mm: MmStruct): boolean {
  nonBlockStart(cpu);
  const isDone = tryReap(cpu, mm);
  nonBlockEnd(cpu);
  return isDone;
}

/**
 * The system call, for an address space whose tasks have been killed, and which the caller pins by mm_count: takes
 * what it can of it: 0, or -EAGAIN if something is left. No lock held. Sleeps. @kernel sys_process_mrelease
 */
export function processMrelease(cpu: Cpu, mm: MmStruct): number {
  mmapReadLock(cpu, mm);
  const isOver = (readOnce(cpu, mm, MmStruct.flags) & MMF_OOM_SKIP) !== 0;
  nonBlockStart(cpu);
  const isDone = isOver || reapVmas(cpu, mm);
  nonBlockEnd(cpu);
  mmapReadUnlock(cpu, mm);
  return isDone ? 0 : -EAGAIN;
}

function tryReap(cpu: Cpu, mm: MmStruct): boolean {
  if (isMutant(cpu, M_REAP_WAITS)) mmapReadLock(cpu, mm);
  else if (!mmapReadTrylock(cpu, mm)) return false;
  // with the lock: from when exit has it for writing, this is set (I2)
  const isOver = (readOnce(cpu, mm, MmStruct.flags) & MMF_OOM_SKIP) !== 0;
  const isDone = isOver || reapVmas(cpu, mm);
  mmapReadUnlock(cpu, mm);
  return isDone;
}

/** @kernel __oom_reap_task_mm */
function reapVmas(cpu: Cpu, mm: MmStruct): boolean {
  if (!isMutant(cpu, M_UNSTABLE_LATE)) fetchOr(cpu, mm, MmStruct.flags, MMF_UNSTABLE);
  let isDone = true;
  let vma = vmaTreeFirst(cpu, member(mm, MmStruct.vmas));
  for (; vma !== NULL; vma = read(cpu, vma, VmAreaStruct.next)) {
    if (isPrivate(cpu, vma) && !reapVma(cpu, mm, vma)) isDone = false;
  }
  if (isMutant(cpu, M_UNSTABLE_LATE)) fetchOr(cpu, mm, MmStruct.flags, MMF_UNSTABLE);
  return isDone;
}

/** True if the VMA has memory that nobody else can want. */
function isPrivate(cpu: Cpu, vma: VmAreaStruct): boolean {
  const flags = read(cpu, vma, VmAreaStruct.flags);
  if ((flags & (VM_HUGETLB | VM_PFNMAP)) !== 0) return false;
  return read(cpu, vma, VmAreaStruct.file) === NULL || (flags & VM_SHARED) === 0;
}

function reapVma(cpu: Cpu, mm: MmStruct, vma: VmAreaStruct): boolean {
  const start = vmaStart(cpu, vma);
  const end = vmaEnd(cpu, vma);
  const range = stackPush(cpu, MmuNotifierRange);
  mmuNotifierRangeInit(cpu, range, MMU_NOTIFY_UNMAP, mm, start, end);
  const gather = tlbGatherMmu(cpu, mm);
  const isAgreed = mmuNotifierInvalidateRangeStartNonblock(cpu, range) === 0;
  if (isAgreed) {
    unmapPageRange(cpu, gather, read(cpu, mm, MmStruct.pgd), start, end);
    mmuNotifierInvalidateRangeEnd(cpu, range);
  }
  tlbFinishMmu(cpu, gather);
  stackPop(cpu, range);
  return isAgreed;
}

// --- the thread ---

/** Makes the reaper, which nobody runs yet. Runs once, on the boot CPU; needs no frames. */
export function bootOomReaper(cpu: Cpu): void {
  const reaper = (cpu.percpu + allocPercpu(cpu, OomReaper.words)) as OomReaper;
  initSpinlock(cpu, member(reaper, OomReaper.lock), OOM_LOCK);
  initListHead(cpu, member(reaper, OomReaper.victims));
  initWaitQueue(cpu, member(reaper, OomReaper.wait), OOM_WAIT);
  initWaitQueue(cpu, member(reaper, OomReaper.done), OOM_LOCK);
  write(cpu, reaper, OomReaper.delayMs, DELAY_MS);
  write(cpu, reaper, OomReaper.retryMs, RETRY_MS);
  write(cpu, MACHINE, Machine.oomReaper, reaper);
}

/** Other delays than those of Linux, before the thread is started. Unit: milliseconds. */
export function setOomDelays(cpu: Cpu, delayMs: number, retryMs: number): void {
  const reaper = reaperOf(cpu);
  write(cpu, reaper, OomReaper.delayMs, delayMs);
  write(cpu, reaper, OomReaper.retryMs, retryMs);
}

/** Starts the thread; some CPU must be in runKthreads. False if memory is out. */
export function startOomReaper(cpu: Cpu): boolean {
  const reaper = reaperOf(cpu);
  const kthread = kthreadCreate(cpu, oomReaper, reaper, OOM_KTHREAD);
  const lock = member(reaper, OomReaper.lock);
  spinLock(cpu, lock);
  write(cpu, reaper, OomReaper.kthread, kthread);
  spinUnlock(cpu, lock);
  if (kthread === NULL) return false;
  wakeUpKthread(cpu, kthread);
  return true;
}

/** Ends the thread, when it is done with all victims there are. Nobody kills any more. Sleeps. */
export function stopOomReaper(cpu: Cpu): void {
  const reaper = reaperOf(cpu);
  const lock = member(reaper, OomReaper.lock);
  spinLock(cpu, lock);
  const kthread = read(cpu, reaper, OomReaper.kthread);
  write(cpu, reaper, OomReaper.kthread, NULL);
  spinUnlock(cpu, lock);
  if (kthread !== NULL) kthreadStop(cpu, kthread);
}

/**
 * Does what the thread does with one victim, if there is one whose delay is over, or with `anyDelay` one at all; false
 * if there is none. For CPUs that do other things besides, as the thread does not run. Sleeps between attempts.
 */
export function oomReapPending(cpu: Cpu, anyDelay = false): boolean {
  const reaper = reaperOf(cpu);
  const task = takeVictim(cpu, reaper, anyDelay);
  if (task === NULL) return false;
  oomReapTask(cpu, reaper, task);
  return true;
}

/** Waits until that many victims have been done with, since the machine was made. Sleeps. */
export function waitForReaped(cpu: Cpu, count: number): void {
  mightSleep(cpu);
  const reaper = reaperOf(cpu);
  const queue = member(reaper, OomReaper.done);
  const wait = initWait(cpu, WAIT_REAPER, kthreadOf(cpu, reaper));
  for (;;) {
    prepareToWait(cpu, queue, wait, TASK_UNINTERRUPTIBLE);
    if (reapedCount(cpu) >= count) break;
    schedule(cpu);
  }
  finishWait(cpu, queue, wait);
}

/** NULL if it has not been started. */
function kthreadOf(cpu: Cpu, reaper: OomReaper): Kthread {
  const lock = member(reaper, OomReaper.lock);
  spinLock(cpu, lock);
  const kthread = read(cpu, reaper, OomReaper.kthread);
  spinUnlock(cpu, lock);
  return kthread;
}

/** Victims that have been done with. */
export function reapedCount(cpu: Cpu): number {
  return countUnderLock(cpu, reaperOf(cpu), false);
}

/** … of which something was left when all attempts had been made. */
export function gaveUpCount(cpu: Cpu): number {
  return countUnderLock(cpu, reaperOf(cpu), true);
}

function countUnderLock(cpu: Cpu, reaper: OomReaper, gaveUp: boolean): number {
  const lock = member(reaper, OomReaper.lock);
  spinLock(cpu, lock);
  const count = read(cpu, reaper, gaveUp ? OomReaper.gaveUp : OomReaper.reaped);
  spinUnlock(cpu, lock);
  return count;
}

const oomReaper: KthreadOps = defineKernelOps({
  opsName: 'oom reaper',
  run(cpu: Cpu, kthread: Kthread, data: number): number {
    const reaper = data as OomReaper;
    for (;;) {
      const task = waitForVictim(cpu, reaper, kthread);
      if (task === NULL) return 0;
      oomReapTask(cpu, reaper, task);
    }
  },
});

/** The next victim whose time has come; NULL when the thread is to stop and all have been done with. Sleeps. */
function waitForVictim(cpu: Cpu, reaper: OomReaper, kthread: Kthread): Task {
  const queue = member(reaper, OomReaper.wait);
  const wait = initWait(cpu, WAIT_OOM, reaper);
  let task: Task = NULL;
  for (;;) {
    prepareToWait(cpu, queue, wait, TASK_UNINTERRUPTIBLE);
    const isStopped = kthreadShouldStop(cpu, kthread); // before the look: what was queued until then is done
    task = takeVictim(cpu, reaper, isStopped);
    if (task !== NULL || isStopped) break;
    scheduleTimeout(cpu, msToNext(cpu, reaper));
  }
  finishWait(cpu, queue, wait);
  return task;
}

/** Sleeps between two attempts; only who stops the thread ends that (I4). @kernel schedule_timeout_idle */
function sleepBeforeRetry(cpu: Cpu, reaper: OomReaper): void {
  beginWait(cpu, WAIT_OOM, reaper);
  setCurrentState(cpu, TASK_UNINTERRUPTIBLE);
  scheduleTimeout(cpu, read(cpu, reaper, OomReaper.retryMs));
  endWait(cpu);
}

/** The first victim whose delay is over, or whatever its delay; NULL if there is none. */
function takeVictim(cpu: Cpu, reaper: OomReaper, anyDelay: boolean): Task {
  const now = clockMs(cpu);
  const lock = member(reaper, OomReaper.lock);
  spinLock(cpu, lock);
  let task = firstVictim(cpu, reaper);
  if (task !== NULL && !anyDelay && readAddress(cpu, task, Task.reapAt) > now) task = NULL;
  if (task !== NULL) listDelInit(cpu, member(task, Task.victim));
  spinUnlock(cpu, lock);
  return task;
}

/** Until the next victim's delay is over. */
function msToNext(cpu: Cpu, reaper: OomReaper): number {
  const lock = member(reaper, OomReaper.lock);
  spinLock(cpu, lock);
  const task = firstVictim(cpu, reaper);
  const at = task === NULL ? Infinity : readAddress(cpu, task, Task.reapAt);
  spinUnlock(cpu, lock);
  return at - clockMs(cpu);
}

/** The reaper's lock must be held. */
function firstVictim(cpu: Cpu, reaper: OomReaper): Task {
  const victims = member(reaper, OomReaper.victims);
  if (listEmpty(cpu, victims)) return NULL;
  return containerOf(listNext(cpu, victims), Task.victim);
}

/** Up to ten attempts; then the memory is written off. @kernel oom_reap_task */
function oomReapTask(cpu: Cpu, reaper: OomReaper, task: Task): void {
  const mm = readOnce(cpu, task, Task.oomMm); // pinned as long as the task is
  let isDone = oomReapTaskMm(cpu, mm);
  for (let attempt = 1; attempt < ATTEMPTS_MAX && !isDone; attempt++) {
    sleepBeforeRetry(cpu, reaper);
    isDone = oomReapTaskMm(cpu, mm);
  }
  fetchOr(cpu, mm, MmStruct.flags, MMF_OOM_SKIP); // whoever needs memory may choose another victim
  putTask(cpu, task);
  const lock = member(reaper, OomReaper.lock);
  spinLock(cpu, lock);
  write(cpu, reaper, OomReaper.reaped, read(cpu, reaper, OomReaper.reaped) + 1);
  if (!isDone) write(cpu, reaper, OomReaper.gaveUp, read(cpu, reaper, OomReaper.gaveUp) + 1);
  spinUnlock(cpu, lock);
  wakeUpAll(cpu, member(reaper, OomReaper.done));
}

function reaperOf(cpu: Cpu): OomReaper {
  const reaper = read(cpu, MACHINE, Machine.oomReaper) as OomReaper;
  if (reaper === 0) bug('there is no OOM reaper on this machine: call bootOomReaper first');
  return reaper;
}
