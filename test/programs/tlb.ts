/**
 * CPUs that read through cached translations while another changes the one there is.
 *
 * The "page table" is a word: the frame that page PAGE is mapped to. A frame is a few words, all equal:
 * GOOD while it may be used, POISONED once it has been given back.
 *
 * @module
 */
import { fetchAdd, loadAcquire, read, readOnce, storeRelease, write, writeOnce } from '#memory';

import type { Cpu } from '../../src/machine/cpu.js';
import {
  tlbAttach,
  TlbContext,
  tlbEnter,
  TlbEntry,
  tlbExit,
  tlbFill,
  tlbHit,
  tlbShootdown,
  tlbSlot,
} from '../../src/machine/tlb.js';
import { WAIT_SHOOTDOWN } from '../../src/machine/wait-kind.js';
import {
  cacheline,
  element,
  member,
  type Ptr,
  struct,
  word,
  words,
} from '../../src/memory/layout.js';

const FRAME_WORDS = 16;
const FRAMES = 4;
const GOOD = 1;
const POISONED = 2;
const PAGE = 5;

export const TlbArena = struct('tlb_arena', {
  context: TlbContext,
  line1: cacheline,
  table: word, // which frame the page is in
  line2: cacheline,
  readers: word, // that have not done
  moves: word, // of the page so far
  line3: cacheline,
  hits: word, // accesses through a cached translation; atomic
  line4: cacheline,
  frames: words(FRAMES * FRAME_WORDS),
});
export type TlbArena = Ptr<'tlb_arena'>;

const wordOf = (frame: number, index: number): ReturnType<typeof element<'tlb_arena'>> =>
  element(TlbArena.frames, frame * FRAME_WORDS + (index % FRAME_WORDS));

const ACCESSES = 60_000;
/** A reader goes on until the page has moved this often. */
export const MOVES_MIN = 300;
const CONTROL_ACCESSES = 50_000_000;
const READS_PER_ACCESS = 40;

/** One access as the mm makes it; returns how many words of it were poisoned. */
function access(cpu: Cpu, arena: TlbArena, context: TlbContext): number {
  const generation = tlbEnter(cpu, context);
  const entry = tlbSlot(cpu, PAGE);
  if (tlbHit(cpu, entry, context, generation, 0, PAGE)) {
    fetchAdd(cpu, arena, TlbArena.hits, 1);
  } else {
    write(cpu, entry, TlbEntry.pte, loadAcquire(cpu, arena, TlbArena.table));
    tlbFill(cpu, entry, context, generation, 0, PAGE);
  }
  const frame = read(cpu, entry, TlbEntry.pte);
  let stale = 0;
  for (let i = 0; i < READS_PER_ACCESS; i++) {
    if (readOnce(cpu, arena, wordOf(frame, i)) !== GOOD) stale++;
  }
  tlbExit(cpu);
  return stale;
}

/** Reads through its TLB many times; returns how many reads were of a frame that was given back. */
export function reader(cpu: Cpu, arena: TlbArena): number {
  const context = member(arena, TlbArena.context);
  tlbAttach(cpu, context);
  let stale = 0;
  for (let i = 0; i < ACCESSES || readOnce(cpu, arena, TlbArena.moves) < MOVES_MIN; i++) {
    stale += access(cpu, arena, context);
  }
  fetchAdd(cpu, arena, TlbArena.readers, -1);
  return stale;
}

/** As reader, until it has seen a frame that was given back. */
export function readerUntilStale(cpu: Cpu, arena: TlbArena): number {
  const context = member(arena, TlbArena.context);
  tlbAttach(cpu, context);
  let stale = 0;
  for (let i = 0; i < CONTROL_ACCESSES && stale === 0; i++) stale += access(cpu, arena, context);
  fetchAdd(cpu, arena, TlbArena.readers, -1);
  return stale;
}

function fillFrame(cpu: Cpu, arena: TlbArena, frame: number, value: number): void {
  for (let i = 0; i < FRAME_WORDS; i++) writeOnce(cpu, arena, wordOf(frame, i), value);
}

/** Moves the page from frame to frame, and gives each old one back after `endUse`. */
function movePage(cpu: Cpu, arena: TlbArena, endUse: (context: TlbContext) => void): number {
  const context = member(arena, TlbArena.context);
  let moves = 0;
  for (let frame = 0; readOnce(cpu, arena, TlbArena.readers) > 0; moves++) {
    const next = (frame + 1) % FRAMES;
    fillFrame(cpu, arena, next, GOOD);
    storeRelease(cpu, arena, TlbArena.table, next);
    endUse(context);
    fillFrame(cpu, arena, frame, POISONED);
    writeOnce(cpu, arena, TlbArena.moves, moves + 1);
    frame = next;
  }
  return moves;
}

export function invalidator(cpu: Cpu, arena: TlbArena): number {
  return movePage(cpu, arena, (context) => {
    tlbShootdown(cpu, context, WAIT_SHOOTDOWN);
  });
}

/** The control: new accesses see the change, but those that are under way are not waited for. */
export function invalidatorThatDoesNotWait(cpu: Cpu, arena: TlbArena): number {
  return movePage(cpu, arena, (context) => {
    fetchAdd(cpu, context, TlbContext.generation, 1);
  });
}

/** The other control: those that are under way are waited for, but keep their translations. */
export function invalidatorThatDropsNothing(cpu: Cpu, arena: TlbArena): number {
  return movePage(cpu, arena, (context) => {
    tlbShootdown(cpu, context, WAIT_SHOOTDOWN);
    fetchAdd(cpu, context, TlbContext.generation, -1);
  });
}
