/**
 * What programs ask of the test device.
 *
 * Kernel     lib/test_hmm.c (dmirror_read, dmirror_write, dmirror_migrate_to_device, dmirror_snapshot, …)
 * Protocol   read, write   lock; copy as far as the device maps; unlock; a page that is not mapped, or not for writing:
 *                          fault in what is left, count a fault, again from there
 *            migrate       to the device: migrate, map what is there now, and read it all, which is the answer
 *            exclusive     make the pages the device's alone, and read them all
 *            snapshot      hmm_range_fault that asks for nothing, with an interval of its own
 * Invariant  I1  Contents are copied under the context's lock, through the device's page table.
 *
 * Every command answers 0 or -errno, and leaves in the command what it has counted. -EINVAL for an address that is no
 * page's, or no pages. The caller holds mm_users of the address space that opened the device. All sleep.
 *
 * @module
 */
import { copyWords, read, readAddress, write, writeAddress } from '#memory';

import { EBUSY, EINVAL, ENOENT, ENOMEM, EPERM } from '../../base/errno.js';
import { isPageAligned, PAGE_SIZE, PAGE_WORDS } from '../../base/units.js';
import { hmmRangeFault } from '../../hmm/range-fault.js';
import {
  HMM_PFN_ERROR,
  HMM_PFN_ORDER_MASK,
  HMM_PFN_ORDER_SHIFT,
  HMM_PFN_REQ_FAULT,
  HMM_PFN_REQ_WRITE,
  HMM_PFN_SHIFT,
  HMM_PFN_VALID,
  HMM_PFN_WRITE,
  HmmPfn,
  HmmRange,
} from '../../hmm/types.js';
import type { Cpu } from '../../machine/cpu.js';
import { defineKernelOps } from '../../machine/ops-table.js';
import {
  frameOf,
  PG_DEVICE_COHERENT,
  PG_DEVICE_PRIVATE,
  ZERO_PFN,
} from '../../machine/page-alloc.js';
import { kfree, kzalloc } from '../../machine/slab.js';
import { containerOf, member, NULL, type Ptr, struct, type Va, word } from '../../memory/layout.js';
import { mmapReadLock, mmapReadUnlock } from '../../mm/mmap-lock.js';
import { pageHasFlag, setPageDirty } from '../../mm/page.js';
import { pageHigh, pageLowIn } from '../../mm/page-table.js';
import { NO_PTE } from '../../mm/pte.js';
import {
  mmuIntervalNotifierInsert,
  type MmuIntervalNotifierOps,
  mmuIntervalNotifierRemove,
  mmuIntervalReadBegin,
  mmuIntervalReadRetry,
  mmuIntervalSetSeq,
} from '../../notifier/mmu-interval-notifier.js';
import { mmuNotifierRangeBlockable } from '../../notifier/mmu-notifier-range.js';
import type { MmuIntervalNotifier, MmuNotifierRange } from '../../notifier/types.js';
import { mutexLock, mutexTrylock, mutexUnlock } from '../../sync/mutex.js';
import { devmemOf } from '../devmem/devmem.js';
import {
  DEVICE_ATOMIC,
  svmFaultRange,
  svmMakeExclusive,
  svmMapOwn,
  svmMigrateToDevice,
  svmMigrateToSystem,
} from '../svm/device-memory.js';
import { tryAgainUntil } from '../svm/driver.js';
import { deviceEntry } from '../svm/page-table.js';
import { CHUNK_PAGES, SvmContext, SvmDevice } from '../svm/types.js';
import { dmirrorGetMemory, dmirrorOf, dmirrorPutMemory } from './device.js';
import { DmirrorCmd, DmirrorSnapshot } from './types.js';

/** What a snapshot says of a page. @kernel HMM_DMIRROR_PROT_* */
export const HMM_DMIRROR_PROT_ERROR = 0xff;
export const HMM_DMIRROR_PROT_NONE = 0x00;
export const HMM_DMIRROR_PROT_READ = 0x01;
export const HMM_DMIRROR_PROT_WRITE = 0x02;
export const HMM_DMIRROR_PROT_PMD = 0x04;
export const HMM_DMIRROR_PROT_PUD = 0x08;
export const HMM_DMIRROR_PROT_ZERO = 0x10;
export const HMM_DMIRROR_PROT_DEV_PRIVATE_LOCAL = 0x20;
export const HMM_DMIRROR_PROT_DEV_PRIVATE_REMOTE = 0x30;
export const HMM_DMIRROR_PROT_DEV_COHERENT_LOCAL = 0x40;
export const HMM_DMIRROR_PROT_DEV_COHERENT_REMOTE = 0x50;

/** Orders of the two sizes of huge pages. */
const PMD_ORDER = 9;
const PUD_ORDER = 18;

/** Words of a buffer of a snapshot: one for each page. */
export const DmirrorPerm = struct('dmirror_perm', { prot: word });
export type DmirrorPerm = Ptr<'dmirror_perm'>;

function startOf(cpu: Cpu, cmd: DmirrorCmd): Va {
  return readAddress(cpu, cmd, DmirrorCmd.addr);
}

function endOf(cpu: Cpu, cmd: DmirrorCmd): Va {
  return startOf(cpu, cmd) + read(cpu, cmd, DmirrorCmd.npages) * PAGE_SIZE;
}

/** What a program asks for; see above. */
export type DmirrorCommand = (cpu: Cpu, context: SvmContext, cmd: DmirrorCmd) => number;

/** The command, with its arguments looked at, and memory that stays. */
function command(run: DmirrorCommand): DmirrorCommand {
  return (cpu, context, cmd) => {
    write(cpu, cmd, DmirrorCmd.cpages, 0);
    write(cpu, cmd, DmirrorCmd.faults, 0);
    const isValid = isPageAligned(startOf(cpu, cmd)) && read(cpu, cmd, DmirrorCmd.npages) > 0;
    if (!isValid) return -EINVAL;
    const device = dmirrorOf(cpu, context);
    const error = dmirrorGetMemory(cpu, device);
    if (error !== 0) return error;
    const result = run(cpu, context, cmd);
    dmirrorPutMemory(cpu, device);
    return result;
  };
}

// --- read and write ---

/** The device's entry for a page; 0 if it has none. The context's lock must be held. */
function entryAt(cpu: Cpu, context: SvmContext, va: Va): number {
  const high = pageHigh(va);
  const at = deviceEntry(cpu, context, high, pageLowIn(va, high));
  return at === NO_PTE ? 0 : read(cpu, at as number as HmmPfn, HmmPfn.entry);
}

/** Copies pages between the buffer and memory, from page `cpages` on: 0, or -ENOENT where the device maps none. */
function copyMapped(cpu: Cpu, context: SvmContext, cmd: DmirrorCmd, isWrite: boolean): number {
  const needed = isWrite ? HMM_PFN_VALID | HMM_PFN_WRITE : HMM_PFN_VALID;
  const buffer = read(cpu, cmd, DmirrorCmd.buffer);
  const npages = read(cpu, cmd, DmirrorCmd.npages);
  let done = read(cpu, cmd, DmirrorCmd.cpages);
  mutexLock(cpu, member(context, SvmContext.lock)); // I1
  for (; done < npages; done++) {
    const entry = entryAt(cpu, context, startOf(cpu, cmd) + done * PAGE_SIZE);
    if ((entry & needed) !== needed) break;
    const pfn = entry >>> HMM_PFN_SHIFT;
    const frame = frameOf(cpu, pfn);
    const own = (buffer + done * PAGE_WORDS) as typeof frame;
    if (isWrite) copyWords(cpu, frame, own, PAGE_WORDS);
    else copyWords(cpu, own, frame, PAGE_WORDS);
    if (isWrite) setPageDirty(cpu, pfn);
  }
  mutexUnlock(cpu, member(context, SvmContext.lock));
  write(cpu, cmd, DmirrorCmd.cpages, done);
  return done < npages ? -ENOENT : 0;
}

function copy(cpu: Cpu, context: SvmContext, cmd: DmirrorCmd, isWrite: boolean): number {
  const wanted = isWrite ? HMM_PFN_REQ_FAULT | HMM_PFN_REQ_WRITE : HMM_PFN_REQ_FAULT;
  while (copyMapped(cpu, context, cmd, isWrite) !== 0) {
    const from = startOf(cpu, cmd) + read(cpu, cmd, DmirrorCmd.cpages) * PAGE_SIZE;
    const error = svmFaultRange(cpu, context, from, endOf(cpu, cmd), wanted);
    if (error !== 0) return error;
    write(cpu, cmd, DmirrorCmd.faults, read(cpu, cmd, DmirrorCmd.faults) + 1);
  }
  return 0;
}

/** The device reads the pages into the buffer. @kernel HMM_DMIRROR_READ */
export const dmirrorRead = command((cpu, context, cmd) => {
  return copy(cpu, context, cmd, false);
});

/** The device writes the buffer into the pages. @kernel HMM_DMIRROR_WRITE */
export const dmirrorWrite = command((cpu, context, cmd) => {
  return copy(cpu, context, cmd, true);
});

// --- migration and exclusive access ---

/** Moves the pages into the device's memory, and reads them there: -ENOENT if one is not. @kernel HMM_DMIRROR_MIGRATE_TO_DEV */
export const dmirrorMigrateToDevice = command((cpu, context, cmd) => {
  const moved = svmMigrateToDevice(cpu, context, startOf(cpu, cmd), endOf(cpu, cmd));
  if (moved < 0) return moved;
  const error = svmMapOwn(cpu, context, startOf(cpu, cmd), endOf(cpu, cmd));
  return error === 0 ? copyMapped(cpu, context, cmd, false) : error;
});

/** Moves the pages back; cpages: how many were. @kernel HMM_DMIRROR_MIGRATE_TO_SYS */
export const dmirrorMigrateToSystem = command((cpu, context, cmd) => {
  const moved = svmMigrateToSystem(cpu, context, startOf(cpu, cmd), endOf(cpu, cmd));
  write(cpu, cmd, DmirrorCmd.cpages, Math.max(0, moved));
  return Math.min(0, moved);
});

/** Gives the device the pages alone, and reads them: -EBUSY if it cannot be. @kernel HMM_DMIRROR_EXCLUSIVE */
export const dmirrorExclusive = command((cpu, context, cmd) => {
  const error = svmMakeExclusive(cpu, context, startOf(cpu, cmd), endOf(cpu, cmd));
  return error === 0 ? copyMapped(cpu, context, cmd, false) : error;
});

/** -EPERM if the device may still use one of the pages for atomic operations. @kernel HMM_DMIRROR_CHECK_EXCLUSIVE */
export const dmirrorCheckExclusive = command((cpu, context, cmd) => {
  let isAtomic = false;
  mutexLock(cpu, member(context, SvmContext.lock));
  for (let va = startOf(cpu, cmd); va < endOf(cpu, cmd); va += PAGE_SIZE) {
    isAtomic ||= (entryAt(cpu, context, va) & DEVICE_ATOMIC) !== 0;
  }
  mutexUnlock(cpu, member(context, SvmContext.lock));
  return isAtomic ? -EPERM : 0;
});

// --- snapshot ---

/** @kernel dmirror_snapshot_invalidate */
export const snapshotOps: MmuIntervalNotifierOps = defineKernelOps({
  opsName: 'dmirror snapshot',
  invalidate(cpu: Cpu, interval: MmuIntervalNotifier, range: MmuNotifierRange, curSeq: number) {
    const snapshot: DmirrorSnapshot = containerOf(interval, DmirrorSnapshot.interval);
    const lock = member(read(cpu, snapshot, DmirrorSnapshot.context), SvmContext.lock);
    if (mmuNotifierRangeBlockable(cpu, range)) mutexLock(cpu, lock);
    else if (!mutexTrylock(cpu, lock)) return false;
    mmuIntervalSetSeq(cpu, interval, curSeq); // pairs with mmuIntervalReadRetry in look
    mutexUnlock(cpu, lock);
    return true;
  },
});

/** Says what the CPUs' page table has, and leaves it as it is. @kernel HMM_DMIRROR_SNAPSHOT */
export const dmirrorSnapshot = command((cpu, context, cmd) => {
  const snapshot = kzalloc(cpu, DmirrorSnapshot);
  if (snapshot === NULL) return -ENOMEM;
  const npages = read(cpu, cmd, DmirrorCmd.npages);
  write(cpu, snapshot, DmirrorSnapshot.context, context);
  let error = 0;
  for (let page = 0; page < npages && error === 0; page += CHUNK_PAGES) {
    error = snapshotChunk(cpu, snapshot, cmd, page, Math.min(CHUNK_PAGES, npages - page));
  }
  kfree(cpu, DmirrorSnapshot, snapshot);
  return error;
});

function snapshotChunk(
  cpu: Cpu,
  snapshot: DmirrorSnapshot,
  cmd: DmirrorCmd,
  page: number,
  count: number,
): number {
  const range = member(snapshot, DmirrorSnapshot.range);
  const interval = member(snapshot, DmirrorSnapshot.interval);
  const context = read(cpu, snapshot, DmirrorSnapshot.context);
  const mm = read(cpu, context, SvmContext.mm);
  const start = startOf(cpu, cmd) + page * PAGE_SIZE;
  writeAddress(cpu, range, HmmRange.start, start);
  writeAddress(cpu, range, HmmRange.end, start + count * PAGE_SIZE);
  write(cpu, range, HmmRange.notifier, interval);
  write(cpu, range, HmmRange.pfns, snapshot + DmirrorSnapshot.pfns);
  const device = read(cpu, context, SvmContext.device);
  write(cpu, range, HmmRange.devPrivateOwner, read(cpu, device, SvmDevice.id) + 1);
  const bytes = count * PAGE_SIZE;
  const error = mmuIntervalNotifierInsert(cpu, interval, mm, start, bytes, snapshotOps);
  if (error !== 0) return error;
  const result = look(cpu, context, range);
  mmuIntervalNotifierRemove(cpu, interval);
  if (result !== 0) return result;
  const perms = read(cpu, cmd, DmirrorCmd.buffer);
  for (let i = 0; i < count; i++) {
    const at = (snapshot + DmirrorSnapshot.pfns + i * HmmPfn.words) as HmmPfn;
    const prot = protOf(cpu, context, read(cpu, at, HmmPfn.entry));
    write(cpu, (perms + page + i) as DmirrorPerm, DmirrorPerm.prot, prot);
  }
  write(cpu, cmd, DmirrorCmd.cpages, page + count);
  return 0;
}

/** By the collision-retry protocol. @kernel dmirror_range_snapshot */
function look(cpu: Cpu, context: SvmContext, range: HmmRange): number {
  const interval = read(cpu, range, HmmRange.notifier);
  const mm = read(cpu, context, SvmContext.mm);
  const lock = member(context, SvmContext.lock);
  for (let deadline = 0; ;) {
    const seq = mmuIntervalReadBegin(cpu, interval);
    write(cpu, range, HmmRange.notifierSeq, seq);
    mmapReadLock(cpu, mm);
    const result = hmmRangeFault(cpu, range);
    mmapReadUnlock(cpu, mm);
    if (result !== 0 && result !== -EBUSY) return result;
    if (result === 0) {
      mutexLock(cpu, lock);
      const isStale = mmuIntervalReadRetry(cpu, interval, seq);
      mutexUnlock(cpu, lock);
      if (!isStale) return 0;
    }
    deadline = tryAgainUntil(cpu, deadline);
    if (deadline === 0) return -EBUSY;
  }
}

/** @kernel dmirror_mkentry */
function protOf(cpu: Cpu, context: SvmContext, entry: number): number {
  if ((entry & HMM_PFN_ERROR) !== 0) return HMM_DMIRROR_PROT_ERROR;
  if ((entry & HMM_PFN_VALID) === 0) return HMM_DMIRROR_PROT_NONE;
  const pfn = entry >>> HMM_PFN_SHIFT;
  let prot = pfn === ZERO_PFN ? HMM_DMIRROR_PROT_ZERO : HMM_DMIRROR_PROT_NONE;
  if (pageHasFlag(cpu, pfn, PG_DEVICE_PRIVATE | PG_DEVICE_COHERENT)) {
    const isOwn =
      devmemOf(cpu, pfn) === read(cpu, read(cpu, context, SvmContext.device), SvmDevice.devmem);
    if (pageHasFlag(cpu, pfn, PG_DEVICE_PRIVATE)) {
      prot = isOwn ? HMM_DMIRROR_PROT_DEV_PRIVATE_LOCAL : HMM_DMIRROR_PROT_DEV_PRIVATE_REMOTE;
    } else {
      prot = isOwn ? HMM_DMIRROR_PROT_DEV_COHERENT_LOCAL : HMM_DMIRROR_PROT_DEV_COHERENT_REMOTE;
    }
  }
  prot |= (entry & HMM_PFN_WRITE) !== 0 ? HMM_DMIRROR_PROT_WRITE : HMM_DMIRROR_PROT_READ;
  const order = (entry & HMM_PFN_ORDER_MASK) >>> HMM_PFN_ORDER_SHIFT;
  if (order === PMD_ORDER) prot |= HMM_DMIRROR_PROT_PMD;
  if (order === PUD_ORDER) prot |= HMM_DMIRROR_PROT_PUD;
  return prot;
}
