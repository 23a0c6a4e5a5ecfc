/**
 * Results of `faultline explore` as a program reads them: schema `faultline.explore/1`.
 *
 * @module
 */
import type { ExploreReport } from '../explore/report.js';
import type { Environment } from './environment.js';

export const EXPLORE_SCHEMA = 'faultline.explore/1';

/** A whole result file. */
export interface ExploreResult extends ExploreReport {
  readonly schema: typeof EXPLORE_SCHEMA;
  readonly environment: Environment;
  /** The file of a program of the user's own; null for one that ships. */
  readonly module: string | null;
}
