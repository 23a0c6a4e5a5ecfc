/**
 * Cases that are run: what agrees has passed, and each thing that can differ is seen to.
 *
 * @module
 */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';

import type { RecordedCase, RecordedPages, RecordedStep } from '../../src/conform/corpus.js';
import { type CaseResult, runCorpus } from '../../src/conform/run.js';
import type { WorkerPool } from '../../src/host/pool.js';
import { conformSummary } from '../../src/report/conform-result.js';
import { caseText } from '../../src/report/conform-table.js';
import { TEST_WORKER } from '../support/crew.js';
import { idlePool } from '../support/pools.js';

const span = { event: 'UNMAP', start: 0, end: 2, blockable: true };
const NOTHING: RecordedPages[] = [{ n: 2, hmm: 'E', pte: 'none' }];

/** A mapping that is written and goes. */
const STEPS: readonly RecordedStep[] = [
  { op: 'attach', list: 1, result: 0, events: [], snapshot: { p0: NOTHING } },
  { op: 'mmap', at: 0, n: 2, prot: 'rw', flags: 'private,anon', result: 0, events: [] },
  { op: 'touch', at: 0, n: 2, mode: 'w', val: 7, result: 0 },
  { op: 'interval_insert', id: 3, at: 0, n: 2, result: 0, seq: 1, events: [] },
  {
    op: 'hmm_range_fault',
    at: 0,
    n: 2,
    req: 'read',
    result: 0,
    tries: 1,
    pages: [{ n: 2, hmm: 'VW', pte: 'present', page: 'anon', val: 7, excl: 1 }],
  },
  { op: 'touch', at: 0, n: 2, mode: 'r', result: 0, values: [[2, 7]] },
  {
    op: 'munmap',
    at: 0,
    n: 2,
    result: 0,
    events: [
      { kind: 'interval', id: 3, ...span, seq: 3, prevSeq: 1 },
      { kind: 'start', ...span },
      { kind: 'end', ...span },
    ],
    tlb: [{ all: true }],
    snapshot: { p0: NOTHING },
  },
];

const named = (name: string, steps: readonly RecordedStep[]): RecordedCase => ({
  name,
  category: 'fault',
  pages: 2,
  steps: [...steps],
});

/** The steps with something else in one of them. */
const changed = (index: number, fields: Partial<RecordedStep>): RecordedCase =>
  named(
    `${index} ${Object.keys(fields).join()}`,
    STEPS.map((step, at) => (at === index ? { ...step, ...fields } : step)),
  );

const pool = (size: number): WorkerPool => idlePool(size, 'parallel', { worker: TEST_WORKER });

function run(cases: readonly RecordedCase[], tlb = false): Promise<CaseResult[]> {
  const options = { atomics: 'wasm', build: 'parallel', stallMs: 20_000 } as const;
  return runCorpus(cases, { parallel: 1, tlb, ...options, pool });
}

describe('a case', () => {
  test('has passed if all that was recorded is what happens', async () => {
    const [result] = await run([named('good', STEPS)], true);
    assert.deepEqual(result?.differences, []);
    assert.equal(result.outcome, 'passed');
  });

  test('has failed by whatever differs, and the difference says where', async () => {
    const events = STEPS[6]?.events?.slice(1) ?? [];
    const cases = [
      changed(6, { result: -22 }),
      changed(3, { seq: 5 }),
      changed(4, { tries: 2 }),
      changed(4, { pages: [{ n: 2, hmm: 'V', pte: 'present', page: 'anon', val: 7, excl: 1 }] }),
      changed(5, { values: [[1, 7]] }),
      changed(6, { events }),
      changed(6, { snapshot: { p0: [{ n: 2, hmm: '-', pte: 'none' }] } }),
      changed(6, { snapshot: { p1: NOTHING } }),
      changed(6, { tlb: [] }),
    ];
    const results = await run(cases, true);
    assert.deepEqual(
      results.map(({ differences }) => differences.map(({ step, field }) => `${step} ${field}`)),
      [
        ['6 result'], ['3 seq'], ['4 tries'], ['4 pages'], ['5 values'], ['6 events'], ['6 snapshot p0'],
        ['6 snapshot p1'], ['6 tlb'],
      ], // prettier-ignore
    );
  });

  test('may do any of several things that were seen', async () => {
    const alternatives = { result: [-22, 0], events: [[], STEPS[6]?.events] };
    const known = Object.entries(STEPS[6] ?? {}).filter(([name]) => !(name in alternatives));
    const rest = { op: 'munmap', ...Object.fromEntries(known) };
    const steps = [...STEPS.slice(0, 6), { ...rest, alternatives }];
    const worse = [...STEPS.slice(0, 6), { ...rest, alternatives: { result: [-22, -12] } }];
    const results = await run([named('either', steps), named('neither', worse)]);
    assert.deepEqual(
      results.map(({ outcome }) => outcome),
      ['passed', 'failed'],
    );
  });

  test('is not run if an operation is missing', async () => {
    const [result] = await run([named('new', [...STEPS, { op: 'ksm_scan', result: 0 }])]);
    assert.equal(result?.outcome, 'unsupported');
    assert.equal(result.unsupported, 'ksm_scan');
  });

  test('that ends its machine has failed, and the next ones run', async () => {
    const steps = [...STEPS, { op: 'wait_paused', result: 0 }]; // nobody is ever paused
    const options = { atomics: 'wasm', build: 'parallel', stallMs: 300 } as const;
    const results = await runCorpus([named('stuck', steps), named('good', STEPS)], {
      parallel: 1,
      tlb: false,
      ...options,
      pool,
    });
    assert.equal(results[0]?.outcome, 'failed');
    assert.match(String(results[0].differences[0]?.actual), /cpu 0 \(driver\)/);
    assert.equal(results[1]?.outcome, 'passed');
  });
});

test('a report shows the step, what only Linux did, and what only happened here', async () => {
  const recorded = changed(6, { events: STEPS[6]?.events?.slice(1) ?? [] });
  const results = await run([recorded, named('new', [{ op: 'ksm_scan' }]), named('good', STEPS)]);
  const [failed] = results;
  assert.ok(failed);
  const lines = caseText(recorded, failed, 5).split('\n');
  assert.equal(lines[1], '  step 6: munmap at 0, n 2');
  assert.ok(lines.includes('      + interval 3 UNMAP [0, 2) seq 3 after 1'), lines.join('\n'));
  assert.ok(lines.includes('        start UNMAP [0, 2)'), lines.join('\n'));
  const { cases, passed, failed: inFile, unsupported, categories } = conformSummary(results);
  assert.deepEqual([cases, passed], [3, 1]);
  assert.deepEqual(unsupported, [{ name: 'new', op: 'ksm_scan' }]);
  assert.deepEqual(categories, { fault: { cases: 3, passed: 1, failed: 1, unsupported: 1 } });
  const [{ name, step, op, field, more }] = inFile as [(typeof inFile)[number]];
  assert.deepEqual([name, step, op, field, more], [recorded.name, 6, 'munmap', 'events', []]);
});
