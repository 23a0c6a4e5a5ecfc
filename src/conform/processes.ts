/**
 * The steps in which processes and threads begin and end.
 *
 * A thread is a user of its process's address space on a CPU of its own. Who kills a process ends the threads that
 * do nothing; those that are inside of something end when they come out of it.
 *
 * @module
 */
import { cmpxchg, exchange, read, readOnce, write, writeOnce } from '#memory';

import { ENOMEM, ESRCH } from '../base/errno.js';
import { PAGE_SIZE } from '../base/units.js';
import type { Cpu } from '../machine/cpu.js';
import { element, NULL, type Va } from '../memory/layout.js';
import { storeWord } from '../mm/access.js';
import { mmput } from '../mm/exit.js';
import { dupMm } from '../mm/fork.js';
import { mmAlloc, mmget, useMm } from '../mm/mm-struct.js';
import { mmap } from '../mm/mmap.js';
import type { MmStruct } from '../mm/types.js';
import * as uapi from '../mm/uapi.js';
import { processMrelease } from '../process/oom-reaper.js';
import { type Answer, type StepInput, textOf } from './step.js';
import {
  ConformWorld,
  CPUS_OF_CASE_MAX,
  isAlive,
  mmOf,
  procOf,
  PROCS_MAX,
  TASK_BUSY,
  TASK_IDLE,
  TASK_NONE,
} from './world.js';

/** Where a program has memory of its own, besides the arena: data, and a stack. */
const DATA: Va = 0x4c_0000;
const DATA_PAGES = 4;
const STACK: Va = 0x7ffe_0000_0000;
const STACK_PAGES = 32;

/** Performs a step about a process. `childCpu` is the CPU of the one that begins. Sleeps. */
export type ProcessStep = (
  cpu: Cpu,
  world: ConformWorld,
  proc: number,
  step: StepInput,
  childCpu: number,
) => Answer;

/** The steps, by their names. */
export const PROCESS_STEPS: Readonly<Record<string, ProcessStep>> = {
  fork(cpu, world, proc, step, childCpu) {
    const child = dupMm(cpu, mmOf(cpu, world, proc));
    if (child === NULL) return { result: -ENOMEM };
    beginProcess(cpu, world, procOf(textOf(step, 'child')), child, childCpu);
    return { result: 0 };
  },
  fork_only(cpu, world, proc) {
    const child = dupMm(cpu, mmOf(cpu, world, proc));
    if (child === NULL) return { result: -ENOMEM };
    write(cpu, world, ConformWorld.orphan, child);
    return { result: 0 };
  },
  thread_create(cpu, world, proc, _step, childCpu) {
    mmget(cpu, mmOf(cpu, world, proc));
    beginTask(cpu, world, childCpu, proc);
    return { result: 0 };
  },
  exit(cpu, world, proc) {
    endProcess(cpu, world, proc);
    return { result: 0, exited: true };
  },
  kill(cpu, world, proc) {
    endProcess(cpu, world, proc);
    return { result: 0 };
  },
  exec(cpu, world, proc) {
    const fresh = mmAlloc(cpu);
    if (fresh === NULL) return { result: -ENOMEM };
    write(cpu, world, ConformWorld.execMm, fresh);
    endProcess(cpu, world, proc);
    return { result: 0 };
  },
  process_mrelease(cpu, world, proc) {
    const mm = mmOf(cpu, world, proc);
    return { result: mm === NULL ? -ESRCH : processMrelease(cpu, mm) };
  },
};

/** The first process of a case, with a program's data and stack; false if memory is out. */
export function beginFirstProcess(cpu: Cpu, world: ConformWorld, taskCpu: number): boolean {
  const mm = mmAlloc(cpu);
  if (mm === NULL) return false;
  useMm(cpu, mm);
  const rw = uapi.PROT_READ | uapi.PROT_WRITE;
  const flags = uapi.MAP_PRIVATE | uapi.MAP_ANONYMOUS | uapi.MAP_FIXED;
  mmap(cpu, mm, DATA, DATA_PAGES * PAGE_SIZE, rw, flags, NULL, 0);
  mmap(cpu, mm, STACK, STACK_PAGES * PAGE_SIZE, rw, flags | uapi.MAP_GROWSDOWN, NULL, 0);
  const written =
    storeWord(cpu, mm, DATA, 1) === 0 &&
    storeWord(cpu, mm, STACK + (STACK_PAGES - 1) * PAGE_SIZE, 1) === 0;
  beginProcess(cpu, world, 0, mm, taskCpu);
  return written;
}

function beginProcess(
  cpu: Cpu,
  world: ConformWorld,
  proc: number,
  mm: MmStruct,
  taskCpu: number,
): void {
  write(cpu, world, element(ConformWorld.mms, proc), mm);
  write(cpu, world, element(ConformWorld.alive, proc), 1);
  beginTask(cpu, world, taskCpu, proc);
}

function beginTask(cpu: Cpu, world: ConformWorld, taskCpu: number, proc: number): void {
  write(cpu, world, element(ConformWorld.taskProcs, taskCpu), proc);
  writeOnce(cpu, world, element(ConformWorld.tasks, taskCpu), TASK_IDLE);
}

/** Ends every thread of a process, now or when it comes out of what it is in. Sleeps. */
function endProcess(cpu: Cpu, world: ConformWorld, proc: number): void {
  if (!isAlive(cpu, world, proc)) return;
  write(cpu, world, element(ConformWorld.alive, proc), 0);
  writeOnce(cpu, world, element(ConformWorld.killed, proc), 1); // pairs with leaveStep
  for (let id = 0; id < CPUS_OF_CASE_MAX; id++) {
    if (read(cpu, world, element(ConformWorld.taskProcs, id)) !== proc) continue;
    const task = element(ConformWorld.tasks, id);
    const isOwn = id === cpu.id && readOnce(cpu, world, task) === TASK_BUSY;
    if (isOwn || cmpxchg(cpu, world, task, TASK_IDLE, TASK_NONE) !== TASK_IDLE) continue;
    mmput(cpu, mmOf(cpu, world, proc));
  }
}

/** The thread on this CPU begins with a step. */
export function enterStep(cpu: Cpu, world: ConformWorld): void {
  cmpxchg(cpu, world, element(ConformWorld.tasks, cpu.id), TASK_IDLE, TASK_BUSY);
}

/** The thread on this CPU is done with a step; it ends if it was killed meanwhile. Sleeps. */
export function leaveStep(cpu: Cpu, world: ConformWorld): void {
  const task = element(ConformWorld.tasks, cpu.id);
  if (cmpxchg(cpu, world, task, TASK_BUSY, TASK_IDLE) !== TASK_BUSY) return;
  const proc = read(cpu, world, element(ConformWorld.taskProcs, cpu.id));
  if (readOnce(cpu, world, element(ConformWorld.killed, proc)) === 0) return; // pairs with endProcess
  if (exchange(cpu, world, task, TASK_NONE) === TASK_IDLE) mmput(cpu, mmOf(cpu, world, proc));
}

/** A child that was only forked has come to run, and exits: later than those that its parent has woken. Sleeps. */
export function endOrphan(cpu: Cpu, world: ConformWorld): void {
  const child = exchange(cpu, world, ConformWorld.orphan, NULL) as MmStruct;
  if (child !== NULL) mmput(cpu, child);
}

/** Ends all that still lives at the end of a case. Sleeps. */
export function endAllProcesses(cpu: Cpu, world: ConformWorld): void {
  for (let proc = 0; proc < PROCS_MAX; proc++) endProcess(cpu, world, proc);
  const fresh = read(cpu, world, ConformWorld.execMm);
  if (fresh !== NULL) mmput(cpu, fresh);
}
