/**
 * `faultline bench --strace FILE`: replays a log, prints a report, writes JSON.
 *
 * @module
 */
import {
  EXIT_GOOD,
  EXIT_INTERRUPTED,
  EXIT_VIOLATION,
  planReplay,
  type ReplayReport,
  replayStrace,
} from 'faultline';

import { BENCH_SCHEMA, type BenchResult } from '../report/bench-result.js';
import {
  describeEnvironment,
  environmentLine,
  oversubscriptionNote,
} from '../report/environment.js';
import { countOf } from '../report/format.js';
import { startProgress } from '../report/progress.js';
import { straceReport } from '../report/strace-table.js';
import type { BenchCommandOptions } from './bench.js';
import { untilInterrupted } from './interrupt.js';
import { checkJsonTarget, say, wantsColor, writeJson } from './output.js';
import { loadDriver } from './user-module.js';

/** Device threads and devices where no option says otherwise. */
const DEFAULT_FAULT_THREADS = 2;
const DEFAULT_DEVICES = 1;

/** Returns the exit code. */
export async function runReplay(path: string, options: BenchCommandOptions): Promise<number> {
  const { atomics, json, pattern, seed, speed } = options;
  const faultThreads = options.faultThreads ?? DEFAULT_FAULT_THREADS;
  const devices = options.devices ?? DEFAULT_DEVICES;
  const stallMs = options.watchdog * 1000;
  const plan = planReplay(path);
  checkJsonTarget(json, { '--strace': path, '--driver': options.driver });
  const driver =
    options.driver === undefined ? undefined : await loadDriver(options.driver, stallMs);
  const environment = describeEnvironment(atomics, plan.slots.length + faultThreads);
  const pace = paceOf(speed);
  const header = [
    environmentLine(environment),
    `seed ${seed}; ${pace}, under ${countOf(faultThreads, 'device thread')} on ${countOf(devices, 'device')}, ${pattern} pattern`,
    ...oversubscriptionNote(environment),
  ];
  say(`${header.join('\n')}\n`, json);
  const progress = startProgress();
  let report: ReplayReport;
  try {
    report = await replayStrace(plan, {
      faultThreads,
      devices,
      pattern,
      speed,
      seed,
      atomics,
      stallMs,
      ...(driver && { driver }),
      signal: untilInterrupted(),
      onProgress: (done) => {
        progress.update(done, path);
      },
    });
  } finally {
    progress.stop();
  }
  say(straceReport(report, wantsColor(json)), json);
  if (report.interrupted) say('interrupted: this is what was replayed until then', json);
  const result: BenchResult = {
    schema: BENCH_SCHEMA,
    environment,
    config: { ...options, faultThreads, devices },
    points: [],
    strace: report,
    interrupted: report.interrupted,
  };
  if (json !== undefined) writeJson(json, result);
  return exitCodeFor(report);
}

function paceOf(speed: number): string {
  if (speed === 0) return 'as fast as it can';
  return speed === 1 ? 'at recorded speed' : `at ${speed} times the recorded speed`;
}

function exitCodeFor(report: ReplayReport): number {
  if (report.staleAccesses > 0 || report.outcomeDifferenceCount > 0) return EXIT_VIOLATION;
  return report.interrupted ? EXIT_INTERRUPTED : EXIT_GOOD;
}
