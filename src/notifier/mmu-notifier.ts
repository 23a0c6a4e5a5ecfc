/**
 * Range invalidation: what whoever changes page tables calls before and after.
 *
 * Kernel     mm/mmu_notifier.c
 * Protocol   start: every interval that intersects the range is called; when start returns, no device
 *            uses the old pages of the range, and none can begin to (INV-20).
 *            Then the page tables change. Then end.
 *            A blockable start always succeeds. A start that may not block fails with -EAGAIN if a
 *            callback would have to sleep; then the caller must not touch the page tables, and must not
 *            call end: the core has undone its own part.
 * Invariant  I1  Each successful start has exactly one end (INV-14).
 * Ordering   The caller holds the mmap lock or a reverse-map lock, so that no notifier is registered
 *            for the first time in between.
 *
 * @module
 */
import { read, write } from '#memory';

import { bug } from '../base/bug.js';
import type { Cpu } from '../machine/cpu.js';
import { mightSleep } from '../machine/sched.js';
import { stackPop, stackPush } from '../machine/stack.js';
import { NULL } from '../memory/layout.js';
import type { MmStruct } from '../mm/types.js';
import { mnItreeInvalidate, mnItreeInvEnd } from './mmu-interval-notifier.js';
import {
  MMU_NOTIFIER_RANGE_BLOCKABLE,
  MMU_NOTIFY_RELEASE,
  mmuNotifierRangeInit,
  VA_MAX,
} from './mmu-notifier-range.js';
import { mmSubscriptions } from './subscriptions.js';
import { MmuNotifierRange, type MmuNotifierSubscriptions } from './types.js';

/**
 * Stops all device use of the range's pages. Precondition: the mmap lock or a reverse-map lock; no
 * spinlock. Sleeps. @kernel mmu_notifier_invalidate_range_start
 */
export function mmuNotifierInvalidateRangeStart(cpu: Cpu, range: MmuNotifierRange): void {
  mightSleep(cpu);
  const subscriptions = subscriptionsOf(cpu, range);
  if (subscriptions === NULL) return;
  if (mnItreeInvalidate(cpu, subscriptions, range) !== 0) {
    bug('an invalidate callback refused a range that may block');
  }
}

/**
 * As above without sleeping: -EAGAIN if a callback would have to, and then nothing is open.
 * @kernel mmu_notifier_invalidate_range_start_nonblock
 */
export function mmuNotifierInvalidateRangeStartNonblock(cpu: Cpu, range: MmuNotifierRange): number {
  const subscriptions = subscriptionsOf(cpu, range);
  if (subscriptions === NULL) return 0;
  const flags = read(cpu, range, MmuNotifierRange.flags);
  write(cpu, range, MmuNotifierRange.flags, flags & ~MMU_NOTIFIER_RANGE_BLOCKABLE);
  return mnItreeInvalidate(cpu, subscriptions, range);
}

/** Ends what a start that succeeded began (I1). @kernel mmu_notifier_invalidate_range_end */
export function mmuNotifierInvalidateRangeEnd(cpu: Cpu, range: MmuNotifierRange): void {
  const subscriptions = subscriptionsOf(cpu, range);
  if (subscriptions !== NULL) mnItreeInvEnd(cpu, subscriptions);
}

function subscriptionsOf(cpu: Cpu, range: MmuNotifierRange): MmuNotifierSubscriptions {
  return mmSubscriptions(cpu, read(cpu, range, MmuNotifierRange.mm));
}

/**
 * The address space is about to go: every interval is told RELEASE, for all of it. No lock held. The
 * intervals stay registered. Sleeps. @kernel mmu_notifier_release
 */
export function mmuNotifierRelease(cpu: Cpu, mm: MmStruct): void {
  if (mmSubscriptions(cpu, mm) === NULL) return;
  const range = stackPush(cpu, MmuNotifierRange);
  mmuNotifierRangeInit(cpu, range, MMU_NOTIFY_RELEASE, mm, 0, VA_MAX);
  mmuNotifierInvalidateRangeStart(cpu, range);
  mmuNotifierInvalidateRangeEnd(cpu, range);
  stackPop(cpu, range);
}
