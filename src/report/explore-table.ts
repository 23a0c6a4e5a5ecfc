/**
 * Results of `faultline explore` as people read them.
 *
 * @module
 */
import type { Mutant } from '../explore/mutants.js';
import type { ExploreProgram } from '../explore/program.js';
import type { ExploreReport, FailureReport, StrategyReport } from '../explore/report.js';
import { countOf, formatCount } from './format.js';
import { textTable } from './table.js';

/** Schedules are counted apart that have fewer preemptions than this. */
const PREEMPTIONS_SHOWN = 8;

interface Look {
  readonly color: boolean;
  readonly width: number;
}

/** What was explored and how, how it ended, and the failure in full. */
export function exploreText(report: ExploreReport, look: Look): string {
  const parts = [headline(report), strategyTable(report, look)];
  if (report.outcomes.length > 0) parts.push(outcomeTable(report, look));
  for (const failure of report.failures) parts.push(failureText(failure));
  parts.push(verdict(report));
  return parts.join('\n\n');
}

function headline({ program, title, tasks, mutant, engine, seed }: ExploreReport): string {
  const planted = mutant === null ? '' : `, with mutant ${mutant}`;
  return `${program}: ${title}\n${countOf(tasks.length, 'task')} (${tasks.join(', ')})${planted}; ${engine} engine, seed ${seed}`;
}

function strategyTable({ strategies }: ExploreReport, look: Look): string {
  const table = textTable({
    head: ['strategy', 'schedules', '/s', 'steps', 'covered'],
    colAligns: ['left', 'right', 'right', 'right', 'left'],
    rows: strategies.map((row) => [
      row.strategy,
      formatCount(row.schedules),
      formatCount(row.seconds > 0 ? row.schedules / row.seconds : 0),
      formatCount(row.schedules === 0 ? 0 : row.steps / row.schedules),
      coverage(row),
    ]),
    color: look.color,
  });
  const notes = strategies.flatMap((row) =>
    [...seenByPreemptions(row), ...row.notes].map((note) => `${row.strategy}: ${note}`),
  );
  return [table, ...notes].join('\n');
}

/** What there was of schedules with so many preemptions, where not all were run. */
function seenByPreemptions({ exhausted, byPreemptions }: StrategyReport): string[] {
  if (exhausted || byPreemptions.length === 0) return [];
  const counts = byPreemptions.slice(0, PREEMPTIONS_SHOWN);
  const more = byPreemptions.slice(PREEMPTIONS_SHOWN).reduce((sum, count) => sum + count, 0);
  const parts = counts.map((count, preemptions) => `${formatCount(count)} with ${preemptions}`);
  if (more > 0) parts.push(`${formatCount(more)} with more`);
  return [`schedules by preemptions: ${parts.join(', ')}`];
}

function coverage({ exhausted, preemptionBound }: StrategyReport): string {
  if (exhausted) return 'exhausted: every schedule';
  if (preemptionBound === null) return 'a sample, see below';
  return `all with ${countOf(preemptionBound, 'preemption')} or fewer`;
}

function outcomeTable({ outcomes }: ExploreReport, look: Look): string {
  const total = outcomes.reduce((sum, { count }) => sum + count, 0);
  const rows = outcomes.map(({ name, count, grade, description }) => {
    const share = total === 0 ? '-' : `${((100 * count) / total).toFixed(2)} %`;
    return [name, formatCount(count), share, grade, description];
  });
  return textTable({
    head: ['outcome', 'schedules', 'share', 'grade', ''],
    colAligns: ['left', 'right', 'right', 'left', 'left'],
    rows,
    color: look.color,
  });
}

/** A failure: what, how it was found, why, how it went, and how to see it again. */
export function failureText(failure: FailureReport): string {
  const lines = [
    `FAILED (${failure.kind}): ${failure.message}`,
    `found by ${failure.foundBy} after ${countOf(failure.foundAfter, 'schedule')} (${failure.foundAfterSeconds.toFixed(3)} s), with ${countOf(failure.foundPreemptions, 'preemption')}; made small: ${countOf(failure.preemptions, 'preemption')}`,
    ...failure.criticalPairs,
    ...failure.lockReports.flatMap((report) => ['', report]),
    '',
    failure.diagram,
    '',
    `replay: ${failure.replay}`,
  ];
  return lines.join('\n');
}

function verdict(report: ExploreReport): string {
  const { failures, exhausted, interrupted, schedules, seconds, schedulesPerSecond } = report;
  const seen = `${formatCount(schedules)} schedules in ${seconds.toFixed(1)} s, ${formatCount(schedulesPerSecond)}/s`;
  if (failures.length > 0) {
    const found = failures.map(({ kind, message }) => `${kind}: ${message}`);
    return `FAILURE: ${found.join('; ')} (${seen})`;
  }
  if (interrupted) return `interrupted; no failure until then (${seen})`;
  if (exhausted) return `SUCCESS: exhausted, no schedule fails (${seen})`;
  const bound =
    report.preemptionBound === null
      ? ''
      : `; complete up to ${countOf(report.preemptionBound, 'preemption')}`;
  return `SUCCESS: no failure found, which is no proof${bound} (${seen})`;
}

/** The programs there are. */
export function programTable(programs: readonly ExploreProgram[], color: boolean): string {
  return textTable({
    head: ['program', 'tasks', 'what it asks'],
    colAligns: ['left', 'right', 'left'],
    rows: programs.map(({ name, tasks, title }) => [name, tasks.length, title]),
    color,
  });
}

/** The mistakes that can be planted. */
export function mutantTable(mutants: readonly Mutant[], color: boolean): string {
  return textTable({
    head: ['mutant', 'what goes wrong', 'shown by'],
    colAligns: ['left', 'left', 'left'],
    rows: mutants.map(({ name, description, shownBy }) => [name, description, shownBy.join(', ')]),
    color,
  });
}
