/**
 * The device's page table against a plain map of pages.
 *
 * @module
 */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';

import { write, writeAddress } from '#memory';
import fc from 'fast-check';

import { PAGE_SIZE } from '../../src/base/units.js';
import {
  closeContext,
  createSvmDevice,
  destroySvmDevice,
  openContext,
} from '../../src/drivers/svm/device.js';
import * as driverModule from '../../src/drivers/svm/driver.js';
import { svmDriver } from '../../src/drivers/svm/driver.js';
import { deviceClearRange, deviceEntry, deviceMapRange } from '../../src/drivers/svm/page-table.js';
import type { SvmContext, SvmDevice } from '../../src/drivers/svm/types.js';
import { HMM_PFN_VALID, HmmPfn, HmmRange } from '../../src/hmm/types.js';
import type { Cpu } from '../../src/machine/cpu.js';
import { allocPage, freePage } from '../../src/machine/page-alloc.js';
import { allocWords, kzalloc } from '../../src/machine/slab.js';
import { mmput } from '../../src/mm/exit.js';
import { pageHigh, pageLow } from '../../src/mm/page-table.js';
import {
  MMU_NOTIFY_CLEAR,
  mmuNotifierRangeInit,
  VA_MAX,
} from '../../src/notifier/mmu-notifier-range.js';
import { MmuNotifierRange } from '../../src/notifier/types.js';
import { framesAccountedFor } from '../../src/workloads/leak.js';
import { bootSpace, entryAt, type PageEntry } from '../support/address-space.js';

const RUN_MAX = 1200;
const NOTHING: PageEntry = { entry: 0, generation: 0 };

class Table {
  readonly #space = bootSpace([driverModule], 1, 16 << 20);
  readonly #range = kzalloc(this.#space.cpu, HmmRange);
  readonly #cleared = kzalloc(this.#space.cpu, MmuNotifierRange);
  readonly #pfns = allocWords(this.#space.cpu, RUN_MAX * HmmPfn.words);
  readonly #device = createSvmDevice(this.#space.cpu, 0, svmDriver, 16);
  readonly context: SvmContext = openContext(this.#space.cpu, this.#device, this.#space.mm);
  #serial = 0;

  get cpu(): Cpu {
    return this.#space.cpu;
  }

  /** A context of another device, of the same address space. */
  another(device: SvmDevice): SvmContext {
    return openContext(this.cpu, device, this.#space.mm);
  }

  /** Maps pages, each to something that no other page ever had; what they are mapped to. */
  map(va: number, pages: number, context = this.context): PageEntry[] | undefined {
    const { cpu } = this;
    const entries = Array.from({ length: pages }, () => ({
      entry: (++this.#serial << 12) | HMM_PFN_VALID,
      generation: 3 * this.#serial,
    }));
    entries.forEach(({ entry, generation }, i) => {
      const pfn = (this.#pfns + i * HmmPfn.words) as HmmPfn;
      write(cpu, pfn, HmmPfn.entry, entry);
      write(cpu, pfn, HmmPfn.generation, generation);
    });
    writeAddress(cpu, this.#range, HmmRange.start, va);
    writeAddress(cpu, this.#range, HmmRange.end, va + pages * PAGE_SIZE);
    write(cpu, this.#range, HmmRange.pfns, this.#pfns);
    return deviceMapRange(cpu, context, this.#range) ? entries : undefined;
  }

  clear(start: number, end: number): void {
    const { mm } = this.#space;
    mmuNotifierRangeInit(this.cpu, this.#cleared, MMU_NOTIFY_CLEAR, mm, start, end);
    deviceClearRange(this.cpu, this.context, this.#cleared);
  }

  at(va: number): PageEntry {
    const { cpu, context } = this;
    return entryAt(cpu, deviceEntry(cpu, context, pageHigh(va), pageLow(va)));
  }

  free(): void {
    closeContext(this.cpu, this.context);
    destroySvmDevice(this.cpu, this.#device);
    mmput(this.cpu, this.#space.mm);
  }
}

/** Where page tables of every level begin, and the ends of what a device can reach. */
const BORDERS = [2 ** 21 * 5, 2 ** 30 * 3, 2 ** 39 * 4, 2 ** 39 * 5, RUN_MAX * PAGE_SIZE];
const place = fc.record({
  border: fc.constantFrom(...BORDERS),
  offset: fc.integer({ min: -600, max: 600 }),
  pages: fc.oneof(fc.integer({ min: 1, max: 20 }), fc.integer({ min: 1, max: RUN_MAX })),
});
const step = fc.record({ clears: fc.boolean(), from: place, until: place });

describe('a device’s page table', () => {
  test('agrees with a map of pages after any changes, near and far', () => {
    const table = new Table();
    fc.assert(
      fc.property(fc.array(step, { maxLength: 8 }), (steps) => {
        table.clear(0, VA_MAX);
        const model = new Map<number, PageEntry>();
        for (const { clears, from, until } of steps) {
          const start = from.border + from.offset * PAGE_SIZE;
          const near = start + from.pages * PAGE_SIZE;
          if (!clears) {
            const entries = table.map(start, from.pages)!;
            entries.forEach((entry, i) => model.set(start + i * PAGE_SIZE, entry));
            continue;
          }
          const far = until.border + until.offset * PAGE_SIZE;
          const end = until.pages % 2 === 0 && far > start ? far : near;
          table.clear(start, end);
          for (const va of model.keys()) if (va >= start && va < end) model.set(va, NOTHING);
        }
        for (const [va, entry] of model) {
          assert.deepEqual(table.at(va), entry, va.toString(16));
        }
      }),
      { numRuns: 150 },
    );
    table.free();
  });

  test('has nothing where nothing was mapped, and clearing there makes no tables', () => {
    const table = new Table();
    const before = framesAccountedFor(table.cpu);
    table.clear(0, VA_MAX);
    table.clear(2 ** 40, 2 ** 40 + PAGE_SIZE);
    assert.equal(framesAccountedFor(table.cpu), before);
    assert.deepEqual(table.at(2 ** 40), NOTHING);
    table.free();
  });

  test('is gone with the context, all levels of it', () => {
    const table = new Table();
    const { cpu } = table;
    const device = createSvmDevice(cpu, 1, svmDriver, 16);
    const before = framesAccountedFor(cpu);
    const second = table.another(device);
    for (const border of BORDERS) assert.ok(table.map(border - 2 * PAGE_SIZE, 4, second));
    assert.ok(before - framesAccountedFor(cpu) > 2 * BORDERS.length, 'tables');
    closeContext(cpu, second);
    assert.equal(framesAccountedFor(cpu), before);
    destroySvmDevice(cpu, device);
    table.free();
  });

  test('says so if there is no memory for a table of it', () => {
    const table = new Table();
    const { cpu } = table;
    const frames: number[] = [];
    for (let pfn = allocPage(cpu); pfn !== 0; pfn = allocPage(cpu)) frames.push(pfn);
    assert.equal(table.map(2 ** 39 * 7, 1), undefined);
    for (const pfn of frames) freePage(cpu, pfn);
    assert.ok(table.map(2 ** 39 * 7, 1));
    table.free();
  });
});
