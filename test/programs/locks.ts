/**
 * Programs that hammer one lock each: every CPU runs one of these on the same shared struct.
 *
 * @module
 */
import { read, write } from '#memory';

import { type Cpu } from '../../src/machine/cpu.js';
import { lockClass } from '../../src/machine/lock-class.js';
import { allocPercpu } from '../../src/machine/percpu.js';
import { CACHELINE_WORDS, member, type Ptr, struct, word } from '../../src/memory/layout.js';
import { initMutex, Mutex, mutexLock, mutexUnlock } from '../../src/sync/mutex.js';
import { downRead, downWrite, initRwsem, Rwsem, upRead, upWrite } from '../../src/sync/rwsem.js';
import { initSpinlock, Spinlock, spinLock, spinUnlock } from '../../src/sync/spinlock.js';

/** What the locks protect: two counters that are equal outside every critical section. */
export const Arena = struct('test_arena', {
  spinlock: Spinlock,
  mutex: Mutex,
  rwsem: Rwsem,
  left: word,
  right: word,
  handovers: word, // sections entered by another CPU than the last one
  last: word,
});
export type Arena = Ptr<'test_arena'>;

const LOCK = lockClass('arena->lock');

/** Makes the arena in the boot CPU's part of the per-CPU region. */
export function setupArena(cpu: Cpu): Arena {
  const offset = allocPercpu(cpu, Arena.words + CACHELINE_WORDS);
  const arena = (cpu.percpu + offset) as Arena;
  initSpinlock(cpu, member(arena, Arena.spinlock), LOCK);
  initMutex(cpu, member(arena, Arena.mutex), LOCK);
  initRwsem(cpu, member(arena, Arena.rwsem), LOCK);
  return arena;
}

export const ROUNDS = 20_000;

/** A critical section that another CPU inside would disturb; returns whether it was disturbed. */
function section(cpu: Cpu, arena: Arena): boolean {
  const left = read(cpu, arena, Arena.left);
  const torn = left !== read(cpu, arena, Arena.right);
  write(cpu, arena, Arena.left, left + 1);
  if (read(cpu, arena, Arena.last) !== cpu.id) {
    write(cpu, arena, Arena.last, cpu.id);
    write(cpu, arena, Arena.handovers, read(cpu, arena, Arena.handovers) + 1);
  }
  write(cpu, arena, Arena.right, left + 1);
  return torn;
}

export function noLock(cpu: Cpu, arena: Arena): number {
  let torn = 0;
  for (let i = 0; i < ROUNDS; i++) torn += section(cpu, arena) ? 1 : 0;
  return torn;
}

export function spinlock(cpu: Cpu, arena: Arena): number {
  const lock = member(arena, Arena.spinlock);
  let torn = 0;
  for (let i = 0; i < ROUNDS; i++) {
    spinLock(cpu, lock);
    torn += section(cpu, arena) ? 1 : 0;
    spinUnlock(cpu, lock);
  }
  return torn;
}

export function mutex(cpu: Cpu, arena: Arena): number {
  const lock = member(arena, Arena.mutex);
  let torn = 0;
  for (let i = 0; i < ROUNDS; i++) {
    mutexLock(cpu, lock);
    torn += section(cpu, arena) ? 1 : 0;
    mutexUnlock(cpu, lock);
  }
  return torn;
}

export function rwsemWriter(cpu: Cpu, arena: Arena): number {
  const sem = member(arena, Arena.rwsem);
  let torn = 0;
  for (let i = 0; i < ROUNDS; i++) {
    downWrite(cpu, sem);
    torn += section(cpu, arena) ? 1 : 0;
    upWrite(cpu, sem);
  }
  return torn;
}

export function rwsemReader(cpu: Cpu, arena: Arena): number {
  const sem = member(arena, Arena.rwsem);
  let torn = 0;
  for (let i = 0; i < ROUNDS; i++) {
    downRead(cpu, sem);
    if (read(cpu, arena, Arena.left) !== read(cpu, arena, Arena.right)) torn++;
    upRead(cpu, sem);
  }
  return torn;
}
