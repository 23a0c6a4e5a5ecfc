/**
 * Notifiers of a whole mm: how they come and go.
 *
 * Kernel     mm/mmu_notifier.c (mmu_notifier_register, _unregister, _get, _put, _synchronize)
 * Protocol   Two ways, not to be mixed for one notifier:
 *
 *              the caller's own        register    unregister: calls `release` unless exit has taken it off
 *                                                  already; takes it off; waits for the walkers. Then the
 *                                                  caller frees it.
 *              one for mm and driver   get         the notifier of that ops table, with one user more; made by
 *                                                  `allocNotifier` if there is none
 *                                      put         the last user's takes it off the list, and `freeNotifier`
 *                                                  is called a grace period later. It does not call `release`.
 *                                      synchronize waits for what was put before
 *
 *            Each that is registered holds one mm_count, and no mm_users: the address space may end before.
 * Invariant  I1  After unregister returned, and when `freeNotifier` runs, no method of it runs or will (INV-12).
 *            I2  The mm_struct outlives its notifiers (INV-13).
 *            I3  `freeNotifier` is called once for each `allocNotifier` (LT-23).
 * Ordering   The mmap lock is held for writing during a registration: no range operation is between its start and
 *            its end. `users` and the list are under the subscriptions' lock.
 * Deviation  Linux also takes every reverse-map lock of the mm; here nobody invalidates under one of these
 *            alone. A registration is not interrupted by signals.
 *
 * @module
 */
import { assertHeld } from '#debug';
import { read, readOnce, write } from '#memory';
import { isMutant, M_PUT_AT_ONCE, M_UNREGISTER_UNSYNCED } from '#mutants';

import { bug } from '../base/bug.js';
import { EINVAL, ENOMEM, EOVERFLOW } from '../base/errno.js';
import type { RcuOps } from '../deferred/rcu.js';
import { callSrcu, srcuReadLock, srcuReadUnlock, synchronizeSrcu } from '../deferred/srcu.js';
import type { RcuHead } from '../deferred/types.js';
import type { Cpu } from '../machine/cpu.js';
import { defineKernelOps, opsAt, opsIndex } from '../machine/ops-table.js';
import { mightSleep } from '../machine/sched.js';
import { warn } from '../machine/warn.js';
import { hlistFirst, hlistNext, hlistUnhashed } from '../memory/hlist.js';
import { containerOf, member, NULL } from '../memory/layout.js';
import { MmStruct } from '../mm/types.js';
import { downWrite, upWrite } from '../sync/rwsem.js';
import { spinLock, spinUnlock } from '../sync/spinlock.js';
import { notifierSrcu } from './boot.js';
import { mmdrop, mmgrab } from './mm-count.js';
import type { MmuNotifierOps } from './mmu-notifier-list.js';
import {
  dropAllLocks,
  linkNotifier,
  makeSubscriptions,
  mmSubscriptions,
  takeAllLocks,
  unlinkNotifier,
} from './subscriptions.js';
import { MmuNotifier, MmuNotifierSubscriptions } from './types.js';

/** More users than that one notifier has not. @kernel UINT_MAX */
const USERS_MAX = 0x7fffffff;

// --- the caller's own ---

/**
 * Registers a notifier that the caller frees after mmuNotifierUnregister. Precondition: the caller is a user of
 * the address space; no mmap lock held. 0, -EINVAL (a table with both kinds of invalidation), -ENOMEM. Sleeps.
 * @kernel mmu_notifier_register
 */
export function mmuNotifierRegister(
  cpu: Cpu,
  notifier: MmuNotifier,
  mm: MmStruct,
  ops: MmuNotifierOps,
): number {
  downWrite(cpu, member(mm, MmStruct.mmapLock));
  const error = mmuNotifierRegisterLocked(cpu, notifier, mm, ops);
  upWrite(cpu, member(mm, MmStruct.mmapLock));
  return error;
}

/** As above; the mmap lock must be held for writing. @kernel __mmu_notifier_register */
export function mmuNotifierRegisterLocked(
  cpu: Cpu,
  notifier: MmuNotifier,
  mm: MmStruct,
  ops: MmuNotifierOps,
): number {
  assertHeld(cpu, member(mm, MmStruct.mmapLock));
  if (readOnce(cpu, mm, MmStruct.users) <= 0) bug(`mm ${mm} has ended: nobody can register`);
  if (hasBothKinds(ops)) return -EINVAL;
  if (makeSubscriptions(cpu, mm) !== 0) return -ENOMEM;
  mmgrab(cpu, mm); // dropped by unregister, or after the last put
  write(cpu, notifier, MmuNotifier.ops, opsIndex(cpu, ops));
  write(cpu, notifier, MmuNotifier.mm, mm);
  write(cpu, notifier, MmuNotifier.users, 1);
  const subscriptions = mmSubscriptions(cpu, mm);
  const lock = member(subscriptions, MmuNotifierSubscriptions.lock);
  takeAllLocks(cpu, mm);
  spinLock(cpu, lock);
  linkNotifier(cpu, subscriptions, member(notifier, MmuNotifier.hlist));
  spinUnlock(cpu, lock);
  dropAllLocks(cpu, mm);
  return 0;
}

/** A device either has page tables of its own, or walks those of the CPU. */
function hasBothKinds(ops: MmuNotifierOps): boolean {
  if (ops.archInvalidateSecondaryTlbs === undefined) return false;
  return ops.invalidateRangeStart !== undefined || ops.invalidateRangeEnd !== undefined;
}

/**
 * Unregisters; afterwards none of its methods runs or will (I1), and it may be freed. `release` is called, unless
 * exit has taken the notifier off the list before. Not from within a method of any notifier. Sleeps.
 * @kernel mmu_notifier_unregister
 */
export function mmuNotifierUnregister(cpu: Cpu, notifier: MmuNotifier, mm: MmStruct): void {
  mightSleep(cpu);
  if (readOnce(cpu, mm, MmStruct.count) <= 0) bug(`mm ${mm}: unregister after its end`);
  const srcu = notifierSrcu(cpu);
  const node = member(notifier, MmuNotifier.hlist);
  if (!hlistUnhashed(cpu, node)) {
    const bank = srcuReadLock(cpu, srcu); // exit waits until release has returned
    const ops = opsAt(cpu, read(cpu, notifier, MmuNotifier.ops)) as MmuNotifierOps;
    ops.release?.(cpu, notifier, mm);
    srcuReadUnlock(cpu, srcu, bank);
    const subscriptions = mmSubscriptions(cpu, mm);
    const lock = member(subscriptions, MmuNotifierSubscriptions.lock);
    spinLock(cpu, lock);
    unlinkNotifier(cpu, subscriptions, node); // exit may have been faster
    spinUnlock(cpu, lock);
  }
  if (!isMutant(cpu, M_UNREGISTER_UNSYNCED)) synchronizeSrcu(cpu, srcu); // I1
  mmdrop(cpu, mm);
}

// --- one for an mm and a driver ---

/**
 * The notifier of that driver for that mm, with one user more: made if there is none. A negative number is an
 * error: -ENOMEM, -EINVAL, -EOVERFLOW. Precondition as of mmuNotifierRegister. Give it back with mmuNotifierPut.
 * Sleeps. @kernel mmu_notifier_get
 */
export function mmuNotifierGet(cpu: Cpu, ops: MmuNotifierOps, mm: MmStruct): MmuNotifier {
  downWrite(cpu, member(mm, MmStruct.mmapLock));
  const notifier = mmuNotifierGetLocked(cpu, ops, mm);
  upWrite(cpu, member(mm, MmStruct.mmapLock));
  return notifier;
}

/** As above; the mmap lock must be held for writing. @kernel mmu_notifier_get_locked */
export function mmuNotifierGetLocked(cpu: Cpu, ops: MmuNotifierOps, mm: MmStruct): MmuNotifier {
  assertHeld(cpu, member(mm, MmStruct.mmapLock));
  const found = findGetMmuNotifier(cpu, ops, mm);
  if (found !== NULL) return found;
  const notifier = ops.allocNotifier?.(cpu, mm) ?? NULL;
  if (notifier === NULL) return -ENOMEM as MmuNotifier;
  const error = mmuNotifierRegisterLocked(cpu, notifier, mm, ops);
  if (error === 0) return notifier;
  ops.freeNotifier?.(cpu, notifier);
  return error as MmuNotifier;
}

/** NULL if there is none. @kernel find_get_mmu_notifier */
function findGetMmuNotifier(cpu: Cpu, ops: MmuNotifierOps, mm: MmStruct): MmuNotifier {
  const subscriptions = mmSubscriptions(cpu, mm);
  if (subscriptions === NULL) return NULL;
  const lock = member(subscriptions, MmuNotifierSubscriptions.lock);
  const index = opsIndex(cpu, ops);
  let found: MmuNotifier = NULL;
  spinLock(cpu, lock);
  let node = hlistFirst(cpu, member(subscriptions, MmuNotifierSubscriptions.list));
  for (; node !== NULL && found === NULL; node = hlistNext(cpu, node)) {
    const notifier: MmuNotifier = containerOf(node, MmuNotifier.hlist);
    if (read(cpu, notifier, MmuNotifier.ops) !== index) continue;
    const users = read(cpu, notifier, MmuNotifier.users);
    found = users === USERS_MAX ? (-EOVERFLOW as MmuNotifier) : notifier;
    if (users !== USERS_MAX) write(cpu, notifier, MmuNotifier.users, users + 1);
  }
  spinUnlock(cpu, lock);
  return found;
}

/**
 * One user less; after the last the notifier is taken off the list and `freeNotifier` called, later, by a kworker.
 * Whoever is the last must have ended all use of the address space: `release` is not called. Never sleeps.
 * @kernel mmu_notifier_put
 */
export function mmuNotifierPut(cpu: Cpu, notifier: MmuNotifier): void {
  const mm = read(cpu, notifier, MmuNotifier.mm);
  const subscriptions = mmSubscriptions(cpu, mm);
  const lock = member(subscriptions, MmuNotifierSubscriptions.lock);
  spinLock(cpu, lock);
  const users = read(cpu, notifier, MmuNotifier.users);
  if (users > 0) write(cpu, notifier, MmuNotifier.users, users - 1);
  if (users === 1) unlinkNotifier(cpu, subscriptions, member(notifier, MmuNotifier.hlist));
  spinUnlock(cpu, lock);
  if (users === 0) warn(cpu, `notifier ${notifier} is put, and has no user`);
  const head = member(notifier, MmuNotifier.rcu);
  if (users !== 1) return;
  if (isMutant(cpu, M_PUT_AT_ONCE)) freeAfterGracePeriod.callback(cpu, head);
  else callSrcu(cpu, notifierSrcu(cpu), head, freeAfterGracePeriod);
}

const freeAfterGracePeriod: RcuOps = defineKernelOps({
  opsName: 'mmu notifier free',
  callback(cpu: Cpu, head: RcuHead) {
    const notifier: MmuNotifier = containerOf(head, MmuNotifier.rcu);
    const mm = read(cpu, notifier, MmuNotifier.mm);
    const ops = opsAt(cpu, read(cpu, notifier, MmuNotifier.ops)) as MmuNotifierOps;
    ops.freeNotifier?.(cpu, notifier);
    mmdrop(cpu, mm); // taken when it was registered
  },
});

/**
 * Waits until every notifier that was put before has been freed: what a module does before it goes, with its
 * methods. Sleeps. @kernel mmu_notifier_synchronize
 */
export function mmuNotifierSynchronize(cpu: Cpu): void {
  synchronizeSrcu(cpu, notifierSrcu(cpu));
}
