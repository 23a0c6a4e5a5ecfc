/**
 * Programs that use and change one address space on all CPUs at once, each finding its own words as it
 * left them.
 *
 * Word `cpu.id` of every page is one CPU's alone. What it stored there it must find again, unless the page
 * was thrown away meanwhile: then it finds 0, and from then on 0 until it stores again. Whatever else it
 * finds is a bug, and stops the machine.
 *
 * A program goes on until all that should be able to happen has happened as often as the test wants.
 *
 * @module
 */
import {
  fetchAdd,
  park,
  read,
  readAddress,
  readOnce,
  readOnceCells,
  unpark,
  write,
  writeOnce,
} from '#memory';

import { bug } from '../../src/base/bug.js';
import { EFAULT, errnoName } from '../../src/base/errno.js';
import { PAGE_SIZE } from '../../src/base/units.js';
import type { Cpu } from '../../src/machine/cpu.js';
import { lockClass } from '../../src/machine/lock-class.js';
import { defineOps } from '../../src/machine/ops-table.js';
import { pageOf } from '../../src/machine/page-alloc.js';
import { cpuRelax } from '../../src/machine/sched.js';
import { kzalloc } from '../../src/machine/slab.js';
import { stackPop, stackPush } from '../../src/machine/stack.js';
import { MACHINE, Machine, Page, Spinlock } from '../../src/machine/types.js';
import {
  cacheline,
  element,
  member,
  NULL,
  pointer,
  type Ptr,
  struct,
  type Va,
  word,
  words,
} from '../../src/memory/layout.js';
import { loadWord, storeWord } from '../../src/mm/access.js';
import { bootMm } from '../../src/mm/boot.js';
import { mmput } from '../../src/mm/exit.js';
import { dupMm } from '../../src/mm/fork.js';
import { madvise } from '../../src/mm/madvise.js';
import { mmAlloc, useMm } from '../../src/mm/mm-struct.js';
import { mmap } from '../../src/mm/mmap.js';
import { mmapReadLock, mmapReadUnlock } from '../../src/mm/mmap-lock.js';
import { mprotect } from '../../src/mm/mprotect.js';
import { mremap } from '../../src/mm/mremap.js';
import { munmap } from '../../src/mm/munmap.js';
import { changeProtNuma } from '../../src/mm/numa-hint.js';
import { PGDIR_SIZE, pteOf } from '../../src/mm/page-table.js';
import { NO_PTE, Pte, PTE_DIRTY, PTE_PRESENT, PTE_WRITE, ptePfn } from '../../src/mm/pte.js';
import { MmStruct } from '../../src/mm/types.js';
import * as uapi from '../../src/mm/uapi.js';
import {
  mmuIntervalNotifierInsert,
  mmuIntervalReadBegin,
  mmuIntervalReadRetry,
  mmuIntervalSetSeq,
} from '../../src/notifier/mmu-interval-notifier.js';
import {
  MMU_NOTIFY_PROTECTION_VMA,
  mmuNotifierRangeInit,
} from '../../src/notifier/mmu-notifier-range.js';
import { MmuIntervalNotifier, MmuNotifierRange } from '../../src/notifier/types.js';
import { initSpinlock, spinLock, spinUnlock } from '../../src/sync/spinlock.js';
import { seeded } from './page-alloc.js';

/** Things that happen, each counted, so that a test can tell that they did. */
export const HAPPENED = [
  'refused', // a store or load in a place without the right, or unmapped
  'lost', // a word that was stored had been thrown away
  'held', // a page that others write stayed as it was while they could not
  'moved',
  'forked',
  'diverged', // a parent wrote on while its child was looked at
  'hinted',
  'mirrored', // the device used a page
  'collided', // the device read a page while it was changing, and had to read it again
  'revoked', // the device was told to let go of a page it used
  'together', // several CPUs found the same page missing
] as const;
export type Happened = (typeof HAPPENED)[number];

const MIRRORED_PAGES = 32;

export const MmArena = struct('mm_arena', {
  mm: pointer<'mm_struct'>(),
  interval: pointer<'mmu_interval_notifier'>(), // the device's; NULL = none
  done: word, // everything has happened often enough
  line1: cacheline,
  counts: words(HAPPENED.length),
  line2: cacheline,
  wanted: words(HAPPENED.length), // how often each must happen
  line3: cacheline,
  mirrorLock: Spinlock, // the device's page table
  mirror: words(2 * MIRRORED_PAGES), // for each page the entry it was made from, or 0; and its generation
  line4: cacheline,
  arrived: word, // at meetings of touchTogether, all of them counted
  missed: word, // CPUs that found the page of this round missing
});
export type MmArena = Ptr<'mm_arena'>;

/** Page 0; the border between two entries of the top table lies at page 4. */
const ORIGIN: Va = 3 * PGDIR_SIZE - 4 * PAGE_SIZE;
/** Pages that stay, with rights that change. */
const STABLE = { first: 0, pages: 6 };
/** Pages that are now here, now AWAY pages further on. */
const MOVED = { first: 8, pages: 2 };
const AWAY = 16;
/** Pages that come and go. */
const VOLATILE = { first: 12, pages: 4 };
const FIXED = uapi.MAP_PRIVATE | uapi.MAP_ANONYMOUS | uapi.MAP_FIXED;
const RW = uapi.PROT_READ | uapi.PROT_WRITE;
const ROUNDS_MAX = 2_000_000;

function at(page: number): Va {
  return ORIGIN + page * PAGE_SIZE;
}

/** Makes the address space and says what must happen before the programs may end. */
export function initMmArena(
  cpu: Cpu,
  arena: MmArena,
  wanted: Partial<Record<Happened, number>>,
): void {
  bootMm(cpu);
  const mm = mmAlloc(cpu);
  useMm(cpu, mm);
  write(cpu, arena, MmArena.mm, mm);
  for (const { first, pages } of [STABLE, MOVED, VOLATILE]) {
    if (mmap(cpu, mm, at(first), pages * PAGE_SIZE, RW, FIXED, NULL, 0) < 0) bug('no memory');
  }
  for (const [name, count] of Object.entries(wanted)) {
    write(cpu, arena, element(MmArena.wanted, HAPPENED.indexOf(name as Happened)), count);
  }
  initSpinlock(cpu, member(arena, MmArena.mirrorLock), lockClass('mirror lock'));
}

/** Lets a device mirror the pages. The ops of this module must have been registered. */
export function addMirror(cpu: Cpu, arena: MmArena): void {
  const interval = kzalloc(cpu, MmuIntervalNotifier);
  const mm = read(cpu, arena, MmArena.mm);
  const bytes = MIRRORED_PAGES * PAGE_SIZE;
  write(cpu, arena, MmArena.interval, interval);
  write(cpu, interval, MmuIntervalNotifier.privateData, arena);
  if (mmuIntervalNotifierInsert(cpu, interval, mm, ORIGIN, bytes, mirrorOps) !== 0) bug('insert');
}

function note(cpu: Cpu, arena: MmArena, what: Happened): void {
  fetchAdd(cpu, arena, element(MmArena.counts, HAPPENED.indexOf(what)), 1);
}

/** How often something happened. */
export function countOf(cpu: Cpu, arena: MmArena, what: Happened): number {
  return readOnce(cpu, arena, element(MmArena.counts, HAPPENED.indexOf(what)));
}

/** True until everything has happened, or the bound is reached, at which the test finds what has not. */
function goesOn(cpu: Cpu, arena: MmArena, round: number): boolean {
  if (readOnce(cpu, arena, MmArena.done) !== 0 || round === ROUNDS_MAX) return false;
  if (round % 32 !== 0) return true;
  for (let i = 0; i < HAPPENED.length; i++) {
    const wanted = read(cpu, arena, element(MmArena.wanted, i));
    if (readOnce(cpu, arena, element(MmArena.counts, i)) < wanted) return true;
  }
  writeOnce(cpu, arena, MmArena.done, 1);
  return false;
}

function enter(cpu: Cpu, arena: MmArena): MmStruct {
  const mm = read(cpu, arena, MmArena.mm);
  useMm(cpu, mm);
  return mm;
}

function pause(cpu: Cpu, spins: number): void {
  for (let i = 0; i < spins; i++) cpuRelax(cpu, i);
}

/** The address of a CPU's word of a page. */
function ownWord(cpu: Cpu, page: number): Va {
  return at(page) + 4 * cpu.id;
}

/** 0 if a call did what it should; anything else is a bug. */
function mustBe(cpu: Cpu, what: string, result: number, expected: number): void {
  if (result === expected) return;
  bug(`cpu ${cpu.id}: ${what} is ${errnoName(result)}, not ${errnoName(expected)}`);
}

/** A store or load that may be refused; true if it was not. */
function wasAllowed(cpu: Cpu, arena: MmArena, what: string, error: number): boolean {
  if (error === 0) return true;
  mustBe(cpu, what, error, -EFAULT);
  note(cpu, arena, 'refused');
  return false;
}

// --- those who use the memory ---

/** Stores into pages of all kinds and looks for what it stored. */
export function writer(cpu: Cpu, arena: MmArena): void {
  const mm = enter(cpu, arena);
  const random = seeded(cpu.id);
  const kept = new Map<number, number>();
  for (let i = 1; goesOn(cpu, arena, i); i++) {
    const area = [STABLE, MOVED, VOLATILE][random(3)]!;
    const page = area.first + random(area.pages);
    const place = area === MOVED && random(2) === 0 ? page + AWAY : page;
    if (random(4) !== 0) {
      const stored = storeWord(cpu, mm, ownWord(cpu, place), i);
      if (wasAllowed(cpu, arena, 'store', stored)) {
        kept.set(page, i);
        if (area === STABLE) assertDirty(cpu, mm, page);
      }
    }
    const loaded = loadWord(cpu, mm, ownWord(cpu, place));
    if (!wasAllowed(cpu, arena, 'load', loaded)) continue;
    const expected = kept.get(page) ?? 0;
    if (cpu.loaded === expected) continue;
    if (area !== VOLATILE || cpu.loaded !== 0) {
      bug(`cpu ${cpu.id}: page ${place} holds ${cpu.loaded}, not ${expected}`);
    }
    note(cpu, arena, 'lost');
    kept.set(page, 0);
  }
}

/** The entry of a page that was written says so: nobody here cleans pages. It may be in somebody's hands. */
function assertDirty(cpu: Cpu, mm: MmStruct, page: number): void {
  const pte = pteOf(cpu, read(cpu, mm, MmStruct.pgd), at(page));
  const entry = readOnce(cpu, pte, Pte.entry);
  if (entry !== 0 && (entry & PTE_DIRTY) === 0) bug(`page ${page} was written and is not dirty`);
}

/** As writer, in pages that stay and can be used all the time. */
export function steadyWriter(cpu: Cpu, arena: MmArena): void {
  const mm = enter(cpu, arena);
  for (let i = 1; goesOn(cpu, arena, i); i++) {
    // an order that a child must see: page 0 is never behind page 5, nor ahead by more than one
    for (const page of [0, 5]) {
      mustBe(cpu, 'store', storeWord(cpu, mm, ownWord(cpu, page), i), 0);
      mustBe(cpu, 'load', loadWord(cpu, mm, ownWord(cpu, page)), 0);
      if (cpu.loaded !== i) bug(`cpu ${cpu.id}: page ${page} holds ${cpu.loaded}, not ${i}`);
    }
  }
}

// --- those who change it ---

/** Unmaps and maps pages that come and go. */
export function unmapper(cpu: Cpu, arena: MmArena): void {
  const mm = enter(cpu, arena);
  const random = seeded(cpu.id);
  for (let i = 1; goesOn(cpu, arena, i); i++) {
    const page = VOLATILE.first + random(VOLATILE.pages);
    const bytes = (1 + random(VOLATILE.first + VOLATILE.pages - page)) * PAGE_SIZE;
    mustBe(cpu, 'munmap', munmap(cpu, mm, at(page), bytes), 0);
    pause(cpu, random(20));
    mustBe(cpu, 'mmap', mmap(cpu, mm, at(page), bytes, RW, FIXED, NULL, 0), at(page));
    pause(cpu, random(50));
  }
}

/** Throws pages away, and what it had stored there is gone when the call returns. */
export function discarder(cpu: Cpu, arena: MmArena): void {
  const mm = enter(cpu, arena);
  const random = seeded(cpu.id);
  for (let i = 1; goesOn(cpu, arena, i); i++) {
    const page = VOLATILE.first + random(VOLATILE.pages);
    const va = ownWord(cpu, page);
    wasAllowed(cpu, arena, 'store', storeWord(cpu, mm, va, i));
    const discarded = madvise(cpu, mm, at(page), PAGE_SIZE, uapi.MADV_DONTNEED) === 0;
    if (!discarded) continue; // somebody is about to unmap the page
    if (!wasAllowed(cpu, arena, 'load', loadWord(cpu, mm, va))) continue;
    if (cpu.loaded !== 0) bug(`cpu ${cpu.id}: page ${page} holds ${cpu.loaded} after DONTNEED`);
  }
}

/** The words of all CPUs in a page, as one number that changes when one of them does. */
function digest(cpu: Cpu, mm: MmStruct, page: number): number {
  const cpus = read(cpu, MACHINE, Machine.cpus);
  let sum = 0;
  for (let id = 0; id < cpus; id++) {
    mustBe(cpu, 'load', loadWord(cpu, mm, at(page) + 4 * id), 0);
    sum = (Math.imul(sum, 31) + cpu.loaded) | 0;
  }
  return sum;
}

/** Takes rights of pages that stay away, and gives them back. While nobody may write, nobody does. */
export function protecter(cpu: Cpu, arena: MmArena): void {
  const mm = enter(cpu, arena);
  const random = seeded(cpu.id);
  const before = new Map<number, number>();
  for (let i = 1; goesOn(cpu, arena, i); i++) {
    const first = STABLE.first + random(STABLE.pages);
    const bytes = (1 + random(STABLE.first + STABLE.pages - first)) * PAGE_SIZE;
    mustBe(cpu, 'mprotect', mprotect(cpu, mm, at(first), bytes, uapi.PROT_READ), 0);
    const frozen = digest(cpu, mm, first);
    pause(cpu, random(20));
    if (digest(cpu, mm, first) !== frozen) bug(`page ${first} was written while it was read-only`);
    if (before.get(first) !== frozen) note(cpu, arena, 'held');
    before.set(first, frozen);
    mustBe(cpu, 'store', storeWord(cpu, mm, ownWord(cpu, first), 1), -EFAULT);
    if (random(4) === 0) mustBe(cpu, 'mprotect', mprotect(cpu, mm, at(first), bytes, 0), 0);
    mustBe(cpu, 'mprotect', mprotect(cpu, mm, at(first), bytes, RW), 0);
    pause(cpu, random(50));
  }
}

/** Moves pages there and back. */
export function mover(cpu: Cpu, arena: MmArena): void {
  const mm = enter(cpu, arena);
  const random = seeded(cpu.id);
  const flags = uapi.MREMAP_MAYMOVE | uapi.MREMAP_FIXED;
  const bytes = MOVED.pages * PAGE_SIZE;
  for (let i = 1; goesOn(cpu, arena, i); i++) {
    const [here, there] = [at(MOVED.first), at(MOVED.first + AWAY)];
    mustBe(cpu, 'mremap', mremap(cpu, mm, here, bytes, bytes, flags, there), there);
    pause(cpu, random(20));
    mustBe(cpu, 'mremap', mremap(cpu, mm, there, bytes, bytes, flags, here), here);
    pause(cpu, random(20));
    note(cpu, arena, 'moved');
  }
}

/** Hides pages; whoever uses them shows them again. */
export function hinter(cpu: Cpu, arena: MmArena): void {
  const mm = enter(cpu, arena);
  const random = seeded(cpu.id);
  const event = MMU_NOTIFY_PROTECTION_VMA;
  for (let i = 1; goesOn(cpu, arena, i); i++) {
    const range = stackPush(cpu, MmuNotifierRange);
    // one mapping, inside one entry of the top table
    mmuNotifierRangeInit(cpu, range, event, mm, at(STABLE.first), at(4));
    mmapReadLock(cpu, mm);
    changeProtNuma(cpu, mm, range);
    mmapReadUnlock(cpu, mm);
    stackPop(cpu, range);
    note(cpu, arena, 'hinted');
    pause(cpu, random(50));
  }
}

// --- fork ---

/** What the steady writer of a CPU had stored, as an address space shows it. */
function snapshotOf(cpu: Cpu, mm: MmStruct, id: number): readonly [number, number] {
  mustBe(cpu, 'load', loadWord(cpu, mm, at(0) + 4 * id), 0);
  const ahead = cpu.loaded;
  mustBe(cpu, 'load', loadWord(cpu, mm, at(5) + 4 * id), 0);
  return [ahead, cpu.loaded];
}

/** Forks from beside steady writers: a child is the parent at one moment, and stays so. */
export function snapshotForker(cpu: Cpu, arena: MmArena): void {
  const mm = enter(cpu, arena);
  const random = seeded(cpu.id);
  for (let i = 1; goesOn(cpu, arena, i); i++) {
    const child = fork(cpu, mm);
    const id = random(2); // CPUs 0 and 1 are steady writers
    const [ahead, behind] = snapshotOf(cpu, child, id);
    if (ahead !== behind && ahead !== behind + 1) bug(`a child saw ${ahead} and ${behind}`);
    const grandchild = random(3) === 0 ? fork(cpu, child) : NULL;
    for (const page of [0, 5]) storeWord(cpu, child, ownWord(cpu, page), i);
    pause(cpu, random(100));
    if (snapshotOf(cpu, mm, id)[0] !== ahead) note(cpu, arena, 'diverged');
    assertUnchanged(cpu, child, id, ahead, behind);
    mustBe(cpu, 'own word', snapshotOf(cpu, child, cpu.id)[0], i);
    if (grandchild !== NULL) {
      assertUnchanged(cpu, grandchild, id, ahead, behind);
      mustBe(cpu, 'own word of a grandchild', snapshotOf(cpu, grandchild, cpu.id)[0], 0);
      mmput(cpu, grandchild);
    }
    mustBe(cpu, 'own word of the parent', snapshotOf(cpu, mm, cpu.id)[0], 0);
    mmput(cpu, child);
    note(cpu, arena, 'forked');
  }
}

function assertUnchanged(cpu: Cpu, mm: MmStruct, id: number, ahead: number, behind: number): void {
  const [aheadNow, behindNow] = snapshotOf(cpu, mm, id);
  if (aheadNow === ahead && behindNow === behind) return;
  bug(`a child saw ${ahead} and ${behind}, and then ${aheadNow} and ${behindNow}`);
}

function fork(cpu: Cpu, mm: MmStruct): MmStruct {
  const child = dupMm(cpu, mm);
  if (child === NULL) bug('fork: no memory');
  useMm(cpu, child);
  return child;
}

/** Forks while everything else happens; what a child shows does not change, whatever it is. */
export function forker(cpu: Cpu, arena: MmArena): void {
  const mm = enter(cpu, arena);
  const random = seeded(cpu.id);
  const cpus = read(cpu, MACHINE, Machine.cpus);
  for (let i = 1; goesOn(cpu, arena, i); i++) {
    const child = fork(cpu, mm);
    const page = [0, 4, 5, MOVED.first, VOLATILE.first][random(5)]!;
    const seen = Array.from({ length: cpus }, (_, id) => childWord(cpu, child, page, id));
    storeWord(cpu, child, ownWord(cpu, page), i);
    pause(cpu, random(100));
    for (let id = 0; id < cpus; id++) {
      const now = childWord(cpu, child, page, id);
      if (id !== cpu.id && now !== seen[id])
        bug(`page ${page} of a child: ${seen[id]}, then ${now}`);
    }
    if (random(2) === 0) munmap(cpu, child, at(0), 4 * PAGE_SIZE);
    mmput(cpu, child);
    note(cpu, arena, 'forked');
  }
}

/** A word of a child, or the error of its load. */
function childWord(cpu: Cpu, child: MmStruct, page: number, id: number): number {
  const error = loadWord(cpu, child, at(page) + 4 * id);
  return error === 0 ? cpu.loaded : error;
}

// --- a device that mirrors the pages ---

/** Lets go of the pages of the range, as a driver must. */
export const mirrorOps = defineOps({
  opsName: 'test-mirror',
  invalidate(
    cpu: Cpu,
    interval: MmuIntervalNotifier,
    range: MmuNotifierRange,
    curSeq: number,
  ): boolean {
    const arena = read(cpu, interval, MmuIntervalNotifier.privateData) as MmArena;
    const lock = member(arena, MmArena.mirrorLock);
    spinLock(cpu, lock);
    mmuIntervalSetSeq(cpu, interval, curSeq);
    for (let page = 0; page < MIRRORED_PAGES; page++) {
      if (!isInRange(cpu, range, page) || mirrored(cpu, arena, page) === 0) continue;
      write(cpu, arena, element(MmArena.mirror, 2 * page), 0);
      note(cpu, arena, 'revoked');
    }
    spinUnlock(cpu, lock);
    return true;
  },
});

function isInRange(cpu: Cpu, range: MmuNotifierRange, page: number): boolean {
  const start = readAddress(cpu, range, MmuNotifierRange.start);
  return start < at(page + 1) && at(page) < readAddress(cpu, range, MmuNotifierRange.end);
}

/** The entry that the device has for a page. */
function mirrored(cpu: Cpu, arena: MmArena, page: number): number {
  return read(cpu, arena, element(MmArena.mirror, 2 * page));
}

/** Copies entries into the device's page table, and looks whether those it has are still true. */
export function device(cpu: Cpu, arena: MmArena): void {
  const mm = enter(cpu, arena);
  const random = seeded(cpu.id);
  const lock = member(arena, MmArena.mirrorLock);
  for (let i = 1; goesOn(cpu, arena, i); i++) {
    mirrorPage(cpu, arena, mm, random(MIRRORED_PAGES));
    for (let page = 0; page < MIRRORED_PAGES; page++) {
      spinLock(cpu, lock);
      if (mirrored(cpu, arena, page) !== 0) usePage(cpu, arena, mm, page);
      spinUnlock(cpu, lock);
    }
  }
}

function mirrorPage(cpu: Cpu, arena: MmArena, mm: MmStruct, page: number): void {
  const interval = read(cpu, arena, MmArena.interval);
  const copy = stackPush(cpu, Pte);
  const lock = member(arena, MmArena.mirrorLock);
  const seq = mmuIntervalReadBegin(cpu, interval);
  mmapReadLock(cpu, mm);
  const pte = pteOf(cpu, read(cpu, mm, MmStruct.pgd), at(page));
  if (pte !== NO_PTE) readOnceCells(cpu, copy, pte, 1);
  mmapReadUnlock(cpu, mm);
  const entry = read(cpu, copy, Pte.entry);
  pause(cpu, page % 8);
  spinLock(cpu, lock);
  if (mmuIntervalReadRetry(cpu, interval, seq)) {
    note(cpu, arena, 'collided');
  } else if ((entry & PTE_PRESENT) !== 0) {
    write(cpu, arena, element(MmArena.mirror, 2 * page), entry);
    const generation = read(cpu, copy, Pte.generation);
    write(cpu, arena, element(MmArena.mirror, 2 * page + 1), generation);
  }
  spinUnlock(cpu, lock);
  stackPop(cpu, copy);
}

/** While the device has a page, the page table maps it, no less usable, and the frame is not freed (INV-20). */
function usePage(cpu: Cpu, arena: MmArena, mm: MmStruct, page: number): void {
  const entry = mirrored(cpu, arena, page);
  const pfn = ptePfn(entry);
  const generation = read(cpu, arena, element(MmArena.mirror, 2 * page + 1));
  if (readOnce(cpu, pageOf(cpu, pfn), Page.generation) !== generation) {
    bug(`the device used frame ${pfn} after it had been freed`);
  }
  const pte = pteOf(cpu, read(cpu, mm, MmStruct.pgd), at(page));
  const now = pte === NO_PTE ? 0 : readOnce(cpu, pte, Pte.entry);
  const needed = PTE_PRESENT | (entry & PTE_WRITE);
  if (ptePfn(now) !== pfn || (now & needed) !== needed) {
    bug(
      `the device has ${entry.toString(16)} for page ${page}, the page table ${now.toString(16)}`,
    );
  }
  note(cpu, arena, 'mirrored');
}

// --- the first touch ---

const TOUCH_ROUNDS_MAX = 1_000_000;
const COMPANY_SPINS = 3000;

/** All CPUs store into the same new page at once, round by round; none of their words is missing then. */
export function touchTogether(cpu: Cpu, arena: MmArena): void {
  const mm = enter(cpu, arena);
  const cpus = read(cpu, MACHINE, Machine.cpus);
  const page = STABLE.first;
  for (let round = 1; round <= TOUCH_ROUNDS_MAX; round++) {
    meet(cpu, arena, cpus, 3 * round - 2);
    if (readOnce(cpu, arena, MmArena.done) !== 0) return;
    const pte = pteOf(cpu, read(cpu, mm, MmStruct.pgd), at(page));
    const isMissing = pte === NO_PTE || readOnce(cpu, pte, Pte.entry) === 0;
    if (isMissing) waitForCompany(cpu, arena);
    if (round % 2 === 0) mustBe(cpu, 'load', loadWord(cpu, mm, ownWord(cpu, page)), 0);
    mustBe(cpu, 'store', storeWord(cpu, mm, ownWord(cpu, page), round), 0);
    meet(cpu, arena, cpus, 3 * round - 1);
    for (let id = 0; id < cpus; id++) {
      mustBe(cpu, 'load', loadWord(cpu, mm, at(page) + 4 * id), 0);
      if (cpu.loaded !== round) bug(`round ${round}: the word of CPU ${id} is ${cpu.loaded}`);
    }
    meet(cpu, arena, cpus, 3 * round);
    if (cpu.id === 0) nextTouch(cpu, arena, mm, page);
  }
}

/** Lets another CPU find the page missing, too, if one is about to. */
function waitForCompany(cpu: Cpu, arena: MmArena): void {
  fetchAdd(cpu, arena, MmArena.missed, 1);
  for (let i = 0; i < COMPANY_SPINS && readOnce(cpu, arena, MmArena.missed) < 2; i++) {
    cpuRelax(cpu, i);
  }
}

/** CPU 0 throws the page away for the next round. */
function nextTouch(cpu: Cpu, arena: MmArena, mm: MmStruct, page: number): void {
  mustBe(cpu, 'madvise', madvise(cpu, mm, at(page), PAGE_SIZE, uapi.MADV_DONTNEED), 0);
  if (readOnce(cpu, arena, MmArena.missed) > 1) note(cpu, arena, 'together');
  writeOnce(cpu, arena, MmArena.missed, 0);
  goesOn(cpu, arena, 0);
}

/** Waits until all CPUs have come to meeting `number`. */
function meet(cpu: Cpu, arena: MmArena, cpus: number, number: number): void {
  fetchAdd(cpu, arena, MmArena.arrived, 1);
  unpark(cpu, arena, MmArena.arrived, cpus);
  for (let spins = 0; ; spins++) {
    const arrived = readOnce(cpu, arena, MmArena.arrived);
    if (arrived >= cpus * number) return;
    cpuRelax(cpu, spins);
    if (spins > 100) park(cpu, arena, MmArena.arrived, arrived, 1); // the host's core is needed
  }
}
