/**
 * The gallery: every planted mistake, shown to the checked build on real workers and to exploration.
 *
 * Protocol   First the canary. Then for each mistake
 *              checked   the target that names it (`busted`), until it reports; a mistake that no target makes runs
 *                        in its litmus test, or in the program that shows it, again and again in the checked build
 *              explore   the program that shows it
 *            Each has the same limit. A mistake is caught by who reports anything.
 *
 * @module
 */
import { exploreProgram } from '../explore/explore-program.js';
import { type Mutant, MUTANTS_TABLE } from '../explore/mutants.js';
import { programNamed } from '../explore/programs/registry.js';
import { WorkerPools } from '../host/pool.js';
import type { LitmusVariant } from '../litmus/litmus.js';
import { runOnWorkers } from '../litmus/real-workers.js';
import type { WorkersRun } from '../litmus/result.js';
import { LITMUS_TESTS } from '../litmus/tests/registry.js';
import type { Detector, TortureReport } from './result.js';
import { rolesOf, runCanary, type TortureOptions, tortureTarget } from './run.js';
import type { TortureTarget } from './target.js';
import { TORTURE_TARGETS } from './targets/registry.js';
import { detectorOfText } from './violation.js';

/** Who has caught a mistake, and after how long. */
export interface Catch {
  /** `target rwsem`, `program lt-5`. */
  readonly where: string;
  /** Null if nobody has. */
  readonly detector: string | null;
  readonly seconds: number;
  /** What was said of it, in a line. */
  readonly what: string;
}

/** One mistake, and who has caught it. */
export interface GalleryEntry {
  readonly mutant: string;
  readonly description: string;
  readonly file: string;
  readonly checked: Catch;
  readonly explore: Catch;
}

/** The whole gallery. */
export interface GalleryReport {
  readonly canary: TortureReport['canary'];
  readonly entries: readonly GalleryEntry[];
  readonly interrupted: boolean;
}

/** How the gallery is shown. */
export interface GalleryOptions extends TortureOptions {
  /** For each mistake, checked and explored. Unit: seconds. */
  readonly limitSeconds: number;
  readonly onEntry?: (entry: GalleryEntry) => void;
  /** How many of all mistakes are done, and which is looked at. */
  readonly onGallery?: (done: number, all: number, mutant: string) => void;
}

/** An iteration of a program that takes so long is stuck. Unit: milliseconds. */
const ITERATION_MS = 3000;

/** The target that plants the mistake. */
function targetOf(mutant: string): TortureTarget | undefined {
  return TORTURE_TARGETS.find(({ busted }) => busted?.includes(mutant) === true);
}

/** Ways to run it on real workers: its litmus tests, or the programs that show it. */
function variantsOf({ name, shownBy }: Mutant): readonly LitmusVariant[] {
  const variants = LITMUS_TESTS.flatMap((test) => test.variants);
  const own = variants.filter(({ mutant, onlyExplored }) => mutant === name && !onlyExplored);
  const programs = shownBy.flatMap((program) => programNamed(program) ?? []);
  const plain = programs.map((program): LitmusVariant => ({
    name: program.name,
    title: program.title,
    expected: 'unsafe',
    program,
    mutant: name,
  }));
  return [...own, ...plain];
}

/** Shows the mistakes of those names, or all. @throws FaultlineError if one cannot be run */
export async function showGallery(
  options: GalleryOptions,
  mutants: readonly Mutant[] = MUTANTS_TABLE,
): Promise<GalleryReport> {
  const pools = new WorkerPools(sizeFor(options, mutants));
  const entries: GalleryEntry[] = [];
  const isOver = (): boolean => options.signal?.aborted === true;
  try {
    const canary = await runCanary(options, pools);
    for (const [index, mutant] of mutants.entries()) {
      if (isOver()) break;
      options.onGallery?.(index, mutants.length, mutant.name);
      const checked = await catchChecked(mutant, options, pools);
      const explore = isOver() ? undefined : await catchExploring(mutant, options);
      if (explore === undefined) break;
      const { name, description, file } = mutant;
      const entry = { mutant: name, description, file, checked, explore };
      entries.push(entry);
      options.onEntry?.(entry);
    }
    return { canary, entries, interrupted: isOver() };
  } finally {
    await pools.end();
  }
}

function sizeFor(options: TortureOptions, mutants: readonly Mutant[]): number {
  const roles = TORTURE_TARGETS.map((target) => rolesOf(target, options).length);
  const tasks = mutants.flatMap((mutant) =>
    variantsOf(mutant).map(({ program }) => program.tasks.length),
  );
  return Math.max(2, ...roles, ...tasks);
}

async function catchChecked(
  mutant: Mutant,
  options: GalleryOptions,
  pools: WorkerPools,
): Promise<Catch> {
  const target = targetOf(mutant.name);
  if (target !== undefined) return catchInTarget(target, mutant.name, options, pools);
  const variants = variantsOf(mutant);
  let last: Catch = { where: 'nowhere', detector: null, seconds: 0, what: '' };
  for (const variant of variants) {
    last = await catchOnWorkers(variant, options, pools, options.limitSeconds / variants.length);
    if (last.detector !== null || options.signal?.aborted === true) break;
  }
  return last;
}

async function catchInTarget(
  target: TortureTarget,
  mutant: string,
  options: GalleryOptions,
  pools: WorkerPools,
): Promise<Catch> {
  const { timing, limitSeconds } = options;
  const run = { ...options, mutant, timing: { ...timing, durationMs: limitSeconds * 1000 } };
  const { violation, safetySeconds } = await tortureTarget(target, run, pools);
  return {
    where: `target ${target.name}`,
    detector: violation?.detector ?? null,
    seconds: violation?.atSeconds ?? safetySeconds,
    what: violation?.what ?? '',
  };
}

async function catchOnWorkers(
  variant: LitmusVariant,
  options: GalleryOptions,
  pools: WorkerPools,
  seconds: number,
): Promise<Catch> {
  const run = await runOnWorkers({ ...variant, build: 'checked' }, pools, {
    iterations: Number.MAX_SAFE_INTEGER,
    seconds,
    seed: options.config.seed,
    stallMs: ITERATION_MS,
    watchesMemory: true,
    ...(options.signal && { signal: options.signal }),
  });
  const seen = seenIn(run, variant);
  return {
    where: `program ${variant.program.name}`,
    detector: seen?.detector ?? null,
    seconds: run.seconds,
    what: seen?.what ?? '',
  };
}

/** What a run of a program has seen of the mistake. */
function seenIn(
  run: WorkersRun,
  { program }: LitmusVariant,
): { readonly detector: Detector; readonly what: string } | undefined {
  if (run.deadlock !== null) return { detector: 'wait-for graph', what: run.deadlock.summary };
  const [violation] = run.violations;
  if (violation !== undefined) {
    const detector = violation.once ? detectorOfText(violation.message) : ruleOf(violation.message);
    return { detector, what: violation.message };
  }
  const forbidden = program.outcomes?.find(
    ({ name, grade }) =>
      grade === 'FORBIDDEN' && run.outcomes.some((one) => one.name === name && one.count > 0),
  );
  if (forbidden !== undefined) return { detector: 'content', what: `outcome '${forbidden.name}'` };
  if (run.stopped === null) return undefined;
  const [what = ''] = run.stopped.split('\n');
  return { detector: what.includes('died') ? 'invariant' : 'watchdog', what };
}

function ruleOf(message: string): Detector {
  if (message.startsWith('not given back')) return 'leak';
  return message.startsWith('outcome ') ? 'content' : 'invariant';
}

async function catchExploring(
  { name, shownBy }: Mutant,
  { limitSeconds, config, signal }: GalleryOptions,
): Promise<Catch> {
  const program = shownBy[0] ?? '';
  const { failures, seconds } = await exploreProgram(
    { name: program },
    {
      mutant: name,
      seconds: limitSeconds,
      seed: config.seed,
      explain: false,
      ...(signal && { signal }),
    },
  );
  const [failure] = failures;
  return {
    where: `program ${program}`,
    detector: failure?.kind ?? null,
    seconds: failure?.foundAfterSeconds ?? seconds,
    what: failure?.message.split('\n')[0] ?? '',
  };
}
