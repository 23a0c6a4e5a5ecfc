/**
 * What is measured side by side: one configuration of `fault-invalidate`, and the target it is meant to reach.
 *
 * @module
 */
import { countOf } from '../src/report/format.js';

export interface Shape {
  readonly faultThreads: number;
  readonly invalidators: number;
  readonly rangePages: number;
  readonly arenaPages: number;
  readonly overlap: 0 | 1;
  /** The least share of the yardstick's operations per second that faultline should have. */
  readonly target: number;
}

const ARENA_PAGES = 4096;
const ALONE = 1 / 3;
const AGAINST_EACH_OTHER = 1 / 2;

function shape(
  faultThreads: number,
  invalidators: number,
  rangePages: number,
  overlap: 0 | 1,
): Shape {
  const target = faultThreads > 0 && invalidators > 0 ? AGAINST_EACH_OTHER : ALONE;
  return { faultThreads, invalidators, rangePages, arenaPages: ARENA_PAGES, overlap, target };
}

export const SHAPES: readonly Shape[] = [
  shape(1, 0, 1, 0),
  shape(1, 0, 16, 0),
  shape(1, 0, 256, 0),
  shape(0, 1, 16, 0),
  shape(1, 1, 16, 0),
  shape(1, 1, 16, 1),
];

/** In words: `1 fault thread, 1 invalidator, 16 pages, overlap 1`. */
export function describeShape({ faultThreads, invalidators, rangePages, overlap }: Shape): string {
  const threads = [
    ...(faultThreads > 0 ? [countOf(faultThreads, 'fault thread')] : []),
    ...(invalidators > 0 ? [countOf(invalidators, 'invalidator')] : []),
  ];
  const together = threads.length > 1 ? [`overlap ${overlap}`] : [];
  return [...threads, countOf(rangePages, 'page'), ...together].join(', ');
}
