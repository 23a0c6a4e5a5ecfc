/**
 * Explores a program on threads of its own: the library's way in, behind `faultline explore` and
 * `faultline/testing`.
 *
 * Protocol   One job for each strategy: one, or a portfolio of as many as there are cores. They share a few
 *            words: how far each is, and that all are to stop. The first that finds a failure explains it,
 *            while the others come to an end. Nothing is left running when the promise has settled.
 *
 * @module
 */
import { setMaxListeners } from 'node:events';
import { availableParallelism } from 'node:os';

import { FaultlineError } from '../base/bug.js';
import { sharedIntegers } from '../memory/shared-tables.js';
import { glance, leaveWord } from '../memory/turn-token.js';
import { exploreWithCrew } from './explore-crew.js';
import {
  type ExploreJob,
  J_EXPLAINING,
  J_INTERRUPTED,
  J_SCHEDULES,
  J_STOP,
  JOB_WORDS,
  type JobResult,
} from './job.js';
import type { ProgramRef } from './program-ref.js';
import type {
  EngineName,
  ExploreReport,
  FailedSchedules,
  OutcomeCount,
  StrategyName,
} from './report.js';

/** How to explore. */
export interface ExploreOptions {
  /** By default a portfolio of several, on all cores. */
  readonly strategy?: StrategyName | 'portfolio';
  /** By default `virtual`. */
  readonly engine?: EngineName;
  /** Stop after so many schedules; by default there is no such limit. */
  readonly schedules?: number;
  /** Stop after so long; by default 10. Unit: seconds. */
  readonly seconds?: number;
  /** Of all random choices; by default 1. */
  readonly seed?: number;
  /** PCT: how many orders a failure takes; by default 3. */
  readonly depth?: number;
  /** Bounded search: stop beyond so many; by default there is no such limit. */
  readonly maxPreemptions?: number;
  /** A mistake to plant in the kernel, by its name. */
  readonly mutant?: string;
  /** Threads of a portfolio; by default one for each core. */
  readonly jobs?: number;
  /** Give up on a schedule that takes so long; by default 20 s. Unit: milliseconds. */
  readonly stallMs?: number;
  /** False leaves a failure as it was found. */
  readonly explain?: boolean;
  /** How wide a diagram may be; by default 120. Unit: characters. */
  readonly width?: number;
  /** When aborted, the exploration ends with what it has. */
  readonly signal?: AbortSignal;
  /** How much of the limit is used, 0 to 1, and what is going on. */
  readonly onProgress?: (done: number, label: string) => void;
}

/** Strategies of a portfolio, the first first; with more threads they come again, with other seeds. */
const PORTFOLIO: readonly StrategyName[] = ['dpor', 'pct', 'random', 'pos', 'bounded'];
const DEFAULT_SECONDS = 10;
const DEFAULT_WIDTH = 120;
const DEFAULT_STALL_MS = 20_000;
const POLL_MS = 100;

/**
 * Runs the program under many schedules, until one fails, the limit is reached, or there are no others.
 * @throws FaultlineError if there is no such program or mutant; MachineFailure if a task is stuck
 */
export async function exploreProgram(
  program: ProgramRef,
  options: ExploreOptions = {},
): Promise<ExploreReport> {
  const startedAt = performance.now();
  const jobs = jobsOf(program, options);
  const aborter = new AbortController();
  setMaxListeners(0, aborter.signal); // one for each job
  const watch = new JobWatch(jobs, options, startedAt);
  try {
    const results = await Promise.all(
      jobs.map(async (job) => {
        const result = (await exploreWithCrew({
          program,
          engine: job.engine,
          ...(job.mutant !== null && { mutant: job.mutant }),
          explorer: { module: 'faultline:explore', entry: 'runJob', args: job },
          stallMs: options.stallMs ?? DEFAULT_STALL_MS,
          signal: aborter.signal,
        })) as JobResult;
        if (result.failure !== null || result.report.exhausted) watch.stopAll();
        return result;
      }),
    );
    return summarize(results, jobs, options, (performance.now() - startedAt) / 1000);
  } finally {
    aborter.abort(); // if one of them was lost, the others go on in vain
    watch.end();
  }
}

function jobsOf(program: ProgramRef, options: ExploreOptions): ExploreJob[] {
  const { strategy = 'portfolio', seed = 1, engine = 'virtual' } = options;
  const threads = options.jobs ?? 0;
  const count = strategy === 'portfolio' ? threads || availableParallelism() : 1;
  // real workers need the cores for themselves
  const sideBySide = engine === 'workers' ? 1 : count;
  const stop = sharedIntegers(JOB_WORDS);
  return Array.from({ length: sideBySide }, (_, index) => ({
    program,
    mutant: options.mutant ?? null,
    engine,
    strategy: strategy === 'portfolio' ? PORTFOLIO[index % PORTFOLIO.length]! : strategy,
    seed: seed + Math.floor(index / PORTFOLIO.length),
    depth: options.depth ?? 3,
    maxPreemptions: options.maxPreemptions ?? -1,
    schedules: options.schedules ?? 0,
    seconds: options.seconds ?? DEFAULT_SECONDS,
    explain: options.explain ?? true,
    width: options.width ?? DEFAULT_WIDTH,
    stop,
    progress: sharedIntegers(JOB_WORDS),
  }));
}

/** Looks at the jobs while they run. */
class JobWatch {
  readonly #jobs: readonly ExploreJob[];
  readonly #options: ExploreOptions;
  readonly #startedAt: number;
  readonly #timer: NodeJS.Timeout;
  readonly #onAbort = (): void => {
    this.stopAll();
    for (const { stop } of this.#jobs) leaveWord(stop, J_INTERRUPTED, 1);
  };

  constructor(jobs: readonly ExploreJob[], options: ExploreOptions, startedAt: number) {
    this.#jobs = jobs;
    this.#options = options;
    this.#startedAt = startedAt;
    this.#timer = setInterval(() => {
      this.#poll();
    }, POLL_MS);
    if (options.signal?.aborted === true) this.#onAbort();
    options.signal?.addEventListener('abort', this.#onAbort);
  }

  stopAll(): void {
    for (const { stop } of this.#jobs) leaveWord(stop, J_STOP, 1);
  }

  end(): void {
    clearInterval(this.#timer);
    this.#options.signal?.removeEventListener('abort', this.#onAbort);
  }

  #poll(): void {
    const { onProgress, seconds = DEFAULT_SECONDS, schedules = 0 } = this.#options;
    if (onProgress === undefined) return;
    const run = this.#jobs.reduce((sum, { progress }) => sum + glance(progress, J_SCHEDULES), 0);
    const explaining = this.#jobs.some(({ progress }) => glance(progress, J_EXPLAINING) !== 0);
    const byTime = (performance.now() - this.#startedAt) / 1000 / seconds;
    const byCount = schedules === 0 ? 0 : run / schedules / this.#jobs.length;
    const label = explaining ? 'explaining a failure' : `${run} schedules`;
    onProgress(Math.min(1, Math.max(byTime, byCount)), label);
  }
}

function summarize(
  results: readonly JobResult[],
  jobs: readonly ExploreJob[],
  options: ExploreOptions,
  seconds: number,
): ExploreReport {
  const [first] = results;
  if (first === undefined) throw new FaultlineError('FAULTLINE_BAD_OPTION', 'nothing was explored');
  const reports = results.map(({ report }) => report);
  const schedules = reports.reduce((sum, report) => sum + report.schedules, 0);
  const exploring = Math.max(...reports.map((report) => report.seconds));
  const bounds = reports.flatMap(({ preemptionBound }) => preemptionBound ?? []);
  return {
    program: first.program,
    title: first.title,
    tasks: first.tasks,
    mutant: options.mutant ?? null,
    strategy: options.strategy ?? 'portfolio',
    engine: jobs[0]!.engine,
    seed: options.seed ?? 1,
    schedules,
    seconds,
    schedulesPerSecond: exploring > 0 ? schedules / exploring : 0,
    exhausted: reports.some((report) => report.exhausted),
    preemptionBound: bounds.length === 0 ? null : Math.max(...bounds),
    strategies: reports,
    outcomes: mergeOutcomes(results.flatMap(({ outcomes }) => outcomes)),
    failures: distinct(results),
    failed: mergeFailed(results),
    interrupted: options.signal?.aborted === true,
  };
}

function mergeOutcomes(outcomes: readonly OutcomeCount[]): OutcomeCount[] {
  const merged = new Map<string, OutcomeCount>();
  for (const outcome of outcomes) {
    const before = merged.get(outcome.name)?.count ?? 0;
    merged.set(outcome.name, { ...outcome, count: before + outcome.count });
  }
  return [...merged.values()];
}

/** Each way of failing once, in the words of who has explained it. */
function mergeFailed(results: readonly JobResult[]): FailedSchedules[] {
  const merged = new Map<string, FailedSchedules>();
  const explainedFirst = [
    ...results.filter(({ failure }) => failure !== null),
    ...results.filter(({ failure }) => failure === null),
  ];
  for (const one of explainedFirst.flatMap(({ failed }) => failed)) {
    const known = merged.get(one.signature);
    merged.set(one.signature, { ...(known ?? one), count: (known?.count ?? 0) + one.count });
  }
  return [...merged.values()];
}

/** One failure for each message: threads find the same one often. */
function distinct(results: readonly JobResult[]): NonNullable<JobResult['failure']>[] {
  const seen = new Map<string, NonNullable<JobResult['failure']>>();
  for (const { failure } of results) {
    if (failure === null) continue;
    const key = `${failure.kind} ${failure.invariant ?? failure.message}`;
    const known = seen.get(key);
    if (known === undefined || failure.preemptions < known.preemptions) seen.set(key, failure);
  }
  return [...seen.values()];
}
