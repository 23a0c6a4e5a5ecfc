/**
 * A device with memory of its own: pages of an address space move there and back, and are the device's alone.
 *
 * Kernel     lib/test_hmm.c (dmirror_migrate_to_device, dmirror_migrate_to_system, dmirror_exclusive)
 * Protocol   migrate     mmap lock for reading; for each part of a VMA: setup, destinations and copies, pages, finalize
 *            map own     as a fault does, but asks for nothing, and maps only what is in the device's memory
 *            exclusive   seq = readBegin; mmap lock; makeDeviceExclusiveRange; unlock
 *                        context's lock; readRetry: give all back, again; map for atomic operations; unlock
 *                        give the pages' locks and references back: from now on CPUs may take them
 * Invariant  I1  The device maps a page of its own memory only after a look at the page table that nothing has
 *                contradicted since (INV-27): what has migrated may be gone again before the migration ends.
 *            I2  An entry for atomic operations is there only while the CPUs' entry is an exclusive one (INV-29): the
 *                page is locked until it is made, and who takes the page back tells the device first.
 * Ordering   mmap lock > context's lock.
 * Deviation  test_hmm maps what it migrates between pages and finalize, under its lock alone.
 *
 * @module
 */
import { read, readAddress, write, writeAddress } from '#memory';

import { EBUSY, EINVAL, ENOMEM } from '../../base/errno.js';
import { PAGE_SIZE } from '../../base/units.js';
import {
  HMM_PFN_REQ_WRITE,
  HMM_PFN_SHIFT,
  HMM_PFN_VALID,
  HMM_PFN_WRITE,
  HmmPfn,
  HmmRange,
} from '../../hmm/types.js';
import type { Cpu } from '../../machine/cpu.js';
import { defineKernelOps } from '../../machine/ops-table.js';
import { pageOf, type Pfn } from '../../machine/page-alloc.js';
import { allocWords, freeWords } from '../../machine/slab.js';
import { stackPop, stackPush } from '../../machine/stack.js';
import { Page } from '../../machine/types.js';
import { member, NULL, type Ptr, struct, type Va, word, words } from '../../memory/layout.js';
import { MEMORY_DEVICE_COHERENT } from '../../memremap/pagemap.js';
import { DevPagemap } from '../../memremap/types.js';
import { makeDeviceExclusiveRange } from '../../mm/device-exclusive.js';
import { migrateVmaFinalize, migrateVmaPages, migrateVmaSetup } from '../../mm/migrate-device.js';
import {
  getMigratePfn,
  MIGRATE_PFN_MIGRATE,
  MIGRATE_VMA_SELECT_DEVICE_COHERENT,
  MIGRATE_VMA_SELECT_DEVICE_PRIVATE,
  MIGRATE_VMA_SELECT_SYSTEM,
} from '../../mm/migrate-pfn.js';
import { mmapReadLock, mmapReadUnlock } from '../../mm/mmap-lock.js';
import { putPage } from '../../mm/page.js';
import {
  MigratePfn as Entry,
  type MigratePfn,
  MigrateVma,
  VM_READ,
  VmAreaStruct,
} from '../../mm/types.js';
import { vmaEnd, vmaLookup } from '../../mm/vma.js';
import {
  mmuIntervalReadBegin,
  mmuIntervalReadRetry,
} from '../../notifier/mmu-interval-notifier.js';
import { mutexLock, mutexUnlock } from '../../sync/mutex.js';
import { unlockPage } from '../../sync/page-lock.js';
import { devmemFillDestinations, ramFillDestinations, setMigrate } from '../devmem/devmem.js';
import { Devmem } from '../devmem/types.js';
import {
  faultAndMap,
  mapIntoDevice,
  ownerOf,
  type SvmDriver,
  svmInvalidate,
  tryAgainUntil,
} from './driver.js';
import { CHUNK_PAGES, SvmContext, SvmDevice, SvmRequest } from './types.js';

const CHUNK_BYTES = CHUNK_PAGES * PAGE_SIZE;

/** In the device's page table: it may use the page for atomic operations. */
export const DEVICE_ATOMIC = 1 << 8;

/** What a chunk of a migration needs. */
const Chunk = struct('svm_chunk', {
  migrate: MigrateVma,
  src: words(CHUNK_PAGES * Entry.words),
  dst: words(CHUNK_PAGES * Entry.words),
});
type Chunk = Ptr<'svm_chunk'>;

/** What a chunk of a request needs. */
const Request = struct('svm_chunk_request', {
  request: SvmRequest,
  pfns: words(CHUNK_PAGES * HmmPfn.words),
});
type Request = Ptr<'svm_chunk_request'>;

/** A word of SvmRequest.requests. */
const Wanted = struct('svm_wanted', { flags: word });
type Wanted = Ptr<'svm_wanted'>;

function devmemOfContext(cpu: Cpu, context: SvmContext): Devmem {
  return read(cpu, read(cpu, context, SvmContext.device), SvmDevice.devmem);
}

// --- migration ---

/** Gives the pages of a migration their destinations, with the contents. */
type Fill = (cpu: Cpu, devmem: Devmem, migrate: MigrateVma) => void;

function fillRam(cpu: Cpu, devmem: Devmem, migrate: MigrateVma): void {
  const [src, dst] = [read(cpu, migrate, MigrateVma.src), read(cpu, migrate, MigrateVma.dst)];
  ramFillDestinations(cpu, devmem, src, dst, read(cpu, migrate, MigrateVma.npages));
}

/**
 * Moves the pages of [start, end) into the device's memory, as far as they can be moved: how many were; -EINVAL for a
 * hole or memory that may not be read, -ENOMEM. The caller holds mm_users. Sleeps. @kernel dmirror_migrate_to_device
 */
export function svmMigrateToDevice(cpu: Cpu, context: SvmContext, start: Va, end: Va): number {
  return migrate(cpu, context, start, end, MIGRATE_VMA_SELECT_SYSTEM, devmemFillDestinations);
}

/** As above, from the device's memory into the machine's. @kernel dmirror_migrate_to_system */
export function svmMigrateToSystem(cpu: Cpu, context: SvmContext, start: Va, end: Va): number {
  const pgmap = member(devmemOfContext(cpu, context), Devmem.pgmap);
  const isCoherent = read(cpu, pgmap, DevPagemap.type) === MEMORY_DEVICE_COHERENT;
  const select = isCoherent
    ? MIGRATE_VMA_SELECT_DEVICE_COHERENT
    : MIGRATE_VMA_SELECT_DEVICE_PRIVATE;
  return migrate(cpu, context, start, end, select, fillRam);
}

function migrate(
  cpu: Cpu,
  context: SvmContext,
  start: Va,
  end: Va,
  select: number,
  fill: Fill,
): number {
  const chunk = allocWords(cpu, Chunk.words) as Chunk;
  if (chunk === NULL) return -ENOMEM;
  const mm = read(cpu, context, SvmContext.mm);
  let moved = 0;
  mmapReadLock(cpu, mm);
  for (let at = start; at < end && moved >= 0;) {
    const vma = vmaLookup(cpu, mm, at);
    const isReadable = vma !== NULL && (read(cpu, vma, VmAreaStruct.flags) & VM_READ) !== 0;
    const next = isReadable ? Math.min(end, at + CHUNK_BYTES, vmaEnd(cpu, vma)) : end;
    const result = isReadable
      ? migrateChunk(cpu, context, chunk, vma, at, next, select, fill)
      : -EINVAL;
    moved = result < 0 ? result : moved + result;
    at = next;
  }
  mmapReadUnlock(cpu, mm);
  freeWords(cpu, chunk, Chunk.words);
  return moved;
}

/** The mmap lock must be held for reading. */
function migrateChunk(
  cpu: Cpu,
  context: SvmContext,
  chunk: Chunk,
  vma: VmAreaStruct,
  start: Va,
  end: Va,
  select: number,
  fill: Fill,
): number {
  const devmem = devmemOfContext(cpu, context);
  const migration = member(chunk, Chunk.migrate);
  const src = (chunk + Chunk.src) as MigratePfn;
  setMigrate(cpu, migration, vma, start, end, src, (chunk + Chunk.dst) as MigratePfn);
  write(cpu, migration, MigrateVma.flags, select);
  write(cpu, migration, MigrateVma.pgmapOwner, ownerOf(cpu, context));
  const error = migrateVmaSetup(cpu, migration);
  if (error !== 0) return error;
  if (read(cpu, migration, MigrateVma.cpages) !== 0) fill(cpu, devmem, migration);
  migrateVmaPages(cpu, migration);
  let moved = 0;
  for (let i = 0; i < read(cpu, migration, MigrateVma.npages); i++) {
    if ((getMigratePfn(cpu, src, i) & MIGRATE_PFN_MIGRATE) !== 0) moved++;
  }
  migrateVmaFinalize(cpu, migration);
  return moved;
}

// --- mapping ---

/** Maps the pages of [start, end) by chunks: 0, or what the first that failed has answered. */
function mapChunks(
  cpu: Cpu,
  context: SvmContext,
  start: Va,
  end: Va,
  defaultFlags: number,
  map: (cpu: Cpu, context: SvmContext, range: HmmRange) => number,
): number {
  const chunk = allocWords(cpu, Request.words) as Request;
  if (chunk === NULL) return -ENOMEM;
  const request = member(chunk, Request.request);
  const range = member(request, SvmRequest.range);
  write(cpu, range, HmmRange.notifier, member(context, SvmContext.interval));
  write(cpu, range, HmmRange.pfns, chunk + Request.pfns);
  write(cpu, range, HmmRange.defaultFlags, defaultFlags);
  let error = 0;
  for (let at = start; at < end && error === 0; at += CHUNK_BYTES) {
    writeAddress(cpu, range, HmmRange.start, at);
    writeAddress(cpu, range, HmmRange.end, Math.min(end, at + CHUNK_BYTES));
    error = memoryFault(cpu, context, request, map);
  }
  freeWords(cpu, chunk, Request.words);
  return error;
}

/**
 * Maps the pages of [start, end) with those rights (HMM_PFN_REQ_*): 0, -EFAULT, -EPERM, -ENOMEM, -EBUSY. The caller
 * holds mm_users. Sleeps. @kernel dmirror_fault
 */
export function svmFaultRange(
  cpu: Cpu,
  context: SvmContext,
  start: Va,
  end: Va,
  wanted: number,
): number {
  return mapChunks(cpu, context, start, end, wanted, mapIntoDevice);
}

/**
 * As a fault. A page of the device's own that is wanted for writing and may only be read is shared with another address
 * space: it goes back to the machine's memory, where it can be copied.
 */
function memoryFault(
  cpu: Cpu,
  context: SvmContext,
  request: SvmRequest,
  map: (cpu: Cpu, context: SvmContext, range: HmmRange) => number,
): number {
  for (;;) {
    const error = faultAndMap(cpu, context, request, map);
    if (error !== 0) return error;
    const page = firstReadOnly(cpu, request);
    if (page < 0) return 0;
    const range = member(request, SvmRequest.range);
    const va = readAddress(cpu, range, HmmRange.start) + page * PAGE_SIZE;
    const moved = svmMigrateToSystem(cpu, context, va, va + PAGE_SIZE);
    if (moved < 0) return moved;
  }
}

/** The first page that is wanted for writing and may not be written; -1 if there is none. */
function firstReadOnly(cpu: Cpu, request: SvmRequest): number {
  const range = member(request, SvmRequest.range);
  const requests = read(cpu, request, SvmRequest.requests);
  const pfns = read(cpu, range, HmmRange.pfns);
  const start = readAddress(cpu, range, HmmRange.start);
  const count = (readAddress(cpu, range, HmmRange.end) - start) / PAGE_SIZE;
  const byDefault = read(cpu, range, HmmRange.defaultFlags);
  for (let i = 0; i < count; i++) {
    const own = requests === 0 ? 0 : read(cpu, (requests + i) as Wanted, Wanted.flags);
    const entry = read(cpu, (pfns + i * HmmPfn.words) as HmmPfn, HmmPfn.entry);
    if (((own | byDefault) & HMM_PFN_REQ_WRITE) !== 0 && (entry & HMM_PFN_WRITE) === 0) return i;
  }
  return -1;
}

/** The driver of a device that has memory of its own. */
export const memoryDriver: SvmDriver = defineKernelOps({
  opsName: 'svm with memory',
  invalidate: svmInvalidate,
  fault: (cpu: Cpu, context: SvmContext, request: SvmRequest) =>
    memoryFault(cpu, context, request, mapIntoDevice),
});

/** Maps what of [start, end) is in the device's memory (I1): as above. Brings nothing in. */
export function svmMapOwn(cpu: Cpu, context: SvmContext, start: Va, end: Va): number {
  return mapChunks(cpu, context, start, end, 0, mapOwn);
}

function mapOwn(cpu: Cpu, context: SvmContext, range: HmmRange): number {
  const devmem = devmemOfContext(cpu, context);
  const first = read(cpu, devmem, Devmem.first);
  const end = first + read(cpu, devmem, Devmem.count);
  forEachEntry(cpu, range, (entry, at) => {
    const pfn = entry >>> HMM_PFN_SHIFT;
    const isOwn = (entry & HMM_PFN_VALID) !== 0 && pfn >= first && pfn < end;
    if (!isOwn) write(cpu, at, HmmPfn.entry, 0);
  });
  return mapIntoDevice(cpu, context, range);
}

function forEachEntry(cpu: Cpu, range: HmmRange, visit: (entry: number, at: HmmPfn) => void): void {
  const start = readAddress(cpu, range, HmmRange.start);
  const count = (readAddress(cpu, range, HmmRange.end) - start) / PAGE_SIZE;
  const pfns = read(cpu, range, HmmRange.pfns);
  for (let i = 0; i < count; i++) {
    const at = (pfns + i * HmmPfn.words) as HmmPfn;
    visit(read(cpu, at, HmmPfn.entry), at);
  }
}

// --- exclusive access ---

/**
 * Gives the device the pages of [start, end) alone, until a CPU uses one: 0, -EBUSY if one of them is in use elsewhere
 * (those before it are the device's), -EFAULT, -ENOMEM. The caller holds mm_users. Sleeps. @kernel dmirror_exclusive
 */
export function svmMakeExclusive(cpu: Cpu, context: SvmContext, start: Va, end: Va): number {
  const words = CHUNK_PAGES * Entry.words;
  const pages = allocWords(cpu, words) as MigratePfn;
  if (pages === NULL) return -ENOMEM;
  let error = 0;
  for (let at = start; at < end && error === 0; at += CHUNK_BYTES) {
    error = makeChunkExclusive(cpu, context, at, Math.min(end, at + CHUNK_BYTES), pages);
  }
  freeWords(cpu, pages, words);
  return error;
}

function makeChunkExclusive(
  cpu: Cpu,
  context: SvmContext,
  start: Va,
  end: Va,
  pages: MigratePfn,
): number {
  const interval = member(context, SvmContext.interval);
  const mm = read(cpu, context, SvmContext.mm);
  const lock = member(context, SvmContext.lock);
  const count = (end - start) / PAGE_SIZE;
  for (let deadline = 0; ;) {
    const seq = mmuIntervalReadBegin(cpu, interval);
    mmapReadLock(cpu, mm);
    const found = makeDeviceExclusiveRange(cpu, mm, start, end, pages, ownerOf(cpu, context));
    mmapReadUnlock(cpu, mm);
    if (found < 0) return found;
    const isWhole = found === count && hasAll(cpu, pages, count);
    mutexLock(cpu, lock);
    const isStale = mmuIntervalReadRetry(cpu, interval, seq);
    const error = !isWhole ? -EBUSY : isStale ? 0 : mapAtomic(cpu, context, start, end, pages);
    mutexUnlock(cpu, lock);
    giveBack(cpu, pages, found); // I2
    if (!isWhole || !isStale) return error;
    deadline = tryAgainUntil(cpu, deadline);
    if (deadline === 0) return -EBUSY;
  }
}

function hasAll(cpu: Cpu, pages: MigratePfn, count: number): boolean {
  for (let i = 0; i < count; i++) if (getMigratePfn(cpu, pages, i) === 0) return false;
  return true;
}

function giveBack(cpu: Cpu, pages: MigratePfn, count: number): void {
  for (let i = 0; i < count; i++) {
    const pfn: Pfn = getMigratePfn(cpu, pages, i);
    if (pfn === 0) continue;
    unlockPage(cpu, pageOf(cpu, pfn));
    putPage(cpu, pfn);
  }
}

/** The context's lock must be held, the pages locked, and nothing stale. @kernel dmirror_atomic_map */
function mapAtomic(cpu: Cpu, context: SvmContext, start: Va, end: Va, pages: MigratePfn): number {
  const range = stackPush(cpu, HmmRange);
  const words = CHUNK_PAGES * HmmPfn.words;
  const pfns = allocWords(cpu, words) as HmmPfn;
  let error = -ENOMEM;
  if (pfns !== NULL) {
    writeAddress(cpu, range, HmmRange.start, start);
    writeAddress(cpu, range, HmmRange.end, end);
    write(cpu, range, HmmRange.pfns, pfns);
    for (let i = 0; i < (end - start) / PAGE_SIZE; i++) {
      const at = (pfns + i * HmmPfn.words) as HmmPfn;
      const pfn = getMigratePfn(cpu, pages, i);
      const entry = (pfn << HMM_PFN_SHIFT) | HMM_PFN_VALID | HMM_PFN_WRITE | DEVICE_ATOMIC;
      write(cpu, at, HmmPfn.entry, entry);
      write(cpu, at, HmmPfn.generation, read(cpu, pageOf(cpu, pfn), Page.generation));
    }
    error = mapIntoDevice(cpu, context, range);
    freeWords(cpu, pfns, words);
  }
  stackPop(cpu, range);
  return error;
}
