/**
 * Makes a failing program and its schedule small: fewest operations, then fewest preemptions.
 *
 * Protocol   operations   one of them is left out, then two at a time, as long as the same failure is found:
 *                         along the schedule so far, without what was left out; else by a search with few
 *                         preemptions
 *            preemptions  a search below the number there is. What that does not find in its budget is
 *                         made smaller where it stands: stretches of the schedule are left out or moved
 *                         forward, many at a time and then fewer, and the search begins again below that
 *            stretches    each goes on until the next operation that conflicts with another task's, so
 *                         that a switch is where it matters
 *
 *            Where somebody spins for ever, nothing is left out: what it spins for may be among it.
 *            A smaller program counts only if it needs the race as the whole one did: if that does not fail
 *            while every task runs to its end, then neither may this.
 *            All of it together has a budget of steps, which long programs use up: then what was reached is
 *            the result.
 * Invariant  I1  Everything is counted in runs and steps and nothing in time: the same input gives the same
 *                result, unless it is interrupted.
 *
 * @module
 */
import type { Deviation } from '../plan.js';
import {
  type Budget,
  follow,
  type Run,
  runDeviations,
  type Stretch,
  stretchesOf,
} from './follow.js';
import { searchBounded } from './search.js';
import { type Operations, recordRun, type Subject, type SubjectFor } from './subject.js';
import { conflictsOf, type Step, stepsOf } from './trace.js';

/** How hard to try. */
export interface MinimiseOptions {
  /** Runs for each operation that might be left out; by default 1000. */
  readonly runsPerOperation?: number;
  /** Runs of a search for a schedule with fewer preemptions; by default 30 000. */
  readonly runs?: number;
  /** Asked now and then: true to be content with what was reached. */
  readonly isEnough?: () => boolean;
}

/** The smallest that was found. */
export interface Minimised {
  readonly operations: Operations;
  readonly subject: Subject;
  readonly deviations: readonly Deviation[];
  readonly preemptions: number;
  readonly signature: string;
  /** Runs that it took. */
  readonly runs: number;
}

const RUNS_PER_OPERATION = 1000;
const RUNS = 30_000;
/** Runs for making a schedule smaller where it stands. */
const REDUCTION_RUNS = 5000;
/** Steps of all runs together. */
const STEPS_MAX = 20_000_000;
/** Operations of a program of which two at a time are left out. */
const PAIRS_OF_MAX = 32;
/** Preemptions that are searched for a smaller program. */
const PREEMPTIONS_MAX = 3;

/** Of such a failure what others do is a part: without it, waiting would be in vain from the start. */
const waitsForOthers = (kind: string): boolean => kind === 'livelock' || kind === 'starvation';

/** @throws RangeError if the schedule does not fail */
export function minimise(
  subjectFor: SubjectFor,
  operations: Operations,
  deviations: readonly Deviation[],
  options: MinimiseOptions = {},
): Minimised {
  const subject = subjectFor(operations);
  const run = runDeviations(subject, deviations);
  if (run.failure === undefined) throw new RangeError('the schedule does not fail');
  const minimiser = new Minimiser(subjectFor, run.failure.signature, run.steps, options);
  const whole = { operations, subject, run };
  const smaller = waitsForOthers(run.failure.kind) ? whole : minimiser.leaveOutOperations(whole);
  const best = minimiser.settle(
    smaller.subject,
    minimiser.fewestPreemptions(smaller.subject, smaller.run),
  );
  return {
    operations: smaller.operations,
    subject: smaller.subject,
    deviations: best.deviations,
    preemptions: best.preemptions,
    signature: run.failure.signature,
    runs: minimiser.runs,
  };
}

interface Candidate {
  readonly operations: Operations;
  readonly subject: Subject;
  readonly run: Run;
}

class Minimiser {
  readonly #subjectFor: SubjectFor;
  readonly #signature: string;
  readonly #runsPerOperation: number;
  readonly #runs: number;
  readonly #runsMax: number;
  readonly #isEnough: () => boolean;
  runs = 0;

  constructor(
    subjectFor: SubjectFor,
    signature: string,
    stepsOfRun: number,
    options: MinimiseOptions,
  ) {
    this.#subjectFor = subjectFor;
    this.#signature = signature;
    this.#runsPerOperation = options.runsPerOperation ?? RUNS_PER_OPERATION;
    this.#runs = options.runs ?? RUNS;
    this.#runsMax = STEPS_MAX / stepsOfRun;
    this.#isEnough = options.isEnough ?? (() => false);
  }

  // --- operations ---

  leaveOutOperations(whole: Candidate): Candidate {
    const needsRace = !this.#failsAlone(whole.subject);
    let best = whole;
    for (let again = true; again;) {
      again = false;
      for (const dropped of dropsOf(best.operations)) {
        if (this.#isSpent()) return best;
        const smaller = this.#without(best, dropped, needsRace);
        if (smaller === undefined) continue;
        best = smaller;
        again = true;
        break;
      }
    }
    return best;
  }

  /** True if the failure is there when every task runs to its end or until it waits. */
  #failsAlone(subject: Subject): boolean {
    return this.#search(subject, 0, this.#runsPerOperation) !== undefined;
  }

  #without(
    whole: Candidate,
    dropped: readonly DroppedOperation[],
    needsRace: boolean,
  ): Candidate | undefined {
    const operations = whole.operations.map((left, task) =>
      left.filter(
        (_, index) => !dropped.some((drop) => drop.task === task && drop.index === index),
      ),
    );
    const subject = this.#subjectFor(operations);
    if (needsRace && this.#failsAlone(subject)) return undefined;
    const guide = this.#guideWithout(whole, dropped);
    const budget = this.#budget(this.#runsPerOperation);
    const given = budget.left;
    let run = this.#same(follow(subject, guide, budget));
    this.runs += given - budget.left;
    run ??= this.#search(subject, PREEMPTIONS_MAX, this.#runsPerOperation);
    return run && { operations, subject, run };
  }

  /** The schedule without the steps of those operations. */
  #guideWithout({ subject, run }: Candidate, dropped: readonly DroppedOperation[]): Stretch[] {
    const recording = recordRun(subject, run.deviations);
    const steps = stepsOf(subject.engine.control);
    subject.engine.restore();
    const made = new Int32Array(subject.program.tasks.length);
    const left: Step[] = [];
    for (const step of steps) {
      const index = recording[step.task]?.[step.local]?.operation;
      if (dropped.some((drop) => drop.task === step.task && drop.index === index)) continue;
      left.push({ ...step, local: made[step.task]!++ });
    }
    return stretchesOf(left);
  }

  // --- preemptions ---

  fewestPreemptions(subject: Subject, run: Run): Run {
    let best = run;
    let reduced = false;
    for (;;) {
      const found = this.#search(subject, best.preemptions - 1, this.#runs);
      if (found !== undefined) return found;
      if (reduced) return best;
      best = this.#reduce(subject, best);
      reduced = true;
      if (best.preemptions === run.preemptions) return best;
    }
  }

  /** Leaves stretches out, or moves them forward, many at a time and then fewer. */
  #reduce(subject: Subject, run: Run): Run {
    const budget = this.#budget(REDUCTION_RUNS);
    const given = budget.left;
    let best = run;
    let stretches = this.#stretches(subject, best);
    for (let size = Math.ceil(stretches.length / 2); size >= 1;) {
      const before = best;
      for (let from = 0; from < stretches.length && budget.left > 0;) {
        const smaller = this.#firstSmaller(subject, best, budget, [
          stretches.toSpliced(from, size),
          earlier(stretches, from, size),
        ]);
        if (smaller === undefined) {
          from++;
        } else {
          best = smaller;
          stretches = this.#stretches(subject, best);
        }
      }
      if (best === before || size > 1) size = size === 1 ? 0 : Math.ceil(size / 2);
    }
    this.runs += given - budget.left;
    return best;
  }

  #firstSmaller(
    subject: Subject,
    best: Run,
    budget: Budget,
    guides: readonly (readonly Stretch[])[],
  ): Run | undefined {
    for (const guide of guides) {
      const run = this.#same(follow(subject, guide, budget));
      if (run !== undefined && isSmaller(run, best)) return run;
    }
    return undefined;
  }

  /** Lets each stretch go on as long as what it does conflicts with nobody. */
  settle(subject: Subject, run: Run): Run {
    this.#replay(subject, run);
    const steps = stepsOf(subject.engine.control);
    const conflicts = conflictsOf(steps);
    const ofTask = subject.program.tasks.map((_, task) =>
      steps.filter((step) => step.task === task),
    );
    const guide = stretchesOf(steps).map(({ task, until }) => {
      let end = until;
      while (end < ofTask[task]!.length && !conflicts[ofTask[task]![end]!.step]!) end++;
      return { task, until: end };
    });
    const budget = { left: RUNS_PER_OPERATION };
    const settled = this.#same(follow(subject, guide, budget));
    this.runs += RUNS_PER_OPERATION - budget.left;
    return settled !== undefined && !isSmaller(run, settled) ? settled : run;
  }

  // --- runs ---

  #isSpent(): boolean {
    return this.runs >= this.#runsMax || this.#isEnough();
  }

  /** So many runs, or what is left. */
  #budget(runs: number): Budget {
    return { left: this.#isSpent() ? 0 : Math.min(runs, Math.ceil(this.#runsMax - this.runs)) };
  }

  #stretches(subject: Subject, run: Run): Stretch[] {
    this.#replay(subject, run);
    return stretchesOf(stepsOf(subject.engine.control));
  }

  #replay(subject: Subject, run: Run): void {
    subject.fails(planOf(run.deviations));
    this.runs++;
  }

  #search(subject: Subject, preemptionsMax: number, runs: number): Run | undefined {
    const budget = this.#budget(runs);
    const given = budget.left;
    const found = searchBounded(subject, { signature: this.#signature, preemptionsMax, budget });
    this.runs += given - budget.left;
    return found;
  }

  #same(run: Run | undefined): Run | undefined {
    return run?.failure?.signature === this.#signature ? run : undefined;
  }
}

const planOf = (deviations: readonly Deviation[]): { deviations: readonly Deviation[] } => ({
  deviations,
});

/** An operation by its place among those that are left. */
interface DroppedOperation {
  readonly task: number;
  readonly index: number;
}

/** Each operation alone, the last first; then each two of them. */
function dropsOf(operations: Operations): DroppedOperation[][] {
  const single = operations
    .flatMap((left, task) => left.map((_, index) => ({ task, index })))
    .reverse();
  if (single.length > PAIRS_OF_MAX) return single.map((one) => [one]);
  const two = single.flatMap((first, i) => single.slice(i + 1).map((second) => [first, second]));
  return [...single.map((one) => [one]), ...two];
}

/** Those stretches are made part of the ones before, each of its task's last: their steps come earlier. */
function earlier(stretches: readonly Stretch[], from: number, size: number): Stretch[] {
  const kept = [...stretches];
  const moved = kept.splice(from, size);
  for (const { task, until } of moved) {
    const previous = kept.slice(0, from).findLastIndex((stretch) => stretch.task === task);
    if (previous >= 0) kept[previous] = { task, until };
  }
  return kept;
}

/** Fewer preemptions, or as many and fewer switches, or as many of both and fewer steps. */
function isSmaller(run: Run, other: Run): boolean {
  if (run.preemptions !== other.preemptions) return run.preemptions < other.preemptions;
  if (run.deviations.length !== other.deviations.length)
    return run.deviations.length < other.deviations.length;
  return run.steps < other.steps;
}
