/**
 * One job of an exploration, on the thread that has the engine: explores, and lays open what fails.
 *
 * @module
 */
import { memoryWords } from '../memory/snapshot.js';
import { claimWord, glance, leaveWord } from '../memory/turn-token.js';
import { C_END, END_DIVERGED } from './control.js';
import type { Engine } from './engine.js';
import { explain } from './explain/explain.js';
import type { Explanation } from './explain/explanation.js';
import { runDeviations } from './explain/follow.js';
import { allOperations, type Operations, type Subject } from './explain/subject.js';
import { explore, type ExploreResult, type FoundFailure } from './explorer.js';
import {
  type ExploreJob,
  J_CLAIMED,
  J_EXPLAINING,
  J_INTERRUPTED,
  J_SCHEDULES,
  J_STOP,
  type JobResult,
} from './job.js';
import { Judge } from './judge.js';
import { findMutant } from './mutants.js';
import { type Plan, setPlan } from './plan.js';
import type { ExploreProgram } from './program.js';
import { findProgram, type ProgramRef } from './program-ref.js';
import type { FailureReport, StrategyReport } from './report.js';
import { formatSchedule, replayLine } from './schedule.js';
import { makeStrategy } from './strategies/strategies.js';
import { VirtualPrograms } from './virtual-program.js';

/** Explores as the job says. */
export async function runJob(engine: Engine, job: ExploreJob): Promise<JobResult> {
  const program = await findProgram(job.program);
  const strategy = makeStrategy(job.strategy, {
    tasks: program.tasks.length,
    memoryWords: memoryWords(engine.world.machine.cpu).length,
    seed: job.seed,
    depth: job.depth,
    ...(job.maxPreemptions >= 0 && { preemptionsMax: job.maxPreemptions }),
  });
  const result = explore(engine, program, strategy, {
    ...(job.schedules > 0 && { schedules: job.schedules }),
    ...(job.seconds > 0 && { seconds: job.seconds }),
    onProgress: ({ schedules }) => {
      leaveWord(job.progress, J_SCHEDULES, schedules);
    },
    shouldStop: () => glance(job.stop, J_STOP) !== 0,
  });
  const failure = claimed(job, result);
  if (failure !== undefined) leaveWord(job.progress, J_EXPLAINING, 1);
  const explained = failure === undefined ? null : await failureReport(job, program, failure);
  return {
    program: program.name,
    title: program.title,
    tasks: program.tasks.map(({ name }) => name),
    report: reportOf(job, result),
    outcomes: result.outcomes,
    failure: explained,
    failed: result.failures.map((found) => ({
      kind: found.kind,
      signature: found.signature,
      message: found === failure && explained !== null ? explained.message : found.message,
      count: found.count,
    })),
  };
}

/** The failure, unless another job has one already: explaining takes longer than finding, and one will do. */
function claimed({ stop }: ExploreJob, { failures }: ExploreResult): FoundFailure | undefined {
  if (failures[0] === undefined || !claimWord(stop, J_CLAIMED)) return undefined;
  leaveWord(stop, J_STOP, 1);
  return failures[0];
}

function reportOf(job: ExploreJob, result: ExploreResult): StrategyReport {
  const { schedules, seconds, steps, exhausted, preemptionBound, byPreemptions, notes } = result;
  return {
    strategy: job.strategy,
    seed: job.seed,
    schedules,
    seconds,
    steps,
    exhausted,
    preemptionBound: preemptionBound ?? null,
    byPreemptions,
    notes,
  };
}

async function failureReport(
  job: ExploreJob,
  program: ExploreProgram,
  failure: FoundFailure,
): Promise<FailureReport> {
  const mutants = job.mutant === null ? [] : [job.mutant];
  const explanation = job.explain ? await layOpen(job, program, failure) : undefined;
  const doubt = job.explain && explanation === undefined ? NOT_AGAIN : '';
  const found = formatSchedule({
    program: program.name,
    mutants,
    deviations: failure.deviations,
    check: failure.check,
  });
  const schedule = explanation?.schedule ?? found;
  return {
    kind: failure.kind,
    invariant: failure.invariant ?? null,
    message: explanation?.failure.message ?? `${failure.message}${doubt}`,
    foundBy: job.strategy,
    foundAfter: failure.schedule,
    foundAfterSeconds: failure.seconds,
    found,
    foundPreemptions: failure.preemptions,
    schedule,
    preemptions: explanation?.preemptions ?? failure.preemptions,
    criticalPairs: explanation?.sentence === undefined ? [] : [explanation.sentence],
    lockReports: (explanation?.failure ?? failure).lockReports ?? [],
    diagram: explanation?.diagram ?? '',
    replay: replayCommand(job.program, schedule),
  };
}

/** The command that runs the schedule again. */
export function replayCommand(program: ProgramRef, schedule: string): string {
  const line = replayLine(schedule);
  return 'url' in program ? `${line} --program ${decodeURI(new URL(program.url).pathname)}` : line;
}

/** Said of a failure that cannot be explained. */
const NOT_AGAIN = '; run again it does not fail: the program is not deterministic';

/**
 * Explains the failure, on a virtual engine: a schedule means the same on both. Undefined if it does not fail
 * there, which is the program's doing.
 */
async function layOpen(
  job: ExploreJob,
  program: ExploreProgram,
  failure: FoundFailure,
): Promise<Explanation | undefined> {
  const subjectFor = await subjectsOf(job.program, job.mutant);
  const again = runDeviations(subjectFor(allOperations(program)), failure.deviations);
  if (again.failure === undefined) return undefined;
  return explain(subjectFor, program, failure.deviations, {
    mutants: job.mutant === null ? [] : [job.mutant],
    width: job.width,
    isEnough: () => glance(job.stop, J_INTERRUPTED) !== 0,
  });
}

/** Makes parts of a program that can be run and judged, each once. */
export async function subjectsOf(
  ref: ProgramRef,
  mutantName: string | null,
): Promise<(operations: Operations) => Subject> {
  const programs = await VirtualPrograms.load(ref);
  const mutant = mutantName === null ? 0 : findMutant(mutantName).number;
  const known = new Map<string, Subject>();
  return (operations) => {
    const key = JSON.stringify(operations);
    const before = known.get(key);
    if (before !== undefined) return before;
    const made = subjectOf(programs, operations, mutant);
    known.set(key, made);
    return made;
  };
}

function subjectOf(programs: VirtualPrograms, operations: Operations, mutant: number): Subject {
  const { engine, program } = programs.part(operations, mutant);
  const judge = new Judge(engine, program);
  return {
    program,
    engine,
    fails: (plan: Plan) => {
      setPlan(engine.control, plan);
      engine.run();
      try {
        // a schedule made up on the way may ask for what cannot be
        return engine.control[C_END] === END_DIVERGED ? undefined : judge.judge().failure;
      } finally {
        engine.restore();
      }
    },
  };
}
