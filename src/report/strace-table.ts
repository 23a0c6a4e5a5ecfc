/**
 * The report of a replay as people read it.
 *
 * @module
 */
import Table from 'cli-table3';

import { type ReplayReport } from '../workloads/strace/replay.js';
import { formatCount, formatNs, formatSeconds } from './format.js';

/** Differences and skipped calls shown; all are in the JSON. */
const SHOWN_MAX = 20;

/** Everything but the environment. */
export function straceReport(report: ReplayReport, color: boolean): string {
  return [
    summary(report),
    callTable(report, color),
    eventTable(report, color),
    deviceLines(report),
    ...listed(
      'calls that are no calls on memory',
      report.unknownCalls.map(({ name, count }) => `${name} ${count}`),
    ),
    ...listed(
      'left out',
      report.skipped.map(({ line, name, reason }) => `line ${line}: ${name} ${reason}`),
    ),
    ...differences(report),
  ].join('\n');
}

function summary(report: ReplayReport): string {
  const { file, processes, tasks, addressSpaces, cpus, replayed, seconds } = report;
  return (
    `${file}: ${processes} processes, ${tasks} threads, ${addressSpaces} address spaces on ${cpus} CPUs; ` +
    `${replayed} calls in ${formatSeconds(seconds)}`
  );
}

function newTable(head: string[], color: boolean): InstanceType<typeof Table> {
  return new Table({
    head,
    colAligns: ['left', ...head.slice(1).map(() => 'right' as const)],
    style: { head: color ? ['bold'] : [], border: color ? ['grey'] : [], compact: true },
  });
}

function callTable({ byKind }: ReplayReport, color: boolean): string {
  const table = newTable(['call', 'replayed'], color);
  for (const [kind, count] of Object.entries(byKind).sort(([, a], [, b]) => b - a)) {
    table.push([kind, String(count)]);
  }
  return table.toString();
}

function eventTable({ invalidationsByEvent }: ReplayReport, color: boolean): string {
  const table = newTable(['invalidation', 'count'], color);
  for (const [event, count] of Object.entries(invalidationsByEvent)) {
    if (count > 0) table.push([event, String(count)]);
  }
  return table.toString();
}

function deviceLines(report: ReplayReport): string {
  const { call, fault } = report;
  return [
    `pages invalidated   ${formatCount(report.pagesInvalidated)}`,
    `device faults       ${formatCount(report.deviceFaults)} (${formatCount(report.deviceFaultsRefused)} refused, ${formatCount(report.retries)} retries)`,
    `device accesses     ${formatCount(report.deviceAccesses)}, of which stale: ${report.staleAccesses}`,
    `a call took         ${formatNs(call.p50Ns)} (p50), ${formatNs(call.p99Ns)} (p99), ${formatNs(call.maxNs)} (max)`,
    `a device fault took ${formatNs(fault.p50Ns)} (p50), ${formatNs(fault.p99Ns)} (p99), ${formatNs(fault.maxNs)} (max)`,
  ].join('\n');
}

function listed(title: string, lines: readonly string[]): string[] {
  if (lines.length === 0) return [];
  const more = lines.length - SHOWN_MAX;
  const rest = more > 0 ? [`  … and ${more} more`] : [];
  return [`${title}:`, ...lines.slice(0, SHOWN_MAX).map((line) => `  ${line}`), ...rest];
}

function differences(report: ReplayReport): string[] {
  if (report.outcomeDifferenceCount === 0) return ['every call ended as in the log'];
  const lines = report.outcomeDifferences.map(({ line, call, logged, emulated, unexplained }) => {
    const why = unexplained === undefined ? '' : ` (the log: ${unexplained})`;
    return `${report.file}:${line}: ${call} gave ${emulated}, in the log ${logged}${why}`;
  });
  return listed(`${report.outcomeDifferenceCount} calls ended otherwise than in the log`, lines);
}
