/**
 * Files: memory that outlives its mappings and can have several.
 *
 * Kernel     mm/filemap.c, mm/shmem.c, lib/xarray.c
 * Protocol   The page cache is a radix tree of frames by page number, 64 ways. A page that is not there
 *            is made when it is first asked for: filled with the file's pattern, or with zeroes.
 * Invariant  I1  A frame in the cache has one reference of the cache, Page.mapping = the file and
 *                Page.index = its number.
 *            I2  Two who ask for the same page get the same frame.
 * Ordering   pagesLock protects the tree; vmasLock the list of VMAs. `refs` is atomic.
 * Deviation  There is no disk: nothing is written back, and the cache is the file. Where Linux tries the nodes of
 *            its tree again without the lock if there is no memory at once, this gives up.
 *
 * @module
 */
import { fetchAdd, fillWords, read, readAddress, readOnce, write, writeAddress } from '#memory';

import { bug } from '../base/bug.js';
import { PAGE_SIZE, PAGE_WORDS } from '../base/units.js';
import type { Cpu } from '../machine/cpu.js';
import { frameWord } from '../machine/frame.js';
import { GFP_NOWAIT } from '../machine/gfp.js';
import { lockClass } from '../machine/lock-class.js';
import { opsAt, opsIndex, type OpsTable } from '../machine/ops-table.js';
import { allocPage, frameOf, pageOf, type Pfn } from '../machine/page-alloc.js';
import { kfree, kzalloc } from '../machine/slab.js';
import { Page } from '../machine/types.js';
import {
  containerOf,
  element,
  type Field,
  member,
  NULL,
  type Ptr,
  struct,
  words,
} from '../memory/layout.js';
import { initListHead, listAddTail, listDelInit, listNext } from '../memory/list.js';
import { downWrite, initRwsem, upWrite } from '../sync/rwsem.js';
import { initSpinlock, spinLock, spinUnlock } from '../sync/spinlock.js';
import { lruAdd, lruForgetFile } from './lru.js';
import { getPage, pageIndex, pageMapcount, pageRefcount, putPage, setPageMapping } from './page.js';
import { fillSlot, freeSwapAndCache, readSlot } from './swap.js';
import { File, VmAreaStruct } from './types.js';

const FANOUT = 64;
const RadixNode = struct('radix_node', { slots: words(FANOUT) });
type RadixNode = Ptr<'radix_node'>;

const INVALIDATE_LOCK = lockClass('mapping->invalidate_lock');
const PAGES_LOCK = lockClass('i_pages');
const VMAS_LOCK = lockClass('i_mmap_rwsem');

/**
 * A file of that size, with one reference; NULL if memory is out. `id` seeds what its pages read as
 * before they are written; 0 is a file of zeroes. @kernel shmem_file_setup
 */
export function createFile(cpu: Cpu, sizeBytes: number, id: number): File {
  const file = kzalloc(cpu, File);
  if (file === NULL) return NULL;
  write(cpu, file, File.refs, 1);
  write(cpu, file, File.id, id);
  writeAddress(cpu, file, File.sizeBytes, sizeBytes);
  initRwsem(cpu, member(file, File.invalidateLock), INVALIDATE_LOCK);
  initSpinlock(cpu, member(file, File.pagesLock), PAGES_LOCK);
  initRwsem(cpu, member(file, File.vmasLock), VMAS_LOCK);
  initListHead(cpu, member(file, File.vmas));
  return file;
}

/** What a device's driver is told of a file of its. @kernel struct file_operations */
export interface FileOperations extends OpsTable {
  /** The last reference is gone: that of a descriptor, of a mapping, or of a message on its way. May sleep. */
  readonly release: (cpu: Cpu, file: File) => void;
}

/**
 * An open device, with one reference; NULL if memory is out. The address space that opened it is not part of it:
 * whoever gets the descriptor, by fork or by a message, has the same file. @kernel anon_inode_getfile
 */
export function openDeviceFile(cpu: Cpu, ops: FileOperations, privateData: number): File {
  const file = createFile(cpu, 0, 0);
  if (file === NULL) return NULL;
  write(cpu, file, File.ops, opsIndex(cpu, ops));
  write(cpu, file, File.privateData, privateData);
  return file;
}

/** @kernel get_file */
export function getFile(cpu: Cpu, file: File): void {
  fetchAdd(cpu, file, File.refs, 1);
}

/** Gives a reference back; the last frees the file and its pages. Sleeps. @kernel fput */
export function fput(cpu: Cpu, file: File): void {
  const before = fetchAdd(cpu, file, File.refs, -1);
  if (before <= 0) bug(`file ${file}: reference underflow`);
  if (before !== 1) return;
  const index = read(cpu, file, File.ops);
  if (index !== 0) (opsAt(cpu, index) as FileOperations).release(cpu, file);
  const root = read(cpu, file, File.pages) as RadixNode;
  if (root !== 0) freeRadix(cpu, root, read(cpu, file, File.pagesHeight));
  kfree(cpu, File, file);
}

/** Pages of the file, the last one counted if it is there only in part. */
export function filePages(cpu: Cpu, file: File): number {
  return Math.ceil(readAddress(cpu, file, File.sizeBytes) / PAGE_SIZE);
}

/** The frame of a page of the file, with a reference for the caller, or 0 if it is not in memory. */
export function fileFindPage(cpu: Cpu, file: File, index: number): Pfn {
  const lock = member(file, File.pagesLock);
  spinLock(cpu, lock);
  const found = radixFind(cpu, file, index);
  if (found > 0) getPage(cpu, found);
  spinUnlock(cpu, lock);
  return found > 0 ? found : 0;
}

/**
 * As fileFindPage, making the page if need be; 0 if memory is out. The page lies inside the file.
 * @kernel filemap_fault, shmem_get_folio
 */
export function fileGetPage(cpu: Cpu, file: File, index: number): Pfn {
  const found = fileFindPage(cpu, file, index);
  return found === 0 ? fileAddPage(cpu, file, index) : found;
}

/** Makes a page, unless somebody else has meanwhile (I2). */
function fileAddPage(cpu: Cpu, file: File, index: number): Pfn {
  const fresh = allocPage(cpu);
  if (fresh === 0) return 0;
  fillFilePage(cpu, file, index, fresh);
  const lock = member(file, File.pagesLock);
  spinLock(cpu, lock);
  let pfn = radixFind(cpu, file, index);
  const slot = pfn < 0 ? ~pfn : 0;
  if (slot !== 0) readSlot(cpu, slot, fresh);
  if (pfn < 0) replacePage(cpu, file, index, fresh);
  if (pfn < 0 || (pfn === 0 && radixInsert(cpu, file, index, fresh))) pfn = fresh;
  if (pfn !== 0) getPage(cpu, pfn);
  spinUnlock(cpu, lock);
  if (slot !== 0) freeSwapAndCache(cpu, slot);
  if (pfn === fresh) lruAdd(cpu, pfn);
  else putPage(cpu, fresh);
  return pfn;
}

/** The file that the page belongs to, which something keeps; NULL if it belongs to none. @kernel folio_mapping */
export function fileOfPage(cpu: Cpu, pfn: Pfn): File {
  return readOnce(cpu, pageOf(cpu, pfn), Page.mapping) as File;
}

/**
 * Lets the frame of a page that nobody maps go, its contents to the swap slot: true if the slot is the page's now. The
 * caller has a reference; there may be no other but the cache's (I1). Something keeps the file. @kernel shmem_writepage
 */
export function filePageout(cpu: Cpu, file: File, pfn: Pfn, slot: number): boolean {
  const index = pageIndex(cpu, pfn);
  const lock = member(file, File.pagesLock);
  spinLock(cpu, lock);
  const isIn = radixFind(cpu, file, index) === pfn;
  // the caller's and the cache's
  const canGo = isIn && pageRefcount(cpu, pfn) === 2 && pageMapcount(cpu, pfn) === 0;
  if (canGo) {
    fillSlot(cpu, slot, pfn);
    replacePage(cpu, file, index, ~slot);
  }
  spinUnlock(cpu, lock);
  if (canGo) putPage(cpu, pfn);
  return canGo;
}

/** What an untouched page of the file reads as, in its every word: a mix of file and page number. */
export function filePattern(id: number, index: number): number {
  return id === 0 ? 0 : Math.imul(id, 0x9e3779b1) ^ Math.imul(index + 1, 0x85ebca6b);
}

function fillFilePage(cpu: Cpu, file: File, index: number, pfn: Pfn): void {
  setPageMapping(cpu, pfn, file, index);
  const pattern = filePattern(read(cpu, file, File.id), index);
  const frame = frameOf(cpu, pfn);
  fillWords(cpu, frame, 0, PAGE_WORDS);
  if (pattern === 0) return;
  for (let i = 0; i < PAGE_WORDS; i++) write(cpu, frame, frameWord(i), pattern);
}

// --- the list of VMAs that map a file ---

/** A VMA of the file has been mapped. Sleeps. @kernel vma_link_file */
export function linkFileVma(cpu: Cpu, vma: VmAreaStruct): void {
  const file = read(cpu, vma, VmAreaStruct.file);
  if (file === NULL) return;
  downWrite(cpu, member(file, File.vmasLock));
  linkFileVmaLocked(cpu, vma);
  upWrite(cpu, member(file, File.vmasLock));
}

/** As above; the vmasLock of its file, if it has one, must be held for writing. */
export function linkFileVmaLocked(cpu: Cpu, vma: VmAreaStruct): void {
  const file = read(cpu, vma, VmAreaStruct.file);
  if (file !== NULL) {
    listAddTail(cpu, member(vma, VmAreaStruct.shared), member(file, File.vmas));
  }
}

/** A VMA of the file is about to go. Sleeps. @kernel unlink_file_vma */
export function unlinkFileVma(cpu: Cpu, vma: VmAreaStruct): void {
  const file = read(cpu, vma, VmAreaStruct.file);
  if (file === NULL) return;
  downWrite(cpu, member(file, File.vmasLock));
  unlinkFileVmaLocked(cpu, vma);
  upWrite(cpu, member(file, File.vmasLock));
}

/** As above; the vmasLock of its file, if it has one, must be held for writing. */
export function unlinkFileVmaLocked(cpu: Cpu, vma: VmAreaStruct): void {
  if (read(cpu, vma, VmAreaStruct.file) !== NULL) {
    listDelInit(cpu, member(vma, VmAreaStruct.shared));
  }
}

/** The VMAs of the file by where they begin in it, then by age. Its vmasLock must be held. */
export function vmasOfFile(cpu: Cpu, file: File): VmAreaStruct[] {
  const found: { vma: VmAreaStruct; pgoff: number }[] = [];
  const head = member(file, File.vmas);
  for (let item = listNext(cpu, head); item !== head; item = listNext(cpu, item)) {
    const vma: VmAreaStruct = containerOf(item, VmAreaStruct.shared);
    found.push({ vma, pgoff: readAddress(cpu, vma, VmAreaStruct.pgoff) });
  }
  found.sort((one, other) => one.pgoff - other.pgoff);
  return found.map(({ vma }) => vma);
}

// --- the radix tree; pagesLock must be held, so its nodes are allocated without sleeping ---

function slot(index: number, level: number): Field<'radix_node'> {
  // not by shifts: page numbers of a file have more than 32 bits
  return element(RadixNode.slots, Math.floor(index / FANOUT ** level) % FANOUT);
}

/** True if a tree of that many levels has room for the page number. */
function covers(height: number, index: number): boolean {
  return height > 0 && index < FANOUT ** height;
}

/** The frame; 0 if there is none; the complement of a swap slot's number if the page is there. */
function radixFind(cpu: Cpu, file: File, index: number): Pfn {
  const height = read(cpu, file, File.pagesHeight);
  if (!covers(height, index)) return 0;
  let node = read(cpu, file, File.pages) as RadixNode;
  for (let level = height - 1; level > 0 && node !== 0; level--) {
    node = read(cpu, node, slot(index, level)) as RadixNode;
  }
  return node === 0 ? 0 : read(cpu, node, slot(index, 0));
}

/** Puts something else where there is a page already. */
function replacePage(cpu: Cpu, file: File, index: number, pfn: Pfn): void {
  let node = read(cpu, file, File.pages) as RadixNode;
  for (let level = read(cpu, file, File.pagesHeight) - 1; level > 0; level--) {
    node = read(cpu, node, slot(index, level)) as RadixNode;
  }
  write(cpu, node, slot(index, 0), pfn);
}

/** False if memory is out. */
function radixInsert(cpu: Cpu, file: File, index: number, pfn: Pfn): boolean {
  while (!covers(read(cpu, file, File.pagesHeight), index)) {
    const root = kzalloc(cpu, RadixNode, GFP_NOWAIT);
    if (root === NULL) return false;
    write(cpu, root, slot(0, 0), read(cpu, file, File.pages));
    write(cpu, file, File.pages, root);
    write(cpu, file, File.pagesHeight, read(cpu, file, File.pagesHeight) + 1);
  }
  let node = read(cpu, file, File.pages) as RadixNode;
  for (let level = read(cpu, file, File.pagesHeight) - 1; level > 0; level--) {
    let below = read(cpu, node, slot(index, level)) as RadixNode;
    if (below === 0) {
      below = kzalloc(cpu, RadixNode, GFP_NOWAIT);
      if (below === NULL) return false;
      write(cpu, node, slot(index, level), below);
    }
    node = below;
  }
  write(cpu, node, slot(index, 0), pfn);
  write(cpu, file, File.pageCount, read(cpu, file, File.pageCount) + 1);
  return true;
}

/** Takes the pages from `first` up to `end` out of the cache. The invalidate lock must be held for writing. */
export function fileRemovePages(cpu: Cpu, file: File, first: number, end: number): void {
  const lock = member(file, File.pagesLock);
  for (let index = first; ; index++) {
    spinLock(cpu, lock);
    index = radixNext(cpu, file, index, end);
    const pfn = index < end ? radixFind(cpu, file, index) : 0;
    if (pfn !== 0) {
      replacePage(cpu, file, index, 0);
      write(cpu, file, File.pageCount, read(cpu, file, File.pageCount) - 1);
    }
    spinUnlock(cpu, lock); // reclaim may be at other pages
    if (pfn === 0) return;
    putContents(cpu, pfn);
  }
}

/** The number of the next page from `first` on; `end` if there is none before it. */
function radixNext(cpu: Cpu, file: File, first: number, end: number): number {
  const root = read(cpu, file, File.pages) as RadixNode;
  return root === 0 ? end : nextBelow(cpu, root, read(cpu, file, File.pagesHeight), 0, first, end);
}

/** `from` is the number of the first page that the node may have. */
function nextBelow(
  cpu: Cpu,
  node: RadixNode,
  height: number,
  from: number,
  first: number,
  end: number,
): number {
  const pages = FANOUT ** (height - 1);
  for (let i = 0; i < FANOUT; i++) {
    const at = from + i * pages;
    if (at + pages <= first) continue;
    if (at >= end) break;
    const child = read(cpu, node, element(RadixNode.slots, i));
    if (child === 0) continue;
    if (height === 1) return at;
    const found = nextBelow(cpu, child as RadixNode, height - 1, at, first, end);
    if (found < end) return found;
  }
  return end;
}

/** Gives back what a place in the cache holds: a frame, or the complement of a swap slot. */
function putContents(cpu: Cpu, pfn: Pfn): void {
  if (pfn < 0) {
    freeSwapAndCache(cpu, ~pfn);
    return;
  }
  lruForgetFile(cpu, pfn);
  putPage(cpu, pfn);
}

/** Frees a tree and drops the cache's references to its pages. Nobody else knows the file. */
function freeRadix(cpu: Cpu, node: RadixNode, height: number): void {
  for (let i = 0; i < FANOUT; i++) {
    const child = read(cpu, node, element(RadixNode.slots, i));
    if (child === 0) continue;
    if (height > 1) freeRadix(cpu, child as RadixNode, height - 1);
    else putContents(cpu, child);
  }
  kfree(cpu, RadixNode, node);
}
