/**
 * What a case did here against what was recorded: step by step, field by field.
 *
 * @module
 */
import { MMU_NOTIFY_NAMES } from '../notifier/mmu-notifier-range.js';
import type { CastStep } from './cast.js';
import type { RecordedCase, RecordedEvent, RecordedPages, RecordedStep } from './corpus.js';
import type { StepMarks } from './member.js';
import type { PageState } from './snapshot.js';
import type { Answer } from './step.js';

/** A callback of a notifier, by the names of the format. */
export interface SeenEvent {
  readonly kind: string;
  readonly [field: string]: unknown;
}

/** All that a step did here. */
export interface SeenStep {
  readonly step: CastStep;
  /** Undefined if it never ended. */
  readonly answer: Answer | undefined;
  readonly marks: StepMarks | undefined;
  readonly events: readonly SeenEvent[];
}

/** One field of one step in which the two disagree. */
export interface Difference {
  readonly step: number;
  readonly op: string;
  readonly field: string;
  readonly expected: unknown;
  readonly actual: unknown;
}

export interface CompareOptions {
  /** Also compare what devices with the CPU's page tables are told: that depends on the architecture. */
  readonly tlb: boolean;
}

/** Fields of an answer that are compared if they were recorded. */
const ANSWERED = [
  'async', 'result', 'seq', 'tries', 'retry', 'checkRetry', 'values', 'signal', 'signalPage', 'pending',
  'cpages', 'migrated', 'srcAfterSetup', 'srcAfterPages', 'inUse', 'mask', 'last', 'moved', 'exited',
] as const; // prettier-ignore
/** Fields of a page that are compared. */
const PAGE_FIELDS = [
  'hmm', 'pte', 'order', 'page', 'large', 'val', 'shift', 'excl', 'softdirty', 'uffdwp',
] as const; // prettier-ignore

/** The differences of a case, in order. */
export function compareCase(
  recorded: RecordedCase,
  seen: readonly SeenStep[],
  options: CompareOptions,
): Difference[] {
  const isUnstable = recorded['unstable'] === true;
  return recorded.steps.flatMap((step, index) => {
    const here = seen[index];
    if (here === undefined) return [];
    const differences: Difference[] = [];
    const note = (field: string, expected: unknown, actual: unknown): void => {
      const others = step.alternatives?.[field] ?? [];
      if (isUnstable && others.length > 0) return; // it came out differently each time
      if ([expected, ...others].some((one) => isSame(one, actual))) return;
      if (expected === undefined && others.length === 0) return; // it was not recorded
      const shown = expected === undefined ? { oneOf: others } : expected;
      differences.push({ step: index, op: step.op, field, expected: shown, actual });
    };
    compareStep(step, here, answerOf(here, seen), options, note);
    return differences;
  });
}

type Note = (field: string, expected: unknown, actual: unknown) => void;

function compareStep(
  step: RecordedStep,
  seen: SeenStep,
  answer: Readonly<Record<string, unknown>>,
  options: CompareOptions,
  note: Note,
): void {
  for (const field of ANSWERED) {
    if (step.op === 'hmm_range_fault' && field === 'mask') continue; // an argument
    note(field, step[field], answer[field]);
  }
  if (step.pages !== undefined || step.alternatives?.['pages'] !== undefined) {
    const pages = answer['pages'] as readonly PageState[] | undefined;
    note('pages', step.pages && pageLines(step.pages), pages && runsOf(pages));
  }
  compareEvents(step, seen, note);
  if (options.tlb && step.tlb !== undefined) {
    note('tlb', step.tlb, seen.events.filter(({ kind }) => kind === 'tlb').map(tlbFields));
  }
  for (const [proc, runs] of Object.entries(step.snapshot ?? {})) {
    const here = seen.marks?.snapshot?.[proc];
    note(`snapshot ${proc}`, pageLines(runs), here && runsOf(here));
  }
}

/** What the step answered, as the recorder would have written it down. */
function answerOf(
  { step, answer, marks }: SeenStep,
  all: readonly SeenStep[],
): Readonly<Record<string, unknown>> {
  if (step.isAsync)
    return marks?.isDone === true ? { async: 'done', ...answer } : { async: 'blocked' };
  const joined = step.joins < 0 ? undefined : all[step.joins];
  if (joined === undefined) return answer ?? {};
  return joined.marks?.isDone === true ? { result: 0, pending: false } : (joined.answer ?? {});
}

// --- callbacks ---

/** Callbacks that come in no order that means anything, where a device is emptied. */
const UNORDERED_OP = 'device_evict';

function compareEvents(step: RecordedStep, seen: SeenStep, note: Note): void {
  const isTruncated = step['eventsTruncated'] !== undefined;
  const alternatives = (step.alternatives?.['events'] ?? []) as readonly RecordedEvent[][];
  if (step.events === undefined && alternatives.length === 0) return;
  let here = seen.events.filter(({ kind }) => kind !== 'tlb');
  const recordings = [step.events, ...alternatives].filter((one) => one !== undefined);
  if (isTruncated) here = here.slice(0, recordings[0]?.length ?? 0);
  const isUnordered = step.op === UNORDERED_OP;
  const actual = ordered(here.map(eventFields), isUnordered);
  const found = recordings.some((one) =>
    isSame(ordered(one.map(eventFields), isUnordered), actual),
  );
  if (!found) note('events', ordered((recordings[0] ?? []).map(eventFields), isUnordered), actual);
}

function ordered(events: readonly SeenEvent[], isUnordered: boolean): readonly SeenEvent[] {
  if (!isUnordered) return events;
  return events
    .map(withoutSequence)
    .sort((one, other) => JSON.stringify(one).localeCompare(JSON.stringify(other)));
}

/** Sequences depend on the order. */
function withoutSequence({ seq: _seq, prevSeq: _prevSeq, ...event }: SeenEvent): SeenEvent {
  return event;
}

/** What is compared of a callback: of what hooks did, only that they ran. */
function eventFields(event: Readonly<Record<string, unknown>>): SeenEvent {
  const { kind } = event as { kind: string };
  if (kind === 'hook') return { kind };
  const fields = [
    'proc', 'id', 'event', 'start', 'end', 'blockable', 'owner', 'seq', 'prevSeq', 'ret', 'device', 'write',
  ]; // prettier-ignore
  const given = fields.filter((field) => event[field] !== undefined);
  return { kind, ...Object.fromEntries(given.map((field) => [field, event[field]])) };
}

function tlbFields({ start, end, proc }: SeenEvent): Readonly<Record<string, unknown>> {
  const isAll = start === null && end === null;
  return { ...(proc !== undefined && { proc }), ...(isAll ? { all: true } : { start, end }) };
}

/** The name of an event's number. */
export function eventName(event: number): string {
  return MMU_NOTIFY_NAMES[event] ?? `event ${event}`;
}

// --- pages ---

/** Runs of equal pages, with the fields that are compared. */
function pageLines(runs: readonly RecordedPages[]): readonly Readonly<Record<string, unknown>>[] {
  return joinRuns(runs.map((run) => [run.n, pageFields(run)] as const));
}

function runsOf(pages: readonly PageState[]): readonly Readonly<Record<string, unknown>>[] {
  return joinRuns(pages.map((page) => [1, pageFields({ ...page })] as const));
}

function pageFields(page: Readonly<Record<string, unknown>>): Readonly<Record<string, unknown>> {
  const given = PAGE_FIELDS.filter((field) => page[field] !== undefined);
  return Object.fromEntries(given.map((field) => [field, page[field]]));
}

function joinRuns(
  runs: readonly (readonly [number, Readonly<Record<string, unknown>>])[],
): readonly Readonly<Record<string, unknown>>[] {
  const joined: { n: number; text: string; page: Readonly<Record<string, unknown>> }[] = [];
  for (const [n, page] of runs) {
    const text = JSON.stringify(page);
    const last = joined.at(-1);
    if (last?.text === text) last.n += n;
    else joined.push({ n, text, page });
  }
  return joined.map(({ n, page }) => ({ n, ...page }));
}

// --- values ---

/** Equal as JSON, whatever the order of keys. */
function isSame(one: unknown, other: unknown): boolean {
  if (one === other) return true;
  if (typeof one !== 'object' || typeof other !== 'object' || one === null || other === null) {
    return false;
  }
  if (Array.isArray(one) !== Array.isArray(other)) return false;
  const keys = Object.keys(one);
  return (
    keys.length === Object.keys(other).length &&
    keys.every((key) =>
      isSame((one as Record<string, unknown>)[key], (other as Record<string, unknown>)[key]),
    )
  );
}
