/**
 * What a CPU does in memory that is its alone: a stack that grows, a huge page, pages that a child does not get.
 *
 * Each CPU has a place of its own in every address space. A child may have been given what was there while its parent
 * was at work, so the place is emptied first. Contents are judged at once: what was stored is found, whatever is done
 * in between, and where nothing was stored, nothing is.
 *
 * @module
 */
import { read } from '#memory';

import { PAGE_SIZE } from '../../base/units.js';
import type { Cpu } from '../../machine/cpu.js';
import { NULL, type Va } from '../../memory/layout.js';
import { loadWord } from '../../mm/access.js';
import { TABLE_HUGE, tableState } from '../../mm/huge.js';
import { madvise } from '../../mm/madvise.js';
import { useMm } from '../../mm/mm-struct.js';
import { mmap } from '../../mm/mmap.js';
import { mprotect } from '../../mm/mprotect.js';
import { PMD_SIZE, pteOf } from '../../mm/page-table.js';
import { NO_PTE } from '../../mm/pte.js';
import { MmStruct } from '../../mm/types.js';
import * as uapi from '../../mm/uapi.js';
import { cloneTask, exitTask } from '../../process/task.js';
import { Task } from '../../process/types.js';
import { bytesOf, cellVa } from './content.js';
import { find, mapSomewhere, READ_WRITE, storeAndFind, unmapOwn } from './map-operations.js';
import { disarmFailure, oneOf, type Operation, type Stage } from './stage.js';
import { claimTask, giveUpClaim, isDying } from './world.js';

const PRIVATE = uapi.MAP_PRIVATE | uapi.MAP_ANONYMOUS;
const FIXED = PRIVATE | uapi.MAP_FIXED;
/** Where the places of stacks and of huge pages begin; each CPU's is so far from the next. */
const STACKS: Va = 2 ** 34;
const HUGE: Va = 2 ** 35;
const STRIDE = 2 * PMD_SIZE;
/** Pages that a stack may have, and grows by at once. */
const STACK_PAGES = 64;
const GROWTH_MAX = 12;
const HUGE_PAGES = PMD_SIZE / PAGE_SIZE;
/** Pages of a huge one that are looked at, besides the first and the last. */
const LOOKS = 3;

/** Takes away what is in a place of this CPU's. */
function empty(cpu: Cpu, stage: Stage, va: Va, pages: number): void {
  disarmFailure(cpu);
  unmapOwn(cpu, stage, va, pages);
}

/** Ends the run if a page of this CPU's that it has not stored to is there, and has something. */
function findNothing(cpu: Cpu, stage: Stage, va: Va): void {
  find(cpu, stage, va, 0);
}

// --- a stack ---

/** Touches what lies below a stack, which grows to it: what was in it stays, and nothing is in between. */
function growStack(cpu: Cpu, stage: Stage): boolean {
  const { at, member } = stage;
  const lowest = STACKS + cpu.id * STRIDE;
  empty(cpu, stage, lowest, STACK_PAGES);
  const top = lowest + bytesOf(STACK_PAGES - 1);
  const flags = FIXED | uapi.MAP_GROWSDOWN;
  if (mmap(cpu, at.mm, top, PAGE_SIZE, READ_WRITE, flags, NULL, 0) < 0) return false;
  const stored: [va: Va, tag: number][] = [];
  let va = top;
  for (let i = 0; i < LOOKS; i++) {
    const tag = storeAndFind(cpu, stage, va);
    if (tag === undefined) break;
    stored.push([va, tag]);
    const below = 2 + member.random(GROWTH_MAX);
    if (stored.length > 1) findNothing(cpu, stage, va + PAGE_SIZE);
    va -= bytesOf(below);
  }
  for (const [where, tag] of stored) find(cpu, stage, where, tag);
  empty(cpu, stage, lowest, STACK_PAGES);
  return stored.length > 1;
}

// --- a huge page ---

/** What may be done to a part of a huge page, or to all of it, without harm to its contents. */
const TO_HUGE: readonly ((cpu: Cpu, stage: Stage, huge: Va, page: number) => void)[] = [
  (cpu, { at }, huge, page) => {
    madvise(cpu, at.mm, huge + bytesOf(page), PAGE_SIZE, uapi.MADV_PAGEOUT);
  },
  (cpu, { at }, huge, page) => {
    madvise(cpu, at.mm, huge + bytesOf(page), PAGE_SIZE, uapi.MADV_COLD);
  },
  (cpu, { at }, huge, page) => {
    mprotect(cpu, at.mm, huge + bytesOf(page), PAGE_SIZE, uapi.PROT_READ);
    disarmFailure(cpu);
    mprotect(cpu, at.mm, huge + bytesOf(page), PAGE_SIZE, READ_WRITE);
  },
  (cpu, { at }, huge) => {
    madvise(cpu, at.mm, huge, PMD_SIZE, uapi.MADV_COLLAPSE);
  },
];

/** Stores all over a huge page, has something done to it, and looks: at what was stored, and at what was not. */
function useHuge(cpu: Cpu, stage: Stage): boolean {
  const { at, member } = stage;
  const huge = HUGE + cpu.id * STRIDE;
  empty(cpu, stage, huge, HUGE_PAGES);
  if (mmap(cpu, at.mm, huge, PMD_SIZE, READ_WRITE, FIXED, NULL, 0) < 0) return false;
  madvise(cpu, at.mm, huge, PMD_SIZE, uapi.MADV_HUGEPAGE);
  const pages = new Set([0, HUGE_PAGES - 1]);
  for (let i = 0; i < LOOKS; i++) pages.add(member.random(HUGE_PAGES));
  const stored = new Map<number, number>();
  for (const page of pages) {
    const tag = storeAndFind(cpu, stage, huge + bytesOf(page));
    if (tag !== undefined) stored.set(page, tag);
  }
  const isHuge = isHugeAt(cpu, stage, huge);
  oneOf(member, TO_HUGE)(cpu, stage, huge, oneOf(member, [0, 1, HUGE_PAGES - 1]));
  for (const [page, tag] of stored) find(cpu, stage, huge + bytesOf(page), tag);
  const other = member.random(HUGE_PAGES);
  if (!pages.has(other)) findNothing(cpu, stage, huge + bytesOf(other));
  empty(cpu, stage, huge, HUGE_PAGES);
  return isHuge;
}

/** True if the page is one, and not many small ones, for want of memory. */
function isHugeAt(cpu: Cpu, { at }: Stage, huge: Va): boolean {
  const pte = pteOf(cpu, read(cpu, at.mm, MmStruct.pgd), huge);
  return pte !== NO_PTE && tableState(cpu, pte) === TABLE_HUGE;
}

// --- pages that a child does not get ---

/** Of two pages a child is given one, and nothing of the other; their parent keeps both. */
function forkWiped(cpu: Cpu, stage: Stage): boolean {
  const { at } = stage;
  const va = mapSomewhere(cpu, stage, 2, PRIVATE);
  if (va < 0) return false;
  const tags = [storeAndFind(cpu, stage, va), storeAndFind(cpu, stage, va + PAGE_SIZE)] as const;
  const isAdvised = madvise(cpu, at.mm, va, PAGE_SIZE, uapi.MADV_WIPEONFORK) === 0;
  const isDone = isAdvised && lookAtWiped(cpu, stage, va, tags);
  tags.forEach((tag, page) => {
    if (tag !== undefined) find(cpu, stage, va + bytesOf(page), tag);
  });
  unmapOwn(cpu, stage, va, 2);
  return isDone;
}

function lookAtWiped(
  cpu: Cpu,
  stage: Stage,
  va: Va,
  tags: readonly (number | undefined)[],
): boolean {
  const { at, member } = stage;
  const task = claimTask(cpu, at);
  if (task === NULL) return false;
  const child = cloneTask(cpu, task, 0);
  giveUpClaim(cpu, at.space);
  disarmFailure(cpu);
  if (child === NULL) return false;
  const mm = read(cpu, child, Task.mm);
  const isWhole = !isDying(cpu, at.space); // of one that is killed meanwhile a part may be gone
  useMm(cpu, mm);
  for (const [page, tag] of [0, tags[1]].entries()) {
    if (!isWhole || tag === undefined) continue;
    if (loadWord(cpu, mm, cellVa(va + bytesOf(page), cpu.id, 0)) !== 0 || cpu.loaded === tag)
      continue;
    member.fail(
      page === 0
        ? `a page that is wiped on fork reads ${cpu.loaded} in the child`
        : `a page beside one that is wiped on fork reads ${cpu.loaded} in the child, not ${tag}`,
      'INV-24',
    );
  }
  exitTask(cpu, child);
  useMm(cpu, at.mm);
  return isWhole;
}

export const OWN_OPERATIONS: readonly Operation[] = [
  { name: 'grow_stack', run: growStack },
  { name: 'huge_page', run: useHuge },
  { name: 'fork_wiped', run: forkWiped },
];
