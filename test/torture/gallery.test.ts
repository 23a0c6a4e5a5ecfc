/**
 * Mistakes that no target makes: the programs that show them run in the checked build, which watches the memory.
 *
 * @module
 */
import assert from 'node:assert/strict';
import { after, describe, test } from 'node:test';

import { MUTANTS_TABLE } from '../../src/explore/mutants.js';
import { programNamed } from '../../src/explore/programs/registry.js';
import { runOnWorkers } from '../../src/litmus/real-workers.js';
import { showGallery } from '../../src/torture/gallery.js';
import { tortureOptions, torturePools } from '../support/torture.js';

const pools = torturePools();
after(() => pools.end());

/** Mistakes with who finds them on real workers. */
const CAUGHT = [
  { name: 'M-unregister-unsynced', detector: /^(data race|use after free)$/ },
  { name: 'busted-unbind', detector: /^(data race|use after free)$/ },
  { name: 'busted-device-job', detector: /^wait-for graph$/ },
];

test('each is caught by its detector', async () => {
  const mutants = MUTANTS_TABLE.filter(({ name }) => CAUGHT.some((one) => one.name === name));
  const { entries } = await showGallery({ ...tortureOptions(), limitSeconds: 20 }, mutants);
  assert.equal(entries.length, CAUGHT.length);
  for (const { mutant, checked, explore } of entries) {
    const { detector } = CAUGHT.find(({ name }) => name === mutant)!;
    assert.match(checked.detector ?? 'nobody', detector, mutant);
    assert.notEqual(explore.detector, null, mutant);
  }
});

describe('without the mistake nothing is reported of', () => {
  for (const name of ['notifier-exit', 'unbind-race', 'percpu-ref-switch', 'lt-5']) {
    test(name, async () => {
      const program = programNamed(name)!;
      const variant = { name, title: name, expected: 'safe', program, build: 'checked' } as const;
      const run = await runOnWorkers(variant, pools, {
        iterations: 100,
        seconds: 20,
        seed: 1,
        stallMs: 10_000,
        watchesMemory: true,
      });
      assert.deepEqual([run.violations, run.deadlock, run.stopped], [[], null, null]);
      assert.ok(run.iterations > 1, 'memory and notes were put back');
    });
  }
});
