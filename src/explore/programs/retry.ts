/**
 * The collision-retry protocol between a device fault and an invalidation: LT-3, LT-4 and LT-5.
 *
 * One page. The CPU's page table is a word, the device's is another; the driver's lock protects the device's.
 * The invalidating task changes the frame of the page from OLD to NEW, as a COW or a migration does, and the
 * faulting task maps what it finds into the device. At the end the device must not have OLD.
 *
 * @module
 */
import { fetchAdd, read, readOnce, write, writeOnce } from '#memory';

import { bug } from '../../base/bug.js';
import { type Cpu } from '../../machine/cpu.js';
import { lockClass } from '../../machine/lock-class.js';
import { defineOps } from '../../machine/ops-table.js';
import { kzalloc } from '../../machine/slab.js';
import { stackPop, stackPush } from '../../machine/stack.js';
import { cacheline, containerOf, member, type Ptr, struct, word } from '../../memory/layout.js';
import { mmAlloc } from '../../mm/mm-struct.js';
import { MmStruct } from '../../mm/types.js';
import {
  mmuIntervalNotifierInsert,
  mmuIntervalReadBegin,
  mmuIntervalReadRetry,
  mmuIntervalSetSeq,
  mnItreeInvalidate,
  mnItreeInvEnd,
} from '../../notifier/mmu-interval-notifier.js';
import { MMU_NOTIFY_CLEAR, mmuNotifierRangeInit } from '../../notifier/mmu-notifier-range.js';
import {
  MmuIntervalNotifier,
  MmuNotifierRange,
  MmuNotifierSubscriptions,
} from '../../notifier/types.js';
import { initSpinlock, Spinlock, spinLock, spinUnlock } from '../../sync/spinlock.js';
import { defineProgram, task } from '../program.js';

/** The page's frame before and after the invalidation; 0 is none. */
const OLD = 100;
const NEW = 200;
const PAGE = 0x10000;
const PAGE_BYTES = 4096;

const World = struct('retry_world', {
  interval: MmuIntervalNotifier,
  line1: cacheline,
  lock: Spinlock, // the driver's: devicePte, and the interval's sequence
  mm: word,
  cpuPte: word, // frame the CPU's page table has
  devicePte: word, // frame the device's page table has; 0 = none
  retries: word, // times the faulting task was told to start again
  slept: word, // the callback found the page mapped
});
type World = Ptr<'retry_world'>;

const DRIVER_LOCK = lockClass('driver->lock');

export const retryDriver = defineOps({
  opsName: 'retry program',
  invalidate(cpu: Cpu, interval: MmuIntervalNotifier, _range: MmuNotifierRange, seq: number) {
    const world: World = containerOf(interval, World.interval);
    spinLock(cpu, member(world, World.lock));
    mmuIntervalSetSeq(cpu, interval, seq);
    if (read(cpu, world, World.devicePte) !== 0) write(cpu, world, World.slept, 1);
    write(cpu, world, World.devicePte, 0);
    spinUnlock(cpu, member(world, World.lock));
    return true;
  },
});

function setup(cpu: Cpu): number {
  const mm = mmAlloc(cpu);
  const world = kzalloc(cpu, World);
  write(cpu, world, World.mm, mm);
  write(cpu, world, World.cpuPte, OLD);
  initSpinlock(cpu, member(world, World.lock), DRIVER_LOCK);
  const interval = member(world, World.interval);
  const error = mmuIntervalNotifierInsert(cpu, interval, mm, PAGE, PAGE_BYTES, retryDriver);
  if (error !== 0) bug(`the interval cannot be inserted: ${error}`);
  return world;
}

function invalidate(cpu: Cpu, at: number): void {
  const world = at as World;
  const mm = read(cpu, world, World.mm) as MmStruct;
  const subscriptions = read(cpu, mm, MmStruct.subscriptions);
  const range = stackPush(cpu, MmuNotifierRange);
  mmuNotifierRangeInit(cpu, range, MMU_NOTIFY_CLEAR, mm, PAGE, PAGE + PAGE_BYTES);
  mnItreeInvalidate(cpu, subscriptions, range);
  writeOnce(cpu, world, World.cpuPte, NEW);
  mnItreeInvEnd(cpu, subscriptions);
  stackPop(cpu, range);
}

function fault(cpu: Cpu, at: number): void {
  const world = at as World;
  const interval = member(world, World.interval);
  const lock = member(world, World.lock);
  for (;;) {
    const seq = mmuIntervalReadBegin(cpu, interval);
    const frame = readOnce(cpu, world, World.cpuPte);
    spinLock(cpu, lock);
    if (!mmuIntervalReadRetry(cpu, interval, seq)) {
      write(cpu, world, World.devicePte, frame);
      spinUnlock(cpu, lock);
      return;
    }
    spinUnlock(cpu, lock);
    fetchAdd(cpu, world, World.retries, 1);
  }
}

function check(cpu: Cpu, at: number): string | undefined {
  const world = at as World;
  const mm = read(cpu, world, World.mm) as MmStruct;
  const subscriptions = read(cpu, mm, MmStruct.subscriptions);
  if ((read(cpu, subscriptions, MmuNotifierSubscriptions.invalidateSeq) & 1) !== 0) {
    return 'INV-21: the sequence S is odd at rest';
  }
  if (read(cpu, world, World.devicePte) === OLD) {
    return 'INV-20: the device keeps a page that the CPUs have replaced';
  }
  return undefined;
}

/** LT-3, 4 and 5 are three groups of schedules of one program; the outcome says which it was. */
export const lt5 = defineProgram({
  name: 'lt-5',
  title: 'a fault begins while an invalidation is under way',
  tasks: [task('invalidate', invalidate), task('fault', fault)],
  ops: { retryDriver },
  ramBytes: 64 * 4096,
  setup,
  check,
  observe: (cpu, at) =>
    read(cpu, at as World, World.retries) !== 0
      ? 'retried'
      : read(cpu, at as World, World.slept) !== 0
        ? 'mapped, then unmapped'
        : 'new page',
  outcomes: [
    { name: 'new page', grade: 'ACCEPTABLE', description: 'the fault came after, or waited' },
    { name: 'retried', grade: 'ACCEPTABLE', description: 'LT-3: the callback came first' },
    {
      name: 'mapped, then unmapped',
      grade: 'ACCEPTABLE',
      description: 'LT-4: the fault came first; the callback waited for its lock',
    },
  ],
});
