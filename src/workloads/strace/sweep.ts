/**
 * One sweep over a log, line by line: who calls what on which address space, and what follows on what.
 *
 * Exec        An exec shows in three ways. Its own call, if execve was traced. The end of the first
 *             thread of a process, superseded by another. Or else by what comes after it:
 *               - brk(NULL) answers with another break than the one that the address space has
 *                 (a program's loader asks for it first of all);
 *               - a vfork has returned, which it does when the child does an exec or ends, and the
 *                 child goes on.
 *             The other threads of a process are gone with an exec.
 * Birth       A child's first line may come before its parent's call has returned. Then the call takes
 *             effect there.
 * Learning    What an exec mapped by itself shows on the way (address-space.ts), and so does the order of
 *             some calls (order.ts). A later sweep over the same log begins with what was learned, so
 *             sweeps are repeated until one learns nothing.
 *
 * @module
 */
import { EFAULT } from '../../base/errno.js';
import { applyAction, UNKNOWN_BREAK } from './address-space.js';
import { type Footprint, footprintOf } from './conflicts.js';
import { Files } from './files.js';
import type { Learned } from './learned.js';
import type { Lives } from './lives.js';
import type { Action, ActionWith, Operation, Unexplained } from './operations.js';
import {
  agrees,
  birthWaits,
  type Disagreement,
  learnOrder,
  neededBefore,
  spoiledBy,
  toldBefore,
  waitsOf,
} from './order.js';
import { answerOf } from './outcome.js';
import type { StraceCall, StraceEnd, StraceLog } from './parse.js';
import {
  type InFlight,
  type MmState,
  newExecMm,
  newForkMm,
  newTask,
  type ProcessState,
  type TaskState,
} from './state.js';
import { badTrace } from './trace-error.js';
import type { AddressSpaceCall, Birth, Meaning } from './translate.js';
import { explain } from './unexplained.js';

/** A call that the replay leaves out. */
export interface SkippedCall {
  readonly line: number;
  readonly name: string;
  /** Completes the sentence that begins with the name. */
  readonly reason: string;
}

export interface SweepResult {
  readonly tasks: readonly TaskState[];
  readonly mms: readonly MmState[];
  readonly fileSizes: readonly number[];
  readonly skipped: readonly SkippedCall[];
}

/** Sweeps over `log` with what is `learned` so far, and adds to that. */
export function sweepLog(
  log: StraceLog,
  meanings: readonly Meaning[],
  lives: Lives,
  learned: Learned,
): SweepResult {
  return new Sweep(log, lives, learned).run(meanings);
}

type Mutable<T> = { -readonly [K in keyof T]: T[K] };

/** Of calls on an address space that has one user: there is nothing to conflict with. */
const NO_FOOTPRINT: Footprint = { kind: 'exit', changes: false, pages: [] };

class Sweep {
  readonly #log: StraceLog;
  readonly #lives: Lives;
  readonly #learned: Learned;
  readonly #tasks: readonly TaskState[];
  /** Threads that are alive, by their id of the moment. */
  readonly #alive = new Map<number, TaskState>();
  readonly #mms: MmState[] = [];
  readonly #files = new Files();
  readonly #skipped: SkippedCall[] = [];
  readonly #inFlight = new Map<StraceCall, InFlight>();
  readonly #disagreements: Disagreement[] = [];
  /** Execs that succeeded and have not returned. */
  readonly #execs = new Map<StraceCall, TaskState>();
  readonly #execActions: { readonly mm: MmState; readonly action: Mutable<ActionWith<'exec'>> }[] =
    [];
  #appeared = 0;

  constructor(log: StraceLog, lives: Lives, learned: Learned) {
    this.#log = log;
    this.#lives = lives;
    this.#learned = learned;
    const processes = Array.from({ length: lives.processCount }, (): ProcessState => {
      return { alive: new Set(), files: new Map() };
    });
    this.#tasks = lives.all.flatMap((life) => {
      const process = processes[life.process];
      return process === undefined ? [] : [newTask(life, process)];
    });
  }

  run(meanings: readonly Meaning[]): SweepResult {
    const { calls, completed, ends, lineCount } = this.#log;
    let nextCall = 0;
    let nextDone = 0;
    let nextEnd = 0;
    for (let line = 1; line <= lineCount; line++) {
      const call = calls[nextCall];
      const meaning = meanings[nextCall];
      if (call?.startLine === line && meaning !== undefined) {
        nextCall++;
        this.#begin(call, meaning);
      }
      const done = completed[nextDone];
      if (done?.endLine === line) {
        nextDone++;
        this.#finish(done);
      }
      const end = ends[nextEnd];
      if (end?.line === line) {
        nextEnd++;
        this.#end(end);
      }
    }
    for (const task of this.#alive.values()) this.#exit(task, lineCount, this.#log.endTime);
    this.#learnOrders();
    // the break is learned from calls after the exec
    for (const { mm, action } of this.#execActions) {
      action.startBrk = Math.max(mm.space.startBrk, 0);
    }
    const skipped = this.#skipped.sort((a, b) => a.line - b.line);
    return { tasks: this.#tasks, mms: this.#mms, fileSizes: this.#files.sizes, skipped };
  }

  #begin(call: StraceCall, meaning: Meaning): void {
    const task = this.#taskAt(call.pid, call.startLine, call.time);
    if (task.goneLine > 0) {
      const place = { file: this.#log.file, line: call.startLine };
      const cause = `the exec of another thread at line ${task.goneLine} ended it`;
      throw badTrace(place, `no call of thread ${call.pid} (${cause})`, call.name);
    }
    if (meaning.means === 'exec') this.#execs.set(call, task);
    else if (meaning.means === 'skipped') this.#skip(call, meaning.reason);
    else if (meaning.means === 'birth') this.#beginBirth(call, meaning, task);
    else if (meaning.means === 'operation') this.#beginOperation(call, meaning, task);
  }

  #beginOperation(call: StraceCall, meaning: AddressSpaceCall, task: TaskState): void {
    if (this.#hasExeced(task, call, meaning)) this.#exec(task, call.startLine, call.time);
    const { action, outcome, descriptor, opensFile } = meaning;
    this.#takeOff(call, task, { action, outcome, descriptor, opensFile, birth: undefined });
  }

  #beginBirth(call: StraceCall, birth: Birth, task: TaskState): void {
    const child = this.#lives.childOf.get(call);
    if (child === undefined) {
      this.#skip(call, `makes thread ${birth.childTid}, which never appears in the log`);
      return;
    }
    if (this.#outlivesVfork(task, call)) this.#exec(task, call.startLine, call.time);
    const action = birthAction(birth, child.index);
    const outcome = birth.childTid;
    this.#takeOff(call, task, { action, outcome, descriptor: -1, opensFile: false, birth });
  }

  #takeOff(
    call: StraceCall,
    task: TaskState,
    what: Pick<InFlight, 'action' | 'outcome' | 'descriptor' | 'opensFile' | 'birth'>,
  ): void {
    const { mm } = task;
    if (mm === undefined) return;
    const flight: InFlight = {
      call,
      task,
      mm,
      ...what,
      footprint: mm.users > 1 ? footprintOf(mm.space, what.action, what.outcome) : NO_FOOTPRINT,
      seen: mm.completed.length,
      copy: undefined,
      isSettled: false,
      operation: undefined,
    };
    mm.pending.add(flight);
    this.#inFlight.set(call, flight);
  }

  #finish(call: StraceCall): void {
    const execer = this.#execs.get(call);
    if (execer !== undefined) {
      this.#execs.delete(call);
      if (execer.execLine < call.startLine) this.#exec(execer, call.endLine, call.time);
      return;
    }
    const flight = this.#inFlight.get(call);
    if (flight === undefined) return;
    this.#inFlight.delete(call);
    this.#settle(flight);
    flight.mm.effective.delete(flight);
    if (flight.operation !== undefined) flight.mm.completed.push(flight);
  }

  /** Lets a call take effect, after those in flight that must come first. */
  #settle(flight: InFlight): void {
    if (flight.isSettled) return;
    flight.isSettled = true; // before its rivals are: two that need each other do not go round
    flight.mm.pending.delete(flight);
    for (const rival of neededBefore(flight)) this.#settle(rival);
    for (const rival of spoiledBy(flight)) this.#settle(rival);
    for (const rival of toldBefore(flight, this.#learned.order)) this.#settle(rival);
    if (agrees(flight)) this.#takeEffect(flight);
    else this.#disagree(flight);
  }

  /**
   * A call whose answer does not follow from the log as it has been understood: it is replayed, but what
   * it did is not relied on. If it was refused for a reason outside the log, it did nothing.
   */
  #disagree(flight: InFlight): void {
    const { action, outcome, mm } = flight;
    const { pages } = footprintOf(mm.space, action, outcome);
    const unexplained = explain(flight);
    const isHarmless = unexplained.isOutside && action.kind !== 'mremap'; // which unmaps its target first
    if (!isHarmless) for (const { start, end } of pages) mm.space.lose(start, end);
    this.#disagreements.push({ mm, pages, wantsMapped: wantsMapped(flight) });
    this.#addOperation(flight, action, unexplained);
  }

  /** Looks for forks whose order with another call would explain what disagreed. */
  #learnOrders(): void {
    for (const disagreement of this.#disagreements) {
      let mm: MmState | undefined = disagreement.mm;
      while (mm !== undefined && !learnOrder(disagreement, mm, this.#learned.order)) {
        mm = this.#mms[mm.parent];
      }
    }
  }

  #takeEffect(flight: InFlight): void {
    const action = this.#complete(flight);
    applyAction(flight.mm.space, action, flight.outcome);
    this.#addOperation(flight, action, undefined);
  }

  #addOperation(flight: InFlight, action: Action, unexplained: Unexplained | undefined): void {
    const { call, task, mm } = flight;
    flight.operation = {
      task: task.life.index,
      number: task.operations.length,
      line: call.startLine,
      endLine: call.endLine,
      timeMs: this.#timeMs(call.time),
      mm: mm.index,
      action,
      expected: flight.outcome,
      unexplained,
      waits: waitsOf(flight),
    };
    task.operations.push(flight.operation);
    mm.effective.add(flight);
  }

  /** The action with what only its turn decides: the file it maps, the address space it makes. */
  #complete(flight: InFlight): Action {
    const { action, birth, mm, task } = flight;
    if (action.kind === 'mmap' && flight.outcome >= 0) {
      return { ...action, file: this.#files.fileOf(flight, action) };
    }
    if (!('childTask' in action)) return action;
    const child = this.#tasks[action.childTask];
    if (child === undefined) return action;
    child.madeBy = flight;
    child.process.alive.add(child);
    if (birth?.sharesProcess === false) this.#files.inherit(child.process, task.process);
    if (action.kind !== 'fork') {
      this.#join(child, mm);
      child.bornAfter = flight.seen;
      return action;
    }
    const copy = newForkMm(this.#mms.length, flight.call.startLine, mm);
    this.#mms.push(copy);
    flight.copy = copy;
    this.#join(child, copy);
    return { ...action, childMm: copy.index };
  }

  #end(end: StraceEnd): void {
    const task = this.#taskAt(end.pid, end.line, end.time);
    this.#exit(task, end.line, end.time);
    this.#alive.delete(end.pid);
    if (end.kind !== 'superseded') return;
    const successor = this.#taskAt(end.successor, end.line, end.time);
    this.#alive.delete(end.successor);
    this.#alive.set(end.pid, successor);
    this.#exec(successor, end.line, end.time);
  }

  /** The thread with this id; if this is its first line, it begins to live. */
  #taskAt(tid: number, line: number, time: number): TaskState {
    const known = this.#alive.get(tid);
    const task = known ?? this.#appear(tid);
    if (task.mm !== undefined) return task;
    const birth = task.life.birthCall && this.#inFlight.get(task.life.birthCall);
    if (birth !== undefined) this.#settle(birth);
    // a process that nobody made begins with an exec, be it before the log
    else this.#exec(task, line, time);
    return task;
  }

  #appear(tid: number): TaskState {
    const task = this.#tasks[this.#appeared++];
    if (task?.life.tid !== tid) throw new Error(`thread ${tid} appears out of turn`);
    this.#alive.set(tid, task);
    if (task.madeBy === undefined) task.process.alive.add(task);
    return task;
  }

  /** True if an exec must have come between the thread's last call and this one. */
  #hasExeced(task: TaskState, call: StraceCall, meaning: AddressSpaceCall): boolean {
    if (this.#outlivesVfork(task, call)) return true;
    const { mm } = task;
    if (mm === undefined || meaning.action.kind !== 'brk' || meaning.action.address !== 0) {
      return false;
    }
    const { brk } = mm.space;
    // a copy of an address space knows its break; who asks for it first of all is a new program
    const isNew = brk === UNKNOWN_BREAK ? mm.origin === 'fork' : brk !== meaning.outcome;
    if (!isNew || isBreakInFlight(mm, meaning.outcome)) return false;
    return [...task.process.alive].every(
      (other) => other === task || other.life.lastCallLine < call.startLine,
    );
  }

  /** True if the vfork that made the thread has returned, and the thread goes on as it was born. */
  #outlivesVfork(task: TaskState, call: StraceCall): boolean {
    const { birth, birthCall } = task.life;
    if (birth?.waitsForExec !== true || birthCall === undefined || task.execLine > 0) return false;
    return birthCall.endLine > 0 && call.endLine > birthCall.endLine;
  }

  #exec(task: TaskState, line: number, time: number): void {
    for (const other of task.process.alive) {
      if (other === task) continue;
      this.#exit(other, line, time);
      other.goneLine = line;
    }
    const old = task.mm;
    const mm = newExecMm(this.#mms.length, line, this.#learned.imageAt(line));
    this.#mms.push(mm);
    const action = { kind: 'exec', newMm: mm.index, startBrk: 0 } as const;
    this.#execActions.push({ mm, action });
    this.#push(task, action, line, time);
    if (old !== undefined) old.users--;
    this.#join(task, mm);
    task.bornAfter = 0;
    task.execLine = line;
    task.process.files = new Map();
  }

  #exit(task: TaskState, line: number, time: number): void {
    if (!task.process.alive.delete(task)) return;
    this.#push(task, { kind: 'exit' }, line, time);
    if (task.mm !== undefined) task.mm.users--;
  }

  /** Adds an operation that no call of the log stands for. */
  #push(task: TaskState, action: Action, line: number, time: number): void {
    const operation: Operation = {
      task: task.life.index,
      number: task.operations.length,
      line,
      endLine: line,
      timeMs: this.#timeMs(time),
      mm: task.mm?.index ?? -1,
      action,
      expected: 0,
      unexplained: undefined,
      waits: birthWaits(task),
    };
    task.operations.push(operation);
  }

  #join(task: TaskState, mm: MmState): void {
    task.mm = mm;
    mm.users++;
  }

  #skip(call: StraceCall, reason: string): void {
    this.#skipped.push({ line: call.startLine, name: call.name, reason });
  }

  /** Microseconds are all that the log has; seconds since 1970 leave noise below them. */
  #timeMs(time: number): number {
    return Math.round((time - this.#log.startTime) * 1e6) / 1e3;
  }
}

function birthAction(birth: Birth, childTask: number): Action {
  if (!birth.sharesMemory) return { kind: 'fork', childTask, childMm: -1 };
  return { kind: birth.waitsForExec ? 'vfork' : 'thread', childTask };
}

/** True if another call that is under way explains a break that is not the known one. */
function isBreakInFlight(mm: MmState, brk: number): boolean {
  for (const { action, outcome } of mm.pending) {
    if (action.kind === 'brk' && outcome === brk) return true;
  }
  return false;
}

/** What a call that disagrees must have found: mapped pages, or a hole. */
function wantsMapped({ action, outcome, mm }: InFlight): boolean {
  const hasSucceeded = outcome >= 0;
  if (action.kind === 'mmap' || action.kind === 'brk') return !hasSucceeded;
  if (action.kind !== 'mremap') return hasSucceeded;
  return !hasSucceeded || answerOf(mm.space, action, outcome) === -EFAULT;
}
