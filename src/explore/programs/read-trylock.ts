/**
 * LT-22: the OOM reaper tries the mmap lock, which a fault holds for reading and munmap waits for.
 *
 * A read/write semaphore refuses readers once somebody is queued, also those who only try: so that a queued
 * writer is not starved. A refusal does not say that a writer has the lock. The reaper must come again; who
 * takes the refusal for a sign that the address space is being taken down is wrong (lt-22-conclusion).
 *
 * @module
 */
import { read, readOnce, write, writeOnce } from '#memory';

import { bug } from '../../base/bug.js';
import type { Cpu } from '../../machine/cpu.js';
import { lockClass } from '../../machine/lock-class.js';
import { kzalloc } from '../../machine/slab.js';
import { cacheline, member, type Ptr, struct, word } from '../../memory/layout.js';
import {
  downRead,
  downReadTrylock,
  downWrite,
  initRwsem,
  Rwsem,
  upRead,
  upWrite,
} from '../../sync/rwsem.js';
import { defineProgram, type ExploreProgram, type Grade, reach, task } from '../program.js';

const World = struct('read_trylock_world', {
  sem: Rwsem,
  line1: cacheline,
  reading: word, // the fault has the lock; written by it
  line2: cacheline,
  writing: word, // munmap has the lock; under sem
  line3: cacheline,
  tried: word, // TAKEN, REFUSED, …; written by the reaper
});
type World = Ptr<'read_trylock_world'>;

const TAKEN = 1;
const REFUSED = 2;
const REFUSED_BESIDE_READER = 3;

const MMAP_LOCK = lockClass('mmap_lock');

function setup(cpu: Cpu): number {
  const world = kzalloc(cpu, World);
  initRwsem(cpu, member(world, World.sem), MMAP_LOCK);
  return world;
}

function fault(cpu: Cpu, at: number): void {
  const world = at as World;
  const sem = member(world, World.sem);
  downRead(cpu, sem);
  writeOnce(cpu, world, World.reading, 1);
  reach(cpu, 'fault reads');
  writeOnce(cpu, world, World.reading, 0);
  upRead(cpu, sem);
}

function munmap(cpu: Cpu, at: number): void {
  const world = at as World;
  const sem = member(world, World.sem);
  reach(cpu, 'writer comes');
  downWrite(cpu, sem);
  write(cpu, world, World.writing, 1);
  write(cpu, world, World.writing, 0);
  upWrite(cpu, sem);
}

function reap(cpu: Cpu, at: number): void {
  const world = at as World;
  const sem = member(world, World.sem);
  reach(cpu, 'reaper tries');
  const wasRead = readOnce(cpu, world, World.reading) !== 0;
  const isTaken = downReadTrylock(cpu, sem);
  // the fault takes the lock once: what it had before and after it had all the time
  const isRead = readOnce(cpu, world, World.reading) !== 0;
  write(cpu, world, World.tried, triedAs(isTaken, wasRead && isRead));
  reach(cpu, 'reaper has tried');
  if (!isTaken) return;
  if (read(cpu, world, World.writing) !== 0) bug('INV-1: the reaper reads beside a writer');
  upRead(cpu, sem);
}

function triedAs(isTaken: boolean, besideReader: boolean): number {
  if (isTaken) return TAKEN;
  return besideReader ? REFUSED_BESIDE_READER : REFUSED;
}

const NAMES: Readonly<Record<number, string>> = {
  [TAKEN]: 'taken',
  [REFUSED]: 'refused',
  [REFUSED_BESIDE_READER]: 'refused, only readers hold it',
};

function readTrylock(
  name: string,
  title: string,
  grade: Grade,
  description: string,
): ExploreProgram {
  return defineProgram({
    name,
    title,
    isBroken: grade === 'FORBIDDEN',
    tasks: [task('fault', fault), task('munmap', munmap), task('reaper', reap)],
    ramBytes: 64 * 4096,
    setup,
    check: (cpu, at) => {
      const count = read(cpu, member(at as World, World.sem), Rwsem.count);
      return count === 0 ? undefined : `INV-4: the count of an idle semaphore is ${count}`;
    },
    observe: (cpu, at) => NAMES[read(cpu, at as World, World.tried)] ?? 'not tried',
    outcomes: [
      { name: 'taken', grade: 'ACCEPTABLE', description: 'nobody held it for writing, or waited' },
      { name: 'refused', grade: 'ACCEPTABLE', description: 'a writer had it, or was about to' },
      { name: 'refused, only readers hold it', grade, description },
    ],
    window: {
      order: ['fault reads', 'writer comes', 'reaper tries', 'reaper has tried', 'fault reads'],
    },
  });
}

export const READ_TRYLOCK_PROGRAMS: readonly ExploreProgram[] = [
  readTrylock(
    'lt-22',
    'the reaper tries a lock that only readers hold, and a writer waits for',
    'INTERESTING',
    'a writer is queued: the reaper comes again later',
  ),
  readTrylock(
    'lt-22-conclusion',
    'the same, and the reaper takes a refusal for a writer that has the lock',
    'FORBIDDEN',
    'the reaper believes that a writer has the lock',
  ),
];
