/**
 * Small random programs: `random-N` is always the same one, of two or three tasks with one to three
 * operations each.
 *
 * What is drawn from: sections under one, two or three locks, which are always taken in the same order, and
 * what programs and a device do to two pages of an address space. So whatever is drawn ends, and must leave
 * counters that add up and an address space in order.
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

type PageRun = (cpu: Cpu, at: number, page: number) => void;

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
function onPage(name: string, operation: PageRun, page: number): Operation {
  const run = (cpu: Cpu, at: number): void => {
    operation(cpu, at, page);
  };
  return { name: `${name} [${page}]`, run };
}

const OPERATIONS: readonly Operation[] = [
  ...SECTIONS,
  ...PAGE_OPERATIONS.flatMap(({ name, run }) =>
    Array.from({ length: SPACE_PAGES }, (_, page) => onPage(name, run, page)),
  ),
];

const TASKS_MIN = 2;
const TASKS_MAX = 3;
const OPERATIONS_MAX = 3;

/** A number below `limit`, and the state that the next one is drawn from. */
function draw(state: number, limit: number): [value: number, state: number] {
  let x = (state + 0x9e3779b9) | 0;
  x = Math.imul(x ^ (x >>> 16), 0x21f0aaad);
  x = Math.imul(x ^ (x >>> 15), 0x735a2d97);
  return [((x ^ (x >>> 15)) >>> 0) % limit, (state + 0x9e3779b9) | 0];
}

function drawTasks(seed: number): ProgramTask[] {
  let state = Math.imul(seed, 0x2545f491) | 0;
  const next = (limit: number): number => {
    const [value, after] = draw(state, limit);
    state = after;
    return value;
  };
  const count = TASKS_MIN + next(TASKS_MAX - TASKS_MIN + 1);
  return Array.from({ length: count }, (_, i) => ({
    name: `task ${i}`,
    operations: Array.from({ length: 1 + next(OPERATIONS_MAX) }, () => {
      return OPERATIONS[next(OPERATIONS.length)]!;
    }),
  }));
}

function check(cpu: Cpu, at: number): string | undefined {
  const world = at as World;
  const counted =
    read(cpu, world, World.underMutex) +
    read(cpu, world, World.underSem) +
    read(cpu, world, World.underLock);
  const sections = read(cpu, world, World.sections);
  if (counted !== sections) return `${sections} sections have counted to ${counted}`;
  return checkSpace(cpu, spaceOf(cpu, at));
}

const NAME = /^random-(\d{1,9})$/;

/** The program `random-N`; undefined for any other name. */
export function randomProgram(name: string): ExploreProgram | undefined {
  const seed = NAME.exec(name)?.[1];
  if (seed === undefined) return undefined;
  const tasks = drawTasks(Number(seed));
  return defineProgram({
    name,
    title: tasks.map((task) => task.operations.map((o) => o.name).join(', ')).join(' | '),
    tasks,
    ops: { spaceMirror },
    ramBytes: SPACE_RAM_BYTES,
    setup,
    check,
  });
}
