/**
 * Per-CPU reference counts: release comes once, when nobody has a reference (INV-6), not before kill (INV-7);
 * after confirm nobody gets one (INV-8); and switching back and forth loses none.
 *
 * @module
 */
import { exchange, fetchAdd, loadAcquire, read, readOnce, storeRelease, write } from '#memory';

import { bug } from '../../base/bug.js';
import { runKworker, stopKworkers } from '../../deferred/kworker.js';
import {
  PERCPU_REF_ALLOW_REINIT,
  percpuRefExit,
  percpuRefGet,
  percpuRefInit,
  percpuRefIsZero,
  percpuRefKill,
  percpuRefKillAndConfirm,
  percpuRefPut,
  percpuRefReinit,
  percpuRefSwitchToAtomic,
  percpuRefSwitchToAtomicSync,
  percpuRefSwitchToPercpu,
  percpuRefTrygetLive,
} from '../../deferred/percpu-refcount.js';
import { PercpuRef } from '../../deferred/types.js';
import type { Cpu } from '../../machine/cpu.js';
import { lockClass } from '../../machine/lock-class.js';
import { defineOps } from '../../machine/ops-table.js';
import { kzalloc } from '../../machine/slab.js';
import { warningCount, warningTexts } from '../../machine/warn.js';
import { cacheline, containerOf, member, type Ptr, struct, word } from '../../memory/layout.js';
import { complete, Completion, initCompletion, waitForCompletion } from '../../sync/completion.js';
import { defineProgram, type ExploreProgram, type Outcome, task } from '../program.js';

const World = struct('percpu_ref_world', {
  ref: PercpuRef,
  line1: cacheline,
  users: word, // references in use; atomic
  line2: cacheline,
  killed: word, // kill has begun; written by the killer
  confirmed: word, // confirm was called; written by whoever calls it
  releases: word, // times release was called; atomic
  line3: cacheline,
  got: word, // tryget_live gave a reference; written by its task
  line4: cacheline,
  released: Completion,
});
type World = Ptr<'percpu_ref_world'>;

const RELEASED = lockClass('percpu_ref program');

export const percpuRefProgram = defineOps({
  opsName: 'percpu_ref program',
  release(cpu: Cpu, ref: PercpuRef) {
    const world: World = containerOf(ref, World.ref);
    if (readOnce(cpu, world, World.killed) === 0) bug('INV-7: release before kill');
    if (readOnce(cpu, world, World.users) !== 0) bug('INV-6: release while there are references');
    fetchAdd(cpu, world, World.releases, 1);
    complete(cpu, member(world, World.released));
  },
  confirm(cpu: Cpu, ref: PercpuRef) {
    const world: World = containerOf(ref, World.ref);
    storeRelease(cpu, world, World.confirmed, 1);
  },
});

/** It has one reference besides the initial one: counted on the boot CPU, and put on another. */
function setup(cpu: Cpu): number {
  const world = kzalloc(cpu, World);
  const ref = member(world, World.ref);
  initCompletion(cpu, member(world, World.released), RELEASED);
  if (percpuRefInit(cpu, ref, percpuRefProgram, PERCPU_REF_ALLOW_REINIT) !== 0) bug('no memory');
  percpuRefGet(cpu, ref);
  write(cpu, world, World.users, 1);
  return world;
}

function putOne(cpu: Cpu, at: number): void {
  const world = at as World;
  fetchAdd(cpu, world, World.users, -1);
  percpuRefPut(cpu, member(world, World.ref));
}

function getAndPut(cpu: Cpu, at: number): void {
  const world = at as World;
  percpuRefGet(cpu, member(world, World.ref)); // beside the reference that it has
  fetchAdd(cpu, world, World.users, 1);
  putOne(cpu, at);
}

function tryAndPut(cpu: Cpu, at: number): void {
  const world = at as World;
  const wasConfirmed = loadAcquire(cpu, world, World.confirmed) !== 0;
  if (!percpuRefTrygetLive(cpu, member(world, World.ref))) return;
  if (wasConfirmed) bug('INV-8: tryget_live gives a reference after confirm');
  fetchAdd(cpu, world, World.users, 1);
  write(cpu, world, World.got, 1);
  putOne(cpu, at);
}

function kill(cpu: Cpu, at: number): void {
  const world = at as World;
  exchange(cpu, world, World.killed, 1);
  percpuRefKill(cpu, member(world, World.ref));
}

function killAndConfirm(cpu: Cpu, at: number): void {
  const world = at as World;
  exchange(cpu, world, World.killed, 1);
  percpuRefKillAndConfirm(cpu, member(world, World.ref), percpuRefProgram);
}

function drain(cpu: Cpu, at: number): void {
  waitForCompletion(cpu, member(at as World, World.released));
}

/** The object may go once release was called; so may the count. */
function exit(cpu: Cpu, at: number): void {
  const ref = member(at as World, World.ref);
  drain(cpu, at);
  stopKworkers(cpu);
  if (!percpuRefIsZero(cpu, ref)) bug('INV-6: released, but not zero');
  percpuRefExit(cpu, ref);
  if (!percpuRefIsZero(cpu, ref)) bug('INV-6: not zero after exit');
}

/** Kill and drain, back to life, and once more. */
function reinit(cpu: Cpu, at: number): void {
  const world = at as World;
  drain(cpu, at);
  exchange(cpu, world, World.killed, 0);
  percpuRefReinit(cpu, member(world, World.ref));
}

function toAtomicAndBack(cpu: Cpu, at: number): void {
  const ref = member(at as World, World.ref);
  percpuRefSwitchToAtomicSync(cpu, ref);
  percpuRefSwitchToPercpu(cpu, ref);
}

/** The way back must wait for the switch that is under way. */
function toAtomicAndBackAtOnce(cpu: Cpu, at: number): void {
  const ref = member(at as World, World.ref);
  percpuRefSwitchToAtomic(cpu, ref);
  percpuRefSwitchToPercpu(cpu, ref);
}

function serve(cpu: Cpu): void {
  runKworker(cpu);
}

function checkLives(lives: number): (cpu: Cpu, at: number) => string | undefined {
  return (cpu, at) => {
    const releases = read(cpu, at as World, World.releases);
    if (releases !== lives) return `INV-6: release was called ${releases} times in ${lives} lives`;
    return warningCount(cpu) === 0 ? undefined : `warned: ${warningTexts(cpu)[0] ?? ''}`;
  };
}

const observe = (cpu: Cpu, at: number): string =>
  read(cpu, at as World, World.got) === 0 ? 'refused' : 'got one';

const tried: readonly Outcome[] = [
  { name: 'got one', grade: 'ACCEPTABLE', description: 'before all CPUs knew of the kill' },
  { name: 'refused', grade: 'ACCEPTABLE', description: 'the count was dying' },
];

const common = { ops: { percpuRefProgram }, ramBytes: 64 * 4096, setup } as const;
const server = task('kworker', serve);

export const PERCPU_REF_PROGRAMS: readonly ExploreProgram[] = [
  defineProgram({
    name: 'percpu-ref',
    title: 'kill, a put of a reference that was taken elsewhere, and tryget_live',
    tasks: [
      task('put', putOne),
      task('try', tryAndPut),
      {
        name: 'killer',
        operations: [
          { name: 'kill', run: kill },
          { name: 'exit', run: exit },
        ],
      },
      server,
    ],
    ...common,
    check: checkLives(1),
    observe,
    outcomes: tried,
  }),
  defineProgram({
    name: 'percpu-ref-confirm',
    title: 'after confirm nobody gets a reference',
    tasks: [
      {
        name: 'try',
        operations: [
          { name: 'try', run: tryAndPut },
          { name: 'put', run: putOne },
        ],
      },
      {
        name: 'killer',
        operations: [
          { name: 'kill and confirm', run: killAndConfirm },
          { name: 'exit', run: exit },
        ],
      },
      server,
    ],
    ...common,
    check: checkLives(1),
    observe,
    outcomes: tried,
  }),
  defineProgram({
    name: 'percpu-ref-switch',
    title: 'switches back and forth meet gets, puts, a kill and each other',
    tasks: [
      {
        name: 'user',
        operations: [
          { name: 'get and put', run: getAndPut },
          { name: 'put', run: putOne },
        ],
      },
      {
        name: 'switch',
        operations: [
          { name: 'to atomic and back', run: toAtomicAndBack },
          { name: 'to atomic and back at once', run: toAtomicAndBackAtOnce },
          { name: 'kill', run: kill },
          { name: 'exit', run: exit },
        ],
      },
      server,
    ],
    ...common,
    check: checkLives(1),
  }),
  defineProgram({
    name: 'percpu-ref-reinit',
    title: 'two lives: each ends with one release',
    tasks: [
      {
        name: 'user',
        operations: [
          { name: 'put', run: putOne },
          { name: 'try', run: tryAndPut },
        ],
      },
      {
        name: 'killer',
        operations: [
          { name: 'kill', run: kill },
          { name: 'reinit', run: reinit },
          { name: 'kill', run: kill },
          { name: 'exit', run: exit },
        ],
      },
      server,
    ],
    ...common,
    check: checkLives(2),
    observe,
    outcomes: tried,
  }),
];
