/**
 * What a benchmark workload is: it sets a machine up, and names the programs its CPUs run.
 *
 * @module
 */
import type { SvmDriver } from '../drivers/svm/driver.js';
import type { SvmTotals } from '../drivers/svm/stats.js';
import type { Cpu } from '../machine/cpu.js';
import type { MemberResult, Rounds } from './rounds.js';

/** One configuration to be measured. */
export interface PointConfig {
  /** Threads that serve device faults. */
  readonly faultThreads: number;
  /** CPUs that invalidate. */
  readonly invalidators: number;
  /** Devices on the address space; fault threads are dealt out among them. */
  readonly devices: number;
  /** Pages of one operation. */
  readonly rangePages: number;
  /** Pages of the memory that all work on; at least rangePages for each thread. */
  readonly arenaPages: number;
  /** Share of operations that roam the whole arena; the others stay in the thread's own slice. 0 to 1. */
  readonly overlap: number;
  /** Of all random choices; 1 to 2^31 - 1. */
  readonly seed: number;
  /** Every how many operations one is timed; 0 = none. */
  readonly sampleEvery: number;
}

/**
 * What a member's operations are counted as; a `service` member serves the others, takes no part in
 * rounds, and has its work counted where it was asked for.
 */
export type Role = 'fault' | 'invalidate' | 'service';

/** One member of the crew that measures. */
export interface WorkloadMember {
  readonly name: string;
  readonly role: Role;
  /** The function of the workload's module that it runs. */
  readonly entry: string;
  readonly args: unknown;
  /** Where it leaves its counts; NULL for a service member. */
  readonly result: MemberResult;
}

/** A machine that is ready to be measured. */
export interface PreparedWorkload {
  readonly members: readonly WorkloadMember[];
  readonly rounds: Rounds;
  /** Tells service members to return; the others have done their last round. */
  readonly stop: () => void;
  /** Ends what `prepare` set up, when nobody else runs any more; returns what the devices counted. */
  readonly finish: () => SvmTotals;
}

/** Something that can be measured. */
export interface Workload {
  /** As the command line calls it. */
  readonly name: string;
  /** What it does, in a line. */
  readonly description: string;
  /** Name of the module with the programs. */
  readonly module: string;
  /** Physical memory it needs. Unit: bytes. */
  readonly ramBytes: (config: PointConfig) => number;
  /** How many CPUs it needs. */
  readonly cpus: (config: PointConfig) => number;
  /** Sets a booted machine up, on its boot CPU. @throws FaultlineError if its memory is too small */
  readonly prepare: (boot: Cpu, config: PointConfig, driver: SvmDriver) => PreparedWorkload;
}
