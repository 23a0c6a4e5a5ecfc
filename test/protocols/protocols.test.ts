/**
 * The protocols by which a driver mirrors an address space, step by step on one thread: what each promises, and
 * what is wrong with those that are unsafe.
 *
 * @module
 */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';

import { read } from '#memory';

import { EAGAIN, EFAULT, ENOMEM } from '../../src/base/errno.js';
import { PAGE_SIZE } from '../../src/base/units.js';
import { closeContext, openContext } from '../../src/drivers/svm/device.js';
import { svmDriverOver } from '../../src/drivers/svm/mirror-driver.js';
import { SvmContext } from '../../src/drivers/svm/types.js';
import type { Cpu } from '../../src/machine/cpu.js';
import { defineKernelOps } from '../../src/machine/ops-table.js';
import { allocatedObjects } from '../../src/machine/slab.js';
import { stackPop, stackPush } from '../../src/machine/stack.js';
import { member, NULL } from '../../src/memory/layout.js';
import { mmput } from '../../src/mm/exit.js';
import { madvise } from '../../src/mm/madvise.js';
import { mmAlloc } from '../../src/mm/mm-struct.js';
import { MmStruct } from '../../src/mm/types.js';
import { MADV_DONTNEED } from '../../src/mm/uapi.js';
import { LIST_UNPAIRED, setListForm } from '../../src/notifier/boot.js';
import { mmdrop, mmgrab } from '../../src/notifier/mm-count.js';
import {
  mmuNotifierInvalidateRangeEnd,
  mmuNotifierInvalidateRangeStart,
  mmuNotifierInvalidateRangeStartNonblock,
} from '../../src/notifier/mmu-notifier.js';
import { MMU_NOTIFY_CLEAR, mmuNotifierRangeInit } from '../../src/notifier/mmu-notifier-range.js';
import { MmuNotifierRange } from '../../src/notifier/types.js';
import {
  createMirror,
  freeMirror,
  initRange,
  type MirrorOps,
  type MirrorProtocol,
  protocolOf,
} from '../../src/protocols/protocol.js';
import { PROTOCOLS } from '../../src/protocols/registry.js';
import { Mirror, MirrorRange, MirrorSpace } from '../../src/protocols/types.js';
import { mutexLock, mutexUnlock } from '../../src/sync/mutex.js';
import { walkFailures } from '../../src/workloads/failure-walk.js';
import { bootSpace, mapPages, pageVa } from '../support/address-space.js';
import { SvmWorld } from '../support/svm-world.js';

/** A world with a device over the protocol. */
function worldOver(name: string): { world: SvmWorld; context: SvmContext } {
  const world = new SvmWorld();
  mapPages(world.cpu, world.mm, 0, 8);
  return { world, context: world.open(world.newDevice(svmDriverOver(name))) };
}

/** An invalidation of page 0 of an address space, with something in its middle. */
function invalidate(cpu: Cpu, mm: MmStruct, inside: () => void = () => undefined): void {
  const range = stackPush(cpu, MmuNotifierRange);
  mmuNotifierRangeInit(cpu, range, MMU_NOTIFY_CLEAR, mm, pageVa(0), pageVa(1));
  mmuNotifierInvalidateRangeStart(cpu, range);
  inside();
  mmuNotifierInvalidateRangeEnd(cpu, range);
  stackPop(cpu, range);
}

/** What is left of mirrors and what they share. */
function leftovers(cpu: Cpu): number {
  return allocatedObjects(cpu, Mirror) + allocatedObjects(cpu, MirrorSpace);
}

for (const { name } of PROTOCOLS) {
  describe(`over ${name}, a device`, () => {
    test('finds what the program stores, and loses it when it is invalidated', () => {
      const { world, context } = worldOver(name);
      world.store(0, 7);
      assert.equal(world.access(context, 0), 0);
      assert.equal(world.loaded, 7);
      assert.ok(world.reaches(context, 0));
      madvise(world.cpu, world.mm, pageVa(0), PAGE_SIZE, MADV_DONTNEED);
      assert.equal(world.reaches(context, 0), false);
      assert.equal(world.access(context, 0), 0);
      assert.equal(world.loaded, 0);
      assert.equal(world.totals.staleAccesses, 0);
      assert.ok(world.totals.invalidations > 0);
    });

    test('shares the address space with another, and either may go first', () => {
      const { world, context } = worldOver(name);
      const other = world.open(world.newDevice(svmDriverOver(name)));
      world.store(0, 1);
      for (const one of [context, other]) assert.equal(world.access(one, 0), 0);
      invalidate(world.cpu, world.mm);
      for (const one of [context, other]) assert.equal(world.reaches(one, 0), false);
      assert.equal(world.access(other, 0), 0);
      world.close(context);
      invalidate(world.cpu, world.mm);
      assert.equal(world.reaches(other, 0), false, 'the other is told still (M-1)');
      world.close(other);
      assert.equal(leftovers(world.cpu), 0);
      assert.equal(read(world.cpu, world.mm, MmStruct.mirrorSpace), NULL);
      const third = world.open(world.newDevice(svmDriverOver(name)));
      assert.equal(world.access(third, 0), 0, 'and it may begin again');
    });

    test('has nothing when the address space has ended, and is closed afterwards', () => {
      const { world, context } = worldOver(name);
      assert.equal(world.access(context, 0), 0);
      mmput(world.cpu, world.mm);
      assert.equal(world.reaches(context, 0), false);
      assert.equal(world.access(context, 0), -EFAULT);
      world.close(context);
      assert.equal(leftovers(world.cpu), 0);
      assert.equal(allocatedObjects(world.cpu, MmStruct), 0, 'INV-13');
    });
  });
}

describe('whatever fails while an address space is mirrored, it is mirrored or it is not (INV-34)', () => {
  for (const { name } of PROTOCOLS) {
    test(name, () => {
      const world = new SvmWorld();
      const { cpu } = world;
      mapPages(cpu, world.mm, 0, 1);
      const device = world.newDevice(svmDriverOver(name));
      let mm: MmStruct = NULL;
      let context: SvmContext = NULL;
      const failures = walkFailures(cpu, {
        attempt: () => {
          mm = mmAlloc(cpu);
          if (mm === NULL) return -ENOMEM;
          context = openContext(cpu, device, mm);
          if (context !== NULL) return 0;
          mmput(cpu, mm);
          return -ENOMEM;
        },
        undo: () => {
          closeContext(cpu, context);
          mmput(cpu, mm);
        },
        settle: () => {
          const again = world.open(device);
          assert.equal(world.access(again, 0), 0, 'the next one is');
          world.close(again);
        },
      });
      const sites = failures.map(({ site }) => site);
      const needed = ['kzalloc mmu_notifier_subscriptions', 'kzalloc hmm_mirror'];
      assert.deepEqual(
        needed.filter((site) => !sites.includes(site)),
        [],
        sites.join(),
      );
      assert.deepEqual(
        failures.filter(({ left, result }) => left !== '' || result !== '-ENOMEM'),
        [],
      );
    });
  }
});

describe('between the start and the end of an invalidation', () => {
  const reachedInside = (name: string): boolean => {
    const { world, context } = worldOver(name);
    assert.equal(world.access(context, 0), 0);
    let isReached = false;
    invalidate(world.cpu, world.mm, () => {
      isReached = world.reaches(context, 0);
    });
    assert.equal(world.reaches(context, 0), false, 'after the end');
    return isReached;
  };
  for (const { name } of PROTOCOLS) {
    const isLate = name === 'sync-at-end';
    test(`${name}: the device ${isLate ? 'uses the page still (LT-18)' : 'has no entry'}`, () => {
      assert.equal(reachedInside(name), isLate);
    });
  }

  for (const name of ['mirrors-sem', 'pop-loop']) {
    test(`${name}: a fault that begins does not wait, and nobody takes it back (LT-5)`, () => {
      const { world, context } = worldOver(name);
      invalidate(world.cpu, world.mm, () => {
        assert.equal(world.access(context, 0), 0);
      });
      assert.ok(world.reaches(context, 0));
    });
  }
});

test('an address space is mirrored by one of the protocols with a list notifier at a time', () => {
  const { world, context } = worldOver('pop-loop');
  const other = world.newDevice(svmDriverOver('valid-flag'));
  assert.equal(openContext(world.cpu, other, world.mm), NULL);
  const interval = world.open(world.newDevice(svmDriverOver('interval')));
  assert.equal(world.access(interval, 0), 0, 'intervals are beside them');
  for (const one of [context, interval]) world.close(one);
  assert.equal(leftovers(world.cpu), 0);
});

// --- the protocols by themselves, with a driver that writes down what it is asked for ---

const log: string[] = [];
let whileSettling: (() => void) | undefined;

const nameOf = (cpu: Cpu, mirror: Mirror): string =>
  String.fromCharCode(read(cpu, mirror, Mirror.driverData));
const note = (what: string) => (cpu: Cpu, mirror: Mirror) => {
  log.push(`${what} ${nameOf(cpu, mirror)}`);
};

const recorder: MirrorOps = defineKernelOps({
  opsName: 'test recorder',
  lock(cpu: Cpu, mirror: Mirror) {
    log.push(`lock ${nameOf(cpu, mirror)}`);
    return true;
  },
  unlock: note('unlock'),
  clear: note('clear'),
  kick: note('kick'),
  settle(cpu: Cpu, mirror: Mirror) {
    log.push(`settle ${nameOf(cpu, mirror)}`);
    const now = whileSettling;
    whileSettling = undefined;
    now?.();
  },
  release: note('release'),
});

const protocolNamed = (name: string): MirrorProtocol =>
  PROTOCOLS.find((entry) => entry.name === name)!.protocol;

type Leave = (mirror: Mirror) => void;

/** Mirrors A, B, … of one address space, and what was asked of them in `work`, which may unregister some. */
function recorded(
  name: string,
  count: number,
  work: (cpu: Cpu, mm: MmStruct, mirrors: readonly Mirror[], leave: Leave) => void,
): string[] {
  const { cpu, mm } = bootSpace();
  mmgrab(cpu, mm);
  const mirrors = Array.from({ length: count }, (_, i) => {
    const mirror = createMirror(cpu, protocolNamed(name), recorder, mm, 'A'.charCodeAt(0) + i);
    assert.notEqual(mirror, NULL);
    return mirror;
  });
  const left = new Set(mirrors);
  const leave = (mirror: Mirror): void => {
    protocolOf(cpu, mirror).unregister(cpu, mirror);
    left.delete(mirror);
  };
  log.length = 0;
  work(cpu, mm, mirrors, leave);
  const seen = [...log];
  for (const mirror of mirrors) {
    if (left.has(mirror)) leave(mirror);
    freeMirror(cpu, mirror);
  }
  assert.equal(leftovers(cpu), 0);
  mmdrop(cpu, mm);
  return seen;
}

const ONE_PASS = (of: string): string[] =>
  ['lock', 'clear', 'kick', 'settle', 'unlock'].map((what) => `${what} ${of}`);
const FIRST_PASS = (of: string): string[] =>
  ['lock', 'clear', 'kick', 'unlock'].map((what) => `${what} ${of}`);

const invalidateOnce = (cpu: Cpu, mm: MmStruct): void => {
  invalidate(cpu, mm);
};

describe('devices are waited for', () => {
  for (const name of ['interval', 'list-tree', 'valid-flag']) {
    test(`${name}: one after the other`, () => {
      const seen = recorded(name, 2, invalidateOnce);
      assert.deepEqual(seen, [...ONE_PASS('A'), ...ONE_PASS('B')]);
    });
  }

  test('two-pass: when all have begun', () => {
    const seen = recorded('two-pass', 2, invalidateOnce);
    assert.deepEqual(seen.slice(0, -2), [...FIRST_PASS('A'), ...FIRST_PASS('B')]);
    assert.deepEqual(seen.slice(-2).sort(), ['settle A', 'settle B']);
  });

  test('two-pass: in the first pass by who comes while the token is in use', () => {
    const seen = recorded('two-pass', 1, (cpu, mm) => {
      whileSettling = () => {
        invalidate(cpu, mm);
      };
      invalidate(cpu, mm);
      invalidate(cpu, mm);
    });
    const twice = [...FIRST_PASS('A'), 'settle A'];
    assert.deepEqual(seen, [...twice, ...ONE_PASS('A'), ...twice]);
  });
});

/** Those over a list notifier. */
const HMM_AND_LIST = [
  ...['sync-at-end', 'mirrors-sem', 'pop-loop', 'valid-flag-5.2', 'valid-flag'],
  'list-tree',
];

describe('release', () => {
  for (const name of HMM_AND_LIST) {
    test(`${name}: every mirror once, and none that has gone`, () => {
      const seen = recorded(name, 3, (cpu, mm, [, second], leave) => {
        leave(second!);
        mmput(cpu, mm);
      });
      assert.deepEqual(
        seen.filter((line) => line.startsWith('release')),
        ['release A', 'release C'],
      );
    });
  }
});

/** A fault of page 0, in steps; `retry` is what it is told under the driver's lock. */
function fault(
  name: string,
  between: (cpu: Cpu, mm: MmStruct) => void,
): { begun: number; retry: boolean; again: number } {
  let told = { begun: 0, retry: false, again: 0 };
  recorded(name, 1, (cpu, mm, [mirror]) => {
    const protocol = protocolNamed(name);
    const range = stackPush(cpu, MirrorRange);
    initRange(cpu, range, mirror!, pageVa(0), pageVa(1));
    protocol.openRange?.(cpu, range);
    const begun = protocol.begin(cpu, range);
    between(cpu, mm);
    const retry = protocol.retry(cpu, range);
    const again = protocol.begin(cpu, range);
    told = { begun, retry, again };
    protocol.closeRange?.(cpu, range);
    stackPop(cpu, range);
  });
  return told;
}

describe('a fault that a whole invalidation passes', () => {
  for (const { name } of PROTOCOLS) {
    const isMissed = name.startsWith('valid-flag');
    test(`${name}: ${isMissed ? 'does not see it (LT-6)' : 'must begin again (INV-19)'}`, () => {
      const told = fault(name, invalidate);
      assert.deepEqual(told, { begun: 0, retry: !isMissed, again: 0 });
    });
  }

  for (const { name } of PROTOCOLS) {
    test(`${name}: does not begin again if nothing passed`, () => {
      assert.equal(fault(name, () => undefined).retry, false);
    });
  }
});

describe('a fault under way when the address space ends', () => {
  for (const name of HMM_AND_LIST) {
    test(`${name}: begins no more`, () => {
      assert.equal(fault(name, mmput).again, -EFAULT);
    });
  }
});

describe('a start that may not sleep, and would', () => {
  /** A device that has refused one, and how many invalidations are counted then. */
  const refused = (name: string): ReturnType<typeof worldOver> & { readonly counted: number } => {
    const { world, context } = worldOver(name);
    const { cpu, engineCpu, mm } = world;
    setListForm(cpu, LIST_UNPAIRED);
    const space = read(cpu, mm, MmStruct.mirrorSpace);
    const range = stackPush(cpu, MmuNotifierRange);
    mmuNotifierRangeInit(cpu, range, MMU_NOTIFY_CLEAR, mm, pageVa(0), pageVa(1));
    mutexLock(engineCpu, member(context, SvmContext.lock));
    assert.equal(mmuNotifierInvalidateRangeStartNonblock(cpu, range), -EAGAIN);
    mutexUnlock(engineCpu, member(context, SvmContext.lock));
    stackPop(cpu, range);
    return { world, context, counted: read(cpu, space, MirrorSpace.inProgress) };
  };

  test('valid-flag-5.2: stays counted, and no range is ever valid again (M-2)', () => {
    const { world, context, counted } = refused('valid-flag-5.2');
    const { cpu, mm } = world;
    assert.equal(counted, 1);
    const protocol = protocolNamed('valid-flag-5.2');
    const range = stackPush(cpu, MirrorRange);
    initRange(cpu, range, read(cpu, context, SvmContext.mirror), pageVa(0), pageVa(1));
    protocol.openRange?.(cpu, range);
    assert.ok(protocol.retry(cpu, range), 'valid at once');
    invalidate(cpu, mm);
    assert.ok(protocol.retry(cpu, range), 'valid after a whole invalidation');
    protocol.closeRange?.(cpu, range);
    stackPop(cpu, range);
  });

  for (const name of ['list-tree', 'valid-flag']) {
    test(`${name}: is counted out again`, () => {
      const { world, context, counted } = refused(name);
      assert.equal(counted, 0);
      assert.equal(world.access(context, 0), 0, 'and a fault does not wait');
    });
  }
});
