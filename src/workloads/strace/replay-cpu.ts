/**
 * Program of a simulated CPU in a replay: performs the calls of the tasks that ran on it, in their order,
 * and notes those that do not end as in the log, unless the reason lies outside it.
 *
 * An operation begins when those it waits for have completed, and not before its time in the log (unless
 * the replay runs as fast as it can).
 *
 * @module
 */
import { clockMs, fetchAdd, park, readAddress, readOnce, unpark, write } from '#memory';

import type { Cpu } from '../../machine/cpu.js';
import { EVERYBODY } from '../../machine/limits.js';
import { beginWait, checkHalted, endWait, noteProgress } from '../../machine/sched.js';
import { WAIT_LOG_TIME } from '../../machine/wait-kind.js';
import { member } from '../../memory/layout.js';
import { histogramRecord, NS_PER_MS } from '../histogram.js';
import {
  type EncodedPlan,
  field,
  ROW_EXPECTED,
  ROW_FIRST_WAIT,
  ROW_IS_OUTSIDE,
  ROW_NUMBER,
  ROW_TASK,
  ROW_TIME_MS,
  ROW_WAIT_COUNT,
} from './encode.js';
import { isCall, perform, type ReplayWorld, undo } from './perform.js';
import {
  completeOperation,
  noteDifference,
  ReplayResult,
  ReplayState,
  waitForTask,
} from './replay-state.js';

export interface ReplayCpuArgs extends ReplayWorld {
  readonly result: ReplayResult;
  /** Milliseconds of the replay for one of the log; 0 = as fast as it can. */
  readonly pace: number;
  /** First row of this CPU's operations in the plan, and how many there are. */
  readonly firstRow: number;
  readonly rowCount: number;
}

/** The program. */
export function replayCpu(cpu: Cpu, args: ReplayCpuArgs): void {
  const { state, plan, result, firstRow, rowCount } = args;
  for (let row = firstRow; row < firstRow + rowCount; row++) {
    if (!waitForTurn(cpu, args, row)) break;
    const before = clockMs(cpu);
    const emulated = perform(cpu, args, row);
    if (isCall(plan, row)) {
      const latencies = member(result, ReplayResult.latencies);
      histogramRecord(cpu, latencies, (clockMs(cpu) - before) * NS_PER_MS);
    }
    if (emulated !== field(plan, row, ROW_EXPECTED)) {
      if (field(plan, row, ROW_IS_OUTSIDE) === 0) noteDifference(cpu, state, row, emulated);
      undo(cpu, args, row, emulated);
    }
    completeOperation(cpu, state, field(plan, row, ROW_TASK), field(plan, row, ROW_NUMBER));
    write(cpu, result, ReplayResult.performed, row + 1 - firstRow);
    noteProgress(cpu, row + 1 - firstRow);
  }
  fetchAdd(cpu, state, ReplayState.finishedCpus, 1);
  unpark(cpu, state, ReplayState.finishedCpus, EVERYBODY);
}

/** Waits for what must come before, and for its time; false if the replay is to stop. Sleeps. */
function waitForTurn(cpu: Cpu, args: ReplayCpuArgs, row: number): boolean {
  const { state, plan, pace } = args;
  const first = field(plan, row, ROW_FIRST_WAIT);
  const waits = field(plan, row, ROW_WAIT_COUNT);
  for (let i = first; i < first + waits; i++) {
    if (!waitForTask(cpu, state, waitAt(plan, 2 * i), waitAt(plan, 2 * i + 1))) return false;
  }
  return pace === 0 ? !isStopped(cpu, state) : waitForTime(cpu, args, row);
}

function waitAt(plan: EncodedPlan, index: number): number {
  return plan.waits[index] ?? 0;
}

function isStopped(cpu: Cpu, state: ReplayState): boolean {
  return readOnce(cpu, state, ReplayState.stop) !== 0;
}

function waitForTime(cpu: Cpu, { state, plan, pace }: ReplayCpuArgs, row: number): boolean {
  const start = readAddress(cpu, state, ReplayState.startMs);
  const due = start + field(plan, row, ROW_TIME_MS) * pace;
  let left = due - clockMs(cpu);
  if (left <= 0) return !isStopped(cpu, state);
  beginWait(cpu, WAIT_LOG_TIME, state);
  while (left > 0 && !isStopped(cpu, state)) {
    park(cpu, state, ReplayState.stop, 0, left);
    checkHalted(cpu);
    left = due - clockMs(cpu);
  }
  endWait(cpu);
  return !isStopped(cpu, state);
}
