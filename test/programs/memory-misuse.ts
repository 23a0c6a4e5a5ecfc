/**
 * Programs that use memory as it must not be used, each in its own way.
 *
 * @module
 */
import {
  assertExclusiveWriter,
  fetchAdd,
  read,
  readOnce,
  storeRelease,
  write,
  writeOnce,
} from '#memory';

import type { Cpu } from '../../src/machine/cpu.js';
import { frameWord } from '../../src/machine/frame.js';
import { allocPage, frameOf, freePage } from '../../src/machine/page-alloc.js';
import { cpuRelax } from '../../src/machine/sched.js';
import { kfree, kzalloc } from '../../src/machine/slab.js';
import { type Field, member, type Ptr, struct, word, words } from '../../src/memory/layout.js';
import { Spinlock, spinLock, spinUnlock } from '../../src/sync/spinlock.js';

/** An object of exactly two lines: only a redzone comes behind it. */
export const Misused = struct('misused', { state: word, count: word, data: words(30) });
export type Misused = Ptr<'misused'>;

export const MisuseArena = struct('misuse_arena', {
  lock: Spinlock,
  shared: word, // an object that is on its way from one CPU to another
  turn: word,
  count: word, // under the lock, or so it should be
  gone: word, // CPUs that have come to the end
});
export type MisuseArena = Ptr<'misuse_arena'>;

const ROUNDS = 2000;

/** All count under the lock. */
export function countLocked(cpu: Cpu, arena: MisuseArena): void {
  for (let round = 0; round < ROUNDS; round++) {
    const lock = member(arena, MisuseArena.lock);
    spinLock(cpu, lock);
    write(cpu, arena, MisuseArena.count, read(cpu, arena, MisuseArena.count) + 1);
    spinUnlock(cpu, lock);
  }
}

/** As countLocked, but now and then without the lock. */
export function countCarelessly(cpu: Cpu, arena: MisuseArena): void {
  for (let round = 0; round < ROUNDS; round++) {
    if (round % 10 === 0) countOnce(cpu, arena);
    const lock = member(arena, MisuseArena.lock);
    spinLock(cpu, lock);
    countOnce(cpu, arena);
    spinUnlock(cpu, lock);
  }
}

function countOnce(cpu: Cpu, arena: MisuseArena): void {
  write(cpu, arena, MisuseArena.count, read(cpu, arena, MisuseArena.count) + 1);
}

/** CPU 0 is sure that nobody stores; CPU 1 does, marked, which would be no race with a marked load. */
export function countAlone(cpu: Cpu, arena: MisuseArena): void {
  for (let round = 0; round < ROUNDS; round++) {
    if (cpu.id === 0) assertExclusiveWriter(cpu, arena, MisuseArena.count);
    else writeOnce(cpu, arena, MisuseArena.count, round);
  }
}

/** CPU 0 makes an object and hands it on; CPU 1 gives it back; CPU 0 looks at it again. */
export function useAfterFree(cpu: Cpu, arena: MisuseArena): void {
  if (cpu.id === 0) handOn(cpu, arena);
  awaitTurn(cpu, arena, cpu.id + 1);
  const object = read(cpu, arena, MisuseArena.shared) as Misused;
  if (cpu.id === 0) lookAt(cpu, object);
  else giveBack(cpu, object);
  storeRelease(cpu, arena, MisuseArena.turn, 1);
}

function handOn(cpu: Cpu, arena: MisuseArena): void {
  write(cpu, arena, MisuseArena.shared, kzalloc(cpu, Misused));
  storeRelease(cpu, arena, MisuseArena.turn, 2);
}

function giveBack(cpu: Cpu, object: Misused): void {
  kfree(cpu, Misused, object);
}

function lookAt(cpu: Cpu, object: Misused): void {
  readOnce(cpu, object, Misused.count);
}

function awaitTurn(cpu: Cpu, arena: MisuseArena, turn: number): void {
  for (let spins = 0; readOnce(cpu, arena, MisuseArena.turn) !== turn; spins++)
    cpuRelax(cpu, spins);
}

/** The object is given back while somebody may be looking at it, though nobody is. */
export function freeUnordered(cpu: Cpu, arena: MisuseArena): void {
  if (cpu.id === 0) handOn(cpu, arena);
  if (cpu.id === 1) {
    awaitTurn(cpu, arena, 2);
    const object = read(cpu, arena, MisuseArena.shared) as Misused;
    read(cpu, object, Misused.state);
    writeOnce(cpu, arena, MisuseArena.turn, 3); // should be a store-release
  } else {
    awaitTurn(cpu, arena, 3);
    giveBack(cpu, read(cpu, arena, MisuseArena.shared) as Misused);
  }
}

export function writeBehind(cpu: Cpu, _arena: MisuseArena): void {
  const object = kzalloc(cpu, Misused);
  write(cpu, object, Misused.words as Field<'misused'>, 1);
  kfree(cpu, Misused, object);
}

export function freeTwice(cpu: Cpu, _arena: MisuseArena): void {
  const object = kzalloc(cpu, Misused);
  const other = kzalloc(cpu, Misused);
  kfree(cpu, Misused, object);
  kfree(cpu, Misused, other);
  kfree(cpu, Misused, object);
}

/** Looks at a frame that it has given back. */
export function useFreeFrame(cpu: Cpu, arena: MisuseArena): void {
  const pfn = allocPage(cpu);
  freePage(cpu, pfn);
  if (cpu.id === 0) read(cpu, frameOf(cpu, pfn), frameWord(5));
  fetchAdd(cpu, arena, MisuseArena.gone, 1);
}

/** Makes two objects, and forgets one; and three frames. */
export function forgetOne(cpu: Cpu, arena: MisuseArena): void {
  const object = kzalloc(cpu, Misused);
  if (cpu.id === 0) {
    write(cpu, arena, MisuseArena.shared, kzalloc(cpu, Misused));
    for (let i = 0; i < 3; i++) allocPage(cpu);
  }
  kfree(cpu, Misused, object);
  fetchAdd(cpu, arena, MisuseArena.gone, 1);
}
