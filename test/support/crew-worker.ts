/**
 * The worker file of crews whose programs are modules under test/programs: they import the kernel module
 * by module, and so must the worker, for both to share one instance of each. It loads what its task asks for, and
 * the library's own programs, which are most of what there is, only if they are among that.
 *
 * @module
 */
import { type Outcome, runWorker, type WorkerTask } from '../../src/host/worker.js';

export default async function runTestCrewMember(task: WorkerTask): Promise<Outcome> {
  const isBuiltIn = [task.module, ...task.opsModules].some((name) => name.startsWith('faultline:'));
  const builtIns = isBuiltIn ? (await import('../../src/built-ins.js')).ALL_BUILT_INS : {};
  return runWorker(task, builtIns);
}
