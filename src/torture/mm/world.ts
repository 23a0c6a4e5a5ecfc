/**
 * The world of target `mm`: a few address spaces, what is mapped where in each, and who may be in them.
 *
 * Protocol   A place for an address space (Space) has a task, or none. Whoever visits it takes a use of its mm
 *            under the place's lock, and gives that back at the end of the step: so a process may be killed, and
 *            end, while others are in it; the last to leave takes the address space down.
 *            A task forks, moves its pages and ends only by who has claimed the place, for these are calls
 *            of the task's own. Nobody waits for a claim: who does not get it does something else.
 *
 *            pages of an address space    mapping                          what may happen to contents
 *              steady                     private, anonymous               nothing: rights change, pages move and
 *                                                                          come back
 *              private file               private, of a file               as steady
 *              shared                     shared, of one file for all      nothing: the mapping goes, the file stays
 *              volatile                   whatever was mapped last         everything
 *            The steady pages begin in one page table and end in the next. Besides these there are a heap, and
 *            mappings that last for a step, wherever the kernel puts them.
 * Ordering   Space.lock; World.lock for what devices and notifiers keep. Counts are atomic.
 *
 * @module
 */
import { cmpxchg, fetchAdd, read, readOnce, storeRelease, write, writeOnce } from '#memory';

import { bug } from '../../base/bug.js';
import { PAGE_SIZE } from '../../base/units.js';
import { SvmEngine } from '../../drivers/svm/types.js';
import type { Cpu } from '../../machine/cpu.js';
import { frameWord } from '../../machine/frame.js';
import { CPUS_MAX } from '../../machine/limits.js';
import { lockClass } from '../../machine/lock-class.js';
import { allocPage, frameOf, freeFrameCount, freePage } from '../../machine/page-alloc.js';
import { allocWords, freeWords } from '../../machine/slab.js';
import { MACHINE, Machine, Spinlock } from '../../machine/types.js';
import {
  cacheline,
  element,
  type Field,
  member as memberOf,
  NULL,
  pointer,
  type Ptr,
  struct,
  type Va,
  word,
  words,
} from '../../memory/layout.js';
import { createFile, fput } from '../../mm/file.js';
import { mmget, useMm } from '../../mm/mm-struct.js';
import type { MmStruct } from '../../mm/types.js';
import { getTask } from '../../process/task.js';
import type { Task } from '../../process/types.js';
import { initSpinlock, spinLock, spinUnlock } from '../../sync/spinlock.js';
import type { TortureMember } from '../target.js';

/** Places for address spaces; every other visit is to the first, so that many meet there. */
export const SPACES = 3;
/** Devices at most, and drivers that each has: a device of its own for each of them. */
export const DEVICES_MAX = 4;
export const DRIVERS_MAX = 4;
/** Notifiers of each kind that may be registered at once. */
export const NOTIFIERS_MAX = 8;

/** A run of pages in every address space. */
export interface Region {
  readonly first: number;
  readonly pages: number;
}
export const STEADY: Region = { first: 0, pages: 24 };
export const PRIVATE_FILE: Region = { first: 24, pages: 8 };
export const SHARED: Region = { first: 32, pages: 16 };
export const VOLATILE: Region = { first: 48, pages: 32 };
export const ALL_PAGES: Region = { first: 0, pages: 80 };

/** Where pages begin: page 12 is the first of a page table. */
const BASE: Va = 2 ** 33 - 12 * PAGE_SIZE;
/** Where steady pages go when they are moved. */
export const AWAY: Va = 2 ** 33 + 2 ** 26;
/** The file of the private mapping reads as this number's pattern until it is written. */
export const FILE_ID = 77;

/** The address of a page. */
export function pageVa(page: number): Va {
  return BASE + page * PAGE_SIZE;
}

export function isIn(region: Region, page: number): boolean {
  return page >= region.first && page < region.first + region.pages;
}

/** A place for an address space. */
export const Space = struct('torture_space', {
  lock: Spinlock, // task, mm, life
  task: pointer<'task_struct'>(), // NULL = the place is free
  mm: pointer<'mm_struct'>(), // the task's
  life: word, // of no other address space of the run
  line1: cacheline,
  claimed: word, // somebody is the task, for a while; by cmpxchg
  dying: word, // it has been, or is about to be, killed for its memory; marked
  line2: cacheline,
  line3: cacheline,
  begun: words(VOLATILE.pages), // times that a page's contents began to be in danger; atomic
  ended: words(VOLATILE.pages), // … and that it was over
  pinsBegun: word, // times that a page began to be pinned; atomic
  pinsEnded: word, // … and that it was over
});
export type Space = Ptr<'torture_space'>;

/** Words of a page that are one CPU's alone: at its number, and as far from the end. */
export const CELLS = 2;
/** What a CPU knows of a cell: in which life, what is there, and how often the page had been out of danger. */
export const KNOWN_WORDS = 3;

/** What one CPU keeps; nobody else looks at it. */
export const Own = struct('torture_own', {
  engine: SvmEngine,
  seq: word, // of the last tag it has made
  counts: words(96), // operations, by number
  shared: words(SHARED.pages * CELLS), // what it has stored in the shared pages last
  known: words(SPACES * ALL_PAGES.pages * CELLS * KNOWN_WORDS),
});
export type Own = Ptr<'torture_own'>;

export const World = struct('torture_mm_world', {
  lock: Spinlock, // contexts, notifiers
  devices: word, // how many
  drivers: word, // how many each has
  file: pointer<'file'>(), // shared by all address spaces
  privateFile: pointer<'file'>(),
  balloon: word, // first of the frames that nobody may use; each has the next in its first word; 0 = none
  line1: cacheline,
  lives: word, // address spaces so far; atomic
  line2: cacheline,
  added: words(SHARED.pages), // what devices have added to the shared pages; atomic
  svmDevices: words(DEVICES_MAX * DRIVERS_MAX),
  contexts: words(DEVICES_MAX * SPACES), // open contexts, each with its opener's reference; 0 = none
  contextLives: words(DEVICES_MAX * SPACES), // the life of its address space
  notifiers: words(NOTIFIERS_MAX), // registered
  shares: words(NOTIFIERS_MAX), // got, and not put
  intervals: words(NOTIFIERS_MAX),
  own: words(CPUS_MAX + 1), // an Own for each CPU
  spaces: words(SPACES * Space.words),
});
export type World = Ptr<'torture_mm_world'>;

/** What somebody who is in an address space knows of it. */
export interface Visit {
  readonly index: number;
  readonly space: Space;
  /** With a use. */
  readonly mm: MmStruct;
  readonly life: number;
}

const WORLD_LOCK = lockClass('torture_mm_world');
const SPACE_LOCK = lockClass('torture_space');

// --- making and ending it ---

/** A world without address spaces. On the boot CPU. */
export function makeWorld(cpu: Cpu): World {
  const world = allocate(cpu, World.words) as World;
  initSpinlock(cpu, memberOf(world, World.lock), WORLD_LOCK);
  write(cpu, world, World.file, createFile(cpu, SHARED.pages * PAGE_SIZE, 0));
  write(cpu, world, World.privateFile, createFile(cpu, PRIVATE_FILE.pages * PAGE_SIZE, FILE_ID));
  for (let i = 0; i < SPACES; i++) {
    initSpinlock(cpu, memberOf(spaceAt(world, i), Space.lock), SPACE_LOCK);
  }
  for (let id = 0; id <= read(cpu, MACHINE, Machine.cpus); id++) {
    write(cpu, world, element(World.own, id), allocate(cpu, Own.words));
  }
  return world;
}

/** Takes frames away until so many are free: then memory is short. On the boot CPU. */
export function inflate(cpu: Cpu, world: World, freeFrames: number): void {
  for (let free = freeFrameCount(cpu); free > freeFrames; free--) {
    const pfn = allocPage(cpu);
    write(cpu, frameOf(cpu, pfn), frameWord(0), read(cpu, world, World.balloon));
    write(cpu, world, World.balloon, pfn);
  }
}

/** Gives them back. */
function deflate(cpu: Cpu, world: World): void {
  for (let pfn = read(cpu, world, World.balloon); pfn !== 0;) {
    const next = read(cpu, frameOf(cpu, pfn), frameWord(0));
    freePage(cpu, pfn);
    pfn = next;
  }
}

/** Gives its memory back; nobody is in any address space, and there is none. */
export function endWorld(cpu: Cpu, world: World): void {
  deflate(cpu, world);
  fput(cpu, read(cpu, world, World.file));
  fput(cpu, read(cpu, world, World.privateFile));
  for (let id = 0; id <= read(cpu, MACHINE, Machine.cpus); id++) {
    freeWords(cpu, read(cpu, world, element(World.own, id)), Own.words);
  }
  freeWords(cpu, world, World.words);
}

function allocate(cpu: Cpu, count: number): number {
  const start = allocWords(cpu, count);
  if (start === 0) bug('there is no memory for the world of target mm');
  return start;
}

export function ownOf(cpu: Cpu, world: World): Own {
  return read(cpu, world, element(World.own, cpu.id)) as Own;
}

export function spaceAt(world: World, index: number): Space {
  return (world + World.spaces + index * Space.words) as Space;
}

// --- who is in an address space ---

/** A place to go to. */
export function somePlace(member: TortureMember): number {
  return member.random(2) === 0 ? 0 : member.random(SPACES);
}

/** Takes a use of the address space in a place; undefined if there is none. */
export function visit(cpu: Cpu, world: World, index: number): Visit | undefined {
  const space = spaceAt(world, index);
  const lock = memberOf(space, Space.lock);
  spinLock(cpu, lock);
  const mm = read(cpu, space, Space.mm);
  const life = read(cpu, space, Space.life);
  if (mm !== NULL) mmget(cpu, mm);
  spinUnlock(cpu, lock);
  if (mm === NULL) return undefined;
  useMm(cpu, mm);
  return { index, space, mm, life };
}

/** Somebody wants to be the task for a while: it must still be there, and nobody else be it. */
export function claimTask(cpu: Cpu, to: Visit): Task {
  if (cmpxchg(cpu, to.space, Space.claimed, 0, 1) !== 0) return NULL;
  const lock = memberOf(to.space, Space.lock);
  spinLock(cpu, lock);
  const isSame = read(cpu, to.space, Space.life) === to.life;
  const task = isSame ? read(cpu, to.space, Space.task) : NULL;
  spinUnlock(cpu, lock);
  if (task === NULL) giveUpClaim(cpu, to.space);
  return task;
}

export function giveUpClaim(cpu: Cpu, space: Space): void {
  storeRelease(cpu, space, Space.claimed, 0); // pairs with cmpxchg in claimTask
}

/** The task in the place, with a reference to the struct; NULL if there is none. */
export function taskOf(cpu: Cpu, to: Visit): Task {
  const lock = memberOf(to.space, Space.lock);
  spinLock(cpu, lock);
  const task = read(cpu, to.space, Space.life) === to.life ? read(cpu, to.space, Space.task) : NULL;
  if (task !== NULL) getTask(cpu, task);
  spinUnlock(cpu, lock);
  return task;
}

/** Puts a task and its address space into a place, unless somebody was faster. */
export function settle(cpu: Cpu, world: World, index: number, task: Task, mm: MmStruct): boolean {
  const space = spaceAt(world, index);
  const lock = memberOf(space, Space.lock);
  const life = fetchAdd(cpu, world, World.lives, 1) + 1;
  spinLock(cpu, lock);
  const isFree = read(cpu, space, Space.task) === NULL;
  if (isFree) {
    write(cpu, space, Space.task, task);
    write(cpu, space, Space.mm, mm);
    write(cpu, space, Space.life, life);
    writeOnce(cpu, space, Space.dying, 0);
  }
  spinUnlock(cpu, lock);
  return isFree;
}

/** Takes the task out of its place: whoever does has it for itself. The place must have been claimed. */
export function unsettle(cpu: Cpu, space: Space): void {
  const lock = memberOf(space, Space.lock);
  spinLock(cpu, lock);
  write(cpu, space, Space.task, NULL);
  write(cpu, space, Space.mm, NULL);
  spinUnlock(cpu, lock);
}

/** A place without a task; -1 if there is none now. */
export function freePlace(cpu: Cpu, world: World): number {
  for (let i = 0; i < SPACES; i++) {
    const space = spaceAt(world, i);
    const lock = memberOf(space, Space.lock);
    spinLock(cpu, lock);
    const isFree = read(cpu, space, Space.task) === NULL;
    spinUnlock(cpu, lock);
    if (isFree) return i;
  }
  return -1;
}

export function isDying(cpu: Cpu, space: Space): boolean {
  return readOnce(cpu, space, Space.dying) !== 0;
}

// --- contents in danger ---

/** The contents of volatile pages may go from now on. */
export function beginDanger(cpu: Cpu, space: Space, page: number, pages: number): void {
  countDanger(cpu, space, Space.begun, page, pages);
}

/** … and do so no more. */
export function endDanger(cpu: Cpu, space: Space, page: number, pages: number): void {
  countDanger(cpu, space, Space.ended, page, pages);
}

type Counts = typeof Space.begun;

function countDanger(cpu: Cpu, space: Space, counts: Counts, page: number, pages: number): void {
  for (let i = 0; i < pages; i++) fetchAdd(cpu, space, dangerOf(counts, page + i), 1);
}

function dangerOf(counts: Counts, page: number): Field<'torture_space'> {
  return element(counts, page - VOLATILE.first);
}

export function dangersBegun(cpu: Cpu, space: Space, page: number): number {
  return isIn(VOLATILE, page) ? readOnce(cpu, space, dangerOf(Space.begun, page)) : 0;
}

export function dangersEnded(cpu: Cpu, space: Space, page: number): number {
  return isIn(VOLATILE, page) ? readOnce(cpu, space, dangerOf(Space.ended, page)) : 0;
}

// --- pins ---

/** Somebody is about to pin a page of the address space. */
export function beginPin(cpu: Cpu, space: Space): void {
  fetchAdd(cpu, space, Space.pinsBegun, 1);
}

/** … and has it no more. */
export function endPin(cpu: Cpu, space: Space): void {
  fetchAdd(cpu, space, Space.pinsEnded, 1);
}

export function pinsEnded(cpu: Cpu, space: Space): number {
  return readOnce(cpu, space, Space.pinsEnded);
}

/** True if there has been a pin since `ended` was what pinsEnded said. */
export function wasPinned(cpu: Cpu, space: Space, ended: number): boolean {
  return readOnce(cpu, space, Space.pinsBegun) !== ended;
}
