/**
 * `faultline bench`: measures workloads, prints a table and plots, writes JSON.
 *
 * @module
 */
import { Command } from 'commander';
import {
  type AtomicsForm,
  EXIT_GOOD,
  EXIT_INTERRUPTED,
  EXIT_VIOLATION,
  findWorkload,
  type MeasureOptions,
  measurePoint,
  type Pattern,
  PATTERNS,
  type PointConfig,
  PROTOCOLS,
  type Workload,
  WORKLOADS,
} from 'faultline';

import {
  BENCH_SCHEMA,
  type BenchPoint,
  benchPoint,
  type BenchResult,
} from '../report/bench-result.js';
import { benchPlots, benchTable, violations } from '../report/bench-table.js';
import {
  describeEnvironment,
  environmentLine,
  oversubscriptionNote,
} from '../report/environment.js';
import { countOf } from '../report/format.js';
import { type Progress, startProgress } from '../report/progress.js';
import {
  type GivenValues,
  pointsFor,
  readSweep,
  SWEEPABLE,
  type SweepOption,
} from './bench-points.js';
import { untilInterrupted } from './interrupt.js';
import { badOptions, fileName, integer, oneOf, real } from './options.js';
import { checkJsonTarget, outputWidth, say, wantsColor, writeJson } from './output.js';
import { runReplay } from './replay-strace.js';
import { loadDriver } from './user-module.js';

export interface BenchCommandOptions extends GivenValues {
  readonly sweep?: readonly SweepOption[];
  readonly duration: number;
  readonly warmup: number;
  readonly atomics: AtomicsForm;
  readonly seed: number;
  readonly sampleEvery: number;
  readonly watchdog: number;
  readonly driver?: string;
  readonly protocol?: string;
  readonly strace?: string;
  readonly pattern: Pattern;
  readonly speed: number;
  readonly json?: string;
}

const SEED_MAX = 0x7fffffff;
const DEFAULT_WORKLOAD = 'fault-invalidate';
const PROTOCOL_NAMES = PROTOCOLS.map(({ name }) => name);
const ALL_PROTOCOLS = 'all';

/** The command, for the program to add. */
export function benchCommand(): Command {
  const names = WORKLOADS.map((workload) => workload.name).join(', ');
  const command = new Command('bench')
    .description('measure contention between device faults and invalidations')
    .argument('[workload...]', `what to run: ${names} (default: ${DEFAULT_WORKLOAD})`);
  addMachineOptions(command);
  addRunOptions(command);
  addReplayOptions(command);
  return command
    .option('--json <file>', 'write the result as JSON; - for stdout', fileName)
    .addHelpText('after', HELP)
    .action(async (workloads: string[], options: BenchCommandOptions) => {
      checkTogether(command, workloads, options);
      process.exitCode =
        options.strace === undefined
          ? await runBench(workloads.length > 0 ? workloads : [DEFAULT_WORKLOAD], options)
          : await runReplay(options.strace, options);
    });
}

/** What is measured. */
function addMachineOptions(command: Command): void {
  command
    .optionsGroup('What is measured:')
    .option('--fault-threads <n>', 'device-fault threads', SWEEPABLE['fault-threads'].read)
    .option('--invalidators <n>', 'CPUs that invalidate', SWEEPABLE.invalidators.read)
    .option('--devices <n>', 'devices that share the address space', SWEEPABLE.devices.read)
    .option(
      '--range-pages <n>',
      'pages of one fault or invalidation',
      SWEEPABLE['range-pages'].read,
    )
    .option('--arena-pages <n>', 'pages of the memory they work on', SWEEPABLE['arena-pages'].read)
    .option(
      '--overlap <share>',
      'share of operations that roam the whole arena, 0 to 1',
      SWEEPABLE.overlap.read,
    )
    // the fourth argument is not given: an empty list would be shown as a default
    .option('--sweep <key=a,b,c>', 'measure each value of an option above; repeatable', readSweep)
    .option(
      '--protocol <name>',
      `how the driver mirrors the address space: ${PROTOCOL_NAMES.join(', ')}; or ${ALL_PROTOCOLS}, side by side`,
      oneOf(...PROTOCOL_NAMES, ALL_PROTOCOLS),
    )
    .option('--driver <module>', "a module with a driver of one's own", fileName);
}

/** How it is measured. */
function addRunOptions(command: Command): void {
  command
    .optionsGroup('How it is measured:')
    .option('--duration <s>', 'seconds measured for each point', real(0.1, 86400), 2)
    .option('--warmup <s>', 'seconds run before', real(0, 3600), 0.5)
    .option('--sample-every <n>', 'time every nth operation; 0 = none', integer(0, 1e6), 64)
    .option('--atomics <form>', 'wasm, or js for the Atomics object', oneOf('wasm', 'js'), 'wasm')
    .option('--seed <n>', 'seed of all random choices', integer(1, SEED_MAX), 1)
    .option('--watchdog <s>', 'give up on a CPU that gets nowhere for so long', real(1, 3600), 20);
}

function addReplayOptions(command: Command): void {
  command
    .optionsGroup('Replay of a real program:')
    .option(
      '--strace <file>',
      "replay a program's calls on memory, recorded by strace, under device faults",
      fileName,
    )
    .option(
      '--pattern <name>',
      'where devices fault: random, sequential, zipf',
      oneOf(...PATTERNS),
      'random',
    )
    .option('--speed <factor>', 'how fast: 1 = as recorded, 0 = as fast as it can', real(0, 1e6), 1)
    .optionsGroup('Output:');
}

const HELP = `
Without options, fault-invalidate is measured with two fault threads and one invalidator over 1, 16 and
256 pages, apart (overlap 0) and in each other's way (overlap 1). svm takes one device with one fault
thread (--devices N: N fault threads), one invalidator and 16 pages.

A log for --strace comes from
  strace -f -ttt -e trace=%memory,clone,clone3,fork,vfork,exit_group -o FILE PROGRAM

Examples:
  faultline bench --fault-threads 1 --invalidators 1 --range-pages 16 --overlap 1 --json -
  faultline bench --sweep fault-threads=1,2,4 --range-pages 16 --overlap 1
  faultline bench svm --duration 5
  faultline bench --protocol all --range-pages 16 --overlap 1
  faultline bench svm --driver my-driver.mjs
  faultline bench --strace program.strace --pattern zipf`;

/** Options that only a replay has, and those that it does not have. */
const OF_REPLAYS = ['pattern', 'speed'];
const NOT_OF_REPLAYS = [
  'invalidators',
  'rangePages',
  'arenaPages',
  'overlap',
  'sweep',
  'duration',
  'warmup',
  'sampleEvery',
];

/** @throws FaultlineError if an option would have no effect beside the others */
function checkTogether(
  command: Command,
  workloads: readonly string[],
  { strace, driver, protocol }: BenchCommandOptions,
): void {
  if (protocol !== undefined && driver !== undefined) {
    throw badOptions("--protocol does not go with --driver: a driver of one's own is the protocol");
  }
  if (protocol !== undefined && strace !== undefined) {
    throw badOptions('--protocol does not go with --strace');
  }
  const isGiven = (name: string): boolean => command.getOptionValueSource(name) === 'cli';
  const flagOf = (name: string): string =>
    command.options.find((option) => option.attributeName() === name)?.long ?? name;
  if (strace === undefined) {
    const useless = OF_REPLAYS.find(isGiven);
    if (useless !== undefined) throw badOptions(`${flagOf(useless)} needs --strace`);
    return;
  }
  if (workloads.length > 0) throw badOptions('--strace takes no workload beside it');
  const useless = NOT_OF_REPLAYS.find(isGiven);
  if (useless === undefined) return;
  throw badOptions(
    `${flagOf(useless)} does not go with --strace: a log has its own memory, calls and times`,
  );
}

async function runBench(names: readonly string[], options: BenchCommandOptions): Promise<number> {
  const { seed, sampleEvery, json } = options;
  const workloads = names.map(findWorkload);
  const plan = workloads.flatMap((workload) =>
    pointsFor(workload.name, options, options.sweep ?? [], { seed, sampleEvery }).flatMap(
      (config) => chosenProtocols(options).map((protocol) => ({ workload, config, ...protocol })),
    ),
  );
  checkJsonTarget(json, { '--driver': options.driver });
  const stallMs = options.watchdog * 1000;
  const driver =
    options.driver === undefined ? undefined : await loadDriver(options.driver, stallMs);
  const threads = Math.max(...plan.map(({ workload, config }) => workload.cpus(config)));
  const environment = describeEnvironment(options.atomics, threads);
  const header = [
    environmentLine(environment),
    planLine(plan.length, options),
    ...oversubscriptionNote(environment),
  ];
  say(`${header.join('\n')}\n`, json);
  const measure: MeasureOptions = {
    durationMs: options.duration * 1000,
    warmupMs: options.warmup * 1000,
    atomics: options.atomics,
    stallMs,
    ...(driver && { driver }),
  };
  const { points, interrupted } = await measureAll(plan, measure);
  const look = { color: wantsColor(json), width: outputWidth(json) };
  if (points.length > 0) say(benchTable(points, look), json);
  for (const plot of benchPlots(points, look)) say(plot, json);
  for (const line of violations(points)) say(line, json);
  if (interrupted) say(interruptedLine(points.length, plan.length), json);
  const result: BenchResult = {
    schema: BENCH_SCHEMA,
    environment,
    config: { workloads: names, ...options, sweep: options.sweep ?? [] },
    points,
    interrupted,
  };
  if (json !== undefined) writeJson(json, result);
  return exitCodeFor(points, interrupted);
}

/** Those that each configuration is measured over, one right after the other; none if nothing is said of it. */
function chosenProtocols({ protocol }: BenchCommandOptions): { readonly protocol?: string }[] {
  if (protocol === undefined) return [{}];
  const names = protocol === ALL_PROTOCOLS ? PROTOCOL_NAMES : [protocol];
  return names.map((name) => ({ protocol: name }));
}

function planLine(points: number, options: BenchCommandOptions): string {
  const { seed, duration, warmup, driver } = options;
  const suffix = driver === undefined ? '' : `, driver ${driver}`;
  return `seed ${seed}; ${countOf(points, 'point')} of ${duration} s after ${warmup} s of warm-up${suffix}`;
}

function interruptedLine(measured: number, planned: number): string {
  if (measured === 0) return 'interrupted before anything was measured';
  return `interrupted: this is what was measured until then, ${measured} of ${countOf(planned, 'point')}`;
}

function exitCodeFor(points: readonly BenchPoint[], interrupted: boolean): number {
  if (points.some((point) => point.staleAccesses > 0)) return EXIT_VIOLATION;
  return interrupted ? EXIT_INTERRUPTED : EXIT_GOOD;
}

interface PlannedPoint {
  readonly workload: Workload;
  readonly config: PointConfig;
  readonly protocol?: string;
}

/** Measures point after point, until the user has had enough. */
async function measureAll(
  plan: readonly PlannedPoint[],
  measure: MeasureOptions,
): Promise<{ points: BenchPoint[]; interrupted: boolean }> {
  const signal = untilInterrupted();
  const progress = startProgress();
  const points: BenchPoint[] = [];
  try {
    for (const [index, point] of plan.entries()) {
      const { workload, config, protocol } = point;
      if (signal.aborted) break;
      const result = await measurePoint(workload, config, {
        ...measure,
        ...(protocol !== undefined && { protocol }),
        signal,
        onProgress: (done) => {
          showProgress(progress, (index + done) / plan.length, point);
        },
      });
      if (result.rounds > 0) {
        const entry = PROTOCOLS.find(({ name }) => name === protocol);
        points.push(benchPoint(workload.name, result, entry));
      }
    }
  } finally {
    progress.stop();
  }
  return { points, interrupted: signal.aborted };
}

function showProgress(
  progress: Progress,
  done: number,
  { workload, config, protocol }: PlannedPoint,
): void {
  const pages = countOf(config.rangePages, 'page');
  const over = protocol === undefined ? '' : `${protocol}, `;
  progress.update(done, `${workload.name}, ${over}${pages}, overlap ${config.overlap}`);
}
