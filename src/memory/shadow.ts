/**
 * What the checked build knows of each word of a machine's memory: who used it last, how, and what came before.
 *
 * Protocol   Every operation of the checked `#memory` compares itself with the last use of each kind of its word by
 *            another CPU, and leaves its own. A race is two uses of a word by different CPUs, at least one a store
 *            and at least one plain, neither of which comes before the other.
 *
 *              release   storeRelease, read-modify-writes: what the CPU has seen and done is kept with the word,
 *                        instead of what is there; writeOnce ends it
 *              acquire   loadAcquire, read-modify-writes, readOnce: the CPU has seen what is kept there
 *
 *            Marked operations lock the line (of 16 words) that they use until the access has been made: what is
 *            kept with the word is what is acquired by whoever loads what was stored.
 *
 *            A CPU's time goes on at each release. A use is noted as the CPU and its time (an epoch, as in
 *            FastTrack: Flanagan, Freund, PLDI 2009); a CPU has seen it if it has seen that time of that CPU.
 *            Of each kind of use the last one is kept: a race with an earlier one may be missed, none is
 *            reported that is not there.
 *
 *            A plain store to a whole line is noted with the line, and what is known of its words forgotten.
 *            Words that an allocator has are nobody's: a use of one is an error, and so is giving it back again.
 *            Giving back is a plain store to all of them: who may still be looking races with it.
 *
 * Invariants I1  What is kept with words, and whose they are, is changed only by who has their line locked. Uses
 *                are noted without it: of two that are noted at once, one may be missed.
 *            I2  Who has a line locked takes no other lock of any kind and calls nobody.
 *            I3  A release with an epoch is all that this CPU had seen and done at that time.
 * Ordering   As for the turnstile build (explore/races.ts): readOnce counts as an acquire, because what is
 *            reached through a pointer is up to date; writeOnce is no release. A sleep ends by a look at the word,
 *            so that waking orders nothing by itself.
 * Deviation  Releases have room for RELEASES_MAX words at a time; those that come later are not kept: CPUs that
 *            acquire at such a word are taken to have seen all that was released so far, and races may be missed.
 * Cost       A plain use that repeats the CPU's own last one: two loads. Another: 10 ns. A marked one: 20 to 40 ns.
 *
 * @module
 */
import { FaultlineError } from '../base/bug.js';
import { createSharedMemory } from './native.js';
import { UsePlaces } from './shadow-places.js';
import { StackStore } from './shadow-stacks.js';

/** Kinds of use. */
export const USE_WRITE = 0;
export const USE_WRITE_ONCE = 1;
export const USE_READ = 2;
export const USE_READ_ONCE = 3;
/** The words are given back; as a store it is a plain one. */
export const USE_FREE = 4;
const KINDS = 4;

/** Words of a cell. */
const CELL = 2;

/** What a run of uses orders: nothing; each acquires; each acquires and releases. */
export const RUN_UNORDERED = 0;
export const RUN_ACQUIRES = 1;
export const RUN_UPDATES = 2;

/** Words of a line. */
const LINE = 16;
const LINE_SHIFT = 4;

// words of a line's notes
const L_LOCK = 0;
/** Words with an epoch: a bit each. Who sets one has no lock: a bit may be lost, and its epochs outlive a fill. */
const L_USED = 1;
/** How many words are nobody's. */
const L_FREED = 2;
const HEAD_WORDS = 16;

// words of an entry
/** Where the word's release is kept; 0: none yet; negative: there, but ended. */
const E_RELEASE = 0;
/** Not 0: the word is nobody's. SLACK, or the stack by which it was given back. */
const E_FREED = 1;
/** Of an object's first word: the stack by which it was handed out; 0: it is not. */
const E_SITE = 2;
const ENTRY_WORDS = 4;
const LINE_WORDS = HEAD_WORDS + LINE * ENTRY_WORDS;

/** An epoch is a CPU times this, plus the CPU's time, which begins with 1; 0 is none. */
const EPOCH_CPU = 2 ** 40;
const EPOCH_SHIFT = 1 / EPOCH_CPU;

/** E_FREED of a word that no object has. */
const SLACK = 1;

const DOUBLE_WORDS = 2;
/** Words of one shared memory. */
const SHARED_WORDS_MAX = 2 ** 30;

/** Words of a machine that can be released at. */
const RELEASES_MAX = 2 ** 20;
/** The release of a word for which there is no room. */
const UNKNOWN_RELEASE = RELEASES_MAX + 1;

/** The word that counts releases which are or were in use, alone in its memory. */
const R_COUNT = 0;

/** Turns of a spin before the waiter sleeps, and how long it does. Unit of the second: milliseconds. */
const SPINS = 200;
const LOOK_MS = 1;

/** An x64 processor does not move a store before what precedes it. */
const KEEPS_STORE_ORDER = process.arch === 'x64';

/** What a worker needs to share a shadow; survives `postMessage`. */
export interface ShadowHandle {
  readonly lines: SharedArrayBuffer;
  readonly epochs: SharedArrayBuffer;
  readonly releases: SharedArrayBuffer;
  readonly clocks: SharedArrayBuffer;
  readonly places: SharedArrayBuffer;
  readonly stacks: SharedArrayBuffer;
  readonly lineCount: number;
  readonly cpus: number;
}

/** Something that must not be done with a word. */
export interface Misuse {
  readonly kind: 'race' | 'use-after-free' | 'out-of-bounds' | 'double-free';
  readonly word: number;
  /** What this CPU does: USE_*. */
  readonly use: number;
  /** Of a race: whose use it was, and which; else -1. */
  readonly otherCpu: number;
  readonly other: number;
  /** The stack of the other use, if that was noted, or of the free; empty if it is not known. */
  readonly otherStack: string;
}

/** A shadow of `words` words for `cpus` CPUs. Committed by the operating system as it is used. @throws FaultlineError */
export function createShadow(words: number, cpus: number): ShadowHandle {
  const lines = Math.ceil(words / LINE);
  const epochs = lines * (KINDS * LINE + 1) * DOUBLE_WORDS;
  if (epochs > SHARED_WORDS_MAX) {
    const most = Math.floor((SHARED_WORDS_MAX * words * 4) / epochs / 2 ** 20);
    const message = `the checked build watches machines of at most ${most} MiB`;
    throw new FaultlineError('FAULTLINE_BAD_MACHINE', message);
  }
  return {
    lines: createSharedMemory(lines * LINE_WORDS).buffer,
    epochs: createSharedMemory(epochs).buffer,
    releases: createSharedMemory(1).buffer,
    clocks: createSharedMemory((1 + RELEASES_MAX) * (1 + cpus) * DOUBLE_WORDS).buffer,
    places: UsePlaces.create(),
    stacks: StackStore.create(),
    lineCount: lines,
    cpus,
  };
}

/** One CPU's view of the shadow, and what the CPU has seen. */
export class Shadow {
  readonly cpu: number;
  /** Called, with nothing locked, when the CPU has misused a word. */
  onMisuse: ((misuse: Misuse) => void) | null = null;
  /** Called now and then while the CPU waits for a line: throws if nobody will let it go. */
  onStuck: (() => void) | null = null;
  /** Where armed uses were made. */
  readonly places: UsePlaces;
  /** Of who hands out and gives back, and of armed uses. */
  readonly #stacks: StackStore;
  readonly #words: Int32Array;
  /** Of each word, the last use of each kind; behind them, of each line, the last plain store to all of it. */
  readonly #epochs: Float64Array;
  readonly #fills: number;
  readonly #releases: Int32Array;
  /** The time of each CPU, then of each release: the epoch of whoever made it, and what that had seen. */
  readonly #clocks: Float64Array;
  readonly #cpus: number;
  /** The last time of each CPU that this one has seen; its own is now. */
  readonly #seen: Float64Array;
  /** The CPU's epoch. */
  #now: number;
  /** Releases of words that were forgotten, for others. */
  readonly #spareReleases: number[] = [];
  #misuse: Misuse | null = null;

  constructor(handle: ShadowHandle, cpu: number) {
    this.cpu = cpu;
    this.#words = new Int32Array(handle.lines);
    this.#epochs = new Float64Array(handle.epochs);
    this.#fills = handle.lineCount * LINE * KINDS;
    this.#releases = new Int32Array(handle.releases);
    this.#clocks = new Float64Array(handle.clocks);
    this.#stacks = new StackStore(handle.stacks);
    this.places = new UsePlaces(handle.places, this.#stacks);
    this.#cpus = handle.cpus;
    this.#seen = new Float64Array(handle.cpus);
    this.#seen[cpu] = 1;
    this.#now = cpu * EPOCH_CPU + 1;
  }

  // --- one word ---

  /** A plain use of a word, before or after the access itself. */
  plain(word: number, kind: number): void {
    const at = word * KINDS;
    const epochs = this.#epochs;
    const now = this.#now;
    const isKnown = epochs[at + kind] === now || epochs[at + USE_WRITE] === now;
    if (isKnown && this.#words[entryOf(word) + E_FREED] === 0 && !this.places.isArmed) {
      return; // the last of its kind is the CPU's own, at this time
    }
    this.#use(lineOf(word), word, kind);
    if (this.#misuse !== null) this.#tell();
  }

  /** A marked use of a word begins: until `end` nobody else changes what is kept with the line's words. */
  begin(word: number, kind: number): void {
    const line = lineOf(word);
    this.#lock(line);
    this.#use(line, word, kind);
  }

  end(word: number): void {
    this.#unlock(lineOf(word));
    if (this.#misuse !== null) this.#tell();
  }

  /** The CPU has seen what is kept with the word. Between `begin` and `end`. */
  acquire(word: number): void {
    this.#acquire(entryOf(word));
  }

  /** Keeps with the word what the CPU has seen and done. Between `begin` and `end`. */
  release(word: number): void {
    this.#release(entryOf(word));
  }

  /** What was released at the word is not read any more. Between `begin` and `end`. */
  endRelease(word: number): void {
    this.#endRelease(entryOf(word));
  }

  // --- runs of words ---

  /** A plain store to a run. */
  fill(at: number, count: number): void {
    const end = at + count;
    for (let word = at, next = at; word < end; word = next) {
      next = lineEnd(word, end);
      if (next - word === LINE) this.#fillLine(word);
      else this.#useLine(word, next, 1, USE_WRITE, RUN_UNORDERED);
    }
    if (this.#misuse !== null) this.#tell();
  }

  /** Any other use of a run. */
  run(at: number, count: number, kind: number): void {
    this.#run(at, count, 1, kind, RUN_UNORDERED);
  }

  /**
   * A use of a run of cells, of 64 bits each: the first word of each stands for it. Loads have been made: a release
   * that came since counts as seen. Stores and updates are made next: a load of them that comes before counts as
   * having seen them.
   */
  cells(at: number, count: number, kind: number, order: number): void {
    this.#run(at, count * CELL, CELL, kind, order);
  }

  #run(at: number, count: number, step: number, kind: number, order: number): void {
    const end = at + count;
    for (let word = at, next = at; word < end; word = next) {
      next = lineEnd(word, end);
      this.#useLine(word, next, step, kind, order);
    }
    if (this.#misuse !== null) this.#tell();
  }

  /** Every `step`th of the words from `from` to `next`, which are of one line. */
  #useLine(from: number, next: number, step: number, kind: number, order: number): void {
    const words = this.#words;
    const line = lineOf(from);
    this.#lock(line);
    for (let word = from; word < next; word += step) {
      const entry = entryOf(word);
      this.#use(line, word, kind);
      if (order !== RUN_UNORDERED && words[entry + E_RELEASE]! > 0) this.#acquire(entry);
      if (order === RUN_UPDATES) this.#release(entry);
    }
    this.#unlock(line);
  }

  #fillLine(word: number): void {
    const line = lineOf(word);
    const words = this.#words;
    this.#lock(line);
    if (words[line + L_FREED] !== 0) this.#useFreed(line, word, USE_WRITE);
    this.#againstFill(word, USE_WRITE);
    if (words[line + L_USED] !== 0) this.#forget(line, word, USE_WRITE);
    this.#epochs[this.#fillOf(word)] = this.#now;
    this.#unlock(line);
  }

  /** Compares with what is known of each word of the line, and forgets it. */
  #forget(line: number, word: number, kind: number): void {
    const words = this.#words;
    const used = words[line + L_USED]!;
    for (let i = 0; i < LINE; i++) {
      if (((used >> i) & 1) === 0) continue;
      this.#against(word + i, kind);
      this.#forgetWord(word + i);
    }
    words[line + L_USED] = 0;
  }

  #forgetWord(word: number): void {
    const at = word * KINDS;
    const epochs = this.#epochs;
    for (let kind = 0; kind < KINDS; kind++) epochs[at + kind] = 0;
    const entry = entryOf(word);
    if (this.#words[entry + E_RELEASE] !== 0) this.#dropRelease(entry);
  }

  /** A word of the line is nobody's. */
  #useFreed(line: number, word: number, kind: number): void {
    for (let i = 0; i < LINE; i++) {
      const freed = this.#words[line + HEAD_WORDS + i * ENTRY_WORDS + E_FREED]!;
      if (freed !== 0) this.#noteFreed(word + i, kind, freed);
    }
  }

  // --- notes ---

  /** Compares a use with those before, and notes it. */
  #use(line: number, word: number, kind: number): void {
    const words = this.#words;
    const freed = words[entryOf(word) + E_FREED]!;
    if (freed !== 0) this.#noteFreed(word, kind, freed);
    this.#againstFill(word, kind);
    this.#against(word, kind);
    this.#epochs[word * KINDS + kind] = this.#now;
    const used = words[line + L_USED]!;
    const bit = 1 << (word & (LINE - 1));
    if ((used & bit) === 0) words[line + L_USED] = used | bit;
    if (this.places.isArmed) this.places.note(word, this.cpu, kind);
  }

  /** With the last uses of the word of the kinds that race with this one. */
  #against(word: number, kind: number): void {
    const at = word * KINDS;
    const epochs = this.#epochs;
    const write = epochs[at + USE_WRITE]!;
    if (write !== 0) this.#compare(word, kind, write, USE_WRITE);
    if (kind === USE_READ_ONCE) return;
    if (kind !== USE_WRITE_ONCE) {
      const writeOnce = epochs[at + USE_WRITE_ONCE]!;
      if (writeOnce !== 0) this.#compare(word, kind, writeOnce, USE_WRITE_ONCE);
    }
    if (kind === USE_READ) return;
    const read = epochs[at + USE_READ]!;
    if (read !== 0) this.#compare(word, kind, read, USE_READ);
    if (kind === USE_WRITE_ONCE) return;
    const readOnce = epochs[at + USE_READ_ONCE]!;
    if (readOnce !== 0) this.#compare(word, kind, readOnce, USE_READ_ONCE);
  }

  #againstFill(word: number, kind: number): void {
    const fill = this.#epochs[this.#fillOf(word)]!;
    if (fill !== 0) this.#compare(word, kind, fill, USE_WRITE);
  }

  #compare(word: number, kind: number, epoch: number, other: number): void {
    const by = (epoch * EPOCH_SHIFT) | 0;
    if (by === this.cpu || epoch - by * EPOCH_CPU <= this.#seen[by]!) return;
    this.#noteRace(word, kind, by, other);
  }

  #fillOf(word: number): number {
    return this.#fills + (word >> LINE_SHIFT);
  }

  #noteRace(word: number, use: number, otherCpu: number, other: number): void {
    if (this.#misuse !== null) return;
    const otherStack = this.places.of(word, otherCpu, other);
    this.#misuse = { kind: 'race', word, use, otherCpu, other, otherStack };
  }

  #noteFreed(word: number, use: number, freed: number): void {
    if (this.#misuse !== null) return;
    const kind =
      freed === SLACK ? 'out-of-bounds' : use === USE_FREE ? 'double-free' : 'use-after-free';
    const otherStack = freed === SLACK ? '' : this.#stacks.textOf(freed);
    this.#misuse = { kind, word, use, otherCpu: -1, other: -1, otherStack };
  }

  #tell(): void {
    const misuse = this.#misuse!;
    this.#misuse = null;
    this.onMisuse?.(misuse); // whoever is told looks at memory through readOwn only
  }

  // --- order; the line is locked ---

  #acquire(entry: number): void {
    const release = this.#words[entry + E_RELEASE]!;
    if (release <= 0) return;
    const clocks = this.#clocks;
    const seen = this.#seen;
    if (release === UNKNOWN_RELEASE) {
      this.#seeAll(0);
      return;
    }
    const clock = this.#clockAt(release);
    const epoch = clocks[clock]!;
    const by = (epoch * EPOCH_SHIFT) | 0;
    if (seen[by]! < epoch - by * EPOCH_CPU) this.#seeAll(clock + 1); // else it has seen all that, too (I3)
  }

  /** The CPU has seen what is at that place. */
  #seeAll(clock: number): void {
    const clocks = this.#clocks;
    const seen = this.#seen;
    for (let cpu = 0; cpu < this.#cpus; cpu++) {
      const time = clocks[clock + cpu]!;
      if (time > seen[cpu]! && cpu !== this.cpu) seen[cpu] = time;
    }
  }

  #release(entry: number): void {
    const words = this.#words;
    const before = words[entry + E_RELEASE]!;
    const release = before === 0 ? this.#newRelease() : Math.abs(before);
    words[entry + E_RELEASE] = release;
    const clocks = this.#clocks;
    const seen = this.#seen;
    if (release !== UNKNOWN_RELEASE) {
      const clock = this.#clockAt(release);
      clocks[clock] = this.#now;
      for (let cpu = 0; cpu < this.#cpus; cpu++) clocks[clock + 1 + cpu] = seen[cpu]!;
    }
    clocks[this.cpu] = seen[this.cpu]!;
    this.#now++;
    seen[this.cpu] = seen[this.cpu]! + 1;
  }

  #endRelease(entry: number): void {
    const release = this.#words[entry + E_RELEASE]!;
    if (release > 0) this.#words[entry + E_RELEASE] = -release;
  }

  #dropRelease(entry: number): void {
    const release = Math.abs(this.#words[entry + E_RELEASE]!);
    if (release !== 0 && release !== UNKNOWN_RELEASE) this.#spareReleases.push(release);
    this.#words[entry + E_RELEASE] = 0;
  }

  /** The first `cpus + 1` are the times of CPUs. */
  #clockAt(release: number): number {
    return release * (this.#cpus + 1);
  }

  #newRelease(): number {
    const spare = this.#spareReleases.pop();
    if (spare !== undefined) return spare;
    if (this.#releases[R_COUNT]! >= RELEASES_MAX) return UNKNOWN_RELEASE;
    return Math.min(UNKNOWN_RELEASE, 1 + Atomics.add(this.#releases, R_COUNT, 1));
  }

  // --- life ---

  /** The words are nobody's any more; the CPU's stack is kept with them. */
  free(at: number, count: number): void {
    const site = this.#stacks.keepOwn();
    const end = at + count;
    for (let word = at, next = at; word < end; word = next) {
      next = lineEnd(word, end);
      this.#freeLine(word, next, site);
    }
    if (this.#misuse !== null) this.#tell();
  }

  #freeLine(from: number, next: number, site: number): void {
    const words = this.#words;
    const line = lineOf(from);
    this.#lock(line);
    this.#againstFill(from, USE_FREE);
    for (let word = from; word < next; word++) {
      const entry = entryOf(word);
      const freed = words[entry + E_FREED]!;
      if (freed !== 0) this.#noteFreed(word, USE_FREE, freed);
      else words[line + L_FREED] = words[line + L_FREED]! + 1;
      this.#against(word, USE_FREE);
      words[entry + E_FREED] = site;
    }
    this.#unlock(line);
  }

  /** The words are somebody's from now on, and nothing was before; the CPU's stack is kept with them. */
  alloc(at: number, count: number): void {
    const site = this.#stacks.keepOwn();
    this.#renew(at, count, 0);
    this.#words[entryOf(at) + E_SITE] = site;
  }

  /** The words are a frame's that its allocator fills. */
  giveFrame(at: number, count: number): void {
    this.#renew(at, count, 0);
  }

  /** The words are a slab's, and no object's yet. */
  takeSlab(at: number, count: number): void {
    this.#renew(at, count, SLACK);
  }

  /** Nothing has happened to the words yet; `freed` says whether they are somebody's. */
  #renew(at: number, count: number, freed: number): void {
    const end = at + count;
    for (let word = at, next = at; word < end; word = next) {
      next = lineEnd(word, end);
      this.#renewLine(word, next, freed);
    }
  }

  #renewLine(from: number, next: number, freed: number): void {
    const words = this.#words;
    const line = lineOf(from);
    this.#lock(line);
    let freedBefore = 0;
    for (let word = from; word < next; word++) {
      const entry = entryOf(word);
      if (words[entry + E_FREED] !== 0) freedBefore++;
      words[entry + E_FREED] = freed;
      words[entry + E_SITE] = 0;
      this.#forgetWord(word);
    }
    const freedNow = freed === 0 ? 0 : next - from;
    words[line + L_FREED] = words[line + L_FREED]! - freedBefore + freedNow;
    words[line + L_USED] = words[line + L_USED]! & ~maskOf(from, next);
    this.#epochs[this.#fillOf(from)] = 0;
    this.#unlock(line);
  }

  /** The stack by which the object that begins at that word was handed out; undefined if it is nobody's. */
  siteOf(at: number): string | undefined {
    const entry = entryOf(at);
    const site = this.#words[entry + E_SITE]!;
    return site === 0 || this.#words[entry + E_FREED] !== 0 ? undefined : this.#stacks.textOf(site);
  }

  /** As siteOf, of an object that may have been given back. */
  lastSiteOf(at: number): string {
    return this.#stacks.textOf(this.#words[entryOf(at) + E_SITE]!);
  }

  // --- locks of lines ---

  #lock(line: number): void {
    if (Atomics.exchange(this.#words, line + L_LOCK, 1) !== 0) this.#waitFor(line);
  }

  #waitFor(line: number): void {
    for (let spins = 1; Atomics.exchange(this.#words, line + L_LOCK, 1) !== 0; spins++) {
      if (spins % SPINS !== 0) continue;
      Atomics.wait(this.#words, line + L_LOCK, 1, LOOK_MS);
      this.onStuck?.();
    }
  }

  #unlock(line: number): void {
    if (KEEPS_STORE_ORDER) this.#words[line + L_LOCK] = 0;
    else Atomics.store(this.#words, line + L_LOCK, 0);
  }
}

function lineOf(word: number): number {
  return (word >> LINE_SHIFT) * LINE_WORDS;
}

/** The first word behind the line, or the end of the run, if that comes before. */
function lineEnd(word: number, end: number): number {
  return Math.min(end, (word | (LINE - 1)) + 1);
}

/** The bits of L_USED of words of one line. */
function maskOf(from: number, next: number): number {
  const count = next - from;
  return ((1 << count) - 1) << (from & (LINE - 1));
}

function entryOf(word: number): number {
  return (word >> LINE_SHIFT) * LINE_WORDS + HEAD_WORDS + (word & (LINE - 1)) * ENTRY_WORDS;
}
