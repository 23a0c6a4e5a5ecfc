/**
 * The report of a replay as people read it.
 *
 * @module
 */
import type { Latencies } from '../workloads/histogram.js';
import type { ReplayReport } from '../workloads/strace/replay.js';
import { countOf, formatCount, formatNs } from './format.js';
import { textTable } from './table.js';

/** Differences and skipped calls shown; all are in the JSON. */
const SHOWN_MAX = 20;

/** Everything but the environment. */
export function straceReport(report: ReplayReport, color: boolean): string {
  return [
    summary(report),
    callTable(report, color),
    eventTable(report, color),
    deviceLines(report),
    ...counted('not emulated', report.notEmulated),
    ...counted('no calls on memory', report.unknownCalls),
    ...listed(
      'left out',
      report.skipped.map(({ line, name, reason }) => `line ${line}: ${name} ${reason}`),
    ),
    ...listed(
      'replayed, but how they ended is unexplained',
      report.unexplained.map(({ line, name, reason }) => `line ${line}: ${name} ${reason}`),
    ),
    ...differences(report),
  ].join('\n');
}

function summary(report: ReplayReport): string {
  const { file, processes, tasks, addressSpaces, cpus, replayed } = report;
  return (
    `${file}: ${countOf(processes, 'process', 'processes')}, ${countOf(tasks, 'thread')}, ` +
    `${countOf(addressSpaces, 'address space')} on ${countOf(cpus, 'CPU')}; ` +
    `${countOf(replayed, 'call')} in ${report.seconds.toFixed(2)} s (recorded: ${report.recordedSeconds.toFixed(2)} s)`
  );
}

function callTable({ byKind }: ReplayReport, color: boolean): string {
  const rows = Object.entries(byKind).sort(([, a], [, b]) => b - a);
  return textTable({ head: ['call', 'replayed'], colAligns: ['left', 'right'], rows, color });
}

function eventTable({ invalidationsByEvent }: ReplayReport, color: boolean): string {
  const head = ['invalidation, as the devices saw them', 'count'];
  const rows = Object.entries(invalidationsByEvent).filter(([, count]) => count > 0);
  return textTable({ head, colAligns: ['left', 'right'], rows, color });
}

function deviceLines(report: ReplayReport): string {
  const { call, fault } = report;
  return [
    `pages invalidated   ${formatCount(report.pagesInvalidated)}`,
    `device faults       ${formatCount(report.deviceFaults)} (${formatCount(report.deviceFaultsRefused)} refused, ${formatCount(report.retries)} retries)`,
    `device accesses     ${formatCount(report.deviceAccesses)}, of which stale: ${report.staleAccesses}`,
    `a call took         ${latencies(call)}`,
    `a device fault took ${latencies(fault)}`,
  ].join('\n');
}

function latencies({ samples, p50Ns, p99Ns, maxNs }: Latencies): string {
  if (samples === 0) return '-';
  return `${formatNs(p50Ns)} (p50), ${formatNs(p99Ns)} (p99), ${formatNs(maxNs)} (max)`;
}

/** One line: `not emulated: shmat 1, mbind 2`. */
function counted(title: string, calls: ReplayReport['notEmulated']): string[] {
  if (calls.length === 0) return [];
  const shown = calls.slice(0, SHOWN_MAX).map(({ name, count }) => `${name} ${count}`);
  const more = calls.length - SHOWN_MAX;
  return [`${title}: ${shown.join(', ')}${more > 0 ? `, … and ${more} more` : ''}`];
}

function listed(title: string, lines: readonly string[]): string[] {
  if (lines.length === 0) return [];
  const more = lines.length - SHOWN_MAX;
  const rest = more > 0 ? [`  … and ${more} more`] : [];
  return [`${title}:`, ...lines.slice(0, SHOWN_MAX).map((line) => `  ${line}`), ...rest];
}

function differences(report: ReplayReport): string[] {
  if (report.outcomeDifferenceCount === 0) {
    const which = report.unexplained.length === 0 ? 'every call' : 'every other call';
    return [`${which} ended as in the log`];
  }
  const lines = report.outcomeDifferences.map(({ line, call, logged, emulated, unexplained }) => {
    const why = unexplained === undefined ? '' : ` (the log: ${unexplained})`;
    return `${report.file}:${line}: ${call} gave ${emulated}, in the log ${logged}${why}`;
  });
  const calls = countOf(report.outcomeDifferenceCount, 'call');
  return listed(`${calls} ended otherwise than in the log`, lines);
}
