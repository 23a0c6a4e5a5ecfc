/**
 * Targets that are locks: who is inside is counted, and what the lock protects is changed without another word.
 *
 * Protocol   writer                                     reader
 *              take the lock                              take it for reading
 *              writers += 1: was 0, and no reader          readers += 1: no writer
 *              change the data, in plain steps             look at the data: both halves agree
 *              writers -= 1; give the lock back            readers -= 1; give it back
 * Invariant  I1  A writer is alone; readers are beside readers only (INV-1 of a semaphore, INV-39 of any lock).
 *            I2  The data has as many changes at the end as there were writers (INV-39).
 * Ordering   Who is inside is counted by marked operations. The data is read and written plainly: the lock alone
 *            orders that, and the checked build looks whether it does.
 *
 * @module
 */
import { fetchAdd, read, readOnce, write, writeOnce } from '#memory';

import { bug } from '../../base/bug.js';
import type { Cpu } from '../../machine/cpu.js';
import { lockClass } from '../../machine/lock-class.js';
import { kfree, kzalloc } from '../../machine/slab.js';
import { cacheline, type Ptr, struct, word, words } from '../../memory/layout.js';
import { LOCK_WORDS_MAX } from '../lock.js';
import type { TortureConfig, TortureMember, TortureTarget } from '../target.js';

/** A lock, who is inside, and what it protects. */
export const TortureWorld = struct('torture_lock', {
  lock: words(LOCK_WORDS_MAX),
  line1: cacheline,
  writers: word, // inside; marked
  readers: word,
  lastWriter: word, // CPU + 1 that went in last, for reports; marked
  lastReader: word,
  changes: word, // writers that have been inside; atomic
  line2: cacheline,
  low: word, // what the lock protects: two halves, always the same
  line3: cacheline,
  high: word,
  line4: cacheline,
});
export type TortureWorld = Ptr<'torture_lock'>;

/** A lock that can be tortured. Addresses of locks are plain numbers here: each kind knows its own. */
export interface LockKind {
  readonly name: string;
  readonly title: string;
  readonly busted?: readonly string[];
  /** The rule that says who may be inside with whom. */
  readonly invariant: string;
  readonly init: (cpu: Cpu, lock: number, config: TortureConfig) => void;
  readonly destroy?: (cpu: Cpu, lock: number) => void;
  readonly lock: (cpu: Cpu, lock: number, member: TortureMember) => void;
  readonly unlock: (cpu: Cpu, lock: number, member: TortureMember) => void;
  readonly tryLock?: (cpu: Cpu, lock: number, member: TortureMember) => boolean;
  /** Whether it can be tried, where that depends on the lock; by default if it has `tryLock`. */
  readonly hasTry?: (config: TortureConfig) => boolean;
  readonly readLock?: (cpu: Cpu, lock: number, member: TortureMember) => void;
  readonly readUnlock?: (cpu: Cpu, lock: number, member: TortureMember) => void;
  readonly tryReadLock?: (cpu: Cpu, lock: number) => boolean;
  /** Turns a writer into a reader. */
  readonly downgrade?: (cpu: Cpu, lock: number) => void;
  /** Whether it has readers, where that depends on the lock; by default if it has `readLock`. */
  readonly hasReaders?: (config: TortureConfig) => boolean;
}

export const WRITE = 0;
export const READ = 1;
export const DOWNGRADE = 2;
export const TRYLOCK = 3;
export const OPERATIONS = ['write', 'read', 'downgrade', 'trylock'] as const;

/** One operation in so many is a try, or a downgrade. */
const TRY_ONE_IN = 8;
/** The class of a lock that is tortured. */
export const TORTURE_LOCK = lockClass('torture_lock');

/** Writers and readers by the options: as locktorture counts them. */
export function writersAndReaders(config: TortureConfig, hasReaders: boolean): readonly string[] {
  const { cpus, nwritersStress, nreadersStress } = config;
  const half = Math.max(1, Math.floor(cpus / 2));
  const writers = nwritersStress >= 0 ? nwritersStress : hasReaders ? half : cpus;
  const wanted = nreadersStress >= 0 ? nreadersStress : Math.max(1, cpus - half);
  const readers = hasReaders ? wanted : 0;
  return [
    ...new Array<string>(writers).fill('writer'),
    ...new Array<string>(readers).fill('reader'),
  ];
}

/** A target that tortures a lock of the kind. */
export function lockTarget(kind: LockKind): TortureTarget {
  const hasReaders = (config: TortureConfig): boolean =>
    kind.hasReaders?.(config) ?? kind.readLock !== undefined;
  return {
    name: kind.name,
    title: kind.title,
    operations: OPERATIONS,
    ...(kind.busted && { busted: kind.busted }),
    roles: (config) => writersAndReaders(config, hasReaders(config)),
    setup(cpu, config) {
      const world = kzalloc(cpu, TortureWorld);
      kind.init(cpu, world, config);
      return world;
    },
    enter: () => undefined,
    step(cpu, state, member) {
      const world = state as TortureWorld;
      if (member.role === 'reader') stepReader(cpu, world, kind, member);
      else stepWriter(cpu, world, kind, member);
    },
    leave: () => undefined,
    teardown(cpu, state) {
      const world = state as TortureWorld;
      checkChanges(cpu, world, kind);
      kind.destroy?.(cpu, world);
      kfree(cpu, TortureWorld, world);
    },
  };
}

function stepWriter(cpu: Cpu, world: TortureWorld, kind: LockKind, member: TortureMember): void {
  const start = member.now();
  const canTry = kind.hasTry?.(member.config) ?? kind.tryLock !== undefined;
  const tries = canTry && member.random(TRY_ONE_IN) === 0;
  if (tries) {
    if (kind.tryLock?.(cpu, world, member) !== true) {
      member.count(TRYLOCK);
      return;
    }
  } else {
    kind.lock(cpu, world, member);
  }
  const inside = member.now();
  member.waited(inside - start);
  writeInside(cpu, world, kind, member);
  const downgrades = !tries && kind.downgrade !== undefined && member.random(TRY_ONE_IN) === 0;
  if (downgrades) {
    const before = read(cpu, world, TortureWorld.low);
    kind.downgrade(cpu, world);
    downgradedInside(cpu, world, kind, member, before);
    kind.readUnlock?.(cpu, world, member);
  } else {
    kind.unlock(cpu, world, member);
  }
  member.held(member.now() - inside);
  member.count(tries ? TRYLOCK : downgrades ? DOWNGRADE : WRITE);
}

function writeInside(cpu: Cpu, world: TortureWorld, kind: LockKind, member: TortureMember): void {
  const others = fetchAdd(cpu, world, TortureWorld.writers, 1);
  if (others !== 0) notAlone(cpu, world, kind, member, 'a writer is inside, and so is another');
  writeOnce(cpu, world, TortureWorld.lastWriter, cpu.id + 1);
  checkNoReader(cpu, world, kind, member);
  const value = read(cpu, world, TortureWorld.low);
  write(cpu, world, TortureWorld.low, value + 1);
  member.noise(cpu);
  if (read(cpu, world, TortureWorld.high) !== value) {
    member.fail(`${kind.name}: a writer has changed what this writer has locked`, kind.invariant);
  }
  write(cpu, world, TortureWorld.high, value + 1);
  checkNoReader(cpu, world, kind, member);
  fetchAdd(cpu, world, TortureWorld.changes, 1);
  if (fetchAdd(cpu, world, TortureWorld.writers, -1) !== 1) {
    notAlone(cpu, world, kind, member, 'another writer came while this one was inside');
  }
}

function checkNoReader(cpu: Cpu, world: TortureWorld, kind: LockKind, member: TortureMember): void {
  if (readOnce(cpu, world, TortureWorld.readers) === 0) return;
  const reader = readOnce(cpu, world, TortureWorld.lastReader) - 1;
  member.fail(`${kind.name}: a reader is inside beside a writer`, kind.invariant, [reader]);
}

function notAlone(
  cpu: Cpu,
  world: TortureWorld,
  kind: LockKind,
  member: TortureMember,
  what: string,
): never {
  const other = readOnce(cpu, world, TortureWorld.lastWriter) - 1;
  return member.fail(`${kind.name}: ${what}`, kind.invariant, other === cpu.id ? [] : [other]);
}

function stepReader(cpu: Cpu, world: TortureWorld, kind: LockKind, member: TortureMember): void {
  const start = member.now();
  const tries = kind.tryReadLock !== undefined && member.random(TRY_ONE_IN) === 0;
  if (tries) {
    if (!kind.tryReadLock(cpu, world)) {
      member.count(TRYLOCK);
      return;
    }
  } else {
    kind.readLock?.(cpu, world, member);
  }
  const inside = member.now();
  member.waited(inside - start);
  readInside(cpu, world, kind, member);
  kind.readUnlock?.(cpu, world, member);
  member.held(member.now() - inside);
  member.count(tries ? TRYLOCK : READ);
}

function readInside(cpu: Cpu, world: TortureWorld, kind: LockKind, member: TortureMember): void {
  fetchAdd(cpu, world, TortureWorld.readers, 1);
  writeOnce(cpu, world, TortureWorld.lastReader, cpu.id + 1);
  if (readOnce(cpu, world, TortureWorld.writers) !== 0) {
    const writer = readOnce(cpu, world, TortureWorld.lastWriter) - 1;
    member.fail(`${kind.name}: a writer is inside beside a reader`, kind.invariant, [writer]);
  }
  const value = read(cpu, world, TortureWorld.low);
  member.noise(cpu);
  if (read(cpu, world, TortureWorld.high) !== value) {
    member.fail(`${kind.name}: a reader has seen half of a change`, kind.invariant);
  }
  fetchAdd(cpu, world, TortureWorld.readers, -1);
}

/** A writer that has become a reader: nobody came in between. */
function downgradedInside(
  cpu: Cpu,
  world: TortureWorld,
  kind: LockKind,
  member: TortureMember,
  before: number,
): void {
  readInside(cpu, world, kind, member);
  if (read(cpu, world, TortureWorld.low) === before) return;
  member.fail(`${kind.name}: a writer came in while another was downgraded`, kind.invariant);
}

function checkChanges(cpu: Cpu, world: TortureWorld, kind: LockKind): void {
  const changes = read(cpu, world, TortureWorld.changes);
  const low = read(cpu, world, TortureWorld.low);
  const high = read(cpu, world, TortureWorld.high);
  if (low === changes && high === changes) return;
  bug(`INV-39: ${kind.name}: ${changes} writers have made ${low} and ${high} changes`);
}
