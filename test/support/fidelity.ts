/**
 * The text of docs/fidelity.md: what is emulated, what is not, and what differs from Linux, from the source and from a
 * run of the recorded cases.
 *
 * @module
 */
import { readdirSync, readFileSync } from 'node:fs';
import { join, relative } from 'node:path';

import { format, resolveConfig } from 'prettier';

import type { Corpus } from '../../src/conform/corpus.js';
import type { CaseResult } from '../../src/conform/run.js';
import { conformSummary } from '../../src/report/conform-result.js';

/** The layers that are the kernel, and the hardware below it; what looks at them deviates from nothing. */
const KERNEL_LAYERS = [
  'machine',
  'debug',
  'sync',
  'deferred',
  'device',
  'notifier',
  'mm',
  'hmm',
  'memremap',
  'process',
  'protocols',
  'drivers',
] as const;

/** Cases of one kind are named if they are so few. */
const NAMED_MAX = 4;

/** What is missing of Linux, by the operation that a recorded case waits for, and what it would take. */
const NEEDED: Readonly<Record<string, readonly [what: string, needs: string]>> = {
  'mmap hugetlb': [
    'Huge pages from a pool of their own (hugetlb).',
    'A pool with reservations; upper levels of the page table that map memory themselves; faults, unmapping, moving ' +
      'and notifier ranges in units of the huge page.',
  ],
  uffd_open: [
    'Faults that another task answers (userfaultfd).',
    'A descriptor that is read and waited at; a fault that gives the mmap lock back and sleeps until it is answered; ' +
      'filling pages in from outside; a mark in entries that keeps writes away.',
  ],
  process_madvise: [
    'Advice about the memory of another process.',
    'Descriptors of processes, and lists of ranges. The advice itself is emulated.',
  ],
  'madvise HWPOISON': [
    'Memory that has failed.',
    'A mark on the frame, which is never handed out again; entries that a fault answers with a signal; taking the ' +
      'page from all who map it, and from the page cache.',
  ],
  'madvise SOFT_OFFLINE': [
    'Memory that is about to fail, and is left in time.',
    'A migration from frame to frame that has no device in it; frames that the allocator gives up.',
  ],
  mremap_special: [
    "Mappings of pages that are the kernel's, such as the vDSO, and may be moved.",
    'A kind of VMA with pages of its own, whose owner is told that it moves.',
  ],
};

/** What no recorded case asks for. */
const BESIDES: readonly (readonly [what: string, needs: string])[] = [
  [
    'Pages of equal contents that are merged (KSM): `MADV_MERGEABLE` marks the VMA, and nothing comes of it.',
    'Something that compares pages; a page that VMAs of no common origin map, and its reverse map; replacing a page ' +
      'that has been made read-only, with `CLEAR` around it; and undoing that when a VMA is unmerged.',
  ],
  [
    'Faults that take a lock of the VMA and not the mmap lock (`CONFIG_PER_VMA_LOCK`).',
    'A sequence and a reference for each VMA, a tree that is walked under RCU, and VMAs that are freed after a grace ' +
      'period.',
  ],
  [
    'Memory of several nodes, zones and groups (NUMA, memory cgroups).',
    'An allocator with a choice. Hints of NUMA balancing are made and followed; no page moves for one.',
  ],
];

/** What a file says that it does otherwise than Linux. */
interface Said {
  /** From src. */
  readonly file: string;
  readonly text: string;
}

/** The text of `Deviation` in the comment at the top of a file; it ends with the next word that stands out. */
export function deviationOf(source: string): string | undefined {
  const header = source.slice(0, source.indexOf('*/'));
  const found = /^ \* Deviations? +(\S.*(?:\n \* {9,}\S.*)*)/m.exec(header)?.[1];
  return found?.replace(/\n \* +/g, ' ');
}

/** Files in one order, whatever the host's. */
function filesOf(folder: string): string[] {
  return readdirSync(folder, { recursive: true, encoding: 'utf8' })
    .filter((name) => name.endsWith('.ts'))
    .sort()
    .map((name) => join(folder, name));
}

function deviationsOf(root: string, layer: string): Said[] {
  return filesOf(join(root, 'src', layer)).flatMap((path) => {
    const text = deviationOf(readFileSync(path, 'utf8'));
    return text === undefined ? [] : [{ file: relative(join(root, 'src'), path), text }];
  });
}

/** Each layer and what it is, as ARCHITECTURE.md has them. */
function layerTitles(root: string): Map<string, string> {
  const text = readFileSync(join(root, 'ARCHITECTURE.md'), 'utf8');
  const rows = [...text.matchAll(/^\| `(\w+)` *\| (.*?) *\|$/gm)];
  return new Map(rows.map(([, name = '', what = '']) => [name, what]));
}

const row = (cells: readonly (string | number)[]): string => `| ${cells.join(' | ')} |`;

function tableOf(
  head: readonly string[],
  rows: readonly (readonly (string | number)[])[],
): string[] {
  return [row(head), row(head.map(() => '---')), ...rows.map(row), ''];
}

function figures(results: readonly CaseResult[]): string[] {
  const counts = Object.entries(conformSummary(results).categories);
  const rows = counts.map(
    ([name, { cases, passed, failed, unsupported }]) =>
      [name, cases, passed, failed, unsupported] as const,
  );
  const sum = (column: 1 | 2 | 3 | 4): number => rows.reduce((all, one) => all + one[column], 0);
  const all = ['**all**', sum(1), sum(2), sum(3), sum(4)];
  return tableOf(['category', 'cases', 'passed', 'failed', 'unsupported'], [...rows, all]);
}

/** What cases wait for, the most first. @throws if nobody has said what it would take, or it is there by now */
function missing(results: readonly CaseResult[]): string[] {
  const waiting = new Map<string, string[]>();
  for (const { name, unsupported: op } of results) {
    if (op !== undefined) waiting.set(op, [...(waiting.get(op) ?? []), name]);
  }
  const stray = Object.keys(NEEDED).filter((op) => !waiting.has(op));
  if (stray.length > 0) throw new Error(`no case waits any more for: ${stray.join(', ')}`);
  const sorted = [...waiting].sort(([, one], [, other]) => other.length - one.length);
  const rows = sorted.map(([op, names]) => {
    const [what, needs] = NEEDED[op] ?? [];
    if (what === undefined || needs === undefined) throw new Error(`what does ${op} need?`);
    const list = names.map((name) => `\`${name}\``).join(', ');
    return [what, needs, names.length > NAMED_MAX ? names.length : `${names.length}: ${list}`];
  });
  const besides = BESIDES.map(([what, needs]) => [what, needs, 'none']);
  return tableOf(['what', 'what it would take', 'recorded cases'], [...rows, ...besides]);
}

/** Stars and names that begin with a line are no emphasis. */
function asMarkdown(text: string): string {
  return text.replace(/[*<]|(?<!\w)_|_(?!\w)/g, (mark) => `\\${mark}`);
}

function deviations(root: string, layer: string): string[] {
  const said = deviationsOf(root, layer);
  const lines = said.map(({ file, text }) => `- \`${file}\`: ${asMarkdown(text)}`);
  return said.length === 0 ? [] : [`### ${layer}`, '', ...lines, ''];
}

/**
 * The whole text, as it should be in the file, of the project at `root`; `results` are those of all recorded cases, and
 * `corpus` says where they were recorded.
 * @throws if something that is missing, or no longer is, has not been entered above
 */
export async function fidelityText(
  results: readonly CaseResult[],
  root: string,
  corpus: Corpus,
): Promise<string> {
  const { kernel } = corpus.meta ?? {};
  if (typeof kernel !== 'string') throw new Error('the corpus does not say where it was recorded');
  const titles = layerTitles(root);
  const layers = KERNEL_LAYERS.map((name) => [`\`${name}\``, titles.get(name) ?? '']);
  const lines = [
    '# What is emulated, and how faithfully',
    '',
    '`npm run fidelity` writes this file, from what the source says of itself and from a run of the recorded cases.',
    '',
    '## What is emulated',
    '',
    ...tableOf(['layer', 'what it is'], layers),
    '## Beside a real kernel',
    '',
    `\`test/data/linux\` has cases that were recorded on ${kernel}. Each is run here, and compared step by step: ` +
      'results, callbacks of notifiers with their ranges, events and order, and every page afterwards. ' +
      '`faultline conform` shows the same figures; a case is unsupported if it has an operation that is not emulated.',
    '',
    ...figures(results),
    '## What is not emulated',
    '',
    ...missing(results),
    '## What differs',
    '',
    'Each file says at its top what it does otherwise than Linux, and why.',
    '',
    ...KERNEL_LAYERS.flatMap((layer) => deviations(root, layer)),
  ];
  const path = join(root, 'docs/fidelity.md');
  return format(lines.join('\n'), { ...(await resolveConfig(path)), filepath: path });
}
