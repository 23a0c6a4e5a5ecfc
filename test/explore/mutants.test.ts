/**
 * Every planted mistake is found in the programs that are said to show it, and none is left in the parallel
 * build.
 *
 * @module
 */
import assert from 'node:assert/strict';
import { existsSync, readFileSync } from 'node:fs';
import { before, describe, test } from 'node:test';

import * as numbers from '../../src/base/mutant-numbers.js';
import * as none from '../../src/base/mutants.js';
import * as switchable from '../../src/base/mutants.switchable.js';
import { MUTANTS_TABLE } from '../../src/explore/mutants.js';
import { programNamed } from '../../src/explore/programs/registry.js';
import { bootMachine } from '../../src/machine/boot.js';
import { type Answer, explorePrograms } from '../support/exploration.js';

/** Schedules of PCT. */
const SCHEDULES_MAX = 10_000;

const root = new URL('../../../', import.meta.url);
const source = (path: string): string => readFileSync(new URL(path, root), 'utf8');

describe('the table of mutants', () => {
  test('has every number once, with a name of its own', () => {
    const { NO_MUTANT, ...all } = numbers;
    assert.equal(NO_MUTANT, 0);
    const inOrder = (list: readonly number[]): number[] => [...list].sort((a, b) => a - b);
    assert.deepEqual(
      inOrder(MUTANTS_TABLE.map(({ number }) => number)),
      inOrder(Object.values(all)),
    );
    assert.equal(new Set(MUTANTS_TABLE.map(({ name }) => name)).size, MUTANTS_TABLE.length);
  });

  test('names the file that has the mistake, and programs that exist', () => {
    const nameOf = new Map(Object.entries(numbers).map(([name, number]) => [number, name]));
    for (const { number, name, file, shownBy } of MUTANTS_TABLE) {
      assert.ok(existsSync(new URL(`src/${file}`, root)), file);
      assert.match(
        source(`src/${file}`),
        new RegExp(`isMutant\\(cpu, ${nameOf.get(number)}\\)`),
        name,
      );
      assert.ok(shownBy.length > 0, name);
      for (const program of shownBy) assert.ok(programNamed(program) !== undefined, program);
    }
  });
});

describe('a mutant is found', () => {
  const planted = MUTANTS_TABLE.flatMap(({ name, shownBy }) =>
    shownBy.map((program) => ({ program, mutant: name })),
  );
  let answers: Answer[] = [];
  before(async () => {
    const search = SCHEDULES_MAX;
    answers = await explorePrograms(...planted.map((what) => ({ ...what, search })));
  });

  for (const [i, { mutant, program }] of planted.entries()) {
    test(`${mutant} in ${program}`, (t) => {
      const seen = answers[i]!;
      assert.notEqual(seen.failure, undefined, `not in ${seen.schedules} schedules`);
      t.diagnostic(`after ${seen.failedAt} schedules: ${seen.failure}`);
    });
  }
});

test('the two forms of #mutants have the same names', () => {
  assert.deepEqual(Object.keys(none).sort(), Object.keys(switchable).sort());
  assert.equal(none.MUTANTS, false);
  assert.equal(switchable.MUTANTS, true);
  assert.equal(none.isMutant({ mutant: numbers.M_4 }, numbers.M_4), false);
  assert.equal(switchable.isMutant({ mutant: numbers.M_4 }, numbers.M_4), true);
  assert.equal(switchable.isMutant({ mutant: numbers.M_4 }, numbers.M_5), false);
});

describe('the parallel build', () => {
  const code = (file: string): string => {
    const text = source(`dist/${file}`);
    return text.replace(/\/\*[^]*?\*\//g, '').replace(/\/\/.*$/gm, '');
  };

  test('has nothing left of the mistakes', () => {
    assert.doesNotMatch(code('kernel.js'), /isMutant/);
    assert.match(code('kernel.checked.js'), /isMutant\(cpu, M_4\)/);
    assert.match(code('faultline.turnstile.js'), /isMutant\(cpu, M_4\)/);
  });

  test('refuses to plant one', () => {
    assert.throws(() => bootMachine({ cpus: 1, ramBytes: 0, mutant: numbers.M_4 }), /turnstile/);
  });
});
