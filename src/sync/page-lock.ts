/**
 * The lock of a page: who has it may move the page elsewhere, or give it to a device alone.
 *
 * Kernel     mm/filemap.c (folio_lock, folio_wait_table, migration_entry_wait_on_locked)
 * Protocol   The word is 0, or the owner's area and WAITERS. Pages share a few wait queues, by their address: who waits
 *            is woken when any of them is unlocked, and looks again.
 *              lock     0 -> owner, or enqueue, set WAITERS, sleep
 *              unlock   -> 0; if WAITERS was set, wake all of the queue
 *            Where an entry says that its page is on its way, who needs the page waits for the lock without taking
 *            it, and without a reference, which would keep the page from moving: so the page may be gone when the wait
 *            ends, and nobody looks at it then. The lock of the entry's table keeps the page until the sleeper is in
 *            the queue.
 * Invariant  I1  A page has one owner at most, and that unlocks it.
 *            I2  No wake-up is lost: the sleeper is in the queue before it sets WAITERS, with one atomic operation that
 *                also tells whether the page is still locked.
 * Ordering   Taking acquires, giving back releases: read-modify-writes of the word.
 * Deviation  The word lies where a page table has its spinlock, and not in the page's flags, so that it has room for the
 *            owner: reports can say for whom somebody waits. Linux lets another task unlock.
 *
 * Inside of the mmap lock, outside of the locks of reverse maps and page tables.
 *
 * @module
 */
import { cmpxchg, exchange, read, readOnce, write } from '#memory';

import { bug } from '../base/bug.js';
import type { Cpu } from '../machine/cpu.js';
import { lockClass } from '../machine/lock-class.js';
import { mightSleep, schedule, TASK_UNINTERRUPTIBLE } from '../machine/sched.js';
import { kzalloc } from '../machine/slab.js';
import { MACHINE, Machine, Page, Spinlock } from '../machine/types.js';
import { WAIT_PAGE_LOCK } from '../machine/wait-kind.js';
import { member, NULL, struct, words } from '../memory/layout.js';
import { spinUnlock } from './spinlock.js';
import {
  finishWait,
  initWait,
  initWaitQueue,
  prepareToWait,
  WaitQueue,
  wakeUpAll,
} from './wait-queue.js';

const WAITERS = 1;
/** Queues that all pages share. */
const QUEUES = 16;
const PageWaits = struct('page_waits', { queues: words(QUEUES * WaitQueue.words) });
const PAGE_WAIT = lockClass('folio_wait_table');

/** Makes the wait queues, unless they are there. On the boot CPU of a machine with memory. */
export function bootPageWaits(cpu: Cpu): void {
  if (read(cpu, MACHINE, Machine.pageWaits) !== 0) return;
  const table = kzalloc(cpu, PageWaits);
  if (table === NULL) bug('there is no memory for wait queues of pages');
  for (let i = 0; i < QUEUES; i++) {
    initWaitQueue(cpu, (table + i * WaitQueue.words) as WaitQueue, PAGE_WAIT);
  }
  write(cpu, MACHINE, Machine.pageWaits, table);
}

function queueOf(cpu: Cpu, page: Page): WaitQueue {
  const index = ((page / Page.words) % QUEUES) | 0;
  return (read(cpu, MACHINE, Machine.pageWaits) + index * WaitQueue.words) as WaitQueue;
}

/** Where the lock's word is. */
function lockOf(page: Page): Spinlock {
  return member(page, Page.ptl);
}

/** Locks the page if nobody has; true if so. The caller has a reference. @kernel folio_trylock */
export function trylockPage(cpu: Cpu, page: Page): boolean {
  return cmpxchg(cpu, lockOf(page), Spinlock.value, 0, cpu.area) === 0; // pairs with unlockPage
}

/** Locks the page, to which the caller has a reference. No spinlock held. Sleeps. @kernel folio_lock */
export function lockPage(cpu: Cpu, page: Page): void {
  mightSleep(cpu);
  while (!trylockPage(cpu, page)) awaitUnlock(cpu, page);
}

/** Sleeps until the page may have been unlocked. @kernel folio_wait_bit_common */
function awaitUnlock(cpu: Cpu, page: Page): void {
  const queue = queueOf(cpu, page);
  const wait = initWait(cpu, WAIT_PAGE_LOCK, page);
  prepareToWait(cpu, queue, wait, TASK_UNINTERRUPTIBLE);
  if (noteWaiter(cpu, page)) schedule(cpu);
  finishWait(cpu, queue, wait);
}

/**
 * Sleeps until the page may have been unlocked; it need not be there any more then. The spinlock, which the caller holds
 * and which keeps the page until here, is given back. Sleeps. @kernel migration_entry_wait_on_locked
 */
export function awaitUnlockWithoutReference(cpu: Cpu, page: Page, held: Spinlock): void {
  const queue = queueOf(cpu, page);
  const wait = initWait(cpu, WAIT_PAGE_LOCK, page);
  prepareToWait(cpu, queue, wait, TASK_UNINTERRUPTIBLE);
  const sleeps = noteWaiter(cpu, page);
  spinUnlock(cpu, held);
  if (sleeps) schedule(cpu);
  finishWait(cpu, queue, wait);
}

/** Says that somebody waits, if the page is locked; false if it is not (I2). */
function noteWaiter(cpu: Cpu, page: Page): boolean {
  const lock = lockOf(page);
  for (;;) {
    const seen = readOnce(cpu, lock, Spinlock.value);
    if (seen === 0) return false;
    if ((seen & WAITERS) !== 0) {
      // somebody has said so already; it is still true, or the waker finds us in the queue
      if (cmpxchg(cpu, lock, Spinlock.value, seen, seen) === seen) return true;
    } else if (cmpxchg(cpu, lock, Spinlock.value, seen, seen | WAITERS) === seen) return true;
  }
}

/** Gives the lock back (I1). @kernel folio_unlock */
export function unlockPage(cpu: Cpu, page: Page): void {
  const before = exchange(cpu, lockOf(page), Spinlock.value, 0);
  if ((before & ~WAITERS) !== cpu.area)
    bug(`page ${page} is unlocked by who has not locked it (INV-25)`);
  if ((before & WAITERS) !== 0) wakeUpAll(cpu, queueOf(cpu, page));
}

/** True if somebody has locked the page. @kernel folio_test_locked */
export function pageIsLocked(cpu: Cpu, page: Page): boolean {
  return readOnce(cpu, lockOf(page), Spinlock.value) !== 0;
}

/** True if this CPU has. */
export function pageIsLockedByUs(cpu: Cpu, page: Page): boolean {
  return (readOnce(cpu, lockOf(page), Spinlock.value) & ~WAITERS) === cpu.area;
}
