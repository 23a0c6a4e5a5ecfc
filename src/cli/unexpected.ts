/**
 * Errors that nobody expected: whose they are, and what is said of them.
 *
 * @module
 */
import { EXIT_INTERNAL, EXIT_VIOLATION } from '../base/bug.js';
import { reasonOf } from '../base/reason.js';

/** Where a stack frame is: at the end of its line, with or without parentheses. */
const POSITION = /(?:file:\/\/|\()?(\/[^\s()]+:\d+):\d+\)?$/;
const OWN_CODE = new URL('../../', import.meta.url).pathname;

/**
 * Says one line of an error that comes from a module of the user's, or the whole stack of one of ours;
 * returns the exit code.
 */
export function reportUnexpected(error: unknown, complain: (text: string) => void): number {
  if (!(error instanceof Error)) {
    complain(`a module threw what is no error: ${reasonOf(error)}`);
    return EXIT_VIOLATION;
  }
  const stack = error.stack ?? error.message;
  const place = placeOutside(stack);
  if (place === undefined) {
    complain(`internal error: ${stack}`);
    return EXIT_INTERNAL;
  }
  complain(`${place}: ${error.name}: ${reasonOf(error)}`);
  return EXIT_VIOLATION;
}

/** The innermost frame that is neither ours nor a dependency's: `/path/driver.mjs:12`. */
function placeOutside(stack: string): string | undefined {
  for (const line of stack.split('\n')) {
    const place = /^\s+at /.test(line) ? POSITION.exec(line)?.[1] : undefined;
    if (place === undefined) continue;
    if (!place.startsWith(OWN_CODE) && !place.includes('/node_modules/')) return place;
  }
  return undefined;
}
