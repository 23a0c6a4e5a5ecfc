/**
 * Notes where in the code each operation of a run is made.
 *
 * Protocol   A run for explanation has this turnstile in front of the engine's. For every operation that is
 *            announced it keeps the task's call stack, and which operation of the program it belongs to; the
 *            n-th entry of a task is its n-th step in the trace.
 *
 *            In the virtual engine the thread's stack has only those calls that were entered since the task
 *            was last resumed. The ones that wait below are as they were at the announcement before: so much
 *            of that stack is put underneath.
 * Deviation  Such a run is slow: a stack is a text. Explanations alone are run so.
 *
 * @module
 */
import type { Cpu } from '../../machine/cpu.js';
import type { MemoryPort } from '../../memory/port.js';
import type { Turnstile } from '../../memory/turnstile.js';
import { T_SKIP, TASK_WORDS, TASKS_AT } from '../control.js';

/** Where one operation was made. */
export interface RecordedStep {
  /** Which operation of its task. */
  readonly operation: number;
  /** Lines of a stack trace, the innermost first. */
  readonly stack: readonly string[];
}

/** Of each task, its steps. */
export type Recording = readonly (readonly RecordedStep[])[];

/** Calls that a stack is taken of at most. */
const STACK_MAX = 64;
/** A generator that was resumed leaves a line of its own below that of its function. */
const RESUMED = '.next (<anonymous>)';

/** Collects one run. */
export class Recorder {
  readonly #steps: RecordedStep[][];
  readonly #operations: number[];

  constructor(tasks: number) {
    this.#steps = Array.from({ length: tasks }, () => []);
    this.#operations = Array.from({ length: tasks }, () => 0);
  }

  get recording(): Recording {
    return this.#steps;
  }

  /** The task begins that operation of its program. */
  begin(task: number, operation: number): void {
    this.#operations[task] = operation;
  }

  /** The task announces an operation of #memory; `suspended` generators wait below what runs. */
  note(task: number, suspended: number | undefined): void {
    const limit = Error.stackTraceLimit;
    Error.stackTraceLimit = STACK_MAX;
    const lines = (new Error('here').stack ?? '').split('\n').slice(1);
    Error.stackTraceLimit = limit;
    const steps = this.#steps[task]!;
    let stack = lines.map((line) => line.trim());
    if (suspended !== undefined) {
      const running = stack.filter((_, i) => (stack[i + 1] ?? '').endsWith(RESUMED));
      const before = steps.at(-1)?.stack ?? [];
      stack = [...running, ...before.slice(before.length - suspended)];
    }
    steps.push({ operation: this.#operations[task]!, stack });
  }
}

/** In front of an engine's turnstile. */
export class RecordingTurnstile implements Turnstile {
  readonly #inner: Turnstile;
  readonly #recorder: Recorder;
  readonly #control: Int32Array;
  readonly #isOwnWord: (cpu: Cpu, kind: number, at: number) => boolean;
  readonly #suspended: ((task: number) => number) | undefined;
  readonly modelsLocks: boolean;

  /**
   * `suspended` is the virtual engine's: how many generators of a task wait below what runs. Without it,
   * operations announce themselves in `pass`.
   */
  constructor(
    inner: Turnstile,
    recorder: Recorder,
    control: Int32Array,
    isOwnWord: (cpu: Cpu, kind: number, at: number) => boolean,
    suspended?: (task: number) => number,
  ) {
    this.#inner = inner;
    this.#recorder = recorder;
    this.#control = control;
    this.#isOwnWord = isOwnWord;
    this.#suspended = suspended;
    this.modelsLocks = inner.modelsLocks;
  }

  pass(port: MemoryPort, kind: number, at: number, count: number): void {
    if (this.#suspended === undefined) this.#note(port as Cpu, kind, at);
    this.#inner.pass(port, kind, at, count);
  }

  mustYield(port: MemoryPort, kind: number, at: number, count: number): boolean {
    this.#note(port as Cpu, kind, at);
    return this.#inner.mustYield(port, kind, at, count);
  }

  /** What belongs to the step before, or to this CPU alone, is no step. */
  #note(cpu: Cpu, kind: number, at: number): void {
    if (this.#control[TASKS_AT + cpu.id * TASK_WORDS + T_SKIP] !== 0) return;
    if (this.#isOwnWord(cpu, kind, at)) return;
    this.#recorder.note(cpu.id, this.#suspended?.(cpu.id));
  }

  log(at: number, count: number): void {
    this.#inner.log(at, count);
  }

  sleepFor(port: MemoryPort, timeoutMs: number): void {
    this.#inner.sleepFor(port, timeoutMs);
  }

  wasWoken(port: MemoryPort): boolean {
    return this.#inner.wasWoken(port);
  }

  wake(at: number, count: number): number {
    return this.#inner.wake(at, count);
  }

  clockMs(port: MemoryPort): number {
    return this.#inner.clockMs(port);
  }
}
