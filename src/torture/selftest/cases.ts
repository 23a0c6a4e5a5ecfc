/**
 * The cases of the kernel's own lock selftests, each on a machine of its own, in a worker of the checked build.
 *
 * Kernel     lib/locking-selftest.c
 *
 * A case is a row and a column of the table that a Linux prints at boot (table.ts). There are no rwlocks here: to
 * lockdep one is a class that is taken exclusively or for reading, recursively or not, and so are they here.
 *
 * @module
 */
import * as debug from '#debug';

import { KernelBug } from '../../base/bug.js';
import { LOCK_READ } from '../../debug/lock-how.js';
import { mapAcquire, mapRelease } from '../../debug/lockdep/lockdep.js';
import { attachCpu, bootMachine } from '../../machine/boot.js';
import type { Cpu } from '../../machine/cpu.js';
import {
  GFP_KERNEL,
  GFP_NOFS,
  memallocNofsRestore,
  memallocNofsSave,
  mightAlloc,
} from '../../machine/gfp.js';
import { lockClass } from '../../machine/lock-class.js';
import { lockReportTexts } from '../../machine/lock-report.js';
import { allocPercpu } from '../../machine/percpu.js';
import { CACHELINE_WORDS, type Ptr } from '../../memory/layout.js';
import { initMutex, Mutex, mutexLock, mutexUnlock } from '../../sync/mutex.js';
import { downRead, downWrite, initRwsem, Rwsem, upRead, upWrite } from '../../sync/rwsem.js';
import { initSpinlock, Spinlock, spinLock, spinUnlock } from '../../sync/spinlock.js';

/** Locks by name; X1 and X2 are of one class, and so are Y1 and Y2, Z1 and Z2. */
type Name = 'A' | 'B' | 'C' | 'D' | 'X1' | 'X2' | 'Y1' | 'Z1';

const classOf = (name: Name): ReturnType<typeof lockClass> =>
  lockClass(`selftest ${name[0] ?? ''}`);

/** One kind of lock: how its locks are taken, given back and made. */
interface Kind {
  readonly lock: (cpu: Cpu, world: World, name: Name) => void;
  readonly unlock: (cpu: Cpu, world: World, name: Name) => void;
  readonly init?: (cpu: Cpu, world: World, name: Name) => void;
}

/** The locks of a case, made when they are first used. */
interface World {
  readonly locks: Map<string, Ptr<string>>;
}

/** Room for a lock, from a cache line on. */
function place<S extends string>(
  cpu: Cpu,
  layout: { readonly structName: S; readonly words: number },
): Ptr<S> {
  return (cpu.percpu + allocPercpu(cpu, layout.words + CACHELINE_WORDS)) as Ptr<S>;
}

function lockOf<S extends string>(
  cpu: Cpu,
  { locks }: World,
  layout: { readonly structName: S; readonly words: number },
  name: Name,
  init: (cpu: Cpu, lock: Ptr<S>, name: ReturnType<typeof lockClass>) => void,
): Ptr<S> {
  const key = `${layout.structName} ${name}`;
  const known = locks.get(key) as Ptr<S> | undefined;
  if (known !== undefined) return known;
  const made = place(cpu, layout);
  init(cpu, made, classOf(name));
  locks.set(key, made);
  return made;
}

const spinOf = (cpu: Cpu, world: World, name: Name): Spinlock =>
  lockOf(cpu, world, Spinlock, name, initSpinlock);
const mutexOf = (cpu: Cpu, world: World, name: Name): Mutex =>
  lockOf(cpu, world, Mutex, name, initMutex);
const semOf = (cpu: Cpu, world: World, name: Name): Rwsem =>
  lockOf(cpu, world, Rwsem, name, initRwsem);

const KINDS: Readonly<Record<string, Kind>> = {
  spin: {
    lock: (cpu, world, name) => {
      spinLock(cpu, spinOf(cpu, world, name));
    },
    unlock: (cpu, world, name) => {
      spinUnlock(cpu, spinOf(cpu, world, name));
    },
    init: (cpu, world, name) => {
      initSpinlock(cpu, spinOf(cpu, world, name), classOf(name));
    },
  },
  mutex: {
    lock: (cpu, world, name) => {
      mutexLock(cpu, mutexOf(cpu, world, name));
    },
    unlock: (cpu, world, name) => {
      mutexUnlock(cpu, mutexOf(cpu, world, name));
    },
    init: (cpu, world, name) => {
      initMutex(cpu, mutexOf(cpu, world, name), classOf(name));
    },
  },
  wsem: {
    lock: (cpu, world, name) => {
      downWrite(cpu, semOf(cpu, world, name));
    },
    unlock: (cpu, world, name) => {
      upWrite(cpu, semOf(cpu, world, name));
    },
    init: (cpu, world, name) => {
      initRwsem(cpu, semOf(cpu, world, name), classOf(name));
    },
  },
  rsem: {
    lock: (cpu, world, name) => {
      downRead(cpu, semOf(cpu, world, name));
    },
    unlock: (cpu, world, name) => {
      upRead(cpu, semOf(cpu, world, name));
    },
    init: (cpu, world, name) => {
      initRwsem(cpu, semOf(cpu, world, name), classOf(name));
    },
  },
  wlock: {
    lock: (cpu, _world, name) => {
      debug.lockMapAcquire(cpu, classOf(name));
    },
    unlock: (cpu, _world, name) => {
      debug.lockMapRelease(cpu, classOf(name));
    },
  },
  rlock: {
    lock: (cpu, _world, name) => {
      debug.lockMapAcquireRead(cpu, classOf(name));
    },
    unlock: (cpu, _world, name) => {
      debug.lockMapRelease(cpu, classOf(name));
    },
  },
  queued: {
    lock: (cpu, _world, name) => {
      mapAcquire(cpu, classOf(name), LOCK_READ);
    },
    unlock: (cpu, _world, name) => {
      mapRelease(cpu, classOf(name));
    },
  },
};

/** One CPU on a machine of its own, with locks. */
class Bench {
  readonly cpu = attachCpu(bootMachine({ cpus: 1, ramBytes: 0 }).handle, 0);
  readonly #world: World = { locks: new Map() };

  take(kind: string, ...names: Name[]): void {
    for (const name of names) KINDS[kind]!.lock(this.cpu, this.#world, name);
  }

  give(kind: string, ...names: Name[]): void {
    for (const name of names) KINDS[kind]!.unlock(this.cpu, this.#world, name);
  }

  init(kind: string, name: Name): void {
    KINDS[kind]!.init!(this.cpu, this.#world, name);
  }

  /** Takes both, the first outside, and gives them back. */
  nest(outer: string, first: Name, inner: string, second: Name): void {
    this.take(outer, first);
    this.take(inner, second);
    this.give(inner, second);
    this.give(outer, first);
  }

  once(kind: string, name: Name): void {
    this.take(kind, name);
    this.give(kind, name);
  }
}

type Case = (bench: Bench, kind: string) => void;

const orders =
  (...pairs: readonly [Name, Name][]): Case =>
  (bench, kind) => {
    for (const [first, second] of pairs) bench.nest(kind, first, kind, second);
  };

/** Rows with a column for each kind; the kinds that are not reported. */
const PLAIN: Readonly<Record<string, readonly [run: Case, quiet: readonly string[]]>> = {
  'A-A deadlock': [
    (bench, kind) => {
      bench.take(kind, 'X1', 'X2');
    },
    ['rlock'],
  ],
  'A-B-B-A deadlock': [orders(['A', 'B'], ['B', 'A']), ['rlock']],
  'A-B-B-C-C-A deadlock': [orders(['A', 'B'], ['B', 'C'], ['C', 'A']), ['rlock']],
  'A-B-C-A-B-C deadlock': [orders(['A', 'B'], ['C', 'A'], ['B', 'C']), ['rlock']],
  'A-B-B-C-C-D-D-A deadlock': [orders(['A', 'B'], ['B', 'C'], ['C', 'D'], ['D', 'A']), ['rlock']],
  'A-B-C-D-B-D-D-A deadlock': [orders(['A', 'B'], ['C', 'D'], ['B', 'D'], ['D', 'A']), ['rlock']],
  'A-B-C-D-B-C-D-A deadlock': [orders(['A', 'B'], ['C', 'D'], ['B', 'C'], ['D', 'A']), ['rlock']],
  'double unlock': [
    (bench, kind) => {
      bench.take(kind, 'A');
      bench.give(kind, 'A', 'A');
    },
    [],
  ],
  'initialize held': [
    (bench, kind) => {
      bench.take(kind, 'A');
      bench.init(kind, 'A');
    },
    [],
  ],
  'recursive read-lock': [
    (bench, kind) => {
      bench.take(kind, 'X1', 'X1');
    },
    ['rlock'],
  ],
  'recursive read-lock #2': [
    (bench, kind) => {
      bench.take(kind, 'X1', 'X2');
    },
    ['rlock'],
  ],
  'mixed read-write-lock': [
    (bench, kind) => {
      bench.take(kind, 'X1');
      bench.take(writer(kind), 'X2');
    },
    [],
  ],
  'mixed write-read-lock': [
    (bench, kind) => {
      bench.take(writer(kind), 'X1');
      bench.take(kind, 'X2');
    },
    [],
  ],
  'mixed read-lock/lock-write ABBA': [
    (bench, kind) => {
      bench.nest(kind, 'X1', beside(kind), 'Y1');
      bench.nest(beside(kind), 'Y1', writer(kind), 'X1');
    },
    [],
  ],
  'mixed read-lock/lock-read ABBA': [
    (bench, kind) => {
      bench.nest(kind, 'X1', beside(kind), 'Y1');
      bench.nest(beside(kind), 'Y1', kind, 'X1');
    },
    ['rlock'],
  ],
  'mixed write-lock/lock-write ABBA': [
    (bench, kind) => {
      bench.nest(writer(kind), 'X1', beside(kind), 'Y1');
      bench.nest(beside(kind), 'Y1', writer(kind), 'X1');
    },
    [],
  ],
  'chain cached mixed R-L/L-W ABBA': [
    (bench, kind) => {
      bench.nest(kind, 'X1', 'spin', 'Y1');
      bench.nest('spin', 'Y1', kind, 'X1');
      bench.nest('spin', 'Y1', writer(kind), 'X1');
    },
    [],
  ],
};

/** The exclusive form of a kind of reader. */
function writer(kind: string): string {
  return kind === 'rsem' ? 'wsem' : 'wlock';
}

/** The lock that those tests pair it with. */
function beside(kind: string): string {
  return kind === 'rsem' ? 'mutex' : 'spin';
}

// --- events, in all their orders ---

type Events = readonly Case[];

const W = 'wlock';
const R = 'rlock';

const nested =
  (outer: string, first: Name, inner: string, second: Name): Case =>
  (bench) => {
    bench.nest(outer, first, inner, second);
  };

const READERS: Readonly<Record<string, readonly [events: Events, reported: boolean]>> = {
  'rlock W1R2/W2R3/W3R1': [
    [nested(W, 'X1', R, 'Y1'), nested(W, 'Y1', R, 'Z1'), nested(W, 'Z1', R, 'X1')],
    true,
  ],
  'rlock W1W2/R2R3/W3R1': [
    [nested(W, 'X1', W, 'Y1'), nested(R, 'Y1', R, 'Z1'), nested(W, 'Z1', R, 'X1')],
    true,
  ],
  'rlock W1W2/R2R3/R3W1': [
    [nested(W, 'X1', W, 'Y1'), nested(R, 'Y1', R, 'Z1'), nested(R, 'Z1', W, 'X1')],
    false,
  ],
  'rlock W1R2/R2R3/W3W1': [
    [nested(W, 'X1', R, 'Y1'), nested(R, 'Y1', R, 'Z1'), nested(W, 'Z1', W, 'X1')],
    false,
  ],
};

/** How the two kinds of interrupts begin, end, and are kept out. */
interface Irq {
  readonly enter: (cpu: Cpu) => void;
  readonly exit: (cpu: Cpu) => void;
  readonly off: (cpu: Cpu) => void;
  readonly on: (cpu: Cpu) => void;
}

const HARD: Irq = {
  enter: (cpu) => {
    debug.localIrqDisable(cpu);
    debug.hardirqEnter(cpu);
  },
  exit: (cpu) => {
    debug.hardirqExit(cpu);
    debug.localIrqEnable(cpu);
  },
  off: debug.localIrqDisable,
  on: debug.localIrqEnable,
};

const SOFT: Irq = {
  enter: (cpu) => {
    debug.localBhDisable(cpu);
    debug.localIrqDisable(cpu);
    debug.softirqEnter(cpu);
  },
  exit: (cpu) => {
    debug.softirqExit(cpu);
    debug.localIrqEnable(cpu);
    debug.localBhEnable(cpu);
  },
  off: debug.localBhDisable,
  on: debug.localBhEnable,
};

/** Runs `body` in the interrupt, or with it kept out. */
const inside =
  (irq: Irq, body: Case): Case =>
  (bench, kind) => {
    irq.enter(bench.cpu);
    body(bench, kind);
    irq.exit(bench.cpu);
  };
const without =
  (irq: Irq, body: Case): Case =>
  (bench, kind) => {
    irq.off(bench.cpu);
    body(bench, kind);
    irq.on(bench.cpu);
  };
const once =
  (name: Name, as?: string): Case =>
  (bench, kind) => {
    bench.once(as ?? kind, name);
  };
const nestedAs =
  (first: Name, second: Name, outer?: string, inner?: string): Case =>
  (bench, kind) => {
    bench.nest(outer ?? kind, first, inner ?? kind, second);
  };
/** Lets interrupts in while it holds the lock. */
const enabling =
  (irq: Irq): Case =>
  (bench, kind) => {
    irq.off(bench.cpu);
    bench.take(kind, 'A');
    irq.on(bench.cpu);
    bench.give(kind, 'A');
  };

const IRQS: Readonly<Record<string, (irq: Irq) => Events>> = {
  '-irqs-on + irq-safe-A': (irq) => [inside(irq, once('A')), once('A')],
  '-safe-A + irqs-on': (irq) => [inside(irq, once('A')), enabling(irq)],
  '-safe-A + unsafe-B #1': (irq) => [nestedAs('A', 'B'), once('B'), inside(irq, once('A'))],
  '-safe-A + unsafe-B #2': (irq) => [
    without(irq, nestedAs('A', 'B')),
    once('B'),
    inside(irq, once('A')),
  ],
  '-irq lock-inversion': (irq) => [
    without(irq, nestedAs('A', 'B', W)),
    once('B'),
    inside(irq, once('A', R)),
  ],
  '-irq read-recursion': (irq) => [
    without(irq, once('A', W)),
    once('A', R),
    inside(irq, nestedAs('A', 'B', undefined, 'spin')),
  ],
  '-irq read-recursion #2': (irq) => [
    without(irq, nestedAs('B', 'A', 'spin')),
    once('A', R),
    inside(irq, once('B', 'spin')),
  ],
  '-irq read-recursion #3': (irq) => [
    without(irq, nestedAs('B', 'A', W)),
    once('A', R),
    inside(irq, once('B', R)),
  ],
};

/** Rows with a single case. */
const SINGLE: Readonly<Record<string, readonly [run: (bench: Bench) => void, reported: boolean]>> =
  {
    'hardirq read-lock/lock-read': [
      (bench) => {
        inside(HARD, nestedAs('A', 'B', 'queued', 'spin'))(bench, '');
        without(HARD, nestedAs('B', 'A', 'spin', 'queued'))(bench, '');
      },
      true,
    ],
    'hardirq lock-read/read-lock': [
      (bench) => {
        // in the interrupt the kernel takes it recursively
        inside(HARD, nestedAs('B', 'A', 'spin', R))(bench, '');
        without(HARD, nestedAs('A', 'B', 'queued', 'spin'))(bench, '');
      },
      false,
    ],
    'hardirq inversion': [
      (bench) => {
        inside(HARD, once('B', 'spin'))(bench, '');
        without(HARD, nestedAs('B', 'A', 'spin', 'queued'))(bench, '');
        once('A', 'queued')(bench, '');
      },
      true,
    ],
    'correct nesting': [
      ({ cpu }) => {
        debug.fsReclaimAcquire(cpu, GFP_KERNEL);
        mightAlloc(cpu, GFP_NOFS);
        debug.fsReclaimRelease(cpu, GFP_KERNEL);
      },
      false,
    ],
    'wrong nesting': [
      ({ cpu }) => {
        debug.fsReclaimAcquire(cpu, GFP_KERNEL);
        mightAlloc(cpu, GFP_KERNEL);
        debug.fsReclaimRelease(cpu, GFP_KERNEL);
      },
      true,
    ],
    'protected nesting': [
      ({ cpu }) => {
        debug.fsReclaimAcquire(cpu, GFP_KERNEL);
        const saved = memallocNofsSave(cpu);
        mightAlloc(cpu, GFP_KERNEL);
        memallocNofsRestore(cpu, saved);
        debug.fsReclaimRelease(cpu, GFP_KERNEL);
      },
      false,
    ],
    hardirq_unsafe_softirq_safe: [
      (bench) => {
        bench.take('mutex', 'A');
        without(HARD, once('C', 'spin'))(bench, '');
        bench.give('mutex', 'A');
        inside(HARD, once('X1', 'spin'))(bench, '');
        without(HARD, nestedAs('X1', 'B', 'spin', 'spin'))(bench, '');
        without(HARD, nestedAs('B', 'C', 'spin', 'spin'))(bench, '');
        inside(SOFT, once('D', 'spin'))(bench, '');
        without(SOFT, once('D', 'spin'))(bench, '');
        without(HARD, nestedAs('C', 'D', 'spin', 'spin'))(bench, '');
      },
      true,
    ],
  };

/** A case, and whether the kernel reports it. */
export interface OrderCase {
  readonly run: (bench: Bench) => void;
  readonly reported: boolean;
}

/** `123` of three events: the first, the second, the third. */
function inOrder(events: Events, digits: string): Case {
  return (bench, kind) => {
    for (const digit of digits) events[Number(digit) - 1]!(bench, kind);
  };
}

/** The case of a row and a column of the kernel's table; undefined if it is none of ours. */
export function orderCase(row: string, column: string): OrderCase | undefined {
  const single = SINGLE[row];
  if (single !== undefined) return { run: single[0], reported: single[1] };
  if (KINDS[column] === undefined) return undefined;
  const plain = PLAIN[row];
  if (plain !== undefined) {
    if (row === 'initialize held' && KINDS[column].init === undefined) return undefined;
    return bound(plain[0], column, !plain[1].includes(column));
  }
  const slash = row.lastIndexOf('/');
  const name = row.slice(0, slash);
  const digits = row.slice(slash + 1);
  const readers = READERS[name];
  if (readers !== undefined) return bound(inOrder(readers[0], digits), column, readers[1]);
  if (name === 'sirq-safe-A => hirqs-on') {
    return bound(inOrder([inside(SOFT, once('A')), enabling(HARD)], digits), column, column !== R);
  }
  const events = IRQS[name.slice(4)];
  if (events === undefined) return undefined;
  const irq = name.startsWith('hard') ? HARD : SOFT;
  return bound(inOrder(events(irq), digits), column, column !== R);
}

function bound(run: Case, column: string, reported: boolean): OrderCase {
  return {
    run: (bench) => {
      run(bench, column);
    },
    reported,
  };
}

/** What was seen of a case: the first line of each report, or of the error that ended it. */
function seenIn({ run }: OrderCase): string[] {
  const bench = new Bench();
  try {
    run(bench);
  } catch (error) {
    if (!(error instanceof KernelBug)) throw error;
    return [...firstLines(bench.cpu), error.message];
  }
  return firstLines(bench.cpu);
}

function firstLines(cpu: Cpu): string[] {
  return lockReportTexts(cpu).map((text) => text.split('\n')[0] ?? '');
}

/** A row and a column of the table. */
export type SelftestCell = readonly [row: string, column: string];

/** Runs the cases of those cells on this thread: what was seen of each. */
export function runSelftestCases(_cpu: Cpu, cells: unknown): string[][] {
  return (cells as readonly SelftestCell[]).map(([row, column]) => {
    const known = orderCase(row, column);
    return known === undefined ? [] : seenIn(known);
  });
}
