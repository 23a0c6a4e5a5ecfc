/**
 * Puts a shadow back to what it was, beside memory that is put back: for running the same start many times.
 *
 * Whose the words are is kept. Who has used them is forgotten: all that was done before comes before what will be,
 * as all CPUs meet in between.
 *
 * @module
 */
import type { ShadowHandle } from './shadow.js';
import { ShadowClock } from './shadow-clocks.js';
import {
  E_RELEASE,
  ENTRY_WORDS,
  HEAD_WORDS,
  KINDS,
  L_RELEASE,
  L_RELEASED,
  L_USED,
  L_WHOLE,
  LINE,
  LINE_WORDS,
  lineOf,
} from './shadow-layout.js';

export class ShadowRestorer {
  readonly #handle: ShadowHandle;
  readonly #words: Int32Array;
  readonly #epochs: Float64Array;
  readonly #saved: Int32Array;

  /** `saved`: room for the start, shared by all who may put it back (`roomFor`). */
  constructor(handle: ShadowHandle, saved: Int32Array) {
    this.#handle = handle;
    this.#words = new Int32Array(handle.lines);
    this.#epochs = new Float64Array(handle.epochs);
    this.#saved = saved;
  }

  /** Words for the start of a shadow. */
  static roomFor(handle: ShadowHandle): number {
    return handle.lines.byteLength / Int32Array.BYTES_PER_ELEMENT;
  }

  /** This is the start. Nobody may run. */
  take(): void {
    this.#forgetUses();
    this.#saved.set(this.#words);
  }

  #forgetUses(): void {
    const words = this.#words;
    for (let line = 0; line < words.length; line += LINE_WORDS) {
      for (const field of [L_USED, L_WHOLE, L_RELEASE, L_RELEASED]) words[line + field] = 0;
      for (let i = 0; i < LINE; i++) words[line + HEAD_WORDS + i * ENTRY_WORDS + E_RELEASE] = 0;
    }
    this.#epochs.fill(0);
    ShadowClock.forget(this.#handle.clocks);
  }

  /** Of the words from `from` to `end`, which begin lines. Nobody may run. */
  restore(from: number, end: number): void {
    const [first, last] = [lineOf(from), lineOf(end)];
    this.#words.set(this.#saved.subarray(first, last), first);
    this.#epochs.fill(0, from * KINDS, end * KINDS);
    const wholes = this.#handle.lineCount * LINE * KINDS;
    this.#epochs.fill(0, wholes + (from / LINE) * KINDS, wholes + (end / LINE) * KINDS);
  }

  /** All that was to be restored has been. */
  finish(): void {
    ShadowClock.forget(this.#handle.clocks);
  }
}
