/**
 * Interval notifiers with who does what when laid down: who sleeps, who wakes, and what each one sees.
 * LT-n are the litmus tests of the protocol.
 *
 * @module
 */
import assert from 'node:assert/strict';
import { after, before, beforeEach, describe, test } from 'node:test';

import { read, readOnce, writeOnce } from '#memory';

import { EAGAIN, EBUSY, EFAULT } from '../../src/base/errno.js';
import { HMM_PFN_REQ_FAULT, HMM_PFN_VALID, HmmPfn, HmmRange } from '../../src/hmm/types.js';
import type { Cpu } from '../../src/machine/cpu.js';
import { pageOf } from '../../src/machine/page-alloc.js';
import { Page } from '../../src/machine/types.js';
import { member } from '../../src/memory/layout.js';
import { storeWord } from '../../src/mm/access.js';
import { mmput } from '../../src/mm/exit.js';
import { ptePfn } from '../../src/mm/pte.js';
import { MmStruct } from '../../src/mm/types.js';
import { MmuIntervalNotifier } from '../../src/notifier/types.js';
import { mutexTrylock, mutexUnlock } from '../../src/sync/mutex.js';
import { insertTiny, TinyDriver } from '../programs/hmm-steps.js';
import { cpuEntry, mapPages, pageVa } from '../support/address-space.js';
import { HmmPuppets } from '../support/hmm-puppets.js';
import type { Call } from '../support/puppets.js';

/** CPUs, by the part they play. */
const INVALIDATOR = 0;
const FAULTER = 1;
const OTHER = 2;
const THIRD = 3;

let puppets: HmmPuppets;
let here: Cpu;
before(() => {
  puppets = new HmmPuppets(4);
  ({ here } = puppets);
});
beforeEach(() => {
  puppets.newSpace();
});
after(() => puppets.stop());

const interval = (driver: TinyDriver): MmuIntervalNotifier => member(driver, TinyDriver.interval);
const lockOf = (driver: TinyDriver): number => member(driver, TinyDriver.lock);
const seqOf = (driver: TinyDriver): number =>
  readOnce(here, interval(driver), MmuIntervalNotifier.invalidateSeq);
const callsOf = (driver: TinyDriver): number => readOnce(here, driver, TinyDriver.calls);
const isMapped = (driver: TinyDriver): boolean => readOnce(here, driver, TinyDriver.mapped) !== 0;
const inTree = (driver: TinyDriver): boolean =>
  read(here, interval(driver), MmuIntervalNotifier.inTree) !== 0;

/** A CPU is told, and blocks. */
async function blocks(id: number, ...call: Parameters<Puppet>): Promise<Call> {
  const started = puppets.start(id, ...call);
  await started.blocked();
  return started;
}
type Puppet = HmmPuppets['start'] extends (id: number, ...rest: infer R) => Call
  ? (...rest: R) => void
  : never;

const begin = (id: number, driver: TinyDriver): Promise<number> =>
  puppets.call(id, 'mmuIntervalReadBegin', interval(driver));
const start = (id: number, range: number): Promise<number> =>
  puppets.call(id, 'mmuNotifierInvalidateRangeStart', range);
const end = (id: number, range: number): Promise<number> =>
  puppets.call(id, 'mmuNotifierInvalidateRangeEnd', range);
const retry = (id: number, driver: TinyDriver, seq: number): Promise<number> =>
  puppets.call(id, 'mmuIntervalReadRetry', interval(driver), seq);

/** Four pages with something in each, and four without. */
function fillPages(): void {
  mapPages(here, puppets.mm, 0, 8);
  for (let page = 0; page < 4; page++) {
    assert.equal(storeWord(here, puppets.mm, pageVa(page), 100 + page), 0);
  }
}

/** The frame that the CPUs have for page 0; 0 if none. */
const cpuFrame = (): number => ptePfn(cpuEntry(here, puppets.mm, pageVa(0)).entry);

/** begin, and hmm_range_fault of page 0: its result, and the sequence. */
async function lookUp(driver: TinyDriver, range: HmmRange): Promise<[number, number]> {
  const seq = await begin(FAULTER, driver);
  return [await faultAt(range, seq), seq];
}

async function faultAt(range: HmmRange, seq: number): Promise<number> {
  writeOnce(here, range, HmmRange.notifierSeq, seq);
  await puppets.call(FAULTER, 'mmapReadLock', puppets.mm);
  const result = await puppets.call(FAULTER, 'hmmRangeFault', range);
  await puppets.call(FAULTER, 'mmapReadUnlock', puppets.mm);
  return result;
}

/** The frame that hmm_range_fault said page 0 has. */
function frameFound(range: HmmRange): number {
  const entry = read(here, read(here, range, HmmRange.pfns) as HmmPfn, HmmPfn.entry);
  assert.notEqual(entry & HMM_PFN_VALID, 0);
  return ptePfn(entry);
}

describe('a fault against an invalidation', () => {
  let driver: TinyDriver;
  let hmm: HmmRange;
  let range: number;
  beforeEach(() => {
    fillPages();
    driver = puppets.tiny(0, 4);
    hmm = puppets.hmmRange(interval(driver), 0, 1, HMM_PFN_REQ_FAULT);
    range = puppets.range(0, 1);
  });

  test('the callback comes first: the fault is told to try again (LT-3)', async () => {
    const old = cpuFrame();
    const [result, seq] = await lookUp(driver, hmm);
    assert.equal(result, 0);
    assert.equal(frameFound(hmm), old);
    await start(INVALIDATOR, range);
    await puppets.call(FAULTER, 'mutexLock', lockOf(driver));
    assert.equal(await retry(FAULTER, driver, seq), 1);
    await puppets.call(FAULTER, 'mutexUnlock', lockOf(driver));
    assert.equal(await faultAt(hmm, seq), -EBUSY, 'hmm_range_fault sees it, too');
    const again = await blocks(FAULTER, 'mmuIntervalReadBegin', interval(driver));
    await puppets.call(INVALIDATOR, 'clearPages', range);
    await end(INVALIDATOR, range);
    const next = await again.done;
    assert.equal(await faultAt(hmm, next), 0);
    assert.equal(frameFound(hmm), cpuFrame());
    assert.equal(await retry(FAULTER, driver, next), 0);
    puppets.assertIdle();
  });

  test('the fault comes first: the callback waits, and undoes it (LT-4, INV-20)', async () => {
    const old = cpuFrame();
    const [result, seq] = await lookUp(driver, hmm);
    assert.equal(result, 0);
    await puppets.call(FAULTER, 'mutexLock', lockOf(driver));
    assert.equal(await retry(FAULTER, driver, seq), 0);
    const drop = await blocks(INVALIDATOR, 'dropRange', range);
    assert.equal(puppets.waitOf(INVALIDATOR), 'mutex');
    assert.equal(puppets.state[0] & 1, 1);
    assert.equal(await retry(FAULTER, driver, seq), 0, 'it is not too late');
    writeOnce(here, driver, TinyDriver.mapped, 1);
    assert.equal(cpuFrame(), old, 'the page is there as long as the driver has its lock');
    await puppets.call(FAULTER, 'mutexUnlock', lockOf(driver));
    assert.equal(await drop.done, 0);
    assert.equal(isMapped(driver), false);
    assert.equal(cpuFrame(), 0);
    puppets.assertIdle();
  });

  test('begun while the invalidation is under way: it waits for the end (LT-5, M-4)', async () => {
    const old = cpuFrame();
    await start(INVALIDATOR, range);
    const begun = await blocks(FAULTER, 'mmuIntervalReadBegin', interval(driver));
    assert.equal(puppets.waitOf(FAULTER), 'end of');
    await puppets.call(INVALIDATOR, 'clearPages', range);
    assert.ok(puppets.isBlocked(FAULTER), 'the page table has changed, but it is not over');
    await end(INVALIDATOR, range);
    const seq = await begun.done;
    assert.equal(seq, seqOf(driver), 'the sequence from before it slept');
    assert.equal(await faultAt(hmm, seq), 0);
    assert.notEqual(frameFound(hmm), old);
    assert.equal(await retry(FAULTER, driver, seq), 0);
    puppets.assertIdle();
  });

  test('an invalidation wholly between begin and retry is seen (LT-6)', async () => {
    const [result, seq] = await lookUp(driver, hmm);
    assert.equal(result, 0);
    const found = frameFound(hmm);
    const generation = readOnce(here, pageOf(here, found), Page.generation);
    assert.equal(await puppets.call(INVALIDATOR, 'dropRange', range), 0);
    puppets.assertIdle();
    assert.notEqual(readOnce(here, pageOf(here, found), Page.generation), generation);
    assert.equal(await retry(FAULTER, driver, seq), 1);
  });

  test('the device has let go of the page when start returns, not only at the end (LT-18, M-16)', async () => {
    const old = cpuFrame();
    const generation = readOnce(here, pageOf(here, old), Page.generation);
    writeOnce(here, driver, TinyDriver.mapped, 1);
    await start(INVALIDATOR, range);
    assert.equal(isMapped(driver), false);
    assert.equal(cpuFrame(), old);
    await puppets.call(INVALIDATOR, 'clearPages', range);
    assert.equal(callsOf(driver), 1);
    assert.notEqual(readOnce(here, pageOf(here, old), Page.generation), generation, 'it is free');
    await end(INVALIDATOR, range);
    assert.equal(callsOf(driver), 1, 'there is nothing left for the end to do');
  });

  test('munmap waits with the lock that keeps others from finding the VMA (LT-4)', async () => {
    writeOnce(here, driver, TinyDriver.mapped, 1);
    assert.ok(mutexTrylock(here, member(driver, TinyDriver.lock)));
    const unmap = await blocks(INVALIDATOR, 'unmapRange', puppets.range(0, 8));
    assert.equal(await puppets.call(OTHER, 'loadFirst', puppets.range(5, 1)), -EFAULT);
    assert.equal(await puppets.call(OTHER, 'loadFirst', puppets.range(1, 1)), 101, 'not yet gone');
    assert.notEqual(cpuFrame(), 0);
    assert.equal(isMapped(driver), true);
    mutexUnlock(here, member(driver, TinyDriver.lock));
    assert.equal(await unmap.done, 0);
    assert.equal(isMapped(driver), false);
    assert.equal(cpuFrame(), 0);
  });
});

describe('begin', () => {
  test('waits for no invalidation that has not been through the callback', async () => {
    const driver = puppets.tiny(0, 4);
    assert.ok(mutexTrylock(here, member(driver, TinyDriver.lock)));
    const invalidation = await blocks(
      INVALIDATOR,
      'mmuNotifierInvalidateRangeStart',
      puppets.range(0, 1),
    );
    assert.equal(puppets.state[0], 3);
    const seq = await begin(FAULTER, driver);
    assert.equal(seq, 1);
    mutexUnlock(here, member(driver, TinyDriver.lock));
    await invalidation.done;
    assert.equal(await retry(FAULTER, driver, seq), 1);
    await end(INVALIDATOR, puppets.range(0, 1));
  });

  test('wakes at the end of the last of several, and all who wait do (M-6)', async () => {
    const [driver, other] = [puppets.tiny(0, 1), puppets.tiny(4, 1)];
    const [outer, inner] = [puppets.range(0, 1), puppets.range(4, 1)];
    await start(INVALIDATOR, outer);
    await start(INVALIDATOR, inner);
    const begun = [
      await blocks(FAULTER, 'mmuIntervalReadBegin', interval(driver)),
      await blocks(OTHER, 'mmuIntervalReadBegin', interval(other)),
      await blocks(THIRD, 'mmuIntervalReadBegin', interval(driver)),
    ];
    await end(INVALIDATOR, outer);
    for (const id of [FAULTER, OTHER, THIRD]) assert.ok(puppets.isBlocked(id));
    await end(INVALIDATOR, inner);
    assert.deepEqual(await Promise.all(begun.map(({ done }) => done)), [3, 3, 3]);
    puppets.assertIdle();
  });

  test('does not wait twice: a collision that follows is left to retry', async () => {
    const driver = puppets.tiny(0, 1);
    const range = puppets.range(0, 1);
    for (let round = 0; round < 30; round++) {
      await start(INVALIDATOR, range);
      const begun = await blocks(FAULTER, 'mmuIntervalReadBegin', interval(driver));
      const before = seqOf(driver);
      await end(INVALIDATOR, range);
      await start(INVALIDATOR, range);
      const seq = await begun.done;
      assert.equal(seq, before);
      assert.equal(await retry(FAULTER, driver, seq), 1);
      await end(INVALIDATOR, range);
    }
    puppets.assertIdle();
  });

  test('of an interval that was put off waits, as if it had been hit', async () => {
    puppets.tiny(0, 1);
    const range = puppets.range(0, 1);
    await start(INVALIDATOR, range);
    const late = puppets.tiny(8, 1);
    const begun = await blocks(FAULTER, 'mmuIntervalReadBegin', interval(late));
    await end(INVALIDATOR, range);
    assert.equal(await begun.done, 3);
    assert.equal(await retry(FAULTER, late, 3), 0);
  });
});

describe('insert and remove while the tree is frozen (LT-17)', () => {
  test('are put off until the end; who inserts goes on, who removes waits', async () => {
    const x = puppets.tiny(0, 1);
    const range = puppets.range(0, 1);
    const count = (): number => readOnce(here, puppets.mm, MmStruct.count);
    await start(INVALIDATOR, range);
    const y = puppets.tiny(1, 1, false);
    assert.equal(await puppets.call(OTHER, 'insertTiny', y, puppets.mm), 0);
    await puppets.call(THIRD, 'mmuIntervalNotifierRemove', interval(y));
    const y2 = puppets.tiny(1, 1, false);
    assert.equal(await puppets.call(OTHER, 'insertTiny', y2, puppets.mm), 0);
    const removal = await blocks(THIRD, 'mmuIntervalNotifierRemove', interval(x));
    assert.deepEqual([x, y, y2].map(inTree), [true, false, false]);
    assert.equal(count(), 3, 'x, y2 and the users');
    await end(INVALIDATOR, range);
    await removal.done;
    assert.deepEqual([x, y, y2].map(inTree), [false, false, true]);
    assert.equal(count(), 2);
    puppets.assertIdle();
    const calls = callsOf(x);
    const wide = puppets.range(0, 4);
    await start(INVALIDATOR, wide);
    await end(INVALIDATOR, wide);
    assert.deepEqual([callsOf(x), callsOf(y), callsOf(y2)], [calls, 0, 1], 'INV-22');
  });

  test('last as long as any of several invalidations does', async () => {
    const x = puppets.tiny(0, 1);
    const [outer, inner] = [puppets.range(0, 1), puppets.range(50, 1)];
    await start(INVALIDATOR, outer);
    await start(OTHER, inner);
    const y = puppets.tiny(50, 1);
    const removal = await blocks(THIRD, 'mmuIntervalNotifierRemove', interval(x));
    await end(INVALIDATOR, outer);
    assert.ok(puppets.isBlocked(THIRD), 'M-6');
    assert.deepEqual([inTree(x), inTree(y)], [true, false]);
    await start(INVALIDATOR, outer);
    assert.equal(callsOf(x), 2, 'who is being removed is still called');
    await end(OTHER, inner);
    assert.ok(puppets.isBlocked(THIRD));
    await end(INVALIDATOR, outer);
    await removal.done;
    assert.deepEqual([inTree(x), inTree(y)], [false, true]);
    assert.equal(callsOf(y), 0);
    puppets.assertIdle();
  });

  test('several removals wake together, in the order of nobody', async () => {
    const drivers = [0, 1, 2].map((page) => puppets.tiny(page, 1));
    const range = puppets.range(0, 3);
    await start(INVALIDATOR, range);
    const removals = [
      await blocks(FAULTER, 'mmuIntervalNotifierRemove', interval(drivers[0]!)),
      await blocks(OTHER, 'mmuIntervalNotifierRemove', interval(drivers[1]!)),
      await blocks(THIRD, 'mmuIntervalNotifierRemove', interval(drivers[2]!)),
    ];
    await end(INVALIDATOR, range);
    await Promise.all(removals.map(({ done }) => done));
    puppets.assertIdle();
    assert.equal(readOnce(here, puppets.mm, MmStruct.count), 1);
    mmput(here, puppets.mm); // with an interval left, this would be a bug
  });

  test('a removal waits for a callback that runs (INV-22)', async () => {
    const driver = puppets.tiny(0, 1);
    const range = puppets.range(0, 1);
    assert.ok(mutexTrylock(here, member(driver, TinyDriver.lock)));
    const invalidation = await blocks(INVALIDATOR, 'mmuNotifierInvalidateRangeStart', range);
    const removal = await blocks(OTHER, 'mmuIntervalNotifierRemove', interval(driver));
    mutexUnlock(here, member(driver, TinyDriver.lock));
    await invalidation.done;
    assert.equal(callsOf(driver), 1);
    assert.ok(puppets.isBlocked(OTHER));
    await end(INVALIDATOR, range);
    await removal.done;
    assert.equal(inTree(driver), false);
  });

  test('inserts come into a tree that is whole, in whatever order they were put off', async () => {
    puppets.tiny(0, 1);
    const range = puppets.range(0, 1);
    await start(INVALIDATOR, range);
    const late = Array.from({ length: 40 }, (_, i) => puppets.tiny((i * 7) % 40, 1));
    await end(INVALIDATOR, range);
    const wide = puppets.range(0, 64);
    await start(INVALIDATOR, wide);
    await end(INVALIDATOR, wide);
    assert.deepEqual(late.map(callsOf), Array(40).fill(1));
  });
});

describe('one that may not block', () => {
  test('is refused while the driver holds its lock, and waits for nobody', async () => {
    const [free, busy] = [puppets.tiny(0, 1), puppets.tiny(1, 1)];
    const range = puppets.range(0, 2);
    await puppets.call(FAULTER, 'mutexLock', lockOf(busy));
    const nonblock = 'mmuNotifierInvalidateRangeStartNonblock';
    assert.equal(await puppets.call(INVALIDATOR, nonblock, range), -EAGAIN);
    assert.deepEqual([callsOf(free), callsOf(busy)], [1, 0]);
    puppets.assertIdle();
    await puppets.call(FAULTER, 'mutexUnlock', lockOf(busy));
    assert.equal(await puppets.call(INVALIDATOR, nonblock, range), 0);
    await end(INVALIDATOR, range);
    assert.deepEqual([callsOf(free), callsOf(busy)], [2, 1]);
  });

  test('if refused, wakes who had begun to wait for it', async () => {
    const [free, busy] = [puppets.tiny(0, 1), puppets.tiny(1, 1)];
    const outer = puppets.range(0, 1);
    await start(OTHER, outer);
    const begun = await blocks(FAULTER, 'mmuIntervalReadBegin', interval(free));
    assert.ok(mutexTrylock(here, member(busy, TinyDriver.lock)));
    const nonblock = 'mmuNotifierInvalidateRangeStartNonblock';
    assert.equal(await puppets.call(INVALIDATOR, nonblock, puppets.range(0, 2)), -EAGAIN);
    assert.ok(puppets.isBlocked(FAULTER), 'the other one is under way');
    await end(OTHER, outer);
    await begun.done;
    mutexUnlock(here, member(busy, TinyDriver.lock));
    puppets.assertIdle();
  });
});

describe('the end of an address space', () => {
  test('is told while faults wait, and a removal beside it waits for it', async () => {
    fillPages();
    const driver = puppets.tiny(0, 4);
    writeOnce(here, driver, TinyDriver.mapped, 1);
    assert.ok(mutexTrylock(here, member(driver, TinyDriver.lock)));
    const exit = await blocks(INVALIDATOR, 'mmput', puppets.mm);
    const removal = await blocks(OTHER, 'mmuIntervalNotifierRemove', interval(driver));
    mutexUnlock(here, member(driver, TinyDriver.lock));
    await Promise.all([exit.done, removal.done]);
    assert.equal(isMapped(driver), false);
    assert.ok(callsOf(driver) >= 1);
    assert.equal(insertTiny(here, puppets.tiny(0, 1, false), puppets.newSpace()), 0);
  });
});
