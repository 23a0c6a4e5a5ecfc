/**
 * Results of `faultline torture` as a program reads them: schema `faultline.torture/1`.
 *
 * @module
 */
import type { GalleryReport } from '../torture/gallery.js';
import type { TortureReport } from '../torture/result.js';
import type { Environment } from './environment.js';

export const TORTURE_SCHEMA = 'faultline.torture/1';

/** A whole result file. */
export interface TortureResultFile extends TortureReport {
  readonly schema: typeof TORTURE_SCHEMA;
  readonly environment: Environment;
  /** Every option with its value, also those that were not given. */
  readonly options: Readonly<Record<string, unknown>>;
}

/** The gallery as a file. */
export interface GalleryResultFile extends GalleryReport {
  readonly schema: typeof TORTURE_SCHEMA;
  readonly environment: Environment;
  readonly seed: number;
}
