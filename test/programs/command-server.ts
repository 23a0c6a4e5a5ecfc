/**
 * The command line without a process for each run: what it is asked for on stdin it does, one after the other.
 *
 * @module
 */
import { createInterface } from 'node:readline';

import { runProgram } from '../../src/cli/program.js';
import { COMMAND_END, type CommandRequest } from '../support/command-protocol.js';

const [node = '', script = ''] = process.argv;

for await (const line of createInterface({ input: process.stdin })) {
  const { args, cwd } = JSON.parse(line) as CommandRequest;
  process.chdir(cwd);
  process.argv = [node, script, ...args];
  process.exitCode = undefined;
  const code = await runProgram();
  process.stdout.write(`${COMMAND_END}${code}\n`);
  process.stderr.write(`${COMMAND_END}\n`);
}
process.exit(0);
