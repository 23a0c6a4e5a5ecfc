/**
 * The mutex: mutual exclusion, lost wake-ups, hand-off to who was woken in vain, waits that a signal ends;
 * and two mutexes in opposite orders, to show what a deadlock looks like.
 *
 * The spinlock inside of it is taken in one step: spinlock.ts explores that.
 *
 * @module
 */
import { read, write } from '#memory';

import { bug } from '../../base/bug.js';
import { EINTR } from '../../base/errno.js';
import { type Cpu, cpuArea } from '../../machine/cpu.js';
import { lockClass } from '../../machine/lock-class.js';
import { sendSigkill } from '../../machine/sched.js';
import { kzalloc } from '../../machine/slab.js';
import { cacheline, member, type Ptr, struct, word } from '../../memory/layout.js';
import { listEmpty } from '../../memory/list.js';
import { complete, Completion, initCompletion, waitForCompletion } from '../../sync/completion.js';
import { initMutex, Mutex, mutexLock, mutexLockKillable, mutexUnlock } from '../../sync/mutex.js';
import { defineProgram, reach, task } from '../program.js';

const World = struct('mutex_world', {
  mutex: Mutex,
  line1: cacheline,
  owner: word, // 1 + the CPU in the section; under mutex
  line2: cacheline,
  killed: word, // the killable wait was ended; written by its task
  line3: cacheline,
  inner: Mutex, // for a second lock
  line4: cacheline,
  completion: Completion, // for an owner to wait for
});
type World = Ptr<'mutex_world'>;

const MUTEX = lockClass('explored mutex');
const INNER = lockClass('second mutex');
const COMPLETION = lockClass('mutex program');
const RAM_BYTES = 64 * 4096;

function setup(cpu: Cpu): number {
  const world = kzalloc(cpu, World);
  initMutex(cpu, member(world, World.mutex), MUTEX);
  initMutex(cpu, member(world, World.inner), INNER);
  initCompletion(cpu, member(world, World.completion), COMPLETION);
  return world;
}

/** What is done under the mutex. */
function useSection(cpu: Cpu, world: World): void {
  if (read(cpu, world, World.owner) !== 0) bug('two CPUs hold the mutex (I1)');
  write(cpu, world, World.owner, cpu.id + 1);
  if (read(cpu, world, World.owner) !== cpu.id + 1) bug('two CPUs hold the mutex (I1)');
  write(cpu, world, World.owner, 0);
}

function section(cpu: Cpu, at: number): void {
  const world = at as World;
  mutexLock(cpu, member(world, World.mutex));
  useSection(cpu, world);
  mutexUnlock(cpu, member(world, World.mutex));
}

function killableSection(cpu: Cpu, at: number): void {
  const world = at as World;
  const error = mutexLockKillable(cpu, member(world, World.mutex));
  if (error !== 0) {
    if (error !== -EINTR) bug(`mutexLockKillable answered ${error}`);
    write(cpu, world, World.killed, 1);
    return;
  }
  useSection(cpu, world);
  mutexUnlock(cpu, member(world, World.mutex));
}

/** Holds the mutex until somebody else is done. */
function sleepInside(cpu: Cpu, at: number): void {
  const world = at as World;
  mutexLock(cpu, member(world, World.mutex));
  useSection(cpu, world);
  waitForCompletion(cpu, member(world, World.completion));
  mutexUnlock(cpu, member(world, World.mutex));
}

function wake(cpu: Cpu, at: number): void {
  complete(cpu, member(at as World, World.completion));
}

function kill(cpu: Cpu): void {
  sendSigkill(cpu, cpuArea(0));
}

function check(cpu: Cpu, at: number): string | undefined {
  const world = at as World;
  for (const mutex of [member(world, World.mutex), member(world, World.inner)]) {
    const owner = read(cpu, mutex, Mutex.owner);
    if (owner !== 0) return `the mutex is not free at rest: owner word ${owner}`;
    if (!listEmpty(cpu, member(mutex, Mutex.waitList))) return 'somebody is queued at rest';
  }
  return undefined;
}

export const mutex = defineProgram({
  name: 'mutex',
  title: 'two CPUs take one mutex',
  tasks: [task('first', section), task('second', section)],
  ramBytes: RAM_BYTES,
  setup,
  check,
});

export const mutexHandoff = defineProgram({
  name: 'mutex-handoff',
  title: 'a CPU that comes back may overtake a waiter once, and not twice',
  tasks: [
    {
      name: 'comes back',
      operations: [
        { name: 'sleep inside', run: sleepInside },
        { name: 'section', run: section },
      ],
    },
    task('waiter', section),
    {
      name: 'waker',
      operations: [
        { name: 'wake', run: wake },
        { name: 'section', run: section },
      ],
    },
  ],
  ramBytes: RAM_BYTES,
  setup,
  check,
});

export const mutexSleeper = defineProgram({
  name: 'mutex-sleeper',
  title: 'the owner sleeps, so the other does not spin for it but queues',
  tasks: [task('sleeps inside', sleepInside), task('second', section), task('waker', wake)],
  ramBytes: RAM_BYTES,
  setup,
  check,
});

export const mutexKillable = defineProgram({
  name: 'mutex-killable',
  title: 'a signal meets the hand-over of the mutex',
  tasks: [task('killable', killableSection), task('other', section), task('killer', kill)],
  ramBytes: RAM_BYTES,
  setup,
  check,
  observe: (cpu, at) => (read(cpu, at as World, World.killed) !== 0 ? 'killed' : 'taken'),
  outcomes: [
    { name: 'taken', grade: 'ACCEPTABLE', description: 'the mutex came before the signal' },
    { name: 'killed', grade: 'INTERESTING', description: 'the signal ended the wait' },
  ],
});

function outerFirst(cpu: Cpu, at: number): void {
  const world = at as World;
  mutexLock(cpu, member(world, World.mutex));
  reach(cpu, 'A is held');
  mutexLock(cpu, member(world, World.inner));
  mutexUnlock(cpu, member(world, World.inner));
  mutexUnlock(cpu, member(world, World.mutex));
}

function innerFirst(cpu: Cpu, at: number): void {
  const world = at as World;
  mutexLock(cpu, member(world, World.inner));
  reach(cpu, 'B is held');
  mutexLock(cpu, member(world, World.mutex));
  mutexUnlock(cpu, member(world, World.mutex));
  mutexUnlock(cpu, member(world, World.inner));
}

export const abba = defineProgram({
  name: 'abba',
  title: 'two mutexes, taken in opposite orders: a deadlock to look at',
  isBroken: true,
  tasks: [task('A then B', outerFirst), task('B then A', innerFirst)],
  ramBytes: RAM_BYTES,
  setup,
  check,
  window: { order: ['A is held', 'B is held', 'A is held'] },
});
