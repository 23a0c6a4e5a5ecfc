/**
 * The dependence order of one run: which steps must come before which in every run that is equivalent to it,
 * and which two could have come the other way round.
 *
 * Protocol   Steps are taken in one by one. For each word the steps that touched it are kept in two lists,
 *            the newest first: of its value, and of its sleepers. A step comes after those on its words that
 *            it does not commute with (controller.ts, `conflicts`), and after what came before these. That
 *            is kept as a clock for each step: of each task, the last step that comes before, and one more.
 *
 *            A race is a step e and an operation t of another task p that depends on it, where e need not
 *            have come before p got to t. Which e are looked at:
 *
 *              t can always go         the loads since the last store, or if t is a load or nobody else has
 *                                      loaded, that store: older ones are races of the runs found by these
 *              t waits for something   (a modelled lock, a wake-up, a watched word) all that t depends on,
 *                                      unless t could not go when e went. So a release of a lock is no race
 *                                      with the next acquire; the acquire before it is, although it is the
 *                                      release that lets t go
 *
 *            Waiting operations race too: at the end of a run; and where all who wait for a change are let
 *            go on, which comes after everything before it and before everything after.
 *
 * @module
 */
import {
  isWriteOp,
  OP_ACQUIRE,
  OP_LOCK,
  OP_PARK,
  OP_READ_ONCE,
  OP_RESUME,
  OP_RMW,
  OP_SPIN,
  OP_UNPARK,
} from '../../memory/turnstile.js';
import { conflicts } from '../conflicts.js';
import {
  C_STEP,
  STATE_READY,
  stepKind,
  STEPS_MAX,
  stepTask,
  T_AT,
  T_COUNT,
  T_KIND,
  T_STATE,
  T_WATCHING,
  TASK_WORDS,
  TASKS_AT,
  TR_AT,
  TR_COUNT,
  TR_ENABLED,
  TRACE_AT,
  TRACE_RELEASED,
  TRACE_TIMED_OUT,
  TRACE_WATCHED,
  TRACE_WORDS,
  WATCH_MAX,
} from '../control.js';

/** Words of a list's entry: step, kind, next older entry, word. */
const ENTRY_STEP = 0;
const ENTRY_KIND = 1;
const ENTRY_NEXT = 2;
const ENTRY_WORD = 3;
const ENTRY_WORDS = 4;

/** An operation that a task made or waits to make. */
interface Operation {
  task: number;
  kind: number;
  at: number;
  count: number;
  /** It waits for a change of the words that the task watches. */
  watches: boolean;
  /** The step at which it is made, or would be. */
  step: number;
}

/** Hears of each race: `first` is a mask of the tasks of which one must go instead of the step. */
export interface RaceListener {
  onRace(step: number, first: number): void;
}

/** Works on one trace after the other. */
export class Dependence {
  readonly #tasks: number;
  readonly #listener: RaceListener;
  /** Of each step. */
  readonly #clocks: Int32Array;
  /** Of each task: of its last step, and what it waits for. */
  readonly #now: Int32Array;
  /** Of the operation at hand, made now. */
  readonly #clock: Int32Array;
  /** Each task's last step, and one more. */
  readonly #last: Int32Array;
  /** The newest entry of each word's two lists. */
  readonly #values: Int32Array;
  readonly #sleepers: Int32Array;
  #entries = new Int32Array(ENTRY_WORDS << 12);
  #entryCount = 1;
  /** Words each task has loaded in this turn of a loop. */
  readonly #watched: Int32Array;
  readonly #watchedCount: Int32Array;
  readonly #firstStep: Int32Array;
  #control: Int32Array = new Int32Array(0);
  #lastRace = -1;

  constructor(tasks: number, memoryWords: number, listener: RaceListener) {
    this.#tasks = tasks;
    this.#listener = listener;
    this.#clocks = new Int32Array(STEPS_MAX * tasks);
    this.#now = new Int32Array(tasks * tasks);
    this.#clock = new Int32Array(tasks);
    this.#last = new Int32Array(tasks);
    this.#values = new Int32Array(memoryWords);
    this.#sleepers = new Int32Array(memoryWords);
    this.#watched = new Int32Array(tasks * WATCH_MAX);
    this.#watchedCount = new Int32Array(tasks);
    this.#firstStep = new Int32Array(tasks);
  }

  /** Finds the races of the run whose trace is in the control block, from a step on. */
  findRaces(control: Int32Array, from: number): void {
    this.#control = control;
    this.#now.fill(0);
    this.#last.fill(0);
    this.#watchedCount.fill(0);
    const operation: Operation = { task: 0, kind: 0, at: 0, count: 0, watches: false, step: 0 };
    const steps = control[C_STEP]!;
    for (let step = 0; step < steps; step++) {
      const trace = TRACE_AT + step * TRACE_WORDS;
      const what = control[trace]!;
      if ((what & TRACE_RELEASED) !== 0) this.#releaseAll(step, step >= from);
      operation.task = stepTask(what);
      operation.kind = stepKind(what);
      operation.at = control[trace + TR_AT]!;
      operation.count = control[trace + TR_COUNT]!;
      operation.watches = (what & TRACE_WATCHED) !== 0;
      operation.step = step;
      this.#order(operation);
      if (step >= from) this.#racesOf(operation);
      this.#takeIn(operation);
      this.#noteWatched(operation, what);
    }
    for (let task = 0; task < this.#tasks; task++) {
      if (control[TASKS_AT + task * TASK_WORDS + T_STATE] !== STATE_READY) continue;
      this.#racesOfWaiting(this.#waiting(task, steps));
    }
    this.#forget();
  }

  // --- the order ---

  /** Works out the clock that the operation would have, made now. */
  #order(operation: Operation): void {
    const { task, kind, at, count } = operation;
    const tasks = this.#tasks;
    const clock = this.#clock;
    for (let i = 0; i < tasks; i++) clock[i] = this.#now[task * tasks + i]!;
    if (operation.watches) {
      const from = task * WATCH_MAX;
      for (let i = 0; i < this.#watchedCount[task]!; i++) {
        this.#joinList(this.#values[this.#watched[from + i]!]!, OP_READ_ONCE, isBarrierOfValue);
      }
    }
    if (kind === OP_SPIN) return;
    for (let word = at; word < at + count; word++) {
      if (kind !== OP_UNPARK && kind !== OP_RESUME) {
        this.#joinList(this.#values[word]!, kind, isBarrierOfValue);
      }
      if (this.#sleepers[word] !== 0) {
        this.#joinList(this.#sleepers[word]!, kind, isBarrierOfSleepers);
      }
    }
  }

  #joinList(head: number, kind: number, isBarrier: (kind: number) => boolean): void {
    const entries = this.#entries;
    for (let entry = head; entry !== 0; entry = entries[entry + ENTRY_NEXT]!) {
      const other = entries[entry + ENTRY_KIND]!;
      if (conflicts(kind, other)) this.#join(entries[entry + ENTRY_STEP]! * this.#tasks);
      if (isBarrier(other)) return; // what is older comes before it
    }
  }

  #join(of: number): void {
    const clock = this.#clock;
    for (let i = 0; i < this.#tasks; i++) {
      const theirs = this.#clocks[of + i]!;
      if (theirs > clock[i]!) clock[i] = theirs;
    }
  }

  /** The operation was made. */
  #takeIn(operation: Operation): void {
    const { task, kind, at, count, step } = operation;
    const tasks = this.#tasks;
    const clock = this.#clock;
    clock[task] = step + 1;
    this.#last[task] = step + 1;
    for (let i = 0; i < tasks; i++) {
      this.#now[task * tasks + i] = clock[i]!;
      this.#clocks[step * tasks + i] = clock[i]!;
    }
    if (kind !== OP_SPIN) {
      for (let word = at; word < at + count; word++) this.#addWord(word, step, kind);
    }
    if (!operation.watches) return;
    const from = task * WATCH_MAX;
    for (let i = 0; i < this.#watchedCount[task]!; i++) {
      this.#addEntry(this.#values, this.#watched[from + i]!, step, OP_READ_ONCE);
    }
  }

  #addWord(word: number, step: number, kind: number): void {
    const isSleep = kind === OP_PARK || kind === OP_UNPARK || kind === OP_RESUME;
    const isNote = kind > OP_LOCK;
    if (isSleep || isNote) this.#addEntry(this.#sleepers, word, step, kind);
    if (!isSleep || kind === OP_PARK) this.#addEntry(this.#values, word, step, kind);
  }

  #addEntry(heads: Int32Array, word: number, step: number, kind: number): void {
    const entry = this.#entryCount++ * ENTRY_WORDS;
    if (entry >= this.#entries.length) {
      const grown = new Int32Array(2 * this.#entries.length);
      grown.set(this.#entries);
      this.#entries = grown;
    }
    const entries = this.#entries;
    entries[entry + ENTRY_STEP] = step;
    entries[entry + ENTRY_KIND] = kind;
    entries[entry + ENTRY_NEXT] = heads[word]!;
    entries[entry + ENTRY_WORD] = word;
    heads[word] = entry;
  }

  #noteWatched(operation: Operation, what: number): void {
    const { task, kind } = operation;
    if (kind === OP_READ_ONCE || kind === OP_ACQUIRE || kind === OP_PARK) {
      const count = this.#watchedCount[task]!;
      if (count === WATCH_MAX) return;
      this.#watched[task * WATCH_MAX + count] = operation.at;
      this.#watchedCount[task] = count + 1;
    } else if (kind === OP_SPIN || (what & TRACE_TIMED_OUT) !== 0) {
      this.#watchedCount[task] = 0;
    }
  }

  /** Who waits for a change goes on without: after all that was, before all that will be. */
  #releaseAll(step: number, isNew: boolean): void {
    const tasks = this.#tasks;
    const now = this.#now;
    const released = this.#enabledAt(step);
    for (let task = 0; isNew && task < tasks; task++) {
      if (((released >> task) & 1) !== 0) this.#racesOfWaiting(this.#waitingAt(task, step));
    }
    const all = new Int32Array(tasks);
    for (let task = 0; task < tasks; task++) {
      for (let i = 0; i < tasks; i++) all[i] = Math.max(all[i]!, now[task * tasks + i]!);
    }
    for (let task = 0; task < tasks; task++) {
      if (((released >> task) & 1) !== 0) now.set(all, task * tasks);
    }
  }

  /** What a task that is let go on at the step was waiting to do: its next operation. */
  #waitingAt(task: number, step: number): Operation {
    const control = this.#control;
    for (let next = step; next < control[C_STEP]!; next++) {
      const trace = TRACE_AT + next * TRACE_WORDS;
      const what = control[trace]!;
      if (stepTask(what) !== task) continue;
      const at = control[trace + TR_AT]!;
      const count = control[trace + TR_COUNT]!;
      return { task, kind: stepKind(what), at, count, watches: true, step };
    }
    return { ...this.#waiting(task, step), watches: true };
  }

  /** What a task waits to do at the end. */
  #waiting(task: number, step: number): Operation {
    const control = this.#control;
    const t = TASKS_AT + task * TASK_WORDS;
    return {
      task,
      kind: control[t + T_KIND]!,
      at: control[t + T_AT]!,
      count: control[t + T_COUNT]!,
      watches: control[t + T_WATCHING] !== 0,
      step,
    };
  }

  #forget(): void {
    const entries = this.#entries;
    const end = this.#entryCount * ENTRY_WORDS;
    for (let entry = ENTRY_WORDS; entry < end; entry += ENTRY_WORDS) {
      const word = entries[entry + ENTRY_WORD]!;
      this.#values[word] = 0;
      this.#sleepers[word] = 0;
    }
    this.#entryCount = 1;
  }

  // --- races ---

  #racesOfWaiting(operation: Operation): void {
    this.#order(operation);
    this.#racesOf(operation);
  }

  #racesOf(operation: Operation): void {
    const { task, kind, at, count } = operation;
    this.#lastRace = -1;
    if (operation.watches) {
      const from = task * WATCH_MAX;
      for (let i = 0; i < this.#watchedCount[task]!; i++) {
        this.#racesOfWaiter(operation, this.#values[this.#watched[from + i]!]!, OP_READ_ONCE);
      }
    }
    if (kind === OP_SPIN) return;
    for (let word = at; word < at + count; word++) {
      if (kind === OP_LOCK) {
        this.#racesOfWaiter(operation, this.#values[word]!, kind);
      } else if (kind === OP_RESUME) {
        this.#racesOfWaiter(operation, this.#sleepers[word]!, kind);
      } else {
        if (kind !== OP_UNPARK) this.#racesOfValue(operation, this.#values[word]!);
        this.#racesOfSleepers(operation, this.#sleepers[word]!);
      }
    }
  }

  /** The loads since the last store, or that store. */
  #racesOfValue(operation: Operation, head: number): void {
    const { task, kind } = operation;
    const entries = this.#entries;
    let loaded = 0;
    for (let entry = head; entry !== 0; entry = entries[entry + ENTRY_NEXT]!) {
      const other = entries[entry + ENTRY_KIND]!;
      const step = entries[entry + ENTRY_STEP]!;
      if (isBarrierOfValue(other)) {
        if (loaded === 0) this.#raceUnlessBefore(operation, step);
        return;
      }
      if (!conflicts(kind, other)) continue;
      const bit = 1 << this.#taskAt(step);
      if (bit === 1 << task || (loaded & bit) !== 0) continue;
      loaded |= bit;
      this.#raceUnlessBefore(operation, step);
    }
  }

  #racesOfSleepers(operation: Operation, head: number): void {
    const entries = this.#entries;
    for (let entry = head; entry !== 0; entry = entries[entry + ENTRY_NEXT]!) {
      const other = entries[entry + ENTRY_KIND]!;
      if (conflicts(operation.kind, other)) {
        this.#raceUnlessBefore(operation, entries[entry + ENTRY_STEP]!);
      }
      if (isBarrierOfSleepers(other)) return;
    }
  }

  /** All that decides whether the operation can go. */
  #racesOfWaiter(operation: Operation, head: number, kind: number): void {
    const { task } = operation;
    const entries = this.#entries;
    for (let entry = head; entry !== 0; entry = entries[entry + ENTRY_NEXT]!) {
      const other = entries[entry + ENTRY_KIND]!;
      const step = entries[entry + ENTRY_STEP]!;
      if (!conflicts(kind, other)) continue;
      if (this.#isBefore(step, task)) {
        if (isWriteOp(other)) return; // and so is what is older
        continue;
      }
      if (this.#taskAt(step) === task) continue;
      if (this.#last[task]! <= step) {
        // it waited already: was it possible?
        if (((this.#enabledAt(step) >> task) & 1) === 0) continue;
        this.#race(operation, step);
        if (kind === OP_LOCK && isWriteOp(other)) return; // older ones: where this one goes first
      } else {
        if (kind === OP_LOCK && this.#isRelease(entry)) continue;
        this.#race(operation, step);
        if (kind === OP_LOCK && other === OP_LOCK) return;
      }
    }
  }

  /** True for the update that ends a modelled lock's section: the lock was not free before. */
  #isRelease(entry: number): boolean {
    const entries = this.#entries;
    if (entries[entry + ENTRY_KIND] !== OP_RMW) return false;
    const holder = this.#taskAt(entries[entry + ENTRY_STEP]!);
    for (let older = entries[entry + ENTRY_NEXT]!; older !== 0;) {
      const kind = entries[older + ENTRY_KIND]!;
      if (isWriteOp(kind)) {
        return kind === OP_LOCK && this.#taskAt(entries[older + ENTRY_STEP]!) === holder;
      }
      older = entries[older + ENTRY_NEXT]!;
    }
    return false;
  }

  #raceUnlessBefore(operation: Operation, step: number): void {
    if (this.#taskAt(step) === operation.task || this.#isBefore(step, operation.task)) return;
    this.#race(operation, step);
  }

  /**
   * The operation may come before the step: with everything in between that does not depend on the step
   * coming first. Whoever can begin that goes instead of the step.
   */
  #race(operation: Operation, step: number): void {
    if (step === this.#lastRace) return; // of another word of the same two
    this.#lastRace = step;
    const tasks = this.#tasks;
    const clocks = this.#clocks;
    const firstStep = this.#firstStep;
    const racer = this.#taskAt(step);
    let seen = 0;
    let initial = 0;
    for (let between = step + 1; between < operation.step; between++) {
      const clock = between * tasks;
      if (clocks[clock + racer]! > step) continue;
      const task = this.#taskAt(between);
      if (((seen >> task) & 1) !== 0) continue;
      if (!this.#comesAfterAny(clocks, clock, seen)) initial |= 1 << task;
      seen |= 1 << task;
      firstStep[task] = between;
    }
    const { task } = operation;
    if (((seen >> task) & 1) === 0 && !this.#comesAfterAny(this.#clock, 0, seen)) {
      initial |= 1 << task;
    }
    this.#listener.onRace(step, initial & this.#enabledAt(step));
  }

  /** True if the clock has the first step of any of the tasks. */
  #comesAfterAny(clocks: Int32Array, clock: number, tasks: number): boolean {
    for (let task = 0; tasks >> task !== 0; task++) {
      if (((tasks >> task) & 1) !== 0 && clocks[clock + task]! > this.#firstStep[task]!)
        return true;
    }
    return false;
  }

  #isBefore(step: number, task: number): boolean {
    return this.#now[task * this.#tasks + this.#taskAt(step)]! > step;
  }

  #taskAt(step: number): number {
    return stepTask(this.#control[TRACE_AT + step * TRACE_WORDS]!);
  }

  #enabledAt(step: number): number {
    return this.#control[TRACE_AT + step * TRACE_WORDS + TR_ENABLED]!;
  }
}

/** Operations that conflict with every other on the word's value. */
function isBarrierOfValue(kind: number): boolean {
  return isWriteOp(kind);
}

/** … on the word's sleepers. */
function isBarrierOfSleepers(kind: number): boolean {
  return kind === OP_UNPARK || kind > OP_LOCK;
}
