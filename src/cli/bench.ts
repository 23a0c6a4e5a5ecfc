/**
 * `faultline bench`: measures workloads, prints a table and plots, writes JSON.
 *
 * @module
 */
import { Command } from 'commander';

import { EXIT_GOOD, EXIT_INTERRUPTED, EXIT_VIOLATION } from '../base/bug.js';
import { type AtomicsForm } from '../memory/native.js';
import {
  BENCH_SCHEMA,
  type BenchPoint,
  benchPoint,
  type BenchResult,
} from '../report/bench-result.js';
import { benchPlots, benchTable } from '../report/bench-table.js';
import { describeEnvironment, environmentLine } from '../report/environment.js';
import { type Progress, startProgress } from '../report/progress.js';
import { type MeasureOptions, measurePoint } from '../workloads/measure.js';
import { findWorkload, WORKLOADS } from '../workloads/registry.js';
import { type Pattern, PATTERNS } from '../workloads/strace/replay-device.js';
import { type PointConfig, type Workload } from '../workloads/workload.js';
import {
  type GivenValues,
  pointsFor,
  readSweep,
  SWEEPABLE,
  type SweepOption,
} from './bench-points.js';
import { loadDriver } from './driver-module.js';
import { onInterrupt } from './interrupt.js';
import { badOptions, integer, oneOf, real } from './options.js';
import { say, wantsColor, writeJson } from './output.js';
import { runReplay } from './replay.js';

export interface BenchCommandOptions extends GivenValues {
  readonly sweep: readonly SweepOption[];
  readonly duration: number;
  readonly warmup: number;
  readonly atomics: AtomicsForm;
  readonly seed: number;
  readonly sampleEvery: number;
  readonly driver?: string;
  readonly strace?: string;
  readonly pattern: Pattern;
  readonly speed: number;
  readonly json?: string;
}

const SEED_MAX = 0x7fffffff;

/** The command, for the program to add. */
export function benchCommand(): Command {
  const names = WORKLOADS.map((workload) => workload.name).join(', ');
  return new Command('bench')
    .description('measure contention between device faults and invalidations')
    .argument('[workload...]', `what to run: ${names}`, ['fault-invalidate'])
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
    .option(
      '--sweep <key=a,b,c>',
      'measure each value of an option above; repeatable',
      readSweep,
      [],
    )
    .option('--duration <s>', 'seconds measured for each point', real(0.1, 86400), 2)
    .option('--warmup <s>', 'seconds run before', real(0, 3600), 0.5)
    .option('--driver <module>', "a module with a driver of one's own")
    .option('--strace <file>', "replay a real program's calls on memory, recorded by strace")
    .option(
      '--pattern <name>',
      'where devices fault in a replay: random, sequential, zipf',
      oneOf(...PATTERNS),
      'random',
    )
    .option(
      '--speed <factor>',
      'how fast a replay runs: 1 = as recorded, 0 = as fast as it can',
      real(0, 1e6),
      1,
    )
    .option('--sample-every <n>', 'time every nth operation; 0 = none', integer(0, 1e6), 16)
    .option('--atomics <form>', 'wasm, or js for the Atomics object', oneOf('wasm', 'js'), 'wasm')
    .option('--seed <n>', 'seed of all random choices', integer(1, SEED_MAX), 1)
    .option('--json <file>', 'write the result as JSON; - for stdout')
    .addHelpText('after', HELP)
    .action(async (workloads: string[], options: BenchCommandOptions, command: Command) => {
      const { strace } = options;
      const isNamed = command.args.length > 0;
      if (strace !== undefined && isNamed) throw badOptions('--strace takes no workload beside it');
      process.exitCode =
        strace === undefined
          ? await runBench(workloads, options)
          : await runReplay(strace, options);
    });
}

const HELP = `
Without options, fault-invalidate is measured with two fault threads and one invalidator over 1, 16 and
256 pages, apart (overlap 0) and in each other's way (overlap 1).

A log for --strace comes from
  strace -f -ttt -e trace=%memory,clone,clone3,fork,vfork,exit_group -o FILE PROGRAM

Examples:
  faultline bench --fault-threads 1 --invalidators 1 --range-pages 16 --overlap 1 --json -
  faultline bench --sweep fault-threads=1,2,4 --range-pages 16 --overlap 1
  faultline bench svm --duration 5
  faultline bench --strace program.strace --pattern zipf`;

async function runBench(names: readonly string[], options: BenchCommandOptions): Promise<number> {
  const { seed, sampleEvery, json } = options;
  const workloads = names.map(findWorkload);
  const plan = workloads.flatMap((workload) =>
    pointsFor(workload.name, options, options.sweep, { seed, sampleEvery }).map((config) => ({
      workload,
      config,
    })),
  );
  const driver = options.driver === undefined ? undefined : await loadDriver(options.driver);
  const environment = describeEnvironment(options.atomics);
  say(
    `${environmentLine(environment)}\nseed ${seed}, ${plan.length} points of ${options.duration} s\n`,
    json,
  );
  const measure: MeasureOptions = {
    durationMs: options.duration * 1000,
    warmupMs: options.warmup * 1000,
    atomics: options.atomics,
    ...(driver && { driver }),
  };
  const { points, interrupted } = await measureAll(plan, measure);
  const color = wantsColor(json);
  say(benchTable(points, color), json);
  for (const plot of benchPlots(points, color)) say(plot, json);
  if (interrupted) say('interrupted: this is what was measured until then', json);
  const result: BenchResult = {
    schema: BENCH_SCHEMA,
    environment,
    config: { workloads: names, ...options },
    points,
    interrupted,
  };
  if (json !== undefined) writeJson(json, result);
  return exitCodeFor(points, interrupted);
}

function exitCodeFor(points: readonly BenchPoint[], interrupted: boolean): number {
  if (points.some((point) => point.staleAccesses > 0)) return EXIT_VIOLATION;
  return interrupted ? EXIT_INTERRUPTED : EXIT_GOOD;
}

interface PlannedPoint {
  readonly workload: Workload;
  readonly config: PointConfig;
}

/** Measures point after point, until the user has had enough. */
async function measureAll(
  plan: readonly PlannedPoint[],
  measure: MeasureOptions,
): Promise<{ points: BenchPoint[]; interrupted: boolean }> {
  const interrupt = onInterrupt();
  const progress = startProgress();
  const points: BenchPoint[] = [];
  try {
    for (const [index, { workload, config }] of plan.entries()) {
      if (interrupt.signal.aborted) break;
      const result = await measurePoint(workload, config, {
        ...measure,
        signal: interrupt.signal,
        onProgress: (done) => {
          showProgress(progress, (index + done) / plan.length, workload, config);
        },
      });
      if (result.rounds > 0) points.push(benchPoint(workload.name, result));
    }
  } finally {
    progress.stop();
    interrupt.dispose();
  }
  return { points, interrupted: interrupt.signal.aborted };
}

function showProgress(
  progress: Progress,
  done: number,
  workload: Workload,
  config: PointConfig,
): void {
  progress.update(done, `${workload.name}, ${config.rangePages} pages, overlap ${config.overlap}`);
}
