/**
 * Who has made the objects that nobody has given back: for the end of a run of the checked build.
 *
 * @module
 */
import { PAGE_WORDS } from '../base/units.js';
import type { BootedMachine } from '../machine/boot.js';
import { PG_SLAB } from '../machine/page-alloc.js';
import { KmemCache, Machine, Page } from '../machine/types.js';
import { Shadow } from '../memory/shadow.js';
import { memoryWords } from '../memory/snapshot.js';
import { machineWord, objectAround, wordAt } from './word-name.js';

/** Objects of one kind that were made in one place; frames are of the kind 'frames'. */
export interface LiveObjects {
  readonly struct: string;
  readonly count: number;
  /** The frames of whoever made them, innermost first, as positions of the code that ran. */
  readonly stack: string;
}

/**
 * The objects that CPUs of the checked build have made and nobody has given back, most numerous first; none if the
 * machine's memory was not watched. Nobody may be running.
 */
export function liveObjects({ handle, cpu }: BootedMachine): LiveObjects[] {
  if (handle.shadow === undefined) return [];
  const shadow = new Shadow(handle.shadow, cpu.id);
  const words = memoryWords(cpu);
  const found = new Map<string, LiveObjects>();
  const add = (struct: string, stack: string | undefined): void => {
    if (stack === undefined) return;
    const key = `${struct}\n${stack}`;
    const count = (found.get(key)?.count ?? 0) + 1;
    found.set(key, { struct, count, stack });
  };
  const frames = machineWord(words, Machine.frames);
  const pages = machineWord(words, Machine.pages);
  for (let pfn = 0; pfn < machineWord(words, Machine.frameCount); pfn++) {
    const page = pages + pfn * Page.words;
    const start = frames + pfn * PAGE_WORDS;
    if ((wordAt(words, page + Page.flags) & PG_SLAB) === 0) {
      if (wordAt(words, page + Page.held) !== 0) add('frames', shadow.siteOf(start));
      continue;
    }
    const size = wordAt(words, wordAt(words, page + Page.private) + KmemCache.objectWords);
    for (let at = start; at + size <= start + PAGE_WORDS; at += size) {
      const object = objectAround(words, at);
      if (object !== undefined) add(object.layout.structName, shadow.siteOf(at));
    }
  }
  return [...found.values()].sort((one, other) => other.count - one.count);
}
