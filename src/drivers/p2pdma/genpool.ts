/**
 * Pools of pages that somebody else has: who takes some is told whose they are.
 *
 * Kernel     lib/genalloc.c
 * Protocol   A pool is a chain of chunks, which only grows until the pool goes. A chunk has a bit for each page; the
 *            first fit in the chunk that came last is taken.
 * Invariant  I1  A page is taken by at most one at a time.
 *            I2  A pool that goes has all of its pages.
 * Ordering   GenPool.lock protects chain and bits. What a chunk says of itself is written before it is in the chain.
 * Deviation  Linux sets bits by compare and exchange, with no lock. A chunk has POOL_PAGES_MAX pages at most.
 *
 * @module
 */
import { read, write } from '#memory';

import { bug } from '../../base/bug.js';
import { EINVAL, ENOMEM } from '../../base/errno.js';
import type { Cpu } from '../../machine/cpu.js';
import { lockClass } from '../../machine/lock-class.js';
import type { Pfn } from '../../machine/page-alloc.js';
import { kfree, kzalloc } from '../../machine/slab.js';
import { Spinlock } from '../../machine/types.js';
import {
  element,
  member,
  NULL,
  pointer,
  type Ptr,
  struct,
  word,
  words,
} from '../../memory/layout.js';
import { initSpinlock, spinLock, spinUnlock } from '../../sync/spinlock.js';

const BITS = 32;
/** Pages of one chunk at most. */
export const POOL_PAGES_MAX = 1024;

/** Pages that came together. @kernel struct gen_pool_chunk */
export const GenPoolChunk = struct('gen_pool_chunk', {
  next: pointer<'gen_pool_chunk'>(),
  first: word, // unit: frames
  pages: word,
  owner: word, // whoever added them: what they will
  withdrawn: word, // none of its pages is given out any more; under GenPool.lock
  taken: words(POOL_PAGES_MAX / BITS), // a bit for each page; under GenPool.lock
});
export type GenPoolChunk = Ptr<'gen_pool_chunk'>;

/** @kernel struct gen_pool */
export const GenPool = struct('gen_pool', {
  lock: Spinlock,
  chunks: pointer<'gen_pool_chunk'>(), // the last that came is first; under lock
});
export type GenPool = Ptr<'gen_pool'>;

const POOL_LOCK = lockClass('gen_pool->lock');

/** An empty pool; NULL if memory is out. @kernel gen_pool_create */
export function genPoolCreate(cpu: Cpu): GenPool {
  const pool = kzalloc(cpu, GenPool);
  if (pool !== NULL) initSpinlock(cpu, member(pool, GenPool.lock), POOL_LOCK);
  return pool;
}

/** Adds pages, which belong to `owner`: 0, -EINVAL if they are too many, -ENOMEM. @kernel gen_pool_add_owner */
export function genPoolAddOwner(
  cpu: Cpu,
  pool: GenPool,
  first: Pfn,
  pages: number,
  owner: number,
): number {
  if (pages < 1 || pages > POOL_PAGES_MAX) return -EINVAL;
  const chunk = kzalloc(cpu, GenPoolChunk);
  if (chunk === NULL) return -ENOMEM;
  write(cpu, chunk, GenPoolChunk.first, first);
  write(cpu, chunk, GenPoolChunk.pages, pages);
  write(cpu, chunk, GenPoolChunk.owner, owner);
  spinLock(cpu, member(pool, GenPool.lock));
  write(cpu, chunk, GenPoolChunk.next, read(cpu, pool, GenPool.chunks));
  write(cpu, pool, GenPool.chunks, chunk);
  spinUnlock(cpu, member(pool, GenPool.lock));
  return 0;
}

/** Takes that many pages in a row: the first of them, or 0 if there are none. @kernel gen_pool_alloc_owner */
export function genPoolAlloc(cpu: Cpu, pool: GenPool, pages: number): Pfn {
  let found = 0;
  spinLock(cpu, member(pool, GenPool.lock));
  let chunk = read(cpu, pool, GenPool.chunks);
  while (chunk !== NULL && found === 0) {
    const isOffered = read(cpu, chunk, GenPoolChunk.withdrawn) === 0;
    const from = isOffered ? firstFit(cpu, chunk, pages) : -1;
    if (from >= 0) {
      setTaken(cpu, chunk, from, pages, true);
      found = read(cpu, chunk, GenPoolChunk.first) + from;
    }
    chunk = read(cpu, chunk, GenPoolChunk.next);
  }
  spinUnlock(cpu, member(pool, GenPool.lock));
  return found;
}

/** Whose a page of the pool is; the caller has taken it. */
export function genPoolOwner(cpu: Cpu, pool: GenPool, pfn: Pfn): number {
  spinLock(cpu, member(pool, GenPool.lock));
  const owner = read(cpu, chunkOf(cpu, pool, pfn), GenPoolChunk.owner);
  spinUnlock(cpu, member(pool, GenPool.lock));
  return owner;
}

/** Gives pages back that were taken together, or some of them; returns whose they are. @kernel gen_pool_free_owner */
export function genPoolFree(cpu: Cpu, pool: GenPool, pfn: Pfn, pages: number): number {
  spinLock(cpu, member(pool, GenPool.lock));
  const chunk = chunkOf(cpu, pool, pfn);
  setTaken(cpu, chunk, pfn - read(cpu, chunk, GenPoolChunk.first), pages, false);
  const owner = read(cpu, chunk, GenPoolChunk.owner);
  spinUnlock(cpu, member(pool, GenPool.lock));
  return owner;
}

/** None of the pages that belong to `owner` is given out any more; those that are taken may be given back. */
export function genPoolWithdraw(cpu: Cpu, pool: GenPool, owner: number): void {
  spinLock(cpu, member(pool, GenPool.lock));
  let chunk = read(cpu, pool, GenPool.chunks);
  while (chunk !== NULL) {
    const isTheirs = read(cpu, chunk, GenPoolChunk.owner) === owner;
    if (isTheirs) write(cpu, chunk, GenPoolChunk.withdrawn, 1);
    chunk = read(cpu, chunk, GenPoolChunk.next);
  }
  spinUnlock(cpu, member(pool, GenPool.lock));
}

/** Frees a pool that nobody else knows any more (I2). @kernel gen_pool_destroy */
export function genPoolDestroy(cpu: Cpu, pool: GenPool): void {
  let chunk = read(cpu, pool, GenPool.chunks);
  while (chunk !== NULL) {
    const next = read(cpu, chunk, GenPoolChunk.next);
    const pages = read(cpu, chunk, GenPoolChunk.pages);
    for (let i = 0; i < pages; i++) {
      if (isTaken(cpu, chunk, i)) bug(`pool ${pool} is destroyed while a page of it is in use`);
    }
    kfree(cpu, GenPoolChunk, chunk);
    chunk = next;
  }
  kfree(cpu, GenPool, pool);
}

// --- bits; GenPool.lock must be held ---

function chunkOf(cpu: Cpu, pool: GenPool, pfn: Pfn): GenPoolChunk {
  let chunk = read(cpu, pool, GenPool.chunks);
  while (chunk !== NULL) {
    const first = read(cpu, chunk, GenPoolChunk.first);
    if (pfn >= first && pfn < first + read(cpu, chunk, GenPoolChunk.pages)) return chunk;
    chunk = read(cpu, chunk, GenPoolChunk.next);
  }
  return bug(`frame ${pfn} is not of pool ${pool}`);
}

/** The first of so many free pages in a row; -1 if there are none. */
function firstFit(cpu: Cpu, chunk: GenPoolChunk, wanted: number): number {
  const pages = read(cpu, chunk, GenPoolChunk.pages);
  let free = 0;
  for (let i = 0; i < pages; i++) {
    free = isTaken(cpu, chunk, i) ? 0 : free + 1;
    if (free === wanted) return i + 1 - wanted;
  }
  return -1;
}

function isTaken(cpu: Cpu, chunk: GenPoolChunk, index: number): boolean {
  const bits = read(cpu, chunk, element(GenPoolChunk.taken, Math.floor(index / BITS)));
  return (bits & (1 << (index % BITS))) !== 0;
}

function setTaken(cpu: Cpu, chunk: GenPoolChunk, from: number, pages: number, to: boolean): void {
  for (let i = from; i < from + pages; i++) {
    if (isTaken(cpu, chunk, i) === to)
      bug(`page ${i} of chunk ${chunk} is ${to ? 'taken' : 'free'}`);
    const at = element(GenPoolChunk.taken, Math.floor(i / BITS));
    write(cpu, chunk, at, read(cpu, chunk, at) ^ (1 << (i % BITS))); // I1
  }
}
