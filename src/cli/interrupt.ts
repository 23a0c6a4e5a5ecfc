/**
 * Ctrl-C: the first ends the measurement, the second the process. Before there is anything to measure, the
 * first does.
 *
 * @module
 */
import { EXIT_INTERRUPTED } from '../base/bug.js';
import { complain, endNow } from './process.js';

const controller = new AbortController();
let isMeasuring = false;

/** Starts to listen to SIGINT and SIGTERM, until the process ends. */
export function watchSignals(): void {
  process.on('SIGINT', onSignal);
  process.on('SIGTERM', onSignal);
}

/** From now on the first signal aborts what is returned. */
export function untilInterrupted(): AbortSignal {
  isMeasuring = true;
  return controller.signal;
}

function onSignal(): void {
  if (controller.signal.aborted) endNow(EXIT_INTERRUPTED);
  if (!isMeasuring) {
    complain('interrupted before anything was measured');
    endNow(EXIT_INTERRUPTED);
  }
  // a progress bar has left the cursor in the middle of its line
  if (process.stderr.isTTY) process.stderr.write('\n');
  complain('ending; another signal ends it at once');
  controller.abort();
}
