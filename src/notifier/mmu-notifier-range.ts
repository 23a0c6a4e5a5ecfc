/**
 * Ranges and events: what an invalidation is about.
 *
 * Kernel     include/linux/mmu_notifier.h (struct mmu_notifier_range, enum mmu_notifier_event)
 *
 * @module
 */
import { read, write, writeAddress } from '#memory';

import type { Cpu } from '../machine/cpu.js';
import type { Va } from '../memory/layout.js';
import type { MmStruct } from '../mm/types.js';
import { MmuNotifierRange } from './types.js';

export const MMU_NOTIFY_UNMAP = 0;
export const MMU_NOTIFY_CLEAR = 1;
export const MMU_NOTIFY_PROTECTION_VMA = 2;
export const MMU_NOTIFY_PROTECTION_PAGE = 3;
export const MMU_NOTIFY_SOFT_DIRTY = 4;
export const MMU_NOTIFY_RELEASE = 5;
export const MMU_NOTIFY_MIGRATE = 6;
export const MMU_NOTIFY_EXCLUSIVE = 7;

/** Names of the events, by number. */
export const MMU_NOTIFY_NAMES = [
  'UNMAP',
  'CLEAR',
  'PROTECTION_VMA',
  'PROTECTION_PAGE',
  'SOFT_DIRTY',
  'RELEASE',
  'MIGRATE',
  'EXCLUSIVE',
] as const;

/** End of a range that is the whole address space. @kernel ULONG_MAX */
export const VA_MAX = 2 ** 64;

/** MmuNotifierRange.flags: callbacks may sleep. */
export const MMU_NOTIFIER_RANGE_BLOCKABLE = 1;

/** Fills in a range of the caller's. It is blockable. @kernel mmu_notifier_range_init */
export function mmuNotifierRangeInit(
  cpu: Cpu,
  range: MmuNotifierRange,
  event: number,
  mm: MmStruct,
  start: Va,
  end: Va,
): void {
  writeAddress(cpu, range, MmuNotifierRange.start, start);
  writeAddress(cpu, range, MmuNotifierRange.last, end - 1);
  writeAddress(cpu, range, MmuNotifierRange.end, end);
  write(cpu, range, MmuNotifierRange.mm, mm);
  write(cpu, range, MmuNotifierRange.event, event);
  write(cpu, range, MmuNotifierRange.flags, MMU_NOTIFIER_RANGE_BLOCKABLE);
  write(cpu, range, MmuNotifierRange.owner, 0);
}

/** As above, for MIGRATE and EXCLUSIVE: `owner` is who does it. @kernel mmu_notifier_range_init_owner */
export function mmuNotifierRangeInitOwner(
  cpu: Cpu,
  range: MmuNotifierRange,
  event: number,
  mm: MmStruct,
  start: Va,
  end: Va,
  owner: number,
): void {
  mmuNotifierRangeInit(cpu, range, event, mm, start, end);
  write(cpu, range, MmuNotifierRange.owner, owner);
}

/** True if callbacks may sleep. @kernel mmu_notifier_range_blockable */
export function mmuNotifierRangeBlockable(cpu: Cpu, range: MmuNotifierRange): boolean {
  return (read(cpu, range, MmuNotifierRange.flags) & MMU_NOTIFIER_RANGE_BLOCKABLE) !== 0;
}
