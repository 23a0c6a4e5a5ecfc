/**
 * The operations of a replay: what they are called, which arguments they have, in which order.
 *
 * This table is the only place that says so; the typed form and the encoded rows both follow from it.
 *
 * Addresses are the log's own. Where the log shows that the kernel chose one, the operation has it:
 *   mmap    `address` is where the mapping came to lie, whatever was asked for (if it failed, or the place
 *           was fixed: what was asked for). `flags` are the log's.
 *   mremap  `newAddress` is where the mapping came to lie, `address` itself if it did not move (if it
 *           failed: what was asked for, or 0).
 *   brk     `address` 0 asks for the break.
 *
 * @module
 */

/** Arguments by name. `file`, `childTask`, `childMm` and `newMm` are indices into the plan's lists. */
export const ARGUMENTS = {
  mmap: ['address', 'length', 'protection', 'flags', 'file', 'offset'], // file -1 = anonymous
  munmap: ['address', 'length'],
  mprotect: ['address', 'length', 'protection'],
  mremap: ['address', 'oldLength', 'newLength', 'flags', 'newAddress'],
  madvise: ['address', 'length', 'advice'],
  brk: ['address'],
  mlock: ['address', 'length'],
  mlock2: ['address', 'length', 'flags'],
  munlock: ['address', 'length'],
  mlockall: ['flags'],
  munlockall: [],
  msync: ['address', 'length', 'flags'],
  mincore: ['address', 'length'],
  fork: ['childTask', 'childMm'], // the child gets a copy of the address space
  thread: ['childTask'], // the child shares the address space
  vfork: ['childTask'], // … until its exec; posix_spawn does that, too
  exec: ['newMm', 'startBrk'], // leaves the old address space (if any); startBrk 0 = never asked for
  exit: [], // leaves the address space; the last to do so ends it
} as const;

export type OperationKind = keyof typeof ARGUMENTS;

/** Largest number of arguments of any operation. */
export const ARGUMENTS_MAX = 6;

type ActionOf<K extends OperationKind> = { readonly kind: K } & Readonly<
  Record<(typeof ARGUMENTS)[K][number], number>
>;

/** A kind of operation with its arguments. */
export type Action = { [K in OperationKind]: ActionOf<K> }[OperationKind];

/** An action of one kind. */
export type ActionWith<K extends OperationKind> = Extract<Action, { readonly kind: K }>;

/** Something that must have happened before: the first `count` operations of `task`. */
export interface Wait {
  /** Index in the plan's tasks. */
  readonly task: number;
  readonly count: number;
}

/** Of a call whose outcome does not follow from the rest of the log. */
export interface Unexplained {
  /** Completes the sentence that begins with the call's name. */
  readonly reason: string;
  /** What no log shows, such as a limit, can have refused it; otherwise the log contradicts itself. */
  readonly isOutside: boolean;
}

/** One step of a task. */
export interface Operation {
  readonly task: number;
  /** Its number in the task, from 0. */
  readonly number: number;
  /** Where it began in the log, and where it ended. */
  readonly line: number;
  readonly endLine: number;
  /** When it began. Unit: milliseconds since the log began. */
  readonly timeMs: number;
  /** The address space it acts on; for the first exec of all, which has none, -1. */
  readonly mm: number;
  readonly action: Action;
  /** What it must return: a value, or a negative error number. */
  readonly expected: number;
  /** Why that does not follow from the rest of the log, if it does not. */
  readonly unexplained: Unexplained | undefined;
  /** Those not implied by the waits of the task's earlier operations. */
  readonly waits: readonly Wait[];
}
