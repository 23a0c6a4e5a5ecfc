/**
 * The steps that a program performs itself: system calls on memory and files, loads and stores.
 *
 * @module
 */
import { read, write } from '#memory';

import { EBADF, EFAULT, ENOMEM } from '../base/errno.js';
import { PAGE_SIZE } from '../base/units.js';
import type { Cpu } from '../machine/cpu.js';
import { element, NULL } from '../memory/layout.js';
import { readAddress } from '../memory/memory.js';
import { loadWord, storeWord } from '../mm/access.js';
import { clearReferenced, clearSoftDirty } from '../mm/clear-refs.js';
import { createFile, fput } from '../mm/file.js';
import { accessRemotePage } from '../mm/gup.js';
import { madvise } from '../mm/madvise.js';
import { mlock, msync, munlock } from '../mm/mlock.js';
import { setBrk, useMm } from '../mm/mm-struct.js';
import { brk, mmap } from '../mm/mmap.js';
import { mprotect } from '../mm/mprotect.js';
import { mremap } from '../mm/mremap.js';
import { munmap } from '../mm/munmap.js';
import { fallocate, ftruncate, pwritePage } from '../mm/truncate.js';
import { type File, MmStruct } from '../mm/types.js';
import * as uapi from '../mm/uapi.js';
import { keepPage, putKept } from './kept-pages.js';
import { PAGE_WORD, VALUE_WORD } from './snapshot.js';
import {
  adviceOf,
  type Answer,
  lengthOf,
  mapFlagsOf,
  mremapFlagsOf,
  numberOf,
  protOf,
  startOf,
  type StepInput,
  textOf,
} from './step.js';
import { ARENA, ConformWorld, vaOf } from './world.js';

/** Performs a step of a program in an address space. Sleeps. */
export type SystemCall = (cpu: Cpu, world: ConformWorld, mm: MmStruct, step: StepInput) => Answer;

/** The page of an address, or the error that stands in its place. */
const pageOrError = (va: number): number => (va < 0 ? va : (va - ARENA) / PAGE_SIZE);

/** The steps, by their names. */
export const SYSTEM_CALLS: Readonly<Record<string, SystemCall>> = {
  mmap(cpu, world, mm, step) {
    const fd = numberOf(step, 'fd', -1);
    const file = fd < 0 ? NULL : fileOf(cpu, world, step);
    const offset = numberOf(step, 'off') * PAGE_SIZE;
    const [start, length] = [startOf(step), lengthOf(step)];
    const va = mmap(cpu, mm, start, length, protOf(step), mapFlagsOf(step), file, offset);
    return { result: pageOrError(va) };
  },
  munmap: (cpu, _world, mm, step) => ({ result: munmap(cpu, mm, startOf(step), lengthOf(step)) }),
  mprotect: (cpu, _world, mm, step) => ({
    result: mprotect(cpu, mm, startOf(step), lengthOf(step), protOf(step)),
  }),
  madvise: (cpu, _world, mm, step) => ({
    result: madvise(cpu, mm, startOf(step), lengthOf(step), adviceOf(step) ?? -1),
  }),
  mremap(cpu, _world, mm, step) {
    const newLength = numberOf(step, 'newn') * PAGE_SIZE;
    const to = vaOf(numberOf(step, 'to'));
    const flags = mremapFlagsOf(step);
    return {
      result: pageOrError(mremap(cpu, mm, startOf(step), lengthOf(step), newLength, flags, to)),
    };
  },
  mlock: (cpu, _world, mm, step) => ({ result: mlock(cpu, mm, startOf(step), lengthOf(step), 0) }),
  munlock: (cpu, _world, mm, step) => ({ result: munlock(cpu, mm, startOf(step), lengthOf(step)) }),
  msync: (cpu, _world, mm, step) => ({
    result: msync(cpu, mm, startOf(step), lengthOf(step), uapi.MS_SYNC),
  }),
  brk(cpu, _world, mm, step) {
    if (readAddress(cpu, mm, MmStruct.startBrk) !== ARENA) setBrk(cpu, mm, ARENA);
    const end = ARENA + lengthOf(step);
    return { result: brk(cpu, mm, end) === end ? 0 : -ENOMEM };
  },
  touch,
  memfd(cpu, world, _mm, step) {
    const file = createFile(cpu, lengthOf(step), 0);
    if (file === NULL) return { result: -ENOMEM };
    write(cpu, world, element(ConformWorld.files, numberOf(step, 'fd')), file);
    return { result: 0 };
  },
  close(cpu, world, _mm, step) {
    const file = fileOf(cpu, world, step);
    if (file === NULL) return { result: -EBADF };
    write(cpu, world, element(ConformWorld.files, numberOf(step, 'fd')), NULL);
    fput(cpu, file);
    return { result: 0 };
  },
  pwrite(cpu, world, _mm, step) {
    const file = fileOf(cpu, world, step);
    const first = numberOf(step, 'off');
    for (let page = first; page < first + numberOf(step, 'n'); page++) {
      const error = pwritePage(cpu, file, page, valueWords(numberOf(step, 'val'), page));
      if (error !== 0) return { result: error };
    }
    return { result: 0 };
  },
  ftruncate: (cpu, world, _mm, step) => ({
    result: ftruncate(cpu, fileOf(cpu, world, step), lengthOf(step)),
  }),
  fallocate(cpu, world, _mm, step) {
    const [offset, length] = [numberOf(step, 'off') * PAGE_SIZE, lengthOf(step)];
    const mode = FALLOCATE_MODES[textOf(step, 'mode')] ?? 0;
    return { result: fallocate(cpu, fileOf(cpu, world, step), mode, offset, length) };
  },
  procmem: remoteStep,
  kernel_read_into(cpu, _world, mm, step) {
    useMm(cpu, mm);
    return eachPage(
      step,
      (page) =>
        twice(() => storeWord(cpu, mm, vaOf(page), 0)) || storeWord(cpu, mm, vaOf(page) + 4, 0),
    );
  },
  kernel_write_from(cpu, _world, mm, step) {
    useMm(cpu, mm);
    return eachPage(step, (page) => twice(() => loadWord(cpu, mm, vaOf(page))));
  },
  vmsplice(cpu, world, mm, step) {
    const { result } = eachPage(step, (page) => keepPage(cpu, world, mm, page, 0));
    return { result: result === 0 ? numberOf(step, 'n') : result };
  },
  pipe_close(cpu, world) {
    putKept(cpu, world, 0);
    return { result: 0 };
  },
  clear_refs(cpu, _world, mm, step) {
    if (Number(step['mode']) === CLEAR_REFS_SOFT_DIRTY) clearSoftDirty(cpu, mm);
    else clearReferenced(cpu, mm);
    return { result: 0 };
  },
};

/** What copies for the kernel, and has got nothing, tries once more, byte by byte. @kernel copy_user_generic */
function twice(access: () => number): number {
  return access() === 0 ? 0 : access();
}

/** What is written to /proc/self/clear_refs. */
const CLEAR_REFS_SOFT_DIRTY = 4;

const FALLOCATE_MODES: Readonly<Record<string, number>> = {
  punch: uapi.FALLOC_FL_PUNCH_HOLE | uapi.FALLOC_FL_KEEP_SIZE,
  zero: uapi.FALLOC_FL_ZERO_RANGE,
};

/** The words that a page of a case begins with: what was written, and which page it was written as. */
export function valueWords(value: number, page: number): number[] {
  const words = [0, 0];
  words[VALUE_WORD] = value;
  words[PAGE_WORD] = page;
  return words;
}

/** Pages that /proc/pid/mem is asked for; the value of the last one is answered too. */
export function remoteStep(cpu: Cpu, _world: ConformWorld, mm: MmStruct, step: StepInput): Answer {
  const isWrite = textOf(step, 'mode') === 'w';
  let last = 0;
  const answer = eachPage(step, (page) => {
    const words = valueWords(isWrite ? numberOf(step, 'val') : 0, isWrite ? page : 0);
    const error = accessRemotePage(cpu, mm, vaOf(page), words, isWrite);
    last = words[VALUE_WORD] ?? 0;
    return error;
  });
  return step.op === 'procmem' ? answer : { ...answer, last };
}

/** Does the same with each page of the step, up to the first error. */
export function eachPage(step: StepInput, action: (page: number) => number): Answer {
  const first = numberOf(step, 'at');
  for (let page = first; page < first + numberOf(step, 'n'); page++) {
    const result = action(page);
    if (result !== 0) return { result };
  }
  return { result: 0 };
}

/** The file of a descriptor, or NULL. */
function fileOf(cpu: Cpu, world: ConformWorld, step: StepInput): File {
  return read(cpu, world, element(ConformWorld.files, numberOf(step, 'fd'))) as File;
}

/** The program's own access to each page, in order, up to one that it may not make. */
function touch(cpu: Cpu, _world: ConformWorld, mm: MmStruct, step: StepInput): Answer {
  useMm(cpu, mm);
  const first = numberOf(step, 'at');
  const isWrite = textOf(step, 'mode') === 'w';
  const values: [number, number][] = [];
  for (let page = first; page < first + numberOf(step, 'n'); page++) {
    const error = isWrite
      ? storePage(cpu, mm, page, numberOf(step, 'val'))
      : loadWord(cpu, mm, vaOf(page) + 4 * VALUE_WORD);
    if (error !== 0) {
      const signal = cpu.faultIsBus ? 'SIGBUS' : 'SIGSEGV';
      const ended = values.slice(0, -1); // runs that have come to an end
      return { result: -EFAULT, signal, signalPage: page, ...(!isWrite && { values: ended }) };
    }
    if (isWrite) continue;
    const last = values.at(-1);
    if (last?.[1] === cpu.loaded) last[0]++;
    else values.push([1, cpu.loaded]);
  }
  return { result: 0, ...(!isWrite && { values }) };
}

/** Stores the value, and which page it was written as. */
function storePage(cpu: Cpu, mm: MmStruct, page: number, value: number): number {
  const error = storeWord(cpu, mm, vaOf(page) + 4 * VALUE_WORD, value);
  return error === 0 ? storeWord(cpu, mm, vaOf(page) + 4 * PAGE_WORD, page) : error;
}
