/**
 * Pages that the kernel holds on to, and looks into by force.
 *
 * @module
 */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';

import { EFAULT, EIO } from '../../src/base/errno.js';
import {
  accessRemotePage,
  FOLL_PIN,
  FOLL_WRITE,
  getUserPage,
  putUserPage,
} from '../../src/mm/gup.js';
import { at, inSpace, type Space } from '../support/space.js';

function pin(space: Space, page: number, flags = FOLL_PIN | FOLL_WRITE): number {
  return getUserPage(space.cpu, space.mm, at(page), flags);
}

describe('a pin', () => {
  test(
    'for writing makes the page present and writable',
    inSpace((space) => {
      space.map(0, 1);
      const pfn = pin(space, 0);
      assert.deepEqual(space.entry(0), { kind: 'anon', rights: 'rw', pfn });
      putUserPage(space.cpu, pfn, FOLL_PIN);
    }),
  );

  test(
    'for reading makes the page its own, and gives no right to write it',
    inSpace((space) => {
      space.map(0, 3);
      space.load(0);
      space.store(1, 5);
      const child = space.fork();
      for (const page of [0, 1]) {
        const pfn = pin(space, page, FOLL_PIN);
        assert.deepEqual(space.entry(page), { kind: 'anon', rights: 'r', pfn });
        putUserPage(space.cpu, pfn, FOLL_PIN);
      }
      child.store(1, 6);
      assert.deepEqual([space.load(0), space.load(1), child.load(1)], [0, 5, 6]);
    }),
  );

  test(
    "keeps the page the parent's: the child gets a copy at once",
    inSpace((space) => {
      space.map(0, 3);
      for (const page of [0, 1, 2]) space.store(page, page + 1);
      const pfn = pin(space, 1);
      const child = space.fork();
      assert.deepEqual(space.entries(0, 3), ['anon r', 'anon rw', 'anon r']);
      assert.equal(space.entry(1).pfn, pfn);
      assert.notEqual(child.entry(1).pfn, pfn);
      space.store(1, 9);
      assert.deepEqual([child.load(0), child.load(1), child.load(2)], [1, 2, 3]);
      putUserPage(space.cpu, pfn, FOLL_PIN);
    }),
  );

  test(
    'outlives the mapping, and is refused where the program may not go',
    inSpace((space) => {
      space.map(0, 1);
      const pfn = pin(space, 0);
      space.unmap(0, 1);
      putUserPage(space.cpu, pfn, FOLL_PIN);
      assert.equal(pin(space, 0), 0);
      assert.equal(space.cpu.gupError, -EFAULT);
      space.map(0, 1, { prot: 'r' });
      assert.equal(pin(space, 0), 0);
    }),
  );
});

describe('access by force', () => {
  test(
    'writes private memory that is read-only, into a page of its own, which stays so',
    inSpace((space) => {
      const file = space.file(1, 4);
      space.map(0, 1, { prot: 'r', file });
      const original = space.load(0);
      const words = [7];
      assert.equal(accessRemotePage(space.cpu, space.mm, at(0), words, true), 0);
      assert.deepEqual([space.load(0), space.entry(0).rights], [7, 'r']);
      space.map(8, 1, { prot: 'r', file });
      assert.equal(space.load(8), original, 'the file is as it was');
    }),
  );

  test(
    'reads what nobody may, and nothing where nothing is',
    inSpace((space) => {
      space.map(0, 1);
      space.store(0, 5);
      space.protect(0, 1, '');
      const words = [0];
      assert.equal(accessRemotePage(space.cpu, space.mm, at(0), words, false), 0);
      assert.deepEqual(words, [5]);
      assert.equal(accessRemotePage(space.cpu, space.mm, at(4), words, false), -EIO);
      space.map(4, 1, { prot: 'r', shared: true });
      assert.equal(accessRemotePage(space.cpu, space.mm, at(4), words, true), -EIO);
    }),
  );
});
