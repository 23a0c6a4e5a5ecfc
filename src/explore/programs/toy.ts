/**
 * Toy programs: a few operations on a few words, for testing the explorer itself.
 *
 * `toy-N` is made from the seed N. What a task has read it keeps in registers of the world, where nobody
 * else looks, so that the outcome tells which values everybody saw. Two strategies that are both complete
 * find the same outcomes of every toy.
 *
 * @module
 */
import {
  cmpxchg,
  fetchAdd,
  park,
  read,
  readOnce,
  relax,
  unpark,
  write,
  writeOnce,
  writeOwn,
} from '#memory';

import { bug } from '../../base/bug.js';
import { archSpinLock, archSpinTrylock, archSpinUnlock } from '../../machine/arch-spinlock.js';
import type { Cpu } from '../../machine/cpu.js';
import { kzalloc } from '../../machine/slab.js';
import { element, member, type Ptr, struct, words } from '../../memory/layout.js';
import { Spinlock } from '../../sync/spinlock.js';
import { defineProgram, type ExploreProgram, type Operation } from '../program.js';

const WORDS = 2;
const REGISTERS = 32;
const TASKS_MAX = 4;

const ToyWorld = struct('toy_world', {
  shared: words(WORDS),
  firstLock: Spinlock,
  secondLock: Spinlock,
  registers: words(TASKS_MAX * REGISTERS),
});
type ToyWorld = Ptr<'toy_world'>;

const TOY_OPS = [
  'load',
  'store',
  'add',
  'swap if 0',
  'lock',
  'unlock',
  'trylock',
  'park',
  'park for a time',
  'unpark',
  'await',
  'await or give up',
  'read',
  'write',
  'die if',
] as const;

/** Those that end a program early are drawn once in so many times. */
const ENDING: ReadonlySet<string> = new Set(['die if', 'park', 'await']);
const ENDING_ONCE_IN = 3;

/** One operation of a toy; `value` means what the operation makes of it. */
export interface ToyOp {
  readonly op: (typeof TOY_OPS)[number];
  readonly word: number;
  readonly value: number;
}

/** Turns of a loop that gives up. */
const PATIENCE = 2;

const wordOf = (op: ToyOp) => element(ToyWorld.shared, op.word);
const lockOf = (world: ToyWorld, op: ToyOp) =>
  op.word === 0 ? member(world, ToyWorld.firstLock) : member(world, ToyWorld.secondLock);

/** Makes the operation; returns what it saw. */
function toyStep(cpu: Cpu, world: ToyWorld, op: ToyOp): number {
  switch (op.op) {
    case 'load':
      return readOnce(cpu, world, wordOf(op));
    case 'store':
      writeOnce(cpu, world, wordOf(op), op.value);
      return 0;
    case 'add':
      return fetchAdd(cpu, world, wordOf(op), op.value);
    case 'swap if 0':
      return cmpxchg(cpu, world, wordOf(op), 0, op.value);
    case 'lock':
      archSpinLock(cpu, lockOf(world, op));
      return 1;
    case 'unlock':
      archSpinUnlock(cpu, lockOf(world, op));
      return 1;
    case 'trylock':
      if (!archSpinTrylock(cpu, lockOf(world, op))) return 0;
      archSpinUnlock(cpu, lockOf(world, op));
      return 1;
    case 'park':
      return park(cpu, world, wordOf(op), 0, Infinity) ? 1 : 0;
    case 'park for a time':
      return park(cpu, world, wordOf(op), 0, 1) ? 1 : 0;
    case 'unpark':
      return unpark(cpu, world, wordOf(op), op.value);
    case 'read':
      return read(cpu, world, wordOf(op));
    case 'write':
      write(cpu, world, wordOf(op), op.value);
      return 0;
    default:
      return toyLoop(cpu, world, op);
  }
}

function toyLoop(cpu: Cpu, world: ToyWorld, op: ToyOp): number {
  if (op.op === 'die if') {
    if (readOnce(cpu, world, wordOf(op)) === op.value) bug(`word ${op.word} is ${op.value}`);
    return 0;
  }
  for (let turns = 0; ; turns++) {
    const value = readOnce(cpu, world, wordOf(op));
    if (value !== 0) return value;
    if (op.op === 'await or give up' && turns === PATIENCE) return -1;
    relax(cpu);
  }
}

/** A program of these tasks. */
export function toyProgram(name: string, tasks: readonly (readonly ToyOp[])[]): ExploreProgram {
  const operation = (op: ToyOp, task: number, index: number): Operation => ({
    name: `${op.op} ${op.word} ${op.value}`,
    run: (cpu: Cpu, world: number) => {
      const seen = toyStep(cpu, world as ToyWorld, op);
      const register = task * REGISTERS + index;
      writeOwn(cpu, world as ToyWorld, element(ToyWorld.registers, register), seen + 2);
    },
  });
  return defineProgram({
    name,
    title: 'a small random program, for testing the explorer',
    tasks: tasks.map((ops, task) => ({
      name: `task ${task}`,
      operations: ops.map((op, index) => operation(op, task, index)),
    })),
    ramBytes: 32 * 4096,
    setup: (cpu) => kzalloc(cpu, ToyWorld),
    observe: (cpu, world) => observeToy(cpu, world as ToyWorld, tasks),
  });
}

function observeToy(cpu: Cpu, world: ToyWorld, tasks: readonly (readonly ToyOp[])[]): string {
  const values = Array.from({ length: WORDS }, (_, i) =>
    read(cpu, world, element(ToyWorld.shared, i)),
  );
  const seen = tasks.map((ops, task) =>
    ops
      .map((_, i) => {
        const value = read(cpu, world, element(ToyWorld.registers, task * REGISTERS + i));
        return value === 0 ? '-' : String(value - 2);
      })
      .join(' '),
  );
  return `${values.join(' ')} | ${seen.join(' | ')}`;
}

/** The toy `toy-N`; undefined for other names. */
export function toyNamed(name: string): ExploreProgram | undefined {
  const seed = /^toy-(\d{1,9})$/.exec(name)?.[1];
  return seed === undefined ? undefined : randomToy(Number(seed));
}

/** A toy from a seed: two or three tasks of two to four operations. */
function randomToy(seed: number): ExploreProgram {
  const random = mulberry(seed);
  const tasks = 2 + random(2);
  const longest = tasks === 2 ? 4 : 3;
  return toyProgram(
    `toy-${seed}`,
    Array.from({ length: tasks }, () => randomTask(random, 2 + random(longest - 1))),
  );
}

type Random = (below: number) => number;

function randomTask(random: Random, length: number): ToyOp[] {
  const ops: ToyOp[] = [];
  const held: number[] = [];
  while (ops.length < length) {
    const op = TOY_OPS[random(TOY_OPS.length)]!;
    if (ENDING.has(op) && random(ENDING_ONCE_IN) !== 0) continue;
    const word = random(WORDS);
    if (op === 'lock') {
      if (held.includes(word)) continue;
      held.push(word);
    } else if (op === 'unlock') {
      const lock = held.pop();
      if (lock === undefined) continue;
      ops.push({ op, word: lock, value: 0 });
      continue;
    }
    ops.push({ op, word, value: 1 + random(2) });
  }
  // who ends with a lock in its hands is a deadlock for others; leave some
  for (const word of random(4) === 0 ? [] : held.reverse()) {
    ops.push({ op: 'unlock', word, value: 0 });
  }
  return ops;
}

function mulberry(seed: number): Random {
  let state = seed | 0;
  return (below) => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) % below;
  };
}
