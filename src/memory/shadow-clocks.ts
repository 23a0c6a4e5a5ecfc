/**
 * What a CPU has seen of the others, and what it leaves where it releases: vector clocks, for the checked build.
 *
 * Protocol   A CPU's time goes on at each release. What the CPU did at a time is named by an epoch: the CPU and the
 *            time. It has seen what another did if it has seen that time of it.
 *              release   leaves the CPU's epoch and all that it has seen, under a number
 *              acquire   the CPU has seen all that is left under the number
 * Invariants I1  What is left under a number is changed only by who has locked the line that has the number, and
 *                looked at by who has, or by who looks again if the line was locked meanwhile.
 *            I2  What is left with an epoch is all that this CPU had seen and done at that time: who has seen the
 *                epoch has seen it all.
 * Deviation  There are RELEASES_MAX numbers at a time. Releases that come later are not kept: CPUs that acquire
 *            there are taken to have seen all that was released so far, and races may be missed.
 *
 * @module
 */
import { createSharedMemory } from './native.js';

/** An epoch is a CPU times this, plus the CPU's time, which begins with 1; 0 is none. */
const EPOCH_CPU = 2 ** 40;
const EPOCH_SHIFT = 1 / EPOCH_CPU;

const DOUBLE_WORDS = 2;
/** Numbers of releases. */
const RELEASES_MAX = 2 ** 20;
/** The release for which there was no number. */
const UNKNOWN_RELEASE = RELEASES_MAX + 1;

// words of the numbers
/** How many are or were in use. */
const N_COUNT = 0;
/** How often all were given back at once. */
const N_ERA = 1;

/** What a worker needs to share clocks; survives `postMessage`. */
export interface ClocksHandle {
  readonly numbers: SharedArrayBuffer;
  readonly clocks: SharedArrayBuffer;
  readonly cpus: number;
}

/** The CPU of an epoch. */
export function epochCpu(epoch: number): number {
  return (epoch * EPOCH_SHIFT) | 0;
}

/** One CPU's clock. */
export class ShadowClock {
  readonly cpu: number;
  /** The CPU's epoch. */
  now: number;
  readonly #cpus: number;
  readonly #numbers: Int32Array;
  /** The time of each CPU, then of each release: the epoch of whoever made it, and what that had seen. */
  readonly #clocks: Float64Array;
  /** The last time of each CPU that this one has seen; its own is now. */
  readonly #seen: Float64Array;
  /** What was looked at last, in each place. */
  readonly #peeked: Float64Array;
  /** Numbers that were given back to this CPU, in this era. */
  readonly #spare: number[] = [];
  #era = 0;

  constructor({ numbers, clocks, cpus }: ClocksHandle, cpu: number) {
    this.cpu = cpu;
    this.now = cpu * EPOCH_CPU + 1;
    this.#cpus = cpus;
    this.#numbers = new Int32Array(numbers);
    this.#clocks = new Float64Array(clocks);
    this.#seen = new Float64Array(cpus);
    this.#seen[cpu] = 1;
    this.#peeked = new Float64Array(2 * cpus);
  }

  /** Room for the clocks of so many CPUs. */
  static create(cpus: number): ClocksHandle {
    return {
      numbers: createSharedMemory(2).buffer,
      clocks: createSharedMemory((1 + RELEASES_MAX) * (1 + cpus) * DOUBLE_WORDS).buffer,
      cpus,
    };
  }

  /** True if what was done at that epoch comes before what the CPU does now. */
  hasSeen(epoch: number): boolean {
    const by = epochCpu(epoch);
    return by === this.cpu || epoch - by * EPOCH_CPU <= this.#seen[by]!;
  }

  /** The CPU has seen what is left under that number. Its line is locked. */
  acquire(release: number): void {
    if (this.peek(release, 0)) this.see(0);
  }

  /**
   * Looks at what is left under that number, and keeps it in one of two places; false if the CPU has seen all of it.
   * What was looked at while it changed must not be seen: of a part of it I2 does not hold.
   */
  peek(release: number, place: number): boolean {
    const clocks = this.#clocks;
    const clock = this.#clockAt(release);
    const isKnown = release !== UNKNOWN_RELEASE;
    if (isKnown && this.hasSeen(clocks[clock]!)) return false; // and so all that (I2)
    const first = isKnown ? clock + 1 : 0;
    const to = place * this.#cpus;
    for (let cpu = 0; cpu < this.#cpus; cpu++) this.#peeked[to + cpu] = clocks[first + cpu]!;
    return true;
  }

  /** The CPU has seen what it has looked at. */
  see(place: number): void {
    const seen = this.#seen;
    const from = place * this.#cpus;
    for (let cpu = 0; cpu < this.#cpus; cpu++) {
      const time = this.#peeked[from + cpu]!;
      if (time > seen[cpu]! && cpu !== this.cpu) seen[cpu] = time;
    }
  }

  /** Leaves what the CPU has seen and done under that number, or under a new one if it is 0; the number. */
  release(before: number): number {
    const release = before === 0 ? this.#newNumber() : before;
    const clocks = this.#clocks;
    const seen = this.#seen;
    if (release !== UNKNOWN_RELEASE) {
      const clock = this.#clockAt(release);
      clocks[clock] = this.now;
      for (let cpu = 0; cpu < this.#cpus; cpu++) clocks[clock + 1 + cpu] = seen[cpu]!;
    }
    clocks[this.cpu] = seen[this.cpu]!;
    this.now++;
    seen[this.cpu] = seen[this.cpu]! + 1;
    return release;
  }

  /** Nobody will look under any number any more. Nobody may run. */
  static forget({ numbers }: ClocksHandle): void {
    const words = new Int32Array(numbers);
    words[N_COUNT] = 0;
    words[N_ERA] = words[N_ERA]! + 1;
  }

  /** Nobody will look under that number any more. */
  drop(release: number): void {
    this.#learnEra();
    if (release !== UNKNOWN_RELEASE) this.#spare.push(release);
  }

  /** The first `cpus + 1` are the times of CPUs. */
  #clockAt(release: number): number {
    return release * (this.#cpus + 1);
  }

  #learnEra(): void {
    const era = this.#numbers[N_ERA]!;
    if (era === this.#era) return;
    this.#spare.length = 0;
    this.#era = era;
  }

  #newNumber(): number {
    this.#learnEra();
    const spare = this.#spare.pop();
    if (spare !== undefined) return spare;
    if (this.#numbers[N_COUNT]! >= RELEASES_MAX) return UNKNOWN_RELEASE;
    return Math.min(UNKNOWN_RELEASE, 1 + Atomics.add(this.#numbers, N_COUNT, 1));
  }
}
