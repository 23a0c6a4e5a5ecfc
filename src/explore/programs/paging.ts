/**
 * Pages that go to the swap area, files that become shorter, and accesses from outside, while others use the memory.
 *
 * @module
 */
import { read, write } from '#memory';

import { bug } from '../../base/bug.js';
import { EFAULT } from '../../base/errno.js';
import { PAGE_SIZE, WORD_BYTES } from '../../base/units.js';
import type { Cpu } from '../../machine/cpu.js';
import { NULL } from '../../memory/layout.js';
import { storeWord } from '../../mm/access.js';
import { createFile, fput } from '../../mm/file.js';
import { dupMm } from '../../mm/fork.js';
import { accessRemotePage } from '../../mm/gup.js';
import { madvise } from '../../mm/madvise.js';
import { mmap } from '../../mm/mmap.js';
import { pteOf } from '../../mm/page-table.js';
import { NO_PTE, pteGet, pteIsSwap } from '../../mm/pte.js';
import { ftruncate } from '../../mm/truncate.js';
import { type File, MmStruct } from '../../mm/types.js';
import { MADV_PAGEOUT, MAP_FIXED, MAP_SHARED, PROT_READ, PROT_WRITE } from '../../mm/uapi.js';
import { accept, type ExploreProgram, type ProgramTask, task } from '../program.js';
import {
  attachAll,
  checkSpace,
  deviceFault,
  FILLED,
  loadPage,
  makeSpace,
  mirrorSpace,
  pageVa,
  resultOf,
  setResult,
  setupFilled,
  Space,
  spaceMm,
  spaceProgram,
  storePage,
} from './space.js';

const STORED = 11;
const SWAP_BYTES = 4 * PAGE_SIZE;

// --- how they start ---

function setupMirrored(cpu: Cpu): number {
  const space = setupFilled(cpu) as Space;
  mirrorSpace(cpu, space);
  return space;
}

/** A page of a file that is in memory, and mapped where nobody has touched it. */
function setupFile(cpu: Cpu): number {
  const space = makeSpace(cpu);
  const file = createFile(cpu, PAGE_SIZE, 0);
  if (file === NULL) bug('setup has no file');
  const mm = spaceMm(cpu, space);
  const rights = PROT_READ | PROT_WRITE;
  mmap(cpu, mm, pageVa(0), PAGE_SIZE, rights, MAP_SHARED | MAP_FIXED, file, 0);
  fput(cpu, file); // the mapping keeps it
  write(cpu, space, Space.file, file);
  return space;
}

/** … and has been touched. */
function setupTouchedFile(cpu: Cpu): number {
  const space = setupFile(cpu) as Space;
  if (loadPage(cpu, spaceMm(cpu, space), 0) !== 0) bug('a new file is not empty');
  return space;
}

// --- tasks ---

function pageout(cpu: Cpu, at: number): void {
  const error = madvise(cpu, spaceMm(cpu, at as Space), pageVa(0), PAGE_SIZE, MADV_PAGEOUT);
  if (error !== 0) bug(`MADV_PAGEOUT answered ${error}`);
}

/** What was stored is found again, wherever the page has been meanwhile. */
function storeAndLoad(cpu: Cpu, at: number): void {
  const mm = spaceMm(cpu, at as Space);
  if (storePage(cpu, mm, 0, STORED) !== 0) bug('a store has failed');
  const found = loadPage(cpu, mm, 0);
  if (found !== STORED)
    bug(`the page reads ${found}: a store was lost on its way to the swap area`);
}

function load(cpu: Cpu, at: number): void {
  const found = loadPage(cpu, spaceMm(cpu, at as Space), 0);
  if (found !== FILLED) bug(`the page reads ${found}, and held ${FILLED}`);
}

function faultDevice(cpu: Cpu, at: number): void {
  setResult(cpu, at as Space, deviceFault(cpu, at as Space, 0) === 0 ? 1 : 0);
}

function truncate(cpu: Cpu, at: number): void {
  const error = ftruncate(cpu, read(cpu, at as Space, Space.file) as File, 0);
  if (error !== 0) bug(`ftruncate answered ${error}`);
}

function mirror(cpu: Cpu, at: number): void {
  mirrorSpace(cpu, at as Space);
}

function touchFile(cpu: Cpu, at: number): void {
  setResult(cpu, at as Space, loadPage(cpu, spaceMm(cpu, at as Space), 0));
}

/** Another process writes the page; who reads it, reads that. */
function writeRemote(cpu: Cpu, at: number): void {
  const mm = spaceMm(cpu, at as Space);
  if (accessRemotePage(cpu, mm, pageVa(0), [STORED], true) !== 0) bug('nothing was written');
  const found = loadPage(cpu, mm, 0);
  if (found !== STORED) bug(`the page reads ${found}: what was written from outside is lost`);
}

/** A child shares the page, so that the next store copies it. */
function forkAndStore(cpu: Cpu, at: number): void {
  const space = at as Space;
  const child = dupMm(cpu, spaceMm(cpu, space));
  if (child === NULL) bug('fork has no memory');
  attachAll(cpu, child);
  write(cpu, space, Space.child, child);
  setResult(cpu, space, loadPage(cpu, child, 0));
  storeWord(cpu, spaceMm(cpu, space), pageVa(0) + WORD_BYTES, STORED);
  if (loadPage(cpu, child, 0) !== resultOf(cpu, space, cpu.id))
    bug('a child sees what its parent is written');
}

// --- what must be true at the end ---

function entryOf(cpu: Cpu, at: number): number {
  const pte = pteOf(cpu, read(cpu, spaceMm(cpu, at as Space), MmStruct.pgd), pageVa(0));
  return pte === NO_PTE ? 0 : pteGet(cpu, pte);
}

function checkGone(cpu: Cpu, at: number): string | undefined {
  const isMapped = entryOf(cpu, at) !== 0;
  return isMapped ? 'a page is mapped that the file has not' : checkSpace(cpu, at);
}

function observePlace(cpu: Cpu, at: number): string {
  return pteIsSwap(entryOf(cpu, at)) ? 'paged out' : 'in memory';
}

const PLACES = [
  accept('paged out', 'the page went after it had been used'),
  accept('in memory', 'it came back, or never went'),
];

function paging(
  name: string,
  title: string,
  setup: (cpu: Cpu) => number,
  tasks: readonly ProgramTask[],
  more: Partial<ExploreProgram> = {},
): ExploreProgram {
  const swap = { swapBytes: SWAP_BYTES, observe: observePlace, outcomes: PLACES };
  return spaceProgram(name, title, setup, tasks, { ...swap, ...more });
}

export const PAGING_PROGRAMS: readonly ExploreProgram[] = [
  paging('pageout-store', 'a page is paged out while another CPU stores into it', setupFilled, [
    task('PAGEOUT', pageout),
    task('store', storeAndLoad),
  ]),
  paging('pageout-load', 'a page is paged out twice at once, and read', setupFilled, [
    task('PAGEOUT', pageout),
    task('PAGEOUT too', pageout),
    task('load', load),
  ]),
  paging('pageout-device', 'a page is paged out while a device faults it in', setupMirrored, [
    task('PAGEOUT', pageout),
    task('device', faultDevice),
  ]),
  paging(
    'truncate-fault',
    'a file becomes shorter while a page behind its end is touched',
    setupFile,
    [task('truncate', truncate), task('load', touchFile)],
    {
      check: checkGone,
      observe: (cpu, at) => (resultOf(cpu, at as Space, 1) === -EFAULT ? 'SIGBUS' : 'read'),
      outcomes: [accept('read', 'the access came first'), accept('SIGBUS', 'it came after')],
    },
  ),
  paging(
    'remote-write',
    'a page is written from outside while its process forks',
    setupFilled,
    [task('remote', writeRemote), task('fork', forkAndStore)],
    {
      observe: (cpu, at) =>
        resultOf(cpu, at as Space, 1) === FILLED ? 'child has old' : 'child has new',
      outcomes: [
        accept('child has old', 'the fork came first'),
        accept('child has new', 'the write came first'),
      ],
    },
  ),
  paging(
    'truncate-register',
    'a file becomes shorter while the first interval over it is registered (INV-14)',
    setupTouchedFile,
    [task('truncate', truncate), task('register', mirror)],
    {
      check: checkGone,
      observe: () => 'gone',
      outcomes: [accept('gone', 'who registers has heard of all of it, or of nothing')],
    },
  ),
];
