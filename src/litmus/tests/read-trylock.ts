/**
 * LT-22: what it means that a semaphore cannot be had for reading at once.
 *
 * @module
 */
import type { Window } from '../../explore/program.js';
import { READ_TRYLOCK_PROGRAMS } from '../../explore/programs/read-trylock.js';
import { defineLitmus } from '../litmus.js';
import { named } from '../named.js';

const program = named(READ_TRYLOCK_PROGRAMS);

const WRITER_QUEUED: Window = {
  order: [
    'fault reads',
    'writer comes',
    'a writer is queued',
    'reaper tries',
    'reaper has tried',
    'fault reads',
  ],
};

export const readTrylockTest = defineLitmus({
  id: 'LT-22',
  title: 'the OOM reaper tries the mmap lock while a fault reads and munmap waits',
  source: 'down_read_trylock in kernel/locking/rwsem.c, __oom_reap_task_mm in mm/oom_kill.c',
  variants: [
    {
      name: 'conclude',
      title: 'the reaper takes a refusal for a writer that has the lock',
      expected: 'unsafe',
      program: program('lt-22-conclusion'),
      window: WRITER_QUEUED,
      build: 'checked',
    },
    {
      name: 'come-again',
      title: 'the reaper concludes nothing, and comes again',
      expected: 'safe',
      program: program('lt-22'),
      window: WRITER_QUEUED,
      build: 'checked',
    },
  ],
});
