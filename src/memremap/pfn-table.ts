/**
 * A word for each section of physical memory, found without a lock.
 *
 * Kernel     lib/radix-tree.c, lib/xarray.c, as mm/memremap.c used the one and uses the other
 * Protocol   Two levels. Readers are in an RCU read section and load two words. Who changes the table has
 *            its lock. A leaf with nothing left in it is unlinked, and freed after a grace period.
 *            The two ages of Linux differ in what a store does where something is already:
 *              insert (radix tree)  nothing is stored at all: -EEXIST
 *              store (xarray)       what was there is overwritten
 * Invariant  I1  A reader finds what was stored, or nothing: never a leaf that has been freed.
 * Ordering   Leaves and slots are published by releases; readers load them with readOnce.
 *
 * @module
 */
import { read, readOnce, storeRelease, write } from '#memory';

import { EEXIST, ENOMEM } from '../base/errno.js';
import type { Cpu } from '../machine/cpu.js';
import { lockClass } from '../machine/lock-class.js';
import type { Pfn } from '../machine/page-alloc.js';
import { kfree, kzalloc } from '../machine/slab.js';
import { element, type Field, member, NULL } from '../memory/layout.js';
import { initSpinlock, spinLock, spinUnlock } from '../sync/spinlock.js';
import { PFN_LEAF_SLOTS, PFN_ROOT_SLOTS, PfnLeaf, PfnTable, SECTION_PAGES } from './types.js';

const TABLE_LOCK = lockClass('pfn_table->lock');

/** Makes it empty: the memory is zeroed. */
export function initPfnTable(cpu: Cpu, table: PfnTable): void {
  initSpinlock(cpu, member(table, PfnTable.lock), TABLE_LOCK);
}

/** What is stored for the section of a frame; 0 if nothing is. In an RCU read section. @kernel xa_load */
export function pfnTableLoad(cpu: Cpu, table: PfnTable, pfn: Pfn): number {
  const section = sectionOf(pfn);
  const leaf = readOnce(cpu, table, rootSlot(section)) as PfnLeaf;
  return leaf === NULL ? 0 : readOnce(cpu, leaf, leafSlot(section)); // I1
}

/** Everything that is stored, a word for each section that has one; for reports, which others may outrun. */
export function pfnTableValues(cpu: Cpu, table: PfnTable): readonly number[] {
  const found: number[] = [];
  for (let root = 0; root < PFN_ROOT_SLOTS; root++) {
    const leaf = readOnce(cpu, table, element(PfnTable.root, root)) as PfnLeaf;
    if (leaf === NULL) continue;
    for (let slot = 0; slot < PFN_LEAF_SLOTS; slot++) {
      const value = readOnce(cpu, leaf, element(PfnLeaf.slots, slot));
      if (value !== 0) found.push(value);
    }
  }
  return found;
}

/** Stores a word for `count` sections, over what is there: 0 or -ENOMEM. May sleep. @kernel xa_store_range */
export function pfnTableStore(
  cpu: Cpu,
  table: PfnTable,
  first: Pfn,
  count: number,
  value: number,
): number {
  return putRange(cpu, table, first, count, value, true);
}

/** As pfnTableStore; -EEXIST, and nothing is stored, if any has something. May sleep. @kernel radix_tree_insert */
export function pfnTableInsert(
  cpu: Cpu,
  table: PfnTable,
  first: Pfn,
  count: number,
  value: number,
): number {
  return putRange(cpu, table, first, count, value, false);
}

/**
 * Takes out what is stored for `count` sections. Returns the leaves that are empty now, for freePfnLeaves
 * after a grace period.
 */
export function pfnTableErase(cpu: Cpu, table: PfnTable, first: Pfn, count: number): PfnLeaf {
  const start = sectionOf(first);
  let empty: PfnLeaf = NULL;
  spinLock(cpu, member(table, PfnTable.lock));
  for (let section = start; section < start + count; section++) {
    const leaf = read(cpu, table, rootSlot(section)) as PfnLeaf;
    if (leaf === NULL) continue;
    setSlot(cpu, leaf, section, 0);
    const isLast = section === start + count - 1 || section === nextLeafStart(section) - 1;
    if (!isLast || read(cpu, leaf, PfnLeaf.used) !== 0) continue;
    storeRelease(cpu, table, rootSlot(section), 0);
    write(cpu, leaf, PfnLeaf.nextFree, empty);
    empty = leaf;
  }
  spinUnlock(cpu, member(table, PfnTable.lock));
  return empty;
}

/** Frees leaves that no reader can be in any more. */
export function freePfnLeaves(cpu: Cpu, first: PfnLeaf): void {
  for (let leaf = first; leaf !== NULL;) {
    const next = read(cpu, leaf, PfnLeaf.nextFree);
    kfree(cpu, PfnLeaf, leaf);
    leaf = next;
  }
}

/** The section that a frame is in. */
function sectionOf(pfn: Pfn): number {
  return Math.floor(pfn / SECTION_PAGES);
}

/** All or nothing: leaves that are missing are made first, and then everything happens under the lock. */
function putRange(
  cpu: Cpu,
  table: PfnTable,
  first: Pfn,
  count: number,
  value: number,
  mayOverwrite: boolean,
): number {
  const start = sectionOf(first);
  const lock = member(table, PfnTable.lock);
  let spare: PfnLeaf = NULL;
  let error = 0;
  for (;;) {
    spinLock(cpu, lock);
    const isTaken = !mayOverwrite && hasAny(cpu, table, start, count);
    const isDone = !isTaken && hasEnough(cpu, table, start, count, spare);
    if (isDone) spare = fillRange(cpu, table, start, count, value, spare);
    spinUnlock(cpu, lock);
    if (isTaken) error = -EEXIST;
    if (isTaken || isDone) break;
    const leaf = kzalloc(cpu, PfnLeaf);
    if (leaf === NULL) error = -ENOMEM;
    if (leaf === NULL) break;
    write(cpu, leaf, PfnLeaf.nextFree, spare);
    spare = leaf;
  }
  freePfnLeaves(cpu, spare);
  return error;
}

/** True if there are as many spare leaves as are missing. PfnTable.lock must be held. */
function hasEnough(
  cpu: Cpu,
  table: PfnTable,
  start: number,
  count: number,
  spare: PfnLeaf,
): boolean {
  let left = spare;
  for (let section = start; section < start + count; section = nextLeafStart(section)) {
    if (read(cpu, table, rootSlot(section)) !== 0) continue;
    if (left === NULL) return false;
    left = read(cpu, left, PfnLeaf.nextFree);
  }
  return true;
}

/** Stores the word; returns the spare leaves that were not needed. PfnTable.lock must be held. */
function fillRange(
  cpu: Cpu,
  table: PfnTable,
  start: number,
  count: number,
  value: number,
  spare: PfnLeaf,
): PfnLeaf {
  let left = spare;
  for (let section = start; section < start + count; section++) {
    if (read(cpu, table, rootSlot(section)) === 0) {
      storeRelease(cpu, table, rootSlot(section), left);
      left = read(cpu, left, PfnLeaf.nextFree);
    }
    setSlot(cpu, read(cpu, table, rootSlot(section)) as PfnLeaf, section, value);
  }
  return left;
}

/** The first section of the next leaf. */
function nextLeafStart(section: number): number {
  return (Math.floor(section / PFN_LEAF_SLOTS) + 1) * PFN_LEAF_SLOTS;
}

/** PfnTable.lock must be held. */
function hasAny(cpu: Cpu, table: PfnTable, start: number, count: number): boolean {
  for (let section = start; section < start + count; section++) {
    const leaf = read(cpu, table, rootSlot(section)) as PfnLeaf;
    if (leaf !== NULL && read(cpu, leaf, leafSlot(section)) !== 0) return true;
  }
  return false;
}

/** PfnTable.lock must be held. */
function setSlot(cpu: Cpu, leaf: PfnLeaf, section: number, value: number): void {
  const before = read(cpu, leaf, leafSlot(section));
  const change = (value === 0 ? 0 : 1) - (before === 0 ? 0 : 1);
  write(cpu, leaf, PfnLeaf.used, read(cpu, leaf, PfnLeaf.used) + change);
  storeRelease(cpu, leaf, leafSlot(section), value); // pairs with pfnTableLoad
}

function rootSlot(section: number): Field<'pfn_table'> {
  return element(PfnTable.root, Math.floor(section / PFN_LEAF_SLOTS));
}

function leafSlot(section: number): Field<'pfn_leaf'> {
  return element(PfnLeaf.slots, section % PFN_LEAF_SLOTS);
}
