/**
 * What the workers of an exploration share besides the control block: who has the token, and what is said
 * from one to the other.
 *
 * @module
 */
import { SLOT_WORDS } from '../memory/turn-token.js';
import { TASKS_MAX } from './control.js';

/** The task whose worker has the token; for the watchdog. */
export const CREW_HOLDER = 0;
/** 1 while a schedule runs. */
export const CREW_RUNNING = 1;
/** Schedules begun. */
export const CREW_RUNS = 2;
/** The task that is being brought to its first operation; -1: all are there. */
export const CREW_STARTING = 3;
/** 1: whoever gets the token leaves. */
export const CREW_QUIT = 4;
/** Workers that wait for their first schedule. */
export const CREW_ARRIVED = 5;
/** One slot for each task. */
const CREW_SLOTS = SLOT_WORDS;
/** What ended a task: the name of the error, its message, its stack. */
const TEXT_WORDS = 16_384;
export const TEXT_MAX = TEXT_WORDS - 1;
export const CREW_ERROR_NAME = CREW_SLOTS + TASKS_MAX * SLOT_WORDS;
export const CREW_ERROR_MESSAGE = CREW_ERROR_NAME + TEXT_WORDS;
export const CREW_ERROR_STACK = CREW_ERROR_MESSAGE + TEXT_WORDS;
export const CREW_WORDS = CREW_ERROR_STACK + TEXT_WORDS;

/** Where the task's worker waits for the token. */
export function slotOf(task: number): number {
  return CREW_SLOTS + task * SLOT_WORDS;
}
