/**
 * The address space against what a real Linux 6.12 answered to the same calls: results, interval
 * callbacks with their sequence numbers, what hmm_range_fault says, and every page afterwards.
 *
 * @module
 */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { describe, test } from 'node:test';

import { differencesOf, KNOWN_OPS, type RecordedCase } from '../support/recorded-linux.js';

const CORPUS = new URL('../../../test/data/linux/corpus-6.12.json', import.meta.url);

/** Cases about what an address space here does not have. */
const NOT_EMULATED: Readonly<Record<string, string>> = {
  'madv/hwpoison': 'poisoned frames',
  'madv/soft-offline': 'moving a frame that is mapped',
  'stack/growsdown': 'VMAs that grow',
  'stack/guard-gap': 'VMAs that grow',
};

/** True if the case is about calls, files and notifiers only: no reclaim, huge pages, devices, threads. */
function isRunnable({ name, category, steps }: RecordedCase): boolean {
  if (category === 'thp' || category === 'hugetlb' || name in NOT_EMULATED) return false;
  return steps.every(
    (step) =>
      KNOWN_OPS.has(step.op) &&
      step['advice'] !== 'PAGEOUT' &&
      step['async'] === undefined &&
      !(step['flags'] as string | undefined)?.includes('hugetlb'),
  );
}

const { cases } = JSON.parse(readFileSync(CORPUS, 'utf8')) as { cases: RecordedCase[] };
const runnable = cases.filter(isRunnable);

describe('an address space does what Linux 6.12 did', () => {
  test('in over two hundred recorded cases', () => {
    assert.ok(runnable.length >= 210, `${runnable.length} cases can be run`);
  });

  for (const category of new Set(runnable.map((one) => one.category))) {
    const own = runnable.filter((one) => one.category === category);
    test(`in all ${own.length} cases of category ${category}`, () => {
      const wrong = own.flatMap((one) =>
        differencesOf(one).map((difference) => `${one.name}: ${difference}`),
      );
      assert.deepEqual(wrong, []);
    });
  }

  test('and a difference would be seen', () => {
    const [first] = runnable.filter(({ name }) => name.includes('munmap'));
    assert.ok(first);
    const steps = first.steps.map((step) =>
      step.op === 'munmap' ? { ...step, result: -22, events: [] } : step,
    );
    const differences = differencesOf({ ...first, steps });
    assert.ok(
      differences.some((line) => line.includes('munmap result')),
      differences.join('\n'),
    );
    assert.ok(
      differences.some((line) => line.includes('munmap events')),
      differences.join('\n'),
    );
  });
});
