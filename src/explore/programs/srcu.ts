/**
 * SRCU: as rcu.ts, with readers that may sleep; what synchronizeSrcu says of callbacks; and two ways to wait for
 * oneself, of which one is LT-25.
 *
 * @module
 */
import { read, readOnce, storeRelease, write } from '#memory';

import { bug } from '../../base/bug.js';
import { runKworker, stopKworkers } from '../../deferred/kworker.js';
import {
  callSrcu,
  initSrcuStruct,
  sleepersOf,
  srcuReadLock,
  srcuReadUnlock,
  synchronizeSrcu,
} from '../../deferred/srcu.js';
import { RcuHead, SrcuSleepers, SrcuStruct } from '../../deferred/types.js';
import type { Cpu } from '../../machine/cpu.js';
import { lockClass } from '../../machine/lock-class.js';
import { defineOps } from '../../machine/ops-table.js';
import { kfree, kzalloc } from '../../machine/slab.js';
import {
  cacheline,
  containerOf,
  member,
  pointer,
  type Ptr,
  struct,
  word,
} from '../../memory/layout.js';
import { complete, Completion, initCompletion, waitForCompletion } from '../../sync/completion.js';
import { initMutex, Mutex, mutexLock, mutexUnlock } from '../../sync/mutex.js';
import { defineProgram, type ExploreProgram, type Outcome, reach, task } from '../program.js';

const Version = struct('srcu_version', {
  number: word, // 1, 2, …; written before it is published
  rcu: RcuHead,
  world: word,
});
type Version = Ptr<'srcu_version'>;

const World = struct('srcu_world', {
  domain: SrcuStruct,
  line1: cacheline,
  current: pointer<'srcu_version'>(), // published
  line2: cacheline,
  seen: word, // what the reader saw; written by its task
  line3: cacheline,
  freed: word, // number of the version that was freed last; written by whoever frees
  line4: cacheline,
  mutex: Mutex,
  line5: cacheline,
  gone: Completion, // the reader that comes and goes has gone
});
type World = Ptr<'srcu_world'>;

const DOMAIN = lockClass('explored srcu');
const MUTEX = lockClass('srcu program');

export const srcuProgram = defineOps({
  opsName: 'srcu program',
  callback(cpu: Cpu, head: RcuHead) {
    free(cpu, containerOf(head, Version.rcu));
  },
});

function setup(cpu: Cpu): number {
  const world = kzalloc(cpu, World);
  if (initSrcuStruct(cpu, member(world, World.domain), DOMAIN) !== 0) bug('no memory');
  initMutex(cpu, member(world, World.mutex), MUTEX);
  initCompletion(cpu, member(world, World.gone), MUTEX);
  write(cpu, world, World.current, newVersion(cpu, world, 1));
  return world;
}

function newVersion(cpu: Cpu, world: World, number: number): Version {
  const version = kzalloc(cpu, Version);
  write(cpu, version, Version.number, number);
  write(cpu, version, Version.world, world);
  return version;
}

function free(cpu: Cpu, version: Version): void {
  const world = read(cpu, version, Version.world) as World;
  const number = read(cpu, version, Version.number);
  if (number !== read(cpu, world, World.freed) + 1) bug('callbacks are called in another order');
  write(cpu, world, World.freed, number);
  kfree(cpu, Version, version);
}

function look(cpu: Cpu, at: number): void {
  const world = at as World;
  const domain = member(world, World.domain);
  const bank = srcuReadLock(cpu, domain);
  const version = readOnce(cpu, world, World.current);
  write(cpu, world, World.seen, read(cpu, version, Version.number));
  srcuReadUnlock(cpu, domain, bank);
}

/** Sleeps inside until another reader has come and gone. */
function lookAndSleep(cpu: Cpu, at: number): void {
  const world = at as World;
  const domain = member(world, World.domain);
  const bank = srcuReadLock(cpu, domain);
  const version = readOnce(cpu, world, World.current);
  waitForCompletion(cpu, member(world, World.gone));
  write(cpu, world, World.seen, read(cpu, version, Version.number));
  srcuReadUnlock(cpu, domain, bank);
}

function comeAndGo(cpu: Cpu, at: number): void {
  const world = at as World;
  const domain = member(world, World.domain);
  srcuReadUnlock(cpu, domain, srcuReadLock(cpu, domain));
  complete(cpu, member(world, World.gone));
}

function replace(cpu: Cpu, world: World): Version {
  const old = readOnce(cpu, world, World.current);
  const next = newVersion(cpu, world, read(cpu, old, Version.number) + 1);
  storeRelease(cpu, world, World.current, next);
  return old;
}

function replaceAndWait(cpu: Cpu, at: number): void {
  const world = at as World;
  const old = replace(cpu, world);
  synchronizeSrcu(cpu, member(world, World.domain));
  free(cpu, old);
}

function replaceAndCall(cpu: Cpu, at: number): void {
  const world = at as World;
  const head = member(replace(cpu, world), Version.rcu);
  callSrcu(cpu, member(world, World.domain), head, srcuProgram);
}

/** They share one queue with it: so the callbacks that came before have been called. */
function synchronizeAfterCalls(cpu: Cpu, at: number): void {
  const world = at as World;
  synchronizeSrcu(cpu, member(world, World.domain));
  if (read(cpu, world, World.freed) !== 2) bug('synchronizeSrcu returned before the callbacks');
  stopKworkers(cpu);
}

function serve(cpu: Cpu): void {
  runKworker(cpu);
}

function synchronizeInside(cpu: Cpu, at: number): void {
  const domain = member(at as World, World.domain);
  const bank = srcuReadLock(cpu, domain);
  reach(cpu, 'reader is inside');
  reach(cpu, 'reader synchronizes');
  synchronizeSrcu(cpu, domain);
  srcuReadUnlock(cpu, domain, bank);
}

function lockInside(cpu: Cpu, at: number): void {
  const world = at as World;
  const domain = member(world, World.domain);
  const bank = srcuReadLock(cpu, domain);
  mutexLock(cpu, member(world, World.mutex));
  mutexUnlock(cpu, member(world, World.mutex));
  srcuReadUnlock(cpu, domain, bank);
}

function synchronizeLocked(cpu: Cpu, at: number): void {
  const world = at as World;
  mutexLock(cpu, member(world, World.mutex));
  synchronizeSrcu(cpu, member(world, World.domain));
  mutexUnlock(cpu, member(world, World.mutex));
}

function check(cpu: Cpu, at: number): string | undefined {
  const world = at as World;
  const current = read(cpu, read(cpu, world, World.current), Version.number);
  const freed = read(cpu, world, World.freed);
  if (freed !== current - 1) return `${freed} versions are freed, of ${current}`;
  return read(cpu, sleepersOf(cpu), SrcuSleepers.waiting) === 0
    ? undefined
    : 'a grace period waits at rest';
}

const observe = (cpu: Cpu, at: number): string => `saw ${read(cpu, at as World, World.seen)}`;

const saw = (...numbers: readonly number[]): readonly Outcome[] =>
  numbers.map((number) => ({
    name: `saw ${number}`,
    grade: 'ACCEPTABLE',
    description: number === 1 ? 'the old version, which was not freed before' : 'a newer one',
  }));

const common = { ops: { srcuProgram }, ramBytes: 64 * 4096, setup, check } as const;

export const SRCU_PROGRAMS: readonly ExploreProgram[] = [
  defineProgram({
    name: 'srcu',
    title:
      'a version is replaced and freed after a grace period; one reader sleeps, another comes and goes',
    tasks: [
      task('reader', lookAndSleep),
      task('comes and goes', comeAndGo),
      task('updater', replaceAndWait),
    ],
    ...common,
    observe,
    outcomes: saw(1, 2),
  }),
  defineProgram({
    name: 'srcu-flip',
    title: 'a reader that was slow to count itself, and two grace periods',
    tasks: [
      task('reader', look),
      {
        name: 'updater',
        operations: [
          { name: 'replace', run: replaceAndWait },
          { name: 'replace', run: replaceAndWait },
        ],
      },
    ],
    ...common,
    observe,
    outcomes: saw(1, 2, 3),
  }),
  defineProgram({
    name: 'call-srcu',
    title: 'callbacks are called in order, and before a synchronize_srcu that came later returns',
    tasks: [
      task('reader', look),
      {
        name: 'updater',
        operations: [
          { name: 'replace', run: replaceAndCall },
          { name: 'replace', run: replaceAndCall },
          { name: 'synchronize', run: synchronizeAfterCalls },
        ],
      },
      task('kworker', serve),
    ],
    ...common,
    observe,
    outcomes: saw(1, 2, 3),
  }),
  defineProgram({
    name: 'lt-25',
    title: 'a reader waits for a grace period of its own domain',
    isBroken: true,
    tasks: [task('reader', synchronizeInside)],
    ...common,
  }),
  defineProgram({
    name: 'srcu-abba',
    title: 'a reader takes a mutex under which another CPU waits for readers',
    isBroken: true,
    tasks: [task('reader', lockInside), task('updater', synchronizeLocked)],
    ...common,
  }),
];
