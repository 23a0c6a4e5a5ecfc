/**
 * Texts of those who watch a machine, in its memory: a length, then two characters to a word.
 *
 * Ordering   None of its own: who writes and who reads have a lock of the watchers' in common, or do not run at once.
 *
 * @module
 */
import { readOwn, writeOwn } from '#memory';

import { type ArrayField, element, type Ptr } from '../memory/layout.js';
import type { Cpu } from './cpu.js';

/** Words that a text of so many characters takes. */
export function textWords(characters: number): number {
  return 1 + Math.ceil(characters / 2);
}

/** Writes a text at `index` of an array. */
export function writeText<S extends string>(
  cpu: Cpu,
  p: Ptr<S>,
  array: ArrayField<NoInfer<S>>,
  index: number,
  text: string,
): void {
  writeOwn(cpu, p, element(array, index), text.length);
  for (let i = 0; i < text.length; i += 2) {
    const second = i + 1 < text.length ? text.charCodeAt(i + 1) << 16 : 0;
    writeOwn(cpu, p, element(array, index + 1 + i / 2), text.charCodeAt(i) | second);
  }
}

/** The text that was written there. */
export function readText<S extends string>(
  cpu: Cpu,
  p: Ptr<S>,
  array: ArrayField<NoInfer<S>>,
  index: number,
): string {
  const length = readOwn(cpu, p, element(array, index));
  let text = '';
  for (let i = 0; i < length; i += 2) {
    const pair = readOwn(cpu, p, element(array, index + 1 + i / 2));
    text += String.fromCharCode(pair & 0xffff, pair >>> 16);
  }
  return text.slice(0, length);
}
