/**
 * What an allocation may do to get its memory, and where that is restricted for a while.
 *
 * Kernel     include/linux/gfp_types.h, include/linux/sched/mm.h
 * Protocol   An allocation says by its flags whether it may wait for reclaim, and whether that may do I/O or
 *            enter a file system. A CPU inside of such code restricts all allocations it makes until the end
 *            of a scope: `memallocNofsSave … memallocNofsRestore`.
 * Deviation  Where the machine does not reclaim an allocation never waits. The flags say what it could have done: the
 *            checked and the turnstile build look whether that was allowed (mightAlloc).
 *
 * @module
 */
import { BUILD } from '#memory';

import type { Cpu } from './cpu.js';
import { mightSleep } from './sched.js';

/** May take from the reserves. */
const GFP_HIGH = 0x20;
/** May start I/O. */
export const GFP_IO = 0x40;
/** May call into file systems: holds the fs_reclaim map. */
export const GFP_FS = 0x80;
/** May reclaim itself, and so sleep. */
export const GFP_DIRECT_RECLAIM = 0x400;
const GFP_KSWAPD_RECLAIM = 0x800;
const GFP_RECLAIM = GFP_DIRECT_RECLAIM | GFP_KSWAPD_RECLAIM;

/** The usual: may sleep, do I/O and enter file systems. */
export const GFP_KERNEL = GFP_RECLAIM | GFP_IO | GFP_FS;
/** Under locks that file systems take in reclaim. */
export const GFP_NOFS = GFP_RECLAIM | GFP_IO;
/** Under locks that I/O takes. */
export const GFP_NOIO = GFP_RECLAIM;
/** Where no sleep is allowed; fails sooner. */
export const GFP_NOWAIT = GFP_KSWAPD_RECLAIM;
/** Where no sleep is allowed; may use the reserves. */
export const GFP_ATOMIC = GFP_HIGH | GFP_KSWAPD_RECLAIM;

/** Cpu.memallocFlags: this CPU is reclaiming, and its allocations do not reclaim in turn. */
export const PF_MEMALLOC = 1;
/** … allocations may not enter file systems. */
const PF_MEMALLOC_NOFS = 2;
/** … allocations may not do I/O. */
const PF_MEMALLOC_NOIO = 4;

/** Flags as the CPU's scopes leave them. @kernel current_gfp_context */
export function currentGfpContext(cpu: Cpu, gfp: number): number {
  const scopes = cpu.memallocFlags;
  if ((scopes & PF_MEMALLOC_NOIO) !== 0) return gfp & ~(GFP_IO | GFP_FS);
  if ((scopes & PF_MEMALLOC_NOFS) !== 0) return gfp & ~GFP_FS;
  return gfp;
}

/** From here on allocations are GFP_NOFS at most; returns what memallocNofsRestore is given. @kernel memalloc_nofs_save */
export function memallocNofsSave(cpu: Cpu): number {
  return enterScope(cpu, PF_MEMALLOC_NOFS);
}

/** Ends the scope. @kernel memalloc_nofs_restore */
export function memallocNofsRestore(cpu: Cpu, saved: number): void {
  leaveScope(cpu, PF_MEMALLOC_NOFS, saved);
}

/** From here on allocations are GFP_NOIO at most. @kernel memalloc_noio_save */
export function memallocNoioSave(cpu: Cpu): number {
  return enterScope(cpu, PF_MEMALLOC_NOIO);
}

/** Ends the scope. @kernel memalloc_noio_restore */
export function memallocNoioRestore(cpu: Cpu, saved: number): void {
  leaveScope(cpu, PF_MEMALLOC_NOIO, saved);
}

/** From here on allocations do not reclaim. @kernel memalloc_noreclaim_save */
export function memallocNoreclaimSave(cpu: Cpu): number {
  return enterScope(cpu, PF_MEMALLOC);
}

/** Ends the scope. @kernel memalloc_noreclaim_restore */
export function memallocNoreclaimRestore(cpu: Cpu, saved: number): void {
  leaveScope(cpu, PF_MEMALLOC, saved);
}

function enterScope(cpu: Cpu, flag: number): number {
  const saved = cpu.memallocFlags & flag;
  cpu.memallocFlags |= flag;
  return saved;
}

function leaveScope(cpu: Cpu, flag: number, saved: number): void {
  cpu.memallocFlags = (cpu.memallocFlags & ~flag) | saved;
}

/**
 * Every allocation says so first, whether it comes to wait or not: reclaim may need what the caller holds.
 * Nothing in the parallel build. @kernel might_alloc
 */
export function mightAlloc(cpu: Cpu, gfp: number): void {
  if (BUILD !== 'parallel') mightAllocChecked(cpu, gfp);
}

function mightAllocChecked(cpu: Cpu, gfp: number): void {
  cpu.lockWatch?.onAlloc(cpu, gfp);
  if ((gfp & GFP_DIRECT_RECLAIM) !== 0) mightSleep(cpu);
}
