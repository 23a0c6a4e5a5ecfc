/**
 * Runs litmus tests: each variant on real workers, and explored; what both have seen is the verdict.
 *
 * @module
 */
import { EXIT_INTERNAL, FaultlineError } from '../base/bug.js';
import { type ExploreOptions, exploreProgram } from '../explore/explore-program.js';
import type { ExploreReport, FailureReport } from '../explore/report.js';
import { MachineFailure } from '../host/failure.js';
import { WorkerPools } from '../host/pool.js';
import type { LitmusTest, LitmusVariant } from './litmus.js';
import { runOnWorkers } from './real-workers.js';
import type {
  LitmusDeadlock,
  LitmusExploration,
  LitmusReport,
  LitmusResult,
  LitmusVerdict,
  WorkersRun,
} from './result.js';
import { outcomeRows } from './rows.js';
import { DEADLOCK, isDeadlock } from './rule.js';

/** How litmus tests are run. */
export interface LitmusOptions {
  /** Iterations of each variant on real workers, at most; by default 10 000. */
  readonly iterations?: number;
  /** How many of them are to pass through the window; by default a tenth. The result says if fewer did. */
  readonly reached?: number;
  /** A variant's iterations end after so long; by default 10. Unit: seconds. */
  readonly seconds?: number;
  /** How long each variant is explored; 0: not at all. By default 1. Unit: seconds. */
  readonly exploreSeconds?: number;
  /** Of all random choices; by default 1. */
  readonly seed?: number;
  /** An iteration, or a schedule, that takes so long is stuck; by default 5 s. Unit: milliseconds. */
  readonly stallMs?: number;
  /** How wide a diagram may be. Unit: characters. */
  readonly width?: number;
  /** When aborted, the run ends with what it has. */
  readonly signal?: AbortSignal;
  /** How much is done, 0 to 1, and what is going on. */
  readonly onProgress?: (done: number, label: string) => void;
  /** Called with each result as it comes. */
  readonly onResult?: (result: LitmusResult) => void;
}

const DEFAULT_ITERATIONS = 10_000;
const REACHED_SHARE = 0.1;
const DEFAULT_SECONDS = 10;
const DEFAULT_EXPLORE_SECONDS = 1;
const DEFAULT_STALL_MS = 5000;
/** What real workers have shown is explored so much longer. */
const SEARCH_FACTOR = 5;

/** A variant of a test. */
export interface LitmusChoice {
  readonly test: LitmusTest;
  readonly variant: LitmusVariant;
}

/** Runs the variants, one after the other. @throws FaultlineError, if a worker was lost with EXIT_INTERNAL */
export async function runLitmus(
  choices: readonly LitmusChoice[],
  options: LitmusOptions = {},
): Promise<LitmusReport> {
  const startedAt = performance.now();
  const tasks = choices.map(({ variant }) => variant.program.tasks.length);
  const workers = new WorkerPools(Math.max(1, ...tasks));
  const results: LitmusResult[] = [];
  const isAborted = (): boolean => options.signal?.aborted === true;
  try {
    for (const [index, choice] of choices.entries()) {
      if (isAborted()) break;
      const run = new VariantRun(choice, workers, options, (done, label) => {
        options.onProgress?.((index + done) / choices.length, label);
      });
      const result = await run.run();
      if (result === undefined) break;
      results.push(result);
      options.onResult?.(result);
    }
  } finally {
    await workers.end();
  }
  return {
    planned: choices.length,
    results,
    seconds: (performance.now() - startedAt) / 1000,
    interrupted: isAborted(),
  };
}

/** One variant. */
class VariantRun {
  readonly #choice: LitmusChoice;
  readonly #workers: WorkerPools;
  readonly #options: LitmusOptions;
  readonly #onProgress: (done: number, label: string) => void;

  constructor(
    choice: LitmusChoice,
    workers: WorkerPools,
    options: LitmusOptions,
    onProgress: (done: number, label: string) => void,
  ) {
    this.#choice = choice;
    this.#workers = workers;
    this.#options = options;
    this.#onProgress = onProgress;
  }

  /** Undefined if it was interrupted before anything was seen. @throws FaultlineError if it has no verdict */
  async run(): Promise<LitmusResult | undefined> {
    try {
      return await this.#run();
    } catch (error) {
      if (error instanceof MachineFailure) throw noVerdict(this.#label, error);
      throw error;
    }
  }

  async #run(): Promise<LitmusResult | undefined> {
    const run = await this.#onWorkers();
    const explored = this.#isAborted ? undefined : await this.#exploreFor(run);
    if (this.#isAborted && run.iterations === 0) return undefined;
    return resultOf(this.#choice, run, {
      explored: explored?.schedules === 0 ? undefined : explored,
      reachedWanted: this.#reachedWanted,
      interrupted: this.#isAborted,
    });
  }

  get #isAborted(): boolean {
    return this.#options.signal?.aborted === true;
  }

  get #label(): string {
    return `${this.#choice.test.id} ${this.#choice.variant.name}`;
  }

  get #reachedWanted(): number {
    const { iterations = DEFAULT_ITERATIONS, reached } = this.#options;
    return reached ?? Math.ceil(iterations * REACHED_SHARE);
  }

  #onWorkers(): Promise<WorkersRun> {
    const { iterations = DEFAULT_ITERATIONS, signal } = this.#options;
    return runOnWorkers(this.#choice.variant, this.#workers, {
      iterations,
      seconds: this.#options.seconds ?? DEFAULT_SECONDS,
      seed: this.#options.seed ?? 1,
      stallMs: this.#options.stallMs ?? DEFAULT_STALL_MS,
      ...(signal !== undefined && { signal }),
      onProgress: (ended) => {
        const done = Math.min(1, ended / iterations) / 2;
        this.#onProgress(done, `${this.#label}: ${ended} iterations`);
      },
    });
  }

  /** What real workers have shown is looked for longer, so that there is a diagram of it. */
  async #exploreFor(run: WorkersRun): Promise<ExploreReport | undefined> {
    const { exploreSeconds: seconds = DEFAULT_EXPLORE_SECONDS } = this.#options;
    if (seconds === 0) return undefined;
    const report = await this.#explore({ seconds });
    const isWanted = isUnsafe(this.#choice.variant, run) && report.failures.length === 0;
    if (!isWanted || report.exhausted || this.#isAborted) return report;
    const longer = await this.#explore({ seconds: SEARCH_FACTOR * seconds, strategy: 'bounded' });
    return longer.failures.length > 0 ? longer : report;
  }

  #explore(how: Pick<ExploreOptions, 'seconds' | 'strategy'>): Promise<ExploreReport> {
    const { seed, width, signal } = this.#options;
    const { program, mutant } = this.#choice.variant;
    const options: ExploreOptions = {
      ...how,
      stallMs: this.#options.stallMs ?? DEFAULT_STALL_MS,
      onProgress: (done, label) => {
        this.#onProgress((1 + done) / 2, `${this.#label}: ${label}`);
      },
      ...(seed !== undefined && { seed }),
      ...(width !== undefined && { width }),
      ...(mutant !== undefined && { mutant }),
      ...(signal !== undefined && { signal }),
    };
    return exploreProgram({ name: program.name }, options);
  }
}

/** A thread that was lost says nothing of the protocol: the run has failed, and nothing was found. */
function noVerdict(label: string, { code, message }: MachineFailure): FaultlineError {
  return new FaultlineError(code, `${label}: no verdict: ${message}`, EXIT_INTERNAL);
}

function resultOf(
  { test, variant }: LitmusChoice,
  run: WorkersRun,
  {
    explored,
    reachedWanted,
    interrupted,
  }: {
    readonly explored: ExploreReport | undefined;
    readonly reachedWanted: number;
    readonly interrupted: boolean;
  },
): LitmusResult {
  const { iterations, reached, build, seconds, ended, broken, halted, violations, stopped } = run;
  const failure = explored?.failures[0] ?? null;
  const shownBy = [
    ...(isUnsafe(variant, run) ? (['workers'] as const) : []),
    ...(failure !== null ? (['exploration'] as const) : []),
  ];
  const isOpen = interrupted || (variant.expected === 'unsafe' && explored === undefined);
  const unshown: LitmusVerdict = isOpen ? 'undecided' : 'safe';
  return {
    id: test.id,
    title: test.title,
    source: test.source,
    variant: variant.name,
    variantTitle: variant.title,
    program: variant.program.name,
    mutant: variant.mutant ?? null,
    expected: variant.expected,
    onlyExplored: variant.onlyExplored === true,
    verdict: shownBy.length > 0 ? 'unsafe' : unshown,
    shownBy,
    iterations,
    reached,
    reachedWanted,
    outcomes: outcomeRows(variant, run, explored),
    deadlock: run.deadlock ?? deadlockOf(failure),
    workers: { build, seconds, ended, broken, halted, violations, deadlock: run.deadlock, stopped },
    explored: explored === undefined ? null : explorationOf(explored),
    failure,
    interrupted,
  };
}

/** True if real workers have shown what should not be. */
function isUnsafe({ program }: LitmusVariant, run: WorkersRun): boolean {
  if (run.violations.length > 0 || run.deadlock !== null || run.stopped !== null) return true;
  const forbidden = new Set(
    (program.outcomes ?? []).filter(({ grade }) => grade === 'FORBIDDEN').map(({ name }) => name),
  );
  return run.outcomes.some(({ name, count }) => count > 0 && forbidden.has(name));
}

function explorationOf(report: ExploreReport): LitmusExploration {
  const covering = report.strategies.find(({ exhausted }) => exhausted);
  return {
    strategy: covering?.strategy ?? report.strategy,
    schedules: report.schedules,
    seconds: report.seconds,
    exhausted: report.exhausted,
  };
}

function deadlockOf(failure: FailureReport | null): LitmusDeadlock | null {
  if (failure === null) return null;
  if (isDeadlock(failure.message)) return { summary: DEADLOCK, waits: [failure.message] };
  if (failure.kind !== DEADLOCK) return null;
  const [head = '', rest = ''] = failure.message.startsWith('partial deadlock: ')
    ? failure.message.split(/(?<=^partial deadlock): /)
    : [DEADLOCK, failure.message];
  return { summary: head, waits: rest.split('; ').filter((line) => line !== '') };
}
