/**
 * What random programs do to memory: calls on a page, accesses in every way there is, children, reclaim. By the content
 * model of memory-model.ts each finds at once whether it finds what it should.
 *
 * An operation answers true if it was done, and false if it was refused: there was a hole, or another task was in the
 * way. Both are right.
 *
 * @module
 */
import { fetchAdd } from '#memory';

import { bug } from '../../base/bug.js';
import { EFAULT, EIO } from '../../base/errno.js';
import { PAGE_SIZE } from '../../base/units.js';
import type { Cpu } from '../../machine/cpu.js';
import { NULL, type Va } from '../../memory/layout.js';
import { clearReferenced, clearSoftDirty } from '../../mm/clear-refs.js';
import { mmput } from '../../mm/exit.js';
import { dupMm } from '../../mm/fork.js';
import { accessRemotePage, FOLL_PIN, FOLL_WRITE, getUserPage, putUserPage } from '../../mm/gup.js';
import { madvise } from '../../mm/madvise.js';
import { mlock, mlockall, munlock, munlockall } from '../../mm/mlock.js';
import { mprotect } from '../../mm/mprotect.js';
import { mremap } from '../../mm/mremap.js';
import { munmap } from '../../mm/munmap.js';
import { PMD_SIZE } from '../../mm/page-table.js';
import { fallocate, ftruncate } from '../../mm/truncate.js';
import type { MmStruct } from '../../mm/types.js';
import * as uapi from '../../mm/uapi.js';
import { proactiveReclaim } from '../../mm/vmscan.js';
import {
  addedWord,
  cellVa,
  FILE_PAGE,
  fileOf,
  judge,
  judgeAdded,
  judgeChild,
  judgeFrame,
  judgeWiped,
  loadCells,
  lookAt,
  mapPlace,
  MEMORY_PAGES,
  MemoryWorld,
  mmOf,
  nextTag,
  placeVa,
  READ_WRITE,
  remember,
  spaceOf,
  storeCells,
  storeInChild,
  threaten,
  threatenPrivate,
} from './memory-model.js';
import { attachAll, deviceAdd, deviceFault, pageVa } from './space.js';

type Run = (cpu: Cpu, world: MemoryWorld, page: number) => boolean;

/** What can be done to a page of some. */
export interface MemoryOperation {
  readonly name: string;
  readonly run: Run;
  /** Each is a choice of its own. */
  readonly pages: readonly number[];
}

/** Where a task moves pages to for a while. */
function awayVa(cpu: Cpu): Va {
  return pageVa(4096) + cpu.id * PMD_SIZE;
}

// --- advice, rights, locked memory ---

function advisePage(cpu: Cpu, world: MemoryWorld, page: number, advice: number): boolean {
  return madvise(cpu, mmOf(cpu, world), placeVa(page), PAGE_SIZE, advice) === 0;
}

/** Advice after which contents are what they were. */
function advise(advice: number): Run {
  return (cpu, world, page) => advisePage(cpu, world, page, advice);
}

/** Advice that takes private memory away. */
function discard(advice: number): Run {
  return (cpu, world, page) => {
    threatenPrivate(cpu, world, page);
    return advisePage(cpu, world, page, advice);
  };
}

/** Takes rights away, and gives them back. */
function protect(prot: number): Run {
  return (cpu, world, page) => {
    const mm = mmOf(cpu, world);
    const isDone = mprotect(cpu, mm, placeVa(page), PAGE_SIZE, prot) === 0;
    loadCells(cpu, world, page);
    mprotect(cpu, mm, placeVa(page), PAGE_SIZE, READ_WRITE);
    return isDone;
  };
}

function lock(cpu: Cpu, world: MemoryWorld, page: number): boolean {
  return mlock(cpu, mmOf(cpu, world), placeVa(page), PAGE_SIZE, 0) === 0;
}

function unlock(cpu: Cpu, world: MemoryWorld, page: number): boolean {
  return munlock(cpu, mmOf(cpu, world), placeVa(page), PAGE_SIZE) === 0;
}

function lockAll(cpu: Cpu, world: MemoryWorld): boolean {
  const isDone = mlockall(cpu, mmOf(cpu, world), uapi.MCL_CURRENT) === 0;
  munlockall(cpu, mmOf(cpu, world));
  return isDone;
}

// --- mappings ---

function map(cpu: Cpu, world: MemoryWorld, page: number): boolean {
  threatenPrivate(cpu, world, page);
  const va = mapPlace(cpu, world, page);
  if (va !== placeVa(page)) bug(`mmap answered ${va}`);
  return true;
}

function unmap(cpu: Cpu, world: MemoryWorld, page: number): boolean {
  threatenPrivate(cpu, world, page);
  const error = munmap(cpu, mmOf(cpu, world), placeVa(page), PAGE_SIZE);
  if (error !== 0) bug(`munmap answered ${error}`);
  return true;
}

/** Moves a page away, where it has what it had, and back. */
function moveAway(cpu: Cpu, world: MemoryWorld, page: number): boolean {
  const mm = mmOf(cpu, world);
  const flags = uapi.MREMAP_MAYMOVE | uapi.MREMAP_FIXED;
  const away = awayVa(cpu);
  const moved = mremap(cpu, mm, placeVa(page), PAGE_SIZE, PAGE_SIZE, flags, away);
  if (moved < 0) return refused(moved);
  lookAt(cpu, world, mm, page, away);
  const back = mremap(cpu, mm, away, PAGE_SIZE, PAGE_SIZE, flags, placeVa(page));
  if (back < 0) bug(`mremap answered ${back} on the way back`);
  return true;
}

/** Moves what is in a page away, and leaves an empty one; unmaps what was moved. */
function moveOut(cpu: Cpu, world: MemoryWorld, page: number): boolean {
  const mm = mmOf(cpu, world);
  const flags = uapi.MREMAP_MAYMOVE | uapi.MREMAP_FIXED | uapi.MREMAP_DONTUNMAP;
  threatenPrivate(cpu, world, page);
  const moved = mremap(cpu, mm, placeVa(page), PAGE_SIZE, PAGE_SIZE, flags, awayVa(cpu));
  if (moved < 0) return refused(moved);
  lookAt(cpu, world, mm, page, moved);
  if (munmap(cpu, mm, moved, PAGE_SIZE) !== 0) bug('munmap has no memory');
  return true;
}

/** Maps the page of the file a second time. */
function mapTwice(cpu: Cpu, world: MemoryWorld, page: number): boolean {
  const mm = mmOf(cpu, world);
  const second = mremap(cpu, mm, placeVa(page), 0, PAGE_SIZE, uapi.MREMAP_MAYMOVE, 0);
  if (second < 0) return refused(second);
  lookAt(cpu, world, mm, page, second);
  if (munmap(cpu, mm, second, PAGE_SIZE) !== 0) bug('munmap has no memory');
  return true;
}

function refused(error: number): false {
  if (error !== -EFAULT) bug(`mremap answered ${error}`);
  return false;
}

/** The file loses its page, and becomes as long as it was. */
function truncate(cpu: Cpu, world: MemoryWorld, page: number): boolean {
  threaten(cpu, world, page);
  const file = fileOf(cpu, world);
  return ftruncate(cpu, file, 0) === 0 && ftruncate(cpu, file, PAGE_SIZE) === 0;
}

function punch(cpu: Cpu, world: MemoryWorld, page: number): boolean {
  threaten(cpu, world, page);
  const mode = uapi.FALLOC_FL_PUNCH_HOLE | uapi.FALLOC_FL_KEEP_SIZE;
  return fallocate(cpu, fileOf(cpu, world), mode, 0, PAGE_SIZE) === 0;
}

/** The same, by who has the file mapped. */
function remove(cpu: Cpu, world: MemoryWorld, page: number): boolean {
  threaten(cpu, world, page);
  return advisePage(cpu, world, page, uapi.MADV_REMOVE);
}

// --- children ---

function forkOf(cpu: Cpu, world: MemoryWorld): MmStruct {
  const child = dupMm(cpu, mmOf(cpu, world));
  if (child === NULL) bug('fork has no memory');
  attachAll(cpu, child);
  return child;
}

/** A child has what there was, keeps it, and stores a page of its own. */
function fork(cpu: Cpu, world: MemoryWorld, page: number): boolean {
  const child = forkOf(cpu, world);
  judgeChild(cpu, world, child);
  const isDone = storeInChild(cpu, world, child, page);
  loadCells(cpu, world, page);
  mmput(cpu, child);
  return isDone;
}

/** A child of which a page goes to the swap area. */
function forkPageout(cpu: Cpu, world: MemoryWorld, page: number): boolean {
  const child = forkOf(cpu, world);
  const isDone = madvise(cpu, child, placeVa(page), PAGE_SIZE, uapi.MADV_PAGEOUT) === 0;
  judgeChild(cpu, world, child);
  mmput(cpu, child);
  return isDone;
}

/** A child that is not given what is in a page. */
function forkWiped(cpu: Cpu, world: MemoryWorld, page: number): boolean {
  fetchAdd(cpu, world, MemoryWorld.wipes, 1);
  const isAdvised = advisePage(cpu, world, page, uapi.MADV_WIPEONFORK);
  const child = forkOf(cpu, world);
  const isDone = isAdvised && judgeWiped(cpu, world, child, page);
  mmput(cpu, child);
  advisePage(cpu, world, page, uapi.MADV_KEEPONFORK);
  loadCells(cpu, world, page);
  return isDone;
}

// --- from outside ---

/** Holds on to a page, which stays whatever is advised: what the task stores is in the frame. */
function pin(flags: number): Run {
  return (cpu, world, page) => {
    const how = FOLL_PIN | flags;
    fetchAdd(cpu, world, MemoryWorld.pins, 1);
    const pfn = getUserPage(cpu, mmOf(cpu, world), placeVa(page), how);
    if (pfn === 0) {
      if (cpu.gupError !== -EFAULT) bug(`a pin is refused with ${cpu.gupError}`);
      return false;
    }
    advisePage(cpu, world, page, uapi.MADV_PAGEOUT);
    const isStored = storeCells(cpu, world, page);
    if (isStored) judgeFrame(cpu, world, page, pfn);
    putUserPage(cpu, pfn, how);
    return isStored;
  };
}

/** Another process looks into the page. */
function readRemote(cpu: Cpu, world: MemoryWorld, page: number): boolean {
  const words = [0];
  const error = accessRemotePage(cpu, mmOf(cpu, world), cellVa(page, cpu.id, 0), words, false);
  if (error === 0) judge(cpu, world, page, 0, words[0] ?? 0);
  else if (error !== -EIO) bug(`a remote access answered ${error}`);
  return error === 0;
}

/** Another process writes it. */
function writeRemote(cpu: Cpu, world: MemoryWorld, page: number): boolean {
  const tag = nextTag(cpu, world, page);
  const error = accessRemotePage(cpu, mmOf(cpu, world), cellVa(page, cpu.id, 0), [tag], true);
  if (error === 0) remember(cpu, world, page, tag);
  else if (error !== -EIO) bug(`a remote access answered ${error}`);
  if (error === 0) loadCells(cpu, world, page);
  return error === 0;
}

function fault(cpu: Cpu, world: MemoryWorld, page: number): boolean {
  return deviceFault(cpu, spaceOf(cpu, world), page) === 0;
}

/** The device adds to a word, which the task finds added to. */
function add(cpu: Cpu, world: MemoryWorld, page: number): boolean {
  const space = spaceOf(cpu, world);
  if (deviceFault(cpu, space, page) !== 0) return false;
  return deviceAdd(cpu, space, page, addedWord(cpu)) && judgeAdded(cpu, world, page);
}

// --- reclaim ---

function reclaim(cpu: Cpu): boolean {
  return proactiveReclaim(cpu, 1) > 0;
}

function forgetUse(cpu: Cpu, world: MemoryWorld): boolean {
  clearReferenced(cpu, mmOf(cpu, world));
  return true;
}

function forgetWrites(cpu: Cpu, world: MemoryWorld): boolean {
  clearSoftDirty(cpu, mmOf(cpu, world));
  return true;
}

// --- huge pages ---

/** Makes it one page. */
function collapse(cpu: Cpu, world: MemoryWorld): boolean {
  return madvise(cpu, mmOf(cpu, world), placeVa(0), PMD_SIZE, uapi.MADV_COLLAPSE) === 0;
}

/** Moves all of it away, and back. */
function moveBlock(cpu: Cpu, world: MemoryWorld): boolean {
  const mm = mmOf(cpu, world);
  const flags = uapi.MREMAP_MAYMOVE | uapi.MREMAP_FIXED;
  const away = awayVa(cpu);
  const moved = mremap(cpu, mm, placeVa(0), PMD_SIZE, PMD_SIZE, flags, away);
  if (moved < 0) return refused(moved);
  for (let page = 0; page < FILE_PAGE; page++) {
    lookAt(cpu, world, mm, page, away + page * PAGE_SIZE);
  }
  const back = mremap(cpu, mm, away, PMD_SIZE, PMD_SIZE, flags, placeVa(0));
  if (back < 0) bug(`mremap answered ${back} on the way back`);
  return true;
}

// --- all of them ---

const ALL = Array.from({ length: MEMORY_PAGES }, (_, page) => page);
const ANONYMOUS = ALL.slice(0, FILE_PAGE);
const OF_FILE = [FILE_PAGE];
/** Not of a page. */
const ONCE = [0];

export const MEMORY_OPERATIONS: readonly MemoryOperation[] = [
  { name: 'store', run: storeCells, pages: ALL },
  { name: 'load', run: loadCells, pages: ALL },
  { name: 'DONTNEED', run: discard(uapi.MADV_DONTNEED), pages: ALL },
  { name: 'FREE', run: discard(uapi.MADV_FREE), pages: ANONYMOUS },
  { name: 'COLD', run: advise(uapi.MADV_COLD), pages: ALL },
  { name: 'PAGEOUT', run: advise(uapi.MADV_PAGEOUT), pages: ALL },
  { name: 'WILLNEED', run: advise(uapi.MADV_WILLNEED), pages: ALL },
  { name: 'POPULATE_READ', run: advise(uapi.MADV_POPULATE_READ), pages: ALL },
  { name: 'POPULATE_WRITE', run: advise(uapi.MADV_POPULATE_WRITE), pages: ALL },
  { name: 'DONTFORK', run: advise(uapi.MADV_DONTFORK), pages: ALL },
  { name: 'DOFORK', run: advise(uapi.MADV_DOFORK), pages: ALL },
  { name: 'mprotect none', run: protect(uapi.PROT_NONE), pages: ALL },
  { name: 'mprotect read', run: protect(uapi.PROT_READ), pages: ALL },
  { name: 'mlock', run: lock, pages: ALL },
  { name: 'munlock', run: unlock, pages: ALL },
  { name: 'mlockall', run: lockAll, pages: ONCE },
  { name: 'mmap', run: map, pages: ALL },
  { name: 'munmap', run: unmap, pages: ALL },
  { name: 'mremap', run: moveAway, pages: ALL },
  { name: 'mremap DONTUNMAP', run: moveOut, pages: ANONYMOUS },
  { name: 'mremap again', run: mapTwice, pages: OF_FILE },
  { name: 'truncate', run: truncate, pages: OF_FILE },
  { name: 'punch hole', run: punch, pages: OF_FILE },
  { name: 'REMOVE', run: remove, pages: OF_FILE },
  { name: 'fork', run: fork, pages: ALL },
  { name: 'fork, PAGEOUT', run: forkPageout, pages: ALL },
  { name: 'fork, wiped', run: forkWiped, pages: ANONYMOUS },
  { name: 'pin', run: pin(0), pages: ALL },
  { name: 'pin to write', run: pin(FOLL_WRITE), pages: ALL },
  { name: 'remote read', run: readRemote, pages: ALL },
  { name: 'remote write', run: writeRemote, pages: ALL },
  { name: 'device fault', run: fault, pages: ANONYMOUS },
  { name: 'device add', run: add, pages: ANONYMOUS },
  { name: 'reclaim', run: reclaim, pages: ONCE },
  { name: 'clear_refs 1', run: forgetUse, pages: ONCE },
  { name: 'clear_refs 4', run: forgetWrites, pages: ONCE },
];

/** Besides these, where there is a huge page. */
export const HUGE_OPERATIONS: readonly MemoryOperation[] = [
  { name: 'COLLAPSE', run: collapse, pages: ONCE },
  { name: 'mremap of the block', run: moveBlock, pages: ONCE },
];
