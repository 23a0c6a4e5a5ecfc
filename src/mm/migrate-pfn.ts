/**
 * Words that say of a page what a migration has found, and where it goes.
 *
 * Kernel     include/linux/migrate.h
 *
 * @module
 */
import { read, write } from '#memory';

import type { Cpu } from '../machine/cpu.js';
import type { Pfn } from '../machine/page-alloc.js';
import { MigratePfn } from './types.js';

/** The word has a frame. */
export const MIGRATE_PFN_VALID = 1 << 0;
/** src: the page can be migrated, and after the pages step, was. With no frame: there is none yet. */
export const MIGRATE_PFN_MIGRATE = 1 << 1;
/** src: it may be written where it is mapped. */
export const MIGRATE_PFN_WRITE = 1 << 3;
export const MIGRATE_PFN_SHIFT = 6;

/** Pages of the machine's memory, and where there is none yet. */
export const MIGRATE_VMA_SELECT_SYSTEM = 1 << 0;
/** Pages of the owner's that CPUs cannot address. */
export const MIGRATE_VMA_SELECT_DEVICE_PRIVATE = 1 << 1;
/** Pages of the owner's that they can. */
export const MIGRATE_VMA_SELECT_DEVICE_COHERENT = 1 << 2;

/** The word for a frame. @kernel migrate_pfn */
export function migratePfn(pfn: Pfn): number {
  return (pfn << MIGRATE_PFN_SHIFT) | MIGRATE_PFN_VALID;
}

/** The frame of a word; 0 if it has none. @kernel migrate_pfn_to_page */
export function migratePfnToPfn(entry: number): Pfn {
  return (entry & MIGRATE_PFN_VALID) === 0 ? 0 : entry >>> MIGRATE_PFN_SHIFT;
}

function at(entries: MigratePfn, index: number): MigratePfn {
  return (entries + index * MigratePfn.words) as MigratePfn;
}

/** Word `index` of an array. */
export function getMigratePfn(cpu: Cpu, entries: MigratePfn, index: number): number {
  return read(cpu, at(entries, index), MigratePfn.entry);
}

/** Sets it. */
export function setMigratePfn(cpu: Cpu, entries: MigratePfn, index: number, entry: number): void {
  write(cpu, at(entries, index), MigratePfn.entry, entry);
}
