/**
 * Where results go.
 *
 * @module
 */
import { mkdirSync, renameSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';

import { EXIT_USAGE, FaultlineError } from '../base/bug.js';

/** What people read: stdout, or stderr if stdout is taken by JSON. */
export function say(text: string, json: string | undefined): void {
  (json === '-' ? process.stderr : process.stdout).write(`${text}\n`);
}

/** Whether what people read may have colours. */
export function wantsColor(json: string | undefined): boolean {
  const stream = json === '-' ? process.stderr : process.stdout;
  return stream.isTTY && process.env['NO_COLOR'] === undefined;
}

/** Writes a result: to stdout for `-`, else to a file, which is complete or not there. */
export function writeJson(target: string, result: unknown): void {
  const text = `${JSON.stringify(result, null, 2)}\n`;
  if (target === '-') {
    process.stdout.write(text);
    return;
  }
  try {
    mkdirSync(dirname(target), { recursive: true });
    const partial = `${target}.partial-${process.pid}`;
    writeFileSync(partial, text);
    renameSync(partial, target);
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new FaultlineError('FAULTLINE_BAD_OUTPUT', `--json ${target}: ${reason}`, EXIT_USAGE);
  }
}
