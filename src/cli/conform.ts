/**
 * `faultline conform`: what a real kernel was recorded to do, against what is done here.
 *
 * @module
 */
import { availableParallelism } from 'node:os';

import { Command } from 'commander';
import {
  type CaseResult,
  type ConformOptions,
  EXIT_GOOD,
  EXIT_INTERRUPTED,
  EXIT_VIOLATION,
  loadCorpus,
  type RecordedCase,
  runCorpus,
} from 'faultline';

import {
  CONFORM_SCHEMA,
  type ConformResultFile,
  conformSummary,
} from '../report/conform-result.js';
import { caseText, conformTable, unsupportedText } from '../report/conform-table.js';
import { describeEnvironment, environmentLine } from '../report/environment.js';
import { countOf } from '../report/format.js';
import { startProgress } from '../report/progress.js';
import { untilInterrupted } from './interrupt.js';
import { badOptions, fileName, integer, oneOf, real } from './options.js';
import { checkJsonTarget, say, wantsColor, writeJson } from './output.js';

interface ConformCommandOptions {
  readonly case: readonly string[];
  readonly category: readonly string[];
  readonly tlb?: boolean;
  readonly parallel: number;
  readonly noise: number;
  readonly atomics: ConformOptions['atomics'];
  readonly build: 'parallel' | 'checked';
  readonly watchdog: number;
  readonly differences: number;
  readonly json?: string;
}

/** Cases at the same time where no option says otherwise. */
const PARALLEL_MAX = 4;

/** The command, for the program to add. */
export function conformCommand(): Command {
  return new Command('conform')
    .description('run cases that were recorded on a real kernel, and show what differs')
    .argument('<corpus>', 'the file with the cases', fileName)
    .optionsGroup('What is run:')
    .option('--case <name|glob>', 'cases of that name only; may be repeated', collect, [])
    .option('--category <name>', 'cases of that category only; may be repeated', collect, [])
    .option('--tlb', "also compare what devices with the CPU's page table are told")
    .optionsGroup('How it is run:')
    .option('--parallel <n>', 'cases at the same time', integer(1, 64), defaultParallel())
    .option('--noise <n>', 'tear at so many address spaces beside each case', integer(0, 64), 0)
    .option('--atomics <form>', 'wasm or js', oneOf('wasm', 'js'), 'wasm')
    .option('--build <name>', 'parallel or checked', oneOf('parallel', 'checked'), 'parallel')
    .option('--watchdog <s>', 'give up on a case that goes no further', real(0.1, 3600), 10)
    .optionsGroup('Output:')
    .option('--differences <n>', 'show so many of a case', integer(0, 1e6), 5)
    .option('--json <file>', 'write the results as JSON; - for stdout', fileName)
    .addHelpText('after', HELP)
    .action(async (corpus: string, options: ConformCommandOptions) => {
      process.exitCode = await runConform(corpus, options);
    });
}

const HELP = `
Each case is a list of steps: system calls, loads and stores, and what drivers do. It runs on a machine of its own,
every process and thread on a CPU of its own. It has passed if results, callbacks of notifiers and the state of every
page are those of the recording; where that lists several, any of them. A case with an operation that is not
implemented is unsupported. Exit code 1 if a case has failed.

Examples:
  faultline conform corpus.json
  faultline conform corpus.json --category blocking --json -
  faultline conform corpus.json --case 'thp/*' --differences 20`;

function collect(value: string, before: readonly string[]): string[] {
  return [...before, value];
}

function defaultParallel(): number {
  return Math.min(availableParallelism(), PARALLEL_MAX);
}

async function runConform(path: string, options: ConformCommandOptions): Promise<number> {
  const { json } = options;
  const cases = chosen(loadCorpus(path).cases, options);
  checkJsonTarget(json, { corpus: path });
  const environment = describeEnvironment(options.atomics, options.parallel);
  say(`${environmentLine(environment)}\n`, json);
  const signal = untilInterrupted();
  const results = await withProgress(cases, options, signal);
  const summary = conformSummary(results);
  say(`${conformTable(summary.categories, wantsColor(json))}\n`, json);
  if (summary.unsupported.length > 0) say(`not implemented: ${unsupportedText(results)}`, json);
  const interrupted = results.length < cases.length;
  if (interrupted) say(`interrupted: ${countOf(cases.length - results.length, 'case')} left`, json);
  const file: ConformResultFile = {
    schema: CONFORM_SCHEMA,
    environment,
    corpus: path,
    ...summary,
    interrupted,
  };
  if (json !== undefined) writeJson(json, file);
  if (summary.failed.length > 0) return EXIT_VIOLATION;
  return interrupted ? EXIT_INTERRUPTED : EXIT_GOOD;
}

/** The cases that are asked for. @throws FaultlineError if there are none */
function chosen(
  cases: readonly RecordedCase[],
  { case: names, category: categories }: ConformCommandOptions,
): RecordedCase[] {
  const patterns = names.map(globPattern);
  const found = cases.filter(
    ({ name, category }) =>
      (patterns.length === 0 || patterns.some((pattern) => pattern.test(name))) &&
      (categories.length === 0 || categories.includes(category)),
  );
  if (found.length > 0) return found;
  const known = [...new Set(cases.map(({ category }) => category))].join(', ');
  throw badOptions(`no case is like that; the categories are ${known}`);
}

/** `*` for any text, `?` for any character. */
function globPattern(glob: string): RegExp {
  const escaped = glob.replace(/[.+^${}()|[\]\\]/g, String.raw`\$&`);
  return new RegExp(`^${escaped.replaceAll('*', '.*').replaceAll('?', '.')}$`);
}

async function withProgress(
  cases: readonly RecordedCase[],
  options: ConformCommandOptions,
  signal: AbortSignal,
): Promise<CaseResult[]> {
  const { json, differences } = options;
  const byName = new Map(cases.map((one) => [one.name, one]));
  let progress = startProgress();
  try {
    return await runCorpus(cases, {
      parallel: Math.min(options.parallel, cases.length),
      tlb: options.tlb === true,
      noise: options.noise,
      atomics: options.atomics,
      build: options.build,
      stallMs: options.watchdog * 1000,
      signal,
      onResult: (result, done) => {
        const recorded = byName.get(result.name);
        if (result.outcome === 'failed' && recorded !== undefined) {
          progress.stop(); // it would be drawn over what is said now
          say(`${caseText(recorded, result, differences)}\n`, json);
          progress = startProgress();
        }
        progress.update(done / cases.length, result.name);
      },
    });
  } finally {
    progress.stop();
  }
}
