/**
 * A strategy: which schedules of a program to run, one after the other.
 *
 * Protocol   next() gives a plan, the explorer runs it and hands the control block with its trace to
 *            observe(), and so on until next() gives none.
 *
 * @module
 */
import type { Plan } from '../plan.js';

/** What a strategy can say about how far it got. */
export interface StrategyFacts {
  readonly strategy: string;
  /** Every schedule has been run, or one that is equivalent. */
  readonly exhausted: boolean;
  /** All schedules with at most so many preemptions have been run; undefined: nothing is known. */
  readonly preemptionBound?: number;
  /** In sentences, for people. */
  readonly notes: readonly string[];
}

/** Chooses schedules. */
export interface Strategy {
  /** The next schedule to run; undefined if there is none left. */
  next(): Plan | undefined;
  /** The schedule has been run: its trace is in the control block. */
  observe(control: Int32Array, failed: boolean): void;
  facts(): StrategyFacts;
}

/** What strategies are made from. */
export interface StrategyOptions {
  /** How many tasks the program has. */
  readonly tasks: number;
  /** Words of its machine's memory. */
  readonly memoryWords: number;
  readonly seed?: number;
  /** PCT: preemptions that a bug needs, and one more. */
  readonly depth?: number;
  /** Bounded search ends after this many preemptions. */
  readonly preemptionsMax?: number;
  /** Steps of one schedule at most. */
  readonly stepLimit?: number;
}

/** Seeds of single schedules, from one seed: never 0, which the controller's generator does not leave. */
export class SeedStream {
  #state: number;

  constructor(seed: number) {
    this.#state = seed | 0;
  }

  next(): number {
    this.#state = (this.#state + 0x9e3779b9) | 0;
    let mixed = this.#state;
    mixed = Math.imul(mixed ^ (mixed >>> 16), 0x21f0aaad);
    mixed = Math.imul(mixed ^ (mixed >>> 15), 0x735a2d97);
    mixed ^= mixed >>> 15;
    return mixed === 0 ? 1 : mixed;
  }

  /** A whole number from 0 to below `end`. */
  below(end: number): number {
    return (this.next() >>> 0) % end;
  }

  /** The numbers 1 to `count` in random order. */
  permutation(count: number): number[] {
    const numbers = Array.from({ length: count }, (_, i) => i + 1);
    for (let i = count - 1; i > 0; i--) {
      const other = this.below(i + 1);
      [numbers[i], numbers[other]] = [numbers[other]!, numbers[i]!];
    }
    return numbers;
  }
}

/** The limit of a plan's steps, if the options have one. */
export function limitOf(options: StrategyOptions): Pick<Plan, 'stepLimit'> {
  return options.stepLimit === undefined ? {} : { stepLimit: options.stepLimit };
}
