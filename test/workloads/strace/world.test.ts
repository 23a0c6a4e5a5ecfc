import assert from 'node:assert/strict';
import { describe, test } from 'node:test';

import fc from 'fast-check';

import { parseStrace } from '../../../src/workloads/strace/parse.js';
import { planStrace, type StracePlan } from '../../../src/workloads/strace/plan.js';
import { NaiveReplay } from '../../support/strace-replay.js';
import { inventStory, type TrueStory } from '../../support/strace-world.js';

const decisions = fc.array(fc.nat(720719), { minLength: 1, maxLength: 400, size: 'max' });

function imagesOf(plan: StracePlan): (readonly [number, readonly number[]])[] {
  return plan.mms
    .filter(({ origin }) => origin === 'exec')
    .map(({ startBrk, image }) => {
      const pages: number[] = [];
      for (const { start, end } of image) {
        for (let page = start / 4096; page < end / 4096; page++) pages.push(page);
      }
      return [startBrk, pages] as const;
    });
}

function byNumber(a: number, b: number): number {
  return a - b;
}

/** Programs whose log breaks off before they ask for their break are known by nothing. */
function knownImagesOf(
  story: TrueStory,
  plan: StracePlan,
): (readonly [number, readonly number[]])[] {
  const asked = new Set(plan.mms.map(({ startBrk }) => startBrk));
  return story.images
    .filter(({ startBrk }) => asked.has(startBrk))
    .map(({ startBrk, proven }) => [startBrk, [...proven].sort(byNumber)] as const);
}

function check(story: TrueStory): StracePlan {
  const plan = planStrace(parseStrace(story.log, 'invented.strace'));
  assert.deepEqual(plan.unexplained, []);
  assert.equal(plan.skipped.length, story.cut);
  assert.equal(plan.tasks.length, story.tasks);
  assert.equal(plan.totals.processes, story.processes);
  assert.equal(plan.mms.filter(({ origin }) => origin === 'fork').length, story.forks);
  assert.deepEqual(
    imagesOf(plan)
      .filter(([startBrk]) => startBrk > 0)
      .sort(([a], [b]) => a - b),
    knownImagesOf(story, plan),
  );
  return plan;
}

describe('of an invented log', () => {
  for (const overlapping of [false, true]) {
    const title = overlapping ? 'whose calls overlap' : 'whose calls follow each other';
    test(`${title}, the plan tells what happened, and happens again in any order`, () => {
      fc.assert(
        fc.property(decisions, fc.infiniteStream(fc.nat(720719)), (story, choices) => {
          const plan = check(inventStory(story, overlapping));
          for (let i = 0; i < 3; i++) {
            new NaiveReplay(plan).run((count) => choices.next().value % count);
          }
        }),
        { numRuns: 150 },
      );
    });
  }

  test('some calls overlap and conflict, or the tests above prove nothing', () => {
    let overlapping = 0;
    let ordered = 0;
    for (const story of fc.sample(decisions, { numRuns: 50, seed: 1 })) {
      const { tasks } = planStrace(parseStrace(inventStory(story, true).log, 'x'));
      for (const { operations } of tasks) {
        for (const operation of operations) {
          if (operation.endLine > operation.line) overlapping++;
          for (const { task, count } of operation.waits) {
            if (tasks[task]!.operations[count - 1]!.endLine >= operation.line) ordered++;
          }
        }
      }
    }
    assert.ok(overlapping > 300, `${overlapping} calls overlap others`);
    assert.ok(ordered > 30, `${ordered} waits are for a call in flight`);
  });
});
