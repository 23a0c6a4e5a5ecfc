/**
 * Programs that share the notifiers of address spaces: get and put while others walk the list; and exits, each
 * against who unregisters.
 *
 * A notifier's object has a word that says whether it is alive. Methods look at it when they begin and when they
 * end. In between a start sleeps until somebody has put a notifier, who waits for a start to begin: that is the race.
 *
 * @module
 */
import { fetchAdd, park, read, readOnce, unpark, write, writeOnce } from '#memory';

import { bug } from '../../src/base/bug.js';
import { bootDeferred } from '../../src/deferred/boot.js';
import { runKworker, stopKworkers } from '../../src/deferred/kworker.js';
import type { Cpu } from '../../src/machine/cpu.js';
import { CPUS_MAX } from '../../src/machine/limits.js';
import { defineOps } from '../../src/machine/ops-table.js';
import { checkHalted, noteProgress } from '../../src/machine/sched.js';
import { kfree, kzalloc } from '../../src/machine/slab.js';
import { stackPop, stackPush } from '../../src/machine/stack.js';
import { hlistUnhashed } from '../../src/memory/hlist.js';
import {
  cacheline,
  containerOf,
  element,
  member,
  pointer,
  type Ptr,
  struct,
  word,
  words,
} from '../../src/memory/layout.js';
import { bootMm } from '../../src/mm/boot.js';
import { mmput } from '../../src/mm/exit.js';
import { mmAlloc } from '../../src/mm/mm-struct.js';
import { mmapReadLock, mmapReadUnlock } from '../../src/mm/mmap-lock.js';
import type { MmStruct } from '../../src/mm/types.js';
import {
  mmuNotifierInvalidateRangeEnd,
  mmuNotifierInvalidateRangeStart,
} from '../../src/notifier/mmu-notifier.js';
import type { MmuNotifierOps } from '../../src/notifier/mmu-notifier-list.js';
import { MMU_NOTIFY_CLEAR, mmuNotifierRangeInit } from '../../src/notifier/mmu-notifier-range.js';
import {
  mmuNotifierGet,
  mmuNotifierPut,
  mmuNotifierRegister,
  mmuNotifierSynchronize,
  mmuNotifierUnregister,
} from '../../src/notifier/mmu-notifier-register.js';
import { MmuNotifier, MmuNotifierRange } from '../../src/notifier/types.js';

/** Rounds of exit against unregistration. */
export const EXITS = 100;
/** What must have been seen before the programs may end. */
const OVERLAPS_WANTED = 10;
const ROUNDS_MAX = 20_000;
/** How long each waits for the other; then it goes on. */
const LINGER_MS = 20;
const ALIVE = 0x0a11ce;

const Shared = struct('test_shared_notifier', {
  notifier: MmuNotifier,
  line1: cacheline,
  life: word, // ALIVE until it is freed
  told: word, // methods that have begun; parked on
  arena: word,
});
type Shared = Ptr<'test_shared_notifier'>;

export const ListsArena = struct('lists_arena', {
  mm: pointer<'mm_struct'>(),
  line1: cacheline,
  left: word, // programs that are not done; atomic
  made: word, // objects; atomic
  freed: word, // atomic
  overlaps: word, // methods that ran when their notifier was off its list, or another method of it began; atomic
  releases: word, // atomic
  puts: word, // atomic; parked on
  line2: cacheline,
  round: word, // arrivals of both sides at the rounds of exits; atomic; parked on
  line3: cacheline,
  mms: words(EXITS), // an address space for each round
  shareds: words(EXITS), // … and its notifier
});
export type ListsArena = Ptr<'lists_arena'>;

function checkAlive(cpu: Cpu, shared: Shared): void {
  if (readOnce(cpu, shared, Shared.life) !== ALIVE) bug('INV-12: a method of a freed notifier');
}

/** Sleeps in a method until somebody has put a notifier, or nobody does for a while. */
function linger(cpu: Cpu, notifier: MmuNotifier): void {
  const shared: Shared = containerOf(notifier, Shared.notifier);
  checkAlive(cpu, shared);
  const arena = read(cpu, shared, Shared.arena) as ListsArena;
  const node = member(notifier, MmuNotifier.hlist);
  const puts = readOnce(cpu, arena, ListsArena.puts);
  writeOnce(cpu, shared, Shared.told, 1);
  unpark(cpu, shared, Shared.told, CPUS_MAX);
  if (!hlistUnhashed(cpu, node)) park(cpu, arena, ListsArena.puts, puts, LINGER_MS);
  if (hlistUnhashed(cpu, node)) fetchAdd(cpu, arena, ListsArena.overlaps, 1);
  checkAlive(cpu, shared);
}

/** The first of those that release a notifier waits, a while, for another; true for who comes later. */
function releaseTogether(cpu: Cpu, notifier: MmuNotifier): boolean {
  const shared: Shared = containerOf(notifier, Shared.notifier);
  checkAlive(cpu, shared);
  const isLater = fetchAdd(cpu, shared, Shared.told, 1) !== 0;
  if (isLater) unpark(cpu, shared, Shared.told, CPUS_MAX);
  else park(cpu, shared, Shared.told, 1, LINGER_MS);
  checkAlive(cpu, shared);
  return isLater;
}

function makeShared(cpu: Cpu, arena: ListsArena): Shared {
  const shared = kzalloc(cpu, Shared);
  if (shared === 0) bug('no memory for a notifier');
  write(cpu, shared, Shared.arena, arena);
  writeOnce(cpu, shared, Shared.life, ALIVE);
  fetchAdd(cpu, arena, ListsArena.made, 1);
  return shared;
}

function freeShared(cpu: Cpu, shared: Shared): void {
  const arena = read(cpu, shared, Shared.arena) as ListsArena;
  if (readOnce(cpu, shared, Shared.life) !== ALIVE) bug('LT-23: a notifier is freed twice');
  writeOnce(cpu, shared, Shared.life, 0);
  fetchAdd(cpu, arena, ListsArena.freed, 1);
  kfree(cpu, Shared, shared);
}

let arenaHere = 0 as ListsArena; // allocNotifier is only given the mm

export const sharedOps: MmuNotifierOps = defineOps({
  opsName: 'lists shared',
  invalidateRangeStart(cpu: Cpu, notifier: MmuNotifier) {
    linger(cpu, notifier);
    return 0;
  },
  allocNotifier: (cpu: Cpu) => member(makeShared(cpu, arenaHere), Shared.notifier),
  freeNotifier(cpu: Cpu, notifier: MmuNotifier) {
    freeShared(cpu, containerOf(notifier, Shared.notifier));
  },
});

export const ownOps: MmuNotifierOps = defineOps({
  opsName: 'lists own',
  release(cpu: Cpu, notifier: MmuNotifier) {
    const shared: Shared = containerOf(notifier, Shared.notifier);
    const arena = read(cpu, shared, Shared.arena) as ListsArena;
    fetchAdd(cpu, arena, ListsArena.releases, 1);
    if (releaseTogether(cpu, notifier)) fetchAdd(cpu, arena, ListsArena.overlaps, 1);
  },
});

/** Puts the notifier as soon as the address space ends. */
export const puttingOps: MmuNotifierOps = defineOps({
  opsName: 'lists putting',
  release(cpu: Cpu, notifier: MmuNotifier) {
    mmuNotifierPut(cpu, notifier);
  },
  allocNotifier: (cpu: Cpu) => member(makeShared(cpu, arenaHere), Shared.notifier),
  freeNotifier(cpu: Cpu, notifier: MmuNotifier) {
    freeShared(cpu, containerOf(notifier, Shared.notifier));
  },
});

/** `programs` is how many end with leave. */
export function initListsArena(cpu: Cpu, arena: ListsArena, programs: number): void {
  bootMm(cpu);
  bootDeferred(cpu);
  write(cpu, arena, ListsArena.mm, mmAlloc(cpu));
  write(cpu, arena, ListsArena.left, programs);
}

/** Makes the address spaces of exits, each with a notifier. The ops of this module must have been registered. */
export function addExits(cpu: Cpu, arena: ListsArena): void {
  for (let i = 0; i < EXITS; i++) {
    const mm = mmAlloc(cpu);
    const shared = makeShared(cpu, arena);
    write(cpu, arena, element(ListsArena.mms, i), mm);
    write(cpu, arena, element(ListsArena.shareds, i), shared);
    if (mmuNotifierRegister(cpu, member(shared, Shared.notifier), mm, ownOps) !== 0)
      bug('register');
  }
}

function leave(cpu: Cpu, arena: ListsArena): void {
  if (fetchAdd(cpu, arena, ListsArena.left, -1) === 1) stopKworkers(cpu);
}

const isOver = (cpu: Cpu, arena: ListsArena): boolean =>
  readOnce(cpu, arena, ListsArena.overlaps) >= OVERLAPS_WANTED;

/** Gets the notifier that all share, has it told, puts it. */
export function getAndPut(cpu: Cpu, arena: ListsArena): number {
  arenaHere = arena;
  const mm = read(cpu, arena, ListsArena.mm);
  let round = 0;
  for (; round < ROUNDS_MAX && !isOver(cpu, arena); round++) {
    const notifier = mmuNotifierGet(cpu, sharedOps, mm);
    if (notifier < 0) bug(`mmu_notifier_get answered ${notifier}`);
    const shared: Shared = containerOf(notifier, Shared.notifier);
    // it is put while it is being told, if anybody tells it
    if (readOnce(cpu, shared, Shared.told) === 0) park(cpu, shared, Shared.told, 0, LINGER_MS);
    mmuNotifierPut(cpu, notifier);
    fetchAdd(cpu, arena, ListsArena.puts, 1);
    unpark(cpu, arena, ListsArena.puts, CPUS_MAX);
    noteProgress(cpu, round);
  }
  mmuNotifierSynchronize(cpu);
  leave(cpu, arena);
  return round;
}

/** Has whoever is on the list told. */
export function invalidate(cpu: Cpu, arena: ListsArena): number {
  arenaHere = arena;
  const mm = read(cpu, arena, ListsArena.mm);
  const range = stackPush(cpu, MmuNotifierRange);
  mmuNotifierRangeInit(cpu, range, MMU_NOTIFY_CLEAR, mm, 0, 4096);
  let round = 0;
  for (; round < ROUNDS_MAX && !isOver(cpu, arena); round++) {
    mmapReadLock(cpu, mm);
    mmuNotifierInvalidateRangeStart(cpu, range);
    mmuNotifierInvalidateRangeEnd(cpu, range);
    mmapReadUnlock(cpu, mm);
    noteProgress(cpu, round);
  }
  stackPop(cpu, range);
  leave(cpu, arena);
  return round;
}

/** Waits for the other side of a round. */
function meet(cpu: Cpu, arena: ListsArena, index: number): void {
  fetchAdd(cpu, arena, ListsArena.round, 1);
  unpark(cpu, arena, ListsArena.round, CPUS_MAX);
  for (;;) {
    const seen = readOnce(cpu, arena, ListsArena.round);
    if (seen >= 2 * (index + 1)) break;
    park(cpu, arena, ListsArena.round, seen, LINGER_MS);
    checkHalted(cpu);
  }
  noteProgress(cpu, index);
}

const roundMm = (cpu: Cpu, arena: ListsArena, index: number): MmStruct =>
  read(cpu, arena, element(ListsArena.mms, index)) as MmStruct;

export function exitAll(cpu: Cpu, arena: ListsArena): void {
  for (let index = 0; index < EXITS; index++) {
    meet(cpu, arena, index);
    mmput(cpu, roundMm(cpu, arena, index));
  }
}

export function unregisterAll(cpu: Cpu, arena: ListsArena): void {
  for (let index = 0; index < EXITS; index++) {
    const shared = read(cpu, arena, element(ListsArena.shareds, index)) as Shared;
    meet(cpu, arena, index);
    mmuNotifierUnregister(cpu, member(shared, Shared.notifier), roundMm(cpu, arena, index));
    freeShared(cpu, shared);
  }
}

/** Address spaces that end while their notifier puts itself. */
export function exitPutting(cpu: Cpu, arena: ListsArena): void {
  arenaHere = arena;
  for (let index = 0; index < EXITS; index++) {
    const mm = mmAlloc(cpu);
    if (mmuNotifierGet(cpu, puttingOps, mm) < 0) bug('mmu_notifier_get has failed');
    mmput(cpu, mm);
    noteProgress(cpu, index);
  }
  mmuNotifierSynchronize(cpu);
  leave(cpu, arena);
}

export function serve(cpu: Cpu): number {
  return runKworker(cpu);
}
