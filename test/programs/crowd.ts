/**
 * Programs of a crowd: CPUs that change an address space in every way, and devices that compute in it at
 * the same time. What must come out is known, whoever was faster.
 *
 * Shared pages are added to by everybody; nobody drops them, so no addition may be lost. Volatile pages
 * come and go; there only stale accesses are looked for.
 *
 * @module
 */
import { fetchAdd, read, readOnce } from '#memory';

import { PAGE_SIZE } from '../../src/base/units.js';
import { pick, seedFor, xorshift } from '../../src/base/xorshift.js';
import {
  attachEngine,
  ENGINE_ADD,
  ENGINE_LOAD,
  ENGINE_STORE,
  engineAccess,
  initEngine,
} from '../../src/drivers/svm/engine.js';
import {
  createFaultService,
  destroyFaultService,
  serveFaults,
} from '../../src/drivers/svm/fault-service.js';
import { deviceEntry } from '../../src/drivers/svm/page-table.js';
import { SvmContext, type SvmDevice, type SvmEngine } from '../../src/drivers/svm/types.js';
import { HMM_PFN_SHIFT, HMM_PFN_VALID, HMM_PFN_WRITE, HmmPfn } from '../../src/hmm/types.js';
import type { Cpu } from '../../src/machine/cpu.js';
import { cpuRelax, noteProgress } from '../../src/machine/sched.js';
import { stackPop, stackPush } from '../../src/machine/stack.js';
import { MACHINE, Machine } from '../../src/machine/types.js';
import { cacheline, member, NULL, type Ptr, struct, word } from '../../src/memory/layout.js';
import { loadWord, storeWord } from '../../src/mm/access.js';
import { mmput } from '../../src/mm/exit.js';
import { dupMm } from '../../src/mm/fork.js';
import { madvise } from '../../src/mm/madvise.js';
import { useMm } from '../../src/mm/mm-struct.js';
import { mmap } from '../../src/mm/mmap.js';
import {
  mmapReadLock,
  mmapReadUnlock,
  mmapWriteLock,
  mmapWriteUnlock,
} from '../../src/mm/mmap-lock.js';
import { mprotect } from '../../src/mm/mprotect.js';
import { munmap } from '../../src/mm/munmap.js';
import { changeProtNuma, numaRebuildMapping } from '../../src/mm/numa-hint.js';
import { pageHigh, pageLow, pteOf } from '../../src/mm/page-table.js';
import { NO_PTE, Pte, PTE_PRESENT, PTE_WRITE, ptePfn } from '../../src/mm/pte.js';
import { MmStruct } from '../../src/mm/types.js';
import {
  MADV_DONTNEED,
  MAP_ANONYMOUS,
  MAP_FIXED,
  MAP_PRIVATE,
  PROT_READ,
  PROT_WRITE,
} from '../../src/mm/uapi.js';
import {
  MMU_NOTIFY_PROTECTION_VMA,
  mmuNotifierRangeInit,
} from '../../src/notifier/mmu-notifier-range.js';
import { MmuNotifierRange } from '../../src/notifier/types.js';
import { mutexLock, mutexUnlock } from '../../src/sync/mutex.js';

/** Where the pages are. */
export const SHARED = 2 ** 33;
export const SHARED_PAGES = 24;
export const VOLATILE = SHARED + 256 * PAGE_SIZE;
export const VOLATILE_PAGES = 48;

export const Crowd = struct('crowd', {
  arrived: word,
  running: word, // engines that are not done; what keeps the others going
  line1: cacheline,
  added: word, // by all engines together
  refused: word, // accesses of engines that the driver could not serve
});
export type Crowd = Ptr<'crowd'>;

export interface CrowdArgs {
  readonly crowd: Crowd;
  readonly mm: MmStruct;
  readonly devices: readonly SvmDevice[];
  readonly contexts: readonly SvmContext[];
  /** One for each engine; engine i is CPU i and of device i modulo their number. */
  readonly engines: readonly SvmEngine[];
  readonly rounds: number;
  readonly seed: number;
}

/** Starts all CPUs as nearly at once as can be. */
function gate(cpu: Cpu, crowd: Crowd): void {
  fetchAdd(cpu, crowd, Crowd.arrived, 1);
  const cpus = read(cpu, MACHINE, Machine.cpus);
  for (let spins = 0; readOnce(cpu, crowd, Crowd.arrived) < cpus; spins++) cpuRelax(cpu, spins);
}

const goesOn = (cpu: Cpu, crowd: Crowd): boolean => readOnce(cpu, crowd, Crowd.running) > 0;

/** Adds to shared pages, and uses volatile ones; returns what it has added. */
export function engine(cpu: Cpu, args: CrowdArgs): number {
  const { crowd, contexts, engines, rounds } = args;
  const context = contexts[cpu.id % contexts.length]!;
  const own = engines[cpu.id]!;
  initEngine(cpu, own);
  attachEngine(cpu, context);
  let state = seedFor(args.seed, cpu.id);
  let added = 0;
  gate(cpu, crowd);
  for (let i = 0; i < rounds; i++) {
    state = xorshift(state);
    const at = SHARED + pick(state >>> 3, SHARED_PAGES) * PAGE_SIZE;
    if (engineAccess(cpu, context, own, at, ENGINE_ADD, 1) === 0) added++;
    else fetchAdd(cpu, crowd, Crowd.refused, 1);
    state = xorshift(state);
    const va = VOLATILE + pick(state >>> 3, VOLATILE_PAGES) * PAGE_SIZE;
    const kind = [ENGINE_LOAD, ENGINE_STORE, ENGINE_ADD][pick(state >>> 13, 3)] ?? ENGINE_LOAD;
    if (engineAccess(cpu, context, own, va, kind, 1) !== 0) {
      fetchAdd(cpu, crowd, Crowd.refused, 1);
    }
    noteProgress(cpu, i);
  }
  fetchAdd(cpu, crowd, Crowd.added, added);
  fetchAdd(cpu, crowd, Crowd.running, -1);
  return added;
}

/** Serves the faults of one device, of two if there are more devices than service threads. */
export function service(cpu: Cpu, args: CrowdArgs): number {
  const device = args.devices[cpu.id % args.devices.length]!;
  const own = createFaultService(cpu, device);
  if (own === undefined) throw new Error('no memory for a service thread');
  gate(cpu, args.crowd);
  const served = serveFaults(cpu, own);
  destroyFaultService(cpu, own);
  return served;
}

/** Writes to volatile pages and takes them away again, in turn in every way; returns how often. */
export function changer(cpu: Cpu, args: CrowdArgs): number {
  const { crowd, mm } = args;
  useMm(cpu, mm);
  let state = seedFor(args.seed, cpu.id);
  let changes = 0;
  gate(cpu, crowd);
  while (goesOn(cpu, crowd)) {
    state = xorshift(state);
    const page = pick(state >>> 3, VOLATILE_PAGES - 4);
    const start = VOLATILE + page * PAGE_SIZE;
    const length = (1 + pick(state >>> 11, 4)) * PAGE_SIZE;
    storeWord(cpu, mm, start, state); // -EFAULT if somebody else has just unmapped it
    change(cpu, mm, start, length, changes++ % 3);
    noteProgress(cpu, changes);
  }
  return changes;
}

function change(cpu: Cpu, mm: MmStruct, start: number, length: number, kind: number): void {
  if (kind === 0) {
    madvise(cpu, mm, start, length, MADV_DONTNEED);
  } else if (kind === 1) {
    munmap(cpu, mm, start, length);
    const flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED;
    mmap(cpu, mm, start, length, PROT_READ | PROT_WRITE, flags, NULL, 0);
  } else {
    mprotect(cpu, mm, start, length, PROT_READ);
    mprotect(cpu, mm, start, length, PROT_READ | PROT_WRITE);
  }
}

/** Write-protects shared pages, or hides them, and undoes it; nothing of what is in them is lost. */
export function protector(cpu: Cpu, args: CrowdArgs): number {
  const { crowd, mm } = args;
  useMm(cpu, mm);
  const range = stackPush(cpu, MmuNotifierRange);
  let state = seedFor(args.seed, cpu.id);
  let changes = 0;
  gate(cpu, crowd);
  while (goesOn(cpu, crowd)) {
    state = xorshift(state);
    const start = SHARED + pick(state >>> 3, SHARED_PAGES - 2) * PAGE_SIZE;
    const end = start + 2 * PAGE_SIZE;
    if (changes++ % 2 === 0) {
      mprotect(cpu, mm, start, end - start, PROT_READ);
      mprotect(cpu, mm, start, end - start, PROT_READ | PROT_WRITE);
    } else {
      mmuNotifierRangeInit(cpu, range, MMU_NOTIFY_PROTECTION_VMA, mm, start, end);
      mmapReadLock(cpu, mm);
      changeProtNuma(cpu, mm, range);
      numaRebuildMapping(cpu, mm, range);
      mmapReadUnlock(cpu, mm);
    }
    noteProgress(cpu, changes);
  }
  stackPop(cpu, range);
  return changes;
}

/**
 * Makes children and ends them; what a child sees of the shared pages must not change while it lives.
 * Returns how often it did, or minus the number of pages that changed.
 */
export function forker(cpu: Cpu, args: CrowdArgs): number {
  const { crowd, mm } = args;
  useMm(cpu, mm);
  let children = 0;
  let changed = 0;
  gate(cpu, crowd);
  while (goesOn(cpu, crowd)) {
    const child = dupMm(cpu, mm);
    if (child === NULL) throw new Error('no memory for a child');
    useMm(cpu, child);
    const before = contentsOf(cpu, child);
    for (let spins = 0; spins < 2000; spins++) cpuRelax(cpu, spins);
    const after = contentsOf(cpu, child);
    changed += before.filter((value, page) => value !== after[page]).length;
    mmput(cpu, child);
    children++;
    noteProgress(cpu, children);
  }
  return changed === 0 ? children : -changed;
}

function contentsOf(cpu: Cpu, mm: MmStruct): number[] {
  return Array.from({ length: SHARED_PAGES }, (_, page) => {
    if (loadWord(cpu, mm, SHARED + page * PAGE_SIZE) !== 0) throw new Error('a page is gone');
    return cpu.loaded;
  });
}

/**
 * Looks at all devices' page tables while nothing can change the CPUs': each entry must be one that the
 * CPUs have, with no more rights (INV-20). Returns how many were not; with `seen` how many it looked at.
 */
export function auditor(
  cpu: Cpu,
  args: CrowdArgs,
): { wrong: number; seen: number; audits: number } {
  const { crowd, mm, contexts } = args;
  const total = { wrong: 0, seen: 0, audits: 0 };
  gate(cpu, crowd);
  while (goesOn(cpu, crowd)) {
    mmapWriteLock(cpu, mm);
    for (const context of contexts) audit(cpu, mm, context, total);
    mmapWriteUnlock(cpu, mm);
    total.audits++;
    noteProgress(cpu, total.audits);
    for (let spins = 0; spins < 5000; spins++) cpuRelax(cpu, spins);
  }
  return total;
}

/** Adds to `total` what is wrong in one device's page table. The mmap lock is held for writing. */
export function audit(
  cpu: Cpu,
  mm: MmStruct,
  context: SvmContext,
  total: { wrong: number; seen: number },
): void {
  mutexLock(cpu, member(context, SvmContext.lock));
  for (const [first, pages] of [
    [SHARED, SHARED_PAGES],
    [VOLATILE, VOLATILE_PAGES],
  ] as const) {
    for (let page = 0; page < pages; page++) {
      const va = first + page * PAGE_SIZE;
      const own = deviceEntry(cpu, context, pageHigh(va), pageLow(va)) as number as HmmPfn;
      const entry = own === (NO_PTE as number) ? 0 : readOnce(cpu, own, HmmPfn.entry);
      if ((entry & HMM_PFN_VALID) === 0) continue;
      total.seen++;
      const generation = readOnce(cpu, own, HmmPfn.generation);
      if (!isCovered(cpu, mm, va, entry, generation)) total.wrong++;
    }
  }
  mutexUnlock(cpu, member(context, SvmContext.lock));
}

function isCovered(cpu: Cpu, mm: MmStruct, va: number, entry: number, generation: number): boolean {
  const pte = pteOf(cpu, read(cpu, mm, MmStruct.pgd), va);
  if (pte === NO_PTE) return false;
  const cpuEntry = readOnce(cpu, pte, Pte.entry);
  return (
    (cpuEntry & PTE_PRESENT) !== 0 &&
    ptePfn(cpuEntry) === entry >>> HMM_PFN_SHIFT &&
    readOnce(cpu, pte, Pte.generation) === generation &&
    ((entry & HMM_PFN_WRITE) === 0 || (cpuEntry & PTE_WRITE) !== 0)
  );
}
