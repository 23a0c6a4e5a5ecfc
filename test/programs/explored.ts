/**
 * Programs for tests of the workers engine: one file for all; what comes after the `?` of its URL says which.
 *
 * @module
 */
import {
  completeAll,
  Completion,
  type Cpu,
  initCompletion,
  initSpinlock,
  KernelBug,
  kzalloc,
  layout,
  lockClass,
  memory,
  Spinlock,
  spinLock,
  spinUnlock,
  waitForCompletion,
} from 'faultline';

import { defineProgram, type ExploreProgram, task } from '../../src/explore/program.js';

const { member, struct, word } = layout;
const { fetchAdd, read, writeOnce } = memory;

const World = struct('explored_world', {
  one: Spinlock,
  other: Spinlock,
  done: Completion,
  count: word,
  left: word, // somebody who was made to leave has stored here
});
type World = layout.Ptr<'explored_world'>;

const LOCK = lockClass('explored lock');

function setup(cpu: Cpu): number {
  const world = kzalloc(cpu, World);
  initSpinlock(cpu, member(world, World.one), LOCK);
  initSpinlock(cpu, member(world, World.other), LOCK);
  initCompletion(cpu, member(world, World.done), LOCK);
  return world;
}

function addOne(cpu: Cpu, world: number): void {
  fetchAdd(cpu, world as World, World.count, 1);
}

function lockBoth(cpu: Cpu, first: Spinlock, second: Spinlock): void {
  spinLock(cpu, first);
  spinLock(cpu, second);
  spinUnlock(cpu, second);
  spinUnlock(cpu, first);
}

function untidy(cpu: Cpu, at: number, run: (world: World) => void): void {
  const world = at as World;
  try {
    run(world);
  } finally {
    writeOnce(cpu, world, World.left, 1);
  }
}

function refuse(cpu: Cpu, world: number): void {
  addOne(cpu, world);
  throw new KernelBug('task 1 has had enough');
}

function waitAndAdd(cpu: Cpu, world: number): void {
  waitForCompletion(cpu, member(world as World, World.done));
  addOne(cpu, world);
}

function countIs(expected: number) {
  return (cpu: Cpu, world: number): string | undefined => {
    const count = read(cpu, world as World, World.count);
    return count === expected ? undefined : `the count is ${count}`;
  };
}

const adder = task('adder', addOne);
const common = { setup, title: 'a test', ramBytes: 64 * 4096 };

const PROGRAMS: Readonly<Record<string, ExploreProgram>> = {
  deadlock: defineProgram({
    ...common,
    name: 'deadlock',
    tasks: [
      task('one first', (cpu, world) => {
        untidy(cpu, world, (at) => {
          lockBoth(cpu, member(at, World.one), member(at, World.other));
        });
      }),
      task('other first', (cpu, world) => {
        untidy(cpu, world, (at) => {
          lockBoth(cpu, member(at, World.other), member(at, World.one));
        });
      }),
      adder,
    ],
  }),
  death: defineProgram({ ...common, name: 'death', tasks: [adder, task('refuser', refuse)] }),
  'first death': defineProgram({
    ...common,
    name: 'first death',
    tasks: [task('refuser', refuse), adder],
  }),
  'strange death': defineProgram({
    ...common,
    name: 'strange death',
    tasks: [
      adder,
      task('thrower', () => {
        // eslint-disable-next-line @typescript-eslint/only-throw-error
        throw 'a word';
      }),
    ],
  }),
  crowd: defineProgram({
    ...common,
    name: 'crowd',
    tasks: [
      task('waiter 0', waitAndAdd),
      task('waiter 1', waitAndAdd),
      task('waiter 2', waitAndAdd),
      task('waiter 3', waitAndAdd),
      task('completer', (cpu, world) => {
        completeAll(cpu, member(world as World, World.done));
      }),
    ],
    check: countIs(4),
  }),
  idle: defineProgram({
    ...common,
    name: 'idle',
    tasks: [task('idler 0', () => undefined), task('idler 1', () => undefined)],
  }),
  exit: defineProgram({
    ...common,
    name: 'exit',
    tasks: [adder, task('quitter', () => process.exit(7))],
  }),
  'endless loop': defineProgram({
    ...common,
    name: 'endless loop',
    tasks: [
      adder,
      task('looper', (cpu, world) => {
        addOne(cpu, world);
        for (;;);
      }),
    ],
  }),
};

export const program = PROGRAMS[decodeURIComponent(new URL(import.meta.url).search.slice(1))];
