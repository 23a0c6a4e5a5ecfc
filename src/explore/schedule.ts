/**
 * A schedule as a short string: what to run, who goes first where, and how to tell that it is the same run.
 *
 *   lt-5+M-4:ops=0-2.5/0,steps=90@12>1.15>0~a1b2c3
 *   |    |   |                  |         check of the trace
 *   |    |   |                  switches: at step 12 task 1 goes, at step 15 task 0
 *   |    |   options that change the run; those at their defaults are left out
 *   |    mutants
 *   program
 *
 *   schedule  = program { '+' mutant } [ ':' option { ',' option } ] [ '@' switch { '.' switch } ] '~' check
 *   switch    = step '>' task                          where RULE_FIRST would have another task go
 *   option    = 'ops=' tasks                           the operations that are left of each task
 *             | 'steps=' limit
 *   tasks     = left { '/' left }
 *   left      = '-' | range { '.' range }              '-': none; a range is a number, or first-last
 *
 * The check is six hexadecimal digits of the hash of all steps: a replay in which it differs has run other
 * code, or the same code on another machine layout. In a shell the string needs quotes.
 *
 * @module
 */
import { FaultlineError } from '../base/bug.js';
import { C_HASH, DEVIATIONS_MAX, STEPS_MAX, TASKS_MAX } from './control.js';
import type { Deviation } from './plan.js';

/** Everything that decides a run. */
export interface Schedule {
  readonly program: string;
  readonly mutants: readonly string[];
  /** Of each task, the numbers of the operations that are left; absent: all. */
  readonly operations?: readonly (readonly number[])[];
  /** Steps after which the run is ended; absent: STEPS_MAX. */
  readonly stepLimit?: number;
  /** Switches, in order of their steps. */
  readonly deviations: readonly Deviation[];
  /** 24 bits: see checkOf. */
  readonly check: number;
}

const CHECK_DIGITS = 6;
const OPERATIONS_MAX = 10_000;
const NAME = /^[\w./-]+$/;

/** The check of the run that the control block has just seen. */
export function checkOf(control: Int32Array): number {
  const hash = control[C_HASH]!;
  return (hash ^ (hash >>> 24)) & 0xff_ff_ff;
}

/** The schedule as a string. @throws FaultlineError FAULTLINE_BAD_SCHEDULE for a name that cannot be in one */
export function formatSchedule(schedule: Schedule): string {
  const names = [schedule.program, ...schedule.mutants];
  for (const name of names) {
    if (!NAME.test(name)) {
      throw badSchedule(
        `${JSON.stringify(name)} cannot be in a schedule: use letters, digits, _ . / -`,
      );
    }
  }
  const options = optionsOf(schedule);
  const switches = schedule.deviations.map(({ step, task }) => `${step}>${task}`);
  return [
    names.join('+'),
    options.length === 0 ? '' : `:${options.join(',')}`,
    switches.length === 0 ? '' : `@${switches.join('.')}`,
    `~${schedule.check.toString(16).padStart(CHECK_DIGITS, '0')}`,
  ].join('');
}

function optionsOf(schedule: Schedule): string[] {
  const options: string[] = [];
  const { operations, stepLimit } = schedule;
  if (operations !== undefined) options.push(`ops=${operations.map(formatLeft).join('/')}`);
  if (stepLimit !== undefined) options.push(`steps=${stepLimit}`);
  return options;
}

/** `[0, 1, 2, 5]` as `0-2.5`. */
function formatLeft(operations: readonly number[]): string {
  if (operations.length === 0) return '-';
  const ranges: string[] = [];
  for (let i = 0; i < operations.length;) {
    let last = i;
    while (operations[last + 1] === operations[last]! + 1) last++;
    ranges.push(last === i ? `${operations[i]!}` : `${operations[i]!}-${operations[last]!}`);
    i = last + 1;
  }
  return ranges.join('.');
}

/** The line that replays it, as a shell takes it. */
export function replayLine(schedule: string): string {
  return `faultline replay '${schedule}'`;
}

/** Reads what formatSchedule wrote. @throws FaultlineError FAULTLINE_BAD_SCHEDULE that names the character */
export function parseSchedule(text: string): Schedule {
  return new Parser(text).schedule();
}

type Options = {
  -readonly [K in 'operations' | 'stepLimit']?: Schedule[K];
};

class Parser {
  readonly #text: string;
  #at = 0;

  constructor(text: string) {
    this.#text = text;
  }

  schedule(): Schedule {
    const program = this.#name('the name of a program');
    const mutants: string[] = [];
    while (this.#take('+')) mutants.push(this.#name("the name of a mutant after '+'"));
    const options = this.#take(':') ? this.#options() : {};
    const deviations = this.#take('@') ? this.#switches() : [];
    if (!this.#take('~')) {
      const before = deviations.length === 0 ? "'+', ':', '@' or '~'" : "'.' or '~'";
      this.#fail(
        `${before} (a schedule ends with ~ and ${CHECK_DIGITS} digits; in a shell, quote it)`,
      );
    }
    const check = this.#check();
    if (this.#at < this.#text.length) this.#fail('the end of the schedule');
    return { program, mutants, ...options, deviations, check };
  }

  #options(): Options {
    const options: Options = {};
    const seen = new Set<string>();
    do {
      const at = this.#at;
      const key = /^[a-z]*/.exec(this.#text.slice(at))![0];
      if (seen.has(key)) this.#fail(`another option than ${key}, which was given already`);
      seen.add(key);
      this.#at += key.length;
      if (!['ops', 'steps'].includes(key)) {
        this.#fail("an option: 'ops' or 'steps'", at);
      }
      if (!this.#take('=')) this.#fail(`'=' after ${key}`);
      this.#option(key, options);
    } while (this.#take(','));
    return options;
  }

  #option(key: string, options: Options): void {
    if (key === 'ops') options.operations = this.#operations();
    else options.stepLimit = this.#number('a number of steps', 1, STEPS_MAX);
  }

  #operations(): number[][] {
    const tasks: number[][] = [];
    do {
      if (tasks.length === TASKS_MAX) this.#fail(`at most ${TASKS_MAX} tasks`);
      tasks.push(this.#left());
    } while (this.#take('/'));
    return tasks;
  }

  #left(): number[] {
    if (this.#take('-')) return [];
    const left: number[] = [];
    do {
      const least = (left.at(-1) ?? -1) + 1;
      const first = this.#number(
        "the number of an operation, or '-' for none",
        least,
        OPERATIONS_MAX,
      );
      const last = this.#take('-')
        ? this.#number("the last operation of the range after '-'", first + 1, OPERATIONS_MAX)
        : first;
      for (let operation = first; operation <= last; operation++) left.push(operation);
    } while (this.#take('.'));
    return left;
  }

  #switches(): Deviation[] {
    const deviations: Deviation[] = [];
    do {
      if (deviations.length === DEVIATIONS_MAX) this.#fail(`at most ${DEVIATIONS_MAX} switches`);
      const least = (deviations.at(-1)?.step ?? -1) + 1;
      const step = this.#number('the step of a switch', least, STEPS_MAX - 1);
      if (!this.#take('>')) this.#fail("'>' and a task after the step");
      deviations.push({ step, task: this.#number("a task after '>'", 0, TASKS_MAX - 1) });
    } while (this.#take('.'));
    return deviations;
  }

  #check(): number {
    const digits = /^[0-9a-f]*/.exec(this.#text.slice(this.#at))![0].slice(0, CHECK_DIGITS);
    this.#at += digits.length;
    if (digits.length < CHECK_DIGITS) this.#fail(`${CHECK_DIGITS} hexadecimal digits after '~'`);
    return Number.parseInt(digits, 16);
  }

  #name(what: string): string {
    const [name] = /^[\w./-]*/.exec(this.#text.slice(this.#at))!;
    if (name === '') this.#fail(what);
    this.#at += name.length;
    return name;
  }

  #number(what: string, least: number, most: number): number {
    const [digits] = /^\d*/.exec(this.#text.slice(this.#at))!;
    if (digits === '') this.#fail(what);
    const value = Number(digits);
    if (value < least || value > most) this.#fail(`${what}, from ${least} to ${most}`);
    this.#at += digits.length;
    return value;
  }

  #take(character: string): boolean {
    if (this.#text[this.#at] !== character) return false;
    this.#at++;
    return true;
  }

  #fail(expected: string, at = this.#at): never {
    const rest = this.#text.slice(at, at + 12);
    const found = rest === '' ? 'it ends there' : `there is ${JSON.stringify(rest)}`;
    throw badSchedule(`bad schedule: character ${at + 1} should be ${expected}, but ${found}`);
  }
}

function badSchedule(message: string): FaultlineError {
  return new FaultlineError('FAULTLINE_BAD_SCHEDULE', message);
}
