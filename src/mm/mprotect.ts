/**
 * mprotect: other access rights for a range of addresses.
 *
 * Kernel     mm/mprotect.c
 * Protocol   For each VMA: merge or split; set its flags; then, if any page table exists there, tell the
 *            notifiers PROTECTION_VMA, change the entries, tell them it is over. TLBs are flushed once,
 *            at the end of the call, with the mmap lock still held.
 * Invariant  I1  An entry never gives a right that its VMA does not.
 * Ordering   The mmap lock is held for writing; the table's lock protects the entries. What the hardware
 *            sets in them meanwhile is not lost.
 *
 * @module
 */
import { read, write } from '#memory';

import { EACCES, EINVAL, ENOMEM } from '../base/errno.js';
import { isPageAligned, PAGE_SIZE, pageAlignUp } from '../base/units.js';
import type { Cpu } from '../machine/cpu.js';
import { PG_ANON } from '../machine/page-alloc.js';
import { stackPop, stackPush } from '../machine/stack.js';
import { NULL, type Va } from '../memory/layout.js';
import {
  mmuNotifierInvalidateRangeEnd,
  mmuNotifierInvalidateRangeStart,
} from '../notifier/mmu-notifier.js';
import { MMU_NOTIFY_PROTECTION_VMA, mmuNotifierRangeInit } from '../notifier/mmu-notifier-range.js';
import { MmuNotifierRange } from '../notifier/types.js';
import { spinLock, spinUnlock } from '../sync/spinlock.js';
import { mayMapWritable } from './fault.js';
import { vmProtFlags } from './mmap.js';
import { mmapWriteLock, mmapWriteUnlock } from './mmap-lock.js';
import { type MmuGather, tlbFinishMmu, tlbGatherMmu, tlbMarkChanged } from './mmu-gather.js';
import { pageHasFlag } from './page.js';
import {
  hasPmdTable,
  nextPopulated,
  PGDIR_SIZE,
  pmdAddrEnd,
  pteLockptr,
  pteOf,
  PUD_SIZE,
} from './page-table.js';
import { populateLocked } from './populate.js';
import {
  Pte,
  PTE_PRESENT,
  PTE_PROTNONE,
  PTE_SOFT_DIRTY,
  PTE_SWP_EXCLUSIVE,
  PTE_WRITE,
  pteGet,
  pteHasFrame,
  pteIsDevicePrivate,
  pteIsMigration,
  ptePfn,
  pteUpdateFlags,
  setSpecialPte,
} from './pte.js';
import {
  MmStruct,
  VM_ACCESS_FLAGS,
  VM_ACCOUNT,
  VM_GROWSDOWN,
  VM_HUGETLB,
  VM_LOCKED,
  VM_NORESERVE,
  VM_SHARED,
  VM_WRITE,
  VmAreaStruct,
} from './types.js';
import {
  PROT_EXEC,
  PROT_GROWSDOWN,
  PROT_GROWSUP,
  PROT_READ,
  PROT_SEM,
  PROT_WRITE,
} from './uapi.js';
import { findVma, vmaEnd, vmaModify, vmaStart } from './vma.js';
import { vmaPteFlags } from './vma-pte.js';

/** VM_MAYREAD is VM_READ shifted by this, and so on. */
const MAY_SHIFT = 4;
const PROT_KNOWN = PROT_READ | PROT_WRITE | PROT_EXEC | PROT_SEM;

/**
 * The system call: 0, -EINVAL, -ENOMEM (a hole, or memory is out; what came before is changed), -EACCES.
 * No lock held. Sleeps. @kernel sys_mprotect
 */
export function mprotect(cpu: Cpu, mm: MmStruct, start: Va, length: number, prot: number): number {
  const grows = prot & (PROT_GROWSDOWN | PROT_GROWSUP);
  if (grows === (PROT_GROWSDOWN | PROT_GROWSUP) || !isPageAligned(start)) return -EINVAL;
  if (length === 0) return 0;
  const end = start + pageAlignUp(length);
  if (end > 2 ** 64) return -ENOMEM;
  if ((prot & ~grows & ~PROT_KNOWN) !== 0) return -EINVAL;
  mmapWriteLock(cpu, mm);
  const gather = tlbGatherMmu(cpu, mm);
  const error = mprotectLocked(cpu, gather, mm, start, end, prot);
  tlbFinishMmu(cpu, gather);
  mmapWriteUnlock(cpu, mm);
  return error;
}

/** @kernel do_mprotect_pkey */
function mprotectLocked(
  cpu: Cpu,
  gather: MmuGather,
  mm: MmStruct,
  start: Va,
  end: Va,
  prot: number,
): number {
  let at = start;
  const first = findVma(cpu, mm, start);
  if (first === NULL) return -ENOMEM;
  if ((prot & PROT_GROWSDOWN) !== 0) {
    if (vmaStart(cpu, first) >= end) return -ENOMEM;
    if ((read(cpu, first, VmAreaStruct.flags) & VM_GROWSDOWN) === 0) return -EINVAL;
    at = vmaStart(cpu, first);
  } else if ((prot & PROT_GROWSUP) !== 0 && vmaStart(cpu, first) <= start) {
    return -EINVAL; // nothing grows upwards
  }
  while (at < end) {
    const vma = findVma(cpu, mm, at);
    if (vma === NULL || vmaStart(cpu, vma) > at) return -ENOMEM;
    const flags = read(cpu, vma, VmAreaStruct.flags);
    const newFlags = (flags & ~VM_ACCESS_FLAGS) | vmProtFlags(prot);
    if ((newFlags & ~(newFlags >> MAY_SHIFT) & VM_ACCESS_FLAGS) !== 0) return -EACCES;
    const to = Math.min(vmaEnd(cpu, vma), end);
    const error = mprotectFixup(cpu, gather, vma, at, to, newFlags);
    if (error !== 0) return error;
    at = to;
  }
  return 0;
}

/** @kernel mprotect_fixup */
function mprotectFixup(
  cpu: Cpu,
  gather: MmuGather,
  vma: VmAreaStruct,
  start: Va,
  end: Va,
  wantedFlags: number,
): number {
  const oldFlags = read(cpu, vma, VmAreaStruct.flags);
  if (wantedFlags === oldFlags) return 0;
  const newFlags = accountedFlags(cpu, vma, oldFlags, wantedFlags);
  const changed = vmaModify(cpu, vma, start, end, newFlags);
  if (changed === NULL) return -ENOMEM;
  write(cpu, changed, VmAreaStruct.flags, newFlags);
  changeProtection(cpu, gather, changed, start, end);
  const gainsWrite = (oldFlags & (VM_WRITE | VM_SHARED | VM_LOCKED)) === VM_LOCKED;
  if (gainsWrite && (newFlags & VM_WRITE) !== 0) populateLocked(cpu, changed, start, end);
  return 0;
}

/**
 * Memory is accounted for from when it can first be written privately; it stays so, unless nobody has
 * written it by the time it loses the right.
 */
function accountedFlags(cpu: Cpu, vma: VmAreaStruct, oldFlags: number, newFlags: number): number {
  if ((newFlags & VM_WRITE) !== 0) {
    const settled = VM_ACCOUNT | VM_WRITE | VM_HUGETLB | VM_SHARED | VM_NORESERVE;
    return (oldFlags & settled) === 0 ? newFlags | VM_ACCOUNT : newFlags;
  }
  const isAnonymous = read(cpu, vma, VmAreaStruct.file) === NULL;
  const isUntouched = isAnonymous && read(cpu, vma, VmAreaStruct.anonVma) === 0;
  return isUntouched ? newFlags & ~VM_ACCOUNT : newFlags;
}

/**
 * Fits the entries of [start, end) to the flags of their VMA. The notifiers hear of it from the first
 * part that has page tables up to the end of what one entry of the top table maps, once for each such
 * entry; not at all where there are none. @kernel change_protection
 */
function changeProtection(
  cpu: Cpu,
  gather: MmuGather,
  vma: VmAreaStruct,
  start: Va,
  end: Va,
): void {
  const mm = read(cpu, vma, VmAreaStruct.mm);
  const pgd = read(cpu, mm, MmStruct.pgd);
  for (let va = start; va < end;) {
    const top = Math.min((Math.floor(va / PGDIR_SIZE) + 1) * PGDIR_SIZE, end);
    const from = firstWithPmdTable(cpu, pgd, va, top);
    if (from < top) changeProtectionNotified(cpu, gather, vma, from, top);
    va = top;
  }
}

/** The first address of [va, end) that has a table of the second-last level, or `end`. */
function firstWithPmdTable(cpu: Cpu, pgd: number, va: Va, end: Va): Va {
  let at = va;
  while (at < end && !hasPmdTable(cpu, pgd, at)) at = (Math.floor(at / PUD_SIZE) + 1) * PUD_SIZE;
  return Math.min(at, end);
}

function changeProtectionNotified(
  cpu: Cpu,
  gather: MmuGather,
  vma: VmAreaStruct,
  start: Va,
  end: Va,
): void {
  const mm = read(cpu, vma, VmAreaStruct.mm);
  const pgd = read(cpu, mm, MmStruct.pgd);
  const vmFlags = read(cpu, vma, VmAreaStruct.flags);
  const range = stackPush(cpu, MmuNotifierRange);
  mmuNotifierRangeInit(cpu, range, MMU_NOTIFY_PROTECTION_VMA, mm, start, end);
  mmuNotifierInvalidateRangeStart(cpu, range);
  let va = nextPopulated(cpu, pgd, start, end);
  while (va < end) {
    const next = pmdAddrEnd(va, end);
    changePteTable(cpu, pteOf(cpu, pgd, va), (next - va) / PAGE_SIZE, vmFlags);
    va = nextPopulated(cpu, pgd, next, end);
  }
  tlbMarkChanged(cpu, gather);
  mmuNotifierInvalidateRangeEnd(cpu, range);
  stackPop(cpu, range);
}

/**
 * A page that CPUs cannot use is not to be written when they can again, unless it is found out then that it may be.
 * Nobody knows any more whether one that a device has was written.
 */
function withoutWrite(cpu: Cpu, entry: number): number {
  if (pteIsDevicePrivate(entry)) return entry & ~(PTE_WRITE | PTE_SOFT_DIRTY);
  const isOwn = pteIsMigration(entry) && pageHasFlag(cpu, ptePfn(entry), PG_ANON);
  return (entry & ~PTE_WRITE) | (isOwn ? PTE_SWP_EXCLUSIVE : 0);
}

/** @kernel change_pte_range */
function changePteTable(cpu: Cpu, first: Pte, count: number, vmFlags: number): void {
  const ptl = pteLockptr(cpu, first);
  spinLock(cpu, ptl);
  for (let i = 0; i < count; i++) {
    const pte = (first + i * Pte.words) as Pte;
    const entry = pteGet(cpu, pte);
    if (!pteHasFrame(entry)) {
      if ((entry & PTE_WRITE) !== 0) setSpecialPte(cpu, pte, withoutWrite(cpu, entry));
      continue;
    }
    const writable = mayMapWritable(cpu, vmFlags, entry) ? PTE_WRITE : 0;
    pteUpdateFlags(
      cpu,
      pte,
      PTE_PRESENT | PTE_PROTNONE | PTE_WRITE,
      vmaPteFlags(vmFlags) | writable,
    );
  }
  spinUnlock(cpu, ptl);
}
