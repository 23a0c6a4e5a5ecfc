/**
 * Explorers for tests of the strategies and the verdicts; they make virtual engines of their own.
 *
 * @module
 */
import { NO_MUTANT } from '../../src/base/mutant-numbers.js';
import { C_END, END_DIED, END_SEEN } from '../../src/explore/control.js';
import type { Engine } from '../../src/explore/engine.js';
import { explore, type ExploreResult, type ExplorerOptions } from '../../src/explore/explorer.js';
import { Judge } from '../../src/explore/judge.js';
import { type Deviation, setPlan } from '../../src/explore/plan.js';
import type { StrategyName } from '../../src/explore/report.js';
import { makeStrategy } from '../../src/explore/strategies/strategies.js';
import type { Strategy, StrategyOptions } from '../../src/explore/strategies/strategy.js';
import type { VirtualEngine } from '../../src/explore/virtual-engine.js';
import { VirtualPrograms } from '../../src/explore/virtual-program.js';

/** A run that takes longer is cut off. */
const STEP_LIMIT = 500;

function strategyFor(
  engine: VirtualEngine,
  tasks: number,
  name: StrategyName,
  options: Partial<StrategyOptions> = {},
): Strategy {
  const memoryWords = engine.controller.memory.length;
  return makeStrategy(name, { tasks, memoryWords, stepLimit: STEP_LIMIT, ...options });
}

/** What a complete search of a program has seen. */
interface Search {
  readonly outcomes: ReadonlySet<string>;
  readonly schedules: number;
  readonly exhausted: boolean;
}

/** How it ended: a death by its message, anything else by the state that is left. */
function search(
  engine: VirtualEngine,
  programs: VirtualPrograms,
  name: StrategyName,
  schedulesMax: number,
): Search {
  const { control, world } = engine;
  const { program } = programs;
  const strategy = strategyFor(engine, program.tasks.length, name);
  const outcomes = new Set<string>();
  let schedules = 0;
  for (; schedules < schedulesMax; schedules++) {
    const plan = strategy.next();
    if (plan === undefined) break;
    setPlan(control, plan);
    engine.run();
    const end = control[C_END]!;
    if (end === END_DIED) outcomes.add(`died: ${(engine.error as Error).message}`);
    else if (end !== END_SEEN)
      outcomes.add(`${end}: ${program.observe!(world.machine.cpu, world.pointer)}`);
    strategy.observe(control, false);
    engine.restore();
  }
  return { outcomes, schedules, exhausted: strategy.facts().exhausted };
}

export interface ToyComparison {
  readonly compared: number;
  readonly outcomes: number;
  readonly schedules: Readonly<Record<'dfs' | 'bounded' | 'dpor', number>>;
  /** What one found and the other did not. */
  readonly differences: readonly string[];
}

/** Toys whose full search ends in time, by the three complete strategies. */
export async function compareOnToys(
  _engine: Engine,
  { first, last, schedules }: { first: number; last: number; schedules: number },
): Promise<ToyComparison> {
  const total = { dfs: 0, bounded: 0, dpor: 0 };
  const differences: string[] = [];
  let compared = 0;
  let outcomes = 0;
  for (let seed = first; seed <= last; seed++) {
    const name = `toy-${seed}`;
    const programs = await VirtualPrograms.load({ name });
    const engine = programs.part(null, NO_MUTANT).engine;
    const full = search(engine, programs, 'dfs', schedules);
    if (!full.exhausted) continue;
    compared++;
    total.dfs += full.schedules;
    outcomes += full.outcomes.size;
    for (const strategy of ['bounded', 'dpor'] as const) {
      const other = search(engine, programs, strategy, schedules);
      total[strategy] += other.schedules;
      if (!other.exhausted) differences.push(`${name}: ${strategy} does not end`);
      for (const outcome of full.outcomes) {
        if (!other.outcomes.has(outcome))
          differences.push(`${name}: ${strategy} misses ${outcome}`);
      }
      for (const outcome of other.outcomes) {
        if (!full.outcomes.has(outcome)) differences.push(`${name}: ${strategy} has ${outcome}`);
      }
    }
  }
  return { compared, outcomes, schedules: total, differences };
}

export interface ExploreArgs {
  readonly name: string;
  readonly strategy: StrategyName;
  readonly with?: Partial<StrategyOptions>;
  readonly until?: Pick<ExplorerOptions, 'schedules' | 'seconds' | 'stopAtFirst'>;
}

/** Explores one program after the other. */
export async function exploreAll(
  _engine: Engine,
  { explorations }: { explorations: readonly ExploreArgs[] },
): Promise<readonly ExploreResult[]> {
  const results: ExploreResult[] = [];
  for (const { name, strategy, with: options, until } of explorations) {
    const programs = await VirtualPrograms.load({ name });
    const engine = programs.part(null, NO_MUTANT).engine;
    const { program } = programs;
    const chosen = strategyFor(engine, program.tasks.length, strategy, options);
    results.push(explore(engine, program, chosen, until));
  }
  return results;
}

/** The signatures of a failing schedule's repetitions. */
export async function replay(
  _engine: Engine,
  { name, deviations, times }: { name: string; deviations: readonly Deviation[]; times: number },
): Promise<readonly (string | undefined)[]> {
  const programs = await VirtualPrograms.load({ name });
  const engine = programs.part(null, NO_MUTANT).engine;
  const judge = new Judge(engine, programs.program);
  const signatures: (string | undefined)[] = [];
  for (let i = 0; i < times; i++) {
    setPlan(engine.control, { deviations, stepLimit: STEP_LIMIT });
    engine.run();
    signatures.push(judge.judge().failure?.signature);
    engine.restore();
  }
  return signatures;
}
