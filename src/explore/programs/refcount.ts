/**
 * Reference counts: exactly one of those who put is the last, and after it nobody gets a reference.
 *
 * @module
 */
import { exchange, read, readOnce } from '#memory';

import { bug } from '../../base/bug.js';
import type { Cpu } from '../../machine/cpu.js';
import { kzalloc } from '../../machine/slab.js';
import { warningCount } from '../../machine/warn.js';
import { cacheline, member, type Ptr, struct, word } from '../../memory/layout.js';
import {
  Refcount,
  refcountDecAndTest,
  refcountIncNotZero,
  refcountSet,
} from '../../sync/refcount.js';
import { defineProgram, task } from '../program.js';

const World = struct('refcount_world', {
  refs: Refcount, // of the object: two at the start
  line1: cacheline,
  freed: word, // 1: the last reference is gone; atomic
  line2: cacheline,
  got: word, // somebody got a reference from the count alone; atomic
});
type World = Ptr<'refcount_world'>;

function setup(cpu: Cpu): number {
  const world = kzalloc(cpu, World);
  refcountSet(cpu, member(world, World.refs), 2);
  return world;
}

function put(cpu: Cpu, at: number): void {
  const world = at as World;
  if (!refcountDecAndTest(cpu, member(world, World.refs))) return;
  if (exchange(cpu, world, World.freed, 1) !== 0) bug('the object is freed twice (I1)');
}

function getAndPut(cpu: Cpu, at: number): void {
  const world = at as World;
  if (!refcountIncNotZero(cpu, member(world, World.refs))) return;
  if (readOnce(cpu, world, World.freed) !== 0) bug('a reference to a freed object (I1)');
  exchange(cpu, world, World.got, 1);
  put(cpu, at);
}

function check(cpu: Cpu, at: number): string | undefined {
  const world = at as World;
  if (warningCount(cpu) !== 0) return 'the count has left its range';
  const refs = read(cpu, member(world, World.refs), Refcount.refs);
  const isFreed = read(cpu, world, World.freed) !== 0;
  if (isFreed !== (refs === 0)) return `${refs} references, and freed: ${isFreed}`;
  return undefined;
}

export const refcount = defineProgram({
  name: 'refcount',
  title: 'two references are put while somebody tries to get one',
  tasks: [task('put', put), task('put', put), task('get', getAndPut)],
  ramBytes: 64 * 4096,
  setup,
  check,
  observe: (cpu, at) => (read(cpu, at as World, World.got) !== 0 ? 'got one' : 'too late'),
  outcomes: [
    { name: 'got one', grade: 'ACCEPTABLE', description: 'and so it may be the last' },
    { name: 'too late', grade: 'ACCEPTABLE', description: 'the object was gone' },
  ],
});
