/**
 * Runs targets: boots a machine for each, lets a crew of the checked build loose on it, and says what came of it.
 *
 * The main thread boots a bare machine and looks after the run; setup, steps and teardown are the workers'
 * (member.ts), for they have the checked build.
 *
 * @module
 */
import { write } from '#memory';

import { FaultlineError } from '../base/bug.js';
import { liveObjects } from '../debug/live-objects.js';
import { findMutant } from '../explore/mutants.js';
import { Crew } from '../host/crew.js';
import { lockReports, MachineFailure } from '../host/failure.js';
import { WorkerPools } from '../host/pool.js';
import { mapStack } from '../host/source-position.js';
import { type BootedMachine, bootMachine } from '../machine/boot.js';
import { CPUS_MAX } from '../machine/limits.js';
import { hasLockReports } from '../machine/lock-report.js';
import { MACHINE, Machine } from '../machine/types.js';
import { warningCount, warningTexts } from '../machine/warn.js';
import { sharedIntegers } from '../memory/shared-tables.js';
import { glance, textLeftAt } from '../memory/turn-token.js';
import { SVM_DRIVER_MODULE } from '../workloads/built-ins.js';
import type { LoadedDriver } from '../workloads/measure.js';
import { B_ENDED, B_LOST, blockWords } from './block.js';
import { Conductor, type Timing } from './conductor.js';
import type { LoadedLock } from './lock.js';
import type { TortureMemberArgs } from './member.js';
import { type LostWakeUp, lostWakeUp } from './rest.js';
import type { MemberResult, RoleResult, TargetResult, TortureReport, Violation } from './result.js';
import { memberName, memberResults, roleResults } from './statistics.js';
import type { TortureConfig, TortureTarget } from './target.js';
import { findTarget } from './targets/registry.js';
import {
  type Finding,
  findingOf,
  lostFinding,
  reportFinding,
  type Scene,
  stacksOf,
  violationOf,
} from './violation.js';

/** How targets are tortured. */
export interface TortureOptions {
  readonly config: Omit<TortureConfig, 'driver' | 'lock'>;
  readonly timing: Timing;
  /** Name of the mistake that is planted. */
  readonly mutant?: string;
  readonly driver?: LoadedDriver;
  readonly lock?: LoadedLock;
  /** A CPU that gets nowhere for so long is stuck. Unit: milliseconds. */
  readonly stallMs: number;
  /** How the run of a target is to be said on a command line. */
  readonly commandFor: (target: string) => string;
  readonly signal?: AbortSignal;
  /** Share of the target's time that has passed, and the operations so far. */
  /** How often onStat is called; 0 = never. Unit: milliseconds. */
  readonly statIntervalMs?: number;
  /** What the members of a target have done so far. */
  readonly onStat?: (target: string, roles: readonly RoleResult[]) => void;
  readonly onProgress?: (done: number, operations: number) => void;
  /** A target begins, with members of these roles. */
  readonly onTarget?: (target: TortureTarget, roles: readonly string[]) => void;
  /** … has ended. */
  readonly onResult?: (result: TargetResult) => void;
}

/** Name of the module with the members' program; kernel.ts has it. */
export const TORTURE_MODULE = 'faultline:torture';
const POLL_MS = 50;
const DEFAULT_RAM_BYTES = 16 << 20;

/** The members of a target's crew. @throws FaultlineError if there are none, or too many */
export function rolesOf(target: TortureTarget, { config, driver, lock }: TortureOptions): string[] {
  const roles = target.roles({ ...config, driver: driver?.driver, lock: lock?.lock });
  if (roles.length === 0 || roles.length > CPUS_MAX) {
    const message = `${target.name}: these options make ${roles.length} members; there must be 1 to ${CPUS_MAX}`;
    throw new FaultlineError('FAULTLINE_BAD_OPTION', message);
  }
  return [...roles];
}

/** Runs one target. What it finds is part of the result. @throws FaultlineError if it cannot be run */
export async function tortureTarget(
  target: TortureTarget,
  options: TortureOptions,
  pools: WorkerPools,
): Promise<TargetResult> {
  return new TortureRun(target, options, rolesOf(target, options), pools).run();
}

class TortureRun {
  readonly #target: TortureTarget;
  readonly #options: TortureOptions;
  readonly #roles: readonly string[];
  readonly #block: Int32Array;
  readonly #machine: BootedMachine;
  readonly #crew: Crew;
  readonly #conductor: Conductor;
  #startedAt = performance.now();
  #saidAt = performance.now();
  #haltedAt: number | undefined;
  #lost: LostWakeUp | undefined;

  constructor(
    target: TortureTarget,
    options: TortureOptions,
    roles: readonly string[],
    pools: WorkerPools,
  ) {
    const { config, timing, signal } = options;
    this.#target = target;
    this.#options = options;
    this.#roles = roles;
    this.#block = sharedIntegers(blockWords(roles.length));
    this.#machine = bootFor(target, options, roles.length);
    const members = roles.map((_, index) => ({
      name: memberName(roles, index),
      module: TORTURE_MODULE,
      entry: 'runTorture',
      args: this.#args(),
    }));
    this.#crew = new Crew(this.#machine, members, {
      pool: pools.for('checked'),
      opsModules: [
        SVM_DRIVER_MODULE,
        ...[options.driver?.url, options.lock?.url].filter((url) => url !== undefined),
      ],
      watchdog: { stallMs: options.stallMs, countsProgress: true },
      ...(signal && { signal }),
    });
    const serves = (role: string): boolean => target.services?.includes(role) === true;
    const plain = roles.flatMap((role, index) => (serves(role) ? [] : [index]));
    this.#conductor = new Conductor(
      this.#block,
      plain,
      timing,
      config.seed,
      this.#hasFailed,
      () => signal?.aborted === true,
      this.#onRest,
    );
  }

  #args(): TortureMemberArgs {
    const { config, driver, lock } = this.#options;
    return {
      handle: this.#machine.handle,
      target: this.#target.name,
      block: this.#block,
      roles: this.#roles,
      config,
      ...(driver && { driverOps: driver.driver.opsName }),
      ...(lock && { lockOps: lock.lock.opsName }),
    };
  }

  async run(): Promise<TargetResult> {
    const timer = setInterval(this.#poll, POLL_MS);
    const { signal } = this.#options;
    try {
      const failure = await this.#untilItEnds();
      const violation = this.#violation(failure);
      const isInterrupted = signal?.aborted === true;
      return this.#result(violation, isInterrupted && violation === null);
    } finally {
      clearInterval(timer);
      await this.#crew.abandon();
    }
  }

  async #untilItEnds(): Promise<MachineFailure | undefined> {
    try {
      await this.#crew.ready();
      this.#startedAt = performance.now();
      this.#crew.start();
      await this.#conductor.run();
      await this.#crew.results();
      return undefined;
    } catch (error) {
      if (error instanceof MachineFailure) return error;
      throw error;
    }
  }

  /** … and when that was seen. */
  readonly #hasFailed = (): boolean => {
    if (!this.#crew.isHalted) return false;
    this.#haltedAt ??= performance.now();
    return true;
  };

  /** All come to rest: who sleeps for a free lock now has been forgotten. */
  readonly #onRest = (): void => {
    const lost = lostWakeUp(this.#machine.cpu);
    if (lost === undefined) return;
    this.#lost = lost;
    this.#crew.halt();
  };

  /** What the checked build reports ends the run: the workers are called back at once. */
  readonly #poll = (): void => {
    const { timing, onProgress, onStat, statIntervalMs = 0 } = this.#options;
    const now = performance.now();
    const boot = this.#machine.cpu;
    if (hasLockReports(boot) || warningCount(boot) > 0) this.#crew.halt();
    if (statIntervalMs > 0 && now - this.#saidAt >= statIntervalMs) {
      this.#saidAt = now;
      onStat?.(this.#target.name, roleResults(this.#block, this.#roles, this.#members()));
    }
    const done = (now - this.#startedAt) / timing.durationMs;
    onProgress?.(Math.min(1, done), this.#total());
  };

  #members(): MemberResult[] {
    return memberResults(this.#block, this.#roles, this.#target.operations.length);
  }

  #total(): number {
    return this.#members()
      .flatMap(({ operations }) => operations)
      .reduce((sum, count) => sum + count, 0);
  }

  #violation(failure: MachineFailure | undefined): Violation | null {
    if (failure === undefined && !this.#hasFindings()) return null;
    const scene: Scene = {
      boot: this.#machine.cpu,
      block: this.#block,
      stacks: stacksOf(this.#crew),
      nameOf: (cpu) => `cpu ${cpu} (${memberName(this.#roles, cpu)})`,
      atSeconds: ((this.#haltedAt ?? performance.now()) - this.#startedAt) / 1000,
      command: this.#options.commandFor(this.#target.name),
    };
    return violationOf(scene, failure ? findingOf(failure, scene) : this.#finding());
  }

  /** Whether a run that nobody died of has left anything. */
  #hasFindings(): boolean {
    const boot = this.#machine.cpu;
    const lost = textLeftAt(this.#block, B_LOST);
    return (
      this.#lost !== undefined || hasLockReports(boot) || warningCount(boot) > 0 || lost !== ''
    );
  }

  /** … and what it is. */
  #finding(): Finding {
    const boot = this.#machine.cpu;
    if (this.#lost !== undefined) return lostFinding(this.#lost);
    const [report] = lockReports(boot);
    if (report !== undefined) return reportFinding(report);
    const [warning] = warningTexts(boot);
    const evidence = warningTexts(boot);
    if (warning !== undefined) {
      return { detector: 'warning', what: warning, evidenceTitle: 'Warnings:', evidence };
    }
    const lost = textLeftAt(this.#block, B_LOST);
    const what = `${this.#target.name}: not given back: ${lost}`;
    return {
      detector: 'leak',
      what,
      evidenceTitle: 'What is lost:',
      evidence: this.#lostObjects(lost),
    };
  }

  /** What is not given back, with who has made it. */
  #lostObjects(lost: string): string[] {
    const sites = liveObjects(this.#machine)
      .filter(({ struct }) => new RegExp(`\\b${struct}\\b`).test(lost))
      .map(({ struct, count, stack }) => `${count} ${struct}, handed out by\n${mapStack(stack)}`);
    return [...lost.split(', '), ...sites.flatMap((site) => site.split('\n'))];
  }

  #result(violation: Violation | null, isInterrupted: boolean): TargetResult {
    const { config, mutant } = this.#options;
    const names = this.#target.operations;
    const members = this.#members();
    const sumOf = (at: number): number =>
      members.reduce((sum, { operations }) => sum + (operations[at] ?? 0), 0);
    const conductor = this.#conductor;
    return {
      target: this.#target.name,
      mutant: mutant ?? null,
      verdict: violation !== null ? 'FAILURE' : isInterrupted ? 'INTERRUPTED' : 'SUCCESS',
      violation,
      config,
      roles: roleResults(this.#block, this.#roles, members),
      members,
      operations: Object.fromEntries(names.map((name, at) => [name, sumOf(at)])),
      checkedForLeaks: glance(this.#block, B_ENDED) !== 0,
      safetySeconds: conductor.safetyMs / 1000,
      livenessSeconds: conductor.livenessMs / 1000,
      stutters: conductor.stutters,
      shuffles: conductor.shuffles,
      offlines: conductor.offlines,
    };
  }
}

/** A bare machine, with the mistake: this thread's own build need not have any. */
function bootFor(target: TortureTarget, options: TortureOptions, cpus: number): BootedMachine {
  const { config, driver, lock, mutant } = options;
  const given = { ...config, driver: driver?.driver, lock: lock?.lock };
  const machine = bootMachine({
    cpus,
    ramBytes: target.ramBytes?.(given) ?? DEFAULT_RAM_BYTES,
    swapBytes: target.swapBytes ?? 0,
    minFreeFrames: target.minFreeFrames ?? 0,
    watchesMemory: true,
  });
  if (mutant !== undefined) {
    write(machine.cpu, MACHINE, Machine.mutant, findMutant(mutant).number);
  }
  return machine;
}

/**
 * Runs each target with each of its planted mistakes, until that is found or its time is over.
 * @throws FaultlineError if one cannot be run
 */
export async function tortureBusted(
  targets: readonly TortureTarget[],
  options: TortureOptions,
): Promise<TortureReport> {
  const planted = targets.flatMap((target) =>
    (target.busted ?? []).map((mutant) => ({ target, mutant })),
  );
  return tortureAll(planted, options);
}

/** The target that must be reported, and for how long it may go unseen. Unit: milliseconds. */
const CANARY = 'lock_busted';
const CANARY_MS = 30_000;

/** Runs the canary: whether it was reported, and after how long. */
export async function runCanary(
  options: TortureOptions,
  pools: WorkerPools,
): Promise<TortureReport['canary']> {
  const startedAt = performance.now();
  const { violation } = await tortureTarget(
    findTarget(CANARY),
    {
      config: { ...options.config, nwritersStress: 2, longHoldMs: 0, noise: 9 },
      timing: { durationMs: CANARY_MS, stutterMs: 0, shuffleMs: 0, onoffMs: 0 },
      stallMs: options.stallMs,
      commandFor: options.commandFor,
      ...(options.signal && { signal: options.signal }),
    },
    pools,
  );
  const seconds = (performance.now() - startedAt) / 1000;
  const reported = violation?.detector === 'invariant' || violation?.detector === 'data race';
  return { reported, seconds, ...(violation && !reported && { instead: violation.what }) };
}

/**
 * Runs the canary, then one target after the other, each for its share of the time; goes on after a violation.
 * @throws FaultlineError if one cannot be run
 */
export function tortureTargets(
  targets: readonly TortureTarget[],
  options: TortureOptions,
): Promise<TortureReport> {
  const sum = targets.reduce((all, { weight = 1 }) => all + weight, 0);
  const share = (options.timing.durationMs * targets.length) / sum; // of a target of weight 1
  return tortureAll(
    targets.map((target) => ({ target, durationMs: share * (target.weight ?? 1) })),
    options,
  );
}

interface PlannedRun {
  readonly target: TortureTarget;
  /** Instead of what the options say. */
  readonly durationMs?: number;
  readonly mutant?: string;
}

async function tortureAll(
  planned: readonly PlannedRun[],
  options: TortureOptions,
): Promise<TortureReport> {
  const sizes = planned.map(({ target }) => rolesOf(target, options).length);
  const pools = new WorkerPools(Math.max(2, ...sizes));
  const results: TargetResult[] = [];
  try {
    const canary = await runCanary(options, pools);
    for (const { target, mutant, durationMs = options.timing.durationMs } of planned) {
      if (options.signal?.aborted === true || !canary.reported) break;
      options.onTarget?.(target, rolesOf(target, options));
      const timing = { ...options.timing, durationMs };
      const run = { ...options, timing, ...(mutant !== undefined && { mutant }) };
      const result = await tortureTarget(target, run, pools);
      results.push(result);
      options.onResult?.(result);
    }
    return { canary, results, interrupted: options.signal?.aborted === true };
  } finally {
    await pools.end();
  }
}
