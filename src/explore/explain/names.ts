/**
 * Names for words of a machine's memory: `world.interval.invalidateSeq`, and not 41232.
 *
 * Protocol   A word lies in a CPU's area, a CPU's part of the per-CPU region, the machine's own struct, a
 *            Page, or a frame. A frame of a slab says which cache it is of, and that which struct: so an
 *            object is known without a note of its making. What it is called comes from the world: a word
 *            that holds the address of an object is a pointer to it, and pointers are followed from the
 *            world on.
 * Deviation  A word that happens to hold the number of an object's first word is taken for a pointer. Only
 *            names depend on it.
 *
 * @module
 */
import { hashName } from '../../base/hash.js';
import { PAGE_WORDS } from '../../base/units.js';
import { CPU_AREAS } from '../../machine/cpu.js';
import { lockClassName } from '../../machine/lock-class.js';
import { PG_SLAB, PG_TABLE } from '../../machine/page-alloc.js';
import { SCRATCH_WORDS, STACK_WORDS } from '../../machine/stack.js';
import {
  CpuArea,
  KmemCache,
  LOCK_CLASS_WORD,
  MACHINE,
  Machine,
  Page,
  SLAB_CACHES_MAX,
} from '../../machine/types.js';
import { CACHELINE_WORDS, declaredStructs, type StructInfo } from '../../memory/layout.js';
import { memoryWords } from '../../memory/snapshot.js';
import type { World } from '../engine.js';

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
interface KnownObject {
  readonly at: number;
  readonly layout: StructInfo;
  readonly path: string;
}

/** Pointers that are followed from the world. */
const DEPTH_MAX = 4;
const OBJECTS_MAX = 500;
const AREA_ALIGNMENT = CACHELINE_WORDS;

/** Names words as the memory is when it is made. */
export class Names {
  readonly #words: Int32Array;
  /** Objects that the world leads to, by their addresses. */
  readonly #objects = new Map<number, KnownObject>();

  constructor({ machine, pointer }: World, world?: StructInfo) {
    this.#words = memoryWords(machine.cpu);
    const layout = world ?? this.#objectAt(pointer)?.layout;
    if (layout === undefined) return;
    let reached: KnownObject[] = [{ at: pointer, layout, path: 'world' }];
    this.#objects.set(pointer, reached[0]!);
    for (let depth = 0; depth < DEPTH_MAX && reached.length > 0; depth++) {
      reached = reached.flatMap((object) => this.#pointersOf(object));
    }
  }

  /** The name of a word. */
  of(at: number): WordName {
    const object = this.#knownAround(at);
    if (object !== undefined) return nameIn(object, at);
    return this.#placeOf(at);
  }

  /**
   * The name of the object that begins at that word, if one does that the world leads to, or of the CPU
   * whose area does. Locks keep flags in the low bits of a CPU's address.
   */
  objectName(at: number): string | undefined {
    const flags = at & (AREA_ALIGNMENT - 1);
    const area = (at - flags - CPU_AREAS) / CpuArea.words;
    if (Number.isInteger(area) && area >= 0 && area <= this.#machine(Machine.cpus)) {
      return flags === 0 ? this.#cpuName(area) : `${this.#cpuName(area)} | ${flags}`;
    }
    return this.#objects.get(at)?.path;
  }

  /** The class of the lock whose first word that is. */
  lockName(at: number): string {
    return lockClassName(this.#word(at + LOCK_CLASS_WORD));
  }

  #word(at: number): number {
    return this.#words[at] ?? 0;
  }

  #machine(field: number): number {
    return this.#word(MACHINE + field);
  }

  /** Objects that members of the object point to, and that have no name yet. */
  #pointersOf({ at, layout, path }: KnownObject): KnownObject[] {
    const found: KnownObject[] = [];
    const arrow = path === 'world' ? '.' : '->';
    for (const { offset, path: member } of pointersIn(layout)) {
      const value = this.#word(at + offset);
      if (this.#objects.has(value) || this.#objects.size >= OBJECTS_MAX) continue;
      const target = this.#objectAt(value);
      if (target?.at !== value) continue;
      const object = { ...target, path: `${path}${arrow}${member}` };
      this.#objects.set(value, object);
      found.push(object);
    }
    return found;
  }

  #knownAround(at: number): KnownObject | undefined {
    const object = this.#objectAt(at);
    if (object !== undefined) return this.#objects.get(object.at) ?? object;
    for (const known of this.#objects.values()) {
      if (at >= known.at && at < known.at + known.layout.words) return known;
    }
    return undefined;
  }

  /** The object of a slab that the word lies in. */
  #objectAt(at: number): KnownObject | undefined {
    const frames = this.#machine(Machine.frames);
    const pfn = Math.floor((at - frames) / PAGE_WORDS);
    if (pfn < 0 || pfn >= this.#machine(Machine.frameCount)) return undefined;
    const page = this.#machine(Machine.pages) + pfn * Page.words;
    if ((this.#word(page + Page.flags) & PG_SLAB) === 0) return undefined;
    const cache = this.#word(page + Page.private);
    const layout = this.#structOf(cache);
    if (layout === undefined) return undefined;
    const frame = frames + pfn * PAGE_WORDS;
    const size = this.#word(cache + KmemCache.objectWords);
    const start = at - ((at - frame) % size);
    return { at: start, layout, path: `${layout.structName}@${start}` };
  }

  #structOf(cache: number): StructInfo | undefined {
    for (let slot = 0; slot < SLAB_CACHES_MAX; slot++) {
      if (this.#word(MACHINE + Machine.slabCaches + slot) !== cache) continue;
      const hash = this.#word(MACHINE + Machine.slabNames + slot);
      for (const [name, layout] of declaredStructs()) if (hashName(name) === hash) return layout;
    }
    return undefined;
  }

  /** Words that are in no object of a slab. */
  #placeOf(at: number): WordName {
    const cpus = this.#machine(Machine.cpus) + 1;
    const area = Math.floor((at - CPU_AREAS) / CpuArea.words);
    if (at >= MACHINE && at < MACHINE + Machine.words) {
      return nameIn({ at: MACHINE, layout: Machine, path: 'machine' }, at);
    }
    if (area >= 0 && area < cpus) {
      const start = CPU_AREAS + area * CpuArea.words;
      return nameIn({ at: start, layout: CpuArea, path: this.#cpuName(area) }, at);
    }
    const inPercpu = at - this.#machine(Machine.percpu);
    const owner = Math.floor(inPercpu / this.#machine(Machine.percpuStride));
    if (inPercpu >= 0 && owner < cpus) {
      return plain(
        percpuName(this.#cpuName(owner), inPercpu % this.#machine(Machine.percpuStride)),
      );
    }
    return this.#framePlace(at);
  }

  #cpuName(id: number): string {
    return id === this.#machine(Machine.cpus) ? 'boot CPU' : `CPU${id}`;
  }

  #framePlace(at: number): WordName {
    const pages = this.#machine(Machine.pages);
    const frames = this.#machine(Machine.frames);
    const count = this.#machine(Machine.frameCount);
    const page = Math.floor((at - pages) / Page.words);
    if (page >= 0 && page < count) {
      const start = pages + page * Page.words;
      return nameIn({ at: start, layout: Page, path: `page[${page}]` }, at);
    }
    const pfn = Math.floor((at - frames) / PAGE_WORDS);
    if (pfn < 0 || pfn >= count) return plain(`word ${at}`);
    const inFrame = (at - frames) % PAGE_WORDS;
    const flags = this.#word(pages + pfn * Page.words + Page.flags);
    return (flags & PG_TABLE) !== 0
      ? plain(`table[${pfn}][${inFrame >> 1}]${inFrame % 2 === 0 ? '' : ' generation'}`)
      : plain(`frame[${pfn}] word ${inFrame}`);
  }
}

function plain(text: string): WordName {
  return { full: text, path: text, short: text, type: 'word' };
}

function percpuName(cpu: string, offset: number): string {
  if (offset < STACK_WORDS) return `${cpu}'s stack word ${offset}`;
  if (offset < STACK_WORDS + SCRATCH_WORDS) return `${cpu}'s scratch word ${offset - STACK_WORDS}`;
  return `${cpu}'s per-CPU word ${offset}`;
}

function nameIn({ at: start, layout, path }: KnownObject, at: number): WordName {
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
function pointersIn(layout: StructInfo): { offset: number; path: string }[] {
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
