/**
 * madvise, mlock and their kin, msync, mincore: what acts, what is only checked, and every refusal.
 *
 * @module
 */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';

import { read, write } from '#memory';

import { EACCES, EBUSY, EFAULT, EINVAL, ENOMEM } from '../../src/base/errno.js';
import { PAGE_SIZE, TASK_SIZE } from '../../src/base/units.js';
import { madvise } from '../../src/mm/madvise.js';
import { mincore } from '../../src/mm/mincore.js';
import { mlock, mlockall, msync, munlock, munlockall } from '../../src/mm/mlock.js';
import { PMD_SIZE } from '../../src/mm/page-table.js';
import { VM_IO, VM_PFNMAP, VmAreaStruct } from '../../src/mm/types.js';
import * as uapi from '../../src/mm/uapi.js';
import { vmaFlags } from '../../src/mm/vma.js';
import { at, inSpace, ORIGIN, type Space } from '../support/space.js';

function filled(space: Space, pages: number): void {
  space.map(0, pages);
  for (let page = 0; page < pages; page++) space.store(page, page + 1);
}

/** Gives the VMA of a page more flags than a program can. */
function setFlags(space: Space, page: number, flags: number): void {
  const vma = space.vmaOf(page);
  write(space.cpu, vma, VmAreaStruct.flags, read(space.cpu, vma, VmAreaStruct.flags) | flags);
}

describe('MADV_DONTNEED', () => {
  test(
    'drops anonymous pages, and no more than it was asked to',
    inSpace((space) => {
      filled(space, 12);
      assert.equal(space.advise(3, 6, uapi.MADV_DONTNEED), 0);
      assert.equal(space.rss, 6);
      for (let page = 0; page < 12; page++) {
        assert.equal(space.load(page), page >= 3 && page < 9 ? 0 : page + 1);
      }
    }),
  );

  test(
    'drops a private copy, and the file shows again',
    inSpace((space) => {
      const file = space.file(1, 4);
      space.map(0, 1, { file });
      const original = space.load(0);
      space.store(0, 5);
      space.advise(0, 1, uapi.MADV_DONTNEED);
      assert.equal(space.load(0), original);
    }),
  );

  test(
    'does not change what is shared',
    inSpace((space) => {
      space.map(0, 1, { shared: true });
      space.store(0, 5);
      space.advise(0, 1, uapi.MADV_DONTNEED);
      assert.deepEqual(space.entries(0, 1), ['none']);
      assert.equal(space.load(0), 5);
    }),
  );

  test(
    'goes over holes, and says so',
    inSpace((space) => {
      filled(space, 2);
      space.map(4, 1);
      space.store(4, 1);
      assert.equal(space.advise(1, 4, uapi.MADV_DONTNEED), -ENOMEM);
      assert.deepEqual([space.load(0), space.load(1), space.load(4)], [1, 0, 0]);
      space.store(4, 1);
      assert.equal(space.advise(4, 2, uapi.MADV_DONTNEED), -ENOMEM);
      assert.equal(space.load(4), 0);
      assert.equal(space.advise(7, 2, uapi.MADV_DONTNEED), -ENOMEM);
    }),
  );

  test(
    'spares what is locked, unless it is meant',
    inSpace((space) => {
      filled(space, 3);
      mlock(space.cpu, space.mm, at(1), 1, 0);
      assert.equal(space.advise(0, 3, uapi.MADV_DONTNEED), -EINVAL);
      assert.deepEqual([space.load(0), space.load(1), space.load(2)], [0, 2, 3]);
      assert.equal(space.advise(0, 3, uapi.MADV_DONTNEED_LOCKED), 0);
      assert.equal(space.load(1), 0);
      setFlags(space, 2, VM_PFNMAP);
      assert.equal(space.advise(2, 1, uapi.MADV_DONTNEED_LOCKED), -EINVAL);
    }),
  );
});

describe('MADV_FREE', () => {
  test(
    'keeps what nobody needs until memory is short, which it never is',
    inSpace((space) => {
      filled(space, 10);
      assert.equal(space.advise(0, 10, uapi.MADV_FREE), 0);
      assert.equal(space.rss, 10);
      for (let page = 0; page < 10; page++) assert.equal(space.load(page), page + 1);
      assert.equal(space.store(3, 9), 0);
      assert.equal(space.load(3), 9);
    }),
  );

  test(
    'is for anonymous memory that is not locked',
    inSpace((space) => {
      space.map(0, 1, { shared: true });
      space.map(2, 1, { file: space.file(1) });
      space.map(4, 1, { flags: uapi.MAP_FIXED | uapi.MAP_LOCKED });
      space.map(6, 1);
      for (const page of [0, 2, 4]) assert.equal(space.advise(page, 1, uapi.MADV_FREE), -EINVAL);
      assert.equal(space.advise(6, 1, uapi.MADV_FREE), 0);
    }),
  );
});

describe('MADV_POPULATE', () => {
  test(
    'READ makes pages present, WRITE makes them writable',
    inSpace((space) => {
      space.map(0, 4);
      assert.equal(space.advise(0, 2, uapi.MADV_POPULATE_READ), 0);
      assert.deepEqual(space.entries(0, 4), ['zero r', 'zero r', 'none', 'none']);
      assert.equal(space.advise(1, 2, uapi.MADV_POPULATE_WRITE), 0);
      assert.deepEqual(space.entries(0, 4), ['zero r', 'anon rw', 'anon rw', 'none']);
    }),
  );

  test(
    'ends a sharing with a child, for writing',
    inSpace((space) => {
      filled(space, 1);
      const child = space.fork();
      assert.equal(child.advise(0, 1, uapi.MADV_POPULATE_WRITE), 0);
      assert.notEqual(child.entry(0).pfn, space.entry(0).pfn);
      assert.equal(child.load(0), 1);
    }),
  );

  test(
    'needs the right, a mapping, and a page of the file',
    inSpace((space) => {
      space.map(0, 1, { prot: 'r' });
      space.map(1, 1, { prot: '' });
      space.map(4, 2, { file: space.file(1) });
      assert.equal(space.advise(0, 1, uapi.MADV_POPULATE_WRITE), -EINVAL);
      assert.equal(space.advise(0, 2, uapi.MADV_POPULATE_READ), -EINVAL);
      assert.deepEqual(space.entries(0, 1), ['zero r'], 'what came before is there');
      assert.equal(space.advise(2, 1, uapi.MADV_POPULATE_READ), -ENOMEM);
      assert.equal(space.advise(4, 2, uapi.MADV_POPULATE_READ), -EFAULT);
      setFlags(space, 0, VM_IO);
      assert.equal(space.advise(0, 1, uapi.MADV_POPULATE_READ), -EINVAL);
    }),
  );
});

describe('advice that a mapping remembers', () => {
  test(
    'splits it and merges it again',
    inSpace((space) => {
      const pairs = [
        [uapi.MADV_RANDOM, uapi.MADV_NORMAL],
        [uapi.MADV_SEQUENTIAL, uapi.MADV_NORMAL],
        [uapi.MADV_DONTFORK, uapi.MADV_DOFORK],
        [uapi.MADV_WIPEONFORK, uapi.MADV_KEEPONFORK],
        [uapi.MADV_DONTDUMP, uapi.MADV_DODUMP],
        [uapi.MADV_MERGEABLE, uapi.MADV_UNMERGEABLE],
      ] as const;
      filled(space, 6);
      for (const [there, back] of pairs) {
        assert.equal(space.advise(2, 2, there), 0);
        assert.equal(space.layout().length, 3, `advice ${there}`);
        assert.equal(space.advise(2, 2, there), 0, 'again');
        assert.equal(space.advise(0, 6, back), 0);
        assert.deepEqual(space.layout(), ['0-6 rwp'], `advice ${back}`);
      }
      space.advise(0, 6, uapi.MADV_HUGEPAGE);
      space.advise(2, 2, uapi.MADV_NOHUGEPAGE);
      assert.equal(space.layout().length, 3);
      space.advise(2, 2, uapi.MADV_HUGEPAGE);
      assert.deepEqual(space.layout(), ['0-6 rwp']);
      for (let page = 0; page < 6; page++) assert.equal(space.load(page), page + 1);
    }),
  );

  test(
    'RANDOM and SEQUENTIAL replace each other',
    inSpace((space) => {
      space.map(0, 1);
      const before = vmaFlags(space.cpu, space.vmaOf(0));
      space.advise(0, 1, uapi.MADV_RANDOM);
      space.advise(0, 1, uapi.MADV_SEQUENTIAL);
      space.advise(0, 1, uapi.MADV_RANDOM);
      space.advise(0, 1, uapi.MADV_NORMAL);
      assert.equal(vmaFlags(space.cpu, space.vmaOf(0)), before);
    }),
  );

  test(
    'is refused where it has no sense',
    inSpace((space) => {
      space.map(0, 1, { shared: true });
      space.map(2, 1, { file: space.file(1) });
      for (const page of [0, 2]) {
        assert.equal(space.advise(page, 1, uapi.MADV_WIPEONFORK), -EINVAL);
      }
      assert.equal(space.advise(0, 1, uapi.MADV_MERGEABLE), 0);
      setFlags(space, 0, VM_IO);
      assert.equal(space.advise(0, 1, uapi.MADV_DOFORK), -EINVAL);
      assert.equal(space.advise(0, 1, uapi.MADV_DODUMP), -EINVAL);
    }),
  );
});

describe('advice that does nothing here', () => {
  test(
    'is accepted where Linux accepts it',
    inSpace((space) => {
      filled(space, 2);
      mlock(space.cpu, space.mm, at(1), 1, 0);
      assert.equal(space.advise(0, 2, uapi.MADV_WILLNEED), 0);
      for (const advice of [uapi.MADV_COLD, uapi.MADV_PAGEOUT]) {
        assert.equal(space.advise(0, 1, advice), 0);
        assert.equal(space.advise(1, 1, advice), -EINVAL, 'locked');
      }
      assert.equal(space.load(0), 1);
    }),
  );

  test(
    'REMOVE wants a shared file that may be written',
    inSpace((space) => {
      space.map(0, 1);
      space.map(2, 1, { file: space.file(1) });
      space.map(4, 1, { shared: true });
      space.map(6, 1, { shared: true, flags: uapi.MAP_FIXED | uapi.MAP_LOCKED });
      assert.equal(space.advise(0, 1, uapi.MADV_REMOVE), -EINVAL);
      assert.equal(space.advise(2, 1, uapi.MADV_REMOVE), -EACCES);
      assert.equal(space.advise(4, 1, uapi.MADV_REMOVE), 0);
      assert.equal(space.advise(6, 1, uapi.MADV_REMOVE), -EINVAL);
    }),
  );

  test(
    'COLLAPSE wants a mapping that could hold a huge page',
    inSpace((space) => {
      const blockPages = PMD_SIZE / PAGE_SIZE;
      space.map(8, 3 * blockPages);
      space.map(0, 8, { prot: 'r' });
      assert.equal(space.advise(0, 8, uapi.MADV_COLLAPSE), -EINVAL);
      assert.equal(space.advise(8, 8, uapi.MADV_COLLAPSE), 0, 'no whole block was asked for');
      assert.equal(space.advise(8, blockPages, uapi.MADV_COLLAPSE), -EINVAL, 'nothing is there');
      space.advise(8, 3 * blockPages, uapi.MADV_NOHUGEPAGE);
      assert.equal(space.advise(8, blockPages, uapi.MADV_COLLAPSE), -EINVAL);
    }),
  );
});

test(
  'madvise refuses what is no advice and no range',
  inSpace((space) => {
    const { cpu, mm } = space;
    space.map(0, 1);
    for (const advice of [-1, 5, 6, 7, 26, 99, uapi.MADV_GUARD_INSTALL, uapi.MADV_HWPOISON]) {
      assert.equal(space.advise(0, 1, advice), -EINVAL, `advice ${advice}`);
      assert.equal(space.advise(0, 0, advice), -EINVAL, `advice ${advice} for nothing`);
    }
    assert.equal(madvise(cpu, mm, at(0) + 1, 1, uapi.MADV_DONTNEED), -EINVAL);
    assert.equal(madvise(cpu, mm, at(0), 2 ** 64, uapi.MADV_DONTNEED), -EINVAL);
    assert.equal(madvise(cpu, mm, at(50), 0, uapi.MADV_DONTNEED), 0);
    assert.equal(madvise(cpu, mm, at(0), 1, uapi.MADV_DONTNEED), 0, 'a part of a page is a page');
  }),
);

describe('mlock', () => {
  test(
    'fills in its pages, rounded outwards, and counts them',
    inSpace((space) => {
      const { cpu, mm } = space;
      space.map(0, 6);
      assert.equal(mlock(cpu, mm, at(2) - 1, 2, 0), 0);
      assert.deepEqual(space.entries(0, 4), ['none', 'anon rw', 'anon rw', 'none']);
      assert.equal(space.lockedVm, 2);
      assert.deepEqual(space.layout(), ['0-1 rwp', '1-3 rwp', '3-6 rwp']);
      assert.equal(mlock(cpu, mm, at(0), 6 * PAGE_SIZE, 0), 0);
      assert.equal(space.lockedVm, 6);
      assert.equal(munlock(cpu, mm, at(2), PAGE_SIZE), 0);
      assert.equal(space.lockedVm, 5);
      assert.equal(munlock(cpu, mm, at(0), 6 * PAGE_SIZE), 0);
      assert.deepEqual(space.layout(), ['0-6 rwp']);
      assert.equal(space.lockedVm, 0);
    }),
  );

  test(
    'reads what it may not write, and writes what is shared as little',
    inSpace((space) => {
      const { cpu, mm } = space;
      space.map(0, 1, { prot: 'r' });
      space.map(1, 1, { shared: true });
      space.map(2, 1, { file: space.file(1) });
      assert.equal(mlock(cpu, mm, at(0), 3 * PAGE_SIZE, 0), 0);
      assert.deepEqual(space.entries(0, 3), ['zero r', 'file rw', 'anon rw']);
    }),
  );

  test(
    'on fault fills in nothing, now or later',
    inSpace((space) => {
      const { cpu, mm } = space;
      space.map(0, 2, { prot: 'r' });
      assert.equal(mlock(cpu, mm, at(0), 2 * PAGE_SIZE, uapi.MLOCK_ONFAULT), 0);
      assert.equal(space.protect(0, 2, 'rw'), 0);
      assert.equal(space.remap(0, 2, 4), 0);
      assert.deepEqual(space.entries(0, 4), Array(4).fill('none'));
      assert.equal(space.lockedVm, 4);
      assert.equal(mlock(cpu, mm, at(0), 4 * PAGE_SIZE, 0), 0);
      assert.deepEqual(space.entries(0, 4), Array(4).fill('anon rw'));
    }),
  );

  test(
    'of what has no rights, or of a page behind a file, locks it and fails',
    inSpace((space) => {
      const { cpu, mm } = space;
      space.map(0, 2, { prot: '' });
      space.map(4, 2, { file: space.file(1) });
      assert.equal(mlock(cpu, mm, at(0), 2 * PAGE_SIZE, 0), -ENOMEM);
      assert.equal(mlock(cpu, mm, at(4), 2 * PAGE_SIZE, 0), -ENOMEM);
      assert.equal(space.lockedVm, 4);
      assert.deepEqual(space.entries(4, 1), ['anon rw']);
    }),
  );

  test(
    'refuses',
    inSpace((space) => {
      const { cpu, mm } = space;
      space.map(0, 2);
      space.map(3, 1);
      assert.equal(mlock(cpu, mm, at(0), PAGE_SIZE, 2), -EINVAL);
      assert.equal(mlock(cpu, mm, at(0), 2 ** 64, 0), -EINVAL);
      assert.equal(mlock(cpu, mm, at(1), 3 * PAGE_SIZE, 0), -ENOMEM);
      assert.equal(space.lockedVm, 1, 'what came before the hole is locked');
      assert.equal(munlock(cpu, mm, at(1), 3 * PAGE_SIZE), -ENOMEM);
      assert.equal(space.lockedVm, 0);
      assert.equal(mlock(cpu, mm, at(9), 0, 0), 0);
      assert.equal(munlock(cpu, mm, at(9), 1), -ENOMEM);
    }),
  );
});

describe('mlockall', () => {
  test(
    'locks what is there, filling in what can be',
    inSpace((space) => {
      const { cpu, mm } = space;
      space.map(0, 1, { prot: '' });
      space.map(2, 2, { file: space.file(1), prot: 'r' });
      space.map(6, 1);
      assert.equal(mlockall(cpu, mm, uapi.MCL_CURRENT), 0);
      assert.deepEqual(space.entries(0, 7), [
        'none',
        'none',
        'file r',
        'none',
        'none',
        'none',
        'anon rw',
      ]);
      assert.equal(space.lockedVm, 4);
      space.map(8, 1);
      assert.deepEqual(space.entries(8, 1), ['none']);
      assert.equal(munlockall(cpu, mm), 0);
      assert.equal(space.lockedVm, 0);
    }),
  );

  test(
    'locks what will be there',
    inSpace((space) => {
      const { cpu, mm } = space;
      space.map(0, 1);
      assert.equal(mlockall(cpu, mm, uapi.MCL_FUTURE), 0);
      space.map(2, 1);
      assert.deepEqual(space.entries(0, 3), ['none', 'none', 'anon rw']);
      assert.equal(space.lockedVm, 1);
      const child = space.fork();
      child.map(4, 1);
      assert.deepEqual(child.entries(4, 1), ['none'], 'a child does not inherit it');
      assert.equal(child.lockedVm, 0);
      munlockall(cpu, mm);
      space.map(6, 1);
      assert.equal(space.lockedVm, 0);
    }),
  );

  test(
    'on fault fills in nothing',
    inSpace((space) => {
      const { cpu, mm } = space;
      space.map(0, 1);
      const onFault = uapi.MCL_CURRENT | uapi.MCL_FUTURE | uapi.MCL_ONFAULT;
      assert.equal(mlockall(cpu, mm, onFault), 0);
      space.map(2, 1);
      assert.deepEqual(space.entries(0, 3), ['none', 'none', 'none']);
      assert.equal(space.lockedVm, 2);
    }),
  );

  test(
    'refuses flags that say nothing',
    inSpace(({ cpu, mm }) => {
      for (const flags of [0, 8, uapi.MCL_ONFAULT]) {
        assert.equal(mlockall(cpu, mm, flags), -EINVAL);
      }
    }),
  );
});

test(
  'msync answers as Linux does',
  inSpace((space) => {
    const { cpu, mm } = space;
    space.map(0, 2);
    space.map(3, 1, { flags: uapi.MAP_FIXED | uapi.MAP_LOCKED });
    const call = (start: number, pages: number, flags: number): number =>
      msync(cpu, mm, start, pages * PAGE_SIZE, flags);
    assert.equal(call(at(0), 2, uapi.MS_SYNC), 0);
    assert.equal(call(at(0), 2, 0), 0);
    assert.equal(call(at(0), 2, 8), -EINVAL);
    assert.equal(call(at(0) + 1, 1, uapi.MS_SYNC), -EINVAL);
    assert.equal(call(at(0), 1, uapi.MS_SYNC | uapi.MS_ASYNC), -EINVAL);
    assert.equal(call(at(0), 4, uapi.MS_SYNC), -ENOMEM);
    assert.equal(call(at(2), 1, uapi.MS_SYNC), -ENOMEM);
    assert.equal(call(at(9), 1, uapi.MS_ASYNC), -ENOMEM);
    assert.equal(call(at(9), 0, uapi.MS_ASYNC), 0);
    assert.equal(call(at(3), 1, uapi.MS_INVALIDATE), -EBUSY);
    assert.equal(call(at(0), 4, uapi.MS_INVALIDATE), -EBUSY, 'which counts for more than the hole');
    assert.equal(call(at(0), 2, uapi.MS_INVALIDATE), 0);
  }),
);

test(
  'mincore answers as Linux does',
  inSpace((space) => {
    const { cpu, mm } = space;
    space.map(0, 2);
    space.map(2, 2, { prot: 'r' });
    assert.equal(mincore(cpu, mm, at(0), 4 * PAGE_SIZE), 0);
    assert.equal(mincore(cpu, mm, at(0), 3 * PAGE_SIZE + 1), 0);
    assert.equal(mincore(cpu, mm, at(0) + 1, 1), -EINVAL);
    assert.equal(mincore(cpu, mm, at(0), 4 * PAGE_SIZE + 1), -ENOMEM);
    assert.equal(mincore(cpu, mm, at(-1), PAGE_SIZE), -ENOMEM);
    assert.equal(mincore(cpu, mm, at(8), 0), 0);
    assert.equal(mincore(cpu, mm, TASK_SIZE, ORIGIN), -ENOMEM);
  }),
);
