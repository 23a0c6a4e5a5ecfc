/**
 * The OOM reaper against what its victim does: exit, page faults, and a device that faults.
 *
 * @module
 */
import { read, readOnce, write } from '#memory';

import { bug } from '../../base/bug.js';
import { EFAULT } from '../../base/errno.js';
import { runKthreads, stopKthreads } from '../../deferred/kthread.js';
import type { Cpu } from '../../machine/cpu.js';
import { mmput } from '../../mm/exit.js';
import { mmgetNotZero } from '../../mm/mm-struct.js';
import { MMF_OOM_SKIP, MMF_UNSTABLE, MmStruct } from '../../mm/types.js';
import { mmgrab } from '../../notifier/mm-count.js';
import {
  bootOomReaper,
  oomKill,
  oomReapTaskMm,
  setOomDelays,
  startOomReaper,
  stopOomReaper,
  waitForReaped,
} from '../../process/oom-reaper.js';
import { allocTask, exitTask, getTask, putTask } from '../../process/task.js';
import type { Task } from '../../process/types.js';
import {
  defineProgram,
  type ExploreProgram,
  type Outcome,
  type ProgramTask,
  reach,
  task,
} from '../program.js';
import {
  checkSpace,
  deviceFault,
  deviceHas,
  FILLED,
  loadPage,
  mirrorSpace,
  resultOf,
  setResult,
  setupFilled,
  Space,
  SPACE_RAM_BYTES,
  spaceMirror,
  spaceMm,
  storePage,
} from './space.js';
import { framesAtHand } from './space-check.js';

const STORED = 11;

/** One page that has something in it; the struct stays whoever exits. */
function setupVictim(cpu: Cpu): number {
  const space = setupFilled(cpu) as Space;
  mmgrab(cpu, spaceMm(cpu, space));
  return space;
}

function setupMirrored(cpu: Cpu): number {
  const space = setupVictim(cpu) as Space;
  mirrorSpace(cpu, space);
  return space;
}

/** A task, a reaper that does not wait long, and its thread. */
function setupTask(cpu: Cpu): number {
  const space = setupVictim(cpu) as Space;
  bootOomReaper(cpu);
  setOomDelays(cpu, 2, 1);
  const victim = allocTask(cpu, spaceMm(cpu, space));
  getTask(cpu, victim); // the killer's
  write(cpu, space, Space.victim, victim);
  if (!startOomReaper(cpu)) bug('there is no thread for the reaper');
  return space;
}

// --- tasks ---

function reap(cpu: Cpu, at: number): void {
  reach(cpu, 'reaper comes');
  setResult(cpu, at as Space, oomReapTaskMm(cpu, spaceMm(cpu, at as Space)) ? 1 : 0);
  reach(cpu, 'reaper is done');
}

function exit(cpu: Cpu, at: number): void {
  reach(cpu, 'exit comes');
  mmput(cpu, spaceMm(cpu, at as Space));
  reach(cpu, 'exit has put');
}

/** Finds what was there, or nothing; what it stores, or nothing. Never a page of zeroes. */
function useMemory(cpu: Cpu, at: number): void {
  const mm = spaceMm(cpu, at as Space);
  expect(loadPage(cpu, mm, 0), FILLED);
  if (storePage(cpu, mm, 0, STORED) === 0) expect(loadPage(cpu, mm, 0), STORED);
}

function expect(found: number, expected: number): void {
  if (found !== expected && found !== -EFAULT) {
    bug(`a victim finds ${found} where ${expected} was: its page was reaped`);
  }
}

/** As a driver does: for as long as it takes, the address space is in use. */
function faultDevice(cpu: Cpu, at: number): void {
  const mm = spaceMm(cpu, at as Space);
  if (!mmgetNotZero(cpu, mm)) return;
  reach(cpu, 'device has the space');
  setResult(cpu, at as Space, deviceFault(cpu, at as Space, 0) === 0 ? 1 : 0);
  mmput(cpu, mm);
}

const victimOf = (cpu: Cpu, at: number): Task => read(cpu, at as Space, Space.victim) as Task;

function kill(cpu: Cpu, at: number): void {
  const victim = victimOf(cpu, at);
  const isKilled = oomKill(cpu, victim);
  putTask(cpu, victim);
  setResult(cpu, at as Space, isKilled ? 1 : 0);
  if (isKilled) waitForReaped(cpu, 1);
  stopOomReaper(cpu);
  stopKthreads(cpu);
}

function exitVictim(cpu: Cpu, at: number): void {
  exitTask(cpu, victimOf(cpu, at));
}

function serve(cpu: Cpu): void {
  runKthreads(cpu);
}

// --- what must be true at the end ---

const flagsOf = (cpu: Cpu, at: number): number =>
  readOnce(cpu, spaceMm(cpu, at as Space), MmStruct.flags);

function checkEmpty(cpu: Cpu, at: number): string | undefined {
  const rss = readOnce(cpu, spaceMm(cpu, at as Space), MmStruct.rss);
  if (rss !== 0) return `INV-11: ${rss} frames are mapped after exit`;
  if ((flagsOf(cpu, at) & MMF_OOM_SKIP) === 0) return 'MMF_OOM_SKIP is not set after exit';
  if (deviceHas(cpu, at as Space, 0)) return 'INV-20: the device has a page after exit';
  const left = read(cpu, at as Space, Space.framesBefore) - framesAtHand(cpu);
  return left === 1 ? undefined : `${left} frames are left of the address space, not its top table`;
}

function observeReaper(cpu: Cpu, at: number): string {
  if ((flagsOf(cpu, at) & MMF_UNSTABLE) !== 0) return 'reaped';
  return resultOf(cpu, at as Space, 0) === 1 ? 'exit was faster' : 'the lock was taken';
}

const outcome = (name: string, description: string): Outcome => ({
  name,
  grade: 'ACCEPTABLE',
  description,
});

const REAPED = outcome('reaped', 'what there still was');
const LOCKED = outcome('the lock was taken', 'by exit, for writing: it is tried again later');
const FASTER = outcome('exit was faster', 'and has left MMF_OOM_SKIP');

const REAPER = task('reaper', reap);
const EXIT = task('exit', exit);

function oomProgram(
  name: string,
  title: string,
  tasks: readonly ProgramTask[],
  more: Pick<ExploreProgram, 'setup'> & Partial<ExploreProgram>,
): ExploreProgram {
  return defineProgram({
    name,
    title,
    tasks,
    ops: { spaceMirror },
    ramBytes: SPACE_RAM_BYTES,
    check: checkEmpty,
    ...more,
  });
}

export const OOM_PROGRAMS: readonly ExploreProgram[] = [
  oomProgram('oom-exit', 'the reaper and exit take the same memory', [REAPER, EXIT], {
    setup: setupVictim,
    observe: observeReaper,
    outcomes: [REAPED, LOCKED, FASTER],
  }),
  oomProgram(
    'oom-fault',
    'the reaper takes memory that its victim still uses',
    [REAPER, task('victim', useMemory)],
    {
      setup: setupVictim,
      check: checkSpace,
      observe: observeReaper,
      outcomes: [REAPED],
    },
  ),
  oomProgram(
    'oom-device',
    'a device faults in memory that the reaper and exit take',
    [REAPER, EXIT, task('device', faultDevice)],
    {
      setup: setupMirrored,
      observe: observeReaper,
      outcomes: [REAPED, LOCKED, FASTER],
    },
  ),
  oomProgram(
    'oom-kill',
    'a task is killed for its memory, and exits; the reaper is a thread',
    [task('killer', kill), task('victim', exitVictim), task('kthread', serve)],
    {
      setup: setupTask,
      observe: (cpu, at) => (resultOf(cpu, at as Space, 0) === 1 ? 'killed' : 'gone already'),
      outcomes: [
        outcome('killed', 'and reaped, if it did not exit before'),
        outcome('gone already', 'there is nothing to kill it for'),
      ],
    },
  ),
];
