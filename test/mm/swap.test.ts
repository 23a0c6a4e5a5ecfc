/**
 * Pages that go to the swap area and come back: who has them meanwhile, what they read, and that slots and frames
 * are given back.
 *
 * @module
 */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';

import { fetchAdd } from '#memory';

import { PAGE_SIZE } from '../../src/base/units.js';
import { pageOf } from '../../src/machine/page-alloc.js';
import { Page } from '../../src/machine/types.js';
import { putPage } from '../../src/mm/page.js';
import { swapUsed } from '../../src/mm/swap.js';
import * as uapi from '../../src/mm/uapi.js';
import { bootMmCpu, newSpace, type Space } from '../support/space.js';

const SLOTS = 8;

/** Runs a test on a machine with a swap area, which must be empty again afterwards. */
function withSwap(body: (space: Space) => void): () => void {
  return () => {
    const space = newSpace(bootMmCpu(16 << 20, SLOTS * PAGE_SIZE));
    body(space);
    space.end();
    assert.equal(swapUsed(space.cpu), 0, 'slots in use');
  };
}

/** Pages that hold their number plus one, in the swap area. */
function pagedOut(space: Space, pages: number): void {
  space.map(0, pages);
  for (let page = 0; page < pages; page++) space.store(page, page + 1);
  assert.equal(space.advise(0, pages, uapi.MADV_PAGEOUT), 0);
}

describe('a page that is paged out', () => {
  test(
    'is in no frame, and reads as it did when it is back',
    withSwap((space) => {
      pagedOut(space, 4);
      assert.deepEqual(space.entries(0, 4), ['swap', 'swap', 'swap', 'swap']);
      assert.deepEqual([space.rss, swapUsed(space.cpu)], [0, 4]);
      assert.equal(space.load(1), 2);
      assert.equal(space.store(2, 9), 0);
      assert.deepEqual(space.entries(0, 4), ['swap', 'anon rw', 'anon rw', 'swap']);
      assert.deepEqual([space.load(1), space.load(2), space.load(0)], [2, 9, 1]);
      assert.equal(swapUsed(space.cpu), 1);
      space.check();
    }),
  );

  test(
    'stays if there is no room for it',
    withSwap((space) => {
      pagedOut(space, SLOTS + 2);
      assert.deepEqual(space.entries(SLOTS, 2), ['anon rw', 'anon rw']);
      assert.equal(swapUsed(space.cpu), SLOTS);
    }),
  );

  test('stays on a machine without a swap area', () => {
    const space = newSpace();
    pagedOut(space, 2);
    assert.deepEqual(space.entries(0, 2), ['anon rw', 'anon rw']);
    space.end();
  });

  test(
    'goes with its mapping, with its contents, and where it is moved',
    withSwap((space) => {
      pagedOut(space, 6);
      space.unmap(0, 1);
      space.advise(1, 1, uapi.MADV_DONTNEED);
      space.advise(2, 1, uapi.MADV_FREE);
      assert.deepEqual(space.entries(1, 2), ['none', 'none']);
      assert.equal(space.move(3, 1, 20), 20);
      assert.equal(swapUsed(space.cpu), 3);
      assert.equal(space.load(20), 4);
      space.protect(4, 1, 'r');
      assert.equal(space.load(4), 5);
      assert.deepEqual(space.entries(4, 1), ['anon r']);
    }),
  );

  test(
    'is the zero page, a shared page, or one that somebody holds on to: never',
    withSwap((space) => {
      space.map(0, 3);
      space.load(0);
      space.store(1, 5);
      const child = space.fork();
      assert.equal(space.advise(0, 3, uapi.MADV_PAGEOUT), 0);
      assert.deepEqual(space.entries(0, 2), ['zero r', 'anon r']);
      child.exit();
    }),
  );
});

describe('a page that two address spaces have in one slot', () => {
  test(
    'is copied for the first that writes, and the other gets the frame itself',
    withSwap((space) => {
      pagedOut(space, 1);
      const child = space.fork();
      assert.equal(swapUsed(space.cpu), 1);
      space.store(0, 50);
      assert.deepEqual(space.entries(0, 1), ['anon rw']);
      assert.deepEqual(child.entries(0, 1), ['swap']);
      assert.equal(child.load(0), 1);
      assert.deepEqual(child.entries(0, 1), ['anon r']);
      child.store(0, 60);
      assert.deepEqual([space.load(0), child.load(0)], [50, 60]);
      assert.equal(swapUsed(space.cpu), 0);
      space.check();
    }),
  );

  test(
    'gives its slot up with the last that had it',
    withSwap((space) => {
      pagedOut(space, 2);
      const child = space.fork();
      assert.equal(space.load(0), 1);
      child.exit();
      space.unmap(0, 2);
      assert.equal(swapUsed(space.cpu), 0);
    }),
  );
});

test(
  'a frame that somebody holds on to keeps its contents while its page is in the swap area',
  withSwap((space) => {
    space.map(0, 1);
    space.store(0, 5);
    const { pfn } = space.entry(0);
    fetchAdd(space.cpu, pageOf(space.cpu, pfn), Page.refcount, 1);
    space.advise(0, 1, uapi.MADV_PAGEOUT);
    assert.deepEqual(space.entries(0, 1), ['swap']);
    assert.equal(space.load(0), 5);
    assert.equal(space.entry(0).pfn, pfn, 'the same frame is back');
    putPage(space.cpu, pfn);
    space.store(0, 6);
    assert.equal(space.load(0), 6);
  }),
);

describe('what MADV_FREE has named', () => {
  test(
    'is dropped if nobody has written it since, and kept if somebody has',
    withSwap((space) => {
      space.map(0, 2);
      space.store(0, 5);
      space.store(1, 6);
      space.advise(0, 2, uapi.MADV_FREE);
      space.store(1, 7);
      space.advise(0, 2, uapi.MADV_PAGEOUT);
      assert.deepEqual(space.entries(0, 2), ['none', 'anon rw']);
      assert.deepEqual([space.load(0), space.load(1)], [0, 7]);
      space.advise(1, 1, uapi.MADV_PAGEOUT);
      assert.deepEqual(space.entries(1, 1), ['swap']);
      assert.equal(space.load(1), 7);
    }),
  );
});

describe('a page of a file', () => {
  test(
    'goes to a slot, and comes back for every mapping',
    withSwap((space) => {
      const file = space.file(2);
      space.map(0, 2, { file, shared: true });
      space.store(0, 5);
      space.advise(0, 2, uapi.MADV_PAGEOUT);
      assert.deepEqual(space.entries(0, 2), ['none', 'none']);
      assert.equal(swapUsed(space.cpu), 1);
      space.map(8, 2, { file, shared: true });
      assert.equal(space.load(8), 5);
      assert.equal(swapUsed(space.cpu), 0);
      assert.equal(space.load(0), 5);
    }),
  );

  test(
    'stays while another maps it, and a slot goes with the file',
    withSwap((space) => {
      const file = space.file(1);
      space.map(0, 1, { file, shared: true });
      space.map(8, 1, { file, shared: true });
      space.store(0, 5);
      space.load(8);
      space.advise(0, 1, uapi.MADV_PAGEOUT);
      assert.deepEqual(space.entries(0, 1), ['file rw']);
      space.unmap(8, 1);
      space.advise(0, 1, uapi.MADV_PAGEOUT);
      assert.equal(swapUsed(space.cpu), 1);
    }),
  );
});
