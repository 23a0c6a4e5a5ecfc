/**
 * Runs the programs of test/programs/locks.ts with more CPUs than the host has cores.
 *
 * @module
 */
import assert from 'node:assert/strict';

import { read } from '#memory';

import type { Cpu } from '../../src/machine/cpu.js';
import type { Field } from '../../src/memory/layout.js';
import { Arena, initArena } from '../programs/locks.js';
import { programUrl, runProgram } from './crew.js';
import { place } from './machine.js';

export interface Contention {
  readonly arena: Arena;
  readonly cpu: Cpu;
  /** What each program returned. */
  readonly values: readonly number[];
  readonly field: (field: Field<'test_arena'>) => number;
}

/** One CPU for each program; a CPU that waits for 20 s for one lock once has lost a wake-up. */
export async function contend(entry: readonly string[]): Promise<Contention> {
  let arena = 0 as Arena;
  const { machine, results } = await runProgram({
    cpus: entry.length,
    module: programUrl('locks'),
    entry,
    watchdog: { stallMs: 20_000 },
    setup: (cpu) => {
      arena = initArena(cpu, place(cpu, Arena));
      return arena;
    },
  });
  const { cpu } = machine;
  const values = results.map((result) => Number(result.value));
  return { arena, cpu, values, field: (field) => read(cpu, arena, field) };
}

/** `count` CPUs that run the same program. */
export function times(count: number, entry: { readonly name: string }): string[] {
  return Array.from({ length: count }, () => entry.name);
}

/** Nobody was disturbed, and no section was lost. */
export function assertExclusive(run: Contention, sections: number): void {
  assert.deepEqual(
    run.values,
    run.values.map(() => 0),
    'sections that were disturbed, by CPU',
  );
  assert.equal(run.field(Arena.left), sections);
  assert.equal(run.field(Arena.right), sections);
}
