/**
 * The benchmark workloads there are.
 *
 * @module
 */
import { FaultlineError } from '../base/bug.js';
import { faultInvalidate } from './fault-invalidate.js';
import { svm } from './svm.js';
import type { Workload } from './workload.js';

/** All workloads, as the command line lists them. */
export const WORKLOADS: readonly Workload[] = [faultInvalidate, svm];

/** The workload of that name. @throws FaultlineError naming those there are */
export function findWorkload(name: string): Workload {
  const found = WORKLOADS.find((workload) => workload.name === name);
  if (found === undefined) {
    const known = WORKLOADS.map((workload) => workload.name).join(', ');
    throw new FaultlineError('FAULTLINE_BAD_WORKLOAD', `no workload '${name}'; there are ${known}`);
  }
  return found;
}
