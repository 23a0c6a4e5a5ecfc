/**
 * The memory that benchmark threads work on: one private anonymous mapping.
 *
 * @module
 */
import { PAGE_SIZE } from '../base/units.js';
import type { Cpu } from '../machine/cpu.js';
import { NULL, type Va } from '../memory/layout.js';
import { mmAlloc, mmRss } from '../mm/mm-struct.js';
import { mmap } from '../mm/mmap.js';
import type { MmStruct } from '../mm/types.js';
import {
  MAP_ANONYMOUS,
  MAP_FIXED,
  MAP_POPULATE,
  MAP_PRIVATE,
  PROT_READ,
  PROT_WRITE,
} from '../mm/uapi.js';
import { outOfMemory } from './setup-memory.js';

/** Where it is: at the start of what one entry of the top page table maps. Unit: bytes. */
export const ARENA_BASE: Va = 2 ** 39;

/** A new address space with an arena of that many pages, all present. @throws FaultlineError */
export function populatedArena(cpu: Cpu, pages: number): MmStruct {
  const mm = arena(cpu, pages, MAP_POPULATE);
  if (mmRss(cpu, mm) !== pages) throw outOfMemory();
  return mm;
}

/** A new address space with an arena of that many pages, none present. @throws FaultlineError */
export function emptyArena(cpu: Cpu, pages: number): MmStruct {
  return arena(cpu, pages, 0);
}

function arena(cpu: Cpu, pages: number, flags: number): MmStruct {
  const mm = mmAlloc(cpu);
  if (mm === NULL) throw outOfMemory();
  const mapFlags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | flags;
  const prot = PROT_READ | PROT_WRITE;
  const at = mmap(cpu, mm, ARENA_BASE, pages * PAGE_SIZE, prot, mapFlags, NULL, 0);
  if (at !== ARENA_BASE) throw outOfMemory();
  return mm;
}
