/**
 * How much the hot paths allocate: V8's own log of its collections while a worker does nothing but fault or
 * invalidate. A worker that allocates nothing is never collected.
 *
 * @module
 */
import { runBench } from './faultline.js';
import { showProgress } from './progress.js';

const SECONDS = 3;
/** V8 collects the young generation after at most this much. */
const YOUNG_GENERATION_BYTES = 16 << 20;

/** Collections of each isolate, by its address, after the first SECONDS / 2. */
function collectionsIn(log: string, afterMs: number): number[] {
  const counts = new Map<string, number>();
  for (const [, isolate = '', ms = '0'] of log.matchAll(
    /^\[\d+:(0x[0-9a-f]+)\]\s+(\d+) ms: (?:Scavenge|Mark-Compact)/gm,
  )) {
    if (Number(ms) >= afterMs) counts.set(isolate, (counts.get(isolate) ?? 0) + 1);
  }
  return [...counts.values()];
}

async function describe(name: string, options: Record<string, number>): Promise<string> {
  showProgress(`allocation: ${name}`);
  const { point, log } = await runBench(
    { ...options, 'range-pages': 16, duration: SECONDS, warmup: 1, 'sample-every': 0 },
    ['--trace-gc'],
  );
  const operations = point.faults + point.invalidations;
  const collections = collectionsIn(log, 1000).reduce((sum, count) => sum + count, 0);
  const bytes = ((collections + 1) * YOUNG_GENERATION_BYTES) / operations;
  return (
    `${name}: ${(operations / 1e6).toFixed(1)} M operations, ${collections} collections in all threads ` +
    `after the first second: less than ${bytes.toFixed(1)} bytes each`
  );
}

/** A line for each path. */
export async function allocationReport(): Promise<string> {
  return [
    await describe('faults', { 'fault-threads': 1, invalidators: 0 }),
    await describe('invalidations', { 'fault-threads': 0, invalidators: 1 }),
  ].join('\n');
}
