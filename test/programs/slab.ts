/**
 * Programs that pass slab objects from CPU to CPU.
 *
 * @module
 */
import { exchange, fetchAdd, read, readOnce, write } from '#memory';

import type { Cpu } from '../../src/machine/cpu.js';
import { cpuRelax } from '../../src/machine/sched.js';
import { kfree, kzalloc } from '../../src/machine/slab.js';
import { element, type Ptr, struct, word, words } from '../../src/memory/layout.js';

/** Three words to a line; the last word of each object is used, too. */
export const Small = struct('small_object', { owner: word, serial: word, data: words(14) });
export type Small = Ptr<'small_object'>;
export const Large = struct('large_object', { owner: word, data: words(399) });
export type Large = Ptr<'large_object'>;

const SLOTS = 16;
export const SlabArena = struct('slab_arena', {
  makers: word, // that have not done
  slots: words(SLOTS), // objects on their way
});
export type SlabArena = Ptr<'slab_arena'>;

const ROUNDS = 20_000;

/** True if nobody but the maker has written to the object since it was made. */
function isIntact(cpu: Cpu, object: Small): boolean {
  const serial = read(cpu, object, Small.serial);
  return (
    read(cpu, object, element(Small.data, 0)) === serial &&
    read(cpu, object, element(Small.data, 13)) === serial
  );
}

/**
 * Makes objects and leaves them in the slots; what another maker had left there, it frees. Returns how
 * many objects were not zeroed when they came, or not intact when they went.
 */
export function makeObjects(cpu: Cpu, arena: SlabArena): number {
  let faults = 0;
  for (let round = 1; round <= ROUNDS; round++) {
    const object = kzalloc(cpu, Small);
    if (object === 0) return -1;
    const start: number = object;
    if (cpu.words.subarray(start, start + Small.words).some((value) => value !== 0)) faults++;
    const serial = (cpu.id << 24) | round;
    write(cpu, object, Small.serial, serial);
    write(cpu, object, element(Small.data, 0), serial);
    write(cpu, object, element(Small.data, 13), serial);
    faults += endOf(cpu, exchange(cpu, arena, element(SlabArena.slots, round % SLOTS), object));
  }
  fetchAdd(cpu, arena, SlabArena.makers, -1);
  return faults;
}

/** Frees what the makers leave: the CPUs' stocks run over on this side, and dry on the other. */
export function freeObjects(cpu: Cpu, arena: SlabArena): number {
  let faults = 0;
  for (let round = 0; readOnce(cpu, arena, SlabArena.makers) > 0; round++) {
    faults += endOf(cpu, exchange(cpu, arena, element(SlabArena.slots, round % SLOTS), 0));
    cpuRelax(cpu, round);
  }
  return faults;
}

function endOf(cpu: Cpu, found: number): number {
  if (found === 0) return 0;
  const faults = isIntact(cpu, found as Small) ? 0 : 1;
  kfree(cpu, Small, found as Small);
  return faults;
}
