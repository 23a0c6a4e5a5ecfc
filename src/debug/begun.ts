/**
 * What each CPU has begun and others wait for the end of: an invalidation, the loading of a module.
 *
 * These are no locks: nobody is told off who returns without the end. So it may stay noted for ever, and that is
 * what a report is to show.
 *
 * Invariant  I1  CpuArea.begun lists them, in no order. Like a lock, each carries a name (LOCK_CLASS_WORD).
 *            I2  Whoever has begun one ends it, or nobody does: an end by another CPU is not noted.
 * Ordering   As held-locks.ts.
 * Deviation  Where there are more than BEGUN_MAX, the wait-for graph has gaps.
 *
 * @module
 */
import { readOwn, writeOwn } from '#memory';

import type { Cpu } from '../machine/cpu.js';
import { BEGUN_MAX, CpuArea } from '../machine/types.js';
import { element } from '../memory/layout.js';

/** This CPU has begun something that others may wait for. */
export function noteBegun(cpu: Cpu, object: number): void {
  replace(cpu, 0, object);
}

/** … and has ended it. */
export function noteEnded(cpu: Cpu, object: number): void {
  replace(cpu, object, 0);
}

function replace(cpu: Cpu, before: number, after: number): void {
  for (let i = 0; i < BEGUN_MAX; i++) {
    const at = element(CpuArea.begun, i);
    if (readOwn(cpu, cpu.area, at) !== before) continue;
    writeOwn(cpu, cpu.area, at, after);
    return;
  }
}
