/**
 * Per-CPU data: one instance for each CPU, at the same offset in each CPU's part of the region.
 *
 * Kernel     mm/percpu.c
 * Protocol   allocPercpu hands out an offset; a CPU finds its own instance at `cpu.percpu + offset`, and
 *            another's with perCpuPtr. A CPU's instance is its own line, so updates by different CPUs
 *            never share one. What is set up at boot stays; small pieces (allocPercpuPiece) come and go: a
 *            line is cut into pieces of one size, of 1, 2, 4, 8 or 16 words, which share it on every CPU.
 * Invariant  I1  A free piece is in the chain of its size, through CPU 0's instance.
 * Deviation  Every part has a fixed size, and a line that was cut stays so.
 *
 * @module
 */
import { fillWords, noteAlloc, noteFree, read, readOwn, write, writeOwn } from '#memory';

import { bug } from '../base/bug.js';
import {
  CACHELINE_WORDS,
  element,
  type Field,
  member,
  type Ptr,
  struct,
  word,
} from '../memory/layout.js';
import { archSpinLock, archSpinUnlock } from './arch-spinlock.js';
import type { Cpu } from './cpu.js';
import { MACHINE, Machine } from './types.js';

/** Where each CPU's instance of S lies in its part of the region. Unit: words. */
export type PercpuOffset<S extends string> = number & { readonly percpu: S };

/** A free piece. */
const FreePiece = struct('free_percpu_piece', {
  next: word, // offset of the next one; 0 = none
});

/** Reserves `words` words for every CPU, zeroed, from a line boundary. */
export function allocPercpu(cpu: Cpu, words: number): number {
  const lock = member(MACHINE, Machine.percpuLock);
  archSpinLock(cpu, lock);
  const offset = takeLines(cpu, words);
  if (offset === 0) bug('the per-CPU region is full');
  archSpinUnlock(cpu, lock);
  return offset;
}

/** Whole lines for `words` words; 0 if there are none left. percpuLock must be held. */
function takeLines(cpu: Cpu, words: number): number {
  const offset = read(cpu, MACHINE, Machine.percpuUsed);
  const end = offset + Math.ceil(words / CACHELINE_WORDS) * CACHELINE_WORDS;
  if (end > read(cpu, MACHINE, Machine.percpuStride)) return 0;
  write(cpu, MACHINE, Machine.percpuUsed, end);
  return offset;
}

/** `words` words for every CPU, zeroed, 16 at most; 0 if memory is out (-ENOMEM). @kernel alloc_percpu */
export function allocPercpuPiece(cpu: Cpu, words: number): number {
  const chain = chainOf(words);
  const lock = member(MACHINE, Machine.percpuLock);
  archSpinLock(cpu, lock);
  let offset = read(cpu, MACHINE, chain);
  if (offset === 0) offset = cutLine(cpu, sizeOf(words));
  if (offset !== 0) write(cpu, MACHINE, chain, nextPiece(cpu, offset));
  archSpinUnlock(cpu, lock);
  if (offset === 0) return 0;
  for (let id = cpusOf(cpu) - 1; id >= 0; id--) {
    const at: number = perCpuPtr(cpu, offset, id);
    noteAlloc(cpu, at, words);
    fillWords(cpu, at, 0, words);
  }
  return offset;
}

/** Gives back what allocPercpuPiece gave. 0 is allowed. @kernel free_percpu */
export function freePercpuPiece(cpu: Cpu, offset: number, words: number): void {
  if (offset === 0) return;
  for (let id = cpusOf(cpu) - 1; id >= 0; id--) {
    noteFree(cpu, perCpuPtr(cpu, offset, id), words);
  }
  const chain = chainOf(words);
  const lock = member(MACHINE, Machine.percpuLock);
  archSpinLock(cpu, lock);
  setNextPiece(cpu, offset, read(cpu, MACHINE, chain));
  write(cpu, MACHINE, chain, offset);
  archSpinUnlock(cpu, lock);
}

/** A chain of pieces out of a new line; 0 if there is none left. percpuLock must be held. */
function cutLine(cpu: Cpu, size: number): number {
  const line = takeLines(cpu, CACHELINE_WORDS);
  if (line === 0) return 0;
  for (let at = line; at < line + CACHELINE_WORDS; at += size) {
    const next = at + size;
    setNextPiece(cpu, at, next < line + CACHELINE_WORDS ? next : 0);
  }
  return line;
}

// A free piece may be of a line that CPUs use for other pieces: what is done to it is nobody else's business.

function nextPiece(cpu: Cpu, offset: number): number {
  return readOwn(cpu, perCpuPtr<'free_percpu_piece'>(cpu, offset, 0), FreePiece.next);
}

function setNextPiece(cpu: Cpu, offset: number, next: number): void {
  writeOwn(cpu, perCpuPtr<'free_percpu_piece'>(cpu, offset, 0), FreePiece.next, next);
}

/** Pieces have 1, 2, 4, 8 or 16 words. */
function sizeOf(words: number): number {
  return 1 << sizeClass(words);
}

function sizeClass(words: number): number {
  return 32 - Math.clz32(words - 1);
}

function chainOf(words: number): Field<'machine'> {
  return element(Machine.percpuFree, sizeClass(words));
}

/** This CPU's instance. @kernel this_cpu_ptr */
export function thisCpuPtr<S extends string>(cpu: Cpu, offset: number): Ptr<S> {
  return (cpu.percpu + offset) as Ptr<S>;
}

/** The instance of CPU `id`. @kernel per_cpu_ptr */
export function perCpuPtr<S extends string>(cpu: Cpu, offset: number, id: number): Ptr<S> {
  const stride = read(cpu, MACHINE, Machine.percpuStride);
  return (read(cpu, MACHINE, Machine.percpu) + id * stride + offset) as Ptr<S>;
}

/** How many instances there are: the boot CPU has one too. */
export function cpusOf(cpu: Cpu): number {
  return read(cpu, MACHINE, Machine.cpus) + 1;
}
