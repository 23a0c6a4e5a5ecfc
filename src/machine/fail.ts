/**
 * Failure injection: makes one fallible call of a CPU fail, as if memory had run out there.
 *
 * Kernel     lib/fault-inject.c (fail-nth, failslab, fail_page_alloc)
 * Protocol   A point that can fail asks shouldFail with the name of its site, before it does anything. On a
 *            CPU that is armed the question counts down, and is answered with yes once, when the count
 *            comes to 0; then that point fails as it would by itself, and the CPU is armed no more. A walk
 *            n = 1, 2, 3, … that ends when nothing has failed has seen every point of an operation fail.
 * Invariant  I1  Whoever is told to fail has done nothing yet, and does nothing.
 *            I2  At most one point fails for each time that a CPU is armed.
 * Ordering   The words are in the CPU's area and its own: nobody else reads or writes them while it runs.
 * Cost       Points on hot paths look at one word of the CPU's own line first (isArmed).
 *
 * @module
 */
import { readOwn, writeOwn } from '#memory';

import { hashName } from '../base/hash.js';
import { declaredStructs } from '../memory/layout.js';
import type { Cpu } from './cpu.js';
import { CpuArea } from './types.js';

/** The number of a point that can fail: a hash of its name, the same on every worker. */
export type FailSite = number & { readonly failSite: unique symbol };

/** Any point, or none. */
export const NO_SITE = 0 as FailSite;

const names = new Map<number, string>();

/** Names a point that can fail. The same name always gives the same site. */
export function failSite(name: string): FailSite {
  const site = hashName(name) as FailSite;
  names.set(site, name);
  return site;
}

/** The point at which structs of that name are allocated. */
export function allocationSite(structName: string): FailSite {
  return failSite(`kzalloc ${structName}`);
}

/** The name of a point: `alloc_pages`, `kzalloc device`; or its number, if nothing here is called so. */
export function failSiteName(site: FailSite): string {
  const name = names.get(site);
  if (name !== undefined) return name;
  for (const structName of declaredStructs().keys()) {
    if (allocationSite(structName) === site) return failSiteName(site);
  }
  return `site ${site}`;
}

/**
 * Lets the `nth` call of this CPU from now on fail that can: the first is 1. With a site, only calls at that
 * site count.
 */
export function failNth(cpu: Cpu, nth: number, site = NO_SITE): void {
  writeOwn(cpu, cpu.area, CpuArea.failSite, site);
  writeOwn(cpu, cpu.area, CpuArea.failedSite, NO_SITE);
  writeOwn(cpu, cpu.area, CpuArea.failNth, nth);
}

/** No call of this CPU is made to fail any more. Returns the site of the one that was; NO_SITE if none was. */
export function failEnd(cpu: Cpu): FailSite {
  writeOwn(cpu, cpu.area, CpuArea.failNth, 0);
  return readOwn(cpu, cpu.area, CpuArea.failedSite) as FailSite;
}

/** True while a call of this CPU is to fail. */
export function isArmed(cpu: Cpu): boolean {
  return readOwn(cpu, cpu.area, CpuArea.failNth) !== 0;
}

/** True if the call at this point has to fail, now and only now (I2). @kernel should_fail */
export function shouldFail(cpu: Cpu, site: FailSite): boolean {
  const left = readOwn(cpu, cpu.area, CpuArea.failNth);
  if (left === 0) return false;
  const wanted = readOwn(cpu, cpu.area, CpuArea.failSite);
  if (wanted !== NO_SITE && wanted !== site) return false;
  writeOwn(cpu, cpu.area, CpuArea.failNth, left - 1);
  if (left > 1) return false;
  writeOwn(cpu, cpu.area, CpuArea.failedSite, site);
  return true;
}
