/**
 * System calls on memory against page faults, of CPUs and of a device.
 *
 * @module
 */
import { bug } from '../../base/bug.js';
import { EFAULT } from '../../base/errno.js';
import { PAGE_SIZE } from '../../base/units.js';
import type { Cpu } from '../../machine/cpu.js';
import { loadWord, storeWord } from '../../mm/access.js';
import { FOLL_PIN, FOLL_WRITE, getUserPage, putUserPage } from '../../mm/gup.js';
import { mprotect } from '../../mm/mprotect.js';
import { munmap } from '../../mm/munmap.js';
import { PROT_EXEC, PROT_READ, PROT_WRITE } from '../../mm/uapi.js';
import { accept, type ExploreProgram, task } from '../program.js';
import {
  checkSpace,
  deviceFault,
  deviceHas,
  FILLED,
  fillPage,
  forkSpace,
  loadPage,
  makeSpace,
  mapPage,
  mirrorSpace,
  pageVa,
  peekWord,
  resultOf,
  setResult,
  setupFilled,
  type Space,
  spaceMm,
  spaceProgram,
  storePage,
} from './space.js';

/** What tasks store. */
const FIRST = 11;
const SECOND = 12;
const WORD_BYTES = 4;

// --- how the programs start ---

function setupUntouched(cpu: Cpu): number {
  const space = makeSpace(cpu);
  mapPage(cpu, space, 0);
  return space;
}

/** Two mappings that differ in nothing but rights. */
function setupNeighbours(cpu: Cpu): number {
  const space = setupUntouched(cpu) as Space;
  mapPage(cpu, space, 1);
  const rights = PROT_READ | PROT_WRITE | PROT_EXEC;
  if (mprotect(cpu, spaceMm(cpu, space), pageVa(1), PAGE_SIZE, rights) !== 0)
    bug('setup: mprotect');
  return space;
}

/** The page is shared with a child, so that a store copies it; and a device mirrors it. */
function setupForked(cpu: Cpu): number {
  const space = makeSpace(cpu);
  fillPage(cpu, space, 0);
  forkSpace(cpu, space);
  mirrorSpace(cpu, space);
  return space;
}

// --- what tasks do ---

function remap(cpu: Cpu, at: number): void {
  mapPage(cpu, at as Space, 0);
}

function unmap(cpu: Cpu, at: number): void {
  const error = munmap(cpu, spaceMm(cpu, at as Space), pageVa(0), PAGE_SIZE);
  if (error !== 0) bug(`munmap answered ${error}`);
}

function load(cpu: Cpu, at: number): void {
  setResult(cpu, at as Space, loadPage(cpu, spaceMm(cpu, at as Space), 0));
}

function store(cpu: Cpu, at: number): void {
  setResult(cpu, at as Space, storePage(cpu, spaceMm(cpu, at as Space), 0, FIRST));
}

function storeFirst(cpu: Cpu, at: number): void {
  if (storeWord(cpu, spaceMm(cpu, at as Space), pageVa(0), FIRST) !== 0) bug('a store has failed');
}

/** The word beside the one that the other task stores. */
function storeSecond(cpu: Cpu, at: number): void {
  const va = pageVa(0) + WORD_BYTES;
  if (storeWord(cpu, spaceMm(cpu, at as Space), va, SECOND) !== 0) bug('a store has failed');
}

function storeBehind(cpu: Cpu, at: number): void {
  if (storePage(cpu, spaceMm(cpu, at as Space), 1, SECOND) !== 0) bug('a store has failed');
}

/** Both words, once both are there; a reader that came first must not keep the zero page. */
function loadBoth(cpu: Cpu, at: number): void {
  const mm = spaceMm(cpu, at as Space);
  for (let word = 0; word < 2; word++) {
    if (loadWord(cpu, mm, pageVa(0) + word * WORD_BYTES) !== 0) bug('a load has failed');
  }
}

/** What the child finds must be what it keeps, whatever the parent stores. */
function forkAndLoad(cpu: Cpu, at: number): void {
  const space = at as Space;
  const child = forkSpace(cpu, space);
  const found = loadPage(cpu, child, 0);
  setResult(cpu, space, found);
  if (loadPage(cpu, child, 0) !== found) bug('a store of the parent is seen in the child');
}

/** The child's page is a copy from the beginning, and nobody stores into that. */
function forkPinned(cpu: Cpu, at: number): void {
  const flags = FOLL_PIN | FOLL_WRITE;
  const pfn = getUserPage(cpu, spaceMm(cpu, at as Space), pageVa(0), flags);
  if (pfn === 0) bug('a pin has failed');
  forkAndLoad(cpu, at);
  putUserPage(cpu, pfn, flags);
}

function faultDevice(cpu: Cpu, at: number): void {
  setResult(cpu, at as Space, deviceFault(cpu, at as Space, 0));
}

// --- what they may end with ---

/** What the second task's access was answered. */
function observeAccess(cpu: Cpu, at: number): string {
  const result = resultOf(cpu, at as Space, 1);
  if (result === -EFAULT) return 'SIGSEGV';
  if (result === FILLED) return 'old page';
  return result === 0 ? 'new page' : `read ${result}`;
}

const OLD_PAGE = accept('old page', 'the access came first');

export const SPACE_PROGRAMS: readonly ExploreProgram[] = [
  spaceProgram(
    'map-fault',
    'a page is mapped in the place of one that another CPU reads',
    setupFilled,
    [task('mmap', remap), task('load', load)],
    { observe: observeAccess, outcomes: [OLD_PAGE, accept('new page', 'the access came after')] },
  ),
  spaceProgram(
    'unmap-fault',
    'a page is unmapped while another CPU reads it',
    setupFilled,
    [task('munmap', unmap), task('load', load)],
    { observe: observeAccess, outcomes: [OLD_PAGE, accept('SIGSEGV', 'the access came after')] },
  ),
  spaceProgram(
    'unmap-first-touch',
    'a page is unmapped while another CPU touches it for the first time',
    setupUntouched,
    [task('munmap', unmap), task('store', store)],
    {
      observe: (cpu, at) => (resultOf(cpu, at as Space, 1) === 0 ? 'stored' : 'SIGSEGV'),
      outcomes: [
        accept('stored', 'the store came first'),
        accept('SIGSEGV', 'the store came after'),
      ],
    },
  ),
  spaceProgram(
    'fork-fault',
    'a process forks while another of its CPUs stores',
    setupFilled,
    [task('fork', forkAndLoad), task('store', storeFirst)],
    {
      check: (cpu, at) => checkSpace(cpu, at) ?? checkStored(cpu, at, [FIRST]),
      observe: (cpu, at) =>
        resultOf(cpu, at as Space, 0) === FILLED ? 'child has old' : 'child has new',
      outcomes: [
        accept('child has old', 'the fork came first'),
        accept('child has new', 'the store came first'),
      ],
    },
  ),
  spaceProgram(
    'fork-pinned',
    'a process forks while a device has pinned its page, and another of its CPUs stores into it',
    setupFilled,
    [task('fork', forkPinned), task('store', storeFirst)],
    {
      check: (cpu, at) => checkSpace(cpu, at) ?? checkStored(cpu, at, [FIRST]),
      observe: (cpu, at) =>
        resultOf(cpu, at as Space, 0) === FILLED ? 'child has old' : 'child has new',
      outcomes: [
        accept('child has old', 'its copy was made before the store'),
        accept('child has new', 'or after it'),
      ],
    },
  ),
  spaceProgram(
    'fault-fault',
    'two CPUs store into a page that nobody has touched, a third reads it',
    setupUntouched,
    [task('store', storeFirst), task('store beside', storeSecond), task('load', loadBoth)],
    { check: (cpu, at) => checkSpace(cpu, at) ?? checkStored(cpu, at, [FIRST, SECOND]) },
  ),
  spaceProgram(
    'fault-neighbours',
    'two mappings side by side get their first pages, and may have one anon_vma',
    setupNeighbours,
    [task('store', storeFirst), task('store behind', storeBehind)],
    { check: (cpu, at) => checkSpace(cpu, at) ?? checkStored(cpu, at, [FIRST]) },
  ),
  spaceProgram(
    'invalidate-fault',
    'a shared page is copied and then unmapped while a device faults it in',
    setupForked,
    [
      {
        name: 'CPU',
        operations: [
          { name: 'store', run: storeFirst },
          { name: 'munmap', run: unmap },
        ],
      },
      task('device', faultDevice),
    ],
    {
      observe: (cpu, at) => (resultOf(cpu, at as Space, 1) === 0 ? 'mapped' : 'fault failed'),
      outcomes: [
        accept('mapped', 'and unmapped again'),
        accept('fault failed', 'the page was gone'),
      ],
    },
  ),
  spaceProgram(
    'copy-device-fault',
    'a CPU and a device both want a shared page for writing',
    setupForked,
    [task('CPU', storeFirst), task('device', faultDevice)],
    {
      check: (cpu, at) => checkSpace(cpu, at) ?? checkStored(cpu, at, [FIRST]),
      observe: (cpu, at) => (deviceHas(cpu, at as Space, 0) ? 'mapped' : 'told in vain'),
      outcomes: [
        accept('mapped', 'the device has the page that the CPU writes'),
        {
          name: 'told in vain',
          grade: 'INTERESTING',
          description: 'the CPU was about to copy what the device had made its own already',
        },
      ],
    },
  ),
];

/** The page of the parent has what was stored, word for word. */
function checkStored(cpu: Cpu, at: number, values: readonly number[]): string | undefined {
  for (const [word, value] of values.entries()) {
    const found = peekWord(cpu, at as Space, 0, word);
    if (found !== value) return `a store is lost: word ${word} is ${found}`;
  }
  return undefined;
}
