/**
 * The virtual engine: all tasks of a program on one thread, as generators.
 *
 * Protocol   The kernel layers exist twice here: as they are, for setup and checks, and rewritten
 *            (explore/rewrite.ts), for tasks. A task runs until another one's turn comes, and yields; the
 *            loop below resumes whoever is next. Whoever goes on need not yield.
 * Invariant  I1  A task asks for its turn before each operation; what it does then, it does at once.
 *
 * @module
 */
import { type Cpu } from '../machine/cpu.js';
import { type MemoryPort } from '../memory/port.js';
import { memoryWords } from '../memory/snapshot.js';
import { OP_LOCK, type Turnstile } from '../memory/turnstile.js';
import {
  C_END,
  C_MODELS_LOCKS,
  C_TICK,
  C_TURN,
  CONTROL_WORDS,
  END_DIED,
  STATE_DIED,
  T_SKIP,
  TASK_WORDS,
  TASKS_AT,
} from './control.js';
import { Controller } from './controller.js';
import {
  buildWorld,
  type Engine,
  isOwnWord,
  resetCpu,
  restoreWorld,
  type World,
} from './engine.js';
import { type ExploreProgram } from './program.js';

/** A call of rewritten code; it is resumed with the value of the call inside that made it yield. */
type Frame = Generator<undefined, unknown>;
/** How a task's operations look after rewriting. */
type VirtualRun = (cpu: Cpu, world: number) => Frame | undefined;

/** Where rewritten code leaves calls that yield (RUNTIME in rewrite.ts). */
const PENDING = Symbol.for('faultline.pending');

/** What the engine needs of the rewritten kernel. */
export interface VirtualKernel {
  readonly VirtualCpu: new (handle: World['machine']['handle'], id: number) => Cpu;
  readonly registerOps: (cpu: Cpu, modules: readonly object[]) => Generator<undefined, void>;
}

class VirtualTurnstile implements Turnstile {
  readonly #controller: Controller;
  readonly #control: Int32Array;
  /** The tasks are being brought to their first operations. */
  starting = false;
  readonly modelsLocks: boolean;

  constructor(controller: Controller, modelsLocks: boolean) {
    this.#controller = controller;
    this.#control = controller.words;
    this.modelsLocks = modelsLocks;
  }

  pass(): void {
    // the rewritten caller has asked
  }

  mustYield(port: MemoryPort, kind: number, at: number, count: number): boolean {
    if (kind === OP_LOCK && !this.modelsLocks) return false; // the operations inside are announced
    const cpu = port as Cpu;
    const skip = TASKS_AT + cpu.id * TASK_WORDS + T_SKIP;
    if (this.#control[skip] !== 0) {
      this.#control[skip] = 0;
      return false;
    }
    if (isOwnWord(cpu, kind, at)) return false;
    this.#controller.announce(cpu.id, kind, at, count);
    if (this.starting) return true;
    if (this.#controller.choose() !== cpu.id) return true;
    this.#controller.commit(cpu.id);
    return false;
  }

  log(at: number, count: number): void {
    this.#controller.log(at, count);
  }

  sleepFor(port: MemoryPort, timeoutMs: number): void {
    this.#controller.sleepFor((port as Cpu).id, timeoutMs);
  }

  wasWoken(port: MemoryPort): boolean {
    return this.#controller.wasWoken((port as Cpu).id);
  }

  wake(at: number, count: number): number {
    return this.#controller.wake(at, count);
  }

  clockMs(port: MemoryPort): number {
    return this.#controller.clockMs((port as Cpu).id);
  }
}

/** Runs schedules of one program. */
export class VirtualEngine implements Engine {
  readonly control: Int32Array;
  readonly controller: Controller;
  readonly world: World;
  readonly #turnstile: VirtualTurnstile;
  readonly #cpus: readonly Cpu[];
  readonly #tasks: readonly (readonly VirtualRun[])[];
  readonly #slabs: Cpu['slabs'];
  /** Each task's calls that have yielded, the innermost last. */
  readonly #frames: Frame[][];
  /** Calls that yield just now, the innermost first; filled by rewritten code. */
  readonly #pending: Frame[];
  /** What ended a task that died. */
  error: unknown;

  /** `program` as it is, its copy in the rewritten kernel, and the mistake to plant (base/mutants.ts). */
  constructor(
    program: ExploreProgram,
    rewritten: ExploreProgram,
    kernel: VirtualKernel,
    mutant = 0,
  ) {
    this.world = buildWorld(program, mutant);
    const { machine, snapshot } = this.world;
    const control = new Int32Array(CONTROL_WORDS);
    control[C_MODELS_LOCKS] = program.modelsLocks === false ? 0 : 1;
    control[C_TICK] = program.tickMs ?? 1;
    this.control = control;
    this.controller = new Controller(control, memoryWords(machine.cpu));
    this.#turnstile = new VirtualTurnstile(this.controller, program.modelsLocks !== false);
    this.#slabs = new Map(machine.cpu.slabs);
    this.#cpus = program.tasks.map((_, id) => {
      const cpu = new kernel.VirtualCpu(machine.handle, id);
      const registering = kernel.registerOps(cpu, [rewritten.ops ?? {}]);
      while (registering.next().done !== true) {
        // alone, so nobody else's turn comes
      }
      cpu.turnstile = this.#turnstile;
      resetCpu(cpu, this.#slabs);
      return cpu;
    });
    snapshot.set(memoryWords(machine.cpu));
    this.#frames = this.#cpus.map(() => []);
    this.#pending = pendingFrames();
    this.#tasks = rewritten.tasks.map(({ operations }) =>
      operations.map(({ run }) => run as unknown as VirtualRun),
    );
  }

  /** Runs one schedule of the plan in the control block; what happened is in its trace. */
  run(): void {
    const { controller } = this;
    const tasks = this.#tasks.length;
    controller.reset(tasks);
    this.error = undefined;
    let task = 0;
    try {
      this.#turnstile.starting = true;
      for (task = 0; task < tasks; task++) {
        const frames = this.#frames[task]!;
        frames.length = 0;
        frames.push(runAll(this.#cpus[task]!, this.#tasks[task]!, this.world.pointer));
        if (this.#resume(frames)) controller.finish(task);
      }
      this.#turnstile.starting = false;
      task = controller.choose();
      while (task >= 0) {
        controller.commit(task);
        if (this.#resume(this.#frames[task]!)) {
          controller.finish(task);
          task = controller.choose();
        } else {
          task = controller.words[C_TURN]!;
        }
      }
    } catch (error) {
      controller.finish(task, STATE_DIED);
      controller.words[C_END] = END_DIED;
      this.error = error;
      this.#pending.length = 0;
    }
  }

  /** Runs a task until another one's turn comes; true if it is done. */
  #resume(frames: Frame[]): boolean {
    const pending = this.#pending;
    let value: unknown;
    for (let frame = frames.pop(); frame !== undefined; frame = frames.pop()) {
      const step = frame.next(value);
      if (step.done === true) {
        value = step.value;
        continue;
      }
      frames.push(frame);
      for (let inner = pending.pop(); inner !== undefined; inner = pending.pop())
        frames.push(inner);
      return false;
    }
    return true;
  }

  /** Sets everything back to what it was before the schedule. */
  restore(): void {
    restoreWorld(this.controller.memory, this.world.snapshot, this.controller.words);
    for (const cpu of this.#cpus) resetCpu(cpu, this.#slabs);
  }
}

/** A task's operations in turn; calls them as rewritten code does. */
function* runAll(
  cpu: Cpu,
  operations: readonly VirtualRun[],
  world: number,
): Generator<undefined, void> {
  for (const operation of operations) {
    const made = operation(cpu, world);
    if (made === undefined || made.next().done === true) continue;
    pendingFrames().push(made);
    yield;
  }
}

/** Shared by name with rewritten modules, wherever they were loaded from. */
function pendingFrames(): Frame[] {
  const shared = globalThis as { [PENDING]?: Frame[] };
  const known = shared[PENDING];
  if (known !== undefined) return known;
  return (shared[PENDING] = []);
}
