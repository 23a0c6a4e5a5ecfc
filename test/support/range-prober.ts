/**
 * Asks hmm_range_fault about the pages of an address space, on the test's own thread.
 *
 * @module
 */
import assert from 'node:assert/strict';

import { read, write, writeAddress } from '#memory';

import { EBUSY } from '../../src/base/errno.js';
import { PAGE_SIZE } from '../../src/base/units.js';
import { hmmRangeFault } from '../../src/hmm/range-fault.js';
import { HmmPfn, HmmRange } from '../../src/hmm/types.js';
import type { Cpu } from '../../src/machine/cpu.js';
import { defineOps } from '../../src/machine/ops-table.js';
import { allocWords, kzalloc } from '../../src/machine/slab.js';
import type { Va } from '../../src/memory/layout.js';
import { mmapReadLock, mmapReadUnlock } from '../../src/mm/mmap-lock.js';
import type { MmStruct } from '../../src/mm/types.js';
import {
  mmuIntervalNotifierInsert,
  mmuIntervalReadBegin,
  mmuIntervalSetSeq,
} from '../../src/notifier/mmu-interval-notifier.js';
import { MmuIntervalNotifier } from '../../src/notifier/types.js';
import { bootSpace, type PageEntry } from './address-space.js';

/** Notes that it was called, as its sequence. */
export const quiet = defineOps({
  opsName: 'quiet',
  invalidate(cpu: Cpu, interval: MmuIntervalNotifier, _range: number, curSeq: number): boolean {
    mmuIntervalSetSeq(cpu, interval, curSeq);
    return true;
  },
});

/** What is wanted. */
export interface Wanted {
  readonly all?: number;
  readonly mask?: number;
  readonly each?: readonly number[];
}

export interface Answer {
  readonly result: number;
  /** What is in `pfns` afterwards, whether the call succeeded or not. */
  readonly pages: readonly PageEntry[];
}

const PAGES_MAX = 2048;

export class RangeProber {
  readonly cpu: Cpu;
  readonly mm: MmStruct;
  readonly interval: MmuIntervalNotifier;
  readonly #range: HmmRange;
  readonly #pfns: number;

  constructor(ramBytes?: number) {
    ({ cpu: this.cpu, mm: this.mm } = bootSpace([{ quiet }], 1, ramBytes));
    this.interval = kzalloc(this.cpu, MmuIntervalNotifier);
    const { cpu, mm, interval } = this;
    assert.equal(mmuIntervalNotifierInsert(cpu, interval, mm, 0, 2 ** 47, quiet), 0);
    this.#range = kzalloc(cpu, HmmRange);
    this.#pfns = allocWords(cpu, PAGES_MAX * HmmPfn.words);
    assert.notEqual(this.#pfns, 0);
    write(cpu, this.#range, HmmRange.notifier, interval);
    write(cpu, this.#range, HmmRange.pfns, this.#pfns);
  }

  begin(): number {
    return mmuIntervalReadBegin(this.cpu, this.interval);
  }

  /** One call, with the sequence from `begin`. */
  askOnce(va: Va, pages: number, wanted: Wanted, seq = this.begin()): Answer {
    const { cpu } = this;
    const range = this.#range;
    assert.ok(pages <= PAGES_MAX);
    writeAddress(cpu, range, HmmRange.start, va);
    writeAddress(cpu, range, HmmRange.end, va + pages * PAGE_SIZE);
    write(cpu, range, HmmRange.notifierSeq, seq);
    write(cpu, range, HmmRange.defaultFlags, wanted.all ?? 0);
    write(cpu, range, HmmRange.pfnFlagsMask, wanted.mask ?? 0);
    for (let i = 0; i < pages; i++) {
      write(cpu, this.#pfn(i), HmmPfn.entry, wanted.each?.[i] ?? 0);
      write(cpu, this.#pfn(i), HmmPfn.generation, -1);
    }
    mmapReadLock(cpu, this.mm);
    const result = hmmRangeFault(cpu, range);
    mmapReadUnlock(cpu, this.mm);
    const answers = Array.from({ length: pages }, (_, i) => ({
      entry: read(cpu, this.#pfn(i), HmmPfn.entry),
      generation: read(cpu, this.#pfn(i), HmmPfn.generation),
    }));
    return { result, pages: answers };
  }

  /** As a driver does: begins again as long as it is told to. */
  ask(va: Va, pages: number, wanted: Wanted): Answer {
    for (let tries = 0; tries < 64; tries++) {
      const answer = this.askOnce(va, pages, wanted);
      if (answer.result !== -EBUSY) return answer;
    }
    throw new Error('the range is invalidated for ever');
  }

  #pfn(index: number): HmmPfn {
    return (this.#pfns + index * HmmPfn.words) as HmmPfn;
  }
}
