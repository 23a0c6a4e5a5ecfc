/**
 * Explains a failing schedule: makes it small, runs it once more with everything noted, finds what decides.
 *
 * @module
 */
import { OP_LOCK, OP_RMW } from '../../memory/turnstile.js';
import { C_END, C_STEP_LIMIT, END_STEPS, STEPS_MAX } from '../control.js';
import { type Deviation, preemptionsOf } from '../plan.js';
import type { ExploreProgram } from '../program.js';
import { checkOf, formatSchedule, replayLine } from '../schedule.js';
import { criticalPairs } from './critical-pairs.js';
import { actionOf, describePair, describePairs, endsOf, switchesOf, valuesOf } from './describe.js';
import { type DiagramOptions, renderDiagram } from './diagram.js';
import type { CriticalPair, ExplainedStep, Explanation } from './explanation.js';
import { minimise, type MinimiseOptions } from './minimise.js';
import { Names } from './names.js';
import type { Recording } from './recorder.js';
import { actingSites, siteReader } from './sites.js';
import { statesOf, type StepState } from './states.js';
import {
  allOperations,
  type Failure,
  type Operations,
  recordRun,
  type Subject,
  type SubjectFor,
} from './subject.js';
import { conflictsOf, type LockHold, lockHolds, pendingOf, type Step, stepsOf } from './trace.js';

/** What else belongs to the schedule, and how it is told. */
export interface ExplainOptions extends MinimiseOptions, DiagramOptions {
  /** Mutants that the engine's kernel has on. */
  readonly mutants?: readonly string[];
  /** Operations that are left, if the schedule is of less than the whole program. */
  readonly operations?: Operations;
  /** False: as it is. */
  readonly minimise?: boolean;
}

/**
 * Explains the failure of a schedule of the program.
 * @throws RangeError if the schedule does not fail
 */
export function explain(
  subjectFor: SubjectFor,
  program: ExploreProgram,
  deviations: readonly Deviation[],
  options: ExplainOptions = {},
): Explanation {
  const given = options.operations ?? allOperations(program);
  if (options.minimise === false) {
    return explainAsIs(subjectFor(given), program, given, deviations, options);
  }
  const {
    operations,
    subject,
    deviations: fewest,
  } = minimise(subjectFor, given, deviations, options);
  return explainAsIs(subject, program, operations, fewest, options);
}

/** Everything that one run shows. */
interface Observed {
  readonly failure: Failure;
  readonly steps: readonly Step[];
  readonly states: readonly StepState[];
  readonly recording: Recording;
  readonly names: Names;
  readonly holds: readonly LockHold[];
  readonly pairs: readonly CriticalPair[];
}

function explainAsIs(
  subject: Subject,
  program: ExploreProgram,
  operations: Operations,
  deviations: readonly Deviation[],
  options: ExplainOptions,
): Explanation {
  const { engine } = subject;
  const { control } = engine;
  const failure = subject.fails({ deviations });
  if (failure === undefined) throw new RangeError('the schedule does not fail');
  const decisive = criticalPairs(subject, deviations);
  const recording = recordRun(subject, deviations);
  const steps = stepsOf(control);
  const withPending = [...steps, ...pendingOf(control, steps)];
  const holds = lockHolds(steps);
  const names = new Names(engine.world, program.world);
  const schedule = scheduleOf(program, operations, deviations, control, options);
  const pairs = decisive.map((pair) => describePair(pair, withPending, names));
  const switches = switchesOf(steps, holds, control, names);
  const ends = endsOf(control, engine.world.machine.cpu, holds, names, engine.error);
  const preemptions = preemptionsOf(control);
  engine.restore();
  const states = statesOf(subject, deviations, steps);
  const observed = { failure, steps, states, recording, names, holds, pairs };
  const told = {
    program: program.name,
    title: program.title,
    mutants: options.mutants ?? [],
    failure: { ...failure, message: withNames(failure.message, names) },
    schedule,
    replay: replayLine(schedule),
    preemptions,
    tasks: subject.program.tasks.map(({ name, operations: left }, task) => ({
      name,
      operations: left.map((operation) => operation.name),
      end: left.length === 0 ? 'has nothing to do' : ends[task]!,
    })),
    criticalPairs: pairs,
    sentence: describePairs(pairs),
    steps: explainSteps(observed, program.modelsLocks !== false),
    switches,
  };
  return { ...told, diagram: renderDiagram(told, options) };
}

/** A message that names words by their numbers, with what they are called. */
function withNames(message: string, names: Names): string {
  return message.replace(/\bword (\d+)\b/g, (_, at: string) => names.of(Number(at)).path);
}

function scheduleOf(
  program: ExploreProgram,
  operations: Operations,
  deviations: readonly Deviation[],
  control: Int32Array,
  { mutants = [] }: ExplainOptions,
): string {
  const isWhole = program.tasks.every(
    (task, id) => task.operations.length === operations[id]?.length,
  );
  const stepLimit = control[C_END] === END_STEPS ? control[C_STEP_LIMIT]! : STEPS_MAX;
  return formatSchedule({
    program: program.name,
    mutants,
    ...(isWhole ? {} : { operations }),
    ...(stepLimit === STEPS_MAX ? {} : { stepLimit }),
    deviations,
    check: checkOf(control),
  });
}

function explainSteps(observed: Observed, modelsLocks: boolean): ExplainedStep[] {
  const { steps, states, recording, names, holds, pairs } = observed;
  const conflicts = conflictsOf(steps);
  const critical = new Set(pairs.flatMap(({ first, second }) => [first, second]));
  const given = new Set(holds.map((hold) => hold.given));
  const last = lastSteps(steps);
  const readSites = siteReader();
  return steps.map((step) => {
    const recorded = recording[step.task]?.[step.local];
    const sites = actingSites(readSites(recorded?.stack ?? []), modelsLocks);
    const isUnlock = step.kind === OP_RMW && given.has(step.step);
    const word = names.of(step.at);
    const isLock = isUnlock || step.kind === OP_LOCK;
    const lockName = isLock ? names.lockName(step.at) : undefined;
    const unfinished = [...last].filter(([, end]) => end >= step.step).map(([task]) => task);
    return {
      step: step.step,
      task: step.task,
      operation: recorded?.operation ?? 0,
      action: isUnlock ? 'unlock' : actionOf(step.kind),
      word: step.at,
      words: step.count,
      name: lockName ?? word.full,
      shortName: lockName ?? word.short,
      ...valuesOf(step, states[step.step], word, names),
      site: sites[0],
      callers: sites.slice(1),
      conflicts: conflicts[step.step]!,
      critical: critical.has(step.step),
      timedOut: step.timedOut,
      waiting: unfinished.reduce((mask, task) => mask | (1 << task), 0) & ~step.enabled,
      held: (states[step.step]?.cpus[step.task]?.held ?? []).map((lock) => names.lockName(lock)),
    };
  });
}

/** The last step of each task that makes any. */
function lastSteps(steps: readonly Step[]): Map<number, number> {
  return new Map(steps.map(({ task, step }) => [task, step]));
}
