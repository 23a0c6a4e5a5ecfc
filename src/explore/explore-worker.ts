/**
 * The worker's side of an exploration: that of task 0 explores. On the workers engine the others serve; the
 * virtual engine needs no others.
 *
 * @module
 */
import { once } from 'node:events';
import { setImmediate } from 'node:timers/promises';
import type { MessagePort } from 'node:worker_threads';

import { FaultlineError } from '../base/bug.js';
import { textOf } from '../base/reason.js';
import { type BuiltIns, loadModule } from '../host/modules.js';
import { leaveWord } from '../memory/turn-token.js';
import { C_SETTING_UP } from './control.js';
import type { Engine } from './engine.js';
import { type Operations, programWith } from './explain/subject.js';
import type { ExploreProgram } from './program.js';
import { findProgram, type ProgramRef } from './program-ref.js';
import type { EngineName } from './report.js';
import { VirtualPrograms } from './virtual-program.js';
import {
  type CrewBlocks,
  type CrewStart,
  serveSchedules,
  WorkersEngine,
} from './workers-engine.js';

/** Which function explores: it is given the engine and the args, and what it returns is the result. */
export interface ExplorerRef {
  /** Name or URL of its module. */
  readonly module: string;
  readonly entry: string;
  /** Structured-cloned, as is the result. */
  readonly args: unknown;
}

/** Explores: plans, runs and judges schedules. It may await. */
export type Explorer = (engine: Engine, args: unknown) => unknown;

/** What one worker is asked to do. */
export interface ExploreWorkerTask {
  readonly program: ProgramRef;
  readonly engine: EngineName;
  /** Number of the planted mistake; 0 for none. */
  readonly mutant: number;
  /** Only these operations of each task; null: all. */
  readonly operations: Operations | null;
  readonly task: number;
  readonly blocks: CrewBlocks;
  /** Task 0: to each of the others. The others: from task 0. */
  readonly ports: readonly MessagePort[];
  /** For task 0. */
  readonly explorer: ExplorerRef;
}

/** How a worker ended. */
export type ExploreOutcome =
  | { readonly status: 'returned'; readonly value: unknown }
  | {
      readonly status: 'failed';
      readonly errorName: string;
      readonly message: string;
      readonly stack: string;
      /** Of a FaultlineError. */
      readonly code?: string;
      readonly exitCode?: number;
    };

/** What Piscina calls once on each worker. */
export async function runExploreWorker(
  task: ExploreWorkerTask,
  builtIns: BuiltIns,
): Promise<ExploreOutcome> {
  try {
    const value = await (task.task === 0 ? explore(task, builtIns) : serve(task));
    await setImmediate(); // what a task has left behind in timers and promises ends this thread now
    return { status: 'returned', value };
  } catch (error) {
    return failureOf(error);
  } finally {
    for (const port of task.ports) port.close();
  }
}

async function explore(task: ExploreWorkerTask, builtIns: BuiltIns): Promise<unknown> {
  const { module, entry, args } = task.explorer;
  const explorer = (await loadModule(builtIns, module))[entry] as Explorer | undefined;
  if (explorer === undefined) throw new Error(`${module} exports no ${entry}`);
  if (task.engine === 'virtual') {
    const programs = await VirtualPrograms.load(task.program);
    leaveWord(task.blocks.control, C_SETTING_UP, 1);
    const { engine } = programs.part(task.operations, task.mutant, task.blocks.control);
    return explorer(engine, args);
  }
  const program = await findPart(task);
  leaveWord(task.blocks.control, C_SETTING_UP, 1);
  const engine = new WorkersEngine(program, task.blocks, task.mutant);
  for (const port of task.ports) port.postMessage(engine.start);
  engine.awaitOthers();
  try {
    return await explorer(engine, args);
  } finally {
    engine.dismissOthers();
  }
}

async function findPart({ program, operations }: ExploreWorkerTask): Promise<ExploreProgram> {
  const whole = await findProgram(program);
  return operations === null ? whole : programWith(whole, operations);
}

async function serve(member: ExploreWorkerTask): Promise<void> {
  const { task, blocks, ports } = member;
  const [found, [start]] = await Promise.all([
    findPart(member),
    once(ports[0]!, 'message') as Promise<[CrewStart]>,
  ]);
  serveSchedules(found, task, blocks, start);
}

function failureOf(error: unknown): ExploreOutcome {
  if (!(error instanceof Error)) {
    return { status: 'failed', errorName: typeof error, message: textOf(error), stack: '' };
  }
  const { name, message, stack = '' } = error;
  const failed = { status: 'failed', errorName: name, message, stack } as const;
  if (!(error instanceof FaultlineError)) return failed;
  return { ...failed, code: error.code, exitCode: error.exitCode };
}
