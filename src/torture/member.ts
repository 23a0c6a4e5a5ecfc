/**
 * The worker's side of a run: one member of the crew, from the start to the end.
 *
 * Protocol   worker 0           everybody                              main thread
 *              setup
 *              come to the gate  come to the gate                      start the clock
 *                                enter
 *                                step, step, …                         pause, move, take offline
 *                                  between two: phase, pause, offline    (conductor.ts)
 *                                leave                                 liveness; then: over
 *              all have left: teardown, leak check
 *            Members that serve others go on until those have left. A worker that is offline, or that stands
 *            still, is between two steps: it holds nothing.
 * Invariant  I1  No two workers are one member at a time: all have left before any enters at another place.
 * Ordering   The gates order everything: who enters as a member sees what the last one left.
 *
 * @module
 */
import { clockMs, relax } from '#memory';

import { bug } from '../base/bug.js';
import { pick, scramble, seedFor, xorshift } from '../base/xorshift.js';
import { bootDeferred } from '../deferred/boot.js';
import { runPendingWork } from '../deferred/kworker.js';
import { bootDevices } from '../device/boot.js';
import { isModule, loadModule } from '../device/module.js';
import type { SvmDriver } from '../drivers/svm/driver.js';
import { bootSvmStats } from '../drivers/svm/stats.js';
import { countAllocations, describeLeak } from '../machine/allocations.js';
import { Cpu, type PointWatcher } from '../machine/cpu.js';
import type { OpsTable } from '../machine/ops-table.js';
import { beginWait, checkHalted, endWait, noteProgress } from '../machine/sched.js';
import { MACHINE } from '../machine/types.js';
import { WAIT_ROUND } from '../machine/wait-kind.js';
import type { MemoryHandle } from '../memory/port.js';
import { awaitGate, comeToGate, gateNumber, openGate } from '../memory/rendezvous.js';
import { arrive, claimWord, glance, leaveText, leaveWord, pause } from '../memory/turn-token.js';
import { bootMm } from '../mm/boot.js';
import { bucketFor, NS_PER_MS } from '../workloads/histogram.js';
import { framesAccountedFor } from '../workloads/leak.js';
import {
  B_ENDED,
  B_FAIL_CPU,
  B_FAIL_INVARIANT,
  B_FAIL_OTHERS,
  B_FAIL_TEXT,
  B_FAILED,
  B_FAILING,
  B_GATE,
  B_LEFT,
  B_LEFT_ALL,
  B_LOST,
  B_OFFLINE,
  B_PAUSE,
  B_PAUSED,
  B_PHASE,
  B_RESUME,
  B_SHIFT,
  B_STATE,
  FAIL_TEXT_MAX,
  INVARIANT_MAX,
  LOST_MAX,
  memberAt,
  PAUSE_MOVE,
  PAUSE_NONE,
  PHASE_OVER,
  TM_COUNTS,
  TM_GAP_MAX,
  TM_HOLD_MAX,
  TM_HOLDS,
  TM_LIVELY,
  TM_WAIT_MAX,
  TM_WAITS,
} from './block.js';
import type { TortureLock } from './lock.js';
import {
  PHASE_LIVENESS,
  PHASE_SAFETY,
  type TortureConfig,
  type TortureMember,
  type TortureTarget,
} from './target.js';
import { findTarget } from './targets/registry.js';

/** What each member is given; structured-cloned. */
export interface TortureMemberArgs {
  readonly handle: MemoryHandle;
  /** Name of the target. */
  readonly target: string;
  readonly block: Int32Array;
  /** By member. */
  readonly roles: readonly string[];
  readonly config: Omit<TortureConfig, 'driver' | 'lock'>;
  /** Names of the ops tables of the user's, which the worker has loaded. */
  readonly driverOps?: string;
  readonly lockOps?: string;
}

/** How long a waiting member sleeps between two looks. Unit: milliseconds. */
const SLICE_MS = 20;
/** … and a serving one that had nothing to do. */
const SERVICE_NAP_MS = 0.1;
/** A random delay takes up to 2 to the power of one below this; most are short. Unit: turns of a loop. */
const DELAY_POWERS = 12;
/** One delay in so many, less four for each level of noise, lets the core go, for this long at most. Unit: ms. */
const NAP_ONE_IN = 40;
const NAP_MS = 1;
/** Of so many marked points the noise takes its share: 1 to 9. */
const NOISE_OF = 64;
/** A long hold comes once in so many operations, for each member and millisecond of it. */
const LONG_HOLD_EVERY = 50;

/** Runs one member of the crew on this CPU, until the run is over. */
export function runTorture(cpu: Cpu, args: unknown): void {
  new TortureWorker(cpu, args as TortureMemberArgs).run();
}

class TortureWorker implements TortureMember, PointWatcher {
  readonly config: TortureConfig;
  readonly #cpu: Cpu;
  /** The boot CPU; used by worker 0 while nobody else runs. */
  readonly #boot: Cpu;
  readonly #target: TortureTarget;
  readonly #args: TortureMemberArgs;
  readonly #block: Int32Array;
  readonly #serves: boolean;
  /** Members that serve nobody, in order: these exchange places. */
  readonly #plain: readonly number[];
  #index: number;
  #at: number;
  #state = 0;
  #random: number;
  #counted = 0;
  #countedAt = 0;

  constructor(cpu: Cpu, args: TortureMemberArgs) {
    const target = findTarget(args.target);
    const isService = (role: string): boolean => target.services?.includes(role) === true;
    this.#cpu = cpu;
    this.#args = args;
    this.#target = target;
    this.#block = args.block;
    this.#serves = isService(args.roles[cpu.id] ?? '');
    this.#plain = args.roles.flatMap((role, at) => (isService(role) ? [] : [at]));
    this.#index = cpu.id;
    this.#at = memberAt(cpu.id);
    this.#random = seedFor(args.config.seed, cpu.id);
    this.config = {
      ...args.config,
      driver: tableNamed(cpu, args.driverOps) as SvmDriver | undefined,
      lock: tableNamed(cpu, args.lockOps) as TortureLock | undefined,
    };
    this.#boot = new Cpu(args.handle, args.roles.length);
    this.#boot.opsTables.push(...cpu.opsTables);
    for (const [table, at] of cpu.opsIndices) this.#boot.opsIndices.set(table, at);
  }

  run(): void {
    const isFirst = this.#cpu.id === 0;
    const before = isFirst ? this.#makeWorld() : undefined;
    this.#passGate();
    this.#state = glance(this.#block, B_STATE);
    this.#cpu.points = this;
    this.#enter();
    while (this.#goesOn()) {
      this.#step();
      this.#look();
    }
    this.#leave();
    this.#cpu.points = null;
    if (!this.#serves) arrive(this.#block, B_LEFT);
    arrive(this.#block, B_LEFT_ALL);
    if (before !== undefined) this.#endWorld(before);
  }

  // --- the world ---

  /** Returns what is free, and what is allocated, before the target is set up. */
  #makeWorld(): { readonly frames: number; readonly allocations: Int32Array } {
    const boot = this.#boot;
    bootMm(boot);
    bootDeferred(boot);
    bootSvmStats(boot);
    this.#insertModules();
    const before = { frames: framesAccountedFor(boot), allocations: countAllocations(boot) };
    leaveWord(this.#block, B_STATE, this.#target.setup(boot, this.config));
    return before;
  }

  /** Kernel modules of the user's driver. */
  #insertModules(): void {
    const modules = this.#cpu.opsTables.filter(isModule);
    if (modules.length === 0) return;
    bootDevices(this.#boot);
    for (const module of modules) {
      const error = loadModule(this.#boot, module);
      if (error !== 0) bug(`the module ${module.opsName} cannot be loaded: ${error}`);
    }
  }

  /** All have left: nobody may have kept anything. */
  #endWorld(before: { readonly frames: number; readonly allocations: Int32Array }): void {
    const boot = this.#boot;
    this.#waitUntil(() => glance(this.#block, B_LEFT_ALL) >= this.#args.roles.length);
    runPendingWork(boot);
    this.#target.teardown(boot, this.#state);
    runPendingWork(boot);
    const structs = describeLeak(boot, before.allocations, countAllocations(boot));
    const frames = before.frames - framesAccountedFor(boot);
    const lost = [structs, frames > 0 ? `${frames} frames` : ''].filter((part) => part !== '');
    leaveText(this.#block, B_LOST, LOST_MAX, lost.join(', '));
    leaveWord(this.#block, B_ENDED, 1);
  }

  // --- from step to step ---

  #goesOn(): boolean {
    if (glance(this.#block, B_PHASE) !== PHASE_OVER) return true;
    return this.#serves && glance(this.#block, B_LEFT) < this.#plain.length;
  }

  #step(): void {
    const before = this.#counted;
    this.#target.step(this.#cpu, this.#state, this);
    if (!this.#serves) return;
    if (this.#counted === before) pause(SERVICE_NAP_MS);
    noteProgress(this.#cpu, ++this.#counted); // with nothing to do it is not stuck
  }

  /** What the main thread wants, between two steps. */
  #look(): void {
    checkHalted(this.#cpu);
    if (this.#serves) return;
    if (glance(this.#block, B_OFFLINE) === this.#cpu.id + 1) this.#goOffline();
    if (glance(this.#block, B_PAUSE) !== PAUSE_NONE) this.#standStill();
  }

  #goOffline(): void {
    this.#leave();
    this.#waitUntil(() => glance(this.#block, B_OFFLINE) !== this.#cpu.id + 1);
    this.#enter();
  }

  #standStill(): void {
    const block = this.#block;
    const moves = glance(block, B_PAUSE) === PAUSE_MOVE;
    if (moves) this.#leave();
    const number = gateNumber(block, B_RESUME);
    arrive(block, B_PAUSED);
    this.#waitUntil(() => gateNumber(block, B_RESUME) !== number);
    if (!moves) {
      this.#countedAt = this.now();
      return;
    }
    const place = this.#plain.indexOf(this.#cpu.id) + glance(block, B_SHIFT);
    this.#index = this.#plain[place % this.#plain.length] ?? 0;
    this.#at = memberAt(this.#index);
    this.#random = seedFor(this.#random, this.#index);
    this.#enter();
  }

  #enter(): void {
    this.#countedAt = this.now();
    this.#target.enter(this.#cpu, this.#state, this);
  }

  #leave(): void {
    this.#target.leave(this.#cpu, this.#state, this);
  }

  #passGate(): void {
    const block = this.#block;
    const number = gateNumber(block, B_GATE);
    if (comeToGate(block, B_GATE, this.#args.roles.length)) {
      openGate(block, B_GATE);
      return;
    }
    beginWait(this.#cpu, WAIT_ROUND, MACHINE);
    while (!awaitGate(block, B_GATE, number, 0, SLICE_MS)) checkHalted(this.#cpu);
    endWait(this.#cpu);
  }

  /** Waits for something that is no work: the watchdog lets it be. */
  #waitUntil(condition: () => boolean): void {
    if (condition()) return;
    const number = gateNumber(this.#block, B_RESUME);
    beginWait(this.#cpu, WAIT_ROUND, MACHINE);
    while (!condition()) {
      awaitGate(this.#block, B_RESUME, number, 0, SLICE_MS);
      if (gateNumber(this.#block, B_RESUME) !== number) pause(SERVICE_NAP_MS);
      checkHalted(this.#cpu);
    }
    endWait(this.#cpu);
  }

  // --- what targets ask for ---

  get index(): number {
    return this.#index;
  }

  get role(): string {
    return this.#args.roles[this.#index] ?? '';
  }

  random(bound: number): number {
    this.#random = xorshift(this.#random);
    return pick(scramble(this.#random), bound);
  }

  count(operation: number): void {
    const now = this.now();
    this.#max(TM_GAP_MAX, now - this.#countedAt);
    this.#countedAt = now;
    this.#add(TM_COUNTS + operation);
    if (this.phase() === PHASE_LIVENESS) this.#add(TM_LIVELY);
    noteProgress(this.#cpu, ++this.#counted);
  }

  now(): number {
    return clockMs(this.#cpu) * NS_PER_MS;
  }

  waited(ns: number): void {
    this.#add(TM_WAITS + bucketFor(ns));
    this.#max(TM_WAIT_MAX, ns);
  }

  held(ns: number): void {
    this.#add(TM_HOLDS + bucketFor(ns));
    this.#max(TM_HOLD_MAX, ns);
  }

  fail(message: string, invariant = '', others: readonly number[] = []): never {
    const block = this.#block;
    if (claimWord(block, B_FAILING)) {
      leaveText(block, B_FAIL_TEXT, FAIL_TEXT_MAX, message);
      leaveText(block, B_FAIL_INVARIANT, INVARIANT_MAX, invariant);
      const set = others.reduce((bits, cpu) => (cpu < 32 ? bits | (1 << cpu) : bits), 0);
      leaveWord(block, B_FAIL_CPU, this.#cpu.id);
      leaveWord(block, B_FAIL_OTHERS, set);
      leaveWord(block, B_FAILED, 1);
    }
    bug(invariant === '' ? message : `${invariant}: ${message}`);
  }

  noise(): void {
    if (this.phase() !== PHASE_SAFETY) return;
    const { longHoldMs } = this.config;
    if (longHoldMs > 0) {
      const every = Math.ceil(this.#plain.length * LONG_HOLD_EVERY * longHoldMs);
      if (this.random(every) === 0) pause(longHoldMs);
    }
    this.#delay();
  }

  phase(): number {
    return glance(this.#block, B_PHASE) === PHASE_SAFETY ? PHASE_SAFETY : PHASE_LIVENESS;
  }

  /** A marked point of the kernel. */
  reach(): void {
    if (this.phase() === PHASE_SAFETY) this.#delay();
  }

  #delay(): void {
    if (this.random(NOISE_OF) >= this.config.noise) return;
    if (this.random(NAP_ONE_IN - 4 * this.config.noise) === 0) {
      pause((NAP_MS * (1 + this.random(20))) / 20);
      return;
    }
    const turns = this.random(1 << this.random(DELAY_POWERS));
    for (let turn = 0; turn < turns; turn++) relax(this.#cpu);
  }

  #add(field: number): void {
    const at = this.#at + field;
    leaveWord(this.#block, at, glance(this.#block, at) + 1);
  }

  #max(field: number, ns: number): void {
    const us = Math.min(Math.round(ns / 1000), 0x7fffffff);
    if (us > glance(this.#block, this.#at + field)) leaveWord(this.#block, this.#at + field, us);
  }
}

/** The worker's copy of a table that a module of the user's exports. */
function tableNamed(cpu: Cpu, opsName: string | undefined): OpsTable | undefined {
  if (opsName === undefined) return undefined;
  return (cpu.opsTables as (OpsTable | undefined)[]).findLast(
    (table) => table?.opsName === opsName,
  );
}
