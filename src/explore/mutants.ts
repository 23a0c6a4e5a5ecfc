/**
 * The planted mistakes: their names, where they are made, and which programs show them.
 *
 * A mistake is part of the code it spoils (`isMutant` where it is made) in the checked and the turnstile
 * build; this table is what people choose from.
 *
 * @module
 */
import { FaultlineError } from '../base/bug.js';
import * as numbers from '../base/mutant-numbers.js';

/** One mistake that can be planted in a machine. */
export interface Mutant {
  /** What `bootMachine` is given. */
  readonly number: number;
  /** `M-4`, `busted-mutex`: what the command line calls it. */
  readonly name: string;
  /** What goes wrong, in a line. */
  readonly description: string;
  /** Under src. */
  readonly file: string;
  /** Programs in which it can be found, the best first. */
  readonly shownBy: readonly string[];
}

const NOTIFIER = 'notifier/mmu-interval-notifier.ts';
const LISTS = 'notifier/mmu-notifier-list.ts';
const REGISTER = 'notifier/mmu-notifier-register.ts';
const REFUSAL = 'explore/programs/list-refusal.ts';
const LIFETIME = 'explore/programs/list-lifetime.ts';
const REAPER = 'process/oom-reaper.ts';
const RETRY = 'explore/programs/retry.ts';

const mutant = (
  number: number,
  name: string,
  file: string,
  shownBy: readonly string[],
  description: string,
): Mutant => ({ number, name, description, file, shownBy });

/** All of them; a machine has one at a time. */
export const MUTANTS_TABLE: readonly Mutant[] = [
  mutant(
    numbers.M_1,
    'M-1',
    LIFETIME,
    ['notifier-exit'],
    'the first of two mirrors clears their mm, and the last does not unregister their notifier',
  ),
  mutant(
    numbers.M_2,
    'M-2',
    NOTIFIER,
    ['lt-14-interval'],
    'what an invalidation has counted is not given back when an interval refuses, as with mirrors in 5.2',
  ),
  mutant(numbers.M_4, 'M-4', NOTIFIER, ['lt-5'], 'a read begins without waiting'),
  mutant(
    numbers.M_5,
    'M-5',
    NOTIFIER,
    ['lt-17', 'lt-17-overlap'],
    'each invalidation counts the sequence on, instead of making it odd',
  ),
  mutant(
    numbers.M_6,
    'M-6',
    NOTIFIER,
    ['lt-17', 'lt-17-overlap'],
    'every end closes the invalidation, not only the last',
  ),
  mutant(numbers.M_7, 'M-7', NOTIFIER, ['lt-17'], 'what was deferred is never worked off'),
  mutant(
    numbers.M_7_EARLY,
    'M-7-early',
    NOTIFIER,
    ['lt-17-overlap', 'lt-17'],
    'what was deferred is worked off before the sequence moves on, not together with it',
  ),
  mutant(
    numbers.M_REMOVE_UNLOCKED,
    'M-remove-unlocked',
    NOTIFIER,
    ['remove-free', 'lt-17'],
    'a removal looks at the sequence without the lock, and returns while the last end still uses the interval',
  ),
  mutant(
    numbers.M_8,
    'M-8',
    RETRY,
    ['lt-5', 'lt-3', 'lt-6'],
    "the driver sets the interval's sequence after it gave its lock back",
  ),
  mutant(
    numbers.M_9,
    'M-9',
    RETRY,
    ['lt-5', 'lt-3', 'lt-6'],
    'the driver asks for the retry before it takes its lock',
  ),
  mutant(
    numbers.M_EXIT_SHARED,
    'M-exit-shared',
    'mm/exit.ts',
    ['oom-exit'],
    'exit frees page tables with the mmap lock for reading, beside the OOM reaper',
  ),
  mutant(
    numbers.M_REAP_WAITS,
    'M-reap-waits',
    REAPER,
    ['oom-exit', 'oom-fault'],
    'the OOM reaper waits for the mmap lock',
  ),
  mutant(
    numbers.M_UNSTABLE_LATE,
    'M-unstable-late',
    REAPER,
    ['oom-fault'],
    'the OOM reaper says that memory was lost after it has taken it',
  ),
  mutant(
    numbers.M_UNSTABLE_UNSEEN,
    'M-unstable-unseen',
    'mm/fault.ts',
    ['oom-fault'],
    'a page fault does not ask whether memory was lost',
  ),
  mutant(
    numbers.M_17,
    'M-17',
    REFUSAL,
    ['lt-14', 'lt-14-interval'],
    'a callback waits for its mutex although it may not block',
  ),
  mutant(
    numbers.M_RELEASE_UNSYNCED,
    'M-release-unsynced',
    LISTS,
    ['notifier-exit'],
    'exit does not wait for a release that an unregistration calls',
  ),
  mutant(
    numbers.M_UNREGISTER_UNSYNCED,
    'M-unregister-unsynced',
    REGISTER,
    ['notifier-exit'],
    'an unregistration does not wait for who walks the list',
  ),
  mutant(
    numbers.M_PUT_AT_ONCE,
    'M-put-at-once',
    REGISTER,
    ['lt-23'],
    'the last put frees at once, and not after a grace period',
  ),
  mutant(
    numbers.M_SECONDARY_LATE,
    'M-secondary-late',
    'mm/fault.ts',
    ['lt-24'],
    "devices' TLBs are told of a copy after its entry is set, not before",
  ),
  mutant(
    numbers.M_16,
    'M-16',
    'explore/programs/sync-point.ts',
    ['lt-18'],
    'the driver unmaps at the end of the invalidation, not at its start',
  ),
  mutant(
    numbers.M_ALLOC_LOCKED,
    'M-alloc-locked',
    'explore/programs/lock-order.ts',
    ['lt-15'],
    'the driver allocates under the lock that its callback takes, and no schedule deadlocks',
  ),
  mutant(
    numbers.M_3,
    'M-3',
    'memremap/hmm-devmem.ts',
    ['hmm-devmem'],
    'device memory is removed without its count having been killed',
  ),
  mutant(
    numbers.M_12,
    'M-12',
    'memremap/memremap.ts',
    ['lt-7', 'lt-7-cleanup'],
    'a page map that goes waits before it has put the references that came with its pages',
  ),
  mutant(
    numbers.M_13,
    'M-13',
    'memremap/memremap.ts',
    ['lt-7', 'lt-7-cleanup'],
    'struct pages are removed before nobody uses them',
  ),
  mutant(
    numbers.M_14,
    'M-14',
    'explore/programs/memremap.ts',
    ['lt-9', 'p2pdma-bars'],
    'two page maps share a count of users',
  ),
  mutant(
    numbers.BUSTED_DEVM_MEMREMAP,
    'busted-devm-memremap',
    'memremap/devm-memremap.ts',
    ['lt-10', 'lt-10-radix'],
    'nobody looks whether the release of a page map could be written down',
  ),
  mutant(
    numbers.BUSTED_PGMAP_LOOKUP,
    'busted-pgmap-lookup',
    'memremap/memremap.ts',
    ['pgmap-lookup'],
    'a page map is freed while somebody who has just looked it up may still try for a reference',
  ),
  mutant(
    numbers.BUSTED_P2PDMA_ALLOC,
    'busted-p2pdma-alloc',
    'drivers/p2pdma/p2pdma.ts',
    ['p2pdma'],
    'memory of a function is handed out although its page map is dying',
  ),
  mutant(
    numbers.BUSTED_P2PDMA_RELEASE,
    'busted-p2pdma-release',
    'drivers/p2pdma/p2pdma.ts',
    ['p2pdma'],
    'the pool of a function is destroyed while somebody who has just found it looks into it',
  ),
  mutant(
    numbers.BUSTED_DAX_KILL,
    'busted-dax-kill',
    'drivers/dax/dax.ts',
    ['dax'],
    'a dax device goes without waiting for the faults that have seen it alive',
  ),
  mutant(
    numbers.BUSTED_PMEM_EXIT,
    'busted-pmem-exit',
    'drivers/pmem/pmem.ts',
    ['pmem', 'pmem-internal'],
    'a request leaves its queue before it has used its pages',
  ),
  mutant(
    numbers.M_20,
    'M-20',
    'sync/rwsem.ts',
    ['rwsem'],
    'readers are let go and woken before they are counted',
  ),
  mutant(
    numbers.BUSTED_RWSEM_READ,
    'busted-rwsem-read',
    'sync/rwsem.ts',
    ['rwsem'],
    'a reader looks whether it was granted the lock before it says that it sleeps',
  ),
  mutant(
    numbers.BUSTED_RWSEM_WRITE,
    'busted-rwsem-write',
    'sync/rwsem.ts',
    ['rwsem-writers'],
    'a queued writer that gets the lock forgets that others are queued',
  ),
  mutant(
    numbers.BUSTED_RWSEM_DOWNGRADE,
    'busted-rwsem-downgrade',
    'sync/rwsem.ts',
    ['rwsem-downgrade'],
    'a downgrade gives the lock back before it counts itself as a reader',
  ),
  mutant(
    numbers.BUSTED_RWSEM_HANDOFF,
    'busted-rwsem-handoff',
    'sync/rwsem.ts',
    ['rwsem-handoff'],
    'a spinning writer takes a lock that a waiter has reserved',
  ),
  mutant(
    numbers.BUSTED_SPINLOCK,
    'busted-spinlock',
    'machine/arch-spinlock.ts',
    ['spinlock'],
    'the lock is taken by a look and a store',
  ),
  mutant(
    numbers.BUSTED_SPINLOCK_WAKE,
    'busted-spinlock-wake',
    'machine/arch-spinlock.ts',
    ['spinlock'],
    'who has parked takes the lock without leaving word that others may be parked',
  ),
  mutant(
    numbers.BUSTED_MUTEX,
    'busted-mutex',
    'sync/mutex.ts',
    ['mutex-sleeper', 'mutex'],
    'a waiter says that it sleeps after its last try',
  ),
  mutant(
    numbers.BUSTED_MUTEX_HANDOFF,
    'busted-mutex-handoff',
    'sync/mutex.ts',
    ['mutex-handoff'],
    'a lock that was promised to a waiter is free for a moment',
  ),
  mutant(
    numbers.BUSTED_SEQCOUNT,
    'busted-seqcount',
    'sync/seqcount.ts',
    ['seqcount'],
    'a read begins although the sequence is odd',
  ),
  mutant(
    numbers.BUSTED_SEQLOCK,
    'busted-seqlock',
    'sync/seqlock.ts',
    ['seqlock'],
    'a writer gives the lock back before it closes its section',
  ),
  mutant(
    numbers.BUSTED_COMPLETION,
    'busted-completion',
    'sync/completion.ts',
    ['completion'],
    'who is woken takes that for done, and leaves the count as it is',
  ),
  mutant(
    numbers.BUSTED_COMPLETION_UNLOCKED,
    'busted-completion-unlocked',
    'sync/completion.ts',
    ['completion'],
    'complete counts without the lock',
  ),
  mutant(
    numbers.BUSTED_WAIT_QUEUE,
    'busted-wait-queue',
    'sync/wait-queue.ts',
    ['wait-queue'],
    'who is woken is unlinked, but its entry still looks queued, and it goes by that',
  ),
  mutant(
    numbers.BUSTED_REFCOUNT,
    'busted-refcount',
    'sync/refcount.ts',
    ['refcount'],
    'whether a reference was the last is looked up after it was put',
  ),
  mutant(
    numbers.BUSTED_REFCOUNT_GET,
    'busted-refcount-get',
    'sync/refcount.ts',
    ['refcount'],
    'a reference is got in two steps: a look that there is one, and an addition',
  ),
  mutant(
    numbers.BUSTED_OSQ,
    'busted-osq',
    'sync/optimistic-spin-queue.ts',
    ['osq'],
    'who leaves does not wait for a successor that has not linked itself yet',
  ),
  mutant(
    numbers.BUSTED_DEVRES,
    'busted-devres',
    'device/devres.ts',
    ['devres'],
    'an action that is asked for is run before it is known to be still there',
  ),
  mutant(
    numbers.BUSTED_DEVRES_FIFO,
    'busted-devres-fifo',
    'device/devres.ts',
    ['devres'],
    'what was taken first goes first',
  ),
  mutant(
    numbers.BUSTED_UNBIND,
    'busted-unbind',
    'device/bind.ts',
    ['unbind-race'],
    'what is managed goes before the driver is asked to let go of the device',
  ),
  mutant(
    numbers.BUSTED_ATTACH,
    'busted-attach',
    'device/bind.ts',
    ['bind-race'],
    'a driver looks for devices before it can be found by one that comes',
  ),
  mutant(
    numbers.BUSTED_MODULE_GET,
    'busted-module-get',
    'device/module.ts',
    ['module-get'],
    'a module is used although it is going, and has no references any more',
  ),
  mutant(
    numbers.BUSTED_FREE_REGION,
    'busted-free-region',
    'device/region.ts',
    ['free-region'],
    'free physical addresses are looked for and taken in two steps',
  ),
  mutant(
    numbers.M_10,
    'M-10',
    'deferred/percpu-refcount.ts',
    ['percpu-ref'],
    "the CPUs' counts are added one by one, after the bias was taken off",
  ),
  mutant(
    numbers.M_11,
    'M-11',
    'deferred/percpu-refcount.ts',
    ['percpu-ref'],
    'the shared count has no bias in per-CPU mode',
  ),
  mutant(
    numbers.BUSTED_PERCPU_RWSEM,
    'busted-percpu-rwsem',
    'deferred/percpu-rwsem.ts',
    ['percpu-rwsem'],
    'a writer does not wait for readers that saw no writer',
  ),
  mutant(
    numbers.BUSTED_PERCPU_RWSEM_READ,
    'busted-percpu-rwsem-read',
    'deferred/percpu-rwsem.ts',
    ['percpu-rwsem-writers'],
    'a reader counts itself after it has looked for a writer',
  ),
  mutant(
    numbers.BUSTED_RCU,
    'busted-rcu',
    'deferred/rcu.ts',
    ['rcu'],
    'a grace period does not wait for the readers there are',
  ),
  mutant(
    numbers.BUSTED_SRCU,
    'busted-srcu',
    'deferred/srcu.ts',
    ['srcu'],
    'locks are summed when the wait begins, not after the unlocks',
  ),
  mutant(
    numbers.BUSTED_WORK,
    'busted-work',
    'deferred/workqueue.ts',
    ['work', 'work-flush'],
    'an item counts as queued until its function has returned',
  ),
  mutant(
    numbers.M_18,
    'M-18',
    'mm/migrate-collect.ts',
    ['migrate-store'],
    'a page is copied to a device while TLBs still have it',
  ),
  mutant(
    numbers.M_19,
    'M-19',
    'mm/migrate-collect.ts',
    ['migrate-migrate'],
    'who migrates waits for locks of pages, and has others locked',
  ),
  mutant(
    numbers.BUSTED_PAGEOUT,
    'busted-pageout',
    'mm/rmap-reclaim.ts',
    ['pageout-store'],
    'a page goes to its slot before its entry is cleared and the TLBs are flushed',
  ),
  mutant(
    numbers.BUSTED_RECLAIM_NOTIFY,
    'busted-reclaim-notify',
    'mm/rmap-reclaim.ts',
    ['reclaim-device'],
    'notifiers hear of a page that goes when it has gone, and its contents are in the slot',
  ),
  mutant(
    numbers.BUSTED_SWAPIN,
    'busted-swapin',
    'mm/fault.ts',
    ['swapin-twice'],
    'a page that comes back is mapped without a look whether its entry has changed meanwhile',
  ),
  mutant(
    numbers.BUSTED_SWAPIN_CACHE,
    'busted-swapin-cache',
    'mm/fault.ts',
    ['swapin-again'],
    'a page comes back past the swap cache, and its entry looks as before: Linux before 6.8',
  ),
  mutant(
    numbers.BUSTED_SWAPIN_LOCK,
    'busted-swapin-lock',
    'mm/fault.ts',
    ['swapin-both'],
    'a page that comes back is mapped without its lock: two address spaces say at once what it belongs to',
  ),
  mutant(
    numbers.BUSTED_FREE_SHARED,
    'busted-free-shared',
    'mm/madvise.ts',
    ['reclaim-freed-shared'],
    'MADV_FREE marks a page that another address space has too, of which no entry says that it was written',
  ),
  mutant(
    numbers.BUSTED_REMOTE_WRITE,
    'busted-remote-write',
    'mm/gup.ts',
    ['remote-write'],
    'who writes from outside gives the mmap lock back before, and a child gets what is written',
  ),
  mutant(
    numbers.BUSTED_FILE_FAULT,
    'busted-file-fault',
    'mm/fault.ts',
    ['truncate-fault'],
    "a page of a file is looked up and mapped without the file's invalidate lock",
  ),
  mutant(
    numbers.BUSTED_KTHREAD,
    'busted-kthread',
    'deferred/kthread.ts',
    ['kthread'],
    'a thread is woken before it is told to stop',
  ),
  mutant(
    numbers.BUSTED_DEVICE_JOB,
    'busted-device-job',
    'explore/programs/device-job.ts',
    ['device-job'],
    'mmap_lock is held for reading while a device is waited for, which faults; a writer comes between',
  ),
];

/** The mistake of that name. @throws FaultlineError if there is none */
export function findMutant(name: string): Mutant {
  const found = MUTANTS_TABLE.find((entry) => entry.name === name);
  if (found !== undefined) return found;
  const message = `there is no mutant ${name}; --list shows those there are`;
  throw new FaultlineError('FAULTLINE_BAD_MUTANT', message);
}
