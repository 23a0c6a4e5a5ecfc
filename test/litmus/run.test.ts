/**
 * Litmus tests on real workers and explored: what they find, and that they end.
 *
 * @module
 */
import assert from 'node:assert/strict';
import { after, describe, test } from 'node:test';

import { EXIT_GOOD, EXIT_INTERNAL, EXIT_VIOLATION, FaultlineError } from '../../src/base/bug.js';
import { litmusExitCode } from '../../src/cli/litmus.js';
import { programNamed } from '../../src/explore/programs/registry.js';
import type { LitmusVariant, Safety } from '../../src/litmus/litmus.js';
import type { LitmusResult } from '../../src/litmus/result.js';
import { withoutPlaces } from '../../src/litmus/rule.js';
import { type LitmusChoice, type LitmusOptions, runLitmus } from '../../src/litmus/run.js';
import { LITMUS_TESTS } from '../../src/litmus/tests/registry.js';
import {
  isAsExpected,
  type LitmusLook,
  litmusSummary,
  litmusText,
} from '../../src/report/litmus-table.js';
import { liveWorkers, loseWorker } from '../support/workers.js';

/** Iterations for tests; a run ends by their number and not by its time. */
const FEW: LitmusOptions = { iterations: 300, seconds: 60, exploreSeconds: 0 };
const PLAIN: LitmusLook = { color: false, width: Number.POSITIVE_INFINITY };

function choice(id: string, name: string): LitmusChoice {
  const test = LITMUS_TESTS.find((entry) => entry.id === id)!;
  return { test, variant: test.variants.find((variant) => variant.name === name)! };
}

/** A program of the explorer's as a variant of a test of its own. */
function planted(name: string, expected: Safety, more: Partial<LitmusVariant> = {}): LitmusChoice {
  const program = programNamed(name)!;
  const variant = { name: 'planted', title: 'a variant', expected, program, ...more };
  const test = { id: 'LT-0', title: 'a test', source: 'this file', variants: [variant] };
  return { test, variant };
}

async function results(
  choices: readonly LitmusChoice[],
  options: LitmusOptions = {},
): Promise<readonly LitmusResult[]> {
  return (await runLitmus(choices, { ...FEW, ...options })).results;
}

async function result(chosen: LitmusChoice, options: LitmusOptions = {}): Promise<LitmusResult> {
  const [only] = await results([chosen], options);
  return only!;
}

const countOf = ({ outcomes }: LitmusResult, name: string): number | undefined =>
  outcomes.find(({ outcome }) => outcome === name)?.count;

after(() => {
  assert.equal(liveWorkers(), 0);
});

test('every variant passes through its window, and only the mistakes break a rule', async () => {
  const all = LITMUS_TESTS.flatMap((test) => test.variants.map((variant) => ({ test, variant })));
  for (const one of await results(all, { iterations: 60, reached: 10 })) {
    const { id, variant, expected, reached, iterations, shownBy, workers, deadlock } = one;
    const { onlyExplored, verdict } = one;
    const name = `${id} ${variant}`;
    assert.equal(workers?.stopped, null, name);
    assert.ok(iterations <= 60, `${name}: ${iterations}`);
    const isReached = reached > 0 || deadlock !== null; // which ends the run, maybe at once
    assert.ok(iterations > 0 && isReached, `${name}: ${reached} of ${iterations}`);
    if (expected === 'safe') assert.deepEqual([shownBy, reached >= 10], [[], true], name);
    else
      assert.deepEqual(
        [shownBy.length > 0, verdict === 'undecided'],
        [!onlyExplored, onlyExplored],
        name,
      );
  }
});

describe('a fix', () => {
  test('is safe on real workers and under exploration, which exhausts it', async () => {
    const fix = await result(choice('LT-3', 'retry'), { exploreSeconds: 30 });
    assert.equal(fix.verdict, 'safe');
    assert.equal(fix.iterations, 300);
    assert.ok(fix.reached >= 30, `${fix.reached} of ${fix.iterations}`);
    assert.equal(fix.explored?.exhausted, true);
    const counted = fix.outcomes.reduce((sum, { count }) => sum + count, 0);
    assert.equal(counted, fix.iterations, 'every iteration has an outcome');
    assert.ok(countOf(fix, 'retried')! > 0, 'the window was what the test is about');
    assert.match(litmusText(fix, PLAIN), /LT-3 retry: SAFE, as expected; no schedule fails$/);
  });

  test('each iteration begins where the first did', async () => {
    const counter = await result(planted('sound-counter', 'safe'));
    assert.deepEqual(
      counter.outcomes.map(({ outcome, count }) => [outcome, count]),
      [['2', counter.iterations]],
    );
  });
});

describe('a mistake is shown', () => {
  test('on real workers, and explained by exploration', async () => {
    const bug = await result(choice('LT-5', 'no-wait'), { exploreSeconds: 10 });
    assert.deepEqual([bug.verdict, bug.shownBy], ['unsafe', ['workers', 'exploration']]);
    assert.equal(bug.workers?.build, 'checked', 'mutants are not in the parallel build');
    const row = bug.outcomes.find(({ outcome }) => outcome.startsWith('INV-20'))!;
    assert.equal(row.grade, 'FORBIDDEN');
    assert.ok(row.count > 0 && row.explored! > 0);
    assert.match(bug.failure!.diagram, /CPU0 invalidate +CPU1 fault/);
    assert.match(litmusText(bug, PLAIN), /UNSAFE, as expected, shown on real workers and by expl/);
  });

  test('where a task breaks a rule and dies, again and again', async () => {
    const bug = await result(choice('LT-18', 'sync-at-end'));
    assert.deepEqual(bug.shownBy, ['workers']);
    assert.ok(countOf(bug, 'INV-20: the device has used a frame that is free')! > 0);
    assert.equal(bug.workers?.stopped, null);
  });

  test('by lockdep, where no run deadlocks', async () => {
    const bug = await result(choice('LT-15', 'allocates-locked'));
    assert.equal(bug.deadlock, null);
    const report = bug.outcomes.find(({ outcome }) => outcome.startsWith('possible circular'))!;
    assert.deepEqual([bug.verdict, report.grade, report.count], ['unsafe', 'FORBIDDEN', 1]);
    assert.equal(report.share, null, 'it is reported once, however often it happens');
  });

  test('where something is not given back', async () => {
    const bug = await result(planted('planted-not-given-back-1-planted-thing', 'unsafe'));
    assert.ok(countOf(bug, 'not given back: 1 planted_thing')! > 0);
  });

  test('by exploration alone, if real workers cannot see it', async () => {
    const bug = await result(choice('LT-17', 'look-unlocked'), { exploreSeconds: 10 });
    assert.equal(bug.onlyExplored, true);
    assert.deepEqual([bug.verdict, bug.shownBy], ['unsafe', ['exploration']]);
    assert.equal(bug.failure!.kind, 'use-after-free');
  });
});

describe('a run ends', () => {
  test('with a report of the deadlock; the workers go on to the next variant', async () => {
    const [stuck, next] = await results([planted('abba', 'unsafe'), planted('mutex', 'safe')]);
    assert.equal(stuck!.verdict, 'unsafe');
    assert.equal(countOf(stuck!, 'deadlock'), 1);
    assert.match(stuck!.deadlock!.summary, /^deadlock: cpu 0 .* -> cpu 1 /);
    assert.deepEqual(stuck!.deadlock!.waits, [
      'cpu 0 (A then B) waits for mutex second mutex, held by cpu 1; holds explored mutex',
      'cpu 1 (B then A) waits for mutex explored mutex, held by cpu 0; holds second mutex',
    ]);
    assert.equal(next!.verdict, 'safe');
    assert.equal(next!.iterations, 300);
  });

  test('with a report of who waits, though a kworker is there and has nothing to do', async () => {
    const stuck = await result(choice('LT-8', 'kill-waits'));
    assert.match(stuck.deadlock!.summary, /^deadlock: nobody is left to wake cpu 1 \(unbind\)$/);
    assert.ok(
      stuck.deadlock!.waits.some((line) =>
        line.includes('(unbind) waits for references to explored driver ref'),
      ),
    );
  });

  test('with what exploration says of a deadlock that real workers do not show', async () => {
    const stuck = await result(planted('abba', 'unsafe', { window: { order: [] } }), {
      iterations: 1,
      exploreSeconds: 10,
    });
    assert.ok(stuck.deadlock!.waits.some((line) => line.includes('waits for mutex')));
  });

  test('where a task never returns; other workers take its place', async () => {
    const [stuck, next] = await results(
      [planted('planted-task-0-spins', 'unsafe'), planted('sound-counter', 'safe')],
      { stallMs: 1000, iterations: 1000 },
    );
    assert.equal(stuck!.verdict, 'unsafe');
    assert.match(stuck!.workers!.stopped!, /^stalled: cpu 0 \(task 0\) runs/);
    assert.equal(next!.verdict, 'safe');
  });

  test('when it is interrupted, with what was seen', async () => {
    const aborter = new AbortController();
    const report = await runLitmus([choice('LT-3', 'retry'), choice('LT-4', 'driver-lock')], {
      iterations: 1e9,
      seconds: 3600,
      signal: aborter.signal,
      onProgress: (_, label) => {
        if (/: [1-9]\d* iterations/.test(label)) aborter.abort();
      },
    });
    assert.equal(report.interrupted, true);
    const [only, ...others] = report.results;
    assert.deepEqual([only!.variant, only!.interrupted, others.length], ['retry', true, 0]);
    assert.deepEqual([report.planned, only!.verdict], [2, 'undecided']);
    assert.match(litmusText(only!, PLAIN), /UNDECIDED, interrupted; no failure until then/);
    assert.match(
      litmusSummary(report, PLAIN),
      /\ninterrupted: 0 of 2 variants run; no verdict, 1 undecided /,
    );
  });
});

test('a verdict that is not expected is said to be so', async () => {
  const { test: of, variant } = choice('LT-5', 'no-wait');
  const wrong = { test: of, variant: { ...variant, expected: 'safe' as const } };
  const report = await runLitmus([wrong], FEW);
  assert.equal(isAsExpected(report.results[0]!), false);
  assert.equal(litmusExitCode(report), EXIT_VIOLATION);
  assert.match(litmusText(report.results[0]!, PLAIN), /UNSAFE, BUT EXPECTED SAFE/);
  assert.match(litmusSummary(report, PLAIN), /0 of 1 verdict as expected/);
});

test('a fix that was expected to fail is said to be safe only after it was explored', async () => {
  const { test: of, variant } = choice('LT-3', 'retry');
  const wrong = { test: of, variant: { ...variant, expected: 'unsafe' as const } };
  const unexplored = await runLitmus([wrong], { ...FEW, iterations: 50 });
  const [open] = unexplored.results;
  assert.deepEqual([open!.verdict, open!.explored], ['undecided', null]);
  assert.deepEqual(new Set(open!.outcomes.map(({ explored }) => explored)), new Set([null]));
  assert.equal(litmusExitCode(unexplored), EXIT_GOOD);
  assert.match(litmusText(open!, PLAIN), /UNDECIDED: no failure found, and nothing was explored$/);

  const explored = await runLitmus([wrong], { ...FEW, iterations: 50, exploreSeconds: 30 });
  assert.equal(litmusExitCode(explored), EXIT_VIOLATION);
  assert.match(litmusText(explored.results[0]!, PLAIN), /SAFE, BUT EXPECTED UNSAFE/);
});

describe('the table of outcomes', () => {
  test('counts each schedule once, and nothing of what broke as good', async () => {
    const variants = [
      choice('LT-7', 'removal-first'), // a race, whose schedule comes to an outcome, too
      choice('LT-10', 'unchecked-radix'), // every thread finds the same
      choice('LT-25', 'unregisters'),
    ];
    const [race, same, stuck] = await results(variants, { iterations: 20, exploreSeconds: 5 });
    for (const one of [race!, same!, stuck!]) {
      const name = `${one.id} ${one.variant}`;
      const counted = one.outcomes.reduce((sum, row) => sum + row.explored!, 0);
      assert.equal(counted, one.explored!.schedules, name);
      const bad = one.outcomes.filter(({ grade }) => grade === 'FORBIDDEN');
      assert.ok(bad.reduce((sum, row) => sum + row.explored!, 0) > 0, name);
      for (const { outcome } of one.outcomes) assert.doesNotMatch(outcome, /step \d|\d{4}/, name);
    }
    assert.equal(same!.outcomes[0]!.explored, 0, 'every schedule fails');
    // real workers wait for ever, the explored build says so before: one row
    const [, deadlock, ...others] = stuck!.outcomes;
    assert.deepEqual([deadlock!.outcome, deadlock!.count, others], ['deadlock', 1, []]);
    assert.match(deadlock!.description, /cpu 0/);
  });

  test('has shares of the iterations, though several rules may break in one', async () => {
    const bug = await result(choice('LT-17', 'counts-on'), { iterations: 100 });
    for (const { count, share } of bug.outcomes) assert.equal(share, count / bug.iterations);
    const counted = bug.outcomes.reduce((sum, { count }) => sum + count, 0);
    assert.ok(counted >= bug.iterations);
    const note = litmusText(bug, PLAIN).includes('In some iterations several rules were broken');
    assert.equal(note, counted > bug.iterations);
  });

  test('fits the terminal', async () => {
    const bug = await result(choice('LT-5', 'no-wait'), { iterations: 20 });
    const lines = litmusText(bug, { color: false, width: 80 }).split('\n');
    const rows = lines.filter((line) => /^[┌├│└]/.test(line));
    assert.ok(rows.length > 3);
    for (const row of rows) assert.ok(row.length <= 80, row);
  });
});

test('what a broken rule is called has no CPUs, steps and addresses', () => {
  const NAMES: readonly (readonly [string, string])[] = [
    ['INV-30: struct page 69168 was removed', 'INV-30: struct page was removed'],
    [
      'user (read, step 17) and unbind (write, step 390) race for page_section@69120->pages[55]',
      'user (read) and unbind (write) race for page_section->pages[]',
    ],
    [
      'b (read, step 9) uses word 123, which a freed at step 4',
      'b (read) uses a word, which a freed',
    ],
    ['cpu 1: recursive locking of mm->lock (lock 4711)', 'recursive locking of mm->lock'],
    ['frame 12 is free and was freed (I1)', 'frame is free and was freed (I1)'],
    ['not given back: 1 planted_thing', 'not given back: 1 planted_thing'],
    [
      "outcome '12345', which the program does not declare",
      "outcome '12345', which the program does not declare",
    ],
  ];
  for (const [message, name] of NAMES) assert.equal(withoutPlaces(message), name);
});

test('a deadlock is told with what is waited for, who is to end it, and who has ended', async () => {
  const told: readonly [id: string, variant: string, waits: readonly RegExp[]][] = [
    [
      'LT-16',
      'linux',
      [
        /^cpu 0 \(reaper\) has ended; has not ended invalidation of an mm$/,
        /^cpu 1 \(driver\) waits for end of invalidation of an mm, begun by cpu 0 \(has ended\)$/,
      ],
    ],
    ['LT-8', 'kill-waits', [/^cpu 0 \(user\) has ended$/, /16 left, of which 16 came with pages/]],
    ['LT-9', 'one-count', [/^cpu 0 \(user\) has ended$/, /16 left, of which 16 came with pages/]],
  ];
  for (const [id, variant, waits] of told) {
    const { deadlock } = await result(choice(id, variant));
    for (const line of waits) {
      const isTold = deadlock?.waits.some((wait) => line.test(wait)) === true;
      assert.ok(isTold, `${id}: ${deadlock?.waits.join('\n')}`);
    }
  }
});

test('a thread that is lost is a run that failed, and no verdict', async () => {
  let isLost = false;
  const onProgress = (done: number): void => {
    if (done > 0 && !isLost) loseWorker();
    isLost ||= done > 0;
  };
  await assert.rejects(
    runLitmus([choice('LT-5', 'wait')], { ...FEW, iterations: 1e9, onProgress }),
    (error: unknown) =>
      error instanceof FaultlineError &&
      error.exitCode === EXIT_INTERNAL &&
      error.code === 'FAULTLINE_MACHINE_LOST_WORKER' &&
      /^LT-5 wait: no verdict: cpu \d .*lost its worker thread/.test(error.message),
  );
  assert.ok(isLost);
});
