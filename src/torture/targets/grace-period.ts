/**
 * Targets `rcu` and `srcu`: readers look at what is published, updaters replace and free it.
 *
 * Protocol   reader (in a section)              updater
 *              v = published                      old = exchange(published, new)
 *              v is alive, now and a while later  wait for a grace period, or have a kworker call back after one
 *                                                 old is alive no more; free it
 * Invariant  I1  What a reader has found in its section is alive until the section ends (INV-10).
 *            I2  Every version that was made is freed, once (INV-39).
 *
 * @module
 */
import { exchange, fetchAdd, read, readOnce, write, writeOnce } from '#memory';

import { bug } from '../../base/bug.js';
import { runPendingWork } from '../../deferred/kworker.js';
import {
  callRcu,
  rcuBarrier,
  rcuReadLock,
  rcuReadUnlock,
  synchronizeRcu,
} from '../../deferred/rcu.js';
import {
  callSrcu,
  cleanupSrcuStruct,
  initSrcuStruct,
  srcuBarrier,
  srcuReadLock,
  srcuReadUnlock,
  synchronizeSrcu,
} from '../../deferred/srcu.js';
import { RcuHead, SrcuStruct } from '../../deferred/types.js';
import type { Cpu } from '../../machine/cpu.js';
import { lockClass } from '../../machine/lock-class.js';
import { defineKernelOps } from '../../machine/ops-table.js';
import { kfree, kzalloc } from '../../machine/slab.js';
import {
  cacheline,
  containerOf,
  member as at,
  pointer,
  type Ptr,
  struct,
  word,
} from '../../memory/layout.js';
import type { TortureMember, TortureTarget } from '../target.js';
import { writersAndReaders } from './exclusion.js';

/** What is published, one after the other. */
const Version = struct('torture_version', {
  alive: word, // ALIVE until just before it is freed; marked
  rcu: RcuHead,
  world: word,
});
type Version = Ptr<'torture_version'>;

const World = struct('torture_published', {
  domain: SrcuStruct, // of srcu
  line1: cacheline,
  current: pointer<'torture_version'>(), // published; exchanged
  line2: cacheline,
  made: word, // versions; atomic, as is the next
  line3: cacheline,
  freed: word,
});
type World = Ptr<'torture_published'>;

const ALIVE = 0x600d;
const READ = 0;
const SYNCHRONIZE = 1;
const CALL = 2;
const BARRIER = 3;
const SERVE = 4;

/** One callback in so many is waited for: they must not grow without end. */
const BARRIER_ONE_IN = 4;
const DOMAIN = lockClass('torture_srcu');

export const freeVersion = defineKernelOps({
  opsName: 'torture: free a version',
  callback(cpu: Cpu, head: RcuHead) {
    retire(cpu, containerOf(head, Version.rcu));
  },
});

function retire(cpu: Cpu, version: Version): void {
  const world = read(cpu, version, Version.world) as World;
  if (readOnce(cpu, version, Version.alive) !== ALIVE) bug('INV-10: a version is freed twice');
  writeOnce(cpu, version, Version.alive, 0);
  fetchAdd(cpu, world, World.freed, 1);
  kfree(cpu, Version, version);
}

function makeVersion(cpu: Cpu, world: World): Version {
  const version = kzalloc(cpu, Version);
  write(cpu, version, Version.world, world);
  writeOnce(cpu, version, Version.alive, ALIVE);
  fetchAdd(cpu, world, World.made, 1);
  return version;
}

/** What differs between the two. */
interface Flavour {
  readonly name: string;
  readonly title: string;
  readonly busted: readonly string[];
  readonly lock: (cpu: Cpu, world: World) => number;
  readonly unlock: (cpu: Cpu, world: World, index: number) => void;
  readonly synchronize: (cpu: Cpu, world: World) => void;
  readonly call: (cpu: Cpu, world: World, version: Version) => void;
  readonly barrier: (cpu: Cpu, world: World) => void;
  readonly init: (cpu: Cpu, world: World) => void;
  readonly cleanup: (cpu: Cpu, world: World) => void;
}

function graceTarget(flavour: Flavour): TortureTarget {
  return {
    name: flavour.name,
    title: flavour.title,
    operations: ['read', 'synchronize', 'call', 'barrier', 'serve'],
    services: ['kworker'],
    busted: flavour.busted,
    roles: (config) => [...writersAndReaders(config, true), 'kworker'],
    setup(cpu) {
      const world = kzalloc(cpu, World);
      flavour.init(cpu, world);
      write(cpu, world, World.current, makeVersion(cpu, world));
      return world;
    },
    enter: () => undefined,
    step(cpu, state, member) {
      const world = state as World;
      if (member.role === 'reader') look(cpu, world, flavour, member);
      else if (member.role === 'writer') replace(cpu, world, flavour, member);
      else if (runPendingWork(cpu) > 0) member.count(SERVE);
    },
    leave(cpu, state, member) {
      if (member.role === 'writer') flavour.barrier(cpu, state as World);
    },
    teardown(cpu, state) {
      const world = state as World;
      retire(cpu, readOnce(cpu, world, World.current));
      const made = read(cpu, world, World.made);
      const freed = read(cpu, world, World.freed);
      if (made !== freed) bug(`INV-39: ${made} versions were made and ${freed} freed`);
      flavour.cleanup(cpu, world);
      kfree(cpu, World, world);
    },
  };
}

function look(cpu: Cpu, world: World, flavour: Flavour, member: TortureMember): void {
  const start = member.now();
  const index = flavour.lock(cpu, world);
  const version = readOnce(cpu, world, World.current);
  const wasAlive = readOnce(cpu, version, Version.alive) === ALIVE;
  member.noise(cpu);
  const isAlive = readOnce(cpu, version, Version.alive) === ALIVE;
  if (!wasAlive || !isAlive) {
    member.fail(`${flavour.name}: a reader has in its section what was freed`, 'INV-10');
  }
  flavour.unlock(cpu, world, index);
  member.held(member.now() - start);
  member.count(READ);
}

function replace(cpu: Cpu, world: World, flavour: Flavour, member: TortureMember): void {
  const old = exchange(cpu, world, World.current, makeVersion(cpu, world));
  const start = member.now();
  if (member.random(2) === 0) {
    flavour.synchronize(cpu, world);
    member.waited(member.now() - start);
    retire(cpu, old);
    member.count(SYNCHRONIZE);
    return;
  }
  flavour.call(cpu, world, old);
  member.count(CALL);
  if (member.random(BARRIER_ONE_IN) !== 0) return;
  flavour.barrier(cpu, world);
  member.count(BARRIER);
}

export const rcuTarget = graceTarget({
  name: 'rcu',
  title: 'RCU: readers, grace periods that are waited for, callbacks',
  busted: ['busted-rcu'],
  lock(cpu) {
    rcuReadLock(cpu);
    return 0;
  },
  unlock: rcuReadUnlock,
  synchronize: synchronizeRcu,
  call: (cpu, _world, version) => {
    callRcu(cpu, at(version, Version.rcu), freeVersion);
  },
  barrier: rcuBarrier,
  init: () => undefined,
  cleanup: () => undefined,
});

export const srcuTarget = graceTarget({
  name: 'srcu',
  title: 'SRCU: the same, of a domain of its own, whose readers may sleep',
  busted: ['busted-srcu'],
  lock: (cpu, world) => srcuReadLock(cpu, at(world, World.domain)),
  unlock: (cpu, world, index) => {
    srcuReadUnlock(cpu, at(world, World.domain), index);
  },
  synchronize: (cpu, world) => {
    synchronizeSrcu(cpu, at(world, World.domain));
  },
  call: (cpu, world, version) => {
    callSrcu(cpu, at(world, World.domain), at(version, Version.rcu), freeVersion);
  },
  barrier: (cpu, world) => {
    srcuBarrier(cpu, at(world, World.domain));
  },
  init: (cpu, world) => {
    if (initSrcuStruct(cpu, at(world, World.domain), DOMAIN) !== 0) bug('no memory for a domain');
  },
  cleanup: (cpu, world) => {
    cleanupSrcuStruct(cpu, at(world, World.domain));
  },
});
