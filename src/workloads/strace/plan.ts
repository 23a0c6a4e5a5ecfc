/**
 * From the calls of a log to a plan for replaying them.
 *
 * The plan says for every traced thread (*task*) which operations it performs, on which address space
 * (*mm*), with which outcome, and after which operations of other tasks. What could not be told from
 * the log is not guessed: calls whose arguments say too little are listed in `skipped` with the reason,
 * calls on memory that are not emulated are counted in `notEmulated`, and calls of any other kind in
 * `unknownCalls`. A call whose logged outcome does not follow from the rest of the log is replayed like any
 * other, and listed in `unexplained`.
 *
 * Rule       Every operation of the plan that is explained has the logged outcome in any replay that
 *            keeps the waits, as far as outcomes depend on which pages are mapped and where the break is.
 *
 * @module
 */
import { Learned } from './learned.js';
import { findLives } from './lives.js';
import type { Operation, Unexplained } from './operations.js';
import type { Range } from './page-ranges.js';
import type { StraceLog } from './parse.js';
import { assignSlots } from './slots.js';
import type { TaskState } from './state.js';
import { type SkippedCall, sweepLog, type SweepResult } from './sweep.js';
import { type Meaning, translateCalls } from './translate.js';

export interface PlanTask {
  readonly tid: number;
  /** Index of its process: tasks with the same number are threads of one. */
  readonly process: number;
  /** The simulated CPU that it runs on, alone from `firstLine` to `lastLine`. */
  readonly slot: number;
  readonly firstLine: number;
  readonly lastLine: number;
  readonly operations: readonly Operation[];
}

export interface PlanMm {
  /** What fills it: a program's image, or the pages of `parent`. */
  readonly origin: 'exec' | 'fork';
  /** Index of the mm that was copied, or -1. */
  readonly parent: number;
  /** Where in the log it begins. */
  readonly line: number;
  /** Where its heap begins; 0 if no call tells. */
  readonly startBrk: number;
  /** What the exec mapped by itself: private, readable and writable, as if of a file. */
  readonly image: readonly Range[];
}

export interface PlanFile {
  readonly sizeBytes: number;
}

/** A call whose outcome does not follow from the rest of the log. */
export interface UnexplainedCall extends Unexplained {
  readonly line: number;
  readonly name: string;
}

export interface PlanTotals {
  /** Calls that a replay knows, by name: all of the log's, also those skipped. */
  readonly calls: Readonly<Record<string, number>>;
  /** Calls on memory that a replay leaves out, by name. */
  readonly notEmulated: Readonly<Record<string, number>>;
  /** Calls that are no calls on memory, by name. */
  readonly unknownCalls: Readonly<Record<string, number>>;
  readonly skippedCalls: number;
  readonly operations: number;
  readonly waits: number;
  readonly tasks: number;
  readonly processes: number;
  readonly mms: number;
  readonly files: number;
  readonly slots: number;
  readonly durationMs: number;
}

/** What a replay of a log will do: which CPU performs which operation, and after which others. */
export interface StracePlan {
  /** The log, as errors name it. */
  readonly file: string;
  /** In the order of their first lines. */
  readonly tasks: readonly PlanTask[];
  readonly mms: readonly PlanMm[];
  readonly files: readonly PlanFile[];
  /** For each simulated CPU, the tasks it runs, one after another. */
  readonly slots: readonly (readonly number[])[];
  /** Calls that are not replayed. */
  readonly skipped: readonly SkippedCall[];
  /** Calls that are replayed although their outcome does not follow from the rest of the log. */
  readonly unexplained: readonly UnexplainedCall[];
  readonly totals: PlanTotals;
}

/** Sweeps over the log until one learns nothing; usually the second. */
const SWEEPS_MAX = 1000;

/** Plans the replay of a log. @throws FaultlineError FAULTLINE_BAD_TRACE, naming file and line. */
export function planStrace(log: StraceLog): StracePlan {
  const meanings = translateCalls(log);
  const swept = sweepUntilLearned(log, meanings);
  const lifetimes = swept.tasks.map(lifetimeOf);
  const slotOf = assignSlots(lifetimes);
  const tasks = swept.tasks.map((task, index): PlanTask => {
    const { tid, process } = task.life;
    const { operations } = task;
    return { tid, process, slot: slotOf[index] ?? 0, ...lifetimeOf(task), operations };
  });
  const mms = swept.mms.map(({ origin, parent, line, space }): PlanMm => {
    const image = origin === 'exec' ? space.image.ranges() : [];
    return { origin, parent, line, startBrk: Math.max(space.startBrk, 0), image };
  });
  const slots = groupBySlot(tasks);
  const files = swept.fileSizes.map((sizeBytes) => ({ sizeBytes }));
  const { skipped } = swept;
  const totals: PlanTotals = {
    ...countCalls(log, meanings),
    skippedCalls: skipped.length,
    operations: sum(tasks, (task) => task.operations.length),
    waits: sum(tasks, (task) => sum(task.operations, ({ waits }) => waits.length)),
    tasks: tasks.length,
    processes: new Set(tasks.map((task) => task.process)).size,
    mms: mms.length,
    files: files.length,
    slots: slots.length,
    durationMs: Math.round((log.endTime - log.startTime) * 1e6) / 1e3,
  };
  const unexplained = unexplainedOf(log, tasks);
  return { file: log.file, tasks, mms, files, slots, skipped, unexplained, totals };
}

function unexplainedOf(log: StraceLog, tasks: readonly PlanTask[]): UnexplainedCall[] {
  const names = new Map(log.calls.map(({ startLine, name }) => [startLine, name]));
  return tasks
    .flatMap(({ operations }) => operations)
    .flatMap(({ line, unexplained }) =>
      unexplained === undefined ? [] : [{ line, name: names.get(line) ?? '', ...unexplained }],
    )
    .sort((a, b) => a.line - b.line);
}

function sweepUntilLearned(log: StraceLog, meanings: readonly Meaning[]): SweepResult {
  const lives = findLives(log, meanings);
  const learned = new Learned();
  for (let sweep = 0; sweep < SWEEPS_MAX; sweep++) {
    const before = learned.amount;
    const swept = sweepLog(log, meanings, lives, learned);
    if (learned.amount === before) return swept;
  }
  throw new Error(`${log.file}: ${SWEEPS_MAX} sweeps have not learned all there is`);
}

function lifetimeOf({ life, goneLine }: TaskState): { firstLine: number; lastLine: number } {
  return { firstLine: life.firstLine, lastLine: goneLine > 0 ? goneLine : life.lastLine };
}

function groupBySlot(tasks: readonly PlanTask[]): number[][] {
  const slots: number[][] = [];
  tasks.forEach(({ slot }, index) => {
    (slots[slot] ??= []).push(index);
  });
  return slots;
}

function countCalls(
  log: StraceLog,
  meanings: readonly Meaning[],
): Pick<PlanTotals, 'calls' | 'notEmulated' | 'unknownCalls'> {
  const calls: Record<string, number> = {};
  const notEmulated: Record<string, number> = {};
  const unknownCalls: Record<string, number> = {};
  log.calls.forEach(({ name }, index) => {
    const meaning = meanings[index];
    if (meaning?.means === 'notEmulated') countOne(notEmulated, meaning.what);
    else countOne(meaning?.means === 'unknown' ? unknownCalls : calls, name);
  });
  return { calls, notEmulated, unknownCalls };
}

function countOne(counts: Record<string, number>, name: string): void {
  counts[name] = (counts[name] ?? 0) + 1;
}

function sum<T>(items: readonly T[], sizeOf: (item: T) => number): number {
  return items.reduce((total, item) => total + sizeOf(item), 0);
}
