/**
 * Pages that a case holds on to: pins of a driver, and what lies in a pipe.
 *
 * @module
 */
import { fetchAdd, read, write } from '#memory';

import { ENOMEM } from '../base/errno.js';
import type { Cpu } from '../machine/cpu.js';
import { ZERO_PFN } from '../machine/page-alloc.js';
import { element } from '../memory/layout.js';
import { FOLL_PIN, getUserPage, putUserPage } from '../mm/gup.js';
import type { MmStruct } from '../mm/types.js';
import { ConformWorld, KEPT_MAX, vaOf } from './world.js';

/** Room for FOLL_WRITE and FOLL_PIN. */
const FLAG_BITS = 2;
const FLAGS = (1 << FLAG_BITS) - 1;

/** Takes a page, until the case gives it back: 0 or -errno. No lock held. Sleeps. */
export function keepPage(
  cpu: Cpu,
  world: ConformWorld,
  mm: MmStruct,
  page: number,
  flags: number,
): number {
  const pfn = getUserPage(cpu, mm, vaOf(page), flags);
  if (pfn === 0) return cpu.gupError;
  const index = pfn === ZERO_PFN ? KEPT_MAX : fetchAdd(cpu, world, ConformWorld.keptCount, 1);
  if (index < KEPT_MAX) {
    write(cpu, world, element(ConformWorld.kept, index), (pfn << FLAG_BITS) | flags);
    return 0;
  }
  putUserPage(cpu, pfn, flags);
  return pfn === ZERO_PFN ? 0 : -ENOMEM;
}

/** Gives back all pins, or else all references. */
export function putKept(cpu: Cpu, world: ConformWorld, kind: 0 | typeof FOLL_PIN): void {
  const count = Math.min(read(cpu, world, ConformWorld.keptCount), KEPT_MAX);
  for (let i = 0; i < count; i++) {
    const slot = element(ConformWorld.kept, i);
    const kept = read(cpu, world, slot);
    if (kept === 0 || (kept & FOLL_PIN) !== kind) continue;
    write(cpu, world, slot, 0);
    putUserPage(cpu, kept >>> FLAG_BITS, kept & FLAGS);
  }
}
