/**
 * Reports of what watches a machine, kept in it: orders of locks that can deadlock (debug/lockdep), and memory that
 * is misused (debug/memory-report).
 *
 * Protocol   Who finds something writes a text into the machine, under the lock of the graph (or alone, where
 *            one task moves at a time), and goes on. Each report has a signature; the same is made once. Whoever
 *            looks after the run reads the texts, in any build.
 * Deviation  Linux stops validating at its first report. Here all are counted, and the first
 *            LOCK_REPORTS_MAX are kept.
 *
 * @module
 */
import { readOwn, writeOwn } from '#memory';

import { element, type Ptr, struct, word, words } from '../memory/layout.js';
import type { Cpu } from './cpu.js';
import { readText, textWords, writeText } from './own-text.js';
import { MACHINE, Machine } from './types.js';

/** Reports kept, each with a text of this many characters at most. */
export const LOCK_REPORTS_MAX = 6;
export const LOCK_REPORT_CHARACTERS = 4094;
/** A length, then two characters to a word. */
const REPORT_WORDS = textWords(LOCK_REPORT_CHARACTERS);

/** What was found. */
export const LockReports = struct('lock_reports', {
  count: word, // reports so far
  signatures: words(LOCK_REPORTS_MAX), // hash of what each is about
  texts: words(LOCK_REPORTS_MAX * REPORT_WORDS),
});
export type LockReports = Ptr<'lock_reports'>;

/** Where a machine has its reports; the word never changes. */
export function lockReportsOf(cpu: Cpu): LockReports {
  return readOwn(cpu, MACHINE, Machine.lockReports) as LockReports;
}

/** True if a report with that signature is kept already. The graph's lock must be held. */
export function isLockReported(cpu: Cpu, signature: number): boolean {
  const reports = lockReportsOf(cpu);
  const kept = Math.min(readOwn(cpu, reports, LockReports.count), LOCK_REPORTS_MAX);
  for (let i = 0; i < kept; i++) {
    if (readOwn(cpu, reports, element(LockReports.signatures, i)) === signature) return true;
  }
  return false;
}

/** Keeps a report, as long as there is room. The graph's lock must be held. */
export function keepLockReport(cpu: Cpu, signature: number, text: string): void {
  const reports = lockReportsOf(cpu);
  const index = readOwn(cpu, reports, LockReports.count);
  writeOwn(cpu, reports, LockReports.count, index + 1);
  if (index >= LOCK_REPORTS_MAX) return;
  writeOwn(cpu, reports, element(LockReports.signatures, index), signature);
  writeReport(cpu, reports, index, text);
}

/** Says more, or better, what a report with that signature says. The graph's lock must be held. */
export function replaceLockReport(cpu: Cpu, signature: number, text: string): void {
  const reports = lockReportsOf(cpu);
  for (let i = 0; i < LOCK_REPORTS_MAX; i++) {
    if (readOwn(cpu, reports, element(LockReports.signatures, i)) !== signature) continue;
    writeReport(cpu, reports, i, text);
    return;
  }
}

function writeReport(cpu: Cpu, reports: LockReports, index: number, text: string): void {
  const kept = text.slice(0, LOCK_REPORT_CHARACTERS);
  writeText(cpu, reports, LockReports.texts, index * REPORT_WORDS, kept);
}

/** How many reports there were. Exact only while nobody runs. */
export function lockReportCount(cpu: Cpu): number {
  return readOwn(cpu, lockReportsOf(cpu), LockReports.count);
}

/** Whether there is any report. */
export function hasLockReports(cpu: Cpu): boolean {
  return readOwn(cpu, lockReportsOf(cpu), LockReports.count) !== 0;
}

/**
 * The reports that were kept, in the order they were made. Positions in their stacks are those of the code
 * that ran: host/source-position.ts has the way to the source.
 */
export function lockReportTexts(cpu: Cpu): string[] {
  const reports = lockReportsOf(cpu);
  const kept = Math.min(readOwn(cpu, reports, LockReports.count), LOCK_REPORTS_MAX);
  return Array.from({ length: kept }, (_, index) =>
    readText(cpu, reports, LockReports.texts, index * REPORT_WORDS),
  );
}
