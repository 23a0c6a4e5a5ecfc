/**
 * The targets there are.
 *
 * @module
 */
import { FaultlineError } from '../../base/bug.js';
import { mmTarget } from '../mm/mm.js';
import type { TortureTarget } from '../target.js';
import { rcuTarget, srcuTarget } from './grace-period.js';
import { intervalTarget } from './interval.js';
import {
  bustedTarget,
  mutexTarget,
  ownLockTarget,
  percpuRwsemTarget,
  rwsemTarget,
  spinTarget,
} from './locks.js';
import { percpuRefTarget } from './percpu-ref.js';
import { refcountTarget } from './refcount.js';
import { seqlockTarget } from './seqlock.js';
import { completionTarget, waitQueueTarget } from './waiting.js';
import { workqueueTarget } from './workqueue.js';

/** All that a run without names tortures, in this order. */
export const TORTURE_TARGETS: readonly TortureTarget[] = [
  spinTarget,
  mutexTarget,
  rwsemTarget,
  percpuRwsemTarget,
  seqlockTarget,
  completionTarget,
  waitQueueTarget,
  refcountTarget,
  rcuTarget,
  srcuTarget,
  percpuRefTarget,
  workqueueTarget,
  intervalTarget,
  mmTarget,
];

/** Those that must be asked for. */
const SPECIAL: readonly TortureTarget[] = [bustedTarget, ownLockTarget];

/** The target of that name. @throws FaultlineError */
export function findTarget(name: string): TortureTarget {
  const found = [...TORTURE_TARGETS, ...SPECIAL].find((target) => target.name === name);
  if (found !== undefined) return found;
  const known = TORTURE_TARGETS.map((target) => target.name).join(', ');
  throw new FaultlineError('FAULTLINE_BAD_TARGET', `no target '${name}'; there are ${known}`);
}
