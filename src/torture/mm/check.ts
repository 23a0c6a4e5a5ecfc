/**
 * What must be true of an address space while nobody changes it, and of all of them in the end: small checkers, each
 * computed from scratch.
 *
 * Protocol   With the mmap lock for writing, and a use of the address space, nobody is inside a call, a fault, an
 *            invalidation or an exit of it: what the calls leave between them must hold. Devices may lose
 *            entries, not gain any.
 * Checks     the tree of VMAs and its totals; INV-11: each entry lies in a VMA, has its rights and no more, and maps
 *            a frame that was not freed since; I1 of fork: writable private pages are one's own; rss;
 *            INV-14 of the world's notifiers; INV-16, INV-21 of the subscriptions; INV-20: each entry of a device
 *            is one that the CPUs have. At the end, of every frame of the files: nobody else refers to it.
 *
 * @module
 */
import { clockMs, read, readAddress, readOnce } from '#memory';

import { bug } from '../../base/bug.js';
import { PAGE_SIZE } from '../../base/units.js';
import { putContext } from '../../drivers/svm/device.js';
import { deviceEntry } from '../../drivers/svm/page-table.js';
import { SvmContext } from '../../drivers/svm/types.js';
import { HMM_PFN_SHIFT, HMM_PFN_VALID, HMM_PFN_WRITE, HmmPfn } from '../../hmm/types.js';
import type { Cpu } from '../../machine/cpu.js';
import { pageOf, PG_ANON_EXCLUSIVE, reclaims, ZERO_PFN } from '../../machine/page-alloc.js';
import { scheduleTimeoutUninterruptible } from '../../machine/sched.js';
import { Page } from '../../machine/types.js';
import { member as memberOf, NULL, type Va } from '../../memory/layout.js';
import { fileFindPage } from '../../mm/file.js';
import { mmapWriteLock, mmapWriteUnlock } from '../../mm/mmap-lock.js';
import { pageHasFlag, pageMapcount, pageRefcount, putPage } from '../../mm/page.js';
import { nextPopulated, pageHigh, pageLow, pmdAddrEnd, pteOf } from '../../mm/page-table.js';
import {
  NO_PTE,
  Pte,
  PTE_PRESENT,
  PTE_WRITE,
  pteHasFrame,
  pteIsSwap,
  ptePfn,
} from '../../mm/pte.js';
import {
  MmStruct,
  VM_ACCESS_FLAGS,
  VM_LOCKED,
  VM_SHARED,
  VM_WRITE,
  VmAreaStruct,
} from '../../mm/types.js';
import { vmaEnd, vmaFlags, vmaStart } from '../../mm/vma.js';
import { vmaTreeFirst } from '../../mm/vma-tree.js';
import { vmaTreeCheck } from '../../mm/vma-tree-check.js';
import { VA_MAX } from '../../notifier/mmu-notifier-range.js';
import { MmuNotifierSubscriptions } from '../../notifier/types.js';
import { mutexLock, mutexUnlock } from '../../sync/mutex.js';
import { spinLock, spinUnlock } from '../../sync/spinlock.js';
import { borrowContext } from './device-operations.js';
import { checkBalance } from './notifier-operations.js';
import type { Operation, Stage } from './stage.js';
import { ALL_PAGES, pageVa, PRIVATE_FILE, SHARED, World } from './world.js';

/** Ends the run if anything is wrong with the address space. */
function check(cpu: Cpu, stage: Stage): boolean {
  const { at, world, member } = stage;
  mmapWriteLock(cpu, at.mm);
  const found =
    lookAtVmas(cpu, at.mm) ??
    checkSubscriptions(cpu, at.mm) ??
    checkBalance(cpu, world, at.mm) ??
    checkDevices(cpu, stage);
  if (found !== undefined) {
    const rule = /^(INV-\d+): /.exec(found);
    member.fail(`mm ${at.mm}: ${found.slice(rule?.[0].length ?? 0)}`, rule?.[1]);
  }
  mmapWriteUnlock(cpu, at.mm);
  return true;
}

// --- VMAs and page table ---

interface Totals {
  pages: number;
  locked: number;
  frames: number;
}

/** For how long something must be wrong. Unit: milliseconds. */
const WRONG_MS = 500;

/** As checkVmas. Reclaim needs no mmap lock: what it is in the midst of is not wrong for long. */
function lookAtVmas(cpu: Cpu, mm: MmStruct): string | undefined {
  let found = checkVmas(cpu, mm);
  const end = found === undefined ? 0 : clockMs(cpu) + WRONG_MS;
  while (found !== undefined && reclaims(cpu) && clockMs(cpu) < end) {
    scheduleTimeoutUninterruptible(cpu, 1);
    found = checkVmas(cpu, mm);
  }
  return found;
}

function checkVmas(cpu: Cpu, mm: MmStruct): string | undefined {
  vmaTreeCheck(cpu, memberOf(mm, MmStruct.vmas));
  const totals: Totals = { pages: 0, locked: 0, frames: 0 };
  let end = 0;
  let found: string | undefined;
  let vma = vmaTreeFirst(cpu, memberOf(mm, MmStruct.vmas));
  for (; vma !== NULL && found === undefined; vma = read(cpu, vma, VmAreaStruct.next)) {
    const pages = (vmaEnd(cpu, vma) - vmaStart(cpu, vma)) / PAGE_SIZE;
    totals.pages += pages;
    if ((vmaFlags(cpu, vma) & VM_LOCKED) !== 0) totals.locked += pages;
    found =
      checkEntries(cpu, mm, NULL, end, vmaStart(cpu, vma), totals) ??
      checkEntries(cpu, mm, vma, vmaStart(cpu, vma), vmaEnd(cpu, vma), totals);
    end = vmaEnd(cpu, vma);
  }
  found ??= checkEntries(cpu, mm, NULL, end, VA_MAX / 2 ** 16, totals);
  return found ?? checkTotals(cpu, mm, totals);
}

function checkTotals(cpu: Cpu, mm: MmStruct, totals: Totals): string | undefined {
  const { pages, locked, frames } = totals;
  const totalVm = readAddress(cpu, mm, MmStruct.totalVm);
  if (totalVm !== pages) return `total_vm is ${totalVm} of ${pages} pages`;
  const lockedVm = readAddress(cpu, mm, MmStruct.lockedVm);
  if (lockedVm !== locked) return `locked_vm is ${lockedVm} of ${locked} pages`;
  const rss = readOnce(cpu, mm, MmStruct.rss);
  return rss === frames ? undefined : `rss is ${rss}, and ${frames} frames are mapped`;
}

/** The entries of [start, end): of one VMA, or where there is none. */
function checkEntries(
  cpu: Cpu,
  mm: MmStruct,
  vma: VmAreaStruct,
  start: Va,
  end: Va,
  totals: Totals,
): string | undefined {
  const pgd = read(cpu, mm, MmStruct.pgd);
  for (let va = nextPopulated(cpu, pgd, start, end); va < end;) {
    const next = pmdAddrEnd(va, end);
    const first = pteOf(cpu, pgd, va);
    for (let i = 0; i < (next - va) / PAGE_SIZE; i++) {
      const pte = (first + i * Pte.words) as Pte;
      const entry = readOnce(cpu, pte, Pte.entry);
      if (entry === 0) continue;
      const wrong = checkEntry(cpu, vma, pte, entry);
      if (wrong !== undefined) return `${wrong}, at ${(va + i * PAGE_SIZE).toString(16)}`;
      if (pteHasFrame(entry) && ptePfn(entry) !== ZERO_PFN) totals.frames++;
    }
    va = nextPopulated(cpu, pgd, next, end);
  }
  return undefined;
}

function checkEntry(cpu: Cpu, vma: VmAreaStruct, pte: Pte, entry: number): string | undefined {
  const pfn = ptePfn(entry);
  if (vma === NULL) return `INV-11: frame or slot ${pfn} is mapped where no VMA is`;
  if (!pteHasFrame(entry)) {
    return pteIsSwap(entry) ? undefined : 'an entry without a frame is not empty';
  }
  const generation = readOnce(cpu, pageOf(cpu, pfn), Page.generation);
  if (readOnce(cpu, pte, Pte.generation) !== generation) {
    return `INV-27: frame ${pfn} was freed while it was mapped`;
  }
  const flags = vmaFlags(cpu, vma);
  if ((entry & PTE_PRESENT) !== 0 && (flags & VM_ACCESS_FLAGS) === 0) {
    return `frame ${pfn} may be used in a VMA without rights`;
  }
  if (pfn !== ZERO_PFN) {
    const mapcount = pageMapcount(cpu, pfn);
    if (mapcount < 1 || pageRefcount(cpu, pfn) < 1)
      return `frame ${pfn} is mapped, and has no count`;
  }
  return (entry & PTE_WRITE) === 0 ? undefined : checkWritable(cpu, flags, pfn);
}

function checkWritable(cpu: Cpu, flags: number, pfn: number): string | undefined {
  if ((flags & VM_WRITE) === 0) return `frame ${pfn} is writable in a VMA that is not`;
  if ((flags & VM_SHARED) !== 0) return undefined;
  if (pfn === ZERO_PFN) return 'the zero page is writable';
  if (pageHasFlag(cpu, pfn, PG_ANON_EXCLUSIVE)) return undefined;
  return `frame ${pfn} is private and writable, and not this VMA's own`;
}

// --- notifiers ---

function checkSubscriptions(cpu: Cpu, mm: MmStruct): string | undefined {
  const subscriptions = read(cpu, mm, MmStruct.subscriptions);
  if (subscriptions === NULL) return undefined;
  const lock = memberOf(subscriptions, MmuNotifierSubscriptions.lock);
  spinLock(cpu, lock);
  const seq = read(cpu, subscriptions, MmuNotifierSubscriptions.invalidateSeq);
  const active = read(cpu, subscriptions, MmuNotifierSubscriptions.activeInvalidateRanges);
  spinUnlock(cpu, lock);
  if ((seq & 1) !== 0 && active === 0) return 'INV-16: the sequence is odd, and nobody invalidates';
  if (reclaims(cpu)) return undefined; // which needs no mmap lock to invalidate
  return active === 0 ? undefined : `INV-21: ${active} invalidations are open at rest`;
}

// --- devices ---

function checkDevices(cpu: Cpu, { world, member, at }: Stage): string | undefined {
  for (let id = 0; id < read(cpu, world, World.devices); id++) {
    const way = borrowContext(cpu, world, member, id, at.index);
    if (way === undefined) continue;
    const found = way.mm === at.mm ? checkContext(cpu, at.mm, way.context) : undefined;
    putContext(cpu, way.context);
    if (found !== undefined) return found;
  }
  return undefined;
}

function checkContext(cpu: Cpu, mm: MmStruct, context: SvmContext): string | undefined {
  const lock = memberOf(context, SvmContext.lock);
  let found: string | undefined;
  mutexLock(cpu, lock);
  for (let page = 0; page < ALL_PAGES.pages && found === undefined; page++) {
    found = checkDeviceEntry(cpu, mm, context, pageVa(page));
  }
  mutexUnlock(cpu, lock);
  return found;
}

function checkDeviceEntry(cpu: Cpu, mm: MmStruct, context: SvmContext, va: Va): string | undefined {
  const at = deviceEntry(cpu, context, pageHigh(va), pageLow(va)) as number as HmmPfn;
  const entry = at === (NO_PTE as number) ? 0 : readOnce(cpu, at, HmmPfn.entry);
  if ((entry & HMM_PFN_VALID) === 0) return undefined;
  const where = `a device maps frame ${entry >>> HMM_PFN_SHIFT} at ${va.toString(16)}`;
  const pte = pteOf(cpu, read(cpu, mm, MmStruct.pgd), va);
  const own = pte === NO_PTE ? 0 : readOnce(cpu, pte, Pte.entry);
  if ((own & PTE_PRESENT) === 0) return `INV-20: ${where}, where the CPUs have nothing`;
  if (ptePfn(own) !== entry >>> HMM_PFN_SHIFT) return `INV-20: ${where}, the CPUs ${ptePfn(own)}`;
  if (readOnce(cpu, pte, Pte.generation) !== readOnce(cpu, at, HmmPfn.generation)) {
    return `INV-27: ${where}, which was freed`;
  }
  const writes = (entry & HMM_PFN_WRITE) !== 0 && (own & PTE_WRITE) === 0;
  return writes ? `INV-20: ${where} writable, the CPUs do not` : undefined;
}

export const CHECK_OPERATIONS: readonly Operation[] = [{ name: 'check', run: check }];

// --- the end ---

/** No address space is left: the pages of the files are their caches' alone. */
export function checkFiles(cpu: Cpu, world: World): void {
  for (const [field, pages] of [
    [World.file, SHARED.pages],
    [World.privateFile, PRIVATE_FILE.pages],
  ] as const) {
    for (let index = 0; index < pages; index++) {
      const pfn = fileFindPage(cpu, read(cpu, world, field), index);
      if (pfn === 0) continue;
      const others = pageRefcount(cpu, pfn) - 2; // the cache's and ours
      if (others !== 0 || pageMapcount(cpu, pfn) !== 0) {
        bug(`page ${index} of a file has ${others} references that nobody holds`);
      }
      putPage(cpu, pfn);
    }
  }
}
