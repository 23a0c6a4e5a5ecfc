/**
 * A count of references that costs no shared write, until somebody wants to know whether it is 0.
 *
 * Kernel     lib/percpu-refcount.c, include/linux/percpu-refcount.h
 * Protocol   In per-CPU mode a get and a put change this CPU's own word, inside an RCU read section; nobody
 *            could say what the sum is. In atomic mode they change one shared count, and the put that
 *            brings it to 0 calls `release`. The switch between the two is what it is all about:
 *
 *              switching CPU (percpuRefLock)          everybody else
 *              set ATOMIC; count += 1                 in a section that began before: own word still
 *              callRcu                                in one that began later: the shared count
 *              … after the grace period, a kworker: nobody changes own words any more
 *              sum all words; then count += sum - BIAS in one step
 *              confirm; wake who waits for the switch; put the extra reference
 *
 *            In per-CPU mode the shared count has BIAS on top, half of all there are, so that the puts of
 *            the time between do not bring it to 0. One step, because a get may have been counted on one
 *            CPU and its put on another: any part of the sum is meaningless, and may be negative.
 *
 *            kill: set DEAD, switch to atomic mode, put the initial reference. So in per-CPU mode release
 *            comes after a grace period, in atomic mode perhaps within kill.
 * Invariant  I1  Release is called once for each life, when gets and puts have come even (INV-6), and not
 *                before kill (INV-7).
 *            I2  Once confirm has been called, tryget_live gives no reference (INV-8). Kill alone does not
 *                see to that: a CPU may be in a section that began before.
 *            I3  The word of one CPU may be negative; only the sum means anything (INV-9).
 * Ordering   Whoever found no flag is in an RCU read section that the switch waits for. Back in per-CPU
 *            mode the words are zeroed before the flag goes, by a release.
 * Deviation  A word is 32 bits and so are counts. An interrupt cannot come, so percpuRefLock disables none.
 * Cost       A get or a put in per-CPU mode: one call: an ordered store, a load, two stores to own lines.
 *
 * `release` is called in an RCU read section, perhaps under percpuRefLock; `confirm` in a read section, or, if
 * the count is atomic already, under percpuRefLock and in none. Neither may sleep, nor kill or revive a
 * reference count.
 *
 * @module
 */
import { reachPoint } from '#debug';
import {
  cmpxchg,
  fetchAdd,
  read,
  readOnce,
  readOwn,
  storeRelease,
  write,
  writeOnce,
} from '#memory';
import { isMutant, M_10, M_11 } from '#mutants';

import { ENOMEM } from '../base/errno.js';
import type { Cpu } from '../machine/cpu.js';
import { defineKernelOps, opsAt, opsIndex, type OpsTable } from '../machine/ops-table.js';
import { allocPercpuPiece, cpusOf, freePercpuPiece, perCpuPtr } from '../machine/percpu.js';
import { mightSleep, schedule, TASK_UNINTERRUPTIBLE } from '../machine/sched.js';
import { kfree, kzalloc } from '../machine/slab.js';
import { WAIT_PERCPU_REF } from '../machine/wait-kind.js';
import { warn } from '../machine/warn.js';
import { containerOf, member, NULL, struct, word } from '../memory/layout.js';
import { spinLock, spinUnlock } from '../sync/spinlock.js';
import { finishWait, initWait, prepareToWait, wakeUpAll } from '../sync/wait-queue.js';
import { callRcu, rcuCount, type RcuOps, rcuReadLock, rcuReadUnlock } from './rcu.js';
import { deferredOf } from './state.js';
import { Deferred, PercpuRef, PercpuRefData, type RcuHead, RcuQueue } from './types.js';

/** What is done when the last reference is gone. */
export interface PercpuRefOps extends OpsTable {
  /** May not sleep, nor kill or revive a reference count. */
  readonly release: (cpu: Cpu, ref: PercpuRef) => void;
}

/** What is done when a switch to atomic mode is seen by all CPUs. */
export interface PercpuRefConfirm extends OpsTable {
  /** May not sleep, nor kill or revive a reference count. */
  readonly confirm: (cpu: Cpu, ref: PercpuRef) => void;
}

/** It begins in atomic mode, and may be switched to the other. @kernel PERCPU_REF_INIT_ATOMIC */
export const PERCPU_REF_INIT_ATOMIC = 1;
/**
 * It begins dead, in atomic mode, with no reference; percpuRefReinit brings it to life.
 * @kernel PERCPU_REF_INIT_DEAD
 */
export const PERCPU_REF_INIT_DEAD = 2;
/** It may come back to per-CPU mode, and to life. @kernel PERCPU_REF_ALLOW_REINIT */
export const PERCPU_REF_ALLOW_REINIT = 4;

const ATOMIC = 1;
const DEAD = 2;
const FLAGS = ATOMIC | DEAD;
const FLAG_BITS = 2;
/** The top bit: as far from 0 as can be, both ways. */
const BIAS = -0x80000000;

/** One CPU's count. */
const Counter = struct('percpu_ref_counter', { value: word });

const noConfirm: PercpuRefConfirm = defineKernelOps({
  opsName: 'percpu_ref without confirmation',
  confirm() {
    // nobody asked
  },
});

// --- gets and puts ---

/** Takes a reference; the caller has one, or knows that there is. @kernel percpu_ref_get */
export function percpuRefGet(cpu: Cpu, ref: PercpuRef): void {
  percpuRefGetMany(cpu, ref, 1);
}

/** Takes `count` references. @kernel percpu_ref_get_many */
export function percpuRefGetMany(cpu: Cpu, ref: PercpuRef, count: number): void {
  const counters = rcuCount(cpu, ref, PercpuRef.counters, count);
  if ((counters & FLAGS) === 0) return;
  fetchAdd(cpu, dataOf(cpu, ref), PercpuRefData.count, count);
  rcuReadUnlock(cpu);
}

/** Takes a reference unless there is none any more; true if it did. @kernel percpu_ref_tryget */
export function percpuRefTryget(cpu: Cpu, ref: PercpuRef): boolean {
  const counters = rcuCount(cpu, ref, PercpuRef.counters, 1);
  if ((counters & FLAGS) === 0) return true;
  const isTaken = incNotZero(cpu, dataOf(cpu, ref));
  rcuReadUnlock(cpu);
  return isTaken;
}

/** As tryget, but not once it is seen to have been killed (I2). @kernel percpu_ref_tryget_live */
export function percpuRefTrygetLive(cpu: Cpu, ref: PercpuRef): boolean {
  const counters = rcuCount(cpu, ref, PercpuRef.counters, 1);
  if ((counters & FLAGS) === 0) return true;
  const isTaken = (counters & DEAD) === 0 && incNotZero(cpu, dataOf(cpu, ref));
  rcuReadUnlock(cpu);
  return isTaken;
}

/** Gives a reference back; the last one after kill calls release. @kernel percpu_ref_put */
export function percpuRefPut(cpu: Cpu, ref: PercpuRef): void {
  percpuRefPutMany(cpu, ref, 1);
}

/** Gives `count` references back. @kernel percpu_ref_put_many */
export function percpuRefPutMany(cpu: Cpu, ref: PercpuRef, count: number): void {
  const counters = rcuCount(cpu, ref, PercpuRef.counters, -count);
  if ((counters & FLAGS) === 0) return;
  putAtomic(cpu, ref, count);
  rcuReadUnlock(cpu);
}

function putAtomic(cpu: Cpu, ref: PercpuRef, count: number): void {
  const data = dataOf(cpu, ref);
  const before = fetchAdd(cpu, data, PercpuRefData.count, -count);
  if (((before - count) | 0) !== 0) return;
  const ops = opsAt(cpu, readOwn(cpu, data, PercpuRefData.release)) as PercpuRefOps;
  ops.release(cpu, ref);
}

/** @kernel atomic_long_inc_not_zero */
function incNotZero(cpu: Cpu, data: PercpuRefData): boolean {
  let seen = readOnce(cpu, data, PercpuRefData.count);
  while (seen !== 0) {
    const before = cmpxchg(cpu, data, PercpuRefData.count, seen, (seen + 1) | 0);
    if (before === seen) return true;
    seen = before;
  }
  return false;
}

function dataOf(cpu: Cpu, ref: PercpuRef): PercpuRefData {
  return read(cpu, ref, PercpuRef.data);
}

// --- the beginning and the end ---

/**
 * Makes it live, with one reference, in per-CPU mode; flags are PERCPU_REF_*. 0 or -ENOMEM.
 * @kernel percpu_ref_init
 */
export function percpuRefInit(cpu: Cpu, ref: PercpuRef, ops: PercpuRefOps, flags = 0): number {
  const counters = allocPercpuPiece(cpu, Counter.words);
  if (counters === 0) return -ENOMEM;
  const data = kzalloc(cpu, PercpuRefData);
  if (data === NULL) {
    freePercpuPiece(cpu, counters, Counter.words);
    return -ENOMEM;
  }
  const isDead = (flags & PERCPU_REF_INIT_DEAD) !== 0;
  const isAtomic = isDead || (flags & PERCPU_REF_INIT_ATOMIC) !== 0;
  const mode = isAtomic ? ATOMIC | (isDead ? DEAD : 0) : 0;
  const count = (isAtomic ? 0 : bias(cpu)) + (isDead ? 0 : 1);
  write(cpu, data, PercpuRefData.count, count);
  write(cpu, data, PercpuRefData.release, opsIndex(cpu, ops));
  write(cpu, data, PercpuRefData.forceAtomic, (flags & PERCPU_REF_INIT_ATOMIC) === 0 ? 0 : 1);
  const allowReinit = isAtomic || (flags & PERCPU_REF_ALLOW_REINIT) !== 0;
  write(cpu, data, PercpuRefData.allowReinit, allowReinit ? 1 : 0);
  write(cpu, data, PercpuRefData.ref, ref);
  write(cpu, ref, PercpuRef.data, data);
  write(cpu, ref, PercpuRef.counters, (counters << FLAG_BITS) | mode);
  return 0;
}

function bias(cpu: Cpu): number {
  if (isMutant(cpu, M_11)) return 0;
  return BIAS;
}

/**
 * Gives its memory back; nobody else may use it any more, but percpuRefIsZero still answers. @kernel percpu_ref_exit
 */
export function percpuRefExit(cpu: Cpu, ref: PercpuRef): void {
  freeCounters(cpu, ref);
  const data = dataOf(cpu, ref);
  if (data === NULL) return;
  const lock = member(deferredOf(cpu), Deferred.percpuRefLock);
  spinLock(cpu, lock);
  const count = readOnce(cpu, data, PercpuRefData.count);
  writeOnce(cpu, ref, PercpuRef.counters, (count << FLAG_BITS) | FLAGS);
  write(cpu, ref, PercpuRef.data, NULL as PercpuRefData);
  spinUnlock(cpu, lock);
  kfree(cpu, PercpuRefData, data);
}

/** Without its words it is atomic, and dead. @kernel __percpu_ref_exit */
function freeCounters(cpu: Cpu, ref: PercpuRef): void {
  const counters = readOnce(cpu, ref, PercpuRef.counters) >>> FLAG_BITS;
  const data = dataOf(cpu, ref);
  if (counters === 0 || data === NULL) return;
  if (readOnce(cpu, data, PercpuRefData.confirm) !== 0) {
    warn(cpu, `percpu_ref ${ref}: ended while a switch is under way`);
  }
  writeOnce(cpu, ref, PercpuRef.counters, FLAGS);
  freePercpuPiece(cpu, counters, Counter.words);
}

/**
 * Puts the initial reference; from some time on tryget_live fails. Sleeps only while another switch is under way.
 * @kernel percpu_ref_kill
 */
export function percpuRefKill(cpu: Cpu, ref: PercpuRef): void {
  percpuRefKillAndConfirm(cpu, ref, noConfirm);
}

/** As kill, and calls `ops.confirm` when tryget_live fails on all CPUs (I2). @kernel percpu_ref_kill_and_confirm */
export function percpuRefKillAndConfirm(cpu: Cpu, ref: PercpuRef, ops: PercpuRefConfirm): void {
  const lock = member(deferredOf(cpu), Deferred.percpuRefLock);
  spinLock(cpu, lock);
  const counters = readOnce(cpu, ref, PercpuRef.counters);
  if ((counters & DEAD) !== 0) warn(cpu, `percpu_ref ${ref}: killed more than once`);
  writeOnce(cpu, ref, PercpuRef.counters, counters | DEAD);
  switchMode(cpu, ref, ops);
  percpuRefPut(cpu, ref);
  spinUnlock(cpu, lock);
}

/** True once it has been killed. @kernel percpu_ref_is_dying */
export function percpuRefIsDying(cpu: Cpu, ref: PercpuRef): boolean {
  return (readOnce(cpu, ref, PercpuRef.counters) & DEAD) !== 0;
}

/** True if there is no reference, as far as one can tell: never in per-CPU mode. @kernel percpu_ref_is_zero */
export function percpuRefIsZero(cpu: Cpu, ref: PercpuRef): boolean {
  if ((readOnce(cpu, ref, PercpuRef.counters) & FLAGS) === 0) return false;
  const lock = member(deferredOf(cpu), Deferred.percpuRefLock);
  spinLock(cpu, lock); // percpuRefExit may come
  const data = dataOf(cpu, ref);
  const count =
    data === NULL
      ? readOnce(cpu, ref, PercpuRef.counters) >> FLAG_BITS
      : readOnce(cpu, data, PercpuRefData.count);
  spinUnlock(cpu, lock);
  return count === 0;
}

/** True if some CPUs may still count on their own: who has a reference then is the switch, too. */
export function percpuRefIsSwitching(cpu: Cpu, ref: PercpuRef): boolean {
  return readOnce(cpu, dataOf(cpu, ref), PercpuRefData.confirm) !== 0;
}

/** How many references there are, in either mode. Exact while nobody else uses it. */
export function percpuRefTotal(cpu: Cpu, ref: PercpuRef): number {
  const counters = readOnce(cpu, ref, PercpuRef.counters);
  const shared = readOnce(cpu, dataOf(cpu, ref), PercpuRefData.count);
  if ((counters & ATOMIC) !== 0 && !percpuRefIsSwitching(cpu, ref)) return shared;
  let sum = (shared - bias(cpu)) | 0;
  for (let id = cpusOf(cpu) - 1; id >= 0; id--) {
    const theirs = perCpuPtr<'percpu_ref_counter'>(cpu, counters >>> FLAG_BITS, id);
    sum = (sum + read(cpu, theirs, Counter.value)) | 0;
  }
  return sum;
}

/**
 * Brings it back to life and to its mode, with the initial reference; it must be dead. Sleeps only while another
 * switch is under way. @kernel percpu_ref_resurrect
 */
export function percpuRefResurrect(cpu: Cpu, ref: PercpuRef): void {
  const lock = member(deferredOf(cpu), Deferred.percpuRefLock);
  spinLock(cpu, lock);
  const counters = readOnce(cpu, ref, PercpuRef.counters);
  if ((counters & DEAD) === 0) warn(cpu, `percpu_ref ${ref}: resurrected, but not dead`);
  if ((counters & FLAGS) === 0) warn(cpu, `percpu_ref ${ref}: resurrected in per-CPU mode`);
  writeOnce(cpu, ref, PercpuRef.counters, counters & ~DEAD);
  percpuRefGet(cpu, ref);
  switchMode(cpu, ref, noConfirm);
  spinUnlock(cpu, lock);
}

/** As resurrect, when it has come to 0. Sleeps only while another switch is under way. @kernel percpu_ref_reinit */
export function percpuRefReinit(cpu: Cpu, ref: PercpuRef): void {
  if (!percpuRefIsZero(cpu, ref)) warn(cpu, `percpu_ref ${ref}: reinitialised, but not zero`);
  percpuRefResurrect(cpu, ref);
}

// --- switches ---

/**
 * Goes to atomic mode and stays there; calls `ops.confirm` when all CPUs have. Sleeps only while another switch is
 * under way. @kernel percpu_ref_switch_to_atomic
 */
export function percpuRefSwitchToAtomic(
  cpu: Cpu,
  ref: PercpuRef,
  ops: PercpuRefConfirm = noConfirm,
): void {
  forceMode(cpu, ref, 1, ops);
}

/** As switch_to_atomic, and waits until all CPUs have. Sleeps. @kernel percpu_ref_switch_to_atomic_sync */
export function percpuRefSwitchToAtomicSync(cpu: Cpu, ref: PercpuRef): void {
  percpuRefSwitchToAtomic(cpu, ref);
  mightSleep(cpu);
  waitForSwitch(cpu, ref);
}

/**
 * Goes back to per-CPU mode, or does when it comes to life again. Sleeps only while another switch is under way.
 * @kernel percpu_ref_switch_to_percpu
 */
export function percpuRefSwitchToPercpu(cpu: Cpu, ref: PercpuRef): void {
  forceMode(cpu, ref, 0, noConfirm);
}

function forceMode(cpu: Cpu, ref: PercpuRef, forceAtomic: number, ops: PercpuRefConfirm): void {
  const lock = member(deferredOf(cpu), Deferred.percpuRefLock);
  spinLock(cpu, lock);
  write(cpu, dataOf(cpu, ref), PercpuRefData.forceAtomic, forceAtomic);
  switchMode(cpu, ref, ops);
  spinUnlock(cpu, lock);
}

/** To the mode it is to be in. percpuRefLock is held, and given back meanwhile if another switch is under way. */
function switchMode(cpu: Cpu, ref: PercpuRef, ops: PercpuRefConfirm): void {
  const data = dataOf(cpu, ref);
  const lock = member(deferredOf(cpu), Deferred.percpuRefLock);
  while (readOnce(cpu, data, PercpuRefData.confirm) !== 0) {
    spinUnlock(cpu, lock);
    waitForSwitch(cpu, ref);
    spinLock(cpu, lock);
  }
  const isDying = percpuRefIsDying(cpu, ref);
  if (isDying || read(cpu, data, PercpuRefData.forceAtomic) !== 0) switchToAtomic(cpu, ref, ops);
  else switchToPercpu(cpu, ref);
}

/** Sleeps until no switch is under way. */
function waitForSwitch(cpu: Cpu, ref: PercpuRef): void {
  const queue = member(deferredOf(cpu), Deferred.percpuRefWait);
  const data = dataOf(cpu, ref);
  const callbacks = member(deferredOf(cpu), Deferred.rcu);
  const wait = initWait(cpu, WAIT_PERCPU_REF, member(callbacks, RcuQueue.work)); // which ends a switch
  for (;;) {
    prepareToWait(cpu, queue, wait, TASK_UNINTERRUPTIBLE);
    if (readOnce(cpu, data, PercpuRefData.confirm) === 0) break; // pairs with confirmSwitch
    schedule(cpu);
  }
  finishWait(cpu, queue, wait);
}

/** @kernel __percpu_ref_switch_to_atomic */
function switchToAtomic(cpu: Cpu, ref: PercpuRef, ops: PercpuRefConfirm): void {
  const counters = readOnce(cpu, ref, PercpuRef.counters);
  if ((counters & ATOMIC) !== 0) {
    ops.confirm(cpu, ref);
    return;
  }
  const data = dataOf(cpu, ref);
  storeRelease(cpu, ref, PercpuRef.counters, counters | ATOMIC);
  writeOnce(cpu, data, PercpuRefData.confirm, opsIndex(cpu, ops));
  percpuRefGet(cpu, ref); // put when the switch is done
  callRcu(cpu, member(data, PercpuRefData.rcu), atomicOps);
}

const atomicOps: RcuOps = defineKernelOps({
  opsName: 'percpu_ref switch to atomic',
  callback(cpu: Cpu, head: RcuHead) {
    const data: PercpuRefData = containerOf(head, PercpuRefData.rcu);
    addUp(cpu, data);
    confirmSwitch(cpu, data);
  },
});

/** All CPUs use the shared count now: what their own words had goes there, and the bias from it. */
function addUp(cpu: Cpu, data: PercpuRefData): void {
  const ref = readOwn(cpu, data, PercpuRefData.ref);
  const counters = readOnce(cpu, ref, PercpuRef.counters) >>> FLAG_BITS;
  let sum = 0;
  if (isMutant(cpu, M_10)) fetchAdd(cpu, data, PercpuRefData.count, -bias(cpu));
  for (let id = cpusOf(cpu) - 1; id >= 0; id--) {
    const theirs = perCpuPtr<'percpu_ref_counter'>(cpu, counters, id);
    const value = read(cpu, theirs, Counter.value);
    if (isMutant(cpu, M_10)) fetchAdd(cpu, data, PercpuRefData.count, value);
    reachPoint(cpu, 'counts are being summed');
    sum = (sum + value) | 0;
  }
  if (isMutant(cpu, M_10)) return;
  const difference = (sum - bias(cpu)) | 0;
  const now = (fetchAdd(cpu, data, PercpuRefData.count, difference) + difference) | 0;
  if (now <= 0) warn(cpu, `percpu_ref ${ref}: ${now} after the switch to atomic mode`);
}

/** @kernel percpu_ref_call_confirm_rcu */
function confirmSwitch(cpu: Cpu, data: PercpuRefData): void {
  const ref = readOwn(cpu, data, PercpuRefData.ref);
  const ops = opsAt(cpu, readOnce(cpu, data, PercpuRefData.confirm)) as PercpuRefConfirm;
  rcuReadLock(cpu);
  ops.confirm(cpu, ref);
  rcuReadUnlock(cpu);
  const mayReturn = read(cpu, data, PercpuRefData.allowReinit) !== 0;
  storeRelease(cpu, data, PercpuRefData.confirm, 0); // pairs with waitForSwitch
  wakeUpAll(cpu, member(deferredOf(cpu), Deferred.percpuRefWait));
  if (!mayReturn) freeCounters(cpu, ref);
  percpuRefPut(cpu, ref); // of switchToAtomic
}

/** @kernel __percpu_ref_switch_to_percpu */
function switchToPercpu(cpu: Cpu, ref: PercpuRef): void {
  const counters = readOnce(cpu, ref, PercpuRef.counters);
  if ((counters & ATOMIC) === 0) return;
  const data = dataOf(cpu, ref);
  if (read(cpu, data, PercpuRefData.allowReinit) === 0) {
    warn(cpu, `percpu_ref ${ref}: switched to per-CPU mode, which it does not allow`);
    return;
  }
  fetchAdd(cpu, data, PercpuRefData.count, bias(cpu));
  for (let id = cpusOf(cpu) - 1; id >= 0; id--) {
    const theirs = perCpuPtr<'percpu_ref_counter'>(cpu, counters >>> FLAG_BITS, id);
    write(cpu, theirs, Counter.value, 0);
  }
  storeRelease(cpu, ref, PercpuRef.counters, counters & ~ATOMIC); // pairs with percpuRefGetMany
}
