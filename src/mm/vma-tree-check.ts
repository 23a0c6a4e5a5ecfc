/**
 * Checks every rule of a tree of VMAs, for tests and debugging.
 *
 * Kernel     lib/maple_tree.c (mt_validate)
 * Protocol   The tree is walked in order, beside the links of the VMAs; keys and gaps are computed again
 *            from the VMAs.
 * Ordering   None: mmap_lock must be held.
 *
 * @module
 */
import { read, readAddress } from '#memory';

import { bug } from '../base/bug.js';
import { PAGE_SIZE } from '../base/units.js';
import type { Cpu } from '../machine/cpu.js';
import { addressElement, element, NULL, type Va } from '../memory/layout.js';
import { VmAreaStruct, VmaTree } from './types.js';
import { checkBounds, SLOTS_MIN, vmaTreeFirst } from './vma-tree.js';
import { childOf, NO_KEY, SLOTS, VmaTreeNode } from './vma-tree-node.js';

/** @throws KernelBug that names the first rule found broken. @kernel mt_validate */
export function vmaTreeCheck(cpu: Cpu, tree: VmaTree): void {
  const root = read(cpu, tree, VmaTree.root);
  const height = read(cpu, tree, VmaTree.height);
  const first = vmaTreeFirst(cpu, tree);
  if (root === 0 && height !== 0) bug(`vma tree ${tree}: height ${height} of an empty tree (I5)`);
  if (first !== 0 && read(cpu, first, VmAreaStruct.prev) !== 0) {
    bug(`vma tree ${tree}: the first vma links to one before it (I6)`);
  }
  if (root !== 0) {
    const rest = checkNode(cpu, root, NULL, height, first);
    if (rest !== 0) bug(`vma tree ${tree}: links lead on to vma ${rest} (I6)`);
  }
  let count = 0;
  for (let vma = first; vma !== 0; vma = read(cpu, vma, VmAreaStruct.next)) count++;
  const counted = read(cpu, tree, VmaTree.count);
  if (counted !== count) bug(`vma tree ${tree}: count is ${counted}, not ${count}`);
  if (read(cpu, tree, VmaTree.spare) !== 0) bug(`vma tree ${tree}: spare nodes are left`);
}

/** Checks the subtree whose first VMA the links say is `expected`; returns what follows its last. */
function checkNode(
  cpu: Cpu,
  node: VmaTreeNode,
  parent: VmaTreeNode,
  level: number,
  expected: VmAreaStruct,
): VmAreaStruct {
  const count = read(cpu, node, VmaTreeNode.count);
  const countMin = parent !== 0 ? SLOTS_MIN : level > 0 ? 2 : 1;
  if (count < countMin || count > SLOTS) bug(`vma tree node ${node}: fill of ${count} slots (I4)`);
  if (read(cpu, node, VmaTreeNode.level) !== level) bug(`vma tree node ${node}: height (I5)`);
  if (read(cpu, node, VmaTreeNode.parent) !== parent) bug(`vma tree node ${node}: parent (I3)`);
  checkFreeSlots(cpu, node, count);
  let vma = expected;
  for (let slot = 0; slot < count; slot++) {
    if (level === 0) {
      checkVma(cpu, node, slot, vma);
      vma = read(cpu, vma, VmAreaStruct.next);
    } else {
      const child = childOf(cpu, node, slot);
      vma = checkNode(cpu, child, node, level - 1, vma);
      checkSlot(cpu, node, slot, lastKey(cpu, child), largestGap(cpu, child));
    }
  }
  return vma;
}

function checkFreeSlots(cpu: Cpu, node: VmaTreeNode, count: number): void {
  for (let slot = count; slot < SLOTS; slot++) {
    const key = readAddress(cpu, node, addressElement(VmaTreeNode.keys, slot));
    if (key !== NO_KEY) bug(`vma tree node ${node}: key of free slot ${slot} (I1)`);
  }
  for (let slot = count; slot <= SLOTS; slot++) {
    if (childOf(cpu, node, slot) !== 0) bug(`vma tree node ${node}: free slot ${slot} (I1)`);
  }
}

/** Checks that a slot of a leaf has the VMA that links lead to, and what is between its neighbours. */
function checkVma(cpu: Cpu, leaf: VmaTreeNode, slot: number, vma: VmAreaStruct): void {
  const entry = read(cpu, leaf, element(VmaTreeNode.slots, slot));
  if (entry !== vma) bug(`vma tree node ${leaf}: slot ${slot} has ${entry}, links ${vma} (I6)`);
  const prev = read(cpu, vma, VmAreaStruct.prev);
  const next = read(cpu, vma, VmAreaStruct.next);
  if (next !== 0 && read(cpu, next, VmAreaStruct.prev) !== vma) {
    bug(`vma ${vma} links to ${next}, and that not back (I6)`);
  }
  if (read(cpu, vma, VmAreaStruct.leaf) !== leaf) bug(`vma ${vma}: leaf (I3)`);
  checkBounds(cpu, vma, prev, next);
  const bottom = prev === 0 ? 0 : readAddress(cpu, prev, VmAreaStruct.end);
  const pages = (readAddress(cpu, vma, VmAreaStruct.start) - bottom) / PAGE_SIZE;
  const end = readAddress(cpu, vma, VmAreaStruct.end);
  checkSlot(cpu, leaf, slot, end, Math.min(pages, 2 ** 31 - 1));
}

/** Checks key and gap of a slot (I2), and the order of keys (I1). */
function checkSlot(cpu: Cpu, node: VmaTreeNode, slot: number, key: Va, gap: number): void {
  const before = slot === 0 ? 0 : keyOf(cpu, node, slot - 1);
  if (keyOf(cpu, node, slot) !== key) bug(`vma tree node ${node}: key of slot ${slot} (I2)`);
  if (key <= before) bug(`vma tree node ${node}: order of slot ${slot} (I1)`);
  if (read(cpu, node, element(VmaTreeNode.gaps, slot)) !== gap) {
    bug(`vma tree node ${node}: gap of slot ${slot} (I2)`);
  }
}

function keyOf(cpu: Cpu, node: VmaTreeNode, slot: number): Va {
  return readAddress(cpu, node, addressElement(VmaTreeNode.keys, slot));
}

function lastKey(cpu: Cpu, node: VmaTreeNode): Va {
  return keyOf(cpu, node, read(cpu, node, VmaTreeNode.count) - 1);
}

function largestGap(cpu: Cpu, node: VmaTreeNode): number {
  let largest = 0;
  for (let slot = read(cpu, node, VmaTreeNode.count) - 1; slot >= 0; slot--) {
    largest = Math.max(largest, read(cpu, node, element(VmaTreeNode.gaps, slot)));
  }
  return largest;
}
