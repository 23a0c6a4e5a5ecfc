/**
 * mremap: shrinking, growing, moving, leaving behind, and every refusal.
 *
 * @module
 */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';

import { EFAULT, EINVAL, ENOMEM } from '../../src/base/errno.js';
import { PAGE_SIZE, TASK_SIZE } from '../../src/base/units.js';
import { mremap } from '../../src/mm/mremap.js';
import * as uapi from '../../src/mm/uapi.js';
import { at, inSpace, type Space } from '../support/space.js';

const { MREMAP_MAYMOVE, MREMAP_FIXED, MREMAP_DONTUNMAP } = uapi;

function fill(space: Space, first: number, pages: number): void {
  for (let page = first; page < first + pages; page++) space.store(page, 100 + page);
}

function contents(space: Space, first: number, pages: number): number[] {
  return Array.from({ length: pages }, (_, i) => space.load(first + i));
}

describe('mremap in place', () => {
  test(
    'shrinks',
    inSpace((space) => {
      space.map(0, 6);
      fill(space, 0, 6);
      assert.equal(space.remap(0, 6, 2), 0);
      assert.deepEqual(space.layout(), ['0-2 rwp']);
      assert.equal(space.tryLoad(2), -EFAULT);
      assert.deepEqual(contents(space, 0, 2), [100, 101]);
    }),
  );

  test(
    'shrinks from the middle of a mapping, and across the next ones',
    inSpace((space) => {
      space.map(0, 4);
      space.map(4, 2, { prot: 'r' });
      assert.equal(space.remap(1, 4, 1), 1);
      assert.deepEqual(space.layout(), ['0-2 rwp', '5-6 rp']);
    }),
  );

  test(
    'leaves a mapping of the same length as it is',
    inSpace((space) => {
      space.map(0, 2);
      assert.equal(space.remap(0, 2, 2), 0);
      assert.equal(space.remap(0, 9, 9), 0, 'even one that is not there');
    }),
  );

  test(
    'grows at the end of a mapping',
    inSpace((space) => {
      space.map(0, 2);
      fill(space, 0, 2);
      assert.equal(space.remap(1, 1, 4), 1);
      assert.deepEqual(space.layout(), ['0-5 rwp']);
      assert.deepEqual(contents(space, 0, 5), [100, 101, 0, 0, 0]);
      assert.equal(space.store(4, 7), 0);
    }),
  );

  test(
    'grows until it meets its like, and becomes one with it',
    inSpace((space) => {
      space.map(0, 6);
      fill(space, 0, 6);
      space.unmap(2, 2);
      assert.equal(space.remap(0, 2, 4), 0);
      assert.deepEqual(space.layout(), ['0-6 rwp']);
      assert.deepEqual(contents(space, 0, 6), [100, 101, 0, 0, 104, 105]);
    }),
  );

  test(
    'grows a file along its pages',
    inSpace((space) => {
      const file = space.file(8, 3);
      space.map(0, 2, { file, offset: 1, shared: true });
      space.map(8, 8, { file, shared: true });
      assert.equal(space.remap(0, 2, 4), 0);
      assert.deepEqual(contents(space, 0, 4), contents(space, 9, 4));
      assert.equal(space.remap(0, 4, 8), 0);
      assert.equal(space.tryLoad(7), -EFAULT, 'the file ends before');
    }),
  );

  test(
    'fills in what it adds to memory that is locked',
    inSpace((space) => {
      space.map(0, 2, { flags: uapi.MAP_FIXED | uapi.MAP_LOCKED });
      assert.equal(space.remap(0, 2, 4), 0);
      assert.deepEqual(space.entries(0, 5), [...Array<string>(4).fill('anon rw'), 'none']);
      assert.equal(space.lockedVm, 4);
      assert.equal(space.remap(0, 4, 1), 0);
      assert.equal(space.lockedVm, 1);
    }),
  );

  test(
    'cannot grow where something is in the way',
    inSpace((space) => {
      space.map(0, 2);
      space.map(3, 1, { prot: 'r' });
      assert.equal(space.remap(0, 2, 4), -ENOMEM);
      assert.equal(space.remap(0, 2, 3), 0);
      assert.equal(space.remap(0, 2, 3), -ENOMEM, 'not at the end of the mapping');
      assert.deepEqual(space.layout(), ['0-3 rwp', '3-4 rp']);
    }),
  );
});

describe('mremap moves', () => {
  test(
    'contents, rights and page numbers to a place of its choice',
    inSpace((space) => {
      space.map(0, 6);
      space.map(6, 1, { prot: 'r' });
      fill(space, 0, 6);
      const to = space.remap(2, 4, 6, MREMAP_MAYMOVE);
      assert.ok(to > 6);
      assert.deepEqual(contents(space, to, 6), [102, 103, 104, 105, 0, 0]);
      assert.equal(space.tryLoad(2), -EFAULT);
      assert.deepEqual(contents(space, 0, 2), [100, 101]);
      assert.equal(space.pgoffOf(to) * PAGE_SIZE, at(2));
    }),
  );

  test(
    'to a place of the caller, across tables of every level, and what was there is gone',
    inSpace((space) => {
      space.map(0, 6);
      space.map(20, 8, { prot: 'r' });
      fill(space, 0, 6);
      assert.equal(space.move(0, 6, 5 + 16), 21);
      assert.deepEqual(space.layout(), ['20-21 rp', '21-27 rwp', '27-28 rp']);
      assert.deepEqual(contents(space, 21, 6), [100, 101, 102, 103, 104, 105]);
      assert.equal(space.move(21, 6, 5), 5, 'over the border at page 8');
      assert.deepEqual(contents(space, 5, 6), [100, 101, 102, 103, 104, 105]);
      assert.deepEqual(space.entries(0, 5), Array(5).fill('none'));
      assert.equal(space.store(7, 1), 0);
      assert.equal(space.load(7), 1);
    }),
  );

  test(
    'a thousand pages from one alignment to another',
    inSpace((space) => {
      const pages = 1100;
      space.map(0, pages);
      for (let page = 0; page < pages; page += 3) space.store(page, page);
      assert.equal(space.move(0, pages, 5000), 5000);
      for (let page = 0; page < pages; page++) {
        assert.equal(space.load(5000 + page), page % 3 === 0 ? page : 0);
      }
    }),
  );

  test(
    'and shrinks or grows on the way',
    inSpace((space) => {
      space.map(0, 6);
      fill(space, 0, 6);
      const fixed = MREMAP_MAYMOVE | MREMAP_FIXED;
      assert.equal(space.remap(0, 6, 2, fixed, 10), 10);
      assert.deepEqual(space.layout(), ['10-12 rwp'], 'what was cut off is gone');
      assert.equal(space.remap(10, 2, 4, fixed, 20), 20);
      assert.deepEqual(contents(space, 20, 4), [100, 101, 0, 0]);
      assert.equal(space.totalVm, 4);
    }),
  );

  test(
    'pages that are shared with a child, and neither sees the other',
    inSpace((space) => {
      space.map(0, 3);
      fill(space, 0, 3);
      const child = space.fork();
      child.move(0, 3, 10);
      child.store(11, 7);
      space.store(0, 8);
      assert.deepEqual(contents(child, 10, 3), [100, 7, 102]);
      assert.deepEqual(contents(space, 0, 3), [8, 101, 102]);
      child.exit();
    }),
  );

  test(
    'what is shared, still shared',
    inSpace((space) => {
      space.map(0, 4, { shared: true });
      fill(space, 0, 4);
      const child = space.fork();
      space.move(0, 4, 10);
      child.store(2, 5);
      assert.equal(space.load(12), 5);
      space.store(13, 6);
      assert.equal(child.load(3), 6);
    }),
  );

  test(
    'memory that is locked, and its number with it',
    inSpace((space) => {
      space.map(0, 2, { flags: uapi.MAP_FIXED | uapi.MAP_LOCKED });
      assert.equal(space.remap(0, 2, 4, MREMAP_MAYMOVE | MREMAP_FIXED, 10), 10);
      assert.equal(space.lockedVm, 4);
      assert.deepEqual(space.entries(10, 4), Array(4).fill('anon rw'));
    }),
  );

  test(
    'nothing but the mapping, when it has no pages yet: it then belongs where it is',
    inSpace((space) => {
      space.map(0, 2);
      space.move(0, 2, 10);
      assert.equal(space.pgoffOf(10) * PAGE_SIZE, at(10));
      space.map(12, 1);
      assert.deepEqual(space.layout(), ['10-13 rwp']);
    }),
  );

  test(
    'a mapping into the gap between itself and its like',
    inSpace((space) => {
      space.map(0, 1);
      space.map(2, 1);
      assert.equal(space.move(2, 1, 1), 1, 'the old mapping becomes part of the new one');
      assert.deepEqual(space.layout(), ['0-2 rwp']);
      space.check();
      space.map(3, 2);
      assert.equal(space.move(3, 1, 2), 2);
      assert.deepEqual(space.layout(), ['0-3 rwp', '4-5 rwp']);
      const dontunmap = MREMAP_MAYMOVE | MREMAP_DONTUNMAP | MREMAP_FIXED;
      assert.equal(space.remap(4, 1, 1, dontunmap, 3), 3);
      assert.deepEqual(space.layout(), ['0-5 rwp']);
    }),
  );

  test(
    'pages next to memory that never had any, and fork still finds them',
    inSpace((space) => {
      space.map(2, 2);
      fill(space, 2, 2);
      space.move(2, 2, 10);
      space.map(0, 2);
      assert.equal(space.move(10, 2, 2), 2, 'back to where their page numbers follow on');
      const child = space.fork();
      assert.deepEqual(contents(child, 0, 4), [0, 0, 102, 103]);
    }),
  );
});

describe('mremap with an old length of 0', () => {
  test(
    'maps what is shared once more',
    inSpace((space) => {
      space.map(0, 2, { shared: true });
      fill(space, 0, 2);
      const twin = space.remap(0, 0, 2, MREMAP_MAYMOVE);
      assert.deepEqual(contents(space, twin, 2), [100, 101]);
      space.store(twin, 5);
      assert.equal(space.load(0), 5);
      assert.equal(space.totalVm, 4);
    }),
  );

  test(
    'needs room to move, and memory that is shared',
    inSpace((space) => {
      space.map(0, 2, { shared: true });
      space.map(4, 2);
      assert.equal(space.remap(0, 0, 2), -ENOMEM);
      assert.equal(space.remap(4, 0, 2, MREMAP_MAYMOVE), -EINVAL);
    }),
  );
});

describe('MREMAP_DONTUNMAP', () => {
  const flags = MREMAP_MAYMOVE | MREMAP_DONTUNMAP;

  test(
    'leaves the mapping, empty',
    inSpace((space) => {
      space.map(0, 3);
      fill(space, 0, 3);
      const to = space.remap(0, 3, 3, flags, 40);
      assert.equal(to, 40, 'the address is a hint');
      assert.deepEqual(contents(space, to, 3), [100, 101, 102]);
      assert.deepEqual(contents(space, 0, 3), [0, 0, 0]);
      assert.deepEqual(space.layout(), ['0-3 rwp', `${to}-${to + 3} rwp`]);
      assert.equal(space.totalVm, 6);
    }),
  );

  test(
    'can leave part of a mapping behind, and put it where the caller says',
    inSpace((space) => {
      space.map(0, 4);
      fill(space, 0, 4);
      assert.equal(space.remap(1, 2, 2, flags | MREMAP_FIXED, 10), 10);
      assert.deepEqual(contents(space, 0, 4), [100, 0, 0, 103]);
      assert.deepEqual(contents(space, 10, 2), [101, 102]);
    }),
  );

  test(
    'leaves what a file has, and what is shared',
    inSpace((space) => {
      const file = space.file(2, 9);
      space.map(0, 1, { file });
      const original = space.load(0);
      space.store(0, 1);
      space.remap(0, 1, 1, flags | MREMAP_FIXED, 10);
      assert.deepEqual([space.load(0), space.load(10)], [original, 1]);
      space.map(2, 1, { shared: true });
      space.store(2, 2);
      space.remap(2, 1, 1, flags | MREMAP_FIXED, 12);
      space.store(2, 3);
      assert.equal(space.load(12), 3);
    }),
  );

  test(
    'unlocks what it leaves behind',
    inSpace((space) => {
      space.map(0, 2, { flags: uapi.MAP_FIXED | uapi.MAP_LOCKED });
      space.remap(0, 2, 2, flags | MREMAP_FIXED, 10);
      assert.equal(space.lockedVm, 2);
      assert.equal(space.advise(0, 2, uapi.MADV_DONTNEED), 0);
      assert.equal(space.advise(10, 2, uapi.MADV_DONTNEED), -EINVAL);
    }),
  );
});

test(
  'mremap refuses, with the error of Linux',
  inSpace((space) => {
    const { cpu, mm } = space;
    space.map(0, 4);
    space.map(4, 2, { prot: 'r' });
    const call = (from: number, bytes: number, newBytes: number, flags = 0, to = 0): number =>
      mremap(cpu, mm, from, bytes, newBytes, flags, to);
    const page = PAGE_SIZE;
    const fixed = MREMAP_MAYMOVE | MREMAP_FIXED;
    const dontunmap = MREMAP_MAYMOVE | MREMAP_DONTUNMAP;
    assert.equal(call(at(0) + 1, page, page), -EINVAL);
    assert.equal(call(at(0), page, page, 8), -EINVAL);
    assert.equal(call(at(0), page, page, MREMAP_FIXED, at(10)), -EINVAL);
    assert.equal(call(at(0), page, page, MREMAP_DONTUNMAP), -EINVAL);
    assert.equal(call(at(0), page, 2 * page, dontunmap), -EINVAL);
    assert.equal(call(at(0), page, page - 1, dontunmap), -EINVAL, 'lengths before rounding count');
    assert.equal(call(at(0), page, 0), -EINVAL);
    assert.equal(call(at(9), page, 2 * page), -EFAULT);
    assert.equal(call(at(9), page, page), -EFAULT);
    assert.equal(call(at(2), 4 * page, 5 * page, MREMAP_MAYMOVE), -EFAULT, 'two mappings');
    assert.equal(call(at(2), 4 * page, 4 * page, fixed, at(20)), -EFAULT, 'two mappings');
    assert.equal(call(at(0), 2 * page, page, fixed, at(1)), -EINVAL, 'overlap');
    assert.equal(call(at(1), page, 2 * page, fixed, at(0)), -EINVAL, 'overlap');
    assert.equal(call(at(0), page, page, fixed, at(10) + 1), -EINVAL);
    assert.equal(call(at(0), page, page, fixed, TASK_SIZE), -EINVAL);
    assert.equal(call(at(0), page, 2 ** 47, fixed, at(10)), -EINVAL);
    assert.equal(call(at(0), page, 2 ** 47, MREMAP_MAYMOVE), -ENOMEM);
    assert.deepEqual(space.layout(), ['0-4 rwp', '4-6 rp']);
  }),
);
