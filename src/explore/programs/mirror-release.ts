/**
 * The end of an address space against a device's fault worker: LT-1 and LT-2, over HMM's mirrors of 2018.
 *
 * A kworker serves a fault while the last user exits. Like drivers then, it holds the mm_struct and not the address
 * space. The device maps one page: its entry is the generation of the frame, which moves on when exit frees it.
 *
 *   lt-1-locked  release is called with mirrors_sem held, and waits for the worker, which needs it
 *   lt-1         … without: protocols/pop-loop.ts
 *   lt-2-kill    release says that the mirror is dead, and does not wait; the worker has looked before
 *   lt-2         the worker looks again, under the driver's lock
 *   lt-2-drain   it does not, but release waits for it
 *
 * @module
 */
import { read, readOnce, write, writeOnce } from '#memory';

import { bug } from '../../base/bug.js';
import { runKworker, stopKworkers } from '../../deferred/kworker.js';
import { WorkStruct } from '../../deferred/types.js';
import { flushWork, initWork, queueSystemWork, type WorkOps } from '../../deferred/workqueue.js';
import type { Cpu } from '../../machine/cpu.js';
import { lockClass } from '../../machine/lock-class.js';
import { defineOps } from '../../machine/ops-table.js';
import { kzalloc } from '../../machine/slab.js';
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
import { mmput } from '../../mm/exit.js';
import { mmAlloc } from '../../mm/mm-struct.js';
import { mmgrab } from '../../notifier/mm-count.js';
import {
  mmuNotifierInvalidateRangeEnd,
  mmuNotifierInvalidateRangeStart,
} from '../../notifier/mmu-notifier.js';
import { MMU_NOTIFY_MIGRATE, mmuNotifierRangeInit } from '../../notifier/mmu-notifier-range.js';
import { MmuNotifierRange } from '../../notifier/types.js';
import { mirrorsSem } from '../../protocols/mirrors-sem.js';
import { popLoop } from '../../protocols/pop-loop.js';
import { createMirror, type MirrorOps, type MirrorProtocol } from '../../protocols/protocol.js';
import { Mirror } from '../../protocols/types.js';
import { initSpinlock, Spinlock, spinLock, spinUnlock } from '../../sync/spinlock.js';
import { defineProgram, type ExploreProgram, reach, task, type Window } from '../program.js';

const PAGE = 0x10000;
const PAGE_BYTES = 4096;
/** The frame's generation while the address space has it. */
const MAPPED = 1;

const World = struct('release_world', {
  work: WorkStruct, // serves the device's fault
  mm: pointer<'mm_struct'>(), // with a reference to the struct
  mirror: pointer<'hmm_mirror'>(),
  line1: cacheline,
  lock: Spinlock, // the driver's: deviceEntry, dead
  deviceEntry: word, // generation of the frame that the device has; 0 = no entry
  dead: word, // release has run
  line2: cacheline,
  generation: word, // of the frame: moves on when exit frees it
  served: word, // the worker has mapped the page, or migrated it; written by it
});
type World = Ptr<'release_world'>;

const DRIVER_LOCK = lockClass('driver->lock');
const WORK = lockClass('fault worker');

const worldOf = (cpu: Cpu, mirror: Mirror): World => read(cpu, mirror, Mirror.driverData) as World;

// --- the driver ---

function lock(cpu: Cpu, mirror: Mirror): boolean {
  spinLock(cpu, member(worldOf(cpu, mirror), World.lock));
  return true;
}

function unlock(cpu: Cpu, mirror: Mirror): void {
  spinUnlock(cpu, member(worldOf(cpu, mirror), World.lock));
}

function clear(cpu: Cpu, mirror: Mirror): void {
  write(cpu, worldOf(cpu, mirror), World.deviceEntry, 0);
}

const nothing = (): void => undefined; // the device looks its entry up and uses it in one step

/** Takes the entry away, for good. */
function kill(cpu: Cpu, mirror: Mirror): void {
  const world = worldOf(cpu, mirror);
  spinLock(cpu, member(world, World.lock));
  writeOnce(cpu, world, World.dead, 1);
  write(cpu, world, World.deviceEntry, 0);
  spinUnlock(cpu, member(world, World.lock));
}

/** … when nobody serves a fault any more. */
function drain(cpu: Cpu, mirror: Mirror): void {
  const world = worldOf(cpu, mirror);
  reach(cpu, 'release drains');
  flushWork(cpu, member(world, World.work));
  kill(cpu, mirror);
}

const common = { lock, unlock, clear, kick: nothing, settle: nothing };

export const killingDriver: MirrorOps = defineOps({
  opsName: 'release program, kill',
  ...common,
  release: kill,
});
export const drainingDriver: MirrorOps = defineOps({
  opsName: 'release program, drain',
  ...common,
  release: drain,
});

// --- what the worker does ---

/** Migrates the page to the device: an invalidation, by the worker itself (LT-1). */
export const migratingWork: WorkOps = defineOps({
  opsName: 'release program, migrate',
  work(cpu: Cpu, work: WorkStruct) {
    const world: World = containerOf(work, World.work);
    const range = stackPush(cpu, MmuNotifierRange);
    const mm = read(cpu, world, World.mm);
    mmuNotifierRangeInit(cpu, range, MMU_NOTIFY_MIGRATE, mm, PAGE, PAGE + PAGE_BYTES);
    reach(cpu, 'worker migrates');
    mmuNotifierInvalidateRangeStart(cpu, range);
    mmuNotifierInvalidateRangeEnd(cpu, range);
    stackPop(cpu, range);
    write(cpu, world, World.served, 1);
  },
});

/** The page as the CPUs have it, unless the mirror is dead. */
function readPage(cpu: Cpu, world: World): number {
  if (readOnce(cpu, world, World.dead) !== 0) return 0;
  const generation = readOnce(cpu, world, World.generation);
  reach(cpu, 'worker has read');
  return generation === MAPPED ? generation : 0;
}

/** Maps what it has read; under the lock. */
function mapPage(cpu: Cpu, world: World, entry: number): void {
  write(cpu, world, World.deviceEntry, entry);
  write(cpu, world, World.served, 1);
}

/** Serves the fault without another look (LT-2). */
export const trustingWork: WorkOps = defineOps({
  opsName: 'release program, trust',
  work(cpu: Cpu, work: WorkStruct) {
    const world: World = containerOf(work, World.work);
    const entry = readPage(cpu, world);
    if (entry === 0) return;
    spinLock(cpu, member(world, World.lock));
    mapPage(cpu, world, entry);
    spinUnlock(cpu, member(world, World.lock));
    reach(cpu, 'worker has mapped');
  },
});

/** … and looks again under the lock. */
export const wareWork: WorkOps = defineOps({
  opsName: 'release program, look again',
  work(cpu: Cpu, work: WorkStruct) {
    const world: World = containerOf(work, World.work);
    const entry = readPage(cpu, world);
    if (entry === 0) return;
    spinLock(cpu, member(world, World.lock));
    if (readOnce(cpu, world, World.dead) === 0) mapPage(cpu, world, entry);
    spinUnlock(cpu, member(world, World.lock));
    reach(cpu, 'worker has mapped');
  },
});

// --- the programs ---

function setup(protocol: MirrorProtocol, driver: MirrorOps, work: WorkOps) {
  return (cpu: Cpu): number => {
    const world = kzalloc(cpu, World);
    const mm = mmAlloc(cpu);
    mmgrab(cpu, mm);
    write(cpu, world, World.mm, mm);
    write(cpu, world, World.generation, MAPPED);
    initSpinlock(cpu, member(world, World.lock), DRIVER_LOCK);
    const mirror = createMirror(cpu, protocol, driver, mm, world);
    if (mirror === NULL) bug('the mirror cannot be registered');
    write(cpu, world, World.mirror, mirror);
    initWork(cpu, member(world, World.work), work, WORK);
    queueSystemWork(cpu, member(world, World.work));
    return world;
  };
}

/** The last user goes: the mirror is released, then the memory is freed. */
function exit(cpu: Cpu, at: number): void {
  const world = at as World;
  reach(cpu, 'exit begins');
  mmput(cpu, read(cpu, world, World.mm));
  writeOnce(cpu, world, World.generation, MAPPED + 1);
  reach(cpu, 'memory is free');
  stopKworkers(cpu);
}

const serve = (cpu: Cpu): void => {
  runKworker(cpu);
};

function check(cpu: Cpu, at: number): string | undefined {
  return read(cpu, at as World, World.deviceEntry) === 0
    ? undefined
    : 'INV-20: the device has a page of an address space that has ended';
}

const observe = (cpu: Cpu, at: number): string =>
  read(cpu, at as World, World.served) !== 0 ? 'served' : 'too late';

const SERVED = {
  name: 'served',
  grade: 'ACCEPTABLE',
  description: 'and what it mapped was taken away again',
} as const;
const TOO_LATE = {
  name: 'too late',
  grade: 'ACCEPTABLE',
  description: 'the worker found the mirror dead',
} as const;

const shared = {
  tasks: [task('exit', exit), task('kworker', serve)],
  ops: { killingDriver, drainingDriver, migratingWork, trustingWork, wareWork },
  ramBytes: 96 * 4096,
  check,
  observe,
} as const;

/** The worker is in its work when release comes to wait for it. */
const RELEASE_INSIDE: Window = { order: ['worker migrates', 'release drains', 'worker migrates'] };
/** The memory is freed between what the worker reads and what it maps. */
const FREE_INSIDE: Window = {
  order: ['worker has read', 'exit begins'],
  chance: ['memory is free', 'worker has mapped'],
};

export const RELEASE_PROGRAMS: readonly ExploreProgram[] = [
  defineProgram({
    name: 'lt-1-locked',
    title: 'mirrors are released with mirrors_sem held; a driver waits for its fault worker',
    isBroken: true,
    validatesLocks: false, // lockdep would report it before it comes about
    ...shared,
    setup: setup(mirrorsSem, drainingDriver, migratingWork),
    window: RELEASE_INSIDE,
  }),
  defineProgram({
    name: 'lt-1',
    title: 'mirrors are taken off one by one, and released without the lock',
    ...shared,
    setup: setup(popLoop, drainingDriver, migratingWork),
    outcomes: [{ ...SERVED, description: 'release has waited for the worker' }],
    window: RELEASE_INSIDE,
  }),
  defineProgram({
    name: 'lt-2-kill',
    title: 'release does not wait for a worker that is about to map',
    isBroken: true,
    ...shared,
    setup: setup(popLoop, killingDriver, trustingWork),
    outcomes: [SERVED, TOO_LATE],
    window: FREE_INSIDE,
  }),
  defineProgram({
    name: 'lt-2',
    title: 'as lt-2-kill, but the worker looks again when it has the lock',
    ...shared,
    setup: setup(popLoop, killingDriver, wareWork),
    outcomes: [SERVED, TOO_LATE],
    window: FREE_INSIDE,
  }),
  defineProgram({
    name: 'lt-2-drain',
    title: 'as lt-2-kill, but release waits for the worker',
    ...shared,
    setup: setup(popLoop, drainingDriver, trustingWork),
    outcomes: [SERVED],
    window: FREE_INSIDE,
  }),
];
