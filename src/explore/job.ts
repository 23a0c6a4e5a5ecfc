/**
 * What a thread is asked to explore, and what it tells while it does.
 *
 * @module
 */
import type { ProgramRef } from './program-ref.js';
import type {
  EngineName,
  FailedSchedules,
  FailureReport,
  OutcomeCount,
  StrategyName,
  StrategyReport,
} from './report.js';

/** What one thread explores. Survives `postMessage`. */
export interface ExploreJob {
  readonly strategy: StrategyName;
  readonly seed: number;
  /** PCT: how many events in the wrong order a failure takes. */
  readonly depth: number;
  /** Bounded search: stop after so many preemptions; -1 for no bound. */
  readonly maxPreemptions: number;
  /** Schedules; 0 for as many as there is time for. */
  readonly schedules: number;
  /** Unit: seconds; 0 for as long as it takes. */
  readonly seconds: number;
  readonly program: ProgramRef;
  readonly mutant: string | null;
  readonly engine: EngineName;
  /** Lay a failure open: minimise it, name what decides, draw it. */
  readonly explain: boolean;
  /** How wide the diagram may be. Unit: characters. */
  readonly width: number;
  /** Shared by all jobs of an exploration: J_STOP, J_CLAIMED, J_INTERRUPTED. */
  readonly stop: Int32Array;
  /** Of this job: J_SCHEDULES, J_EXPLAINING. */
  readonly progress: Int32Array;
}

/** 1: come to an end. */
export const J_STOP = 0;
/** Schedules run so far. */
export const J_SCHEDULES = 1;
/** 1: it has found a failure, and explains it. */
export const J_EXPLAINING = 2;
/** 1: a job has a failure, which it explains. */
export const J_CLAIMED = 3;
/** 1: somebody outside has had enough: also of the explanation. */
export const J_INTERRUPTED = 4;
export const JOB_WORDS = 16;

/** What came of it. */
export interface JobResult {
  readonly title: string;
  readonly tasks: readonly string[];
  readonly report: StrategyReport;
  readonly outcomes: readonly OutcomeCount[];
  readonly failure: FailureReport | null;
  /** All that failed, the failure among them. */
  readonly failed: readonly FailedSchedules[];
  readonly program: string;
}
