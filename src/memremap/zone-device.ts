/**
 * References to the pages of devices.
 *
 * Kernel     mm/memremap.c (free_zone_device_folio, zone_device_page_init)
 * Protocol   idle at 0: private and coherent memory (PGMAP_INTERNAL), all of PGMAP_HMM_DEVMEM. zoneDevicePageInit
 *            hands a page out with one reference, and takes one of its page map along; the put to 0 tells the
 *            owner, and gives that back.
 *            idle at 1: everything else; the page map's count has a reference for each page from the beginning.
 *              PGMAP_INTERNAL  FS_DAX: a put that leaves 1 wakes who waits for that
 *                              GENERIC, PCI_P2PDMA: the put to 0 tells the owner, and makes it 1 again
 *              older forms     a put that leaves 1 tells the owner; the put to 0, which comes with the end of
 *                              the page map, gives the page's reference back
 *            A page that is handed out is locked: whoever has asked for it fills it, and unlocks it when it is where
 *            it belongs.
 * Invariant  I1  A page is handed out only while nobody refers to it (INV-28), and is not locked when it is free.
 *            I2  Struct pages are there as long as somebody has a reference that came from here (INV-30).
 *            I3  What a page held is gone when it is free, and its generation has moved on: who uses an entry that has
 *                outlived it is found out.
 * Ordering   Page.refcount is atomic, and so fully ordered.
 *
 * @module
 */
import { fetchAdd, fetchAnd, fillWords, read, readOnce, write, writeOnce } from '#memory';

import { bug } from '../base/bug.js';
import { PAGE_WORDS } from '../base/units.js';
import { explainWait } from '../debug/wait-graph.js';
import { percpuRefTrygetLive } from '../deferred/percpu-refcount.js';
import type { Cpu } from '../machine/cpu.js';
import {
  frameOf,
  pfnOf,
  PG_DEVICE_COHERENT,
  PG_DEVICE_PRIVATE,
  POISON,
} from '../machine/page-alloc.js';
import { schedule, TASK_UNINTERRUPTIBLE } from '../machine/sched.js';
import { Page } from '../machine/types.js';
import { WAIT_PAGE } from '../machine/wait-kind.js';
import { warn } from '../machine/warn.js';
import { member } from '../memory/layout.js';
import { pageIsLocked, trylockPage } from '../sync/page-lock.js';
import { finishWait, initWait, prepareToWait, wakeUpAll } from '../sync/wait-queue.js';
import { memremapCore } from './core.js';
import { assertPresent } from './hotplug.js';
import {
  isHandedOut,
  MEMORY_DEVICE_FS_DAX,
  PGMAP_INTERNAL,
  pgmapOps,
  pgmapRef,
  putDevPagemap,
} from './pagemap.js';
import { DevicePage, DevPagemap, MemremapCore } from './types.js';

// what a put does when it leaves few references
const PUT_HANDED_OUT = 0;
const PUT_OLD = 1;
const PUT_DAX = 2;
const PUT_IDLING = 3;

/** The page map of a device's page. @kernel page_pgmap */
export function pagePgmap(cpu: Cpu, page: Page): DevPagemap {
  assertPresent(cpu, page);
  return read(cpu, page, DevicePage.pgmap) as DevPagemap;
}

/** Hands out a page that nobody uses, with one reference, and locked. @kernel zone_device_page_init */
export function zoneDevicePageInit(cpu: Cpu, page: Page): void {
  const pgmap = pagePgmap(cpu, page);
  if (!percpuRefTrygetLive(cpu, pgmapRef(cpu, pgmap))) {
    warn(cpu, `a page of page map ${pgmap} is handed out, which is dying`);
  }
  const refs = readOnce(cpu, page, Page.refcount);
  if (refs !== 0) bug(`INV-28: a page with ${refs} references is handed out`);
  writeOnce(cpu, page, Page.refcount, 1);
  if (!trylockPage(cpu, page)) bug('INV-28: a page that is handed out is locked');
}

/** Takes a reference; the caller has one, or one to the page map. @kernel get_page */
export function getDevicePage(cpu: Cpu, page: Page): void {
  assertPresent(cpu, page);
  const before = fetchAdd(cpu, page, Page.refcount, 1);
  if (before <= 0) bug(`a reference was taken to device page ${page}, which is free`);
}

/** Gives a reference back; the last one that a user has tells the owner. @kernel put_page */
export function putDevicePage(cpu: Cpu, page: Page): void {
  const pgmap = pagePgmap(cpu, page);
  const kind = putKind(cpu, pgmap); // before: without the reference the page map may go
  const left = fetchAdd(cpu, page, Page.refcount, -1) - 1;
  if (left < 0) bug(`device page ${page}: refcount underflow`);
  if (kind === PUT_HANDED_OUT) putHandedOut(cpu, pgmap, page, left);
  else if (kind === PUT_OLD) putOld(cpu, pgmap, page, left);
  else if (kind === PUT_DAX) putDax(cpu, left);
  else putIdling(cpu, pgmap, page, left);
}

function putKind(cpu: Cpu, pgmap: DevPagemap): number {
  if (isHandedOut(cpu, pgmap)) return PUT_HANDED_OUT;
  if (read(cpu, pgmap, DevPagemap.form) !== PGMAP_INTERNAL) return PUT_OLD;
  return read(cpu, pgmap, DevPagemap.type) === MEMORY_DEVICE_FS_DAX ? PUT_DAX : PUT_IDLING;
}

/** Private and coherent memory. @kernel free_zone_device_folio */
function putHandedOut(cpu: Cpu, pgmap: DevPagemap, page: Page, left: number): void {
  if (left !== 0) return;
  if (pageIsLocked(cpu, page))
    bug(`INV-25: device page ${page} is free, and nobody has unlocked it`);
  forget(cpu, page);
  tellOwner(cpu, pgmap, page);
  putDevPagemap(cpu, pgmap);
}

/** Nobody refers to a page any more, whose last reference the caller has put. @kernel free_zone_device_folio */
export function freeZoneDevicePage(cpu: Cpu, page: Page): void {
  putHandedOut(cpu, pagePgmap(cpu, page), page, 0);
}

/** I3 */
function forget(cpu: Cpu, page: Page): void {
  fetchAdd(cpu, page, Page.generation, 1);
  fetchAnd(cpu, page, Page.flags, PG_DEVICE_PRIVATE | PG_DEVICE_COHERENT);
  if (page < cpu.frames) fillWords(cpu, frameOf(cpu, pfnOf(cpu, page)), POISON, PAGE_WORDS);
}

/** What goes back to where it was given out from, with the reference that it idles with. */
function putIdling(cpu: Cpu, pgmap: DevPagemap, page: Page, left: number): void {
  if (left !== 0) return;
  tellOwner(cpu, pgmap, page);
  writeOnce(cpu, page, Page.refcount, 1);
}

/** @kernel __put_devmap_managed_page */
function putOld(cpu: Cpu, pgmap: DevPagemap, page: Page, left: number): void {
  if (left === 1) tellOwner(cpu, pgmap, page);
  else if (left === 0) putDevPagemap(cpu, pgmap);
}

function tellOwner(cpu: Cpu, pgmap: DevPagemap, page: Page): void {
  write(cpu, page, Page.mapping, 0);
  const ops = pgmapOps(cpu, pgmap);
  if (ops?.pageFree !== undefined) ops.pageFree(cpu, page);
}

/** The queue is the machine's: the page map belongs to whoever waits. @kernel wake_up_var */
function putDax(cpu: Cpu, left: number): void {
  if (left === 1) wakeUpAll(cpu, member(memremapCore(cpu), MemremapCore.idle));
}

/** Waits until nobody uses a page of FS_DAX memory; the caller has seen to it that nobody begins to. Sleeps. */
export function waitForIdleDaxPage(cpu: Cpu, page: Page): void {
  const queue = member(memremapCore(cpu), MemremapCore.idle);
  const wait = initWait(cpu, WAIT_PAGE, page);
  for (;;) {
    prepareToWait(cpu, queue, wait, TASK_UNINTERRUPTIBLE);
    if (readOnce(cpu, page, Page.refcount) === 1) break; // pairs with putDax
    schedule(cpu);
  }
  finishWait(cpu, queue, wait);
}

explainWait(WAIT_PAGE, (cpu, page) => {
  return `: ${readOnce(cpu, page as Page, Page.refcount) - 1} references left`;
});
