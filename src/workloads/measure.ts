/**
 * Measures one configuration of a workload on a machine and a crew of its own.
 *
 * The crew works in rounds of ROUND_MS. tinybench drives the rounds, first to warm up and then to
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
import { bootSvmStats, type SvmTotals } from '../drivers/svm/stats.js';
import { type Build, Crew } from '../host/crew.js';
import { loadModules } from '../host/modules.js';
import { type BootedMachine, bootMachine } from '../machine/boot.js';
import { registerOps } from '../machine/ops-table.js';
import { type AtomicsForm } from '../memory/native.js';
import { bootMm } from '../mm/boot.js';
import { BUILT_INS, SVM_DRIVER_MODULE } from './built-ins.js';
import { histogramReset, type Latencies, latenciesOf } from './histogram.js';
import { assertNoLeak, framesAccountedFor } from './leak.js';
import {
  finishedCount,
  memberCounts,
  memberLatencies,
  openRound,
  Rounds,
  stopRound,
} from './rounds.js';
import {
  type PointConfig,
  type PreparedWorkload,
  type Role,
  type Workload,
  type WorkloadMember,
} from './workload.js';

export interface MeasureOptions {
  /** Unit: milliseconds. */
  readonly durationMs: number;
  readonly warmupMs: number;
  readonly atomics: AtomicsForm;
  readonly build?: Build;
  readonly driver?: LoadedDriver;
  /** Ends the measurement; what has been measured is kept. */
  readonly signal?: AbortSignal;
  /** Called after each round with the share that is done, 0 to 1. */
  readonly onProgress?: (done: number) => void;
}

/** A driver module of the user's. */
export interface LoadedDriver {
  readonly url: string;
  readonly driver: SvmDriver;
}

/** What one role did, all its members together. */
export interface RoleResult {
  readonly operations: number;
  readonly perSecond: number;
  readonly retries: number;
  readonly accessesPerSecond: number;
  readonly latencies: Latencies;
}

/** What was measured. */
export interface PointResult {
  readonly config: PointConfig;
  readonly fault: RoleResult;
  readonly invalidate: RoleResult;
  /** What the devices' drivers counted from boot to end; `staleAccesses` must be 0. */
  readonly totals: SvmTotals;
  readonly rounds: number;
  /** Half the 95 % confidence interval of the mean time of an operation, over the rounds. Unit: percent. */
  readonly marginOfErrorPercent: number;
  readonly seconds: number;
  /** The measurement was ended before its time. */
  readonly interrupted: boolean;
}

const ROUND_MS = 100;
const ROUNDS_MIN = 3;

/** Boots, runs and takes down. @throws MachineFailure, FaultlineError */
export async function measurePoint(
  workload: Workload,
  config: PointConfig,
  options: MeasureOptions,
): Promise<PointResult> {
  const machine = bootMachine({
    cpus: workload.cpus(config),
    ramBytes: workload.ramBytes(config),
    atomics: options.atomics,
  });
  const boot = machine.cpu;
  bootMm(boot);
  bootSvmStats(boot);
  const opsModules = [SVM_DRIVER_MODULE, ...(options.driver ? [options.driver.url] : [])];
  registerOps(boot, await loadModules(BUILT_INS, opsModules));
  const framesBefore = framesAccountedFor(boot);
  const prepared = workload.prepare(boot, config, options.driver?.driver ?? svmDriver);
  const crew = new Crew(
    machine,
    prepared.members.map((one) => ({ ...one, module: workload.module })),
    {
      opsModules,
      ...(options.build && { build: options.build }),
      watchdog: { countsProgress: config.sampleEvery !== 0 },
    },
  );
  await crew.ready();
  crew.start();
  const sampler = new RoundSampler(machine, crew, prepared, options);
  const statistics = await sampler.run();
  const result = sampler.result(config, statistics);
  openRound(boot, prepared.rounds, true);
  prepared.stop();
  await crew.results();
  const totals = prepared.finish();
  assertNoLeak(boot, framesBefore);
  return { ...result, totals };
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
  /** Members that take part in rounds. */
  readonly #working: readonly WorkloadMember[];
  readonly #tallies = new Map<WorkloadMember, Tally>();
  #finishedBefore = 0;
  #rounds = 0;
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
    this.#reset();
  }

  /** Lets tinybench run the rounds. */
  async run(): Promise<Statistics> {
    const { durationMs, warmupMs, signal } = this.#options;
    const measured = Math.max(ROUNDS_MIN, Math.ceil(durationMs / ROUND_MS));
    const warmup = Math.ceil(warmupMs / ROUND_MS);
    const bench = new Bench({
      time: 0,
      iterations: measured,
      warmup: warmup > 0,
      warmupTime: 0,
      warmupIterations: warmup,
      throws: true,
      ...(signal && { signal }),
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
  result(config: PointConfig, statistics: Statistics): Omit<PointResult, 'totals'> {
    const longest = Math.max(0, ...[...this.#tallies.values()].map((tally) => tally.elapsedMs));
    return {
      config,
      fault: this.#roleResult('fault'),
      invalidate: this.#roleResult('invalidate'),
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
      sleep(ROUND_MS, undefined, { signal }).catch(() => undefined),
      this.#crew.halted,
    ]);
    stopRound(boot, rounds);
    await this.#waitForAll(members.length);
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

  /** Waits until every member has finished the round. @throws MachineFailure if the machine has stopped */
  async #waitForAll(members: number): Promise<void> {
    const boot = this.#machine.cpu;
    const { rounds } = this.#prepared;
    const target = (this.#finishedBefore + members) | 0;
    for (;;) {
      const finished = finishedCount(boot, rounds);
      if (finished === target) break;
      const woken = parkAsync(boot, rounds, Rounds.finished, finished, ROUND_MS);
      await Promise.race([woken, this.#crew.halted]);
      if (this.#crew.isHalted) await this.#crew.results(); // throws what happened
    }
    this.#finishedBefore = target;
  }
}

function lostSamples(): FaultlineError {
  return new FaultlineError('FAULTLINE_INTERNAL', 'the sampler returned no result', EXIT_INTERNAL);
}
