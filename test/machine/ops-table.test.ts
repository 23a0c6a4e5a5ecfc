import assert from 'node:assert/strict';
import { test } from 'node:test';

import { defineKernelOps, opsAt, opsIndex, registerOps } from '../../src/machine/ops-table.js';
import * as opsFirst from '../programs/ops-first.js';
import * as opsSecond from '../programs/ops-second.js';
import { programUrl, runProgram } from '../support/crew.js';
import { assertBug, bootCpus } from '../support/machine.js';

const { ant, tableNumbers, zebra } = opsFirst;
const { doubling } = opsSecond;
const FIRST = programUrl('ops-first');
const SECOND = programUrl('ops-second');

test('tables are numbered by module and then by name, from 1', () => {
  const [cpu] = bootCpus(1);
  registerOps(cpu!, [opsFirst, opsSecond]);
  assert.deepEqual(
    [ant, zebra, doubling].map((table) => opsIndex(cpu!, table)),
    [1, 2, 3],
  );
  assert.equal(opsAt(cpu!, 2), zebra);
  assert.equal(opsAt(cpu!, 0), undefined, '0 is no table');
  assert.equal(opsAt(cpu!, 4), undefined, 'a table exported twice counts once');
});

test('a table has the same number on each worker, and is found by it', async () => {
  const { results } = await runProgram({
    cpus: 3,
    module: FIRST,
    entry: tableNumbers.name,
    opsModules: [FIRST, SECOND],
    setup: () => 3,
  });
  for (const { value } of results) assert.deepEqual(value, [1, 2, 3, 40]);
});

test('a table of a module that was not loaded is a bug', () => {
  const [cpu] = bootCpus(1);
  registerOps(cpu!, [opsSecond]);
  assertBug(() => opsIndex(cpu!, zebra), /zebra is not among the loaded modules/);
});

test('a CPU that loads other modules than its fellows, or in another order, is a bug', () => {
  for (const modules of [[opsFirst], [opsSecond, opsFirst], []]) {
    const [first, second] = bootCpus(2);
    registerOps(first!, [opsFirst, opsSecond]);
    assertBug(() => {
      registerOps(second!, modules);
    }, /cpu 1 loaded other ops tables than its fellows.*\(I1\)/);
  }
});

test('workers that disagree stop the machine before any program runs', async () => {
  const module = programUrl('ops-by-thread');
  const run = runProgram({ cpus: 2, module, entry: 'idle', opsModules: [module] });
  await assert.rejects(run, /died in registerOps: KernelBug: cpu \d loaded other ops tables/);
});

test('a module that does not exist stops the machine', async () => {
  const missing = programUrl('no-such-module');
  const run = runProgram({ cpus: 2, module: FIRST, entry: 'tableNumbers', opsModules: [missing] });
  await assert.rejects(run, /died in .*Cannot find module .*no-such-module/);
});

test('tables of the kernel itself need not be loaded, and have one number everywhere', () => {
  const table = defineKernelOps({ opsName: 'test of kernel ops' });
  const [first, second] = bootCpus(2);
  const index = opsIndex(first!, table);
  assert.ok(index < 0);
  assert.equal(opsAt(second!, index), table);
  assertBug(() => defineKernelOps({ opsName: 'test of kernel ops' }), /are defined twice/);
});
