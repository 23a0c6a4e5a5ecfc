/**
 * Another program as the controller: it is told what each task is about to do, and says who goes.
 *
 * Protocol   The worker with the virtual engine writes what it asks to stdout, a line of JSON each, and sleeps
 *            until a reply has been left for it; the main thread reads stdin and leaves replies, in a ring of
 *            shared words, in order. What the ring has no room for waits.
 *
 * @module
 */
import { writeSync } from 'node:fs';

import { lowestBit } from '../base/bits.js';
import { FaultlineError } from '../base/bug.js';
import { sharedIntegers } from '../memory/shared-tables.js';
import { arrive, awaitArrivals, glance, leaveWord, pause } from '../memory/turn-token.js';
import { OP_NAMES } from '../memory/turnstile.js';
import {
  C_ASKING,
  C_LAST,
  C_STEP,
  C_TASKS,
  RULE_ASK,
  STATE_READY,
  T_AT,
  T_COUNT,
  T_KIND,
  T_STATE,
  TASK_WORDS,
  TASKS_AT,
} from './control.js';
import type { Engine } from './engine.js';
import { exploreWithCrew } from './explore-crew.js';
import { Judge, type Verdict } from './judge.js';
import { deviationsOf, setPlan } from './plan.js';
import { findProgram, type ProgramRef } from './program-ref.js';
import { checkOf, formatSchedule } from './schedule.js';
import type { VirtualEngine } from './virtual-engine.js';

export const CONTROLLER_SCHEMA = 'faultline.controller/1';

/** Replies. */
export const CONTROLLER_TASK = 1;
export const CONTROLLER_AGAIN = 2;
export const CONTROLLER_END = 3;

/** Replies that have room. */
const RING = 1024;
/** How long the writer of a full pipe waits until there may be room again. Unit: milliseconds. */
const PIPE_WAIT_MS = 1;
/** How long the others wait until there may be room again. Unit: milliseconds. */
const RING_WAIT_MS = 5;
/** How many have come, how many have been read; then each two words. */
const R_COUNT = 0;
const R_READ = 1;
const R_FIRST = 2;

/** A session, for the main thread. */
export interface ControllerSession {
  /** Leaves a reply. */
  readonly reply: (kind: number, value: number) => void;
  /** Resolves when the other program has had enough. */
  readonly ended: Promise<{ readonly failed: boolean }>;
}

interface SessionArgs {
  readonly program: ProgramRef;
  readonly mutant: string | null;
  readonly replies: Int32Array;
}

/** Starts a session on a thread of its own. */
export function controlFromOutside(
  program: ProgramRef,
  options: { readonly mutant?: string; readonly stallMs: number; readonly signal: AbortSignal },
): ControllerSession {
  const replies = sharedIntegers(R_FIRST + 2 * RING);
  const args: SessionArgs = { program, mutant: options.mutant ?? null, replies };
  const writer = new ReplyWriter(replies);
  const ended = exploreWithCrew({
    program,
    engine: 'virtual',
    explorer: { module: 'faultline:explore', entry: 'serveController', args },
    stallMs: options.stallMs,
    signal: options.signal,
    ...(options.mutant !== undefined && { mutant: options.mutant }),
  }).finally(() => {
    writer.stop();
  }) as Promise<{ failed: boolean }>;
  const reply = (kind: number, value: number): void => {
    writer.add(kind, value);
  };
  return { reply, ended };
}

/** The main thread's end of the ring. */
class ReplyWriter {
  readonly #replies: Int32Array;
  readonly #waiting: (readonly [number, number])[] = [];
  #given = 0;
  #timer: NodeJS.Timeout | undefined;

  constructor(replies: Int32Array) {
    this.#replies = replies;
  }

  add(kind: number, value: number): void {
    this.#waiting.push([kind, value]);
    if (this.#timer === undefined) this.#write();
  }

  stop(): void {
    clearTimeout(this.#timer);
    this.#waiting.length = 0;
  }

  readonly #write = (): void => {
    this.#timer = undefined;
    const replies = this.#replies;
    const room = RING - (this.#given - glance(replies, R_READ));
    for (const [kind, value] of this.#waiting.splice(0, room)) {
      const at = R_FIRST + 2 * (this.#given++ % RING);
      replies[at] = kind;
      replies[at + 1] = value;
      arrive(replies, R_COUNT);
    }
    if (this.#waiting.length > 0) this.#timer = setTimeout(this.#write, RING_WAIT_MS);
  };
}

/** The session has been ended from outside. */
class SessionEnded extends Error {
  override readonly name = 'SessionEnded';
}

/** The worker's side. */
export async function serveController(
  engine: Engine,
  { program: ref, mutant, replies }: SessionArgs,
): Promise<{ failed: boolean }> {
  const program = await findProgram(ref);
  const { control } = engine;
  const judge = new Judge(engine, program);
  let read = 0;
  const nextReply = (): readonly [number, number] => {
    awaitArrivals(replies, R_COUNT, read + 1);
    const at = R_FIRST + 2 * (read++ % RING);
    const [kind, value] = [replies[at]!, replies[at + 1]!];
    leaveWord(replies, R_READ, read);
    if (kind === CONTROLLER_END) throw new SessionEnded();
    return [kind, value];
  };
  let schedule = 0;
  let failed = false;
  (engine as VirtualEngine).controller.ask = (enabled) => {
    leaveWord(control, C_ASKING, 1);
    tell({ type: 'choose', schedule, ...choiceOf(control, enabled) });
    const [kind, task] = nextReply();
    leaveWord(control, C_ASKING, 0);
    if (kind === CONTROLLER_TASK && ((enabled >> task) & 1) !== 0) return task;
    const what = kind === CONTROLLER_TASK ? `task ${task} cannot go` : 'the schedule is not done';
    throw badController(what);
  };
  try {
    tell({
      type: 'start',
      schema: CONTROLLER_SCHEMA,
      program: program.name,
      title: program.title,
      mutant,
      tasks: program.tasks.map(({ name }) => name),
    });
    for (;;) {
      schedule++;
      setPlan(control, { rule: RULE_ASK });
      engine.run();
      const { error } = engine;
      if (error instanceof SessionEnded || error instanceof FaultlineError) throw error;
      const verdict = judge.judge();
      failed ||= verdict.failure !== undefined;
      tell({ type: 'end', schedule, ...endOf(control, program.name, mutant, verdict) });
      engine.restore();
      if (nextReply()[0] !== CONTROLLER_AGAIN) {
        throw badController('the schedule is done: {"again":true} or {"end":true}');
      }
    }
  } catch (error) {
    if (error instanceof SessionEnded) return { failed };
    throw error;
  }
}

function badController(what: string): FaultlineError {
  return new FaultlineError('FAULTLINE_BAD_CONTROLLER', `--controller stdio: ${what}`);
}

/** How a schedule ended. */
function endOf(
  control: Int32Array,
  program: string,
  mutant: string | null,
  { outcome, failure }: Verdict,
): object {
  const string = formatSchedule({
    program,
    mutants: mutant === null ? [] : [mutant],
    deviations: deviationsOf(control),
    check: checkOf(control),
  });
  return { steps: control[C_STEP], outcome: outcome ?? null, failure: failure ?? null, string };
}

/** Who can go, and what each task would do. */
function choiceOf(control: Int32Array, enabled: number): object {
  const tasks: number[] = [];
  for (let rest = enabled; rest !== 0; rest &= rest - 1) tasks.push(lowestBit(rest));
  const pending = [];
  for (let task = 0; task < control[C_TASKS]!; task++) {
    const t = TASKS_AT + task * TASK_WORDS;
    if (control[t + T_STATE] !== STATE_READY) continue;
    const operation = OP_NAMES[control[t + T_KIND]!];
    pending.push({ task, operation, at: control[t + T_AT], words: control[t + T_COUNT] });
  }
  return { step: control[C_STEP], last: control[C_LAST], enabled: tasks, pending };
}

/** Waits while the pipe is full. @throws SessionEnded if the other program has gone */
function tell(message: object): void {
  const text = Buffer.from(`${JSON.stringify(message)}\n`);
  for (let written = 0; written < text.length;) {
    try {
      written += writeSync(1, text, written);
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      if (code === 'EPIPE') throw new SessionEnded();
      if (code !== 'EAGAIN') throw error;
      pause(PIPE_WAIT_MS);
    }
  }
}
