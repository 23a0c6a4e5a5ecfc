/**
 * Work queues: no queueing is lost, no item runs beside itself, a flush and a cancellation wait for what they say;
 * and what one cannot wait for.
 *
 * @module
 */
import { exchange, fetchAdd, read, readOnce, write, writeOnce } from '#memory';

import { bug } from '../../base/bug.js';
import { runKworker, stopKworkers } from '../../deferred/kworker.js';
import { WorkStruct } from '../../deferred/types.js';
import { cancelWorkSync, flushWork, initWork, queueSystemWork } from '../../deferred/workqueue.js';
import type { Cpu } from '../../machine/cpu.js';
import { lockClass } from '../../machine/lock-class.js';
import { defineOps } from '../../machine/ops-table.js';
import { kfree, kzalloc } from '../../machine/slab.js';
import { cacheline, member, pointer, type Ptr, struct, word } from '../../memory/layout.js';
import { initMutex, Mutex, mutexLock, mutexUnlock } from '../../sync/mutex.js';
import { defineProgram, type ExploreProgram, type Outcome, task } from '../program.js';

const World = struct('work_world', {
  item: pointer<'explored_work'>(),
  line1: cacheline,
  posted: word, // jobs to be done; atomic
  line2: cacheline,
  done: word, // jobs that the item has seen; written by whoever runs it
  runs: word, // times it was run; so too
  isRunning: word, // atomic
  line3: cacheline,
  left: word, // tasks that still queue; atomic
  line4: cacheline,
  canceled: word, // 1 + what cancel_work_sync answered; written by its task
  line5: cacheline,
  mutex: Mutex,
});
type World = Ptr<'work_world'>;

/** An item that can be freed. */
const Item = struct('explored_work', {
  work: WorkStruct,
  world: word,
});
type Item = Ptr<'explored_work'>;

const ITEM = lockClass('explored work');
const MUTEX = lockClass('work program');

function worldOf(cpu: Cpu, work: WorkStruct): World {
  return read(cpu, work as unknown as Item, Item.world) as World;
}

export const countingWork = defineOps({
  opsName: 'counting work',
  work(cpu: Cpu, work: WorkStruct) {
    const world = worldOf(cpu, work);
    if (exchange(cpu, world, World.isRunning, 1) !== 0) bug('an item runs beside itself (I2)');
    writeOnce(cpu, world, World.done, readOnce(cpu, world, World.posted));
    write(cpu, world, World.runs, read(cpu, world, World.runs) + 1);
    exchange(cpu, world, World.isRunning, 0);
  },
});

export const lockingWork = defineOps({
  opsName: 'locking work',
  work(cpu: Cpu, work: WorkStruct) {
    const world = worldOf(cpu, work);
    mutexLock(cpu, member(world, World.mutex));
    mutexUnlock(cpu, member(world, World.mutex));
  },
});

export const flushingWork = defineOps({
  opsName: 'flushing work',
  work(cpu: Cpu, work: WorkStruct) {
    flushWork(cpu, work);
  },
});

function setupWith(ops: typeof countingWork): (cpu: Cpu) => number {
  return (cpu) => {
    const world = kzalloc(cpu, World);
    const item = kzalloc(cpu, Item);
    write(cpu, item, Item.world, world);
    initWork(cpu, member(item, Item.work), ops, ITEM);
    initMutex(cpu, member(world, World.mutex), MUTEX);
    write(cpu, world, World.item, item);
    write(cpu, world, World.left, 2);
    return world;
  };
}

function workOf(cpu: Cpu, world: World): WorkStruct {
  return member(read(cpu, world, World.item), Item.work);
}

/** Whatever queue_work answers, the item runs once more after this. */
function post(cpu: Cpu, at: number): void {
  const world = at as World;
  fetchAdd(cpu, world, World.posted, 1);
  queueSystemWork(cpu, workOf(cpu, world));
}

/** Who has nothing more to queue, and comes last, ends the kworkers. */
function leave(cpu: Cpu, at: number): void {
  if (fetchAdd(cpu, at as World, World.left, -1) === 1) stopKworkers(cpu);
}

/** All that was posted before the flush has been done after it. */
function flush(cpu: Cpu, at: number): void {
  const world = at as World;
  const posted = readOnce(cpu, world, World.posted);
  flushWork(cpu, workOf(cpu, world));
  if (readOnce(cpu, world, World.done) < posted) bug('flush_work returned before the item (I3)');
}

/** Once that has returned, nobody uses the item. */
function cancel(cpu: Cpu, at: number): void {
  const world = at as World;
  const item = read(cpu, world, World.item);
  const wasPending = cancelWorkSync(cpu, member(item, Item.work));
  write(cpu, world, World.canceled, wasPending ? 2 : 1);
  kfree(cpu, Item, item);
}

function flushLocked(cpu: Cpu, at: number): void {
  const world = at as World;
  mutexLock(cpu, member(world, World.mutex));
  queueSystemWork(cpu, workOf(cpu, world));
  flushWork(cpu, workOf(cpu, world));
  mutexUnlock(cpu, member(world, World.mutex));
  stopKworkers(cpu);
}

function serve(cpu: Cpu): void {
  runKworker(cpu);
}

function checkDone(cpu: Cpu, at: number): string | undefined {
  const world = at as World;
  const posted = read(cpu, world, World.posted);
  const done = read(cpu, world, World.done);
  return done === posted ? undefined : `${done} of ${posted} jobs are done at rest (I3)`;
}

const observeRuns = (cpu: Cpu, at: number): string => `ran ${read(cpu, at as World, World.runs)}`;

function observeCancel(cpu: Cpu, at: number): string {
  const wasPending = read(cpu, at as World, World.canceled) === 2;
  return `${wasPending ? 'canceled' : 'not queued'}, ran ${read(cpu, at as World, World.runs)}`;
}

const acceptable = (name: string, description: string): Outcome => ({
  name,
  grade: 'ACCEPTABLE',
  description,
});

const ramBytes = 64 * 4096;
const server = task('kworker', serve);
const postAndLeave = [
  { name: 'post', run: post },
  { name: 'leave', run: leave },
];

export const WORKQUEUE_PROGRAMS: readonly ExploreProgram[] = [
  defineProgram({
    name: 'work',
    title: 'two CPUs queue one item, and two run it',
    tasks: [
      { name: 'post', operations: postAndLeave },
      { name: 'post', operations: postAndLeave },
      server,
      server,
    ],
    ops: { countingWork },
    ramBytes,
    setup: setupWith(countingWork),
    check: checkDone,
    observe: observeRuns,
    outcomes: [
      acceptable('ran 1', 'the second found it queued'),
      acceptable('ran 2', 'the second came while it ran, or later'),
    ],
  }),
  defineProgram({
    name: 'work-flush',
    title: 'a flush waits for what was queued before it',
    tasks: [
      { name: 'post', operations: postAndLeave },
      {
        name: 'flush',
        operations: [
          { name: 'post', run: post },
          { name: 'flush', run: flush },
          { name: 'leave', run: leave },
        ],
      },
      server,
    ],
    ops: { countingWork },
    ramBytes,
    setup: setupWith(countingWork),
    check: checkDone,
    observe: observeRuns,
    outcomes: [acceptable('ran 1', 'once for both'), acceptable('ran 2', 'once for each')],
  }),
  defineProgram({
    name: 'work-cancel',
    title: 'an item is canceled and freed while it is taken and run',
    tasks: [
      {
        name: 'cancel',
        operations: [
          { name: 'post', run: post },
          { name: 'cancel', run: cancel },
          { name: 'stop', run: stopKworkers },
        ],
      },
      server,
      server,
    ],
    ops: { countingWork },
    ramBytes,
    setup: setupWith(countingWork),
    observe: observeCancel,
    outcomes: [
      acceptable('canceled, ran 0', 'nobody had taken it'),
      acceptable('not queued, ran 1', 'it was waited for'),
    ],
  }),
  defineProgram({
    name: 'work-locked-flush',
    title: 'an item is flushed under a mutex that it takes',
    isBroken: true,
    tasks: [task('flush', flushLocked), server],
    ops: { lockingWork },
    ramBytes,
    setup: setupWith(lockingWork),
  }),
  defineProgram({
    name: 'work-self-flush',
    title: 'an item flushes itself',
    isBroken: true,
    tasks: [{ name: 'post', operations: [{ name: 'post', run: post }] }, server],
    ops: { flushingWork },
    ramBytes,
    setup: setupWith(flushingWork),
  }),
  defineProgram({
    name: 'work-unserved',
    title: 'an item is flushed, and no CPU runs items',
    isBroken: true,
    tasks: [
      {
        name: 'flush',
        operations: [
          { name: 'post', run: post },
          { name: 'flush', run: flush },
        ],
      },
    ],
    ops: { countingWork },
    ramBytes,
    setup: setupWith(countingWork),
  }),
];
