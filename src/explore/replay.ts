/**
 * Replays a schedule: runs it again, as often as is asked for, and explains it.
 *
 * @module
 */
import { EXIT_USAGE, FaultlineError } from '../base/bug.js';
import { sharedIntegers } from '../memory/shared-tables.js';
import { glance, leaveWord } from '../memory/turn-token.js';
import { C_END, END_DIVERGED, STEPS_MAX } from './control.js';
import type { Engine } from './engine.js';
import { explain } from './explain/explain.js';
import type { Explanation } from './explain/explanation.js';
import { allOperations, programWith } from './explain/subject.js';
import { exploreWithCrew } from './explore-crew.js';
import { J_STOP, JOB_WORDS } from './job.js';
import { Judge } from './judge.js';
import { setPlan } from './plan.js';
import { findProgram, type ProgramRef } from './program-ref.js';
import type { EngineName } from './report.js';
import { subjectsOf } from './run-job.js';
import { checkOf, parseSchedule, type Schedule } from './schedule.js';

/** How to replay. */
export interface ReplayScheduleOptions {
  /** Where the program is, if it does not ship with faultline. */
  readonly url?: string;
  /** By default `virtual`. */
  readonly engine?: EngineName;
  /** By default 1. */
  readonly times?: number;
  /** Every step in the diagram. */
  readonly all?: boolean;
  /** Unit: characters. */
  readonly width?: number;
  /** Give up on a schedule that takes so long. Unit: milliseconds. */
  readonly stallMs?: number;
  /** When aborted, no run is begun any more. */
  readonly signal?: AbortSignal;
}

/** What a replay came to. */
export interface ReplayScheduleReport {
  readonly schedule: string;
  readonly program: string;
  readonly engine: EngineName;
  /** Runs. */
  readonly times: number;
  /** There would have been more. */
  readonly interrupted: boolean;
  /** How it failed: a signature, and how often; empty if it never did. */
  readonly failures: readonly { readonly signature: string; readonly count: number }[];
  /** Outcomes of runs that did not fail. */
  readonly outcomes: readonly string[];
  /** Runs that were, access for access, the one that was recorded. */
  readonly sameTrace: number;
  readonly explanation: Explanation | null;
}

interface ReplayArgs {
  readonly ref: ProgramRef;
  readonly text: string;
  readonly schedule: Schedule;
  readonly engine: EngineName;
  readonly times: number;
  readonly all: boolean;
  readonly width: number;
  /** J_STOP */
  readonly stop: Int32Array;
}

/**
 * Runs a schedule again.
 * @throws FaultlineError if the text is no schedule, or it does not fit the program
 */
export async function replaySchedule(
  text: string,
  options: ReplayScheduleOptions = {},
): Promise<ReplayScheduleReport> {
  const schedule = parseSchedule(text);
  const { engine = 'virtual', times = 1, all = false, width = 120 } = options;
  const ref = options.url === undefined ? { name: schedule.program } : { url: options.url };
  const [mutant, another] = schedule.mutants;
  if (another !== undefined) throw badSchedule('a machine has one mutant at a time');
  const program = await findProgram(ref);
  checkFits(program.name, program.tasks, schedule);
  const stop = sharedIntegers(JOB_WORDS);
  options.signal?.addEventListener('abort', () => {
    leaveWord(stop, J_STOP, 1);
  });
  const args: ReplayArgs = { ref, text, schedule, engine, times, all, width, stop };
  return (await exploreWithCrew({
    program: ref,
    engine,
    ...(mutant !== undefined && { mutant }),
    ...(schedule.operations !== undefined && { operations: schedule.operations }),
    explorer: { module: 'faultline:explore', entry: 'runReplay', args },
    stallMs: options.stallMs ?? 20_000,
  })) as ReplayScheduleReport;
}

function checkFits(
  name: string,
  tasks: readonly { readonly operations: readonly unknown[] }[],
  schedule: Schedule,
): void {
  if (name !== schedule.program) {
    throw badSchedule(`it is of program ${schedule.program}, not ${name}`);
  }
  const stranger = schedule.deviations.find(({ task }) => task >= tasks.length);
  if (stranger !== undefined) {
    throw badSchedule(`there is no task ${stranger.task} in ${name}, which has ${tasks.length}`);
  }
  if (schedule.operations === undefined) return;
  if (schedule.operations.length !== tasks.length) {
    throw badSchedule(
      `ops= is for ${schedule.operations.length} tasks; ${name} has ${tasks.length}`,
    );
  }
  schedule.operations.forEach((left, task) => {
    const beyond = left.find((operation) => operation >= tasks[task]!.operations.length);
    if (beyond !== undefined)
      throw badSchedule(`task ${task} of ${name} has no operation ${beyond}`);
  });
}

function badSchedule(message: string): FaultlineError {
  return new FaultlineError(
    'FAULTLINE_BAD_SCHEDULE',
    `the schedule does not fit: ${message}`,
    EXIT_USAGE,
  );
}

/** The worker's side. */
export async function runReplay(engine: Engine, args: ReplayArgs): Promise<ReplayScheduleReport> {
  const { ref, text, schedule, times } = args;
  const whole = await findProgram(ref);
  const operations = schedule.operations ?? allOperations(whole);
  const program = programWith(whole, operations);
  const judge = new Judge(engine, program);
  const failures = new Map<string, number>();
  const outcomes = new Set<string>();
  let sameTrace = 0;
  let runs = 0;
  for (; runs < times && glance(args.stop, J_STOP) === 0; runs++) {
    const stepLimit = schedule.stepLimit ?? STEPS_MAX;
    setPlan(engine.control, { deviations: schedule.deviations, stepLimit });
    engine.run();
    if (engine.control[C_END] === END_DIVERGED) {
      throw badSchedule('it asks for a task that cannot go: the code is not what it was');
    }
    if (checkOf(engine.control) === schedule.check) sameTrace++;
    const { failure, outcome } = judge.judge();
    engine.restore();
    if (failure === undefined) outcomes.add(outcome ?? 'no failure');
    else failures.set(failure.signature, (failures.get(failure.signature) ?? 0) + 1);
  }
  const [mutant = null] = schedule.mutants;
  return {
    schedule: text,
    program: program.name,
    engine: args.engine,
    times: runs,
    interrupted: runs < times,
    failures: [...failures].map(([signature, count]) => ({ signature, count })),
    outcomes: [...outcomes],
    sameTrace,
    explanation:
      failures.size === 0
        ? null
        : explain(await subjectsOf(ref, mutant), whole, schedule.deviations, {
            mutants: schedule.mutants,
            operations,
            minimise: false,
            all: args.all,
            width: args.width,
          }),
  };
}
