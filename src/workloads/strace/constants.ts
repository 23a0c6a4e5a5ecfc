/**
 * Linux's numbers for what strace prints by name, as on x86-64.
 *
 * Each table holds the names of one kind of argument. A name that is in no table is an error where the
 * log is read, not a flag that is quietly left out.
 *
 * @module
 */

import {
  MADV_COLD,
  MADV_COLLAPSE,
  MADV_DODUMP,
  MADV_DOFORK,
  MADV_DONTDUMP,
  MADV_DONTFORK,
  MADV_DONTNEED,
  MADV_DONTNEED_LOCKED,
  MADV_FREE,
  MADV_GUARD_INSTALL,
  MADV_GUARD_REMOVE,
  MADV_HUGEPAGE,
  MADV_HWPOISON,
  MADV_KEEPONFORK,
  MADV_MERGEABLE,
  MADV_NOHUGEPAGE,
  MADV_NORMAL,
  MADV_PAGEOUT,
  MADV_POPULATE_READ,
  MADV_POPULATE_WRITE,
  MADV_RANDOM,
  MADV_REMOVE,
  MADV_SEQUENTIAL,
  MADV_SOFT_OFFLINE,
  MADV_UNMERGEABLE,
  MADV_WILLNEED,
  MADV_WIPEONFORK,
  MAP_32BIT,
  MAP_ABOVE4G,
  MAP_ANONYMOUS,
  MAP_DENYWRITE,
  MAP_DROPPABLE,
  MAP_EXECUTABLE,
  MAP_FIXED,
  MAP_FIXED_NOREPLACE,
  MAP_GROWSDOWN,
  MAP_HUGETLB,
  MAP_LOCKED,
  MAP_NONBLOCK,
  MAP_NORESERVE,
  MAP_POPULATE,
  MAP_PRIVATE,
  MAP_SHARED,
  MAP_SHARED_VALIDATE,
  MAP_STACK,
  MAP_SYNC,
  MAP_UNINITIALIZED,
  MCL_CURRENT,
  MCL_FUTURE,
  MCL_ONFAULT,
  MLOCK_ONFAULT,
  MREMAP_DONTUNMAP,
  MREMAP_FIXED,
  MREMAP_MAYMOVE,
  MS_ASYNC,
  MS_INVALIDATE,
  MS_SYNC,
  PROT_EXEC,
  PROT_GROWSDOWN,
  PROT_GROWSUP,
  PROT_NONE,
  PROT_READ,
  PROT_SEM,
  PROT_WRITE,
} from '../../mm/uapi.js';

export const CLONE_VM = 0x100;
export const CLONE_VFORK = 0x4000;
export const CLONE_THREAD = 0x10000;

/** Names of one kind of argument and their bits. */
export type FlagTable = ReadonlyMap<string, number>;

function table(entries: Record<string, number>): FlagTable {
  return new Map(Object.entries(entries));
}

export const PROT_FLAGS = table({
  PROT_NONE,
  PROT_READ,
  PROT_WRITE,
  PROT_EXEC,
  PROT_SEM,
  PROT_GROWSDOWN,
  PROT_GROWSUP,
});

export const MAP_FLAGS = table({
  MAP_FILE: 0,
  MAP_SHARED,
  MAP_PRIVATE,
  MAP_SHARED_VALIDATE,
  MAP_DROPPABLE,
  MAP_FIXED,
  MAP_ANONYMOUS,
  MAP_ANON: MAP_ANONYMOUS,
  MAP_32BIT,
  MAP_ABOVE4G,
  MAP_GROWSDOWN,
  MAP_DENYWRITE,
  MAP_EXECUTABLE,
  MAP_LOCKED,
  MAP_NORESERVE,
  MAP_POPULATE,
  MAP_NONBLOCK,
  MAP_STACK,
  MAP_HUGETLB,
  MAP_SYNC,
  MAP_FIXED_NOREPLACE,
  MAP_UNINITIALIZED,
});

export const MREMAP_FLAGS = table({ MREMAP_MAYMOVE, MREMAP_FIXED, MREMAP_DONTUNMAP });

export const MADV_ADVICE = table({
  MADV_NORMAL,
  MADV_RANDOM,
  MADV_SEQUENTIAL,
  MADV_WILLNEED,
  MADV_DONTNEED,
  MADV_FREE,
  MADV_REMOVE,
  MADV_DONTFORK,
  MADV_DOFORK,
  MADV_MERGEABLE,
  MADV_UNMERGEABLE,
  MADV_HUGEPAGE,
  MADV_NOHUGEPAGE,
  MADV_DONTDUMP,
  MADV_DODUMP,
  MADV_WIPEONFORK,
  MADV_KEEPONFORK,
  MADV_COLD,
  MADV_PAGEOUT,
  MADV_POPULATE_READ,
  MADV_POPULATE_WRITE,
  MADV_DONTNEED_LOCKED,
  MADV_COLLAPSE,
  MADV_HWPOISON,
  MADV_SOFT_OFFLINE,
  MADV_GUARD_INSTALL,
  MADV_GUARD_REMOVE,
});

const ADVICE_NOT_EMULATED: ReadonlySet<number> = new Set([
  MADV_REMOVE,
  MADV_COLLAPSE,
  MADV_HWPOISON,
  MADV_SOFT_OFFLINE,
  MADV_GUARD_INSTALL,
  MADV_GUARD_REMOVE,
]);

/** Advice that has the effect it has in Linux, as far as a program or a device can see it. */
export const EMULATED_ADVICE: ReadonlySet<number> = new Set(
  [...MADV_ADVICE.values()].filter((advice) => !ADVICE_NOT_EMULATED.has(advice)),
);

/** Calls on memory that a replay leaves out: what strace -e trace=%memory logs besides, and their like. */
export const MEMORY_CALLS: ReadonlySet<string> = new Set([
  'cacheflush',
  'get_mempolicy',
  'map_shadow_stack',
  'mbind',
  'migrate_pages',
  'move_pages',
  'mseal',
  'pkey_alloc',
  'pkey_free',
  'process_madvise',
  'process_mrelease',
  'remap_file_pages',
  'set_mempolicy',
  'set_mempolicy_home_node',
  'shmat',
  'shmdt',
  'userfaultfd',
]);

export const MLOCK_FLAGS = table({ MLOCK_ONFAULT });

export const MCL_FLAGS = table({ MCL_CURRENT, MCL_FUTURE, MCL_ONFAULT });

export const MS_FLAGS = table({ MS_ASYNC, MS_INVALIDATE, MS_SYNC });

export const CLONE_FLAGS = table({
  CLONE_NEWTIME: 0x80,
  CLONE_VM,
  CLONE_FS: 0x200,
  CLONE_FILES: 0x400,
  CLONE_SIGHAND: 0x800,
  CLONE_PIDFD: 0x1000,
  CLONE_PTRACE: 0x2000,
  CLONE_VFORK,
  CLONE_PARENT: 0x8000,
  CLONE_THREAD,
  CLONE_NEWNS: 0x20000,
  CLONE_SYSVSEM: 0x40000,
  CLONE_SETTLS: 0x80000,
  CLONE_PARENT_SETTID: 0x100000,
  CLONE_CHILD_CLEARTID: 0x200000,
  CLONE_DETACHED: 0x400000,
  CLONE_UNTRACED: 0x800000,
  CLONE_CHILD_SETTID: 0x1000000,
  CLONE_NEWCGROUP: 0x2000000,
  CLONE_NEWUTS: 0x4000000,
  CLONE_NEWIPC: 0x8000000,
  CLONE_NEWUSER: 0x10000000,
  CLONE_NEWPID: 0x20000000,
  CLONE_NEWNET: 0x40000000,
  CLONE_IO: 2 ** 31,
  CLONE_CLEAR_SIGHAND: 2 ** 32,
  CLONE_INTO_CGROUP: 2 ** 33,
});
