/**
 * Nodes of the tree of VMAs: slots that each lead to a VMA or to a child, with what a search must know
 * of it.
 *
 * Kernel     lib/maple_tree.c (maple_range_64, maple_arange_64)
 * Protocol   A node has SLOTS slots, of which the first `count` are in use. Those of a leaf are VMAs,
 *            those of an inner node are nodes one level lower. Beside the pointer a slot has
 *
 *              key   where the VMA ends; for a child, the last key in it
 *              gap   free pages in front of the VMA; for a child, the largest gap in it
 *
 *            Both follow from what the slot leads to: a change is made to that, and `refreshUp` then
 *            recomputes the slots above it, for as long as they change.
 * Invariant  I1  The keys in use ascend; the others are NO_KEY, and their slots NULL. So is the slot
 *                behind the last, which an address above all keys leads to.
 *            I2  Keys and gaps are what they are defined to be.
 *            I3  What a slot leads to knows its node: VmaTreeNode.parent, VmAreaStruct.leaf.
 * Ordering   None: mmap_lock protects the tree.
 * Deviation  A gap is kept in one word and therefore cut to GAP_PAGES_MAX (8 TiB): it says that the VMA
 *            may have a gap so large, and whoever needs to know looks at the VMA.
 *
 * @module
 */
import { copyWords, read, readAddress, write, writeAddress } from '#memory';

import { bug } from '../base/bug.js';
import { PAGE_SIZE } from '../base/units.js';
import type { Cpu } from '../machine/cpu.js';
import {
  addressElement,
  addresses,
  element,
  pointer,
  type Ptr,
  struct,
  type Va,
  word,
  words,
} from '../memory/layout.js';
import { VmAreaStruct } from './types.js';

/** Eight groups of eight for the search, but for the last slot, which is always NULL (I1). */
export const SLOTS = 8 * 8 - 1;

export const VmaTreeNode = struct('vma_tree_node', {
  keys: addresses(SLOTS),
  slots: words(SLOTS + 1), // vm_area_struct in a leaf, else vma_tree_node
  gaps: words(SLOTS), // pages, at most GAP_PAGES_MAX
  parent: pointer<'vma_tree_node'>(), // NULL for the root; the next one in VmaTree.spare
  count: word, // slots in use
  level: word, // 0 = leaf
});
export type VmaTreeNode = Ptr<'vma_tree_node'>;

/** The key of a slot that is not in use: above every address. */
export const NO_KEY = Infinity;
const GAP_PAGES_MAX = 0x7fffffff;

/** What a slot of an inner node leads to. */
export function childOf(cpu: Cpu, node: VmaTreeNode, slot: number): VmaTreeNode {
  return read(cpu, node, element(VmaTreeNode.slots, slot)) as VmaTreeNode;
}

/** The slot that leads to this VMA or child. */
export function slotOf(cpu: Cpu, node: VmaTreeNode, entry: number): number {
  const count = read(cpu, node, VmaTreeNode.count);
  for (let slot = 0; slot < count; slot++) {
    if (read(cpu, node, element(VmaTreeNode.slots, slot)) === entry) return slot;
  }
  return bug(`vma tree node ${node} has no slot of ${entry} (I3)`);
}

/** Bytes free in front of a VMA, as the word that is kept of them. */
export function gapPages(bytes: number): number {
  return Math.min(Math.ceil(bytes / PAGE_SIZE), GAP_PAGES_MAX);
}

/** Puts a VMA or a child in front of a slot, in a node with room. The slot must be refreshed then. */
export function openSlot(cpu: Cpu, node: VmaTreeNode, slot: number, entry: number): void {
  const count = read(cpu, node, VmaTreeNode.count);
  copySlots(cpu, node, slot, node, slot + 1, count - slot);
  write(cpu, node, element(VmaTreeNode.slots, slot), entry);
  write(cpu, node, VmaTreeNode.count, count + 1);
  adopt(cpu, node, slot, slot + 1);
}

/** Takes a slot out. What is above the node must be refreshed then. */
export function closeSlot(cpu: Cpu, node: VmaTreeNode, slot: number): void {
  const count = read(cpu, node, VmaTreeNode.count);
  copySlots(cpu, node, slot + 1, node, slot, count - slot - 1);
  setCount(cpu, node, count - 1);
}

/**
 * Moves slots between neighbours, until the left one has `leftCount`. Their slots in the parent must be
 * refreshed then; nothing changes above that.
 */
export function moveSlots(
  cpu: Cpu,
  left: VmaTreeNode,
  right: VmaTreeNode,
  leftCount: number,
): void {
  const leftBefore = read(cpu, left, VmaTreeNode.count);
  const rightBefore = read(cpu, right, VmaTreeNode.count);
  const rightCount = leftBefore + rightBefore - leftCount;
  if (leftCount > leftBefore) {
    const moved = leftCount - leftBefore;
    copySlots(cpu, right, 0, left, leftBefore, moved);
    copySlots(cpu, right, moved, right, 0, rightCount);
    adopt(cpu, left, leftBefore, leftCount);
  } else {
    const moved = leftBefore - leftCount;
    copySlots(cpu, right, 0, right, moved, rightBefore);
    copySlots(cpu, left, leftCount, right, 0, moved);
    adopt(cpu, right, 0, moved);
  }
  setCount(cpu, left, leftCount);
  setCount(cpu, right, rightCount);
}

function copySlots(
  cpu: Cpu,
  from: VmaTreeNode,
  fromSlot: number,
  to: VmaTreeNode,
  toSlot: number,
  count: number,
): void {
  const { keys, slots, gaps } = VmaTreeNode;
  copyWords(cpu, to + keys + 2 * toSlot, from + keys + 2 * fromSlot, 2 * count);
  copyWords(cpu, to + slots + toSlot, from + slots + fromSlot, count);
  copyWords(cpu, to + gaps + toSlot, from + gaps + fromSlot, count);
}

/** Tells what the slots from…to lead to that it is in this node (I3). */
function adopt(cpu: Cpu, node: VmaTreeNode, from: number, to: number): void {
  const isLeaf = read(cpu, node, VmaTreeNode.level) === 0;
  for (let slot = from; slot < to; slot++) {
    const entry = read(cpu, node, element(VmaTreeNode.slots, slot));
    if (isLeaf) write(cpu, entry as VmAreaStruct, VmAreaStruct.leaf, node);
    else write(cpu, entry as VmaTreeNode, VmaTreeNode.parent, node);
  }
}

/** Says how many slots are in use, and empties those that were and are not any more (I1). */
function setCount(cpu: Cpu, node: VmaTreeNode, count: number): void {
  const before = read(cpu, node, VmaTreeNode.count);
  write(cpu, node, VmaTreeNode.count, count);
  for (let slot = count; slot < before; slot++) emptySlot(cpu, node, slot);
}

/** Makes a node without slots out of one that is zeroed. */
export function initNode(cpu: Cpu, node: VmaTreeNode, level: number): void {
  write(cpu, node, VmaTreeNode.level, level);
  for (let slot = 0; slot < SLOTS; slot++) emptySlot(cpu, node, slot);
}

function emptySlot(cpu: Cpu, node: VmaTreeNode, slot: number): void {
  writeAddress(cpu, node, addressElement(VmaTreeNode.keys, slot), NO_KEY);
  write(cpu, node, element(VmaTreeNode.slots, slot), 0);
}

// --- keys and gaps (I2) ---

/** Recomputes a slot, and the slots above that depend on it. */
export function refreshUp(cpu: Cpu, node: VmaTreeNode, slot: number): void {
  if (refreshSlot(cpu, node, slot)) refreshAbove(cpu, node);
}

/** Recomputes the slots that lead to a node in which something changed. */
export function refreshAbove(cpu: Cpu, changed: VmaTreeNode): void {
  let node = changed;
  for (;;) {
    const parent = read(cpu, node, VmaTreeNode.parent);
    if (parent === 0 || !refreshSlot(cpu, parent, slotOf(cpu, parent, node))) return;
    node = parent;
  }
}

/** Recomputes a slot from what it leads to. True if something changed. */
export function refreshSlot(cpu: Cpu, node: VmaTreeNode, slot: number): boolean {
  const keyField = addressElement(VmaTreeNode.keys, slot);
  const gapField = element(VmaTreeNode.gaps, slot);
  const entry = read(cpu, node, element(VmaTreeNode.slots, slot));
  const isLeaf = read(cpu, node, VmaTreeNode.level) === 0;
  const key = isLeaf ? endOf(cpu, entry as VmAreaStruct) : lastKey(cpu, entry as VmaTreeNode);
  const gap = isLeaf
    ? gapBefore(cpu, entry as VmAreaStruct)
    : largestGap(cpu, entry as VmaTreeNode);
  if (readAddress(cpu, node, keyField) === key && read(cpu, node, gapField) === gap) return false;
  writeAddress(cpu, node, keyField, key);
  write(cpu, node, gapField, gap);
  return true;
}

function lastKey(cpu: Cpu, node: VmaTreeNode): Va {
  const count = read(cpu, node, VmaTreeNode.count);
  return readAddress(cpu, node, addressElement(VmaTreeNode.keys, count - 1));
}

function largestGap(cpu: Cpu, node: VmaTreeNode): number {
  const count = read(cpu, node, VmaTreeNode.count);
  let largest = 0;
  for (let slot = 0; slot < count; slot++) {
    const gap = read(cpu, node, element(VmaTreeNode.gaps, slot));
    if (gap > largest) largest = gap;
  }
  return largest;
}

function gapBefore(cpu: Cpu, vma: VmAreaStruct): number {
  const prev = read(cpu, vma, VmAreaStruct.prev);
  return gapPages(readAddress(cpu, vma, VmAreaStruct.start) - endOf(cpu, prev));
}

/** Where a VMA ends. NULL stands for what is in front of the first one. */
export function endOf(cpu: Cpu, vma: VmAreaStruct): Va {
  return vma === 0 ? 0 : readAddress(cpu, vma, VmAreaStruct.end);
}

/** Where a VMA starts. NULL stands for what is behind the last one. */
export function startOf(cpu: Cpu, vma: VmAreaStruct): Va {
  return vma === 0 ? Infinity : readAddress(cpu, vma, VmAreaStruct.start);
}
