/**
 * Results of `faultline litmus` as a program reads them: schema `faultline.litmus/1`.
 *
 * @module
 */
import type { LitmusReport } from '../litmus/result.js';
import type { Environment } from './environment.js';

export const LITMUS_SCHEMA = 'faultline.litmus/1';

/** A whole result file. */
export interface LitmusResultFile extends LitmusReport {
  readonly schema: typeof LITMUS_SCHEMA;
  readonly environment: Environment;
  readonly seed: number;
}
