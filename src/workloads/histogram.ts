/**
 * Latency histograms in shared memory: log-linear, 32 steps to a power of two.
 *
 * Each worker records into one of its own; they are added up when nobody runs. A value is found again
 * to within 1/32, from 0 to 2.1 s; what is longer counts as the longest, but `max` is exact.
 *
 * @module
 */
import { read, readAddress, write, writeAddress } from '#memory';

import type { Cpu } from '../machine/cpu.js';
import { address, element, type Ptr, struct, words } from '../memory/layout.js';

/** Nanoseconds in what the clock counts. */
export const NS_PER_MS = 1e6;

const STEPS_BITS = 5;
const STEPS = 1 << STEPS_BITS;
/** Buckets of a histogram. */
export const BUCKETS = (31 - STEPS_BITS + 1) * STEPS;

export const Histogram = struct('histogram', {
  max: address, // largest value; unit: nanoseconds
  buckets: words(BUCKETS),
});
export type Histogram = Ptr<'histogram'>;

/** Counts a value. Unit: nanoseconds. */
export function histogramRecord(cpu: Cpu, histogram: Histogram, ns: number): void {
  const bucket = element(Histogram.buckets, bucketFor(ns));
  write(cpu, histogram, bucket, read(cpu, histogram, bucket) + 1);
  if (ns > readAddress(cpu, histogram, Histogram.max)) {
    writeAddress(cpu, histogram, Histogram.max, ns);
  }
}

/** The bucket of a value, which is not too large for one. Unit: nanoseconds. */
export function bucketFor(ns: number): number {
  const value = ns < 0x7fffffff ? ns | 0 : 0x7fffffff;
  return bucketOf(value < 0 ? 0 : value);
}

function bucketOf(value: number): number {
  if (value < STEPS) return value;
  const exponent = 31 - Math.clz32(value);
  const step = (value >> (exponent - STEPS_BITS)) & (STEPS - 1);
  return (exponent - STEPS_BITS + 1) * STEPS + step;
}

/** The smallest value of a bucket. Unit: nanoseconds. */
function bucketStart(bucket: number): number {
  if (bucket < STEPS) return bucket;
  const exponent = Math.floor(bucket / STEPS) - 1;
  return (STEPS + (bucket % STEPS)) * 2 ** exponent;
}

/** Forgets everything. */
export function histogramReset(cpu: Cpu, histogram: Histogram): void {
  writeAddress(cpu, histogram, Histogram.max, 0);
  for (let i = 0; i < BUCKETS; i++) write(cpu, histogram, element(Histogram.buckets, i), 0);
}

/** Latencies as results state them. Unit: nanoseconds. All 0 if nothing was measured. */
export interface Latencies {
  /** How many operations were timed; if 0, the other figures are 0 and mean nothing. */
  readonly samples: number;
  /** Percentiles, to within 1/32. Unit: nanoseconds. */
  readonly p50Ns: number;
  readonly p90Ns: number;
  readonly p99Ns: number;
  readonly p999Ns: number;
  /** The longest of all, exactly. Unit: nanoseconds. */
  readonly maxNs: number;
}

/** Adds histograms up. */
export function latenciesOf(cpu: Cpu, histograms: readonly Histogram[]): Latencies {
  const counts = new Array<number>(BUCKETS).fill(0);
  let maxNs = 0;
  for (const histogram of histograms) {
    for (let i = 0; i < BUCKETS; i++) {
      counts[i] = (counts[i] ?? 0) + read(cpu, histogram, element(Histogram.buckets, i));
    }
    maxNs = Math.max(maxNs, readAddress(cpu, histogram, Histogram.max));
  }
  return latenciesIn(counts, maxNs);
}

/** The percentiles of values that were counted by bucket, the largest of which was `maxNs`. */
export function latenciesIn(counts: readonly number[], maxNs: number): Latencies {
  const samples = counts.reduce((sum, count) => sum + count, 0);
  const quantile = (q: number): number => {
    let seen = 0;
    for (let i = 0; i < BUCKETS; i++) {
      seen += counts[i] ?? 0;
      if (seen > 0 && seen >= samples * q) return bucketStart(i);
    }
    return 0;
  };
  return {
    samples,
    p50Ns: quantile(0.5),
    p90Ns: quantile(0.9),
    p99Ns: quantile(0.99),
    p999Ns: quantile(0.999),
    maxNs: Math.round(maxNs),
  };
}
