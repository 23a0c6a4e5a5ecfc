/**
 * The read/write semaphore: readers beside a writer, downgrade, hand-off, waits that a signal ends.
 *
 * A writer leaves the world in disorder within its section, so a reader beside it sees that. The spinlock
 * inside of the semaphore is taken in one step: spinlock.ts explores that.
 *
 * @module
 */
import { fetchAdd, read, readOnce, write } from '#memory';

import { bug } from '../../base/bug.js';
import { EINTR } from '../../base/errno.js';
import { type Cpu, cpuArea } from '../../machine/cpu.js';
import { lockClass } from '../../machine/lock-class.js';
import { sendSigkill } from '../../machine/sched.js';
import { kzalloc } from '../../machine/slab.js';
import { cacheline, member, type Ptr, struct, word } from '../../memory/layout.js';
import { listEmpty } from '../../memory/list.js';
import { complete, Completion, initCompletion, waitForCompletion } from '../../sync/completion.js';
import {
  downgradeWrite,
  downRead,
  downReadKillable,
  downWrite,
  downWriteKillable,
  initRwsem,
  Rwsem,
  rwsemIsReserved,
  upRead,
  upWrite,
} from '../../sync/rwsem.js';
import { defineProgram, type ExploreProgram, type ProgramTask, task } from '../program.js';

const World = struct('rwsem_world', {
  sem: Rwsem,
  line1: cacheline,
  writer: word, // 1 + the CPU that writes; under sem
  value: word, // the last one written: 1 + its CPU; under sem
  line2: cacheline,
  turns: word, // sections of writers so far; atomic
  line3: cacheline,
  reserved: word, // the barger saw that a waiter was next; written by it
  killed: word, // a killable wait was ended; atomic
  line4: cacheline,
  completion: Completion, // for a holder to wait for
});
type World = Ptr<'rwsem_world'>;

const SEM = lockClass('explored rwsem');
const COMPLETION = lockClass('rwsem program');
const RAM_BYTES = 64 * 4096;

function setup(cpu: Cpu): number {
  const world = kzalloc(cpu, World);
  initRwsem(cpu, member(world, World.sem), SEM);
  initCompletion(cpu, member(world, World.completion), COMPLETION);
  return world;
}

/** INV-4, and what each program may add. */
function check(cpu: Cpu, at: number): string | undefined {
  const sem = member(at as World, World.sem);
  const count = read(cpu, sem, Rwsem.count);
  if (count !== 0) return `INV-4: the count of an idle semaphore is ${count}`;
  if (!listEmpty(cpu, member(sem, Rwsem.waitList))) return 'INV-4: somebody is queued at rest';
  return undefined;
}

// --- sections ---

function useForWriting(cpu: Cpu, world: World): void {
  if (read(cpu, world, World.writer) !== 0) bug('INV-1: two writers');
  write(cpu, world, World.writer, cpu.id + 1);
  if (read(cpu, world, World.writer) !== cpu.id + 1) bug('INV-1: two writers');
  write(cpu, world, World.writer, 0);
}

function useForReading(cpu: Cpu, world: World): void {
  if (read(cpu, world, World.writer) !== 0) bug('INV-1: a reader beside a writer');
}

function writeSection(cpu: Cpu, at: number): void {
  const world = at as World;
  downWrite(cpu, member(world, World.sem));
  useForWriting(cpu, world);
  upWrite(cpu, member(world, World.sem));
}

function readSection(cpu: Cpu, at: number): void {
  const world = at as World;
  downRead(cpu, member(world, World.sem));
  useForReading(cpu, world);
  upRead(cpu, member(world, World.sem));
}

/** Writes, and goes on reading what it wrote. */
function writeThenRead(cpu: Cpu, at: number): void {
  const world = at as World;
  const sem = member(world, World.sem);
  downWrite(cpu, sem);
  write(cpu, world, World.value, cpu.id + 1);
  downgradeWrite(cpu, sem);
  if (read(cpu, world, World.value) !== cpu.id + 1) bug('INV-1: a writer came during a downgrade');
  upRead(cpu, sem);
}

function overwrite(cpu: Cpu, at: number): void {
  const world = at as World;
  downWrite(cpu, member(world, World.sem));
  write(cpu, world, World.value, cpu.id + 1);
  upWrite(cpu, member(world, World.sem));
}

// --- waits that a signal ends ---

const KILLED_READER = 1;
const KILLED_WRITER = 2;

/** True if the lock was not taken. */
function wasKilled(cpu: Cpu, world: World, error: number): boolean {
  if (error === 0) return false;
  if (error !== -EINTR) bug(`a killable wait answered ${error}`);
  fetchAdd(cpu, world, World.killed, 1);
  return true;
}

function killableRead(cpu: Cpu, at: number): void {
  const world = at as World;
  if (wasKilled(cpu, world, downReadKillable(cpu, member(world, World.sem)))) return;
  useForReading(cpu, world);
  upRead(cpu, member(world, World.sem));
}

function killableWrite(cpu: Cpu, at: number): void {
  const world = at as World;
  if (wasKilled(cpu, world, downWriteKillable(cpu, member(world, World.sem)))) return;
  useForWriting(cpu, world);
  upWrite(cpu, member(world, World.sem));
}

/** Kills two waiters while it holds what they wait for. */
function writeAndKill(cpu: Cpu, at: number): void {
  const world = at as World;
  downWrite(cpu, member(world, World.sem));
  sendSigkill(cpu, cpuArea(KILLED_WRITER));
  sendSigkill(cpu, cpuArea(KILLED_READER));
  upWrite(cpu, member(world, World.sem));
}

// --- hand-off ---

function countedWrite(cpu: Cpu, at: number): void {
  const world = at as World;
  downWrite(cpu, member(world, World.sem));
  fetchAdd(cpu, world, World.turns, 1);
  upWrite(cpu, member(world, World.sem));
}

/** Holds the lock until it is told to let go; nobody spins for it meanwhile. */
function holdAsleep(cpu: Cpu, at: number): void {
  const world = at as World;
  downWrite(cpu, member(world, World.sem));
  waitForCompletion(cpu, member(world, World.completion));
  upWrite(cpu, member(world, World.sem));
}

/** Has the lock given back, and must not overtake a waiter that has reserved it (INV-2). */
function barge(cpu: Cpu, at: number): void {
  const world = at as World;
  const sem = member(world, World.sem);
  const turns = readOnce(cpu, world, World.turns); // before the look: a turn in between is no offence
  const isReserved = rwsemIsReserved(cpu, sem);
  complete(cpu, member(world, World.completion));
  downWrite(cpu, sem);
  if (isReserved && readOnce(cpu, world, World.turns) === turns) {
    bug('INV-2: a writer has overtaken a waiter that had reserved the semaphore');
  }
  if (isReserved) write(cpu, world, World.reserved, 1);
  upWrite(cpu, sem);
}

/** What the programs have in common. */
function rwsemProgram(
  name: string,
  title: string,
  tasks: readonly ProgramTask[],
  more: Partial<ExploreProgram> = {},
): ExploreProgram {
  return defineProgram({ name, title, tasks, ramBytes: RAM_BYTES, setup, check, ...more });
}

export const RWSEM_PROGRAMS: readonly ExploreProgram[] = [
  rwsemProgram('rwsem', 'one writer and two readers', [
    task('writer', writeSection),
    task('reader', readSection),
    task('reader', readSection),
  ]),
  rwsemProgram('rwsem-writers', 'a reader and two writers', [
    task('writer', writeSection),
    task('writer', writeSection),
    task('reader', readSection),
  ]),
  rwsemProgram('rwsem-downgrade', 'a writer goes on as a reader while others wait', [
    task('downgrader', writeThenRead),
    task('writer', overwrite),
    task('reader', readSection),
  ]),
  rwsemProgram(
    'rwsem-killable',
    'signals meet the grant of the lock; nobody behind a killed waiter is forgotten',
    [
      task('holder', writeAndKill),
      task('killable reader', killableRead),
      task('killable writer', killableWrite),
      task('reader', readSection),
    ],
    {
      observe: (cpu, at) => `${read(cpu, at as World, World.killed)} killed`,
      outcomes: [
        { name: '0 killed', grade: 'ACCEPTABLE', description: 'the lock came before the signals' },
        { name: '1 killed', grade: 'ACCEPTABLE', description: 'one waiter was not served' },
        { name: '2 killed', grade: 'INTERESTING', description: 'both left the queue' },
      ],
    },
  ),
  rwsemProgram(
    'rwsem-handoff',
    'a waiter whose time has come is not overtaken',
    [task('holder', holdAsleep), task('waiter', countedWrite), task('barger', barge)],
    {
      tickMs: 5, // more than a waiter is patient for
      observe: (cpu, at) =>
        read(cpu, at as World, World.reserved) !== 0 ? 'reserved' : 'not reserved',
      outcomes: [
        { name: 'not reserved', grade: 'ACCEPTABLE', description: 'nobody had to ask' },
        { name: 'reserved', grade: 'INTERESTING', description: 'the barger came after who asked' },
      ],
    },
  ),
];
