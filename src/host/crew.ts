/**
 * A crew: the workers that are the CPUs of one machine, hosted by Piscina.
 *
 * Protocol   One worker for each member, one long task for each worker, all submitted at once
 *            (minThreads = maxThreads = members). Workers load their modules, arrive at the start
 *            barrier, and run when `start` opens it. `results` waits for all of them.
 *            When a worker dies, is lost, or the watchdog gives up, the machine is halted: CPUs that
 *            sleep or spin leave by MachineHalted. Whoever has not left after HALT_GRACE_MS is
 *            terminated. Nothing is left running when `results` has settled.
 *
 * @module
 */
import { parkAsync, read, readOnce, unpark, writeOnce } from '#memory';

import { FaultlineError } from '../base/bug.js';
import { BUNDLES } from '../base/own-code.js';
import { reasonOf } from '../base/reason.js';
import type { BootedMachine } from '../machine/boot.js';
import type { Cpu } from '../machine/cpu.js';
import { EVERYBODY } from '../machine/limits.js';
import { HALT_DEADLOCK, HALT_PANIC, HALT_STOP, haltMachine } from '../machine/sched.js';
import { MACHINE, Machine } from '../machine/types.js';
import {
  deathFailure,
  framesOf,
  lostWorkerFailure,
  type MachineFailure,
  strayErrorFailure,
} from './failure.js';
import { type Build, WORKER, WorkerPool } from './pool.js';
import { Watchdog, type WatchdogOptions } from './watchdog.js';
import type { Outcome, WorkerTask } from './worker.js';

/** One CPU of a crew and what it runs. */
export interface CrewMember {
  /** As reports name it: `invalidator 0`. */
  readonly name: string;
  /** URL of the module that has the program. */
  readonly module: string;
  /** The exported function to run: `(cpu, args) => result`. */
  readonly entry: string;
  /** What it is given; structured-cloned. */
  readonly args: unknown;
}

/** How a crew runs. */
export interface CrewOptions {
  /** Names or URLs of the modules with ops tables; all workers load them in this order. */
  readonly opsModules?: readonly string[];
  /** Which build the workers run; by default `parallel`, at full speed. */
  readonly build?: Build;
  /** How patient the watchdog is; by default 20 s, and CPUs that run need not count progress. */
  readonly watchdog?: Partial<WatchdogOptions>;
  /** When aborted, asks for the end: members that have not returned ABORT_GRACE_MS later are halted. */
  readonly signal?: AbortSignal;
  /** URL of the worker's file; by default the bundled kernel of the build. */
  readonly worker?: string;
  /**
   * Workers that are there already, as many as there are members or more, of whatever build and file they
   * were started with. They are left to the caller, unless one of them does not come back: then all are ended.
   */
  readonly pool?: WorkerPool;
}

/** What a member's program returned, and how many operations a counting build saw it make. */
export interface MemberResult {
  readonly value: unknown;
  /** Operations on shared memory; 0 in the parallel build, which does not count. */
  readonly operations: number;
}

/** Where our own code is, as stack traces show it: by way of its source maps, compiled, or bundled. */
const OWN_CODE = ['../src/', 'src/', ...BUNDLES].map((part) => new URL(`../${part}`, WORKER).href);
/** How long a halted CPU may take to notice, before its thread is terminated. */
const HALT_GRACE_MS = 1000;
/** How long members may take to return of themselves when they have been asked to. */
const ABORT_GRACE_MS = 600;
const READY_POLL_MS = 100;
const DEFAULT_STALL_MS = 20_000;

/**
 * Workers that are the CPUs of one machine: `new Crew(…)`, `await ready()`, `start()`, `await results()`.
 * Whoever cannot go that way to its end calls `abandon`, so that no worker is left.
 */
export class Crew {
  readonly #boot: Cpu;
  readonly #members: readonly CrewMember[];
  readonly #pool: WorkerPool;
  /** Nobody else will use the pool. */
  #endsPool: boolean;
  readonly #watchdog: Watchdog;
  readonly #outcomes: Promise<(Outcome | undefined)[]>;
  #failure: MachineFailure | undefined;
  /** Resolves when the machine has been halted, by us or by a failure. */
  readonly #halted: Promise<void>;
  #resolveHalted!: () => void;
  #stopped = false;
  /** Members that have not returned. */
  #busy: number;
  readonly #stopListening: readonly (() => void)[];
  /** Where CPUs were when the machine was halted, or died. */
  readonly #stacks = new Map<number, string>();

  /** Starts the workers; member i becomes CPU i. Their programs wait for `start`. */
  constructor(machine: BootedMachine, members: readonly CrewMember[], options: CrewOptions = {}) {
    const cpus = read(machine.cpu, MACHINE, Machine.cpus);
    if (members.length > cpus) {
      const message = `a crew of ${members.length} members needs as many CPUs, not ${cpus}`;
      throw new FaultlineError('FAULTLINE_BAD_CREW', message);
    }
    if (options.pool !== undefined && options.pool.size < members.length) {
      const message = `a crew of ${members.length} members needs as many workers, not ${options.pool.size}`;
      throw new FaultlineError('FAULTLINE_BAD_CREW', message);
    }
    this.#boot = machine.cpu;
    this.#members = members;
    this.#busy = members.length;
    this.#endsPool = options.pool === undefined;
    this.#pool =
      options.pool ??
      new WorkerPool(members.length, options.build ?? 'parallel', options.worker ?? WORKER);
    const stopHearing = this.#pool.onError((error) => {
      this.#endsPool = true;
      this.#fail(strayErrorFailure(this.#boot, error, this.#nameOf), HALT_PANIC);
    });
    this.#halted = new Promise((resolve) => {
      this.#resolveHalted = resolve;
    });
    const watchdogOptions = {
      stallMs: DEFAULT_STALL_MS,
      countsProgress: false,
      ...options.watchdog,
    };
    this.#watchdog = new Watchdog(this.#boot, watchdogOptions, this.#nameOf, (failure) => {
      this.#fail(failure, HALT_DEADLOCK);
    });
    this.#stopListening = [stopHearing, this.#haltAfterAbort(options.signal)];
    this.#outcomes = Promise.all(
      members.map((member, cpu) =>
        this.#run({
          handle: machine.handle,
          cpu,
          module: member.module,
          entry: member.entry,
          args: member.args,
          opsModules: options.opsModules ?? [],
        }),
      ),
    );
  }

  /**
   * Resolves when every worker has loaded its modules, or the crew was halted from outside.
   * @throws MachineFailure if a worker could not.
   */
  async ready(): Promise<void> {
    while (!this.#stopped) {
      const arrived = readOnce(this.#boot, MACHINE, Machine.arrived);
      if (arrived >= this.#members.length) return;
      await Promise.race([
        parkAsync(this.#boot, MACHINE, Machine.arrived, arrived, READY_POLL_MS),
        this.#halted,
      ]);
      if (this.#failure !== undefined) await this.results(); // throws it
    }
  }

  /** Where CPUs were when they died, or left because the machine was halted, in terms of the source. */
  stacks(): ReadonlyMap<number, readonly string[]> {
    return new Map([...this.#stacks].map(([cpu, stack]) => [cpu, framesOf(stack)]));
  }

  /** Opens the start barrier. */
  start(): void {
    writeOnce(this.#boot, MACHINE, Machine.started, 1);
    unpark(this.#boot, MACHINE, Machine.started, EVERYBODY);
  }

  /** Resolves when the machine has been halted; if by a failure, `results` throws it. */
  get halted(): Promise<void> {
    return this.#halted;
  }

  /** True once the machine has been halted. */
  get isHalted(): boolean {
    return readOnce(this.#boot, MACHINE, Machine.halted) !== 0;
  }

  /** Halts the machine from outside; members that have not returned yield no result. */
  halt(): void {
    this.#stopped = true;
    this.#watchdog.stop(); // who leaves in the middle of a wait is not stalled
    haltMachine(this.#boot, HALT_STOP);
    this.#resolveHalted();
  }

  /** Waits for all members, ends the workers, and returns what the programs returned. @throws MachineFailure */
  async results(): Promise<MemberResult[]> {
    try {
      const outcomes = await Promise.race([this.#outcomes, this.#afterGrace()]);
      this.#endsPool ||= this.#busy > 0;
      if (this.#failure !== undefined) throw this.#failure;
      return outcomes.flatMap((outcome) =>
        outcome?.status === 'returned'
          ? [{ value: outcome.value, operations: outcome.operations }]
          : [],
      );
    } finally {
      this.#watchdog.stop();
      for (const stop of this.#stopListening) stop();
      if (this.#endsPool) await this.#pool.end();
    }
  }

  /** Leaves no worker behind, whatever state the crew is in: the way out when something else has failed. */
  async abandon(): Promise<void> {
    this.halt();
    await this.results().catch(() => undefined);
  }

  readonly #nameOf = (cpu: number): string => {
    const name = this.#members[cpu]?.name;
    return name === undefined ? `cpu ${cpu}` : `cpu ${cpu} (${name})`;
  };

  async #run(task: WorkerTask): Promise<Outcome | undefined> {
    try {
      const outcome = (await this.#pool.run(task)) as Outcome;
      this.#busy--;
      if (outcome.status === 'halted') this.#stacks.set(task.cpu, outcome.stack);
      if (outcome.status === 'died') {
        this.#stacks.set(task.cpu, outcome.death.stack);
        if (this.#failure === undefined) {
          const failure = deathFailure(this.#boot, outcome.death, this.#nameOf, OWN_CODE);
          this.#fail(failure, HALT_PANIC);
        }
      }
      return outcome;
    } catch (error) {
      this.#endsPool = true;
      // the thread ended under its program; after a halt, because `results` destroyed the pool
      if (!this.#stopped && this.#failure === undefined) {
        const reason = reasonOf(error);
        this.#fail(lostWorkerFailure(this.#boot, task.cpu, reason, this.#nameOf), HALT_PANIC);
      }
      return undefined;
    }
  }

  /** Returns what ends the listening. */
  #haltAfterAbort(signal: AbortSignal | undefined): () => void {
    let timer: NodeJS.Timeout | undefined;
    const onAbort = (): void => {
      timer = setTimeout(() => {
        this.halt();
      }, ABORT_GRACE_MS);
    };
    if (signal?.aborted === true) onAbort();
    signal?.addEventListener('abort', onAbort);
    return () => {
      clearTimeout(timer);
      signal?.removeEventListener('abort', onAbort);
    };
  }

  #fail(failure: MachineFailure, why: number): void {
    if (this.#failure !== undefined) return;
    this.#failure = failure;
    this.#watchdog.stop();
    haltMachine(this.#boot, why);
    this.#resolveHalted();
  }

  /** Resolves a while after the machine was halted. */
  async #afterGrace(): Promise<(Outcome | undefined)[]> {
    await this.#halted;
    await new Promise((resolve) => setTimeout(resolve, HALT_GRACE_MS).unref());
    return [];
  }
}
