/**
 * What an exploration found, as it is sent between threads and written to files.
 *
 * @module
 */
import type { Grade } from './program.js';

/** How schedules are chosen. */
export const STRATEGIES = ['random', 'pct', 'pos', 'bounded', 'dfs', 'dpor'] as const;
export type StrategyName = (typeof STRATEGIES)[number];

/** Who runs the tasks: real workers, or generators on one thread. */
export const ENGINES = ['virtual', 'workers'] as const;
export type EngineName = (typeof ENGINES)[number];

/** One way the program ended, and how often; a schedule that broke a rule has not ended in any. */
export interface OutcomeCount {
  readonly name: string;
  readonly grade: Grade;
  readonly description: string;
  readonly count: number;
}

/** What one strategy did. */
export interface StrategyReport {
  readonly strategy: StrategyName;
  readonly seed: number;
  readonly schedules: number;
  readonly seconds: number;
  /** Steps of all schedules together. */
  readonly steps: number;
  /** There is no schedule that was not covered. */
  readonly exhausted: boolean;
  /** All schedules with so many preemptions were covered; null if the strategy does not say. */
  readonly preemptionBound: number | null;
  /** How many of the schedules had no preemption, one, two, … */
  readonly byPreemptions: readonly number[];
  /** What the strategy can say besides, in words: PCT's bound. */
  readonly notes: readonly string[];
}

/** A failing schedule, made small and explained. */
export interface FailureReport {
  /** `invariant`, `race`, `deadlock`, … */
  readonly kind: string;
  /** INV-n if one was violated. */
  readonly invariant: string | null;
  readonly message: string;
  readonly foundBy: StrategyName;
  /** How many schedules that strategy needed. */
  readonly foundAfter: number;
  readonly foundAfterSeconds: number;
  /** The schedule as it was found. */
  readonly found: string;
  readonly foundPreemptions: number;
  /** … and made small: `faultline replay` takes it. */
  readonly schedule: string;
  readonly preemptions: number;
  /** Which order of which two operations decides. */
  readonly criticalPairs: readonly string[];
  /** What lockdep reported. */
  readonly lockReports: readonly string[];
  readonly diagram: string;
  /** The command that runs it again. */
  readonly replay: string;
}

/** A way in which schedules failed; one failure at least is explained, the others are counted. */
export interface FailedSchedules {
  readonly kind: string;
  /** Schedules that fail in the same way have the same. */
  readonly signature: string;
  /** In a line, of one of them. */
  readonly message: string;
  readonly count: number;
}

/** A whole exploration. */
export interface ExploreReport {
  readonly program: string;
  readonly title: string;
  readonly tasks: readonly string[];
  readonly mutant: string | null;
  /** The one that was asked for, or `portfolio`. */
  readonly strategy: StrategyName | 'portfolio';
  readonly engine: EngineName;
  readonly seed: number;
  readonly schedules: number;
  readonly seconds: number;
  readonly schedulesPerSecond: number;
  readonly exhausted: boolean;
  readonly preemptionBound: number | null;
  readonly strategies: readonly StrategyReport[];
  readonly outcomes: readonly OutcomeCount[];
  readonly failures: readonly FailureReport[];
  /** All that failed: several threads may have found the same. */
  readonly failed: readonly FailedSchedules[];
  readonly interrupted: boolean;
}
