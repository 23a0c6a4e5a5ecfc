/**
 * The worker's side of a crew: becomes one CPU of a machine and runs one program on it.
 *
 * This is the one place where an exception of kernel code is caught: it stops the machine and becomes a
 * report. Everything a worker does between the start barrier and its return blocks its thread.
 *
 * @module
 */
import { watchMemory } from '#debug';
import { fetchAdd, park, readOnce, unpark, writeOnce } from '#memory';

import { KernelBug } from '../base/bug.js';
import { attachCpu } from '../machine/boot.js';
import type { Cpu } from '../machine/cpu.js';
import { registerOps } from '../machine/ops-table.js';
import {
  beginWait,
  checkHalted,
  endWait,
  HALT_PANIC,
  haltMachine,
  MachineHalted,
} from '../machine/sched.js';
import { CpuArea, MACHINE, Machine } from '../machine/types.js';
import { WAIT_START } from '../machine/wait-kind.js';
import type { MemoryHandle } from '../memory/port.js';
import { type BuiltIns, loadModule, loadModules } from './modules.js';

/** What one worker is asked to do. */
export interface WorkerTask {
  readonly handle: MemoryHandle;
  readonly cpu: number;
  /** Name or URL of the module that has the program. */
  readonly module: string;
  /** The exported function to run: `(cpu, args) => result`. */
  readonly entry: string;
  readonly args: unknown;
  /** Names or URLs of the modules with ops tables, in the order all workers load them. */
  readonly opsModules: readonly string[];
}

/** A program: it runs on its CPU until it is done, blocking the thread; result and args are cloned. */
export type Program = (cpu: Cpu, args: unknown) => unknown;

/** How a worker died. */
export interface Death {
  readonly cpu: number;
  /** `KernelBug`, `TypeError`, … */
  readonly errorName: string;
  readonly message: string;
  readonly stack: string;
}

/** How a worker ended. */
export type Outcome =
  | { readonly status: 'returned'; readonly value: unknown; readonly operations: number }
  /** It left when the machine was halted; the stack says where it was. */
  | { readonly status: 'halted'; readonly stack: string }
  | { readonly status: 'died'; readonly death: Death };

/** What Piscina calls once on each worker; `builtIns` are the modules that need no URL. */
export async function runWorker(task: WorkerTask, builtIns: BuiltIns): Promise<Outcome> {
  const cpu = attachCpu(task.handle, task.cpu);
  watchMemory(cpu);
  try {
    const opsModules = await loadModules(builtIns, task.opsModules);
    if (opsModules.length > 0) registerOps(cpu, opsModules); // else the program may have tables of its own
    const module = await loadModule(builtIns, task.module);
    const program = module[task.entry] as Program | undefined;
    if (program === undefined) throw new Error(`${task.module} exports no ${task.entry}`);
    waitForStart(cpu);
    const value = program(cpu, task.args);
    writeOnce(cpu, cpu.area, CpuArea.finished, 1);
    return { status: 'returned', value, operations: cpu.operations };
  } catch (error) {
    if (error instanceof MachineHalted) return { status: 'halted', stack: error.stack ?? '' };
    haltMachine(cpu, HALT_PANIC);
    return { status: 'died', death: deathOf(cpu, error) };
  }
}

/** Says that this CPU is ready and waits until all are. */
function waitForStart(cpu: Cpu): void {
  fetchAdd(cpu, MACHINE, Machine.arrived, 1);
  unpark(cpu, MACHINE, Machine.arrived, 1);
  beginWait(cpu, WAIT_START, MACHINE);
  while (readOnce(cpu, MACHINE, Machine.started) === 0) {
    park(cpu, MACHINE, Machine.started, 0, Infinity);
    checkHalted(cpu);
  }
  checkHalted(cpu); // it may have been halted first and started then
  endWait(cpu);
}

/** What was thrown may be anything, and may throw when it is looked at. */
function deathOf(cpu: Cpu, error: unknown): Death {
  if (!(error instanceof Error)) {
    return { cpu: cpu.id, errorName: typeof error, message: textOf(() => error), stack: '' };
  }
  const errorName = error instanceof KernelBug ? 'KernelBug' : textOf(() => error.name);
  const message = textOf(() => error.message);
  return { cpu: cpu.id, errorName, message, stack: textOf(() => error.stack ?? '') };
}

function textOf(value: () => unknown): string {
  try {
    return String(value());
  } catch {
    return 'something that cannot be shown';
  }
}
