/**
 * What a page fault costs in an address space of few VMAs and of many, and an invalidation that hits none of few and
 * of many intervals.
 *
 * All address spaces of a table have as many pages, and every fault is at another page: what differs is the number of
 * VMAs, or of intervals. The points take turns in short looks, so that what the host does in between hits all alike.
 *
 * @module
 */
import {
  bootDeferred,
  bootMachine,
  bootMm,
  bootSvmStats,
  closeContext,
  type Cpu,
  createSvmDevice,
  defineOps,
  destroySvmDevice,
  hmm,
  kzalloc,
  layout,
  loadWord,
  madvise,
  memory,
  mmAlloc,
  mmap,
  mmput,
  MMU_NOTIFY_CLEAR,
  MmuIntervalNotifier,
  mmuIntervalNotifierInsert,
  type MmuIntervalNotifierOps,
  mmuIntervalNotifierRemove,
  mmuNotifierInvalidateRangeEnd,
  mmuNotifierInvalidateRangeStart,
  MmuNotifierRange,
  mmuNotifierRangeInit,
  openContext,
  PAGE_SIZE,
  registerOps,
  storeWord,
  SvmContext,
  svmDriver,
  SvmRequest,
  uapi,
  useMm,
} from 'faultline';

import { textTable } from '../src/report/table.js';
import { showProgress } from './progress.js';
import { median } from './statistics.js';

const VMAS = [1, 10, 100, 1000, 10_000, 60_000] as const;
const INTERVALS = [10, 100, 1000, 10_000, 100_000] as const;
/** Of every address space of the first table: a multiple of each number of VMAs. */
const PAGES = 60_000;
const RAM_BYTES = 384 << 20;

/** Looks at each point, and how many operations one of them takes. */
const LOOKS = 120;
const OPERATIONS = 500;
/** Looks that only make the code warm. */
const WARMUP = 40;
const NS_PER_MS = 1e6;
const TARGET = 3;
const BASE = 2 ** 40;
const LEGEND = `ns      one fault or invalidation; median of ${LOOKS} looks at ${OPERATIONS} of them, the points in turns
ratio   over the first line of the table; at the last line at most ${TARGET}
CPU     a store to a page that is not there: TLB, page walk, mmap lock, VMA, a zeroed frame, the store
device  a fault of the svm driver at a page that the CPUs have: read_begin, mmap lock, hmm_range_fault, read_retry, map
bare    invalidate_range_start and invalidate_range_end, of a page between two intervals
advice  MADV_DONTNEED of a page between two intervals: all of the call`;

type Va = layout.Va;
type Mm = layout.Ptr<'mm_struct'>;

/** Something of which one is done at each call; the number says which page it is at. */
type Operation = (cpu: Cpu, index: number) => void;

/** What is looked at in turns. */
interface Point {
  readonly count: number;
  readonly run: Operation;
  /** Takes back what it has done; not timed. */
  readonly undo?: Operation;
}

/** A figure of one point. */
export interface ScalingFigure {
  readonly count: number;
  readonly ns: number;
  readonly ratio: number;
}

/** Of one operation. */
export interface ScalingSeries {
  readonly name: string;
  readonly figures: readonly ScalingFigure[];
  readonly isMet: boolean;
}

/** The page of the i-th operation: every page has its turn, and no two in a row are near each other. */
function scattered(i: number, pages: number): number {
  return (i * 37_813) % pages;
}

const pageVa = (page: number): Va => BASE + page * PAGE_SIZE;

function must(error: number, what: string): void {
  if (error < 0) throw new Error(`${what}: error ${error}`);
}

/** Nanoseconds of each point's operation. */
function measure(cpu: Cpu, name: string, points: readonly Point[]): ScalingSeries {
  const looks = points.map((): number[] => []);
  for (let look = 0; look < WARMUP + LOOKS; look++) {
    if (look % 10 === 0) showProgress(`scaling: ${name}, look ${look} of ${WARMUP + LOOKS}`);
    for (const [i, point] of points.entries()) {
      const first = look * OPERATIONS;
      const before = performance.now();
      for (let k = 0; k < OPERATIONS; k++) point.run(cpu, first + k);
      const ns = ((performance.now() - before) * NS_PER_MS) / OPERATIONS;
      if (point.undo !== undefined) {
        for (let k = 0; k < OPERATIONS; k++) point.undo(cpu, first + k);
      }
      if (look >= WARMUP) looks[i]?.push(ns);
    }
  }
  const times = looks.map(median);
  const figures = points.map(({ count }, i) => {
    const ns = times[i] ?? NaN;
    return { count, ns, ratio: ns / (times[0] ?? NaN) };
  });
  return { name, figures, isMet: (figures.at(-1)?.ratio ?? NaN) <= TARGET };
}

// --- faults ---

/** PAGES pages in so many VMAs: neighbours have different rights, so that they stay apart. */
function spaceOf(cpu: Cpu, vmas: number): Mm {
  const mm = mmAlloc(cpu);
  const bytes = (PAGES / vmas) * PAGE_SIZE;
  const flags = uapi.MAP_PRIVATE | uapi.MAP_ANONYMOUS | uapi.MAP_FIXED;
  const rights = uapi.PROT_READ | uapi.PROT_WRITE;
  for (let i = 0; i < vmas; i++) {
    const own = (i & 1) === 0 ? rights : rights | uapi.PROT_EXEC;
    must(mmap(cpu, mm, BASE + i * bytes, bytes, own, flags, layout.NULL, 0), 'mmap');
  }
  return mm;
}

function zap(cpu: Cpu, mm: Mm, page: number): void {
  must(madvise(cpu, mm, pageVa(page), PAGE_SIZE, uapi.MADV_DONTNEED), 'madvise');
}

/** Stores to pages that are not there; they are taken away again. */
function cpuFaults(mm: Mm, count: number): Point {
  return {
    count,
    run: (on, i) => {
      if (i % OPERATIONS === 0) useMm(on, mm);
      must(storeWord(on, mm, pageVa(scattered(i, PAGES)), 1), 'store');
    },
    undo: (on, i) => {
      zap(on, mm, scattered(i, PAGES));
    },
  };
}

type Request = layout.Ptr<'svm_request'>;

function requestOf(cpu: Cpu, context: layout.Ptr<'svm_context'>): Request {
  const request = kzalloc(cpu, SvmRequest);
  const range = layout.member(request, SvmRequest.range);
  const interval = layout.member(context, SvmContext.interval);
  memory.write(cpu, range, hmm.HmmRange.notifier, interval);
  memory.write(cpu, range, hmm.HmmRange.pfns, kzalloc(cpu, hmm.HmmPfn));
  memory.write(cpu, range, hmm.HmmRange.defaultFlags, hmm.HMM_PFN_REQ_FAULT);
  return request;
}

/** Faults of a device at pages that the CPUs may read: all are the zero page, and cost no frame. */
function deviceFaults(cpu: Cpu, context: layout.Ptr<'svm_context'>, mm: Mm, count: number): Point {
  for (let page = 0; page < PAGES; page++) must(loadWord(cpu, mm, pageVa(page)), 'load');
  const request = requestOf(cpu, context);
  const range = layout.member(request, SvmRequest.range);
  return {
    count,
    run: (on, i) => {
      const va = pageVa(scattered(i, PAGES));
      memory.writeAddress(on, range, hmm.HmmRange.start, va);
      memory.writeAddress(on, range, hmm.HmmRange.end, va + PAGE_SIZE);
      must(svmDriver.fault(on, context, request), 'device fault');
    },
  };
}

function faultSeries(cpu: Cpu): ScalingSeries[] {
  const spaces = VMAS.map((count) => {
    showProgress(`scaling: ${count} VMAs`);
    return { count, mm: spaceOf(cpu, count) };
  });
  const cpuSeries = measure(
    cpu,
    'CPU',
    spaces.map(({ count, mm }) => cpuFaults(mm, count)),
  );
  const device = createSvmDevice(cpu, 0, svmDriver, 1);
  const contexts = spaces.map(({ mm }) => openContext(cpu, device, mm));
  const deviceSeries = measure(
    cpu,
    'device',
    spaces.map(({ count, mm }, i) => deviceFaults(cpu, contexts[i]!, mm, count)),
  );
  for (const context of contexts) closeContext(cpu, context);
  destroySvmDevice(cpu, device);
  for (const { mm } of spaces) mmput(cpu, mm);
  return [cpuSeries, deviceSeries];
}

// --- invalidations ---

export const missed: MmuIntervalNotifierOps = defineOps({
  opsName: 'bench scaling: an interval that is never hit',
  invalidate() {
    throw new Error('an invalidation beside an interval has hit it');
  },
});

interface Watched {
  readonly count: number;
  readonly mm: Mm;
  readonly intervals: readonly layout.Ptr<'mmu_interval_notifier'>[];
}

/** An address space in which every other page has an interval; they come in no order. */
function watchedSpace(cpu: Cpu, count: number): Watched {
  showProgress(`scaling: ${count} intervals`);
  const mm = mmAlloc(cpu);
  const flags = uapi.MAP_PRIVATE | uapi.MAP_ANONYMOUS | uapi.MAP_FIXED;
  const bytes = (2 * count + 1) * PAGE_SIZE;
  must(mmap(cpu, mm, BASE, bytes, uapi.PROT_READ, flags, layout.NULL, 0), 'mmap');
  const intervals = Array.from({ length: count }, (_, i) => {
    const interval = kzalloc(cpu, MmuIntervalNotifier);
    const va = pageVa(2 * scattered(i, count));
    must(mmuIntervalNotifierInsert(cpu, interval, mm, va, PAGE_SIZE, missed), 'insert');
    return interval;
  });
  return { count, mm, intervals };
}

/** A page between two intervals. */
function gap(i: number, count: number): Va {
  return pageVa(2 * scattered(i, count - 1) + 1);
}

function bareInvalidations(cpu: Cpu, { count, mm }: Watched): Point {
  const range = kzalloc(cpu, MmuNotifierRange);
  return {
    count,
    run: (on, i) => {
      const va = gap(i, count);
      mmuNotifierRangeInit(on, range, MMU_NOTIFY_CLEAR, mm, va, va + PAGE_SIZE);
      mmuNotifierInvalidateRangeStart(on, range);
      mmuNotifierInvalidateRangeEnd(on, range);
    },
  };
}

function advice({ count, mm }: Watched): Point {
  return {
    count,
    run: (on, i) => {
      must(madvise(on, mm, gap(i, count), PAGE_SIZE, uapi.MADV_DONTNEED), 'madvise');
    },
  };
}

function invalidationSeries(cpu: Cpu): ScalingSeries[] {
  const spaces = INTERVALS.map((count) => watchedSpace(cpu, count));
  const series = [
    measure(
      cpu,
      'bare',
      spaces.map((space) => bareInvalidations(cpu, space)),
    ),
    measure(cpu, 'advice', spaces.map(advice)),
  ];
  for (const { mm, intervals } of spaces) {
    for (const interval of intervals) mmuIntervalNotifierRemove(cpu, interval);
    mmput(cpu, mm);
  }
  return series;
}

// --- the tables ---

function tableOf(what: string, series: readonly ScalingSeries[]): string {
  const counts = series[0]?.figures.map(({ count }) => count) ?? [];
  const rows = counts.map((count, line) => [
    count.toLocaleString('en'),
    ...series.flatMap(({ figures }) => {
      const { ns = NaN, ratio = NaN } = figures[line] ?? {};
      return [`${ns.toFixed(0)} ns`, ratio.toFixed(2)];
    }),
  ]);
  const verdicts = series.flatMap(({ isMet }) => ['', isMet ? 'met' : 'MISSED']);
  return textTable({
    head: [what, ...series.flatMap(({ name }) => [name, 'ratio'])],
    colAligns: ['right', ...series.flatMap(() => ['right', 'right'] as const)],
    rows: [...rows, [`at most ${TARGET}`, ...verdicts]],
  });
}

/** Both tables, and their figures. */
export function scalingReport(): { text: string; figures: object } {
  const { cpu } = bootMachine({ cpus: 1, ramBytes: RAM_BYTES });
  bootMm(cpu);
  bootDeferred(cpu);
  bootSvmStats(cpu);
  registerOps(cpu, [{ svmDriver, missed }]);
  const faults = faultSeries(cpu);
  const invalidations = invalidationSeries(cpu);
  const text = [tableOf('VMAs', faults), tableOf('intervals', invalidations), LEGEND].join('\n\n');
  return { text, figures: { faults, invalidations } };
}
