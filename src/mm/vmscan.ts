/**
 * Reclaim: pages that have not been used for long go to the swap area when frames run short.
 *
 * Kernel     mm/vmscan.c (kswapd, balance_pgdat, try_to_free_pages, shrink_active_list, shrink_inactive_list)
 * Protocol   The allocator wakes kswapd when fewer frames than the low watermark are free; kswapd shrinks the LRU lists
 *            until as many are as the high one says, and sleeps. Who allocates and would touch the reserve (the min
 *            watermark) shrinks a batch itself, and tries again; only if that frees nothing, time and again, the
 *            allocation fails, and whoever asked for it chooses a victim (process/oom-reaper.ts).
 *            To shrink is to go over a share of each list, a larger one at each turn:
 *              active, if that list is the longer       used since: no matter; it is inactive now
 *              inactive     anonymous, used since       active
 *                           a file's, used twice        active
 *                           else                        taken from who maps it, and written to its slot
 *            What cannot go (pinned, locked, in use by somebody) is active again.
 * Invariant  I1  Who reclaims has PF_MEMALLOC: its own allocations do not reclaim, and have the reserve.
 *            I2  kswapd that frees nothing 16 times in a row sleeps until somebody else has freed something.
 * Ordering   Reclaim runs under whatever an allocation runs under, that is in the fs_reclaim map: it takes rmap locks
 *            and calls notifiers, so nothing that these take may be held by who allocates (mm/rmap.ts).
 * Deviation  What is on the lists goes to the swap area, pages of files too: there is no other disk. No writeback to
 *            wait for, no refaults, no compaction: an allocation of more than 8 frames reclaims once. No slab shrinkers.
 *
 * @module
 */
import { fsReclaimAcquire, fsReclaimRelease } from '#debug';
import { fetchAdd, read, readOnce, write, writeOnce } from '#memory';

import {
  kthreadCreate,
  type KthreadOps,
  kthreadShouldStop,
  kthreadStop,
  wakeUpKthread,
} from '../deferred/kthread.js';
import type { Kthread } from '../deferred/types.js';
import type { Cpu } from '../machine/cpu.js';
import {
  GFP_FS,
  GFP_IO,
  GFP_KERNEL,
  memallocNoreclaimRestore,
  memallocNoreclaimSave,
  mightAlloc,
} from '../machine/gfp.js';
import { lockClass } from '../machine/lock-class.js';
import { defineKernelOps, opsIndex } from '../machine/ops-table.js';
import {
  isZoneBalanced,
  isZoneLow,
  pageOf,
  type Pfn,
  PG_ANON,
  PG_LAZYFREE,
  PG_MLOCKED,
  PG_REFERENCED,
  PG_SWAPCACHE,
  type ReclaimOps,
} from '../machine/page-alloc.js';
import { allocPercpu } from '../machine/percpu.js';
import { condResched, schedule, TASK_UNINTERRUPTIBLE } from '../machine/sched.js';
import { MACHINE, Machine, Page } from '../machine/types.js';
import { WAIT_NEXT_WORK } from '../machine/wait-kind.js';
import { member, NULL } from '../memory/layout.js';
import { trylockPage, unlockPage } from '../sync/page-lock.js';
import { initSpinlock } from '../sync/spinlock.js';
import {
  finishWait,
  initWait,
  initWaitQueue,
  prepareToWait,
  waitqueueActive,
  wakeUp,
} from '../sync/wait-queue.js';
import { fput } from './file.js';
import {
  countReclaim,
  isolatedFile,
  isolateOldest,
  LRU_ACTIVE,
  LRU_ANON,
  LRU_FILE,
  lruCount,
  putbackLru,
  reclaimOf,
} from './lru.js';
import {
  pageClearFlags,
  pageHasFlag,
  pageMapcount,
  pageMaybePinned,
  pageSetFlags,
  putPage,
} from './page.js';
import { finishPageout, NO_SLOT, slotForPage } from './pageout.js';
import { pageReferenced, tryToUnmap } from './rmap-reclaim.js';
import { hasSwapRoom } from './swap.js';
import { Reclaim, ReclaimStats } from './types.js';

const LRU_LOCK = lockClass('lru_lock');
const KSWAPD_WAIT = lockClass('kswapd_wait');
const KSWAPD = lockClass('kswapd');
/** Turns of one shrinking; the first looks at 1/2^11 of each list, the last at all of it. @kernel DEF_PRIORITY */
const PRIORITIES = 12;
/** Frames that are wanted at once. @kernel SWAP_CLUSTER_MAX */
const CLUSTER = 32;
/** @kernel MAX_RECLAIM_RETRIES, for kswapd_failures (I2) */
const FAILURES_MAX = 16;

/** Makes what reclaim needs, if the machine is to reclaim. Runs once, on the boot CPU; needs no frames. */
export function bootReclaim(cpu: Cpu): void {
  if (read(cpu, MACHINE, Machine.watermarkMin) === 0) return;
  const reclaim = (cpu.percpu + allocPercpu(cpu, Reclaim.words)) as Reclaim;
  initSpinlock(cpu, member(reclaim, Reclaim.lock), LRU_LOCK);
  initWaitQueue(cpu, member(reclaim, Reclaim.wait), KSWAPD_WAIT);
  write(cpu, MACHINE, Machine.reclaimOps, opsIndex(cpu, reclaimOps));
  write(cpu, MACHINE, Machine.reclaim, reclaim);
}

// --- kswapd ---

/** Starts kswapd; some CPU must be in runKthreads. False if memory is out. @kernel kswapd_run */
export function startKswapd(cpu: Cpu): boolean {
  const reclaim = reclaimOf(cpu);
  const kthread = kthreadCreate(cpu, kswapd, reclaim, KSWAPD);
  write(cpu, reclaim, Reclaim.kswapd, kthread);
  if (kthread !== NULL) wakeUpKthread(cpu, kthread);
  return kthread !== NULL;
}

/** Ends it. Sleeps. @kernel kswapd_stop */
export function stopKswapd(cpu: Cpu): void {
  const kthread = read(cpu, reclaimOf(cpu), Reclaim.kswapd);
  write(cpu, reclaimOf(cpu), Reclaim.kswapd, NULL);
  if (kthread !== NULL) kthreadStop(cpu, kthread);
}

const kswapd: KthreadOps = defineKernelOps({
  opsName: 'kswapd',
  run(cpu: Cpu, kthread: Kthread): number {
    while (waitForPressure(cpu, kthread)) balance(cpu);
    return 0;
  },
});

/** Sleeps until there is something to do; false if the thread is to stop. @kernel kswapd_try_to_sleep */
function waitForPressure(cpu: Cpu, kthread: Kthread): boolean {
  const queue = member(reclaimOf(cpu), Reclaim.wait);
  const wait = initWait(cpu, WAIT_NEXT_WORK, kthread);
  let stops: boolean;
  for (;;) {
    prepareToWait(cpu, queue, wait, TASK_UNINTERRUPTIBLE);
    stops = kthreadShouldStop(cpu, kthread);
    if (stops || wantsKswapd(cpu)) break;
    schedule(cpu);
  }
  finishWait(cpu, queue, wait);
  return !stops;
}

/** True if memory is short, and kswapd has not found out that it cannot help (I2). */
export function wantsKswapd(cpu: Cpu): boolean {
  return isZoneLow(cpu) && !isHopeless(cpu);
}

/** I2 */
function isHopeless(cpu: Cpu): boolean {
  return readOnce(cpu, reclaimOf(cpu), Reclaim.failures) >= FAILURES_MAX;
}

/** Does what kswapd does when it is woken: shrinks until enough frames are free, or nothing helps. Sleeps. @kernel balance_pgdat */
export function balance(cpu: Cpu): void {
  countReclaim(cpu, ReclaimStats.kswapdWakes);
  const saved = memallocNoreclaimSave(cpu); // I1
  let freed = 0;
  while (!isZoneBalanced(cpu)) {
    const more = shrink(cpu, GFP_KERNEL, true, CLUSTER);
    freed += more;
    if (more === 0) break;
  }
  memallocNoreclaimRestore(cpu, saved);
  if (freed > 0) writeOnce(cpu, reclaimOf(cpu), Reclaim.failures, 0);
  else fetchAdd(cpu, reclaimOf(cpu), Reclaim.failures, 1);
}

// --- who allocates ---

const reclaimOps: ReclaimOps = defineKernelOps({
  opsName: 'reclaim',
  wakeKswapd(cpu: Cpu): void {
    const queue = member(reclaimOf(cpu), Reclaim.wait);
    if (!isHopeless(cpu) && waitqueueActive(cpu, queue)) wakeUp(cpu, queue);
  },
  directReclaim(cpu: Cpu, gfp: number): number {
    countReclaim(cpu, ReclaimStats.directReclaims);
    fsReclaimAcquire(cpu, gfp);
    const saved = memallocNoreclaimSave(cpu); // I1
    const freed = shrink(cpu, gfp, false, CLUSTER);
    memallocNoreclaimRestore(cpu, saved);
    fsReclaimRelease(cpu, gfp);
    if (freed > 0) writeOnce(cpu, reclaimOf(cpu), Reclaim.failures, 0); // I2
    return freed;
  },
  reclaimable(cpu: Cpu): number {
    const kinds = hasSwapRoom(cpu) ? [LRU_ANON, LRU_FILE] : [LRU_FILE];
    return kinds.reduce(
      (sum, kind) => sum + lruCount(cpu, kind) + lruCount(cpu, kind + LRU_ACTIVE),
      0,
    );
  },
});

/**
 * Frees frames because somebody says so, although memory is not short: how many, at most a few more than asked for. No
 * lock held. Sleeps. @kernel user_proactive_reclaim
 */
export function proactiveReclaim(cpu: Cpu, frames: number): number {
  mightAlloc(cpu, GFP_KERNEL); // what it may need is what an allocation may
  const saved = memallocNoreclaimSave(cpu);
  let freed = 0;
  while (freed < frames) {
    const more = shrink(cpu, GFP_KERNEL, false, Math.min(frames - freed, CLUSTER));
    freed += more;
    if (more === 0) break;
  }
  memallocNoreclaimRestore(cpu, saved);
  return freed;
}

// --- the lists ---

/** Frees so many frames, if it can: how many. @kernel shrink_node, do_try_to_free_pages */
function shrink(cpu: Cpu, gfp: number, isKswapd: boolean, wanted: number): number {
  const mayIo = (gfp & GFP_IO) !== 0;
  let freed = 0;
  for (let priority = PRIORITIES - 1; priority >= 0 && freed < wanted; priority--) {
    if (mayIo) freed += shrinkLists(cpu, LRU_ANON, priority, isKswapd);
    if (mayIo && (gfp & GFP_FS) !== 0) freed += shrinkLists(cpu, LRU_FILE, priority, isKswapd);
    if (isKswapd && isZoneBalanced(cpu)) break;
  }
  countReclaim(cpu, isKswapd ? ReclaimStats.kswapdStolen : ReclaimStats.directStolen, freed);
  return freed;
}

/** Goes over a share of both lists of a kind. @kernel shrink_lruvec */
function shrinkLists(cpu: Cpu, kind: number, priority: number, isKswapd: boolean): number {
  const active = lruCount(cpu, kind + LRU_ACTIVE);
  const inactive = lruCount(cpu, kind);
  if (inactive < active) deactivate(cpu, kind, Math.ceil(active / 2 ** priority));
  const count = Math.min(Math.ceil(lruCount(cpu, kind) / 2 ** priority), CLUSTER);
  let freed = 0;
  let scanned = 0;
  for (; scanned < count; scanned++) {
    condResched(cpu);
    const pfn = isolateOldest(cpu, kind);
    if (pfn === 0) break;
    if (pfn > 0 && shrinkPage(cpu, pfn)) freed++;
  }
  countReclaim(cpu, isKswapd ? ReclaimStats.kswapdScanned : ReclaimStats.directScanned, scanned);
  return freed;
}

/** Pages that have been active for long have to be used again to stay. @kernel shrink_active_list */
function deactivate(cpu: Cpu, kind: number, count: number): void {
  let done = 0;
  for (let i = 0; i < Math.min(count, CLUSTER); i++) {
    const pfn = isolateOldest(cpu, kind + LRU_ACTIVE);
    if (pfn === 0) break;
    if (pfn < 0) continue;
    const isLocked = pageHasFlag(cpu, pfn, PG_MLOCKED);
    if (!isLocked) pageReferenced(cpu, pfn);
    putBack(cpu, pfn, isLocked);
    done++;
  }
  countReclaim(cpu, ReclaimStats.deactivated, done);
}

/** Ends the isolation of a page that isolateOldest has taken. */
function putBack(cpu: Cpu, pfn: Pfn, isActive: boolean): void {
  const file = isolatedFile(cpu, pfn);
  putbackLru(cpu, pfn, isActive);
  putPage(cpu, pfn);
  if (file !== NULL) fput(cpu, file);
}

/** Frees an isolated page's frame, or puts it back on a list; true if it is free. @kernel shrink_folio_list */
function shrinkPage(cpu: Cpu, pfn: Pfn): boolean {
  if (!trylockPage(cpu, pageOf(cpu, pfn))) {
    putBack(cpu, pfn, true); // it is on its way, or becomes a device's
    return false;
  }
  const verdict = checkPage(cpu, pfn);
  const slot = verdict === PAGE_GOES ? slotForPage(cpu, pfn) : NO_SLOT;
  if (slot === NO_SLOT) {
    if (verdict === PAGE_ACTIVE) pageClearFlags(cpu, pfn, PG_REFERENCED);
    else pageSetFlags(cpu, pfn, PG_REFERENCED);
    if (verdict === PAGE_ACTIVE) countReclaim(cpu, ReclaimStats.activated);
    unlockPage(cpu, pageOf(cpu, pfn));
    putBack(cpu, pfn, verdict !== PAGE_SEEN);
    return false;
  }
  tryToUnmap(cpu, pfn, pageHasFlag(cpu, pfn, PG_ANON) ? slot : 0);
  finishPageout(cpu, pfn, slot);
  unlockPage(cpu, pageOf(cpu, pfn));
  const isOurs = isLastReference(cpu, pfn);
  putBack(cpu, pfn, true); // frees it, if nobody else refers to it
  return isOurs;
}

/** It stays: it has been used, or may not go. */
const PAGE_ACTIVE = 0;
/** A page of a file that has been used once. @kernel FOLIOREF_KEEP */
const PAGE_SEEN = 1;
/** @kernel FOLIOREF_RECLAIM */
const PAGE_GOES = 2;

/** @kernel folio_check_references */
function checkPage(cpu: Cpu, pfn: Pfn): number {
  if (pageHasFlag(cpu, pfn, PG_MLOCKED) || pageMaybePinned(cpu, pfn)) return PAGE_ACTIVE;
  const isAnon = pageHasFlag(cpu, pfn, PG_ANON);
  const isFreed = isAnon && pageHasFlag(cpu, pfn, PG_LAZYFREE);
  const uses = pageReferenced(cpu, pfn);
  if (uses > 0 && isAnon && !isFreed) return PAGE_ACTIVE;
  if (uses > 1 || (uses > 0 && pageHasFlag(cpu, pfn, PG_REFERENCED))) return PAGE_ACTIVE;
  if (uses > 0) return PAGE_SEEN;
  return isFreed || hasSwapRoom(cpu) || pageHasFlag(cpu, pfn, PG_SWAPCACHE) ? PAGE_GOES : PAGE_SEEN;
}

/** True if nobody but the caller has the page: it has left the address spaces, its slot's cache or its file. */
function isLastReference(cpu: Cpu, pfn: Pfn): boolean {
  const refs = readOnce(cpu, pageOf(cpu, pfn), Page.refcount);
  return refs === 1 && pageMapcount(cpu, pfn) === 0;
}
