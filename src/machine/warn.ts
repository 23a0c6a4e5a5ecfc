/**
 * Warnings: what must not happen but can be survived. The run goes on; its exit code says so.
 *
 * Kernel     WARN
 * Deviation  Reports are not rate-limited: the count is exact.
 *
 * @module
 */
import type { Cpu } from './cpu.js';
import { loggedCount, loggedTexts, logText, type TextLog } from './text-log.js';
import { Machine } from './types.js';

const WARNINGS: TextLog = { count: Machine.warnings, texts: Machine.warningTexts };

/** Records a violation that can be survived. Build the message only once the test has failed. */
export function warn(cpu: Cpu, message: string): void {
  logText(cpu, WARNINGS, `cpu ${cpu.id}: ${message}`);
}

/** How many warnings there were. */
export function warningCount(cpu: Cpu): number {
  return loggedCount(cpu, WARNINGS);
}

/** The texts that were kept, in the order the warnings came. */
export function warningTexts(cpu: Cpu): string[] {
  return loggedTexts(cpu, WARNINGS);
}
