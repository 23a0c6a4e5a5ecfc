/**
 * VMAs: making, splitting and merging them.
 *
 * Kernel     mm/vma.c, mm/mmap.c
 * Protocol   A change of the flags of [start, end) is vmaModify: it merges with a neighbour that is alike
 *            or splits the VMA at the borders, and returns the VMA that is exactly the changed part.
 * Invariant  I1  VMAs do not overlap, and the tree is in order, whenever the mmap lock is given back.
 *            I2  A failed call (-ENOMEM) leaves a set of VMAs that maps what was mapped before.
 * Ordering   Everything here needs the mmap lock for writing.
 * Deviation  None that can be seen: where a VMA's border moves into 2 MiB that might be a huge page, Linux tells the
 *            notifiers CLEAR for the block, huge page or not; so does adjustTransHuge.
 *
 * @module
 */
import { read, readAddress, readOnce, write, writeAddress } from '#memory';

import { ENOMEM } from '../base/errno.js';
import { PAGE_SIZE } from '../base/units.js';
import type { Cpu } from '../machine/cpu.js';
import { kfree, kzalloc } from '../machine/slab.js';
import { member, NULL, type Va } from '../memory/layout.js';
import { initListHead } from '../memory/list.js';
import { downWrite, upWrite } from '../sync/rwsem.js';
import {
  getAnonVma,
  linkAnonVma,
  linkAnonVmaLocked,
  lockFamily,
  putAnonVma,
  renewAnonVmaLocked,
  setAnonVma,
  unlinkAnonVma,
  unlinkAnonVmaLocked,
  unlockFamily,
} from './anon-vma.js';
import {
  fput,
  getFile,
  linkFileVma,
  linkFileVmaLocked,
  unlinkFileVma,
  unlinkFileVmaLocked,
} from './file.js';
import { splitHugePmd } from './huge.js';
import { hasPmdTable, PMD_SIZE } from './page-table.js';
import {
  AnonVma,
  File,
  MmStruct,
  VM_ACCESS_FLAGS,
  VM_SOFTDIRTY,
  VmAreaStruct,
  VmaTree,
} from './types.js';
import { vmaTreeErase, vmaTreeFind, vmaTreeInsert, vmaTreeResize } from './vma-tree.js';

/** VMAs one address space may have. @kernel sysctl_max_map_count */
export const MAX_MAP_COUNT = 65530;

/** What a mapping is, apart from where. */
export interface VmaKind {
  readonly flags: number;
  readonly file: File;
  readonly pgoff: number;
  readonly anonVma: AnonVma;
}

/** The first VMA that ends above `va`; NULL if none does. @kernel find_vma */
export function findVma(cpu: Cpu, mm: MmStruct, va: Va): VmAreaStruct {
  return vmaTreeFind(cpu, member(mm, MmStruct.vmas), va);
}

/** The VMA that `va` is in, or NULL. @kernel vma_lookup */
export function vmaLookup(cpu: Cpu, mm: MmStruct, va: Va): VmAreaStruct {
  const vma = findVma(cpu, mm, va);
  return vma !== NULL && vmaStart(cpu, vma) <= va ? vma : NULL;
}

/** The first VMA that intersects [start, end), or NULL. @kernel find_vma_intersection */
export function findVmaIntersection(cpu: Cpu, mm: MmStruct, start: Va, end: Va): VmAreaStruct {
  const vma = findVma(cpu, mm, start);
  return vma !== NULL && vmaStart(cpu, vma) < end ? vma : NULL;
}

export function vmaStart(cpu: Cpu, vma: VmAreaStruct): Va {
  return readAddress(cpu, vma, VmAreaStruct.start);
}

export function vmaEnd(cpu: Cpu, vma: VmAreaStruct): Va {
  return readAddress(cpu, vma, VmAreaStruct.end);
}

export function vmaFlags(cpu: Cpu, vma: VmAreaStruct): number {
  return read(cpu, vma, VmAreaStruct.flags);
}

/** Pages of [start, end). */
export function pagesIn(start: Va, end: Va): number {
  return (end - start) / PAGE_SIZE;
}

/** How many VMAs the address space has. @kernel mm->map_count */
export function mapCount(cpu: Cpu, mm: MmStruct): number {
  return read(cpu, member(mm, MmStruct.vmas), VmaTree.count);
}

/** What a VMA is, for comparison with others. */
export function vmaKind(cpu: Cpu, vma: VmAreaStruct): VmaKind {
  return {
    flags: read(cpu, vma, VmAreaStruct.flags),
    file: read(cpu, vma, VmAreaStruct.file),
    pgoff: readAddress(cpu, vma, VmAreaStruct.pgoff),
    anonVma: readOnce(cpu, vma, VmAreaStruct.anonVma), // pairs with setAnonVma
  };
}

/** A VMA that is in no tree yet, with a reference to its file; NULL if memory is out. @kernel vm_area_alloc */
export function vmaAlloc(cpu: Cpu, mm: MmStruct, start: Va, end: Va, kind: VmaKind): VmAreaStruct {
  const vma = kzalloc(cpu, VmAreaStruct);
  if (vma === NULL) return NULL;
  writeAddress(cpu, vma, VmAreaStruct.start, start);
  writeAddress(cpu, vma, VmAreaStruct.end, end);
  writeAddress(cpu, vma, VmAreaStruct.pgoff, kind.pgoff);
  write(cpu, vma, VmAreaStruct.mm, mm);
  write(cpu, vma, VmAreaStruct.flags, kind.flags);
  write(cpu, vma, VmAreaStruct.file, kind.file);
  write(cpu, vma, VmAreaStruct.anonVma, kind.anonVma);
  initListHead(cpu, member(vma, VmAreaStruct.shared));
  initListHead(cpu, member(vma, VmAreaStruct.anonShared));
  if (kind.anonVma !== NULL) getAnonVma(cpu, kind.anonVma);
  if (kind.file !== NULL) getFile(cpu, kind.file);
  return vma;
}

/** Frees a VMA that is in no tree, and its references. @kernel remove_vma */
export function vmaFree(cpu: Cpu, vma: VmAreaStruct): void {
  const file = read(cpu, vma, VmAreaStruct.file);
  if (file !== NULL) fput(cpu, file);
  const anonVma = read(cpu, vma, VmAreaStruct.anonVma);
  if (anonVma !== NULL) putAnonVma(cpu, anonVma);
  kfree(cpu, VmAreaStruct, vma);
}

/** Puts a VMA into its address space; 0 or -ENOMEM. @kernel vma_link */
export function vmaLink(cpu: Cpu, mm: MmStruct, vma: VmAreaStruct): number {
  const error = vmaTreeInsert(cpu, member(mm, MmStruct.vmas), vma);
  if (error !== 0) return error;
  linkFileVma(cpu, vma);
  linkAnonVma(cpu, vma);
  return 0;
}

/** Takes a VMA out of its address space. */
export function vmaUnlink(cpu: Cpu, mm: MmStruct, vma: VmAreaStruct): void {
  unlinkFileVma(cpu, vma);
  unlinkAnonVma(cpu, vma);
  vmaTreeErase(cpu, member(mm, MmStruct.vmas), vma);
}

/**
 * Borders of the VMA, and of what it is merged with or split from, are about to change: who goes over the VMAs of its
 * file, or of its family, finds all that they map before, or afterwards. Returns the AnonVma for endChange. Sleeps.
 * @kernel vma_prepare
 */
function beginChange(cpu: Cpu, vma: VmAreaStruct, other: VmAreaStruct = NULL): AnonVma {
  const file = read(cpu, vma, VmAreaStruct.file);
  if (file !== NULL) downWrite(cpu, member(file, File.vmasLock));
  const own = read(cpu, vma, VmAreaStruct.anonVma);
  const isOthers = own === NULL && other !== NULL;
  const anonVma = isOthers ? read(cpu, other, VmAreaStruct.anonVma) : own;
  lockFamily(cpu, anonVma);
  return anonVma;
}

/** Ends what beginChange began. @kernel vma_complete */
function endChange(cpu: Cpu, vma: VmAreaStruct, anonVma: AnonVma): void {
  unlockFamily(cpu, anonVma);
  const file = read(cpu, vma, VmAreaStruct.file);
  if (file !== NULL) upWrite(cpu, member(file, File.vmasLock));
}

/** Moves the borders of a VMA, between beginChange and endChange; what it maps stays where it is. */
function vmaResize(cpu: Cpu, vma: VmAreaStruct, start: Va, end: Va): void {
  const before = vmaStart(cpu, vma);
  vmaTreeResize(cpu, vma, start, end);
  const pgoff = readAddress(cpu, vma, VmAreaStruct.pgoff);
  writeAddress(cpu, vma, VmAreaStruct.pgoff, pgoff + (start - before) / PAGE_SIZE);
  renewAnonVmaLocked(cpu, vma);
}

/**
 * A border of the VMA is about to move to `border`, inside it: if that cuts a 2 MiB block in two, the
 * notifiers of the block are told. Sleeps. @kernel vma_adjust_trans_huge
 */
export function adjustTransHuge(cpu: Cpu, vma: VmAreaStruct, border: Va): void {
  const block = Math.floor(border / PMD_SIZE) * PMD_SIZE;
  if (block === border) return;
  if (block < vmaStart(cpu, vma) || block + PMD_SIZE > vmaEnd(cpu, vma)) return;
  const mm = read(cpu, vma, VmAreaStruct.mm);
  if (!hasPmdTable(cpu, read(cpu, mm, MmStruct.pgd), border)) return;
  splitHugePmd(cpu, mm, block);
}

/** Splits a VMA in two at `va`, inside it: 0, or -ENOMEM. Sleeps. @kernel split_vma */
export function splitVma(cpu: Cpu, vma: VmAreaStruct, va: Va): number {
  if (mapCount(cpu, read(cpu, vma, VmAreaStruct.mm)) >= MAX_MAP_COUNT) return -ENOMEM;
  return splitVmaUncounted(cpu, vma, va);
}

/** As splitVma, even if there are as many VMAs as there may be. Sleeps. @kernel __split_vma */
export function splitVmaUncounted(cpu: Cpu, vma: VmAreaStruct, va: Va): number {
  const mm = read(cpu, vma, VmAreaStruct.mm);
  const start = vmaStart(cpu, vma);
  const end = vmaEnd(cpu, vma);
  const kind = vmaKind(cpu, vma);
  const upper = vmaAlloc(cpu, mm, va, end, { ...kind, pgoff: kind.pgoff + pagesIn(start, va) });
  if (upper === NULL) return -ENOMEM;
  adjustTransHuge(cpu, vma, va);
  const anonVma = beginChange(cpu, vma);
  vmaResize(cpu, vma, start, va);
  const error = vmaTreeInsert(cpu, member(mm, MmStruct.vmas), upper);
  if (error === 0) {
    linkFileVmaLocked(cpu, upper);
    linkAnonVmaLocked(cpu, upper);
  } else {
    vmaResize(cpu, vma, start, end); // I2
  }
  endChange(cpu, vma, anonVma);
  if (error !== 0) vmaFree(cpu, upper);
  return error;
}

/**
 * True if the VMA may grow over memory with that anonVma. One that has none itself does not take one
 * over: Linux up to 6.16 wants the neighbour's list of anon_vmas to have exactly one member.
 * @kernel is_mergeable_anon_vma
 */
function mayTakeOver(cpu: Cpu, vma: VmAreaStruct, anonVma: AnonVma): boolean {
  if (read(cpu, vma, VmAreaStruct.anonVma) === anonVma) return true;
  return anonVma === NULL && !isInherited(cpu, vma);
}

/** True if the VMA can have pages of a parent's. @kernel list_is_singular, of anon_vma_chain; negated */
function isInherited(cpu: Cpu, vma: VmAreaStruct): boolean {
  const anonVma = readOnce(cpu, vma, VmAreaStruct.anonVma); // pairs with setAnonVma
  return anonVma !== NULL && read(cpu, anonVma, AnonVma.parent) !== NULL;
}

/** True if the anonymous memory of both may be one. @kernel are_anon_vmas_compatible */
function areCompatible(cpu: Cpu, vma: VmAreaStruct, other: VmAreaStruct): boolean {
  const anonVma = read(cpu, vma, VmAreaStruct.anonVma);
  const otherAnonVma = read(cpu, other, VmAreaStruct.anonVma);
  return anonVma === otherAnonVma || anonVma === NULL || otherAnonVma === NULL;
}

function isAlike(cpu: Cpu, vma: VmAreaStruct, kind: VmaKind): boolean {
  return (
    ((read(cpu, vma, VmAreaStruct.flags) ^ kind.flags) & ~VM_SOFTDIRTY) === 0 &&
    read(cpu, vma, VmAreaStruct.file) === kind.file &&
    mayTakeOver(cpu, vma, kind.anonVma)
  );
}

/** True if what begins at `start` continues `prev`. @kernel can_vma_merge_after */
function canMergeAfter(cpu: Cpu, prev: VmAreaStruct, start: Va, kind: VmaKind): boolean {
  if (prev === NULL || vmaEnd(cpu, prev) !== start || !isAlike(cpu, prev, kind)) return false;
  const pages = pagesIn(vmaStart(cpu, prev), start);
  return readAddress(cpu, prev, VmAreaStruct.pgoff) + pages === kind.pgoff;
}

/** True if what ends at `end` is continued by `next`. @kernel can_vma_merge_before */
function canMergeBefore(cpu: Cpu, next: VmAreaStruct, start: Va, end: Va, kind: VmaKind): boolean {
  if (next === NULL || vmaStart(cpu, next) !== end || !isAlike(cpu, next, kind)) return false;
  return readAddress(cpu, next, VmAreaStruct.pgoff) === kind.pgoff + pagesIn(start, end);
}

/** The VMA is about to take over part of another's memory, or all of it. Sleeps. @kernel dup_anon_vma */
function inheritAnonVma(cpu: Cpu, to: VmAreaStruct, anonVma: AnonVma): void {
  if (anonVma === NULL || read(cpu, to, VmAreaStruct.anonVma) !== NULL) return;
  setAnonVma(cpu, to, anonVma);
}

/**
 * Maps the free range [start, end) by growing its neighbours: the VMA that contains it then, or NULL if
 * no neighbour is alike. @kernel vma_merge_new_range
 */
export function vmaMergeNew(
  cpu: Cpu,
  prev: VmAreaStruct,
  next: VmAreaStruct,
  start: Va,
  end: Va,
  kind: VmaKind,
): VmAreaStruct {
  const after = canMergeAfter(cpu, prev, start, kind);
  const before = canMergeBefore(cpu, next, start, end, kind);
  if (after && before && areCompatible(cpu, prev, next)) {
    absorbNext(cpu, prev, next);
    return prev;
  }
  if (after) {
    growVma(cpu, prev, vmaStart(cpu, prev), end);
    return prev;
  }
  if (before) {
    growVma(cpu, next, start, vmaEnd(cpu, next));
    return next;
  }
  return NULL;
}

/** Moves a border outwards, where nothing is mapped. The mmap lock must be held for writing. Sleeps. */
export function growVma(cpu: Cpu, vma: VmAreaStruct, start: Va, end: Va): void {
  const anonVma = beginChange(cpu, vma);
  vmaResize(cpu, vma, start, end);
  endChange(cpu, vma, anonVma);
}

/** `vma` grows over its successor, which goes away. */
function absorbNext(cpu: Cpu, vma: VmAreaStruct, next: VmAreaStruct): void {
  const end = vmaEnd(cpu, next);
  inheritAnonVma(cpu, vma, read(cpu, next, VmAreaStruct.anonVma));
  replaceBy(cpu, vma, next, vmaStart(cpu, vma), end);
}

/** A neighbour takes the place of a VMA, which goes away. */
function replaceBy(cpu: Cpu, vma: VmAreaStruct, gone: VmAreaStruct, start: Va, end: Va): void {
  const anonVma = beginChange(cpu, vma, gone);
  unlinkFileVmaLocked(cpu, gone);
  unlinkAnonVmaLocked(cpu, gone);
  vmaTreeErase(cpu, member(read(cpu, vma, VmAreaStruct.mm), MmStruct.vmas), gone);
  vmaResize(cpu, vma, start, end);
  endChange(cpu, vma, anonVma);
  vmaFree(cpu, gone);
}

/**
 * Makes [start, end), a part of `vma`, a VMA with other flags: merged with a neighbour, or split off.
 * Returns the VMA that contains it, or NULL if memory is out. The flags of a merged result are set;
 * a split-off one still has the old ones. Sleeps. @kernel vma_modify
 */
export function vmaModify(
  cpu: Cpu,
  vma: VmAreaStruct,
  start: Va,
  end: Va,
  newFlags: number,
): VmAreaStruct {
  const merged = mergeExisting(cpu, vma, start, end, newFlags);
  if (merged !== NULL) return merged;
  if (vmaStart(cpu, vma) < start) {
    if (splitVma(cpu, vma, start) !== 0) return NULL;
    return vmaModifyTail(cpu, read(cpu, vma, VmAreaStruct.next), end);
  }
  return vmaModifyTail(cpu, vma, end);
}

/** `vma` begins where it should; splits off what is behind `end`. */
function vmaModifyTail(cpu: Cpu, vma: VmAreaStruct, end: Va): VmAreaStruct {
  if (vmaEnd(cpu, vma) > end && splitVma(cpu, vma, end) !== 0) return NULL;
  return vma;
}

/** @kernel vma_merge_existing_range */
function mergeExisting(
  cpu: Cpu,
  vma: VmAreaStruct,
  start: Va,
  end: Va,
  newFlags: number,
): VmAreaStruct {
  const vmaFrom = vmaStart(cpu, vma);
  const vmaTo = vmaEnd(cpu, vma);
  const own = vmaKind(cpu, vma);
  const kind = { ...own, flags: newFlags, pgoff: own.pgoff + pagesIn(vmaFrom, start) };
  const prev = start === vmaFrom ? read(cpu, vma, VmAreaStruct.prev) : NULL;
  const next = end === vmaTo ? read(cpu, vma, VmAreaStruct.next) : NULL;
  const after = canMergeAfter(cpu, prev, start, kind);
  const before = canMergeBefore(cpu, next, start, end, kind);
  if (after) {
    if (end < vmaTo) {
      adjustTransHuge(cpu, vma, end);
      const anonVma = beginChange(cpu, vma, prev);
      vmaResize(cpu, vma, end, vmaTo);
      vmaResize(cpu, prev, vmaStart(cpu, prev), end);
      endChange(cpu, vma, anonVma);
      return prev;
    }
    absorbNext(cpu, prev, vma);
    if (before && areCompatible(cpu, prev, next)) absorbNext(cpu, prev, next);
    return prev;
  }
  if (!before) return NULL;
  if (start === vmaFrom) {
    inheritAnonVma(cpu, next, own.anonVma);
    replaceBy(cpu, next, vma, start, vmaEnd(cpu, next));
    return next;
  }
  adjustTransHuge(cpu, vma, start);
  const anonVma = beginChange(cpu, vma, next);
  vmaResize(cpu, vma, vmaFrom, start);
  vmaResize(cpu, next, start, vmaEnd(cpu, next));
  endChange(cpu, vma, anonVma);
  return next;
}

/** Counts mapped pages. @kernel vm_stat_account */
export function accountVm(cpu: Cpu, mm: MmStruct, pages: number): void {
  writeAddress(cpu, mm, MmStruct.totalVm, readAddress(cpu, mm, MmStruct.totalVm) + pages);
}

/** Counts locked pages. @kernel mm->locked_vm */
export function accountLocked(cpu: Cpu, mm: MmStruct, pages: number): void {
  writeAddress(cpu, mm, MmStruct.lockedVm, readAddress(cpu, mm, MmStruct.lockedVm) + pages);
}

/**
 * Gives a VMA the AnonVma that its pages will name, the first time it gets one: that of a neighbour with which it could
 * merge, or a new one; false if memory is out. The mmap lock must be held, for reading at least. Sleeps.
 * @kernel anon_vma_prepare
 */
export function anonVmaPrepare(cpu: Cpu, vma: VmAreaStruct): boolean {
  if (readOnce(cpu, vma, VmAreaStruct.anonVma) !== NULL) return true; // pairs with setAnonVma
  const next = reusableAnonVma(cpu, vma, read(cpu, vma, VmAreaStruct.next));
  const shared =
    next !== NULL ? next : reusableAnonVma(cpu, vma, read(cpu, vma, VmAreaStruct.prev));
  return setAnonVma(cpu, vma, shared);
}

/** The neighbour's, if both would be one VMA but for access rights; NULL if not. */
function reusableAnonVma(cpu: Cpu, vma: VmAreaStruct, neighbour: VmAreaStruct): AnonVma {
  if (neighbour === NULL || isInherited(cpu, neighbour)) return NULL;
  const kind = vmaKind(cpu, vma);
  const other = vmaKind(cpu, neighbour);
  const distance = pagesIn(vmaStart(cpu, vma), vmaStart(cpu, neighbour));
  const isAdjacent =
    vmaEnd(cpu, vma) === vmaStart(cpu, neighbour) || vmaEnd(cpu, neighbour) === vmaStart(cpu, vma);
  const isContinuous = kind.pgoff + distance === other.pgoff;
  const flagsAgree = ((kind.flags ^ other.flags) & ~(VM_ACCESS_FLAGS | VM_SOFTDIRTY)) === 0;
  if (!isAdjacent || !isContinuous || !flagsAgree || kind.file !== other.file) return NULL;
  return readOnce(cpu, neighbour, VmAreaStruct.anonVma);
}
