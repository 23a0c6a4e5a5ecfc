/**
 * Workload `svm`: programs touch and change their mappings while a device computes on the same memory.
 *
 *   a CPU             writes to random pages; after TOUCHES_PER_CHANGE of them it changes a range of its
 *                     mappings: MADV_DONTNEED, munmap and mmap again, or mprotect to read-only and back
 *   an engine         (one for each device) loads, stores and adds at random pages through the device's
 *                     page table; what is not there it faults for, and waits
 *   a service thread  takes faults out of the device's ring and maps what is asked for
 *
 * Frames are freed and reused all the time: an access through a mapping that should be gone is seen by
 * the frame's generation and counted.
 *
 * @module
 */
import { clockMs, writeOnce } from '#memory';

import { PAGE_SIZE } from '../base/units.js';
import { pick, scramble, seedFor, xorshift } from '../base/xorshift.js';
import type { SvmDriver } from '../drivers/svm/driver.js';
import {
  attachEngine,
  ENGINE_ADD,
  ENGINE_LOAD,
  ENGINE_STORE,
  engineAccess,
  initEngine,
  tryEngineAccess,
} from '../drivers/svm/engine.js';
import { wakeService } from '../drivers/svm/fault-buffer.js';
import {
  createFaultService,
  destroyFaultService,
  serveFaults,
} from '../drivers/svm/fault-service.js';
import { type SvmTotals, svmTotals } from '../drivers/svm/stats.js';
import { type SvmContext, SvmDevice, SvmEngine } from '../drivers/svm/types.js';
import type { Cpu } from '../machine/cpu.js';
import { noteProgress } from '../machine/sched.js';
import { NULL, type Va } from '../memory/layout.js';
import { storeWord } from '../mm/access.js';
import { mmput } from '../mm/exit.js';
import { madvise } from '../mm/madvise.js';
import { useMm } from '../mm/mm-struct.js';
import { mmap } from '../mm/mmap.js';
import { mprotect } from '../mm/mprotect.js';
import { munmap } from '../mm/munmap.js';
import type { MmStruct } from '../mm/types.js';
import {
  MADV_DONTNEED,
  MAP_ANONYMOUS,
  MAP_FIXED,
  MAP_PRIVATE,
  PROT_READ,
  PROT_WRITE,
} from '../mm/uapi.js';
import { type Area, areaOf, choosePage } from './area.js';
import { ARENA_BASE, emptyArena } from './arena.js';
import { closeDevices, openDevices } from './devices.js';
import { histogramRecord, NS_PER_MS } from './histogram.js';
import {
  awaitRound,
  finishRound,
  memberLatencies,
  MemberResult,
  roundGoesOn,
  Rounds,
} from './rounds.js';
import { outOfMemory, SetupMemory } from './setup-memory.js';
import type { PointConfig, PreparedWorkload, Workload, WorkloadMember } from './workload.js';

/** Pages a CPU writes to between two changes of its mappings. */
const TOUCHES_PER_CHANGE = 16;
/** Words of a page that accesses go to; few, so that they meet. */
const WORDS_TOUCHED = 16;

interface MemberArgs {
  readonly rounds: Rounds;
  readonly result: MemberResult;
  readonly area: Area;
  readonly seed: number;
  readonly mm: MmStruct;
}

interface EngineArgs extends MemberArgs {
  readonly context: SvmContext;
  readonly engine: SvmEngine;
}

interface ServiceArgs {
  readonly device: SvmDevice;
}

/** A word in one of the pages of a range that a random state chooses. */
export function chooseAddress(area: Area, state: number): Va {
  const detail = scramble(state); // what chooses the range must not choose the page in it, too
  const page = choosePage(area, state) + pick(detail, area.rangePages);
  return ARENA_BASE + page * PAGE_SIZE + 4 * pick(detail >>> 24, WORDS_TOUCHED);
}

const KINDS = [ENGINE_LOAD, ENGINE_LOAD, ENGINE_STORE, ENGINE_ADD] as const;

/** What an engine does there. */
export function chooseKind(state: number): number {
  return KINDS[scramble(state) >>> 30] ?? ENGINE_LOAD;
}

/** Program of a CPU. */
export function program(cpu: Cpu, args: MemberArgs): void {
  useMm(cpu, args.mm);
  let state = seedFor(args.seed, cpu.id);
  for (let round = 0; awaitRound(cpu, args.rounds, round); round++) {
    state = programRound(cpu, args, state);
  }
}

function programRound(cpu: Cpu, args: MemberArgs, seed: number): number {
  const { rounds, result, area, mm } = args;
  const latencies = memberLatencies(result);
  let state = seed;
  let operations = 0;
  let accesses = 0;
  const started = clockMs(cpu);
  while (roundGoesOn(cpu, rounds)) {
    for (let i = 0; i < TOUCHES_PER_CHANGE; i++) {
      state = xorshift(state);
      storeWord(cpu, mm, chooseAddress(area, state), state); // -EFAULT is the program's own fault
      accesses++;
    }
    state = xorshift(state);
    const start = ARENA_BASE + choosePage(area, state) * PAGE_SIZE;
    const from = clockMs(cpu);
    changeMapping(cpu, mm, start, area.rangePages * PAGE_SIZE, pick(state >>> 5, 3));
    histogramRecord(cpu, latencies, (clockMs(cpu) - from) * NS_PER_MS);
    operations++;
    noteProgress(cpu, operations);
  }
  const elapsedMs = clockMs(cpu) - started;
  finishRound(cpu, rounds, result, { operations, retries: 0, accesses, elapsedMs });
  return state;
}

function changeMapping(cpu: Cpu, mm: MmStruct, start: Va, length: number, kind: number): void {
  if (kind === 0) {
    madvise(cpu, mm, start, length, MADV_DONTNEED);
  } else if (kind === 1) {
    munmap(cpu, mm, start, length);
    const flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED;
    mmap(cpu, mm, start, length, PROT_READ | PROT_WRITE, flags, NULL, 0);
  } else {
    mprotect(cpu, mm, start, length, PROT_READ);
    mprotect(cpu, mm, start, length, PROT_READ | PROT_WRITE);
  }
}

/** Program of an engine. */
export function engine(cpu: Cpu, args: EngineArgs): void {
  initEngine(cpu, args.engine);
  attachEngine(cpu, args.context);
  let state = seedFor(args.seed, cpu.id);
  for (let round = 0; awaitRound(cpu, args.rounds, round); round++) {
    state = engineRound(cpu, args, state);
  }
}

function engineRound(cpu: Cpu, args: EngineArgs, seed: number): number {
  const { rounds, result, area, context } = args;
  const latencies = memberLatencies(result);
  let state = seed;
  let faults = 0;
  let accesses = 0;
  const started = clockMs(cpu);
  while (roundGoesOn(cpu, rounds)) {
    state = xorshift(state);
    const va = chooseAddress(area, state);
    const kind = chooseKind(state);
    accesses++;
    if (tryEngineAccess(cpu, context, va, kind, 1)) continue;
    const from = clockMs(cpu);
    engineAccess(cpu, context, args.engine, va, kind, 1); // refused: nothing is mapped there now
    histogramRecord(cpu, latencies, (clockMs(cpu) - from) * NS_PER_MS);
    faults++;
    noteProgress(cpu, accesses);
  }
  const elapsedMs = clockMs(cpu) - started;
  finishRound(cpu, rounds, result, { operations: faults, retries: 0, accesses, elapsedMs });
  return state;
}

/** Program of a service thread. */
export function service(cpu: Cpu, args: ServiceArgs): void {
  const faultService = createFaultService(cpu, args.device);
  if (faultService === undefined) throw outOfMemory();
  serveFaults(cpu, faultService);
  destroyFaultService(cpu, faultService);
}

// --- setting up, on the boot CPU ---

function prepare(boot: Cpu, config: PointConfig, driver: SvmDriver): PreparedWorkload {
  const memory = new SetupMemory();
  const mm = emptyArena(boot, config.arenaPages);
  const rounds = memory.make(boot, Rounds);
  const devices = openDevices(boot, config, driver, mm);
  const threads = config.invalidators + config.devices;
  const shared = (thread: number): MemberArgs => ({
    rounds,
    mm,
    result: memory.make(boot, MemberResult),
    area: areaOf(config, thread, threads),
    seed: config.seed,
  });
  const members: WorkloadMember[] = [];
  for (let i = 0; i < config.invalidators; i++) {
    const args = shared(i);
    members.push({
      name: `program ${i}`,
      role: 'invalidate',
      entry: 'program',
      args,
      result: args.result,
    });
  }
  devices.forEach(({ context }, i) => {
    const own = shared(config.invalidators + i);
    const args: EngineArgs = { ...own, context, engine: memory.make(boot, SvmEngine) };
    members.push({
      name: `engine ${i}`,
      role: 'fault',
      entry: 'engine',
      args,
      result: args.result,
    });
  });
  for (let i = 0; i < config.faultThreads; i++) {
    const args = { device: devices[i % devices.length]?.device };
    members.push({ name: `service ${i}`, role: 'service', entry: 'service', args, result: NULL });
  }
  const stop = (): void => {
    for (const { device } of devices) {
      writeOnce(boot, device, SvmDevice.stopping, 1);
      wakeService(boot, device);
    }
  };
  const finish = (): SvmTotals => {
    const totals = svmTotals(boot);
    closeDevices(boot, devices);
    mmput(boot, mm);
    memory.free(boot);
    return totals;
  };
  return { members, rounds, stop, finish };
}

export const svm: Workload = {
  name: 'svm',
  description: 'programs touch and change mappings while device engines run on them and fault',
  module: 'faultline:svm',
  ramBytes: (config) => (config.arenaPages * 2 + 16384) * PAGE_SIZE,
  cpus: (config) => config.invalidators + config.devices + config.faultThreads,
  prepare,
};
