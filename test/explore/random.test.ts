/**
 * Programs that are drawn: always the same for a seed, small, and without a failure.
 *
 * @module
 */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';

import { bootDeferred } from '../../src/deferred/boot.js';
import {
  cellVa,
  loadCells,
  type MemoryWorld,
  mmOf,
  setupHuge,
  setupMemory,
} from '../../src/explore/programs/memory-model.js';
import { HUGE_CHOICES } from '../../src/explore/programs/random.js';
import { HUGE_OPERATIONS, MEMORY_OPERATIONS } from '../../src/explore/programs/random-memory.js';
import { programNamed } from '../../src/explore/programs/registry.js';
import { spaceMirror } from '../../src/explore/programs/space.js';
import { bootMachine } from '../../src/machine/boot.js';
import type { Cpu } from '../../src/machine/cpu.js';
import { registerOps } from '../../src/machine/ops-table.js';
import { storeWord } from '../../src/mm/access.js';
import { bootMm } from '../../src/mm/boot.js';
import { clearReferenced } from '../../src/mm/clear-refs.js';
import { explorePrograms, type Request } from '../support/exploration.js';

/** Random programs that are tried. */
const SEEDS = 24;
const HUGE_SEEDS = 8;
/** Programs that are drawn, and not run. */
const DRAWN = 400;
/** Of a program over huge pages; more is more than there is room for. */
const STEP_LIMIT = 20_000;

function namesOf(kind: string, count: number): string[] {
  return Array.from({ length: count }, (_, seed) => `${kind}-${seed}`);
}

/** What programs over memory begin with, on a machine for one. */
function memoryOf(setup: typeof setupMemory): { cpu: Cpu; world: MemoryWorld } {
  const machine = { cpus: 1, ramBytes: 12 << 20, swapBytes: 1 << 16, minFreeFrames: 4 };
  const { cpu } = bootMachine(machine);
  bootMm(cpu);
  bootDeferred(cpu);
  registerOps(cpu, [{ spaceMirror }]);
  return { cpu, world: setup(cpu) };
}

describe('random programs', () => {
  const names = namesOf('random', SEEDS);

  test('are the same for the same seed, and others for others', () => {
    const titles = names.map((name) => programNamed(name)!.title);
    assert.deepEqual(
      names.map((name) => programNamed(name)!.title),
      titles,
    );
    assert.equal(new Set(titles).size, SEEDS);
  });

  test('have two or three tasks of one to three operations', () => {
    for (const name of names) {
      const { tasks } = programNamed(name)!;
      assert.ok(tasks.length === 2 || tasks.length === 3, name);
      for (const { operations } of tasks) assert.ok([1, 2, 3].includes(operations.length), name);
    }
  });

  test('do not fail', async () => {
    const answers = await explorePrograms(
      ...names.map((program): Request => ({ program, random: 60, pct: 60 })),
    );
    assert.deepEqual(
      answers.flatMap(({ failure, failedAt }, i) =>
        failure === undefined ? [] : [`${names[i]} schedule ${failedAt}: ${failure}`],
      ),
      [],
    );
  });

  test('do not fail over memory, and find what they have stored', async () => {
    const small = namesOf('random-mm', SEEDS).map((program): Request => ({
      program,
      random: 30,
      pct: 30,
    }));
    const huge = namesOf('random-huge', HUGE_SEEDS).map((program): Request => ({
      program,
      random: 2,
      pct: 2,
      stepLimit: STEP_LIMIT,
    }));
    const requests = [...small, ...huge];
    const answers = await explorePrograms(...requests);
    assert.deepEqual(
      answers.flatMap(({ failure, failedAt }, i) =>
        failure === undefined ? [] : [`${requests[i]!.program} schedule ${failedAt}: ${failure}`],
      ),
      [],
    );
  });

  test('over memory draw everything there is, on every page', () => {
    const missing = (kind: string, operations: typeof MEMORY_OPERATIONS): string[] => {
      const drawn = new Set(
        namesOf(kind, DRAWN).flatMap((name) =>
          programNamed(name)!.tasks.flatMap((task) => task.operations.map((one) => one.name)),
        ),
      );
      const all = operations.flatMap(({ name, pages }) =>
        pages.length === 1 ? [name] : pages.map((page) => `${name} [${page}]`),
      );
      return all.filter((name) => !drawn.has(name));
    };
    assert.deepEqual(missing('random-mm', MEMORY_OPERATIONS), []);
    assert.deepEqual(missing('random-huge', HUGE_CHOICES), []);
  });

  test('over memory do what they say, when nobody is in the way', () => {
    const refused = (setup: typeof setupMemory, operations: typeof MEMORY_OPERATIONS): string[] =>
      operations.flatMap(({ name, run, pages }) =>
        pages.flatMap((page) => {
          const { cpu, world } = memoryOf(setup);
          clearReferenced(cpu, mmOf(cpu, world)); // or nothing is reclaimed
          return run(cpu, world, page) ? [] : [`${name} [${page}]`];
        }),
      );
    assert.deepEqual(refused(setupMemory, MEMORY_OPERATIONS), []);
    assert.deepEqual(refused(setupHuge, HUGE_OPERATIONS), []);
  });

  test('over memory see what is planted, and a store that is not theirs', async () => {
    const [answer] = await explorePrograms({
      program: 'random-mm-38', // a store, and a page that goes to the swap area
      mutant: 'busted-pageout',
      random: 60,
      pct: 60,
    });
    assert.notEqual(answer?.failure, undefined);
    const { cpu, world } = memoryOf(setupMemory);
    storeWord(cpu, mmOf(cpu, world), cellVa(0, cpu.id, 1), 5);
    assert.throws(() => loadCells(cpu, world, 0), /INV-24: cell 1 of page 0 reads 5/);
  });

  test('are no others', () => {
    for (const name of [
      'random-',
      'random-x',
      'random--1',
      'random-1.5',
      'random-no-1',
      'nothing',
    ]) {
      assert.equal(programNamed(name), undefined, name);
    }
  });
});
