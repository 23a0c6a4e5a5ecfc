/**
 * Targets `completion` and `wait_queue`: some wait, one says that something is there.
 *
 * Protocol   waiter                              server
 *              asked += 1                          answered < asked: answered += 1, and then
 *              wait for one                          complete, or put a token there and wake
 *              taken += 1
 * Invariant  I1  Nobody goes on without a complete() of its own, or a token: taken never exceeds answered, and
 *                nothing is left over at the end (INV-40).
 *            I2  No wake-up is lost: who is answered goes on.
 *
 * @module
 */
import { cmpxchg, fetchAdd, read, readOnce } from '#memory';

import { bug } from '../../base/bug.js';
import type { Cpu } from '../../machine/cpu.js';
import { lockClass } from '../../machine/lock-class.js';
import { schedule, TASK_UNINTERRUPTIBLE } from '../../machine/sched.js';
import { kfree, kzalloc } from '../../machine/slab.js';
import { WAIT_QUEUE } from '../../machine/wait-kind.js';
import { cacheline, member as at, type Ptr, struct, word } from '../../memory/layout.js';
import {
  complete,
  Completion,
  initCompletion,
  tryWaitForCompletion,
  waitForCompletion,
  waitForCompletionTimeout,
} from '../../sync/completion.js';
import {
  finishWait,
  initWait,
  initWaitQueue,
  prepareToWaitExclusive,
  WaitQueue,
  wakeUp,
} from '../../sync/wait-queue.js';
import type { TortureMember, TortureTarget } from '../target.js';

const World = struct('torture_waiting', {
  completion: Completion,
  line1: cacheline,
  queue: WaitQueue,
  tokens: word, // put there and not taken; compared and exchanged
  line2: cacheline,
  asked: word, // atomic, as are the next two
  line3: cacheline,
  answered: word,
  line4: cacheline,
  taken: word,
});
type World = Ptr<'torture_waiting'>;

const WAIT = 0;
const TIMED = 1;
const ANSWER = 2;

/** One wait in so many ends by itself and begins anew. */
const TIMED_ONE_IN = 8;
const TIMEOUT_MS = 0.2;
/** Answers that a server gives at once at most. */
const ANSWERS_MAX = 16;
const COMPLETION = lockClass('torture_completion');
const QUEUE = lockClass('torture_wait_queue');

/** What differs between the two. */
interface Waiting {
  readonly name: string;
  readonly title: string;
  readonly busted: readonly string[];
  /** Returns when this CPU has been answered. */
  readonly wait: (cpu: Cpu, world: World) => void;
  /** As above, with a limit; false if that has passed. */
  readonly waitTimed?: (cpu: Cpu, world: World) => boolean;
  readonly answer: (cpu: Cpu, world: World) => void;
  /** What is left over, when all have been answered. */
  readonly leftOver: (cpu: Cpu, world: World) => number;
}

function waitingTarget(waiting: Waiting): TortureTarget {
  return {
    name: waiting.name,
    title: waiting.title,
    operations: ['wait', 'wait that began anew', 'answer'],
    services: ['server'],
    busted: waiting.busted,
    roles: ({ cpus }) => [...new Array<string>(Math.max(1, cpus - 1)).fill('waiter'), 'server'],
    setup(cpu) {
      const world = kzalloc(cpu, World);
      initCompletion(cpu, at(world, World.completion), COMPLETION);
      initWaitQueue(cpu, at(world, World.queue), QUEUE);
      return world;
    },
    enter: () => undefined,
    step(cpu, state, member) {
      if (member.role === 'server') answer(cpu, state as World, waiting, member);
      else ask(cpu, state as World, waiting, member);
    },
    leave: () => undefined,
    teardown(cpu, state) {
      const world = state as World;
      const left = waiting.leftOver(cpu, world);
      if (left !== 0) bug(`INV-40: ${waiting.name}: ${left} answers are left over`);
      kfree(cpu, World, world);
    },
  };
}

function ask(cpu: Cpu, world: World, waiting: Waiting, member: TortureMember): void {
  const start = member.now();
  fetchAdd(cpu, world, World.asked, 1);
  if (waiting.waitTimed !== undefined && member.random(TIMED_ONE_IN) === 0) {
    while (!waiting.waitTimed(cpu, world)) member.count(TIMED);
  } else {
    waiting.wait(cpu, world);
  }
  const taken = fetchAdd(cpu, world, World.taken, 1) + 1;
  const answered = readOnce(cpu, world, World.answered);
  if (taken > answered) {
    member.fail(`${waiting.name}: ${taken} waits have ended, with ${answered} answers`, 'INV-40');
  }
  member.waited(member.now() - start);
  member.noise(cpu);
  member.count(WAIT);
}

function answer(cpu: Cpu, world: World, waiting: Waiting, member: TortureMember): void {
  for (let i = 0; i < ANSWERS_MAX; i++) {
    const answered = readOnce(cpu, world, World.answered);
    if (answered >= readOnce(cpu, world, World.asked)) return;
    fetchAdd(cpu, world, World.answered, 1);
    waiting.answer(cpu, world);
    member.count(ANSWER);
  }
}

export const completionTarget = waitingTarget({
  name: 'completion',
  title: 'completion: many waiters of one, with and without a limit',
  busted: ['busted-completion', 'busted-completion-unlocked'],
  wait: (cpu, world) => {
    waitForCompletion(cpu, at(world, World.completion));
  },
  waitTimed: (cpu, world) => waitForCompletionTimeout(cpu, at(world, World.completion), TIMEOUT_MS),
  answer: (cpu, world) => {
    complete(cpu, at(world, World.completion));
  },
  leftOver(cpu, world) {
    let left = 0;
    while (tryWaitForCompletion(cpu, at(world, World.completion))) left++;
    return left;
  },
});

export const waitQueueTarget = waitingTarget({
  name: 'wait_queue',
  title: 'wait queue: exclusive sleepers that take tokens',
  busted: ['busted-wait-queue'],
  wait: waitForToken,
  answer(cpu, world) {
    fetchAdd(cpu, world, World.tokens, 1);
    wakeUp(cpu, at(world, World.queue));
  },
  leftOver: (cpu, world) => read(cpu, world, World.tokens),
});

function waitForToken(cpu: Cpu, world: World): void {
  const queue = at(world, World.queue);
  const wait = initWait(cpu, WAIT_QUEUE, queue);
  for (;;) {
    prepareToWaitExclusive(cpu, queue, wait, TASK_UNINTERRUPTIBLE);
    if (takeToken(cpu, world)) break;
    schedule(cpu);
  }
  finishWait(cpu, queue, wait);
  // a wake-up that came while this one was on its way is another's
  if (readOnce(cpu, world, World.tokens) > 0) wakeUp(cpu, queue);
}

function takeToken(cpu: Cpu, world: World): boolean {
  let seen = readOnce(cpu, world, World.tokens);
  while (seen > 0) {
    const before = cmpxchg(cpu, world, World.tokens, seen, seen - 1);
    if (before === seen) return true;
    seen = before;
  }
  return false;
}
