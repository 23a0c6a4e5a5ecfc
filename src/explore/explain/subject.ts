/**
 * What is explained: an engine with a program, or with what is left of it, and a judge of its runs.
 *
 * @module
 */
import { C_STEP_LIMIT } from '../control.js';
import { type Deviation, type Plan, setPlan } from '../plan.js';
import type { ExploreProgram } from '../program.js';
import type { VirtualEngine } from '../virtual-engine.js';
import type { Recording } from './recorder.js';

/** What was wrong with a run. */
export interface Failure {
  /** `invariant`, `deadlock`, `race`, … */
  readonly kind: string;
  readonly message: string;
  /** Equal for two failures that count as the same. */
  readonly signature: string;
}

/** Of each task, the numbers of its operations that are left. */
export type Operations = readonly (readonly number[])[];

/** A program that can be run. */
export interface Subject {
  /** With those operations only that are left. */
  readonly program: ExploreProgram;
  readonly engine: VirtualEngine;
  /**
   * Runs the plan, judges how it ended and restores; the trace stays in the engine's control block. A plan
   * that asks for a task that cannot go (END_DIVERGED) has not failed.
   */
  readonly fails: (plan: Plan) => Failure | undefined;
}

/** Makes the program with only those operations of its tasks; a task without any stays, and does nothing. */
export type SubjectFor = (operations: Operations) => Subject;

/** All operations of a program. */
export function allOperations(program: ExploreProgram): number[][] {
  return program.tasks.map(({ operations }) => operations.map((_, i) => i));
}

/** The program with only those operations; works on its rewritten copy as well. */
export function programWith(program: ExploreProgram, operations: Operations): ExploreProgram {
  const tasks = program.tasks.map((task, id) => ({
    ...task,
    operations: (operations[id] ?? []).map((operation) => task.operations[operation]!),
  }));
  return { ...program, tasks };
}

/**
 * Runs `deviations` as `fails` does, and notes where each operation is made. The world stays as the run left
 * it, until `engine.restore()`.
 */
export function recordRun(subject: Subject, deviations: readonly Deviation[]): Recording {
  const { engine } = subject;
  subject.fails({ deviations });
  setPlan(engine.control, { deviations, stepLimit: engine.control[C_STEP_LIMIT]! });
  return engine.record();
}
