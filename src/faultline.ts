/**
 * The package as programs see it: the entry of the bundle that `faultline` is.
 *
 * It shares the kernel layers with the workers' bundle (src/kernel.ts), so that a driver of the user's that imports
 * `faultline` has the modules of the worker that runs it.
 *
 * @module
 */
import { ALL_BUILT_INS } from './built-ins.js';
import {
  type ExploreOutcome,
  type ExploreWorkerTask,
  runExploreWorker,
} from './explore/explore-worker.js';

export * from './index.js';
export { runCrewMember } from './kernel.js';

/** Runs one task of an exploration; a Piscina worker's file exports it by this name. */
export function runExploreMember(task: ExploreWorkerTask): Promise<ExploreOutcome> {
  return runExploreWorker(task, ALL_BUILT_INS);
}

export * as exploration from './explore/exploration.js';
