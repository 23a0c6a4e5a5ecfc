/**
 * Drivers of device memory: scenarios, what a failed bind leaves, and users beside a driver that comes and goes.
 *
 * @module
 */
import assert from 'node:assert/strict';
import { before, describe, test } from 'node:test';

import { read } from '#memory';

import type { Cpu } from '../../src/machine/cpu.js';
import { registerOps } from '../../src/machine/ops-table.js';
import { allocatedObjects } from '../../src/machine/slab.js';
import { warningTexts } from '../../src/machine/warn.js';
import { PageSection } from '../../src/memremap/types.js';
import type { BindFailures } from '../../src/workloads/bind-failures.js';
import * as programs from '../programs/pagemap-users.js';
import { type ProgramResult, programUrl, runProgram } from '../support/crew.js';

const URL = programUrl('pagemap-users');
const { UsersArena } = programs;

async function run<A>(
  entry: readonly string[],
  setup: (cpu: Cpu) => A,
): Promise<ProgramResult & { readonly arena: A }> {
  let arena: A | undefined;
  const result = await runProgram({
    cpus: entry.length,
    ramBytes: 2 << 20,
    module: URL,
    opsModules: [URL],
    entry,
    watchdog: { stallMs: 20_000 },
    setup: (cpu) => {
      registerOps(cpu, [programs]);
      arena = setup(cpu);
      return arena;
    },
  });
  return { ...result, arena: arena! };
}

describe('device memory', () => {
  let seen: Readonly<Record<string, unknown[]>> = {};
  let warnings: readonly string[] = [];
  before(async () => {
    const entry = [programs.runScenarios.name, programs.serve.name];
    const { machine, results } = await run(entry, programs.usersArena);
    seen = results[0]!.value as typeof seen;
    warnings = warningTexts(machine.cpu);
  });

  test('of a PCI function is a pool over its base address registers', () => {
    assert.deepEqual(seen['pool'], [
      '-EINVAL', // no such memory
      '-EINVAL', // too large
      '-EINVAL', // beyond its end
      0, // no pool yet
      '0',
      '0',
      3, // pieces that lie apart
      false,
      0, // nothing is left
      true,
      0, // gone
      0,
    ]);
  });

  test('of a PCI function can be mapped, and goes from mappings when its driver does', () => {
    assert.deepEqual(seen['mapping'], ['-EINVAL', '-ENOMEM', true, '-ENOMEM', true, '-ENODEV']);
  });

  test('of a dax device is mapped by faults and pinned, until its driver goes', () => {
    assert.deepEqual(seen['dax'], [
      '-EINVAL',
      0,
      '-ENXIO', // not bound
      0,
      0,
      0,
      0,
      2,
      true,
      0,
      '-ENXIO',
      true,
      '-EBUSY', // somebody else has a page of the range
      true,
    ]);
  });

  test('of a pmem device is for requests as long as it has a disk', () => {
    assert.deepEqual(seen['pmem'], [0, 0, '-ENODEV', 0, 0, '-ENODEV']);
  });

  test('of a test has no struct pages, and all other memory has', () => {
    const both = [0, 0, false, '-ENODEV', 0, 0, true, '-ENODEV'];
    assert.deepEqual(seen['nfitTest'], [...both, ...both]);
  });

  test('gives nobody a reason to warn', () => {
    assert.deepEqual(warnings, []);
  });
});

describe('a bind that fails', () => {
  let rows: readonly BindFailures[] = [];
  before(async () => {
    const { results } = await run(
      [programs.walkBinds.name, programs.serve.name],
      programs.bindArena,
    );
    rows = results[0]!.value as BindFailures[];
  });

  const named = (row: BindFailures): string => `${row.what}, ${row.form}`;
  /** What Linux left behind, and where. */
  const LEFT: ReadonlyMap<string, readonly RegExp[]> = new Map([
    ['devm_memremap_pages, 4.18', [/^kzalloc devm_action: .*page_section.*cannot be bound again/]],
    ['p2pdma, two BARs, 4.18, checked', [/a live count/]],
    ['p2pdma, two BARs, 5.0, 5.1', [/a live count/]],
    ['p2pdma, mmap, 6.12', [/^vm_insert_page: 1 reference to the page map/]],
  ]);

  test('leaves nothing, but for the mistakes that Linux had', () => {
    for (const row of rows) {
      const expected = LEFT.get(named(row)) ?? [];
      assert.equal(row.left.length, expected.length, `${named(row)}: ${row.left.join(' | ')}`);
      for (const [i, what] of expected.entries()) assert.match(row.left[i]!, what);
    }
    assert.ok([...LEFT.keys()].every((name) => rows.some((row) => named(row) === name)));
  });

  test('can be tried again on the same range, but where its release was not written down', () => {
    for (const row of rows) {
      const isUnchecked = named(row) === 'devm_memremap_pages, 4.18';
      assert.equal(row.rebound, row.failures.length - (isUnchecked ? 1 : 0), named(row));
    }
  });

  test('is tried for each form, and of device-dax fails at every point that there is', () => {
    assert.equal(rows.length, 25);
    const dax = rows.find((row) => named(row) === 'device-dax, 5.19 and later')!;
    const sites = dax.failures.map(({ site }) => site);
    assert.deepEqual(sites, [
      'kzalloc resource',
      'kzalloc devm_region',
      'kzalloc devm dev_pagemap',
      'alloc_percpu',
      'kzalloc percpu_ref_data',
      'kzalloc pfn_leaf',
      'track_pfn_remap',
      'kzalloc page_section',
      'kzalloc pfn_leaf',
      'kzalloc devm_action',
      'cdev_device_add',
      'kzalloc devm_action',
      'kzalloc devm_action',
    ]);
  });
});

test('who has memory of a function keeps its struct pages, however often it is bound and unbound', async () => {
  const { bindAndUnbind, usePeerMemory, serve, usersArena } = programs;
  const user = usePeerMemory.name;
  const { machine, results, arena } = await run(
    [bindAndUnbind.name, user, user, user, serve.name],
    usersArena,
  );
  assert.deepEqual(warningTexts(machine.cpu), []);
  assert.deepEqual(
    results.slice(0, 4).map(({ value }) => value),
    [0, 0, 0, 0],
  );
  assert.ok(read(machine.cpu, arena, UsersArena.met) > 0, 'it was unbound while memory was in use');
  assert.ok(read(machine.cpu, arena, UsersArena.refused) > 0, 'and there was none at other times');
  assert.equal(allocatedObjects(machine.cpu, PageSection), 0);
});
