/**
 * Reclaim: what goes when memory is short, what stays, and that it is there again when it is used; on one CPU step by
 * step, and with four that store, a device, and kswapd on another.
 *
 * @module
 */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';

import { read } from '#memory';

import { PAGE_SIZE } from '../../src/base/units.js';
import { bootDeferred } from '../../src/deferred/boot.js';
import * as spacePrograms from '../../src/explore/programs/space.js';
import type { Cpu } from '../../src/machine/cpu.js';
import { registerOps } from '../../src/machine/ops-table.js';
import { defineOps } from '../../src/machine/ops-table.js';
import { freeFrameCount, pageOf } from '../../src/machine/page-alloc.js';
import { kzalloc } from '../../src/machine/slab.js';
import { bootMm } from '../../src/mm/boot.js';
import { FOLL_PIN, FOLL_WRITE, getUserPage, putUserPage } from '../../src/mm/gup.js';
import { LRU_ACTIVE, LRU_ANON, LRU_FILE, lruCount, reclaimCount } from '../../src/mm/lru.js';
import { mlock, munlock } from '../../src/mm/mlock.js';
import { swapUsed } from '../../src/mm/swap.js';
import { ReclaimStats } from '../../src/mm/types.js';
import * as uapi from '../../src/mm/uapi.js';
import { balance } from '../../src/mm/vmscan.js';
import type { MmuNotifierOps } from '../../src/notifier/mmu-notifier-list.js';
import {
  mmuNotifierRegister,
  mmuNotifierUnregister,
} from '../../src/notifier/mmu-notifier-register.js';
import { MmuNotifier } from '../../src/notifier/types.js';
import { lockPage, unlockPage } from '../../src/sync/page-lock.js';
import { assertNoWarning } from '../../src/workloads/leak.js';
import * as programs from '../programs/reclaim.js';
import { ReclaimArena } from '../programs/reclaim.js';
import { programUrl, runProgram } from '../support/crew.js';
import { at, bootMmCpu, newSpace, type Space } from '../support/space.js';

const SPACE_MODULE = new URL('../../src/explore/programs/space.js', import.meta.url).href;
const FRAMES = 128;
const SLOTS = 256;
const RESERVE = 16;

function bootSmall(slots = SLOTS): Cpu {
  return bootMmCpu(FRAMES * PAGE_SIZE, slots * PAGE_SIZE, RESERVE);
}

/** Runs a test on a small machine that reclaims; its swap area must be empty again afterwards. */
function withReclaim(body: (space: Space) => void, slots = SLOTS): () => void {
  return () => {
    const space = newSpace(bootSmall(slots));
    body(space);
    space.end();
    assert.equal(swapUsed(space.cpu), 0, 'slots in use');
    for (const list of [LRU_ANON, LRU_ANON + LRU_ACTIVE, LRU_FILE, LRU_FILE + LRU_ACTIVE]) {
      assert.equal(lruCount(space.cpu, list), 0, 'pages on the LRU lists');
    }
  };
}

/** Pages that hold their number plus one. */
function fill(space: Space, first: number, pages: number): void {
  for (let page = first; page < first + pages; page++) {
    assert.equal(space.store(page, page + 1), 0, `page ${page}`);
  }
}

function assertFilled(space: Space, first: number, pages: number): void {
  for (let page = first; page < first + pages; page++) assert.equal(space.load(page), page + 1);
}

const isSwapped = (space: Space, page: number): boolean => space.entries(page, 1)[0] === 'swap';

describe('who allocates when memory is short', () => {
  test(
    'makes room, and finds everything again that it has put away',
    withReclaim((space) => {
      space.map(0, 200);
      fill(space, 0, 200);
      const { cpu } = space;
      assert.ok(reclaimCount(cpu, ReclaimStats.directReclaims) > 0);
      assert.ok(reclaimCount(cpu, ReclaimStats.directStolen) > 0);
      assert.ok(swapUsed(cpu) >= 200 - FRAMES);
      assertFilled(space, 0, 200);
      assert.ok(reclaimCount(cpu, ReclaimStats.swappedIn) > 0);
      space.check();
    }),
  );

  test(
    'fails when the swap area is full too, and not before',
    withReclaim((space) => {
      space.map(0, 200);
      let stored = 0;
      while (space.store(stored, stored + 1) === 0) stored++;
      assert.ok(stored > FRAMES - 40, `${stored} pages`);
      assert.equal(swapUsed(space.cpu), 8);
      assert.equal(freeFrameCount(space.cpu), 0, 'the reserve too');
      space.unmap(stored - 20, 20);
      assertFilled(space, 0, stored - 20);
      space.check();
    }, 8),
  );

  test(
    'takes pages of a file, from all who map it, and what several address spaces have',
    withReclaim((space) => {
      const file = space.file(40);
      space.map(0, 40, { shared: true, file });
      space.map(300, 40, { shared: true, file });
      fill(space, 0, 40);
      for (let page = 300; page < 340; page++) space.load(page);
      space.map(50, 20);
      fill(space, 50, 20);
      const child = space.fork();
      space.map(100, 80);
      fill(space, 100, 80);
      const entries = [...space.entries(50, 20), ...child.entries(50, 20)];
      assert.ok(entries.includes('swap'), 'shared with a child');
      assertFilled(space, 0, 40);
      for (let page = 300; page < 340; page++) assert.equal(space.load(page), page - 299);
      assertFilled(child, 50, 20);
      assertFilled(space, 50, 20);
      child.store(50, 7);
      assert.deepEqual([space.load(50), child.load(50)], [51, 7]);
      space.check();
      child.exit();
    }),
  );

  test(
    'finds a page where mremap has put it',
    withReclaim((space) => {
      space.map(0, 4);
      fill(space, 0, 4);
      assert.equal(space.move(0, 4, 600), 600);
      space.map(10, 150);
      fill(space, 10, 150);
      assert.ok([0, 1, 2, 3].some((page) => isSwapped(space, 600 + page)));
      for (const page of [0, 1, 2, 3]) assert.equal(space.load(600 + page), page + 1);
    }),
  );

  test(
    'finds it in all who have it, though mremap has moved it in one',
    withReclaim((space) => {
      space.map(0, 4);
      fill(space, 0, 4);
      const child = space.fork();
      assert.equal(space.move(0, 4, 600), 600);
      space.map(10, 150);
      fill(space, 10, 150);
      const moved = space.entries(600, 4);
      const left = child.entries(0, 4);
      assert.ok(moved.some((entry, i) => entry === 'swap' && left[i] === 'swap'));
      for (const page of [0, 1, 2, 3]) {
        assert.deepEqual([space.load(600 + page), child.load(page)], [page + 1, page + 1]);
      }
      child.exit();
    }),
  );
});

describe('what stays', () => {
  test(
    'is what has been locked, as long as it is, and what a device has pinned',
    withReclaim((space) => {
      const { cpu, mm } = space;
      space.map(0, 8);
      fill(space, 0, 8);
      mlock(cpu, mm, at(0), 2 * PAGE_SIZE, 0);
      const flags = FOLL_PIN | FOLL_WRITE;
      const pinned = getUserPage(cpu, mm, at(2), flags);
      assert.ok(pinned > 0);
      space.map(50, 160);
      fill(space, 50, 160);
      assert.deepEqual(
        [0, 1, 2].map((page) => isSwapped(space, page)),
        [false, false, false],
      );
      assert.ok([3, 4, 5, 6, 7].some((page) => isSwapped(space, page)));
      munlock(cpu, mm, at(0), 2 * PAGE_SIZE);
      putUserPage(cpu, pinned, flags);
      for (let round = 0; round < 3; round++) assertFilled(space, 50, 160);
      assert.ok(
        [0, 1, 2].every((page) => isSwapped(space, page)),
        'not any more',
      );
      assertFilled(space, 0, 8);
    }),
  );

  test(
    'is what somebody has locked: it may be on its way elsewhere',
    withReclaim((space) => {
      const { cpu, mm } = space;
      space.map(0, 2);
      fill(space, 0, 2);
      const pfn = getUserPage(cpu, mm, at(0), FOLL_WRITE);
      putUserPage(cpu, pfn, FOLL_WRITE);
      const page = pageOf(cpu, pfn);
      lockPage(cpu, page);
      space.map(50, 160);
      fill(space, 50, 160);
      assert.deepEqual([isSwapped(space, 0), isSwapped(space, 1)], [false, true]);
      assert.equal(space.advise(0, 1, uapi.MADV_PAGEOUT), 0);
      assert.ok(!isSwapped(space, 0), 'nor by MADV_PAGEOUT');
      unlockPage(cpu, page);
      assert.equal(space.advise(0, 1, uapi.MADV_PAGEOUT), 0);
      assert.ok(isSwapped(space, 0), 'not any more');
      assertFilled(space, 0, 2);
    }),
  );

  test(
    'is what has been used meanwhile, while there is other memory',
    withReclaim((space) => {
      space.map(0, 150);
      fill(space, 0, 60);
      for (let page = 60; page < 150; page++) {
        space.store(page, page + 1);
        space.load(0);
      }
      assert.ok(reclaimCount(space.cpu, ReclaimStats.activated) > 0);
      assertFilled(space, 0, 150);
    }),
  );

  test(
    'is nothing that the program has freed: that goes without a slot',
    withReclaim((space) => {
      space.map(0, 40);
      fill(space, 0, 40);
      space.advise(0, 40, uapi.MADV_FREE);
      space.store(7, 77);
      space.map(50, 75);
      fill(space, 50, 75);
      assert.equal(space.load(7), 77);
      assert.ok(space.entries(0, 40).filter((entry) => entry === 'none').length > 10);
      space.check();
    }),
  );

  test(
    'is what one program has freed and another has, of which no entry says that it was written',
    withReclaim((space) => {
      space.map(0, 20);
      fill(space, 0, 20);
      const child = space.fork();
      space.map(50, 120);
      fill(space, 50, 120);
      const gone = Array.from({ length: 20 }, (_, page) => page).filter((page) =>
        [space, child].every((each) => isSwapped(each, page)),
      );
      assert.ok(gone.length > 2);
      const [inSlot, ...inBoth] = gone as [number, ...number[]];
      assertFilled(space, inSlot, 1);
      for (const page of inBoth) for (const each of [space, child]) assertFilled(each, page, 1);
      for (const page of gone) assert.equal(space.advise(page, 1, uapi.MADV_FREE), 0);
      for (let round = 0; round < 2; round++) {
        assertFilled(child, 0, 20);
        space.advise(50, 120, uapi.MADV_DONTNEED);
        fill(space, 50, 120);
      }
      assertFilled(child, 0, 20);
      space.check();
      child.exit();
    }),
  );
});

/** What a notifier heard. */
let heard: string[] = [];
let devicesUse = -1;
const youngOps: MmuNotifierOps = defineOps({
  opsName: 'reclaim test',
  clearFlushYoung(_cpu: Cpu, _notifier: MmuNotifier, _mm, start: number) {
    heard.push('young');
    return start === at(devicesUse);
  },
  invalidateRangeStart() {
    heard.push('start');
    return 0;
  },
  invalidateRangeEnd() {
    heard.push('end');
  },
});

test('a device is asked whether it has used a page, which stays then; and told before one goes', () => {
  const space = newSpace(bootSmall());
  const { cpu, mm } = space;
  registerOps(cpu, [{ youngOps }]);
  const notifier = kzalloc(cpu, MmuNotifier);
  space.map(0, 60);
  fill(space, 0, 60);
  assert.equal(mmuNotifierRegister(cpu, notifier, mm, youngOps), 0);
  heard = [];
  devicesUse = 3;
  space.map(100, 60);
  fill(space, 100, 60);
  assert.ok(heard.includes('young') && heard.includes('start') && heard.includes('end'));
  assert.equal(isSwapped(space, 3), false);
  assert.ok(isSwapped(space, 4));
  mmuNotifierUnregister(cpu, notifier, mm);
});

test('kswapd makes room up to the high watermark, and gives up when nothing helps', () => {
  const space = newSpace(bootSmall());
  const { cpu } = space;
  space.map(0, 100);
  fill(space, 0, 90);
  balance(cpu);
  assert.ok(freeFrameCount(cpu) >= RESERVE + RESERVE / 2);
  const stolen = reclaimCount(cpu, ReclaimStats.kswapdStolen);
  assert.ok(stolen > 0);
  balance(cpu);
  assert.equal(reclaimCount(cpu, ReclaimStats.kswapdStolen), stolen, 'there was room');
  assertFilled(space, 0, 90);
  space.end();
});

describe('four CPUs that store, a device, kswapd, and less memory than they use', () => {
  for (const build of ['parallel', 'checked'] as const) {
    test(`${build}: nothing is lost, and pages went and came`, async () => {
      const cpus = programs.WRITERS + 2;
      let arena = 0 as ReclaimArena;
      const { machine } = await runProgram({
        cpus,
        ramBytes: programs.RAM_FRAMES * PAGE_SIZE,
        swapBytes: programs.SWAP_SLOTS * PAGE_SIZE,
        minFreeFrames: programs.RESERVE_FRAMES,
        build,
        watchesMemory: build === 'checked',
        module: programUrl('reclaim'),
        entry: [...Array.from({ length: programs.WRITERS }, () => 'writer'), 'device', 'serve'],
        opsModules: [SPACE_MODULE],
        setup(cpu) {
          bootMm(cpu);
          bootDeferred(cpu);
          registerOps(cpu, [spacePrograms]);
          arena = kzalloc(cpu, ReclaimArena);
          programs.initReclaimArena(cpu, arena, build === 'checked' ? 2 : 6);
          return arena;
        },
      });
      const { cpu } = machine;
      assertNoWarning(cpu);
      programs.checkReclaimArena(cpu, arena);
      for (const [what, field] of [
        ['kswapd freed', ReclaimStats.kswapdStolen],
        ['who allocated freed', ReclaimStats.directStolen],
        ['went out', ReclaimStats.swappedOut],
        ['came in', ReclaimStats.swappedIn],
      ] as const) {
        assert.ok(reclaimCount(cpu, field) > 0, what);
      }
      assert.ok(read(cpu, arena, ReclaimArena.lost) > 0, 'the device has lost pages');
    });
  }
});
