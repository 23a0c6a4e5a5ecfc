/**
 * What the locks tell the debugging layer, imported as `#debug`.
 *
 * This is the form of the parallel build: it keeps the stack of held locks and nothing else.
 * `hooks.checked.ts` exports the same names and looks for mistakes.
 *
 * @module
 */
import type { Cpu } from '../machine/cpu.js';
import { popHeld, pushHeld } from './held-locks.js';

/** This CPU is about to wait for the lock, if need be. */
export function lockAcquire(_cpu: Cpu, _lock: number, _lockClass: number): void {
  // nothing to check at full speed
}

/** This CPU is about to wait until whoever has the lock has given it back, without taking it. @kernel lock_sync */
export function lockSync(_cpu: Cpu, _lock: number, _lockClass: number): void {
  // nothing to check at full speed
}

/** The caller relies on this CPU holding the lock. @kernel lockdep_assert_held */
export function assertHeld(_cpu: Cpu, _lock: number): void {
  // nothing to check at full speed
}

/** This CPU has the lock. */
export function lockAcquired(cpu: Cpu, lock: number): void {
  pushHeld(cpu, lock);
}

/** This CPU is about to give the lock back. */
export function lockRelease(cpu: Cpu, lock: number): void {
  popHeld(cpu, lock);
}

/** This CPU has come to a named point of the kernel, which a litmus test may want it to meet others at. */
export function reachPoint(_cpu: Cpu, _name: string): void {
  // nobody asks at full speed
}
