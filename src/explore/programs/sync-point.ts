/**
 * LT-18: a driver that unmaps at the end of an invalidation, and not at its start, uses a page that is free.
 *
 * The invalidating task takes the page away and frees it between start and end; freeing moves the frame's
 * generation on. The device looks its entry up and touches the frame in one step (the lock of its TLB), and
 * must find the generation that was mapped (INV-20).
 *
 * @module
 */
import { read, readOnce, write, writeOnce } from '#memory';
import { isMutant, M_16 } from '#mutants';

import { bug } from '../../base/bug.js';
import type { Cpu } from '../../machine/cpu.js';
import { lockClass } from '../../machine/lock-class.js';
import { defineOps } from '../../machine/ops-table.js';
import { kzalloc } from '../../machine/slab.js';
import { stackPop, stackPush } from '../../machine/stack.js';
import { cacheline, containerOf, member, type Ptr, struct, word } from '../../memory/layout.js';
import { mmAlloc } from '../../mm/mm-struct.js';
import type { MmStruct } from '../../mm/types.js';
import {
  mmuIntervalNotifierInsert,
  mmuIntervalSetSeq,
} from '../../notifier/mmu-interval-notifier.js';
import {
  mmuNotifierInvalidateRangeEnd,
  mmuNotifierInvalidateRangeStart,
} from '../../notifier/mmu-notifier.js';
import { MMU_NOTIFY_UNMAP, mmuNotifierRangeInit } from '../../notifier/mmu-notifier-range.js';
import { MmuIntervalNotifier, MmuNotifierRange } from '../../notifier/types.js';
import { initSpinlock, Spinlock, spinLock, spinUnlock } from '../../sync/spinlock.js';
import { defineProgram, reach, task } from '../program.js';

const PAGE = 0x10000;
const PAGE_BYTES = 4096;
/** The frame's generation while it is mapped. */
const MAPPED = 1;

const World = struct('sync_point_world', {
  interval: MmuIntervalNotifier,
  line1: cacheline,
  lock: Spinlock, // the driver's, and the device's TLB: deviceEntry
  mm: word,
  deviceEntry: word, // generation of the frame that the device has; 0 = no entry
  line2: cacheline,
  generation: word, // of the frame: moves on when it is freed
  line3: cacheline,
  uses: word, // of the page by the device; written by its task
});
type World = Ptr<'sync_point_world'>;

const DRIVER_LOCK = lockClass('driver->lock');

export const syncPointDriver = defineOps({
  opsName: 'sync point program',
  invalidate(cpu: Cpu, interval: MmuIntervalNotifier, _range: MmuNotifierRange, seq: number) {
    const world: World = containerOf(interval, World.interval);
    spinLock(cpu, member(world, World.lock));
    mmuIntervalSetSeq(cpu, interval, seq);
    if (!isMutant(cpu, M_16)) write(cpu, world, World.deviceEntry, 0);
    spinUnlock(cpu, member(world, World.lock));
    return true;
  },
});

function setup(cpu: Cpu): number {
  const world = kzalloc(cpu, World);
  const mm = mmAlloc(cpu);
  write(cpu, world, World.mm, mm);
  write(cpu, world, World.generation, MAPPED);
  write(cpu, world, World.deviceEntry, MAPPED);
  initSpinlock(cpu, member(world, World.lock), DRIVER_LOCK);
  const interval = member(world, World.interval);
  const error = mmuIntervalNotifierInsert(cpu, interval, mm, PAGE, PAGE_BYTES, syncPointDriver);
  if (error !== 0) bug(`the interval cannot be inserted: ${error}`);
  return world;
}

function unmap(cpu: Cpu, at: number): void {
  const world = at as World;
  const range = stackPush(cpu, MmuNotifierRange);
  const mm = read(cpu, world, World.mm) as MmStruct;
  mmuNotifierRangeInit(cpu, range, MMU_NOTIFY_UNMAP, mm, PAGE, PAGE + PAGE_BYTES);
  mmuNotifierInvalidateRangeStart(cpu, range);
  writeOnce(cpu, world, World.generation, MAPPED + 1); // the frame is freed, and may be another's
  reach(cpu, 'page is free');
  if (isMutant(cpu, M_16)) synchronizeLate(cpu, world);
  mmuNotifierInvalidateRangeEnd(cpu, range);
  stackPop(cpu, range);
}

/** M-16: what drivers did at range_end until 4.20. */
function synchronizeLate(cpu: Cpu, world: World): void {
  spinLock(cpu, member(world, World.lock));
  write(cpu, world, World.deviceEntry, 0);
  spinUnlock(cpu, member(world, World.lock));
}

function useDevice(cpu: Cpu, at: number): void {
  const world = at as World;
  const lock = member(world, World.lock);
  reach(cpu, 'device comes');
  spinLock(cpu, lock);
  const mapped = read(cpu, world, World.deviceEntry);
  if (mapped !== 0) {
    write(cpu, world, World.uses, read(cpu, world, World.uses) + 1);
    if (readOnce(cpu, world, World.generation) !== mapped) {
      bug('INV-20: the device has used a frame that is free');
    }
  }
  spinUnlock(cpu, lock);
  reach(cpu, 'device is done');
}

export const lt18 = defineProgram({
  name: 'lt-18',
  title: 'a device uses a page while it is unmapped and freed',
  tasks: [task('unmap', unmap), task('device', useDevice)],
  ops: { syncPointDriver },
  ramBytes: 64 * 4096,
  setup,
  check: (cpu, at) =>
    read(cpu, at as World, World.deviceEntry) === 0
      ? undefined
      : 'INV-20: the device keeps an entry for a page that is gone',
  observe: (cpu, at) => (read(cpu, at as World, World.uses) !== 0 ? 'used' : 'gone'),
  outcomes: [
    { name: 'used', grade: 'ACCEPTABLE', description: 'the device came before the invalidation' },
    { name: 'gone', grade: 'ACCEPTABLE', description: 'it found no entry, and would fault' },
  ],
  window: { order: ['page is free', 'device comes', 'device is done', 'page is free'] },
});
