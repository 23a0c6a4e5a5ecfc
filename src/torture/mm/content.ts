/**
 * The content model (INV-24): what a CPU or a device loads is what was stored there last.
 *
 * Protocol   In every page two words, its cells, are one CPU's alone. What it stores there, through its own page
 *            table or as an engine of a device, is a tag: who, which page, the how manieth. It remembers what it
 *            stored last, and what it has found since. So each load can be judged at once, by who made it:
 *
 *              page                          must be found
 *              steady, private file          exactly what is remembered
 *              shared                        the same, through whatever address space, of whatever life
 *              volatile, and no danger since the same
 *              volatile, after a danger      that, or what untouched memory reads as, or an older tag of this CPU's
 *                                            (pages move); what is found is remembered
 *              of a life not seen before     as after a danger, but a tag must be of the page (a child's pages are
 *                                            its parent's)
 *
 *            An access may be refused (a hole, no right, no memory); then nothing is stored, and nothing judged.
 *
 *            Dangers are counted before and after whatever may take contents away. A store remembers how many dangers
 *            had ended before it; a load looks how many have begun after it. If both are the same number no danger lay
 *            in between. A load that finds something else makes nothing certain: memory may have been freed (MADV_FREE)
 *            here, where it was moved from or in a parent, and goes at any time until it is stored to.
 *
 *            A child is compared when it is made: the parent's own cells exactly; of other CPUs' that they are
 *            tags of the page, and that a page was copied at one moment: its two cells, which are stored one
 *            after the other, may not be the wrong way round; unless somebody had pinned it, for then a fork copies
 *            it while others write. And it must not change. What is wiped on fork is not there
 *            at all.
 *
 *            A stack that grows and a huge page are a CPU's own for a step (own-operations.ts): exactly what was
 *            stored.
 * Proves     INV-24 for anonymous, file and shared memory, INV-20 and INV-27 as far as a stale access shows in
 *            contents (each frame's generation shows the rest), I1 of fork, I1 of move. Not: what happens
 *            to words that nobody stores to, order between different words, contents of a killed process
 *            (but that a page of it is lost, and not zero).
 * Ordering   A cell has one writer and one judge: no lock.
 *
 * @module
 */
import { read, write } from '#memory';

import { EBUSY, EFAULT, ENOMEM, EPERM, errnoName } from '../../base/errno.js';
import { PAGE_SIZE, PAGE_WORDS, WORD_BYTES } from '../../base/units.js';
import { ENGINE_LOAD, ENGINE_STORE, engineAccess } from '../../drivers/svm/engine.js';
import { svmStats } from '../../drivers/svm/stats.js';
import { type SvmContext, SvmStats } from '../../drivers/svm/types.js';
import type { Cpu } from '../../machine/cpu.js';
import { element, member as memberOf, type Va } from '../../memory/layout.js';
import { loadWord, storeWord } from '../../mm/access.js';
import { filePattern } from '../../mm/file.js';
import type { MmStruct } from '../../mm/types.js';
import type { TortureMember } from '../target.js';
import {
  ALL_PAGES,
  CELLS,
  dangersBegun,
  dangersEnded,
  FILE_ID,
  isIn,
  KNOWN_WORDS,
  Own,
  ownOf,
  pageVa,
  PRIVATE_FILE,
  SHARED,
  type Space,
  STEADY,
  VOLATILE,
  type World,
} from './world.js';

/** Through what a cell is reached, and in which life of which place. */
export interface Way {
  readonly world: World;
  readonly member: TortureMember;
  readonly index: number;
  readonly space: Space;
  readonly life: number;
  /** A CPU's way. */
  readonly mm: MmStruct;
  /** A device's; 0: none. */
  readonly context: SvmContext;
}

const SEQ_BITS = 18;
const SEQ_MAX = (1 << SEQ_BITS) - 1;
const PAGE_BITS = 7;
/** What devices add to. */
export const ADDED_WORD = PAGE_WORDS / 2;

/** What a CPU stores: its number, the page's, and how many it has made. */
function tagOf(cpu: number, page: number, seq: number): number {
  return ((cpu + 1) << (SEQ_BITS + PAGE_BITS)) | (page << SEQ_BITS) | seq;
}

const seqOf = (tag: number): number => tag & SEQ_MAX;
const ownerOf = (tag: number): number => (tag >>> (SEQ_BITS + PAGE_BITS)) - 1;
const pageOfTag = (tag: number): number => (tag >>> SEQ_BITS) & ((1 << PAGE_BITS) - 1);

/** The next tag of this CPU for that page. */
export function newTag(cpu: Cpu, world: World, page: number): number {
  const own = ownOf(cpu, world);
  const seq = (read(cpu, own, Own.seq) % SEQ_MAX) + 1;
  write(cpu, own, Own.seq, seq);
  return tagOf(cpu.id, page, seq);
}

/** The word of a page that is a CPU's cell. */
export function cellWord(owner: number, cell: number): number {
  return cell === 0 ? owner : PAGE_WORDS - 1 - owner;
}

export function cellVa(va: Va, owner: number, cell: number): Va {
  return va + cellWord(owner, cell) * WORD_BYTES;
}

/** What a page reads as that nobody has stored to. */
function untouched(page: number): number {
  return isIn(PRIVATE_FILE, page) ? filePattern(FILE_ID, page - PRIVATE_FILE.first) : 0;
}

// --- what is remembered ---

function knownAt(index: number, page: number, cell: number): number {
  return ((index * ALL_PAGES.pages + page) * CELLS + cell) * KNOWN_WORDS;
}

/** What should be in a cell; undefined if this CPU does not know. */
function remembered(cpu: Cpu, way: Way, page: number, cell: number): number | undefined {
  const own = ownOf(cpu, way.world);
  if (isIn(SHARED, page)) {
    return read(cpu, own, element(Own.shared, (page - SHARED.first) * CELLS + cell));
  }
  const at = knownAt(way.index, page, cell);
  if (read(cpu, own, element(Own.known, at)) !== way.life) return undefined;
  return read(cpu, own, element(Own.known, at + 1));
}

/** How many dangers had ended before what is remembered: it may have been in one ever since. */
const UNCERTAIN = -1;

function remember(
  cpu: Cpu,
  way: Way,
  page: number,
  cell: number,
  value: number,
  ended: number,
): void {
  const own = ownOf(cpu, way.world);
  if (isIn(SHARED, page)) {
    write(cpu, own, element(Own.shared, (page - SHARED.first) * CELLS + cell), value);
    return;
  }
  const at = knownAt(way.index, page, cell);
  write(cpu, own, element(Own.known, at), way.life);
  write(cpu, own, element(Own.known, at + 1), value);
  write(cpu, own, element(Own.known, at + 2), ended);
}

/** True if nothing can have happened to the cell since it was remembered. */
function isCertain(cpu: Cpu, way: Way, page: number, cell: number, begun: number): boolean {
  if (!isIn(VOLATILE, page)) return true;
  const at = knownAt(way.index, page, cell);
  return read(cpu, ownOf(cpu, way.world), element(Own.known, at + 2)) === begun;
}

// --- accesses ---

/** One word by a CPU or a device: 0 (a load's value is in `cpu.loaded`), or -errno. */
function access(cpu: Cpu, way: Way, va: Va, isStore: boolean, value: number): number {
  if (way.context === 0) {
    return isStore ? storeWord(cpu, way.mm, va, value) : loadWord(cpu, way.mm, va);
  }
  return engineWord(cpu, way, va, isStore ? ENGINE_STORE : ENGINE_LOAD, value);
}

/** An access of a device, which must not be stale. */
export function engineWord(cpu: Cpu, way: Way, va: Va, kind: number, value: number): number {
  const stale = read(cpu, svmStats(cpu), SvmStats.stale);
  const engine = memberOf(ownOf(cpu, way.world), Own.engine);
  const error = engineAccess(cpu, way.context, engine, va, kind, value);
  if (read(cpu, svmStats(cpu), SvmStats.stale) !== stale) {
    way.member.fail(
      `a device has used a frame that it no longer maps, at ${va.toString(16)}`,
      'INV-20',
    );
  }
  return error;
}

/** Why an access may be refused. */
const REFUSALS: ReadonlySet<number> = new Set([-EFAULT, -ENOMEM, -EPERM, -EBUSY]);

function checkRefusal(way: Way, error: number): void {
  if (REFUSALS.has(error)) return;
  way.member.fail(`an access is refused with ${errnoName(error)}`);
}

/** Stores a new tag into a cell; false if that was refused. */
export function storeCell(cpu: Cpu, way: Way, page: number, cell: number, tag: number): boolean {
  const ended = dangersEnded(cpu, way.space, page);
  const error = access(cpu, way, cellVa(pageVa(page), cpu.id, cell), true, tag);
  if (error !== 0) {
    checkRefusal(way, error);
    return false;
  }
  remember(cpu, way, page, cell, tag, ended);
  return true;
}

/** Loads a cell, and judges what is found; false if that was refused. */
export function lookAtCell(cpu: Cpu, way: Way, page: number, cell: number): boolean {
  const error = access(cpu, way, cellVa(pageVa(page), cpu.id, cell), false, 0);
  if (error !== 0) {
    checkRefusal(way, error);
    return false;
  }
  const found = cpu.loaded;
  judge(cpu, way, page, cell, found);
  if (found !== remembered(cpu, way, page, cell)) {
    remember(cpu, way, page, cell, found, UNCERTAIN);
  }
  return true;
}

/** Ends the run if a cell cannot read as `found`. */
export function judge(cpu: Cpu, way: Way, page: number, cell: number, found: number): void {
  const begun = dangersBegun(cpu, way.space, page); // after the load
  const expected = remembered(cpu, way, page, cell);
  if (expected === found) return;
  if (expected !== undefined && isCertain(cpu, way, page, cell, begun)) {
    wrong(cpu, way, page, cell, found, tagText(expected));
  }
  if (found === untouched(page) || isBase(page, found)) return;
  const isTag = ownerOf(found) === cpu.id && seqOf(found) !== 0;
  const mayHaveMoved = isIn(VOLATILE, page) && isIn(VOLATILE, pageOfTag(found));
  if (isTag && (pageOfTag(found) === page || mayHaveMoved)) return;
  wrong(cpu, way, page, cell, found, 'a tag of this cpu for this page, or nothing');
}

/** A volatile page may be anonymous, or a page of the private file. */
function isBase(page: number, found: number): boolean {
  if (!isIn(VOLATILE, page)) return false;
  if (found === 0) return true;
  for (let i = 0; i < PRIVATE_FILE.pages; i++) if (filePattern(FILE_ID, i) === found) return true;
  return false;
}

function wrong(
  cpu: Cpu,
  way: Way,
  page: number,
  cell: number,
  found: number,
  expected: string,
): never {
  const through = way.context === 0 ? 'through the page table' : 'by a device';
  way.member.fail(
    `cell ${cell} of page ${page} of space ${way.index}, life ${way.life}, mm ${way.mm}, is ` +
      `${tagText(found)} ${through}, and should be ${expected} (cpu ${cpu.id})`,
    'INV-24',
  );
}

/** `cpu 3's 17 for page 5`, or the word. */
function tagText(tag: number): string {
  if (tag === 0) return '0';
  if (ownerOf(tag) < 0 || pageOfTag(tag) >= ALL_PAGES.pages) return `0x${(tag >>> 0).toString(16)}`;
  return `cpu ${ownerOf(tag)}'s ${seqOf(tag)} for page ${pageOfTag(tag)}`;
}

// --- pages that are moved, copied or mapped twice ---

/** Looks at this CPU's cells of a steady page at another address. */
export function lookElsewhere(cpu: Cpu, way: Way, page: number, va: Va): void {
  for (let cell = 0; cell < CELLS; cell++) {
    if (loadWord(cpu, way.mm, cellVa(va, cpu.id, cell)) !== 0) return;
    judge(cpu, way, page, cell, cpu.loaded);
  }
}

/**
 * Compares some pages of a child, which nobody else knows, with what its parent must have had; the caller has
 * forked, and has not stored since. `others` is how many CPUs there are, `isWhole` that nobody had pinned a page.
 */
export function lookAtChild(
  cpu: Cpu,
  way: Way,
  child: MmStruct,
  others: number,
  isWhole: boolean,
): void {
  const page = STEADY.first + way.member.random(STEADY.pages + PRIVATE_FILE.pages);
  const va = pageVa(page);
  for (let cell = 0; cell < CELLS; cell++) {
    if (loadWord(cpu, child, cellVa(va, cpu.id, cell)) !== 0) return;
    judge(cpu, way, page, cell, cpu.loaded);
  }
  const owner = way.member.random(others);
  const before = pairOf(cpu, child, va, owner);
  way.member.noise(cpu);
  const after = pairOf(cpu, child, va, owner);
  if (before === undefined || after === undefined) return;
  checkTags(way, page, owner, before);
  if (isWhole) checkPair(way, page, before);
  if (before[0] !== after[0] || before[1] !== after[1]) {
    way.member.fail(`page ${page} of a child changes: its parent still writes it`, 'INV-24');
  }
}

function pairOf(
  cpu: Cpu,
  mm: MmStruct,
  va: Va,
  owner: number,
): readonly [number, number] | undefined {
  if (loadWord(cpu, mm, cellVa(va, owner, 0)) !== 0) return undefined;
  const first = cpu.loaded;
  if (loadWord(cpu, mm, cellVa(va, owner, 1)) !== 0) return undefined;
  return [first, cpu.loaded];
}

function checkTags(way: Way, page: number, owner: number, pair: readonly [number, number]): void {
  for (const value of pair) {
    const isTag = ownerOf(value) === owner && pageOfTag(value) === page;
    if (value === untouched(page) || isTag) continue;
    way.member.fail(
      `page ${page} of a child has ${tagText(value)} in a cell of cpu ${owner}`,
      'INV-24',
    );
  }
}

/** The first cell is stored before the second: a copy that has the second only was torn. */
function checkPair(way: Way, page: number, pair: readonly [number, number]): void {
  const [first, second] = pair;
  if (second === untouched(page)) return;
  const isOlder =
    first === untouched(page) || ((seqOf(first) - seqOf(second)) & SEQ_MAX) > SEQ_MAX / 2;
  if (!isOlder) return;
  way.member.fail(
    `page ${page} of a child was copied while it was written: ${tagText(first)}, then ${tagText(second)}`,
    'INV-24',
  );
}

/** Bytes of a run of pages. */
export function bytesOf(pages: number): number {
  return pages * PAGE_SIZE;
}
