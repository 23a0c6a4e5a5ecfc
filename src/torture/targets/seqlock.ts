/**
 * Target `seqlock`: writers change a row of words, readers look at it without a lock and start over if they must.
 *
 * Invariant  I1  A reader that need not retry has seen one state of the row (INV-5).
 *            I2  At the end the row has as many changes as there were writers (INV-39).
 *
 * @module
 */
import { fetchAdd, read, readOnce, writeOnce } from '#memory';

import { bug } from '../../base/bug.js';
import type { Cpu } from '../../machine/cpu.js';
import { lockClass } from '../../machine/lock-class.js';
import { kfree, kzalloc } from '../../machine/slab.js';
import {
  cacheline,
  element,
  member as at,
  type Ptr,
  struct,
  word,
  words,
} from '../../memory/layout.js';
import {
  initSeqlock,
  readSeqbegin,
  readSeqlockExcl,
  readSeqretry,
  readSequnlockExcl,
  Seqlock,
  writeSeqlock,
  writeSequnlock,
} from '../../sync/seqlock.js';
import type { TortureMember, TortureTarget } from '../target.js';
import { writersAndReaders } from './exclusion.js';

const ROW = 4;

const World = struct('torture_seqlock', {
  lock: Seqlock,
  line1: cacheline,
  row: words(ROW), // all the same, but within a write; marked
  line2: cacheline,
  writes: word, // atomic
});
type World = Ptr<'torture_seqlock'>;

const WRITE = 0;
const READ = 1;
const RETRY = 2;
const EXCLUSIVE = 3;

/** One read in so many takes the lock. */
const EXCLUSIVE_ONE_IN = 64;
const SEQLOCK = lockClass('torture_seqlock');

export const seqlockTarget: TortureTarget = {
  name: 'seqlock',
  title: 'sequence lock: readers that retry beside writers',
  operations: ['write', 'read', 'retry', 'read with the lock'],
  busted: ['busted-seqcount', 'busted-seqlock'],
  roles: (config) => writersAndReaders(config, true),
  setup(cpu) {
    const world = kzalloc(cpu, World);
    initSeqlock(cpu, at(world, World.lock), SEQLOCK);
    return world;
  },
  enter: () => undefined,
  step(cpu, state, member) {
    const world = state as World;
    if (member.role === 'writer') writeRow(cpu, world, member);
    else if (member.random(EXCLUSIVE_ONE_IN) === 0) readExclusively(cpu, world, member);
    else readRow(cpu, world, member);
  },
  leave: () => undefined,
  teardown(cpu, state) {
    const world = state as World;
    const writes = read(cpu, world, World.writes);
    for (let i = 0; i < ROW; i++) {
      const value = readOnce(cpu, world, element(World.row, i));
      if (value !== writes) bug(`INV-39: seqlock: ${writes} writers have made ${value} changes`);
    }
    kfree(cpu, World, world);
  },
};

function writeRow(cpu: Cpu, world: World, member: TortureMember): void {
  const start = member.now();
  writeSeqlock(cpu, at(world, World.lock));
  const inside = member.now();
  member.waited(inside - start);
  for (let i = 0; i < ROW; i++) {
    const field = element(World.row, i);
    writeOnce(cpu, world, field, readOnce(cpu, world, field) + 1);
    if (i === ROW / 2) member.noise(cpu);
  }
  writeSequnlock(cpu, at(world, World.lock));
  fetchAdd(cpu, world, World.writes, 1);
  member.held(member.now() - inside);
  member.count(WRITE);
}

function readRow(cpu: Cpu, world: World, member: TortureMember): void {
  const start = member.now();
  const seen = readSeqbegin(cpu, at(world, World.lock));
  const isTorn = looksTorn(cpu, world, member);
  if (readSeqretry(cpu, at(world, World.lock), seen)) {
    member.count(RETRY);
    return;
  }
  if (isTorn)
    member.fail('seqlock: a reader that need not retry has seen half of a write', 'INV-5');
  member.held(member.now() - start);
  member.count(READ);
}

/** Reads the row; true if its words are not the same. */
function looksTorn(cpu: Cpu, world: World, member: TortureMember): boolean {
  const first = readOnce(cpu, world, element(World.row, 0));
  let isTorn = false;
  for (let i = 1; i < ROW; i++) {
    if (i === ROW / 2) member.noise(cpu);
    isTorn ||= readOnce(cpu, world, element(World.row, i)) !== first;
  }
  return isTorn;
}

/** A reader that keeps writers out. */
function readExclusively(cpu: Cpu, world: World, member: TortureMember): void {
  const start = member.now();
  readSeqlockExcl(cpu, at(world, World.lock));
  member.waited(member.now() - start);
  if (looksTorn(cpu, world, member)) {
    member.fail('seqlock: a writer is inside beside a reader with the lock', 'INV-5');
  }
  readSequnlockExcl(cpu, at(world, World.lock));
  member.count(EXCLUSIVE);
}
