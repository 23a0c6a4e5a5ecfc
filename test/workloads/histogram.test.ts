import assert from 'node:assert/strict';
import { describe, test } from 'node:test';

import fc from 'fast-check';

import { allocWords } from '../../src/machine/slab.js';
import {
  Histogram,
  histogramRecord,
  histogramReset,
  type Latencies,
  latenciesOf,
} from '../../src/workloads/histogram.js';
import { bootCpu } from '../support/machine.js';

const cpu = bootCpu(1 << 20);
const LONGEST = 0x7fffffff;

function newHistogram(): Histogram {
  return allocWords(cpu, Histogram.words) as Histogram;
}

const histograms = [newHistogram(), newHistogram(), newHistogram()];

/** Records each list into a histogram of its own and adds them up. */
function latencies(lists: readonly (readonly number[])[]): Latencies {
  histograms.forEach((histogram, i) => {
    histogramReset(cpu, histogram);
    for (const value of lists[i] ?? []) histogramRecord(cpu, histogram, value);
  });
  return latenciesOf(cpu, histograms);
}

/** The smallest value that `share` per mille of all are not above. */
function percentile(sorted: readonly number[], share: number): number {
  return sorted[Math.ceil((sorted.length * share) / 1000) - 1]!;
}

/** Found again to within 1/32, and never above. */
function assertNear(found: number, value: number, what: string): void {
  const stored = Math.min(Math.trunc(value), LONGEST);
  assert.ok(found <= stored && stored - found <= stored / 32, `${what}: ${found} for ${value}`);
}

const value = fc.oneof(
  fc.nat(200),
  fc.nat(100_000),
  fc.nat(LONGEST),
  fc.double({ min: 0, max: 1e11, noNaN: true }),
);

describe('a latency histogram', () => {
  test('has the percentiles of a sorted array, to within 1/32', () => {
    const lists = fc.array(fc.array(value, { maxLength: 300, size: 'max' }), { maxLength: 3 });
    fc.assert(
      fc.property(lists, (told) => {
        const sorted = told.flat().sort((a, b) => a - b);
        const found = latencies(told);
        assert.equal(found.samples, sorted.length);
        if (sorted.length === 0) return;
        assert.equal(found.maxNs, Math.round(sorted.at(-1)!));
        assertNear(found.p50Ns, percentile(sorted, 500), 'p50');
        assertNear(found.p90Ns, percentile(sorted, 900), 'p90');
        assertNear(found.p99Ns, percentile(sorted, 990), 'p99');
        assertNear(found.p999Ns, percentile(sorted, 999), 'p999');
      }),
    );
  });

  test('has the right one of every number of samples, where none is like another', () => {
    histogramReset(cpu, histograms[0]!);
    for (let count = 1; count <= 31; count++) {
      histogramRecord(cpu, histograms[0]!, count); // small values are kept exactly
      const found = latenciesOf(cpu, histograms.slice(0, 1));
      const ranks = [500, 900, 990, 999].map((share) => Math.ceil((count * share) / 1000));
      assert.deepEqual([found.p50Ns, found.p90Ns, found.p99Ns, found.p999Ns], ranks);
    }
  });

  test('has a rank that no rounding moves', () => {
    const histogram = histograms[0]!;
    histogramReset(cpu, histogram);
    for (const [share, q] of [
      [500, 0.5],
      [900, 0.9],
      [990, 0.99],
      [999, 0.999],
    ] as const) {
      for (let count = 1; count < 20_000; count++) {
        const rank = Math.ceil((count * share) / 1000);
        assert.ok(rank >= count * q && rank - 1 < count * q, `${share} of ${count}`);
      }
    }
  });

  test('is all 0 without samples, and after a reset', () => {
    const none = { samples: 0, p50Ns: 0, p90Ns: 0, p99Ns: 0, p999Ns: 0, maxNs: 0 };
    assert.deepEqual(latencies([]), none);
    latencies([[5, 6], [7]]);
    assert.deepEqual(latencies([]), none);
  });

  test('takes a clock that went backwards for no time at all', () => {
    assert.deepEqual(latencies([[-5]]), {
      ...{ samples: 1, p50Ns: 0, p90Ns: 0, p99Ns: 0, p999Ns: 0 },
      maxNs: 0,
    });
  });
});
