import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';

import { readOnce } from '#memory';

import { EINTR } from '../../src/base/errno.js';
import { pushHeld } from '../../src/debug/held-locks.js';
import { snapshotCpu } from '../../src/debug/wait-graph.js';
import { attachCpu } from '../../src/machine/boot.js';
import { type Cpu, cpuArea } from '../../src/machine/cpu.js';
import { lockClass } from '../../src/machine/lock-class.js';
import {
  preemptDisable,
  preemptEnable,
  sendSigkill,
  wakeUpProcess,
} from '../../src/machine/sched.js';
import { member } from '../../src/memory/layout.js';
import { listEmpty } from '../../src/memory/list.js';
import {
  initMutex,
  Mutex,
  mutexIsLocked,
  mutexLock,
  mutexLockKillable,
  mutexOwner,
  mutexTrylock,
  mutexUnlock,
} from '../../src/sync/mutex.js';
import { OptimisticSpinQueue } from '../../src/sync/optimistic-spin-queue.js';
import {
  Arena,
  HANDOVERS,
  killOthers,
  mutex,
  mutexHandover,
  mutexKillable,
  noLock,
  ROUNDS,
} from '../programs/locks.js';
import { assertExclusive, contend, times } from '../support/contention.js';
import { assertBug, bootCpus, place } from '../support/machine.js';
import { Puppets } from '../support/puppets.js';

const NAME = lockClass('test->mutex');
const WAITERS = 1;
const HANDOFF = 2;

function newMutex(cpu: Cpu): Mutex {
  const lock = place(cpu, Mutex);
  initMutex(cpu, lock, NAME);
  return lock;
}

/** Nobody holds it, waits for it or spins for it. */
function assertIdle(cpu: Cpu, lock: Mutex): void {
  assert.equal(readOnce(cpu, lock, Mutex.owner), 0);
  assert.ok(listEmpty(cpu, member(lock, Mutex.waitList)));
  assert.equal(readOnce(cpu, member(lock, Mutex.osq), OptimisticSpinQueue.tail), 0);
}

describe('alone', () => {
  test('the owner is who took it, and nobody after it was given back', () => {
    const [cpu, other] = bootCpus(2);
    const lock = newMutex(cpu!);
    assert.equal(mutexIsLocked(cpu!, lock), false);
    mutexLock(cpu!, lock);
    assert.equal(mutexIsLocked(other!, lock), true);
    assert.equal(mutexOwner(other!, lock), cpu!.area);
    assert.deepEqual(snapshotCpu(other!, 0).held, [lock]);
    mutexUnlock(cpu!, lock);
    assert.equal(mutexLockKillable(other!, lock), 0);
    assert.equal(mutexOwner(cpu!, lock), other!.area);
    mutexUnlock(other!, lock);
    assertIdle(cpu!, lock);
  });

  test('trylock takes a free mutex, and no other, be it one’s own', () => {
    const [cpu, other] = bootCpus(2);
    const lock = newMutex(cpu!);
    assert.equal(mutexTrylock(cpu!, lock), true);
    assert.equal(mutexTrylock(cpu!, lock), false);
    assert.equal(mutexTrylock(other!, lock), false);
    assert.deepEqual(snapshotCpu(cpu!, 1).held, []);
    mutexUnlock(cpu!, lock);
    assert.equal(mutexTrylock(other!, lock), true);
  });

  test('only the owner may give it back', () => {
    const [cpu, other] = bootCpus(2);
    const lock = newMutex(cpu!);
    assertBug(() => {
      mutexUnlock(cpu!, lock);
    }, /releases lock \d+, which it does not hold/);
    mutexLock(cpu!, lock);
    assertBug(() => {
      mutexUnlock(other!, lock);
    }, /cpu 1 releases lock \d+, which it does not hold/);
    pushHeld(other!, lock); // even if the record says otherwise
    assertBug(() => {
      mutexUnlock(other!, lock);
    }, /mutex \d+: unlock by cpu 1, not its owner \(I1\)/);
  });

  test('taking it may sleep, so it is a bug where that may not be, even if it is free', () => {
    const [cpu] = bootCpus(1);
    const lock = newMutex(cpu!);
    preemptDisable(cpu!);
    assertBug(() => {
      mutexLock(cpu!, lock);
    }, /sleeping function called from invalid context/);
    assertBug(() => mutexLockKillable(cpu!, lock), /sleeping function/);
    assert.equal(mutexTrylock(cpu!, lock), true, 'trylock does not sleep');
    preemptEnable(cpu!);
  });

  test('a pending signal does not keep anybody from a free mutex', () => {
    const [cpu] = bootCpus(1);
    const lock = newMutex(cpu!);
    sendSigkill(cpu!, cpu!.area);
    assert.equal(mutexLockKillable(cpu!, lock), 0);
  });
});

describe('scripted', () => {
  let puppets: Puppets;
  let boot: Cpu;
  /** A CPU on the test's thread, so that nothing can come between two steps of it. */
  let here: Cpu;
  before(() => {
    puppets = new Puppets(4, { cpus: 5 });
    ({ boot } = puppets);
    here = attachCpu(puppets.handle, 4);
  });
  after(() => puppets.stop());
  const ownerWord = (lock: Mutex): number => readOnce(boot, lock, Mutex.owner);

  test('waiters get the mutex in the order they came', async () => {
    const lock = newMutex(boot);
    mutexLock(here, lock);
    const waiters = [];
    for (const id of [2, 0, 3, 1]) {
      const call = puppets.start(id, 'mutexLock', lock);
      await call.blocked();
      assert.equal(puppets.waitOf(id), 'mutex');
      waiters.push({ id, call });
    }
    assert.equal(ownerWord(lock), here.area | WAITERS);
    mutexUnlock(here, lock);
    for (const [place, { id, call }] of waiters.entries()) {
      await call.done;
      assert.equal(mutexOwner(boot, lock), cpuArea(id));
      for (const behind of waiters.slice(place + 1)) assert.ok(puppets.isBlocked(behind.id));
      await puppets.call(id, 'mutexUnlock', lock);
    }
    assertIdle(boot, lock);
  });

  test('trylock never takes a mutex that somebody holds, whoever waits for it', async () => {
    const lock = newMutex(boot);
    mutexLock(here, lock);
    const waiter = puppets.start(0, 'mutexLock', lock);
    await waiter.blocked();
    assert.equal(await puppets.call(1, 'mutexTrylock', lock), 0);
    mutexUnlock(here, lock);
    await waiter.done;
    assert.equal(await puppets.call(1, 'mutexTrylock', lock), 0);
    await puppets.call(0, 'mutexUnlock', lock);
    assert.equal(await puppets.call(1, 'mutexTrylock', lock), 1);
    await puppets.call(1, 'mutexUnlock', lock);
    assertIdle(boot, lock);
  });

  test('whoever was woken in vain is given the mutex next, and nobody can steal it', async () => {
    const lock = newMutex(boot);
    for (let round = 0; round < 50; round++) {
      mutexLock(here, lock);
      const waiter = puppets.start(0, 'mutexLock', lock);
      await waiter.blocked();
      wakeUpProcess(boot, cpuArea(0)); // in vain: the mutex is held
      while ((ownerWord(lock) & HANDOFF) === 0) await delay(1);
      await waiter.blocked();
      mutexUnlock(here, lock);
      assert.equal(mutexTrylock(here, lock), false, 'it was given away');
      assert.equal(mutexOwner(boot, lock), cpuArea(0));
      await waiter.done;
      await puppets.call(0, 'mutexUnlock', lock);
      assertIdle(boot, lock);
    }
  });

  test('a hand-off goes to the head of the queue, also if that is another one by then', async () => {
    const lock = newMutex(boot);
    mutexLock(here, lock);
    const first = puppets.start(0, 'mutexLockKillable', lock);
    await first.blocked();
    const second = puppets.start(1, 'mutexLock', lock);
    await second.blocked();
    wakeUpProcess(boot, cpuArea(0));
    while ((ownerWord(lock) & HANDOFF) === 0) await delay(1);
    sendSigkill(boot, cpuArea(0));
    assert.equal(await first.done, -EINTR);
    mutexUnlock(here, lock);
    await second.done;
    assert.equal(mutexOwner(boot, lock), cpuArea(1));
    await puppets.call(1, 'mutexUnlock', lock);
    await puppets.call(0, 'clearSignal');
    assertIdle(boot, lock);
  });

  test('a hand-off to nobody leaves the mutex free', async () => {
    const lock = newMutex(boot);
    mutexLock(here, lock);
    const waiter = puppets.start(0, 'mutexLockKillable', lock);
    await waiter.blocked();
    wakeUpProcess(boot, cpuArea(0));
    while ((ownerWord(lock) & HANDOFF) === 0) await delay(1);
    sendSigkill(boot, cpuArea(0));
    assert.equal(await waiter.done, -EINTR);
    await puppets.call(0, 'clearSignal');
    assert.equal(ownerWord(lock), here.area, 'without flags: the queue is empty');
    mutexUnlock(here, lock);
    assertIdle(boot, lock);
  });

  test('a fatal signal ends the wait of a killable waiter, and of no other', async () => {
    const lock = newMutex(boot);
    mutexLock(here, lock);
    const plain = puppets.start(0, 'mutexLock', lock);
    await plain.blocked();
    const killable = puppets.start(1, 'mutexLockKillable', lock);
    await killable.blocked();
    sendSigkill(boot, cpuArea(0));
    sendSigkill(boot, cpuArea(1));
    assert.equal(await killable.done, -EINTR);
    assert.deepEqual(snapshotCpu(boot, 1).held, []);
    assert.ok(puppets.isBlocked(0));
    assert.equal(ownerWord(lock), here.area | WAITERS, 'one still waits');
    mutexUnlock(here, lock);
    await plain.done;
    for (const id of [0, 1]) await puppets.call(id, 'clearSignal');
    await puppets.call(0, 'mutexUnlock', lock);
    assertIdle(boot, lock);
  });

  test('who is signalled before it has to wait does not wait', async () => {
    const lock = newMutex(boot);
    mutexLock(here, lock);
    sendSigkill(boot, cpuArea(0));
    assert.equal(await puppets.call(0, 'mutexLockKillable', lock), -EINTR);
    await puppets.call(0, 'clearSignal');
    mutexUnlock(here, lock);
    assertIdle(boot, lock);
  });

  test('who is given the mutex and signalled at once has it', async () => {
    const lock = newMutex(boot);
    for (let round = 0; round < 50; round++) {
      mutexLock(here, lock);
      const waiter = puppets.start(0, 'mutexLockKillable', lock);
      await waiter.blocked();
      wakeUpProcess(boot, cpuArea(0));
      while ((ownerWord(lock) & HANDOFF) === 0) await delay(1);
      await waiter.blocked();
      mutexUnlock(here, lock); // gives it to CPU 0
      sendSigkill(boot, cpuArea(0));
      assert.equal(await waiter.done, 0);
      await puppets.call(0, 'mutexUnlock', lock);
      await puppets.call(0, 'clearSignal');
      assertIdle(boot, lock);
    }
  });

  test('a task that waits for its own mutex never gets it, whoever wakes it', async () => {
    const lock = newMutex(boot);
    await puppets.call(0, 'mutexLock', lock);
    const again = puppets.start(0, 'mutexLockKillable', lock);
    await again.blocked();
    for (let i = 0; i < 3; i++) {
      wakeUpProcess(boot, cpuArea(0));
      await delay(2);
      await again.blocked();
    }
    sendSigkill(boot, cpuArea(0));
    assert.equal(await again.done, -EINTR);
    await puppets.call(0, 'clearSignal');
    await puppets.call(0, 'mutexUnlock', lock);
    assertIdle(boot, lock);
  });
});

describe('with more CPUs than cores', () => {
  test('a mutex lets one CPU in at a time, and nobody sleeps for ever', async () => {
    const run = await contend(times(6, mutex));
    assertExclusive(run, 6 * ROUNDS);
    assertIdle(run.cpu, member(run.arena, Arena.mutex));
  });

  test('each wake-up comes, when two CPUs hand it to each other', async () => {
    const { values } = await contend(times(2, mutexHandover));
    assert.ok(values[0]! + values[1]! >= 2 * HANDOVERS - 1);
  });

  test('… also when waiters are killed all the time', async () => {
    const run = await contend([...times(4, mutexKillable), killOthers.name]);
    assertExclusive(run, 4 * ROUNDS);
    assert.ok(run.field(Arena.together) > 0, 'some waits were interrupted');
    assertIdle(run.cpu, member(run.arena, Arena.mutex));
  });

  test('control: without it, they disturb each other', async () => {
    const { values } = await contend(times(3, noLock));
    assert.ok(values.some((disturbed) => disturbed > 0));
  });
});
