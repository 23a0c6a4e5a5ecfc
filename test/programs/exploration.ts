/**
 * Explores one program after the other, and says what it saw: a process of its own, because exploration needs
 * the turnstile build (`--conditions=faultline-turnstile`).
 *
 *   node --conditions=faultline-turnstile dist/test/programs/exploration.js REQUEST…
 *
 * A request is JSON (Request, or Search); the answer to each is a line of JSON (Answer). The driver is the smallest that
 * will do: random walks, and PCT with up to four change points, from fixed seeds.
 *
 * @module
 */
import * as control from '../../src/explore/control.js';
import { explore } from '../../src/explore/explorer.js';
import { Judge } from '../../src/explore/judge.js';
import { findMutant } from '../../src/explore/mutants.js';
import { setPlan } from '../../src/explore/plan.js';
import type { ExploreProgram } from '../../src/explore/program.js';
import { makeStrategy } from '../../src/explore/strategies/strategies.js';
import type { VirtualEngine } from '../../src/explore/virtual-engine.js';
import { VirtualPrograms } from '../../src/explore/virtual-program.js';

/** What to explore. */
export interface Request {
  readonly program: string;
  readonly mutant?: string;
  /** Schedules of a random walk, and of PCT. */
  readonly random: number;
  readonly pct: number;
  /** About as many steps are taken at most, over fewer schedules of both kinds; but over so many at least. */
  readonly budget?: { readonly steps: number; readonly schedules: number };
  /** Run every so many-th schedule twice, and compare. */
  readonly repeatEvery?: number;
  /** A schedule of more steps does not end, as is said of it; 10,000 by default. */
  readonly stepLimit?: number;
}

/** What to look for a failure in: as many schedules of the explorer's own PCT, up to the first that fails. */
export interface Search {
  readonly program: string;
  readonly mutant?: string;
  readonly search: number;
}

/** What was seen. */
export interface Answer {
  readonly schedules: number;
  readonly steps: number;
  /** How often each outcome was observed. */
  readonly outcomes: Readonly<Record<string, number>>;
  /** What failed first, and in which schedule. */
  readonly failure?: string;
  readonly failedAt?: number;
  /** Schedules that were run again, and of these those that were not the same. */
  readonly repeated: number;
  readonly different: number;
}

const STEP_LIMIT = 10_000;
const CHANGE_POINTS_MAX = 4;
/** After so many it is known how long a schedule is. */
const SAMPLE = 50;

/** Numbers that look random, always the same ones for a seed. */
function numbersFrom(seed: number): (limit: number) => number {
  let state = Math.imul(seed, 0x2545f491) | 0;
  return (limit) => {
    state = (state + 0x9e3779b9) | 0;
    let x = Math.imul(state ^ (state >>> 16), 0x21f0aaad);
    x = Math.imul(x ^ (x >>> 15), 0x735a2d97);
    return ((x ^ (x >>> 15)) >>> 0) % limit;
  };
}

function planRandom(engine: VirtualEngine, seed: number, stepLimit: number): void {
  const random = 1 + numbersFrom(seed)(0x7ffffffe);
  setPlan(engine.control, { rule: control.RULE_RANDOM, random, stepLimit });
}

/** Priorities in any order, and a few steps at which whoever goes is set back behind all others. */
function planPct(
  engine: VirtualEngine,
  seed: number,
  tasks: number,
  longest: number,
  stepLimit: number,
): void {
  const next = numbersFrom(seed);
  const priorities = Array.from({ length: tasks }, (_, i) => i + 1);
  for (let i = tasks - 1; i > 0; i--) {
    const j = next(i + 1);
    [priorities[i], priorities[j]] = [priorities[j]!, priorities[i]!];
  }
  const points = Array.from({ length: next(CHANGE_POINTS_MAX + 1) }, () => next(longest));
  const deviations = [...new Set(points)].sort((a, b) => a - b).map((step) => ({ step, task: 0 }));
  const rule = control.RULE_PRIORITY;
  setPlan(engine.control, { rule, priorities, deviations, stepLimit });
}

async function load({ program: name, mutant }: Request | Search): Promise<{
  readonly engine: VirtualEngine;
  readonly program: ExploreProgram;
}> {
  const programs = await VirtualPrograms.load({ name });
  return programs.part(null, mutant === undefined ? 0 : findMutant(mutant).number);
}

async function searchFailure(request: Search): Promise<Answer> {
  const { engine, program } = await load(request);
  const memoryWords = engine.controller.memory.length;
  const strategy = makeStrategy('pct', {
    tasks: program.tasks.length,
    memoryWords,
    stepLimit: STEP_LIMIT,
  });
  const until = { schedules: request.search, stopAtFirst: true };
  const { schedules, steps, failures } = explore(engine, program, strategy, until);
  const [found] = failures;
  const failure = found && { failure: found.message, failedAt: found.schedule };
  return { schedules, steps, outcomes: {}, repeated: 0, different: 0, ...failure };
}

async function sample(request: Request): Promise<Answer> {
  const { engine, program } = await load(request);
  const judge = new Judge(engine, program);
  const outcomes: Record<string, number> = {};
  const { stepLimit = STEP_LIMIT } = request;
  let { random, pct } = request;
  let steps = 0;
  let longest = 1;
  let repeated = 0;
  let different = 0;
  let failure: { failure: string; failedAt: number } | undefined;
  let schedules = 0;
  while (schedules < random + pct) {
    const isRandom = schedules < random;
    schedules++;
    const plan = (): void => {
      if (isRandom) planRandom(engine, schedules, stepLimit);
      else planPct(engine, schedules, program.tasks.length, longest, stepLimit);
    };
    plan();
    engine.run();
    const taken = engine.control[control.C_STEP]!;
    const hash = engine.control[control.C_HASH];
    const verdict = judge.judge();
    const bad = verdict.failure !== undefined;
    const outcome = verdict.failure?.message ?? verdict.outcome ?? 'done';
    engine.restore();
    outcomes[outcome] = (outcomes[outcome] ?? 0) + 1;
    steps += taken;
    if (bad) failure ??= { failure: outcome, failedAt: schedules };
    if (request.repeatEvery !== undefined && schedules % request.repeatEvery === 0) {
      repeated++;
      plan();
      engine.run();
      if (engine.control[control.C_HASH] !== hash) different++;
      engine.restore();
    }
    longest = Math.max(longest, taken);
    if (schedules === SAMPLE && request.budget !== undefined) {
      const { budget } = request;
      const affordable = Math.max(budget.schedules, (budget.steps * SAMPLE) / steps);
      const part = Math.min(1, affordable / (random + pct));
      random = Math.ceil(random * part);
      pct = Math.ceil(pct * part);
    }
  }
  return { schedules, steps, outcomes, ...failure, repeated, different };
}

for (const request of process.argv.slice(2)) {
  const asked = JSON.parse(request) as Request | Search;
  console.log(JSON.stringify(await ('search' in asked ? searchFailure(asked) : sample(asked))));
}
