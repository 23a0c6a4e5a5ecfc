/**
 * LT-6 as it was: HMM's ranges of 2019 had a flag where intervals have a sequence.
 *
 * Protocol   invalidating task                    faulting task
 *              start: lock; valid := false;         wait until valid
 *                unmap from device; unlock          read the CPU's page table
 *              change the CPU's page table          lock
 *              end: lock; valid := true;            valid? map : unlock, again
 *                unlock; wake all                   unlock
 *
 *            An invalidation that begins and ends between the two looks at the flag leaves no trace: the
 *            fault maps a page that is gone. lt-6 in retry.ts has the same fault with a sequence.
 *
 * @module
 */
import { read, readOnce, write, writeOnce } from '#memory';

import type { Cpu } from '../../machine/cpu.js';
import { lockClass } from '../../machine/lock-class.js';
import { schedule, TASK_UNINTERRUPTIBLE } from '../../machine/sched.js';
import { kzalloc } from '../../machine/slab.js';
import { WAIT_QUEUE } from '../../machine/wait-kind.js';
import { cacheline, member, type Ptr, struct, word } from '../../memory/layout.js';
import { initSpinlock, Spinlock, spinLock, spinUnlock } from '../../sync/spinlock.js';
import {
  finishWait,
  initWait,
  initWaitQueue,
  prepareToWait,
  WaitQueue,
  wakeUpAll,
} from '../../sync/wait-queue.js';
import { defineProgram, reach, task } from '../program.js';

const OLD = 100;
const NEW = 200;

const World = struct('valid_flag_world', {
  queue: WaitQueue, // for the flag
  line1: cacheline,
  lock: Spinlock, // the driver's: devicePte, and stores to the flag
  valid: word, // no invalidation is under way. @kernel hmm_range.valid, until 5.4
  cpuPte: word, // frame the CPU's page table has
  devicePte: word, // frame the device's page table has; 0 = none
  waited: word, // the fault found the flag down; written by it
});
type World = Ptr<'valid_flag_world'>;

const DRIVER_LOCK = lockClass('hmm->lock');
const QUEUE = lockClass('hmm->wq');

function setup(cpu: Cpu): number {
  const world = kzalloc(cpu, World);
  initSpinlock(cpu, member(world, World.lock), DRIVER_LOCK);
  initWaitQueue(cpu, member(world, World.queue), QUEUE);
  write(cpu, world, World.valid, 1);
  write(cpu, world, World.cpuPte, OLD);
  return world;
}

function invalidate(cpu: Cpu, at: number): void {
  const world = at as World;
  const lock = member(world, World.lock);
  reach(cpu, 'invalidation begins');
  spinLock(cpu, lock);
  writeOnce(cpu, world, World.valid, 0);
  write(cpu, world, World.devicePte, 0);
  spinUnlock(cpu, lock);
  writeOnce(cpu, world, World.cpuPte, NEW);
  spinLock(cpu, lock);
  writeOnce(cpu, world, World.valid, 1);
  spinUnlock(cpu, lock);
  wakeUpAll(cpu, member(world, World.queue));
  reach(cpu, 'invalidation is over');
}

/** @kernel hmm_range_wait_until_valid */
function waitUntilValid(cpu: Cpu, world: World): void {
  const queue = member(world, World.queue);
  const wait = initWait(cpu, WAIT_QUEUE, queue);
  for (;;) {
    prepareToWait(cpu, queue, wait, TASK_UNINTERRUPTIBLE);
    if (readOnce(cpu, world, World.valid) !== 0) break;
    write(cpu, world, World.waited, 1);
    schedule(cpu);
  }
  finishWait(cpu, queue, wait);
}

function fault(cpu: Cpu, at: number): void {
  const world = at as World;
  const lock = member(world, World.lock);
  for (;;) {
    waitUntilValid(cpu, world);
    const frame = readOnce(cpu, world, World.cpuPte);
    reach(cpu, 'fault has read');
    spinLock(cpu, lock);
    const isValid = readOnce(cpu, world, World.valid) !== 0;
    if (isValid) write(cpu, world, World.devicePte, frame);
    spinUnlock(cpu, lock);
    if (isValid) return;
  }
}

function observe(cpu: Cpu, at: number): string {
  const world = at as World;
  const frame = read(cpu, world, World.devicePte);
  if (frame === OLD) return 'stale page';
  if (frame === 0) return 'unmapped';
  return read(cpu, world, World.waited) !== 0 ? 'waited, new page' : 'new page';
}

export const validFlag = defineProgram({
  name: 'lt-6-valid-flag',
  title: 'a whole invalidation passes inside a fault, which looks at a flag',
  isBroken: true,
  tasks: [task('invalidate', invalidate), task('fault', fault)],
  ramBytes: 64 * 4096,
  setup,
  observe,
  outcomes: [
    { name: 'unmapped', grade: 'ACCEPTABLE', description: 'the fault came first' },
    { name: 'new page', grade: 'ACCEPTABLE', description: 'the fault came after, or started over' },
    { name: 'waited, new page', grade: 'ACCEPTABLE', description: 'the fault found the flag down' },
    { name: 'stale page', grade: 'FORBIDDEN', description: 'INV-20: the flag was up both times' },
  ],
  window: {
    order: ['fault has read', 'invalidation begins', 'invalidation is over', 'fault has read'],
  },
});
