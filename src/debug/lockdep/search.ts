/**
 * Searches of the graph of lock orders along strong paths.
 *
 * Kernel     kernel/locking/lockdep.c (__bfs)
 * Protocol   Breadth first, so that what is found is short. A path is strong if nowhere an edge that ends in a
 *            recursive read (x R) is followed by one that begins with a shared hold (S x): a reader who holds
 *            the lock keeps no other recursive reader waiting. A node is therefore a class and how it was
 *            reached: `weak` if only so that the next edge must not be one of those. Backwards the same holds
 *            with the letters exchanged.
 * Deviation  A class is visited at most twice, once for each way of reaching it; Linux visits it once, and may
 *            overlook a strong path to a class that it has first reached by a weak one.
 *
 * @module
 */
import type { Cpu } from '../../machine/cpu.js';
import {
  CLASSES_MAX,
  EDGE_EN,
  EDGE_ER,
  EDGE_SN,
  edgeEnd,
  edgeKinds,
  firstEdge,
  type LockGraph,
  nextEdge,
  usageOf,
} from './graph.js';

/** A search, and how each class was reached. One for each CPU, used again and again. */
export interface Search {
  /** Class, and weak, of each node in the order they were reached. */
  readonly nodes: Int32Array;
  /** From which node. */
  readonly parents: Int32Array;
  /** By which edge. */
  readonly edges: Int32Array;
  readonly seen: Uint8Array;
  count: number;
}

export function newSearch(): Search {
  const size = 2 * CLASSES_MAX;
  return {
    nodes: new Int32Array(size),
    parents: new Int32Array(size),
    edges: new Int32Array(size),
    seen: new Uint8Array(size),
    count: 0,
  };
}

/** Usages that are not of a read: only those count at the end of a weak path. */
const WRITE_USAGES = 0x55;

/** A path to the class `target` that, closed by an edge of a shared or an exclusive hold, is strong; or -1. */
export function findClass(
  cpu: Cpu,
  graph: LockGraph,
  search: Search,
  from: number,
  weak: boolean,
  target: number,
  targetShared: boolean,
): number {
  begin(search, from, weak);
  for (let i = 0; i < search.count; i++) {
    const isWeak = isWeakAt(search, i);
    if (classAt(search, i) === target && !(isWeak && targetShared)) return i;
    expand(cpu, graph, search, i, false);
  }
  return -1;
}

/** A class with one of the usages, as far as they count at the end of the path to it; or -1. */
export function findUsage(
  cpu: Cpu,
  graph: LockGraph,
  search: Search,
  from: number,
  weak: boolean,
  usages: number,
  backwards: boolean,
): number {
  begin(search, from, weak);
  for (let i = 0; i < search.count; i++) {
    if ((usagesAt(cpu, graph, search, i) & usages) !== 0) return i;
    expand(cpu, graph, search, i, backwards);
  }
  return -1;
}

/** All usages of the classes before this one. */
export function usagesBefore(
  cpu: Cpu,
  graph: LockGraph,
  search: Search,
  from: number,
  weak: boolean,
): number {
  begin(search, from, weak);
  let usages = 0;
  for (let i = 0; i < search.count; i++) {
    usages |= usagesAt(cpu, graph, search, i);
    expand(cpu, graph, search, i, true);
  }
  return usages;
}

/** The class of a node. */
export function classAt(search: Search, node: number): number {
  return (search.nodes[node] ?? 0) >> 1;
}

/** The nodes from the start of the search to this one. */
export function pathTo(search: Search, node: number): number[] {
  const path: number[] = [];
  for (let at = node; at >= 0; at = search.parents[at] ?? -1) path.unshift(at);
  return path;
}

/** The edge by which a node was reached; 0 for the start. */
export function edgeTo(search: Search, node: number): number {
  return search.edges[node] ?? 0;
}

function isWeakAt(search: Search, node: number): boolean {
  return ((search.nodes[node] ?? 0) & 1) !== 0;
}

function usagesAt(cpu: Cpu, graph: LockGraph, search: Search, node: number): number {
  const usages = usageOf(cpu, graph, classAt(search, node));
  return isWeakAt(search, node) ? usages & WRITE_USAGES : usages;
}

function begin(search: Search, from: number, weak: boolean): void {
  search.seen.fill(0);
  search.count = 0;
  reach(search, from, weak, -1, 0);
}

function reach(search: Search, at: number, weak: boolean, parent: number, edge: number): void {
  const node = 2 * at + (weak ? 1 : 0);
  // who was reached strongly need not be reached weakly
  if (search.seen[node] === 1 || search.seen[2 * at] === 1) return;
  search.seen[node] = 1;
  const { count } = search;
  search.nodes[count] = node;
  search.parents[count] = parent;
  search.edges[count] = edge;
  search.count = count + 1;
}

/** Follows the edges of a node that make a strong path. */
function expand(
  cpu: Cpu,
  graph: LockGraph,
  search: Search,
  node: number,
  backwards: boolean,
): void {
  const weak = isWeakAt(search, node);
  // after a weak arrival: edges that begin exclusively, or backwards those that end in N
  const strongStart = backwards ? EDGE_EN | EDGE_SN : EDGE_EN | EDGE_ER;
  // kinds after which anything may follow
  const strongEnd = backwards ? EDGE_EN | EDGE_ER : EDGE_EN | EDGE_SN;
  let edge = firstEdge(cpu, graph, classAt(search, node), backwards);
  for (; edge !== 0; edge = nextEdge(cpu, graph, edge, backwards)) {
    const kinds = edgeKinds(cpu, graph, edge);
    const left = weak ? kinds & strongStart : kinds;
    if (left === 0) continue;
    reach(search, edgeEnd(cpu, graph, edge, backwards), (left & strongEnd) === 0, node, edge);
  }
}
