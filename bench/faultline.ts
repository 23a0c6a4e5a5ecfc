/**
 * Runs the command `faultline bench` as its users do, each time in a process of its own.
 *
 * @module
 */
import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

import type { BenchPoint, BenchResult } from '../src/report/bench-result.js';

const run = promisify(execFile);
const MAIN = fileURLToPath(new URL('../src/cli/main.js', import.meta.url));
const OUTPUT_MAX = 64 << 20;

/** A run's point, and what the engine said on stdout before it. */
export interface BenchRun {
  readonly point: BenchPoint;
  readonly log: string;
}

/** `faultline bench fault-invalidate` with these options. */
export async function runBench(
  options: Readonly<Record<string, string | number>>,
  engineFlags: readonly string[] = [],
): Promise<BenchRun> {
  const given = Object.entries(options).flatMap(([name, value]) => [`--${name}`, String(value)]);
  const { stdout } = await run(
    process.execPath,
    [...engineFlags, MAIN, 'bench', 'fault-invalidate', ...given, '--json', '-'],
    { maxBuffer: OUTPUT_MAX },
  );
  // what --trace-gc says goes to stdout as well, between brackets and before the last line
  const start = stdout.search(/^\{/m);
  const result = JSON.parse(lastObject(stdout.slice(start))) as BenchResult;
  const [point] = result.points;
  if (point === undefined) throw new Error('faultline bench measured nothing');
  return { point, log: stdout.slice(0, start) };
}

/** The JSON object that the text begins with. */
function lastObject(text: string): string {
  return text.slice(0, text.lastIndexOf('}') + 1);
}
