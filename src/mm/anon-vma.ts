/**
 * Whose anonymous pages are whose: from a page to the VMAs that may map it.
 *
 * Kernel     mm/rmap.c (anon_vma_prepare, anon_vma_fork, anon_vma_clone, unlink_anon_vmas)
 * Protocol   The first page of a VMA gives it an AnonVma, which every page that is made in it names. A fork gives the
 *            child's VMA one of its own, whose parent is that of the VMA it was copied from: pages from before the fork
 *            name the parent's. So a page can be mapped by the VMAs of the AnonVma that it names and of those that
 *            descend from it. They form a family, with one lock and one list of VMAs, both in its root.
 * Invariant  I1  What maps an anonymous page, or has an entry in its place that stands for it (in the swap area, on its
 *                way elsewhere), is a VMA that descends from the AnonVma the page names. So that stays as long as one
 *                such entry does, for a VMA holds a reference to its own, and each holds one to its parent.
 *            I2  A VMA is on the list from before its first page until just before its page tables go.
 *            I3  Borders of VMAs on the list, and entries that move between them, change under the lock for writing.
 *            I4  What a page names, and its index, are said once, before an entry maps it for the first time: by who alone
 *                knows the page, or has locked it. Only one that is somebody's alone names another AnonVma later, under
 *                the page's lock; its index stays. So who walks reads an index that does not change.
 * Ordering   mmap lock > vmasLock of a file > lock of a family > page table locks. Who has no VMA of the family takes
 *            its reference under anonVmaLock (pinAnonVma), under which the last one is given back.
 * Deviation  Linux has a tree of VMAs for each anon_vma, in each of which a VMA has a link: here is one list, and a look
 *            at who descends from whom. It also lets a child take over the anon_vma of a parent that has ended.
 *
 * @module
 */
import { fetchAdd, read, readAddress, readOnce, storeRelease, write, writeOnce } from '#memory';

import { bug } from '../base/bug.js';
import { PAGE_SIZE } from '../base/units.js';
import type { Cpu } from '../machine/cpu.js';
import { lockClass } from '../machine/lock-class.js';
import { pageOf, type Pfn, PG_ANON } from '../machine/page-alloc.js';
import { kfree, kzalloc } from '../machine/slab.js';
import { MACHINE, Machine, Page } from '../machine/types.js';
import { containerOf, member, NULL, type Va } from '../memory/layout.js';
import { initListHead, listAddTail, listDelInit, listEmpty, listNext } from '../memory/list.js';
import { downRead, downWrite, initRwsem, upRead, upWrite } from '../sync/rwsem.js';
import { initSpinlock, spinLock, spinUnlock } from '../sync/spinlock.js';
import { pageHasFlag, pageMapcount, setPageMapping } from './page.js';
import { AnonVma, MmStruct, VmAreaStruct } from './types.js';

const ANON_VMA_LOCK = lockClass('anon_vma->rwsem');
const FREE_LOCK = lockClass('anon_vma->free');
const FREEING = member(MACHINE, Machine.anonVmaLock);

/** What this layer has one of in a machine. On the boot CPU. */
export function bootAnonVmas(cpu: Cpu): void {
  initSpinlock(cpu, FREEING, FREE_LOCK);
}

// --- references ---

/** One that nobody knows, with one reference: a child of another, or (NULL) the root of a family. NULL if memory is out. */
function newAnonVma(cpu: Cpu, parent: AnonVma): AnonVma {
  const anonVma = kzalloc(cpu, AnonVma);
  if (anonVma === NULL) return NULL;
  const root = parent === NULL ? anonVma : read(cpu, parent, AnonVma.root);
  write(cpu, anonVma, AnonVma.root, root);
  write(cpu, anonVma, AnonVma.parent, parent);
  write(cpu, anonVma, AnonVma.refs, 1);
  if (parent !== NULL) getAnonVma(cpu, parent);
  initRwsem(cpu, member(anonVma, AnonVma.rwsem), ANON_VMA_LOCK);
  initListHead(cpu, member(anonVma, AnonVma.vmas));
  return anonVma;
}

/** Takes a reference; the caller has one. @kernel get_anon_vma */
export function getAnonVma(cpu: Cpu, anonVma: AnonVma): void {
  if (fetchAdd(cpu, anonVma, AnonVma.refs, 1) <= 0) bug(`anon_vma ${anonVma} is free and is used`);
}

/** Gives a reference back; the last frees it, and perhaps its parents. @kernel put_anon_vma */
export function putAnonVma(cpu: Cpu, last: AnonVma): void {
  for (let anonVma = last; anonVma !== NULL;) {
    spinLock(cpu, FREEING); // pairs with pinAnonVma
    const before = fetchAdd(cpu, anonVma, AnonVma.refs, -1);
    const parent = read(cpu, anonVma, AnonVma.parent);
    if (before === 1) kfree(cpu, AnonVma, anonVma);
    spinUnlock(cpu, FREEING);
    if (before <= 0) bug(`anon_vma ${anonVma}: reference underflow`);
    if (before !== 1) return;
    anonVma = parent;
  }
}

/**
 * The AnonVma that a mapped page names, with a reference: NULL if nothing maps the page any more. For who has no VMA of
 * the family. The caller has a reference to the page. @kernel folio_get_anon_vma
 */
export function pinAnonVma(cpu: Cpu, pfn: Pfn): AnonVma {
  spinLock(cpu, FREEING);
  let named: AnonVma = NULL;
  if (pageMapcount(cpu, pfn) > 0) {
    // I1: what it named when it was mapped is there, and goes under the lock only; so is what it names since
    named = readOnce(cpu, pageOf(cpu, pfn), Page.mapping) as AnonVma;
  }
  if (named !== NULL) fetchAdd(cpu, named, AnonVma.refs, 1);
  spinUnlock(cpu, FREEING);
  return named;
}

// --- VMAs ---

/**
 * Gives a VMA the AnonVma that its pages will name, if it has none: that of a neighbour with which it could merge
 * (`shared`, or NULL), or a new one; false if memory is out. The mmap lock must be held, for reading at least. Sleeps.
 * @kernel __anon_vma_prepare
 */
export function setAnonVma(cpu: Cpu, vma: VmAreaStruct, shared: AnonVma): boolean {
  const anonVma = shared === NULL ? newAnonVma(cpu, NULL) : shared;
  if (anonVma === NULL) return false;
  if (shared !== NULL) getAnonVma(cpu, shared);
  const mm = read(cpu, vma, VmAreaStruct.mm);
  lockFamily(cpu, anonVma);
  spinLock(cpu, member(mm, MmStruct.pageTableLock));
  const isFirst = readOnce(cpu, vma, VmAreaStruct.anonVma) === NULL;
  if (isFirst) {
    storeRelease(cpu, vma, VmAreaStruct.anonVma, anonVma); // pairs with anonVmaPrepare
    linkLocked(cpu, vma, anonVma);
  }
  spinUnlock(cpu, member(mm, MmStruct.pageTableLock));
  unlockFamily(cpu, anonVma);
  if (!isFirst) putAnonVma(cpu, anonVma); // another fault was faster
  return true;
}

/** Gives the copy of a VMA in a child its AnonVma; false if memory is out. Sleeps. @kernel anon_vma_fork */
export function forkAnonVma(cpu: Cpu, child: VmAreaStruct, parent: VmAreaStruct): boolean {
  const anonVma = newAnonVma(cpu, read(cpu, parent, VmAreaStruct.anonVma));
  if (anonVma === NULL) return false;
  write(cpu, child, VmAreaStruct.anonVma, anonVma);
  linkAnonVma(cpu, child);
  return true;
}

/** Puts a VMA that has an AnonVma on the list of the family, if it is not. Sleeps. */
export function linkAnonVma(cpu: Cpu, vma: VmAreaStruct): void {
  const anonVma = read(cpu, vma, VmAreaStruct.anonVma);
  if (anonVma === NULL) return;
  lockFamily(cpu, anonVma);
  linkAnonVmaLocked(cpu, vma);
  unlockFamily(cpu, anonVma);
}

/** As above, with the lock of the family, if the VMA has one. */
export function linkAnonVmaLocked(cpu: Cpu, vma: VmAreaStruct): void {
  const anonVma = read(cpu, vma, VmAreaStruct.anonVma);
  if (anonVma !== NULL && listEmpty(cpu, member(vma, VmAreaStruct.anonShared))) {
    linkLocked(cpu, vma, anonVma);
  }
}

function linkLocked(cpu: Cpu, vma: VmAreaStruct, anonVma: AnonVma): void {
  const root = read(cpu, anonVma, AnonVma.root);
  listAddTail(cpu, member(vma, VmAreaStruct.anonShared), member(root, AnonVma.vmas));
}

/** The VMA begins or ends elsewhere: it counts as the youngest. The lock of the family is held. @kernel anon_vma_interval_tree_post_update_vma */
export function renewAnonVmaLocked(cpu: Cpu, vma: VmAreaStruct): void {
  if (listEmpty(cpu, member(vma, VmAreaStruct.anonShared))) return;
  unlinkAnonVmaLocked(cpu, vma);
  linkAnonVmaLocked(cpu, vma);
}

/** Takes a VMA off the list; it keeps its reference until it is freed. Sleeps. @kernel unlink_anon_vmas */
export function unlinkAnonVma(cpu: Cpu, vma: VmAreaStruct): void {
  const anonVma = read(cpu, vma, VmAreaStruct.anonVma);
  if (anonVma === NULL) return;
  lockFamily(cpu, anonVma);
  unlinkAnonVmaLocked(cpu, vma);
  unlockFamily(cpu, anonVma);
}

/** As above, with the lock of the family, if the VMA has one. */
export function unlinkAnonVmaLocked(cpu: Cpu, vma: VmAreaStruct): void {
  listDelInit(cpu, member(vma, VmAreaStruct.anonShared));
}

/** A VMA has no anonymous pages any more, and begins anew. Sleeps. */
export function dropAnonVma(cpu: Cpu, vma: VmAreaStruct): void {
  const anonVma = read(cpu, vma, VmAreaStruct.anonVma);
  if (anonVma === NULL) return;
  unlinkAnonVma(cpu, vma);
  write(cpu, vma, VmAreaStruct.anonVma, NULL);
  putAnonVma(cpu, anonVma);
}

/** Takes the lock of a family for writing; NULL is allowed. Sleeps. @kernel anon_vma_lock_write */
export function lockFamily(cpu: Cpu, anonVma: AnonVma): void {
  if (anonVma !== NULL) downWrite(cpu, member(read(cpu, anonVma, AnonVma.root), AnonVma.rwsem));
}

/** Gives it back. @kernel anon_vma_unlock_write */
export function unlockFamily(cpu: Cpu, anonVma: AnonVma): void {
  if (anonVma !== NULL) upWrite(cpu, member(read(cpu, anonVma, AnonVma.root), AnonVma.rwsem));
}

// --- pages ---

/** The AnonVma that an anonymous page names; NULL for one that was never mapped, or is a file's. */
export function pageAnonVma(cpu: Cpu, pfn: Pfn): AnonVma {
  if (!pageHasFlag(cpu, pfn, PG_ANON)) return NULL;
  return readOnce(cpu, pageOf(cpu, pfn), Page.mapping) as AnonVma;
}

/**
 * Says which AnonVma a new page of a VMA names, and where in it the page belongs; one that others have too names the
 * root, from which they all descend. Before an entry maps it. @kernel __folio_set_anon
 */
export function setAnonRmap(
  cpu: Cpu,
  pfn: Pfn,
  vma: VmAreaStruct,
  va: Va,
  isExclusive = true,
): void {
  const anonVma = readOnce(cpu, vma, VmAreaStruct.anonVma);
  if (anonVma === NULL) bug('an anonymous page is made in a VMA that has no anon_vma');
  const named = isExclusive ? anonVma : read(cpu, anonVma, AnonVma.root);
  setPageMapping(cpu, pfn, named, anonIndex(cpu, vma, va));
}

function anonIndex(cpu: Cpu, vma: VmAreaStruct, va: Va): number {
  const distance = (va - readAddress(cpu, vma, VmAreaStruct.start)) / PAGE_SIZE;
  return readAddress(cpu, vma, VmAreaStruct.pgoff) + distance;
}

/** The page is this VMA's alone from now on: no other's AnonVma is to be looked at for it. @kernel folio_move_anon_rmap */
export function moveAnonRmap(cpu: Cpu, pfn: Pfn, vma: VmAreaStruct): void {
  const anonVma = readOnce(cpu, vma, VmAreaStruct.anonVma);
  if (anonVma !== NULL) writeOnce(cpu, pageOf(cpu, pfn), Page.mapping, anonVma);
}

/** Where the VMA would have the page with that index; -1 if nowhere. @kernel vma_address */
export function vmaAddress(cpu: Cpu, vma: VmAreaStruct, index: number): Va {
  const start = readAddress(cpu, vma, VmAreaStruct.start);
  const va = start + (index - readAddress(cpu, vma, VmAreaStruct.pgoff)) * PAGE_SIZE;
  return va >= start && va < readAddress(cpu, vma, VmAreaStruct.end) ? va : -1;
}

/**
 * The VMAs in which a page that names this AnonVma can be, by where they begin, then by age. The lock of the family must
 * be held. @kernel anon_vma_interval_tree_foreach
 */
export function vmasOfFamily(cpu: Cpu, anonVma: AnonVma, index: number): VmAreaStruct[] {
  const found: { vma: VmAreaStruct; pgoff: number }[] = [];
  const head = member(read(cpu, anonVma, AnonVma.root), AnonVma.vmas);
  for (let item = listNext(cpu, head); item !== head; item = listNext(cpu, item)) {
    const vma: VmAreaStruct = containerOf(item, VmAreaStruct.anonShared);
    if (vmaAddress(cpu, vma, index) < 0) continue;
    if (!descendsFrom(cpu, read(cpu, vma, VmAreaStruct.anonVma), anonVma)) continue;
    found.push({ vma, pgoff: readAddress(cpu, vma, VmAreaStruct.pgoff) });
  }
  found.sort((one, other) => one.pgoff - other.pgoff);
  return found.map(({ vma }) => vma);
}

function descendsFrom(cpu: Cpu, from: AnonVma, ancestor: AnonVma): boolean {
  for (let at = from; at !== NULL; at = read(cpu, at, AnonVma.parent)) {
    if (at === ancestor) return true;
  }
  return false;
}

/** Keeps the VMAs of a family where they are. Sleeps. @kernel anon_vma_lock_read */
export function lockFamilyShared(cpu: Cpu, anonVma: AnonVma): void {
  downRead(cpu, member(read(cpu, anonVma, AnonVma.root), AnonVma.rwsem));
}

/** @kernel anon_vma_unlock_read */
export function unlockFamilyShared(cpu: Cpu, anonVma: AnonVma): void {
  upRead(cpu, member(read(cpu, anonVma, AnonVma.root), AnonVma.rwsem));
}
