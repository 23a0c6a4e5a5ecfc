/**
 * Who performs the steps of a case: a CPU for each process and thread, one for drivers, and one for each operation
 * of a driver that runs in the background. And which step each `join` waits for.
 *
 * @module
 */
import type { RecordedCase, RecordedStep } from './corpus.js';
import { DEVICE_STEPS } from './device-steps.js';
import { DRIVER_STEPS } from './driver-steps.js';
import { PROCESS_STEPS } from './processes.js';
import { adviceOf, type StepInput, textOf, wordsOf } from './step.js';
import { SYSTEM_CALLS } from './system-calls.js';
import { CPUS_OF_CASE_MAX, IDS_MAX, procOf } from './world.js';

/** CPU 0 performs what drivers and other processes do, and leads through the case. */
export const LEADER = 0;

/** One step, and who performs it. */
export interface CastStep {
  readonly input: StepInput;
  readonly cpu: number;
  /** The process that it is about. */
  readonly proc: number;
  /** The CPU of the process or thread that it makes; -1 if it makes none. */
  readonly childCpu: number;
  readonly isAsync: boolean;
  /** A join: number of the step that it waits for; else -1. */
  readonly joins: number;
  readonly wantsSnapshot: boolean;
}

/** A case as its CPUs are given it. */
export interface CastCase {
  readonly name: string;
  readonly pages: number;
  readonly showsSoftDirty: boolean;
  readonly steps: readonly CastStep[];
  /** What runs on each CPU, for reports. */
  readonly cpus: readonly string[];
}

/** Steps that the leader performs although a program could: it knows who ends. */
const LEADERS_OWN: ReadonlySet<string> = new Set(['kill', 'process_mrelease']);

/** The first operation of a case that is not implemented; undefined if there is none. */
export function unsupportedOp({ steps }: RecordedCase): string | undefined {
  return steps.map(unsupportedPart).find((part) => part !== undefined);
}

function unsupportedPart(step: RecordedStep): string | undefined {
  const { op } = step;
  const isKnown = op === 'join' || op in SYSTEM_CALLS || op in DRIVER_STEPS || op in PROCESS_STEPS;
  if (!isKnown) return op;
  if (op === 'madvise' && isUnknownAdvice(step)) return `madvise ${textOf(step, 'advice')}`;
  if (op === 'mmap' && wordsOf(step, 'flags').includes('hugetlb')) return 'mmap hugetlb';
  if (op === 'memfd' && wordsOf(step, 'flags').includes('hugetlb')) return 'memfd hugetlb';
  if (procOf(step.proc ?? 'p0') < 0) return `${op} in ${step.proc ?? ''}`;
  const ids = ['id', 'newid', 'save', 'useSeq', 'fd'].map((name) => step[name]);
  return ids.some((id) => typeof id === 'number' && (id < 0 || id >= IDS_MAX))
    ? `${op} with a number of ${IDS_MAX} and more`
    : undefined;
}

/** Advice that is accepted here, and has no effect where it has one in Linux. */
const MADE_LIGHT_OF: ReadonlySet<string> = new Set(['HWPOISON', 'SOFT_OFFLINE']);

function isUnknownAdvice(step: RecordedStep): boolean {
  return adviceOf(step) === undefined || MADE_LIGHT_OF.has(textOf(step, 'advice'));
}

/** True if the case has steps that need devices. */
export function usesDevices({ steps }: CastCase): boolean {
  return steps.some(({ input }) => input.op in DEVICE_STEPS);
}

/** Gives every step of a case to a CPU. */
export function castCase(recorded: RecordedCase): CastCase {
  const cpus = ['driver', 'p0'];
  const cpuOf = (name: string): number => {
    if (!cpus.includes(name)) cpus.push(name);
    return cpus.indexOf(name);
  };
  const joins = matchJoins(recorded.steps);
  const steps = recorded.steps.map((step, index): CastStep => {
    const { op } = step;
    const name = step.proc ?? 'p0';
    const isAsync = step.async !== undefined;
    const isOwn = op in SYSTEM_CALLS || (op in PROCESS_STEPS && !LEADERS_OWN.has(op));
    const child = op === 'fork' ? step['child'] : op === 'thread_create' ? step['id'] : undefined;
    return {
      input: inputOf(step),
      cpu: isOwn ? cpuOf(name) : isAsync ? cpuOf(`driver, step ${index}`) : LEADER,
      proc: procOf(name),
      childCpu: typeof child === 'string' ? cpuOf(child) : -1,
      isAsync,
      joins: joins.get(index) ?? -1,
      wantsSnapshot: step.snapshot !== undefined,
    };
  });
  const { name, pages, opts } = recorded;
  return { name, pages, showsSoftDirty: opts === 'sd', steps, cpus };
}

/** True if the case needs no more CPUs than there are. */
export function fits({ cpus }: CastCase): boolean {
  return cpus.length <= CPUS_OF_CASE_MAX;
}

/** What a step was told, and nothing of what it answered. */
const OUTCOMES: ReadonlySet<string> = new Set([
  'result', 'events', 'tlb', 'snapshot', 'alternatives', 'values', 'pages', 'outside', 'tries',
  'retry', 'checkRetry', 'seq', 'signal', 'signalPage', 'pending', 'async', 'exited', 'cpages',
  'migrated', 'srcAfterSetup', 'srcAfterPages', 'inUse', 'last', 'moved', 'eventsTruncated',
]); // prettier-ignore

function inputOf(step: RecordedStep): StepInput {
  const told = Object.entries(step).filter(
    ([name]) => !OUTCOMES.has(name) && !(name === 'mask' && step.op === 'make_exclusive'),
  );
  return { op: step.op, ...Object.fromEntries(told) };
}

/**
 * Which background step each join waits for. The tags that said so are not in the recording: a join is of the last
 * step of the background that fits what it answers, and that no other join has taken.
 */
export function matchJoins(steps: readonly RecordedStep[]): ReadonlyMap<number, number> {
  const open: number[] = [];
  const joined = new Map<number, number>();
  steps.forEach((step, index) => {
    if (step.async !== undefined) open.push(index);
    if (step.op !== 'join') return;
    const fitting = open.filter((at) => couldAnswer(steps[at], step));
    const of = fitting.at(-1) ?? open.at(-1);
    if (of === undefined) return;
    joined.set(index, of);
    open.splice(open.indexOf(of), 1);
  });
  return joined;
}

/** Fields that only joins of certain operations answer. */
const TELLING: readonly (readonly [string, readonly string[]])[] = [
  ['tries', ['hmm_range_fault']],
  ['seq', ['read_begin', 'interval_insert']],
  ['values', ['touch']],
  ['cpages', ['migrate_to_device', 'migrate_to_system', 'device_evict']],
  ['mask', ['make_exclusive']],
];

function couldAnswer(step: RecordedStep | undefined, join: RecordedStep): boolean {
  if (step === undefined) return false;
  const wasDone = step.async === 'done';
  if ((join['pending'] === false) !== wasDone) return false;
  const answered = { ...join, ...join.alternatives };
  const [telling] = TELLING.filter(([field]) => field in answered);
  return telling === undefined || telling[1].includes(step.op);
}
