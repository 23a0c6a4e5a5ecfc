/**
 * A notifier of the whole mm, with an interval tree and a lock of the driver's own: what drivers did for themselves.
 *
 * Kernel     as drm/i915 and amdgpu had for user pointers until 5.4, with the count and the number of KVM, which has
 *            them to this day (mmu_invalidate_in_progress, mmu_invalidate_seq)
 * Protocol   invalidating task                        faulting task
 *              start: count it; for each mirror whose   wait until none is counted; n := number
 *                addresses are hit: lock; unmap;        read the CPU's page table
 *                unlock                                 lock
 *              change the CPU's page table              one is counted, or n != number? unlock, again
 *              end: number += 1; count it out; the      map; unlock
 *                last wakes all
 *
 *            Count and number are those of the mm: the tree says whom to call, and not whom a fault collides with.
 *            (Counts of each range were tried, and came apart: a range that is inserted between a start and its end
 *            is told an end that it has no start for.)
 * Invariant  I1  The count is the number of invalidations under way of whoever was registered at their start: the
 *                notifier comes while no range operation is.
 *            I2  A fault that maps has come across no invalidation of the mm (INV-19, INV-20).
 * Ordering   Count and number are under the space's lock, the tree under mirrorsSem. The count comes before the
 *            driver's lock: a fault that has that lock sees it, or maps before the callback clears.
 * Known bug  None. Every fault waits for every invalidation of the mm, also where they do not meet.
 * Deviation  A start that would have to sleep and may not is counted out again and refused. Today's core takes that
 *            for a bug, because there is an end to it (LT-13); it asks for the list's form LIST_UNPAIRED.
 *
 * @module
 */
import { read, write } from '#memory';

import { EAGAIN, EFAULT } from '../base/errno.js';
import { noteBegun, noteEnded } from '../debug/begun.js';
import type { Cpu } from '../machine/cpu.js';
import { defineKernelOps } from '../machine/ops-table.js';
import { schedule, TASK_UNINTERRUPTIBLE } from '../machine/sched.js';
import { WAIT_INVALIDATION } from '../machine/wait-kind.js';
import { containerOf, member, NULL } from '../memory/layout.js';
import type { MmStruct } from '../mm/types.js';
import {
  type IntervalRange,
  intervalTreeIterFirst,
  intervalTreeIterNext,
} from '../notifier/interval-tree.js';
import type { MmuNotifierOps } from '../notifier/mmu-notifier-list.js';
import { type MmuNotifier, MmuNotifierRange } from '../notifier/types.js';
import { upRead } from '../sync/rwsem.js';
import { spinLock, spinUnlock } from '../sync/spinlock.js';
import { finishWait, initWait, prepareToWait, wakeUpAll } from '../sync/wait-queue.js';
import { popMirrors } from './pop-loop.js';
import { type MirrorProtocol, syncMirror } from './protocol.js';
import { rangeSpace } from './ranges.js';
import { joinSpace, leaveSpace, lockMirrors, putSpace, spaceOf } from './space.js';
import { Mirror, MirrorRange, MirrorSpace } from './types.js';

function start(cpu: Cpu, notifier: MmuNotifier, hit: MmuNotifierRange): number {
  const space = spaceOf(notifier);
  const lock = member(space, MirrorSpace.lock);
  spinLock(cpu, lock);
  write(cpu, space, MirrorSpace.inProgress, read(cpu, space, MirrorSpace.inProgress) + 1);
  noteBegun(cpu, member(space, MirrorSpace.invalidation));
  spinUnlock(cpu, lock);
  if (syncHits(cpu, space, hit)) return 0;
  end(cpu, notifier);
  return -EAGAIN;
}

/** Ends the use of the mirrors that are hit; false if one would have to sleep and may not. */
function syncHits(cpu: Cpu, space: MirrorSpace, hit: MmuNotifierRange): boolean {
  if (!lockMirrors(cpu, space, hit)) return false;
  const key = (hit + MmuNotifierRange.start) as IntervalRange;
  let node = intervalTreeIterFirst(cpu, member(space, MirrorSpace.tree), key);
  let isDone = true;
  for (; node !== NULL; node = intervalTreeIterNext(cpu, node, key)) {
    isDone &&= syncMirror(cpu, containerOf(node, Mirror.node), hit);
  }
  upRead(cpu, member(space, MirrorSpace.mirrorsSem));
  return isDone;
}

function end(cpu: Cpu, notifier: MmuNotifier): void {
  const space = spaceOf(notifier);
  const lock = member(space, MirrorSpace.lock);
  spinLock(cpu, lock);
  const left = read(cpu, space, MirrorSpace.inProgress) - 1;
  write(cpu, space, MirrorSpace.inProgress, left);
  noteEnded(cpu, member(space, MirrorSpace.invalidation));
  write(cpu, space, MirrorSpace.seq, (read(cpu, space, MirrorSpace.seq) + 1) | 0);
  spinUnlock(cpu, lock);
  if (left === 0) wakeUpAll(cpu, member(space, MirrorSpace.wait));
}

/** 0 with the number as of now, if nobody invalidates; else waits. -EFAULT if the address space ends. Sleeps. */
function begin(cpu: Cpu, range: MirrorRange): number {
  const space = rangeSpace(cpu, range);
  if (!takeNumber(cpu, space, range)) {
    const queue = member(space, MirrorSpace.wait);
    const wait = initWait(cpu, WAIT_INVALIDATION, member(space, MirrorSpace.invalidation));
    for (;;) {
      prepareToWait(cpu, queue, wait, TASK_UNINTERRUPTIBLE);
      if (takeNumber(cpu, space, range)) break;
      schedule(cpu);
    }
    finishWait(cpu, queue, wait);
  }
  return read(cpu, range, MirrorRange.dead) === 0 ? 0 : -EFAULT;
}

/** False if there is one to wait for. */
function takeNumber(cpu: Cpu, space: MirrorSpace, range: MirrorRange): boolean {
  const lock = member(space, MirrorSpace.lock);
  spinLock(cpu, lock);
  const isDead = read(cpu, space, MirrorSpace.dead) !== 0;
  const isQuiet = read(cpu, space, MirrorSpace.inProgress) === 0;
  write(cpu, range, MirrorRange.dead, isDead ? 1 : 0);
  write(cpu, range, MirrorRange.count, read(cpu, space, MirrorSpace.seq));
  spinUnlock(cpu, lock);
  return isDead || isQuiet;
}

function retry(cpu: Cpu, range: MirrorRange): boolean {
  const space = rangeSpace(cpu, range);
  const lock = member(space, MirrorSpace.lock);
  spinLock(cpu, lock);
  const isQuiet = read(cpu, space, MirrorSpace.inProgress) === 0;
  const isSame = read(cpu, space, MirrorSpace.seq) === read(cpu, range, MirrorRange.count);
  spinUnlock(cpu, lock);
  return !isQuiet || !isSame;
}

const notifierOps: MmuNotifierOps = defineKernelOps({
  opsName: 'list notifier with a tree',
  release: popMirrors,
  invalidateRangeStart: start,
  invalidateRangeEnd: end,
});

export const listTree: MirrorProtocol = defineKernelOps({
  opsName: 'list-tree',
  register: (cpu: Cpu, mirror: Mirror, mm: MmStruct) => joinSpace(cpu, mirror, mm, notifierOps),
  unregister: leaveSpace,
  forget: putSpace,
  begin,
  retry,
});
