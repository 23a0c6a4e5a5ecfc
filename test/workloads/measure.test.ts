/**
 * The benchmark workloads as they are measured: their counters agree with each other, each option has an
 * effect, and nothing is left behind.
 *
 * @module
 */
import assert from 'node:assert/strict';
import { afterEach, describe, test } from 'node:test';

import { FaultlineError } from '../../src/base/bug.js';
import { MachineFailure } from '../../src/host/failure.js';
import { faultInvalidate } from '../../src/workloads/fault-invalidate.js';
import {
  type MeasureOptions,
  measurePoint,
  type PointResult,
} from '../../src/workloads/measure.js';
import { findWorkload, WORKLOADS } from '../../src/workloads/registry.js';
import { svm } from '../../src/workloads/svm.js';
import type { PointConfig, Workload } from '../../src/workloads/workload.js';
import { deaf, dying } from '../programs/user-drivers.js';
import { programUrl } from '../support/crew.js';
import { liveWorkers } from '../support/workers.js';

const BASE: PointConfig = {
  faultThreads: 1,
  invalidators: 1,
  devices: 1,
  rangePages: 4,
  arenaPages: 256,
  overlap: 1,
  seed: 1,
  sampleEvery: 16,
};

function measure(
  workload: Workload,
  config: Partial<PointConfig> = {},
  options: Partial<MeasureOptions> = {},
): Promise<PointResult> {
  const all = { durationMs: 300, warmupMs: 0, atomics: 'wasm', ...options } as const;
  return measurePoint(workload, { ...BASE, ...config }, all);
}

afterEach(() => {
  assert.equal(liveWorkers(), 0);
});

describe('fault-invalidate', () => {
  test('counts the same from both sides: operations, callbacks, pages, retries', async () => {
    const config = { faultThreads: 3, invalidators: 2, devices: 3 };
    const { totals, fault, invalidate, rounds, interrupted } = await measure(
      faultInvalidate,
      config,
    );
    assert.ok(fault.operations > 0 && invalidate.operations > 0);
    assert.equal(totals.invalidations, invalidate.operations * 3);
    assert.equal(totals.invalidationsByEvent['PROTECTION_VMA'], totals.invalidations);
    assert.equal(totals.pagesInvalidated, totals.invalidations * BASE.rangePages);
    assert.equal(totals.retries, fault.retries);
    assert.equal(totals.staleAccesses, 0);
    assert.equal(invalidate.retries, 0);
    assert.equal(rounds, 3);
    assert.equal(interrupted, false);
  });

  test('times every nth operation, or none', async () => {
    const all = await measure(faultInvalidate, { sampleEvery: 1 });
    for (const { latencies, operations } of [all.fault, all.invalidate]) {
      assert.equal(latencies.samples, operations);
      assert.ok(latencies.p50Ns <= latencies.p99Ns && latencies.p99Ns <= latencies.maxNs);
    }
    const none = await measure(faultInvalidate, { sampleEvery: 0 });
    assert.equal(none.fault.latencies.samples, 0);
    assert.ok(none.fault.operations > 0);
  });

  test('runs with one side alone: then nobody retries, or nobody faults', async () => {
    const faults = await measure(faultInvalidate, { invalidators: 0, faultThreads: 2 });
    assert.equal(faults.totals.invalidations, 0);
    assert.equal(faults.fault.retries, 0);
    assert.ok(faults.fault.operations > 0);
    const changes = await measure(faultInvalidate, { faultThreads: 0 });
    assert.equal(changes.fault.operations, 0);
    assert.ok(changes.totals.invalidations > 0);
  });

  test('forgets the warm-up, and measures as long as it is told', async () => {
    const progress: number[] = [];
    const options = {
      durationMs: 400,
      warmupMs: 200,
      onProgress: (done: number) => progress.push(done),
    };
    const result = await measure(faultInvalidate, {}, options);
    assert.equal(result.rounds, 4);
    assert.equal(progress.length, 6);
    assert.equal(progress.at(-1), 1);
    assert.ok(result.totals.invalidations > result.invalidate.operations, 'totals are of all');
  });

  test('is the same with the other form of atomics', async () => {
    const { totals, invalidate } = await measure(faultInvalidate, {}, { atomics: 'js' });
    assert.equal(totals.invalidations, invalidate.operations);
  });

  test('ends when it is told to, with what there is', async () => {
    const stop = new AbortController();
    const onProgress = (): void => {
      stop.abort();
    };
    const options = { durationMs: 60_000, signal: stop.signal, onProgress };
    const result = await measure(faultInvalidate, {}, options);
    assert.equal(result.interrupted, true);
    assert.ok(result.rounds < 600);
  });
});

describe('svm', () => {
  test('faults, invalidates and computes, and nothing is stale', async () => {
    const config = { devices: 2, faultThreads: 2, invalidators: 2 };
    const { totals, fault, invalidate } = await measure(svm, config);
    assert.ok(fault.operations > 0 && fault.accessesPerSecond > 0 && invalidate.operations > 0);
    assert.equal(totals.staleAccesses, 0);
    const { CLEAR, UNMAP, PROTECTION_VMA } = totals.invalidationsByEvent;
    for (const count of [CLEAR, UNMAP, PROTECTION_VMA]) assert.ok(count! > 0);
    assert.ok(
      totals.faults > 0 && totals.batches > 0 && totals.batches <= totals.faults + totals.refused,
    );
    assert.equal(fault.latencies.samples, fault.operations);
  });
});

describe('a driver of the user’s', () => {
  const url = programUrl('user-drivers');

  test('that does not invalidate has stale accesses in its result', async () => {
    for (let tries = 0; ; tries++) {
      const options = { driver: { url, driver: deaf } };
      const { totals } = await measure(svm, { arenaPages: 32, seed: tries + 1 }, options);
      if (totals.staleAccesses > 0) break;
      assert.ok(tries < 20, 'nothing stale was seen');
    }
  });

  test('that throws in invalidate ends the run with a report', async () => {
    const options = { driver: { url, driver: dying } };
    await assert.rejects(measure(svm, {}, options), (error: unknown) => {
      assert.ok(error instanceof MachineFailure);
      assert.match(error.message, /died in .*TypeError: no such register/);
      return true;
    });
  });
});

test('a workload is found by its name, and memory that is too small is said to be', async () => {
  for (const workload of WORKLOADS) assert.equal(findWorkload(workload.name), workload);
  assert.throws(() => findWorkload('nothing'), /there are fault-invalidate, svm/);
  const small: Workload = { ...faultInvalidate, ramBytes: () => 64 * 4096 };
  await assert.rejects(measure(small), (error: unknown) => {
    assert.ok(error instanceof FaultlineError);
    assert.equal(error.code, 'FAULTLINE_OUT_OF_MEMORY');
    return true;
  });
});
