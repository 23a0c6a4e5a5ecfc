/**
 * An address space that several CPUs use, with a device that mirrors two of its pages: what the programs over
 * mm and HMM share.
 *
 * The device is the smallest that the protocol allows: one interval, one entry for each page, one spinlock of
 * the driver's. A fault of it is hmm_range_fault between readBegin and readRetry; it is told of invalidations
 * of its pages and forgets its entries.
 *
 * @module
 */
import { fetchAdd, fetchOr, read, readAddress, readOnce, write, writeAddress } from '#memory';

import { bug } from '../../base/bug.js';
import { EBUSY, EFAULT, EPERM } from '../../base/errno.js';
import { PAGE_SIZE } from '../../base/units.js';
import { hmmRangeFault } from '../../hmm/range-fault.js';
import {
  HMM_PFN_REQ_FAULT,
  HMM_PFN_REQ_WRITE,
  HMM_PFN_SHIFT,
  HmmPfn,
  HmmRange,
} from '../../hmm/types.js';
import type { Cpu } from '../../machine/cpu.js';
import { frameWord } from '../../machine/frame.js';
import { lockClass } from '../../machine/lock-class.js';
import { defineOps } from '../../machine/ops-table.js';
import { frameOf, pageOf } from '../../machine/page-alloc.js';
import { kzalloc } from '../../machine/slab.js';
import { stackPop, stackPush } from '../../machine/stack.js';
import { TlbContext } from '../../machine/tlb.js';
import { MACHINE, Machine, Page } from '../../machine/types.js';
import {
  cacheline,
  containerOf,
  element,
  type Field,
  member,
  NULL,
  type Ptr,
  struct,
  type Va,
  word,
  words,
} from '../../memory/layout.js';
import { loadWord, storeWord } from '../../mm/access.js';
import { dupMm } from '../../mm/fork.js';
import { mmAlloc } from '../../mm/mm-struct.js';
import { mmap } from '../../mm/mmap.js';
import { mmapReadLock, mmapReadUnlock } from '../../mm/mmap-lock.js';
import { setPageDirty } from '../../mm/page.js';
import { pteOf } from '../../mm/page-table.js';
import { NO_PTE, PTE_PRESENT, PTE_WRITE, pteGet, ptePfn } from '../../mm/pte.js';
import { MmStruct } from '../../mm/types.js';
import { MAP_ANONYMOUS, MAP_FIXED, MAP_PRIVATE, PROT_READ, PROT_WRITE } from '../../mm/uapi.js';
import {
  mmuIntervalNotifierInsert,
  mmuIntervalReadBegin,
  mmuIntervalReadRetry,
  mmuIntervalSetSeq,
} from '../../notifier/mmu-interval-notifier.js';
import { MmuIntervalNotifier, MmuNotifierRange } from '../../notifier/types.js';
import { initSpinlock, Spinlock, spinLock, spinUnlock } from '../../sync/spinlock.js';
import { defineProgram, type ExploreProgram, type ProgramTask } from '../program.js';
import { checkSpaces, framesAtHand } from './space-check.js';

/** Pages that the programs use. */
export const SPACE_PAGES = 2;
const SPACE_START: Va = 0x4000_0000;
/** Memory of their machines. */
export const SPACE_RAM_BYTES = 160 * PAGE_SIZE;

/** What a page holds that `fillPage` has written. */
export const FILLED = 7;

export const Space = struct('explored_space', {
  interval: MmuIntervalNotifier,
  line1: cacheline,
  lock: Spinlock, // the driver's: device, and the interval's sequence
  device: words(SPACE_PAGES * HmmPfn.words), // the device's entries; 0 = none; under lock
  line2: cacheline,
  mm: word,
  child: word, // what fork made; 0 = none; written by one task
  framesBefore: word, // framesAtHand before there was any address space
  line3: cacheline,
  results: words(8), // what tasks saw, for checks and observe; a word of the task's CPU each
  isMirrored: word, // the device has its interval
  file: word, // that is mapped; 0 = none
  devmem: word, // a device with memory; 0 = none
  victim: word, // a task of the address space, for the OOM reaper; 0 = none
});
export type Space = Ptr<'explored_space'>;

const DRIVER_LOCK = lockClass('mirror->lock');

/** Address of a page of the programs. */
export function pageVa(page: number): Va {
  return SPACE_START + page * PAGE_SIZE;
}

/** The address space. */
export function spaceMm(cpu: Cpu, space: Space): MmStruct {
  return read(cpu, space, Space.mm) as MmStruct;
}

/** An empty address space, that all CPUs may use. */
export function makeSpace(cpu: Cpu): Space {
  const space = kzalloc(cpu, Space);
  write(cpu, space, Space.framesBefore, framesAtHand(cpu));
  const mm = mmAlloc(cpu);
  write(cpu, space, Space.mm, mm);
  attachAll(cpu, mm);
  initSpinlock(cpu, member(space, Space.lock), DRIVER_LOCK);
  return space;
}

/** Says that the CPU of every task may have translations of the space. @kernel mm_cpumask */
export function attachAll(cpu: Cpu, mm: MmStruct): void {
  const mask = (1 << read(cpu, MACHINE, Machine.cpus)) - 1;
  fetchOr(cpu, member(mm, MmStruct.tlb), element(TlbContext.cpus, 0), mask); // reclaim may know it already
}

// --- what programs do ---

/** Maps a page anonymously, in the place of what is there; refused only if memory is out. */
export function mapPage(cpu: Cpu, space: Space, page: number): void {
  const flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED;
  const va = pageVa(page);
  const rights = PROT_READ | PROT_WRITE;
  const answer = mmap(cpu, spaceMm(cpu, space), va, PAGE_SIZE, rights, flags, NULL, 0);
  if (answer !== va) bug(`mmap answered ${answer}`);
}

/** A page with something in it. */
export function fillPage(cpu: Cpu, space: Space, page: number): void {
  mapPage(cpu, space, page);
  if (storeWord(cpu, spaceMm(cpu, space), pageVa(page), FILLED) !== 0) bug('setup has no memory');
}

/** What a load of the page gives, or -EFAULT. */
export function loadPage(cpu: Cpu, mm: MmStruct, page: number): number {
  const error = loadWord(cpu, mm, pageVa(page));
  if (error !== 0 && error !== -EFAULT) bug(`a load answered ${error}`);
  return error === 0 ? cpu.loaded : error;
}

/** Stores into the page: 0 or -EFAULT. */
export function storePage(cpu: Cpu, mm: MmStruct, page: number, value: number): number {
  const error = storeWord(cpu, mm, pageVa(page), value);
  if (error !== 0 && error !== -EFAULT) bug(`a store answered ${error}`);
  return error;
}

/** A child of the address space, that all CPUs may use. */
export function forkSpace(cpu: Cpu, space: Space): MmStruct {
  const child = dupMm(cpu, spaceMm(cpu, space));
  if (child === NULL) bug('fork has no memory');
  attachAll(cpu, child);
  write(cpu, space, Space.child, child);
  return child;
}

/** What is in a word of the page, or -EFAULT if nothing is mapped: for checks. */
export function peekWord(cpu: Cpu, space: Space, page: number, index: number): number {
  const pte = pteOf(cpu, read(cpu, spaceMm(cpu, space), MmStruct.pgd), pageVa(page));
  const entry = pte === NO_PTE ? 0 : pteGet(cpu, pte);
  if ((entry & PTE_PRESENT) === 0) return -EFAULT;
  return read(cpu, frameOf(cpu, ptePfn(entry)), frameWord(index));
}

/** Keeps a result of this CPU's task. */
export function setResult(cpu: Cpu, space: Space, value: number): void {
  write(cpu, space, element(Space.results, cpu.id), value);
}

/** The result of a CPU's task. */
export function resultOf(cpu: Cpu, space: Space, id: number): number {
  return read(cpu, space, element(Space.results, id));
}

// --- the device ---

export const spaceMirror = defineOps({
  opsName: 'explored mirror',
  invalidate(cpu: Cpu, interval: MmuIntervalNotifier, range: MmuNotifierRange, seq: number) {
    const space: Space = containerOf(interval, Space.interval);
    const start = readAddress(cpu, range, MmuNotifierRange.start);
    const end = readAddress(cpu, range, MmuNotifierRange.end);
    spinLock(cpu, member(space, Space.lock));
    mmuIntervalSetSeq(cpu, interval, seq);
    for (let page = 0; page < SPACE_PAGES; page++) {
      if (pageVa(page) < start || pageVa(page) >= end) continue;
      write(cpu, space, deviceWord(page, HmmPfn.entry), 0);
    }
    spinUnlock(cpu, member(space, Space.lock));
    return true;
  },
});

/** Where the device's entry of a page is. */
function deviceWord(page: number, field: number): Field<'explored_space'> {
  return element(Space.device, page * HmmPfn.words + field);
}

/** Gives the device its interval over the pages. */
export function mirrorSpace(cpu: Cpu, space: Space): void {
  const interval = member(space, Space.interval);
  const length = SPACE_PAGES * PAGE_SIZE;
  const mm = spaceMm(cpu, space);
  const error = mmuIntervalNotifierInsert(cpu, interval, mm, pageVa(0), length, spaceMirror);
  if (error !== 0) bug(`the interval cannot be inserted: ${error}`);
  write(cpu, space, Space.isMirrored, 1);
}

/** The device faults a page in for writing: 0, -EFAULT or -EPERM. */
export function deviceFault(cpu: Cpu, space: Space, page: number): number {
  const range = stackPush(cpu, HmmRange);
  const pfn = stackPush(cpu, HmmPfn);
  write(cpu, range, HmmRange.notifier, member(space, Space.interval));
  writeAddress(cpu, range, HmmRange.start, pageVa(page));
  writeAddress(cpu, range, HmmRange.end, pageVa(page + 1));
  write(cpu, range, HmmRange.pfns, pfn);
  write(cpu, range, HmmRange.defaultFlags, HMM_PFN_REQ_FAULT | HMM_PFN_REQ_WRITE);
  let result: number;
  do result = tryDeviceFault(cpu, space, page, range, pfn);
  while (result === -EBUSY);
  stackPop(cpu, pfn);
  stackPop(cpu, range);
  if (result !== 0 && result !== -EFAULT && result !== -EPERM) {
    bug(`hmm_range_fault answered ${result}`);
  }
  return result;
}

/** One round of the collision-retry protocol; -EBUSY: again. */
function tryDeviceFault(
  cpu: Cpu,
  space: Space,
  page: number,
  range: HmmRange,
  pfn: HmmPfn,
): number {
  const interval = member(space, Space.interval);
  const lock = member(space, Space.lock);
  const mm = spaceMm(cpu, space);
  const seq = mmuIntervalReadBegin(cpu, interval);
  write(cpu, range, HmmRange.notifierSeq, seq);
  mmapReadLock(cpu, mm);
  const error = hmmRangeFault(cpu, range);
  mmapReadUnlock(cpu, mm);
  if (error !== 0) return error;
  spinLock(cpu, lock);
  const isStale = mmuIntervalReadRetry(cpu, interval, seq);
  if (!isStale) {
    write(cpu, space, deviceWord(page, HmmPfn.entry), read(cpu, pfn, HmmPfn.entry));
    write(cpu, space, deviceWord(page, HmmPfn.generation), read(cpu, pfn, HmmPfn.generation));
  }
  spinUnlock(cpu, lock);
  return isStale ? -EBUSY : 0;
}

/** True if the device has the page. */
export function deviceHas(cpu: Cpu, space: Space, page: number): boolean {
  return read(cpu, space, deviceWord(page, HmmPfn.entry)) !== 0;
}

/**
 * The device adds 1 to a word of the page, through its entry, as atomics of devices do; false if it has none. Ends the
 * run if its frame has been freed.
 */
export function deviceAdd(cpu: Cpu, space: Space, page: number, index: number): boolean {
  const lock = member(space, Space.lock);
  spinLock(cpu, lock);
  const entry = read(cpu, space, deviceWord(page, HmmPfn.entry));
  if (entry !== 0) {
    const pfn = entry >>> HMM_PFN_SHIFT;
    fetchAdd(cpu, frameOf(cpu, pfn), frameWord(index), 1);
    setPageDirty(cpu, pfn);
    const generation = readOnce(cpu, pageOf(cpu, pfn), Page.generation);
    if (read(cpu, space, deviceWord(page, HmmPfn.generation)) !== generation) {
      bug('INV-20: the device has used a frame that was freed');
    }
  }
  spinUnlock(cpu, lock);
  return entry !== 0;
}

// --- what must be true at the end ---

/** The spaces and what they consist of, and the device's entries against those of the CPUs. */
export function checkSpace(cpu: Cpu, at: number): string | undefined {
  const space = at as Space;
  const mms = [spaceMm(cpu, space)];
  const child = read(cpu, space, Space.child) as MmStruct;
  if (child !== NULL) mms.push(child);
  const wrong = checkSpaces(cpu, mms, read(cpu, space, Space.framesBefore));
  if (wrong !== undefined) return wrong;
  for (let page = 0; page < SPACE_PAGES; page++) {
    const stale = checkDevice(cpu, space, page);
    if (stale !== undefined) return stale;
  }
  return undefined;
}

/** A program over an address space: how it starts, what its tasks do, and that the space is in order at the end. */
export function spaceProgram(
  name: string,
  title: string,
  setup: (cpu: Cpu) => number,
  tasks: readonly ProgramTask[],
  more: Partial<ExploreProgram> = {},
): ExploreProgram {
  return defineProgram({
    name,
    title,
    tasks,
    ops: { spaceMirror },
    ramBytes: SPACE_RAM_BYTES,
    setup,
    check: checkSpace,
    ...more,
  });
}

/** Starts with one page that has something in it. */
export function setupFilled(cpu: Cpu): number {
  const space = makeSpace(cpu);
  fillPage(cpu, space, 0);
  return space;
}

/** INV-20 at rest: what the device has, the CPU's page table has. */
function checkDevice(cpu: Cpu, space: Space, page: number): string | undefined {
  const entry = read(cpu, space, deviceWord(page, HmmPfn.entry));
  if (entry === 0) return undefined;
  const pfn = entry >>> HMM_PFN_SHIFT;
  const generation = read(cpu, pageOf(cpu, pfn), Page.generation);
  if (read(cpu, space, deviceWord(page, HmmPfn.generation)) !== generation) {
    return 'INV-20: the device has a frame that was freed';
  }
  const pte = pteOf(cpu, read(cpu, spaceMm(cpu, space), MmStruct.pgd), pageVa(page));
  const mapped = pte === NO_PTE ? 0 : pteGet(cpu, pte);
  if ((mapped & PTE_PRESENT) === 0) return 'INV-20: the device has a page that the CPUs have not';
  if (ptePfn(mapped) !== pfn) return 'INV-20: the device has another frame than the CPUs';
  const isWritable = (mapped & PTE_WRITE) !== 0;
  return isWritable ? undefined : 'INV-20: the device may write a page that the CPUs may not';
}
