/**
 * Which pages of the arena a thread works on.
 *
 * @module
 */
import { pick } from '../base/xorshift.js';
import type { PointConfig } from './workload.js';

/** Where a thread chooses its ranges from. */
export interface Area {
  readonly rangePages: number;
  /** Ranges in the whole arena, and in the thread's slice. */
  readonly arenaSpots: number;
  readonly sliceSpots: number;
  /** First page of the slice. */
  readonly sliceFirst: number;
  /** Out of ROAM_SCALE operations, so many choose from the whole arena. */
  readonly roam: number;
}

const ROAM_SCALE = 1 << 15;
const ROAM_SHIFT = 17;

/** The area of one of `threads` threads. */
export function areaOf(config: PointConfig, thread: number, threads: number): Area {
  const slicePages = Math.floor(config.arenaPages / threads);
  return {
    rangePages: config.rangePages,
    arenaSpots: Math.floor(config.arenaPages / config.rangePages),
    sliceSpots: Math.max(1, Math.floor(slicePages / config.rangePages)),
    sliceFirst: thread * slicePages,
    roam: Math.round(config.overlap * ROAM_SCALE),
  };
}

/** The first page of the range that a random state chooses. */
export function choosePage(area: Area, state: number): number {
  // the top bits say whether to roam, so that they do not say where to as well
  if (state >>> ROAM_SHIFT < area.roam) {
    return pick(state, area.arenaSpots) * area.rangePages;
  }
  return area.sliceFirst + pick(state, area.sliceSpots) * area.rangePages;
}
