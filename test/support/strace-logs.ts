/**
 * Logs for tests: the recorded ones, and short ones written by hand.
 *
 * @module
 */
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

import { parseStrace, type StraceLog } from '../../src/workloads/strace/parse.js';
import { planStrace, type StracePlan } from '../../src/workloads/strace/plan.js';

/** Logs of real programs in test/data/traces. */
export const RECORDED = ['fork', 'gcc', 'py', 'stress-brk', 'xz'] as const;

/** Where they are. */
export const RECORDED_FOLDER = fileURLToPath(
  new URL('../../../test/data/traces/', import.meta.url),
);
const TRACES = new URL('../../../test/data/traces/', import.meta.url);

export function recordedText(name: string): string {
  return readFileSync(new URL(`${name}.strace`, TRACES), 'utf8');
}

export function recordedLog(name: string): StraceLog {
  return parseStrace(recordedText(name), `${name}.strace`);
}

/** A log of lines without times, `100 brk(NULL) = 0x5000`: line n is n milliseconds after the start. */
export function textOf(...lines: readonly string[]): string {
  return lines
    .map((line, index) => {
      const space = line.indexOf(' ');
      const time = `1700000000.${String((index + 1) * 1000).padStart(6, '0')}`;
      return `${line.slice(0, space)} ${time}${line.slice(space)}\n`;
    })
    .join('');
}

export function logOf(...lines: readonly string[]): StraceLog {
  return parseStrace(textOf(...lines), 'trace.strace');
}

export function planOf(...lines: readonly string[]): StracePlan {
  return planStrace(logOf(...lines));
}
