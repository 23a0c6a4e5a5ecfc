/**
 * Programs with a planted bug, one for each kind of failure: what tests the detectors.
 *
 * Each is right in most schedules, and wrong in a few that every strategy must find.
 *
 * @module
 */
import {
  exchange,
  fetchAdd,
  noteFree,
  park,
  read,
  readOnce,
  relax,
  unpark,
  write,
  writeOnce,
} from '#memory';

import { bug } from '../../base/bug.js';
import type { Cpu } from '../../machine/cpu.js';
import { lockClass } from '../../machine/lock-class.js';
import { kfree, kzalloc } from '../../machine/slab.js';
import { cacheline, member, pointer, type Ptr, struct, word } from '../../memory/layout.js';
import { initSpinlock, Spinlock, spinLock, spinUnlock } from '../../sync/spinlock.js';
import type { FailureKind } from '../judge.js';
import { defineProgram, type ExploreProgram, type Operation, reach, task } from '../program.js';

const Thing = struct('planted_thing', { value: word, line: cacheline });
type Thing = Ptr<'planted_thing'>;

const World = struct('planted_world', {
  count: word,
  flag: word,
  other: word,
  thing: pointer<'planted_thing'>(),
  slot: pointer<'planted_thing'>(),
  first: Spinlock,
  second: Spinlock,
});
type World = Ptr<'planted_world'>;

const FIRST = lockClass('planted->first');
const SECOND = lockClass('planted->second');

function setup(cpu: Cpu): number {
  const world = kzalloc(cpu, World);
  write(cpu, world, World.thing, kzalloc(cpu, Thing));
  initSpinlock(cpu, member(world, World.first), FIRST);
  initSpinlock(cpu, member(world, World.second), SECOND);
  return world;
}

/** A program whose bug is of the kind. */
export interface PlantedBug {
  readonly kind: FailureKind;
  /** What the failure's message must have in it. */
  readonly says: string;
  readonly program: ExploreProgram;
}

function plant(
  kind: FailureKind,
  says: string,
  tasks: readonly Operation['run'][],
  more: Partial<ExploreProgram> = {},
): PlantedBug {
  const program = defineProgram({
    name: `planted-${says.toLowerCase().replace(/[^a-z0-9]+/g, '-')}`,
    title: `a planted bug: ${kind}`,
    tasks: tasks.map((run, i) => task(`task ${i}`, run)),
    ramBytes: 32 * 4096,
    isBroken: true,
    setup,
    ...more,
  });
  return { kind, says, program };
}

// --- lost updates ---

function addPlain(cpu: Cpu, at: number): void {
  const world = at as World;
  write(cpu, world, World.count, read(cpu, world, World.count) + 1);
}

function addMarked(cpu: Cpu, at: number): void {
  const world = at as World;
  writeOnce(cpu, world, World.count, readOnce(cpu, world, World.count) + 1);
}

function addLocked(cpu: Cpu, at: number): void {
  const lock = member(at as World, World.first);
  spinLock(cpu, lock);
  addPlain(cpu, at);
  spinUnlock(cpu, lock);
}

const countOf = (cpu: Cpu, at: number) => String(read(cpu, at as World, World.count));

/** Looks, then acts. */
function takeOnce(cpu: Cpu, at: number): void {
  const world = at as World;
  if (readOnce(cpu, world, World.flag) !== 0) return;
  writeOnce(cpu, world, World.flag, 1);
  fetchAdd(cpu, world, World.count, 1);
}

function checkTakenOnce(cpu: Cpu, at: number): string | undefined {
  const owners = read(cpu, at as World, World.count);
  return owners > 1 ? `INV-1: ${owners} tasks have it` : undefined;
}

// --- nobody goes on ---

function lockBoth(cpu: Cpu, outer: Spinlock, inner: Spinlock): void {
  spinLock(cpu, outer);
  spinLock(cpu, inner);
  spinUnlock(cpu, inner);
  spinUnlock(cpu, outer);
}

function lockFirstSecond(cpu: Cpu, at: number): void {
  lockBoth(cpu, member(at as World, World.first), member(at as World, World.second));
}

function lockSecondFirst(cpu: Cpu, at: number): void {
  lockBoth(cpu, member(at as World, World.second), member(at as World, World.first));
}

function sleepUntilFlag(cpu: Cpu, at: number): void {
  park(cpu, at as World, World.flag, 0, Infinity);
}

/** The wrong way round: who goes to sleep in between is not woken. */
function wakeThenSetFlag(cpu: Cpu, at: number): void {
  unpark(cpu, at as World, World.flag, 1);
  writeOnce(cpu, at as World, World.flag, 1);
}

function askAndSpin(cpu: Cpu, at: number): void {
  const world = at as World;
  writeOnce(cpu, world, World.flag, 1);
  while (readOnce(cpu, world, World.other) === 0) relax(cpu);
}

/** As above, but counts: every turn changes something. */
function askAndCount(cpu: Cpu, at: number): void {
  const world = at as World;
  writeOnce(cpu, world, World.flag, 1);
  while (readOnce(cpu, world, World.other) === 0) fetchAdd(cpu, world, World.count, 1);
}

/** Answers whoever has asked, and does not wait for those who will. */
function answerOnce(cpu: Cpu, at: number): void {
  const world = at as World;
  if (readOnce(cpu, world, World.flag) !== 0) writeOnce(cpu, world, World.other, 1);
  else writeOnce(cpu, world, World.flag, 2);
}

// --- memory ---

function useIfAlive(cpu: Cpu, at: number): void {
  const world = at as World;
  if (readOnce(cpu, world, World.flag) !== 0) return;
  readOnce(cpu, read(cpu, world, World.thing), Thing.value);
}

function freeThing(cpu: Cpu, at: number): void {
  const world = at as World;
  writeOnce(cpu, world, World.flag, 1);
  noteFree(cpu, read(cpu, world, World.thing), Thing.words);
}

function publishThing(cpu: Cpu, at: number): void {
  const world = at as World;
  const thing = kzalloc(cpu, Thing);
  exchange(cpu, world, World.other, 1);
  const isClosed = readOnce(cpu, world, World.flag) !== 0;
  reach(cpu, 'publisher has looked');
  if (isClosed) kfree(cpu, Thing, thing);
  else exchange(cpu, world, World.slot, thing);
}

/** Waits until both are about equally far. */
function closeSlot(cpu: Cpu, at: number): void {
  const world = at as World;
  while (readOnce(cpu, world, World.other) === 0) relax(cpu);
  reach(cpu, 'closer comes');
  exchange(cpu, world, World.flag, 1);
  const thing: Thing = exchange(cpu, world, World.slot, 0 as Thing);
  if (thing !== 0) kfree(cpu, Thing, thing);
  reach(cpu, 'slot is closed');
}

// --- rules of the kernel ---

function setBoth(cpu: Cpu, at: number): void {
  writeOnce(cpu, at as World, World.flag, 1);
  writeOnce(cpu, at as World, World.other, 1);
}

function dieInBetween(cpu: Cpu, at: number): void {
  const other = readOnce(cpu, at as World, World.other);
  if (other === 0 && readOnce(cpu, at as World, World.flag) === 1) bug('only half of it is set');
}

export const PLANTED_BUGS: readonly PlantedBug[] = [
  plant('race', 'race for word', [addPlain, addLocked]),
  plant('forbidden', "outcome '1'", [addMarked, addMarked], {
    observe: countOf,
    outcomes: [
      { name: '2', grade: 'ACCEPTABLE', description: 'both count' },
      { name: '1', grade: 'FORBIDDEN', description: 'an update is lost' },
    ],
  }),
  plant('invariant', 'INV-1: 2 tasks', [takeOnce, takeOnce], { check: checkTakenOnce }),
  plant('deadlock', 'task 0 waits for spinlock planted->second, held by task 1', [
    lockFirstSecond,
    lockSecondFirst,
  ]),
  plant('deadlock', 'partial deadlock: task 0 sleeps', [sleepUntilFlag, wakeThenSetFlag]),
  plant('livelock', 'task 0 spins', [askAndSpin, answerOnce]),
  plant('starvation', 'no end', [askAndCount, answerOnce]),
  plant('use-after-free', 'freed at step', [useIfAlive, freeThing]),
  plant('leak', 'not given back: 1 planted_thing', [publishThing, closeSlot], {
    leakFree: true,
    window: {
      order: ['publisher has looked', 'closer comes', 'slot is closed', 'publisher has looked'],
    },
  }),
  plant('died', 'only half', [setBoth, dieInBetween]),
];

/** Without a bug: what must not be reported. */
export const SOUND_COUNTER = defineProgram({
  name: 'sound-counter',
  title: 'two tasks count under a lock',
  tasks: [task('task 0', addLocked), task('task 1', addLocked)],
  ramBytes: 32 * 4096,
  setup,
  leakFree: true,
  observe: countOf,
  outcomes: [{ name: '2', grade: 'ACCEPTABLE', description: 'both count' }],
});
