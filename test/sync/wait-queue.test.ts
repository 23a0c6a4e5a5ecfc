import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';

import { readOnce } from '#memory';

import { snapshotCpu } from '../../src/debug/wait-graph.js';
import { attachCpu } from '../../src/machine/boot.js';
import { type Cpu, cpuArea } from '../../src/machine/cpu.js';
import { lockClass } from '../../src/machine/lock-class.js';
import {
  sendSigkill,
  setCurrentState,
  TASK_INTERRUPTIBLE,
  TASK_KILLABLE,
  TASK_RUNNING,
  TASK_UNINTERRUPTIBLE,
  wakeUpProcess,
} from '../../src/machine/sched.js';
import { CpuArea, WAIT_ENTRIES_MAX } from '../../src/machine/types.js';
import { WAIT_QUEUE } from '../../src/machine/wait-kind.js';
import {
  finishWait,
  initWait,
  initWaitQueue,
  prepareToWait,
  prepareToWaitExclusive,
  WaitQueue,
  waitqueueActive,
  wakeUp,
  wakeUpAll,
} from '../../src/sync/wait-queue.js';
import { EXCLUSIVE } from '../programs/puppet.js';
import {
  consumeExclusively,
  consumeTogether,
  initArena,
  produce,
  SyncArena,
  TOKENS,
} from '../programs/sync.js';
import { programUrl, runProgram } from '../support/crew.js';
import { assertBug, bootCpu, bootCpus, place } from '../support/machine.js';
import { type Call, Puppets } from '../support/puppets.js';

const NAME = lockClass('test->waitqueue');

function newQueue(cpu: Cpu): WaitQueue {
  const queue = place(cpu, WaitQueue);
  initWaitQueue(cpu, queue, NAME);
  return queue;
}

const stateOf = (cpu: Cpu): number => readOnce(cpu, cpu.area, CpuArea.state);

describe('alone', () => {
  test('a sleeper is in the queue and in its state before it can test anything', () => {
    const cpu = bootCpu();
    const queue = newQueue(cpu);
    assert.equal(waitqueueActive(cpu, queue), false);
    const wait = initWait(cpu, WAIT_QUEUE, queue);
    prepareToWait(cpu, queue, wait, TASK_KILLABLE);
    assert.equal(waitqueueActive(cpu, queue), true);
    assert.equal(stateOf(cpu), TASK_KILLABLE);
    assert.equal(snapshotCpu(cpu, 0).waitKind, WAIT_QUEUE);
    finishWait(cpu, queue, wait);
    assert.equal(waitqueueActive(cpu, queue), false);
    assert.equal(stateOf(cpu), TASK_RUNNING);
    assert.equal(snapshotCpu(cpu, 0).waitKind, 0);
  });

  test('preparing again is no second place, and what a waker took off is put back', () => {
    const cpu = bootCpu();
    const queue = newQueue(cpu);
    const wait = initWait(cpu, WAIT_QUEUE, queue);
    prepareToWait(cpu, queue, wait, TASK_UNINTERRUPTIBLE);
    prepareToWait(cpu, queue, wait, TASK_UNINTERRUPTIBLE);
    wakeUp(cpu, queue);
    assert.equal(waitqueueActive(cpu, queue), false);
    assert.equal(stateOf(cpu), TASK_RUNNING);
    prepareToWaitExclusive(cpu, queue, wait, TASK_UNINTERRUPTIBLE);
    assert.equal(waitqueueActive(cpu, queue), true);
    finishWait(cpu, queue, wait);
    finishWait(cpu, queue, initWait(cpu, WAIT_QUEUE, queue));
  });

  test('no wake-up is spent on a sleeper that something else has woken', () => {
    const [a, b] = bootCpus(2);
    const queue = newQueue(a!);
    const waits = [a!, b!].map((cpu) => {
      const wait = initWait(cpu, WAIT_QUEUE, queue);
      prepareToWaitExclusive(cpu, queue, wait, TASK_UNINTERRUPTIBLE);
      return wait;
    });
    wakeUpProcess(b!, a!.area);
    wakeUp(a!, queue);
    assert.equal(stateOf(b!), TASK_RUNNING, 'the next was woken instead');
    finishWait(b!, queue, waits[1]!);
    assert.equal(waitqueueActive(a!, queue), true);
    finishWait(a!, queue, waits[0]!);
    assert.equal(waitqueueActive(a!, queue), false);
  });

  test('a CPU waits in a few queues at once, and no more', () => {
    const cpu = bootCpu();
    const queues = Array.from({ length: WAIT_ENTRIES_MAX }, () => newQueue(cpu));
    const waits = queues.map((queue) => {
      const wait = initWait(cpu, WAIT_QUEUE, queue);
      prepareToWait(cpu, queue, wait, TASK_UNINTERRUPTIBLE);
      return wait;
    });
    assert.equal(new Set(waits).size, WAIT_ENTRIES_MAX);
    assertBug(() => initWait(cpu, WAIT_QUEUE, queues[0]!), /waits in too many queues/);
    for (let i = WAIT_ENTRIES_MAX - 1; i >= 0; i--) {
      assert.equal(snapshotCpu(cpu, 0).waitObject, queues[i]);
      finishWait(cpu, queues[i]!, waits[i]!);
    }
    assert.ok(queues.every((queue) => !waitqueueActive(cpu, queue)));
  });

  test('waking an empty queue does nothing', () => {
    const cpu = bootCpu();
    const queue = newQueue(cpu);
    setCurrentState(cpu, TASK_UNINTERRUPTIBLE);
    wakeUp(cpu, queue);
    wakeUpAll(cpu, queue);
    assert.equal(stateOf(cpu), TASK_UNINTERRUPTIBLE);
  });
});

describe('scripted', () => {
  let puppets: Puppets;
  let boot: Cpu;
  before(() => {
    puppets = new Puppets(5, { cpus: 6 });
    ({ boot } = puppets);
  });
  after(() => puppets.stop());

  async function sleep(id: number, queue: WaitQueue, state: number): Promise<Call> {
    const call = puppets.start(id, 'sleepInQueue', queue, state);
    await call.blocked();
    assert.equal(puppets.waitOf(id), 'wait queue');
    return call;
  }

  test('a wake-up wakes all that are not exclusive, and one that is, the first to have come', async () => {
    const queue = newQueue(boot);
    const exclusive = TASK_UNINTERRUPTIBLE | EXCLUSIVE;
    const calls = [
      await sleep(0, queue, exclusive),
      await sleep(1, queue, TASK_UNINTERRUPTIBLE),
      await sleep(2, queue, exclusive),
      await sleep(3, queue, TASK_UNINTERRUPTIBLE),
      await sleep(4, queue, exclusive),
    ];
    wakeUp(boot, queue);
    await Promise.all([0, 1, 3].map((id) => calls[id]!.done));
    assert.ok(puppets.isBlocked(2) && puppets.isBlocked(4));
    wakeUp(boot, queue);
    await calls[2]!.done;
    assert.ok(puppets.isBlocked(4));
    wakeUp(boot, queue);
    await calls[4]!.done;
    assert.equal(waitqueueActive(boot, queue), false);
  });

  test('wakeUpAll wakes the exclusive ones, too', async () => {
    const queue = newQueue(boot);
    const calls = [];
    for (const id of [0, 1, 2]) {
      calls.push(await sleep(id, queue, TASK_UNINTERRUPTIBLE | EXCLUSIVE));
    }
    wakeUpAll(boot, queue);
    await Promise.all(calls.map((call) => call.done));
    assert.equal(waitqueueActive(boot, queue), false);
  });

  test('who was woken by a signal leaves the queue, and no wake-up is spent on it', async () => {
    const queue = newQueue(boot);
    const killed = await sleep(0, queue, TASK_INTERRUPTIBLE | EXCLUSIVE);
    const other = await sleep(1, queue, TASK_UNINTERRUPTIBLE | EXCLUSIVE);
    sendSigkill(boot, cpuArea(0));
    await killed.done;
    wakeUp(boot, queue);
    await other.done;
    await puppets.call(0, 'clearSignal');
  });

  test('a CPU can sleep in a queue while it is in another, and each ends its own wait', async () => {
    const [outer, inner] = [newQueue(boot), newQueue(boot)];
    const call = puppets.start(0, 'sleepInTwoQueues', outer, inner);
    const waitsFor = async (queue: WaitQueue): Promise<void> => {
      do await call.blocked();
      while (snapshotCpu(boot, 0).waitObject !== queue);
    };
    await waitsFor(inner);
    wakeUp(boot, inner);
    await waitsFor(outer);
    const late = attachCpu(puppets.handle, 5);
    wakeUp(late, outer);
    await call.done;
    assert.equal(waitqueueActive(boot, outer), false);
  });
});

describe('no wake-up is lost', () => {
  const run = async (consumer: string): Promise<void> => {
    const { results } = await runProgram({
      cpus: 5,
      module: programUrl('sync'),
      entry: [consumer, consumer, consumer, produce.name, produce.name],
      watchdog: { stallMs: 20_000 },
      setup: (cpu) => initArena(cpu, place(cpu, SyncArena)),
    });
    const consumed = results.reduce((sum, result) => sum + Number(result.value), 0);
    assert.equal(consumed, TOKENS);
  };

  test('when every token wakes one of several sleepers', () => run(consumeExclusively.name));
  test('when every token wakes all of them', () => run(consumeTogether.name));
});
