/**
 * The pages of a case as a recording states them: what hmm_range_fault reports, what the entry is, and what the
 * page holds. Looking changes nothing.
 *
 * @module
 */
import { read, readOnce, readOnceCells, write, writeAddress } from '#memory';

import { PAGE_SIZE } from '../base/units.js';
import { hmmRangeFault } from '../hmm/range-fault.js';
import {
  HMM_PFN_ERROR,
  HMM_PFN_ORDER_MASK,
  HMM_PFN_ORDER_SHIFT,
  HMM_PFN_SHIFT,
  HMM_PFN_VALID,
  HMM_PFN_WRITE,
  HmmPfn,
  HmmRange,
} from '../hmm/types.js';
import type { Cpu } from '../machine/cpu.js';
import { frameWord } from '../machine/frame.js';
import { frameOf, pageOf, type Pfn, PG_ANON, PG_LARGE, ZERO_PFN } from '../machine/page-alloc.js';
import { allocWords, freeWords, kfree, kzalloc } from '../machine/slab.js';
import { Page } from '../machine/types.js';
import { member, NULL } from '../memory/layout.js';
import { mmapReadLock, mmapReadUnlock } from '../mm/mmap-lock.js';
import { pageHasFlag } from '../mm/page.js';
import { pteOf } from '../mm/page-table.js';
import {
  NO_PTE,
  Pte,
  PTE_SOFT_DIRTY,
  PTE_WRITE,
  pteHasFrame,
  pteIsDeviceExclusive,
  pteIsDevicePrivate,
  pteIsMigration,
  pteIsSwap,
  ptePfn,
} from '../mm/pte.js';
import { MmStruct, VM_SOFTDIRTY } from '../mm/types.js';
import { vmaFlags, vmaLookup } from '../mm/vma.js';
import { mmuIntervalReadBegin } from '../notifier/mmu-interval-notifier.js';
import { deviceNameOf } from './devices.js';
import { insertUnnamed, removeUnnamed } from './recorder.js';
import { ConformInterval, ConformWorld, vaOf } from './world.js';

/** A page, by the names of the format. */
export interface PageState {
  readonly hmm: string;
  readonly pte: string;
  readonly order?: number;
  readonly page?: string;
  readonly large?: number;
  readonly val?: number;
  readonly shift?: number;
  readonly excl?: number;
  readonly softdirty?: number;
}

/** Words of a page that a case writes: the value, and the number of the page it was written as. */
export const VALUE_WORD = 0;
export const PAGE_WORD = 1;

/** Who looks: dev0. */
const SNAPSHOT_OWNER = 1;

/** The state of pages [first, first + count) of the arena. No lock held. Sleeps. */
export function snapshotOf(
  cpu: Cpu,
  world: ConformWorld,
  mm: MmStruct,
  first: number,
  count: number,
): PageState[] {
  const own = insertUnnamed(cpu, world, mm, vaOf(first), count * PAGE_SIZE);
  if (own === NULL) return [];
  const interval = member(own, ConformInterval.interval);
  const range = kzalloc(cpu, HmmRange);
  const pfns = allocWords(cpu, count * HmmPfn.words);
  writeAddress(cpu, range, HmmRange.start, vaOf(first));
  writeAddress(cpu, range, HmmRange.end, vaOf(first + count));
  write(cpu, range, HmmRange.notifier, interval);
  write(cpu, range, HmmRange.pfns, pfns);
  write(cpu, range, HmmRange.devPrivateOwner, SNAPSHOT_OWNER);
  write(cpu, range, HmmRange.notifierSeq, mmuIntervalReadBegin(cpu, interval));
  mmapReadLock(cpu, mm);
  hmmRangeFault(cpu, range);
  const pages = statesOf(cpu, world, mm, pfns, first, count);
  mmapReadUnlock(cpu, mm);
  removeUnnamed(cpu, own);
  freeWords(cpu, pfns, count * HmmPfn.words);
  kfree(cpu, HmmRange, range);
  return pages;
}

/** The states of pages that hmm_range_fault has just reported. The mmap lock must be held. */
export function statesOf(
  cpu: Cpu,
  world: ConformWorld,
  mm: MmStruct,
  pfns: number,
  first: number,
  count: number,
): PageState[] {
  const showsSoftDirty = read(cpu, world, ConformWorld.sd) !== 0;
  return Array.from({ length: count }, (_, i) => {
    const hmm = read(cpu, (pfns + i * HmmPfn.words) as HmmPfn, HmmPfn.entry);
    return stateOf(cpu, mm, first + i, hmm, showsSoftDirty);
  });
}

function stateOf(
  cpu: Cpu,
  mm: MmStruct,
  page: number,
  hmm: number,
  showsSoftDirty: boolean,
): PageState {
  const entry = entryOf(cpu, mm, page);
  const letters = hmmLetters(hmm);
  const order = (hmm & HMM_PFN_ORDER_MASK) >>> HMM_PFN_ORDER_SHIFT;
  const softdirty = showsSoftDirty && isSoftDirty(cpu, mm, page, entry) ? 1 : 0;
  const pte = entryKind(entry);
  return {
    hmm: letters,
    pte,
    ...(order !== 0 && { order }),
    ...(pte !== 'none' && { excl: isMappedOnce(cpu, entry) ? 1 : 0 }),
    ...(letters.startsWith('V') && contentsOf(cpu, hmm >>> HMM_PFN_SHIFT, page, order !== 0)),
    ...(showsSoftDirty && { softdirty }),
  };
}

function entryOf(cpu: Cpu, mm: MmStruct, page: number): number {
  const pte = pteOf(cpu, read(cpu, mm, MmStruct.pgd), vaOf(page));
  if (pte === NO_PTE) return 0;
  const copy = cpu.scratch as Pte;
  readOnceCells(cpu, copy, pte, 1);
  return read(cpu, copy, Pte.entry);
}

/** What pagemap says: also of what was mapped since the bits were cleared. */
function isSoftDirty(cpu: Cpu, mm: MmStruct, page: number, entry: number): boolean {
  if ((entry & PTE_SOFT_DIRTY) !== 0) return true;
  const vma = vmaLookup(cpu, mm, vaOf(page));
  return vma !== NULL && (vmaFlags(cpu, vma) & VM_SOFTDIRTY) !== 0;
}

function entryKind(entry: number): string {
  if (entry === 0) return 'none';
  if (pteHasFrame(entry)) return 'present';
  const right = (entry & PTE_WRITE) !== 0 ? 'write' : 'read';
  if (pteIsDevicePrivate(entry)) return `device-${right}`;
  if (pteIsDeviceExclusive(entry)) return `exclusive-${right}`;
  if (pteIsMigration(entry)) return 'migration';
  return pteIsSwap(entry) ? 'swap' : 'special';
}

function isMappedOnce(cpu: Cpu, entry: number): boolean {
  if (!pteHasFrame(entry)) return false;
  const pfn = ptePfn(entry);
  return pfn !== ZERO_PFN && readOnce(cpu, pageOf(cpu, pfn), Page.mapcount) === 1;
}

function contentsOf(cpu: Cpu, pfn: Pfn, page: number, isHuge: boolean): Partial<PageState> {
  const isAnon = (readOnce(cpu, pageOf(cpu, pfn), Page.flags) & PG_ANON) !== 0;
  const memory = pfn === ZERO_PFN ? 'zero' : isAnon ? 'anon' : 'file';
  const kind = deviceNameOf(cpu, pfn) ?? memory;
  const frame = frameOf(cpu, pfn);
  const val = readOnce(cpu, frame, frameWord(VALUE_WORD)) >>> 0;
  const shift = val === 0 ? 0 : readOnce(cpu, frame, frameWord(PAGE_WORD)) - page;
  const isLarge = pfn === ZERO_PFN ? isHuge : pageHasFlag(cpu, pfn, PG_LARGE);
  return { page: kind, ...(isLarge && { large: 1 }), val, ...(shift !== 0 && { shift }) };
}

function hmmLetters(entry: number): string {
  if ((entry & HMM_PFN_ERROR) !== 0) return 'E';
  if ((entry & HMM_PFN_VALID) === 0) return '-';
  return (entry & HMM_PFN_WRITE) !== 0 ? 'VW' : 'V';
}
