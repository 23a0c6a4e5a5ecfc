/**
 * The kernel layers and what a crew's worker runs of them: the entry of the bundle that every worker loads.
 *
 * @module
 */
import { ALL_BUILT_INS } from './built-ins.js';
import { type Outcome, runWorker, type WorkerTask } from './host/worker.js';

/** Runs a crew member; a Piscina worker's file exports it as its default. */
export function runCrewMember(task: WorkerTask): Promise<Outcome> {
  return runWorker(task, ALL_BUILT_INS);
}
