/**
 * Callbacks across workers: a function cannot live in shared memory, its number can.
 *
 * Protocol   A module exports tables made by `defineOps`. Every worker of a machine loads the same
 *            modules in the same order, so that a table has the same index everywhere; a struct holds
 *            the index and `opsAt` turns it back into this worker's copy of the table.
 * Invariant  I1  All workers agree on the list of tables: each compares a hash of the names with the
 *                one the machine keeps, and stops the machine if they differ.
 *
 * @module
 */
import { cmpxchg } from '#memory';

import { bug } from '../base/bug.js';
import { hashName } from '../base/hash.js';
import type { Cpu } from './cpu.js';
import { MACHINE, Machine } from './types.js';

/** A table of callbacks with a name of its own. */
export interface OpsTable {
  readonly opsName: string;
}

/** Index of an ops table as structs hold it; 0 is none. */
export type OpsIndex = number;

/** Makes a table of callbacks that structs in shared memory can refer to. Export it from its module. */
export function defineOps<T extends OpsTable>(table: T): Readonly<T> {
  return Object.freeze(table);
}

const kernelTables = new Map<number, OpsTable>();
const kernelIndices = new Map<object, number>();

/**
 * As defineOps, for callbacks of the kernel itself: every worker has them, without being told to load them.
 * Their numbers are negative, and hashes of their names. Call it once for a name, at module level.
 */
export function defineKernelOps<T extends OpsTable>(table: T): Readonly<T> {
  const index = ~hashName(table.opsName);
  if (kernelTables.has(index)) bug(`kernel ops ${table.opsName} are defined twice`);
  kernelTables.set(index, table);
  kernelIndices.set(table, index);
  return Object.freeze(table);
}

function isOpsTable(value: unknown): value is OpsTable {
  return (
    typeof value === 'object' &&
    value !== null &&
    typeof (value as Partial<OpsTable>).opsName === 'string'
  );
}

/**
 * Numbers the ops tables that modules export. Every worker gives the same modules in the same order (I1).
 */
export function registerOps(cpu: Cpu, modules: readonly Readonly<Record<string, unknown>>[]): void {
  cpu.opsTables.length = 1; // index 0 is "none"
  for (const exports of modules) {
    for (const key of Object.keys(exports).sort()) {
      const table = exports[key];
      if (!isOpsTable(table) || cpu.opsIndices.has(table)) continue;
      cpu.opsIndices.set(table, cpu.opsTables.length);
      cpu.opsTables.push(table);
    }
  }
  const names = cpu.opsTables.map((table) => (table as OpsTable | undefined)?.opsName ?? '-');
  const hash = hashName(names.join());
  const agreed = cmpxchg(cpu, MACHINE, Machine.opsHash, 0, hash);
  if (agreed !== 0 && agreed !== hash) {
    bug(`cpu ${cpu.id} loaded other ops tables than its fellows: ${names.join(', ')} (I1)`);
  }
}

/** The number of a loaded table. */
export function opsIndex(cpu: Cpu, table: OpsTable): OpsIndex {
  const index = cpu.opsIndices.get(table) ?? kernelIndices.get(table);
  if (index === undefined) bug(`ops table ${table.opsName} is not among the loaded modules`);
  return index;
}

/** This worker's copy of the table with that number; the struct that held the number knows its type. */
export function opsAt(cpu: Cpu, index: OpsIndex): object | undefined {
  return index < 0 ? kernelTables.get(index) : cpu.opsTables[index];
}
