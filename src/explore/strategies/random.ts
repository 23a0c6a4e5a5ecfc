/**
 * Random walk: at each step anybody who can go, each as likely.
 *
 * @module
 */
import { RULE_RANDOM } from '../control.js';
import type { Plan } from '../plan.js';
import {
  limitOf,
  SeedStream,
  type Strategy,
  type StrategyFacts,
  type StrategyOptions,
} from './strategy.js';

export class RandomWalk implements Strategy {
  readonly #seeds: SeedStream;
  readonly #limit: Pick<Plan, 'stepLimit'>;

  constructor(options: StrategyOptions) {
    this.#seeds = new SeedStream(options.seed ?? 1);
    this.#limit = limitOf(options);
  }

  next(): Plan {
    return { rule: RULE_RANDOM, random: this.#seeds.next(), ...this.#limit };
  }

  observe(): void {
    // each schedule is drawn for itself
  }

  facts(): StrategyFacts {
    return { strategy: 'random', exhausted: false, notes: [] };
  }
}
