/**
 * Names for words of a machine's memory: `mmu_interval_notifier.invalidateSeq of mmu_interval_notifier@41216`, and
 * not 41232.
 *
 * Protocol   A word lies in a CPU's area, a CPU's part of the per-CPU region, the machine's own struct, a
 *            Page, or a frame. A frame of a slab says which cache it is of, and that which struct: so an
 *            object is known without a note of its making. Memory is looked at as it is: on a machine that
 *            runs, what is said of a frame that changes hands meanwhile may be wrong.
 *
 * @module
 */
import { hashName } from '../base/hash.js';
import { PAGE_WORDS } from '../base/units.js';
import { CPU_AREAS } from '../machine/cpu.js';
import { PG_SLAB, PG_TABLE } from '../machine/page-alloc.js';
import { SCRATCH_WORDS, STACK_WORDS } from '../machine/stack.js';
import { CpuArea, KmemCache, MACHINE, Machine, Page, SLAB_CACHES_MAX } from '../machine/types.js';
import { declaredStructs, type StructInfo } from '../memory/layout.js';

/** What a word is called. */
export interface WordName {
  /** `mmu_interval_notifier.invalidateSeq of world.interval` */
  readonly full: string;
  /** `world.interval.invalidateSeq`, `world.mm->subscriptions->wait.head.next` */
  readonly path: string;
  /** The end of the path: `interval.invalidateSeq`. */
  readonly short: string;
  /** How the member was declared: `word`, `address`, … */
  readonly type: string;
}

/** An object, and what it is called. */
export interface KnownObject {
  readonly at: number;
  readonly layout: StructInfo;
  /** What it takes of its slab, if it is in one. Unit: words. */
  readonly size?: number;
  readonly path: string;
}

/** What a word is called that no pointer is known to lead to. */
export function nameOfWord(words: Int32Array, at: number): WordName {
  const object = objectAround(words, at);
  return object === undefined ? placeOf(words, at) : nameIn(object, at);
}

/** The object of a slab that the word lies in. */
export function objectAround(words: Int32Array, at: number): KnownObject | undefined {
  const frames = machineWord(words, Machine.frames);
  const pfn = Math.floor((at - frames) / PAGE_WORDS);
  if (pfn < 0 || pfn >= machineWord(words, Machine.frameCount)) return undefined;
  const page = machineWord(words, Machine.pages) + pfn * Page.words;
  if ((wordAt(words, page + Page.flags) & PG_SLAB) === 0) return undefined;
  const cache = wordAt(words, page + Page.private);
  const layout = structOf(words, cache);
  if (layout === undefined) return undefined;
  const frame = frames + pfn * PAGE_WORDS;
  const size = wordAt(words, cache + KmemCache.objectWords);
  const start = at - ((at - frame) % size);
  return { at: start, layout, size, path: `${layout.structName}@${start}` };
}

function structOf(words: Int32Array, cache: number): StructInfo | undefined {
  for (let slot = 0; slot < SLAB_CACHES_MAX; slot++) {
    if (machineWord(words, Machine.slabCaches + slot) !== cache) continue;
    const hash = machineWord(words, Machine.slabNames + slot);
    for (const [name, layout] of declaredStructs()) if (hashName(name) === hash) return layout;
  }
  return undefined;
}

/** A word that is in no object of a slab. */
export function placeOf(words: Int32Array, at: number): WordName {
  const cpus = machineWord(words, Machine.cpus) + 1;
  const area = Math.floor((at - CPU_AREAS) / CpuArea.words);
  if (at >= MACHINE && at < MACHINE + Machine.words) {
    return nameIn({ at: MACHINE, layout: Machine, path: 'machine' }, at);
  }
  if (area >= 0 && area < cpus) {
    const start = CPU_AREAS + area * CpuArea.words;
    return nameIn({ at: start, layout: CpuArea, path: cpuName(words, area) }, at);
  }
  const stride = machineWord(words, Machine.percpuStride);
  const inPercpu = at - machineWord(words, Machine.percpu);
  const owner = Math.floor(inPercpu / stride);
  if (inPercpu >= 0 && owner < cpus) {
    return plain(percpuName(cpuName(words, owner), inPercpu % stride));
  }
  return framePlace(words, at);
}

function framePlace(words: Int32Array, at: number): WordName {
  const pages = machineWord(words, Machine.pages);
  const frames = machineWord(words, Machine.frames);
  const count = machineWord(words, Machine.frameCount);
  const page = Math.floor((at - pages) / Page.words);
  if (page >= 0 && page < count) {
    const start = pages + page * Page.words;
    return nameIn({ at: start, layout: Page, path: `page[${page}]` }, at);
  }
  const pfn = Math.floor((at - frames) / PAGE_WORDS);
  if (pfn < 0 || pfn >= count) return plain(`word ${at}`);
  const inFrame = (at - frames) % PAGE_WORDS;
  const flags = wordAt(words, pages + pfn * Page.words + Page.flags);
  return (flags & PG_TABLE) !== 0
    ? plain(`table[${pfn}][${inFrame >> 1}]${inFrame % 2 === 0 ? '' : ' generation'}`)
    : plain(`frame[${pfn}] word ${inFrame}`);
}

/** What a CPU is called in names. */
export function cpuName(words: Int32Array, id: number): string {
  return id === machineWord(words, Machine.cpus) ? 'boot CPU' : `CPU${id}`;
}

/** A word, or 0 where there is none. */
export function wordAt(words: Int32Array, at: number): number {
  return words[at] ?? 0;
}

/** A member of the machine's own struct. */
export function machineWord(words: Int32Array, field: number): number {
  return wordAt(words, MACHINE + field);
}

function plain(text: string): WordName {
  return { full: text, path: text, short: text, type: 'word' };
}

function percpuName(cpu: string, offset: number): string {
  if (offset < STACK_WORDS) return `${cpu}'s stack word ${offset}`;
  if (offset < STACK_WORDS + SCRATCH_WORDS) return `${cpu}'s scratch word ${offset - STACK_WORDS}`;
  return `${cpu}'s per-CPU word ${offset}`;
}

/** The name of a word of the object. */
export function nameIn({ at: start, layout, path }: KnownObject, at: number): WordName {
  const member = memberPath(layout, at - start);
  if (member.path === '') return plain(`word ${at - start} of ${path}`);
  const arrow =
    path === 'world' || /^(?:CPU\d+|machine|boot CPU|page\[\d+\])$/.test(path) ? '.' : '->';
  const whole = `${path}${arrow}${member.path}`;
  const owner = member.owner === '' ? path : `${path}${arrow}${member.owner}`;
  return {
    full: `${member.struct}.${member.field} of ${owner}`,
    path: whole,
    short: lastTwo(whole),
    type: member.type,
  };
}

/** `world.mm->subscriptions->invalidateSeq` as `subscriptions->invalidateSeq`. */
function lastTwo(path: string): string {
  const parts = path.split(/(\.|->)/);
  return parts.slice(-3).join('');
}

interface MemberName {
  /** From the outer struct: `interval.invalidateSeq`. Empty for padding. */
  readonly path: string;
  /** The path of the struct that has the member; empty for the outer one itself. */
  readonly owner: string;
  /** That struct, and the member in it. */
  readonly struct: string;
  readonly field: string;
  readonly type: string;
}

/** Words of a struct that may be pointers; those of structs that are embedded deeper come later. */
export function pointersIn(layout: StructInfo): { offset: number; path: string }[] {
  const depth = (path: string): number => path.split('.').length;
  return Array.from({ length: layout.words }, (_, offset) => ({
    offset,
    ...memberPath(layout, offset),
  }))
    .filter(({ path, type }) => path !== '' && /^(?:word|pointer)/.test(type))
    .sort((one, other) => depth(one.path) - depth(other.path));
}

const NO_MEMBER: MemberName = { path: '', owner: '', struct: '', field: '', type: '' };

/** What is at that offset of a struct, down through the structs that are embedded in it. */
function memberPath(outer: StructInfo, offset: number): MemberName {
  const owners: string[] = [];
  let layout = outer;
  let rest = offset;
  for (;;) {
    const member = layout.members.find(({ offset: at, words }) => rest >= at && rest < at + words);
    if (member === undefined) return NO_MEMBER;
    rest -= member.offset;
    const embedded = declaredStructs().get(member.type);
    if (embedded?.words === member.words) {
      owners.push(member.name);
      layout = embedded;
      continue;
    }
    const unit = member.type.startsWith('addresses') ? 2 : 1;
    const isArray = /^(?:words|addresses)\(/.test(member.type);
    const field = isArray ? `${member.name}[${Math.floor(rest / unit)}]` : member.name;
    const owner = owners.join('.');
    return {
      path: owner === '' ? field : `${owner}.${field}`,
      owner,
      struct: layout.structName,
      field,
      type: member.type,
    };
  }
}
