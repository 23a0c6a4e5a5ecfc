/**
 * Sequence counter and sequence lock: a reader that need not retry has seen no half of a write (INV-5).
 *
 * The two words are equal between writes, and never in the middle of one.
 *
 * @module
 */
import { read, readOnce, write, writeOnce } from '#memory';

import { bug } from '../../base/bug.js';
import type { Cpu } from '../../machine/cpu.js';
import { lockClass } from '../../machine/lock-class.js';
import { kzalloc } from '../../machine/slab.js';
import { cacheline, member, type Ptr, struct, word } from '../../memory/layout.js';
import {
  initSeqcount,
  readSeqcountBegin,
  readSeqcountRetry,
  Seqcount,
  writeSeqcountBegin,
  writeSeqcountEnd,
} from '../../sync/seqcount.js';
import {
  initSeqlock,
  readSeqbegin,
  readSeqretry,
  Seqlock,
  writeSeqlock,
  writeSequnlock,
} from '../../sync/seqlock.js';
import { defineProgram, type ExploreProgram, type Outcome, task } from '../program.js';

const World = struct('seqcount_world', {
  seqcount: Seqcount,
  seqlock: Seqlock,
  line1: cacheline,
  left: word, // equal to `right` between two writes
  right: word,
  line2: cacheline,
  retries: word, // of the reader; written by it
});
type World = Ptr<'seqcount_world'>;

const SEQLOCK = lockClass('explored seqlock');

function setup(cpu: Cpu): number {
  const world = kzalloc(cpu, World);
  initSeqcount(cpu, member(world, World.seqcount));
  initSeqlock(cpu, member(world, World.seqlock), SEQLOCK);
  return world;
}

function writeBoth(cpu: Cpu, world: World): void {
  const next = readOnce(cpu, world, World.left) + 1;
  writeOnce(cpu, world, World.left, next);
  writeOnce(cpu, world, World.right, next);
}

function refuseHalf(left: number, right: number): void {
  if (left !== right) bug(`INV-5: the reader has seen half of a write: ${left} and ${right}`);
}

function noteRetry(cpu: Cpu, world: World): void {
  write(cpu, world, World.retries, read(cpu, world, World.retries) + 1);
}

function writeCounted(cpu: Cpu, at: number): void {
  const world = at as World;
  const seqcount = member(world, World.seqcount);
  writeSeqcountBegin(cpu, seqcount);
  writeBoth(cpu, world);
  writeSeqcountEnd(cpu, seqcount);
}

function readCounted(cpu: Cpu, at: number): void {
  const world = at as World;
  const seqcount = member(world, World.seqcount);
  for (;;) {
    const seen = readSeqcountBegin(cpu, seqcount);
    const left = readOnce(cpu, world, World.left);
    const right = readOnce(cpu, world, World.right);
    if (!readSeqcountRetry(cpu, seqcount, seen)) {
      refuseHalf(left, right);
      return;
    }
    noteRetry(cpu, world);
  }
}

function writeLocked(cpu: Cpu, at: number): void {
  const world = at as World;
  const seqlock = member(world, World.seqlock);
  writeSeqlock(cpu, seqlock);
  writeBoth(cpu, world);
  writeSequnlock(cpu, seqlock);
}

function readLocked(cpu: Cpu, at: number): void {
  const world = at as World;
  const seqlock = member(world, World.seqlock);
  for (;;) {
    const seen = readSeqbegin(cpu, seqlock);
    const left = readOnce(cpu, world, World.left);
    const right = readOnce(cpu, world, World.right);
    if (!readSeqretry(cpu, seqlock, seen)) {
      refuseHalf(left, right);
      return;
    }
    noteRetry(cpu, world);
  }
}

function check(cpu: Cpu, at: number): string | undefined {
  const world = at as World;
  const counted = read(cpu, member(world, World.seqcount), Seqcount.sequence);
  const locked = read(
    cpu,
    member(member(world, World.seqlock), Seqlock.seqcount),
    Seqcount.sequence,
  );
  if (((counted | locked) & 1) !== 0) return 'a sequence is odd at rest';
  const writes = (counted + locked) / 2;
  const left = read(cpu, world, World.left);
  return left === writes ? undefined : `${writes} writes have counted to ${left}`;
}

const observe = (cpu: Cpu, at: number): string =>
  read(cpu, at as World, World.retries) === 0 ? 'read at once' : 'retried';

const outcomes: readonly Outcome[] = [
  { name: 'read at once', grade: 'ACCEPTABLE', description: 'no write came across the reader' },
  { name: 'retried', grade: 'INTERESTING', description: 'a write did, and was seen' },
];

export const seqcount: ExploreProgram = defineProgram({
  name: 'seqcount',
  title: 'a reader meets two writes in a row',
  tasks: [
    {
      name: 'writer',
      operations: [
        { name: 'write', run: writeCounted },
        { name: 'write', run: writeCounted },
      ],
    },
    task('reader', readCounted),
  ],
  ramBytes: 64 * 4096,
  setup,
  check,
  observe,
  outcomes,
});

export const seqlock: ExploreProgram = defineProgram({
  name: 'seqlock',
  title: 'a reader meets two writers that exclude each other',
  tasks: [task('writer', writeLocked), task('writer', writeLocked), task('reader', readLocked)],
  ramBytes: 64 * 4096,
  setup,
  check,
  observe,
  outcomes,
});
