/**
 * The life of the mm_struct itself, as opposed to that of its address space.
 *
 * Kernel     include/linux/sched/mm.h, kernel/fork.c (__mmdrop)
 * Protocol   `count` holds one reference for all users of the address space together, and one for each
 *            that only needs the struct to stay: every notifier does, of an interval or of the whole mm.
 *            It stands in this layer because subscriptions pin the mm without being able to use its memory.
 * Invariant  I1  The struct is freed when `count` reaches 0, and then no subscription exists (INV-13).
 *
 * @module
 */
import { fetchAdd, read } from '#memory';

import { bug } from '../base/bug.js';
import type { Cpu } from '../machine/cpu.js';
import { freePage, pfnOfWord } from '../machine/page-alloc.js';
import { kfree } from '../machine/slab.js';
import { hlistEmpty } from '../memory/hlist.js';
import { member, NULL } from '../memory/layout.js';
import { listEmpty } from '../memory/list.js';
import { MmStruct } from '../mm/types.js';
import { IntervalTreeRoot } from './interval-tree.js';
import { MmuNotifierSubscriptions } from './types.js';

/** Keeps the struct. @kernel mmgrab */
export function mmgrab(cpu: Cpu, mm: MmStruct): void {
  fetchAdd(cpu, mm, MmStruct.count, 1);
}

/** Lets the struct go; the last frees it. @kernel mmdrop */
export function mmdrop(cpu: Cpu, mm: MmStruct): void {
  const before = fetchAdd(cpu, mm, MmStruct.count, -1);
  if (before <= 0) bug(`mm ${mm}: mm_count underflow`);
  if (before === 1) mmdropLast(cpu, mm);
}

/** @kernel __mmdrop */
function mmdropLast(cpu: Cpu, mm: MmStruct): void {
  freePage(cpu, pfnOfWord(cpu, read(cpu, mm, MmStruct.pgd)));
  const subscriptions = read(cpu, mm, MmStruct.subscriptions);
  if (subscriptions !== NULL) destroySubscriptions(cpu, subscriptions);
  kfree(cpu, MmStruct, mm);
}

/** @kernel mmu_notifier_subscriptions_destroy */
function destroySubscriptions(cpu: Cpu, subscriptions: MmuNotifierSubscriptions): void {
  const itree = member(subscriptions, MmuNotifierSubscriptions.itree);
  const isTreeEmpty = read(cpu, itree, IntervalTreeRoot.root) === NULL;
  const deferred = member(subscriptions, MmuNotifierSubscriptions.deferred);
  if (!isTreeEmpty || !listEmpty(cpu, deferred)) {
    bug('an mm is freed while an interval notifier is registered (INV-13)');
  }
  if (!hlistEmpty(cpu, member(subscriptions, MmuNotifierSubscriptions.list))) {
    bug('an mm is freed while a notifier is registered (INV-13)');
  }
  kfree(cpu, MmuNotifierSubscriptions, subscriptions);
}
