/**
 * Files that become shorter or lose their middle, stacks that grow, and what is forgotten and seen anew.
 *
 * @module
 */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';

import { EFAULT, EINVAL, EOPNOTSUPP } from '../../src/base/errno.js';
import { PAGE_SIZE } from '../../src/base/units.js';
import { clearReferenced, clearSoftDirty } from '../../src/mm/clear-refs.js';
import { fallocate, ftruncate, pwritePage } from '../../src/mm/truncate.js';
import * as uapi from '../../src/mm/uapi.js';
import { inSpace, type Space } from '../support/space.js';

const HOLE = uapi.FALLOC_FL_PUNCH_HOLE | uapi.FALLOC_FL_KEEP_SIZE;

/** The signal that a load gets. */
function signalOf(space: Space, page: number): string {
  if (space.tryLoad(page) === 0) return 'none';
  return space.cpu.faultIsBus ? 'SIGBUS' : 'SIGSEGV';
}

describe('ftruncate', () => {
  test(
    'takes pages out of every mapping, private copies too',
    inSpace((space) => {
      const file = space.file(4);
      space.map(0, 4, { file, shared: true });
      space.map(10, 4, { file });
      for (let page = 0; page < 4; page++) space.store(page, page + 1);
      space.store(12, 9);
      assert.equal(ftruncate(space.cpu, file, PAGE_SIZE + 4), 0);
      assert.deepEqual(space.entries(0, 4), ['file rw', 'file rw', 'none', 'none']);
      assert.equal(space.entry(12).kind, 'none');
      assert.deepEqual([signalOf(space, 2), signalOf(space, 12)], ['SIGBUS', 'SIGBUS']);
      assert.deepEqual([space.load(0), space.load(1)], [1, 2]);
      space.check();
    }),
  );

  test(
    'and what is behind the end reads as zeroes when the file is long again',
    inSpace((space) => {
      const file = space.file(2);
      space.map(0, 2, { file, shared: true });
      space.store(0, 5);
      space.store(0, 6, 3);
      space.store(1, 7);
      ftruncate(space.cpu, file, 8);
      assert.equal(ftruncate(space.cpu, file, 2 * PAGE_SIZE), 0);
      assert.deepEqual([space.load(0), space.load(0, 3), space.load(1)], [5, 0, 0]);
      assert.equal(ftruncate(space.cpu, file, -1), -EINVAL);
    }),
  );
});

describe('fallocate', () => {
  test(
    'punches holes that every shared mapping sees, and no private copy',
    inSpace((space) => {
      const file = space.file(4);
      space.map(0, 4, { file, shared: true });
      space.map(10, 4, { file });
      for (let page = 0; page < 4; page++) space.store(page, page + 1);
      space.store(11, 9);
      space.load(12);
      assert.equal(fallocate(space.cpu, file, HOLE, PAGE_SIZE, 2 * PAGE_SIZE), 0);
      assert.deepEqual(
        [0, 1, 2, 3].map((page) => space.load(page)),
        [1, 0, 0, 4],
      );
      assert.deepEqual([space.load(11), space.load(12)], [9, 0]);
      assert.equal(fallocate(space.cpu, file, HOLE, 8, PAGE_SIZE), 0, 'no whole page');
      assert.equal(space.load(0), 1);
    }),
  );

  test(
    'makes room, and refuses what it cannot',
    inSpace((space) => {
      const file = space.file(1);
      assert.equal(fallocate(space.cpu, file, 0, 0, 3 * PAGE_SIZE), 0);
      space.map(0, 3, { file, shared: true });
      assert.equal(space.load(2), 0);
      assert.equal(fallocate(space.cpu, file, uapi.FALLOC_FL_ZERO_RANGE, 0, 8), -EOPNOTSUPP);
      assert.equal(fallocate(space.cpu, file, 0, 0, 0), -EINVAL);
      assert.equal(pwritePage(space.cpu, file, 5, [3, 4]), 0, 'a write makes it longer');
      space.map(5, 1, { file, shared: true, offset: 5 });
      assert.deepEqual([space.load(5), space.load(5, 1)], [3, 4]);
    }),
  );
});

describe('a mapping that may grow', () => {
  const STACK = { flags: uapi.MAP_FIXED | uapi.MAP_GROWSDOWN };

  test(
    'grows down to where it is touched',
    inSpace((space) => {
      space.map(600, 2, STACK);
      assert.equal(space.store(590, 5), 0);
      assert.deepEqual(space.layout(), ['590-602 rwp']);
      assert.equal(space.totalVm, 12);
      assert.equal(space.load(590), 5);
      space.check();
    }),
  );

  test(
    'keeps away from what is below, unless nobody can use that',
    inSpace((space) => {
      space.map(600, 2, STACK);
      space.map(300, 2);
      assert.equal(space.tryLoad(400), -EFAULT);
      assert.equal(space.cpu.faultIsBus, false);
      assert.equal(space.store(560, 1), 0);
      space.protect(300, 2, '');
      assert.equal(space.store(400, 1), 0);
      assert.equal(space.tryLoad(200), -EFAULT, 'nothing grows over a mapping');
    }),
  );
});

describe('soft-dirty', () => {
  test(
    'a page that is written afterwards can be written, and the right to write is not given back before',
    inSpace((space) => {
      space.map(0, 2);
      space.store(0, 1);
      space.store(1, 2);
      clearSoftDirty(space.cpu, space.mm);
      assert.deepEqual(space.entries(0, 2), ['anon r', 'anon r']);
      space.protect(0, 2, 'r');
      space.protect(0, 2, 'rw');
      assert.deepEqual(space.entries(0, 2), ['anon r', 'anon r']);
      space.store(0, 3);
      assert.deepEqual(space.entries(0, 2), ['anon rw', 'anon r']);
      clearReferenced(space.cpu, space.mm);
      assert.deepEqual([space.load(0), space.load(1)], [3, 2]);
    }),
  );
});
