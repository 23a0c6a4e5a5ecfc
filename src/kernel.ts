/**
 * The kernel layers and what a crew's worker runs of them: the entry of the bundle that every worker loads.
 *
 * @module
 */
import type { BuiltIns } from './host/modules.js';
import { type Outcome, runWorker, type WorkerTask } from './host/worker.js';
import { BUILT_INS } from './workloads/built-ins.js';

/** What a worker of a crew may be asked to run, by name. */
const PROGRAMS: BuiltIns = {
  ...BUILT_INS,
  'faultline:torture': () => import('./torture/member.js'),
  'faultline:selftest': () => import('./torture/selftest/cases.js'),
};

/** Runs a crew member; a Piscina worker's file exports it as its default. */
export function runCrewMember(task: WorkerTask): Promise<Outcome> {
  return runWorker(task, PROGRAMS);
}
