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
import type { Cpu } from '../machine/cpu.js';
import { lockReportTexts } from '../machine/lock-report.js';
import { warningTexts } from '../machine/warn.js';
import { mapStack } from './source-position.js';
import type { Death } from './worker.js';

/** Why a machine stopped. */
export type FailureKind = 'died' | 'deadlock' | 'stalled' | 'lost worker';

/** A run that ended before its time. The message is the whole report, its first line the summary. */
export class MachineFailure extends FaultlineError {
  /** What happened; `code` says the same for programs that know no types. */
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
  ownCode: readonly string[],
): MachineFailure {
  const stack = mapStack(death.stack);
  const snapshot = snapshotCpu(boot, death.cpu);
  const held = snapshot.held.map((lock) => lockName(boot, lock));
  const isOurs = (frame: string): boolean => ownCode.some((folder) => frame.includes(folder));
  const top = topFrame(stack);
  const isUsers = !isOurs(top);
  const where = isUsers ? `${functionOf(top)}${placeOf(top)}` : functionOf(top);
  const summary =
    `${nameOf(death.cpu)} died in ${where}: ${death.errorName}: ${death.message}` +
    ` (holds ${held.length === 0 ? 'no locks' : held.join(', ')})`;
  const details = [
    ...withoutCallers(stackLines(stack), isUsers ? isOurs : () => false),
    ...describeOthers(boot, snapshotCpus(boot), new Set([death.cpu]), nameOf),
    ...warningLines(boot),
  ];
  // a bug of the emulated kernel or of the user's module is a finding; any other error is our own fault
  const isFinding = death.errorName === 'KernelBug' || isUsers;
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

/** CPUs that sleep, with nobody left to wake them: who could is not recorded, or has finished. */
export function standstillFailure(
  boot: Cpu,
  asleep: readonly CpuSnapshot[],
  all: readonly CpuSnapshot[],
  nameOf: CpuNamer,
): MachineFailure {
  const names = asleep.map(({ cpu }) => nameOf(cpu)).join(', ');
  const summary = `deadlock: nobody is left to wake ${names}`;
  const details = [...describeOthers(boot, all, new Set(), nameOf), ...warningLines(boot)];
  return new MachineFailure('deadlock', summary, details, EXIT_VIOLATION);
}

/** A CPU that neither goes on nor is in a cycle. */
export function stallFailure(
  boot: Cpu,
  stalled: CpuSnapshot,
  all: readonly CpuSnapshot[],
  stalledMs: number,
  nameOf: CpuNamer,
): MachineFailure {
  const seconds = (stalledMs / 1000).toFixed(1);
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

/** An error on a worker thread that has no program to run, or has returned from it. */
export function strayErrorFailure(boot: Cpu, error: Error, nameOf: CpuNamer): MachineFailure {
  return new MachineFailure(
    'lost worker',
    `a worker thread failed outside its program: ${error.name}: ${error.message}`,
    describeOthers(boot, snapshotCpus(boot), new Set(), nameOf),
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
  return [
    ...warningTexts(boot).map((text) => `  warning: ${text}`),
    ...lockReports(boot).map((text) => `  ${text.replaceAll('\n', '\n  ')}`),
  ];
}

/** What lockdep found in a crew of the checked build, with its stacks in terms of the source. */
export function lockReports(boot: Cpu): string[] {
  return lockReportTexts(boot).map(mapStack);
}

/** The frames of a stack in terms of the source, without those that only show how a program is run. */
export function framesOf(stack: string): readonly string[] {
  const frames = stackLines(mapStack(stack)).filter(
    (frame) => !/\bat (bug|checkHalted) /.test(frame),
  );
  return withoutCallers(frames, () => false).map((frame) => frame.trim());
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
  return frames.find((line) => !/\bat (bug|sleepingInAtomic|mightSleep) /.test(line)) ?? '';
}

function functionOf(frame: string): string {
  const named = /\bat (?:async )?(?:Object\.)?([\w$.<>]+) \(/.exec(frame);
  return named?.[1] ?? 'an unnamed function';
}

/** Where that is: ` at /path/driver.mjs:12:7`, or nothing if it is unknown. */
function placeOf(frame: string): string {
  const place = /\(?((?:file:|\/)\S+:\d+:\d+)\)?$/.exec(frame)?.[1];
  return place === undefined ? '' : ` at ${place.replace(/^file:\/\//, '')}`;
}

/** Frames without the outermost ones that only show how a worker came to run its program. */
function withoutCallers(
  frames: readonly string[],
  isDull: (frame: string) => boolean,
): readonly string[] {
  const isCaller = (frame: string): boolean =>
    isDull(frame) || /\bat (?:async )?runWorker |[/\\]piscina[/\\]|\(node:/.test(frame);
  return frames.slice(0, frames.findLastIndex((frame) => !isCaller(frame)) + 1);
}
