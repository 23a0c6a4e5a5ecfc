import assert from 'node:assert/strict';
import { describe, test } from 'node:test';

import type { Cpu } from '../../src/machine/cpu.js';
import { warningCount, warningTexts } from '../../src/machine/warn.js';
import { member } from '../../src/memory/layout.js';
import {
  Refcount,
  REFCOUNT_SATURATED,
  refcountDec,
  refcountDecAndTest,
  refcountDecNotOne,
  refcountInc,
  refcountIncNotZero,
  refcountRead,
  refcountSet,
} from '../../src/sync/refcount.js';
import { countPlainly, getAndPut, SyncArena } from '../programs/sync.js';
import { programUrl, runProgram } from '../support/crew.js';
import { bootCpu, place } from '../support/machine.js';

const MAX = 0x7fffffff;
const SATURATED = REFCOUNT_SATURATED;

describe('what each operation leaves, answers and warns of', () => {
  type Operation = (cpu: Cpu, refcount: Refcount) => unknown;
  const rows: [
    operation: Operation,
    before: number,
    after: number,
    answer: boolean | undefined,
    warning?: RegExp,
  ][] = [
    [refcountInc, 1, 2, undefined],
    [refcountInc, MAX - 1, MAX, undefined],
    [refcountInc, 0, SATURATED, undefined, /addition on 0; use after free/],
    [refcountInc, MAX, SATURATED, undefined, /saturated; leaking memory/],
    [refcountInc, SATURATED, SATURATED, undefined, /saturated; leaking memory/],
    [refcountInc, -1, SATURATED, undefined, /saturated/],
    [refcountIncNotZero, 1, 2, true],
    [refcountIncNotZero, 0, 0, false],
    [refcountIncNotZero, MAX, SATURATED, true, /saturated; leaking memory/],
    [refcountIncNotZero, SATURATED, SATURATED, true, /saturated; leaking memory/],
    [refcountDecAndTest, 2, 1, false],
    [refcountDecAndTest, 1, 0, true],
    [refcountDecAndTest, 0, SATURATED, false, /underflow; use after free/],
    [refcountDecAndTest, SATURATED, SATURATED, false, /underflow/],
    [refcountDec, 2, 1, undefined],
    [refcountDec, 1, SATURATED, undefined, /decrement hit 0; leaking memory/],
    [refcountDec, 0, SATURATED, undefined, /decrement hit 0/],
    [refcountDecNotOne, 2, 1, true],
    [refcountDecNotOne, 1, 1, false],
    [refcountDecNotOne, SATURATED, SATURATED, true],
    [refcountDecNotOne, 0, SATURATED, true, /underflow; use after free/],
  ];
  for (const [operation, before, afterwards, answer, warning] of rows) {
    test(`${operation.name} on ${before}`, () => {
      const cpu = bootCpu();
      const refcount = place(cpu, Refcount);
      refcountSet(cpu, refcount, before);
      assert.equal(operation(cpu, refcount), answer);
      assert.equal(refcountRead(cpu, refcount), afterwards);
      assert.equal(warningCount(cpu), warning ? 1 : 0);
      if (warning) assert.match(warningTexts(cpu)[0]!, warning);
    });
  }
});

test('a saturated counter never says that it was the last, however often it is put', () => {
  const cpu = bootCpu();
  const refcount = place(cpu, Refcount);
  refcountSet(cpu, refcount, SATURATED);
  for (let i = 0; i < 1000; i++) assert.equal(refcountDecAndTest(cpu, refcount), false);
  assert.equal(refcountRead(cpu, refcount), SATURATED);
});

describe('on several workers at once', () => {
  const run = async (entry: string): Promise<{ cpu: Cpu; arena: SyncArena; sum: number }> => {
    let arena = 0 as SyncArena;
    const cpus = 4;
    const { machine, results } = await runProgram({
      cpus,
      module: programUrl('sync'),
      entry,
      setup: (cpu) => {
        arena = place(cpu, SyncArena);
        refcountSet(cpu, member(arena, SyncArena.refcount), cpus);
        return arena;
      },
    });
    const sum = results.reduce((total, result) => total + Number(result.value), 0);
    return { cpu: machine.cpu, arena, sum };
  };

  test('exactly one put is the last', async () => {
    const { cpu, arena, sum } = await run(getAndPut.name);
    assert.equal(sum, 1);
    assert.equal(refcountRead(cpu, member(arena, SyncArena.refcount)), 0);
    assert.equal(warningCount(cpu), 0);
  });

  test('control: plain counting loses steps', async () => {
    const { sum } = await run(countPlainly.name);
    assert.ok(sum > 0);
  });
});
