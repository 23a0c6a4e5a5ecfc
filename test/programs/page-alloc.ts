/**
 * Programs that allocate and free frames on all CPUs at once, each with its mark in what it holds.
 *
 * @module
 */
import { cmpxchg, exchange, fetchAdd, read, readOnce } from '#memory';

import { PAGE_WORDS } from '../../src/base/units.js';
import type { Cpu } from '../../src/machine/cpu.js';
import {
  allocPage,
  allocPages,
  frameOf,
  freePage,
  freePages,
  pageOf,
} from '../../src/machine/page-alloc.js';
import { cpuRelax } from '../../src/machine/sched.js';
import { MACHINE, Machine, Page } from '../../src/machine/types.js';
import { element, type Ptr, struct, word, words } from '../../src/memory/layout.js';

const SLOTS = 8;

export const FrameArena = struct('frame_arena', {
  arrived: word, // CPUs that are at the gate
  permits: word, // frames that may be taken
  producers: word, // that have not done
  slots: words(SLOTS), // frames on their way from producers to consumers
});
export type FrameArena = Ptr<'frame_arena'>;

/** A small generator of numbers, different on each CPU. */
export function seeded(seed: number): (below: number) => number {
  let state = (seed + 1) * 2654435761;
  return (below) => {
    state = (Math.imul(state, 1664525) + 1013904223) | 0;
    return (state >>> 8) % below;
  };
}

/** Starts all CPUs of a loop as nearly at once as can be. */
export function gate(cpu: Cpu, arena: FrameArena): void {
  fetchAdd(cpu, arena, FrameArena.arrived, 1);
  const cpus = read(cpu, MACHINE, Machine.cpus);
  for (let spins = 0; readOnce(cpu, arena, FrameArena.arrived) < cpus; spins++) {
    cpuRelax(cpu, spins);
  }
}

interface Block {
  readonly pfn: number;
  readonly order: number;
  readonly mark: number;
}

const ROUNDS = 3000;
const HELD_MAX = 24;
const MARKED = [0, 1, PAGE_WORDS / 2, PAGE_WORDS - 1];

function stamp(cpu: Cpu, block: Block): void {
  for (let i = 0; i < 1 << block.order; i++) {
    const frame = frameOf(cpu, block.pfn + i);
    for (const at of MARKED) cpu.words[frame + at] = block.mark + i;
  }
}

/** How many words of the block are not what this CPU left there. */
function foreignWords(cpu: Cpu, block: Block): number {
  let foreign = 0;
  for (let i = 0; i < 1 << block.order; i++) {
    const frame = frameOf(cpu, block.pfn + i);
    for (const at of MARKED) if (cpu.words[frame + at] !== block.mark + i) foreign++;
    if (read(cpu, pageOf(cpu, block.pfn + i), Page.refcount) !== 1) foreign++;
  }
  return foreign;
}

/** Blocks of all small orders come and go; returns how many words were disturbed by others. */
export function allocateAndFree(cpu: Cpu, arena: FrameArena): number {
  const random = seeded(cpu.id);
  const blocks: Block[] = [];
  let foreign = 0;
  gate(cpu, arena);
  for (let round = 0; round < ROUNDS; round++) {
    if (blocks.length < HELD_MAX && random(2) === 0) {
      const order = Math.max(0, random(6) - 3);
      const pfn = order === 0 ? allocPage(cpu) : allocPages(cpu, order);
      if (pfn === 0) continue;
      const block = { pfn, order, mark: (cpu.id << 24) | (round << 4) };
      blocks.push(block);
      stamp(cpu, block);
    } else if (blocks.length > 0) {
      const [block] = blocks.splice(random(blocks.length), 1);
      foreign += foreignWords(cpu, block!);
      release(cpu, block!);
    }
  }
  for (const block of blocks) {
    foreign += foreignWords(cpu, block);
    release(cpu, block);
  }
  return foreign;
}

function release(cpu: Cpu, block: Block): void {
  if (block.order === 0) freePage(cpu, block.pfn);
  else freePages(cpu, block.pfn, block.order);
}

const PRODUCED = 6000;

/** Waits for a permit to hold one frame more. There are as many as frames, so one is free then. */
function takePermit(cpu: Cpu, arena: FrameArena): void {
  for (let spins = 0; ; spins++) {
    const permits = readOnce(cpu, arena, FrameArena.permits);
    if (permits > 0 && cmpxchg(cpu, arena, FrameArena.permits, permits, permits - 1) === permits) {
      return;
    }
    cpuRelax(cpu, spins);
  }
}

/**
 * Takes frames that the consumers give back, so that what is free is always in another CPU's stock.
 * Returns how often it was told that no frame is free, though it had a permit.
 */
export function produce(cpu: Cpu, arena: FrameArena): number {
  let failures = 0;
  gate(cpu, arena);
  for (let i = 0; i < PRODUCED; i++) {
    takePermit(cpu, arena);
    let pfn = allocPage(cpu);
    for (; pfn === 0; pfn = allocPage(cpu)) failures++;
    for (let slot = i; ; slot++) {
      const field = element(FrameArena.slots, slot % SLOTS);
      if (cmpxchg(cpu, arena, field, 0, pfn) === 0) break;
      cpuRelax(cpu, slot);
    }
  }
  fetchAdd(cpu, arena, FrameArena.producers, -1);
  return failures;
}

/** Gives back what the producers took. */
export function consume(cpu: Cpu, arena: FrameArena): number {
  gate(cpu, arena);
  for (let idle = 0; idle <= SLOTS || readOnce(cpu, arena, FrameArena.producers) > 0; idle++) {
    const pfn = exchange(cpu, arena, element(FrameArena.slots, idle % SLOTS), 0);
    cpuRelax(cpu, idle);
    if (pfn === 0) continue;
    idle = 0;
    freePage(cpu, pfn);
    fetchAdd(cpu, arena, FrameArena.permits, 1);
  }
  return 0;
}

/** Takes frames until there are none; returns which. */
export function takeAll(cpu: Cpu, arena: FrameArena): number[] {
  const pfns: number[] = [];
  gate(cpu, arena);
  for (;;) {
    const pfn = allocPage(cpu);
    if (pfn === 0) return pfns;
    pfns.push(pfn);
  }
}
