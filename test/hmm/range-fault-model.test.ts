/**
 * hmm_range_fault against a naive model: a list of pages, each with the rights of its VMA and what is
 * mapped there.
 *
 * @module
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';

import { read } from '#memory';
import fc from 'fast-check';

import { EFAULT, EPERM } from '../../src/base/errno.js';
import { PAGE_SIZE } from '../../src/base/units.js';
import {
  HMM_PFN_ERROR,
  HMM_PFN_REQ_FAULT,
  HMM_PFN_REQ_WRITE,
  HMM_PFN_VALID,
  HMM_PFN_WRITE,
} from '../../src/hmm/types.js';
import { kzalloc } from '../../src/machine/slab.js';
import { loadWord, storeWord } from '../../src/mm/access.js';
import { dupMm } from '../../src/mm/fork.js';
import { mmapReadLock, mmapReadUnlock } from '../../src/mm/mmap-lock.js';
import { mprotect } from '../../src/mm/mprotect.js';
import { munmap } from '../../src/mm/munmap.js';
import { changeProtNuma } from '../../src/mm/numa-hint.js';
import { pteOf, PTRS_PER_TABLE } from '../../src/mm/page-table.js';
import { NO_PTE, PTE_PRESENT, PTE_PROTNONE, PTE_WRITE } from '../../src/mm/pte.js';
import { MmStruct } from '../../src/mm/types.js';
import { PROT_NONE, PROT_READ, PROT_WRITE } from '../../src/mm/uapi.js';
import {
  MMU_NOTIFY_PROTECTION_VMA,
  mmuNotifierRangeInit,
} from '../../src/notifier/mmu-notifier-range.js';
import { MmuNotifierRange } from '../../src/notifier/types.js';
import { cpuEntry, mapPages, pageVa } from '../support/address-space.js';
import { RangeProber } from '../support/range-prober.js';

/** The pages looked at lie around the end of a page table. */
const FIRST = PTRS_PER_TABLE - 10;
const PAGES = 20;

type Mapped = 'nothing' | 'read-only' | 'writable' | 'hidden' | 'hidden writable';

interface ModelPage {
  /** Rights of the VMA; undefined if there is none. */
  readonly prot: number | undefined;
  hasTable: boolean;
  mapped: Mapped;
}

/** What a page is reported as. */
function report(page: ModelPage): number {
  if (!isReadable(page)) return HMM_PFN_ERROR;
  if (page.mapped === 'read-only') return HMM_PFN_VALID;
  return page.mapped === 'writable' ? HMM_PFN_VALID | HMM_PFN_WRITE : 0;
}

function isReadable({ prot }: ModelPage): boolean {
  return prot !== undefined && (prot & PROT_READ) !== 0;
}

/** True if what is mapped is not enough for what is wanted. */
function needsFault(page: ModelPage, wanted: number): boolean {
  return (wanted & HMM_PFN_REQ_FAULT) !== 0 && (wanted & ~report(page) & 3) !== 0;
}

/** One fault, as a CPU's. */
function faultIn(page: ModelPage, isWrite: boolean): void {
  if (page.mapped === 'hidden') page.mapped = 'read-only';
  else if (page.mapped === 'hidden writable') page.mapped = 'writable';
  else if (isWrite) page.mapped = 'writable';
  else if (page.mapped === 'nothing') page.mapped = 'read-only';
}

/** 0 with the pages as they are then, or -errno. */
function modelRangeFault(pages: readonly ModelPage[], wanted: readonly number[]): number {
  const inTable = (a: number, b: number): boolean =>
    FIRST + a < PTRS_PER_TABLE === FIRST + b < PTRS_PER_TABLE;
  for (let i = 0; i < pages.length; i++) {
    const page = pages[i]!;
    if (!isReadable(page)) {
      if ((wanted[i]! & HMM_PFN_REQ_FAULT) !== 0) return -EFAULT;
      continue;
    }
    // what is faulted along with it: the rest of the VMA, as far as one table maps it
    let end = i;
    while (end < pages.length && pages[end]!.prot === page.prot && inTable(i, end)) end++;
    const run = pages.slice(i, end);
    const asked = page.hasTable
      ? [wanted[i]!].filter((one) => needsFault(page, one))
      : wanted.slice(i, end).filter((one) => (one & HMM_PFN_REQ_FAULT) !== 0);
    if (asked.length === 0) continue;
    if (!page.hasTable && run.every((one, at) => !needsFault(one, wanted[i + at]!))) continue;
    const isWrite = page.hasTable
      ? (asked[0]! & ~report(page) & HMM_PFN_REQ_WRITE) !== 0
      : asked.some((one) => (one & HMM_PFN_REQ_WRITE) !== 0);
    if (isWrite && (page.prot! & PROT_WRITE) === 0) return -EPERM;
    for (const one of run) faultIn(one, isWrite);
    pages.forEach((one, at) => {
      if (inTable(i, at)) one.hasTable = true;
    });
    i--; // again from there
  }
  return 0;
}

const BOTH = PROT_READ | PROT_WRITE;
const request = fc.constantFrom(0, 0, HMM_PFN_REQ_WRITE, HMM_PFN_REQ_FAULT, 3);

const scenario = fc.record({
  /** Rights of each page's VMA; -1 is a hole. */
  prots: fc.array(
    fc.record({
      prot: fc.constantFrom(-1, BOTH, BOTH, BOTH, BOTH, PROT_READ, PROT_WRITE, PROT_NONE),
      pages: fc.integer({ min: 1, max: 8 }),
    }),
    { minLength: 1, maxLength: 6 },
  ),
  loads: fc.uniqueArray(fc.nat(PAGES - 1), { maxLength: 6 }),
  stores: fc.uniqueArray(fc.nat(PAGES - 1), { maxLength: 6 }),
  forks: fc.boolean(),
  storesAfter: fc.uniqueArray(fc.nat(PAGES - 1), { maxLength: 5 }),
  hidden: fc.record({ from: fc.nat(PAGES - 1), pages: fc.nat(6) }),
  all: request,
  mask: request,
  each: fc.array(request, { minLength: PAGES, maxLength: PAGES }),
});
type Scenario = typeof scenario extends fc.Arbitrary<infer T> ? T : never;

const va = (page: number): number => pageVa(FIRST + page);

/** Makes the address space of the scenario; the rights of each page. */
function build(prober: RangeProber, told: Scenario): (number | undefined)[] {
  const { cpu, mm } = prober;
  const prots = told.prots.flatMap(({ prot, pages }) => Array<number>(pages).fill(prot));
  const rights = Array.from({ length: PAGES }, (_, page) => prots[page] ?? BOTH);
  rights.forEach((prot, page) => {
    if (prot >= 0) mapPages(cpu, mm, FIRST + page, 1);
  });
  for (const page of told.loads) loadWord(cpu, mm, va(page)); // a hole: -EFAULT
  for (const page of told.stores) storeWord(cpu, mm, va(page), page);
  if (told.forks) dupMm(cpu, mm);
  for (const page of told.storesAfter) storeWord(cpu, mm, va(page), page);
  hide(prober, rights, told.hidden);
  rights.forEach((prot, page) => {
    if (prot >= 0) mprotect(cpu, mm, va(page), PAGE_SIZE, prot);
  });
  return rights.map((prot) => (prot < 0 ? undefined : prot));
}

/** Hides pages, those of no VMA left out. */
function hide(
  { cpu, mm }: RangeProber,
  rights: readonly number[],
  { from, pages }: Scenario['hidden'],
): void {
  const range = kzalloc(cpu, MmuNotifierRange);
  for (let page = from; page < Math.min(from + pages, PAGES); page++) {
    if (rights[page]! < 0) continue;
    mmuNotifierRangeInit(cpu, range, MMU_NOTIFY_PROTECTION_VMA, mm, va(page), va(page + 1));
    mmapReadLock(cpu, mm);
    changeProtNuma(cpu, mm, range);
    mmapReadUnlock(cpu, mm);
  }
}

/** The model's pages, as the page table has them now. */
function observe({ cpu, mm }: RangeProber, rights: readonly (number | undefined)[]): ModelPage[] {
  return rights.map((prot, page) => {
    const { entry } = cpuEntry(cpu, mm, va(page));
    const isWritable = (entry & PTE_WRITE) !== 0;
    let mapped: Mapped = 'nothing';
    if ((entry & PTE_PRESENT) !== 0) mapped = isWritable ? 'writable' : 'read-only';
    else if ((entry & PTE_PROTNONE) !== 0) mapped = isWritable ? 'hidden writable' : 'hidden';
    const hasTable = pteOf(cpu, read(cpu, mm, MmStruct.pgd), va(page)) !== NO_PTE;
    return { prot, hasTable, mapped };
  });
}

test('any request of any pages is answered as by a naive model', () => {
  const prober = new RangeProber(32 << 20);
  const { cpu, mm } = prober;
  const results = new Map<number, number>();
  fc.assert(
    fc.property(scenario, (told) => {
      munmap(cpu, mm, va(0), PAGES * PAGE_SIZE);
      const rights = build(prober, told);
      const model = observe(prober, rights);
      const wanted = told.each.map((one) => (one & told.mask) | told.all);
      const expected = modelRangeFault(model, wanted);
      const answer = prober.ask(va(0), PAGES, told);
      assert.equal(answer.result, expected);
      results.set(expected, (results.get(expected) ?? 0) + 1);
      if (expected !== 0) return;
      const now = observe(prober, rights);
      answer.pages.forEach(({ entry, generation }, page) => {
        const flags = HMM_PFN_VALID | HMM_PFN_WRITE | HMM_PFN_ERROR;
        assert.equal(entry & flags, report(model[page]!), `page ${page}`);
        assert.equal(now[page]!.mapped, model[page]!.mapped, `page ${page}`);
        if ((entry & HMM_PFN_VALID) === 0) return;
        const own = cpuEntry(cpu, mm, va(page));
        assert.equal(entry >>> 12, own.entry >>> 12);
        assert.equal(generation, own.generation);
        assert.equal(needsFault(now[page]!, wanted[page]!), false);
      });
    }),
    { numRuns: 1000 },
  );
  for (const code of [0, -EFAULT, -EPERM]) assert.ok(results.get(code)! > 10, `${code}`);
});
