/**
 * Walks through every point at which an operation can fail: what it returned, and what it left behind.
 *
 * Protocol   The n-th fallible call of the operation is made to fail, for n = 1, 2, 3, … (machine/fail.ts), until
 *            an attempt has gone through without one that did. Whatever succeeded is undone. After each
 *            attempt, what is allocated is compared with what was before it.
 *
 * @module
 */
import { FaultlineError } from '../base/bug.js';
import { errnoName } from '../base/errno.js';
import { countAllocations, describeLeak } from '../machine/allocations.js';
import type { Cpu } from '../machine/cpu.js';
import { failEnd, failNth, type FailSite, failSiteName, NO_SITE } from '../machine/fail.js';
import { framesAccountedFor } from './leak.js';

/** One failure that was injected, and what came of it. */
export interface InjectedFailure {
  /** Which fallible call of the operation it was; the first is 1. */
  readonly nth: number;
  /** The point that failed: `kzalloc devm_action`. */
  readonly site: string;
  /** What the operation returned: `-ENOMEM`, or 0 if it got by without. */
  readonly result: string;
  /** What is still allocated after it (`1 resource`); empty if nothing is. */
  readonly left: string;
}

/** What can be walked through. All of it runs on the calling thread; nobody else may be running. */
export interface FallibleOperation {
  /** Negative if it failed; what it has left then is reported in `left`. */
  readonly attempt: (cpu: Cpu) => number;
  /** Undoes an attempt that did not fail. */
  readonly undo?: (cpu: Cpu) => void;
  /** Looks at what an injected failure has done, after what is left has been counted; may mend it. */
  readonly settle?: (cpu: Cpu, failure: InjectedFailure) => void;
}

/** An operation with more points than this is taken for one that never ends. */
const POINTS_MAX = 10_000;

/**
 * All failures of an operation, in the order of their points. The last attempt had none injected, and must
 * succeed.
 * @throws FaultlineError if it does not, or leaves something behind
 */
export function walkFailures(cpu: Cpu, operation: FallibleOperation): InjectedFailure[] {
  const failures: InjectedFailure[] = [];
  for (let nth = 1; nth <= POINTS_MAX; nth++) {
    const before = countAllocations(cpu);
    const framesBefore = framesAccountedFor(cpu);
    const { result, site } = attemptWith(cpu, operation, nth);
    if (result >= 0) operation.undo?.(cpu);
    const structs = describeLeak(cpu, before, countAllocations(cpu));
    const frames = framesBefore - framesAccountedFor(cpu);
    const left = [structs, frames > 0 ? `${frames} frames` : ''].filter(Boolean).join(', ');
    if (site === NO_SITE) {
      if (result < 0) throw failed(`it fails by itself: ${errnoName(result)}`);
      if (left !== '') throw failed(`undone, it leaves ${left}`);
      return failures;
    }
    const failure = { nth, site: failSiteName(site), result: errnoName(result), left };
    failures.push(failure);
    operation.settle?.(cpu, failure);
  }
  throw failed(`it has more than ${POINTS_MAX} points that can fail`);
}

function attemptWith(
  cpu: Cpu,
  operation: FallibleOperation,
  nth: number,
): { readonly result: number; readonly site: FailSite } {
  failNth(cpu, nth);
  try {
    const result = operation.attempt(cpu);
    return { result, site: failEnd(cpu) };
  } finally {
    failEnd(cpu);
  }
}

function failed(reason: string): FaultlineError {
  return new FaultlineError('FAULTLINE_FAILURE_WALK', `the operation cannot be walked: ${reason}`);
}
