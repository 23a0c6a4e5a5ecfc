/**
 * Structs in shared memory: one cache for each kind, with a magazine for each CPU.
 *
 * Kernel     mm/slub.c
 * Protocol   A slab is a frame cut into objects; free objects are chained through their first word.
 *            A CPU allocates from its magazine and frees into it; half a magazine at a time is traded
 *            with the slabs under the cache's lock. A slab without objects gives its frame back.
 *            Caches are made on first use and found by the name of their struct.
 * Invariant  I1  A free object is in exactly one of: a slab's chain, a magazine.
 *            I2  Only its own CPU touches a magazine.
 * Ordering   KmemCache.lock protects the slabs; Machine.slabLock the table of caches.
 *            Handing out and giving back are noted for whoever looks for uses of freed memory. From noteFree
 *            to noteAlloc nobody may touch an object but this file: it keeps its chains in them through
 *            readOwn and writeOwn, which nobody looks at, and the cache's lock orders them.
 * Deviation  An object is at most half a frame; `allocWords` serves larger arrays from whole frames.
 *
 * @module
 */
import {
  BUILD,
  fillWords,
  noteAlloc,
  noteFrame,
  noteFree,
  noteSlab,
  read,
  readOwn,
  write,
  writeOnce,
  writeOwn,
} from '#memory';

import { bug } from '../base/bug.js';
import { hashName } from '../base/hash.js';
import { PAGE_WORDS } from '../base/units.js';
import { CACHELINE_WORDS, element, member, pointer, type Ptr, struct } from '../memory/layout.js';
import { archSpinLock, archSpinUnlock, initSpinlock } from './arch-spinlock.js';
import type { Cpu } from './cpu.js';
import { allocationSite, isArmed, shouldFail } from './fail.js';
import { GFP_KERNEL, GFP_NOWAIT, mightAlloc } from './gfp.js';
import { lockClass } from './lock-class.js';
import {
  allocPage,
  allocPages,
  frameOf,
  freePage,
  freePages,
  pageOf,
  type Pfn,
  pfnOfWord,
  PG_SLAB,
} from './page-alloc.js';
import { allocPercpu, perCpuPtr, thisCpuPtr } from './percpu.js';
import {
  KmemCache,
  MACHINE,
  Machine,
  Magazine,
  MAGAZINE_OBJECTS,
  Page,
  SLAB_CACHES_MAX,
} from './types.js';

/** What a cache needs to know of a struct; every layout has it. */
export interface ObjectLayout<S extends string> {
  readonly structName: S;
  readonly words: number;
}

/** A free object of a slab: the chain goes through its first word. */
const FreeObject = struct('free_object', { next: pointer<'free_object'>() });
type FreeObject = Ptr<'free_object'>;

const CACHE_LOCK = lockClass('kmem_cache->lock');
/** Objects start on cache lines, as layouts may ask for; so a pointer has free low bits for flags. */
const OBJECT_ALIGNMENT = CACHELINE_WORDS;
const HALF_MAGAZINE = MAGAZINE_OBJECTS / 2;

/** A zeroed struct, or NULL if memory is out (-ENOMEM to whoever asked). May sleep by `gfp`. @kernel kzalloc */
export function kzalloc<S extends string>(
  cpu: Cpu,
  layout: ObjectLayout<S>,
  gfp = GFP_KERNEL,
): Ptr<S> {
  mightAlloc(cpu, gfp);
  if (isArmed(cpu) && shouldFail(cpu, allocationSite(layout.structName))) return 0 as Ptr<S>;
  const cache = cacheOf(cpu, layout);
  if (cache === 0) return 0 as Ptr<S>;
  const magazine = thisCpuPtr<'magazine'>(cpu, read(cpu, cache, KmemCache.magazines));
  let count = read(cpu, magazine, Magazine.count);
  if (count === 0) {
    count = refill(cpu, cache, magazine);
    if (count === 0) return 0 as Ptr<S>;
  }
  const object = read(cpu, magazine, element(Magazine.objects, count - 1));
  write(cpu, magazine, Magazine.count, count - 1);
  write(cpu, magazine, Magazine.allocations, read(cpu, magazine, Magazine.allocations) + 1);
  noteAlloc(cpu, object, layout.words);
  fillWords(cpu, object, 0, layout.words);
  return object as Ptr<S>;
}

/** Gives a struct back. NULL is allowed. @kernel kfree */
export function kfree<S extends string>(cpu: Cpu, layout: ObjectLayout<S>, object: Ptr<S>): void {
  if (object === 0) return;
  if (BUILD !== 'parallel') cpu.lockWatch?.onFree(cpu, object, layout.words);
  noteFree(cpu, object, layout.words);
  putObject(cpu, cacheOf(cpu, layout), object, layout.structName);
}

/** As kfree, for who does not know what struct it is: the frame that it lies in says so. */
export function kfreeObject(cpu: Cpu, object: number): void {
  const slab = pageOf(cpu, pfnOfWord(cpu, object));
  const cache = read(cpu, slab, Page.private) as KmemCache;
  noteFree(cpu, object, read(cpu, cache, KmemCache.structWords));
  putObject(cpu, cache, object, 'object');
}

function putObject(cpu: Cpu, cache: KmemCache, object: number, name: string): void {
  const magazine = thisCpuPtr<'magazine'>(cpu, read(cpu, cache, KmemCache.magazines));
  if (read(cpu, magazine, Magazine.count) === MAGAZINE_OBJECTS) flush(cpu, cache, magazine);
  const count = read(cpu, magazine, Magazine.count);
  if (count > 0 && read(cpu, magazine, element(Magazine.objects, count - 1)) === object) {
    bug(`${name} ${object} was freed twice`);
  }
  write(cpu, magazine, element(Magazine.objects, count), object);
  write(cpu, magazine, Magazine.count, count + 1);
  write(cpu, magazine, Magazine.allocations, read(cpu, magazine, Magazine.allocations) - 1);
}

/** Whole frames in a row for an array of `words` words, zeroed; 0 if memory is out. @kernel kvzalloc */
export function allocWords(cpu: Cpu, words: number): number {
  const pfn = allocPages(cpu, orderFor(words));
  if (pfn === 0) return 0;
  const start: number = frameOf(cpu, pfn);
  fillWords(cpu, start, 0, words);
  return start;
}

/** Gives back what allocWords gave. @kernel kvfree */
export function freeWords(cpu: Cpu, start: number, words: number): void {
  freePages(cpu, pfnOfWord(cpu, start), orderFor(words));
}

function orderFor(words: number): number {
  return Math.max(0, Math.ceil(Math.log2(words / PAGE_WORDS)));
}

/** Structs of a kind in somebody's hands. Exact only while nobody allocates or frees. */
export function allocatedObjects<S extends string>(cpu: Cpu, layout: ObjectLayout<S>): number {
  const cache = cacheOf(cpu, layout);
  const magazines = read(cpu, cache, KmemCache.magazines);
  const cpus = read(cpu, MACHINE, Machine.cpus) + 1;
  let sum = 0;
  for (let id = 0; id < cpus; id++) {
    const magazine = perCpuPtr<'magazine'>(cpu, magazines, id);
    sum += read(cpu, magazine, Magazine.allocations);
  }
  return sum;
}

/** Frames that all caches occupy, their slabs and the caches themselves. */
export function slabFrames(cpu: Cpu): number {
  let frames = 0;
  for (let slot = 0; slot < SLAB_CACHES_MAX; slot++) {
    const cache = read(cpu, MACHINE, element(Machine.slabCaches, slot)) as KmemCache;
    if (cache !== 0) frames += 1 + read(cpu, cache, KmemCache.slabs);
  }
  return frames;
}

// --- slabs ---

/** Fills half of an empty magazine; returns how many objects it has then. */
function refill(cpu: Cpu, cache: KmemCache, magazine: Magazine): number {
  const lock = member(cache, KmemCache.lock);
  archSpinLock(cpu, lock);
  let count = 0;
  while (count < HALF_MAGAZINE) {
    const object = takeObject(cpu, cache);
    if (object === 0) break;
    write(cpu, magazine, element(Magazine.objects, count++), object);
  }
  archSpinUnlock(cpu, lock);
  write(cpu, magazine, Magazine.count, count);
  return count;
}

/** Empties the older half of a full magazine. */
function flush(cpu: Cpu, cache: KmemCache, magazine: Magazine): void {
  const lock = member(cache, KmemCache.lock);
  archSpinLock(cpu, lock);
  for (let i = 0; i < HALF_MAGAZINE; i++) {
    returnObject(cpu, cache, read(cpu, magazine, element(Magazine.objects, i)));
    const kept = read(cpu, magazine, element(Magazine.objects, i + HALF_MAGAZINE));
    write(cpu, magazine, element(Magazine.objects, i), kept);
  }
  archSpinUnlock(cpu, lock);
  write(cpu, magazine, Magazine.count, HALF_MAGAZINE);
}

/** KmemCache.lock must be held. */
function takeObject(cpu: Cpu, cache: KmemCache): number {
  let pfn = read(cpu, cache, KmemCache.partial);
  if (pfn === 0) {
    pfn = newSlab(cpu, cache);
    if (pfn === 0) return 0;
  }
  const slab = pageOf(cpu, pfn);
  const object = read(cpu, slab, Page.freelist) as FreeObject;
  const next = readOwn(cpu, object, FreeObject.next);
  write(cpu, slab, Page.freelist, next);
  write(cpu, slab, Page.inuse, read(cpu, slab, Page.inuse) + 1);
  if (next === 0) unlinkPartial(cpu, cache, slab);
  return object;
}

/** KmemCache.lock must be held. */
function returnObject(cpu: Cpu, cache: KmemCache, object: number): void {
  const pfn = pfnOfWord(cpu, object);
  const slab = pageOf(cpu, pfn);
  if ((read(cpu, slab, Page.flags) & PG_SLAB) === 0) bug(`object ${object} is of no slab`);
  if (read(cpu, slab, Page.private) !== cache) bug(`object ${object} is of another cache's slab`);
  const head = read(cpu, slab, Page.freelist);
  writeOwn(cpu, object as FreeObject, FreeObject.next, head as FreeObject);
  write(cpu, slab, Page.freelist, object);
  const inuse = read(cpu, slab, Page.inuse) - 1;
  write(cpu, slab, Page.inuse, inuse);
  if (head === 0) linkPartial(cpu, cache, pfn);
  if (inuse === 0) {
    unlinkPartial(cpu, cache, slab);
    write(cpu, cache, KmemCache.slabs, read(cpu, cache, KmemCache.slabs) - 1);
    noteFrame(cpu, frameOf(cpu, pfn), PAGE_WORDS);
    freePage(cpu, pfn);
  }
}

function newSlab(cpu: Cpu, cache: KmemCache): Pfn {
  const pfn = allocPage(cpu, GFP_NOWAIT); // under a lock: kzalloc has said what it may do
  if (pfn === 0) return 0;
  const slab = pageOf(cpu, pfn);
  const start: number = frameOf(cpu, pfn);
  const size = read(cpu, cache, KmemCache.objectWords);
  const last = read(cpu, cache, KmemCache.objectsPerSlab) - 1;
  noteSlab(cpu, start, PAGE_WORDS);
  for (let i = 0; i <= last; i++) {
    const object = (start + i * size) as FreeObject;
    writeOwn(cpu, object, FreeObject.next, (i === last ? 0 : object + size) as FreeObject);
  }
  writeOnce(cpu, slab, Page.flags, PG_SLAB); // the page allocator looks at its neighbours'
  write(cpu, slab, Page.private, cache);
  write(cpu, slab, Page.freelist, start);
  write(cpu, slab, Page.inuse, 0);
  write(cpu, cache, KmemCache.slabs, read(cpu, cache, KmemCache.slabs) + 1);
  linkPartial(cpu, cache, pfn);
  return pfn;
}

function linkPartial(cpu: Cpu, cache: KmemCache, pfn: Pfn): void {
  const slab = pageOf(cpu, pfn);
  const head = read(cpu, cache, KmemCache.partial);
  write(cpu, slab, Page.prev, 0);
  write(cpu, slab, Page.next, head);
  if (head !== 0) write(cpu, pageOf(cpu, head), Page.prev, pfn);
  write(cpu, cache, KmemCache.partial, pfn);
}

function unlinkPartial(cpu: Cpu, cache: KmemCache, slab: Page): void {
  const next = read(cpu, slab, Page.next);
  const prev = read(cpu, slab, Page.prev);
  if (prev === 0) write(cpu, cache, KmemCache.partial, next);
  else write(cpu, pageOf(cpu, prev), Page.next, next);
  if (next !== 0) write(cpu, pageOf(cpu, next), Page.prev, prev);
}

// --- the table of caches ---

function cacheOf<S extends string>(cpu: Cpu, layout: ObjectLayout<S>): KmemCache {
  return cpu.slabs.get(layout.structName) ?? findCache(cpu, layout);
}

/** Finds the cache of a struct, or makes it; NULL if memory is out. */
function findCache<S extends string>(cpu: Cpu, layout: ObjectLayout<S>): KmemCache {
  const lock = member(MACHINE, Machine.slabLock);
  const hash = hashName(layout.structName);
  archSpinLock(cpu, lock);
  let cache = 0 as KmemCache;
  for (let slot = 0; ; slot++) {
    if (slot === SLAB_CACHES_MAX) bug(`no slab cache is left for struct ${layout.structName}`);
    const name = read(cpu, MACHINE, element(Machine.slabNames, slot));
    if (name === hash) {
      cache = read(cpu, MACHINE, element(Machine.slabCaches, slot)) as KmemCache;
      if (read(cpu, cache, KmemCache.structWords) !== layout.words) {
        bug(`the slab cache of struct ${layout.structName} has objects of another size`);
      }
      break;
    }
    if (name !== 0) continue;
    cache = newCache(cpu, layout);
    if (cache === 0) break;
    write(cpu, MACHINE, element(Machine.slabCaches, slot), cache);
    write(cpu, MACHINE, element(Machine.slabNames, slot), hash);
    break;
  }
  archSpinUnlock(cpu, lock);
  if (cache !== 0) cpu.slabs.set(layout.structName, cache);
  return cache;
}

/** What an object takes of a slab: with a redzone behind it that nobody may touch, where somebody looks. */
function objectWordsOf<S extends string>(cpu: Cpu, layout: ObjectLayout<S>): number {
  const redzone = read(cpu, MACHINE, Machine.redzoneWords);
  const size = Math.ceil((layout.words + redzone) / OBJECT_ALIGNMENT) * OBJECT_ALIGNMENT;
  return Math.max(layout.words, Math.min(size, PAGE_WORDS / 2));
}

/** A cache's own struct takes a frame of its own: there are few, and they live as long as the machine. */
function newCache<S extends string>(cpu: Cpu, layout: ObjectLayout<S>): KmemCache {
  const size = objectWordsOf(cpu, layout);
  if (size > PAGE_WORDS / 2) bug(`struct ${layout.structName} is too large for a slab`);
  const pfn = allocPage(cpu, GFP_NOWAIT); // under a lock: kzalloc has said what it may do
  if (pfn === 0) return 0 as KmemCache;
  const cache = frameOf(cpu, pfn) as number as KmemCache;
  fillWords(cpu, cache, 0, KmemCache.words);
  initSpinlock(cpu, member(cache, KmemCache.lock), CACHE_LOCK);
  write(cpu, cache, KmemCache.objectWords, size);
  write(cpu, cache, KmemCache.structWords, layout.words);
  write(cpu, cache, KmemCache.objectsPerSlab, Math.floor(PAGE_WORDS / size));
  write(cpu, cache, KmemCache.magazines, allocPercpu(cpu, Magazine.words));
  return cache;
}
