/**
 * Steps in words: what was done to which word, where, and why another task went on.
 *
 * @module
 */
import { textOf } from '../../base/reason.js';
import { describeCpu, snapshotCpus } from '../../debug/wait-graph.js';
import type { WordName } from '../../debug/word-name.js';
import type { Cpu } from '../../machine/cpu.js';
import {
  isWriteOp,
  OP_ALLOC,
  OP_FREE,
  OP_LOCK,
  OP_PARK,
  OP_READ,
  OP_RESUME,
  OP_RMW,
  OP_SPIN,
  OP_UNPARK,
  OP_WRITE,
} from '../../memory/turnstile.js';
import {
  STATE_DIED,
  STATE_FINISHED,
  T_AT,
  T_KIND,
  T_STATE,
  T_WOKEN,
  TASK_WORDS,
  TASKS_AT,
} from '../control.js';
import type { CriticalPair, Switch } from './explanation.js';
import type { Names } from './names.js';
import type { StepState } from './states.js';
import type { LockHold, Pair, Step } from './trace.js';

/** What an operation does, as a diagram has it. */
export function actionOf(kind: number): string {
  switch (kind) {
    case OP_RMW:
      return 'update';
    case OP_PARK:
      return 'sleep if';
    case OP_RESUME:
      return 'wake up';
    case OP_UNPARK:
      return 'wake';
    case OP_SPIN:
      return 'spin';
    case OP_LOCK:
      return 'lock';
    case OP_FREE:
      return 'free';
    case OP_ALLOC:
      return 'alloc';
    default:
      return isWriteOp(kind) ? 'write' : 'read';
  }
}

/** The same as a verb: `reads`. */
function verbOf(kind: number): string {
  switch (kind) {
    case OP_PARK:
      return 'goes to sleep on';
    case OP_RESUME:
      return 'wakes up on';
    case OP_UNPARK:
      return 'wakes sleepers on';
    case OP_LOCK:
      return 'takes';
    case OP_ALLOC:
      return 'allocates';
    default:
      return `${actionOf(kind)}s`;
  }
}

const SLEEPS: ReadonlySet<number> = new Set([OP_PARK, OP_RESUME, OP_UNPARK]);

/** A critical pair as a sentence. */
export function describePair(
  { first, second }: Pair,
  steps: readonly Step[],
  names: Names,
): CriticalPair {
  const one = steps[first]!;
  const other = steps[second]!;
  const isLock = one.kind === OP_LOCK && other.kind === OP_LOCK;
  const word = Math.max(one.at, other.at);
  const name = isLock ? names.lockName(word) : names.of(word).full;
  const verb = verbOf(one.kind);
  const then = verbOf(other.kind);
  const sentence =
    `CPU${one.task} ${verb} ${name} before CPU${other.task} ` +
    (verb === then ? 'does' : `${then} it`);
  const isSleep = [one, other].some(({ kind }) => SLEEPS.has(kind));
  return { first, second, name, sentence, isLock, isSleep };
}

/** Those of data, or of locks if there are no others, or of sleeping; each sentence once. */
export function decisivePairs(pairs: readonly CriticalPair[]): CriticalPair[] {
  const awake = pairs.filter(({ isSleep }) => !isSleep);
  const ofData = awake.filter(({ isLock }) => !isLock);
  const told = [ofData, awake, pairs].find(({ length }) => length > 0) ?? [];
  const distinct = new Map<string, CriticalPair>();
  for (const pair of told) {
    if (!distinct.has(pair.sentence)) distinct.set(pair.sentence, pair);
  }
  return [...distinct.values()];
}

/** All pairs in one sentence. Where two are about the same word, it says which steps it means. */
export function describePairs(pairs: readonly CriticalPair[]): string | undefined {
  const told = decisivePairs(pairs);
  const sentences = told.map(({ name, sentence, first, second }) => {
    const isOnlyOne = told.every((other) => other.first === first || other.name !== name);
    return isOnlyOne ? sentence : `${sentence} (steps ${first}, ${second})`;
  });
  return sentences.length === 0 ? undefined : `fails iff ${sentences.join(' and ')}`;
}

/** Why tasks were set aside. */
export function switchesOf(
  steps: readonly Step[],
  holds: readonly LockHold[],
  control: Int32Array,
  names: Names,
): Switch[] {
  return steps.flatMap(({ step, task, enabled }) => {
    const from = steps[step - 1]?.task ?? task;
    if (from === task) return [];
    const couldGo = ((enabled >> from) & 1) !== 0;
    const reason = couldGo ? 'preempted' : whyNot(from, step, steps, holds, control, names);
    return [{ step, from, to: task, reason }];
  });
}

/** Why the task cannot go at that step. */
function whyNot(
  task: number,
  step: number,
  steps: readonly Step[],
  holds: readonly LockHold[],
  control: Int32Array,
  names: Names,
): string {
  const t = TASKS_AT + task * TASK_WORDS;
  const next = steps.find((later) => later.step >= step && later.task === task);
  if (next === undefined) {
    if (control[t + T_STATE] === STATE_FINISHED) return 'finished';
    if (control[t + T_STATE] === STATE_DIED) return 'died';
  }
  const kind = next?.kind ?? control[t + T_KIND]!;
  const at = next?.at ?? control[t + T_AT]!;
  if (kind === OP_RESUME) return `sleeps on ${names.of(at).short}`;
  if (kind === OP_SPIN) return 'spins';
  if (kind !== OP_LOCK) return 'waits';
  const holder = holds.find(
    (hold) => hold.at === at && hold.taken < step && (hold.given < 0 || hold.given >= step),
  );
  return `waits for ${names.lockName(at)}${holder === undefined ? '' : `, held by CPU${holder.task}`}`;
}

/** Where each task is at the end of the run; the world is as the run left it. */
export function endsOf(
  control: Int32Array,
  cpu: Cpu,
  holds: readonly LockHold[],
  names: Names,
  error: unknown,
): string[] {
  const cpus = snapshotCpus(cpu);
  return cpus.map((snapshot, task) => {
    const t = TASKS_AT + task * TASK_WORDS;
    const held = snapshot.held.map((lock) => names.lockName(lock));
    const holding = held.length === 0 ? '' : `; holds ${held.join(', ')}`;
    const kind = control[t + T_KIND]!;
    const at = control[t + T_AT]!;
    if (control[t + T_STATE] === STATE_FINISHED) return `finished${holding}`;
    if (control[t + T_STATE] === STATE_DIED) {
      return `died: ${textOf(error)}${holding}`;
    }
    if (kind === OP_LOCK) {
      const holder = holds.find((hold) => hold.at === at && hold.given < 0);
      const by = holder === undefined ? '' : `, held by CPU${holder.task}`;
      return `waits for ${names.lockName(at)}${by}${holding}`;
    }
    if (snapshot.waitKind !== 0 && kind >= OP_PARK) return describeCpu(cpu, snapshot, cpus);
    if (kind === OP_RESUME) {
      const woken = control[t + T_WOKEN] !== 0 ? 'has been woken on' : 'sleeps on';
      return `${woken} ${names.of(at).short}${holding}`;
    }
    if (kind === OP_SPIN) return `spins${holding}`;
    return `is about to ${actionOf(kind)} ${names.of(at).short}${holding}`;
  });
}

const float = new Float64Array(1);
const floatWords = new Int32Array(float.buffer);

/** Addresses are wider than words, and kept as doubles in two. */
function addressOf([low, high]: readonly [number, number]): number {
  floatWords[0] = low;
  floatWords[1] = high;
  return float[0]!;
}

/** What a step found and left, as texts. */
export function valuesOf(
  step: Step,
  state: StepState | undefined,
  word: WordName,
  names: Names,
): { before: string | undefined; after: string | undefined } {
  const isPlain = step.kind === OP_READ || step.kind === OP_WRITE;
  const isAddress = word.type.startsWith('address') && step.count === 2 && isPlain;
  if (state === undefined || (step.count !== 1 && !isAddress)) {
    return { before: undefined, after: undefined };
  }
  const text = (words: readonly [number, number]): string =>
    isAddress ? valueText(addressOf(words), names) : valueText(words[0], names);
  return { before: text(state.before), after: text(state.after) };
}

/** Small numbers as they are, large ones in hexadecimal, addresses of what has a name by their names. */
function valueText(value: number, names: Names): string {
  const object = names.objectName(value);
  if (object !== undefined) return `&${object}`;
  if (value >= 0 && value < 0x10000) return String(value);
  if (value < 0 && value > -0x1000) return String(value);
  return `0x${(value < 0 ? value >>> 0 : value).toString(16)}`;
}
