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
 *               spoiled  a call in flight could have its answer now, but not afterwards
 *             Calls that do not conflict keep no order and may overlap again.
 * Waits       An operation waits for the last operation of each other task that must come before it.
 *             What follows from waits of that operation, or of this task's earlier ones, is left out:
 *             an operation that began when the first n of `mm.completed` had ended implies them all.
 *
 * @module
 */
import { applyAction } from './address-space.js';
import { conflict } from './conflicts.js';
import { type Wait } from './operations.js';
import { answerOf } from './outcome.js';
import { type InFlight, type TaskState } from './state.js';

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

/** Calls in flight that could have their answer now, but not after `flight`. */
export function spoiledBy(flight: InFlight): InFlight[] {
  if (flight.mm.pending.size === 0) return [];
  const rivals = rivalsOf(flight).filter((rival) => agrees(rival));
  if (rivals.length === 0) return rivals;
  const after = flight.mm.space.trial();
  applyAction(after, flight.action, flight.outcome);
  return rivals.filter((rival) => !agrees(rival, after));
}

function rivalsOf(flight: InFlight): InFlight[] {
  return [...flight.mm.pending].filter((rival) => conflict(rival.footprint, flight.footprint));
}

/** What a task's first operation waits for: the call that made the task. */
export function birthWaits(task: TaskState): readonly Wait[] {
  const { madeBy } = task;
  if (task.operations.length > 0 || madeBy === undefined) return NO_WAITS;
  const waits: Wait[] = [];
  waitFor(waits, task, madeBy);
  return waits;
}

/** What the operation of `flight` waits for, which takes effect now. */
export function waitsOf(flight: InFlight): readonly Wait[] {
  const { task, mm } = flight;
  const waits = [...birthWaits(task)];
  let implied = task.examined;
  for (let at = flight.seen - 1; at >= implied; at--) {
    const earlier = mm.completed[at];
    if (earlier === undefined) break;
    waitFor(waits, task, earlier);
    implied = Math.max(implied, earlier.seen);
  }
  for (let at = mm.completed.length - 1; at >= flight.seen; at--) {
    waitIfConflicting(waits, flight, mm.completed[at]);
  }
  for (const other of mm.effective) waitIfConflicting(waits, flight, other);
  task.examined = flight.seen;
  return waits.length === 0 ? NO_WAITS : waits;
}

function waitIfConflicting(waits: Wait[], flight: InFlight, other: InFlight | undefined): void {
  if (other === undefined || !conflict(flight.footprint, other.footprint)) return;
  waitFor(waits, flight.task, other);
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
