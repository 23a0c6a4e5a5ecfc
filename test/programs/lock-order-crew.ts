/**
 * Two mutexes in an order on one CPU, and in the other on another, one after the other: they never deadlock.
 *
 * @module
 */
import { park, readOnce, unpark, writeOnce } from '#memory';

import { bug } from '../../src/base/bug.js';
import type { Cpu } from '../../src/machine/cpu.js';
import { EVERYBODY } from '../../src/machine/limits.js';
import { lockClass } from '../../src/machine/lock-class.js';
import { checkHalted } from '../../src/machine/sched.js';
import { member, type Ptr, struct, word } from '../../src/memory/layout.js';
import { initMutex, Mutex, mutexLock, mutexUnlock } from '../../src/sync/mutex.js';
import { place } from '../support/machine.js';

export const OrderArena = struct('order_arena', {
  a: Mutex,
  b: Mutex,
  isDone: word, // the first CPU is through
});
export type OrderArena = Ptr<'order_arena'>;

const A = lockClass('crew->a');
const B = lockClass('crew->b');
/** Orders that each CPU learns, of as many classes. */
const CHAIN = 24;
const CHAIN_CLASSES = Array.from({ length: CHAIN }, (_, i) => lockClass(`crew->chain ${i}`));
const ROUNDS = 200;

export function setupOrders(cpu: Cpu): OrderArena {
  const arena = place(cpu, OrderArena);
  initMutex(cpu, member(arena, OrderArena.a), A);
  initMutex(cpu, member(arena, OrderArena.b), B);
  return arena;
}

function nest(cpu: Cpu, outer: Mutex, inner: Mutex): void {
  mutexLock(cpu, outer);
  mutexLock(cpu, inner);
  mutexUnlock(cpu, inner);
  mutexUnlock(cpu, outer);
}

export function forwards(cpu: Cpu, args: unknown): void {
  const arena = args as OrderArena;
  nest(cpu, member(arena, OrderArena.a), member(arena, OrderArena.b));
  writeOnce(cpu, arena, OrderArena.isDone, 1);
  unpark(cpu, arena, OrderArena.isDone, EVERYBODY);
}

export function backwards(cpu: Cpu, args: unknown): void {
  const arena = args as OrderArena;
  while (readOnce(cpu, arena, OrderArena.isDone) === 0) {
    park(cpu, arena, OrderArena.isDone, 0, Infinity);
    checkHalted(cpu);
  }
  nest(cpu, member(arena, OrderArena.b), member(arena, OrderArena.a));
}

export function backwardsAndDie(cpu: Cpu, args: unknown): void {
  backwards(cpu, args);
  bug('enough');
}

/** Takes locks of its own of many classes, always the lower inside of the higher. */
export function learn(cpu: Cpu): void {
  const locks = CHAIN_CLASSES.map((name) => {
    const lock = place(cpu, Mutex);
    initMutex(cpu, lock, name);
    return lock;
  });
  for (let round = 0; round < ROUNDS; round++) {
    const outer = 1 + ((round * 7 + cpu.id) % (CHAIN - 1));
    for (let inner = 0; inner < outer; inner++) nest(cpu, locks[inner]!, locks[outer]!);
  }
}
