/**
 * Notifiers that go while their address space does: LT-23, and who unregisters while exit releases.
 *
 *   lt-23             two devices share the notifier of an mm by get; both put it while the mm exits
 *   lt-25-notifier    a notifier that unregisters itself in its release waits for itself
 *   notifier-exit     two mirrors share an object whose notifier the last of them unregisters, while the mm exits
 *
 * The object is freed by whoever may; that nobody uses it then is seen by the explorer. The device's use of the
 * memory ends in `release`, which exit may not outrun.
 *
 * @module
 */
import { exchange, fetchAdd, read, readOnce, write, writeOnce } from '#memory';
import { isMutant, M_1 } from '#mutants';

import { bug } from '../../base/bug.js';
import { runKworker, stopKworkers } from '../../deferred/kworker.js';
import type { Cpu } from '../../machine/cpu.js';
import { lockClass } from '../../machine/lock-class.js';
import { defineOps } from '../../machine/ops-table.js';
import { allocatedObjects, kfree, kzalloc } from '../../machine/slab.js';
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
import { MmStruct } from '../../mm/types.js';
import type { MmuNotifierOps } from '../../notifier/mmu-notifier-list.js';
import {
  mmuNotifierGet,
  mmuNotifierPut,
  mmuNotifierRegister,
  mmuNotifierUnregister,
} from '../../notifier/mmu-notifier-register.js';
import { MmuNotifier } from '../../notifier/types.js';
import { initSpinlock, Spinlock, spinLock, spinUnlock } from '../../sync/spinlock.js';
import { defineProgram, type ExploreProgram, type Outcome, reach, task } from '../program.js';

/** What the devices of an mm share. @kernel struct hmm */
const Shared = struct('shared_mirror', {
  notifier: MmuNotifier,
  line1: cacheline,
  lock: Spinlock, // the two below
  mirrors: word,
  mm: pointer<'mm_struct'>(), // NULL once its notifier is unregistered, or about to be
  world: word,
});
type Shared = Ptr<'shared_mirror'>;

const World = struct('lifetime_world', {
  shared: pointer<'shared_mirror'>(),
  mm: pointer<'mm_struct'>(),
  left: word, // tasks that are not done; atomic
  line1: cacheline,
  released: word, // somebody has begun to end the device's use of the memory; atomic
  mapped: word, // the device uses it
  line2: cacheline,
  freed: word, // times the object was freed; atomic
  tellings: word, // times release was called; atomic
});
type World = Ptr<'lifetime_world'>;

const SHARED_LOCK = lockClass('shared_mirror->lock');

function release(cpu: Cpu, notifier: MmuNotifier): void {
  const shared: Shared = containerOf(notifier, Shared.notifier);
  const world = read(cpu, shared, Shared.world) as World;
  fetchAdd(cpu, world, World.tellings, 1);
  reach(cpu, 'release is called');
  if (exchange(cpu, world, World.released, 1) !== 0) return; // somebody else is at it (INV-15)
  writeOnce(cpu, world, World.mapped, 0);
}

export const ownNotifier: MmuNotifierOps = defineOps({ opsName: 'lifetime own', release });

export const sharedNotifier: MmuNotifierOps = defineOps({
  opsName: 'lifetime shared',
  release,
  allocNotifier(cpu: Cpu) {
    return member(kzalloc(cpu, Shared), Shared.notifier);
  },
  freeNotifier(cpu: Cpu, notifier: MmuNotifier) {
    const shared: Shared = containerOf(notifier, Shared.notifier);
    const world = read(cpu, shared, Shared.world) as World;
    if (fetchAdd(cpu, world, World.freed, 1) !== 0) bug('LT-23: the object is freed twice');
    kfree(cpu, Shared, shared);
  },
});

/** To unregister calls release again, which then has nothing to do. */
export const leavingNotifier: MmuNotifierOps = defineOps({
  opsName: 'lifetime leaving',
  release(cpu: Cpu, notifier: MmuNotifier, mm: MmStruct) {
    const shared: Shared = containerOf(notifier, Shared.notifier);
    reach(cpu, 'release is called');
    reach(cpu, 'it unregisters');
    if (exchange(cpu, shared, Shared.mirrors, 0) !== 0) mmuNotifierUnregister(cpu, notifier, mm);
  },
});

// --- how the programs start ---

function makeWorld(cpu: Cpu, tasks: number): World {
  const world = kzalloc(cpu, World);
  write(cpu, world, World.mm, mmAlloc(cpu));
  write(cpu, world, World.left, tasks);
  write(cpu, world, World.mapped, 1);
  return world;
}

function setupShared(cpu: Cpu): number {
  const world = makeWorld(cpu, 3);
  const mm = read(cpu, world, World.mm);
  const first = mmuNotifierGet(cpu, sharedNotifier, mm);
  if (first !== mmuNotifierGet(cpu, sharedNotifier, mm)) bug('the mm has two notifiers');
  const shared: Shared = containerOf(first, Shared.notifier);
  write(cpu, shared, Shared.world, world);
  write(cpu, world, World.shared, shared);
  return world;
}

function setupOwn(cpu: Cpu): number {
  return setupRegistered(cpu, ownNotifier);
}

function setupLeaving(cpu: Cpu): number {
  return setupRegistered(cpu, leavingNotifier);
}

function setupRegistered(cpu: Cpu, ops: MmuNotifierOps): number {
  const world = makeWorld(cpu, 3);
  const mm = read(cpu, world, World.mm);
  const shared = kzalloc(cpu, Shared);
  initSpinlock(cpu, member(shared, Shared.lock), SHARED_LOCK);
  write(cpu, shared, Shared.mirrors, 2);
  write(cpu, shared, Shared.mm, mm);
  write(cpu, shared, Shared.world, world);
  write(cpu, world, World.shared, shared);
  const error = mmuNotifierRegister(cpu, member(shared, Shared.notifier), mm, ops);
  if (error !== 0) bug(`the notifier cannot be registered: ${error}`);
  return world;
}

// --- tasks ---

/** The address space ends; by then the device may not use it. */
function exit(cpu: Cpu, at: number): void {
  const world = at as World;
  mmput(cpu, read(cpu, world, World.mm));
  const isReleased = readOnce(cpu, world, World.released) !== 0;
  if (isReleased && readOnce(cpu, world, World.mapped) !== 0) {
    bug('INV-20: exit has freed the memory while a release still ends its use');
  }
}

function exitAndLeave(cpu: Cpu, at: number): void {
  exit(cpu, at);
  leave(cpu, at);
}

/** Who puts has ended the device's use by itself. */
function put(cpu: Cpu, at: number): void {
  const world = at as World;
  writeOnce(cpu, world, World.mapped, 0);
  mmuNotifierPut(cpu, member(read(cpu, world, World.shared), Shared.notifier));
}

function putA(cpu: Cpu, at: number): void {
  put(cpu, at);
  reach(cpu, 'A has put');
  leave(cpu, at);
}

function putB(cpu: Cpu, at: number): void {
  reach(cpu, 'B puts');
  put(cpu, at);
  reach(cpu, 'B has put');
  leave(cpu, at);
}

/** The last task to be done sends the kworker home. */
function leave(cpu: Cpu, at: number): void {
  if (fetchAdd(cpu, at as World, World.left, -1) === 1) stopKworkers(cpu);
}

/** One mirror less; the last unregisters and frees. @kernel hmm_mirror_unregister */
function unregisterMirror(cpu: Cpu, at: number): void {
  const world = at as World;
  const shared = read(cpu, world, World.shared);
  const lock = member(shared, Shared.lock);
  spinLock(cpu, lock);
  const mirrors = read(cpu, shared, Shared.mirrors) - 1;
  write(cpu, shared, Shared.mirrors, mirrors);
  const mm = read(cpu, shared, Shared.mm);
  if (isMutant(cpu, M_1) || mirrors === 0) write(cpu, shared, Shared.mm, NULL);
  spinUnlock(cpu, lock);
  if (mirrors !== 0) return;
  reach(cpu, 'last mirror unregisters');
  if (mm !== NULL) mmuNotifierUnregister(cpu, member(shared, Shared.notifier), mm);
  kfree(cpu, Shared, shared);
  reach(cpu, 'object is freed');
}

// --- what must be true at the end ---

function check(cpu: Cpu): string | undefined {
  const objects = allocatedObjects(cpu, Shared);
  if (objects !== 0) return `${objects} shared objects were never freed`;
  const mms = allocatedObjects(cpu, MmStruct);
  return mms === 0 ? undefined : `INV-13: ${mms} mm_structs were never freed`;
}

const observe = (cpu: Cpu, at: number): string =>
  `released ${read(cpu, at as World, World.tellings)} times`;

const released = (times: number, description: string): Outcome => ({
  name: `released ${times} times`,
  grade: times === 2 ? 'INTERESTING' : 'ACCEPTABLE',
  description,
});

const common = {
  ops: { leavingNotifier, ownNotifier, sharedNotifier },
  ramBytes: 64 * 4096,
  check,
  observe,
} as const;

export const LIFETIME_PROGRAMS: readonly ExploreProgram[] = [
  defineProgram({
    name: 'lt-23',
    title: 'two devices put the notifier that they share, while its address space ends',
    tasks: [
      task('device A', putA),
      task('device B', putB),
      task('exit', exitAndLeave),
      task('kworker', (cpu) => {
        runKworker(cpu);
      }),
    ],
    ...common,
    setup: setupShared,
    outcomes: [
      released(0, 'both had put it before: put does not release'),
      released(1, 'exit came first'),
    ],
  }),
  defineProgram({
    name: 'notifier-exit',
    title: 'the last of two mirrors unregisters their notifier, while its address space ends',
    tasks: [
      task('mirror A', unregisterMirror),
      task('mirror B', unregisterMirror),
      task('exit', exit),
    ],
    ...common,
    setup: setupOwn,
    outcomes: [
      released(1, 'by whoever came first'),
      released(2, 'INV-15: by both, at the same time'),
    ],
  }),
  defineProgram({
    name: 'lt-25-notifier',
    title: 'a notifier unregisters itself while it is released',
    isBroken: true,
    tasks: [task('exit', exit)],
    ...common,
    setup: setupLeaving,
  }),
];
