/**
 * Lines of text that any CPU leaves in the machine, and the main thread reads.
 *
 * Protocol   A line takes a number by an atomic add; the first LINES_MAX keep their text. The text is
 *            written first and its length last: who finds a length finds the text.
 *
 * @module
 */
import { fetchAdd, loadAcquire, read, readOnce, storeRelease, write } from '#memory';

import { type ArrayField, element, type Field } from '../memory/layout.js';
import type { Cpu } from './cpu.js';
import { MACHINE, TEXT_CHARACTERS, TEXTS_MAX } from './types.js';

/** Where the lines of one kind are: how many there were, and the first of them. */
export interface TextLog {
  readonly count: Field<'machine'>;
  readonly texts: ArrayField<'machine'>;
}

/** Leaves a line. What is longer than TEXT_CHARACTERS is cut off. */
export function logText(cpu: Cpu, log: TextLog, message: string): void {
  const index = fetchAdd(cpu, MACHINE, log.count, 1);
  if (index >= TEXTS_MAX) return;
  const text = message.slice(0, TEXT_CHARACTERS);
  for (let i = 0; i < text.length; i++) {
    write(cpu, MACHINE, wordOf(log, index, 1 + i), text.charCodeAt(i));
  }
  storeRelease(cpu, MACHINE, wordOf(log, index, 0), text.length); // pairs with loggedTexts
}

/** How many lines there were. */
export function loggedCount(cpu: Cpu, log: TextLog): number {
  return readOnce(cpu, MACHINE, log.count);
}

/** The texts that were kept, in the order the lines came. */
export function loggedTexts(cpu: Cpu, log: TextLog): string[] {
  const kept = Math.min(loggedCount(cpu, log), TEXTS_MAX);
  return Array.from({ length: kept }, (_, index) => {
    const length = loadAcquire(cpu, MACHINE, wordOf(log, index, 0)); // pairs with logText
    const codes = Array.from({ length }, (_code, i) =>
      read(cpu, MACHINE, wordOf(log, index, 1 + i)),
    );
    return String.fromCharCode(...codes);
  });
}

function wordOf(log: TextLog, index: number, offset: number): Field<'machine'> {
  return element(log.texts, index * (1 + TEXT_CHARACTERS) + offset);
}
