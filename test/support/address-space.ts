/**
 * Address spaces on the test's own thread: several CPUs of a machine with memory, as long as nothing
 * blocks. Pages are named by number, from an arena on.
 *
 * @module
 */
import assert from 'node:assert/strict';

import { read, readOnceCells } from '#memory';

import { PAGE_SIZE } from '../../src/base/units.js';
import { bootSvmStats } from '../../src/drivers/svm/stats.js';
import { attachCpu, bootMachine } from '../../src/machine/boot.js';
import type { Cpu } from '../../src/machine/cpu.js';
import { registerOps } from '../../src/machine/ops-table.js';
import { NULL, type Va } from '../../src/memory/layout.js';
import { bootMm } from '../../src/mm/boot.js';
import { mmAlloc, useMm } from '../../src/mm/mm-struct.js';
import { mmap } from '../../src/mm/mmap.js';
import { pteOf } from '../../src/mm/page-table.js';
import { NO_PTE, Pte } from '../../src/mm/pte.js';
import { type File, MmStruct } from '../../src/mm/types.js';
import { MAP_ANONYMOUS, MAP_FIXED, MAP_PRIVATE, PROT_READ, PROT_WRITE } from '../../src/mm/uapi.js';

/** Page 0 of the arena: the first address of a last-level page table. */
export const ARENA: Va = 2 ** 33;
export const MIB = 1 << 20;

/** The address of a page. */
export function pageVa(page: number): Va {
  return ARENA + page * PAGE_SIZE;
}

export interface Space {
  /** CPU i is element i; all of them know the address space. */
  readonly cpus: readonly Cpu[];
  readonly cpu: Cpu;
  readonly mm: MmStruct;
}

/** A machine with one empty address space; `modules` have the ops tables that are used. */
export function bootSpace(
  modules: readonly Readonly<Record<string, unknown>>[] = [],
  cpus = 1,
  ramBytes = 8 * MIB,
): Space {
  const { cpu: boot, handle } = bootMachine({ cpus, ramBytes });
  bootMm(boot);
  bootSvmStats(boot);
  const all = Array.from({ length: cpus }, (_, id) => attachCpu(handle, id));
  const cpu = all[0]!;
  const mm = mmAlloc(cpu);
  assert.notEqual(mm, NULL);
  for (const one of all) {
    registerOps(one, modules);
    useMm(one, mm);
  }
  return { cpus: all, cpu, mm };
}

/** Private memory at those pages, anonymous unless a file is given. */
export function mapPages(
  cpu: Cpu,
  mm: MmStruct,
  page: number,
  pages: number,
  prot = PROT_READ | PROT_WRITE,
  flags = MAP_PRIVATE,
  file: File = NULL,
): void {
  const all = flags | MAP_FIXED | (file === NULL ? MAP_ANONYMOUS : 0);
  const at = mmap(cpu, mm, pageVa(page), pages * PAGE_SIZE, prot, all, file, 0);
  assert.equal(at, pageVa(page));
}

export interface PageEntry {
  readonly entry: number;
  readonly generation: number;
}

/** What the CPUs' page table has for a page. */
export function cpuEntry(cpu: Cpu, mm: MmStruct, va: Va): PageEntry {
  return entryAt(cpu, pteOf(cpu, read(cpu, mm, MmStruct.pgd), va));
}

/** An entry of a last-level table, read whole; 0 if there is no table. */
export function entryAt(cpu: Cpu, pte: Pte): PageEntry {
  if (pte === NO_PTE) return { entry: 0, generation: 0 };
  const copy = cpu.scratch as Pte;
  readOnceCells(cpu, copy, pte, 1);
  return { entry: read(cpu, copy, Pte.entry), generation: read(cpu, copy, Pte.generation) };
}
