/**
 * The worker file of crews whose programs are modules under test/programs: they import the kernel module
 * by module, and so must the worker, for both to share one instance of each.
 *
 * @module
 */
import { ALL_BUILT_INS } from '../../src/built-ins.js';
import { type Outcome, runWorker, type WorkerTask } from '../../src/host/worker.js';

export default function runTestCrewMember(task: WorkerTask): Promise<Outcome> {
  return runWorker(task, ALL_BUILT_INS);
}
