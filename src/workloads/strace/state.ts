/**
 * What a sweep over the log keeps: tasks, address spaces, and the calls that are in flight.
 *
 * @module
 */
import { AddressSpace } from './address-space.js';
import type { Footprint, PageChange } from './conflicts.js';
import type { Life } from './lives.js';
import type { Action, Operation } from './operations.js';
import type { PageRanges } from './page-ranges.js';
import type { StraceCall } from './parse.js';
import type { Birth } from './translate.js';

/** A thread group. */
export interface ProcessState {
  readonly alive: Set<TaskState>;
  /** The file that each descriptor stands for: index in the plan's files. */
  files: Map<number, number>;
}

/** A thread, as far as the sweep has come. */
export interface TaskState {
  readonly life: Life;
  readonly process: ProcessState;
  readonly operations: Operation[];
  /** The parent's call that made it; undefined before that, and if it was there when the log began. */
  madeBy: InFlight | undefined;
  /** Undefined until it is born. */
  mm: MmState | undefined;
  /** Of `mm.completed`, how many had ended before the call that made it; 0 after an exec. */
  bornAfter: number;
  /** For each other task, how many of its operations have been waited for. */
  readonly waited: Map<number, number>;
  /** Line of its last exec, or 0. */
  execLine: number;
  /** Where another thread's exec ended it, or 0. */
  goneLine: number;
}

/** An address space, as far as the sweep has come. */
export interface MmState {
  readonly index: number;
  readonly space: AddressSpace;
  /** What its contents come from. */
  readonly origin: 'exec' | 'fork';
  /** Index of the address space that was copied, or -1. */
  readonly parent: number;
  readonly line: number;
  users: number;
  /** Calls that have begun and not taken effect, in the order in which they began. */
  readonly pending: Set<InFlight>;
  /** Calls that have taken effect and not ended. */
  readonly effective: Set<InFlight>;
  /** Operations that have ended, in the order in which they did. */
  readonly completed: InFlight[];
  /** If a fork made it: calls on the original that may have come before the fork as well as after it. */
  readonly forkRivals: ForkRival[];
}

/** A call that overlapped a fork and changed pages that the fork copied. */
export interface ForkRival {
  readonly fork: StraceCall;
  readonly call: StraceCall;
  readonly change: PageChange;
  /** In this sweep it came before the fork. */
  readonly isFirst: boolean;
}

/** A call between its beginning and its end. */
export interface InFlight {
  readonly call: StraceCall;
  readonly task: TaskState;
  readonly mm: MmState;
  readonly action: Action;
  readonly outcome: number;
  /** Of an mmap: the descriptor, and whether it may stand for a new file. */
  readonly descriptor: number;
  readonly opensFile: boolean;
  readonly birth: Birth | undefined;
  readonly footprint: Footprint;
  /** How many of `mm.completed` had ended before this began. */
  readonly seen: number;
  /** What a fork made. */
  copy: MmState | undefined;
  /** Its turn has come: it has taken effect, is about to, or is left out. */
  isSettled: boolean;
  /** Undefined before it has taken effect, and if it is left out of the replay. */
  operation: Operation | undefined;
}

export function newTask(life: Life, process: ProcessState): TaskState {
  return {
    life,
    process,
    operations: [],
    madeBy: undefined,
    mm: undefined,
    bornAfter: 0,
    waited: new Map(),
    execLine: 0,
    goneLine: 0,
  };
}

/** The address space that an exec makes. */
export function newExecMm(index: number, line: number, image: PageRanges): MmState {
  return newMm(index, AddressSpace.afterExec(image), line, undefined);
}

/** The copy that a fork makes. */
export function newForkMm(index: number, line: number, parent: MmState): MmState {
  return newMm(index, parent.space.forked(), line, parent);
}

function newMm(
  index: number,
  space: AddressSpace,
  line: number,
  parent: MmState | undefined,
): MmState {
  return {
    index,
    space,
    origin: parent === undefined ? 'exec' : 'fork',
    parent: parent?.index ?? -1,
    line,
    users: 0,
    pending: new Set(),
    effective: new Set(),
    completed: [],
    forkRivals: [],
  };
}
