import assert from 'node:assert/strict';
import { test } from 'node:test';

import { write } from '#memory';

import {
  carelessFlipper,
  CellArena,
  cellReader,
  cellSelector,
  cellTaker,
  cellWriter,
  entryDirtier,
  honestFlipper,
  wordReader,
} from '../programs/memory.js';
import { programUrl, runProgram } from '../support/crew.js';
import { place } from '../support/machine.js';

/** How many torn cells each of `readers` saw while one CPU wrote. */
async function torn(atomics: 'wasm' | 'js', readers: readonly string[]): Promise<unknown[]> {
  const { results } = await runProgram({
    cpus: 1 + readers.length,
    atomics,
    module: programUrl('memory'),
    entry: [cellWriter.name, ...readers],
    setup: (cpu) => {
      const arena = place(cpu, CellArena);
      write(cpu, arena, CellArena.readers, readers.length);
      return arena;
    },
  });
  return results.slice(1).map((result) => result.value);
}

/** How often a flipper found an entry dirty, and how often one was made so before. */
async function flips(atomics: 'wasm' | 'js', flipper: string): Promise<[number, number]> {
  const { results } = await runProgram({
    cpus: 2,
    atomics,
    module: programUrl('memory'),
    entry: [flipper, entryDirtier.name],
    setup: (cpu) => {
      const arena = place(cpu, CellArena);
      write(cpu, arena, CellArena.readers, 1);
      return arena;
    },
  });
  return [Number(results[0]?.value), Number(results[1]?.value)];
}

for (const form of ['wasm', 'js'] as const) {
  test(`${form}: a cell is never read or taken half written`, async () => {
    assert.deepEqual(
      await torn(form, [cellReader.name, cellSelector.name, cellTaker.name]),
      [0, 0, 0],
    );
  });

  test(`${form}: control: two words read one after the other are seen half written`, async () => {
    const [seen] = await torn(form, [wordReader.name]);
    assert.ok(Number(seen) > 0);
  });

  test(`${form}: changeCells loses no bit that the hardware sets meanwhile`, async () => {
    const [seen, set] = await flips(form, honestFlipper.name);
    assert.equal(seen, set);
    assert.ok(set > 500, 'the hardware got its turns');
  });
}

test('control: bits are lost if entries are stored that the hardware may change', async () => {
  const [seen, set] = await flips('wasm', carelessFlipper.name);
  assert.ok(seen < set, `${seen} seen of ${set}`);
});
