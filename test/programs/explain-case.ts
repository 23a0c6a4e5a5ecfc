/**
 * Explains the failure of a toy, or of PROGRAM+MUTANT, in a process of the turnstile build:
 *
 *   node --conditions=faultline-turnstile explain-case.js NAME [--runs=N]
 *
 * Prints what test/explore/explain.test.ts looks at, as JSON; with `--text`, the explanation for people.
 *
 * @module
 */
import { exploration } from 'faultline';

import { findFailure, ownProgram, rewritten, subjectsOf } from '../support/explain-subject.js';

const { allOperations, explain, minimise, perfettoTrace, renderExplanation } = exploration;

const TOYS = new URL('explore-toys.js', import.meta.url).href;

const name = process.argv[2] ?? '';
/** A toy, or one of the kernel's own programs; as it is, and rewritten. */
async function load(
  called: string,
): Promise<readonly [exploration.ExploreProgram, exploration.ExploreProgram]> {
  const toys = (await import(TOYS)) as Record<string, exploration.ExploreProgram>;
  const [toy, copy] = [toys[called], (await rewritten(TOYS))[called]];
  return toy !== undefined && copy !== undefined ? [toy, copy] : ownProgram(called);
}

const [called = '', ...mutants] = name.split('+');
const [program, copy] = await load(called);
const mutant = mutants.map((one) => exploration.findMutant(one).number)[0] ?? 0;
const subjectFor = subjectsOf(program, copy, mutant);
const whole = subjectFor(allOperations(program));
const found = findFailure(whole);
const runs = process.argv.find((argument) => argument.startsWith('--runs='))?.slice(7);
const effort = {
  mutants,
  ...(runs === undefined ? {} : { runs: Number(runs), runsPerOperation: Number(runs) }),
};
const smallest = minimise(subjectFor, allOperations(program), found, effort);
const told = explain(subjectFor, program, found, effort);
const all = explain(subjectFor, program, found, { ...effort, all: true, width: 140 });

if (process.argv.includes('--text')) {
  console.log(`found with ${found.length} switches; ${smallest.runs} runs to make it small\n`);
  console.log(renderExplanation(told));
  if (process.argv.includes('--all')) console.log(all.diagram);
  if (process.argv.includes('--json')) console.log(JSON.stringify(perfettoTrace(told), null, 1));
} else {
  const schedule = exploration.parseSchedule(told.schedule);
  const again = Array.from({ length: 100 }, () => {
    const failure = smallest.subject.fails({ deviations: schedule.deviations });
    const check = exploration.checkOf(smallest.subject.engine.control);
    return { signature: failure?.signature, isSameRun: check === schedule.check };
  });
  console.log(
    JSON.stringify({
      found: found.length,
      told: structuredClone(told),
      text: renderExplanation(told),
      all: all.diagram,
      again,
      trace: perfettoTrace(told),
    }),
  );
}
