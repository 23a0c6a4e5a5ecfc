/**
 * mincore: which pages are in memory.
 *
 * Kernel     mm/mincore.c
 * Deviation  The answer for each page is not stored; callers here want the result only.
 *
 * @module
 */
import { EINVAL, ENOMEM } from '../base/errno.js';
import { isPageAligned, pageAlignUp } from '../base/units.js';
import type { Cpu } from '../machine/cpu.js';
import { NULL, type Va } from '../memory/layout.js';
import { mmapReadLock, mmapReadUnlock } from './mmap-lock.js';
import type { MmStruct } from './types.js';
import { vmaEnd, vmaLookup } from './vma.js';

/** The system call: 0, -EINVAL, or -ENOMEM if part of the range is not mapped. Sleeps. @kernel sys_mincore */
export function mincore(cpu: Cpu, mm: MmStruct, start: Va, length: number): number {
  if (!isPageAligned(start)) return -EINVAL;
  const end = start + pageAlignUp(length);
  let result = 0;
  mmapReadLock(cpu, mm);
  for (let va = start; va < end;) {
    const vma = vmaLookup(cpu, mm, va);
    if (vma === NULL) {
      result = -ENOMEM;
      break;
    }
    va = vmaEnd(cpu, vma);
  }
  mmapReadUnlock(cpu, mm);
  return result;
}
