/**
 * Processes come and go: spawn, fork, clone, exit, and killing for memory.
 *
 * @module
 */
import { read, writeOnce } from '#memory';

import { EAGAIN, errnoName } from '../../base/errno.js';
import { PAGE_SIZE } from '../../base/units.js';
import type { Cpu } from '../../machine/cpu.js';
import { MACHINE, Machine } from '../../machine/types.js';
import { NULL } from '../../memory/layout.js';
import { mmput, mmputAsync } from '../../mm/exit.js';
import { mmAlloc, mmget, mmgetNotZero, useMm } from '../../mm/mm-struct.js';
import { mmap } from '../../mm/mmap.js';
import type { MmStruct } from '../../mm/types.js';
import * as uapi from '../../mm/uapi.js';
import { mmdrop, mmgrab } from '../../notifier/mm-count.js';
import { oomKill, processMrelease } from '../../process/oom-reaper.js';
import {
  allocTask,
  CLONE_FILES,
  CLONE_VM,
  cloneTask,
  exitTask,
  putTask,
} from '../../process/task.js';
import { Task } from '../../process/types.js';
import { bytesOf, lookAtCell, lookAtChild } from './content.js';
import { disarmFailure, oneOf, type Operation, type Stage } from './stage.js';
import {
  CELLS,
  claimTask,
  freePlace,
  giveUpClaim,
  isDying,
  pageVa,
  pinsEnded,
  PRIVATE_FILE,
  settle,
  SHARED,
  Space,
  STEADY,
  taskOf,
  unsettle,
  VOLATILE,
  wasPinned,
  World,
} from './world.js';

const READ_WRITE = uapi.PROT_READ | uapi.PROT_WRITE;
const FIXED = uapi.MAP_FIXED;
/** Pages that are looked at when memory has been taken. */
const RELEASE_LOOKS = 4;

/** Starts a process in a place that is free; false if there was no memory, or somebody was faster. Sleeps. */
export function spawn(cpu: Cpu, world: World, index: number): boolean {
  const mm = mmAlloc(cpu);
  if (mm === NULL) return false;
  useMm(cpu, mm);
  const task = mapRegions(cpu, world, mm) ? allocTask(cpu, mm) : NULL;
  if (task === NULL) {
    mmput(cpu, mm);
    return false;
  }
  if (settle(cpu, world, index, task, mm)) return true;
  exitTask(cpu, task);
  return false;
}

function mapRegions(cpu: Cpu, world: World, mm: MmStruct): boolean {
  const anonymous = uapi.MAP_PRIVATE | uapi.MAP_ANONYMOUS | FIXED;
  for (const { first, pages } of [STEADY, VOLATILE]) {
    const va = pageVa(first);
    if (mmap(cpu, mm, va, bytesOf(pages), READ_WRITE, anonymous, NULL, 0) < 0) return false;
  }
  const shared = pageVa(SHARED.first);
  const ofAll = read(cpu, world, World.file);
  const length = SHARED.pages * PAGE_SIZE;
  const flags = uapi.MAP_SHARED | FIXED;
  if (mmap(cpu, mm, shared, length, READ_WRITE, flags, ofAll, 0) < 0) return false;
  const own = pageVa(PRIVATE_FILE.first);
  const file = read(cpu, world, World.privateFile);
  const bytes = bytesOf(PRIVATE_FILE.pages);
  return mmap(cpu, mm, own, bytes, READ_WRITE, uapi.MAP_PRIVATE | FIXED, file, 0) >= 0;
}

/** Makes a child, compares it with its parent, and lets it end, or live on in a place that is free. */
function fork(cpu: Cpu, stage: Stage): boolean {
  const { at, world, member, way } = stage;
  const task = claimTask(cpu, at);
  if (task === NULL) return false;
  const ended = pinsEnded(cpu, at.space);
  const child = cloneTask(cpu, task, oneOf(member, [0, CLONE_FILES]));
  const isWhole = !wasPinned(cpu, at.space, ended);
  giveUpClaim(cpu, at.space);
  disarmFailure(cpu);
  if (child === NULL) return false;
  const mm = read(cpu, child, Task.mm);
  if (isDying(cpu, at.space)) {
    exitTask(cpu, child); // Linux ends a fork whose parent has been killed
    return true;
  }
  useMm(cpu, mm);
  lookAtChild(cpu, way, mm, read(cpu, MACHINE, Machine.cpus), isWhole);
  const place = member.random(2) === 0 ? freePlace(cpu, world) : -1;
  if (place < 0 || !settle(cpu, world, place, child, mm)) exitTask(cpu, child);
  return true;
}

/** Makes a task in the same address space, which ends sooner or later than the first. */
function clone(cpu: Cpu, { at, member }: Stage): boolean {
  const task = claimTask(cpu, at);
  if (task === NULL) return false;
  const thread = cloneTask(cpu, task, CLONE_VM | oneOf(member, [0, CLONE_FILES]));
  giveUpClaim(cpu, at.space);
  if (thread === NULL) return false;
  member.noise(cpu);
  exitTask(cpu, thread);
  return true;
}

/** Ends the process, though others may be in it and devices fault in it. */
function exit(cpu: Cpu, { at }: Stage): boolean {
  const task = claimTask(cpu, at);
  if (task === NULL) return false;
  unsettle(cpu, at.space);
  giveUpClaim(cpu, at.space);
  exitTask(cpu, task);
  return true;
}

/** Kills the process for its memory, which goes though it is in use; the rest goes when somebody lets it exit. */
function kill(cpu: Cpu, stage: Stage): boolean {
  const { at, member } = stage;
  const task = taskOf(cpu, at);
  if (task === NULL) return false;
  writeOnce(cpu, at.space, Space.dying, 1); // before: whoever forks from now on, or is forking, will see it
  const killed = oomKill(cpu, task);
  putTask(cpu, task);
  member.noise(cpu);
  if (member.random(2) === 0) exit(cpu, stage);
  return killed;
}

/** Kills it, and takes its memory at once, beside the reaper: what is not gone is what it was. */
function release(cpu: Cpu, stage: Stage): boolean {
  const { at, member, way } = stage;
  const task = taskOf(cpu, at);
  if (task === NULL) return false;
  writeOnce(cpu, at.space, Space.dying, 1);
  oomKill(cpu, task);
  putTask(cpu, task);
  const error = processMrelease(cpu, at.mm);
  if (error !== 0 && error !== -EAGAIN) {
    member.fail(`process_mrelease answers ${errnoName(error)}`);
  }
  for (let i = 0; i < RELEASE_LOOKS; i++) {
    lookAtCell(cpu, way, STEADY.first + member.random(STEADY.pages), member.random(CELLS));
  }
  if (member.random(2) === 0) exit(cpu, stage);
  return error === 0;
}

/** Gives a use of the address space back to a kworker. */
function putAsync(cpu: Cpu, { at }: Stage): boolean {
  mmget(cpu, at.mm);
  mmputAsync(cpu, at.mm);
  return true;
}

/** Keeps the struct, and asks for the memory. */
function grab(cpu: Cpu, { at, member }: Stage): boolean {
  mmgrab(cpu, at.mm);
  member.noise(cpu);
  if (!mmgetNotZero(cpu, at.mm)) member.fail('an address space in use has no users');
  mmput(cpu, at.mm);
  mmdrop(cpu, at.mm);
  return true;
}

export const PROCESS_OPERATIONS: readonly Operation[] = [
  { name: 'fork', run: fork },
  { name: 'clone_vm', run: clone },
  { name: 'exit', run: exit },
  { name: 'oom_kill', run: kill },
  { name: 'process_mrelease', run: release },
  { name: 'mmput_async', run: putAsync },
  { name: 'mmgrab', run: grab },
];
