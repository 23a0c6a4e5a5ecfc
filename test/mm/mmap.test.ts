/**
 * mmap, munmap and brk: where mappings go, what they replace, split and merge with, and every refusal.
 *
 * @module
 */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';

import { readAddress, writeAddress } from '#memory';

import { EEXIST, EFAULT, EINVAL, ENOMEM, EOPNOTSUPP, EOVERFLOW } from '../../src/base/errno.js';
import { PAGE_SIZE, TASK_SIZE } from '../../src/base/units.js';
import { NULL, type Va } from '../../src/memory/layout.js';
import { setBrk } from '../../src/mm/mm-struct.js';
import { brk, mmap } from '../../src/mm/mmap.js';
import { munmap } from '../../src/mm/munmap.js';
import { MmStruct } from '../../src/mm/types.js';
import * as uapi from '../../src/mm/uapi.js';
import { mapCount, MAX_MAP_COUNT } from '../../src/mm/vma.js';
import { at, bootMmCpu, inSpace, newSpace, pageAt, type Space } from '../support/space.js';

const ANYWHERE = uapi.MAP_PRIVATE | uapi.MAP_ANONYMOUS;
const RW = uapi.PROT_READ | uapi.PROT_WRITE;

function mapBytes(space: Space, addr: Va, length: number, flags = ANYWHERE): Va {
  return mmap(space.cpu, space.mm, addr, length, RW, flags, NULL, 0);
}

function setMmapBase({ cpu, mm }: Space, page: number): void {
  writeAddress(cpu, mm, MmStruct.mmapBase, at(page));
}

describe('mmap without an address', () => {
  test(
    'fills holes from the top, lengths rounded up to pages',
    inSpace((space) => {
      setMmapBase(space, 20);
      space.map(18, 1);
      space.map(12, 2, { prot: 'r' });
      const place = (bytes: number): number => pageAt(mapBytes(space, 0, bytes));
      assert.equal(place(PAGE_SIZE + 1), 16, 'below page 18; page 19 alone is too small');
      assert.equal(place(1), 19);
      assert.equal(place(PAGE_SIZE), 15);
      assert.equal(place(2 * PAGE_SIZE), 10, 'page 14 is too small');
      assert.equal(place(1), 14);
    }),
  );

  test(
    'goes above the base when there is no room below',
    inSpace((space) => {
      const { cpu, mm } = space;
      writeAddress(cpu, mm, MmStruct.mmapBase, 20 * PAGE_SIZE);
      assert.equal(mapBytes(space, 0, 4 * PAGE_SIZE), 16 * PAGE_SIZE, 'just above the minimum');
      const third = mapBytes(space, 0, PAGE_SIZE);
      assert.equal(third, Math.ceil(TASK_SIZE / 3 / PAGE_SIZE) * PAGE_SIZE);
      assert.equal(mapBytes(space, 0, PAGE_SIZE), third + PAGE_SIZE);
    }),
  );

  test(
    'fails when the address space is full, and the largest mapping fits',
    inSpace((space) => {
      const { cpu, mm } = space;
      assert.equal(mapBytes(space, 0, TASK_SIZE + 1), -ENOMEM);
      assert.equal(mapBytes(space, 0, TASK_SIZE), -ENOMEM, 'the lowest addresses are not given');
      const all = mapBytes(space, 0, TASK_SIZE, ANYWHERE | uapi.MAP_FIXED);
      assert.equal(all, 0);
      assert.equal(mapBytes(space, 0, 1), -ENOMEM);
      assert.equal(munmap(cpu, mm, 5 * 2 ** 40, PAGE_SIZE), 0);
      assert.equal(mapBytes(space, 0, 1), 5 * 2 ** 40);
    }),
  );
});

describe('mmap with a hint', () => {
  test(
    'takes it when the place is free',
    inSpace((space) => {
      space.map(4, 1);
      assert.equal(space.map(5, 2, { flags: 0 }), 5);
      assert.equal(space.map(2, 2, { flags: 0 }), 2);
    }),
  );

  test(
    'rounds it down to a page, and up to the lowest address',
    inSpace((space) => {
      assert.equal(mapBytes(space, at(3) + 5, 1), at(3));
      assert.equal(mapBytes(space, PAGE_SIZE, 1), 65536);
    }),
  );

  test(
    'goes elsewhere when part of the place is taken or out of range',
    inSpace((space) => {
      setMmapBase(space, 40);
      space.map(4, 1);
      assert.equal(space.map(3, 2, { flags: 0 }), 38);
      assert.equal(pageAt(mapBytes(space, TASK_SIZE - PAGE_SIZE, 2 * PAGE_SIZE)), 36);
      assert.equal(pageAt(mapBytes(space, 2 ** 60, PAGE_SIZE)), 35);
    }),
  );
});

describe('MAP_FIXED', () => {
  test(
    'takes the place of what was there, contents and all',
    inSpace((space) => {
      space.map(0, 6);
      for (let page = 0; page < 6; page++) space.store(page, page + 1);
      assert.equal(space.map(2, 2, { prot: 'r' }), 2);
      assert.deepEqual(space.layout(), ['0-2 rwp', '2-4 rp', '4-6 rwp']);
      assert.deepEqual(
        [0, 1, 2, 3, 4, 5].map((page) => space.load(page)),
        [1, 2, 0, 0, 5, 6],
      );
    }),
  );

  test(
    'is as large as the address space lets it be',
    inSpace((space) => {
      const fixed = ANYWHERE | uapi.MAP_FIXED;
      const top = TASK_SIZE - PAGE_SIZE;
      assert.equal(mapBytes(space, top, PAGE_SIZE, fixed), top);
      assert.equal(mapBytes(space, top, PAGE_SIZE + 1, fixed), -ENOMEM);
      assert.equal(mapBytes(space, at(0) + 1, PAGE_SIZE, fixed), -EINVAL);
      assert.equal(mapBytes(space, 0, PAGE_SIZE, fixed), 0);
    }),
  );

  test(
    'with NOREPLACE refuses a place that is taken in part',
    inSpace((space) => {
      space.map(4, 2);
      const noreplace = uapi.MAP_FIXED_NOREPLACE;
      for (const [page, pages] of [
        [3, 2],
        [5, 2],
        [4, 1],
        [3, 8],
      ] as const) {
        assert.equal(space.map(page, pages, { flags: noreplace }), -EEXIST);
      }
      assert.equal(space.map(2, 2, { flags: noreplace }), 2);
      assert.equal(space.map(6, 1, { flags: noreplace }), 6);
      assert.equal(mapBytes(space, at(20) + 1, 1, ANYWHERE | noreplace), -EINVAL);
    }),
  );
});

describe('mmap refuses', () => {
  test(
    'what Linux refuses, with its error',
    inSpace((space) => {
      const { cpu, mm } = space;
      const file = space.file(4);
      const call = (length: number, flags: number, backing = NULL as typeof file, offset = 0): Va =>
        mmap(cpu, mm, at(0), length, RW, flags, backing, offset);
      assert.equal(call(0, ANYWHERE), -EINVAL);
      assert.equal(call(1, uapi.MAP_ANONYMOUS), -EINVAL, 'neither shared nor private');
      assert.equal(call(1, uapi.MAP_ANONYMOUS | uapi.MAP_SHARED_VALIDATE), -EINVAL);
      assert.equal(call(1, uapi.MAP_PRIVATE, file, 5), -EINVAL);
      assert.equal(
        call(1, uapi.MAP_PRIVATE, file, 2 ** 63 - 2 * PAGE_SIZE),
        at(0),
        'the last page',
      );
      assert.equal(call(1, uapi.MAP_PRIVATE, file, 2 ** 63 - PAGE_SIZE), -EOVERFLOW);
      assert.ok(call(1, ANYWHERE, NULL, 2 ** 63) > 0, 'no file has no end');
      assert.equal(call(-PAGE_SIZE, ANYWHERE), -ENOMEM, 'a length beyond all memory');
      assert.equal(call(-1, uapi.MAP_PRIVATE, file), -ENOMEM);
      assert.equal(call(1, uapi.MAP_PRIVATE, file, -PAGE_SIZE), -EOVERFLOW);
      assert.equal(call(1, uapi.MAP_PRIVATE, file, -1), -EINVAL);
      assert.ok(mapBytes(space, -PAGE_SIZE, 1, ANYWHERE) > 0, 'a hint that is no place');
      assert.equal(mapBytes(space, -PAGE_SIZE, 1, ANYWHERE | uapi.MAP_FIXED), -ENOMEM);
      assert.equal(call(1, uapi.MAP_SHARED_VALIDATE | uapi.MAP_SYNC, file), -EOPNOTSUPP);
      assert.notEqual(call(1, uapi.MAP_SHARED | uapi.MAP_SYNC, file), -EOPNOTSUPP);
      assert.ok(call(1, uapi.MAP_SHARED_VALIDATE, file) > 0);
    }),
  );

  test(
    'a shared mapping that grows downwards, but only once it has found a place for it',
    inSpace((space) => {
      const growing = uapi.MAP_FIXED | uapi.MAP_GROWSDOWN;
      const file = space.file(1);
      assert.equal(space.map(0, 1, { shared: true, flags: growing }), -EINVAL);
      assert.equal(space.map(0, 1, { shared: true, file, flags: growing }), -EINVAL);
      assert.equal(space.map(0, 1, { file, flags: growing }), -EINVAL);
      assert.equal(space.map(0, 1, { flags: growing }), 0);
      const noreplace = uapi.MAP_FIXED_NOREPLACE | uapi.MAP_ANONYMOUS;
      assert.equal(mapBytes(space, at(0), 1, noreplace), -EEXIST, 'no type, but taken');
    }),
  );

  test('more mappings than there may be; and then pieces can still be cut off', () => {
    const space = newSpace(bootMmCpu(64 << 20));
    const { cpu, mm } = space;
    for (let i = 0; i <= MAX_MAP_COUNT; i++) space.map(2 * i, i === 3 ? 3 : 1, { prot: 'r' });
    // the hole of three pages swallowed the mapping after it
    space.map(2 * (MAX_MAP_COUNT + 1), 4, { prot: 'r' });
    space.map(2 * (MAX_MAP_COUNT + 5), 1, { prot: 'r' });
    assert.equal(mapCount(cpu, mm), MAX_MAP_COUNT + 1);
    assert.equal(space.map(-2, 1), -ENOMEM);
    const page = 2 * (MAX_MAP_COUNT + 1);
    assert.equal(space.protect(page, 1, ''), -ENOMEM, 'a split in two');
    assert.equal(space.unmap(page + 1, 1), -ENOMEM, 'a hole in the middle');
    assert.equal(space.unmap(page + 3, 1), 0, 'the end');
    assert.equal(space.unmap(page, 1), 0, 'the beginning');
    assert.equal(mapCount(cpu, mm), MAX_MAP_COUNT + 1);
    space.unmap(0, 1);
    space.unmap(2, 1);
    assert.equal(space.unmap(page + 1, 1), 0);
    space.end();
  });
});

describe('mappings side by side', () => {
  test(
    'become one when they are alike',
    inSpace((space) => {
      space.map(0, 2);
      space.map(4, 2);
      assert.deepEqual(space.layout(), ['0-2 rwp', '4-6 rwp']);
      space.map(2, 2);
      assert.deepEqual(space.layout(), ['0-6 rwp'], 'both sides');
      space.map(6, 1);
      space.map(-1, 1);
      assert.deepEqual(space.layout(), ['-1-7 rwp'], 'either side');
      assert.equal(space.pgoffOf(0) * PAGE_SIZE, at(-1));
    }),
  );

  test(
    'stay apart when rights, kind or flags differ',
    inSpace((space) => {
      space.map(0, 2);
      space.map(2, 2, { prot: 'r' });
      space.map(4, 2, { shared: true });
      space.map(6, 2, { shared: true });
      space.map(8, 2, { flags: uapi.MAP_FIXED | uapi.MAP_NORESERVE });
      space.map(10, 2);
      assert.equal(space.layout().length, 6);
    }),
  );

  test(
    'of one file become one when its pages go on',
    inSpace((space) => {
      const file = space.file(16);
      const other = space.file(16);
      space.map(0, 2, { file, offset: 3 });
      space.map(2, 2, { file, offset: 5 });
      assert.deepEqual(space.layout(), ['0-4 rwp']);
      space.map(4, 2, { file, offset: 8 });
      space.map(-2, 2, { file, offset: 0 });
      space.map(6, 1, { file: other, offset: 10 });
      space.map(-4, 2, { shared: true, file, offset: 14 });
      assert.deepEqual(space.layout(), ['-4--2 rws', '-2-0 rwp', '0-4 rwp', '4-6 rwp', '6-7 rwp']);
      space.unmap(4, 3);
      space.map(5, 1, { file, offset: 8 });
      space.map(4, 1, { file, offset: 7 });
      assert.deepEqual(space.layout(), ['-4--2 rws', '-2-0 rwp', '0-6 rwp']);
      assert.equal(space.pgoffOf(5), 3);
    }),
  );

  test(
    'with anonymous memory of one and none of the other become one',
    inSpace((space) => {
      space.map(0, 2);
      space.store(0, 1);
      space.map(2, 2);
      space.map(-2, 2);
      assert.deepEqual(space.layout(), ['-2-4 rwp']);
      assert.equal(space.load(0), 1);
    }),
  );

  test(
    'with anonymous memory of two origins do not',
    inSpace((space) => {
      space.map(0, 1);
      space.map(2, 1);
      space.store(0, 1);
      space.store(2, 2);
      space.map(1, 1);
      assert.deepEqual(space.layout(), ['0-2 rwp', '2-3 rwp']);
    }),
  );

  test(
    'do not merge with what a child has inherited',
    inSpace((space) => {
      space.map(0, 1);
      space.store(0, 1);
      const child = space.fork();
      child.map(1, 1);
      space.map(1, 1);
      assert.deepEqual(space.layout(), ['0-2 rwp']);
      assert.deepEqual(child.layout(), ['0-1 rwp', '1-2 rwp']);
    }),
  );
});

describe('munmap', () => {
  test(
    'cuts a mapping at either end, or in two',
    inSpace((space) => {
      space.map(0, 8);
      for (let page = 0; page < 8; page++) space.store(page, page);
      assert.equal(space.unmap(0, 1), 0);
      assert.equal(space.unmap(7, 1), 0);
      assert.deepEqual(space.layout(), ['1-7 rwp']);
      assert.equal(space.unmap(3, 2), 0);
      assert.deepEqual(space.layout(), ['1-3 rwp', '5-7 rwp']);
      assert.equal(space.pgoffOf(5) * PAGE_SIZE, at(5));
      for (const page of [0, 3, 4, 7]) assert.equal(space.tryLoad(page), -EFAULT);
      for (const page of [1, 2, 5, 6]) assert.equal(space.load(page), page);
      assert.equal(space.totalVm, 4);
    }),
  );

  test(
    'takes several mappings and the holes between them',
    inSpace((space) => {
      space.map(0, 2);
      space.map(3, 1, { prot: 'r' });
      space.map(5, 4, { shared: true });
      assert.equal(space.unmap(1, 5), 0);
      assert.deepEqual(space.layout(), ['0-1 rwp', '6-9 rws']);
      assert.equal(space.unmap(0, 20), 0);
      assert.deepEqual(space.layout(), []);
    }),
  );

  test(
    'of nothing is no error',
    inSpace((space) => {
      assert.equal(space.unmap(0, 4), 0);
      space.map(0, 1);
      assert.equal(space.unmap(1, 4), 0);
      assert.equal(space.unmap(-3, 3), 0);
      assert.deepEqual(space.layout(), ['0-1 rwp']);
    }),
  );

  test(
    'refuses what is no range of user pages',
    inSpace((space) => {
      const { cpu, mm } = space;
      space.map(0, 1);
      assert.equal(munmap(cpu, mm, at(0) + 1, PAGE_SIZE), -EINVAL);
      assert.equal(munmap(cpu, mm, at(0), 0), -EINVAL);
      assert.equal(munmap(cpu, mm, TASK_SIZE, PAGE_SIZE), -EINVAL);
      assert.equal(munmap(cpu, mm, 2 ** 63, PAGE_SIZE), -EINVAL);
      assert.equal(munmap(cpu, mm, at(0), 2 ** 63), -EINVAL);
      assert.equal(munmap(cpu, mm, TASK_SIZE - PAGE_SIZE, PAGE_SIZE), 0);
      assert.equal(munmap(cpu, mm, at(0), 1), 0, 'the length is rounded up');
      assert.deepEqual(space.layout(), []);
    }),
  );

  test(
    'gives a file back with its last mapping',
    inSpace((space) => {
      space.map(0, 4, { shared: true });
      space.store(1, 7);
      const child = space.fork();
      space.unmap(0, 4);
      assert.equal(child.load(1), 7);
      child.unmap(1, 1);
      assert.equal(child.load(0), 0);
      child.exit();
    }),
  );
});

describe('brk', () => {
  const HEAP = at(0);

  function heap(space: Space): (bytes: number) => number {
    setBrk(space.cpu, space.mm, HEAP);
    return (bytes) => brk(space.cpu, space.mm, HEAP + bytes) - HEAP;
  }

  test(
    'grows and shrinks the heap by pages, and remembers bytes',
    inSpace((space) => {
      const { cpu, mm } = space;
      const setTo = heap(space);
      assert.equal(setTo(1), 1);
      assert.deepEqual(space.layout(), ['0-1 rwp']);
      assert.equal(setTo(3 * PAGE_SIZE), 3 * PAGE_SIZE);
      assert.deepEqual(space.layout(), ['0-3 rwp']);
      space.store(2, 5);
      assert.equal(setTo(2 * PAGE_SIZE + 1), 2 * PAGE_SIZE + 1);
      assert.equal(space.load(2), 5, 'the page is still used in part');
      assert.equal(setTo(2 * PAGE_SIZE), 2 * PAGE_SIZE);
      assert.equal(setTo(3 * PAGE_SIZE), 3 * PAGE_SIZE);
      assert.equal(space.load(2), 0, 'it was given up in between');
      assert.equal(readAddress(cpu, mm, MmStruct.brk), HEAP + 3 * PAGE_SIZE);
      assert.equal(setTo(0), 0);
      assert.deepEqual(space.layout(), []);
    }),
  );

  test(
    'says where it is when it cannot go there',
    inSpace((space) => {
      const { cpu, mm } = space;
      const setTo = heap(space);
      setTo(PAGE_SIZE);
      assert.equal(brk(cpu, mm, HEAP - 1), HEAP + PAGE_SIZE, 'below the start');
      assert.equal(brk(cpu, mm, 0), HEAP + PAGE_SIZE, 'the question where it is');
      assert.equal(brk(cpu, mm, TASK_SIZE), HEAP + PAGE_SIZE);
      space.map(6, 1);
      assert.equal(setTo(6 * PAGE_SIZE), PAGE_SIZE, 'a page must stay free');
      assert.equal(setTo(5 * PAGE_SIZE), 5 * PAGE_SIZE);
      assert.equal(space.totalVm, 6);
    }),
  );

  test(
    'is one mapping with what is mapped like it',
    inSpace((space) => {
      const setTo = heap(space);
      space.map(-2, 2);
      setTo(2 * PAGE_SIZE);
      assert.deepEqual(space.layout(), ['-2-2 rwp']);
    }),
  );
});
