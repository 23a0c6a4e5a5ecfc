/**
 * What a protocol with a list notifier keeps of an address space: the mirrors of it, and one notifier for all.
 *
 * Kernel     mm/hmm.c until Linux 5.4 (hmm_get_or_create, hmm_mirror_register, hmm_mirror_unregister)
 * Protocol   register    makes the space with the first mirror, and puts the mirror on the list
 *            unregister  takes it off, waits for whoever calls it; the last takes the notifier off the mm
 *            forget      the last mirror to be freed frees the space: faults under way may still look at it
 * Invariant  I1  After unregister no callback runs for the mirror, nor will.
 *            I2  The space outlives its mirrors; the notifier is on the mm while one is registered, or until exit
 *                has taken it off.
 * Ordering   `registered` and the mm's pointer to the space change under the mmap lock, held for writing, so that
 *            no range operation is between its start and its end when the notifier comes; mirrorsSem has the list.
 * Deviation  Linux made the space under the page table lock, in a race with itself. In 4.18 the first mirror to
 *            unregister cleared the mm, and the last did not unregister the notifier: M-1, which the program
 *            `notifier-exit` shows.
 *
 * @module
 */
import { read, readOnce, write, writeAddress } from '#memory';

import { EINVAL, ENOMEM } from '../base/errno.js';
import { USER_VA_END } from '../base/units.js';
import type { Cpu } from '../machine/cpu.js';
import { lockClass } from '../machine/lock-class.js';
import { opsIndex } from '../machine/ops-table.js';
import { kfree, kzalloc } from '../machine/slab.js';
import { Waited } from '../machine/types.js';
import { containerOf, member, NULL } from '../memory/layout.js';
import { initListHead, listAddTail, listDelInit, listNext } from '../memory/list.js';
import { MmStruct } from '../mm/types.js';
import {
  intervalTreeInsert,
  IntervalTreeNode,
  intervalTreeNodeLinked,
  intervalTreeRemove,
} from '../notifier/interval-tree.js';
import type { MmuNotifierOps } from '../notifier/mmu-notifier-list.js';
import { mmuNotifierRangeBlockable } from '../notifier/mmu-notifier-range.js';
import {
  mmuNotifierRegisterLocked,
  mmuNotifierSynchronize,
  mmuNotifierUnregister,
} from '../notifier/mmu-notifier-register.js';
import { MmuNotifier, type MmuNotifierRange } from '../notifier/types.js';
import { refcountDecAndTest, refcountInc, refcountSet } from '../sync/refcount.js';
import { downRead, downReadTrylock, downWrite, initRwsem, upRead, upWrite } from '../sync/rwsem.js';
import { initSpinlock } from '../sync/spinlock.js';
import { initWaitQueue } from '../sync/wait-queue.js';
import { syncMirror } from './protocol.js';
import { Mirror, MirrorSpace } from './types.js';

const MIRRORS_SEM = lockClass('hmm->mirrors_sem');
const RANGES_LOCK = lockClass('hmm->ranges_lock');
const RANGES_WAIT = lockClass('hmm->wq');
const INVALIDATION = lockClass('invalidation of mirrors');

/**
 * Registers a mirror with the space of its mm, whose notifier has those methods: 0, -EINVAL (the mm has ended, or
 * is mirrored by another protocol), -ENOMEM. No lock held. Sleeps. @kernel hmm_mirror_register
 */
export function joinSpace(cpu: Cpu, mirror: Mirror, mm: MmStruct, ops: MmuNotifierOps): number {
  downWrite(cpu, member(mm, MmStruct.mmapLock));
  const error = joinSpaceLocked(cpu, mirror, mm, ops);
  upWrite(cpu, member(mm, MmStruct.mmapLock));
  if (error !== 0) return error;
  const space = read(cpu, mirror, Mirror.space);
  const node = member(mirror, Mirror.node);
  writeAddress(cpu, node, IntervalTreeNode.start, 0);
  writeAddress(cpu, node, IntervalTreeNode.last, USER_VA_END - 1);
  downWrite(cpu, member(space, MirrorSpace.mirrorsSem));
  listAddTail(cpu, member(mirror, Mirror.link), member(space, MirrorSpace.mirrors));
  intervalTreeInsert(cpu, member(space, MirrorSpace.tree), node);
  upWrite(cpu, member(space, MirrorSpace.mirrorsSem));
  return 0;
}

/** Counts the mirror in. The mmap lock must be held for writing. */
function joinSpaceLocked(cpu: Cpu, mirror: Mirror, mm: MmStruct, ops: MmuNotifierOps): number {
  if (readOnce(cpu, mm, MmStruct.users) <= 0) return -EINVAL;
  let space = read(cpu, mm, MmStruct.mirrorSpace);
  if (space === NULL) {
    space = newSpace(cpu, mm);
    if (space === NULL) return -ENOMEM;
    const error = mmuNotifierRegisterLocked(cpu, member(space, MirrorSpace.notifier), mm, ops);
    if (error !== 0) {
      kfree(cpu, MirrorSpace, space);
      return error;
    }
    write(cpu, mm, MmStruct.mirrorSpace, space);
  } else {
    const registered = read(cpu, member(space, MirrorSpace.notifier), MmuNotifier.ops);
    if (registered !== opsIndex(cpu, ops)) return -EINVAL;
    refcountInc(cpu, member(space, MirrorSpace.refs));
  }
  write(cpu, space, MirrorSpace.registered, read(cpu, space, MirrorSpace.registered) + 1);
  write(cpu, mirror, Mirror.space, space);
  return 0;
}

/** With a reference for the first mirror; NULL if memory is out. */
function newSpace(cpu: Cpu, mm: MmStruct): MirrorSpace {
  const space = kzalloc(cpu, MirrorSpace);
  if (space === NULL) return NULL;
  write(cpu, space, MirrorSpace.mm, mm);
  refcountSet(cpu, member(space, MirrorSpace.refs), 1);
  initRwsem(cpu, member(space, MirrorSpace.mirrorsSem), MIRRORS_SEM);
  initListHead(cpu, member(space, MirrorSpace.mirrors));
  initSpinlock(cpu, member(space, MirrorSpace.lock), RANGES_LOCK);
  initListHead(cpu, member(space, MirrorSpace.ranges));
  write(cpu, member(space, MirrorSpace.invalidation), Waited.lockClass, INVALIDATION);
  initWaitQueue(cpu, member(space, MirrorSpace.wait), RANGES_WAIT);
  return space;
}

/**
 * Takes the mirror off its space (I1); harmless after a release. No lock held. Sleeps.
 * @kernel hmm_mirror_unregister
 */
export function leaveSpace(cpu: Cpu, mirror: Mirror): void {
  const space = read(cpu, mirror, Mirror.space);
  const mm = read(cpu, space, MirrorSpace.mm);
  const node = member(mirror, Mirror.node);
  downWrite(cpu, member(space, MirrorSpace.mirrorsSem));
  listDelInit(cpu, member(mirror, Mirror.link)); // it may be off already: a release took it
  if (intervalTreeNodeLinked(cpu, node)) {
    intervalTreeRemove(cpu, member(space, MirrorSpace.tree), node);
  }
  upWrite(cpu, member(space, MirrorSpace.mirrorsSem));
  downWrite(cpu, member(mm, MmStruct.mmapLock));
  const left = read(cpu, space, MirrorSpace.registered) - 1;
  write(cpu, space, MirrorSpace.registered, left);
  if (left === 0) write(cpu, mm, MmStruct.mirrorSpace, NULL);
  upWrite(cpu, member(mm, MmStruct.mmapLock));
  if (left === 0) mmuNotifierUnregister(cpu, member(space, MirrorSpace.notifier), mm);
  else mmuNotifierSynchronize(cpu); // a release that has taken it off may still call it
}

/** The mirror is freed (I2). @kernel hmm_put */
export function putSpace(cpu: Cpu, mirror: Mirror): void {
  const space = read(cpu, mirror, Mirror.space);
  if (refcountDecAndTest(cpu, member(space, MirrorSpace.refs))) kfree(cpu, MirrorSpace, space);
}

/** What the protocols with a list notifier have in common. */
export const SPACE_MEMBERS = { unregister: leaveSpace, forget: putSpace } as const;

/** The space of a notifier. */
export function spaceOf(notifier: MmuNotifier): MirrorSpace {
  return containerOf(notifier, MirrorSpace.notifier);
}

/** The first mirror on the list, or NULL. mirrorsSem must be held. */
export function firstMirror(cpu: Cpu, space: MirrorSpace): Mirror {
  return mirrorAfter(cpu, space, member(space, MirrorSpace.mirrors));
}

/** The mirror after one of the list, or NULL. mirrorsSem must be held. */
export function nextMirror(cpu: Cpu, space: MirrorSpace, mirror: Mirror): Mirror {
  return mirrorAfter(cpu, space, member(mirror, Mirror.link));
}

function mirrorAfter(cpu: Cpu, space: MirrorSpace, node: Parameters<typeof listNext>[1]): Mirror {
  const next = listNext(cpu, node);
  return next === member(space, MirrorSpace.mirrors) ? NULL : containerOf(next, Mirror.link);
}

/** Takes mirrorsSem for a callback; false if that would sleep and may not. */
export function lockMirrors(cpu: Cpu, space: MirrorSpace, range: MmuNotifierRange): boolean {
  const sem = member(space, MirrorSpace.mirrorsSem);
  if (!mmuNotifierRangeBlockable(cpu, range)) return downReadTrylock(cpu, sem);
  downRead(cpu, sem);
  return true;
}

/** Ends every mirror's use of a range; false if one would have to sleep and may not. Sleeps, unless it may not. */
export function syncMirrors(cpu: Cpu, space: MirrorSpace, range: MmuNotifierRange): boolean {
  if (!lockMirrors(cpu, space, range)) return false;
  let isDone = true;
  for (let one = firstMirror(cpu, space); one !== NULL; one = nextMirror(cpu, space, one)) {
    isDone &&= syncMirror(cpu, one, range);
  }
  upRead(cpu, member(space, MirrorSpace.mirrorsSem));
  return isDone;
}
