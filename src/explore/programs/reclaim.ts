/**
 * Reclaim, which needs no mmap lock, against those who use a page: nothing is lost, and no device uses a frame that
 * has gone. And a page that comes back at the same time as it goes once more.
 *
 * @module
 */
import { read } from '#memory';

import { bug } from '../../base/bug.js';
import { PAGE_SIZE } from '../../base/units.js';
import type { Cpu } from '../../machine/cpu.js';
import { frameWord } from '../../machine/frame.js';
import { frameOf } from '../../machine/page-alloc.js';
import { loadWord } from '../../mm/access.js';
import { clearReferenced } from '../../mm/clear-refs.js';
import { madvise } from '../../mm/madvise.js';
import { munmap } from '../../mm/munmap.js';
import { pteOf } from '../../mm/page-table.js';
import { NO_PTE, pteGet, pteIsSwap, ptePfn, pteSlot } from '../../mm/pte.js';
import { peekSwap } from '../../mm/swap.js';
import { MmStruct } from '../../mm/types.js';
import { MADV_FREE, MADV_PAGEOUT } from '../../mm/uapi.js';
import { proactiveReclaim } from '../../mm/vmscan.js';
import { accept, type ExploreProgram, type ProgramTask, task } from '../program.js';
import {
  checkSpace,
  deviceAdd,
  deviceFault,
  FILLED,
  forkSpace,
  loadPage,
  mirrorSpace,
  pageVa,
  setupFilled,
  Space,
  spaceMm,
  spaceProgram,
  storePage,
} from './space.js';

const STORED = 11;
/** The word that the device adds to. */
const ADDED = 5;

// --- how they start ---

/** A page that nobody has used since it was filled. */
function setupOld(cpu: Cpu): number {
  const space = setupFilled(cpu);
  clearReferenced(cpu, spaceMm(cpu, space as Space));
  return space;
}

/** … and that a device has. */
function setupMirrored(cpu: Cpu): number {
  const space = setupFilled(cpu) as Space;
  mirrorSpace(cpu, space);
  if (deviceFault(cpu, space, 0) !== 0) bug('setup: the device has no page');
  clearReferenced(cpu, spaceMm(cpu, space));
  return space;
}

/** A page that has gone to the only slot there is. */
function setupGone(cpu: Cpu): number {
  const space = setupFilled(cpu);
  pageout(cpu, space);
  return space;
}

/** A page of a parent's and its child's that has gone to the only slot there is. */
function setupGoneFromBoth(cpu: Cpu): number {
  const space = setupFilled(cpu) as Space;
  const child = forkSpace(cpu, space);
  for (const mm of [spaceMm(cpu, space), child]) clearReferenced(cpu, mm);
  if (proactiveReclaim(cpu, 1) !== 1) bug('setup: the page has not gone');
  return space;
}

/** … and come back in both, only to be read. */
function setupBackInBoth(cpu: Cpu): number {
  const space = setupGoneFromBoth(cpu);
  load(cpu, space);
  loadInChild(cpu, space);
  for (const mm of [spaceMm(cpu, space as Space), childOf(cpu, space)]) clearReferenced(cpu, mm);
  return space;
}

/** A page that the program has freed, and that the device has since. */
function setupFreed(cpu: Cpu): number {
  const space = setupFilled(cpu) as Space;
  mirrorSpace(cpu, space);
  free(cpu, space);
  if (deviceFault(cpu, space, 0) !== 0) bug('setup: the device has no page');
  return space;
}

// --- tasks ---

function reclaim(cpu: Cpu): void {
  proactiveReclaim(cpu, 1);
}

function pageout(cpu: Cpu, at: number): void {
  const error = madvise(cpu, spaceMm(cpu, at as Space), pageVa(0), PAGE_SIZE, MADV_PAGEOUT);
  if (error !== 0) bug(`MADV_PAGEOUT answered ${error}`);
}

function store(cpu: Cpu, at: number): void {
  if (storePage(cpu, spaceMm(cpu, at as Space), 0, STORED) !== 0) bug('a store has failed');
}

function expectStored(cpu: Cpu, at: number): void {
  const found = loadPage(cpu, spaceMm(cpu, at as Space), 0);
  if (found !== STORED) bug(`INV-24: the page reads ${found}: a store was lost`);
}

function storeAndLoad(cpu: Cpu, at: number): void {
  store(cpu, at);
  expectStored(cpu, at);
}

function load(cpu: Cpu, at: number): void {
  const found = loadPage(cpu, spaceMm(cpu, at as Space), 0);
  if (found !== FILLED && found !== STORED) bug(`INV-24: the page reads ${found}`);
}

function childOf(cpu: Cpu, at: number): MmStruct {
  return read(cpu, at as Space, Space.child) as MmStruct;
}

function free(cpu: Cpu, at: number): void {
  const error = madvise(cpu, spaceMm(cpu, at as Space), pageVa(0), PAGE_SIZE, MADV_FREE);
  if (error !== 0) bug(`MADV_FREE answered ${error}`);
}

function loadInChild(cpu: Cpu, at: number): void {
  const found = loadPage(cpu, childOf(cpu, at), 0);
  if (found !== FILLED) bug(`INV-24: the child reads ${found}`);
}

/** The device adds to a word, by what it has of the page or after a fault, and the CPUs see it. */
function addByDevice(cpu: Cpu, at: number): void {
  const space = at as Space;
  while (!deviceAdd(cpu, space, 0, ADDED)) deviceFault(cpu, space, 0);
  const error = loadWord(cpu, spaceMm(cpu, space), pageVa(0) + 4 * ADDED);
  if (error !== 0 || cpu.loaded !== 1) bug('INV-20: what the device has added to the page is lost');
}

function unmap(cpu: Cpu, at: number): void {
  const error = munmap(cpu, spaceMm(cpu, at as Space), pageVa(0), PAGE_SIZE);
  if (error !== 0) bug(`munmap answered ${error}`);
}

// --- what must be true at the end ---

function entryOf(cpu: Cpu, at: number): number {
  const pte = pteOf(cpu, read(cpu, spaceMm(cpu, at as Space), MmStruct.pgd), pageVa(0));
  return pte === NO_PTE ? 0 : pteGet(cpu, pte);
}

function observePlace(cpu: Cpu, at: number): string {
  return pteIsSwap(entryOf(cpu, at)) ? 'paged out' : 'in memory';
}

/** What was stored is in the page, wherever that is. */
function checkStored(cpu: Cpu, at: number): string | undefined {
  const entry = entryOf(cpu, at);
  const found = pteIsSwap(entry)
    ? peekSwap(cpu, pteSlot(entry), frameWord(0))
    : read(cpu, frameOf(cpu, ptePfn(entry)), frameWord(0));
  return found === STORED
    ? checkSpace(cpu, at)
    : `INV-24: the page has ${found}, and was stored to`;
}

const PLACES = [
  accept('paged out', 'the page went after it had been used'),
  accept('in memory', 'it came back, or never went'),
];

function reclaiming(
  name: string,
  title: string,
  setup: (cpu: Cpu) => number,
  tasks: readonly ProgramTask[],
  more: Partial<ExploreProgram> = {},
): ExploreProgram {
  return spaceProgram(name, title, setup, tasks, {
    swapBytes: PAGE_SIZE,
    minFreeFrames: 4,
    observe: observePlace,
    outcomes: PLACES,
    ...more,
  });
}

export const RECLAIM_PROGRAMS: readonly ExploreProgram[] = [
  reclaiming('reclaim-store', 'a page is reclaimed while a CPU stores into it', setupOld, [
    task('reclaim', reclaim),
    task('store', storeAndLoad),
  ]),
  reclaiming('reclaim-device', 'a page is reclaimed while a device adds to it', setupMirrored, [
    task('reclaim', reclaim),
    task('device', addByDevice),
  ]),
  reclaiming(
    'reclaim-freed',
    'a page that the program has freed is reclaimed while a device adds to it',
    setupFreed,
    [task('reclaim', reclaim), task('device', addByDevice)],
  ),
  reclaiming(
    'reclaim-freed-shared',
    'a parent frees a page that it has only read since it came back, while it is reclaimed; its child has it too',
    setupBackInBoth,
    [
      {
        name: 'parent',
        operations: [
          { name: 'FREE', run: free },
          { name: 'reclaim', run: reclaim },
        ],
      },
      task('reclaim too', reclaim),
      task('load in child', loadInChild),
    ],
  ),
  reclaiming(
    'reclaim-munmap',
    'a page is reclaimed while it is unmapped, and its page tables freed',
    setupOld,
    [task('reclaim', reclaim), task('munmap', unmap)],
    { observe: () => 'gone', outcomes: [accept('gone', 'munmap has the last word')] },
  ),
  reclaiming(
    'swapin-twice',
    'two CPUs bring a page back at once',
    setupGone,
    [task('load', load), task('load too', load)],
    { outcomes: [accept('in memory', 'both have it')] },
  ),
  reclaiming(
    'swapin-both',
    'parent and child bring a page of both back, while reclaim wants it to go again',
    setupGoneFromBoth,
    [task('load', load), task('load in child', loadInChild), task('reclaim', reclaim)],
  ),
  reclaiming(
    'swapin-again',
    'a page comes back, is stored to, and goes to the same slot again, while another CPU brings it back',
    setupGone,
    [
      task('load', load),
      {
        name: 'store',
        operations: [
          { name: 'store', run: store },
          { name: 'PAGEOUT', run: pageout },
        ],
      },
    ],
    { check: checkStored },
  ),
];
