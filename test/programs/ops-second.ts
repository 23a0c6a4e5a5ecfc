/**
 * A second module with an ops table, which exports one of the first under another name, too.
 *
 * @module
 */
import { defineOps } from '../../src/machine/ops-table.js';

export const doubling = defineOps({ opsName: 'doubling', change: (value: number) => 2 * value });
export { doubling as sameAgain };
