/**
 * Explorers for tests of the engines: they run on the worker of task 0, beside a virtual engine.
 *
 * @module
 */
import {
  C_END,
  C_HASH,
  C_STEP,
  END_DIED,
  END_DONE,
  RULE_FIRST,
  RULE_POS,
  RULE_PRIORITY,
  RULE_RANDOM,
  RULE_SLEEP_SETS,
  T_STATE,
  TASK_WORDS,
  TASKS_AT,
  TRACE_AT,
  TRACE_WORDS,
} from '../../src/explore/control.js';
import type { Engine } from '../../src/explore/engine.js';
import { Judge } from '../../src/explore/judge.js';
import { type Deviation, deviationsOf, type Plan, setPlan } from '../../src/explore/plan.js';
import type { ExploreProgram } from '../../src/explore/program.js';
import { PROGRAMS } from '../../src/explore/programs/registry.js';
import { VirtualEngine, type VirtualKernel } from '../../src/explore/virtual-engine.js';
import { memoryWords } from '../../src/memory/snapshot.js';

const VIRTUAL = new URL('../../faultline.virtual.js', import.meta.url).href;

/** What the rewritten bundle exports. */
interface VirtualBundle extends VirtualKernel {
  readonly PROGRAMS: readonly ExploreProgram[];
}

function programNamed(programs: readonly ExploreProgram[], name: string): ExploreProgram {
  return programs.find((program) => program.name === name)!;
}

/** A virtual engine for a program of the registry; only in the turnstile build. */
export async function newVirtualEngine(name: string): Promise<VirtualEngine> {
  const kernel = (await import(VIRTUAL)) as VirtualBundle;
  return new VirtualEngine(
    programNamed(PROGRAMS, name),
    programNamed(kernel.PROGRAMS, name),
    kernel,
  );
}

/** Numbers from 0 to 1 that are the same in every run. */
function randomFrom(seed: number): () => number {
  let state = seed;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) | 0;
    return (state >>> 0) / 2 ** 32;
  };
}

/** Plans of every kind, also such as end early or ask for what cannot be. */
export function planNumber(seed: number, tasks: number): Plan {
  const random = randomFrom(Math.imul(seed, 0x9e3779b1) | 1);
  const below = (end: number): number => Math.floor(random() * end);
  const deviations = (most: number): Deviation[] => {
    const steps = Array.from({ length: below(most + 1) }, () => below(60));
    return [...new Set(steps)].sort((a, b) => a - b).map((step) => ({ step, task: below(tasks) }));
  };
  const priorities = Array.from({ length: tasks }, () => below(1000) + 1);
  const stepLimit = below(10) === 0 ? 1 + below(80) : 5000;
  const common = { random: 1 + below(2 ** 31 - 2), stepLimit };
  switch (seed % 6) {
    case 0:
    case 1:
      return { ...common, rule: RULE_RANDOM };
    case 2:
      return { ...common, rule: RULE_PRIORITY, priorities, deviations: deviations(4) };
    case 3:
      return { ...common, rule: RULE_FIRST, deviations: deviations(6) };
    case 4:
      return { ...common, rule: RULE_POS, priorities };
    default:
      return {
        ...common,
        rule: RULE_SLEEP_SETS,
        deviations: deviations(2),
        sleepFrom: below(40),
        sleeping: 1 << below(tasks),
      };
  }
}

/** All there is to know of a schedule that was run. */
export interface Ran {
  readonly end: number;
  readonly hash: number;
  readonly trace: Int32Array;
  readonly states: readonly number[];
  /** What the program's checks say, or what a task died of. */
  readonly outcome: string;
}

/** Runs a plan, and restores. */
export function runPlan(engine: Engine, program: ExploreProgram, plan: Plan): Ran {
  const { control, world } = engine;
  judgeOf(engine, program); // it looks at the world before the first schedule
  setPlan(control, plan);
  engine.run();
  const end = control[C_END]!;
  const steps = control[C_STEP]!;
  const ran = {
    end,
    hash: control[C_HASH]!,
    trace: control.slice(TRACE_AT, TRACE_AT + TRACE_WORDS * steps),
    states: program.tasks.map((_, task) => control[TASKS_AT + task * TASK_WORDS + T_STATE]!),
    outcome: outcomeOf(engine, program),
  };
  engine.restore();
  if (!same(memoryWords(world.machine.cpu), world.snapshot)) throw new Error('not all is restored');
  return ran;
}

const judges = new WeakMap<Engine, Judge>();

function outcomeOf(engine: Engine, program: ExploreProgram): string {
  const end = engine.control[C_END]!;
  if (end === END_DIED) return String(engine.error);
  if (end !== END_DONE) return '';
  const { failure, outcome } = judgeOf(engine, program).judge();
  return failure?.message ?? outcome ?? 'no complaint';
}

/** Of an engine that runs this program only. */
function judgeOf(engine: Engine, program: ExploreProgram): Judge {
  const judge = judges.get(engine) ?? new Judge(engine, program, { races: false });
  judges.set(engine, judge);
  return judge;
}

function same(one: Int32Array, other: Int32Array): boolean {
  return Buffer.compare(bytesOf(one), bytesOf(other)) === 0;
}

function bytesOf(words: Int32Array): Uint8Array {
  return new Uint8Array(words.buffer, words.byteOffset, words.byteLength);
}

export interface Comparison {
  readonly differences: readonly string[];
  /** How many schedules ended in each way. */
  readonly ends: Readonly<Record<string, number>>;
  readonly outcomes: Readonly<Record<string, number>>;
}

/** Runs the same plans on both engines, and tells in what they differ. */
export async function compareEngines(
  engine: Engine,
  { name, plans }: { readonly name: string; readonly plans: number },
): Promise<Comparison> {
  const program = programNamed(PROGRAMS, name);
  const virtual = await newVirtualEngine(name);
  const differences: string[] = [];
  const ends: Record<string, number> = {};
  const outcomes: Record<string, number> = {};
  for (let seed = 1; seed <= plans; seed++) {
    const plan = planNumber(seed, program.tasks.length);
    const real = runPlan(engine, program, plan);
    const copy = runPlan(virtual, program, plan);
    ends[real.end] = (ends[real.end] ?? 0) + 1;
    outcomes[real.outcome] = (outcomes[real.outcome] ?? 0) + 1;
    if (!sameRun(real, copy)) differences.push(`${seed}: ${tellApart(real, copy)}`);
  }
  return { differences, ends, outcomes };
}

export function sameRun(one: Ran, other: Ran): boolean {
  return (
    one.end === other.end &&
    one.hash === other.hash &&
    one.outcome === other.outcome &&
    one.states.join() === other.states.join() &&
    same(one.trace, other.trace)
  );
}

function tellApart(one: Ran, other: Ran): string {
  const at = one.trace.findIndex((word, i) => word !== other.trace[i]);
  return `ends ${one.end} and ${other.end}, ${one.outcome} and ${other.outcome}, from step ${Math.floor(at / TRACE_WORDS)}`;
}

/** Runs schedules, a hundred others, and the same again; those that did not repeat. */
export async function repeatSchedules(
  engine: Engine,
  { name, plans }: { readonly name: string; readonly plans: number },
): Promise<string[]> {
  const program = programNamed(PROGRAMS, name);
  const failures: string[] = [];
  for (const one of [engine, await newVirtualEngine(name)]) {
    for (let seed = 1; seed <= plans; seed++) {
      const plan = planNumber(seed, program.tasks.length);
      const first = runPlan(one, program, plan);
      if (!sameRun(first, runPlan(one, program, plan))) failures.push(`${seed} at once`);
      for (let other = 0; other < 100; other++) {
        runPlan(one, program, planNumber(plans + 100 * seed + other, program.tasks.length));
      }
      if (!sameRun(first, runPlan(one, program, plan))) failures.push(`${seed} later`);
    }
  }
  return failures;
}

/** A schedule as it is passed on. */
export interface Found {
  readonly deviations: readonly Deviation[];
  readonly hash: number;
  readonly outcome: string;
}

/** Random schedules as deviations from the first one. */
export function findSchedules(
  engine: Engine,
  { name, plans }: { readonly name: string; readonly plans: number },
): Found[] {
  const program = programNamed(PROGRAMS, name);
  return Array.from({ length: plans }, (_, seed) => {
    const { hash, outcome, trace } = runPlan(engine, program, {
      rule: RULE_RANDOM,
      random: 1000 + seed,
    });
    engine.control.set(trace, TRACE_AT);
    return { deviations: deviationsOf(engine.control), hash, outcome };
  });
}

/** Runs schedules that were found elsewhere; what they come to here. */
export function replaySchedules(
  engine: Engine,
  { name, schedules }: { readonly name: string; readonly schedules: readonly Found[] },
): Found[] {
  const program = programNamed(PROGRAMS, name);
  return schedules.map(({ deviations }) => {
    const { hash, outcome } = runPlan(engine, program, { rule: RULE_FIRST, deviations });
    return { deviations, hash, outcome };
  });
}

/** Runs plans of a program that is not in the registry; how each ended. */
export async function runProgramAt(
  engine: Engine,
  { url, plans }: { readonly url: string; readonly plans: readonly Plan[] },
): Promise<Ran[]> {
  const { program } = (await import(url)) as { readonly program: ExploreProgram };
  return plans.map((plan) => runPlan(engine, program, plan));
}

/** Fails. */
export function failToExplore(): never {
  throw new TypeError('no idea where to begin');
}
