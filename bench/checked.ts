/**
 * What it costs to have everything checked: the default benchmark in the parallel and in the checked build, in turns.
 *
 * @module
 */
import { findWorkload, measurePoint, type PointConfig } from 'faultline';

import { textTable } from '../src/report/table.js';
import { showProgress } from './progress.js';
import { median } from './statistics.js';

/** The checked build is compiled late, being slow: it wants to be warm. */
const WARMUP_MS = 1500;
const DURATION_MS = 2000;
const ROUNDS = 3;
const TARGET = 15;
const LEGEND = `k/s     thousand faults and invalidations per second, median of ${ROUNDS} runs of ${DURATION_MS / 1000} s in turns
cost    the parallel build's rate over the checked build's; at most ${TARGET}`;

/** Pages of an operation, and how many of them roam: the points of `faultline bench`. */
const POINTS = [1, 16, 256].flatMap((rangePages) =>
  [0, 1].map((overlap) => ({ rangePages, overlap })),
);
const COMMON: Omit<PointConfig, 'rangePages' | 'overlap'> = {
  faultThreads: 2,
  invalidators: 1,
  devices: 1,
  arenaPages: 4096,
  seed: 1,
  sampleEvery: 0,
};

/** Operations per second. */
async function rateOf(
  point: (typeof POINTS)[number],
  build: 'parallel' | 'checked',
): Promise<number> {
  const { fault, invalidate } = await measurePoint(
    findWorkload('fault-invalidate'),
    { ...COMMON, ...point },
    { durationMs: DURATION_MS, warmupMs: WARMUP_MS, atomics: 'wasm', build },
  );
  return fault.perSecond + invalidate.perSecond;
}

/** The table, for each point. */
export async function checkedTable(): Promise<string> {
  const rows: string[][] = [];
  for (const point of POINTS) {
    const parallel: number[] = [];
    const checked: number[] = [];
    for (let round = 1; round <= ROUNDS; round++) {
      showProgress(`checked: ${point.rangePages} pages, round ${round} of ${ROUNDS}`);
      parallel.push(await rateOf(point, 'parallel'));
      checked.push(await rateOf(point, 'checked'));
    }
    const rates = [median(parallel), median(checked)] as const;
    const cost = rates[0] / rates[1];
    rows.push([
      String(point.rangePages),
      String(point.overlap),
      (rates[0] / 1000).toFixed(1),
      (rates[1] / 1000).toFixed(1),
      cost.toFixed(1),
      cost <= TARGET ? 'met' : 'MISSED',
    ]);
  }
  const table = textTable({
    head: ['pages', 'overlap', 'parallel k/s', 'checked k/s', 'cost', ''],
    colAligns: ['right', 'right', 'right', 'right', 'right', 'left'],
    rows,
  });
  return `${table}\n\n${LEGEND}`;
}
