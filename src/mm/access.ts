/**
 * Loads and stores of the program on a simulated CPU: TLB, page walk, page fault.
 *
 * Kernel     the hardware, and arch/x86/mm/fault.c (do_user_addr_fault)
 * Protocol   Inside an access (machine/tlb.ts): find the translation in the TLB, or walk the page table
 *            and set accessed and dirty bits as the hardware does; touch the frame; compare its
 *            generation. If there is no usable entry: leave the access, fault the page in, try again.
 * Invariant  I1  No access touches a frame that was freed after it was mapped (as INV-20 says of a device).
 * Ordering   No lock inside the access. A present entry's bits are set by compare-and-exchange: it may
 *            be taken away at the same moment.
 *
 * @module
 */
import { cmpxchg, exchange, read, readOnce, readOnceCells, write } from '#memory';

import { bug } from '../base/bug.js';
import { EFAULT, ENOMEM } from '../base/errno.js';
import { PAGE_SIZE, pageAlignDown, WORD_BYTES } from '../base/units.js';
import type { Cpu } from '../machine/cpu.js';
import { frameWord } from '../machine/frame.js';
import { frameOf, pageOf, ZERO_PFN } from '../machine/page-alloc.js';
import { tlbEnter, TlbEntry, tlbExit, tlbFill, tlbHit, tlbSlot } from '../machine/tlb.js';
import { Page } from '../machine/types.js';
import { member, NULL, type Va } from '../memory/layout.js';
import {
  FAULT_FLAG_WRITE,
  handleMmFault,
  VM_FAULT_ERROR,
  VM_FAULT_OOM,
  VM_FAULT_SIGBUS,
} from './fault.js';
import { mmapReadLock, mmapReadUnlock } from './mmap-lock.js';
import { pageHigh, pageLow, pteOffset } from './page-table.js';
import { NO_PTE, Pte, PTE_ACCESSED, PTE_DIRTY, PTE_PRESENT, PTE_WRITE, ptePfn } from './pte.js';
import { expandStack, mayGrowTo } from './stack.js';
import { MmStruct, VM_ACCESS_FLAGS, VM_WRITE, VmAreaStruct } from './types.js';
import { findVma, vmaLookup, vmaStart } from './vma.js';

/** Stores a word at `va`, 4-byte aligned: 0, -EFAULT (a signal) or -ENOMEM. No lock held. Sleeps. */
export function storeWord(cpu: Cpu, mm: MmStruct, va: Va, value: number): number {
  return access(cpu, mm, va, true, value);
}

/** Loads the word at `va` into `cpu.loaded`: 0, -EFAULT (a signal) or -ENOMEM. No lock held. Sleeps. */
export function loadWord(cpu: Cpu, mm: MmStruct, va: Va): number {
  return access(cpu, mm, va, false, 0);
}

function access(cpu: Cpu, mm: MmStruct, va: Va, isWrite: boolean, value: number): number {
  const offset = (va % PAGE_SIZE) / WORD_BYTES;
  for (;;) {
    if (tryAccess(cpu, mm, va, offset, isWrite, value)) return 0;
    const error = doUserAddrFault(cpu, mm, pageAlignDown(va), isWrite);
    if (error !== 0) return error;
  }
}

/** One try of the hardware; false if it must fault. */
function tryAccess(
  cpu: Cpu,
  mm: MmStruct,
  va: Va,
  offset: number,
  isWrite: boolean,
  value: number,
): boolean {
  const context = member(mm, MmStruct.tlb);
  const high = pageHigh(va);
  const low = pageLow(va);
  const generation = tlbEnter(cpu, context);
  const slot = tlbSlot(cpu, low);
  const needed = isWrite ? PTE_WRITE | PTE_DIRTY : 0;
  let usable =
    tlbHit(cpu, slot, context, generation, high, low) &&
    (read(cpu, slot, TlbEntry.pte) & needed) === needed;
  if (!usable && walk(cpu, mm, high, low, isWrite, slot)) {
    tlbFill(cpu, slot, context, generation, high, low);
    usable = true;
  }
  if (usable) touch(cpu, slot, offset, isWrite, value);
  tlbExit(cpu);
  return usable;
}

/** Reads or writes the frame of a translation, and checks that it is still the frame that was mapped (I1). */
function touch(cpu: Cpu, slot: TlbEntry, offset: number, isWrite: boolean, value: number): void {
  const pfn = ptePfn(read(cpu, slot, TlbEntry.pte));
  const frame = frameOf(cpu, pfn);
  if (isWrite)
    exchange(cpu, frame, frameWord(offset), value); // done before the look below
  else cpu.loaded = readOnce(cpu, frame, frameWord(offset));
  const generation = readOnce(cpu, pageOf(cpu, pfn), Page.generation);
  if (generation !== read(cpu, slot, TlbEntry.frameGeneration)) {
    bug(`cpu ${cpu.id} used a translation of frame ${pfn} that outlived it (I1)`);
  }
}

/** The hardware's page walk: fills in the entry part of the slot; false if there is no usable entry. */
function walk(
  cpu: Cpu,
  mm: MmStruct,
  high: number,
  low: number,
  isWrite: boolean,
  slot: TlbEntry,
): boolean {
  const pte = pteOffset(cpu, read(cpu, mm, MmStruct.pgd), high, low);
  if (pte === NO_PTE) return false;
  const copy = cpu.scratch as Pte;
  const bits = PTE_ACCESSED | (isWrite ? PTE_DIRTY : 0);
  const needed = PTE_PRESENT | (isWrite ? PTE_WRITE : 0);
  for (;;) {
    readOnceCells(cpu, copy, pte, 1);
    const entry = read(cpu, copy, Pte.entry);
    if ((entry & needed) !== needed) return false;
    if ((entry & bits) !== bits && cmpxchg(cpu, pte, Pte.entry, entry, entry | bits) !== entry)
      continue;
    if (isWrite && ptePfn(entry) === ZERO_PFN) bug('the zero page is mapped writable');
    write(cpu, slot, TlbEntry.pte, entry | bits);
    write(cpu, slot, TlbEntry.frameGeneration, read(cpu, copy, Pte.generation));
    return true;
  }
}

/**
 * The VMA of an address, a stack made to reach it if need be, or NULL; the mmap lock is held for reading then in any
 * case. Sleeps. @kernel lock_mm_and_find_vma
 */
function lockMmAndFindVma(cpu: Cpu, mm: MmStruct, va: Va): VmAreaStruct {
  mmapReadLock(cpu, mm);
  const vma = findVma(cpu, mm, va);
  if (vma === NULL || vmaStart(cpu, vma) <= va) return vma;
  if (!mayGrowTo(cpu, vma, va)) return NULL;
  mmapReadUnlock(cpu, mm);
  expandStack(cpu, mm, va);
  mmapReadLock(cpu, mm);
  return vmaLookup(cpu, mm, va);
}

/** A page fault of the program: 0 if the access can be tried again. @kernel do_user_addr_fault */
function doUserAddrFault(cpu: Cpu, mm: MmStruct, va: Va, isWrite: boolean): number {
  const vma = lockMmAndFindVma(cpu, mm, va);
  const allowed = isWrite ? VM_WRITE : VM_ACCESS_FLAGS;
  let error = 0;
  if (vma === NULL || (read(cpu, vma, VmAreaStruct.flags) & allowed) === 0) {
    error = -EFAULT;
    cpu.faultIsBus = false;
  } else {
    const fault = handleMmFault(cpu, vma, va, isWrite ? FAULT_FLAG_WRITE : 0);
    if ((fault & VM_FAULT_OOM) !== 0) error = -ENOMEM;
    else if ((fault & VM_FAULT_ERROR) !== 0) error = -EFAULT;
    cpu.faultIsBus = (fault & VM_FAULT_SIGBUS) !== 0;
  }
  mmapReadUnlock(cpu, mm);
  return error;
}
