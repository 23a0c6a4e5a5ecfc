/**
 * The programs that ship with faultline.
 *
 * @module
 */
import { type ExploreProgram } from '../program.js';
import { lt5 } from './retry.js';

export const PROGRAMS: readonly ExploreProgram[] = [lt5];
