/**
 * Per-CPU data: one instance for each CPU, at the same offset in each CPU's part of the region.
 *
 * Kernel     mm/percpu.c
 * Protocol   allocPercpu hands out an offset; a CPU finds its own instance at `cpu.percpu + offset`, and
 *            another's with perCpuPtr. A CPU's instance is its own line, so updates by different CPUs
 *            never share one.
 * Deviation  Offsets are taken at boot and never given back; every part has a fixed size.
 *
 * @module
 */
import { read, write } from '#memory';

import { bug } from '../base/bug.js';
import { CACHELINE_WORDS, member, type Ptr } from '../memory/layout.js';
import { archSpinLock, archSpinUnlock } from './arch-spinlock.js';
import type { Cpu } from './cpu.js';
import { MACHINE, Machine } from './types.js';

/** Where each CPU's instance of S lies in its part of the region. Unit: words. */
export type PercpuOffset<S extends string> = number & { readonly percpu: S };

/** Reserves `words` words for every CPU, zeroed, from a line boundary. */
export function allocPercpu(cpu: Cpu, words: number): number {
  const lock = member(MACHINE, Machine.percpuLock);
  archSpinLock(cpu, lock);
  const offset = read(cpu, MACHINE, Machine.percpuUsed);
  const end = offset + Math.ceil(words / CACHELINE_WORDS) * CACHELINE_WORDS;
  if (end > read(cpu, MACHINE, Machine.percpuStride)) bug('the per-CPU region is full');
  write(cpu, MACHINE, Machine.percpuUsed, end);
  archSpinUnlock(cpu, lock);
  return offset;
}

/** This CPU's instance. @kernel this_cpu_ptr */
export function thisCpuPtr<S extends string>(cpu: Cpu, offset: number): Ptr<S> {
  return (cpu.percpu + offset) as Ptr<S>;
}

/** The instance of CPU `id`. @kernel per_cpu_ptr */
export function perCpuPtr<S extends string>(cpu: Cpu, offset: number, id: number): Ptr<S> {
  const stride = read(cpu, MACHINE, Machine.percpuStride);
  return (read(cpu, MACHINE, Machine.percpu) + id * stride + offset) as Ptr<S>;
}
