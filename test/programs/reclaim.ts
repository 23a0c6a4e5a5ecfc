/**
 * Less memory than is used: CPUs store into pages of their own and find them again, a device adds to a page that a CPU
 * uses too, and a CPU runs kswapd.
 *
 * @module
 */
import { fetchAdd, read, readOnce, write } from '#memory';

import { bug } from '../../src/base/bug.js';
import { PAGE_SIZE } from '../../src/base/units.js';
import { runKthreads, stopKthreads } from '../../src/deferred/kthread.js';
import {
  deviceAdd,
  deviceFault,
  fillPage,
  makeSpace,
  mirrorSpace,
  pageVa,
  type Space,
  spaceMm,
} from '../../src/explore/programs/space.js';
import type { Cpu } from '../../src/machine/cpu.js';
import { noteProgress } from '../../src/machine/sched.js';
import { cacheline, NULL, type Ptr, struct, word } from '../../src/memory/layout.js';
import { loadWord, storeWord } from '../../src/mm/access.js';
import { useMm } from '../../src/mm/mm-struct.js';
import { mmap } from '../../src/mm/mmap.js';
import * as uapi from '../../src/mm/uapi.js';
import { startKswapd, stopKswapd } from '../../src/mm/vmscan.js';

export const WRITERS = 4;
/** Pages of each. */
const PAGES = 100;
export const RAM_FRAMES = 320;
export const SWAP_SLOTS = 1024;
export const RESERVE_FRAMES = 16;
/** Page of the first writer's. */
const FIRST_PAGE = 1024;
/** The word that the device adds to. */
const ADDED = 9;

export const ReclaimArena = struct('reclaim_arena', {
  space: word,
  rounds: word, // of each writer
  line1: cacheline,
  done: word, // writers that have ended; atomic
  line2: cacheline,
  added: word, // what the device has added; its own
  lost: word, // times that the device had lost the page meanwhile; its own
});
export type ReclaimArena = Ptr<'reclaim_arena'>;

const spaceOf = (cpu: Cpu, arena: ReclaimArena): Space =>
  read(cpu, arena, ReclaimArena.space) as Space;

/** The ops of the mirror must have been registered. */
export function initReclaimArena(cpu: Cpu, arena: ReclaimArena, rounds: number): void {
  const space = makeSpace(cpu);
  write(cpu, arena, ReclaimArena.space, space);
  write(cpu, arena, ReclaimArena.rounds, rounds);
  fillPage(cpu, space, 0);
  mirrorSpace(cpu, space);
  const length = WRITERS * PAGES * PAGE_SIZE;
  const flags = uapi.MAP_PRIVATE | uapi.MAP_ANONYMOUS | uapi.MAP_FIXED;
  const rights = uapi.PROT_READ | uapi.PROT_WRITE;
  mmap(cpu, spaceMm(cpu, space), pageVa(FIRST_PAGE), length, rights, flags, NULL, 0);
  if (!startKswapd(cpu)) bug('there is no thread for kswapd');
}

/** Goes over its pages again and again: each holds what was stored last. */
export function writer(cpu: Cpu, arena: ReclaimArena): void {
  const mm = spaceMm(cpu, spaceOf(cpu, arena));
  useMm(cpu, mm);
  const rounds = read(cpu, arena, ReclaimArena.rounds);
  for (let round = 1; round <= rounds; round++) {
    for (let page = 0; page < PAGES; page++) {
      const va = pageVa(FIRST_PAGE + cpu.id * PAGES + page);
      const found = loadWord(cpu, mm, va) === 0 ? cpu.loaded : -1;
      const expected = round === 1 ? 0 : (round - 1) * PAGES + page;
      if (found !== expected) bug(`page ${page} reads ${found}, not ${expected}`);
      const error = storeWord(cpu, mm, va, round * PAGES + page);
      if (error !== 0) bug(`a store answered ${error}`);
      noteProgress(cpu, round);
    }
  }
  if (fetchAdd(cpu, arena, ReclaimArena.done, 1) + 1 < WRITERS) return;
  stopKswapd(cpu);
  stopKthreads(cpu);
}

/** Faults a page in when it has not got it, and adds to a word of it. */
export function device(cpu: Cpu, arena: ReclaimArena): void {
  const space = spaceOf(cpu, arena);
  useMm(cpu, spaceMm(cpu, space));
  while (readOnce(cpu, arena, ReclaimArena.done) < WRITERS) {
    if (deviceAdd(cpu, space, 0, ADDED)) {
      write(cpu, arena, ReclaimArena.added, read(cpu, arena, ReclaimArena.added) + 1);
      for (let i = 0; i < 100; i++) readOnce(cpu, arena, ReclaimArena.done); // long enough to be old
    } else {
      write(cpu, arena, ReclaimArena.lost, read(cpu, arena, ReclaimArena.lost) + 1);
      deviceFault(cpu, space, 0);
    }
    noteProgress(cpu, 0);
  }
}

export function serve(cpu: Cpu): number {
  return runKthreads(cpu);
}

/** What the device has added is all there. */
export function checkReclaimArena(cpu: Cpu, arena: ReclaimArena): void {
  const mm = spaceMm(cpu, spaceOf(cpu, arena));
  useMm(cpu, mm);
  const error = loadWord(cpu, mm, pageVa(0) + 4 * ADDED);
  const added = read(cpu, arena, ReclaimArena.added);
  if (error !== 0 || cpu.loaded !== added) {
    bug(`the device has added ${added}, and the page has ${cpu.loaded}`);
  }
}
