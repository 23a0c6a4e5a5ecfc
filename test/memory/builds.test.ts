import assert from 'node:assert/strict';
import { test } from 'node:test';

import * as checked from '../../src/memory/memory.checked.js';
import * as parallel from '../../src/memory/memory.js';
import * as turnstile from '../../src/memory/memory.turnstile.js';
import { createMemory, MemoryPort } from '../../src/memory/port.js';
import { buildName, CellArena, lockTwice } from '../programs/memory.js';
import { programUrl, runProgram } from '../support/crew.js';
import { place } from '../support/machine.js';

type Door = typeof parallel;
/** What `park` and `copyWords` of the turnstile build are made of. */
type Extra = 'parkCheck' | 'parkResume' | 'loadRun' | 'storeRun';
const EXTRA: ReadonlySet<string> = new Set<Extra>([
  'parkCheck',
  'parkResume',
  'loadRun',
  'storeRun',
]);
/** Fails to compile unless a build has the parallel build's names, and no others, with its types. */
const doors: Record<'checked' | 'turnstile', Door> = { checked, turnstile };
const same: [keyof typeof checked, Exclude<keyof typeof turnstile, Extra>] extends [
  keyof Door,
  keyof Door,
]
  ? true
  : false = true;

/** What only one build does something for. */
const HINTS: ReadonlySet<string> = new Set([
  'assertExclusiveAccess',
  'assertExclusiveWriter',
  'awaitFree',
  'noteAlloc',
  'noteFrame',
  'noteFree',
  'noteSlab',
  'spinLimit',
]);

const module = programUrl('memory');

for (const [name, door] of Object.entries(doors)) {
  test(`the ${name} build exports what the parallel build does`, () => {
    assert.ok(same);
    const kinds = (exports: object): [string, string][] =>
      Object.entries(exports).flatMap(([key, value]) =>
        EXTRA.has(key) ? [] : [[key, typeof value]],
      );
    assert.deepEqual(kinds(door), kinds(parallel));
    assert.equal(door.BUILD, name);
    for (const [key, value] of Object.entries(parallel)) {
      if (typeof value !== 'function' || HINTS.has(key)) continue;
      const other = (door as unknown as Record<string, unknown>)[key];
      assert.notEqual(other, value, `${key} goes through the build`);
      assert.ok((other as { length: number }).length >= value.length, `${key} takes what it must`);
    }
  });

  test(`each operation of the ${name} build counts as one and does the same`, () => {
    const results = (which: Door): unknown[] => {
      const port = new MemoryPort(createMemory(4096));
      const at = 64 as never;
      const calls: ((door: Door) => unknown)[] = [
        (d) => {
          d.write(port, at, 0 as never, 5);
        },
        (d) => d.read(port, at, 0 as never),
        (d) => {
          d.writeOwn(port, at, 6 as never, 5);
        },
        (d) => d.readOwn(port, at, 6 as never),
        (d) => {
          d.writeOnce(port, at, 1 as never, 6);
        },
        (d) => d.readOnce(port, at, 1 as never),
        (d) => {
          d.storeRelease(port, at, 2 as never, 7);
        },
        (d) => d.loadAcquire(port, at, 2 as never),
        (d) => d.countInside(port, at, 2 as never, at, 1 as never, 80, 3),
        (d) => {
          d.writeRelease(port, at, 2 as never, 8);
        },
        (d) => {
          d.writeAddress(port, at, 4 as never, 2 ** 47);
        },
        (d) => d.readAddress(port, at, 4 as never),
        (d) => d.fetchAdd(port, at, 0 as never, 3),
        (d) => d.fetchOr(port, at, 0 as never, 3),
        (d) => d.fetchAnd(port, at, 0 as never, 9),
        (d) => d.exchange(port, at, 0 as never, 11),
        (d) => d.cmpxchg(port, at, 0 as never, 11, 12),
        (d) => d.readOnceLinks(port, 64, 0, 0, 0),
        (d) => {
          d.clearCells(port, 176, 2);
        },
        (d) => {
          d.readOnceCells(port, 96, 64, 4);
        },
        (d) => d.readOnceCellsWhile(port, 192, 64, 4, 0, 0, -1),
        (d) => {
          d.changeCells(port, 208, 2, 0, 0, 0, 0, 5);
        },
        (d) => {
          d.writeOnceCells(port, 112, 64, 4);
        },
        (d) => {
          d.takeCells(port, 128, 64, 4);
        },
        (d) => {
          d.fillWords(port, 144, 0x6b, 3);
        },
        (d) => {
          d.copyWords(port, 160, 96, 8);
        },
        (d) => d.park(port, at, 0 as never, 99, 0),
        (d) => d.unpark(port, at, 0 as never, 1),
        (d) => {
          d.watchLock(port, at, 7 as never);
        },
        (d) => {
          d.watchUnlock(port, at, 7 as never);
        },
        (d) => {
          d.relax(port);
        },
        (d) => typeof d.clockMs(port),
        (d) => d.parkAsync(port, at, 0 as never, 99, 0) instanceof Promise,
      ];
      const counts: number[] = [];
      const answers = calls.map((call) => {
        const before = port.operations;
        const answer = call(which);
        counts.push(port.operations - before);
        return answer;
      });
      const operations = Object.keys(which).filter((key) => !HINTS.has(key) && !EXTRA.has(key));
      assert.equal(calls.length, operations.length - 1, 'all but BUILD');
      assert.deepEqual(
        counts,
        calls.map(() => (which.BUILD === 'parallel' ? 0 : 1)),
      );
      return [answers, [...port.words.subarray(0, 256)]];
    };
    assert.deepEqual(results(door), results(parallel));
  });
}

for (const build of ['parallel', 'checked', 'turnstile'] as const) {
  test(`a crew started as ${build} runs that build in its workers`, async () => {
    const { results } = await runProgram({
      cpus: 2,
      build,
      module,
      entry: buildName.name,
      setup: (cpu) => place(cpu, CellArena),
    });
    assert.deepEqual(
      results.map((result) => result.value),
      [build, build],
    );
    for (const { operations } of results) {
      if (build === 'parallel') assert.equal(operations, 0);
      else assert.ok(operations >= 10, `${operations} operations counted`);
    }
  });
}

for (const build of ['checked', 'turnstile'] as const) {
  test(`locks in the ${build} build tell the debugging layer that looks for mistakes`, async () => {
    const run = runProgram({
      cpus: 1,
      build,
      module,
      entry: lockTwice.name,
      setup: (cpu) => place(cpu, CellArena),
    });
    await assert.rejects(run, /KernelBug: cpu 0: recursive locking/);
  });
}
