/**
 * From options to the configurations that `faultline bench` measures.
 *
 * @module
 */
import { InvalidArgumentError } from 'commander';
import { CPUS_MAX, FaultlineError, type PointConfig } from 'faultline';

import { badOptions, integer, real } from './options.js';

/** What can be swept: option name, key in the configuration, reader of one value. */
export const SWEEPABLE = {
  'fault-threads': { key: 'faultThreads', read: integer(0, CPUS_MAX) },
  invalidators: { key: 'invalidators', read: integer(0, CPUS_MAX) },
  devices: { key: 'devices', read: integer(1, 16) },
  'range-pages': { key: 'rangePages', read: integer(1, 16384) },
  'arena-pages': { key: 'arenaPages', read: integer(1, 262144) },
  overlap: { key: 'overlap', read: real(0, 1) },
} as const;

export type SweepName = keyof typeof SWEEPABLE;
type SweepKey = (typeof SWEEPABLE)[SweepName]['key'];
/** Values to measure for each parameter. */
export type Sweeps = Readonly<Record<SweepKey, readonly number[]>>;

/** One `--sweep KEY=A,B,C`. */
export interface SweepOption {
  readonly name: SweepName;
  readonly values: readonly number[];
}

/** Reads `--sweep KEY=A,B,C`; the option can be repeated. */
export function readSweep(text: string, previous: readonly SweepOption[] = []): SweepOption[] {
  const [name = '', list, ...rest] = text.split('=');
  if (!isSweepName(name) || list === undefined || rest.length > 0) {
    const known = Object.keys(SWEEPABLE).join(', ');
    throw new InvalidArgumentError(`It must be KEY=A,B,C with KEY one of ${known}.`);
  }
  if (previous.some((one) => one.name === name)) {
    throw new InvalidArgumentError(`There are two sweeps of ${name}.`);
  }
  const values = list.split(',').map((value) => SWEEPABLE[name].read(value));
  if (new Set(values).size < values.length) {
    throw new InvalidArgumentError('It names a value twice.');
  }
  return [...previous, { name, values }];
}

function isSweepName(name: string): name is SweepName {
  return Object.hasOwn(SWEEPABLE, name);
}

/**
 * What each workload measures where no option says otherwise. The fault threads of svm are dealt out among
 * its devices: it has one for each.
 */
const DEFAULTS: Readonly<Record<string, Sweeps>> = {
  'fault-invalidate': {
    faultThreads: [2],
    invalidators: [1],
    devices: [1],
    rangePages: [1, 16, 256],
    arenaPages: [4096],
    overlap: [0, 1],
  },
  svm: {
    faultThreads: [1],
    invalidators: [1],
    devices: [1],
    rangePages: [16],
    arenaPages: [4096],
    overlap: [1],
  },
};

/** The values that the options give explicitly. */
export type GivenValues = Partial<Record<SweepKey, number>>;

/** All configurations of a workload. @throws FaultlineError if one cannot be */
export function pointsFor(
  workload: string,
  given: GivenValues,
  sweeps: readonly SweepOption[],
  common: Pick<PointConfig, 'seed' | 'sampleEvery'>,
): PointConfig[] {
  const defaults = DEFAULTS[workload];
  if (defaults === undefined) {
    throw new FaultlineError('FAULTLINE_BAD_WORKLOAD', `there is no workload '${workload}'`);
  }
  for (const { name } of sweeps) {
    if (given[SWEEPABLE[name].key] !== undefined) {
      throw badOptions(`--${name} and --sweep ${name}=… contradict each other: give one of them`);
    }
  }
  const values = { ...defaults };
  for (const key of Object.keys(defaults) as SweepKey[]) {
    const value = given[key];
    if (value !== undefined) values[key] = [value];
  }
  for (const { name, values: swept } of sweeps) values[SWEEPABLE[name].key] = swept;
  const isOnePerDevice =
    workload === 'svm' &&
    given.faultThreads === undefined &&
    !sweeps.some(({ name }) => name === 'fault-threads');
  const points = product(values).map((point) => ({
    ...point,
    ...(isOnePerDevice && { faultThreads: point.devices }),
    ...common,
  }));
  for (const point of points) checkPoint(workload, point);
  return points;
}

type Point = Record<SweepKey, number>;

/** Every combination, `overlap` changing slowest and `rangePages` fastest. */
function product(values: Sweeps): Point[] {
  const order: SweepKey[] = [
    'overlap',
    'arenaPages',
    'devices',
    'invalidators',
    'faultThreads',
    'rangePages',
  ];
  let points: Partial<Point>[] = [{}];
  for (const key of order) {
    points = points.flatMap((point) => values[key].map((value) => ({ ...point, [key]: value })));
  }
  return points as Point[];
}

function checkPoint(workload: string, point: PointConfig): void {
  const { faultThreads, invalidators, devices, rangePages, arenaPages } = point;
  const threads = faultThreads + invalidators;
  if (threads === 0)
    throw badOptions('--fault-threads and --invalidators are both 0: there is nothing to do');
  const cpus = workload === 'svm' ? threads + devices : threads; // an engine is a CPU, too
  if (cpus > CPUS_MAX) {
    throw badOptions(`a machine has at most ${CPUS_MAX} CPUs, and this takes ${cpus}`);
  }
  if (workload === 'svm' && faultThreads < devices) {
    throw badOptions(
      `svm needs a fault thread for each device: --fault-threads is less than ${devices}`,
    );
  }
  const slices = workload === 'svm' ? invalidators + devices : threads;
  const slice = Math.floor(arenaPages / slices);
  if (slice < rangePages) {
    throw badOptions(
      `--range-pages ${rangePages} does not fit: --arena-pages ${arenaPages} leaves each of ${slices} threads ${slice} pages`,
    );
  }
}
