/**
 * Tasks: an address space and a table of descriptors, either of which several may share.
 *
 * Kernel     kernel/fork.c (copy_process), kernel/exit.c (do_exit)
 * Protocol   clone gives the child a copy of each, or with CLONE_VM, CLONE_FILES the same. exit gives up the
 *            address space first, then the descriptors. So in a process by itself the notifiers' `release` comes
 *            before the files'; if a child has the file, the file's comes any time later; if a sibling has the
 *            address space, the file's may come first (LT-11).
 * Invariant  I1  A task that has an address space holds one of its mm_users.
 *            I2  The mm of an OOM victim is pinned by mm_count until the task is freed, and by nothing else.
 * Deviation  No PIDs, no wait for children, no scheduler: a CPU's program is what a task does.
 *
 * @module
 */
import { fetchAdd, read, readOnce, write } from '#memory';

import { bug } from '../base/bug.js';
import type { Cpu } from '../machine/cpu.js';
import { lockClass } from '../machine/lock-class.js';
import { mightSleep } from '../machine/sched.js';
import { kfree, kzalloc } from '../machine/slab.js';
import { member, NULL } from '../memory/layout.js';
import { initListHead } from '../memory/list.js';
import { mmput } from '../mm/exit.js';
import { dupMm } from '../mm/fork.js';
import { mmget } from '../mm/mm-struct.js';
import type { MmStruct } from '../mm/types.js';
import { mmdrop } from '../notifier/mm-count.js';
import { initSpinlock, spinLock, spinUnlock } from '../sync/spinlock.js';
import { allocFiles, dupFiles, getFiles, putFiles } from './files.js';
import { type FilesStruct, Task } from './types.js';

const TASK_LOCK = lockClass('task_struct->alloc_lock');

/** The child has the parent's address space, not a copy. */
export const CLONE_VM = 0x100;
/** … and its table of descriptors. */
export const CLONE_FILES = 0x400;

/** The first task of an address space, whose use it takes over; NULL if memory is out. */
export function allocTask(cpu: Cpu, mm: MmStruct): Task {
  return newTask(cpu, mm, allocFiles(cpu));
}

/** NULL if there are no files, or memory is out; then nothing was taken over. */
function newTask(cpu: Cpu, mm: MmStruct, files: FilesStruct): Task {
  if (files === NULL) return NULL;
  const task = kzalloc(cpu, Task);
  if (task === NULL) {
    putFiles(cpu, files);
    return NULL;
  }
  write(cpu, task, Task.refs, 1);
  initSpinlock(cpu, member(task, Task.lock), TASK_LOCK);
  write(cpu, task, Task.mm, mm);
  write(cpu, task, Task.files, files);
  initListHead(cpu, member(task, Task.victim));
  return task;
}

/** A child of the task that calls; NULL if memory is out. No lock held. Sleeps. @kernel copy_process */
export function cloneTask(cpu: Cpu, parent: Task, flags: number): Task {
  const parentMm = read(cpu, parent, Task.mm);
  const parentFiles = read(cpu, parent, Task.files);
  const sharesVm = (flags & CLONE_VM) !== 0;
  const sharesFiles = (flags & CLONE_FILES) !== 0;
  if (sharesVm) mmget(cpu, parentMm);
  if (sharesFiles) getFiles(cpu, parentFiles);
  const mm = sharesVm ? parentMm : dupMm(cpu, parentMm);
  const files = sharesFiles ? parentFiles : dupFiles(cpu, parentFiles);
  if (mm === NULL && files !== NULL) putFiles(cpu, files);
  const child = mm === NULL ? NULL : newTask(cpu, mm, files);
  if (child === NULL && mm !== NULL) mmput(cpu, mm);
  return child;
}

/** The task ends: its address space, then its descriptors, then itself. Sleeps. @kernel do_exit */
export function exitTask(cpu: Cpu, task: Task): void {
  mightSleep(cpu);
  exitMm(cpu, task);
  exitFiles(cpu, task);
  putTask(cpu, task);
}

/** @kernel exit_mm */
function exitMm(cpu: Cpu, task: Task): void {
  const mm = read(cpu, task, Task.mm);
  if (mm === NULL) bug(`task ${task} exits twice`);
  spinLock(cpu, member(task, Task.lock));
  write(cpu, task, Task.mm, NULL);
  spinUnlock(cpu, member(task, Task.lock));
  mmput(cpu, mm);
}

/** @kernel exit_files */
function exitFiles(cpu: Cpu, task: Task): void {
  const files = read(cpu, task, Task.files);
  write(cpu, task, Task.files, NULL);
  putFiles(cpu, files);
}

/** Keeps the struct. @kernel get_task_struct */
export function getTask(cpu: Cpu, task: Task): void {
  fetchAdd(cpu, task, Task.refs, 1);
}

/** Lets it go; the last frees it. Never sleeps. @kernel put_task_struct */
export function putTask(cpu: Cpu, task: Task): void {
  const before = fetchAdd(cpu, task, Task.refs, -1);
  if (before <= 0) bug(`task ${task}: reference underflow`);
  if (before !== 1) return;
  const oomMm = readOnce(cpu, task, Task.oomMm);
  if (oomMm !== NULL) mmdrop(cpu, oomMm); // I2
  kfree(cpu, Task, task);
}
