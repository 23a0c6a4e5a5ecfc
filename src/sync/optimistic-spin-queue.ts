/**
 * Queue of optimistic spinners: one CPU spins on a lock's owner, the others spin on their own line.
 *
 * Kernel     kernel/locking/osq_lock.c
 * Protocol   An MCS lock whose waiters may give up. `tail` names the last CPU in the queue; each CPU has
 *            a node in its area: osqNext, osqPrev, osqLocked.
 *              lock:    swap ourselves in as tail, link behind the old tail, spin on our osqLocked
 *              unlock:  tail -> 0 if we are the last, else osqLocked := 1 in our successor
 *              leave:   A  unlink from our predecessor (its osqNext := 0), or be granted meanwhile
 *                       B  wait for a stable successor (or make our predecessor the tail)
 *                       C  link predecessor and successor
 * Invariant  I1  At most one CPU is between osqLock (true) and osqUnlock.
 *            I2  A CPU has one node, so it queues for one lock at a time, and does not sleep meanwhile.
 * Ordering   Linking is ordered by the swap of the tail; the grant is a release that the spinner's
 *            acquire sees.
 * Deviation  The kernel gives up when its CPU must reschedule. Here a spinner gives up after SPINS_MAX:
 *            the worker ahead may not be running at all.
 *
 * @module
 */
import {
  cmpxchg,
  exchange,
  loadAcquire,
  readOnce,
  spinLimit,
  storeRelease,
  writeOnce,
} from '#memory';
import { BUSTED_OSQ, isMutant } from '#mutants';

import type { Cpu } from '../machine/cpu.js';
import { cpuRelax } from '../machine/sched.js';
import { CpuArea } from '../machine/types.js';
import { type Ptr, struct, word } from '../memory/layout.js';

export const OptimisticSpinQueue = struct('optimistic_spin_queue', {
  tail: word, // area of the last CPU in the queue; 0 = empty
});
export type OptimisticSpinQueue = Ptr<'optimistic_spin_queue'>;

const SPINS_MAX = spinLimit(1000);
const NOBODY = 0 as CpuArea;

/** Joins the queue and waits for the turn; false if it gave up. Spins. @kernel osq_lock */
export function osqLock(cpu: Cpu, queue: OptimisticSpinQueue): boolean {
  const me = cpu.area;
  writeOnce(cpu, me, CpuArea.osqLocked, 0);
  writeOnce(cpu, me, CpuArea.osqNext, 0);
  const before = exchange(cpu, queue, OptimisticSpinQueue.tail, me) as CpuArea;
  if (before === 0) return true;
  writeOnce(cpu, me, CpuArea.osqPrev, before);
  storeRelease(cpu, before, CpuArea.osqNext, me); // pairs with waitNext and osqUnlock
  for (let spins = 0; spins < SPINS_MAX; spins++) {
    if (loadAcquire(cpu, me, CpuArea.osqLocked) !== 0) return true; // pairs with osqUnlock
    cpuRelax(cpu, spins);
  }
  return leave(cpu, queue, before);
}

/** Passes the turn on. @kernel osq_unlock */
export function osqUnlock(cpu: Cpu, queue: OptimisticSpinQueue): void {
  const me = cpu.area;
  if (cmpxchg(cpu, queue, OptimisticSpinQueue.tail, me, 0) === me) return;
  let next = exchange(cpu, me, CpuArea.osqNext, 0) as CpuArea; // pairs with osqLock and leave
  if (!isMutant(cpu, BUSTED_OSQ) && next === 0) next = waitNext(cpu, queue, NOBODY);
  if (next !== 0) storeRelease(cpu, next, CpuArea.osqLocked, 1); // pairs with osqLock
}

/** Leaves the queue; true if the turn came while it tried. */
function leave(cpu: Cpu, queue: OptimisticSpinQueue, predecessor: CpuArea): boolean {
  const me = cpu.area;
  let prev = predecessor;
  for (let spins = 0; ; spins++) {
    const linked = readOnce(cpu, prev, CpuArea.osqNext) === me;
    if (linked && cmpxchg(cpu, prev, CpuArea.osqNext, me, 0) === me) break; // step A
    if (loadAcquire(cpu, me, CpuArea.osqLocked) !== 0) return true; // pairs with osqUnlock
    cpuRelax(cpu, spins);
    prev = readOnce(cpu, me, CpuArea.osqPrev) as CpuArea; // it may have left, in step C
  }
  const next = waitNext(cpu, queue, prev); // step B
  if (next === 0) return false;
  storeRelease(cpu, next, CpuArea.osqPrev, prev); // step C
  storeRelease(cpu, prev, CpuArea.osqNext, next); // pairs with waitNext and osqUnlock
  return false;
}

/**
 * Our successor, unlinked from us; NULL if there is none, and then `newTail` is the tail in our place.
 * @kernel osq_wait_next
 */
function waitNext(cpu: Cpu, queue: OptimisticSpinQueue, newTail: CpuArea): CpuArea {
  const me = cpu.area;
  for (let spins = 0; ; spins++) {
    if (
      readOnce(cpu, queue, OptimisticSpinQueue.tail) === me &&
      cmpxchg(cpu, queue, OptimisticSpinQueue.tail, me, newTail) === me
    ) {
      return NOBODY;
    }
    if (readOnce(cpu, me, CpuArea.osqNext) !== 0) {
      const next = exchange(cpu, me, CpuArea.osqNext, 0) as CpuArea;
      if (next !== 0) return next;
    }
    cpuRelax(cpu, spins);
  }
}
