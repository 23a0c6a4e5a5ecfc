/**
 * The place in an mm where its notifiers are kept; made when the first one is registered, and kept
 * until the mm_struct is freed.
 *
 * @module
 */
import { loadAcquire, read, readOnce, storeRelease, write, writeOnce } from '#memory';

import { ENOMEM } from '../base/errno.js';
import type { Cpu } from '../machine/cpu.js';
import { lockClass } from '../machine/lock-class.js';
import { kzalloc } from '../machine/slab.js';
import { Waited } from '../machine/types.js';
import { hlistAddHeadRcu, hlistDelInitRcu, hlistEmpty, type HlistNode } from '../memory/hlist.js';
import { member, NULL } from '../memory/layout.js';
import { initListHead } from '../memory/list.js';
import { MmStruct } from '../mm/types.js';
import { downRead, downWrite, upRead, upWrite } from '../sync/rwsem.js';
import { initSpinlock, spinLock, spinUnlock } from '../sync/spinlock.js';
import { initWaitQueue } from '../sync/wait-queue.js';
import { HAS_ITREE, HAS_LIST, MmuNotifierSubscriptions } from './types.js';

const SUBSCRIPTIONS_LOCK = lockClass('notifier_subscriptions->lock');
const INVALIDATION = lockClass('invalidation of an mm');
const SUBSCRIPTIONS_WAIT = lockClass('notifier_subscriptions->wq');
/** The first sequence number; even: nobody invalidates. */
const FIRST_SEQ = 2;

/** The mm's notifiers; NULL as long as none was ever registered. @kernel mm->notifier_subscriptions */
export function mmSubscriptions(cpu: Cpu, mm: MmStruct): MmuNotifierSubscriptions {
  return loadAcquire(cpu, mm, MmStruct.subscriptions); // pairs with makeSubscriptions
}

/** True if intervals may be inserted as it is. No lock needed: it stays so. */
export function hasItree(cpu: Cpu, mm: MmStruct): boolean {
  const subscriptions = mmSubscriptions(cpu, mm);
  if (subscriptions === NULL) return false;
  return (subscribedKinds(cpu, subscriptions) & HAS_ITREE) !== 0;
}

/**
 * Lets the mm have intervals. Precondition: mmap_lock held for writing, so that no range operation is between its
 * start and its end. -ENOMEM. @kernel __mmu_notifier_register
 */
export function mmuNotifierRegisterItree(cpu: Cpu, mm: MmStruct): number {
  if (hasItree(cpu, mm)) return 0;
  const error = makeSubscriptions(cpu, mm);
  if (error !== 0) return error;
  const subscriptions = read(cpu, mm, MmStruct.subscriptions);
  const lock = member(subscriptions, MmuNotifierSubscriptions.lock);
  takeAllLocks(cpu, mm);
  spinLock(cpu, lock);
  setKind(cpu, subscriptions, HAS_ITREE, true);
  spinUnlock(cpu, lock);
  dropAllLocks(cpu, mm);
  return 0;
}

/** HAS_*: who is to be told of what happens to the mm. */
export function subscribedKinds(cpu: Cpu, subscriptions: MmuNotifierSubscriptions): number {
  return readOnce(cpu, subscriptions, MmuNotifierSubscriptions.kinds);
}

/** Puts a notifier on the list. The subscriptions' lock must be held. */
export function linkNotifier(
  cpu: Cpu,
  subscriptions: MmuNotifierSubscriptions,
  node: HlistNode,
): void {
  hlistAddHeadRcu(cpu, node, member(subscriptions, MmuNotifierSubscriptions.list));
  setKind(cpu, subscriptions, HAS_LIST, true);
}

/** Takes a notifier off the list, if it is on it. The subscriptions' lock must be held. */
export function unlinkNotifier(
  cpu: Cpu,
  subscriptions: MmuNotifierSubscriptions,
  node: HlistNode,
): void {
  hlistDelInitRcu(cpu, node);
  if (hlistEmpty(cpu, member(subscriptions, MmuNotifierSubscriptions.list))) {
    setKind(cpu, subscriptions, HAS_LIST, false);
  }
}

function setKind(
  cpu: Cpu,
  subscriptions: MmuNotifierSubscriptions,
  kind: number,
  isSet: boolean,
): void {
  const kinds = read(cpu, subscriptions, MmuNotifierSubscriptions.kinds);
  const next = isSet ? kinds | kind : kinds & ~kind;
  if (next !== kinds) writeOnce(cpu, subscriptions, MmuNotifierSubscriptions.kinds, next);
}

/** Gives the mm a place for subscriptions, if it has none. Precondition as above. -ENOMEM. */
export function makeSubscriptions(cpu: Cpu, mm: MmStruct): number {
  if (read(cpu, mm, MmStruct.subscriptions) !== NULL) return 0;
  const subscriptions = kzalloc(cpu, MmuNotifierSubscriptions);
  if (subscriptions === NULL) return -ENOMEM;
  initSpinlock(cpu, member(subscriptions, MmuNotifierSubscriptions.lock), SUBSCRIPTIONS_LOCK);
  write(cpu, subscriptions, MmuNotifierSubscriptions.invalidateSeq, FIRST_SEQ);
  initListHead(cpu, member(subscriptions, MmuNotifierSubscriptions.deferred));
  const invalidation = member(subscriptions, MmuNotifierSubscriptions.invalidation);
  write(cpu, invalidation, Waited.lockClass, INVALIDATION);
  initWaitQueue(cpu, member(subscriptions, MmuNotifierSubscriptions.wait), SUBSCRIPTIONS_WAIT);
  storeRelease(cpu, mm, MmStruct.subscriptions, subscriptions); // pairs with mmSubscriptions
  return 0;
}

/**
 * Keeps out who needs no mmap lock for its invalidation (reclaim, a file that is cut): one that began when nobody
 * listened must have ended before somebody does. The mmap lock must be held for writing. Sleeps.
 * @kernel mm_take_all_locks
 */
export function takeAllLocks(cpu: Cpu, mm: MmStruct): void {
  downWrite(cpu, member(mm, MmStruct.allLock));
}

/** @kernel mm_drop_all_locks */
export function dropAllLocks(cpu: Cpu, mm: MmStruct): void {
  upWrite(cpu, member(mm, MmStruct.allLock));
}

/** Until letSubscribersIn, nobody comes who would hear an end without its start. For who has no mmap lock. Sleeps. */
export function keepSubscribersOut(cpu: Cpu, mm: MmStruct): void {
  downRead(cpu, member(mm, MmStruct.allLock));
}

export function letSubscribersIn(cpu: Cpu, mm: MmStruct): void {
  upRead(cpu, member(mm, MmStruct.allLock));
}
