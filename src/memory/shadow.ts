/**
 * What the checked build knows of each word of a machine's memory: who used it last, how, and what came before.
 *
 * Protocol   Every operation of the checked `#memory` locks the word's entry, compares itself with the last
 *            use of each kind by another CPU, leaves its own, makes the access, and lets the entry go: so
 *            the order of entries is the order of accesses. A race is two uses of a word by different CPUs,
 *            at least one a store and at least one plain, neither of which comes before the other.
 *
 *              release   storeRelease, read-modify-writes, unpark: what the CPU has seen and done is kept
 *                        with the word, anew or in addition to what is there; writeOnce ends it
 *              acquire   loadAcquire, read-modify-writes, readOnce, the look before a sleep and its end: the
 *                        CPU has seen what is kept there
 *
 *            A CPU's time goes on at each release. A use is noted as the CPU and its time (an epoch, as in
 *            FastTrack: Flanagan, Freund, PLDI 2009); a CPU has seen it if it has seen that time of that CPU.
 *            Of each kind of use the last one is kept: a race with an earlier one may be missed, none is
 *            reported that is not there.
 *
 * Invariants I1  An entry and the word's release are read and changed only by who has the entry locked.
 *            I2  Who has an entry locked takes no other lock of any kind and calls nobody.
 * Ordering   As for the turnstile build (explore/races.ts): readOnce counts as an acquire, because what is
 *            reached through a pointer is up to date; writeOnce is no release.
 * Deviation  Releases have room for RELEASES_MAX words; those that come later share one, which orders more
 *            than it should: races may be missed then.
 * Cost       Two atomic operations for each use, beside the access.
 *
 * @module
 */
import { createSharedMemory } from './native.js';

/** Kinds of use. */
export const USE_WRITE = 0;
export const USE_WRITE_ONCE = 1;
export const USE_READ = 2;
export const USE_READ_ONCE = 3;
const KINDS = 4;
export const USE_NAMES: readonly string[] = ['write', 'marked write', 'read', 'marked read'];

/** With which kinds, as a mask, a use of the kind races. */
const RACES_WITH: readonly number[] = [
  0b1111, // a plain store with everything
  (1 << USE_WRITE) | (1 << USE_READ),
  (1 << USE_WRITE) | (1 << USE_WRITE_ONCE),
  1 << USE_WRITE,
];

// an entry
// word 0: its lock
/** The CPU of the last use of each kind, plus 1: a byte each. */
const E_CPUS = 1;
/** The CPU's time at that use. */
const E_TIMES = 2;
/** Where the word's release is kept; 0: none yet; negative: there, but ended. */
const E_RELEASE = 6;
/** Not 0: the word is nobody's, and since which free. */
const E_FREED = 7;
const ENTRY_WORDS = 8;
const ENTRY_SHIFT = 3;

/** Words of a machine that can be released at. */
const RELEASES_MAX = 2 ** 19;
/** The release that all share when there is no room for more; its own lock is its first word. */
const SHARED_RELEASE = 1;

// the head of the region of releases
const R_COUNT = 0;
const R_LOCK = 1;
const HEAD_WORDS = 16;

/** Turns of a spin between two questions whether to go on waiting. */
const SPINS = 4096;

/** What a worker needs to share a shadow; survives `postMessage`. */
export interface ShadowHandle {
  readonly entries: SharedArrayBuffer;
  readonly releases: SharedArrayBuffer;
  readonly cpus: number;
}

/** A use that races with an earlier one of another CPU's, or is of freed memory. */
export interface Misuse {
  readonly kind: 'race' | 'use-after-free';
  readonly word: number;
  readonly cpu: number;
  readonly use: number;
  /** Of a race: the earlier use, and whose it was; of freed memory: the number of the free. */
  readonly otherCpu: number;
  readonly other: number;
}

/** A shadow of `words` words for `cpus` CPUs. Committed by the operating system as it is used. */
export function createShadow(words: number, cpus: number): ShadowHandle {
  return {
    entries: createSharedMemory(words * ENTRY_WORDS).buffer,
    releases: createSharedMemory(HEAD_WORDS + (RELEASES_MAX + 1) * cpus).buffer,
    cpus,
  };
}

/** One CPU's view of the shadow, and what the CPU has seen. */
export class Shadow {
  readonly cpu: number;
  readonly #entries: Int32Array;
  readonly #releases: Int32Array;
  readonly #cpus: number;
  /** The last time of each CPU that this one has seen; its own is now. */
  readonly #seen: Uint32Array;
  /** The last misuse, until it is taken. */
  #misuse: Misuse | undefined;
  /** Asked now and then by who waits for an entry: throws if the machine has halted. */
  readonly #checkHalted: () => void;

  constructor(handle: ShadowHandle, cpu: number, checkHalted: () => void) {
    this.cpu = cpu;
    this.#entries = new Int32Array(handle.entries);
    this.#releases = new Int32Array(handle.releases);
    this.#cpus = handle.cpus;
    this.#seen = new Uint32Array(handle.cpus);
    this.#seen[cpu] = 1;
    this.#checkHalted = checkHalted;
  }

  /** Locks the word's entry. */
  lock(word: number): void {
    this.#lockAt(this.#entries, word << ENTRY_SHIFT);
  }

  unlock(word: number): void {
    Atomics.store(this.#entries, word << ENTRY_SHIFT, 0);
  }

  #lockAt(words: Int32Array, at: number): void {
    for (let spins = 1; Atomics.compareExchange(words, at, 0, 1) !== 0; spins++) {
      if (spins % SPINS === 0) this.#checkHalted();
    }
  }

  /** True if the CPU has used the word in this way at this time already, and nobody has changed that: no need to look. */
  isKnown(word: number, kind: number): boolean {
    const entry = word << ENTRY_SHIFT;
    const entries = this.#entries;
    return (
      entries[entry + E_TIMES + kind]! >>> 0 === this.#seen[this.cpu] &&
      ((entries[entry + E_CPUS]! >>> (8 * kind)) & 0xff) === this.cpu + 1 &&
      entries[entry + E_FREED] === 0
    );
  }

  /** Compares a use with those before, and notes it. The entry is locked. */
  use(word: number, kind: number): void {
    const entry = word << ENTRY_SHIFT;
    const entries = this.#entries;
    const cpus = entries[entry + E_CPUS]!;
    if (entries[entry + E_FREED] !== 0) this.#report('use-after-free', word, kind, 0, entries[entry + E_FREED]!);
    const races = RACES_WITH[kind]!;
    for (let other = 0; other < KINDS; other++) {
      if (((races >> other) & 1) === 0) continue;
      const by = ((cpus >>> (8 * other)) & 0xff) - 1;
      if (by < 0 || by === this.cpu) continue;
      if (entries[entry + E_TIMES + other]! >>> 0 > this.#seen[by]!) this.#report('race', word, kind, by, other);
    }
    entries[entry + E_TIMES + kind] = this.#seen[this.cpu]!;
    entries[entry + E_CPUS] = (cpus & ~(0xff << (8 * kind))) | ((this.cpu + 1) << (8 * kind));
  }

  #report(kind: Misuse['kind'], word: number, use: number, otherCpu: number, other: number): void {
    this.#misuse ??= { kind, word, cpu: this.cpu, use, otherCpu, other };
  }

  /** The first misuse since the last call. */
  takeMisuse(): Misuse | undefined {
    const misuse = this.#misuse;
    this.#misuse = undefined;
    return misuse;
  }

  // --- order ---

  /** The CPU has seen what is kept with the word. The entry is locked. */
  acquire(word: number): void {
    const release = this.#entries[(word << ENTRY_SHIFT) + E_RELEASE]!;
    if (release <= 0) return;
    const at = this.#releaseAt(release);
    const seen = this.#seen;
    if (release === SHARED_RELEASE) this.#lockAt(this.#releases, R_LOCK);
    for (let cpu = 0; cpu < this.#cpus; cpu++) {
      const time = this.#releases[at + cpu]! >>> 0;
      if (time > seen[cpu]! && cpu !== this.cpu) seen[cpu] = time;
    }
    if (release === SHARED_RELEASE) Atomics.store(this.#releases, R_LOCK, 0);
  }

  /** Keeps with the word what the CPU has seen and done; `adds`: beside what is there. The entry is locked. */
  release(word: number, adds: boolean): void {
    const entry = word << ENTRY_SHIFT;
    const before = this.#entries[entry + E_RELEASE]!;
    const release = before === 0 ? this.#newRelease() : Math.abs(before);
    const isShared = release === SHARED_RELEASE;
    const keeps = isShared || (adds && before > 0);
    const at = this.#releaseAt(release);
    const seen = this.#seen;
    if (isShared) this.#lockAt(this.#releases, R_LOCK);
    for (let cpu = 0; cpu < this.#cpus; cpu++) {
      const mine = seen[cpu]!;
      if (!keeps || mine > this.#releases[at + cpu]! >>> 0) this.#releases[at + cpu] = mine;
    }
    if (isShared) Atomics.store(this.#releases, R_LOCK, 0);
    this.#entries[entry + E_RELEASE] = release;
    seen[this.cpu] = seen[this.cpu]! + 1;
  }

  /** What was released at the word is not read any more: a writeOnce. The entry is locked. */
  endRelease(word: number): void {
    const at = (word << ENTRY_SHIFT) + E_RELEASE;
    const release = this.#entries[at]!;
    if (release > SHARED_RELEASE) this.#entries[at] = -release;
  }

  #releaseAt(release: number): number {
    return HEAD_WORDS + release * this.#cpus;
  }

  #newRelease(): number {
    const release = SHARED_RELEASE + 1 + Atomics.add(this.#releases, R_COUNT, 1);
    return release <= RELEASES_MAX ? release : SHARED_RELEASE;
  }

  // --- life ---

  /** The words are nobody's any more, by the free of that number; false if one was not anybody's before. */
  free(at: number, count: number, number: number): boolean {
    let isFirst = true;
    for (let word = at; word < at + count; word++) {
      this.lock(word);
      const entry = (word << ENTRY_SHIFT) + E_FREED;
      if (this.#entries[entry] !== 0) isFirst = false;
      else this.#entries[entry] = number;
      this.unlock(word);
    }
    return isFirst;
  }

  /** The words are somebody's from now on, and nothing was before. */
  alloc(at: number, count: number): void {
    for (let word = at; word < at + count; word++) {
      this.lock(word);
      const entry = word << ENTRY_SHIFT;
      this.#entries[entry + E_CPUS] = 0;
      this.#entries[entry + E_FREED] = 0;
      if (this.#entries[entry + E_RELEASE]! > SHARED_RELEASE) this.endRelease(word);
      this.unlock(word);
    }
  }
}
