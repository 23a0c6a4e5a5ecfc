/**
 * The trace of a run, step by step, and which of its steps depend on each other.
 *
 * Protocol   Two operations of different tasks depend on each other if they touch a word in common and one
 *            of them changes it (`dependent` in controller.ts). Step i comes before step j by dependence if
 *            a chain of such pairs and of the tasks' own order leads from one to the other; each step has a
 *            clock, which says for every task how many of its steps come before.
 *
 * @module
 */
import { isWriteOp, OP_LOCK, OP_PARK, OP_READ, OP_RMW } from '../../memory/turnstile.js';
import {
  C_STEP,
  C_TASKS,
  STATE_READY,
  stepKind,
  stepTask,
  T_AT,
  T_COUNT,
  T_KIND,
  T_STATE,
  TASK_WORDS,
  TASKS_AT,
  TR_AT,
  TR_COUNT,
  TR_ENABLED,
  TR_WHAT,
  TRACE_AT,
  TRACE_RELEASED,
  TRACE_TIMED_OUT,
  TRACE_WORDS,
} from '../control.js';

/** One operation of one task. */
export interface Step {
  readonly step: number;
  readonly task: number;
  /** OP_* */
  readonly kind: number;
  /** First word, and how many. */
  readonly at: number;
  readonly count: number;
  /** Mask of the tasks that could have gone. */
  readonly enabled: number;
  /** How many steps its task had made before. */
  readonly local: number;
  /** The sleep ended because its time was up. */
  readonly timedOut: boolean;
  /** It only spins, and went on because nobody else could. */
  readonly released: boolean;
}

/** The steps of the run that the control block has just seen. */
export function stepsOf(control: Int32Array): Step[] {
  const made = new Int32Array(control[C_TASKS]!);
  return Array.from({ length: control[C_STEP]! }, (_, step) => {
    const trace = TRACE_AT + step * TRACE_WORDS;
    const what = control[trace + TR_WHAT]!;
    const task = stepTask(what);
    return {
      step,
      task,
      kind: stepKind(what),
      at: control[trace + TR_AT]!,
      count: control[trace + TR_COUNT]!,
      enabled: control[trace + TR_ENABLED]!,
      local: made[task]!++,
      timedOut: (what & TRACE_TIMED_OUT) !== 0,
      released: (what & TRACE_RELEASED) !== 0,
    };
  });
}

/** What each unfinished task would have done next: steps that were not made, numbered on from the last. */
export function pendingOf(control: Int32Array, steps: readonly Step[]): Step[] {
  const pending: Step[] = [];
  for (let task = 0; task < control[C_TASKS]!; task++) {
    const t = TASKS_AT + task * TASK_WORDS;
    if (control[t + T_STATE] !== STATE_READY) continue;
    pending.push({
      step: steps.length + pending.length,
      task,
      kind: control[t + T_KIND]!,
      at: control[t + T_AT]!,
      count: control[t + T_COUNT]!,
      enabled: 0,
      local: steps.filter((step) => step.task === task).length,
      timedOut: false,
      released: false,
    });
  }
  return pending;
}

/** True if the operation counts as a change of its words for those that depend on them. */
export function changes(kind: number): boolean {
  return isWriteOp(kind) || kind === OP_PARK;
}

/** True if the step's task could not know: another one touches the words, and one of them changes them. */
export function conflictsOf(steps: readonly Step[]): boolean[] {
  const readers = new Map<number, number>();
  const writers = new Map<number, number>();
  forEachWord(steps, (word, { task, kind }) => {
    const masks = changes(kind) ? writers : readers;
    masks.set(word, (masks.get(word) ?? 0) | (1 << task));
  });
  return steps.map(({ task, kind, at, count }) => {
    const others = ~(1 << task);
    for (let word = at; word < at + count; word++) {
      if (((writers.get(word) ?? 0) & others) !== 0) return true;
      if (changes(kind) && ((readers.get(word) ?? 0) & others) !== 0) return true;
    }
    return false;
  });
}

function forEachWord(steps: readonly Step[], visit: (word: number, step: Step) => void): void {
  for (const step of steps) {
    for (let word = step.at; word < step.at + step.count; word++) visit(word, step);
  }
}

/** Two steps of different tasks that depend on each other, with nothing in between that orders them. */
export interface Pair {
  /** Numbers of the steps, in the order of the run. */
  readonly first: number;
  readonly second: number;
}

/** Who touched a word last. */
interface WordHistory {
  /** Step that changed it last; -1: none. */
  changed: number;
  /** Of each task, the last look at it since then; -1: none. */
  readonly looked: Int32Array;
}

/** All such pairs, by their second step. */
export function adjacentPairs(steps: readonly Step[], tasks: number): Pair[] {
  const clocks: Int32Array[] = [];
  const words = new Map<number, WordHistory>();
  const lastOf = new Int32Array(tasks).fill(-1);
  const pairs: Pair[] = [];
  for (const step of steps) {
    const direct = directPredecessors(step, words, tasks);
    const own = lastOf[step.task]!;
    const before = own >= 0 ? [...direct, own] : [...direct];
    for (const first of direct) {
      const { task, local } = steps[first]!;
      if (task === step.task) continue;
      const isOrdered = before.some((other) => other !== first && clocks[other]![task]! > local);
      if (!isOrdered) pairs.push({ first, second: step.step });
    }
    const clock = new Int32Array(tasks);
    for (const other of before) {
      const theirs = clocks[other]!;
      for (let task = 0; task < tasks; task++) clock[task] = Math.max(clock[task]!, theirs[task]!);
    }
    clock[step.task] = step.local + 1;
    clocks.push(clock);
    lastOf[step.task] = step.step;
    noteAccess(step, words, tasks);
  }
  return pairs;
}

/** Steps that this one depends on, the latest of each kind. */
function directPredecessors(
  { kind, at, count }: Step,
  words: ReadonlyMap<number, WordHistory>,
  tasks: number,
): Set<number> {
  const found = new Set<number>();
  for (let word = at; word < at + count; word++) {
    const history = words.get(word);
    if (history === undefined) continue;
    if (history.changed >= 0) found.add(history.changed);
    if (!changes(kind)) continue;
    for (let task = 0; task < tasks; task++) {
      if (history.looked[task]! >= 0) found.add(history.looked[task]!);
    }
  }
  return found;
}

function noteAccess(
  { step, task, kind, at, count }: Step,
  words: Map<number, WordHistory>,
  tasks: number,
): void {
  for (let word = at; word < at + count; word++) {
    let history = words.get(word);
    if (history === undefined) {
      history = { changed: -1, looked: new Int32Array(tasks).fill(-1) };
      words.set(word, history);
    }
    if (changes(kind)) {
      history.changed = step;
      history.looked.fill(-1);
    } else {
      history.looked[task] = step;
    }
  }
}

/** One section of a lock that is modelled. */
export interface LockHold {
  readonly task: number;
  /** The lock's word. */
  readonly at: number;
  /** Step that took it; step that gave it back, or -1. */
  readonly taken: number;
  readonly given: number;
}

/** The sections of modelled locks, by the steps that took them. */
export function lockHolds(steps: readonly Step[]): LockHold[] {
  const open = new Map<number, { task: number; at: number; taken: number; given: number }>();
  const holds: { task: number; at: number; taken: number; given: number }[] = [];
  for (const { step, task, kind, at } of steps) {
    const held = open.get(at);
    if (kind === OP_LOCK) {
      const hold = { task, at, taken: step, given: -1 };
      open.set(at, hold);
      holds.push(hold);
    } else if (held?.task === task && kind === OP_RMW) {
      held.given = step;
      open.delete(at);
    }
  }
  return holds;
}

/** True for the operations that only look. */
export function looks(kind: number): boolean {
  return kind >= OP_READ && !changes(kind);
}
