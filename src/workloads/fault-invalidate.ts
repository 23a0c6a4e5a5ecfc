/**
 * Workload `fault-invalidate`: device faults against invalidations, and nothing else.
 *
 * One arena of private anonymous memory, all of it present; one device context over it for each device.
 *
 *   a device-fault thread  maps a range of pages into its device: read_begin, mmap lock, hmm_range_fault,
 *                          unlock, driver's lock, read_retry, map, unlock
 *   an invalidator         hides a range from the hardware and shows it again, as a NUMA hint does: mmap
 *                          lock, range start (the callbacks take the drivers' locks and unmap), page table
 *                          lock, hide, range end, show, unlock
 *
 * No frame changes hands, so that what is measured is the protocol.
 *
 * @module
 */
import { clockMs, read, write, writeAddress } from '#memory';

import { bug } from '../base/bug.js';
import { errnoName } from '../base/errno.js';
import { PAGE_SIZE } from '../base/units.js';
import { seedFor, xorshift } from '../base/xorshift.js';
import { driverOf } from '../drivers/svm/device.js';
import type { SvmDriver } from '../drivers/svm/driver.js';
import { svmStats, type SvmTotals, svmTotals } from '../drivers/svm/stats.js';
import { SvmContext, type SvmDevice, SvmRequest, SvmStats } from '../drivers/svm/types.js';
import { HMM_PFN_REQ_FAULT, HMM_PFN_REQ_WRITE, HmmPfn, HmmRange } from '../hmm/types.js';
import type { Cpu } from '../machine/cpu.js';
import { noteProgress } from '../machine/sched.js';
import { stackPop, stackPush } from '../machine/stack.js';
import { member } from '../memory/layout.js';
import { mmput } from '../mm/exit.js';
import { mmapReadLock, mmapReadUnlock } from '../mm/mmap-lock.js';
import { changeProtNuma, numaRebuildMapping } from '../mm/numa-hint.js';
import type { MmStruct } from '../mm/types.js';
import { MMU_NOTIFY_PROTECTION_VMA, mmuNotifierRangeInit } from '../notifier/mmu-notifier-range.js';
import { MmuNotifierRange } from '../notifier/types.js';
import { type Area, areaOf, choosePage } from './area.js';
import { ARENA_BASE, populatedArena } from './arena.js';
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
import { SetupMemory } from './setup-memory.js';
import type { PointConfig, PreparedWorkload, Workload, WorkloadMember } from './workload.js';

/** The end of the round is looked for at every eighth operation. */
const STOP_CHECK_MASK = 7;

interface MemberArgs {
  readonly rounds: Rounds;
  readonly result: MemberResult;
  readonly area: Area;
  readonly seed: number;
  readonly sampleEvery: number;
}

interface FaulterArgs extends MemberArgs {
  readonly device: SvmDevice;
  readonly context: SvmContext;
  readonly request: SvmRequest;
}

interface InvalidatorArgs extends MemberArgs {
  readonly mm: MmStruct;
}

/** Program of a device-fault thread. */
export function faulter(cpu: Cpu, args: FaulterArgs): void {
  let state = seedFor(args.seed, cpu.id);
  for (let round = 0; awaitRound(cpu, args.rounds, round); round++) {
    state = faultRound(cpu, args, state);
  }
}

function faultRound(cpu: Cpu, args: FaulterArgs, seed: number): number {
  const { rounds, result, area, sampleEvery, context, request } = args;
  const driver = driverOf(cpu, args.device);
  const range = member(request, SvmRequest.range);
  const latencies = memberLatencies(result);
  const stats = svmStats(cpu);
  const retriesBefore = read(cpu, stats, SvmStats.retries);
  const bytes = area.rangePages * PAGE_SIZE;
  let state = seed;
  let operations = 0;
  const started = clockMs(cpu);
  while ((operations & STOP_CHECK_MASK) !== 0 || roundGoesOn(cpu, rounds)) {
    state = xorshift(state);
    const start = ARENA_BASE + choosePage(area, state) * PAGE_SIZE;
    writeAddress(cpu, range, HmmRange.start, start);
    writeAddress(cpu, range, HmmRange.end, start + bytes);
    const isTimed = sampleEvery !== 0 && operations % sampleEvery === 0;
    const from = isTimed ? clockMs(cpu) : 0;
    const error = driver.fault(cpu, context, request);
    if (isTimed) {
      histogramRecord(cpu, latencies, (clockMs(cpu) - from) * NS_PER_MS);
      noteProgress(cpu, operations);
    }
    if (error !== 0) bug(`a device fault in the arena failed with ${errnoName(error)}`);
    operations++;
  }
  const retries = read(cpu, stats, SvmStats.retries) - retriesBefore;
  const elapsedMs = clockMs(cpu) - started;
  finishRound(cpu, rounds, result, { operations, retries, accesses: 0, elapsedMs });
  return state;
}

/** Program of an invalidator. */
export function invalidator(cpu: Cpu, args: InvalidatorArgs): void {
  let state = seedFor(args.seed, cpu.id);
  const range = stackPush(cpu, MmuNotifierRange);
  mmuNotifierRangeInit(cpu, range, MMU_NOTIFY_PROTECTION_VMA, args.mm, 0, 0);
  for (let round = 0; awaitRound(cpu, args.rounds, round); round++) {
    state = invalidateRound(cpu, args, range, state);
  }
  stackPop(cpu, range);
}

function invalidateRound(
  cpu: Cpu,
  args: InvalidatorArgs,
  range: MmuNotifierRange,
  seed: number,
): number {
  const { rounds, result, area, sampleEvery, mm } = args;
  const latencies = memberLatencies(result);
  const bytes = area.rangePages * PAGE_SIZE;
  let state = seed;
  let operations = 0;
  const started = clockMs(cpu);
  while ((operations & STOP_CHECK_MASK) !== 0 || roundGoesOn(cpu, rounds)) {
    state = xorshift(state);
    const start = ARENA_BASE + choosePage(area, state) * PAGE_SIZE;
    writeAddress(cpu, range, MmuNotifierRange.start, start);
    writeAddress(cpu, range, MmuNotifierRange.last, start + bytes - 1);
    writeAddress(cpu, range, MmuNotifierRange.end, start + bytes);
    const isTimed = sampleEvery !== 0 && operations % sampleEvery === 0;
    const from = isTimed ? clockMs(cpu) : 0;
    mmapReadLock(cpu, mm);
    changeProtNuma(cpu, mm, range);
    numaRebuildMapping(cpu, mm, range);
    mmapReadUnlock(cpu, mm);
    if (isTimed) {
      histogramRecord(cpu, latencies, (clockMs(cpu) - from) * NS_PER_MS);
      noteProgress(cpu, operations);
    }
    operations++;
  }
  const elapsedMs = clockMs(cpu) - started;
  finishRound(cpu, rounds, result, { operations, retries: 0, accesses: 0, elapsedMs });
  return state;
}

// --- setting up, on the boot CPU ---

/** A request for the whole of a range, for writing. */
function newRequest(cpu: Cpu, memory: SetupMemory, context: SvmContext, pages: number): SvmRequest {
  const request = memory.make(cpu, SvmRequest);
  const range = member(request, SvmRequest.range);
  write(cpu, range, HmmRange.notifier, member(context, SvmContext.interval));
  write(cpu, range, HmmRange.pfns, memory.words(cpu, pages * HmmPfn.words));
  write(cpu, range, HmmRange.defaultFlags, HMM_PFN_REQ_FAULT | HMM_PFN_REQ_WRITE);
  return request;
}

function prepare(boot: Cpu, config: PointConfig, driver: SvmDriver): PreparedWorkload {
  const memory = new SetupMemory();
  const mm = populatedArena(boot, config.arenaPages);
  const rounds = memory.make(boot, Rounds);
  const devices = openDevices(boot, config, driver, mm);
  const members: WorkloadMember[] = [];
  const threads = config.faultThreads + config.invalidators;
  const shared = (thread: number): MemberArgs => ({
    rounds,
    result: memory.make(boot, MemberResult),
    area: areaOf(config, thread, threads),
    seed: config.seed,
    sampleEvery: config.sampleEvery,
  });
  for (let i = 0; i < config.faultThreads; i++) {
    const served = devices[i % devices.length];
    if (served === undefined) continue;
    const request = newRequest(boot, memory, served.context, config.rangePages);
    const args: FaulterArgs = { ...shared(i), ...served, request };
    members.push({
      name: `fault thread ${i}`,
      role: 'fault',
      entry: 'faulter',
      args,
      result: args.result,
    });
  }
  for (let i = 0; i < config.invalidators; i++) {
    const args: InvalidatorArgs = { ...shared(config.faultThreads + i), mm };
    members.push({
      name: `invalidator ${i}`,
      role: 'invalidate',
      entry: 'invalidator',
      args,
      result: args.result,
    });
  }
  const finish = (): SvmTotals => {
    const totals = svmTotals(boot);
    closeDevices(boot, devices);
    mmput(boot, mm);
    memory.free(boot);
    return totals;
  };
  return { members, rounds, stop: () => undefined, finish };
}

export const faultInvalidate: Workload = {
  name: 'fault-invalidate',
  description: 'device faults against invalidations of present pages: the bare protocol',
  module: 'faultline:fault-invalidate',
  ramBytes: (config) => (config.arenaPages * 2 + 4096) * PAGE_SIZE,
  cpus: (config) => config.faultThreads + config.invalidators,
  prepare,
};
