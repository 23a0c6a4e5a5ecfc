/**
 * Closed intervals [start, last], found by what they intersect: a red-black tree in the order of starts,
 * in which every node knows how far its subtree reaches.
 *
 * Kernel     lib/interval_tree.c (include/linux/interval_tree_generic.h), lib/rbtree.c
 * Protocol   A node *reaches* a range if its last is not below the range's start. The first in order
 *            that does is either a hit or starts above the range, as then do all after it. It is found
 *            on one way down: left if the left subtree reaches the range, else here, else right.
 *            Nodes are embedded in the structs that own them; nothing here allocates or fails.
 * Invariant  I1  In order, starts do not descend; equal starts are in the order of their insertion.
 *            I2  subtreeLast is the largest last of the node and all below it; leftLast is that of its
 *                left child.
 *            I3  A red node has no red child, and every way from the root to a missing child meets as
 *                many black nodes: no way is more than twice as long as another.
 *            I4  `leftmost` is the first node in order.
 *            I5  The color of a node that is in no tree is 0.
 * Ordering   None: the owner of the tree excludes changes from each other and from searches.
 * Deviation  leftLast is the left child's subtreeLast, which the kernel reads there; kept here, a step
 *            of a search touches one node and not two. A range is handed over in shared memory: V8 would
 *            allocate boxes for the two numbers.
 * Cost       A search that hits nothing: one node if it is below or above all intervals, else one node
 *            a level; 17 levels of 100,000 intervals.
 *
 * @module
 */
import { read, readAddress, write, writeAddress } from '#memory';

import { bug } from '../base/bug.js';
import type { Cpu } from '../machine/cpu.js';
import { address, type Field, NULL, pointer, type Ptr, struct, word } from '../memory/layout.js';

export const IntervalTreeNode = struct('interval_tree_node', {
  left: pointer<'interval_tree_node'>(),
  right: pointer<'interval_tree_node'>(),
  leftLast: address, // subtreeLast of `left`; NOTHING if there is none
  start: address, // written by the owner, and not while the node is in a tree
  last: address, // inclusive; likewise
  subtreeLast: address, // largest `last` from here down
  parent: pointer<'interval_tree_node'>(),
  color: word, // RED or BLACK; 0 = in no tree
});
export type IntervalTreeNode = Ptr<'interval_tree_node'>;

export const IntervalTreeRoot = struct('interval_tree_root', {
  root: pointer<'interval_tree_node'>(),
  leftmost: pointer<'interval_tree_node'>(), // first in order
});
export type IntervalTreeRoot = Ptr<'interval_tree_root'>;

/** A range to search for: two consecutive addresses anywhere in shared memory. */
export const IntervalRange = struct('interval_range', {
  start: address,
  last: address, // inclusive
});
export type IntervalRange = Ptr<'interval_range'>;

const RED = 1;
const BLACK = 2;

/** leftLast of a node without a left child. */
const NOTHING = -1;

// V8 compiles these as constants; what a module exports or imports is read anew at every step.
const { left: LEFT, right: RIGHT, leftLast: LEFT_LAST, last: LAST } = IntervalTreeNode;

/** Either child of a node. */
type ChildField = Field<'interval_tree_node', IntervalTreeNode>;

/** Makes an empty tree. */
export function initIntervalTree(cpu: Cpu, root: IntervalTreeRoot): void {
  write(cpu, root, IntervalTreeRoot.root, NULL);
  write(cpu, root, IntervalTreeRoot.leftmost, NULL);
}

/** Makes a node that is in no tree; a zeroed one is. @kernel RB_CLEAR_NODE */
export function initIntervalTreeNode(cpu: Cpu, node: IntervalTreeNode): void {
  write(cpu, node, IntervalTreeNode.color, 0);
}

/** True if the node is in a tree. @kernel RB_EMPTY_NODE, negated */
export function intervalTreeNodeLinked(cpu: Cpu, node: IntervalTreeNode): boolean {
  return read(cpu, node, IntervalTreeNode.color) !== 0;
}

/** The node's interval, as a range to search for. */
export function intervalRange(node: IntervalTreeNode): IntervalRange {
  return (node + IntervalTreeNode.start) as IntervalRange;
}

// --- search ---

/** The first node in order that intersects the range, or NULL. @kernel interval_tree_iter_first */
export function intervalTreeIterFirst(
  cpu: Cpu,
  root: IntervalTreeRoot,
  range: IntervalRange,
): IntervalTreeNode {
  const top = read(cpu, root, IntervalTreeRoot.root);
  if (top === 0) return NULL;
  const start = readAddress(cpu, range, IntervalRange.start);
  if (readAddress(cpu, top, IntervalTreeNode.subtreeLast) < start) return NULL;
  const leftmost = read(cpu, root, IntervalTreeRoot.leftmost);
  const last = readAddress(cpu, range, IntervalRange.last);
  if (readAddress(cpu, leftmost, IntervalTreeNode.start) > last) return NULL;
  return firstHit(cpu, top, range);
}

/** The next node in order that intersects the range, or NULL. @kernel interval_tree_iter_next */
export function intervalTreeIterNext(
  cpu: Cpu,
  from: IntervalTreeNode,
  range: IntervalRange,
): IntervalTreeNode {
  const start = readAddress(cpu, range, IntervalRange.start);
  const last = readAddress(cpu, range, IntervalRange.last);
  let node = from;
  for (;;) {
    const right = read(cpu, node, IntervalTreeNode.right);
    if (right !== 0 && readAddress(cpu, right, IntervalTreeNode.subtreeLast) >= start) {
      return firstHit(cpu, right, range);
    }
    node = nextAbove(cpu, node);
    if (node === 0 || readAddress(cpu, node, IntervalTreeNode.start) > last) return NULL;
    if (readAddress(cpu, node, IntervalTreeNode.last) >= start) return node;
  }
}

/**
 * The first node of a subtree that intersects the range, or NULL. Some node of the subtree must reach
 * the range.
 */
function firstHit(cpu: Cpu, top: IntervalTreeNode, range: IntervalRange): IntervalTreeNode {
  const start = readAddress(cpu, range, IntervalRange.start);
  let node = top;
  for (;;) {
    if (readAddress(cpu, node, LEFT_LAST) >= start) {
      node = read(cpu, node, LEFT);
    } else {
      if (readAddress(cpu, node, LAST) >= start) break;
      node = read(cpu, node, RIGHT);
    }
  }
  const last = readAddress(cpu, range, IntervalRange.last);
  return readAddress(cpu, node, IntervalTreeNode.start) <= last ? node : NULL;
}

/** The next node in order among those above this one, or NULL. */
function nextAbove(cpu: Cpu, below: IntervalTreeNode): IntervalTreeNode {
  let node = below;
  for (;;) {
    const parent = read(cpu, node, IntervalTreeNode.parent);
    if (parent === 0 || read(cpu, parent, IntervalTreeNode.left) === node) return parent;
    node = parent;
  }
}

// --- changes ---

/**
 * Adds a node whose start and last are set, behind all that have the same start.
 *
 * @kernel interval_tree_insert
 */
export function intervalTreeInsert(cpu: Cpu, root: IntervalTreeRoot, node: IntervalTreeNode): void {
  if (intervalTreeNodeLinked(cpu, node)) bug(`interval ${node} is in a tree (I5)`);
  const start = readAddress(cpu, node, IntervalTreeNode.start);
  const last = readAddress(cpu, node, IntervalTreeNode.last);
  if (start > last) bug(`interval ${node} ends before it starts`);
  let parent: IntervalTreeNode = NULL;
  let side: ChildField = IntervalTreeNode.left;
  let isLeftmost = true;
  for (let next = read(cpu, root, IntervalTreeRoot.root); next !== 0;) {
    parent = next;
    if (readAddress(cpu, parent, IntervalTreeNode.subtreeLast) < last) {
      writeAddress(cpu, parent, IntervalTreeNode.subtreeLast, last);
    }
    const isBefore = start < readAddress(cpu, parent, IntervalTreeNode.start);
    if (isBefore && readAddress(cpu, parent, IntervalTreeNode.leftLast) < last) {
      writeAddress(cpu, parent, IntervalTreeNode.leftLast, last);
    }
    side = isBefore ? IntervalTreeNode.left : IntervalTreeNode.right;
    isLeftmost &&= isBefore;
    next = read(cpu, parent, side);
  }
  write(cpu, node, IntervalTreeNode.left, NULL);
  write(cpu, node, IntervalTreeNode.right, NULL);
  write(cpu, node, IntervalTreeNode.parent, parent);
  write(cpu, node, IntervalTreeNode.color, RED);
  refreshLast(cpu, node);
  if (isLeftmost) write(cpu, root, IntervalTreeRoot.leftmost, node);
  if (parent === 0) write(cpu, root, IntervalTreeRoot.root, node);
  else write(cpu, parent, side, node);
  fixAfterInsertion(cpu, root, node);
}

/** Takes a node out of its tree. @kernel interval_tree_remove */
export function intervalTreeRemove(cpu: Cpu, root: IntervalTreeRoot, node: IntervalTreeNode): void {
  if (!intervalTreeNodeLinked(cpu, node)) bug(`interval ${node} is in no tree (I5)`);
  if (read(cpu, root, IntervalTreeRoot.leftmost) === node) {
    write(cpu, root, IntervalTreeRoot.leftmost, nextInOrder(cpu, node));
  }
  const left = read(cpu, node, IntervalTreeNode.left);
  const right = read(cpu, node, IntervalTreeNode.right);
  let spliced = node; // what leaves its place: the node, or else its heir
  if (left !== 0 && right !== 0) spliced = nextInOrder(cpu, node);
  const color = read(cpu, spliced, IntervalTreeNode.color);
  const child = spliced === node && left !== 0 ? left : read(cpu, spliced, IntervalTreeNode.right);
  let parent = read(cpu, spliced, IntervalTreeNode.parent);
  replaceChild(cpu, root, parent, spliced, child);
  if (spliced !== node) {
    takePlace(cpu, root, node, spliced);
    if (parent === node) parent = spliced;
  }
  write(cpu, node, IntervalTreeNode.color, 0);
  for (let above = parent; above !== 0; above = read(cpu, above, IntervalTreeNode.parent)) {
    refreshLast(cpu, above);
  }
  if (color === BLACK) fixAfterRemoval(cpu, root, child, parent);
}

/** The next node in order, or NULL. */
function nextInOrder(cpu: Cpu, node: IntervalTreeNode): IntervalTreeNode {
  let next = read(cpu, node, IntervalTreeNode.right);
  if (next === 0) return nextAbove(cpu, node);
  for (;;) {
    const left = read(cpu, next, IntervalTreeNode.left);
    if (left === 0) return next;
    next = left;
  }
}

/** Puts a child, which may be NULL, where another one was; the parent of the root is NULL. */
function replaceChild(
  cpu: Cpu,
  root: IntervalTreeRoot,
  parent: IntervalTreeNode,
  before: IntervalTreeNode,
  child: IntervalTreeNode,
): void {
  if (child !== 0) write(cpu, child, IntervalTreeNode.parent, parent);
  if (parent === 0) write(cpu, root, IntervalTreeRoot.root, child);
  else write(cpu, parent, sideOf(cpu, parent, before), child);
}

/** Which child of its parent a node is. */
function sideOf(cpu: Cpu, parent: IntervalTreeNode, node: IntervalTreeNode): ChildField {
  const isLeft = read(cpu, parent, IntervalTreeNode.left) === node;
  return isLeft ? IntervalTreeNode.left : IntervalTreeNode.right;
}

/** Gives a node that is out of the tree the place, children and color of one that is in it. */
function takePlace(
  cpu: Cpu,
  root: IntervalTreeRoot,
  node: IntervalTreeNode,
  heir: IntervalTreeNode,
): void {
  const left = read(cpu, node, IntervalTreeNode.left);
  const right = read(cpu, node, IntervalTreeNode.right);
  replaceChild(cpu, root, read(cpu, node, IntervalTreeNode.parent), node, heir);
  write(cpu, heir, IntervalTreeNode.color, read(cpu, node, IntervalTreeNode.color));
  write(cpu, heir, IntervalTreeNode.left, left);
  write(cpu, heir, IntervalTreeNode.right, right);
  if (left !== 0) write(cpu, left, IntervalTreeNode.parent, heir);
  if (right !== 0) write(cpu, right, IntervalTreeNode.parent, heir);
}

/** Recomputes what a node knows of its subtree from what its children know (I2). */
function refreshLast(cpu: Cpu, node: IntervalTreeNode): void {
  const left = read(cpu, node, IntervalTreeNode.left);
  const right = read(cpu, node, IntervalTreeNode.right);
  const last = readAddress(cpu, node, IntervalTreeNode.last);
  const leftLast = left === 0 ? NOTHING : readAddress(cpu, left, IntervalTreeNode.subtreeLast);
  const rightLast = right === 0 ? NOTHING : readAddress(cpu, right, IntervalTreeNode.subtreeLast);
  writeAddress(cpu, node, IntervalTreeNode.leftLast, leftLast);
  writeAddress(cpu, node, IntervalTreeNode.subtreeLast, Math.max(last, leftLast, rightLast));
}

// --- balance (I3) ---

/** Missing children count as black. */
function isRed(cpu: Cpu, node: IntervalTreeNode): boolean {
  return node !== 0 && read(cpu, node, IntervalTreeNode.color) === RED;
}

/** A red node was added, perhaps below a red one. */
function fixAfterInsertion(cpu: Cpu, root: IntervalTreeRoot, added: IntervalTreeNode): void {
  let node = added;
  for (;;) {
    const parent = read(cpu, node, IntervalTreeNode.parent);
    if (parent === 0) {
      write(cpu, node, IntervalTreeNode.color, BLACK);
      return;
    }
    if (!isRed(cpu, parent)) return;
    const grandparent = read(cpu, parent, IntervalTreeNode.parent); // a red node is not the root
    const uncle = siblingOf(cpu, grandparent, parent);
    write(cpu, grandparent, IntervalTreeNode.color, RED);
    if (!isRed(cpu, uncle)) {
      const isInner = sideOf(cpu, parent, node) !== sideOf(cpu, grandparent, parent);
      const top = isInner ? node : parent;
      if (isInner) rotateUp(cpu, root, node);
      write(cpu, top, IntervalTreeNode.color, BLACK);
      rotateUp(cpu, root, top);
      return;
    }
    write(cpu, parent, IntervalTreeNode.color, BLACK);
    write(cpu, uncle, IntervalTreeNode.color, BLACK);
    node = grandparent;
  }
}

/** The subtree of `short`, which may be NULL, has become one black node too short. */
function fixAfterRemoval(
  cpu: Cpu,
  root: IntervalTreeRoot,
  short: IntervalTreeNode,
  shortParent: IntervalTreeNode,
): void {
  let node = short;
  let parent = shortParent;
  while (parent !== 0 && !isRed(cpu, node)) {
    let sibling = siblingOf(cpu, parent, node);
    if (isRed(cpu, sibling)) {
      write(cpu, sibling, IntervalTreeNode.color, BLACK);
      write(cpu, parent, IntervalTreeNode.color, RED);
      rotateUp(cpu, root, sibling);
      sibling = siblingOf(cpu, parent, node);
    }
    const side = sideOf(cpu, parent, sibling);
    let outer = read(cpu, sibling, side);
    const inner = siblingOf(cpu, sibling, outer);
    if (isRed(cpu, inner) || isRed(cpu, outer)) {
      if (!isRed(cpu, outer)) {
        rotateUp(cpu, root, inner);
        outer = sibling;
        sibling = inner;
      }
      write(cpu, sibling, IntervalTreeNode.color, read(cpu, parent, IntervalTreeNode.color));
      write(cpu, parent, IntervalTreeNode.color, BLACK);
      write(cpu, outer, IntervalTreeNode.color, BLACK);
      rotateUp(cpu, root, sibling);
      return;
    }
    write(cpu, sibling, IntervalTreeNode.color, RED); // now the parent's subtree is as short
    node = parent;
    parent = read(cpu, node, IntervalTreeNode.parent);
  }
  if (node !== 0) write(cpu, node, IntervalTreeNode.color, BLACK);
}

/** The other child of a node's parent. Of a missing child too, unless both are missing. */
function siblingOf(cpu: Cpu, parent: IntervalTreeNode, node: IntervalTreeNode): IntervalTreeNode {
  const left = read(cpu, parent, IntervalTreeNode.left);
  return left === node ? read(cpu, parent, IntervalTreeNode.right) : left;
}

/**
 * Puts a node in its parent's place, and the parent below it; the order stays as it is.
 *
 *         parent          node
 *         /    \         /    \
 *       node    C   →   A    parent        and the mirror image
 *       /  \                 /    \
 *      A    B               B      C
 */
function rotateUp(cpu: Cpu, root: IntervalTreeRoot, node: IntervalTreeNode): void {
  const parent = read(cpu, node, IntervalTreeNode.parent);
  const side = sideOf(cpu, parent, node);
  const otherSide = side === IntervalTreeNode.left ? IntervalTreeNode.right : IntervalTreeNode.left;
  const middle = read(cpu, node, otherSide);
  replaceChild(cpu, root, read(cpu, parent, IntervalTreeNode.parent), parent, node);
  write(cpu, parent, side, middle);
  if (middle !== 0) write(cpu, middle, IntervalTreeNode.parent, parent);
  write(cpu, node, otherSide, parent);
  write(cpu, parent, IntervalTreeNode.parent, node);
  refreshLast(cpu, parent);
  refreshLast(cpu, node);
}

// --- check ---

/** Checks I1 to I5, for tests and debugging. @throws KernelBug that names what is wrong. */
export function intervalTreeCheck(cpu: Cpu, root: IntervalTreeRoot): void {
  const top = read(cpu, root, IntervalTreeRoot.root);
  if (isRed(cpu, top)) bug(`interval tree ${root}: the root is red (I3)`);
  checkSubtree(cpu, top, NULL);
  let first = top;
  for (let node = top; node !== 0; node = read(cpu, node, IntervalTreeNode.left)) first = node;
  if (read(cpu, root, IntervalTreeRoot.leftmost) !== first)
    bug(`interval tree ${root}: leftmost (I4)`);
  let before = first;
  for (let node = first; node !== 0; node = nextInOrder(cpu, node)) {
    const start = readAddress(cpu, node, IntervalTreeNode.start);
    if (start < readAddress(cpu, before, IntervalTreeNode.start))
      bug(`interval ${node}: order (I1)`);
    before = node;
  }
}

/** Checks a subtree; returns how many black nodes every way down from its root meets. */
function checkSubtree(cpu: Cpu, node: IntervalTreeNode, parent: IntervalTreeNode): number {
  if (node === 0) return 0;
  const left = read(cpu, node, IntervalTreeNode.left);
  const right = read(cpu, node, IntervalTreeNode.right);
  const color = read(cpu, node, IntervalTreeNode.color);
  if (read(cpu, node, IntervalTreeNode.parent) !== parent) bug(`interval ${node}: parent`);
  if (color !== RED && color !== BLACK) bug(`interval ${node}: color ${color} (I5)`);
  if (color === RED && (isRed(cpu, left) || isRed(cpu, right))) {
    bug(`interval ${node}: a red child of a red node (I3)`);
  }
  const blacks = checkSubtree(cpu, left, node);
  if (checkSubtree(cpu, right, node) !== blacks) bug(`interval ${node}: black height (I3)`);
  checkLast(cpu, node, left, right);
  return blacks + (color === BLACK ? 1 : 0);
}

/** Checks what a node knows of its subtree (I2), and that its interval is one. */
function checkLast(
  cpu: Cpu,
  node: IntervalTreeNode,
  left: IntervalTreeNode,
  right: IntervalTreeNode,
): void {
  const last = readAddress(cpu, node, IntervalTreeNode.last);
  if (readAddress(cpu, node, IntervalTreeNode.start) > last)
    bug(`interval ${node}: ends too early`);
  const ofLeft = left === 0 ? NOTHING : readAddress(cpu, left, IntervalTreeNode.subtreeLast);
  const ofRight = right === 0 ? NOTHING : readAddress(cpu, right, IntervalTreeNode.subtreeLast);
  if (readAddress(cpu, node, IntervalTreeNode.leftLast) !== ofLeft) {
    bug(`interval ${node}: leftLast (I2)`);
  }
  if (readAddress(cpu, node, IntervalTreeNode.subtreeLast) !== Math.max(last, ofLeft, ofRight)) {
    bug(`interval ${node}: subtreeLast (I2)`);
  }
}
