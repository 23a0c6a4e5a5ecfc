/**
 * Stacks that the checked build keeps: of who handed an object out, who gave it back, who made an armed use.
 *
 * Protocol   A stack is kept once by each worker that meets it: its text takes room behind those that are there,
 *            by an atomic add. Its number is where it begins; whoever passes the number on has stored the text
 *            before, and orders the two.
 * Deviation  When there is no room the stack is not kept.
 * Cost       Some microseconds, nearly all for the text that the engine makes of a stack.
 *
 * @module
 */
import { framesAbove } from '../base/own-stack.js';
import { createSharedMemory } from './native.js';
import { leaveText, textLeftAt } from './turn-token.js';

/** Unit: words. */
const STORE_WORDS = 2 ** 23;
/** Where the next text begins. */
const S_END = 0;
const FIRST = 16;
/** The number of a stack for which there was no room. */
const NOT_KEPT = FIRST - 1;

const FRAMES_MAX = 16;
const SHOWN_MAX = 8;
/** Frames of the checked build, of its reports, and of those that tell it what an allocator does. */
const OWN_FRAME =
  /^ {4}at (?:#|Shadow\.|StackStore\.|UsePlaces\.|shadow\.|(?:stackHere|bodyOf|reportMisuse|claim|retire|kzalloc|kfree\w*|noteFree|noteAlloc|assertExclusive\w+|read(?:Address|Once\w*)?|write(?:Address|Once\w*|Release)?|loadAcquire|storeRelease|beginUpdate|fetch(?:Add|Or|And)|exchange|cmpxchg|fillWords|copyWords|countInside|\w+Cells(?:While)?|followLink)\b)/;
/** The frame below which is only the crew. */
const CREW_FRAME = /^ {4}at (?:async )?runWorker\b/;

export class StackStore {
  readonly #words: Int32Array;
  /** Numbers of the texts that this worker has kept. */
  readonly #known = new Map<string, number>();

  constructor(buffer: SharedArrayBuffer) {
    this.#words = new Int32Array(buffer);
  }

  /** Room for stacks. */
  static create(): SharedArrayBuffer {
    return createSharedMemory(STORE_WORDS).buffer;
  }

  /** Keeps the caller's stack; returns its number, which is FIRST - 1 or more. */
  keepOwn(): number {
    const text = ownFrames().join('\n');
    return this.#known.get(text) ?? this.#keep(text);
  }

  #keep(text: string): number {
    const end = FIRST + Atomics.load(this.#words, S_END);
    const size = 1 + text.length;
    if (end + size > STORE_WORDS) return NOT_KEPT;
    const at = FIRST + Atomics.add(this.#words, S_END, size);
    if (at + size > STORE_WORDS) return NOT_KEPT;
    leaveText(this.#words, at, text.length, text);
    this.#known.set(text, at);
    return at;
  }

  /** The frames of a stack, innermost first, without those of the checked build; empty if it was not kept. */
  textOf(number: number): string {
    return number < FIRST ? '' : withoutOwn(textLeftAt(this.#words, number).split('\n'));
  }
}

/** The caller's frames, innermost first, without those of the checked build. */
export function stackHere(): string {
  return withoutOwn(ownFrames());
}

function ownFrames(): string[] {
  return framesAbove(ownFrames, FRAMES_MAX);
}

function withoutOwn(frames: readonly string[]): string {
  const first = frames.findIndex((line) => !OWN_FRAME.test(line));
  const crew = frames.findIndex((line) => CREW_FRAME.test(line));
  const end = crew < 0 ? frames.length : crew;
  return frames.slice(Math.max(0, first), Math.min(end, first + SHOWN_MAX)).join('\n');
}
