/**
 * What a run of a target has come to.
 *
 * @module
 */
import type { Latencies } from '../workloads/histogram.js';
import type { TortureConfig } from './target.js';

/** What saw a violation. */
export type Detector =
  | 'invariant' // a target's own check, or the kernel's
  | 'data race'
  | 'use after free'
  | 'lockdep'
  | 'wait-for graph'
  | 'watchdog' // nobody waits for whom, and yet somebody gets nowhere
  | 'leak'
  | 'content' // an outcome that must not be
  | 'warning'
  | 'lost worker'
  | 'exception';

/** A rule that was broken, in four parts: what, where each CPU was, who met whom, and how to see it again. */
export interface Violation {
  readonly detector: Detector;
  readonly what: string;
  /** `INV-1`; null if no numbered rule says so. */
  readonly invariant: string | null;
  readonly phase: 'safety' | 'liveness' | 'teardown';
  /** Since the start. Unit: seconds. */
  readonly atSeconds: number;
  /** One for each CPU. */
  readonly cpus: readonly CpuPlace[];
  /** What the next part is about: the two accesses, the cycle, the report of who has found it. */
  readonly evidenceTitle: string;
  readonly evidence: readonly string[];
  /** The line to paste. */
  readonly command: string;
}

/** Where a CPU was. */
export interface CpuPlace {
  readonly cpu: number;
  readonly name: string;
  /** What it did, waited for and held, in a line. */
  readonly doing: string;
  /** Innermost first; empty if it is not known. */
  readonly stack: readonly string[];
}

/** What one member did. */
export interface MemberResult {
  readonly name: string;
  readonly role: string;
  /** By the target's operations. */
  readonly operations: readonly number[];
  /** Of these, in the liveness phase. */
  readonly lively: number;
  /** Its longest time without an operation. Unit: microseconds. */
  readonly longestGapUs: number;
}

/** What the members of one role did. */
export interface RoleResult {
  readonly role: string;
  readonly members: number;
  /** Operations of all of them, of the busiest and of the laziest. */
  readonly total: number;
  readonly max: number;
  readonly min: number;
  /** 1: all did as much; 1/n: one did everything. */
  readonly jainIndex: number;
  /** The longest that one of them went without an operation. Unit: microseconds. */
  readonly longestStarvationUs: number;
  readonly wait: Latencies;
  readonly hold: Latencies;
}

/** What a run of a target has come to. */
export interface TargetResult {
  readonly target: string;
  /** Name of the mistake that was planted; null if none was. */
  readonly mutant: string | null;
  readonly verdict: 'SUCCESS' | 'FAILURE' | 'INTERRUPTED';
  readonly violation: Violation | null;
  readonly config: Omit<TortureConfig, 'driver' | 'lock'>;
  readonly roles: readonly RoleResult[];
  readonly members: readonly MemberResult[];
  /** By name, of all members. */
  readonly operations: Readonly<Record<string, number>>;
  /** Whether all was taken down and looked through for leaks. */
  readonly checkedForLeaks: boolean;
  readonly safetySeconds: number;
  readonly livenessSeconds: number;
  /** Times that all stood still, exchanged places, and that a CPU was taken offline. */
  readonly stutters: number;
  readonly shuffles: number;
  readonly offlines: number;
}

/** A run of several targets. */
export interface TortureReport {
  /** A run of what is broken: it must have been reported. */
  readonly canary: {
    readonly reported: boolean;
    readonly seconds: number;
    /** What its run said that is not what is wrong with it. */
    readonly instead?: string;
  };
  readonly results: readonly TargetResult[];
  readonly interrupted: boolean;
}
