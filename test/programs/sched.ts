/**
 * Programs that sleep and wake each other.
 *
 * @module
 */
import { clockMs, fetchAdd, loadAcquire, read, readOnce, storeRelease } from '#memory';

import { type Cpu, cpuArea } from '../../src/machine/cpu.js';
import {
  beginWait,
  cpuRelax,
  endWait,
  schedule,
  scheduleTimeout,
  sendSigkill,
  setCurrentRunning,
  setCurrentState,
  signalPendingState,
  TASK_INTERRUPTIBLE,
  TASK_KILLABLE,
  TASK_UNINTERRUPTIBLE,
  wakeUpProcess,
} from '../../src/machine/sched.js';
import { CpuArea, MACHINE, Machine } from '../../src/machine/types.js';
import { WAIT_QUEUE } from '../../src/machine/wait-kind.js';
import { EMPTY_WAKE_Q, wakeQAdd, wakeUpQ } from '../../src/machine/wake-q.js';
import { warn } from '../../src/machine/warn.js';
import { cacheline, element, type Ptr, struct, word, words } from '../../src/memory/layout.js';

export const SchedArena = struct('sched_arena', {
  ball: word, // whose turn it is, counted up
  line1: cacheline,
  given: words(8), // by wakers, for each sleeper
  line2: cacheline,
  ready: word, // sleepers that are about to sleep
  thanks: word, // gifts received
});
export type SchedArena = Ptr<'sched_arena'>;

/** Sleeps until `ready` is true, by the rule of machine/sched.ts. */
function sleepUntil(cpu: Cpu, arena: SchedArena, ready: () => boolean): void {
  beginWait(cpu, WAIT_QUEUE, arena);
  for (;;) {
    setCurrentState(cpu, TASK_UNINTERRUPTIBLE);
    if (ready()) break;
    schedule(cpu);
  }
  setCurrentRunning(cpu);
  endWait(cpu);
}

export const TURNS = 50_000;

/** Two or more CPUs pass a ball round; each sleeps until it has it. */
export function passBall(cpu: Cpu, arena: SchedArena): number {
  const cpus = read(cpu, MACHINE, Machine.cpus);
  const next = cpuArea((cpu.id + 1) % cpus);
  for (let turn = cpu.id; turn < TURNS * cpus; turn += cpus) {
    for (let spins = (turn * 7) % 61; spins > 0; spins--) cpuRelax(cpu, 0); // so as to meet the waker
    sleepUntil(cpu, arena, () => loadAcquire(cpu, arena, SchedArena.ball) === turn);
    storeRelease(cpu, arena, SchedArena.ball, turn + 1);
    wakeUpProcess(cpu, next);
  }
  return read(cpu, arena, SchedArena.ball);
}

const GIFTS = 4000;
export const SLEEPERS = 2;

/** Waits for every gift of the two wakers, one after the other. */
export function receiveGifts(cpu: Cpu, arena: SchedArena): number {
  const field = element(SchedArena.given, cpu.id);
  for (let gifts = 1; gifts <= 2 * GIFTS; gifts++) {
    sleepUntil(cpu, arena, () => readOnce(cpu, arena, field) >= gifts);
  }
  return readOnce(cpu, arena, field);
}

/** Gives each sleeper one gift at a time and wakes all through a wake queue. */
export function giveGifts(cpu: Cpu, arena: SchedArena): number {
  for (let i = 0; i < GIFTS; i++) {
    let queue = EMPTY_WAKE_Q;
    for (let sleeper = 0; sleeper < SLEEPERS; sleeper++) {
      fetchAdd(cpu, arena, element(SchedArena.given, sleeper), 1);
      queue = wakeQAdd(cpu, queue, cpuArea(sleeper));
    }
    wakeUpQ(cpu, queue);
  }
  return 0;
}

/** Waits for the gifts of two wakers in turn, and thanks for each. */
export function receiveInTurn(cpu: Cpu, arena: SchedArena): number {
  for (let gifts = 1; gifts <= 2 * GIFTS; gifts++) {
    sleepUntil(cpu, arena, () => readOnce(cpu, arena, SchedArena.ball) >= gifts);
    storeRelease(cpu, arena, SchedArena.thanks, gifts);
  }
  return read(cpu, arena, SchedArena.thanks);
}

/** Gives when the gift before, which was the other waker's, has been thanked for. */
export function giveInTurn(cpu: Cpu, arena: SchedArena): number {
  for (let gift = cpu.id; gift <= 2 * GIFTS; gift += 2) {
    for (let spins = 0; readOnce(cpu, arena, SchedArena.thanks) !== gift - 1; spins++) {
      cpuRelax(cpu, spins);
    }
    storeRelease(cpu, arena, SchedArena.ball, gift);
    wakeUpQ(cpu, wakeQAdd(cpu, EMPTY_WAKE_Q, cpuArea(0)));
  }
  return 0;
}

/** Sleeps in one state after another until killed, and says in which it woke. */
export function sleepUntilKilled(cpu: Cpu, arena: SchedArena): string[] {
  const woken: string[] = [];
  beginWait(cpu, WAIT_QUEUE, arena);
  for (const [name, state] of [
    ['killable', TASK_KILLABLE],
    ['interruptible', TASK_INTERRUPTIBLE],
  ] as const) {
    fetchAdd(cpu, arena, SchedArena.ready, 1);
    for (;;) {
      setCurrentState(cpu, state);
      if (signalPendingState(cpu, state)) break;
      schedule(cpu);
    }
    setCurrentRunning(cpu);
    woken.push(name);
  }
  const before = read(cpu, cpu.area, CpuArea.signal);
  setCurrentState(cpu, TASK_UNINTERRUPTIBLE);
  if (signalPendingState(cpu, TASK_UNINTERRUPTIBLE)) woken.push('uninterruptible');
  scheduleTimeout(cpu, 20);
  endWait(cpu);
  return [...woken, `signal ${before}`];
}

/** Kills CPU 0 as soon as it is about to sleep, then again while it sleeps uninterruptibly. */
export function killer(cpu: Cpu, arena: SchedArena): number {
  const victim = cpuArea(0);
  for (let spins = 0; readOnce(cpu, arena, SchedArena.ready) === 0; spins++) cpuRelax(cpu, spins);
  sendSigkill(cpu, victim);
  return 0;
}

/** Sleeps for ever, not to be killed. */
export function sleepForEver(cpu: Cpu, arena: SchedArena): void {
  sleepUntil(cpu, arena, () => false);
}

/** What time it is. */
export function tellTime(cpu: Cpu): number {
  return clockMs(cpu);
}

export const WARNINGS = 5000;

/** Warns a few times. */
export function warnOften(cpu: Cpu): void {
  for (let i = 0; i < WARNINGS; i++) warn(cpu, `warning ${i} ${'.'.repeat(cpu.id * 10)}`);
}
