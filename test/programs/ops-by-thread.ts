/**
 * A module that is another one on each thread, as no module with ops tables may be.
 *
 * @module
 */
import { threadId } from 'node:worker_threads';

import { defineOps } from '../../src/machine/ops-table.js';

export const table = defineOps({ opsName: `thread ${threadId}` });

export function idle(): void {
  // loading the module was all
}
