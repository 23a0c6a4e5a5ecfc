/**
 * Sequence counter: readers never block a writer; they see that it ran, and retry.
 *
 * Kernel     include/linux/seqlock.h (seqcount_t)
 * Protocol   even = stable, odd = a write is in progress.
 *              writer:  begin (even -> odd), store data, end (odd -> even)
 *              reader:  begin (wait for even), load data, retry if the counter moved
 * Invariant  I1  `sequence` changes only inside a write section, by 1 (by 2 in invalidate).
 *            I2  Writers exclude each other by a lock of the caller's.
 *            I3  A reader that need not retry saw the state between two complete writes (INV-5).
 * Ordering   There is no read barrier in JavaScript: a plain load may sink below the check in
 *            readSeqcountRetry. Protected words are read with readOnce and written with writeOnce on
 *            BOTH sides. The writer's steps are read-modify-writes, hence full barriers.
 * Deviation  The kernel spins without end. A reader here lets the host run somebody else every
 *            SPINS_BEFORE_YIELD loads, and the watchdog reports a writer that never ends.
 *
 * @module
 */
import { fetchAdd, park, readOnce, spinLimit, write } from '#memory';
import { BUSTED_SEQCOUNT, isMutant } from '#mutants';

import { bug } from '../base/bug.js';
import type { Cpu } from '../machine/cpu.js';
import { beginWait, checkHalted, cpuRelax, endWait } from '../machine/sched.js';
import { WAIT_SEQCOUNT } from '../machine/wait-kind.js';
import { type Ptr, struct, word } from '../memory/layout.js';

/** Lets readers see that a writer came across them. Writers exclude each other by a lock of their own. */
export const Seqcount = struct('seqcount', {
  sequence: word, // even: stable; odd: write in progress (I1)
});
export type Seqcount = Ptr<'seqcount'>;

/** What a reader saw at begin; only readSeqcountRetry reads it. */
export type SeqcountSnapshot = number & { readonly seqcount: unique symbol };

const SPINS_BEFORE_YIELD = spinLimit(1000);
const YIELD_MS = 0.05;

/** Makes it even: no writer. @kernel seqcount_init */
export function initSeqcount(cpu: Cpu, seqcount: Seqcount): void {
  write(cpu, seqcount, Seqcount.sequence, 0);
}

/** Opens a read section; waits while a write is in progress. @kernel read_seqcount_begin */
export function readSeqcountBegin(cpu: Cpu, seqcount: Seqcount): SeqcountSnapshot {
  const sequence = readOnce(cpu, seqcount, Seqcount.sequence); // pairs with writeSeqcountEnd
  if (isMutant(cpu, BUSTED_SEQCOUNT) || (sequence & 1) === 0) return sequence as SeqcountSnapshot;
  return waitForEven(cpu, seqcount);
}

/** Opens a read section without waiting: under a writer, the retry is certain. @kernel raw_seqcount_begin */
export function rawSeqcountBegin(cpu: Cpu, seqcount: Seqcount): SeqcountSnapshot {
  return (readOnce(cpu, seqcount, Seqcount.sequence) & ~1) as SeqcountSnapshot;
}

/** Closes a read section. True means that a writer ran: discard what was read. @kernel read_seqcount_retry */
export function readSeqcountRetry(cpu: Cpu, seqcount: Seqcount, seen: SeqcountSnapshot): boolean {
  return readOnce(cpu, seqcount, Seqcount.sequence) !== seen; // pairs with writeSeqcountBegin
}

/** Opens a write section; the caller's lock must be held (I2). @kernel write_seqcount_begin */
export function writeSeqcountBegin(cpu: Cpu, seqcount: Seqcount): void {
  const before = fetchAdd(cpu, seqcount, Seqcount.sequence, 1); // pairs with readSeqcountRetry
  if ((before & 1) !== 0) bug(`seqcount ${seqcount}: writers overlap (I2)`);
}

/** Closes a write section. @kernel write_seqcount_end */
export function writeSeqcountEnd(cpu: Cpu, seqcount: Seqcount): void {
  const before = fetchAdd(cpu, seqcount, Seqcount.sequence, 1); // pairs with readSeqcountBegin
  if ((before & 1) === 0) bug(`seqcount ${seqcount}: end without begin (I1)`);
}

/** Makes every read section that is open retry. @kernel write_seqcount_invalidate */
export function writeSeqcountInvalidate(cpu: Cpu, seqcount: Seqcount): void {
  fetchAdd(cpu, seqcount, Seqcount.sequence, 2);
}

function waitForEven(cpu: Cpu, seqcount: Seqcount): SeqcountSnapshot {
  beginWait(cpu, WAIT_SEQCOUNT, seqcount);
  for (let spins = 1; ; spins++) {
    const sequence = readOnce(cpu, seqcount, Seqcount.sequence); // pairs with writeSeqcountEnd
    if ((sequence & 1) === 0) {
      endWait(cpu);
      return sequence as SeqcountSnapshot;
    }
    if (spins % SPINS_BEFORE_YIELD !== 0) {
      cpuRelax(cpu, spins);
    } else {
      park(cpu, seqcount, Seqcount.sequence, sequence, YIELD_MS); // nobody wakes: a yield
      checkHalted(cpu);
    }
  }
}
