/**
 * Target `workqueue`: members queue, flush and cancel work items, and kworkers run them.
 *
 * Protocol   queuer                                   kworker, in the item
 *              input += 1; queue it                     running += 1: was 0
 *              flush it: output >= input                output := input
 *              now and then: cancel it                  running -= 1
 * Invariant  I1  No item is run by two kworkers at a time (INV-41).
 *            I2  What was queued runs once more from its start: what was done before queueWork is seen by it
 *                (INV-41).
 *
 * @module
 */
import { fetchAdd, readOnce, writeOnce } from '#memory';

import { bug } from '../../base/bug.js';
import { runPendingWork } from '../../deferred/kworker.js';
import { type WorkqueueStruct, WorkStruct } from '../../deferred/types.js';
import {
  allocWorkqueue,
  cancelWorkSync,
  destroyWorkqueue,
  flushWork,
  flushWorkqueue,
  initWork,
  queueWork,
} from '../../deferred/workqueue.js';
import type { Cpu } from '../../machine/cpu.js';
import { lockClass } from '../../machine/lock-class.js';
import { defineKernelOps } from '../../machine/ops-table.js';
import { kfree, kzalloc } from '../../machine/slab.js';
import {
  cacheline,
  containerOf,
  member as at,
  pointer,
  type Ptr,
  struct,
  word,
} from '../../memory/layout.js';
import type { TortureMember, TortureTarget } from '../target.js';

/** A work item with what it does. */
const Item = struct('torture_item', {
  work: WorkStruct,
  line1: cacheline,
  input: word, // atomic
  line2: cacheline,
  output: word, // the input that its last run has seen; written by the run
  running: word, // kworkers in it; atomic
  cancelling: word, // cancellations that have begun; atomic, as is the next
  cancelled: word, // … that have ended
});
type Item = Ptr<'torture_item'>;

const ITEMS = 4;
const World = struct('torture_workqueue', {
  queue: pointer<'workqueue_struct'>(),
  item0: pointer<'torture_item'>(),
  item1: pointer<'torture_item'>(),
  item2: pointer<'torture_item'>(),
  item3: pointer<'torture_item'>(),
});
type World = Ptr<'torture_workqueue'>;
const FIELDS = [World.item0, World.item1, World.item2, World.item3] as const;

const QUEUE = 0;
const FLUSH = 1;
const FLUSH_ALL = 2;
const CANCEL = 3;
const SERVE = 4;

const QUEUE_CLASS = lockClass('torture_workqueue');
const ITEM_CLASS = lockClass('torture_item');

export const tortureItem = defineKernelOps({
  opsName: 'torture: work item',
  work(cpu: Cpu, work: WorkStruct) {
    const item: Item = containerOf(work, Item.work);
    if (fetchAdd(cpu, item, Item.running, 1) !== 0) bug('INV-41: two kworkers run one item');
    const input = readOnce(cpu, item, Item.input);
    if (cpu.points !== null) cpu.points.reach('an item has read its input');
    writeOnce(cpu, item, Item.output, input);
    fetchAdd(cpu, item, Item.running, -1);
  },
});

export const workqueueTarget: TortureTarget = {
  name: 'workqueue',
  title: 'work queue: items queued, flushed and cancelled, run by kworkers',
  operations: ['queue', 'flush', 'flush all', 'cancel', 'serve'],
  services: ['kworker'],
  busted: ['busted-work'],
  roles: ({ cpus }) => [
    ...new Array<string>(Math.max(1, cpus - 2)).fill('queuer'),
    'kworker',
    'kworker',
  ],
  setup(cpu) {
    const world = kzalloc(cpu, World);
    writeOnce(cpu, world, World.queue, allocWorkqueue(cpu, QUEUE_CLASS));
    for (const field of FIELDS) {
      const item = kzalloc(cpu, Item);
      initWork(cpu, at(item, Item.work), tortureItem, ITEM_CLASS);
      writeOnce(cpu, world, field, item);
    }
    return world;
  },
  enter: () => undefined,
  step(cpu, state, member) {
    if (member.role === 'queuer') stepQueuer(cpu, state as World, member);
    else if (runPendingWork(cpu) > 0) member.count(SERVE);
  },
  leave: () => undefined,
  teardown(cpu, state) {
    const world = state as World;
    destroyWorkqueue(cpu, readOnce(cpu, world, World.queue));
    for (const field of FIELDS) {
      const item = readOnce(cpu, world, field);
      if (readOnce(cpu, item, Item.running) !== 0) bug('INV-41: an item runs in an empty queue');
      kfree(cpu, Item, item);
    }
    kfree(cpu, World, world);
  },
};

function stepQueuer(cpu: Cpu, world: World, member: TortureMember): void {
  const field = FIELDS[member.random(ITEMS)] ?? World.item0;
  const item = readOnce(cpu, world, field);
  const queue: WorkqueueStruct = readOnce(cpu, world, World.queue);
  const ended = readOnce(cpu, item, Item.cancelled);
  const begun = readOnce(cpu, item, Item.cancelling);
  const input = fetchAdd(cpu, item, Item.input, 1) + 1;
  queueWork(cpu, queue, at(item, Item.work));
  member.count(QUEUE);
  member.noise(cpu);
  const choice = member.random(16);
  if (choice === 0) {
    fetchAdd(cpu, item, Item.cancelling, 1);
    cancelWorkSync(cpu, at(item, Item.work));
    fetchAdd(cpu, item, Item.cancelled, 1);
    member.count(CANCEL);
  } else if (choice < 8) {
    const start = member.now();
    if (choice === 1) flushWorkqueue(cpu, queue);
    else flushWork(cpu, at(item, Item.work));
    member.waited(member.now() - start);
    if (begun === ended) checkRun(cpu, item, input, begun, member); // else it may have been cancelled
    member.count(choice === 1 ? FLUSH_ALL : FLUSH);
  }
}

/** After a flush the item has run since it was queued, unless a cancellation has begun since. */
function checkRun(cpu: Cpu, item: Item, input: number, begun: number, member: TortureMember): void {
  const output = readOnce(cpu, item, Item.output);
  if (output >= input || readOnce(cpu, item, Item.cancelling) !== begun) return;
  member.fail(`workqueue: an item was flushed and has not run since it was queued`, 'INV-41');
}
