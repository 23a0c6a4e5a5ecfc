/**
 * What the CPUs of a replay share: address spaces by number, how far each task is, what differed.
 *
 * @module
 */
import {
  fetchAdd,
  loadAcquire,
  park,
  read,
  readAddress,
  readOnce,
  storeRelease,
  unpark,
  writeAddress,
  writeOnce,
} from '#memory';

import type { Cpu } from '../../machine/cpu.js';
import { EVERYBODY } from '../../machine/limits.js';
import { beginWait, checkHalted, endWait } from '../../machine/sched.js';
import { WAIT_TURN } from '../../machine/wait-kind.js';
import { address, cacheline, type Field, type Ptr, struct, word } from '../../memory/layout.js';
import type { File, MmStruct } from '../../mm/types.js';
import { Histogram } from '../histogram.js';

/** Differences that are kept; all are counted. */
export const DIFFERENCES_MAX = 4096;

export const ReplayState = struct('replay_state', {
  startMs: address, // on the clock of all workers; the log's time 0
  mms: word, // for each mm of the plan: its mm_struct; 0 = not made yet, or gone
  mmTasks: word, // … and how many tasks are in it; atomic
  tasksDone: word, // for each task: operations completed; parked on
  files: word, // for each file of the plan: its File
  differences: word, // a ReplayDifference for each of the first DIFFERENCES_MAX
  line1: cacheline,
  differenceCount: word, // atomic
  line2: cacheline,
  stop: word, // the replay is to end early
  line3: cacheline,
  finishedCpus: word, // replaying CPUs that are done; parked on by the main thread
  line4: cacheline,
  devicesStop: word, // device threads are to return
});
export type ReplayState = Ptr<'replay_state'>;

/** One call that did not end as in the log. */
export const ReplayDifference = struct('replay_difference', {
  emulated: address,
  row: word, // in the encoded plan
  unused: word,
});
export type ReplayDifference = Ptr<'replay_difference'>;

/** What one CPU did. */
export const ReplayResult = struct('replay_result', {
  performed: word, // operations
  refused: word, // device faults that failed, as they had to
  faults: word, // device faults served
  accesses: word, // accesses of the engine
  line1: cacheline,
  latencies: Histogram, // of calls, or of device faults
});
export type ReplayResult = Ptr<'replay_result'>;

type WordArray = Ptr<'replay_words'>;
const at = (index: number): Field<'replay_words'> => index as Field<'replay_words'>;

/** The address space number `index`, or NULL. */
export function mmAt(cpu: Cpu, state: ReplayState, index: number): MmStruct {
  const mm: number = loadAcquire(cpu, read(cpu, state, ReplayState.mms) as WordArray, at(index)); // pairs with setMm
  return mm as MmStruct;
}

/** Makes an address space known by its number. */
export function setMm(cpu: Cpu, state: ReplayState, index: number, mm: MmStruct): void {
  storeRelease(cpu, read(cpu, state, ReplayState.mms) as WordArray, at(index), mm); // pairs with mmAt
}

/** One task more, or less, in the address space; how many there were before. */
export function countTasks(cpu: Cpu, state: ReplayState, index: number, change: number): number {
  return fetchAdd(cpu, read(cpu, state, ReplayState.mmTasks) as WordArray, at(index), change);
}

/** Tasks in the address space now. */
export function mmTaskCount(cpu: Cpu, state: ReplayState, index: number): number {
  return readOnce(cpu, read(cpu, state, ReplayState.mmTasks) as WordArray, at(index));
}

/** A file of the plan. */
export function fileAt(cpu: Cpu, state: ReplayState, index: number): File {
  const file: number = read(cpu, read(cpu, state, ReplayState.files) as WordArray, at(index));
  return file as File;
}

/** Waits until the task has completed so many operations; false if the replay is to stop. Sleeps. */
export function waitForTask(cpu: Cpu, state: ReplayState, task: number, count: number): boolean {
  const done = read(cpu, state, ReplayState.tasksDone) as WordArray;
  let seen = readOnce(cpu, done, at(task)); // pairs with completeOperation
  if (seen >= count) return true;
  beginWait(cpu, WAIT_TURN, done + task);
  while (seen < count && readOnce(cpu, state, ReplayState.stop) === 0) {
    park(cpu, done, at(task), seen, Infinity);
    checkHalted(cpu);
    seen = readOnce(cpu, done, at(task));
  }
  endWait(cpu);
  return seen >= count;
}

/** The task has completed its operation number `number`. */
export function completeOperation(
  cpu: Cpu,
  state: ReplayState,
  task: number,
  number: number,
): void {
  const done = read(cpu, state, ReplayState.tasksDone) as WordArray;
  storeRelease(cpu, done, at(task), number + 1); // pairs with waitForTask
  unpark(cpu, done, at(task), EVERYBODY);
}

/** Notes a call that ended otherwise than in the log. */
export function noteDifference(cpu: Cpu, state: ReplayState, row: number, emulated: number): void {
  const index = fetchAdd(cpu, state, ReplayState.differenceCount, 1);
  if (index >= DIFFERENCES_MAX) return;
  const first = read(cpu, state, ReplayState.differences);
  const difference = (first + index * ReplayDifference.words) as ReplayDifference;
  writeAddress(cpu, difference, ReplayDifference.emulated, emulated);
  writeOnce(cpu, difference, ReplayDifference.row, row);
}

/** All differences that were kept; only when nobody replays. */
export function differencesOf(cpu: Cpu, state: ReplayState): { row: number; emulated: number }[] {
  const count = Math.min(readOnce(cpu, state, ReplayState.differenceCount), DIFFERENCES_MAX);
  const first = read(cpu, state, ReplayState.differences);
  return Array.from({ length: count }, (_, index) => {
    const difference = (first + index * ReplayDifference.words) as ReplayDifference;
    return {
      row: read(cpu, difference, ReplayDifference.row),
      emulated: readAddress(cpu, difference, ReplayDifference.emulated),
    };
  });
}

/** Sets an element of one of the arrays of words. */
export function setWord(cpu: Cpu, array: number, index: number, value: number): void {
  writeOnce(cpu, array as WordArray, at(index), value);
}
