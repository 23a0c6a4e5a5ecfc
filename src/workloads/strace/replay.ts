/**
 * Replays a log of strace: sets the machine up, runs the crew, and says what came of it.
 *
 * @module
 */
import { readFileSync } from 'node:fs';

import { parkAsync, read, readOnce, write, writeAddress, writeOnce } from '#memory';

import { EXIT_USAGE, FaultlineError } from '../../base/bug.js';
import { errnoName } from '../../base/errno.js';
import { reasonOf } from '../../base/reason.js';
import { createSvmDevice, destroySvmDevice } from '../../drivers/svm/device.js';
import { svmDriver } from '../../drivers/svm/driver.js';
import { svmTotals } from '../../drivers/svm/stats.js';
import { type SvmDevice, SvmEngine, SvmRequest } from '../../drivers/svm/types.js';
import { HMM_PFN_REQ_FAULT, HMM_PFN_REQ_WRITE, HmmPfn, HmmRange } from '../../hmm/types.js';
import { Crew, type CrewMember } from '../../host/crew.js';
import type { Cpu } from '../../machine/cpu.js';
import { CPUS_MAX } from '../../machine/limits.js';
import { member } from '../../memory/layout.js';
import type { AtomicsForm } from '../../memory/native.js';
import { createFile, fput } from '../../mm/file.js';
import type { File } from '../../mm/types.js';
import { bootWorkloadMachine } from '../boot.js';
import { type Latencies, latenciesOf } from '../histogram.js';
import { assertNoLeak, assertNoWarning } from '../leak.js';
import { type LoadedDriver, stallOption } from '../measure.js';
import { outOfMemory, SetupMemory } from '../setup-memory.js';
import {
  type EncodedPlan,
  encodePlan,
  field,
  OPCODES,
  ROW_EXPECTED,
  ROW_LINE,
  ROW_OPCODE,
} from './encode.js';
import type { OperationKind } from './operations.js';
import { parseStrace } from './parse.js';
import { leaveMm, type ReplayWorld } from './perform.js';
import { planStrace, type StracePlan } from './plan.js';
import type { ReplayCpuArgs } from './replay-cpu.js';
import { type Pattern, REPLAY_WINDOW_PAGES, type ReplayDeviceArgs } from './replay-device.js';
import {
  DIFFERENCES_MAX,
  differencesOf,
  mmAt,
  mmTaskCount,
  ReplayDifference,
  ReplayResult,
  ReplayState,
  setWord,
} from './replay-state.js';
import type { SkippedCall } from './sweep.js';

/** How a log is replayed. */
export interface ReplayOptions {
  /** Threads that fault for the devices while the programs run; dealt out among the devices. */
  readonly faultThreads: number;
  /** Devices, each of which knows every address space. */
  readonly devices: number;
  readonly pattern: Pattern;
  /** How many times as fast as in the log; 0 = as fast as it can. */
  readonly speed: number;
  /** Of the devices' choices; 1 to 2^31 - 1. */
  readonly seed: number;
  readonly atomics: AtomicsForm;
  readonly driver?: LoadedDriver;
  /** A CPU that gets nowhere for so long ends the run as a failure. Unit: milliseconds. */
  readonly stallMs?: number;
  /** Ends the replay; what has been replayed is reported. */
  readonly signal?: AbortSignal;
  /** Called now and then with the share of operations performed, 0 to 1. */
  readonly onProgress?: (done: number) => void;
}

export interface CallCount {
  readonly name: string;
  readonly count: number;
}

/** A call that did not end as in the log, though the log decides how it ends. */
export interface OutcomeDifference {
  /** Where the call began in the log, from 1. */
  readonly line: number;
  readonly call: string;
  /** A value, an address in hexadecimal, or an error: `-ENOMEM`. */
  readonly logged: string;
  readonly emulated: string;
  /** Why the log's outcome contradicts the rest of the log, if it does. */
  readonly unexplained?: string;
}

/** What came of a replay. */
export interface ReplayReport {
  readonly file: string;
  readonly tasks: number;
  readonly processes: number;
  readonly addressSpaces: number;
  readonly cpus: number;
  /** Calls performed. */
  readonly replayed: number;
  /** … by the call's name. */
  readonly byKind: Readonly<Record<string, number>>;
  /** Calls on memory that are not emulated: `shmat`, `madvise(MADV_REMOVE)`. */
  readonly notEmulated: readonly CallCount[];
  /** Calls in the log that are no calls on memory. */
  readonly unknownCalls: readonly CallCount[];
  /** Calls that were left out, and why. */
  readonly skipped: StracePlan['skipped'];
  /**
   * Calls that failed for a reason outside the log, such as a limit. They are replayed, and that they can
   * end otherwise there is no difference.
   */
  readonly unexplained: readonly SkippedCall[];
  /** In the order of lines; the first 4096. */
  readonly outcomeDifferences: readonly OutcomeDifference[];
  /** All of them, those that were not kept included. */
  readonly outcomeDifferenceCount: number;
  /** Callbacks of the devices' drivers. */
  readonly invalidations: number;
  readonly invalidationsByEvent: Readonly<Record<string, number>>;
  readonly pagesInvalidated: number;
  readonly deviceFaults: number;
  /** Faults that had to fail: the memory was gone, or not what the device wanted. */
  readonly deviceFaultsRefused: number;
  readonly retries: number;
  readonly deviceAccesses: number;
  /** Device accesses through a mapping whose invalidation was over; must be 0. */
  readonly staleAccesses: number;
  /** Of the calls, and of the device faults. */
  readonly call: Latencies;
  readonly fault: Latencies;
  /** How long the replay took, and how long the log is. */
  readonly seconds: number;
  readonly recordedSeconds: number;
  readonly interrupted: boolean;
}

/** Physical memory of the machine that programs are replayed on. Unit: bytes. */
const RAM_BYTES = 1 << 30;
const POLL_MS = 100;

/**
 * What a replay of the log in a file will do.
 * @throws FaultlineError naming file and line if it cannot be read or understood
 */
export function planReplay(path: string): StracePlan {
  return planStrace(parseStrace(readLog(path), path));
}

/** Boots, replays and takes down. @throws MachineFailure, FaultlineError */
export async function replayStrace(
  plan: StracePlan,
  options: ReplayOptions,
): Promise<ReplayReport> {
  const slots = plan.slots.length;
  const cpus = slots + options.faultThreads;
  if (cpus > CPUS_MAX) {
    throw bad(
      `${plan.file}: ${slots} threads at once and ${options.faultThreads} device threads are more than ${CPUS_MAX}`,
    );
  }
  const { machine, opsModules, framesBefore } = await bootWorkloadMachine(
    { cpus, ramBytes: RAM_BYTES, atomics: options.atomics },
    options.driver?.url,
  );
  const boot = machine.cpu;
  const replay = new Replay(boot, plan, options);
  const crew = new Crew(machine, replay.members(), {
    opsModules,
    watchdog: { countsProgress: true, ...stallOption(options) },
    ...(options.signal && { signal: options.signal }),
  });
  try {
    await crew.ready();
    replay.begin();
    crew.start();
    await replay.watch(crew);
    await crew.results();
    assertNoWarning(boot);
    if (crew.isHalted) return replay.report(); // interrupted in the middle of something
    const report = replay.finish();
    assertNoLeak(boot, framesBefore);
    return report;
  } catch (error) {
    await crew.abandon();
    throw error;
  }
}

function readLog(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch (error) {
    throw bad(`${path}: cannot be read: ${reasonOf(error)}`);
  }
}

function bad(message: string): FaultlineError {
  return new FaultlineError('FAULTLINE_BAD_TRACE', message, EXIT_USAGE);
}

class Replay {
  readonly #boot: Cpu;
  readonly #plan: StracePlan;
  readonly #options: ReplayOptions;
  readonly #memory = new SetupMemory();
  readonly #world: ReplayWorld;
  readonly #files: readonly File[];
  readonly #replayers: ReplayCpuArgs[] = [];
  readonly #deviceThreads: ReplayDeviceArgs[] = [];
  #startedMs = 0;
  #endedMs = 0;

  constructor(boot: Cpu, plan: StracePlan, options: ReplayOptions) {
    this.#boot = boot;
    this.#plan = plan;
    this.#options = options;
    const encoded = encodePlan(plan);
    const driver = options.driver?.driver ?? svmDriver;
    const devices = Array.from({ length: options.devices }, (_, id) =>
      createSvmDevice(boot, id, driver, REPLAY_WINDOW_PAGES),
    );
    this.#files = plan.files.map(({ sizeBytes }, index) => createFile(boot, sizeBytes, index + 1));
    if (this.#files.some((file) => file === 0)) throw outOfMemory();
    this.#world = { state: this.#newState(), plan: encoded, devices };
    for (let slot = 0; slot < plan.slots.length; slot++) {
      this.#replayers.push({
        ...this.#world,
        result: this.#memory.make(boot, ReplayResult),
        pace: options.speed === 0 ? 0 : 1 / options.speed,
        firstRow: encoded.slots[2 * slot] ?? 0,
        rowCount: encoded.slots[2 * slot + 1] ?? 0,
      });
    }
    for (let i = 0; i < options.faultThreads; i++) {
      const device = devices[i % devices.length];
      if (device !== undefined) this.#deviceThreads.push(this.#newDeviceThread(device));
    }
  }

  #newState(): ReplayState {
    const boot = this.#boot;
    const memory = this.#memory;
    const state = memory.make(boot, ReplayState);
    const { mms, tasks } = this.#plan.totals;
    write(boot, state, ReplayState.mms, memory.words(boot, Math.max(1, mms)));
    write(boot, state, ReplayState.mmTasks, memory.words(boot, Math.max(1, mms)));
    write(boot, state, ReplayState.tasksDone, memory.words(boot, Math.max(1, tasks)));
    const files = memory.words(boot, Math.max(1, this.#files.length));
    this.#files.forEach((file, index) => {
      setWord(boot, files, index, file);
    });
    write(boot, state, ReplayState.files, files);
    const differences = memory.words(boot, DIFFERENCES_MAX * ReplayDifference.words);
    write(boot, state, ReplayState.differences, differences);
    return state;
  }

  #newDeviceThread(device: SvmDevice): ReplayDeviceArgs {
    const boot = this.#boot;
    const memory = this.#memory;
    const request = memory.make(boot, SvmRequest);
    const range = member(request, SvmRequest.range);
    write(boot, range, HmmRange.pfns, memory.words(boot, REPLAY_WINDOW_PAGES * HmmPfn.words));
    write(boot, range, HmmRange.pfnFlagsMask, HMM_PFN_REQ_FAULT | HMM_PFN_REQ_WRITE);
    write(boot, request, SvmRequest.requests, memory.words(boot, REPLAY_WINDOW_PAGES));
    const { pattern, seed } = this.#options;
    return {
      state: this.#world.state,
      result: memory.make(boot, ReplayResult),
      engine: memory.make(boot, SvmEngine),
      device,
      request,
      pattern,
      seed,
    };
  }

  /** The crew: a CPU for each slot, then the device threads. */
  members(): CrewMember[] {
    const tids = this.#plan.slots.map((tasks) =>
      tasks.map((task) => this.#plan.tasks[task]?.tid ?? 0).join(', '),
    );
    return [
      ...this.#replayers.map((args, slot) => ({
        name: `thread ${tids[slot] ?? ''}`,
        module: 'faultline:strace-cpu',
        entry: 'replayCpu',
        args,
      })),
      ...this.#deviceThreads.map((args, index) => ({
        name: `device thread ${index}`,
        module: 'faultline:strace-device',
        entry: 'replayDevice',
        args,
      })),
    ];
  }

  /** The log's time begins now. */
  begin(): void {
    this.#startedMs = performance.now();
    writeAddress(this.#boot, this.#world.state, ReplayState.startMs, performance.now());
  }

  /** Waits for the replaying CPUs, or for the user's patience to end; then stops the device threads. */
  async watch(crew: Crew): Promise<void> {
    const boot = this.#boot;
    const { state } = this.#world;
    const { signal, onProgress } = this.#options;
    for (;;) {
      const finished = readOnce(boot, state, ReplayState.finishedCpus);
      if (finished === this.#replayers.length || crew.isHalted) break;
      if (signal?.aborted === true) writeOnce(boot, state, ReplayState.stop, 1);
      onProgress?.(this.#done());
      await Promise.race([
        parkAsync(boot, state, ReplayState.finishedCpus, finished, POLL_MS),
        crew.halted,
      ]);
    }
    this.#endedMs = performance.now();
    writeOnce(boot, state, ReplayState.devicesStop, 1);
  }

  /** Share of the operations that have been performed. */
  #done(): number {
    const performed = this.#replayers.reduce(
      (sum, { result }) => sum + readOnce(this.#boot, result, ReplayResult.performed),
      0,
    );
    return performed / Math.max(1, this.#plan.totals.operations);
  }

  /** Takes everything down and reports. */
  finish(): ReplayReport {
    const boot = this.#boot;
    const { devices } = this.#world;
    this.#endAddressSpaces();
    const report = this.report();
    for (const device of devices) destroySvmDevice(boot, device);
    for (const file of this.#files) fput(boot, file);
    this.#memory.free(boot);
    return report;
  }

  /** Ends what an interrupted replay has left. */
  #endAddressSpaces(): void {
    const { state } = this.#world;
    for (let index = 0; index < this.#plan.totals.mms; index++) {
      if (mmAt(this.#boot, state, index) === 0) continue;
      for (let left = mmTaskCount(this.#boot, state, index); left > 0; left--) {
        leaveMm(this.#boot, this.#world, index);
      }
    }
  }

  /** What has come of it; nobody may be running. */
  report(): ReplayReport {
    const boot = this.#boot;
    const totals = svmTotals(boot);
    const plan = this.#plan;
    const { state } = this.#world;
    const sumOf = (args: readonly { result: ReplayResult }[], counter: Counter): number =>
      args.reduce((sum, { result }) => sum + read(boot, result, counter), 0);
    const latencies = (args: readonly { result: ReplayResult }[]): Latencies =>
      latenciesOf(
        boot,
        args.map(({ result }) => member(result, ReplayResult.latencies)),
      );
    const performed = this.#performedCalls();
    return {
      file: plan.file,
      tasks: plan.totals.tasks,
      processes: plan.totals.processes,
      addressSpaces: plan.totals.mms,
      cpus: this.#replayers.length,
      replayed: performed.length,
      byKind: countByKind(performed),
      notEmulated: countsOf(plan.totals.notEmulated),
      unknownCalls: countsOf(plan.totals.unknownCalls),
      skipped: plan.skipped,
      unexplained: plan.unexplained
        .filter(({ isOutside }) => isOutside)
        .map(({ line, name, reason }) => ({ line, name, reason })),
      outcomeDifferences: this.#differences(),
      outcomeDifferenceCount: readOnce(boot, state, ReplayState.differenceCount),
      invalidations: totals.invalidations,
      invalidationsByEvent: totals.invalidationsByEvent,
      pagesInvalidated: totals.pagesInvalidated,
      deviceFaults: sumOf(this.#deviceThreads, ReplayResult.faults),
      deviceFaultsRefused: sumOf(this.#deviceThreads, ReplayResult.refused),
      retries: totals.retries,
      deviceAccesses: sumOf(this.#deviceThreads, ReplayResult.accesses),
      staleAccesses: totals.staleAccesses,
      call: latencies(this.#replayers),
      fault: latencies(this.#deviceThreads),
      seconds: (this.#endedMs - this.#startedMs) / 1000,
      recordedSeconds: plan.totals.durationMs / 1000,
      interrupted:
        readOnce(boot, state, ReplayState.stop) !== 0 ||
        readOnce(boot, state, ReplayState.finishedCpus) < this.#replayers.length,
    };
  }

  /** Operations that have been performed and stand for calls of the log. */
  #performedCalls(): OperationKind[] {
    const { plan } = this.#world;
    return this.#replayers.flatMap(({ result, firstRow }) => {
      const performed = read(this.#boot, result, ReplayResult.performed);
      const kinds = Array.from({ length: performed }, (_, index) => kindOf(plan, firstRow + index));
      return kinds.filter((kind) => kind !== 'exec' && kind !== 'exit');
    });
  }

  #differences(): OutcomeDifference[] {
    const { state, plan } = this.#world;
    const reasons = new Map(this.#plan.unexplained.map(({ line, reason }) => [line, reason]));
    const found = differencesOf(this.#boot, state).map(({ row, emulated }): OutcomeDifference => {
      const line = field(plan, row, ROW_LINE);
      const call = kindOf(plan, row);
      const unexplained = reasons.get(line);
      return {
        line,
        call,
        logged: formatOutcome(call, field(plan, row, ROW_EXPECTED)),
        emulated: formatOutcome(call, emulated),
        ...(unexplained !== undefined && { unexplained }),
      };
    });
    return found.sort((a, b) => a.line - b.line);
  }
}

type Counter = typeof ReplayResult.performed;

const KINDS = Object.keys(OPCODES) as OperationKind[];

function kindOf(plan: EncodedPlan, row: number): OperationKind {
  return KINDS[field(plan, row, ROW_OPCODE)] ?? 'exit';
}

/** As strace prints it: an address, an error, a number. */
function formatOutcome(kind: OperationKind, value: number): string {
  if (value < 0) return errnoName(value);
  const isAddress = kind === 'mmap' || kind === 'mremap' || kind === 'brk';
  return isAddress ? `0x${value.toString(16)}` : String(value);
}

function countsOf(counts: Readonly<Record<string, number>>): CallCount[] {
  return Object.entries(counts).map(([name, count]) => ({ name, count }));
}

function countByKind(kinds: readonly OperationKind[]): Record<string, number> {
  const counts: Record<string, number> = {};
  for (const kind of kinds) counts[kind] = (counts[kind] ?? 0) + 1;
  return counts;
}
