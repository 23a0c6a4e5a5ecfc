/**
 * Which strategy finds which planted mistake, after how many schedules, and what is left of the failure.
 *
 * @module
 */
import {
  exploreProgram,
  type ExploreReport,
  type Mutant,
  MUTANTS_TABLE,
  STRATEGIES,
  type StrategyName,
} from 'faultline';

import { textTable } from '../src/report/table.js';
import { showProgress } from './progress.js';

/** Full search is no way to find something. */
const TRIED: readonly StrategyName[] = STRATEGIES.filter((name) => name !== 'dfs');
/** How long a strategy may look. Unit: seconds. */
const SECONDS = 30;
const WHY_WIDTH = 72;

/** One row for each mistake and strategy. */
export async function mutantTable(): Promise<string> {
  const rows: (readonly (string | number)[])[] = [];
  let missed = 0;
  for (const [index, mutant] of MUTANTS_TABLE.entries()) {
    for (const strategy of TRIED) {
      showProgress(`mutants: ${index + 1} of ${MUTANTS_TABLE.length}, ${mutant.name}, ${strategy}`);
      const report = await look(mutant, strategy);
      if (report.failures.length === 0) missed++;
      const row = rowOf(report, mutant, strategy);
      rows.push(row);
      process.stderr.write(`${row.join('  ')}\n`); // a quarter of an hour is long to wait for the first
    }
  }
  const wanted = MUTANTS_TABLE.length * TRIED.length;
  const table = textTable({
    head: ['program', 'mutant', 'strategy', 'found after', 'seconds', 'preemptions', 'why'],
    colAligns: ['left', 'left', 'left', 'right', 'right', 'right', 'left'],
    rows,
    lastWidth: WHY_WIDTH,
  });
  return `${table}\nfound: ${wanted - missed} of ${wanted}; a strategy may look for ${SECONDS} s`;
}

function look(mutant: Mutant, strategy: StrategyName): Promise<ExploreReport> {
  const [name] = mutant.shownBy;
  return exploreProgram({ name: name ?? '' }, { mutant: mutant.name, strategy, seconds: SECONDS });
}

function rowOf(report: ExploreReport, mutant: Mutant, strategy: StrategyName): string[] {
  const [failure] = report.failures;
  const head = [report.program, mutant.name, strategy];
  if (failure === undefined) {
    return [...head, `not in ${report.schedules}`, report.seconds.toFixed(1), '-', '-'];
  }
  const [why = failure.message] = failure.criticalPairs;
  return [
    ...head,
    String(failure.foundAfter),
    failure.foundAfterSeconds.toFixed(2),
    `${failure.foundPreemptions} → ${failure.preemptions}`,
    why.replace(/^fails iff /, ''),
  ];
}
