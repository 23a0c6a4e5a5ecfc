/**
 * What is said when a machine stops by itself: what happened, and where each CPU was.
 *
 * @module
 */
import { EXIT_INTERNAL, EXIT_VIOLATION, FaultlineError } from '../base/bug.js';
import {
  type CpuSnapshot,
  describeCpu,
  lockName,
  snapshotCpu,
  snapshotCpus,
} from '../debug/wait-graph.js';
import { type Cpu } from '../machine/cpu.js';
import { warningTexts } from '../machine/warn.js';
import { type Death } from './worker.js';

/** Why a machine stopped. */
export type FailureKind = 'died' | 'deadlock' | 'stalled' | 'lost worker';

/** A run that ended before its time. The message is the whole report, its first line the summary. */
export class MachineFailure extends FaultlineError {
  readonly kind: FailureKind;

  constructor(kind: FailureKind, summary: string, details: readonly string[], exitCode: number) {
    super(
      `FAULTLINE_MACHINE_${kind.toUpperCase().replace(' ', '_')}`,
      [summary, ...details].join('\n'),
      exitCode,
    );
    this.kind = kind;
  }
}

/** Names the crew's members in reports: `cpu 1 (invalidator 0)`. */
export type CpuNamer = (cpu: number) => string;

/** An exception on one CPU. */
export function deathFailure(
  boot: Cpu,
  death: Death,
  nameOf: CpuNamer,
  ownCode: string,
): MachineFailure {
  const snapshot = snapshotCpu(boot, death.cpu);
  const held = snapshot.held.map((lock) => lockName(boot, lock));
  const where = functionOf(death.stack);
  const summary =
    `${nameOf(death.cpu)} died in ${where}: ${death.errorName}: ${death.message}` +
    ` (holds ${held.length === 0 ? 'no locks' : held.join(', ')})`;
  const details = [
    ...stackLines(death.stack),
    ...describeOthers(boot, snapshotCpus(boot), new Set([death.cpu]), nameOf),
    ...warningLines(boot),
  ];
  // a bug of the emulated kernel or of the user's module is a finding; any other error is our own fault
  const isFinding = death.errorName === 'KernelBug' || !topFrame(death.stack).includes(ownCode);
  return new MachineFailure('died', summary, details, isFinding ? EXIT_VIOLATION : EXIT_INTERNAL);
}

/** CPUs that wait for each other. */
export function deadlockFailure(
  boot: Cpu,
  cycle: readonly CpuSnapshot[],
  all: readonly CpuSnapshot[],
  nameOf: CpuNamer,
): MachineFailure {
  const chain = [...cycle, cycle[0]].flatMap((snapshot) =>
    snapshot ? [nameOf(snapshot.cpu)] : [],
  );
  const details = [
    ...cycle.map((snapshot) => `  ${nameOf(snapshot.cpu)} ${describeCpu(boot, snapshot, all)}`),
    ...describeOthers(boot, all, new Set(cycle.map((snapshot) => snapshot.cpu)), nameOf),
    ...warningLines(boot),
  ];
  return new MachineFailure('deadlock', `deadlock: ${chain.join(' -> ')}`, details, EXIT_VIOLATION);
}

/** A CPU that neither goes on nor is in a cycle. */
export function stallFailure(
  boot: Cpu,
  stalled: CpuSnapshot,
  all: readonly CpuSnapshot[],
  stalledMs: number,
  nameOf: CpuNamer,
): MachineFailure {
  const seconds = Math.round(stalledMs / 1000);
  const summary = `stalled: ${nameOf(stalled.cpu)} ${describeCpu(boot, stalled, all)}, for ${seconds} s`;
  const details = [
    ...describeOthers(boot, all, new Set([stalled.cpu]), nameOf),
    ...warningLines(boot),
  ];
  return new MachineFailure('stalled', summary, details, EXIT_VIOLATION);
}

/** A worker thread that ended without a word. */
export function lostWorkerFailure(
  boot: Cpu,
  cpu: number,
  reason: string,
  nameOf: CpuNamer,
): MachineFailure {
  const all = snapshotCpus(boot);
  const lost = snapshotCpu(boot, cpu);
  const summary = `${nameOf(cpu)} lost its worker thread: ${reason}; it ${describeCpu(boot, lost, all)}`;
  return new MachineFailure(
    'lost worker',
    summary,
    describeOthers(boot, all, new Set([cpu]), nameOf),
    EXIT_VIOLATION,
  );
}

function describeOthers(
  boot: Cpu,
  all: readonly CpuSnapshot[],
  except: ReadonlySet<number>,
  nameOf: CpuNamer,
): string[] {
  return all
    .filter((snapshot) => !except.has(snapshot.cpu))
    .map((snapshot) => `  ${nameOf(snapshot.cpu)} ${describeCpu(boot, snapshot, all)}`);
}

function warningLines(boot: Cpu): string[] {
  return warningTexts(boot).map((text) => `  warning: ${text}`);
}

function stackLines(stack: string): string[] {
  return stack
    .split('\n')
    .filter((line) => line.trimStart().startsWith('at '))
    .map((line) => `    ${line.trim()}`);
}

/** The innermost frame, without the helpers that only throw. */
function topFrame(stack: string): string {
  const frames = stackLines(stack);
  return frames.find((line) => !/\bat (bug|sleepingInAtomic) /.test(line)) ?? '';
}

function functionOf(stack: string): string {
  const named = /\bat (?:async )?([\w$.<>]+) \(/.exec(topFrame(stack));
  return named?.[1] ?? 'an unnamed function';
}
