/**
 * The pairs of operations whose order decides: swap one, and the failure is gone.
 *
 * Protocol   For each two adjacent dependent operations of the failing run: run it as it was up to the first
 *            one; then the second one's task goes first, up to and including its operation; then all that was
 *            left out, in its order, as near as the program allows. If the second operation then came first
 *            indeed, and the failure is not there, the pair is critical.
 *
 *            What a task would have done next when the run ended counts as a step, the last: who waits for
 *            a lock in a deadlock came too late for it.
 *
 *            Two sections of one lock are swapped as a whole: where the second one takes the lock right after
 *            the first one gave it back, the pair is the two takings.
 *
 * @module
 */
import { OP_LOCK } from '../../memory/turnstile.js';
import type { Deviation } from '../plan.js';
import { type Budget, follow, runDeviations, type Stretch, stretchesOf } from './follow.js';
import type { Subject } from './subject.js';
import {
  adjacentPairs,
  type LockHold,
  lockHolds,
  type Pair,
  pendingOf,
  type Step,
  stepsOf,
} from './trace.js';

/** Pairs that are tried at most, and runs for all of them. */
const PAIRS_MAX = 400;
const RUNS = 20_000;

/**
 * The pairs of the run whose swap makes its failure vanish, in the order of the run. Steps that were not made
 * (`pendingOf`) are numbered on from the last.
 */
export function criticalPairs(subject: Subject, deviations: readonly Deviation[]): Pair[] {
  const { failure } = runDeviations(subject, deviations);
  if (failure === undefined) return [];
  const { control } = subject.engine;
  const made = stepsOf(control);
  const steps = [...made, ...pendingOf(control, made)];
  const budget = { left: RUNS };
  return candidatesOf(steps, subject.program.tasks.length).filter((pair) =>
    isCritical(subject, steps, pair, failure.signature, budget),
  );
}

/** Adjacent dependent pairs; of sections of a lock, their beginnings. */
function candidatesOf(steps: readonly Step[], tasks: number): Pair[] {
  const holds = lockHolds(steps);
  const pairs = adjacentPairs(steps, tasks).map((pair) => takingsOf(pair, steps, holds));
  const distinct = new Map(pairs.map((pair) => [`${pair.first} ${pair.second}`, pair]));
  return [...distinct.values()]
    .sort((one, other) => one.second - other.second || one.first - other.first)
    .slice(0, PAIRS_MAX);
}

function takingsOf(pair: Pair, steps: readonly Step[], holds: readonly LockHold[]): Pair {
  if (steps[pair.second]!.kind !== OP_LOCK) return pair;
  const section = holds.find(({ given }) => given === pair.first);
  return section === undefined ? pair : { first: section.taken, second: pair.second };
}

function isCritical(
  subject: Subject,
  steps: readonly Step[],
  pair: Pair,
  signature: string,
  budget: Budget,
): boolean {
  const run = follow(subject, swapped(steps, pair), budget);
  if (run === undefined || run.failure?.signature === signature) return false;
  return isSwapped(stepsOf(subject.engine.control), steps[pair.first]!, steps[pair.second]!);
}

/** The run with the second operation before the first. */
function swapped(steps: readonly Step[], { first, second }: Pair): Stretch[] {
  const { task, local } = steps[second]!;
  const behind = steps[first]!.task;
  const between = steps.slice(first, second);
  const goesFirst = { task, until: local + 1 };
  return [
    ...stretchesOf(steps.slice(0, first)),
    goesFirst,
    // it may need somebody else to get there, but not who is to come after it
    ...stretchesOf(between.filter((step) => step.task !== task && step.task !== behind)),
    goesFirst,
    ...stretchesOf([...between.filter((step) => step.task === behind), ...steps.slice(second + 1)]),
  ];
}

/** True if, in the new run, the operation that was second came before the one that was first. */
function isSwapped(now: readonly Step[], first: Step, second: Step): boolean {
  const at = now.findIndex(({ task, local }) => task === second.task && local === second.local);
  const other = now.findIndex(({ task, local }) => task === first.task && local === first.local);
  return at >= 0 && (other < 0 || at < other) && now[at]!.at === second.at;
}
