#!/usr/bin/env node
/**
 * The command `faultline`: parses arguments, runs a command, ends with its exit code.
 *
 * @module
 */
import { Command, CommanderError } from 'commander';

import { EXIT_GOOD, EXIT_INTERNAL, EXIT_USAGE, FaultlineError } from '../base/bug.js';
import { packageVersion } from '../report/environment.js';
import { benchCommand } from './bench.js';

function program(): Command {
  return new Command('faultline')
    .description('an executable Linux HMM: benchmark and stress-test its locking protocol')
    .version(packageVersion())
    .addCommand(benchCommand())
    .showHelpAfterError(false)
    .addHelpText(
      'after',
      '\nExit codes: 0 good, 1 a violation or mismatch, 2 bad usage or input, 3 faultline itself failed, 130 interrupted',
    );
}

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

async function main(): Promise<void> {
  try {
    await configure(program()).parseAsync();
  } catch (error) {
    process.exitCode = report(error);
  }
}

/** Says what went wrong, in a line if it is the user's to mend; returns the exit code. */
function report(error: unknown): number {
  if (error instanceof CommanderError) return error.exitCode === 0 ? EXIT_GOOD : EXIT_USAGE;
  if (error instanceof FaultlineError) {
    process.stderr.write(`faultline: ${error.message}\n`);
    return error.exitCode;
  }
  const text = error instanceof Error ? (error.stack ?? error.message) : String(error);
  process.stderr.write(`faultline: internal error: ${text}\n`);
  return EXIT_INTERNAL;
}

// who reads our output may have seen enough: `faultline … | head`
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code === 'EPIPE') process.exit(process.exitCode ?? EXIT_GOOD);
  throw error;
});

await main();
