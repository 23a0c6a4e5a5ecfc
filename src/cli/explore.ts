/**
 * `faultline explore`: runs a program under many schedules, and explains the first that fails.
 *
 * @module
 */
import { resolve } from 'node:path';

import { Command, Option } from 'commander';
import {
  type EngineName,
  ENGINES,
  EXIT_GOOD,
  EXIT_INTERRUPTED,
  EXIT_VIOLATION,
  exploreProgram,
  type ExploreReport,
  MUTANTS_TABLE,
  type ProgramRef,
  PROGRAMS,
  STRATEGIES,
  type StrategyName,
} from 'faultline';

import { describeEnvironment, environmentLine } from '../report/environment.js';
import { EXPLORE_SCHEMA, type ExploreResult } from '../report/explore-result.js';
import { exploreText, mutantTable, programTable } from '../report/explore-table.js';
import { startProgress } from '../report/progress.js';
import { untilInterrupted } from './interrupt.js';
import { badOptions, fileName, integer, oneOf, real } from './options.js';
import { checkJsonTarget, outputWidth, say, wantsColor, writeJson } from './output.js';
import { runController } from './outside-controller.js';
import { checkProgramModule } from './user-module.js';

interface ExploreCommandOptions {
  readonly program?: string;
  readonly strategy: StrategyName | 'portfolio';
  readonly engine: EngineName;
  readonly schedules: number;
  readonly seconds: number;
  readonly seed: number;
  readonly depth: number;
  readonly maxPreemptions: number;
  readonly mutant?: string;
  readonly jobs: number;
  readonly watchdog: number;
  readonly json?: string;
  readonly controller?: 'stdio';
  readonly list?: boolean;
}

const SEED_MAX = 0x7fffffff;

/** The command, for the program to add. */
export function exploreCommand(): Command {
  const command = new Command('explore')
    .description('run a small concurrent program under many schedules, down to single accesses')
    .argument('[program]', 'its name; --list shows them');
  return addOptions(command)
    .addHelpText('after', HELP)
    .action(async (name: string | undefined, options: ExploreCommandOptions) => {
      process.exitCode = await runExplore(name, options);
    });
}

function addOptions(command: Command): Command {
  return command
    .optionsGroup('What is explored:')
    .option('--list', 'show the programs and mutants there are')
    .option('--program <module>', "a module with a program of one's own", fileName)
    .option('--mutant <name>', 'with this mistake planted in the kernel')
    .optionsGroup('How it is explored:')
    .option(
      '--strategy <name>',
      `who goes next: ${STRATEGIES.join(', ')}, or a portfolio of them on all cores`,
      oneOf(...STRATEGIES, 'portfolio'),
      'portfolio',
    )
    .option(
      '--engine <name>',
      'virtual: all tasks on one thread; workers: a real thread for each',
      oneOf(...ENGINES),
      'virtual',
    )
    .option('--seconds <s>', 'stop after so long', real(0.01, 1e6), 10)
    .option('--schedules <n>', 'stop after so many; 0 = no limit', integer(0, 1e12), 0)
    .option('--depth <n>', 'pct: orders that a failure takes', integer(1, 16), 3)
    .option(
      '--max-preemptions <n>',
      'bounded: stop beyond so many; -1 = never',
      integer(-1, 1000),
      -1,
    )
    .option('--jobs <n>', 'threads of a portfolio; 0 = one for each core', integer(0, 32), 0)
    .option('--seed <n>', 'seed of all random choices', integer(1, SEED_MAX), 1)
    .option('--watchdog <s>', 'give up on a schedule that takes so long', real(1, 3600), 20)
    .optionsGroup('Output:')
    .option('--json <file>', 'write the result as JSON; - for stdout', fileName)
    .addOption(
      new Option('--controller <how>', 'stdio: another program picks who goes, in lines of JSON')
        .argParser(oneOf('stdio'))
        .conflicts(['strategy', 'engine', 'seconds', 'schedules', 'depth', 'maxPreemptions'])
        .conflicts(['jobs', 'seed', 'json', 'list']),
    );
}

const HELP = `
A program fails if an invariant does not hold at the end, an outcome is forbidden, two accesses race, freed
memory is used, tasks wait for each other, spin for ever, or leave something behind. The failure is made as
small as it can be, and explained: which order of which two operations decides it. Exit code 1.

Examples:
  faultline explore --list
  faultline explore lt-5
  faultline explore lt-5 --mutant M-4
  faultline explore rwsem --strategy dpor
  faultline explore --program my-lock.mjs --seconds 60`;

async function runExplore(
  name: string | undefined,
  options: ExploreCommandOptions,
): Promise<number> {
  const { json } = options;
  if (options.list === true) {
    const color = wantsColor(json);
    say(`${programTable(PROGRAMS, color)}\n\n${mutantTable(MUTANTS_TABLE, color)}`, json);
    return EXIT_GOOD;
  }
  if ((name === undefined) === (options.program === undefined)) {
    throw badOptions(
      name === undefined
        ? 'explore needs the name of a program, or --program MODULE; --list shows the names'
        : `explore takes a program's name or --program MODULE, not both`,
    );
  }
  checkJsonTarget(json, { '--program': options.program });
  const program: ProgramRef =
    options.program === undefined
      ? { name: name ?? '' }
      : { url: await checkProgramModule(options.program, options.watchdog * 1000) };
  if (options.controller !== undefined) return runController(program, options);
  const environment = describeEnvironment('wasm', 1);
  const report = await withProgress(program, options);
  say(`${environmentLine(environment)}\n`, json);
  say(exploreText(report, { color: wantsColor(json), width: outputWidth(json) }), json);
  const module = options.program === undefined ? null : resolve(options.program);
  const result: ExploreResult = { schema: EXPLORE_SCHEMA, environment, module, ...report };
  if (json !== undefined) writeJson(json, result);
  return exitCodeFor(report);
}

async function withProgress(
  program: ProgramRef,
  options: ExploreCommandOptions,
): Promise<ExploreReport> {
  const progress = startProgress();
  try {
    return await exploreProgram(program, {
      strategy: options.strategy,
      engine: options.engine,
      schedules: options.schedules,
      seconds: options.seconds,
      seed: options.seed,
      depth: options.depth,
      maxPreemptions: options.maxPreemptions,
      jobs: options.jobs,
      stallMs: options.watchdog * 1000,
      ...(options.mutant !== undefined && { mutant: options.mutant }),
      signal: untilInterrupted(),
      onProgress: (done, label) => {
        progress.update(done, label);
      },
    });
  } finally {
    progress.stop();
  }
}

function exitCodeFor(report: ExploreReport): number {
  if (report.failures.length > 0) return EXIT_VIOLATION;
  return report.interrupted ? EXIT_INTERRUPTED : EXIT_GOOD;
}
