/**
 * Corpora as they are read: what is none is refused in one line with the place, and what is one can be cast.
 *
 * @module
 */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';

import { castCase, matchJoins, unsupportedOp } from '../../src/conform/cast.js';
import { parseCorpus, type RecordedCase, type RecordedStep } from '../../src/conform/corpus.js';

const GOOD = {
  format: 1,
  cases: [{ name: 'one', category: 'fault', pages: 8, steps: [{ op: 'attach', result: 0 }] }],
};

function refusal(value: unknown): string {
  try {
    parseCorpus(typeof value === 'string' ? value : JSON.stringify(value), 'x.json');
  } catch (error) {
    return (error as Error).message;
  }
  return 'accepted';
}

const withStep = (step: unknown): unknown => ({
  ...GOOD,
  cases: [{ ...GOOD.cases[0], steps: [{ op: 'attach' }, step] }],
});

describe('a file that is no corpus', () => {
  test('is refused with the place of what is wrong', () => {
    assert.equal(refusal(GOOD), 'accepted');
    assert.match(refusal('{'), /^x\.json: is no JSON: /);
    assert.equal(refusal([]), 'x.json: $.format: is missing');
    assert.equal(refusal({ ...GOOD, format: 2 }), 'x.json: $.format: 1 was expected, not 2');
    assert.equal(refusal({ format: 1 }), 'x.json: $.cases: is missing');
    assert.match(refusal(withStep({})), /\$\.cases\[0\]\.steps\[1\]\.op: is missing$/);
    assert.match(
      refusal(withStep({ op: 'touch', snapshot: { p0: [{ n: 0, hmm: 'V' }] } })),
      /\$\.cases\[0\]\.steps\[1\]\.snapshot\.p0\[0\]\.n: >=1 was expected, not 0$/,
    );
    assert.match(
      refusal(withStep({ op: 'touch', events: [{ kind: 3 }] })),
      /steps\[1\]\.events\[0\]\.kind: string was expected, not 3$/,
    );
  });

  test('or with two cases of one name', () => {
    assert.match(
      refusal({ ...GOOD, cases: [...GOOD.cases, ...GOOD.cases] }),
      /\$\.cases\[1\]\.name: another case is called one too$/,
    );
  });
});

function caseOf(...steps: RecordedStep[]): RecordedCase {
  return { name: 'one', category: 'fault', pages: 8, steps };
}

describe('a case is cast', () => {
  test('with a CPU for each process, thread and driver in the background', () => {
    const { cpus, steps } = castCase(
      caseOf(
        { op: 'thread_create', id: 't1' },
        { op: 'fork', child: 'p1' },
        { op: 'munmap', proc: 't1', async: 'blocked' },
        { op: 'hmm_range_fault', async: 'blocked' },
        { op: 'touch', proc: 'p1' },
        { op: 'interval_seq', id: 0 },
      ),
    );
    assert.deepEqual(cpus, ['driver', 'p0', 't1', 'p1', 'driver, step 3']);
    assert.deepEqual(
      steps.map(({ cpu, childCpu }) => [cpu, childCpu]),
      [[1, 2], [1, 3], [2, -1], [4, -1], [3, -1], [0, -1]], // prettier-ignore
    );
  });

  test('without what was recorded of its outcome', () => {
    const [step] = castCase(
      caseOf({ op: 'mmap', at: 1, n: 2, result: 0, events: [], snapshot: {}, tlb: [] }),
    ).steps;
    assert.deepEqual(step?.input, { op: 'mmap', at: 1, n: 2 });
  });

  test('only if every operation is known', () => {
    assert.equal(unsupportedOp(caseOf({ op: 'touch' }, { op: 'ksm_scan' })), 'ksm_scan');
    assert.equal(unsupportedOp(caseOf({ op: 'madvise', advice: 'NEW' })), 'madvise NEW');
    assert.equal(unsupportedOp(caseOf({ op: 'touch', proc: 'p9' })), 'touch in p9');
    assert.equal(unsupportedOp(caseOf({ op: 'mmap', flags: 'anon,hugetlb' })), 'mmap hugetlb');
    assert.equal(unsupportedOp(caseOf({ op: 'touch', proc: 'p3' })), undefined);
  });

  test('with joins of the last step that could answer so', () => {
    const joins = matchJoins([
      { op: 'madvise', async: 'blocked' },
      { op: 'read_begin', async: 'blocked' },
      { op: 'touch', async: 'done' },
      { op: 'munmap', async: 'blocked' },
      { op: 'join', seq: 3 },
      { op: 'join', pending: false },
      { op: 'join' },
      { op: 'join' },
    ]);
    assert.deepEqual([...joins], [[4, 1], [5, 2], [6, 3], [7, 0]]); // prettier-ignore
  });
});
