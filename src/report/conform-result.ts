/**
 * Results of `faultline conform` as a program reads them: schema `faultline.conform/1`.
 *
 * @module
 */
import type { Difference } from '../conform/compare.js';
import type { CaseResult } from '../conform/run.js';
import type { Environment } from './environment.js';

export const CONFORM_SCHEMA = 'faultline.conform/1';

/** A case that has failed: where it first differs, and where else. */
export interface FailedCase extends Difference {
  readonly name: string;
  readonly more: readonly Difference[];
}

/** How many cases of a category ended how. */
export interface CategoryCounts {
  cases: number;
  passed: number;
  failed: number;
  unsupported: number;
}

/** A whole result file. */
export interface ConformResultFile {
  readonly schema: typeof CONFORM_SCHEMA;
  readonly environment: Environment;
  readonly corpus: string;
  readonly cases: number;
  readonly passed: number;
  readonly failed: readonly FailedCase[];
  readonly unsupported: readonly { readonly name: string; readonly op: string }[];
  readonly categories: Readonly<Record<string, CategoryCounts>>;
  /** The run was ended before all cases had been run. */
  readonly interrupted: boolean;
}

/** What a result file says of the cases. */
export function conformSummary(
  results: readonly CaseResult[],
): Pick<ConformResultFile, 'cases' | 'passed' | 'failed' | 'unsupported' | 'categories'> {
  return {
    cases: results.length,
    passed: results.filter(({ outcome }) => outcome === 'passed').length,
    failed: results.flatMap(({ name, differences: [first, ...more] }) =>
      first === undefined ? [] : [{ name, ...first, more }],
    ),
    unsupported: results.flatMap(({ name, unsupported: op }) =>
      op === undefined ? [] : [{ name, op }],
    ),
    categories: countCategories(results),
  };
}

function countCategories(results: readonly CaseResult[]): Record<string, CategoryCounts> {
  const counts: Record<string, CategoryCounts> = {};
  for (const { category, outcome } of results) {
    const own = (counts[category] ??= { cases: 0, passed: 0, failed: 0, unsupported: 0 });
    own.cases++;
    own[outcome]++;
  }
  return counts;
}
