/**
 * The yardstick in C: bench/peers/fault_invalidate.c, built where there is a compiler.
 *
 * @module
 */
import { execFile, spawnSync } from 'node:child_process';
import { mkdirSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

import type { Shape } from './shape.js';

const run = promisify(execFile);
const SOURCE = fileURLToPath(new URL('../../bench/peers/fault_invalidate.c', import.meta.url));
const BUILD = fileURLToPath(new URL('../../bench/build/', import.meta.url));
const BINARY = `${BUILD}fault_invalidate`;

/** Operations per second of one run. */
export interface Rates {
  readonly faultsPerSecond: number;
  readonly invalidationsPerSecond: number;
}

/** Builds the yardstick. False, with the reason on stderr, where that cannot be done. */
export function buildYardstick(): boolean {
  mkdirSync(BUILD, { recursive: true });
  const compiler = process.env['CC'] ?? 'gcc';
  const built = spawnSync(compiler, ['-O2', '-pthread', SOURCE, '-o', BINARY], {
    encoding: 'utf8',
  });
  if (built.status === 0) return true;
  const reason = built.error?.message ?? built.stderr;
  process.stderr.write(`no yardstick: ${compiler} did not build it: ${reason}\n`);
  return false;
}

/** Runs the yardstick once. */
export async function runYardstick(shape: Shape, seconds: number): Promise<Rates> {
  const { faultThreads, invalidators, rangePages, arenaPages, overlap } = shape;
  const numbers = [faultThreads, invalidators, rangePages, arenaPages, seconds, overlap];
  const { stdout } = await run(BINARY, numbers.map(String));
  return JSON.parse(stdout) as Rates;
}
