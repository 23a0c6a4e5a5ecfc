/**
 * The ways a variant ended, on real workers and explored, as the rows of one table.
 *
 * Invariant  I1  Each schedule is counted in one row: the column adds up to the schedules that were explored.
 *            I2  What broke has one row, whichever engine saw it (rule.ts).
 *
 * @module
 */
import type { ExploreReport } from '../explore/report.js';
import type { LitmusVariant } from './litmus.js';
import type { LitmusOutcome, WorkersRun } from './result.js';
import { DEADLOCK, isDeadlock, NO_END, withoutPlaces } from './rule.js';

/** A row while it is filled. */
interface Row {
  readonly outcome: string;
  readonly grade: LitmusOutcome['grade'];
  count: number;
  explored: number;
  /** It is said once for the whole machine, and so is no rate. */
  once: boolean;
  description: string;
}

const EMPTY = { count: 0, explored: 0, once: false, description: '' };

/** What the program declares, then what should not be. */
export function outcomeRows(
  { program }: LitmusVariant,
  run: WorkersRun,
  explored: ExploreReport | undefined,
): LitmusOutcome[] {
  const declared = declaredRows(program.outcomes ?? [], run, explored);
  const names = new Set(declared.map(({ outcome }) => outcome));
  const broken = brokenRows(run, explored, names);
  const all = [...declared, ...broken];
  const rest = (explored?.schedules ?? 0) - all.reduce((sum, row) => sum + row.explored, 0);
  if (declared.length === 0) {
    const count = Math.max(0, run.iterations - run.broken - run.halted);
    all.unshift({ ...HELD, count, explored: rest });
  } else if (rest > 0) {
    all.push({ ...CUT_SHORT, explored: rest });
  }
  return all.map((row) => ({
    outcome: row.outcome,
    grade: row.grade,
    count: row.count,
    share: row.once || run.iterations === 0 ? null : row.count / run.iterations,
    explored: explored === undefined ? null : row.explored,
    description: row.description,
  }));
}

/** The one outcome of a program that declares none. */
const HELD: Row = {
  ...EMPTY,
  outcome: 'no rule broken',
  grade: 'ACCEPTABLE',
  description: 'it came to its end',
};

/** Schedules that came to no outcome. */
const CUT_SHORT: Row = {
  ...EMPTY,
  outcome: 'cut short',
  grade: 'ACCEPTABLE',
  description: 'what follows had been explored',
};

function declaredRows(
  outcomes: NonNullable<LitmusVariant['program']['outcomes']>,
  run: WorkersRun,
  explored: ExploreReport | undefined,
): Row[] {
  const inSchedules = new Map(explored?.outcomes.map(({ name, count }) => [name, count]));
  const onWorkers = new Map(run.outcomes.map(({ name, count }) => [name, count]));
  return outcomes.map(({ name, grade, description }) => ({
    ...EMPTY,
    outcome: name,
    grade,
    count: onWorkers.get(name) ?? 0,
    explored: inSchedules.get(name) ?? 0,
    description,
  }));
}

function brokenRows(
  run: WorkersRun,
  explored: ExploreReport | undefined,
  declared: ReadonlySet<string>,
): Row[] {
  const rows = new Map<string, Row>();
  const rowOf = (outcome: string, description = ''): Row => {
    const row = rows.get(outcome) ?? { ...EMPTY, outcome, grade: 'FORBIDDEN', description };
    rows.set(outcome, row);
    return row;
  };
  const ruleRow = (message: string): Row =>
    isDeadlock(message) ? rowOf(DEADLOCK, message) : rowOf(withoutPlaces(message));
  for (const { message, count, once } of run.violations) {
    const row = ruleRow(message);
    row.count += count;
    row.once ||= once;
  }
  if (run.deadlock !== null) rowOf(DEADLOCK, withoutHead(run.deadlock.summary)).count++;
  if (run.stopped !== null) rowOf(NO_END, run.stopped.split('\n')[0]).count++;
  for (const { kind, message, count } of explored?.failed ?? []) {
    const isDeclared = [...declared].some((name) => message === `outcome '${name}'`);
    if (isDeclared) continue;
    // the others say what was broken; what gets nowhere says who waits or spins
    const row = STUCK.has(kind) ? rowOf(kind, message) : ruleRow(message);
    row.explored += count;
  }
  return [...rows.values()];
}

const STUCK: ReadonlySet<string> = new Set([DEADLOCK, 'livelock', 'starvation']);

function withoutHead(summary: string): string {
  return summary.replace(/^deadlock: /, '');
}
