/**
 * What is tortured: a target sets something up, and says what each member of a crew does to it.
 *
 * Protocol   setup, on the boot CPU, before anybody runs
 *            enter, step, step, …, leave, on each member's CPU; again after `shuffle` or `onoff`
 *            teardown, on the boot CPU, when all have left
 *            All of them run on workers of the checked build. Between two steps a member holds nothing: no lock,
 *            no reference, no section; what it keeps from step to step belongs to its own state, and leave
 *            gives that back. A step ends by itself, and blocks only in waits of the kernel's.
 *            What a target keeps is in the machine's memory, as everything that members share.
 *
 * @module
 */
import type { SvmDriver } from '../drivers/svm/driver.js';
import type { Cpu } from '../machine/cpu.js';
import type { TortureLock } from './lock.js';

/** How a run goes; the same for all its targets. Names are those of locktorture's parameters. */
export interface TortureConfig {
  /** CPUs, for targets whose members are not writers and readers. */
  readonly cpus: number;
  /** Devices, for targets that have any. */
  readonly devices: number;
  /** Writers, of targets that have any; -1: as many as there are CPUs, or half of them where there are readers. */
  readonly nwritersStress: number;
  /** Readers; -1: the other half. */
  readonly nreadersStress: number;
  /** A hold that is long, once in a while; 0 = none is. Unit: milliseconds. */
  readonly longHoldMs: number;
  /** How much random delay there is at marked points: 0 none, 1 rare, up to 9. */
  readonly noise: number;
  /** Of all random choices; 1 to 2^31 - 1. */
  readonly seed: number;
  /** A driver of the user's; undefined: the device's own. */
  readonly driver: SvmDriver | undefined;
  /** A lock of the user's, for the target `lock`. */
  readonly lock: TortureLock | undefined;
}

/** Faults are injected, delays made, things held for long: no rule may break. */
export const PHASE_SAFETY = 0;
/** No fault, no delay: everybody must get on. */
export const PHASE_LIVENESS = 1;

/** One member of the crew, as its worker has it. */
export interface TortureMember {
  /** Its place among the members: what it does, and its statistics. Changes with `shuffle`. */
  readonly index: number;
  readonly role: string;
  readonly config: TortureConfig;
  /** A random number below the bound. */
  random(bound: number): number;
  /** Counts an operation, by its index in the target's `operations`. */
  count(operation: number): void;
  /** The time, for the two below. Unit: nanoseconds. */
  now(): number;
  /** How long this member has waited to get in. Unit: nanoseconds. */
  waited(ns: number): void;
  /** How long it was inside. Unit: nanoseconds. */
  held(ns: number): void;
  /**
   * A rule is broken, as the target itself has seen: ends the run. `invariant` names the rule ('INV-1'),
   * `others` are the CPUs that took part besides this one.
   */
  fail(message: string, invariant?: string, others?: readonly number[]): never;
  /** A random delay, at a point where a window should be wide: none, mostly; now and then a long hold. */
  noise(cpu: Cpu): void;
  /** PHASE_*: with PHASE_LIVENESS nothing is made to fail. */
  phase(): number;
}

/** Something that is tortured. */
export interface TortureTarget {
  /** `rwsem`, `mm`, `percpu_ref`: what the command line calls it. */
  readonly name: string;
  /** What it is, in a line. */
  readonly title: string;
  /** What is counted, by index: 'write', 'read', 'mmap', … */
  readonly operations: readonly string[];
  /** Roles whose members serve the others (who runs work items): they go on until all others have left. */
  readonly services?: readonly string[];
  /** Planted mistakes by name (explore/mutants.ts) that a run of this target must find. */
  readonly busted?: readonly string[];
  /** Its share of a run's time, beside others of weight 1: one with many kinds of operations wants more. */
  readonly weight?: number;
  /** Physical memory it needs; by default 16 MiB. Unit: bytes. */
  ramBytes?(config: TortureConfig): number;
  /** Room for pages that are in no frame; by default none. Unit: bytes. */
  readonly swapBytes?: number;
  /** Frames in reserve, of a machine that reclaims; by default it does not. */
  readonly minFreeFrames?: number;
  /** What each member does, by the options: 'writer', 'reader', 'cpu', 'device', 'reclaim', … */
  roles(config: TortureConfig): readonly string[];
  /** On the boot CPU, before anybody runs; what it returns (a pointer) every member gets. */
  setup(cpu: Cpu, config: TortureConfig): number;
  /** In a member's worker, before its steps. */
  enter(cpu: Cpu, state: number, member: TortureMember): void;
  /** One operation of the member, chosen with member.random; counts itself with member.count. */
  step(cpu: Cpu, state: number, member: TortureMember): void;
  /** In a member's worker, after its steps: gives back what it keeps. */
  leave(cpu: Cpu, state: number, member: TortureMember): void;
  /** Ends what setup made. Everything must be back afterwards: the leak check comes after it. */
  teardown(cpu: Cpu, state: number): void;
}
