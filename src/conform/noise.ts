/**
 * An address space that has nothing to do with the case, and is torn at on a CPU of its own while the case runs: what
 * is shared between address spaces (frames, TLBs, the swap area, locks of allocators) is then never quiet.
 *
 * @module
 */
import { readOnce } from '#memory';

import { bug } from '../base/bug.js';
import { PAGE_SIZE } from '../base/units.js';
import type { Cpu } from '../machine/cpu.js';
import { NULL, type Va } from '../memory/layout.js';
import { loadWord, storeWord } from '../mm/access.js';
import { mmput } from '../mm/exit.js';
import { dupMm } from '../mm/fork.js';
import { madvise } from '../mm/madvise.js';
import { mmAlloc, useMm } from '../mm/mm-struct.js';
import { mmap } from '../mm/mmap.js';
import { mprotect } from '../mm/mprotect.js';
import { munmap } from '../mm/munmap.js';
import type { MmStruct } from '../mm/types.js';
import * as uapi from '../mm/uapi.js';
import type { MemberReport } from './member.js';
import { ConformWorld } from './world.js';

const START: Va = 0x10_0000_0000;
const PAGES = 16;
const BYTES = PAGES * PAGE_SIZE;
const RW = uapi.PROT_READ | uapi.PROT_WRITE;

/** The program: until the case has ended. */
export function runConformNoise(cpu: Cpu, args: unknown): MemberReport {
  const { world } = args as { readonly world: ConformWorld };
  for (let round = 1; readOnce(cpu, world, ConformWorld.noiseEnds) === 0; round++) {
    const mm = mmAlloc(cpu);
    if (mm === NULL) bug('no memory for an address space');
    useMm(cpu, mm);
    tear(cpu, mm, round);
    mmput(cpu, mm);
  }
  return { answers: {}, marks: [] };
}

/** A life: every value that was stored is found again. */
function tear(cpu: Cpu, mm: MmStruct, value: number): void {
  const flags = uapi.MAP_PRIVATE | uapi.MAP_ANONYMOUS | uapi.MAP_FIXED;
  mmap(cpu, mm, START, BYTES, RW, flags, NULL, 0);
  storeAll(cpu, mm, value);
  madvise(cpu, mm, START, BYTES / 2, uapi.MADV_PAGEOUT);
  const child = dupMm(cpu, mm);
  expectAll(cpu, mm, value);
  storeAll(cpu, mm, -value);
  if (child !== NULL) {
    useMm(cpu, child);
    expectAll(cpu, child, value);
    mmput(cpu, child);
  }
  mprotect(cpu, mm, START, BYTES / 2, uapi.PROT_READ);
  madvise(cpu, mm, START + BYTES / 2, BYTES / 2, uapi.MADV_DONTNEED);
  munmap(cpu, mm, START + BYTES / 4, BYTES / 4);
}

function storeAll(cpu: Cpu, mm: MmStruct, value: number): void {
  for (let page = 0; page < PAGES; page++) {
    if (storeWord(cpu, mm, START + page * PAGE_SIZE, value) !== 0) bug(`page ${page}: no store`);
  }
}

function expectAll(cpu: Cpu, mm: MmStruct, value: number): void {
  for (let page = 0; page < PAGES; page++) {
    const isGood = loadWord(cpu, mm, START + page * PAGE_SIZE) === 0 && cpu.loaded === value;
    if (!isGood) bug(`page ${page} of an address space beside reads ${cpu.loaded}, not ${value}`);
  }
}
