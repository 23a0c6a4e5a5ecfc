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
 *            Marked stores and updates lock the line (of 16 words) that they use until the access has been made:
 *            what is kept with the word is what is acquired by whoever loads what was stored. Marked loads look
 *            again if the line was locked meanwhile.
 *
 *            A use is noted as an epoch of the CPU (shadow-clocks.ts; FastTrack: Flanagan, Freund, PLDI 2009). Of
 *            each kind of use the last one is kept: a race with an earlier one may be missed, none is reported
 *            that is not there.
 *
 *            A use of a whole line is noted, and releases, with the line; a plain store to it makes that what is
 *            known of its words is forgotten.
 *            Words that an allocator has are nobody's: a use of one is an error, and so is giving it back again.
 *            Giving back is a plain store to all of them: who may still be looking races with it.
 *
 * Invariants I1  What is kept with words, and whose they are, is changed only by who has their line locked. Uses
 *                are noted without it: of two that are noted at once, one may be missed.
 *            I2  Who has a line locked takes no other lock of any kind and calls nobody.
 * Ordering   As for the turnstile build (explore/races.ts): readOnce counts as an acquire, because what is
 *            reached through a pointer is up to date; writeOnce is no release. A sleep ends by a look at the word,
 *            so that waking orders nothing by itself.
 * Deviation  A CPU that acquires at a word is taken to have seen what was released with its line: races may be missed.
 * Cost       A use that repeats the CPU's own last one: some loads. Another: 10 ns. A marked store: 30 ns. A run: 40 ns
 *            for each line.
 *
 * @module
 */
import { FaultlineError } from '../base/bug.js';
import { createSharedMemory } from './native.js';
import { type ClocksHandle, epochCpu, ShadowClock } from './shadow-clocks.js';
import {
  ALL_OF_LINE,
  bitOf,
  E_FREED,
  E_RELEASE,
  E_SITE,
  ENTRY_WORDS,
  entryOf,
  HEAD_WORDS,
  KINDS,
  L_FREED,
  L_LOCK,
  L_RELEASE,
  L_RELEASED,
  L_USED,
  L_WHOLE,
  LINE,
  LINE_SHIFT,
  LINE_WORDS,
  lineEnd,
  lineOf,
  maskOf,
  PLAIN_SHIFT,
} from './shadow-layout.js';
import { UsePlaces } from './shadow-places.js';
import { StackStore } from './shadow-stacks.js';

/** Kinds of use. */
export const USE_WRITE = 0;
export const USE_WRITE_ONCE = 1;
export const USE_READ = 2;
export const USE_READ_ONCE = 3;
/** The words are given back; as a store it is a plain one. */
export const USE_FREE = 4;
/** The kinds that race with a marked use. */
const IS_PLAIN = (1 << USE_WRITE) | (1 << USE_READ);

/** Words of a cell. */
const CELL = 2;

/** What a run of uses orders: nothing; each acquires; each acquires and releases. */
export const RUN_UNORDERED = 0;
export const RUN_ACQUIRES = 1;
export const RUN_UPDATES = 2;

/** E_FREED of a word that no object has. */
const SLACK = 1;

const DOUBLE_WORDS = 2;
/** Words of one shared memory. */
const SHARED_WORDS_MAX = 2 ** 30;

/** Turns of a spin before the waiter sleeps, and how long it does. Unit of the second: milliseconds. */
const SPINS = 1000;
const LOOK_MS = 0.05;

/** An x64 processor does not move a store before what precedes it, nor a load. */
const KEEPS_ORDER = process.arch === 'x64';

/** What a worker needs to share a shadow; survives `postMessage`. */
export interface ShadowHandle {
  readonly lines: SharedArrayBuffer;
  readonly epochs: SharedArrayBuffer;
  readonly clocks: ClocksHandle;
  readonly places: SharedArrayBuffer;
  readonly stacks: SharedArrayBuffer;
  readonly lineCount: number;
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
  const epochs = lines * (KINDS * LINE + KINDS) * DOUBLE_WORDS;
  if (epochs > SHARED_WORDS_MAX) {
    const most = Math.floor((SHARED_WORDS_MAX * words * 4) / epochs / 2 ** 20);
    const message = `the checked build watches machines of at most ${most} MiB`;
    throw new FaultlineError('FAULTLINE_BAD_MACHINE', message);
  }
  return {
    lines: createSharedMemory(lines * LINE_WORDS).buffer,
    epochs: createSharedMemory(epochs).buffer,
    clocks: ShadowClock.create(cpus),
    places: UsePlaces.create(),
    stacks: StackStore.create(),
    lineCount: lines,
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
  /** What the CPU has seen. */
  readonly #clock: ShadowClock;
  readonly #words: Int32Array;
  /** Of each word, the last use of each kind; behind them, of each line, the last use of all of it. */
  readonly #epochs: Float64Array;
  readonly #wholes: number;
  #misuse: Misuse | null = null;

  constructor(handle: ShadowHandle, cpu: number) {
    this.cpu = cpu;
    this.#words = new Int32Array(handle.lines);
    this.#epochs = new Float64Array(handle.epochs);
    this.#wholes = handle.lineCount * LINE * KINDS;
    this.#clock = new ShadowClock(handle.clocks, cpu);
    this.#stacks = new StackStore(handle.stacks);
    this.places = new UsePlaces(handle.places, this.#stacks);
  }

  // --- one word ---

  /** A plain use of a word, before or after the access itself. */
  plain(word: number, kind: number): void {
    const at = word * KINDS;
    const epochs = this.#epochs;
    const { now } = this.#clock;
    const isKnown = epochs[at + kind] === now || epochs[at + USE_WRITE] === now;
    if (isKnown && this.#words[entryOf(word) + E_FREED] === 0 && !this.places.isArmed) {
      return; // the last of its kind is the CPU's own, at this time
    }
    this.#use(lineOf(word), word, kind);
    if (this.#misuse !== null) this.#tell();
  }

  /** A marked load of a word begins. */
  beginLoad(word: number): number {
    const at = lineOf(word) + L_LOCK;
    for (let spins = 1; ; spins++) {
      const version = Atomics.load(this.#words, at);
      if ((version & 1) === 0) return version;
      if (spins % SPINS === 0) this.#sleep(at, version);
    }
  }

  /** It has been made, and the CPU has seen what is kept with the word; false: it must be made again. */
  endLoad(word: number, version: number): boolean {
    const line = lineOf(word);
    const words = this.#words;
    const clock = this.#clock;
    this.plain(word, USE_READ_ONCE);
    const release = words[entryOf(word) + E_RELEASE]!;
    const whole = words[line + L_RELEASE]!;
    const isNew = release > 0 && clock.peek(release, 0);
    const isWholeNew = whole > 0 && clock.peek(whole, 1);
    const at = line + L_LOCK;
    const now = KEEPS_ORDER ? Atomics.load(words, at) : Atomics.add(words, at, 0);
    if (now !== version) return false;
    if (isNew) clock.see(0);
    if (isWholeNew) clock.see(1);
    return true;
  }

  /** A marked store or update begins: until `end` nobody else changes what is kept with the line's words. */
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
    this.#acquire(lineOf(word), word);
  }

  /** Keeps with the word what the CPU has seen and done. Between `begin` and `end`. */
  release(word: number): void {
    this.#release(lineOf(word), word);
  }

  /** What was released at the word is not read any more. Between `begin` and `end`. */
  endRelease(word: number): void {
    const entry = entryOf(word);
    const line = lineOf(word);
    const release = this.#words[entry + E_RELEASE]!;
    if (release <= 0) return;
    this.#words[entry + E_RELEASE] = -release;
    this.#words[line + L_RELEASED] = this.#words[line + L_RELEASED]! & ~bitOf(word);
  }

  // --- runs of words ---

  /** A use of a run, which orders nothing. */
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
      const line = lineOf(word);
      this.#lock(line);
      if (next - word === LINE) this.#useWhole(line, word, kind, order);
      else this.#usePart(line, word, next, step, kind, order);
      this.#unlock(line);
    }
    if (this.#misuse !== null) this.#tell();
  }

  /** Every `step`th of the words from `from` to `next`, which are of one line. */
  #usePart(
    line: number,
    from: number,
    next: number,
    step: number,
    kind: number,
    order: number,
  ): void {
    for (let word = from; word < next; word += step) {
      this.#use(line, word, kind);
      if (order !== RUN_UNORDERED) this.#acquire(line, word);
      if (order === RUN_UPDATES) this.#release(line, word);
    }
  }

  /** All words of a line at once. */
  #useWhole(line: number, word: number, kind: number, order: number): void {
    const words = this.#words;
    if (words[line + L_FREED] !== 0) this.#useFreed(line, word, kind);
    if (words[line + L_WHOLE] !== 0) this.#against(this.#wholeOf(word), word, kind);
    const isPlain = ((IS_PLAIN >> kind) & 1) !== 0;
    const used = words[line + L_USED]!;
    const others = isPlain ? used & ALL_OF_LINE : used >>> PLAIN_SHIFT;
    if (others !== 0) this.#againstWords(word, others, kind);
    if (kind === USE_WRITE) this.#forgetLine(line, word);
    this.#epochs[this.#wholeOf(word) + kind] = this.#clock.now;
    words[line + L_WHOLE] = words[line + L_WHOLE]! | (1 << kind);
    if (order !== RUN_UNORDERED) this.#acquireWhole(line, word);
    if (order === RUN_UPDATES) this.#releaseWhole(line, word);
  }

  #againstWords(first: number, bits: number, kind: number): void {
    for (let i = 0; i < LINE; i++) {
      if (((bits >> i) & 1) !== 0) this.#against((first + i) * KINDS, first + i, kind);
    }
  }

  /** Nothing is known any more of the line's words, nor of the line. */
  #forgetLine(line: number, word: number): void {
    const words = this.#words;
    const known = words[line + L_USED]! | words[line + L_RELEASED]!;
    for (let i = 0; i < LINE; i++) {
      if (((known >> i) & 1) !== 0) this.#forgetWord(word + i);
    }
    words[line + L_USED] = 0;
    words[line + L_RELEASED] = 0;
    this.#forgetWhole(line, word);
  }

  #forgetWhole(line: number, word: number): void {
    const words = this.#words;
    if (words[line + L_WHOLE] === 0) return;
    const at = this.#wholeOf(word);
    for (let kind = 0; kind < KINDS; kind++) this.#epochs[at + kind] = 0;
    words[line + L_WHOLE] = 0;
    this.#drop(line + L_RELEASE);
  }

  #forgetWord(word: number): void {
    const at = word * KINDS;
    const epochs = this.#epochs;
    for (let kind = 0; kind < KINDS; kind++) epochs[at + kind] = 0;
    const entry = entryOf(word);
    this.#drop(entry + E_RELEASE);
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
    if (words[line + L_WHOLE] !== 0) this.#against(this.#wholeOf(word), word, kind);
    const at = word * KINDS;
    this.#against(at, word, kind);
    this.#epochs[at + kind] = this.#clock.now;
    const used = words[line + L_USED]!;
    const bit = bitOf(word);
    const bits = bit | ((((IS_PLAIN >> kind) & 1) * bit) << PLAIN_SHIFT);
    if ((used & bits) !== bits) words[line + L_USED] = used | bits;
    if (this.places.isArmed) this.places.note(word, this.cpu, kind);
  }

  /** With the last uses, whose epochs are there, of the kinds that race with this one. */
  #against(at: number, word: number, kind: number): void {
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

  #compare(word: number, kind: number, epoch: number, other: number): void {
    if (!this.#clock.hasSeen(epoch)) this.#noteRace(word, kind, epochCpu(epoch), other);
  }

  #wholeOf(word: number): number {
    return this.#wholes + (word >> LINE_SHIFT) * KINDS;
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

  // --- order ---

  /** What is kept with the word, and with all of its line. */
  #acquire(line: number, word: number): void {
    const release = this.#words[entryOf(word) + E_RELEASE]!;
    if (release > 0) this.#clock.acquire(release);
    this.#acquireLine(line);
  }

  #acquireLine(line: number): void {
    const whole = this.#words[line + L_RELEASE]!;
    if (whole > 0) this.#clock.acquire(whole);
  }

  #acquireWhole(line: number, word: number): void {
    const words = this.#words;
    const released = words[line + L_RELEASED]!;
    for (let i = 0; released >> i !== 0; i++) {
      if (((released >> i) & 1) !== 0) this.#clock.acquire(words[entryOf(word + i) + E_RELEASE]!);
    }
    this.#acquireLine(line);
  }

  /** The line is locked. */
  #release(line: number, word: number): void {
    const words = this.#words;
    const at = entryOf(word) + E_RELEASE;
    words[at] = this.#clock.release(Math.abs(words[at]!));
    words[line + L_RELEASED] = words[line + L_RELEASED]! | bitOf(word);
  }

  /** The CPU has seen what is kept with each word: the line is locked. */
  #releaseWhole(line: number, word: number): void {
    const words = this.#words;
    const released = words[line + L_RELEASED]!;
    for (let i = 0; released >> i !== 0; i++) {
      if (((released >> i) & 1) !== 0) this.#drop(entryOf(word + i) + E_RELEASE);
    }
    words[line + L_RELEASED] = 0;
    words[line + L_RELEASE] = this.#clock.release(words[line + L_RELEASE]!);
  }

  #drop(at: number): void {
    const release = this.#words[at]!;
    if (release === 0) return;
    this.#clock.drop(Math.abs(release));
    this.#words[at] = 0;
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
    if (words[line + L_WHOLE] !== 0) this.#against(this.#wholeOf(from), from, USE_FREE);
    for (let word = from; word < next; word++) {
      const entry = entryOf(word);
      const freed = words[entry + E_FREED]!;
      if (freed !== 0) this.#noteFreed(word, USE_FREE, freed);
      else words[line + L_FREED] = words[line + L_FREED]! + 1;
      this.#against(word * KINDS, word, USE_FREE);
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
    const others = ~maskOf(from, next);
    words[line + L_USED] =
      words[line + L_USED]! & ((others & ALL_OF_LINE) | (others << PLAIN_SHIFT));
    words[line + L_RELEASED] = words[line + L_RELEASED]! & others;
    this.#forgetWhole(line, from);
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
    const at = line + L_LOCK;
    const words = this.#words;
    const version = words[at]!;
    if ((version & 1) !== 0 || Atomics.compareExchange(words, at, version, version + 1) !== version)
      this.#waitFor(at);
  }

  #waitFor(at: number): void {
    const words = this.#words;
    for (let spins = 1; ; spins++) {
      const version = Atomics.load(words, at);
      const isFree = (version & 1) === 0;
      if (isFree && Atomics.compareExchange(words, at, version, version + 1) === version) return;
      if (spins % SPINS === 0) this.#sleep(at, version);
    }
  }

  #sleep(at: number, version: number): void {
    Atomics.wait(this.#words, at, version, LOOK_MS);
    this.onStuck?.();
  }

  #unlock(line: number): void {
    const at = line + L_LOCK;
    const next = this.#words[at]! + 1;
    if (KEEPS_ORDER) this.#words[at] = next;
    else Atomics.store(this.#words, at, next);
  }
}
