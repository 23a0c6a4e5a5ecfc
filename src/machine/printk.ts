/**
 * The kernel's log: what it tells whoever administers the machine. Nothing in it is a violation.
 *
 * Kernel     kernel/printk
 * Deviation  The first lines are kept, not the last.
 *
 * @module
 */
import type { Cpu } from './cpu.js';
import { loggedTexts, logText, type TextLog } from './text-log.js';
import { Machine } from './types.js';

const MESSAGES: TextLog = { count: Machine.messages, texts: Machine.messageTexts };

/** Leaves a line in the log. @kernel printk */
export function printk(cpu: Cpu, message: string): void {
  logText(cpu, MESSAGES, message);
}

/** The lines of the log. @kernel dmesg */
export function kernelLog(cpu: Cpu): string[] {
  return loggedTexts(cpu, MESSAGES);
}
