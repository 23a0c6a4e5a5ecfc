/**
 * What moves pages out of memory and back, and who holds on to them or looks into them from outside.
 *
 * @module
 */

import { EFAULT, EIO, ENOMEM, errnoName } from '../../base/errno.js';
import { PAGE_SIZE } from '../../base/units.js';
import type { Cpu } from '../../machine/cpu.js';
import { NULL, type Va } from '../../memory/layout.js';
import { loadWord, storeWord } from '../../mm/access.js';
import { clearReferenced, clearSoftDirty } from '../../mm/clear-refs.js';
import { createFile, fput } from '../../mm/file.js';
import { accessRemotePage, FOLL_PIN, FOLL_WRITE, getUserPage, putUserPage } from '../../mm/gup.js';
import { madvise } from '../../mm/madvise.js';
import { mmap } from '../../mm/mmap.js';
import { munmap } from '../../mm/munmap.js';
import { fallocate, ftruncate } from '../../mm/truncate.js';
import * as uapi from '../../mm/uapi.js';
import { proactiveReclaim } from '../../mm/vmscan.js';
import { bytesOf, cellVa, judge, lookAtCell } from './content.js';
import { disarmFailure, oneOf, type Operation, somePage, type Stage } from './stage.js';
import { beginPin, CELLS, endPin, pageVa, STEADY } from './world.js';

const RECLAIM_MAX = 12;
const FILE_PAGES = 4;
const READ_WRITE = uapi.PROT_READ | uapi.PROT_WRITE;
const TRIES_MAX = 100;

/** Sends pages to the swap area that have not been used for long, whoever has them. */
function reclaim(cpu: Cpu, { member }: Stage): boolean {
  return proactiveReclaim(cpu, 1 + member.random(RECLAIM_MAX)) > 0;
}

/** Forgets who has used what, or who has written it. */
function forget(cpu: Cpu, { at, member }: Stage): boolean {
  if (member.random(2) === 0) clearReferenced(cpu, at.mm);
  else clearSoftDirty(cpu, at.mm);
  return true;
}

/** Holds on to a page, which stays meanwhile: what is advised to go does not. */
function pin(cpu: Cpu, { at, member, way }: Stage): boolean {
  const page = STEADY.first + member.random(STEADY.pages);
  const flags = FOLL_PIN | oneOf(member, [0, FOLL_WRITE]);
  beginPin(cpu, at.space);
  const pfn = getUserPage(cpu, at.mm, pageVa(page), flags);
  if (pfn === 0) {
    endPin(cpu, at.space);
    const isKnown = cpu.gupError === -EFAULT || cpu.gupError === -ENOMEM;
    return isKnown ? false : member.fail(`a pin is refused with ${errnoName(cpu.gupError)}`);
  }
  madvise(cpu, at.mm, pageVa(page), PAGE_SIZE, uapi.MADV_PAGEOUT);
  lookAtCell(cpu, way, page, member.random(CELLS));
  member.noise(cpu);
  putUserPage(cpu, pfn, flags);
  endPin(cpu, at.space);
  return true;
}

/** Reads a cell as another process does, through /proc/pid/mem. */
function readRemote(cpu: Cpu, { at, member, way }: Stage): boolean {
  const page = somePage(member);
  const cell = member.random(CELLS);
  const words = [0];
  const error = accessRemotePage(cpu, at.mm, cellVa(pageVa(page), cpu.id, cell), words, false);
  if (error !== 0 && error !== -EIO) member.fail(`remote access: ${errnoName(error)}`);
  if (error === 0) judge(cpu, way, page, cell, words[0] ?? 0);
  return error === 0;
}

/** A file of one's own loses its middle, or its end: what was there reads as nothing, and the rest as before. */
function cutFile(cpu: Cpu, stage: Stage): boolean {
  const { at, member } = stage;
  const file = createFile(cpu, bytesOf(FILE_PAGES), 0);
  if (file === NULL) return false;
  const shared = uapi.MAP_SHARED;
  const va = mmap(cpu, at.mm, 0, bytesOf(FILE_PAGES), READ_WRITE, shared, file, 0);
  let isCut = false;
  if (va >= 0) {
    const isStored = [0, 2].every(
      (page) => storeWord(cpu, at.mm, va + bytesOf(page), 1 + page) === 0,
    );
    if (member.random(2) === 0) madvise(cpu, at.mm, va, bytesOf(FILE_PAGES), uapi.MADV_PAGEOUT);
    disarmFailure(cpu);
    const way = member.random(3);
    if (way === 0) fallocate(cpu, file, uapi.FALLOC_FL_PUNCH_HOLE, bytesOf(2), PAGE_SIZE);
    else if (way === 1) madvise(cpu, at.mm, va + bytesOf(2), PAGE_SIZE, uapi.MADV_REMOVE);
    else ftruncate(cpu, file, bytesOf(2));
    isCut = isStored;
    if (isStored) {
      expect(cpu, stage, va, 1);
      if (way === 0) expect(cpu, stage, va + bytesOf(2), 0);
    }
    for (let tries = 0; munmap(cpu, at.mm, va, bytesOf(FILE_PAGES)) !== 0; tries++) {
      if (tries > TRIES_MAX) member.fail('munmap fails again and again');
    }
  }
  fput(cpu, file);
  return isCut;
}

/** Ends the run if the word is there and is another. */
function expect(cpu: Cpu, { at, member }: Stage, va: Va, value: number): void {
  if (loadWord(cpu, at.mm, va) !== 0 || cpu.loaded === value) return;
  member.fail(`a file that was cut reads ${cpu.loaded}, not ${value}`, 'INV-24');
}

export const PAGING_OPERATIONS: readonly Operation[] = [
  { name: 'reclaim', run: reclaim },
  { name: 'clear_refs', run: forget },
  { name: 'pin', run: pin },
  { name: 'remote_read', run: readRemote },
  { name: 'cut_file', run: cutFile },
];
