/**
 * `faultline bench --strace FILE`: replays a log, prints a report, writes JSON.
 *
 * @module
 */
import { EXIT_GOOD, EXIT_INTERRUPTED, EXIT_VIOLATION } from '../base/bug.js';
import { BENCH_SCHEMA, type BenchResult } from '../report/bench-result.js';
import { describeEnvironment, environmentLine } from '../report/environment.js';
import { startProgress } from '../report/progress.js';
import { straceReport } from '../report/strace-table.js';
import { type ReplayReport, replayStrace } from '../workloads/strace/replay.js';
import { type BenchCommandOptions } from './bench.js';
import { loadDriver } from './driver-module.js';
import { onInterrupt } from './interrupt.js';
import { badOptions } from './options.js';
import { say, wantsColor, writeJson } from './output.js';

/** Device threads and devices where no option says otherwise. */
const DEFAULT_FAULT_THREADS = 2;
const DEFAULT_DEVICES = 1;

/** Returns the exit code. */
export async function runReplay(path: string, options: BenchCommandOptions): Promise<number> {
  checkOptions(options);
  const { atomics, json, pattern, seed, speed } = options;
  const driver = options.driver === undefined ? undefined : await loadDriver(options.driver);
  const environment = describeEnvironment(atomics);
  say(`${environmentLine(environment)}\nseed ${seed}, ${pattern} pattern\n`, json);
  const interrupt = onInterrupt();
  const progress = startProgress();
  let report: ReplayReport;
  try {
    report = await replayStrace(path, {
      faultThreads: options.faultThreads ?? DEFAULT_FAULT_THREADS,
      devices: options.devices ?? DEFAULT_DEVICES,
      pattern,
      speed,
      seed,
      atomics,
      ...(driver && { driver }),
      signal: interrupt.signal,
      onProgress: (done) => {
        progress.update(done, path);
      },
    });
  } finally {
    progress.stop();
    interrupt.dispose();
  }
  say(straceReport(report, wantsColor(json)), json);
  if (report.interrupted) say('interrupted: this is what was replayed until then', json);
  const result: BenchResult = {
    schema: BENCH_SCHEMA,
    environment,
    config: { ...options },
    points: [],
    strace: report,
    interrupted: report.interrupted,
  };
  if (json !== undefined) writeJson(json, result);
  return exitCodeFor(report);
}

function checkOptions(options: BenchCommandOptions): void {
  const fixed = ['invalidators', 'rangePages', 'arenaPages', 'overlap'] as const;
  if (options.sweep.length > 0 || fixed.some((key) => options[key] !== undefined)) {
    throw badOptions(
      '--strace takes its memory and its invalidations from the log: no --sweep, --invalidators, --range-pages, --arena-pages or --overlap',
    );
  }
}

function exitCodeFor(report: ReplayReport): number {
  if (report.staleAccesses > 0 || report.outcomeDifferenceCount > 0) return EXIT_VIOLATION;
  return report.interrupted ? EXIT_INTERRUPTED : EXIT_GOOD;
}
