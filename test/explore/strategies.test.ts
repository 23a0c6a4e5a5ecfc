/**
 * Strategies: the complete ones are, the others say what they promise, and all find what is planted.
 *
 * @module
 */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';

import { exploreWithCrew } from '../../src/explore/explore-crew.js';
import type { ExploreResult, FoundFailure } from '../../src/explore/explorer.js';
import { PLANTED_BUGS } from '../../src/explore/programs/planted.js';
import { STRATEGIES } from '../../src/explore/report.js';
import {
  compareOnToys,
  exploreAll,
  type ExploreArgs,
  replay,
  type ToyComparison,
} from '../programs/strategy-explorers.js';
import { programUrl } from '../support/crew.js';
import { idlePool } from '../support/pools.js';

/** Runs an explorer of test/programs/strategy-explorers.ts on a worker of the turnstile build. */
function onWorker(entry: { readonly name: string }, args: object): Promise<unknown> {
  return exploreWithCrew({
    pool: idlePool(1, 'turnstile', { exactly: true }),
    program: { name: 'sound-counter' },
    engine: 'virtual',
    explorer: { module: programUrl('strategy-explorers'), entry: entry.name, args },
    stallMs: 170_000,
  });
}

async function exploreOne(args: ExploreArgs): Promise<ExploreResult> {
  const [result] = (await onWorker(exploreAll, { explorations: [args] })) as ExploreResult[];
  return result!;
}

describe('complete strategies', () => {
  test('find the same outcomes of every toy', async () => {
    const toys = { first: 1, last: 80, schedules: 4000 };
    const found = (await onWorker(compareOnToys, toys)) as ToyComparison;
    assert.deepEqual(found.differences, []);
    assert.ok(found.compared >= 50, `${found.compared} toys were compared`);
    assert.ok(found.outcomes >= 2 * found.compared, `${found.outcomes} outcomes`);
    assert.equal(found.schedules.bounded, found.schedules.dfs); // each schedule once
    assert.ok(found.schedules.dpor * 20 <= found.schedules.dfs, JSON.stringify(found.schedules));
  });

  test('dpor exhausts LT-5 with a twentieth of the schedules of full search, and sees each outcome', async () => {
    const reduced = await exploreOne({ name: 'lt-5', strategy: 'dpor' });
    assert.equal(reduced.exhausted, true);
    assert.deepEqual(reduced.failures, []);
    for (const { name, count } of reduced.outcomes) assert.ok(count > 0, name);
    const until = { schedules: 20 * reduced.schedules };
    const full = await exploreOne({ name: 'lt-5', strategy: 'dfs', until });
    assert.equal(full.exhausted, false);
  });

  test('bounded search says which bounds are complete', async () => {
    const until = { schedules: 2000 };
    const part = await exploreOne({ name: 'lt-5', strategy: 'bounded', until });
    assert.equal(part.exhausted, false);
    assert.ok(part.preemptionBound !== undefined && part.preemptionBound >= 1);
    // it has begun the next bound, and nothing beyond
    assert.ok(part.byPreemptions.length <= part.preemptionBound + 2, part.byPreemptions.join(' '));
    const whole = await exploreOne({ name: 'sound-counter', strategy: 'bounded' });
    assert.equal(whole.exhausted, true);
    const limited = { preemptionsMax: 1 };
    const one = await exploreOne({ name: 'lt-5', strategy: 'bounded', with: limited });
    assert.deepEqual(one.byPreemptions, part.byPreemptions.slice(0, 2));
    assert.equal(one.preemptionBound, 1);
  });

  test('dpor does not say exhausted when schedules were cut off', async () => {
    const result = await exploreOne({ name: 'lt-5', strategy: 'dpor', with: { stepLimit: 40 } });
    assert.equal(result.exhausted, false);
  });
});

describe('random strategies', () => {
  test('draw the same schedules from the same seed, and others from another', async () => {
    const until = { schedules: 300 };
    for (const strategy of ['random', 'pct', 'pos'] as const) {
      const run = (seed: number) =>
        exploreOne({ name: 'lt-5', strategy, with: { seed }, until }).then(
          ({ steps, byPreemptions, outcomes }) =>
            JSON.stringify({ steps, byPreemptions, outcomes }),
        );
      assert.equal(await run(1), await run(1));
      assert.notEqual(await run(1), await run(2));
    }
  });

  test('pct prints its bound with its numbers', async () => {
    const until = { schedules: 1000 };
    const { notes } = await exploreOne({
      name: 'lt-5',
      strategy: 'pct',
      with: { depth: 2 },
      until,
    });
    const [, tasks, steps, bound] = /1\/\((\d+)·(\d+)\^1\) = ([\d.e-]+)/.exec(notes[0]!)!;
    assert.equal(tasks, '2');
    assert.equal(Number(bound), Number((1 / (2 * Number(steps))).toPrecision(3)));
    const [, runs, miss] = /^(\d+) such runs miss it with p <= ([\d.e-]+)$/.exec(notes[1]!)!;
    assert.ok(Number(runs) > 0 && Number(runs) <= 500);
    const expected = (1 - 1 / (2 * Number(steps))) ** Number(runs);
    assert.equal(Number(miss), Number(expected.toPrecision(3)));
  });
});

describe('planted bugs', () => {
  for (const { program, kind, says } of PLANTED_BUGS) {
    test(`every strategy finds: ${kind} (${says})`, async () => {
      const explorations = STRATEGIES.map((strategy) => ({
        name: program.name,
        strategy,
        until: { schedules: 20_000 },
      }));
      const results = (await onWorker(exploreAll, { explorations })) as ExploreResult[];
      for (const { strategy, failures } of results) {
        const [failure] = failures;
        assert.equal(failure?.kind, kind, strategy);
        assert.ok(failure.message.includes(says), failure.message);
      }
      await checkReplay(program.name, results[0]!.failures[0]!);
    });
  }

  async function checkReplay(name: string, { deviations, signature }: FoundFailure): Promise<void> {
    const signatures = (await onWorker(replay, { name, deviations, times: 20 })) as string[];
    assert.deepEqual(new Set(signatures), new Set([signature]));
  }

  test('a program without one does not fail', async () => {
    const explorations = ['sound-counter', 'lt-5'].flatMap((name) =>
      STRATEGIES.map((strategy) => ({ name, strategy, until: { schedules: 3000 } })),
    );
    const results = (await onWorker(exploreAll, { explorations })) as ExploreResult[];
    for (const { program, strategy, failures } of results) {
      assert.deepEqual(failures, [], `${program}, ${strategy}`);
    }
  });
});
