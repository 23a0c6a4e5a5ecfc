/**
 * The package as programs see it, and what a worker runs: the entry of the bundles.
 *
 * One file holds the public API and the worker, so that a driver of the user's that imports `faultline`
 * shares the modules of the worker that runs it.
 *
 * @module
 */
import {
  type ExploreOutcome,
  type ExploreWorkerTask,
  runExploreWorker,
} from './explore/explore-worker.js';
import { type Outcome, runWorker, type WorkerTask } from './host/worker.js';
import { BUILT_INS } from './workloads/built-ins.js';

export * from './index.js';

/** Runs a crew member; a Piscina worker's file exports it as its default. */
export function runCrewMember(task: WorkerTask): Promise<Outcome> {
  return runWorker(task, BUILT_INS);
}

/** Runs one task of an exploration; a Piscina worker's file exports it by this name. */
export function runExploreMember(task: ExploreWorkerTask): Promise<ExploreOutcome> {
  return runExploreWorker(task, BUILT_INS);
}

export * as exploration from './explore/exploration.js';
