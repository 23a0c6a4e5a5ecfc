/**
 * Software TLB: cached translations of the CPU (or device engine) that this worker is, and the
 * shootdown that ends their use.
 *
 * Kernel     arch/x86/mm/tlb.c (tlb_gen), mm/mmu_gather.c
 * Protocol   accessing worker                        worker that changes translations
 *              tlbEnter: translation += 1 (odd)        change the page table
 *              read context.generation                 tlbShootdown:
 *              use entries of that generation only       generation += 1
 *              touch the frame                           wait for every worker of the context whose
 *              tlbExit: translation += 1 (even)            translation is odd to move on
 *                                                      free the frames
 * Invariant  I1  After tlbShootdown returned, no worker uses a translation that was read from the page
 *                table before the change.
 * Ordering   Both sides write one word and then read the other's, each fully ordered: either the
 *            accessing worker sees the new generation, or the other sees it inside and waits.
 * Deviation  A context has one generation, so every shootdown drops all its translations; Linux drops a
 *            range. An interrupt and its acknowledgement are the wait on `translation`.
 * Cost       An access: one read-modify-write, one release store and two loads. A shootdown: one read-modify-write and one
 *            load for each CPU that ever used the context.
 *
 * Between tlbEnter and tlbExit nothing may sleep, spin on a lock or fault.
 *
 * @module
 */
import { fetchAdd, fetchOr, loadAcquire, read, readOnce, storeRelease, write } from '#memory';

import { lowestBit } from '../base/bits.js';
import { element, type Ptr, struct, word, words } from '../memory/layout.js';
import { awaitMove } from './await-move.js';
import { type Cpu, cpuArea } from './cpu.js';
import { CPUS_MAX } from './limits.js';
import { allocPercpu, thisCpuPtr } from './percpu.js';
import { CpuArea, MACHINE, Machine } from './types.js';

/** Whose translations they are: embedded in an mm, or in a device's page table. */
export const TlbContext = struct('tlb_context', {
  id: word, // of no other context, before or after; written once
  generation: word, // +1 by every shootdown
  cpus: words(Math.ceil((CPUS_MAX + 1) / 32)), // workers that may hold translations; only ever set. @kernel mm_cpumask
});
export type TlbContext = Ptr<'tlb_context'>;

/** One translation. */
export const TlbEntry = struct('tlb_entry', {
  context: word, // id of the tlb_context, 0 = empty
  generation: word, // its generation when the entry was filled
  pageHigh: word, // virtual page number: upper part …
  pageLow: word, // … and lower 27 bits
  pte: word, // the page table entry it was made from
  frameGeneration: word, // of the frame, as the page table has it
});
export type TlbEntry = Ptr<'tlb_entry'>;

const ENTRIES = 64;
const ENTRY_STRIDE = 8;

/** Reserves the TLB of every CPU. Runs once, at boot. */
export function bootTlb(cpu: Cpu): void {
  write(cpu, MACHINE, Machine.tlbs, allocPercpu(cpu, ENTRIES * ENTRY_STRIDE));
}

/** Makes a context without translations. */
export function initTlbContext(cpu: Cpu, context: TlbContext): void {
  write(cpu, context, TlbContext.id, fetchAdd(cpu, MACHINE, Machine.tlbContexts, 1) + 1);
}

/** Says that this worker is about to use translations of the context. @kernel switch_mm */
export function tlbAttach(cpu: Cpu, context: TlbContext): void {
  fetchOr(cpu, context, element(TlbContext.cpus, cpu.id >> 5), 1 << (cpu.id & 31));
}

/** Opens an access and returns the generation its translations must have. */
export function tlbEnter(cpu: Cpu, context: TlbContext): number {
  fetchAdd(cpu, cpu.area, CpuArea.translation, 1); // pairs with tlbShootdown
  return loadAcquire(cpu, context, TlbContext.generation);
}

/** Closes an access. */
export function tlbExit(cpu: Cpu): void {
  const inside = read(cpu, cpu.area, CpuArea.translation);
  storeRelease(cpu, cpu.area, CpuArea.translation, (inside + 1) | 0); // pairs with tlbShootdown
}

/** The entry that a page's translation is in, if it is cached at all. */
export function tlbSlot(cpu: Cpu, pageLow: number): TlbEntry {
  const tlb = thisCpuPtr<'tlb_entry'>(cpu, read(cpu, MACHINE, Machine.tlbs));
  return (tlb + (pageLow & (ENTRIES - 1)) * ENTRY_STRIDE) as TlbEntry;
}

/** True if the entry translates that page in that generation of the context. Inside an access only. */
export function tlbHit(
  cpu: Cpu,
  entry: TlbEntry,
  context: TlbContext,
  generation: number,
  pageHigh: number,
  pageLow: number,
): boolean {
  return (
    read(cpu, entry, TlbEntry.pageLow) === pageLow &&
    read(cpu, entry, TlbEntry.generation) === generation &&
    read(cpu, entry, TlbEntry.context) === read(cpu, context, TlbContext.id) &&
    read(cpu, entry, TlbEntry.pageHigh) === pageHigh
  );
}

/** Caches a translation that was read from the page table inside this access. */
export function tlbFill(
  cpu: Cpu,
  entry: TlbEntry,
  context: TlbContext,
  generation: number,
  pageHigh: number,
  pageLow: number,
): void {
  write(cpu, entry, TlbEntry.context, read(cpu, context, TlbContext.id));
  write(cpu, entry, TlbEntry.generation, generation);
  write(cpu, entry, TlbEntry.pageHigh, pageHigh);
  write(cpu, entry, TlbEntry.pageLow, pageLow);
}

/**
 * Ends the use of all translations of the context that were read before this call (I1). Spins; the
 * caller must not be inside an access. `waitKind` is what a report calls the wait.
 */
export function tlbShootdown(cpu: Cpu, context: TlbContext, waitKind: number): void {
  tlbKick(cpu, context);
  tlbAwait(cpu, context, waitKind);
}

/** The first half of a shootdown: translations read before this call are used by no new access. */
export function tlbKick(cpu: Cpu, context: TlbContext): void {
  fetchAdd(cpu, context, TlbContext.generation, 1); // pairs with tlbEnter
}

/** The second half: waits for the accesses that were under way at the kick. Spins. */
export function tlbAwait(cpu: Cpu, context: TlbContext, waitKind: number): void {
  const cpus = read(cpu, MACHINE, Machine.cpus);
  for (let group = 0; group * 32 <= cpus; group++) {
    let mask = readOnce(cpu, context, element(TlbContext.cpus, group));
    while (mask !== 0) {
      const bit = lowestBit(mask);
      mask &= mask - 1;
      waitOutside(cpu, cpuArea(group * 32 + bit), waitKind);
    }
  }
}

/** Waits until the worker is outside the access, if any, that it is inside of now. */
function waitOutside(cpu: Cpu, area: CpuArea, waitKind: number): void {
  const inside = readOnce(cpu, area, CpuArea.translation); // pairs with tlbEnter
  if ((inside & 1) === 0) return;
  awaitMove(cpu, area, CpuArea.translation, inside, waitKind, area);
}
