/**
 * Looks at a running machine from outside, and ends it when it cannot go on.
 *
 * Protocol   Every POLL_MS it takes a snapshot of all CPUs. A cycle of waits that two snapshots in a row
 *            agree on is a deadlock. A CPU whose wait (or, if the crew counts progress, whose count) has
 *            not moved for stallMs is stalled; waiting for work is not a stall.
 *
 * @module
 */
import { type CpuSnapshot, findCycle, snapshotCpus } from '../debug/wait-graph.js';
import { type Cpu } from '../machine/cpu.js';
import { IDLE_WAITS, WAIT_NONE } from '../machine/wait-kind.js';
import { type CpuNamer, deadlockFailure, type MachineFailure, stallFailure } from './failure.js';

export interface WatchdogOptions {
  /** A wait that lasts this long is a stall. Unit: milliseconds. */
  readonly stallMs: number;
  /** Whether CPUs that run must count progress to prove that they are alive. */
  readonly countsProgress: boolean;
}

const POLL_MS = 250;

export class Watchdog {
  readonly #boot: Cpu;
  readonly #options: WatchdogOptions;
  readonly #nameOf: CpuNamer;
  readonly #onFailure: (failure: MachineFailure) => void;
  readonly #timer: NodeJS.Timeout;
  #suspect: readonly CpuSnapshot[] | undefined;
  /** When each CPU was last seen to move. */
  readonly #movedAt = new Map<number, { snapshot: CpuSnapshot; at: number }>();

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
    const all = snapshotCpus(this.#boot);
    const failure = this.#checkCycle(all) ?? this.#checkStall(all);
    if (failure === undefined) return;
    this.stop();
    this.#onFailure(failure);
  }

  #checkCycle(all: readonly CpuSnapshot[]): MachineFailure | undefined {
    const cycle = findCycle(all);
    const confirmed = cycle !== undefined && sameWaits(cycle, this.#suspect);
    this.#suspect = cycle;
    return confirmed ? deadlockFailure(this.#boot, cycle, all, this.#nameOf) : undefined;
  }

  #checkStall(all: readonly CpuSnapshot[]): MachineFailure | undefined {
    const now = performance.now();
    for (const snapshot of all) {
      const last = this.#movedAt.get(snapshot.cpu);
      if (last === undefined || !this.#standsStill(last.snapshot, snapshot)) {
        this.#movedAt.set(snapshot.cpu, { snapshot, at: now });
        continue;
      }
      const stalledMs = now - last.at;
      if (stalledMs < this.#options.stallMs) continue;
      return stallFailure(this.#boot, snapshot, all, stalledMs, this.#nameOf);
    }
    return undefined;
  }

  #standsStill(before: CpuSnapshot, now: CpuSnapshot): boolean {
    if (now.finished || IDLE_WAITS.has(now.waitKind)) return false;
    if (now.waitKind === WAIT_NONE && !this.#options.countsProgress) return false;
    return (
      before.waitKind === now.waitKind &&
      before.waitSerial === now.waitSerial &&
      before.progress === now.progress
    );
  }
}

function sameWaits(
  cycle: readonly CpuSnapshot[],
  suspect: readonly CpuSnapshot[] | undefined,
): boolean {
  const before = new Map(suspect?.map((snapshot) => [snapshot.cpu, snapshot.waitSerial]));
  return cycle.every((snapshot) => before.get(snapshot.cpu) === snapshot.waitSerial);
}
