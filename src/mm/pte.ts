/**
 * Page table entries: the format that the emulated hardware and the kernel share.
 *
 * An entry is a cell of two words. The first:
 *
 *   31 .............. 12   11 .. 9   8     7      6      5        4         3      2         1      0
 *   frame number           kind      leaf  alone  soft-  special  protnone  dirty  accessed  write  present
 *                                                 dirty
 *
 * The second is the generation the frame had when it was mapped: an access through the entry (or
 * through a copy of it, in a TLB or in a device) that finds another generation in the frame has used a
 * mapping that outlived its frame.
 *
 *   0                          none: nothing was ever mapped, or it was taken away
 *   present                    the hardware may use it
 *   protnone, not present      a frame is mapped, but the hardware must not use it: PROT_NONE, or a hint
 *   neither, not 0             a special entry: `kind` says which. Of some, `write` says that the page may be written
 *                              when it is mapped again, `alone` that it was this address space's own:
 *                                swap              the number of a slot in the place of the frame's; the page is there
 *                                migration         the page is on its way elsewhere, and locked (INV-23)
 *                                device private    no CPU can address the page (INV-26); a fault brings it back
 *                                device exclusive  only a device may use the page until a CPU faults
 *
 * Who changes entries holds the page table lock of the table. The hardware, which takes no lock, sets
 * `accessed` and `dirty` of present entries by compare-and-exchange; so a present entry is taken away by
 * an exchange, never by a plain store.
 *
 * @module
 */
import { cmpxchg, exchange, readOnce, storeRelease, writeOnce } from '#memory';

import { bug } from '../base/bug.js';
import type { Cpu } from '../machine/cpu.js';
import { pageOf, type Pfn, PG_DEVICE_PRIVATE } from '../machine/page-alloc.js';
import { Page } from '../machine/types.js';
import { type Ptr, struct, word } from '../memory/layout.js';

export const Pte = struct('pte', {
  entry: word,
  generation: word,
});
export type Pte = Ptr<'pte'>;

/** No entry: there is no table at that address. */
export const NO_PTE = 0 as Pte;

export const PTE_PRESENT = 1 << 0;
export const PTE_WRITE = 1 << 1;
export const PTE_ACCESSED = 1 << 2;
export const PTE_DIRTY = 1 << 3;
export const PTE_PROTNONE = 1 << 4;
export const PTE_SPECIAL = 1 << 5;
export const PTE_SOFT_DIRTY = 1 << 6;
/** Special entries: the page was exclusive. @kernel _PAGE_SWP_EXCLUSIVE */
export const PTE_SWP_EXCLUSIVE = 1 << 7;
/** Special entries: which kind. */
export const PTE_KIND_MASK = 7 << 9;
/** … the page is in a slot of the swap area. */
export const PTE_KIND_SWAP = 1 << 9;
/** … the page is about to be somewhere else. */
export const PTE_KIND_MIGRATION = 2 << 9;
/** … the page is in memory of a device that CPUs cannot address. */
export const PTE_KIND_DEVICE_PRIVATE = 3 << 9;
/** … the page is in memory, but a device has it alone. */
export const PTE_KIND_DEVICE_EXCLUSIVE = 4 << 9;
export const PTE_PFN_SHIFT = 12;
/** All of an entry but the frame. */
export const PTE_FLAGS = (1 << PTE_PFN_SHIFT) - 1;

/** The frame of an entry. */
export function ptePfn(entry: number): Pfn {
  return entry >>> PTE_PFN_SHIFT;
}

/** True if the entry maps a frame, whether or not the hardware may use it. */
export function pteHasFrame(entry: number): boolean {
  return (entry & (PTE_PRESENT | PTE_PROTNONE)) !== 0;
}

/** True if the entry names a slot of the swap area. @kernel is_swap_pte, !non_swap_entry */
export function pteIsSwap(entry: number): boolean {
  return isKind(entry, PTE_KIND_SWAP);
}

function isKind(entry: number, kind: number): boolean {
  return !pteHasFrame(entry) && (entry & (PTE_KIND_MASK | PTE_SPECIAL)) === kind;
}

/** True if the page is on its way elsewhere. @kernel is_migration_entry */
export function pteIsMigration(entry: number): boolean {
  return isKind(entry, PTE_KIND_MIGRATION);
}

/** True if the page is in memory that only a device can address. @kernel is_device_private_entry */
export function pteIsDevicePrivate(entry: number): boolean {
  return isKind(entry, PTE_KIND_DEVICE_PRIVATE);
}

/** True if a device has the page alone. @kernel is_device_exclusive_entry */
export function pteIsDeviceExclusive(entry: number): boolean {
  return isKind(entry, PTE_KIND_DEVICE_EXCLUSIVE);
}

/** True if the entry stands for a page that has a frame, which CPUs must not use. @kernel is_pfn_swap_entry */
export function pteIsPfnSwap(entry: number): boolean {
  return pteIsMigration(entry) || pteIsDevicePrivate(entry) || pteIsDeviceExclusive(entry);
}

/** The slot of a swap entry. @kernel swp_offset */
export function pteSlot(entry: number): number {
  return entry >>> PTE_PFN_SHIFT;
}

/** An entry for the slot, of a page that this entry maps. @kernel swp_entry_to_pte */
export function makeSwapPte(slot: number, entry: number, isExclusive: boolean): number {
  const kept = (entry & PTE_SOFT_DIRTY) | (isExclusive ? PTE_SWP_EXCLUSIVE : 0);
  return (slot << PTE_PFN_SHIFT) | PTE_KIND_SWAP | kept;
}

/** An entry for the frame with these flags. */
export function makePte(pfn: Pfn, flags: number): number {
  return (pfn << PTE_PFN_SHIFT) | flags;
}

/** @kernel ptep_get */
export function pteGet(cpu: Cpu, pte: Pte): number {
  return readOnce(cpu, pte, Pte.entry);
}

/**
 * Puts a mapping where there is none: the generation first, so that who sees the entry sees the
 * generation that goes with it. The page table lock must be held. @kernel set_pte_at
 */
export function setPte(cpu: Cpu, pte: Pte, entry: number): void {
  const page = pageOf(cpu, ptePfn(entry));
  if ((readOnce(cpu, page, Page.flags) & PG_DEVICE_PRIVATE) !== 0) {
    bug('INV-26: memory that only a device can address is mapped for CPUs');
  }
  writeOnce(cpu, pte, Pte.generation, readOnce(cpu, page, Page.generation));
  storeRelease(cpu, pte, Pte.entry, entry); // pairs with every reader of the entry
}

/**
 * Puts a special entry where there is none, or another special one. One of device-private memory has the generation of
 * its frame, as the device itself uses that. The page table lock must be held. @kernel set_pte_at
 */
export function setSpecialPte(cpu: Cpu, pte: Pte, entry: number): void {
  const isUsed = pteIsDevicePrivate(entry);
  const generation = isUsed ? readOnce(cpu, pageOf(cpu, ptePfn(entry)), Page.generation) : 0;
  writeOnce(cpu, pte, Pte.generation, generation);
  storeRelease(cpu, pte, Pte.entry, entry);
}

/** Takes the entry away and returns it. The page table lock must be held. @kernel ptep_get_and_clear */
export function pteGetAndClear(cpu: Cpu, pte: Pte): number {
  return exchange(cpu, pte, Pte.entry, 0);
}

/**
 * Changes the flags of an entry that keeps its frame, without losing what the hardware sets meanwhile;
 * returns the new entry. The page table lock must be held.
 */
export function pteUpdateFlags(cpu: Cpu, pte: Pte, clear: number, set: number): number {
  let seen = readOnce(cpu, pte, Pte.entry);
  for (;;) {
    const next = (seen & ~clear) | set;
    const before = cmpxchg(cpu, pte, Pte.entry, seen, next);
    if (before === seen) return next;
    seen = before;
  }
}
