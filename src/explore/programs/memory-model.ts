/**
 * The content model of programs that are drawn over an address space: what a task loads is what it stored there last.
 *
 * Protocol   In every page two words, its cells, are one task's alone. What it stores there is a tag: who, which page,
 *            the how manieth; it remembers what it stored last, and judges by that each load it makes, in whatever
 *            way. What may take the contents of a page away says so before it begins (threaten): from then on an
 *            older tag of the task's, or nothing, may be found there too.
 *
 *            page   mapping
 *            0, 1   private, anonymous; a device mirrors both
 *            2      shared, of a file: mapping and contents go separate ways
 * Proves     INV-24 in every schedule: whatever was done, no store is lost, and nobody finds what is another's. What
 *            a child finds is of one moment (I1 of fork), and stays. At rest each page has what it should.
 * Ordering   A cell has one writer and one judge. Threats are counted atomically.
 *
 * @module
 */
import { fetchAdd, read, readOnce, write } from '#memory';

import { bug } from '../../base/bug.js';
import { EFAULT } from '../../base/errno.js';
import { PAGE_SIZE, PAGE_WORDS, WORD_BYTES } from '../../base/units.js';
import type { Cpu } from '../../machine/cpu.js';
import { frameWord } from '../../machine/frame.js';
import { frameOf } from '../../machine/page-alloc.js';
import { kzalloc } from '../../machine/slab.js';
import {
  cacheline,
  element,
  type Field,
  NULL,
  type Ptr,
  struct,
  type Va,
  word,
  words,
} from '../../memory/layout.js';
import { loadWord, storeWord } from '../../mm/access.js';
import { createFile } from '../../mm/file.js';
import { madvise } from '../../mm/madvise.js';
import { mmap } from '../../mm/mmap.js';
import { PMD_SIZE, pteOf } from '../../mm/page-table.js';
import { NO_PTE, pteGet, pteHasFrame, ptePfn, pteSlot } from '../../mm/pte.js';
import { peekSwap } from '../../mm/swap.js';
import { type File, MmStruct } from '../../mm/types.js';
import * as uapi from '../../mm/uapi.js';
import { checkSpace, makeSpace, mirrorSpace, pageVa, type Space, spaceMm } from './space.js';

/** Pages that are used; the last one is the file's. */
export const MEMORY_PAGES = 3;
export const FILE_PAGE = 2;
/** Words of a page that are one task's: at its number, and as far from the end. */
export const CELLS = 2;
/** Tasks, and the boot CPU. */
const OWNERS = 4;
/** The first word that a device adds to: one for each task. */
const ADDED = PAGE_WORDS / 2;
/** Anonymous memory that a huge page has room in begins with page 0. */
const HUGE_PAGES = PMD_SIZE / PAGE_SIZE;
const FILE_PLACE = 2 * HUGE_PAGES;

export const MemoryWorld = struct('random_memory', {
  space: word, // the Space
  file: word, // of page 2
  isHuge: word, // pages 0 and 1 are part of a mapping that wants a huge page
  line1: cacheline,
  threats: words(MEMORY_PAGES), // calls so far that may take contents away; atomic, as the two below
  wipes: word, // children that should have found nothing in a page
  pins: word, // of pages: fork copies one that is pinned while its parent may store to it
  line2: cacheline,
  seq: words(OWNERS), // of the last tag; each of these its task's
  known: words(OWNERS * MEMORY_PAGES * CELLS), // the tag that was stored last
  added: words(OWNERS * MEMORY_PAGES), // what the device has added for the task
});
export type MemoryWorld = Ptr<'random_memory'>;

export const READ_WRITE = uapi.PROT_READ | uapi.PROT_WRITE;

/** Where a page is. */
export function placeVa(page: number): Va {
  return pageVa(page === FILE_PAGE ? FILE_PLACE : page);
}

export function spaceOf(cpu: Cpu, world: MemoryWorld): Space {
  return read(cpu, world, MemoryWorld.space) as Space;
}

export function mmOf(cpu: Cpu, world: MemoryWorld): MmStruct {
  return spaceMm(cpu, spaceOf(cpu, world));
}

export function fileOf(cpu: Cpu, world: MemoryWorld): File {
  return read(cpu, world, MemoryWorld.file) as File;
}

// --- how it begins ---

/** Maps a page as it was in the beginning, in the place of what is there: the address, or -errno. */
export function mapPlace(cpu: Cpu, world: MemoryWorld, page: number): Va {
  const ofFile = page === FILE_PAGE;
  const kind = ofFile ? uapi.MAP_SHARED : uapi.MAP_PRIVATE | uapi.MAP_ANONYMOUS;
  const file = ofFile ? fileOf(cpu, world) : NULL;
  const flags = kind | uapi.MAP_FIXED;
  return mmap(cpu, mmOf(cpu, world), placeVa(page), PAGE_SIZE, READ_WRITE, flags, file, 0);
}

/** Pages 0 and 2 have something of every task's; nobody has touched page 1. */
export function setupMemory(cpu: Cpu): MemoryWorld {
  return setup(cpu, false);
}

/** The same, with pages 0 and 1 in a huge page. */
export function setupHuge(cpu: Cpu): MemoryWorld {
  return setup(cpu, true);
}

function setup(cpu: Cpu, isHuge: boolean): MemoryWorld {
  const world = kzalloc(cpu, MemoryWorld);
  const file = createFile(cpu, PAGE_SIZE, 0);
  const space = makeSpace(cpu);
  if (world === NULL || file === NULL) bug('setup has no memory');
  write(cpu, world, MemoryWorld.space, space);
  write(cpu, world, MemoryWorld.file, file);
  write(cpu, world, MemoryWorld.isHuge, isHuge ? 1 : 0);
  if (isHuge) mapHuge(cpu, world);
  else for (let page = 0; page < FILE_PAGE; page++) mapPlace(cpu, world, page);
  mapPlace(cpu, world, FILE_PAGE);
  for (const page of [0, FILE_PAGE]) fill(cpu, world, page);
  mirrorSpace(cpu, space);
  return world;
}

function mapHuge(cpu: Cpu, world: MemoryWorld): void {
  const mm = mmOf(cpu, world);
  const flags = uapi.MAP_PRIVATE | uapi.MAP_ANONYMOUS | uapi.MAP_FIXED;
  const va = mmap(cpu, mm, placeVa(0), PMD_SIZE, READ_WRITE, flags, NULL, 0);
  if (va < 0 || madvise(cpu, mm, va, PMD_SIZE, uapi.MADV_HUGEPAGE) !== 0) bug('setup has no room');
}

/** Stores what each task would have. */
function fill(cpu: Cpu, world: MemoryWorld, page: number): void {
  for (let owner = 0; owner < OWNERS; owner++) {
    write(cpu, world, element(MemoryWorld.seq, owner), 1);
    for (let cell = 0; cell < CELLS; cell++) {
      const tag = tagOf(owner, page, 1);
      if (storeWord(cpu, mmOf(cpu, world), cellVa(page, owner, cell), tag) !== 0) bug('no memory');
      write(cpu, world, knownOf(owner, page, cell), tag);
    }
  }
}

// --- tags ---

const SEQ_BITS = 8;
const PAGE_BITS = 4;

function tagOf(owner: number, page: number, seq: number): number {
  return ((owner + 1) << (SEQ_BITS + PAGE_BITS)) | (page << SEQ_BITS) | seq;
}

const seqOf = (tag: number): number => tag & ((1 << SEQ_BITS) - 1);

/** True for a tag of that task's for that page. */
function isOwn(tag: number, owner: number, page: number): boolean {
  return tag >>> SEQ_BITS === tagOf(owner, page, 0) >>> SEQ_BITS;
}

function newTag(cpu: Cpu, world: MemoryWorld, page: number): number {
  const field = element(MemoryWorld.seq, cpu.id);
  const seq = read(cpu, world, field) + 1;
  write(cpu, world, field, seq);
  return tagOf(cpu.id, page, seq);
}

function cellWord(owner: number, cell: number): number {
  return cell === 0 ? owner : PAGE_WORDS - 1 - owner;
}

export function cellVa(page: number, owner: number, cell: number): Va {
  return placeVa(page) + cellWord(owner, cell) * WORD_BYTES;
}

function knownOf(owner: number, page: number, cell: number): Field<'random_memory'> {
  return element(MemoryWorld.known, (owner * MEMORY_PAGES + page) * CELLS + cell);
}

// --- threats ---

/** From now on the contents of the page may be gone. */
export function threaten(cpu: Cpu, world: MemoryWorld, page: number): void {
  fetchAdd(cpu, world, element(MemoryWorld.threats, page), 1);
}

/** As threaten, for what takes private memory only: a file keeps what it has. */
export function threatenPrivate(cpu: Cpu, world: MemoryWorld, page: number): void {
  if (page !== FILE_PAGE) threaten(cpu, world, page);
}

function isThreatened(cpu: Cpu, world: MemoryWorld, page: number): boolean {
  return readOnce(cpu, world, element(MemoryWorld.threats, page)) !== 0;
}

// --- accesses ---

/** False if the access was refused, as it may be: there is a hole, or no right. */
function isDone(error: number): boolean {
  if (error !== 0 && error !== -EFAULT) bug(`an access answered ${error}`);
  return error === 0;
}

/** Stores a new tag into both cells of this task's, in order; false if it was refused. */
export function storeCells(cpu: Cpu, world: MemoryWorld, page: number): boolean {
  const tag = newTag(cpu, world, page);
  for (let cell = 0; cell < CELLS; cell++) {
    const va = cellVa(page, cpu.id, cell);
    if (!isDone(storeWord(cpu, mmOf(cpu, world), va, tag))) return false;
    write(cpu, world, knownOf(cpu.id, page, cell), tag);
  }
  return true;
}

/** Loads them, and judges. */
export function loadCells(cpu: Cpu, world: MemoryWorld, page: number): boolean {
  return lookAt(cpu, world, mmOf(cpu, world), page, placeVa(page));
}

/** Loads this task's cells of a page at some address of an address space, and judges; false if it was refused. */
export function lookAt(cpu: Cpu, world: MemoryWorld, mm: MmStruct, page: number, va: Va): boolean {
  for (let cell = 0; cell < CELLS; cell++) {
    const offset = cellWord(cpu.id, cell) * WORD_BYTES;
    if (!isDone(loadWord(cpu, mm, va + offset))) return false;
    judge(cpu, world, page, cell, cpu.loaded);
  }
  return true;
}

/** Ends the run if a cell of this task's cannot read as `found`. */
export function judge(
  cpu: Cpu,
  world: MemoryWorld,
  page: number,
  cell: number,
  found: number,
): void {
  const expected = read(cpu, world, knownOf(cpu.id, page, cell));
  if (found === expected) return;
  const seq = read(cpu, world, element(MemoryWorld.seq, cpu.id));
  const isOlder = isOwn(found, cpu.id, page) && seqOf(found) <= seq;
  if (isThreatened(cpu, world, page) && (found === 0 || isOlder)) return;
  bug(`INV-24: cell ${cell} of page ${page} reads ${found}, and was stored ${expected}`);
}

/** A tag to be stored into the first cell by other means. */
export function nextTag(cpu: Cpu, world: MemoryWorld, page: number): number {
  return newTag(cpu, world, page);
}

/** … and it has been. */
export function remember(cpu: Cpu, world: MemoryWorld, page: number, tag: number): void {
  write(cpu, world, knownOf(cpu.id, page, 0), tag);
}

/** The frame of a page that is pinned has what this task has stored. */
export function judgeFrame(cpu: Cpu, world: MemoryWorld, page: number, pfn: number): void {
  judge(cpu, world, page, 0, readOnce(cpu, frameOf(cpu, pfn), frameWord(cellWord(cpu.id, 0))));
}

// --- what a device adds ---

/** The word of a page that the device adds to for this task. */
export function addedWord(cpu: Cpu): number {
  return ADDED + cpu.id;
}

/** The device has added one: the word has all it has added, or the page was threatened. */
export function judgeAdded(cpu: Cpu, world: MemoryWorld, page: number): boolean {
  const field = element(MemoryWorld.added, cpu.id * MEMORY_PAGES + page);
  const added = read(cpu, world, field) + 1;
  write(cpu, world, field, added);
  const va = placeVa(page) + addedWord(cpu) * WORD_BYTES;
  if (!isDone(loadWord(cpu, mmOf(cpu, world), va))) return false;
  const found = cpu.loaded;
  if (found === added || (found < added && isThreatened(cpu, world, page))) return true;
  bug(`INV-20: the device has added ${added} to page ${page}, and ${found} is there`);
}

// --- a child ---

/** Judges all of a child that this task has made; nobody else knows it. */
export function judgeChild(cpu: Cpu, world: MemoryWorld, child: MmStruct): void {
  for (let page = 0; page < MEMORY_PAGES; page++) {
    if (isWiped(cpu, world, child, page)) continue;
    lookAt(cpu, world, child, page, placeVa(page));
    if (page !== FILE_PAGE) checkCopies(cpu, world, child, page);
  }
}

/** True if the child may have been made without what was in the page, and has nothing there. */
function isWiped(cpu: Cpu, world: MemoryWorld, child: MmStruct, page: number): boolean {
  if (readOnce(cpu, world, MemoryWorld.wipes) === 0) return false;
  return isDone(loadWord(cpu, child, cellVa(page, cpu.id, 0))) && cpu.loaded === 0;
}

/** Others' cells in a child: of one moment, in the order in which they were stored, and for good. */
function checkCopies(cpu: Cpu, world: MemoryWorld, child: MmStruct, page: number): void {
  for (let owner = 0; owner < OWNERS; owner++) {
    if (owner === cpu.id) continue;
    const [first, second] = [pairOf(cpu, child, page, owner), pairOf(cpu, child, page, owner)];
    if (first === undefined || second === undefined) return;
    if (isThreatened(cpu, world, page)) return;
    if (first[0] !== second[0] || first[1] !== second[1]) {
      bug(`INV-24: page ${page} of a child changes: its parent still writes it`);
    }
    const mayBeTorn = readOnce(cpu, world, MemoryWorld.pins) !== 0;
    if (!mayBeTorn && seqOf(first[0]) < seqOf(first[1])) {
      bug(`INV-24: page ${page} of a child was copied while it was written`);
    }
  }
}

function pairOf(
  cpu: Cpu,
  mm: MmStruct,
  page: number,
  owner: number,
): readonly [number, number] | undefined {
  if (!isDone(loadWord(cpu, mm, cellVa(page, owner, 0)))) return undefined;
  const first = cpu.loaded;
  if (!isDone(loadWord(cpu, mm, cellVa(page, owner, 1)))) return undefined;
  return [first, cpu.loaded];
}

/** A child stores into a page: that is its own business, or all see it. False if it was refused. */
export function storeInChild(cpu: Cpu, world: MemoryWorld, child: MmStruct, page: number): boolean {
  const tag = newTag(cpu, world, page);
  const va = cellVa(page, cpu.id, 0);
  if (!isDone(storeWord(cpu, child, va, tag))) return false;
  if (page === FILE_PAGE) remember(cpu, world, page, tag);
  if (!isDone(loadWord(cpu, child, va))) return false;
  const isLost = cpu.loaded !== tag && (page !== FILE_PAGE || !isThreatened(cpu, world, page));
  if (isLost) bug(`INV-24: what a child stored in page ${page} reads ${cpu.loaded}`);
  return true;
}

/** A child of which the page was to be wiped has nothing there. */
export function judgeWiped(cpu: Cpu, world: MemoryWorld, child: MmStruct, page: number): boolean {
  const isAlone = readOnce(cpu, world, MemoryWorld.wipes) === 1;
  if (!isDone(loadWord(cpu, child, cellVa(page, cpu.id, 0)))) return false;
  const mayKeep = !isAlone || isThreatened(cpu, world, page);
  if (cpu.loaded === 0 || mayKeep) return true;
  bug(`a page that is wiped on fork reads ${cpu.loaded} in the child`);
}

// --- at rest ---

/** Nothing is lost: of contents, frames, structs. */
export function checkMemory(cpu: Cpu, at: number): string | undefined {
  const world = at as MemoryWorld;
  const wrong = checkSpace(cpu, spaceOf(cpu, world));
  if (wrong !== undefined) return wrong;
  for (let page = 0; page < MEMORY_PAGES; page++) {
    const lost = isThreatened(cpu, world, page) ? undefined : checkContents(cpu, world, page);
    if (lost !== undefined) return lost;
  }
  return undefined;
}

function checkContents(cpu: Cpu, world: MemoryWorld, page: number): string | undefined {
  const pte = pteOf(cpu, read(cpu, mmOf(cpu, world), MmStruct.pgd), placeVa(page));
  const entry = pte === NO_PTE ? 0 : pteGet(cpu, pte);
  if (entry === 0 && page === FILE_PAGE) return undefined; // it is in the file
  const at = (index: number): number => {
    if (entry === 0) return 0;
    if (!pteHasFrame(entry)) return peekSwap(cpu, pteSlot(entry), frameWord(index));
    return read(cpu, frameOf(cpu, ptePfn(entry)), frameWord(index));
  };
  for (let owner = 0; owner < OWNERS; owner++) {
    for (let cell = 0; cell < CELLS; cell++) {
      const expected = read(cpu, world, knownOf(owner, page, cell));
      const found = at(cellWord(owner, cell));
      if (found !== expected) {
        return `INV-24: cell ${cell} of page ${page} has ${found}, and was stored ${expected}`;
      }
    }
    const added = read(cpu, world, element(MemoryWorld.added, owner * MEMORY_PAGES + page));
    const found = at(ADDED + owner);
    if (found !== added) return `INV-20: ${added} was added to page ${page}, and ${found} is there`;
  }
  return undefined;
}
