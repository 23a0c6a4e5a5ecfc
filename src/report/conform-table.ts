/**
 * Results of `faultline conform` as people read them: the differences of each case, step by step, and how many
 * cases of each category ended how.
 *
 * @module
 */
import type { Difference } from '../conform/compare.js';
import type { RecordedCase, RecordedStep } from '../conform/corpus.js';
import type { CaseResult } from '../conform/run.js';
import type { CategoryCounts } from './conform-result.js';
import { countOf } from './format.js';
import { textTable } from './table.js';

/** The table of categories, and a line for all. */
export function conformTable(
  categories: Readonly<Record<string, CategoryCounts>>,
  color: boolean,
): string {
  const rows = Object.entries(categories).map(
    ([name, { cases, passed, failed, unsupported }]) =>
      [name, cases, passed, failed, unsupported] as const,
  );
  const sum = (column: 1 | 2 | 3 | 4): number => rows.reduce((all, row) => all + row[column], 0);
  return textTable({
    head: ['category', 'cases', 'passed', 'failed', 'unsupported'],
    colAligns: ['left', 'right', 'right', 'right', 'right'],
    rows: [...rows, ['all', sum(1), sum(2), sum(3), sum(4)]],
    color,
  });
}

/** Which operations are missing, and how many cases wait for each. */
export function unsupportedText(results: readonly CaseResult[]): string {
  const counts = new Map<string, number>();
  for (const { unsupported } of results) {
    if (unsupported !== undefined) counts.set(unsupported, (counts.get(unsupported) ?? 0) + 1);
  }
  const sorted = [...counts].sort(([, one], [, other]) => other - one);
  return sorted.map(([op, count]) => `${op} (${countOf(count, 'case')})`).join(', ');
}

/** What differs in a case; of each step what was done, what Linux did and what was done here. */
export function caseText(recorded: RecordedCase, result: CaseResult, limit: number): string {
  const { differences } = result;
  const shown = differences.slice(0, limit);
  const lines = [`${result.name} (${result.category}): failed`];
  if (recorded.doc !== undefined && recorded.doc !== '') lines.push(`  ${recorded.doc}`);
  let at = -1;
  for (const difference of shown) {
    if (difference.step !== at) {
      const step = recorded.steps[difference.step];
      lines.push(`  step ${difference.step}: ${step === undefined ? '' : stepText(step)}`);
    }
    at = difference.step;
    lines.push(...differenceLines(difference).map((line) => `    ${line}`));
  }
  const left = differences.length - shown.length;
  if (left > 0) lines.push(`  … and ${countOf(left, 'more difference')}`);
  return lines.join('\n');
}

/** Fields of a step that say what was done. */
const TOLD = ['proc', 'at', 'n', 'boff', 'blen', 'id', 'fd', 'off', 'newn', 'to', 'prot', 'flags', 'advice',
  'mode', 'val', 'req', 'owner', 'per', 'dev', 'child', 'kind', 'event', 'action', 'tag']; // prettier-ignore

function stepText(step: RecordedStep): string {
  const told = TOLD.filter((name) => step[name] !== undefined && step[name] !== '');
  const words = told.map((name) => `${name} ${String(step[name])}`);
  return [step.op, words.join(', ')].filter((part) => part !== '').join(' ');
}

function differenceLines({ field, expected, actual }: Difference): string[] {
  if (Array.isArray(expected) && Array.isArray(actual)) {
    const [linux, here] = [expected.map(itemText), actual.map(itemText)];
    return [`${field}: - Linux, + here`, ...lineDiff(linux, here).map((line) => `  ${line}`)];
  }
  return [`${field}: Linux ${valueText(expected)}, here ${valueText(actual)}`];
}

function valueText(value: unknown): string {
  return value === undefined ? 'nothing' : JSON.stringify(value);
}

/** A callback or a run of pages in a line. */
function itemText(item: unknown): string {
  if (typeof item !== 'object' || item === null || Array.isArray(item)) return valueText(item);
  const fields = item as Readonly<Record<string, unknown>>;
  return 'kind' in fields ? eventText(fields) : pagesText(fields);
}

function eventText(event: Readonly<Record<string, unknown>>): string {
  const { kind, id, event: name, start, end, seq, prevSeq, blockable, proc, ...rest } = event;
  const words = [proc, kind, id, name].filter((word) => word !== undefined).map(String);
  if (start !== undefined) words.push(`[${valueText(start)}, ${valueText(end)})`);
  if (seq !== undefined) words.push(`seq ${valueText(seq)} after ${valueText(prevSeq)}`);
  if (blockable === false) words.push('not blockable');
  for (const [field, value] of Object.entries(rest)) words.push(`${field} ${valueText(value)}`);
  return words.join(' ');
}

function pagesText({ n, ...fields }: Readonly<Record<string, unknown>>): string {
  const words = Object.entries(fields).map(([field, value]) => `${field} ${String(value)}`);
  return `${String(n)} × ${words.join(', ')}`;
}

/** The longest list of lines that both have is kept; what only one has is marked. */
function lineDiff(one: readonly string[], other: readonly string[]): string[] {
  const lengths = commonLengths(one, other);
  const lines: string[] = [];
  let [i, j] = [0, 0];
  while (i < one.length || j < other.length) {
    if (i < one.length && one[i] === other[j]) {
      lines.push(`  ${one[i++] ?? ''}`);
      j++;
    } else if (
      j >= other.length ||
      (i < one.length && at(lengths, i + 1, j) >= at(lengths, i, j + 1))
    ) {
      lines.push(`- ${one[i++] ?? ''}`);
    } else {
      lines.push(`+ ${other[j++] ?? ''}`);
    }
  }
  return lines;
}

const at = (table: readonly (readonly number[])[], i: number, j: number): number =>
  table[i]?.[j] ?? 0;

/** For each pair of ends of two lists, the length of the longest list that is part of both. */
function commonLengths(one: readonly string[], other: readonly string[]): number[][] {
  const table = Array.from({ length: one.length + 1 }, () =>
    new Array<number>(other.length + 1).fill(0),
  );
  for (let i = one.length - 1; i >= 0; i--) {
    for (let j = other.length - 1; j >= 0; j--) {
      const row = table[i];
      if (row === undefined) continue;
      const isSame = one[i] === other[j];
      row[j] = isSame
        ? at(table, i + 1, j + 1) + 1
        : Math.max(at(table, i + 1, j), at(table, i, j + 1));
    }
  }
  return table;
}
