/**
 * What the driver counts: each CPU for itself, added up when nobody runs.
 *
 * @module
 */
import { read, readAddress, write } from '#memory';

import type { Cpu } from '../../machine/cpu.js';
import { allocPercpu, perCpuPtr, thisCpuPtr } from '../../machine/percpu.js';
import { MACHINE, Machine } from '../../machine/types.js';
import { element, type Field } from '../../memory/layout.js';
import { MMU_NOTIFY_NAMES } from '../../notifier/mmu-notifier-range.js';
import { EVENTS, SvmStats } from './types.js';

/** Sums over all CPUs. */
export interface SvmTotals {
  readonly invalidationsByEvent: Readonly<Record<string, number>>;
  readonly invalidations: number;
  readonly pagesInvalidated: number;
  readonly faults: number;
  readonly retries: number;
  readonly refused: number;
  readonly batches: number;
  readonly staleAccesses: number;
}

/** Reserves each CPU's counters. Runs once, on the boot CPU. */
export function bootSvmStats(cpu: Cpu): void {
  write(cpu, MACHINE, Machine.svmStats, allocPercpu(cpu, SvmStats.words));
}

/** This CPU's counters. */
export function svmStats(cpu: Cpu): SvmStats {
  return thisCpuPtr<'svm_stats'>(cpu, read(cpu, MACHINE, Machine.svmStats));
}

/** Counts one more. */
export function countUp(cpu: Cpu, counter: Field<'svm_stats'>): void {
  const stats = svmStats(cpu);
  write(cpu, stats, counter, read(cpu, stats, counter) + 1);
}

/** All CPUs' counters together; exact only when none of them runs. */
export function svmTotals(cpu: Cpu): SvmTotals {
  const offset = read(cpu, MACHINE, Machine.svmStats);
  const cpus = read(cpu, MACHINE, Machine.cpus) + 1;
  const all = Array.from({ length: cpus }, (_, id) => perCpuPtr<'svm_stats'>(cpu, offset, id));
  const sum = (field: Field<'svm_stats'>): number =>
    all.reduce((total, stats) => total + (read(cpu, stats, field) >>> 0), 0); // counts wrap at 2^32
  const byEvent = Array.from({ length: EVENTS }, (_, event) =>
    sum(element(SvmStats.invalidations, event)),
  );
  return {
    invalidationsByEvent: Object.fromEntries(
      MMU_NOTIFY_NAMES.map((name, event) => [name, byEvent[event] ?? 0]),
    ),
    invalidations: byEvent.reduce((total, count) => total + count, 0),
    pagesInvalidated: all.reduce(
      (total, stats) => total + readAddress(cpu, stats, SvmStats.pages),
      0,
    ),
    faults: sum(SvmStats.faults),
    retries: sum(SvmStats.retries),
    refused: sum(SvmStats.refused),
    batches: sum(SvmStats.batches),
    staleAccesses: sum(SvmStats.stale),
  };
}
