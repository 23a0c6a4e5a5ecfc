/**
 * Faults, copy on write, fork and exit: who sees what, and which frames that takes.
 *
 * @module
 */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';

import { read, readOnce, write } from '#memory';

import { EFAULT } from '../../src/base/errno.js';
import { PAGE_SIZE, PAGE_WORDS } from '../../src/base/units.js';
import { attachCpu, bootMachine } from '../../src/machine/boot.js';
import { freeFrameCount, pageOf, ZERO_PFN } from '../../src/machine/page-alloc.js';
import { Page } from '../../src/machine/types.js';
import { NULL } from '../../src/memory/layout.js';
import { loadWord, storeWord } from '../../src/mm/access.js';
import { bootMm } from '../../src/mm/boot.js';
import { mmput } from '../../src/mm/exit.js';
import { FAULT_FLAG_WRITE, handleMmFault } from '../../src/mm/fault.js';
import { createFile, fileGetPage, filePattern, fput } from '../../src/mm/file.js';
import { dupMm } from '../../src/mm/fork.js';
import { madvise } from '../../src/mm/madvise.js';
import { mmAlloc, mmget, mmgetNotZero, useMm } from '../../src/mm/mm-struct.js';
import { mmap } from '../../src/mm/mmap.js';
import { mmapReadLock, mmapReadUnlock } from '../../src/mm/mmap-lock.js';
import { tlbFinishMmu, tlbGatherMmu } from '../../src/mm/mmu-gather.js';
import { mprotect } from '../../src/mm/mprotect.js';
import { mremap } from '../../src/mm/mremap.js';
import { munmap } from '../../src/mm/munmap.js';
import { getPage, putPage } from '../../src/mm/page.js';
import { pteOf } from '../../src/mm/page-table.js';
import { Pte, PTE_ACCESSED, PTE_DIRTY, pteGet } from '../../src/mm/pte.js';
import { MmStruct } from '../../src/mm/types.js';
import * as uapi from '../../src/mm/uapi.js';
import { unmapPageRange } from '../../src/mm/zap.js';
import { framesAccountedFor } from '../../src/workloads/leak.js';
import { assertBug } from '../support/machine.js';
import { at, bootMmCpu, inSpace, newSpace, type Space } from '../support/space.js';
import { assertNothingLeft, held } from '../support/space-check.js';

function refcount({ cpu }: Space, pfn: number): number {
  return readOnce(cpu, pageOf(cpu, pfn), Page.refcount);
}

function hardwareBits({ cpu, mm }: Space, page: number): number {
  const pte = pteOf(cpu, read(cpu, mm, MmStruct.pgd), at(page));
  return pteGet(cpu, pte) & (PTE_ACCESSED | PTE_DIRTY);
}

describe('anonymous memory', () => {
  test(
    'reads as zero from the one zero page, until it is written',
    inSpace((space) => {
      space.map(0, 2);
      assert.equal(space.load(0), 0);
      assert.equal(space.load(0, PAGE_WORDS - 1), 0);
      assert.deepEqual(space.entry(0), { kind: 'zero', rights: 'r', pfn: ZERO_PFN });
      assert.equal(space.rss, 0);
      space.store(0, 5, 7);
      assert.deepEqual(space.entries(0, 2), ['anon rw', 'none']);
      assert.deepEqual([space.load(0, 7), space.load(0, 6), space.load(0, 8)], [5, 0, 0]);
      assert.equal(space.rss, 1);
    }),
  );

  test(
    'that is written first is zero elsewhere, whoever had the frame before',
    inSpace((space) => {
      space.map(0, 1);
      for (let word = 0; word < PAGE_WORDS; word += 64) space.store(0, -1, word);
      const { pfn } = space.entry(0);
      space.unmap(0, 1);
      space.map(0, 8);
      for (let page = 0; page < 8; page++) {
        space.store(page, 1, 3);
        for (let word = 0; word < PAGE_WORDS; word += 64) assert.equal(space.load(page, word), 0);
      }
      assert.ok([0, 1, 2, 3, 4, 5, 6, 7].some((page) => space.entry(page).pfn === pfn));
    }),
  );

  test(
    'that is shared is one memory, and ends where it was made to end',
    inSpace((space) => {
      space.map(0, 2, { shared: true });
      const child = space.fork();
      child.store(0, 3);
      assert.equal(space.load(0), 3);
      space.store(1, 4);
      assert.equal(child.load(1), 4);
      assert.equal(space.entry(1).pfn, child.entry(1).pfn);
    }),
  );

  test(
    'cannot be used where nothing is mapped, or without the right',
    inSpace((space) => {
      space.map(0, 1, { prot: 'r' });
      space.map(1, 1, { prot: '' });
      space.map(2, 1, { prot: 'w' });
      space.map(3, 1, { prot: 'x' });
      assert.equal(space.store(0, 1), -EFAULT);
      assert.equal(space.tryLoad(1), -EFAULT);
      assert.equal(space.store(1, 1), -EFAULT);
      assert.equal(space.load(2), 0, 'what can be written can be read');
      assert.equal(space.load(3), 0, 'and what can be executed');
      assert.equal(space.store(3, 1), -EFAULT);
      assert.equal(space.tryLoad(4), -EFAULT);
      assert.equal(space.store(-1, 1), -EFAULT);
    }),
  );

  test(
    'has its entry marked by loads and stores',
    inSpace((space) => {
      space.map(0, 2);
      space.store(0, 1);
      assert.equal(hardwareBits(space, 0), PTE_ACCESSED | PTE_DIRTY);
      space.advise(0, 1, uapi.MADV_FREE);
      assert.equal(hardwareBits(space, 0), 0);
      space.load(0);
      assert.equal(hardwareBits(space, 0), PTE_ACCESSED);
      space.store(0, 2);
      assert.equal(hardwareBits(space, 0), PTE_ACCESSED | PTE_DIRTY);
    }),
  );
});

describe('a file', () => {
  test(
    'shows its pages, each its own, to whoever maps them',
    inSpace((space) => {
      const file = space.file(5, 11);
      space.map(0, 5, { file });
      space.map(10, 2, { file, offset: 3, shared: true });
      for (let page = 0; page < 5; page++) {
        assert.equal(space.load(page), filePattern(11, page));
        assert.equal(space.load(page, PAGE_WORDS - 1), filePattern(11, page));
      }
      assert.equal(space.load(11), filePattern(11, 4));
      assert.equal(space.entry(4).pfn, space.entry(11).pfn);
    }),
  );

  test(
    'ends with its last page, even the part of one',
    inSpace((space) => {
      const file = createFile(space.cpu, 2 * PAGE_SIZE + 1, 0);
      space.map(0, 6, { file });
      assert.equal(space.load(2), 0);
      assert.equal(space.tryLoad(3), -EFAULT);
      assert.equal(space.store(3, 1), -EFAULT);
      fput(space.cpu, file);
      assert.equal(space.load(1), 0, 'the mapping keeps it');
    }),
  );

  test(
    'that is shared is written by whoever maps it',
    inSpace((space) => {
      const file = space.file(2);
      space.map(0, 2, { file, shared: true });
      space.map(4, 2, { file, shared: true });
      space.map(8, 2, { file });
      space.store(0, 1);
      assert.equal(space.load(4), 1);
      assert.equal(space.load(8), 1);
      space.store(4, 2);
      assert.equal(space.load(8), 2, 'a private mapping shows it, until it has a copy');
      space.store(8, 3);
      space.store(0, 4);
      assert.deepEqual([space.load(4), space.load(8)], [4, 3]);
    }),
  );

  test(
    'that is private is copied by a store, read before or not',
    inSpace((space) => {
      const file = space.file(2, 5);
      space.map(0, 2, { file });
      space.load(0);
      for (const page of [0, 1]) {
        space.store(page, 1, 9);
        assert.equal(space.load(page), filePattern(5, page));
        assert.equal(space.load(page, 9), 1);
        assert.equal(space.entry(page).kind, 'anon');
      }
      const pfn = fileGetPage(space.cpu, file, 0);
      assert.equal(refcount(space, pfn), 2, 'the cache and we');
      putPage(space.cpu, pfn);
    }),
  );

  test(
    'is mapped around a page that was read, where it is in memory',
    inSpace((space) => {
      const file = space.file(40);
      space.map(-8, 40, { file, shared: true });
      for (const page of [0, 3, 7, 8, 20]) space.store(page, page);
      space.map(-8, 40, { file, prot: 'r' });
      space.load(5);
      const around = [-8, -1, 0, 3, 5, 7, 8, 20].map((page) => space.entry(page).kind);
      assert.deepEqual(around, ['none', 'none', 'file', 'file', 'file', 'file', 'none', 'none']);
      space.load(9);
      assert.deepEqual(
        [8, 9, 10, 20].map((page) => space.entry(page).kind),
        ['file', 'file', 'none', 'file'],
      );
      assert.deepEqual(space.entries(20, 1), ['file r']);
    }),
  );

  test(
    'may have more pages than 32 bits count',
    inSpace((space) => {
      const pages = 2 ** 33;
      const file = space.file(pages, 3);
      const offsets = [0, 1, 2 ** 31, 2 ** 32, 2 ** 32 + 1, pages - 1];
      offsets.forEach((offset, i) => {
        space.map(2 * i, 1, { file, offset, shared: true });
        space.store(2 * i, 100 + i);
      });
      offsets.forEach((_, i) => {
        assert.equal(space.load(2 * i), 100 + i);
      });
      assert.equal(new Set(offsets.map((_, i) => space.entry(2 * i).pfn)).size, offsets.length);
    }),
  );
});

describe('fork', () => {
  test(
    'copies what a page holds only when one side writes it',
    inSpace((space) => {
      space.map(0, 4);
      for (let page = 0; page < 3; page++) space.store(page, page + 1);
      const child = space.fork();
      for (const one of [space, child]) {
        assert.deepEqual(one.entries(0, 4), ['anon r', 'anon r', 'anon r', 'none']);
      }
      assert.equal(space.entry(0).pfn, child.entry(0).pfn);
      space.store(0, 10);
      child.store(1, 20);
      assert.deepEqual([space.load(0), space.load(1)], [10, 2]);
      assert.deepEqual([child.load(0), child.load(1)], [1, 20]);
      assert.notEqual(space.entry(0).pfn, child.entry(0).pfn);
      assert.equal(space.entry(2).pfn, child.entry(2).pfn);
      assert.equal(child.load(3), 0);
    }),
  );

  test(
    'leaves the last that has a page alone with it: no copy',
    inSpace((space) => {
      space.map(0, 2);
      space.store(0, 1);
      space.store(1, 2);
      const { pfn } = space.entry(0);
      const child = space.fork();
      child.exit();
      assert.deepEqual(space.entries(0, 1), ['anon r']);
      space.store(0, 5);
      assert.deepEqual(space.entry(0), { kind: 'anon', rights: 'rw', pfn });
      const second = space.fork();
      second.store(1, 9);
      const before = framesAccountedFor(space.cpu);
      space.store(1, 7);
      assert.equal(framesAccountedFor(space.cpu), before);
      assert.equal(second.load(1), 9);
    }),
  );

  test(
    'does not let a page be reused while somebody else holds it',
    inSpace((space) => {
      space.map(0, 1);
      space.store(0, 1);
      const { pfn } = space.entry(0);
      const child = space.fork();
      getPage(space.cpu, pfn);
      child.exit();
      space.store(0, 2);
      assert.notEqual(space.entry(0).pfn, pfn);
      putPage(space.cpu, pfn);
    }),
  );

  test(
    'makes grandchildren of children, each with a memory of its own',
    inSpace((space) => {
      space.map(0, 4);
      const family = [space];
      for (let page = 0; page < 4; page++) space.store(page, 1);
      for (let i = 1; i < 6; i++) {
        const next = family.at(-1)!.fork();
        next.store(i % 4, 10 * i);
        family.push(next);
      }
      space.check();
      const values = family.map((one) => [0, 1, 2, 3].map((page) => one.load(page)));
      assert.deepEqual(values, [
        [1, 1, 1, 1],
        [1, 10, 1, 1],
        [1, 10, 20, 1],
        [1, 10, 20, 30],
        [40, 10, 20, 30],
        [40, 50, 20, 30],
      ]);
      family[2]!.exit();
      family[3]!.store(3, 7);
      assert.equal(family[4]!.load(3), 30);
    }),
  );

  test(
    'drops the rights that a TLB remembers',
    inSpace((space) => {
      space.map(0, 1);
      space.store(0, 1);
      space.store(0, 2);
      const child = space.fork();
      space.store(0, 3);
      assert.equal(child.load(0), 2);
    }),
  );

  test(
    'keeps mappings, rights and break, but not locks, nor what the parent keeps to itself',
    inSpace((space) => {
      space.map(0, 2);
      space.map(2, 2, { prot: 'r', flags: uapi.MAP_FIXED | uapi.MAP_LOCKED });
      space.map(6, 2);
      space.map(9, 2);
      for (const page of [6, 7, 9, 10]) space.store(page, page);
      space.advise(6, 1, uapi.MADV_DONTFORK);
      space.advise(9, 1, uapi.MADV_WIPEONFORK);
      const child = space.fork();
      assert.deepEqual(child.layout(), ['0-2 rwp', '2-4 rp', '7-8 rwp', '9-10 rwp', '10-11 rwp']);
      assert.deepEqual([child.lockedVm, child.totalVm], [0, 7]);
      assert.equal(child.tryLoad(6), -EFAULT);
      assert.deepEqual(
        [7, 9, 10].map((page) => child.load(page)),
        [7, 0, 10],
      );
      assert.equal(space.load(9), 9);
      child.store(9, 1);
      const grandchild = child.fork();
      assert.equal(grandchild.load(9), 0, 'it is wiped again');
    }),
  );

  test(
    'copies no entry that a fault can make again',
    inSpace((space) => {
      const file = space.file(2, 3);
      space.map(0, 2, { file });
      space.map(2, 2, { shared: true });
      space.map(4, 2);
      space.load(0);
      space.store(2, 1);
      space.load(4);
      const child = space.fork();
      assert.deepEqual(child.entries(0, 6), Array(6).fill('none'));
      assert.equal(child.load(0), filePattern(3, 0));
      assert.equal(child.load(2), 1);
    }),
  );

  test(
    'of a private file copies both its own pages and those of the file',
    inSpace((space) => {
      const file = space.file(2, 3);
      space.map(0, 2, { file });
      space.store(0, 1);
      space.load(1);
      const child = space.fork();
      assert.deepEqual(child.entries(0, 2), ['anon r', 'file r']);
      space.store(0, 2);
      child.store(1, 3);
      assert.deepEqual([child.load(0), space.load(1)], [1, filePattern(3, 1)]);
    }),
  );

  test(
    'copies across tables of every level',
    inSpace((space) => {
      space.map(0, 16);
      space.map(5000, 1);
      for (let page = 0; page < 16; page++) space.store(page, page);
      space.store(5000, 5000);
      const child = space.fork();
      for (let page = 0; page < 16; page++) space.store(page, -1);
      for (let page = 0; page < 16; page++) assert.equal(child.load(page), page);
      assert.equal(child.load(5000), 5000);
    }),
  );
});

describe('the end of an address space', () => {
  test('comes with its last user', () => {
    const cpu = bootMmCpu();
    const before = held(cpu);
    const mm = mmAlloc(cpu);
    mmget(cpu, mm);
    assert.equal(mmgetNotZero(cpu, mm), true);
    mmput(cpu, mm);
    mmput(cpu, mm);
    assert.notDeepEqual(held(cpu), before);
    mmput(cpu, mm);
    assertNothingLeft(cpu, before);
  });

  test('gives back everything, wherever it is mapped', () => {
    const space = newSpace();
    const { cpu, mm } = space;
    const flags = uapi.MAP_PRIVATE | uapi.MAP_ANONYMOUS | uapi.MAP_FIXED;
    for (const va of [0, 2 ** 30, 2 ** 39 - PAGE_SIZE, 2 ** 46, 2 ** 47 - 2 * PAGE_SIZE]) {
      mmap(cpu, mm, va, PAGE_SIZE, 3, flags, NULL, 0);
      storeWord(cpu, mm, va, 1);
    }
    space.map(0, 600);
    for (let page = 0; page < 600; page++) space.store(page, page);
    space.end();
  });

  test(
    'of one that was never used leaves nothing',
    inSpace(() => undefined),
  );

  test('of more users than there were is a bug', () => {
    const cpu = bootMmCpu();
    const mm = mmAlloc(cpu);
    mmget(cpu, mm);
    write(cpu, mm, MmStruct.users, 0);
    assertBug(() => {
      mmput(cpu, mm);
    }, /mm_users underflow/);
    assert.equal(mmgetNotZero(cpu, mm), false);
  });
});

describe('two CPUs', () => {
  /** Two CPUs of one machine, both on this thread, in one address space of four pages. */
  function twoCpus(): readonly [Space['cpu'], Space['cpu'], MmStruct] {
    const { handle } = bootMachine({ cpus: 2, ramBytes: 8 << 20 });
    const [one, other] = [attachCpu(handle, 0), attachCpu(handle, 1)];
    bootMm(one);
    const mm = mmAlloc(one);
    for (const cpu of [one, other]) useMm(cpu, mm);
    const flags = uapi.MAP_PRIVATE | uapi.MAP_ANONYMOUS | uapi.MAP_FIXED;
    mmap(one, mm, at(0), 4 * PAGE_SIZE, 3, flags, NULL, 0);
    return [one, other, mm];
  }

  test('see what the other stores, through translations of their own', () => {
    const [one, other, mm] = twoCpus();
    for (let i = 1; i < 5; i++) {
      storeWord(one, mm, at(0), i);
      loadWord(other, mm, at(0));
      assert.equal(other.loaded, i);
      storeWord(other, mm, at(0), -i);
      loadWord(one, mm, at(0));
      assert.equal(one.loaded, -i);
    }
    mmput(one, mm);
  });

  test('lose their translations when the other drops the page', () => {
    const [one, other, mm] = twoCpus();
    storeWord(one, mm, at(0), 1);
    loadWord(other, mm, at(0));
    assert.equal(madvise(one, mm, at(0), PAGE_SIZE, uapi.MADV_DONTNEED), 0);
    loadWord(other, mm, at(0));
    assert.equal(other.loaded, 0);
    mmput(one, mm);
  });

  test('lose their translations when the other gets a copy: of the zero page, of what a child has', () => {
    const [one, other, mm] = twoCpus();
    loadWord(other, mm, at(0));
    storeWord(one, mm, at(0), 1);
    loadWord(other, mm, at(0));
    assert.equal(other.loaded, 1);
    const child = dupMm(one, mm);
    loadWord(other, mm, at(0));
    storeWord(one, mm, at(0), 2);
    loadWord(other, mm, at(0));
    assert.equal(other.loaded, 2);
    mmput(one, child);
    mmput(one, mm);
  });

  test('lose their translations when the other moves the page, or hides it', () => {
    const [one, other, mm] = twoCpus();
    storeWord(other, mm, at(0), 1);
    const flags = uapi.MREMAP_MAYMOVE | uapi.MREMAP_FIXED;
    mremap(one, mm, at(0), PAGE_SIZE, PAGE_SIZE, flags, at(6));
    assert.equal(loadWord(other, mm, at(0)), -EFAULT);
    loadWord(other, mm, at(6));
    assert.equal(other.loaded, 1);
    mprotect(one, mm, at(6), PAGE_SIZE, uapi.PROT_READ);
    assert.equal(storeWord(other, mm, at(6), 2), -EFAULT);
    munmap(one, mm, at(6), PAGE_SIZE);
    assert.equal(loadWord(other, mm, at(6)), -EFAULT);
    mmput(one, mm);
  });

  test('do not keep a translation because the other has cleared the entry and not flushed yet', () => {
    const [one, other, mm] = twoCpus();
    storeWord(other, mm, at(0), 1);
    const gather = tlbGatherMmu(one, mm); // CPU 0 is in the middle of dropping the page
    unmapPageRange(one, gather, read(one, mm, MmStruct.pgd), at(0), at(1));
    assert.equal(madvise(other, mm, at(0), PAGE_SIZE, uapi.MADV_DONTNEED), 0);
    loadWord(other, mm, at(0));
    assert.equal(other.loaded, 0, 'its own call has returned');
    tlbFinishMmu(one, gather);
    mmput(one, mm);
  });

  test('that fault in one page get one frame, whoever is second', () => {
    const [one, other, mm] = twoCpus();
    storeWord(one, mm, at(1), 1);
    mmapReadLock(other, mm);
    const space = new Map<number, number>();
    const pte = pteOf(one, read(one, mm, MmStruct.pgd), at(1));
    space.set(0, pteGet(one, pte));
    mmapReadUnlock(other, mm);
    storeWord(other, mm, at(1) + 4, 2);
    assert.equal(readOnce(one, pte, Pte.entry), space.get(0));
    mmput(one, mm);
  });

  test('that use a frame through a translation that outlived it are found out', () => {
    const [one, other, mm] = twoCpus();
    storeWord(other, mm, at(0), 1);
    loadWord(one, mm, at(0));
    const pte = pteOf(one, read(one, mm, MmStruct.pgd), at(0));
    putPage(one, pteGet(one, pte) >>> 12); // a reference too few: the frame is free, and still mapped
    assertBug(() => {
      loadWord(other, mm, at(0));
    }, /outlived it \(I1\)/);
  });
});

test('a fault of somebody else is resolved like one of the program', () => {
  const space = newSpace();
  const { cpu, mm } = space;
  space.map(0, 2);
  const before = freeFrameCount(cpu);
  mmapReadLock(cpu, mm);
  assert.equal(handleMmFault(cpu, space.vmaOf(0), at(0), FAULT_FLAG_WRITE), 0);
  assert.equal(handleMmFault(cpu, space.vmaOf(0), at(0), FAULT_FLAG_WRITE), 0, 'nothing to do');
  assert.equal(handleMmFault(cpu, space.vmaOf(0), at(1), 0), 0);
  mmapReadUnlock(cpu, mm);
  assert.deepEqual(space.entries(0, 2), ['anon rw', 'zero r']);
  assert.ok(freeFrameCount(cpu) < before);
  space.end();
});
