/**
 * HMM's mirrors of 2018: the driver is told at the start of an invalidation, and of the end of the address space.
 *
 * Kernel     mm/hmm.c of Linux 4.20 to 5.1 (hmm_release, hmm_invalidate_range)
 * Protocol   invalidating task                        faulting task
 *              start: mark ranges that are hit;         range valid, and on the list
 *                for each mirror: lock; unmap; unlock   read the CPU's page table
 *              change the CPU's page table              lock
 *              end: mark ranges that are hit            valid? map : unlock, again
 *                                                       unlock
 *
 *            release: takes the mirrors off one at a time and calls the driver without mirrorsSem. So the driver may
 *            wait for its own work, which may be in the middle of an invalidation that needs mirrorsSem (LT-1).
 *            Nothing is remembered from before the lock was dropped: each turn looks at the head of the list.
 * Invariant  I1  Nobody is called twice, nobody is left out, who unregisters at the same time is called or not.
 *            I2  The device maps nothing in the range between start and end that was mapped before start.
 * Ordering   mirrorsSem has the list; the mark comes before the driver's lock.
 * Known bug  LT-5: a fault that begins after the start of an invalidation does not wait for its end. It may map what
 *            it has read before the page table changes, and nobody clears that again. valid-flag waits.
 *            The loop need not end if mirrors keep coming; but who registers is a user of the mm.
 *
 * @module
 */
import { write } from '#memory';

import { EAGAIN } from '../base/errno.js';
import type { Cpu } from '../machine/cpu.js';
import { defineKernelOps } from '../machine/ops-table.js';
import { member, NULL } from '../memory/layout.js';
import { listDelInit } from '../memory/list.js';
import type { MmStruct } from '../mm/types.js';
import type { MmuNotifierOps } from '../notifier/mmu-notifier-list.js';
import type { MmuNotifier, MmuNotifierRange } from '../notifier/types.js';
import { downWrite, upWrite } from '../sync/rwsem.js';
import { spinLock, spinUnlock } from '../sync/spinlock.js';
import { wakeUpAll } from '../sync/wait-queue.js';
import { mirrorOps, type MirrorProtocol } from './protocol.js';
import { MARKED_RANGE_MEMBERS, markRanges } from './ranges.js';
import { firstMirror, joinSpace, SPACE_MEMBERS, spaceOf, syncMirrors } from './space.js';
import { Mirror, MirrorSpace } from './types.js';

/** The address space ends: no fault begins any more, and every mirror is released. Sleeps. @kernel hmm_release */
export function popMirrors(cpu: Cpu, notifier: MmuNotifier): void {
  const space = spaceOf(notifier);
  const sem = member(space, MirrorSpace.mirrorsSem);
  markDead(cpu, space);
  downWrite(cpu, sem);
  for (;;) {
    const mirror = firstMirror(cpu, space);
    if (mirror === NULL) break;
    listDelInit(cpu, member(mirror, Mirror.link));
    upWrite(cpu, sem);
    mirrorOps(cpu, mirror).release(cpu, mirror); // it may unregister meanwhile: leaveSpace waits for us
    downWrite(cpu, sem);
  }
  upWrite(cpu, sem);
}

/** No fault begins from now on, or waits. */
export function markDead(cpu: Cpu, space: MirrorSpace): void {
  const lock = member(space, MirrorSpace.lock);
  spinLock(cpu, lock);
  write(cpu, space, MirrorSpace.dead, 1);
  spinUnlock(cpu, lock);
  wakeUpAll(cpu, member(space, MirrorSpace.wait));
}

/** Marks, and ends the mirrors' use: 0 or -EAGAIN. @kernel hmm_invalidate_range_start */
export function markAndSync(cpu: Cpu, notifier: MmuNotifier, range: MmuNotifierRange): number {
  const space = spaceOf(notifier);
  markRanges(cpu, space, range);
  return syncMirrors(cpu, space, range) ? 0 : -EAGAIN;
}

/** Marks what has begun since. @kernel hmm_invalidate_range_end */
export function markAgain(cpu: Cpu, notifier: MmuNotifier, range: MmuNotifierRange): void {
  markRanges(cpu, spaceOf(notifier), range);
}

const notifierOps: MmuNotifierOps = defineKernelOps({
  opsName: 'hmm, pop loop',
  release: popMirrors,
  invalidateRangeStart: markAndSync,
  invalidateRangeEnd: markAgain,
});

export const popLoop: MirrorProtocol = defineKernelOps({
  opsName: 'pop-loop',
  register: (cpu: Cpu, mirror: Mirror, mm: MmStruct) => joinSpace(cpu, mirror, mm, notifierOps),
  ...SPACE_MEMBERS,
  ...MARKED_RANGE_MEMBERS,
});
