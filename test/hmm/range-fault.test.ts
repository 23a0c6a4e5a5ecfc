import assert from 'node:assert/strict';
import { beforeEach, describe, test } from 'node:test';

import { read, write } from '#memory';

import { EBUSY, EFAULT, EPERM } from '../../src/base/errno.js';
import { PAGE_SIZE } from '../../src/base/units.js';
import {
  HMM_PFN_ERROR,
  HMM_PFN_ORDER_MASK,
  HMM_PFN_REQ_FAULT,
  HMM_PFN_REQ_WRITE,
  HMM_PFN_SHIFT,
  HMM_PFN_VALID,
  HMM_PFN_WRITE,
} from '../../src/hmm/types.js';
import type { Cpu } from '../../src/machine/cpu.js';
import { allocPage, freePage, ZERO_PFN } from '../../src/machine/page-alloc.js';
import { stackPop, stackPush } from '../../src/machine/stack.js';
import { NULL, type Va } from '../../src/memory/layout.js';
import { loadWord, storeWord } from '../../src/mm/access.js';
import { createFile } from '../../src/mm/file.js';
import { dupMm } from '../../src/mm/fork.js';
import { mmRss } from '../../src/mm/mm-struct.js';
import { mmap } from '../../src/mm/mmap.js';
import { mmapReadLock, mmapReadUnlock } from '../../src/mm/mmap-lock.js';
import { mprotect } from '../../src/mm/mprotect.js';
import { changeProtNuma } from '../../src/mm/numa-hint.js';
import { pteOf } from '../../src/mm/page-table.js';
import { Pte, PTE_SPECIAL } from '../../src/mm/pte.js';
import { MmStruct } from '../../src/mm/types.js';
import {
  MAP_ANONYMOUS,
  MAP_FIXED,
  MAP_PRIVATE,
  MAP_SHARED,
  PROT_NONE,
  PROT_READ,
  PROT_WRITE,
} from '../../src/mm/uapi.js';
import { mmuIntervalReadRetry } from '../../src/notifier/mmu-interval-notifier.js';
import {
  MMU_NOTIFY_PROTECTION_VMA,
  mmuNotifierRangeInit,
} from '../../src/notifier/mmu-notifier-range.js';
import { MmuNotifierRange } from '../../src/notifier/types.js';
import { cpuEntry, mapPages, pageVa } from '../support/address-space.js';
import { type Answer, RangeProber } from '../support/range-prober.js';

const READ = HMM_PFN_REQ_FAULT;
const WRITE = HMM_PFN_REQ_FAULT | HMM_PFN_REQ_WRITE;
const EITHER = HMM_PFN_REQ_FAULT | HMM_PFN_REQ_WRITE;

let prober: RangeProber;
let cpu: Cpu;
let mm: MmStruct;
beforeEach(() => {
  prober = new RangeProber();
  ({ cpu, mm } = prober);
});

/** Pages as letters: V valid, W writable, E error, f a frame that may not be used, - nothing. */
function letters({ pages }: Answer): string {
  return pages.map(({ entry }) => letter(entry)).join(' ');
}

function letter(entry: number): string {
  assert.equal(entry & HMM_PFN_ORDER_MASK, 0);
  if ((entry & HMM_PFN_ERROR) !== 0) return 'E';
  if ((entry & HMM_PFN_VALID) === 0) return entry >>> HMM_PFN_SHIFT === 0 ? '-' : 'f';
  return (entry & HMM_PFN_WRITE) !== 0 ? 'W' : 'V';
}

/** Valid pages are those that the CPUs have, and no other life of their frames. */
function assertFrames(answer: Answer, va: Va): void {
  for (const [page, { entry, generation }] of answer.pages.entries()) {
    if ((entry & HMM_PFN_VALID) === 0) continue;
    const own = cpuEntry(cpu, mm, va + page * PAGE_SIZE);
    assert.equal(entry >>> HMM_PFN_SHIFT, own.entry >>> HMM_PFN_SHIFT, `frame of page ${page}`);
    assert.equal(generation, own.generation, `generation of page ${page}`);
  }
}

const store = (page: number): void => {
  assert.equal(storeWord(cpu, mm, pageVa(page), page), 0);
};
const load = (page: number): void => {
  assert.equal(loadWord(cpu, mm, pageVa(page)), 0);
};
const protect = (page: number, pages: number, prot: number): void => {
  assert.equal(mprotect(cpu, mm, pageVa(page), pages * PAGE_SIZE, prot), 0);
};

/** Hides pages from the hardware. */
function hide(page: number, pages: number): void {
  const range = stackPush(cpu, MmuNotifierRange);
  const [start, end] = [pageVa(page), pageVa(page + pages)];
  mmuNotifierRangeInit(cpu, range, MMU_NOTIFY_PROTECTION_VMA, mm, start, end);
  mmapReadLock(cpu, mm);
  changeProtNuma(cpu, mm, range);
  mmapReadUnlock(cpu, mm);
  stackPop(cpu, range);
}

/** What is found at pages 0 to `pages`. */
function ask(pages: number, wanted: Parameters<RangeProber['ask']>[2]): Answer {
  const answer = prober.ask(pageVa(0), pages, wanted);
  if (answer.result === 0) assertFrames(answer, pageVa(0));
  return answer;
}

describe('with nothing requested', () => {
  test('it tells what is there, and changes nothing', () => {
    mapPages(cpu, mm, 0, 5);
    load(1);
    store(2);
    store(3);
    hide(3, 1);
    const before = mmRss(cpu, mm);
    const answer = ask(6, {});
    assert.equal(answer.result, 0);
    assert.equal(letters(answer), '- V W f - E');
    assert.equal(answer.pages[1]!.entry >>> HMM_PFN_SHIFT, ZERO_PFN);
    const hidden = cpuEntry(cpu, mm, pageVa(3)).entry;
    assert.equal(answer.pages[3]!.entry >>> HMM_PFN_SHIFT, hidden >>> HMM_PFN_SHIFT);
    assert.equal(mmRss(cpu, mm), before);
    assert.equal(cpuEntry(cpu, mm, pageVa(3)).entry, hidden);
  });

  test('memory that may not be read is an error, whether there is a frame or not', () => {
    mapPages(cpu, mm, 0, 6);
    for (let page = 0; page < 6; page++) store(page);
    protect(0, 2, PROT_NONE);
    protect(2, 2, PROT_WRITE);
    protect(4, 1, PROT_READ);
    const answer = ask(8, {});
    assert.equal(answer.result, 0);
    assert.equal(letters(answer), 'E E E E V W E E');
  });

  test('a request to write that does not ask for the page asks for nothing', () => {
    mapPages(cpu, mm, 0, 2, PROT_READ);
    load(1);
    for (const wanted of [
      { all: HMM_PFN_REQ_WRITE },
      { mask: HMM_PFN_REQ_WRITE, each: [EITHER, EITHER, EITHER] },
    ]) {
      const answer = ask(3, wanted);
      assert.equal(answer.result, 0);
      assert.equal(letters(answer), '- V E');
    }
  });

  test('what is requested of pages does not count if the mask leaves it out', () => {
    mapPages(cpu, mm, 0, 2, PROT_READ);
    const answer = ask(3, { each: [EITHER, EITHER, EITHER] });
    assert.equal(answer.result, 0);
    assert.equal(letters(answer), '- - E');
  });

  test('of no pages at all it says so', () => {
    assert.equal(ask(0, { all: WRITE }).result, 0);
  });
});

describe('a request', () => {
  test('for all pages makes them all present; to read, with the zero page', () => {
    mapPages(cpu, mm, 0, 4);
    store(2);
    assert.equal(letters(ask(4, { all: READ })), 'V V W V');
    assert.equal(mmRss(cpu, mm), 1);
    assert.equal(letters(ask(4, { all: WRITE })), 'W W W W');
    assert.equal(mmRss(cpu, mm), 4);
  });

  test('for single pages is served in full, and beside it the rest of the range', () => {
    mapPages(cpu, mm, 0, 5);
    const answer = ask(5, { mask: EITHER, each: [0, READ, 0, WRITE, 0] });
    assert.equal(answer.result, 0);
    assert.equal(letters(answer), 'W W W W W', 'no table yet: all of it, for writing');
    store(4);
    mapPages(cpu, mm, 0, 4); // again, but the table stays
    const second = ask(5, { mask: EITHER, each: [0, READ, 0, WRITE, 0] });
    assert.equal(letters(second), '- V V W W', 'from the first that is requested on');
  });

  test('and the one for all pages are taken together', () => {
    mapPages(cpu, mm, 0, 4);
    const answer = ask(4, { all: READ, mask: HMM_PFN_REQ_WRITE, each: [0, 0, WRITE, 0] });
    assert.equal(answer.result, 0);
    assert.equal(letters(answer)[4], 'W');
    assert.ok(answer.pages.every(({ entry }) => (entry & HMM_PFN_VALID) !== 0));
  });

  test('shows hidden pages again, with the right to write that they had', () => {
    mapPages(cpu, mm, 0, 3);
    store(0);
    store(1);
    load(2);
    hide(0, 3);
    assert.equal(letters(ask(3, { mask: READ, each: [0, READ, 0] })), 'f W V');
    assert.equal(letters(ask(3, { all: WRITE })), 'W W W');
  });

  test('to write a hidden page faults for writing, whatever right it kept, and what follows with it', () => {
    mapPages(cpu, mm, 0, 3);
    store(0);
    hide(0, 1);
    assert.equal(letters(ask(3, { mask: EITHER, each: [WRITE, 0, 0] })), 'W W W');
  });

  test('to write gives a page of its own in place of one that is shared (COW)', () => {
    mapPages(cpu, mm, 0, 2);
    store(0);
    store(1);
    const child = dupMm(cpu, mm);
    const shared = cpuEntry(cpu, child, pageVa(0));
    assert.equal(letters(ask(2, { all: READ })), 'V V', 'to read, they may be shared');
    assert.equal(ask(2, {}).pages[0]!.entry >>> HMM_PFN_SHIFT, shared.entry >>> HMM_PFN_SHIFT);
    const answer = ask(1, { all: WRITE });
    assert.equal(letters(answer), 'W');
    assert.notEqual(answer.pages[0]!.entry >>> HMM_PFN_SHIFT, shared.entry >>> HMM_PFN_SHIFT);
    assert.equal(loadWord(cpu, mm, pageVa(0)), 0);
    assert.equal(cpu.loaded, 0, 'what was stored: the number of the page');
    assert.equal(cpuEntry(cpu, child, pageVa(0)).entry, shared.entry);
  });

  test('to write a page that is alone only makes it writable, and disturbs nobody', () => {
    mapPages(cpu, mm, 0, 1);
    store(0);
    protect(0, 1, PROT_READ);
    const seq = prober.begin();
    protect(0, 1, PROT_READ | PROT_WRITE);
    assert.equal(mmuIntervalReadRetry(cpu, prober.interval, seq), true);
    const frame = cpuEntry(cpu, mm, pageVa(0)).entry >>> HMM_PFN_SHIFT;
    const answer = prober.askOnce(pageVa(0), 1, { all: WRITE });
    assert.equal(answer.result, 0, 'at the first try');
    assert.equal(letters(answer), 'W');
    assert.equal(answer.pages[0]!.entry >>> HMM_PFN_SHIFT, frame);
  });

  test('of a file’s pages: shared ones are the file’s, private ones are copied to be written', () => {
    const file = createFile(cpu, 8 * PAGE_SIZE, 7);
    mapPages(cpu, mm, 0, 2, PROT_READ | PROT_WRITE, MAP_SHARED, file);
    mapPages(cpu, mm, 2, 2, PROT_READ | PROT_WRITE, MAP_PRIVATE, file);
    const reads = ask(4, { all: READ });
    assert.equal(letters(reads), 'W W V V');
    const frames = reads.pages.map(({ entry }) => entry >>> HMM_PFN_SHIFT);
    assert.deepEqual(frames.slice(0, 2), frames.slice(2, 4), 'one file, the same pages');
    const writes = ask(4, { all: WRITE });
    assert.equal(letters(writes), 'W W W W');
    const own = writes.pages.map(({ entry }) => entry >>> HMM_PFN_SHIFT);
    assert.deepEqual(own.slice(0, 2), frames.slice(0, 2));
    assert.equal(new Set(own).size, 4);
  });
});

describe('-EBUSY', () => {
  test('if the sequence moved before the call, which then has done nothing', () => {
    mapPages(cpu, mm, 0, 2);
    store(0);
    const seq = prober.begin();
    hide(0, 1);
    const answer = prober.askOnce(pageVa(0), 2, { mask: EITHER, each: [READ, WRITE] }, seq);
    assert.equal(answer.result, -EBUSY);
    assert.deepEqual(
      answer.pages.map(({ entry }) => entry),
      [READ, WRITE],
      'the requests stand',
    );
    assert.equal(cpuEntry(cpu, mm, pageVa(1)).entry, 0);
  });

  test('if its own fault replaced a page that the device may have', () => {
    mapPages(cpu, mm, 0, 3);
    load(1);
    const seq = prober.begin();
    const answer = prober.askOnce(pageVa(0), 3, { all: WRITE }, seq);
    assert.equal(answer.result, -EBUSY, 'the zero page was there');
    assert.equal(mmuIntervalReadRetry(cpu, prober.interval, seq), true);
    const again = prober.askOnce(pageVa(0), 3, { all: WRITE });
    assert.equal(again.result, 0);
    assert.equal(letters(again), 'W W W');
  });
});

describe('-EFAULT', () => {
  const wanting = (pages: number, at: number): { mask: number; each: number[] } => ({
    mask: EITHER,
    each: Array.from({ length: pages }, (_, page) => (page === at ? READ : 0)),
  });

  test('for a page of no VMA: before, between or behind', () => {
    mapPages(cpu, mm, 1, 2);
    mapPages(cpu, mm, 4, 1);
    store(1);
    for (const hole of [0, 3, 5]) {
      assert.equal(ask(6, wanting(6, hole)).result, -EFAULT, `page ${hole}`);
    }
    assert.equal(ask(6, { all: READ }).result, -EFAULT);
    assert.equal(letters(ask(6, wanting(6, 2))), 'E W V E - E');
  });

  test('for a page that may not be read, also if there is a frame', () => {
    mapPages(cpu, mm, 0, 3);
    for (let page = 0; page < 3; page++) store(page);
    protect(0, 1, PROT_NONE);
    protect(1, 1, PROT_WRITE);
    assert.equal(ask(3, wanting(3, 0)).result, -EFAULT);
    assert.equal(ask(3, wanting(3, 1)).result, -EFAULT);
    assert.equal(letters(ask(3, wanting(3, 2))), 'E E W');
  });

  test('for a page behind the end of its file', () => {
    const file = createFile(cpu, 2 * PAGE_SIZE, 0);
    mapPages(cpu, mm, 0, 3, PROT_READ, MAP_SHARED, file);
    assert.equal(ask(3, wanting(3, 2)).result, -EFAULT);
    assert.equal(letters(ask(2, { all: READ })), 'V V');
  });

  test('for a page that has no frame to give, though the CPUs may use it', () => {
    mapPages(cpu, mm, 0, 2);
    store(0);
    store(1);
    const pte = pteOf(cpu, read(cpu, mm, MmStruct.pgd), pageVa(0));
    const entry = read(cpu, pte, Pte.entry);
    write(cpu, pte, Pte.entry, entry | PTE_SPECIAL);
    for (const wanted of [READ, WRITE]) {
      assert.equal(prober.askOnce(pageVa(0), 2, { all: wanted }).result, -EFAULT);
    }
    assert.equal(letters(prober.askOnce(pageVa(0), 2, {})), 'E W');
    write(cpu, pte, Pte.entry, PTE_SPECIAL | 512); // nothing that could be faulted in
    assert.equal(prober.askOnce(pageVa(0), 2, { all: READ }).result, -EFAULT);
    assert.equal(letters(prober.askOnce(pageVa(0), 2, {})), '- W');
    write(cpu, pte, Pte.entry, entry);
  });

  test('if memory is out', () => {
    mapPages(cpu, mm, 0, 4);
    store(0);
    const frames: number[] = [];
    for (let pfn = allocPage(cpu); pfn !== 0; pfn = allocPage(cpu)) frames.push(pfn);
    const answer = ask(4, { all: WRITE });
    assert.equal(answer.result, -EFAULT);
    assert.equal(letter(answer.pages[0]!.entry), 'W');
    for (const pfn of frames) freePage(cpu, pfn);
    assert.equal(letters(ask(4, { all: WRITE })), 'W W W W');
  });
});

describe('-EPERM', () => {
  test('for a write to a VMA without the right to, present or not', () => {
    mapPages(cpu, mm, 0, 2, PROT_READ);
    assert.equal(ask(2, { all: WRITE }).result, -EPERM, 'no table');
    load(0);
    assert.equal(ask(2, { all: WRITE }).result, -EPERM, 'the zero page');
    assert.equal(ask(2, { mask: EITHER, each: [READ, WRITE] }).result, -EPERM);
    assert.equal(letters(ask(2, { all: READ })), 'V V');
  });

  test('leaves what came before as answers, and what comes after as requests', () => {
    mapPages(cpu, mm, 0, 2);
    mapPages(cpu, mm, 2, 2, PROT_READ);
    store(0);
    const answer = ask(4, { mask: EITHER, each: [READ, WRITE, WRITE, READ] });
    assert.equal(answer.result, -EPERM);
    assert.deepEqual(
      answer.pages.slice(0, 2).map(({ entry }) => letter(entry)),
      ['W', 'W'],
    );
    assert.deepEqual(
      answer.pages.slice(2).map(({ entry }) => entry),
      [WRITE, READ],
    );
  });
});

describe('the borders', () => {
  /** Maps `pages` at `va` and writes to every one of them through the device's request. */
  function checkAround(va: Va, pages: number): void {
    const flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED;
    const at = mmap(cpu, mm, va, pages * PAGE_SIZE, PROT_READ | PROT_WRITE, flags, NULL, 0);
    assert.equal(at, va);
    const few = prober.ask(va, pages, {
      mask: EITHER,
      each: Array.from({ length: pages }, (_, page) => (page % 2 === 0 ? WRITE : 0)),
    });
    assert.equal(few.result, 0);
    assertFrames(few, va);
    few.pages.forEach(({ entry }, page) => {
      if (page % 2 === 0) assert.equal(letter(entry), 'W');
    });
    const all = prober.ask(va, pages, { all: WRITE });
    assert.equal(all.result, 0);
    assertFrames(all, va);
    assert.ok(all.pages.every(({ entry }) => letter(entry) === 'W'));
  }

  test('of page tables of every level are crossed', () => {
    for (const border of [2 ** 21 * 3, 2 ** 30 * 5, 2 ** 39 * 2]) {
      checkAround(border - 3 * PAGE_SIZE, 7);
    }
    checkAround(2 ** 40 - 100 * PAGE_SIZE, 700);
  });

  test('of the user’s addresses are reached: the first page and the last', () => {
    checkAround(65536, 2);
    checkAround(2 ** 47 - 3 * PAGE_SIZE, 2);
    const beyond = prober.ask(2 ** 47 - 2 * PAGE_SIZE, 3, {});
    assert.equal(letters(beyond), 'W E E');
  });

  test('of VMAs are crossed without a gap', () => {
    mapPages(cpu, mm, 0, 600);
    for (let page = 0; page < 600; page += 3) protect(page, 1, PROT_READ);
    const answer = ask(600, { all: READ });
    assert.equal(answer.result, 0);
    assert.ok(answer.pages.every(({ entry }) => letter(entry) === 'V'));
  });
});
