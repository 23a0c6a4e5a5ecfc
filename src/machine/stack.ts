/**
 * Each CPU's kernel stack: structs that live as long as a function call.
 *
 * A struct whose address other CPUs must know, or that holds 48-bit addresses which V8 would otherwise
 * put on its heap, goes here where C has it in a local variable.
 *
 * Invariant  I1  Structs are given back in the opposite order of their making.
 *
 * @module
 */
import { fillWords } from '#memory';

import { bug } from '../base/bug.js';
import type { Ptr } from '../memory/layout.js';
import type { Cpu } from './cpu.js';

/** One CPU's stack. Unit: words. */
export const STACK_WORDS = 1024;

/** One CPU's scratch memory: as much as a page table. Unit: words. */
export const SCRATCH_WORDS = 1024;

/** A zeroed struct on this CPU's stack. Give it back with stackPop. */
export function stackPush<S extends string>(
  cpu: Cpu,
  layout: { readonly structName: S; readonly words: number },
): Ptr<S> {
  const p = cpu.stackTop;
  // two words at an even index hold an address: keep the stack even
  const end = p + layout.words + (layout.words & 1);
  if (end > cpu.stack + STACK_WORDS) bug(`cpu ${cpu.id}: kernel stack overflow`);
  cpu.stackTop = end;
  fillWords(cpu, p, 0, layout.words);
  return p as Ptr<S>;
}

/** Gives a struct back, and whatever was made after it (I1). */
export function stackPop<S extends string>(cpu: Cpu, p: Ptr<S>): void {
  cpu.stackTop = p;
}
