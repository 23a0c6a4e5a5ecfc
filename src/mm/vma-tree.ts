/**
 * The VMAs of an address space, in a B+tree whose keys are where VMAs end: the first key above an
 * address leads to the VMA that contains it, or else to the next one.
 *
 * Kernel     lib/maple_tree.c; find_vma and vma_link of mm/mmap.c
 * Protocol   search   In each node, the keys that are not above the address are counted without a
 *                     branch: seven keys that are GROUP apart choose a group, seven in it the slot.
 *                     A node with few keys has one group.
 *            insert   Counts the full nodes that will have to split and allocates as many; makes room
 *                     from the top down; only then puts the VMA in. A full node gives slots to a
 *                     sibling if that has room for some, and splits if not.
 *            erase    A node that has too few slots then takes some of a sibling, or is merged with it.
 *            resize   changes the VMA and refreshes the tree around it.
 * Invariant  I1…I3 of mm/vma-tree-node.ts, and:
 *            I4  Every node but the root has SLOTS_MIN slots in use or more; an inner root has two.
 *            I5  All leaves are `height` levels below the root.
 *            I6  prev and next link the VMAs in the order of their addresses; none overlap.
 *            I7  An insertion that fails has changed nothing. Nothing else allocates.
 * Ordering   None. mmap_lock must be held: for reading to search, for writing to change.
 * Deviation  The kernel's tree maps ranges to entries, is allowed to be read under RCU, and tells gaps
 *            by ranges without an entry. An address space here has one lock for its VMAs.
 * Cost       Search: 14 comparisons a level; one level up to 63 VMAs, three for 60,000. A change: some
 *            hundred reads a level.
 *
 * Gaps are searched by mm/vma-tree-gap.ts.
 *
 * @module
 */
import { read, readAddress, write, writeAddress } from '#memory';

import { bug } from '../base/bug.js';
import { ENOMEM } from '../base/errno.js';
import type { Cpu } from '../machine/cpu.js';
import { kfree, kzalloc } from '../machine/slab.js';
import { CpuArea } from '../machine/types.js';
import {
  AddressCell,
  addressCell,
  addressElement,
  type AddressField,
  element,
  member,
  NULL,
  type Va,
} from '../memory/layout.js';
import { VmAreaStruct, VmaTree } from './types.js';
import {
  childOf,
  closeSlot,
  endOf,
  initNode,
  moveSlots,
  openSlot,
  refreshAbove,
  refreshSlot,
  refreshUp,
  slotOf,
  SLOTS,
  startOf,
  VmaTreeNode,
} from './vma-tree-node.js';

/** With fewer slots in use, a node gets some of a sibling's or is merged with it (I4). */
export const SLOTS_MIN = SLOTS / 3;
/** Two nodes are merged if the result has room left: else the next insertion would split it again. */
const MERGED_MAX = SLOTS - 7;
/** A full node's sibling takes slots if it has room for a few: moving one or two would not pay. */
const SHARED_MAX = SLOTS - 8;

/** Makes an empty tree. */
export function initVmaTree(cpu: Cpu, tree: VmaTree): void {
  write(cpu, tree, VmaTree.root, NULL);
  write(cpu, tree, VmaTree.height, 0);
  write(cpu, tree, VmaTree.count, 0);
  write(cpu, tree, VmaTree.spare, NULL);
}

/** Frees the nodes and leaves an empty tree. The VMAs, and their links, are the caller's business. */
export function vmaTreeDestroy(cpu: Cpu, tree: VmaTree): void {
  const root = read(cpu, tree, VmaTree.root);
  if (root !== 0) freeSubtree(cpu, root);
  initVmaTree(cpu, tree);
}

function freeSubtree(cpu: Cpu, node: VmaTreeNode): void {
  if (read(cpu, node, VmaTreeNode.level) > 0) {
    const count = read(cpu, node, VmaTreeNode.count);
    for (let slot = 0; slot < count; slot++) freeSubtree(cpu, childOf(cpu, node, slot));
  }
  kfree(cpu, VmaTreeNode, node);
}

// --- search ---

/** The first VMA that ends above the address, or NULL. @kernel find_vma */
export function vmaTreeFind(cpu: Cpu, tree: VmaTree, va: Va): VmAreaStruct {
  const key = member(cpu.area, CpuArea.searchKey);
  writeAddress(cpu, key, AddressCell.va, va);
  return vmaTreeFindAt(cpu, tree, key);
}

type KeyField = AddressField<'vma_tree_node'>;

// V8 compiles these as constants; what a module exports or imports is read anew in every call.
const GROUP = Math.sqrt(SLOTS + 1);
const KEYS = addressElement(VmaTreeNode.keys, 0);
const ENTRIES = VmaTreeNode.slots;

function keyAfter(key: KeyField, count: number): KeyField {
  return (key + 2 * count) as KeyField;
}

/**
 * As vmaTreeFind, for an address that is in shared memory: allocates nothing. The comparisons are
 * written out, since neither a loop nor a call for each leaves the processor as much to do at once.
 */
export function vmaTreeFindAt(cpu: Cpu, tree: VmaTree, key: AddressCell): VmAreaStruct {
  const va = readAddress(cpu, key, AddressCell.va);
  let entry: number = read(cpu, tree, VmaTree.root);
  for (let level = read(cpu, tree, VmaTree.height); level >= 0 && entry !== 0; level--) {
    const node = entry as VmaTreeNode;
    let start = 0;
    if (read(cpu, node, VmaTreeNode.count) >= GROUP) {
      start =
        GROUP *
        (Number(readAddress(cpu, node, keyAfter(KEYS, GROUP - 1)) <= va) +
          Number(readAddress(cpu, node, keyAfter(KEYS, 2 * GROUP - 1)) <= va) +
          Number(readAddress(cpu, node, keyAfter(KEYS, 3 * GROUP - 1)) <= va) +
          Number(readAddress(cpu, node, keyAfter(KEYS, 4 * GROUP - 1)) <= va) +
          Number(readAddress(cpu, node, keyAfter(KEYS, 5 * GROUP - 1)) <= va) +
          Number(readAddress(cpu, node, keyAfter(KEYS, 6 * GROUP - 1)) <= va) +
          Number(readAddress(cpu, node, keyAfter(KEYS, 7 * GROUP - 1)) <= va));
    }
    const group = keyAfter(KEYS, start);
    const slot =
      start +
      Number(readAddress(cpu, node, group) <= va) +
      Number(readAddress(cpu, node, keyAfter(group, 1)) <= va) +
      Number(readAddress(cpu, node, keyAfter(group, 2)) <= va) +
      Number(readAddress(cpu, node, keyAfter(group, 3)) <= va) +
      Number(readAddress(cpu, node, keyAfter(group, 4)) <= va) +
      Number(readAddress(cpu, node, keyAfter(group, 5)) <= va) +
      Number(readAddress(cpu, node, keyAfter(group, 6)) <= va);
    entry = read(cpu, node, element(ENTRIES, slot));
  }
  return entry as VmAreaStruct;
}

/** The lowest VMA, or NULL. */
export function vmaTreeFirst(cpu: Cpu, tree: VmaTree): VmAreaStruct {
  let entry: number = read(cpu, tree, VmaTree.root);
  for (let level = read(cpu, tree, VmaTree.height); level >= 0 && entry !== 0; level--) {
    entry = childOf(cpu, entry as VmaTreeNode, 0);
  }
  return entry as VmAreaStruct;
}

/** The highest VMA, or NULL. */
export function vmaTreeLast(cpu: Cpu, tree: VmaTree): VmAreaStruct {
  let entry: number = read(cpu, tree, VmaTree.root);
  for (let level = read(cpu, tree, VmaTree.height); level >= 0 && entry !== 0; level--) {
    const node = entry as VmaTreeNode;
    entry = childOf(cpu, node, read(cpu, node, VmaTreeNode.count) - 1);
  }
  return entry as VmAreaStruct;
}

// --- changes ---

/**
 * Adds a VMA whose bounds are set, and links it with its neighbours. -ENOMEM if a node is needed and
 * memory is out. @kernel vma_link
 */
export function vmaTreeInsert(cpu: Cpu, tree: VmaTree, vma: VmAreaStruct): number {
  const next = vmaTreeFindAt(cpu, tree, addressCell(vma, VmAreaStruct.start));
  const prev = next === 0 ? vmaTreeLast(cpu, tree) : read(cpu, next, VmAreaStruct.prev);
  checkBounds(cpu, vma, prev, next);
  if (!reserveSlot(cpu, tree, next === 0 ? prev : next)) return -ENOMEM;
  linkVma(cpu, vma, prev, next);
  putInLeaf(cpu, tree, vma);
  if (next !== 0) refreshVma(cpu, next);
  write(cpu, tree, VmaTree.count, read(cpu, tree, VmaTree.count) + 1);
  return 0;
}

/** Takes a VMA out, and out of the links of its neighbours. @kernel vma_iter_clear */
export function vmaTreeErase(cpu: Cpu, tree: VmaTree, vma: VmAreaStruct): void {
  const leaf = leafOf(cpu, vma);
  const next = read(cpu, vma, VmAreaStruct.next);
  closeSlot(cpu, leaf, slotOf(cpu, leaf, vma));
  unlinkVma(cpu, vma);
  refreshAbove(cpu, leaf);
  if (next !== 0) refreshVma(cpu, next);
  fillUp(cpu, tree, leaf);
  write(cpu, tree, VmaTree.count, read(cpu, tree, VmaTree.count) - 1);
}

/** Gives a VMA of a tree new bounds, which must leave it between its neighbours. @kernel vma_adjust */
export function vmaTreeResize(cpu: Cpu, vma: VmAreaStruct, start: Va, end: Va): void {
  const next = read(cpu, vma, VmAreaStruct.next);
  writeAddress(cpu, vma, VmAreaStruct.start, start);
  writeAddress(cpu, vma, VmAreaStruct.end, end);
  checkBounds(cpu, vma, read(cpu, vma, VmAreaStruct.prev), next);
  refreshVma(cpu, vma);
  if (next !== 0) refreshVma(cpu, next);
}

/** A VMA must not be empty, nor overlap its neighbours (I6). */
export function checkBounds(
  cpu: Cpu,
  vma: VmAreaStruct,
  prev: VmAreaStruct,
  next: VmAreaStruct,
): void {
  const start = readAddress(cpu, vma, VmAreaStruct.start);
  const end = readAddress(cpu, vma, VmAreaStruct.end);
  if (start >= end) bug(`vma ${vma} is empty`);
  if (start < endOf(cpu, prev)) bug(`vma ${vma} overlaps vma ${prev} (I6)`);
  if (end > startOf(cpu, next)) bug(`vma ${vma} overlaps vma ${next} (I6)`);
}

function leafOf(cpu: Cpu, vma: VmAreaStruct): VmaTreeNode {
  const leaf = read(cpu, vma, VmAreaStruct.leaf);
  if (leaf === 0) bug(`vma ${vma} is in no tree`);
  return leaf;
}

/** Puts a linked VMA beside a neighbour, in a leaf with room. */
function putInLeaf(cpu: Cpu, tree: VmaTree, vma: VmAreaStruct): void {
  const prev = read(cpu, vma, VmAreaStruct.prev);
  const next = read(cpu, vma, VmAreaStruct.next);
  let leaf = read(cpu, tree, VmaTree.root);
  let slot = 0;
  if (next !== 0) {
    leaf = leafOf(cpu, next);
    slot = slotOf(cpu, leaf, next);
  } else if (prev !== 0) {
    leaf = leafOf(cpu, prev);
    slot = slotOf(cpu, leaf, prev) + 1;
  }
  openSlot(cpu, leaf, slot, vma);
  refreshUp(cpu, leaf, slot);
}

/** Brings the tree in line with a VMA whose bounds, or whose gap, have changed. */
function refreshVma(cpu: Cpu, vma: VmAreaStruct): void {
  const leaf = leafOf(cpu, vma);
  refreshUp(cpu, leaf, slotOf(cpu, leaf, vma));
}

function linkVma(cpu: Cpu, vma: VmAreaStruct, prev: VmAreaStruct, next: VmAreaStruct): void {
  write(cpu, vma, VmAreaStruct.prev, prev);
  write(cpu, vma, VmAreaStruct.next, next);
  if (prev !== 0) write(cpu, prev, VmAreaStruct.next, vma);
  if (next !== 0) write(cpu, next, VmAreaStruct.prev, vma);
}

function unlinkVma(cpu: Cpu, vma: VmAreaStruct): void {
  const prev = read(cpu, vma, VmAreaStruct.prev);
  const next = read(cpu, vma, VmAreaStruct.next);
  if (prev !== 0) write(cpu, prev, VmAreaStruct.next, next);
  if (next !== 0) write(cpu, next, VmAreaStruct.prev, prev);
  write(cpu, vma, VmAreaStruct.prev, NULL);
  write(cpu, vma, VmAreaStruct.next, NULL);
  write(cpu, vma, VmAreaStruct.leaf, NULL);
}

// --- room for one more VMA ---

/**
 * Makes the leaf of a VMA have a free slot; with NULL, makes the first leaf. False if memory is out, and
 * then nothing has changed (I7).
 */
function reserveSlot(cpu: Cpu, tree: VmaTree, neighbour: VmAreaStruct): boolean {
  if (neighbour === 0) {
    if (!setNodesAside(cpu, tree, 1)) return false;
    write(cpu, tree, VmaTree.root, takeNode(cpu, tree, 0));
    return true;
  }
  const leaf = leafOf(cpu, neighbour);
  if (read(cpu, leaf, VmaTreeNode.count) < SLOTS) return true;
  if (!setNodesAside(cpu, tree, nodesForRoom(cpu, leaf))) return false;
  makeRoom(cpu, tree, leaf);
  return true;
}

/** How many nodes makeRoom takes. It goes the same way up. */
function nodesForRoom(cpu: Cpu, leaf: VmaTreeNode): number {
  let nodes = 0;
  let node = leaf;
  while (read(cpu, node, VmaTreeNode.count) === SLOTS && siblingWithRoom(cpu, node) === 0) {
    const parent = read(cpu, node, VmaTreeNode.parent);
    if (parent === 0) return nodes + 2; // its other half, and a root above both
    nodes++;
    node = parent;
  }
  return nodes;
}

/** Makes a full node have free slots: a sibling takes some; or it splits, once its parent has room. */
function makeRoom(cpu: Cpu, tree: VmaTree, node: VmaTreeNode): void {
  if (read(cpu, node, VmaTreeNode.count) < SLOTS) return;
  let sibling = siblingWithRoom(cpu, node);
  if (sibling === 0) {
    if (read(cpu, node, VmaTreeNode.parent) === 0) raiseRoot(cpu, tree, node);
    makeRoom(cpu, tree, read(cpu, node, VmaTreeNode.parent));
    const parent = read(cpu, node, VmaTreeNode.parent); // another one, if it split
    sibling = takeNode(cpu, tree, read(cpu, node, VmaTreeNode.level));
    openSlot(cpu, parent, slotOf(cpu, parent, node) + 1, sibling);
  }
  balance(cpu, node, sibling);
}

/** Puts a new root above the old one. */
function raiseRoot(cpu: Cpu, tree: VmaTree, node: VmaTreeNode): void {
  const level = read(cpu, node, VmaTreeNode.level) + 1;
  const root = takeNode(cpu, tree, level);
  openSlot(cpu, root, 0, node);
  write(cpu, tree, VmaTree.root, root);
  write(cpu, tree, VmaTree.height, level);
}

/** A neighbour under the same parent that can take a full node's slots, or NULL. */
function siblingWithRoom(cpu: Cpu, node: VmaTreeNode): VmaTreeNode {
  const parent = read(cpu, node, VmaTreeNode.parent);
  if (parent === 0) return NULL;
  const slot = slotOf(cpu, parent, node);
  if (slot > 0) {
    const left = childOf(cpu, parent, slot - 1);
    if (read(cpu, left, VmaTreeNode.count) <= SHARED_MAX) return left;
  }
  if (slot + 1 < read(cpu, parent, VmaTreeNode.count)) {
    const right = childOf(cpu, parent, slot + 1);
    if (read(cpu, right, VmaTreeNode.count) <= SHARED_MAX) return right;
  }
  return NULL;
}

/** Allocates nodes for takeNode. False, and none is kept, if memory is out. */
function setNodesAside(cpu: Cpu, tree: VmaTree, count: number): boolean {
  for (let i = 0; i < count; i++) {
    const node = kzalloc(cpu, VmaTreeNode);
    if (node === 0) {
      freeSpareNodes(cpu, tree);
      return false;
    }
    write(cpu, node, VmaTreeNode.parent, read(cpu, tree, VmaTree.spare));
    write(cpu, tree, VmaTree.spare, node);
  }
  return true;
}

function freeSpareNodes(cpu: Cpu, tree: VmaTree): void {
  let node = read(cpu, tree, VmaTree.spare);
  while (node !== 0) {
    const next = read(cpu, node, VmaTreeNode.parent);
    kfree(cpu, VmaTreeNode, node);
    node = next;
  }
  write(cpu, tree, VmaTree.spare, NULL);
}

/** One of the nodes set aside, without slots. */
function takeNode(cpu: Cpu, tree: VmaTree, level: number): VmaTreeNode {
  const node = read(cpu, tree, VmaTree.spare);
  write(cpu, tree, VmaTree.spare, read(cpu, node, VmaTreeNode.parent));
  write(cpu, node, VmaTreeNode.parent, NULL);
  initNode(cpu, node, level);
  return node;
}

// --- nodes with few slots ---

/** Gives a node with too few slots some of a sibling's, or merges the two, and so on above (I4). */
function fillUp(cpu: Cpu, tree: VmaTree, lacking: VmaTreeNode): void {
  let node = lacking;
  while (read(cpu, node, VmaTreeNode.count) < SLOTS_MIN) {
    const parent = read(cpu, node, VmaTreeNode.parent);
    if (parent === 0) {
      lowerRoot(cpu, tree, node);
      return;
    }
    const slot = slotOf(cpu, parent, node);
    const left = slot === 0 ? node : childOf(cpu, parent, slot - 1);
    const right = slot === 0 ? childOf(cpu, parent, 1) : node;
    const total = read(cpu, left, VmaTreeNode.count) + read(cpu, right, VmaTreeNode.count);
    if (total > MERGED_MAX) {
      balance(cpu, left, right);
      return;
    }
    moveSlots(cpu, left, right, total);
    closeSlot(cpu, parent, slotOf(cpu, parent, right));
    refreshSlot(cpu, parent, slotOf(cpu, parent, left));
    kfree(cpu, VmaTreeNode, right);
    node = parent;
  }
}

/** A root that has one child makes way for it; one that has nothing leaves an empty tree. */
function lowerRoot(cpu: Cpu, tree: VmaTree, root: VmaTreeNode): void {
  const level = read(cpu, root, VmaTreeNode.level);
  const count = read(cpu, root, VmaTreeNode.count);
  if (level === 0 && count === 0) {
    write(cpu, tree, VmaTree.root, NULL);
    kfree(cpu, VmaTreeNode, root);
  } else if (level > 0 && count === 1) {
    const child = childOf(cpu, root, 0);
    write(cpu, child, VmaTreeNode.parent, NULL);
    write(cpu, tree, VmaTree.root, child);
    write(cpu, tree, VmaTree.height, level - 1);
    kfree(cpu, VmaTreeNode, root);
  }
}

/** Gives two neighbours under the same parent equally many slots. */
function balance(cpu: Cpu, node: VmaTreeNode, sibling: VmaTreeNode): void {
  const parent = read(cpu, node, VmaTreeNode.parent);
  const slot = slotOf(cpu, parent, node);
  const siblingSlot = slotOf(cpu, parent, sibling);
  const left = slot < siblingSlot ? node : sibling;
  const right = slot < siblingSlot ? sibling : node;
  const total = read(cpu, left, VmaTreeNode.count) + read(cpu, right, VmaTreeNode.count);
  moveSlots(cpu, left, right, (total + 1) >> 1);
  refreshSlot(cpu, parent, slot);
  refreshSlot(cpu, parent, siblingSlot);
}
