/**
 * What a driver keeps for an address space, and when it frees that: LT-11 and LT-12, in the designs that were
 * discussed in 2014 and the one that came.
 *
 * A parent opens the device, which makes a mirror of its address space; forks; and exits. The child has the file.
 *
 *   lt-11-file      the mirror is freed when the file is released: by then the parent is long gone
 *   lt-11-interval  … and its interval is told of the exit before: nothing is mapped, but it is still there
 *   lt-11-chain     it is freed by a chain of functions that the exit calls
 *   lt-11           it is a notifier's, got for the mm and put in `release`; freed a grace period later
 *   lt-12-job       a job that `release` queues frees it, while exit goes on
 *   lt-12           the job unregisters before it frees, and so waits for exit's walk
 *   lt-12-put       there is no job: release puts the notifier, which is freed a grace period later
 *
 * @module
 */
import { exchange, read, readOnce, write, writeOnce } from '#memory';

import { bug } from '../../base/bug.js';
import { runKworker, stopKworkers } from '../../deferred/kworker.js';
import { WorkStruct } from '../../deferred/types.js';
import { initWork, queueSystemWork, type WorkOps } from '../../deferred/workqueue.js';
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
import { type ExitChainOps, exitChainRegister } from '../../mm/exit-chain.js';
import { type FileOperations, fput, openDeviceFile } from '../../mm/file.js';
import { mmAlloc, mmgetNotZero } from '../../mm/mm-struct.js';
import { File, MmStruct } from '../../mm/types.js';
import { mmdrop, mmgrab } from '../../notifier/mm-count.js';
import {
  mmuIntervalNotifierInsert,
  mmuIntervalNotifierRemove,
  mmuIntervalSetSeq,
} from '../../notifier/mmu-interval-notifier.js';
import type { MmuNotifierOps } from '../../notifier/mmu-notifier-list.js';
import {
  mmuNotifierGet,
  mmuNotifierPut,
  mmuNotifierRegister,
  mmuNotifierSynchronize,
  mmuNotifierUnregister,
} from '../../notifier/mmu-notifier-register.js';
import { MmuIntervalNotifier, MmuNotifier } from '../../notifier/types.js';
import { fget, installFd } from '../../process/files.js';
import { allocTask, cloneTask, exitTask } from '../../process/task.js';
import { Task } from '../../process/types.js';
import { complete, Completion, initCompletion, waitForCompletion } from '../../sync/completion.js';
import { defineProgram, type ExploreProgram, type Operation, reach, task } from '../program.js';

const SPACE_BYTES = 2 ** 47;

/** What the device has of an address space. */
const Mirror = struct('design_mirror', {
  notifier: MmuNotifier,
  line1: cacheline,
  interval: MmuIntervalNotifier,
  line2: cacheline,
  job: WorkStruct,
  mm: pointer<'mm_struct'>(),
  world: word,
  released: word, // its release has run, or runs; atomic
});
type Mirror = Ptr<'design_mirror'>;

const World = struct('design_world', {
  mm: pointer<'mm_struct'>(),
  parent: pointer<'task_struct'>(),
  child: pointer<'task_struct'>(),
  gone: Completion, // the parent has exited
  line1: cacheline,
  mirror: pointer<'design_mirror'>(), // NULL once it is freed
  mapped: word, // the device uses the parent's memory
  keptLong: word, // the mirror was still there when the child closed the file; written by the child
});
type World = Ptr<'design_world'>;

const GONE = lockClass('parent gone');
const JOB = lockClass('mirror job');

function newMirror(cpu: Cpu, world: World): Mirror {
  const mirror = kzalloc(cpu, Mirror);
  write(cpu, mirror, Mirror.world, world);
  write(cpu, mirror, Mirror.mm, read(cpu, world, World.mm));
  writeOnce(cpu, world, World.mirror, mirror);
  writeOnce(cpu, world, World.mapped, 1);
  return mirror;
}

const worldOf = (cpu: Cpu, mirror: Mirror): World => read(cpu, mirror, Mirror.world) as World;

function unmap(cpu: Cpu, mirror: Mirror): void {
  writeOnce(cpu, worldOf(cpu, mirror), World.mapped, 0);
}

function freeMirror(cpu: Cpu, mirror: Mirror): void {
  writeOnce(cpu, worldOf(cpu, mirror), World.mirror, NULL);
  kfree(cpu, Mirror, mirror);
  reach(cpu, 'mirror is freed');
}

// --- the designs ---

/** The mirror is the file's. */
export const mirrorFile: FileOperations = defineOps({
  opsName: 'design mirror file',
  release(cpu: Cpu, file: File) {
    const mirror = read(cpu, file, File.privateData) as Mirror;
    unmap(cpu, mirror);
    freeMirror(cpu, mirror);
  },
});

/** … and has an interval. */
export const intervalFile: FileOperations = defineOps({
  opsName: 'design interval file',
  release(cpu: Cpu, file: File) {
    const mirror = read(cpu, file, File.privateData) as Mirror;
    mmuIntervalNotifierRemove(cpu, member(mirror, Mirror.interval));
    freeMirror(cpu, mirror);
  },
});

export const mirrorInterval = defineOps({
  opsName: 'design interval',
  invalidate(cpu: Cpu, interval: MmuIntervalNotifier, _range: unknown, seq: number) {
    mmuIntervalSetSeq(cpu, interval, seq);
    unmap(cpu, containerOf(interval, Mirror.interval));
    return true;
  },
});

/** The mirror is the mm's; the file keeps the mm_struct, to ask whether there is an address space. */
export const spaceFile: FileOperations = defineOps({
  opsName: 'design space file',
  release(cpu: Cpu, file: File) {
    mmdrop(cpu, read(cpu, file, File.privateData) as MmStruct);
  },
});

export const mirrorNotifier: MmuNotifierOps = defineOps({
  opsName: 'design notifier',
  release(cpu: Cpu, notifier: MmuNotifier) {
    unmap(cpu, containerOf(notifier, Mirror.notifier));
    mmuNotifierPut(cpu, notifier);
    reach(cpu, 'release has put');
  },
  allocNotifier: (cpu: Cpu) => member(kzalloc(cpu, Mirror), Mirror.notifier),
  freeNotifier(cpu: Cpu, notifier: MmuNotifier) {
    freeMirror(cpu, containerOf(notifier, Mirror.notifier));
  },
});

/** All the address spaces of its machine are this program's: the world is found by the mm's own word. */
export const mirrorChain: ExitChainOps = defineOps({
  opsName: 'design chain',
  mmExit(cpu: Cpu, mm: MmStruct) {
    const mirror = read(cpu, mm, MmStruct.defFlags) as Mirror; // nothing is mapped in these: the word is free
    if (mirror === 0) return;
    unmap(cpu, mirror);
    freeMirror(cpu, mirror);
  },
});

/** Queues what it may not do itself, because it is called by a walk over the list that the mirror is on. */
function queueJob(cpu: Cpu, notifier: MmuNotifier, ops: WorkOps): void {
  const mirror: Mirror = containerOf(notifier, Mirror.notifier);
  if (exchange(cpu, mirror, Mirror.released, 1) !== 0) return;
  unmap(cpu, mirror);
  initWork(cpu, member(mirror, Mirror.job), ops, JOB);
  queueSystemWork(cpu, member(mirror, Mirror.job));
  reach(cpu, 'job is queued');
}

export const hastyNotifier: MmuNotifierOps = defineOps({
  opsName: 'design hasty notifier',
  release(cpu: Cpu, notifier: MmuNotifier) {
    queueJob(cpu, notifier, hastyJob);
  },
});

/** LT-12: nobody has waited until exit walks the list no more. */
export const hastyJob: WorkOps = defineOps({
  opsName: 'design hasty job',
  work(cpu: Cpu, work: WorkStruct) {
    const mirror: Mirror = containerOf(work, Mirror.job);
    const mm = read(cpu, mirror, Mirror.mm);
    freeMirror(cpu, mirror);
    mmdrop(cpu, mm); // what registering took
  },
});

export const patientNotifier: MmuNotifierOps = defineOps({
  opsName: 'design patient notifier',
  release(cpu: Cpu, notifier: MmuNotifier) {
    queueJob(cpu, notifier, patientJob);
  },
});

export const patientJob: WorkOps = defineOps({
  opsName: 'design patient job',
  work(cpu: Cpu, work: WorkStruct) {
    const mirror: Mirror = containerOf(work, Mirror.job);
    const mm = read(cpu, mirror, Mirror.mm); // the notifier holds it
    reach(cpu, 'job unregisters');
    mmuNotifierUnregister(cpu, member(mirror, Mirror.notifier), mm);
    freeMirror(cpu, mirror);
  },
});

// --- how the programs start ---

function makeWorld(cpu: Cpu): World {
  const world = kzalloc(cpu, World);
  initCompletion(cpu, member(world, World.gone), GONE);
  write(cpu, world, World.mm, mmAlloc(cpu));
  return world;
}

/** The parent opens the file and forks. */
function makeFamily(cpu: Cpu, world: World, ops: FileOperations, privateData: number): void {
  const parent = allocTask(cpu, read(cpu, world, World.mm));
  const file = openDeviceFile(cpu, ops, privateData);
  if (installFd(cpu, read(cpu, parent, Task.files), file) !== 0) bug('the file has no descriptor');
  write(cpu, world, World.parent, parent);
  write(cpu, world, World.child, cloneTask(cpu, parent, 0));
}

function setupFile(cpu: Cpu): number {
  const world = makeWorld(cpu);
  makeFamily(cpu, world, mirrorFile, newMirror(cpu, world));
  return world;
}

function setupInterval(cpu: Cpu): number {
  const world = makeWorld(cpu);
  const mirror = newMirror(cpu, world);
  const interval = member(mirror, Mirror.interval);
  const mm = read(cpu, world, World.mm);
  const error = mmuIntervalNotifierInsert(cpu, interval, mm, 0, SPACE_BYTES, mirrorInterval);
  if (error !== 0) bug(`the interval cannot be inserted: ${error}`);
  makeFamily(cpu, world, intervalFile, mirror);
  return world;
}

function setupChain(cpu: Cpu): number {
  const world = makeWorld(cpu);
  const mm = read(cpu, world, World.mm);
  if (exitChainRegister(cpu, mirrorChain) !== 0) bug('the chain is full');
  const mirror = newMirror(cpu, world);
  mmgrab(cpu, mm);
  makeFamily(cpu, world, spaceFile, mm);
  write(cpu, mm, MmStruct.defFlags, mirror); // after fork, which would copy it
  return world;
}

/** The mm has a notifier, which is the mirror. */
function setupPut(cpu: Cpu): number {
  const world = makeWorld(cpu);
  const mm = read(cpu, world, World.mm);
  const notifier = mmuNotifierGet(cpu, mirrorNotifier, mm);
  if (notifier < 0) bug(`mmu_notifier_get answered ${notifier}`);
  const mirror: Mirror = containerOf(notifier, Mirror.notifier);
  write(cpu, mirror, Mirror.world, world);
  write(cpu, world, World.mirror, mirror);
  write(cpu, world, World.mapped, 1);
  return world;
}

function setupNotifier(cpu: Cpu): number {
  const world = setupPut(cpu) as World;
  const mm = read(cpu, world, World.mm);
  mmgrab(cpu, mm);
  makeFamily(cpu, world, spaceFile, mm);
  return world;
}

function setupJob(ops: MmuNotifierOps) {
  return (cpu: Cpu): number => {
    const world = makeWorld(cpu);
    const notifier = member(newMirror(cpu, world), Mirror.notifier);
    const error = mmuNotifierRegister(cpu, notifier, read(cpu, world, World.mm), ops);
    if (error !== 0) bug(`the notifier cannot be registered: ${error}`);
    return world;
  };
}

// --- tasks ---

/** Exits; from then on the device may not use its memory, whoever has the file. */
function exitParent(cpu: Cpu, at: number): void {
  const world = at as World;
  reach(cpu, 'parent exits');
  exitTask(cpu, read(cpu, world, World.parent));
  reach(cpu, 'parent has exited');
  if (readOnce(cpu, world, World.mapped) !== 0) {
    bug('LT-11: the device maps the memory of an address space that has ended');
  }
  complete(cpu, member(world, World.gone));
}

/** Uses the file it has inherited, in vain, and exits. */
function exitChild(cpu: Cpu, at: number): void {
  reach(cpu, 'child has the file');
  waitForCompletion(cpu, member(at as World, World.gone));
  useAndExit(cpu, at as World);
}

function useAndExit(cpu: Cpu, world: World): void {
  useFile(cpu, world);
  const isThere = readOnce(cpu, world, World.mirror) !== NULL;
  write(cpu, world, World.keptLong, isThere ? 1 : 0);
  exitTask(cpu, read(cpu, world, World.child));
}

function exitChildServed(cpu: Cpu, at: number): void {
  const world = at as World;
  reach(cpu, 'child has the file');
  waitForCompletion(cpu, member(world, World.gone));
  mmuNotifierSynchronize(cpu);
  useAndExit(cpu, world);
  stopKworkers(cpu);
}

/** A system call on the file: the address space that it is about must still be used by somebody. */
function useFile(cpu: Cpu, world: World): void {
  const files = read(cpu, read(cpu, world, World.child), Task.files);
  reach(cpu, 'child uses the file');
  const file = fget(cpu, files, 0);
  if (file === NULL) bug('the child has not inherited the file');
  if (mmgetNotZero(cpu, read(cpu, world, World.mm))) bug('an address space is used after its end');
  fput(cpu, file);
}

function exitServed(cpu: Cpu, at: number): void {
  const world = at as World;
  mmput(cpu, read(cpu, world, World.mm));
  stopKworkers(cpu);
}

const serve: Operation['run'] = (cpu) => {
  reach(cpu, 'kworker comes');
  runKworker(cpu);
};

// --- what must be true at the end ---

function check(cpu: Cpu): string | undefined {
  const mirrors = allocatedObjects(cpu, Mirror);
  if (mirrors !== 0) return `${mirrors} mirrors were never freed`;
  const mms = allocatedObjects(cpu, MmStruct);
  if (mms !== 0) return `INV-13: ${mms} mm_structs were never freed`;
  const files = allocatedObjects(cpu, File);
  return files === 0 ? undefined : `${files} files were never released`;
}

const observe = (cpu: Cpu, at: number): string =>
  read(cpu, at as World, World.keptLong) !== 0 ? 'kept for the file' : 'freed with the mm';

const PARENT = task('parent', exitParent);
const CHILD = task('child', exitChild);
const KWORKER = task('kworker', serve);

const common = {
  ops: {
    hastyJob,
    hastyNotifier,
    intervalFile,
    mirrorChain,
    mirrorFile,
    mirrorInterval,
    mirrorNotifier,
    patientJob,
    patientNotifier,
    spaceFile,
  },
  ramBytes: 96 * 4096,
  check,
} as const;

const FREED = {
  name: 'freed with the mm',
  grade: 'ACCEPTABLE',
  description: 'without the help of whoever has the file',
} as const;

export const DESIGN_PROGRAMS: readonly ExploreProgram[] = [
  defineProgram({
    name: 'lt-11-file',
    title: 'a mirror lives as long as the file, which a child has inherited',
    isBroken: true,
    tasks: [PARENT, CHILD],
    ...common,
    setup: setupFile,
  }),
  defineProgram({
    name: 'lt-11-interval',
    title:
      "a mirror's interval is told of the exit; the mirror stays until the child closes the file",
    tasks: [PARENT, CHILD],
    ...common,
    setup: setupInterval,
    observe,
    outcomes: [
      {
        name: 'kept for the file',
        grade: 'INTERESTING',
        description: 'nothing is mapped, but the memory of the mirror waits for the child',
      },
    ],
  }),
  defineProgram({
    name: 'lt-11-chain',
    title: 'a mirror is freed by a chain of functions that exit calls (2014, not merged)',
    tasks: [PARENT, CHILD],
    ...common,
    setup: setupChain,
    observe,
    outcomes: [FREED],
  }),
  defineProgram({
    name: 'lt-11',
    title: "a mirror is its mm's notifier, which release puts",
    tasks: [PARENT, task('child', exitChildServed), KWORKER],
    ...common,
    setup: setupNotifier,
    observe,
    outcomes: [FREED],
  }),
  defineProgram({
    name: 'lt-12-job',
    title: 'a job that release has queued frees the mirror while exit goes on',
    isBroken: true,
    tasks: [task('exit', exitServed), KWORKER],
    ...common,
    setup: setupJob(hastyNotifier),
  }),
  defineProgram({
    name: 'lt-12',
    title: 'as lt-12-job, but the job unregisters before it frees',
    tasks: [task('exit', exitServed), KWORKER],
    ...common,
    setup: setupJob(patientNotifier),
  }),
  defineProgram({
    name: 'lt-12-put',
    title: 'a notifier puts itself while it is released, and is freed after a grace period',
    tasks: [task('exit', exitServed), KWORKER],
    ...common,
    setup: setupPut,
  }),
];
