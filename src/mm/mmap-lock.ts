/**
 * The mmap lock, by its kernel names.
 *
 * Kernel     include/linux/mmap_lock.h
 *
 * @module
 */
import type { Cpu } from '../machine/cpu.js';
import { member } from '../memory/layout.js';
import {
  downgradeWrite,
  downRead,
  downReadTrylock,
  downWrite,
  downWriteKillable,
  upRead,
  upWrite,
} from '../sync/rwsem.js';
import { MmStruct } from './types.js';

/** Keeps VMAs as they are. Sleeps. @kernel mmap_read_lock */
export function mmapReadLock(cpu: Cpu, mm: MmStruct): void {
  downRead(cpu, member(mm, MmStruct.mmapLock));
}

/** Takes it for reading if that needs no wait. @kernel mmap_read_trylock */
export function mmapReadTrylock(cpu: Cpu, mm: MmStruct): boolean {
  return downReadTrylock(cpu, member(mm, MmStruct.mmapLock));
}

/** Ends a read lock of this CPU. @kernel mmap_read_unlock */
export function mmapReadUnlock(cpu: Cpu, mm: MmStruct): void {
  upRead(cpu, member(mm, MmStruct.mmapLock));
}

/** May change VMAs. Sleeps. @kernel mmap_write_lock */
export function mmapWriteLock(cpu: Cpu, mm: MmStruct): void {
  downWrite(cpu, member(mm, MmStruct.mmapLock));
}

/** As above, or -EINTR on a fatal signal. Sleeps. @kernel mmap_write_lock_killable */
export function mmapWriteLockKillable(cpu: Cpu, mm: MmStruct): number {
  return downWriteKillable(cpu, member(mm, MmStruct.mmapLock));
}

/** Ends the write lock of this CPU. @kernel mmap_write_unlock */
export function mmapWriteUnlock(cpu: Cpu, mm: MmStruct): void {
  upWrite(cpu, member(mm, MmStruct.mmapLock));
}

/** Lets readers in without letting a writer in between. @kernel mmap_write_downgrade */
export function mmapWriteDowngrade(cpu: Cpu, mm: MmStruct): void {
  downgradeWrite(cpu, member(mm, MmStruct.mmapLock));
}
