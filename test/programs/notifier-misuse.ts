/**
 * Deliberate violations of the notifier protocol, each on a machine of its own: a process of the checked build
 * (`--conditions=faultline-checked`) that prints, as JSON, what was reported of each.
 *
 * @module
 */
import { pathToFileURL } from 'node:url';

import { write, writeAddress } from '#memory';

import { KernelBug } from '../../src/base/bug.js';
import { EAGAIN } from '../../src/base/errno.js';
import { PAGE_SIZE } from '../../src/base/units.js';
import { hmmRangeFault } from '../../src/hmm/range-fault.js';
import { HMM_PFN_REQ_FAULT, HmmPfn, HmmRange } from '../../src/hmm/types.js';
import type { Cpu } from '../../src/machine/cpu.js';
import { lockClass } from '../../src/machine/lock-class.js';
import { lockReportTexts } from '../../src/machine/lock-report.js';
import { defineOps } from '../../src/machine/ops-table.js';
import { scheduleTimeoutUninterruptible } from '../../src/machine/sched.js';
import { allocWords, kfree, kzalloc } from '../../src/machine/slab.js';
import { struct, word } from '../../src/memory/layout.js';
import { storeWord } from '../../src/mm/access.js';
import { madvise } from '../../src/mm/madvise.js';
import { mmapReadLock, mmapReadUnlock } from '../../src/mm/mmap-lock.js';
import { MADV_DONTNEED } from '../../src/mm/uapi.js';
import {
  mmuIntervalNotifierInsert,
  mmuIntervalNotifierRemove,
  mmuIntervalReadBegin,
  mmuIntervalReadRetry,
  mmuIntervalSetSeq,
} from '../../src/notifier/mmu-interval-notifier.js';
import { mmuNotifierRegister } from '../../src/notifier/mmu-notifier-register.js';
import {
  MmuIntervalNotifier,
  MmuNotifier,
  type MmuNotifierRange,
} from '../../src/notifier/types.js';
import { oomReapTaskMm } from '../../src/process/oom-reaper.js';
import { initMutex, Mutex, mutexLock, mutexUnlock } from '../../src/sync/mutex.js';
import { bootSpace, mapPages, pageVa, type Space } from '../support/address-space.js';

const PAGES = 4;
const USER_LOCK = lockClass('ulock');
const Note = struct('misuse_note', { value: word });

/** What the callback does besides its work; false refuses. One case runs at a time. */
let inCallback: (cpu: Cpu) => boolean = () => true;
let userLock = 0 as Mutex;

export const misuser = defineOps({
  opsName: 'misuser',
  invalidate(cpu: Cpu, interval: MmuIntervalNotifier, _range: MmuNotifierRange, seq: number) {
    mutexLock(cpu, userLock);
    mmuIntervalSetSeq(cpu, interval, seq);
    mutexUnlock(cpu, userLock);
    return inCallback(cpu);
  },
});

/** A notifier of the list that sleeps although it may not, or refuses although it may. */
const listener = defineOps({
  opsName: 'listener',
  invalidateRangeStart: (cpu: Cpu) => (inCallback(cpu) ? 0 : -EAGAIN),
  invalidateRangeEnd: () => undefined,
});

class World {
  readonly space: Space = bootSpace([{ misuser, listener }]);
  readonly cpu = this.space.cpu;
  readonly interval = this.newInterval();
  readonly #range = kzalloc(this.cpu, HmmRange);

  constructor() {
    const { cpu, mm } = this.space;
    inCallback = () => true;
    userLock = kzalloc(cpu, Mutex);
    initMutex(cpu, userLock, USER_LOCK);
    mapPages(cpu, mm, 0, PAGES);
    this.insert(this.interval, 0);
    write(cpu, this.#range, HmmRange.pfns, allocWords(cpu, PAGES * HmmPfn.words));
  }

  newInterval(): MmuIntervalNotifier {
    return kzalloc(this.cpu, MmuIntervalNotifier);
  }

  insert(interval: MmuIntervalNotifier, page: number): void {
    const start = pageVa(page);
    mmuIntervalNotifierInsert(this.cpu, interval, this.space.mm, start, PAGES * PAGE_SIZE, misuser);
  }

  /** Only the list's notifier is told of what follows. */
  listen(): void {
    const { cpu, interval, space } = this;
    mmuIntervalNotifierRemove(cpu, interval);
    mmuNotifierRegister(cpu, kzalloc(cpu, MmuNotifier), space.mm, listener);
  }

  touch(): void {
    storeWord(this.cpu, this.space.mm, pageVa(0), 1);
  }

  /** Calls the callback. */
  invalidate(): void {
    this.touch();
    madvise(this.cpu, this.space.mm, pageVa(0), PAGES * PAGE_SIZE, MADV_DONTNEED);
  }

  /** One look at the range, with the mmap lock unless it is said to be missing. */
  fault(seq: number, hasLock = true): void {
    const { cpu } = this;
    const range = this.#range;
    write(cpu, range, HmmRange.notifier, this.interval);
    write(cpu, range, HmmRange.notifierSeq, seq);
    writeAddress(cpu, range, HmmRange.start, pageVa(0));
    writeAddress(cpu, range, HmmRange.end, pageVa(PAGES));
    write(cpu, range, HmmRange.defaultFlags, HMM_PFN_REQ_FAULT);
    if (hasLock) mmapReadLock(cpu, this.space.mm);
    hmmRangeFault(cpu, range);
    if (hasLock) mmapReadUnlock(cpu, this.space.mm);
  }

  /** The documented protocol. */
  mirror(): void {
    const { cpu } = this;
    const seq = mmuIntervalReadBegin(cpu, this.interval);
    this.fault(seq);
    mutexLock(cpu, userLock);
    mmuIntervalReadRetry(cpu, this.interval, seq);
    mutexUnlock(cpu, userLock);
  }
}

/** Each violation, by the name it has in the recording. */
const CASES: Readonly<Record<string, (world: World) => void>> = {
  control: (world) => {
    world.mirror();
    world.invalidate();
    world.mirror();
    mmuIntervalNotifierRemove(world.cpu, world.interval);
  },
  'read-begin-in-callback': (world) => {
    const other = world.newInterval();
    world.insert(other, 100);
    inCallback = (cpu) => {
      mmuIntervalReadBegin(cpu, other);
      return true;
    };
    world.invalidate();
  },
  'gfp-kernel-in-callback': (world) => {
    inCallback = (cpu) => {
      kfree(cpu, Note, kzalloc(cpu, Note));
      return true;
    };
    world.invalidate();
  },
  'mmap-lock-in-callback': (world) => {
    inCallback = (cpu) => {
      mmapReadLock(cpu, world.space.mm);
      mmapReadUnlock(cpu, world.space.mm);
      return true;
    };
    world.invalidate();
  },
  'user-lock-over-fault': (world) => {
    world.invalidate();
    mutexLock(world.cpu, userLock);
    world.fault(mmuIntervalReadBegin(world.cpu, world.interval));
    mutexUnlock(world.cpu, userLock);
  },
  'fault-without-mmap-lock': (world) => {
    world.fault(mmuIntervalReadBegin(world.cpu, world.interval), false);
  },
  'blockable-callback-fails': (world) => {
    inCallback = () => false;
    world.invalidate();
  },
  'insert-under-mmap-lock': (world) => {
    const other = world.newInterval();
    mmapReadLock(world.cpu, world.space.mm);
    world.insert(other, 100);
    mmapReadUnlock(world.cpu, world.space.mm);
  },
  'remove-in-callback': (world) => {
    const other = world.newInterval();
    inCallback = (cpu) => {
      world.insert(other, 100);
      mmuIntervalNotifierRemove(cpu, other);
      return true;
    };
    world.invalidate();
  },
  'sleep-in-nonblockable': (world) => {
    const { cpu, space } = world;
    world.listen();
    world.touch();
    inCallback = () => {
      scheduleTimeoutUninterruptible(cpu, 1);
      return true;
    };
    oomReapTaskMm(cpu, space.mm);
  },
  'list-start-fails': (world) => {
    world.listen();
    inCallback = () => false;
    world.invalidate();
  },
  'alloc-under-user-lock': (world) => {
    world.invalidate();
    mutexLock(world.cpu, userLock);
    kfree(world.cpu, Note, kzalloc(world.cpu, Note));
    mutexUnlock(world.cpu, userLock);
  },
};

/** The violations that can be committed here. */
export const MISUSES: ReadonlySet<string> = new Set(Object.keys(CASES));

/** What was reported of one. */
export interface MisuseSeen {
  readonly reports: readonly string[];
  /** What the CPU died of. */
  readonly bug: string | null;
}

function commit(run: (world: World) => void): MisuseSeen {
  const world = new World();
  try {
    run(world);
  } catch (error) {
    if (!(error instanceof KernelBug)) throw error;
    return { reports: lockReportTexts(world.cpu), bug: error.message };
  }
  return { reports: lockReportTexts(world.cpu), bug: null };
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  const seen = Object.entries(CASES).map(([name, run]) => [name, commit(run)]);
  console.log(JSON.stringify(Object.fromEntries(seen)));
}
