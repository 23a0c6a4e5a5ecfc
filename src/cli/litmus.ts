/**
 * `faultline litmus`: races of the kernel's protocols, with their mistakes and their mendings, on real workers
 * and under exploration.
 *
 * @module
 */
import { Command } from 'commander';
import {
  EXIT_GOOD,
  EXIT_INTERRUPTED,
  EXIT_VIOLATION,
  LITMUS_TESTS,
  type LitmusChoice,
  type LitmusReport,
  runLitmus,
} from 'faultline';

import { describeEnvironment, environmentLine } from '../report/environment.js';
import { LITMUS_SCHEMA, type LitmusResultFile } from '../report/litmus-result.js';
import {
  AFTER_VIOLATION,
  isAsExpected,
  litmusList,
  type LitmusLook,
  litmusSummary,
  litmusText,
} from '../report/litmus-table.js';
import { startProgress } from '../report/progress.js';
import { untilInterrupted } from './interrupt.js';
import { badOptions, fileName, integer, real } from './options.js';
import { checkJsonTarget, outputWidth, say, wantsColor, writeJson } from './output.js';

interface LitmusCommandOptions {
  readonly list?: boolean;
  readonly variant: string;
  readonly iterations: number;
  readonly explore: number;
  readonly seconds: number;
  readonly seed: number;
  readonly watchdog: number;
  readonly json?: string;
}

const ALL = 'all';
const SEED_MAX = 0x7fffffff;

/** The command, for the program to add. */
export function litmusCommand(): Command {
  return new Command('litmus')
    .description('run races of the protocols, with the mistake and each fix, on real workers')
    .argument('[tests...]', 'LT-n, …; by default all; --list shows them')
    .optionsGroup('What is run:')
    .option('--list', 'show the tests, their variants, and what to expect')
    .option('--variant <name>', `this variant only, or ${ALL}; with --list, too`, ALL)
    .optionsGroup('How it is run:')
    .option('--iterations <n>', 'of each variant at most; see below', integer(1, 1e9), 10_000)
    .option('--seconds <s>', "end a variant's iterations after so long", real(0.01, 1e6), 10)
    .option('--explore <s>', 'explore each variant for so long; 0 = not at all', real(0, 1e6), 1)
    .option('--seed <n>', 'seed of all random choices', integer(1, SEED_MAX), 1)
    .option('--watchdog <s>', 'give up on an iteration that takes so long', real(1, 3600), 5)
    .optionsGroup('Output:')
    .option('--json <file>', 'write the results as JSON; - for stdout', fileName)
    .addHelpText('after', HELP)
    .action(async (tests: string[], options: LitmusCommandOptions) => {
      process.exitCode = await runLitmusCommand(tests, options);
    });
}

const HELP = `
Each variant is run many times on real workers, most of them pushed into the order in which it gets interesting,
and then explored, schedule by schedule. It is unsafe if either shows an outcome that is forbidden, a broken
rule, a deadlock, or a report of lockdep. Where it should be unsafe, nothing was found and nothing explored, it is
undecided; some variants only exploration can show (--list marks them). Exit code 1 if a verdict is not the
expected one; undecided is none.

Fewer iterations than --iterations are run after a violation (${AFTER_VIOLATION}), after a deadlock, and when --seconds
are over. Variants with a planted mistake run in the checked build, which is slower than the parallel one: compare
rates within one build.

Examples:
  faultline litmus --list
  faultline litmus LT-5
  faultline litmus LT-3 --variant retry --iterations 1000000 --seconds 600
  faultline litmus --explore 60 --json litmus.json`;

async function runLitmusCommand(
  ids: readonly string[],
  options: LitmusCommandOptions,
): Promise<number> {
  const { json } = options;
  const choices = choose(ids, options.variant);
  checkJsonTarget(json, {});
  if (options.list === true) {
    list(choices, json);
    return EXIT_GOOD;
  }
  const environment = describeEnvironment('wasm', 1);
  say(`${environmentLine(environment)}\n`, json);
  const report = await withProgress(choices, options);
  say(litmusSummary(report, lookOf(json)), json);
  const file: LitmusResultFile = {
    schema: LITMUS_SCHEMA,
    environment,
    seed: options.seed,
    ...report,
  };
  if (json !== undefined) writeJson(json, file);
  return litmusExitCode(report);
}

function lookOf(json: string | undefined): LitmusLook {
  return { color: wantsColor(json), width: outputWidth(json) };
}

/** The variants that are asked for. @throws FaultlineError if there is no such test or variant */
function choose(ids: readonly string[], name: string): LitmusChoice[] {
  for (const id of ids) {
    if (LITMUS_TESTS.some((test) => isId(test.id, id))) continue;
    throw badOptions(`there is no litmus test ${id}; --list shows those there are`);
  }
  const tests = LITMUS_TESTS.filter(
    ({ id }) => ids.length === 0 || ids.some((asked) => isId(id, asked)),
  );
  const asked = name.toLowerCase();
  const choices = tests.flatMap((test) =>
    test.variants
      .filter((variant) => asked === ALL || variant.name === asked)
      .map((variant) => ({ test, variant })),
  );
  if (choices.length > 0) return choices;
  const where =
    ids.length === 0
      ? 'no litmus test has a variant'
      : `${tests.map(({ id }) => id).join(', ')} ${tests.length === 1 ? 'has' : 'have'} no variant`;
  throw badOptions(`${where} ${name}; --list shows those there are`);
}

const isId = (id: string, asked: string): boolean => id === asked.toUpperCase();

function list(choices: readonly LitmusChoice[], json: string | undefined): void {
  const tests = [...new Set(choices.map(({ test }) => test))].map((test) => ({
    ...test,
    variants: choices.filter((choice) => choice.test === test).map(({ variant }) => variant),
  }));
  say(litmusList(tests, lookOf(json)), json);
  if (json === undefined) return;
  const shown = tests.map(({ id, title, source, variants }) => ({
    id,
    title,
    source,
    variants: variants.map((variant) => ({
      name: variant.name,
      title: variant.title,
      expected: variant.expected,
      onlyExplored: variant.onlyExplored === true,
      program: variant.program.name,
      mutant: variant.mutant ?? null,
    })),
  }));
  writeJson(json, { schema: LITMUS_SCHEMA, tests: shown });
}

async function withProgress(
  choices: readonly LitmusChoice[],
  options: LitmusCommandOptions,
): Promise<LitmusReport> {
  const { json } = options;
  const width = outputWidth(json);
  let progress = startProgress();
  try {
    return await runLitmus(choices, {
      iterations: options.iterations,
      seconds: options.seconds,
      exploreSeconds: options.explore,
      seed: options.seed,
      stallMs: options.watchdog * 1000,
      ...(Number.isFinite(width) && { width }),
      signal: untilInterrupted(),
      onProgress: (done, label) => {
        progress.update(done, label);
      },
      onResult: (result) => {
        progress.stop(); // it would be drawn over what is said now
        say(`${litmusText(result, lookOf(json))}\n`, json);
        progress = startProgress();
      },
    });
  } finally {
    progress.stop();
  }
}

/** A verdict that is not the expected one is a finding; one that could not be reached is none. */
export function litmusExitCode({ results, interrupted }: LitmusReport): number {
  const agrees = results.every((result) => isAsExpected(result) || result.verdict === 'undecided');
  if (!agrees) return EXIT_VIOLATION;
  return interrupted ? EXIT_INTERRUPTED : EXIT_GOOD;
}
