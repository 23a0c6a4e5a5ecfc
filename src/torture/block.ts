/**
 * What the workers of a run share with the main thread, besides the machine: how it goes on, and what each member
 * has done.
 *
 * A member's own words are written by whatever worker is that member just now; all else by the main thread, or
 * by the worker that is named. Everybody may look.
 *
 * @module
 */
import { RENDEZVOUS_WORDS } from '../memory/rendezvous.js';
import { BUCKETS } from '../workloads/histogram.js';

/** The gate at the start: behind it the target is set up. */
export const B_GATE = 0;
/** The gate that members stand at while the main thread rearranges them. */
export const B_RESUME = B_GATE + RENDEZVOUS_WORDS;
/** Members that stand there. */
export const B_PAUSED = B_RESUME + RENDEZVOUS_WORDS;
/** Members that have left for good; of those that serve nobody, and of all. */
export const B_LEFT = B_PAUSED + RENDEZVOUS_WORDS;
export const B_LEFT_ALL = B_LEFT + RENDEZVOUS_WORDS;

const HEAD = B_LEFT_ALL + RENDEZVOUS_WORDS;
/** PHASE_*, or PHASE_OVER. */
export const B_PHASE = HEAD;
/** PAUSE_*: whether members are to stand still. */
export const B_PAUSE = HEAD + 1;
/** By how many places members have moved on. */
export const B_SHIFT = HEAD + 2;
/** The worker that is offline, counted from 1; 0: none is. */
export const B_OFFLINE = HEAD + 3;
/** What setup returned; written by worker 0. */
export const B_STATE = HEAD + 4;
/** 1: teardown has been reached, and what it left is in B_LOST; written by worker 0. */
export const B_ENDED = HEAD + 5;
/** 1: somebody writes the violation; and 1: it is written. */
export const B_FAILING = HEAD + 6;
export const B_FAILED = HEAD + 7;
/** CPU that has seen it, and a set of up to 32 others that took part. */
export const B_FAIL_CPU = HEAD + 8;
export const B_FAIL_OTHERS = HEAD + 9;

/** What a target says that it has seen, and the rule that it breaks. */
export const FAIL_TEXT_MAX = 1023;
export const B_FAIL_TEXT = HEAD + 16;
export const INVARIANT_MAX = 31;
export const B_FAIL_INVARIANT = B_FAIL_TEXT + FAIL_TEXT_MAX + 1;
/** What was not given back. */
export const LOST_MAX = 1023;
export const B_LOST = B_FAIL_INVARIANT + INVARIANT_MAX + 1;
/** First member. */
export const B_MEMBERS = B_LOST + LOST_MAX + 1;

/** After the phases: everybody leaves. */
export const PHASE_OVER = 2;

export const PAUSE_NONE = 0;
/** Members stand where they are. */
export const PAUSE_STAND = 1;
/** They leave, and enter at another place. */
export const PAUSE_MOVE = 2;

/** Kinds of operations of a target at most. */
export const OPERATIONS_MAX = 64;
/** In a member's words: how often it did each, */
export const TM_COUNTS = 0;
/** … operations of the liveness phase, */
export const TM_LIVELY = OPERATIONS_MAX;
/** … the longest wait and hold, and the longest time without an operation. Unit: microseconds. */
export const TM_WAIT_MAX = OPERATIONS_MAX + 1;
export const TM_HOLD_MAX = OPERATIONS_MAX + 2;
export const TM_GAP_MAX = OPERATIONS_MAX + 3;
/** … and waits and holds by bucket. */
export const TM_WAITS = OPERATIONS_MAX + 16;
export const TM_HOLDS = TM_WAITS + BUCKETS;
const MEMBER_WORDS = TM_HOLDS + BUCKETS;

/** First word of a member. */
export function memberAt(index: number): number {
  return B_MEMBERS + index * MEMBER_WORDS;
}

/** Words of a block for so many members. */
export function blockWords(members: number): number {
  return memberAt(members);
}
