/**
 * Interval notifiers, since Linux 5.5: collision and retry.
 *
 * Kernel     mm/mmu_notifier.c (mmu_interval_*)
 * Protocol   notifier/mmu-interval-notifier.ts has it: a sequence of the mm, and each interval has that of the last
 *            invalidation that hit it. Here it is behind the same door as what came before.
 * Invariant  INV-16 to INV-22.
 * Ordering   The driver's lock orders the interval's sequence.
 * Known bug  None that is an interval's own: LT-16 takes a notifier of the list beside it.
 *
 * @module
 */
import { read, write } from '#memory';

import { USER_VA_END } from '../base/units.js';
import type { Cpu } from '../machine/cpu.js';
import { defineKernelOps } from '../machine/ops-table.js';
import { containerOf, member } from '../memory/layout.js';
import type { MmStruct } from '../mm/types.js';
import {
  mmuIntervalNotifierInsert,
  type MmuIntervalNotifierOps,
  mmuIntervalNotifierRemove,
  mmuIntervalReadBegin,
  mmuIntervalReadRetry,
  mmuIntervalSetSeq,
} from '../notifier/mmu-interval-notifier.js';
import { mmuNotifierRangeBlockable } from '../notifier/mmu-notifier-range.js';
import type { MmuIntervalNotifier, MmuNotifierRange } from '../notifier/types.js';
import { mirrorOps, type MirrorProtocol } from './protocol.js';
import { Mirror, MirrorRange } from './types.js';

/**
 * Nobody can map any more, and no new access uses what was there; false if that would have to sleep and may not.
 * Else the driver's lock is held.
 */
export function endMapping(
  cpu: Cpu,
  mirror: Mirror,
  range: MmuNotifierRange,
  seq: number,
): boolean {
  const ops = mirrorOps(cpu, mirror);
  if (!ops.lock(cpu, mirror, mmuNotifierRangeBlockable(cpu, range))) return false;
  mmuIntervalSetSeq(cpu, member(mirror, Mirror.interval), seq); // pairs with mmuIntervalReadRetry in intervalRetry
  ops.clear(cpu, mirror, range);
  ops.kick(cpu, mirror);
  return true;
}

const intervalOps: MmuIntervalNotifierOps = defineKernelOps({
  opsName: 'mirror interval',
  invalidate(cpu: Cpu, interval: MmuIntervalNotifier, range: MmuNotifierRange, seq: number) {
    const mirror: Mirror = containerOf(interval, Mirror.interval);
    if (!endMapping(cpu, mirror, range, seq)) return false;
    const ops = mirrorOps(cpu, mirror);
    ops.settle(cpu, mirror);
    ops.unlock(cpu, mirror);
    return true;
  },
});

/** Registers the mirror's interval, over all addresses: 0, -EINVAL, -ENOMEM. Sleeps. */
export function insertMirror(
  cpu: Cpu,
  mirror: Mirror,
  mm: MmStruct,
  ops: MmuIntervalNotifierOps,
): number {
  const interval = member(mirror, Mirror.interval);
  return mmuIntervalNotifierInsert(cpu, interval, mm, 0, USER_VA_END, ops);
}

/** Unregisters it. Sleeps. */
export function removeMirror(cpu: Cpu, mirror: Mirror): void {
  mmuIntervalNotifierRemove(cpu, member(mirror, Mirror.interval));
}

/** Waits for the end of an invalidation that has hit the interval: 0. Sleeps. */
export function intervalBegin(cpu: Cpu, range: MirrorRange): number {
  const interval = member(read(cpu, range, MirrorRange.mirror), Mirror.interval);
  write(cpu, range, MirrorRange.seq, mmuIntervalReadBegin(cpu, interval));
  return 0;
}

/** True if an invalidation has hit the interval since. The driver's lock must be held. */
export function intervalRetry(cpu: Cpu, range: MirrorRange): boolean {
  const interval = member(read(cpu, range, MirrorRange.mirror), Mirror.interval);
  return mmuIntervalReadRetry(cpu, interval, read(cpu, range, MirrorRange.seq));
}

export const interval: MirrorProtocol = defineKernelOps({
  opsName: 'interval',
  register: (cpu: Cpu, mirror: Mirror, mm: MmStruct) => insertMirror(cpu, mirror, mm, intervalOps),
  unregister: removeMirror,
  begin: intervalBegin,
  retry: intervalRetry,
});
