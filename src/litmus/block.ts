/**
 * What the workers of a litmus run share besides the machine: the gate between iterations, how the iteration
 * is to be forced, and what came of it.
 *
 * Everything but the gate and the row of stages is written by the worker that came to the gate last, while all
 * others wait there, and read behind it; a task's own words are written by its worker before it comes.
 *
 * @module
 */
import { TASKS_MAX } from '../explore/control.js';
import { RENDEZVOUS_WORDS } from '../memory/rendezvous.js';

/** The gate between iterations. */
export const B_GATE = 0;
/** The points of the window, as stages. */
export const B_STAGES = B_GATE + RENDEZVOUS_WORDS;
/** 1: come to an end; set from outside. */
export const B_STOP = B_STAGES + RENDEZVOUS_WORDS;

const HEAD = B_STOP + RENDEZVOUS_WORDS;
/** 1: there is no next iteration. */
export const B_OVER = HEAD;
/** Iterations that have ended. */
export const B_ITERATIONS = HEAD + 1;
/** Of these, who passed through the window. */
export const B_REACHED = HEAD + 2;
/** Iterations that broke a rule, and the first that did. */
export const B_VIOLATIONS = HEAD + 3;
export const B_FIRST_VIOLATION = HEAD + 4;
/** FORCE_*: how the iteration is forced. */
export const B_FORCE = HEAD + 5;
/** Of the iteration's random delays. */
export const B_SEED = HEAD + 6;
/** What setup returned. */
export const B_WORLD = HEAD + 7;
/** Texts in use. */
export const B_TEXTS = HEAD + 8;
/** When the first iteration began, and the first that broke a rule ended. Unit: milliseconds. */
export const B_STARTED_MS = HEAD + 9;
export const B_VIOLATED_MS = HEAD + 10;
/** When the last one ended. */
export const B_ENDED_MS = HEAD + 11;
/** Reports of lockdep that were seen. */
export const B_LOCK_REPORTS = HEAD + 12;
/** Iterations that could not end: the machine was halted from outside. */
export const B_HALTED = HEAD + 13;
/** END_*: why there is no next iteration. */
export const B_END = HEAD + 14;

/** How often each outcome that the program declares has come. */
export const OUTCOMES_MAX = 32;
export const B_OUTCOMES = HEAD + 16;

/** A task's own words: the gate's number when it came, and 1 if it died, with what it said. */
export const TASK_WORDS = 512;
export const B_TASKS = B_OUTCOMES + OUTCOMES_MAX;
export const LT_CAME = 0;
export const LT_DIED = 1;
export const LT_MESSAGE = 2;
export const MESSAGE_MAX = TASK_WORDS - LT_MESSAGE - 1;

/** Violations and undeclared outcomes: how often each has come, and its text. */
export const TEXTS_MAX = 16;
export const B_TEXT_TABLE = B_TASKS + TASKS_MAX * TASK_WORDS;
export const TX_COUNT = 0;
/** TEXT_*: what it is. */
export const TX_KIND = 1;
export const TX_TEXT = 2;
export const TEXT_ENTRY_WORDS = TX_TEXT + MESSAGE_MAX + 1;

/** Slab caches at the start, as JSON: or why setup failed. */
export const B_SETUP = B_TEXT_TABLE + TEXTS_MAX * TEXT_ENTRY_WORDS;
export const SETUP_MAX = 8191;
export const BLOCK_WORDS = B_SETUP + SETUP_MAX + 1;

/** A rule that was broken. */
export const TEXT_RULE = 0;
/** An outcome that the program does not declare. */
export const TEXT_OUTCOME = 1;
/** What lockdep reported: it does so once, however often it happens. */
export const TEXT_LOCK_REPORT = 2;

/** Something outside ended it, or it goes on. */
export const END_OUTSIDE = 0;
/** All iterations that were wanted have ended. */
export const END_ALL = 1;
/** AFTER_VIOLATION_ITERATIONS, or _MS, have gone by. */
export const END_VIOLATION_COUNT = 2;
export const END_VIOLATION_TIME = 3;
/** It has taken as long as it may. */
export const END_SECONDS = 4;

/** Nothing is forced: tasks start together, and run as they can. */
export const FORCE_NONE = 0;
/** Random delays at the start and at points. */
export const FORCE_DELAYS = 1;
/** Tasks are held up at points until the window is there. */
export const FORCE_ORDER = 2;
/** Both. */
export const FORCE_BOTH = FORCE_DELAYS | FORCE_ORDER;

/** First word of a task. */
export function taskAt(task: number): number {
  return B_TASKS + task * TASK_WORDS;
}

/** First word of an entry of the text table. */
export function textAt(entry: number): number {
  return B_TEXT_TABLE + entry * TEXT_ENTRY_WORDS;
}
