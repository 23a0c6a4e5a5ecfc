/**
 * What lockdep keeps of one CPU: the locks it holds, how it took them, and the context it is in.
 *
 * Kernel     kernel/locking/lockdep.c (task->held_locks, task_irq_context)
 * Protocol   A stack of entries, each with a hash of the locks up to it, of the same context: the key of its chain.
 *            What is taken is filled in above the top; taking it raises the top. What is left there from the last
 *            time says that the same again has been looked at.
 * Invariant  I1  The hash of an entry is that of all entries of its interrupt context from the outermost to it.
 * Ordering   Only the CPU itself touches it: it is not in shared memory.
 *
 * @module
 */
import type { Cpu, LockWatch } from '../../machine/cpu.js';
import { HELD_LOCKS_MAX } from '../../machine/types.js';
import {
  LOCK_KIND,
  LOCK_MAP,
  LOCK_READ,
  LOCK_READ_RECURSIVE,
  LOCK_TRY,
  SUBCLASSES_MAX,
} from '../lock-how.js';
import { type LockGraph, lockGraphOf } from './graph.js';
import { newSearch, type Search } from './search.js';

/** One CPU's part. */
export interface LockdepTask extends LockWatch {
  readonly graph: LockGraph;
  readonly held: Int32Array;
  /** Entries in use. */
  depth: number;
  /** Nesting of hard and soft interrupts, and of sections that keep them out. */
  hardirqs: number;
  softirqs: number;
  hardirqsOff: number;
  softirqsOff: number;
  /** The interrupt's handler may be a thread in a real-time kernel. */
  threaded: boolean;
  /** All of these, as entries have it: CONTEXT_*. */
  context: number;
  /** What is about to be taken; 0: nothing. */
  prepared: number;
  /** Of `held`: beyond, all is 0. */
  usedWords: number;
  readonly search: Search;
  /** Of the acquisition that is being looked at; 0 if none was kept yet. */
  trace: number;
}

// words of an entry
const H_INSTANCE = 0; // the lock's address, or the number of a class that has no locks
const H_CLASS = 1;
const H_HOW = 2; // lock-how.ts
const H_CONTEXT = 3; // CONTEXT_*
const H_NEST = 4; // the lock around all locks of the class
const H_KEY1 = 5; // hash of this entry and those below
const H_KEY2 = 6;
const H_KNOWN = 7; // 1: looked at; with the class, how, context and keys that are in the entry
const H_WORDS = 8;

/** Room for the maps beside the locks. */
const ENTRIES_MAX = 2 * HELD_LOCKS_MAX;

/** In a soft interrupt, in a hard one. */
const IN_SOFTIRQ = 1;
export const IN_HARDIRQ = 2;
const IN_IRQ = IN_SOFTIRQ | IN_HARDIRQ;
/** Kept out: hard interrupts, soft ones. */
const HARDIRQS_OFF = 4;
const SOFTIRQS_OFF = 8;
const THREADED = 16;

/** A CPU that holds nothing. */
export function newTask(cpu: Cpu, watch: LockWatch): LockdepTask {
  return {
    ...watch,
    graph: lockGraphOf(cpu),
    held: new Int32Array((ENTRIES_MAX + 2) * H_WORDS),
    depth: 0,
    hardirqs: 0,
    softirqs: 0,
    hardirqsOff: 0,
    softirqsOff: 0,
    threaded: false,
    context: 0,
    prepared: 0,
    usedWords: 0,
    search: newSearch(),
    trace: 0,
  };
}

/** Back to a CPU that holds nothing. */
export function resetTask(task: LockdepTask): void {
  task.depth = 0;
  task.hardirqs = 0;
  task.softirqs = 0;
  task.hardirqsOff = 0;
  task.softirqsOff = 0;
  task.context = 0;
  task.prepared = 0;
  task.held.fill(0, 0, task.usedWords);
  task.usedWords = 0;
}

// --- entries ---

function word(task: LockdepTask, entry: number, offset: number): number {
  return task.held[entry * H_WORDS + offset] ?? 0;
}

export function heldInstance(task: LockdepTask, entry: number): number {
  return word(task, entry, H_INSTANCE);
}

export function heldClass(task: LockdepTask, entry: number): number {
  return word(task, entry, H_CLASS);
}

export function heldHow(task: LockdepTask, entry: number): number {
  return word(task, entry, H_HOW);
}

export function heldNest(task: LockdepTask, entry: number): number {
  return word(task, entry, H_NEST);
}

/** True if both entries were taken in the same interrupt, or outside of any. */
export function inSameContext(task: LockdepTask, a: number, b: number): boolean {
  return ((word(task, a, H_CONTEXT) ^ word(task, b, H_CONTEXT)) & IN_IRQ) === 0;
}

/** Where the lock is in the stack, or -1; the innermost, if it is there several times. */
export function findHeld(task: LockdepTask, instance: number): number {
  let entry = task.depth - 1;
  while (entry >= 0 && word(task, entry, H_INSTANCE) !== instance) entry--;
  return entry;
}

/** Fills in the entry above the top: what the CPU is about to take. True if it has been looked at. */
export function prepare(
  task: LockdepTask,
  instance: number,
  lockClass: number,
  how: number,
  nest: number,
): boolean {
  const { held, context } = task;
  const at = task.depth * H_WORDS;
  if (at >= task.usedWords) task.usedWords = at + H_WORDS;
  task.prepared = instance;
  held[at + H_INSTANCE] = instance;
  held[at + H_NEST] = nest;
  if (
    held[at + H_KNOWN] === 1 &&
    held[at + H_CLASS] === lockClass &&
    held[at + H_HOW] === how &&
    held[at + H_CONTEXT] === context
  ) {
    return true;
  }
  held[at + H_CLASS] = lockClass;
  held[at + H_HOW] = how;
  held[at + H_CONTEXT] = context;
  hashEntry(task, task.depth);
  return false;
}

/** What was prepared has been looked at. */
export function setKnown(task: LockdepTask): void {
  task.held[task.depth * H_WORDS + H_KNOWN] = 1;
}

/** What was prepared is held, if it is that; false if there is no room. */
export function push(task: LockdepTask, instance: number): boolean {
  if (task.prepared !== instance) return true;
  task.prepared = 0;
  if (task.depth >= ENTRIES_MAX) return false;
  task.depth++;
  return true;
}

/** An entry is held no more. */
export function removeEntry(task: LockdepTask, entry: number): void {
  task.depth--;
  if (entry === task.depth) return;
  const { held } = task;
  held.copyWithin(entry * H_WORDS, (entry + 1) * H_WORDS, (task.depth + 1) * H_WORDS);
  hashAgain(task, entry);
}

/** A lock that was held exclusively is held for reading. */
export function toRead(task: LockdepTask, entry: number): void {
  task.held[entry * H_WORDS + H_HOW] = (heldHow(task, entry) & ~LOCK_KIND) | LOCK_READ;
  hashAgain(task, entry);
}

/** The entries from this one on follow others than they did. */
function hashAgain(task: LockdepTask, entry: number): void {
  for (let i = entry; i < task.depth; i++) hashEntry(task, i);
  task.held[task.depth * H_WORDS + H_KNOWN] = 0;
}

/** The hash of an entry, from the one below it; nothing is known of what lies above from the last time. */
function hashEntry(task: LockdepTask, entry: number): void {
  const { held } = task;
  const at = entry * H_WORDS;
  const isFirst = entry === 0 || !inSameContext(task, entry, entry - 1);
  const below1 = isFirst ? 0 : (held[at - H_WORDS + H_KEY1] ?? 0); // I1
  const below2 = isFirst ? 0 : (held[at - H_WORDS + H_KEY2] ?? 0);
  const how = (held[at + H_HOW] ?? 0) & (LOCK_KIND | ((SUBCLASSES_MAX - 1) << 3));
  const id = (held[at + H_CLASS] ?? 0) + Math.imul(how + 1, 0x9e3779b1);
  held[at + H_KEY1] = mix(below1 ^ id);
  held[at + H_KEY2] = mix(below2 + Math.imul(id, 0x2c1b3c6d));
  held[at + H_KNOWN] = 0;
  held[at + H_WORDS + H_KNOWN] = 0;
}

function mix(value: number): number {
  const half = Math.imul(value ^ (value >>> 15), 0x85ebca6b);
  return half ^ (half >>> 13);
}

/** The first half of the hash of what is prepared, in its context; never 0. */
export function preparedKey1(task: LockdepTask): number {
  const at = task.depth * H_WORDS;
  const { held } = task;
  const key = mix((held[at + H_KEY1] ?? 0) + salt(task, at));
  return key === 0 ? 1 : key;
}

/** The second half. */
export function preparedKey2(task: LockdepTask): number {
  const at = task.depth * H_WORDS;
  return (task.held[at + H_KEY2] ?? 0) ^ Math.imul(salt(task, at), 0x27d4eb2f);
}

/** All else that decides what there is to look at: context, try, wait types. */
function salt(task: LockdepTask, at: number): number {
  return ((task.held[at + H_HOW] ?? 0) << 5) | (task.held[at + H_CONTEXT] ?? 0);
}

// --- contexts ---

/** Of what the nestings say. */
export function noteContext(task: LockdepTask): void {
  let context = 0;
  if (task.softirqs > 0) context |= IN_SOFTIRQ;
  if (task.hardirqs > 0) context |= task.threaded ? IN_HARDIRQ | THREADED : IN_HARDIRQ;
  if (!hardirqsEnabled(task)) context |= HARDIRQS_OFF;
  if (!softirqsEnabled(task)) context |= SOFTIRQS_OFF;
  task.context = context;
}

export function hardirqsEnabled(task: LockdepTask): boolean {
  return task.hardirqs === 0 && task.hardirqsOff === 0;
}

export function softirqsEnabled(task: LockdepTask): boolean {
  return task.softirqs === 0 && task.softirqsOff === 0;
}

/** True if the prepared or held entry was taken in a hard, or a soft, interrupt. */
export function tookInHardirq(task: LockdepTask, entry: number): boolean {
  return (word(task, entry, H_CONTEXT) & IN_HARDIRQ) !== 0;
}

export function tookInSoftirq(task: LockdepTask, entry: number): boolean {
  return (word(task, entry, H_CONTEXT) & IN_SOFTIRQ) !== 0;
}

/** True if a hard, or a soft, interrupt could come right after the entry was taken. */
export function tookWithHardirqs(task: LockdepTask, entry: number): boolean {
  return (word(task, entry, H_CONTEXT) & HARDIRQS_OFF) === 0;
}

export function tookWithSoftirqs(task: LockdepTask, entry: number): boolean {
  return (word(task, entry, H_CONTEXT) & SOFTIRQS_OFF) === 0;
}

// --- kinds ---

/** What carries it may go meanwhile. */
export function isMap(how: number): boolean {
  return (how & LOCK_MAP) !== 0;
}

export function isTry(how: number): boolean {
  return (how & LOCK_TRY) !== 0;
}

/** Held beside others. */
export function isShared(how: number): boolean {
  return (how & LOCK_KIND) !== 0;
}

/** Taken whoever else waits. */
export function isRecursive(how: number): boolean {
  return (how & LOCK_KIND) === LOCK_READ_RECURSIVE;
}
