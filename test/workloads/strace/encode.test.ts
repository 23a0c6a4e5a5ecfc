import assert from 'node:assert/strict';
import { test } from 'node:test';

import {
  argumentsOf,
  encodePlan,
  field,
  OPCODES,
  ROW_ARGS,
  ROW_EXPECTED,
  ROW_FIRST_WAIT,
  ROW_IS_OUTSIDE,
  ROW_LINE,
  ROW_MM,
  ROW_NUMBER,
  ROW_OPCODE,
  ROW_STRIDE,
  ROW_TASK,
  ROW_TIME_MS,
  ROW_WAIT_COUNT,
} from '../../../src/workloads/strace/encode.js';
import { ARGUMENTS, ARGUMENTS_MAX } from '../../../src/workloads/strace/operations.js';
import { planStrace } from '../../../src/workloads/strace/plan.js';
import { planOf, RECORDED, recordedLog } from '../../support/strace-logs.js';

test('every kind of operation has an opcode of its own and arguments that fit a row', () => {
  const kinds = Object.keys(ARGUMENTS).sort();
  assert.deepEqual(Object.keys(OPCODES).sort(), kinds);
  assert.equal(new Set(Object.values(OPCODES)).size, kinds.length);
  for (const names of Object.values(ARGUMENTS)) assert.ok(names.length <= ARGUMENTS_MAX);
  assert.ok(ROW_IS_OUTSIDE < ROW_STRIDE);
});

test('arguments stand in a row in the order of the table', () => {
  const lines = [
    '1 mmap(NULL, 5000, PROT_READ, MAP_PRIVATE, 3, 0) = 0x70000',
    '1 mremap(0x70000, 8192, 12288, MREMAP_MAYMOVE) = 0x90000',
  ];
  const [, mmap, mremap] = planOf(...lines).tasks[0]!.operations;
  assert.deepEqual(argumentsOf(mmap!), [0x70000, 5000, 1, 2, 0, 0]);
  assert.deepEqual(argumentsOf(mremap!), [0x70000, 8192, 12288, 1, 0x90000]);
});

for (const name of RECORDED) {
  test(`the encoded plan of ${name} says what the plan says`, () => {
    const plan = planStrace(recordedLog(name));
    const encoded = encodePlan(plan);
    assert.equal(encoded.rows.length, plan.totals.operations * ROW_STRIDE);
    let row = 0;
    plan.slots.forEach((tasks, slot) => {
      assert.equal(encoded.slots[slot * 2], row);
      for (const operation of tasks.flatMap((task) => plan.tasks[task]!.operations)) {
        const at = (index: number): number => field(encoded, row, index);
        assert.equal(at(ROW_OPCODE), OPCODES[operation.action.kind]);
        assert.equal(at(ROW_LINE), operation.line);
        assert.equal(at(ROW_TIME_MS), operation.timeMs);
        assert.equal(at(ROW_TASK), operation.task);
        assert.equal(at(ROW_NUMBER), operation.number);
        assert.equal(at(ROW_MM), operation.mm);
        assert.equal(at(ROW_EXPECTED), operation.expected);
        argumentsOf(operation).forEach((value, index) => {
          assert.equal(at(ROW_ARGS + index), value);
        });
        const first = at(ROW_FIRST_WAIT) * 2;
        const pairs = [...encoded.waits.subarray(first, first + at(ROW_WAIT_COUNT) * 2)];
        assert.deepEqual(
          pairs,
          operation.waits.flatMap(({ task, count }) => [task, count]),
        );
        row++;
      }
      assert.equal(encoded.slots[slot * 2 + 1], row - encoded.slots[slot * 2]!);
    });
    plan.mms.forEach(({ image }, mm) => {
      const first = encoded.mmImages[mm * 2]!;
      const count = encoded.mmImages[mm * 2 + 1]!;
      assert.deepEqual(
        [...encoded.images.subarray(first * 2, (first + count) * 2)],
        image.flatMap(({ start, end }) => [start, end]),
      );
    });
    assert.deepEqual(
      [...encoded.fileSizes],
      plan.files.map(({ sizeBytes }) => sizeBytes),
    );
    assert.deepEqual(
      [...encoded.tids],
      plan.tasks.map(({ tid }) => tid),
    );
  });
}

test('an encoded plan is handed to a worker without being copied', () => {
  const encoded = encodePlan(planOf('1 munlockall() = 0'));
  const handed = structuredClone(encoded);
  encoded.rows[0] = 12345;
  assert.equal(handed.rows[0], 12345);
});
