/**
 * Linux's numbers for what strace prints by name, as on x86-64.
 *
 * Each table holds the names of one kind of argument. A name that is in no table is an error where the
 * log is read, not a flag that is quietly left out.
 *
 * @module
 */

export const PROT_NONE = 0;
export const PROT_READ = 1;
export const PROT_WRITE = 2;
export const PROT_EXEC = 4;

export const MAP_SHARED = 0x01;
export const MAP_PRIVATE = 0x02;
/** The bits that say how a mapping is shared. @kernel MAP_TYPE */
export const MAP_TYPE = 0x0f;
export const MAP_FIXED = 0x10;
export const MAP_ANONYMOUS = 0x20;
export const MAP_HUGETLB = 0x40000;
export const MAP_FIXED_NOREPLACE = 0x100000;
/** Where in the flags the logarithm of the huge page's size stands. */
export const MAP_HUGE_SHIFT = 26;
/** Bits of that logarithm; 0 means the default size. */
export const MAP_HUGE_MASK = 0x3f;

export const MREMAP_MAYMOVE = 1;
export const MREMAP_FIXED = 2;
export const MREMAP_DONTUNMAP = 4;

export const MADV_DONTNEED = 4;
export const MADV_DONTFORK = 10;
export const MADV_DOFORK = 11;

export const MLOCK_ONFAULT = 1;

export const MCL_CURRENT = 1;
export const MCL_FUTURE = 2;
export const MCL_ONFAULT = 4;

export const MS_ASYNC = 1;
export const MS_INVALIDATE = 2;
export const MS_SYNC = 4;

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
  PROT_SEM: 0x8,
  PROT_GROWSDOWN: 0x01000000,
  PROT_GROWSUP: 0x02000000,
});

export const MAP_FLAGS = table({
  MAP_FILE: 0,
  MAP_SHARED,
  MAP_PRIVATE,
  MAP_SHARED_VALIDATE: 0x03,
  MAP_DROPPABLE: 0x08,
  MAP_FIXED,
  MAP_ANONYMOUS,
  MAP_ANON: MAP_ANONYMOUS,
  MAP_32BIT: 0x40,
  MAP_ABOVE4G: 0x80,
  MAP_GROWSDOWN: 0x100,
  MAP_DENYWRITE: 0x800,
  MAP_EXECUTABLE: 0x1000,
  MAP_LOCKED: 0x2000,
  MAP_NORESERVE: 0x4000,
  MAP_POPULATE: 0x8000,
  MAP_NONBLOCK: 0x10000,
  MAP_STACK: 0x20000,
  MAP_HUGETLB,
  MAP_SYNC: 0x80000,
  MAP_FIXED_NOREPLACE,
  MAP_UNINITIALIZED: 0x4000000,
});

export const MREMAP_FLAGS = table({ MREMAP_MAYMOVE, MREMAP_FIXED, MREMAP_DONTUNMAP });

export const MADV_ADVICE = table({
  MADV_NORMAL: 0,
  MADV_RANDOM: 1,
  MADV_SEQUENTIAL: 2,
  MADV_WILLNEED: 3,
  MADV_DONTNEED,
  MADV_FREE: 8,
  MADV_REMOVE: 9,
  MADV_DONTFORK,
  MADV_DOFORK,
  MADV_MERGEABLE: 12,
  MADV_UNMERGEABLE: 13,
  MADV_HUGEPAGE: 14,
  MADV_NOHUGEPAGE: 15,
  MADV_DONTDUMP: 16,
  MADV_DODUMP: 17,
  MADV_WIPEONFORK: 18,
  MADV_KEEPONFORK: 19,
  MADV_COLD: 20,
  MADV_PAGEOUT: 21,
  MADV_POPULATE_READ: 22,
  MADV_POPULATE_WRITE: 23,
  MADV_DONTNEED_LOCKED: 24,
  MADV_COLLAPSE: 25,
  MADV_HWPOISON: 100,
  MADV_SOFT_OFFLINE: 101,
  MADV_GUARD_INSTALL: 102,
  MADV_GUARD_REMOVE: 103,
});

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
