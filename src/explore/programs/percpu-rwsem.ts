/**
 * The per-CPU read/write semaphore: a reader that is quick and one that is not, beside writers.
 *
 * A writer leaves the world in disorder within its section, so a reader beside it sees that.
 *
 * @module
 */
import { read, write } from '#memory';

import { bug } from '../../base/bug.js';
import {
  percpuDownRead,
  percpuDownWrite,
  percpuInitRwsem,
  PercpuRwsem,
  percpuUpRead,
  percpuUpWrite,
} from '../../deferred/percpu-rwsem.js';
import type { Cpu } from '../../machine/cpu.js';
import { lockClass } from '../../machine/lock-class.js';
import { kzalloc } from '../../machine/slab.js';
import { cacheline, member, type Ptr, struct, word } from '../../memory/layout.js';
import { defineProgram, type ExploreProgram, task } from '../program.js';

const World = struct('percpu_rwsem_world', {
  sem: PercpuRwsem,
  line1: cacheline,
  writer: word, // 1 + the CPU that writes; under sem
  line2: cacheline,
  writes: word, // sections of writers so far; under sem
});
type World = Ptr<'percpu_rwsem_world'>;

const SEM = lockClass('explored percpu_rwsem');

function setup(cpu: Cpu): number {
  const world = kzalloc(cpu, World);
  if (percpuInitRwsem(cpu, member(world, World.sem), SEM) !== 0) bug('no memory for counts');
  return world;
}

function writeSection(cpu: Cpu, at: number): void {
  const world = at as World;
  percpuDownWrite(cpu, member(world, World.sem));
  if (read(cpu, world, World.writer) !== 0) bug('INV-1: two writers');
  write(cpu, world, World.writer, cpu.id + 1);
  write(cpu, world, World.writes, read(cpu, world, World.writes) + 1);
  if (read(cpu, world, World.writer) !== cpu.id + 1) bug('INV-1: two writers');
  write(cpu, world, World.writer, 0);
  percpuUpWrite(cpu, member(world, World.sem));
}

function readSection(cpu: Cpu, at: number): void {
  const world = at as World;
  percpuDownRead(cpu, member(world, World.sem));
  if (read(cpu, world, World.writer) !== 0) bug('INV-1: a reader beside a writer');
  percpuUpRead(cpu, member(world, World.sem));
}

/** How many writers there are to be. */
const checkWrites =
  (writers: number) =>
  (cpu: Cpu, at: number): string | undefined => {
    const writes = read(cpu, at as World, World.writes);
    return writes === writers
      ? undefined
      : `INV-39: ${writers} writers have made ${writes} changes`;
  };

export const PERCPU_RWSEM_PROGRAMS: readonly ExploreProgram[] = [
  defineProgram({
    name: 'percpu-rwsem',
    title: 'a reader that may see no writer, beside a writer',
    ramBytes: 64 * 4096,
    tasks: [task('write', writeSection), task('read', readSection)],
    setup,
    check: checkWrites(1),
  }),
  defineProgram({
    name: 'percpu-rwsem-writers',
    title: 'a reader beside two writers, the second of which follows at once',
    ramBytes: 64 * 4096,
    tasks: [task('write', writeSection), task('write', writeSection), task('read', readSection)],
    setup,
    check: checkWrites(2),
  }),
];
