/**
 * Interval notifiers: collision and retry instead of a lock between faults and invalidations.
 *
 * Kernel     mm/mmu_notifier.c (mmu_interval_*, mn_itree_*)
 * Protocol   Each mm has a sequence S and a count A of invalidations under way; each interval its own
 *            sequence s, the S of the last invalidation that hit it.
 *
 *              state               A     S     meaning
 *              idle                0     even  nobody invalidates
 *              partially excluded  >0    even  somebody does, but hit no interval; the tree may change
 *              fully excluded      >0    odd   some interval was hit; the tree is frozen
 *
 *            invalidating task                        faulting task
 *              start: A += 1; hit: S |= 1               seq = begin: s, after waiting while s == S
 *              for each interval that intersects:       read the CPU's page table
 *                callback: lock driver; s := S;         lock driver
 *                  unmap from device; unlock            retry: s != seq ? unlock, again
 *              change the CPU's page table              map into the device
 *              end: A -= 1; last and S odd: S += 1,     unlock driver
 *                deferred work, wake all
 *
 *            Either the callback gets the driver's lock first: then s has moved and the faulting task
 *            retries (LT-3). Or the faulting task does: then the callback waits for the lock and unmaps
 *            what was just mapped, before the page table changes (LT-4). A task that begins while the
 *            invalidation is past its callback would see neither: it waits until S moves on (LT-5).
 *
 *            A callback that would wait for its device may begin that and answer with a token: the core waits
 *            (`invalidateFinish`) when every callback has begun, so that devices are waited for side by side.
 *
 *            While S is odd the tree does not change, so start can walk it without the lock: inserts and
 *            removes are put on a list that the last end works off (LT-17).
 * Invariant  I1  S odd implies A > 0 (INV-16).          I2  Every s is odd (INV-17).
 *            I3  The tree is unchanged while S is odd (INV-18).
 *            I4  After remove returned, the callback neither runs nor will (INV-22).
 *            I5  At rest A = 0, S is even, nothing is deferred (INV-21).
 * Ordering   A, S and the tree change under the subscriptions' lock, and are only looked at under it: also
 *            by who waits for S to move, since a removal frees the interval right after. s is set under the
 *            driver's lock, by setSeq (and by insert, before anybody can be called); that lock orders it
 *            for readRetry. checkRetry reads it without: true is final, false is not.
 * Deviation  None in the protocol; in Linux the first of two passes is a callback of its own. Sequences are 32 bits
 *            and wrap; only parity and inequality are used.
 * Cost       begin: the spinlock's two read-modify-writes and two loads. start and end: twice that.
 *
 * @module
 */
import { mightLock, notifierMapTouch, reachPoint } from '#debug';
import { read, readOnce, write, writeAddress, writeOnce } from '#memory';
import { isMutant, M_2, M_4, M_5, M_6, M_7, M_7_EARLY, M_REMOVE_UNLOCKED } from '#mutants';

import { bug } from '../base/bug.js';
import { EAGAIN, EINVAL, EOVERFLOW } from '../base/errno.js';
import { noteBegun, noteEnded } from '../debug/begun.js';
import { SLEEPING } from '../debug/lock-how.js';
import type { Cpu } from '../machine/cpu.js';
import { opsAt, opsIndex, type OpsTable } from '../machine/ops-table.js';
import { mightSleep, schedule, TASK_UNINTERRUPTIBLE } from '../machine/sched.js';
import type { Waited } from '../machine/types.js';
import { WAIT_INVALIDATION } from '../machine/wait-kind.js';
import { containerOf, member, NULL, type Va } from '../memory/layout.js';
import { initListHead, listAdd, listDelInit, listEmpty, listNext } from '../memory/list.js';
import { MmStruct } from '../mm/types.js';
import { downWrite, upWrite } from '../sync/rwsem.js';
import { spinLock, spinUnlock } from '../sync/spinlock.js';
import {
  finishWait,
  initWait,
  prepareToWait,
  waitqueueActive,
  wakeUpAll,
} from '../sync/wait-queue.js';
import {
  type IntervalRange,
  intervalTreeInsert,
  intervalTreeIterFirst,
  intervalTreeIterNext,
  IntervalTreeNode,
  intervalTreeRemove,
} from './interval-tree.js';
import { mmdrop, mmgrab } from './mm-count.js';
import { mmuNotifierRangeBlockable } from './mmu-notifier-range.js';
import { hasItree, mmSubscriptions, mmuNotifierRegisterItree } from './subscriptions.js';
import {
  MmuIntervalNotifier,
  MmuIntervalNotifierFinish,
  MmuNotifierRange,
  MmuNotifierSubscriptions,
} from './types.js';

/** What a driver does when a range of its interval is invalidated. */
export interface MmuIntervalNotifierOps extends OpsTable {
  /**
   * Ends the device's use of the range's pages before it returns. Under the driver's lock it must call
   * mmuIntervalSetSeq with `curSeq`. May sleep if the range is blockable; returns false if it would have
   * to and it is not. May not insert or remove intervals, nor begin a read. With an `invalidateFinish` it may
   * answer with a token instead: the use ends when that has returned. The token is its alone until then.
   */
  readonly invalidate: (
    cpu: Cpu,
    interval: MmuIntervalNotifier,
    range: MmuNotifierRange,
    curSeq: number,
  ) => boolean | MmuIntervalNotifierFinish;
  /**
   * Waits for what `invalidate` has begun, when all intervals have been called. May sleep if the range was
   * blockable. @kernel invalidate_finish
   */
  readonly invalidateFinish?: (cpu: Cpu, finish: MmuIntervalNotifierFinish) => void;
}

/** Largest address; the last byte of a whole-space interval. */
const VA_LAST = 2 ** 48 - 1;

// --- the faulting side ---

/**
 * Opens a collision-retry section and returns the sequence for readRetry. Waits for the end of an
 * invalidation that has been through this interval's callback. Sleeps. @kernel mmu_interval_read_begin
 */
export function mmuIntervalReadBegin(cpu: Cpu, interval: MmuIntervalNotifier): number {
  mightSleep(cpu);
  const subscriptions = read(cpu, interval, MmuIntervalNotifier.subscriptions);
  const lock = member(subscriptions, MmuNotifierSubscriptions.lock);
  spinLock(cpu, lock);
  const seq = readOnce(cpu, interval, MmuIntervalNotifier.invalidateSeq); // pairs with mmuIntervalSetSeq
  const isColliding = seq === read(cpu, subscriptions, MmuNotifierSubscriptions.invalidateSeq);
  spinUnlock(cpu, lock);
  notifierMapTouch(cpu);
  // seq is odd and S at rest is even: the wait ends with the invalidation (I2, I5)
  if (!isMutant(cpu, M_4) && isColliding) waitWhileSeq(cpu, subscriptions, seq);
  return seq;
}

/** Sleeps until the mm's sequence is no longer `seq`. */
function waitWhileSeq(cpu: Cpu, subscriptions: MmuNotifierSubscriptions, seq: number): void {
  const queue = member(subscriptions, MmuNotifierSubscriptions.wait);
  const wait = initWait(cpu, WAIT_INVALIDATION, invalidationOf(subscriptions));
  reachPoint(cpu, 'about to wait for the end');
  for (;;) {
    prepareToWait(cpu, queue, wait, TASK_UNINTERRUPTIBLE);
    if (hasSeqMoved(cpu, subscriptions, seq)) break;
    schedule(cpu);
  }
  finishWait(cpu, queue, wait);
}

/**
 * Looks under the lock: who leaves a removal frees the interval, which the end that moves S still takes out
 * of the tree before it gives the lock back. @kernel mmu_interval_seq_released
 */
function hasSeqMoved(cpu: Cpu, subscriptions: MmuNotifierSubscriptions, seq: number): boolean {
  if (isMutant(cpu, M_REMOVE_UNLOCKED))
    return readOnce(cpu, subscriptions, MmuNotifierSubscriptions.invalidateSeq) !== seq;
  const lock = member(subscriptions, MmuNotifierSubscriptions.lock);
  spinLock(cpu, lock);
  const now = read(cpu, subscriptions, MmuNotifierSubscriptions.invalidateSeq);
  spinUnlock(cpu, lock);
  return now !== seq;
}

/**
 * Closes a collision-retry section: true means that what was read may be stale. Precondition: the
 * driver's lock, which the callback takes too. @kernel mmu_interval_read_retry
 */
export function mmuIntervalReadRetry(
  cpu: Cpu,
  interval: MmuIntervalNotifier,
  seq: number,
): boolean {
  return readOnce(cpu, interval, MmuIntervalNotifier.invalidateSeq) !== seq; // pairs with mmuIntervalSetSeq
}

/** As readRetry without the lock: true is final, false means nothing. @kernel mmu_interval_check_retry */
export function mmuIntervalCheckRetry(
  cpu: Cpu,
  interval: MmuIntervalNotifier,
  seq: number,
): boolean {
  return readOnce(cpu, interval, MmuIntervalNotifier.invalidateSeq) !== seq; // pairs with mmuIntervalSetSeq
}

/** The callback's part of the protocol; the driver's lock must be held. @kernel mmu_interval_set_seq */
export function mmuIntervalSetSeq(cpu: Cpu, interval: MmuIntervalNotifier, curSeq: number): void {
  writeOnce(cpu, interval, MmuIntervalNotifier.invalidateSeq, curSeq); // pairs with mmuIntervalReadRetry
}

// --- the invalidating side ---

/**
 * Opens an invalidation and calls every interval that intersects it; 0, or -EAGAIN if a callback refused
 * (and then the invalidation is closed again). @kernel mn_itree_invalidate
 */
export function mnItreeInvalidate(
  cpu: Cpu,
  subscriptions: MmuNotifierSubscriptions,
  range: MmuNotifierRange,
): number {
  const key = searchKey(range);
  let node = invStartRange(cpu, subscriptions, range);
  const curSeq = read(cpu, range, MmuNotifierRange.seq);
  let begun: MmuIntervalNotifierFinish = NULL;
  while (node !== NULL) {
    const interval: MmuIntervalNotifier = containerOf(node, MmuIntervalNotifier.node);
    const index = read(cpu, interval, MmuIntervalNotifier.ops);
    const ops = opsAt(cpu, index) as MmuIntervalNotifierOps;
    const agreed: unknown = ops.invalidate(cpu, interval, range, curSeq);
    if (agreed !== true) {
      if (typeof agreed !== 'number' || ops.invalidateFinish === undefined) {
        checkRefusal(cpu, ops, range, agreed);
        finishAll(cpu, begun);
        if (!isMutant(cpu, M_2)) mnItreeInvEnd(cpu, subscriptions); // the caller will not call end
        return -EAGAIN;
      }
      const finish = agreed as MmuIntervalNotifierFinish;
      write(cpu, finish, MmuIntervalNotifierFinish.next, begun);
      begun = finish;
    }
    node = intervalTreeIterNext(cpu, node, key);
  }
  finishAll(cpu, begun);
  return 0;
}

/** The second pass: waits for what callbacks have begun. */
function finishAll(cpu: Cpu, first: MmuIntervalNotifierFinish): void {
  for (let finish = first; finish !== NULL;) {
    const next = read(cpu, finish, MmuIntervalNotifierFinish.next); // it may be used again at once
    const interval = read(cpu, finish, MmuIntervalNotifierFinish.interval);
    const ops = opsAt(cpu, read(cpu, interval, MmuIntervalNotifier.ops)) as MmuIntervalNotifierOps;
    ops.invalidateFinish?.(cpu, finish);
    finish = next;
  }
}

/** A callback may refuse, with false, what it may not block for; anything else is a bug of its driver. */
function checkRefusal(
  cpu: Cpu,
  ops: MmuIntervalNotifierOps,
  range: MmuNotifierRange,
  answer: unknown,
): void {
  if (answer !== false) {
    bug(`driver ${ops.opsName}: invalidate answered ${typeof answer}, not true or false`);
  }
  if (mmuNotifierRangeBlockable(cpu, range)) {
    bug(`${ops.opsName}: invalidate refused a range that may block`);
  }
}

/** The range's first and last address, as the interval tree is searched for. */
function searchKey(range: MmuNotifierRange): IntervalRange {
  return (range + MmuNotifierRange.start) as IntervalRange;
}

/**
 * Counts the invalidation, and freezes the tree if it hits anything: the first node.
 * @kernel mn_itree_inv_start_range
 */
function invStartRange(
  cpu: Cpu,
  subscriptions: MmuNotifierSubscriptions,
  range: MmuNotifierRange,
): IntervalTreeNode {
  const lock = member(subscriptions, MmuNotifierSubscriptions.lock);
  const itree = member(subscriptions, MmuNotifierSubscriptions.itree);
  spinLock(cpu, lock);
  const active = read(cpu, subscriptions, MmuNotifierSubscriptions.activeInvalidateRanges);
  write(cpu, subscriptions, MmuNotifierSubscriptions.activeInvalidateRanges, active + 1);
  noteBegun(cpu, invalidationOf(subscriptions));
  const node = intervalTreeIterFirst(cpu, itree, searchKey(range));
  let seq = read(cpu, subscriptions, MmuNotifierSubscriptions.invalidateSeq);
  if (node !== NULL && (isMutant(cpu, M_5) || (seq & 1) === 0)) {
    seq = isMutant(cpu, M_5) ? seq + 1 : seq | 1; // not + 1: invalidations that overlap in time share one odd number
    writeOnce(cpu, subscriptions, MmuNotifierSubscriptions.invalidateSeq, seq);
  }
  write(cpu, range, MmuNotifierRange.seq, seq);
  spinUnlock(cpu, lock);
  return node;
}

/** As those who wait, and who end it, know it. */
function invalidationOf(subscriptions: MmuNotifierSubscriptions): Waited {
  return member(subscriptions, MmuNotifierSubscriptions.invalidation);
}

/** Closes an invalidation; the last one moves the sequence on. @kernel mn_itree_inv_end */
export function mnItreeInvEnd(cpu: Cpu, subscriptions: MmuNotifierSubscriptions): void {
  const lock = member(subscriptions, MmuNotifierSubscriptions.lock);
  spinLock(cpu, lock);
  const active = read(cpu, subscriptions, MmuNotifierSubscriptions.activeInvalidateRanges) - 1;
  if (active < 0) bug(`subscriptions ${subscriptions}: invalidation end without start (INV-14)`);
  write(cpu, subscriptions, MmuNotifierSubscriptions.activeInvalidateRanges, active);
  noteEnded(cpu, invalidationOf(subscriptions));
  const seq = read(cpu, subscriptions, MmuNotifierSubscriptions.invalidateSeq);
  const isLast = isMutant(cpu, M_6) || active === 0;
  if (!isLast || (seq & 1) === 0) {
    spinUnlock(cpu, lock);
    return;
  }
  if (isMutant(cpu, M_7_EARLY)) {
    processDeferred(cpu, subscriptions);
    spinUnlock(cpu, lock);
    reachPoint(cpu, 'deferred work is done early');
    spinLock(cpu, lock);
  }
  writeOnce(cpu, subscriptions, MmuNotifierSubscriptions.invalidateSeq, (seq + 1) | 0);
  reachPoint(cpu, 'sequence has moved on');
  if (!isMutant(cpu, M_7) && !isMutant(cpu, M_7_EARLY)) processDeferred(cpu, subscriptions);
  spinUnlock(cpu, lock);
  const queue = member(subscriptions, MmuNotifierSubscriptions.wait);
  if (waitqueueActive(cpu, queue)) wakeUpAll(cpu, queue); // the unlock was the full barrier; pairs with waitWhileSeq
}

/** The tree may change again: works off what was put off. The subscriptions' lock must be held. */
function processDeferred(cpu: Cpu, subscriptions: MmuNotifierSubscriptions): void {
  const deferred = member(subscriptions, MmuNotifierSubscriptions.deferred);
  while (!listEmpty(cpu, deferred)) {
    const item = listNext(cpu, deferred);
    const interval: MmuIntervalNotifier = containerOf(item, MmuIntervalNotifier.deferredItem);
    listDelInit(cpu, item);
    if (read(cpu, interval, MmuIntervalNotifier.inTree) === 0) {
      treeInsert(cpu, subscriptions, interval);
    } else {
      treeRemove(cpu, subscriptions, interval);
    }
  }
}

// --- inserting and removing ---

/**
 * Registers an interval of [start, start + length). Precondition: no mmap lock held. Sleeps. Returns 0,
 * -EOVERFLOW for an empty or wrapping range, -EINVAL if the address space is dead, -ENOMEM.
 * @kernel mmu_interval_notifier_insert
 */
export function mmuIntervalNotifierInsert(
  cpu: Cpu,
  interval: MmuIntervalNotifier,
  mm: MmStruct,
  start: Va,
  length: number,
  ops: MmuIntervalNotifierOps,
): number {
  mightLock(cpu, member(mm, MmStruct.mmapLock), SLEEPING);
  if (!hasItree(cpu, mm)) {
    downWrite(cpu, member(mm, MmStruct.mmapLock));
    const error = mmuNotifierRegisterItree(cpu, mm);
    upWrite(cpu, member(mm, MmStruct.mmapLock));
    if (error !== 0) return error;
  }
  return insertInterval(cpu, interval, mm, start, length, ops);
}

/** As above; the mmap lock must be held for writing. @kernel mmu_interval_notifier_insert_locked */
export function mmuIntervalNotifierInsertLocked(
  cpu: Cpu,
  interval: MmuIntervalNotifier,
  mm: MmStruct,
  start: Va,
  length: number,
  ops: MmuIntervalNotifierOps,
): number {
  const error = mmuNotifierRegisterItree(cpu, mm);
  if (error !== 0) return error;
  return insertInterval(cpu, interval, mm, start, length, ops);
}

/** @kernel __mmu_interval_notifier_insert */
function insertInterval(
  cpu: Cpu,
  interval: MmuIntervalNotifier,
  mm: MmStruct,
  start: Va,
  length: number,
  ops: MmuIntervalNotifierOps,
): number {
  const last = start + length - 1;
  if (length <= 0 || last > VA_LAST) return -EOVERFLOW;
  if (readOnce(cpu, mm, MmStruct.users) <= 0) return -EINVAL;
  const node = member(interval, MmuIntervalNotifier.node);
  writeAddress(cpu, node, IntervalTreeNode.start, start);
  writeAddress(cpu, node, IntervalTreeNode.last, last);
  const subscriptions = mmSubscriptions(cpu, mm);
  write(cpu, interval, MmuIntervalNotifier.mm, mm);
  write(cpu, interval, MmuIntervalNotifier.subscriptions, subscriptions);
  write(cpu, interval, MmuIntervalNotifier.ops, opsIndex(cpu, ops));
  write(cpu, interval, MmuIntervalNotifier.inTree, 0);
  initListHead(cpu, member(interval, MmuIntervalNotifier.deferredItem));
  mmgrab(cpu, mm); // dropped by remove: the mm stays as long as the interval is registered
  const lock = member(subscriptions, MmuNotifierSubscriptions.lock);
  spinLock(cpu, lock);
  const seq = insertOrDefer(cpu, subscriptions, interval);
  if ((seq & 1) === 0) bug(`interval ${interval}: even sequence ${seq} (INV-17)`);
  writeOnce(cpu, interval, MmuIntervalNotifier.invalidateSeq, seq);
  spinUnlock(cpu, lock);
  return 0;
}

/** Puts the interval where it belongs; returns its first sequence. The subscriptions' lock must be held. */
function insertOrDefer(
  cpu: Cpu,
  subscriptions: MmuNotifierSubscriptions,
  interval: MmuIntervalNotifier,
): number {
  const seq = read(cpu, subscriptions, MmuNotifierSubscriptions.invalidateSeq);
  if (read(cpu, subscriptions, MmuNotifierSubscriptions.activeInvalidateRanges) === 0) {
    treeInsert(cpu, subscriptions, interval);
    return (seq - 1) | 0; // odd, and not the sequence of anything under way: no collision
  }
  if ((seq & 1) === 0) {
    // somebody invalidates who has hit nothing: assume that it collides with us
    writeOnce(cpu, subscriptions, MmuNotifierSubscriptions.invalidateSeq, seq | 1);
    treeInsert(cpu, subscriptions, interval);
    return seq | 1;
  }
  const deferred = member(subscriptions, MmuNotifierSubscriptions.deferred);
  listAdd(cpu, member(interval, MmuIntervalNotifier.deferredItem), deferred);
  return seq;
}

/**
 * Unregisters; afterwards the callback does not run and will not (I4). Precondition: not inside a
 * callback, and no lock held that a callback takes. Sleeps. @kernel mmu_interval_notifier_remove
 */
export function mmuIntervalNotifierRemove(cpu: Cpu, interval: MmuIntervalNotifier): void {
  mightSleep(cpu);
  const mm = read(cpu, interval, MmuIntervalNotifier.mm);
  const subscriptions = read(cpu, interval, MmuIntervalNotifier.subscriptions);
  const lock = member(subscriptions, MmuNotifierSubscriptions.lock);
  spinLock(cpu, lock);
  const seq = read(cpu, subscriptions, MmuNotifierSubscriptions.invalidateSeq);
  const isFrozen = (seq & 1) !== 0;
  const isInTree = read(cpu, interval, MmuIntervalNotifier.inTree) !== 0;
  const item = member(interval, MmuIntervalNotifier.deferredItem);
  // deferred: what is in the tree is being removed, what is not has yet to be inserted
  const isDeferred = !listEmpty(cpu, item);
  if (isInTree === isDeferred) bug(`interval ${interval} is not registered, or is being removed`);
  if (isDeferred)
    listDelInit(cpu, item); // its insertion was put off: it never happens
  else if (!isFrozen) treeRemove(cpu, subscriptions, interval);
  else listAdd(cpu, item, member(subscriptions, MmuNotifierSubscriptions.deferred));
  spinUnlock(cpu, lock);
  notifierMapTouch(cpu);
  if (isInTree && isFrozen) waitWhileSeq(cpu, subscriptions, seq);
  mmdrop(cpu, mm); // taken by insert
}

function treeInsert(
  cpu: Cpu,
  subscriptions: MmuNotifierSubscriptions,
  interval: MmuIntervalNotifier,
): void {
  const itree = member(subscriptions, MmuNotifierSubscriptions.itree);
  intervalTreeInsert(cpu, itree, member(interval, MmuIntervalNotifier.node));
  write(cpu, interval, MmuIntervalNotifier.inTree, 1);
}

function treeRemove(
  cpu: Cpu,
  subscriptions: MmuNotifierSubscriptions,
  interval: MmuIntervalNotifier,
): void {
  const itree = member(subscriptions, MmuNotifierSubscriptions.itree);
  intervalTreeRemove(cpu, itree, member(interval, MmuIntervalNotifier.node));
  write(cpu, interval, MmuIntervalNotifier.inTree, 0);
}
