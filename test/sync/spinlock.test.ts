import assert from 'node:assert/strict';
import { after, describe, test } from 'node:test';

import { read, readOnce } from '#memory';

import { snapshotCpu } from '../../src/debug/wait-graph.js';
import {
  archSpinLock,
  archSpinTrylock,
  archSpinUnlock,
  initSpinlock,
} from '../../src/machine/arch-spinlock.js';
import type { Cpu } from '../../src/machine/cpu.js';
import { lockClass } from '../../src/machine/lock-class.js';
import { mightSleep } from '../../src/machine/sched.js';
import { Spinlock, spinLock, spinTrylock, spinUnlock } from '../../src/sync/spinlock.js';
import {
  Arena,
  HALTED_HANDOVERS,
  noLock,
  ROUNDS,
  spinlock,
  spinlockHandover,
} from '../programs/locks.js';
import { assertExclusive, contend, times } from '../support/contention.js';
import { assertBug, bootCpus, place } from '../support/machine.js';
import { Puppets } from '../support/puppets.js';

const NAME = lockClass('test->spinlock');

function newLock(cpu: Cpu): Spinlock {
  const lock = place(cpu, Spinlock);
  initSpinlock(cpu, lock, NAME);
  return lock;
}

for (const [layer, take, tryTake, give] of [
  ['arch', archSpinLock, archSpinTrylock, archSpinUnlock],
  ['tracked', spinLock, spinTrylock, spinUnlock],
] as const) {
  test(`${layer}: one CPU holds it, and another can take it when that is over`, () => {
    const [cpu, other] = bootCpus(2);
    const lock = newLock(cpu!);
    take(cpu!, lock);
    assert.equal(read(cpu!, lock, Spinlock.value), 1);
    assert.equal(tryTake(other!, lock), false);
    assert.equal(tryTake(cpu!, lock), false, 'it is not recursive');
    give(cpu!, lock);
    assert.equal(read(cpu!, lock, Spinlock.value), 0);
    assert.equal(tryTake(other!, lock), true);
    give(other!, lock);
  });

  test(`${layer}: its holder may not sleep, and who could not take it may`, () => {
    const [cpu, other] = bootCpus(2);
    const lock = newLock(cpu!);
    const inner = newLock(cpu!);
    take(cpu!, lock);
    take(cpu!, inner);
    give(cpu!, lock);
    assertBug(() => {
      mightSleep(cpu!);
    }, /preempt_count 1/);
    assert.equal(tryTake(other!, inner), false);
    mightSleep(other!);
    give(cpu!, inner);
    mightSleep(cpu!);
    assert.equal(tryTake(cpu!, inner), true);
    assertBug(() => {
      mightSleep(cpu!);
    }, /preempt_count 1/);
  });
}

test('giving back a lock that nobody holds is a bug', () => {
  const [cpu] = bootCpus(1);
  assertBug(() => {
    archSpinUnlock(cpu!, newLock(cpu!));
  }, /unlock of a free lock \(I1\)/);
});

test('giving back a lock that another CPU holds is a bug', () => {
  const [cpu, other] = bootCpus(2);
  const lock = newLock(cpu!);
  spinLock(cpu!, lock);
  assertBug(() => {
    spinUnlock(other!, lock);
  }, /cpu 1 releases lock \d+, which it does not hold/);
});

test('the locks a CPU holds are on record, and only the tracked ones', () => {
  const [cpu] = bootCpus(1);
  const locks = [newLock(cpu!), newLock(cpu!), newLock(cpu!)];
  spinLock(cpu!, locks[0]!);
  archSpinLock(cpu!, locks[1]!);
  assert.equal(spinTrylock(cpu!, locks[2]!), true);
  assert.deepEqual(snapshotCpu(cpu!, 0).held, [locks[0], locks[2]]);
});

describe('a CPU that has to wait long', () => {
  const puppets = new Puppets(3);
  const { boot } = puppets;
  after(() => puppets.stop());

  test('halts, and is woken when the lock is given back', async () => {
    const lock = newLock(boot);
    archSpinLock(boot, lock);
    const waiter = puppets.start(0, 'archSpinLock', lock);
    await waiter.blocked();
    assert.equal(puppets.waitOf(0), 'spinlock');
    archSpinUnlock(boot, lock);
    await waiter.done;
    assert.equal(readOnce(boot, lock, Spinlock.value), 2, 'somebody may be parked');
    await puppets.call(0, 'archSpinUnlock', lock);
    assert.equal(readOnce(boot, lock, Spinlock.value), 0);
  });

  test('keeps the others that halted in mind', async () => {
    const lock = newLock(boot);
    archSpinLock(boot, lock);
    const waiters = [0, 1, 2].map((id) => puppets.start(id, 'archSpinLock', lock));
    for (const waiter of waiters) await waiter.blocked();
    archSpinUnlock(boot, lock);
    const left = new Set([0, 1, 2]);
    while (left.size > 0) {
      const winner = await Promise.race([...left].map((id) => waiters[id]!.done.then(() => id)));
      left.delete(winner);
      for (const id of left) await waiters[id]!.blocked();
      await puppets.call(winner, 'archSpinUnlock', lock);
    }
    assert.equal(readOnce(boot, lock, Spinlock.value), 0);
  });
});

describe('with more CPUs than cores', () => {
  test('a spinlock lets one CPU in at a time', async () => {
    const run = await contend(times(6, spinlock));
    assertExclusive(run, 6 * ROUNDS);
    assert.equal(run.cpu.words[run.arena + Arena.spinlock], 0);
  });

  test('control: without it, they disturb each other', async () => {
    const { values } = await contend(times(3, noLock));
    assert.ok(values.some((disturbed) => disturbed > 0));
  });

  // a wake-up that is lost costs a tenth of a second here, each time
  test('each hand-over wakes who has halted for it', { timeout: 60_000 }, async () => {
    const run = await contend(times(2, spinlockHandover));
    assert.ok(run.field(Arena.left) >= 2 * HALTED_HANDOVERS - 1);
  });
});
