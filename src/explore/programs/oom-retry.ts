/**
 * The OOM reaper between two attempts: the next victim does not wake it.
 *
 * @module
 */
import { clockMs, read, readAddress, write, writeAddress } from '#memory';

import { bug } from '../../base/bug.js';
import { EAGAIN } from '../../base/errno.js';
import { runKthreads, stopKthreads } from '../../deferred/kthread.js';
import type { Cpu } from '../../machine/cpu.js';
import { defineOps } from '../../machine/ops-table.js';
import { kzalloc } from '../../machine/slab.js';
import {
  address,
  containerOf,
  type Field,
  member,
  type Ptr,
  struct,
  word,
} from '../../memory/layout.js';
import { mmAlloc } from '../../mm/mm-struct.js';
import type { MmStruct } from '../../mm/types.js';
import type { MmuNotifierOps } from '../../notifier/mmu-notifier-list.js';
import { mmuNotifierRegister } from '../../notifier/mmu-notifier-register.js';
import { MmuNotifier } from '../../notifier/types.js';
import {
  bootOomReaper,
  oomKill,
  setOomDelays,
  startOomReaper,
  stopOomReaper,
  waitForReaped,
} from '../../process/oom-reaper.js';
import { allocTask } from '../../process/task.js';
import type { Task } from '../../process/types.js';
import { defineProgram, task } from '../program.js';
import { fillPage, makeSpace, SPACE_RAM_BYTES, spaceMm } from './space.js';

const RETRY_MS = 6;
/** Attempts at the first victim that are refused. */
const REFUSALS = 2;

const World = struct('oom_retry_world', {
  notifier: MmuNotifier, // of the first victim; only the reaper calls it
  refused: word, // how often it has
  triedAt: address, // by the reaper's clock; unit: milliseconds
  first: word, // Task
  second: word, // Task
});
type World = Ptr<'oom_retry_world'>;

export const refusingTwice: MmuNotifierOps = defineOps({
  opsName: 'oom-retry refusing',
  invalidateRangeStart(cpu: Cpu, notifier: MmuNotifier) {
    const world: World = containerOf(notifier, World.notifier);
    const now = clockMs(cpu);
    const refused = read(cpu, world, World.refused);
    const sleptMs = now - readAddress(cpu, world, World.triedAt);
    if (refused > 0 && sleptMs < RETRY_MS) bug(`the reaper tries again after ${sleptMs} ms`);
    if (refused === REFUSALS) return 0;
    write(cpu, world, World.refused, refused + 1);
    writeAddress(cpu, world, World.triedAt, now);
    return -EAGAIN;
  },
});

function setup(cpu: Cpu): number {
  const world = kzalloc(cpu, World);
  const space = makeSpace(cpu);
  fillPage(cpu, space, 0);
  const mm = spaceMm(cpu, space);
  if (mmuNotifierRegister(cpu, member(world, World.notifier), mm, refusingTwice) !== 0) {
    bug('the notifier cannot be registered');
  }
  bootOomReaper(cpu);
  setOomDelays(cpu, 0, RETRY_MS);
  write(cpu, world, World.first, taskOf(cpu, mm));
  write(cpu, world, World.second, taskOf(cpu, mmAlloc(cpu)));
  if (!startOomReaper(cpu)) bug('there is no thread for the reaper');
  return world;
}

function taskOf(cpu: Cpu, mm: MmStruct): Task {
  const made = allocTask(cpu, mm);
  if (made === 0) bug('setup has no memory');
  return made;
}

const kill =
  (which: Field<'oom_retry_world'>) =>
  (cpu: Cpu, at: number): void => {
    oomKill(cpu, read(cpu, at as World, which) as Task);
  };

function stop(cpu: Cpu): void {
  waitForReaped(cpu, 2);
  stopOomReaper(cpu);
  stopKthreads(cpu);
}

export const oomRetry = defineProgram({
  name: 'oom-retry',
  title: 'a second task is killed while the reaper sleeps between two attempts at the first',
  tasks: [
    {
      name: 'killer',
      operations: [
        { name: 'kill', run: kill(World.first) },
        { name: 'kill another', run: kill(World.second) },
        { name: 'stop', run: stop },
      ],
    },
    task('kthread', (cpu) => {
      runKthreads(cpu);
    }),
  ],
  ops: { refusingTwice },
  ramBytes: SPACE_RAM_BYTES,
  world: World,
  setup,
  observe: (cpu, at) =>
    read(cpu, at as World, World.refused) === REFUSALS ? 'retried' : 'stopped before',
  outcomes: [
    {
      name: 'retried',
      grade: 'ACCEPTABLE',
      description: 'after the whole of its sleep, each time',
    },
  ],
});
