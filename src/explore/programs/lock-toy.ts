/**
 * Small random programs over locks alone: `locks-N`, drawn with N as the seed. Many of them can deadlock.
 *
 * Each task takes a few locks one inside the other, for reading or writing, by waiting or by trying, and gives
 * them back. Whenever a schedule ends in a cycle of tasks that wait for each other, lockdep must have reported
 * the locks of that cycle (INV-38); it may report when no schedule does.
 *
 * @module
 */
import type { Cpu } from '../../machine/cpu.js';
import { lockClass } from '../../machine/lock-class.js';
import { kzalloc } from '../../machine/slab.js';
import { cacheline, member, type Ptr, struct } from '../../memory/layout.js';
import { initMutex, Mutex, mutexLock, mutexTrylock, mutexUnlock } from '../../sync/mutex.js';
import {
  downRead,
  downReadTrylock,
  downWrite,
  initRwsem,
  Rwsem,
  upRead,
  upWrite,
} from '../../sync/rwsem.js';
import { initSpinlock, Spinlock, spinLock, spinUnlock } from '../../sync/spinlock.js';
import { defineProgram, type ExploreProgram, task } from '../program.js';
import { mulberry, type Random } from './toy.js';

const World = struct('lock_toy_world', {
  firstMutex: Mutex,
  line1: cacheline,
  secondMutex: Mutex,
  line2: cacheline,
  firstSem: Rwsem,
  line3: cacheline,
  secondSem: Rwsem,
  line4: cacheline,
  firstSpin: Spinlock,
  line5: cacheline,
  secondSpin: Spinlock,
});
type World = Ptr<'lock_toy_world'>;

const FIRST_MUTEX = lockClass('toy->mutex 1');
const SECOND_MUTEX = lockClass('toy->mutex 2');
const FIRST_SEM = lockClass('toy->rwsem 1');
const SECOND_SEM = lockClass('toy->rwsem 2');
const FIRST_SPIN = lockClass('toy->spinlock 1');
const SECOND_SPIN = lockClass('toy->spinlock 2');

/** Ways to take each kind of lock; the first waits. */
const WAYS = {
  mutex: ['lock', 'lock', 'try'],
  rwsem: ['read', 'write', 'try read'],
  spinlock: ['spin'],
} as const;
type Kind = keyof typeof WAYS;
type Way = (typeof WAYS)[Kind][number];

interface Lock {
  readonly kind: Kind;
  /** Which of the two of its kind. */
  readonly second: boolean;
}

interface Taking extends Lock {
  readonly way: Way;
}

const LOCKS: readonly Lock[] = (['mutex', 'rwsem', 'spinlock'] as const).flatMap((kind) => [
  { kind, second: false },
  { kind, second: true },
]);
/** Of these a program has so many. */
const LOCKS_USED = 3;

const mutexOf = (world: World, second: boolean): Mutex =>
  member(world, second ? World.secondMutex : World.firstMutex);
const semOf = (world: World, second: boolean): Rwsem =>
  member(world, second ? World.secondSem : World.firstSem);
const spinOf = (world: World, second: boolean): Spinlock =>
  member(world, second ? World.secondSpin : World.firstSpin);

function setup(cpu: Cpu): number {
  const world = kzalloc(cpu, World);
  initMutex(cpu, mutexOf(world, false), FIRST_MUTEX);
  initMutex(cpu, mutexOf(world, true), SECOND_MUTEX);
  initRwsem(cpu, semOf(world, false), FIRST_SEM);
  initRwsem(cpu, semOf(world, true), SECOND_SEM);
  initSpinlock(cpu, spinOf(world, false), FIRST_SPIN);
  initSpinlock(cpu, spinOf(world, true), SECOND_SPIN);
  return world;
}

/** Takes it; false if it was tried in vain. */
function take(cpu: Cpu, world: World, { way, second }: Taking): boolean {
  switch (way) {
    case 'lock':
      mutexLock(cpu, mutexOf(world, second));
      return true;
    case 'try':
      return mutexTrylock(cpu, mutexOf(world, second));
    case 'read':
      downRead(cpu, semOf(world, second));
      return true;
    case 'write':
      downWrite(cpu, semOf(world, second));
      return true;
    case 'try read':
      return downReadTrylock(cpu, semOf(world, second));
    case 'spin':
      spinLock(cpu, spinOf(world, second));
      return true;
  }
}

function give(cpu: Cpu, world: World, { way, second }: Taking): void {
  if (way === 'spin') spinUnlock(cpu, spinOf(world, second));
  else if (way === 'write') upWrite(cpu, semOf(world, second));
  else if (way === 'read' || way === 'try read') upRead(cpu, semOf(world, second));
  else mutexUnlock(cpu, mutexOf(world, second));
}

/** Takes the locks from this one on, each inside the one before, and gives them back. */
function nest(cpu: Cpu, world: World, takings: readonly Taking[], from: number): void {
  const taking = takings[from];
  if (taking === undefined) return;
  const taken = take(cpu, world, taking);
  nest(cpu, world, takings, from + 1);
  if (taken) give(cpu, world, taking);
}

/** The program `locks-N`; undefined for other names. */
export function lockToyNamed(name: string): ExploreProgram | undefined {
  const seed = /^locks-(\d{1,9})$/.exec(name)?.[1];
  return seed === undefined ? undefined : lockToy(Number(seed));
}

function lockToy(seed: number): ExploreProgram {
  const random = mulberry(seed);
  const locks = drawSome(random, LOCKS, LOCKS_USED);
  const tasks = Array.from({ length: 2 + random(2) }, () => drawNest(random, locks));
  return defineProgram({
    name: `locks-${seed}`,
    title: 'random locks in random orders, for testing lockdep',
    tasks: tasks.map((takings, i) => {
      const what = takings.map(({ way, second }) => `${way} ${second ? 2 : 1}`).join(', ');
      return task(`task ${i}: ${what}`, (cpu, world) => {
        nest(cpu, world as World, takings, 0);
      });
    }),
    ramBytes: 64 * 4096,
    validatesLocks: false,
    setup,
  });
}

/** Two or three of the locks, those that spin inside of the others. */
function drawNest(random: Random, locks: readonly Lock[]): Taking[] {
  const takings = drawSome(random, locks, 2 + random(2)).map((lock) => {
    const ways: readonly Way[] = WAYS[lock.kind];
    return { ...lock, way: ways[random(ways.length)] ?? ways[0]! };
  });
  const isSpin = ({ kind }: Taking): boolean => kind === 'spinlock';
  return [...takings.filter((taking) => !isSpin(taking)), ...takings.filter(isSpin)];
}

/** So many of them, each once, in any order. */
function drawSome<T>(random: Random, from: readonly T[], count: number): T[] {
  const left = [...from];
  return Array.from({ length: count }, () => left.splice(random(left.length), 1)).flat();
}
