/**
 * What the locks tell the debugging layer, imported as `#debug`.
 *
 * This is the form of the parallel build: it keeps the stack of held locks and nothing else.
 * `hooks.checked.ts` exports the same names and looks for mistakes: it has lockdep behind it. How a lock is
 * taken is said in one word: lock-how.ts.
 *
 * @module
 */
import type { Cpu } from '../machine/cpu.js';
import { popHeld, pushHeld } from './held-locks.js';

// --- locks ---

/** A lock of the class is made there. */
export function lockInit(_cpu: Cpu, _lock: number): void {
  // nothing to check at full speed
}

/** This CPU is about to wait for the lock, if need be. */
export function lockAcquire(_cpu: Cpu, _lock: number, _lockClass: number, _how?: number): void {
  // nothing to check at full speed
}

/** As lockAcquire, under a lock that whoever takes several of the class holds. @kernel lock_acquire_nest */
export function lockAcquireNest(
  _cpu: Cpu,
  _lock: number,
  _lockClass: number,
  _how: number,
  _nest: number,
): void {
  // nothing to check at full speed
}

/** This CPU has the lock. */
export function lockAcquired(cpu: Cpu, lock: number): void {
  pushHeld(cpu, lock);
}

/** This CPU has tried the lock, and has it. */
export function lockTryAcquired(cpu: Cpu, lock: number, _how?: number): void {
  pushHeld(cpu, lock);
}

/** This CPU is about to give the lock back. */
export function lockRelease(cpu: Cpu, lock: number): void {
  popHeld(cpu, lock);
}

/** This CPU is about to wait until whoever has the lock has given it back, without taking it. @kernel lock_sync */
export function lockSync(_cpu: Cpu, _lock: number, _lockClass: number): void {
  // nothing to check at full speed
}

/** This CPU holds the lock for reading from now on. @kernel lock_downgrade */
export function lockDowngrade(_cpu: Cpu, _lock: number): void {
  // nothing to check at full speed
}

/** The caller relies on this CPU holding the lock. @kernel lockdep_assert_held */
export function assertHeld(_cpu: Cpu, _lock: number): void {
  // nothing to check at full speed
}

/** The caller relies on this CPU not holding the lock. @kernel lockdep_assert_not_held */
export function assertNotHeld(_cpu: Cpu, _lock: number): void {
  // nothing to check at full speed
}

/** A path not taken now would take the lock here; `how` as for lockAcquire. @kernel might_lock */
export function mightLock(_cpu: Cpu, _lock: number, _how?: number): void {
  // nothing to check at full speed
}

// --- classes that are no locks ---

/** This CPU is where only one may be, and nobody waits: a work item that runs. @kernel lock_map_acquire */
export function lockMapAcquire(_cpu: Cpu, _lockClass: number): void {
  // nothing to check at full speed
}

/** … where many may be: a read section that may be entered again inside of it. @kernel lock_map_acquire_read */
export function lockMapAcquireRead(_cpu: Cpu, _lockClass: number): void {
  // nothing to check at full speed
}

/** The end of either. @kernel lock_map_release */
export function lockMapRelease(_cpu: Cpu, _lockClass: number): void {
  // nothing to check at full speed
}

/** This CPU waits until nobody is there: a flush, a grace period. @kernel lock_map_sync */
export function lockMapSync(_cpu: Cpu, _lockClass: number): void {
  // nothing to check at full speed
}

// --- allocation and invalidation ---

/** This CPU reclaims, for an allocation with the flags. @kernel fs_reclaim_acquire */
export function fsReclaimAcquire(_cpu: Cpu, _gfp: number): void {
  // nothing to check at full speed
}

/** @kernel fs_reclaim_release */
export function fsReclaimRelease(_cpu: Cpu, _gfp: number): void {
  // nothing to check at full speed
}

/** Callbacks of an invalidation are about to be called. */
export function notifierMapAcquire(_cpu: Cpu): void {
  // nothing to check at full speed
}

/** They have been. */
export function notifierMapRelease(_cpu: Cpu): void {
  // nothing to check at full speed
}

/** This CPU may have to wait for an invalidation. */
export function notifierMapTouch(_cpu: Cpu): void {
  // nothing to check at full speed
}

// --- interrupts, which no CPU here has: what runs as one would says so ---

/** A device's top half begins; `threaded` if it may be a thread in a real-time kernel. @kernel irq_enter */
export function hardirqEnter(_cpu: Cpu, _threaded?: boolean): void {
  // nothing to check at full speed
}

/** @kernel irq_exit */
export function hardirqExit(_cpu: Cpu): void {
  // nothing to check at full speed
}

/** What a top half has put off begins. @kernel lockdep_softirq_enter */
export function softirqEnter(_cpu: Cpu): void {
  // nothing to check at full speed
}

/** @kernel lockdep_softirq_exit */
export function softirqExit(_cpu: Cpu): void {
  // nothing to check at full speed
}

/** No top half would come from here to localIrqEnable. @kernel local_irq_disable */
export function localIrqDisable(_cpu: Cpu): void {
  // nothing to check at full speed
}

/** @kernel local_irq_enable */
export function localIrqEnable(_cpu: Cpu): void {
  // nothing to check at full speed
}

/** Nothing that was put off would come from here to localBhEnable. @kernel local_bh_disable */
export function localBhDisable(_cpu: Cpu): void {
  // nothing to check at full speed
}

/** @kernel local_bh_enable */
export function localBhEnable(_cpu: Cpu): void {
  // nothing to check at full speed
}

/** Back to a CPU that holds nothing, for who runs the same start many times. */
export function forgetHeld(_cpu: Cpu): void {
  // nothing is kept at full speed
}

/** This CPU has come to a named point of the kernel, which a litmus test may want it to meet others at. */
export function reachPoint(_cpu: Cpu, _name: string): void {
  // nobody asks at full speed
}

/** From now on what this CPU does to memory that it must not is reported, if the machine's memory is watched. */
export function watchMemory(_cpu: Cpu): void {
  // nobody looks at full speed
}
