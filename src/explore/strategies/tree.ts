/**
 * The tree of schedules, as much of it as a depth-first search needs: the run that was made last, and at
 * each of its steps what has been tried there, and what is still to be.
 *
 * @module
 */
import { lowestBit } from '../../base/bits.js';
import {
  C_STEP,
  firstOf,
  RULE_SLEEP_SETS,
  SLEEP_AT,
  STEPS_MAX,
  stepTask,
  TR_ENABLED,
  TRACE_AT,
  TRACE_WORDS,
} from '../control.js';
import type { Deviation, Plan } from '../plan.js';

export class ScheduleTree {
  /** Who went at each step of the run; of how many there are. */
  readonly task = new Int8Array(STEPS_MAX);
  steps = 0;
  /** At each step, masks of tasks: could go; have gone; are to go; need not go (sleep set). */
  readonly enabled = new Int32Array(STEPS_MAX);
  readonly done = new Int32Array(STEPS_MAX);
  readonly wanted = new Int32Array(STEPS_MAX);
  readonly sleeping = new Int32Array(STEPS_MAX);
  /** The first step at which the last run differs from the one before. */
  branch = 0;

  /** Takes in a run of the plan that `branchOff` made last. */
  add(control: Int32Array): void {
    const steps = control[C_STEP]!;
    for (let step = this.branch; step < steps; step++) {
      const trace = TRACE_AT + step * TRACE_WORDS;
      const task = stepTask(control[trace]!);
      this.task[step] = task;
      if (step === this.branch && this.steps > 0) continue; // its masks are from earlier runs
      this.enabled[step] = control[trace + TR_ENABLED]!;
      this.done[step] = 1 << task;
      this.wanted[step] = 1 << task;
      this.sleeping[step] = control[SLEEP_AT + step]!;
    }
    this.steps = steps;
  }

  /** The plan of the run for the deepest task that is wanted; undefined if there is none. */
  branchOff(rule: number): Plan | undefined {
    for (let step = this.steps - 1; step >= 0; step--) {
      const left = this.wanted[step]! & ~this.done[step]! & ~this.sleeping[step]!;
      if (left === 0) continue;
      const task = lowestBit(left);
      const sleeping = this.sleeping[step]! | this.done[step]!;
      this.done[step]! |= 1 << task;
      this.branch = step;
      const deviations = this.#prefix(step);
      deviations.push({ step, task });
      if (rule !== RULE_SLEEP_SETS) return { rule, deviations };
      return { rule, deviations, sleepFrom: step, sleeping };
    }
    return undefined;
  }

  /** The steps before `end`, as deviations from whoever goes by itself. */
  #prefix(end: number): Deviation[] {
    const deviations: Deviation[] = [];
    let last = -1;
    for (let step = 0; step < end; step++) {
      const enabled = this.enabled[step]!;
      const task = this.task[step]!;
      if (task !== firstOf(last, enabled)) deviations.push({ step, task });
      last = task;
    }
    return deviations;
  }
}
