/**
 * Measures one configuration of a workload on a machine and a crew of its own.
 *
 * The crew works in rounds of ROUND_MS, or a third of the time if that is less. tinybench drives the rounds, first to warm up and then to
 * measure, and does the statistics over them; the times are those that the members took themselves
 * (`overriddenDuration`), since tinybench cannot time other threads.
 *
 * @module
 */
import { setTimeout as sleep } from 'node:timers/promises';

import { parkAsync } from '#memory';
import { Bench } from 'tinybench';

import { EXIT_INTERNAL, FaultlineError } from '../base/bug.js';
import { type SvmDriver, svmDriver } from '../drivers/svm/driver.js';
import { svmDriverOver } from '../drivers/svm/mirror-driver.js';
import { type SvmTotals, svmTotals } from '../drivers/svm/stats.js';
import { Crew } from '../host/crew.js';
import type { Build } from '../host/pool.js';
import type { BootedMachine } from '../machine/boot.js';
import type { AtomicsForm } from '../memory/native.js';
import { bootWorkloadMachine } from './boot.js';
import { histogramReset, type Latencies, latenciesOf } from './histogram.js';
import { assertNoLeak, assertNoWarning } from './leak.js';
import {
  finishedCount,
  memberCounts,
  memberLatencies,
  openRound,
  Rounds,
  stopRound,
} from './rounds.js';
import type { PointConfig, PreparedWorkload, Role, Workload, WorkloadMember } from './workload.js';

/** How a configuration is measured. */
export interface MeasureOptions {
  /** Measured in rounds of 100 ms, or in three that are shorter. Unit: milliseconds. */
  readonly durationMs: number;
  /** Run before, and not counted. Unit: milliseconds. */
  readonly warmupMs: number;
  readonly atomics: AtomicsForm;
  /** Which build the workers run; by default `parallel`. */
  readonly build?: Build;
  /** By default the device's own driver. */
  readonly driver?: LoadedDriver;
  /** The device's own driver over another protocol, by its name; by default straight over interval notifiers. */
  readonly protocol?: string;
  /** A CPU that gets nowhere for so long ends the run as a failure. Unit: milliseconds. */
  readonly stallMs?: number;
  /** Ends the measurement; what has been measured is kept. */
  readonly signal?: AbortSignal;
  /** Called after each round with the share that is done, 0 to 1. */
  readonly onProgress?: (done: number) => void;
}

/** A driver module of the user's. */
export interface LoadedDriver {
  /** URL of the module, for the workers. */
  readonly url: string;
  /** What it exports as `driver`. */
  readonly driver: SvmDriver;
}

/** What one role did, all its members together. */
export interface RoleResult {
  readonly operations: number;
  /** Operations per second, of all members together. */
  readonly perSecond: number;
  /** Rounds of the collision-retry loop beyond the first. */
  readonly retries: number;
  /** Accesses of programs and engines per second; 0 in workloads that make none. */
  readonly accessesPerSecond: number;
  /** Of the operations that were timed. */
  readonly latencies: Latencies;
}

/** What was measured. */
export interface PointResult {
  readonly config: PointConfig;
  readonly fault: RoleResult;
  readonly invalidate: RoleResult;
  /** What the devices' drivers counted from boot to end; `staleAccesses` must be 0. */
  readonly totals: SvmTotals;
  /** Rounds measured, those of the warm-up not counted. */
  readonly rounds: number;
  /** Half the 95 % confidence interval of the mean time of an operation, over the rounds. Unit: percent. */
  readonly marginOfErrorPercent: number;
  /** Rounds of the collision-retry loop beyond the first, by whoever served a fault. */
  readonly retries: number;
  /** How long the busiest member worked. Unit: seconds. */
  readonly seconds: number;
  /** From the making of the machine until every worker was ready. Unit: milliseconds. */
  readonly bootMs: number;
  /** The measurement was ended before its time. */
  readonly interrupted: boolean;
}

const ROUND_MS = 100;
const ROUNDS_MIN = 3;

/**
 * Measures one configuration: boots a machine, runs a crew on it, takes both down.
 * @throws MachineFailure if a CPU dies or gets nowhere; FaultlineError if memory is too small or leaks
 */
export async function measurePoint(
  workload: Workload,
  config: PointConfig,
  options: MeasureOptions,
): Promise<PointResult> {
  const startedAt = performance.now();
  const { machine, opsModules, framesBefore } = await bootWorkloadMachine(
    {
      cpus: workload.cpus(config),
      ramBytes: workload.ramBytes(config),
      atomics: options.atomics,
      watchesMemory: options.build === 'checked',
    },
    options.driver?.url,
  );
  const boot = machine.cpu;
  const prepared = workload.prepare(boot, config, driverFor(options));
  const crew = new Crew(
    machine,
    prepared.members.map((one) => ({ ...one, module: workload.module })),
    {
      opsModules,
      ...(options.build && { build: options.build }),
      ...(options.signal && { signal: options.signal }),
      // a round is short, and a CPU waits between two of them: so all can be expected to move
      watchdog: { countsProgress: true, ...stallOption(options) },
    },
  );
  try {
    const result = await measureWith(crew, machine, prepared, config, options, startedAt);
    if (crew.isHalted) return { ...result, totals: svmTotals(boot) }; // interrupted in the middle of something
    const totals = prepared.finish();
    assertNoLeak(boot, framesBefore);
    return { ...result, totals };
  } catch (error) {
    await crew.abandon();
    throw error;
  }
}

async function measureWith(
  crew: Crew,
  machine: BootedMachine,
  prepared: PreparedWorkload,
  config: PointConfig,
  options: MeasureOptions,
  startedAt: number,
): Promise<Omit<PointResult, 'totals'>> {
  await crew.ready();
  const bootMs = performance.now() - startedAt;
  crew.start();
  const sampler = new RoundSampler(machine, crew, prepared, options);
  const statistics = await sampler.run();
  const result = sampler.result(config, statistics);
  openRound(machine.cpu, prepared.rounds, true);
  prepared.stop();
  await crew.results();
  assertNoWarning(machine.cpu);
  return { ...result, bootMs };
}

function driverFor({ driver, protocol }: MeasureOptions): SvmDriver {
  return driver?.driver ?? (protocol === undefined ? svmDriver : svmDriverOver(protocol));
}

/** The watchdog's patience, where the options say something about it. */
export function stallOption(options: { readonly stallMs?: number }): { stallMs?: number } {
  return options.stallMs === undefined ? {} : { stallMs: options.stallMs };
}

interface Statistics {
  readonly marginOfErrorPercent: number;
  readonly interrupted: boolean;
}

interface Tally {
  operations: number;
  retries: number;
  accesses: number;
  elapsedMs: number;
}

class RoundSampler {
  readonly #machine: BootedMachine;
  readonly #crew: Crew;
  readonly #prepared: PreparedWorkload;
  readonly #options: MeasureOptions;
  readonly #roundMs: number;
  /** Members that take part in rounds. */
  readonly #working: readonly WorkloadMember[];
  readonly #tallies = new Map<WorkloadMember, Tally>();
  #finishedBefore = 0;
  #rounds = 0;
  #retriesBefore = 0;
  #roundsDone = 0;

  constructor(
    machine: BootedMachine,
    crew: Crew,
    prepared: PreparedWorkload,
    options: MeasureOptions,
  ) {
    this.#machine = machine;
    this.#crew = crew;
    this.#prepared = prepared;
    this.#options = options;
    this.#working = prepared.members.filter((one) => one.role !== 'service');
    this.#roundMs = Math.min(ROUND_MS, Math.ceil(options.durationMs / ROUNDS_MIN));
    this.#reset();
  }

  /** Lets tinybench run the rounds. */
  async run(): Promise<Statistics> {
    const { durationMs, warmupMs, signal } = this.#options;
    const measured = Math.max(ROUNDS_MIN, Math.ceil(durationMs / ROUND_MS));
    const warmup = Math.ceil(warmupMs / this.#roundMs);
    // tinybench never takes its listeners off: they go to a signal that ends with this measurement
    const own = signal && AbortSignal.any([signal]);
    const bench = new Bench({
      time: 0,
      iterations: measured,
      warmup: warmup > 0,
      warmupTime: 0,
      warmupIterations: warmup,
      throws: true,
      ...(own && { signal: own }),
    });
    const task = async (): Promise<{ overriddenDuration: number }> => {
      const duration = await this.#round();
      this.#options.onProgress?.(++this.#roundsDone / (measured + warmup));
      return { overriddenDuration: duration };
    };
    const beforeAll = (mode?: 'run' | 'warmup'): void => {
      if (mode === 'run') this.#reset();
    };
    bench.add('round', task, { beforeAll });
    await bench.run();
    const result = bench.tasks[0]?.result;
    if (result === undefined) throw lostSamples();
    const hasStatistics =
      result.state === 'completed' || result.state === 'aborted-with-statistics';
    return {
      marginOfErrorPercent: hasStatistics ? result.latency.rme : 0,
      interrupted: result.state !== 'completed',
    };
  }

  /** Adds up what the members did since warming up. */
  result(config: PointConfig, statistics: Statistics): Omit<PointResult, 'totals' | 'bootMs'> {
    const longest = Math.max(0, ...[...this.#tallies.values()].map((tally) => tally.elapsedMs));
    return {
      config,
      fault: this.#roleResult('fault'),
      invalidate: this.#roleResult('invalidate'),
      retries: svmTotals(this.#machine.cpu).retries - this.#retriesBefore,
      rounds: this.#rounds,
      seconds: longest / 1000,
      ...statistics,
    };
  }

  #roleResult(role: Role): RoleResult {
    const boot = this.#machine.cpu;
    const members = this.#working.filter((one) => one.role === role);
    const tallies = members.flatMap((one) => this.#tallies.get(one) ?? []);
    const perSecond = (count: (tally: Tally) => number): number =>
      Math.round(
        tallies.reduce(
          (sum, tally) => sum + (1000 * count(tally)) / Math.max(tally.elapsedMs, 1),
          0,
        ),
      );
    return {
      operations: tallies.reduce((sum, tally) => sum + tally.operations, 0),
      perSecond: perSecond((tally) => tally.operations),
      accessesPerSecond: perSecond((tally) => tally.accesses),
      retries: tallies.reduce((sum, tally) => sum + tally.retries, 0),
      latencies: latenciesOf(
        boot,
        members.map((one) => memberLatencies(one.result)),
      ),
    };
  }

  #reset(): void {
    this.#rounds = 0;
    this.#retriesBefore = svmTotals(this.#machine.cpu).retries;
    for (const one of this.#working) {
      this.#tallies.set(one, { operations: 0, retries: 0, accesses: 0, elapsedMs: 0 });
      histogramReset(this.#machine.cpu, memberLatencies(one.result));
    }
  }

  /** One round; the mean time of an operation in it. Unit: milliseconds. */
  async #round(): Promise<number> {
    const boot = this.#machine.cpu;
    const { rounds } = this.#prepared;
    const members = this.#working;
    const { signal } = this.#options;
    openRound(boot, rounds, false);
    await Promise.race([
      sleep(this.#roundMs, undefined, { signal }).catch(() => undefined),
      this.#crew.halted,
    ]);
    stopRound(boot, rounds);
    if (!(await this.#waitForAll(members.length))) return 0;
    let operations = 0;
    let elapsedMs = 0;
    for (const one of members) {
      const counts = memberCounts(boot, one.result);
      const tally = this.#tallies.get(one);
      if (tally === undefined) continue;
      tally.operations += counts.operations;
      tally.retries += counts.retries;
      tally.accesses += counts.accesses;
      tally.elapsedMs += counts.elapsedMs;
      operations += counts.operations;
      elapsedMs += counts.elapsedMs;
    }
    this.#rounds++;
    return elapsedMs / members.length / Math.max(1, operations);
  }

  /**
   * Waits until every member has finished the round; false if the crew was halted instead.
   * @throws MachineFailure if the machine has stopped of itself
   */
  async #waitForAll(members: number): Promise<boolean> {
    const boot = this.#machine.cpu;
    const { rounds } = this.#prepared;
    const target = (this.#finishedBefore + members) | 0;
    for (;;) {
      const finished = finishedCount(boot, rounds);
      if (finished === target) break;
      const woken = parkAsync(boot, rounds, Rounds.finished, finished, ROUND_MS);
      await Promise.race([woken, this.#crew.halted]);
      if (!this.#crew.isHalted) continue;
      await this.#crew.results(); // throws what happened, if nobody asked for it
      return false;
    }
    this.#finishedBefore = target;
    return true;
  }
}

function lostSamples(): FaultlineError {
  return new FaultlineError('FAULTLINE_INTERNAL', 'the sampler returned no result', EXIT_INTERNAL);
}
