/**
 * The calls that leave mappings as they are: accesses, advice, locked memory, hints.
 *
 * @module
 */
import { PAGE_SIZE } from '../../base/units.js';
import type { Cpu } from '../../machine/cpu.js';
import { stackPop, stackPush } from '../../machine/stack.js';
import { NULL } from '../../memory/layout.js';
import { madvise } from '../../mm/madvise.js';
import { mincore } from '../../mm/mincore.js';
import { mlock, mlockall, msync, munlock, munlockall } from '../../mm/mlock.js';
import { mmapReadLock, mmapReadUnlock } from '../../mm/mmap-lock.js';
import { changeProtNuma, numaRebuildMapping } from '../../mm/numa-hint.js';
import { type MmStruct, VM_ACCESS_FLAGS, VM_SHARED } from '../../mm/types.js';
import * as uapi from '../../mm/uapi.js';
import { vmaEnd, vmaFlags, vmaLookup } from '../../mm/vma.js';
import {
  MMU_NOTIFY_PROTECTION_VMA,
  mmuNotifierRangeInit,
} from '../../notifier/mmu-notifier-range.js';
import { MmuNotifierRange } from '../../notifier/types.js';
import { bytesOf, lookAtCell, newTag, storeCell, type Way } from './content.js';
import { oneOf, type Operation, someOf, somePage, type Stage } from './stage.js';
import {
  ALL_PAGES,
  beginDanger,
  CELLS,
  endDanger,
  pageVa,
  PRIVATE_FILE,
  type Region,
  SHARED,
  STEADY,
  VOLATILE,
} from './world.js';

// --- accesses ---

/** Stores to both cells of a page, in order (content.ts); true if the first was stored. */
export function storeSomewhere(cpu: Cpu, way: Way): boolean {
  const page = somePage(way.member);
  const tag = newTag(cpu, way.world, page);
  if (!storeCell(cpu, way, page, 0, tag)) return false;
  way.member.noise(cpu);
  if (storeCell(cpu, way, page, 1, tag)) lookAtCell(cpu, way, page, way.member.random(CELLS));
  return true;
}

export function lookSomewhere(cpu: Cpu, way: Way): boolean {
  return lookAtCell(cpu, way, somePage(way.member), way.member.random(CELLS));
}

// --- advice ---

/** Advice that changes nothing that a program could see. */
const HARMLESS = [
  uapi.MADV_NORMAL,
  uapi.MADV_SEQUENTIAL,
  uapi.MADV_RANDOM,
  uapi.MADV_MERGEABLE,
  uapi.MADV_UNMERGEABLE,
  uapi.MADV_HUGEPAGE,
  uapi.MADV_NOHUGEPAGE,
  uapi.MADV_DONTDUMP,
  uapi.MADV_DODUMP,
  uapi.MADV_KEEPONFORK,
  uapi.MADV_DOFORK,
];
/** … that takes something from children. */
const OF_CHILDREN = [
  uapi.MADV_DONTFORK,
  uapi.MADV_DOFORK,
  uapi.MADV_WIPEONFORK,
  uapi.MADV_KEEPONFORK,
];
/** … about memory that is not used, or will be. */
const OF_USE = [uapi.MADV_COLD, uapi.MADV_PAGEOUT, uapi.MADV_WILLNEED, uapi.MADV_COLLAPSE];

function advise(
  region: Region,
  pagesMax: number,
  advices: readonly number[],
): (cpu: Cpu, stage: Stage) => boolean {
  return (cpu, { at, member }) => {
    const { first, pages } = someOf(member, region, pagesMax);
    madvise(cpu, at.mm, pageVa(first), bytesOf(pages), oneOf(member, advices));
    return true;
  };
}

/** Throws contents away, or says that they may be. */
function discard(advices: readonly number[]): (cpu: Cpu, stage: Stage) => boolean {
  return (cpu, { at, member }) => {
    const { first, pages } = someOf(member, VOLATILE, 10);
    beginDanger(cpu, at.space, first, pages);
    madvise(cpu, at.mm, pageVa(first), bytesOf(pages), oneOf(member, advices));
    endDanger(cpu, at.space, first, pages);
    return true;
  };
}

/** What a file has stays, though its pages go from the page table. */
function discardShared(cpu: Cpu, { at, member }: Stage): boolean {
  const { first, pages } = someOf(member, SHARED, 10);
  madvise(cpu, at.mm, pageVa(first), bytesOf(pages), uapi.MADV_DONTNEED);
  return true;
}

// --- locked memory ---

function lock(cpu: Cpu, { at, member }: Stage): boolean {
  const { first, pages } = someOf(member, ALL_PAGES, 8);
  mlock(cpu, at.mm, pageVa(first), bytesOf(pages), oneOf(member, [0, 0, uapi.MLOCK_ONFAULT]));
  return true;
}

function unlock(cpu: Cpu, { at, member }: Stage): boolean {
  const { first, pages } = someOf(member, ALL_PAGES, 16);
  munlock(cpu, at.mm, pageVa(first), bytesOf(pages));
  return true;
}

function lockAll(cpu: Cpu, { at, member }: Stage): boolean {
  const flags = oneOf(member, [
    uapi.MCL_CURRENT,
    uapi.MCL_FUTURE,
    uapi.MCL_CURRENT | uapi.MCL_FUTURE,
    uapi.MCL_CURRENT | uapi.MCL_ONFAULT,
  ]);
  mlockall(cpu, at.mm, flags);
  member.noise(cpu);
  munlockall(cpu, at.mm);
  return true;
}

// --- looks, and hints ---

function lookIfInCore(cpu: Cpu, { at, member }: Stage): boolean {
  const { first, pages } = someOf(member, ALL_PAGES, 20);
  mincore(cpu, at.mm, pageVa(first), bytesOf(pages));
  return true;
}

function sync(cpu: Cpu, { at, member }: Stage): boolean {
  const { first, pages } = someOf(member, ALL_PAGES, 20);
  const flags = oneOf(member, [uapi.MS_ASYNC, uapi.MS_SYNC, uapi.MS_SYNC | uapi.MS_INVALIDATE]);
  msync(cpu, at.mm, pageVa(first), bytesOf(pages), flags);
  return true;
}

/** Hides pages of one private mapping for a moment, and shows them again, or leaves that to who uses them. */
function hint(cpu: Cpu, { at, member }: Stage): boolean {
  const page = oneOf(member, [STEADY, PRIVATE_FILE]).first + member.random(PRIVATE_FILE.pages);
  mmapReadLock(cpu, at.mm);
  const done = hintLocked(cpu, at.mm, page, member.random(2) === 0);
  mmapReadUnlock(cpu, at.mm);
  return done;
}

function hintLocked(cpu: Cpu, mm: MmStruct, page: number, showsAgain: boolean): boolean {
  const va = pageVa(page);
  const vma = vmaLookup(cpu, mm, va);
  if (vma === NULL) return false;
  const flags = vmaFlags(cpu, vma);
  if ((flags & VM_SHARED) !== 0 || (flags & VM_ACCESS_FLAGS) === 0) return false;
  const end = Math.min(vmaEnd(cpu, vma), va + 4 * PAGE_SIZE);
  const range = stackPush(cpu, MmuNotifierRange);
  mmuNotifierRangeInit(cpu, range, MMU_NOTIFY_PROTECTION_VMA, mm, va, end);
  changeProtNuma(cpu, mm, range);
  if (showsAgain) numaRebuildMapping(cpu, mm, range);
  stackPop(cpu, range);
  return true;
}

export const ADVICE_OPERATIONS: readonly Operation[] = [
  { name: 'store', run: (cpu, { way }) => storeSomewhere(cpu, way) },
  { name: 'load', run: (cpu, { way }) => lookSomewhere(cpu, way) },
  { name: 'madv_dontneed', run: discard([uapi.MADV_DONTNEED, uapi.MADV_DONTNEED_LOCKED]) },
  { name: 'madv_free', run: discard([uapi.MADV_FREE]) },
  { name: 'dontneed_shared', run: discardShared },
  { name: 'madv_flags', run: advise(ALL_PAGES, 16, HARMLESS) },
  { name: 'madv_fork', run: advise(VOLATILE, 16, OF_CHILDREN) },
  { name: 'madv_use', run: advise(ALL_PAGES, 16, OF_USE) },
  {
    name: 'madv_populate',
    run: advise(ALL_PAGES, 8, [uapi.MADV_POPULATE_READ, uapi.MADV_POPULATE_WRITE]),
  },
  { name: 'mlock', run: lock },
  { name: 'munlock', run: unlock },
  { name: 'mlockall', run: lockAll },
  { name: 'mincore', run: lookIfInCore },
  { name: 'msync', run: sync },
  { name: 'numa_hint', run: hint },
];
