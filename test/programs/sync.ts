/**
 * Programs for the rest of sync/: sequence counters, completions, wait queues, reference counts.
 *
 * @module
 */
import { cmpxchg, fetchAdd, read, readOnce, write, writeOnce } from '#memory';

import type { Cpu } from '../../src/machine/cpu.js';
import { lockClass } from '../../src/machine/lock-class.js';
import { cpuRelax, schedule, TASK_UNINTERRUPTIBLE } from '../../src/machine/sched.js';
import { MACHINE, Machine } from '../../src/machine/types.js';
import { WAIT_QUEUE } from '../../src/machine/wait-kind.js';
import {
  cacheline,
  element,
  member,
  type Ptr,
  struct,
  word,
  words,
} from '../../src/memory/layout.js';
import {
  complete,
  Completion,
  initCompletion,
  waitForCompletion,
} from '../../src/sync/completion.js';
import { Refcount, refcountDecAndTest, refcountInc } from '../../src/sync/refcount.js';
import {
  readSeqbegin,
  readSeqlockExcl,
  readSeqretry,
  readSequnlockExcl,
  Seqlock,
  writeSeqlock,
  writeSequnlock,
} from '../../src/sync/seqlock.js';
import {
  finishWait,
  initWait,
  initWaitQueue,
  prepareToWait,
  prepareToWaitExclusive,
  WaitQueue,
  waitqueueActive,
  wakeUp,
  wakeUpAll,
} from '../../src/sync/wait-queue.js';

const NAME = lockClass('sync_arena->lock');
const DATA_WORDS = 8;

export const SyncArena = struct('sync_arena', {
  seqlock: Seqlock,
  line1: cacheline,
  data: words(DATA_WORDS), // all equal between two writes
  line2: cacheline,
  readers: word, // that have not done
  retries: word, // atomic
  refcount: Refcount,
  lastPuts: word, // atomic
  counter: word, // as refcount, but counted plainly
  line3: cacheline,
  queue: WaitQueue,
  tokens: word, // to be consumed; atomic
  produced: word, // atomic
  consumed: word, // atomic
  line4: cacheline,
  posted: word, // the completion to complete next
  line5: cacheline,
  stack: Completion,
});
export type SyncArena = Ptr<'sync_arena'>;

/** Starts all CPUs as nearly at once as can be. */
function gate(cpu: Cpu, arena: SyncArena): void {
  fetchAdd(cpu, arena, SyncArena.readers, 1);
  const cpus = read(cpu, MACHINE, Machine.cpus);
  for (let i = 0; readOnce(cpu, arena, SyncArena.readers) < cpus; i++) cpuRelax(cpu, i);
}

// --- sequence locks ---

const SECTIONS = 30_000;
const CONTROL_SECTIONS = 20_000_000;

/** Writers write until the readers have done. */
export function seqWriter(cpu: Cpu, arena: SyncArena): number {
  const seqlock = member(arena, SyncArena.seqlock);
  for (let round = 1; readOnce(cpu, arena, SyncArena.readers) > 0; round++) {
    writeSeqlock(cpu, seqlock);
    for (let i = 0; i < DATA_WORDS; i++) {
      writeOnce(cpu, arena, element(SyncArena.data, i), round * 16 + cpu.id);
    }
    writeSequnlock(cpu, seqlock);
    for (let i = 0; i < 20; i++) cpuRelax(cpu, i);
  }
  return 0;
}

/** Returns 1 if not all words are equal. */
function lookTorn(cpu: Cpu, arena: SyncArena): number {
  const first = readOnce(cpu, arena, element(SyncArena.data, 0));
  let torn = 0;
  for (let i = 1; i < DATA_WORDS; i++) {
    if (readOnce(cpu, arena, element(SyncArena.data, i)) !== first) torn = 1;
  }
  return torn;
}

/** Enough sections, and at least one of them met a writer. */
function seqReaderIsDone(cpu: Cpu, arena: SyncArena, section: number): boolean {
  if (section < SECTIONS) return false;
  return section >= CONTROL_SECTIONS || readOnce(cpu, arena, SyncArena.retries) > 0;
}

/** Torn views that readers were not told to discard. */
export function seqReader(cpu: Cpu, arena: SyncArena): number {
  const seqlock = member(arena, SyncArena.seqlock);
  let torn = 0;
  for (let section = 0; !seqReaderIsDone(cpu, arena, section); section++) {
    for (;;) {
      const seen = readSeqbegin(cpu, seqlock);
      const view = lookTorn(cpu, arena);
      if (!readSeqretry(cpu, seqlock, seen)) {
        torn += view;
        break;
      }
      fetchAdd(cpu, arena, SyncArena.retries, 1);
    }
  }
  fetchAdd(cpu, arena, SyncArena.readers, -1);
  return torn;
}

/** A reader that keeps writers out has nothing to retry. */
export function seqExclusiveReader(cpu: Cpu, arena: SyncArena): number {
  const seqlock = member(arena, SyncArena.seqlock);
  let torn = 0;
  for (let section = 0; section < SECTIONS; section++) {
    readSeqlockExcl(cpu, seqlock);
    torn += lookTorn(cpu, arena);
    readSequnlockExcl(cpu, seqlock);
  }
  fetchAdd(cpu, arena, SyncArena.readers, -1);
  return torn;
}

/** The control: takes every view for good, until one is torn. */
export function seqReaderWithoutRetry(cpu: Cpu, arena: SyncArena): number {
  const seqlock = member(arena, SyncArena.seqlock);
  let torn = 0;
  for (let section = 0; section < CONTROL_SECTIONS && torn === 0; section++) {
    readSeqbegin(cpu, seqlock);
    torn += lookTorn(cpu, arena);
  }
  fetchAdd(cpu, arena, SyncArena.readers, -1);
  return torn;
}

// --- reference counts ---

export const LIVES = 300;
const PUTS = 40;

/** Every CPU takes and gives references; who gives the last one says so. */
export function getAndPut(cpu: Cpu, arena: SyncArena): number {
  const refcount = member(arena, SyncArena.refcount);
  let last = 0;
  gate(cpu, arena);
  for (let i = 0; i < LIVES * PUTS; i++) {
    refcountInc(cpu, refcount);
    if (refcountDecAndTest(cpu, refcount)) last++;
  }
  if (refcountDecAndTest(cpu, refcount)) last++; // the one it was given at the start
  return last;
}

/** The control: counts plainly until the others' steps are lost. */
export function countPlainly(cpu: Cpu, arena: SyncArena): number {
  gate(cpu, arena);
  let lost = 0;
  for (let i = 0; i < CONTROL_SECTIONS && readOnce(cpu, arena, SyncArena.lastPuts) === 0; i++) {
    const before = read(cpu, arena, SyncArena.counter);
    write(cpu, arena, SyncArena.counter, before + 1);
    const during = read(cpu, arena, SyncArena.counter);
    if (during !== before + 1) lost++;
    write(cpu, arena, SyncArena.counter, during - 1);
    if (lost > 0) fetchAdd(cpu, arena, SyncArena.lastPuts, 1);
  }
  return lost;
}

// --- wait queues ---

export const TOKENS = 6000;

/** Makes the queue; its struct is in the arena. */
export function initArena(cpu: Cpu, arena: SyncArena): SyncArena {
  initWaitQueue(cpu, member(arena, SyncArena.queue), NAME);
  return arena;
}

function takeToken(cpu: Cpu, arena: SyncArena): boolean {
  for (;;) {
    const tokens = readOnce(cpu, arena, SyncArena.tokens);
    if (tokens === 0) return false;
    if (cmpxchg(cpu, arena, SyncArena.tokens, tokens, tokens - 1) === tokens) return true;
  }
}

/** Sleeps until there is a token, or until all have been consumed; returns whether it got one. */
function waitForToken(cpu: Cpu, arena: SyncArena, exclusive: boolean): boolean {
  const queue = member(arena, SyncArena.queue);
  const wait = initWait(cpu, WAIT_QUEUE, queue);
  let taken = false;
  for (;;) {
    if (exclusive) prepareToWaitExclusive(cpu, queue, wait, TASK_UNINTERRUPTIBLE);
    else prepareToWait(cpu, queue, wait, TASK_UNINTERRUPTIBLE);
    taken = takeToken(cpu, arena);
    if (taken || readOnce(cpu, arena, SyncArena.consumed) >= TOKENS) break;
    schedule(cpu);
  }
  finishWait(cpu, queue, wait);
  return taken;
}

function consume(cpu: Cpu, arena: SyncArena, exclusive: boolean): number {
  const queue = member(arena, SyncArena.queue);
  let count = 0;
  while (readOnce(cpu, arena, SyncArena.consumed) < TOKENS) {
    if (!waitForToken(cpu, arena, exclusive)) continue;
    count++;
    if (fetchAdd(cpu, arena, SyncArena.consumed, 1) === TOKENS - 1) wakeUpAll(cpu, queue);
  }
  return count;
}

/** One of several that are woken one at a time. */
export function consumeExclusively(cpu: Cpu, arena: SyncArena): number {
  return consume(cpu, arena, true);
}

/** One of several that are all woken. */
export function consumeTogether(cpu: Cpu, arena: SyncArena): number {
  return consume(cpu, arena, false);
}

/** Makes tokens, each of which must find somebody; never more than one ahead of the consumers. */
export function produce(cpu: Cpu, arena: SyncArena): number {
  const queue = member(arena, SyncArena.queue);
  for (;;) {
    const number = fetchAdd(cpu, arena, SyncArena.produced, 1);
    if (number >= TOKENS) return 0;
    for (let i = 0; readOnce(cpu, arena, SyncArena.consumed) < number - 1; i++) cpuRelax(cpu, i);
    fetchAdd(cpu, arena, SyncArena.tokens, 1);
    if (waitqueueActive(cpu, queue)) wakeUp(cpu, queue);
  }
}

// --- completions ---

const STACKS = 3000;
const GARBAGE = -0x12345678;

/**
 * Waits on completions of its own that are gone, and overwritten, as soon as the wait is over. Returns
 * how often somebody touched what was there after that.
 */
export function waitOnStack(cpu: Cpu, arena: SyncArena): number {
  const completion = member(arena, SyncArena.stack);
  let touched = 0;
  for (let i = 0; i < STACKS; i++) {
    initCompletion(cpu, completion, NAME);
    writeOnce(cpu, arena, SyncArena.posted, completion);
    waitForCompletion(cpu, completion);
    for (let at = 0; at < Completion.words; at++) cpu.words[completion + at] = GARBAGE;
    for (let spins = 0; spins < 30; spins++) cpuRelax(cpu, spins);
    for (let at = 0; at < Completion.words; at++) {
      if (cpu.words[completion + at] !== GARBAGE) touched++;
    }
  }
  writeOnce(cpu, arena, SyncArena.posted, -1);
  return touched;
}

/** Completes whatever is posted. */
export function completePosted(cpu: Cpu, arena: SyncArena): number {
  for (let spins = 0; ; spins++) {
    const posted = readOnce(cpu, arena, SyncArena.posted);
    if (posted === -1) return 0;
    if (posted !== 0 && cmpxchg(cpu, arena, SyncArena.posted, posted, 0) === posted) {
      complete(cpu, posted as Completion);
    }
    cpuRelax(cpu, spins);
  }
}
