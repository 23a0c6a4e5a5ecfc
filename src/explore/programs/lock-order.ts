/**
 * LT-15: an invalidation under a file's lock, reclaim that takes the same lock, and a driver that allocates.
 *
 *   truncate              driver                       reclaim
 *     i_mmap for writing    memory for what it notes     fs_reclaim
 *     range start           driver lock                  i_mmap for reading
 *       driver lock         note                         …
 *     range end             unlock
 *
 * If the driver allocated under its lock, the allocation could wait for reclaim, reclaim for i_mmap, and who has
 * that for the driver's lock. Nobody reclaims in an allocation here, so no schedule deadlocks: the graph of lock
 * orders must say it.
 *
 * @module
 */
import { fsReclaimAcquire, fsReclaimRelease } from '#debug';
import { read, write } from '#memory';
import { isMutant, M_ALLOC_LOCKED } from '#mutants';

import { bug } from '../../base/bug.js';
import type { Cpu } from '../../machine/cpu.js';
import { GFP_KERNEL } from '../../machine/gfp.js';
import { lockClass } from '../../machine/lock-class.js';
import { defineOps } from '../../machine/ops-table.js';
import { kfree, kzalloc } from '../../machine/slab.js';
import { stackPop, stackPush } from '../../machine/stack.js';
import {
  cacheline,
  containerOf,
  member,
  NULL,
  pointer,
  type Ptr,
  struct,
  word,
} from '../../memory/layout.js';
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
import { MMU_NOTIFY_CLEAR, mmuNotifierRangeInit } from '../../notifier/mmu-notifier-range.js';
import { MmuIntervalNotifier, MmuNotifierRange } from '../../notifier/types.js';
import { initMutex, Mutex, mutexLock, mutexUnlock } from '../../sync/mutex.js';
import { downRead, downWrite, initRwsem, Rwsem, upRead, upWrite } from '../../sync/rwsem.js';
import { defineProgram, reach, task } from '../program.js';

const PAGE = 0x10000;
const PAGE_BYTES = 4096;

/** What the driver notes of a page that it maps. */
const Note = struct('lock_order_note', { page: word, line1: cacheline });
type Note = Ptr<'lock_order_note'>;

const World = struct('lock_order_world', {
  interval: MmuIntervalNotifier,
  line1: cacheline,
  driverLock: Mutex, // the interval's sequence, and note
  note: pointer<'lock_order_note'>(),
  line2: cacheline,
  imap: Rwsem, // who maps the file
  mm: word,
});
type World = Ptr<'lock_order_world'>;

const DRIVER_LOCK = lockClass('driver->lock');
const I_MMAP = lockClass('mapping->i_mmap_rwsem');

export const lockOrderDriver = defineOps({
  opsName: 'lock order program',
  invalidate(cpu: Cpu, interval: MmuIntervalNotifier, _range: MmuNotifierRange, seq: number) {
    const world: World = containerOf(interval, World.interval);
    reach(cpu, 'callback wants the lock');
    mutexLock(cpu, member(world, World.driverLock));
    mmuIntervalSetSeq(cpu, interval, seq);
    mutexUnlock(cpu, member(world, World.driverLock));
    return true;
  },
});

function setup(cpu: Cpu): number {
  const world = kzalloc(cpu, World);
  const mm = mmAlloc(cpu);
  write(cpu, world, World.mm, mm);
  initMutex(cpu, member(world, World.driverLock), DRIVER_LOCK);
  initRwsem(cpu, member(world, World.imap), I_MMAP);
  const interval = member(world, World.interval);
  const error = mmuIntervalNotifierInsert(cpu, interval, mm, PAGE, PAGE_BYTES, lockOrderDriver);
  if (error !== 0) bug(`the interval cannot be inserted: ${error}`);
  return world;
}

/** @kernel unmap_mapping_range */
function truncate(cpu: Cpu, at: number): void {
  const world = at as World;
  const range = stackPush(cpu, MmuNotifierRange);
  const mm = read(cpu, world, World.mm) as MmStruct;
  mmuNotifierRangeInit(cpu, range, MMU_NOTIFY_CLEAR, mm, PAGE, PAGE + PAGE_BYTES);
  downWrite(cpu, member(world, World.imap));
  reach(cpu, 'i_mmap is held');
  mmuNotifierInvalidateRangeStart(cpu, range);
  mmuNotifierInvalidateRangeEnd(cpu, range);
  upWrite(cpu, member(world, World.imap));
  stackPop(cpu, range);
}

function note(cpu: Cpu, at: number): void {
  const world = at as World;
  const before = isMutant(cpu, M_ALLOC_LOCKED) ? NULL : kzalloc(cpu, Note);
  mutexLock(cpu, member(world, World.driverLock));
  reach(cpu, 'driver has its lock');
  const fresh = isMutant(cpu, M_ALLOC_LOCKED) ? kzalloc(cpu, Note) : before;
  const old = read(cpu, world, World.note);
  write(cpu, world, World.note, fresh);
  mutexUnlock(cpu, member(world, World.driverLock));
  kfree(cpu, Note, old);
}

/** @kernel shrink_folio_list */
function reclaim(cpu: Cpu, at: number): void {
  const world = at as World;
  fsReclaimAcquire(cpu, GFP_KERNEL);
  reach(cpu, 'reclaim wants i_mmap');
  downRead(cpu, member(world, World.imap));
  upRead(cpu, member(world, World.imap));
  fsReclaimRelease(cpu, GFP_KERNEL);
}

export const lt15 = defineProgram({
  name: 'lt-15',
  title: 'a driver allocates, while others truncate and reclaim',
  tasks: [task('truncate', truncate), task('driver', note), task('reclaim', reclaim)],
  ops: { lockOrderDriver },
  ramBytes: 64 * 4096,
  setup,
  check: (cpu, at) => {
    const { imap, note: last } = World;
    if (read(cpu, member(at as World, imap), Rwsem.count) !== 0) return 'INV-4: i_mmap is held';
    return read(cpu, at as World, last) === NULL ? 'nothing was noted' : undefined;
  },
  window: {
    // each has what the next wants
    order: [
      'i_mmap is held',
      'reclaim wants i_mmap',
      'driver has its lock',
      'callback wants the lock',
      'driver has its lock',
    ],
  },
});
