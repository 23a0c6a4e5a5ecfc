/**
 * The spinlock from the inside: mutual exclusion, and that whoever parks is woken.
 *
 * Three tasks, one section each: with one holder and two waiters an unlock must leave word of the second.
 *
 * @module
 */
import { read, write } from '#memory';

import { bug } from '../../base/bug.js';
import type { Cpu } from '../../machine/cpu.js';
import { lockClass } from '../../machine/lock-class.js';
import { kzalloc } from '../../machine/slab.js';
import { cacheline, member, type Ptr, struct, word } from '../../memory/layout.js';
import { initSpinlock, Spinlock, spinLock, spinUnlock } from '../../sync/spinlock.js';
import { defineProgram, task } from '../program.js';

const World = struct('spinlock_world', {
  lock: Spinlock,
  line1: cacheline,
  owner: word, // 1 + the CPU in the section; under lock
  sections: word, // made so far; under lock
});
type World = Ptr<'spinlock_world'>;

const LOCK = lockClass('explored spinlock');
const TASKS = 3;

function setup(cpu: Cpu): number {
  const world = kzalloc(cpu, World);
  initSpinlock(cpu, member(world, World.lock), LOCK);
  return world;
}

function section(cpu: Cpu, at: number): void {
  const world = at as World;
  const lock = member(world, World.lock);
  spinLock(cpu, lock);
  if (read(cpu, world, World.owner) !== 0) bug('two CPUs hold the spinlock (I1)');
  write(cpu, world, World.owner, cpu.id + 1);
  write(cpu, world, World.sections, read(cpu, world, World.sections) + 1);
  if (read(cpu, world, World.owner) !== cpu.id + 1) bug('two CPUs hold the spinlock (I1)');
  write(cpu, world, World.owner, 0);
  spinUnlock(cpu, lock);
}

function check(cpu: Cpu, at: number): string | undefined {
  const world = at as World;
  if (read(cpu, member(world, World.lock), Spinlock.value) !== 0) return 'the lock is held at rest';
  const sections = read(cpu, world, World.sections);
  return sections <= TASKS ? undefined : `${sections} sections were counted`;
}

export const spinlock = defineProgram({
  name: 'spinlock',
  title: 'three CPUs take one spinlock; two may be parked',
  tasks: [task('first', section), task('second', section), task('third', section)],
  ramBytes: 64 * 4096,
  modelsLocks: false,
  setup,
  check,
});
