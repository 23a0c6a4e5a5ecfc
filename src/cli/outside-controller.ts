/**
 * `faultline explore --controller stdio`: another program picks who goes next, in lines of JSON.
 *
 *   out  {"type":"start","schema":"faultline.controller/1","program":…,"tasks":[…]}
 *   out  {"type":"choose","schedule":1,"step":7,"last":0,"enabled":[0,1],"pending":[{"task":0,"operation":…},…]}
 *   in   {"task":1}
 *   out  {"type":"end","schedule":1,"steps":54,"outcome":…,"failure":null,"string":"lt-5@…"}
 *   in   {"again":true}          once more from the start; anything at any time may be {"end":true}
 *
 * Only choices are asked for: where one task can go, it goes.
 *
 * @module
 */
import { createInterface } from 'node:readline';

import {
  controlFromOutside,
  CONTROLLER_AGAIN,
  CONTROLLER_END,
  CONTROLLER_TASK,
  EXIT_GOOD,
  EXIT_INTERRUPTED,
  EXIT_USAGE,
  EXIT_VIOLATION,
  FaultlineError,
  type ProgramRef,
} from 'faultline';

import { reasonOf } from '../base/reason.js';
import { untilInterrupted } from './interrupt.js';

interface ControllerOptions {
  readonly mutant?: string;
  readonly watchdog: number;
}

/** Runs schedules as stdin says; the exit code: 1 if one of them failed. */
export async function runController(
  program: ProgramRef,
  { mutant, watchdog }: ControllerOptions,
): Promise<number> {
  const lines = createInterface({ input: process.stdin });
  const aborter = new AbortController();
  const interrupted = untilInterrupted();
  const session = controlFromOutside(program, {
    ...(mutant !== undefined && { mutant }),
    stallMs: watchdog * 1000,
    signal: aborter.signal,
  });
  const end = (): void => {
    session.reply(CONTROLLER_END, 0);
  };
  interrupted.addEventListener('abort', end);
  let number = 0;
  lines.on('line', (line) => {
    number++;
    if (line.trim() === '') return;
    const reply = replyOf(line);
    if (typeof reply !== 'string') session.reply(...reply);
    else aborter.abort(badController(`line ${number}: ${reply}`));
  });
  lines.on('close', end);
  try {
    const { failed } = await session.ended;
    if (failed) return EXIT_VIOLATION;
    return interrupted.aborted ? EXIT_INTERRUPTED : EXIT_GOOD;
  } finally {
    lines.close();
    process.stdin.destroy();
  }
}

function badController(what: string): FaultlineError {
  return new FaultlineError('FAULTLINE_BAD_CONTROLLER', `--controller stdio: ${what}`, EXIT_USAGE);
}

/** What a line asks for, or what is wrong with it. */
function replyOf(line: string): readonly [number, number] | string {
  let value: unknown;
  try {
    value = JSON.parse(line);
  } catch (error) {
    return `no JSON: ${reasonOf(error)}`;
  }
  if (typeof value !== 'object' || value === null) return 'not an object';
  const { task, again, end } = value as Partial<Record<'task' | 'again' | 'end', unknown>>;
  if (end === true) return [CONTROLLER_END, 0];
  if (again === true) return [CONTROLLER_AGAIN, 0];
  if (typeof task === 'number' && Number.isInteger(task) && task >= 0) {
    return [CONTROLLER_TASK, task];
  }
  return 'neither {"task":n} nor {"again":true} nor {"end":true}';
}
