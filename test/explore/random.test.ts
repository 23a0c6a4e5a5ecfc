/**
 * Programs that are drawn: always the same for a seed, small, and without a failure.
 *
 * @module
 */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';

import { programNamed } from '../../src/explore/programs/registry.js';
import { explorePrograms, type Request } from '../support/exploration.js';

/** Random programs that are tried. */
const SEEDS = 24;

describe('random programs', () => {
  const names = Array.from({ length: SEEDS }, (_, seed) => `random-${seed}`);

  test('are the same for the same seed, and others for others', () => {
    const titles = names.map((name) => programNamed(name)!.title);
    assert.deepEqual(
      names.map((name) => programNamed(name)!.title),
      titles,
    );
    assert.equal(new Set(titles).size, SEEDS);
  });

  test('have two or three tasks of one to three operations', () => {
    for (const name of names) {
      const { tasks } = programNamed(name)!;
      assert.ok(tasks.length === 2 || tasks.length === 3, name);
      for (const { operations } of tasks) assert.ok([1, 2, 3].includes(operations.length), name);
    }
  });

  test('do not fail', async () => {
    const answers = await explorePrograms(
      ...names.map((program): Request => ({ program, random: 60, pct: 60 })),
    );
    assert.deepEqual(
      answers.flatMap(({ failure, failedAt }, i) =>
        failure === undefined ? [] : [`${names[i]} schedule ${failedAt}: ${failure}`],
      ),
      [],
    );
  });

  test('are no others', () => {
    for (const name of ['random-', 'random-x', 'random--1', 'random-1.5', 'nothing']) {
      assert.equal(programNamed(name), undefined, name);
    }
  });
});
