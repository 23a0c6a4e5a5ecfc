/**
 * The programs that ship with faultline.
 *
 * @module
 */
import type { ExploreProgram } from '../program.js';
import { SPACE_PROGRAMS } from './address-space.js';
import { completion, completionTimeout } from './completion.js';
import { DEFERRED_PROGRAMS } from './deferred.js';
import { DEVICE_JOB_PROGRAMS } from './device-job.js';
import { DEVICE_PROGRAMS } from './devices.js';
import { kthread } from './kthread.js';
import { LIFETIME_PROGRAMS } from './list-lifetime.js';
import { REFUSAL_PROGRAMS } from './list-refusal.js';
import { lt15 } from './lock-order.js';
import { lockToyNamed } from './lock-toy.js';
import { MEMREMAP_PROGRAMS } from './memremap.js';
import { MIGRATION_PROGRAMS } from './migration.js';
import { DESIGN_PROGRAMS } from './mirror-designs.js';
import { RELEASE_PROGRAMS } from './mirror-release.js';
import { MODULE_PROGRAMS } from './modules.js';
import { abba, mutex, mutexHandoff, mutexKillable, mutexSleeper } from './mutex.js';
import { OOM_PROGRAMS } from './oom.js';
import { oomRetry } from './oom-retry.js';
import { osq } from './osq.js';
import { PAGEMAP_USER_PROGRAMS } from './pagemap-users.js';
import { PAGING_PROGRAMS } from './paging.js';
import { PERCPU_REF_PROGRAMS } from './percpu-refcount.js';
import { PERCPU_RWSEM_PROGRAMS } from './percpu-rwsem.js';
import { PLANTED_BUGS, SOUND_COUNTER } from './planted.js';
import { randomProgram } from './random.js';
import { RCU_PROGRAMS } from './rcu.js';
import { READ_TRYLOCK_PROGRAMS } from './read-trylock.js';
import { RECLAIM_PROGRAMS } from './reclaim.js';
import { refcount } from './refcount.js';
import { RETRY_PROGRAMS } from './retry.js';
import { RWSEM_PROGRAMS } from './rwsem.js';
import { lt24 } from './secondary-tlb.js';
import { seqcount, seqlock } from './seqcount.js';
import { spinlock } from './spinlock.js';
import { SRCU_PROGRAMS } from './srcu.js';
import { lt18 } from './sync-point.js';
import { toyNamed } from './toy.js';
import { validFlag } from './valid-flag.js';
import { waitQueue } from './wait-queue.js';
import { WORKQUEUE_PROGRAMS } from './workqueue.js';

/** All but the random ones. */
export const PROGRAMS: readonly ExploreProgram[] = [
  ...RETRY_PROGRAMS,
  ...PAGING_PROGRAMS,
  ...MIGRATION_PROGRAMS,
  ...RECLAIM_PROGRAMS,
  validFlag,
  ...DEFERRED_PROGRAMS,
  lt15,
  lt18,
  ...REFUSAL_PROGRAMS,
  ...LIFETIME_PROGRAMS,
  ...DESIGN_PROGRAMS,
  ...RELEASE_PROGRAMS,
  ...READ_TRYLOCK_PROGRAMS,
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
  ...DEVICE_JOB_PROGRAMS,
  ...DEVICE_PROGRAMS,
  ...MODULE_PROGRAMS,
  ...MEMREMAP_PROGRAMS,
  ...PAGEMAP_USER_PROGRAMS,
  ...RCU_PROGRAMS,
  ...SRCU_PROGRAMS,
  ...PERCPU_REF_PROGRAMS,
  ...PERCPU_RWSEM_PROGRAMS,
  ...WORKQUEUE_PROGRAMS,
  kthread,
  ...SPACE_PROGRAMS,
  lt24,
  ...OOM_PROGRAMS,
  oomRetry,
];

/** What tests the explorer itself: programs with a planted bug each, and one without. */
const TESTS: readonly ExploreProgram[] = [
  ...PLANTED_BUGS.map(({ program }) => program),
  SOUND_COUNTER,
];

/**
 * The program of that name; `random-N`, `random-mm-N`, `random-huge-N`, `toy-N` and `locks-N` are drawn with N as their
 * seed.
 */
export function programNamed(name: string): ExploreProgram | undefined {
  const shipped = [...PROGRAMS, ...TESTS].find((program) => program.name === name);
  return shipped ?? toyNamed(name) ?? lockToyNamed(name) ?? randomProgram(name);
}
