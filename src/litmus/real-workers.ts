/**
 * Runs a variant on real workers: boots its machine, lets a crew go through the iterations, adds up.
 *
 * Protocol   The program's setup, its tasks and its checks run on the workers alone (member.ts), in whatever
 *            build the variant needs; this thread boots a bare machine, watches, and reads the counts.
 *            Workers are kept from variant to variant; those that do not come back are replaced.
 *
 * @module
 */
import { write } from '#memory';

import { EXIT_VIOLATION, FaultlineError } from '../base/bug.js';
import { DEFAULT_RAM_BYTES } from '../explore/engine.js';
import { findMutant } from '../explore/mutants.js';
import { Crew } from '../host/crew.js';
import { type FailureKind, MachineFailure } from '../host/failure.js';
import type { WorkerPools } from '../host/pool.js';
import { type BootedMachine, bootMachine } from '../machine/boot.js';
import { MACHINE, Machine } from '../machine/types.js';
import { gateNumber } from '../memory/rendezvous.js';
import { ShadowRestorer } from '../memory/shadow-restore.js';
import { sharedIntegers } from '../memory/shared-tables.js';
import { memoryWords } from '../memory/snapshot.js';
import { glance, leaveWord, textLeftAt } from '../memory/turn-token.js';
import {
  B_END,
  B_ENDED_MS,
  B_GATE,
  B_HALTED,
  B_ITERATIONS,
  B_OUTCOMES,
  B_REACHED,
  B_SETUP,
  B_STARTED_MS,
  B_STOP,
  B_TEXTS,
  B_VIOLATIONS,
  BLOCK_WORDS,
  END_ALL,
  END_SECONDS,
  END_VIOLATION_COUNT,
  END_VIOLATION_TIME,
  LT_CAME,
  taskAt,
  TEXT_LOCK_REPORT,
  TEXT_OUTCOME,
  textAt,
  TX_COUNT,
  TX_KIND,
  TX_TEXT,
} from './block.js';
import { buildOf, type LitmusVariant, windowOf } from './litmus.js';
import type { LitmusMemberArgs } from './member.js';
import type { LitmusDeadlock, LitmusEnd, WorkersRun } from './result.js';

/** How a variant is run on real workers. */
export interface WorkersOptions {
  /** Iterations that are wanted. */
  readonly iterations: number;
  /** The run ends after so long. Unit: seconds. */
  readonly seconds: number;
  readonly seed: number;
  /** An iteration that takes so long is stuck. Unit: milliseconds. */
  readonly stallMs: number;
  /** Misused memory is found, too: races, uses after free. The variant's build must be the checked one. */
  readonly watchesMemory?: boolean;
  readonly signal?: AbortSignal;
  /** Iterations so far. */
  readonly onProgress?: (iterations: number) => void;
}

/** Name of the module with the members' program; workloads/built-ins.ts has it. */
export const LITMUS_MODULE = 'faultline:litmus';
const POLL_MS = 100;

/** Runs the variant. @throws FaultlineError if its world cannot be made, or a worker was lost */
export async function runOnWorkers(
  variant: LitmusVariant,
  workers: WorkerPools,
  options: WorkersOptions,
): Promise<WorkersRun> {
  const { program } = variant;
  const machine = bootFor(variant, options.watchesMemory === true);
  const { shadow } = machine.handle;
  const block = sharedIntegers(BLOCK_WORDS);
  const args: LitmusMemberArgs = {
    handle: machine.handle,
    program: program.name,
    window: windowOf(variant),
    block,
    snapshot: sharedIntegers(memoryWords(machine.cpu).length),
    ...(shadow && { shadow: sharedIntegers(ShadowRestorer.roomFor(shadow)) }),
    seed: options.seed,
    iterations: options.iterations,
    seconds: options.seconds,
  };
  const members = program.tasks.map(({ name }) => ({
    name,
    module: LITMUS_MODULE,
    entry: 'runLitmus',
    args,
  }));
  const crew = new Crew(machine, members, {
    pool: workers.for(buildOf(variant)),
    watchdog: {
      stallMs: options.stallMs,
      countsProgress: true,
      // who has come to the gate has nothing to do until it opens
      atRest: (cpu) => glance(block, taskAt(cpu) + LT_CAME) > gateNumber(block, B_GATE),
    },
    ...(options.signal !== undefined && { signal: options.signal }),
  });
  const failure = await finish(crew, block, options);
  return summarize(variant, block, failure);
}

/** A bare machine, with the variant's mistake: this thread's own build need not have any. */
function bootFor({ program, mutant }: LitmusVariant, watchesMemory: boolean): BootedMachine {
  const machine = bootMachine({
    cpus: program.tasks.length,
    ramBytes: program.ramBytes ?? DEFAULT_RAM_BYTES,
    watchesMemory,
  });
  if (mutant !== undefined) {
    write(machine.cpu, MACHINE, Machine.mutant, findMutant(mutant).number);
  }
  return machine;
}

/** What says something of the protocol. Members report what a task throws: one that dies, or is lost, is our fault. */
const FINDINGS: ReadonlySet<FailureKind> = new Set(['deadlock', 'stalled']);

/** Lets the crew run to its end; what ended it, if that was not itself. @throws MachineFailure if a worker was lost */
async function finish(
  crew: Crew,
  block: Int32Array,
  { signal, onProgress }: WorkersOptions,
): Promise<MachineFailure | undefined> {
  const stop = (): void => {
    leaveWord(block, B_STOP, 1);
  };
  const timer = setInterval(() => onProgress?.(glance(block, B_ITERATIONS)), POLL_MS);
  if (signal?.aborted === true) stop();
  signal?.addEventListener('abort', stop);
  try {
    await crew.ready();
    crew.start();
    await crew.results();
    return undefined;
  } catch (error) {
    if (error instanceof MachineFailure && FINDINGS.has(error.kind)) return error;
    throw error;
  } finally {
    clearInterval(timer);
    signal?.removeEventListener('abort', stop);
  }
}

function summarize(
  variant: LitmusVariant,
  block: Int32Array,
  failure: MachineFailure | undefined,
): WorkersRun {
  const word = (at: number): number => glance(block, at);
  const iterations = word(B_ITERATIONS);
  const setup = textLeftAt(block, B_SETUP);
  if (setup.startsWith('setup: ')) {
    const message = `${variant.program.name}: ${setup}`;
    throw new FaultlineError('FAULTLINE_PROGRAM_FAILED', message, EXIT_VIOLATION);
  }
  const texts = Array.from({ length: word(B_TEXTS) }, (_, entry) => ({
    message: textLeftAt(block, textAt(entry) + TX_TEXT),
    count: word(textAt(entry) + TX_COUNT),
    kind: word(textAt(entry) + TX_KIND),
  }));
  return {
    build: buildOf(variant),
    iterations,
    ended: endOf(word(B_END), failure),
    reached: word(B_REACHED),
    seconds: Math.max(0, word(B_ENDED_MS) - word(B_STARTED_MS)) / 1000,
    outcomes: (variant.program.outcomes ?? []).map(({ name }, at) => ({
      name,
      count: word(B_OUTCOMES + at),
    })),
    broken: word(B_VIOLATIONS),
    halted: word(B_HALTED),
    violations: texts.map(({ message, count, kind }) => ({
      message:
        kind === TEXT_OUTCOME
          ? `outcome '${message}', which the program does not declare`
          : message,
      count,
      once: kind === TEXT_LOCK_REPORT,
    })),
    deadlock: failure?.kind === 'deadlock' ? deadlockOf(failure) : null,
    stopped: failure === undefined || failure.kind === 'deadlock' ? null : failure.message,
  };
}

function endOf(end: number, failure: MachineFailure | undefined): LitmusEnd {
  if (failure !== undefined) return failure.kind === 'deadlock' ? 'deadlock' : 'stopped';
  switch (end) {
    case END_ALL:
      return 'iterations';
    case END_VIOLATION_COUNT:
      return 'violation-iterations';
    case END_VIOLATION_TIME:
      return 'violation-time';
    case END_SECONDS:
      return 'seconds';
    default:
      return 'interrupted';
  }
}

/** The report of the wait-for graph: a summary, and a line for each task. */
function deadlockOf({ message }: MachineFailure): LitmusDeadlock {
  const [summary = '', ...waits] = message.split('\n');
  return { summary, waits: waits.map((line) => line.trim()) };
}
