/**
 * What the locks tell the debugging layer, in the checked and the turnstile build.
 *
 * A CPU that waits for a lock it already holds is reported at once, and not as the hang it becomes.
 *
 * @module
 */
import { bug } from '../base/bug.js';
import type { Cpu } from '../machine/cpu.js';
import { lockClassName } from '../machine/lock-class.js';
import { heldIndex } from './held-locks.js';
import { lockName } from './wait-graph.js';

export { lockAcquired, lockRelease } from './hooks.js';

/** This CPU is about to wait for the lock, if need be. @throws KernelBug if it holds the lock. */
export function lockAcquire(cpu: Cpu, lock: number, lockClass: number): void {
  if (heldIndex(cpu, lock) >= 0) {
    bug(`cpu ${cpu.id}: recursive locking of ${lockClassName(lockClass)} (lock ${lock})`);
  }
}

/** This CPU is about to wait until whoever has the lock has given it back. @throws KernelBug if that is itself */
export function lockSync(cpu: Cpu, lock: number, lockClass: number): void {
  if (heldIndex(cpu, lock) >= 0) {
    bug(`cpu ${cpu.id}: waits for the end of its own read section of ${lockClassName(lockClass)}`);
  }
}

/** The caller relies on this CPU holding the lock. @throws KernelBug if it does not */
export function assertHeld(cpu: Cpu, lock: number): void {
  if (heldIndex(cpu, lock) < 0) {
    bug(`cpu ${cpu.id}: ${lockName(cpu, lock)} (lock ${lock}) should be held, and is not`);
  }
}

/** This CPU has come to a named point of the kernel, which a litmus test may want it to meet others at. */
export function reachPoint(cpu: Cpu, name: string): void {
  if (cpu.points !== null) cpu.points.reach(name);
}
