/**
 * The diagram of a failing run, as kernel lists show it: one column for each CPU, time going down.
 *
 *   step  CPU0 invalidate                    CPU1 fault                         where
 *         mmuIntervalSetSeq
 *     9 *   write interval.invalidateSeq = 3                                    mmu-interval-notifier.ts:157
 *         (preempted)
 *                                            mmuIntervalReadBegin
 *    10 *                                      read interval.invalidateSeq: 3   mmu-interval-notifier.ts:107
 *
 * By default only what matters is there: where a task begins and ends a run of steps, what other tasks can
 * notice, locks, sleeping and waking, and what is critical. What a column leaves out is counted, and so are
 * the rounds of a loop that spins and sees the same each time. If that is longer than LINES_MAX, less of it is
 * shown (fold.ts), and columns of tasks that have no part in it are left out.
 *
 * @module
 */
import type { ExplainedStep, Explanation, Switch } from './explanation.js';
import { commonFunction, stepChoices } from './fold.js';
import { shortPlace } from './sites.js';

export interface DiagramOptions {
  /** Columns of the terminal; by default 100. */
  readonly width?: number;
  /** Every step. */
  readonly all?: boolean;
}

/** What the diagram is made of. */
type Told = Omit<Explanation, 'diagram'>;

const WIDTH = 100;
/** A diagram gets no longer, if that can be helped. */
const LINES_MAX = 120;
/** A CPU's column gets no narrower than this; a narrow terminal wraps lines then. */
const COLUMN_MIN = 20;
const COLUMN_MAX = 56;
const WHERE_MAX = 34;
/** Step number, and the mark of critical ones. */
const STEP_WIDTH = 7;
const GAP = 2;

/** One line: a cell of one CPU, and what is left and right of all cells. */
interface Row {
  readonly task: number;
  readonly step: string;
  readonly text: string;
  readonly where: string;
}

/** Draws it. */
export function renderDiagram(
  told: Told,
  { width = WIDTH, all = false }: DiagramOptions = {},
): string {
  const whole = drawn(told, rowsOf(told, all), width);
  if (all || whole.length <= LINES_MAX) return whole.join('\n');
  const choices = stepChoices(told).map((kept) => drawn(told, foldedRows(told, kept), width));
  const shown = choices.find(({ length }) => length <= LINES_MAX) ?? choices.at(-1) ?? whole;
  return shown.join('\n');
}

/** The rows as lines, with a column for each task that has any. */
function drawn(told: Told, rows: readonly Row[], width: number): string[] {
  const tasks = told.tasks.flatMap((_, id) => (rows.some(({ task }) => task === id) ? [id] : []));
  const places = rows.map(({ where }) => where.length);
  const where = Math.min(WHERE_MAX, Math.max('where'.length, ...places));
  const forCells = width - STEP_WIDTH - where;
  const fitting = Math.floor(forCells / tasks.length) - GAP;
  const longest = Math.max(...rows.map(({ text }) => text.length), COLUMN_MIN);
  const cell = Math.min(Math.max(fitting, COLUMN_MIN), COLUMN_MAX, longest);
  const heads = tasks.map((task) => `CPU${task} ${told.tasks[task]!.name}`);
  return [
    ...lines('step', heads, 'where', cell, where),
    ...rows.flatMap((row) => rowLines(row, tasks, cell, where)),
  ];
}

function rowLines(
  { task, step, text, where }: Row,
  tasks: readonly number[],
  cell: number,
  place: number,
): string[] {
  const cells = tasks.map((id) => (id === task ? text : ''));
  return lines(step, cells, where, cell, place);
}

/** A row as lines: cells that are too long go on below. */
function lines(
  step: string,
  cells: readonly string[],
  where: string,
  cell: number,
  place: number,
): string[] {
  const wrapped = cells.map((text) => wrap(text, cell));
  const height = Math.max(...wrapped.map((parts) => parts.length));
  return Array.from({ length: height }, (_, i) => {
    const columns = wrapped.map((parts) => (parts[i] ?? '').padEnd(cell + GAP));
    const ends =
      i === 0 ? [step.padEnd(STEP_WIDTH), fromRight(where, place)] : [' '.repeat(STEP_WIDTH), ''];
    return `${ends[0]!}${columns.join('')}${ends[1]!}`.trimEnd();
  });
}

/** Breaks at spaces or arrows, or where it must; continued lines are indented further. */
function wrap(text: string, width: number): string[] {
  const margin = /^ */.exec(text)![0];
  const indent = `${margin}  `;
  const parts: string[] = [];
  let rest = text;
  while (rest.length > width) {
    const least = (parts.length === 0 ? margin : indent).length;
    const space = rest.lastIndexOf(' ', width);
    const arrow = rest.lastIndexOf('->', width - 2) + 2;
    const at = space > least ? space : arrow > least + 2 ? arrow : width;
    parts.push(rest.slice(0, at));
    rest = `${indent}${rest.slice(at).trimStart()}`;
  }
  return [...parts, rest];
}

function fromRight(text: string, width: number): string {
  return text.length <= width ? text : `…${text.slice(text.length - width + 1)}`;
}

// --- which rows ---

function rowsOf(told: Told, all: boolean): Row[] {
  const { steps, switches } = told;
  const switchAt = new Map(switches.map((one) => [one.step, one]));
  const rows: Row[] = [];
  let skipped = 0;
  let lastFunction = '';
  let lastOperation = '';
  for (let next = 0; next < steps.length;) {
    const step = steps[next++]!;
    const begins = step.step === 0 || switchAt.has(step.step);
    if (begins) lastFunction = '';
    if (begins && skipped > 0) rows.push(skipRow(steps[step.step - 1]!.task, skipped));
    if (begins) skipped = 0;
    rows.push(...switchRow(switchAt.get(step.step)));
    if (!all && !matters(step, steps, begins)) {
      skipped++;
      continue;
    }
    if (skipped > 0) rows.push(skipRow(step.task, skipped));
    skipped = 0;
    const operation = `${step.task} ${step.operation}`;
    if (operation !== lastOperation) rows.push(...operationRow(told, step));
    lastOperation = operation;
    const within = step.site?.function ?? '';
    if (within !== '' && within !== lastFunction) rows.push(note(step.task, within));
    lastFunction = within;
    rows.push(stepRow(step));
    const { times, length } = all ? NO_ROUNDS : sameRounds(steps, step.step);
    if (times > 0)
      rows.push(note(step.task, `  … the same ${times === 1 ? 'once' : `${times} times`} more`));
    next += times * length;
  }
  if (skipped > 0) rows.push(skipRow(steps.at(-1)!.task, skipped));
  return [...rows, ...told.tasks.map(({ end }, task) => note(task, `(${end})`))];
}

/** The steps that are kept, and how many come between them. Tasks without any are left out, if they end well. */
function foldedRows(told: Told, kept: ReadonlySet<number>): Row[] {
  const { steps, switches } = told;
  const switchAt = new Map(switches.map((one) => [one.step, one]));
  const shown = new Set(steps.filter(({ step }) => kept.has(step)).map(({ task }) => task));
  const rows: Row[] = [];
  let hidden: ExplainedStep[] = [];
  let place = '';
  for (const step of steps) {
    if (!kept.has(step.step)) {
      if (shown.has(step.task)) hidden.push(step);
      continue;
    }
    rows.push(...hiddenRows(hidden));
    const within = `${step.task} ${step.operation} ${step.site?.function ?? ''}`;
    if (hidden.length > 0 || within !== place) rows.push(...placeRows(told, step));
    hidden = [];
    place = within;
    rows.push(stepRow(step));
    const next = switchAt.get(step.step + 1);
    if (next !== undefined) rows.push(...switchRow(next));
  }
  rows.push(...hiddenRows(hidden));
  return [...rows, ...[...shown].sort().map((task) => note(task, `(${told.tasks[task]!.end})`))];
}

/** For each task, how many of its steps are left out, and where they are. */
function hiddenRows(hidden: readonly ExplainedStep[]): Row[] {
  return [...new Set(hidden.map(({ task }) => task))].map((task) => {
    const own = hidden.filter((step) => step.task === task);
    const within = commonFunction(own);
    const count = `  … ${own.length} ${own.length === 1 ? 'step' : 'steps'}`;
    return note(task, within === '' ? count : `${count} in ${within}`);
  });
}

function placeRows(told: Told, step: ExplainedStep): Row[] {
  const within = step.site?.function ?? '';
  return [...operationRow(told, step), ...(within === '' ? [] : [note(step.task, within)])];
}

/** True if others could tell the difference, or who reads would miss it. */
function matters(step: ExplainedStep, steps: readonly ExplainedStep[], begins: boolean): boolean {
  if (step.critical) return true;
  const next = steps[step.step + 1];
  if (begins || next?.task !== step.task) return true;
  if (step.conflicts) return true;
  return !['read', 'write', 'update'].includes(step.action);
}

interface Rounds {
  readonly times: number;
  /** Steps of each. */
  readonly length: number;
}
const NO_ROUNDS: Rounds = { times: 0, length: 0 };

/** How often the round that ends with the spin at `last` is repeated right after it. */
function sameRounds(steps: readonly ExplainedStep[], last: number): Rounds {
  if (steps[last]!.action !== 'spin') return NO_ROUNDS;
  const next = steps.findIndex(({ action, step }) => step > last && action === 'spin');
  const length = next - last;
  if (next < 0 || length > last + 1) return NO_ROUNDS;
  let same = 0;
  while (isSameStep(steps[last + 1 + same], steps[last + 1 + same - length]!)) same++;
  return { times: Math.floor(same / length), length };
}

function isSameStep(step: ExplainedStep | undefined, before: ExplainedStep): boolean {
  if (step?.task !== before.task || step.critical) return false;
  return stepText(step) === stepText(before) && step.site?.line === before.site?.line;
}

const note = (task: number, text: string): Row => ({ task, step: '', text, where: '' });

const skipRow = (task: number, count: number): Row =>
  note(task, `  … ${count} ${count === 1 ? 'step' : 'steps'}`);

function switchRow(one: Switch | undefined): Row[] {
  return one === undefined || one.reason === 'finished' ? [] : [note(one.from, `(${one.reason})`)];
}

/** The name of an operation, where the head of the column does not say it. */
function operationRow(told: Told, { task, operation }: ExplainedStep): Row[] {
  const { name, operations } = told.tasks[task]!;
  const text = operations[operation];
  if (text === undefined || (operations.length === 1 && text === name)) return [];
  return [note(task, `== ${text} ==`)];
}

function stepRow(step: ExplainedStep): Row {
  return {
    task: step.task,
    step: `${String(step.step).padStart(4)}${step.critical ? ' *' : ''}`,
    text: `  ${stepText(step)}`,
    where: step.site === undefined ? '' : shortPlace(step.site),
  };
}

/** `write interval.invalidateSeq = 3`, `update world.counter: 1 -> 2`, `lock driver->lock` */
export function stepText(step: ExplainedStep): string {
  const { action, shortName, before, after, words } = step;
  const many = words > 2 ? ` (${words} words)` : '';
  const what = `${action} ${shortName}${many}`;
  switch (action) {
    case 'read':
      return before === undefined ? what : `${what}: ${before}`;
    case 'write':
      return after === undefined ? what : `${what} = ${after}`;
    case 'update':
      if (before === undefined || after === undefined) return what;
      return before === after ? `${what}: still ${before}` : `${what}: ${before} -> ${after}`;
    case 'sleep if':
      return before === undefined ? what : `${what} is ${before}`;
    case 'wake up':
      return step.timedOut ? 'wake up: time is up' : 'wake up';
    case 'spin':
      return 'spin';
    default:
      return what;
  }
}
