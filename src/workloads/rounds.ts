/**
 * Rounds: the main thread lets the crew run for a while, and reads what each member did.
 *
 * Protocol   main                                    member
 *              stop := 0; round += 1; wake all         wait until round moves on
 *              sleep                                   work until stop; count and time it oneself
 *              stop := 1; wait for all to finish       store the counts; finished += 1
 *              read the counts
 *            A last round with `over` set ends the members' programs.
 *            Members time themselves: the main thread's clock sees the wake-ups, theirs does not.
 * Ordering   Counts are written before `finished` is raised and read after; `stop` is only a hint.
 *
 * @module
 */
import { fetchAdd, park, readAddress, readOnce, unpark, writeAddress, writeOnce } from '#memory';

import type { Cpu } from '../machine/cpu.js';
import { EVERYBODY } from '../machine/limits.js';
import { beginWait, checkHalted, endWait } from '../machine/sched.js';
import { WAIT_ROUND } from '../machine/wait-kind.js';
import { address, cacheline, member, type Ptr, struct, word } from '../memory/layout.js';
import { Histogram } from './histogram.js';

export const Rounds = struct('rounds', {
  round: word, // counts rounds; parked on by members
  over: word, // the round that starts now is no round: return
  line1: cacheline,
  stop: word, // the round is to end
  line2: cacheline,
  finished: word, // members that have finished, over all rounds; parked on by the main thread
  line3: cacheline,
});
export type Rounds = Ptr<'rounds'>;

/** What one member did in the round before. */
export const MemberResult = struct('member_result', {
  operations: address, // a count, as are the next two
  retries: address,
  accesses: address, // loads, stores and atomics of the program or the engine
  elapsed: address, // its own time; unit: milliseconds
  line1: cacheline,
  latencies: Histogram, // over all rounds since the reset
});
export type MemberResult = Ptr<'member_result'>;

/** Waits for the next round; false if there is none. Sleeps. */
export function awaitRound(cpu: Cpu, rounds: Rounds, last: number): boolean {
  beginWait(cpu, WAIT_ROUND, rounds);
  while (readOnce(cpu, rounds, Rounds.round) === last) {
    park(cpu, rounds, Rounds.round, last, Infinity);
    checkHalted(cpu);
  }
  endWait(cpu);
  return readOnce(cpu, rounds, Rounds.over) === 0;
}

/** True until the round is to end. */
export function roundGoesOn(cpu: Cpu, rounds: Rounds): boolean {
  return readOnce(cpu, rounds, Rounds.stop) === 0;
}

/** What one member did in a round. */
export interface MemberCounts {
  readonly operations: number;
  readonly retries: number;
  readonly accesses: number;
  readonly elapsedMs: number;
}

/** Says what this member did in the round. */
export function finishRound(
  cpu: Cpu,
  rounds: Rounds,
  result: MemberResult,
  counts: MemberCounts,
): void {
  writeAddress(cpu, result, MemberResult.operations, counts.operations);
  writeAddress(cpu, result, MemberResult.retries, counts.retries);
  writeAddress(cpu, result, MemberResult.accesses, counts.accesses);
  writeAddress(cpu, result, MemberResult.elapsed, counts.elapsedMs);
  fetchAdd(cpu, rounds, Rounds.finished, 1);
  unpark(cpu, rounds, Rounds.finished, EVERYBODY);
}

/** Opens a round, or with `over` ends the members' programs. */
export function openRound(cpu: Cpu, rounds: Rounds, over: boolean): void {
  writeOnce(cpu, rounds, Rounds.stop, 0);
  writeOnce(cpu, rounds, Rounds.over, over ? 1 : 0);
  fetchAdd(cpu, rounds, Rounds.round, 1);
  unpark(cpu, rounds, Rounds.round, EVERYBODY);
}

/** Asks the members to end the round. */
export function stopRound(cpu: Cpu, rounds: Rounds): void {
  writeOnce(cpu, rounds, Rounds.stop, 1);
}

/** One member's counts of the round before; only between rounds. */
export function memberCounts(cpu: Cpu, result: MemberResult): MemberCounts {
  return {
    operations: readAddress(cpu, result, MemberResult.operations),
    retries: readAddress(cpu, result, MemberResult.retries),
    accesses: readAddress(cpu, result, MemberResult.accesses),
    elapsedMs: readAddress(cpu, result, MemberResult.elapsed),
  };
}

/** The member's histogram. */
export function memberLatencies(result: MemberResult): Histogram {
  return member(result, MemberResult.latencies);
}

/** Rounds the members have finished, all together. */
export function finishedCount(cpu: Cpu, rounds: Rounds): number {
  return readOnce(cpu, rounds, Rounds.finished);
}
