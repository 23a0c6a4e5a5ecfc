/**
 * A module with ops tables, as a user's driver is one.
 *
 * @module
 */
import type { Cpu } from '../../src/machine/cpu.js';
import { defineOps, opsAt, opsIndex } from '../../src/machine/ops-table.js';
import { type Ptr, struct, word } from '../../src/memory/layout.js';
import { doubling } from './ops-second.js';

export interface NumberOps {
  readonly opsName: string;
  readonly change: (value: number) => number;
}

export const zebra = defineOps({ opsName: 'zebra', change: (value: number) => value + 1 });
export const ant = defineOps({ opsName: 'ant', change: (value: number) => value - 1 });
/** Neither of these is a table. */
export const name = 'ops';
export const nothing = null;

export const OpsArena = struct('ops_arena', { index: word });
export type OpsArena = Ptr<'ops_arena'>;

/** The numbers of all tables as this worker has them, and what one does that is found by its number. */
export function tableNumbers(cpu: Cpu, index: number): number[] {
  const ops = opsAt(cpu, index) as NumberOps;
  return [...[ant, zebra, doubling].map((table) => opsIndex(cpu, table)), ops.change(20)];
}
