/**
 * Huge pages: where they are made, what makes them small, and that nothing is lost on the way.
 *
 * @module
 */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';

import { read } from '#memory';

import { EINVAL } from '../../src/base/errno.js';
import { PAGE_SIZE } from '../../src/base/units.js';
import { TABLE_GONE, TABLE_HUGE, TABLE_SMALL, tableState } from '../../src/mm/huge.js';
import { PMD_SIZE, pteOf } from '../../src/mm/page-table.js';
import { NO_PTE } from '../../src/mm/pte.js';
import { MmStruct } from '../../src/mm/types.js';
import * as uapi from '../../src/mm/uapi.js';
import { at, bootMmCpu, newSpace, type Space } from '../support/space.js';

/** Page 8 of every space begins a block. */
const BLOCK = 8;
const BLOCK_PAGES = PMD_SIZE / PAGE_SIZE;
const RAM = 24 << 20;

function withHuge(body: (space: Space) => void): () => void {
  return () => {
    const space = newSpace(bootMmCpu(RAM, 4 << 20));
    space.map(BLOCK, 2 * BLOCK_PAGES);
    space.advise(BLOCK, 2 * BLOCK_PAGES, uapi.MADV_HUGEPAGE);
    body(space);
    space.end();
  };
}

function stateOf(space: Space, page: number): number {
  const pte = pteOf(space.cpu, read(space.cpu, space.mm, MmStruct.pgd), at(page));
  return pte === NO_PTE ? -1 : tableState(space.cpu, pte);
}

describe('a huge page', () => {
  test(
    'is made by the first store, all at once',
    withHuge((space) => {
      space.store(BLOCK + 5, 7);
      assert.equal(stateOf(space, BLOCK), TABLE_HUGE);
      assert.equal(space.rss, BLOCK_PAGES);
      assert.deepEqual(space.entries(BLOCK, 1), ['anon rw']);
      assert.deepEqual([space.load(BLOCK + 5), space.load(BLOCK + 6)], [7, 0]);
      assert.equal(stateOf(space, BLOCK + BLOCK_PAGES), -1);
    }),
  );

  test(
    'is one of zeroes by the first load, and small when it is written',
    withHuge((space) => {
      assert.equal(space.load(BLOCK), 0);
      assert.equal(stateOf(space, BLOCK), TABLE_HUGE);
      assert.equal(space.rss, 0);
      space.store(BLOCK + 3, 4);
      assert.equal(stateOf(space, BLOCK), TABLE_SMALL);
      assert.deepEqual(space.entries(BLOCK + 2, 3), ['zero r', 'anon rw', 'zero r']);
    }),
  );

  test(
    'is made only where it was asked for, and where there is room',
    withHuge((space) => {
      space.advise(BLOCK + BLOCK_PAGES, BLOCK_PAGES, uapi.MADV_NOHUGEPAGE);
      space.store(BLOCK + BLOCK_PAGES, 1);
      space.unmap(BLOCK, 1);
      space.store(BLOCK + 1, 1);
      assert.equal(space.rss, 2);
    }),
  );

  test(
    'is small again when a part of it goes, and the rest stays',
    withHuge((space) => {
      space.store(BLOCK, 1);
      space.store(BLOCK + 20, 2);
      space.advise(BLOCK + 10, 5, uapi.MADV_DONTNEED);
      assert.equal(stateOf(space, BLOCK), TABLE_SMALL);
      assert.equal(space.rss, BLOCK_PAGES - 5);
      assert.deepEqual(
        [space.load(BLOCK), space.load(BLOCK + 20), space.load(BLOCK + 12)],
        [1, 2, 0],
      );
    }),
  );

  test(
    'can be made anew where all of it went',
    withHuge((space) => {
      space.store(BLOCK, 1);
      space.advise(BLOCK, BLOCK_PAGES, uapi.MADV_DONTNEED);
      assert.equal(stateOf(space, BLOCK), TABLE_GONE);
      assert.equal(space.rss, 0);
      space.store(BLOCK, 2);
      assert.equal(stateOf(space, BLOCK), TABLE_HUGE);
      assert.equal(space.load(BLOCK), 2);
    }),
  );

  test(
    'is shared by a fork, copied by the page, and its own again when the other is gone',
    withHuge((space) => {
      space.store(BLOCK, 1);
      space.store(BLOCK + BLOCK_PAGES, 2);
      const child = space.fork();
      assert.equal(stateOf(child, BLOCK), TABLE_HUGE);
      space.store(BLOCK, 3);
      assert.equal(stateOf(space, BLOCK), TABLE_SMALL);
      assert.deepEqual([space.load(BLOCK), child.load(BLOCK), child.load(BLOCK + 1)], [3, 1, 0]);
      child.exit();
      space.store(BLOCK + BLOCK_PAGES, 4);
      assert.equal(stateOf(space, BLOCK + BLOCK_PAGES), TABLE_HUGE);
      assert.deepEqual(space.entries(BLOCK + BLOCK_PAGES + 9, 1), ['anon rw']);
    }),
  );

  test(
    'moves whole to where a block begins, and page by page to anywhere else',
    withHuge((space) => {
      space.store(BLOCK, 1);
      const whole = BLOCK + 2 * BLOCK_PAGES;
      assert.equal(space.move(BLOCK, BLOCK_PAGES, whole), whole);
      assert.equal(stateOf(space, whole), TABLE_HUGE);
      const odd = whole + BLOCK_PAGES + 3;
      assert.equal(space.move(whole, BLOCK_PAGES, odd), odd);
      assert.equal(stateOf(space, odd), TABLE_SMALL);
      assert.equal(space.load(odd), 1);
    }),
  );

  test(
    'is paged out whole, and comes back page by page',
    withHuge((space) => {
      space.store(BLOCK + 7, 8);
      space.advise(BLOCK, BLOCK_PAGES, uapi.MADV_PAGEOUT);
      assert.equal(space.rss, 0);
      assert.deepEqual(space.entries(BLOCK, 1), ['swap']);
      assert.equal(space.load(BLOCK + 7), 8);
      assert.equal(space.rss, 1);
    }),
  );

  test(
    'loses its pages of zeroes when a part of it is to go',
    withHuge((space) => {
      space.store(BLOCK, 1);
      space.advise(BLOCK + 4, 2, uapi.MADV_COLD);
      assert.equal(stateOf(space, BLOCK), TABLE_SMALL);
      assert.equal(space.rss, 1);
      assert.deepEqual(space.entries(BLOCK, 2), ['anon rw', 'zero r']);
      assert.equal(space.load(BLOCK), 1);
    }),
  );
});

describe('COLLAPSE', () => {
  test(
    'makes one of small pages, with what was in them',
    withHuge((space) => {
      space.map(BLOCK, BLOCK_PAGES);
      space.load(BLOCK);
      space.store(BLOCK + 1, 6);
      space.store(BLOCK + 2, 7);
      space.advise(BLOCK + 2, 1, uapi.MADV_PAGEOUT);
      assert.equal(space.advise(BLOCK, BLOCK_PAGES, uapi.MADV_COLLAPSE), 0);
      assert.equal(stateOf(space, BLOCK), TABLE_HUGE);
      assert.deepEqual(
        [0, 1, 2, 3].map((page) => space.load(BLOCK + page)),
        [0, 6, 7, 0],
      );
      assert.equal(space.advise(BLOCK, BLOCK_PAGES, uapi.MADV_COLLAPSE), 0, 'it is one already');
    }),
  );

  test(
    'refuses a block in which nothing may be written',
    withHuge((space) => {
      space.load(BLOCK);
      space.unmap(BLOCK, BLOCK_PAGES);
      space.map(BLOCK, BLOCK_PAGES, { prot: 'r' });
      space.load(BLOCK);
      assert.equal(space.advise(BLOCK, BLOCK_PAGES, uapi.MADV_COLLAPSE), -EINVAL);
    }),
  );
});
