/**
 * The main thread's side of an exploration: starts the workers, watches, ends them.
 *
 * Protocol   One Piscina worker for each task of the program; one for all on the virtual engine. The worker
 *            of task 0 explores, and sends the others what they need to know of its machine; no schedule
 *            comes by here. Every POLL_MS the watchdog compares how far the running schedule is; a task that has the token and makes no
 *            operation for stallMs, or whose thread ends, ends the exploration, by name. Nothing is left
 *            running when `exploreWithCrew` has settled.
 *
 * @module
 */
import { MessageChannel, type MessagePort } from 'node:worker_threads';

import { EXIT_INTERNAL, EXIT_VIOLATION, FaultlineError } from '../base/bug.js';
import { reasonOf } from '../base/reason.js';
import { MachineFailure } from '../host/failure.js';
import { WorkerPool } from '../host/pool.js';
import { sharedIntegers } from '../memory/shared-tables.js';
import { glance } from '../memory/turn-token.js';
import {
  C_ASKING,
  C_END,
  C_JUDGED,
  C_LAST,
  C_SETTING_UP,
  C_STEP,
  C_TASKS,
  CONTROL_WORDS,
  END_NONE,
  TASKS_MAX,
} from './control.js';
import { CREW_HOLDER, CREW_RUNNING, CREW_RUNS, CREW_WORDS } from './crew-block.js';
import type { Operations } from './explain/subject.js';
import type { ExploreOutcome, ExplorerRef, ExploreWorkerTask } from './explore-worker.js';
import { findMutant } from './mutants.js';
import type { ExploreProgram } from './program.js';
import { findProgram, type ProgramRef } from './program-ref.js';
import type { EngineName } from './report.js';
import type { CrewBlocks } from './workers-engine.js';

export interface CrewExploration {
  readonly program: ProgramRef;
  readonly explorer: ExplorerRef;
  /** By default the workers engine. */
  readonly engine?: EngineName;
  /** Name of a mistake to plant. */
  readonly mutant?: string;
  /** Only these operations of each task. */
  readonly operations?: Operations;
  /** A task that makes no operation for so long is stuck; by default 4 s. Unit: milliseconds. */
  readonly stallMs?: number;
  /** When aborted, ends all workers at once; what was found is lost. */
  readonly signal?: AbortSignal;
  /** URL of the worker's file; it must export `runExploreMember`. */
  readonly worker?: string;
  /** Workers to run on, of the turnstile build and as many as it takes. It has ended afterwards if the run failed. */
  readonly pool?: WorkerPool;
}

const DEFAULT_STALL_MS = 4000;
const POLL_MS = 200;
/** Setup, and loading before it on a busy host, may take so long at least. Unit: milliseconds. */
const SETUP_MS = 5000;
const LOADING_MS = 30_000;

/**
 * Explores on one worker for each task; returns what the explorer returned.
 * @throws MachineFailure if a worker was lost or a task is stuck; what the explorer threw
 */
export async function exploreWithCrew(exploration: CrewExploration): Promise<unknown> {
  const program = await findProgram(exploration.program);
  const tasks = program.tasks.length;
  const members = exploration.engine === 'virtual' ? 1 : tasks;
  if (tasks < 1 || tasks > TASKS_MAX) {
    const message = `${program.name} has ${tasks} tasks; there may be 1 to ${TASKS_MAX}`;
    throw new FaultlineError('FAULTLINE_BAD_PROGRAM', message);
  }
  exploration.signal?.throwIfAborted();
  const blocks = { control: sharedIntegers(CONTROL_WORDS), crew: sharedIntegers(CREW_WORDS) };
  const assignments = tasksOf(exploration, members, blocks);
  const pool = poolOf(exploration, members);
  const watch = new CrewWatch(program, blocks, exploration);
  const forget = pool.onError((error) => {
    watch.fail(lost(`a worker failed outside of its task: ${error.message}`));
  });
  try {
    const outcomes = assignments.map(({ task, transferList }) =>
      outcomeOf(
        pool.run(task, { name: 'runExploreMember', transferList }) as Promise<ExploreOutcome>,
        `task ${task.task} (${program.tasks[task.task]!.name})`,
      ),
    );
    const [value] = await Promise.race([Promise.all(outcomes), watch.failed]);
    if (exploration.pool === undefined) await pool.end();
    return value;
  } catch (error) {
    await pool.end();
    throw error;
  } finally {
    watch.stop();
    forget();
  }
}

function poolOf({ pool, worker }: CrewExploration, members: number): WorkerPool {
  if (pool === undefined) return new WorkerPool(members, 'turnstile', worker);
  if (pool.size !== members) throw new RangeError(`${members} tasks need as many workers`);
  return pool;
}

interface Assignment {
  readonly task: ExploreWorkerTask;
  readonly transferList: readonly MessagePort[];
}

/** What each worker gets: task 0 one end of a channel for each other, which has the other end. */
function tasksOf(
  { program, explorer, engine = 'workers', mutant: mutantName, operations }: CrewExploration,
  members: number,
  blocks: CrewBlocks,
): Assignment[] {
  const mutant = mutantName === undefined ? 0 : findMutant(mutantName).number;
  const channels = Array.from({ length: members - 1 }, () => new MessageChannel());
  return Array.from({ length: members }, (_, task) => {
    const ports = task === 0 ? channels.map(({ port1 }) => port1) : [channels[task - 1]!.port2];
    return {
      task: {
        program,
        engine,
        mutant,
        operations: operations ?? null,
        task,
        blocks,
        ports,
        explorer,
      },
      transferList: ports,
    };
  });
}

/** What the worker returned. @throws what it threw; MachineFailure if its thread has ended */
async function outcomeOf(running: Promise<ExploreOutcome>, who: string): Promise<unknown> {
  let outcome: ExploreOutcome;
  try {
    outcome = await running;
  } catch (error) {
    const reason = reasonOf(error);
    throw lost(`${who} lost its worker thread: ${reason}`);
  }
  if (outcome.status === 'returned') return outcome.value;
  const { code, exitCode, errorName, message, stack } = outcome;
  if (code !== undefined) throw new FaultlineError(code, message, exitCode);
  throw new FaultlineError(
    'FAULTLINE_EXPLORER_FAILED',
    `${who}: ${errorName}: ${message}\n${stack}`,
    EXIT_INTERNAL,
  );
}

function lost(summary: string): MachineFailure {
  return new MachineFailure('lost worker', summary, [], EXIT_VIOLATION);
}

/** Ends the exploration when a task is stuck, or somebody wants it to end. */
class CrewWatch {
  /** Rejects if it must end. */
  readonly failed: Promise<never>;
  #reject!: (reason: unknown) => void;
  readonly #program: ExploreProgram;
  readonly #blocks: CrewBlocks;
  readonly #stallMs: number;
  #phaseStartedAt = performance.now();
  #isSettingUp = false;
  readonly #isVirtual: boolean;
  readonly #timer: NodeJS.Timeout;
  readonly #stopListening: () => void;
  #seen: string | undefined;
  #movedAt = performance.now();

  constructor(program: ExploreProgram, blocks: CrewBlocks, exploration: CrewExploration) {
    const { signal } = exploration;
    this.#program = program;
    this.#blocks = blocks;
    this.#stallMs = exploration.stallMs ?? DEFAULT_STALL_MS;
    this.#isVirtual = exploration.engine === 'virtual';
    this.failed = new Promise((_, reject) => (this.#reject = reject));
    this.failed.catch(() => undefined); // it may come when nobody waits any more
    this.#timer = setInterval(() => {
      this.#poll();
    }, POLL_MS);
    const onAbort = (): void => {
      this.fail(signal?.reason);
    };
    signal?.addEventListener('abort', onAbort);
    this.#stopListening = () => signal?.removeEventListener('abort', onAbort);
  }

  fail(reason: unknown): void {
    this.#reject(reason);
  }

  stop(): void {
    clearInterval(this.#timer);
    this.#stopListening();
  }

  /** Before the first schedule. */
  #checkSetup(): void {
    const now = performance.now();
    if (!this.#isSettingUp && glance(this.#blocks.control, C_SETTING_UP) !== 0) {
      this.#isSettingUp = true;
      this.#phaseStartedAt = now;
    }
    const limitMs = Math.max(this.#stallMs, this.#isSettingUp ? SETUP_MS : LOADING_MS);
    if (now - this.#phaseStartedAt < limitMs) return;
    const what = this.#isSettingUp ? 'set up' : 'loaded';
    const summary = `${this.#program.name} is not ${what} after ${(limitMs / 1000).toFixed(1)} s`;
    this.fail(new MachineFailure('stalled', summary, [], EXIT_VIOLATION));
  }

  #poll(): void {
    if (glance(this.#blocks.control, C_TASKS) === 0) {
      this.#checkSetup();
      return;
    }
    const doing = this.#doing();
    if (doing?.at !== this.#seen || doing === undefined) {
      this.#seen = doing?.at;
      this.#movedAt = performance.now();
      return;
    }
    const stalledMs = performance.now() - this.#movedAt;
    if (stalledMs < this.#stallMs) return;
    const summary = `${doing.what} for ${(stalledMs / 1000).toFixed(1)} s, and does not return`;
    this.fail(new MachineFailure('stalled', summary, [], EXIT_VIOLATION));
  }

  /** Which code of the program's runs, and something that changes when it goes on; undefined if none does. */
  #doing(): { readonly what: string; readonly at: string } | undefined {
    const { control, crew } = this.#blocks;
    const judged = glance(control, C_JUDGED);
    if (judged % 2 !== 0) {
      return { what: "the program's check or observe has run", at: `judges ${judged}` };
    }
    if (glance(control, C_ASKING) !== 0) return undefined;
    const isRunning = this.#isVirtual
      ? glance(control, C_END) === END_NONE
      : glance(crew, CREW_RUNNING) !== 0;
    if (!isRunning) return undefined;
    const task = this.#isVirtual ? glance(control, C_LAST) : glance(crew, CREW_HOLDER);
    const name = this.#program.tasks[task]?.name;
    const who = name === undefined ? 'a task that starts' : `task ${task} (${name})`;
    const at = `${glance(crew, CREW_RUNS)} ${glance(control, C_STEP)} ${task}`;
    return { what: `${who} has made no operation on shared memory`, at };
  }
}
