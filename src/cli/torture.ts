/**
 * `faultline torture`: locks, counters and whole address spaces under random load, with the checked build.
 *
 * @module
 */
import { availableParallelism } from 'node:os';

import { Command } from 'commander';
import {
  EXIT_GOOD,
  EXIT_INTERRUPTED,
  EXIT_VIOLATION,
  findTarget,
  type GalleryEntry,
  rolesOf,
  runSelftest,
  showGallery,
  TORTURE_TARGETS,
  tortureBusted,
  type TortureOptions,
  type TortureReport,
  type TortureTarget,
  tortureTargets,
} from 'faultline';

import { describeEnvironment, type Environment, environmentLine } from '../report/environment.js';
import { type Progress, startProgress } from '../report/progress.js';
import {
  type GalleryResultFile,
  TORTURE_SCHEMA,
  type TortureResultFile,
} from '../report/torture-result.js';
import {
  bustedLine,
  bustedTable,
  galleryLine,
  galleryText,
  startLine,
  statLines,
  targetTable,
  targetText,
} from '../report/torture-table.js';
import { untilInterrupted } from './interrupt.js';
import { badOptions, fileName, integer, real } from './options.js';
import { checkJsonTarget, outputWidth, say, wantsColor, writeJson } from './output.js';
import { loadDriver, loadLock } from './user-module.js';

/** What the command line gives; commander fills in the defaults. */
export interface TortureCommandOptions {
  readonly list?: boolean;
  readonly busted?: boolean;
  readonly mutants?: boolean;
  readonly selftest?: boolean;
  readonly limit: number;
  readonly cpus: number;
  readonly devices: number;
  readonly nwritersStress: number;
  readonly nreadersStress: number;
  readonly lock?: string;
  readonly driver?: string;
  readonly duration: number;
  readonly longHold: number;
  readonly noise: number;
  readonly stutter: number;
  readonly shuffle: number;
  readonly onoff: number;
  readonly statInterval: number;
  readonly seed: number;
  readonly watchdog: number;
  readonly json?: string;
}

const SEED_MAX = 0x7fffffff;
/** What shows a planted mistake soonest. */
const NOISE_MAX = 9;
const CPUS = Math.max(4, Math.min(16, availableParallelism()));

/** The command, for the program to add. */
export function tortureCommand(): Command {
  const command = new Command('torture')
    .description('let a crew loose on locks, counters and address spaces, with every check on')
    .argument('[targets...]', 'rwsem, …; by default all; --list shows them');
  addLoadOptions(command);
  addRunOptions(command);
  return command
    .optionsGroup('Output:')
    .option(
      '--stat-interval <s>',
      'seconds between two lines of statistics; 0 = none',
      real(0, 1e6),
      60,
    )
    .option('--json <file>', 'write the results as JSON; - for stdout', fileName)
    .addHelpText('after', HELP)
    .action(async (targets: string[], options: TortureCommandOptions) => {
      process.exitCode = await runTortureCommand(command, targets, options);
    });
}

function addLoadOptions(command: Command): void {
  command
    .optionsGroup('What is tortured:')
    .option('--list', 'show the targets, and the mistakes that each must find')
    .option('--busted', 'with each planted mistake of the targets, one by one: each must be found')
    .option(
      '--mutants',
      'the gallery: every planted mistake, here and explored, and who catches it',
    )
    .option('--selftest', "the kernel's selftests of lock orders, as a table")
    .option('--limit <s>', 'for each mistake of the gallery', real(0.1, 3600), 60)
    .option('--cpus <n>', 'CPUs of each target', integer(1, 128), CPUS)
    .option('--devices <n>', 'devices, for targets that have any', integer(0, 16), 2)
    .option('--nwriters-stress <n>', 'writers; -1: half of the CPUs, or all', integer(-1, 128), -1)
    .option('--nreaders-stress <n>', 'readers; -1: the other half', integer(-1, 128), -1)
    .option('--lock <module>', "a module with a lock of one's own, as target `lock`", fileName)
    .option('--driver <module>', "a module with a driver of one's own, for mm", fileName);
}

function addRunOptions(command: Command): void {
  command
    .optionsGroup('How it is tortured:')
    .option('--duration <s>', 'seconds in all; each target gets its share', real(0.1, 1e6), 30)
    .option(
      '--long-hold <ms>',
      'a hold of so long, once in a while; 0 = none',
      real(0, 10_000),
      100,
    )
    .option('--noise <level>', 'random delays at marked points, 0 to 9', integer(0, NOISE_MAX), 2)
    .option(
      '--stutter <s>',
      'run for so long, stand still for a tenth of that; 0 = never',
      real(0, 1e6),
      5,
    )
    .option('--shuffle <s>', 'exchange places every so often; 0 = never', real(0, 1e6), 3)
    .option('--onoff <s>', 'take a CPU offline every so often; 0 = never', real(0, 1e6), 2)
    .option('--seed <n>', 'seed of all random choices', integer(1, SEED_MAX), 1)
    .option('--watchdog <s>', 'a CPU that gets nowhere for so long is stuck', real(0.5, 3600), 4);
}

const HELP = `
Every target is set up on a machine of its own. Safety phase: its members do what they do, at random; they are
delayed at marked points (--noise), hold things for long (--long-hold), all stand still (--stutter), exchange places
(--shuffle: a worker cannot be tied to a core, so what it does moves on to the next), leave and come back (--onoff).
Liveness phase, a tenth of the time: none of that, and everybody must get on. Then all leave, all is taken down,
and nothing may be left.

A rule that is broken, a report of the checked build, a deadlock, a CPU that gets nowhere or is lost, and a leak end
the target's run, with what was violated, where each CPU was, who met whom, and the line that runs it again.
Exit code 1. Each run begins with a lock that is none: if that is not reported, nothing else is believed.

Examples:
  faultline torture --list
  faultline torture rwsem --nwriters-stress 2 --nreaders-stress 6 --duration 10
  faultline torture --duration 300 --cpus 8
  faultline torture lock --lock my-lock.mjs`;

async function runTortureCommand(
  command: Command,
  names: readonly string[],
  options: TortureCommandOptions,
): Promise<number> {
  const { json } = options;
  if (options.list === true) {
    say(targetTable(TORTURE_TARGETS, lookOf(json)), json);
    return EXIT_GOOD;
  }
  if (options.selftest === true) return showSelftest(json);
  const targets = chooseTargets(names, options);
  checkJsonTarget(json, { '--lock': options.lock, '--driver': options.driver });
  const torture = await tortureOptions(
    command,
    options.busted === true ? 1 : targets.length,
    options,
  );
  for (const target of targets) rolesOf(target, torture); // what cannot be run is said before anything is
  const environment = describeEnvironment('wasm', options.cpus);
  if (options.mutants === true) return showMutants(torture, environment, options);
  say(`${environmentLine(environment)}\n`, json);
  const report = await runAll(targets, torture, options);
  if (!report.canary.reported && !report.interrupted) say(canaryUnseen(report.canary), json);
  if (options.busted === true) say(bustedTable(report.results, lookOf(json)), json);
  const file: TortureResultFile = {
    schema: TORTURE_SCHEMA,
    environment,
    options: { ...options },
    ...report,
  };
  if (json !== undefined) writeJson(json, file);
  return options.busted === true ? bustedExitCode(report) : tortureExitCode(report);
}

function canaryUnseen({ instead }: TortureReport['canary']): string {
  const said = instead === undefined ? '' : ` (its run said: ${instead})`;
  return `the canary, a lock that is none, was not reported${said}: what this run does not report means nothing`;
}

function lookOf(json: string | undefined): { readonly color: boolean; readonly width: number } {
  return { color: wantsColor(json), width: outputWidth(json) };
}

/** @throws FaultlineError */
function chooseTargets(
  names: readonly string[],
  { lock }: TortureCommandOptions,
): readonly TortureTarget[] {
  if (names.length === 0) return lock === undefined ? TORTURE_TARGETS : [findTarget('lock')];
  const targets = [...new Set(names)].map(findTarget);
  const asksForLock = names.includes('lock');
  if (asksForLock && lock === undefined) throw badOptions('target lock needs --lock MODULE');
  if (!asksForLock && lock !== undefined) throw badOptions('--lock is for target lock');
  return targets;
}

async function tortureOptions(
  command: Command,
  targets: number,
  options: TortureCommandOptions,
): Promise<TortureOptions> {
  const stallMs = options.watchdog * 1000;
  const { cpus, devices, nwritersStress, nreadersStress, seed } = options;
  const isShow = options.busted === true || options.mutants === true;
  const isGiven = command.getOptionValueSource('noise') === 'cli';
  const noise = isShow && !isGiven ? NOISE_MAX : options.noise;
  return {
    config: {
      cpus,
      devices,
      nwritersStress,
      nreadersStress,
      longHoldMs: options.longHold,
      noise,
      seed,
    },
    timing: {
      durationMs: (options.duration * 1000) / targets,
      stutterMs: options.stutter * 1000,
      shuffleMs: options.shuffle * 1000,
      onoffMs: options.onoff * 1000,
    },
    stallMs,
    statIntervalMs: options.statInterval * 1000,
    commandFor: (target) => commandLine(command, target),
    ...(options.driver !== undefined && { driver: await loadDriver(options.driver, stallMs) }),
    ...(options.lock !== undefined && { lock: await loadLock(options.lock, stallMs) }),
    signal: untilInterrupted(),
  };
}

/** The line that runs one target again: what was given, and what the others do not show of it. */
function commandLine(command: Command, target: string): string {
  const given = command.options.flatMap((option) => {
    const name = option.attributeName();
    if (name === 'json' || command.getOptionValueSource(name) !== 'cli') return [];
    return [`${option.long ?? ''} ${String(command.getOptionValue(name))}`];
  });
  return ['npx faultline torture', target, ...given].join(' ');
}

/** The parameters with their values, in the kernel's words. */
function parametersOf(roles: readonly string[], options: TortureCommandOptions): string {
  const counts = [...new Set(roles)].map((role) => {
    const name = role === 'writer' || role === 'reader' ? `n${role}s_stress` : `${role}s`;
    return `${name}=${roles.filter((other) => other === role).length}`;
  });
  const { longHold, noise, stutter, shuffle, onoff, statInterval, seed } = options;
  return [
    `seed=${seed}`,
    ...counts,
    `long_hold=${longHold}`,
    `noise=${noise}`,
    `stutter=${stutter}`,
    `shuffle_interval=${shuffle}`,
    `onoff_interval=${onoff}`,
    `stat_interval=${statInterval}`,
  ].join(' ');
}

async function runAll(
  targets: readonly TortureTarget[],
  torture: TortureOptions,
  options: TortureCommandOptions,
): Promise<TortureReport> {
  const { json } = options;
  let progress: Progress = startProgress();
  let parameters = '';
  let at = -1;
  const aside = (text: string): void => {
    progress.stop(); // it would be drawn over what is said now
    say(text, json);
    progress = startProgress();
  };
  try {
    const run = options.busted === true ? tortureBusted : tortureTargets;
    return await run(targets, {
      ...torture,
      onProgress: (done, operations) => {
        const label = at < 0 ? 'canary' : `${targets[at]?.name ?? ''}, ${operations} operations`;
        progress.update((Math.max(0, at) + (at < 0 ? 0 : done)) / targets.length, label);
      },
      onStat: (target, roles) => {
        aside(statLines(target, roles, false).join('\n'));
      },
      onTarget: (target, roles) => {
        at++;
        parameters = parametersOf(roles, options);
        if (options.busted !== true) aside(startLine(target.name, parameters));
      },
      onResult: (result) => {
        if (options.busted === true) aside(bustedLine(result));
        else aside(`${targetText(result, parameters, options.longHold)}\n`);
      },
    });
  } finally {
    progress.stop();
  }
}

/** A violation is a finding; so is a canary that was not reported. */
export function tortureExitCode({ canary, results, interrupted }: TortureReport): number {
  const isGood = results.every(({ verdict }) => verdict !== 'FAILURE');
  if (!isGood) return EXIT_VIOLATION;
  if (interrupted) return EXIT_INTERRUPTED;
  return canary.reported ? EXIT_GOOD : EXIT_VIOLATION;
}

/** Each planted mistake must be found, and the canary. */
function bustedExitCode({ canary, results, interrupted }: TortureReport): number {
  if (interrupted) return EXIT_INTERRUPTED;
  const isGood = canary.reported && results.every(({ verdict }) => verdict === 'FAILURE');
  return isGood ? EXIT_GOOD : EXIT_VIOLATION;
}

/** The gallery: all mistakes must be caught, and the canary. */
async function showMutants(
  torture: TortureOptions,
  environment: Environment,
  options: TortureCommandOptions,
): Promise<number> {
  const { json } = options;
  say(`${environmentLine(environment)}\n`, json);
  let progress = startProgress();
  const gallery = await showGallery({
    ...torture,
    limitSeconds: options.limit,
    onEntry: (entry) => {
      progress.stop();
      say(galleryLine(entry), json);
      progress = startProgress();
    },
    onGallery: (done, all, mutant) => {
      progress.update(done / all, mutant);
    },
  }).finally(() => {
    progress.stop();
  });
  say(galleryText(gallery, lookOf(json)), json);
  const file: GalleryResultFile = {
    schema: TORTURE_SCHEMA,
    environment,
    seed: options.seed,
    ...gallery,
  };
  if (json !== undefined) writeJson(json, file);
  if (gallery.interrupted) return EXIT_INTERRUPTED;
  const isCaught = ({ checked, explore }: GalleryEntry): boolean =>
    checked.detector !== null && explore.detector !== null;
  return gallery.canary.reported && gallery.entries.every(isCaught) ? EXIT_GOOD : EXIT_VIOLATION;
}

/** The table of the lock selftests: every case as it must go. */
async function showSelftest(json: string | undefined): Promise<number> {
  const table = await runSelftest();
  say(table.text, json);
  if (json !== undefined) writeJson(json, { schema: TORTURE_SCHEMA, selftest: table });
  return table.passed === table.cases ? EXIT_GOOD : EXIT_VIOLATION;
}
