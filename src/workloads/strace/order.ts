/**
 * In which order calls took effect, and what of it a replay has to keep.
 *
 * Real time   A call that ended before another began, on one address space, took effect before it.
 *             strace's lines are in the order of events, so this much the log says outright.
 * Overlap     Two calls that were in flight together took effect in either order. If they conflict
 *             (conflicts.ts), their answers usually tell which: a mapping can only be placed where
 *             another thread's munmap has already been, an madvise can only succeed where its munmap
 *             has not been yet. So each call takes effect when it ends, unless that contradicts an
 *             answer; then the other one goes first:
 *               needed   its answer is possible only after calls that are still in flight
 *               spoiled  a call in flight could have its answer before this one, but not right after it
 *             What a fork copied shows only later, in what the child does with it: a sweep that runs
 *             into a contradiction there leaves a hint for the next.
 *             Calls that do not conflict keep no order and may overlap again.
 * Waits       An operation waits for the last operation of each other task that must come before it.
 *             What follows from waits of that operation, or of this task's earlier ones, is left out:
 *             an operation that began when the first n of `mm.completed` had ended implies them all.
 *
 * @module
 */
import { type AddressSpace, applyAction } from './address-space.js';
import { conflict, overlap, pageChangeOf } from './conflicts.js';
import type { OrderHints } from './learned.js';
import type { Wait } from './operations.js';
import { answerOf } from './outcome.js';
import type { Range } from './page-ranges.js';
import type { InFlight, MmState, TaskState } from './state.js';

const NO_WAITS: readonly Wait[] = [];

/** True if the logged answer is one that the call could get now. */
export function agrees(flight: InFlight, space = flight.mm.space): boolean {
  return answerOf(space, flight.action, flight.outcome) === flight.outcome;
}

/** Calls in flight without which `flight` could not have had its answer. */
export function neededBefore(flight: InFlight): InFlight[] {
  if (flight.mm.pending.size === 0 || agrees(flight)) return [];
  const trial = flight.mm.space.trial();
  const needed: InFlight[] = [];
  for (const rival of rivalsOf(flight)) {
    if (!agrees(rival, trial)) continue;
    applyAction(trial, rival.action, rival.outcome);
    needed.push(rival);
    if (agrees(flight, trial)) return needed;
  }
  return [];
}

/** Calls in flight that could have their answer before `flight`, but not right after it. */
export function spoiledBy(flight: InFlight): InFlight[] {
  if (flight.mm.pending.size === 0) return [];
  const rivals = rivalsOf(flight).filter((rival) => agrees(rival));
  if (rivals.length === 0) return rivals;
  const after = trialOf(flight);
  return rivals.filter((rival) => !agrees(rival, after) && agrees(flight, trialOf(rival)));
}

/** The address space as it would be if this call took effect now. */
function trialOf(flight: InFlight): AddressSpace {
  const trial = flight.mm.space.trial();
  applyAction(trial, flight.action, flight.outcome);
  return trial;
}

function rivalsOf(flight: InFlight): InFlight[] {
  return [...flight.mm.pending].filter((rival) => conflict(rival.footprint, flight.footprint));
}

/** Calls in flight that an earlier sweep found to come before. */
export function toldBefore(flight: InFlight, hints: OrderHints): InFlight[] {
  if (hints.size === 0) return [];
  return [...flight.mm.pending].filter((rival) => hints.isBefore(rival.call, flight.call));
}

/** A call that cannot have had its answer, since its pages were not as it found them. */
export interface Disagreement {
  readonly mm: MmState;
  readonly pages: readonly Range[];
  /** It found pages mapped that were not; otherwise the other way round. */
  readonly wantsMapped: boolean;
}

/**
 * Learns from a disagreement in what a fork copied: pages that another thread changed during the fork
 * may be there or not. Turns the order of one such change and the fork, if that would explain it.
 */
export function learnOrder(disagreement: Disagreement, mm: MmState, hints: OrderHints): boolean {
  const { pages, wantsMapped } = disagreement;
  return mm.forkRivals.some(({ fork, call, isFirst, change }) => {
    // the change is undone in the copy if the fork comes first now, and done if the change does
    const turned = isFirst === wantsMapped ? change.unmaps : change.maps;
    if (!overlap(turned, pages)) return false;
    return isFirst ? hints.add(fork, call) : hints.add(call, fork);
  });
}

/** What the operation of `flight` waits for, which takes effect now. Later operations come first here. */
export function waitsOf(flight: InFlight): readonly Wait[] {
  const { task, mm } = flight;
  const waits: Wait[] = [];
  for (const other of mm.effective) waitIfConflicting(waits, flight, other);
  for (let at = mm.completed.length - 1; at >= flight.seen; at--) {
    waitIfConflicting(waits, flight, mm.completed[at]);
  }
  let implied = task.bornAfter;
  for (let at = flight.seen - 1; at >= implied; at--) {
    const earlier = mm.completed[at];
    if (earlier === undefined) break;
    waitFor(waits, task, earlier);
    implied = Math.max(implied, earlier.seen);
  }
  waits.push(...birthWaits(task));
  return waits.length === 0 ? NO_WAITS : waits;
}

/** What a task's first operation waits for: the call that made the task. */
export function birthWaits(task: TaskState): readonly Wait[] {
  const { madeBy } = task;
  if (task.operations.length > 0 || madeBy === undefined) return NO_WAITS;
  const waits: Wait[] = [];
  waitFor(waits, task, madeBy);
  return waits;
}

function waitIfConflicting(waits: Wait[], flight: InFlight, other: InFlight | undefined): void {
  if (other === undefined || !conflict(flight.footprint, other.footprint)) return;
  waitFor(waits, flight.task, other);
  noteForkRival(flight, other, true);
  noteForkRival(other, flight, false);
}

/** Remembers in what `fork` made that `call` came before it or after it by our choice alone. */
function noteForkRival(fork: InFlight, call: InFlight, isFirst: boolean): void {
  fork.copy?.forkRivals.push({
    fork: fork.call,
    call: call.call,
    change: pageChangeOf(call.action),
    isFirst,
  });
}

function waitFor(waits: Wait[], task: TaskState, other: InFlight): void {
  if (other.task === task || other.operation === undefined) return;
  addWait(waits, task, other.task.life.index, other.operation.number);
}

function addWait(waits: Wait[], task: TaskState, other: number, number: number): void {
  const count = number + 1;
  if ((task.waited.get(other) ?? 0) >= count) return;
  task.waited.set(other, count);
  waits.push({ task: other, count });
}
