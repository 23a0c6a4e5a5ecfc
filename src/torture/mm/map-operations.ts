/**
 * The calls that change what is mapped, and with which rights.
 *
 * @module
 */
import { read, readAddress } from '#memory';

import { EFAULT, EINVAL, ENOMEM, errnoName } from '../../base/errno.js';
import { PAGE_SIZE } from '../../base/units.js';
import type { Cpu } from '../../machine/cpu.js';
import { NULL, type Va } from '../../memory/layout.js';
import { loadWord, storeWord } from '../../mm/access.js';
import { brk, mmap } from '../../mm/mmap.js';
import { mprotect } from '../../mm/mprotect.js';
import { mremap } from '../../mm/mremap.js';
import { munmap } from '../../mm/munmap.js';
import { MmStruct } from '../../mm/types.js';
import * as uapi from '../../mm/uapi.js';
import { bytesOf, cellVa, lookElsewhere, newTag } from './content.js';
import { disarmFailure, oneOf, type Operation, someOf, type Stage } from './stage.js';
import {
  ALL_PAGES,
  AWAY,
  beginDanger,
  claimTask,
  endDanger,
  giveUpClaim,
  isDying,
  pageVa,
  PRIVATE_FILE,
  type Region,
  SHARED,
  STEADY,
  VOLATILE,
  World,
} from './world.js';

export const READ_WRITE = uapi.PROT_READ | uapi.PROT_WRITE;
const PRIVATE = uapi.MAP_PRIVATE | uapi.MAP_ANONYMOUS;
/** Pages of a mapping that lasts for a step. */
const SCRATCH_PAGES = 6;
/** A page number for tags of memory that has none: of no region. */
const SCRATCH_TAG = ALL_PAGES.pages;
const HEAP_PAGES_MAX = 24;
const TRIES_MAX = 100;

// --- mappings that last for a step ---

/** Maps some pages wherever there is room; negative if memory is out. */
export function mapSomewhere(cpu: Cpu, { at }: Stage, pages: number, flags: number): Va {
  return mmap(cpu, at.mm, 0, bytesOf(pages), READ_WRITE, flags, NULL, 0);
}

/** Stores a tag, finds it again, and ends the run if it is another; false if the page is gone. */
export function storeAndFind(cpu: Cpu, stage: Stage, va: Va): number | undefined {
  const tag = newTag(cpu, stage.world, SCRATCH_TAG);
  const cell = cellVa(va, cpu.id, 0);
  if (storeWord(cpu, stage.at.mm, cell, tag) !== 0) return undefined;
  stage.member.noise(cpu);
  return find(cpu, stage, va, tag) ? tag : undefined;
}

/** False if the page is gone; ends the run if there is something else. */
export function find(cpu: Cpu, { at, member }: Stage, va: Va, tag: number): boolean {
  if (loadWord(cpu, at.mm, cellVa(va, cpu.id, 0)) !== 0) return false;
  if (cpu.loaded === tag) return true;
  return member.fail(
    `a page of one's own at ${va.toString(16)} reads ${cpu.loaded}, not ${tag}`,
    'INV-24',
  );
}

/** Unmaps what lasted for a step; that cannot fail for want of memory for long. */
export function unmapOwn(cpu: Cpu, { at, member }: Stage, va: Va, pages: number): void {
  for (let tries = 0; munmap(cpu, at.mm, va, bytesOf(pages)) !== 0; tries++) {
    disarmFailure(cpu);
    if (tries > TRIES_MAX) member.fail('munmap fails again and again');
  }
}

function mapAndUse(flags: number): (cpu: Cpu, stage: Stage) => boolean {
  return (cpu, stage) => {
    const pages = 1 + stage.member.random(SCRATCH_PAGES);
    const va = mapSomewhere(cpu, stage, pages, flags);
    if (va < 0) return false;
    storeAndFind(cpu, stage, va + bytesOf(stage.member.random(pages)));
    unmapOwn(cpu, stage, va, pages);
    return true;
  };
}

/** A private mapping of the file that all have: a store must not come through to it. */
function mapFile(cpu: Cpu, stage: Stage): boolean {
  const { at, member, world } = stage;
  const page = member.random(SHARED.pages);
  const file = read(cpu, world, World.file);
  const va = mmap(cpu, at.mm, 0, PAGE_SIZE, READ_WRITE, uapi.MAP_PRIVATE, file, bytesOf(page));
  if (va < 0) return false;
  lookElsewhere(cpu, stage.way, SHARED.first + page, va);
  storeAndFind(cpu, stage, va);
  unmapOwn(cpu, stage, va, 1);
  return true;
}

/** Grows a mapping, in place or elsewhere, and makes it smaller: what was in it stays. */
function resize(cpu: Cpu, stage: Stage): boolean {
  const { at, member } = stage;
  const va = mapSomewhere(cpu, stage, 2, oneOf(member, [PRIVATE, PRIVATE | uapi.MAP_NORESERVE]));
  if (va < 0) return false;
  const tag = storeAndFind(cpu, stage, va);
  const pages = 3 + member.random(SCRATCH_PAGES);
  const grown = mremap(cpu, at.mm, va, bytesOf(2), bytesOf(pages), uapi.MREMAP_MAYMOVE, 0);
  const start = grown < 0 ? va : grown;
  if (tag !== undefined) find(cpu, stage, start, tag);
  const isSmall = grown >= 0 && mremap(cpu, at.mm, start, bytesOf(pages), bytesOf(1), 0, 0) >= 0;
  if (tag !== undefined) find(cpu, stage, start, tag);
  unmapOwn(cpu, stage, start, isSmall ? 1 : grown < 0 ? 2 : pages);
  return isSmall;
}

/** Moves a page and leaves its place mapped, and empty. */
function leaveMapped(cpu: Cpu, stage: Stage): boolean {
  const { at, member } = stage;
  const va = mapSomewhere(cpu, stage, 1, PRIVATE);
  if (va < 0) return false;
  const tag = storeAndFind(cpu, stage, va);
  const flags = uapi.MREMAP_MAYMOVE | uapi.MREMAP_DONTUNMAP;
  const moved = mremap(cpu, at.mm, va, PAGE_SIZE, PAGE_SIZE, flags, 0);
  if (moved >= 0) {
    if (tag !== undefined) find(cpu, stage, moved, tag);
    find(cpu, stage, va, 0);
    unmapOwn(cpu, stage, moved, 1);
  }
  unmapOwn(cpu, stage, va, 1);
  if (moved < 0 && moved !== -ENOMEM) member.fail(`mremap: ${errnoName(moved)}`);
  return moved >= 0;
}

/** Maps a shared page a second time. */
function mapTwice(cpu: Cpu, stage: Stage): boolean {
  const { at, way, member } = stage;
  const page = SHARED.first + member.random(SHARED.pages);
  const second = mremap(cpu, at.mm, pageVa(page), 0, PAGE_SIZE, uapi.MREMAP_MAYMOVE, 0);
  if (second < 0) return false;
  lookElsewhere(cpu, way, page, second);
  unmapOwn(cpu, stage, second, 1);
  return true;
}

/** Moves the end of the heap. Others do too. */
function moveBrk(cpu: Cpu, stage: Stage): boolean {
  const { at, member } = stage;
  const start = readAddress(cpu, at.mm, MmStruct.startBrk);
  const pages = member.random(HEAP_PAGES_MAX);
  brk(cpu, at.mm, start + bytesOf(pages));
  const va = cellVa(start + bytesOf(member.random(pages + 1)), cpu.id, 0);
  const tag = newTag(cpu, stage.world, SCRATCH_TAG);
  if (loadWord(cpu, at.mm, va) === 0 && cpu.loaded !== 0) {
    const ours = tag >>> 18 === cpu.loaded >>> 18; // the heap has shrunk and grown, or it has not
    if (!ours) member.fail(`a page of the heap reads ${cpu.loaded}`, 'INV-24');
  }
  storeWord(cpu, at.mm, va, tag);
  return true;
}

// --- the regions ---

/** Maps something over volatile pages, whatever is there. */
function mapOver(cpu: Cpu, { at, member, world }: Stage): boolean {
  const { first, pages } = someOf(member, VOLATILE, 8);
  const ofFile = member.random(4) === 0;
  const file = ofFile ? read(cpu, world, World.privateFile) : NULL;
  const how = oneOf(member, [uapi.MAP_FIXED, uapi.MAP_FIXED, uapi.MAP_FIXED_NOREPLACE]);
  const flags = (ofFile ? uapi.MAP_PRIVATE : PRIVATE) | how;
  beginDanger(cpu, at.space, first, pages);
  const va = mmap(cpu, at.mm, pageVa(first), bytesOf(pages), READ_WRITE, flags, file, 0);
  endDanger(cpu, at.space, first, pages);
  if (va >= 0 && va !== pageVa(first)) member.fail('a fixed mapping is somewhere else');
  return true;
}

/** Maps volatile pages, present from the beginning, some of them locked. */
function mapPopulated(cpu: Cpu, { at, member }: Stage): boolean {
  const { first, pages } = someOf(member, VOLATILE, 6);
  const how = oneOf(member, [uapi.MAP_POPULATE, uapi.MAP_LOCKED, uapi.MAP_GROWSDOWN]);
  beginDanger(cpu, at.space, first, pages);
  const flags = PRIVATE | uapi.MAP_FIXED | how;
  mmap(cpu, at.mm, pageVa(first), bytesOf(pages), READ_WRITE, flags, NULL, 0);
  endDanger(cpu, at.space, first, pages);
  return true;
}

/** Takes volatile pages away. */
function unmap(cpu: Cpu, { at, member }: Stage): boolean {
  const { first, pages } = someOf(member, VOLATILE, 10);
  beginDanger(cpu, at.space, first, pages);
  munmap(cpu, at.mm, pageVa(first), bytesOf(pages));
  endDanger(cpu, at.space, first, pages);
  return true;
}

/** Takes the mapping of shared pages away, and gives it back: their contents stay. */
function unmapShared(cpu: Cpu, stage: Stage): boolean {
  const { at, member } = stage;
  const { first, pages } = someOf(member, SHARED, 6);
  if (member.random(2) === 0) munmap(cpu, at.mm, pageVa(first), bytesOf(pages));
  member.noise(cpu);
  for (let tries = 0; mapShared(cpu, stage, first, pages) < 0; tries++) {
    disarmFailure(cpu);
    if (tries > TRIES_MAX) member.fail('a file cannot be mapped again');
  }
  return true;
}

/** Maps pages of the file that all have. */
function mapShared(cpu: Cpu, { at, world }: Stage, first: number, pages: number): Va {
  const file = read(cpu, world, World.file);
  const flags = uapi.MAP_SHARED | uapi.MAP_FIXED;
  const offset = bytesOf(first - SHARED.first);
  return mmap(cpu, at.mm, pageVa(first), bytesOf(pages), READ_WRITE, flags, file, offset);
}

/** Takes rights away, and gives them back. */
function protect(cpu: Cpu, { at, member }: Stage): boolean {
  const { first, pages } = someOf(member, ALL_PAGES, 12);
  const prot = oneOf(member, [uapi.PROT_READ, uapi.PROT_NONE, uapi.PROT_READ | uapi.PROT_EXEC]);
  mprotect(cpu, at.mm, pageVa(first), bytesOf(pages), prot);
  member.noise(cpu);
  disarmFailure(cpu);
  mprotect(cpu, at.mm, pageVa(first), bytesOf(pages), READ_WRITE);
  for (const region of [STEADY, PRIVATE_FILE]) giveRights(cpu, at.mm, region);
  return true;
}

/** Of pages that had moved when others were given their rights back. */
function giveRights(cpu: Cpu, mm: MmStruct, { first, pages }: Region): void {
  mprotect(cpu, mm, pageVa(first), bytesOf(pages), READ_WRITE);
}

/** Moves volatile pages over others. */
function moveOver(cpu: Cpu, { at, member }: Stage): boolean {
  const from = someOf(member, VOLATILE, 4);
  const to = VOLATILE.first + member.random(VOLATILE.pages - from.pages + 1);
  const flags = uapi.MREMAP_MAYMOVE | uapi.MREMAP_FIXED;
  beginDanger(cpu, at.space, from.first, from.pages);
  beginDanger(cpu, at.space, to, from.pages);
  const length = bytesOf(from.pages);
  mremap(cpu, at.mm, pageVa(from.first), length, length, flags, pageVa(to));
  endDanger(cpu, at.space, to, from.pages);
  endDanger(cpu, at.space, from.first, from.pages);
  return true;
}

/** Moves steady pages away and back: meanwhile they are not where they were, and afterwards as they were. */
function moveAway(cpu: Cpu, stage: Stage): boolean {
  const { at, member, way } = stage;
  disarmFailure(cpu); // without memory for a split, the old place stays mapped: who looks there finds zeroes
  if (claimTask(cpu, at) === NULL) return false;
  const { first, pages } = someOf(member, STEADY, member.random(3) === 0 ? 4 : 1);
  const flags = uapi.MREMAP_MAYMOVE | uapi.MREMAP_FIXED;
  const length = bytesOf(pages);
  const moved = mremap(cpu, at.mm, pageVa(first), length, length, flags, AWAY);
  if (moved >= 0) {
    for (let i = 0; i < pages; i++) lookElsewhere(cpu, way, first + i, AWAY + bytesOf(i));
    moveBack(cpu, stage, first, length, flags);
  } else if (moved !== -EFAULT && moved !== -ENOMEM) {
    member.fail(`mremap: ${errnoName(moved)}`);
  }
  giveUpClaim(cpu, at.space);
  return moved >= 0;
}

function moveBack(cpu: Cpu, stage: Stage, first: number, length: number, flags: number): void {
  const { at, member } = stage;
  for (let tries = 0; ; tries++) {
    const back = mremap(cpu, at.mm, AWAY, length, length, flags, pageVa(first));
    if (back >= 0) return;
    disarmFailure(cpu);
    if (back === -EINVAL || tries > TRIES_MAX) {
      const dying = isDying(cpu, at.space) ? ', of a victim' : '';
      member.fail(`pages cannot be moved back${dying}: ${errnoName(back)}`);
    }
  }
}

export const MAP_OPERATIONS: readonly Operation[] = [
  { name: 'mmap', run: mapAndUse(PRIVATE) },
  { name: 'mmap_shared', run: mapAndUse(uapi.MAP_SHARED | uapi.MAP_ANONYMOUS) },
  { name: 'mmap_file', run: mapFile },
  { name: 'mmap_fixed', run: mapOver },
  { name: 'mmap_populate', run: mapPopulated },
  { name: 'munmap', run: unmap },
  { name: 'remap_shared', run: unmapShared },
  { name: 'mprotect', run: protect },
  { name: 'mremap_resize', run: resize },
  { name: 'mremap_dontunmap', run: leaveMapped },
  { name: 'mremap_dup', run: mapTwice },
  { name: 'mremap_over', run: moveOver },
  { name: 'mremap_move', run: moveAway },
  { name: 'brk', run: moveBrk },
];
