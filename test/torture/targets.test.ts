/**
 * Each target, for a moment, with more CPUs than cores: nothing is found where nothing is wrong, and what is planted
 * is.
 *
 * @module
 */
import assert from 'node:assert/strict';
import { after, describe, test } from 'node:test';

import { MUTANTS_TABLE } from '../../src/explore/mutants.js';
import { TORTURE_TARGETS } from '../../src/torture/targets/registry.js';
import { torture, torturePools } from '../support/torture.js';

/** Who may come first where something is planted. */
const DETECTORS: readonly string[] = [
  'invariant',
  'wait-for graph',
  'watchdog',
  'data race',
  'use after free',
];

const pools = torturePools();
after(() => pools.end());

describe('a run without a mistake finds nothing, and everybody gets on:', () => {
  for (const { name, services = [] } of TORTURE_TARGETS) {
    test(name, async () => {
      const { verdict, violation, members, checkedForLeaks } = await torture(name, pools);
      assert.equal(violation?.what, undefined);
      assert.equal(verdict, 'SUCCESS');
      assert.ok(checkedForLeaks);
      const idle = members
        .filter((member) => !services.some((role) => member.name.startsWith(role))) // they wait for work
        .filter(({ operations }) => operations.every((count) => count === 0));
      assert.deepEqual(idle, []);
    });
  }
});

test('members stand still, exchange places, leave and come back', async () => {
  const timing = { durationMs: 1500, stutterMs: 300, shuffleMs: 110, onoffMs: 120 };
  const result = await torture('rwsem', pools, { timing });
  assert.equal(result.violation?.what, undefined);
  assert.ok(result.stutters > 0 && result.shuffles > 0 && result.offlines > 0);
});

test('every planted mistake of a target is one of the table, and is named once', () => {
  const known = new Set(MUTANTS_TABLE.map(({ name }) => name));
  for (const { busted = [] } of TORTURE_TARGETS) {
    assert.equal(new Set(busted).size, busted.length);
    assert.deepEqual(
      busted.filter((name) => !known.has(name)),
      [],
    );
  }
});

describe('a planted mistake is found:', () => {
  // those that a second suffices for; the gallery shows all of them
  const planted = [
    ['lock_busted', undefined],
    ['spin', 'busted-spinlock'],
    ['spin', 'busted-spinlock-wake'],
    ['mutex', 'busted-mutex-handoff'],
    ['rwsem', 'M-20'],
    ['rwsem', 'busted-rwsem-downgrade'],
    ['rwsem', 'busted-rwsem-handoff'],
    ['percpu_rwsem', 'busted-percpu-rwsem'],
    ['percpu_rwsem', 'busted-percpu-rwsem-read'],
    ['seqlock', 'busted-seqcount'],
    ['seqlock', 'busted-seqlock'],
    ['completion', 'busted-completion'],
    ['refcount', 'busted-refcount'],
    ['refcount', 'busted-refcount-get'],
    ['rcu', 'busted-rcu'],
    ['percpu_ref', 'M-10'],
    ['percpu_ref', 'M-11'],
    ['workqueue', 'busted-work'],
    ['interval', 'M-4'],
    ['interval', 'M-6'],
    ['interval', 'M-8'],
    ['interval', 'M-9'],
  ] as const;
  for (const [target, mutant] of planted) {
    test(`${mutant ?? 'no lock'} in ${target}`, async (t) => {
      const { violation } = await torture(target, pools, {
        timing: { durationMs: 60_000 },
        config: { noise: 9 },
        options: { ...(mutant !== undefined && { mutant }) },
      });
      assert.ok(violation !== null, 'not within a minute');
      assert.ok(DETECTORS.includes(violation.detector), violation.detector);
      t.diagnostic(`${violation.detector}, after ${violation.atSeconds} s: ${violation.what}`);
    });
  }
});

test('an entry that stays in its queue is found by who sleeps for ever, or by who races for it', async () => {
  const { violation } = await torture('wait_queue', pools, {
    timing: { durationMs: 60_000 },
    config: { noise: 9 },
    options: { mutant: 'busted-wait-queue', stallMs: 1000 },
  });
  const told = `${violation?.detector}: ${violation?.what}`;
  assert.match(
    told,
    /^watchdog: stalled: cpu \d \(waiter \d\) waits for wait queue|^data race: data race: cpu_area\.waitEntries/,
  );
});
