/**
 * What must be true of address spaces whenever nobody is inside a call, computed from scratch: walks every
 * VMA, every page table and every frame.
 *
 * @module
 */
import assert from 'node:assert/strict';

import { read, readAddress, readOnce } from '#memory';

import { PAGE_SIZE } from '../../src/base/units.js';
import type { Cpu } from '../../src/machine/cpu.js';
import {
  pageOf,
  pfnOfWord,
  PG_ANON,
  PG_ANON_EXCLUSIVE,
  PG_SWAPCACHE,
  PG_TABLE,
  ZERO_PFN,
} from '../../src/machine/page-alloc.js';
import { allocatedObjects } from '../../src/machine/slab.js';
import { Page } from '../../src/machine/types.js';
import { member, NULL, type Va } from '../../src/memory/layout.js';
import { PTRS_PER_TABLE, TABLE_MASK, TableEntry } from '../../src/mm/page-table.js';
import {
  Pte,
  PTE_PRESENT,
  PTE_WRITE,
  pteHasFrame,
  pteIsDeviceExclusive,
  pteIsDevicePrivate,
  pteIsSwap,
  ptePfn,
  pteSlot,
} from '../../src/mm/pte.js';
import { swapCount } from '../../src/mm/swap.js';
import {
  File,
  MmStruct,
  VM_ACCESS_FLAGS,
  VM_LOCKED,
  VM_SHARED,
  VM_WRITE,
  VmAreaStruct,
} from '../../src/mm/types.js';
import { vmaEnd, vmaFlags, vmaLookup, vmaStart } from '../../src/mm/vma.js';
import { vmaTreeFirst } from '../../src/mm/vma-tree.js';
import { vmaTreeCheck } from '../../src/mm/vma-tree-check.js';
import { VmaTreeNode } from '../../src/mm/vma-tree-node.js';
import { MmuIntervalNotifier } from '../../src/notifier/types.js';
import { framesAccountedFor } from '../../src/workloads/leak.js';

const RadixNode = { structName: 'radix_node', words: 64 } as const;

/** What is in use: frames that nobody accounts for, and structs. */
export interface Held {
  readonly frames: number;
  readonly structs: readonly number[];
}

/** What is in use now. */
export function held(cpu: Cpu): Held {
  const structs = [
    allocatedObjects(cpu, MmStruct),
    allocatedObjects(cpu, VmAreaStruct),
    allocatedObjects(cpu, VmaTreeNode),
    allocatedObjects(cpu, File),
    allocatedObjects(cpu, RadixNode),
    allocatedObjects(cpu, MmuIntervalNotifier),
  ];
  return { structs, frames: framesAccountedFor(cpu) };
}

/** Everything has been given back since `before`. */
export function assertNothingLeft(cpu: Cpu, before: Held): void {
  assert.deepEqual(
    held(cpu),
    before,
    'frames accounted for; MmStruct, VmAreaStruct, VmaTreeNode, File, RadixNode, MmuIntervalNotifier',
  );
}

/** How many entries of all spaces map each frame. */
type Mapcounts = Map<number, number>;

/** Checks address spaces that share frames with each other and with nobody else. */
export function checkSpaces(cpu: Cpu, mms: readonly MmStruct[]): void {
  const mapped: Mapcounts = new Map();
  for (const mm of mms) {
    vmaTreeCheck(cpu, member(mm, MmStruct.vmas));
    checkTotals(cpu, mm);
    const frames = checkTables(cpu, mm, read(cpu, mm, MmStruct.pgd), 3, 0, mapped);
    assert.equal(readOnce(cpu, mm, MmStruct.rss), frames, `rss of mm ${mm}`);
  }
  for (const [pfn, count] of mapped) checkFrame(cpu, pfn, count);
}

function checkTotals(cpu: Cpu, mm: MmStruct): void {
  let total = 0;
  let locked = 0;
  let vma = vmaTreeFirst(cpu, member(mm, MmStruct.vmas));
  while (vma !== NULL) {
    const pages = (vmaEnd(cpu, vma) - vmaStart(cpu, vma)) / PAGE_SIZE;
    total += pages;
    if ((vmaFlags(cpu, vma) & VM_LOCKED) !== 0) locked += pages;
    vma = read(cpu, vma, VmAreaStruct.next);
  }
  assert.equal(readAddress(cpu, mm, MmStruct.totalVm), total, `total_vm of mm ${mm}`);
  assert.equal(readAddress(cpu, mm, MmStruct.lockedVm), locked, `locked_vm of mm ${mm}`);
}

/** Checks a table and those below; returns how many frames they map. */
function checkTables(
  cpu: Cpu,
  mm: MmStruct,
  table: number,
  level: number,
  first: Va,
  mapped: Mapcounts,
): number {
  assert.equal(read(cpu, pageOf(cpu, pfnOfWord(cpu, table)), Page.flags), PG_TABLE, 'a table');
  const span = PAGE_SIZE * PTRS_PER_TABLE ** level;
  let frames = 0;
  for (let i = 0; i < PTRS_PER_TABLE; i++) {
    const va = first + i * span;
    if (level === 0) {
      frames += checkEntry(cpu, mm, (table + i * Pte.words) as Pte, va, mapped);
      continue;
    }
    const entry = (table + i * TableEntry.words) as TableEntry;
    const below = readOnce(cpu, entry, TableEntry.table) & TABLE_MASK;
    if (below !== 0) frames += checkTables(cpu, mm, below, level - 1, va, mapped);
  }
  return frames;
}

/** Checks one entry; 1 if it maps a frame that counts. */
function checkEntry(cpu: Cpu, mm: MmStruct, pte: Pte, va: Va, mapped: Mapcounts): number {
  const entry = readOnce(cpu, pte, Pte.entry);
  if (pteIsDevicePrivate(entry)) {
    mapped.set(ptePfn(entry), (mapped.get(ptePfn(entry)) ?? 0) + 1);
    return 1;
  }
  if (pteIsDeviceExclusive(entry)) return 1; // it has a reference, and maps nothing
  if (!pteHasFrame(entry)) {
    assert.ok(
      entry === 0 || pteIsSwap(entry),
      'an entry without a frame is empty, or in the swap area',
    );
    if (entry !== 0)
      assert.ok(swapCount(cpu, pteSlot(entry)) > 0, 'a slot that an entry names is in use');
    return 0;
  }
  const where = `${va.toString(16)} of mm ${mm}`;
  const pfn = ptePfn(entry);
  const page = pageOf(cpu, pfn);
  const vma = vmaLookup(cpu, mm, va);
  assert.notEqual(vma, NULL, `${where} is mapped without a VMA`);
  const flags = vmaFlags(cpu, vma);
  assert.equal(
    readOnce(cpu, pte, Pte.generation),
    readOnce(cpu, page, Page.generation),
    `${where}: the frame was freed since it was mapped`,
  );
  if ((entry & PTE_PRESENT) !== 0) {
    assert.notEqual(flags & VM_ACCESS_FLAGS, 0, `${where} is usable in a VMA without rights`);
  }
  if ((entry & PTE_WRITE) !== 0) checkWritable(cpu, flags, pfn, where);
  if (pfn === ZERO_PFN) return 0;
  if ((read(cpu, page, Page.flags) & PG_ANON) !== 0) {
    assert.notEqual(
      read(cpu, vma, VmAreaStruct.anonVma),
      0,
      `${where}: anonymous, but fork would skip it`,
    );
  }
  mapped.set(pfn, (mapped.get(pfn) ?? 0) + 1);
  return 1;
}

function checkWritable(cpu: Cpu, vmFlags: number, pfn: number, where: string): void {
  assert.notEqual(vmFlags & VM_WRITE, 0, `${where} is writable in a VMA that is not`);
  if ((vmFlags & VM_SHARED) !== 0) return;
  assert.notEqual(pfn, ZERO_PFN, `${where}: the zero page is writable`);
  const flags = readOnce(cpu, pageOf(cpu, pfn), Page.flags);
  assert.notEqual(
    flags & PG_ANON_EXCLUSIVE,
    0,
    `${where} is private and writable, but not exclusive`,
  );
}

function checkFrame(cpu: Cpu, pfn: number, count: number): void {
  const page = pageOf(cpu, pfn);
  const flags = readOnce(cpu, page, Page.flags);
  const isAnon = (flags & PG_ANON) !== 0;
  assert.equal(readOnce(cpu, page, Page.mapcount), count, `mapcount of frame ${pfn}`);
  const isCached = !isAnon || (flags & PG_SWAPCACHE) !== 0;
  const cacheReference = isCached ? 1 : 0;
  assert.equal(
    readOnce(cpu, page, Page.refcount),
    count + cacheReference,
    `refcount of frame ${pfn}`,
  );
  if ((flags & PG_ANON_EXCLUSIVE) !== 0)
    assert.equal(count, 1, `frame ${pfn} is exclusive and shared`);
}
