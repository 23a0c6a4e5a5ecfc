/**
 * Results of `faultline bench` as people read them: tables, and plots if something was swept.
 *
 * @module
 */
import { stripVTControlCharacters } from 'node:util';

import plot from 'simple-ascii-chart';

import type { Latencies } from '../workloads/histogram.js';
import type { BenchPoint } from './bench-result.js';
import { countOf, formatCount, formatMargin, formatNs, formatShare } from './format.js';
import { textTable } from './table.js';

/** How results are to look. */
export interface Look {
  readonly color: boolean;
  /** Unit: characters. */
  readonly width: number;
}

const PLOT_WIDTH_MAX = 64;
const PLOT_HEIGHT = 10;
/** Room that a plot needs beside itself, for the numbers of its y axis. Unit: characters. */
const PLOT_MARGIN = 12;

/** One column of a table. */
interface Column {
  readonly head: string;
  readonly cell: (point: BenchPoint) => string;
}

/**
 * What does not differ between the points, then a row for each point. Where the columns do not all fit
 * side by side, what belongs together goes into a table of its own.
 */
export function benchTable(points: readonly BenchPoint[], look: Look): string {
  const keys = keyColumns(points);
  const groups = [
    rateColumns(points),
    latencyColumns('fault', (point) => point.fault),
    latencyColumns('invalidation', (point) => point.invalidate),
  ];
  const tables: Column[][] = [];
  for (const group of groups) {
    const last = tables.at(-1);
    const together = last && [...last, ...group];
    if (together && widthOf(tableOf(points, together, look)) <= look.width) last.push(...group);
    else tables.push([...keys, ...group]);
  }
  return [
    constants(points),
    ...tables.map((columns) => tableOf(points, columns, look)),
    LEGEND,
    ...flawLines(points),
  ].join('\n');
}

const LEGEND = `/s       per second, all threads together (k = 1000, M = 1000 k)
±        half the 95 % confidence interval of the mean time of an operation,
         fault or invalidation, over rounds of 0.1 s or shorter
retries  share of all tries of a fault that an invalidation came across
stale    accesses of devices through a mapping whose invalidation was over
p50, …   percentiles of the time one operation took
-        there was none`;

/** A line for each protocol among the points that is not safe. */
function flawLines(points: readonly BenchPoint[]): string[] {
  const unsafe = new Map(
    points.flatMap(({ protocol, flaw }): [string, string][] =>
      protocol === undefined || flaw === undefined ? [] : [[protocol, flaw]],
    ),
  );
  const width = Math.max(0, ...[...unsafe.keys()].map((name) => name.length));
  return [...unsafe].map(([name, flaw]) => `!        ${name.padEnd(width)}  is unsafe: ${flaw}`);
}

function tableOf(
  points: readonly BenchPoint[],
  columns: readonly Column[],
  { color }: Look,
): string {
  return textTable({
    head: columns.map(({ head }) => head),
    colAligns: columns.map(({ head }) =>
      ['workload', 'protocol'].includes(head) ? 'left' : 'right',
    ),
    rows: points.map((point) => columns.map(({ cell }) => cell(point))),
    color,
  });
}

/** Characters of a table's lines, which all have as many. */
function widthOf(table: string): number {
  return stripVTControlCharacters(table.slice(0, table.indexOf('\n'))).length;
}

/** What tells the points from each other. */
function keyColumns(points: readonly BenchPoint[]): Column[] {
  const workload: Column = { head: 'workload', cell: (point) => point.workload };
  const parameters = differing(points).map((axis): Column => {
    return { head: AXIS_NAMES[axis], cell: ({ parameters }) => String(parameters[axis]) };
  });
  const protocol: Column = {
    head: 'protocol',
    cell: ({ protocol: name = '-', flaw }) => (flaw === undefined ? name : `${name} !`),
  };
  return [
    ...(new Set(points.map((point) => point.workload)).size > 1 ? [workload] : []),
    ...parameters,
    ...(points.some((point) => point.protocol !== undefined) ? [protocol] : []),
  ];
}

/** `fault-invalidate: 2 fault threads, 1 invalidator, …`: what all points have in common. */
function constants(points: readonly BenchPoint[]): string {
  const [first] = points;
  if (first === undefined) return '';
  const { faultThreads, invalidators, devices, rangePages, arenaPages, overlap } = first.parameters;
  const texts: Readonly<Record<Axis, string>> = {
    faultThreads: countOf(faultThreads, 'fault thread'),
    invalidators: countOf(invalidators, 'invalidator'),
    devices: countOf(devices, 'device'),
    rangePages: `ranges of ${countOf(rangePages, 'page')}`,
    arenaPages: `an arena of ${countOf(arenaPages, 'page')}`,
    overlap: `overlap ${overlap}`,
  };
  const varied = differing(points);
  const names = [...new Set(points.map((point) => point.workload))].join(', ');
  const common = (Object.keys(texts) as Axis[]).filter((axis) => !varied.includes(axis));
  return `${names}: ${common.map((axis) => texts[axis]).join(', ')}`;
}

function rateColumns(points: readonly BenchPoint[]): Column[] {
  const accesses: Column = {
    head: 'accesses/s',
    cell: ({ accessesPerSecond: rate }) => (rate === 0 ? '-' : formatCount(rate)),
  };
  return [
    { head: 'faults/s', cell: (point) => formatCount(point.faultsPerSecond) },
    { head: 'invalidations/s', cell: (point) => formatCount(point.invalidationsPerSecond) },
    ...(points.some((point) => point.accessesPerSecond > 0) ? [accesses] : []),
    { head: '±', cell: (point) => formatMargin(point.marginOfErrorPercent) },
    {
      head: 'retries',
      cell: ({ faults, retries, retryShare }) =>
        faults + retries === 0 ? '-' : formatShare(retryShare),
    },
    ...(points.some(({ staleAccesses, protocol }) => staleAccesses > 0 || protocol !== undefined)
      ? [{ head: 'stale', cell: (point: BenchPoint) => formatCount(point.staleAccesses) }]
      : []),
  ];
}

const PERCENTILES = [
  ['p50', 'p50Ns'],
  ['p90', 'p90Ns'],
  ['p99', 'p99Ns'],
  ['p99.9', 'p999Ns'],
  ['max', 'maxNs'],
] as const;

function latencyColumns(name: string, of: (point: BenchPoint) => Latencies): Column[] {
  return PERCENTILES.map(([percentile, key], index) => ({
    head: index === 0 ? `${name} ${percentile}` : percentile,
    cell: (point) => (of(point).samples === 0 ? '-' : formatNs(of(point)[key])),
  }));
}

/** A line for each thing that must not happen and did. */
export function violations(points: readonly BenchPoint[]): string[] {
  return points
    .filter((point) => point.staleAccesses > 0)
    .map(({ workload, protocol, parameters, staleAccesses }) => {
      const accesses = countOf(staleAccesses, 'device access', 'device accesses');
      const over = protocol === undefined ? '' : `${protocol}, `;
      const at = `${over}${countOf(parameters.rangePages, 'page')}, overlap ${parameters.overlap}`;
      return `violation: ${workload} (${at}): ${accesses} through a mapping whose invalidation was over (stale)`;
    });
}

/** Parameters that a plot can have on its x axis. */
const AXES = [
  'rangePages',
  'faultThreads',
  'invalidators',
  'devices',
  'arenaPages',
  'overlap',
] as const;
type Axis = (typeof AXES)[number];

const AXIS_NAMES: Readonly<Record<Axis, string>> = {
  rangePages: 'pages',
  faultThreads: 'fault threads',
  invalidators: 'invalidators',
  devices: 'devices',
  arenaPages: 'arena pages',
  overlap: 'overlap',
};

/** Parameters in which the points differ. */
function differing(points: readonly BenchPoint[]): Axis[] {
  return AXES.filter((name) => new Set(points.map((point) => point.parameters[name])).size > 1);
}

const RATES = [
  ['faults/s', (point: BenchPoint) => point.faultsPerSecond],
  ['invalidations/s', (point: BenchPoint) => point.invalidationsPerSecond],
] as const;

/** Faults and invalidations against what was swept; empty if nothing was, or protocols are compared. */
export function benchPlots(points: readonly BenchPoint[], look: Look): string[] {
  if (new Set(points.map((point) => point.protocol)).size > 1) return [];
  const plots: string[] = [];
  for (const workload of new Set(points.map((point) => point.workload))) {
    const own = points.filter((point) => point.workload === workload);
    const [axis] = plottedAxes(own);
    if (axis === undefined) continue;
    for (const [name, rate] of RATES) {
      if (own.every((point) => rate(point) === 0)) continue;
      const title = `${workload}: ${name} against ${AXIS_NAMES[axis]}`;
      plots.push(...ratePlots(title, own, axis, rate, look));
    }
  }
  return plots;
}

/** One plot with a colour for each series; or, since without colours nobody could tell them apart, one each. */
function ratePlots(
  title: string,
  points: readonly BenchPoint[],
  axis: Axis,
  rate: (point: BenchPoint) => number,
  look: Look,
): string[] {
  const groups = new Map<string, BenchPoint[]>();
  for (const point of points) {
    const name = seriesName(points, point, axis);
    groups.set(name, [...(groups.get(name) ?? []), point]);
  }
  if (look.color) return [ratePlot(title, groups, axis, rate, look)];
  return [...groups].map(([name, group]) =>
    ratePlot(name === '' ? title : `${title}, ${name}`, new Map([['', group]]), axis, rate, look),
  );
}

function ratePlot(
  title: string,
  groups: ReadonlyMap<string, readonly BenchPoint[]>,
  axis: Axis,
  rate: (point: BenchPoint) => number,
  { color, width }: Look,
): string {
  const points = [...groups.values()].flat();
  const xs = [...new Set(points.map((point) => point.parameters[axis]))].sort((a, b) => a - b);
  // steps of equal width: the values of a sweep are seldom evenly spaced
  const series = [...groups.values()].map((group) =>
    group
      .map((point): [number, number] => [xs.indexOf(point.parameters[axis]), rate(point)])
      .sort(([a], [b]) => a - b),
  );
  const names = [...groups.keys()];
  const drawn = plot(series, {
    title,
    width: Math.max(16, Math.min(PLOT_WIDTH_MAX, width - PLOT_MARGIN)),
    height: PLOT_HEIGHT,
    yRange: [0, Math.max(...points.map(rate), 1)],
    customXAxisTicks: xs.map((_, index) => index),
    formatter: (value, { axis: which }) =>
      which === 'x' ? String(xs[Math.round(value)] ?? '') : formatCount(value).replace(' ', ''),
    ...(names.some((name) => name !== '') && { legend: { position: 'bottom', series: names } }),
    ...(color && { color: ['ansiGreen', 'ansiYellow', 'ansiBlue', 'ansiMagenta', 'ansiCyan'] }),
  });
  return drawn.replace(/ +$/gm, '').trimEnd();
}

/** Parameters that differ, without fault threads if every device just has its own. */
function plottedAxes(points: readonly BenchPoint[]): Axis[] {
  const axes = differing(points);
  const isOneEach = points.every(
    ({ parameters }) => parameters.faultThreads === parameters.devices,
  );
  return isOneEach ? axes.filter((axis) => axis !== 'faultThreads') : axes;
}

/** What tells a series from the others: the parameters, besides the axis, that differ. */
function seriesName(all: readonly BenchPoint[], point: BenchPoint, axis: Axis): string {
  return plottedAxes(all)
    .filter((name) => name !== axis)
    .map((name) => `${AXIS_NAMES[name]} ${point.parameters[name]}`)
    .join(', ');
}
