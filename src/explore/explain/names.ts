/**
 * Names for words of a machine that is explored: `world.interval.invalidateSeq`, and not 41232.
 *
 * Protocol   What an object is called comes from the world: a word that holds the address of an object is a
 *            pointer to it, and pointers are followed from the world on. All else is called by its place
 *            (debug/word-name.ts).
 * Deviation  A word that happens to hold the number of an object's first word is taken for a pointer. Only
 *            names depend on it.
 *
 * @module
 */
import {
  cpuName,
  type KnownObject,
  machineWord,
  nameIn,
  objectAround,
  placeOf,
  pointersIn,
  wordAt,
  type WordName,
} from '../../debug/word-name.js';
import { CPU_AREAS } from '../../machine/cpu.js';
import { lockClassName } from '../../machine/lock-class.js';
import { CpuArea, LOCK_CLASS_WORD, Machine } from '../../machine/types.js';
import { CACHELINE_WORDS, type StructInfo } from '../../memory/layout.js';
import { memoryWords } from '../../memory/snapshot.js';
import type { World } from '../engine.js';

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
    const layout = world ?? objectAround(this.#words, pointer)?.layout;
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
    return placeOf(this.#words, at);
  }

  /**
   * The name of the object that begins at that word, if one does that the world leads to, or of the CPU
   * whose area does. Locks keep flags in the low bits of a CPU's address.
   */
  objectName(at: number): string | undefined {
    const flags = at & (AREA_ALIGNMENT - 1);
    const area = (at - flags - CPU_AREAS) / CpuArea.words;
    if (Number.isInteger(area) && area >= 0 && area <= machineWord(this.#words, Machine.cpus)) {
      const name = cpuName(this.#words, area);
      return flags === 0 ? name : `${name} | ${flags}`;
    }
    return this.#objects.get(at)?.path;
  }

  /** The class of the lock whose first word that is. */
  lockName(at: number): string {
    return lockClassName(wordAt(this.#words, at + LOCK_CLASS_WORD));
  }

  /** Objects that members of the object point to, and that have no name yet. */
  #pointersOf({ at, layout, path }: KnownObject): KnownObject[] {
    const found: KnownObject[] = [];
    const arrow = path === 'world' ? '.' : '->';
    for (const { offset, path: member } of pointersIn(layout)) {
      const value = wordAt(this.#words, at + offset);
      if (this.#objects.has(value) || this.#objects.size >= OBJECTS_MAX) continue;
      const target = objectAround(this.#words, value);
      if (target?.at !== value) continue;
      const object = { ...target, path: `${path}${arrow}${member}` };
      this.#objects.set(value, object);
      found.push(object);
    }
    return found;
  }

  #knownAround(at: number): KnownObject | undefined {
    const object = objectAround(this.#words, at);
    if (object !== undefined) return this.#objects.get(object.at) ?? object;
    for (const known of this.#objects.values()) {
      if (at >= known.at && at < known.at + known.layout.words) return known;
    }
    return undefined;
  }
}
