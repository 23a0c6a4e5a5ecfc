/**
 * Wait queues: no wake-up is lost, not even one that meets a sleeper which a signal has woken already.
 *
 * Two sleepers want one token, of which one may be killed. Each wake-up is for one of them: who was awake
 * already must not use it up. And who leaves because of a signal may have been chosen just before: it leaves
 * the queue first and then looks for the token once more, or the wake-up is lost with it.
 *
 * @module
 */
import { cmpxchg, read, readOnce, write } from '#memory';

import { type Cpu, cpuArea } from '../../machine/cpu.js';
import { lockClass } from '../../machine/lock-class.js';
import {
  schedule,
  sendSigkill,
  signalPendingState,
  TASK_KILLABLE,
  TASK_UNINTERRUPTIBLE,
} from '../../machine/sched.js';
import { kzalloc } from '../../machine/slab.js';
import { WAIT_QUEUE } from '../../machine/wait-kind.js';
import { cacheline, member, type Ptr, struct, word } from '../../memory/layout.js';
import { listEmpty } from '../../memory/list.js';
import {
  finishWait,
  initWait,
  initWaitQueue,
  prepareToWaitExclusive,
  WaitQueue,
  wakeUp,
} from '../../sync/wait-queue.js';
import { defineProgram, task } from '../program.js';

const World = struct('wait_queue_world', {
  queue: WaitQueue,
  line1: cacheline,
  token: word, // 1: it is there to be taken; atomic
  line2: cacheline,
  killed: word, // the killable sleeper left without it; written by that one
});
type World = Ptr<'wait_queue_world'>;

const QUEUE = lockClass('explored wait queue');
const KILLED = 0;

function setup(cpu: Cpu): number {
  const world = kzalloc(cpu, World);
  initWaitQueue(cpu, member(world, World.queue), QUEUE);
  return world;
}

/** Sleeps until it has the token; false if a signal came first. */
function takeToken(cpu: Cpu, world: World, state: number): boolean {
  const queue = member(world, World.queue);
  const wait = initWait(cpu, WAIT_QUEUE, queue);
  let isTaken = false;
  for (;;) {
    prepareToWaitExclusive(cpu, queue, wait, state);
    isTaken = tryToken(cpu, world);
    if (isTaken || signalPendingState(cpu, state)) break;
    schedule(cpu);
  }
  finishWait(cpu, queue, wait);
  return isTaken || tryToken(cpu, world);
}

function tryToken(cpu: Cpu, world: World): boolean {
  return readOnce(cpu, world, World.token) !== 0 && cmpxchg(cpu, world, World.token, 1, 0) === 1;
}

function putToken(cpu: Cpu, at: number): void {
  const world = at as World;
  cmpxchg(cpu, world, World.token, 0, 1);
  wakeUp(cpu, member(world, World.queue));
}

/** Passes the token on, if it gets it. */
function takeAndPass(cpu: Cpu, at: number): void {
  const world = at as World;
  if (takeToken(cpu, world, TASK_KILLABLE)) putToken(cpu, world);
  else write(cpu, world, World.killed, 1);
}

function takeForGood(cpu: Cpu, at: number): void {
  takeToken(cpu, at as World, TASK_UNINTERRUPTIBLE);
}

function kill(cpu: Cpu): void {
  sendSigkill(cpu, cpuArea(KILLED));
}

function check(cpu: Cpu, at: number): string | undefined {
  const world = at as World;
  const head = member(member(world, World.queue), WaitQueue.head);
  return listEmpty(cpu, head) ? undefined : 'somebody is queued at rest';
}

export const waitQueue = defineProgram({
  name: 'wait-queue',
  title: 'a wake-up meets a sleeper that a signal has woken',
  tasks: [
    task('killable', takeAndPass),
    task('sleeper', takeForGood),
    {
      name: 'waker',
      operations: [
        { name: 'kill', run: kill },
        { name: 'put the token', run: putToken },
      ],
    },
  ],
  ramBytes: 64 * 4096,
  setup,
  check,
  observe: (cpu, at) => (read(cpu, at as World, World.killed) !== 0 ? 'killed' : 'passed on'),
  outcomes: [
    { name: 'passed on', grade: 'ACCEPTABLE', description: 'the token went through both' },
    { name: 'killed', grade: 'ACCEPTABLE', description: 'one left, the other has the token' },
  ],
});
