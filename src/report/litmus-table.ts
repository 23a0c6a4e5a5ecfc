/**
 * Results of `faultline litmus` as people read them.
 *
 * @module
 */
import type { Build } from '../host/pool.js';
import {
  AFTER_VIOLATION_ITERATIONS,
  AFTER_VIOLATION_MS,
  type LitmusTest,
} from '../litmus/litmus.js';
import type { LitmusDeadlock, LitmusEnd, LitmusReport, LitmusResult } from '../litmus/result.js';
import { NO_END } from '../litmus/rule.js';
import { failureText } from './explore-table.js';
import { countOf, formatCount, formatShare } from './format.js';
import { textTable } from './table.js';

/** How long a run goes on after a violation, at most. */
export const AFTER_VIOLATION = `${AFTER_VIOLATION_ITERATIONS} more, or ${AFTER_VIOLATION_MS} ms`;

/** How it is drawn. */
export interface LitmusLook {
  readonly color: boolean;
  /** Tables are no wider, if their words allow it. Unit: characters; Infinity for no limit. */
  readonly width: number;
}

/** One variant: how its iterations ended, the failing interleaving, and the verdict. */
export function litmusText(result: LitmusResult, look: LitmusLook): string {
  const parts = [headline(result), outcomeTable(result, look)];
  if (result.deadlock !== null) parts.push(deadlockText(result.deadlock));
  if (result.workers?.stopped) parts.push(result.workers.stopped);
  if (result.failure !== null) parts.push(failureText(result.failure));
  parts.push(verdictOf(result));
  return parts.join('\n\n');
}

function headline(result: LitmusResult): string {
  const { id, title, variant, variantTitle, source, workers } = result;
  const lines = [`${id} ${variant}: ${variantTitle}`, `${title} (${source})`];
  if (workers !== null) lines.push(workersLine(result, workers));
  lines.push(explorationLine(result));
  return lines.join('\n');
}

/** What the builds are: one's rates say nothing of the other's. */
const BUILDS: Readonly<Record<Build, string>> = {
  parallel: 'parallel build (at full speed)',
  checked: 'checked build (with checks and planted mistakes, slower)',
  turnstile: 'turnstile build',
};

function workersLine(
  { iterations, reached }: LitmusResult,
  { build, seconds, ended }: NonNullable<LitmusResult['workers']>,
): string {
  const rate = seconds > 0 ? `, ${formatCount(iterations / seconds)}/s` : '';
  const end = ENDS[ended] === '' ? '' : `; ended ${ENDS[ended]}`;
  return `real workers, ${BUILDS[build]}: ${countOf(iterations, 'iteration')}${rate}, ${reached} of them through the window${end}`;
}

/** Why there were no more iterations. */
const ENDS: Readonly<Record<LitmusEnd, string>> = {
  iterations: '',
  'violation-iterations': `${AFTER_VIOLATION_ITERATIONS} iterations after the first violation`,
  'violation-time': `${AFTER_VIOLATION_MS} ms after the first violation`,
  seconds: 'when its time was over',
  deadlock: 'by a deadlock',
  stopped: 'by an iteration that does not end',
  interrupted: 'by an interruption',
};

function explorationLine({ explored, program, mutant }: LitmusResult): string {
  if (explored === null) return 'not explored';
  const what = mutant === null ? program : `${program} with mutant ${mutant}`;
  const end = explored.exhausted ? `exhausted by ${explored.strategy}` : 'a sample';
  return `explored ${what}: ${countOf(explored.schedules, 'schedule')}, ${end}`;
}

function outcomeTable({ outcomes, iterations }: LitmusResult, look: LitmusLook): string {
  const rows = outcomes.map(({ outcome, count, share, explored, grade, description }) => [
    outcome,
    count,
    share === null ? '-' : formatShare(share),
    explored === null ? '-' : formatCount(explored),
    grade,
    description,
  ]);
  const table = textTable({
    head: ['outcome', 'iterations', 'share', 'explored', 'grade', ''],
    colAligns: ['left', 'right', 'right', 'right', 'left', 'left'],
    rows,
    ...look,
  });
  const ended = outcomes.filter(({ outcome }) => outcome !== NO_END);
  const counted = ended.reduce((sum, { count }) => sum + count, 0);
  if (counted <= iterations) return table;
  return `${table}\nIn some iterations several rules were broken.`;
}

function deadlockText({ summary, waits }: LitmusDeadlock): string {
  return [summary, ...waits.map((line) => `  ${line}`)].join('\n');
}

/** `UNSAFE, as expected, shown on real workers and by exploration`. */
function verdictOf(result: LitmusResult): string {
  const { id, variant, verdict, expected, shownBy, interrupted } = result;
  if (verdict === 'undecided') return `${id} ${variant}: ${openEnd(result)}`;
  const by = shownBy.map((who) => (who === 'workers' ? 'on real workers' : 'by exploration'));
  const how = by.length > 0 ? `, shown ${by.join(' and ')}` : '';
  const end = interrupted ? '; interrupted' : '';
  const agrees = verdict === expected ? 'as expected' : `BUT EXPECTED ${expected.toUpperCase()}`;
  return `${id} ${variant}: ${verdict.toUpperCase()}, ${agrees}${how}${doubts(result)}${end}`;
}

function openEnd({ interrupted, iterations, onlyExplored }: LitmusResult): string {
  if (interrupted) {
    return `UNDECIDED, interrupted; no failure until then (${countOf(iterations, 'iteration')})`;
  }
  const why = onlyExplored ? 'only exploration shows that it is unsafe' : 'no failure found';
  return `UNDECIDED: ${why}, and nothing was explored`;
}

/** What a verdict of safe cannot rest on. */
function doubts({ verdict, reached, reachedWanted, explored }: LitmusResult): string {
  if (verdict === 'unsafe') return '';
  const proof =
    explored?.exhausted === true ? '; no schedule fails' : '; no failure found, which is no proof';
  if (reached === 0) return `${proof}; note: no iteration has passed through the window`;
  if (reached >= reachedWanted) return proof;
  return `${proof}; note: passed through the window only ${countOf(reached, 'time')}`;
}

/** All variants, a line each, and how many verdicts are as expected. */
export function litmusSummary(report: LitmusReport, look: LitmusLook): string {
  const rows = report.results.map((result) => {
    const { id, variant, verdict, expected, iterations, reached, explored, shownBy } = result;
    const schedules = explored === null ? '-' : formatCount(explored.schedules);
    const covered = explored?.exhausted === true ? `${schedules}, all` : schedules;
    return [id, variant, verdict, expected, iterations, reached, covered, shownBy.join(', ')];
  });
  const table = textTable({
    head: [
      'test',
      'variant',
      'verdict',
      'expected',
      'iterations',
      'in window',
      'schedules',
      'shown by',
    ],
    colAligns: ['left', 'left', 'left', 'left', 'right', 'right', 'right', 'left'],
    rows,
    ...look,
  });
  return `${table}\n\n${tally(report)} (${report.seconds.toFixed(1)} s)`;
}

/** `interrupted: 1 of 3 variants run; 1 of 1 verdict as expected, 1 undecided`. */
function tally({ results, planned, interrupted }: LitmusReport): string {
  const decided = results.filter(({ verdict }) => verdict !== 'undecided');
  const open = results.length - decided.length;
  const whole = results.filter((result) => !result.interrupted).length;
  const head = interrupted ? `interrupted: ${whole} of ${countOf(planned, 'variant')} run; ` : '';
  const good = decided.filter(isAsExpected).length;
  const tail = open > 0 ? `, ${open} undecided` : '';
  return decided.length === 0
    ? `${head}no verdict${tail}`
    : `${head}${good} of ${countOf(decided.length, 'verdict')} as expected${tail}`;
}

/** True if the verdict is the expected one. */
export function isAsExpected({ verdict, expected }: LitmusResult): boolean {
  return verdict === expected;
}

/** The variants, by test: a line for each. */
export function litmusList(tests: readonly LitmusTest[], look: LitmusLook): string {
  const parts = tests.map(({ id, title, source, variants }) => {
    const table = textTable({
      head: ['variant', 'expected', 'what it does'],
      colAligns: ['left', 'left', 'left'],
      rows: variants.map(({ name, expected, onlyExplored, title: what }) => [
        name,
        onlyExplored === true ? `${expected} (only explored)` : expected,
        what,
      ]),
      ...look,
    });
    return `${id}: ${title}\nsource: ${source}\n${table}`;
  });
  return parts.join('\n\n');
}
