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
import { member, NULL } from '../memory/layout.js';
import { initListHead } from '../memory/list.js';
import { MmStruct } from '../mm/types.js';
import { initSpinlock } from '../sync/spinlock.js';
import { initWaitQueue } from '../sync/wait-queue.js';
import { MmuNotifierSubscriptions } from './types.js';

const SUBSCRIPTIONS_LOCK = lockClass('notifier_subscriptions->lock');
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
  return readOnce(cpu, subscriptions, MmuNotifierSubscriptions.hasItree) !== 0;
}

/**
 * Lets the mm have intervals. Precondition: mmap_lock held for writing, so that no range operation is between its
 * start and its end. -ENOMEM. @kernel __mmu_notifier_register
 */
export function mmuNotifierRegisterItree(cpu: Cpu, mm: MmStruct): number {
  const error = makeSubscriptions(cpu, mm);
  if (error !== 0) return error;
  const subscriptions = read(cpu, mm, MmStruct.subscriptions);
  writeOnce(cpu, subscriptions, MmuNotifierSubscriptions.hasItree, 1);
  return 0;
}

/** Gives the mm a place for subscriptions, if it has none. Precondition as above. -ENOMEM. */
export function makeSubscriptions(cpu: Cpu, mm: MmStruct): number {
  if (read(cpu, mm, MmStruct.subscriptions) !== NULL) return 0;
  const subscriptions = kzalloc(cpu, MmuNotifierSubscriptions);
  if (subscriptions === NULL) return -ENOMEM;
  initSpinlock(cpu, member(subscriptions, MmuNotifierSubscriptions.lock), SUBSCRIPTIONS_LOCK);
  write(cpu, subscriptions, MmuNotifierSubscriptions.invalidateSeq, FIRST_SEQ);
  initListHead(cpu, member(subscriptions, MmuNotifierSubscriptions.deferred));
  initWaitQueue(cpu, member(subscriptions, MmuNotifierSubscriptions.wait), SUBSCRIPTIONS_WAIT);
  storeRelease(cpu, mm, MmStruct.subscriptions, subscriptions); // pairs with mmSubscriptions
  return 0;
}
