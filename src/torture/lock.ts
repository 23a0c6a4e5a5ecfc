/**
 * A lock of the user's, as `faultline torture --lock MODULE` takes it.
 *
 * @module
 */
import type { Cpu } from '../machine/cpu.js';
import { defineOps, type OpsTable } from '../machine/ops-table.js';

/** Words that a lock may have. */
export const LOCK_WORDS_MAX = 256;

/** What a module exports as `lock`: made by `defineTortureLock`. All functions run on workers, as CPUs. */
export interface TortureLock extends OpsTable {
  /** Words of the lock's struct; the second is the kernel's (its lock class) and not to be used. */
  readonly words: number;
  /** Makes a free lock of words that are 0. */
  init(cpu: Cpu, lock: number): void;
  /** Takes the lock; returns when this CPU has it, and no other. */
  lock(cpu: Cpu, lock: number): void;
  /** Gives it back. */
  unlock(cpu: Cpu, lock: number): void;
  /** Takes it if that needs no waiting; true if it has. */
  tryLock?(cpu: Cpu, lock: number): boolean;
  /** Takes it beside other readers; with it there is also `readUnlock`. */
  readLock?(cpu: Cpu, lock: number): void;
  readUnlock?(cpu: Cpu, lock: number): void;
}

/** Makes a lock that can be tortured. Export it as `lock`. */
export function defineTortureLock(lock: TortureLock): Readonly<TortureLock> {
  return defineOps(lock);
}

/** A lock module of the user's. */
export interface LoadedLock {
  /** URL of the module, for the workers. */
  readonly url: string;
  /** What it exports as `lock`. */
  readonly lock: TortureLock;
}
