/**
 * What every task does at the end of a schedule that got nowhere: the wait-for graph, in words.
 *
 * A task that waits for a modelled lock has not recorded what it waits for: it has not begun to. What it
 * was about to do says it, and the trace says who took the lock last.
 *
 * @module
 */
import { describeCpu, lockName, snapshotCpus } from '../debug/wait-graph.js';
import type { Cpu } from '../machine/cpu.js';
import { IDLE_WAITS, WAIT_NONE } from '../machine/wait-kind.js';
import { OP_LOCK, OP_NAMES, OP_RESUME, OP_RMW, OP_SPIN } from '../memory/turnstile.js';
import {
  C_STEP,
  STATE_FINISHED,
  STATE_READY,
  stepKind,
  stepTask,
  T_AT,
  T_KIND,
  T_STATE,
  TASK_WORDS,
  TASKS_AT,
  TR_AT,
  TRACE_AT,
  TRACE_WORDS,
} from './control.js';
import type { ExploreProgram } from './program.js';

/** What a task does, and its name. */
export interface TaskWait {
  readonly task: string;
  readonly finished: boolean;
  /** It has nothing to do until somebody brings it something. */
  readonly isIdle: boolean;
  /** `waits for driver->lock, held by fault`. */
  readonly doing: string;
}

/** All tasks; before the world is restored. */
export function describeWaits(
  cpu: Cpu,
  control: Int32Array,
  program: ExploreProgram,
): readonly TaskWait[] {
  const snapshots = snapshotCpus(cpu).map((snapshot) => {
    const state = control[TASKS_AT + snapshot.cpu * TASK_WORDS + T_STATE];
    return { ...snapshot, finished: state === STATE_FINISHED };
  });
  return program.tasks.map(({ name }, task) => {
    const t = TASKS_AT + task * TASK_WORDS;
    const snapshot = snapshots[task]!;
    if (control[t + T_STATE] !== STATE_READY) {
      const finished = control[t + T_STATE] === STATE_FINISHED;
      return { task: name, finished, isIdle: false, doing: finished ? 'has ended' : 'has died' };
    }
    const kind = control[t + T_KIND]!;
    const at = control[t + T_AT]!;
    if (kind === OP_LOCK) {
      const doing = describeLock(cpu, control, program, task, at);
      return { task: name, finished: false, isIdle: false, doing };
    }
    const doing =
      snapshot.waitKind === WAIT_NONE ? pending(kind) : describeCpu(cpu, snapshot, snapshots);
    return { task: name, finished: false, isIdle: IDLE_WAITS.has(snapshot.waitKind), doing };
  });
}

function describeLock(
  cpu: Cpu,
  control: Int32Array,
  program: ExploreProgram,
  task: number,
  lock: number,
): string {
  const holder = lastToTake(control, lock);
  const by = holder === task ? 'itself' : program.tasks[holder]?.name;
  const held = by === undefined ? '' : `, held by ${by}`;
  return `waits for spinlock ${lockName(cpu, lock)}${held}`;
}

/** The task that changed the word last; -1 if none did. */
function lastToTake(control: Int32Array, lock: number): number {
  for (let step = control[C_STEP]! - 1; step >= 0; step--) {
    const trace = TRACE_AT + step * TRACE_WORDS;
    if (control[trace + TR_AT] !== lock) continue;
    const kind = stepKind(control[trace]!);
    if (kind === OP_LOCK || kind === OP_RMW) return stepTask(control[trace]!);
  }
  return -1;
}

function pending(kind: number): string {
  if (kind === OP_RESUME) return 'sleeps until somebody wakes it';
  if (kind === OP_SPIN) return 'spins';
  return `is about to ${OP_NAMES[kind] ?? 'go on'}`;
}
