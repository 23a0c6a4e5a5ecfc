/**
 * A CPU that does what the test tells it, one call at a time, so that a test can script who does what
 * and in which order, and see who blocks.
 *
 * @module
 */
import { fetchAdd, park, readOnce, unpark, write } from '#memory';

import { archSpinLock, archSpinTrylock, archSpinUnlock } from '../../src/machine/arch-spinlock.js';
import type { Cpu } from '../../src/machine/cpu.js';
import {
  beginWait,
  checkHalted,
  clearSignal,
  endWait,
  schedule,
  setCurrentState,
  signalPendingState,
} from '../../src/machine/sched.js';
import { tlbAttach, tlbEnter, tlbExit, tlbShootdown } from '../../src/machine/tlb.js';
import { WAIT_QUEUE, WAIT_ROUND } from '../../src/machine/wait-kind.js';
import { cacheline, type Ptr, struct, word } from '../../src/memory/layout.js';
import * as completion from '../../src/sync/completion.js';
import * as mutex from '../../src/sync/mutex.js';
import { osqLock, osqUnlock } from '../../src/sync/optimistic-spin-queue.js';
import * as rwsem from '../../src/sync/rwsem.js';
import * as seqcount from '../../src/sync/seqcount.js';
import * as seqlock from '../../src/sync/seqlock.js';
import { spinLock, spinTrylock, spinUnlock } from '../../src/sync/spinlock.js';
import type * as waitQueue from '../../src/sync/wait-queue.js';
import {
  finishWait,
  initWait,
  prepareToWait,
  prepareToWaitExclusive,
} from '../../src/sync/wait-queue.js';
import * as hmmSteps from './hmm-steps.js';

/** What to do next, and what came of it; the puppet's answers are on a line of their own. */
export const Mailbox = struct('mailbox', {
  asked: word, // counts requests
  op: word, // index into OPS
  object: word,
  argument: word,
  line1: cacheline,
  answered: word, // counts answers
  result: word,
  line2: cacheline,
});
export type Mailbox = Ptr<'mailbox'>;

type Op = (cpu: Cpu, object: never, argument: never) => number | boolean | undefined;

/** Sleeps once in a wait queue; the argument is the state, plus EXCLUSIVE. */
export const EXCLUSIVE = 0x1000;
function sleepInQueue(cpu: Cpu, queue: waitQueue.WaitQueue, argument: number): number {
  const state = argument & ~EXCLUSIVE;
  const wait = initWait(cpu, WAIT_QUEUE, queue);
  if ((argument & EXCLUSIVE) !== 0) prepareToWaitExclusive(cpu, queue, wait, state);
  else prepareToWait(cpu, queue, wait, state);
  if (!signalPendingState(cpu, state)) schedule(cpu);
  finishWait(cpu, queue, wait);
  return 0;
}

/** Sleeps in one queue while it is in another. */
function sleepInTwoQueues(
  cpu: Cpu,
  outer: waitQueue.WaitQueue,
  inner: waitQueue.WaitQueue,
): number {
  const wait = initWait(cpu, WAIT_QUEUE, outer);
  prepareToWait(cpu, outer, wait, 2);
  sleepInQueue(cpu, inner, 2);
  setCurrentState(cpu, 2);
  schedule(cpu);
  finishWait(cpu, outer, wait);
  return 0;
}

/** Everything a puppet can be asked for. */
export const OPS = {
  quit: () => 0,
  clearSignal,
  archSpinLock,
  archSpinTrylock,
  archSpinUnlock,
  spinLock,
  spinTrylock,
  spinUnlock,
  osqLock,
  osqUnlock,
  tlbAttach,
  tlbEnter,
  tlbExit,
  tlbShootdown,
  sleepInQueue,
  sleepInTwoQueues,
  ...completion,
  ...mutex,
  ...rwsem,
  ...seqcount,
  ...seqlock,
  ...hmmSteps.STEPS,
} as const;
export type OpName = keyof typeof OPS;

export const OP_NAMES = Object.keys(OPS) as OpName[];
const SLICE_MS = 100;

/** Does as it is asked until it is asked to quit. */
export function puppet(cpu: Cpu, mailboxes: readonly number[]): number {
  const mailbox = mailboxes[cpu.id] as Mailbox;
  for (let done = 0; ; done++) {
    beginWait(cpu, WAIT_ROUND, mailbox);
    while (readOnce(cpu, mailbox, Mailbox.asked) === done) {
      park(cpu, mailbox, Mailbox.asked, done, SLICE_MS);
      checkHalted(cpu);
    }
    endWait(cpu);
    const name = OP_NAMES[readOnce(cpu, mailbox, Mailbox.op)]!;
    const op = OPS[name] as unknown as Op;
    const object = readOnce(cpu, mailbox, Mailbox.object) as never;
    const result = op(cpu, object, readOnce(cpu, mailbox, Mailbox.argument) as never);
    write(cpu, mailbox, Mailbox.result, Number(result ?? 0));
    fetchAdd(cpu, mailbox, Mailbox.answered, 1);
    unpark(cpu, mailbox, Mailbox.answered, 1);
    if (name === 'quit') return done;
  }
}
