/**
 * Target `refcount`: users take references to what they find, without a lock, while owners replace it.
 *
 * Protocol   user                                 owner
 *              in an RCU section: v = published,    old = exchange(published, new)
 *                inc_not_zero(v)                    put the reference that publishing had
 *              v is alive; put                    the last put: v is alive no more; freed after a grace period
 * Invariant  I1  Who has a reference has something alive (INV-42).
 *            I2  The last put, and no other, frees (INV-42).
 *
 * @module
 */
import { exchange, fetchAdd, read, readOnce, write, writeOnce } from '#memory';

import { bug } from '../../base/bug.js';
import { runPendingWork } from '../../deferred/kworker.js';
import { callRcu, rcuBarrier, rcuReadLock, rcuReadUnlock } from '../../deferred/rcu.js';
import { RcuHead } from '../../deferred/types.js';
import type { Cpu } from '../../machine/cpu.js';
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
import {
  Refcount,
  refcountDecAndTest,
  refcountIncNotZero,
  refcountSet,
} from '../../sync/refcount.js';
import type { TortureMember, TortureTarget } from '../target.js';

const Counted = struct('torture_counted', {
  refs: Refcount,
  alive: word, // ALIVE until the last put; marked
  rcu: RcuHead,
});
type Counted = Ptr<'torture_counted'>;

const World = struct('torture_refcount', {
  current: pointer<'torture_counted'>(), // published, with a reference; exchanged
  line1: cacheline,
  made: word, // atomic, as is the next
  line2: cacheline,
  freed: word,
});
type World = Ptr<'torture_refcount'>;

const ALIVE = 0x600d;
const USE = 0;
const GONE = 1;
const REPLACE = 2;
const BARRIER = 3;
const SERVE = 4;
const BARRIER_ONE_IN = 4;

export const tortureCounted = defineKernelOps({
  opsName: 'torture: free what was counted',
  callback(cpu: Cpu, head: RcuHead) {
    kfree(cpu, Counted, containerOf(head, Counted.rcu));
  },
});

function make(cpu: Cpu, world: World): Counted {
  const counted = kzalloc(cpu, Counted);
  refcountSet(cpu, at(counted, Counted.refs), 1);
  writeOnce(cpu, counted, Counted.alive, ALIVE);
  fetchAdd(cpu, world, World.made, 1);
  return counted;
}

function put(cpu: Cpu, world: World, counted: Counted): void {
  if (cpu.points !== null) cpu.points.reach('a reference is about to be put');
  if (!refcountDecAndTest(cpu, at(counted, Counted.refs))) return;
  if (exchange(cpu, counted, Counted.alive, 0) !== ALIVE) bug('INV-42: freed by two last puts');
  fetchAdd(cpu, world, World.freed, 1);
  callRcu(cpu, at(counted, Counted.rcu), tortureCounted);
}

export const refcountTarget: TortureTarget = {
  name: 'refcount',
  title: 'reference count: looked up without a lock, the last put frees',
  operations: ['use', 'gone already', 'replace', 'barrier', 'serve'],
  services: ['kworker'],
  busted: ['busted-refcount', 'busted-refcount-get'],
  roles: ({ cpus }) => [
    ...new Array<string>(Math.max(2, cpus - 2)).fill('user'),
    'owner',
    'owner',
    'kworker',
  ],
  setup(cpu) {
    const world = kzalloc(cpu, World);
    write(cpu, world, World.current, make(cpu, world));
    return world;
  },
  enter: () => undefined,
  step(cpu, state, member) {
    const world = state as World;
    if (member.role === 'user') use(cpu, world, member);
    else if (member.role === 'owner') replace(cpu, world, member);
    else if (runPendingWork(cpu) > 0) member.count(SERVE);
  },
  leave(cpu, _state, member) {
    if (member.role !== 'kworker') rcuBarrier(cpu);
  },
  teardown(cpu, state) {
    const world = state as World;
    put(cpu, world, readOnce(cpu, world, World.current));
    runPendingWork(cpu);
    const made = read(cpu, world, World.made);
    const freed = read(cpu, world, World.freed);
    if (made !== freed) bug(`INV-42: ${made} were made and ${freed} freed`);
    kfree(cpu, World, world);
  },
};

function use(cpu: Cpu, world: World, member: TortureMember): void {
  const start = member.now();
  rcuReadLock(cpu);
  const counted = readOnce(cpu, world, World.current);
  member.noise(cpu);
  const has = refcountIncNotZero(cpu, at(counted, Counted.refs));
  rcuReadUnlock(cpu);
  if (!has) {
    member.count(GONE);
    return;
  }
  member.noise(cpu);
  if (readOnce(cpu, counted, Counted.alive) !== ALIVE) {
    member.fail('refcount: a CPU has a reference to what is dead', 'INV-42');
  }
  put(cpu, world, counted);
  member.held(member.now() - start);
  member.count(USE);
}

function replace(cpu: Cpu, world: World, member: TortureMember): void {
  const old = exchange(cpu, world, World.current, make(cpu, world));
  put(cpu, world, old);
  member.count(REPLACE);
  if (member.random(BARRIER_ONE_IN) !== 0) return;
  rcuBarrier(cpu);
  member.count(BARRIER);
}
