/**
 * Sequence lock: a sequence counter with the spinlock that its writers need.
 *
 * Kernel     include/linux/seqlock.h (seqlock_t)
 * Protocol   sync/seqcount.ts; writers exclude each other by `lock`. A reader that must not retry takes
 *            the lock itself.
 * Ordering   As in sync/seqcount.ts: protected words are marked on both sides.
 *
 * @module
 */
import { BUSTED_SEQLOCK, isMutant } from '#mutants';

import type { Cpu } from '../machine/cpu.js';
import type { LockClass } from '../machine/lock-class.js';
import { member, type Ptr, struct } from '../memory/layout.js';
import {
  initSeqcount,
  readSeqcountBegin,
  readSeqcountRetry,
  Seqcount,
  type SeqcountSnapshot,
  writeSeqcountBegin,
  writeSeqcountEnd,
} from './seqcount.js';
import { initSpinlock, Spinlock, spinLock, spinUnlock } from './spinlock.js';

/** A sequence counter with the spinlock that its writers take. */
export const Seqlock = struct('seqlock', {
  seqcount: Seqcount,
  lock: Spinlock,
});
export type Seqlock = Ptr<'seqlock'>;

/** Makes it free. Once, before another CPU knows it. @kernel seqlock_init */
export function initSeqlock(cpu: Cpu, seqlock: Seqlock, name: LockClass): void {
  initSeqcount(cpu, member(seqlock, Seqlock.seqcount));
  initSpinlock(cpu, member(seqlock, Seqlock.lock), name);
}

/** Opens a read section; waits while a write is in progress. @kernel read_seqbegin */
export function readSeqbegin(cpu: Cpu, seqlock: Seqlock): SeqcountSnapshot {
  return readSeqcountBegin(cpu, member(seqlock, Seqlock.seqcount));
}

/** Closes a read section; true means discard what was read. @kernel read_seqretry */
export function readSeqretry(cpu: Cpu, seqlock: Seqlock, seen: SeqcountSnapshot): boolean {
  return readSeqcountRetry(cpu, member(seqlock, Seqlock.seqcount), seen);
}

/** Takes the lock and opens a write section; no sleeping until writeSequnlock. @kernel write_seqlock */
export function writeSeqlock(cpu: Cpu, seqlock: Seqlock): void {
  spinLock(cpu, member(seqlock, Seqlock.lock));
  writeSeqcountBegin(cpu, member(seqlock, Seqlock.seqcount));
}

/** Closes the write section and gives the lock back. @kernel write_sequnlock */
export function writeSequnlock(cpu: Cpu, seqlock: Seqlock): void {
  if (isMutant(cpu, BUSTED_SEQLOCK)) {
    unlockThenEnd(cpu, seqlock);
    return;
  }
  writeSeqcountEnd(cpu, member(seqlock, Seqlock.seqcount));
  spinUnlock(cpu, member(seqlock, Seqlock.lock));
}

/** The mistake: the next writer may begin before this one's section is closed. */
function unlockThenEnd(cpu: Cpu, seqlock: Seqlock): void {
  spinUnlock(cpu, member(seqlock, Seqlock.lock));
  writeSeqcountEnd(cpu, member(seqlock, Seqlock.seqcount));
}

/** Keeps writers out, without making readers retry. @kernel read_seqlock_excl */
export function readSeqlockExcl(cpu: Cpu, seqlock: Seqlock): void {
  spinLock(cpu, member(seqlock, Seqlock.lock));
}

/** Ends what readSeqlockExcl began. @kernel read_sequnlock_excl */
export function readSequnlockExcl(cpu: Cpu, seqlock: Seqlock): void {
  spinUnlock(cpu, member(seqlock, Seqlock.lock));
}
