/**
 * Notifiers of a whole mm: the list, and who walks it.
 *
 * Kernel     mm/mmu_notifier.c (mn_hlist_*, __mmu_notifier_*young, …_arch_invalidate_secondary_tlbs)
 * Protocol   Whoever has something to tell walks the list in an SRCU read section and calls every method there
 *            is. Methods may sleep, but those that a page table lock may be held around: the young ones, and
 *            the secondary TLBs'. Who takes a notifier off the list waits for the walkers before it is freed
 *            (mmu-notifier-register.ts).
 *
 *            A start that may not block asks every notifier, also after one has refused, and each runs in a
 *            section in which sleeping is reported. If one has refused, the caller will not call end; so the
 *            core calls the `end` of all of them. Nobody can tell a notifier whether its own start was the one
 *            that failed: so one that has an `end` may not refuse (LT-13).
 *
 *            At exit every `release` is called, then all are taken off the list, and then whoever is inside
 *            one is waited for: who unregisters at the same time may be.
 * Invariant  I1  No method runs for a notifier once its SRCU grace period is over (INV-12).
 *            I2  Starts and ends that each notifier is told balance (INV-14).
 *            I3  Who was registered at exit has had its `release` called when mnHlistRelease returns: maybe by
 *                another CPU, maybe twice (INV-15).
 * Ordering   Links are published by release and followed by marked loads (memory/hlist.ts).
 * Deviation  A start that may not refuse and does is a bug of its driver, where Linux warns. What happens after
 *            a refusal can be chosen: boot.ts has a form that Linux has, one that it had, one that was proposed,
 *            and the mending of LT-16.
 * Cost       A walk: an SRCU read section, and two loads for each notifier.
 *
 * @module
 */
import { read } from '#memory';
import { isMutant, M_RELEASE_UNSYNCED } from '#mutants';

import { bug } from '../base/bug.js';
import { EAGAIN } from '../base/errno.js';
import { srcuReadLock, srcuReadUnlock, synchronizeSrcu } from '../deferred/srcu.js';
import type { Cpu } from '../machine/cpu.js';
import { opsAt, type OpsTable } from '../machine/ops-table.js';
import { nonBlockEnd, nonBlockStart } from '../machine/sched.js';
import { hlistFirst, hlistIsSingular, hlistNext, type HlistNode } from '../memory/hlist.js';
import { containerOf, member, NULL, type Va } from '../memory/layout.js';
import type { MmStruct } from '../mm/types.js';
import { spinLock, spinUnlock } from '../sync/spinlock.js';
import { LIST_REFUSE_SHARED, LIST_UNPAIRED, listForm, notifierSrcu } from './boot.js';
import { mmuNotifierRangeBlockable } from './mmu-notifier-range.js';
import { mmSubscriptions, subscribedKinds, unlinkNotifier } from './subscriptions.js';
import { HAS_LIST, MmuNotifier, type MmuNotifierRange, MmuNotifierSubscriptions } from './types.js';

/** What a driver can be told of everything that happens to an mm. All are optional. */
export interface MmuNotifierOps extends OpsTable {
  /**
   * The address space ends, or the notifier is unregistered: ends all use of it. May run twice at a time. May
   * sleep; may put the notifier, but not unregister any, and not free it.
   */
  readonly release?: (cpu: Cpu, notifier: MmuNotifier, mm: MmStruct) => void;
  /** Forgets that the device has used the pages, flushing; true if it had. May not sleep. */
  readonly clearFlushYoung?: YoungMethod;
  /** … without flushing. May not sleep. */
  readonly clearYoung?: YoungMethod;
  /** True if the device has used the page. May not sleep. */
  readonly testYoung?: (cpu: Cpu, notifier: MmuNotifier, mm: MmStruct, va: Va) => boolean;
  /**
   * Ends the device's use of the pages: 0, or -EAGAIN if it would have to sleep and the range is not blockable.
   * With an `end` it may not refuse. May not change the mm, nor unregister.
   */
  readonly invalidateRangeStart?: (
    cpu: Cpu,
    notifier: MmuNotifier,
    range: MmuNotifierRange,
  ) => number;
  /** The page tables have changed. May sleep only if the range is blockable. */
  readonly invalidateRangeEnd?: (cpu: Cpu, notifier: MmuNotifier, range: MmuNotifierRange) => void;
  /** For devices that walk the CPU's page table: drops what their TLB has of it. May not sleep. */
  readonly archInvalidateSecondaryTlbs?: (
    cpu: Cpu,
    notifier: MmuNotifier,
    mm: MmStruct,
    start: Va,
    end: Va,
  ) => void;
  /** Makes the notifier that mmuNotifierGet found missing; NULL if memory is out. mmap lock held for writing. */
  readonly allocNotifier?: (cpu: Cpu, mm: MmStruct) => MmuNotifier;
  /** Frees it, when nobody walks any list that it was on. May not sleep. */
  readonly freeNotifier?: (cpu: Cpu, notifier: MmuNotifier) => void;
}

type YoungMethod = (cpu: Cpu, notifier: MmuNotifier, mm: MmStruct, start: Va, end: Va) => boolean;

// --- invalidations; for notifier/mmu-notifier.ts ---

/** Tells all that the range's pages go: 0, or -EAGAIN if one has refused. @kernel mn_hlist_invalidate_range_start */
export function mnHlistInvalidateRangeStart(
  cpu: Cpu,
  subscriptions: MmuNotifierSubscriptions,
  range: MmuNotifierRange,
): number {
  const isBlockable = mmuNotifierRangeBlockable(cpu, range);
  const srcu = notifierSrcu(cpu);
  const bank = srcuReadLock(cpu, srcu);
  let error = 0;
  for (let node = firstOf(cpu, subscriptions); node !== NULL; node = hlistNext(cpu, node)) {
    const notifier: MmuNotifier = containerOf(node, MmuNotifier.hlist);
    const ops = opsOf(cpu, notifier);
    if (ops.invalidateRangeStart === undefined) continue;
    if (!isBlockable) nonBlockStart(cpu);
    const answer = ops.invalidateRangeStart(cpu, notifier, range);
    if (!isBlockable) nonBlockEnd(cpu);
    if (answer === 0) continue;
    checkRefusal(cpu, ops, answer, isBlockable);
    error = answer;
  }
  if (error !== 0 && listForm(cpu) !== LIST_UNPAIRED) callEnds(cpu, subscriptions, range); // I2
  srcuReadUnlock(cpu, srcu, bank);
  return error;
}

/** True if the range is refused before anybody is asked: the form of August 2019. */
export function mnHlistRefusesAll(
  cpu: Cpu,
  subscriptions: MmuNotifierSubscriptions,
  range: MmuNotifierRange,
): boolean {
  if (listForm(cpu) !== LIST_REFUSE_SHARED || mmuNotifierRangeBlockable(cpu, range)) return false;
  return !hlistIsSingular(cpu, member(subscriptions, MmuNotifierSubscriptions.list));
}

function checkRefusal(cpu: Cpu, ops: MmuNotifierOps, answer: unknown, isBlockable: boolean): void {
  if (answer !== -EAGAIN) bug(`${ops.opsName}: invalidateRangeStart answered ${String(answer)}`);
  if (isBlockable) bug(`${ops.opsName}: invalidateRangeStart refused a range that may block`);
  const isAllowed = listForm(cpu) === LIST_UNPAIRED || listForm(cpu) === LIST_REFUSE_SHARED;
  if (ops.invalidateRangeEnd !== undefined && !isAllowed) {
    bug(`${ops.opsName}: invalidateRangeStart refused, and has an end to it (LT-13)`);
  }
}

/** Tells all that the page tables have changed. @kernel mn_hlist_invalidate_end */
export function mnHlistInvalidateEnd(
  cpu: Cpu,
  subscriptions: MmuNotifierSubscriptions,
  range: MmuNotifierRange,
): void {
  const srcu = notifierSrcu(cpu);
  const bank = srcuReadLock(cpu, srcu);
  callEnds(cpu, subscriptions, range);
  srcuReadUnlock(cpu, srcu, bank);
}

function callEnds(
  cpu: Cpu,
  subscriptions: MmuNotifierSubscriptions,
  range: MmuNotifierRange,
): void {
  const isBlockable = mmuNotifierRangeBlockable(cpu, range);
  for (let node = firstOf(cpu, subscriptions); node !== NULL; node = hlistNext(cpu, node)) {
    const notifier: MmuNotifier = containerOf(node, MmuNotifier.hlist);
    const ops = opsOf(cpu, notifier);
    if (ops.invalidateRangeEnd === undefined) continue;
    if (!isBlockable) nonBlockStart(cpu);
    ops.invalidateRangeEnd(cpu, notifier, range);
    if (!isBlockable) nonBlockEnd(cpu);
  }
}

/** The address space ends: releases all, and leaves nobody on the list. Sleeps. @kernel mn_hlist_release */
export function mnHlistRelease(
  cpu: Cpu,
  subscriptions: MmuNotifierSubscriptions,
  mm: MmStruct,
): void {
  const srcu = notifierSrcu(cpu);
  const bank = srcuReadLock(cpu, srcu);
  for (let node = firstOf(cpu, subscriptions); node !== NULL; node = hlistNext(cpu, node)) {
    const notifier: MmuNotifier = containerOf(node, MmuNotifier.hlist);
    opsOf(cpu, notifier).release?.(cpu, notifier, mm);
  }
  const lock = member(subscriptions, MmuNotifierSubscriptions.lock);
  spinLock(cpu, lock);
  for (let node = firstOf(cpu, subscriptions); node !== NULL; node = firstOf(cpu, subscriptions)) {
    unlinkNotifier(cpu, subscriptions, node);
  }
  spinUnlock(cpu, lock);
  srcuReadUnlock(cpu, srcu, bank);
  if (!isMutant(cpu, M_RELEASE_UNSYNCED)) synchronizeSrcu(cpu, srcu); // I3
}

// --- what the page tables' owners tell without opening an invalidation ---

/** Forgets that devices have used the pages, flushing; true if one had. @kernel mmu_notifier_clear_flush_young */
export function mmuNotifierClearFlushYoung(cpu: Cpu, mm: MmStruct, start: Va, end: Va): boolean {
  const subscriptions = listened(cpu, mm);
  if (subscriptions === NULL) return false;
  return clearYoung(cpu, subscriptions, mm, start, end, true);
}

/** As above without flushing: the answer may be out of date at once. @kernel mmu_notifier_clear_young */
export function mmuNotifierClearYoung(cpu: Cpu, mm: MmStruct, start: Va, end: Va): boolean {
  const subscriptions = listened(cpu, mm);
  if (subscriptions === NULL) return false;
  return clearYoung(cpu, subscriptions, mm, start, end, false);
}

function clearYoung(
  cpu: Cpu,
  subscriptions: MmuNotifierSubscriptions,
  mm: MmStruct,
  start: Va,
  end: Va,
  flush: boolean,
): boolean {
  const srcu = notifierSrcu(cpu);
  const bank = srcuReadLock(cpu, srcu);
  let isYoung = false;
  for (let node = firstOf(cpu, subscriptions); node !== NULL; node = hlistNext(cpu, node)) {
    const notifier: MmuNotifier = containerOf(node, MmuNotifier.hlist);
    const ops = opsOf(cpu, notifier);
    const method = flush ? ops.clearFlushYoung : ops.clearYoung;
    if (method?.(cpu, notifier, mm, start, end) === true) isYoung = true; // all are asked
  }
  srcuReadUnlock(cpu, srcu, bank);
  return isYoung;
}

/** True if a device has used the page lately. @kernel mmu_notifier_test_young */
export function mmuNotifierTestYoung(cpu: Cpu, mm: MmStruct, va: Va): boolean {
  const subscriptions = listened(cpu, mm);
  if (subscriptions === NULL) return false;
  const srcu = notifierSrcu(cpu);
  const bank = srcuReadLock(cpu, srcu);
  let isYoung = false;
  let node = firstOf(cpu, subscriptions);
  for (; node !== NULL && !isYoung; node = hlistNext(cpu, node)) {
    const notifier: MmuNotifier = containerOf(node, MmuNotifier.hlist);
    isYoung = opsOf(cpu, notifier).testYoung?.(cpu, notifier, mm, va) === true;
  }
  srcuReadUnlock(cpu, srcu, bank);
  return isYoung;
}

/**
 * The CPUs have dropped their translations of [start, end): so must whoever walks their page table. A page table
 * lock may be held; never sleeps. @kernel mmu_notifier_arch_invalidate_secondary_tlbs
 */
export function mmuNotifierArchInvalidateSecondaryTlbs(
  cpu: Cpu,
  mm: MmStruct,
  start: Va,
  end: Va,
): void {
  const subscriptions = listened(cpu, mm);
  if (subscriptions !== NULL) invalidateSecondaryTlbs(cpu, subscriptions, mm, start, end);
}

function invalidateSecondaryTlbs(
  cpu: Cpu,
  subscriptions: MmuNotifierSubscriptions,
  mm: MmStruct,
  start: Va,
  end: Va,
): void {
  const srcu = notifierSrcu(cpu);
  const bank = srcuReadLock(cpu, srcu);
  for (let node = firstOf(cpu, subscriptions); node !== NULL; node = hlistNext(cpu, node)) {
    const notifier: MmuNotifier = containerOf(node, MmuNotifier.hlist);
    opsOf(cpu, notifier).archInvalidateSecondaryTlbs?.(cpu, notifier, mm, start, end);
  }
  srcuReadUnlock(cpu, srcu, bank);
}

/** The mm's subscriptions if anybody is on their list; NULL if not. @kernel mm_has_notifiers */
function listened(cpu: Cpu, mm: MmStruct): MmuNotifierSubscriptions {
  const subscriptions = mmSubscriptions(cpu, mm);
  if (subscriptions === NULL) return NULL;
  return (subscribedKinds(cpu, subscriptions) & HAS_LIST) === 0 ? NULL : subscriptions;
}

function firstOf(cpu: Cpu, subscriptions: MmuNotifierSubscriptions): HlistNode {
  return hlistFirst(cpu, member(subscriptions, MmuNotifierSubscriptions.list));
}

function opsOf(cpu: Cpu, notifier: MmuNotifier): MmuNotifierOps {
  return opsAt(cpu, read(cpu, notifier, MmuNotifier.ops)) as MmuNotifierOps;
}
