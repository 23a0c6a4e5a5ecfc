/**
 * `faultline litmus` used as it is meant to be, and what it says to input it cannot use.
 *
 * @module
 */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';

import { LITMUS_TESTS } from 'faultline';

import type { LitmusResultFile } from '../../src/report/litmus-result.js';
import { faultline, refusalOf, sharedFaultline, startFaultline } from '../support/cli.js';

const FEW = ['--iterations', '300', '--seconds', '60'];

test('--list shows every test with its source, variants and expected verdicts', async () => {
  const { code, stdout, stderr } = await sharedFaultline(['litmus', '--list', '--json', '-']);
  assert.equal(code, 0);
  for (const { id, title, source, variants } of LITMUS_TESTS) {
    assert.ok(stderr.includes(`${id}: ${title}\nsource: ${source}\n`), id);
    for (const { name, expected, title: what } of variants) {
      const row = stderr.split('\n').find((line) => line.includes(` ${what} `));
      assert.ok(row?.includes(` ${name} `) && row.includes(` ${expected} `), `${id} ${name}`);
    }
  }
  const { tests } = JSON.parse(stdout) as { tests: { id: string; variants: unknown[] }[] };
  assert.deepEqual(
    tests.map(({ id, variants }) => [id, variants.length]),
    LITMUS_TESTS.map(({ id, variants }) => [id, variants.length]),
  );
});

test('a test: the mistake with its diagram, the fix, and the result as JSON', async () => {
  const { code, stdout, stderr } = await faultline(['litmus', 'lt-5', ...FEW, '--json', '-']);
  assert.equal(code, 0, stderr);
  assert.match(stderr, /^real workers, checked build \(.*\): \d+ iterations/m);
  assert.match(stderr, /│ INV-20: .* │ +\d+ │ +[\d.]+ % │ +\d+ │ FORBIDDEN /);
  assert.match(stderr, /CPU0 invalidate +CPU1 fault +where/);
  assert.match(stderr, /^LT-5 no-wait: UNSAFE, as expected, shown on real workers and by expl/m);
  assert.match(stderr, /^LT-5 wait: SAFE, as expected/m);
  assert.match(stderr, /^2 of 2 verdicts as expected/m);
  const { schema, results, interrupted } = JSON.parse(stdout) as LitmusResultFile;
  assert.deepEqual([schema, interrupted], ['faultline.litmus/1', false]);
  assert.deepEqual(
    results.map(({ id, variant, expected, verdict }) => [id, variant, expected, verdict]),
    [
      ['LT-5', 'no-wait', 'unsafe', 'unsafe'],
      ['LT-5', 'wait', 'safe', 'safe'],
    ],
  );
  for (const { reached, iterations, outcomes } of results) {
    assert.ok(reached > 0 && reached <= iterations);
    for (const { outcome, grade, count } of outcomes) {
      assert.ok(outcome.length > 0 && count >= 0);
      assert.match(grade, /^(?:ACCEPTABLE|INTERESTING|FORBIDDEN)$/);
    }
  }
});

test('--list shows the variants that are asked for, however they are written', async () => {
  const args = ['litmus', 'lt-17', '--list', '--variant', 'LOOK-unlocked', '--json', '-'];
  const { code, stdout, stderr } = await sharedFaultline(args);
  assert.equal(code, 0);
  assert.match(stderr, / look-unlocked │ unsafe \(only explored\) /);
  assert.doesNotMatch(stderr, /last-end/);
  const { tests } = JSON.parse(stdout) as {
    tests: { id: string; variants: { name: string; onlyExplored: boolean }[] }[];
  };
  assert.deepEqual(
    tests.map(({ id, variants }) => [id, variants.map(({ name }) => name)]),
    [['LT-17', ['look-unlocked']]],
  );
  assert.equal(tests[0]!.variants[0]!.onlyExplored, true);
});

test('what only exploration shows is undecided without it, and no finding', async () => {
  const args = ['litmus', 'LT-17', '--variant', 'look-unlocked', '--explore', '0', ...FEW];
  const { code, stdout, stderr } = await sharedFaultline(args);
  assert.deepEqual([code, stderr], [0, '']);
  assert.match(stdout, /^LT-17 look-unlocked: UNDECIDED: only exploration shows/m);
  assert.match(stdout, /^no verdict, 1 undecided/m);
});

test('Ctrl-C ends a long run with what was seen', async () => {
  const args = ['litmus', 'LT-3', '--variant', 'retry', '--iterations', '1000000000'];
  const running = startFaultline([...args, '--seconds', '3600'], { terminal: 120 });
  await running.said(/ [1-9]\d* iterations/);
  running.child.kill('SIGINT');
  const { code, stdout } = await running.done;
  assert.equal(code, 130, stdout);
  assert.match(stdout, /LT-3 retry: UNDECIDED, interrupted; no failure until then \([1-9]/);
  assert.match(stdout, /^interrupted: 0 of 1 variant run; no verdict, 1 undecided/m);
});

describe('refused:', () => {
  const REFUSED: readonly (readonly [string, RegExp])[] = [
    ['LT-99', /no litmus test LT-99; --list shows/],
    ['LT-3 --variant wait', /LT-3 has no variant wait; --list shows/],
    ['LT-5 LT-9 --variant nope', /LT-5, LT-9 have no variant nope/],
    ['--variant no-such', /no litmus test has a variant no-such; --list shows/],
    ['--iterations 0', /--iterations.*'0'.*integer from 1/],
  ];
  for (const [args, message] of REFUSED) {
    test(`litmus ${args}`, async () => {
      assert.match(await refusalOf(['litmus', ...args.split(' ')]), message);
    });
  }
});
