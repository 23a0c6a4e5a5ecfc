/**
 * How schedules and explorations end on the workers engine, well or badly; nothing is left of any.
 *
 * @module
 */
import assert from 'node:assert/strict';
import { afterEach, describe, test } from 'node:test';

import { FaultlineError } from '../../src/base/bug.js';
import {
  END_DEADLOCK,
  END_DIED,
  END_DONE,
  END_STEPS,
  RULE_FIRST,
  RULE_RANDOM,
  STATE_DIED,
  STATE_FINISHED,
  STATE_NONE,
  STATE_READY,
} from '../../src/explore/control.js';
import { type CrewExploration, exploreWithCrew } from '../../src/explore/explore-crew.js';
import type { Plan } from '../../src/explore/plan.js';
import { MachineFailure } from '../../src/host/failure.js';
import { failToExplore, type Ran, runProgramAt } from '../programs/explorers.js';
import { programUrl } from '../support/crew.js';
import { liveWorkers } from '../support/workers.js';

afterEach(() => {
  assert.equal(liveWorkers(), 0);
});

const FIRST: Plan = { rule: RULE_FIRST };
const module = programUrl('explorers');

/** A program of test/programs/explored.ts. */
function urlOf(name: string): string {
  return `${programUrl('explored')}?${encodeURIComponent(name)}`;
}

/** Runs plans of one of those programs. */
async function runPlans(
  name: string,
  plans: readonly Plan[],
  options: Partial<CrewExploration> = {},
): Promise<Ran[]> {
  const url = urlOf(name);
  const explorer = { module, entry: runProgramAt.name, args: { url, plans } };
  return (await exploreWithCrew({ program: { url }, explorer, ...options })) as Ran[];
}

/** `count` random schedules. */
function randomPlans(count: number): Plan[] {
  return Array.from({ length: count }, (_, seed) => ({ rule: RULE_RANDOM, random: 77 + seed }));
}

async function failureOf(running: Promise<unknown>): Promise<FaultlineError> {
  try {
    await running;
  } catch (error) {
    assert.ok(error instanceof FaultlineError, String(error));
    return error;
  }
  throw new Error('it ended well');
}

describe('a schedule', () => {
  test('ends with all tasks done, also with more tasks than cores, and when they sleep', async () => {
    for (const ran of await runPlans('crowd', randomPlans(300))) {
      assert.equal(ran.end, END_DONE);
      assert.equal(ran.outcome, 'no complaint');
    }
  });

  test('ends at once if no task does anything', async () => {
    const [ran] = await runPlans('idle', [FIRST]);
    assert.equal(ran!.end, END_DONE);
    assert.equal(ran!.trace.length, 0);
  });

  test('ends in a deadlock, and the next one begins afresh', async () => {
    const runs = await runPlans('deadlock', [...randomPlans(300), FIRST]);
    const ends = new Set(runs.map(({ end }) => end));
    assert.deepEqual(ends, new Set([END_DONE, END_DEADLOCK]));
    const stuck = runs.find(({ end }) => end === END_DEADLOCK)!;
    // those who were made to leave have stored nothing while they left: runPlan compares all of the memory
    assert.deepEqual(stuck.states, [STATE_READY, STATE_READY, STATE_FINISHED]);
    assert.equal(runs.at(-1)!.end, END_DONE);
  });

  test('ends after so many steps', async () => {
    const limits = [0, 1, 2, 3, 4, 5];
    const plans = limits.flatMap((stepLimit) => [{ ...FIRST, stepLimit }, FIRST]);
    const runs = await runPlans('deadlock', plans);
    for (const stepLimit of limits) {
      const [ran, whole] = runs.slice(2 * stepLimit);
      assert.equal(ran!.end, END_STEPS);
      assert.equal(ran!.trace.length, 4 * stepLimit);
      assert.equal(whole!.end, END_DONE);
    }
  });

  test('ends when a task dies, on the worker that explores or on another', async () => {
    for (const [name, states] of [
      ['death', [STATE_FINISHED, STATE_DIED]],
      ['first death', [STATE_DIED, STATE_READY]],
    ] as const) {
      const [ran, again] = await runPlans(name, [FIRST, FIRST]);
      assert.equal(ran!.end, END_DIED);
      assert.equal(ran!.outcome, 'KernelBug: task 1 has had enough');
      assert.deepEqual(ran!.states, states);
      assert.deepEqual(again, ran);
    }
  });

  test('ends when a task throws before its first operation, and what is no error', async () => {
    const [ran] = await runPlans('strange death', [FIRST]);
    assert.equal(ran!.end, END_DIED);
    assert.equal(ran!.outcome, 'a word');
    assert.deepEqual(ran!.states, [STATE_READY, STATE_DIED]);
    assert.ok(!ran!.states.includes(STATE_NONE));
  });
});

describe('an exploration fails', () => {
  test('when a task ends its thread, and says which', async () => {
    const error = await failureOf(runPlans('exit', [FIRST]));
    assert.ok(error instanceof MachineFailure);
    assert.equal(error.kind, 'lost worker');
    assert.match(error.message, /task 1 \(quitter\)/);
  });

  test('when a task makes no operation any more, and says which', async () => {
    const error = await failureOf(runPlans('endless loop', [FIRST], { stallMs: 500 }));
    assert.ok(error instanceof MachineFailure);
    assert.equal(error.kind, 'stalled');
    assert.match(error.message, /^task 1 \(looper\) has made no operation/);
  });

  test('when there is no such program', async () => {
    const explorer = { module, entry: runProgramAt.name, args: {} };
    const error = await failureOf(exploreWithCrew({ program: { name: 'lt-0' }, explorer }));
    assert.equal(error.code, 'FAULTLINE_BAD_PROGRAM');
  });

  test('when the explorer throws', async () => {
    const explorer = { module, entry: failToExplore.name, args: {} };
    const error = await failureOf(exploreWithCrew({ program: { name: 'lt-5' }, explorer }));
    assert.match(error.message, /TypeError: no idea where to begin/);
  });

  test('when it is told to end', async () => {
    const end = new AbortController();
    const running = runPlans('endless loop', [FIRST], { signal: end.signal, stallMs: 60_000 });
    setTimeout(() => {
      end.abort(new FaultlineError('FAULTLINE_TEST', 'enough'));
    }, 500);
    assert.equal((await failureOf(running)).code, 'FAULTLINE_TEST');
  });
});
