/**
 * How a test file and its process for commands (test/programs/command-server.ts) talk: a request is a line of JSON on
 * stdin; what the command prints is followed by COMMAND_END, on stdout with the exit code, and a new line.
 *
 * @module
 */

/** One run. */
export interface CommandRequest {
  readonly args: readonly string[];
  /** The working directory. */
  readonly cwd: string;
}

/** What ends the output of a run; no run prints it. */
export const COMMAND_END = '\0end of the run ';
