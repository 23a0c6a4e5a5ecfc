/**
 * Looks at a running machine from outside, and ends it when it cannot go on.
 *
 * Protocol   Every POLL_MS it takes a snapshot of all CPUs. A cycle of waits that two snapshots in a row
 *            agree on is a deadlock; so is, on a machine that nobody outside wakes, that all who are not done
 *            have slept for STANDSTILL_MS, be it for want of work. A CPU whose wait (or, if the crew counts
 *            progress, whose count) has not moved for stallMs is stalled; waiting for work is not a stall. It has
 *            PATIENCE times as long while one of those who keep it from going on does move: a long queue at a lock is
 *            none. So has a CPU that moves from wait to wait, or goes on in a long loop, and yet completes nothing, which is a
 *            livelock.
 *            Workers that still load their modules are stalled when none of them has got ready for stallMs.
 *            Time in which the watchdog itself did not run (the process was stopped, the host asleep) counts
 *            for nobody.
 *
 * @module
 */
import { blockersOf, type CpuSnapshot, findCycle, snapshotCpus } from '../debug/wait-graph.js';
import type { Cpu } from '../machine/cpu.js';
import { IDLE_WAITS, WAIT_NONE } from '../machine/wait-kind.js';
import {
  type CpuNamer,
  deadlockFailure,
  type MachineFailure,
  stallFailure,
  standstillFailure,
} from './failure.js';

export interface WatchdogOptions {
  /** A wait that lasts this long is a stall. Unit: milliseconds. */
  readonly stallMs: number;
  /** Whether CPUs that run must count progress to prove that they are alive. */
  readonly countsProgress: boolean;
  /**
   * Given where nobody outside ever wakes a CPU: true of a CPU that has nothing to do. When all others sleep,
   * nobody is left to wake them.
   */
  readonly atRest?: (cpu: number) => boolean;
}

const POLL_MS = 250;
/** How much longer one may take who moves, or whose blockers do. */
const PATIENCE = 5;
/** Nobody can go on if all have slept for so long: sleeps are cut into shorter slices. */
const STANDSTILL_MS = 500;
/**
 * Loading modules takes a busy host a while, and all load side by side: no less patience than this until the next CPU is
 * ready, and for each of those that load.
 */
const LOADING_MIN_MS = 5000;
const LOADING_EACH_MS = 1000;

interface Seen {
  readonly snapshot: CpuSnapshot;
  readonly movedAt: number;
  readonly countedAt: number;
  /** When one of those who keep it from going on was last seen to move. */
  ledAt: number;
}

export class Watchdog {
  readonly #boot: Cpu;
  readonly #options: WatchdogOptions;
  readonly #nameOf: CpuNamer;
  readonly #onFailure: (failure: MachineFailure) => void;
  readonly #timer: NodeJS.Timeout;
  #suspect: readonly CpuSnapshot[] | undefined;
  /** All who have something to do, if all of them slept at the last look, and since when they do. */
  #asleep: readonly CpuSnapshot[] | undefined;
  #asleepSince = 0;
  /** How many CPUs had still to load their modules. */
  #loading = -1;
  /** When each CPU was last seen to move, and to complete something. */
  readonly #seen = new Map<number, Seen>();
  /** Goes on by at most POLL_MS from poll to poll. */
  #clockMs = 0;
  #polledAt = performance.now();

  constructor(
    boot: Cpu,
    options: WatchdogOptions,
    nameOf: CpuNamer,
    onFailure: (failure: MachineFailure) => void,
  ) {
    this.#boot = boot;
    this.#options = options;
    this.#nameOf = nameOf;
    this.#onFailure = onFailure;
    this.#timer = setInterval(() => {
      this.#poll();
    }, POLL_MS);
  }

  stop(): void {
    clearInterval(this.#timer);
  }

  #poll(): void {
    this.#readClock();
    const all = this.#snapshot();
    const failure = this.#checkCycle(all) ?? this.#checkStandstill(all) ?? this.#checkStall(all);
    if (failure === undefined) return;
    this.stop();
    this.#onFailure(failure);
  }

  /** Of a CPU that has nothing to do no more is to be said than that it has ended. */
  #snapshot(): CpuSnapshot[] {
    const { atRest = () => false } = this.#options;
    const all = snapshotCpus(this.#boot);
    return all.map((one) => (atRest(one.cpu) ? { ...one, finished: true } : one));
  }

  #readClock(): void {
    const now = performance.now();
    this.#clockMs += Math.min(now - this.#polledAt, POLL_MS);
    this.#polledAt = now;
  }

  #checkCycle(all: readonly CpuSnapshot[]): MachineFailure | undefined {
    const cycle = findCycle(all);
    const confirmed = cycle !== undefined && sameWaits(cycle, this.#suspect);
    this.#suspect = cycle;
    return confirmed ? deadlockFailure(this.#boot, cycle, all, this.#nameOf) : undefined;
  }

  #checkStandstill(all: readonly CpuSnapshot[]): MachineFailure | undefined {
    const { atRest } = this.#options;
    if (atRest === undefined) return undefined;
    const now = this.#clockMs;
    const busy = all.filter(({ cpu }) => !atRest(cpu));
    const asleep = busy.length > 0 && busy.every(isAsleep) ? busy : undefined;
    if (asleep === undefined || !sameWaits(asleep, this.#asleep)) this.#asleepSince = now;
    this.#asleep = asleep;
    if (asleep === undefined || now - this.#asleepSince < STANDSTILL_MS) return undefined;
    const stuck = asleep.filter(({ waitKind }) => !IDLE_WAITS.has(waitKind));
    return standstillFailure(this.#boot, stuck.length > 0 ? stuck : asleep, all, this.#nameOf);
  }

  #checkStall(all: readonly CpuSnapshot[]): MachineFailure | undefined {
    const loading = all.filter(isLoading).length;
    const oneGotReady = loading !== this.#loading;
    this.#loading = loading;
    for (const snapshot of all) this.#look(snapshot, oneGotReady);
    for (const snapshot of all)
      if (this.#isLed(snapshot, all)) this.#seenOf(snapshot).ledAt = this.#clockMs;
    const { stallMs } = this.#options;
    const loadingMs = Math.max(LOADING_MIN_MS, loading * LOADING_EACH_MS);
    for (const snapshot of all) {
      const patienceMs = isLoading(snapshot) ? Math.max(stallMs, loadingMs) : stallMs;
      const { movedAt, ledAt, countedAt } = this.#seenOf(snapshot);
      const [stoodMs, aloneMs, idleMs] = [movedAt, Math.max(movedAt, ledAt), countedAt].map(
        (at) => this.#clockMs - at,
      ) as [number, number, number];
      const stands = aloneMs >= patienceMs || stoodMs >= PATIENCE * patienceMs;
      if (!stands && idleMs < PATIENCE * patienceMs) continue;
      return stallFailure(this.#boot, snapshot, all, stands ? stoodMs : idleMs, this.#nameOf);
    }
    return undefined;
  }

  /** Notes whether the CPU has moved since the last look. */
  #look(snapshot: CpuSnapshot, oneGotReady: boolean): void {
    const now = this.#clockMs;
    const last = this.#seen.get(snapshot.cpu);
    const stands =
      last !== undefined &&
      (isLoading(snapshot) ? !oneGotReady : this.#standsStill(last.snapshot, snapshot));
    const counts = this.#options.countsProgress && !isLoading(snapshot) && !this.#isIdle(snapshot);
    const completes = last === undefined || !counts || last.snapshot.progress !== snapshot.progress;
    this.#seen.set(snapshot.cpu, {
      snapshot,
      movedAt: stands ? last.movedAt : now,
      ledAt: last?.ledAt ?? now,
      countedAt: completes ? now : last.countedAt,
    });
  }

  #seenOf({ cpu }: CpuSnapshot): Seen {
    const seen = this.#seen.get(cpu);
    if (seen === undefined) throw new Error(`cpu ${cpu} was not looked at`);
    return seen;
  }

  /** True if one of those who keep it from going on, or who keep those, has moved lately. */
  #isLed(waiter: CpuSnapshot, all: readonly CpuSnapshot[]): boolean {
    if (!this.#options.countsProgress) return false; // who only runs may run in circles
    const chain = new Set([waiter]);
    for (const one of chain) {
      const blockers = one.blocked ? blockersOf(one, all) : [];
      for (const other of all) if (blockers.includes(other.cpu)) chain.add(other);
    }
    chain.delete(waiter);
    return [...chain].some(
      (one) => !one.finished && this.#clockMs - this.#seenOf(one).movedAt < this.#options.stallMs,
    );
  }

  /** It has ended, or has nothing to do. */
  #isIdle({ cpu, finished, waitKind }: CpuSnapshot): boolean {
    return finished || IDLE_WAITS.has(waitKind) || this.#options.atRest?.(cpu) === true;
  }

  #standsStill(before: CpuSnapshot, now: CpuSnapshot): boolean {
    if (this.#isIdle(now)) return false;
    if (now.waitKind === WAIT_NONE && !this.#options.countsProgress) return false;
    return (
      before.waitKind === now.waitKind &&
      before.waitSerial === now.waitSerial &&
      before.resched === now.resched &&
      before.progress === now.progress
    );
  }
}

/** Every CPU waits at the start barrier before it runs anything. */
function isLoading(snapshot: CpuSnapshot): boolean {
  return snapshot.waitSerial === 0 && !snapshot.finished;
}

function isAsleep({ waitKind, blocked }: CpuSnapshot): boolean {
  return blocked && waitKind !== WAIT_NONE;
}

function sameWaits(
  cycle: readonly CpuSnapshot[],
  suspect: readonly CpuSnapshot[] | undefined,
): boolean {
  const before = new Map(suspect?.map((snapshot) => [snapshot.cpu, snapshot.waitSerial]));
  return cycle.every((snapshot) => before.get(snapshot.cpu) === snapshot.waitSerial);
}
