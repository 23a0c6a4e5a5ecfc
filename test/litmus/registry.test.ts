/**
 * The litmus tests as they are declared.
 *
 * @module
 */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, test } from 'node:test';

import { findMutant } from '../../src/explore/mutants.js';
import { programNamed } from '../../src/explore/programs/registry.js';
import { buildOf, windowOf } from '../../src/litmus/litmus.js';
import { LITMUS_TESTS } from '../../src/litmus/tests/registry.js';
import { ROOT } from '../support/cli.js';

const unique = (names: readonly string[]): void => {
  assert.equal(new Set(names).size, names.length, names.join(', '));
};

test('ids are in order, each once, and explained', () => {
  const ids = LITMUS_TESTS.map(({ id }) => id);
  const explained = readFileSync(join(ROOT, 'docs/invariants.md'), 'utf8');
  unique(ids);
  for (const id of ids) {
    assert.match(id, /^LT-\d+$/);
    assert.ok(explained.includes(`| ${id} `), `${id} is in docs/invariants.md`);
  }
  const numbers = ids.map((id) => Number(id.slice('LT-'.length)));
  assert.deepEqual(
    numbers,
    [...numbers].sort((one, other) => one - other),
  );
});

for (const { id, variants } of LITMUS_TESTS) {
  describe(id, () => {
    test('has the mistake and what mends it', () => {
      unique(variants.map(({ name }) => name));
      assert.ok(variants.some(({ expected }) => expected === 'unsafe'));
      assert.ok(variants.some(({ expected }) => expected === 'safe'));
    });

    for (const variant of variants) {
      test(`${variant.name} can be found, run and reached`, () => {
        assert.match(variant.name, /^[a-z][a-z-]*$/);
        assert.equal(programNamed(variant.program.name), variant.program);
        assert.ok(windowOf(variant).order.length >= 2, 'a window takes two');
        if (variant.mutant === undefined) return;
        findMutant(variant.mutant);
        assert.equal(buildOf(variant), 'checked', 'the parallel build has no mutants');
      });
    }
  });
}
