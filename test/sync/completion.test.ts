import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';

import { read } from '#memory';

import { ERESTARTSYS } from '../../src/base/errno.js';
import { type Cpu, cpuArea } from '../../src/machine/cpu.js';
import { lockClass } from '../../src/machine/lock-class.js';
import { preemptDisable, sendSigkill, wakeUpProcess } from '../../src/machine/sched.js';
import { member } from '../../src/memory/layout.js';
import { listEmpty } from '../../src/memory/list.js';
import {
  complete,
  completeAll,
  Completion,
  initCompletion,
  reinitCompletion,
  tryWaitForCompletion,
  waitForCompletion,
  waitForCompletionKillable,
  waitForCompletionTimeout,
} from '../../src/sync/completion.js';
import { WaitQueue } from '../../src/sync/wait-queue.js';
import { completePosted, SyncArena, waitOnStack } from '../programs/sync.js';
import { programUrl, runProgram } from '../support/crew.js';
import { assertBug, bootCpu, place } from '../support/machine.js';
import { type Call, Puppets } from '../support/puppets.js';

const NAME = lockClass('test->completion');

function newCompletion(cpu: Cpu): Completion {
  const completion = place(cpu, Completion);
  initCompletion(cpu, completion, NAME);
  return completion;
}

const doneOf = (cpu: Cpu, completion: Completion): number => read(cpu, completion, Completion.done);

describe('without waiting', () => {
  test('each complete lets one wait return', () => {
    const cpu = bootCpu();
    const completion = newCompletion(cpu);
    assert.equal(tryWaitForCompletion(cpu, completion), false);
    complete(cpu, completion);
    complete(cpu, completion);
    complete(cpu, completion);
    waitForCompletion(cpu, completion);
    assert.equal(waitForCompletionKillable(cpu, completion), 0);
    assert.equal(tryWaitForCompletion(cpu, completion), true);
    assert.equal(tryWaitForCompletion(cpu, completion), false);
  });

  test('completeAll is for ever, until it is undone', () => {
    const cpu = bootCpu();
    const completion = newCompletion(cpu);
    completeAll(cpu, completion);
    for (let i = 0; i < 3; i++) waitForCompletion(cpu, completion);
    complete(cpu, completion);
    assert.equal(tryWaitForCompletion(cpu, completion), true);
    assert.equal(waitForCompletionTimeout(cpu, completion, 0), true);
    reinitCompletion(cpu, completion);
    assert.equal(tryWaitForCompletion(cpu, completion), false);
  });

  test('a wait with a timeout ends by itself, and without having been completed', () => {
    const cpu = bootCpu();
    const completion = newCompletion(cpu);
    assert.equal(waitForCompletionTimeout(cpu, completion, 0), false);
    assert.equal(waitForCompletionTimeout(cpu, completion, 2), false);
    assert.ok(listEmpty(cpu, member(member(completion, Completion.wait), WaitQueue.head)));
    complete(cpu, completion);
    assert.equal(waitForCompletionTimeout(cpu, completion, 2), true);
    assert.equal(doneOf(cpu, completion), 0);
  });

  test('a signal that is pending ends a killable wait, unless it is done already', () => {
    const cpu = bootCpu();
    const completion = newCompletion(cpu);
    sendSigkill(cpu, cpu.area);
    assert.equal(waitForCompletionKillable(cpu, completion), -ERESTARTSYS);
    complete(cpu, completion);
    assert.equal(waitForCompletionKillable(cpu, completion), 0);
  });

  test('waiting may sleep, so it is a bug where that may not be; saying so and asking are not', () => {
    const cpu = bootCpu();
    const completion = newCompletion(cpu);
    completeAll(cpu, completion);
    preemptDisable(cpu);
    complete(cpu, completion);
    assert.equal(tryWaitForCompletion(cpu, completion), true);
    for (const wait of [waitForCompletion, waitForCompletionKillable]) {
      assertBug(() => {
        wait(cpu, completion);
      }, /sleeping function/);
    }
  });
});

describe('scripted', () => {
  let puppets: Puppets;
  let boot: Cpu;
  before(() => {
    puppets = new Puppets(4);
    ({ boot } = puppets);
  });
  after(() => puppets.stop());

  async function queue(
    id: number,
    completion: Completion,
    op: Parameters<Puppets['start']>[1] = 'waitForCompletion',
    argument = 0,
  ): Promise<Call> {
    const call = puppets.start(id, op, completion, argument);
    await call.blocked();
    assert.equal(puppets.waitOf(id), 'completion');
    return call;
  }

  test('waiters return in the order they came, one for each complete', async () => {
    const completion = newCompletion(boot);
    const order = [2, 0, 3, 1];
    const calls = new Map<number, Call>();
    for (const id of order) calls.set(id, await queue(id, completion));
    for (const [index, id] of order.entries()) {
      complete(boot, completion);
      await calls.get(id)!.done;
      for (const behind of order.slice(index + 1)) assert.ok(puppets.isBlocked(behind));
    }
    assert.equal(doneOf(boot, completion), 0);
  });

  test('completeAll lets all waiters go', async () => {
    const completion = newCompletion(boot);
    const calls = [];
    for (const id of [0, 1, 2]) calls.push(await queue(id, completion));
    completeAll(boot, completion);
    await Promise.all(calls.map((call) => call.done));
  });

  test('whom something else wakes waits on, and is still completed', async () => {
    const completion = newCompletion(boot);
    const call = await queue(0, completion);
    for (let i = 0; i < 20; i++) wakeUpProcess(boot, cpuArea(0));
    await call.blocked();
    complete(boot, completion);
    await call.done;
  });

  test('a fatal signal ends a killable wait, and the next in the queue is completed', async () => {
    const completion = newCompletion(boot);
    const killed = await queue(0, completion, 'waitForCompletionKillable');
    const plain = await queue(1, completion);
    sendSigkill(boot, cpuArea(0));
    sendSigkill(boot, cpuArea(1));
    assert.equal(await killed.done, -ERESTARTSYS);
    assert.ok(puppets.isBlocked(1));
    complete(boot, completion);
    await plain.done;
    for (const id of [0, 1]) await puppets.call(id, 'clearSignal');
    assert.equal(doneOf(boot, completion), 0);
  });

  test('who was completed and signalled at once has been completed', async () => {
    const completion = newCompletion(boot);
    for (let round = 0; round < 50; round++) {
      const call = await queue(0, completion, 'waitForCompletionKillable');
      complete(boot, completion);
      sendSigkill(boot, cpuArea(0));
      assert.equal(await call.done, 0);
      await puppets.call(0, 'clearSignal');
    }
    assert.equal(doneOf(boot, completion), 0);
  });

  test('a wait with a long timeout is completed like any other', async () => {
    const completion = newCompletion(boot);
    const call = await queue(0, completion, 'waitForCompletionTimeout', 600_000);
    complete(boot, completion);
    assert.equal(await call.done, 1);
  });
});

test('whom complete woke may free the completion, and nobody touches it after that', async () => {
  const { results } = await runProgram({
    cpus: 3,
    module: programUrl('sync'),
    entry: [waitOnStack.name, completePosted.name, completePosted.name],
    watchdog: { stallMs: 20_000 },
    setup: (cpu) => place(cpu, SyncArena),
  });
  assert.equal(results[0]!.value, 0);
});
