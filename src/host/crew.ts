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
import { fileURLToPath } from 'node:url';

import { parkAsync, readOnce, unpark, writeOnce } from '#memory';
import { Piscina } from 'piscina';

import { type BootedMachine } from '../machine/boot.js';
import { type Cpu } from '../machine/cpu.js';
import { HALT_DEADLOCK, HALT_PANIC, HALT_STOP, haltMachine } from '../machine/sched.js';
import { MACHINE, Machine } from '../machine/types.js';
import { deathFailure, lostWorkerFailure, type MachineFailure } from './failure.js';
import { Watchdog, type WatchdogOptions } from './watchdog.js';
import { type Outcome, type WorkerTask } from './worker.js';

/** One CPU of a crew and what it runs. */
export interface CrewMember {
  /** As reports name it: `invalidator 0`. */
  readonly name: string;
  /** URL of the module that has the program. */
  readonly module: string;
  /** The exported function to run: `(cpu, args) => result`. */
  readonly entry: string;
  readonly args: unknown;
}

/** The builds of `#memory` and `#debug`. */
export type Build = 'parallel' | 'checked' | 'turnstile';

export interface CrewOptions {
  readonly opsModules?: readonly string[];
  readonly build?: Build;
  readonly watchdog?: Partial<WatchdogOptions>;
  /** URL of the worker's file; by default the bundled kernel of the build. */
  readonly worker?: string;
}

/** What a member's program returned, and how many operations a counting build saw it make. */
export interface MemberResult {
  readonly value: unknown;
  readonly operations: number;
}

/** What a worker runs; by the package's own name, so that the conditions of the build choose the file. */
const WORKER = import.meta.resolve('faultline/worker');
/** Where our own compiled code is, as stack traces show it. */
const OWN_CODE = new URL('../', WORKER).href;
const HALT_GRACE_MS = 2000;
const READY_POLL_MS = 100;
const DEFAULT_STALL_MS = 20_000;
const EVERYBODY = 0x7fffffff;

export class Crew {
  readonly #boot: Cpu;
  readonly #members: readonly CrewMember[];
  readonly #pool: Piscina;
  readonly #watchdog: Watchdog;
  readonly #outcomes: Promise<(Outcome | undefined)[]>;
  #failure: MachineFailure | undefined;
  /** Resolves when the machine has been halted, by us or by a failure. */
  readonly #halted: Promise<void>;
  #resolveHalted!: () => void;

  /** Starts the workers; member i becomes CPU i. Their programs wait for `start`. */
  constructor(machine: BootedMachine, members: readonly CrewMember[], options: CrewOptions = {}) {
    this.#boot = machine.cpu;
    this.#members = members;
    this.#pool = new Piscina({
      filename: fileURLToPath(options.worker ?? WORKER),
      minThreads: members.length,
      maxThreads: members.length,
      concurrentTasksPerWorker: 1,
      atomics: 'disabled',
      recordTiming: false,
      execArgv: conditionsOf(options.build ?? 'parallel'),
    });
    this.#halted = new Promise((resolve) => {
      this.#resolveHalted = resolve;
    });
    const watchdogOptions = {
      stallMs: options.watchdog?.stallMs ?? DEFAULT_STALL_MS,
      countsProgress: options.watchdog?.countsProgress ?? false,
    };
    this.#watchdog = new Watchdog(this.#boot, watchdogOptions, this.#nameOf, (failure) => {
      this.#fail(failure, HALT_DEADLOCK);
    });
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

  /** Resolves when every worker has loaded its modules. @throws MachineFailure if one did not. */
  async ready(): Promise<void> {
    for (;;) {
      const arrived = readOnce(this.#boot, MACHINE, Machine.arrived);
      if (arrived >= this.#members.length) return;
      await Promise.race([
        parkAsync(this.#boot, MACHINE, Machine.arrived, arrived, READY_POLL_MS),
        this.#halted,
      ]);
      if (this.#failure !== undefined) await this.results(); // throws it
    }
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
    haltMachine(this.#boot, HALT_STOP);
    this.#resolveHalted();
  }

  /** Waits for all members, ends the workers, and returns what the programs returned. @throws MachineFailure */
  async results(): Promise<MemberResult[]> {
    try {
      const outcomes = await Promise.race([this.#outcomes, this.#afterGrace()]);
      if (this.#failure !== undefined) throw this.#failure;
      return outcomes.flatMap((outcome) =>
        outcome?.status === 'returned'
          ? [{ value: outcome.value, operations: outcome.operations }]
          : [],
      );
    } finally {
      this.#watchdog.stop();
      await this.#pool.destroy();
    }
  }

  readonly #nameOf = (cpu: number): string => {
    const name = this.#members[cpu]?.name;
    return name === undefined ? `cpu ${cpu}` : `cpu ${cpu} (${name})`;
  };

  async #run(task: WorkerTask): Promise<Outcome | undefined> {
    try {
      const outcome = (await this.#pool.run(task)) as Outcome;
      if (outcome.status === 'died') {
        this.#fail(deathFailure(this.#boot, outcome.death, this.#nameOf, OWN_CODE), HALT_PANIC);
      }
      return outcome;
    } catch (error) {
      // the thread ended under its program; after a halt, because `results` destroyed the pool
      if (!this.isHalted) {
        const reason = error instanceof Error ? error.message : String(error);
        this.#fail(lostWorkerFailure(this.#boot, task.cpu, reason, this.#nameOf), HALT_PANIC);
      }
      return undefined;
    }
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

function conditionsOf(build: Build): string[] {
  const sourceMaps = '--enable-source-maps';
  return build === 'parallel' ? [sourceMaps] : [sourceMaps, `--conditions=faultline-${build}`];
}
