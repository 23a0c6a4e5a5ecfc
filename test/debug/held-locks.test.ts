import assert from 'node:assert/strict';
import { test } from 'node:test';

import fc from 'fast-check';

import { heldIndex, popHeld, pushHeld } from '../../src/debug/held-locks.js';
import * as checked from '../../src/debug/hooks.checked.js';
import * as parallel from '../../src/debug/hooks.js';
import { snapshotCpu } from '../../src/debug/wait-graph.js';
import { lockClass } from '../../src/machine/lock-class.js';
import { HELD_LOCKS_MAX } from '../../src/machine/types.js';
import { assertBug, bootCpu, bootCpus } from '../support/machine.js';

const NAME = lockClass('test->held');

test('the record of held locks does what a list does, in whatever order they are given back', () => {
  fc.assert(
    fc.property(fc.array(fc.integer({ min: 1, max: 20 }), { maxLength: 80 }), (locks) => {
      const cpu = bootCpu();
      const model: number[] = [];
      for (const lock of locks) {
        const at = model.indexOf(lock);
        if (at < 0) {
          pushHeld(cpu, lock);
          model.push(lock);
        } else {
          popHeld(cpu, lock);
          model.splice(at, 1);
        }
        assert.deepEqual(snapshotCpu(cpu, 0).held, model);
        assert.equal(heldIndex(cpu, lock), model.indexOf(lock));
      }
    }),
  );
});

test('each CPU has its own record', () => {
  const [a, b] = bootCpus(2);
  pushHeld(a!, 5);
  assert.deepEqual(snapshotCpu(b!, 0).held, [5]);
  assert.deepEqual(snapshotCpu(b!, 1).held, []);
  assertBug(() => {
    popHeld(b!, 5);
  }, /cpu 1 releases lock 5, which it does not hold/);
});

test('more locks than there is room for are a bug', () => {
  const cpu = bootCpu();
  for (let lock = 1; lock < HELD_LOCKS_MAX; lock++) pushHeld(cpu, lock);
  assert.equal(snapshotCpu(cpu, 0).held.length, HELD_LOCKS_MAX - 1);
  assertBug(() => {
    pushHeld(cpu, 100);
  }, /holds too many locks/);
});

test('both forms of the hooks have the same names, and keep the record', () => {
  assert.deepEqual(Object.keys(checked).sort(), Object.keys(parallel).sort());
  for (const hooks of [parallel, checked]) {
    const cpu = bootCpu();
    for (const lock of [7, 8]) {
      hooks.lockAcquire(cpu, lock, NAME);
      hooks.lockAcquired(cpu, lock);
    }
    hooks.lockRelease(cpu, 7);
    assert.deepEqual(snapshotCpu(cpu, 0).held, [8]);
  }
});

test('waiting for a lock that the CPU holds is reported by the checked form, and only there', () => {
  const cpu = bootCpu();
  checked.lockAcquired(cpu, 7);
  checked.lockAcquired(cpu, 8);
  parallel.lockAcquire(cpu, 7, NAME);
  assertBug(() => {
    checked.lockAcquire(cpu, 7, NAME);
  }, /cpu 0: recursive locking of test->held \(lock 7\)/);
  checked.lockRelease(cpu, 7);
  checked.lockAcquire(cpu, 7, NAME);
});
