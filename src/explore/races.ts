/**
 * Data races and uses of freed memory, found in the trace of every schedule.
 *
 * Protocol   A race is two accesses of one word by different tasks, at least one a store and at least one
 *            plain, neither of which comes before the other. Order comes from synchronisation only:
 *
 *              release             storeRelease, read-modify-writes, taking a modelled lock, unpark
 *              acquire             loadAcquire, read-modify-writes, the same lock, readOnce, the look before
 *                                  a sleep, the end of a sleep that somebody ended
 *
 *            A release is kept with its word: what the task has seen and done. A store-release begins anew, an
 *            update adds to what is there, writeOnce ends it. Whoever acquires at the word has seen all that.
 *
 *            Each access is compared with the last plain store, and the last loads and marked stores of every
 *            task (epochs, as in FastTrack: Flanagan, Freund, PLDI 2009); numbers of steps go on from run to
 *            run, so that what is left of earlier runs is known to be old and nothing is cleared.
 *
 *            From OP_FREE to OP_ALLOC a word must not be touched. An access that could only have come after
 *            the free, but did not, is no report: a strategy that tries the other order finds it.
 *
 * Ordering   readOnce counts as an acquire: Linux relies on address dependencies (what a pointer that was
 *            loaded points to is up to date), and the trace does not know which loads are dependent. writeOnce
 *            is no release: nothing under src/ publishes plain stores by it. Entries of page tables are
 *            published by storeRelease (setPte), list heads and reference counts change under locks or by
 *            updates, the sequence of an interval notifier is read under a lock or guards marked words only.
 *            Words that only one CPU uses are not in the trace, and cannot race.
 * Deviation  A race that is ordered in this run by a lock that happened to be taken in between is not seen
 *            here; it is in a run where the sections come the other way round.
 *
 * @module
 */
import {
  OP_ACQUIRE,
  OP_ALLOC,
  OP_FREE,
  OP_LOCK,
  OP_NAMES,
  OP_PARK,
  OP_READ,
  OP_READ_ONCE,
  OP_RELEASE,
  OP_RESUME,
  OP_RMW,
  OP_UNPARK,
  OP_WRITE,
  OP_WRITE_ONCE,
} from '../memory/turnstile.js';
import {
  C_STEP,
  stepKind,
  STEPS_MAX,
  stepTask,
  TR_AT,
  TR_COUNT,
  TRACE_AT,
  TRACE_TIMED_OUT,
  TRACE_WORDS,
} from './control.js';

/** Two accesses that must not be as they are. */
export interface Race {
  readonly kind: 'race' | 'use-after-free';
  /** Steps of the trace; of a use after free, the first gave the memory back. */
  readonly steps: readonly [number, number];
  readonly word: number;
  readonly tasks: readonly [number, number];
  /** `write`, `readOnce`, … */
  readonly operations: readonly [string, string];
}

/** Numbers of steps beyond this begin anew. */
const NUMBERS_MAX = 1 << 30;

/** What is kept of each word: numbers of steps. */
const PLAIN_STORE = 0;
const FREED = 1;
const BY_TASK = 2;

/** Looks at one trace after the other. */
export class RaceDetector {
  readonly #tasks: number;
  readonly #memoryWords: number;
  /** Of each word: last plain store, free; of each task, last plain load, marked load, marked store. */
  readonly #words: Int32Array;
  readonly #stride: number;
  /** What each task has seen of each: the last step, and one more. */
  readonly #seen: Int32Array;
  /** Of each word: where its release is kept, of its value and of its sleepers; plus #base. */
  readonly #released: Int32Array;
  /** What releases have seen. */
  readonly #releases: Int32Array;
  #releaseCount = 0;
  /** Number of the run's first step. */
  #base = 1;
  #control: Int32Array = new Int32Array(0);

  constructor(tasks: number, memoryWords: number) {
    this.#tasks = tasks;
    this.#memoryWords = memoryWords;
    this.#stride = BY_TASK + 3 * tasks;
    this.#words = new Int32Array(memoryWords * this.#stride);
    this.#seen = new Int32Array(tasks * tasks);
    this.#released = new Int32Array(2 * memoryWords);
    this.#releases = new Int32Array(STEPS_MAX * tasks);
  }

  /** The first race or use after free of the run whose trace is in the control block. */
  find(control: Int32Array): Race | undefined {
    const steps = control[C_STEP]!;
    if (this.#base > NUMBERS_MAX) this.#beginAnew();
    this.#control = control;
    this.#seen.fill(0);
    this.#releaseCount = 0;
    let found: Race | undefined;
    for (let step = 0; step < steps && found === undefined; step++) {
      const trace = TRACE_AT + step * TRACE_WORDS;
      found = this.#step(
        step,
        control[trace]!,
        control[trace + TR_AT]!,
        control[trace + TR_COUNT]!,
      );
    }
    this.#base += Math.max(steps, this.#releaseCount);
    return found;
  }

  #beginAnew(): void {
    this.#words.fill(0);
    this.#released.fill(0);
    this.#base = 1;
  }

  #step(step: number, what: number, at: number, count: number): Race | undefined {
    const task = stepTask(what);
    const kind = stepKind(what);
    this.#seen[task * this.#tasks + task] = step + 1;
    switch (kind) {
      case OP_READ:
        return this.#plainLoad(step, task, at, count);
      case OP_WRITE:
        return this.#plainStore(step, task, at, count);
      case OP_READ_ONCE:
      case OP_ACQUIRE:
      case OP_PARK:
        for (let word = at; word < at + count; word++) this.#acquire(task, word);
        return this.#markedLoad(step, task, at, count);
      case OP_WRITE_ONCE:
        for (let word = at; word < at + count; word++) this.#released[word] = 0;
        return this.#markedStore(step, task, at, count);
      case OP_RELEASE:
        this.#release(task, at, false);
        return this.#markedStore(step, task, at, count);
      case OP_RMW:
      case OP_LOCK:
        for (let word = at; word < at + count; word++) {
          this.#acquire(task, word);
          this.#release(task, word, true);
        }
        return this.#markedStore(step, task, at, count);
      case OP_UNPARK:
        this.#release(task, this.#memoryWords + at, true);
        return undefined;
      case OP_RESUME:
        if ((what & TRACE_TIMED_OUT) === 0) this.#acquire(task, this.#memoryWords + at);
        return undefined;
      case OP_FREE:
        return this.#free(step, at, count);
      case OP_ALLOC:
        for (let word = at; word < at + count; word++) this.#words[word * this.#stride + FREED] = 0;
        return undefined;
      default:
        return undefined;
    }
  }

  // --- order ---

  #acquire(task: number, slot: number): void {
    const release = this.#released[slot]! - this.#base;
    if (release < 0) return;
    const tasks = this.#tasks;
    const seen = this.#seen;
    for (let i = 0; i < tasks; i++) {
      const theirs = this.#releases[release * tasks + i]!;
      if (theirs > seen[task * tasks + i]!) seen[task * tasks + i] = theirs;
    }
  }

  /** `adds`: to what was released there before. */
  #release(task: number, slot: number, adds: boolean): void {
    const tasks = this.#tasks;
    let release = this.#released[slot]! - this.#base;
    const isNew = release < 0;
    if (isNew) {
      if (this.#releaseCount === STEPS_MAX) return; // ranges of words, in a very long run
      release = this.#releaseCount++;
      this.#released[slot] = this.#base + release;
    }
    for (let i = 0; i < tasks; i++) {
      const mine = this.#seen[task * tasks + i]!;
      const at = release * tasks + i;
      if (isNew || !adds || mine > this.#releases[at]!) this.#releases[at] = mine;
    }
  }

  /** True if the step with this number is of this run, another task's, and has not been seen. */
  #isUnseen(task: number, other: number, number: number): boolean {
    const step = number - this.#base;
    return step >= 0 && this.#seen[task * this.#tasks + other]! <= step;
  }

  // --- accesses ---

  #plainLoad(step: number, task: number, at: number, count: number): Race | undefined {
    const tasks = this.#tasks;
    const words = this.#words;
    for (let word = at; word < at + count; word++) {
      const w = word * this.#stride;
      const race = this.#againstPlainStore(step, task, word, w);
      if (race !== undefined) return race;
      const stores = w + BY_TASK + 2 * tasks;
      for (let other = 0; other < tasks; other++) {
        if (other === task || !this.#isUnseen(task, other, words[stores + other]!)) continue;
        return this.#race(words[stores + other]!, step, word);
      }
      words[w + BY_TASK + task] = this.#base + step;
    }
    return undefined;
  }

  #plainStore(step: number, task: number, at: number, count: number): Race | undefined {
    const tasks = this.#tasks;
    const words = this.#words;
    for (let word = at; word < at + count; word++) {
      const w = word * this.#stride;
      const race = this.#againstPlainStore(step, task, word, w);
      if (race !== undefined) return race;
      for (let i = 0; i < 3 * tasks; i++) {
        const other = i % tasks;
        const number = words[w + BY_TASK + i]!;
        if (number < this.#base || other === task) continue;
        if (this.#isUnseen(task, other, number)) return this.#race(number, step, word);
      }
      words[w + PLAIN_STORE] = this.#base + step;
    }
    return undefined;
  }

  #markedLoad(step: number, task: number, at: number, count: number): Race | undefined {
    for (let word = at; word < at + count; word++) {
      const w = word * this.#stride;
      const race = this.#againstPlainStore(step, task, word, w);
      if (race !== undefined) return race;
      this.#words[w + BY_TASK + this.#tasks + task] = this.#base + step;
    }
    return undefined;
  }

  #markedStore(step: number, task: number, at: number, count: number): Race | undefined {
    const tasks = this.#tasks;
    const words = this.#words;
    for (let word = at; word < at + count; word++) {
      const w = word * this.#stride;
      const race = this.#againstPlainStore(step, task, word, w);
      if (race !== undefined) return race;
      for (let other = 0; other < tasks; other++) {
        const number = words[w + BY_TASK + other]!;
        if (other === task || !this.#isUnseen(task, other, number)) continue;
        return this.#race(number, step, word);
      }
      words[w + BY_TASK + 2 * tasks + task] = this.#base + step;
    }
    return undefined;
  }

  /** What every access must come after: the last plain store; and the word must be somebody's. */
  #againstPlainStore(step: number, task: number, word: number, w: number): Race | undefined {
    const stored = this.#words[w + PLAIN_STORE]!;
    const freed = this.#words[w + FREED]!;
    if (freed >= this.#base) return this.#race(freed, step, word, 'use-after-free');
    if (stored < this.#base) return undefined;
    const other = this.#taskAt(stored - this.#base);
    if (other === task || !this.#isUnseen(task, other, stored)) return undefined;
    return this.#race(stored, step, word);
  }

  #free(step: number, at: number, count: number): Race | undefined {
    for (let word = at; word < at + count; word++) {
      const w = word * this.#stride + FREED;
      const freed = this.#words[w]!;
      if (freed >= this.#base) return this.#race(freed, step, word, 'use-after-free');
      this.#words[w] = this.#base + step;
    }
    return undefined;
  }

  #race(number: number, step: number, word: number, kind: Race['kind'] = 'race'): Race {
    const first = number - this.#base;
    return {
      kind,
      steps: [first, step],
      word,
      tasks: [this.#taskAt(first), this.#taskAt(step)],
      operations: [this.#nameAt(first), this.#nameAt(step)],
    };
  }

  #taskAt(step: number): number {
    return stepTask(this.#control[TRACE_AT + step * TRACE_WORDS]!);
  }

  #nameAt(step: number): string {
    return OP_NAMES[stepKind(this.#control[TRACE_AT + step * TRACE_WORDS]!)] ?? '?';
  }
}
