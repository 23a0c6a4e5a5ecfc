/**
 * How a log that cannot be understood is reported: one line with file, line and what was expected.
 *
 * @module
 */
import { FaultlineError } from '../../base/bug.js';

export const BAD_TRACE = 'FAULTLINE_BAD_TRACE';

/** Characters of the log shown in a message. */
const SHOWN_MAX = 60;

/** Where in a log something was read. Lines count from 1. */
export interface TracePlace {
  readonly file: string;
  readonly line: number;
}

/** The input is no log that can be replayed: `trace.strace:17: expected …, found "…"`. */
export function badTrace(place: TracePlace, expected: string, found: string): FaultlineError {
  return new FaultlineError(
    BAD_TRACE,
    `${place.file}:${place.line}: expected ${expected}, found ${found}`,
  );
}

/** A piece of the log as a message shows it: quoted, on one line, cut to a readable length. */
export function quoted(text: string): string {
  return JSON.stringify(shortened(text));
}

/** A piece of the log that is digits and signs only: cut to a readable length. */
export function shortened(text: string): string {
  return text.length <= SHOWN_MAX ? text : `${text.slice(0, SHOWN_MAX)}…`;
}
