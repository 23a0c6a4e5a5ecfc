/**
 * Every call that needs memory, with as little of it as makes it fail, then with a frame more, and so on
 * until it succeeds: whatever fails leaves contents, counts and references in order.
 *
 * @module
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';

import { EAGAIN, EFAULT, ENOMEM } from '../../src/base/errno.js';
import { PAGE_SIZE } from '../../src/base/units.js';
import type { Cpu } from '../../src/machine/cpu.js';
import { allocPage, freePage, type Pfn } from '../../src/machine/page-alloc.js';
import { kfree, kzalloc } from '../../src/machine/slab.js';
import { NULL } from '../../src/memory/layout.js';
import { mmput } from '../../src/mm/exit.js';
import { dupMm } from '../../src/mm/fork.js';
import { mlock } from '../../src/mm/mlock.js';
import { useMm } from '../../src/mm/mm-struct.js';
import { VmAreaStruct } from '../../src/mm/types.js';
import * as uapi from '../../src/mm/uapi.js';
import { at, bootMmCpu, newSpace, type Space } from '../support/space.js';

const FRAMES_MAX = 24;

/** Takes all memory but so many frames, and all VMAs that are in stock. */
function takeAll(cpu: Cpu, left: number): () => void {
  const frames: Pfn[] = [];
  const vmas: VmAreaStruct[] = [];
  for (let pfn = allocPage(cpu); pfn !== 0; pfn = allocPage(cpu)) frames.push(pfn);
  for (let vma = kzalloc(cpu, VmAreaStruct); vma !== NULL; vma = kzalloc(cpu, VmAreaStruct)) {
    vmas.push(vma);
  }
  for (const pfn of frames.splice(0, left)) freePage(cpu, pfn);
  return () => {
    for (const pfn of frames) freePage(cpu, pfn);
    for (const vma of vmas) kfree(cpu, VmAreaStruct, vma);
  };
}

/**
 * Tries an action on the same address space with 0, 1, 2, … frames left; `failures` are what it may return
 * when it fails, of which at least one must be seen before it succeeds.
 */
function scarce(
  title: string,
  failures: readonly number[],
  prepare: (space: Space) => void,
  action: (space: Space) => number,
  intact: (space: Space) => void,
): void {
  test(title, () => {
    const cpu = bootMmCpu(2 << 20);
    let failed = 0;
    for (let left = 0; ; left++) {
      assert.ok(left < FRAMES_MAX, 'it never succeeds');
      const space = newSpace(cpu);
      prepare(space);
      const giveBack = takeAll(cpu, left);
      const result = action(space);
      giveBack();
      space.check();
      if (result < 0) {
        assert.ok(failures.includes(result), `${title}: ${result} with ${left} frames`);
        failed++;
        intact(space);
        assert.ok(action(space) >= 0, 'with memory it succeeds');
      }
      space.end();
      if (result >= 0) break;
    }
    assert.ok(failed > 0, 'it never failed');
  });
}

function fill(space: Space, first: number, pages: number): void {
  for (let page = first; page < first + pages; page++) space.store(page, 100 + page);
}

function assertFilled(space: Space, first: number, pages: number): void {
  for (let page = first; page < first + pages; page++) assert.equal(space.load(page), 100 + page);
}

const mapped = (space: Space): void => {
  space.map(0, 12);
  fill(space, 0, 12);
};
const untouched = (space: Space): void => {
  assertFilled(space, 0, 12);
};

scarce(
  'mmap',
  [-ENOMEM],
  () => undefined,
  (space) => space.map(0, 4),
  (space) => {
    assert.deepEqual(space.layout(), []);
  },
);
scarce(
  'mmap of shared memory',
  [-ENOMEM],
  () => undefined,
  (space) => space.map(0, 4, { shared: true }),
  (space) => {
    assert.deepEqual(space.layout(), []);
  },
);
scarce(
  'a store',
  [-ENOMEM],
  (space) => {
    space.map(0, 1);
  },
  (space) => space.store(0, 1),
  (space) => {
    assert.equal(space.load(0), 0);
  },
);
scarce(
  'a load from a file',
  [-ENOMEM],
  (space) => {
    space.map(0, 1, { file: space.file(600), offset: 500 });
  },
  (space) => space.tryLoad(0),
  () => undefined,
);
scarce(
  'a store that copies',
  [-ENOMEM],
  (space) => {
    mapped(space);
    space.fork();
  },
  (space) => space.store(3, 7),
  untouched,
);
scarce('munmap of the middle', [-ENOMEM], mapped, (space) => space.unmap(3, 2), untouched);
scarce('mprotect of the middle', [-ENOMEM], mapped, (space) => space.protect(3, 2, 'r'), untouched);
scarce(
  'advice for the middle',
  [-EAGAIN],
  mapped,
  (space) => space.advise(3, 2, uapi.MADV_DONTFORK),
  untouched,
);
scarce(
  'MADV_POPULATE_WRITE',
  [-ENOMEM],
  (space) => {
    mapped(space);
    space.map(20, 4);
  },
  (space) => space.advise(20, 4, uapi.MADV_POPULATE_WRITE),
  untouched,
);
scarce(
  'mlock',
  [-ENOMEM, -EAGAIN],
  (space) => {
    mapped(space);
    space.map(20, 6);
  },
  (space) => mlock(space.cpu, space.mm, at(21), 4 * PAGE_SIZE, 0),
  untouched,
);
scarce(
  'mremap to another table',
  [-ENOMEM],
  mapped,
  (space) => space.move(2, 8, 100_000),
  (space) => {
    untouched(space);
    assert.equal(space.tryLoad(100_000), -EFAULT);
    assert.equal(space.totalVm, 12);
  },
);
scarce(
  'fork',
  [-ENOMEM],
  (space) => {
    mapped(space);
    space.map(100_000, 2, { prot: 'r' });
    space.map(200_000, 2);
    space.store(200_000, 1);
  },
  (space) => {
    const child = dupMm(space.cpu, space.mm);
    if (child === NULL) return -ENOMEM;
    useMm(space.cpu, child);
    mmput(space.cpu, child);
    return 0;
  },
  (space) => {
    untouched(space);
    fill(space, 0, 12);
    space.store(200_000, 2);
  },
);
