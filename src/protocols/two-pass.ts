/**
 * Interval notifiers in two passes, since 2026: devices are waited for side by side.
 *
 * Kernel     mm/mmu_notifier.c (mmu_interval_notifier_ops.invalidate_start, invalidate_finish)
 * Protocol   first pass, for each interval        second pass, for each that has answered with a token
 *              lock; s := S; clear; kick            settle
 *              token free? take it : settle         give the token back
 *              unlock
 *
 *            A mirror has one token. A second invalidation that comes while it is in use waits in its first pass.
 * Invariant  I1  As with interval: when start returns, all devices have settled (INV-20). Between the passes the
 *                entries are gone and nobody can map: the mm's sequence is odd, and s has moved.
 *            I2  A token is in one invalidation's hands.
 * Ordering   As interval; a token is taken and given back by fully ordered operations.
 * Known bug  None known.
 * Deviation  One callback answers true or a token, where Linux has a second callback.
 *
 * @module
 */
import { cmpxchg, storeRelease, write } from '#memory';

import type { Cpu } from '../machine/cpu.js';
import { defineKernelOps } from '../machine/ops-table.js';
import { containerOf, member } from '../memory/layout.js';
import type { MmStruct } from '../mm/types.js';
import type { MmuIntervalNotifierOps } from '../notifier/mmu-interval-notifier.js';
import {
  type MmuIntervalNotifier,
  MmuIntervalNotifierFinish,
  type MmuNotifierRange,
} from '../notifier/types.js';
import {
  endMapping,
  insertMirror,
  intervalBegin,
  intervalRetry,
  removeMirror,
} from './interval.js';
import { mirrorOps, type MirrorProtocol } from './protocol.js';
import { Mirror } from './types.js';

const intervalOps: MmuIntervalNotifierOps = defineKernelOps({
  opsName: 'mirror interval, two passes',
  invalidate(cpu: Cpu, interval: MmuIntervalNotifier, range: MmuNotifierRange, seq: number) {
    const mirror: Mirror = containerOf(interval, Mirror.interval);
    if (!endMapping(cpu, mirror, range, seq)) return false;
    const ops = mirrorOps(cpu, mirror);
    const isOurs = cmpxchg(cpu, mirror, Mirror.finishing, 0, 1) === 0; // I2
    if (!isOurs) ops.settle(cpu, mirror);
    ops.unlock(cpu, mirror);
    return isOurs ? member(mirror, Mirror.finish) : true;
  },
  invalidateFinish(cpu: Cpu, finish: MmuIntervalNotifierFinish) {
    const mirror: Mirror = containerOf(finish, Mirror.finish);
    mirrorOps(cpu, mirror).settle(cpu, mirror);
    storeRelease(cpu, mirror, Mirror.finishing, 0); // pairs with cmpxchg above
  },
});

function register(cpu: Cpu, mirror: Mirror, mm: MmStruct): number {
  const finish = member(mirror, Mirror.finish);
  write(cpu, finish, MmuIntervalNotifierFinish.interval, member(mirror, Mirror.interval));
  return insertMirror(cpu, mirror, mm, intervalOps);
}

export const twoPass: MirrorProtocol = defineKernelOps({
  opsName: 'two-pass',
  register,
  unregister: removeMirror,
  begin: intervalBegin,
  retry: intervalRetry,
});
