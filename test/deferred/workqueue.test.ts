import assert from 'node:assert/strict';
import { describe, test } from 'node:test';

import { bootDeferred } from '../../src/deferred/boot.js';
import { runPendingWork } from '../../src/deferred/kworker.js';
import { WorkqueueStruct, WorkStruct } from '../../src/deferred/types.js';
import {
  allocWorkqueue,
  cancelWorkSync,
  destroyWorkqueue,
  flushWork,
  flushWorkqueue,
  initWork,
  queueSystemWork,
  queueWork,
  workPending,
} from '../../src/deferred/workqueue.js';
import type { Cpu } from '../../src/machine/cpu.js';
import { lockClass } from '../../src/machine/lock-class.js';
import { defineOps, registerOps } from '../../src/machine/ops-table.js';
import { preemptDisable } from '../../src/machine/sched.js';
import { allocatedObjects } from '../../src/machine/slab.js';
import * as programs from '../programs/deferred.js';
import { DeferredArena, POSTS } from '../programs/deferred.js';
import { reportOf, runDeferred } from '../support/deferred-world.js';
import { assertBug, bootCpus, place } from '../support/machine.js';

const ITEM = lockClass('unit work');
const QUEUE = lockClass('unit queue');

const runs: number[] = [];
const noting = defineOps({
  opsName: 'noting work',
  work(_cpu: Cpu, work: WorkStruct) {
    runs.push(work);
  },
});
const again = defineOps({
  opsName: 'work that queues itself once',
  work(cpu: Cpu, work: WorkStruct) {
    runs.push(work);
    if (runs.length === 1) assert.ok(queueSystemWork(cpu, work));
  },
});
const leaking = defineOps({
  opsName: 'leaking work',
  work(cpu: Cpu) {
    preemptDisable(cpu);
  },
});

function world(): { cpu: Cpu; other: Cpu; item: (ops?: typeof noting) => WorkStruct } {
  const [cpu, other] = bootCpus(2, 1 << 20) as [Cpu, Cpu];
  bootDeferred(cpu);
  for (const each of [cpu, other]) registerOps(each, [{ noting, again, leaking }]);
  runs.length = 0;
  const item = (ops = noting): WorkStruct => {
    const work = place(cpu, WorkStruct);
    initWork(cpu, work, ops, ITEM);
    return work;
  };
  return { cpu, other, item };
}

describe('an item', () => {
  test('is queued once, and run once for that, in the order of queueing', () => {
    const { cpu, other, item } = world();
    const items = [item(), item(), item()];
    for (const work of items) assert.ok(queueSystemWork(cpu, work));
    assert.equal(queueSystemWork(other, items[1]!), false);
    assert.ok(workPending(cpu, items[1]!));
    assert.equal(runPendingWork(other), 3);
    assert.deepEqual(runs, items);
    assert.equal(workPending(cpu, items[1]!), false);
    assert.equal(flushWork(cpu, items[0]!), false, 'there is nothing to wait for');
  });

  test('may queue itself while it runs', () => {
    const { cpu, item } = world();
    const work = item(again);
    queueSystemWork(cpu, work);
    assert.equal(runPendingWork(cpu), 2);
    assert.deepEqual(runs, [work, work]);
  });

  test('that is canceled is not run', () => {
    const { cpu, item } = world();
    const [first, second] = [item(), item()];
    queueSystemWork(cpu, first);
    queueSystemWork(cpu, second);
    assert.ok(cancelWorkSync(cpu, first));
    assert.equal(cancelWorkSync(cpu, first), false);
    runPendingWork(cpu);
    assert.deepEqual(runs, [second]);
    assert.ok(queueSystemWork(cpu, first), 'it may be queued again');
    runPendingWork(cpu);
    assert.deepEqual(runs, [second, first]);
  });

  test('may leave nothing behind', () => {
    const { cpu, item } = world();
    queueSystemWork(cpu, item(leaking));
    assertBug(() => runPendingWork(cpu), /work leaking work leaked a lock or a section/);
  });
});

describe('a queue', () => {
  test('lets no more items run than it may, in order', () => {
    const { cpu, other, item } = world();
    const queue = allocWorkqueue(cpu, QUEUE, 1);
    const [a, b, c] = [item(), item(), item()];
    for (const work of [a, b, c]) assert.ok(queueWork(cpu, queue, work));
    const elsewhere = item();
    queueSystemWork(cpu, elsewhere);
    assert.ok(cancelWorkSync(cpu, b), 'one that is not yet in the pool');
    assert.equal(runPendingWork(other), 3);
    assert.deepEqual(runs, [a, elsewhere, c], 'the next comes behind what others queued meanwhile');
    flushWorkqueue(cpu, queue);
    assert.ok(queueWork(cpu, queue, b));
    assert.ok(queueWork(cpu, queue, c));
    assert.ok(cancelWorkSync(cpu, b), 'one that is in the pool makes room');
    assert.equal(runPendingWork(other), 1);
    destroyWorkqueue(cpu, queue);
    assert.equal(allocatedObjects(cpu, WorkqueueStruct), 0);
  });
});

describe('in parallel', () => {
  test('no queueing is lost, no item runs beside itself, and a flush waits for what came before it', async () => {
    const { poster, kworker } = programs;
    const run = await runDeferred([poster, poster, poster, kworker, kworker], (cpu, arena) => {
      programs.setRunning(cpu, arena, 3);
      programs.initItem(cpu, arena, programs.postedWork);
    });
    assert.deepEqual(run.values.slice(0, 3), [0, 0, 0], 'flushes that came back too early');
    assert.equal(run.field(DeferredArena.wrong), 0, 'runs beside themselves');
    assert.equal(run.field(DeferredArena.done), 3 * POSTS, 'the last run came after the last post');
    const queued = 3 * POSTS - run.field(DeferredArena.merged);
    assert.equal(run.field(DeferredArena.runs), queued, 'one run for each queueing');
    assert.equal(run.values[3]! + run.values[4]!, queued);
    assert.ok(run.field(DeferredArena.merged) > 0, 'nobody met a queued item');
  });
});

describe('during a drain', () => {
  const refusal = 'cpu 2: work is queued on a queue that is being drained';

  test('an item of the queue may queue itself; anybody else is refused, and warned of', async () => {
    const { drain, serve, intrude } = programs;
    const entries = [drain, serve, intrude];
    const run = await runDeferred(entries, programs.initDrain, undefined, [refusal]);
    assert.equal(run.field(DeferredArena.wrong), 0, 'the item was refused');
    assert.equal(run.values[0], 2, 'the drain waits for what its items have queued');
    assert.equal(run.values[2], 0, 'the stranger was queued');
  });
});

describe('a wait that does not end is told', () => {
  const withItem = (ops: typeof programs.postedWork) => (cpu: Cpu, arena: DeferredArena) => {
    programs.initItem(cpu, arena, ops);
  };

  test('of an item that nobody runs', async () => {
    const message = await reportOf('stalled', [programs.flushAlone], withItem(programs.postedWork));
    assert.match(message, /^stalled: cpu 0 .* waits for work item test->work, which nobody runs/);
  });

  test('of an item that flushes itself', async () => {
    const message = await reportOf(
      'deadlock',
      [programs.post, programs.serve],
      withItem(programs.selfFlushing),
    );
    assert.match(message, /cpu 1 .* waits for work item test->work, run by cpu 1; holds events/);
  });

  test('of an item that is flushed under the mutex that it takes', async () => {
    const message = await reportOf(
      'deadlock',
      [programs.flushLocked, programs.serve],
      withItem(programs.lockedWork),
    );
    assert.match(message, /cpu 0 .* waits for work item test->work, run by cpu 1; holds deferred/);
    assert.match(message, /cpu 1 .* waits for mutex deferred_arena->lock, held by cpu 0/);
  });
});
