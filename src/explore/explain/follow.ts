/**
 * Runs a schedule that may no longer fit: as near to it as the program allows.
 *
 * Protocol   The guide lists stretches: a task goes on until it has made so many of its own operations. All
 *            of it is asked for at once, one choice for each step. Where the run finds that a task cannot go
 *            (it waits, or has finished), that task's stretch ends there and the next one begins, and the
 *            run starts again with what is known so far. What is after the guide's end goes by RULE_FIRST.
 *            So a change at one place of a schedule moves the rest along, which step numbers would not.
 *
 * @module
 */
import {
  C_END,
  C_STEP,
  DEVIATIONS_MAX,
  END_DIVERGED,
  TR_ENABLED,
  TRACE_AT,
  TRACE_WORDS,
} from '../control.js';
import { type Deviation, deviationsOf, preemptionsOf } from '../plan.js';
import type { Failure, Subject } from './subject.js';
import type { Step } from './trace.js';

/** A task goes on until it has made `until` operations of its own. */
export interface Stretch {
  readonly task: number;
  readonly until: number;
}

/** A run, and the plan that repeats it. */
export interface Run {
  readonly failure: Failure | undefined;
  readonly deviations: Deviation[];
  readonly preemptions: number;
  readonly steps: number;
}

/** Runs that may be made; shared by whoever looks for the same thing. */
export interface Budget {
  left: number;
}

/** Runs `deviations` as they are. */
export function runDeviations(subject: Subject, deviations: readonly Deviation[]): Run {
  const failure = subject.fails({ deviations });
  const { control } = subject.engine;
  return {
    failure,
    deviations: deviationsOf(control),
    preemptions: preemptionsOf(control),
    steps: control[C_STEP]!,
  };
}

/** Runs as near to the guide as it goes; undefined if the budget is spent before it is found how. */
export function follow(
  subject: Subject,
  guide: readonly Stretch[],
  budget: Budget,
): Run | undefined {
  const { control } = subject.engine;
  const tasks = subject.program.tasks.length;
  const choices: number[] = [];
  const made = new Int32Array(tasks);
  let next = 0; // stretch of the guide that comes next
  while (budget.left > 0) {
    budget.left--;
    const known = choices.length;
    const asked = Int32Array.from(made);
    for (const { task, until } of guide.slice(next)) {
      for (; asked[task]! < until; asked[task]!++) choices.push(task);
    }
    if (choices.length > DEVIATIONS_MAX) choices.length = DEVIATIONS_MAX; // it ends before, by its steps
    const run = runDeviations(
      subject,
      choices.map((task, step) => ({ step, task })),
    );
    if (control[C_END] !== END_DIVERGED) return run;
    // who was asked for at that step could not go: its stretch is over
    const step = control[C_STEP]!;
    const enabled = control[TRACE_AT + step * TRACE_WORDS + TR_ENABLED]!;
    const refused = choices[step]!;
    for (let i = known; i < step; i++) made[choices[i]!]!++;
    choices.length = step;
    next = nextStretch(guide, next, made, refused, enabled);
  }
  return undefined;
}

/** The first stretch that is not done, skipping that of the task that could not go. */
function nextStretch(
  guide: readonly Stretch[],
  from: number,
  made: Int32Array,
  refused: number,
  enabled: number,
): number {
  let next = from;
  const isDone = ({ task, until }: Stretch): boolean => made[task]! >= until;
  while (next < guide.length && isDone(guide[next]!)) next++;
  if (next < guide.length && guide[next]!.task === refused) next++;
  while (
    next < guide.length &&
    (isDone(guide[next]!) || ((enabled >> guide[next]!.task) & 1) === 0)
  ) {
    next++;
  }
  return next;
}

/** The steps as stretches. */
export function stretchesOf(steps: readonly Step[]): Stretch[] {
  const stretches: Stretch[] = [];
  for (const { task, local } of steps) {
    if (stretches.at(-1)?.task === task) stretches.pop();
    stretches.push({ task, until: local + 1 });
  }
  return stretches;
}
