/**
 * Copies a small machine's memory back to what it was before an iteration.
 *
 * Everything is copied but frames that nobody has touched: most of the memory is frames, and few are used. A
 * frame that was free, and of which the allocator's record is as it was, has been free all the time: handing
 * out and taking back both leave a trace there (its users, its generation).
 *
 * @module
 */
import { read } from '#memory';

import { PAGE_WORDS } from '../base/units.js';
import type { Cpu } from '../machine/cpu.js';
import { MACHINE, Machine, Page } from '../machine/types.js';
import type { ShadowRestorer } from '../memory/shadow-restore.js';
import { memoryWords } from '../memory/snapshot.js';

export class Restorer {
  readonly #memory: Int32Array;
  readonly #snapshot: Int32Array;
  readonly #pages: number;
  readonly #frames: number;
  readonly #frameCount: number;
  readonly #shadow: ShadowRestorer | undefined;

  /** `shadow`: what puts the shadow back, if the memory is watched. */
  constructor(cpu: Cpu, snapshot: Int32Array, shadow?: ShadowRestorer) {
    this.#shadow = shadow;
    this.#memory = memoryWords(cpu);
    this.#snapshot = snapshot;
    this.#pages = cpu.pages;
    this.#frames = cpu.frames;
    this.#frameCount = read(cpu, MACHINE, Machine.frameCount);
  }

  /** The memory is now as it is to be. Nobody may run. */
  take(): void {
    this.#snapshot.set(this.#memory);
    this.#shadow?.take();
  }

  /** Nobody may run. */
  restore(): void {
    for (let frame = 0; frame < this.#frameCount; frame++) {
      if (this.#isTouched(frame)) {
        const at = this.#frames + frame * PAGE_WORDS;
        this.#copyBack(at, at + PAGE_WORDS);
      }
    }
    this.#copyBack(0, this.#frames); // last: the frames go by what is in it
    this.#shadow?.finish();
  }

  #copyBack(from: number, to: number): void {
    this.#memory.set(this.#snapshot.subarray(from, to), from);
    this.#shadow?.restore(from, to);
  }

  /** True if somebody has, or had, the frame. */
  #isTouched(frame: number): boolean {
    const page = this.#pages + frame * Page.words;
    if (this.#snapshot[page + Page.held] !== 0) return true;
    for (let at = page; at < page + Page.words; at++) {
      if (this.#memory[at] !== this.#snapshot[at]) return true;
    }
    return false;
  }
}
