/**
 * The graph of lock orders, in the machine's memory: what all CPUs have learned together.
 *
 * Protocol   classes  a hash table by class and subclass; each with the contexts it was taken in, and lists of
 *                     the edges that leave and enter it
 *            edges    `to` was waited for by somebody who held `from`; which kinds of each is a set:
 *
 *                       EN ER SN SR   first letter: `from` was held exclusively, or shared
 *                                     second: `to` was taken so that readers who come later wait (N), or
 *                                     recursively (R)
 *
 *            chains   hashes of (locks held, lock taken, context) that have been looked at: whoever meets
 *                     one of them again is done
 *            traces   the stack by which an edge or a context was first seen, as text
 * Invariant  I1  Classes, edges and chains are only added.
 *            I2  A chain is entered before its edges are, by the same holder of the lock.
 * Ordering   All is written under `lock`. Chains are also looked up without it, by plain loads: half an entry
 *            is no match, and leads under the lock.
 * Deviation  What is full stays full: orders that do not fit are not learned, and the reports say so. In the
 *            turnstile build the tables are small, and there are no traces: a schedule can be run again.
 *
 * @module
 */
import { BUILD, readOwn, watchLock, watchUnlock, writeOwn } from '#memory';

import type { Cpu } from '../../machine/cpu.js';
import { LOCKDEP_WORDS } from '../../machine/limits.js';
import { lockClassName } from '../../machine/lock-class.js';
import { LockReports, lockReportsOf } from '../../machine/lock-report.js';
import { readText, textWords, writeText } from '../../machine/own-text.js';
import { cacheline, element, NULL, type Ptr, struct, word, words } from '../../memory/layout.js';

const IS_SMALL = BUILD === 'turnstile';
/** Powers of two: both are hash tables. */
export const CLASSES_MAX = IS_SMALL ? 128 : 512;
const CHAINS_MAX = IS_SMALL ? 1024 : 16_384;
const EDGES_MAX = IS_SMALL ? 512 : 4096;
const TRACES_WORDS = IS_SMALL ? 0 : 2 ** 18;
/** Places looked at before a table counts as full. */
const PROBES_MAX = 64;

/** Contexts that a class is marked with: usage.ts. */
export const USAGES = 8;

// words of a class
const C_KEY = 0; // the LockClass; 0 = free
const C_SUBCLASS = 1;
const C_USAGE = 2; // a bit for each usage
const C_OUT = 3; // first edge that leaves it
const C_IN = 4; // first edge that enters it
const C_TRACES = 5; // of each usage
const CLASS_WORDS = C_TRACES + USAGES;

// words of an edge; edge 0 is none
const E_FROM = 0;
const E_TO = 1;
const E_KINDS = 2;
const E_NEXT_OUT = 3; // next edge that leaves `from`
const E_NEXT_IN = 4; // next edge that enters `to`
const E_TRACE = 5;
const EDGE_WORDS = 6;

/** Kinds of an edge, as a set. */
export const EDGE_EN = 1;
export const EDGE_ER = 2;
export const EDGE_SN = 4;
export const EDGE_SR = 8;

/** The graph. */
export const LockGraph = struct('lock_graph', {
  lock: word, // all of the below; 0 = free
  primed: word, // the orders that hold without anybody having been seen to follow them are in
  full: word, // something did not fit
  edgeCount: word, // edges, and the one that is none
  traceEnd: word, // words of traces in use
  line1: cacheline,
  classes: words(CLASSES_MAX * CLASS_WORDS),
  edges: words(EDGES_MAX * EDGE_WORDS),
  chains: words(2 * CHAINS_MAX),
  traces: words(TRACES_WORDS), // each a length, then two characters to a word
});
export type LockGraph = Ptr<'lock_graph'>;

/** The machine's graph; NULL if its memory has no room for one of this build. */
export function lockGraphOf(cpu: Cpu): LockGraph {
  const reports = lockReportsOf(cpu);
  const at = Math.ceil((reports + LockReports.words) / LockGraph.alignment) * LockGraph.alignment;
  const isFit =
    reports !== 0 && at + LockGraph.words <= reports + LockReports.words + LOCKDEP_WORDS;
  return isFit ? (at as LockGraph) : NULL;
}

/** Nobody else changes the graph until unlockGraph. */
export function lockGraph(cpu: Cpu, graph: LockGraph): void {
  watchLock(cpu, graph, LockGraph.lock);
}

export function unlockGraph(cpu: Cpu, graph: LockGraph): void {
  watchUnlock(cpu, graph, LockGraph.lock);
}

/** Something does not fit: the graph no longer learns everything. */
function setFull(cpu: Cpu, graph: LockGraph): void {
  writeOwn(cpu, graph, LockGraph.full, 1);
}

/** True if the graph may have missed something. */
export function isGraphFull(cpu: Cpu, graph: LockGraph): boolean {
  return readOwn(cpu, graph, LockGraph.full) !== 0;
}

// --- chains ---

/** True if somebody has been here. Needs no lock. */
export function hasChain(cpu: Cpu, graph: LockGraph, key1: number, key2: number): boolean {
  for (let probe = 0; probe < PROBES_MAX; probe++) {
    const slot = 2 * ((key1 + probe) & (CHAINS_MAX - 1));
    const known = readOwn(cpu, graph, element(LockGraph.chains, slot));
    if (known === 0) return false;
    if (known === key1 && readOwn(cpu, graph, element(LockGraph.chains, slot + 1)) === key2) {
      return true;
    }
  }
  return false;
}

/** Enters a chain; false if it is there already. The graph's lock must be held. */
export function addChain(cpu: Cpu, graph: LockGraph, key1: number, key2: number): boolean {
  for (let probe = 0; probe < PROBES_MAX; probe++) {
    const slot = 2 * ((key1 + probe) & (CHAINS_MAX - 1));
    const known = readOwn(cpu, graph, element(LockGraph.chains, slot));
    if (known === key1 && readOwn(cpu, graph, element(LockGraph.chains, slot + 1)) === key2) {
      return false;
    }
    if (known !== 0) continue;
    writeOwn(cpu, graph, element(LockGraph.chains, slot + 1), key2);
    writeOwn(cpu, graph, element(LockGraph.chains, slot), key1);
    return true;
  }
  setFull(cpu, graph);
  return true; // it will be looked at each time
}

// --- classes; all of these need the graph's lock ---

function classField(index: number, offset: number): ReturnType<typeof element<'lock_graph'>> {
  return element(LockGraph.classes, index * CLASS_WORDS + offset);
}

/** The place of a class, made if it is new; -1 if there is no room. */
export function classIndex(
  cpu: Cpu,
  graph: LockGraph,
  lockClass: number,
  subclass: number,
): number {
  const start = lockClass + subclass * 31;
  for (let probe = 0; probe < PROBES_MAX; probe++) {
    const index = (start + probe) & (CLASSES_MAX - 1);
    const key = readOwn(cpu, graph, classField(index, C_KEY));
    if (key === lockClass && readOwn(cpu, graph, classField(index, C_SUBCLASS)) === subclass) {
      return index;
    }
    if (key !== 0) continue;
    writeOwn(cpu, graph, classField(index, C_KEY), lockClass);
    writeOwn(cpu, graph, classField(index, C_SUBCLASS), subclass);
    return index;
  }
  setFull(cpu, graph);
  return -1;
}

/** What a class is called: `mmap_lock`, or `mmap_lock/1` for a subclass. */
export function classNameAt(cpu: Cpu, graph: LockGraph, index: number): string {
  const name = lockClassName(readOwn(cpu, graph, classField(index, C_KEY)));
  const subclass = readOwn(cpu, graph, classField(index, C_SUBCLASS));
  return subclass === 0 ? name : `${name}/${subclass}`;
}

/** The contexts that the class was taken in: a set of usages. */
export function usageOf(cpu: Cpu, graph: LockGraph, index: number): number {
  return readOwn(cpu, graph, classField(index, C_USAGE));
}

/** Adds a usage, with the trace by which it came. */
export function addUsage(
  cpu: Cpu,
  graph: LockGraph,
  index: number,
  usage: number,
  trace: number,
): void {
  const field = classField(index, C_USAGE);
  writeOwn(cpu, graph, field, readOwn(cpu, graph, field) | (1 << usage));
  writeOwn(cpu, graph, classField(index, C_TRACES + usage), trace);
}

/** The trace by which a usage came. */
export function usageTrace(cpu: Cpu, graph: LockGraph, index: number, usage: number): number {
  return readOwn(cpu, graph, classField(index, C_TRACES + usage));
}

// --- edges; all of these need the graph's lock ---

function edgeField(edge: number, offset: number): ReturnType<typeof element<'lock_graph'>> {
  return element(LockGraph.edges, edge * EDGE_WORDS + offset);
}

/** The first edge that leaves a class, or with `backwards` that enters it; 0 if there is none. */
export function firstEdge(cpu: Cpu, graph: LockGraph, index: number, backwards: boolean): number {
  return readOwn(cpu, graph, classField(index, backwards ? C_IN : C_OUT));
}

/** The next edge of that list. */
export function nextEdge(cpu: Cpu, graph: LockGraph, edge: number, backwards: boolean): number {
  return readOwn(cpu, graph, edgeField(edge, backwards ? E_NEXT_IN : E_NEXT_OUT));
}

/** The class at the other end. */
export function edgeEnd(cpu: Cpu, graph: LockGraph, edge: number, backwards: boolean): number {
  return readOwn(cpu, graph, edgeField(edge, backwards ? E_FROM : E_TO));
}

/** EDGE_*, as a set. */
export function edgeKinds(cpu: Cpu, graph: LockGraph, edge: number): number {
  return readOwn(cpu, graph, edgeField(edge, E_KINDS));
}

/** The trace by which the edge was first seen; 0 if none was kept. */
export function edgeTrace(cpu: Cpu, graph: LockGraph, edge: number): number {
  return readOwn(cpu, graph, edgeField(edge, E_TRACE));
}

/** The edge between two classes; 0 if there is none. */
export function findEdge(cpu: Cpu, graph: LockGraph, from: number, to: number): number {
  let edge = firstEdge(cpu, graph, from, false);
  while (edge !== 0 && edgeEnd(cpu, graph, edge, false) !== to) {
    edge = nextEdge(cpu, graph, edge, false);
  }
  return edge;
}

/** One more kind of an edge that is there. */
export function addEdgeKind(cpu: Cpu, graph: LockGraph, edge: number, kind: number): void {
  writeOwn(cpu, graph, edgeField(edge, E_KINDS), edgeKinds(cpu, graph, edge) | kind);
}

/** A new edge. */
export function addEdge(
  cpu: Cpu,
  graph: LockGraph,
  from: number,
  to: number,
  kind: number,
  trace: number,
): void {
  const edge = Math.max(1, readOwn(cpu, graph, LockGraph.edgeCount));
  if (edge === EDGES_MAX) {
    setFull(cpu, graph);
    return;
  }
  writeOwn(cpu, graph, LockGraph.edgeCount, edge + 1);
  writeOwn(cpu, graph, edgeField(edge, E_FROM), from);
  writeOwn(cpu, graph, edgeField(edge, E_TO), to);
  writeOwn(cpu, graph, edgeField(edge, E_KINDS), kind);
  writeOwn(cpu, graph, edgeField(edge, E_TRACE), trace);
  writeOwn(cpu, graph, edgeField(edge, E_NEXT_OUT), firstEdge(cpu, graph, from, false));
  writeOwn(cpu, graph, edgeField(edge, E_NEXT_IN), firstEdge(cpu, graph, to, true));
  writeOwn(cpu, graph, classField(from, C_OUT), edge);
  writeOwn(cpu, graph, classField(to, C_IN), edge);
}

// --- traces; these need the graph's lock ---

/** Keeps a trace; 0 if there is no room. */
export function keepTrace(cpu: Cpu, graph: LockGraph, text: string): number {
  const at = Math.max(1, readOwn(cpu, graph, LockGraph.traceEnd));
  const end = at + textWords(text.length);
  if (end > TRACES_WORDS) return 0;
  writeOwn(cpu, graph, LockGraph.traceEnd, end);
  writeText(cpu, graph, LockGraph.traces, at, text);
  return at;
}

/** A trace that was kept. */
export function traceText(cpu: Cpu, graph: LockGraph, trace: number): string {
  return trace === 0 ? '' : readText(cpu, graph, LockGraph.traces, trace);
}

/** True if this build keeps traces. */
export const KEEPS_TRACES = TRACES_WORDS > 0;
