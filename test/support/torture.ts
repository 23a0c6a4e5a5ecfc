/**
 * Short runs of torture targets, with more CPUs than cores.
 *
 * @module
 */
import { WorkerPools } from '../../src/host/pool.js';
import type { TargetResult } from '../../src/torture/result.js';
import { type TortureOptions, tortureTarget } from '../../src/torture/run.js';
import { findTarget } from '../../src/torture/targets/registry.js';

/** Members of a target with four CPUs, and who serves them. */
const MEMBERS_MAX = 8;

/** Workers for the runs of a file. */
export function torturePools(): WorkerPools {
  return new WorkerPools(MEMBERS_MAX);
}

/** What differs from a run of a third of a second without a mistake. */
export interface TortureChanges {
  readonly timing?: Partial<TortureOptions['timing']>;
  readonly config?: Partial<TortureOptions['config']>;
  readonly options?: Partial<TortureOptions>;
}

/** How a run goes. */
export function tortureOptions({ timing, config, options }: TortureChanges = {}): TortureOptions {
  return {
    config: {
      cpus: 4,
      devices: 1,
      nwritersStress: -1,
      nreadersStress: -1,
      longHoldMs: 20,
      noise: 3,
      seed: 1,
      ...config,
    },
    timing: { durationMs: 300, stutterMs: 0, shuffleMs: 0, onoffMs: 0, ...timing },
    stallMs: 20_000,
    commandFor: (target) => `npx faultline torture ${target}`,
    ...options,
  };
}

/** Runs a target. */
export function torture(
  name: string,
  pools: WorkerPools,
  changes?: TortureChanges,
): Promise<TargetResult> {
  return tortureTarget(findTarget(name), tortureOptions(changes), pools);
}
