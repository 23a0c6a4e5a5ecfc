/**
 * What is explored: a small concurrent program over a machine, with what must be true of it.
 *
 * A program is one file: a world in shared memory that `setup` makes, tasks that run on a CPU each, and what
 * is checked at the end. Tasks are lists of operations, so that a failing program can be made smaller.
 * Setup and checks run alone, on the boot CPU; tasks are explored, down to single accesses.
 *
 * @module
 */
import type { Cpu } from '../machine/cpu.js';
import type { OpsTable } from '../machine/ops-table.js';
import type { StructInfo } from '../memory/layout.js';

/** One operation of a task: runs on the task's CPU; `world` is what setup returned. */
export interface Operation {
  /** As diagrams show it: `invalidate [0, 4)`. */
  readonly name: string;
  readonly run: (cpu: Cpu, world: number) => void;
}

/** What one CPU does. */
export interface ProgramTask {
  /** As diagrams head its column: `invalidator`. */
  readonly name: string;
  readonly operations: readonly Operation[];
}

/** What an outcome is, as jcstress has it. */
export const GRADES = ['ACCEPTABLE', 'INTERESTING', 'FORBIDDEN'] as const;
export type Grade = (typeof GRADES)[number];

/** One way the program may end. */
export interface Outcome {
  /** What `observe` returns for it. */
  readonly name: string;
  readonly grade: Grade;
  readonly description: string;
}

/**
 * An order of points in which it gets interesting. A litmus run holds the workers up so that it comes about;
 * an exploration does not need it, and the points mean nothing there.
 */
export interface Window {
  /**
   * Names of points, as given to `reach`: whoever comes to one waits for those before. One that is named twice
   * holds its task up from the first time to the second.
   */
  readonly order: readonly string[];
  /** Points after these which only a mistake lets come in order: they are waited for just briefly. */
  readonly chance?: readonly string[];
}

/** A program to explore. */
export interface ExploreProgram {
  /** `lt-5`: what the command line calls it. */
  readonly name: string;
  /** In a line: what it asks. */
  readonly title: string;
  readonly tasks: readonly ProgramTask[];
  /** Memory of its machine; by default 256 KiB. Unit: bytes. */
  readonly ramBytes?: number;
  /** Its swap area; by default it has none. Unit: bytes. */
  readonly swapBytes?: number;
  /** Memory of devices that its machine sets aside; none by default. Unit: bytes. */
  readonly deviceBytes?: number;
  /** Frames in reserve, on a machine that reclaims; by default it does not. */
  readonly minFreeFrames?: number;
  /** Ops tables its structs refer to. */
  readonly ops?: Readonly<Record<string, OpsTable>>;
  /** How far a CPU's clock moves at each look at it; by default 1. Unit: milliseconds. */
  readonly tickMs?: number;
  /** False to explore spinlocks and mutexes from the inside too, instead of taking them in one step. */
  readonly modelsLocks?: boolean;
  /** False for a program that shows what follows when locks are taken in orders that lockdep would report. */
  readonly validatesLocks?: boolean;
  /** True if the program itself is wrong, and is there to show how: its failure must be found. */
  readonly isBroken?: boolean;
  /** True if at the end as many structs must be allocated as at the start, or it is a leak. */
  readonly leakFree?: boolean;
  /** Makes the world; what it returns is given to every operation. Runs once, on the boot CPU. */
  readonly setup: (cpu: Cpu) => number;
  /** The struct that `setup` returns, for reports; not needed for one that comes from kzalloc. */
  readonly world?: StructInfo;
  /** Invariants at the end of every schedule: undefined, or what is violated (`INV-16: S is odd at rest`). */
  readonly check?: (cpu: Cpu, world: number) => string | undefined;
  /** How it ended: the name of an outcome. */
  readonly observe?: (cpu: Cpu, world: number) => string;
  readonly outcomes?: readonly Outcome[];
  /** For litmus runs, if a variant does not say. */
  readonly window?: Window;
}

/** Declares a program. */
export function defineProgram(program: ExploreProgram): ExploreProgram {
  return Object.freeze(program);
}

/** A task of one operation. */
export function task(name: string, run: Operation['run']): ProgramTask {
  return { name, operations: [{ name, run }] };
}

/** An outcome that may be. */
export function accept(name: string, description: string): Outcome {
  return { name, grade: 'ACCEPTABLE', description };
}

/** The task has come to a named point of the program: a litmus run may hold it up here. No scheduling point. */
export function reach(cpu: Cpu, point: string): void {
  if (cpu.points !== null) cpu.points.reach(point);
}
