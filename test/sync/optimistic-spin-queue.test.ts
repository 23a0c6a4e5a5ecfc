import assert from 'node:assert/strict';
import { after, describe, test } from 'node:test';

import { readOnce } from '#memory';

import { attachCpu } from '../../src/machine/boot.js';
import type { Cpu } from '../../src/machine/cpu.js';
import { CpuArea } from '../../src/machine/types.js';
import { member } from '../../src/memory/layout.js';
import { OptimisticSpinQueue, osqLock, osqUnlock } from '../../src/sync/optimistic-spin-queue.js';
import { Arena, noLock, spinQueue } from '../programs/locks.js';
import { assertExclusive, contend, times } from '../support/contention.js';
import { bootCpus, place } from '../support/machine.js';
import { Puppets } from '../support/puppets.js';

const tailOf = (cpu: Cpu, queue: OptimisticSpinQueue): number =>
  readOnce(cpu, queue, OptimisticSpinQueue.tail);

test('the first to come has its turn at once, and again after it has passed it on', () => {
  const [a, b] = bootCpus(2);
  const queue = place(a!, OptimisticSpinQueue);
  for (const cpu of [a!, a!, b!]) {
    assert.equal(osqLock(cpu, queue), true);
    assert.equal(tailOf(cpu, queue), cpu.area);
    osqUnlock(cpu, queue);
    assert.equal(tailOf(cpu, queue), 0);
  }
});

test('who gives up leaves the queue as it was', () => {
  const [a, b, c] = bootCpus(3);
  const queue = place(a!, OptimisticSpinQueue);
  assert.equal(osqLock(a!, queue), true);
  for (const cpu of [b!, c!, b!]) {
    assert.equal(osqLock(cpu, queue), false);
    assert.equal(tailOf(a!, queue), a!.area);
    assert.equal(readOnce(a!, a!.area, CpuArea.osqNext), 0);
  }
  osqUnlock(a!, queue);
  assert.equal(tailOf(a!, queue), 0);
  assert.equal(osqLock(c!, queue), true);
});

describe('behind a CPU that does not pass its turn on', () => {
  const puppets = new Puppets(2, { cpus: 3 });
  after(() => puppets.stop());

  test('all can give up, whether those before them have or not', async () => {
    const here = attachCpu(puppets.handle, 2);
    const queue = place(here, OptimisticSpinQueue);
    for (let round = 0; round < 300; round++) {
      assert.equal(osqLock(here, queue), true);
      const calls = [puppets.start(0, 'osqLock', queue), puppets.start(1, 'osqLock', queue)];
      assert.deepEqual(await Promise.all(calls.map((call) => call.done)), [0, 0]);
      assert.equal(tailOf(here, queue), here.area);
      osqUnlock(here, queue);
      assert.equal(tailOf(here, queue), 0);
    }
  });
});

test('with more CPUs than cores, one at a time has its turn, though many give up', async () => {
  const run = await contend(times(6, spinQueue));
  assertExclusive(run, run.field(Arena.sections));
  assert.ok(run.field(Arena.sections) > 0);
  assert.equal(tailOf(run.cpu, member(run.arena, Arena.osq)), 0);
});

test('control: without the queue they disturb each other', async () => {
  const { values } = await contend(times(3, noLock));
  assert.ok(values.some((disturbed) => disturbed > 0));
});
