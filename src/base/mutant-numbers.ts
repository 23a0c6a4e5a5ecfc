/**
 * Planted mistakes by number: what a machine's word says, and what kernel code asks for.
 *
 * M-n are those of docs/invariants.md; the others are a lock each with a mistake that people make. What they
 * are and what shows them is in explore/mutants.ts.
 *
 * @module
 */

/** A machine without a mistake. */
export const NO_MUTANT = 0;

// notifier/mmu-interval-notifier.ts
export const M_2 = 2;
export const M_4 = 4;
export const M_5 = 5;
export const M_6 = 6;
export const M_7 = 7;
export const M_7_EARLY = 107;
export const M_REMOVE_UNLOCKED = 108;

// exit, and the OOM reaper
export const M_EXIT_SHARED = 113;
export const M_REAP_WAITS = 114;
export const M_UNSTABLE_LATE = 115;
export const M_UNSTABLE_UNSEEN = 116;

// the lists of notifiers, and what tells them
export const M_RELEASE_UNSYNCED = 109;
export const M_UNREGISTER_UNSYNCED = 110;
export const M_PUT_AT_ONCE = 111;
export const M_SECONDARY_LATE = 112;

// what drivers do, in explore/programs
export const M_1 = 1;
export const M_8 = 8;
export const M_9 = 9;
export const M_16 = 16;
export const M_ALLOC_LOCKED = 117;
export const M_17 = 17;

// sync/rwsem.ts
export const M_20 = 20;
export const BUSTED_RWSEM_READ = 201;
export const BUSTED_RWSEM_WRITE = 202;
export const BUSTED_RWSEM_DOWNGRADE = 203;
export const BUSTED_RWSEM_HANDOFF = 204;

// machine/arch-spinlock.ts
export const BUSTED_SPINLOCK = 211;
export const BUSTED_SPINLOCK_WAKE = 212;

// the other locks of sync
export const BUSTED_MUTEX = 221;
export const BUSTED_MUTEX_HANDOFF = 222;
export const BUSTED_SEQCOUNT = 231;
export const BUSTED_SEQLOCK = 232;
export const BUSTED_COMPLETION = 241;
export const BUSTED_COMPLETION_UNLOCKED = 242;
export const BUSTED_WAIT_QUEUE = 251;
export const BUSTED_REFCOUNT = 261;
export const BUSTED_REFCOUNT_GET = 262;
export const BUSTED_OSQ = 271;

// device
export const BUSTED_DEVRES = 281;
export const BUSTED_DEVRES_FIFO = 282;
export const BUSTED_UNBIND = 283;
export const BUSTED_ATTACH = 284;
export const BUSTED_MODULE_GET = 285;
export const BUSTED_FREE_REGION = 286;

// what is done later
export const M_10 = 10;
export const M_11 = 11;
export const BUSTED_RCU = 301;
export const BUSTED_SRCU = 311;
export const BUSTED_WORK = 321;
export const BUSTED_KTHREAD = 331;
export const BUSTED_DEVICE_JOB = 333;

export const BUSTED_PERCPU_RWSEM = 336;
export const BUSTED_PERCPU_RWSEM_READ = 337;

// memremap
export const M_3 = 3;
export const M_12 = 12;
export const M_13 = 13;
export const M_14 = 14;
export const BUSTED_DEVM_MEMREMAP = 341;
export const BUSTED_PGMAP_LOOKUP = 342;

// who uses memremap
export const BUSTED_P2PDMA_ALLOC = 351;
export const BUSTED_P2PDMA_RELEASE = 352;
export const BUSTED_DAX_KILL = 353;
export const BUSTED_PMEM_EXIT = 354;

// paging
export const BUSTED_PAGEOUT = 361;
export const BUSTED_FILE_FAULT = 362;
export const BUSTED_RECLAIM_NOTIFY = 363;
export const BUSTED_SWAPIN = 364;
export const BUSTED_SWAPIN_CACHE = 365;
export const BUSTED_SWAPIN_LOCK = 366;
export const BUSTED_FREE_SHARED = 367;
export const BUSTED_REMOTE_WRITE = 368;

// migration
export const M_18 = 18;
export const M_19 = 19;
