/**
 * Room for a new mapping: the highest, or the lowest, run of free addresses between two bounds.
 *
 * Kernel     mm/mmap.c (unmapped_area_topdown, unmapped_area); mas_empty_area of lib/maple_tree.c
 * Protocol   Only the gap around the bound where the search begins can be cut by it. That gap is looked
 *            at first. After it, the tree is asked for the nearest VMA that has a large enough gap in
 *            front: along the way up from the last VMA a slot with one is looked for, and from there
 *            the way down is certain. The first gap that reaches over the other bound ends the search.
 * Invariant  I1  What is returned is free: the bounds of VMAs decide, and the gaps of slots only lead to
 *                them (a gap of 8 TiB or more is kept as 8 TiB, and may be too small; there is room for
 *                16 of these).
 * Ordering   None: mmap_lock must be held.
 * Cost       Two searches of the tree. What is returned is a double, for which V8 allocates a box.
 *
 * @module
 */
import { read } from '#memory';

import type { Cpu } from '../machine/cpu.js';
import { element, NULL, type Va } from '../memory/layout.js';
import { VmAreaStruct, VmaTree } from './types.js';
import { vmaTreeFind, vmaTreeLast } from './vma-tree.js';
import { endOf, gapPages, slotOf, startOf, VmaTreeNode } from './vma-tree-node.js';

const DOWN = -1;
const UP = 1;

/**
 * The highest address from which `length` bytes are free, none of them below `low` nor at `high` or
 * above; -1 if there is none. @kernel unmapped_area_topdown
 */
export function vmaTreeFindGapTopDown(
  cpu: Cpu,
  tree: VmaTree,
  length: number,
  low: Va,
  high: Va,
): Va {
  const pages = gapPages(length);
  let vma = vmaTreeFind(cpu, tree, high); // the VMAs behind it have their gaps above `high`
  for (;;) {
    const bottom = gapBottom(cpu, tree, vma);
    const start = Math.min(startOf(cpu, vma), high) - length;
    if (start >= Math.max(bottom, low)) return start;
    if (bottom <= low) return -1;
    vma = nearestGap(cpu, tree, vma, pages, DOWN);
    if (vma === 0) return -1;
  }
}

/**
 * The lowest address from which `length` bytes are free, none of them below `low` nor at `high` or
 * above; -1 if there is none. @kernel unmapped_area
 */
export function vmaTreeFindGapBottomUp(
  cpu: Cpu,
  tree: VmaTree,
  length: number,
  low: Va,
  high: Va,
): Va {
  const pages = gapPages(length);
  let vma = vmaTreeFind(cpu, tree, low); // the VMAs in front of it have their gaps below `low`
  for (;;) {
    const start = Math.max(gapBottom(cpu, tree, vma), low);
    const top = startOf(cpu, vma);
    if (start + length <= Math.min(top, high)) return start;
    if (top >= high) return -1;
    vma = nearestGap(cpu, tree, vma, pages, UP); // NULL: the gap behind the last VMA
  }
}

/** Where the gap in front of a VMA begins; of NULL, the one behind the last VMA. */
function gapBottom(cpu: Cpu, tree: VmaTree, vma: VmAreaStruct): Va {
  return endOf(cpu, vma === 0 ? vmaTreeLast(cpu, tree) : read(cpu, vma, VmAreaStruct.prev));
}

/**
 * The nearest VMA below or above `from` with a gap of so many pages, as far as slots can tell; NULL if
 * there is none. DOWN from NULL is from behind the last VMA.
 */
function nearestGap(
  cpu: Cpu,
  tree: VmaTree,
  from: VmAreaStruct,
  pages: number,
  direction: number,
): VmAreaStruct {
  let node = read(cpu, tree, VmaTree.root);
  let slot = read(cpu, node, VmaTreeNode.count);
  if (from !== 0) {
    node = read(cpu, from, VmAreaStruct.leaf);
    slot = slotOf(cpu, node, from);
  }
  for (;;) {
    slot = slotWithGap(cpu, node, slot + direction, pages, direction);
    if (slot >= 0) return descendToGap(cpu, node, slot, pages, direction);
    const parent = read(cpu, node, VmaTreeNode.parent);
    if (parent === 0) return NULL;
    slot = slotOf(cpu, parent, node);
    node = parent;
  }
}

/** The first VMA with such a gap that is met in a slot that has one. */
function descendToGap(
  cpu: Cpu,
  top: VmaTreeNode,
  topSlot: number,
  pages: number,
  direction: number,
): VmAreaStruct {
  let entry = read(cpu, top, element(VmaTreeNode.slots, topSlot));
  for (let level = read(cpu, top, VmaTreeNode.level); level > 0; level--) {
    const node = entry as VmaTreeNode;
    const first = direction === UP ? 0 : read(cpu, node, VmaTreeNode.count) - 1;
    const slot = slotWithGap(cpu, node, first, pages, direction);
    entry = read(cpu, node, element(VmaTreeNode.slots, slot));
  }
  return entry as VmAreaStruct;
}

/** The first slot with such a gap, from one on; -1 if there is none. */
function slotWithGap(
  cpu: Cpu,
  node: VmaTreeNode,
  first: number,
  pages: number,
  direction: number,
): number {
  const count = read(cpu, node, VmaTreeNode.count);
  for (let slot = first; slot >= 0 && slot < count; slot += direction) {
    if (read(cpu, node, element(VmaTreeNode.gaps, slot)) >= pages) return slot;
  }
  return -1;
}
