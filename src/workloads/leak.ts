/**
 * Whether a run has left its machine in order: memory all back, nothing to warn of.
 *
 * @module
 */
import { EXIT_VIOLATION, FaultlineError } from '../base/bug.js';
import type { Cpu } from '../machine/cpu.js';
import { freeFrameCount } from '../machine/page-alloc.js';
import { slabFrames } from '../machine/slab.js';
import { warningCount, warningTexts } from '../machine/warn.js';

/** Frames that are free or hold slab objects; the rest is in somebody's hands. Nobody may be running. */
export function framesAccountedFor(cpu: Cpu): number {
  return freeFrameCount(cpu) + slabFrames(cpu);
}

/** @throws FaultlineError if fewer frames are accounted for than `before` */
export function assertNoLeak(cpu: Cpu, before: number): void {
  const lost = before - framesAccountedFor(cpu);
  if (lost <= 0) return;
  throw new FaultlineError('FAULTLINE_LEAK', `${lost} frames were not given back`, EXIT_VIOLATION);
}

/** @throws FaultlineError if the kernel warned of anything in the run */
export function assertNoWarning(cpu: Cpu): void {
  const count = warningCount(cpu);
  if (count === 0) return;
  const message = `the kernel warned ${count} times: ${warningTexts(cpu).join('; ')}`;
  throw new FaultlineError('FAULTLINE_WARNING', message, EXIT_VIOLATION);
}
