/**
 * What a litmus run found, as it is sent between threads and written to files.
 *
 * @module
 */
import type { Grade } from '../explore/program.js';
import type { FailureReport } from '../explore/report.js';
import type { Build } from '../host/pool.js';
import type { Safety } from './litmus.js';

/** What a variant turned out to be; `undecided` where nothing was found, and who could find it did not look. */
export type LitmusVerdict = Safety | 'undecided';

/** One way the iterations ended. */
export interface LitmusOutcome {
  readonly outcome: string;
  readonly grade: Grade;
  /** Iterations on real workers that ended so. */
  readonly count: number;
  /**
   * … of all iterations, 0 to 1. Null if there were none, and for a report of lockdep, which comes once however
   * often it happens. Several rules may break in one iteration.
   */
  readonly share: number | null;
  /** Schedules that were explored and ended so, each in one way; null if nothing was explored. */
  readonly explored: number | null;
  readonly description: string;
}

/** Tasks that wait for each other, or for nobody. */
export interface LitmusDeadlock {
  readonly summary: string;
  /** A line for each task: what it waits for, who has that, and what it holds. */
  readonly waits: readonly string[];
}

/**
 * Why there was no next iteration: all have run, so many or so long after the first violation, no time is left,
 * a deadlock, a task that does not return, or somebody outside.
 */
export type LitmusEnd =
  | 'iterations'
  | 'violation-iterations'
  | 'violation-time'
  | 'seconds'
  | 'deadlock'
  | 'stopped'
  | 'interrupted';

/** What real workers did. */
export interface WorkersRun {
  readonly build: Build;
  /** Iterations that ended. */
  readonly iterations: number;
  /** Of these, how many passed through the window. */
  readonly reached: number;
  readonly seconds: number;
  readonly ended: LitmusEnd;
  /** Iterations that broke a rule or ended as the program forbids. */
  readonly broken: number;
  /** Iterations that could not end. */
  readonly halted: number;
  /** Those that the program declares, and how often each has come. */
  readonly outcomes: readonly { readonly name: string; readonly count: number }[];
  /** Iterations that broke a rule, by what was said; `once`: it is said once for the whole machine. */
  readonly violations: readonly {
    readonly message: string;
    readonly count: number;
    readonly once: boolean;
  }[];
  readonly deadlock: LitmusDeadlock | null;
  /** Something else ended the run: a task that does not return. */
  readonly stopped: string | null;
}

/** What an exploration did. */
export interface LitmusExploration {
  /** `portfolio`, or the one that covered everything. */
  readonly strategy: string;
  readonly schedules: number;
  readonly seconds: number;
  /** There is no schedule that was not covered. */
  readonly exhausted: boolean;
}

/** One variant. */
export interface LitmusResult {
  readonly id: string;
  readonly title: string;
  readonly source: string;
  readonly variant: string;
  readonly variantTitle: string;
  readonly program: string;
  readonly mutant: string | null;
  readonly expected: Safety;
  /** Real workers cannot show it. */
  readonly onlyExplored: boolean;
  readonly verdict: LitmusVerdict;
  /** Who showed that it is unsafe. */
  readonly shownBy: readonly ('workers' | 'exploration')[];
  /** Iterations on real workers, and how many of them passed through the window. */
  readonly iterations: number;
  readonly reached: number;
  /** … and how many should have. */
  readonly reachedWanted: number;
  readonly outcomes: readonly LitmusOutcome[];
  readonly deadlock: LitmusDeadlock | null;
  readonly workers: Omit<WorkersRun, 'outcomes' | 'iterations' | 'reached'> | null;
  readonly explored: LitmusExploration | null;
  /** The failing interleaving, small and explained; an exploration finds it. */
  readonly failure: FailureReport | null;
  /** Ended before its time: it is unsafe or undecided. */
  readonly interrupted: boolean;
}

/** A whole run. */
export interface LitmusReport {
  /** Variants that were asked for; after an interruption there are fewer results. */
  readonly planned: number;
  readonly results: readonly LitmusResult[];
  readonly seconds: number;
  readonly interrupted: boolean;
}
