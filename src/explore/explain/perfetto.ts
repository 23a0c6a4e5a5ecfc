/**
 * An explanation as a trace in Chrome's JSON format, which ui.perfetto.dev opens.
 *
 * One thread for each CPU. Slices are the program's operations, what they call, the locks that are held and
 * the times that the task waits; each step is an instant, or a slice of its own where an arrow begins or
 * ends. An arrow goes from a write to the read of another task that saw it: from an invalidation to the
 * retry that it causes, and on to what that finds. A step takes a microsecond.
 *
 * Deviation  Slices of one thread must nest. A lock that is held across the end of another slice goes to
 *            a thread of its own, below.
 *
 * @module
 */
import { stepText } from './diagram.js';
import type { ExplainedStep, Explanation } from './explanation.js';

/** One event; docs: "Trace Event Format". */
export interface TraceEvent {
  readonly name: string;
  readonly ph: 'M' | 'X' | 'i' | 's' | 'f';
  readonly pid: number;
  readonly tid: number;
  /** Unit: microseconds. */
  readonly ts?: number;
  readonly dur?: number;
  readonly cat?: string;
  readonly id?: number;
  readonly bp?: 'e';
  readonly s?: 't';
  readonly args?: Readonly<Record<string, unknown>>;
}

export interface PerfettoTrace {
  readonly displayTimeUnit: 'ns';
  readonly traceEvents: readonly TraceEvent[];
  readonly otherData: Readonly<Record<string, string>>;
}

const PID = 1;
/** Threads of one CPU at most: its own, and those for slices that do not nest. */
const LANES = 8;

/** A stretch of time of one CPU; `end` is exclusive. Unit: steps. */
interface Slice {
  readonly task: number;
  readonly category: 'operation' | 'lock' | 'wait' | 'step';
  readonly name: string;
  readonly start: number;
  readonly end: number;
  readonly args?: Readonly<Record<string, unknown>>;
}

/** The trace; write it as JSON. */
export function perfettoTrace(told: Explanation): PerfettoTrace {
  const flows = flowsOf(told.steps);
  const ends = new Set(flows.flatMap(({ from, to }) => [from, to]));
  const slices = [
    ...operationSlices(told),
    ...waitSlices(told),
    ...lockSlices(told),
    ...told.steps.filter(({ step }) => ends.has(step)).map(stepSlice),
  ];
  const lanes = new Lanes();
  const events = slices.map((slice) => sliceEvent(slice, lanes));
  const instants = told.steps.filter(({ step }) => !ends.has(step)).map(instantEvent);
  return {
    displayTimeUnit: 'ns',
    traceEvents: [
      ...nameEvents(told, lanes),
      ...[
        ...events,
        ...instants,
        ...flows.flatMap((flow, id) => flowEvents(flow, id + 1, told.steps)),
      ].sort((one, other) => (one.ts ?? 0) - (other.ts ?? 0) || (other.dur ?? 0) - (one.dur ?? 0)),
    ],
    otherData: { program: told.program, schedule: told.schedule, failure: told.failure.message },
  };
}

// --- slices ---

function operationSlices({ steps, tasks }: Explanation): Slice[] {
  return tasks.flatMap(({ operations }, task) =>
    operations.flatMap((name, operation): Slice[] => {
      const own = steps.filter((step) => step.task === task && step.operation === operation);
      const [first, last] = [own[0], own.at(-1)];
      if (first === undefined || last === undefined) return [];
      return [{ task, category: 'operation', name, start: first.step, end: last.step + 1 }];
    }),
  );
}

/** From the first step at which a task could not go to the step before its next. */
function waitSlices({ steps, tasks, switches }: Explanation): Slice[] {
  return tasks.flatMap((_, task): Slice[] => {
    const slices: Slice[] = [];
    let since = -1;
    for (const { step, task: mover, waiting } of steps) {
      const waits = ((waiting >> task) & 1) !== 0;
      if (waits && since < 0) since = step;
      if (since >= 0 && (!waits || mover === task)) {
        slices.push(waitSlice(task, since, step, switches));
        since = -1;
      }
    }
    if (since >= 0) slices.push(waitSlice(task, since, steps.length, switches));
    return slices;
  });
}

function waitSlice(
  task: number,
  start: number,
  end: number,
  switches: Explanation['switches'],
): Slice {
  const left = switches.findLast(({ step, from }) => from === task && step <= start);
  const reason = left === undefined || left.reason === 'preempted' ? 'waits' : left.reason;
  return { task, category: 'wait', name: reason, start, end };
}

function lockSlices({ steps, tasks }: Explanation): Slice[] {
  return tasks.flatMap((_, task): Slice[] => {
    const slices: Slice[] = [];
    const open: { name: string; start: number }[] = [];
    for (const { step, task: mover, held } of steps) {
      if (mover !== task) continue;
      for (const one of open.filter(({ name }) => !held.includes(name))) {
        slices.push({
          task,
          category: 'lock',
          name: `holds ${one.name}`,
          start: one.start,
          end: step + 1,
        });
        open.splice(open.indexOf(one), 1);
      }
      for (const name of held) {
        if (!open.some((one) => one.name === name)) open.push({ name, start: step });
      }
    }
    const end = steps.length;
    return [
      ...slices,
      ...open.map(({ name, start }): Slice => ({
        task,
        category: 'lock',
        name: `holds ${name}`,
        start,
        end,
      })),
    ];
  });
}

function stepSlice(step: ExplainedStep): Slice {
  const { task, step: start } = step;
  return {
    task,
    category: 'step',
    name: stepText(step),
    start,
    end: start + 1,
    args: argsOf(step),
  };
}

function sliceEvent(slice: Slice, lanes: Lanes): TraceEvent {
  const { task, category, name, start, end, args } = slice;
  return {
    name,
    ph: 'X',
    pid: PID,
    tid: lanes.place(slice),
    ts: start,
    dur: end - start,
    cat: category,
    args: { steps: end - start, ...args, cpu: task },
  };
}

/** Threads of each CPU, so that the slices of each nest. */
class Lanes {
  readonly #slices = new Map<number, Slice[]>();

  /** The first thread of the CPU in which the slice crosses no other. */
  place(slice: Slice): number {
    for (let lane = 0; ; lane++) {
      const tid = slice.task * LANES + lane + 1;
      const others = this.#slices.get(tid) ?? [];
      if (lane < LANES - 1 && others.some((other) => crosses(slice, other))) continue;
      this.#slices.set(tid, [...others, slice]);
      return tid;
    }
  }

  threads(): number[] {
    return [...this.#slices.keys()].sort((one, other) => one - other);
  }
}

function crosses(one: Slice, other: Slice): boolean {
  const apart = one.end <= other.start || other.end <= one.start;
  const inside =
    (one.start >= other.start && one.end <= other.end) ||
    (other.start >= one.start && other.end <= one.end);
  return !apart && !inside;
}

// --- instants and names ---

function instantEvent(step: ExplainedStep): TraceEvent {
  return {
    name: stepText(step),
    ph: 'i',
    s: 't',
    pid: PID,
    tid: step.task * LANES + 1,
    ts: step.step,
    cat: 'step',
    args: argsOf(step),
  };
}

function argsOf(step: ExplainedStep): Record<string, unknown> {
  const { site } = step;
  return {
    word: step.name,
    ...(site === undefined ? {} : { at: `${site.file}:${site.line}`, in: site.function }),
    ...(step.held.length === 0 ? {} : { holds: step.held.join(', ') }),
    ...(step.critical ? { critical: true } : {}),
  };
}

function nameEvents({ program, tasks }: Explanation, lanes: Lanes): TraceEvent[] {
  const name = (what: string, tid: number, args: Record<string, unknown>): TraceEvent => ({
    name: what,
    ph: 'M',
    pid: PID,
    tid,
    args,
  });
  const threads = new Set([...tasks.map((_, task) => task * LANES + 1), ...lanes.threads()]);
  return [
    name('process_name', 0, { name: program }),
    ...[...threads].flatMap((tid) => {
      const task = Math.floor((tid - 1) / LANES);
      const isOwn = (tid - 1) % LANES === 0;
      const text = `CPU${task} ${isOwn ? (tasks[task]?.name ?? '') : 'locks'}`;
      return [
        name('thread_name', tid, { name: text }),
        name('thread_sort_index', tid, { sort_index: tid }),
      ];
    }),
  ];
}

// --- arrows ---

/** A write, and the read of another task that saw it. */
interface Flow {
  readonly from: number;
  readonly to: number;
}

const SEES = new Set(['read', 'update', 'sleep if', 'wake up']);
const SHOWS = new Set(['write', 'update', 'unlock', 'wake']);

/** For each read, the last write of the word, if another task made it and the reader had not seen it. */
function flowsOf(steps: readonly ExplainedStep[]): Flow[] {
  const written = new Map<number, ExplainedStep>();
  const seen = new Set<string>();
  const flows: Flow[] = [];
  for (const step of steps) {
    for (let word = step.word; word < step.word + step.words; word++) {
      const last = written.get(word);
      const key = `${last?.step ?? -1} ${step.task}`;
      if (
        last !== undefined &&
        last.task !== step.task &&
        SEES.has(step.action) &&
        !seen.has(key)
      ) {
        flows.push({ from: last.step, to: step.step });
        seen.add(key);
      }
      if (SHOWS.has(step.action)) written.set(word, step);
    }
  }
  return flows;
}

function flowEvents({ from, to }: Flow, id: number, steps: readonly ExplainedStep[]): TraceEvent[] {
  const [first, second] = [steps[from]!, steps[to]!];
  const common = { name: first.shortName, cat: 'decides', id, pid: PID };
  return [
    { ...common, ph: 's', tid: first.task * LANES + 1, ts: from },
    { ...common, ph: 'f', bp: 'e', tid: second.task * LANES + 1, ts: to },
  ];
}
