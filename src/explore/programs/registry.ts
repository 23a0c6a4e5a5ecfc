/**
 * The programs that ship with faultline.
 *
 * @module
 */
import { type ExploreProgram } from '../program.js';
import { SPACE_PROGRAMS } from './address-space.js';
import { completion, completionTimeout } from './completion.js';
import { DEFERRED_PROGRAMS } from './deferred.js';
import { abba, mutex, mutexHandoff, mutexKillable, mutexSleeper } from './mutex.js';
import { osq } from './osq.js';
import { randomProgram } from './random.js';
import { refcount } from './refcount.js';
import { RETRY_PROGRAMS } from './retry.js';
import { RWSEM_PROGRAMS } from './rwsem.js';
import { seqcount, seqlock } from './seqcount.js';
import { spinlock } from './spinlock.js';
import { lt18 } from './sync-point.js';
import { validFlag } from './valid-flag.js';
import { waitQueue } from './wait-queue.js';

/** All but the random ones. */
export const PROGRAMS: readonly ExploreProgram[] = [
  ...RETRY_PROGRAMS,
  validFlag,
  ...DEFERRED_PROGRAMS,
  lt18,
  spinlock,
  mutex,
  mutexHandoff,
  mutexSleeper,
  mutexKillable,
  abba,
  ...RWSEM_PROGRAMS,
  seqcount,
  seqlock,
  completion,
  completionTimeout,
  waitQueue,
  refcount,
  osq,
  ...SPACE_PROGRAMS,
];

/** The program of that name; `random-N` is drawn with N as its seed. */
export function programNamed(name: string): ExploreProgram | undefined {
  return PROGRAMS.find((program) => program.name === name) ?? randomProgram(name);
}
