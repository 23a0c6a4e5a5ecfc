/**
 * Range invalidation: what whoever changes page tables calls before and after.
 *
 * Kernel     mm/mmu_notifier.c
 * Protocol   start: every interval that intersects the range is called, then every notifier of the list; when
 *            start returns, no device uses the old pages of the range, and none can begin to (INV-20).
 *            Then the page tables change. Then end, to the intervals' core first.
 *            A blockable start always succeeds. A start that may not block fails with -EAGAIN if a
 *            callback would have to sleep; then the caller must not touch the page tables, and must not
 *            call end.
 * Invariant  I1  Each successful start has exactly one end (INV-14).
 * Ordering   The caller holds the mmap lock, for reading or writing. Who registers a notifier has it for writing: so
 *            none comes between a start and its end. A reverse-map lock alone does not see to that here
 *            (mmu-notifier-register.ts).
 * Deviation  None: also what Linux does not do is not done. If the list refuses after the intervals' core has
 *            counted the invalidation, nobody counts it back, and whoever waits for its end waits for ever
 *            (LT-16). With LIST_END_BOTH (boot.ts) that is mended.
 * Cost       A start or an end without notifiers: one load. With intervals only: one more.
 *
 * @module
 */
import { notifierMapAcquire, notifierMapRelease, reachPoint } from '#debug';
import { read, write } from '#memory';

import { bug } from '../base/bug.js';
import { EAGAIN } from '../base/errno.js';
import type { Cpu } from '../machine/cpu.js';
import { mightSleep } from '../machine/sched.js';
import { stackPop, stackPush } from '../machine/stack.js';
import { NULL } from '../memory/layout.js';
import type { MmStruct } from '../mm/types.js';
import { LIST_END_BOTH, listForm } from './boot.js';
import { mnItreeInvalidate, mnItreeInvEnd } from './mmu-interval-notifier.js';
import {
  mnHlistInvalidateEnd,
  mnHlistInvalidateRangeStart,
  mnHlistRefusesAll,
  mnHlistRelease,
} from './mmu-notifier-list.js';
import {
  MMU_NOTIFIER_RANGE_BLOCKABLE,
  MMU_NOTIFY_RELEASE,
  mmuNotifierRangeInit,
  VA_MAX,
} from './mmu-notifier-range.js';
import { mmSubscriptions, subscribedKinds } from './subscriptions.js';
import { HAS_ITREE, HAS_LIST, MmuNotifierRange, type MmuNotifierSubscriptions } from './types.js';

/**
 * Stops all device use of the range's pages. Precondition: the mmap lock; no spinlock. Sleeps. @kernel mmu_notifier_invalidate_range_start
 */
export function mmuNotifierInvalidateRangeStart(cpu: Cpu, range: MmuNotifierRange): void {
  mightSleep(cpu);
  notifierMapAcquire(cpu);
  const subscriptions = subscriptionsOf(cpu, range);
  if (subscriptions !== NULL) startBlocking(cpu, subscriptions, range);
  notifierMapRelease(cpu);
  reachPoint(cpu, 'invalidation has started');
}

/**
 * As above without sleeping: -EAGAIN if a callback would have to, and then the caller may not call end.
 * @kernel mmu_notifier_invalidate_range_start_nonblock
 */
export function mmuNotifierInvalidateRangeStartNonblock(cpu: Cpu, range: MmuNotifierRange): number {
  notifierMapAcquire(cpu);
  const error = startNonblock(cpu, range);
  notifierMapRelease(cpu);
  return error;
}

function startBlocking(
  cpu: Cpu,
  subscriptions: MmuNotifierSubscriptions,
  range: MmuNotifierRange,
): void {
  const flags = read(cpu, range, MmuNotifierRange.flags);
  write(cpu, range, MmuNotifierRange.flags, flags | MMU_NOTIFIER_RANGE_BLOCKABLE); // it may have been tried before
  if (invalidateRangeStart(cpu, subscriptions, range) !== 0) {
    bug('an invalidate callback refused a range that may block');
  }
}

function startNonblock(cpu: Cpu, range: MmuNotifierRange): number {
  const subscriptions = subscriptionsOf(cpu, range);
  if (subscriptions === NULL) return 0;
  const flags = read(cpu, range, MmuNotifierRange.flags);
  write(cpu, range, MmuNotifierRange.flags, flags & ~MMU_NOTIFIER_RANGE_BLOCKABLE);
  return invalidateRangeStart(cpu, subscriptions, range);
}

/** @kernel __mmu_notifier_invalidate_range_start */
function invalidateRangeStart(
  cpu: Cpu,
  subscriptions: MmuNotifierSubscriptions,
  range: MmuNotifierRange,
): number {
  const kinds = subscribedKinds(cpu, subscriptions);
  if (kinds === HAS_ITREE) return mnItreeInvalidate(cpu, subscriptions, range);
  return kinds === 0 ? 0 : startWithList(cpu, subscriptions, range, (kinds & HAS_ITREE) !== 0);
}

/** Intervals first, then the list. */
function startWithList(
  cpu: Cpu,
  subscriptions: MmuNotifierSubscriptions,
  range: MmuNotifierRange,
  hasItree: boolean,
): number {
  if (mnHlistRefusesAll(cpu, subscriptions, range)) return -EAGAIN;
  const error = hasItree ? mnItreeInvalidate(cpu, subscriptions, range) : 0;
  if (error !== 0) return error;
  const listError = mnHlistInvalidateRangeStart(cpu, subscriptions, range);
  if (listError !== 0 && hasItree && listForm(cpu) === LIST_END_BOTH) {
    mnItreeInvEnd(cpu, subscriptions); // else nobody does: LT-16
  }
  return listError;
}

/** Ends what a start that succeeded began (I1). @kernel mmu_notifier_invalidate_range_end */
export function mmuNotifierInvalidateRangeEnd(cpu: Cpu, range: MmuNotifierRange): void {
  const subscriptions = subscriptionsOf(cpu, range);
  if (subscriptions === NULL) return;
  reachPoint(cpu, 'invalidation is about to end');
  notifierMapAcquire(cpu);
  const kinds = subscribedKinds(cpu, subscriptions);
  if ((kinds & HAS_ITREE) !== 0) mnItreeInvEnd(cpu, subscriptions);
  if ((kinds & HAS_LIST) !== 0) mnHlistInvalidateEnd(cpu, subscriptions, range);
  notifierMapRelease(cpu);
}

function subscriptionsOf(cpu: Cpu, range: MmuNotifierRange): MmuNotifierSubscriptions {
  return mmSubscriptions(cpu, read(cpu, range, MmuNotifierRange.mm));
}

/**
 * The address space is about to go: every interval is told RELEASE, for all of it, and stays registered; every
 * notifier of the list is released, and taken off. No lock held. Sleeps. @kernel mmu_notifier_release
 */
export function mmuNotifierRelease(cpu: Cpu, mm: MmStruct): void {
  const subscriptions = mmSubscriptions(cpu, mm);
  if (subscriptions === NULL) return;
  const kinds = subscribedKinds(cpu, subscriptions);
  if ((kinds & HAS_ITREE) !== 0) releaseItree(cpu, subscriptions, mm);
  if ((kinds & HAS_LIST) !== 0) mnHlistRelease(cpu, subscriptions, mm);
}

/** @kernel mn_itree_release */
function releaseItree(cpu: Cpu, subscriptions: MmuNotifierSubscriptions, mm: MmStruct): void {
  mightSleep(cpu);
  const range = stackPush(cpu, MmuNotifierRange);
  mmuNotifierRangeInit(cpu, range, MMU_NOTIFY_RELEASE, mm, 0, VA_MAX);
  mnItreeInvalidate(cpu, subscriptions, range);
  mnItreeInvEnd(cpu, subscriptions);
  stackPop(cpu, range);
}
