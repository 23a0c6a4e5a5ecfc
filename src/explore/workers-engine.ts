/**
 * The workers engine: every task of a program on a worker of its own, and one token between them.
 *
 * Protocol   Whoever has the token runs; it is handed on at operations of #memory, to whom the controller
 *            chooses. Nothing ever runs beside anything else.
 *
 *              worker of task 0 (it explores)           worker of task i
 *                run: resets the controller               waits for the token
 *                  task 0 up to its first operation ───►    task i up to its first operation
 *                                        the last one chooses who goes, and so does each operation
 *                  its task is done, or it waits            its task is done: chooses, waits
 *                the schedule has ended:  ◄────────────   nobody can be chosen, or it died
 *                  hands the token to each task that
 *                  still stands at an operation  ────────►  leaves by ScheduleEnded
 *                                                ◄───────   sets its CPU back
 *                judges, restores, plans the next one
 *
 * Invariant  I1  Between schedules worker 0 has the token, and every other one waits for it.
 *            I2  A task makes no operation after the schedule has ended, not even in a `finally`.
 * Ordering   The token orders everything: the control block and the memory are accessed plainly.
 *
 * @module
 */
import { availableParallelism } from 'node:os';

import { KernelBug } from '../base/bug.js';
import { Cpu } from '../machine/cpu.js';
import { registerOps } from '../machine/ops-table.js';
import type { MemoryHandle, MemoryPort } from '../memory/port.js';
import { memoryWords } from '../memory/snapshot.js';
import {
  arrive,
  awaitArrivals,
  awaitTurn,
  giveTurn,
  leaveText,
  textLeftAt,
} from '../memory/turn-token.js';
import {
  C_END,
  C_TICK,
  END_DIED,
  END_NONE,
  STATE_DIED,
  STATE_READY,
  T_SKIP,
  T_STATE,
  TASK_WORDS,
  TASKS_AT,
} from './control.js';
import { Controller } from './controller.js';
import {
  CREW_ARRIVED,
  CREW_ERROR_MESSAGE,
  CREW_ERROR_NAME,
  CREW_ERROR_STACK,
  CREW_HOLDER,
  CREW_QUIT,
  CREW_RUNNING,
  CREW_RUNS,
  CREW_STARTING,
  slotOf,
  TEXT_MAX,
} from './crew-block.js';
import {
  buildWorld,
  type Engine,
  isOwnWord,
  resetCpu,
  restoreWorld,
  type World,
} from './engine.js';
import type { ExploreProgram } from './program.js';
import { checkPointer, ControllerTurnstile } from './turnstile.js';

/** The task whose worker explores. */
const EXPLORER = 0;
/** Looks at the slot before a worker sleeps, while there is a core for each: some 10 µs. */
const SPINS = 2000;
/** Where looking did not help, because others use the cores, a worker tries it again after so many sleeps. */
const SLEEPS = 64;

/** What the explorer's worker tells the others before the first schedule; structured-cloned. */
export interface CrewStart {
  readonly handle: MemoryHandle;
  /** What setup returned. */
  readonly pointer: number;
  readonly slabs: Cpu['slabs'];
}

/** What all workers of an exploration share. */
export interface CrewBlocks {
  /** control.ts */
  readonly control: Int32Array;
  /** crew-block.ts */
  readonly crew: Int32Array;
}

/** Thrown in a task that still stands at an operation when its schedule ends. */
class ScheduleEnded extends Error {
  override readonly name = 'ScheduleEnded';
}

/** One worker's end of the token. */
class TokenTurnstile extends ControllerTurnstile {
  readonly #control: Int32Array;
  readonly #crew: Int32Array;
  readonly #task: number;
  readonly #tasks: number;
  readonly #skip: number;
  /** Looks before a sleep: at most, and as things are now. */
  readonly #spinsMax: number;
  #spins: number;
  #sleeps = 0;

  constructor(controller: Controller, crew: Int32Array, program: ExploreProgram, task: number) {
    super(controller, program.modelsLocks !== false);
    this.#control = controller.words;
    this.#crew = crew;
    this.#task = task;
    this.#tasks = program.tasks.length;
    this.#skip = TASKS_AT + task * TASK_WORDS + T_SKIP;
    this.#spinsMax = this.#tasks <= availableParallelism() ? SPINS : 0;
    this.#spins = this.#spinsMax;
  }

  override pass(port: MemoryPort, kind: number, at: number, count: number): void {
    const control = this.#control;
    const task = this.#task;
    this.#leaveIfEnded();
    if (control[this.#skip] !== 0) {
      control[this.#skip] = 0;
      return;
    }
    if (isOwnWord(port as Cpu, kind, at)) return;
    checkPointer(this.controller.memory, port, kind, at, count);
    this.controller.announce(task, kind, at, count);
    const next = this.chooseNext();
    if (next !== task) {
      this.give(next);
      this.await();
    }
    this.#leaveIfEnded();
    this.controller.commit(task);
  }

  override mustYield(): boolean {
    return false; // only rewritten code asks
  }

  override log(at: number, count: number): void {
    this.#leaveIfEnded();
    this.controller.log(at, count);
  }

  /** I2 */
  #leaveIfEnded(): void {
    if (this.#control[C_END] !== END_NONE) throw new ScheduleEnded();
  }

  /** Who has the token next: another task to be started, or who makes the next step; the explorer at the end. */
  chooseNext(): number {
    const crew = this.#crew;
    const starting = crew[CREW_STARTING]!;
    if (starting >= 0) {
      const next = starting + 1;
      crew[CREW_STARTING] = next < this.#tasks ? next : -1;
      if (next < this.#tasks) return next;
    }
    const chosen = this.controller.choose();
    return chosen < 0 ? EXPLORER : chosen;
  }

  give(task: number): void {
    this.#crew[CREW_HOLDER] = task;
    giveTurn(this.#crew, slotOf(task));
  }

  await(): void {
    if (!awaitTurn(this.#crew, slotOf(this.#task), this.#spins)) this.#spins = this.#spinsMax;
    else if (++this.#sleeps % SLEEPS === 0) this.#spins = this.#spinsMax;
    else this.#spins >>= 1;
  }
}

/** A CPU for the task on this thread. */
function newCpu(handle: MemoryHandle, task: number, program: ExploreProgram): Cpu {
  const cpu = new Cpu(handle, task);
  registerOps(cpu, [program.ops ?? {}]);
  return cpu;
}

/** Runs schedules of one program, on the worker of task 0. */
export class WorkersEngine implements Engine {
  readonly control: Int32Array;
  readonly world: World;
  /** What ended the task that died, if END_DIED; the copy of an error if its worker was another. */
  error: unknown;
  readonly #controller: Controller;
  readonly #crew: Int32Array;
  readonly #turnstile: TokenTurnstile;
  readonly #program: ExploreProgram;
  readonly #cpu: Cpu;
  readonly #slabs: Cpu['slabs'];

  constructor(program: ExploreProgram, { control, crew }: CrewBlocks, mutant = 0) {
    this.world = buildWorld(program, mutant);
    const { machine } = this.world;
    control[C_TICK] = program.tickMs ?? 1;
    this.control = control;
    this.#crew = crew;
    this.#program = program;
    this.#controller = new Controller(control, memoryWords(machine.cpu));
    this.#turnstile = new TokenTurnstile(this.#controller, crew, program, EXPLORER);
    this.#slabs = new Map(machine.cpu.slabs);
    this.#cpu = newCpu(machine.handle, EXPLORER, program);
    this.#cpu.turnstile = this.#turnstile;
    resetCpu(this.#cpu, this.#slabs);
  }

  /** For the other workers. */
  get start(): CrewStart {
    const { machine, pointer } = this.world;
    return { handle: machine.handle, pointer, slabs: this.#slabs };
  }

  /** Waits until the others can run schedules. */
  awaitOthers(): void {
    awaitArrivals(this.#crew, CREW_ARRIVED, this.#program.tasks.length - 1);
  }

  /** Lets the others return; no schedule can be run afterwards. */
  dismissOthers(): void {
    this.#crew[CREW_QUIT] = 1;
    for (let task = 1; task < this.#program.tasks.length; task++) this.#turnstile.give(task);
  }

  /** Runs one schedule of the plan in the control block; what happened is in its trace. */
  run(): void {
    const { control } = this;
    const crew = this.#crew;
    const turnstile = this.#turnstile;
    this.#controller.reset(this.#program.tasks.length);
    this.error = undefined;
    crew[CREW_HOLDER] = EXPLORER;
    crew[CREW_STARTING] = 0;
    crew[CREW_RUNS] = (crew[CREW_RUNS]! + 1) | 0;
    crew[CREW_RUNNING] = 1;
    try {
      runTask(this.#cpu, this.#program, EXPLORER, this.world.pointer);
      if (control[C_END] === END_NONE) {
        this.#controller.finish(EXPLORER);
        const next = turnstile.chooseNext();
        if (next !== EXPLORER) {
          turnstile.give(next);
          turnstile.await(); // until the schedule has ended
        }
      }
    } catch (error) {
      if (diedOf(this.#controller, EXPLORER, error)) this.error = error;
    }
    this.#endOthers();
    if (control[C_END] === END_DIED && this.error === undefined) this.error = errorLeftIn(crew);
    crew[CREW_RUNNING] = 0;
  }

  /** Lets tasks that still stand at an operation leave, one after the other (I1). */
  #endOthers(): void {
    for (let task = 1; task < this.#program.tasks.length; task++) {
      if (this.control[TASKS_AT + task * TASK_WORDS + T_STATE] !== STATE_READY) continue;
      this.#turnstile.give(task);
      this.#turnstile.await();
    }
  }

  /** Sets everything back to what it was before the schedule. */
  restore(): void {
    restoreWorld(this.#controller.memory, this.world.snapshot, this.control);
    resetCpu(this.#cpu, this.#slabs);
  }
}

/** The life of the worker of any task but the first: schedule after schedule, until it is dismissed. */
export function serveSchedules(
  program: ExploreProgram,
  task: number,
  { control, crew }: CrewBlocks,
  { handle, pointer, slabs }: CrewStart,
): void {
  const cpu = newCpu(handle, task, program);
  const controller = new Controller(control, memoryWords(cpu));
  const turnstile = new TokenTurnstile(controller, crew, program, task);
  cpu.turnstile = turnstile;
  resetCpu(cpu, slabs);
  arrive(crew, CREW_ARRIVED);
  for (;;) {
    turnstile.await();
    if (crew[CREW_QUIT] !== 0) return;
    let next = EXPLORER;
    try {
      runTask(cpu, program, task, pointer);
      if (control[C_END] === END_NONE) {
        controller.finish(task);
        next = turnstile.chooseNext();
      }
    } catch (error) {
      if (diedOf(controller, task, error)) leaveError(crew, error);
    }
    resetCpu(cpu, slabs);
    turnstile.give(next);
  }
}

function runTask(cpu: Cpu, program: ExploreProgram, task: number, world: number): void {
  for (const operation of program.tasks[task]!.operations) operation.run(cpu, world);
}

/** True if the schedule ends because of the error; false if it had ended before. */
function diedOf(controller: Controller, task: number, error: unknown): boolean {
  if (error instanceof ScheduleEnded || controller.words[C_END] !== END_NONE) return false;
  controller.finish(task, STATE_DIED);
  controller.words[C_END] = END_DIED;
  return true;
}

function leaveError(crew: Int32Array, error: unknown): void {
  const isError = error instanceof Error;
  leaveText(crew, CREW_ERROR_NAME, TEXT_MAX, isError ? textOf(() => error.name) : '');
  leaveText(
    crew,
    CREW_ERROR_MESSAGE,
    TEXT_MAX,
    textOf(() => (isError ? error.message : error)),
  );
  leaveText(crew, CREW_ERROR_STACK, TEXT_MAX, isError ? textOf(() => error.stack ?? '') : '');
}

/** What was thrown may be anything, and may throw when it is looked at. */
function textOf(value: () => unknown): string {
  try {
    return String(value());
  } catch {
    return 'something that cannot be shown';
  }
}

function errorLeftIn(crew: Int32Array): unknown {
  const name = textLeftAt(crew, CREW_ERROR_NAME);
  const message = textLeftAt(crew, CREW_ERROR_MESSAGE);
  if (name === '') return message; // it was no Error
  const error = name === 'KernelBug' ? new KernelBug(message) : new Error(message);
  Object.defineProperty(error, 'name', { value: name });
  error.stack = textLeftAt(crew, CREW_ERROR_STACK);
  return error;
}
