import assert from 'node:assert/strict';
import { test } from 'node:test';

import { read, write } from '#memory';
import fc from 'fast-check';

import type { Cpu } from '../../src/machine/cpu.js';
import {
  allocPercpu,
  allocPercpuPiece,
  freePercpuPiece,
  perCpuPtr,
  thisCpuPtr,
} from '../../src/machine/percpu.js';
import { MACHINE, Machine, Pageset } from '../../src/machine/types.js';
import { CACHELINE_WORDS } from '../../src/memory/layout.js';
import { assertBug, bootCpu, bootCpus } from '../support/machine.js';

test('each CPU has its own instance, and finds that of each other', () => {
  const cpus = bootCpus(3);
  const offset = allocPercpu(cpus[0]!, Pageset.words);
  for (const cpu of cpus) write(cpu, thisCpuPtr<'pageset'>(cpu, offset), Pageset.count, cpu.id + 1);
  for (const cpu of cpus) {
    const seen = cpus.map(({ id }) =>
      read(cpu, perCpuPtr<'pageset'>(cpu, offset, id), Pageset.count),
    );
    assert.deepEqual(seen, [1, 2, 3]);
    assert.equal(perCpuPtr<'pageset'>(cpu, offset, cpu.id), thisCpuPtr<'pageset'>(cpu, offset));
  }
});

test('instances are zeroed, do not overlap, and start on a line of their own', () => {
  fc.assert(
    fc.property(fc.array(fc.integer({ min: 1, max: 60 }), { maxLength: 40 }), (sizes) => {
      const cpus = bootCpus(2);
      const used = new Set<number>();
      for (const size of sizes) {
        const offset = allocPercpu(cpus[0]!, size);
        for (const cpu of cpus) {
          const start: number = thisCpuPtr(cpu, offset);
          assert.equal(start % CACHELINE_WORDS, 0);
          for (let i = start; i < start + size; i++) {
            assert.ok(!used.has(i));
            used.add(i);
            assert.equal(cpu.words[i], 0);
          }
        }
      }
    }),
    { numRuns: 20 },
  );
});

test('the region of a CPU ends where the next one’s begins, and full is a bug', () => {
  const cpu = bootCpu();
  const stride = read(cpu, MACHINE, Machine.percpuStride);
  const used = read(cpu, MACHINE, Machine.percpuUsed);
  assertBug(() => allocPercpu(cpu, stride - used + 1), /per-CPU region is full/);
  const other = bootCpu();
  assert.equal(allocPercpu(other, stride - used), used);
  assertBug(() => allocPercpu(other, 1), /per-CPU region is full/);
});

test('pieces are zeroed, do not overlap, and come back', () => {
  const [cpu, other] = bootCpus(2) as [Cpu, Cpu];
  const used = new Map<number, number>();
  const sizes = [1, 4, 1, 2, 16, 3, 5, 1, 8, 12];
  const take = (words: number): number => {
    const offset = allocPercpuPiece(cpu, words);
    assert.notEqual(offset, 0);
    for (let i = offset; i < offset + words; i++) {
      assert.ok(!used.has(i), `word ${i} is in two pieces`);
      used.set(i, words);
      for (const each of [cpu, other]) {
        assert.equal(each.words[each.percpu + i], 0);
        each.words[each.percpu + i] = -1;
      }
    }
    return offset;
  };
  const pieces = sizes.map((words) => [take(words), words] as const);
  for (const [offset, words] of pieces) {
    freePercpuPiece(cpu, offset, words);
    for (let i = offset; i < offset + words; i++) used.delete(i);
  }
  freePercpuPiece(cpu, 0, 1); // nothing
  const again = sizes.map(take);
  assert.deepEqual(new Set(again), new Set(pieces.map(([offset]) => offset)), 'they are reused');
});

test('without room there is no piece, and that is no bug', () => {
  const cpu = bootCpu();
  const last = Array.from({ length: 10_000 }, () => allocPercpuPiece(cpu, 16)).at(-1);
  assert.equal(last, 0);
  assert.notEqual(read(cpu, MACHINE, Machine.percpuUsed), 0);
});
