/**
 * Notifiers of a whole mm on one thread: who is told what, in which order, and who holds whom. What happens
 * when several CPUs meet is in the programs lt-13 to lt-24 and notifier-exit, and in lists-parallel.test.ts.
 *
 * @module
 */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';

import { read, write } from '#memory';

import { EAGAIN, EINVAL, ENOMEM, EOVERFLOW } from '../../src/base/errno.js';
import { PAGE_SIZE } from '../../src/base/units.js';
import { kfree, kzalloc } from '../../src/machine/slab.js';
import { warningTexts } from '../../src/machine/warn.js';
import { NULL } from '../../src/memory/layout.js';
import { storeWord } from '../../src/mm/access.js';
import { mmput } from '../../src/mm/exit.js';
import { dupMm } from '../../src/mm/fork.js';
import { mmAlloc } from '../../src/mm/mm-struct.js';
import { munmap } from '../../src/mm/munmap.js';
import { MmStruct } from '../../src/mm/types.js';
import {
  LIST_END_BOTH,
  LIST_REFUSE_SHARED,
  LIST_UNPAIRED,
  setListForm,
} from '../../src/notifier/boot.js';
import {
  mmuIntervalNotifierInsert,
  mmuIntervalNotifierRemove,
} from '../../src/notifier/mmu-interval-notifier.js';
import {
  mmuNotifierInvalidateRangeEnd,
  mmuNotifierInvalidateRangeStart,
  mmuNotifierInvalidateRangeStartNonblock,
} from '../../src/notifier/mmu-notifier.js';
import {
  mmuNotifierClearFlushYoung,
  mmuNotifierClearYoung,
  mmuNotifierTestYoung,
} from '../../src/notifier/mmu-notifier-list.js';
import {
  mmuNotifierGet,
  mmuNotifierPut,
  mmuNotifierRegister,
  mmuNotifierSynchronize,
  mmuNotifierUnregister,
} from '../../src/notifier/mmu-notifier-register.js';
import { MmuIntervalNotifier, MmuNotifier } from '../../src/notifier/types.js';
import { cpuEntry, mapPages, pageVa } from '../support/address-space.js';
import {
  ListWorld,
  mixedOps,
  notingInterval,
  pairedOps,
  refusingOps,
  secondary,
  secondaryOps,
  youngOps,
} from '../support/list-world.js';
import { assertBug } from '../support/machine.js';

/** An interval over the first pages. */
function insertInterval(world: ListWorld): MmuIntervalNotifier {
  const { cpu, mm } = world;
  const interval = kzalloc(cpu, MmuIntervalNotifier);
  const length = 4 * PAGE_SIZE;
  const error = mmuIntervalNotifierInsert(cpu, interval, mm, pageVa(0), length, notingInterval);
  assert.equal(error, 0);
  return interval;
}

describe('an invalidation', () => {
  test('is told to all, the last to come first; its end too', () => {
    const world = new ListWorld();
    const { cpu } = world;
    world.register('a', pairedOps);
    world.register('b', refusingOps);
    world.register('c', pairedOps);
    const range = world.range();
    mmuNotifierInvalidateRangeStart(cpu, range);
    assert.deepEqual(world.takeHeard(), ['c start CLEAR', 'b start', 'a start CLEAR']);
    mmuNotifierInvalidateRangeEnd(cpu, range);
    assert.deepEqual(world.takeHeard(), ['c end CLEAR', 'a end CLEAR']);
  });

  test('without intervals is not counted', () => {
    const world = new ListWorld();
    world.register('a', pairedOps);
    const range = world.range();
    mmuNotifierInvalidateRangeStart(world.cpu, range);
    assert.equal(world.active, 0);
    mmuNotifierInvalidateRangeEnd(world.cpu, range);
    assert.equal(world.active, 0);
  });

  test('is told to intervals first, and the list is told wherever it is', () => {
    const world = new ListWorld();
    const { cpu } = world;
    world.register('a', pairedOps);
    insertInterval(world);
    for (const [page, expected] of [
      [0, ['interval CLEAR', 'a start CLEAR']],
      [9, ['a start CLEAR']],
    ] as const) {
      const range = world.range(page);
      mmuNotifierInvalidateRangeStart(cpu, range);
      assert.equal(world.active, 1);
      assert.deepEqual(world.takeHeard(), expected);
      mmuNotifierInvalidateRangeEnd(cpu, range);
      assert.equal(world.active, 0);
      assert.deepEqual(world.takeHeard(), ['a end CLEAR']);
    }
  });

  test('that may block and is refused is a bug of the driver', () => {
    const world = new ListWorld();
    world.register('a', refusingOps);
    world.answer({ refuses: true });
    assertBug(() => {
      mmuNotifierInvalidateRangeStart(world.cpu, world.range());
    }, /list refusing: invalidateRangeStart refused a range that may block/);
  });

  test('is answered with 0 or -EAGAIN, and nothing else', () => {
    const world = new ListWorld();
    world.register('a', pairedOps);
    world.answer({ odd: -ENOMEM });
    assertBug(
      () => mmuNotifierInvalidateRangeStartNonblock(world.cpu, world.range()),
      /list paired: invalidateRangeStart answered -12/,
    );
  });
});

describe('an invalidation that may not block', () => {
  test('runs every start where sleeping is reported', () => {
    const world = new ListWorld();
    world.register('a', refusingOps);
    world.answer({ sleeps: true });
    assertBug(
      () => mmuNotifierInvalidateRangeStartNonblock(world.cpu, world.range()),
      /non_block_count 1/,
    );
  });

  test('lets sleep again afterwards', () => {
    const world = new ListWorld();
    world.register('a', refusingOps);
    const range = world.range();
    assert.equal(mmuNotifierInvalidateRangeStartNonblock(world.cpu, range), 0);
    mmuNotifierInvalidateRangeEnd(world.cpu, range);
    world.answer({ sleeps: true });
    mmuNotifierInvalidateRangeStart(world.cpu, world.range());
    assert.equal(world.cpu.nonBlockCount, 0);
  });

  /** Who has an end is asked first and last. */
  function refused(form?: typeof LIST_UNPAIRED | typeof LIST_REFUSE_SHARED): string[] {
    const world = new ListWorld();
    if (form !== undefined) setListForm(world.cpu, form);
    world.register('last', pairedOps);
    world.register('no', refusingOps);
    world.register('first', pairedOps);
    world.answer({ refuses: true });
    const answer = mmuNotifierInvalidateRangeStartNonblock(world.cpu, world.range());
    assert.equal(answer, -EAGAIN);
    return world.takeHeard();
  }

  const asked = ['first start CLEAR', 'no refuses', 'last start CLEAR'];

  test('asks all although one refuses, and then ends all (LT-13)', () => {
    assert.deepEqual(refused(), [...asked, 'first end CLEAR', 'last end CLEAR']);
  });

  test('was left open with those that had agreed, until 2021', () => {
    assert.deepEqual(refused(LIST_UNPAIRED), asked);
  });

  test('was to be refused to lists of more than one, in 2019', () => {
    assert.deepEqual(refused(LIST_REFUSE_SHARED), []);
    const world = new ListWorld();
    setListForm(world.cpu, LIST_REFUSE_SHARED);
    world.register('only', refusingOps);
    assert.equal(mmuNotifierInvalidateRangeStartNonblock(world.cpu, world.range()), 0);
    assert.deepEqual(world.takeHeard(), ['only start']);
  });

  test('may not be refused by who has an end', () => {
    const world = new ListWorld();
    world.register('a', pairedOps);
    world.answer({ odd: -EAGAIN });
    assertBug(
      () => mmuNotifierInvalidateRangeStartNonblock(world.cpu, world.range()),
      /refused, and has an end to it \(LT-13\)/,
    );
  });

  test('that the list refuses stays counted with the intervals, as in Linux (LT-16)', () => {
    const world = new ListWorld();
    insertInterval(world);
    world.register('no', refusingOps);
    world.answer({ refuses: true });
    assert.equal(mmuNotifierInvalidateRangeStartNonblock(world.cpu, world.range()), -EAGAIN);
    assert.equal(world.active, 1);
  });

  test('… and does not if that is mended', () => {
    const world = new ListWorld();
    setListForm(world.cpu, LIST_END_BOTH);
    const interval = insertInterval(world);
    world.register('no', refusingOps);
    world.answer({ refuses: true });
    assert.equal(mmuNotifierInvalidateRangeStartNonblock(world.cpu, world.range()), -EAGAIN);
    assert.equal(world.active, 0);
    mmuIntervalNotifierRemove(world.cpu, interval); // which would wait for the end
  });
});

describe('who registers', () => {
  test('keeps the mm_struct, not the address space; and is released once', () => {
    const world = new ListWorld();
    const { cpu, mm } = world;
    const notifier = world.register('a', pairedOps);
    assert.equal(world.mmCount, 2);
    assert.equal(read(cpu, mm, MmStruct.users), 1);
    mmuNotifierUnregister(cpu, notifier, mm);
    assert.deepEqual(world.takeHeard(), ['a release']);
    assert.equal(world.mmCount, 1);
    mmuNotifierInvalidateRangeStart(cpu, world.range());
    mmput(cpu, mm);
    assert.deepEqual(world.takeHeard(), [], 'INV-12');
    assert.equal(world.mms, 0);
  });

  test('is released by exit, and may be unregistered after that', () => {
    const world = new ListWorld();
    const { cpu, mm } = world;
    const [a, b] = [world.register('a', pairedOps), world.register('b', refusingOps)];
    mapPages(cpu, mm, 0, 1);
    assert.equal(storeWord(cpu, mm, pageVa(0), 1), 0);
    mmput(cpu, mm);
    assert.deepEqual(world.takeHeard(), ['b release', 'a release'], 'and nobody hears of UNMAP');
    assert.equal(world.mms, 1);
    for (const notifier of [a, b]) mmuNotifierUnregister(cpu, notifier, mm);
    assert.deepEqual(world.takeHeard(), []);
    assert.equal(world.mms, 0, 'INV-13');
  });

  test('has one kind of invalidation', () => {
    const world = new ListWorld();
    const notifier = kzalloc(world.cpu, MmuNotifier);
    assert.equal(mmuNotifierRegister(world.cpu, notifier, world.mm, mixedOps), -EINVAL);
    assert.equal(world.mmCount, 1);
  });

  test('does so while there is an address space', () => {
    const world = new ListWorld();
    const { cpu, mm } = world;
    world.register('a', pairedOps); // keeps the struct
    mmput(cpu, mm);
    const notifier = kzalloc(cpu, MmuNotifier);
    assertBug(() => mmuNotifierRegister(cpu, notifier, mm, pairedOps), /has ended/);
  });

  test('is not inherited by a child', () => {
    const world = new ListWorld();
    const { cpu, mm } = world;
    world.register('a', pairedOps);
    const child = dupMm(cpu, mm);
    assert.equal(read(cpu, child, MmStruct.subscriptions), NULL);
    mmput(cpu, child);
    assert.deepEqual(world.takeHeard(), []);
  });

  test('keeps nobody from inserting the first interval', () => {
    const world = new ListWorld();
    world.register('a', pairedOps);
    const interval = insertInterval(world);
    const range = world.range();
    mmuNotifierInvalidateRangeStart(world.cpu, range);
    mmuNotifierInvalidateRangeEnd(world.cpu, range);
    assert.ok(world.takeHeard().includes('interval CLEAR'));
    mmuIntervalNotifierRemove(world.cpu, interval);
  });
});

describe('who gets', () => {
  test('gets the one of that mm and that driver', () => {
    const world = new ListWorld();
    const { cpu, mm } = world;
    const other = mmAlloc(cpu);
    const first = mmuNotifierGet(cpu, pairedOps, mm);
    assert.ok(first > 0);
    assert.equal(mmuNotifierGet(cpu, pairedOps, mm), first);
    assert.notEqual(mmuNotifierGet(cpu, refusingOps, mm), first);
    assert.notEqual(mmuNotifierGet(cpu, pairedOps, other), first);
    assert.equal(world.notifiers, 3);
    assert.equal(world.mmCount, 3, 'one for each notifier, however many users it has');
  });

  test('puts it; the last put frees it, a grace period later, and does not release', () => {
    const world = new ListWorld();
    const { cpu, mm } = world;
    const notifier = world.name(mmuNotifierGet(cpu, pairedOps, mm), 'a');
    mmuNotifierGet(cpu, pairedOps, mm);
    mmuNotifierPut(cpu, notifier);
    world.work();
    assert.deepEqual(world.takeHeard(), []);
    mmuNotifierPut(cpu, notifier);
    assert.deepEqual(world.takeHeard(), [], 'not yet');
    assert.equal(world.mmCount, 2, 'INV-13: it keeps the mm until it is freed');
    mmuNotifierInvalidateRangeStart(cpu, world.range());
    assert.deepEqual(world.takeHeard(), [], 'but it is off the list');
    world.work();
    assert.deepEqual(world.takeHeard(), ['a free']);
    assert.equal(world.mmCount, 1);
  });

  test('gets a new one while the old one waits to be freed', () => {
    const world = new ListWorld();
    const { cpu, mm } = world;
    const old = world.name(mmuNotifierGet(cpu, pairedOps, mm), 'old');
    mmuNotifierPut(cpu, old);
    assert.notEqual(mmuNotifierGet(cpu, pairedOps, mm), old);
    world.work();
    assert.deepEqual(world.takeHeard(), ['old free']);
    assert.equal(world.notifiers, 1);
  });

  test('is told of errors by a negative number', () => {
    const world = new ListWorld();
    const { cpu, mm } = world;
    world.answer({ noMemory: true });
    assert.equal(mmuNotifierGet(cpu, pairedOps, mm), -ENOMEM);
    world.answer({ noMemory: false });
    assert.equal(mmuNotifierGet(cpu, mixedOps, mm), -EINVAL);
    assert.equal(world.notifiers, 0, 'what was made for that is freed');
    const notifier = mmuNotifierGet(cpu, pairedOps, mm);
    write(cpu, notifier, MmuNotifier.users, 0x7fffffff);
    assert.equal(mmuNotifierGet(cpu, pairedOps, mm), -EOVERFLOW);
  });

  test('puts as often as it got', () => {
    const world = new ListWorld();
    const { cpu, mm } = world;
    const notifier = mmuNotifierGet(cpu, pairedOps, mm);
    mmuNotifierPut(cpu, notifier);
    mmuNotifierPut(cpu, notifier);
    assert.match(warningTexts(cpu).join(), /is put, and has no user/);
  });

  test('synchronizes without a kworker if nothing was put', () => {
    const world = new ListWorld();
    mmuNotifierGet(world.cpu, pairedOps, world.mm);
    mmuNotifierSynchronize(world.cpu);
  });
});

describe('the young ones', () => {
  test('are all asked to clear; a test ends with the first yes', () => {
    const world = new ListWorld();
    const { cpu, mm } = world;
    for (const name of ['c', 'b', 'a']) world.register(name, youngOps);
    assert.equal(mmuNotifierClearFlushYoung(cpu, mm, pageVa(0), pageVa(1)), false);
    assert.equal(mmuNotifierTestYoung(cpu, mm, pageVa(0)), false);
    world.takeHeard();
    world.makeYoung('b');
    assert.equal(mmuNotifierClearFlushYoung(cpu, mm, pageVa(0), pageVa(1)), true);
    assert.deepEqual(world.takeHeard(), ['a clear flush', 'b clear flush', 'c clear flush']);
    assert.equal(mmuNotifierClearYoung(cpu, mm, pageVa(0), pageVa(1)), true);
    assert.deepEqual(world.takeHeard(), ['a clear', 'b clear', 'c clear']);
    assert.equal(mmuNotifierTestYoung(cpu, mm, pageVa(0)), true);
    assert.deepEqual(world.takeHeard(), ['a test', 'b test']);
  });

  test('are nobody where nobody is registered', () => {
    const world = new ListWorld();
    const { cpu, mm } = world;
    assert.equal(mmuNotifierTestYoung(cpu, mm, pageVa(0)), false);
    insertInterval(world);
    assert.equal(mmuNotifierClearYoung(cpu, mm, pageVa(0), pageVa(1)), false);
    assert.equal(mmuNotifierClearFlushYoung(cpu, mm, pageVa(0), pageVa(1)), false);
  });
});

describe('secondary TLBs', () => {
  test('are told of a copy while there is no entry, with the page table lock held (LT-24)', () => {
    const world = new ListWorld();
    const { cpu, mm } = world;
    mapPages(cpu, mm, 0, 2);
    for (const page of [0, 1]) assert.equal(storeWord(cpu, mm, pageVa(page), 7), 0);
    assert.notEqual(dupMm(cpu, mm), NULL);
    world.register('tlb', secondaryOps);
    const seen: unknown[] = [];
    secondary.onFlush = (at, start, end) => {
      const { entry } = cpuEntry(at, mm, pageVa(1));
      seen.push([(start - pageVa(0)) / PAGE_SIZE, (end - pageVa(0)) / PAGE_SIZE, entry]);
      assert.ok(at.preemptCount > 0, 'a spinlock is held');
    };
    assert.equal(storeWord(cpu, mm, pageVa(1), 8), 0);
    assert.deepEqual(seen, [[1, 2, 0]]);
    assert.deepEqual(world.takeHeard(), ['tlb flush']);
  });

  test('are told of what is unmapped before it is freed', () => {
    const world = new ListWorld();
    const { cpu, mm } = world;
    mapPages(cpu, mm, 0, 1);
    assert.equal(storeWord(cpu, mm, pageVa(0), 7), 0);
    const notifier = world.register('tlb', secondaryOps);
    const rss: number[] = [];
    secondary.onFlush = (at) => rss.push(read(at, mm, MmStruct.rss));
    assert.equal(munmap(cpu, mm, pageVa(0), PAGE_SIZE), 0);
    assert.deepEqual(rss, [1], 'the frame is still counted');
    mmuNotifierUnregister(cpu, notifier, mm);
    kfree(cpu, MmuNotifier, notifier);
  });
});
