/**
 * Interval notifiers on one thread: what each step does to the sequences, the tree and the callbacks.
 * Who sleeps and who wakes is in scripted.test.ts.
 *
 * @module
 */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';

import { read } from '#memory';

import { EAGAIN, EINVAL, ENOMEM, EOVERFLOW } from '../../src/base/errno.js';
import { PAGE_SIZE } from '../../src/base/units.js';
import { allocPage } from '../../src/machine/page-alloc.js';
import { preemptDisable, preemptEnable } from '../../src/machine/sched.js';
import { allocatedObjects, kzalloc } from '../../src/machine/slab.js';
import { storeWord } from '../../src/mm/access.js';
import { mmput } from '../../src/mm/exit.js';
import { mmAlloc } from '../../src/mm/mm-struct.js';
import { mmapWriteLock, mmapWriteUnlock } from '../../src/mm/mmap-lock.js';
import { munmap } from '../../src/mm/munmap.js';
import { MmStruct } from '../../src/mm/types.js';
import { mmdrop } from '../../src/notifier/mm-count.js';
import {
  mmuIntervalNotifierInsertLocked,
  mmuIntervalReadBegin,
} from '../../src/notifier/mmu-interval-notifier.js';
import { mmuNotifierInvalidateRangeStartNonblock } from '../../src/notifier/mmu-notifier.js';
import { VA_MAX } from '../../src/notifier/mmu-notifier-range.js';
import {
  MmuIntervalNotifier,
  MmuNotifierRange,
  MmuNotifierSubscriptions,
} from '../../src/notifier/types.js';
import { mapPages, pageVa } from '../support/address-space.js';
import { assertBug } from '../support/machine.js';
import { listener, World } from '../support/notifier-world.js';

describe('an invalidation', () => {
  test('that hits nothing leaves the sequence even: partially excluded', () => {
    const world = new World();
    const interval = world.insert(10, 5);
    assert.deepEqual(world.state, [2, 0]);
    const range = world.start(0, 10);
    assert.deepEqual(world.state, [2, 1]);
    assert.deepEqual(world.takeTold(), []);
    world.end(range);
    assert.deepEqual(world.state, [2, 0], 'nobody was hit: nobody needs to wake');
    assert.equal(world.seqOf(interval), 1);
    world.assertIdle();
  });

  test('that hits an interval makes the sequence odd until it ends (INV-16)', () => {
    const world = new World();
    const interval = world.insert(10, 5);
    const range = world.start(14, 3);
    assert.deepEqual(world.state, [3, 1]);
    const [call] = world.takeTold();
    assert.deepEqual(call, {
      interval,
      event: 'CLEAR',
      seq: 3,
      pages: [14, 17],
      blockable: true,
    });
    assert.equal(world.seqOf(interval), 3);
    world.end(range);
    assert.deepEqual(world.state, [4, 0]);
    assert.equal(world.seqOf(interval), 3, 'the interval keeps it');
    world.end(world.start(10, 1));
    assert.equal(world.seqOf(interval), 5);
    world.assertIdle();
  });

  test('calls exactly the intervals that share a byte with it, by their starts', () => {
    const world = new World();
    const [last, first, middle, far] = [
      world.insert(20, 4),
      world.insert(2, 9),
      world.insert(10, 1),
      world.insert(30, 1),
    ];
    const check = (page: number, pages: number, expected: MmuIntervalNotifier[]): void => {
      world.takeTold();
      world.end(world.start(page, pages));
      assert.deepEqual(world.whoWasTold(), expected, `pages ${page} to ${page + pages}`);
    };
    check(0, 2, []);
    check(2, 1, [first]);
    check(10, 10, [first, middle]);
    check(11, 9, []);
    check(23, 7, [last]);
    check(24, 6, []);
    check(0, 100, [first, middle, last, far]);
  });

  test('that overlaps another in time shares its odd number, and only the last end acts', () => {
    const world = new World();
    const [a, b] = [world.insert(0, 1), world.insert(10, 1)];
    const outer = world.start(0, 1);
    const inner = world.start(10, 1);
    assert.deepEqual(world.state, [3, 2]);
    assert.deepEqual([world.seqOf(a), world.seqOf(b)], [3, 3]);
    world.end(outer);
    assert.deepEqual(world.state, [3, 1], 'still fully excluded');
    const third = world.start(5, 1);
    assert.equal(read(world.cpu, third, MmuNotifierRange.seq), 3);
    world.end(inner);
    assert.deepEqual(world.state, [3, 1]);
    world.end(third);
    assert.deepEqual(world.state, [4, 0], 'the last to end had hit nothing, but others had');
    world.assertIdle();
  });

  test('that hits while one that hit nothing is under way makes the sequence odd for both', () => {
    const world = new World();
    const interval = world.insert(0, 1);
    const vain = world.start(5, 1);
    const hit = world.start(0, 1);
    assert.deepEqual(world.state, [3, 2]);
    world.end(hit);
    assert.deepEqual(world.state, [3, 1]);
    world.end(vain);
    assert.deepEqual(world.state, [4, 0]);
    assert.equal(world.seqOf(interval), 3);
  });

  test('that ends without having begun is a bug (INV-14)', () => {
    const world = new World();
    world.insert(0, 1);
    const range = world.start(0, 1);
    world.end(range);
    assertBug(() => {
      world.end(range);
    }, /end without start \(INV-14\)/);
  });

  test('of an address space without notifiers does nothing', () => {
    const world = new World();
    const range = world.start(0, 1);
    assert.equal(mmuNotifierInvalidateRangeStartNonblock(world.cpu, range), 0);
    world.end(range);
    assert.equal(world.subscriptions, 0);
    mmput(world.cpu, world.mm);
    assert.deepEqual(world.takeTold(), []);
  });

  test('may sleep, and so may begin and remove: a bug where that may not be', () => {
    const world = new World();
    const { cpu } = world;
    const interval = world.insert(0, 1);
    preemptDisable(cpu);
    const sleepers = [
      () => world.start(0, 1),
      () => mmuIntervalReadBegin(cpu, interval),
      () => {
        world.remove(interval);
      },
    ];
    for (const sleeper of sleepers) assertBug(sleeper, /sleeping function called from invalid/);
    preemptEnable(cpu);
    assert.deepEqual(world.state, [2, 0], 'nothing of it has happened');
  });

  test('goes on over the end of the numbers: only parity and difference count', () => {
    for (const first of [0x7ffffffc, -4, -0x80000000]) {
      const world = new World();
      const early = world.insert(0, 1);
      world.sequence = first;
      const seen = new Set<number>();
      for (let round = 0; round < 4; round++) {
        const late = world.insert(1, 1);
        assert.notEqual(world.seqOf(late), world.state[0]);
        assert.equal(world.seqOf(late) & 1, 1, 'INV-17');
        const before = mmuIntervalReadBegin(world.cpu, late);
        const range = world.start(0, 2);
        seen.add(world.state[0]);
        assert.equal(world.seqOf(early), world.state[0]);
        assert.equal(world.retry(late, before), true);
        world.end(range);
        world.assertIdle();
        world.remove(late);
      }
      assert.equal(seen.size, 4);
    }
  });
});

describe('one that may not block', () => {
  test('succeeds if no callback has to wait, and says so to them', () => {
    const world = new World();
    const interval = world.insert(0, 1);
    const range = world.range(0, 1);
    assert.equal(mmuNotifierInvalidateRangeStartNonblock(world.cpu, range), 0);
    assert.equal(world.takeTold()[0]?.blockable, false);
    assert.equal(world.seqOf(interval), 3);
    assert.deepEqual(world.state, [3, 1]);
    world.end(range);
    world.assertIdle();
  });

  test('fails with -EAGAIN at the first refusal, and is closed again (LT-16, M-2)', () => {
    const world = new World();
    const [first, second, third] = [world.insert(0, 1), world.insert(1, 1), world.insert(2, 1)];
    world.refuse(second);
    const range = world.range(0, 3);
    assert.equal(mmuNotifierInvalidateRangeStartNonblock(world.cpu, range), -EAGAIN);
    assert.deepEqual(world.whoWasTold(), [first, second]);
    assert.deepEqual(
      [first, second, third].map((one) => world.seqOf(one)),
      [3, 1, 1],
    );
    assert.deepEqual(world.state, [4, 0]);
    world.assertIdle();
    assert.equal(mmuIntervalReadBegin(world.cpu, first), 3, 'nobody waits for its end');
    for (const interval of [first, second, third]) world.remove(interval);
  });

  test('fails inside another without ending that one', () => {
    const world = new World();
    const [kept, refused] = [world.insert(0, 1), world.insert(5, 1)];
    world.refuse(refused);
    const outer = world.start(0, 1);
    const inner = world.range(5, 1);
    assert.equal(mmuNotifierInvalidateRangeStartNonblock(world.cpu, inner), -EAGAIN);
    assert.deepEqual(world.state, [3, 1]);
    world.end(outer);
    assert.deepEqual(world.state, [4, 0]);
    assert.equal(world.seqOf(kept), 3);
  });

  test('is the only one that may be refused', () => {
    const world = new World();
    world.refuse(world.insert(0, 1));
    assertBug(() => world.start(0, 1), /listener: invalidate refused a range that may block/);
  });
});

describe('a reader', () => {
  test('is not disturbed by invalidations of other ranges', () => {
    const world = new World();
    const [mine, other] = [world.insert(0, 4), world.insert(4, 4)];
    const seq = mmuIntervalReadBegin(world.cpu, mine);
    const range = world.start(4, 4);
    assert.equal(world.retry(mine, seq), false);
    assert.equal(mmuIntervalReadBegin(world.cpu, mine), seq, 'and need not wait for them');
    world.end(range);
    assert.equal(world.retry(mine, seq), false);
    assert.equal(world.retry(other, seq), true);
  });

  test('must try again if an invalidation passed, over or not (INV-19, LT-6)', () => {
    const world = new World();
    const interval = world.insert(0, 4);
    const seq = mmuIntervalReadBegin(world.cpu, interval);
    const range = world.start(3, 1);
    assert.equal(world.retry(interval, seq), true);
    world.end(range);
    assert.equal(world.retry(interval, seq), true, 'what it read may be older');
    const again = mmuIntervalReadBegin(world.cpu, interval);
    assert.equal(world.retry(interval, again), false);
    assert.equal(again & 1, 1);
  });
});

describe('insert', () => {
  test('makes the first of an address space a home, and keeps the mm_struct', () => {
    const world = new World();
    const { cpu, mm } = world;
    assert.equal(world.subscriptions, 0);
    const interval = world.insert(0, 1);
    assert.notEqual(world.subscriptions, 0);
    assert.equal(read(cpu, mm, MmStruct.count), 2);
    world.remove(interval);
    assert.equal(read(cpu, mm, MmStruct.count), 1);
    assert.equal(allocatedObjects(cpu, MmuNotifierSubscriptions), 1);
    mmput(cpu, mm);
    assert.equal(allocatedObjects(cpu, MmuNotifierSubscriptions), 0);
  });

  test('while nobody invalidates: odd, and no collision', () => {
    const world = new World();
    world.insert(0, 1);
    for (const seq of [2, 6]) {
      world.sequence = seq;
      const interval = world.insert(0, 1);
      assert.equal(world.seqOf(interval), seq - 1);
      assert.equal(mmuIntervalReadBegin(world.cpu, interval), seq - 1);
    }
  });

  test('while somebody invalidates who hit nothing: takes part in it as if hit', () => {
    const world = new World();
    world.insert(50, 1);
    const range = world.start(0, 4);
    const interval = world.insert(2, 1);
    assert.equal(world.inTree(interval), true);
    assert.deepEqual(world.state, [3, 1]);
    assert.equal(world.seqOf(interval), 3);
    assert.deepEqual(world.takeTold(), [], 'it is not called: its device knows nothing yet');
    world.end(range);
    assert.deepEqual(world.state, [4, 0]);
  });

  test('while the tree is frozen: later, and until then it is not called (INV-18)', () => {
    const world = new World();
    world.insert(0, 1);
    const outer = world.start(0, 1);
    const interval = world.insert(2, 1);
    assert.equal(world.inTree(interval), false);
    assert.equal(world.seqOf(interval), 3);
    const inner = world.start(2, 1);
    assert.equal(world.takeTold().length, 1);
    world.end(outer);
    assert.equal(world.inTree(interval), false);
    world.end(inner);
    assert.equal(world.inTree(interval), true);
    world.end(world.start(2, 1));
    assert.equal(world.whoWasTold().at(-1), interval);
    assert.equal(world.seqOf(interval), 5);
  });

  test('under the mmap lock', () => {
    const world = new World();
    const { cpu, mm } = world;
    const interval = kzalloc(cpu, MmuIntervalNotifier);
    mmapWriteLock(cpu, mm);
    const locked = (length: number): number =>
      mmuIntervalNotifierInsertLocked(cpu, interval, mm, pageVa(0), length, listener);
    assert.equal(locked(0), -EOVERFLOW);
    assert.equal(locked(PAGE_SIZE), 0);
    mmapWriteUnlock(cpu, mm);
    world.end(world.start(0, 1));
    assert.deepEqual(world.whoWasTold(), [interval]);
  });

  test('refuses a range that is empty or wraps with -EOVERFLOW, and keeps nothing', () => {
    const world = new World();
    const { cpu, mm } = world;
    const interval = kzalloc(cpu, MmuIntervalNotifier);
    for (const [start, length] of [
      [pageVa(0), 0],
      [pageVa(0), -PAGE_SIZE],
      [pageVa(0), 2 ** 64],
      [2 ** 48 - PAGE_SIZE, PAGE_SIZE + 1],
      [2 ** 64 - PAGE_SIZE, PAGE_SIZE],
    ] as const) {
      assert.equal(world.insertAt(interval, start, length), -EOVERFLOW, `${start} + ${length}`);
    }
    assert.equal(read(cpu, mm, MmStruct.count), 1);
    assert.equal(world.insertAt(interval, 2 ** 48 - PAGE_SIZE, PAGE_SIZE), 0);
    world.remove(interval);
    assert.equal(world.insertAt(interval, 0, 2 ** 48), 0);
  });

  test('refuses a dead address space with -EINVAL', () => {
    const world = new World();
    const { cpu, mm } = world;
    const pin = world.insert(0, 1);
    mmput(cpu, mm);
    const interval = kzalloc(cpu, MmuIntervalNotifier);
    assert.equal(world.insertAt(interval, pageVa(0), PAGE_SIZE), -EINVAL);
    assert.equal(read(cpu, mm, MmStruct.count), 1, 'of the first interval alone');
    world.remove(pin);
    assert.equal(allocatedObjects(cpu, MmStruct), 0);
  });

  test('fails with -ENOMEM if there is no room for the first one', () => {
    const world = new World(256 * 1024);
    const { cpu, mm } = world;
    const interval = kzalloc(cpu, MmuIntervalNotifier);
    while (allocPage(cpu) !== 0);
    assert.equal(world.insertAt(interval, pageVa(0), PAGE_SIZE), -ENOMEM);
    assert.equal(read(cpu, mm, MmStruct.count), 1);
    assert.equal(world.subscriptions, 0);
  });
});

describe('remove', () => {
  test('while nobody invalidates, or nobody who hit: at once', () => {
    const world = new World();
    const [a, b] = [world.insert(0, 1), world.insert(1, 1)];
    world.remove(a);
    const range = world.start(10, 1);
    world.remove(b);
    world.end(range);
    world.end(world.start(0, 10));
    assert.deepEqual(world.takeTold(), [], 'INV-22');
    world.assertIdle();
  });

  test('of one whose insertion was put off: it never happens, and nobody waits (LT-17)', () => {
    const world = new World();
    const frozen = world.insert(0, 1);
    const range = world.start(0, 1);
    const before = read(world.cpu, world.mm, MmStruct.count);
    const [a, b, c] = [world.insert(1, 1), world.insert(2, 1), world.insert(3, 1)];
    world.remove(b);
    assert.equal(read(world.cpu, world.mm, MmStruct.count), before + 2);
    world.end(range);
    assert.deepEqual(
      [a, b, c].map((one) => world.inTree(one)),
      [true, false, true],
    );
    world.takeTold();
    world.end(world.start(0, 4));
    assert.deepEqual(world.whoWasTold(), [frozen, a, c]);
    world.assertIdle();
  });

  test('of one that is not registered is a bug', () => {
    const world = new World();
    const interval = world.insert(0, 1);
    world.remove(interval);
    assertBug(() => {
      world.remove(interval);
    }, /is not registered/);
    assert.equal(read(world.cpu, world.mm, MmStruct.count), 1);
  });
});

describe('the end of an address space', () => {
  test('is told with RELEASE and then UNMAP; intervals stay until they are removed', () => {
    const world = new World();
    const { cpu, mm } = world;
    mapPages(cpu, mm, 0, 4);
    assert.equal(storeWord(cpu, mm, pageVa(1), 7), 0);
    const interval = world.insert(0, 4);
    const seq = mmuIntervalReadBegin(cpu, interval);
    mmput(cpu, mm);
    assert.deepEqual(
      world.takeTold().map(({ event, seq: curSeq }) => [event, curSeq]),
      [
        ['RELEASE', 3],
        ['UNMAP', 5],
      ],
    );
    assert.equal(world.retry(interval, seq), true);
    assert.equal(world.inTree(interval), true);
    assert.equal(allocatedObjects(cpu, MmStruct), 1);
    world.remove(interval);
    assert.equal(allocatedObjects(cpu, MmStruct), 0, 'the last reference was the interval’s');
    assert.equal(allocatedObjects(cpu, MmuNotifierSubscriptions), 0);
  });

  test('reaches also an interval that holds no page of it', () => {
    const world = new World();
    const interval = world.insert(100, 1);
    mmput(world.cpu, world.mm);
    const calls = world.takeTold();
    assert.deepEqual(
      calls.map(({ event, interval: one }) => [event, one]),
      [['RELEASE', interval]],
      'no VMA: nothing to unmap',
    );
    assert.equal(calls[0]?.pages[1], (VA_MAX - pageVa(0)) / PAGE_SIZE);
  });

  test('and of its struct with an interval registered is a bug (INV-13)', () => {
    const world = new World();
    world.insert(0, 1);
    mmput(world.cpu, world.mm);
    assertBug(() => {
      mmdrop(world.cpu, world.mm);
    }, /while an interval notifier is registered \(INV-13\)/);
  });

  test('does not reach the notifiers of another one', () => {
    const world = new World();
    const other = mmAlloc(world.cpu);
    world.insert(0, 1);
    mapPages(world.cpu, other, 0, 1);
    munmap(world.cpu, other, pageVa(0), PAGE_SIZE);
    mmput(world.cpu, other);
    assert.deepEqual(world.takeTold(), []);
  });
});
