/**
 * How long many CPUs take to boot on few cores.
 *
 * @module
 */
import { availableParallelism } from 'node:os';

import { runBench } from './faultline.js';

const CPUS = 64;
const TARGET_MS = 5000;

/** One line. */
export async function bootReport(): Promise<string> {
  const { point } = await runBench({
    'fault-threads': CPUS / 2,
    invalidators: CPUS / 2,
    'range-pages': 16,
    overlap: 1,
    duration: 1,
  });
  const verdict = point.bootMs < TARGET_MS ? 'met' : 'missed';
  return (
    `${CPUS} CPUs on ${availableParallelism()} cores: booted in ${(point.bootMs / 1000).toFixed(2)} s ` +
    `(target: less than ${TARGET_MS / 1000} s, ${verdict}), then ${point.faults} faults and ${point.invalidations} invalidations`
  );
}
