/**
 * PCT, probabilistic concurrency testing (Burckhardt and others, ASPLOS 2010).
 *
 * Protocol   Tasks get random priorities, and the highest that can go goes. At depth - 1 change points,
 *            steps drawn evenly from the length of a run, whoever would go falls below all others. Who
 *            spins falls too, so that whom it waits for can go on.
 *
 * A bug that needs the order of `depth` operations is found by one run with a probability of at least
 * 1 / (n · k^(depth-1)), for n tasks and k steps. The number of steps is the longest run's so far, and only
 * runs whose change points were drawn from it count: the bound holds for programs whose runs are not longer.
 * Loops that spin are outside of what is proven.
 *
 * Every other run has more change points than asked for, in turn: some bugs need tasks to be set aside again
 * and again (a hand-off that is asked for after waking in vain). These runs do not count for the bound.
 *
 * @module
 */
import { C_STEP, RULE_PRIORITY } from '../control.js';
import type { Deviation, Plan } from '../plan.js';
import {
  limitOf,
  SeedStream,
  type Strategy,
  type StrategyFacts,
  type StrategyOptions,
} from './strategy.js';

const DEPTH = 3;
/** How much deeper every other run is. */
const DEEPER: readonly number[] = [1, 2, 3, 5, 9];

export class Pct implements Strategy {
  readonly #seeds: SeedStream;
  readonly #tasks: number;
  readonly #depth: number;
  readonly #limit: Pick<Plan, 'stepLimit'>;
  /** The longest run. */
  #steps = 0;
  /** Runs of just the depth, with change points from so many steps. */
  #runs = 0;
  /** All runs. */
  #made = 0;

  constructor(options: StrategyOptions) {
    this.#seeds = new SeedStream(options.seed ?? 1);
    this.#tasks = options.tasks;
    this.#depth = options.depth ?? DEPTH;
    this.#limit = limitOf(options);
  }

  next(): Plan {
    const priorities = this.#seeds.permutation(this.#tasks);
    const deviations = this.#changePoints();
    return { rule: RULE_PRIORITY, priorities, deviations, ...this.#limit };
  }

  /** Different steps, in order; none before a first run has shown how many there are. */
  #changePoints(): Deviation[] {
    const deeper = this.#isDeeper ? DEEPER[(this.#made >> 1) % DEEPER.length]! : 0;
    const wanted = Math.min(this.#depth - 1 + deeper, this.#steps);
    const steps = new Set<number>();
    while (steps.size < wanted) steps.add(this.#seeds.below(this.#steps));
    return [...steps].sort((a, b) => a - b).map((step) => ({ step, task: 0 }));
  }

  get #isDeeper(): boolean {
    return this.#made % 2 === 1;
  }

  observe(control: Int32Array): void {
    const steps = control[C_STEP]!;
    const counts = !this.#isDeeper;
    this.#made++;
    if (steps <= this.#steps) {
      if (counts) this.#runs++;
    } else {
      this.#steps = steps;
      this.#runs = 0;
    }
  }

  /** At least so likely does one run find a bug of the depth, if there is one. */
  get bound(): number {
    return 1 / (this.#tasks * this.#steps ** (this.#depth - 1));
  }

  facts(): StrategyFacts {
    if (this.#steps === 0) return { strategy: 'pct', exhausted: false, notes: [] };
    const miss = (1 - this.bound) ** this.#runs;
    return {
      strategy: 'pct',
      exhausted: false,
      notes: [
        `a run finds a bug of depth ${this.#depth} with p >= 1/(n·k^(d-1)) = ` +
          `1/(${this.#tasks}·${this.#steps}^${this.#depth - 1}) = ${this.bound.toPrecision(3)}`,
        `${this.#runs} such runs miss it with p <= ${miss.toPrecision(3)}`,
      ],
    };
  }
}
