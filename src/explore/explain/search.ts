/**
 * Looks for a failure with few preemptions: all schedules with none, then with one, and so on.
 *
 * Protocol   A schedule is a list of deviations from RULE_FIRST. From each one that was run, others are made
 *            by one more deviation after its last: another task goes at a step where a choice was. It is a
 *            preemption if the task that moved last could have gone on. Preemptions are tried only before
 *            operations that conflict, as far as runs so far have shown which do: between two others, a
 *            switch changes nothing.
 * Deviation  So it may miss what only shows in words that no run so far has shared. Who calls it has a
 *            failing schedule already.
 *
 * @module
 */
import { bitCount, lowestBit } from '../../base/bits.js';
import type { Deviation } from '../plan.js';
import { type Budget, type Run, runDeviations } from './follow.js';
import type { Subject } from './subject.js';
import { changes, type Step, stepsOf } from './trace.js';

/** Which failure, how many preemptions, how many runs. */
export interface SearchOptions {
  readonly signature: string;
  readonly preemptionsMax: number;
  readonly budget: Budget;
}

/** The first failing run with the fewest preemptions, up to the bound; undefined if there is none in the budget. */
export function searchBounded(subject: Subject, options: SearchOptions): Run | undefined {
  const search = new Search(subject, options);
  for (let bound = 0; bound <= options.preemptionsMax; bound++) {
    const found = search.atBound(bound);
    if (found !== undefined || options.budget.left <= 0) return found;
  }
  return undefined;
}

class Search {
  readonly #subject: Subject;
  readonly #signature: string;
  readonly #budget: Budget;
  /** Tasks that look at a word, and that change it, in any run so far. */
  readonly #lookers = new Map<number, number>();
  readonly #changers = new Map<number, number>();

  constructor(subject: Subject, { signature, budget }: SearchOptions) {
    this.#subject = subject;
    this.#signature = signature;
    this.#budget = budget;
  }

  /** All schedules with exactly so many preemptions. */
  atBound(bound: number): Run | undefined {
    return this.#visit([], bound);
  }

  #visit(deviations: readonly Deviation[], preemptionsLeft: number): Run | undefined {
    if (this.#budget.left <= 0) return undefined;
    this.#budget.left--;
    const run = runDeviations(this.#subject, deviations);
    if (preemptionsLeft === 0 && run.failure?.signature === this.#signature) return run;
    const steps = stepsOf(this.#subject.engine.control);
    for (const step of steps) this.#note(step);
    let last = -1;
    const from = (deviations.at(-1)?.step ?? -1) + 1;
    for (const step of steps) {
      const mover = last;
      last = step.task;
      if (step.step < from) continue;
      const cost = mover >= 0 && ((step.enabled >> mover) & 1) !== 0 ? 1 : 0;
      if (cost > preemptionsLeft || bitCount(step.enabled) < 2) continue;
      if (cost === 1 && !this.#conflicts(step)) continue;
      const found = this.#visitOthers(deviations, step, preemptionsLeft - cost);
      if (found !== undefined) return found;
    }
    return undefined;
  }

  #visitOthers(deviations: readonly Deviation[], step: Step, left: number): Run | undefined {
    for (let others = step.enabled & ~(1 << step.task); others !== 0; others &= others - 1) {
      const task = lowestBit(others);
      const found = this.#visit([...deviations, { step: step.step, task }], left);
      if (found !== undefined) return found;
    }
    return undefined;
  }

  #note({ task, kind, at, count }: Step): void {
    const masks = changes(kind) ? this.#changers : this.#lookers;
    for (let word = at; word < at + count; word++) {
      masks.set(word, (masks.get(word) ?? 0) | (1 << task));
    }
  }

  #conflicts({ task, kind, at, count }: Step): boolean {
    const others = ~(1 << task);
    for (let word = at; word < at + count; word++) {
      if (((this.#changers.get(word) ?? 0) & others) !== 0) return true;
      if (changes(kind) && ((this.#lookers.get(word) ?? 0) & others) !== 0) return true;
    }
    return false;
  }
}
