/**
 * Results of `faultline bench` as a program reads them: schema `faultline.bench/1`.
 *
 * @module
 */
import type { ProtocolEntry } from '../protocols/registry.js';
import type { Latencies } from '../workloads/histogram.js';
import type { PointResult } from '../workloads/measure.js';
import type { ReplayReport } from '../workloads/strace/replay.js';
import type { PointConfig } from '../workloads/workload.js';
import type { Environment } from './environment.js';

export const BENCH_SCHEMA = 'faultline.bench/1';

/** Latency percentiles. Unit: nanoseconds. */
export type JsonLatencies = Latencies;

/** One configuration and what it gave. */
export interface BenchPoint {
  readonly workload: string;
  /** What the device's driver mirrors the address space by, if --protocol said. */
  readonly protocol?: string;
  /** What is wrong with the protocol; absent if it is safe. */
  readonly flaw?: string;
  readonly parameters: PointConfig;
  readonly faultsPerSecond: number;
  readonly invalidationsPerSecond: number;
  readonly faults: number;
  readonly invalidations: number;
  /** Rounds of the collision-retry loop beyond the first. */
  readonly retries: number;
  /** Retries out of all rounds of the loop. */
  readonly retryShare: number;
  /** Device accesses per second; 0 where engines do not run. */
  readonly accessesPerSecond: number;
  readonly fault: JsonLatencies;
  readonly invalidate: JsonLatencies;
  readonly staleAccesses: number;
  readonly seconds: number;
  /** How long the machine and its workers took to get ready. Unit: milliseconds. */
  readonly bootMs: number;
  readonly rounds: number;
  readonly marginOfErrorPercent: number;
  readonly interrupted: boolean;
}

/** A whole result file. */
export interface BenchResult {
  readonly schema: typeof BENCH_SCHEMA;
  readonly environment: Environment;
  /** The options of the command, with all defaults filled in. */
  readonly config: Readonly<Record<string, unknown>>;
  readonly points: readonly BenchPoint[];
  /** Of a replay, which has no points. */
  readonly strace?: ReplayReport;
  readonly interrupted: boolean;
}

/** A point as the result file states it. */
export function benchPoint(
  workload: string,
  result: PointResult,
  protocol?: ProtocolEntry,
): BenchPoint {
  const { fault, invalidate, totals } = result;
  const { retries } = result;
  const tries = fault.operations + retries;
  return {
    workload,
    ...(protocol !== undefined && { protocol: protocol.name }),
    ...(protocol?.flaw !== undefined && { flaw: protocol.flaw }),
    parameters: result.config,
    faultsPerSecond: fault.perSecond,
    invalidationsPerSecond: invalidate.perSecond,
    faults: fault.operations,
    invalidations: invalidate.operations,
    retries,
    retryShare: tries === 0 ? 0 : retries / tries,
    accessesPerSecond: fault.accessesPerSecond,
    fault: fault.latencies,
    invalidate: invalidate.latencies,
    staleAccesses: totals.staleAccesses,
    seconds: result.seconds,
    bootMs: result.bootMs,
    rounds: result.rounds,
    marginOfErrorPercent: result.marginOfErrorPercent,
    interrupted: result.interrupted,
  };
}
