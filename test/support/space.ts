/**
 * An address space on the test's own thread, with one CPU, and short words for what programs do to it.
 *
 * Addresses are pages, counted from ORIGIN, which lies eight pages below a boundary of all levels of the
 * page table: page 8 has tables of its own at every level but the top.
 *
 * @module
 */
import assert from 'node:assert/strict';

import { read, readAddress, readOnce, readOnceCells } from '#memory';

import { PAGE_SIZE } from '../../src/base/units.js';
import { attachCpu, bootMachine } from '../../src/machine/boot.js';
import type { Cpu } from '../../src/machine/cpu.js';
import { PG_ANON, ZERO_PFN } from '../../src/machine/page-alloc.js';
import { member, NULL, type Va } from '../../src/memory/layout.js';
import { loadWord, storeWord } from '../../src/mm/access.js';
import { bootMm } from '../../src/mm/boot.js';
import { mmput } from '../../src/mm/exit.js';
import { createFile, fput } from '../../src/mm/file.js';
import { dupMm } from '../../src/mm/fork.js';
import { madvise } from '../../src/mm/madvise.js';
import { mmAlloc, useMm } from '../../src/mm/mm-struct.js';
import { mmap } from '../../src/mm/mmap.js';
import { mprotect } from '../../src/mm/mprotect.js';
import { mremap } from '../../src/mm/mremap.js';
import { munmap } from '../../src/mm/munmap.js';
import { pageHasFlag } from '../../src/mm/page.js';
import { PGDIR_SIZE, pteOf } from '../../src/mm/page-table.js';
import {
  NO_PTE,
  Pte,
  PTE_PRESENT,
  PTE_PROTNONE,
  PTE_WRITE,
  pteIsDevicePrivate,
  pteIsMigration,
  pteIsPfnSwap,
  pteIsSwap,
  ptePfn,
} from '../../src/mm/pte.js';
import { type File, MmStruct, VmAreaStruct } from '../../src/mm/types.js';
import * as uapi from '../../src/mm/uapi.js';
import { vmaEnd, vmaFlags, vmaStart } from '../../src/mm/vma.js';
import { vmaTreeFirst } from '../../src/mm/vma-tree.js';
import { assertNothingLeft, checkSpaces, type Held, held } from './space-check.js';

/** Page 0 of every test. */
export const ORIGIN: Va = 3 * PGDIR_SIZE - 8 * PAGE_SIZE;

/** The address of a page. */
export function at(page: number): Va {
  return ORIGIN + page * PAGE_SIZE;
}

/** The page of an address; an error number stays what it is. */
export function pageAt(va: Va): number {
  return va < 0 ? va : (va - ORIGIN) / PAGE_SIZE;
}

/** Protection bits for letters: `rw`, `r`, `` for none. */
export function prot(letters: string): number {
  return (
    (letters.includes('r') ? uapi.PROT_READ : 0) |
    (letters.includes('w') ? uapi.PROT_WRITE : 0) |
    (letters.includes('x') ? uapi.PROT_EXEC : 0)
  );
}

export interface Mapping {
  readonly prot?: string;
  readonly shared?: boolean;
  readonly file?: File;
  /** First page of the file. */
  readonly offset?: number;
  readonly flags?: number;
}

/** What a page's entry maps. */
export interface Entry {
  /** `none`, `zero`, `anon`, `file`, `swap`, `migration`, `device` or `exclusive`. */
  readonly kind: string;
  /** `r`, `rw`, or `` if the hardware may not use it. */
  readonly rights: string;
  readonly pfn: number;
}

/** What an entry stands for that has a frame CPUs cannot use. */
function specialKind(entry: number): string {
  if (pteIsMigration(entry)) return 'migration';
  return pteIsDevicePrivate(entry) ? 'device' : 'exclusive';
}

/** Machines whose spaces are checked together, because they share frames. */
interface World {
  readonly cpu: Cpu;
  readonly before: Held;
  readonly spaces: Set<Space>;
  readonly files: Set<File>;
}

export class Space {
  readonly cpu: Cpu;
  readonly mm: MmStruct;
  readonly #world: World;

  constructor(world: World, mm: MmStruct) {
    assert.notEqual(mm, NULL, 'no memory for an address space');
    this.#world = world;
    this.cpu = world.cpu;
    this.mm = mm;
    useMm(this.cpu, mm);
    world.spaces.add(this);
  }

  /** mmap at a page, in the place of what is there. */
  map(page: number, pages: number, mapping: Mapping = {}): number {
    const type = mapping.shared === true ? uapi.MAP_SHARED : uapi.MAP_PRIVATE;
    const anonymous = mapping.file === undefined ? uapi.MAP_ANONYMOUS : 0;
    const flags = type | anonymous | (mapping.flags ?? uapi.MAP_FIXED);
    const rights = prot(mapping.prot ?? 'rw');
    const { file = NULL, offset = 0 } = mapping;
    const length = pages * PAGE_SIZE;
    return pageAt(
      mmap(this.cpu, this.mm, at(page), length, rights, flags, file, offset * PAGE_SIZE),
    );
  }

  unmap(page: number, pages: number): number {
    return munmap(this.cpu, this.mm, at(page), pages * PAGE_SIZE);
  }

  protect(page: number, pages: number, letters: string): number {
    return mprotect(this.cpu, this.mm, at(page), pages * PAGE_SIZE, prot(letters));
  }

  advise(page: number, pages: number, advice: number): number {
    return madvise(this.cpu, this.mm, at(page), pages * PAGE_SIZE, advice);
  }

  /** mremap; without flags in place only. */
  remap(page: number, pages: number, newPages: number, flags = 0, to = 0): number {
    const [from, target] = [at(page), at(to)];
    const lengths = [pages * PAGE_SIZE, newPages * PAGE_SIZE] as const;
    return pageAt(mremap(this.cpu, this.mm, from, ...lengths, flags, target));
  }

  /** mremap to a place. */
  move(page: number, pages: number, to: number, flags = 0): number {
    const fixed = uapi.MREMAP_MAYMOVE | uapi.MREMAP_FIXED;
    return this.remap(page, pages, pages, fixed | flags, to);
  }

  /** Stores into word `word` of a page: 0 or -errno. */
  store(page: number, value: number, word = 0, cpu = this.cpu): number {
    return storeWord(cpu, this.mm, at(page) + 4 * word, value);
  }

  /** Word `word` of a page. */
  load(page: number, word = 0): number {
    assert.equal(this.tryLoad(page, word), 0, `load from page ${page}`);
    return this.cpu.loaded;
  }

  /** 0 or -errno. */
  tryLoad(page: number, word = 0, cpu = this.cpu): number {
    return loadWord(cpu, this.mm, at(page) + 4 * word);
  }

  fork(): Space {
    return new Space(this.#world, dupMm(this.cpu, this.mm));
  }

  exit(): void {
    this.#world.spaces.delete(this);
    mmput(this.cpu, this.mm);
  }

  /** A file whose untouched pages read as filePattern(id, page); the test holds a reference. */
  file(pages: number, id = 0): File {
    const file = createFile(this.cpu, pages * PAGE_SIZE, id);
    this.#world.files.add(file);
    return file;
  }

  /** VMAs, in order. */
  get vmas(): VmAreaStruct[] {
    const found: VmAreaStruct[] = [];
    let vma = vmaTreeFirst(this.cpu, member(this.mm, MmStruct.vmas));
    while (vma !== NULL) {
      found.push(vma);
      vma = read(this.cpu, vma, VmAreaStruct.next);
    }
    return found;
  }

  /** VMAs as text: `0-4 rwp`, or `0-4 rws` if shared. */
  layout(): string[] {
    return this.vmas.map((vma) => {
      const flags = vmaFlags(this.cpu, vma);
      const letters = ['r', 'w', 'x'].filter((_, bit) => (flags & (1 << bit)) !== 0).join('');
      const kind = (flags & 8) !== 0 ? 's' : 'p';
      return `${pageAt(vmaStart(this.cpu, vma))}-${pageAt(vmaEnd(this.cpu, vma))} ${letters}${kind}`;
    });
  }

  /** The VMA that a page is in. */
  vmaOf(page: number): VmAreaStruct {
    const va = at(page);
    const [found] = this.vmas.filter(
      (vma) => vmaStart(this.cpu, vma) <= va && va < vmaEnd(this.cpu, vma),
    );
    assert.ok(found, `page ${page} is mapped`);
    return found;
  }

  /** Page of the file, or of the address space, at the start of a page's VMA. */
  pgoffOf(page: number): number {
    return readAddress(this.cpu, this.vmaOf(page), VmAreaStruct.pgoff);
  }

  entry(page: number): Entry {
    const { cpu } = this;
    const pte = pteOf(cpu, read(cpu, this.mm, MmStruct.pgd), at(page));
    const copy = cpu.scratch as Pte;
    if (pte !== NO_PTE) readOnceCells(cpu, copy, pte, 1);
    const entry = pte === NO_PTE ? 0 : read(cpu, copy, Pte.entry);
    if (entry === 0) return { kind: 'none', rights: '', pfn: 0 };
    if (pteIsPfnSwap(entry)) {
      const right = (entry & PTE_WRITE) !== 0 ? 'rw' : 'r';
      return { kind: specialKind(entry), rights: right, pfn: ptePfn(entry) };
    }
    if (pteIsSwap(entry)) return { kind: 'swap', rights: '', pfn: 0 };
    assert.notEqual(entry & (PTE_PRESENT | PTE_PROTNONE), 0, `entry ${entry.toString(16)}`);
    const pfn = ptePfn(entry);
    const kind = pfn === ZERO_PFN ? 'zero' : pageHasFlag(cpu, pfn, PG_ANON) ? 'anon' : 'file';
    const isPresent = (entry & PTE_PRESENT) !== 0;
    const rights = isPresent ? ((entry & PTE_WRITE) !== 0 ? 'rw' : 'r') : '';
    return { kind, rights, pfn };
  }

  /** Entries as text: `anon rw`. */
  entries(page: number, pages: number): string[] {
    return Array.from({ length: pages }, (_, i) => {
      const { kind, rights } = this.entry(page + i);
      return `${kind} ${rights}`.trim();
    });
  }

  get rss(): number {
    return readOnce(this.cpu, this.mm, MmStruct.rss);
  }

  get totalVm(): number {
    return readAddress(this.cpu, this.mm, MmStruct.totalVm);
  }

  get lockedVm(): number {
    return readAddress(this.cpu, this.mm, MmStruct.lockedVm);
  }

  /** Every rule of src/mm that can be seen from outside holds, in this space and those it was forked from. */
  check(): void {
    checkSpaces(
      this.cpu,
      [...this.#world.spaces].map(({ mm }) => mm),
    );
  }

  /** Checks, ends all spaces, gives up all files, and finds every frame and struct given back. */
  end(): void {
    this.check();
    for (const space of [...this.#world.spaces]) space.exit();
    for (const file of this.#world.files) fput(this.cpu, file);
    this.#world.files.clear();
    assertNothingLeft(this.cpu, this.#world.before);
  }
}

/** A machine with one CPU, ready for address spaces. */
export function bootMmCpu(ramBytes = 16 << 20, swapBytes = 0, minFreeFrames = 0): Cpu {
  const { cpu } = bootMachine({ cpus: 1, ramBytes, swapBytes, minFreeFrames });
  bootMm(cpu);
  return cpu;
}

/** Two CPUs of one machine, both on this thread. */
export function bootTwoMmCpus(ramBytes = 16 << 20): readonly [Cpu, Cpu] {
  const { handle } = bootMachine({ cpus: 2, ramBytes });
  const cpus = [attachCpu(handle, 0), attachCpu(handle, 1)] as const;
  bootMm(cpus[0]);
  return cpus;
}

/** A new address space; on a machine of its own unless there is one. */
export function newSpace(cpu = bootMmCpu()): Space {
  const before = held(cpu);
  return new Space({ cpu, before, spaces: new Set(), files: new Set() }, mmAlloc(cpu));
}

/** Runs a test on a new address space, which must leave nothing behind. */
export function inSpace(body: (space: Space) => void): () => void {
  return () => {
    const space = newSpace();
    body(space);
    space.end();
  };
}
