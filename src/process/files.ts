/**
 * Descriptors: a task's names for open files.
 *
 * Kernel     fs/file.c; net/core/scm.c (SCM_RIGHTS)
 * Protocol   A descriptor is a reference to a file. fork copies the table, and so the references: parent and
 *            child have the same open file, and what its driver keeps for it. A message carries references too.
 *            The file is released with the last of them, whoever has it: so a file says nothing of the life of
 *            the process that opened it.
 * Invariant  I1  Each descriptor, mapping and message on its way holds one reference.
 * Ordering   The table's lock; a file is put after it was given back, because that may sleep.
 *
 * @module
 */
import { fetchAdd, read, write } from '#memory';

import { bug } from '../base/bug.js';
import { EAGAIN, EBADF, EMFILE } from '../base/errno.js';
import type { Cpu } from '../machine/cpu.js';
import { lockClass } from '../machine/lock-class.js';
import { kfree, kzalloc } from '../machine/slab.js';
import { element, member, NULL } from '../memory/layout.js';
import { fput, getFile } from '../mm/file.js';
import type { File } from '../mm/types.js';
import { initSpinlock, spinLock, spinUnlock } from '../sync/spinlock.js';
import { FDS_MAX, FilesStruct, SCM_MAX, ScmQueue } from './types.js';

const FILES_LOCK = lockClass('files_struct->file_lock');
const SCM_LOCK = lockClass('unix socket->lock');

// --- tables ---

/** An empty table for one task; NULL if memory is out. */
export function allocFiles(cpu: Cpu): FilesStruct {
  const files = kzalloc(cpu, FilesStruct);
  if (files === NULL) return NULL;
  write(cpu, files, FilesStruct.count, 1);
  initSpinlock(cpu, member(files, FilesStruct.lock), FILES_LOCK);
  return files;
}

/** A copy: the same files under the same descriptors; NULL if memory is out. @kernel dup_fd */
export function dupFiles(cpu: Cpu, from: FilesStruct): FilesStruct {
  const files = allocFiles(cpu);
  if (files === NULL) return NULL;
  spinLock(cpu, member(from, FilesStruct.lock));
  for (let fd = 0; fd < FDS_MAX; fd++) {
    const file = fileAt(cpu, from, fd);
    if (file === NULL) continue;
    getFile(cpu, file); // I1
    write(cpu, files, element(FilesStruct.fds, fd), file);
  }
  spinUnlock(cpu, member(from, FilesStruct.lock));
  return files;
}

/** Another task has it. @kernel copy_files with CLONE_FILES */
export function getFiles(cpu: Cpu, files: FilesStruct): void {
  fetchAdd(cpu, files, FilesStruct.count, 1);
}

/** One task less; the last closes what is open. Sleeps. @kernel put_files_struct */
export function putFiles(cpu: Cpu, files: FilesStruct): void {
  const before = fetchAdd(cpu, files, FilesStruct.count, -1);
  if (before <= 0) bug(`files_struct ${files}: count underflow`);
  if (before !== 1) return;
  for (let fd = 0; fd < FDS_MAX; fd++) closeFd(cpu, files, fd);
  kfree(cpu, FilesStruct, files);
}

// --- descriptors ---

/**
 * Gives the file a descriptor, which takes over the caller's reference: the lowest free one, or -EMFILE.
 * @kernel fd_install
 */
export function installFd(cpu: Cpu, files: FilesStruct, file: File): number {
  const lock = member(files, FilesStruct.lock);
  spinLock(cpu, lock);
  let fd = 0;
  while (fd < FDS_MAX && fileAt(cpu, files, fd) !== NULL) fd++;
  if (fd < FDS_MAX) write(cpu, files, element(FilesStruct.fds, fd), file);
  spinUnlock(cpu, lock);
  return fd < FDS_MAX ? fd : -EMFILE;
}

/** The descriptor's file with a reference for the caller; NULL if there is none. @kernel fget */
export function fget(cpu: Cpu, files: FilesStruct, fd: number): File {
  const lock = member(files, FilesStruct.lock);
  spinLock(cpu, lock);
  const file = isFd(fd) ? fileAt(cpu, files, fd) : NULL;
  if (file !== NULL) getFile(cpu, file);
  spinUnlock(cpu, lock);
  return file;
}

/** Ends the use of a descriptor: 0 or -EBADF. Sleeps. @kernel close_fd */
export function closeFd(cpu: Cpu, files: FilesStruct, fd: number): number {
  const lock = member(files, FilesStruct.lock);
  spinLock(cpu, lock);
  const file = isFd(fd) ? fileAt(cpu, files, fd) : NULL;
  if (file !== NULL) write(cpu, files, element(FilesStruct.fds, fd), NULL);
  spinUnlock(cpu, lock);
  if (file === NULL) return -EBADF;
  fput(cpu, file);
  return 0;
}

function isFd(fd: number): boolean {
  return fd >= 0 && fd < FDS_MAX;
}

function fileAt(cpu: Cpu, files: FilesStruct, fd: number): File {
  return read(cpu, files, element(FilesStruct.fds, fd)) as File;
}

// --- messages with files ---

/** A socket that nobody has sent anything to; NULL if memory is out. */
export function allocScmQueue(cpu: Cpu): ScmQueue {
  const queue = kzalloc(cpu, ScmQueue);
  if (queue !== NULL) initSpinlock(cpu, member(queue, ScmQueue.lock), SCM_LOCK);
  return queue;
}

/** Sends a file, with a reference of its own: 0, or -EAGAIN if the queue is full. @kernel SCM_RIGHTS */
export function scmSend(cpu: Cpu, queue: ScmQueue, file: File): number {
  const lock = member(queue, ScmQueue.lock);
  getFile(cpu, file);
  spinLock(cpu, lock);
  const count = read(cpu, queue, ScmQueue.count);
  if (count < SCM_MAX) {
    write(cpu, queue, element(ScmQueue.files, count), file);
    write(cpu, queue, ScmQueue.count, count + 1);
  }
  spinUnlock(cpu, lock);
  if (count < SCM_MAX) return 0;
  fput(cpu, file);
  return -EAGAIN;
}

/** Receives the oldest: its descriptor in the receiver's table, -EAGAIN if there is none, -EMFILE. Sleeps. */
export function scmReceive(cpu: Cpu, queue: ScmQueue, files: FilesStruct): number {
  const file = takeOldest(cpu, queue);
  if (file === NULL) return -EAGAIN;
  const fd = installFd(cpu, files, file);
  if (fd < 0) fput(cpu, file);
  return fd;
}

/** Closes the socket, and what was not received. Nobody else uses it. Sleeps. */
export function freeScmQueue(cpu: Cpu, queue: ScmQueue): void {
  for (let file = takeOldest(cpu, queue); file !== NULL; file = takeOldest(cpu, queue)) {
    fput(cpu, file);
  }
  kfree(cpu, ScmQueue, queue);
}

function takeOldest(cpu: Cpu, queue: ScmQueue): File {
  const lock = member(queue, ScmQueue.lock);
  spinLock(cpu, lock);
  const count = read(cpu, queue, ScmQueue.count);
  const file = count === 0 ? NULL : (read(cpu, queue, element(ScmQueue.files, 0)) as File);
  for (let i = 1; i < count; i++) {
    const later = read(cpu, queue, element(ScmQueue.files, i));
    write(cpu, queue, element(ScmQueue.files, i - 1), later);
  }
  if (count > 0) write(cpu, queue, ScmQueue.count, count - 1);
  spinUnlock(cpu, lock);
  return file;
}
