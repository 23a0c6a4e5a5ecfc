/**
 * Page maps: scenarios on one CPU, beside one that serves RCU; and users on several while maps come and go.
 *
 * @module
 */
import assert from 'node:assert/strict';
import { before, describe, test } from 'node:test';

import { read } from '#memory';

import { registerOps } from '../../src/machine/ops-table.js';
import { allocatedObjects } from '../../src/machine/slab.js';
import { warningTexts } from '../../src/machine/warn.js';
import { PGMAP_CALLER_KILLS, PGMAP_KILL, PGMAP_KILL_CLEANUP } from '../../src/memremap/pagemap.js';
import { DevPagemap, PageSection } from '../../src/memremap/types.js';
import * as programs from '../programs/memremap.js';
import { type ProgramResult, programUrl, runProgram } from '../support/crew.js';

const URL = programUrl('memremap');
const { MemremapArena } = programs;

async function run(
  entry: readonly string[],
): Promise<ProgramResult & { readonly arena: programs.MemremapArena }> {
  let arena = 0 as programs.MemremapArena;
  const result = await runProgram({
    cpus: entry.length,
    ramBytes: 2 << 20,
    module: URL,
    opsModules: [URL],
    entry,
    watchdog: { stallMs: 20_000 },
    setup: (cpu) => {
      registerOps(cpu, [programs]);
      arena = programs.memremapArena(cpu);
      return arena;
    },
  });
  return { ...result, arena };
}

describe('a page map', () => {
  let seen: Readonly<Record<string, unknown[]>> = {};
  before(async () => {
    const { results } = await run([programs.runScenarios.name, programs.serve.name]);
    seen = results[0]!.value as typeof seen;
  });

  const sees = (title: string, scenario: string, expected: readonly unknown[]): void => {
    test(title, () => {
      assert.deepEqual(seen[scenario], expected);
    });
  };

  sees(
    'has struct pages, idle with a reference, until it is unmapped; and may come again',
    'generic',
    [
      0,
      'mapped and pages', // its last page
      1,
      5, // the sixth page
      '', // the section after it
      1, // after a get and a put
      '',
      0,
      0, // mapped again
      'mapped and pages',
      0,
    ],
  );

  sees('that is cached is not looked up, and not held twice', 'cached', [true, true, true, true]);

  sees('of private memory hands pages out, and its owner is told when they are free', 'handedOut', [
    0,
    0,
    4, // a section, a leaf of each table, and one that is managed
    [],
    1,
    ['free 7'],
    0,
    0,
  ]);

  sees(
    'that cannot be meant is refused, and what is a mistake in a driver is warned of',
    'refused',
    [new Set(['-EINVAL']), 7, 0],
  );

  sees("is not laid over the machine's memory, nor over a part of it", 'ram', [
    '-ENXIO',
    '-ENXIO',
    0,
  ]);

  sees('that is alive is in the way of another; what that had mapped is undone', 'conflict', [
    '-ENOMEM',
    '-ENOMEM',
    '-ENOMEM',
    '-ENOMEM', // in its second range
    '2', // of which it still has two
    '',
    'mapped and pages',
    '-EEXIST', // around it, with neither end inside: only its struct pages are in the way
    'pages', // and the entries are gone, as they are in Linux
    4,
    0,
  ]);

  sees('may have its struct pages in its own memory', 'altmap', [
    0,
    1, // page for 64 struct pages
    5, // pages that are not used: three reserved, two for struct pages
    0,
    1,
    0,
    0,
    '-ENOMEM', // 128 struct pages in one page
    0,
  ]);

  sees('that is managed fails at every point in turn, and leaves nothing', 'walk', [
    'alloc_percpu: -ENOMEM',
    'kzalloc percpu_ref_data: -ENOMEM',
    'kzalloc pfn_leaf: -ENOMEM',
    'track_pfn_remap: -ENOMEM',
    'kzalloc page_section: -ENOMEM',
    'kzalloc pfn_leaf: -ENOMEM',
    'kzalloc page_section: -ENOMEM',
    'track_pfn_remap: -ENOMEM',
    'kzalloc page_section: -ENOMEM',
    'kzalloc devm_action: -ENOMEM',
    true,
    0,
  ]);

  sees(
    "that fails kills the caller's count, but for conflicts in 5.0 and for all before",
    'abandoned',
    [
      [PGMAP_CALLER_KILLS, '-ENOMEM', '', 'live'],
      [PGMAP_CALLER_KILLS, '-ENOMEM', '', 'live'],
      [PGMAP_KILL, '-ENOMEM', '', 'live'], // a conflict
      [PGMAP_KILL, '-ENOMEM', 'kill', 'dead'],
      [PGMAP_KILL_CLEANUP, '-ENOMEM', 'kill cleanup', 'dead'],
      [PGMAP_KILL_CLEANUP, '-ENOMEM', 'kill cleanup', 'dead'],
      0,
    ],
  );

  sees('whose caller forgot to kill it is warned of, and gone', 'live', [
    'cpu N: page map N: page mapping is still live!',
    true,
    '',
  ]);

  sees('of FS_DAX memory idles at 1, and is managed', 'dax', [1, 1, 0]);

  sees('whose release cannot be written down is unmapped at once (LT-10)', 'unchecked', [
    '-ENOMEM',
    0,
    '',
  ]);

  sees('that is dying keeps its entry in a radix tree, and loses it in an xarray', 'dying', [
    '-EEXIST',
    'kept',
    '-EEXIST', // of its struct pages
    'erased',
  ]);

  sees('of hmm_devmem_add is undone whatever fails, though with a warning at one point', 'devmem', [
    0,
    0,
    'kzalloc devm hmm_devmem: -ENOMEM',
    'alloc_percpu: -ENOMEM',
    'kzalloc percpu_ref_data: -ENOMEM',
    'kzalloc devm_action: -ENOMEM',
    'kzalloc resource: -ENOMEM',
    'kzalloc devm_region: -ENOMEM',
    'kzalloc pfn_leaf: -ENOMEM',
    'track_pfn_remap: -ENOMEM',
    'kzalloc page_section: -ENOMEM',
    'kzalloc pfn_leaf: -ENOMEM',
    'kzalloc devm_action: -ENOMEM',
    'kzalloc devm_action: -ENOMEM',
    // its release runs, and what kills the count is not there yet
    'cpu N: page map N: page mapping is still live!',
    '-ERANGE',
  ]);

  test('has no other scenario', () => {
    assert.equal(Object.keys(seen).length, 14);
  });
});

test('nobody touches a struct page that has been removed, however maps come and go', async () => {
  const { mapAndUnmap, usePages, serve } = programs;
  const entry = [mapAndUnmap.name, usePages.name, usePages.name, usePages.name, serve.name];
  const { machine, results, arena } = await run(entry);
  assert.deepEqual(warningTexts(machine.cpu), []);
  assert.equal(results[0]!.value, 0);
  for (const user of results.slice(1, 4)) assert.ok((user.value as number) >= 0);
  assert.ok(read(machine.cpu, arena, MemremapArena.used) > 0, 'pages were used');
  assert.ok(read(machine.cpu, arena, MemremapArena.refused) > 0, 'and were gone at other times');
  assert.equal(allocatedObjects(machine.cpu, DevPagemap), 0);
  assert.equal(allocatedObjects(machine.cpu, PageSection), 0);
});
