/**
 * Files that become shorter, or lose what is in the middle: their pages are taken out of every mapping, and out of
 * the cache.
 *
 * Kernel     mm/shmem.c (shmem_setattr, shmem_fallocate), mm/memory.c (unmap_mapping_range), mm/truncate.c
 * Protocol   truncate, to a smaller size        punch a hole
 *              set the size                       unmap the range, private copies excepted
 *              unmap what lies behind it, with    take its pages out of the cache
 *                private copies
 *              take its pages out of the cache
 *              unmap it once more: a private
 *                copy may have been made meanwhile
 *
 *            To unmap, each VMA that maps a part of the range is told CLEAR of that part, by the page of the file at
 *            which it begins.
 * Invariant  I1  No entry maps a page of the file that is not in the cache any more: whoever maps one has the
 *                invalidate lock for reading from when it was looked up, and it is taken out of the cache with that
 *                for writing.
 * Ordering   invalidateLock > vmasLock > allLock > page table locks. No mmap lock: a VMA in the file's list keeps its
 *            page tables, since who takes them away takes it off the list first; and until the end of what its mm's
 *            notifiers are told, nobody new listens.
 *
 * @module
 */
import { read, readAddress, write, writeAddress } from '#memory';

import { EINVAL, ENOMEM, EOPNOTSUPP } from '../base/errno.js';
import { PAGE_SIZE, PAGE_WORDS, WORD_BYTES } from '../base/units.js';
import type { Cpu } from '../machine/cpu.js';
import { frameWord } from '../machine/frame.js';
import { frameOf } from '../machine/page-alloc.js';
import { containerOf, member } from '../memory/layout.js';
import { listNext } from '../memory/list.js';
import { keepSubscribersOut, letSubscribersIn } from '../notifier/subscriptions.js';
import { downRead, downWrite, upRead, upWrite } from '../sync/rwsem.js';
import { fileFindPage, fileGetPage, fileRemovePages } from './file.js';
import { putPage } from './page.js';
import { File, VmAreaStruct } from './types.js';
import { FALLOC_FL_PUNCH_HOLE, FALLOC_FL_ZERO_RANGE } from './uapi.js';
import { pagesIn, vmaEnd, vmaStart } from './vma.js';
import { zapPageRangeSingle } from './zap.js';

/** Makes the file that long: 0, or -EINVAL. No lock held. Sleeps. @kernel sys_ftruncate */
export function ftruncate(cpu: Cpu, file: File, sizeBytes: number): number {
  if (sizeBytes < 0) return -EINVAL;
  downWrite(cpu, member(file, File.invalidateLock));
  const before = readAddress(cpu, file, File.sizeBytes);
  writeAddress(cpu, file, File.sizeBytes, sizeBytes);
  if (sizeBytes < before) {
    const firstGone = Math.ceil(sizeBytes / PAGE_SIZE);
    const hasMore = before > firstGone * PAGE_SIZE;
    if (hasMore) unmapMappingRange(cpu, file, firstGone, Infinity, true);
    fileRemovePages(cpu, file, firstGone, Infinity);
    zeroTail(cpu, file, sizeBytes);
    if (hasMore) unmapMappingRange(cpu, file, firstGone, Infinity, true);
  }
  upWrite(cpu, member(file, File.invalidateLock));
  return 0;
}

/** What lies behind the end in the last page reads as zeroes, should the file grow again. */
function zeroTail(cpu: Cpu, file: File, sizeBytes: number): void {
  const inPage = sizeBytes % PAGE_SIZE;
  const pfn = inPage === 0 ? 0 : fileFindPage(cpu, file, Math.floor(sizeBytes / PAGE_SIZE));
  if (pfn === 0) return;
  const frame = frameOf(cpu, pfn);
  for (let i = Math.ceil(inPage / WORD_BYTES); i < PAGE_WORDS; i++) {
    write(cpu, frame, frameWord(i), 0);
  }
  putPage(cpu, pfn);
}

/**
 * Makes or removes room in a file, in whole pages: mode 0 or FALLOC_FL_*; 0, -EINVAL, -EOPNOTSUPP. No lock held.
 * Sleeps. @kernel shmem_fallocate
 */
export function fallocate(
  cpu: Cpu,
  file: File,
  mode: number,
  offset: number,
  length: number,
): number {
  if (offset < 0 || length <= 0) return -EINVAL;
  if ((mode & FALLOC_FL_ZERO_RANGE) !== 0) return -EOPNOTSUPP;
  const end = offset + length;
  if ((mode & FALLOC_FL_PUNCH_HOLE) !== 0) {
    punchHole(cpu, file, Math.ceil(offset / PAGE_SIZE), Math.floor(end / PAGE_SIZE));
    return 0;
  }
  downWrite(cpu, member(file, File.invalidateLock));
  for (let index = Math.floor(offset / PAGE_SIZE); index * PAGE_SIZE < end; index++) {
    const pfn = fileGetPage(cpu, file, index);
    if (pfn !== 0) putPage(cpu, pfn);
  }
  if (end > readAddress(cpu, file, File.sizeBytes)) writeAddress(cpu, file, File.sizeBytes, end);
  upWrite(cpu, member(file, File.invalidateLock));
  return 0;
}

/** Pages [first, end) read as the file began with, in every shared mapping. */
function punchHole(cpu: Cpu, file: File, first: number, end: number): void {
  if (first >= end) return;
  downWrite(cpu, member(file, File.invalidateLock));
  unmapMappingRange(cpu, file, first, end, false);
  fileRemovePages(cpu, file, first, end);
  upWrite(cpu, member(file, File.invalidateLock));
}

/**
 * Takes pages [first, end) of the file out of every mapping; private copies only with `evenCows`. The invalidate
 * lock must be held for writing. Sleeps. @kernel unmap_mapping_pages
 */
function unmapMappingRange(
  cpu: Cpu,
  file: File,
  first: number,
  end: number,
  evenCows: boolean,
): void {
  downRead(cpu, member(file, File.vmasLock));
  for (const vma of vmasInOrder(cpu, file)) {
    const start = vmaStart(cpu, vma);
    const pgoff = readAddress(cpu, vma, VmAreaStruct.pgoff);
    const vmaPages = pagesIn(start, vmaEnd(cpu, vma));
    const from = Math.max(first - pgoff, 0);
    const to = Math.min(end - pgoff, vmaPages);
    if (from >= to) continue;
    const mm = read(cpu, vma, VmAreaStruct.mm);
    keepSubscribersOut(cpu, mm);
    zapPageRangeSingle(cpu, vma, start + from * PAGE_SIZE, start + to * PAGE_SIZE, evenCows);
    letSubscribersIn(cpu, mm);
  }
  upRead(cpu, member(file, File.vmasLock));
}

/** The VMAs of the file by where they begin in it, then by age. Its vmasLock must be held. */
function vmasInOrder(cpu: Cpu, file: File): VmAreaStruct[] {
  const found: { vma: VmAreaStruct; pgoff: number }[] = [];
  const head = member(file, File.vmas);
  for (let item = listNext(cpu, head); item !== head; item = listNext(cpu, item)) {
    const vma: VmAreaStruct = containerOf(item, VmAreaStruct.shared);
    found.push({ vma, pgoff: readAddress(cpu, vma, VmAreaStruct.pgoff) });
  }
  found.sort((one, other) => one.pgoff - other.pgoff);
  return found.map(({ vma }) => vma);
}

/**
 * Writes words to the start of a page of the file, which grows if need be: 0, or -ENOMEM. No lock held. Sleeps.
 * @kernel sys_pwrite64
 */
export function pwritePage(cpu: Cpu, file: File, index: number, words: readonly number[]): number {
  downWrite(cpu, member(file, File.invalidateLock));
  const pfn = fileGetPage(cpu, file, index);
  if (pfn === 0) {
    upWrite(cpu, member(file, File.invalidateLock));
    return -ENOMEM;
  }
  for (let i = 0; i < words.length; i++) write(cpu, frameOf(cpu, pfn), frameWord(i), words[i] ?? 0);
  putPage(cpu, pfn);
  const end = index * PAGE_SIZE + words.length * WORD_BYTES;
  if (end > readAddress(cpu, file, File.sizeBytes)) writeAddress(cpu, file, File.sizeBytes, end);
  upWrite(cpu, member(file, File.invalidateLock));
  return 0;
}
