/**
 * The process around a run: where its lines go, errors that nobody caught, an end that comes too early.
 *
 * It is set up before the library is loaded, and so takes from it only numbers.
 *
 * @module
 */
import { EXIT_USAGE, EXIT_VIOLATION } from '../base/bug.js';
import { reasonOf } from '../base/reason.js';
import { reportUnexpected } from './unexpected.js';

let isOver = false;
let isReaderGone = false;

/** Ends the process at once. */
export function endNow(code: number): never {
  isOver = true;
  process.exit(code);
}

/** Ends the process when its output is written, also if a module of the user's has timers that go on. */
export function endAfterOutput(code: number): void {
  process.exitCode = code;
  isOver = true;
  // the callback of a write that fails comes before the event that says so
  process.stdout.write('', () => setImmediate(endNow, code));
}

/** Control characters, which a name may have, as `\\x1b`; those between lines and columns stay. */
function printable(text: string): string {
  return text.replace(/[\0-\x08\x0b-\x1f\x7f-\x9f]/g, (control) => {
    return `\\x${control.charCodeAt(0).toString(16).padStart(2, '0')}`;
  });
}

/** A line on stderr. */
export function complain(text: string): void {
  process.stderr.write(`faultline: ${printable(text)}\n`);
}

/**
 * Sets up what happens if output cannot be written. Who reads stdout may have seen enough
 * (`faultline … | head`): the run goes on, for its file and its exit code. On a full disk it ends.
 */
export function watchOutput(): void {
  process.stdout.on('error', (error: NodeJS.ErrnoException) => {
    isReaderGone ||= error.code === 'EPIPE';
    if (isReaderGone) return;
    complain(`stdout cannot be written: ${reasonOf(error)}`);
    endNow(EXIT_USAGE);
  });
  // whoever does not take what we say besides may still want the result
  process.stderr.on('error', () => undefined);
}

/** Sets up what happens to errors that nobody catches: those of timers and promises of a user's module. */
export function watchErrors(): void {
  const end = (error: unknown): void => {
    endNow(reportUnexpected(error, complain));
  };
  process.on('uncaughtException', end);
  process.on('unhandledRejection', end);
}

/** Sets up what is said if something ends the process before the run is over. */
export function watchEnd(): void {
  process.on('exit', (code) => {
    if (isOver) return;
    complain(
      `the process was ended before the run was over, with exit code ${code}: ` +
        'a module that it loaded calls process.exit, or awaits what never comes',
    );
    process.exitCode = EXIT_VIOLATION;
  });
}
