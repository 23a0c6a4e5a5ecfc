/**
 * The controller: decides at every operation of every task who goes next.
 *
 * Protocol   A task announces its next operation (`announce`), which chooses the task whose turn is next;
 *            whoever has the turn makes the operation it announced (`commit`). So one operation is one step,
 *            and between two steps every unfinished task has announced what it will do.
 *
 *              can go             operation
 *              always             loads, stores, updates, the look before a sleep, unpark
 *              when woken         the end of a sleep; also when it is timed: then its time is up
 *              when the word is 0 taking a lock that is modelled
 *              when what it read  a turn of a spin loop in which it read the same as in the turn before,
 *              has changed        and changed nothing (an update that leaves what it finds is no change):
 *                                 found by comparing, no annotation; and the end of a timed sleep in such
 *                                 a loop
 *
 *            Where nobody can go, all who wait for a change of what they read are let go on at once: loops
 *            that give up after a time get there. If that leads nowhere, they are stuck.
 *
 * Invariant  I1  The same plan and program give the same trace: nothing here or in the door looks at a
 *                clock, a random number that is not the plan's, or who is faster.
 *            I2  Two neighbouring steps by different tasks that are not `dependent` lead to the same state
 *                in either order, and neither makes the other possible or impossible. What a task has of its
 *                own (its clock, its own words) depends on its own steps only; who wakes first depends on
 *                the order of sleeps on the same word. Letting all go on at once comes after every step so
 *                far and before every one that follows. DPOR rests on this.
 * Ordering   In the workers engine only who has the turn runs, here and in the program; handing it on is a
 *            release that the next one acquires.
 *
 * @module
 */
import { bitCount, hasOneBit, lowestBit } from '../base/bits.js';
import {
  isWriteOp,
  OP_ACQUIRE,
  OP_LOCK,
  OP_PARK,
  OP_READ_ONCE,
  OP_RESUME,
  OP_RMW,
  OP_SPIN,
} from '../memory/turnstile.js';
import { dependent } from './conflicts.js';
import {
  C_DEVIATIONS,
  C_DEVIATIONS_TAKEN,
  C_END,
  C_HASH,
  C_LAST,
  C_LOG,
  C_LOWEST,
  C_PARKED,
  C_RANDOM,
  C_RULE,
  C_SLEEP_FROM,
  C_SLEEPING,
  C_SPIN_RELEASES,
  C_STEP,
  C_STEP_LIMIT,
  C_TASKS,
  C_TICK,
  C_TURN,
  DEVIATIONS_AT,
  END_DEADLOCK,
  END_DIVERGED,
  END_DONE,
  END_LIVELOCK,
  END_SEEN,
  END_STEPS,
  firstOf,
  LOG_AT,
  LOG_END,
  RULE_ASK,
  RULE_POS,
  RULE_PRIORITY,
  RULE_RANDOM,
  RULE_SLEEP_SETS,
  SLEEP_AT,
  STATE_FINISHED,
  STATE_NONE,
  STATE_READY,
  T_AT,
  T_BEFORE,
  T_CLOCK,
  T_COUNT,
  T_KIND,
  T_PARKED,
  T_PRIORITY,
  T_READS,
  T_SKIP,
  T_SPIN_BEFORE,
  T_SPIN_HASH,
  T_STATE,
  T_STORED,
  T_TIMEOUT,
  T_UPDATED,
  T_WATCH,
  T_WATCHING,
  T_WOKEN,
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
} from './control.js';

/** Times in a row that all are let go on, and nobody stores anything, before they count as stuck. */
const SPIN_RELEASES_MAX = 16;

/** The state of one schedule, over a control block. */
export class Controller {
  readonly words: Int32Array;
  /** The machine's memory. */
  readonly memory: Int32Array;
  /** RULE_ASK: which task goes, out of the mask of those that can. */
  ask: (enabled: number) => number = (enabled) => lowestBit(enabled);

  constructor(words: Int32Array, memory: Int32Array) {
    this.words = words;
    this.memory = memory;
  }

  /** Makes ready for a schedule of `tasks` tasks; the plan is set already. */
  reset(tasks: number): void {
    const c = this.words;
    c[C_STEP] = 0;
    c[C_TURN] = -1;
    c[C_LAST] = -1;
    c[C_END] = 0;
    c[C_DEVIATIONS_TAKEN] = 0;
    c[C_TASKS] = tasks;
    c[C_LOG] = 0;
    c[C_PARKED] = 0;
    c[C_LOWEST] = 0;
    c[C_SPIN_RELEASES] = 0;
    c[C_HASH] = 0;
    for (let task = 0; task < tasks; task++) {
      const t = TASKS_AT + task * TASK_WORDS;
      c[t + T_STATE] = STATE_NONE;
      c[t + T_KIND] = 0;
      c[t + T_WOKEN] = 0;
      c[t + T_TIMEOUT] = -1;
      c[t + T_CLOCK] = 0;
      c[t + T_SKIP] = 0;
      c[t + T_SPIN_HASH] = 0;
      c[t + T_SPIN_BEFORE] = 0;
      c[t + T_STORED] = 1;
      c[t + T_READS] = 0;
      c[t + T_WATCHING] = 0;
      c[t + T_UPDATED] = 0;
    }
  }

  /** Says what the task will do next. */
  announce(task: number, kind: number, at: number, count: number): void {
    const c = this.words;
    const t = TASKS_AT + task * TASK_WORDS;
    if (c[t + T_UPDATED] !== 0) this.#updated(t);
    c[t + T_STATE] = STATE_READY;
    c[t + T_KIND] = kind;
    c[t + T_AT] = at;
    c[t + T_COUNT] = count;
    const mayWatch = kind === OP_SPIN || (kind === OP_RESUME && c[t + T_TIMEOUT]! >= 0);
    c[t + T_WATCHING] = mayWatch ? this.#watches(t) : 0;
    if (c[C_RULE] === RULE_POS && c[C_STEP] !== 0) c[t + T_PRIORITY] = this.#random() >>> 1;
  }

  /** The task has nothing more to do. */
  finish(task: number, state = STATE_FINISHED): void {
    this.words[TASKS_AT + task * TASK_WORDS + T_STATE] = state;
  }

  /** 1 if the task does in this turn of its loop what it did in the last. */
  #watches(t: number): number {
    const c = this.words;
    const same =
      c[t + T_STORED] === 0 &&
      (c[t + T_READS] ?? 0) > 0 &&
      (c[t + T_READS] ?? 0) <= WATCH_MAX &&
      c[t + T_SPIN_HASH] === c[t + T_SPIN_BEFORE];
    return same ? 1 : 0;
  }

  /** True if the operation need not wait. */
  #isOpen(t: number): boolean {
    const c = this.words;
    switch (c[t + T_KIND]) {
      case OP_LOCK:
        return this.memory[c[t + T_AT]!] === 0;
      case OP_RESUME:
        if (c[t + T_WOKEN] !== 0) return true;
        if (c[t + T_TIMEOUT]! < 0) return false;
        return c[t + T_WATCHING] === 0 || this.#watchedChanged(t);
      case OP_SPIN:
        return c[t + T_WATCHING] === 0 || this.#watchedChanged(t);
      default:
        return true;
    }
  }

  #watchedChanged(t: number): boolean {
    const c = this.words;
    const end = t + T_WATCH + 2 * Math.min(c[t + T_READS]!, WATCH_MAX);
    for (let i = t + T_WATCH; i < end; i += 2) {
      if (this.memory[c[i]!] !== c[i + 1]!) return true;
    }
    return false;
  }

  /** Mask of the tasks that can go. */
  enabled(): number {
    const c = this.words;
    const end = TASKS_AT + c[C_TASKS]! * TASK_WORDS;
    let mask = 0;
    let bit = 1;
    for (let t = TASKS_AT; t < end; t += TASK_WORDS) {
      if (c[t + T_STATE] === STATE_READY && (c[t + T_KIND]! < OP_RESUME || this.#isOpen(t)))
        mask |= bit;
      bit <<= 1;
    }
    return mask;
  }

  /** Chooses who makes the next step, and says so in C_TURN: -1, and C_END why, if nobody does. */
  choose(): number {
    const c = this.words;
    const step = c[C_STEP]!;
    let mask = this.enabled();
    let released = 0;
    if (mask === 0) {
      mask = this.#watchers();
      if (mask === 0 || (c[C_SPIN_RELEASES] ?? 0) >= SPIN_RELEASES_MAX)
        return this.#end(this.#whyStuck());
      this.#release(mask);
      released = TRACE_RELEASED;
    }
    if (step >= c[C_STEP_LIMIT]!) return this.#end(END_STEPS);
    c[TRACE_AT + step * TRACE_WORDS] = released;
    if (c[C_RULE] === RULE_SLEEP_SETS) c[SLEEP_AT + step] = c[C_SLEEPING]!;
    c[TRACE_AT + step * TRACE_WORDS + TR_ENABLED] = mask;
    const chosen = this.#chooseFrom(mask, step);
    c[C_TURN] = chosen;
    return chosen;
  }

  /** Tasks that wait for a change of what they read. */
  #watchers(): number {
    const c = this.words;
    let mask = 0;
    for (let task = 0; task < c[C_TASKS]!; task++) {
      const t = TASKS_AT + task * TASK_WORDS;
      if (c[t + T_STATE] === STATE_READY && c[t + T_WATCHING] !== 0) mask |= 1 << task;
    }
    return mask;
  }

  /** Lets tasks go on although nothing they watch has changed. */
  #release(mask: number): void {
    const c = this.words;
    for (let rest = mask; rest !== 0; rest &= rest - 1) {
      c[TASKS_AT + lowestBit(rest) * TASK_WORDS + T_WATCHING] = 0;
    }
    c[C_SPIN_RELEASES]!++;
    if (c[C_STEP]! >= c[C_SLEEP_FROM]!) c[C_SLEEPING] = 0;
  }

  #whyStuck(): number {
    const c = this.words;
    let end = END_DONE;
    for (let task = 0; task < c[C_TASKS]!; task++) {
      const t = TASKS_AT + task * TASK_WORDS;
      if (c[t + T_STATE] !== STATE_READY) continue;
      if (c[t + T_WATCHING] !== 0) end = END_LIVELOCK;
      else if (end === END_DONE) end = END_DEADLOCK;
    }
    return end;
  }

  #end(why: number): number {
    this.words[C_END] = why;
    this.words[C_TURN] = -1;
    return -1;
  }

  #chooseFrom(mask: number, step: number): number {
    const c = this.words;
    const taken = c[C_DEVIATIONS_TAKEN]!;
    if (taken < c[C_DEVIATIONS]! && c[DEVIATIONS_AT + 2 * taken] === step) {
      return this.#deviate(mask, c[DEVIATIONS_AT + 2 * taken + 1]!);
    }
    switch (c[C_RULE]) {
      case RULE_RANDOM:
        return this.#anyOf(mask);
      case RULE_PRIORITY:
      case RULE_POS:
        return this.#highestOf(mask);
      case RULE_SLEEP_SETS:
        return this.#awakeOf(mask, step);
      case RULE_ASK:
        return hasOneBit(mask) ? lowestBit(mask) : this.ask(mask);
      default:
        return firstOf(c[C_LAST]!, mask);
    }
  }

  #deviate(mask: number, wanted: number): number {
    const c = this.words;
    c[C_DEVIATIONS_TAKEN]!++;
    if (c[C_RULE] === RULE_PRIORITY) {
      // a change point of PCT: whoever would go next goes last from now on
      const falls = this.#highestOf(mask);
      c[TASKS_AT + falls * TASK_WORDS + T_PRIORITY] = --c[C_LOWEST]!;
      return this.#highestOf(mask);
    }
    if (((mask >> wanted) & 1) === 0) return this.#end(END_DIVERGED);
    return wanted;
  }

  #awakeOf(mask: number, step: number): number {
    const c = this.words;
    if (step < c[C_SLEEP_FROM]!) return firstOf(c[C_LAST]!, mask);
    const awake = mask & ~c[C_SLEEPING]!;
    if (awake === 0) return this.#end(END_SEEN);
    return firstOf(c[C_LAST]!, awake);
  }

  #anyOf(mask: number): number {
    if (hasOneBit(mask)) return lowestBit(mask);
    let rest = mask;
    let skip = Math.floor(((this.#random() >>> 0) * bitCount(mask)) / 2 ** 32);
    while (skip-- > 0) rest &= rest - 1;
    return lowestBit(rest);
  }

  #highestOf(mask: number): number {
    const c = this.words;
    let best = -1;
    let highest = 0;
    for (let rest = mask; rest !== 0; rest &= rest - 1) {
      const task = lowestBit(rest);
      const priority = c[TASKS_AT + task * TASK_WORDS + T_PRIORITY]!;
      if (best < 0 || priority > highest) {
        best = task;
        highest = priority;
      }
    }
    return best;
  }

  #random(): number {
    let x = this.words[C_RANDOM]!;
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    this.words[C_RANDOM] = x;
    return x;
  }

  /** The task makes its step: it is noted, and what follows from it for the others. */
  commit(task: number): void {
    const c = this.words;
    const t = TASKS_AT + task * TASK_WORDS;
    const step = c[C_STEP]!;
    const kind = c[t + T_KIND]!;
    const at = c[t + T_AT]!;
    const trace = TRACE_AT + step * TRACE_WORDS;
    let what = c[trace]! | task | (kind << 4);
    if (c[t + T_WATCHING] !== 0) what |= TRACE_WATCHED;
    if (c[C_RULE] === RULE_POS || c[C_RULE] === RULE_SLEEP_SETS)
      this.#afterStep(task, kind, at, c[t + T_COUNT]!, step);
    if (kind >= OP_PARK) what |= this.#commitSpecial(t, kind);
    else if (kind === OP_RMW && c[t + T_COUNT] === 1) this.#updates(t, at);
    else if (isWriteOp(kind)) this.#stored(t);
    else if (kind === OP_READ_ONCE || kind === OP_ACQUIRE) this.#watch(t, at);
    c[trace] = what;
    c[trace + TR_AT] = at;
    c[trace + TR_COUNT] = c[t + T_COUNT]!;
    c[C_HASH] = (Math.imul(c[C_HASH]! ^ what, 0x01000193) ^ at) | 0;
    c[C_LAST] = task;
    c[C_STEP] = step + 1;
  }

  /** An update that leaves what it finds is a look: whether it does shows when it is made. */
  #updates(t: number, at: number): void {
    this.words[t + T_UPDATED] = at;
    this.words[t + T_BEFORE] = this.memory[at]!;
  }

  #updated(t: number): void {
    const c = this.words;
    const at = c[t + T_UPDATED]!;
    c[t + T_UPDATED] = 0;
    if (this.memory[at] === c[t + T_BEFORE]) this.#watch(t, at);
    else this.#stored(t);
  }

  #stored(t: number): void {
    this.words[t + T_STORED] = 1;
    this.words[C_SPIN_RELEASES] = 0;
  }

  #watch(t: number, at: number): void {
    const c = this.words;
    const value = this.memory[at]!;
    const reads = c[t + T_READS]!;
    if (reads < WATCH_MAX) {
      c[t + T_WATCH + 2 * reads] = at;
      c[t + T_WATCH + 2 * reads + 1] = value;
    }
    c[t + T_READS] = reads + 1;
    c[t + T_SPIN_HASH] = (Math.imul(c[t + T_SPIN_HASH]! ^ at, 0x01000193) ^ value) | 0;
  }

  /** Sleeping, waking, spinning, modelled locks; returns flags for the trace. */
  #commitSpecial(t: number, kind: number): number {
    const c = this.words;
    switch (kind) {
      case OP_PARK:
        c[t + T_WOKEN] = 0;
        this.#watch(t, c[t + T_AT]!);
        return 0;
      case OP_RESUME: {
        const timedOut = c[t + T_WOKEN] === 0;
        if (timedOut) {
          c[t + T_CLOCK] = c[t + T_CLOCK]! + c[t + T_TIMEOUT]!;
          this.#nextTurn(t);
        } else {
          c[t + T_STORED] = 1; // a wake-up is news
        }
        c[t + T_TIMEOUT] = -1;
        c[t + T_PARKED] = 0;
        return timedOut ? TRACE_TIMED_OUT : 0;
      }
      case OP_SPIN:
        this.#nextTurn(t);
        if (c[C_RULE] === RULE_PRIORITY) c[t + T_PRIORITY] = --c[C_LOWEST]!;
        return 0;
      case OP_LOCK:
        c[t + T_SKIP] = 1;
        this.#stored(t);
        return 0;
      default:
        this.#stored(t);
        return 0;
    }
  }

  /** A turn of a spin loop ends, and the next begins. */
  #nextTurn(t: number): void {
    const c = this.words;
    c[t + T_SPIN_BEFORE] = c[t + T_STORED] === 0 ? c[t + T_SPIN_HASH]! : 0;
    c[t + T_SPIN_HASH] = 0;
    c[t + T_READS] = 0;
    c[t + T_STORED] = 0;
  }

  /** What the rule does about tasks whose next operation depends on the one just made. */
  #afterStep(task: number, kind: number, at: number, count: number, step: number): void {
    const c = this.words;
    const sleepSets = c[C_RULE] === RULE_SLEEP_SETS;
    if (sleepSets && (step < c[C_SLEEP_FROM]! || c[C_SLEEPING] === 0)) return;
    const mine = TASKS_AT + task * TASK_WORDS;
    for (let other = 0; other < c[C_TASKS]!; other++) {
      if (other === task) continue;
      const t = TASKS_AT + other * TASK_WORDS;
      if (c[t + T_STATE] !== STATE_READY) continue;
      const otherKind = c[t + T_KIND]!;
      const otherAt = c[t + T_AT]!;
      const otherCount = c[t + T_COUNT]!;
      if (
        !dependent(kind, at, count, otherKind, otherAt, otherCount) &&
        !(isWriteOp(kind) && this.#watchesAny(t, at, count)) &&
        !(isWriteOp(otherKind) && this.#watchesAny(mine, otherAt, otherCount))
      )
        continue;
      if (sleepSets) c[C_SLEEPING]! &= ~(1 << other);
      else c[t + T_PRIORITY] = this.#random() >>> 1;
    }
  }

  /** True if the task can go only when a word has changed, and one of these is such a word. */
  #watchesAny(t: number, at: number, count: number): boolean {
    const c = this.words;
    if (c[t + T_WATCHING] === 0) return false;
    const end = t + T_WATCH + 2 * Math.min(c[t + T_READS]!, WATCH_MAX);
    for (let i = t + T_WATCH; i < end; i += 2) {
      if (c[i]! >= at && c[i]! < at + count) return true;
    }
    return false;
  }

  /** `count` words from `at` are about to change. */
  log(at: number, count: number): void {
    const c = this.words;
    const entry = LOG_AT + 2 * c[C_LOG]!;
    if (entry >= LOG_END) throw new RangeError('a schedule changes too many words');
    c[entry] = at;
    c[entry + 1] = count;
    c[C_LOG]!++;
  }

  /** Wakes sleepers on the word, first come first. */
  wake(at: number, count: number): number {
    const c = this.words;
    let woken = 0;
    while (woken < count) {
      const task = this.#firstSleeper(at);
      if (task < 0) break;
      c[TASKS_AT + task * TASK_WORDS + T_WOKEN] = 1;
      woken++;
    }
    return woken;
  }

  #firstSleeper(at: number): number {
    const c = this.words;
    let first = -1;
    let place = 0;
    for (let task = 0; task < c[C_TASKS]!; task++) {
      const t = TASKS_AT + task * TASK_WORDS;
      if (c[t + T_STATE] !== STATE_READY || c[t + T_KIND] !== OP_RESUME) continue;
      if (c[t + T_AT] !== at || c[t + T_WOKEN] !== 0) continue;
      if (first < 0 || c[t + T_PARKED]! < place) {
        first = task;
        place = c[t + T_PARKED]!;
      }
    }
    return first;
  }

  /** The task's sleep begins. */
  sleepFor(task: number, timeoutMs: number): void {
    const c = this.words;
    const t = TASKS_AT + task * TASK_WORDS;
    c[t + T_TIMEOUT] = timeoutMs === Infinity ? -1 : Math.max(1, Math.ceil(timeoutMs));
    c[t + T_PARKED] = ++c[C_PARKED]!;
  }

  wasWoken(task: number): boolean {
    return this.words[TASKS_AT + task * TASK_WORDS + T_WOKEN] !== 0;
  }

  /** The task's own time: it moves on at each look, so that whoever waits for it to pass gets there. */
  clockMs(task: number): number {
    const t = TASKS_AT + task * TASK_WORDS;
    const now = this.words[t + T_CLOCK]! + this.words[C_TICK]!;
    this.words[t + T_CLOCK] = now;
    return now;
  }
}
