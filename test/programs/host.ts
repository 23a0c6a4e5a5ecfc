/**
 * Programs that end well, badly, or not at all.
 *
 * @module
 */
import { fetchAdd, readOnce } from '#memory';

import { type Cpu, cpuArea } from '../../src/machine/cpu.js';
import { lockClass } from '../../src/machine/lock-class.js';
import { condResched, cpuRelax, noteProgress, preemptDisable } from '../../src/machine/sched.js';
import { tlbAttach, TlbContext, tlbEnter, tlbShootdown } from '../../src/machine/tlb.js';
import { CpuArea } from '../../src/machine/types.js';
import { WAIT_NONE, WAIT_SHOOTDOWN } from '../../src/machine/wait-kind.js';
import { warn } from '../../src/machine/warn.js';
import { cacheline, member, type Ptr, struct, word } from '../../src/memory/layout.js';
import {
  Completion,
  initCompletion,
  waitForCompletion,
  waitForCompletionTimeout,
} from '../../src/sync/completion.js';
import { initMutex, Mutex, mutexLock, mutexUnlock } from '../../src/sync/mutex.js';
import { downRead, downWrite, initRwsem, Rwsem } from '../../src/sync/rwsem.js';
import { initSpinlock, Spinlock, spinLock } from '../../src/sync/spinlock.js';

export const HostArena = struct('host_arena', {
  first: Mutex,
  second: Mutex,
  rwsem: Rwsem,
  spinlock: Spinlock,
  completion: Completion,
  context: TlbContext,
  line1: cacheline,
  met: word, // CPUs that have come to where they are to meet
  line2: cacheline,
  ran: word, // programs that have begun
  going: word, // programs that have begun and do not end
});
export type HostArena = Ptr<'host_arena'>;

const FIRST = lockClass('alpha->lock');
const SECOND = lockClass('beta->lock');
const RWSEM = lockClass('gamma->sem');
const SPINLOCK = lockClass('delta->spinlock');
const COMPLETION = lockClass('epsilon->done');

export function initArena(cpu: Cpu, arena: HostArena): HostArena {
  initMutex(cpu, member(arena, HostArena.first), FIRST);
  initMutex(cpu, member(arena, HostArena.second), SECOND);
  initRwsem(cpu, member(arena, HostArena.rwsem), RWSEM);
  initSpinlock(cpu, member(arena, HostArena.spinlock), SPINLOCK);
  initCompletion(cpu, member(arena, HostArena.completion), COMPLETION);
  return arena;
}

/** Waits until `count` CPUs are here. */
function meet(cpu: Cpu, arena: HostArena, count: number): void {
  fetchAdd(cpu, arena, HostArena.met, 1);
  for (let i = 0; readOnce(cpu, arena, HostArena.met) < count; i++) cpuRelax(cpu, i);
}

/** Waits until CPU `id` waits for something. */
function untilBlocked(cpu: Cpu, id: number): void {
  const area = cpuArea(id);
  for (let i = 0; readOnce(cpu, area, CpuArea.waitKind) === WAIT_NONE; i++) cpuRelax(cpu, i);
}

// --- ends well ---

export interface Payload {
  readonly label: string;
  readonly numbers: readonly number[];
}

export function answer(cpu: Cpu, payload: Payload): unknown {
  return { cpu: cpu.id, label: payload.label, sum: payload.numbers.reduce((a, b) => a + b, 0) };
}

/** Says that it began. */
export function begin(cpu: Cpu, arena: HostArena): number {
  return fetchAdd(cpu, arena, HostArena.ran, 1);
}

/** Takes its turn with all others, many times. */
export function takeTurns(cpu: Cpu, arena: HostArena): number {
  const lock = member(arena, HostArena.first);
  for (let i = 0; i < 50; i++) {
    mutexLock(cpu, lock);
    const ran = readOnce(cpu, arena, HostArena.ran);
    cpu.words[arena + HostArena.ran] = ran + 1;
    mutexUnlock(cpu, lock);
  }
  return 50;
}

// --- does not end by itself ---

/** Runs until the machine is halted. */
export function runOn(cpu: Cpu, arena: HostArena): void {
  fetchAdd(cpu, arena, HostArena.going, 1);
  for (let i = 0; ; i++) cpuRelax(cpu, i);
}

/** Runs on, and counts what it has done. */
export function makeProgress(cpu: Cpu): void {
  for (let i = 0; ; i++) {
    noteProgress(cpu, i);
    cpuRelax(cpu, i);
  }
}

/** Runs for ever, without noticing that the machine was halted. */
export function ignoreHalt(cpu: Cpu, arena: HostArena): void {
  fetchAdd(cpu, arena, HostArena.going, 1);
  for (;;);
}

/** Holds a lock for several looks of the watchdog, counts what it does meanwhile, and then gives it back. */
export function holdLong(cpu: Cpu, arena: HostArena): string {
  const lock = member(arena, HostArena.first);
  mutexLock(cpu, lock);
  meet(cpu, arena, 2);
  const end = performance.now() + 1200;
  for (let i = 0; performance.now() < end; i++) {
    noteProgress(cpu, i);
    cpuRelax(cpu, i);
  }
  mutexUnlock(cpu, lock);
  return 'gave it back';
}

export function waitLong(cpu: Cpu, arena: HostArena): string {
  meet(cpu, arena, 2);
  mutexLock(cpu, member(arena, HostArena.first));
  mutexUnlock(cpu, member(arena, HostArena.first));
  return 'got it';
}

export function waitForNothing(cpu: Cpu, arena: HostArena): void {
  waitForCompletion(cpu, member(arena, HostArena.completion));
}

/** Says that it goes on, and gets nowhere. */
export function loopOn(cpu: Cpu): void {
  for (let i = 0; ; i++) {
    condResched(cpu);
    cpuRelax(cpu, i);
  }
}

/** Waits again and again, and never for long. */
export function waitInVain(cpu: Cpu, arena: HostArena): void {
  const completion = member(arena, HostArena.completion);
  while (!waitForCompletionTimeout(cpu, completion, 20));
}

// --- deadlocks ---

export function firstThenSecond(cpu: Cpu, arena: HostArena): void {
  mutexLock(cpu, member(arena, HostArena.first));
  meet(cpu, arena, 2);
  mutexLock(cpu, member(arena, HostArena.second));
}

export function secondThenFirst(cpu: Cpu, arena: HostArena): void {
  mutexLock(cpu, member(arena, HostArena.second));
  meet(cpu, arena, 2);
  mutexLock(cpu, member(arena, HostArena.first));
}

export function lockTwice(cpu: Cpu, arena: HostArena): void {
  mutexLock(cpu, member(arena, HostArena.first));
  mutexLock(cpu, member(arena, HostArena.first));
}

/** A writer in between makes a second read lock of the same CPU wait for the first. */
export function readTwice(cpu: Cpu, arena: HostArena): void {
  const sem = member(arena, HostArena.rwsem);
  downRead(cpu, sem);
  meet(cpu, arena, 2);
  untilBlocked(cpu, 1);
  downRead(cpu, sem);
}

export function writeBetween(cpu: Cpu, arena: HostArena): void {
  meet(cpu, arena, 2);
  downWrite(cpu, member(arena, HostArena.rwsem));
}

/** Of three CPUs each holds what the one before waits for. */
export function mutexThenRwsem(cpu: Cpu, arena: HostArena): void {
  mutexLock(cpu, member(arena, HostArena.first));
  meet(cpu, arena, 3);
  downWrite(cpu, member(arena, HostArena.rwsem));
}

export function rwsemThenSpinlock(cpu: Cpu, arena: HostArena): void {
  downRead(cpu, member(arena, HostArena.rwsem));
  meet(cpu, arena, 3);
  spinLock(cpu, member(arena, HostArena.spinlock));
}

/** Breaks the rule that nobody sleeps under a spinlock, so as to close the circle. */
export function spinlockThenMutex(cpu: Cpu, arena: HostArena): void {
  spinLock(cpu, member(arena, HostArena.spinlock));
  cpu.preemptCount = 0;
  meet(cpu, arena, 3);
  mutexLock(cpu, member(arena, HostArena.first));
}

/** Waits for a lock in the middle of an access, which must not be. */
export function lockInsideAccess(cpu: Cpu, arena: HostArena): void {
  const context = member(arena, HostArena.context);
  tlbAttach(cpu, context);
  tlbEnter(cpu, context);
  meet(cpu, arena, 2);
  mutexLock(cpu, member(arena, HostArena.first));
}

export function shootDownUnderLock(cpu: Cpu, arena: HostArena): void {
  mutexLock(cpu, member(arena, HostArena.first));
  meet(cpu, arena, 2);
  tlbShootdown(cpu, member(arena, HostArena.context), WAIT_SHOOTDOWN);
}

// --- deaths ---

/** Dies of a rule that it breaks itself, with two locks held. */
export function dieWithLocks(cpu: Cpu, arena: HostArena): void {
  warn(cpu, 'something was odd before');
  mutexLock(cpu, member(arena, HostArena.first));
  downRead(cpu, member(arena, HostArena.rwsem));
  meet(cpu, arena, 2);
  untilBlocked(cpu, 1);
  breakRule(cpu, arena);
}

function breakRule(cpu: Cpu, arena: HostArena): void {
  preemptDisable(cpu);
  mutexLock(cpu, member(arena, HostArena.second));
}

/** Sleeps for a lock of the one that dies. */
export function waitForTheDying(cpu: Cpu, arena: HostArena): void {
  meet(cpu, arena, 2);
  mutexLock(cpu, member(arena, HostArena.first));
}

/** Dies of a mistake in its own, the user's code, once another program runs. */
export function dieOfTypo(cpu: Cpu, arena: HostArena): void {
  for (let i = 0; readOnce(cpu, arena, HostArena.going) === 0; i++) cpuRelax(cpu, i);
  const nothing: { readonly field?: { readonly deep: number } } = {};
  noteText(nothing.field!.deep);
}

function noteText(_value: number): void {
  // it does not come to this
}

/** Throws something that is no error. */
export function throwText(): void {
  // eslint-disable-next-line @typescript-eslint/only-throw-error
  throw 'just a text';
}

/** Makes kernel code die of an argument that cannot be. */
export function dieInsideKernel(cpu: Cpu): void {
  mutexLock(undefined as unknown as Cpu, cpu.area as unknown as Mutex);
}

/** Waits until the other waits for it, then ends its thread without a word. */
export function exitThread(cpu: Cpu, arena: HostArena): void {
  mutexLock(cpu, member(arena, HostArena.first));
  meet(cpu, arena, 2);
  untilBlocked(cpu, 1);
  process.exit(3);
}

/** Returns what cannot be sent to another thread. */
export function returnFunction(): unknown {
  return () => 1;
}

/** Returns, and throws after that, when nobody is there to catch it. */
export function throwLater(): string {
  setTimeout(() => {
    throw new Error('too late');
  }, 5);
  return 'returned';
}
