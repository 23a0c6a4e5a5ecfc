/**
 * HMM's ranges of 2019: a fault waits until no invalidation is under way, and looks at a flag when it maps.
 *
 * Kernel     mm/hmm.c of Linux 5.2 to 5.4 (hmm_range_register, hmm_range_wait_until_valid, hmm_range_valid)
 * Protocol   invalidating task                        faulting task
 *              start: count it; mark ranges that are    range on the list; valid if nobody invalidates
 *                hit; for each mirror: lock; unmap;     wait until it is valid, for a second at most
 *                unlock                                 read the CPU's page table
 *              change the CPU's page table              lock
 *              end: count it out; the last makes all    valid? map : unlock, wait again
 *                ranges valid, and wakes all            unlock
 *
 *            release: as pop-loop; who waits for a range gives up.
 * Invariant  I1  A range is valid while nobody invalidates.
 *            I2  A fault that begins while its range is being invalidated waits for the end of all invalidations.
 * Ordering   The count, the list and the marks are under the space's lock; the mark comes before the driver's lock.
 *            The waiter is woken after the mark.
 *            A start that would have to sleep and may not counts itself out again and refuses, as an end would: so
 *            since 5.3.
 * Known bug  LT-6: an invalidation that begins and ends between the fault's wait and its look leaves no trace. Intervals
 *            have replaced it in 5.5.
 *            M-2, of 5.2 alone (valid-flag-5.2): a start that refuses stays counted, and nobody counts it out; ranges
 *            never become valid again.
 * Deviation  hmm_range_fault looked at the flag too, from page to page; here the fault finds out when it has read
 *            all. A refusal asks for the list's form of its time (LIST_UNPAIRED): see notifier/boot.ts.
 *
 * @module
 */
import { clockMs, read, readOnce, write, writeOnce } from '#memory';

import { EAGAIN, EBUSY, EFAULT } from '../base/errno.js';
import { noteBegun, noteEnded } from '../debug/begun.js';
import type { Cpu } from '../machine/cpu.js';
import { defineKernelOps } from '../machine/ops-table.js';
import { scheduleTimeout, TASK_UNINTERRUPTIBLE } from '../machine/sched.js';
import { WAIT_INVALIDATION } from '../machine/wait-kind.js';
import { containerOf, member } from '../memory/layout.js';
import { listAdd, listNext } from '../memory/list.js';
import type { MmStruct } from '../mm/types.js';
import type { MmuNotifierOps } from '../notifier/mmu-notifier-list.js';
import type { MmuNotifier, MmuNotifierRange } from '../notifier/types.js';
import { spinLock, spinUnlock } from '../sync/spinlock.js';
import { finishWait, initWait, prepareToWait, wakeUpAll } from '../sync/wait-queue.js';
import { popMirrors } from './pop-loop.js';
import { type MirrorProtocol, RANGE_TIMEOUT_MS } from './protocol.js';
import { dropRange, isMarked, markRangesLocked, rangeSpace } from './ranges.js';
import { joinSpace, SPACE_MEMBERS, spaceOf, syncMirrors } from './space.js';
import { type Mirror, MirrorRange, MirrorSpace } from './types.js';

/** @kernel hmm_invalidate_range_start */
function start(cpu: Cpu, notifier: MmuNotifier, hit: MmuNotifierRange): number {
  const error = startUncounted(cpu, notifier, hit);
  if (error !== 0) end(cpu, notifier);
  return error;
}

/** As it was in 5.2: a refusal leaves the count up (M-2). */
function startUncounted(cpu: Cpu, notifier: MmuNotifier, hit: MmuNotifierRange): number {
  const space = spaceOf(notifier);
  const lock = member(space, MirrorSpace.lock);
  spinLock(cpu, lock);
  write(cpu, space, MirrorSpace.inProgress, read(cpu, space, MirrorSpace.inProgress) + 1);
  noteBegun(cpu, member(space, MirrorSpace.invalidation));
  markRangesLocked(cpu, space, hit);
  spinUnlock(cpu, lock);
  return syncMirrors(cpu, space, hit) ? 0 : -EAGAIN;
}

/** @kernel hmm_invalidate_range_end, notifiers_decrement */
function end(cpu: Cpu, notifier: MmuNotifier): void {
  const space = spaceOf(notifier);
  const lock = member(space, MirrorSpace.lock);
  spinLock(cpu, lock);
  const left = read(cpu, space, MirrorSpace.inProgress) - 1;
  write(cpu, space, MirrorSpace.inProgress, left);
  noteEnded(cpu, member(space, MirrorSpace.invalidation));
  if (left === 0) validateAll(cpu, space);
  spinUnlock(cpu, lock);
  if (left === 0) wakeUpAll(cpu, member(space, MirrorSpace.wait));
}

/** LT-6: also the ranges whose faults have read the page table already. The space's lock must be held. */
function validateAll(cpu: Cpu, space: MirrorSpace): void {
  const head = member(space, MirrorSpace.ranges);
  for (let node = listNext(cpu, head); node !== head; node = listNext(cpu, node)) {
    const range: MirrorRange = containerOf(node, MirrorRange.link);
    writeOnce(cpu, range, MirrorRange.valid, 1);
  }
}

/** @kernel hmm_range_register */
function openRange(cpu: Cpu, range: MirrorRange): void {
  const space = rangeSpace(cpu, range);
  const lock = member(space, MirrorSpace.lock);
  spinLock(cpu, lock);
  const isQuiet = read(cpu, space, MirrorSpace.inProgress) === 0;
  writeOnce(cpu, range, MirrorRange.valid, isQuiet ? 1 : 0);
  listAdd(cpu, member(range, MirrorRange.link), member(space, MirrorSpace.ranges));
  spinUnlock(cpu, lock);
}

/** Waits until the range is valid: 0, -EBUSY after a second, -EFAULT. Sleeps. @kernel hmm_range_wait_until_valid */
function begin(cpu: Cpu, range: MirrorRange): number {
  const space = rangeSpace(cpu, range);
  if (readOnce(cpu, range, MirrorRange.valid) === 0) waitUntilValid(cpu, space, range);
  if (readOnce(cpu, space, MirrorSpace.dead) !== 0) return -EFAULT;
  return readOnce(cpu, range, MirrorRange.valid) !== 0 ? 0 : -EBUSY;
}

function waitUntilValid(cpu: Cpu, space: MirrorSpace, range: MirrorRange): void {
  const queue = member(space, MirrorSpace.wait);
  const wait = initWait(cpu, WAIT_INVALIDATION, member(space, MirrorSpace.invalidation));
  const deadline = clockMs(cpu) + RANGE_TIMEOUT_MS;
  for (;;) {
    prepareToWait(cpu, queue, wait, TASK_UNINTERRUPTIBLE);
    if (readOnce(cpu, range, MirrorRange.valid) !== 0) break;
    if (readOnce(cpu, space, MirrorSpace.dead) !== 0) break;
    const left = deadline - clockMs(cpu);
    if (left <= 0) break;
    scheduleTimeout(cpu, left);
  }
  finishWait(cpu, queue, wait);
}

const notifierOps: MmuNotifierOps = defineKernelOps({
  opsName: 'hmm, valid flag',
  release: popMirrors,
  invalidateRangeStart: start,
  invalidateRangeEnd: end,
});

const uncountedOps: MmuNotifierOps = defineKernelOps({
  ...notifierOps,
  opsName: 'hmm, valid flag of 5.2',
  invalidateRangeStart: startUncounted,
});

const RANGE_MEMBERS = { openRange, begin, retry: isMarked, closeRange: dropRange } as const;

export const validFlag: MirrorProtocol = defineKernelOps({
  opsName: 'valid-flag',
  register: (cpu: Cpu, mirror: Mirror, mm: MmStruct) => joinSpace(cpu, mirror, mm, notifierOps),
  ...SPACE_MEMBERS,
  ...RANGE_MEMBERS,
});

/** With M-2. */
export const validFlagUncounted: MirrorProtocol = defineKernelOps({
  opsName: 'valid-flag-5.2',
  register: (cpu: Cpu, mirror: Mirror, mm: MmStruct) => joinSpace(cpu, mirror, mm, uncountedOps),
  ...SPACE_MEMBERS,
  ...RANGE_MEMBERS,
});
