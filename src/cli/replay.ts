/**
 * `faultline replay`: runs a schedule again, and explains it.
 *
 * @module
 */
import { readFileSync, statSync } from 'node:fs';

import { Command } from 'commander';
import {
  type EngineName,
  ENGINES,
  EXIT_GOOD,
  EXIT_INTERRUPTED,
  EXIT_USAGE,
  EXIT_VIOLATION,
  FaultlineError,
  perfettoTrace,
  renderExplanation,
  replaySchedule,
  type ReplayScheduleReport,
} from 'faultline';

import { reasonOf } from '../base/reason.js';
import { describeEnvironment } from '../report/environment.js';
import { EXPLORE_SCHEMA } from '../report/explore-result.js';
import { countOf } from '../report/format.js';
import { LITMUS_SCHEMA } from '../report/litmus-result.js';
import { untilInterrupted } from './interrupt.js';
import { badOptions, fileName, integer, oneOf, real } from './options.js';
import { checkTarget, isSameTarget, outputWidth, say, writeJson, writeTarget } from './output.js';
import { checkProgramModule } from './user-module.js';

interface ReplayCommandOptions {
  readonly program?: string;
  readonly engine: EngineName;
  readonly times: number;
  readonly failure: number;
  readonly all?: boolean;
  readonly watchdog: number;
  readonly perfetto?: string;
  readonly json?: string;
}

const REPLAY_SCHEMA = 'faultline.replay/1';

/** The command, for the program to add. */
export function replayCommand(): Command {
  return new Command('replay')
    .description('run a schedule that `explore` found again, and explain it')
    .argument('<schedule>', 'the schedule, or a file: one with it, or a result of explore --json')
    .option('--program <module>', 'the module with its program, if that is your own', fileName)
    .option('--engine <name>', ENGINES.join(' or '), oneOf(...ENGINES), 'virtual')
    .option('--times <n>', 'run it so often', integer(1, 1e6), 1)
    .option('--failure <n>', 'which of the failures of a result', integer(1, 1000), 1)
    .option('--all', 'show every step')
    .option('--watchdog <s>', 'give up on a run that takes so long', real(1, 3600), 20)
    .option('--perfetto <file>', 'write a trace for ui.perfetto.dev', fileName)
    .option('--json <file>', 'write the explanation as JSON; - for stdout', fileName)
    .addHelpText('after', HELP)
    .action(async (schedule: string, options: ReplayCommandOptions) => {
      process.exitCode = await runReplay(schedule, options);
    });
}

const HELP = `
Exit code 1 if the schedule fails, 0 if it does not.

Examples, with a schedule that explore or litmus printed, or their result:
  faultline replay 'lt-5+M-4@20>1~4e97a0' --all --perfetto trace.json
  faultline replay result.json --failure 2
  faultline replay result.json --engine workers --times 100`;

async function runReplay(given: string, options: ReplayCommandOptions): Promise<number> {
  const { json, perfetto } = options;
  const { text, module = null } = scheduleOf(given, options.failure);
  const program = options.program ?? module;
  const url =
    program === null ? undefined : await checkProgramModule(program, options.watchdog * 1000);
  const inputs = { '--program': options.program, schedule: fileOf(given) };
  checkTarget('--json', json, inputs);
  checkTarget('--perfetto', perfetto, inputs);
  if (perfetto !== undefined && json !== undefined && isSameTarget(perfetto, json)) {
    throw badOptions('--perfetto and --json name the same file');
  }
  const width = outputWidth(json);
  const report = await replaySchedule(text, {
    ...(url !== undefined && { url }),
    engine: options.engine,
    times: options.times,
    all: options.all ?? false,
    stallMs: options.watchdog * 1000,
    signal: untilInterrupted(),
    ...(Number.isFinite(width) && { width }),
  });
  say(replayText(report), json);
  if (perfetto !== undefined) writePerfetto(perfetto, report);
  const environment = describeEnvironment('wasm', 1);
  if (json !== undefined) writeJson(json, { schema: REPLAY_SCHEMA, environment, ...report });
  if (report.failures.length > 0) return EXIT_VIOLATION;
  return report.interrupted ? EXIT_INTERRUPTED : EXIT_GOOD;
}

function writePerfetto(target: string, { explanation }: ReplayScheduleReport): void {
  if (explanation === null) throw badOptions('--perfetto: the schedule does not fail');
  writeTarget('--perfetto', target, JSON.stringify(perfettoTrace(explanation)));
}

function replayText({
  explanation,
  failures,
  outcomes,
  times,
  sameTrace,
  engine,
  schedule,
  interrupted,
}: ReplayScheduleReport): string {
  const lines = explanation === null ? [schedule] : [renderExplanation(explanation), ''];
  for (const { signature, count } of failures) {
    lines.push(`${engine} engine: failed ${count} of ${countOf(times, 'time')} (${signature})`);
  }
  if (failures.length === 0)
    lines.push(`${engine} engine: no failure; ended as ${outcomes.join(', ')}`);
  if (interrupted) lines.push('interrupted; this is what was run until then');
  if (sameTrace !== times) {
    lines.push(
      `note: ${times - sameTrace} of ${countOf(times, 'run')} differed from the recorded one: the code has changed since`,
    );
  }
  return lines.join('\n');
}

/** The name of the file, if that is what was given. */
function fileOf(given: string): string | undefined {
  return statSync(given, { throwIfNoEntry: false })?.isFile() === true ? given : undefined;
}

/** What is to be run. */
interface GivenSchedule {
  readonly text: string;
  /** The module with its program, if the file says so. */
  readonly module?: string;
}

/** The schedule itself, or the one in a file: of a result the `nth` failure. @throws FaultlineError */
function scheduleOf(given: string, nth: number): GivenSchedule {
  const file = fileOf(given);
  if (file === undefined) return { text: given.trim() };
  let text: string;
  try {
    text = readFileSync(file, 'utf8').trim();
  } catch (error) {
    throw badFile(file, `cannot be read: ${reasonOf(error)}`);
  }
  if (!text.startsWith('{')) return { text };
  let result: unknown;
  try {
    result = JSON.parse(text);
  } catch (error) {
    throw badFile(file, `is no JSON: ${reasonOf(error)}`);
  }
  const { schema, module, ...rest } = result as Readonly<Record<string, unknown>>;
  if (schema !== EXPLORE_SCHEMA && schema !== LITMUS_SCHEMA) {
    throw badFile(file, `schema is neither ${EXPLORE_SCHEMA} nor ${LITMUS_SCHEMA}`);
  }
  const failures = schema === EXPLORE_SCHEMA ? rest['failures'] : failuresOf(rest['results']);
  if (!Array.isArray(failures) || failures.length === 0) throw badFile(file, 'failures is empty');
  if (failures.length < nth) throw badFile(file, `it has ${countOf(failures.length, 'failure')}`);
  const { schedule } = (failures[nth - 1] ?? {}) as { schedule?: unknown };
  if (typeof schedule !== 'string') {
    throw badFile(file, `failures[${nth - 1}].schedule is not a text`);
  }
  return { text: schedule, ...(typeof module === 'string' && { module }) };
}

/** What exploring the variants of litmus tests has found. */
function failuresOf(results: unknown): unknown {
  if (!Array.isArray(results)) return undefined;
  return (results as readonly { failure?: unknown }[]).flatMap(({ failure }) => failure ?? []);
}

function badFile(file: string, what: string): FaultlineError {
  return new FaultlineError('FAULTLINE_BAD_SCHEDULE', `${file}: ${what}`, EXIT_USAGE);
}
