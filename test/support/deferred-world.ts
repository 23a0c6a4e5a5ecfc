/**
 * Crews that run the programs of test/programs/deferred.ts.
 *
 * @module
 */
import assert from 'node:assert/strict';

import { read } from '#memory';

import { type FailureKind, MachineFailure } from '../../src/host/failure.js';
import type { WatchdogOptions } from '../../src/host/watchdog.js';
import type { Cpu } from '../../src/machine/cpu.js';
import { registerOps } from '../../src/machine/ops-table.js';
import { warningTexts } from '../../src/machine/warn.js';
import type { Field } from '../../src/memory/layout.js';
import * as programs from '../programs/deferred.js';
import { DeferredArena, initDeferredArena } from '../programs/deferred.js';
import { programUrl, runProgram } from './crew.js';
import { place } from './machine.js';

export interface DeferredRun {
  /** What each program returned. */
  readonly values: readonly number[];
  readonly field: (field: Field<'deferred_arena'>) => number;
}

type Setup = (cpu: Cpu, arena: DeferredArena) => void;

/** One CPU for each program. `warned` is what the machine warns of. */
export async function runDeferred(
  entries: readonly { readonly name: string }[],
  setup: Setup = () => undefined,
  watchdog: Partial<WatchdogOptions> = { stallMs: 60_000 },
  warned: readonly string[] = [],
): Promise<DeferredRun> {
  let arena = 0 as DeferredArena;
  const url = programUrl('deferred');
  const { machine, results } = await runProgram({
    cpus: entries.length,
    ramBytes: 1 << 20,
    module: url,
    opsModules: [url],
    entry: entries.map(({ name }) => name),
    watchdog,
    setup: (cpu) => {
      registerOps(cpu, [programs]);
      arena = initDeferredArena(cpu, place(cpu, DeferredArena));
      setup(cpu, arena);
      return arena;
    },
  });
  const { cpu } = machine;
  assert.deepEqual(warningTexts(cpu), warned);
  return {
    values: results.map(({ value }) => Number(value)),
    field: (field) => read(cpu, arena, field),
  };
}

/** Runs until the watchdog ends it: its report, of that kind. */
export async function reportOf(
  kind: FailureKind,
  ...run: Parameters<typeof runDeferred>
): Promise<string> {
  const [entries, setup, watchdog = { stallMs: 700 }] = run;
  try {
    await runDeferred(entries, setup, watchdog);
  } catch (error) {
    assert.ok(error instanceof MachineFailure, String(error));
    assert.equal(error.kind, kind, error.message);
    return error.message;
  }
  throw new Error('it ended well');
}
