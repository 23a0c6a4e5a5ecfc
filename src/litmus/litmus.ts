/**
 * Litmus tests: small races of the kernel's protocols that were found, argued about, and mended, each with the
 * mistake and every mending as a variant.
 *
 * A variant is a program to explore, maybe with a mutant: the same program runs on real workers, many times
 * and pushed into the interesting order (member.ts), and is explored. To add a test, write one file under
 * tests/ and enter it in tests/registry.ts; its programs must be in explore/programs/registry.ts.
 *
 * @module
 */
import type { ExploreProgram, Window } from '../explore/program.js';
import type { Build } from '../host/pool.js';

/** After a violation the verdict is sure: the run goes on for a little, to see how often there is one. */
export const AFTER_VIOLATION_ITERATIONS = 1000;
export const AFTER_VIOLATION_MS = 300;

/** What a variant should turn out to be. */
export type Safety = 'safe' | 'unsafe';

/** One way of doing it: the mistake, or a mending. */
export interface LitmusVariant {
  /** `valid-flag`: what the command line calls it. */
  readonly name: string;
  /** What it does differently, in a line. */
  readonly title: string;
  readonly expected: Safety;
  readonly program: ExploreProgram;
  /** Name of the mistake that is planted in the kernel. */
  readonly mutant?: string;
  /** Where its tasks are made to meet; by default as the program says. */
  readonly window?: Window;
  /**
   * Of the real workers: `checked` to reach points within the kernel. By default `parallel`, at full speed, and
   * `checked` with a mutant: the other build has none.
   */
  readonly build?: Build;
  /** Real workers cannot see it: what is used is free, but still as it was. */
  readonly onlyExplored?: true;
}

/** A litmus test. */
export interface LitmusTest {
  /** `LT-3`. */
  readonly id: string;
  /** In a line: who meets whom. */
  readonly title: string;
  /** Where it comes from: a discussion, a commit, a document. */
  readonly source: string;
  readonly variants: readonly LitmusVariant[];
}

/** Declares a test. */
export function defineLitmus(test: LitmusTest): LitmusTest {
  return Object.freeze(test);
}

/** Which build its real workers run. */
export function buildOf({ build, mutant }: LitmusVariant): Build {
  return build ?? (mutant === undefined ? 'parallel' : 'checked');
}

/** Where its tasks are made to meet. */
export function windowOf({ window, program }: LitmusVariant): Window {
  return window ?? program.window ?? { order: [] };
}
