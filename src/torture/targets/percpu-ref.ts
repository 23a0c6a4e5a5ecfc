/**
 * Target `percpu_ref`: users take and give references back while one member kills the count, waits for its
 * release, and brings it to life again.
 *
 * Protocol   user                                   killer
 *              tryget_live; inside += 1               kill, and confirm
 *              …                                      until released: give back what lies about
 *              inside -= 1; put                       confirmed? released once? nobody inside?
 *              or: leave the reference for another    reinit
 *                  CPU to put (`left`)
 * Invariant  I1  Release is called once in each life, after kill, when nobody has a reference (INV-6, INV-7).
 *            I2  Once confirm was called, tryget_live gives no reference (INV-8).
 *
 * @module
 */
import { exchange, fetchAdd, readOnce, writeOnce } from '#memory';

import { bug } from '../../base/bug.js';
import { runPendingWork } from '../../deferred/kworker.js';
import {
  PERCPU_REF_ALLOW_REINIT,
  percpuRefExit,
  percpuRefInit,
  percpuRefKillAndConfirm,
  percpuRefPut,
  percpuRefReinit,
  percpuRefTrygetLive,
} from '../../deferred/percpu-refcount.js';
import { PercpuRef } from '../../deferred/types.js';
import type { Cpu } from '../../machine/cpu.js';
import { lockClass } from '../../machine/lock-class.js';
import { defineKernelOps } from '../../machine/ops-table.js';
import { scheduleTimeoutUninterruptible } from '../../machine/sched.js';
import { kfree, kzalloc } from '../../machine/slab.js';
import {
  cacheline,
  containerOf,
  member as at,
  type Ptr,
  struct,
  word,
} from '../../memory/layout.js';
import {
  complete,
  Completion,
  initCompletion,
  waitForCompletionTimeout,
} from '../../sync/completion.js';
import type { TortureMember, TortureTarget } from '../target.js';

const World = struct('torture_percpu_ref', {
  ref: PercpuRef,
  released: Completion,
  line1: cacheline,
  inside: word, // users that have a reference; atomic
  line2: cacheline,
  left: word, // 1: a reference lies about, for whoever finds it; exchanged
  line3: cacheline,
  life: word, // number of the life << 2 | LIVE, KILLED or CONFIRMED; marked
  releases: word, // in this life; atomic
});
type World = Ptr<'torture_percpu_ref'>;

const LIVE = 0;
const KILLED = 1;
const CONFIRMED = 2;
const STATE = 3;
const NEXT_LIFE = 4;

const USE = 0;
const REFUSED = 1;
const LEAVE = 2;
const KILL = 3;
const SERVE = 4;

/** One use in so many leaves its reference for somebody else. */
const LEAVE_ONE_IN = 8;
/** One use in so many lasts so long: references are held across a kill. Unit: milliseconds. */
const HOLD_ONE_IN = 64;
const HOLD_MS = 1;
/** How long the killer waits between two looks for a reference that lies about. Unit: milliseconds. */
const LOOK_MS = 1;
/** How long it lets it live. Unit: milliseconds. */
const LIFE_MS = 0.5;
const RELEASED = lockClass('torture_percpu_ref');

export const tortureRefReleased = defineKernelOps({
  opsName: 'torture: percpu_ref released',
  release(cpu: Cpu, ref: PercpuRef) {
    const world: World = containerOf(ref, World.ref);
    if (stateOf(cpu, world) === LIVE) bug('INV-7: released before it was killed');
    const users = readOnce(cpu, world, World.inside);
    if (users !== 0) bug(`INV-6: released while ${users} have a reference`);
    if (fetchAdd(cpu, world, World.releases, 1) !== 0) bug('INV-6: released twice');
    complete(cpu, at(world, World.released));
  },
});

export const tortureRefConfirmed = defineKernelOps({
  opsName: 'torture: percpu_ref confirmed',
  confirm(cpu: Cpu, ref: PercpuRef) {
    setState(cpu, containerOf(ref, World.ref), CONFIRMED);
  },
});

export const percpuRefTarget: TortureTarget = {
  name: 'percpu_ref',
  title: 'per-CPU reference count: gets and puts on any CPU, kill, confirm, release, reinit',
  operations: ['use', 'refused', 'left for another CPU', 'kill', 'serve'],
  services: ['kworker'],
  busted: ['M-10', 'M-11'],
  roles: ({ cpus }) => [
    ...new Array<string>(Math.max(2, cpus - 1)).fill('user'),
    'killer',
    'kworker',
  ],
  setup(cpu) {
    const world = kzalloc(cpu, World);
    initCompletion(cpu, at(world, World.released), RELEASED);
    const ref = at(world, World.ref);
    const error = percpuRefInit(cpu, ref, tortureRefReleased, PERCPU_REF_ALLOW_REINIT);
    if (error !== 0) bug(`the count cannot be made: ${error}`);
    return world;
  },
  enter: () => undefined,
  step(cpu, state, member) {
    const world = state as World;
    if (member.role === 'killer') kill(cpu, world, member);
    else if (member.role === 'user') use(cpu, world, member);
    else if (runPendingWork(cpu) > 0) member.count(SERVE);
  },
  leave(cpu, state) {
    giveBackLeft(cpu, state as World);
  },
  teardown(cpu, state) {
    const world = state as World;
    const ref = at(world, World.ref);
    setState(cpu, world, KILLED);
    percpuRefKillAndConfirm(cpu, ref, tortureRefConfirmed);
    runPendingWork(cpu);
    if (readOnce(cpu, world, World.releases) !== 1)
      bug('INV-6: never released: a reference is lost');
    percpuRefExit(cpu, ref);
    kfree(cpu, World, world);
  },
};

function use(cpu: Cpu, world: World, member: TortureMember): void {
  const ref = at(world, World.ref);
  giveBackLeft(cpu, world);
  const life = readOnce(cpu, world, World.life);
  if (!percpuRefTrygetLive(cpu, ref)) {
    member.count(REFUSED);
    return;
  }
  const start = member.now();
  fetchAdd(cpu, world, World.inside, 1);
  if ((life & STATE) === CONFIRMED && readOnce(cpu, world, World.life) === life) {
    member.fail('percpu_ref: a reference was given after kill had been confirmed', 'INV-8');
  }
  member.noise(cpu);
  if (member.random(HOLD_ONE_IN) === 0) scheduleTimeoutUninterruptible(cpu, HOLD_MS);
  if (readOnce(cpu, world, World.releases) !== 0) {
    member.fail('percpu_ref: it was released while this CPU has a reference', 'INV-6');
  }
  if (member.random(LEAVE_ONE_IN) === 0 && exchange(cpu, world, World.left, 1) === 0) {
    member.count(LEAVE); // somebody else puts it, and says that nobody is inside
    return;
  }
  giveBack(cpu, world);
  member.held(member.now() - start);
  member.count(USE);
}

function stateOf(cpu: Cpu, world: World): number {
  return readOnce(cpu, world, World.life) & STATE;
}

/** Only the killer, and the confirmation that it waits for, do that. */
function setState(cpu: Cpu, world: World, state: number): void {
  writeOnce(cpu, world, World.life, (readOnce(cpu, world, World.life) & ~STATE) | state);
}

function giveBack(cpu: Cpu, world: World): void {
  fetchAdd(cpu, world, World.inside, -1);
  percpuRefPut(cpu, at(world, World.ref));
}

/** Puts a reference that another CPU took. */
function giveBackLeft(cpu: Cpu, world: World): void {
  if (exchange(cpu, world, World.left, 0) === 1) giveBack(cpu, world);
}

function kill(cpu: Cpu, world: World, member: TortureMember): void {
  const released = at(world, World.released);
  scheduleTimeoutUninterruptible(cpu, LIFE_MS);
  const start = member.now();
  member.noise(cpu);
  setState(cpu, world, KILLED);
  percpuRefKillAndConfirm(cpu, at(world, World.ref), tortureRefConfirmed);
  do giveBackLeft(cpu, world);
  while (!waitForCompletionTimeout(cpu, released, LOOK_MS));
  member.waited(member.now() - start);
  if (stateOf(cpu, world) !== CONFIRMED) {
    member.fail('percpu_ref: it was released and kill never confirmed', 'INV-8');
  }
  if (readOnce(cpu, world, World.inside) !== 0) {
    member.fail('percpu_ref: it was released while somebody has a reference', 'INV-6');
  }
  writeOnce(cpu, world, World.releases, 0);
  writeOnce(cpu, world, World.life, (readOnce(cpu, world, World.life) & ~STATE) + NEXT_LIFE);
  percpuRefReinit(cpu, at(world, World.ref));
  member.count(KILL);
}
