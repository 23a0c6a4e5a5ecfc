/**
 * faultline beside the same protocol in C: alternating runs, medians, their ratio.
 *
 * @module
 */
import { textTable } from '../src/report/table.js';
import { runBench } from './faultline.js';
import { type Rates, runYardstick } from './native.js';
import { showProgress } from './progress.js';
import { describeShape, type Shape, SHAPES } from './shape.js';
import { median } from './statistics.js';

export interface YardstickOptions {
  /** Pairs of runs for each shape. */
  readonly rounds: number;
  /** Length of each run. */
  readonly seconds: number;
}

const MILLION = 1e6;
const LEGEND = `M/s     million faults and invalidations per second, all threads together; median of the runs
C       bench/peers/fault_invalidate.c: the same protocol on native atomics
ratio   faultline's rate as a share of the C program's
target  the least ratio that faultline is meant to reach: met or missed`;

/** Faults and invalidations together. */
const operations = (rates: Rates): number => rates.faultsPerSecond + rates.invalidationsPerSecond;

async function runFaultline(shape: Shape, seconds: number): Promise<Rates> {
  const { point } = await runBench({
    'fault-threads': shape.faultThreads,
    invalidators: shape.invalidators,
    'range-pages': shape.rangePages,
    'arena-pages': shape.arenaPages,
    overlap: shape.overlap,
    duration: seconds,
  });
  return point;
}

/** A line for each shape; says how far it is on stderr. */
export async function yardstickTable({ rounds, seconds }: YardstickOptions): Promise<string> {
  const rows: (readonly (string | number)[])[] = [];
  for (const [index, shape] of SHAPES.entries()) {
    const native: number[] = [];
    const emulated: number[] = [];
    for (let round = 0; round < rounds; round++) {
      showProgress(`yardstick: ${index + 1} of ${SHAPES.length}, pair ${round + 1} of ${rounds}`);
      native.push(operations(await runYardstick(shape, seconds)));
      emulated.push(operations(await runFaultline(shape, seconds)));
    }
    const ratio = median(emulated) / median(native);
    rows.push([
      describeShape(shape),
      `${(median(native) / MILLION).toFixed(2)} M/s`,
      `${(median(emulated) / MILLION).toFixed(2)} M/s`,
      ratio.toFixed(2),
      shape.target.toFixed(2),
      ratio >= shape.target ? 'met' : 'missed',
    ]);
  }
  const table = textTable({
    head: ['fault-invalidate', 'C', 'faultline', 'ratio', 'target', ''],
    colAligns: ['left', 'right', 'right', 'right', 'right', 'left'],
    rows,
  });
  return `${table}\n${LEGEND}`;
}
