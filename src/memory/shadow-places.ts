/**
 * Where uses of a word were made, for the checked build: noted with their stacks while the word is armed.
 *
 * Protocol   Somebody arms a word, and with it all that lie alike in objects of the same kind. From then on every
 *            CPU that uses one leaves its stack in a table by word, CPU and kind of use. What falls on the same
 *            place of the table replaces what was there; whoever asks sees by the word whether it is his.
 * Invariant  I1  A use is noted by who has the word's line locked, or makes the only use of that kind and CPU.
 * Cost       While something is armed: a stack for each use of it, and a look for each other use.
 *
 * @module
 */
import { createSharedMemory } from './native.js';
import type { StackStore } from './shadow-stacks.js';

// the head
/** Not 0: something is armed. */
const P_ARMED = 0;
/** What: words at an offset of every so many words of a frame; a stride of 0 means one word. */
const P_STRIDE = 1;
const P_OFFSET = 2;
const P_FRAMES = 3;
const HEAD_WORDS = 16;

/** Places of the table, each a word of the machine and the number of a stack. */
const PLACES = 2 ** 14;
const PLACE_WORDS = 2;
/** Kinds of use. */
const KINDS = 4;

/** A frame is cut into objects of one kind. */
const FRAME_WORDS = 1024;

export class UsePlaces {
  readonly #words: Int32Array;
  readonly #stacks: StackStore;

  constructor(buffer: SharedArrayBuffer, stacks: StackStore) {
    this.#words = new Int32Array(buffer);
    this.#stacks = stacks;
  }

  /** Room for the table. */
  static create(): SharedArrayBuffer {
    return createSharedMemory(HEAD_WORDS + PLACES * PLACE_WORDS).buffer;
  }

  /**
   * From now on uses of some words by any CPU are noted: of the word alone, or with a stride of all words that lie
   * as it does in objects of so many words, which fill frames from `frames` on.
   */
  arm(word: number, stride: number, frames: number): void {
    const words = this.#words;
    words[P_STRIDE] = stride;
    words[P_FRAMES] = frames;
    words[P_OFFSET] = stride === 0 ? word : offsetIn(word, stride, frames);
    Atomics.store(words, P_ARMED, 1);
  }

  disarm(): void {
    Atomics.store(this.#words, P_ARMED, 0);
  }

  get isArmed(): boolean {
    return this.#words[P_ARMED] !== 0;
  }

  /** A use by this CPU: its stack is kept, if the word is armed. */
  note(word: number, cpu: number, kind: number): void {
    if (!this.#isArmedAt(word)) return;
    const at = placeAt(word, cpu, kind);
    this.#words[at] = word;
    this.#words[at + 1] = this.#stacks.keepOwn();
  }

  #isArmedAt(word: number): boolean {
    const words = this.#words;
    const stride = words[P_STRIDE]!;
    const offset = words[P_OFFSET]!;
    if (stride === 0) return word === offset;
    const frames = words[P_FRAMES]!;
    return word >= frames && offsetIn(word, stride, frames) === offset;
  }

  /** The stack of the CPU's last use of that kind; empty if it was not noted. */
  of(word: number, cpu: number, kind: number): string {
    const at = placeAt(word, cpu, kind);
    return this.#words[at] === word ? this.#stacks.textOf(this.#words[at + 1]!) : '';
  }
}

/** The offset of a word in its object, among objects of `stride` words. */
function offsetIn(word: number, stride: number, frames: number): number {
  return ((word - frames) & (FRAME_WORDS - 1)) % stride;
}

function placeAt(word: number, cpu: number, kind: number): number {
  const hash = Math.imul(word * KINDS + kind, 0x9e3779b1) ^ Math.imul(cpu + 1, 0x85ebca6b);
  return HEAD_WORDS + ((hash >>> 8) & (PLACES - 1)) * PLACE_WORDS;
}
