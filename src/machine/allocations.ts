/**
 * How many structs of each kind are allocated, for the leak check of a run. Nobody may be running.
 *
 * @module
 */
import { read } from '#memory';

import { hashName } from '../base/hash.js';
import { element } from '../memory/layout.js';
import type { Cpu } from './cpu.js';
import { perCpuPtr } from './percpu.js';
import { KmemCache, MACHINE, Machine, Magazine, SLAB_CACHES_MAX } from './types.js';

/** Of each slot of the table of caches. */
export function countAllocations(cpu: Cpu): Int32Array {
  const counts = new Int32Array(SLAB_CACHES_MAX);
  for (let slot = 0; slot < SLAB_CACHES_MAX; slot++) {
    const cache = cacheAt(cpu, slot);
    if (cache !== 0) counts[slot] = allocationsOf(cpu, cache);
  }
  return counts;
}

function cacheAt(cpu: Cpu, slot: number): KmemCache {
  return read(cpu, MACHINE, element(Machine.slabCaches, slot)) as KmemCache;
}

function allocationsOf(cpu: Cpu, cache: KmemCache): number {
  const magazines = read(cpu, cache, KmemCache.magazines);
  const cpus = read(cpu, MACHINE, Machine.cpus) + 1; // and the boot CPU
  let sum = 0;
  for (let id = 0; id < cpus; id++) {
    sum += read(cpu, perCpuPtr<'magazine'>(cpu, magazines, id), Magazine.allocations);
  }
  return sum;
}

/** `2 mm_struct, 1 vm_area_struct` more than before; empty if there is nothing. */
export function describeLeak(cpu: Cpu, before: Int32Array, after: Int32Array): string {
  const lost: string[] = [];
  for (let slot = 0; slot < SLAB_CACHES_MAX; slot++) {
    const more = (after[slot] ?? 0) - (before[slot] ?? 0);
    if (more > 0) lost.push(`${more} ${cacheName(cpu, slot)}`);
  }
  return lost.join(', ');
}

/** A cache keeps only the hash of its name; whoever has used it knows the name. */
function cacheName(cpu: Cpu, slot: number): string {
  const hash = read(cpu, MACHINE, element(Machine.slabNames, slot));
  for (const name of cpu.slabs.keys()) if (hashName(name) === hash) return name;
  return `structs of ${read(cpu, cacheAt(cpu, slot), KmemCache.objectWords)} words`;
}
