/**
 * Who lived when: the threads of a log, whose children they are, and which processes they form.
 *
 * The kernel gives an id to one thread after another, so a thread is not its id but a stretch of the
 * log: from the first line with the id to the line that tells of its end. Which call made it is found
 * from the ids that calls returned; the child's first line may come before the line on which its
 * parent learns the id.
 *
 * An exec in a thread other than the first is the exception: that thread goes on under the id of the
 * first, whose own life ends with `+++ superseded by execve in pid N +++`.
 *
 * @module
 */
import type { StraceCall, StraceEnd, StraceLog } from './parse.js';
import type { Birth, Meaning } from './translate.js';

/** One traced thread. */
export interface Life {
  /** In the order of first lines. */
  readonly index: number;
  readonly tid: number;
  readonly firstLine: number;
  readonly firstTime: number;
  /** Where its end is told, or the last line of the log. */
  readonly lastLine: number;
  /** The last line that shows it in a call; 0 if it made none. */
  readonly lastCallLine: number;
  /** Undefined for a thread that was there when the log began. */
  readonly parent: Life | undefined;
  /** The parent's call that made it. */
  readonly birthCall: StraceCall | undefined;
  readonly birth: Birth | undefined;
  /** Index of its thread group. */
  readonly process: number;
}

type Mutable<T> = { -readonly [K in keyof T]: T[K] };

interface BirthRecord {
  readonly call: StraceCall;
  readonly birth: Birth;
  readonly parent: Life;
}

export interface Lives {
  readonly all: readonly Life[];
  readonly childOf: ReadonlyMap<StraceCall, Life>;
  readonly processCount: number;
}

/** Finds the threads of a log; `meanings` are those of its calls. */
export function findLives(log: StraceLog, meanings: readonly Meaning[]): Lives {
  return new LifeFinder(log).find(meanings);
}

class LifeFinder {
  readonly #log: StraceLog;
  readonly #all: Mutable<Life>[] = [];
  readonly #alive = new Map<number, Mutable<Life>>();
  /** Calls that returned an id and have no child yet, by that id, in the order of their beginnings. */
  readonly #births = new Map<number, BirthRecord[]>();
  readonly #childOf = new Map<StraceCall, Life>();
  #processCount = 0;

  constructor(log: StraceLog) {
    this.#log = log;
  }

  find(meanings: readonly Meaning[]): Lives {
    const { calls, lineCount } = this.#log;
    let nextEnd = 0;
    calls.forEach((call, index) => {
      nextEnd = this.#passEnds(nextEnd, call.startLine);
      const life = this.#lifeAt(call.pid, call.startLine, call.time);
      life.lastCallLine = call.result === undefined ? call.startLine : call.endLine;
      const meaning = meanings[index];
      if (meaning?.means === 'birth') this.#noteBirth(call, meaning, life);
    });
    this.#passEnds(nextEnd, Infinity);
    for (const life of this.#alive.values()) life.lastLine = lineCount;
    return { all: this.#all, childOf: this.#childOf, processCount: this.#processCount };
  }

  /** Handles the ends that come before `line`; returns the number of those handled so far. */
  #passEnds(from: number, line: number): number {
    let next = from;
    for (;;) {
      const end = this.#log.ends[next];
      if (end === undefined || end.line > line) return next;
      this.#end(end);
      next++;
    }
  }

  #end(end: StraceEnd): void {
    this.#lifeAt(end.pid, end.line, end.time).lastLine = end.line;
    this.#alive.delete(end.pid);
    if (end.kind !== 'superseded') return;
    this.#alive.set(end.pid, this.#lifeAt(end.successor, end.line, end.time));
    this.#alive.delete(end.successor);
  }

  #lifeAt(tid: number, line: number, time: number): Mutable<Life> {
    const alive = this.#alive.get(tid);
    if (alive !== undefined) return alive;
    const record = this.#takeBirth(tid, line);
    const birth = record?.birth;
    const parent = record?.parent;
    const life: Mutable<Life> = {
      index: this.#all.length,
      tid,
      firstLine: line,
      firstTime: time,
      lastLine: line,
      lastCallLine: 0,
      parent,
      birthCall: record?.call,
      birth,
      process:
        birth?.sharesProcess === true && parent !== undefined
          ? parent.process
          : this.#processCount++,
    };
    this.#all.push(life);
    this.#alive.set(tid, life);
    if (record !== undefined) this.#childOf.set(record.call, life);
    return life;
  }

  #noteBirth(call: StraceCall, birth: Birth, parent: Life): void {
    const records = this.#births.get(birth.childTid);
    if (records === undefined) this.#births.set(birth.childTid, [{ call, birth, parent }]);
    else records.push({ call, birth, parent });
  }

  /**
   * The call that made the thread which appears at `line`. If several have returned its id before that,
   * it is the last of them, and what the others made never shows. If none has returned yet, it is the
   * one that will first: the others make a thread that gets the id after this one.
   */
  #takeBirth(tid: number, line: number): BirthRecord | undefined {
    const records = this.#births.get(tid) ?? [];
    const returned = records.filter(({ call }) => call.endLine < line);
    const waiting = records.filter(({ call }) => call.endLine >= line);
    waiting.sort((a, b) => a.call.endLine - b.call.endLine);
    returned.sort((a, b) => a.call.endLine - b.call.endLine);
    const record = returned.at(-1) ?? waiting.shift();
    if (waiting.length === 0) this.#births.delete(tid);
    else this.#births.set(tid, waiting);
    return record;
  }
}
