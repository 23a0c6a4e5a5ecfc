/**
 * mprotect: rights of programs and of entries, splits and merges, refusals.
 *
 * @module
 */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';

import { write } from '#memory';

import { EACCES, EFAULT, EINVAL, ENOMEM } from '../../src/base/errno.js';
import { PAGE_SIZE } from '../../src/base/units.js';
import { stackPop, stackPush } from '../../src/machine/stack.js';
import { mmapReadLock, mmapReadUnlock } from '../../src/mm/mmap-lock.js';
import { mprotect } from '../../src/mm/mprotect.js';
import { changeProtNuma, numaRebuildMapping } from '../../src/mm/numa-hint.js';
import { VM_MAYWRITE, VmAreaStruct } from '../../src/mm/types.js';
import * as uapi from '../../src/mm/uapi.js';
import { vmaFlags } from '../../src/mm/vma.js';
import {
  MMU_NOTIFY_PROTECTION_VMA,
  mmuNotifierRangeInit,
} from '../../src/notifier/mmu-notifier-range.js';
import { MmuNotifierRange } from '../../src/notifier/types.js';
import { at, inSpace, type Space } from '../support/space.js';

function filled(space: Space, pages: number): void {
  space.map(0, pages);
  for (let page = 0; page < pages; page++) space.store(page, page + 1);
}

describe('mprotect takes rights away', () => {
  test(
    'of writing at once, whatever a TLB remembers',
    inSpace((space) => {
      filled(space, 2);
      assert.equal(space.protect(0, 1, 'r'), 0);
      assert.equal(space.store(0, 9), -EFAULT);
      assert.equal(space.load(0), 1);
      assert.equal(space.store(1, 9), 0);
      assert.deepEqual(space.entries(0, 2), ['anon r', 'anon rw']);
    }),
  );

  test(
    'of everything, and keeps the page',
    inSpace((space) => {
      filled(space, 2);
      space.load(0);
      assert.equal(space.protect(0, 2, ''), 0);
      assert.equal(space.tryLoad(0), -EFAULT);
      assert.equal(space.store(1, 9), -EFAULT);
      assert.deepEqual(space.entries(0, 2), ['anon', 'anon']);
      assert.equal(space.rss, 2);
      assert.equal(space.protect(0, 2, 'rw'), 0);
      assert.deepEqual(space.entries(0, 2), ['anon rw', 'anon rw'], 'no fault will be needed');
      assert.equal(space.load(0), 1);
    }),
  );
});

describe('mprotect gives rights', () => {
  test(
    'and a private page that is shared with a child still asks before it is written',
    inSpace((space) => {
      filled(space, 1);
      const child = space.fork();
      for (const one of [space, child]) {
        assert.equal(one.protect(0, 1, 'r'), 0);
        assert.equal(one.protect(0, 1, 'rw'), 0);
        assert.deepEqual(one.entries(0, 1), ['anon r']);
      }
      child.store(0, 2);
      assert.equal(space.load(0), 1);
      child.exit();
    }),
  );

  test(
    'and the zero page is not written',
    inSpace((space) => {
      space.map(0, 2, { prot: 'r' });
      space.load(0);
      assert.equal(space.protect(0, 2, 'rw'), 0);
      assert.deepEqual(space.entries(0, 2), ['zero r', 'none']);
      space.store(0, 5);
      assert.equal(space.load(0), 5);
    }),
  );

  test(
    'and a page of a file is copied when it is private and written itself when it is shared',
    inSpace((space) => {
      const file = space.file(2, 7);
      space.map(0, 1, { prot: 'r', file });
      space.map(2, 1, { prot: 'r', file, shared: true });
      const original = space.load(0);
      assert.equal(space.load(2), original);
      space.protect(0, 1, 'rw');
      space.protect(2, 1, 'rw');
      assert.deepEqual(space.entries(0, 3), ['file r', 'none', 'file rw']);
      space.store(0, 1);
      assert.equal(space.load(2), original);
      space.store(2, 2);
      assert.equal(space.load(0), 1);
    }),
  );

  test(
    'and memory that is locked is made writable before anybody asks',
    inSpace((space) => {
      space.map(0, 2, { prot: 'r', flags: uapi.MAP_FIXED | uapi.MAP_LOCKED });
      assert.deepEqual(space.entries(0, 2), ['zero r', 'zero r']);
      space.protect(0, 2, 'rw');
      assert.deepEqual(space.entries(0, 2), ['anon rw', 'anon rw']);
    }),
  );
});

describe('mprotect splits and merges', () => {
  test(
    'a part in the middle, at the end, at the start',
    inSpace((space) => {
      filled(space, 6);
      space.protect(2, 2, 'r');
      assert.deepEqual(space.layout(), ['0-2 rwp', '2-4 rp', '4-6 rwp']);
      space.protect(4, 1, 'r');
      assert.deepEqual(space.layout(), ['0-2 rwp', '2-5 rp', '5-6 rwp']);
      space.protect(1, 1, 'r');
      assert.deepEqual(space.layout(), ['0-1 rwp', '1-5 rp', '5-6 rwp']);
      space.protect(1, 1, 'rw');
      assert.deepEqual(space.layout(), ['0-2 rwp', '2-5 rp', '5-6 rwp']);
      space.protect(4, 1, 'rw');
      assert.deepEqual(space.layout(), ['0-2 rwp', '2-4 rp', '4-6 rwp']);
      space.protect(2, 2, 'rw');
      assert.deepEqual(space.layout(), ['0-6 rwp']);
      for (let page = 0; page < 6; page++) assert.equal(space.load(page), page + 1);
      assert.equal(space.pgoffOf(5) * PAGE_SIZE, at(0));
    }),
  );

  test(
    'several mappings in one call',
    inSpace((space) => {
      filled(space, 6);
      space.protect(1, 1, 'r');
      space.protect(3, 1, '');
      assert.equal(space.protect(0, 6, 'r'), 0);
      assert.deepEqual(space.layout(), ['0-6 rp']);
    }),
  );

  test(
    'memory that was reserved without rights merges with its like once it has them',
    inSpace((space) => {
      space.map(0, 4, { prot: '' });
      space.map(4, 2);
      assert.equal(space.protect(2, 2, 'rw'), 0);
      assert.deepEqual(space.layout(), ['0-2 p', '2-6 rwp']);
      assert.equal(space.protect(2, 4, ''), 0);
      assert.deepEqual(space.layout(), ['0-6 p'], 'untouched, it is as if it had never had any');
    }),
  );

  test(
    'what has been touched does not merge into a neighbour that has not; the other way it does',
    inSpace((space) => {
      space.map(0, 2);
      space.protect(1, 1, 'rwx');
      space.store(0, 1);
      space.protect(0, 1, 'rwx');
      // Linux 6.12 looks at the neighbour that would grow: it must have anonymous memory of its own
      assert.deepEqual(space.layout(), ['0-1 rwxp', '1-2 rwxp']);
      space.protect(1, 1, 'rw');
      space.protect(1, 1, 'rwx');
      assert.deepEqual(space.layout(), ['0-2 rwxp']);
    }),
  );
});

describe('mprotect refuses', () => {
  test(
    'with the error of Linux',
    inSpace((space) => {
      const { cpu, mm } = space;
      space.map(0, 2);
      const call = (start: number, length: number, bits: number): number =>
        mprotect(cpu, mm, start, length, bits);
      assert.equal(call(at(0) + 1, PAGE_SIZE, 0), -EINVAL);
      assert.equal(call(at(0), PAGE_SIZE, 0x40), -EINVAL);
      assert.equal(call(at(0), PAGE_SIZE, uapi.PROT_GROWSDOWN | uapi.PROT_GROWSUP), -EINVAL);
      assert.equal(call(at(0), PAGE_SIZE, uapi.PROT_GROWSDOWN), -EINVAL);
      assert.equal(call(at(0), PAGE_SIZE, uapi.PROT_GROWSUP), -EINVAL);
      assert.equal(call(at(9), PAGE_SIZE, uapi.PROT_GROWSUP), -ENOMEM);
      assert.equal(call(at(0), 0, 0x40), 0, 'an empty range is not looked at');
      assert.equal(call(at(0) + 1, 0, 0), -EINVAL);
      assert.equal(call(at(0), 2 ** 64, 0), -ENOMEM);
      assert.equal(call(at(5), PAGE_SIZE, 0), -ENOMEM);
      assert.equal(call(at(0), PAGE_SIZE, uapi.PROT_SEM | 3), 0);
    }),
  );

  test(
    'at a hole, after it has changed what comes before',
    inSpace((space) => {
      space.map(0, 2);
      space.map(3, 1);
      assert.equal(space.protect(1, 3, 'r'), -ENOMEM);
      assert.deepEqual(space.layout(), ['0-1 rwp', '1-2 rp', '3-4 rwp']);
      assert.equal(space.protect(2, 2, 'r'), -ENOMEM);
      assert.deepEqual(space.layout(), ['0-1 rwp', '1-2 rp', '3-4 rwp']);
    }),
  );

  test(
    'a right that the mapping may never have',
    inSpace((space) => {
      space.map(0, 2, { prot: 'r' });
      const vma = space.vmaOf(0);
      write(space.cpu, vma, VmAreaStruct.flags, vmaFlags(space.cpu, vma) & ~VM_MAYWRITE);
      assert.equal(space.protect(0, 1, 'rw'), -EACCES);
      assert.equal(space.protect(0, 1, 'rx'), 0);
    }),
  );

  test(
    'to look below a stack, but takes it from its start',
    inSpace((space) => {
      const { cpu, mm } = space;
      space.map(0, 4, { flags: uapi.MAP_FIXED | uapi.MAP_GROWSDOWN });
      assert.equal(mprotect(cpu, mm, at(2), PAGE_SIZE, uapi.PROT_READ | uapi.PROT_GROWSDOWN), 0);
      assert.deepEqual(space.layout(), ['0-3 rp', '3-4 rwp']);
      assert.equal(mprotect(cpu, mm, at(-3), PAGE_SIZE, uapi.PROT_GROWSDOWN), -ENOMEM);
    }),
  );
});

describe('a hint', () => {
  function withRange(space: Space, pages: number, body: (range: MmuNotifierRange) => void): void {
    const { cpu, mm } = space;
    const range = stackPush(cpu, MmuNotifierRange);
    mmuNotifierRangeInit(cpu, range, MMU_NOTIFY_PROTECTION_VMA, mm, at(0), at(pages));
    mmapReadLock(cpu, mm);
    body(range);
    mmapReadUnlock(cpu, mm);
    stackPop(cpu, range);
  }

  test(
    'hides pages until they are used, each with the rights it had',
    inSpace((space) => {
      filled(space, 4);
      space.map(0, 1);
      space.load(0);
      const child = space.fork();
      space.store(1, 20);
      withRange(space, 6, (range) => {
        changeProtNuma(space.cpu, space.mm, range);
      });
      assert.deepEqual(space.entries(0, 5), ['zero', 'anon', 'anon', 'anon', 'none']);
      assert.equal(space.rss, 3);
      assert.equal(space.load(1), 20);
      assert.deepEqual(space.entries(0, 4), ['zero', 'anon rw', 'anon', 'anon']);
      assert.equal(space.store(2, 30), 0);
      assert.equal(child.load(2), 3, 'it was shared with the child, and still is not written');
      assert.equal(space.load(0), 0);
      assert.deepEqual(space.entries(0, 4), ['zero r', 'anon rw', 'anon rw', 'anon']);
      child.exit();
    }),
  );

  test(
    'can be taken back for all pages at once, in all tables',
    inSpace((space) => {
      space.map(-2, 14);
      for (let page = 0; page < 8; page++) space.store(page, page);
      withRange(space, 8, (range) => {
        changeProtNuma(space.cpu, space.mm, range);
        numaRebuildMapping(space.cpu, space.mm, range);
      });
      assert.deepEqual(space.entries(0, 8), Array(8).fill('anon rw'));
    }),
  );

  test(
    'survives fork, munmap and mprotect',
    inSpace((space) => {
      filled(space, 4);
      withRange(space, 4, (range) => {
        changeProtNuma(space.cpu, space.mm, range);
      });
      const child = space.fork();
      assert.equal(child.store(0, 9), 0);
      assert.equal(space.load(0), 1);
      space.protect(1, 1, 'r');
      assert.equal(space.store(1, 5), -EFAULT);
      assert.equal(space.load(1), 2);
      space.unmap(2, 1);
      assert.equal(child.load(2), 3);
      child.exit();
      assert.equal(space.load(3), 4);
    }),
  );
});
