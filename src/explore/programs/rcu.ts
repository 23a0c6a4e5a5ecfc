/**
 * RCU: what is unpublished, and freed after a grace period, no reader touches any more (INV-10).
 *
 * Objects are freed for good, so that a reader who comes too late uses freed memory, and is found by that.
 *
 * @module
 */
import { read, readOnce, storeRelease, write } from '#memory';

import { bug } from '../../base/bug.js';
import { runKworker, stopKworkers } from '../../deferred/kworker.js';
import {
  callRcu,
  rcuBarrier,
  rcuReadLock,
  rcuReadUnlock,
  synchronizeRcu,
} from '../../deferred/rcu.js';
import { RcuHead } from '../../deferred/types.js';
import type { Cpu } from '../../machine/cpu.js';
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
import { defineProgram, type ExploreProgram, type Outcome, task } from '../program.js';

const Version = struct('rcu_version', {
  number: word, // 1, 2, …; written before it is published
  rcu: RcuHead,
  world: word,
});
type Version = Ptr<'rcu_version'>;

const World = struct('rcu_world', {
  current: pointer<'rcu_version'>(), // published
  line1: cacheline,
  seen: word, // what the reader saw last; written by its task
  line2: cacheline,
  freed: word, // number of the version that was freed last; written by whoever frees
});
type World = Ptr<'rcu_world'>;

export const rcuProgram = defineOps({
  opsName: 'rcu program',
  callback(cpu: Cpu, head: RcuHead) {
    free(cpu, containerOf(head, Version.rcu));
  },
});

function setup(cpu: Cpu): number {
  const world = kzalloc(cpu, World);
  write(cpu, world, World.current, newVersion(cpu, world, 1));
  return world;
}

function newVersion(cpu: Cpu, world: World, number: number): Version {
  const version = kzalloc(cpu, Version);
  write(cpu, version, Version.number, number);
  write(cpu, version, Version.world, world);
  return version;
}

/** Versions are freed in the order in which they were replaced. */
function free(cpu: Cpu, version: Version): void {
  const world = read(cpu, version, Version.world) as World;
  const number = read(cpu, version, Version.number);
  if (number !== read(cpu, world, World.freed) + 1) bug('callbacks are called in another order');
  write(cpu, world, World.freed, number);
  kfree(cpu, Version, version);
}

function look(cpu: Cpu, at: number): void {
  const world = at as World;
  rcuReadLock(cpu);
  const version = readOnce(cpu, world, World.current);
  write(cpu, world, World.seen, read(cpu, version, Version.number));
  rcuReadUnlock(cpu);
}

/** A section inside another does not end it. */
function lookNested(cpu: Cpu, at: number): void {
  const world = at as World;
  rcuReadLock(cpu);
  const version = readOnce(cpu, world, World.current);
  rcuReadLock(cpu);
  rcuReadUnlock(cpu);
  if (read(cpu, version, Version.number) > 2) bug('a version that was never published');
  rcuReadUnlock(cpu);
}

/** Publishes the next version; returns the one that was current. */
function replace(cpu: Cpu, world: World): Version {
  const old = readOnce(cpu, world, World.current);
  const next = newVersion(cpu, world, read(cpu, old, Version.number) + 1);
  storeRelease(cpu, world, World.current, next);
  return old;
}

function replaceAndWait(cpu: Cpu, at: number): void {
  const old = replace(cpu, at as World);
  synchronizeRcu(cpu);
  free(cpu, old);
}

function replaceAndCall(cpu: Cpu, at: number): void {
  callRcu(cpu, member(replace(cpu, at as World), Version.rcu), rcuProgram);
}

function finish(cpu: Cpu, at: number): void {
  rcuBarrier(cpu);
  if (read(cpu, at as World, World.freed) !== 2) bug('rcuBarrier returned before the callbacks');
  stopKworkers(cpu);
}

function serve(cpu: Cpu): void {
  runKworker(cpu);
}

function check(cpu: Cpu, at: number): string | undefined {
  const world = at as World;
  const current = read(cpu, read(cpu, world, World.current), Version.number);
  const freed = read(cpu, world, World.freed);
  return freed === current - 1 ? undefined : `${freed} versions are freed, of ${current}`;
}

const observe = (cpu: Cpu, at: number): string => `saw ${read(cpu, at as World, World.seen)}`;

const saw = (...numbers: readonly number[]): readonly Outcome[] =>
  numbers.map((number) => ({
    name: `saw ${number}`,
    grade: 'ACCEPTABLE',
    description: number === 1 ? 'the old version, which was not freed before' : 'a newer one',
  }));

const common = { ops: { rcuProgram }, ramBytes: 64 * 4096, setup, check, observe } as const;

export const RCU_PROGRAMS: readonly ExploreProgram[] = [
  defineProgram({
    name: 'rcu',
    title: 'a version is replaced, and freed after a grace period, under readers',
    tasks: [
      task('reader', look),
      task('nested reader', lookNested),
      task('updater', replaceAndWait),
    ],
    ...common,
    outcomes: saw(1, 2),
  }),
  defineProgram({
    name: 'call-rcu',
    title: 'versions are freed by callbacks, each after a grace period of its own or a later one',
    tasks: [
      task('reader', look),
      {
        name: 'updater',
        operations: [
          { name: 'replace', run: replaceAndCall },
          { name: 'replace', run: replaceAndCall },
          { name: 'barrier', run: finish },
        ],
      },
      task('kworker', serve),
    ],
    ...common,
    outcomes: saw(1, 2, 3),
  }),
];
