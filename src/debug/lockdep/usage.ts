/**
 * Interrupts: a lock that one takes must not be held where that interrupt may come, nor wait, through any other
 * locks, for one that is.
 *
 * Kernel     kernel/locking/lockdep.c (mark_lock, check_irq_usage)
 * Protocol   Each class is marked with the contexts it was taken in (usage-name.ts). A new mark is compared with
 *            the marks of the class, and with those of all that a strong path leads to: forwards from a lock
 *            taken in an interrupt to one taken where it may come, backwards the other way round. A new edge is
 *            compared at both of its ends.
 *
 * @module
 */
import { lowestBit } from '../../base/bits.js';
import type { Cpu } from '../../machine/cpu.js';
import { LOCK_SYNC, subclassOf } from '../lock-how.js';
import {
  addUsage,
  classIndex,
  classNameAt,
  KEEPS_TRACES,
  keepTrace,
  type LockGraph,
  usageOf,
} from './graph.js';
import { reportInconsistent, reportIrqOrder, stackAbove } from './report.js';
import { classAt, findUsage, pathTo, usagesBefore } from './search.js';
import {
  heldClass,
  heldHow,
  isRecursive,
  isShared,
  isTry,
  type LockdepTask,
  tookInHardirq,
  tookInSoftirq,
  tookWithHardirqs,
  tookWithSoftirqs,
} from './task.js';
import {
  ENABLED,
  ENABLED_ANY,
  excludedBy,
  exclusiveUsages,
  READ,
  SOFTIRQ,
  USED_IN,
  USED_IN_ANY,
} from './usage-name.js';

type Above = (...args: never) => unknown;

/** The trace of what is being looked at, kept once. The graph's lock must be held. */
export function currentTrace(cpu: Cpu, task: LockdepTask, above: Above): number {
  if (KEEPS_TRACES && task.trace === 0) task.trace = keepTrace(cpu, task.graph, stackAbove(above));
  return task.trace;
}

/** Marks the class of what is prepared with the context the CPU is in. The graph's lock must be held. */
export function markContext(cpu: Cpu, task: LockdepTask, index: number, above: Above): void {
  const entry = task.depth;
  const how = heldHow(task, entry);
  const read = isShared(how) ? READ : 0;
  if (!isTry(how)) {
    if (tookInHardirq(task, entry)) mark(cpu, task, entry, index, USED_IN + read, above);
    if (tookInSoftirq(task, entry)) mark(cpu, task, entry, index, SOFTIRQ + USED_IN + read, above);
  }
  if ((how & LOCK_SYNC) !== 0 || !tookWithHardirqs(task, entry)) return;
  mark(cpu, task, entry, index, ENABLED + read, above);
  if (tookWithSoftirqs(task, entry)) {
    mark(cpu, task, entry, index, SOFTIRQ + ENABLED + read, above);
  }
}

/** Marks all that the CPU holds: hard, or soft, interrupts are let in. The graph's lock must be held. */
export function markHeld(cpu: Cpu, task: LockdepTask, group: number, above: Above): void {
  for (let entry = 0; entry < task.depth; entry++) {
    const how = heldHow(task, entry);
    const index = classIndex(cpu, task.graph, heldClass(task, entry), subclassOf(how));
    const usage = group + ENABLED + (isShared(how) ? READ : 0);
    if (index >= 0) mark(cpu, task, entry, index, usage, above);
  }
}

function mark(
  cpu: Cpu,
  task: LockdepTask,
  entry: number,
  index: number,
  usage: number,
  above: Above,
): void {
  const { graph } = task;
  const before = usageOf(cpu, graph, index);
  if ((before & (1 << usage)) !== 0) return;
  addUsage(cpu, graph, index, usage, currentTrace(cpu, task, above));
  const excluded = excludedBy(usage);
  const isRead = (usage & READ) !== 0;
  // two readers do not keep each other out
  const clash = before & ((1 << excluded) | (isRead ? 0 : 1 << (excluded + READ)));
  if (clash !== 0) {
    reportInconsistent(cpu, task, entry, index, [lowestBit(clash), usage], above);
    return;
  }
  checkPaths(cpu, task, entry, index, usage, above);
}

/** Looks for a lock whose marks exclude the new one, where a strong path leads. */
function checkPaths(
  cpu: Cpu,
  task: LockdepTask,
  entry: number,
  index: number,
  usage: number,
  above: Above,
): void {
  const { graph, search } = task;
  const how = heldHow(task, entry);
  const backwards = (usage & ENABLED) !== 0;
  const excluded = excludedBy(usage);
  const clashes = (1 << excluded) | (1 << (excluded + READ));
  const weak = backwards ? isShared(how) : isRecursive(how);
  const found = findUsage(cpu, graph, search, index, weak, clashes, backwards);
  if (found < 0) return;
  const other = classAt(search, found);
  const otherUsage = lowestBit(usageOf(cpu, graph, other) & clashes);
  const names = pathTo(search, found).map((node) => classNameAt(cpu, graph, classAt(search, node)));
  const title = 'possible irq lock inversion dependency';
  const order = backwards
    ? { safe: other, safeUsage: otherUsage, unsafe: index, unsafeUsage: usage }
    : { safe: index, safeUsage: usage, unsafe: other, unsafeUsage: otherUsage };
  const between = backwards ? names.reverse() : names;
  reportIrqOrder(cpu, task, { title, ...order, between }, above);
}

/** Looks at both ends of the edge that is about to be added. The graph's lock must be held. */
export function checkIrqOrder(
  cpu: Cpu,
  task: LockdepTask,
  entry: number,
  from: number,
  to: number,
  above: Above,
): void {
  const { graph, search } = task;
  const isFromShared = isShared(heldHow(task, entry));
  const before = usagesBefore(cpu, graph, search, from, isFromShared) & USED_IN_ANY;
  if (before === 0) return;
  const weak = isRecursive(heldHow(task, task.depth));
  const found = findUsage(cpu, graph, search, to, weak, exclusiveUsages(before), false);
  if (found < 0) return;
  const unsafe = classAt(search, found);
  const after = classNames(cpu, graph, search, found);
  const safeUsages = exclusiveUsages(usageOf(cpu, graph, unsafe) & ENABLED_ANY);
  const back = findUsage(cpu, graph, search, from, isFromShared, safeUsages, true);
  if (back < 0) return;
  const safe = classAt(search, back);
  const path = classNames(cpu, graph, search, back).reverse();
  const [safeUsage, unsafeUsage] = clash(usageOf(cpu, graph, safe), usageOf(cpu, graph, unsafe));
  const title = 'irq-safe -> irq-unsafe lock order';
  const order = { title, safe, safeUsage, unsafe, unsafeUsage, between: [...path, ...after] };
  reportIrqOrder(cpu, task, order, above);
}

function classNames(
  cpu: Cpu,
  graph: LockGraph,
  search: LockdepTask['search'],
  node: number,
): string[] {
  return pathTo(search, node).map((at) => classNameAt(cpu, graph, classAt(search, at)));
}

/** Two usages that exclude each other, one of each set. */
function clash(safe: number, unsafe: number): readonly [safe: number, unsafe: number] {
  for (let rest = safe & USED_IN_ANY; rest !== 0; rest &= rest - 1) {
    const usage = lowestBit(rest);
    const excluded = unsafe & exclusiveUsages(1 << usage);
    if (excluded !== 0) return [usage, lowestBit(excluded)];
  }
  return [lowestBit(safe), lowestBit(unsafe)];
}
