/**
 * LT-24: a device that walks the CPU's page table, and has a TLB of its own.
 *
 * Two pages, A and B, are shared with a child, so that a store copies each. One CPU stores into A; another, too,
 * and then into B. The device loads B, and then A through a translation that it had from the start. If it finds
 * the new B it must find the new A: the hook that drops its translation runs between the clearing and the setting
 * of the entry, so nobody has stored into the copy of A before.
 *
 * @module
 */
import { read, readOnce, readOnceCells, write } from '#memory';

import { bug } from '../../base/bug.js';
import { EFAULT } from '../../base/errno.js';
import type { Cpu } from '../../machine/cpu.js';
import { frameWord } from '../../machine/frame.js';
import { lockClass } from '../../machine/lock-class.js';
import { defineOps } from '../../machine/ops-table.js';
import { frameOf } from '../../machine/page-alloc.js';
import { kzalloc } from '../../machine/slab.js';
import {
  cacheline,
  containerOf,
  element,
  member,
  NULL,
  type Ptr,
  struct,
  type Va,
  word,
  words,
} from '../../memory/layout.js';
import { storeWord } from '../../mm/access.js';
import { dupMm } from '../../mm/fork.js';
import { pteOf } from '../../mm/page-table.js';
import { NO_PTE, Pte, PTE_PRESENT, ptePfn } from '../../mm/pte.js';
import { MmStruct } from '../../mm/types.js';
import type { MmuNotifierOps } from '../../notifier/mmu-notifier-list.js';
import { mmuNotifierRegister } from '../../notifier/mmu-notifier-register.js';
import { MmuNotifier } from '../../notifier/types.js';
import { initSpinlock, Spinlock, spinLock, spinUnlock } from '../../sync/spinlock.js';
import { defineProgram, type ExploreProgram, reach, task } from '../program.js';
import {
  attachAll,
  checkSpace,
  FILLED,
  fillPage,
  makeSpace,
  pageVa,
  resultOf,
  setResult,
  Space,
  SPACE_PAGES,
  SPACE_RAM_BYTES,
  spaceMirror,
  spaceMm,
} from './space.js';

const A = 0;
const B = 1;
const STORED = 11;
const WORD_BYTES = 4;
/** The device's task. */
const DEVICE = 2;

const Device = struct('secondary_device', {
  notifier: MmuNotifier,
  line1: cacheline,
  lock: Spinlock, // held for each access, so that who invalidates waits for it
  tlb: words(SPACE_PAGES), // page table entries; 0 = none; under lock
  space: word,
});
type Device = Ptr<'secondary_device'>;

const DEVICE_LOCK = lockClass('secondary tlb');

export const secondaryTlb: MmuNotifierOps = defineOps({
  opsName: 'secondary tlb',
  archInvalidateSecondaryTlbs(cpu: Cpu, notifier: MmuNotifier, _mm: MmStruct, start: Va, end: Va) {
    const device: Device = containerOf(notifier, Device.notifier);
    if (start === pageVa(A)) reach(cpu, 'device is told of A');
    spinLock(cpu, member(device, Device.lock));
    for (let page = 0; page < SPACE_PAGES; page++) {
      if (pageVa(page) < start || pageVa(page) >= end) continue;
      write(cpu, device, element(Device.tlb, page), 0);
    }
    spinUnlock(cpu, member(device, Device.lock));
  },
});

function setup(cpu: Cpu): number {
  const space = makeSpace(cpu);
  fillPage(cpu, space, A);
  fillPage(cpu, space, B);
  const mm = spaceMm(cpu, space);
  const child = dupMm(cpu, mm);
  if (child === NULL) bug('fork has no memory');
  attachAll(cpu, child);
  write(cpu, space, Space.child, child);
  const device = kzalloc(cpu, Device);
  initSpinlock(cpu, member(device, Device.lock), DEVICE_LOCK);
  write(cpu, device, Device.space, space);
  const error = mmuNotifierRegister(cpu, member(device, Device.notifier), mm, secondaryTlb);
  if (error !== 0) bug(`the notifier cannot be registered: ${error}`);
  if (deviceLoad(cpu, device, A) !== FILLED) bug('the device does not read what is there');
  return device;
}

const spaceOf = (cpu: Cpu, at: number): Space => read(cpu, at as Device, Device.space) as Space;

/** What the device reads: through its TLB, or the CPU's page table; -EFAULT if that has no entry now. */
function deviceLoad(cpu: Cpu, device: Device, page: number): number {
  const lock = member(device, Device.lock);
  const slot = element(Device.tlb, page);
  spinLock(cpu, lock);
  let entry = read(cpu, device, slot);
  if (entry === 0) {
    entry = walk(cpu, spaceMm(cpu, spaceOf(cpu, device)), page);
    write(cpu, device, slot, entry);
  }
  const value = entry === 0 ? -EFAULT : readOnce(cpu, frameOf(cpu, ptePfn(entry)), frameWord(0));
  spinUnlock(cpu, lock);
  return value;
}

function walk(cpu: Cpu, mm: MmStruct, page: number): number {
  const va = pageVa(page);
  const pte = pteOf(cpu, read(cpu, mm, MmStruct.pgd), va);
  if (pte === NO_PTE) return 0;
  const copy = cpu.scratch as Pte;
  readOnceCells(cpu, copy, pte, 1);
  const entry = read(cpu, copy, Pte.entry);
  return (entry & PTE_PRESENT) === 0 ? 0 : entry;
}

function store(cpu: Cpu, space: Space, va: Va): void {
  if (storeWord(cpu, spaceMm(cpu, space), va, STORED) !== 0) bug('a store has failed');
}

/** The word beside the one that the device reads. */
function storeBeside(cpu: Cpu, at: number): void {
  store(cpu, spaceOf(cpu, at), pageVa(A) + WORD_BYTES);
}

function storeBoth(cpu: Cpu, at: number): void {
  reach(cpu, 'both are to be stored');
  store(cpu, spaceOf(cpu, at), pageVa(A));
  store(cpu, spaceOf(cpu, at), pageVa(B));
  reach(cpu, 'both are stored');
}

function loadBoth(cpu: Cpu, at: number): void {
  const device = at as Device;
  reach(cpu, 'device comes');
  const b = deviceLoad(cpu, device, B);
  const a = deviceLoad(cpu, device, A);
  reach(cpu, 'device has loaded both');
  if (b === STORED && a === FILLED) bug('LT-24: a device reads a new page, and then an old one');
  setResult(cpu, spaceOf(cpu, at), b === STORED ? 1 : 0);
}

export const lt24: ExploreProgram = defineProgram({
  name: 'lt-24',
  title: 'two pages are copied while a device loads from both, one through its own TLB',
  tasks: [task('CPU', storeBeside), task('CPU of both', storeBoth), task('device', loadBoth)],
  ops: { secondaryTlb, spaceMirror },
  ramBytes: SPACE_RAM_BYTES,
  setup,
  check: (cpu, at) => checkSpace(cpu, spaceOf(cpu, at)),
  observe: (cpu, at) => (resultOf(cpu, spaceOf(cpu, at), DEVICE) === 1 ? 'new B' : 'old B'),
  outcomes: [
    { name: 'old B', grade: 'ACCEPTABLE', description: 'A may be either' },
    { name: 'new B', grade: 'ACCEPTABLE', description: 'and so A is new, or on its way' },
  ],
});
