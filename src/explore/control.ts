/**
 * The control block: what the controller of an exploration keeps, in one array of words.
 *
 * The virtual engine has it for itself; the workers engine shares it between the workers, and only who has
 * the turn touches it. A schedule runs from a plan (who goes first where, and the rule for the rest), and
 * leaves a trace of every step.
 *
 *   head      | one task after the other | deviations   | trace             | log          | sleepers
 *   HEAD_WORDS  TASK_WORDS × TASKS_MAX     step, task …   TRACE_WORDS × …     at, count …    mask …
 *
 * @module
 */
import { lowestBit } from '../base/bits.js';

/** Tasks of one program at most: their masks are words. */
export const TASKS_MAX = 16;
/** Steps of one schedule at most; a schedule that takes more ends with END_STEPS. */
export const STEPS_MAX = 20_000;
/** Switches that a plan may ask for. */
export const DEVIATIONS_MAX = STEPS_MAX;
/** Stores that are noted for restoring. */
const LOG_MAX = 2 * STEPS_MAX;

// --- the head ---

/** Operations made so far: the number of the step that comes next. */
export const C_STEP = 0;
/** The task whose turn it is; -1 if nobody's, and then the schedule has ended. */
export const C_TURN = 1;
/** The task that made the last step; -1 before the first. */
export const C_LAST = 2;
/** Why the schedule ended: END_*; 0 while it runs. */
export const C_END = 3;
/** RULE_*: who goes where the plan asks for nobody. */
export const C_RULE = 4;
/** State of the random numbers of the rule. */
export const C_RANDOM = 5;
/** Deviations of the plan, and how many were taken. */
export const C_DEVIATIONS = 6;
export const C_DEVIATIONS_TAKEN = 7;
/** How many tasks the program has. */
export const C_TASKS = 8;
/** Entries of the log. */
export const C_LOG = 9;
/** Steps after which the schedule is ended. */
export const C_STEP_LIMIT = 10;
/** Tasks that need not be tried next: others have been, and nothing since depends on them (sleep set). */
export const C_SLEEPING = 11;
/** Sleepers so far, so that the first to come is woken first. */
export const C_PARKED = 12;
/** PCT: the next priority below all others. */
export const C_LOWEST = 13;
/** Counts the beginnings and the ends of checks: odd while the program's check or observe runs. */
export const C_JUDGED = 14;
/** Unit: milliseconds. How far a task's clock moves at each look. */
export const C_TICK = 15;
/** Times that all who spin were let go on because nobody else could. */
export const C_SPIN_RELEASES = 16;
/** Step at which the sleeping tasks of the plan begin to sleep (DPOR). */
export const C_SLEEP_FROM = 17;
/** 1: the other program is asked who goes (explore/outside-controller.ts). */
export const C_ASKING = 18;
/** Hash of all steps so far: two runs of one schedule must agree. */
export const C_HASH = 19;
/** 1: the program's setup has begun. */
export const C_SETTING_UP = 20;
export const HEAD_WORDS = 32;

// --- one task ---

/** T_READY …: what the task does. */
export const T_STATE = 0;
/** The operation it is about to make: OP_*, its first word, how many words. */
export const T_KIND = 1;
export const T_AT = 2;
export const T_COUNT = 3;
/** It sleeps, and somebody has woken it. */
export const T_WOKEN = 4;
/** It sleeps for so long at most; -1: until it is woken. Unit: milliseconds. */
export const T_TIMEOUT = 5;
/** Its place among the sleepers. */
export const T_PARKED = 6;
/** PCT and POS: who has the highest goes first. */
export const T_PRIORITY = 7;
/** Its time so far. Unit: milliseconds. */
export const T_CLOCK = 8;
/** 1: the next operation belongs to the step that was just made. */
export const T_SKIP = 9;
/** Hash of what it read since its last turn of a spin loop, and before that. */
export const T_SPIN_HASH = 10;
export const T_SPIN_BEFORE = 11;
/** 1: it changed something meanwhile, and so does not just spin. */
export const T_STORED = 12;
/** Marked loads since then; the first WATCH_MAX are kept as word and value. */
export const T_READS = 13;
/** 1: it goes on when one of the words it watches has changed. */
export const T_WATCHING = 14;
/** The word that it has just updated, 0 if none, and what was there before. */
export const T_UPDATED = 15;
export const T_BEFORE = 16;
export const T_WATCH = 17;
export const WATCH_MAX = 8;
export const TASK_WORDS = T_WATCH + 2 * WATCH_MAX;

export const STATE_NONE = 0;
/** It waits for its turn. */
export const STATE_READY = 1;
export const STATE_FINISHED = 2;
/** An exception ended it. */
export const STATE_DIED = 3;

// --- the trace ---

/** Words of a step. */
export const TRACE_WORDS = 4;
/** Task, and operation << 4, and flags. */
export const TR_WHAT = 0;
export const TR_AT = 1;
export const TR_COUNT = 2;
/** Tasks that could have gone. */
export const TR_ENABLED = 3;
/** Flag of TR_WHAT: the sleep ended because its time was up. */
export const TRACE_TIMED_OUT = 1 << 9;
/** … nobody could go, and all who wait in spin loops or for a time were let go on. */
export const TRACE_RELEASED = 1 << 10;
/** … the task could go because a word that it watched had changed. */
export const TRACE_WATCHED = 1 << 11;

export const TASKS_AT = HEAD_WORDS;
export const DEVIATIONS_AT = TASKS_AT + TASKS_MAX * TASK_WORDS;
export const TRACE_AT = DEVIATIONS_AT + 2 * DEVIATIONS_MAX;
export const LOG_AT = TRACE_AT + TRACE_WORDS * STEPS_MAX;
export const LOG_END = LOG_AT + 2 * LOG_MAX;
/** RULE_SLEEP_SETS: tasks that slept at each step. */
export const SLEEP_AT = LOG_END;
export const CONTROL_WORDS = SLEEP_AT + STEPS_MAX;

// --- rules ---

/** The task that moved last goes on while it can; then the one with the lowest number. */
export const RULE_FIRST = 0;
/** Anybody who can, each as likely. */
export const RULE_RANDOM = 1;
/** The highest priority; deviations lower one (PCT). */
export const RULE_PRIORITY = 2;
/** The highest priority, drawn anew for operations that raced with the one made (POS). */
export const RULE_POS = 3;
/** As RULE_FIRST, but not those that sleep; ends the schedule if nobody else can (DPOR). */
export const RULE_SLEEP_SETS = 4;
/** Whoever controls from outside is asked, where there is a choice. */
export const RULE_ASK = 5;

// --- ends ---

export const END_NONE = 0;
/** All tasks have finished. */
export const END_DONE = 1;
/** Nobody can go on, and at least one task sleeps or waits for a lock. */
export const END_DEADLOCK = 2;
/** Nobody can go on but by spinning, and nothing they look at changes. */
export const END_LIVELOCK = 3;
/** Too many steps. */
export const END_STEPS = 4;
/** A task died. */
export const END_DIED = 5;
/** Every task that could go sleeps: what follows has been seen. */
export const END_SEEN = 6;
/** The plan asks for a task that cannot go: the program is not what it was. */
export const END_DIVERGED = 7;

/** Task of a step. */
export function stepTask(what: number): number {
  return what & 15;
}

/** Operation of a step. */
export function stepKind(what: number): number {
  return (what >> 4) & 31;
}

/** Who goes by RULE_FIRST, of the tasks that can go: the one that made the last step, or the lowest. */
export function firstOf(last: number, enabled: number): number {
  return last >= 0 && ((enabled >> last) & 1) !== 0 ? last : lowestBit(enabled);
}
