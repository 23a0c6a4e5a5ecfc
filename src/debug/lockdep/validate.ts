/**
 * What is learned when locks are taken in an order that nobody has taken them in before.
 *
 * Kernel     kernel/locking/lockdep.c (validate_chain, check_prevs_add, check_wait_context)
 * Protocol   Of what is prepared (task.ts), in this order:
 *
 *              wait type   the locks held, and the interrupt, must allow to wait as this lock does
 *              context     interrupts: usage.ts
 *              recursion   a class is held once, unless both are reads and the second is recursive, or a lock
 *                          around all of the class is held
 *              order       an edge from each lock held, inwards out, up to the first that was waited for and is
 *                          no recursive read: it has its own edges from those further out. Before an edge is
 *                          added it is asked whether a strong path leads back (INV-38)
 *
 *            A lock that was tried adds no edge to itself: nobody waited. It does have edges to what is taken
 *            under it.
 * Invariant  I1  What was reported is learned all the same, so that the next report is about something else.
 * Deviation  Linux stops at a recursive read as well; a path over it may be weak where the direct one is not.
 *            A path to what is already learned is asked for again when another kind of the edge comes.
 *
 * @module
 */
import type { Cpu } from '../../machine/cpu.js';
import {
  innerWaitOf,
  LOCK_NESTED,
  LOCK_UNCHECKED,
  outerWaitOf,
  subclassOf,
  WAIT_CONFIG,
  WAIT_MAX,
  WAIT_SPIN,
} from '../lock-how.js';
import {
  addEdge,
  addEdgeKind,
  classIndex,
  EDGE_EN,
  EDGE_ER,
  EDGE_SN,
  EDGE_SR,
  edgeKinds,
  findEdge,
  isGraphFull,
} from './graph.js';
import { heldName, reportCycle, reportPlain, reportRecursion } from './report.js';
import { findClass } from './search.js';
import {
  findHeld,
  heldClass,
  heldHow,
  heldInstance,
  heldNest,
  inSameContext,
  isMap,
  isRecursive,
  isShared,
  isTry,
  type LockdepTask,
} from './task.js';
import { checkIrqOrder, currentTrace, markContext } from './usage.js';

type Above = (...args: never) => unknown;

/** Looks at what is prepared. The graph's lock must be held; `above` is whose caller the stacks begin with. */
export function validate(cpu: Cpu, task: LockdepTask, above: Above): void {
  const entry = task.depth;
  const how = heldHow(task, entry);
  task.trace = 0;
  checkWaitContext(cpu, task, above);
  if ((how & LOCK_UNCHECKED) !== 0) return;
  const index = classIndex(cpu, task.graph, heldClass(task, entry), subclassOf(how));
  if (index >= 0) {
    markContext(cpu, task, index, above);
    if (!isTry(how) && !checkRecursion(cpu, task, above)) addOrders(cpu, task, index, above);
  }
  if (isGraphFull(cpu, task.graph)) {
    reportPlain(cpu, task, 'the graph of lock orders is full: not all orders are looked at', above);
  }
}

// --- wait types ---

/** A lock must not wait in a way that those held do not allow. @kernel check_wait_context */
function checkWaitContext(cpu: Cpu, task: LockdepTask, above: Above): void {
  const how = heldHow(task, task.depth);
  const wanted = outerWaitOf(how);
  if (innerWaitOf(how) === 0 || isTry(how)) return;
  let allowed = contextWait(task);
  let by = 'the interrupt';
  for (let entry = task.depth - 1; entry >= 0; entry--) {
    if (!inSameContext(task, entry, task.depth)) break;
    const inner = innerWaitOf(heldHow(task, entry));
    if (inner === 0 || inner >= allowed) continue;
    allowed = inner;
    by = heldName(task, entry);
  }
  if (wanted <= allowed) return;
  const name = heldName(task, task.depth);
  reportPlain(cpu, task, `invalid wait context: ${name} may not be waited for under ${by}`, above);
}

/** How an interrupt may wait. @kernel task_wait_context */
function contextWait(task: LockdepTask): number {
  if (task.hardirqs > 0) return task.threaded ? WAIT_CONFIG : WAIT_SPIN;
  return task.softirqs > 0 ? WAIT_CONFIG : WAIT_MAX;
}

// --- recursion ---

/** True if no order is to be learned: a lock around all of the class is held. @kernel check_deadlock */
function checkRecursion(cpu: Cpu, task: LockdepTask, above: Above): boolean {
  const wanted = task.depth;
  const isNested = (heldHow(task, wanted) & LOCK_NESTED) !== 0;
  const nest = isNested ? findHeld(task, heldNest(task, wanted)) : -1;
  if (isNested && nest < 0) {
    const name = heldName(task, wanted);
    reportPlain(cpu, task, `nested lock was not taken: the one around ${name}`, above);
  }
  for (let entry = task.depth - 1; entry >= 0; entry--) {
    if (!isSameClass(task, entry, wanted)) continue;
    if (isRecursive(heldHow(task, wanted)) && isShared(heldHow(task, entry))) continue;
    if (nest >= 0) return true;
    reportRecursion(cpu, task, entry, above);
    return false;
  }
  return false;
}

function isSameClass(task: LockdepTask, a: number, b: number): boolean {
  return (
    heldClass(task, a) === heldClass(task, b) &&
    subclassOf(heldHow(task, a)) === subclassOf(heldHow(task, b))
  );
}

// --- orders ---

/** @kernel check_prevs_add */
function addOrders(cpu: Cpu, task: LockdepTask, to: number, above: Above): void {
  for (let entry = task.depth - 1; entry >= 0; entry--) {
    if (!inSameContext(task, entry, task.depth)) return;
    const how = heldHow(task, entry);
    if ((how & LOCK_UNCHECKED) !== 0) continue;
    const from = classIndex(cpu, task.graph, heldClass(task, entry), subclassOf(how));
    if (from < 0) return;
    if (from !== to) addOrder(cpu, task, entry, from, to, above);
    if (!isTry(how) && !isRecursive(how)) return;
  }
}

/** @kernel check_prev_add */
function addOrder(
  cpu: Cpu,
  task: LockdepTask,
  entry: number,
  from: number,
  to: number,
  above: Above,
): void {
  const { graph, search } = task;
  const isFromShared = isShared(heldHow(task, entry));
  const isToRecursive = isRecursive(heldHow(task, task.depth));
  const kind = isFromShared
    ? isToRecursive
      ? EDGE_SR
      : EDGE_SN
    : isToRecursive
      ? EDGE_ER
      : EDGE_EN;
  const edge = findEdge(cpu, graph, from, to);
  if (edge !== 0 && (edgeKinds(cpu, graph, edge) & kind) !== 0) return;
  const found = findClass(cpu, graph, search, to, isToRecursive, from, isFromShared);
  if (found >= 0) reportCycle(cpu, task, entry, found, above);
  checkIrqOrder(cpu, task, entry, from, to, above);
  if (edge !== 0)
    addEdgeKind(cpu, graph, edge, kind); // I1
  else addEdge(cpu, graph, from, to, kind, currentTrace(cpu, task, above));
}

/** A lock that is held is made anew, or its memory given back. @kernel debug_check_no_locks_freed */
export function checkFreed(
  cpu: Cpu,
  task: LockdepTask,
  at: number,
  words: number,
  above: Above,
): void {
  for (let entry = 0; entry < task.depth; entry++) {
    const instance = heldInstance(task, entry);
    if (instance < at || instance >= at + words || isMap(heldHow(task, entry))) continue;
    reportPlain(cpu, task, `held lock freed: ${heldName(task, entry)}`, above);
  }
}
