/**
 * A reference count that knows what to do with its object when nobody has it any more.
 *
 * Kernel     include/linux/kref.h
 * Protocol   krefInit gives the first reference; who has one may get another; the put of the last calls the
 *            release function that it brings, on its CPU.
 * Invariant  I1  Release is called once.
 *
 * @module
 */
import type { Cpu } from '../machine/cpu.js';
import { member, type Ptr, struct } from '../memory/layout.js';
import {
  Refcount,
  refcountDecAndTest,
  refcountInc,
  refcountIncNotZero,
  refcountRead,
  refcountSet,
} from '../sync/refcount.js';

/** In the object that is counted. */
export const Kref = struct('kref', { refcount: Refcount });
export type Kref = Ptr<'kref'>;

/** One reference: the caller's. @kernel kref_init */
export function krefInit(cpu: Cpu, kref: Kref): void {
  refcountSet(cpu, member(kref, Kref.refcount), 1);
}

/** How many there were a moment ago. @kernel kref_read */
export function krefRead(cpu: Cpu, kref: Kref): number {
  return refcountRead(cpu, member(kref, Kref.refcount));
}

/** Takes a reference; the caller has one. @kernel kref_get */
export function krefGet(cpu: Cpu, kref: Kref): void {
  refcountInc(cpu, member(kref, Kref.refcount));
}

/** Takes a reference unless there is none any more; true if it did. @kernel kref_get_unless_zero */
export function krefGetUnlessZero(cpu: Cpu, kref: Kref): boolean {
  return refcountIncNotZero(cpu, member(kref, Kref.refcount));
}

/** Gives a reference back; the last calls `release`, and then the answer is true. @kernel kref_put */
export function krefPut(cpu: Cpu, kref: Kref, release: (cpu: Cpu, kref: Kref) => void): boolean {
  if (!refcountDecAndTest(cpu, member(kref, Kref.refcount))) return false;
  release(cpu, kref);
  return true;
}
