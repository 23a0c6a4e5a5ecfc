/**
 * Results of `faultline litmus` as people read them.
 *
 * @module
 */
import type { LitmusTest } from '../litmus/litmus.js';
import type { LitmusReport, LitmusResult } from '../litmus/result.js';
import { failureText } from './explore-table.js';
import { countOf, formatCount, formatShare } from './format.js';
import { textTable } from './table.js';

/** One variant: how its iterations ended, the failing interleaving, and the verdict. */
export function litmusText(result: LitmusResult, color: boolean): string {
  const parts = [headline(result), outcomeTable(result, color)];
  if (result.deadlock !== undefined) parts.push(deadlockText(result));
  if (result.workers?.stopped) parts.push(result.workers.stopped);
  if (result.failure !== null) parts.push(failureText(result.failure));
  parts.push(verdictOf(result));
  return parts.join('\n\n');
}

function headline(result: LitmusResult): string {
  const { id, title, variant, variantTitle, source, workers, iterations, reached } = result;
  const lines = [`${id} ${variant}: ${variantTitle}`, `${title} (${source})`];
  if (workers !== null) {
    const rate = workers.seconds > 0 ? `, ${formatCount(iterations / workers.seconds)}/s` : '';
    lines.push(
      `real workers, ${workers.build} build: ${countOf(iterations, 'iteration')}${rate}, ${reached} of them through the window`,
    );
  }
  lines.push(explorationLine(result));
  return lines.join('\n');
}

function explorationLine({ explored, program, mutant }: LitmusResult): string {
  if (explored === null) return 'not explored';
  const what = mutant === null ? program : `${program} with mutant ${mutant}`;
  const end = explored.exhausted ? `exhausted by ${explored.strategy}` : 'a sample';
  return `explored ${what}: ${countOf(explored.schedules, 'schedule')}, ${end}`;
}

function outcomeTable({ outcomes }: LitmusResult, color: boolean): string {
  const total = outcomes.reduce((sum, { count }) => sum + count, 0);
  const rows = outcomes.map(({ outcome, count, explored, grade, description }) => {
    const share = total === 0 ? '-' : formatShare(count / total);
    return [outcome, count, share, formatCount(explored), grade, description];
  });
  return textTable({
    head: ['outcome', 'iterations', 'share', 'explored', 'grade', ''],
    colAligns: ['left', 'right', 'right', 'right', 'left', 'left'],
    rows,
    color,
  });
}

function deadlockText({ deadlock }: LitmusResult): string {
  return [deadlock?.summary ?? '', ...(deadlock?.waits ?? []).map((line) => `  ${line}`)].join(
    '\n',
  );
}

/** `UNSAFE, as expected: shown on real workers and by exploration`. */
function verdictOf(result: LitmusResult): string {
  const { id, variant, verdict, expected, shownBy, interrupted, iterations } = result;
  const by = shownBy.map((who) => (who === 'workers' ? 'on real workers' : 'by exploration'));
  const how = by.length > 0 ? `, shown ${by.join(' and ')}` : '';
  if (interrupted) {
    return `${id} ${variant}: interrupted; ${verdict} until then (${countOf(iterations, 'iteration')})`;
  }
  const agrees = verdict === expected ? 'as expected' : `BUT EXPECTED ${expected.toUpperCase()}`;
  return `${id} ${variant}: ${verdict.toUpperCase()}, ${agrees}${how}${doubts(result)}`;
}

/** What a verdict of safe cannot rest on. */
function doubts({ verdict, reached, explored }: LitmusResult): string {
  if (verdict === 'unsafe') return '';
  if (reached === 0) return '; note: no iteration has passed through the window';
  return explored?.exhausted === true
    ? '; no schedule fails'
    : '; no failure found, which is no proof';
}

/** All variants, a line each, and how many verdicts are as expected. */
export function litmusSummary(report: LitmusReport, color: boolean): string {
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
      'shown',
    ],
    colAligns: ['left', 'left', 'left', 'left', 'right', 'right', 'right', 'left'],
    rows,
    color,
  });
  const good = report.results.filter(isAsExpected).length;
  const total = countOf(report.results.length, 'verdict');
  const end = report.interrupted ? 'interrupted; ' : '';
  return `${table}\n\n${end}${good} of ${total} as expected (${report.seconds.toFixed(1)} s)`;
}

/** True if the verdict is the expected one. */
export function isAsExpected({ verdict, expected }: LitmusResult): boolean {
  return verdict === expected;
}

/** The tests there are: a line for each variant. */
export function litmusList(tests: readonly LitmusTest[], color: boolean): string {
  const parts = tests.map(({ id, title, source, variants }) => {
    const table = textTable({
      head: ['variant', 'expected', 'what it does'],
      colAligns: ['left', 'left', 'left'],
      rows: variants.map((variant) => [variant.name, variant.expected, variant.title]),
      color,
    });
    return `${id}: ${title}\nsource: ${source}\n${table}`;
  });
  return parts.join('\n\n');
}
