/**
 * What stands between a task and shared memory in the turnstile build: who may make the next operation.
 *
 * Every operation of `#memory` announces itself to its CPU's turnstile and is made when its turn comes.
 * The parallel build has no such thing; a CPU of the turnstile build without one (a plain crew, a test)
 * makes its operations at once.
 *
 * @module
 */
import type { MemoryPort } from './port.js';

/** Plain load. */
export const OP_READ = 1;
/** Plain store. */
export const OP_WRITE = 2;
/** Marked load: readOnce. */
export const OP_READ_ONCE = 3;
/** loadAcquire. */
export const OP_ACQUIRE = 4;
/** Marked store: writeOnce. */
export const OP_WRITE_ONCE = 5;
/** storeRelease. */
export const OP_RELEASE = 6;
/** Atomic read-modify-write, fully ordered. */
export const OP_RMW = 7;
/** The look at a word before sleeping on it; the sleep begins if the word has the value. */
export const OP_PARK = 8;
/** The return from that sleep, when somebody has woken the task or its time is up. */
export const OP_RESUME = 9;
/** Wakes sleepers. */
export const OP_UNPARK = 10;
/** A turn of a spin loop. */
export const OP_SPIN = 11;
/** Taking a lock that is modelled: waits until the word is 0; the task's own operation follows at once. */
export const OP_LOCK = 12;
/** A struct was given back to its allocator. */
export const OP_FREE = 13;
/** A struct was handed out. */
export const OP_ALLOC = 14;

/** Names for people, by number. */
export const OP_NAMES: readonly string[] = [
  'none',
  'read',
  'write',
  'readOnce',
  'loadAcquire',
  'writeOnce',
  'storeRelease',
  'update',
  'park',
  'wake up',
  'unpark',
  'spin',
  'lock',
  'free',
  'alloc',
];

/** Operations after which memory may differ, for whoever asks which of two depend on each other. */
export function isWriteOp(kind: number): boolean {
  return ((WRITING >> kind) & 1) !== 0;
}
const WRITING =
  (1 << OP_WRITE) |
  (1 << OP_WRITE_ONCE) |
  (1 << OP_RELEASE) |
  (1 << OP_RMW) |
  (1 << OP_UNPARK) |
  (1 << OP_LOCK) |
  (1 << OP_FREE) |
  (1 << OP_ALLOC);

/** One CPU's side of the controller. Indices are words of the machine. */
export interface Turnstile {
  /**
   * Announces the operation and waits for its turn. In the virtual engine the rewritten caller has asked
   * already, by `mustYield`, and this does nothing.
   */
  pass(cpu: MemoryPort, kind: number, at: number, count: number): void;
  /** The virtual engine's question: true if another task comes first, and the caller must yield. */
  mustYield(cpu: MemoryPort, kind: number, at: number, count: number): boolean;
  /** `count` words from `at` are about to change: they are restored after the schedule. */
  log(at: number, count: number): void;
  /** How long the sleep that was announced may last; Infinity: until somebody wakes. */
  sleepFor(cpu: MemoryPort, timeoutMs: number): void;
  /** After the turn of OP_RESUME: true if somebody woke the task, false if its time was up. */
  wasWoken(cpu: MemoryPort): boolean;
  /** Wakes at most `count` sleepers on the word, first come first; returns how many. */
  wake(at: number, count: number): number;
  /** The modelled time. */
  clockMs(cpu: MemoryPort): number;
  /** True if locks that say so are modelled: a task waits its turn until the lock is free. */
  readonly modelsLocks: boolean;
}
