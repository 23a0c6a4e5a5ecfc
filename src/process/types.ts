/**
 * Layouts of tasks and what they have besides an address space.
 *
 * @module
 */
import { Spinlock } from '../machine/types.js';
import { address, pointer, type Ptr, struct, word, words } from '../memory/layout.js';
import { ListHead } from '../memory/list.js';
import { WaitQueue } from '../sync/wait-queue.js';

/** Descriptors that one table has room for. */
export const FDS_MAX = 16;

/** A table of descriptors: of a task, or of several (CLONE_FILES). @kernel struct files_struct */
export const FilesStruct = struct('files_struct', {
  count: word, // tasks that have it; atomic
  lock: Spinlock, // fds
  fds: words(FDS_MAX), // files, each with a reference; 0 = the descriptor is free
});
export type FilesStruct = Ptr<'files_struct'>;

/** A task. The CPU that runs it is `current`; nothing here says which instructions it runs. @kernel struct task_struct */
export const Task = struct('task_struct', {
  refs: word, // its own, and the OOM reaper's; atomic
  lock: Spinlock, // mm, for those who do not run the task. @kernel alloc_lock
  mm: pointer<'mm_struct'>(), // a use of it; NULL from exit_mm on
  files: pointer<'files_struct'>(), // NULL from exit_files on. Only written by who runs the task
  cpu: pointer<'cpu_area'>(), // who runs it, for signals; 0 = nobody that can be signalled
  oomMm: pointer<'mm_struct'>(), // its address space when it was chosen as a victim, pinned; set once, by cmpxchg
  victim: ListHead, // among the reaper's; under oom_reaper.lock
  reapAt: address, // when the reaper's delay is over; unit: milliseconds of the machine's clock
});
export type Task = Ptr<'task_struct'>;

/** Files in one message queue. */
export const SCM_MAX = 8;

/** What one end of a socket has sent and the other has not received: files only. @kernel struct sock, SCM_RIGHTS */
export const ScmQueue = struct('scm_queue', {
  lock: Spinlock, // both below
  count: word,
  files: words(SCM_MAX), // oldest first, each with a reference
});
export type ScmQueue = Ptr<'scm_queue'>;

/** The OOM reaper. */
export const OomReaper = struct('oom_reaper', {
  lock: Spinlock,
  victims: ListHead, // tasks whose address space it is to take, by the end of their delay; under lock
  kthread: pointer<'kthread'>(), // NULL = not started
  delayMs: word, // from the choice of a victim until it is reaped
  retryMs: word, // between two attempts
  reaped: word, // victims that were done with; under lock
  gaveUp: word, // … of which all attempts failed; under lock
  wait: WaitQueue, // the reaper, for victims. @kernel oom_reaper_wait
  done: WaitQueue, // who waits until a victim is done with
});
export type OomReaper = Ptr<'oom_reaper'>;
