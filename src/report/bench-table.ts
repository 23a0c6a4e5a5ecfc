/**
 * Results of `faultline bench` as people read them: a table, and a plot if something was swept.
 *
 * @module
 */
import Table from 'cli-table3';
import plot from 'simple-ascii-chart';

import { type BenchPoint } from './bench-result.js';
import { formatCount, formatNs, formatShare } from './format.js';

const PLOT_WIDTH = 64;
const PLOT_HEIGHT = 12;

/** One row for each point. */
export function benchTable(points: readonly BenchPoint[], color: boolean): string {
  const table = new Table({
    head: [
      'workload',
      'faulters',
      'invalid.',
      'devices',
      'pages',
      'overlap',
      'faults/s',
      'invalid./s',
      '±',
      'retries',
      'fault p50',
      'p90',
      'p99',
      'p99.9',
      'max',
      'inval. p50',
      'p99',
      'max',
    ],
    colAligns: ['left', ...Array.from({ length: 17 }, () => 'right' as const)],
    style: { head: color ? ['bold'] : [], border: color ? ['grey'] : [], compact: true },
  });
  for (const point of points) table.push(row(point));
  return table.toString();
}

function row(point: BenchPoint): string[] {
  const { parameters, fault, invalidate } = point;
  const faultNs = (ns: number): string => (fault.samples === 0 ? '-' : formatNs(ns));
  const invalidateNs = (ns: number): string => (invalidate.samples === 0 ? '-' : formatNs(ns));
  return [
    point.workload,
    String(parameters.faultThreads),
    String(parameters.invalidators),
    String(parameters.devices),
    String(parameters.rangePages),
    String(parameters.overlap),
    formatCount(point.faultsPerSecond),
    formatCount(point.invalidationsPerSecond),
    `${point.marginOfErrorPercent.toFixed(1)} %`,
    formatShare(point.retryShare),
    faultNs(fault.p50Ns),
    faultNs(fault.p90Ns),
    faultNs(fault.p99Ns),
    faultNs(fault.p999Ns),
    faultNs(fault.maxNs),
    invalidateNs(invalidate.p50Ns),
    invalidateNs(invalidate.p99Ns),
    invalidateNs(invalidate.maxNs),
  ];
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
  rangePages: 'range pages',
  faultThreads: 'fault threads',
  invalidators: 'invalidators',
  devices: 'devices',
  arenaPages: 'arena pages',
  overlap: 'overlap',
};

/** Faults and invalidations against what was swept; empty if nothing was. */
export function benchPlots(points: readonly BenchPoint[], color: boolean): string[] {
  const plots: string[] = [];
  for (const workload of new Set(points.map((point) => point.workload))) {
    const own = points.filter((point) => point.workload === workload);
    const axis = AXES.find((name) => new Set(own.map((point) => point.parameters[name])).size > 1);
    if (axis === undefined) continue;
    plots.push(
      ratePlot(`${workload}: faults/s`, own, axis, (point) => point.faultsPerSecond, color),
      ratePlot(
        `${workload}: invalidations/s`,
        own,
        axis,
        (point) => point.invalidationsPerSecond,
        color,
      ),
    );
  }
  return plots;
}

function ratePlot(
  title: string,
  points: readonly BenchPoint[],
  axis: Axis,
  rate: (point: BenchPoint) => number,
  color: boolean,
): string {
  const xs = [...new Set(points.map((point) => point.parameters[axis]))].sort((a, b) => a - b);
  const groups = new Map<string, BenchPoint[]>();
  for (const point of points) {
    const name = seriesName(points, point, axis);
    groups.set(name, [...(groups.get(name) ?? []), point]);
  }
  // steps of equal width: the values of a sweep are seldom evenly spaced
  const series = [...groups.values()].map((group) =>
    group
      .map((point): [number, number] => [xs.indexOf(point.parameters[axis]), rate(point)])
      .sort(([a], [b]) => a - b),
  );
  return plot(series, {
    title: `${title} against ${AXIS_NAMES[axis]}`,
    width: PLOT_WIDTH,
    height: PLOT_HEIGHT,
    customXAxisTicks: xs.map((_, index) => index),
    formatter: (value, { axis: which }) =>
      which === 'x' ? String(xs[Math.round(value)] ?? '') : formatCount(value).replace(' ', ''),
    legend: { position: 'bottom', series: [...groups.keys()] },
    ...(color && { color: ['ansiGreen', 'ansiYellow', 'ansiBlue', 'ansiMagenta', 'ansiCyan'] }),
  });
}

/** What tells a series from the others: the parameters, besides the axis, that differ. */
function seriesName(all: readonly BenchPoint[], point: BenchPoint, axis: Axis): string {
  const differing = AXES.filter(
    (name) => name !== axis && new Set(all.map((one) => one.parameters[name])).size > 1,
  );
  const parts = differing.map((name) => `${AXIS_NAMES[name]} ${point.parameters[name]}`);
  return parts.length === 0 ? 'all' : parts.join(', ');
}
