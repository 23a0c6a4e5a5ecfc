/**
 * Waiting until a word moves that nobody wakes for: its owner is in a short section, and marks its end by a
 * store and nothing more.
 *
 * @module
 */
import { park, readOnce, spinLimit } from '#memory';

import type { Field, Ptr } from '../memory/layout.js';
import type { Cpu } from './cpu.js';
import { beginWait, checkHalted, cpuRelax, endWait } from './sched.js';

const SPINS_MAX = spinLimit(2000);
const YIELD_MS = 0.05;

/**
 * Waits until the word is no longer `seen`, and has seen what its writer did before. Spins, then lets the host
 * run somebody else now and then. `waitKind` and `object` are what a report says of the wait.
 */
export function awaitMove<S extends string>(
  cpu: Cpu,
  p: Ptr<S>,
  field: Field<NoInfer<S>>,
  seen: number,
  waitKind: number,
  object: number,
): void {
  for (let spins = 0; spins < SPINS_MAX; spins++) {
    if (readOnce(cpu, p, field) !== seen) return;
    cpuRelax(cpu, spins);
  }
  beginWait(cpu, waitKind, object);
  while (readOnce(cpu, p, field) === seen) {
    park(cpu, p, field, seen, YIELD_MS); // nobody wakes: the host's core is needed
    checkHalted(cpu);
  }
  endWait(cpu);
}
