/**
 * Lists of notifiers on real threads, more of them than cores: nobody is called after it is freed, and everybody
 * is freed once.
 *
 * @module
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';

import { read } from '#memory';

import type { Cpu } from '../../src/machine/cpu.js';
import { registerOps } from '../../src/machine/ops-table.js';
import { allocatedObjects } from '../../src/machine/slab.js';
import { warningTexts } from '../../src/machine/warn.js';
import { mmput } from '../../src/mm/exit.js';
import { MmStruct } from '../../src/mm/types.js';
import * as lists from '../programs/lists.js';
import { EXITS, ListsArena } from '../programs/lists.js';
import { programUrl, runProgram } from '../support/crew.js';
import { place } from '../support/machine.js';

type Setup = (cpu: Cpu, arena: ListsArena) => void;

/** Runs the programs to their end; `leaving` of them end the kworkers. */
async function play(
  entries: readonly { readonly name: string }[],
  leaving: number,
  setup: Setup = () => undefined,
): Promise<{ readonly cpu: Cpu; readonly arena: ListsArena }> {
  const url = programUrl('lists');
  let arena = 0 as ListsArena;
  const { machine } = await runProgram({
    cpus: entries.length,
    ramBytes: 8 << 20,
    module: url,
    opsModules: [url],
    entry: entries.map(({ name }) => name),
    watchdog: { stallMs: 60_000 },
    setup: (cpu) => {
      registerOps(cpu, [lists]);
      arena = place(cpu, ListsArena);
      lists.initListsArena(cpu, arena, leaving);
      setup(cpu, arena);
      return arena;
    },
  });
  const { cpu } = machine;
  assert.deepEqual(warningTexts(cpu), []);
  const made = read(cpu, arena, ListsArena.made);
  assert.equal(read(cpu, arena, ListsArena.freed), made, 'each that was made is freed, once');
  mmput(cpu, read(cpu, arena, ListsArena.mm));
  assert.equal(allocatedObjects(cpu, MmStruct), 0, 'INV-13');
  return { cpu, arena };
}

test('notifiers come and go while others walk the list', async () => {
  const { invalidate, getAndPut, serve } = lists;
  const { cpu, arena } = await play([invalidate, invalidate, getAndPut, getAndPut, serve], 4);
  const overlaps = read(cpu, arena, ListsArena.overlaps);
  assert.ok(overlaps >= 10, `${overlaps} were taken off while they were being told`);
});

test('an address space ends while its notifier is unregistered', async () => {
  const { exitAll, unregisterAll } = lists;
  const { cpu, arena } = await play([exitAll, unregisterAll], 2, lists.addExits);
  assert.ok(read(cpu, arena, ListsArena.releases) >= EXITS, 'INV-15: each is released');
  assert.ok(read(cpu, arena, ListsArena.overlaps) > 0, 'by both at the same time, at least once');
});

test('a notifier that puts itself when its address space ends is freed, once', async () => {
  const { exitPutting, serve } = lists;
  await play([exitPutting, exitPutting, serve], 2);
});
