/**
 * Reads what `strace -f -ttt -o FILE` wrote: text in, calls out.
 *
 * A line is a column with the thread's id (none, `1234` or `[pid 1234]`), a time in seconds, and one of
 *
 *   mmap(NULL, 8192, …) = 0x7f587f6d0000         a call
 *   mmap(NULL, 8192 <unfinished ...>             its first half: another thread's line came between
 *   <... mmap resumed>, …) = 0x7f587f6d0000      its second half, joined with the first here
 *   --- SIGCHLD {si_signo=SIGCHLD, …} ---        a signal; of no interest
 *   +++ exited with 0 +++                        the thread's end
 *
 * Anything else is an error that names file and line, and so is a half without the other. What is not
 * an error: a call that is never resumed because its thread died or because the log ends.
 *
 * @module
 */
import {
  endOfName,
  endOfTime,
  readNumber,
  readResult,
  skipDigits,
  skipSpaces,
  splitArguments,
} from './lexer.js';
import { LinePids, UNNAMED_PID } from './line-pids.js';
import { badTrace, quoted, shortened } from './trace-error.js';

/** One call of the log. Lines count from 1; the order of lines is the order of events. */
export interface StraceCall {
  /** The thread. 0 if the log names none. */
  readonly pid: number;
  /** When it began. Unit: seconds, as logged. */
  readonly time: number;
  readonly name: string;
  /** As they are written, split at the top level. */
  readonly args: readonly string[];
  /** Undefined if the log shows no result: interrupted, never resumed, or a call that never returns. */
  readonly result: number | undefined;
  /** `ENOMEM`; empty if the call did not fail. */
  readonly error: string;
  readonly startLine: number;
  /** The same as `startLine` if it is on one line; 0 if it was never resumed. */
  readonly endLine: number;
}

/** The end of a thread. */
export interface StraceEnd {
  readonly pid: number;
  readonly time: number;
  readonly line: number;
  readonly kind: 'exited' | 'killed' | 'superseded';
  /** The thread that goes on under this one's id, if superseded; otherwise 0. */
  readonly successor: number;
}

export interface StraceLog {
  /** As errors name it. */
  readonly file: string;
  readonly lineCount: number;
  /** Times of the first and the last line. Unit: seconds. */
  readonly startTime: number;
  readonly endTime: number;
  /** In the order in which they began. */
  readonly calls: readonly StraceCall[];
  /** Those that ended, in the order in which they did. */
  readonly completed: readonly StraceCall[];
  /** In the order of lines. */
  readonly ends: readonly StraceEnd[];
}

type Mutable<T> = { -readonly [K in keyof T]: T[K] };

/** A call whose second half has not been read yet. */
interface OpenCall extends Mutable<StraceCall> {
  args: string[];
  /** What stood between the parenthesis and `<unfinished ...>`. */
  head: string;
}

const UNFINISHED = '<unfinished ...>';
const RESUMED = ' resumed>';
const END_MARK = ' +++';
const SIGNAL_MARK = ' ---';
/** Calls that return the id of a new thread. */
const BIRTHS: ReadonlySet<string> = new Set(['clone', 'clone3', 'fork', 'vfork']);
/** What strace tells its user, which lands in a log that was not written with -o, even inside a line. */
const NOTE = 'strace: Process ';
const NOTE_END = ' attached';
const FORM = 'a line of strace -f -ttt';
/** What some editors put before a text's first character. */
const BYTE_ORDER_MARK = '\ufeff';
/**
 * Times lie in between: of 1973 and 2286. Less is the time since the line before or since the start
 * (strace -r), more has no microseconds any more. Unit: seconds since 1970.
 */
const TIME_MIN = 1e8;
const TIME_MAX = 1e10;
/** Largest id of a thread that a word can hold; Linux's own limit is lower. */
const PID_MAX = 2 ** 31 - 1;

/** Reads a whole log. @throws FaultlineError FAULTLINE_BAD_TRACE, naming `file` and the line. */
export function parseStrace(text: string, file: string): StraceLog {
  return new Parser(text, file).parse();
}

class Parser {
  readonly #text: string;
  readonly #file: string;
  readonly #calls: StraceCall[] = [];
  readonly #completed: StraceCall[] = [];
  readonly #ends: StraceEnd[] = [];
  readonly #open = new Map<number, OpenCall>();
  readonly #pids = new LinePids();
  /** A call whose line a note has cut in two; the next line has the rest. */
  #torn: OpenCall | undefined;
  #line = 0;
  #startTime = 0;
  #hasStarted = false;
  /** Of the line at hand: where it begins and ends, and its columns. */
  #from = 0;
  #to = 0;
  #pid = UNNAMED_PID;
  #time = 0;

  constructor(text: string, file: string) {
    this.#text = text.startsWith(BYTE_ORDER_MARK) ? text.slice(BYTE_ORDER_MARK.length) : text;
    this.#file = file;
  }

  parse(): StraceLog {
    const text = this.#text;
    if (text.trim() === '') {
      this.#line = 1;
      throw this.#error(FORM, 'an empty file');
    }
    for (let at = 0; at < text.length;) {
      const newline = text.indexOf('\n', at);
      const next = newline < 0 ? text.length : newline;
      this.#line++;
      this.#from = at;
      this.#to = text.endsWith('\r', next) ? next - 1 : next;
      this.#readLine();
      at = next + 1;
    }
    return {
      file: this.#file,
      lineCount: this.#line,
      startTime: this.#startTime,
      endTime: this.#time,
      calls: this.#calls,
      completed: this.#completed,
      ends: this.#ends,
    };
  }

  #readLine(): void {
    const text = this.#text;
    if (this.#torn !== undefined) {
      this.#readRemainder(this.#torn);
      return;
    }
    if (text.startsWith(NOTE, this.#from)) {
      this.#readNote(this.#from);
      return;
    }
    const afterPid = this.#readPidColumn();
    const hasPid = afterPid > this.#from;
    const end = endOfTime(text, afterPid, this.#to);
    const body = skipSpaces(text, end, this.#to);
    if (end < 0 || body === end)
      throw this.#error('a time as -ttt prints it', this.#rest(afterPid));
    this.#time = this.#readTime(text.slice(afterPid, end));
    if (!this.#hasStarted) {
      this.#startTime = this.#time;
      this.#hasStarted = true;
    }
    this.#choosePid(hasPid, body);
    if (text.startsWith('<... ', body)) this.#readResumed(body);
    else if (text.startsWith('+++ ', body)) this.#readEnd(body);
    else if (text.startsWith('--- ', body)) this.#readSignal(body);
    else this.#readCall(body);
  }

  /** A time since 1970, as -ttt prints it and -r does not. */
  #readTime(word: string): number {
    const time = Number(word);
    if (time >= TIME_MIN && time < TIME_MAX) return time;
    throw this.#error('seconds since 1970 (strace -ttt)', shortened(word));
  }

  #readPid(word: string): number {
    const pid = Number(word);
    if (pid <= PID_MAX) return pid;
    throw this.#error('the id of a thread', shortened(word));
  }

  /** `strace: Process 1235 attached` announces a child before the line of the clone that made it. */
  #readNote(at: number): void {
    const [pid = '', event = ''] = this.#text.slice(at + NOTE.length, this.#to).split(' ');
    const child = readNumber(pid);
    if (child === undefined || (event !== 'attached' && event !== 'detached')) {
      throw this.#error(FORM, this.#rest(at));
    }
    if (event === 'attached') this.#pids.born(child);
  }

  /** What remains of a call that a note cut in two stands on the next line, without any column. */
  #readRemainder(call: OpenCall): void {
    const text = this.#text.slice(this.#from, this.#to);
    this.#torn = undefined;
    if (text.endsWith(UNFINISHED)) {
      call.head += text.slice(0, -UNFINISHED.length).trimEnd();
      this.#open.set(call.pid, call);
    } else {
      const joined = call.head + text;
      this.#complete(call, joined, 0, joined.length);
    }
  }

  /** Reads `1234 ` or `[pid 1234] ` into #pid; returns where the time stands. */
  #readPidColumn(): number {
    const text = this.#text;
    const isPrefix = text.startsWith('[pid ', this.#from);
    const start = isPrefix ? skipSpaces(text, this.#from + 4, this.#to) : this.#from;
    const end = skipDigits(text, start, this.#to);
    if (!isPrefix && text.charAt(end) === '.') return this.#from; // the time itself
    const after = skipSpaces(text, isPrefix ? end + 1 : end, this.#to);
    const closed = isPrefix ? text.charAt(end) === ']' : after > end;
    if (end === start || !closed) throw this.#error(FORM, this.#rest(this.#from));
    this.#pid = this.#readPid(text.slice(start, end));
    return after;
  }

  #choosePid(hasPid: boolean, body: number): void {
    if (!hasPid) {
      const pid = this.#pids.bare();
      if (pid === undefined) throw this.#error('the id of a thread', this.#rest(this.#from));
      this.#pid = pid;
      return;
    }
    const resumes = this.#text.startsWith('<... ', body) ? this.#resumedName(body) : '';
    const openCall = this.#open.get(UNNAMED_PID)?.name ?? '';
    if (!this.#pids.name(this.#pid, { openCall, resumes })) return;
    const open = this.#open.get(UNNAMED_PID);
    this.#pids.adopt(this.#pid);
    if (open === undefined) return;
    this.#open.delete(UNNAMED_PID);
    this.#open.set(this.#pid, open);
  }

  #readCall(body: number): void {
    const text = this.#text;
    const nameEnd = endOfName(text, body, this.#to);
    if (nameEnd < 0) throw this.#error(FORM, this.#rest(this.#from));
    const before = this.#open.get(this.#pid);
    if (before !== undefined) {
      const since = `${before.name} of line ${before.startLine}`;
      throw this.#error(`the rest of ${since} of thread ${this.#pid}`, this.#rest(body));
    }
    const call: OpenCall = {
      pid: this.#pid,
      time: this.#time,
      name: text.slice(body, nameEnd),
      args: [],
      result: undefined,
      error: '',
      startLine: this.#line,
      endLine: 0,
      head: '',
    };
    this.#calls.push(call);
    this.#pids.own(call);
    if (text.endsWith(UNFINISHED, this.#to)) {
      call.head = text.slice(nameEnd + 1, this.#to - UNFINISHED.length).trimEnd();
      this.#open.set(this.#pid, call);
    } else if (text.endsWith(NOTE_END, this.#to) && text.lastIndexOf(NOTE, this.#to) > nameEnd) {
      const note = text.lastIndexOf(NOTE, this.#to);
      this.#readNote(note);
      call.head = text.slice(nameEnd + 1, note);
      this.#torn = call;
    } else {
      this.#complete(call, text, nameEnd + 1, this.#to);
    }
  }

  #resumedName(body: number): string {
    const start = body + 5;
    const end = this.#text.indexOf(RESUMED, start);
    return end < 0 || end > this.#to ? '' : this.#text.slice(start, end);
  }

  #readResumed(body: number): void {
    const name = this.#resumedName(body);
    if (name === '') throw this.#error('<... NAME resumed>', this.#rest(body));
    const call = this.#open.get(this.#pid);
    if (call?.name !== name) {
      const found = call === undefined ? 'none' : `${call.name} of line ${call.startLine}`;
      throw this.#error(`an unfinished ${name} of thread ${this.#pid}`, found);
    }
    const tail = body + 5 + name.length + RESUMED.length;
    const joined = call.head + this.#text.slice(tail, this.#to);
    this.#open.delete(this.#pid);
    this.#complete(call, joined, 0, joined.length);
  }

  /** Reads arguments and result out of `text`, which begins after the opening parenthesis. */
  #complete(call: OpenCall, text: string, from: number, to: number): void {
    const end = splitArguments(text, from, to, call.args);
    if (end < 0) {
      throw this.#error(`${call.name}(…) with its brackets closed`, quoted(text.slice(from, to)));
    }
    const result = readResult(text, end, to);
    if (result === undefined) {
      throw this.#error(`the result of ${call.name}`, quoted(text.slice(end, to).trim()));
    }
    call.result = result.value;
    call.error = result.error;
    call.endLine = this.#line;
    if (result.value === undefined) dropUnfinished(call.args);
    else if (BIRTHS.has(call.name)) this.#pids.born(result.value);
    this.#completed.push(call);
  }

  #readSignal(body: number): void {
    if (!this.#text.endsWith(SIGNAL_MARK, this.#to)) {
      throw this.#error('--- SIGNAL {…} ---', this.#rest(body));
    }
  }

  #readEnd(body: number): void {
    const text = this.#text.slice(body, this.#to);
    const words = text.endsWith(END_MARK) ? text.slice(4, -END_MARK.length).split(' ') : [];
    const kind = words[0];
    const last = words.at(-1) ?? '';
    const isExit = kind === 'exited' && words.length === 3 && readNumber(last) !== undefined;
    const isKill = kind === 'killed' && words.length >= 3;
    const isSuperseded = kind === 'superseded' && /^[0-9]+$/.test(last);
    if (!isExit && !isKill && !isSuperseded) {
      throw this.#error('+++ exited with N +++ or its like', quoted(text));
    }
    const successor = isSuperseded ? this.#readPid(last) : 0;
    const end: Mutable<StraceEnd> = {
      pid: this.#pid,
      time: this.#time,
      line: this.#line,
      kind,
      successor,
    };
    this.#ends.push(end);
    this.#pids.own(end);
    this.#pids.ended(isSuperseded ? successor : this.#pid);
    this.#open.delete(this.#pid);
    if (isSuperseded) this.#succeed(successor);
  }

  /** The thread that did the exec goes on under the id of the first of its process. */
  #succeed(successor: number): void {
    const call = this.#open.get(successor);
    if (call === undefined) return;
    this.#open.delete(successor);
    this.#open.set(this.#pid, call);
  }

  /** What stands from `at` to the end of the line, for a message. */
  #rest(at: number): string {
    const rest = this.#text.slice(at, Math.min(this.#to, at + 100)).trim();
    return rest === '' ? 'the end of the line' : quoted(rest);
  }

  #error(expected: string, found: string): Error {
    return badTrace({ file: this.#file, line: this.#line }, expected, found);
  }
}

/** `futex(0x…, FUTEX_WAIT, 2, NULL <unfinished ...>) = ?` is how a call ends that its thread's death cut. */
function dropUnfinished(args: string[]): void {
  const last = args.at(-1);
  if (last?.endsWith(UNFINISHED) !== true) return;
  args.pop();
  const rest = last.slice(0, -UNFINISHED.length).trimEnd();
  if (rest !== '') args.push(rest);
}
