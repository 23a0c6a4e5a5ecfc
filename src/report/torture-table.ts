/**
 * What `faultline torture` prints: lines as locktorture's users know them, and the four parts of a violation.
 *
 * @module
 */
import type { Catch, GalleryEntry, GalleryReport } from '../torture/gallery.js';
import type { MemberResult, RoleResult, TargetResult, Violation } from '../torture/result.js';
import type { TortureTarget } from '../torture/target.js';
import { formatNs } from './format.js';
import { textTable } from './table.js';

/** How it is shown. */
export interface TortureLook {
  readonly color: boolean;
  readonly width: number;
}

/** The targets there are. */
export function targetTable(
  targets: readonly TortureTarget[],
  { color, width }: TortureLook,
): string {
  return textTable({
    head: ['target', 'what it is', 'mistakes for --busted'],
    colAligns: ['left', 'left', 'left'],
    rows: targets.map(({ name, title, busted }) => [name, title, (busted ?? []).join(', ')]),
    color,
    ...(Number.isFinite(width) && { width }),
  });
}

/** `rwsem-torture:--- Start of test: nwriters_stress=4 …` */
export function startLine(target: string, parameters: string): string {
  return `${target}-torture:--- Start of test: ${parameters}`;
}

/** What members have done, as locktorture says it at every interval. */
export function statLines(target: string, roles: readonly RoleResult[], failed: boolean): string[] {
  return roles.map((role) => {
    const lopsided = role.max > 2 * role.min ? ' ???' : '';
    const numbers = `Total: ${role.total}  Max/Min: ${role.max}/${role.min}${lopsided}`;
    return `${target}-torture: ${labelOf(role.role)}  ${numbers}   Fail: ${failed ? '1 !!!' : '0'}`;
  });
}

const LABELS: Readonly<Record<string, string>> = { writer: 'Writes:', reader: 'Reads :' };

function labelOf(role: string): string {
  return LABELS[role] ?? `${role.slice(0, 1).toUpperCase()}${role.slice(1)}s:`;
}

/** All that is said at the end of a target. */
export function targetText(result: TargetResult, parameters: string, longHoldMs: number): string {
  const { target, roles, violation, verdict } = result;
  const failed = violation !== null;
  const lines = [
    ...statLines(target, roles, failed),
    ...roles.flatMap((role) => detailLines(target, role)),
    ...operationLines(result),
    ...slowLines(result, longHoldMs),
  ];
  if (violation !== null) lines.push('', ...splatLines(result, violation), '');
  if (!failed && verdict === 'SUCCESS') {
    const phases = `safety ${seconds(result.safetySeconds)}, liveness ${seconds(result.livenessSeconds)}`;
    lines.push(`${target}-torture: ${phases}, nothing leaked`);
  }
  lines.push(`--- ${target}: End of test: ${verdict}: ${parameters}`);
  return lines.join('\n');
}

function detailLines(target: string, role: RoleResult): string[] {
  const { wait, hold } = role;
  const fairness =
    role.members > 1
      ? `Jain index ${role.jainIndex.toFixed(3)}, longest starvation ${formatNs(role.longestStarvationUs * 1000)}`
      : `longest without an operation ${formatNs(role.longestStarvationUs * 1000)}`;
  const times = [
    wait.samples > 0 && `wait ${percentiles(wait)}`,
    hold.samples > 0 && `hold ${percentiles(hold)}`,
  ];
  const said = times.filter((text) => text !== false);
  return [
    ...said.map((text) => `${target}-torture:   ${role.role}s: ${text}`),
    `${target}-torture:   ${role.role}s: ${fairness}`,
  ];
}

function percentiles({ p50Ns, p90Ns, p99Ns, p999Ns, maxNs }: RoleResult['wait']): string {
  const named = [
    ['p50', p50Ns],
    ['p90', p90Ns],
    ['p99', p99Ns],
    ['p99.9', p999Ns],
    ['max', maxNs],
  ] as const;
  return named.map(([name, ns]) => `${name} ${formatNs(ns)}`).join(', ');
}

function operationLines({ target, operations }: TargetResult): string[] {
  const counts = Object.entries(operations).map(([name, count]) => `${name} ${count}`);
  return [`${target}-torture:   operations: ${counts.join(', ')}`];
}

/** A member that went without an operation for much longer than anybody holds anything. */
function slowLines({ target, members }: TargetResult, longHoldMs: number): string[] {
  const limitUs = Math.max(1_000_000, longHoldMs * 1000 * 10);
  const isSlow = ({ longestGapUs }: MemberResult): boolean => longestGapUs > limitUs;
  return members
    .filter(isSlow)
    .map(
      ({ name, longestGapUs }) =>
        `${target}-torture:   note: ${name} went ${formatNs(longestGapUs * 1000)} without an operation`,
    );
}

/** What became of one planted mistake. */
export function bustedLine({ target, mutant, violation }: TargetResult): string {
  const found =
    violation === null
      ? 'NOT FOUND'
      : `found by ${violation.detector} after ${seconds(violation.atSeconds)}: ${violation.what}`;
  return `${target}-torture: ${mutant ?? ''}: ${found}`;
}

/** What became of all planted mistakes. */
export function bustedTable(
  results: readonly TargetResult[],
  { color, width }: TortureLook,
): string {
  return textTable({
    head: ['target', 'mistake', 'found by', 'after'],
    colAligns: ['left', 'left', 'left', 'right'],
    rows: results.map(({ target, mutant, violation }) => [
      target,
      mutant ?? '',
      violation?.detector ?? 'NOT FOUND',
      violation === null ? '' : seconds(violation.atSeconds),
    ]),
    color,
    ...(Number.isFinite(width) && { width }),
  });
}

/** Who catches one planted mistake, and with what words. */
export function galleryLine({ mutant, checked, explore }: GalleryEntry): string {
  const said = (side: string, { where, detector, seconds: after, what }: Catch): string =>
    detector === null
      ? `  ${side}: NOT CAUGHT in ${where}, after ${seconds(after)}`
      : `  ${side}: ${detector} in ${where}, after ${seconds(after)}: ${what}`;
  return [mutant, said('checked', checked), said('explore', explore)].join('\n');
}

/** The mutation scores: each planted mistake, and who catches it. */
export function galleryText(
  { canary, entries }: GalleryReport,
  { color, width }: TortureLook,
): string {
  const cell = ({ detector, seconds: after }: Catch): string =>
    detector === null ? 'NOT CAUGHT' : `${detector}, ${seconds(after)}`;
  const table = textTable({
    head: ['mistake', 'run in', 'checked build', 'explore'],
    colAligns: ['left', 'left', 'left', 'left'],
    rows: entries.map(({ mutant, checked, explore }) => [
      mutant,
      checked.where,
      cell(checked),
      cell(explore),
    ]),
    color,
    ...(Number.isFinite(width) && { width }),
  });
  const score = (side: 'checked' | 'explore'): string => {
    const caught = entries.filter((entry) => entry[side].detector !== null).length;
    return `${caught} of ${entries.length}`;
  };
  return [
    table,
    `mutation score: checked build ${score('checked')}, explore ${score('explore')}`,
    `canary: ${canary.reported ? `reported after ${seconds(canary.seconds)}` : `NOT REPORTED${canary.instead === undefined ? '' : `, but: ${canary.instead}`}`}`,
  ].join('\n');
}

const RULER = '='.repeat(66);

/** What was violated, where everybody was, who met whom, and the line to paste. */
export function splatLines(result: TargetResult, violation: Violation): string[] {
  const { what, invariant, detector, phase, atSeconds, cpus, command } = violation;
  const rule = invariant === null || what.includes(invariant) ? '' : ` (${invariant})`;
  const planted = result.mutant === null ? '' : `, with ${result.mutant} planted`;
  return [
    RULER,
    `BUG: ${what}${rule}`,
    `found by: ${detector}; ${phase} phase, after ${seconds(atSeconds)}; seed ${result.config.seed}${planted}`,
    '',
    'Where each CPU was:',
    ...cpus.flatMap(({ name, doing, stack }) => [
      `  ${name} ${doing}`,
      ...stack.map((frame) => `      ${frame}`),
    ]),
    '',
    violation.evidenceTitle,
    ...violation.evidence.map((line) => `  ${line}`),
    '',
    'To run it again:',
    `  ${command}`,
    RULER,
  ];
}

function seconds(value: number): string {
  return `${value.toFixed(value < 10 ? 2 : 0)} s`;
}
