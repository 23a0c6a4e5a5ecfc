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
import type { Cpu } from '../machine/cpu.js';
import type { MemoryPort } from '../memory/port.js';
import { memoryWords } from '../memory/snapshot.js';
import { OP_LOCK } from '../memory/turnstile.js';
import {
  C_END,
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
import { Recorder, type Recording, RecordingTurnstile } from './explain/recorder.js';
import type { ExploreProgram } from './program.js';
import { checkPointer, ControllerTurnstile } from './turnstile.js';

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

class VirtualTurnstile extends ControllerTurnstile {
  readonly #control: Int32Array;
  /** The tasks are being brought to their first operations. */
  starting = false;

  constructor(controller: Controller, modelsLocks: boolean) {
    super(controller, modelsLocks);
    this.#control = controller.words;
  }

  override pass(): void {
    // the rewritten caller has asked
  }

  override mustYield(port: MemoryPort, kind: number, at: number, count: number): boolean {
    if (kind === OP_LOCK && !this.modelsLocks) return false; // the operations inside are announced
    const cpu = port as Cpu;
    const skip = TASKS_AT + cpu.id * TASK_WORDS + T_SKIP;
    if (this.#control[skip] !== 0) {
      this.#control[skip] = 0;
      return false;
    }
    if (isOwnWord(cpu, kind, at)) return false;
    checkPointer(this.controller.memory, cpu, kind, at, count);
    this.controller.announce(cpu.id, kind, at, count);
    if (this.starting) return true;
    if (this.controller.choose() !== cpu.id) return true;
    this.controller.commit(cpu.id);
    return false;
  }
}

/** Runs schedules of one program. */
export class VirtualEngine implements Engine {
  readonly control: Int32Array;
  readonly controller: Controller;
  readonly world: World;
  readonly #turnstile: VirtualTurnstile;
  readonly #cpus: readonly Cpu[];
  #tasks: readonly (readonly VirtualRun[])[];
  readonly #slabs: Cpu['slabs'];
  /** Each task's calls that have yielded, the innermost last. */
  readonly #frames: Frame[][];
  /** Calls that yield just now, the innermost first; filled by rewritten code. */
  readonly #pending: Frame[];
  /** What ended a task that died. */
  error: unknown;

  /**
   * `program` as it is, and its copy in the rewritten kernel.
   * @param mutant the mistake to plant (base/mutants.ts)
   * @param control where plans come from and traces go
   */
  constructor(
    program: ExploreProgram,
    rewritten: ExploreProgram,
    kernel: VirtualKernel,
    mutant = 0,
    control: Int32Array = new Int32Array(CONTROL_WORDS),
  ) {
    this.world = buildWorld(program, mutant);
    const { machine, snapshot } = this.world;
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
        if (this.#begin(task)) controller.finish(task);
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

  /** Runs a task up to its first operation; true if it has none. */
  #begin(task: number): boolean {
    const frames = this.#frames[task]!;
    const operations = this.#tasks[task]!;
    const cpu = this.#cpus[task]!;
    if (frames.length !== 0) frames.length = 0; // of a schedule that ended before its tasks did
    const made =
      operations.length === 1
        ? operations[0]!(cpu, this.world.pointer)
        : runAll(cpu, operations, this.world.pointer);
    if (made === undefined) return true;
    frames.push(made);
    return this.#resume(frames);
  }

  /** Runs as `run` does, and notes where in the code each operation is made. Slow. */
  record(): Recording {
    const plain = this.#tasks;
    const recorder = new Recorder(plain.length);
    const turnstile = new RecordingTurnstile(
      this.#turnstile,
      recorder,
      this.control,
      isOwnWord,
      (task) => this.#frames[task]!.length,
    );
    this.#tasks = plain.map((operations, task) =>
      operations.map((operation, index) => (cpu: Cpu, world: number) => {
        recorder.begin(task, index);
        return operation(cpu, world);
      }),
    );
    for (const cpu of this.#cpus) cpu.turnstile = turnstile;
    this.run();
    for (const cpu of this.#cpus) cpu.turnstile = this.#turnstile;
    this.#tasks = plain;
    return recorder.recording;
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
