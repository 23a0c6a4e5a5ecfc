/**
 * The ranges of faults under way, which invalidations mark: what HMM's mirrors had in the place of a sequence.
 *
 * Kernel     mm/hmm.c until Linux 5.4 (hmm_range.valid, hmm->ranges)
 * Protocol   A fault puts its range on the list, and finds at its end whether it is valid still. Who marks it when,
 *            and who makes it valid again, is the protocols'.
 * Ordering   The list and the marks are under the space's lock. A mark is also read without: a fault asks under the
 *            driver's lock, which the invalidation takes after it has marked.
 * Deviation  None: that a range next to the invalidated one counts as hit was a mistake of Linux's, and costs a
 *            retry.
 *
 * @module
 */
import { read, readAddress, readOnce, writeOnce } from '#memory';

import { EFAULT } from '../base/errno.js';
import type { Cpu } from '../machine/cpu.js';
import { containerOf, member } from '../memory/layout.js';
import { initListHead, listAdd, listDelInit, listEmpty, listNext } from '../memory/list.js';
import { MmuNotifierRange } from '../notifier/types.js';
import { spinLock, spinUnlock } from '../sync/spinlock.js';
import { Mirror, MirrorRange, MirrorSpace } from './types.js';

/** The space that a fault's range is in. */
export function rangeSpace(cpu: Cpu, range: MirrorRange): MirrorSpace {
  return read(cpu, read(cpu, range, MirrorRange.mirror), Mirror.space);
}

/** Makes a range that is on no list. */
export function openMarkedRange(cpu: Cpu, range: MirrorRange): void {
  initListHead(cpu, member(range, MirrorRange.link));
}

/** Marks the range valid, whatever is under way, and lists it: 0, or -EFAULT. @kernel hmm_vma_fault, until 5.1 */
export function beginRange(cpu: Cpu, range: MirrorRange): number {
  const space = rangeSpace(cpu, range);
  const lock = member(space, MirrorSpace.lock);
  spinLock(cpu, lock);
  const isDead = read(cpu, space, MirrorSpace.dead) !== 0;
  if (!isDead) {
    writeOnce(cpu, range, MirrorRange.valid, 1);
    const link = member(range, MirrorRange.link);
    if (listEmpty(cpu, link)) listAdd(cpu, link, member(space, MirrorSpace.ranges));
  }
  spinUnlock(cpu, lock);
  return isDead ? -EFAULT : 0;
}

/** True if an invalidation has marked the range. @kernel hmm_range_valid, negated */
export function isMarked(cpu: Cpu, range: MirrorRange): boolean {
  return readOnce(cpu, range, MirrorRange.valid) === 0;
}

/** Takes the range off the list, if it is on it. @kernel hmm_vma_range_done, hmm_range_unregister */
export function dropRange(cpu: Cpu, range: MirrorRange): void {
  const lock = member(rangeSpace(cpu, range), MirrorSpace.lock);
  spinLock(cpu, lock);
  listDelInit(cpu, member(range, MirrorRange.link));
  spinUnlock(cpu, lock);
}

/** What the protocols have in common in which nobody waits for an invalidation's end (LT-5, LT-18). */
export const MARKED_RANGE_MEMBERS = {
  openRange: openMarkedRange,
  begin: beginRange,
  retry: isMarked,
  closeRange: dropRange,
} as const;

/** Marks every range that the invalidation touches. The space's lock must be held. */
export function markRangesLocked(cpu: Cpu, space: MirrorSpace, hit: MmuNotifierRange): void {
  const start = readAddress(cpu, hit, MmuNotifierRange.start);
  const end = readAddress(cpu, hit, MmuNotifierRange.end);
  const head = member(space, MirrorSpace.ranges);
  for (let node = listNext(cpu, head); node !== head; node = listNext(cpu, node)) {
    const range: MirrorRange = containerOf(node, MirrorRange.link);
    if (end < readAddress(cpu, range, MirrorRange.start)) continue; // < and not <=: as it was
    if (start >= readAddress(cpu, range, MirrorRange.end)) continue;
    writeOnce(cpu, range, MirrorRange.valid, 0);
  }
}

/** As above; takes the lock. */
export function markRanges(cpu: Cpu, space: MirrorSpace, hit: MmuNotifierRange): void {
  const lock = member(space, MirrorSpace.lock);
  spinLock(cpu, lock);
  markRangesLocked(cpu, space, hit);
  spinUnlock(cpu, lock);
}
