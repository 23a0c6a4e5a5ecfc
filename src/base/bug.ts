/**
 * The two ways a run ends early.
 *
 * A KernelBug is the emulated kernel's panic: state is corrupt, or a rule of the locking protocol was
 * broken. It stops the whole machine with every lock still held, as a panic does; nothing catches it
 * below the worker entry. A FaultlineError is the tool telling its user what is wrong with the input.
 * What a protocol expects to happen is neither: it is a negative error number.
 *
 * @module
 */

/** A violated rule of the emulated kernel. Thrown by `bug`, caught only by the worker entry. */
export class KernelBug extends Error {
  override readonly name = 'KernelBug';
}

/** Ends the machine. Build the message only once the test has failed: `if (bad) bug(…)`. */
export function bug(message: string): never {
  throw new KernelBug(message);
}

/** Exit code of the command line: all is well. */
export const EXIT_GOOD = 0;
/** A rule was broken: a stale access, an outcome that differs, a CPU that died or got nowhere. */
export const EXIT_VIOLATION = 1;
/** Bad usage or input. */
export const EXIT_USAGE = 2;
/** faultline itself failed. */
export const EXIT_INTERNAL = 3;
/** Ended by Ctrl-C, after printing what was measured. */
export const EXIT_INTERRUPTED = 130;

/** Bad input, or a run that failed: one clear line, a stable code, and the exit status to end with. */
export class FaultlineError extends Error {
  override readonly name = 'FaultlineError';

  /** Stable, for programs: `FAULTLINE_BAD_OPTION`. */
  readonly code: string;
  readonly exitCode: number;

  constructor(code: string, message: string, exitCode = EXIT_USAGE, options?: ErrorOptions) {
    super(message, options);
    this.code = code;
    this.exitCode = exitCode;
  }
}
