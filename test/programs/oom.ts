/**
 * Victims of the OOM reaper, one after the other: a CPU that uses the memory until it is gone, a device that
 * faults it in, who kills, and the thread.
 *
 * @module
 */
import { fetchAdd, park, read, readOnce, unpark, write } from '#memory';

import { bug } from '../../src/base/bug.js';
import { EFAULT } from '../../src/base/errno.js';
import { runKthreads, stopKthreads } from '../../src/deferred/kthread.js';
import {
  deviceFault,
  FILLED,
  fillPage,
  loadPage,
  makeSpace,
  mirrorSpace,
  type Space,
  spaceMm,
} from '../../src/explore/programs/space.js';
import type { Cpu } from '../../src/machine/cpu.js';
import { CPUS_MAX } from '../../src/machine/limits.js';
import { checkHalted, clearSignal, noteProgress } from '../../src/machine/sched.js';
import {
  cacheline,
  element,
  type Field,
  type Ptr,
  struct,
  word,
  words,
} from '../../src/memory/layout.js';
import { mmput } from '../../src/mm/exit.js';
import { mmgetNotZero } from '../../src/mm/mm-struct.js';
import { mmdrop, mmgrab } from '../../src/notifier/mm-count.js';
import {
  oomKill,
  startOomReaper,
  stopOomReaper,
  waitForReaped,
} from '../../src/process/oom-reaper.js';
import { allocTask, exitTask, getTask, putTask } from '../../src/process/task.js';
import { Task } from '../../src/process/types.js';

export const ROUNDS = 40;
const WAIT_MS = 20;

export const OomArena = struct('oom_arena', {
  spaces: words(ROUNDS),
  tasks: words(ROUNDS),
  line1: cacheline,
  faulted: word, // rounds in which the device has memory of the victim; parked on
  ready: word, // rounds in which the user has used it; parked on
  faults: word, // atomic
  refused: word, // rounds in which the device was told that it is gone
});
export type OomArena = Ptr<'oom_arena'>;

/** The ops of the mirror must have been registered. */
export function initOomArena(cpu: Cpu, arena: OomArena): void {
  for (let i = 0; i < ROUNDS; i++) {
    const space = makeSpace(cpu);
    fillPage(cpu, space, 0);
    mirrorSpace(cpu, space);
    const task = allocTask(cpu, spaceMm(cpu, space));
    getTask(cpu, task); // the killer's
    write(cpu, arena, element(OomArena.spaces, i), space);
    write(cpu, arena, element(OomArena.tasks, i), task);
  }
  if (!startOomReaper(cpu)) bug('there is no thread for the reaper');
}

const spaceOf = (cpu: Cpu, arena: OomArena, round: number): Space =>
  read(cpu, arena, element(OomArena.spaces, round)) as Space;

const taskOf = (cpu: Cpu, arena: OomArena, round: number): Task =>
  read(cpu, arena, element(OomArena.tasks, round)) as Task;

function say(cpu: Cpu, arena: OomArena, what: Field<'oom_arena'>): void {
  fetchAdd(cpu, arena, what, 1);
  unpark(cpu, arena, what, CPUS_MAX);
}

function waitFor(cpu: Cpu, arena: OomArena, what: Field<'oom_arena'>, count: number): void {
  for (;;) {
    const seen = readOnce(cpu, arena, what);
    if (seen >= count) return;
    park(cpu, arena, what, seen, WAIT_MS);
    checkHalted(cpu);
  }
}

/** Kills each victim once it runs and the device has its memory, and waits until it is reaped. */
export function killer(cpu: Cpu, arena: OomArena): void {
  for (let round = 0; round < ROUNDS; round++) {
    waitFor(cpu, arena, OomArena.ready, round + 1);
    waitFor(cpu, arena, OomArena.faulted, round + 1);
    const task = taskOf(cpu, arena, round);
    if (!oomKill(cpu, task)) bug('a victim has left before it was killed');
    putTask(cpu, task);
    waitForReaped(cpu, round + 1);
    noteProgress(cpu, round);
  }
  stopOomReaper(cpu);
  stopKthreads(cpu);
}

/** Uses the memory until it is gone; never finds anything but what was there. */
export function user(cpu: Cpu, arena: OomArena): void {
  for (let round = 0; round < ROUNDS; round++) {
    const task = taskOf(cpu, arena, round);
    const mm = spaceMm(cpu, spaceOf(cpu, arena, round));
    write(cpu, task, Task.cpu, cpu.area);
    for (let first = true; ; first = false) {
      const found = loadPage(cpu, mm, 0);
      if (found === -EFAULT && !first) break;
      if (found !== FILLED) bug(`a victim finds ${found} where ${FILLED} was`);
      if (first) say(cpu, arena, OomArena.ready);
      checkHalted(cpu);
    }
    exitTask(cpu, task);
    clearSignal(cpu);
    noteProgress(cpu, round);
  }
}

/** Faults the memory in, again and again, as long as there is an address space. */
export function device(cpu: Cpu, arena: OomArena): void {
  for (let round = 0; round < ROUNDS; round++) {
    const space = spaceOf(cpu, arena, round);
    waitFor(cpu, arena, OomArena.ready, round + 1);
    const mm = spaceMm(cpu, space);
    mmgrab(cpu, mm);
    for (let first = true; ; first = false) {
      const isUsed = mmgetNotZero(cpu, mm);
      const isThere = isUsed && deviceFault(cpu, space, 0) === 0;
      if (isUsed) mmput(cpu, mm);
      if (!isThere) break;
      fetchAdd(cpu, arena, OomArena.faults, 1);
      if (first) say(cpu, arena, OomArena.faulted);
      checkHalted(cpu);
    }
    fetchAdd(cpu, arena, OomArena.refused, 1);
    mmdrop(cpu, mm);
    noteProgress(cpu, round);
  }
}

export function serve(cpu: Cpu): number {
  return runKthreads(cpu);
}
