/**
 * What must be true of address spaces at rest, whatever was done to them: every frame is accounted for, every
 * entry maps a frame that is still the one it was, and structs are neither lost nor left over.
 *
 * Nothing is changed here: a schedule's checks only look.
 *
 * @module
 */
import { read, readAddress, readOnce } from '#memory';

import { PAGE_SIZE } from '../../base/units.js';
import type { Cpu } from '../../machine/cpu.js';
import {
  freeFrameCount,
  pageOf,
  PG_ANON,
  PG_SWAPCACHE,
  ZERO_PFN,
} from '../../machine/page-alloc.js';
import { allocatedObjects, slabFrames } from '../../machine/slab.js';
import { MACHINE, Machine, Page } from '../../machine/types.js';
import { warningCount, warningTexts } from '../../machine/warn.js';
import { member, NULL } from '../../memory/layout.js';
import { isZoneDevicePage } from '../../mm/page.js';
import { PTRS_PER_TABLE, TABLE_MASK, TableEntry } from '../../mm/page-table.js';
import { Pte, pteHasFrame, pteIsDevicePrivate, pteIsSwap, ptePfn } from '../../mm/pte.js';
import { MmStruct, VmAreaStruct } from '../../mm/types.js';
import { mapCount, vmaEnd, vmaLookup, vmaStart } from '../../mm/vma.js';
import { vmaTreeFirst } from '../../mm/vma-tree.js';
import { MmuNotifierSubscriptions } from '../../notifier/types.js';
import { Rwsem } from '../../sync/rwsem.js';

/** Level of the top table. */
const TOP = 3;

/** Frames that are free or hold structs. */
export function framesAtHand(cpu: Cpu): number {
  return freeFrameCount(cpu) + slabFrames(cpu);
}

/**
 * Looks at the address spaces that are left; they share frames with each other and nobody else. `before` is
 * framesAtHand without any of them. Returns what is wrong.
 */
export function checkSpaces(
  cpu: Cpu,
  mms: readonly MmStruct[],
  before: number,
): string | undefined {
  const mapped = new Map<number, number>();
  let tables = 0;
  for (const mm of mms) {
    const found = { tables: 0, frames: 0, wrong: checkMm(cpu, mm) };
    found.wrong ??= walkTable(cpu, mm, read(cpu, mm, MmStruct.pgd), TOP, 0, mapped, found);
    if (found.wrong !== undefined) return found.wrong;
    const rss = readOnce(cpu, mm, MmStruct.rss);
    if (rss !== found.frames) return `rss is ${rss}, and ${found.frames} frames are mapped`;
    tables += found.tables;
  }
  for (const [pfn, count] of mapped) {
    const page = pageOf(cpu, pfn);
    const mapcount = readOnce(cpu, page, Page.mapcount);
    if (mapcount !== count) return `frame ${pfn} is mapped ${count} times and counts ${mapcount}`;
    const refs = readOnce(cpu, page, Page.refcount) - (isCached(cpu, pfn) ? 1 : 0);
    if (refs !== count) return `frame ${pfn} is mapped ${count} times and has ${refs} references`;
  }
  const own = [...mapped.keys()].filter((pfn) => !isZoneDevicePage(cpu, pfn));
  const lost = before - framesAtHand(cpu) - tables - own.length - cachedFrames(cpu, mapped);
  if (lost !== 0) return `${lost} frames are lost`;
  return checkStructs(cpu, mms) ?? checkWarnings(cpu);
}

/** True if the frame is in the swap cache, or a file's page, and the cache has a reference. */
function isCached(cpu: Cpu, pfn: number): boolean {
  const page = pageOf(cpu, pfn);
  const flags = readOnce(cpu, page, Page.flags);
  if ((flags & PG_SWAPCACHE) !== 0) return true;
  const isAnon = (flags & PG_ANON) !== 0 || readOnce(cpu, page, Page.refcount) === 0;
  return !isAnon && readOnce(cpu, page, Page.mapping) !== 0;
}

/** Frames in such a cache that nobody maps. */
function cachedFrames(cpu: Cpu, mapped: ReadonlyMap<number, number>): number {
  if (read(cpu, MACHINE, Machine.swapSlots) === 0) return 0;
  let count = 0;
  const frames = read(cpu, MACHINE, Machine.frameCount);
  for (let pfn = 0; pfn < frames; pfn++) if (isCached(cpu, pfn) && !mapped.has(pfn)) count++;
  return count;
}

interface Found {
  tables: number;
  frames: number;
}

function checkMm(cpu: Cpu, mm: MmStruct): string | undefined {
  const count = read(cpu, member(mm, MmStruct.mmapLock), Rwsem.count);
  if (count !== 0) return `INV-4: the count of the mmap lock is ${count} at rest`;
  let pages = 0;
  let vma = vmaTreeFirst(cpu, member(mm, MmStruct.vmas));
  while (vma !== NULL) {
    pages += (vmaEnd(cpu, vma) - vmaStart(cpu, vma)) / PAGE_SIZE;
    vma = read(cpu, vma, VmAreaStruct.next);
  }
  const totalVm = readAddress(cpu, mm, MmStruct.totalVm);
  if (totalVm !== pages) return `total_vm is ${totalVm} of ${pages} pages`;
  const subscriptions = read(cpu, mm, MmStruct.subscriptions);
  if (subscriptions === NULL) return undefined;
  const seq = read(cpu, subscriptions, MmuNotifierSubscriptions.invalidateSeq);
  const active = read(cpu, subscriptions, MmuNotifierSubscriptions.activeInvalidateRanges);
  return (seq & 1) === 0 && active === 0 ? undefined : 'INV-21: an invalidation is open at rest';
}

/** A table and those below. */
function walkTable(
  cpu: Cpu,
  mm: MmStruct,
  table: number,
  level: number,
  firstVa: number,
  mapped: Map<number, number>,
  found: Found,
): string | undefined {
  found.tables++;
  const span = PAGE_SIZE * PTRS_PER_TABLE ** level;
  for (let i = 0; i < PTRS_PER_TABLE; i++) {
    const va = firstVa + i * span;
    let wrong: string | undefined;
    if (level === 0) {
      wrong = checkEntry(cpu, mm, (table + i * Pte.words) as Pte, va, mapped, found);
    } else {
      const entry = (table + i * TableEntry.words) as TableEntry;
      const below = readOnce(cpu, entry, TableEntry.table) & TABLE_MASK;
      if (below !== 0) wrong = walkTable(cpu, mm, below, level - 1, va, mapped, found);
    }
    if (wrong !== undefined) return wrong;
  }
  return undefined;
}

function checkEntry(
  cpu: Cpu,
  mm: MmStruct,
  pte: Pte,
  va: number,
  mapped: Map<number, number>,
  found: Found,
): string | undefined {
  const entry = readOnce(cpu, pte, Pte.entry);
  if (!pteHasFrame(entry) && !pteIsDevicePrivate(entry)) {
    const isKnown = entry === 0 || pteIsSwap(entry);
    return isKnown ? undefined : 'an entry without a frame is not empty';
  }
  const pfn = ptePfn(entry);
  if (vmaLookup(cpu, mm, va) === NULL) return `frame ${pfn} is mapped where no VMA is`;
  const generation = readOnce(cpu, pageOf(cpu, pfn), Page.generation);
  if (readOnce(cpu, pte, Pte.generation) !== generation) {
    return `frame ${pfn} was freed while it was mapped`;
  }
  if (pfn === ZERO_PFN) return undefined;
  mapped.set(pfn, (mapped.get(pfn) ?? 0) + 1);
  found.frames++;
  return undefined;
}

function checkStructs(cpu: Cpu, mms: readonly MmStruct[]): string | undefined {
  const spaces = allocatedObjects(cpu, MmStruct);
  if (spaces !== mms.length)
    return `${spaces} address spaces are left, and should be ${mms.length}`;
  let vmas = 0;
  for (const mm of mms) vmas += mapCount(cpu, mm);
  const structs = allocatedObjects(cpu, VmAreaStruct);
  return structs === vmas ? undefined : `${structs} VMAs are left, and should be ${vmas}`;
}

function checkWarnings(cpu: Cpu): string | undefined {
  return warningCount(cpu) === 0 ? undefined : warningTexts(cpu).join('; ');
}
