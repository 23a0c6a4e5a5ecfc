/**
 * Lost wake-ups of spinlocks, which nothing else shows: a CPU that halts for a lock looks again by itself after a
 * while, and the next to come makes up for whoever was forgotten.
 *
 * Protocol   While members come to rest: each CPU is done, stands still, or waits for a spinlock. If one that is
 *            waited for is free, and all who wait for it are parked, nobody is left who would wake them.
 * Invariant  I1  No report is false: a CPU that unlocks is seen, for it does not wait. Two looks at all CPUs, with
 *                the lock's value between them, are the same; and the host says how many it woke, so that one
 *                that was woken and has had no core since is told from one that sleeps.
 *
 * @module
 */
import { readOnce, unpark } from '#memory';

import { type CpuSnapshot, lockName, snapshotCpus } from '../debug/wait-graph.js';
import type { Cpu } from '../machine/cpu.js';
import { EVERYBODY } from '../machine/limits.js';
import { Spinlock } from '../machine/types.js';
import { WAIT_ROUND, WAIT_SPINLOCK } from '../machine/wait-kind.js';

/** CPUs that sleep for a free lock, and its name; undefined if there are none. */
export interface LostWakeUp {
  readonly lock: string;
  readonly cpus: readonly number[];
}

/** Looks for lost wake-ups, from outside. */
export function lostWakeUp(boot: Cpu): LostWakeUp | undefined {
  const before = snapshotCpus(boot);
  const [first] = before.filter(({ waitKind }) => waitKind === WAIT_SPINLOCK);
  if (first === undefined || !before.every(isAtRest)) return undefined;
  const lock = first.waitObject as Spinlock;
  if (readOnce(boot, lock, Spinlock.value) !== 0) return undefined;
  if (!sameWaits(before, snapshotCpus(boot))) return undefined;
  const waiters = before.filter(
    ({ waitKind, waitObject }) => waitKind === WAIT_SPINLOCK && waitObject === lock,
  );
  const woken = unpark(boot, lock, Spinlock.value, EVERYBODY);
  if (woken < waiters.length) return undefined;
  return { lock: lockName(boot, lock), cpus: waiters.map(({ cpu }) => cpu) };
}

function isAtRest({ finished, waitKind }: CpuSnapshot): boolean {
  return finished || waitKind === WAIT_ROUND || waitKind === WAIT_SPINLOCK;
}

function sameWaits(before: readonly CpuSnapshot[], after: readonly CpuSnapshot[]): boolean {
  return before.every(({ waitKind, waitSerial }, cpu) => {
    const now = after[cpu];
    return now?.waitKind === waitKind && now.waitSerial === waitSerial;
  });
}
