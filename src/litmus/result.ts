/**
 * What a litmus run found, as it is sent between threads and written to files.
 *
 * @module
 */
import type { Grade } from '../explore/program.js';
import type { FailureReport } from '../explore/report.js';
import type { Build } from '../host/pool.js';
import type { Safety } from './litmus.js';

/** One way the iterations ended. */
export interface LitmusOutcome {
  readonly outcome: string;
  readonly grade: Grade;
  /** Iterations on real workers that ended so. */
  readonly count: number;
  /** Schedules that were explored and ended so. */
  readonly explored: number;
  readonly description: string;
}

/** Tasks that wait for each other, or for nobody. */
export interface LitmusDeadlock {
  readonly summary: string;
  /** A line for each task: what it waits for, who has that, and what it holds. */
  readonly waits: readonly string[];
}

/** What real workers did. */
export interface WorkersRun {
  readonly build: Build;
  /** Iterations that ended. */
  readonly iterations: number;
  /** Of these, how many passed through the window. */
  readonly reached: number;
  readonly seconds: number;
  /** Those that the program declares, and how often each has come. */
  readonly outcomes: readonly { readonly name: string; readonly count: number }[];
  /** Iterations that broke a rule, by what was said. */
  readonly violations: readonly { readonly message: string; readonly count: number }[];
  readonly deadlock: LitmusDeadlock | null;
  /** Something else ended the run: a task that does not return, a thread that was lost. */
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
  readonly verdict: Safety;
  /** Who showed that it is unsafe. */
  readonly shownBy: readonly ('workers' | 'exploration')[];
  /** Iterations on real workers, and how many of them passed through the window. */
  readonly iterations: number;
  readonly reached: number;
  readonly outcomes: readonly LitmusOutcome[];
  readonly deadlock?: LitmusDeadlock;
  readonly workers: Omit<WorkersRun, 'outcomes' | 'iterations' | 'reached'> | null;
  readonly explored: LitmusExploration | null;
  /** The failing interleaving, small and explained; an exploration finds it. */
  readonly failure: FailureReport | null;
  /** Ended before its time: the verdict is of what was seen until then. */
  readonly interrupted: boolean;
}

/** A whole run. */
export interface LitmusReport {
  readonly results: readonly LitmusResult[];
  readonly seconds: number;
  readonly interrupted: boolean;
}
