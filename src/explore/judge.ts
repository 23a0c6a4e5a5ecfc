/**
 * The verdict on a schedule: what went wrong, if anything.
 *
 * Protocol   After a run and before the world is restored. The first of these that applies:
 *
 *              use-after-free   memory was touched after it had been given back; the rest may follow from it
 *              died             a task broke a rule of the kernel, or threw
 *              deadlock         nobody can go on: in part, if some tasks have finished
 *              livelock         whoever could go on spins, and nothing it looks at will change
 *              starvation       the schedule took too many steps
 *              invariant        the program's check found a rule violated
 *              leak             structs are allocated that were not at the start
 *              forbidden        the program ended in an outcome that it declares FORBIDDEN, or not at all
 *              lockdep          locks were taken in orders, or places, that can deadlock: debug/lockdep
 *              race             two accesses with nothing to order them
 *
 *            What checks store is noted and restored with the rest.
 *
 * @module
 */
import { readOwn } from '#memory';

import { FaultlineError } from '../base/bug.js';
import { textOf } from '../base/reason.js';
import { lockName } from '../debug/wait-graph.js';
import { countAllocations, describeLeak } from '../machine/allocations.js';
import { cpuArea } from '../machine/cpu.js';
import { hasLockReports, lockReportTexts } from '../machine/lock-report.js';
import { CpuArea } from '../machine/types.js';
import { element } from '../memory/layout.js';
import type { MemoryPort } from '../memory/port.js';
import { memoryWords } from '../memory/snapshot.js';
import type { Turnstile } from '../memory/turnstile.js';
import {
  C_END,
  C_JUDGED,
  C_STEP,
  END_DEADLOCK,
  END_DIED,
  END_DIVERGED,
  END_DONE,
  END_LIVELOCK,
  END_STEPS,
} from './control.js';
import { Controller } from './controller.js';
import type { Engine } from './engine.js';
import type { ExploreProgram } from './program.js';
import { type Race, RaceDetector } from './races.js';
import { checkPointer } from './turnstile.js';
import { describeWaits } from './waits.js';

export type FailureKind =
  | 'invariant'
  | 'forbidden'
  | 'lockdep'
  | 'race'
  | 'use-after-free'
  | 'died'
  | 'deadlock'
  | 'livelock'
  | 'starvation'
  | 'leak';

/** What went wrong in a schedule. */
export interface Failure {
  readonly kind: FailureKind;
  /** In a line, for people. */
  readonly message: string;
  /** Two schedules that fail in the same way have the same. */
  readonly signature: string;
  /** `INV-20`, if a rule of that name was broken. */
  readonly invariant?: string;
  /** What each task does: who waits for whom. */
  readonly waits?: readonly string[];
  /** Two accesses that should not have been. */
  readonly race?: Race;
  /** What lockdep reported, whatever the failure is. */
  readonly lockReports?: readonly string[];
}

/** What became of a schedule. */
export interface Verdict {
  readonly failure?: Failure;
  /** The name of its outcome, if it came to an end and the program observes any. */
  readonly outcome?: string;
}

const FINE: Verdict = {};

/** Lets checks of the boot CPU go on, and notes what they store. */
class CheckTurnstile implements Turnstile {
  readonly #controller: Controller;
  readonly modelsLocks = false;

  constructor(controller: Controller) {
    this.#controller = controller;
  }

  pass(port: MemoryPort, kind: number, at: number, count: number): void {
    checkPointer(this.#controller.memory, port, kind, at, count); // nobody else is running
  }

  mustYield(): boolean {
    return false;
  }

  log(at: number, count: number): void {
    this.#controller.log(at, count);
  }

  sleepFor(): void {
    throw new FaultlineError('FAULTLINE_BAD_PROGRAM', 'a check sleeps, and nobody can wake it');
  }

  wasWoken(): boolean {
    return false;
  }

  wake(): number {
    return 0;
  }

  clockMs(): number {
    return 0;
  }
}

/** Judges the schedules of one program on one engine. */
export class Judge {
  readonly #engine: Engine;
  readonly #program: ExploreProgram;
  readonly #races: RaceDetector | undefined;
  readonly #turnstile: CheckTurnstile;
  readonly #allocations: Int32Array | undefined;
  readonly #forbidden: ReadonlySet<string>;
  readonly #declared: ReadonlySet<string> | undefined;

  /** The world must be as setup left it. */
  constructor(engine: Engine, program: ExploreProgram, { races = true } = {}) {
    this.#engine = engine;
    this.#program = program;
    const { cpu } = engine.world.machine;
    const memory = memoryWords(cpu);
    this.#races = races ? new RaceDetector(program.tasks.length, memory.length) : undefined;
    this.#turnstile = new CheckTurnstile(new Controller(engine.control, memory));
    if (program.leakFree === true) this.#allocations = countAllocations(cpu);
    const { outcomes } = program;
    this.#declared = outcomes && new Set(outcomes.map(({ name }) => name));
    this.#forbidden = new Set(
      (outcomes ?? []).filter(({ grade }) => grade === 'FORBIDDEN').map(({ name }) => name),
    );
  }

  /** The verdict on the schedule that was just run. @throws FaultlineError if the program is not what it was */
  judge(): Verdict {
    const { control } = this.#engine;
    const end = control[C_END]!;
    if (end === END_DIVERGED) {
      throw new FaultlineError(
        'FAULTLINE_DIVERGED',
        `${this.#program.name}: the schedule does not fit the program (or the program is not deterministic)`,
      );
    }
    const race = this.#races?.find(control);
    if (race?.kind === 'use-after-free') return { failure: failureOfRace(this.#program, race) };
    if (end === END_DONE) {
      const verdict = this.#judgeEnd();
      const failure = verdict.failure ?? this.#judgeOrders() ?? this.#judgeRace(race);
      return failure === undefined ? verdict : { ...verdict, failure: this.#withReports(failure) };
    }
    const failure = this.#judgeStop(end) ?? this.#judgeRace(race);
    return failure === undefined ? FINE : { failure: this.#withReports(failure) };
  }

  #judgeRace(race: Race | undefined): Failure | undefined {
    return race === undefined ? undefined : failureOfRace(this.#program, race);
  }

  // --- locks ---

  #judgeOrders(): Failure | undefined {
    if (this.#program.validatesLocks === false) return undefined;
    const { cpu } = this.#engine.world.machine;
    const { tasks } = this.#program;
    for (let task = 0; task < tasks.length; task++) {
      const held = readOwn(cpu, cpuArea(task), element(CpuArea.held, 0));
      if (held === 0) continue;
      const message = `${tasks[task]!.name} has ended, and still holds ${lockName(cpu, held)}`;
      return { kind: 'lockdep', message, signature: `lockdep: ${message}` };
    }
    if (!hasLockReports(cpu)) return undefined;
    const [message = ''] = lockReportTexts(cpu)[0]!.split('\n');
    return { kind: 'lockdep', message, signature: `lockdep: ${message}` };
  }

  #withReports(failure: Failure): Failure {
    const lockReports = lockReportTexts(this.#engine.world.machine.cpu);
    return lockReports.length === 0 ? failure : { ...failure, lockReports };
  }

  // --- it did not end ---

  #judgeStop(end: number): Failure | undefined {
    switch (end) {
      case END_DIED:
        return failureOfError('died', this.#engine.error);
      case END_DEADLOCK:
        return this.#stuck('deadlock');
      case END_LIVELOCK:
        return this.#stuck('livelock');
      case END_STEPS:
        return {
          kind: 'starvation',
          message: `no end after ${this.#engine.control[C_STEP]!} steps`,
          signature: 'starvation',
        };
      default:
        return undefined; // what follows has been seen
    }
  }

  #stuck(kind: 'deadlock' | 'livelock'): Failure {
    const { control, world } = this.#engine;
    const waits = describeWaits(world.machine.cpu, control, this.#program);
    const waiting = waits.filter(({ finished }) => !finished);
    const extent = kind === 'deadlock' && waiting.length < waits.length ? 'partial deadlock' : kind;
    const stuck = waiting.some(({ isIdle }) => !isIdle)
      ? waiting.filter(({ isIdle }) => !isIdle)
      : waiting;
    const text = stuck.map(({ task, doing }) => `${task} ${doing}`).join('; ');
    return {
      kind,
      message: extent === kind ? text : `${extent}: ${text}`,
      signature: `${extent}: ${withoutNumbers(text)}`,
      waits: waits.map(({ task, doing }) => `${task} ${doing}`),
    };
  }

  // --- it ended ---

  #judgeEnd(): Verdict {
    const { control, world } = this.#engine;
    const { cpu } = world.machine;
    const before = cpu.turnstile;
    cpu.turnstile = this.#turnstile;
    control[C_JUDGED]!++; // by which a watcher knows a check that does not return
    try {
      return this.#check();
    } catch (error) {
      if (error instanceof FaultlineError) throw error;
      return { failure: failureOfError('invariant', error) };
    } finally {
      control[C_JUDGED]!++;
      cpu.turnstile = before;
    }
  }

  #check(): Verdict {
    const { machine, pointer } = this.#engine.world;
    const { check, observe } = this.#program;
    const violated = textFrom('check', check?.(machine.cpu, pointer));
    if (violated !== undefined) return { failure: failureOfInvariant(violated) };
    const leak = this.#leak();
    if (leak !== undefined) return { failure: leak };
    const outcome = textFrom('observe', observe?.(machine.cpu, pointer));
    if (outcome === undefined) return FINE;
    const failure = this.#outcomeFailure(outcome);
    return failure === undefined ? { outcome } : { outcome, failure };
  }

  #leak(): Failure | undefined {
    if (this.#allocations === undefined) return undefined;
    const { cpu } = this.#engine.world.machine;
    const lost = describeLeak(cpu, this.#allocations, countAllocations(cpu));
    if (lost === '') return undefined;
    return {
      kind: 'leak',
      message: `not given back: ${lost}`,
      signature: `leak: ${withoutNumbers(lost)}`,
    };
  }

  #outcomeFailure(outcome: string): Failure | undefined {
    const kind = 'forbidden';
    if (this.#forbidden.has(outcome)) {
      return { kind, message: `outcome '${outcome}'`, signature: `${kind}: ${outcome}` };
    }
    if (this.#declared === undefined || this.#declared.has(outcome)) return undefined;
    const message = `outcome '${outcome}', which the program does not declare`;
    return { kind, message, signature: `${kind}: ${outcome}` };
  }
}

/** What a function of the program's returned. @throws FaultlineError if it is neither a text nor undefined */
function textFrom(name: string, value: unknown): string | undefined {
  if (value === undefined || typeof value === 'string') return value;
  const kind = value === null ? 'null' : `a value of type ${typeof value}`;
  const message = `the program's ${name} returns ${kind}, and not a text or undefined`;
  throw new FaultlineError('FAULTLINE_BAD_PROGRAM', message);
}

function failureOfRace(program: ExploreProgram, race: Race): Failure {
  const [first, second] = race.tasks.map((task) => program.tasks[task]?.name ?? `task ${task}`);
  const [did, does] = race.operations;
  const [at, then] = race.steps;
  const message =
    race.kind === 'race'
      ? `${first} (${did}, step ${at}) and ${second} (${does}, step ${then}) race for word ${race.word}`
      : `${second} (${does}, step ${then}) uses word ${race.word}, which ${first} freed at step ${at}`;
  // the same race, whoever came first in this schedule
  const sides = [`${first} ${did}`, `${second} ${does}`];
  if (race.kind === 'race') sides.sort();
  return { kind: race.kind, message, signature: `${race.kind}: ${sides.join(', ')}`, race };
}

function failureOfInvariant(message: string): Failure {
  const invariant = /\bINV-\d+[a-z]?\b/.exec(message)?.[0];
  return {
    kind: 'invariant',
    message,
    signature: `invariant: ${invariant ?? withoutNumbers(message)}`,
    ...(invariant === undefined ? {} : { invariant }),
  };
}

function failureOfError(kind: 'died' | 'invariant', error: unknown): Failure {
  const text = textOf(error);
  const isBug = error instanceof Error && error.name === 'KernelBug';
  const name = error instanceof Error ? error.name : 'exception';
  const message = isBug ? text : `${name}: ${text}`;
  if (kind === 'invariant') return failureOfInvariant(message);
  const { signature, ...rest } = failureOfInvariant(message);
  return { ...rest, kind, signature: signature.replace('invariant', kind) };
}

/** What is left of a message that is the same wherever things lie. */
function withoutNumbers(text: string): string {
  return text.replace(/\b(?:0x[0-9a-f]+|\d+)\b/gi, '#');
}
