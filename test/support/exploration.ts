/**
 * Explores programs in a process of the turnstile build, and brings back what it saw.
 *
 * @module
 */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { before, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

import type { ExploreProgram } from '../../src/explore/program.js';
import type { Answer, Request, Search } from '../programs/exploration.js';

export type { Answer, Request } from '../programs/exploration.js';

/**
 * What a program that is sound must stand. With so many schedules, the same number of planted mistakes (all but six) are
 * found as with twice as many; mutants.test.ts looks further.
 */
const RANDOM = 400;
const PCT = 1000;
/** About as many steps, if that is less; but so many schedules. */
const STEPS = 90_000;
const FEWEST = 320;
/** Every so many-th schedule is run once more. */
const REPEAT_EVERY = 40;

const SCRIPT = fileURLToPath(new URL('../programs/exploration.js', import.meta.url));

/** The answers to requests, in their order. */
export async function explorePrograms(
  ...requests: readonly (Request | Search)[]
): Promise<Answer[]> {
  const { stdout } = await promisify(execFile)(process.execPath, [
    '--conditions=faultline-turnstile',
    SCRIPT,
    ...requests.map((request) => JSON.stringify(request)),
  ]);
  return stdout
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as Answer);
}

/** The answer to one. */
export async function exploreProgram(request: Request): Promise<Answer> {
  const [answer] = await explorePrograms(request);
  if (answer === undefined) throw new Error(`no answer for ${request.program}`);
  return answer;
}

/**
 * One test for each program that is not broken: it does not fail, reaches what it declares, and does the same when a
 * schedule is run again. Programs with many steps are run in fewer schedules.
 */
export function soundPrograms(programs: readonly ExploreProgram[]): void {
  const sound = programs.filter(({ isBroken }) => isBroken !== true);
  const budget = { steps: STEPS, schedules: FEWEST };
  let answers: Answer[] = [];
  before(async () => {
    answers = await explorePrograms(
      ...sound.map(({ name }) => ({
        program: name,
        random: RANDOM,
        pct: PCT,
        budget,
        repeatEvery: REPEAT_EVERY,
      })),
    );
  });
  for (const [i, { name, outcomes }] of sound.entries()) {
    test(`${name}: random walks and schedules of PCT`, () => {
      const seen = answers[i]!;
      assert.equal(seen.failure, undefined, `schedule ${seen.failedAt}`);
      assert.ok(seen.schedules >= FEWEST, `${seen.schedules} schedules`);
      assert.deepEqual([seen.repeated >= FEWEST / REPEAT_EVERY, seen.different], [true, 0]);
      const possible = outcomes?.filter(({ grade }) => grade !== 'FORBIDDEN') ?? [];
      const missing = possible.filter((outcome) => !(outcome.name in seen.outcomes));
      assert.deepEqual(missing, [], JSON.stringify(seen.outcomes));
    });
  }
}
