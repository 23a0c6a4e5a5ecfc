/**
 * Explores one program: a strategy chooses schedules, an engine runs them, a judge looks at what became of
 * them. Runs in the thread that has the engine; what comes out can be sent to another.
 *
 * @module
 */
import { hasOneBit } from '../base/bits.js';
import { FaultlineError } from '../base/bug.js';
import { C_END, C_HASH, C_STEP, END_SEEN } from './control.js';
import type { Engine } from './engine.js';
import { type Failure, Judge } from './judge.js';
import { type Deviation, deviationsOf, type Plan, preemptionsOf, setPlan } from './plan.js';
import type { ExploreProgram } from './program.js';
import type { OutcomeCount } from './report.js';
import { checkOf } from './schedule.js';
import type { Strategy, StrategyFacts } from './strategies/strategy.js';

/** When to stop; without any of these, when the strategy has no schedule left. */
export interface ExplorerOptions {
  /** Schedules to run at most. */
  readonly schedules?: number;
  /** How long it may take at most. */
  readonly seconds?: number;
  /** Stop at the first failure; by default true. */
  readonly stopAtFirst?: boolean;
  /** Look for data races and uses of freed memory; by default true. */
  readonly races?: boolean;
  /** Called now and then. */
  readonly onProgress?: (progress: Progress) => void;
  /** Asked now and then. */
  readonly shouldStop?: () => boolean;
}

export interface Progress {
  readonly schedules: number;
  readonly steps: number;
  readonly seconds: number;
  readonly failures: number;
}

/** A failure, and how to get there again. */
export interface FoundFailure extends Failure {
  /** Schedules run until then, this one included. */
  readonly schedule: number;
  readonly seconds: number;
  /** The schedule, whatever strategy found it: from RULE_FIRST. */
  readonly deviations: readonly Deviation[];
  /** Of its trace: schedule.ts. */
  readonly check: number;
  readonly steps: number;
  readonly preemptions: number;
  /** How many schedules failed so. */
  count: number;
}

/** What an exploration found. */
export interface ExploreResult extends StrategyFacts {
  readonly program: string;
  readonly schedules: number;
  /** Of these, how many ended early because what follows had been seen. */
  readonly seenBefore: number;
  readonly seconds: number;
  readonly steps: number;
  /** How many schedules had 0, 1, 2, … preemptions. */
  readonly byPreemptions: readonly number[];
  readonly outcomes: readonly OutcomeCount[];
  /** One for each way of failing, in the order they were found; FAILURES_MAX at most. */
  readonly failures: readonly FoundFailure[];
  /** Schedules that failed. */
  readonly failed: number;
}

/** Ways of failing that are kept. */
const FAILURES_MAX = 32;
/** Schedules between two looks at the time, and how long between two reports. */
const LOOK_EVERY = 16;
const PROGRESS_SECONDS = 0.2;

/** Explores. @throws FaultlineError if the program is not deterministic */
export function explore(
  engine: Engine,
  program: ExploreProgram,
  strategy: Strategy,
  options: ExplorerOptions = {},
): ExploreResult {
  return new Exploration(engine, program, strategy, options).run();
}

class Exploration {
  readonly #engine: Engine;
  readonly #program: ExploreProgram;
  readonly #strategy: Strategy;
  readonly #options: ExplorerOptions;
  readonly #judge: Judge;
  readonly #startedAt = performance.now();
  readonly #outcomes = new Map<string, number>();
  readonly #failures = new Map<string, FoundFailure>();
  readonly #byPreemptions: number[] = [];
  #schedules = 0;
  #seenBefore = 0;
  #steps = 0;
  #failed = 0;
  #reportedAt = 0;

  constructor(
    engine: Engine,
    program: ExploreProgram,
    strategy: Strategy,
    options: ExplorerOptions,
  ) {
    this.#engine = engine;
    this.#program = program;
    this.#strategy = strategy;
    this.#options = options;
    this.#judge = new Judge(engine, program, { races: options.races ?? true });
    for (const { name } of program.outcomes ?? []) this.#outcomes.set(name, 0);
  }

  run(): ExploreResult {
    const { control } = this.#engine;
    while (!this.#isOver()) {
      const plan = this.#strategy.next();
      if (plan === undefined) break;
      setPlan(control, plan);
      this.#engine.run();
      const hash = control[C_HASH]!;
      const failed = this.#takeIn();
      if (!failed && hasOneBit(this.#schedules)) this.#checkAgain(plan, hash);
      if (failed && this.#options.stopAtFirst !== false) break;
    }
    return this.#result();
  }

  /** Runs a plan once more: it must give the same trace. @throws FaultlineError */
  #checkAgain(plan: Plan, hash: number): void {
    const { control } = this.#engine;
    setPlan(control, plan);
    this.#engine.run();
    this.#engine.restore();
    if (control[C_HASH] === hash) return;
    throw new FaultlineError(
      'FAULTLINE_NOT_DETERMINISTIC',
      `${this.#program.name} is not deterministic: one schedule, run twice, did not make the same accesses (time, random numbers, or variables of the module that keep their values?)`,
    );
  }

  #isOver(): boolean {
    const { schedules = Infinity, seconds = Infinity, onProgress, shouldStop } = this.#options;
    if (this.#schedules >= schedules) return true;
    if (this.#schedules % LOOK_EVERY !== 0) return false;
    const now = this.#seconds();
    if (now >= seconds || shouldStop?.() === true) return true;
    if (onProgress !== undefined && now - this.#reportedAt >= PROGRESS_SECONDS) {
      this.#reportedAt = now;
      onProgress({
        schedules: this.#schedules,
        steps: this.#steps,
        seconds: now,
        failures: this.#failed,
      });
    }
    return false;
  }

  #seconds(): number {
    return (performance.now() - this.#startedAt) / 1000;
  }

  /** Judges the schedule that was run, and restores the world; true if it failed. */
  #takeIn(): boolean {
    const { control } = this.#engine;
    const steps = control[C_STEP]!;
    const preemptions = preemptionsOf(control);
    this.#schedules++;
    this.#steps += steps;
    if (control[C_END] === END_SEEN) this.#seenBefore++;
    this.#byPreemptions[preemptions] = (this.#byPreemptions[preemptions] ?? 0) + 1;
    const { failure, outcome } = this.#judge.judge();
    const isOutcome = failure === undefined || failure.kind === 'forbidden'; // each schedule counts once
    if (outcome !== undefined && isOutcome) {
      this.#outcomes.set(outcome, (this.#outcomes.get(outcome) ?? 0) + 1);
    }
    if (failure !== undefined) this.#note(failure, steps, preemptions);
    this.#strategy.observe(control, failure !== undefined);
    this.#engine.restore();
    return failure !== undefined;
  }

  #note(failure: Failure, steps: number, preemptions: number): void {
    this.#failed++;
    const known = this.#failures.get(failure.signature);
    if (known !== undefined) {
      known.count++;
      return;
    }
    if (this.#failures.size === FAILURES_MAX) return;
    this.#failures.set(failure.signature, {
      ...failure,
      schedule: this.#schedules,
      seconds: this.#seconds(),
      deviations: deviationsOf(this.#engine.control),
      check: checkOf(this.#engine.control),
      steps,
      preemptions,
      count: 1,
    });
  }

  #result(): ExploreResult {
    const declared = new Map(
      (this.#program.outcomes ?? []).map((outcome) => [outcome.name, outcome]),
    );
    return {
      ...this.#strategy.facts(),
      program: this.#program.name,
      schedules: this.#schedules,
      seenBefore: this.#seenBefore,
      seconds: this.#seconds(),
      steps: this.#steps,
      byPreemptions: Array.from(this.#byPreemptions, (count: number | undefined) => count ?? 0),
      outcomes: [...this.#outcomes].map(([name, count]) => ({
        name,
        grade: declared.get(name)?.grade ?? (declared.size === 0 ? 'ACCEPTABLE' : 'FORBIDDEN'),
        description: declared.get(name)?.description ?? '',
        count,
      })),
      failures: [...this.#failures.values()],
      failed: this.#failed,
    };
  }
}
