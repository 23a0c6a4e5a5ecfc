/**
 * Each CPU's stack of held locks, kept in its area where the watchdog and the death report find it.
 *
 * Kernel     kernel/locking/lockdep.c (task->held_locks)
 * Invariant  I1  CpuArea.held lists the locks this CPU holds, outermost first, ended by 0.
 * Ordering   Only the CPU itself writes its stack, plainly. Whoever reads it from outside does so while
 *            the CPU is blocked or dead; if not, it sees a list that was right a moment ago.
 * Cost       Two plain stores for a lock and its unlock.
 *
 * @module
 */
import { readOwn, writeOwn } from '#memory';

import { bug } from '../base/bug.js';
import type { Cpu } from '../machine/cpu.js';
import { CpuArea, HELD_LOCKS_MAX } from '../machine/types.js';
import { element } from '../memory/layout.js';

/** This CPU now holds the lock. */
export function pushHeld(cpu: Cpu, lock: number): void {
  const depth = cpu.heldDepth;
  if (depth >= HELD_LOCKS_MAX - 1) bug(`cpu ${cpu.id} holds too many locks`);
  writeOwn(cpu, cpu.area, element(CpuArea.held, depth), lock);
  cpu.heldDepth = depth + 1;
}

/** This CPU no longer holds the lock, which need not be the last one it took. */
export function popHeld(cpu: Cpu, lock: number): void {
  const last = cpu.heldDepth - 1;
  if (last >= 0 && readOwn(cpu, cpu.area, element(CpuArea.held, last)) === lock) {
    writeOwn(cpu, cpu.area, element(CpuArea.held, last), 0);
    cpu.heldDepth = last;
  } else {
    popHeldSlow(cpu, lock);
  }
}

function popHeldSlow(cpu: Cpu, lock: number): void {
  const at = heldIndex(cpu, lock);
  if (at < 0) bug(`cpu ${cpu.id} releases lock ${lock}, which it does not hold`);
  const last = cpu.heldDepth - 1;
  for (let i = at; i < last; i++) {
    const above = readOwn(cpu, cpu.area, element(CpuArea.held, i + 1));
    writeOwn(cpu, cpu.area, element(CpuArea.held, i), above);
  }
  writeOwn(cpu, cpu.area, element(CpuArea.held, last), 0);
  cpu.heldDepth = last;
}

/** Where in this CPU's stack the lock is, or -1. */
export function heldIndex(cpu: Cpu, lock: number): number {
  for (let i = cpu.heldDepth - 1; i >= 0; i--) {
    if (readOwn(cpu, cpu.area, element(CpuArea.held, i)) === lock) return i;
  }
  return -1;
}
