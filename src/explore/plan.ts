/**
 * A plan: everything a schedule is decided by. Strategies make plans; a run of one leaves a trace.
 *
 * @module
 */
import {
  C_DEVIATIONS,
  C_RANDOM,
  C_RULE,
  C_SLEEP_FROM,
  C_SLEEPING,
  C_STEP,
  C_STEP_LIMIT,
  DEVIATIONS_AT,
  DEVIATIONS_MAX,
  firstOf,
  RULE_FIRST,
  STEPS_MAX,
  stepTask,
  T_PRIORITY,
  TASK_WORDS,
  TASKS_AT,
  TR_ENABLED,
  TRACE_AT,
  TRACE_WORDS,
} from './control.js';

/** At a step, a task other than the rule's goes; with RULE_PRIORITY, a change point. */
export interface Deviation {
  readonly step: number;
  readonly task: number;
}

/** How one schedule is to go. */
export interface Plan {
  /** RULE_*; by default RULE_FIRST. */
  readonly rule?: number;
  /** In order of their steps. */
  readonly deviations?: readonly Deviation[];
  /** Seed of the rule's random numbers; not 0. */
  readonly random?: number;
  /** Of each task, for RULE_PRIORITY and RULE_POS. */
  readonly priorities?: readonly number[];
  /** RULE_SLEEP_SETS: from that step on these tasks sleep (a mask), until something depends on what they would do. */
  readonly sleepFrom?: number;
  readonly sleeping?: number;
  readonly stepLimit?: number;
}

/** Writes a plan where the controller reads it. */
export function setPlan(control: Int32Array, plan: Plan): void {
  const deviations = plan.deviations ?? [];
  if (deviations.length > DEVIATIONS_MAX) throw new RangeError('a plan has too many deviations');
  control[C_RULE] = plan.rule ?? RULE_FIRST;
  control[C_RANDOM] = plan.random ?? 1;
  control[C_SLEEP_FROM] = plan.sleepFrom ?? 0;
  control[C_SLEEPING] = plan.sleeping ?? 0;
  control[C_STEP_LIMIT] = Math.min(plan.stepLimit ?? STEPS_MAX, STEPS_MAX);
  control[C_DEVIATIONS] = deviations.length;
  let at = DEVIATIONS_AT;
  for (const { step, task } of deviations) {
    control[at++] = step;
    control[at++] = task;
  }
  plan.priorities?.forEach((priority, task) => {
    control[TASKS_AT + task * TASK_WORDS + T_PRIORITY] = priority;
  });
}

/**
 * The schedule that was run, as deviations from RULE_FIRST: whatever the plan was, this is how to run it
 * again. At most `steps` of it.
 */
export function deviationsOf(control: Int32Array, steps = control[C_STEP]!): Deviation[] {
  const deviations: Deviation[] = [];
  let last = -1;
  for (let step = 0; step < steps; step++) {
    const trace = TRACE_AT + step * TRACE_WORDS;
    const task = stepTask(control[trace]!);
    const enabled = control[trace + TR_ENABLED]!;
    if (task !== firstOf(last, enabled)) deviations.push({ step, task });
    last = task;
  }
  return deviations;
}

/** How often a task was set aside that could have gone on. */
export function preemptionsOf(control: Int32Array, steps = control[C_STEP]!): number {
  let preemptions = 0;
  let last = -1;
  for (let step = 0; step < steps; step++) {
    const trace = TRACE_AT + step * TRACE_WORDS;
    const task = stepTask(control[trace]!);
    if (last >= 0 && task !== last && ((control[trace + TR_ENABLED]! >> last) & 1) !== 0) {
      preemptions++;
    }
    last = task;
  }
  return preemptions;
}
