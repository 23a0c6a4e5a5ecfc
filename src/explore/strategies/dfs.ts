/**
 * Full search: every schedule. For small programs, and to compare with.
 *
 * @module
 */
import { C_END, END_STEPS, RULE_FIRST } from '../control.js';
import type { Plan } from '../plan.js';
import { limitOf, type Strategy, type StrategyFacts, type StrategyOptions } from './strategy.js';
import { ScheduleTree } from './tree.js';

export class FullSearch implements Strategy {
  readonly #tree = new ScheduleTree();
  readonly #limit: Pick<Plan, 'stepLimit'>;
  #begun = false;
  #done = false;
  #cutOff = 0;

  constructor(options: StrategyOptions) {
    this.#limit = limitOf(options);
  }

  next(): Plan | undefined {
    if (!this.#begun) {
      this.#begun = true;
      return { rule: RULE_FIRST, ...this.#limit };
    }
    const plan = this.#tree.branchOff(RULE_FIRST);
    if (plan === undefined) this.#done = true;
    return plan && { ...plan, ...this.#limit };
  }

  observe(control: Int32Array): void {
    const tree = this.#tree;
    tree.add(control);
    for (let step = tree.branch; step < tree.steps; step++) {
      tree.wanted[step] = tree.enabled[step]!;
      tree.sleeping[step] = 0;
    }
    if (control[C_END] === END_STEPS) this.#cutOff++;
  }

  facts(): StrategyFacts {
    return {
      strategy: 'dfs',
      exhausted: this.#done && this.#cutOff === 0,
      notes: this.#cutOff === 0 ? [] : [`${this.#cutOff} schedules were cut off: too many steps`],
    };
  }
}
