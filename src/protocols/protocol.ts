/**
 * What a driver that mirrors an address space and a protocol for that know of each other.
 *
 * Protocol   driver, for a context                 driver, for a fault
 *              createMirror (registers)              openRange
 *              unregister: no callback any more      begin                  may sleep; error: give up
 *              freeMirror, when no fault uses it     mmap lock; hmm_range_fault; unlock
 *                                                    the driver's lock; retry: unlock, begin again
 *            protocol, at an invalidation            map; unlock
 *              lock; clear; fence; unlock            closeRange
 *
 *            When the protocol calls the driver, and what it knows at `retry`, is what the protocols differ in.
 *
 * @module
 */
import { read, write, writeAddress } from '#memory';

import type { Cpu } from '../machine/cpu.js';
import { opsAt, opsIndex, type OpsTable } from '../machine/ops-table.js';
import { kfree, kzalloc } from '../machine/slab.js';
import { member, NULL } from '../memory/layout.js';
import { initListHead } from '../memory/list.js';
import type { MmStruct } from '../mm/types.js';
import { mmuNotifierRangeBlockable } from '../notifier/mmu-notifier-range.js';
import { MmuIntervalNotifier, type MmuNotifierRange } from '../notifier/types.js';
import { Mirror, MirrorRange } from './types.js';

/** What a protocol needs of a driver. Nothing of it may cause an invalidation: it is called within one. */
export interface MirrorOps extends OpsTable {
  /** Takes the lock under which the driver maps; false if it would have to sleep and may not. */
  readonly lock: (cpu: Cpu, mirror: Mirror, isBlockable: boolean) => boolean;
  readonly unlock: (cpu: Cpu, mirror: Mirror) => void;
  /** Takes the range's entries out of the device. Under the lock. */
  readonly clear: (cpu: Cpu, mirror: Mirror, range: MmuNotifierRange) => void;
  /** Lets no new access use what was cleared. */
  readonly kick: (cpu: Cpu, mirror: Mirror) => void;
  /** Waits for the accesses that were under way at the kick. */
  readonly settle: (cpu: Cpu, mirror: Mirror) => void;
  /**
   * The address space ends: ends all use of it, for good. May sleep; may run twice. Only of the protocols with a
   * list notifier: intervals are told through `clear`, of an MMU_NOTIFY_RELEASE, and stay registered.
   */
  readonly release: (cpu: Cpu, mirror: Mirror) => void;
}

/** A way of keeping a device's page table no newer and no older than it may be. */
export interface MirrorProtocol extends OpsTable {
  /** Ties the mirror to the address space: 0, or -errno. No lock held. Sleeps. */
  readonly register: (cpu: Cpu, mirror: Mirror, mm: MmStruct) => number;
  /** Unties it: afterwards no callback runs, or will. No lock held. Sleeps. */
  readonly unregister: (cpu: Cpu, mirror: Mirror) => void;
  /** Gives back what the mirror keeps beyond its unregistration; by default that is nothing. */
  readonly forget?: (cpu: Cpu, mirror: Mirror) => void;
  /** A fault in the range is about to begin; by default nothing is to be done. */
  readonly openRange?: (cpu: Cpu, range: MirrorRange) => void;
  /** Before the CPU's page table is read: 0, -EBUSY if it took too long, -EFAULT if the mm is dead. Sleeps. */
  readonly begin: (cpu: Cpu, range: MirrorRange) => number;
  /** True if what was read since `begin` may be stale. The driver's lock must be held. */
  readonly retry: (cpu: Cpu, range: MirrorRange) => boolean;
  /** The fault is over; by default nothing is to be done. */
  readonly closeRange?: (cpu: Cpu, range: MirrorRange) => void;
}

/** How long a fault waits for invalidations, or is tried again. @kernel HMM_RANGE_DEFAULT_TIMEOUT */
export const RANGE_TIMEOUT_MS = 1000;

/**
 * A mirror that is registered; NULL if memory is out, the mm is dead, or, for a protocol with a list notifier,
 * another such protocol mirrors it. The caller holds the mm_struct. Sleeps.
 */
export function createMirror(
  cpu: Cpu,
  protocol: MirrorProtocol,
  ops: MirrorOps,
  mm: MmStruct,
  driverData: number,
): Mirror {
  const mirror = kzalloc(cpu, Mirror);
  if (mirror === NULL) return NULL;
  write(cpu, mirror, Mirror.protocol, opsIndex(cpu, protocol));
  write(cpu, mirror, Mirror.ops, opsIndex(cpu, ops));
  write(cpu, mirror, Mirror.driverData, driverData);
  initListHead(cpu, member(mirror, Mirror.link));
  const interval = member(mirror, Mirror.interval);
  write(cpu, interval, MmuIntervalNotifier.mm, mm);
  if (protocol.register(cpu, mirror, mm) === 0) return mirror;
  kfree(cpu, Mirror, mirror);
  return NULL;
}

/** Frees a mirror that is unregistered, and that no fault uses any more. */
export function freeMirror(cpu: Cpu, mirror: Mirror): void {
  protocolOf(cpu, mirror).forget?.(cpu, mirror);
  kfree(cpu, Mirror, mirror);
}

/** The protocol of a mirror. */
export function protocolOf(cpu: Cpu, mirror: Mirror): MirrorProtocol {
  return opsAt(cpu, read(cpu, mirror, Mirror.protocol)) as MirrorProtocol;
}

/** The driver of a mirror. */
export function mirrorOps(cpu: Cpu, mirror: Mirror): MirrorOps {
  return opsAt(cpu, read(cpu, mirror, Mirror.ops)) as MirrorOps;
}

/** Writes down what a fault is about. */
export function initRange(
  cpu: Cpu,
  range: MirrorRange,
  mirror: Mirror,
  start: number,
  end: number,
): void {
  write(cpu, range, MirrorRange.mirror, mirror);
  writeAddress(cpu, range, MirrorRange.start, start);
  writeAddress(cpu, range, MirrorRange.end, end);
}

/**
 * Ends the device's use of a range before it returns; false if it would have to sleep and may not. A leaf: the
 * driver may not cause an invalidation. @kernel sync_cpu_device_pagetables
 */
export function syncMirror(cpu: Cpu, mirror: Mirror, range: MmuNotifierRange): boolean {
  const ops = mirrorOps(cpu, mirror);
  if (!ops.lock(cpu, mirror, mmuNotifierRangeBlockable(cpu, range))) return false;
  ops.clear(cpu, mirror, range);
  ops.kick(cpu, mirror);
  ops.settle(cpu, mirror);
  ops.unlock(cpu, mirror);
  return true;
}
