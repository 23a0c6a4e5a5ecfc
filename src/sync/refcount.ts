/**
 * Reference counter that saturates: a bug leaks an object, it never frees one that is in use.
 *
 * Kernel     lib/refcount.c, include/linux/refcount.h
 * Protocol   1 … INT_MAX counts references. Everything outside is wrong and becomes SATURATED, half way
 *            down the negative numbers, from where no run of adds or subs comes back in time:
 *              add on 0         use after free
 *              add past INT_MAX leak
 *              sub past 0, dec to 0 without test: underflow
 *            Each is warned of.
 * Invariant  I1  decAndTest is true exactly once in a counter's life, and then the caller is alone.
 *            I2  A saturated counter stays so, and its object is never freed.
 * Ordering   Every operation is a full barrier here; the kernel needs release on the way down and
 *            acquire where it hits 0.
 *
 * @module
 */
import { cmpxchg, fetchAdd, readOnce, write, writeOnce } from '#memory';
import { BUSTED_REFCOUNT, BUSTED_REFCOUNT_GET, isMutant } from '#mutants';

import type { Cpu } from '../machine/cpu.js';
import { warn } from '../machine/warn.js';
import { type Ptr, struct, word } from '../memory/layout.js';

/** A count of references that stays put when it overflows. */
export const Refcount = struct('refcount', {
  refs: word,
});
export type Refcount = Ptr<'refcount'>;

/** Where an overflown count stays. @kernel REFCOUNT_SATURATED */
export const REFCOUNT_SATURATED = -0x40000000;

/** Sets the count; nobody else may have it yet. @kernel refcount_set */
export function refcountSet(cpu: Cpu, refcount: Refcount, value: number): void {
  write(cpu, refcount, Refcount.refs, value);
}

/** The count as it was a moment ago. @kernel refcount_read */
export function refcountRead(cpu: Cpu, refcount: Refcount): number {
  return readOnce(cpu, refcount, Refcount.refs);
}

/** Takes a reference; the caller holds one already. @kernel refcount_inc */
export function refcountInc(cpu: Cpu, refcount: Refcount): void {
  const before = fetchAdd(cpu, refcount, Refcount.refs, 1);
  if (before <= 0 || before === 0x7fffffff) {
    saturate(
      cpu,
      refcount,
      before === 0 ? 'addition on 0; use after free' : 'saturated; leaking memory',
    );
  }
}

/** Takes a reference unless there is none any more. @kernel refcount_inc_not_zero */
export function refcountIncNotZero(cpu: Cpu, refcount: Refcount): boolean {
  let seen = readOnce(cpu, refcount, Refcount.refs);
  while (seen !== 0) {
    if (isMutant(cpu, BUSTED_REFCOUNT_GET)) {
      fetchAdd(cpu, refcount, Refcount.refs, 1);
      return true;
    }
    const before = cmpxchg(cpu, refcount, Refcount.refs, seen, (seen + 1) | 0);
    if (before === seen) {
      if (seen < 0 || seen === 0x7fffffff) saturate(cpu, refcount, 'saturated; leaking memory');
      return true;
    }
    seen = before;
  }
  return false;
}

/** Gives a reference back; true if it was the last (I1). @kernel refcount_dec_and_test */
export function refcountDecAndTest(cpu: Cpu, refcount: Refcount): boolean {
  const before = fetchAdd(cpu, refcount, Refcount.refs, -1);
  if (isMutant(cpu, BUSTED_REFCOUNT)) return refcountRead(cpu, refcount) === 0;
  if (before === 1) return true;
  if (before <= 0) saturate(cpu, refcount, 'underflow; use after free');
  return false;
}

/** Gives back a reference that is not the last. @kernel refcount_dec */
export function refcountDec(cpu: Cpu, refcount: Refcount): void {
  const before = fetchAdd(cpu, refcount, Refcount.refs, -1);
  if (before <= 1) saturate(cpu, refcount, 'decrement hit 0; leaking memory');
}

/** Gives a reference back unless it is the last; true if it did. @kernel refcount_dec_not_one */
export function refcountDecNotOne(cpu: Cpu, refcount: Refcount): boolean {
  let seen = readOnce(cpu, refcount, Refcount.refs);
  for (;;) {
    if (seen === REFCOUNT_SATURATED) return true; // I2
    if (seen === 1) return false;
    if (seen <= 0) {
      saturate(cpu, refcount, 'underflow; use after free');
      return true;
    }
    const before = cmpxchg(cpu, refcount, Refcount.refs, seen, seen - 1);
    if (before === seen) return true;
    seen = before;
  }
}

function saturate(cpu: Cpu, refcount: Refcount, what: string): void {
  writeOnce(cpu, refcount, Refcount.refs, REFCOUNT_SATURATED);
  warn(cpu, `refcount_t ${refcount}: ${what}`);
}
