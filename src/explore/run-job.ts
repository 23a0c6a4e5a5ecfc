/**
 * One job of an exploration, on the thread that has the engine: explores, and lays open what fails.
 *
 * @module
 */
import { glance, leaveWord } from '../memory/turn-token.js';
import { memoryWords } from '../memory/snapshot.js';
import { C_STEP } from './control.js';
import { type Engine } from './engine.js';
import { type Failure, judge } from './judge.js';
import {
  type ExploreJob,
  J_PHASE,
  J_SCHEDULES,
  J_STOP,
  type JobResult,
  PHASE_EXPLORING,
} from './job.js';
import { type Deviation, deviationsOf, preemptionsOf, setPlan } from './plan.js';
import { type ExploreProgram } from './program.js';
import { findProgram } from './program-ref.js';
import { type OutcomeCount } from './report.js';
import { makeStrategy } from './strategies/strategies.js';

const LOOK_EVERY = 256;

export function scheduleText(
  program: string,
  mutant: string | null,
  _control: Int32Array,
  deviations: readonly Deviation[],
): string {
  const switches = deviations.map(({ step, task }) => `${step}>${task}`).join('.');
  return `${program}${mutant === null ? '' : `+${mutant}`}@${switches}`;
}

export async function runJob(engine: Engine, job: ExploreJob): Promise<JobResult> {
  const program = await findProgram(job.program);
  leaveWord(job.progress, J_PHASE, PHASE_EXPLORING);
  const { control } = engine;
  const strategy = makeStrategy(job.strategy, {
    tasks: program.tasks.length,
    memoryWords: memoryWords(engine.world.machine.cpu).length,
    seed: job.seed,
    depth: job.depth,
    ...(job.maxPreemptions >= 0 && { preemptionsMax: job.maxPreemptions }),
  });
  const startedAt = performance.now();
  const outcomes = new Map<string, number>();
  let schedules = 0;
  let steps = 0;
  let failure: Failure | undefined;
  let deviations: Deviation[] = [];
  let preemptions = 0;
  while (failure === undefined) {
    if (job.schedules > 0 && schedules >= job.schedules) break;
    if (schedules % LOOK_EVERY === 0) {
      leaveWord(job.progress, J_SCHEDULES, schedules);
      if (glance(job.stop, J_STOP) !== 0) break;
      if (job.seconds > 0 && performance.now() - startedAt > job.seconds * 1000) break;
    }
    const plan = strategy.next();
    if (plan === undefined) break;
    setPlan(control, plan);
    engine.run();
    const verdict = judge(engine, program);
    failure = verdict.failure;
    if (failure !== undefined) {
      deviations = deviationsOf(control);
      preemptions = preemptionsOf(control);
    }
    if (control[C_STEP]! > steps) steps = control[C_STEP]!;
    strategy.observe(control, failure !== undefined);
    engine.restore();
    schedules++;
    if (verdict.outcome !== undefined) {
      outcomes.set(verdict.outcome, (outcomes.get(verdict.outcome) ?? 0) + 1);
    }
  }
  const seconds = (performance.now() - startedAt) / 1000;
  const facts = strategy.facts();
  const text = scheduleText(program.name, job.mutant, control, deviations);
  return {
    program: program.name,
    title: program.title,
    tasks: program.tasks.map(({ name }) => name),
    report: {
      strategy: job.strategy,
      seed: job.seed,
      schedules,
      seconds,
      steps,
      exhausted: facts.exhausted,
      preemptionBound: facts.preemptionBound ?? null,
      promise: facts.notes.length === 0 ? null : facts.notes.join('; '),
    },
    outcomes: countsOf(program, outcomes),
    failure:
      failure === undefined
        ? null
        : {
            kind: failure.kind,
            invariant: /^INV-\d+/.exec(failure.message)?.[0] ?? null,
            message: failure.message,
            foundBy: job.strategy,
            foundAfter: schedules,
            foundAfterSeconds: seconds,
            found: text,
            foundPreemptions: preemptions,
            schedule: text,
            preemptions,
            criticalPairs: [],
            diagram: '',
            replay: `faultline replay '${text}'`,
          },
  };
}

function countsOf(program: ExploreProgram, seen: ReadonlyMap<string, number>): OutcomeCount[] {
  const declared = program.outcomes ?? [];
  return [...declared.map(({ name }) => name), ...[...seen.keys()].filter((name) => !declared.some((outcome) => outcome.name === name))].map((name) => {
    const known = declared.find((outcome) => outcome.name === name);
    return {
      name,
      grade: known?.grade ?? 'ACCEPTABLE',
      description: known?.description ?? '',
      count: seen.get(name) ?? 0,
    };
  });
}
