/**
 * Small random programs: `random-N` is always the same one, of two or three tasks with one to three
 * operations each; so are `random-mm-N` and `random-huge-N`.
 *
 *   random       sections under one, two or three locks, which are always taken in the same order, and what programs
 *                and a device do to two pages of an address space
 *   random-mm    everything that can be done to pages (random-memory.ts), on a machine that reclaims, and swaps
 *   random-huge  the same where the pages are part of a huge one, without reclaim; few operations, for each has
 *                thousands of steps
 *
 * Whatever is drawn ends, and must leave counters that add up and an address space in order, with all in it that was
 * stored there.
 *
 * @module
 */
import { fetchAdd, read, write } from '#memory';

import { bug } from '../../base/bug.js';
import { PAGE_SIZE } from '../../base/units.js';
import type { Cpu } from '../../machine/cpu.js';
import { lockClass } from '../../machine/lock-class.js';
import { kzalloc } from '../../machine/slab.js';
import { cacheline, member, NULL, type Ptr, struct, word } from '../../memory/layout.js';
import { mmput } from '../../mm/exit.js';
import { dupMm } from '../../mm/fork.js';
import { madvise } from '../../mm/madvise.js';
import { munmap } from '../../mm/munmap.js';
import { MADV_DONTNEED } from '../../mm/uapi.js';
import { initMutex, Mutex, mutexLock, mutexUnlock } from '../../sync/mutex.js';
import {
  downgradeWrite,
  downRead,
  downWrite,
  initRwsem,
  Rwsem,
  upRead,
  upWrite,
} from '../../sync/rwsem.js';
import { initSpinlock, Spinlock, spinLock, spinUnlock } from '../../sync/spinlock.js';
import {
  defineProgram,
  type ExploreProgram,
  type Operation,
  type ProgramTask,
} from '../program.js';
import { checkMemory, MEMORY_PAGES, setupHuge, setupMemory } from './memory-model.js';
import { HUGE_OPERATIONS, MEMORY_OPERATIONS, type MemoryOperation } from './random-memory.js';
import {
  checkSpace,
  deviceFault,
  fillPage,
  loadPage,
  makeSpace,
  mapPage,
  mirrorSpace,
  pageVa,
  type Space,
  SPACE_PAGES,
  SPACE_RAM_BYTES,
  spaceMirror,
  spaceMm,
  storePage,
} from './space.js';

const World = struct('random_world', {
  space: word, // the Space
  line1: cacheline,
  mutex: Mutex, // taken first
  line2: cacheline,
  sem: Rwsem, // taken second
  line3: cacheline,
  lock: Spinlock, // taken last
  line4: cacheline,
  underMutex: word, // sections so far; each under its lock
  underSem: word,
  underLock: word,
  line5: cacheline,
  sections: word, // sections that were counted, all together; atomic
});
type World = Ptr<'random_world'>;

const MUTEX = lockClass('random mutex');
const SEM = lockClass('random rwsem');
const LOCK = lockClass('random spinlock');

function setup(cpu: Cpu): number {
  const space = makeSpace(cpu);
  const world = kzalloc(cpu, World);
  write(cpu, world, World.space, space);
  initMutex(cpu, member(world, World.mutex), MUTEX);
  initRwsem(cpu, member(world, World.sem), SEM);
  initSpinlock(cpu, member(world, World.lock), LOCK);
  fillPage(cpu, space, 0);
  mapPage(cpu, space, 1);
  mirrorSpace(cpu, space);
  return world;
}

function spaceOf(cpu: Cpu, at: number): Space {
  return read(cpu, at as World, World.space) as Space;
}

// --- sections ---

type Counter = typeof World.underMutex;

/** One more, in two steps that the lock makes one. */
function count(cpu: Cpu, world: World, counter: Counter): void {
  write(cpu, world, counter, read(cpu, world, counter) + 1);
  fetchAdd(cpu, world, World.sections, 1);
}

function spinSection(cpu: Cpu, at: number): void {
  const world = at as World;
  spinLock(cpu, member(world, World.lock));
  count(cpu, world, World.underLock);
  spinUnlock(cpu, member(world, World.lock));
}

function mutexSection(cpu: Cpu, at: number): void {
  const world = at as World;
  mutexLock(cpu, member(world, World.mutex));
  count(cpu, world, World.underMutex);
  mutexUnlock(cpu, member(world, World.mutex));
}

function writeSection(cpu: Cpu, at: number): void {
  const world = at as World;
  downWrite(cpu, member(world, World.sem));
  count(cpu, world, World.underSem);
  upWrite(cpu, member(world, World.sem));
}

function downgradedSection(cpu: Cpu, at: number): void {
  const world = at as World;
  const sem = member(world, World.sem);
  downWrite(cpu, sem);
  count(cpu, world, World.underSem);
  const sections = read(cpu, world, World.underSem);
  downgradeWrite(cpu, sem);
  if (read(cpu, world, World.underSem) !== sections) bug('INV-1: a writer beside a reader');
  upRead(cpu, sem);
}

function readSection(cpu: Cpu, at: number): void {
  const world = at as World;
  const sem = member(world, World.sem);
  downRead(cpu, sem);
  const sections = read(cpu, world, World.underSem);
  spinSection(cpu, at);
  if (read(cpu, world, World.underSem) !== sections) bug('INV-1: a writer beside a reader');
  upRead(cpu, sem);
}

function nestedSection(cpu: Cpu, at: number): void {
  const world = at as World;
  mutexLock(cpu, member(world, World.mutex));
  downWrite(cpu, member(world, World.sem));
  count(cpu, world, World.underSem);
  upWrite(cpu, member(world, World.sem));
  spinSection(cpu, at);
  count(cpu, world, World.underMutex);
  mutexUnlock(cpu, member(world, World.mutex));
}

// --- the address space ---

function forkAndExit(cpu: Cpu, at: number): void {
  const child = dupMm(cpu, spaceMm(cpu, spaceOf(cpu, at)));
  if (child === NULL) bug('fork has no memory');
  mmput(cpu, child);
}

function map(cpu: Cpu, at: number, page: number): void {
  mapPage(cpu, spaceOf(cpu, at), page);
}

function unmap(cpu: Cpu, at: number, page: number): void {
  const error = munmap(cpu, spaceMm(cpu, spaceOf(cpu, at)), pageVa(page), PAGE_SIZE);
  if (error !== 0) bug(`munmap answered ${error}`);
}

/** May find no mapping; that is no bug. */
function forget(cpu: Cpu, at: number, page: number): void {
  madvise(cpu, spaceMm(cpu, spaceOf(cpu, at)), pageVa(page), PAGE_SIZE, MADV_DONTNEED);
}

function load(cpu: Cpu, at: number, page: number): void {
  loadPage(cpu, spaceMm(cpu, spaceOf(cpu, at)), page);
}

function store(cpu: Cpu, at: number, page: number): void {
  storePage(cpu, spaceMm(cpu, spaceOf(cpu, at)), page, 1 + cpu.id);
}

function fault(cpu: Cpu, at: number, page: number): void {
  deviceFault(cpu, spaceOf(cpu, at), page);
}

// --- drawing ---

type PageRun = (cpu: Cpu, at: number, page: number) => unknown;

const SECTIONS: readonly Operation[] = [
  { name: 'spin section', run: spinSection },
  { name: 'mutex section', run: mutexSection },
  { name: 'write section', run: writeSection },
  { name: 'write, downgrade', run: downgradedSection },
  { name: 'read section', run: readSection },
  { name: 'mutex, then the others', run: nestedSection },
  { name: 'fork and exit', run: forkAndExit },
];

const PAGE_OPERATIONS: readonly { readonly name: string; readonly run: PageRun }[] = [
  { name: 'mmap', run: map },
  { name: 'munmap', run: unmap },
  { name: 'DONTNEED', run: forget },
  { name: 'load', run: load },
  { name: 'store', run: store },
  { name: 'device fault', run: fault },
];

/** Each an operation on one page. */
function doOnPage(name: string, operation: PageRun, page: number): Operation {
  const run = (cpu: Cpu, at: number): void => {
    operation(cpu, at, page);
  };
  return { name, run };
}

const OPERATIONS: readonly Operation[] = [
  ...SECTIONS,
  ...PAGE_OPERATIONS.flatMap(({ name, run }) =>
    Array.from({ length: SPACE_PAGES }, (_, page) => doOnPage(`${name} [${page}]`, run, page)),
  ),
];

/** How large programs of a kind are. */
interface Size {
  readonly tasksMax: number;
  readonly operationsMax: number;
}
const TASKS_MIN = 2;
const SMALL: Size = { tasksMax: 3, operationsMax: 3 };
const SMALLER: Size = { tasksMax: 2, operationsMax: 1 };

/** A number below a limit. */
type Draw = (limit: number) => number;

/** A number below `limit`, and the state that the next one is drawn from. */
function draw(state: number, limit: number): [value: number, state: number] {
  let x = (state + 0x9e3779b9) | 0;
  x = Math.imul(x ^ (x >>> 16), 0x21f0aaad);
  x = Math.imul(x ^ (x >>> 15), 0x735a2d97);
  return [((x ^ (x >>> 15)) >>> 0) % limit, (state + 0x9e3779b9) | 0];
}

function drawTasks(seed: number, size: Size, one: (next: Draw) => Operation): ProgramTask[] {
  let state = Math.imul(seed, 0x2545f491) | 0;
  const next = (limit: number): number => {
    const [value, after] = draw(state, limit);
    state = after;
    return value;
  };
  const count = TASKS_MIN + next(size.tasksMax - TASKS_MIN + 1);
  return Array.from({ length: count }, (_, i) => ({
    name: `task ${i}`,
    operations: Array.from({ length: 1 + next(size.operationsMax) }, () => one(next)),
  }));
}

const drawOperation = (next: Draw): Operation => OPERATIONS[next(OPERATIONS.length)]!;

/** What is done is as likely for each, whatever pages there are for it. */
function memoryOperation(choices: readonly MemoryOperation[]): (next: Draw) => Operation {
  return (next) => {
    const { name, run, pages } = choices[next(choices.length)]!;
    const page = pages[next(pages.length)]!;
    return doOnPage(pages.length === 1 ? name : `${name} [${page}]`, run as PageRun, page);
  };
}

function check(cpu: Cpu, at: number): string | undefined {
  const world = at as World;
  const counted =
    read(cpu, world, World.underMutex) +
    read(cpu, world, World.underSem) +
    read(cpu, world, World.underLock);
  const sections = read(cpu, world, World.sections);
  if (counted !== sections) return `${sections} sections have counted to ${counted}`;
  return checkSpace(cpu, spaceOf(cpu, world));
}

/** All but the tasks, of each kind of program, and what draws these. */
interface Kind extends Pick<
  ExploreProgram,
  'setup' | 'check' | 'ramBytes' | 'swapBytes' | 'minFreeFrames'
> {
  readonly size: Size;
  readonly one: (next: Draw) => Operation;
}

/** More than there are pages, so that none is kept for want of a slot. */
const SWAP_BYTES = 4 * MEMORY_PAGES * PAGE_SIZE;
const MIN_FREE_FRAMES = 4;
/** Huge pages take 2 MiB each: for parent, child, and one that others are gathered in. */
const HUGE_RAM_BYTES = 12 << 20;

/** What takes more steps with a huge page than a schedule may have: it is split, page by page. */
const TOO_LONG = ['FREE', 'COLD', 'PAGEOUT'];
/** All there is on a machine without a reserve. */
export const HUGE_CHOICES: readonly MemoryOperation[] = [
  ...MEMORY_OPERATIONS.filter(({ name }) => name !== 'reclaim' && !TOO_LONG.includes(name)),
  ...HUGE_OPERATIONS,
];

const KINDS: Readonly<Record<string, Kind>> = {
  random: { size: SMALL, one: drawOperation, setup, check, ramBytes: SPACE_RAM_BYTES },
  'random-mm': {
    size: SMALL,
    one: memoryOperation(MEMORY_OPERATIONS),
    setup: setupMemory,
    check: checkMemory,
    ramBytes: SPACE_RAM_BYTES,
    swapBytes: SWAP_BYTES,
    minFreeFrames: MIN_FREE_FRAMES,
  },
  'random-huge': {
    size: SMALLER,
    one: memoryOperation(HUGE_CHOICES),
    setup: setupHuge,
    check: checkMemory,
    ramBytes: HUGE_RAM_BYTES,
    swapBytes: SWAP_BYTES, // without a reserve: the lists of reclaim would take as many steps again
  },
};

const NAME = /^(random(?:-mm|-huge)?)-(\d{1,9})$/;

/** The program `random-N`, `random-mm-N` or `random-huge-N`; undefined for any other name. */
export function randomProgram(name: string): ExploreProgram | undefined {
  const [, kind = '', seed = ''] = NAME.exec(name) ?? [];
  const drawn = KINDS[kind];
  if (drawn === undefined) return undefined;
  const { size, one, ...rest } = drawn;
  const tasks = drawTasks(Number(seed), size, one);
  return defineProgram({
    name,
    title: tasks.map((task) => task.operations.map((o) => o.name).join(', ')).join(' | '),
    tasks,
    ops: { spaceMirror },
    ...rest,
  });
}
