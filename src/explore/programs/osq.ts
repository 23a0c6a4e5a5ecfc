/**
 * The queue of optimistic spinners: one at a time, and nobody who leaves breaks the chain.
 *
 * @module
 */
import { fetchAdd, read, write } from '#memory';

import { bug } from '../../base/bug.js';
import type { Cpu } from '../../machine/cpu.js';
import { kzalloc } from '../../machine/slab.js';
import { cacheline, member, type Ptr, struct, word } from '../../memory/layout.js';
import { OptimisticSpinQueue, osqLock, osqUnlock } from '../../sync/optimistic-spin-queue.js';
import { defineProgram, task } from '../program.js';

const World = struct('osq_world', {
  queue: OptimisticSpinQueue,
  line1: cacheline,
  owner: word, // 1 + the CPU whose turn it is; written by that one
  line2: cacheline,
  left: word, // gave up; atomic
});
type World = Ptr<'osq_world'>;

function spin(cpu: Cpu, at: number): void {
  const world = at as World;
  const queue = member(world, World.queue);
  if (!osqLock(cpu, queue)) {
    fetchAdd(cpu, world, World.left, 1);
    return;
  }
  if (read(cpu, world, World.owner) !== 0) bug('two CPUs have the turn (I1)');
  write(cpu, world, World.owner, cpu.id + 1);
  if (read(cpu, world, World.owner) !== cpu.id + 1) bug('two CPUs have the turn (I1)');
  write(cpu, world, World.owner, 0);
  osqUnlock(cpu, queue);
}

function check(cpu: Cpu, at: number): string | undefined {
  const queue = member(at as World, World.queue);
  const tail = read(cpu, queue, OptimisticSpinQueue.tail);
  return tail === 0 ? undefined : 'the queue names a tail at rest: nobody will ever get the turn';
}

export const osq = defineProgram({
  name: 'osq',
  title: 'three spinners queue; some give up',
  tasks: [task('first', spin), task('second', spin), task('third', spin)],
  ramBytes: 64 * 4096,
  setup: (cpu) => kzalloc(cpu, World),
  check,
  observe: (cpu, at) => `${read(cpu, at as World, World.left)} gave up`,
  outcomes: [
    { name: '0 gave up', grade: 'ACCEPTABLE', description: 'one after the other' },
    { name: '1 gave up', grade: 'ACCEPTABLE', description: 'one left the queue' },
    { name: '2 gave up', grade: 'INTERESTING', description: 'two left, perhaps at once' },
  ],
});
