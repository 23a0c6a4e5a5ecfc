/**
 * Everything here against what a real Linux 6.12 answered to the same operations: results, callbacks of notifiers
 * with their sequence numbers, and every page afterwards.
 *
 * @module
 */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';

import { loadCorpus } from '../../src/conform/corpus.js';
import { type CaseResult, runCorpus } from '../../src/conform/run.js';
import { TEST_WORKER } from '../support/crew.js';
import { deviationOf, fidelityText } from '../support/fidelity.js';
import { idlePool } from '../support/pools.js';

const ROOT = fileURLToPath(new URL('../../../', import.meta.url));
const CORPORA = ['corpus-6.12.json', 'corpus-random-6.12.json'].map((name) =>
  loadCorpus(`${ROOT}test/data/linux/${name}`),
);

/** Cases that run, and do not do what Linux did. It only gets shorter. */
const FAILING: readonly string[] = [];

/** What is not implemented, and how many cases wait for it. It only gets less. */
const MISSING: Readonly<Record<string, number>> = {
  'mmap hugetlb': 4,
  uffd_open: 1,
  process_madvise: 1,
  'madvise HWPOISON': 1,
  'madvise SOFT_OFFLINE': 1,
  mremap_special: 1,
};

/** The results of a run, which all tests look at. */
const ran: Promise<CaseResult[]> = runCorpus(
  CORPORA.flatMap(({ cases }) => cases),
  {
    parallel: 1, // other test files run beside it
    tlb: false,
    atomics: 'wasm',
    build: 'parallel',
    stallMs: 20_000,
    pool: (size) => idlePool(size, 'parallel', { worker: TEST_WORKER }),
  },
);

describe('what a real Linux 6.12 did', () => {
  test('is done here, case by case', async () => {
    const failed = (await ran).filter(({ outcome }) => outcome === 'failed');
    const differences = failed.map(({ name, differences: [first] }) => ({ name, ...first }));
    assert.deepEqual(
      differences.filter(({ name }) => !FAILING.includes(name)),
      [],
    );
    assert.deepEqual(
      FAILING.filter((name) => !failed.some((one) => one.name === name)),
      [],
      'no case is on the list that passes',
    );
  });

  test('is known not to be emulated where it is not', async () => {
    const missing: Record<string, number> = {};
    for (const { unsupported } of await ran) {
      if (unsupported !== undefined) missing[unsupported] = (missing[unsupported] ?? 0) + 1;
    }
    assert.deepEqual(missing, MISSING);
  });
});

describe('docs/fidelity.md', () => {
  test('says what this run and the source say; else npm run fidelity has not been run', async () => {
    const written = readFileSync(`${ROOT}docs/fidelity.md`, 'utf8');
    assert.equal(written, await fidelityText(await ran, ROOT, CORPORA[0]!));
  });

  test('has the whole of what a file says that it does otherwise, and no more', () => {
    const text = `/**
 * Protocol   One.
 * Deviation  Two
 *            lines.
 * Cost       None.
 */
/** Deviation  of something else */`;
    assert.equal(deviationOf(text), 'Two lines.');
    assert.equal(deviationOf(text.replace('Deviation', 'Ordering')), undefined);
  });
});
