/**
 * Partial order sampling (Yuan, Yang, Gu; CAV 2018): the highest priority goes, and an operation that races
 * with the one just made draws a new one. Orders of racing operations are then sampled more evenly than
 * by a random walk, which favours those in which both tasks are equally far.
 *
 * @module
 */
import { RULE_POS } from '../control.js';
import type { Plan } from '../plan.js';
import {
  limitOf,
  SeedStream,
  type Strategy,
  type StrategyFacts,
  type StrategyOptions,
} from './strategy.js';

export class PartialOrderSampling implements Strategy {
  readonly #seeds: SeedStream;
  readonly #tasks: number;
  readonly #limit: Pick<Plan, 'stepLimit'>;

  constructor(options: StrategyOptions) {
    this.#seeds = new SeedStream(options.seed ?? 1);
    this.#tasks = options.tasks;
    this.#limit = limitOf(options);
  }

  next(): Plan {
    // of the range that the controller draws from
    const priorities = Array.from({ length: this.#tasks }, () => this.#seeds.next() >>> 1);
    return { rule: RULE_POS, random: this.#seeds.next(), priorities, ...this.#limit };
  }

  observe(): void {
    // each schedule is drawn for itself
  }

  facts(): StrategyFacts {
    return { strategy: 'pos', exhausted: false, notes: [] };
  }
}
