/**
 * What lockdep must see, and what it must not: each case on a machine of its own, in a process of the checked
 * build (`--conditions=faultline-checked`), which prints what was reported as JSON.
 *
 * @module
 */
import { pathToFileURL } from 'node:url';

import * as debug from '#debug';

import { KernelBug } from '../../src/base/bug.js';
import {
  LOCK_READ_RECURSIVE,
  LOCK_UNCHECKED,
  lockWaits,
  SLEEPING,
  SPINNING,
  WAIT_CONFIG,
  WAIT_FREE,
  WAIT_SPIN,
} from '../../src/debug/lock-how.js';
import { mapAcquire, mapTouch } from '../../src/debug/lockdep/lockdep.js';
import type { Cpu } from '../../src/machine/cpu.js';
import {
  GFP_ATOMIC,
  GFP_KERNEL,
  GFP_NOFS,
  GFP_NOIO,
  GFP_NOWAIT,
  memallocNoioRestore,
  memallocNoioSave,
  memallocNoreclaimRestore,
  memallocNoreclaimSave,
  mightAlloc,
} from '../../src/machine/gfp.js';
import { type LockClass, lockClass } from '../../src/machine/lock-class.js';
import { lockReportCount, lockReportTexts } from '../../src/machine/lock-report.js';
import { nonBlockEnd, nonBlockStart } from '../../src/machine/sched.js';
import { kfree, kzalloc } from '../../src/machine/slab.js';
import { warningTexts } from '../../src/machine/warn.js';
import { struct } from '../../src/memory/layout.js';
import {
  initMutex,
  Mutex,
  mutexLock,
  mutexLockNested,
  mutexLockNestLock,
  mutexTrylock,
  mutexUnlock,
} from '../../src/sync/mutex.js';
import {
  downgradeWrite,
  downRead,
  downReadNested,
  downWrite,
  downWriteTrylock,
  initRwsem,
  Rwsem,
  upRead,
  upWrite,
} from '../../src/sync/rwsem.js';
import {
  initSpinlock,
  Spinlock,
  spinLock,
  spinLockIrq,
  spinUnlock,
  spinUnlockIrq,
} from '../../src/sync/spinlock.js';
import { bootCpu, place } from '../support/machine.js';

const A = lockClass('A');
const B = lockClass('B');
const C = lockClass('C');

function newMutex(cpu: Cpu, name: LockClass): Mutex {
  const made = place(cpu, Mutex);
  initMutex(cpu, made, name);
  return made;
}

function newSem(cpu: Cpu, name: LockClass): Rwsem {
  const made = place(cpu, Rwsem);
  initRwsem(cpu, made, name);
  return made;
}

function newSpin(cpu: Cpu, name: LockClass): Spinlock {
  const made = place(cpu, Spinlock);
  initSpinlock(cpu, made, name);
  return made;
}

function nest(cpu: Cpu, outer: Mutex, inner: Mutex): void {
  mutexLock(cpu, outer);
  mutexLock(cpu, inner);
  mutexUnlock(cpu, inner);
  mutexUnlock(cpu, outer);
}

/** Two mutexes, a before b as everybody has seen. */
function ordered(cpu: Cpu): [a: Mutex, b: Mutex] {
  const a = newMutex(cpu, A);
  const b = newMutex(cpu, B);
  nest(cpu, a, b);
  return [a, b];
}

type Case = (cpu: Cpu) => void;

/** Class nesting and trying. */
const ORDERS: Readonly<Record<string, Case>> = {
  'what is tried may come out of order': (cpu) => {
    const [a, b] = ordered(cpu);
    mutexLock(cpu, b);
    if (mutexTrylock(cpu, a)) mutexUnlock(cpu, a);
    mutexUnlock(cpu, b);
  },
  'what was tried is held, and counts for what is taken next': (cpu) => {
    const [a, b] = ordered(cpu);
    if (!mutexTrylock(cpu, b)) return;
    mutexLock(cpu, a);
    mutexUnlock(cpu, a);
    mutexUnlock(cpu, b);
  },
  'under what was tried, the locks further out count too': (cpu) => {
    const [a, b] = ordered(cpu);
    const c = newSem(cpu, C);
    mutexLock(cpu, b);
    if (!downWriteTrylock(cpu, c)) return;
    mutexLock(cpu, a);
    mutexUnlock(cpu, a);
    upWrite(cpu, c);
    mutexUnlock(cpu, b);
  },
  'under a recursive read, the locks further out count too': (cpu) => {
    const [a, b] = ordered(cpu);
    mutexLock(cpu, b);
    debug.lockMapAcquireRead(cpu, C);
    mutexLock(cpu, a);
    mutexUnlock(cpu, a);
    debug.lockMapRelease(cpu, C);
    mutexUnlock(cpu, b);
  },
  'locks of one class, with a subclass': (cpu) => {
    const outer = newMutex(cpu, A);
    const inner = newMutex(cpu, A);
    mutexLock(cpu, outer);
    mutexLockNested(cpu, inner, 1);
    mutexUnlock(cpu, inner);
    mutexUnlock(cpu, outer);
  },
  'subclasses in both orders': (cpu) => {
    const outer = newSem(cpu, A);
    const inner = newSem(cpu, A);
    downRead(cpu, outer);
    downReadNested(cpu, inner, 1);
    upRead(cpu, inner);
    upRead(cpu, outer);
    downReadNested(cpu, inner, 1);
    downRead(cpu, outer);
    upRead(cpu, outer);
    upRead(cpu, inner);
  },
  'locks of one class, under a lock around all of them': (cpu) => {
    const around = newMutex(cpu, B);
    const one = newMutex(cpu, A);
    const other = newMutex(cpu, A);
    mutexLock(cpu, around);
    mutexLockNestLock(cpu, one, around);
    mutexLockNestLock(cpu, other, around);
    mutexUnlock(cpu, one);
    mutexUnlock(cpu, other);
    mutexUnlock(cpu, around);
  },
  'the lock around all of them is not held': (cpu) => {
    const around = newMutex(cpu, B);
    const one = newMutex(cpu, A);
    mutexLockNestLock(cpu, one, around);
    mutexUnlock(cpu, one);
  },
  'a path that is not taken': (cpu) => {
    const [a, b] = ordered(cpu);
    mutexLock(cpu, b);
    debug.mightLock(cpu, a, SLEEPING);
    mutexUnlock(cpu, b);
  },
  'given back in the order they were taken': (cpu) => {
    const [a, b] = ordered(cpu);
    mutexLock(cpu, a);
    mutexLock(cpu, b);
    mutexUnlock(cpu, a);
    const c = newMutex(cpu, C);
    mutexLock(cpu, c); // under b alone
    mutexUnlock(cpu, c);
    mutexUnlock(cpu, b);
    mutexLock(cpu, c);
    mutexLock(cpu, b);
  },
  'read in both orders, after a downgrade': (cpu) => {
    const sem = newSem(cpu, A);
    const b = newMutex(cpu, B);
    downWrite(cpu, sem);
    downgradeWrite(cpu, sem);
    mutexLock(cpu, b);
    mutexUnlock(cpu, b);
    upRead(cpu, sem);
    mutexLock(cpu, b);
    downRead(cpu, sem);
    upRead(cpu, sem);
    mutexUnlock(cpu, b);
  },
  'the same mistake twice': (cpu) => {
    const [a, b] = ordered(cpu);
    for (let i = 0; i < 2; i++) nest(cpu, b, a);
    nest(cpu, newMutex(cpu, B), newMutex(cpu, A));
  },
  'two mistakes': (cpu) => {
    const [a, b] = ordered(cpu);
    nest(cpu, b, a);
    const c = newMutex(cpu, C);
    nest(cpu, b, c);
    nest(cpu, c, b);
  },
};

const MAP = lockClass('domain');

/** Classes without locks, sleeping, allocation. */
const CONTEXTS: Readonly<Record<string, Case>> = {
  'a wait for readers under a lock that a reader takes': (cpu) => {
    const a = newMutex(cpu, A);
    debug.lockMapAcquireRead(cpu, MAP);
    mutexLock(cpu, a);
    mutexUnlock(cpu, a);
    debug.lockMapRelease(cpu, MAP);
    mutexLock(cpu, a);
    debug.lockMapSync(cpu, MAP);
    mutexUnlock(cpu, a);
  },
  'a wait for readers inside of a reader': (cpu) => {
    debug.lockMapAcquireRead(cpu, MAP);
    debug.lockMapSync(cpu, MAP);
    debug.lockMapRelease(cpu, MAP);
  },
  'readers inside of readers': (cpu) => {
    debug.lockMapAcquireRead(cpu, MAP);
    debug.lockMapAcquireRead(cpu, MAP);
    debug.lockMapRelease(cpu, MAP);
    debug.lockMapRelease(cpu, MAP);
    debug.lockMapSync(cpu, MAP);
  },
  'a flush under a lock that the work takes': (cpu) => {
    const a = newMutex(cpu, A);
    debug.lockMapAcquire(cpu, MAP);
    mutexLock(cpu, a);
    mutexUnlock(cpu, a);
    debug.lockMapRelease(cpu, MAP);
    mutexLock(cpu, a);
    debug.lockMapAcquire(cpu, MAP);
    debug.lockMapRelease(cpu, MAP);
    mutexUnlock(cpu, a);
  },
  'a map that is not held': (cpu) => {
    debug.lockMapAcquire(cpu, MAP);
    debug.lockMapRelease(cpu, MAP);
    debug.lockMapRelease(cpu, MAP);
  },
  'sleeping in a non-blocking section': (cpu) => {
    nonBlockStart(cpu);
    spinLock(cpu, newSpin(cpu, A)); // is allowed
    nonBlockEnd(cpu);
    cpu.preemptCount = 0;
    nonBlockStart(cpu);
    mutexLock(cpu, newMutex(cpu, B));
  },
  'freeing what holds a lock': (cpu) => {
    const Holder = struct('lock_holder', { mutex: Mutex });
    const holder = kzalloc(cpu, Holder);
    const mutex = (holder + Holder.mutex) as Mutex;
    initMutex(cpu, mutex, A);
    mutexLock(cpu, mutex);
    kfree(cpu, Holder, holder);
  },
  'an interrupt takes what is held where it may come': (cpu) => {
    const lock = newSpin(cpu, A);
    debug.hardirqEnter(cpu);
    spinLock(cpu, lock);
    spinUnlock(cpu, lock);
    debug.hardirqExit(cpu);
    spinLock(cpu, lock);
    spinUnlock(cpu, lock);
  },
  'an interrupt takes what is held where it may not come': (cpu) => {
    const lock = newSpin(cpu, A);
    debug.hardirqEnter(cpu);
    spinLock(cpu, lock);
    spinUnlock(cpu, lock);
    debug.hardirqExit(cpu);
    spinLockIrq(cpu, lock);
    spinUnlockIrq(cpu, lock);
  },
};

/** Reclaim: an allocation with flags, under a lock that a callback takes. */
const reclaiming =
  (gfp: number, scope?: (cpu: Cpu, alloc: () => void) => void): Case =>
  (cpu) => {
    const a = newMutex(cpu, A);
    debug.notifierMapAcquire(cpu);
    mutexLock(cpu, a);
    mutexUnlock(cpu, a);
    debug.notifierMapRelease(cpu);
    mutexLock(cpu, a);
    const alloc = (): void => {
      mightAlloc(cpu, gfp);
    };
    if (scope === undefined) alloc();
    else scope(cpu, alloc);
    mutexUnlock(cpu, a);
  };

const RECLAIM: Readonly<Record<string, Case>> = {
  GFP_KERNEL: reclaiming(GFP_KERNEL),
  GFP_NOFS: reclaiming(GFP_NOFS),
  GFP_NOIO: reclaiming(GFP_NOIO),
  GFP_NOWAIT: reclaiming(GFP_NOWAIT),
  GFP_ATOMIC: reclaiming(GFP_ATOMIC),
  'GFP_KERNEL where I/O is not allowed': reclaiming(GFP_KERNEL, (cpu, alloc) => {
    const saved = memallocNoioSave(cpu);
    alloc();
    memallocNoioRestore(cpu, saved);
  }),
  'GFP_KERNEL in reclaim': reclaiming(GFP_KERNEL, (cpu, alloc) => {
    const saved = memallocNoreclaimSave(cpu);
    alloc();
    memallocNoreclaimRestore(cpu, saved);
  }),
};

// --- wait types ---

const RAW = lockWaits(WAIT_SPIN);
const RCU = LOCK_READ_RECURSIVE | LOCK_UNCHECKED | lockWaits(WAIT_CONFIG, WAIT_FREE);
const INNER: Readonly<Record<string, number>> = { RCU, raw: RAW, spin: SPINNING, mutex: SLEEPING };
const OUTER: Readonly<Record<string, (cpu: Cpu) => void>> = {
  'hard interrupt': (cpu) => {
    debug.hardirqEnter(cpu);
  },
  'hard interrupt, not threaded': (cpu) => {
    debug.hardirqEnter(cpu, false);
  },
  'soft interrupt': (cpu) => {
    debug.softirqEnter(cpu);
  },
  RCU: (cpu) => {
    mapAcquire(cpu, A, RCU);
  },
  raw: (cpu) => {
    mapAcquire(cpu, A, RAW);
  },
  spin: (cpu) => {
    mapAcquire(cpu, A, SPINNING);
  },
  mutex: (cpu) => {
    mapAcquire(cpu, A, SLEEPING);
  },
};

/** For each of OUTER, which of INNER are reported in it. */
function waitMatrix(): Record<string, string[]> {
  const rows = Object.entries(OUTER).map(([outer, enter]) => {
    const reported = Object.entries(INNER).filter(([, how]) => {
      const cpu = bootCpu();
      enter(cpu);
      mapTouch(cpu, B, how);
      return lockReportTexts(cpu).some((text) => text.startsWith('invalid wait context'));
    });
    return [outer, reported.map(([inner]) => inner)] as const;
  });
  return Object.fromEntries(rows);
}

/** What was seen. */
export interface LockdepSeen {
  /** Of each case: first lines of the reports, what it died of, warnings. */
  readonly cases: Readonly<Record<string, readonly string[]>>;
  readonly counts: Readonly<Record<string, number>>;
  readonly waits: Readonly<Record<string, readonly string[]>>;
}

function runCase(run: Case): { said: string[]; count: number } {
  const cpu = bootCpu(1 << 18);
  const died: string[] = [];
  try {
    run(cpu);
  } catch (error) {
    if (!(error instanceof KernelBug)) throw error;
    died.push(error.message);
  }
  const said = lockReportTexts(cpu).map((text) => text.split('\n')[0] ?? '');
  return { said: [...said, ...died, ...warningTexts(cpu)], count: lockReportCount(cpu) };
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  const all = Object.entries({ ...ORDERS, ...CONTEXTS, ...RECLAIM }).map(
    ([name, run]) => [name, runCase(run)] as const,
  );
  const seen: LockdepSeen = {
    cases: Object.fromEntries(all.map(([name, { said }]) => [name, said])),
    counts: Object.fromEntries(all.map(([name, { count }]) => [name, count])),
    waits: waitMatrix(),
  };
  console.log(JSON.stringify(seen));
}
