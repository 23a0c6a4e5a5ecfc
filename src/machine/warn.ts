/**
 * Warnings: what must not happen but can be survived. The run goes on; its exit code says so.
 *
 * Kernel     WARN
 * Protocol   A warning takes a number by an atomic add; the first WARNINGS_MAX leave their text in the
 *            machine, where the main thread reads it at the end of the run.
 * Deviation  Reports are not rate-limited: the count is exact.
 *
 * @module
 */
import { fetchAdd, loadAcquire, read, readOnce, storeRelease, write } from '#memory';

import { element, type Field } from '../memory/layout.js';
import type { Cpu } from './cpu.js';
import { MACHINE, Machine, WARNING_CHARACTERS, WARNINGS_MAX } from './types.js';

/** Records a violation that can be survived. Build the message only once the test has failed. */
export function warn(cpu: Cpu, message: string): void {
  const index = fetchAdd(cpu, MACHINE, Machine.warnings, 1);
  if (index >= WARNINGS_MAX) return;
  const text = `cpu ${cpu.id}: ${message}`.slice(0, WARNING_CHARACTERS);
  for (let i = 0; i < text.length; i++) {
    write(cpu, MACHINE, wordOf(index, 1 + i), text.charCodeAt(i));
  }
  storeRelease(cpu, MACHINE, wordOf(index, 0), text.length); // pairs with warningTexts
}

/** How many warnings there were. */
export function warningCount(cpu: Cpu): number {
  return readOnce(cpu, MACHINE, Machine.warnings);
}

/** The texts that were kept, in the order the warnings came. */
export function warningTexts(cpu: Cpu): string[] {
  const kept = Math.min(warningCount(cpu), WARNINGS_MAX);
  return Array.from({ length: kept }, (_, index) => {
    const length = loadAcquire(cpu, MACHINE, wordOf(index, 0)); // pairs with warn
    const codes = Array.from({ length }, (_code, i) => read(cpu, MACHINE, wordOf(index, 1 + i)));
    return String.fromCharCode(...codes);
  });
}

function wordOf(index: number, offset: number): Field<'machine'> {
  return element(Machine.warningTexts, index * (1 + WARNING_CHARACTERS) + offset);
}
