/**
 * The command line: parses arguments, runs a command, says what went wrong.
 *
 * It uses the library by its name, as other programs do: so it shares the one copy of it with the driver
 * modules of its users.
 *
 * @module
 */
import { Command, CommanderError } from 'commander';
import {
  EXIT_GOOD,
  EXIT_USAGE,
  EXIT_VIOLATION,
  FaultlineError,
  KernelBug,
  tuneEngine,
} from 'faultline';

import { reasonOf } from '../base/reason.js';
import { packageVersion } from '../report/environment.js';
import { benchCommand } from './bench.js';
import { conformCommand } from './conform.js';
import { exploreCommand } from './explore.js';
import { litmusCommand } from './litmus.js';
import { complain } from './process.js';
import { replayCommand } from './replay.js';
import { tortureCommand } from './torture.js';
import { reportUnexpected } from './unexpected.js';

function program(): Command {
  return new Command('faultline')
    .description('an executable Linux HMM: benchmark and stress-test its locking protocol')
    .version(packageVersion())
    .addCommand(benchCommand())
    .addCommand(conformCommand())
    .addCommand(exploreCommand())
    .addCommand(litmusCommand())
    .addCommand(replayCommand())
    .addCommand(tortureCommand())
    .showHelpAfterError(false)
    .addHelpText('after', HELP);
}

const HELP = `
Exit codes:
  0    all is well
  1    a finding: a stale access, a call that ended otherwise than in its log, a deadlock, locks in orders
       that can become one, a CPU that died or is stuck, an error of a driver, a schedule that fails,
       a litmus test with an unexpected verdict, a violation under torture, a case that a real kernel ran
       otherwise
  2    bad usage or input, or output that cannot be written; one line says what and where
  3    faultline itself failed, or a litmus test lost one of its threads and has no verdict
  130  interrupted; what was measured until then has been printed

Examples:
  faultline bench                        the default benchmark, half a minute
  faultline bench --help                 all options of it
  faultline bench --json result.json     … and keep the result
  faultline explore lt-5                 a small program under every schedule
  faultline litmus LT-5                  a race, with its mistake and its fix, on real workers
  faultline torture --duration 60        locks and counters under random load, with every check on`;

/** Commands inherit neither error handling nor exit codes: set both everywhere. */
function configure(command: Command): Command {
  command.exitOverride();
  command.configureOutput({
    outputError: (text, write) => {
      write(text.replace(/^error: /, 'faultline: '));
    },
  });
  command.commands.forEach(configure);
  return command;
}

/** Runs the command of this process's arguments; the exit code. */
export async function runProgram(): Promise<number> {
  tuneEngine();
  try {
    checkWorkingDirectory();
    await configure(program()).parseAsync();
    return Number(process.exitCode ?? EXIT_GOOD);
  } catch (error) {
    return report(error);
  }
}

/** Workers cannot start without one. @throws FaultlineError */
function checkWorkingDirectory(): void {
  try {
    process.cwd();
  } catch (error) {
    const message = `the working directory cannot be used: ${reasonOf(error)}`;
    throw new FaultlineError('FAULTLINE_BAD_DIRECTORY', message, EXIT_USAGE);
  }
}

/** Says what went wrong, in a line if it is the user's to mend; returns the exit code. */
function report(error: unknown): number {
  if (error instanceof CommanderError) return error.exitCode === 0 ? EXIT_GOOD : EXIT_USAGE;
  if (error instanceof FaultlineError) {
    complain(error.message);
    return error.exitCode;
  }
  if (error instanceof KernelBug) {
    complain(`the boot CPU died: KernelBug: ${error.message}`);
    return EXIT_VIOLATION;
  }
  return reportUnexpected(error, complain);
}
