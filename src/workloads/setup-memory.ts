/**
 * Memory that the boot CPU sets up for the crew: taken while preparing, given back at the end.
 *
 * @module
 */
import { EXIT_USAGE, FaultlineError } from '../base/bug.js';
import type { Cpu } from '../machine/cpu.js';
import { allocWords, freeWords } from '../machine/slab.js';
import type { Ptr } from '../memory/layout.js';

export class SetupMemory {
  readonly #blocks: { start: number; words: number }[] = [];

  /** A zeroed struct, from a frame boundary. @throws FaultlineError if the machine's memory is too small */
  make<S extends string>(
    cpu: Cpu,
    layout: { readonly structName: S; readonly words: number },
  ): Ptr<S> {
    return this.words(cpu, layout.words) as Ptr<S>;
  }

  /** `count` zeroed words, from a frame boundary. @throws FaultlineError */
  words(cpu: Cpu, count: number): number {
    const start = allocWords(cpu, count);
    if (start === 0) throw outOfMemory();
    this.#blocks.push({ start, words: count });
    return start;
  }

  /** Gives everything back. */
  free(cpu: Cpu): void {
    for (const { start, words } of this.#blocks) freeWords(cpu, start, words);
    this.#blocks.length = 0;
  }
}

/** The machine has too little physical memory for what was asked of it. */
export function outOfMemory(): FaultlineError {
  return new FaultlineError(
    'FAULTLINE_OUT_OF_MEMORY',
    'the emulated machine has too little memory for this configuration',
    EXIT_USAGE,
  );
}
